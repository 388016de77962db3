package mapsys

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
)

// Watch has the watchers subscribe to each site, and returns when they have all
// mappings.
func (s *System) Watch(ctx context.Context) error {
	for n := range s.cfg.Watchers {
		x, p, err := newITR(s.cfg.Sites, s, watcherAddr(s.addr.Addr(), n), watcherID(s, n), Load{Unlimited: true})
		if err != nil {
			return fmt.Errorf("watcher %d: %w", n, err)
		}
		run, cancel := context.WithCancel(context.WithoutCancel(ctx))
		stop := s.cancel
		s.cancel = func() { cancel(); p.Close(); stop() }
		s.wg.Go(func() { s.keep(x.xtr.Run(run, p, x.misses)) })
		s.watchers = append(s.watchers, x)
		begin := time.Now()
		for i := range s.cfg.Sites {
			for !x.packet(time.Now(), i, x.host(i)) && x.asking() >= registerWindow {
				x.again(time.Now(), func() netip.Addr { return x.host(i) })
				if err := s.pause(ctx, begin, watchTimeout); err != nil {
					return fmt.Errorf("watcher %d: %d of %d sites: %w", n, x.known(), len(s.cfg.Sites), err)
				}
			}
		}
		for x.known() < len(s.cfg.Sites) {
			x.again(time.Now(), func() netip.Addr { return x.host(0) })
			if err := s.pause(ctx, begin, watchTimeout); err != nil {
				return fmt.Errorf("watcher %d: %d of %d sites: %w", n, x.known(), len(s.cfg.Sites), err)
			}
		}
	}
	if want := s.cfg.Watchers * len(s.cfg.Sites); s.Subscriptions() != want {
		return fmt.Errorf("%d subscriptions, expected %d", s.Subscriptions(), want)
	}
	return nil
}

// watchTimeout bounds how long a watcher may need for all of its subscriptions.
const watchTimeout = 5 * time.Minute

// pause waits a little, unless something has failed or the time is up.
func (s *System) pause(ctx context.Context, begin time.Time, limit time.Duration) error {
	if err := s.errors(); err != nil {
		return err
	}
	if time.Since(begin) > limit {
		return fmt.Errorf("no end after %v", limit)
	}
	return sleep(ctx, time.Millisecond)
}

func watcherAddr(server netip.Addr, n int) netip.Addr { return at(server, 8, byte(n)+1) }

// watcherID is behind those of the sites.
func watcherID(s *System, n int) mapping.XTRID { return xtrID(len(s.cfg.Sites) + n) }

// host is one of the hosts of the ITR's own site.
func (x *itr) host(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, byte(1 + i%hosts)}) }

func (x *itr) known() int  { x.mu.Lock(); defer x.mu.Unlock(); return x.entries }
func (x *itr) asking() int { x.mu.Lock(); defer x.mu.Unlock(); return len(x.waiting) }

// Change has a site that has no xTR register other locators, or, with none, end its
// registration. It waits only while many changes are not confirmed yet.
func (s *System) Change(ctx context.Context, site int, locators []netip.Addr) error {
	i := site - len(s.victims) - len(s.users)
	if s.reg == nil || i < 0 {
		return fmt.Errorf("site %d has an xTR of its own", site)
	}
	rec := &mapping.Record{EID: eid(s.cfg.Sites[site].EID), TTL: mapping.DefaultTTL}
	for _, a := range locators {
		rec.Locators = append(rec.Locators, mapping.MakeLocator(a, 1, 100))
	}
	if len(locators) == 0 {
		rec.TTL = 0
	}
	begin := time.Now()
	for s.reg.outstanding() >= registerWindow {
		if err := s.pause(ctx, begin, readyTimeout); err != nil {
			return fmt.Errorf("changes are not confirmed: %w", err)
		}
	}
	s.reg.change(i, rec)
	return s.reg.send(i)
}

// Begin forgets what was counted, and has no registration renewed until the system
// ends: a minute or two is what Changes may take.
func (s *System) Begin() {
	s.reg.still.Store(true)
	s.counter.reset(netip.Prefix{})
}

// Changes returns what was counted since Begin when all changes are confirmed and
// nothing more is said, and how long that took from begin.
func (s *System) Changes(ctx context.Context) (c Count, err error) {
	begin := time.Now()
	for {
		if err := s.pause(ctx, begin, readyTimeout); err != nil {
			return c, fmt.Errorf("%d changes are not confirmed: %w", s.reg.outstanding(), err)
		}
		c, _ = s.counter.counts()
		if s.reg.outstanding() == 0 && time.Since(c.Last) > eventRest {
			return c, s.errors()
		}
	}
}

// Known returns how many of the sites a watcher has a mapping with locators of.
func (s *System) Known(watcher int) int { return s.watchers[watcher].known() }
