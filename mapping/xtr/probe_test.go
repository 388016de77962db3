package xtr

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

var rlocB = addr("203.0.113.8")

// twoLocators is a record whose site has two uplinks of the same priority.
func twoLocators(e string) *mapping.Record {
	return &mapping.Record{EID: eid(e), TTL: 1440, Authoritative: true, Locators: []mapping.Locator{
		mapping.MakeLocator(etr1.Addr(), 1, 50), mapping.MakeLocator(rlocB, 1, 50)}}
}

// probeRig is an xTR that uses 10.2.0.0/16 in rounds of 5 s, and probes.
type probeRig struct {
	*rig
	used   []string
	silent map[netip.Addr]bool // RLOCs that do not answer
	probes []sent              // all that were sent
}

func newProbeRig(t testing.TB, edit func(*Config)) *probeRig {
	cfg := noRegister()
	cfg.RLOCProbing.Off = false
	if edit != nil {
		edit(&cfg)
	}
	r := &probeRig{rig: newRig(t, cfg), used: []string{"10.2.0.0/16"}, silent: map[netip.Addr]bool{}}
	r.learn(peer, twoLocators("10.2.0.0/16"))
	r.changes = nil
	return r
}

// probeRequest opens a probe.
func probeRequest(t testing.TB, b []byte) wire.MapRequest {
	t.Helper()
	var m wire.MapRequest
	if err := m.Decode(b); err != nil {
		t.Fatal(err)
	}
	if !m.Probe {
		t.Fatalf("not a probe: %+v", m)
	}
	return m
}

// probeReply makes the reply of an ETR that was probed at rloc.
func probeReply(t testing.TB, nonce uint64, rloc netip.Addr, recs ...*mapping.Record) []byte {
	t.Helper()
	for i, r := range recs {
		recs[i] = r.Clone()
		for n, l := range recs[i].Locators {
			if l.Addr == rloc {
				recs[i].Locators[n].Flags |= mapping.Probed
			}
		}
	}
	return mustEncode(t, &wire.MapReply{Probe: true, Nonce: nonce, Records: records(t, recs...)})
}

// run lets time pass, with traffic, and answers probes.
func (r *probeRig) run(end time.Duration) {
	r.t.Helper()
	for d := r.now.Sub(zeroTime); d <= end; d += 100 * time.Millisecond {
		r.until(d)
		if d%(5*time.Second) == 0 && r.used != nil {
			r.rig.used(r.used...)
		}
		for _, s := range r.take() {
			if ty, _ := wire.PeekType(s.data); ty != wire.TypeMapRequest {
				continue // a refresh
			}
			r.probes = append(r.probes, s)
			if m := probeRequest(r.t, s.data); !r.silent[s.dst.Addr()] {
				r.receive(probeReply(r.t, m.Nonce, s.dst.Addr(), twoLocators(asked(r.t, m).String())), s.dst)
			}
		}
	}
}

// usable returns the RLOCs of e that the planes were told to use last.
func (r *probeRig) usable(e string) []string {
	var out []string
	for _, c := range r.changes {
		if c.EID != eid(e) {
			continue
		}
		out = []string{}
		if c.Record == nil {
			continue
		}
		for _, l := range c.Record.Locators {
			if l.Usable() {
				out = append(out, l.Addr.String())
			}
		}
	}
	return out
}

func (r *probeRig) status(a netip.Addr) RLOCStatus {
	for _, s := range r.m.probes.status() {
		if s.Addr == a {
			return s
		}
	}
	return RLOCStatus{}
}

// TestI10_ProbesGoToTheLocator: a probe is a bare Map-Request from an RLOC to
// the probed RLOC; the mapping system gets none, even where a record names one
// of its addresses.
func TestI10_ProbesGoToTheLocator(t *testing.T) {
	r := newProbeRig(t, func(c *Config) { c.MapServers = []MapServer{{Addr: ms1, Key: key}} })
	r.learn(addr("10.3.0.1"), &mapping.Record{EID: eid("10.3.0.0/16"), TTL: 1440, Locators: []mapping.Locator{
		mapping.MakeLocator(mr1.Addr(), 1, 1), mapping.MakeLocator(ms1.Addr(), 1, 1), mapping.MakeLocator(own4, 1, 1)}})
	r.used = append(r.used, "10.3.0.0/16")
	r.run(5 * time.Minute)
	to := map[netip.AddrPort]int{}
	for _, s := range r.probes {
		m := probeRequest(t, s.data)
		if s.src != local || !m.SourceEID.IsZero() || m.SMR || m.Authoritative || m.HasMapData || asked(t, m) != eid("10.2.0.0/16") {
			t.Errorf("probe %+v from %v", m, s.src)
		}
		to[s.dst]++
	}
	if len(to) != 2 || to[etr1] < 8 || to[netip.AddrPortFrom(rlocB, 4342)] < 8 {
		t.Errorf("probes to %v", to)
	}
	if s := r.status(etr1.Addr()); !s.Up || s.Replies != uint64(to[etr1]) || s.RTT == 0 && s.LastReply.IsZero() {
		t.Errorf("status %+v", s)
	}
}

// TestProbeVerdict: a locator that falls silent is taken away from the planes
// within half a minute and some seconds, and comes back with its first reply.
func TestProbeVerdict(t *testing.T) {
	r := newProbeRig(t, nil)
	r.run(2 * time.Minute)
	if len(r.changes) != 0 {
		t.Fatalf("changes %v while all answer", r.changes)
	}
	r.silent[rlocB] = true
	r.run(2*time.Minute + 45*time.Second)
	if got := r.usable("10.2.0.0/16"); !slices.Equal(got, []string{"203.0.113.7"}) {
		t.Fatalf("usable %v", got)
	}
	if s := r.status(rlocB); s.Up || s.Failures < 3 {
		t.Errorf("status %+v", s)
	}
	entry, _ := r.m.itr.cache.Get(eid("10.2.0.0/16"))
	if !entry.Record.Equal(twoLocators("10.2.0.0/16")) {
		t.Errorf("the map-cache was changed: %v", entry.Record)
	}
	// What is learned meanwhile with this locator goes without it too.
	r.used = append(r.used, "10.3.0.0/16")
	r.miss(addr("10.3.0.1"), hostA)
	_, req := mapRequest(t, r.one().data)
	r.receive(reply(t, req.Nonce, twoLocators("10.3.0.0/16")), etr1)
	if got := r.usable("10.3.0.0/16"); !slices.Equal(got, []string{"203.0.113.7"}) {
		t.Errorf("usable of a new entry %v", got)
	}
	r.run(10 * time.Minute)
	r.silent[rlocB] = false
	r.run(10*time.Minute + 11*time.Second)
	for _, e := range r.used {
		if got := r.usable(e); !slices.Equal(got, []string{"203.0.113.7", "203.0.113.8"}) {
			t.Errorf("usable of %s after the return %v", e, got)
		}
	}
	if r.stat(rlocsDown) != 1 || r.stat(rlocsUp) != 1 {
		t.Errorf("down %d times, up %d times", r.stat(rlocsDown), r.stat(rlocsUp))
	}
}

// TestProbeAllDown: an entry whose locators are all silent is left as it was
// learned.
func TestProbeAllDown(t *testing.T) {
	r := newProbeRig(t, nil)
	r.run(time.Minute)
	r.silent[rlocB], r.silent[etr1.Addr()] = true, true
	r.run(2 * time.Minute)
	if got := r.usable("10.2.0.0/16"); !slices.Equal(got, []string{"203.0.113.7", "203.0.113.8"}) || r.stat(rlocsDown) != 2 {
		t.Errorf("usable %v, %d down", got, r.stat(rlocsDown))
	}
	r.silent[rlocB] = false
	r.run(2*time.Minute + 15*time.Second)
	if got := r.usable("10.2.0.0/16"); !slices.Equal(got, []string{"203.0.113.8"}) {
		t.Errorf("usable %v after one is back", got)
	}
}

// TestProbeEnds: without traffic probing ends, and a locator that is down is
// up again when nobody looks any more.
func TestProbeEnds(t *testing.T) {
	r := newProbeRig(t, nil)
	r.silent[rlocB] = true
	r.run(time.Minute)
	r.used = nil
	r.run(5 * time.Minute)
	if s := r.m.probes.status(); len(s) != 1 || s[0].Addr != rlocB || s[0].Up {
		t.Errorf("still probed: %+v", s)
	}
	r.run(15 * time.Minute)
	if n := len(r.m.probes.paths) + len(r.m.probes.nonces) + len(r.m.probes.timers) + r.m.probes.down; n != 0 {
		t.Errorf("%d things are left", n)
	}
	if got := r.usable("10.2.0.0/16"); !slices.Equal(got, []string{"203.0.113.7", "203.0.113.8"}) {
		t.Errorf("usable %v at the end", got)
	}
	before := len(r.probes)
	r.run(20 * time.Minute)
	if n := len(r.probes); n != before {
		t.Errorf("%d probes without traffic", n-before)
	}
}

// firstProbe returns the first probe to rloc of a rig on which nothing answers.
func firstProbe(r *probeRig, rloc netip.Addr) wire.MapRequest {
	r.silent[etr1.Addr()], r.silent[rlocB] = true, true
	r.run(5 * time.Second)
	for _, s := range r.probes {
		if s.dst.Addr() == rloc {
			return probeRequest(r.t, s.data)
		}
	}
	r.t.Fatalf("no probe to %v", rloc)
	return wire.MapRequest{}
}

// TestI11_ProbeReplyNotAuthoritative: a reply with one record that is not
// authoritative does not count, and nothing is sent or logged about it.
func TestI11_ProbeReplyNotAuthoritative(t *testing.T) {
	r := newProbeRig(t, nil)
	m := firstProbe(r, rlocB)
	proxied := twoLocators("10.2.3.0/24")
	proxied.Authoritative = false
	r.receive(probeReply(t, m.Nonce, rlocB, twoLocators("10.2.0.0/16"), proxied), etr1)
	if s := r.status(rlocB); s.Replies != 0 || r.stat(rlocProbeRepliesRefused) != 1 || len(r.take()) != 0 {
		t.Errorf("status %+v", s)
	}
	r.receive(probeReply(t, m.Nonce, rlocB, twoLocators("10.2.0.0/16"), twoLocators("10.2.3.0/24")), etr1)
	if s := r.status(rlocB); s.Replies != 1 {
		t.Errorf("the true reply does not count: %+v", s)
	}
	if got := r.cached(); !slices.Equal(got, []string{"10.2.0.0/16"}) {
		t.Errorf("a probe changed the map-cache: %v", got)
	}
}

// TestI12_FirstProbedLocator: the first locator with the p bit gets the result,
// whatever was probed and wherever the reply comes from, if it is one of the
// mapping.
func TestI12_FirstProbedLocator(t *testing.T) {
	marked := func(addrs ...netip.Addr) *mapping.Record {
		rec := &mapping.Record{EID: eid("10.2.0.0/16"), TTL: 1440, Authoritative: true}
		for _, a := range []netip.Addr{etr1.Addr(), rlocB, addr("203.0.113.9")} {
			l := mapping.MakeLocator(a, 1, 1)
			if slices.Contains(addrs, a) {
				l.Flags |= mapping.Probed
			}
			rec.Locators = append(rec.Locators, l)
		}
		return rec
	}
	for _, c := range []struct {
		name     string
		rec      *mapping.Record
		probe    bool
		up       []netip.Addr
		attempts int
	}{
		{"the probed one", marked(rlocB), true, []netip.Addr{rlocB}, 0},
		{"the other one", marked(etr1.Addr()), true, []netip.Addr{etr1.Addr()}, 0},
		{"two", marked(etr1.Addr(), rlocB), true, []netip.Addr{etr1.Addr()}, 0},
		{"none", marked(), true, nil, 0},
		{"a stranger", marked(addr("203.0.113.9")), true, nil, 0},
		{"a stranger first", func() *mapping.Record {
			rec := marked(addr("203.0.113.9"))
			rec.Locators = append(rec.Locators[2:], mapping.MakeLocator(addr("203.0.113.10"), 1, 1))
			return rec
		}(), true, nil, 0},
		{"not a probe's reply", marked(rlocB), false, nil, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newProbeRig(t, nil)
			m := firstProbe(r, rlocB)
			r.receive(mustEncode(t, &wire.MapReply{Probe: c.probe, Nonce: m.Nonce, Records: records(t, c.rec)}), netip.MustParseAddrPort("203.0.113.200:4342"))
			var up []netip.Addr
			for _, s := range r.m.probes.status() {
				if s.Replies > 0 {
					up = append(up, s.Addr)
				}
			}
			if !slices.Equal(up, c.up) {
				t.Errorf("the result counts for %v, want %v", up, c.up)
			}
		})
	}
}

// TestI16_ProbeRate: however many locators there are and whatever they do, all
// are probed once a second at rest, new ones 8 times a second after a burst of
// 16; one of them at most 5 times at once, or 7 to end a doubt, and once in 10 s
// in the long run.
func TestI16_ProbeRate(t *testing.T) {
	t.Run("rest", func(t *testing.T) {
		r := newProbeRig(t, nil)
		r.used = nil
		var eids []string
		for i := range 100 {
			e := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 3, byte(i), 0}), 24).String()
			rec := &mapping.Record{EID: eid(e), TTL: 1440, Locators: []mapping.Locator{
				mapping.MakeLocator(netip.AddrFrom4([4]byte{203, 1, byte(i), 1}), 1, 1)}}
			r.m.itr.changes = append(r.m.itr.changes, r.m.itr.cache.Apply(r.now, rec)...)
			eids = append(eids, e)
		}
		seen := map[netip.Addr]int{}
		last := -time.Second
		fresh := 0
		for d := time.Duration(0); d < 10*time.Minute; d += 100 * time.Millisecond {
			r.until(d)
			if d%(5*time.Second) == 0 {
				r.rig.used(eids...)
			}
			for _, s := range r.take() {
				if seen[s.dst.Addr()]++; seen[s.dst.Addr()] == 1 {
					if fresh++; fresh > 16+int(s.at/(time.Second/8)) {
						t.Fatalf("%d new locators probed until %v", fresh, s.at)
					}
				} else if s.at-last < time.Second {
					t.Fatalf("probes at %v and %v", last, s.at)
				} else {
					last = s.at
				}
				m := probeRequest(t, s.data)
				entry, _ := r.m.itr.cache.Get(asked(t, m))
				r.receive(probeReply(t, m.Nonce, s.dst.Addr(), &mapping.Record{EID: entry.Record.EID, Authoritative: true, TTL: 1, Locators: entry.Record.Locators}), s.dst)
			}
		}
		for a, n := range seen {
			if n < 5 || n > 7 { // 600 probes for 100 RLOCs
				t.Errorf("%d probes to %v", n, a)
			}
		}
		if len(seen) != 100 {
			t.Errorf("%d RLOCs were probed", len(seen))
		}
	})
	t.Run("flapping", func(t *testing.T) {
		r := newProbeRig(t, nil)
		r.silent[etr1.Addr()] = true
		for d := time.Second; d < 20*time.Minute; d += time.Second {
			r.silent[rlocB] = d%(7*time.Second) > 2*time.Second
			r.run(d)
		}
		var at []time.Duration
		for _, s := range r.probes {
			if s.dst.Addr() == rlocB {
				at = append(at, s.at)
			}
		}
		if n := len(at); n > 20*6+5 || n < 30 {
			t.Errorf("%d probes in 20 minutes", n)
		}
		const burst = probeEachBurst + 2 // to end a doubt
		for i := burst; i < len(at); i++ {
			if at[i]-at[i-burst] < 5*time.Second {
				t.Errorf("%d probes from %v to %v", burst+1, at[i-burst], at[i])
			}
		}
	})
}

// TestProbeLateReply: on a path with a long delay a reply that comes after the
// next probe still counts, and each one once.
func TestProbeLateReply(t *testing.T) {
	r := newProbeRig(t, nil)
	m := firstProbe(r, rlocB)
	r.run(7 * time.Second)
	rep := probeReply(t, m.Nonce, rlocB, twoLocators("10.2.0.0/16"))
	r.receive(rep, etr1)
	r.receive(rep, etr1)
	if s := r.status(rlocB); s.Replies != 1 || s.Failures != 0 || s.RTT < time.Second {
		t.Errorf("status %+v", s)
	}
	if n := r.stat(mapRepliesUnmatched); n != 1 {
		t.Errorf("the copy is not unmatched: %d", n)
	}
}

// TestProbeOtherEID: an ETR that no longer has one EID of ours is up all the
// same if it answers for another.
func TestProbeOtherEID(t *testing.T) {
	r := newProbeRig(t, nil)
	r.learn(addr("10.3.0.1"), twoLocators("10.3.0.0/16"))
	for d := time.Duration(0); d < 5*time.Minute; d += 100 * time.Millisecond {
		r.until(d)
		if d%(5*time.Second) == 0 {
			r.rig.used("10.2.0.0/16", "10.3.0.0/16")
		}
		for _, s := range r.take() {
			if m := probeRequest(t, s.data); asked(t, m) == eid("10.3.0.0/16") {
				r.receive(probeReply(t, m.Nonce, s.dst.Addr(), twoLocators("10.3.0.0/16")), s.dst)
			}
		}
	}
	if n := r.stat(rlocsDown); n != 0 {
		t.Errorf("%d RLOCs went down", n)
	}
}

// TestProbingOff: nothing is probed.
func TestProbingOff(t *testing.T) {
	r := newProbeRig(t, func(c *Config) { c.RLOCProbing.Off = true })
	r.run(5 * time.Minute)
	if len(r.probes) != 0 || len(r.m.probes.paths) != 0 {
		t.Errorf("%d probes", len(r.probes))
	}
}

// TestProbeTableBounded: the number of RLOCs that are probed has a limit.
func TestProbeTableBounded(t *testing.T) {
	r := newProbeRig(t, nil)
	for i := range maxProbed + 100 {
		e := mapping.HostEID(0, netip.AddrFrom4([4]byte{10, 3, byte(i >> 8), byte(i)}))
		r.m.itr.cache.Apply(r.now, &mapping.Record{EID: e, TTL: 1440, Locators: []mapping.Locator{
			mapping.MakeLocator(netip.AddrFrom4([4]byte{203, 1, byte(i >> 8), byte(i)}), 1, 1)}})
		r.m.used(r.now, []mapping.EID{e})
	}
	if n := len(r.m.probes.paths); n != maxProbed || r.stat(rlocProbeTableFull) != 100 {
		t.Errorf("%d RLOCs, %d refused", n, r.stat(rlocProbeTableFull))
	}
}
