package runner

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/eidolon-lisp/eidolon/lab/internal/clab"
)

// A node's file system is a tmpfs of its own. The top-level directories of
// the host are bound into it read-only, so that its programs and libraries
// are there; what programs write to or what tells one machine from another
// is the node's own.
var (
	ownDirs = []string{"dev", "etc", "home", "proc", "root", "run", "sys", "tmp", "var", "lost+found", ".lab"}

	// etcFiles are copied from the host: users, and what programs need to run.
	etcFiles = []string{
		"passwd", "group", "protocols", "services", "ethertypes", "ld.so.cache", "ld.so.conf", "ld.so.conf.d",
		"alternatives", "localtime", "os-release", "terminfo", "inputrc", "profile", "bash.bashrc", "shells",
		"iproute2", "login.defs",
	}

	devFiles = []string{"null", "zero", "full", "random", "urandom", "tty", "ptmx"}
)

// Where the programs of the lab are in a node.
const (
	labDir     = "/.lab"
	binDir     = labDir + "/bin"
	appletDir  = labDir + "/applets"
	nodePathEV = binDir + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:" + appletDir
)

// rootBuilder builds a node's file system at root.
type rootBuilder struct {
	root string
	logf func(format string, args ...any)
}

// at is a path of the node while its file system is being built.
func (b *rootBuilder) at(path string) string { return filepath.Join(b.root, path) }

// buildRoot makes the file system of a node and moves the process into it.
// The process must be in a mount namespace of its own.
func buildRoot(n *clab.Node, stateDir, root, hosts string, logf func(string, ...any)) error {
	b := &rootBuilder{root: root, logf: logf}
	// Whatever is mounted from now on stays in this namespace.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("separate the mounts from the host's: %w", err)
	}
	if err := unix.Mount("tmpfs", root, "tmpfs", unix.MS_NOSUID, "mode=0755"); err != nil {
		return fmt.Errorf("mount a tmpfs for the node's root: %w", err)
	}
	for _, step := range []func() error{
		b.hostDirs,
		func() error { return b.etc(n.Name, hosts) },
		b.ownDirs,
		func() error { return b.dev(n.Devices) },
		func() error { return b.kernelDirs() },
		func() error { return b.programs(stateDir) },
		func() error { return b.binds(n.Binds) },
		b.enter,
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func (b *rootBuilder) hostDirs() error {
	entries, err := os.ReadDir("/")
	if err != nil {
		return fmt.Errorf("list the host's root: %w", err)
	}
	for _, e := range entries {
		name := e.Name()
		switch {
		case slices.Contains(ownDirs, name):
		case e.Type()&fs.ModeSymlink != 0: // such as bin -> usr/bin
			target, err := os.Readlink("/" + name)
			if err == nil {
				err = os.Symlink(target, b.at(name))
			}
			if err != nil {
				return fmt.Errorf("copy the link /%s: %w", name, err)
			}
		case e.IsDir():
			if err := os.Mkdir(b.at(name), 0o755); err != nil {
				return err
			}
			if err := bind("/"+name, b.at(name), true); err != nil {
				// A directory that cannot be bound (a dead network mount, say)
				// is no reason to do without the others.
				b.logf("/%s of the host is not shown: %v", name, err)
			}
		}
	}
	return nil
}

func (b *rootBuilder) etc(hostname, hosts string) error {
	if err := os.Mkdir(b.at("etc"), 0o755); err != nil {
		return err
	}
	for _, name := range etcFiles {
		if err := copyTree(filepath.Join("/etc", name), b.at(filepath.Join("etc", name))); err != nil {
			if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
				return fmt.Errorf("copy /etc/%s: %w", name, err)
			}
		}
	}
	for name, content := range map[string]string{
		"hosts":         hosts,
		"hostname":      hostname + "\n",
		"resolv.conf":   "",
		"nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\nservices: files\nprotocols: files\n",
	} {
		if err := os.WriteFile(b.at("etc/"+name), []byte(content), 0o644); err != nil {
			return fmt.Errorf("write /etc/%s: %w", name, err)
		}
	}
	return os.Symlink("/proc/self/mounts", b.at("etc/mtab"))
}

func (b *rootBuilder) ownDirs() error {
	for _, d := range []struct {
		path string
		mode os.FileMode
	}{
		{"root", 0o700}, {"home", 0o755}, {"run", 0o755}, {"tmp", 0o777 | os.ModeSticky}, {"var", 0o755},
		{"var/lib", 0o755}, {"var/log", 0o755}, {"var/cache", 0o755}, {"var/tmp", 0o777 | os.ModeSticky},
		{"run/lock", 0o755}, {"run/netns", 0o755},
	} {
		if err := os.Mkdir(b.at(d.path), 0o755); err != nil {
			return err
		}
		if err := os.Chmod(b.at(d.path), d.mode); err != nil { // not cut by the umask
			return err
		}
	}
	return os.Symlink("../run", b.at("var/run"))
}

func (b *rootBuilder) dev(devices []string) error {
	if err := os.Mkdir(b.at("dev"), 0o755); err != nil {
		return err
	}
	// A mount of its own: the root's tmpfs may be one that forbids devices.
	if err := unix.Mount("tmpfs", b.at("dev"), "tmpfs", unix.MS_NOSUID, "mode=0755"); err != nil {
		return fmt.Errorf("mount /dev: %w", err)
	}
	for _, name := range devFiles {
		if err := b.device("/dev/" + name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	for _, path := range devices {
		if err := b.device(path); err != nil {
			return err
		}
	}
	if !slices.Contains(devices, tunPath) {
		if err := b.device(tunPath); err != nil {
			b.logf("%v", err) // nobody asked for it
		}
	}
	for _, dir := range []string{"dev/pts", "dev/shm"} {
		if err := os.Mkdir(b.at(dir), 0o755); err != nil {
			return err
		}
	}
	if err := bind("/dev/pts", b.at("dev/pts"), false); err != nil {
		b.logf("/dev/pts: %v", err)
	}
	if err := unix.Mount("tmpfs", b.at("dev/shm"), "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=1777"); err != nil {
		return fmt.Errorf("mount /dev/shm: %w", err)
	}
	for name, target := range map[string]string{"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"} {
		if err := os.Symlink(target, b.at("dev/"+name)); err != nil {
			return err
		}
	}
	return nil
}

// device shows a device file of the host in the node. /dev/net/tun is made if
// the host has none and we may.
func (b *rootBuilder) device(path string) error {
	target := b.at(path)
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	_, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) && path == tunPath {
		if merr := unix.Mknod(target, unix.S_IFCHR|0o666, int(unix.Mkdev(10, 200))); merr == nil {
			return nil
		}
	}
	if err == nil {
		err = os.WriteFile(target, nil, 0o644)
	}
	if err == nil {
		err = bind(path, target, false)
	}
	if err != nil {
		return fmt.Errorf("device %s: %w", path, err)
	}
	return nil
}

// kernelDirs mounts /proc and /sys. Where the kernel refuses fresh ones (a
// container that hides parts of its own), the host's must do: what is in
// /proc/sys/net is that of the reader's namespace all the same.
func (b *rootBuilder) kernelDirs() error {
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	for _, m := range []struct {
		name, fstype string
		flags        uintptr
	}{{"proc", "proc", flags}, {"sys", "sysfs", flags | unix.MS_RDONLY}} {
		if err := os.Mkdir(b.at(m.name), 0o555); err != nil {
			return err
		}
		err := unix.Mount(m.fstype, b.at(m.name), m.fstype, m.flags, "")
		if err == nil {
			continue
		}
		b.logf("a fresh /%s is refused (%v); the host's is shown", m.name, err)
		if err := bind("/"+m.name, b.at(m.name), false); err != nil {
			return fmt.Errorf("/%s: %w", m.name, err)
		}
	}
	return nil
}

func (b *rootBuilder) programs(stateDir string) error {
	for target, source := range map[string]string{binDir: "bin", appletDir: "applets"} {
		if err := os.MkdirAll(b.at(target), 0o755); err != nil {
			return err
		}
		if err := bind(filepath.Join(stateDir, source), b.at(target), true); err != nil {
			return fmt.Errorf("show the lab's programs: %w", err)
		}
	}
	return nil
}

func (b *rootBuilder) binds(binds []clab.Bind) error {
	for _, m := range binds {
		if err := b.bindOne(m); err != nil {
			return fmt.Errorf("%s: bind %s to %s: %w", m.At, m.Source, m.Target, err)
		}
	}
	return nil
}

func (b *rootBuilder) bindOne(m clab.Bind) error {
	info, err := os.Stat(m.Source)
	if err != nil {
		return err
	}
	target := b.at(m.Target)
	if _, err := os.Stat(target); errors.Is(err, fs.ErrNotExist) {
		if info.IsDir() {
			err = os.MkdirAll(target, 0o755)
		} else if err = os.MkdirAll(filepath.Dir(target), 0o755); err == nil {
			err = os.WriteFile(target, nil, 0o644)
		}
		if errors.Is(err, unix.EROFS) {
			return errors.New("the target does not exist and its directory is the host's, which nodes do not change; choose a target under /etc, /run, /var, /root or /tmp")
		}
		if err != nil {
			return err
		}
	}
	return bind(m.Source, target, m.ReadOnly)
}

// enter makes the tree the root of the process and leaves the host's behind.
func (b *rootBuilder) enter() error {
	if err := os.Chdir(b.root); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("change the root: %w", err)
	}
	// The old root is stacked on the new one now.
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leave the host's root: %w", err)
	}
	return os.Chdir("/")
}

// bind shows source at target, with all that is mounted below it.
func bind(source, target string, readOnly bool) error {
	if err := unix.Mount(source, target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	if !readOnly {
		return nil
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	err := unix.MountSetattr(unix.AT_FDCWD, target, unix.AT_RECURSIVE, &attr)
	if err == nil || !errors.Is(err, unix.ENOSYS) {
		return wrapIf(err, "make read-only")
	}
	// Before Linux 5.12 only the mount itself can be changed; what it has
	// inherited must be repeated.
	var st unix.Statfs_t
	if err := unix.Statfs(target, &st); err != nil {
		return fmt.Errorf("make read-only: %w", err)
	}
	const keep = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME | unix.MS_NODIRATIME | unix.MS_RELATIME
	flags := uintptr(st.Flags) & keep
	return wrapIf(unix.Mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|flags, ""), "make read-only")
}

func wrapIf(err error, doing string) error {
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return nil
}

// copyTree copies a file, a link, or a directory of such.
func copyTree(from, to string) error {
	info, err := os.Lstat(from)
	if err != nil {
		return err
	}
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		target, err := os.Readlink(from)
		if err != nil {
			return err
		}
		return os.Symlink(target, to)
	case info.IsDir():
		if err := os.Mkdir(to, 0o755); err != nil {
			return err
		}
		entries, err := os.ReadDir(from)
		if err != nil {
			return err
		}
		for _, e := range entries {
			err := copyTree(filepath.Join(from, e.Name()), filepath.Join(to, e.Name()))
			if err != nil && !errors.Is(err, fs.ErrPermission) {
				return err
			}
		}
		return nil
	case info.Mode().IsRegular():
		b, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		return os.WriteFile(to, b, 0o644)
	}
	return nil
}

// hostsFile writes the hosts file of the topology: all addresses that exec
// lines give to nodes, in their order, by the name of the node.
func hostsFile(top *clab.Topology) string {
	var b strings.Builder
	b.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n")
	for _, n := range top.Nodes {
		addrs := n.Addresses()
		slices.SortStableFunc(addrs, func(x, y clab.Address) int {
			return cmp.Compare(x.Prefix.Addr().BitLen(), y.Prefix.Addr().BitLen())
		})
		for _, a := range addrs {
			fmt.Fprintf(&b, "%s\t%s\n", a.Prefix.Addr(), n.Name)
		}
	}
	return b.String()
}
