package tun

import (
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/eidolon-lisp/eidolon/internal/netns"
	"github.com/eidolon-lisp/eidolon/mapping"
)

// The tests' Internet: addresses of the core, behind no xTR.
var (
	net4, net6   = addr("203.0.113.1"), addr("2001:db8:99::1")
	far4, far6   = addr("203.0.113.200"), addr("2001:db8:99:8000::1") // in a part of it that is a site
	else4, else6 = addr("203.0.114.1"), addr("2001:db8:9a::1")        // of which nothing is known
	hole4, hole6 = mapping.MustParseEID("203.0.113.0/24"), mapping.MustParseEID("2001:db8:99::/48")
	site4, site6 = mapping.MustParseEID("203.0.113.128/25"), mapping.MustParseEID("2001:db8:99:8000::/49")
)

// internet gives the core these addresses, and routes to the site of xtrA, so
// that what leaves there natively arrives.
func (tp *topology) internet(t *testing.T) {
	t.Helper()
	for _, a := range []netip.Addr{net4, net6, far4, far6, else4, else6} {
		check(t, tp.core.AddAddress("lo", netip.PrefixFrom(a, a.BitLen())))
	}
	check(t, tp.core.AddRoute(prefix("10.1.0.0/16"), rlocA4, ""))
	check(t, tp.core.AddRoute(prefix("2001:db8:a::/48"), rlocA6, ""))
}

// arrives reports whether a packet of the host gets to an address of the core.
func arrives(t *testing.T, from *netns.NS, src netip.Addr, to *netns.NS, dst netip.Addr) bool {
	t.Helper()
	got, _ := udp(t, from, src, to, dst, false, 100)
	return len(got) == 1
}

// Native forwarding: what the mapping system says to forward natively leaves by
// the kernel's other routes, the first packets too; nothing else does, and
// nothing at all once the process was killed.
func TestNativePolicy(t *testing.T) {
	tp := newTopology(t)
	tp.internet(t)
	cfg := configA(rlocB4)
	cfg.Instances, cfg.Hold = []Instance{{IID: 0, Native: true}}, true
	a := startXTR(t, tp.xtrA, cfg)
	holes := []entry{{EID: hole4, Native: true}, {EID: hole6, Native: true}}
	for i, c := range []struct{ src, dst netip.Addr }{{hostA4, net4}, {hostA6, net6}} {
		rx, tx := udpSocket(t, tp.core, c.dst, false), udpSocket(t, tp.hostA, c.src, false)
		_, err := tx.WriteTo([]byte("held"), rx.LocalAddr())
		check(t, err)
		time.Sleep(50 * time.Millisecond)
		a.apply(holes[i])
		rx.SetReadDeadline(time.Now().Add(2 * time.Second))
		if _, _, err := rx.ReadFrom(make([]byte, 10)); err != nil {
			t.Errorf("the first packet to %v did not arrive: %v", c.dst, err)
		}
	}
	for end := time.Now().Add(time.Second); a.state().Stats["native_packets"] != 2; { // counted after they were written
		if time.Now().After(end) {
			t.Fatalf("counters %v", a.state().Stats)
		}
	}
	transfer(t, tp.hostA, tp.core, net4, 1<<20)
	transfer(t, tp.hostA, tp.core, net6, 1<<20)
	if s := a.state(); s.Stats["native_packets"] > 10 {
		t.Errorf("the kernel does not forward by itself: %v", s.Stats)
	}
	a.apply(entry{EID: site4, Locators: to(rlocB4)}, entry{EID: site6, Locators: to(rlocB4)})
	time.Sleep(100 * time.Millisecond)
	closed := func(when string, list ...netip.Addr) {
		t.Helper()
		for _, dst := range list {
			src := hostA4
			if dst.Is6() {
				src = hostA6
			}
			if arrives(t, tp.hostA, src, tp.core, dst) {
				t.Errorf("%s: a packet to %v left natively", when, dst)
			}
		}
	}
	closed("a site inside of it, and what is not known", far4, far6, else4, else6)
	a.apply(entry{EID: site4, Removed: true}, entry{EID: hole6, Removed: true})
	time.Sleep(100 * time.Millisecond)
	closed("the entry was removed", net6)
	if !arrives(t, tp.hostA, hostA4, tp.core, far4) {
		t.Error("when the site inside is gone, its part does not leave")
	}
	a.kill()
	closed("killed", net4, net6, far4, far6)
	a = startXTR(t, tp.xtrA, cfg)
	closed("started again", net4, net6)
	a.apply(holes...)
	time.Sleep(100 * time.Millisecond)
	if !arrives(t, tp.hostA, hostA4, tp.core, net4) || !arrives(t, tp.hostA, hostA6, tp.core, net6) {
		t.Error("after another start nothing leaves")
	}
	a.kill()
	cfg.Instances[0].Native = false
	a = startXTR(t, tp.xtrA, cfg)
	a.apply(holes...)
	closed("another policy", net4, net6)
	a.exit()
	for _, line := range kernelState(t, tp.xtrA) {
		if containsAny(line, "protocol 141", markerDevice) {
			t.Errorf("left behind: %s", line)
		}
	}
}

func containsAny(s string, list ...string) bool {
	return slices.ContainsFunc(list, func(x string) bool {
		for i := range len(s) - len(x) + 1 {
			if s[i:i+len(x)] == x {
				return true
			}
		}
		return false
	})
}

// Plain hosts behind a proxy-ITR, which is a proxy-ETR too, and a site talk to
// each other, whoever begins. When the proxy was killed, what it attracted is
// refused.
func TestProxiesCarryTCP(t *testing.T) {
	tp := newTopology(t)
	out := func(e mapping.EID) entry { return entry{EID: e, Native: true, Locators: to(rlocA4)} }
	proxy := startXTR(t, tp.xtrA, childConfig{
		Instances: []Instance{{IID: 0}}, Sources: []netip.Addr{rlocA4, rlocA6},
		ProxyITR: []mapping.EID{eidB4, eidB6}, ProxyETR: []mapping.EID{eidB4, eidB6},
		Entries: []entry{{EID: eidB4, Locators: to(rlocB4)}, {EID: eidB6, Locators: to(rlocB6)}},
	})
	cfg := configB(rlocA4)
	cfg.Entries = []entry{out(eidA4), out(eidA6)}
	site := startXTR(t, tp.xtrB, cfg)
	transfer(t, tp.hostA, tp.hostB, hostB4, 1<<20)
	transfer(t, tp.hostB, tp.hostA, hostA4, 1<<20)
	transfer(t, tp.hostA, tp.hostB, hostB6, 1<<20)
	transfer(t, tp.hostB, tp.hostA, hostA6, 1<<20)
	for _, x := range []*xtr{proxy, site} {
		s := x.state()
		if s.Stats["encap_packets"] == 0 || s.Stats["decap_packets"] == 0 || s.Stats["drop_proxy_source"]+s.Stats["drop_source_not_eid"] > 0 {
			t.Errorf("counters %v", s.Stats)
		}
	}
	proxy.kill()
	tp.native(t) // whoever sends it on would succeed
	for _, dst := range []netip.Addr{hostB4, hostB6} {
		l := listen(t, tp.hostB, dst)
		if c, err := dial(tp.hostA, l.Addr(), time.Second); err == nil {
			c.Close()
			t.Errorf("with the proxy killed, %v was reached", dst)
		}
	}
}

// Where new devices filter strictly by the reverse path, a proxy-ETR still
// forwards what it decapsulates; where all do, it says that it can't.
func TestProxyETRReversePath(t *testing.T) {
	tp := newTopology(t)
	tp.internet(t)
	setSysctl(t, tp.xtrA, "net/ipv4/conf/default/rp_filter", "1")
	proxy := startXTR(t, tp.xtrA, childConfig{
		Instances: []Instance{{IID: 0}}, Sources: []netip.Addr{rlocA4}, ProxyETR: []mapping.EID{eidB4},
	})
	cfg := configB(rlocA4)
	cfg.Entries = []entry{{EID: hole4, Native: true, Locators: to(rlocA4)}}
	startXTR(t, tp.xtrB, cfg)
	if !arrives(t, tp.hostB, hostB4, tp.core, net4) {
		t.Errorf("nothing came through: %v", proxy.state().Stats)
	}
	if w := strings.Join(proxy.state().Warnings, "\n"); strings.Contains(w, "reverse path") {
		t.Errorf("warned of what is in order:\n%s", w)
	}
	for _, how := range []string{"1", "2"} {
		setSysctl(t, tp.xtrA, "net/ipv4/conf/all/rp_filter", how)
		if arrives(t, tp.hostB, hostB4, tp.core, net4) {
			t.Errorf("with %s for all devices it came through", how)
		}
		if w := strings.Join(proxy.state().Warnings, "\n"); !strings.Contains(w, "net.ipv4.conf.eidolon0.rp_filter=0") {
			t.Errorf("with %s for all devices the warnings are:\n%s", how, w)
		}
	}
}

// A strict reverse path filter on the only uplink of a site that forwards
// natively keeps hosts of the Internet from beginning a conversation. That is
// warned of, and neither a loose one nor none, nor a strict one where nothing is
// forwarded natively.
func TestNativeReversePath(t *testing.T) {
	tp := newTopology(t)
	tp.internet(t)
	for _, native := range []bool{true, false} {
		cfg := configA(rlocB4)
		cfg.Instances[0].Native = native
		a := startXTR(t, tp.xtrA, cfg)
		for _, c := range []struct {
			how     string
			arrives bool
		}{{"0", true}, {"1", false}, {"2", true}} {
			setSysctl(t, tp.xtrA, "net/ipv4/conf/up/rp_filter", c.how)
			if native && arrives(t, tp.core, net4, tp.hostA, hostA4) != c.arrives {
				t.Errorf("rp_filter %s: arrived %v", c.how, !c.arrives)
			}
			w := strings.Join(a.state().Warnings, "\n")
			if strings.Contains(w, "net.ipv4.conf.up.rp_filter=2") != (native && !c.arrives) {
				t.Errorf("rp_filter %s, native %v, warnings:\n%s", c.how, native, w)
			}
		}
		a.exit()
	}
}

// On a host the EID is an address that sockets can be bound to, and have as
// their own toward LISP sites; toward the underlay they do not.
func TestHostMode(t *testing.T) {
	tp := newTopology(t)
	me4, me6 := mapping.MustParseEID("10.1.7.1/32"), mapping.MustParseEID("2001:db8:a7::1/128")
	cfg := childConfig{
		Instances: []Instance{{IID: 0}}, Locals: []mapping.EID{me4, me6}, Sources: []netip.Addr{rlocA4, rlocA6},
		Host:    []mapping.EID{mapping.MustParseEID("10.0.0.0/8"), mapping.MustParseEID("2001:db8:b::/48")},
		Entries: []entry{{EID: eidB4, Locators: to(rlocB4)}, {EID: eidB6, Locators: to(rlocB6)}},
	}
	// No site behind this one.
	check(t, tp.xtrA.Do(func() error {
		l, err := netlink.LinkByName("site")
		if err != nil {
			return err
		}
		return netlink.LinkDel(l)
	}))
	a := startXTR(t, tp.xtrA, cfg)
	back := configB(rlocA4)
	back.Entries = []entry{{EID: me4, Locators: to(rlocA4)}, {EID: me6, Locators: to(rlocA4)}}
	startXTR(t, tp.xtrB, back)
	source := func(l net.Listener) netip.Addr {
		t.Helper()
		c, err := dial(tp.xtrA, l.Addr(), 2*time.Second)
		check(t, err)
		defer c.Close()
		s, err := l.Accept()
		check(t, err)
		defer s.Close()
		return s.RemoteAddr().(*net.TCPAddr).AddrPort().Addr()
	}
	for range 2 {
		for _, c := range []struct {
			to        *netns.NS
			dst, want netip.Addr
		}{
			{tp.hostB, hostB4, me4.Prefix.Addr()}, {tp.hostB, hostB6, me6.Prefix.Addr()},
			{tp.core, addr("198.51.100.2"), rlocA4}, {tp.core, addr("2001:db8:f1::2"), rlocA6},
		} {
			if got := source(listen(t, c.to, c.dst)); got != c.want {
				t.Errorf("toward %v a socket is %v, want %v", c.dst, got, c.want)
			}
		}
		transfer(t, tp.xtrA, tp.hostB, hostB4, 1<<20)
		transfer(t, tp.hostB, tp.xtrA, me4.Prefix.Addr(), 1<<20)
		transfer(t, tp.hostB, tp.xtrA, me6.Prefix.Addr(), 1<<20)
		a.kill() // the next one finds what this one left
		tp.native(t)
		l := listen(t, tp.hostB, hostB4)
		if c, err := dial(tp.xtrA, l.Addr(), time.Second); err == nil && c.LocalAddr().(*net.TCPAddr).AddrPort().Addr() == me4.Prefix.Addr() {
			t.Error("the EID is used while no xtr runs")
		}
		for _, r := range []string{"10.1.0.0/24", "10.2.0.0/24", "2001:db8:a::/64", "2001:db8:b::/64"} {
			check(t, tp.core.Do(func() error { return netlink.RouteDel(&netlink.Route{Dst: netns.IPNet(prefix(r))}) }))
		}
		a = startXTR(t, tp.xtrA, cfg)
	}
	a.exit()
	for _, line := range kernelState(t, tp.xtrA) {
		if containsAny(line, "protocol 141", "eidolon") {
			t.Errorf("left behind: %s", line)
		}
	}
}

// A host may use its EID toward everything but what it sends as an RLOC.
func TestHostUsesEIDForAll(t *testing.T) {
	tp := newTopology(t)
	me4, me6 := mapping.MustParseEID("10.1.7.1/32"), mapping.MustParseEID("2001:db8:a7::1/128")
	check(t, tp.xtrA.Do(func() error {
		for _, a := range []netip.Addr{rlocA4, rlocA6} { // as internal/uplink does
			r := netlink.NewRule()
			r.Priority, r.Table, r.Src = 1010, 254, netns.IPNet(netip.PrefixFrom(a, a.BitLen()))
			if err := netlink.RuleAdd(r); err != nil {
				return err
			}
		}
		return nil
	}))
	cfg := childConfig{
		Instances: []Instance{{IID: 0, Native: true}}, Locals: []mapping.EID{me4, me6}, Sources: []netip.Addr{rlocA4, rlocA6},
		Host:    []mapping.EID{mapping.MustParseEID("0.0.0.0/0"), mapping.MustParseEID("::/0")},
		Entries: []entry{{EID: eidB4, Locators: to(rlocB4)}, {EID: eidB6, Locators: to(rlocB6)}},
	}
	startXTR(t, tp.xtrA, cfg).kill()
	startXTR(t, tp.xtrA, cfg)
	back := configB(rlocA4)
	back.Entries = []entry{{EID: me4, Locators: to(rlocA4)}, {EID: me6, Locators: to(rlocA4)}}
	startXTR(t, tp.xtrB, back)
	transfer(t, tp.xtrA, tp.hostB, hostB4, 1<<20)
	transfer(t, tp.xtrA, tp.hostB, hostB6, 1<<20)
}
