package server

import (
	"container/heap"
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
)

// apply processes one Map-Register, whole or not at all, and reports whether a
// Map-Notify is due.
func (s *Server) apply(now time.Time, ed *mapping.Editor[entry], reg *register) bool {
	if why := s.revised(reg); why != 0 {
		s.refuse(now, reg.site, why, reg.src)
		return false
	}
	nonce, digest := reg.msg.Nonce, reg.msg.Auth.Data
	key := reg.nonceKey()
	if st := s.nonces[key]; st != nil {
		if st.size == 0 && st.nonce == nonce && s.standing(ed, reg) {
			// The first retransmission after a restart: what it asks
			// for is in the database.
			st.remember(nonce, digest, s.age(now))
		}
		if st.repeats(nonce, digest) && held(ed, reg) {
			s.counters.inc(repeatedMapRegisters)
			return true
		}
	}
	if s.stale(key, nonce, s.age(now)) || s.superseded(reg.site, key, nonce) {
		s.refuse(now, reg.site, refusedReplay, reg.src)
		return false
	}
	if outdated(ed, reg) {
		s.refuse(now, reg.site, refusedMapVersion, reg.src)
		return false
	}
	if !s.fits(ed, reg) {
		s.refuse(now, reg.site, refusedTooMany, reg.src)
		return false
	}
	changed := false
	for _, rec := range reg.records {
		c := s.applyRecord(now, ed, reg, rec)
		changed = changed || c
		if s.log.Enabled(context.Background(), slog.LevelDebug) {
			s.log.Debug("registration accepted", "eid", rec.EID, "site", reg.site.name, "xtr", reg.by.String(), "ttl", rec.TTL, "locators", len(rec.Locators), "changed", c)
		}
	}
	s.accept(reg.site, key, nonce, digest, s.age(now), changed)
	s.accepted(reg.site, s.age(now))
	return true
}

// own returns the place of the xTR's registration among those of n, or -1.
func own(n *node, by mapping.Registrant) int {
	return slices.IndexFunc(n.regs, func(x *registration) bool { return x.by == by })
}

// same reports whether x says what reg and rec say.
func (x *registration) same(reg *register, rec *mapping.Record) bool {
	return x.site == reg.site && x.flags == reg.flags && x.record.Equal(rec)
}

// outdated reports whether one of reg's records has an older map-version than
// what the xTR has registered: such a Map-Register is dropped (RFC 9302 section
// 5). A record without a version is as good as any, as is the first of an xTR
// whose former registration has expired.
func outdated(ed *mapping.Editor[entry], reg *register) bool {
	return slices.ContainsFunc(reg.records, func(rec *mapping.Record) bool {
		v, _ := ed.Get(rec.EID)
		n, ok := v.(*node)
		if !ok {
			return false
		}
		i := own(n, reg.by)
		return i >= 0 && mapping.Version(n.regs[i].record.Version).Newer(mapping.Version(rec.Version))
	})
}

// held reports whether everything that reg registers is registered, by
// whomever: a Map-Notify must not acknowledge what has expired meanwhile.
func held(ed *mapping.Editor[entry], reg *register) bool {
	return !slices.ContainsFunc(reg.records, func(rec *mapping.Record) bool {
		v, _ := ed.Get(rec.EID)
		n, ok := v.(*node)
		return rec.TTL != 0 && (!ok || len(n.regs) == 0)
	})
}

// standing reports whether all that reg asks for is registered already.
func (s *Server) standing(ed *mapping.Editor[entry], reg *register) bool {
	for _, rec := range reg.records {
		v, _ := ed.Get(rec.EID)
		n, ok := v.(*node)
		i := -1
		if ok {
			i = own(n, reg.by)
		}
		if rec.TTL == 0 && i >= 0 || rec.TTL != 0 && (i < 0 || !n.regs[i].same(reg, rec)) {
			return false
		}
	}
	return true
}

// fits checks the limits: the registrations of a site, and the locators that a
// merged record can hold.
func (s *Server) fits(ed *mapping.Editor[entry], reg *register) bool {
	added := int64(0)
	for _, rec := range reg.records {
		v, _ := ed.Get(rec.EID)
		n, ok := v.(*node)
		if rec.TTL == 0 {
			continue
		}
		if !ok {
			added++
			continue
		}
		if own(n, reg.by) < 0 && !slices.ContainsFunc(n.regs, func(x *registration) bool { return replaces(reg, x) }) {
			added++
		}
		if reg.flags&mapping.MergeSet == 0 {
			continue
		}
		union := slices.Clone(rec.Locators)
		for _, x := range n.regs {
			if x.by != reg.by && x.flags&mapping.MergeSet != 0 {
				union = append(union, x.record.Locators...)
			}
		}
		if len(union) > maxLocators {
			slices.SortFunc(union, mapping.Locator.Compare)
			union = slices.CompactFunc(union, func(a, b mapping.Locator) bool { return a.Compare(b) == 0 })
			if len(union) > maxLocators {
				return false
			}
		}
	}
	return reg.site.registrations.Load()+added <= int64(reg.site.rules.Load().maxRegistrations)
}

// applyRecord registers, refreshes or withdraws one record of a Map-Register.
// It reports whether the store must know.
func (s *Server) applyRecord(now time.Time, ed *mapping.Editor[entry], reg *register, rec *mapping.Record) (changed bool) {
	v, _ := ed.Get(rec.EID)
	old, _ := v.(*node)
	i := -1
	if old != nil {
		i = own(old, reg.by)
	}
	if rec.TTL == 0 { // a withdrawal
		if i < 0 {
			return false
		}
		s.delist(old.regs[i])
		s.drop(ed, old.regs[i])
		return true
	}
	if i >= 0 && old.regs[i].same(reg, rec) && !slices.ContainsFunc(old.regs, func(x *registration) bool { return replaces(reg, x) }) {
		s.refresh(old.regs[i], reg.key.ID, reg.src, now)
		old.regs[i].hears(reg)
		return false
	}
	n := s.nodeAt(ed, rec.EID)
	x := &registration{eid: rec.EID, by: reg.by, stored: reg.by, site: reg.site, record: rec, flags: reg.flags, since: s.age(now)}
	x.record.Locators = s.sharing.share(x.record.Locators)
	// What x replaces: its own former self, and what merging excludes. The
	// store is left alone where it has the same already, under whatever
	// xTR: the xTRs of a site register the same in turns.
	var keep, gone []*registration
	for _, y := range n.regs {
		if y.by == x.by || replaces(reg, y) {
			gone = append(gone, y)
		} else {
			keep = append(keep, y)
		}
	}
	heir := slices.IndexFunc(gone, func(y *registration) bool { return y.by == x.by && y.same(reg, rec) })
	if heir < 0 && i < 0 {
		heir = slices.IndexFunc(gone, func(y *registration) bool { return y.same(reg, rec) })
	}
	for j, y := range gone {
		s.delist(y)
		if j == heir {
			x.stored, x.since = y.stored, y.since
		} else {
			s.remove(y.item())
			changed = true
		}
	}
	if heir < 0 {
		s.put(x.storeItem(s))
		changed = true
	}
	n.regs = append(keep, x)
	s.enlist(x, s.age(now))
	s.refresh(x, reg.key.ID, reg.src, now)
	x.hears(reg)
	s.touch(n.key)
	place(ed, n)
	return changed
}

// replaces reports whether a registration by reg ends that of another xTR.
func replaces(reg *register, x *registration) bool {
	return x.by != reg.by && (reg.flags&mapping.MergeSet == 0 || x.flags&mapping.MergeSet == 0)
}

// item is the key of x in the store.
func (x *registration) item() mapping.Item {
	return mapping.Item{Kind: mapping.ItemRegistration, EID: x.eid, By: x.stored}
}

func (x *registration) storeItem(s *Server) mapping.Item {
	it := x.item()
	it.Site, it.Record, it.Flags, it.At = x.site.name, x.record, x.flags, s.timeOf(x.since)
	return it
}

// lifetime is how long x lives without a refresh (RFC 9301 sections 5.6, 8.2).
func (x *registration) lifetime() time.Duration {
	if x.flags&mapping.TTLFromReg != 0 {
		return x.record.Lifetime()
	}
	return registrationTimeout
}

func (s *Server) refresh(x *registration, key uint8, src netip.AddrPort, now time.Time) {
	x.seen.Store(s.age(now))
	x.expires.Store(s.age(now) + age(x.lifetime()))
	x.keyID.Store(uint32(key) + 1)
	if p := x.from.Load(); p == nil || *p != src {
		from := src
		x.from.Store(&from)
	}
}

// enlist counts x in and lets it expire.
func (s *Server) enlist(x *registration, now age) {
	x.expires.Store(now + age(x.lifetime()))
	x.due = x.expires.Load()
	heap.Push(&s.expiry, x)
	x.site.registrations.Add(1)
}

func (s *Server) delist(x *registration) {
	heap.Remove(&s.expiry, x.queue)
	x.site.registrations.Add(-1)
}

// drop ends x, which is in the expiry queue no more.
func (s *Server) drop(ed *mapping.Editor[entry], x *registration) {
	s.remove(x.item())
	n := s.nodeAt(ed, x.eid)
	n.regs = slices.DeleteFunc(slices.Clone(n.regs), func(y *registration) bool { return y == x })
	s.touch(n.key)
	place(ed, n)
}

// expire drops the registrations whose time is over at now. The caller commits.
func (s *Server) expire(now time.Time) {
	due := s.age(now)
	var over []*registration
	for len(s.expiry) > 0 && s.expiry[0].due <= due {
		x := s.expiry[0]
		if at := x.expires.Load(); at > due {
			x.due = at // it was refreshed meanwhile
			heap.Fix(&s.expiry, 0)
			continue
		}
		s.delist(x)
		over = append(over, x)
	}
	if len(over) == 0 {
		return
	}
	ed := s.table.Load().Edit(len(over))
	for _, x := range over {
		s.drop(ed, x)
		s.counters.inc(expiredRegistrations)
		s.log.Info("registration expired", "eid", x.eid, "site", x.site.name, "xtr", x.by.String())
	}
	s.replace(ed.Table())
}

// expiryQueue is a heap of registrations by due. A refresh only moves expires;
// a registration is put back when it comes up too early.
type expiryQueue []*registration

func (q expiryQueue) Len() int           { return len(q) }
func (q expiryQueue) Less(i, j int) bool { return q[i].due < q[j].due }
func (q expiryQueue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].queue, q[j].queue = i, j
}

// Push implements heap.Interface.
func (q *expiryQueue) Push(v any) {
	x := v.(*registration)
	x.queue = len(*q)
	*q = append(*q, x)
}

// Pop implements heap.Interface.
func (q *expiryQueue) Pop() any {
	last := len(*q) - 1
	x := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	return x
}
