package config

import (
	"net/netip"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/bgp"
)

// ALT is the place of a map-server in the overlay of RFC 6836.
type ALT struct {
	// Config is checked, but has no OnRoutes and no Logger. Its neighbours are
	// those of all tunnels.
	Config  bgp.Config
	Tunnels []ALTTunnel
	// Aggregates are originated.
	Aggregates []ALTAggregate
	// OriginateSites has the EID-prefixes of the sites and static mappings of
	// instance 0 originated, and Originate are others.
	OriginateSites bool
	Originate      []netip.Prefix
	// Rate and Burst limit what comes by each tunnel, in Map-Requests.
	Rate, Burst int
}

// ALTTunnel is a link to other ALT routers.
type ALTTunnel struct {
	// Name is that of the interface, Kind gre, vxlan or existing.
	Name, Kind string
	// Local and Remote are the ends in the underlay; not valid for existing.
	Local, Remote netip.Addr
	ID            uint32
	Addresses     []netip.Prefix
}

// ALTAggregate is an aggregate that is originated.
type ALTAggregate struct {
	Prefix     netip.Prefix
	Always     bool
	Components []netip.Prefix
}

// Prefixes returns what there is to originate but for aggregates.
func (c *MapServer) ALTPrefixes() (list []netip.Prefix) {
	seen := make(map[netip.Prefix]bool)
	add := func(e mapping.EID) {
		if e.IID == 0 && !e.Source.IsValid() && !seen[e.Prefix] {
			seen[e.Prefix] = true
			list = append(list, e.Prefix)
		}
	}
	if c.ALT.OriginateSites {
		for _, s := range c.Sites {
			for _, p := range s.EIDPrefixes {
				add(p.Prefix)
			}
		}
		for _, r := range c.StaticMappings {
			add(r.EID)
		}
	}
	for _, p := range c.ALT.Originate {
		add(mapping.EID{Prefix: p})
	}
	return list
}

const wantTunnels = "a list of tunnels to other ALT routers"

func (c *MapServer) readALT(v value) {
	o, ok := v.object()
	if !ok {
		return
	}
	before := len(v.r.errors)
	a := &ALT{}
	a.Config.AS = o.need("as", wantAS).asNumber()
	a.Config.RouterID, _ = o.need("router_id", "an IPv4 address that no other router has").gateway(netip.Addr.Is4, "an IPv4 address that no other router has")
	a.readTunnels(o.need("tunnels", wantTunnels))
	a.OriginateSites = o.get("originate_sites").boolean(true)
	a.Originate = altPrefixes(o.get("originate"))
	seen := make(names[netip.Prefix])
	for _, item := range o.get("aggregates").list("aggregates such as {prefix: 10.0.0.0/8}") {
		x, ok := item.object()
		if !ok {
			continue
		}
		at := x.need("prefix", wantALTPrefix)
		p, ok := at.altPrefix()
		g := ALTAggregate{Prefix: p, Always: x.get("always").boolean(false)}
		for _, v := range x.get("components").list("EID-prefixes inside of the aggregate") {
			if q, qok := v.altPrefix(); qok && ok {
				if q.Bits() <= p.Bits() || !p.Contains(q.Addr()) {
					v.fail("found %v, expected a prefix inside of %v, and longer", q, p)
					continue
				}
				g.Components = append(g.Components, q)
			}
		}
		x.end()
		if ok && seen.add(p, at, "aggregate") {
			a.Aggregates = append(a.Aggregates, g)
		}
	}
	a.Rate, a.Burst = 1000, 2000
	if m, ok := o.get("rate").object(); ok {
		a.Rate = int(m.get("per_tunnel").integer(1, 1_000_000, 1000))
		a.Burst = int(m.get("burst").integer(1, 1_000_000, 2000))
		m.end()
	}
	o.end()
	if len(v.r.errors) > before {
		return
	}
	a.Config.Transit = &bgp.Transit{}
	for _, g := range a.Aggregates {
		a.Config.Transit.Aggregates = append(a.Config.Transit.Aggregates, g.Prefix)
	}
	if _, err := a.Config.Complete(); err != nil { // what is left to find
		v.fail("%v", err)
		return
	}
	c.ALT = a
}

func (a *ALT) readTunnels(v value) {
	seen, ids, addresses, neighbours := make(names[string]), make(names[uint32]), make(names[netip.Addr]), make(names[netip.Addr])
	for _, item := range v.atLeastOne("tunnels, each with name, remote, addresses and neighbours") {
		o, ok := item.object()
		if !ok {
			continue
		}
		var t ALTTunnel
		at := o.need("name", "the name of an interface")
		t.Name = at.interfaceName("")
		t.Kind = o.get("kind").enum("gre", "vxlan", "existing")
		local, remote, id := o.get("local"), o.get("remote"), o.get("id")
		if t.Kind == "existing" {
			at.needs(NeedInterface, t.Name)
			for _, x := range []value{local, remote, id} {
				if x.given() {
					o.fail(x.key, "found %s, which an existing tunnel has already", x.name)
				}
			}
		} else {
			local, remote = o.need("local", "our address in the underlay"), o.need("remote", "the address of the other end in the underlay")
			var lok, rok bool
			t.Local, lok = local.rloc()
			local.needsIP(NeedAddress, t.Local)
			if t.Remote, rok = remote.rloc(); lok && rok && (t.Local.Is4() != t.Remote.Is4() || t.Local == t.Remote) {
				remote.fail("found %v for local %v, expected another address of the same family", t.Remote, t.Local)
			}
			if t.Kind == "vxlan" {
				id = o.need("id", "the number of the VXLAN, which no other tunnel here has")
				if t.ID = uint32(id.integer(1, 1<<24-1, 1)); id.given() {
					ids.add(t.ID, id, "id")
				}
			} else {
				t.ID = uint32(id.integer(1, 1<<32-1, 0))
			}
		}
		for _, x := range o.need("addresses", "our addresses on the tunnel").atLeastOne("an address with its length, such as 172.16.0.1/30") {
			p, ok := x.interfaceAddress()
			if ok && addresses.add(p.Addr(), x, "address") {
				t.Addresses = append(t.Addresses, p)
				if t.Kind == "existing" {
					x.needsIP(NeedAddress, p.Addr())
				}
				a.Config.Listen = append(a.Config.Listen, p.Addr())
			}
		}
		a.readALTNeighbours(o.need("neighbours", "the ALT routers at the other end"), &t, neighbours)
		o.end()
		if t.Name != "" && seen.add(t.Name, at, "tunnel") {
			a.Tunnels = append(a.Tunnels, t)
		}
	}
}

func (a *ALT) readALTNeighbours(v value, t *ALTTunnel, seen names[netip.Addr]) {
	for _, item := range v.atLeastOne("neighbours, each with address and as") {
		o, ok := item.object()
		if !ok {
			continue
		}
		at := o.need("address", "the address of the neighbour on the tunnel")
		addr, addressed := at.rloc()
		n := bgp.Neighbour{Addr: addr, AS: o.need("as", wantAS).asNumber(), MoreSpecifics: o.get("more_specifics").boolean(false)}
		for _, p := range t.Addresses {
			if addressed && p.Contains(addr) && p.Addr() != addr {
				n.LocalAddr = p.Addr()
			}
		}
		if addressed && !n.LocalAddr.IsValid() {
			at.fail("found %v, expected an address in a network of the tunnel's addresses", addr)
		}
		// Of two that connect to each other, one would have to yield.
		n.Passive = o.get("passive").boolean(addressed && n.LocalAddr.Less(addr))
		if p := o.get("password_file"); p.given() {
			p.secret = true
			n.Password = p.secretFile()
			if len(n.Password) > 80 {
				p.fail("the password has %d octets, expected 80 at most (RFC 2385)", len(n.Password))
			}
		}
		n.HoldTime = o.get("hold_time").wholeSeconds(3*time.Second, 65535*time.Second, bgp.DefaultHoldTime)
		n.MaxPrefixes = int(o.get("max_prefixes").integer(1, bgp.MaxMaxPrefixes, bgp.DefaultMaxPrefixes))
		o.end()
		if addressed && seen.add(addr, at, "neighbour") {
			a.Config.Neighbours = append(a.Config.Neighbours, n)
		}
	}
}

// interfaceAddress reads an address with the length of its network.
func (v value) interfaceAddress() (netip.Prefix, bool) {
	v.form.is(endForm)
	const want = "an address with its length, such as 172.16.0.1/30 or \"fd00::1/64\""
	s, ok := v.text(want)
	if !ok {
		return netip.Prefix{}, false
	}
	p, err := netip.ParsePrefix(s)
	if err != nil || p.Addr().Is4In6() || p.IsSingleIP() || mapping.ValidRLOC(p.Addr()) != nil {
		v.fail("found %q, expected %s", s, want)
		return netip.Prefix{}, false
	}
	return p, true
}

const wantALTPrefix = "an EID-prefix without an instance-ID, such as 10.0.0.0/8"

func (v value) altPrefix() (netip.Prefix, bool) {
	e, ok := v.eid()
	if ok && e.IID != 0 {
		v.fail("found %v, expected %s: the ALT has none", text(e), wantALTPrefix)
		return netip.Prefix{}, false
	}
	return e.Prefix, ok
}

func altPrefixes(v value) (list []netip.Prefix) {
	seen := make(names[netip.Prefix])
	for _, item := range v.list("EID-prefixes") {
		if p, ok := item.altPrefix(); ok && seen.add(p, item, "prefix") {
			list = append(list, p)
		}
	}
	return list
}
