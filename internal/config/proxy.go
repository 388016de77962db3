package config

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/eidolon-lisp/eidolon/mapping"
)

// NoMapping is what happens to packets of the site to destinations that the
// mapping system has no mapping for: those that it says to forward natively.
type NoMapping string

const (
	NoMappingDrop   NoMapping = "drop"   // they never leave
	NoMappingPETR   NoMapping = "petr"   // they are encapsulated to a proxy-ETR
	NoMappingNative NoMapping = "native" // they leave as they are, by the kernel's other routes
)

// Proxy is one of the two roles of an xTR between LISP sites and the rest of
// the Internet (RFC 6832).
type Proxy struct {
	// LocatorSet is the name of the set that Locators are from: the RLOCs of
	// the proxy.
	LocatorSet string
	Locators   []mapping.Locator
	Uplinks    []UplinkLocator
	// EIDPrefixes are those that a proxy-ITR attracts, and those whose packets a
	// proxy-ETR takes; not empty.
	EIDPrefixes []mapping.EID
}

// Host says that the xTR is on a host: its EIDs are addresses of its own.
type Host struct {
	// EIDPrefixes are the destinations toward which a socket that is bound to no
	// address uses an EID as its own; maybe none.
	EIDPrefixes []mapping.EID
}

// site reports whether the file is of an xTR with EIDs of its own; proxies can
// do without.
func (o *object) site() bool {
	return o.fields["database_mappings"].given() || o.fields[fromBGP].given() || !o.fields["proxy_itr"].given() && !o.fields["proxy_etr"].given()
}

// needIf is need if there is a need, and get otherwise.
func (o *object) needIf(need bool, key, want string) value {
	if need {
		return o.need(key, want)
	}
	return o.get(key)
}

// readProxies reads the roles beside that of a site's edge. It adds the addresses of
// proxy-ETRs to underlay.
func (c *XTR) readProxies(o *object, sets map[string]*locatorSet, underlay names[netip.Addr]) {
	use := o.get("use_petr")
	c.UsePETR = use.proxyETRs(underlay)
	c.NoMapping = o.get("no_mapping").noMapping(NoMappingDrop)
	c.ProxyITR, c.ProxyETR = o.get("proxy_itr").proxy(sets), o.get("proxy_etr").proxy(sets)
	if h, ok := o.get("host").object(); ok {
		c.Host = &Host{EIDPrefixes: eidPrefixes(h.get("eid_prefixes").list(wantEID))}
		h.end()
	}
}

// proxyETRs reads the proxy-ETRs to use, and sorts them.
func (v value) proxyETRs(underlay names[netip.Addr]) (list []mapping.Locator) {
	for i, item := range v.list("proxy-ETRs such as {address: 192.0.2.1, priority: 1, weight: 100}") {
		if i == maxLocators {
			item.fail("found more than %d proxy-ETRs", maxLocators)
			break
		}
		o, ok := item.object()
		if !ok {
			continue
		}
		address := o.need("address", "an IPv4 or IPv6 address")
		a, ok := address.rloc()
		l := mapping.MakeLocator(a, uint8(o.get("priority").integer(0, 254, 1)), uint8(o.get("weight").integer(0, 255, 100)))
		o.end()
		switch {
		case !ok:
		case slices.ContainsFunc(list, func(x mapping.Locator) bool { return x.Addr == a }):
			address.fail("proxy-ETR %v is in the list twice", a)
		default:
			list = append(list, l)
			underlay[a] = address
		}
	}
	slices.SortFunc(list, mapping.Locator.Compare)
	return list
}

// noMapping reads a policy.
func (v value) noMapping(otherwise NoMapping) NoMapping {
	if !v.given() {
		return otherwise
	}
	return NoMapping(v.enum(string(NoMappingDrop), string(NoMappingPETR), string(NoMappingNative)))
}

// proxy reads one of the two roles; nil if it is not given.
func (v value) proxy(sets map[string]*locatorSet) *Proxy {
	o, ok := v.object()
	if !ok {
		return nil
	}
	p := new(Proxy)
	ref := o.need("locator_set", "the name of one of the locator_sets: the RLOCs of the proxy")
	if name, ok := ref.text("the name of one of the locator_sets"); ok {
		p.LocatorSet = name
		if set := sets[name]; set != nil {
			set.used, p.Locators, p.Uplinks = true, set.locators, set.uplinks
		} else {
			unknownReference(ref, name, "locator_sets", sets)
		}
	}
	p.EIDPrefixes = eidPrefixes(o.need("eid_prefixes", "a list with at least one EID-prefix").atLeastOne(wantEID))
	o.end()
	return p
}

// eidPrefixes reads a list of EID-prefixes, and sorts it.
func eidPrefixes(items []value) (list []mapping.EID) {
	seen := make(names[mapping.EID])
	for _, item := range items {
		if e, ok := item.eid(); ok && seen.add(e, item, "EID-prefix") {
			list = append(list, e)
		}
	}
	slices.SortFunc(list, mapping.EID.Compare)
	return list
}

// proxied returns the EID-prefixes that proxies and hosts have routes or checks
// for.
func (c *XTR) proxied() (list []mapping.EID) {
	for _, p := range [...]*Proxy{c.ProxyITR, c.ProxyETR} {
		if p != nil {
			list = append(list, p.EIDPrefixes...)
		}
	}
	if c.Host != nil {
		list = append(list, c.Host.EIDPrefixes...)
	}
	return list
}

// checkProxies compares the roles with each other and with the rest.
func (c *XTR) checkProxies(o *object, underlay names[netip.Addr]) {
	itr, etr, host := o.get("proxy_itr"), o.get("proxy_etr"), o.get("host")
	using := func(n NoMapping) bool {
		return slices.ContainsFunc(c.Instances, func(in Instance) bool { return in.NoMapping == n })
	}
	switch use := o.get("use_petr"); {
	case len(c.UsePETR) == 0 && using(NoMappingPETR):
		at := o.get("no_mapping")
		if !at.given() {
			at = o.get("instances")
		}
		at.fail("the policy of an instance is petr, and there is no proxy-ETR in use_petr")
	case len(c.UsePETR) > 0 && !using(NoMappingPETR):
		use.warn("no instance uses the proxy-ETRs, expected no_mapping: petr for one of them, or for all")
	}
	if c.ProxyETR != nil {
		for _, e := range c.ProxyETR.EIDPrefixes {
			if e.Prefix.Bits() == 0 {
				etr.warn("%v takes packets from any source, also forged ones; expected the EID-prefixes of the sites that it serves", text(e))
			}
		}
	}
	if c.ProxyITR != nil {
		for _, e := range c.ProxyITR.EIDPrefixes {
			if e.Prefix.Bits() == 0 {
				itr.fail("%v is a default route, which would attract what is of no LISP site; expected the EID-prefixes of sites", text(e))
				continue
			}
			for a, v := range underlay {
				if e.Contains(0, a) {
					v.fail("%v is inside the EID-prefix %v of proxy_itr, so packets to it would be encapsulated", a, text(e))
				}
			}
		}
	}
	for i, m := range c.DatabaseMappings {
		if c.Host == nil {
			break
		}
		p := m.EID.Prefix
		if !p.IsSingleIP() {
			host.fail("the database_mapping %v is no address, expected %s", text(m.EID), fmt.Sprintf("a /%d", p.Addr().BitLen()))
		}
		for _, o := range c.DatabaseMappings[:i] {
			if o.EID.IID == m.EID.IID && o.EID.Prefix.Addr().Is4() == p.Addr().Is4() {
				host.fail("found the EIDs %v and %v, expected one of each address family in an instance", text(o.EID), text(m.EID))
			}
		}
	}
	if c.Host != nil && (c.ProxyITR != nil || c.ProxyETR != nil) {
		host.fail("a host can't be a proxy for others, expected no proxy_itr and no proxy_etr")
	}
	// Packets of two instances could not be told apart by their addresses.
	// Those that a proxy-ETR takes have their instance-ID in the LISP header.
	if len(o.r.errors) == 0 {
		all := make(names[mapping.EID])
		for _, m := range c.DatabaseMappings {
			all[m.EID] = o.get("database_mappings")
		}
		if c.ProxyITR != nil {
			for _, e := range c.ProxyITR.EIDPrefixes {
				all[e] = itr
			}
		}
		if c.Host != nil {
			for _, e := range c.Host.EIDPrefixes {
				all[e] = host
			}
		}
		refuseOverlap(all)
	}
}
