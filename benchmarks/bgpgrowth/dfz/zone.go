// Package dfz is a default-free zone in one process: GoBGP speakers with sessions
// among them on loopback addresses, policies in the manner of Gao and Rexford,
// relays on all of these sessions that count and coalesce, and sessions of sites
// that announce their prefixes.
package dfz

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// The addresses on the loopback: of speakers, of relays toward either end of a
// session, and of sites.
const maxRouters = 250

var edges = netip.MustParsePrefix("127.64.0.0/10")

func numbered(second byte, n int) netip.Addr {
	return netip.AddrFrom4([4]byte{127, second, byte(n / 250), byte(n%250 + 1)})
}

func speakerAddr(n int) netip.Addr  { return numbered(16, n) }
func frontAddr(link int) netip.Addr { return numbered(32, link) }
func backAddr(link int) netip.Addr  { return numbered(48, link) }

// firstAS is the AS of speaker 0.
const firstAS = 64600

// AS returns the AS of a router.
func AS(router int) uint32 { return firstAS + uint32(router) }

// feederAS is that of the session for all sites of a router that have none of
// their own; firstSite is the AS of the first site.
func feederAS(router int) uint32 { return 4_200_000_000 + uint32(router) }

const firstSite = 100_000

// SiteAS returns the AS of a site.
func SiteAS(site int) uint32 { return firstSite + uint32(site) }

// Zone is a running zone. Its methods are for one goroutine.
type Zone struct {
	topology Topology
	port     uint16
	speakers []*speaker
	relays   []*relay
	feeders  map[int]*Edge
	edges    []*Edge
	watched  map[netip.Prefix]bool // constant while sessions run
	interval atomic.Int64          // MRAI, nanoseconds
	tracker  tracker

	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// Start starts a zone and returns when all of its sessions are established. The
// state of sessions about the prefixes of watch is known exactly: those are the ones
// that something is going to happen to.
func Start(ctx context.Context, t Topology, watch []netip.Prefix) (_ *Zone, err error) {
	if err := t.check(); err != nil {
		return nil, fmt.Errorf("topology: %w", err)
	}
	z := &Zone{topology: t, feeders: make(map[int]*Edge), watched: make(map[netip.Prefix]bool)}
	for _, p := range watch {
		z.watched[p] = true
	}
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	z.cancel = cancel
	defer func() {
		if err != nil {
			z.Close()
		}
	}()
	if z.port, err = freePort(); err != nil {
		return nil, err
	}
	for i := range t.Routers {
		s := &speaker{number: i, as: AS(i), addr: speakerAddr(i), neighbours: make(map[relation][]netip.Addr), relations: make(map[netip.Addr]relation)}
		if err := s.start(ctx, z.port); err != nil {
			return nil, fmt.Errorf("speaker %d: %w", i, err)
		}
		z.speakers = append(z.speakers, s)
	}
	for i, l := range t.Links {
		ofA, ofB := isCustomer, isProvider
		if l.Peers {
			ofA, ofB = isPeer, isPeer
		}
		z.speakers[l.A].is(frontAddr(i), ofA)
		z.speakers[l.B].is(backAddr(i), ofB)
	}
	for _, s := range z.speakers {
		if err := s.policies(ctx); err != nil {
			return nil, fmt.Errorf("policies of speaker %d: %w", s.number, err)
		}
	}
	for i, l := range t.Links {
		r := &relay{zone: z, link: l, source: backAddr(i), target: z.addrPort(l.B)}
		if r.listen, err = net.Listen("tcp4", netip.AddrPortFrom(frontAddr(i), z.port).String()); err != nil {
			return nil, err
		}
		z.relays = append(z.relays, r)
		z.wg.Go(func() { r.serve(run) })
		if err := z.speakers[l.B].neighbour(ctx, backAddr(i), AS(l.A), 0); err != nil {
			return nil, err
		}
		if err := z.speakers[l.A].neighbour(ctx, frontAddr(i), AS(l.B), z.port); err != nil {
			return nil, err
		}
	}
	return z, z.awaitSessions(ctx)
}

func (z *Zone) addrPort(router int) netip.AddrPort {
	return netip.AddrPortFrom(speakerAddr(router), z.port)
}

// freePort returns a TCP port that is free on the first addresses of each kind.
func freePort() (uint16, error) {
	l, err := net.Listen("tcp4", netip.AddrPortFrom(speakerAddr(0), 0).String())
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).AddrPort().Port(), nil
}

const sessionTimeout = 60 * time.Second

// awaitSessions waits until all sessions among speakers are established.
func (z *Zone) awaitSessions(ctx context.Context) error {
	deadline := time.Now().Add(sessionTimeout)
	for {
		n, err := z.Sessions(ctx)
		if err != nil || n == len(z.topology.Links) {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d of %d sessions are established after %v", n, len(z.topology.Links), sessionTimeout)
		}
		if err := sleep(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
}

// Sessions returns how many sessions among speakers are established, as both ends
// say.
func (z *Zone) Sessions(ctx context.Context) (int, error) {
	up := make(map[[2]int]bool)
	for _, s := range z.speakers {
		list, err := s.established(ctx)
		if err != nil {
			return 0, err
		}
		for i, l := range z.topology.Links {
			if l.A == s.number && slices.Contains(list, frontAddr(i)) {
				up[[2]int{i, 0}] = true
			}
			if l.B == s.number && slices.Contains(list, backAddr(i)) {
				up[[2]int{i, 1}] = true
			}
		}
	}
	n := 0
	for i := range z.topology.Links {
		if up[[2]int{i, 0}] && up[[2]int{i, 1}] {
			n++
		}
	}
	return n, nil
}

// Dial opens a session of a site with an AS of its own.
func (z *Zone) Dial(ctx context.Context, router int, as uint32) (*Edge, error) {
	n := len(z.edges)
	e := &Edge{zone: z, Router: router, AS: as, local: netip.AddrFrom4([4]byte{127, 64 + byte(n/62500), byte(n / 250 % 250), byte(n%250 + 1)})}
	if err := z.speakers[router].neighbour(ctx, e.local, as, 0); err != nil {
		return nil, err
	}
	z.edges = append(z.edges, e)
	return e, e.Open(ctx)
}

// Feeder returns the session for the sites of a router that have none of their
// own.
func (z *Zone) Feeder(ctx context.Context, router int) (*Edge, error) {
	if e := z.feeders[router]; e != nil {
		return e, nil
	}
	e, err := z.Dial(ctx, router, feederAS(router))
	if err == nil {
		z.feeders[router] = e
	}
	return e, err
}

// Edges returns how many sessions of sites there are.
func (z *Zone) Edges() int { return len(z.edges) }

// Originate adds a route of a router's own.
func (z *Zone) Originate(ctx context.Context, router int, p netip.Prefix) error {
	return z.speakers[router].originate(ctx, p)
}

// SetMRAI changes the interval of all relays.
func (z *Zone) SetMRAI(d time.Duration) {
	z.interval.Store(int64(d))
	for _, r := range z.relays {
		r.setInterval(d)
	}
}

func (z *Zone) mrai() time.Duration { return time.Duration(z.interval.Load()) }

// Track begins to count for events, each with its prefixes; an event begins when
// Begin says so. What was counted so far in all is forgotten.
func (z *Zone) Track(events map[*Event][]netip.Prefix) {
	z.tracker.mu.Lock()
	defer z.tracker.mu.Unlock()
	z.tracker.total = Count{}
	z.tracker.of = make(map[netip.Prefix]*Event)
	for e, list := range events {
		for _, p := range list {
			z.tracker.of[p] = e
		}
	}
}

// Begin says that an event happens now.
func (z *Zone) Begin(e *Event) {
	z.tracker.mu.Lock()
	defer z.tracker.mu.Unlock()
	e.Start = time.Now()
}

// Total returns what was counted since Track.
func (z *Zone) Total() Count {
	z.tracker.mu.Lock()
	defer z.tracker.mu.Unlock()
	c := z.tracker.total
	c.touched = maps.Clone(c.touched)
	return c
}

// CutLink ends the session of a link and waits until the speakers have brought it
// back, as they do by themselves. It returns when the new one began.
func (z *Zone) CutLink(ctx context.Context, link int) (time.Time, error) {
	r := z.relays[link]
	before := r.since()
	r.cut()
	for limit := time.Now().Add(sessionTimeout); r.since().Equal(before); {
		if time.Now().After(limit) {
			return before, fmt.Errorf("no session between speakers %d and %d after %v", r.link.A, r.link.B, sessionTimeout)
		}
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return before, err
		}
	}
	return r.since(), z.awaitSessions(ctx)
}

// rest is how long nothing must be said anywhere for the zone to be at rest, if no
// relay has anything that waits.
const rest = 400 * time.Millisecond

// pause is how long nothing must be said before withdrawals that GoBGP left out are
// added: they come later by that than they should.
const pause = 60 * time.Millisecond

var errChanging = errors.New("there are still changes")

// silence is how long nothing must be said, while something is missing, for it to be
// missing for good.
const silence = 30 * time.Second

// Settle waits until the zone is at rest and every speaker has a route to each of
// want prefixes, and makes up for withdrawals of watched prefixes that GoBGP left
// out. It fails when that takes longer than limit, besides what the relays hold
// back, or when something is missing and nobody says any more.
func (z *Zone) Settle(ctx context.Context, want int, limit time.Duration) error {
	return z.settle(ctx, func() error { return z.short(ctx, want) }, limit)
}

// Rest is Settle where how many prefixes there will be is not known.
func (z *Zone) Rest(ctx context.Context, limit time.Duration) error {
	return z.settle(ctx, func() error { return nil }, limit)
}

func (z *Zone) settle(ctx context.Context, done func() error, limit time.Duration) error {
	begin := time.Now()
	var seen time.Time // the activity that was looked at
	short := errChanging
	for {
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return err
		}
		waiting := 0
		for _, r := range z.relays {
			waiting += r.waiting()
		}
		if waiting > 0 {
			begin = time.Now()
		}
		if time.Since(begin) > limit {
			return errors.Join(fmt.Errorf("no rest after %v: %w", limit, short), z.errors())
		}
		z.tracker.mu.Lock()
		last := z.tracker.activity
		z.tracker.mu.Unlock()
		quiet := time.Since(last)
		// Once after each change, and then again at rest: an error may be about what
		// is on its way before.
		if quiet < pause || seen.Equal(last) && quiet < rest {
			continue
		}
		seen = last
		added, err := z.complete(ctx)
		if added > 0 || waiting > 0 || quiet < rest {
			continue
		}
		if err == nil {
			err = done()
		}
		if err == nil {
			return z.errors()
		}
		short = err
		if quiet > silence && time.Since(begin) > silence {
			return errors.Join(fmt.Errorf("%w, and nothing was said for %v", short, silence), z.errors())
		}
	}
}

// short says which speaker has not routes to just want prefixes.
func (z *Zone) short(ctx context.Context, want int) error {
	for _, s := range z.speakers {
		n, _, err := s.table(ctx)
		if err != nil {
			return err
		}
		if n != want {
			return fmt.Errorf("speaker %d has routes to %d prefixes, expected %d", s.number, n, want)
		}
	}
	return nil
}

func (z *Zone) errors() error {
	var errs []error
	for _, r := range z.relays {
		r.mu.Lock()
		errs = append(errs, r.err)
		r.mu.Unlock()
	}
	return errors.Join(errs...)
}

// complete compares what each speaker has told its neighbours of the watched
// prefixes with what it should have by its best path, and adds withdrawals that are
// missing: when a best path is replaced by one that a neighbour must not hear of as
// its AS is in it, GoBGP v3 leaves the neighbour with the old one. What it should have
// told and did not is an error.
//
// A speaker that changes its mind meanwhile is not judged by what it thought before:
// it does not repeat what the relay would take from the neighbour.
func (z *Zone) complete(ctx context.Context) (added int, err error) {
	heard := z.tracker.last()
	list := slices.Collect(maps.Keys(z.watched))
	for _, s := range z.speakers {
		bests, err := s.bests(ctx, list)
		if err != nil {
			return 0, fmt.Errorf("best paths of speaker %d: %w", s.number, err)
		}
		for i, r := range z.relays {
			for _, p := range r.both() {
				if p.from != s.number {
					continue
				}
				neighbour := frontAddr(i)
				if r.link.B == s.number {
					neighbour = backAddr(i)
				}
				n, err := p.complete(s, neighbour, AS(p.to), bests, list, heard)
				if err != nil {
					return 0, err
				}
				added += n
			}
		}
	}
	return added, nil
}

// should reports whether a speaker tells a neighbour of its best path.
func (s *speaker) should(b best, neighbour netip.Addr, as uint32) bool {
	if b.from == neighbour || slices.Contains(b.path, as) {
		return false
	}
	return s.relations[neighbour] == isCustomer || b.exportable
}

func (p *pipe) complete(s *speaker, neighbour netip.Addr, as uint32, bests map[netip.Prefix]best, list []netip.Prefix, heard time.Time) (added int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	// What a speaker says is noted in the tracker before it is in p.
	if !p.relay.zone.tracker.last().Equal(heard) {
		return 0, errChanging
	}
	for _, x := range list {
		b, ok := bests[x]
		should := ok && s.should(b, neighbour, as)
		_, said := p.said[x]
		if r := p.c.routes[x]; r != nil && r.waits {
			said = r.want != withdrawal // it is about to be
		}
		switch {
		case should && !said:
			return 0, fmt.Errorf("speaker %d has %v by %v and has not told AS %d", s.number, x, b.path, as)
		case said && !should:
			p.c.add(time.Now(), x, withdrawal)
			p.relay.zone.tracker.completed(x)
			added++
		}
	}
	if added > 0 {
		p.poke()
	}
	return added, nil
}

// Tables is the state of all speakers.
type Tables struct {
	Prefixes, Paths       int // sums
	MaxPrefixes, MaxPaths int // of the speaker with the most
	Heap                  uint64
}

// Tables returns the state of all speakers, and the heap of this process after a
// collection.
func (z *Zone) Tables(ctx context.Context) (t Tables, err error) {
	for _, s := range z.speakers {
		prefixes, paths, err := s.table(ctx)
		if err != nil {
			return t, err
		}
		t.Prefixes += prefixes
		t.Paths += paths
		t.MaxPrefixes = max(t.MaxPrefixes, prefixes)
		t.MaxPaths = max(t.MaxPaths, paths)
	}
	t.Heap = Heap()
	return t, nil
}

// Heap returns how much of the heap is in use after collections.
func Heap() uint64 {
	var m runtime.MemStats
	for range 2 { // what finalizers let go is free after the second
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// Close ends all sessions and speakers.
func (z *Zone) Close() {
	z.cancel()
	for _, e := range z.edges {
		e.Close()
	}
	for _, r := range z.relays {
		if r.listen != nil {
			r.listen.Close()
		}
		r.cut()
	}
	for _, s := range z.speakers {
		s.server.Stop()
	}
	z.wg.Wait()
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
