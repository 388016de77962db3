package dataplane_test

import (
	"math"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/encap"
	"github.com/eidolon-lisp/eidolon/mapping"
)

// flows are random flows between the two sites.
func flows(n int) []encap.Key {
	r := rand.New(rand.NewPCG(4, 4))
	list := make([]encap.Key, n)
	for i := range list {
		k := encap.Key{Ports: r.Uint32(), Protocol: 6, HasPorts: true}
		if i%2 == 0 {
			k.Src = netip.AddrFrom4([4]byte{10, 1, byte(r.Uint32()), byte(r.Uint32())})
			k.Dst = netip.AddrFrom4([4]byte{10, 2, byte(r.Uint32()), byte(r.Uint32())})
		} else {
			k.Src, k.Dst = addr("2001:db8:1::1"), addr("2001:db8:2::1")
		}
		list[i] = k
	}
	return list
}

// Of 100,000 flows each locator and each source gets its share by weight within
// 2 percentage points, each source of each locator's flows too.
func TestSharesOfFlows(t *testing.T) {
	keys := flows(100_000)
	for _, weights := range [][]uint8{{50, 50}, {70, 30}, {1, 99}, {100, 0}, {0, 0}, {40, 35, 25}, {255, 255, 1}, {0, 0, 0}, {30, 20, 20, 10}, {1, 2, 3, 4, 5, 6, 7, 8}} {
		var sum float64
		remote4, remote6 := positive("10.2.0.0/16"), positive("2001:db8:2::/48")
		var sources []dataplane.Source
		for i, w := range weights {
			l := mapping.MakeLocator(rlocN(i+1), 1, w)
			remote4.Locators, remote6.Locators = append(remote4.Locators, l), append(remote6.Locators, l)
			sources = append(sources, dataplane.Source{Addr: netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}), Priority: 1, Weight: w})
			sum += float64(w)
		}
		f := dataplane.NewFIB()
		f.SetLocal([]dataplane.LocalEID{{EID: eid("10.1.0.0/16")}, {EID: eid("2001:db8:1::/48")}})
		f.SetSources(sources)
		learn(f, remote4, remote6)
		to, from, both := make(map[netip.Addr]float64), make(map[netip.Addr]float64), make(map[dataplane.Path]float64)
		s := f.Snapshot()
		for _, k := range keys {
			hash := k.Hash()
			remote := s.Lookup(0, k.Dst, k.Src, t0).RLOC(hash).Addr()
			local := s.Source(remote, hash)
			to[remote]++
			from[local]++
			both[dataplane.Path{Local: local, Remote: remote}]++
		}
		n := float64(len(keys))
		for i, w := range weights {
			want := float64(w) / sum
			if sum == 0 {
				want = 1 / float64(len(weights))
			}
			remote := rlocN(i + 1)
			if got := to[remote] / n; math.Abs(got-want) > 0.02 || w == 0 && sum > 0 && got > 0 {
				t.Errorf("weights %v: locator %d has %.4f of the flows, want %.4f", weights, i, got, want)
			}
			if got := from[sources[i].Addr] / n; math.Abs(got-want) > 0.02 || w == 0 && sum > 0 && got > 0 {
				t.Errorf("weights %v: source %d has %.4f of the flows, want %.4f", weights, i, got, want)
			}
			for j := range weights {
				if to[remote] < n/50 {
					continue // too few for a share of them to be measured
				}
				share := both[dataplane.Path{Local: sources[j].Addr, Remote: remote}] / to[remote]
				if want := from[sources[j].Addr] / n; math.Abs(share-want) > 0.03 {
					t.Errorf("weights %v: source %d has %.4f of the flows to locator %d, want %.4f", weights, j, share, i, want)
				}
			}
		}
	}
}

// The table itself is as near to the weights as 256 slots can be, or one off.
func TestSharesOfSlots(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 1))
	for range 100 {
		rec, sum := positive("10.2.0.0/16"), 0
		n := 2 + r.IntN(7)
		for i := range n {
			l := mapping.MakeLocator(rlocN(i+1), 1, uint8(1+r.IntN(255)))
			rec.Locators, sum = append(rec.Locators, l), sum+int(l.Weight)
		}
		got := make(map[netip.Addr]float64)
		for _, a := range table(rec) {
			got[a]++
		}
		for _, l := range rec.Locators {
			if want := float64(l.Weight) * dataplane.Slots / float64(sum); math.Abs(got[l.Addr]-want) > 1 {
				t.Errorf("%v: %v slots, want %.2f", l, got[l.Addr], want)
			}
		}
	}
}

// table returns the owner of each slot.
func table(r *mapping.Record) (s [dataplane.Slots]netip.Addr) {
	f := newFIB()
	learn(f, r)
	for slot := range s {
		if a := f.Snapshot().Lookup(0, r.EID.Prefix.Addr(), netip.Addr{}, t0).RLOC(uint32(slot)); a != nil {
			s[slot] = a.Addr()
		}
	}
	return s
}

// A locator that goes down moves its own slots and no other, and gets the same
// back when it comes up; one that leaves the mapping or changes its weight moves
// what its share needs, and little else.
func TestSlotsMoveLittle(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	for n := 2; n <= 8; n++ {
		extra := 0
		for range 20 {
			full, down, less, heavy := positive("10.2.0.0/16"), positive("10.2.0.0/16"), positive("10.2.0.0/16"), positive("10.2.0.0/16")
			changed := rlocN(2)
			for i := range n {
				l := mapping.MakeLocator(rlocN(i+1), 1, uint8(1+r.IntN(100)))
				d, h := l, l
				if l.Addr == changed {
					d.Flags, h.Weight = 0, l.Weight+50
				} else {
					less.Locators = append(less.Locators, l)
				}
				full.Locators, down.Locators, heavy.Locators = append(full.Locators, l), append(down.Locators, d), append(heavy.Locators, h)
			}
			a, b, c, d := table(full), table(down), table(less), table(heavy)
			must := 0 // slots that the heavier one gets more
			for slot := range a {
				if a[slot] != changed && a[slot] != b[slot] || b[slot] == changed {
					t.Fatalf("%d locators: slot %d moved from %v to %v when %v went down", n, slot, a[slot], b[slot], changed)
				}
				if a[slot] != changed && a[slot] != c[slot] {
					extra++
				}
				if a[slot] != d[slot] {
					extra++
				}
				if d[slot] == changed {
					must++
				}
				if a[slot] == changed {
					must--
				}
			}
			extra -= must
		}
		if mean := float64(extra) / 20 / 2; mean > 0.04*dataplane.Slots {
			t.Errorf("%d locators: %.1f slots moved without need", n, mean)
		}
	}
}

// A source that goes, or whose path to a locator is down, moves its own flows
// and no other.
func TestSourcesMoveLittle(t *testing.T) {
	f := newFIB()
	three := from(addr("192.0.2.1"), addr("192.0.2.2"), addr("192.0.2.3"))
	three[1].Weight = 30
	f.SetSources(three)
	f.SetLocalRLOCs([]netip.Addr{three[0].Addr, three[1].Addr, three[2].Addr})
	gone := three[1].Addr
	choose := func() (list []netip.Addr) {
		for _, k := range flows(2000) {
			list = append(list, f.Snapshot().Source(theirs4, k.Hash()))
		}
		return list
	}
	before := choose()
	same := func(what string, want bool) {
		t.Helper()
		for i, now := range choose() {
			if was := before[i]; was != gone && was != now || (now == gone) != (was == gone && want) {
				t.Fatalf("%s: flow %d went from %v to %v", what, i, was, now)
			}
		}
	}
	f.SetPathsDown([]dataplane.Path{{Local: gone, Remote: theirs4}})
	same("path down", false)
	f.SetPathsDown(nil)
	same("path up", true)
	f.SetLocalRLOCs([]netip.Addr{three[0].Addr, three[2].Addr})
	same("address gone", false)
}

// What is chosen among sources: usable ones before those whose path is down,
// these before those whose address is not there, then by priority; 255 last.
func TestSourceChoice(t *testing.T) {
	a, b, c := addr("192.0.2.1"), addr("192.0.2.2"), addr("192.0.2.3")
	src := func(x netip.Addr, priority uint8) dataplane.Source {
		return dataplane.Source{Addr: x, Priority: priority, Weight: 100}
	}
	path := func(x netip.Addr) dataplane.Path { return dataplane.Path{Local: x, Remote: theirs4} }
	for _, tt := range []struct {
		name    string
		sources []dataplane.Source
		here    []netip.Addr
		down    []dataplane.Path
		want    []netip.Addr
	}{
		{"equal", []dataplane.Source{src(a, 1), src(b, 1)}, nil, nil, []netip.Addr{a, b}},
		{"lowest priority", []dataplane.Source{src(a, 2), src(b, 1)}, nil, nil, []netip.Addr{b}},
		{"drained", []dataplane.Source{src(a, 255), src(b, 200)}, nil, nil, []netip.Addr{b}},
		{"all drained", []dataplane.Source{src(a, 255), src(b, 255)}, nil, nil, []netip.Addr{a, b}},
		{"path of the preferred down", []dataplane.Source{src(a, 2), src(b, 1), src(c, 2)}, nil, []dataplane.Path{path(b)}, []netip.Addr{a, c}},
		{"drained, the other path down", []dataplane.Source{src(a, 255), src(b, 1)}, nil, []dataplane.Path{path(b)}, []netip.Addr{a}},
		{"all paths down", []dataplane.Source{src(a, 1), src(b, 1), src(c, 2)}, nil, []dataplane.Path{path(a), path(b), path(c)}, []netip.Addr{a, b}},
		{"another locator's path", []dataplane.Source{src(a, 1), src(b, 1)}, nil, []dataplane.Path{{Local: a, Remote: rlocN(9)}}, []netip.Addr{a, b}},
		{"an address that is not there", []dataplane.Source{src(a, 1), src(b, 2)}, []netip.Addr{b}, nil, []netip.Addr{b}},
		{"that one, though its path is down", []dataplane.Source{src(a, 1), src(b, 2)}, []netip.Addr{b}, []dataplane.Path{path(b)}, []netip.Addr{b}},
		{"none is there", []dataplane.Source{src(a, 1), src(b, 2)}, []netip.Addr{}, nil, []netip.Addr{a}},
		{"twice", []dataplane.Source{src(a, 1), src(a, 1)}, nil, nil, []netip.Addr{a}},
		{"other family", []dataplane.Source{src(ours6, 1)}, nil, nil, nil},
	} {
		f := dataplane.NewFIB()
		f.SetSources(tt.sources)
		f.SetLocalRLOCs(tt.here)
		f.SetPathsDown(tt.down)
		got := make(map[netip.Addr]bool)
		for _, k := range flows(100) {
			if x := f.Snapshot().Source(theirs4, k.Hash()); x.IsValid() {
				got[x] = true
			}
		}
		for _, x := range tt.want {
			if !got[x] {
				t.Errorf("%s: %v is not used", tt.name, x)
			}
		}
		if len(got) != len(tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}
