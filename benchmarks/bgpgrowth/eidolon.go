package main

import (
	"context"
	"fmt"
	"time"

	"github.com/eidolon-lisp/eidolon/benchmarks/bgpgrowth/mapsys"
	"github.com/eidolon-lisp/eidolon/benchmarks/bgpgrowth/measure"
)

// mappingJob is what is measured of the mapping system.
type mappingJob struct {
	// Victims are those of the live sites that lose an uplink; the others talk to
	// them.
	Victims int
	Rest    time.Duration // that messages at rest are counted for
	Zipf    []float64     // exponents of the traffic of an ITR under load
	Caches  []float64     // its map-cache, as shares of all sites
	Rate    float64       // its flows a second
	Load    time.Duration
	Flows   int // that go on while an ITR restarts
}

// Limits of what a change of a mapping may take, that users have to find out by
// themselves in the worst case.
const (
	failLimit    = 30 * time.Second
	repairLimit  = 60 * time.Second
	restartLimit = 2 * time.Minute
)

// mapping measures what the mapping system does.
func (w *world) mapping(ctx context.Context) error {
	cfg := mapsys.Config{Victims: w.Mapping.Victims, Users: w.Live - w.Mapping.Victims}
	for _, s := range w.sites {
		cfg.Sites = append(cfg.Sites, mapsys.Site{EID: s.eid, Uplinks: len(s.providers)})
	}
	all := w.Variant == measure.VariantAll
	cfg.SMR = all || w.Variant == measure.VariantSMR
	cfg.PubSub = all || w.Variant == measure.VariantPubSub
	cfg.Probes = all || w.Variant == measure.VariantProbes
	w.say("map-server and xTRs")
	s, err := mapsys.New(ctx, cfg)
	if err != nil {
		return err
	}
	defer s.Close()
	w.say("registrations")
	heap, err := s.RegisterAll(ctx)
	if err != nil {
		return err
	}
	if n := s.Registered(); n != len(w.sites) {
		return fmt.Errorf("%d sites are registered, of %d", n, len(w.sites))
	}
	// Victims have different numbers of users, so that it shows what each costs.
	users := make([]int, cfg.Victims)
	for v := range users {
		users[v] = max(1, cfg.Users*(v+1)/cfg.Victims)
		if err := s.Use(ctx, v, users[v]); err != nil {
			return err
		}
	}
	w.say("at rest")
	rest, err := s.Rest(ctx, w.Mapping.Rest)
	if err != nil {
		return err
	}
	r := w.row(measure.KindMapping)
	putMessages(&r, rest, w.Mapping.Rest)
	r.Records, r.RecordHeap, r.XTRs = float64(s.Registered()), float64(heap), float64(w.Live)
	r.Subscribed = float64(s.Subscriptions())
	for v := range users {
		if err := w.uplink(ctx, s, v); err != nil {
			return err
		}
	}
	if err := w.loads(ctx, s); err != nil {
		return err
	}
	w.rows = append(w.rows, r) // the last: see job.done
	return s.Close()
}

// uplink has a victim lose an uplink and get it back.
func (w *world) uplink(ctx context.Context, s *mapsys.System, v int) error {
	for _, x := range []struct {
		kind  string
		do    func(context.Context, int, time.Duration) (mapsys.Outcome, error)
		limit time.Duration
	}{{measure.KindFailure, s.Fail, failLimit}, {measure.KindRepair, s.Repair, repairLimit}} {
		w.say("%s %d of %d", x.kind, v+1, w.Mapping.Victims)
		if w.zone != nil {
			w.zone.Track(nil)
		}
		o, err := x.do(ctx, v, x.limit)
		if err != nil {
			return fmt.Errorf("%s of an uplink: %w", x.kind, err)
		}
		if o.Changed < o.Users {
			return fmt.Errorf("%s of an uplink: %d of %d users have not noticed after %v", x.kind, o.Users-o.Changed, o.Users, o.Window)
		}
		if o.Messages() == 0 {
			return fmt.Errorf("%s of an uplink, and no message was seen", x.kind)
		}
		r := w.row(x.kind)
		r.Repetition = v
		putMessages(&r, o.Count, o.Window)
		r.Providers, r.SitePrefixes, r.Live = float64(len(w.sites[v].providers)), 1, 1
		r.Users, r.Changed = float64(o.Users), float64(o.Changed)
		r.ConvergenceMs, r.FirstMs = milliseconds(o.LastUser), milliseconds(o.FirstUser)
		if w.zone != nil { // what BGP hears of it
			c := w.zone.Total()
			r.Updates, r.Bytes, r.Announced, r.Withdrawn, r.Touched = c.Updates, c.Bytes, c.Announced, c.Withdrawn, float64(c.Touched())
		}
		w.rows = append(w.rows, r)
	}
	return nil
}

// loads has an ITR under traffic, and one that restarts.
func (w *world) loads(ctx context.Context, s *mapsys.System) error {
	put := func(r *measure.Run, t mapsys.Traffic) {
		putMessages(r, t.Count, t.Window)
		r.Packets, r.Misses, r.Entries = float64(t.Packets), float64(t.Misses), float64(t.Entries)
		r.FirstP50Ms, r.FirstP99Ms, r.FirstMaxMs = milliseconds(t.Wait(0.5)), milliseconds(t.Wait(0.99)), milliseconds(t.Wait(1))
	}
	for _, z := range w.Mapping.Zipf {
		for _, share := range w.Mapping.Caches {
			w.say("traffic, exponent %v, map-cache for %.0f %% of the sites", z, 100*share)
			cache := max(1, int(share*float64(len(w.sites))))
			t, err := s.Run(ctx, mapsys.Load{Zipf: z, Rate: w.Mapping.Rate, Duration: w.Mapping.Load, Cache: cache, Unlimited: true, Seed: w.Seed})
			if err != nil {
				return err
			}
			r := w.row(measure.KindCache)
			put(&r, t)
			r.Zipf, r.Cache = z, float64(cache)
			w.rows = append(w.rows, r)
		}
	}
	if w.Mapping.Flows == 0 {
		return nil
	}
	w.say("restart")
	t, err := s.Restart(ctx, w.Mapping.Flows, restartLimit, mapsys.Load{Seed: w.Seed})
	if err != nil {
		return err
	}
	r := w.row(measure.KindRestart)
	put(&r, t)
	r.RestoredMs, r.RestoredSeen = milliseconds(t.Window), float64(t.Entries)
	w.rows = append(w.rows, r)
	return nil
}

func putMessages(r *measure.Run, c mapsys.Count, d time.Duration) {
	r.Seconds = d.Seconds()
	for _, x := range []struct {
		to *float64
		n  int
	}{
		{&r.Registers, c.Registers}, {&r.Notifies, c.Notifies}, {&r.Publications, c.Publications}, {&r.Acks, c.Acks},
		{&r.SMRs, c.SMRs}, {&r.Requests, c.Requests}, {&r.Subscriptions, c.Subscriptions}, {&r.Probes, c.Probes},
		{&r.Replies, c.Replies}, {&r.Infos, c.Infos}, {&r.Messages, c.Messages()}, {&r.MessageBytes, c.Bytes},
	} {
		*x.to = float64(x.n)
	}
}
