package tun

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/dataplane/dptest"
	"github.com/eidolon-lisp/eidolon/dataplane/dptest/sites"
	"github.com/eidolon-lisp/eidolon/internal/netns"
	"github.com/eidolon-lisp/eidolon/mapping"
)

// onlyDrops fails unless all drops are of what hosts and kernels send on their
// own, and of the given reasons.
func onlyDrops(t *testing.T, a sites.Answer, allowed ...dataplane.DropReason) {
	t.Helper()
	for name, n := range a.Stats {
		reason, drop := strings.CutPrefix(name, "drop_")
		if drop && reason != "multicast" && reason != "not_routable" &&
			!slices.ContainsFunc(allowed, func(r dataplane.DropReason) bool { return r.String() == reason }) {
			t.Errorf("%s is %d", name, n)
		}
	}
}

// All four combinations of families carry TCP both ways, unchanged, and the
// planes know from which RLOCs the packets came.
func TestDP1_TCPThroughAllFamilies(t *testing.T) {
	tp := sites.New(t)
	for _, outer6 := range []bool{false, true} {
		a, b := tp.Start(t, outer6)
		sites.Transfer(t, tp.HostA, tp.HostB, sites.HostB4, 3<<20)
		sites.Transfer(t, tp.HostB, tp.HostA, sites.HostA4, 3<<20)
		sites.Transfer(t, tp.HostA, tp.HostB, sites.HostB6, 3<<20)
		sites.Transfer(t, tp.HostB, tp.HostA, sites.HostA6, 3<<20)
		for _, s := range []sites.Answer{a.State(), b.State()} {
			// Under an IPv6 header less fits than the device's MTU says, which
			// hosts learn from a message about the first packets.
			onlyDrops(t, s, dataplane.DropTooBig)
			if !outer6 && s.Stats["drop_too_big"] > 0 {
				t.Error("the kernel did not tell hosts of the device's MTU")
			}
			if s.Stats["encap_bytes"] < 6<<20 || s.Stats["decap_bytes"] < 6<<20 || s.Stats["send_calls"] > s.Stats["encap_packets"]/4 {
				t.Errorf("counters %v", s.Stats)
			}
		}
		fromB, fromA := sites.RLOCB4, sites.RLOCA4
		if outer6 {
			fromB, fromA = sites.RLOCB6, sites.RLOCA6
		}
		if h := a.Ask("heard").Heard; !slices.Equal(h, []netip.Addr{fromB}) {
			t.Errorf("one site heard of %v, want %v", h, fromB)
		}
		if h := b.Ask("heard").Heard; !slices.Equal(h, []netip.Addr{fromA}) {
			t.Errorf("the other heard of %v, want %v", h, fromA)
		}
		a.Exit()
		b.Exit()
	}
}

// With map-versions on both sides traffic flows, with offloads; a site whose
// mapping has gone on tells that packets come by the old one, and still takes
// them.
func TestDP25_VersionsOnTheWire(t *testing.T) {
	tp := sites.New(t)
	withVersion := func(c sites.Config, own mapping.Version, other uint16) sites.Config {
		c.Version = own
		for i := range c.Entries {
			c.Entries[i].Version = other
		}
		return c
	}
	a := sites.Start(t, tp.XTRA, withVersion(sites.ConfigA(sites.RLOCB4), 7, 4094))
	b := sites.Start(t, tp.XTRB, withVersion(sites.ConfigB(sites.RLOCA4), 4094, 7))
	sites.Transfer(t, tp.HostA, tp.HostB, sites.HostB4, 1<<20)
	for _, x := range []*sites.XTR{a, b} {
		s := x.State()
		onlyDrops(t, s, dataplane.DropTooBig)
		if ev := x.Ask("versions").Versions; len(ev) != 0 || s.Stats["decap_packets"] == 0 {
			t.Errorf("told %+v, counters %v", ev, s.Stats)
		}
	}
	b.Exit()
	b = sites.Start(t, tp.XTRB, withVersion(sites.ConfigB(sites.RLOCA4), 1, 7)) // two after 4094, around the circle
	sites.Transfer(t, tp.HostA, tp.HostB, sites.HostB4, 1<<20)
	want := dataplane.VersionEvent{Outdated: true, EID: sites.EIDB4, RLOC: sites.RLOCA4, Host: sites.HostA4}
	if ev := b.Ask("versions").Versions; len(ev) == 0 || ev[0] != want {
		t.Errorf("told %+v, want %+v", ev, want)
	}
	wantA := dataplane.VersionEvent{EID: sites.EIDB4, RLOC: sites.RLOCB4, Host: sites.HostB4}
	if ev := a.Ask("versions").Versions; len(ev) == 0 || ev[0] != wantA {
		t.Errorf("told %+v, want %+v", ev, wantA)
	}
}

func TestPathMTU(t *testing.T) {
	sites.PathMTU(t, func(a sites.Answer) { onlyDrops(t, a, dataplane.DropTooBig) })
}

// An IPv6 host never goes below 1280; on a path where that does not fit with
// the outer header, the outer packet is fragmented.
func TestIPv6MinimumOnSmallPath(t *testing.T) {
	tp := sites.New(t)
	sites.Check(t, tp.Core.Do(func() error {
		l, err := netlink.LinkByName("b")
		if err != nil {
			return err
		}
		return netlink.LinkSetMTU(l, 1280)
	}))
	for _, outer6 := range []bool{false, true} {
		a, b := tp.Start(t, outer6)
		sites.Transfer(t, tp.HostA, tp.HostB, sites.HostB6, 300<<10)
		if got, _ := sites.Datagrams(t, tp.HostA, sites.HostA6, tp.HostB, sites.HostB6, true, 1232, 1232); len(got) != 2 {
			t.Errorf("packets of 1280 octets: arrived %v", got)
		}
		if s := a.State(); s.Stats["outer_fragmented"] == 0 {
			t.Errorf("outer IPv6 %v: counters %v", outer6, s.Stats)
		}
		a.Exit()
		b.Exit()
	}
}

func TestTTL(t *testing.T) { sites.TTL(t, func(sites.Answer) {}) }

// Packets of a miss wait for the mapping and arrive.
func TestHoldUntilMapping(t *testing.T) {
	tp := sites.New(t)
	cfg := sites.ConfigA(sites.RLOCB4)
	cfg.Entries, cfg.Hold = nil, true
	a := sites.Start(t, tp.XTRA, cfg)
	sites.Start(t, tp.XTRB, sites.ConfigB(sites.RLOCA4))
	rx, tx := sites.UDPSocket(t, tp.HostB, sites.HostB4, false), sites.UDPSocket(t, tp.HostA, sites.HostA4, false)
	for i := range 5 {
		_, err := tx.WriteTo([]byte{byte(i)}, rx.LocalAddr())
		sites.Check(t, err)
	}
	deadline := time.Now().Add(2 * time.Second)
	var misses []dataplane.Miss
	for len(misses) == 0 && time.Now().Before(deadline) {
		misses = a.Ask("misses").Misses
	}
	if len(misses) != 1 || misses[0] != (dataplane.Miss{Dst: sites.HostB4, Src: sites.HostA4}) {
		t.Fatalf("misses %v", misses)
	}
	// The miss is told with the first; the mapping is to find all of them waiting.
	for a.State().Stats["held_packets"] < 5 && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	a.Apply(sites.Entry{EID: sites.EIDB4, Locators: sites.To(sites.RLOCB4)})
	rx.SetReadDeadline(time.Now().Add(2 * time.Second))
	for i := range 5 {
		var buf [8]byte
		if _, _, err := rx.ReadFrom(buf[:]); err != nil || buf[0] != byte(i) {
			t.Fatalf("packet %d: %d, %v", i, buf[0], err)
		}
	}
	if s := a.State(); s.Stats["held_packets"] != 5 || s.Stats["released_packets"] != 5 {
		t.Errorf("counters %v", s.Stats)
	}
}

// kernelState lists all rules, all routes of all tables, and the links.
func kernelState(t *testing.T, ns *netns.NS) (list []string) {
	t.Helper()
	sites.Check(t, ns.Do(func() error {
		for _, f := range []int{unix.AF_INET, unix.AF_INET6} {
			rules, err := netlink.RuleList(f)
			if err != nil {
				return err
			}
			for _, r := range rules {
				list = append(list, fmt.Sprintf("rule %s protocol %d family %d", ruleKey(&r), r.Protocol, f))
			}
			routes, err := netlink.RouteListFiltered(f, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
			if err != nil {
				return err
			}
			for _, r := range routes {
				// Local and multicast entries come and go with addresses.
				if r.Table == unix.RT_TABLE_LOCAL || r.Dst != nil && r.Dst.IP.IsMulticast() {
					continue
				}
				list = append(list, fmt.Sprintf("route %v via %v %s protocol %d", r.Dst, r.Gw, routeKey(&r), r.Protocol))
			}
		}
		links, err := netlink.LinkList()
		for _, l := range links {
			list = append(list, "link "+l.Attrs().Name)
		}
		return err
	}))
	slices.Sort(list)
	return list
}

// An orderly exit leaves nothing behind, and other people's rules and routes
// alone, even in our own table.
func TestOrderlyExit(t *testing.T) {
	tp := sites.New(t)
	sites.Check(t, tp.XTRA.Do(func() error {
		r := netlink.NewRule()
		r.Priority, r.Table, r.Family, r.Protocol = prioFromSite, 77, unix.AF_INET, 4
		r.Src = &net.IPNet{IP: net.IPv4(10, 7, 0, 0).To4(), Mask: net.CIDRMask(16, 32)}
		_, dst, _ := net.ParseCIDR("10.99.0.0/16")
		return errors.Join(netlink.RuleAdd(r), netlink.RouteAdd(&netlink.Route{Dst: dst, Type: unix.RTN_BLACKHOLE, Table: DefaultTable}))
	}))
	before := kernelState(t, tp.XTRA)
	cfg := sites.ConfigA(sites.RLOCB4)
	cfg.Instances = append(cfg.Instances, sites.Instance{IID: 7, Device: "red"})
	cfg.Locals = append(cfg.Locals, mapping.MustParseEID("[7]10.70.0.0/16"))
	a := sites.Start(t, tp.XTRA, cfg)
	during := kernelState(t, tp.XTRA)
	for _, want := range []string{
		"link eidolon0", "link red",
		"rule 1000: from all to 10.1.0.0/24 table 254 protocol 141 family 2",
		"rule 1001: from all to 10.1.0.0/24 table 0 protocol 141 family 2",
		"rule 1002: from 10.1.0.0/24 to all table 4341 protocol 141 family 2",
		"rule 1002: from 10.70.0.0/16 to all table 4342 protocol 141 family 2",
		"rule 1002: from 2001:db8:a::/64 to all table 4341 protocol 141 family 10",
		"family 2 table 4341 type 1 metric 100 protocol 141",
		"family 2 table 4341 type 7 metric 4278198272 protocol 141",
		"family 10 table 4341 type 7 metric 4278198272 protocol 141",
	} {
		if !slices.ContainsFunc(during, func(s string) bool { return strings.HasSuffix(s, want) }) {
			t.Errorf("%q is not there:\n%s", want, strings.Join(during, "\n"))
		}
	}
	a.Exit()
	if after := kernelState(t, tp.XTRA); !slices.Equal(before, after) {
		t.Errorf("before:\n%s\nafter:\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
	}
}

// connects tries a TCP connection from host A to host B.
func connects(t *testing.T, tp *sites.Topology, dst netip.Addr) error {
	t.Helper()
	l := sites.Listen(t, tp.HostB, dst)
	c, err := sites.Dial(tp.HostA, l.Addr(), 700*time.Millisecond)
	if err == nil {
		c.Close()
	}
	return err
}

// Packets of the site do not take a provider's route, though there is one: not
// without a mapping, and not when the process was killed. A new process needs
// no help, and removes what it does not want.
func TestKilledFailsClosed(t *testing.T) {
	tp := sites.New(t)
	tp.Native(t)
	if err := connects(t, tp, sites.HostB4); err != nil {
		t.Fatalf("the test needs a native way: %v", err)
	}
	cfg := sites.ConfigA(sites.RLOCB4)
	cfg.Entries = nil
	cfg.Locals = append(cfg.Locals, mapping.MustParseEID("10.88.0.0/16"))
	a := sites.Start(t, tp.XTRA, cfg)
	for _, dst := range []netip.Addr{sites.HostB4, sites.HostB6} {
		if err := connects(t, tp, dst); err == nil {
			t.Errorf("%v was reached natively, without a mapping", dst)
		}
	}
	a.Kill()
	for _, dst := range []netip.Addr{sites.HostB4, sites.HostB6} {
		err := connects(t, tp, dst)
		if err == nil {
			t.Errorf("%v was reached natively after the kill", dst)
		}
		// Linux hosts take the ICMPv6 message for a passing trouble.
		if dst.Is4() && !errors.Is(err, unix.EHOSTUNREACH) && !errors.Is(err, unix.ENETUNREACH) {
			t.Errorf("%v: %v, want unreachable at once", dst, err)
		}
	}
	// To addresses of the site that are not routed inside, from outside.
	if err := func() error {
		c, err := sites.Dial(tp.HostB, &net.TCPAddr{IP: net.IPv4(10, 88, 0, 1), Port: 9}, 700*time.Millisecond)
		if err == nil {
			c.Close()
		}
		return err
	}(); err == nil {
		t.Error("an EID that is not in the site was reached")
	}
	sites.Start(t, tp.XTRB, sites.ConfigB(sites.RLOCA4))
	a = sites.Start(t, tp.XTRA, sites.ConfigA(sites.RLOCB4))
	for _, dst := range []netip.Addr{sites.HostB4, sites.HostB6} {
		if err := connects(t, tp, dst); err != nil {
			t.Errorf("after the restart, to %v: %v", dst, err)
		}
	}
	if s := strings.Join(kernelState(t, tp.XTRA), "\n"); strings.Contains(s, "10.88.0.0") {
		t.Errorf("the rule of an EID that is gone is left:\n%s", s)
	}
	a.Exit()
	if s := strings.Join(kernelState(t, tp.XTRA), "\n"); strings.Contains(s, "protocol 141") {
		t.Errorf("left behind:\n%s", s)
	}
}

// A second plane is refused, and the first is none the worse for it.
func TestSecondPlane(t *testing.T) {
	tp := sites.New(t)
	tp.Start(t, false)
	_, a := sites.Try(t, tp.XTRA, sites.ConfigA(sites.RLOCB4))
	if !strings.Contains(a.Err, "eidolon0") || !strings.Contains(a.Err, "another xtr") {
		t.Errorf("error %q", a.Err)
	}
	cfg := sites.ConfigA(sites.RLOCB4)
	cfg.Instances[0].Device, cfg.Table = "other", 9000
	if _, a = sites.Try(t, tp.XTRA, cfg); !strings.Contains(a.Err, "another process") {
		t.Errorf("error %q", a.Err)
	}
	if err := connects(t, tp, sites.HostB4); err != nil {
		t.Error(err)
	}
}

// An address that comes late is bound when it comes.
func TestMissingSource(t *testing.T) {
	tp := sites.New(t)
	late := addr("203.0.113.1")
	cfg := sites.ConfigA(sites.RLOCB4)
	cfg.Sources = []netip.Addr{late, sites.RLOCA6}
	a := sites.Start(t, tp.XTRA, cfg)
	if s := a.State(); !slices.Equal(s.Missing, []netip.Addr{late}) {
		t.Errorf("missing %v", s.Missing)
	}
	sites.Start(t, tp.XTRB, sites.ConfigB(late))
	sites.Check(t, tp.Core.AddRoute(prefix("203.0.113.1/32"), sites.RLOCA4, ""))
	if err := connects(t, tp, sites.HostB4); err == nil {
		t.Error("connected without an address")
	}
	if s := a.State(); s.Stats["drop_send_no_socket"] == 0 {
		t.Errorf("counters %v", s.Stats)
	}
	sites.Check(t, tp.XTRA.AddAddress("up", netip.PrefixFrom(late, 32)))
	deadline := time.Now().Add(4 * time.Second)
	for len(a.State().Missing) > 0 {
		if time.Now().After(deadline) {
			t.Fatal("the address was not bound")
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err := connects(t, tp, sites.HostB4); err != nil {
		t.Error(err)
	}
}

// What comes while nobody reads the device is lost in its queue, and counted.
func TestDeviceDropsAreCounted(t *testing.T) {
	tp := sites.New(t)
	a := sites.Start(t, tp.XTRA, sites.ConfigA(sites.RLOCB4))
	sites.Check(t, a.Process().Signal(unix.SIGSTOP))
	tx := sites.UDPSocket(t, tp.HostA, sites.HostA4, false)
	for range 3000 {
		if _, err := tx.WriteTo([]byte("x"), &net.UDPAddr{IP: sites.HostB4.AsSlice(), Port: 9}); err != nil {
			t.Fatal(err)
		}
	}
	sites.Check(t, a.Process().Signal(unix.SIGCONT))
	deadline := time.Now().Add(2 * time.Second)
	for {
		s := a.State()
		dropped, sent := s.Stats["drop_host_queue"], s.Stats["encap_packets"]
		if all := dropped + sent; dropped > 0 && all >= 3000 && all < 3010 { // a kernel may add its own
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("of 3000 packets %d sent, %d dropped by the device", sent, dropped)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Two instances with devices of their own carry their instance-ID.
func TestInstances(t *testing.T) {
	tp := sites.New(t)
	red := func(e mapping.EID) mapping.EID { e.IID = 7; return e }
	ca, cb := sites.ConfigA(sites.RLOCB4), sites.ConfigB(sites.RLOCA4)
	for _, c := range []*sites.Config{&ca, &cb} {
		c.Instances = []sites.Instance{{IID: 0}, {IID: 7}}
		c.Locals[0] = red(c.Locals[0]) // IPv4 in instance 7, IPv6 in 0
		c.Entries[0].EID = red(c.Entries[0].EID)
	}
	a, b := sites.Start(t, tp.XTRA, ca), sites.Start(t, tp.XTRB, cb)
	sites.Transfer(t, tp.HostA, tp.HostB, sites.HostB4, 1<<20)
	sites.Transfer(t, tp.HostA, tp.HostB, sites.HostB6, 1<<20)
	// The other instance knows nothing of those EIDs.
	a.Apply(sites.Entry{EID: sites.EIDB4, Locators: sites.To(sites.RLOCB4)}, sites.Entry{EID: red(sites.EIDB4), Removed: true})
	if err := connects(t, tp, sites.HostB4); err == nil {
		t.Error("a mapping of another instance was used")
	}
	onlyDrops(t, b.State())
}

// An xTR without CAP_NET_ADMIN, or with settings that are in the way, says what
// to do.
func TestComplaints(t *testing.T) {
	tp := sites.New(t)
	cfg := sites.ConfigA(sites.RLOCB4)
	cfg.DropCapability = true
	if _, a := sites.Try(t, tp.XTRA, cfg); !strings.Contains(a.Err, "CAP_NET_ADMIN") {
		t.Errorf("error %q", a.Err)
	}
	for name, c := range map[string]Config{
		"no instance":         {},
		"no configured":       {Instances: []Instance{{IID: 0}}, Locals: []mapping.EID{mapping.MustParseEID("[7]10.0.0.0/8")}},
		"share":               {Instances: []Instance{{IID: 1}, {IID: 1}}},
		"source RLOC":         {Instances: []Instance{{IID: 0}}, Sources: []netip.Addr{addr("127.0.0.1")}},
		"a source of its own": {Instances: []Instance{{IID: 0}}, Locals: []mapping.EID{mapping.MustParseEID("10.0.0.0/8 from 10.0.0.0/8")}},
	} {
		if _, err := New(c, dataplane.NewFIB()); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	sites.Check(t, tp.XTRA.SetSysctl("net.ipv4.ip_forward", "0"))
	sites.Check(t, tp.XTRA.SetSysctl("net.ipv4.conf.up.rp_filter", "1"))
	// With one uplink, of two families, strict filtering does no harm.
	one := sites.Start(t, tp.XTRA, sites.ConfigA(sites.RLOCB4))
	w := strings.Join(one.State().Warnings, "\n")
	if !strings.Contains(w, "net.ipv4.ip_forward=1") || strings.Contains(w, "rp_filter") || strings.Contains(w, "IPv6") {
		t.Errorf("warnings with one uplink:\n%s", w)
	}
	one.Exit()
	sites.Check(t, netns.Veth(tp.XTRA, "up2", tp.Core, "a2", 1500))
	sites.Check(t, tp.XTRA.AddAddress("up2", prefix("198.51.100.9/30")))
	c := sites.ConfigA(sites.RLOCB4)
	c.Sources = append(c.Sources, addr("198.51.100.9"))
	w = strings.Join(sites.Start(t, tp.XTRA, c).State().Warnings, "\n")
	if !strings.Contains(w, "net.ipv4.conf.up.rp_filter=2") || strings.Contains(w, "up2.rp_filter") {
		t.Errorf("warnings with two uplinks:\n%s", w)
	}
}

// A device that somebody deletes ends the plane with an error, and the site
// stays closed.
func TestDeviceDeleted(t *testing.T) {
	tp := sites.New(t)
	a := sites.Start(t, tp.XTRA, sites.ConfigA(sites.RLOCB4))
	sites.Check(t, tp.XTRA.Do(func() error {
		l, err := netlink.LinkByName("eidolon0")
		if err != nil {
			return err
		}
		return netlink.LinkDel(l)
	}))
	if got := a.Ask("wait"); !strings.Contains(got.Err, "eidolon0") {
		t.Errorf("answer %+v", got)
	}
	if s := strings.Join(kernelState(t, tp.XTRA), "\n"); !strings.Contains(s, "type 7 metric 4278198272 protocol 141") {
		t.Errorf("the site is open:\n%s", s)
	}
}

// The whole path through device and sockets allocates nothing for each packet:
// a bulk transfer, then the heap is compared.
func TestPlaneDoesNotAllocate(t *testing.T) {
	tp := sites.New(t)
	a, _ := tp.Start(t, false)
	sites.Transfer(t, tp.HostA, tp.HostB, sites.HostB4, 1<<20)
	a.State()
	idle := a.State()
	before := a.State()
	sites.Transfer(t, tp.HostA, tp.HostB, sites.HostB4, 20<<20)
	after := a.State()
	packets := after.Stats["encap_packets"] - before.Stats["encap_packets"]
	// Asking allocates too.
	if n := after.Mallocs - before.Mallocs - (before.Mallocs - idle.Mallocs); packets < 10000 || int64(n) > int64(packets/100) {
		t.Errorf("%d allocations while %d packets were sent", n, packets)
	}
}

func TestCounters(t *testing.T) { sites.Counters(t) }

func TestTrace(t *testing.T) { sites.Trace(t, [2]string{}, true, func(_, _ sites.Answer) {}) }

// Super-packets arrive as what they stand for, be they cut by the plane, by the
// core, or by nobody; and a plane that leaves checksums to others is understood by
// one that does not.
func TestSuperPackets(t *testing.T) {
	for _, outer6 := range []bool{false, true} {
		sites.SuperPackets(t, outer6, [2]string{}, func(a sites.Answer) { onlyDrops(t, a, dataplane.DropTooBig) })
	}
}

func TestSuperPacketsUnfinished(t *testing.T) {
	needOutlet(t)
	for _, outer6 := range []bool{false, true} {
		for _, planes := range [][2]string{{unfinished, unfinished}, {unfinished, ""}} {
			leaver := planes[0] == unfinished
			sites.SuperPackets(t, outer6, planes, func(a sites.Answer) {
				onlyDrops(t, a, dataplane.DropTooBig)
				if whole := a.Stats["encap_whole"]; (whole > 0) != leaver {
					t.Errorf("%v: %d super-packets left in one piece", planes, whole)
				}
				leaver = planes[1] == unfinished
				if leaver == (planes[0] == unfinished) && leaver != (a.Stats["decap_unfinished"] > 0) {
					t.Errorf("%v: %d packets came without a checksum", planes, a.Stats["decap_unfinished"])
				}
			})
		}
	}
}

// The outlet is open when the kernel forwards what comes out of it, and says what
// is to be done when not. What others set for the device is set again.
func TestOutletSettings(t *testing.T) {
	needOutlet(t)
	tp := sites.New(t)
	ca := sites.ConfigA(sites.RLOCB4)
	fib := dataplane.NewFIB()
	sites.Check(t, tp.XTRA.Do(func() error {
		p, err := New(Config{Instances: []Instance{{}}, Locals: ca.Locals, Sources: []netip.Addr{sites.RLOCA4, sites.RLOCA6}, Unfinished: true}, fib)
		if err != nil {
			return err
		}
		defer p.Close()
		o := p.outlet
		look := func(want4, want6 bool, trouble string) {
			t.Helper()
			got := strings.Join(o.look(p.host, true, true), "; ")
			if o.open4.Load() != want4 || o.open6.Load() != want6 || !strings.Contains(got, trouble) || trouble == "" && got != "" {
				t.Errorf("open for IPv4 %v and IPv6 %v, want %v and %v; trouble %q, want %q", o.open4.Load(), o.open6.Load(), want4, want6, got, trouble)
			}
		}
		look(false, false, "") // settings for new devices may come
		look(true, true, "")
		own := "net.ipv4.conf." + OutletDevice + "."
		for _, s := range []struct {
			key, value   string
			want4, want6 bool
			trouble      string
			back         string
		}{
			{own + "rp_filter", "2", true, true, "", ""},
			{own + "accept_local", "0", true, true, "", ""},
			{own + "forwarding", "0", true, true, "", ""},
			{"net.ipv4.conf.all.rp_filter", "1", false, true, "net.ipv4.conf.all.rp_filter=0", "0"},
			{"net.ipv6.conf." + OutletDevice + ".disable_ipv6", "1", true, true, "", ""},
			{"net.ipv6.conf." + OutletDevice + ".force_forwarding", "0", true, true, "", ""},
		} {
			sites.Check(t, tp.XTRA.SetSysctl(s.key, s.value))
			look(s.want4, s.want6, s.trouble)
			if got := sysctl(strings.ReplaceAll(s.key, ".", "/")); s.back == "" && got == s.value {
				t.Errorf("%s is still %s", s.key, got)
			}
			if s.back != "" {
				sites.Check(t, tp.XTRA.SetSysctl(s.key, s.back))
				look(true, true, "")
			}
		}
		// A host's autoconfiguration would end with forwarding for all devices.
		sites.Check(t, tp.XTRA.SetSysctl("net.ipv6.conf.all.forwarding", "0"))
		look(true, true, "")
		l, err := netlink.LinkByName(OutletDevice)
		if err == nil {
			err = netlink.LinkSetHardwareAddr(l, net.HardwareAddr{2, 0, 0, 0, 0, 1})
		}
		sites.Check(t, err)
		look(true, true, "")
		if l, err = netlink.LinkByName(OutletDevice); err != nil || !slices.Equal(l.Attrs().HardwareAddr, o.mac) {
			t.Errorf("the device has the address %v, packets go to %v", l.Attrs().HardwareAddr, o.mac)
		}
		if troubles := o.look(p.host, true, false); !o.open4.Load() || o.open6.Load() || len(troubles) > 0 {
			t.Errorf("without an RLOC of IPv6: open for IPv4 %v and IPv6 %v, %v", o.open4.Load(), o.open6.Load(), troubles)
		}
		return nil
	}))
}

// Between jumbo frames on the underlay and ordinary ones in the sites nothing says
// how long the segments of a super-packet are: those of one that would fit the
// underlay as it is have to be cut, too.
func TestOutletJumboUnderlay(t *testing.T) {
	needOutlet(t)
	tp := sites.New(t)
	for _, l := range []struct {
		ns  *netns.NS
		dev string
	}{{tp.XTRA, "up"}, {tp.Core, "a"}, {tp.Core, "b"}, {tp.XTRB, "up"}} {
		sites.Check(t, l.ns.Do(func() error {
			link, err := netlink.LinkByName(l.dev)
			if err != nil {
				return err
			}
			return netlink.LinkSetMTU(link, 9000)
		}))
	}
	ca, cb := sites.ConfigA(sites.RLOCB4), sites.ConfigB(sites.RLOCA4)
	ca.Plane, cb.Plane = unfinished, unfinished
	a, _ := sites.Start(t, tp.XTRA, ca), sites.Start(t, tp.XTRB, cb)
	time.Sleep(5 * outletInterval)
	begin := time.Now()
	for range 5 {
		sites.Transfer(t, tp.HostA, tp.HostB, sites.HostB4, 6000)
		sites.Transfer(t, tp.HostA, tp.HostB, sites.HostB6, 6000)
	}
	if s := a.State().Stats; s["encap_whole"] < 5 {
		t.Errorf("%d super-packets left in one piece", s["encap_whole"])
	}
	if d := time.Since(begin); d > 2*time.Second {
		t.Errorf("10 transfers of 6000 octets took %v", d)
	}
}

// What leaves by the outlet is what who takes it off can make sense of.
func TestOutletTakes(t *testing.T) {
	x := newExit(new(outlet))
	x.o.open4.Store(true)
	packet := func(in dptest.Inner, to netip.Addr, options int) *dataplane.Packet {
		pkt := in.Bytes()
		transport := 20 + options
		if pkt[0]>>4 == 6 {
			transport += 20
		}
		if options > 0 {
			pkt = slices.Insert(pkt, transport-options, make([]byte, options)...)
			pkt[0] += byte(options / 4)
		}
		s, ok := dataplane.NewSuper(pkt, in.Proto, transport, 1000)
		if !ok {
			t.Fatalf("no super-packet of %x", pkt[:40])
		}
		src := sites.RLOCA4
		if to.Is6() {
			src = sites.RLOCA6
		}
		return &dataplane.Packet{Data: append(make([]byte, 8), pkt...), Super: s, Src: src, Dst: to, TTL: 254}
	}
	tcp := func(n int) dptest.Inner { return flow(false, protoTCP, 1, make([]byte, n)) }
	ttl, syn := packet(tcp(5000), sites.RLOCB4, 0), packet(tcp(5000), sites.RLOCB4, 0)
	ttl.TTL = 255
	syn.Data[8+20+13] |= tcpSYN
	for _, c := range []struct {
		name string
		p    *dataplane.Packet
		want bool
	}{
		{"TCP", packet(tcp(5000), sites.RLOCB4, 0), true},
		{"TCP over IPv6 inside", packet(flow(true, protoTCP, 1, make([]byte, 5000)), sites.RLOCB4, 0), true},
		{"IPv4 options", packet(tcp(5000), sites.RLOCB4, 4), false},
		{"UDP", packet(flow(false, protoUDP, 1, make([]byte, 5000)), sites.RLOCB4, 0), false},
		{"the shortest", packet(tcp(1501-40), sites.RLOCB4, 0), true},
		{"one that may be a single packet", packet(tcp(1500-40), sites.RLOCB4, 0), false},
		{"the longest", packet(tcp(65535-36-40), sites.RLOCB4, 0), true},
		{"longer than an outer packet can be", packet(tcp(65535-36-40+1), sites.RLOCB4, 0), false},
		{"no hop to lose", ttl, false},
		{"SYN", syn, false},
		{"a family that is closed", packet(tcp(5000), sites.RLOCB6, 0), false},
	} {
		if got := x.takes(c.p); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

// A device that takes nothing more costs no packet: super-packets are cut then.
func TestOutletDown(t *testing.T) {
	needOutlet(t)
	tp := sites.New(t)
	ca, cb := sites.ConfigA(sites.RLOCB4), sites.ConfigB(sites.RLOCA4)
	ca.Plane = unfinished
	a, _ := sites.Start(t, tp.XTRA, ca), sites.Start(t, tp.XTRB, cb)
	time.Sleep(5 * outletInterval)
	sites.Transfer(t, tp.HostA, tp.HostB, sites.HostB4, 1<<20)
	before := a.State().Stats["encap_whole"]
	sites.Check(t, tp.XTRA.Do(func() error {
		l, err := netlink.LinkByName(OutletDevice)
		if err != nil {
			return err
		}
		return netlink.LinkSetDown(l)
	}))
	sites.Transfer(t, tp.HostA, tp.HostB, sites.HostB4, 1<<20)
	after := a.State()
	onlyDrops(t, after)
	if before == 0 || after.Stats["encap_whole"] != before {
		t.Errorf("%d super-packets left in one piece while the device was up, %d in the end", before, after.Stats["encap_whole"])
	}
}

func BenchmarkTCP(b *testing.B) { sites.BenchmarkTCP(b) }
