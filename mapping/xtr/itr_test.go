package xtr

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// noRegister is a site without map-servers and probes, so that only the ITR
// speaks.
func noRegister() Config {
	c := testConfig()
	c.MapServers = nil
	c.RLOCProbing.Off = true
	return c
}

// TestI5_PauseAfterTenRetransmissions: 1 s, doubling to 8 s, 10 retransmissions, then silence
// for 30 s whatever is asked (RFC 9301 section 5.3).
func TestI5_PauseAfterTenRetransmissions(t *testing.T) {
	r := newRig(t, noRegister())
	r.miss(peer, hostA)
	for s := 0.0; s < 100.9; s += 0.25 { // packets go on missing
		r.until(time.Duration(s * float64(time.Second)))
		r.miss(peer, hostA)
	}
	want := seconds(0, 1, 3, 7, 15, 23, 31, 39, 47, 55, 63)
	if got := times(r.out); !slices.Equal(got, want) {
		t.Errorf("sent at %v, want %v", got, want)
	}
	seen := map[uint64]bool{}
	for _, s := range r.take() {
		_, m := mapRequest(t, s.data)
		if seen[m.Nonce] {
			t.Errorf("nonce %d used twice", m.Nonce)
		}
		seen[m.Nonce] = true
	}
	if n := r.stat(resolutionsGivenUp); n != 1 {
		t.Errorf("given up %d times", n)
	}
	r.until(101 * time.Second) // 71 s: last attempt unanswered, 30 s more
	r.check()
	r.miss(peer, hostA)
	if got := times(r.take()); !slices.Equal(got, seconds(101)) {
		t.Errorf("after the pause sent at %v, want at 101s", got)
	}
}

// TestLateReply: a reply to any transmission counts, also during the pause, and
// the round-trip time is that of the transmission it answers.
func TestLateReply(t *testing.T) {
	r := newRig(t, noRegister())
	r.miss(peer, hostA)
	r.until(4 * time.Second) // sent at 0, 1, 3 with nonces 1, 2, 3
	r.receive(reply(t, 2, rec("10.2.0.0/16", 10)), etr1)
	if got := r.cached(); !slices.Equal(got, []string{"10.2.0.0/16"}) {
		t.Errorf("cached %v", got)
	}
	if rtt := r.m.itr.resolvers.status()[0].RTT; rtt != 3*time.Second {
		t.Errorf("RTT %v, want 3s", rtt)
	}
	r.receive(reply(t, 3, rec("10.2.0.0/16", 20)), etr1)
	if n := r.stat(mapRepliesUnmatched); n != 1 {
		t.Errorf("a second reply was not unmatched: %d", n)
	}
	r.take()
	r.until(time.Minute)
	if out := r.take(); len(out) != 0 {
		t.Errorf("%d requests after the reply", len(out))
	}
	r.check()
}

func TestMapRequestContents(t *testing.T) {
	for _, c := range []struct {
		name             string
		miss             Miss
		rlocs            []netip.Addr
		innerSrc, source string
		asked            string
	}{
		{"IPv4", Miss{Dst: peer, Src: hostA}, []netip.Addr{own4, own6}, "192.0.2.1:4342", "10.1.0.5/32", "10.2.0.9/32"},
		{"IPv6", Miss{Dst: addr("2001:db8:2::9"), Src: addr("2001:db8:1::5")}, []netip.Addr{own4, own6}, "[2001:db8:ffff::1]:4342", "2001:db8:1::5/128", "2001:db8:2::9/128"},
		{"IPv6 EID, IPv4 RLOC", Miss{Dst: addr("2001:db8:2::9"), Src: addr("2001:db8:1::5")}, []netip.Addr{own4}, "[2001:db8:1::5]:4342", "2001:db8:1::5/128", "2001:db8:2::9/128"},
		{"instance", Miss{IID: 7, Dst: peer, Src: hostA}, []netip.Addr{own4}, "192.0.2.1:4342", "[7]10.1.0.5/32", "[7]10.2.0.9/32"},
		{"no source", Miss{Dst: addr("2001:db8:2::9")}, []netip.Addr{own4}, "[::]:4342", "", "2001:db8:2::9/128"},
		{"IPv4-mapped", Miss{Dst: addr("::ffff:10.2.0.9"), Src: addr("::ffff:10.1.0.5")}, []netip.Addr{own4}, "192.0.2.1:4342", "10.1.0.5/32", "10.2.0.9/32"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := noRegister()
			cfg.RLOCs = c.rlocs
			r := newRig(t, cfg)
			r.m.miss(r.now, c.miss)
			r.collect()
			d := r.one()
			if d.src != local || d.dst != mr1 {
				t.Errorf("sent from %v to %v", d.src, d.dst)
			}
			e, m := mapRequest(t, d.data)
			if e.Src.String() != c.innerSrc || e.Dst.Addr() != c.miss.Dst.Unmap() || e.Dst.Port() != 4342 {
				t.Errorf("inner %v > %v", e.Src, e.Dst)
			}
			if e.Security || e.DDT || e.ToETR || e.ToMapServer {
				t.Errorf("flags are set: %+v", e)
			}
			if m.Authoritative || m.Probe || m.SMR || m.SMRInvoked || m.PITR || m.HasMapData || m.NoReply || m.HasXTRID {
				t.Errorf("flags are set: %+v", m)
			}
			source := ""
			if !m.SourceEID.IsZero() {
				e, err := hostEID(m.SourceEID)
				if err != nil {
					t.Fatal(err)
				}
				source = e.String()
			}
			if got := asked(t, m).String(); got != c.asked || source != c.source {
				t.Errorf("asked for %s from %s", got, source)
			}
			var rlocs []netip.Addr
			for _, a := range m.ITRRLOCs {
				ip, _ := a.IP()
				rlocs = append(rlocs, ip)
			}
			if !slices.Equal(rlocs, c.rlocs) {
				t.Errorf("ITR-RLOCs %v", rlocs)
			}
		})
	}
}

func TestMissesRefused(t *testing.T) {
	r := newRig(t, noRegister())
	for _, m := range []Miss{
		{Dst: addr("10.1.2.3"), Src: hostA}, // our own
		{Dst: addr("224.0.0.1"), Src: hostA},
		{Dst: addr("fe80::1"), Src: hostA},
		{Dst: addr("127.0.0.1"), Src: hostA},
		{Dst: addr("255.255.255.255"), Src: hostA},
		{Dst: netip.Addr{}, Src: hostA},
		{IID: 1 << 24, Dst: peer, Src: hostA},
	} {
		before := r.stat(missesRefused)
		r.m.miss(r.now, m)
		r.collect()
		if len(r.take()) != 0 || r.stat(missesRefused) != before+1 {
			t.Errorf("miss %+v was not refused", m)
		}
	}
	// The same destination in another instance is somebody else's.
	r.m.miss(r.now, Miss{IID: 5, Dst: addr("10.1.2.3"), Src: hostA})
	r.collect()
	r.one()
}

// TestFailover: a retransmission goes to the other map-resolver, and one that
// does not answer three times is passed over, but tried again after 30 s.
func TestFailover(t *testing.T) {
	cfg := noRegister()
	cfg.MapResolvers = []netip.AddrPort{mr1, mr2}
	r := newRig(t, cfg)
	dead := mr1
	n := 0
	// resolve asks for a new destination and lets mr2 alone answer.
	resolve := func() (path []netip.AddrPort) {
		n++
		dst := netip.AddrFrom4([4]byte{10, 9, byte(n >> 8), byte(n)})
		r.miss(dst, hostA)
		for {
			d := r.one()
			path = append(path, d.dst)
			if d.dst != dead {
				_, m := mapRequest(t, d.data)
				r.receive(reply(t, m.Nonce, rec(asked(t, m).String(), 1440)), etr1)
				return path
			}
			at, _ := r.m.next()
			r.until(at.Sub(zeroTime))
		}
	}
	var first []netip.AddrPort
	for range 12 {
		first = append(first, resolve()[0])
	}
	// In turn until mr1 has failed three times, then mr2 only.
	want := []netip.AddrPort{mr1, mr1, mr1}
	for range 9 {
		want = append(want, mr2)
	}
	if !slices.Equal(first, want) {
		t.Errorf("asked first: %v, want %v", first, want)
	}
	st := r.m.itr.resolvers.status()
	if st[0].Up || st[0].Failures != 3 || !st[1].Up || st[1].Replies != 12 {
		t.Errorf("status %+v", st)
	}
	// 30 s later it is tried once, in vain, and then left alone again.
	r.until(r.now.Sub(zeroTime) + 30*time.Second)
	if p := resolve(); !slices.Equal(p, []netip.AddrPort{mr1, mr2}) {
		t.Errorf("after 30 s: %v", p)
	}
	if p := resolve(); !slices.Equal(p, []netip.AddrPort{mr2}) {
		t.Errorf("directly afterwards: %v", p)
	}
	// It comes back.
	dead = netip.AddrPort{}
	r.until(r.now.Sub(zeroTime) + 30*time.Second)
	if p := resolve(); !slices.Equal(p, []netip.AddrPort{mr1}) {
		t.Errorf("after another 30 s: %v", p)
	}
	if p := append(resolve(), resolve()...); !slices.Contains(p, mr1) || !slices.Contains(p, mr2) {
		t.Errorf("not in turn again: %v", p)
	}
}

// TestAllResolversDown: with none answering they are asked in turn.
func TestAllResolversDown(t *testing.T) {
	cfg := noRegister()
	cfg.MapResolvers = []netip.AddrPort{mr1, mr2}
	r := newRig(t, cfg)
	r.miss(peer, hostA)
	r.until(70 * time.Second)
	for i, s := range r.take() {
		if want := cfg.MapResolvers[i%2]; s.dst != want {
			t.Errorf("transmission %d went to %v, want %v", i, s.dst, want)
		}
	}
}

// TestRetransmissionAvoidsSameResolver, whosever turn it is.
func TestRetransmissionAvoidsSameResolver(t *testing.T) {
	cfg := noRegister()
	cfg.MapResolvers = []netip.AddrPort{mr1, mr2}
	r := newRig(t, cfg)
	first := map[mapping.EID]netip.AddrPort{}
	for _, dst := range []string{"10.2.0.1", "10.2.0.2"} {
		r.miss(addr(dst), hostA)
		d := r.one()
		_, m := mapRequest(t, d.data)
		first[asked(t, m)] = d.dst
	}
	r.until(time.Second)
	for _, d := range r.take() {
		_, m := mapRequest(t, d.data)
		if e := asked(t, m); first[e] == d.dst {
			t.Errorf("%v was asked for at %v twice", e, d.dst)
		}
	}
}

// TestOneHostCannotStarveOthers: a scanning host gets its burst, its rate and
// its part of the table; another host is served all the time.
func TestOneHostCannotStarveOthers(t *testing.T) {
	cfg := noRegister()
	cfg.Limits = Limits{RatePerHost: 10, Rate: 100, Pending: 256, PendingPerHost: 64}
	r := newRig(t, cfg)
	scanner, honest := addr("10.1.6.6"), addr("10.1.7.7")
	scans, served := 0, 0
	for n := range 20_000 { // 1000 a second to where nobody answers
		r.until(time.Duration(n) * time.Millisecond)
		r.take()
		r.miss(netip.AddrFrom4([4]byte{10, 8, byte(n >> 8), byte(n)}), scanner)
		scans += len(r.take())
		if n%200 == 0 { // 5 a second that are answered
			r.miss(netip.AddrFrom4([4]byte{10, 9, byte(n >> 8), byte(n)}), honest)
			for _, d := range r.take() {
				served++
				_, m := mapRequest(t, d.data)
				r.receive(reply(t, m.Nonce, rec(asked(t, m).String(), 1440)), etr1)
			}
		}
	}
	r.check()
	if served != 100 {
		t.Errorf("%d of 100 questions of the honest host were asked", served)
	}
	if n := r.m.itr.perHost[host{0, scanner}]; n != 64 {
		t.Errorf("the scanner holds %d queries, want its limit of 64", n)
	}
	// All its queries wait for more than 20 s, so the table's part is what
	// binds: the first 64, of which the first 40 were a burst.
	if scans != 64 || r.stat(missesTableFull) == 0 || r.stat(missesRateLimited) == 0 {
		t.Errorf("the scanner asked %d times", scans)
	}
}

// TestGreedyHostLosesOldest: when the table is full, the host with the most
// queries pays.
func TestGreedyHostLosesOldest(t *testing.T) {
	cfg := noRegister()
	cfg.Limits = Limits{Pending: 10, PendingPerHost: 8}
	r := newRig(t, cfg)
	ask := func(n int, src string) { r.miss(netip.AddrFrom4([4]byte{10, 8, 0, byte(n)}), addr(src)) }
	for n := range 8 {
		ask(n, "10.1.0.1")
	}
	ask(100, "10.1.0.2")
	ask(101, "10.1.0.2")
	r.check()
	ask(102, "10.1.0.3") // full: 10.1.0.1 loses its oldest
	ask(103, "10.1.0.3")
	r.check()
	if r.m.itr.queries[eid("10.8.0.0")] != nil || r.m.itr.queries[eid("10.8.0.1")] != nil || r.m.itr.queries[eid("10.8.0.102")] == nil {
		t.Error("not the oldest query of the greediest host was evicted")
	}
	if r.stat(resolutionsEvicted) != 2 {
		t.Errorf("%d evicted", r.stat(resolutionsEvicted))
	}
	ask(9, "10.1.0.1") // the greediest host itself is refused
	if r.m.itr.queries[eid("10.8.0.9")] != nil || r.stat(missesTableFull) != 1 {
		t.Error("the greediest host got one more")
	}
}

// TestGlobalRate: all hosts together get the burst and the rate.
func TestGlobalRate(t *testing.T) {
	cfg := noRegister()
	cfg.Limits = Limits{Rate: 10, Pending: 100_000}
	r := newRig(t, cfg)
	started := 0
	for n := range 10_000 {
		r.until(time.Duration(n) * time.Millisecond)
		before := len(r.m.itr.queries)
		r.miss(netip.AddrFrom4([4]byte{10, 8, byte(n >> 8), byte(n)}), netip.AddrFrom4([4]byte{10, 1, byte(n >> 8), byte(n)}))
		started += len(r.m.itr.queries) - before
	}
	if want := requestBurst*10 + 10*10; started < want-1 || started > want+1 {
		t.Errorf("%d resolutions in 10 s, want %d", started, want)
	}
}

// TestI5_OneRequestASecond: an answer that installs nothing does not lead to more than one
// Map-Request a second.
func TestI5_OneRequestASecond(t *testing.T) {
	r := newRig(t, noRegister())
	var got []time.Duration
	for n := range 400 { // each 10 ms
		r.until(time.Duration(n) * 10 * time.Millisecond)
		r.miss(peer, hostA)
		for _, d := range r.take() {
			got = append(got, d.at)
			_, m := mapRequest(t, d.data)
			r.receive(reply(t, m.Nonce, rec("10.2.0.0/16", 0)), etr1)
		}
	}
	if want := seconds(0, 1, 2, 3); !slices.Equal(got, want) {
		t.Errorf("sent at %v, want %v", got, want)
	}
}

// TestActions: a negative entry answers misses, but Send-Map-Request has every
// packet ask, once a second for the whole prefix.
func TestActions(t *testing.T) {
	for a := mapping.NoAction; a <= mapping.MaxAction; a++ {
		t.Run(a.String(), func(t *testing.T) {
			r := newRig(t, noRegister())
			r.learn(peer, mapping.NegativeRecord(eid("10.2.0.0/16"), a, 15))
			var got []time.Duration
			for n := range 40 { // packets to ever new hosts of the prefix
				r.until(time.Duration(n) * 100 * time.Millisecond)
				r.miss(netip.AddrFrom4([4]byte{10, 2, 1, byte(n)}), hostA)
				for _, d := range r.take() {
					got = append(got, d.at)
					_, m := mapRequest(t, d.data)
					r.receive(reply(t, m.Nonce, mapping.NegativeRecord(eid("10.2.0.0/16"), a, 15)), etr1)
				}
			}
			var want []time.Duration
			if a == mapping.SendMapRequest {
				want = seconds(0, 1, 2, 3)
			}
			if !slices.Equal(got, want) {
				t.Errorf("asked at %v, want %v", got, want)
			}
			r.check()
		})
	}
}

func TestRefresh(t *testing.T) {
	r := newRig(t, noRegister())
	r.learn(peer, rec("10.2.0.0/16", 1), rec("10.2.3.0/24", 1)) // 60 s
	r.until(39 * time.Second)
	r.used("10.2.0.0/16")
	if len(r.take()) != 0 {
		t.Fatal("refreshed more than 20 s before expiry")
	}
	r.until(40 * time.Second)
	r.used("10.2.0.0/16")
	r.used("10.2.0.0/16") // one request under way is enough
	d := r.one()
	e, m := mapRequest(t, d.data)
	if asked(t, m) != eid("10.2.0.0/16") || !m.SourceEID.IsZero() || m.SMRInvoked || e.Dst.Addr() != addr("10.2.0.0") || d.dst != mr1 {
		t.Errorf("refresh is %+v to %v", m, e.Dst)
	}
	r.until(41 * time.Second) // retransmitted
	_, m = mapRequest(t, r.one().data)
	r.changes = nil
	r.receive(reply(t, m.Nonce, rec("10.2.0.0/16", 1)), etr1)
	r.check()
	if len(r.changes) != 1 || !r.changes[0].Expires.Equal(zeroTime.Add(60*time.Second)) {
		// The more-specific that nobody uses still ends the less-specific's
		// time, for what it covers may have changed (RFC 9301 section 5.5).
		t.Errorf("changes %v", r.changes)
	}
	r.until(59 * time.Second)
	if got := r.cached(); len(got) != 2 {
		t.Errorf("cached %v", got)
	}
	r.until(60 * time.Second)
	if got := r.cached(); len(got) != 0 {
		t.Errorf("unused entries are cached after their TTL: %v", got)
	}
	last := r.changes[len(r.changes)-1]
	if last.Record != nil {
		t.Errorf("expiry was not reported: %v", r.changes)
	}
	if len(r.take()) != 0 {
		t.Error("an unused entry was refreshed")
	}
}

// TestRefreshLead: the last tenth of the lifetime, 20 s at least and 10 min at
// most.
func TestRefreshLead(t *testing.T) {
	for ttl, lead := range map[uint32]time.Duration{1: 20 * time.Second, 3: 20 * time.Second, 10: time.Minute, 60: 6 * time.Minute, 1440: 10 * time.Minute} {
		r := newRig(t, noRegister())
		r.learn(peer, rec("10.2.0.0/16", ttl))
		due := time.Duration(ttl)*time.Minute - lead
		r.until(due - time.Nanosecond)
		r.used("10.2.0.0/16")
		if n := len(r.take()); n != 0 {
			t.Errorf("TTL %d: refreshed early", ttl)
		}
		r.until(due)
		r.used("10.2.0.0/16")
		if n := len(r.take()); n != 1 {
			t.Errorf("TTL %d: not refreshed %v before expiry", ttl, lead)
		}
	}
}

// TestRefreshSpacing: an entry whose time a more-specific cuts short is near
// its end again right after a refresh, and is still asked for once a second.
func TestRefreshSpacing(t *testing.T) {
	r := newRig(t, noRegister())
	r.learn(peer, rec("10.2.0.0/16", 1), rec("10.2.3.0/24", 1))
	var got []time.Duration
	for at := 59 * time.Second; at < time.Minute; at += 10 * time.Millisecond {
		r.until(at)
		r.used("10.2.0.0/16")
		for _, d := range r.take() {
			got = append(got, d.at)
			_, m := mapRequest(t, d.data)
			r.receive(reply(t, m.Nonce, rec("10.2.0.0/16", 1)), etr1)
		}
	}
	if want := seconds(59); !slices.Equal(got, want) {
		t.Errorf("asked at %v, want %v", got, want)
	}
}

// TestRefreshAnsweredWithOwn: where the site's own prefix is the first part of
// a cached one, the question may come back to the site.
func TestRefreshAnsweredWithOwn(t *testing.T) {
	cfg := noRegister()
	cfg.Databases[0].EID = eid("10.0.0.0/16")
	r := newRig(t, cfg)
	r.learn(peer, rec("10.0.0.0/8", 1))
	r.until(50 * time.Second)
	r.used("10.0.0.0/8")
	_, m := mapRequest(t, r.one().data)
	r.receive(reply(t, m.Nonce, rec("10.0.0.0/16", 10)), etr1)
	if got := r.cached(); !slices.Equal(got, []string{"10.0.0.0/8"}) || len(r.m.itr.queries) != 1 {
		t.Errorf("cached %v, %d queries", got, len(r.m.itr.queries))
	}
}

// TestRefreshStormLeavesRoom: refreshes take half of the table at most.
func TestRefreshStormLeavesRoom(t *testing.T) {
	cfg := noRegister()
	cfg.Limits = Limits{Pending: 20, RatePerHost: 1000, Rate: 1000}
	r := newRig(t, cfg)
	var all []string
	for n := range 50 {
		p := fmt.Sprintf("10.3.%d.0/24", n)
		r.learn(netip.AddrFrom4([4]byte{10, 3, byte(n), 1}), rec(p, 1))
		all = append(all, p)
	}
	r.until(50 * time.Second)
	r.used(all...)
	if n := len(r.take()); n != 10 {
		t.Errorf("%d refreshes at once, want 10", n)
	}
	r.miss(peer, hostA)
	if n := len(r.take()); n != 1 {
		t.Error("no room for a miss")
	}
	r.check()
}

// TestRefreshOfGoneEntry: a refresh ends when its entry is cleared.
func TestRefreshOfGoneEntry(t *testing.T) {
	r := newRig(t, noRegister())
	r.learn(peer, rec("10.2.0.0/16", 1))
	r.until(45 * time.Second)
	r.used("10.2.0.0/16")
	r.one()
	r.changes = nil
	if !r.m.clear(r.now, eid("10.2.0.0/16")) || r.m.clear(r.now, eid("10.2.0.0/16")) {
		t.Error("clear does not tell what was there")
	}
	r.collect()
	if len(r.changes) != 1 || r.changes[0].Record != nil {
		t.Errorf("clear reported %v", r.changes)
	}
	r.until(2 * time.Minute)
	if n := len(r.take()); n != 0 {
		t.Errorf("%d requests for a cleared entry", n)
	}
	r.check()
}

// TestCoveredByOtherReply: what another reply has answered is not asked again.
func TestCoveredByOtherReply(t *testing.T) {
	r := newRig(t, noRegister())
	r.miss(addr("10.2.0.1"), hostA)
	r.miss(addr("10.2.0.2"), hostA)
	out := r.take()
	_, m := mapRequest(t, out[0].data)
	r.receive(reply(t, m.Nonce, rec("10.2.0.0/16", 10)), etr1)
	r.until(time.Minute)
	if n := len(r.take()); n != 0 {
		t.Errorf("%d retransmissions", n)
	}
	r.check()
}

// smrFrom makes an SMR of another site about source.
func smrFrom(t testing.TB, source, record string) []byte {
	s := eid(source)
	return mustEncode(t, &wire.MapRequest{
		SMR: true, Nonce: 99, SourceEID: wire.EIDAddress(s.IID, s.Prefix.Addr()),
		ITRRLOCs: []wire.Address{wire.IPAddress(etr1.Addr())},
		EIDs:     []wire.RequestRecord{wire.NewRequestRecord(eid(record))},
	})
}

// TestI13_SMRInvokedRequest: an SMR is answered with a request to a
// map-resolver, whoever sent it, for the cached prefix and with the s bit.
func TestI13_SMRInvokedRequest(t *testing.T) {
	r := newRig(t, noRegister())
	r.learn(peer, rec("10.2.0.0/16", 1440))
	r.until(2 * time.Second)
	r.receive(smrFrom(t, "10.2.0.0", "10.1.0.0/16"), netip.MustParseAddrPort("203.0.113.200:4342"))
	d := r.one()
	_, m := mapRequest(t, d.data)
	if d.dst != mr1 || !m.SMRInvoked || m.SMR || m.Probe || !m.SourceEID.IsZero() || asked(t, m) != eid("10.2.0.0/16") {
		t.Errorf("SMR-invoked request is %+v to %v", m, d.dst)
	}
	// Until it is answered, the old mapping stays.
	if got := r.cached(); !slices.Equal(got, []string{"10.2.0.0/16"}) {
		t.Errorf("cached %v", got)
	}
	r.receive(reply(t, m.Nonce, rec("10.2.0.0/16", 7)), etr1)
	if e, _ := r.m.itr.cache.Get(eid("10.2.0.0/16")); e.Record.TTL != 7 {
		t.Errorf("the new mapping is not used: %v", e.Record)
	}
}

// TestI14_SMRInvokedRate: SMRs cause one request in 3 s for an EID-prefix,
// though each is answered at once.
func TestI14_SMRInvokedRate(t *testing.T) {
	r := newRig(t, noRegister())
	r.learn(peer, rec("10.2.0.0/16", 1440))
	var got []time.Duration
	for n := range 80 { // a flood, 10 a second, of several senders
		r.until(time.Second + time.Duration(n)*100*time.Millisecond)
		r.receive(smrFrom(t, "10.2.0.0", "10.1.0.0/16"), netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, 113, byte(n)}), 4342))
		for _, d := range r.take() {
			_, m := mapRequest(t, d.data)
			got = append(got, d.at)
			r.receive(reply(t, m.Nonce, rec("10.2.0.0/16", 1440)), etr1)
		}
	}
	if want := seconds(1, 4, 7); !slices.Equal(got, want) {
		t.Errorf("asked at %v, want %v", got, want)
	}
	r.check()
}

// TestI15_SMRNotCached: an SMR about what is not cached causes nothing.
func TestI15_SMRNotCached(t *testing.T) {
	r := newRig(t, noRegister())
	r.learn(peer, rec("10.2.0.0/16", 1440))
	r.until(2 * time.Second)
	r.receive(smrFrom(t, "10.3.0.0", "10.1.0.0/16"), etr1)
	if n := len(r.take()); n != 0 || r.stat(smrNotCached) != 1 {
		t.Errorf("%d datagrams about what is not cached", n)
	}
	r.check()
}

// TestSMROtherReading: the record may name the mapping that changed as well.
// Through the mapping system nobody sends SMRs.
func TestSMROtherReading(t *testing.T) {
	r := newRig(t, noRegister())
	r.learn(peer, rec("10.2.0.0/16", 1440))
	r.until(2 * time.Second)
	before := r.stat(smrIn)
	r.receive(mustEncode(t, &wire.ECM{Src: etr1, Dst: local, Message: smrFrom(t, "10.2.0.0", "10.1.0.0/16")}), mr1)
	if r.stat(smrIn) != before || len(r.take()) != 0 {
		t.Error("an encapsulated SMR was handled")
	}
	r.receive(smrFrom(t, "10.77.0.0", "10.2.0.0/16"), etr1)
	r.one()
}

type brokenRand struct{}

func (brokenRand) Read([]byte) (int, error) { return 0, errors.New("no entropy") }

// TestNoNonces: without nonces nothing is sent, and the query still ends.
func TestNoNonces(t *testing.T) {
	cfg := noRegister()
	cfg.Rand = brokenRand{}
	r := newRig(t, cfg)
	r.miss(peer, hostA)
	r.until(2 * time.Minute)
	if n := len(r.take()); n != 0 || len(r.m.itr.queries) != 0 {
		t.Errorf("%d requests, %d queries", n, len(r.m.itr.queries))
	}
	r.check()
}

// TestSMRDelayed: an SMR that comes too early to be followed is followed as soon
// as it may be, if nothing else asked by then.
func TestSMRDelayed(t *testing.T) {
	r := newRig(t, noRegister())
	r.learn(peer, rec("10.2.0.0/16", 1440))
	r.take()
	var got []time.Duration
	for _, at := range []time.Duration{2 * time.Second, 3500 * time.Millisecond, time.Minute} {
		r.until(at)
		if at < time.Minute {
			r.receive(smrFrom(t, "10.2.0.0", "10.1.0.0/16"), etr1)
		}
		for _, d := range r.take() {
			_, m := mapRequest(t, d.data)
			got = append(got, d.at)
			r.receive(reply(t, m.Nonce, rec("10.2.0.0/16", 1440)), etr1)
		}
	}
	if want := seconds(2, 5); !slices.Equal(got[:min(2, len(got))], want) {
		t.Errorf("asked at %v, want %v", got, want)
	}
}
