package model

import (
	"testing"

	"pgregory.net/rapid"
)

// What is known of the tables comes out: in 2016 the table would have been 1.13 times
// smaller without the extra prefixes of multihomed stubs, 1.36 times without all of
// theirs, and 1.75 times without those of all stubs; it grew by about 11 % a year from
// 2008 to 2014 and by less than 5 % lately.
func TestPublished(t *testing.T) {
	s := Decomposed[2]
	for what, c := range map[string]struct{ got, want, within float64 }{
		"extra":     {Saved(s.Extra), 1.13, 0.01},
		"all":       {Saved(s.Multihomed), 1.36, 0.01},
		"all stubs": {Saved(s.Multihomed + s.SingleHomed), 1.75, 0.01},
		"2008-2014": {Growth(Published[4], Published[5]), 0.11, 0.005},
		"2014-2020": {Growth(Published[5], Published[7]), 0.078, 0.005},
	} {
		if !near(c.got, c.want, c.within) {
			t.Errorf("%s: %.3f, expected %.3f", what, c.got, c.want)
		}
	}
	if g := Growth(Published[7], Published[len(Published)-1]); g < 0.03 || g > 0.05 {
		t.Errorf("lately it grew by %.3f a year", g)
	}
	for i := 1; i < len(Published); i++ {
		if Published[i].Year <= Published[i-1].Year || Published[i].Entries < Published[i-1].Entries {
			t.Errorf("%v after %v", Published[i], Published[i-1])
		}
	}
}

// Whoever moves saves nothing while prefixes are kept, and never makes the table
// larger than by the blocks.
func TestAdoption(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.SampledFrom(Decomposed).Draw(t, "shares")
		n, moved, blocks := rapid.Float64Range(1e3, 1e7).Draw(t, "entries"), rapid.Float64Range(0, 1).Draw(t, "moved"), rapid.Float64Range(0, 100).Draw(t, "blocks")
		with := Adoption(n, s, moved, blocks, false)
		if with > n+blocks || with < n*(1-s.Multihomed)-1e-6 {
			t.Fatalf("%v of %v", with, n)
		}
		if kept := Adoption(n, s, moved, blocks, true); moved < 1 && kept != n || moved == 1 && !near(kept, n*(1-s.Multihomed), 1e-6) {
			t.Fatalf("%v of %v with %v", kept, n, moved)
		}
	})
}
