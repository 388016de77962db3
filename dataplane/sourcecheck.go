package dataplane

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
)

// SourceCheck says how the inner source of a received packet is compared with
// the mapping that it has: whether the outer source is one of its locators (RFC
// 9300 section 16).
type SourceCheck uint8

const (
	// SourcesUnchecked compares nothing.
	SourcesUnchecked SourceCheck = iota
	// SourcesLoose takes packets from sources without a mapping in the
	// map-cache, or with a negative one. Where the mapping has other locators
	// it may have changed just now, so it is asked for; packets are taken until
	// one that was learned 3 s after the first such packet, or later, still
	// does not have the outer source.
	SourcesLoose
	// SourcesStrict drops what is not proved by the map-cache. What is missing
	// there is asked for.
	SourcesStrict
)

// Limits of the check of sources that are ours.
const (
	// mismatchGrace is how long after an unlisted source was seen first a
	// mapping may still be the old one: the site may send from a new locator
	// before the mapping system knows of it.
	mismatchGrace = 3 * time.Second
	// mismatchQuiet ends the memory of an unlisted source.
	mismatchQuiet = time.Minute
	mismatchSlots = 1024
	// Mappings that a worker asks for because of received packets, a second and
	// at once. Anybody can send packets, so this is little: what hosts of the
	// site ask for goes the same way.
	sourceAsks      = 20
	sourceAsksBurst = 20
)

// mismatches remembers for pairs of EID-prefix and outer source when they were
// seen first. Two pairs may share a place; the worst that follows is that the
// time begins anew.
type mismatches struct {
	seed  uint64
	slots [mismatchSlots]struct {
		first atomic.Uint64 // tag << 36 | milliseconds
		last  atomic.Uint64 // milliseconds
	}
}

func newMismatches() *mismatches { return &mismatches{seed: rand.Uint64()} }

// since notes the pair and returns when it was seen first.
func (m *mismatches) since(e mapping.EID, rloc netip.Addr, now time.Time) time.Time {
	const msBits = 36
	x := pairHash(m.seed, e, rloc)
	s, ms := &m.slots[x%mismatchSlots], uint64(now.UnixMilli())
	first, quiet := s.first.Load(), ms-s.last.Load() > uint64(mismatchQuiet.Milliseconds())
	s.last.Store(ms)
	if first>>msBits != x>>msBits || quiet {
		s.first.Store(x>>msBits<<msBits | ms&(1<<msBits-1))
		return now
	}
	age := (ms - first) & (1<<msBits - 1)
	return now.Add(-time.Duration(age) * time.Millisecond)
}

// pairHash mixes an EID-prefix and an address.
func pairHash(seed uint64, e mapping.EID, rloc netip.Addr) uint64 {
	r, p := rloc.As16(), e.Prefix.Addr().As16()
	x := seed
	for _, w := range [...]uint64{
		binary.BigEndian.Uint64(r[:8]), binary.BigEndian.Uint64(r[8:]),
		binary.BigEndian.Uint64(p[:8]), binary.BigEndian.Uint64(p[8:]),
		uint64(e.IID)<<32 | uint64(e.Prefix.Bits()),
	} {
		x = finish(x ^ w)
	}
	return x
}

// checkSource judges the outer source of a packet whose inner source has the
// entry e; d.flow and d.header are those of the packet.
func (d *Decap) checkSource(e *Entry, rloc netip.Addr, now time.Time) DropReason {
	if d.f.check == SourcesUnchecked {
		return NotDropped
	}
	if e == nil || e.record.Negative() {
		if d.f.check == SourcesLoose {
			return NotDropped
		}
		if e == nil || e.miss {
			// Nobody of this site asks, so the miss has no source.
			m := Miss{IID: d.header.IID, Dst: d.flow.Src}
			d.c.Add(d.f.misses.offer(m, now, &d.asks), 1)
		}
		return DropSourceNoMapping
	}
	for i := range e.record.Locators {
		if e.record.Locators[i].Addr == rloc {
			return NotDropped
		}
	}
	what, _ := d.f.versions.tell(VersionEvent{Unlisted: true, EID: e.eid, RLOC: rloc, Host: d.flow.Src}, 0, now)
	d.c.Add(what, 1)
	// A record whose R bits were changed here is as old as it was.
	learned := e.expires.Add(-e.record.Lifetime())
	if d.f.check == SourcesLoose && learned.Before(d.f.mismatches.since(e.eid, rloc, now).Add(mismatchGrace)) {
		d.c.Add(SourceUnlisted, 1)
		return NotDropped
	}
	return DropSourceUnlisted
}
