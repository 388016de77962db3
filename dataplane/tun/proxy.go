package tun

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/mapping"
)

// Native forwarding, the routes of a proxy-ITR, and the addresses of a host.
//
// A route of the instance's table that leads to the marker device says that the
// kernel is to go on with its other rules: the rule that looks into the table
// ignores routes to the device's group. A throw route would do the same, but
// outlive the process. The device goes with it, and so do its routes, and the
// site is closed as it was.
const (
	markerDevice = "eidolon-native"
	markerGroup  = 4341
	// maxNative is how many routes of natively-forward, and inside of them, an
	// instance has; what is too much is not forwarded.
	maxNative = 4096
	// nativeInterval is the least time between two looks at the FIB.
	nativeInterval = 20 * time.Millisecond
)

// prioHost is that of the rules toward what a host uses its EIDs for: after
// those that bind RLOCs to uplinks.
const prioHost = 1100

// IFA_F_NODAD: the address can be used at once.
const addrNoDAD = unix.IFA_F_NODAD

// native reports whether an instance has the policy to forward natively.
func native(list []Instance) bool { return len(natively(list)) > 0 }

// natively returns the instances with that policy.
func natively(list []Instance) (iids []uint32) {
	for _, in := range list {
		if in.Native {
			iids = append(iids, in.IID)
		}
	}
	return iids
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// openMarker creates the device that marks routes to be ignored. It is gone
// when the file is closed.
func openMarker() (*os.File, error) {
	fd, err := openTUN()
	if err != nil {
		return nil, err
	}
	ifr, err := unix.NewIfreq(markerDevice)
	if err == nil {
		ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_TUN_EXCL)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("create TUN device %s: %w", markerDevice, err)
	}
	return os.NewFile(uintptr(fd), "/dev/net/tun"), nil
}

// setUpMarker brings the marker device up.
func (s *host) setUpMarker() error {
	if !native(s.instances) {
		return nil
	}
	link, err := s.h.LinkByName(markerDevice)
	if err != nil {
		return fmt.Errorf("find device %s: %w", markerDevice, err)
	}
	_ = s.h.LinkSetIP6AddrGenMode(link, addrGenNone)
	if err := s.h.LinkSetGroup(link, markerGroup); err != nil {
		return fmt.Errorf("set the group of %s: %w", markerDevice, err)
	}
	if err := s.h.LinkSetUp(link); err != nil {
		return fmt.Errorf("bring %s up: %w", markerDevice, err)
	}
	s.marker = link.Attrs().Index
	return nil
}

// attractRoutes returns the routes of a proxy-ITR for instance i in the main
// table, where a routing daemon finds them: to the device, and when that is gone
// to nowhere.
func (s *host) attractRoutes(i, link int) (list []netlink.Route) {
	for _, e := range s.attracted {
		if e.IID != s.instances[i].IID {
			continue
		}
		f := family(e.Prefix.Addr())
		r := netlink.Route{Family: f, Dst: ipNet(e.Prefix), Table: unix.RT_TABLE_MAIN, Protocol: Protocol, Priority: metricDevice, LinkIndex: link}
		if f == unix.AF_INET {
			r.Scope = netlink.SCOPE_LINK
		}
		last := netlink.Route{Family: f, Dst: r.Dst, Table: r.Table, Protocol: Protocol, Priority: metricUnreachable, Type: unix.RTN_UNREACHABLE}
		list = append(list, last, r)
	}
	return list
}

// ownAddress returns the EID of a host in an instance and a family; not valid
// if there is none.
func (s *host) ownAddress(iid uint32, f int) netip.Addr {
	if s.cfg.Host == nil {
		return netip.Addr{}
	}
	for _, e := range s.locals {
		if e.IID == iid && family(e.Prefix.Addr()) == f {
			return e.Prefix.Addr()
		}
	}
	return netip.Addr{}
}

// addAddresses gives the EIDs of a host to the device of their instance, for
// sockets to be bound to.
func (s *host) addAddresses(i int, link netlink.Link) error {
	for _, f := range s.families() {
		a := s.ownAddress(s.instances[i].IID, f)
		if !a.IsValid() {
			continue
		}
		addr := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(a, a.BitLen())), Flags: addrNoDAD}
		if err := s.h.AddrReplace(link, addr); err != nil {
			return fmt.Errorf("add the EID %v to %s: %w", a, link.Attrs().Name, err)
		}
	}
	return nil
}

// hostRules lead what local sockets send to the EID-prefixes of a host into the
// instance's table, whose routes say to use the EID as source. Sockets that are
// bound to an RLOC are led elsewhere before.
func (s *host) hostRules() (list []netlink.Rule) {
	if s.cfg.Host == nil {
		return nil
	}
	for _, e := range s.cfg.Host {
		i := slices.IndexFunc(s.instances, func(in Instance) bool { return in.IID == e.IID })
		f := family(e.Prefix.Addr())
		if i < 0 || !s.ownAddress(e.IID, f).IsValid() {
			continue
		}
		r := *netlink.NewRule()
		r.Family, r.Priority, r.Protocol = f, prioHost, Protocol
		r.Dst, r.Table, r.IifName = ipNet(e.Prefix), s.table+i, "lo"
		if s.instances[i].Native {
			r.SuppressIfgroup = markerGroup
		}
		list = append(list, r)
	}
	return list
}

// nativeRoute is a route that follows the FIB.
type nativeRoute struct {
	iid    uint32
	prefix netip.Prefix
}

// natives keeps the routes of natively-forward.
type natives struct {
	p         *Plane
	installed map[nativeRoute]bool // value: it leads to the marker, not to the plane
	full      bool
}

// runNatives follows the FIB until ctx is done.
func (p *Plane) runNatives(ctx context.Context, changed <-chan struct{}) {
	n := &natives{p: p, installed: make(map[nativeRoute]bool)}
	for {
		n.sync(p.fib.Snapshot(), time.Now())
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(nativeInterval):
		}
	}
}

// sync makes the routes be as the FIB is. What an entry other than
// natively-forward covers inside of one that is leads to the plane again.
func (n *natives) sync(s *dataplane.Snapshot, now time.Time) {
	hole := func(e *dataplane.Entry) bool { return e.Drop() == dataplane.DropNativelyForward }
	policy := make(map[uint32]bool)
	for _, in := range n.p.cfg.Instances {
		policy[in.IID] = in.Native
	}
	want, entries := make(map[nativeRoute]bool), make(map[nativeRoute]*dataplane.Entry)
	holes := new(mapping.Table[struct{}]).Edit(0)
	take := func(e mapping.EID, marker bool) bool {
		r := nativeRoute{e.IID, e.Prefix}
		if len(want) < maxNative || n.installed[r] == marker && len(want) < 2*maxNative {
			want[r] = marker
			return true
		}
		return false
	}
	lost := false
	for eid, e := range s.All() {
		if policy[eid.IID] && !eid.Source.IsValid() && e.Expires().After(now) && hole(e) {
			if !take(eid, true) {
				lost = true
				continue
			}
			holes.Insert(eid, struct{}{})
			entries[nativeRoute{eid.IID, eid.Prefix}] = e
		}
	}
	table := holes.Table()
	if table.Len() > 0 {
		for eid, e := range s.All() {
			if !policy[eid.IID] || hole(e) && !eid.Source.IsValid() {
				continue
			}
			if _, _, inside := table.LookupPrefix(eid); inside {
				want[nativeRoute{eid.IID, eid.Prefix}] = false
			}
		}
	}
	if lost && !n.full {
		n.p.log.Warn("too many negative mappings to forward natively; what is too much is dropped", "limit", maxNative)
	}
	n.full = lost
	for r := range n.installed {
		if _, ok := want[r]; !ok {
			n.change(r, false, false)
		}
	}
	for _, marker := range [...]bool{false, true} { // what must not leave goes first
		for r, to := range want {
			if was, ok := n.installed[r]; to == marker && (!ok || was != to) {
				n.change(r, true, to)
			}
		}
	}
	for r, e := range entries {
		e.SetNative(n.installed[r], now)
	}
}

// change adds or removes a route.
func (n *natives) change(r nativeRoute, add, marker bool) {
	h := n.p.host
	route, err := h.nativeRoute(r, marker)
	if err == nil && add {
		err = h.h.RouteReplace(route)
	} else if err == nil {
		route, err = h.nativeRoute(r, n.installed[r])
		if err == nil {
			err = h.h.RouteDel(route)
		}
		if errors.Is(err, unix.ESRCH) {
			err = nil
		}
	}
	switch {
	case err != nil:
		n.p.log.Warn("a route for native forwarding was not changed", "prefix", r.prefix, "iid", r.iid, "err", err)
	case add:
		n.installed[r] = marker
	default:
		delete(n.installed, r)
	}
}

// nativeRoute returns the kernel's route.
func (s *host) nativeRoute(r nativeRoute, marker bool) (*netlink.Route, error) {
	i := slices.IndexFunc(s.instances, func(in Instance) bool { return in.IID == r.iid })
	f := family(r.prefix.Addr())
	index := s.marker
	if !marker {
		link, err := s.h.LinkByName(s.instances[i].Device)
		if err != nil {
			return nil, err
		}
		index = link.Attrs().Index
	}
	// The metric differs from that of the default route, whose prefix it may have.
	route := &netlink.Route{Family: f, Dst: ipNet(r.prefix), Table: s.table + i, Protocol: Protocol, Priority: metricDevice - 1, LinkIndex: index}
	if f == unix.AF_INET {
		route.Scope = netlink.SCOPE_LINK
	}
	if a := s.ownAddress(r.iid, f); !marker && a.IsValid() {
		route.Src = a.AsSlice()
	}
	return route, nil
}

// addRule adds a rule. netlink.RuleAdd leaves the group away where the table's
// number is larger than 255; then the rule would be another one.
func (s *host) addRule(r *netlink.Rule) error {
	if r.SuppressIfgroup < 0 {
		return s.h.RuleAdd(r)
	}
	req := nl.NewNetlinkRequest(unix.RTM_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
	msg := nl.NewRtMsg()
	msg.Family, msg.Type, msg.Scope, msg.Protocol, msg.Table = uint8(r.Family), nl.FR_ACT_TO_TBL, 0, 0, unix.RT_TABLE_UNSPEC
	req.AddData(msg)
	number := func(attr int, n uint32) {
		req.AddData(nl.NewRtAttr(attr, binary.NativeEndian.AppendUint32(nil, n)))
	}
	prefix := func(attr int, p *net.IPNet, bits *uint8) {
		if p == nil {
			return
		}
		ones, _ := p.Mask.Size()
		*bits = uint8(ones)
		req.AddData(nl.NewRtAttr(attr, p.IP))
	}
	prefix(unix.RTA_SRC, r.Src, &msg.Src_len)
	prefix(unix.RTA_DST, r.Dst, &msg.Dst_len)
	number(nl.FRA_PRIORITY, uint32(r.Priority))
	number(nl.FRA_TABLE, uint32(r.Table))
	number(nl.FRA_SUPPRESS_IFGROUP, uint32(r.SuppressIfgroup))
	req.AddData(nl.NewRtAttr(nl.FRA_PROTOCOL, []byte{r.Protocol}))
	if r.IifName != "" {
		req.AddData(nl.NewRtAttr(nl.FRA_IIFNAME, []byte(r.IifName+"\x00")))
	}
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}
