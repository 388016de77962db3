package bgp

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func prefixes(list ...string) (out []netip.Prefix) {
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func announce(list ...string) (out []Received) {
	for _, p := range prefixes(list...) {
		out = append(out, Received{Prefix: p, From: netip.MustParseAddr("10.1.0.2")})
	}
	return out
}

func withdraw(list ...string) (out []Received) {
	for _, p := range prefixes(list...) {
		out = append(out, Received{Prefix: p, Withdrawn: true})
	}
	return out
}

func (l *Learner) texts() (out []string) {
	for _, x := range l.Accepted() {
		out = append(out, x.Prefix.String())
	}
	return out
}

var start = time.Unix(1_700_000_000, 0)

func site() *Learner {
	return NewLearner(LearnConfig{
		Rules: []Rule{
			{Prefix: netip.MustParsePrefix("10.1.0.0/16"), MinBits: 16, MaxBits: 24, Max: 3},
			{Prefix: netip.MustParsePrefix("10.1.128.0/17"), MinBits: 25, MaxBits: 28},
			{Prefix: netip.MustParsePrefix("2001:db8:a::/48"), MinBits: 48, MaxBits: 64},
		},
		Underlay:      []netip.Addr{netip.MustParseAddr("10.1.9.9")},
		Configured:    prefixes("10.1.7.0/24"),
		WithdrawDelay: 30 * time.Second,
	})
}

func TestLearnFilter(t *testing.T) {
	for _, c := range []struct {
		prefix string
		want   Refusal
		rule   int
	}{
		{"10.1.0.0/24", Accepted, 0}, {"10.1.16.0/20", Accepted, 0}, {"10.1.130.0/26", Accepted, 1}, {"10.1.130.0/24", Accepted, 0},
		{"2001:db8:a:1::/64", Accepted, 2}, {"0.0.0.0/0", RefusedDefault, -1}, {"::/0", RefusedDefault, -1},
		{"10.2.0.0/24", RefusedFilter, -1}, {"10.0.0.0/8", RefusedFilter, -1}, {"2001:db8:b::/48", RefusedFilter, -1},
		{"10.1.0.0/25", RefusedLength, -1}, {"10.1.130.0/32", RefusedLength, -1}, {"2001:db8:a::1/128", RefusedLength, -1},
		{"10.1.9.0/24", RefusedUnderlay, -1}, {"10.1.0.0/16", RefusedUnderlay, -1},
		{"10.1.7.0/24", RefusedConfigured, -1}, {"10.1.6.0/23", Accepted, 0},
	} {
		l := site()
		if changed := l.Routes(start, announce(c.prefix)); changed != (c.want == Accepted) {
			t.Errorf("%s: changed %v", c.prefix, changed)
		}
		x := l.List()
		if len(x) != 1 || x[0].Refusal != c.want || x[0].Rule != c.rule {
			t.Errorf("%s: %+v, expected %v by rule %d", c.prefix, x, c.want, c.rule)
		}
		if c.want != Accepted && (l.Refused(c.want) != 1 || len(l.Accepted()) != 0) {
			t.Errorf("%s: %d refused as %v", c.prefix, l.Refused(c.want), c.want)
		}
	}
}

// A session that breaks down and comes back within the delay changes nothing.
func TestLearnWithdraw(t *testing.T) {
	l := site()
	l.Routes(start, announce("10.1.1.0/24", "10.1.2.0/24"))
	now := start.Add(time.Minute)
	if l.Routes(now, withdraw("10.1.1.0/24", "10.1.2.0/24")) || len(l.Accepted()) != 2 || l.Next() != now.Add(30*time.Second) {
		t.Errorf("%v, next %v", l.Accepted(), l.Next())
	}
	if l.Routes(now.Add(29*time.Second), announce("10.1.1.0/24")) {
		t.Error("what has come back is new")
	}
	if !l.Advance(now.Add(30*time.Second)) || !slices.Equal(l.texts(), []string{"10.1.1.0/24"}) || !l.Next().IsZero() {
		t.Errorf("%v, next %v", l.texts(), l.Next())
	}
	if l.Routes(now.Add(time.Minute), withdraw("10.1.2.0/24", "192.0.2.0/24")) {
		t.Error("what is not there was withdrawn")
	}
}

// What there was no room for has it when something goes.
func TestLearnTooMany(t *testing.T) {
	l := site()
	l.Routes(start, announce("10.1.1.0/24", "10.1.2.0/24", "10.1.3.0/24", "10.1.5.0/24", "10.1.4.0/24"))
	if l.Refused(RefusedTooMany) != 2 || len(l.Accepted()) != 3 {
		t.Fatalf("%v", l.List())
	}
	l.Routes(start, withdraw("10.1.2.0/24"))
	if !l.Advance(start.Add(30*time.Second)) || !slices.Equal(l.texts(), []string{"10.1.1.0/24", "10.1.3.0/24", "10.1.4.0/24"}) {
		t.Errorf("%v", l.texts())
	}
}

func TestLearnUnderlay(t *testing.T) {
	l := site()
	l.Routes(start, announce("10.1.1.0/24", "10.1.2.0/24"))
	if !l.SetUnderlay([]netip.Addr{netip.MustParseAddr("10.1.2.1")}) || !slices.Equal(l.texts(), []string{"10.1.1.0/24"}) {
		t.Errorf("%v", l.texts())
	}
	if l.SetUnderlay([]netip.Addr{netip.MustParseAddr("10.1.2.9")}) || l.Routes(start, announce("10.1.2.0/24")) {
		t.Error("it is accepted with an address of the underlay in it")
	}
	if !l.SetUnderlay(nil) || !slices.Equal(l.texts(), []string{"10.1.1.0/24", "10.1.2.0/24"}) {
		t.Errorf("it is not accepted anew: %v", l.texts())
	}
	// The place of one that is given up is another's.
	l.Routes(start, announce("10.1.3.0/24", "10.1.4.0/24"))
	if !l.SetUnderlay([]netip.Addr{netip.MustParseAddr("10.1.1.1")}) || !slices.Equal(l.texts(), []string{"10.1.2.0/24", "10.1.3.0/24", "10.1.4.0/24"}) {
		t.Errorf("%v", l.List())
	}
}

// What is configured while it is learned is learned no more, until it is configured
// no more.
func TestLearnConfigured(t *testing.T) {
	l := site()
	l.Routes(start, announce("10.1.1.0/24", "10.1.7.0/24"))
	if !l.SetConfigured(prefixes("10.1.1.0/24")) || !slices.Equal(l.texts(), []string{"10.1.7.0/24"}) || l.Refused(RefusedConfigured) != 2 {
		t.Errorf("%v", l.List())
	}
	if l.SetConfigured(prefixes("10.1.1.0/24")) || !l.SetConfigured(nil) || !slices.Equal(l.texts(), []string{"10.1.1.0/24", "10.1.7.0/24"}) {
		t.Errorf("%v", l.List())
	}
}

// Whatever is announced and withdrawn: what is accepted is what is announced
// or leaving and allowed, the limits hold, and nothing grows without bound.
func TestLearnProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l, now := site(), start
		there := map[netip.Prefix]bool{}
		before := l.texts()
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 40).Draw(t, "s")) * time.Second)
			p := netip.MustParsePrefix(fmt.Sprintf("10.1.%d.0/%d", rapid.IntRange(0, 12).Draw(t, "net"), rapid.SampledFrom([]int{15, 20, 24, 26}).Draw(t, "bits"))).Masked()
			there[p] = rapid.Bool().Draw(t, "there")
			changed := l.Routes(now, []Received{{Prefix: p, Withdrawn: !there[p]}})
			after := l.texts()
			if changed != !slices.Equal(before, after) {
				t.Fatalf("changed %v: %v, then %v", changed, before, after)
			}
			before = after
			if len(after) > 3 || l.counts[0] != len(after) {
				t.Fatalf("%d accepted, counted %d", len(after), l.counts[0])
			}
			for _, x := range l.List() {
				if x.Refusal != Accepted && !there[x.Prefix] {
					t.Fatalf("remembered, and not there: %+v", x)
				}
				if x.Refusal == Accepted && !there[x.Prefix] && (x.Leaving.IsZero() || !x.Leaving.After(now)) {
					t.Fatalf("accepted, and not there: %+v", x)
				}
			}
		}
	})
}
