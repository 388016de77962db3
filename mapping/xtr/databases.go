package xtr

import (
	"fmt"
	"slices"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
)

// setDatabases replaces the site's database-mappings, or refuses them whole.
func (m *machine) setDatabases(now time.Time, databases []Database) error {
	m.advance(now)
	next := m.cfg
	next.RLOCs, next.Databases = next.fixed, databases
	next, err := next.withDefaults()
	if err != nil {
		return fmt.Errorf("xtr configuration: %w", err)
	}
	if next.leftOut != nil { // they are RLOCs now
		return fmt.Errorf("xtr configuration: %w", next.leftOut)
	}
	m.replaceDatabases(now, next.Databases)
	return nil
}

// replaceDatabases makes declared, which are checked, the site's
// database-mappings, with the locators that they have now.
func (m *machine) replaceDatabases(now time.Time, declared []Database) {
	next := m.cfg
	next.Databases = m.effective(declared)
	m.declared = declared
	succeed(m.cfg.Databases, next.Databases)
	changed, gone := difference(m.cfg.Databases, next.Databases)
	if len(changed) == 0 || m.stopping {
		return
	}
	m.cfg.Databases, m.own = next.Databases, next.databaseTable()
	m.sourcesChanged, m.databasesChanged = true, true
	m.log.Info("database-mappings changed", "eids", fmt.Sprint(changed), "withdrawn", len(gone))
	m.reg.replace(now, gone)
	m.hear(now)
	m.smrs.changed(now, changed, m.smrs.targets(now, m.itr.cache))
	m.dropOwn(now)
	m.advance(now)
	m.solicitSettled(now)
}

// dropOwn removes the map-cache entries that are of this site now.
func (m *machine) dropOwn(now time.Time) {
	var own []mapping.EID
	for e := range m.itr.cache.All() {
		if _, ok := m.ownEID(e.Record.EID); ok {
			own = append(own, e.Record.EID)
		}
	}
	for _, e := range own {
		m.itr.removed(now, m.itr.cache.Delete(e), "it is the site's own now")
	}
}

// solicitSettled sends the SMRs of a change once every map-server that is asked
// to has confirmed it.
func (m *machine) solicitSettled(now time.Time) {
	if m.smrs.held && !m.stopping && m.reg.settled() {
		m.smrs.hurry(now)
		m.smrs.advance(now)
	}
}

// difference returns the EIDs whose mapping is not the same in after as in
// before, and the databases of before that after does not have.
func difference(before, after []Database) (changed []mapping.EID, gone []Database) {
	old := make(map[mapping.EID]*Database, len(before))
	for i := range before {
		old[before[i].EID] = &before[i]
	}
	for i := range after {
		d := &after[i]
		if o := old[d.EID]; o == nil || !o.record().Equal(d.record()) {
			changed = append(changed, d.EID)
		}
		delete(old, d.EID)
	}
	for _, d := range before {
		if old[d.EID] != nil {
			changed, gone = append(changed, d.EID), append(gone, d)
		}
	}
	return changed, gone
}

// replace registers the present databases, at once and then quickly until they
// are confirmed, and withdraws those that are gone.
func (r *registrar) replace(now time.Time, gone []Database) {
	before := r.regs
	r.regs, r.quick = nil, now.Add(quickPeriod)
	for _, g := range before {
		if !slices.ContainsFunc(r.cfg.MapServers, func(s MapServer) bool { return s.Addr == g.server.Addr }) {
			r.regs = append(r.regs, g) // withdraws all there
		}
	}
	for i := range r.cfg.MapServers {
		s := &r.cfg.MapServers[i]
		left, nonces := slices.Clone(gone), []uint64(nil)
		var rtt time.Duration
		silent := false
		for _, g := range before {
			if g.server.Addr != s.Addr {
				continue
			}
			nonces = append(nonces, g.nonce)
			rtt = max(rtt, g.rtt)
			silent = silent || g.unconfirmed || g.silent
			for _, d := range g.gone { // not confirmed yet
				if !r.has(d.EID) {
					left = append(left, d)
				}
			}
		}
		for n, batch := range r.batches(s, r.cfg.Databases) {
			g := &registration{server: s, databases: batch, rtt: rtt, silent: silent}
			if rtt > 0 {
				g.hurry = max(quickRetry, 2*rtt+quickMargin)
			}
			if n < len(nonces) {
				g.nonce = nonces[n] // so that a late Map-Notify is known
			}
			if r.started {
				g.renew = now
			}
			r.regs = append(r.regs, g)
		}
		if !r.started {
			continue // nothing is registered yet
		}
		for _, batch := range r.batches(s, left) {
			g := &registration{server: s, withdrawn: true, silent: silent}
			for _, d := range batch {
				g.gone = append(g.gone, left[d])
			}
			r.regs = append(r.regs, g)
			r.begin(now, g)
			g.renew, g.expires = time.Time{}, now.Add(quickPeriod)
		}
	}
}

// has reports whether e is an EID-prefix of the site.
func (r *registrar) has(e mapping.EID) bool {
	return slices.ContainsFunc(r.cfg.Databases, func(d Database) bool { return d.EID == e })
}

// over reports whether a withdrawal of what is gone is confirmed, needs no
// confirmation, or is given up: the map-server forgets by itself then.
func (g *registration) over(now time.Time) bool {
	return g.resend.IsZero() || !now.Before(g.expires)
}

// settled reports whether all registrations and withdrawals that are to be
// confirmed are, but those at map-servers that have confirmed nothing lately.
func (r *registrar) settled() bool {
	return !slices.ContainsFunc(r.regs, func(g *registration) bool { return g.server.WantNotify && !g.confirmed && !g.silent })
}
