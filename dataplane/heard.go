package dataplane

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"sync/atomic"
)

// Limits of the memory of heard RLOCs that are ours.
const (
	heardSlots = 4096 // RLOCs between two calls of Heard, in all
	heardTries = 8    // slots that are looked at for one RLOC
)

// heard remembers the outer sources of packets that were decapsulated. Workers
// write and one caller drains; neither waits for the other. A slot belongs to
// who moves it out of a state: free is claimed by a worker, full is emptied by
// the drain, and the address does not change while it is full.
type heard struct {
	seed  uint64
	slots [heardSlots]heardSlot
}

type heardSlot struct {
	state  atomic.Uint32
	hi, lo atomic.Uint64
}

// The states of a heardSlot.
const (
	heardFree = iota
	heardClaimed
	heardFull
)

// newHeard returns an empty memory. Which slots an address may have is not
// known outside, so that nobody can keep another out by choice of addresses.
func newHeard() *heard { return &heard{seed: rand.Uint64()} }

// add notes a and reports whether there was room for it.
func (h *heard) add(a netip.Addr) bool {
	b := a.As16()
	hi, lo := binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])
	x := finish(finish(hi^h.seed) ^ lo)
	for range heardTries {
		s := &h.slots[x%heardSlots]
		switch s.state.Load() {
		case heardFull:
			if s.hi.Load() == hi && s.lo.Load() == lo {
				return true
			}
		case heardFree:
			if s.state.CompareAndSwap(heardFree, heardClaimed) {
				s.hi.Store(hi)
				s.lo.Store(lo)
				s.state.Store(heardFull)
				return true
			}
		}
		x = finish(x)
	}
	return false
}

// drain returns what was noted since the last call, and forgets it. An address
// may stand there twice if two workers noted it at the same moment.
func (h *heard) drain() (list []netip.Addr) {
	for i := range h.slots {
		s := &h.slots[i]
		if s.state.Load() != heardFull {
			continue
		}
		var b [16]byte
		binary.BigEndian.PutUint64(b[:8], s.hi.Load())
		binary.BigEndian.PutUint64(b[8:], s.lo.Load())
		s.state.Store(heardFree)
		list = append(list, netip.AddrFrom16(b).Unmap())
	}
	return list
}

// finish mixes a word as splitmix64 does.
func finish(h uint64) uint64 {
	h += 0x9e3779b97f4a7c15
	h ^= h >> 30
	h *= 0xbf58476d1ce4e5b9
	h ^= h >> 27
	h *= 0x94d049bb133111eb
	return h ^ h>>31
}
