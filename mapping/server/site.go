package server

import (
	"bytes"
	"cmp"
	"slices"
	"sync/atomic"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/auth"
)

// site is a site with what counts for it. It stays the same when its rules
// change.
type site struct {
	// Constant.
	name string

	// rules are replaced under Server.mu, read by anybody.
	rules atomic.Pointer[rules]

	// Written under Server.mu, read by anybody.
	registrations atomic.Int64
	lastAccepted  atomic.Int64 // age of the server, 0: never

	// Under Server.mu: the xTRs whose nonces are remembered, and where
	// forgetOldest looks next.
	xtrs []nonceKey
	hand int

	// Atomic.
	queued       atomic.Int64 // Map-Registers that wait for the writer
	accepted     atomic.Uint64
	authFailures atomic.Uint64
	refused      atomic.Uint64
}

// rules say who may register what for a site. They are not changed any more.
type rules struct {
	keys             []auth.Key // none: the site is gone
	minimum          auth.Algorithm
	xtrIDs           []mapping.XTRID // nil: all
	prefixes         []*sitePrefix
	maxRegistrations int
}

// knows reports whether the xTR with this ID may register.
func (r *rules) knows(id mapping.XTRID) bool {
	return r.xtrIDs == nil || slices.Contains(r.xtrIDs, id)
}

// has reports whether k is one of the keys.
func (r *rules) has(k auth.Key) bool {
	return slices.ContainsFunc(r.keys, func(x auth.Key) bool { return sameKey(x, k) })
}

func sameKey(a, b auth.Key) bool {
	return a.ID == b.ID && a.Algorithm == b.Algorithm && bytes.Equal(a.Secret, b.Secret)
}

type sitePrefix struct {
	SitePrefix
	site *site
}

// sites is the EID-prefixes of all sites that may register. It is not changed
// any more.
type sites struct {
	all    []*site
	byName map[string]*site
	table  *mapping.Table[*sitePrefix]

	// configured are the sites of the configuration, put those of the API, of
	// which shadowed ones have no effect, for a reason.
	configured []Site
	put        map[string]*putSite
	shadowed   map[string]string
}

// newSites makes what serves cfg, and the rules that its sites get. What is as it
// was in old, sites of the same name and their EID-prefixes, is the same there.
func newSites(old *sites, cfg []Site) (*sites, map[*site]*rules) {
	ss := &sites{byName: make(map[string]*site, len(cfg))}
	ed, all := new(mapping.Table[*sitePrefix]).Edit(len(cfg)), make(map[*site]*rules, len(cfg))
	for _, c := range cfg {
		s := old.byName[c.Name]
		if s == nil {
			s = &site{name: c.Name}
		}
		r := &rules{keys: c.Keys, minimum: c.MinAlgorithm, xtrIDs: c.XTRIDs, maxRegistrations: c.MaxRegistrations}
		if r.maxRegistrations == 0 {
			r.maxRegistrations = DefaultMaxRegistrations
		}
		for _, p := range c.Prefixes {
			sp, ok := old.table.Get(p.EID)
			if !ok || sp.site != s || sp.SitePrefix != p {
				sp = &sitePrefix{p, s}
			}
			r.prefixes = append(r.prefixes, sp)
			ed.Insert(p.EID, sp)
		}
		if was := s.rules.Load(); was != nil && was.same(r) {
			r = was
		}
		all[s] = r
		ss.all = append(ss.all, s)
		ss.byName[s.name] = s
	}
	ss.table = ed.Table()
	return ss, all
}

func (r *rules) same(o *rules) bool {
	return slices.EqualFunc(r.keys, o.keys, sameKey) && r.minimum == o.minimum && r.maxRegistrations == o.maxRegistrations &&
		slices.Equal(r.prefixes, o.prefixes) && r.sameXTRs(o)
}

func (r *rules) sameXTRs(o *rules) bool {
	return slices.Equal(r.xtrIDs, o.xtrIDs) && (r.xtrIDs == nil) == (o.xtrIDs == nil)
}

// longest returns the longest configured EID-prefix that covers e, or nil.
func (ss *sites) longest(e mapping.EID) *sitePrefix {
	var best *sitePrefix
	for _, p := range ss.table.Covering(e) {
		if best == nil || cmp.Or(
			cmp.Compare(p.EID.Prefix.Bits(), best.EID.Prefix.Bits()),
			cmp.Compare(p.EID.Source.Bits(), best.EID.Source.Bits())) > 0 {
			best = p
		}
	}
	return best
}

// admit returns the configured EID-prefix under which e may be registered, or
// why it may not (RFC 9301 section 8.2).
func (ss *sites) admit(e mapping.EID) (*sitePrefix, counter) {
	p := ss.longest(e)
	switch {
	case p == nil:
		return nil, refusedNoSite
	case p.EID != e && !p.AcceptMoreSpecifics:
		return nil, refusedMoreSpecific
	}
	return p, 0
}

// age is a time on the server's clock: nanoseconds since it was made. Unlike
// the time of day it never jumps.
type age = int64

func (s *Server) age(now time.Time) age { return int64(now.Sub(s.epoch)) }

func (s *Server) timeOf(a age) time.Time { return s.epoch.Add(time.Duration(a)) }
