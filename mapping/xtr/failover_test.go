package xtr

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eidolon-lisp/eidolon/internal/testnet"
	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/auth"
	"github.com/eidolon-lisp/eidolon/mapping/server"
)

// The other site of the failover tests.
var (
	far1, far2 = addr("203.0.113.7"), addr("203.0.113.135")
)

// plane is a data plane in a few lines: it sends a packet of each flow every
// 10 ms from a source to a locator, as the xTR says, and reports traffic.
type plane struct {
	*XTR
	t          *testing.T
	own, other mapping.EID
	peer       *plane
	misses     chan Miss
	latency    time.Duration
	blocked    func(from, to netip.Addr) bool

	mu      sync.Mutex
	sources []Source
	down    []Path
	record  *mapping.Record
	sent    uint64
	arrived []time.Time
	// longest is the longest time that a flow lost all its packets.
	longest [flows]time.Duration
	since   [flows]time.Time
	via     [flows]Path
}

const (
	flows      = 4
	packetTime = 10 * time.Millisecond
)

// path returns how a flow goes: sources and locators by turns, with what is
// down left out.
func (p *plane) path(flow int) (out Path, ok bool) {
	var sources []Source
	for _, s := range p.sources {
		if s.Priority == p.sources[0].Priority {
			sources = append(sources, s)
		}
	}
	var remotes []netip.Addr
	best := uint8(mapping.PriorityUnusable)
	if p.record != nil {
		for _, l := range p.record.Locators {
			if l.Usable() {
				best = min(best, l.Priority)
			}
		}
		for _, l := range p.record.Locators {
			if l.Usable() && l.Priority == best {
				remotes = append(remotes, l.Addr)
			}
		}
	}
	if len(sources) == 0 || len(remotes) == 0 {
		return Path{}, false
	}
	for r := range remotes {
		for s := range sources {
			out = Path{sources[(flow%2+s)%len(sources)].Addr, remotes[(flow/2+r)%len(remotes)]}
			if !slices.Contains(p.down, out) {
				return out, true
			}
		}
	}
	return out, true
}

// tick sends a packet of each flow.
func (p *plane) tick(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for f := range flows {
		path, ok := p.path(f)
		p.via[f] = path
		p.sent++
		if !ok || p.blocked(path.Local, path.Remote) {
			if p.since[f].IsZero() {
				p.since[f] = now
			}
			p.longest[f] = max(p.longest[f], now.Sub(p.since[f])+packetTime)
			continue
		}
		p.since[f] = time.Time{}
		p.peer.arrives(now.Add(p.latency))
	}
}

func (p *plane) arrives(at time.Time) {
	// The planes tick by turns in one goroutine.
	p.arrived = append(p.arrived, at)
}

// report tells the xTR of the traffic since the last time.
func (p *plane) report(now time.Time) {
	p.mu.Lock()
	n := 0
	for n < len(p.arrived) && !p.arrived[n].After(now) {
		n++
	}
	p.arrived = p.arrived[n:]
	tr := Traffic{EID: p.other, Sent: p.sent, Received: uint64(n)}
	p.sent = 0
	p.mu.Unlock()
	p.Traffic([]Traffic{tr})
}

// outage returns the longest outage of any flow since the last call.
func (p *plane) outage() (longest time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	longest = slices.Max(p.longest[:])
	p.longest = [flows]time.Duration{}
	return longest
}

// world is two sites with two uplinks each, a real map-server and traffic both
// ways, in virtual time.
type world struct {
	t     *testing.T
	net   *testnet.Network
	a, b  *plane
	mu    sync.Mutex
	lost  func(from, to netip.Addr) bool
	n     int // packets times sent
	close func()
}

func (w *world) blocked(from, to netip.Addr) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lost(from, to)
}

func (w *world) lose(f func(from, to netip.Addr) bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lost = f
}

func newWorld(t *testing.T, rtt time.Duration, pubsub bool) *world {
	w := &world{t: t, net: testnet.New(t, testnet.Path{Latency: rtt / 2})}
	w.lose(func(from, to netip.Addr) bool { return false })
	w.net.SetFilter(func(d testnet.Datagram) bool { return !w.blocked(d.Src.Addr(), d.Dst.Addr()) })
	ms, err := server.New(t.Context(), server.Config{Sites: []server.Site{{
		Name: "a", Keys: []auth.Key{key}, Prefixes: []server.SitePrefix{{EID: eid("10.1.0.0/16")}, {EID: eid("10.2.0.0/16")}},
	}}, PubSub: server.PubSub{Subscribers: []server.Subscriber{
		{XTRID: mapping.XTRID{15: 1}, Key: pubKey}, {XTRID: mapping.XTRID{15: 2}, Key: pubKey},
	}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	conn := w.net.MustListen(t, ms1.String())
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { ms.Run(ctx, conn, 1) })
	site := func(own, other string, up []Uplink, id byte, extra ...netip.Addr) *plane {
		cfg := multihomed()
		cfg.Rand = nil
		cfg.Uplinks = up
		cfg.XTRID = mapping.XTRID{15: id}
		cfg.Databases[0].EID = eid(own)
		for i := range cfg.Databases[0].Uplinks {
			cfg.Databases[0].Uplinks[i].Weight = 50
		}
		cfg.MapServers[0].ProxyReply = true
		cfg.MapResolvers = []netip.AddrPort{ms1}
		if pubsub {
			cfg.PubSub = &PubSub{Key: pubKey}
		}
		p := &plane{t: t, own: eid(own), other: eid(other), latency: rtt / 2, blocked: w.blocked}
		cfg.OnCache = func(changes []mapping.CacheChange) {
			p.mu.Lock()
			defer p.mu.Unlock()
			for _, c := range changes {
				if c.EID == p.other {
					p.record = c.Record
				}
			}
		}
		cfg.Heard = func() []netip.Addr {
			p.peer.mu.Lock()
			defer p.peer.mu.Unlock()
			return []netip.Addr{p.peer.via[0].Local, p.peer.via[1].Local}
		}
		cfg.OnSources = func(s []Source, down []Path) {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.sources, p.down = s, down
		}
		var addrs []netip.AddrPort
		for _, u := range up {
			for _, a := range u.Addrs {
				addrs = append(addrs, netip.AddrPortFrom(a, 4342))
			}
		}
		for _, a := range extra {
			addrs = append(addrs, netip.AddrPortFrom(a, 4342))
		}
		conn, err := w.net.Listen(addrs...)
		if err != nil {
			t.Fatal(err)
		}
		if p.XTR, err = New(cfg); err != nil {
			t.Fatal(err)
		}
		p.misses = make(chan Miss, 1)
		wg.Go(func() { p.Run(ctx, conn, p.misses) })
		return p
	}
	w.a = site("10.1.0.0/16", "10.2.0.0/16", uplinks(true, true, up2a), 1, up2b)
	w.b = site("10.2.0.0/16", "10.1.0.0/16", []Uplink{{Name: "eth2", Up: true, Addrs: []netip.Addr{far1}}, {Name: "eth3", Up: true, Addrs: []netip.Addr{far2}}}, 2)
	w.a.peer, w.b.peer = w.b, w.a
	time.Sleep(time.Second)
	for _, p := range []*plane{w.a, w.b} {
		p.misses <- Miss{Dst: p.other.Prefix.Addr().Next(), Src: p.own.Prefix.Addr().Next()}
	}
	w.close = func() { stop(); wg.Wait() }
	return w
}

// pass lets traffic go on for d.
func (w *world) pass(d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(packetTime) {
		now := time.Now()
		for _, p := range []*plane{w.a, w.b} {
			p.tick(now)
			if w.n%5 == 0 {
				p.report(now)
			}
			if w.n%500 == 499 {
				p.Used([]mapping.EID{p.other})
			}
		}
		w.n++
	}
}

// outages are the longest of each direction.
func (w *world) outages() (out, in time.Duration) { return w.a.outage(), w.b.outage() }

// TestUplinkFailover: what fails at an uplink of a site, with traffic by all paths in
// both directions, and how long it is lost.
func TestUplinkFailover(t *testing.T) {
	either := func(a netip.Addr) func(from, to netip.Addr) bool {
		return func(from, to netip.Addr) bool { return from == a || to == a }
	}
	silent := time.Second
	for _, c := range []struct {
		name  string
		fail  func(w *world)
		limit time.Duration // besides two round-trip times
	}{
		{"carrier", func(w *world) {
			w.lose(either(up1a))
			w.a.SetUplinks(uplinks(false, true, up2a))
		}, 200 * time.Millisecond},
		{"dead provider", func(w *world) { w.lose(either(up1a)) }, silent},
		{"one way out", func(w *world) { w.lose(func(from, to netip.Addr) bool { return from == up1a }) }, silent},
		{"one way in", func(w *world) { w.lose(func(from, to netip.Addr) bool { return to == up1a }) }, silent},
		{"address", func(w *world) {
			w.lose(either(up2a))
			w.a.SetUplinks(uplinks(true, true, up2b))
		}, 200 * time.Millisecond},
	} {
		for _, rtt := range []time.Duration{time.Millisecond, 80 * time.Millisecond} {
			for _, pubsub := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%v/pubsub=%v", c.name, rtt, pubsub), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						var outs, ins []time.Duration
						for phase := range 6 {
							w := newWorld(t, rtt, pubsub)
							before := 40 * time.Second
							if phase == 5 {
								before = 1500 * time.Millisecond // traffic that is young
							}
							w.pass(before + time.Duration(phase)*130*time.Millisecond)
							if out, in := w.outages(); phase == 0 && (len(w.a.sources) != 2 || len(w.b.record.Locators) != 2) {
								t.Fatalf("before: outages %v %v, sources %v, record %v", out, in, w.a.sources, w.b.record)
							}
							c.fail(w)
							w.pass(15 * time.Second)
							out, in := w.outages()
							outs, ins = append(outs, out), append(ins, in)
							w.close()
							for _, p := range []*plane{w.a, w.b} {
								for f := range flows {
									if path, _ := p.path(f); w.blocked(path.Local, path.Remote) {
										t.Errorf("phase %d: flow %d of %v still goes by %v", phase, f, p.own, path)
									}
								}
							}
						}
						t.Logf("lost for at most %v out, %v in", slices.Max(outs), slices.Max(ins))
						if limit := c.limit + 2*rtt; slices.Max(outs) > limit || slices.Max(ins) > limit {
							t.Errorf("lost for %v out and %v in, at most %v allowed", outs, ins, limit)
						}
					})
				})
			}
		}
	}
}
