package bpf

import (
	"bytes"
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
	"github.com/eidolon-lisp/eidolon/dataplane/tun"
	"github.com/eidolon-lisp/eidolon/internal/netns"
	"github.com/eidolon-lisp/eidolon/mapping"
)

// All four combinations of families carry TCP both ways, unchanged, by the
// programs and not by the slow path, and the planes know from which RLOCs the
// packets came.
func TestTCPThroughAllFamilies(t *testing.T) {
	tp := newTopology(t)
	for _, outer6 := range []bool{false, true} {
		a, b := tp.sites(t, outer6)
		transfer(t, tp.hostA, tp.hostB, hostB4, 3<<20)
		transfer(t, tp.hostB, tp.hostA, hostA4, 3<<20)
		transfer(t, tp.hostA, tp.hostB, hostB6, 3<<20)
		transfer(t, tp.hostB, tp.hostA, hostA6, 3<<20)
		for _, x := range []*xtr{a, b} {
			s := x.state().Stats
			// What the TUN devices read and the sockets received, of some 8,000.
			if s["encap_bytes"] < 6<<20 || s["decap_bytes"] < 6<<20 || s["encap_packets"] < 4000 ||
				s["slow_encap"] > 100 || s["slow_decap"] > 100 || s["receive_calls"] > 10 {
				t.Errorf("counters %v", s)
			}
			active := x.ask("active").Active
			if len(active) != 2 || active[0].Sent < 1000 || active[0].Received < 1000 || active[1].Sent < 1000 || active[1].Received < 1000 {
				t.Errorf("active %+v", active)
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
		flushRouteCache(t, tp.hostA)
		flushRouteCache(t, tp.hostB)
	}
}

// A kernel plane beside one that reads a socket, either way, on links that leave
// checksums unfinished.
func TestMixedPlanes(t *testing.T) {
	tp := newTopology(t)
	for _, kernelFirst := range []bool{true, false} {
		ca, cb := configA(rlocB4), configB(rlocA4)
		ca.TUN, cb.TUN = !kernelFirst, kernelFirst
		ca.Safe, cb.Safe = true, true
		a, b := startXTR(t, tp.xtrA, ca), startXTR(t, tp.xtrB, cb)
		transfer(t, tp.hostA, tp.hostB, hostB4, 3<<20)
		transfer(t, tp.hostB, tp.hostA, hostA4, 3<<20)
		transfer(t, tp.hostA, tp.hostB, hostB6, 3<<20)
		a.exit()
		b.exit()
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

// flushRouteCache makes a host forget path MTUs.
func flushRouteCache(t *testing.T, ns *netns.NS) {
	t.Helper()
	setSysctl(t, ns, "net/ipv4/route/flush", "1")
	setSysctl(t, ns, "net/ipv6/route/flush", "1")
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
			if got := a.state().MTU[rloc.String()]; got != 1400 {
				t.Errorf("path MTU toward %v is %d", rloc, got)
			}
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
		if s := a.state().Stats; s["slow_encap"] > 10 {
			t.Errorf("counters %v", s)
		}
		a.exit()
		b.exit()
	}
}

// A change of the mapping is obeyed at once, by flows that the cache knows, and
// so is its end; expiry needs nobody to tell.
func TestChangeOfMapping(t *testing.T) {
	tp := newTopology(t)
	a, _ := tp.sites(t, false)
	rx, tx := udpSocket(t, tp.hostB, hostB4, false), udpSocket(t, tp.hostA, hostA4, false)
	send := func(arrives bool) {
		t.Helper()
		_, err := tx.WriteTo([]byte("x"), rx.LocalAddr())
		check(t, err)
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
	a.apply(entry{EID: eidB4, Locators: to(addr("203.0.113.9"))})
	settle()
	send(false)
	a.apply(entry{EID: eidB4, Locators: to(rlocB4)})
	settle()
	send(true)
	// A more-specific one comes and goes.
	host := eidB4
	host.Prefix = prefix("10.2.0.2/32")
	a.apply(entry{EID: host, Locators: to(addr("203.0.113.9"))})
	settle()
	send(false)
	a.apply(entry{EID: host, Removed: true})
	settle()
	send(true)
	before := a.state().Stats
	a.apply(entry{EID: eidB4, Locators: to(rlocB4), Lifetime: 500 * time.Millisecond})
	settle()
	send(true)
	time.Sleep(600 * time.Millisecond)
	send(false)
	after := a.state().Stats
	if after["drop_no_mapping"] <= before["drop_no_mapping"] || after["encap_packets"] != before["encap_packets"]+1 {
		t.Errorf("before %v, after %v", before, after)
	}
}

// Where the plane ends in an orderly way, nothing is left at the interfaces.
func TestNothingLeft(t *testing.T) {
	tp := newTopology(t)
	a := startXTR(t, tp.xtrA, configA(rlocB4))
	if n := programs(t, tp.xtrA); n != 2 {
		t.Errorf("%d programs at the interfaces, want 2", n)
	}
	a.exit()
	nothingLeft(t, tp.xtrA)
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
	check(t, ns.Do(func() (err error) { p, err = findPins(false); return err }))
	return p
}

// A killed xTR goes on forwarding by what it knew until that expires. The next
// one takes over without a packet lost, asks for the mapping that is in use, and
// obeys what it learns.
func TestKilledAndAdopted(t *testing.T) {
	tp := newTopology(t)
	a, _ := tp.sites(t, false)
	rx, tx := udpSocket(t, tp.hostB, hostB4, false), udpSocket(t, tp.hostA, hostA4, false)
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
	a.kill()
	time.Sleep(200 * time.Millisecond)
	again := configA(rlocB4)
	again.Entries = nil
	a = startXTR(t, tp.xtrA, again)
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
	if n := programs(t, tp.xtrA); n != 2 {
		t.Errorf("%d programs at the interfaces, want 2", n)
	}
	a.state() // takes the counts
	if m := a.ask("misses").Misses; len(m) == 0 || m[0].Dst != eidB4.Prefix.Addr() {
		t.Errorf("asked for %v", m)
	}
	a.apply(entry{EID: eidB4, Locators: to(addr("203.0.113.9"))})
	time.Sleep(20 * time.Millisecond)
	tx.WriteTo([]byte{1}, rx.LocalAddr())
	select {
	case <-got:
		t.Error("a packet went by the old mapping")
	case <-time.After(200 * time.Millisecond):
	}
	a.exit()
	nothingLeft(t, tp.xtrA)
}

// What a killed xTR leaves stops using a mapping when it expires, and Cleanup
// takes it away.
func TestKilledAndCleanedUp(t *testing.T) {
	tp := newTopology(t)
	a, _ := tp.sites(t, false)
	a.apply(entry{EID: eidB4, Locators: to(rlocB4), Lifetime: 1500 * time.Millisecond})
	expires := time.Now().Add(1500 * time.Millisecond)
	time.Sleep(200 * time.Millisecond) // the tables follow
	if got, _ := udp(t, tp.hostA, hostA4, tp.hostB, hostB4, false, 100); len(got) != 1 {
		t.Fatal("nothing arrived")
	}
	if err := tp.xtrA.Do(tun.Cleanup); !errors.Is(err, tun.ErrRunning) {
		t.Errorf("cleanup beside a running xTR: %v", err)
	}
	a.kill()
	if got, _ := udp(t, tp.hostA, hostA4, tp.hostB, hostB4, false, 100); len(got) != 1 {
		t.Error("a killed xTR forwards no more")
	}
	time.Sleep(time.Until(expires) + 50*time.Millisecond)
	if got, _ := udp(t, tp.hostA, hostA4, tp.hostB, hostB4, false, 100); len(got) != 0 {
		t.Error("a mapping is used that has expired")
	}
	check(t, tp.xtrA.Do(tun.Cleanup))
	check(t, tp.xtrA.Do(Cleanup))
	nothingLeft(t, tp.xtrA)
	check(t, tp.xtrA.Do(func() error {
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
	tp := newTopology(t)
	cfg := configA(rlocB4)
	cfg.Mappings = 100
	startXTR(t, tp.xtrA, cfg).kill()
	startXTR(t, tp.xtrB, configB(rlocA4))
	cfg.Mappings = 5000
	a := startXTR(t, tp.xtrA, cfg)
	if n := programs(t, tp.xtrA); n != 2 {
		t.Errorf("%d programs at the interfaces, want 2", n)
	}
	transfer(t, tp.hostA, tp.hostB, hostB4, 1<<20)
	if s := a.state().Stats; s["encap_bytes"] < 1<<20 || s["slow_encap"] > 100 {
		t.Errorf("counters %v", s)
	}
	a.exit()
	nothingLeft(t, tp.xtrA)
}

// On a kernel without TCX the program is a classic filter: it forwards the same,
// goes on when the process is killed, is replaced by the next one without a
// packet lost, and nothing of it is left at the end.
func TestClassicFilter(t *testing.T) {
	tp := newTopology(t)
	ca, cb := configA(rlocB4), configB(rlocA4)
	ca.Classic, cb.Classic = true, true
	a, b := startXTR(t, tp.xtrA, ca), startXTR(t, tp.xtrB, cb)
	for _, ns := range []*netns.NS{tp.xtrA, tp.xtrB} {
		if n := filters(t, ns); n != 2 || programs(t, ns) != 0 {
			t.Errorf("%d filters and %d links at the interfaces, want 2 filters", n, programs(t, ns))
		}
	}
	transfer(t, tp.hostA, tp.hostB, hostB4, 3<<20)
	transfer(t, tp.hostB, tp.hostA, hostA6, 3<<20)
	for _, x := range []*xtr{a, b} {
		if s := x.state().Stats; s["encap_bytes"] < 3<<20 || s["slow_encap"] > 100 || s["slow_decap"] > 100 {
			t.Errorf("counters %v", s)
		}
	}
	a.kill()
	if got, _ := udp(t, tp.hostA, hostA4, tp.hostB, hostB4, false, 100); len(got) != 1 {
		t.Error("a killed xTR forwards no more")
	}
	again := ca
	again.Entries = nil
	a = startXTR(t, tp.xtrA, again)
	if n := filters(t, tp.xtrA); n != 2 {
		t.Errorf("%d filters after the next start, want 2", n)
	}
	if got, _ := udp(t, tp.hostA, hostA4, tp.hostB, hostB4, false, 100); len(got) != 1 {
		t.Error("the next one has not adopted the tables")
	}
	// The kernel was replaced by one with TCX, so to say.
	a.kill()
	again.Classic = false
	a = startXTR(t, tp.xtrA, again)
	if n := filters(t, tp.xtrA); n != 0 || programs(t, tp.xtrA) != 2 {
		t.Errorf("%d filters and %d links, want 2 links", n, programs(t, tp.xtrA))
	}
	if got, _ := udp(t, tp.hostA, hostA4, tp.hostB, hostB4, false, 100); len(got) != 1 {
		t.Error("links do not take over from filters")
	}
	a.exit()
	b.kill()
	check(t, tp.xtrB.Do(tun.Cleanup))
	check(t, tp.xtrB.Do(Cleanup))
	for _, ns := range []*netns.NS{tp.xtrA, tp.xtrB} {
		nothingLeft(t, ns)
		if n := filters(t, ns); n != 0 {
			t.Errorf("%d filters are left", n)
		}
	}
}

// A new way to the site's hosts gets the program at once, and an interface that
// leads there no more loses it.
func TestInterfacesFollowRoutes(t *testing.T) {
	tp := newTopology(t)
	a, _ := tp.sites(t, false)
	check(t, netns.Veth(tp.hostA, "eth1", tp.xtrA, "site2", 1500))
	at := func(want int) {
		t.Helper()
		begin := time.Now()
		for programs(t, tp.xtrA) != want {
			if time.Since(begin) > interfaceInterval/2 {
				t.Fatalf("%d programs at the interfaces after %v, want %d", programs(t, tp.xtrA), time.Since(begin), want)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	at(2)
	check(t, tp.xtrA.AddAddress("site2", prefix("10.1.0.129/25"))) // and a route with it
	at(3)
	check(t, tp.xtrA.Do(func() error {
		l, err := netlink.LinkByName("site2")
		if err != nil {
			return err
		}
		return netlink.LinkDel(l)
	}))
	at(2)
	transfer(t, tp.hostA, tp.hostB, hostB4, 1<<20)
	a.exit()
	nothingLeft(t, tp.xtrA)
}

// What a killed xTR has pinned in a namespace goes when that is gone and the
// next one starts anywhere, and what is pinned elsewhere stays.
func TestPinsOfNamespacesThatAreGone(t *testing.T) {
	netns.NeedTUN(t)
	gone, err := netns.New()
	check(t, err)
	core := netns.Fresh(t, 1)[0]
	check(t, netns.Veth(gone, "up", core, "a", 1500))
	check(t, gone.AddAddress("up", prefix("198.51.100.1/30")))
	x := spawnXTR(t, gone)
	if a := x.configure(configA(rlocB4)); a.Err != "" {
		t.Fatal(a.Err)
	}
	dir := pinned(t, gone)
	x.kill()
	tp := newTopology(t)
	startXTR(t, tp.xtrB, configB(rlocA4)).kill()
	if _, err := os.Stat(string(dir)); err != nil {
		t.Fatalf("the pins went before their namespace: %v", err)
	}
	check(t, gone.Close())
	// The kernel takes a namespace down when it has time.
	for begin := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		a := startXTR(t, tp.xtrA, configA(rlocB4))
		_, err := os.Stat(string(dir))
		if errors.Is(err, fs.ErrNotExist) {
			a.exit()
			break
		}
		if time.Since(begin) > 10*time.Second {
			t.Fatalf("the pins of a namespace that is gone are still there: %v", err)
		}
		a.exit()
	}
	if n := programs(t, tp.xtrB); n != 2 {
		t.Errorf("%d programs where another was killed, want 2", n)
	}
	if _, err := os.Stat(string(pinned(t, tp.xtrB))); err != nil {
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

// filters counts our classic filters at all interfaces.
func filters(t *testing.T, ns *netns.NS) (n int) {
	t.Helper()
	check(t, ns.Do(func() error {
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
	check(t, ns.Do(func() error {
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
	tp := newTopology(t)
	second := map[*netns.NS]netip.Addr{tp.xtrA: addr("198.51.101.1"), tp.xtrB: addr("198.51.102.6")}
	for _, e := range []struct {
		xtr          *netns.NS
		dev          string
		own, gateway string
	}{{tp.xtrA, "a2", "198.51.101.1/30", "198.51.101.2/30"}, {tp.xtrB, "b2", "198.51.102.6/30", "198.51.102.5/30"}} {
		check(t, netns.Veth(e.xtr, "up2", tp.core, e.dev, 1500))
		check(t, e.xtr.AddAddress("up2", prefix(e.own)))
		check(t, tp.core.AddAddress(e.dev, prefix(e.gateway)))
		check(t, e.xtr.Do(func() error {
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
		setSysctl(t, tp.core, "net/ipv4/conf/"+dev+"/rp_filter", "1")
	}
	source := func(a netip.Addr, priority uint8) dataplane.Source {
		return dataplane.Source{Addr: a, Priority: priority, Weight: 100}
	}
	start := func(ns *netns.NS, cfg childConfig) *xtr {
		cfg.Sources = append(cfg.Sources, second[ns])
		x := startXTR(t, ns, cfg)
		x.tell("sources", []dataplane.Source{source(cfg.Sources[0], 1), source(second[ns], 1)})
		return x
	}
	a, b := start(tp.xtrA, configA(rlocB4)), start(tp.xtrB, configB(rlocA4))
	both := []mapping.Locator{mapping.MakeLocator(rlocB4, 1, 50), mapping.MakeLocator(second[tp.xtrB], 1, 50)}
	a.apply(entry{EID: eidB4, Locators: both})
	time.Sleep(50 * time.Millisecond) // the tables follow

	const flows = 64
	var tx []*net.UDPConn
	rx := udpSocket(t, tp.hostB, hostB4, false)
	for range flows {
		tx = append(tx, udpSocket(t, tp.hostA, hostA4, false))
	}
	// play sends a packet of each flow, all of which must arrive, and returns how
	// many came by each link of the core and went by each.
	play := func() map[string]int {
		t.Helper()
		before := carried(t, tp.core)
		for i, c := range tx {
			_, err := c.WriteTo([]byte{byte(i)}, rx.LocalAddr())
			check(t, err)
		}
		rx.SetReadDeadline(time.Now().Add(2 * time.Second))
		for n := range flows {
			var buf [8]byte
			if _, _, err := rx.ReadFrom(buf[:]); err != nil {
				t.Fatalf("%d of %d packets arrived: %v", n, flows, err)
			}
		}
		after := carried(t, tp.core)
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
	a.tell("sources", []dataplane.Source{source(second[tp.xtrA], 1)})
	time.Sleep(50 * time.Millisecond)
	n = play()
	only(n, "a2 in", "a in")
	shared(n, "b out", "b2 out")
	a.apply(entry{EID: eidB4, Locators: both[:1]})
	time.Sleep(50 * time.Millisecond)
	n = play()
	only(n, "a2 in", "a in")
	only(n, "b out", "b2 out")
	a.tell("sources", []dataplane.Source{source(rlocA4, 1), source(second[tp.xtrA], 1)})
	a.apply(entry{EID: eidB4, Locators: both})
	time.Sleep(50 * time.Millisecond)
	n = play()
	shared(n, "a in", "a2 in")
	shared(n, "b out", "b2 out")
	for _, x := range []*xtr{a, b} {
		if s := x.state().Stats; s["slow_encap"] > 20 || s["slow_decap"] > 20 || s["encap_packets"]+s["decap_packets"] < 5*flows {
			t.Errorf("counters %v", s)
		}
	}
}

// carried returns the packets that each link of a node has received and sent.
func carried(t *testing.T, ns *netns.NS) map[string]int {
	t.Helper()
	n := map[string]int{}
	check(t, ns.Do(func() error {
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
