package config

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/bgp"
)

// BGP is how an xTR speaks BGP.
type BGP struct {
	// Config is checked, but has no OnRoutes and no Logger.
	Config bgp.Config
	// Announce is announced while the xTR can serve it; each prefix lies inside one
	// of those that the proxy-ITR attracts.
	Announce []bgp.Route
	// Originate is announced into the site while the mapping system answers.
	Originate []bgp.Route
	// OriginateMapped, unless nil, announces the EID-prefixes that the map-cache
	// has locators for, too; their number is bounded by MaxMapped, and Prefix is
	// not valid.
	OriginateMapped *bgp.Route
	MaxMapped       int
	// WithdrawDelay is how long a learned EID-prefix outlives its withdrawal.
	WithdrawDelay time.Duration
}

// readBGP reads bgp; it comes after proxy_itr.
func (c *XTR) readBGP(v value) {
	o, ok := v.object()
	if !ok {
		return
	}
	before := len(v.r.errors)
	b := new(BGP)
	b.Config.AS = o.need("as", wantAS).asNumber()
	b.Config.RouterID, _ = o.need("router_id", "an IPv4 address that no other router has").gateway(netip.Addr.Is4, "an IPv4 address that no other router has")
	listen := o.get("listen").list("an address of this router")
	for _, item := range listen {
		if ap, ok := item.addrPort(bgp.Port, true); ok {
			if ap.Port() != bgp.Port {
				item.fail("found a port, which is that of all addresses; expected port: %d beside listen", ap.Port())
			}
			b.Config.Listen = append(b.Config.Listen, ap.Addr())
		}
	}
	b.Config.ListenPort = uint16(o.get("port").integer(1, 65535, bgp.Port))
	for i, a := range b.Config.Listen {
		if len(listen) == len(b.Config.Listen) {
			listen[i].needsAddr(NeedTCP, netip.AddrPortFrom(a, b.Config.ListenPort))
		}
	}
	b.Config.RestartTime = o.get("restart_time").wholeSeconds(time.Second, bgp.MaxRestartTime, 0)
	b.Config.Neighbours = c.readNeighbours(o.need("neighbours", "a list with at least one router that there is a session with"), len(b.Config.Listen) > 0)
	b.Announce = c.readAnnounce(o.get("announce"))
	b.Originate = c.readOriginate(o.get("originate"), b.Announce)
	if m, ok := o.get("originate_mapped").object(); ok {
		b.OriginateMapped = new(bgp.Route)
		b.MaxMapped = int(m.get("max_prefixes").integer(1, bgp.MaxRoutes/2, bgp.DefaultMaxPrefixes))
		for _, x := range m.get("communities").list(wantCommunity) {
			x.community(b.OriginateMapped)
		}
		m.end()
	}
	b.WithdrawDelay = o.get("withdraw_delay").duration(0, time.Hour, bgp.DefaultWithdrawDelay)
	o.end()
	if len(v.r.errors) > before {
		return
	}
	if _, err := b.Config.Complete(); err != nil { // what is left to find
		v.fail("%v", err)
		return
	}
	c.BGP = b
}

const wantAS = "the number of an autonomous system, from 1 to 4294967294"

// asNumber reads an AS number, as RFC 5396 writes it plainly.
func (v value) asNumber() uint32 {
	v.form.is(integerForm(1, 1<<32-2, 0))
	s, ok := v.text(wantAS)
	if !ok {
		return 0
	}
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n == 0 || n == 1<<32-1 {
		v.fail("found %q, expected %s", s, wantAS)
		return 0
	}
	return uint32(n)
}

// wholeSeconds is duration for what a protocol counts in seconds.
func (v value) wholeSeconds(low, high, otherwise time.Duration) time.Duration {
	d := v.duration(low, high, low)
	v.form.otherwise(durationForm(low, high, otherwise).otherwise)
	if !v.given() {
		return otherwise
	}
	if d%time.Second != 0 {
		v.fail("found %v, expected whole seconds", d)
	}
	return d
}

func (c *XTR) readNeighbours(v value, listens bool) (list []bgp.Neighbour) {
	seen := make(names[netip.Addr])
	for _, item := range v.atLeastOne("neighbours, each with address and as") {
		o, ok := item.object()
		if !ok {
			continue
		}
		at := o.need("address", "the address of the neighbour")
		a, addressed := at.rloc()
		n := bgp.Neighbour{Addr: a, AS: o.need("as", wantAS).asNumber(), Port: uint16(o.get("port").integer(1, 65535, bgp.Port))}
		passive := o.get("passive")
		if n.Passive = passive.boolean(false); n.Passive && !listens {
			passive.fail("found true, and nothing to wait at; expected an address of this router in listen")
		}
		if p := o.get("password_file"); p.given() {
			p.secret = true
			n.Password = p.secretFile()
			if len(n.Password) > 80 {
				p.fail("the password has %d octets, expected 80 at most (RFC 2385)", len(n.Password))
			}
		}
		if l := o.get("local_address"); l.given() {
			if n.LocalAddr, ok = l.rloc(); ok && addressed && n.LocalAddr.Is4() != a.Is4() {
				l.fail("found %v for the neighbour %v, expected an address of the same family", n.LocalAddr, a)
			}
			l.needsIP(NeedAddress, n.LocalAddr)
		}
		n.HoldTime = o.get("hold_time").wholeSeconds(3*time.Second, 65535*time.Second, bgp.DefaultHoldTime)
		n.Multihop = uint8(o.get("multihop").integer(2, 255, 0))
		n.MaxPrefixes = int(o.get("max_prefixes").integer(1, bgp.MaxMaxPrefixes, bgp.DefaultMaxPrefixes))
		o.end()
		if !addressed || !seen.add(a, at, "neighbour") {
			continue
		}
		if e, ok := attracts(c.ProxyITR, netip.PrefixFrom(a, a.BitLen())); ok && e.IID == 0 {
			at.fail("%v is inside the EID-prefix %v of proxy_itr, so packets to it would be encapsulated", a, text(e))
		}
		list = append(list, n)
	}
	return list
}

// attracts returns the EID-prefix of a proxy-ITR that covers p, in any instance.
func attracts(itr *Proxy, p netip.Prefix) (mapping.EID, bool) {
	if itr != nil {
		for _, e := range itr.EIDPrefixes {
			if e.Prefix.Bits() <= p.Bits() && e.Prefix.Contains(p.Addr()) {
				return e, true
			}
		}
	}
	return mapping.EID{}, false
}

func (c *XTR) readAnnounce(v value) (routes []bgp.Route) {
	seen := make(names[mapping.EID])
	for _, item := range v.list("announcements, each with prefixes") {
		o, ok := item.object()
		if !ok {
			continue
		}
		r := bgp.Route{}
		if as := o.get("origin_as"); as.given() {
			r.OriginAS = as.asNumber()
		}
		for _, x := range o.get("communities").list(wantCommunity) {
			x.community(&r)
		}
		for _, x := range o.need("prefixes", "a list with at least one prefix").atLeastOne("a prefix such as 10.0.0.0/8") {
			e, ok := x.eid()
			if !ok || !seen.add(e, x, "prefix") {
				continue
			}
			if e.IID != 0 {
				x.fail("found %v, expected a prefix without an instance-ID: BGP has none", text(e))
				continue
			}
			if _, ok := attracts(c.ProxyITR, e.Prefix); !ok {
				x.fail("found %v, which the xTR does not attract; expected a prefix inside one of the eid_prefixes of proxy_itr", e.Prefix)
				continue
			}
			r.Prefix = e.Prefix
			routes = append(routes, r)
		}
		o.end()
	}
	return routes
}

// readOriginate reads what is announced into the site.
func (c *XTR) readOriginate(v value, announced []bgp.Route) (routes []bgp.Route) {
	seen := make(names[mapping.EID])
	for _, item := range v.list("announcements, each with prefixes") {
		o, ok := item.object()
		if !ok {
			continue
		}
		r := bgp.Route{}
		for _, x := range o.get("communities").list(wantCommunity) {
			x.community(&r)
		}
		for _, x := range o.need("prefixes", "a list with at least one prefix").atLeastOne("a prefix such as 0.0.0.0/0") {
			e, ok := x.eid()
			if !ok || !seen.add(e, x, "prefix") {
				continue
			}
			switch {
			case e.IID != 0:
				x.fail("found %v, expected a prefix without an instance-ID: BGP has none", text(e))
				continue
			case slices.ContainsFunc(announced, func(a bgp.Route) bool { return a.Prefix == e.Prefix }):
				x.fail("%v is in announce already", e.Prefix)
				continue
			}
			r.Prefix = e.Prefix
			routes = append(routes, r)
		}
		o.end()
	}
	return routes
}

const wantCommunity = "a community such as \"64500:100\", a large one such as \"64500:1:2\", or no-export"

// community reads one of RFC 1997 or of RFC 8092, and adds it to r. YAML takes
// 64500:100 for a number in base 60, but what is read here is the text.
func (v value) community(r *bgp.Route) {
	v.form.is(communityForm)
	s, ok := v.text(wantCommunity)
	if !ok {
		return
	}
	if n, ok := bgp.WellKnown[s]; ok {
		r.Communities = append(r.Communities, n)
		return
	}
	parts := strings.Split(s, ":")
	bits := map[int]int{2: 16, 3: 32}[len(parts)]
	var n [3]uint32
	for i, p := range parts {
		x, err := strconv.ParseUint(p, 10, max(bits, 1))
		if err != nil || bits == 0 {
			v.fail("found %q, expected %s", s, wantCommunity)
			return
		}
		n[i] = uint32(x)
	}
	if len(parts) == 2 {
		r.Communities = append(r.Communities, n[0]<<16|n[1])
		return
	}
	r.LargeCommunities = append(r.LargeCommunities, n)
}
