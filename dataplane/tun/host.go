package tun

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/eidolon-lisp/eidolon/mapping"
)

// What marks our routes and rules, and where they stand.
const (
	// Protocol is the routing protocol number of everything that this package
	// adds to the kernel's tables. Nothing with another number is touched.
	Protocol = 141
	// The rules, in the order in which the kernel looks at them.
	prioToSite   = 1000 // to a local EID: the site's own routes, no default
	prioNoSite   = 1001 // to a local EID that has none: unreachable
	prioFromSite = 1002 // from a local EID: the instance's table
	// Metrics in the instance's table. The second route is what remains when
	// the process is killed and its device is gone with it.
	metricDevice      = 100
	metricUnreachable = 4278198272
)

// host is what the plane sets up in the kernel's routing:
//
//	1000  to EID  lookup main, a default route suppressed
//	1001  to EID  unreachable
//	1002  from EID  lookup TABLE
//	1000, 1002  the same for each of Config.Guarded
//	1100  to PREFIX iif lo  lookup TABLE    (on a host, for each of Config.Host)
//	TABLE: default dev eidolonIID metric 100
//	       unreachable default metric 4278198272
//	main:  PREFIX dev eidolonIID metric 100    (for each of Config.ProxyITR)
//	       unreachable PREFIX metric 4278198272
//
// Packets from an EID so never follow a provider's route, and packets to one
// never leave the site, whether a process is there or not.
type host struct {
	h         *netlink.Handle
	table     int // of the first instance; the next ones follow
	instances []Instance
	locals    []mapping.EID
	attracted []mapping.EID // of the proxy-ITR
	cfg       *Config
	marker    int                     // index of the marker device, see proxy.go
	ruled     map[string]netlink.Rule // those of rules that are there, by key
	routed    int                     // how many families have their routes

	begun    bool // setUp was called
	leftover bool // it found rules of an earlier run
}

func newHost(cfg *Config) (*host, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket: %w", err)
	}
	return &host{h: h, table: cfg.Table, instances: cfg.Instances, locals: cfg.Locals, attracted: cfg.ProxyITR, cfg: cfg, ruled: make(map[string]netlink.Rule)}, nil
}

func (s *host) close() { s.h.Close() }

// families are the IP families that local EIDs and those of proxies need.
func (s *host) families() []int {
	var list []int
	for _, e := range slices.Concat(s.locals, s.cfg.Guarded, s.attracted, s.cfg.ProxyETR) {
		f := family(e.Prefix.Addr())
		if !slices.Contains(list, f) {
			list = append(list, f)
		}
	}
	return list
}

func family(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func familyName(f int) string {
	if f == unix.AF_INET {
		return "IPv4"
	}
	return "IPv6"
}

// setUp brings the devices up and adds routes and rules, then removes what an
// earlier run left and this one does not want. Nothing that is wanted is ever
// missing in between.
func (s *host) setUp(mtu int) error {
	s.begun, s.leftover = true, s.present()
	wantRoutes := make(map[string]bool)
	if err := s.setUpMarker(); err != nil {
		return err
	}
	for i, in := range s.instances {
		link, err := s.h.LinkByName(in.Device)
		if err != nil {
			return fmt.Errorf("find device %s: %w", in.Device, err)
		}
		// Only packets of hosts should come out of the device: no link-local
		// address, no router solicitations. Old kernels can't say so.
		_ = s.h.LinkSetIP6AddrGenMode(link, addrGenNone)
		if err := s.h.LinkSetMTU(link, mtu); err != nil {
			return fmt.Errorf("set the MTU of %s to %d: %w", in.Device, mtu, err)
		}
		if err := s.h.LinkSetUp(link); err != nil {
			return fmt.Errorf("bring %s up: %w", in.Device, err)
		}
		unfilter(in.Device)
		if err := s.addAddresses(i, link); err != nil {
			return err
		}
		more, err := s.addRoutes(i, link.Attrs().Index)
		if err != nil {
			return err
		}
		maps.Copy(wantRoutes, more)
		for _, r := range s.attractRoutes(i, link.Attrs().Index) {
			if err := s.h.RouteReplace(&r); err != nil {
				return fmt.Errorf("add the route to %v, for which this is a proxy-ITR: %w", r.Dst, err)
			}
			wantRoutes[routeKey(&r)] = true
		}
	}
	wantRules := make(map[string]bool)
	s.routed = len(s.families())
	rules := s.rules()
	for i, r := range append(rules, s.hostRules()...) {
		if err := s.addRule(&r); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("add rule %q: %w", ruleKey(&r), err)
		}
		wantRules[ruleKey(&r)] = true
		if i < len(rules) {
			s.ruled[ruleKey(&r)] = r
		}
	}
	return s.remove(wantRoutes, wantRules)
}

// addRoutes adds the routes of instance i in the families that are needed, or
// replaces them, and returns their keys.
func (s *host) addRoutes(i, link int) (keys map[string]bool, err error) {
	keys = make(map[string]bool)
	for _, f := range s.families() {
		for _, r := range s.routes(i, f, link) {
			if err := s.h.RouteReplace(&r); err != nil {
				if f == unix.AF_INET6 && sysctl("net/ipv6/conf/"+s.instances[i].Device+"/disable_ipv6") != "0" {
					err = fmt.Errorf("%w: IPv6 is off in this kernel or by net.ipv6.conf.default.disable_ipv6, and there are IPv6 EIDs", err)
				}
				return nil, fmt.Errorf("add the %s default route of table %d: %w", familyName(f), r.Table, err)
			}
			keys[routeKey(&r)] = true
		}
	}
	return keys, nil
}

// setLocals replaces the local EIDs: rules of new ones are added before those of
// others are removed.
func (s *host) setLocals(locals []mapping.EID) error {
	s.locals = locals
	var errs []error
	if n := len(s.families()); n > s.routed {
		for i, in := range s.instances {
			link, err := s.h.LinkByName(in.Device)
			if err == nil {
				_, err = s.addRoutes(i, link.Attrs().Index)
			}
			errs = append(errs, err)
		}
		if errors.Join(errs...) == nil {
			s.routed = n
		}
	}
	wanted := make(map[string]bool)
	for _, r := range s.rules() {
		key := ruleKey(&r)
		wanted[key] = true
		if _, ok := s.ruled[key]; ok {
			continue
		}
		if err := s.addRule(&r); err != nil && !errors.Is(err, unix.EEXIST) {
			errs = append(errs, fmt.Errorf("add rule %q: %w", key, err))
			continue
		}
		s.ruled[key] = r
	}
	for key, r := range s.ruled {
		if wanted[key] {
			continue
		}
		if err := s.h.RuleDel(&r); err != nil && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("remove rule %q: %w", key, err))
			continue
		}
		delete(s.ruled, key)
	}
	return errors.Join(errs...)
}

// addrGenNone is IN6_ADDR_GEN_MODE_NONE.
const addrGenNone = 1

// routes returns those of instance i in a family.
func (s *host) routes(i, family, link int) []netlink.Route {
	any4, any6 := net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}, net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
	dst := any4
	if family == unix.AF_INET6 {
		dst = any6
	}
	scope := netlink.SCOPE_LINK
	if family == unix.AF_INET6 {
		scope = netlink.SCOPE_UNIVERSE
	}
	device := netlink.Route{Family: family, Dst: &dst, Table: s.table + i, Protocol: Protocol, Priority: metricDevice, LinkIndex: link, Scope: scope}
	if a := s.ownAddress(s.instances[i].IID, family); a.IsValid() {
		device.Src = a.AsSlice()
	}
	return []netlink.Route{
		{Family: family, Dst: &dst, Table: s.table + i, Protocol: Protocol, Priority: metricUnreachable, Type: unix.RTN_UNREACHABLE}, device,
	}
}

// rules returns those of all local EIDs and of what is guarded, in the order in
// which they are added: what keeps packets in the site before what sends them
// out.
func (s *host) rules() []netlink.Rule {
	var list []netlink.Rule
	for n, e := range slices.Concat(s.locals, s.cfg.Guarded) {
		guarded := n >= len(s.locals)
		if guarded && slices.Contains(s.locals, e) {
			continue
		}
		i := slices.IndexFunc(s.instances, func(in Instance) bool { return in.IID == e.IID })
		if i < 0 {
			continue
		}
		p := &net.IPNet{IP: e.Prefix.Addr().AsSlice(), Mask: net.CIDRMask(e.Prefix.Bits(), e.Prefix.Addr().BitLen())}
		f := family(e.Prefix.Addr())
		rule := func(prio int) netlink.Rule {
			r := *netlink.NewRule()
			r.Family, r.Priority, r.Protocol = f, prio, Protocol
			return r
		}
		to, no, from := rule(prioToSite), rule(prioNoSite), rule(prioFromSite)
		to.Dst, to.Table, to.SuppressPrefixlen = p, unix.RT_TABLE_MAIN, 0
		no.Dst, no.Type = p, unix.RTN_UNREACHABLE
		from.Src, from.Table = p, s.table+i
		if s.instances[i].Native {
			from.SuppressIfgroup = markerGroup
		}
		list = append(list, to)
		if !guarded { // what else is inside may be another site's
			list = append(list, no)
		}
		list = append(list, from)
	}
	return list
}

// remove deletes every route and rule of ours that is not wanted.
func (s *host) remove(wantRoutes, wantRules map[string]bool) error {
	var errs []error
	missing := maps.Clone(wantRules)
	for _, f := range []int{unix.AF_INET, unix.AF_INET6} {
		rules, err := s.h.RuleList(f)
		if err != nil {
			if f == unix.AF_INET6 { // a kernel without IPv6 has nothing to remove
				continue
			}
			return fmt.Errorf("list the %s rules: %w", familyName(f), err)
		}
		for _, r := range rules {
			r.Family = f
			if r.Protocol == Protocol {
				delete(missing, ruleKey(&r))
			}
			if r.Protocol != Protocol || wantRules[ruleKey(&r)] {
				continue
			}
			if err := s.h.RuleDel(&r); err != nil && !errors.Is(err, unix.ENOENT) {
				errs = append(errs, fmt.Errorf("remove rule %q: %w", ruleKey(&r), err))
			}
		}
		routes, err := s.h.RouteListFiltered(f, &netlink.Route{Protocol: Protocol, Table: unix.RT_TABLE_UNSPEC},
			netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
		if err != nil {
			errs = append(errs, fmt.Errorf("list the %s routes: %w", familyName(f), err))
			continue
		}
		for _, r := range routes {
			r.Family = f
			if wantRoutes[routeKey(&r)] {
				continue
			}
			if err := s.h.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.ENOENT) {
				errs = append(errs, fmt.Errorf("remove route %q: %w", routeKey(&r), err))
			}
		}
	}
	for key := range missing {
		errs = append(errs, fmt.Errorf("rule %q is not as it was added", key))
	}
	return errors.Join(errs...)
}

func routeKey(r *netlink.Route) string {
	dst := "default"
	if r.Dst != nil {
		if ones, _ := r.Dst.Mask.Size(); ones > 0 {
			dst = r.Dst.String()
		}
	}
	return fmt.Sprintf("to %s family %d table %d type %d metric %d", dst, r.Family, r.Table, max(r.Type, unix.RTN_UNICAST), uint32(r.Priority))
}

func ruleKey(r *netlink.Rule) string {
	key := fmt.Sprintf("%d: from %v to %v table %d", r.Priority, prefixText(r.Src), prefixText(r.Dst), r.Table)
	if r.SuppressIfgroup >= 0 {
		key += fmt.Sprintf(", but not to devices of group %d", r.SuppressIfgroup)
	}
	return key
}

func prefixText(p *net.IPNet) string {
	if p == nil {
		return "all"
	}
	if bits, _ := p.Mask.Size(); bits == 0 { // the kernel does not tell it
		return "all"
	}
	return p.String()
}

// present reports whether any rule of ours exists.
func (s *host) present() bool {
	for _, f := range []int{unix.AF_INET, unix.AF_INET6} {
		rules, _ := s.h.RuleList(f)
		if slices.ContainsFunc(rules, func(r netlink.Rule) bool { return r.Protocol == Protocol }) {
			return true
		}
	}
	return false
}

// tearDown removes everything that setUp added, and what earlier runs did.
func (s *host) tearDown() error { return s.remove(nil, nil) }

// undo is tearDown after a failed start. It removes nothing when setUp was not
// reached, because what is there may be another process's; and nothing when an
// earlier run was killed, so that the site stays closed.
func (s *host) undo() error {
	if !s.begun || s.leftover {
		return nil
	}
	return s.tearDown()
}

// ErrRunning is returned by Cleanup while the plane of a process is there.
var ErrRunning = errors.New("data plane: an xtr is running")

// Cleanup removes the routes and rules that a killed plane has left in this
// network namespace. From then on packets of the site are forwarded like any
// others. It fails with ErrRunning when the plane is not dead.
func Cleanup() error {
	s, err := newHost(&Config{})
	if err != nil {
		return err
	}
	defer s.close()
	for _, f := range []int{unix.AF_INET, unix.AF_INET6} {
		routes, err := s.h.RouteListFiltered(f, &netlink.Route{Protocol: Protocol, Table: unix.RT_TABLE_UNSPEC},
			netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
		if err != nil {
			continue // a kernel without IPv6; remove says the rest
		}
		// The devices, and with them the routes by them, end with the process.
		if slices.ContainsFunc(routes, func(r netlink.Route) bool { return r.Type == unix.RTN_UNICAST }) {
			return ErrRunning
		}
	}
	return s.tearDown()
}
