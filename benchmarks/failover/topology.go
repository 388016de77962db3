package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/eidolon-lisp/eidolon/internal/netns"
)

// The topology. The site's host hs is behind its router s, which has an uplink
// to each of the providers p1 and p2; c1, c2 and c3 are the core; hr is the
// host of a remote site behind its router r; ms is the map-server. The delay
// is on the two links to c3.
//
//	         p1 --- c1
//	       /        | \
//	hs - s          |  c3 - r - hr
//	       \        | / \
//	         p2 --- c2   ms
const (
	siteBlock   = "10.20.0.0/20" // EID-prefix, or provider-independent prefix
	remoteBlock = "10.30.0.0/24"
	mtu         = 1500
)

var (
	pfx  = netip.MustParsePrefix
	addr = netip.MustParseAddr

	siteHost   = addr("10.20.0.10")
	remoteHost = addr("10.30.0.10")
	// Provider-assigned addresses of the hosts, one from each provider, and
	// what the first becomes when the provider renumbers.
	sitePA    = [2]netip.Addr{addr("198.18.1.130"), addr("198.18.2.130")}
	siteNewPA = addr("198.18.1.146")
	remotePA  = addr("198.18.3.130")
	// The site router's addresses on its uplinks, and what the first becomes.
	siteRLOC    = [2]netip.Addr{addr("198.18.1.2"), addr("198.18.2.2")}
	siteNewRLOC = addr("198.18.1.3")
	providers   = [2]netip.Addr{addr("198.18.1.1"), addr("198.18.2.1")}
	remoteRLOC  = addr("198.18.3.2")
	mapServer   = addr("203.0.113.10")
)

// uplinks are the site router's interfaces, providerNodes what is behind them.
var (
	uplinks       = [2]string{"up1", "up2"}
	providerNodes = [2]string{"p1", "p2"}
	coreNodes     = []string{"c1", "c2", "c3"}
)

type link struct {
	a, aDev string
	aAddr   netip.Prefix
	b, bDev string
	bAddr   netip.Prefix
	delayed bool
}

var links = []link{
	{"hs", "eth0", pfx("10.20.0.10/20"), "s", "host", pfx("10.20.0.1/20"), false},
	{"s", "up1", pfx("198.18.1.2/29"), "p1", "site", pfx("198.18.1.1/29"), false},
	{"s", "up2", pfx("198.18.2.2/29"), "p2", "site", pfx("198.18.2.1/29"), false},
	{"p1", "core", pfx("10.255.1.1/30"), "c1", "p1", pfx("10.255.1.2/30"), false},
	{"p2", "core", pfx("10.255.2.1/30"), "c2", "p2", pfx("10.255.2.2/30"), false},
	{"c1", "c2", pfx("10.255.12.1/30"), "c2", "c1", pfx("10.255.12.2/30"), false},
	{"c1", "c3", pfx("10.255.13.1/30"), "c3", "c1", pfx("10.255.13.2/30"), true},
	{"c2", "c3", pfx("10.255.23.1/30"), "c3", "c2", pfx("10.255.23.2/30"), true},
	{"c3", "r", pfx("198.18.3.1/29"), "r", "up", pfx("198.18.3.2/29"), false},
	{"r", "host", pfx("10.30.0.1/24"), "hr", "eth0", pfx("10.30.0.10/24"), false},
	{"c3", "ms", pfx("203.0.113.9/30"), "ms", "eth0", pfx("203.0.113.10/30"), false},
}

// route is a static one.
type route struct {
	node   string
	dst    netip.Prefix
	via    netip.Addr
	metric int
}

var defaultRoute = pfx("0.0.0.0/0")

// hostRoutes are those that all arms have.
var hostRoutes = []route{
	{"hs", defaultRoute, addr("10.20.0.1"), 0},
	{"hr", defaultRoute, addr("10.30.0.1"), 0},
	{"r", defaultRoute, addr("198.18.3.1"), 0},
	{"ms", defaultRoute, addr("203.0.113.9"), 0},
}

// underlayRoutes carry the providers' own prefixes, for the arms in which the
// site has addresses of them. Nothing here knows the site's own prefix.
var underlayRoutes = []route{
	{"s", defaultRoute, providers[0], 100},
	{"s", defaultRoute, providers[1], 200},
	{"p1", defaultRoute, addr("10.255.1.2"), 0},
	{"p2", defaultRoute, addr("10.255.2.2"), 0},
	{"c1", pfx("198.18.1.0/24"), addr("10.255.1.1"), 0},
	{"c1", pfx("198.18.2.0/24"), addr("10.255.12.2"), 0},
	{"c1", pfx("198.18.3.0/24"), addr("10.255.13.2"), 0},
	{"c1", pfx("203.0.113.8/30"), addr("10.255.13.2"), 0},
	{"c2", pfx("198.18.1.0/24"), addr("10.255.12.1"), 0},
	{"c2", pfx("198.18.2.0/24"), addr("10.255.2.1"), 0},
	{"c2", pfx("198.18.3.0/24"), addr("10.255.23.2"), 0},
	{"c2", pfx("203.0.113.8/30"), addr("10.255.23.2"), 0},
	{"c3", pfx("198.18.1.0/24"), addr("10.255.13.1"), 0},
	{"c3", pfx("198.18.2.0/24"), addr("10.255.23.1"), 0},
}

// paRoutes carry the provider-assigned addresses of hosts behind the routers.
var paRoutes = []route{
	{"p1", pfx("198.18.1.128/28"), siteRLOC[0], 0},
	{"p2", pfx("198.18.2.128/28"), siteRLOC[1], 0},
	{"c3", pfx("198.18.3.128/28"), remoteRLOC, 0},
}

// world is the topology, built.
type world struct {
	ns    map[string]*netns.NS
	wires []*wire
	delay string // what makes it: none, netem, relay
}

// build makes the nodes and links, with a round-trip time through the core.
func build(rtt time.Duration) (*world, error) {
	w := &world{ns: map[string]*netns.NS{}, delay: "none"}
	for _, l := range links {
		for _, n := range []string{l.a, l.b} {
			if w.ns[n] == nil {
				if err := w.addNode(n); err != nil {
					return nil, errors.Join(err, w.close())
				}
			}
		}
		if err := w.join(l, rtt/2); err != nil {
			return nil, errors.Join(fmt.Errorf("link %s-%s: %w", l.a, l.b, err), w.close())
		}
	}
	return w, errors.Join(w.routes(hostRoutes))
}

func (w *world) addNode(name string) error {
	ns, err := netns.New()
	if err != nil {
		return err
	}
	w.ns[name] = ns
	for _, s := range []struct{ key, value string }{
		{"net.ipv4.ip_forward", "1"},
		{"net.ipv4.conf.all.rp_filter", "0"},
		{"net.ipv4.conf.default.rp_filter", "0"},
		{"net.ipv4.conf.all.send_redirects", "0"},
		{"net.ipv4.conf.default.send_redirects", "0"},
		{"net.ipv6.conf.all.disable_ipv6", "1"}, // keeps router solicitations off the counts
	} {
		if err := ns.SetSysctl(s.key, s.value); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// join makes a link. Where it is delayed and the kernel has no netem, a relay
// of ours stands in it.
func (w *world) join(l link, delay time.Duration) error {
	a, b := w.ns[l.a], w.ns[l.b]
	relay := false
	if !l.delayed || delay == 0 {
		if err := netns.Veth(a, l.aDev, b, l.bDev, mtu); err != nil {
			return err
		}
	} else {
		if err := netns.Veth(a, l.aDev, b, l.bDev, mtu); err != nil {
			return err
		}
		err := errors.Join(netem(a, l.aDev, delay), netem(b, l.bDev, delay))
		if relay = err != nil; relay {
			if err := w.withLink(l.a, l.aDev, netlink.LinkDel); err != nil {
				return err
			}
			wire, err := newWire(a, l.aDev, b, l.bDev, delay)
			if err != nil {
				return err
			}
			w.wires = append(w.wires, wire)
			w.delay = "relay"
		} else {
			w.delay = "netem"
		}
	}
	if err := a.AddAddress(l.aDev, l.aAddr); err != nil {
		return err
	}
	return b.AddAddress(l.bDev, l.bAddr)
}

// netem delays what leaves dev, where the kernel can.
func netem(ns *netns.NS, dev string, delay time.Duration) error {
	return ns.Do(func() error {
		l, err := netlink.LinkByName(dev)
		if err != nil {
			return err
		}
		attrs := netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT}
		return netlink.QdiscAdd(netlink.NewNetem(attrs, netlink.NetemQdiscAttrs{Latency: uint32(delay.Microseconds()), Limit: 100_000}))
	})
}

func (w *world) routes(list []route) error {
	for _, r := range list {
		if err := w.addRoute(r); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) addRoute(r route) error {
	err := w.ns[r.node].Do(func() error {
		return netlink.RouteAdd(&netlink.Route{Dst: netns.IPNet(r.dst), Gw: r.via.AsSlice(), Priority: r.metric})
	})
	if err != nil {
		return fmt.Errorf("%s: route %s via %s: %w", r.node, r.dst, r.via, err)
	}
	return nil
}

func (w *world) delRoute(r route) error {
	err := w.ns[r.node].Do(func() error {
		return netlink.RouteDel(&netlink.Route{Dst: netns.IPNet(r.dst), Gw: r.via.AsSlice(), Priority: r.metric})
	})
	if err != nil {
		return fmt.Errorf("%s: delete route %s via %s: %w", r.node, r.dst, r.via, err)
	}
	return nil
}

// filterSources makes the providers drop what a site sends with an address
// that is not theirs, as providers should, and act on carrier at once, as
// routers do.
func (w *world) filterSources() error {
	for _, p := range providerNodes {
		if err := w.ns[p].SetSysctl("net.ipv4.conf.site.rp_filter", "1"); err != nil {
			return err
		}
	}
	for _, n := range append([]string{"p1", "p2"}, coreNodes...) {
		if err := w.ns[n].SetSysctl("net.ipv4.conf.all.ignore_routes_with_linkdown", "1"); err != nil {
			return err
		}
	}
	return nil
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

func (w *world) delAddress(node, dev string, a netip.Prefix) error {
	return w.withLink(node, dev, func(l netlink.Link) error {
		return netlink.AddrDel(l, &netlink.Addr{IPNet: netns.IPNet(a)})
	})
}

// coreRoutes counts the routes of the core's forwarding tables, and those of
// them that lie in the site's own prefix.
func (w *world) coreRoutes() (all, site int, err error) {
	block := pfx(siteBlock)
	for _, n := range coreNodes {
		err := w.ns[n].Do(func() error {
			list, err := netlink.RouteListFiltered(unix.AF_INET, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
			for _, r := range list {
				all++
				if p, ok := prefixOf(r.Dst); ok && block.Overlaps(p) && p.Bits() > 0 {
					site++
				}
			}
			return err
		})
		if err != nil {
			return 0, 0, fmt.Errorf("routes of %s: %w", n, err)
		}
	}
	return all, site, nil
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(n.IP)
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), bits), ok
}

func (w *world) close() error {
	var errs []error
	for _, x := range w.wires {
		errs = append(errs, x.close())
	}
	for _, ns := range w.ns {
		errs = append(errs, ns.Close())
	}
	return errors.Join(errs...)
}
