package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/eidolon-lisp/eidolon/internal/config"
	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/bgp"
	"github.com/eidolon-lisp/eidolon/mapping/xtr"
)

// databases are the EID-prefixes of the site: those of the configuration, and
// those that its routers announce. It brings both to the planes.
type databases struct {
	site  interface{ SetDatabases([]xtr.Database) error }
	plane interface{ SetLocals([]mapping.EID) error }
	rules []config.LearnedMapping
	log   *slog.Logger

	mu      sync.Mutex
	servers []netip.Addr // that are configured
	own     []netip.Addr // of the uplinks
	static  []xtr.Database
	learned []xtr.Database
	locals  []mapping.EID          // of the plane
	learner *bgp.Learner           // nil without rules
	counted map[bgp.Refusal]uint64 // refusals that were logged
	wake    chan struct{}          // holds a token when the learner waits for something else
}

// newDatabases returns those of a configuration, of which static are in use.
func newDatabases(cfg *config.XTR, static []xtr.Database, log *slog.Logger) *databases {
	d := &databases{rules: cfg.Learned, log: log, static: static, locals: eids(static), wake: make(chan struct{}, 1), counted: make(map[bgp.Refusal]uint64)}
	if len(cfg.Learned) == 0 || cfg.BGP == nil {
		return d
	}
	c := bgp.LearnConfig{WithdrawDelay: cfg.BGP.WithdrawDelay}
	for _, r := range cfg.Learned {
		c.Rules = append(c.Rules, r.Rule)
	}
	c.Configured = prefixesOf(static)
	d.servers = servers(cfg)
	c.Underlay = d.underlay()
	d.learner = bgp.NewLearner(c)
	return d
}

// servers are the addresses of the mapping system.
func servers(cfg *config.XTR) (list []netip.Addr) {
	for _, m := range cfg.MapServers {
		list = append(list, m.Address.Addr())
	}
	for _, r := range cfg.MapResolvers {
		list = append(list, r.Addr())
	}
	return list
}

// underlay are the addresses that no learned EID-prefix may hold: of servers, of the
// locators that are configured for what is learned, and of the uplinks.
func (d *databases) underlay() []netip.Addr {
	list := slices.Concat(d.servers, d.own)
	for _, r := range d.rules {
		for _, l := range r.Locators {
			list = append(list, l.Addr)
		}
	}
	return list
}

func eids(list []xtr.Database) (out []mapping.EID) {
	for _, d := range list {
		out = append(out, d.EID)
	}
	return out
}

// SetDatabases replaces those of the configuration.
func (d *databases) SetDatabases(static []xtr.Database) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.learner != nil && d.learner.SetConfigured(prefixesOf(static)) {
		if err := d.apply(static, d.accepted()); err != nil {
			d.learner.SetConfigured(prefixesOf(d.static))
			return err
		}
		return nil
	}
	return d.apply(static, d.learned)
}

func prefixesOf(list []xtr.Database) (out []netip.Prefix) {
	for _, d := range list {
		out = append(out, d.EID.Prefix)
	}
	return out
}

// accepted are the mappings of what the learner has accepted.
func (d *databases) accepted() (list []xtr.Database) {
	for _, l := range d.learner.Accepted() {
		m := d.rules[l.Rule].DatabaseMapping
		m.EID = mapping.EID{IID: d.rules[l.Rule].IID, Prefix: l.Prefix}
		list = append(list, database(m))
	}
	return list
}

// apply makes the planes use both lists. The kernel has the rules of an
// EID-prefix for as long as anybody may send to it.
func (d *databases) apply(static, learned []xtr.Database) error {
	all := slices.Concat(static, learned)
	next := eids(all)
	if !sameEIDs(d.locals, next) {
		union := slices.Clone(d.locals)
		for _, e := range next {
			if !slices.Contains(union, e) {
				union = append(union, e)
			}
		}
		if err := d.plane.SetLocals(union); err != nil {
			return errors.Join(err, d.plane.SetLocals(d.locals))
		}
	}
	if err := d.site.SetDatabases(all); err != nil {
		if !sameEIDs(d.locals, next) {
			err = errors.Join(err, d.plane.SetLocals(d.locals))
		}
		return err
	}
	changed := !sameEIDs(d.locals, next)
	d.static, d.learned, d.locals = static, learned, next
	if changed {
		if err := d.plane.SetLocals(next); err != nil {
			d.log.Warn("rules of EID-prefixes that are gone are not removed", "err", err)
		}
	}
	return nil
}

func sameEIDs(a, b []mapping.EID) bool {
	a, b = slices.SortedFunc(slices.Values(a), mapping.EID.Compare), slices.SortedFunc(slices.Values(b), mapping.EID.Compare)
	return slices.Equal(a, b)
}

// routes takes what the neighbours announce.
func (d *databases) routes(list []bgp.Received) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.learn(d.learner.Routes(time.Now(), list))
}

// learn makes the planes use what the learner has accepted, if that changed.
func (d *databases) learn(changed bool) {
	for _, why := range bgp.Refusals() {
		if n := d.learner.Refused(why); n != d.counted[why] {
			d.counted[why] = n
			d.log.Warn("bgp routes are no EID-prefixes of the site; lispctl show bgp names them", "reason", why, "routes", n)
		}
	}
	if changed {
		learned := d.accepted()
		if err := d.apply(d.static, learned); err != nil {
			d.log.Error("EID-prefixes that were learned are not used", "err", err)
		} else {
			d.log.Info("EID-prefixes learned by bgp", "eids", fmt.Sprint(eids(learned)))
		}
	}
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// run gives up what is withdrawn, when its time is over, until ctx ends.
func (d *databases) run(ctx context.Context) error {
	if d.learner == nil {
		return nil
	}
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		d.mu.Lock()
		next := d.learner.Next()
		d.mu.Unlock()
		timer.Reset(time.Hour)
		if !next.IsZero() {
			timer.Reset(time.Until(next))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-d.wake:
		case <-timer.C:
			d.mu.Lock()
			if d.learner.Advance(time.Now()) {
				d.learn(true)
			}
			d.mu.Unlock()
		}
	}
}

// setUnderlay says which addresses the uplinks have.
func (d *databases) setUnderlay(own []netip.Addr) {
	if d.learner == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.own = own
	if d.learner.SetUnderlay(d.underlay()) {
		d.learn(true)
	}
}

// setServers says which map-servers and map-resolvers there are.
func (d *databases) setServers(cfg *config.XTR) {
	if d.learner == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.servers = servers(cfg)
	if d.learner.SetUnderlay(d.underlay()) {
		d.learn(true)
	}
}

// list is what the API shows of what was learned.
func (d *databases) list() []bgp.Learned {
	if d.learner == nil {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.learner.List()
}

// stats are the announcements that were refused, by reason.
func (d *databases) stats() iter.Seq2[string, uint64] {
	return func(yield func(string, uint64) bool) {
		if d.learner == nil {
			return
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		for _, why := range bgp.Refusals() {
			if !yield("bgp_routes_refused_"+why.String(), d.learner.Refused(why)) {
				return
			}
		}
	}
}
