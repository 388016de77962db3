package main

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/eidolon-lisp/eidolon/benchmarks/bgpgrowth/dfz"
	"github.com/eidolon-lisp/eidolon/benchmarks/bgpgrowth/measure"
)

const (
	// loadLimit is how long the zone may need to come to rest after all is announced,
	// changeLimit the same after a change, besides what the MRAI holds back.
	loadLimit   = 20 * time.Minute
	changeLimit = time.Minute
	// stagger is between failures whose messages are counted at the same time.
	stagger = 250 * time.Millisecond
)

// world is a zone with its sites.
type world struct {
	job
	say   func(format string, args ...any) // progress
	zone  *dfz.Zone
	topo  dfz.Topology
	from  string // where the sites are from
	sites []*site
	said  []announcement
	table table
	own   map[sessionKey]*dfz.Edge // sessions of live sites
	rows  []measure.Run
}

type sessionKey struct{ site, router int }

// row begins a row of the world.
func (w *world) row(kind string) measure.Run {
	r := measure.New(kind, w.Arm, w.Variant)
	r.Speakers, r.Sites, r.Seed, r.Source = w.Speakers, w.Sites, w.Seed, w.from
	if w.Arm == measure.ArmMixed {
		r.Adoption = w.Adoption
	}
	return r
}

// bgp measures what BGP carries in the arm.
func (w *world) bgp(ctx context.Context, rng *rand.Rand) (err error) {
	w.said = announcements(w.Arm, w.Variant, w.Adoption, w.sites, w.topo)
	w.table, w.own = make(table), make(map[sessionKey]*dfz.Edge)
	victims := w.victims(rng)
	var watch []netip.Prefix
	for _, s := range victims {
		for _, a := range s.announcements(w.Arm) {
			watch = append(watch, a.prefixes...)
		}
	}
	w.say("sessions")
	if w.zone, err = dfz.Start(ctx, w.topo, watch); err != nil {
		return err
	}
	for _, a := range w.said {
		if a.site != nil && a.site.live {
			e, err := w.zone.Dial(ctx, a.router, a.site.as())
			if err != nil {
				return err
			}
			w.own[sessionKey{a.site.number, a.router}] = e
			continue
		}
		if _, err := w.zone.Feeder(ctx, a.router); err != nil {
			return err
		}
	}
	for i, r := range w.topo.Edge {
		if err := w.zone.Originate(ctx, r, providerBlock(i)); err != nil {
			return err
		}
		w.table.add([]netip.Prefix{providerBlock(i)})
	}
	if err := w.zone.Settle(ctx, len(w.table), changeLimit); err != nil {
		return err
	}
	loaded, err := w.load(ctx)
	if err != nil {
		return err
	}
	for _, mrai := range w.MRAIs {
		if err := w.failures(ctx, victims, mrai); err != nil {
			return fmt.Errorf("failures with an MRAI of %v: %w", mrai, err)
		}
	}
	if err := w.restarts(ctx); err != nil {
		return err
	}
	w.rows = append(w.rows, loaded) // the last: see job.done
	return nil
}

// edge returns the session that an announcement goes over.
func (w *world) edge(ctx context.Context, a announcement) (*dfz.Edge, error) {
	if a.site != nil {
		if e := w.own[sessionKey{a.site.number, a.router}]; e != nil {
			return e, nil
		}
	}
	return w.zone.Feeder(ctx, a.router)
}

// load announces everything and measures the tables.
func (w *world) load(ctx context.Context) (r measure.Run, err error) {
	sessions, err := w.zone.Sessions(ctx)
	if err != nil {
		return r, err
	}
	if sessions != len(w.topo.Links) {
		return r, fmt.Errorf("%d of %d sessions are established", sessions, len(w.topo.Links))
	}
	before := dfz.Heap()
	w.zone.Track(nil)
	begin := time.Now()
	for i, a := range w.said {
		e, err := w.edge(ctx, a)
		if err != nil {
			return r, err
		}
		if err := e.Announce(a.path, a.prefixes); err != nil {
			return r, err
		}
		w.table.add(a.prefixes)
		if i%100 == 0 {
			w.say("announcement %d of %d", i+1, len(w.said))
		}
	}
	w.say("%d prefixes spread", len(w.table))
	if err := w.zone.Settle(ctx, len(w.table), loadLimit); err != nil {
		return r, err
	}
	r = w.row(measure.KindTable)
	w.count(&r, w.zone.Total(), begin)
	if len(w.said) > 0 && r.Updates == 0 {
		return r, fmt.Errorf("%d announcements, and no UPDATE was seen on the wire", len(w.said))
	}
	t, err := w.zone.Tables(ctx)
	if err != nil {
		return r, err
	}
	r.Prefixes, r.RIBPaths, r.FIBEntries = float64(len(w.table)), float64(t.Paths), float64(t.Prefixes)
	r.RIBMax, r.FIBMax = float64(t.MaxPaths), float64(t.MaxPrefixes)
	r.HeapBytes = float64(t.Heap) - float64(before)
	r.Sessions, r.Edges = float64(sessions), float64(w.zone.Edges())
	return r, nil
}

// count puts what was counted into a row.
func (w *world) count(r *measure.Run, c dfz.Count, begin time.Time) {
	r.Updates, r.Bytes, r.Announced, r.Withdrawn = c.Updates, c.Bytes, c.Announced, c.Withdrawn
	r.Offered, r.EdgeUpdates, r.EdgeBytes, r.Completed = c.Offered, c.EdgeUpdates, c.EdgeBytes, c.Completed
	r.Touched = float64(c.Touched())
	r.ConvergenceMs, r.FirstMs = 0, 0
	if !c.Last.IsZero() {
		r.ConvergenceMs = milliseconds(c.Last.Sub(begin))
		r.FirstMs = milliseconds(c.First.Sub(begin))
	}
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// victims are the sites that lose a provider: multihomed ones that are in BGP, those
// with sessions of their own first.
func (w *world) victims(rng *rand.Rand) (list []*site) {
	in := make(map[*site]bool)
	for _, a := range w.said {
		in[a.site] = true
	}
	for _, i := range rng.Perm(len(w.sites)) {
		s := w.sites[i]
		if !in[s] || len(s.providers) < 2 {
			continue
		}
		live := 0
		for _, v := range list {
			if v.live {
				live++
			}
		}
		if len(list) < w.Failures && (!s.live || live < (w.Failures+1)/2) {
			list = append(list, s)
		}
	}
	return list
}

// failures has each victim lose its first provider and get it back.
func (w *world) failures(ctx context.Context, victims []*site, mrai time.Duration) error {
	w.zone.SetMRAI(mrai)
	for _, kind := range []string{measure.KindFailure, measure.KindRepair} {
		events := make([]*dfz.Event, len(victims))
		of := make(map[*dfz.Event][]netip.Prefix)
		for i, s := range victims {
			events[i] = new(dfz.Event)
			for _, a := range s.announcements(w.Arm) {
				of[events[i]] = append(of[events[i]], a.prefixes...)
			}
		}
		if mrai > 0 {
			w.zone.Track(of)
		}
		for i, s := range victims {
			w.say("%s %d of %d, MRAI %v", kind, i+1, len(victims), mrai)
			e := events[i]
			if mrai == 0 {
				w.zone.Track(map[*dfz.Event][]netip.Prefix{e: of[e]})
			}
			if err := w.inject(ctx, s, e, kind == measure.KindFailure); err != nil {
				return err
			}
			if mrai > 0 {
				if err := sleep(ctx, stagger); err != nil {
					return err
				}
				continue
			}
			if err := w.zone.Settle(ctx, len(w.table), changeLimit); err != nil {
				return fmt.Errorf("%s of site %d: %w", kind, s.number, err)
			}
		}
		if mrai > 0 {
			w.say("%ss come to rest, MRAI %v", kind, mrai)
			if err := w.zone.Settle(ctx, len(w.table), changeLimit); err != nil {
				return fmt.Errorf("%ss: %w", kind, err)
			}
		}
		for i, s := range victims {
			r := w.row(kind)
			r.Repetition, r.MRAI = i, mrai.Seconds()
			w.count(&r, events[i].Count, events[i].Start)
			r.Providers, r.Live = float64(len(s.providers)), 0
			if s.live {
				r.Live = 1
			}
			seen := make(table)
			seen.add(of[events[i]])
			r.SitePrefixes = float64(len(seen))
			w.rows = append(w.rows, r)
		}
		// The next changes must not find timers that run.
		if err := sleep(ctx, mrai); err != nil {
			return err
		}
	}
	return nil
}

// inject has a site lose its first provider, or get it back. Both ends of the
// session see it at once, as after a loss of carrier: what it takes to notice a
// failure is left out here as it is with Eidolon.
func (w *world) inject(ctx context.Context, s *site, e *dfz.Event, down bool) error {
	a := s.announcements(w.Arm)[0]
	edge, err := w.edge(ctx, a)
	if err != nil {
		return err
	}
	if down {
		w.table.remove(a.prefixes)
		w.zone.Begin(e)
		if s.live {
			edge.Close()
			return nil
		}
		return edge.Withdraw(a.prefixes)
	}
	w.table.add(a.prefixes)
	if s.live {
		if err := edge.Open(ctx); err != nil {
			return err
		}
	}
	w.zone.Begin(e)
	return edge.Announce(a.path, a.prefixes)
}

// restarts cuts sessions among speakers, which come back with all routes.
func (w *world) restarts(ctx context.Context) error {
	w.zone.SetMRAI(0)
	before, err := w.zone.Tables(ctx)
	if err != nil {
		return err
	}
	restarts := min(w.Restarts, len(w.topo.Links))
	for i := range restarts {
		w.say("restart %d of %d", i+1, restarts)
		link := len(w.topo.Links) - 1 - i // an access provider's
		w.zone.Track(nil)
		begin, err := w.zone.CutLink(ctx, link)
		if err != nil {
			return err
		}
		if err := w.zone.Settle(ctx, len(w.table), changeLimit); err != nil {
			return fmt.Errorf("restart of a session: %w", err)
		}
		after, err := w.zone.Tables(ctx)
		if err != nil {
			return err
		}
		// Each router has a route to all that it had. How many paths it knows may differ
		// a little: GoBGP leaves out some withdrawals (see dfz.Zone.Settle), which are
		// made up for where something happens to a site, and not for all prefixes.
		if after.Prefixes != before.Prefixes || math.Abs(float64(after.Paths-before.Paths)) > 0.01*float64(before.Paths) {
			return fmt.Errorf("%d routes and %d paths after the restart of a session, %d and %d before", after.Prefixes, after.Paths, before.Prefixes, before.Paths)
		}
		r := w.row(measure.KindRestart)
		r.Repetition, r.MRAI = i, 0
		c := w.zone.Total()
		w.count(&r, c, begin)
		r.FirstMs = math.NaN() // the withdrawals, before the session is back
		r.RestoredMs, r.RestoredSeen = r.ConvergenceMs, c.Announced
		w.rows = append(w.rows, r)
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
