package bpf

import (
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/dataplane/dptest/sites"
	"github.com/eidolon-lisp/eidolon/dataplane/tun"
	"github.com/eidolon-lisp/eidolon/internal/netns"
	"github.com/eidolon-lisp/eidolon/mapping"
)

// All four combinations of families carry TCP both ways, unchanged, by the
// programs and not by the slow path, and the planes know from which RLOCs the
// packets came.
func TestTCPThroughAllFamilies(t *testing.T) {
	tp := sites.New(t)
	for _, outer6 := range []bool{false, true} {
		a, b := tp.Start(t, outer6)
		sites.Transfer(t, tp.HostA, tp.HostB, sites.HostB4, 3<<20)
		sites.Transfer(t, tp.HostB, tp.HostA, sites.HostA4, 3<<20)
		sites.Transfer(t, tp.HostA, tp.HostB, sites.HostB6, 3<<20)
		sites.Transfer(t, tp.HostB, tp.HostA, sites.HostA6, 3<<20)
		for _, x := range []*sites.XTR{a, b} {
			s := x.State().Stats
			// What the TUN devices read and the sockets received, of some 8,000.
			if s["encap_bytes"] < 6<<20 || s["decap_bytes"] < 6<<20 || s["encap_packets"] < 4000 ||
				s["slow_encap"] > 100 || s["slow_decap"] > 100 || s["receive_calls"] > 10 {
				t.Errorf("counters %v", s)
			}
			active := x.Ask("active").Active
			if len(active) != 2 || active[0].Sent < 1000 || active[0].Received < 1000 || active[1].Sent < 1000 || active[1].Received < 1000 {
				t.Errorf("active %+v", active)
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
		sites.ForgetPaths(t, tp.HostA)
		sites.ForgetPaths(t, tp.HostB)
	}
}

// A kernel plane beside one that reads a socket, either way, on links that leave
// checksums unfinished.
func TestMixedPlanes(t *testing.T) {
	tp := sites.New(t)
	for _, kernelFirst := range []bool{true, false} {
		ca, cb := sites.ConfigA(sites.RLOCB4), sites.ConfigB(sites.RLOCA4)
		ca.Plane, cb.Plane = safe, slowOnly
		if !kernelFirst {
			ca.Plane, cb.Plane = slowOnly, safe
		}
		a, b := sites.Start(t, tp.XTRA, ca), sites.Start(t, tp.XTRB, cb)
		sites.Transfer(t, tp.HostA, tp.HostB, sites.HostB4, 3<<20)
		sites.Transfer(t, tp.HostB, tp.HostA, sites.HostA4, 3<<20)
		sites.Transfer(t, tp.HostA, tp.HostB, sites.HostB6, 3<<20)
		a.Exit()
		b.Exit()
	}
}

func TestPathMTU(t *testing.T) { sites.PathMTU(t, func(sites.Answer) {}) }

func TestTTL(t *testing.T) {
	sites.TTL(t, func(a sites.Answer) {
		if a.Stats["slow_encap"] > 10 {
			t.Errorf("counters %v", a.Stats)
		}
	})
}

// A change of the mapping is obeyed at once, by flows that the cache knows, and
// so is its end; expiry needs nobody to tell.
func TestChangeOfMapping(t *testing.T) {
	tp := sites.New(t)
	a, _ := tp.Start(t, false)
	rx, tx := sites.UDPSocket(t, tp.HostB, sites.HostB4, false), sites.UDPSocket(t, tp.HostA, sites.HostA4, false)
	send := func(arrives bool) {
		t.Helper()
		_, err := tx.WriteTo([]byte("x"), rx.LocalAddr())
		sites.Check(t, err)
		rx.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		var buf [8]byte
		if _, _, err := rx.ReadFrom(buf[:]); (err == nil) != arrives {
			t.Fatalf("arrived: %v, want %v", err == nil, arrives)
		}
	}
	settle := func() { time.Sleep(20 * time.Millisecond) }
	send(true)
	send(true)
	// Into the void: the core drops what is for 203.0.113.9.
	a.Apply(sites.Entry{EID: sites.EIDB4, Locators: sites.To(addr("203.0.113.9"))})
	settle()
	send(false)
	a.Apply(sites.Entry{EID: sites.EIDB4, Locators: sites.To(sites.RLOCB4)})
	settle()
	send(true)
	// A more-specific one comes and goes.
	host := sites.EIDB4
	host.Prefix = prefix("10.2.0.2/32")
	a.Apply(sites.Entry{EID: host, Locators: sites.To(addr("203.0.113.9"))})
	settle()
	send(false)
	a.Apply(sites.Entry{EID: host, Removed: true})
	settle()
	send(true)
	before := a.State().Stats
	a.Apply(sites.Entry{EID: sites.EIDB4, Locators: sites.To(sites.RLOCB4), Lifetime: 500 * time.Millisecond})
	settle()
	send(true)
	time.Sleep(600 * time.Millisecond)
	send(false)
	after := a.State().Stats
	if after["drop_no_mapping"] <= before["drop_no_mapping"] || after["encap_packets"] != before["encap_packets"]+1 {
		t.Errorf("before %v, after %v", before, after)
	}
}

// Where the plane ends in an orderly way, nothing is left at the interfaces.
func TestNothingLeft(t *testing.T) {
	tp := sites.New(t)
	a := sites.Start(t, tp.XTRA, sites.ConfigA(sites.RLOCB4))
	if n := programs(t, tp.XTRA); n != 2 {
		t.Errorf("%d programs at the interfaces, want 2", n)
	}
	a.Exit()
	nothingLeft(t, tp.XTRA)
}

func nothingLeft(t *testing.T, ns *netns.NS) {
	t.Helper()
	if n := programs(t, ns); n != 0 {
		t.Errorf("%d programs left at the interfaces", n)
	}
	if dir := pinned(t, ns); dir == "" {
		t.Error("there is no BPF file system")
	} else if _, err := os.Stat(string(dir)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is left: %v", dir, err)
	}
}

// pinned returns the directory of a namespace's pins.
func pinned(t *testing.T, ns *netns.NS) (p pins) {
	t.Helper()
	sites.Check(t, ns.Do(func() (err error) { p, err = findPins(false); return err }))
	return p
}

// A killed xTR goes on forwarding by what it knew until that expires. The next
// one takes over without a packet lost, asks for the mapping that is in use, and
// obeys what it learns.
func TestKilledAndAdopted(t *testing.T) {
	tp := sites.New(t)
	a, _ := tp.Start(t, false)
	rx, tx := sites.UDPSocket(t, tp.HostB, sites.HostB4, false), sites.UDPSocket(t, tp.HostA, sites.HostA4, false)
	got := make(chan byte, 1024)
	go func() {
		var buf [8]byte
		for {
			if n, _, err := rx.ReadFrom(buf[:]); err != nil || n != 1 {
				close(got)
				return
			}
			got <- buf[0]
		}
	}()
	stop, stopped, sent := make(chan struct{}), make(chan struct{}), 0
	go func() {
		defer close(stopped)
		for ; ; sent++ {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
			}
			tx.WriteTo([]byte{byte(sent)}, rx.LocalAddr())
		}
	}()
	time.Sleep(100 * time.Millisecond)
	a.Kill()
	time.Sleep(200 * time.Millisecond)
	again := sites.ConfigA(sites.RLOCB4)
	again.Entries = nil
	a = sites.Start(t, tp.XTRA, again)
	time.Sleep(200 * time.Millisecond)
	close(stop)
	<-stopped
	time.Sleep(100 * time.Millisecond)
	for i := range sent {
		select {
		case b := <-got:
			if b != byte(i) {
				t.Fatalf("packet %d arrived in the place of %d", b, byte(i))
			}
		default:
			t.Fatalf("%d of %d packets arrived", i, sent)
		}
	}
	if n := programs(t, tp.XTRA); n != 2 {
		t.Errorf("%d programs at the interfaces, want 2", n)
	}
	a.State() // takes the counts
	if m := a.Ask("misses").Misses; len(m) == 0 || m[0].Dst != sites.EIDB4.Prefix.Addr() {
		t.Errorf("asked for %v", m)
	}
	a.Apply(sites.Entry{EID: sites.EIDB4, Locators: sites.To(addr("203.0.113.9"))})
	time.Sleep(20 * time.Millisecond)
	tx.WriteTo([]byte{1}, rx.LocalAddr())
	select {
	case <-got:
		t.Error("a packet went by the old mapping")
	case <-time.After(200 * time.Millisecond):
	}
	a.Exit()
	nothingLeft(t, tp.XTRA)
}

// What a killed xTR leaves stops using a mapping when it expires, and Cleanup
// takes it away.
func TestKilledAndCleanedUp(t *testing.T) {
	tp := sites.New(t)
	a, _ := tp.Start(t, false)
	a.Apply(sites.Entry{EID: sites.EIDB4, Locators: sites.To(sites.RLOCB4), Lifetime: 1500 * time.Millisecond})
	expires := time.Now().Add(1500 * time.Millisecond)
	time.Sleep(200 * time.Millisecond) // the tables follow
	if got, _ := sites.Datagrams(t, tp.HostA, sites.HostA4, tp.HostB, sites.HostB4, false, 100); len(got) != 1 {
		t.Fatal("nothing arrived")
	}
	if err := tp.XTRA.Do(tun.Cleanup); !errors.Is(err, tun.ErrRunning) {
		t.Errorf("cleanup beside a running xTR: %v", err)
	}
	a.Kill()
	if got, _ := sites.Datagrams(t, tp.HostA, sites.HostA4, tp.HostB, sites.HostB4, false, 100); len(got) != 1 {
		t.Error("a killed xTR forwards no more")
	}
	time.Sleep(time.Until(expires) + 50*time.Millisecond)
	if got, _ := sites.Datagrams(t, tp.HostA, sites.HostA4, tp.HostB, sites.HostB4, false, 100); len(got) != 0 {
		t.Error("a mapping is used that has expired")
	}
	sites.Check(t, tp.XTRA.Do(tun.Cleanup))
	sites.Check(t, tp.XTRA.Do(Cleanup))
	nothingLeft(t, tp.XTRA)
	sites.Check(t, tp.XTRA.Do(func() error {
		for _, f := range []int{unix.AF_INET, unix.AF_INET6} {
			rules, err := netlink.RuleList(f)
			if err != nil {
				return err
			}
			for _, r := range rules {
				if r.Protocol == tun.Protocol {
					t.Errorf("rule left: %v", r)
				}
			}
		}
		return nil
	}))
}

// Pinned tables of other sizes give way to new ones, at the same places.
func TestOtherTables(t *testing.T) {
	tp := sites.New(t)
	cfg := sites.ConfigA(sites.RLOCB4)
	cfg.Mappings = 100
	sites.Start(t, tp.XTRA, cfg).Kill()
	sites.Start(t, tp.XTRB, sites.ConfigB(sites.RLOCA4))
	cfg.Mappings = 5000
	a := sites.Start(t, tp.XTRA, cfg)
	if n := programs(t, tp.XTRA); n != 2 {
		t.Errorf("%d programs at the interfaces, want 2", n)
	}
	sites.Transfer(t, tp.HostA, tp.HostB, sites.HostB4, 1<<20)
	if s := a.State().Stats; s["encap_bytes"] < 1<<20 || s["slow_encap"] > 100 {
		t.Errorf("counters %v", s)
	}
	a.Exit()
	nothingLeft(t, tp.XTRA)
}

// On a kernel without TCX the program is a classic filter: it forwards the same,
// goes on when the process is killed, is replaced by the next one without a
// packet lost, and nothing of it is left at the end.
func TestClassicFilter(t *testing.T) {
	tp := sites.New(t)
	ca, cb := sites.ConfigA(sites.RLOCB4), sites.ConfigB(sites.RLOCA4)
	ca.Plane, cb.Plane = classic, classic
	a, b := sites.Start(t, tp.XTRA, ca), sites.Start(t, tp.XTRB, cb)
	for _, ns := range []*netns.NS{tp.XTRA, tp.XTRB} {
		if n := filters(t, ns); n != 2 || programs(t, ns) != 0 {
			t.Errorf("%d filters and %d links at the interfaces, want 2 filters", n, programs(t, ns))
		}
	}
	sites.Transfer(t, tp.HostA, tp.HostB, sites.HostB4, 3<<20)
	sites.Transfer(t, tp.HostB, tp.HostA, sites.HostA6, 3<<20)
	for _, x := range []*sites.XTR{a, b} {
		if s := x.State().Stats; s["encap_bytes"] < 3<<20 || s["slow_encap"] > 100 || s["slow_decap"] > 100 {
			t.Errorf("counters %v", s)
		}
	}
	a.Kill()
	if got, _ := sites.Datagrams(t, tp.HostA, sites.HostA4, tp.HostB, sites.HostB4, false, 100); len(got) != 1 {
		t.Error("a killed xTR forwards no more")
	}
	again := ca
	again.Entries = nil
	a = sites.Start(t, tp.XTRA, again)
	if n := filters(t, tp.XTRA); n != 2 {
		t.Errorf("%d filters after the next start, want 2", n)
	}
	if got, _ := sites.Datagrams(t, tp.HostA, sites.HostA4, tp.HostB, sites.HostB4, false, 100); len(got) != 1 {
		t.Error("the next one has not adopted the tables")
	}
	// The kernel was replaced by one with TCX, so to say.
	a.Kill()
	again.Plane = ""
	a = sites.Start(t, tp.XTRA, again)
	if n := filters(t, tp.XTRA); n != 0 || programs(t, tp.XTRA) != 2 {
		t.Errorf("%d filters and %d links, want 2 links", n, programs(t, tp.XTRA))
	}
	if got, _ := sites.Datagrams(t, tp.HostA, sites.HostA4, tp.HostB, sites.HostB4, false, 100); len(got) != 1 {
		t.Error("links do not take over from filters")
	}
	a.Exit()
	b.Kill()
	sites.Check(t, tp.XTRB.Do(tun.Cleanup))
	sites.Check(t, tp.XTRB.Do(Cleanup))
	for _, ns := range []*netns.NS{tp.XTRA, tp.XTRB} {
		nothingLeft(t, ns)
		if n := filters(t, ns); n != 0 {
			t.Errorf("%d filters are left", n)
		}
	}
}

// A new way to the site's hosts gets the program at once, and an interface that
// leads there no more loses it.
func TestInterfacesFollowRoutes(t *testing.T) {
	tp := sites.New(t)
	a, _ := tp.Start(t, false)
	sites.Check(t, netns.Veth(tp.HostA, "eth1", tp.XTRA, "site2", 1500))
	at := func(want int) {
		t.Helper()
		begin := time.Now()
		for programs(t, tp.XTRA) != want {
			if time.Since(begin) > interfaceInterval/2 {
				t.Fatalf("%d programs at the interfaces after %v, want %d", programs(t, tp.XTRA), time.Since(begin), want)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	at(2)
	sites.Check(t, tp.XTRA.AddAddress("site2", prefix("10.1.0.129/25"))) // and a route with it
	at(3)
	sites.Check(t, tp.XTRA.Do(func() error {
		l, err := netlink.LinkByName("site2")
		if err != nil {
			return err
		}
		return netlink.LinkDel(l)
	}))
	at(2)
	sites.Transfer(t, tp.HostA, tp.HostB, sites.HostB4, 1<<20)
	a.Exit()
	nothingLeft(t, tp.XTRA)
}

// What a killed xTR has pinned in a namespace goes when that is gone and the
// next one starts anywhere, and what is pinned elsewhere stays.
func TestPinsOfNamespacesThatAreGone(t *testing.T) {
	netns.NeedTUN(t)
	gone, err := netns.New()
	sites.Check(t, err)
	core := netns.Fresh(t, 1)[0]
	sites.Check(t, netns.Veth(gone, "up", core, "a", 1500))
	sites.Check(t, gone.AddAddress("up", prefix("198.51.100.1/30")))
	x := sites.Spawn(t, gone)
	if a := x.Configure(sites.ConfigA(sites.RLOCB4)); a.Err != "" {
		t.Fatal(a.Err)
	}
	dir := pinned(t, gone)
	x.Kill()
	tp := sites.New(t)
	sites.Start(t, tp.XTRB, sites.ConfigB(sites.RLOCA4)).Kill()
	if _, err := os.Stat(string(dir)); err != nil {
		t.Fatalf("the pins went before their namespace: %v", err)
	}
	sites.Check(t, gone.Close())
	// The kernel takes a namespace down when it has time.
	for begin := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		a := sites.Start(t, tp.XTRA, sites.ConfigA(sites.RLOCB4))
		_, err := os.Stat(string(dir))
		if errors.Is(err, fs.ErrNotExist) {
			a.Exit()
			break
		}
		if time.Since(begin) > 10*time.Second {
			t.Fatalf("the pins of a namespace that is gone are still there: %v", err)
		}
		a.Exit()
	}
	if n := programs(t, tp.XTRB); n != 2 {
		t.Errorf("%d programs where another was killed, want 2", n)
	}
	if _, err := os.Stat(string(pinned(t, tp.XTRB))); err != nil {
		t.Errorf("pins of a living namespace: %v", err)
	}
}

// A user who may load programs and not write to the BPF file system is told so by
// an error that New takes for a plane without pins.
func TestPinsForbidden(t *testing.T) {
	netns.NeedTUN(t)
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with its user
		if err := unix.Setfsuid(65534); err != nil {
			done <- err
			return
		}
		_, err := lockPins(pins(pinRoot + "/net-0"))
		done <- err
	}()
	if err := <-done; !errors.Is(err, fs.ErrPermission) {
		t.Errorf("%v, expected an error of permission", err)
	}
}

// filters counts our classic filters at all interfaces.
func filters(t *testing.T, ns *netns.NS) (n int) {
	t.Helper()
	sites.Check(t, ns.Do(func() error {
		links, err := netlink.LinkList()
		for _, l := range links {
			list, err := netlink.FilterList(l, netlink.HANDLE_MIN_INGRESS)
			if err != nil {
				continue // it has no place for filters
			}
			for _, f := range list {
				if b, ok := f.(*netlink.BpfFilter); ok && b.Priority == filterPriority {
					n++
				}
			}
		}
		return err
	}))
	return n
}

// programs counts the programs at the ingress of all interfaces.
func programs(t *testing.T, ns *netns.NS) (n int) {
	t.Helper()
	sites.Check(t, ns.Do(func() error {
		links, err := netlink.LinkList()
		for _, l := range links {
			r, err := link.QueryPrograms(link.QueryOptions{Target: l.Attrs().Index, Attach: ebpf.AttachTCXIngress})
			if err != nil {
				return err
			}
			n += len(r.Programs)
		}
		return err
	}))
	return n
}

// With two uplinks on both sides each packet leaves by the uplink whose address
// it carries, as the rules say, and no other: providers drop what comes with
// another's. Flows are shared, and those of an uplink or a locator that goes move
// to the other, all without the slow path.
func TestTwoUplinks(t *testing.T) {
	tp := sites.New(t)
	second := map[*netns.NS]netip.Addr{tp.XTRA: addr("198.51.101.1"), tp.XTRB: addr("198.51.102.6")}
	for _, e := range []struct {
		xtr          *netns.NS
		dev          string
		own, gateway string
	}{{tp.XTRA, "a2", "198.51.101.1/30", "198.51.101.2/30"}, {tp.XTRB, "b2", "198.51.102.6/30", "198.51.102.5/30"}} {
		sites.Check(t, netns.Veth(e.xtr, "up2", tp.Core, e.dev, 1500))
		sites.Check(t, e.xtr.AddAddress("up2", prefix(e.own)))
		sites.Check(t, tp.Core.AddAddress(e.dev, prefix(e.gateway)))
		sites.Check(t, e.xtr.Do(func() error {
			l, err := netlink.LinkByName("up2")
			if err != nil {
				return err
			}
			if err := netlink.RouteAdd(&netlink.Route{Gw: prefix(e.gateway).Addr().AsSlice(), LinkIndex: l.Attrs().Index, Table: 4401}); err != nil {
				return err
			}
			r := netlink.NewRule()
			r.Src, r.Table, r.Priority = netns.IPNet(netip.PrefixFrom(prefix(e.own).Addr(), 32)), 4401, 1010
			return netlink.RuleAdd(r)
		}))
	}
	for _, dev := range []string{"all", "a", "a2", "b", "b2"} {
		sites.Check(t, tp.Core.SetSysctl("net.ipv4.conf."+dev+".rp_filter", "1"))
	}
	source := func(a netip.Addr, priority uint8) dataplane.Source {
		return dataplane.Source{Addr: a, Priority: priority, Weight: 100}
	}
	start := func(ns *netns.NS, cfg sites.Config) *sites.XTR {
		cfg.Sources = append(cfg.Sources, second[ns])
		x := sites.Start(t, ns, cfg)
		x.Tell("sources", []dataplane.Source{source(cfg.Sources[0], 1), source(second[ns], 1)})
		return x
	}
	a, b := start(tp.XTRA, sites.ConfigA(sites.RLOCB4)), start(tp.XTRB, sites.ConfigB(sites.RLOCA4))
	both := []mapping.Locator{mapping.MakeLocator(sites.RLOCB4, 1, 50), mapping.MakeLocator(second[tp.XTRB], 1, 50)}
	a.Apply(sites.Entry{EID: sites.EIDB4, Locators: both})
	time.Sleep(50 * time.Millisecond) // the tables follow

	const flows = 64
	var tx []*net.UDPConn
	rx := sites.UDPSocket(t, tp.HostB, sites.HostB4, false)
	for range flows {
		tx = append(tx, sites.UDPSocket(t, tp.HostA, sites.HostA4, false))
	}
	// play sends a packet of each flow, all of which must arrive, and returns how
	// many came by each link of the core and went by each.
	play := func() map[string]int {
		t.Helper()
		before := carried(t, tp.Core)
		for i, c := range tx {
			_, err := c.WriteTo([]byte{byte(i)}, rx.LocalAddr())
			sites.Check(t, err)
		}
		rx.SetReadDeadline(time.Now().Add(2 * time.Second))
		for n := range flows {
			var buf [8]byte
			if _, _, err := rx.ReadFrom(buf[:]); err != nil {
				t.Fatalf("%d of %d packets arrived: %v", n, flows, err)
			}
		}
		after := carried(t, tp.Core)
		for k := range after {
			after[k] -= before[k]
		}
		return after
	}
	shared := func(n map[string]int, one, other string) {
		t.Helper()
		// Neighbour discovery may add a few.
		if n[one] < flows/8 || n[other] < flows/8 || n[one]+n[other] < flows || n[one]+n[other] > flows+16 {
			t.Errorf("%d by %s and %d by %s, of %d", n[one], one, n[other], other, flows)
		}
	}
	only := func(n map[string]int, one, other string) {
		t.Helper()
		if n[one] < flows || n[other] > 8 {
			t.Errorf("%d by %s and %d by %s, want all %d by the first", n[one], one, n[other], other, flows)
		}
	}
	play() // fills caches and neighbour tables
	n := play()
	shared(n, "a in", "a2 in")
	shared(n, "b out", "b2 out")
	a.Tell("sources", []dataplane.Source{source(second[tp.XTRA], 1)})
	time.Sleep(50 * time.Millisecond)
	n = play()
	only(n, "a2 in", "a in")
	shared(n, "b out", "b2 out")
	a.Apply(sites.Entry{EID: sites.EIDB4, Locators: both[:1]})
	time.Sleep(50 * time.Millisecond)
	n = play()
	only(n, "a2 in", "a in")
	only(n, "b out", "b2 out")
	a.Tell("sources", []dataplane.Source{source(sites.RLOCA4, 1), source(second[tp.XTRA], 1)})
	a.Apply(sites.Entry{EID: sites.EIDB4, Locators: both})
	time.Sleep(50 * time.Millisecond)
	n = play()
	shared(n, "a in", "a2 in")
	shared(n, "b out", "b2 out")
	for _, x := range []*sites.XTR{a, b} {
		if s := x.State().Stats; s["slow_encap"] > 20 || s["slow_decap"] > 20 || s["encap_packets"]+s["decap_packets"] < 5*flows {
			t.Errorf("counters %v", s)
		}
	}
}

// carried returns the packets that each link of a node has received and sent.
func carried(t *testing.T, ns *netns.NS) map[string]int {
	t.Helper()
	n := map[string]int{}
	sites.Check(t, ns.Do(func() error {
		links, err := netlink.LinkList()
		for _, l := range links {
			if s := l.Attrs().Statistics; s != nil {
				n[l.Attrs().Name+" in"], n[l.Attrs().Name+" out"] = int(s.RxPackets), int(s.TxPackets)
			}
		}
		return err
	}))
	return n
}

func TestCounters(t *testing.T) { sites.Counters(t) }

// The programs leave a flow to the TUN plane while it is traced, and only so long.
func TestTrace(t *testing.T) {
	left := func(c string) func(after, later sites.Answer) {
		return func(after, later sites.Answer) {
			if then, more := after.Stats[c], later.Stats[c]-after.Stats[c]; then < 5 || more > 2 {
				t.Errorf("%s is %d after the trace, and %d more later", c, then, more)
			}
		}
	}
	sites.Trace(t, [2]string{}, false, left("slow_encap"))
	sites.Trace(t, [2]string{safe, ""}, true, left("slow_decap"))
}

// A process that is killed while it traces has nobody left whom the flow could be
// told to: the programs soon forward it again.
func TestKilledWhileTracing(t *testing.T) {
	tp := sites.New(t)
	a, _ := tp.Start(t, false)
	arrives := func() bool {
		got, _ := sites.Datagrams(t, tp.HostA, sites.HostA4, tp.HostB, sites.HostB4, false, 100)
		return len(got) == 1
	}
	if !arrives() {
		t.Fatal("nothing is forwarded at first")
	}
	a.Tell("trace", dataplane.TraceFilter{There: sites.EIDB4.Prefix})
	a.Kill()
	begin := time.Now()
	for !arrives() {
		if time.Since(begin) > 3*traceTime {
			t.Fatalf("nothing is forwarded %v after the process was killed", time.Since(begin))
		}
	}
	sites.Check(t, tp.XTRA.Do(tun.Cleanup))
	sites.Check(t, tp.XTRA.Do(Cleanup))
}

// Super-packets go by the programs, and by both planes where one is on either
// side.
func TestSuperPackets(t *testing.T) {
	for _, outer6 := range []bool{false, true} {
		sites.SuperPackets(t, outer6, [2]string{}, func(a sites.Answer) {
			if a.Stats["encap_bytes"] < 1<<20 || a.Stats["slow_encap"] > 100 || a.Stats["slow_decap"] > 100 {
				t.Errorf("counters %v", a.Stats)
			}
		})
	}
	sites.SuperPackets(t, false, [2]string{safe, slowOnly}, func(sites.Answer) {})
	// Planes that leave checksums to each other.
	for _, planes := range [][2]string{{"", slowOnly}, {"", slowUnfinished}, {slowUnfinished, ""}} {
		sites.SuperPackets(t, true, planes, func(sites.Answer) {})
		sites.SuperPackets(t, false, planes, func(sites.Answer) {})
	}
}

// The MSS of a handshake whose checksum was left to others is lowered all the same.
func TestMSSClampOfUnfinished(t *testing.T) {
	tp := sites.New(t)
	ca, cb := sites.ConfigA(sites.RLOCB4), sites.ConfigB(sites.RLOCA4)
	cb.Plane, cb.MSSClamp = slowOnly, true
	sites.Start(t, tp.XTRA, ca)
	b := sites.Start(t, tp.XTRB, cb)
	sites.Transfer(t, tp.HostA, tp.HostB, sites.HostB4, 1000)
	sites.Transfer(t, tp.HostA, tp.HostB, sites.HostB6, 1000)
	if s := b.State().Stats; s["mss_clamped"] == 0 || s["decap_unfinished"] == 0 {
		t.Errorf("%d handshakes were clamped, %d packets came without a checksum", s["mss_clamped"], s["decap_unfinished"])
	}
}

func BenchmarkTCP(b *testing.B) { sites.BenchmarkTCP(b) }
