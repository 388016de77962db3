package tun

import (
	"bytes"
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
	"github.com/eidolon-lisp/eidolon/internal/netns"
	"github.com/eidolon-lisp/eidolon/mapping"
)

// onlyDrops fails unless all drops are of what hosts and kernels send on their
// own, and of the given reasons.
func onlyDrops(t *testing.T, a answer, allowed ...dataplane.DropReason) {
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
	tp := newTopology(t)
	for _, outer6 := range []bool{false, true} {
		a, b := tp.sites(t, outer6)
		transfer(t, tp.hostA, tp.hostB, hostB4, 3<<20)
		transfer(t, tp.hostB, tp.hostA, hostA4, 3<<20)
		transfer(t, tp.hostA, tp.hostB, hostB6, 3<<20)
		transfer(t, tp.hostB, tp.hostA, hostA6, 3<<20)
		for _, s := range []answer{a.state(), b.state()} {
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
		fromB, fromA := rlocB4, rlocA4
		if outer6 {
			fromB, fromA = rlocB6, rlocA6
		}
		if h := a.ask("heard").Heard; !slices.Equal(h, []netip.Addr{fromB}) {
			t.Errorf("one site heard of %v, want %v", h, fromB)
		}
		if h := b.ask("heard").Heard; !slices.Equal(h, []netip.Addr{fromA}) {
			t.Errorf("the other heard of %v, want %v", h, fromA)
		}
		a.exit()
		b.exit()
	}
}

// With map-versions on both sides traffic flows, with offloads; a site whose
// mapping has gone on tells that packets come by the old one, and still takes
// them.
func TestDP25_VersionsOnTheWire(t *testing.T) {
	tp := newTopology(t)
	withVersion := func(c childConfig, own mapping.Version, other uint16) childConfig {
		c.Version = own
		for i := range c.Entries {
			c.Entries[i].Version = other
		}
		return c
	}
	a := startXTR(t, tp.xtrA, withVersion(configA(rlocB4), 7, 4094))
	b := startXTR(t, tp.xtrB, withVersion(configB(rlocA4), 4094, 7))
	transfer(t, tp.hostA, tp.hostB, hostB4, 1<<20)
	for _, x := range []*xtr{a, b} {
		s := x.state()
		onlyDrops(t, s, dataplane.DropTooBig)
		if ev := x.ask("versions").Versions; len(ev) != 0 || s.Stats["decap_packets"] == 0 {
			t.Errorf("told %+v, counters %v", ev, s.Stats)
		}
	}
	b.exit()
	b = startXTR(t, tp.xtrB, withVersion(configB(rlocA4), 1, 7)) // two after 4094, around the circle
	transfer(t, tp.hostA, tp.hostB, hostB4, 1<<20)
	want := dataplane.VersionEvent{Outdated: true, EID: eidB4, RLOC: rlocA4, Host: hostA4}
	if ev := b.ask("versions").Versions; len(ev) == 0 || ev[0] != want {
		t.Errorf("told %+v, want %+v", ev, want)
	}
	wantA := dataplane.VersionEvent{EID: eidB4, RLOC: rlocB4, Host: hostB4}
	if ev := a.ask("versions").Versions; len(ev) == 0 || ev[0] != wantA {
		t.Errorf("told %+v, want %+v", ev, wantA)
	}
}

// BenchmarkTCP measures one flow for a second each, in turn: plain routing, and
// IPv4 and IPv6 inside IPv4 and IPv6. Use it with -benchtime 5x or so.
func BenchmarkTCP(b *testing.B) {
	plain, over4, over6 := newTopology(b), newTopology(b), newTopology(b)
	plain.native(b)
	over4.sites(b, false)
	over6.sites(b, true)
	var sum [5]float64
	n := 0.0
	for b.Loop() {
		n++
		for i, c := range []struct {
			tp  *topology
			dst netip.Addr
		}{{plain, hostB4}, {over4, hostB4}, {over4, hostB6}, {over6, hostB4}, {over6, hostB6}} {
			sum[i] += throughput(b, c.tp.hostA, c.tp.hostB, c.dst, time.Second) / 1e9
		}
	}
	for i, unit := range []string{"plain-Gb/s", "4in4-Gb/s", "6in4-Gb/s", "4in6-Gb/s", "6in6-Gb/s"} {
		b.ReportMetric(sum[i]/n, unit)
	}
}

// udp sends payloads of some sizes from a to b, and returns the sizes that
// arrived intact and the error of the last send.
func udp(t *testing.T, from *netns.NS, src netip.Addr, to *netns.NS, dst netip.Addr, df bool, sizes ...int) (arrived []int, err error) {
	t.Helper()
	rx, tx := udpSocket(t, to, dst, df), udpSocket(t, from, src, df)
	for _, n := range sizes {
		payload := make([]byte, n)
		for i := range payload {
			payload[i] = pattern(i)
		}
		if _, err = tx.WriteTo(payload, rx.LocalAddr()); err != nil {
			continue
		}
		rx.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		buf := make([]byte, 65536)
		k, _, rerr := rx.ReadFrom(buf)
		if rerr != nil {
			continue
		}
		if !bytes.Equal(buf[:k], payload) {
			t.Errorf("%d octets arrived changed", n)
		}
		arrived = append(arrived, k)
	}
	return arrived, err
}

// On a path with a smaller MTU in the middle nothing vanishes: hosts are told
// the right size, or packets are fragmented, in all four combinations.
func TestPathMTU(t *testing.T) {
	tp := newTopology(t)
	check(t, tp.core.Do(func() error {
		l, err := netlink.LinkByName("b")
		if err != nil {
			return err
		}
		return netlink.LinkSetMTU(l, 1400)
	}))
	for _, outer6 := range []bool{false, true} {
		rloc, room := rlocB4, 1364
		if outer6 {
			rloc, room = rlocB6, 1344
		}
		t.Run(rloc.String(), func(t *testing.T) {
			a, b := tp.sites(t, outer6)
			transfer(t, tp.hostA, tp.hostB, hostB4, 1<<20)
			transfer(t, tp.hostA, tp.hostB, hostB6, 1<<20)
			s := a.state()
			if got := s.MTU[rloc.String()]; got != 1400 {
				t.Errorf("path MTU toward %v is %d", rloc, got)
			}
			onlyDrops(t, s, dataplane.DropTooBig)
			// DF=0: of any size, whole at the other end.
			if got, _ := udp(t, tp.hostA, hostA4, tp.hostB, hostB4, false, 1000, 1400, 4000, 20000); len(got) != 4 {
				t.Errorf("DF=0: of four sizes arrived %v", got)
			}
			if got, _ := udp(t, tp.hostA, hostA6, tp.hostB, hostB6, false, 1000, 1400, 4000, 20000); len(got) != 4 {
				t.Errorf("IPv6: of four sizes arrived %v", got)
			}
			// DF=1: exactly what fits, and an error for more.
			if got, err := udp(t, tp.hostA, hostA4, tp.hostB, hostB4, true, room-28, room-27, room-27); !slices.Equal(got, []int{room - 28}) || !errors.Is(err, unix.EMSGSIZE) {
				t.Errorf("DF=1: arrived %v, last error %v", got, err)
			}
			if got, err := udp(t, tp.hostA, hostA6, tp.hostB, hostB6, true, room-48, room-47, room-47); !slices.Equal(got, []int{room - 48}) || !errors.Is(err, unix.EMSGSIZE) {
				t.Errorf("IPv6, no fragments: arrived %v, last error %v", got, err)
			}
			a.exit()
			b.exit()
			flushRouteCache(t, tp.hostA)
		})
	}
}

// flushRouteCache makes a host forget path MTUs.
func flushRouteCache(t *testing.T, ns *netns.NS) {
	t.Helper()
	setSysctl(t, ns, "net/ipv4/route/flush", "1")
	setSysctl(t, ns, "net/ipv6/route/flush", "1")
}

// An IPv6 host never goes below 1280; on a path where that does not fit with
// the outer header, the outer packet is fragmented.
func TestIPv6MinimumOnSmallPath(t *testing.T) {
	tp := newTopology(t)
	check(t, tp.core.Do(func() error {
		l, err := netlink.LinkByName("b")
		if err != nil {
			return err
		}
		return netlink.LinkSetMTU(l, 1280)
	}))
	for _, outer6 := range []bool{false, true} {
		a, b := tp.sites(t, outer6)
		transfer(t, tp.hostA, tp.hostB, hostB6, 300<<10)
		if got, _ := udp(t, tp.hostA, hostA6, tp.hostB, hostB6, true, 1232, 1232); len(got) != 2 {
			t.Errorf("packets of 1280 octets: arrived %v", got)
		}
		if s := a.state(); s.Stats["outer_fragmented"] == 0 {
			t.Errorf("outer IPv6 %v: counters %v", outer6, s.Stats)
		}
		a.exit()
		b.exit()
	}
}

// Every router on the way counts: the two xTRs and the core in the middle.
func TestTTL(t *testing.T) {
	tp := newTopology(t)
	for _, outer6 := range []bool{false, true} {
		a, b := tp.sites(t, outer6)
		for _, dst := range []netip.Addr{hostB4, hostB6} {
			src := hostA4
			if dst.Is6() {
				src = hostA6
			}
			rx, tx := udpSocket(t, tp.hostB, dst, false), udpSocket(t, tp.hostA, src, false)
			for ttl := 1; ttl <= 6; ttl++ {
				rc, err := tx.SyscallConn()
				check(t, err)
				check(t, rc.Control(func(fd uintptr) {
					if dst.Is4() {
						err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_TTL, ttl)
					} else {
						err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, ttl)
					}
				}))
				check(t, err)
				_, err = tx.WriteTo([]byte{byte(ttl)}, rx.LocalAddr())
				check(t, err)
				rx.SetReadDeadline(time.Now().Add(150 * time.Millisecond))
				var buf [8]byte
				n, _, err := rx.ReadFrom(buf[:])
				// xtrA and core decrement; xtrB takes the smaller and decrements
				// too: three routers, so four hops.
				if got, want := err == nil && n == 1 && buf[0] == byte(ttl), ttl > 3; got != want {
					t.Errorf("to %v, outer IPv6 %v, TTL %d: arrived %v, want %v", dst, outer6, ttl, got, want)
				}
			}
		}
		a.exit()
		b.exit()
	}
}

// Packets of a miss wait for the mapping and arrive.
func TestHoldUntilMapping(t *testing.T) {
	tp := newTopology(t)
	cfg := configA(rlocB4)
	cfg.Entries, cfg.Hold = nil, true
	a := startXTR(t, tp.xtrA, cfg)
	startXTR(t, tp.xtrB, configB(rlocA4))
	rx, tx := udpSocket(t, tp.hostB, hostB4, false), udpSocket(t, tp.hostA, hostA4, false)
	for i := range 5 {
		_, err := tx.WriteTo([]byte{byte(i)}, rx.LocalAddr())
		check(t, err)
	}
	deadline := time.Now().Add(2 * time.Second)
	var misses []dataplane.Miss
	for len(misses) == 0 && time.Now().Before(deadline) {
		misses = a.ask("misses").Misses
	}
	if len(misses) != 1 || misses[0] != (dataplane.Miss{Dst: hostB4, Src: hostA4}) {
		t.Fatalf("misses %v", misses)
	}
	a.apply(entry{EID: eidB4, Locators: to(rlocB4)})
	rx.SetReadDeadline(time.Now().Add(2 * time.Second))
	for i := range 5 {
		var buf [8]byte
		if _, _, err := rx.ReadFrom(buf[:]); err != nil || buf[0] != byte(i) {
			t.Fatalf("packet %d: %d, %v", i, buf[0], err)
		}
	}
	if s := a.state(); s.Stats["held_packets"] != 5 || s.Stats["released_packets"] != 5 {
		t.Errorf("counters %v", s.Stats)
	}
}

// kernelState lists all rules, all routes of all tables, and the links.
func kernelState(t *testing.T, ns *netns.NS) (list []string) {
	t.Helper()
	check(t, ns.Do(func() error {
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
	tp := newTopology(t)
	check(t, tp.xtrA.Do(func() error {
		r := netlink.NewRule()
		r.Priority, r.Table, r.Family, r.Protocol = prioFromSite, 77, unix.AF_INET, 4
		r.Src = &net.IPNet{IP: net.IPv4(10, 7, 0, 0).To4(), Mask: net.CIDRMask(16, 32)}
		_, dst, _ := net.ParseCIDR("10.99.0.0/16")
		return errors.Join(netlink.RuleAdd(r), netlink.RouteAdd(&netlink.Route{Dst: dst, Type: unix.RTN_BLACKHOLE, Table: DefaultTable}))
	}))
	before := kernelState(t, tp.xtrA)
	cfg := configA(rlocB4)
	cfg.Instances = append(cfg.Instances, Instance{IID: 7, Device: "red"})
	cfg.Locals = append(cfg.Locals, mapping.MustParseEID("[7]10.70.0.0/16"))
	a := startXTR(t, tp.xtrA, cfg)
	during := kernelState(t, tp.xtrA)
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
	a.exit()
	if after := kernelState(t, tp.xtrA); !slices.Equal(before, after) {
		t.Errorf("before:\n%s\nafter:\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
	}
}

// connects tries a TCP connection from host A to host B.
func connects(t *testing.T, tp *topology, dst netip.Addr) error {
	t.Helper()
	l := listen(t, tp.hostB, dst)
	c, err := dial(tp.hostA, l.Addr(), 700*time.Millisecond)
	if err == nil {
		c.Close()
	}
	return err
}

// Packets of the site do not take a provider's route, though there is one: not
// without a mapping, and not when the process was killed. A new process needs
// no help, and removes what it does not want.
func TestKilledFailsClosed(t *testing.T) {
	tp := newTopology(t)
	tp.native(t)
	if err := connects(t, tp, hostB4); err != nil {
		t.Fatalf("the test needs a native way: %v", err)
	}
	cfg := configA(rlocB4)
	cfg.Entries = nil
	cfg.Locals = append(cfg.Locals, mapping.MustParseEID("10.88.0.0/16"))
	a := startXTR(t, tp.xtrA, cfg)
	for _, dst := range []netip.Addr{hostB4, hostB6} {
		if err := connects(t, tp, dst); err == nil {
			t.Errorf("%v was reached natively, without a mapping", dst)
		}
	}
	a.kill()
	for _, dst := range []netip.Addr{hostB4, hostB6} {
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
		c, err := dial(tp.hostB, &net.TCPAddr{IP: net.IPv4(10, 88, 0, 1), Port: 9}, 700*time.Millisecond)
		if err == nil {
			c.Close()
		}
		return err
	}(); err == nil {
		t.Error("an EID that is not in the site was reached")
	}
	startXTR(t, tp.xtrB, configB(rlocA4))
	a = startXTR(t, tp.xtrA, configA(rlocB4))
	for _, dst := range []netip.Addr{hostB4, hostB6} {
		if err := connects(t, tp, dst); err != nil {
			t.Errorf("after the restart, to %v: %v", dst, err)
		}
	}
	if s := strings.Join(kernelState(t, tp.xtrA), "\n"); strings.Contains(s, "10.88.0.0") {
		t.Errorf("the rule of an EID that is gone is left:\n%s", s)
	}
	a.exit()
	if s := strings.Join(kernelState(t, tp.xtrA), "\n"); strings.Contains(s, "protocol 141") {
		t.Errorf("left behind:\n%s", s)
	}
}

// A second plane is refused, and the first is none the worse for it.
func TestSecondPlane(t *testing.T) {
	tp := newTopology(t)
	tp.sites(t, false)
	_, a := tryXTR(t, tp.xtrA, configA(rlocB4))
	if !strings.Contains(a.Err, "eidolon0") || !strings.Contains(a.Err, "another xtr") {
		t.Errorf("error %q", a.Err)
	}
	cfg := configA(rlocB4)
	cfg.Instances[0].Device, cfg.Table = "other", 9000
	if _, a = tryXTR(t, tp.xtrA, cfg); !strings.Contains(a.Err, "another process") {
		t.Errorf("error %q", a.Err)
	}
	if err := connects(t, tp, hostB4); err != nil {
		t.Error(err)
	}
}

// An address that comes late is bound when it comes.
func TestMissingSource(t *testing.T) {
	tp := newTopology(t)
	late := addr("203.0.113.1")
	cfg := configA(rlocB4)
	cfg.Sources = []netip.Addr{late, rlocA6}
	a := startXTR(t, tp.xtrA, cfg)
	if s := a.state(); !slices.Equal(s.Missing, []netip.Addr{late}) {
		t.Errorf("missing %v", s.Missing)
	}
	startXTR(t, tp.xtrB, configB(late))
	check(t, tp.core.AddRoute(prefix("203.0.113.1/32"), rlocA4, ""))
	if err := connects(t, tp, hostB4); err == nil {
		t.Error("connected without an address")
	}
	if s := a.state(); s.Stats["drop_send_no_socket"] == 0 {
		t.Errorf("counters %v", s.Stats)
	}
	check(t, tp.xtrA.AddAddress("up", netip.PrefixFrom(late, 32)))
	deadline := time.Now().Add(4 * time.Second)
	for len(a.state().Missing) > 0 {
		if time.Now().After(deadline) {
			t.Fatal("the address was not bound")
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err := connects(t, tp, hostB4); err != nil {
		t.Error(err)
	}
}

// What comes while nobody reads the device is lost in its queue, and counted.
func TestDeviceDropsAreCounted(t *testing.T) {
	tp := newTopology(t)
	a := startXTR(t, tp.xtrA, configA(rlocB4))
	check(t, a.cmd.Process.Signal(unix.SIGSTOP))
	tx := udpSocket(t, tp.hostA, hostA4, false)
	for range 3000 {
		if _, err := tx.WriteTo([]byte("x"), &net.UDPAddr{IP: hostB4.AsSlice(), Port: 9}); err != nil {
			t.Fatal(err)
		}
	}
	check(t, a.cmd.Process.Signal(unix.SIGCONT))
	deadline := time.Now().Add(2 * time.Second)
	for {
		s := a.state()
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
	tp := newTopology(t)
	red := func(e mapping.EID) mapping.EID { e.IID = 7; return e }
	ca, cb := configA(rlocB4), configB(rlocA4)
	for _, c := range []*childConfig{&ca, &cb} {
		c.Instances = []Instance{{IID: 0}, {IID: 7}}
		c.Locals[0] = red(c.Locals[0]) // IPv4 in instance 7, IPv6 in 0
		c.Entries[0].EID = red(c.Entries[0].EID)
	}
	a, b := startXTR(t, tp.xtrA, ca), startXTR(t, tp.xtrB, cb)
	transfer(t, tp.hostA, tp.hostB, hostB4, 1<<20)
	transfer(t, tp.hostA, tp.hostB, hostB6, 1<<20)
	// The other instance knows nothing of those EIDs.
	a.apply(entry{EID: eidB4, Locators: to(rlocB4)}, entry{EID: red(eidB4), Removed: true})
	if err := connects(t, tp, hostB4); err == nil {
		t.Error("a mapping of another instance was used")
	}
	onlyDrops(t, b.state())
}

// An xTR without CAP_NET_ADMIN, or with settings that are in the way, says what
// to do.
func TestComplaints(t *testing.T) {
	tp := newTopology(t)
	cfg := configA(rlocB4)
	cfg.DropCapability = true
	if _, a := tryXTR(t, tp.xtrA, cfg); !strings.Contains(a.Err, "CAP_NET_ADMIN") {
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
	setSysctl(t, tp.xtrA, "net/ipv4/ip_forward", "0")
	setSysctl(t, tp.xtrA, "net/ipv4/conf/up/rp_filter", "1")
	// With one uplink, of two families, strict filtering does no harm.
	one := startXTR(t, tp.xtrA, configA(rlocB4))
	w := strings.Join(one.state().Warnings, "\n")
	if !strings.Contains(w, "net.ipv4.ip_forward=1") || strings.Contains(w, "rp_filter") || strings.Contains(w, "IPv6") {
		t.Errorf("warnings with one uplink:\n%s", w)
	}
	one.exit()
	check(t, netns.Veth(tp.xtrA, "up2", tp.core, "a2", 1500))
	check(t, tp.xtrA.AddAddress("up2", prefix("198.51.100.9/30")))
	c := configA(rlocB4)
	c.Sources = append(c.Sources, addr("198.51.100.9"))
	w = strings.Join(startXTR(t, tp.xtrA, c).state().Warnings, "\n")
	if !strings.Contains(w, "net.ipv4.conf.up.rp_filter=2") || strings.Contains(w, "up2.rp_filter") {
		t.Errorf("warnings with two uplinks:\n%s", w)
	}
}

// A device that somebody deletes ends the plane with an error, and the site
// stays closed.
func TestDeviceDeleted(t *testing.T) {
	tp := newTopology(t)
	a := startXTR(t, tp.xtrA, configA(rlocB4))
	check(t, tp.xtrA.Do(func() error {
		l, err := netlink.LinkByName("eidolon0")
		if err != nil {
			return err
		}
		return netlink.LinkDel(l)
	}))
	if got := a.ask("wait"); !strings.Contains(got.Err, "eidolon0") {
		t.Errorf("answer %+v", got)
	}
	if s := strings.Join(kernelState(t, tp.xtrA), "\n"); !strings.Contains(s, "type 7 metric 4278198272 protocol 141") {
		t.Errorf("the site is open:\n%s", s)
	}
}

// The whole path through device and sockets allocates nothing for each packet:
// a bulk transfer, then the heap is compared.
func TestPlaneDoesNotAllocate(t *testing.T) {
	tp := newTopology(t)
	a, _ := tp.sites(t, false)
	transfer(t, tp.hostA, tp.hostB, hostB4, 1<<20)
	a.state()
	idle := a.state()
	before := a.state()
	transfer(t, tp.hostA, tp.hostB, hostB4, 20<<20)
	after := a.state()
	packets := after.Stats["encap_packets"] - before.Stats["encap_packets"]
	// Asking allocates too.
	if n := after.Mallocs - before.Mallocs - (before.Mallocs - idle.Mallocs); packets < 10000 || int64(n) > int64(packets/100) {
		t.Errorf("%d allocations while %d packets were sent", n, packets)
	}
}
