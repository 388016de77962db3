package runner

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/eidolon-lisp/eidolon/lab/internal/clab"
)

const tunPath = "/dev/net/tun"

// namespaces are those of the keeper: root gets by without a user namespace.
func namespaces() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID}
	if os.Geteuid() != 0 {
		attr.Cloneflags |= unix.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	return attr
}

// probeResult is what the probe says: the step that failed, and how.
type probeResult struct {
	Step  string
	Errno syscall.Errno
}

// Preflight finds out whether this machine lets us play the topology, and
// says what is missing and what to do about it if it does not.
func Preflight(top *clab.Topology) error {
	tun := top.NeedsDevice(tunPath)
	if tun {
		if err := checkTUN(); err != nil {
			return err
		}
	}
	root, err := StateRoot()
	if err != nil {
		return err
	}
	mode := ""
	if tun {
		mode = "tun"
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{probeName, root, mode}
	cmd.SysProcAttr = namespaces()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			return explainNamespaces(err)
		}
		return fmt.Errorf("try out namespaces: %w: %s", err, errs.String())
	}
	var res probeResult
	if err := json.Unmarshal(out.Bytes(), &res); err != nil {
		return fmt.Errorf("try out namespaces: %w", err)
	}
	return explain(res)
}

// runProbe is the program of the probe, run in namespaces like the keeper's.
func runProbe(dir string, tun bool) int {
	res := probeResult{}
	try := func(step string, f func() error) {
		if res.Step != "" {
			return
		}
		if err := f(); err != nil {
			res.Step = step
			errors.As(err, &res.Errno)
		}
	}
	try("mount", func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, "") })
	try("tmpfs", func() error { return unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0700") })
	try("veth", func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "probe0"
		veth := netlink.NewVeth(attrs)
		veth.PeerName = "probe1"
		return netlink.LinkAdd(veth)
	})
	if tun {
		try("tun", func() error { return openTUN(dir) })
	}
	if err := json.NewEncoder(os.Stdout).Encode(res); err != nil {
		return 1
	}
	return 0
}

// openTUN makes a TUN device in our network namespace; dir is a place for the
// device file if the machine has none.
func openTUN(dir string) error {
	path := tunPath
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		path = dir + "/tun"
		if err := unix.Mknod(path, unix.S_IFCHR|0o600, int(unix.Mkdev(10, 200))); err != nil {
			return err
		}
	}
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("probe-tun")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	return unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
}

// checkTUN says what is wrong with /dev/net/tun from where we stand.
func checkTUN() error {
	info, err := os.Stat(tunPath)
	if errors.Is(err, fs.ErrNotExist) {
		if os.Geteuid() == 0 {
			return nil // the probe tries to make one
		}
		return errors.New(`there is no /dev/net/tun, which xtr needs.
Load the driver: sudo modprobe tun; in a container, start it with --device /dev/net/tun`)
	}
	if err != nil {
		return fmt.Errorf("look at %s: %w", tunPath, err)
	}
	f, err := os.OpenFile(tunPath, os.O_RDWR, 0)
	if err == nil {
		f.Close()
		return nil
	}
	if errors.Is(err, fs.ErrPermission) {
		owner := "?"
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			owner = fmt.Sprintf("user %d, group %d", st.Uid, st.Gid)
		}
		return fmt.Errorf(`/dev/net/tun, which xtr needs, is closed to you: mode %04o, %s; you are user %d.
Run the lab as root (sudo), or open the device to all: sudo chmod 0666 /dev/net/tun.
Opening it gives nobody power over the machine's network: who makes a device of it needs CAP_NET_ADMIN in the network namespace concerned`,
			info.Mode().Perm(), owner, os.Geteuid())
	}
	return fmt.Errorf("open %s, which xtr needs: %w\nIf the driver is missing, load it: sudo modprobe tun", tunPath, err)
}

// explain turns the probe's finding into a message; nil if all went well.
func explain(res probeResult) error {
	switch res.Step {
	case "":
		return nil
	case "mount", "tmpfs":
		return explainNamespaces(res.Errno)
	case "veth":
		if res.Errno == unix.EPERM {
			return explainNamespaces(res.Errno)
		}
		return fmt.Errorf("this kernel makes no veth pairs (%w), which the links of the lab are.\nLoad the driver: sudo modprobe veth; or use a kernel with CONFIG_VETH", res.Errno)
	case "tun":
		return fmt.Errorf("this machine makes no TUN device in a namespace (%w), and xtr needs one.\nLoad the driver: sudo modprobe tun; in a container, start it with --device /dev/net/tun", res.Errno)
	}
	return fmt.Errorf("try out namespaces: %s: %w", res.Step, res.Errno)
}

// explainNamespaces says why we have no namespaces.
func explainNamespaces(err error) error {
	if os.Geteuid() == 0 {
		return fmt.Errorf("root may not create namespaces here (%w).\nIn a container, start it with --privileged, or with --cap-add SYS_ADMIN --cap-add NET_ADMIN and without a seccomp profile that forbids unshare and mount", err)
	}
	var reasons []string
	for _, s := range []struct{ path, forbids, why string }{
		{"kernel/apparmor_restrict_unprivileged_userns", "1", "AppArmor keeps programs of ordinary users from using namespaces: sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"},
		{"kernel/unprivileged_userns_clone", "0", "the kernel keeps ordinary users from creating namespaces: sudo sysctl -w kernel.unprivileged_userns_clone=1"},
		{"user/max_user_namespaces", "0", "the number of user namespaces is limited to 0: sudo sysctl -w user.max_user_namespaces=10000"},
	} {
		if b, rerr := os.ReadFile("/proc/sys/" + s.path); rerr == nil && strings.TrimSpace(string(b)) == s.forbids {
			reasons = append(reasons, s.why)
		}
	}
	if len(reasons) == 0 {
		reasons = []string{"in a container, its seccomp profile may forbid it; a kernel needs CONFIG_USER_NS"}
	}
	return fmt.Errorf("an ordinary user may not create namespaces here (%w):\n  %s\nor run the lab as root (sudo)", err, strings.Join(reasons, "\n  "))
}
