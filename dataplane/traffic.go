package dataplane

import (
	"maps"
	"net/netip"
	"sync/atomic"

	"github.com/eidolon-lisp/eidolon/mapping"
)

// Traffic is what was forwarded, out of the site and into it: packets, and the
// octets of inner packets, IP header included. What the underlay then refused to
// send, or the host side to take, is in it, and in the counter of its drop
// reason.
type Traffic struct {
	PacketsOut, BytesOut uint64
	PacketsIn, BytesIn   uint64
}

// tally counts Traffic. The workers of the two ways do not share its cache
// lines.
type tally struct {
	packetsOut, bytesOut atomic.Uint64
	_                    [64]byte
	packetsIn, bytesIn   atomic.Uint64
	_                    [64]byte
}

func (t *tally) traffic() Traffic {
	return Traffic{t.packetsOut.Load(), t.bytesOut.Load(), t.packetsIn.Load(), t.bytesIn.Load()}
}

// batchTally is what a worker has for a tally, or for nobody, until it adds it.
type batchTally struct {
	tally          *tally
	packets, bytes uint64
}

func (b *batchTally) sent() {
	if b.tally != nil && b.packets > 0 {
		b.tally.packetsOut.Add(b.packets)
		b.tally.bytesOut.Add(b.bytes)
	}
	*b = batchTally{}
}

func (b *batchTally) received() {
	if b.tally != nil && b.packets > 0 {
		b.tally.packetsIn.Add(b.packets)
		b.tally.bytesIn.Add(b.bytes)
	}
	*b = batchTally{}
}

// maxTallies is how many addresses that this router had keep their counters, so
// that one that comes back goes on counting.
const maxTallies = 256

// localRLOC is an address of this router, with what was sent from it and
// received on it.
type localRLOC struct {
	addr  netip.Addr
	tally *tally
}

// setOwn takes the addresses of this router into s: those that packets are
// received on, and those that they are sent from. Called under mu.
func (f *FIB) setOwn(s *Snapshot) {
	s.own = nil
	add := func(a netip.Addr) {
		if s.isOwn(a) {
			return
		}
		if f.tallies[a] == nil {
			f.tallies[a] = new(tally)
		}
		s.own = append(s.own, localRLOC{a, f.tallies[a]})
	}
	for _, a := range f.local {
		add(a)
	}
	for _, src := range f.sources {
		add(src.Addr)
	}
	if len(f.tallies) > maxTallies {
		maps.DeleteFunc(f.tallies, func(a netip.Addr, _ *tally) bool { return !s.isOwn(a) })
	}
}

// isOwn reports whether a is an address of this router.
func (s *Snapshot) isOwn(a netip.Addr) bool { return s.tallyOf(a) != nil }

// tallyOf returns the counters of an address of this router; nil if it is none.
// They are few: a search is fast.
func (s *Snapshot) tallyOf(a netip.Addr) *tally {
	for i := range s.own {
		if s.own[i].addr == a {
			return s.own[i].tally
		}
	}
	return nil
}

// LocalTraffic returns what was sent from an address of this router and
// received on it, since it came first.
func (s *Snapshot) LocalTraffic(a netip.Addr) Traffic {
	if t := s.tallyOf(a); t != nil {
		return t.traffic()
	}
	return Traffic{}
}

// Entry returns the entry of exactly e, expired or not; nil when there is none.
func (s *Snapshot) Entry(e mapping.EID) *Entry {
	entry, _ := s.entries.Get(e)
	return entry
}

// Traffic returns what was forwarded by the EID so far, and what came from it.
func (e *Entry) Traffic() Traffic {
	u := e.use
	return Traffic{u.packets.Load(), u.bytes.Load(), u.received.Load(), u.receivedBytes.Load()}
}
