package server

import (
	"cmp"
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/auth"
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
	// Keys have no secrets.
	Keys         []auth.Key
	MinAlgorithm auth.Algorithm
	// XTRIDs are those that may register; nil stands for all.
	XTRIDs []mapping.XTRID
	// Put is the revision of the database at which the API put it; 0: it is of the
	// configuration. Shadowed is why a site of the API has no effect.
	Put      uint64
	Shadowed string
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

// Sites returns the sites in the order of the configuration, then those of the
// API by their names. It counts registrations by walking the table.
func (s *Server) Sites() []SiteStatus {
	t, ss := s.table.Load(), s.sites.Load()
	out := make([]SiteStatus, 0, len(ss.all)+len(ss.shadowed))
	for _, x := range ss.all {
		r := x.rules.Load()
		st := SiteStatus{
			Name:             x.name,
			Keys:             withoutSecrets(r.keys),
			MinAlgorithm:     atLeast(r.minimum),
			XTRIDs:           r.xtrIDs,
			Registrations:    int(x.registrations.Load()),
			MaxRegistrations: r.maxRegistrations,
			Accepted:         x.accepted.Load(),
			AuthFailures:     x.authFailures.Load(),
			Refused:          x.refused.Load(),
		}
		if last := x.lastAccepted.Load(); last != 0 {
			st.LastRegistration = s.timeOf(last)
		}
		if p := ss.put[x.name]; p != nil && ss.shadowed[x.name] == "" {
			st.Put = p.revision
		}
		for _, p := range r.prefixes {
			st.Prefixes = append(st.Prefixes, p.status(t))
		}
		out = append(out, st)
	}
	for _, name := range slices.Sorted(maps.Keys(ss.shadowed)) {
		p := ss.put[name]
		st := SiteStatus{Name: name, Keys: withoutSecrets(p.Keys), MinAlgorithm: atLeast(p.MinAlgorithm), XTRIDs: p.XTRIDs,
			MaxRegistrations: cmp.Or(p.MaxRegistrations, DefaultMaxRegistrations), Put: p.revision, Shadowed: ss.shadowed[name]}
		for _, sp := range p.Prefixes {
			st.Prefixes = append(st.Prefixes, PrefixStatus{SitePrefix: sp})
		}
		out = append(out, st)
	}
	return out
}

func withoutSecrets(keys []auth.Key) []auth.Key {
	out := slices.Clone(keys)
	for i := range out {
		out[i].Secret = nil
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
	// PutRevision is the revision of the database at which the mapping that was
	// put here was put, also where another origin goes before it; 0: none was.
	PutRevision uint64
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
	if p, ok := v.(*plain); ok {
		st.PutRevision = p.revision
	}
	n, ok := v.(*node)
	if !ok {
		return st
	}
	if n.api != nil {
		st.PutRevision = n.api.revision
	}
	st.Record, st.Forwarded = n.shown(), n.forward
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
