package tun

import (
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/eidolon-lisp/eidolon/dataplane/dptest/sites"
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
func internet(t *testing.T, tp *sites.Topology) {
	t.Helper()
	for _, a := range []netip.Addr{net4, net6, far4, far6, else4, else6} {
		sites.Check(t, tp.Core.AddAddress("lo", netip.PrefixFrom(a, a.BitLen())))
	}
	sites.Check(t, tp.Core.AddRoute(prefix("10.1.0.0/16"), sites.RLOCA4, ""))
	sites.Check(t, tp.Core.AddRoute(prefix("2001:db8:a::/48"), sites.RLOCA6, ""))
}

// arrives reports whether a packet of the host gets to an address of the core.
func arrives(t *testing.T, from *netns.NS, src netip.Addr, to *netns.NS, dst netip.Addr) bool {
	t.Helper()
	got, _ := sites.Datagrams(t, from, src, to, dst, false, 100)
	return len(got) == 1
}

// Native forwarding: what the mapping system says to forward natively leaves by
// the kernel's other routes, the first packets too; nothing else does, and
// nothing at all once the process was killed.
func TestNativePolicy(t *testing.T) {
	tp := sites.New(t)
	internet(t, tp)
	cfg := sites.ConfigA(sites.RLOCB4)
	cfg.Instances, cfg.Hold = []sites.Instance{{IID: 0, Native: true}}, true
	a := sites.Start(t, tp.XTRA, cfg)
	holes := []sites.Entry{{EID: hole4, Native: true}, {EID: hole6, Native: true}}
	for i, c := range []struct{ src, dst netip.Addr }{{sites.HostA4, net4}, {sites.HostA6, net6}} {
		rx, tx := sites.UDPSocket(t, tp.Core, c.dst, false), sites.UDPSocket(t, tp.HostA, c.src, false)
		_, err := tx.WriteTo([]byte("held"), rx.LocalAddr())
		sites.Check(t, err)
		time.Sleep(50 * time.Millisecond)
		a.Apply(holes[i])
		rx.SetReadDeadline(time.Now().Add(2 * time.Second))
		if _, _, err := rx.ReadFrom(make([]byte, 10)); err != nil {
			t.Errorf("the first packet to %v did not arrive: %v", c.dst, err)
		}
	}
	for end := time.Now().Add(time.Second); a.State().Stats["native_packets"] != 2; { // counted after they were written
		if time.Now().After(end) {
			t.Fatalf("counters %v", a.State().Stats)
		}
	}
	sites.Transfer(t, tp.HostA, tp.Core, net4, 1<<20)
	sites.Transfer(t, tp.HostA, tp.Core, net6, 1<<20)
	if s := a.State(); s.Stats["native_packets"] > 10 {
		t.Errorf("the kernel does not forward by itself: %v", s.Stats)
	}
	a.Apply(sites.Entry{EID: site4, Locators: sites.To(sites.RLOCB4)}, sites.Entry{EID: site6, Locators: sites.To(sites.RLOCB4)})
	time.Sleep(100 * time.Millisecond)
	closed := func(when string, list ...netip.Addr) {
		t.Helper()
		for _, dst := range list {
			src := sites.HostA4
			if dst.Is6() {
				src = sites.HostA6
			}
			if arrives(t, tp.HostA, src, tp.Core, dst) {
				t.Errorf("%s: a packet to %v left natively", when, dst)
			}
		}
	}
	closed("a site inside of it, and what is not known", far4, far6, else4, else6)
	a.Apply(sites.Entry{EID: site4, Removed: true}, sites.Entry{EID: hole6, Removed: true})
	time.Sleep(100 * time.Millisecond)
	closed("the entry was removed", net6)
	if !arrives(t, tp.HostA, sites.HostA4, tp.Core, far4) {
		t.Error("when the site inside is gone, its part does not leave")
	}
	a.Kill()
	closed("killed", net4, net6, far4, far6)
	a = sites.Start(t, tp.XTRA, cfg)
	closed("started again", net4, net6)
	a.Apply(holes...)
	time.Sleep(100 * time.Millisecond)
	if !arrives(t, tp.HostA, sites.HostA4, tp.Core, net4) || !arrives(t, tp.HostA, sites.HostA6, tp.Core, net6) {
		t.Error("after another start nothing leaves")
	}
	a.Kill()
	cfg.Instances[0].Native = false
	a = sites.Start(t, tp.XTRA, cfg)
	a.Apply(holes...)
	closed("another policy", net4, net6)
	a.Exit()
	for _, line := range kernelState(t, tp.XTRA) {
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
	tp := sites.New(t)
	out := func(e mapping.EID) sites.Entry {
		return sites.Entry{EID: e, Native: true, Locators: sites.To(sites.RLOCA4)}
	}
	proxy := sites.Start(t, tp.XTRA, sites.Config{
		Instances: []sites.Instance{{IID: 0}}, Sources: []netip.Addr{sites.RLOCA4, sites.RLOCA6},
		ProxyITR: []mapping.EID{sites.EIDB4, sites.EIDB6}, ProxyETR: []mapping.EID{sites.EIDB4, sites.EIDB6},
		Entries: []sites.Entry{{EID: sites.EIDB4, Locators: sites.To(sites.RLOCB4)}, {EID: sites.EIDB6, Locators: sites.To(sites.RLOCB6)}},
	})
	cfg := sites.ConfigB(sites.RLOCA4)
	cfg.Entries = []sites.Entry{out(sites.EIDA4), out(sites.EIDA6)}
	site := sites.Start(t, tp.XTRB, cfg)
	sites.Transfer(t, tp.HostA, tp.HostB, sites.HostB4, 1<<20)
	sites.Transfer(t, tp.HostB, tp.HostA, sites.HostA4, 1<<20)
	sites.Transfer(t, tp.HostA, tp.HostB, sites.HostB6, 1<<20)
	sites.Transfer(t, tp.HostB, tp.HostA, sites.HostA6, 1<<20)
	for _, x := range []*sites.XTR{proxy, site} {
		s := x.State()
		if s.Stats["encap_packets"] == 0 || s.Stats["decap_packets"] == 0 || s.Stats["drop_proxy_source"]+s.Stats["drop_source_not_eid"] > 0 {
			t.Errorf("counters %v", s.Stats)
		}
	}
	proxy.Kill()
	tp.Native(t) // whoever sends it on would succeed
	for _, dst := range []netip.Addr{sites.HostB4, sites.HostB6} {
		l := sites.Listen(t, tp.HostB, dst)
		if c, err := sites.Dial(tp.HostA, l.Addr(), time.Second); err == nil {
			c.Close()
			t.Errorf("with the proxy killed, %v was reached", dst)
		}
	}
}

// Where new devices filter strictly by the reverse path, a proxy-ETR still
// forwards what it decapsulates; where all do, it says that it can't.
func TestProxyETRReversePath(t *testing.T) {
	tp := sites.New(t)
	internet(t, tp)
	sites.Check(t, tp.XTRA.SetSysctl("net.ipv4.conf.default.rp_filter", "1"))
	proxy := sites.Start(t, tp.XTRA, sites.Config{
		Instances: []sites.Instance{{IID: 0}}, Sources: []netip.Addr{sites.RLOCA4}, ProxyETR: []mapping.EID{sites.EIDB4},
	})
	cfg := sites.ConfigB(sites.RLOCA4)
	cfg.Entries = []sites.Entry{{EID: hole4, Native: true, Locators: sites.To(sites.RLOCA4)}}
	sites.Start(t, tp.XTRB, cfg)
	if !arrives(t, tp.HostB, sites.HostB4, tp.Core, net4) {
		t.Errorf("nothing came through: %v", proxy.State().Stats)
	}
	if w := strings.Join(proxy.State().Warnings, "\n"); strings.Contains(w, "reverse path") {
		t.Errorf("warned of what is in order:\n%s", w)
	}
	for _, how := range []string{"1", "2"} {
		sites.Check(t, tp.XTRA.SetSysctl("net.ipv4.conf.all.rp_filter", how))
		if arrives(t, tp.HostB, sites.HostB4, tp.Core, net4) {
			t.Errorf("with %s for all devices it came through", how)
		}
		if w := strings.Join(proxy.State().Warnings, "\n"); !strings.Contains(w, "net.ipv4.conf.eidolon0.rp_filter=0") {
			t.Errorf("with %s for all devices the warnings are:\n%s", how, w)
		}
	}
}

// A strict reverse path filter on the only uplink of a site that forwards
// natively keeps hosts of the Internet from beginning a conversation. That is
// warned of, and neither a loose one nor none, nor a strict one where nothing is
// forwarded natively.
func TestNativeReversePath(t *testing.T) {
	tp := sites.New(t)
	internet(t, tp)
	for _, native := range []bool{true, false} {
		cfg := sites.ConfigA(sites.RLOCB4)
		cfg.Instances[0].Native = native
		a := sites.Start(t, tp.XTRA, cfg)
		for _, c := range []struct {
			how     string
			arrives bool
		}{{"0", true}, {"1", false}, {"2", true}} {
			sites.Check(t, tp.XTRA.SetSysctl("net.ipv4.conf.up.rp_filter", c.how))
			if native && arrives(t, tp.Core, net4, tp.HostA, sites.HostA4) != c.arrives {
				t.Errorf("rp_filter %s: arrived %v", c.how, !c.arrives)
			}
			w := strings.Join(a.State().Warnings, "\n")
			if strings.Contains(w, "net.ipv4.conf.up.rp_filter=2") != (native && !c.arrives) {
				t.Errorf("rp_filter %s, native %v, warnings:\n%s", c.how, native, w)
			}
		}
		a.Exit()
	}
}

// On a host the EID is an address that sockets can be bound to, and have as
// their own toward LISP sites; toward the underlay they do not.
func TestHostMode(t *testing.T) {
	tp := sites.New(t)
	me4, me6 := mapping.MustParseEID("10.1.7.1/32"), mapping.MustParseEID("2001:db8:a7::1/128")
	cfg := sites.Config{
		Instances: []sites.Instance{{IID: 0}}, Locals: []mapping.EID{me4, me6}, Sources: []netip.Addr{sites.RLOCA4, sites.RLOCA6},
		Host:    []mapping.EID{mapping.MustParseEID("10.0.0.0/8"), mapping.MustParseEID("2001:db8:b::/48")},
		Entries: []sites.Entry{{EID: sites.EIDB4, Locators: sites.To(sites.RLOCB4)}, {EID: sites.EIDB6, Locators: sites.To(sites.RLOCB6)}},
	}
	// No site behind this one.
	sites.Check(t, tp.XTRA.Do(func() error {
		l, err := netlink.LinkByName("site")
		if err != nil {
			return err
		}
		return netlink.LinkDel(l)
	}))
	a := sites.Start(t, tp.XTRA, cfg)
	back := sites.ConfigB(sites.RLOCA4)
	back.Entries = []sites.Entry{{EID: me4, Locators: sites.To(sites.RLOCA4)}, {EID: me6, Locators: sites.To(sites.RLOCA4)}}
	sites.Start(t, tp.XTRB, back)
	source := func(l net.Listener) netip.Addr {
		t.Helper()
		c, err := sites.Dial(tp.XTRA, l.Addr(), 2*time.Second)
		sites.Check(t, err)
		defer c.Close()
		s, err := l.Accept()
		sites.Check(t, err)
		defer s.Close()
		return s.RemoteAddr().(*net.TCPAddr).AddrPort().Addr()
	}
	for range 2 {
		for _, c := range []struct {
			to        *netns.NS
			dst, want netip.Addr
		}{
			{tp.HostB, sites.HostB4, me4.Prefix.Addr()}, {tp.HostB, sites.HostB6, me6.Prefix.Addr()},
			{tp.Core, addr("198.51.100.2"), sites.RLOCA4}, {tp.Core, addr("2001:db8:f1::2"), sites.RLOCA6},
		} {
			if got := source(sites.Listen(t, c.to, c.dst)); got != c.want {
				t.Errorf("toward %v a socket is %v, want %v", c.dst, got, c.want)
			}
		}
		sites.Transfer(t, tp.XTRA, tp.HostB, sites.HostB4, 1<<20)
		sites.Transfer(t, tp.HostB, tp.XTRA, me4.Prefix.Addr(), 1<<20)
		sites.Transfer(t, tp.HostB, tp.XTRA, me6.Prefix.Addr(), 1<<20)
		a.Kill() // the next one finds what this one left
		tp.Native(t)
		l := sites.Listen(t, tp.HostB, sites.HostB4)
		if c, err := sites.Dial(tp.XTRA, l.Addr(), time.Second); err == nil && c.LocalAddr().(*net.TCPAddr).AddrPort().Addr() == me4.Prefix.Addr() {
			t.Error("the EID is used while no xtr runs")
		}
		for _, r := range []string{"10.1.0.0/24", "10.2.0.0/24", "2001:db8:a::/64", "2001:db8:b::/64"} {
			sites.Check(t, tp.Core.Do(func() error { return netlink.RouteDel(&netlink.Route{Dst: netns.IPNet(prefix(r))}) }))
		}
		a = sites.Start(t, tp.XTRA, cfg)
	}
	a.Exit()
	for _, line := range kernelState(t, tp.XTRA) {
		if containsAny(line, "protocol 141", "eidolon") {
			t.Errorf("left behind: %s", line)
		}
	}
}

// A host may use its EID toward everything but what it sends as an RLOC.
func TestHostUsesEIDForAll(t *testing.T) {
	tp := sites.New(t)
	me4, me6 := mapping.MustParseEID("10.1.7.1/32"), mapping.MustParseEID("2001:db8:a7::1/128")
	sites.Check(t, tp.XTRA.Do(func() error {
		for _, a := range []netip.Addr{sites.RLOCA4, sites.RLOCA6} { // as internal/uplink does
			r := netlink.NewRule()
			r.Priority, r.Table, r.Src = 1010, 254, netns.IPNet(netip.PrefixFrom(a, a.BitLen()))
			if err := netlink.RuleAdd(r); err != nil {
				return err
			}
		}
		return nil
	}))
	cfg := sites.Config{
		Instances: []sites.Instance{{IID: 0, Native: true}}, Locals: []mapping.EID{me4, me6}, Sources: []netip.Addr{sites.RLOCA4, sites.RLOCA6},
		Host:    []mapping.EID{mapping.MustParseEID("0.0.0.0/0"), mapping.MustParseEID("::/0")},
		Entries: []sites.Entry{{EID: sites.EIDB4, Locators: sites.To(sites.RLOCB4)}, {EID: sites.EIDB6, Locators: sites.To(sites.RLOCB6)}},
	}
	sites.Start(t, tp.XTRA, cfg).Kill()
	sites.Start(t, tp.XTRA, cfg)
	back := sites.ConfigB(sites.RLOCA4)
	back.Entries = []sites.Entry{{EID: me4, Locators: sites.To(sites.RLOCA4)}, {EID: me6, Locators: sites.To(sites.RLOCA4)}}
	sites.Start(t, tp.XTRB, back)
	sites.Transfer(t, tp.XTRA, tp.HostB, sites.HostB4, 1<<20)
	sites.Transfer(t, tp.XTRA, tp.HostB, sites.HostB6, 1<<20)
}
