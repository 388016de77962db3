// Package sites has two sites behind a core, in network namespaces, for tests of
// data planes: each xTR is a process of its own with the plane of the test, hosts
// talk over real sockets. Main makes a test binary able to be such a process.
// Tests of a package that implements a plane use it from inside of that package,
// so it knows no plane itself.
package sites

import (
	"net/netip"
	"testing"

	"github.com/eidolon-lisp/eidolon/internal/netns"
	"github.com/eidolon-lisp/eidolon/mapping"
)

// Topology is two sites behind a router that knows RLOCs only.
//
//	HostA --- XTRA --- Core --- XTRB --- HostB
//	 10.1.0.2   198.51.100.1  .2|.5   .6    10.2.0.2
//	 2001:db8:a::2   2001:db8:f1::1 ::2|2001:db8:f2::2 ::1   2001:db8:b::2
type Topology struct {
	HostA, XTRA, Core, XTRB, HostB *netns.NS
}

// The addresses of hosts, RLOCs and EID-prefixes of both sites.
var (
	HostA4, HostB4 = addr("10.1.0.2"), addr("10.2.0.2")
	HostA6, HostB6 = addr("2001:db8:a::2"), addr("2001:db8:b::2")
	RLOCA4, RLOCB4 = addr("198.51.100.1"), addr("198.51.100.6")
	RLOCA6, RLOCB6 = addr("2001:db8:f1::1"), addr("2001:db8:f2::1")
	EIDA4, EIDB4   = mapping.MustParseEID("10.1.0.0/24"), mapping.MustParseEID("10.2.0.0/24")
	EIDA6, EIDB6   = mapping.MustParseEID("2001:db8:a::/64"), mapping.MustParseEID("2001:db8:b::/64")
)

var addr, prefix = netip.MustParseAddr, netip.MustParsePrefix

// New makes the namespaces with links, addresses and routes; there is no xTR yet.
func New(t testing.TB) *Topology {
	t.Helper()
	netns.NeedTUN(t)
	ns := netns.Fresh(t, 5)
	tp := &Topology{ns[0], ns[1], ns[2], ns[3], ns[4]}
	Check(t, netns.Veth(tp.HostA, "eth0", tp.XTRA, "site", 1500))
	Check(t, netns.Veth(tp.XTRA, "up", tp.Core, "a", 1500))
	Check(t, netns.Veth(tp.Core, "b", tp.XTRB, "up", 1500))
	Check(t, netns.Veth(tp.XTRB, "site", tp.HostB, "eth0", 1500))
	for _, a := range []struct {
		ns   *netns.NS
		dev  string
		addr string
	}{
		{tp.HostA, "eth0", "10.1.0.2/24"}, {tp.XTRA, "site", "10.1.0.1/24"},
		{tp.HostA, "eth0", "2001:db8:a::2/64"}, {tp.XTRA, "site", "2001:db8:a::1/64"},
		{tp.HostB, "eth0", "10.2.0.2/24"}, {tp.XTRB, "site", "10.2.0.1/24"},
		{tp.HostB, "eth0", "2001:db8:b::2/64"}, {tp.XTRB, "site", "2001:db8:b::1/64"},
		{tp.XTRA, "up", "198.51.100.1/30"}, {tp.Core, "a", "198.51.100.2/30"},
		{tp.XTRB, "up", "198.51.100.6/30"}, {tp.Core, "b", "198.51.100.5/30"},
		{tp.XTRA, "up", "2001:db8:f1::1/64"}, {tp.Core, "a", "2001:db8:f1::2/64"},
		{tp.XTRB, "up", "2001:db8:f2::1/64"}, {tp.Core, "b", "2001:db8:f2::2/64"},
	} {
		Check(t, a.ns.AddAddress(a.dev, prefix(a.addr)))
	}
	for _, r := range []struct {
		ns  *netns.NS
		via string
	}{
		{tp.HostA, "10.1.0.1"}, {tp.HostA, "2001:db8:a::1"}, {tp.HostB, "10.2.0.1"}, {tp.HostB, "2001:db8:b::1"},
		{tp.XTRA, "198.51.100.2"}, {tp.XTRA, "2001:db8:f1::2"}, {tp.XTRB, "198.51.100.5"}, {tp.XTRB, "2001:db8:f2::2"},
	} {
		any := prefix("0.0.0.0/0")
		if addr(r.via).Is6() {
			any = prefix("::/0")
		}
		Check(t, r.ns.AddRoute(any, addr(r.via), ""))
	}
	for _, ns := range []*netns.NS{tp.XTRA, tp.Core, tp.XTRB} {
		Check(t, ns.SetSysctl("net.ipv4.ip_forward", "1"))
		Check(t, ns.SetSysctl("net.ipv6.conf.all.forwarding", "1"))
	}
	return tp
}

// Native gives the core the routes to the sites that it must not have: plain
// routing, to compare with.
func (tp *Topology) Native(t testing.TB) {
	t.Helper()
	for _, r := range []struct{ dst, via string }{
		{"10.1.0.0/24", "198.51.100.1"}, {"10.2.0.0/24", "198.51.100.6"},
		{"2001:db8:a::/64", "2001:db8:f1::1"}, {"2001:db8:b::/64", "2001:db8:f2::1"},
	} {
		Check(t, tp.Core.AddRoute(prefix(r.dst), addr(r.via), ""))
	}
}

// Start starts the two xTRs, each with mappings of the other site toward
// locators of the outer family.
func (tp *Topology) Start(t testing.TB, outer6 bool) (a, b *XTR) {
	t.Helper()
	toA, toB := RLOCA4, RLOCB4
	if outer6 {
		toA, toB = RLOCA6, RLOCB6
	}
	return Start(t, tp.XTRA, ConfigA(toB)), Start(t, tp.XTRB, ConfigB(toA))
}

// To is the locators of a mapping that has one.
func To(rloc netip.Addr) []mapping.Locator {
	return []mapping.Locator{mapping.MakeLocator(rloc, 1, 100)}
}

// ConfigA is that of the xTR of site A, with mappings of the other site to one
// locator.
func ConfigA(rloc netip.Addr) Config {
	return Config{
		Instances: []Instance{{IID: 0}}, Locals: []mapping.EID{EIDA4, EIDA6}, Sources: []netip.Addr{RLOCA4, RLOCA6},
		Entries: []Entry{{EID: EIDB4, Locators: To(rloc)}, {EID: EIDB6, Locators: To(rloc)}},
	}
}

// ConfigB is that of the other site; see ConfigA.
func ConfigB(rloc netip.Addr) Config {
	return Config{
		Instances: []Instance{{IID: 0}}, Locals: []mapping.EID{EIDB4, EIDB6}, Sources: []netip.Addr{RLOCB4, RLOCB6},
		Entries: []Entry{{EID: EIDA4, Locators: To(rloc)}, {EID: EIDA6, Locators: To(rloc)}},
	}
}
