// Package speaker speaks BGP, with GoBGP. It is the only one that imports it, and
// nothing of GoBGP's types is in its API.
//
// It announces what it is told to and, with a bgp.Transit only, passes on what one
// neighbour says to the others. It installs nothing in the kernel.
package speaker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping/bgp"
)

const (
	// stopLinger is how long an orderly stop waits between the withdrawal of what
	// was announced and the end of the sessions: packets still come meanwhile.
	stopLinger = time.Second
	// lookRound is how often the sessions are looked at, for the log and for
	// neighbours that announced too much; those are tried again after tooManyPause.
	lookRound    = time.Second
	tooManyPause = 5 * time.Minute
)

// Speaker has sessions with the neighbours. Everything but Run may be called from
// any goroutine, before, during and after Run.
type Speaker struct {
	cfg   bgp.Config
	ready chan struct{} // closed by Ready
	wake  chan struct{} // holds a token when wanted changed

	// Of look: the sessions that are established, and since when those are ended
	// that had too many prefixes.
	up      map[netip.Addr]bool
	tooMany map[netip.Addr]time.Time

	mu     sync.Mutex // guards what follows
	wanted map[netip.Prefix]bgp.Route
	told   map[netip.Prefix]bgp.Route // what GoBGP has of it
	is     *gobgp                     // nil but during Run
	begun  bool                       // the neighbours were added
	once   bool                       // Run was called
}

// New returns a speaker that does nothing before Run. It fails with all that is
// wrong with the configuration.
func New(cfg bgp.Config) (*Speaker, error) {
	c, err := cfg.Complete()
	if err != nil {
		return nil, fmt.Errorf("bgp configuration: %w", err)
	}
	return &Speaker{cfg: c, ready: make(chan struct{}), wake: make(chan struct{}, 1),
		wanted: make(map[netip.Prefix]bgp.Route), told: make(map[netip.Prefix]bgp.Route),
		up: make(map[netip.Addr]bool), tooMany: make(map[netip.Addr]time.Time)}, nil
}

// Announce announces routes, from when Run has them, or replaces what was
// announced for the same prefixes; those that are announced already cause
// nothing. It fails when a prefix is none, or when there were more than
// bgp.MaxRoutes, and then has done nothing. It keeps the communities.
func (s *Speaker) Announce(routes []bgp.Route) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	more := make(map[netip.Prefix]bgp.Route, len(routes))
	fresh := 0
	for _, r := range routes {
		if !r.Prefix.IsValid() || r.Prefix != r.Prefix.Masked() || r.Prefix.Addr().Is4In6() {
			return fmt.Errorf("announce %v: not a prefix", r.Prefix)
		}
		_, has := s.wanted[r.Prefix]
		if _, twice := more[r.Prefix]; !has && !twice {
			fresh++
		}
		if r.OriginAS == s.cfg.AS {
			r.OriginAS = 0
		}
		more[r.Prefix] = r
	}
	if n := len(s.wanted) + fresh; n > bgp.MaxRoutes {
		return fmt.Errorf("announce: %d routes, of which %d are possible", n, bgp.MaxRoutes)
	}
	maps.Copy(s.wanted, more)
	s.poke()
	return nil
}

// Withdraw ends the announcement of prefixes. Those that are not announced cause
// nothing.
func (s *Speaker) Withdraw(prefixes []netip.Prefix) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range prefixes {
		delete(s.wanted, p)
	}
	s.poke()
}

// Ready says that what there is to announce after a start was announced. With a
// Config.RestartTime the sessions begin then, or when that time is over: a
// neighbour that kept what was announced before drops it as soon as a session
// has begun and that is not among what it is told (RFC 4724 section 4.2).
func (s *Speaker) Ready() {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.ready:
	default:
		close(s.ready)
	}
}

func (s *Speaker) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Run has the sessions until ctx ends. Then it withdraws all at once, and ends the
// sessions a second later. The error is nil after ctx ended. Run can be called
// once.
func (s *Speaker) Run(ctx context.Context) error {
	s.mu.Lock()
	once := s.once
	s.once = true
	s.mu.Unlock()
	if once {
		return errors.New("bgp: Run called twice")
	}
	g, err := start(s.cfg)
	if err != nil {
		return fmt.Errorf("bgp: %w", err)
	}
	defer g.stop()
	s.mu.Lock()
	s.is = g
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.is = nil
	}()

	var begin <-chan time.Time // when sessions begin though nothing is ready
	ready := s.ready
	if s.cfg.RestartTime == 0 {
		s.Ready()
	} else {
		t := time.NewTimer(s.cfg.RestartTime)
		defer t.Stop()
		begin = t.C
	}
	look := time.NewTicker(lookRound)
	defer look.Stop()
	for {
		if err := s.reconcile(g); err != nil {
			return fmt.Errorf("bgp: %w", err)
		}
		select {
		case <-ready:
			ready, begin = nil, nil
			err = s.begin(g)
		case <-begin:
			ready, begin = nil, nil
			s.cfg.Logger.Warn("bgp sessions begin with nothing to announce", "after", s.cfg.RestartTime)
			err = s.begin(g)
		case <-s.wake:
		case <-look.C:
			err = s.look(g, time.Now())
		case <-ctx.Done():
			return s.leave(g)
		}
		if err != nil {
			return fmt.Errorf("bgp: %w", err)
		}
	}
}

// begin adds the neighbours, after all that is to be announced to them: it goes
// out in few messages then, and before the mark that ends a restart.
func (s *Speaker) begin(g *gobgp) error {
	if err := s.reconcile(g); err != nil {
		return err
	}
	for _, n := range s.cfg.Neighbours {
		if err := g.add(n, s.cfg.RestartTime); err != nil {
			return fmt.Errorf("neighbour %v: %w", n.Addr, err)
		}
	}
	s.mu.Lock()
	s.begun = true
	s.mu.Unlock()
	return nil
}

// reconcile makes GoBGP announce what is wanted.
func (s *Speaker) reconcile(g *gobgp) error {
	s.mu.Lock()
	var gone []netip.Prefix
	var fresh []bgp.Route
	for p := range s.told {
		if _, ok := s.wanted[p]; !ok {
			gone = append(gone, p)
		}
	}
	for p, r := range s.wanted {
		if t, ok := s.told[p]; !ok || !t.Equal(&r) {
			fresh = append(fresh, r)
		}
	}
	all := len(gone) == len(s.told)
	s.mu.Unlock()
	if len(gone)+len(fresh) == 0 {
		return nil
	}
	slices.SortFunc(gone, netip.Prefix.Compare)
	slices.SortFunc(fresh, func(a, b bgp.Route) int { return a.Prefix.Compare(b.Prefix) })
	if all && len(gone) > 0 {
		if err := g.withdrawAll(); err != nil {
			return fmt.Errorf("withdraw: %w", err)
		}
	} else {
		for _, p := range gone {
			if err := g.withdraw(p); err != nil {
				return fmt.Errorf("withdraw %v: %w", p, err)
			}
		}
	}
	for _, r := range fresh {
		if err := g.announce(r); err != nil {
			return fmt.Errorf("announce %v: %w", r.Prefix, err)
		}
	}
	s.mu.Lock()
	for _, p := range gone {
		delete(s.told, p)
	}
	for _, r := range fresh {
		s.told[r.Prefix] = r
	}
	s.mu.Unlock()
	s.cfg.Logger.Info("bgp announcements changed", "announced", len(fresh), "withdrawn", len(gone))
	return nil
}

// look reports sessions that began and ended, and tries those again that ended
// for too many prefixes.
func (s *Speaker) look(g *gobgp, now time.Time) error {
	list, err := g.peers(false)
	if err != nil {
		return err
	}
	for _, n := range list {
		was, is := s.up[n.Addr], n.State == bgp.Established
		s.up[n.Addr] = is
		switch {
		case is && !was:
			s.cfg.Logger.Info("bgp session established", "neighbour", n.Addr, "as", n.AS)
		case was && !is:
			s.cfg.Logger.Warn("bgp session ended", "neighbour", n.Addr, "as", n.AS, "state", n.State)
		}
		since, known := s.tooMany[n.Addr]
		switch {
		case n.State != bgp.TooManyPrefixes:
			delete(s.tooMany, n.Addr)
		case !known:
			s.tooMany[n.Addr] = now
			s.cfg.Logger.Warn("bgp neighbour announces too many prefixes; trying again later", "neighbour", n.Addr, "after", tooManyPause)
		case now.Sub(since) >= tooManyPause:
			delete(s.tooMany, n.Addr)
			if err := g.enable(n.Addr); err != nil {
				return fmt.Errorf("neighbour %v: %w", n.Addr, err)
			}
		}
	}
	return nil
}

// leave withdraws everything, and gives the neighbours time to send packets
// elsewhere while they can still be forwarded.
func (s *Speaker) leave(g *gobgp) error {
	s.mu.Lock()
	clear(s.wanted)
	announced := len(s.told) > 0
	s.mu.Unlock()
	if err := s.reconcile(g); err != nil {
		return fmt.Errorf("bgp: %w", err)
	}
	list, err := g.peers(false)
	if err != nil {
		return fmt.Errorf("bgp: %w", err)
	}
	if announced && slices.ContainsFunc(list, func(n bgp.NeighbourStatus) bool { return n.State == bgp.Established }) {
		time.Sleep(stopLinger)
	}
	return nil
}

// Announced returns what is announced to neighbours that there is a session
// with, by prefix.
func (s *Speaker) Announced() []bgp.Route {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.SortedFunc(maps.Values(s.told), func(a, b bgp.Route) int { return a.Prefix.Compare(b.Prefix) })
}

// Neighbours returns the neighbours in the order of Config.
func (s *Speaker) Neighbours() ([]bgp.NeighbourStatus, error) {
	s.mu.Lock()
	g, begun := s.is, s.begun
	s.mu.Unlock()
	out := make([]bgp.NeighbourStatus, len(s.cfg.Neighbours))
	for i, n := range s.cfg.Neighbours {
		out[i] = bgp.NeighbourStatus{Addr: n.Addr, AS: n.AS}
		if g != nil && !begun {
			out[i].State = bgp.Waiting
		}
	}
	if g == nil || !begun {
		return out, nil
	}
	list, err := g.peers(s.cfg.Transit != nil)
	if err != nil {
		return nil, fmt.Errorf("bgp: %w", err)
	}
	s.mu.Lock()
	told := make(map[bool]int) // by whether it is IPv4
	for p := range s.told {
		told[p.Addr().Is4()]++
	}
	s.mu.Unlock()
	for i := range out {
		if j := slices.IndexFunc(list, func(n bgp.NeighbourStatus) bool { return n.Addr == out[i].Addr }); j >= 0 {
			out[i] = list[j]
			if out[i].State == bgp.Established && s.cfg.Transit == nil {
				out[i].Announced = told[out[i].Addr.Is4()]
			}
		}
	}
	return out, nil
}
