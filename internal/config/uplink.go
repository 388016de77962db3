package config

import (
	"net/netip"
	"slices"
)

// UplinkLocator makes the addresses of an interface locators.
type UplinkLocator struct {
	Interface string
	// IPv4 and IPv6 say which of its addresses; one of them is true.
	IPv4, IPv6       bool
	Priority, Weight uint8
}

// Uplink is an interface toward a provider.
type Uplink struct {
	Interface string
	// Gateway4 and Gateway6 are the provider's routers; not valid where the
	// kernel's routes tell.
	Gateway4, Gateway6 netip.Addr
}

// uplinkLocator reads a locator that names an interface.
func (o *object) uplinkLocator() UplinkLocator {
	at := o.get("interface")
	l := UplinkLocator{Interface: at.interfaceName("")}
	at.needs(NeedUplink, l.Interface)
	family := o.get("family").enum("both", "ipv4", "ipv6")
	l.IPv4, l.IPv6 = family != "ipv6", family != "ipv4"
	l.Priority = uint8(o.get("priority").integer(0, 255, 1))
	l.Weight = uint8(o.get("weight").integer(0, 255, 100))
	for _, key := range []string{"address", "name"} {
		if v := o.get(key); v.given() {
			o.fail(v.key, "found %s beside interface, expected one of them: the addresses of an interface are found out", key)
		}
	}
	return l
}

// overlaps reports whether an address could be a locator of both.
func (l UplinkLocator) overlaps(o UplinkLocator) bool {
	return l.Interface == o.Interface && (l.IPv4 && o.IPv4 || l.IPv6 && o.IPv6)
}

// readUplinks reads the gateways of interfaces that locators name. Every such
// interface has an entry afterwards.
func (c *XTR) readUplinks(v value, sets map[string]*locatorSet) {
	named := make(names[string])
	for _, s := range sets {
		for i, l := range s.uplinks {
			if _, ok := named[l.Interface]; !ok {
				named[l.Interface] = s.at[i]
			}
		}
	}
	seen := make(names[string])
	for _, item := range v.list("uplinks, each with interface and gateway") {
		o, ok := item.object()
		if !ok {
			continue
		}
		at := o.need("interface", "the name of an interface that a locator names")
		u := Uplink{Interface: at.interfaceName("")}
		u.Gateway4, _ = o.get("gateway").gateway(netip.Addr.Is4, "an IPv4 address")
		u.Gateway6, _ = o.get("gateway6").gateway(netip.Addr.Is6, "an IPv6 address")
		o.end()
		if u.Interface == "" || !seen.add(u.Interface, at, "uplink") {
			continue
		}
		if _, ok := named[u.Interface]; !ok {
			unknownReference(at, u.Interface, "interfaces that a locator names", named)
			continue
		}
		c.Uplinks = append(c.Uplinks, u)
	}
	for name := range named {
		if _, ok := seen[name]; !ok {
			c.Uplinks = append(c.Uplinks, Uplink{Interface: name})
		}
	}
	slices.SortFunc(c.Uplinks, func(a, b Uplink) int {
		if a.Interface < b.Interface {
			return -1
		}
		return 1
	})
}

// gateway reads the address of a router of one family.
func (v value) gateway(of func(netip.Addr) bool, want string) (netip.Addr, bool) {
	v.form.is(addressForm)
	s, ok := v.text(want)
	if !ok {
		return netip.Addr{}, false
	}
	a, err := netip.ParseAddr(s)
	if err != nil || !of(a) || a.IsUnspecified() || a.IsMulticast() || a.Zone() != "" {
		v.fail("found %q, expected %s", s, want)
		return netip.Addr{}, false
	}
	return a, true
}
