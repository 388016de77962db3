package server

import (
	"cmp"
	"slices"
	"sync/atomic"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/auth"
)

// site is a configured site with what counts for it.
type site struct {
	// Constant.
	name             string
	keys             []auth.Key
	minimum          auth.Algorithm
	xtrIDs           []mapping.XTRID // nil: all
	prefixes         []*sitePrefix
	maxRegistrations int

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

// knows reports whether the xTR with this ID may register for x.
func (x *site) knows(id mapping.XTRID) bool {
	return x.xtrIDs == nil || slices.Contains(x.xtrIDs, id)
}

type sitePrefix struct {
	SitePrefix
	site *site
}

// sites is the configured EID-prefixes.
type sites struct {
	all    []*site
	byName map[string]*site
	table  *mapping.Table[*sitePrefix]
}

func newSites(cfg []Site) sites {
	ss := sites{byName: make(map[string]*site, len(cfg)), table: new(mapping.Table[*sitePrefix])}
	ed := ss.table.Edit(len(cfg))
	for _, c := range cfg {
		s := &site{name: c.Name, keys: c.Keys, minimum: c.MinAlgorithm, xtrIDs: c.XTRIDs, maxRegistrations: c.MaxRegistrations}
		if s.maxRegistrations == 0 {
			s.maxRegistrations = DefaultMaxRegistrations
		}
		for _, p := range c.Prefixes {
			sp := &sitePrefix{p, s}
			s.prefixes = append(s.prefixes, sp)
			ed.Insert(p.EID, sp)
		}
		ss.all = append(ss.all, s)
		ss.byName[s.name] = s
	}
	ss.table = ed.Table()
	return ss
}

// longest returns the longest configured EID-prefix that covers e, or nil.
func (ss sites) longest(e mapping.EID) *sitePrefix {
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
func (ss sites) admit(e mapping.EID) (*sitePrefix, counter) {
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
