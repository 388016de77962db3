package dataplane

import (
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/eidolon-lisp/eidolon/encap"
)

// Limits of the miss queue that are ours.
const (
	missQueue  = 1024                   // misses that wait for the resolver
	missRecent = 1024                   // destinations that are remembered as just asked for
	missRepeat = 250 * time.Millisecond // after which the same destination is handed over again
)

// Miss is a destination for which packets came and no mapping was there.
type Miss struct {
	IID uint32
	// Dst is the inner destination that a mapping is wanted for.
	Dst netip.Addr
	// Src is the inner source of the packet that missed; not valid when it was
	// a received one, whose source has no mapping.
	Src netip.Addr
}

// misses is a bounded, lossy queue toward the resolver. A destination that was
// queued a moment ago is not queued again, so that a flood toward one does not
// keep others out. Two destinations may share a place in the memory of what is
// recent; the worst that follows is a repetition.
type misses struct {
	queue  chan Miss
	recent [missRecent]atomic.Uint64 // tag << 32 | milliseconds
}

func newMisses() *misses { return &misses{queue: make(chan Miss, missQueue)} }

// offer queues m unless that was done just before, and says how it went. A limit
// is asked only for what would be queued; nil is none.
func (q *misses) offer(m Miss, now time.Time, limit *bucket) Counter {
	k := encap.Key{Src: m.Dst, Dst: m.Dst, Ports: m.IID, HasPorts: true}
	tag, ms := k.Hash(), uint32(now.UnixMilli())
	place := &q.recent[tag%missRecent]
	if was := place.Load(); uint32(was>>32) == tag && ms-uint32(was) < uint32(missRepeat.Milliseconds()) {
		return MissRepeated
	}
	if limit != nil && !limit.allow(now) {
		return MissLimited
	}
	select {
	case q.queue <- m:
		place.Store(uint64(tag)<<32 | uint64(ms))
		return MissQueued
	default:
		return MissLost
	}
}
