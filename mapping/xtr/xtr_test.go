package xtr

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eidolon-lisp/eidolon/internal/testnet"
	"github.com/eidolon-lisp/eidolon/internal/udp"
	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/auth"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// mapServer is a map-server and map-resolver with no policy at all: it believes
// whoever has the key.
type mapServer struct {
	t     *testing.T
	conn  *testnet.Conn
	proxy bool // answer for the ETRs

	mu        sync.Mutex
	db        map[mapping.EID]*mapping.Record
	withdrawn []string
}

func (s *mapServer) serve() {
	buf := make([]byte, 65536)
	for {
		n, src, dst, err := s.conn.Read(buf)
		if err != nil {
			return
		}
		switch ty, _ := wire.PeekType(buf[:n]); ty {
		case wire.TypeMapRegister:
			s.register(buf[:n], src, dst)
		case wire.TypeECM:
			s.request(buf[:n], dst)
		}
	}
}

func (s *mapServer) register(msg []byte, src, dst netip.AddrPort) {
	if _, err := auth.Verify(msg, []auth.Key{key}, auth.SHA256HKDF); err != nil {
		s.t.Errorf("map-register from %v: %v", src, err)
		return
	}
	var m wire.MapRegister
	if err := m.Decode(msg); err != nil {
		s.t.Errorf("map-register from %v: %v", src, err)
		return
	}
	s.mu.Lock()
	for r := range m.Records.All() {
		rec, err := r.Mapping()
		if err != nil {
			s.t.Error(err)
			continue
		}
		if rec.TTL == 0 {
			delete(s.db, rec.EID)
			s.withdrawn = append(s.withdrawn, rec.EID.String())
			continue
		}
		s.db[rec.EID] = rec
	}
	s.mu.Unlock()
	if m.WantNotify {
		s.conn.Write(notify(s.t, msg, key), dst, src)
	}
}

func (s *mapServer) request(msg []byte, at netip.AddrPort) {
	e, m := mapRequest(s.t, msg)
	q := asked(s.t, m)
	s.mu.Lock()
	defer s.mu.Unlock()
	var best *mapping.Record
	for e, r := range s.db {
		if e.Covers(q) && (best == nil || best.EID.Covers(e)) {
			best = r
		}
	}
	itr, _ := m.ITRRLOCs[0].IP()
	switch {
	case best == nil:
		s.conn.Write(reply(s.t, m.Nonce, mapping.NegativeRecord(q, mapping.NativelyForward, 15)), at, netip.AddrPortFrom(itr, e.Src.Port()))
	case s.proxy:
		s.conn.Write(reply(s.t, m.Nonce, best), at, netip.AddrPortFrom(itr, e.Src.Port()))
	default:
		etr := netip.AddrPortFrom(best.Locators[0].Addr, 4342)
		s.conn.Write(mustEncode(s.t, &wire.ECM{Src: e.Src, Dst: e.Dst, Message: e.Message}), at, etr)
	}
}

// site is an xTR on the test network with a copy of its map-cache.
type site struct {
	*XTR
	misses chan Miss
	stop   func() error

	mu   sync.Mutex
	copy map[string]string
	from []netip.Addr // RLOCs that packets come from
}

// hears makes packets come from a.
func (s *site) hears(a netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.from = []netip.Addr{a}
}

func startSite(t *testing.T, n *testnet.Network, cfg Config) *site {
	t.Helper()
	s := &site{misses: make(chan Miss, 16), copy: map[string]string{}}
	cfg.Heard = func() []netip.Addr {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.from
	}
	also := cfg.OnCache
	cfg.OnCache = func(changes []mapping.CacheChange) {
		if also != nil {
			also(changes)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, c := range changes {
			if c.Record == nil {
				delete(s.copy, c.EID.String())
			} else {
				s.copy[c.EID.String()] = c.Record.String()
			}
		}
	}
	var addrs []netip.AddrPort
	for _, a := range cfg.RLOCs {
		addrs = append(addrs, netip.AddrPortFrom(a, 4342))
	}
	conn, err := n.Listen(addrs...)
	if err != nil {
		t.Fatal(err)
	}
	if s.XTR, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, conn, s.misses) }()
	s.stop = sync.OnceValue(func() error { cancel(); return <-done })
	t.Cleanup(func() { s.stop() })
	return s
}

func (s *site) stat(name string) uint64 {
	for n, v := range s.Stats() {
		if n == name {
			return v
		}
	}
	return 0
}

// wholeSite is two sites and a map-server over the given paths.
func wholeSite(t *testing.T, path testnet.Path, proxy bool) (n *testnet.Network, a, b *site, ms *mapServer) {
	n = testnet.New(t, path)
	ms = &mapServer{t: t, conn: n.MustListen(t, ms1.String()), proxy: proxy, db: map[mapping.EID]*mapping.Record{}}
	go ms.serve()
	t.Cleanup(func() { ms.conn.Close() })
	cfg := testConfig()
	cfg.MapResolvers = []netip.AddrPort{ms1}
	a = startSite(t, n, cfg)
	loc := []mapping.Locator{mapping.MakeLocator(etr1.Addr(), 1, 100)}
	cfg.RLOCs = []netip.Addr{etr1.Addr()}
	cfg.Databases = []Database{{EID: eid("10.2.0.0/16"), Locators: loc, TTL: 1}, {EID: eid("10.2.3.0/24"), Locators: loc, TTL: 1}}
	b = startSite(t, n, cfg)
	return n, a, b, ms
}

// TestTwoSites: registration, a miss, the reply of the other ETR, refresh while
// there is traffic, expiry when there is none, withdrawal; at exact instants.
func TestTwoSites(t *testing.T) {
	for _, proxy := range []bool{false, true} {
		t.Run(fmt.Sprintf("proxy=%v", proxy), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				_, a, b, ms := wholeSite(t, testnet.Path{Latency: 10 * time.Millisecond}, proxy)
				time.Sleep(20 * time.Millisecond)
				synctest.Wait()
				for _, d := range append(a.Databases(), b.Databases()...) {
					if g := d.Registrations[0]; g.State != RegistrationRegistered || g.RTT != 20*time.Millisecond {
						t.Fatalf("%v is %v, RTT %v", d.EID, g.State, g.RTT)
					}
				}
				a.misses <- Miss{Dst: peer, Src: hostA}
				rtt := 30 * time.Millisecond // A, map-server, B, A
				if proxy {
					rtt = 20 * time.Millisecond
				}
				time.Sleep(rtt - time.Nanosecond)
				synctest.Wait()
				if len(a.MapCache()) != 0 {
					t.Fatal("resolved before the reply could be there")
				}
				time.Sleep(time.Nanosecond)
				synctest.Wait()
				want := 2 // the more-specific comes along
				if proxy {
					want = 1
				}
				if got := a.MapCache(); len(got) != want || got[0].Record.EID != eid("10.2.0.0/16") || got[0].Record.Authoritative != true {
					t.Fatalf("map-cache %v", got)
				}
				if e, ok := a.Lookup(0, peer); !ok || e.Record.Locators[0].Addr != etr1.Addr() {
					t.Fatalf("lookup %v", e.Record)
				}
				if st := a.MapResolvers()[0]; st.RTT != rtt || !st.Up {
					t.Errorf("map-resolver %+v", st)
				}
				// Traffic for the /16 only, seen every 5 s: the /24 expires
				// after its minute, and the /16 never does.
				for range 60 {
					a.Used([]mapping.EID{eid("10.2.0.0/16")})
					time.Sleep(5 * time.Second)
					if _, ok := a.Lookup(0, peer); !ok {
						t.Fatalf("the entry in use is gone after %v", time.Since(start))
					}
				}
				time.Sleep(61 * time.Second)
				synctest.Wait()
				if got := a.MapCache(); len(got) != 0 {
					t.Errorf("not in use and still cached: %v", got)
				}
				a.mu.Lock()
				if len(a.copy) != 0 {
					t.Errorf("the copy still has %v", a.copy)
				}
				a.mu.Unlock()

				// Cleared entries leave the copy without any other event.
				a.misses <- Miss{Dst: peer, Src: hostA}
				time.Sleep(rtt)
				synctest.Wait()
				if !a.Clear(eid("10.2.0.0/16")) {
					t.Error("nothing to clear")
				}
				synctest.Wait()
				a.mu.Lock()
				if _, still := a.copy["10.2.0.0/16"]; still {
					t.Error("cleared, and still in the copy")
				}
				a.mu.Unlock()

				before := time.Now()
				if err := b.stop(); err != nil {
					t.Errorf("stop: %v", err)
				}
				if d := time.Since(before); d != 20*time.Millisecond {
					t.Errorf("stopping took %v, want until the map-notify", d)
				}
				ms.mu.Lock()
				defer ms.mu.Unlock()
				slices.Sort(ms.withdrawn)
				if !slices.Equal(ms.withdrawn, []string{"10.2.0.0/16", "10.2.3.0/24"}) {
					t.Errorf("withdrawn %v", ms.withdrawn)
				}
			})
		})
	}
}

// TestTwoSitesBadNetwork: with a third of the datagrams lost, some twice and
// out of order, everything comes about all the same, and the limits hold.
func TestTwoSitesBadNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, b, _ := wholeSite(t, testnet.Path{Latency: 20 * time.Millisecond, Jitter: 80 * time.Millisecond, Loss: 0.33, Duplicate: 0.2}, false)
		time.Sleep(5 * time.Minute)
		resolved := map[string]bool{}
		for round := range 360 {
			for i := range 20 {
				dst := netip.AddrFrom4([4]byte{10, 2, byte(100 + i), 1})
				if i >= 10 {
					dst = netip.AddrFrom4([4]byte{10, 5, byte(i), 1}) // nobody's
				}
				if _, ok := a.Lookup(0, dst); ok {
					resolved[dst.String()] = true
				} else {
					a.misses <- Miss{Dst: dst, Src: hostA}
				}
			}
			if round%5 == 0 {
				b.misses <- Miss{Dst: hostA, Src: peer}
			}
			time.Sleep(time.Second)
		}
		if len(resolved) != 20 {
			t.Errorf("%d of 20 destinations resolved: %v", len(resolved), slices.Sorted(maps.Keys(resolved)))
		}
		if _, ok := b.Lookup(0, hostA); !ok {
			t.Error("the other direction was not resolved")
		}
		for _, d := range append(a.Databases(), b.Databases()...) {
			if g := d.Registrations[0]; g.LastNotify.IsZero() {
				t.Errorf("%v was never confirmed", d.EID)
			}
		}
		// The copy that planes get is the cache.
		synctest.Wait()
		a.mu.Lock()
		defer a.mu.Unlock()
		for _, e := range a.MapCache() {
			if a.copy[e.Record.EID.String()] != e.Record.String() {
				t.Errorf("copy of %v is %q", e.Record.EID, a.copy[e.Record.EID.String()])
			}
		}
		if len(a.copy) != len(a.MapCache()) {
			t.Errorf("%d entries, %d copies", len(a.MapCache()), len(a.copy))
		}
		oneASecond(t, n)
	})
}

// oneASecond checks RFC 9301 section 5.3 on the wire.
func oneASecond(t *testing.T, n *testnet.Network) {
	t.Helper()
	last := map[string]time.Time{}
	requests := 0
	for _, d := range n.Datagrams() {
		var e wire.ECM
		if d.Dst != ms1 || e.Decode(d.Data) != nil {
			continue
		}
		var m wire.MapRequest
		if m.Decode(e.Message) != nil {
			continue
		}
		requests++
		k := d.Src.String() + " " + asked(t, m).String()
		if at, ok := last[k]; ok && d.At.Sub(at) < time.Second {
			t.Errorf("%s asked twice in %v", k, d.At.Sub(at))
		}
		last[k] = d.At
	}
	if requests == 0 {
		t.Error("no request was seen")
	}
}

// TestStopWithoutMapServer: an orderly stop ends after 2 s although nobody
// confirms it.
func TestStopWithoutMapServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := testnet.New(t, testnet.Path{})
		s := startSite(t, n, testConfig())
		time.Sleep(500 * time.Millisecond)
		before := time.Now()
		if err := s.stop(); err != nil {
			t.Error(err)
		}
		if d := time.Since(before); d != stopLinger {
			t.Errorf("stopping took %v, want %v", d, stopLinger)
		}
		if len(n.Addrs()) != 0 {
			t.Error("the connection is still open")
		}
		// Withdrawn twice: at once and 1 s later.
		var at []time.Duration
		for _, d := range n.Datagrams() {
			if m := register(t, d.Data); m.Records.Len() > 0 {
				for r := range m.Records.All() {
					if r.TTL == 0 {
						at = append(at, d.At.Sub(before))
						break
					}
				}
			}
		}
		if !slices.Equal(at, seconds(0, 1)) {
			t.Errorf("withdrawn at %v", at)
		}
	})
}

func TestRunEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := testnet.New(t, testnet.Path{})
		x, err := New(testConfig())
		if err != nil {
			t.Fatal(err)
		}
		conn := n.MustListen(t, local.String(), "[2001:db8:ffff::1]:4342")
		misses := make(chan Miss)
		close(misses) // is not a reason to end
		done := make(chan error, 1)
		go func() { done <- x.Run(t.Context(), conn, misses) }()
		time.Sleep(time.Minute)
		synctest.Wait()
		select {
		case err := <-done:
			t.Fatalf("Run ended with %v", err)
		default:
		}
		if err := x.Run(t.Context(), n.MustListen(t, "192.0.2.200:1"), nil); err == nil {
			t.Error("Run started twice")
		}
		conn.Close()
		if err := <-done; !errors.Is(err, net.ErrClosed) {
			t.Errorf("after the connection was closed: %v", err)
		}
		if x.Clear(eid("10.2.0.0/16")) { // still answers, and does not hang
			t.Error("cleared what is not there")
		}
	})
}

// TestFloodOfRequests: while Map-Requests flood in, the answers that the xTR
// waits for are not displaced.
func TestFloodOfRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, _, _ := wholeSite(t, testnet.Path{Latency: time.Millisecond}, true)
		time.Sleep(time.Second)
		enemy := n.MustListen(t, "192.0.2.66:4342")
		defer enemy.Close()
		flood := request(t, []string{"192.0.2.66"}, []string{"10.1.0.1"}, nil)
		for i := range 50 {
			for range 1000 {
				enemy.Write(flood, netip.AddrPort{}, local)
				enemy.Write([]byte{0x20, 0, 0, 1, 2, 3}, netip.AddrPort{}, local)
				enemy.Write(nil, netip.AddrPort{}, local)
			}
			if i == 25 {
				a.misses <- Miss{Dst: peer, Src: hostA}
			}
			time.Sleep(time.Millisecond)
		}
		time.Sleep(3 * time.Second)
		if _, ok := a.Lookup(0, peer); !ok {
			t.Error("not resolved under the flood")
		}
		if got := a.stat("map_replies_out"); got > 5 {
			t.Errorf("%d replies to one flooder", got)
		}
		t.Logf("flood: %d handled, %d dropped at the queue", a.stat("map_requests_in"), a.stat("control_queue_full"))
	})
}

// TestWrongPorts: a datagram with neither port that of the control plane is
// not looked at.
func TestWrongPorts(t *testing.T) {
	x, err := New(testConfig())
	if err != nil {
		t.Fatal(err)
	}
	r := receiver{x: x, requests: make(chan packet, 1), answers: make(chan packet, 1)}
	msg := request(t, []string{"203.0.113.7"}, []string{"10.1.0.1"}, nil)
	odd := netip.MustParseAddrPort("203.0.113.7:999")
	r.sort(msg, odd, netip.AddrPortFrom(own4, 9999))
	if len(r.requests) != 0 || x.stats[controlWrongPort].Load() != 1 {
		t.Error("accepted with two wrong ports")
	}
	r.sort(msg, etr1, netip.AddrPortFrom(own4, 9999))
	if len(r.requests) != 1 {
		t.Error("the source port was not enough")
	}
	r.sort(msg, odd, local)
	if x.stats[controlQueueFull].Load() != 1 {
		t.Error("a full queue was not counted")
	}
	if !slices.Equal((<-r.requests).msg, msg) {
		t.Error("the message was changed")
	}
}

// failing is a connection whose first reads and all writes fail.
type failing struct {
	udp.Conn
	reads int
}

func (f *failing) Read(b []byte) (int, netip.AddrPort, netip.AddrPort, error) {
	if f.reads++; f.reads < 5 {
		return 0, netip.AddrPort{}, netip.AddrPort{}, io.ErrUnexpectedEOF
	}
	return f.Conn.Read(b)
}

func (f *failing) Write([]byte, netip.AddrPort, netip.AddrPort) error { return io.ErrShortWrite }

// TestSocketErrors: errors of single datagrams do not end anything.
func TestSocketErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := testnet.New(t, testnet.Path{})
		x, err := New(testConfig())
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- x.Run(ctx, &failing{Conn: n.MustListen(t, local.String())}, nil) }()
		time.Sleep(10 * time.Second)
		other := n.MustListen(t, "203.0.113.7:4342")
		other.Write(request(t, []string{"203.0.113.7"}, []string{"10.1.0.1"}, nil), netip.AddrPort{}, local)
		synctest.Wait()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if x.stats[readErrors].Load() != 4 || x.stats[sendErrors].Load() < 5 || x.stats[mapRepliesOut].Load() != 1 {
			t.Errorf("%d read errors, %d send errors, %d replies", x.stats[readErrors].Load(), x.stats[sendErrors].Load(), x.stats[mapRepliesOut].Load())
		}
	})
}

// TestLogLines: what the demo and operators look for.
func TestLogLines(t *testing.T) {
	var log strings.Builder
	cfg := noRegister()
	cfg.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	r := newRig(t, cfg)
	r.learn(peer, rec("10.2.0.0/16", 10))
	for _, want := range []string{
		`msg="map-cache miss" eid=10.2.0.9/32 source=10.1.0.5`,
		`msg="map-request sent" eid=10.2.0.9/32 map_resolver=198.51.100.1:4342 nonce=0x0000000000000001`,
		`msg="map-reply received" eid=10.2.0.0/16 ttl=10 locators="203.0.113.7 1/100 R" rtt=0s`,
		`msg="mapping installed" eid=10.2.0.0/16`,
	} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("no line with %s in\n%s", want, &log)
		}
	}
	// A flood of bad messages makes one line for each kind.
	for range 1000 {
		r.receive([]byte{0xf0, 0, 0, 0}, etr1)
		r.receive([]byte{0x10, 0, 0, 1}, etr1)
	}
	if n := strings.Count(log.String(), "control message dropped"); n != 2 || r.stat(controlMalformed) != 1000 || r.stat(controlUnexpected) != 1000 {
		t.Errorf("%d lines about dropped messages", n)
	}
}
