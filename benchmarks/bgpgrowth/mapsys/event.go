package mapsys

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
)

// Outcome is what came of a change.
type Outcome struct {
	Count                             // messages about the site's mapping, until rest
	Users, Changed      int           // who uses the mapping, and who of those has the new one
	FirstUser, LastUser time.Duration // from the change until they have it
	Window              time.Duration // counted
}

// Use has the first n users send packets to a victim, and returns when they know its
// mapping.
func (s *System) Use(ctx context.Context, victim, n int) error {
	v := s.victims[victim]
	for _, u := range s.users[:n] {
		u.mu.Lock()
		u.peers = append(u.peers, v)
		u.mu.Unlock()
	}
	return s.await(ctx, fmt.Sprintf("%d users have the mapping of site %d", n, victim), func() bool {
		for _, u := range s.users[:n] {
			u.mu.Lock()
			to := current(u.cache[v.eid()])
			u.mu.Unlock()
			if to != v.rlocs[0] {
				return false
			}
		}
		return true
	})
}

// eventRest is how long nothing must be said of a mapping, but for probes, after the
// last user has changed.
const eventRest = time.Second

// Fail takes the first uplink of a victim away, and Repair gives it back. Its xTR is
// told at once, as by a loss of carrier, but for a system of probes alone: there nobody
// is told. They return when all users send to another uplink, or to the first again, or
// after limit.
func (s *System) Fail(ctx context.Context, victim int, limit time.Duration) (Outcome, error) {
	return s.change(ctx, victim, true, limit)
}

// Repair is the end of Fail.
func (s *System) Repair(ctx context.Context, victim int, limit time.Duration) (Outcome, error) {
	return s.change(ctx, victim, false, limit)
}

func (s *System) change(ctx context.Context, victim int, down bool, limit time.Duration) (o Outcome, err error) {
	v := s.victims[victim]
	first := v.rlocs[0]
	var mu sync.Mutex
	changed := make(map[*router]time.Time)
	var begin time.Time
	watch := func(u *router) func(time.Time, mapping.EID, *mapping.Record) {
		return func(now time.Time, e mapping.EID, rec *mapping.Record) {
			if e != v.eid() {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if to := current(rec); to.IsValid() && (to != first) == down {
				if _, ok := changed[u]; !ok {
					changed[u] = now
				}
			} else {
				delete(changed, u)
			}
		}
	}
	for _, u := range s.users {
		u.mu.Lock()
		for _, p := range u.peers {
			if p == v {
				o.Users++
				u.changed = watch(u)
			}
		}
		u.mu.Unlock()
	}
	defer func() {
		for _, u := range s.users {
			u.mu.Lock()
			u.changed = nil
			u.mu.Unlock()
		}
	}()
	s.counter.reset(v.eid().Prefix)
	begin = time.Now()
	v.port.set(first, down)
	if !s.cfg.silent() {
		if err := v.xtr.SetUplinks(v.uplinks(map[int]bool{0: down})); err != nil {
			return o, err
		}
	}
	for {
		if err := sleep(ctx, 5*time.Millisecond); err != nil {
			return o, err
		}
		_, c := s.counter.counts()
		last := c.News
		mu.Lock()
		n := len(changed)
		for _, at := range changed {
			if at.After(last) {
				last = at
			}
		}
		mu.Unlock()
		if time.Since(begin) > limit || n == o.Users && time.Since(last) > eventRest && time.Since(begin) > eventRest {
			break
		}
	}
	o.Window = time.Since(begin)
	_, o.Count = s.counter.counts()
	mu.Lock()
	defer mu.Unlock()
	o.Changed = len(changed)
	for _, at := range changed {
		d := at.Sub(begin)
		o.LastUser = max(o.LastUser, d)
		if o.FirstUser == 0 || d < o.FirstUser {
			o.FirstUser = d
		}
	}
	return o, s.errors()
}
