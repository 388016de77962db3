package dfz

import (
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// testZone is a clique of 0, 1 and 2 with the customers 3 (of 0 and 1), 4 (of 1 and
// 2) and 5 (of 3 and 4).
func testZone(t *testing.T, watch ...netip.Prefix) *Zone {
	t.Helper()
	z, err := Start(t.Context(), Topology{Routers: 6, Links: []Link{
		{A: 0, B: 1, Peers: true}, {A: 0, B: 2, Peers: true}, {A: 1, B: 2, Peers: true},
		{A: 0, B: 3}, {A: 1, B: 3}, {A: 1, B: 4}, {A: 2, B: 4}, {A: 3, B: 5}, {A: 4, B: 5},
	}}, watch)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(z.Close)
	return z
}

func (z *Zone) mustSettle(t *testing.T, want int) {
	t.Helper()
	if err := z.Settle(t.Context(), want, 20*time.Second); err != nil {
		t.Fatal(err)
	}
}

// path returns the AS path of a speaker to p, nil if it has none.
func (z *Zone) path(t *testing.T, router int, p netip.Prefix) []uint32 {
	t.Helper()
	b, err := z.speakers[router].bests(t.Context(), []netip.Prefix{p})
	if err != nil {
		t.Fatal(err)
	}
	return b[p].path
}

// Routes of customers go everywhere, those of peers and providers to customers
// only; a site that loses one provider is reached by the other; what goes over the
// sessions is counted, for all and for the site; and the table is as before when the
// provider is back.
func TestZone(t *testing.T) {
	site, other := pfx("10.1.0.0/24"), pfx("10.2.0.0/24")
	z := testZone(t, site)
	ctx := t.Context()
	if n, err := z.Sessions(ctx); err != nil || n != 9 {
		t.Fatalf("%d sessions, %v", n, err)
	}
	a, err := z.Dial(ctx, 3, SiteAS(1))
	if err != nil {
		t.Fatal(err)
	}
	b, err := z.Feeder(ctx, 4)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range []*Edge{a, b} {
		if err := e.Announce([]uint32{SiteAS(1)}, []netip.Prefix{site}); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Announce([]uint32{SiteAS(2)}, []netip.Prefix{other}); err != nil {
		t.Fatal(err)
	}
	if err := z.Originate(ctx, 0, pfx("10.3.0.0/16")); err != nil {
		t.Fatal(err)
	}
	z.mustSettle(t, 3)
	tables, err := z.Tables(ctx)
	if err != nil || tables.Prefixes != 18 || tables.MaxPrefixes != 3 {
		t.Fatalf("%+v, %v", tables, err)
	}
	if p := z.path(t, 0, other); len(p) != 3 { // 1 or 2, 4, the site: not over 3
		t.Errorf("0 has the path %v to a site of 4", p)
	}
	if p := z.path(t, 3, other); len(p) != 3 || p[0] != AS(1) {
		t.Errorf("3 has the path %v to a site of 4, not over its provider 1", p)
	}
	if p := z.path(t, 0, site); len(p) != 2 || p[0] != AS(3) {
		t.Errorf("0 has the path %v to a site of its customer 3", p)
	}

	for round, interval := range []time.Duration{0, time.Second} {
		z.SetMRAI(interval)
		var down, up Event
		z.Track(map[*Event][]netip.Prefix{&down: {site}})
		z.Begin(&down)
		a.Close()
		z.mustSettle(t, 3)
		if p := z.path(t, 0, site); len(p) != 3 || p[1] != AS(4) {
			t.Errorf("0 has the path %v to a site that has lost 3", p)
		}
		total := z.Total()
		if total.Updates == 0 || total.Updates != down.Updates || total.Bytes != down.Bytes || total.Withdrawn == 0 ||
			down.First.Before(down.Start) || down.Last.Before(down.First) || down.Touched() < 3 || down.Touched() > 6 {
			t.Errorf("counted in all %+v, for the site %+v", total, down.Count)
		}
		if down.Bytes < 23*down.Updates {
			t.Errorf("%v octets in %v messages", down.Bytes, down.Updates)
		}
		z.Track(map[*Event][]netip.Prefix{&up: {site}})
		z.Begin(&up)
		if err := a.Open(ctx); err != nil {
			t.Fatal(err)
		}
		if err := a.Announce([]uint32{SiteAS(1)}, []netip.Prefix{site}); err != nil {
			t.Fatal(err)
		}
		z.mustSettle(t, 3)
		again, err := z.Tables(ctx)
		if err != nil || again.Paths != tables.Paths {
			t.Errorf("round %d: %d paths when the provider is back, %d before, %v", round, again.Paths, tables.Paths, err)
		}
		if up.EdgeUpdates != 1 || up.Announced == 0 {
			t.Errorf("counted for the return %+v", up.Count)
		}
	}

	// A session among speakers that is cut comes back with all routes.
	if _, err := z.CutLink(ctx, 3); err != nil {
		t.Fatal(err)
	}
	z.mustSettle(t, 3)
	if again, err := z.Tables(ctx); err != nil || again.Paths != tables.Paths {
		t.Errorf("%d paths after a restart, %d before, %v", again.Paths, tables.Paths, err)
	}
}

// What a neighbour was told and should not have any more is withdrawn, once, and
// what it should have been told and was not is an error.
func TestComplete(t *testing.T) {
	site, gone := pfx("10.1.0.0/24"), pfx("10.4.0.0/24")
	z := testZone(t, site, gone)
	e, err := z.Dial(t.Context(), 5, SiteAS(1))
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Announce([]uint32{SiteAS(1)}, []netip.Prefix{site}); err != nil {
		t.Fatal(err)
	}
	z.mustSettle(t, 1)
	z.Track(nil)
	// 3 hears from 0 of a prefix that 0 has no route to, and tells others.
	attrs, err := attributes([]uint32{AS(0), SiteAS(9)}, speakerAddr(0))
	if err != nil {
		t.Fatal(err)
	}
	p := z.relays[3].both()[0] // from 0 to 3
	p.mu.Lock()
	p.c.add(time.Now(), gone, string(attrs))
	p.mu.Unlock()
	p.poke()
	z.mustSettle(t, 1)
	if c := z.Total(); c.Completed != 1 || c.Announced < 2 || c.Withdrawn != c.Announced {
		t.Errorf("%+v", c)
	}
	// What 5 thought before it said its last word is no reason to withdraw that.
	q := z.relays[7].both()[1] // from 5 to 3
	before, _ := z.speakers[5].bests(t.Context(), nil)
	if n, err := q.complete(z.speakers[5], backAddr(7), AS(3), before, []netip.Prefix{site}, z.tracker.last().Add(-time.Millisecond)); n != 0 || err != errChanging {
		t.Errorf("%d withdrawals of what was announced since, %v", n, err)
	}
	q.mu.Lock()
	delete(q.said, site)
	q.mu.Unlock()
	if err := z.Settle(t.Context(), 1, time.Second); err == nil || !strings.Contains(err.Error(), "has not told") {
		t.Errorf("a route that was not told: %v", err)
	}
}

func TestHierarchies(t *testing.T) {
	for n := MinRouters; n <= 60; n++ {
		top, err := Hierarchy(n, rand.New(rand.NewPCG(uint64(n), 0)))
		if err != nil {
			t.Fatalf("%d routers: %v", n, err)
		}
		if top.Routers != n || len(top.Edge) == 0 {
			t.Errorf("%d routers: %+v", n, top)
		}
	}
	if _, err := Hierarchy(MinRouters-1, rand.New(rand.NewPCG(1, 0))); err == nil {
		t.Error("a zone without tiers")
	}
	for name, bad := range map[string]Topology{
		"twice":    {Routers: 2, Links: []Link{{A: 0, B: 1}, {A: 1, B: 0, Peers: true}}},
		"circle":   {Routers: 3, Links: []Link{{A: 0, B: 1}, {A: 1, B: 2}, {A: 2, B: 0}}},
		"two tops": {Routers: 3, Links: []Link{{A: 0, B: 1}}},
	} {
		if bad.check() == nil {
			t.Errorf("%s is taken", name)
		}
	}
}
