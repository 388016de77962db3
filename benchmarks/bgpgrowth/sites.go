package main

import (
	"fmt"
	"math/rand/v2"
	"net/netip"

	"github.com/eidolon-lisp/eidolon/benchmarks/bgpgrowth/dfz"
	"github.com/eidolon-lisp/eidolon/benchmarks/bgpgrowth/internet"
)

// site is a stub network.
type site struct {
	number    int
	providers []int // routers; the first is the one it had first
	// roots are its prefixes that no other one of its own covers, specifics those
	// inside of them.
	roots, specifics []netip.Prefix
	// holes are as many prefixes inside the block of the first provider as there are
	// roots, parts the halves of some of these, as many as specifics.
	holes, parts []netip.Prefix
	// eid is where it is when it has moved: one prefix of a block for EIDs.
	eid  netip.Prefix
	live bool // has sessions or an xTR of its own
}

func (s *site) as() uint32 { return dfz.SiteAS(s.number) }

// sites makes n of them like those that are drawn from a source, the first live of
// which are multihomed and live.
func sites(n, live int, from internet.Source, t dfz.Topology, rng *rand.Rand) ([]*site, error) {
	pi := &space{next: 1 << 24, end: 100 << 24}
	blocks := make(map[int]*space)
	for i, r := range t.Edge {
		b := providerBlock(i)
		first := number(b.Addr())
		blocks[r] = &space{next: first, end: first + 1<<(32-b.Bits())}
	}
	eids := &space{next: number(eidBlocks[0].Addr()), end: 1 << 32}
	list := make([]*site, n)
	for i := range list {
		s := &site{number: i, live: i < live}
		stub := from.Draw(rng)
		for s.live && stub.Providers < 2 {
			stub = from.Draw(rng)
		}
		s.providers = distinct(t.Edge, min(stub.Providers, len(t.Edge)), rng)
		var err error
		for j := range stub.Roots {
			inside := stub.Specifics / stub.Roots
			if j < stub.Specifics%stub.Roots {
				inside++
			}
			bits := 24 - bitsFor(inside)
			if inside == 1 {
				bits = 23
			}
			root, e := pi.take(bits)
			if e != nil {
				err = e
			}
			s.roots = append(s.roots, root)
			for k := range inside {
				s.specifics = append(s.specifics, netip.PrefixFrom(addr(number(root.Addr())+uint64(k)<<8), 24))
			}
			// Halves are two for each hole.
			hole, e := blocks[s.providers[0]].take(24 - bitsFor((inside+1)/2))
			if e != nil {
				err = e
			}
			s.holes = append(s.holes, hole)
			for k := range inside {
				s.parts = append(s.parts, netip.PrefixFrom(addr(number(hole.Addr())+uint64(k)<<7), 25))
			}
		}
		if s.eid, err = eids.take(24 - bitsFor(stub.Roots)); err != nil {
			return nil, fmt.Errorf("addresses for site %d of %d: %w", i, n, err)
		}
		list[i] = s
	}
	return list, nil
}

// bitsFor is how many bits tell n things apart.
func bitsFor(n int) int {
	bits := 0
	for 1<<bits < n {
		bits++
	}
	return bits
}

// providerBlock is the i-th router's, of those that sell to sites.
func providerBlock(i int) netip.Prefix {
	return netip.PrefixFrom(addr(128<<24+uint64(i)<<22), 10)
}

// eidBlocks are those that EIDs are of, which the proxy-ITRs announce.
var eidBlocks = []netip.Prefix{
	netip.MustParsePrefix("192.0.0.0/8"), netip.MustParsePrefix("193.0.0.0/8"), netip.MustParsePrefix("194.0.0.0/8"), netip.MustParsePrefix("195.0.0.0/8"),
}

// space hands out prefixes in order.
type space struct{ next, end uint64 }

func (s *space) take(bits int) (netip.Prefix, error) {
	size := uint64(1) << (32 - bits)
	first := (s.next + size - 1) &^ (size - 1)
	if first <= 10<<24 && first+size > 10<<24 || first>>24 == 10 { // private
		first = 11 << 24
	}
	if first+size > s.end {
		return netip.Prefix{}, fmt.Errorf("no room for a /%d", bits)
	}
	s.next = first + size
	return netip.PrefixFrom(addr(first), bits), nil
}

func addr(n uint64) netip.Addr {
	return netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
}

func number(a netip.Addr) uint64 {
	b := a.As4()
	return uint64(b[0])<<24 | uint64(b[1])<<16 | uint64(b[2])<<8 | uint64(b[3])
}

// distinct picks n different ones of list.
func distinct(list []int, n int, rng *rand.Rand) []int {
	var out []int
	for _, i := range rng.Perm(len(list))[:n] {
		out = append(out, list[i])
	}
	return out
}
