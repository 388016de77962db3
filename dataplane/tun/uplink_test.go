package tun

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/dataplane/dptest/sites"
	"github.com/eidolon-lisp/eidolon/internal/netns"
	"github.com/eidolon-lisp/eidolon/mapping"
)

// second gives xtrA another uplink to the core, and returns its address.
func second(t testing.TB, tp *sites.Topology) netip.Addr {
	t.Helper()
	sites.Check(t, netns.Veth(tp.XTRA, "up2", tp.Core, "a2", 1500))
	sites.Check(t, tp.XTRA.AddAddress("up2", prefix("198.51.100.9/30")))
	sites.Check(t, tp.Core.AddAddress("a2", prefix("198.51.100.10/30")))
	return addr("198.51.100.9")
}

func delAddress(t testing.TB, ns *netns.NS, dev, a string) {
	t.Helper()
	sites.Check(t, ns.Do(func() error {
		link, err := netlink.LinkByName(dev)
		if err != nil {
			return err
		}
		parsed, err := netlink.ParseAddr(a)
		if err != nil {
			return err
		}
		return netlink.AddrDel(link, parsed)
	}))
}

const streamFlows = 64

// stream sends a numbered packet about every millisecond from each of several
// ports, until stop returns which numbers did not arrive, and how many were
// sent.
func stream(t testing.TB, from *netns.NS, src netip.Addr, to *netns.NS, dst netip.Addr) (stop func() (lost []uint64, sent uint64)) {
	t.Helper()
	rx := sites.UDPSocket(t, to, dst, false)
	var tx []*net.UDPConn
	for range streamFlows {
		tx = append(tx, sites.UDPSocket(t, from, src, false))
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	var n uint64
	wg.Go(func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				var b [8]byte
				binary.BigEndian.PutUint64(b[:], n)
				if _, err := tx[n%streamFlows].WriteTo(b[:], rx.LocalAddr()); err != nil {
					t.Errorf("packet %d: %v", n, err)
				}
				n++
			}
		}
	})
	arrived := make(map[uint64]bool)
	received := make(chan struct{})
	go func() {
		defer close(received)
		var b [16]byte
		for {
			k, _, err := rx.ReadFrom(b[:])
			if err != nil {
				return
			}
			if k == 8 {
				arrived[binary.BigEndian.Uint64(b[:])] = true
			}
		}
	}()
	return func() (lost []uint64, sent uint64) {
		close(done)
		wg.Wait()
		rx.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		<-received
		for i := range n {
			if !arrived[i] {
				lost = append(lost, i)
			}
		}
		return lost, n
	}
}

// Addresses come and go while traffic flows: what goes by those that stay is
// not disturbed, new ones are used at once, those that are gone are forgotten,
// and their sockets are closed.
func TestAddressesComeAndGo(t *testing.T) {
	tp := sites.New(t)
	two := second(t, tp)
	cfg := sites.ConfigA(sites.RLOCB4)
	cfg.Sources = []netip.Addr{sites.RLOCA4}
	a := sites.Start(t, tp.XTRA, cfg)
	b := sites.Start(t, tp.XTRB, sites.ConfigB(sites.RLOCA4))
	sockets := func() int {
		t.Helper()
		entries, err := os.ReadDir("/proc/" + strconv.Itoa(a.Process().Pid) + "/fd")
		sites.Check(t, err)
		return len(entries)
	}
	before := sockets()
	if err := connects(t, tp, sites.HostB4); err != nil { // neighbours are known
		t.Fatal(err)
	}
	heard := func(want ...netip.Addr) {
		t.Helper()
		b.Ask("heard")
		time.Sleep(100 * time.Millisecond)
		if h := b.Ask("heard").Heard; !slices.Equal(h, want) {
			t.Errorf("packets come from %v, want %v", h, want)
		}
	}
	stop := stream(t, tp.HostA, sites.HostA4, tp.HostB, sites.HostB4)
	heard(sites.RLOCA4)
	a.RLOCs(sites.RLOCA4, two)
	heard(sites.RLOCA4) // nobody said to send from it
	a.Sources(sites.RLOCA4, two)
	time.Sleep(50 * time.Millisecond)
	if h := b.Ask("heard").Heard; len(h) != 2 {
		t.Errorf("with two sources packets come from %v", h)
	}
	// The plane does not wait for the control plane to stop using one.
	a.RLOCs(two)
	heard(two)
	a.RLOCs(two, sites.RLOCA4)
	a.Sources(sites.RLOCA4)
	heard(sites.RLOCA4)
	a.RLOCs(sites.RLOCA4)
	// One that a worker has in its hands when the socket of its source is closed
	// may be lost.
	if lost, sent := stop(); len(lost) > 1 {
		t.Errorf("of %d packets %d are lost: %v", sent, len(lost), lost)
	}
	if n := sockets(); n != before {
		t.Errorf("%d open files, %d before", n, before)
	}

	// Many changes do not pile up, and do not end the plane.
	workers := func(s sites.Answer) (n uint64) { return s.Stats["encap_packets"] + s.Stats["decap_packets"] }
	was := a.State()
	for range 20 {
		a.RLOCs()
		a.RLOCs(two, sites.RLOCA4, sites.RLOCA4)
		if m := a.State().Missing; len(m) > 0 { // the ports of before were free
			t.Fatalf("missing %v", m)
		}
	}
	if now := a.State(); workers(now) < workers(was) {
		t.Errorf("counters went back from %v to %v", was.Stats, now.Stats)
	}
	a.RLOCs(sites.RLOCA4, addr("127.0.0.1")) // which can't be one
	if n := sockets(); n != before {
		t.Errorf("%d open files, %d before", n, before)
	}
	sites.Transfer(t, tp.HostA, tp.HostB, sites.HostB4, 1<<20)
	sites.Transfer(t, tp.HostB, tp.HostA, sites.HostA4, 1<<20)
	a.Exit()
}

// The address of the only uplink changes under a flow of data: the old one is
// gone, the new one is bound and used, and received on.
func TestAddressChanges(t *testing.T) {
	tp := sites.New(t)
	cfg := sites.ConfigA(sites.RLOCB4)
	cfg.Sources = []netip.Addr{sites.RLOCA4}
	a := sites.Start(t, tp.XTRA, cfg)
	b := sites.Start(t, tp.XTRB, sites.ConfigB(sites.RLOCA4))
	if err := connects(t, tp, sites.HostB4); err != nil {
		t.Fatal(err)
	}
	l := sites.Listen(t, tp.HostB, sites.HostB4)
	accepted := make(chan net.Conn, 1)
	go func() {
		if c, err := l.Accept(); err == nil {
			accepted <- c
		}
	}()
	c, err := sites.Dial(tp.HostA, l.Addr(), 5*time.Second)
	sites.Check(t, err)
	defer c.Close()
	server := <-accepted
	defer server.Close()
	echo := func(what string) {
		t.Helper()
		c.SetDeadline(time.Now().Add(5 * time.Second))
		server.SetDeadline(time.Now().Add(5 * time.Second))
		buf := make([]byte, len(what))
		for _, w := range [][2]net.Conn{{c, server}, {server, c}} {
			if _, err := w[0].Write([]byte(what)); err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			if _, err := readFull(w[1], buf); err != nil || string(buf) != what {
				t.Fatalf("%s: %q, %v", what, buf, err)
			}
		}
	}
	echo("by the old address")
	moved := addr("198.51.100.99")
	// The core can't reach the new one but by a route, as with a new lease.
	delAddress(t, tp.XTRA, "up", "198.51.100.1/30")
	sites.Check(t, tp.XTRA.AddAddress("up", prefix("198.51.100.99/32")))
	sites.Check(t, tp.Core.AddRoute(prefix("198.51.100.99/32"), netip.Addr{}, "a"))
	sites.Check(t, tp.XTRA.AddRoute(prefix("198.51.100.2/32"), netip.Addr{}, "up"))
	sites.Check(t, tp.XTRA.AddRoute(prefix("0.0.0.0/0"), addr("198.51.100.2"), ""))
	a.RLOCs(moved)
	a.Sources(moved)
	b.Apply(sites.Entry{EID: sites.EIDA4, Locators: sites.To(moved)})
	echo("by the new address")
	sites.Transfer(t, tp.HostB, tp.HostA, sites.HostA4, 1<<20)
	if s := a.State(); len(s.Missing) != 0 {
		t.Errorf("missing %v", s.Missing)
	}
	a.Exit()
}

func readFull(c net.Conn, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		var k int
		k, err = c.Read(buf[n:])
		n += k
	}
	return n, err
}

// Routers and hosts say that packets do not arrive: the control plane hears of
// the path, of both families, and of nothing that was not sent.
func TestUnreachableIsTold(t *testing.T) {
	tp := sites.New(t)
	for _, c := range []struct {
		name       string
		local, dst netip.Addr
		spoil      func(t *testing.T)
	}{
		{"no ETR", sites.RLOCA4, sites.RLOCB4, nil},
		{"no ETR, IPv6", sites.RLOCA6, sites.RLOCB6, nil},
		{"no route", sites.RLOCA4, addr("203.0.113.9"), nil},
		{"no route, IPv6", sites.RLOCA6, addr("2001:db8:f9::9"), nil},
		{"prohibited", sites.RLOCA4, addr("203.0.113.10"), func(t *testing.T) { prohibit(t, tp.Core, "203.0.113.10/32") }},
		{"prohibited, IPv6", sites.RLOCA6, addr("2001:db8:f9::10"), func(t *testing.T) { prohibit(t, tp.Core, "2001:db8:f9::10/128") }},
		{"silent gateway", sites.RLOCA4, sites.RLOCB4, func(t *testing.T) {
			sites.Check(t, tp.XTRA.SetSysctl("net.ipv4.neigh.up.retrans_time_ms", "50"))
			sites.Check(t, tp.XTRA.SetSysctl("net.ipv4.neigh.up.delay_first_probe_time", "0"))
			sites.Check(t, tp.Core.Do(func() error {
				l, err := netlink.LinkByName("a")
				if err != nil {
					return err
				}
				return netlink.LinkSetARPOff(l)
			}))
			sites.Check(t, tp.XTRA.Do(func() error {
				l, err := netlink.LinkByName("up")
				if err != nil {
					return err
				}
				return netlink.NeighDel(&netlink.Neigh{LinkIndex: l.Attrs().Index, IP: net.IPv4(198, 51, 100, 2)})
			}))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.spoil != nil {
				c.spoil(t)
			}
			a := sites.Start(t, tp.XTRA, sites.ConfigA(c.dst))
			tx := sites.UDPSocket(t, tp.HostA, sites.HostA4, false)
			deadline := time.Now().Add(3 * time.Second)
			var told []dataplane.Path
			for len(told) == 0 {
				if time.Now().After(deadline) {
					t.Fatalf("nothing was told: %v", a.State().Stats)
				}
				tx.WriteTo([]byte("x"), &net.UDPAddr{IP: sites.HostB4.AsSlice(), Port: 9})
				time.Sleep(20 * time.Millisecond)
				told = a.Ask("unreachable").Unreachable
			}
			if want := (dataplane.Path{Local: c.local, Remote: c.dst}); told[0] != want {
				t.Errorf("told %v, want %v", told[0], want)
			}
			if s := a.State(); s.Stats["unreachable_queued"] == 0 {
				t.Errorf("counters %v", s.Stats)
			}
			// The locator is not one any more: messages about it are old.
			a.Apply(sites.Entry{EID: sites.EIDB4, Removed: true}, sites.Entry{EID: sites.EIDB6, Removed: true})
			a.Exit()
		})
	}
}

func prohibit(t *testing.T, ns *netns.NS, dst string) {
	t.Helper()
	sites.Check(t, ns.Do(func() error {
		_, p, err := net.ParseCIDR(dst)
		if err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{Dst: p, Type: unix.RTN_PROHIBIT})
	}))
}

// With the clamp a host's segments fit the path without any message about it.
func TestMSSClampOnTheWire(t *testing.T) {
	tp := sites.New(t)
	sites.Check(t, tp.Core.Do(func() error {
		l, err := netlink.LinkByName("b")
		if err != nil {
			return err
		}
		return netlink.LinkSetMTU(l, 1400)
	}))
	ca, cb := sites.ConfigA(sites.RLOCB4), sites.ConfigB(sites.RLOCA4)
	ca.UplinkMTU, ca.MSSClamp = 1400, true // as if learned
	sites.Start(t, tp.XTRB, cb)
	a := sites.Start(t, tp.XTRA, ca)
	for _, to := range []struct {
		from, to *netns.NS
		dst      netip.Addr
		mss      int
	}{
		{tp.HostA, tp.HostB, sites.HostB4, 1400 - 36 - 40}, {tp.HostA, tp.HostB, sites.HostB6, 1400 - 36 - 60},
		{tp.HostB, tp.HostA, sites.HostA4, 1400 - 36 - 40}, {tp.HostB, tp.HostA, sites.HostA6, 1400 - 36 - 60},
	} {
		sites.Transfer(t, to.from, to.to, to.dst, 300<<10)
		l := sites.Listen(t, to.to, to.dst)
		c, err := sites.Dial(to.from, l.Addr(), 5*time.Second)
		sites.Check(t, err)
		rc, err := c.(*net.TCPConn).SyscallConn()
		sites.Check(t, err)
		var mss int
		sites.Check(t, rc.Control(func(fd uintptr) { mss, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG) }))
		sites.Check(t, err)
		c.Close()
		if mss > to.mss || mss < to.mss-20 { // less by options
			t.Errorf("to %v: MSS %d, want %d", to.dst, mss, to.mss)
		}
	}
	s := a.State()
	if s.Stats["mss_clamped"] == 0 || s.Stats["drop_too_big"] != 0 || s.Stats["icmp_too_big"] != 0 {
		t.Errorf("counters %v", s.Stats)
	}
}

// Both directions count for the entry of the other site.
func TestActiveOnTheWire(t *testing.T) {
	tp := sites.New(t)
	a, b := tp.Start(t, false)
	sites.Transfer(t, tp.HostA, tp.HostB, sites.HostB4, 1<<20)
	deadline := time.Now().Add(2 * time.Second) // the last packets may be on their way
	for {
		var sent, received [2]uint64
		for i, x := range []*sites.XTR{a, b} {
			for _, e := range x.Ask("active").Active {
				if strings.Contains(e.EID.String(), "10.") {
					sent[i], received[i] = e.Sent, e.Received
				}
			}
		}
		if sent[0] >= 100 && received[0] > 0 && sent[1] == received[0] && received[1] == sent[0] {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("one site sent %d and received %d, the other %d and %d", sent[0], received[0], sent[1], received[1])
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Uplinks with routing tables of their own have routes of their own: the
// smallest MTU of them holds for a locator, as its flows may go by any.
func TestMTUOfSeveralUplinks(t *testing.T) {
	tp := sites.New(t)
	two := second(t, tp)
	sites.Check(t, tp.XTRA.Do(func() error {
		link, err := netlink.LinkByName("up2")
		if err != nil {
			return err
		}
		_, all, _ := net.ParseCIDR("0.0.0.0/0")
		if err := netlink.RouteAdd(&netlink.Route{Dst: all, LinkIndex: link.Attrs().Index, Gw: net.IPv4(198, 51, 100, 10), Table: 77, MTU: 1380}); err != nil {
			return err
		}
		r := netlink.NewRule()
		r.Priority, r.Table, r.Family = 900, 77, unix.AF_INET
		r.Src = netns.IPNet(netip.PrefixFrom(two, 32))
		return netlink.RuleAdd(r)
	}))
	cfg := sites.ConfigA(sites.RLOCB4)
	cfg.Sources = []netip.Addr{sites.RLOCA4, sites.RLOCA6}
	a := sites.Start(t, tp.XTRA, cfg)
	want := func(mtu int) {
		t.Helper()
		deadline := time.Now().Add(2 * time.Second)
		for a.State().MTU[sites.RLOCB4.String()] != mtu {
			if time.Now().After(deadline) {
				t.Fatalf("path MTUs %v, want %d", a.State().MTU, mtu)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	want(1500)
	a.RLOCs(sites.RLOCA4, two)
	want(1380)
	a.RLOCs(sites.RLOCA4)
	want(1500)
}

// TestDrainLosesNothing: while streams go both ways over two uplinks, the peer
// stops sending to one of them and the site from it, as when its locator is
// drained, then both come back, several times: nothing is lost, and in between
// nothing comes by the drained one.
func TestDrainLosesNothing(t *testing.T) {
	tp := sites.New(t)
	two := second(t, tp)
	cfg := sites.ConfigA(sites.RLOCB4)
	cfg.Sources = []netip.Addr{sites.RLOCA4, two}
	a := sites.Start(t, tp.XTRA, cfg)
	locators := func(first uint8) []mapping.Locator {
		return []mapping.Locator{mapping.MakeLocator(sites.RLOCA4, first, 50), mapping.MakeLocator(two, 1, 50)}
	}
	cfg = sites.ConfigB(sites.RLOCA4)
	cfg.Entries = []sites.Entry{{EID: sites.EIDA4, Locators: locators(1)}}
	b := sites.Start(t, tp.XTRB, cfg)
	if err := connects(t, tp, sites.HostB4); err != nil { // neighbours are known
		t.Fatal(err)
	}
	received := func(link string) (n uint64) {
		t.Helper()
		sites.Check(t, tp.XTRA.Do(func() error {
			l, err := netlink.LinkByName(link)
			if err == nil {
				n = l.Attrs().Statistics.RxPackets
			}
			return err
		}))
		return n
	}
	out, in := stream(t, tp.HostA, sites.HostA4, tp.HostB, sites.HostB4), stream(t, tp.HostB, sites.HostB4, tp.HostA, sites.HostA4)
	for range 3 {
		time.Sleep(100 * time.Millisecond)
		b.Apply(sites.Entry{EID: sites.EIDA4, Locators: locators(255)})
		a.Sources(two)
		time.Sleep(50 * time.Millisecond) // what is on its way
		up, up2 := received("up"), received("up2")
		deadline := time.Now().Add(10 * time.Second)
		for received("up2") < up2+50 && time.Now().Before(deadline) {
			time.Sleep(10 * time.Millisecond)
		}
		if n, n2 := received("up")-up, received("up2")-up2; n > 5 || n2 < 50 { // neighbours ask for each other
			t.Errorf("while one is drained, %d packets came by it and %d by the other", n, n2)
		}
		a.Sources(sites.RLOCA4, two)
		b.Apply(sites.Entry{EID: sites.EIDA4, Locators: locators(1)})
	}
	for name, stop := range map[string]func() ([]uint64, uint64){"out": out, "in": in} {
		if lost, sent := stop(); len(lost) > 0 || sent < 150 {
			t.Errorf("%s: of %d packets %d are lost: %v", name, sent, len(lost), lost)
		}
	}
	onlyDrops(t, a.State())
	onlyDrops(t, b.State())
}
