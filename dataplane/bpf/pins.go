package bpf

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// LayoutVersion is that of the tables in tables.h and of what is in them. Those
// of another version, or of other sizes, are not adopted: the new program starts
// with empty ones, and the old go with the old program.
const LayoutVersion = 4

// pinRoot is where pins are, one directory for each network namespace.
const pinRoot = "/sys/fs/bpf/eidolon"

// pins is the directory with the pins of this network namespace:
//
//	link-2, link-3     the program's links, by interface index
//	tables-1/          the maps, by the version of their layout
//
// What is pinned lives on when the process is killed.
type pins string

// findPins returns the directory of the calling thread's network namespace, ""
// if there is no BPF file system, and none is to be mounted where it belongs or
// can be.
func findPins(mayMount bool) (pins, error) {
	mount := filepath.Dir(pinRoot)
	there, err := isBPF(mount)
	if err == nil && !there && mayMount {
		// As other programs do that pin something and find none.
		if unix.Mount("bpf", mount, "bpf", 0, "mode=0700") == nil {
			there, err = isBPF(mount)
		}
	}
	if err != nil || !there {
		return "", err
	}
	var ns unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &ns); err != nil {
		return "", fmt.Errorf("find the network namespace: %w", err)
	}
	return pins(filepath.Join(pinRoot, fmt.Sprintf("net-%d", ns.Ino))), nil
}

func isBPF(dir string) (bool, error) {
	var st unix.Statfs_t
	switch err := unix.Statfs(dir, &st); {
	case errors.Is(err, unix.ENOENT):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("look at %s: %w", dir, err)
	}
	return st.Type == unix.BPF_FS_MAGIC, nil
}

func (p pins) tables() string {
	return filepath.Join(string(p), fmt.Sprintf("tables-%d", LayoutVersion))
}

func (p pins) link(index int) string { return filepath.Join(string(p), fmt.Sprintf("link-%d", index)) }

// load loads the programs, with the tables that are pinned if they fit, and
// reports whether they are those of an earlier run.
func (p pins) load(spec *ebpf.CollectionSpec, o *lispObjects) (adopted bool, err error) {
	if p == "" {
		return false, wrapLoad(spec.LoadAndAssign(o, nil))
	}
	if err := os.MkdirAll(p.tables(), 0o700); err != nil {
		return false, fmt.Errorf("make the directory of the pins: %w", err)
	}
	for _, m := range spec.Maps {
		if !strings.HasPrefix(m.Name, ".") { // not the constants of the program
			m.Pinning = ebpf.PinByName
		}
	}
	opts := &ebpf.CollectionOptions{Maps: ebpf.MapOptions{PinPath: p.tables()}}
	there, err := os.ReadDir(p.tables())
	if err != nil {
		return false, fmt.Errorf("read the pins: %w", err)
	}
	err = spec.LoadAndAssign(o, opts)
	if errors.Is(err, ebpf.ErrMapIncompatible) {
		// The old program keeps its tables until it is replaced.
		if err := os.RemoveAll(p.tables()); err != nil {
			return false, fmt.Errorf("remove the pins of other tables: %w", err)
		}
		if err := os.MkdirAll(p.tables(), 0o700); err != nil {
			return false, fmt.Errorf("make the directory of the pins: %w", err)
		}
		there, err = nil, spec.LoadAndAssign(o, opts)
	}
	return len(there) > 0, wrapLoad(err)
}

func wrapLoad(err error) error {
	if err != nil {
		return fmt.Errorf("load the programs of the kernel plane: %w", err)
	}
	return nil
}

// links opens the pinned links. A link whose interface is gone is removed.
func (p pins) links() (map[int]*attachment, error) {
	found := make(map[int]*attachment)
	list, err := os.ReadDir(string(p))
	if p == "" || errors.Is(err, fs.ErrNotExist) {
		return found, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the pins: %w", err)
	}
	for _, f := range list {
		n, ok := strings.CutPrefix(f.Name(), "link-")
		index, err := strconv.Atoi(n)
		if !ok || err != nil {
			continue
		}
		l, err := link.LoadPinnedLink(p.link(index), nil)
		if err != nil {
			return nil, fmt.Errorf("open the pin %s: %w", p.link(index), err)
		}
		a := &attachment{index, l}
		if info, err := l.Info(); err != nil || info.TCX() == nil || int(info.TCX().Ifindex) != index {
			if err := a.detach(nil); err != nil {
				return nil, fmt.Errorf("remove the pin %s: %w", p.link(index), err)
			}
			continue
		}
		found[index] = a
	}
	return found, nil
}

// removeOthers removes the tables of other layouts.
func (p pins) removeOthers() error {
	if p == "" {
		return nil
	}
	dirs, err := filepath.Glob(filepath.Join(string(p), "tables-*"))
	errs := []error{err}
	for _, d := range dirs {
		if d != p.tables() {
			errs = append(errs, os.RemoveAll(d))
		}
	}
	return errors.Join(errs...)
}

// lockPins keeps others away from the pins of all namespaces until unlock is
// called, once or more. Its error is fs.ErrPermission when they are not this
// user's to make.
func lockPins(p pins) (unlock func(), err error) {
	if p == "" {
		return func() {}, nil
	}
	if err := os.MkdirAll(pinRoot, 0o700); err != nil {
		return nil, fmt.Errorf("make the directory of the pins: %w", err)
	}
	d, err := os.Open(pinRoot)
	if err != nil {
		return nil, fmt.Errorf("lock the pins: %w", err)
	}
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("lock the pins: %w", err), d.Close())
	}
	return func() { d.Close() }, nil
}

// sweep removes the pins of namespaces other than that of p that are gone. A
// link ends with its interface, and the interfaces with their namespace, so that
// of one that is gone there is no link at work. Where there never were links,
// nothing can be told and nothing is removed.
func sweep(p pins) error {
	if p == "" {
		return nil
	}
	dirs, err := filepath.Glob(filepath.Join(pinRoot, "net-*"))
	errs := []error{err}
	for _, d := range dirs {
		if d == string(p) {
			continue
		}
		list, err := filepath.Glob(filepath.Join(d, "link-*"))
		errs = append(errs, err)
		gone := len(list) > 0
		for _, f := range list {
			l, err := link.LoadPinnedLink(f, nil)
			if err != nil {
				gone = false // it may be another's that has just started
				continue
			}
			info, err := l.Info()
			if err != nil || info.TCX() == nil || info.TCX().Ifindex != 0 {
				gone = false
			}
			l.Close()
		}
		if gone {
			errs = append(errs, os.RemoveAll(d))
		}
	}
	return errors.Join(errs...)
}

// remove removes all pins.
func (p pins) remove() error {
	if p == "" {
		return nil
	}
	return os.RemoveAll(string(p))
}

// Cleanup takes away what a killed kernel plane has left in this network
// namespace: programs at interfaces, and pins; and the pins of namespaces that
// are gone.
func Cleanup() error {
	p, err := findPins(false)
	if err != nil {
		return err
	}
	unlock, err := lockPins(p)
	if err != nil {
		return err
	}
	defer unlock()
	attached, err := p.links()
	if err != nil {
		return err
	}
	errs := []error{sweep(p)}
	for _, a := range attached {
		errs = append(errs, a.detach(nil))
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return errors.Join(append(errs, fmt.Errorf("open a netlink socket: %w", err))...)
	}
	defer h.Close()
	errs = append(errs, removeFilters(h, nil), p.remove())
	return errors.Join(errs...)
}

// removeFilters removes the classic filters from all interfaces but those to
// keep.
func removeFilters(h *netlink.Handle, keep []int) error {
	links, err := h.LinkList()
	if err != nil {
		return fmt.Errorf("list the interfaces: %w", err)
	}
	var errs []error
	for _, l := range links {
		if i := l.Attrs().Index; !slices.Contains(keep, i) {
			filters, err := h.FilterList(l, netlink.HANDLE_MIN_INGRESS)
			if err != nil {
				continue // it has no place for filters
			}
			for _, f := range filters {
				if b, ok := f.(*netlink.BpfFilter); ok && b.Priority == filterPriority && strings.HasPrefix(b.Name, filterName) {
					errs = append(errs, detachFilter(h, i))
				}
			}
		}
	}
	return errors.Join(errs...)
}
