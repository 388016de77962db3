package dataplane_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/dataplane/dptest"
	"github.com/eidolon-lisp/eidolon/mapping"
)

// checkedSite is a site with a check of sources.
func checkedSite(t testing.TB, check dataplane.SourceCheck) *site {
	s := newSite(t, dataplane.MissPolicy{})
	s.fwd = dataplane.NewForwarder(s.fib, dataplane.Config{SourceCheck: check, Now: func() time.Time { return s.now }})
	s.in = s.fwd.NewDecap(map[uint32]dataplane.HostWriter{0: s.host, 7: s.host7})
	return s
}

// receive takes one packet from an RLOC and reports whether a host got it.
func (s *site) receive(p dptest.Inner, rloc string) bool {
	s.in.Batch([]dataplane.Packet{p.Lisp(0, rloc, "192.0.2.1")})
	return len(s.host.Written()) == 1
}

// The check of sources in its three forms, for what the map-cache may say of
// the inner source.
func TestSourceCheck(t *testing.T) {
	down := positive("10.2.0.0/16", theirs4)
	down.Locators[0].Flags = 0
	opaque := &mapping.Record{EID: eid("10.2.0.0/16"), TTL: 60, Locators: []mapping.Locator{{Opaque: "\x00\x11name", Priority: 1}}}
	for _, c := range []struct {
		name   string
		record *mapping.Record
		drop   [3]dataplane.DropReason // unchecked, loose, strict
		ask    [3]bool
	}{
		{"listed", positive("10.2.0.0/16", theirs4, rlocN(2)), [3]dataplane.DropReason{}, [3]bool{}},
		{"listed, though down", down, [3]dataplane.DropReason{}, [3]bool{}},
		{"not listed", positive("10.2.0.0/16", rlocN(2)), [3]dataplane.DropReason{2: dataplane.DropSourceUnlisted}, [3]bool{false, true, true}},
		{"only names", opaque, [3]dataplane.DropReason{2: dataplane.DropSourceUnlisted}, [3]bool{false, true, true}},
		{"none", nil, [3]dataplane.DropReason{2: dataplane.DropSourceNoMapping}, [3]bool{2: true}},
		{"another prefix", positive("10.3.0.0/16", theirs4), [3]dataplane.DropReason{2: dataplane.DropSourceNoMapping}, [3]bool{2: true}},
		{"another instance", positive("[7]10.2.0.0/16", theirs4), [3]dataplane.DropReason{2: dataplane.DropSourceNoMapping}, [3]bool{2: true}},
		{"negative", mapping.NegativeRecord(eid("10.2.0.0/16"), mapping.NativelyForward, 15), [3]dataplane.DropReason{2: dataplane.DropSourceNoMapping}, [3]bool{}},
		{"send-map-request", mapping.NegativeRecord(eid("10.2.0.0/16"), mapping.SendMapRequest, 15), [3]dataplane.DropReason{2: dataplane.DropSourceNoMapping}, [3]bool{2: true}},
	} {
		for check, drop := range c.drop {
			s := checkedSite(t, dataplane.SourceCheck(check))
			if c.record != nil {
				s.learn(c.record)
			}
			if got := s.receive(back4(10), "198.51.100.1"); got != (drop == dataplane.NotDropped) {
				t.Errorf("%s, check %d: delivered %v, drops %v", c.name, check, got, s.drops())
			}
			if drop != dataplane.NotDropped {
				s.wantDrops(drop, 1)
			}
			var asked []any
			for len(s.fwd.Misses()) > 0 {
				m := <-s.fwd.Misses()
				if m != (dataplane.Miss{Dst: addr("10.2.0.1")}) {
					t.Errorf("%s, check %d: missed %+v", c.name, check, m)
				}
				asked = append(asked, m)
			}
			for _, ev := range s.events() {
				if ev != (dataplane.VersionEvent{Unlisted: true, EID: eid("10.2.0.0/16"), RLOC: theirs4, Host: addr("10.2.0.1")}) {
					t.Errorf("%s, check %d: told %+v", c.name, check, ev)
				}
				asked = append(asked, ev)
			}
			if len(asked) > 1 || (len(asked) == 1) != c.ask[check] {
				t.Errorf("%s, check %d: asked %v", c.name, check, asked)
			}
		}
	}
}

// A site that sends from a new address before its mapping says so loses nothing
// with the loose check, also when the mapping was asked for too early. Who goes
// on from an address that a mapping learned since does not have is cut off.
func TestLooseCheckFollowsAChange(t *testing.T) {
	s := checkedSite(t, dataplane.SourcesLoose)
	s.learn(positive("10.2.0.0/16", theirs4))
	moved, forged := "198.51.100.2", "203.0.113.66"
	step := func(what string, d time.Duration, want, wantForged bool) {
		t.Helper()
		s.now = s.now.Add(d)
		if got := s.receive(back4(10), moved); got != want {
			t.Errorf("%s: from the new address delivered %v", what, got)
		}
		if got := s.receive(back4(10), forged); got != wantForged {
			t.Errorf("%s: from elsewhere delivered %v", what, got)
		}
	}
	step("before anything is known", time.Minute, true, true)
	s.now = s.now.Add(100 * time.Millisecond)
	s.learn(positive("10.2.0.0/16", theirs4))
	step("the answer was the old one", time.Second, true, true)
	s.learn(positive("10.2.0.0/16", addr(moved)))
	step("the right answer, too early for the other", time.Second, true, true)
	step("nobody asked again", 30*time.Second, true, true)
	s.learn(positive("10.2.0.0/16", addr(moved)))
	step("a fresh answer", 0, true, false)
	step("later", 30*time.Second, true, false)
	s.wantDrops(dataplane.DropSourceUnlisted, 2)
	// A record that was changed here, not learned, is not fresh: it expires as
	// the one before.
	was := s.now.Add(time.Hour)
	s.now = s.now.Add(2 * time.Minute)
	down := positive("10.2.0.0/16", addr(moved), rlocN(7))
	s.fib.Apply(changes(was, down))
	step("after a rest, and no news since", 0, true, true)
	s.now = s.now.Add(10 * time.Second)
	s.fib.Apply(changes(was, down))
	step("a locator's state changed", 0, true, true)
}

// Packets from everywhere ask for no more than a trickle, with the strict check
// too, and the room for what hosts of the site miss is theirs.
func TestAbuse_ForgedSourcesAskLittle(t *testing.T) {
	s := checkedSite(t, dataplane.SourcesStrict)
	p := back4(10)
	for i := range 5000 {
		p.Src = netip.AddrFrom4([4]byte{10, 9, byte(i >> 8), byte(i)})
		s.receive(p, "203.0.113.66")
	}
	s.wantDrops(dataplane.DropSourceNoMapping, 5000)
	if n := len(s.fwd.Misses()); n == 0 || n > 20 {
		t.Errorf("%d mappings asked for", n)
	}
	if s.fwd.Count(dataplane.MissLimited) < 4000 {
		t.Error("what was not asked for is not counted")
	}
	s.learn(positive("10.2.0.0/16", theirs4))
	for i := range 5000 { // of one EID, from many addresses
		s.receive(back4(10), netip.AddrFrom4([4]byte{203, 0, byte(i >> 8), byte(i)}).String())
	}
	if n := len(s.fwd.Versions()); n == 0 || n > 256 {
		t.Errorf("%d findings wait", n)
	}
}

// Received packets count for the entry of their inner source, sent ones for the
// entry of their destination.
func TestActive(t *testing.T) {
	s := newSite(t, dataplane.MissPolicy{})
	s.learn(positive("10.2.0.0/16", theirs4), positive("2001:db8:2::/48", theirs4), positive("[7]10.2.0.0/16", theirs4), positive("10.3.0.0/16", theirs4))
	active := func() map[string][2]uint64 {
		m := make(map[string][2]uint64)
		for _, a := range s.fib.Active(nil) {
			if _, twice := m[a.EID.String()]; twice {
				t.Errorf("%v is there twice", a.EID)
			}
			m[a.EID.String()] = [2]uint64{a.Sent, a.Received}
		}
		return m
	}
	want := func(what string, w map[string][2]uint64) {
		t.Helper()
		got := active()
		if len(got) != len(w) {
			t.Errorf("%s: %v, want %v", what, got, w)
		}
		for e, n := range w {
			if got[e] != n {
				t.Errorf("%s: %s has %v, want %v", what, e, got[e], n)
			}
		}
	}
	want("nothing yet", nil)
	p4, p6 := flow4(10).Bytes(), flow6(10).Bytes()
	s.send(0, p4, p4, p6)
	elsewhere := back4(10)
	elsewhere.Src = addr("10.99.0.1") // no mapping
	b4, b6 := back4(10).Lisp(0, "198.51.100.1", "192.0.2.1"), back6(10).Lisp(0, "198.51.100.1", "192.0.2.1")
	s.in.Batch([]dataplane.Packet{b4, b4, b6, b4, elsewhere.Lisp(0, "198.51.100.1", "192.0.2.1"), back4(10).Lisp(7, "198.51.100.1", "192.0.2.1")})
	all := map[string][2]uint64{"10.2.0.0/16": {2, 3}, "2001:db8:2::/48": {1, 1}, "[7]10.2.0.0/16": {0, 1}}
	want("both ways", all)
	want("nothing new", all)
	s.send(0, flow4(10).Bytes())
	all["10.2.0.0/16"] = [2]uint64{3, 3}
	want("one more", all)
	// A record that is replaced goes on counting; an entry that went does not.
	s.learn(positive("10.2.0.0/16", theirs4, theirs6))
	s.fib.Apply([]mapping.CacheChange{{EID: eid("2001:db8:2::/48")}})
	delete(all, "2001:db8:2::/48")
	want("replaced and removed", all)
	s.learn(positive("2001:db8:2::/48", theirs4))
	s.in.Batch([]dataplane.Packet{back6(10).Lisp(0, "198.51.100.1", "192.0.2.1"), back4(10).Lisp(7, "198.51.100.1", "192.0.2.1")})
	all["2001:db8:2::/48"], all["[7]10.2.0.0/16"] = [2]uint64{0, 1}, [2]uint64{0, 2}
	want("back again", all)
	for range 198 {
		s.send(0, flow4(10).Bytes())
		active()
	}
	if got := active(); len(got) != 3 {
		t.Errorf("after 199 calls %v", got)
	}
	if got := active(); len(got) != 1 || got["10.2.0.0/16"] != [2]uint64{201, 3} {
		t.Errorf("after 200 calls without traffic: %v", got)
	}
	s.in.Batch([]dataplane.Packet{back4(10).Lisp(7, "198.51.100.1", "192.0.2.1")})
	if got := active(); got["[7]10.2.0.0/16"] != [2]uint64{0, 3} {
		t.Errorf("traffic again: %v", got)
	}
}

// The list is bounded: who has traffic stays, and who had none makes room.
func TestActiveBounded(t *testing.T) {
	s := newSite(t, dataplane.MissPolicy{})
	var recs []*mapping.Record
	for i := range 3000 {
		recs = append(recs, positive(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 2 + byte(i>>8), byte(i), 0}), 24).String(), theirs4))
	}
	s.learn(recs...)
	send := func(from, to int) {
		for i := from; i < to; i++ {
			p := flow4(10)
			p.Dst = netip.AddrFrom4([4]byte{10, 2 + byte(i>>8), byte(i), 1})
			s.send(0, p.Bytes())
		}
		s.under.Sent()
	}
	send(0, 3000)
	if n := len(s.fib.Active(nil)); n != 1024 {
		t.Fatalf("%d entries of 3000 are active", n)
	}
	// The first hundred go on, others begin.
	send(0, 100)
	send(2000, 2500)
	seen := make(map[mapping.EID]uint64)
	for _, a := range s.fib.Active(nil) {
		seen[a.EID] = a.Sent
	}
	if len(seen) > 1024 {
		t.Errorf("%d entries", len(seen))
	}
	for i, r := range recs {
		if want := i < 100 || i >= 2000 && i < 2500; want && seen[r.EID] != 2 {
			t.Errorf("%v: sent %d", r.EID, seen[r.EID])
		}
	}
	buf := make([]dataplane.Activity, 0, 1024)
	if n := testing.AllocsPerRun(10, func() { buf = s.fib.Active(buf[:0]) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// What is unreachable is told without waiting, and no more is kept than 64.
func TestUnreachableIsBounded(t *testing.T) {
	s := newSite(t, dataplane.MissPolicy{})
	for i := range 100 {
		s.fwd.TellUnreachable(dataplane.Path{Local: ours4, Remote: rlocN(i)}, s.fwd.Counters())
	}
	s.wantCount(dataplane.UnreachableQueued, 64)
	s.wantCount(dataplane.UnreachableLost, 36)
	if p := <-s.fwd.Unreachable(); p != (dataplane.Path{Local: ours4, Remote: rlocN(0)}) {
		t.Errorf("told %v", p)
	}
	// What a worker counted is kept when it ends.
	c := s.fwd.Counters()
	c.Add(dataplane.UnreachableLost, 3)
	c.Drop(dataplane.DropSendNoSocket, 5)
	s.fwd.End(c)
	s.fwd.End(c)
	s.wantCount(dataplane.UnreachableLost, 39)
	s.wantDrops(dataplane.DropSendNoSocket, 5)
}

func BenchmarkDecapFlows(b *testing.B) {
	for name, check := range map[string]dataplane.SourceCheck{"unchecked": dataplane.SourcesUnchecked, "loose": dataplane.SourcesLoose} {
		s := checkedSite(b, check)
		s.host.Discard = true
		s.learn(positive("10.2.0.0/16", theirs4))
		var batch []dataplane.Packet
		for i := range 64 {
			p := back4(1000)
			p.Src = netip.AddrFrom4([4]byte{10, 2, 0, byte(i)})
			batch = append(batch, p.Lisp(0, "198.51.100.1", "192.0.2.1"))
		}
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				s.in.Batch(batch)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/64, "ns/packet")
		})
	}
}
