package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/eidolon-lisp/eidolon/internal/netns"
)

// The path. Hosts have all addresses of their site; the links to them are
// outside of it, so that routers have addresses that no host claims.
//
//	h1 ------------ x1 -------------- core --------------- x2 ------------ h2
//	   192.0.2.0/30    198.51.100.0/30     198.51.100.4/30    192.0.2.8/30
//	   10.1.0.0/16     2001:db8:1::/64     2001:db8:2::/64    10.128.0.0/9
const (
	leftBlock  = "10.1.0.0/16"
	rightBlock = "10.128.0.0/9"
	mtu        = 1500
)

var (
	pfx  = netip.MustParsePrefix
	addr = netip.MustParseAddr

	leftHost, rightHost = addr("10.1.0.10"), addr("10.128.0.10")
	defaultRoutes       = map[bool]netip.Prefix{true: pfx("0.0.0.0/0"), false: pfx("::/0")}
)

// outside is the family of the tunnels' outer addresses.
type outside struct {
	left, right         netip.Addr // of the routers
	leftCore, rightCore netip.Addr
	mapServer           netip.Addr
}

var families = map[int]outside{
	4: {addr("198.51.100.1"), addr("198.51.100.6"), addr("198.51.100.2"), addr("198.51.100.5"), addr("203.0.113.10")},
	6: {addr("2001:db8:1::1"), addr("2001:db8:2::1"), addr("2001:db8:1::2"), addr("2001:db8:2::2"), addr("2001:db8:53::10")},
}

// world is one path, built.
type world struct {
	ns map[string]*netns.NS
}

var nodes = []string{"h1", "x1", "core", "x2", "h2"}

// buildWorld makes the path. The core knows no route to the sites.
func buildWorld() (w *world, err error) {
	w = &world{ns: map[string]*netns.NS{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	for _, n := range nodes {
		ns, err := netns.New()
		if err != nil {
			return nil, err
		}
		w.ns[n] = ns
		for _, s := range []struct{ key, value string }{
			{"net.ipv4.ip_forward", "1"},
			{"net.ipv6.conf.all.forwarding", "1"},
			{"net.ipv4.conf.all.rp_filter", "0"},
			{"net.ipv4.conf.default.rp_filter", "0"},
		} {
			if err := ns.SetSysctl(s.key, s.value); err != nil && !errors.Is(err, os.ErrNotExist) {
				return nil, err
			}
		}
	}
	for _, l := range []struct {
		a, aDev, b, bDev string
		aAddrs, bAddrs   []string
	}{
		{"h1", "eth0", "x1", "site", []string{"192.0.2.2/30"}, []string{"192.0.2.1/30"}},
		{"x1", "up", "core", "left", []string{"198.51.100.1/30", "2001:db8:1::1/64"}, []string{"198.51.100.2/30", "2001:db8:1::2/64"}},
		{"core", "right", "x2", "up", []string{"198.51.100.5/30", "2001:db8:2::2/64"}, []string{"198.51.100.6/30", "2001:db8:2::1/64"}},
		{"x2", "site", "h2", "eth0", []string{"192.0.2.9/30"}, []string{"192.0.2.10/30"}},
	} {
		if err := netns.Veth(w.ns[l.a], l.aDev, w.ns[l.b], l.bDev, mtu); err != nil {
			return nil, err
		}
		for _, a := range l.aAddrs {
			if err := w.ns[l.a].AddAddress(l.aDev, pfx(a)); err != nil {
				return nil, err
			}
		}
		for _, a := range l.bAddrs {
			if err := w.ns[l.b].AddAddress(l.bDev, pfx(a)); err != nil {
				return nil, err
			}
		}
	}
	for _, a := range []string{"203.0.113.10/32", "2001:db8:53::10/128"} {
		if err := w.ns["core"].AddAddress("lo", pfx(a)); err != nil {
			return nil, err
		}
	}
	err = errors.Join(
		w.route("h1", defaultRoutes[true], addr("192.0.2.1"), ""),
		w.route("h2", defaultRoutes[true], addr("192.0.2.9"), ""),
		w.route("x1", pfx(leftBlock), addr("192.0.2.2"), ""),
		w.route("x2", pfx(rightBlock), addr("192.0.2.10"), ""),
		w.own("h1", pfx(leftBlock)), w.own("h2", pfx(rightBlock)),
	)
	for _, f := range families {
		err = errors.Join(err, w.route("x1", defaultRoutes[f.left.Is4()], f.leftCore, ""), w.route("x2", defaultRoutes[f.right.Is4()], f.rightCore, ""))
	}
	return w, err
}

func (w *world) route(node string, dst netip.Prefix, via netip.Addr, dev string) error {
	if err := w.ns[node].AddRoute(dst, via, dev); err != nil {
		return fmt.Errorf("%s: %w", node, err)
	}
	return nil
}

// own gives a node all addresses of a prefix.
func (w *world) own(node string, p netip.Prefix) error {
	return w.withLink(node, "lo", func(l netlink.Link) error {
		return netlink.RouteAdd(&netlink.Route{Dst: netns.IPNet(p), LinkIndex: l.Attrs().Index, Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL, Scope: unix.RT_SCOPE_HOST})
	})
}

func (w *world) withLink(node, dev string, f func(netlink.Link) error) error {
	err := w.ns[node].Do(func() error {
		l, err := netlink.LinkByName(dev)
		if err != nil {
			return err
		}
		return f(l)
	})
	if err != nil {
		return fmt.Errorf("%s: %s: %w", node, dev, err)
	}
	return nil
}

// link says how the links behave that would be wires in life.
type link struct {
	// segmented: the core sends what is larger than a frame in segments of
	// frames, made in software, as a network card would on the wire.
	segmented bool
	// gro: the routers aggregate what they receive from the core, as with a
	// network card; veth does not by itself. VXLAN does, after it has decapsulated:
	// where frames come segmented, it is measured with that and without.
	gro bool
}

// setLink makes the links to the core behave so.
func (w *world) setLink(l link) error {
	size := 65536 // as veth has it
	if l.segmented {
		// Not the switches of single offloads: they differ by what is inside.
		size = mtu + 100
	}
	var errs []error
	for _, dev := range []string{"left", "right"} {
		errs = append(errs, w.withLink("core", dev, func(l netlink.Link) error { return netlink.LinkSetGSOMaxSize(l, size) }),
			// With it veth takes all for whole, and its other end does no GRO.
			w.ns["core"].SetOffload(dev, unix.ETHTOOL_STSO, !l.segmented))
	}
	for _, node := range []string{"x1", "x2"} {
		errs = append(errs, w.ns[node].SetOffload("up", unix.ETHTOOL_SGRO, l.gro))
		if w.withLink(node, vxlanDevice, func(netlink.Link) error { return nil }) == nil {
			errs = append(errs, w.ns[node].SetOffload(vxlanDevice, unix.ETHTOOL_SGRO, l.gro || !l.segmented))
		}
	}
	return errors.Join(errs...)
}

// received returns how many octets and frames the right router got from the
// core.
func (w *world) received() (octets, frames uint64) {
	err := w.withLink("x2", "up", func(l netlink.Link) error {
		if s := l.Attrs().Statistics; s != nil {
			octets, frames = s.RxBytes, s.RxPackets
		}
		return nil
	})
	if err != nil {
		return 0, 0
	}
	return octets, frames
}

func (w *world) close() error {
	var errs []error
	for _, ns := range w.ns {
		errs = append(errs, ns.Close())
	}
	return errors.Join(errs...)
}
