package dfz

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func pfx(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// said is a change that went out, with its time in milliseconds.
type said struct {
	ms    int64
	p     string
	attrs string
}

// play lets time pass up to end and returns what is said.
func play(c *coalescer, end time.Duration) (out []said) {
	for {
		at, ok := c.next()
		if !ok || at.After(start.Add(end)) {
			return out
		}
		c.take(at, func(p netip.Prefix, attrs string) {
			out = append(out, said{at.Sub(start).Milliseconds(), p.String(), attrs})
		})
	}
}

func TestCoalescer(t *testing.T) {
	const ms = time.Millisecond
	type input struct {
		at    time.Duration
		p     string
		attrs string
	}
	a, b := "10.0.0.0/24", "10.0.1.0/24"
	for _, x := range []struct {
		name     string
		interval time.Duration
		in       []input
		want     []said
	}{
		{"each change of a prefix, where there is no interval", 0,
			[]input{{0, a, "x"}, {20 * ms, a, "y"}, {40 * ms, a, ""}},
			[]said{{10, a, "x"}, {30, a, "y"}, {50, a, ""}}},
		{"the last of what comes while it is gathered", 0,
			[]input{{0, a, "x"}, {1 * ms, b, "x"}, {5 * ms, a, ""}, {9 * ms, a, "y"}},
			[]said{{10, a, "y"}, {11, b, "x"}}},
		{"the first at once, then the last of each interval", 5 * time.Second,
			[]input{{0, a, "x"}, {100 * ms, a, "y"}, {200 * ms, a, ""}, {6000 * ms, a, "z"}},
			[]said{{10, a, "x"}, {5010, a, ""}, {10010, a, "z"}}},
		{"nothing, if it is what was said last", 5 * time.Second,
			[]input{{0, a, "x"}, {100 * ms, a, ""}, {200 * ms, a, "x"}, {7000 * ms, a, "y"}},
			[]said{{10, a, "x"}, {7010, a, "y"}}},
		{"withdrawals wait too", 5 * time.Second,
			[]input{{0, a, "x"}, {4900 * ms, a, ""}},
			[]said{{10, a, "x"}, {5010, a, ""}}},
		{"each prefix has its own timer", 5 * time.Second,
			[]input{{0, a, "x"}, {2000 * ms, b, "x"}, {2100 * ms, a, "y"}, {2200 * ms, b, "y"}},
			[]said{{10, a, "x"}, {2010, b, "x"}, {5010, a, "y"}, {7010, b, "y"}}},
		{"still gathered at the end of an interval", 5 * time.Second,
			[]input{{0, a, "x"}, {5005 * ms, a, "y"}, {5014 * ms, a, "z"}},
			[]said{{10, a, "x"}, {5015, a, "z"}}},
	} {
		t.Run(x.name, func(t *testing.T) {
			c := newCoalescer()
			c.interval = x.interval
			var got []said
			for _, in := range x.in {
				got = append(got, play(c, in.at-1)...)
				c.add(start.Add(in.at), pfx(in.p), in.attrs)
				if c.waiting == 0 {
					t.Errorf("at %v nothing waits", in.at)
				}
			}
			got = append(got, play(c, time.Hour)...)
			if !slices.Equal(got, x.want) {
				t.Errorf("said %v\nwant %v", got, x.want)
			}
			if c.waiting != 0 || len(c.routes) != 0 {
				t.Errorf("%d wait, %d are remembered in the end", c.waiting, len(c.routes))
			}
		})
	}
}

// Whatever comes, the other side knows the last of it in the end, nothing is said
// twice in a row, and two messages about a prefix are an interval apart.
func TestCoalescerAtRandom(t *testing.T) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 0))
	for round := range 200 {
		c := newCoalescer()
		c.interval = time.Duration(rng.IntN(3)) * time.Second
		var got []said
		last := make(map[string]string)
		at := time.Duration(0)
		for range 200 {
			at += time.Duration(rng.IntN(300)) * time.Millisecond
			got = append(got, play(c, at-1)...)
			p := fmt.Sprintf("10.0.%d.0/24", rng.IntN(3))
			attrs := []string{"", "x", "y"}[rng.IntN(3)]
			last[p] = attrs
			c.add(start.Add(at), pfx(p), attrs)
		}
		got = append(got, play(c, time.Hour)...)
		knows := make(map[string]said)
		for _, s := range got {
			before, ok := knows[s.p]
			if ok && s.ms-before.ms < c.interval.Milliseconds() {
				t.Fatalf("seed %d, round %d: %v follows %v", seed, round, s, before)
			}
			if ok && c.interval > time.Second && s.ms-before.ms == c.interval.Milliseconds() && s.attrs == before.attrs {
				t.Fatalf("seed %d, round %d: %v is said again", seed, round, s)
			}
			knows[s.p] = s
		}
		for p, attrs := range last {
			if knows[p].attrs != attrs {
				t.Fatalf("seed %d, round %d: the other side has %q of %s, it is %q", seed, round, knows[p].attrs, p, attrs)
			}
		}
	}
}
