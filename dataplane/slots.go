package dataplane

import (
	"encoding/binary"
	"math"
	"net/netip"
)

// Slots is the size of the table that a flow hash indexes to choose among the
// locators of a mapping: hash % Slots. All planes use the same.
const Slots = 256

// slotTable fills the slots with indices into locs, in proportion to weight, by
// weighted rendezvous hashing: each slot goes to the locator with the highest
// score, and a score depends on nothing but the slot, the locator's address
// and its weight. So a locator that leaves moves only its own slots, and one
// that comes takes only those that it wins (RFC 9300 section 9 leaves the
// function to the router).
//
// All weights equal, zero too, share evenly; beside a locator with a weight,
// one with weight 0 gets nothing. locs has 1 to 255 elements.
func slotTable(locs []weighted) *[Slots]uint8 {
	var sum int
	for _, l := range locs {
		sum += int(l.weight)
	}
	table := new([Slots]uint8)
	for slot := range table {
		best := -1.0
		for i, l := range locs {
			w := float64(l.weight)
			if sum == 0 {
				w = 1
			}
			// -w/ln(u), u uniform in (0,1): the largest of these belongs to
			// each locator with probability w/sum.
			if s := -w / math.Log(unit(l.addr, slot)); s > best {
				best, table[slot] = s, uint8(i)
			}
		}
	}
	return table
}

type weighted struct {
	addr   netip.Addr
	weight uint8
}

// unit returns a number in (0,1) that is fixed by the address and the slot:
// FNV-1a over both, finished as splitmix64 does.
func unit(a netip.Addr, slot int) float64 {
	const (
		offset = 0xcbf29ce484222325
		prime  = 0x100000001b3
	)
	b := a.As16()
	var s [2]byte
	binary.BigEndian.PutUint16(s[:], uint16(slot))
	h := uint64(offset)
	for _, c := range b {
		h = (h ^ uint64(c)) * prime
	}
	for _, c := range s {
		h = (h ^ uint64(c)) * prime
	}
	h ^= h >> 30
	h *= 0xbf58476d1ce4e5b9
	h ^= h >> 27
	h *= 0x94d049bb133111eb
	h ^= h >> 31
	return (float64(h>>11) + 0.5) / (1 << 53)
}
