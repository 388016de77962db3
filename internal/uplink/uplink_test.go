package uplink

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/eidolon-lisp/eidolon/internal/netns"
)

// rig is a router with two uplinks, each to a provider in a namespace of its
// own, and an interface to the site.
type rig struct {
	t                     *testing.T
	router, p1, p2, inner *netns.NS
	states                chan []State
}

func newRig(t *testing.T) *rig {
	ns := netns.Fresh(t, 4)
	r := &rig{t: t, router: ns[0], p1: ns[1], p2: ns[2], inner: ns[3], states: make(chan []State, 64)}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(netns.Veth(r.router, "up1", r.p1, "r", 1500))
	must(netns.Veth(r.router, "up2", r.p2, "r", 1500))
	must(netns.Veth(r.router, "site", r.inner, "r", 1500))
	for dev, a := range map[string]string{"up1": "192.0.2.1/30", "up2": "198.51.100.1/30", "site": "10.1.0.1/24"} {
		must(r.router.AddAddress(dev, netip.MustParsePrefix(a)))
	}
	must(r.router.AddAddress("up2", netip.MustParsePrefix("2001:db8:2::1/64")))
	must(r.p1.AddAddress("r", netip.MustParsePrefix("192.0.2.2/30")))
	must(r.p2.AddAddress("r", netip.MustParsePrefix("198.51.100.2/30")))
	must(r.router.AddRoute(netip.MustParsePrefix("0.0.0.0/0"), netip.MustParseAddr("192.0.2.2"), ""))
	return r
}

// run starts a watcher in the router's namespace.
func (r *rig) run(cfg Config) (initial []State, stop func() error) {
	r.t.Helper()
	var w *Watcher
	if err := r.router.Do(func() (err error) { w, err = Open(cfg); return err }); err != nil {
		r.t.Fatal(err)
	}
	initial = slices.Clone(w.Current())
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- w.Run(ctx, func(s []State) { r.states <- slices.Clone(s) })
	}()
	r.t.Cleanup(cancel)
	return initial, func() error { cancel(); return <-done }
}

// wait returns how long it took until the state of the named uplink is as
// wanted.
func (r *rig) wait(name string, up bool, addrs ...string) time.Duration {
	r.t.Helper()
	var want []netip.Addr
	for _, a := range addrs {
		want = append(want, netip.MustParseAddr(a))
	}
	start, last := time.Now(), []State(nil)
	for deadline := time.After(5 * time.Second); ; {
		select {
		case last = <-r.states:
		case <-deadline:
			r.t.Fatalf("%s is not up %v with %v after 5 s, but %v", name, up, addrs, last)
		}
		for _, s := range last {
			if s.Name == name && s.Up == up && slices.Equal(s.Addrs, want) {
				return time.Since(start)
			}
		}
	}
}

func (r *rig) do(f func() error) {
	r.t.Helper()
	if err := r.router.Do(f); err != nil {
		r.t.Fatal(err)
	}
}

// leaves returns the interface and gateway by which the router sends from src
// to dst.
func (r *rig) leaves(src, dst string) (dev, gw string) {
	r.t.Helper()
	r.do(func() error {
		routes, err := netlink.RouteGetWithOptions(net.ParseIP(dst), &netlink.RouteGetOptions{SrcAddr: net.ParseIP(src)})
		if err != nil || len(routes) == 0 {
			dev = "none"
			return nil
		}
		l, err := netlink.LinkByIndex(routes[0].LinkIndex)
		if err != nil {
			return err
		}
		dev = l.Attrs().Name
		if routes[0].Gw != nil {
			gw = routes[0].Gw.String()
		}
		return nil
	})
	return dev, gw
}

// eventually wants dev and gw of leaves.
func (r *rig) eventually(src, dst, dev, gw string) {
	r.t.Helper()
	for deadline := time.Now().Add(3 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		d, g := r.leaves(src, dst)
		if d == dev && g == gw {
			return
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("from %s to %s: by %s via %s, want %s via %s", src, dst, d, g, dev, gw)
		}
	}
}

var both = Config{
	Interfaces: []Interface{{Name: "up1"}, {Name: "up2", Gateway4: netip.MustParseAddr("198.51.100.2")}},
}

// TestSourceRouting: packets leave by the uplink whose address they carry,
// those to the site do not, and nothing is left at the end.
func TestSourceRouting(t *testing.T) {
	r := newRig(t)
	got, stop := r.run(both)
	if len(got) != 2 || !got[0].Up || !got[1].Up || len(got[1].Addrs) != 2 {
		t.Fatalf("uplinks are %v", got)
	}
	for _, c := range []struct{ src, dst, dev, gw string }{
		{"192.0.2.1", "203.0.113.9", "up1", "192.0.2.2"},
		{"198.51.100.1", "203.0.113.9", "up2", "198.51.100.2"},
		{"198.51.100.1", "10.1.0.9", "site", ""},
		{"198.51.100.1", "198.51.100.2", "up2", ""},
		{"10.1.0.1", "203.0.113.9", "up1", "192.0.2.2"}, // no RLOC: the main table
	} {
		r.eventually(c.src, c.dst, c.dev, c.gw)
	}
	// A route in the main table by the other uplink does not catch them.
	r.do(func() error {
		l, err := netlink.LinkByName("up1")
		if err != nil {
			return err
		}
		_, p, _ := net.ParseCIDR("203.0.113.0/24")
		return netlink.RouteAdd(&netlink.Route{Dst: p, Gw: net.ParseIP("192.0.2.2"), LinkIndex: l.Attrs().Index})
	})
	time.Sleep(50 * time.Millisecond)
	r.eventually("198.51.100.1", "203.0.113.9", "up2", "198.51.100.2")
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	r.do(func() error {
		for _, f := range []int{unix.AF_INET, unix.AF_INET6} {
			rules, err := netlink.RuleList(f)
			if err != nil {
				return err
			}
			for _, x := range rules {
				if x.Protocol == Protocol {
					t.Errorf("left behind: %v", x)
				}
			}
			routes, err := netlink.RouteListFiltered(f, &netlink.Route{Protocol: Protocol, Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
			if err != nil {
				return err
			}
			for _, x := range routes {
				t.Errorf("left behind: %v", x)
			}
		}
		return nil
	})
}

// TestEvents: a carrier that goes, an address that is replaced, and an interface
// that is removed and comes back are told at once.
func TestEvents(t *testing.T) {
	r := newRig(t)
	r.run(both)
	carrier := func(on bool) {
		t.Helper()
		if err := r.p1.Do(func() error {
			l, err := netlink.LinkByName("r")
			if err != nil {
				return err
			}
			if on {
				return netlink.LinkSetUp(l)
			}
			return netlink.LinkSetDown(l)
		}); err != nil {
			t.Fatal(err)
		}
	}
	carrier(false)
	if took := r.wait("up1", false, "192.0.2.1"); took > 500*time.Millisecond { // 50 ms where the machine is at rest
		t.Errorf("loss of carrier told after %v", took)
	}
	carrier(true)
	r.wait("up1", true, "192.0.2.1")

	address := func(old, new string) {
		t.Helper()
		r.do(func() error {
			l, err := netlink.LinkByName("up1")
			if err != nil {
				return err
			}
			o, _ := netlink.ParseAddr(old)
			n, _ := netlink.ParseAddr(new)
			if err := netlink.AddrDel(l, o); err != nil {
				return err
			}
			return netlink.AddrAdd(l, n)
		})
	}
	address("192.0.2.1/30", "192.0.2.129/30")
	r.wait("up1", true, "192.0.2.129")
	r.do(func() error { // as a DHCP client does
		l, err := netlink.LinkByName("up1")
		if err != nil {
			return err
		}
		return netlink.RouteReplace(&netlink.Route{Dst: nil, Gw: net.ParseIP("192.0.2.130"), LinkIndex: l.Attrs().Index})
	})
	r.eventually("192.0.2.129", "203.0.113.9", "up1", "192.0.2.130")
	if dev, _ := r.leaves("198.51.100.1", "203.0.113.9"); dev != "up2" {
		t.Errorf("the other uplink is %s", dev)
	}

	r.do(func() error {
		l, err := netlink.LinkByName("up2")
		if err != nil {
			return err
		}
		return netlink.LinkDel(l)
	})
	r.wait("up2", false)
	if err := netns.Veth(r.router, "up2", r.p2, "r", 1500); err != nil {
		t.Fatal(err)
	}
	if err := r.router.AddAddress("up2", netip.MustParsePrefix("198.51.100.5/30")); err != nil {
		t.Fatal(err)
	}
	r.wait("up2", true, "198.51.100.5")
	r.eventually("198.51.100.5", "203.0.113.9", "up2", "198.51.100.2")
}

// TestStaticAddresses: the interface that has the address of a locator is an
// uplink, whichever it is, and only with that address.
func TestStaticAddresses(t *testing.T) {
	r := newRig(t)
	got, _ := r.run(Config{Addresses: []netip.Addr{netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("203.0.113.77")}})
	if len(got) != 1 || got[0].Name != "up2" || !slices.Equal(got[0].Addrs, []netip.Addr{netip.MustParseAddr("198.51.100.1")}) {
		t.Fatalf("uplinks are %v", got)
	}
	if err := r.router.AddAddress("up1", netip.MustParsePrefix("203.0.113.77/32")); err != nil {
		t.Fatal(err)
	}
	r.wait("up1", true, "203.0.113.77")
}

// TestAdopted: what a killed process left is taken over, and removed where it
// is not wanted any more.
func TestAdopted(t *testing.T) {
	r := newRig(t)
	var w *Watcher
	r.do(func() (err error) { w, err = Open(both); return err })
	w.events.Close() // as if killed
	r.do(func() error {
		l, err := netlink.LinkByName("up2")
		if err != nil {
			return err
		}
		a, _ := netlink.ParseAddr("198.51.100.1/30")
		return netlink.AddrDel(l, a)
	})
	r.run(both)
	r.do(func() error {
		rules, err := netlink.RuleList(unix.AF_INET)
		if err != nil {
			return err
		}
		n := 0
		for _, x := range rules {
			if x.Protocol == Protocol {
				if n++; x.Src.String() != "192.0.2.1/32" {
					t.Errorf("rule %v", x)
				}
			}
		}
		if n != 1 {
			t.Errorf("%d rules, want 1", n)
		}
		return nil
	})
}

// TestPointToPoint: an uplink such as ppp0 needs no gateway, and its address
// comes with the link, which comes and goes with the program that makes it.
func TestPointToPoint(t *testing.T) {
	netns.NeedTUN(t)
	r := newRig(t)
	if got, _ := r.run(Config{Interfaces: []Interface{{Name: "up1"}, {Name: "ppp0"}}}); len(got) != 2 || got[1].Up {
		t.Fatalf("uplinks are %v", got)
	}
	for range 2 {
		link := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "ppp0"}, Mode: netlink.TUNTAP_MODE_TUN, Flags: netlink.TUNTAP_NO_PI, NonPersist: true, Queues: 1}
		r.do(func() error {
			if err := netlink.LinkAdd(link); err != nil {
				return err
			}
			a := &netlink.Addr{
				IPNet: netns.IPNet(netip.MustParsePrefix("203.0.113.33/32")),
				Peer:  netns.IPNet(netip.MustParsePrefix("203.0.113.34/32")),
			}
			if err := netlink.AddrAdd(link, a); err != nil {
				return err
			}
			return netlink.LinkSetUp(link)
		})
		r.wait("ppp0", true, "203.0.113.33")
		r.eventually("203.0.113.33", "198.18.0.9", "ppp0", "")
		if dev, _ := r.leaves("192.0.2.1", "198.18.0.9"); dev != "up1" {
			t.Errorf("the other uplink is %s", dev)
		}
		for _, f := range link.Fds {
			f.Close()
		}
		r.wait("ppp0", false)
	}
}

// advertise sends a router advertisement (RFC 4861) as the provider of up1: of
// itself as default router, and of a prefix to make addresses from.
func (r *rig) advertise(prefix string, preferred time.Duration) {
	r.t.Helper()
	seconds := func(b []byte, d time.Duration) { binary.BigEndian.PutUint32(b, uint32(d/time.Second)) }
	msg := make([]byte, 16+32)
	msg[0], msg[4] = 134, 64 // type, hop limit
	binary.BigEndian.PutUint16(msg[6:], 1800)
	p, option := netip.MustParsePrefix(prefix), msg[16:]
	option[0], option[1], option[2], option[3] = 3, 4, byte(p.Bits()), 0xc0 // on-link, autonomous
	seconds(option[4:], 3*time.Hour)
	seconds(option[8:], preferred)
	copy(option[16:], p.Addr().AsSlice())
	if err := r.p1.Do(func() error {
		l, err := netlink.LinkByName("r")
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMPV6)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255); err != nil {
			return err
		}
		to := &unix.SockaddrInet6{Addr: netip.MustParseAddr("ff02::1").As16(), ZoneId: uint32(l.Attrs().Index)}
		return unix.Sendto(fd, msg, 0, to)
	}); err != nil {
		r.t.Fatal(err)
	}
}

// TestRouterAdvertisement: an address that a router advertisement brings is
// used, with the router as gateway; one that is deprecated goes behind others.
func TestRouterAdvertisement(t *testing.T) {
	r := newRig(t)
	for s, v := range map[string]string{
		"net.ipv6.conf.up1.accept_ra": "2", "net.ipv6.conf.up1.autoconf": "1", "net.ipv6.conf.up1.accept_ra_defrtr": "1", "net.ipv6.conf.up1.accept_ra_pinfo": "1",
		"net.ipv6.conf.up1.addr_gen_mode": "0", "net.ipv6.conf.up1.use_tempaddr": "0", "net.ipv6.conf.up1.accept_dad": "0",
	} {
		if err := r.router.SetSysctl(s, v); err != nil {
			t.Fatal(err)
		}
	}
	var mac net.HardwareAddr
	var gateway string
	r.do(func() error {
		l, err := netlink.LinkByName("up1")
		mac = l.Attrs().HardwareAddr
		return err
	})
	for deadline := time.Now().Add(5 * time.Second); gateway == ""; time.Sleep(10 * time.Millisecond) {
		if err := r.p1.Do(func() error {
			l, err := netlink.LinkByName("r")
			if err != nil {
				return err
			}
			addrs, err := netlink.AddrList(l, unix.AF_INET6)
			for _, a := range addrs {
				if a.IP.IsLinkLocalUnicast() && a.Flags&unix.IFA_F_TENTATIVE == 0 {
					gateway = a.IP.String()
				}
			}
			return err
		}); err != nil || time.Now().After(deadline) {
			t.Fatalf("the provider has no link-local address: %v", err)
		}
	}
	auto := func(prefix string) string { // RFC 4291 appendix A
		b := netip.MustParsePrefix(prefix).Addr().As16()
		copy(b[8:], []byte{mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]})
		return netip.AddrFrom16(b).String()
	}
	const one, other = "2001:db8:77::/64", "2001:db8:78::/64"
	r.run(both)
	r.advertise(one, time.Hour)
	r.wait("up1", true, "192.0.2.1", auto(one))
	r.eventually(auto(one), "2001:db8:ffff::9", "up1", gateway)
	r.advertise(other, time.Hour)
	r.wait("up1", true, "192.0.2.1", auto(other), auto(one)) // as the kernel lists them
	r.advertise(other, 0)
	r.wait("up1", true, "192.0.2.1", auto(one), auto(other))
	r.eventually(auto(other), "2001:db8:ffff::9", "up1", gateway)
}
