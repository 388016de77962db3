package uplink

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func family(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// wanted returns the routes and rules that the uplinks need.
func (w *Watcher) wanted(uplinks []uplink) (routes []netlink.Route, rules []netlink.Rule, err error) {
	for _, f := range []int{unix.AF_INET, unix.AF_INET6} {
		if !slices.ContainsFunc(uplinks, func(u uplink) bool { return u.has(f) }) {
			continue
		}
		main, err := w.h.RouteListFiltered(f, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return nil, nil, fmt.Errorf("list the routes: %w", err)
		}
		if large := len(main) > maxRoutes; large != w.large {
			w.large = large
			if large {
				w.log.Warn("the main routing table is large: the tables of the uplinks get the connected networks and the default only", "routes", len(main))
			}
		}
		for _, u := range uplinks {
			if u.has(f) {
				routes = append(routes, u.routes(f, main, uplinks, w.large)...)
			}
		}
	}
	for _, u := range uplinks {
		for _, a := range u.addrs {
			r := *netlink.NewRule()
			r.Family, r.Priority, r.Protocol, r.Table = family(a), rulePriority, Protocol, u.table
			r.Src = &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
			rules = append(rules, r)
		}
	}
	return routes, rules, nil
}

func (u *uplink) has(f int) bool {
	return slices.ContainsFunc(u.addrs, func(a netip.Addr) bool { return family(a) == f })
}

// routes returns the content of the uplink's table for one family.
func (u *uplink) routes(f int, main []netlink.Route, uplinks []uplink, large bool) []netlink.Route {
	gateway, given := u.Gateway4, u.Gateway4.IsValid()
	if f == unix.AF_INET6 {
		gateway, given = u.Gateway6, u.Gateway6.IsValid()
	}
	var out []netlink.Route
	found, metric := false, 0 // the default route of the main table by this uplink
	for _, r := range main {
		if isDefault(r.Dst) {
			if via, ok := u.by(r); ok && (!found || r.Priority < metric) && !given {
				gateway, found, metric = via, true, r.Priority
			}
			continue
		}
		if r.Type > unix.RTN_UNICAST && r.Type != unix.RTN_UNREACHABLE && r.Type != unix.RTN_BLACKHOLE && r.Type != unix.RTN_PROHIBIT {
			continue
		}
		if ip, _ := netip.AddrFromSlice(r.Dst.IP); ip.IsLinkLocalUnicast() || ip.IsMulticast() {
			continue
		}
		if large && r.Protocol != unix.RTPROT_KERNEL {
			continue
		}
		if r.LinkIndex != u.index && slices.ContainsFunc(uplinks, func(o uplink) bool { return o.index == r.LinkIndex }) || len(r.MultiPath) > 0 {
			continue
		}
		out = append(out, netlink.Route{
			Family: f, Table: u.table, Protocol: Protocol, Dst: r.Dst, Type: r.Type, LinkIndex: r.LinkIndex, Gw: r.Gw, Scope: r.Scope, Priority: max(r.Priority, 1), Flags: r.Flags & unix.RTNH_F_ONLINK,
		})
	}
	if !u.up && !found && !given {
		return out
	}
	all := &net.IPNet{IP: make(net.IP, map[int]int{unix.AF_INET: 4, unix.AF_INET6: 16}[f]), Mask: make(net.IPMask, map[int]int{unix.AF_INET: 4, unix.AF_INET6: 16}[f])}
	def := netlink.Route{Family: f, Table: u.table, Protocol: Protocol, Dst: all, Type: unix.RTN_UNICAST, LinkIndex: u.index, Priority: 1}
	switch {
	case gateway.IsValid():
		def.Gw = gateway.AsSlice()
		if given {
			def.Flags = unix.RTNH_F_ONLINK
		}
	case found || u.ptp:
		def.Scope = netlink.SCOPE_LINK
	default:
		return out
	}
	return append(out, def)
}

// by reports whether a route leaves by the uplink, and its gateway, which may
// be none.
func (u *uplink) by(r netlink.Route) (via netip.Addr, ok bool) {
	if r.LinkIndex == u.index && len(r.MultiPath) == 0 {
		via, _ = netip.AddrFromSlice(r.Gw)
		return via.Unmap(), true
	}
	for _, hop := range r.MultiPath {
		if hop.LinkIndex == u.index {
			via, _ = netip.AddrFromSlice(hop.Gw)
			return via.Unmap(), true
		}
	}
	return netip.Addr{}, false
}

func isDefault(p *net.IPNet) bool {
	if p == nil {
		return true
	}
	ones, _ := p.Mask.Size()
	return ones == 0
}

// Cleanup removes the tables and rules that a killed process has left in this
// network namespace. While a process has a Watcher, they are that one's, and it
// puts them back within half a minute. It needs CAP_NET_ADMIN.
func Cleanup() error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open a netlink socket: %w", err)
	}
	defer h.Close()
	return apply(h, nil, nil)
}

// apply brings routes and rules of our protocol in line with what is wanted:
// first what is missing, rules last, then what is too much, rules first.
func apply(h *netlink.Handle, routes []netlink.Route, rules []netlink.Rule) error {
	var errs []error
	haveRoutes, haveRules := make(map[string]netlink.Route), make(map[string]netlink.Rule)
	for _, f := range []int{unix.AF_INET, unix.AF_INET6} {
		list, err := h.RouteListFiltered(f, &netlink.Route{Protocol: Protocol, Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
		if err != nil && f == unix.AF_INET {
			return fmt.Errorf("list our routes: %w", err)
		}
		for _, r := range list {
			r.Family = f
			haveRoutes[routeKey(&r)] = r
		}
		ruleList, err := h.RuleList(f)
		if err != nil && f == unix.AF_INET {
			return fmt.Errorf("list the rules: %w", err)
		}
		for _, r := range ruleList {
			if r.Protocol == Protocol {
				r.Family = f
				haveRules[ruleKey(&r)] = r
			}
		}
	}
	// A network before what is reached through it.
	slices.SortStableFunc(routes, func(a, b netlink.Route) int { return len(a.Gw) - len(b.Gw) })
	for i := range routes {
		r := &routes[i]
		key := routeKey(r)
		if _, ok := haveRoutes[key]; ok {
			delete(haveRoutes, key)
			continue
		}
		// Others may have gone with an interface meanwhile; then there is
		// another event.
		if err := h.RouteReplace(r); err != nil && !errors.Is(err, unix.ENETDOWN) && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.ENETUNREACH) {
			errs = append(errs, fmt.Errorf("add route %s: %w", key, err))
		}
	}
	for i := range rules {
		r := &rules[i]
		key := ruleKey(r)
		if _, ok := haveRules[key]; ok {
			delete(haveRules, key)
			continue
		}
		if err := h.RuleAdd(r); err != nil && !errors.Is(err, unix.EEXIST) {
			errs = append(errs, fmt.Errorf("add rule %s: %w", key, err))
		}
	}
	for key, r := range haveRules {
		if err := h.RuleDel(&r); err != nil && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("remove rule %s: %w", key, err))
		}
	}
	for key, r := range haveRoutes {
		if err := h.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENODEV) {
			errs = append(errs, fmt.Errorf("remove route %s: %w", key, err))
		}
	}
	return errors.Join(errs...)
}

func routeKey(r *netlink.Route) string {
	dst := "default"
	if !isDefault(r.Dst) {
		dst = r.Dst.String()
	}
	return fmt.Sprintf("family %d table %d %s type %d dev %d via %v metric %d", r.Family, r.Table, dst, max(r.Type, unix.RTN_UNICAST), r.LinkIndex, r.Gw, r.Priority)
}

func ruleKey(r *netlink.Rule) string {
	return fmt.Sprintf("%d: from %v table %d", r.Priority, r.Src, r.Table)
}
