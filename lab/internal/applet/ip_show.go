package applet

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The JSON forms carry the names that iproute2 gives these fields.

// JSONLink is an interface in the output of `ip -j link` and `ip -j addr`.
type JSONLink struct {
	Index     int           `json:"ifindex"`
	Name      string        `json:"ifname"`
	Up        bool          `json:"up"`
	MTU       int           `json:"mtu"`
	LinkType  string        `json:"link_type"`
	Address   string        `json:"address,omitempty"`
	Addresses []JSONAddress `json:"addr_info,omitempty"`
}

// JSONAddress is an address of an interface.
type JSONAddress struct {
	Family    string `json:"family"` // inet or inet6
	Local     string `json:"local"`
	PrefixLen int    `json:"prefixlen"`
}

// JSONRoute is a route in the output of `ip -j route`.
type JSONRoute struct {
	Type      string     `json:"type"`
	Dst       string     `json:"dst"` // a prefix; 0.0.0.0/0 or ::/0 for the default route
	Gateway   string     `json:"gateway,omitempty"`
	Dev       string     `json:"dev,omitempty"`
	Table     string     `json:"table"`
	Protocol  string     `json:"protocol"`
	Metric    int        `json:"metric,omitempty"`
	PrefSrc   string     `json:"prefsrc,omitempty"`
	MTU       int        `json:"mtu,omitempty"`
	Multipath []JSONNext `json:"nexthops,omitempty"`
}

// JSONNext is one of several next hops of a route.
type JSONNext struct {
	Gateway string `json:"gateway,omitempty"`
	Dev     string `json:"dev,omitempty"`
}

// JSONRule is a routing rule in the output of `ip -j rule`.
type JSONRule struct {
	Family   string `json:"family"` // inet or inet6
	Priority int    `json:"priority"`
	Src      string `json:"src"` // a prefix or all
	Dst      string `json:"dst,omitempty"`
	Iif      string `json:"iif,omitempty"`
	Mark     uint32 `json:"fwmark,omitempty"`
	Table    string `json:"table,omitempty"`
	Action   string `json:"action,omitempty"`
}

func (c *ipCommand) print(list any, text func()) error {
	if !c.json {
		text()
		return nil
	}
	return json.NewEncoder(c.out.Out).Encode(list)
}

// filterDev reads the optional [dev] D of a show command.
func (c *ipCommand) filterDev() (string, error) {
	dev := ""
	for len(c.words) > 0 {
		w := c.next()
		if w == "dev" {
			w = c.next()
		}
		if dev != "" || w == "" {
			return "", usagef("show takes one device\n%s", ipUsage)
		}
		dev = w
	}
	return dev, nil
}

func (c *ipCommand) links(addresses bool) ([]JSONLink, error) {
	dev, err := c.filterDev()
	if err != nil {
		return nil, err
	}
	links, err := netlink.LinkList()
	if err != nil {
		return nil, answer(err)
	}
	list := []JSONLink{}
	for _, l := range links {
		a := l.Attrs()
		if dev != "" && a.Name != dev {
			continue
		}
		j := JSONLink{Index: a.Index, Name: a.Name, Up: a.Flags&net.FlagUp != 0, MTU: a.MTU, LinkType: l.Type(), Address: a.HardwareAddr.String()}
		if addresses {
			addrs, err := netlink.AddrList(l, c.family)
			if err != nil {
				return nil, answer(err)
			}
			for _, ad := range addrs {
				p := toPrefix(ad.IPNet)
				j.Addresses = append(j.Addresses, JSONAddress{familyName(familyOf(p.Addr())), p.Addr().String(), p.Bits()})
			}
		}
		list = append(list, j)
	}
	if dev != "" && len(list) == 0 {
		return nil, fmt.Errorf("cannot find device %q", dev)
	}
	return list, nil
}

func (c *ipCommand) showLinks() error {
	list, err := c.links(false)
	if err != nil {
		return err
	}
	return c.print(list, func() {
		for _, l := range list {
			fmt.Fprintln(c.out.Out, linkText(l))
		}
	})
}

func (c *ipCommand) showAddresses() error {
	list, err := c.links(true)
	if err != nil {
		return err
	}
	return c.print(list, func() {
		for _, l := range list {
			fmt.Fprintln(c.out.Out, linkText(l))
			for _, a := range l.Addresses {
				fmt.Fprintf(c.out.Out, "    %s %s/%d\n", a.Family, a.Local, a.PrefixLen)
			}
		}
	})
}

func linkText(l JSONLink) string {
	state := "DOWN"
	if l.Up {
		state = "UP"
	}
	s := fmt.Sprintf("%d: %s: <%s> mtu %d type %s", l.Index, l.Name, state, l.MTU, l.LinkType)
	if l.Address != "" {
		s += " link/ether " + l.Address
	}
	return s
}

// routes lists the routes of a table (0: all tables) of the families.
func routes(families []int, table int) ([]JSONRoute, error) {
	names := map[int]string{}
	links, err := netlink.LinkList()
	if err != nil {
		return nil, answer(err)
	}
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	list := []JSONRoute{}
	for _, family := range families {
		found, err := netlink.RouteListFiltered(family, &netlink.Route{Table: table}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return nil, answer(err)
		}
		for _, r := range found {
			list = append(list, routeJSON(r, family, names))
		}
	}
	return list, nil
}

func routeJSON(r netlink.Route, family int, names map[int]string) JSONRoute {
	j := JSONRoute{
		Type: routeTypeName(r.Type), Dst: "0.0.0.0/0", Dev: names[r.LinkIndex], Table: routeTableName(r.Table),
		Protocol: r.Protocol.String(), Metric: r.Priority, MTU: r.MTU,
	}
	if family == unix.AF_INET6 {
		j.Dst = "::/0"
	}
	if r.Dst != nil {
		j.Dst = toPrefix(r.Dst).String()
	}
	if r.Gw != nil {
		j.Gateway = r.Gw.String()
	}
	if r.Src != nil {
		j.PrefSrc = r.Src.String()
	}
	for _, n := range r.MultiPath {
		j.Multipath = append(j.Multipath, JSONNext{Gateway: n.Gw.String(), Dev: names[n.LinkIndex]})
	}
	return j
}

func (c *ipCommand) showRoutes() error {
	table := unix.RT_TABLE_MAIN
	for len(c.words) > 0 {
		w := c.next()
		if w != "table" {
			return usagef("%q is not known in route show; expected table T or table all", w)
		}
		if len(c.words) > 0 && (c.words[0] == "all" || c.words[0] == "0") {
			c.next()
			table = unix.RT_TABLE_UNSPEC
			continue
		}
		var err error
		if table, err = c.table(w); err != nil {
			return err
		}
	}
	// Like iproute2: without -6 only IPv4, but all tables mean both families.
	families := c.families(unix.AF_INET)
	if table == unix.RT_TABLE_UNSPEC {
		families = c.families(unix.AF_INET, unix.AF_INET6)
	}
	list, err := routes(families, table)
	if err != nil {
		return err
	}
	return c.print(list, func() {
		for _, r := range list {
			fmt.Fprintln(c.out.Out, routeText(r, table == unix.RT_TABLE_UNSPEC))
		}
	})
}

func routeText(r JSONRoute, withTable bool) string {
	var b strings.Builder
	if r.Type != "unicast" {
		b.WriteString(r.Type + " ")
	}
	if p, err := netip.ParsePrefix(r.Dst); err == nil && p.Bits() == 0 {
		b.WriteString("default")
	} else {
		b.WriteString(r.Dst)
	}
	add := func(word, value string) {
		if value != "" {
			b.WriteString(" " + word + " " + value)
		}
	}
	add("via", r.Gateway)
	add("dev", r.Dev)
	for _, n := range r.Multipath {
		b.WriteString(" nexthop")
		add("via", n.Gateway)
		add("dev", n.Dev)
	}
	if withTable && r.Table != "main" {
		add("table", r.Table)
	}
	add("proto", r.Protocol)
	add("src", r.PrefSrc)
	if r.Metric != 0 {
		add("metric", fmt.Sprint(r.Metric))
	}
	if r.MTU != 0 {
		add("mtu", fmt.Sprint(r.MTU))
	}
	return b.String()
}

func (c *ipCommand) getRoute() error {
	dst, err := c.address("route get")
	if err != nil {
		return err
	}
	opts := &netlink.RouteGetOptions{}
	for len(c.words) > 0 {
		w := c.next()
		if w != "from" {
			return usagef("%q is not known in route get", w)
		}
		src, err := c.address(w)
		if err != nil {
			return err
		}
		opts.SrcAddr = src.AsSlice()
	}
	found, err := netlink.RouteGetWithOptions(dst.AsSlice(), opts)
	if err != nil {
		return answer(err)
	}
	list := []JSONRoute{}
	for _, r := range found {
		names := map[int]string{}
		if l, err := netlink.LinkByIndex(r.LinkIndex); err == nil {
			names[r.LinkIndex] = l.Attrs().Name
		}
		list = append(list, routeJSON(r, familyOf(dst), names))
	}
	return c.print(list, func() {
		for _, r := range list {
			fmt.Fprintln(c.out.Out, routeText(r, true))
		}
	})
}

func rules(families []int) ([]JSONRule, error) {
	list := []JSONRule{}
	for _, family := range families {
		found, err := netlink.RuleList(family)
		if err != nil {
			return nil, answer(err)
		}
		slices.SortStableFunc(found, func(a, b netlink.Rule) int { return rulePriority(a) - rulePriority(b) })
		for _, r := range found {
			j := JSONRule{Family: familyName(family), Priority: rulePriority(r), Src: "all", Iif: r.IifName, Mark: r.Mark}
			if r.Src != nil {
				j.Src = toPrefix(r.Src).String()
			}
			if r.Dst != nil {
				j.Dst = toPrefix(r.Dst).String()
			}
			if r.Table > 0 {
				j.Table = routeTableName(r.Table)
			} else {
				j.Action = fmt.Sprintf("type %d", r.Type)
			}
			list = append(list, j)
		}
	}
	return list, nil
}

// rulePriority: the library gives -1 for the first rule, whose priority is 0.
func rulePriority(r netlink.Rule) int { return max(r.Priority, 0) }

func (c *ipCommand) showRules() error {
	if len(c.words) > 0 {
		return usagef("%q is not known in rule show", c.words[0])
	}
	families := c.families(unix.AF_INET)
	list, err := rules(families)
	if err != nil {
		return err
	}
	return c.print(list, func() {
		for _, r := range list {
			s := fmt.Sprintf("%d:\tfrom %s", r.Priority, r.Src)
			if r.Dst != "" {
				s += " to " + r.Dst
			}
			if r.Iif != "" {
				s += " iif " + r.Iif
			}
			if r.Mark != 0 {
				s += fmt.Sprintf(" fwmark %#x", r.Mark)
			}
			if r.Table != "" {
				s += " lookup " + r.Table
			} else {
				s += " " + r.Action
			}
			fmt.Fprintln(c.out.Out, s)
		}
	})
}

var neighbourStates = []struct {
	bit  int
	name string
}{
	{netlink.NUD_INCOMPLETE, "INCOMPLETE"}, {netlink.NUD_REACHABLE, "REACHABLE"}, {netlink.NUD_STALE, "STALE"},
	{netlink.NUD_DELAY, "DELAY"}, {netlink.NUD_PROBE, "PROBE"}, {netlink.NUD_FAILED, "FAILED"},
	{netlink.NUD_NOARP, "NOARP"}, {netlink.NUD_PERMANENT, "PERMANENT"},
}

func (c *ipCommand) showNeighbours() error {
	dev, err := c.filterDev()
	if err != nil {
		return err
	}
	links, err := netlink.LinkList()
	if err != nil {
		return answer(err)
	}
	for _, l := range links {
		if dev != "" && l.Attrs().Name != dev {
			continue
		}
		for _, family := range c.families(unix.AF_INET, unix.AF_INET6) {
			found, err := netlink.NeighList(l.Attrs().Index, family)
			if err != nil {
				return answer(err)
			}
			for _, n := range found {
				if n.State == netlink.NUD_NOARP {
					continue
				}
				state := "NONE"
				for _, s := range neighbourStates {
					if n.State&s.bit != 0 {
						state = s.name
					}
				}
				fmt.Fprintf(c.out.Out, "%s dev %s lladdr %s %s\n", n.IP, l.Attrs().Name, n.HardwareAddr, state)
			}
		}
	}
	return nil
}

func familyName(family int) string {
	if family == unix.AF_INET6 {
		return "inet6"
	}
	return "inet"
}

func toPrefix(n *net.IPNet) netip.Prefix {
	a, _ := netip.AddrFromSlice(n.IP)
	ones, bits := n.Mask.Size()
	if bits == 32 {
		a = a.Unmap()
	}
	return netip.PrefixFrom(a, ones)
}
