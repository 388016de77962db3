package main

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"sort"

	"github.com/eidolon-lisp/eidolon/benchmarks/bgpgrowth/dfz"
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

// The published distributions of January and February 2016 (CAIDA AS relationships
// and pfx2as of RouteViews).
var (
	// providerShares are stub ASes by their number of providers: 1, 2, 3, 4, and 5
	// or more.
	providerShares = []float64{19640, 18551, 4228, 1283, 978}
	// prefixTails are points of the share of multihomed stubs with at least so many
	// prefixes, and of those prefixes that are inside another of the same origin,
	// for the stubs that have any.
	prefixTail    = []tailPoint{{1, 1}, {2, 0.5}, {12, 0.1}, {65, 0.01}, {1461, 1. / 24971}}
	specificTail  = []tailPoint{{1, 1}, {4, 0.1 / 0.224}, {30, 0.01 / 0.224}, {854, 1. / 24971 / 0.224}}
	specificShare = 0.224
)

type tailPoint struct{ at, share float64 }

// quantile returns how many a stub has that the share u of all exceeds: between the
// points the tail is a power law.
func quantile(tail []tailPoint, u float64) int {
	i := sort.Search(len(tail), func(i int) bool { return tail[i].share <= u })
	switch i {
	case 0:
		return int(tail[0].at)
	case len(tail):
		return int(tail[len(tail)-1].at)
	}
	a, b := tail[i-1], tail[i]
	x := math.Log(u/a.share) / math.Log(b.share/a.share)
	return int(a.at * math.Pow(b.at/a.at, x))
}

// sites makes n of them, the first live of which are multihomed and live.
func sites(n, live int, t dfz.Topology, rng *rand.Rand) ([]*site, error) {
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
		k := pick(providerShares, rng) + 1
		if s.live {
			k = max(k, 2)
		}
		s.providers = distinct(t.Edge, min(k, len(t.Edge)), rng)
		total := quantile(prefixTail, 1-rng.Float64())
		specifics := 0
		if rng.Float64() < specificShare {
			specifics = min(quantile(specificTail, 1-rng.Float64()), total-1)
		}
		var err error
		for j := range total - specifics {
			inside := specifics / (total - specifics)
			if j < specifics%(total-specifics) {
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
		if s.eid, err = eids.take(24 - bitsFor(total-specifics)); err != nil {
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

// pick returns an index with a chance that is proportional to its weight.
func pick(weights []float64, rng *rand.Rand) int {
	sum := 0.
	for _, w := range weights {
		sum += w
	}
	x := rng.Float64() * sum
	for i, w := range weights {
		if x -= w; x < 0 {
			return i
		}
	}
	return len(weights) - 1
}

// distinct picks n different ones of list.
func distinct(list []int, n int, rng *rand.Rand) []int {
	var out []int
	for _, i := range rng.Perm(len(list))[:n] {
		out = append(out, list[i])
	}
	return out
}
