package bpf

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/eidolon-lisp/eidolon/mapping"
)

// Where a classic filter stands, on kernels without TCX, and how it is told
// from those of others.
const (
	filterName     = "eidolon"
	filterPriority = 4341
	filterHandle   = 1
)

// attachment is the program at the ingress of one interface.
type attachment struct {
	index int
	link  link.Link // nil: a classic filter
}

// attachTCX makes a link; where the kernel has none (before Linux 6.6) its error is
// ebpf.ErrNotSupported.
func attachTCX(index int, prog *ebpf.Program) (link.Link, error) {
	return link.AttachTCX(link.TCXOptions{Interface: index, Program: prog, Attach: ebpf.AttachTCXIngress})
}

// attach puts the program at the ingress of an interface: as a pinned link where
// tcx makes one, else as a filter of the clsact discipline.
func attach(h *netlink.Handle, index int, prog *ebpf.Program, p pins, tcx func(int, *ebpf.Program) (link.Link, error)) (*attachment, error) {
	l, err := tcx(index, prog)
	if err == nil && p != "" {
		if err := l.Pin(p.link(index)); err != nil {
			return nil, errors.Join(fmt.Errorf("pin the link of interface %d: %w", index, err), l.Close())
		}
	}
	if err == nil {
		return &attachment{index, l}, nil
	}
	if !errors.Is(err, ebpf.ErrNotSupported) {
		return nil, fmt.Errorf("attach to interface %d: %w", index, err)
	}
	if err := attachFilter(h, index, prog); err != nil {
		return nil, err
	}
	return &attachment{index: index}, nil
}

// attachFilter adds or replaces the classic filter.
func attachFilter(h *netlink.Handle, index int, prog *ebpf.Program) error {
	qdisc := &netlink.GenericQdisc{QdiscType: "clsact", QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}
	if err := h.QdiscAdd(qdisc); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add the clsact discipline to interface %d: %w", index, err)
	}
	if err := h.FilterReplace(filter(index, prog.FD())); err != nil {
		return fmt.Errorf("add the filter to interface %d: %w", index, err)
	}
	return nil
}

func filter(index, fd int) *netlink.BpfFilter {
	return &netlink.BpfFilter{Fd: fd, Name: filterName, DirectAction: true, FilterAttrs: netlink.FilterAttrs{
		LinkIndex: index, Parent: netlink.HANDLE_MIN_INGRESS, Handle: filterHandle, Priority: filterPriority, Protocol: unix.ETH_P_ALL,
	}}
}

// detach takes the program away.
func (a *attachment) detach(h *netlink.Handle) error {
	if a.link != nil {
		err := a.link.Unpin()
		if errors.Is(err, unix.ENOENT) {
			err = nil
		}
		return errors.Join(err, a.link.Close())
	}
	return detachFilter(h, a.index)
}

func detachFilter(h *netlink.Handle, index int) error {
	err := h.FilterDel(filter(index, 0))
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EINVAL) {
		err = nil
	}
	return err
}

// interfaces returns the indices of those Ethernet interfaces that have one of
// the RLOCs, and those by which the kernel's main table reaches the local EIDs:
// there packets come from hosts. Others do without the kernel plane.
func interfaces(h *netlink.Handle, links []netlink.Link, rlocs []netip.Addr, locals []mapping.EID) ([]int, error) {
	ethernet := make(map[int]bool)
	for _, l := range links {
		// A TUN device has no Ethernet header, and a loopback interface no
		// packets from elsewhere.
		ethernet[l.Attrs().Index] = l.Attrs().EncapType == "ether"
	}
	want := make(map[int]bool)
	for _, f := range []int{unix.AF_INET, unix.AF_INET6} {
		addrs, err := h.AddrList(nil, f)
		if err != nil {
			continue // a kernel without IPv6
		}
		for _, a := range addrs {
			if ip, ok := netip.AddrFromSlice(a.IP); ok && slices.Contains(rlocs, ip.Unmap()) {
				want[a.LinkIndex] = true
			}
		}
		routes, err := h.RouteList(nil, f)
		if err != nil {
			return nil, fmt.Errorf("list the routes: %w", err)
		}
		for _, r := range routes {
			if !reaches(&r, locals) {
				continue
			}
			want[r.LinkIndex] = true
			for _, hop := range r.MultiPath {
				want[hop.LinkIndex] = true
			}
		}
	}
	var list []int
	for i := range want {
		if ethernet[i] {
			list = append(list, i)
		}
	}
	slices.Sort(list)
	return list, nil
}

// virtual returns the links that may hand packets on without having computed the
// checksums that their sender has left to the device: those between namespaces
// and virtual machines, and what stands on them.
func virtual(links []netlink.Link) map[int]bool {
	const driver = "virtio_net"
	found := make(map[int]bool)
	for again := true; again; {
		again = false
		for _, l := range links {
			a := l.Attrs()
			if found[a.Index] {
				continue
			}
			switch l.Type() {
			case "veth", "netkit", "bridge", "tuntap", "openvswitch", "ifb", "dummy":
			case "device":
				target, err := os.Readlink("/sys/class/net/" + a.Name + "/device/driver")
				if err != nil || filepath.Base(target) != driver {
					continue
				}
			default:
				if !found[a.ParentIndex] {
					continue
				}
			}
			found[a.Index], again = true, true
		}
	}
	return found
}

// reaches reports whether a route other than a default route leads to a part of
// a local EID.
func reaches(r *netlink.Route, locals []mapping.EID) bool {
	if r.Dst == nil {
		return false
	}
	ip, ok := netip.AddrFromSlice(r.Dst.IP)
	bits, _ := r.Dst.Mask.Size()
	if !ok || bits == 0 {
		return false
	}
	p := netip.PrefixFrom(ip.Unmap(), bits)
	return slices.ContainsFunc(locals, func(e mapping.EID) bool { return e.Prefix.Overlaps(p) })
}
