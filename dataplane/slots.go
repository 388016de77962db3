package dataplane

import (
	"cmp"
	"encoding/binary"
	"math"
	"net/netip"
	"slices"
)

// Slots is the size of the table that a flow hash indexes to choose among the
// locators of a mapping: hash % Slots. All planes use the same.
const Slots = 256

// maxTables bounds the memory of tables that were computed.
const maxTables = 4096

// weighted is a locator that takes part in the choice.
type weighted struct {
	addr   netip.Addr
	weight uint8
	out    bool // it can't be used now, but is expected back: its slots are lent to the others
}

// slotTable returns which of locs has which slot, as indices that count only
// those that are not out. Tables are shared by who has the same locs, which are
// 2 to 255 in the order of their addresses, not all of them out. Called under mu.
func (f *FIB) slotTable(locs []weighted) *[Slots]uint8 {
	key := make([]byte, 0, 18*len(locs))
	for _, l := range locs {
		a := l.addr.As16()
		key = append(append(key, a[:]...), l.weight, 0)
		if l.out {
			key[len(key)-1] = 1
		}
	}
	if t := f.tables[string(key)]; t != nil {
		return t
	}
	if len(f.tables) >= maxTables {
		clear(f.tables)
	}
	t := newSlotTable(locs)
	f.tables[string(key)] = t
	return t
}

// newSlotTable computes a slot table, which depends on nothing but locs. Each
// locator gets its share of the slots by weight as exactly as they allow.
// Which ones is rendezvous hashing within that bound, so that a change of the
// set or of a weight moves about as few as it must; and one that goes out moves
// its own only (RFC 9300 section 9 leaves the function to the router).
//
// All weights equal, zero too, share evenly; beside a locator with a weight,
// one with weight 0 gets nothing.
func newSlotTable(locs []weighted) *[Slots]uint8 {
	var owner [Slots]int
	for slot := range owner {
		owner[slot] = -1
	}
	deal(&owner, locs, true)
	lent := false
	for slot, i := range owner {
		if locs[i].out {
			owner[slot], lent = -1, true
		}
	}
	if lent {
		deal(&owner, locs, false)
	}
	place, n := make([]uint8, len(locs)), uint8(0) // of a locator among those that are not out
	for i, l := range locs {
		place[i] = n
		if !l.out {
			n++
		}
	}
	table := new([Slots]uint8)
	for slot, i := range owner {
		table[slot] = place[i]
	}
	return table
}

// deal gives the slots that nobody has (-1) to locs, those that are out too if
// all is set, until each has its share. The others stay: no share gets smaller
// when a locator leaves.
func deal(owner *[Slots]int, locs []weighted, all bool) {
	left := shares(locs, all)
	for _, i := range owner {
		if i >= 0 {
			left[i]--
		}
	}
	type claim struct {
		after     float64
		slot, loc int
	}
	var claims []claim
	for slot, i := range owner {
		if i >= 0 {
			continue
		}
		for i, l := range locs {
			if left[i] > 0 {
				// With u uniform in (0,1), the smallest of these belongs to each
				// locator with a probability in proportion to its weight.
				claims = append(claims, claim{-math.Log(unit(l.addr, slot)) / float64(max(l.weight, 1)), slot, i})
			}
		}
	}
	slices.SortFunc(claims, func(a, b claim) int {
		return cmp.Or(cmp.Compare(a.after, b.after), cmp.Compare(a.slot, b.slot), cmp.Compare(a.loc, b.loc))
	})
	for _, c := range claims {
		if owner[c.slot] < 0 && left[c.loc] > 0 {
			owner[c.slot] = c.loc
			left[c.loc]--
		}
	}
}

// shares divides the slots by weight, as seats are by the method of Webster and
// Sainte-Laguë: one by one to who is furthest from its share. Who stays when
// another leaves so never loses one.
func shares(locs []weighted, all bool) []int {
	n, weights, sum := make([]int, len(locs)), make([]int, len(locs)), 0
	for i, l := range locs {
		if all || !l.out {
			weights[i] = int(l.weight)
			sum += weights[i]
		}
	}
	for i, l := range locs {
		if sum == 0 && (all || !l.out) {
			weights[i] = 1
		}
	}
	for range Slots {
		best := 0
		for i, w := range weights {
			if w*(2*n[best]+1) > weights[best]*(2*n[i]+1) {
				best = i
			}
		}
		n[best]++
	}
	return n
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
