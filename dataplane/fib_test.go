package dataplane_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/encap"
	"github.com/eidolon-lisp/eidolon/mapping"
)

func entryOf(t *testing.T, f *dataplane.FIB, e string) *dataplane.Entry {
	t.Helper()
	x := f.Snapshot().Lookup(0, eid(e).Prefix.Addr(), netip.Addr{}, t0)
	if x == nil {
		t.Fatalf("no entry for %s", e)
	}
	return x
}

func newFIB() *dataplane.FIB {
	f := dataplane.NewFIB()
	f.SetSources(from(ours4, ours6))
	return f
}

// learn installs records that are valid for an hour from t0.
func learn(f *dataplane.FIB, recs ...*mapping.Record) { f.Apply(changes(t0.Add(time.Hour), recs...)) }

func rlocN(i int) netip.Addr { return addr(fmt.Sprintf("198.51.100.%d", i)) }

func TestLocatorChoice(t *testing.T) {
	loc := func(a netip.Addr, prio uint8, flags mapping.LocatorFlags) mapping.Locator {
		return mapping.Locator{Addr: a, Priority: prio, Weight: 100, Flags: flags}
	}
	const up = mapping.Reachable
	for _, c := range []struct {
		name string
		locs []mapping.Locator
		v6   bool // we have an IPv6 source
		want []netip.Addr
		drop dataplane.DropReason
	}{
		{"lowest priority", []mapping.Locator{loc(rlocN(1), 2, up), loc(rlocN(2), 1, up), loc(rlocN(3), 1, up)}, true, []netip.Addr{rlocN(2), rlocN(3)}, 0},
		{"R bit clear", []mapping.Locator{loc(rlocN(1), 1, 0), loc(rlocN(2), 9, up)}, true, []netip.Addr{rlocN(2)}, 0},
		{"255 is never used", []mapping.Locator{loc(rlocN(1), 255, up)}, true, nil, dataplane.DropNoLocator},
		{"other family by priority", []mapping.Locator{loc(rlocN(1), 2, up), loc(theirs6, 1, up)}, true, []netip.Addr{theirs6}, 0},
		{"other family unusable", []mapping.Locator{loc(rlocN(1), 2, up), loc(theirs6, 1, up)}, false, []netip.Addr{rlocN(1)}, 0},
		{"only the other family", []mapping.Locator{loc(theirs6, 1, up)}, false, nil, dataplane.DropNoSource},
		{"opaque", []mapping.Locator{{Opaque: "\x00\x11name", Priority: 1, Flags: up}}, true, nil, dataplane.DropNoLocator},
	} {
		f := dataplane.NewFIB()
		f.SetSources(from(ours4, ours6))
		if !c.v6 {
			f.SetSources(from(ours4))
		}
		learn(f, &mapping.Record{EID: eid("10.2.0.0/16"), Locators: c.locs})
		e := entryOf(t, f, "10.2.0.0/16")
		var got []netip.Addr
		for _, r := range e.RLOCs() {
			got = append(got, r.Addr())
		}
		if fmt.Sprint(got) != fmt.Sprint(c.want) || e.Drop() != c.drop {
			t.Errorf("%s: %v, %v, want %v, %v", c.name, got, e.Drop(), c.want, c.drop)
		}
	}
}

// Sources that come and go change what can be used, at once for all entries.
func TestSetSources(t *testing.T) {
	f := dataplane.NewFIB()
	learn(f, positive("10.2.0.0/16", theirs4), positive("10.3.0.0/16", theirs4, theirs6))
	if e := entryOf(t, f, "10.2.0.0/16"); e.Drop() != dataplane.DropNoSource {
		t.Errorf("without sources: %v", e.Drop())
	}
	f.SetSources(from(ours4))
	if e := entryOf(t, f, "10.3.0.0/16"); e.Drop() != 0 || len(e.RLOCs()) != 1 || f.Snapshot().Source(theirs4, 0) != ours4 {
		t.Errorf("with IPv4: %v, %d locators", e.Drop(), len(e.RLOCs()))
	}
	f.SetSources(from(addr("192.0.2.77"), ours6))
	if e := entryOf(t, f, "10.3.0.0/16"); len(e.RLOCs()) != 2 || f.Snapshot().Source(theirs4, 0) != addr("192.0.2.77") {
		t.Errorf("with both: %d locators", len(e.RLOCs()))
	}
}

func TestLongestMatchAndRemoval(t *testing.T) {
	f := newFIB()
	learn(f, positive("10.2.0.0/16", rlocN(1)), positive("10.2.3.0/24", rlocN(2)))
	to := func() netip.Addr {
		return f.Snapshot().Lookup(0, addr("10.2.3.4"), ours4, t0).RLOC(0).Addr()
	}
	if to() != rlocN(2) {
		t.Errorf("to %v", to())
	}
	f.Apply([]mapping.CacheChange{{EID: eid("10.2.3.0/24")}, {EID: eid("10.99.0.0/16")}})
	if to() != rlocN(1) {
		t.Errorf("after removal to %v", to())
	}
	// The order of changes in one call counts.
	f.Apply([]mapping.CacheChange{{EID: eid("10.2.0.0/16")},
		{EID: eid("10.2.0.0/16"), Record: positive("10.2.0.0/16", rlocN(3)), Expires: t0.Add(time.Hour)}})
	if to() != rlocN(3) {
		t.Errorf("after both to %v", to())
	}
}

func TestExpiry(t *testing.T) {
	f := newFIB()
	learn(f, positive("10.2.0.0/16", theirs4))
	look := func(now time.Time) bool { return f.Snapshot().Lookup(0, addr("10.2.0.1"), ours4, now) != nil }
	if !look(t0.Add(time.Hour-1)) || look(t0.Add(time.Hour)) {
		t.Error("the entry does not end when it should")
	}
}

func TestCountersOutliveRecords(t *testing.T) {
	s := newSite(t, dataplane.MissPolicy{})
	s.learn(positive("10.2.0.0/16", theirs4), positive("2001:db8:2::/48", theirs4))
	p4, p6 := flow4(72).Bytes(), flow6(52).Bytes() // 100 octets each
	s.send(0, p4, p4, p6)
	used := func() string {
		var out []string
		s.fib.Usage(func(e mapping.EID, p, b uint64) { out = append(out, fmt.Sprintf("%v %d %d;", e, p, b)) })
		slices.Sort(out)
		return strings.Join(out, "")
	}
	if got := used(); got != "10.2.0.0/16 2 200;2001:db8:2::/48 1 100;" {
		t.Errorf("first round: %s", got)
	}
	if got := used(); got != "" {
		t.Errorf("nothing was sent, but %s", got)
	}
	s.learn(positive("10.2.0.0/16", theirs4, theirs6))
	s.learn(positive("10.2.0.0/16", theirs4))
	s.send(0, p4)
	if got := used(); got != "10.2.0.0/16 1 100;" {
		t.Errorf("after a change: %s", got)
	}
	e := s.fib.Snapshot().Lookup(0, addr("10.2.0.1"), ours4, s.now)
	if p, b := e.Count(); p != 3 || b != 300 {
		t.Errorf("entry has %d packets, %d octets", p, b)
	}
	for r := range s.fib.RLOCs() {
		if p, b := r.Count(); r.Addr() != theirs4 || p != 4 || b != 400 {
			t.Errorf("%v has %d packets, %d octets", r.Addr(), p, b)
		}
	}
	// A mapping that flaps does not lose its locator's counters.
	s.fib.Apply([]mapping.CacheChange{{EID: eid("10.2.0.0/16")}, {EID: eid("2001:db8:2::/48")}})
	for r := range s.fib.RLOCs() {
		t.Errorf("%v is still listed", r.Addr())
	}
	s.learn(positive("10.2.0.0/16", theirs4))
	for r := range s.fib.RLOCs() {
		if p, _ := r.Count(); p != 4 {
			t.Errorf("after a flap %d packets", p)
		}
	}
}

// Workers that send while Usage looks lose nothing, and nothing counts twice.
func TestUsageWhileSending(t *testing.T) {
	s := newSite(t, dataplane.MissPolicy{})
	const mappings, workers, rounds = 8, 4, 2000
	for i := range mappings {
		s.learn(positive(fmt.Sprintf("10.2.%d.0/24", i), theirs4))
	}
	var entries []*dataplane.Entry
	for i := range mappings {
		entries = append(entries, entryOf(t, s.fib, fmt.Sprintf("10.2.%d.0/24", i)))
	}
	var sending sync.WaitGroup
	for range workers {
		sending.Go(func() {
			for i := range rounds {
				s.fib.Sent(entries[i%mappings], 1, 100)
			}
		})
	}
	done := make(chan struct{})
	go func() { sending.Wait(); close(done) }()
	got, octets := make(map[mapping.EID]uint64), make(map[mapping.EID]uint64)
	look := func() {
		s.fib.Usage(func(e mapping.EID, p, b uint64) {
			got[e] += p
			octets[e] += b
		})
	}
	for ended := false; !ended; {
		select {
		case <-done:
			ended = true
		default:
		}
		look()
	}
	for _, e := range entries {
		if got[e.EID()] != workers*rounds/mappings {
			t.Errorf("%v carried %d packets, want %d", e.EID(), got[e.EID()], workers*rounds/mappings)
		}
	}
	s.fib.Usage(func(e mapping.EID, p, _ uint64) { t.Errorf("%v carried %d packets more", e, p) })
	// Octets may be told with the next packet.
	for _, e := range entries {
		s.fib.Sent(e, 1, 100)
	}
	look()
	for _, e := range entries {
		if want := uint64(100 * (workers*rounds/mappings + 1)); octets[e.EID()] != want {
			t.Errorf("%v carried %d octets, want %d", e.EID(), octets[e.EID()], want)
		}
	}
}

// Locators that nobody uses any more do not pile up.
func TestRLOCsForgotten(t *testing.T) {
	f := newFIB()
	for i := range 3000 {
		a := netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)})
		learn(f, positive("10.2.0.0/16", a))
		if !f.LowerMTU(a, 1400, t0) {
			t.Fatalf("locator %d is not there", i)
		}
	}
	if f.LowerMTU(netip.AddrFrom4([4]byte{198, 18, 0, 0}), 1300, t0) {
		t.Error("the first of 3000 is still there")
	}
}

func TestPathMTU(t *testing.T) {
	f := newFIB()
	f.SetDefaultMTU(9000)
	learn(f, positive("10.2.0.0/16", theirs4, theirs6))
	e := entryOf(t, f, "10.2.0.0/16")
	mtu := func() string {
		var out string
		for _, r := range e.RLOCs() {
			out += fmt.Sprintf("%d %d;", r.MTU(), r.Room())
		}
		return out
	}
	want := func(what, s string) {
		t.Helper()
		if got := mtu(); got != s {
			t.Errorf("%s: %s, want %s", what, got, s)
		}
	}
	want("default", "9000 8964;9000 8944;")
	f.SetRouteMTU(theirs4, 1500, t0)
	f.SetRouteMTU(theirs6, 1500, t0)
	want("route", "1500 1464;1500 1444;")
	if f.LowerMTU(theirs4, 1600, t0) || f.LowerMTU(rlocN(9), 1400, t0) || f.LowerMTU(theirs4, 0, t0) || f.LowerMTU(theirs4, -1, t0) {
		t.Error("an MTU was lowered that should not be")
	}
	if !f.LowerMTU(theirs4, 1400, t0) || !f.LowerMTU(theirs6, 100, t0) {
		t.Error("not lowered")
	}
	want("lowered, and the floor of IPv6", "1400 1364;1280 1224;")
	f.LowerMTU(theirs4, 68, t0)
	want("the floor of IPv4", "576 540;1280 1224;")
	f.SetRouteMTU(theirs4, 1500, t0.Add(9*time.Minute))
	want("nine minutes later", "576 540;1280 1224;")
	f.SetRouteMTU(theirs4, 1500, t0.Add(10*time.Minute))
	want("ten minutes later", "1500 1464;1280 1224;")
	// What was measured goes both ways, up to the route's.
	f.SetPathMTU(theirs4, 1400, t0.Add(10*time.Minute))
	f.SetPathMTU(theirs4, 1440, t0.Add(11*time.Minute))
	f.SetPathMTU(rlocN(9), 1440, t0)
	f.SetPathMTU(theirs6, 0, t0)
	want("measured", "1440 1404;1280 1224;")
	f.SetRouteMTU(theirs4, 1500, t0.Add(20*time.Minute))
	want("nine minutes after that", "1440 1404;1280 1224;")
	f.SetPathMTU(theirs4, 100, t0.Add(20*time.Minute))
	want("the floor", "576 540;1280 1224;")
	f.SetPathMTU(theirs4, 9000, t0.Add(20*time.Minute))
	want("more than the route's", "1500 1464;1280 1224;")
	if r := e.RLOCs()[0]; r.RouteMTU() != 1500 {
		t.Errorf("route MTU %d", r.RouteMTU())
	}
	// A republished entry knows what was learned.
	learn(f, positive("10.2.0.0/16", theirs6))
	if r := entryOf(t, f, "10.2.0.0/16").RLOCs()[0]; r.MTU() != encap.MinMTU6 {
		t.Errorf("after a change %d", r.MTU())
	}
}

func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFIB()
		a, b := f.Watch(), f.Watch()
		learn(f, positive("10.2.0.0/16", theirs4))
		learn(f, positive("10.3.0.0/16", theirs4))
		<-a
		<-b
		select {
		case <-a:
			t.Error("two signals for changes that were both seen")
		default:
		}
	})
}
