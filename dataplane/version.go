package dataplane

import (
	"math/rand/v2"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
)

// Limits of map-versioning that are ours, but for what RFC 9302 section 7.1
// takes from the retransmission of Map-Requests: ten retries, then one every 30 s.
const (
	versionQueue  = 256 // events that wait for the control plane
	versionRecent = 1024
	versionRepeat = 4 * time.Second // between two events about the same: SMRs are 3 s apart at least
	versionTries  = 11              // the first and ten retries; then packets with an old version are dropped
	versionPause  = 30 * time.Second
)

// VersionEvent is what a received packet says about a mapping that is not the
// same on both sides, by its map-versions (RFC 9302 section 7) or by where it
// came from.
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

// versions is a bounded, lossy queue of events toward the control plane, and
// the memory of what was told a moment ago and how often. Two events may share
// a place in the memory; the worst that follows is that counting begins anew.
type versions struct {
	seed   uint64
	queue  chan VersionEvent
	recent [versionRecent]atomic.Uint64 // tag << 36 | tries << 32 | milliseconds
}

func newVersions() *versions {
	return &versions{seed: rand.Uint64(), queue: make(chan VersionEvent, versionQueue)}
}

// tell queues ev unless the same was queued less than a second ago, and reports
// whether it was queued so often without effect that the packets should be
// dropped. pair is the two versions that differ: another pair is another event.
func (v *versions) tell(ev VersionEvent, pair uint32, now time.Time) (what Counter, tired bool) {
	x := finish(pairHash(v.seed, ev.EID, ev.RLOC) ^ uint64(pair))
	place, tag, ms := &v.recent[x%versionRecent], x>>36, uint32(now.UnixMilli())
	was, tries := place.Load(), uint64(0)
	if was>>36 == tag {
		tries = was >> 32 & 0xf
		age, wait := time.Duration(ms-uint32(was))*time.Millisecond, versionRepeat
		if tries >= versionTries {
			wait = versionPause
			tired = tries > versionTries || age >= versionRepeat
		}
		if age < wait {
			return VersionRepeated, tired
		}
	}
	if !place.CompareAndSwap(was, tag<<36|min(tries+1, versionTries+1)<<32|uint64(ms)) {
		return VersionRepeated, tired // another worker was here just now
	}
	select {
	case v.queue <- ev:
		return VersionQueued, tired
	default:
		return VersionLost, tired
	}
}

// versionPair packs a source and a destination version, as the LISP header has
// them.
func versionPair(src, dst mapping.Version) uint32 { return uint32(src)<<12 | uint32(dst) }

// outgoing returns the versions for packets from a source of the site by an
// entry: those of both mappings, or 0 when one has the null version, and the
// packet then goes without (RFC 9302 sections 6.1 and 7).
func (s *Snapshot) outgoing(iid uint32, src netip.Addr, e *Entry) uint32 {
	local, remote := s.LocalVersion(iid, src), mapping.Version(e.record.Version)
	if local == mapping.NullVersion || remote == mapping.NullVersion {
		return 0
	}
	return versionPair(local, remote)
}

// checkVersions judges the map-versions of a packet from rloc (RFC 9302
// sections 7.1 and 7.2). d.flow and d.header are those of the packet, whose
// inner destination is local and whose inner source has the entry e.
func (d *Decap) checkVersions(s *Snapshot, e *Entry, rloc netip.Addr, now time.Time) DropReason {
	h, f := &d.header, &d.flow
	local, mine, _ := s.local.LookupPrefix(mapping.HostEID(h.IID, f.Dst))
	dst, src := mapping.Version(h.DstVersion), mapping.Version(h.SrcVersion)
	switch {
	case mine == mapping.NullVersion, dst == mapping.NullVersion: // section 6.1
		return DropMapVersion
	case dst.Newer(mine):
		return DropVersionNewer
	case dst != mine:
		what, tired := d.f.versions.tell(VersionEvent{Outdated: true, EID: local, RLOC: rloc, Host: f.Src}, versionPair(dst, mine), now)
		d.c.Add(what, 1)
		if tired {
			return DropVersionOld
		}
	}
	if e == nil || src == mapping.NullVersion {
		return NotDropped
	}
	cached := mapping.Version(e.record.Version)
	switch {
	case cached == mapping.NullVersion || src == cached:
	case src.Newer(cached):
		what, _ := d.f.versions.tell(VersionEvent{EID: e.eid, RLOC: rloc, Host: f.Src}, versionPair(src, cached), now)
		d.c.Add(what, 1)
	default:
		return DropVersionOld
	}
	return NotDropped
}
