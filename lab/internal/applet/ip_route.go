package applet

import (
	"net/netip"
	"strconv"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var routeTypes = map[string]int{
	"unicast": unix.RTN_UNICAST, "local": unix.RTN_LOCAL, "broadcast": unix.RTN_BROADCAST,
	"anycast": unix.RTN_ANYCAST, "multicast": unix.RTN_MULTICAST, "blackhole": unix.RTN_BLACKHOLE,
	"unreachable": unix.RTN_UNREACHABLE, "prohibit": unix.RTN_PROHIBIT, "throw": unix.RTN_THROW,
}

var routeTables = map[string]int{"main": unix.RT_TABLE_MAIN, "local": unix.RT_TABLE_LOCAL, "default": unix.RT_TABLE_DEFAULT}

func routeTypeName(t int) string {
	for name, n := range routeTypes {
		if n == t {
			return name
		}
	}
	return strconv.Itoa(t)
}

func routeTableName(t int) string {
	for name, n := range routeTables {
		if n == t {
			return name
		}
	}
	return strconv.Itoa(t)
}

func (c *ipCommand) table(word string) (int, error) {
	v, err := c.value(word)
	if err != nil {
		return 0, err
	}
	if n, ok := routeTables[v]; ok {
		return n, nil
	}
	n, err := strconv.ParseUint(v, 0, 32)
	if err != nil || n == 0 {
		return 0, usagef("table wants a number from 1, main, local or default, not %q", v)
	}
	return int(n), nil
}

func (c *ipCommand) route(verb string) error {
	switch verb {
	case "show":
		return c.showRoutes()
	case "get":
		return c.getRoute()
	case "add", "append", "replace", "change", "del", "delete":
	default:
		return c.badVerb("route", verb)
	}
	r, err := c.parseRoute(verb)
	if err != nil {
		return err
	}
	switch verb {
	case "add":
		err = netlink.RouteAdd(r)
	case "append":
		err = netlink.RouteAppend(r)
	case "replace":
		err = netlink.RouteReplace(r)
	case "change":
		err = netlink.RouteChange(r)
	default:
		err = netlink.RouteDel(r)
	}
	return answer(err)
}

func (c *ipCommand) parseRoute(verb string) (*netlink.Route, error) {
	adding := verb != "del" && verb != "delete"
	r := &netlink.Route{}
	if adding {
		r.Protocol = unix.RTPROT_BOOT
		r.Type = unix.RTN_UNICAST
	} else {
		r.Scope = netlink.SCOPE_NOWHERE // a route of any scope
	}
	if len(c.words) > 0 {
		if t, ok := routeTypes[c.words[0]]; ok {
			r.Type = t
			c.next()
		}
	}
	if len(c.words) == 0 {
		return nil, usagef("route %s wants a prefix\n%s", verb, ipUsage)
	}
	target := c.next()
	var via netip.Addr
	for len(c.words) > 0 {
		var err error
		switch w := c.next(); w {
		case "via":
			if len(c.words) > 0 && (c.words[0] == "inet" || c.words[0] == "inet6") {
				return nil, usagef("via %s: a gateway of the other family is not known here", c.words[0])
			}
			via, err = c.address(w)
			r.Gw = via.AsSlice()
		case "dev":
			var name string
			if name, err = c.value(w); err == nil {
				var l netlink.Link
				if l, err = device(name); err == nil {
					r.LinkIndex = l.Attrs().Index
				}
			}
		case "metric", "priority", "preference":
			r.Priority, err = c.number(w)
		case "table":
			r.Table, err = c.table(w)
		case "src":
			var a netip.Addr
			a, err = c.address(w)
			r.Src = a.AsSlice()
		case "mtu":
			r.MTU, err = c.number(w)
		case "onlink":
			r.Flags |= unix.RTNH_F_ONLINK
		default:
			return nil, usagef("%q is not known in route %s\n%s", w, verb, ipUsage)
		}
		if err != nil {
			return nil, err
		}
	}
	if c.family == 0 && via.IsValid() && target == "default" {
		c.family = familyOf(via) // "default via 2001:db8::1" needs no -6
	}
	p, err := c.prefix(target)
	if err != nil {
		return nil, err
	}
	if p != p.Masked() {
		return nil, usagef("%s has bits set beyond its length; did you mean %s?", p, p.Masked())
	}
	r.Dst = ipNet(p)
	if via.IsValid() && familyOf(via) != familyOf(p.Addr()) {
		return nil, usagef("gateway %s and prefix %s are not of one family", via, p)
	}
	if adding && r.Type == unix.RTN_UNICAST && r.Gw == nil {
		if r.LinkIndex == 0 {
			return nil, usagef("route %s wants via G or dev D", verb)
		}
		if p.Addr().Is4() {
			r.Scope = netlink.SCOPE_LINK
		}
	}
	return r, nil
}

func (c *ipCommand) rule(verb string) error {
	if verb == "show" {
		return c.showRules()
	}
	if verb != "add" && verb != "del" && verb != "delete" {
		return c.badVerb("rule", verb)
	}
	r := netlink.NewRule()
	r.Family = c.family
	for len(c.words) > 0 {
		var err error
		switch w := c.next(); w {
		case "from", "to":
			var v string
			if v, err = c.value(w); err != nil {
				break
			}
			var p netip.Prefix
			if p, err = c.prefix(v); err != nil {
				break
			}
			if v == "all" || v == "any" || v == "default" {
				break
			}
			if p != p.Masked() {
				err = usagef("%s has bits set beyond its length", p)
			}
			r.Family = familyOf(p.Addr())
			if w == "from" {
				r.Src = ipNet(p)
			} else {
				r.Dst = ipNet(p)
			}
		case "iif":
			r.IifName, err = c.value(w)
		case "fwmark":
			var n int
			n, err = c.number(w)
			r.Mark = uint32(n)
		case "table", "lookup":
			r.Table, err = c.table(w)
		case "pref", "priority", "preference":
			r.Priority, err = c.number(w)
		default:
			return usagef("%q is not known in rule %s\n%s", w, verb, ipUsage)
		}
		if err != nil {
			return err
		}
	}
	if r.Family == 0 {
		r.Family = unix.AF_INET
	}
	if verb == "add" {
		if r.Table <= 0 {
			r.Table = unix.RT_TABLE_MAIN
		}
		return answer(netlink.RuleAdd(r))
	}
	return answer(netlink.RuleDel(r))
}
