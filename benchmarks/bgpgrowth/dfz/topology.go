package dfz

import (
	"fmt"
	"math/rand/v2"
	"slices"
)

// Link is a session between two speakers, by their numbers.
type Link struct {
	A, B int
	// Peers: neither pays the other. Otherwise A is a provider of B.
	Peers bool
}

func (l Link) ends() [2]int { return [2]int{l.A, l.B} }

// Topology is the default-free zone: its routers, each an AS of its own, and who
// is whose provider.
type Topology struct {
	Routers int
	Links   []Link
	// Edge are the routers that sites buy from, those with the most sites first.
	Edge []int
}

// MinRouters is the smallest zone: two tiers.
const MinRouters = 5

// Hierarchy makes a zone of three tiers: a clique of peers on top, transit
// providers with two providers each and some peers, and below them access
// providers with two providers each. All but the clique sell to sites.
func Hierarchy(routers int, rng *rand.Rand) (Topology, error) {
	if routers < MinRouters || routers > maxRouters {
		return Topology{}, fmt.Errorf("%d routers, expected %d to %d", routers, MinRouters, maxRouters)
	}
	top := max(3, routers/10)
	transit := max(2, routers*3/10)
	t := Topology{Routers: routers}
	for a := range top {
		for b := a + 1; b < top; b++ {
			t.Links = append(t.Links, Link{A: a, B: b, Peers: true})
		}
	}
	two := func(b, from, n int) {
		x := rng.IntN(n)
		y := (x + 1 + rng.IntN(n-1)) % n
		t.Links = append(t.Links, Link{A: from + x, B: b}, Link{A: from + y, B: b})
	}
	for b := top; b < top+transit && b < routers; b++ {
		two(b, 0, top)
		// Half of the transit providers peer with the one before them.
		if b > top && rng.IntN(2) == 0 {
			t.Links = append(t.Links, Link{A: b - 1, B: b, Peers: true})
		}
	}
	for b := top + transit; b < routers; b++ {
		two(b, top, transit)
	}
	for r := top; r < routers; r++ {
		t.Edge = append(t.Edge, r)
	}
	return t, t.check()
}

// check wants what routing in the manner of Gao and Rexford needs: two routers
// have one link at most, no provider is, over others, its own customer, and the
// routers without a provider are a clique of peers.
func (t Topology) check() error {
	seen := make(map[[2]int]bool)
	providers := make([][]int, t.Routers)
	peers := make(map[[2]int]bool)
	for _, l := range t.Links {
		if l.A == l.B || min(l.A, l.B) < 0 || max(l.A, l.B) >= t.Routers {
			return fmt.Errorf("a link of %d and %d", l.A, l.B)
		}
		k := [2]int{min(l.A, l.B), max(l.A, l.B)}
		if seen[k] {
			return fmt.Errorf("two links of %d and %d", l.A, l.B)
		}
		seen[k] = true
		if l.Peers {
			peers[k] = true
		} else {
			providers[l.B] = append(providers[l.B], l.A)
		}
	}
	// Whoever has only providers of known rank gets one.
	rank := make([]int, t.Routers)
	for left := t.Routers; left > 0; {
		before := left
		for r := range rank {
			if rank[r] == 0 && !slices.ContainsFunc(providers[r], func(p int) bool { return rank[p] == 0 }) {
				rank[r] = 1
				left--
			}
		}
		if left == before {
			return fmt.Errorf("routers are providers of each other in a circle")
		}
	}
	for a := range t.Routers {
		for b := a + 1; b < t.Routers; b++ {
			if len(providers[a])+len(providers[b]) == 0 && !peers[[2]int{a, b}] {
				return fmt.Errorf("neither %d nor %d has a provider, and they are no peers", a, b)
			}
		}
	}
	for _, r := range t.Edge {
		if r < 0 || r >= t.Routers {
			return fmt.Errorf("sites at router %d of %d", r, t.Routers)
		}
	}
	return nil
}
