package server

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
)

// Origin says where a mapping comes from. One EID can have several; the lowest
// that is not OriginNone counts.
type Origin uint8

const (
	// OriginNone: the EID-prefix is configured, and nobody registered it.
	OriginNone Origin = iota
	// OriginStatic: from the configuration.
	OriginStatic
	// OriginRegistered: from Map-Registers.
	OriginRegistered
	// OriginAPI: from Put.
	OriginAPI
)

var originNames = [...]string{"none", "static", "registered", "api"}

// String returns the name used in the API and output.
func (o Origin) String() string {
	if int(o) < len(originNames) {
		return originNames[o]
	}
	return fmt.Sprintf("origin-%d", uint8(o))
}

// SiteStatus is a site and what it registered.
type SiteStatus struct {
	Name     string
	Prefixes []PrefixStatus
	// Registrations counts pairs of EID-prefix and xTR.
	Registrations int
	// MaxRegistrations is their limit.
	MaxRegistrations int
	// LastRegistration is when a Map-Register was last accepted; zero: never.
	LastRegistration time.Time
	// Accepted counts Map-Registers since the start, AuthFailures those whose
	// authentication failed, and Refused all that were refused.
	Accepted, AuthFailures, Refused uint64
}

// PrefixStatus is an EID-prefix of a site.
type PrefixStatus struct {
	SitePrefix
	// Registered counts the EID-prefixes that are registered now: the prefix
	// itself, and more-specifics that no longer prefix of a site covers.
	Registered int
}

// Sites returns the sites in the order of the configuration. It counts
// registrations by walking the table.
func (s *Server) Sites() []SiteStatus {
	t := s.table.Load()
	out := make([]SiteStatus, 0, len(s.sites.all))
	for _, x := range s.sites.all {
		st := SiteStatus{
			Name:             x.name,
			Registrations:    int(x.registrations.Load()),
			MaxRegistrations: x.maxRegistrations,
			Accepted:         x.accepted.Load(),
			AuthFailures:     x.authFailures.Load(),
			Refused:          x.refused.Load(),
		}
		if last := x.lastAccepted.Load(); last != 0 {
			st.LastRegistration = s.timeOf(last)
		}
		for _, p := range x.prefixes {
			st.Prefixes = append(st.Prefixes, p.status(t))
		}
		out = append(out, st)
	}
	return out
}

func (p *sitePrefix) status(t *table) PrefixStatus {
	ps := PrefixStatus{SitePrefix: p.SitePrefix}
	for _, v := range t.Covered(p.EID) {
		if n, ok := v.(*node); ok && n.prefix == p && len(n.regs) > 0 {
			ps.Registered++
		}
	}
	return ps
}

// MappingStatus is what is known about one EID.
type MappingStatus struct {
	// Record is the mapping that counts. It must not be changed. For an
	// EID-prefix that is configured but not registered it is negative.
	Record *mapping.Record
	Origin Origin
	// Site is the site that the EID-prefix belongs to, "" for none.
	Site string
	// Requests is the policy of the site's EID-prefix: where Map-Requests are
	// not allowed, they do not get Record when it is registered.
	Requests RequestPolicy
	// Forwarded says that Map-Requests go to an ETR instead of being answered.
	Forwarded bool
	// Registrants are the xTRs that registered it, also where Origin is
	// static.
	Registrants []RegistrantStatus
}

// RegistrantStatus is the registration of one xTR.
type RegistrantStatus struct {
	By mapping.Registrant
	// From is where its last Map-Register came from; not valid after a
	// restart until the next one.
	From netip.AddrPort
	// Record is its own contribution. It must not be changed.
	Record *mapping.Record
	Flags  mapping.RegisterFlags
	// Since is when it last changed, LastRegistration when it was last
	// refreshed (zero: not since a restart), Expires when it ends without a
	// refresh.
	Since, LastRegistration, Expires time.Time
}

func (s *Server) status(v entry) MappingStatus {
	st := MappingStatus{}
	st.Record, st.Origin = v.current()
	n, ok := v.(*node)
	if !ok {
		return st
	}
	if n.origin == OriginRegistered {
		st.Record = n.registered
	}
	st.Forwarded = n.forward
	if n.prefix != nil {
		st.Site, st.Requests = n.prefix.site.name, n.policy()
	}
	for _, x := range n.regs {
		r := RegistrantStatus{By: x.by, Record: x.record, Flags: x.flags, Since: s.timeOf(x.since), Expires: s.timeOf(x.expires.Load())}
		if p := x.from.Load(); p != nil {
			r.From = *p
			r.LastRegistration = s.timeOf(x.seen.Load())
		}
		st.Registrants = append(st.Registrants, r)
	}
	return st
}

// Lookup returns the longest match for e, which may be a host or a prefix. ok
// is false when nothing that is known covers e.
func (s *Server) Lookup(e mapping.EID) (st MappingStatus, ok bool) {
	_, v, ok := lookup(s.table.Load(), e)
	if !ok {
		return MappingStatus{}, false
	}
	return s.status(v), true
}

// Database walks the mappings inside e, e itself included, or with the zero EID
// all, in the order of EID.Compare within an instance. EID-prefixes that are
// configured but not registered are left out. The walk sees one moment's table
// and holds nothing up.
func (s *Server) Database(e mapping.EID) iter.Seq[MappingStatus] {
	return func(yield func(MappingStatus) bool) {
		t := s.table.Load()
		seq := t.All()
		if e.IsValid() {
			seq = t.Covered(e)
		}
		for _, v := range seq {
			if _, origin := v.current(); origin == OriginNone {
				continue
			}
			if !yield(s.status(v)) {
				return
			}
		}
	}
}

// ErrNoMapping is wrapped by Delete's error about an EID that has no API
// mapping.
var ErrNoMapping = errors.New("no such API mapping")

// Put adds or replaces API mappings. They have no registrant and do not expire.
// When it returns nil they are durable and answered; after an error nothing
// has changed. Batches of some 10,000, sorted by EID, are the fastest. The
// records are copied, but the locators are not: they must not be changed
// afterwards.
func (s *Server) Put(ctx context.Context, recs []*mapping.Record) error {
	fresh := make([]*mapping.Record, len(recs))
	last := make(map[mapping.EID]int, len(recs)) // of several for one EID, the last counts
	for i, r := range recs {
		if r == nil {
			return fmt.Errorf("put mapping %d: it is missing", i)
		}
		if err := checkRecord(r); err != nil {
			return fmt.Errorf("put mapping %v: %w", r.EID, err)
		}
		fresh[i] = prepared(r)
		last[r.EID] = i
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.table.Load()
	changes := make([]mapping.Change, 0, len(fresh))
	for i, r := range fresh {
		r.Locators = s.sharing.share(r.Locators)
		if was := apiMapping(old, r.EID); last[r.EID] == i && (was == nil || !was.Equal(r)) {
			changes = append(changes, mapping.Change{Item: mapping.Item{Kind: mapping.ItemMapping, EID: r.EID, Record: r}})
		}
	}
	if len(changes) == 0 {
		return nil
	}
	if err := s.storeCommit(ctx, changes); err != nil {
		return fmt.Errorf("put %d mappings: %w", len(recs), err)
	}
	ed := old.Edit(len(changes))
	for _, c := range changes {
		s.touch(c.EID)
		if _, ok := ed.Get(c.EID); !ok {
			ed.Insert(c.EID, (*plain)(c.Record))
			s.mappings.Add(1)
			continue
		}
		n := s.nodeAt(ed, c.EID)
		if n.api == nil {
			s.mappings.Add(1)
		}
		n.api = c.Record
		place(ed, n)
	}
	s.replace(ed.Table())
	s.announce(s.clock())
	return nil
}

// prepared returns r as the table keeps it: a copy of its own, whose locators
// are r's where they are in order already.
func prepared(r *mapping.Record) *mapping.Record {
	c := *r
	for i, l := range r.Locators {
		if l.Flags&^mapping.Reachable != 0 || i > 0 && r.Locators[i-1].Compare(l) > 0 {
			c = *r.Clone()
			break
		}
	}
	normalise(&c)
	return &c
}

// apiMapping returns the API mapping of exactly e, or nil.
func apiMapping(t *table, e mapping.EID) *mapping.Record {
	v, _ := t.Get(e)
	switch v := v.(type) {
	case *plain:
		return (*mapping.Record)(v)
	case *node:
		return v.api
	}
	return nil
}

// Delete removes API mappings. It fails with ErrNoMapping when one of the EIDs
// has none, and then, as after any error, nothing has changed. When it returns
// nil the deletion is durable.
func (s *Server) Delete(ctx context.Context, eids []mapping.EID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.table.Load()
	changes := make([]mapping.Change, 0, len(eids))
	seen := make(map[mapping.EID]bool, len(eids))
	for _, e := range eids {
		if apiMapping(old, e) == nil {
			return fmt.Errorf("delete mapping %v: %w", e, ErrNoMapping)
		}
		if !seen[e] {
			seen[e] = true
			changes = append(changes, mapping.Change{Item: mapping.Item{Kind: mapping.ItemMapping, EID: e}, Delete: true})
		}
	}
	if len(changes) == 0 {
		return nil
	}
	if err := s.storeCommit(ctx, changes); err != nil {
		return fmt.Errorf("delete %d mappings: %w", len(eids), err)
	}
	ed := old.Edit(len(changes))
	for _, c := range changes {
		s.touch(c.EID)
		n := s.nodeAt(ed, c.EID)
		n.api = nil
		place(ed, n)
	}
	s.mappings.Add(-int64(len(changes)))
	s.replace(ed.Table())
	s.announce(s.clock())
	return nil
}
