package xtr

import (
	"net/netip"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
)

// solicitor tells other sites that a mapping of this one changed: it sends
// SMRs (RFC 9301 section 6.1).
type solicitor struct {
	*core
	heard   map[netip.Addr]time.Time // when packets were decapsulated last
	cleaned time.Time                // when heard was last full
}

func newSolicitor(c *core) *solicitor {
	return &solicitor{core: c, heard: make(map[netip.Addr]time.Time)}
}

// note keeps that packets from rlocs were decapsulated.
func (s *solicitor) note(now time.Time, rlocs []netip.Addr) {
	for _, a := range rlocs {
		a = a.Unmap()
		if mapping.ValidRLOC(a) != nil || s.isLocal(a) {
			continue
		}
		if _, ok := s.heard[a]; !ok && len(s.heard) >= maxHeard && !s.forget(now) {
			s.stats.inc(heardTableFull)
			continue
		}
		s.heard[a] = now
	}
}

// forget removes the RLOCs that were not heard of for too long, not more than
// once a second, and reports whether there is room again.
func (s *solicitor) forget(now time.Time) bool {
	if now.Sub(s.cleaned) < time.Second {
		return false
	}
	s.cleaned = now
	for a, at := range s.heard {
		if now.Sub(at) > smrWindow {
			delete(s.heard, a)
		}
	}
	return len(s.heard) < maxHeard
}
