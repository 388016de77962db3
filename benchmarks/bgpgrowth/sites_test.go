package main

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/eidolon-lisp/eidolon/benchmarks/bgpgrowth/dfz"
	"github.com/eidolon-lisp/eidolon/benchmarks/bgpgrowth/internet"
	"github.com/eidolon-lisp/eidolon/benchmarks/bgpgrowth/measure"
)

func testSites(t *testing.T, n int) ([]*site, dfz.Topology) {
	t.Helper()
	rng := rand.New(rand.NewPCG(1, 0))
	top, err := dfz.Hierarchy(20, rng)
	if err != nil {
		t.Fatal(err)
	}
	list, err := sites(n, 10, internet.Published{}, top, rng)
	if err != nil {
		t.Fatal(err)
	}
	return list, top
}

// The sites are as many of each kind as was published, and no address is given twice.
func TestSites(t *testing.T) {
	const n = 8000
	list, _ := testSites(t, n)
	multihomed, total, specific, single := 0, 0, 0, 0
	var roots, holes []netip.Prefix
	for i, s := range list {
		if i < 10 && len(s.providers) < 2 {
			t.Errorf("the live site %d has the providers %v", i, s.providers)
		}
		if len(s.providers) > 1 {
			multihomed++
		}
		if len(s.roots)+len(s.specifics) == 1 {
			single++
		}
		if len(s.specifics) > 0 {
			specific++
		}
		total += len(s.roots) + len(s.specifics)
		roots = append(roots, s.roots...)
		holes = append(holes, s.holes...)
		for _, x := range [][2][]netip.Prefix{{s.roots, s.specifics}, {s.holes, s.parts}} {
			for _, p := range x[1] {
				if !slices.ContainsFunc(x[0], func(r netip.Prefix) bool { return r.Bits() <= p.Bits() && r.Contains(p.Addr()) }) {
					t.Fatalf("%v of site %d is in none of %v", p, i, x[0])
				}
			}
		}
		if len(s.specifics) != len(s.parts) || len(s.roots) != len(s.holes) {
			t.Errorf("site %d has %d and %d, %d and %d prefixes in two arms", i, len(s.roots), len(s.specifics), len(s.holes), len(s.parts))
		}
	}
	for _, x := range []struct {
		what      string
		got       float64
		low, high float64
	}{
		{"multihomed sites", float64(multihomed) / n, 0.53, 0.58},
		{"prefixes of a site", float64(total) / n, 5, 8},
		{"sites with one prefix", float64(single) / n, 0.40, 0.55},
		{"sites that de-aggregate", float64(specific) / n, 0.08, 0.23},
	} {
		if x.got < x.low || x.got > x.high {
			t.Errorf("%s: %.3f, expected %.3f to %.3f", x.what, x.got, x.low, x.high)
		}
	}
	for what, ps := range map[string][]netip.Prefix{"roots": roots, "holes": holes} {
		slices.SortFunc(ps, netip.Prefix.Compare)
		for i := 1; i < len(ps); i++ {
			if ps[i].Overlaps(ps[i-1]) {
				t.Fatalf("%s %v and %v overlap", what, ps[i-1], ps[i])
			}
		}
	}
}

// What is announced in each arm: all of it; without what can be aggregated; nothing;
// and with sites that move, less and less where their EIDs are of blocks, and as much
// as before, but for what they de-aggregated, where each old prefix is announced
// for them.
func TestArms(t *testing.T) {
	list, top := testSites(t, 1000)
	size := func(arm, variant string, adoption float64) (prefixes int) {
		tab := make(table)
		for _, a := range announcements(arm, variant, adoption, list, top) {
			tab.add(a.prefixes)
		}
		return len(tab)
	}
	all, best := size(measure.ArmPI, "", 0), size(measure.ArmBest, "", 0)
	if n := size(measure.ArmHoles, "", 0); n != all {
		t.Errorf("%d holes and halves, %d prefixes in arm A", n, all)
	}
	if best >= all || best == 0 {
		t.Errorf("%d prefixes where all is aggregated, %d before", best, all)
	}
	if n := size(measure.ArmEidolon, "", 0); n != 0 {
		t.Errorf("%d prefixes of sites with Eidolon", n)
	}
	if n := size(measure.ArmMixed, measure.VariantBlocks, 0); n != all {
		t.Errorf("%d prefixes when nobody has moved, %d before", n, all)
	}
	before := all
	for _, x := range []float64{0.25, 0.5, 0.75, 1} {
		n := size(measure.ArmMixed, measure.VariantBlocks, x)
		if n >= before {
			t.Errorf("%d prefixes when %.0f %% have moved, %d before", n, 100*x, before)
		}
		before = n
		if n := size(measure.ArmMixed, measure.VariantOldPI, x); x < 1 && (n < best || n > all) || x == 1 && n != 0 {
			t.Errorf("%d prefixes when %.0f %% have moved and keep theirs, %d to %d expected", n, 100*x, best, all)
		}
	}
	if before != len(eidBlocks) {
		t.Errorf("%d prefixes when all have moved, %d blocks", before, len(eidBlocks))
	}
}
