package xtr

import (
	"net/netip"
	"slices"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
)

// VersionEvent is what a data plane found in the versions of a received packet
// (RFC 9302 section 7), or in where it came from. It comes from a packet, so it
// proves nothing: it can cause an SMR or a Map-Request, within their limits.
type VersionEvent struct {
	// Outdated says that the ITR at RLOC uses an old mapping of EID, which is
	// one of this site. Otherwise EID is in the map-cache, and the site at
	// RLOC has a newer mapping.
	Outdated bool
	// Unlisted says that no version tells so: RLOC is not in the mapping of EID
	// in the map-cache, which may so have changed.
	Unlisted bool
	EID      mapping.EID
	// RLOC is the outer source of the packet, Host the inner one.
	RLOC, Host netip.Addr
}

// VersionFound handles a finding about map-versions. The data plane should not
// repeat one within 3 s, for which SMRs and Map-Requests are limited anyway.
func (x *XTR) VersionFound(ev VersionEvent) {
	x.do(func(now time.Time) { x.m.versionFound(now, ev) })
	x.poke()
}

func (m *machine) versionFound(now time.Time, ev VersionEvent) {
	m.advance(now)
	switch {
	case m.stopping:
	case ev.Outdated:
		m.stats.inc(mapVersionsOutdated)
		theirs := mapping.HostEID(ev.EID.IID, ev.Host)
		if rec, ok := m.itr.cache.Lookup(ev.EID.IID, ev.Host); ok {
			theirs = rec.EID
		}
		m.smrs.remind(now, ev.RLOC, ev.EID, theirs)
	case ev.Unlisted:
		m.stats.inc(sourcesUnlisted)
		m.itr.renew(now, ev.EID)
	default:
		m.stats.inc(mapVersionsNewer)
		m.itr.renew(now, ev.EID)
	}
}

// remind sends one SMR for a mapping of the site to who uses an old one, unless
// that was done less than 3 s ago (RFC 9302 section 7.1).
func (s *solicitor) remind(now time.Time, rloc netip.Addr, e, theirs mapping.EID) {
	_, known, own := s.own.LookupPrefix(e)
	_, sendable := s.source(rloc)
	if !own || s.cfg.Databases[known].EID != e || !sendable || mapping.ValidRLOC(rloc) != nil || s.isLocal(rloc) {
		return // the mapping has changed since, or nobody can be told
	}
	key := replyKey{rloc, e}
	if !s.sent.ready(now, key) || !s.all.ready(now, struct{}{}) {
		s.stats.inc(mapVersionsRateLimited)
		return
	}
	s.sent.take(now, key)
	s.all.take(now, struct{}{})
	s.solicit(now, &solicit{rloc: rloc, eid: e, peer: theirs})
}

// renew asks for a cached mapping anew, of which there is a newer version
// (RFC 9302 section 7.2).
func (i *itr) renew(now time.Time, e mapping.EID) {
	if _, ok := i.cache.Get(e); !ok {
		return
	}
	if i.queries[e] != nil || !i.spacing.ready(now, e) || !i.mayRefresh() {
		i.stats.inc(mapVersionsRateLimited)
		return
	}
	i.stats.inc(mapRequestsRefresh)
	i.ask(now, &query{eid: e, why: forRefresh})
}

// succeed gives each database whose locators are not those that it had before
// the next version (RFC 9302 section 6), unless the caller gave one that is
// newer. A version does not go back, except to none.
func succeed(before, after []Database) {
	old := make(map[mapping.EID]*Database, len(before))
	for i := range before {
		old[before[i].EID] = &before[i]
	}
	for i := range after {
		d := &after[i]
		o := old[d.EID]
		if o == nil || d.Version == mapping.NullVersion || o.Version == mapping.NullVersion || d.Version.Newer(o.Version) {
			continue
		}
		d.Version = o.Version
		if !slices.Equal(o.Locators, d.Locators) {
			d.Version = o.Version.Next()
		}
	}
}
