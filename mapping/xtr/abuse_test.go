package xtr

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eidolon-lisp/eidolon/internal/testnet"
	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// chance is an io.Reader of a seeded source, for nonces that nobody guesses.
type chance struct{ *rand.Rand }

func (c chance) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = byte(c.Uint32())
	}
	return len(b), nil
}

// TestAbuse_ForgedMapReplies: of a million Map-Replies with guessed nonces none
// is accepted, an alarm moves, and the true ones still count.
func TestAbuse_ForgedMapReplies(t *testing.T) {
	rng := seeded(t)
	cfg := noRegister()
	cfg.Rand = chance{rng}
	r := newRig(t, cfg)
	truth := map[uint64]string{}
	for i := range 64 {
		r.miss(netip.AddrFrom4([4]byte{10, 2, byte(i), 9}), netip.AddrFrom4([4]byte{10, 1, 0, byte(i)}))
		_, m := mapRequest(t, r.one().data)
		truth[m.Nonce] = fmt.Sprintf("10.2.%d.0/24", i)
	}
	forged := reply(t, 0, rec("10.2.0.0/16", 1440))
	forged[len(forged)-1] = 66 // another locator
	for n := range 1_000_000 {
		nonce := rng.Uint64()
		if n%4 == 0 { // near a true one
			for x := range truth {
				nonce = x ^ 1<<rng.IntN(64)
				break
			}
		}
		if truth[nonce] != "" {
			continue
		}
		for i := range 8 {
			forged[4+i] = byte(nonce >> (56 - 8*i))
		}
		r.m.receive(r.now, forged, etr1, local)
		if n%1000 == 999 { // 100,000 a second
			r.now = r.now.Add(10 * time.Millisecond)
		}
	}
	r.collect()
	if len(r.changes) != 0 || len(r.cached()) != 0 || r.stat(resolutionsAnswered) != 0 {
		t.Fatalf("accepted: cached %v", r.cached())
	}
	if n := r.stat(mapRepliesUnmatched); n < 999_000 {
		t.Errorf("%d unmatched", n)
	}
	if n := r.stat(alarmForgedReplies); n == 0 || n > 10 {
		t.Errorf("%d alarms in 10 s", n)
	}
	for nonce, e := range truth {
		r.receive(reply(t, nonce, rec(e, 1440)), etr1)
	}
	if n := len(r.cached()); n != len(truth) {
		t.Errorf("%d true replies of %d were accepted", n, len(truth))
	}
	r.check()
}

// TestAbuse_LateAndDuplicateReplies: of the replies to one question the first
// one counts, once, though it comes late; no copy and no other one changes
// anything afterwards, and there is no alarm about them.
func TestAbuse_LateAndDuplicateReplies(t *testing.T) {
	r := newRig(t, noRegister())
	r.miss(peer, hostA)
	r.until(8 * time.Second) // asked at 0, 1, 3 and 7 s
	var all []uint64
	for _, s := range r.take() {
		_, m := mapRequest(t, s.data)
		all = append(all, m.Nonce)
	}
	r.receive(reply(t, all[1], rec("10.2.0.0/16", 11)), etr1)
	r.changes = nil
	for n := range 20 {
		r.until(8*time.Second + time.Duration(n)*100*time.Millisecond)
		for i, nonce := range all {
			r.receive(reply(t, nonce, rec("10.2.0.0/16", uint32(20+i))), etr1)
		}
	}
	entry, _ := r.m.itr.cache.Get(eid("10.2.0.0/16"))
	if entry.Record.TTL != 11 || len(r.changes) != 0 {
		t.Errorf("cached %v, %d changes", entry.Record, len(r.changes))
	}
	if r.stat(resolutionsAnswered) != 1 || r.stat(mapRepliesUnmatched) != 80 || r.stat(alarmForgedReplies) != 0 {
		t.Errorf("%d answered, %d unmatched, %d alarms", r.stat(resolutionsAnswered), r.stat(mapRepliesUnmatched), r.stat(alarmForgedReplies))
	}
	// One that comes when all is over: after the pause nothing is outstanding.
	r.miss(addr("10.3.0.9"), hostA)
	_, m := mapRequest(t, r.one().data)
	r.until(5 * time.Minute)
	r.receive(reply(t, m.Nonce, rec("10.3.0.0/16", 1440)), etr1)
	if got := r.cached(); !slices.Equal(got, []string{"10.2.0.0/16"}) {
		t.Errorf("cached %v", got)
	}
	r.check()
}

// TestAbuse_SMRStorm: SMRs from anywhere about everything cause one request in
// 3 s for a cached prefix and none for others; no mapping is lost, and hosts
// still get their answers.
func TestAbuse_SMRStorm(t *testing.T) {
	rng := seeded(t)
	r := newRig(t, noRegister())
	for i := range 50 {
		r.now = r.now.Add(100 * time.Millisecond)
		r.learn(netip.AddrFrom4([4]byte{10, 2, byte(i), 1}), rec(fmt.Sprintf("10.2.%d.0/24", i), 1440))
	}
	before := r.cached()
	begin := r.now
	last := map[mapping.EID]time.Time{}
	for n := range 100_000 { // 10,000 a second
		r.now = begin.Add(time.Duration(n) * 100 * time.Microsecond)
		from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, byte(rng.IntN(256)), 113, byte(rng.IntN(256))}), 4342)
		r.receive(smrFrom(t, fmt.Sprintf("10.2.%d.0", rng.IntN(100)), "10.1.0.0/16"), from)
		for _, s := range r.take() {
			_, m := mapRequest(t, s.data)
			e := asked(t, m)
			if at, ok := last[e]; ok && r.now.Sub(at) < time.Second {
				t.Fatalf("%v asked at %v and %v", e, at, r.now)
			}
			last[e] = r.now
			if rng.IntN(2) == 0 { // the others are lost
				r.receive(reply(t, m.Nonce, rec(e.String(), 1440)), etr1)
			}
		}
	}
	r.check()
	if got := r.cached(); !slices.Equal(got, before) {
		t.Errorf("cached %v", got)
	}
	if n := r.stat(mapRequestsSMRInvoked); n > 50*4 {
		t.Errorf("%d SMR-invoked requests in 10 s for 50 prefixes", n)
	}
	if n := len(last); n != 50 {
		t.Errorf("%d prefixes were asked for, 50 are cached", n)
	}
	r.miss(addr("10.9.0.1"), hostA)
	if len(r.take()) != 1 {
		t.Error("a host is not served")
	}
}

// TestAbuse_ScanOfAMillionDestinations: a host inside that sends to a million
// addresses does not take the mappings of the flows that are there, nor the
// answers of others; what is sent to the mapping system and what is kept stay
// within their limits.
func TestAbuse_ScanOfAMillionDestinations(t *testing.T) {
	cfg := noRegister()
	cfg.CacheLimit = 1000
	r := newRig(t, cfg)
	flows := make([]string, 200)
	for i := range flows {
		flows[i] = fmt.Sprintf("10.2.%d.0/24", i)
		r.now = r.now.Add(100 * time.Millisecond)
		r.learn(netip.AddrFrom4([4]byte{10, 2, byte(i), 1}), rec(flows[i], 1440))
	}
	for range 3 {
		r.now = r.now.Add(5 * time.Second)
		r.used(flows...)
	}
	r.take()
	r.changes = nil
	begin, scanner := r.now, addr("10.1.66.66")
	requests, others := 0, 0
	for n := range 1_000_000 { // 10,000 a second
		r.now = begin.Add(time.Duration(n) * 100 * time.Microsecond)
		r.m.miss(r.now, Miss{Dst: netip.AddrFrom4([4]byte{byte(20 + n>>16), byte(n >> 8), byte(n), 1}), Src: scanner})
		if n%50_000 == 0 {
			r.m.used(r.now, eidsOf(flows))
		}
		if n%10_000 == 0 { // another host, each second
			r.m.miss(r.now, Miss{Dst: netip.AddrFrom4([4]byte{11, byte(n >> 16), byte(n >> 8), 9}), Src: hostA})
		}
		out, changes := r.m.take()
		for _, c := range changes {
			if c.Record == nil && slices.Contains(flows, c.EID.String()) {
				t.Fatalf("the flow of %v lost its mapping", c.EID)
			}
		}
		for _, d := range out {
			requests++
			_, m := mapRequest(t, d.data)
			e := asked(t, m)
			if e.Prefix.Addr().As4()[0] == 11 {
				others++
			}
			r.m.receive(r.now, reply(t, m.Nonce, rec(e.String(), 1440)), etr1, local)
		}
		if c := r.m.itr.cache.Len(); c > cfg.CacheLimit {
			t.Fatalf("%d entries", c)
		}
	}
	r.check()
	if most := 100*(defaultRequestsHost+1) + requestBurst*defaultRequestsHost + 10; requests > most {
		t.Errorf("%d Map-Requests in 100 s, at most %d", requests, most)
	}
	if others != 100 {
		t.Errorf("%d of 100 questions of another host were asked", others)
	}
	for _, f := range flows {
		if _, ok := r.m.itr.cache.Get(eid(f)); !ok {
			t.Errorf("%s is gone", f)
		}
	}
}

func eidsOf(texts []string) []mapping.EID {
	var out []mapping.EID
	for _, s := range texts {
		out = append(out, eid(s))
	}
	return out
}

// TestAbuse_ReflectionThroughITRRLOC: an ETR that is asked in a victim's name
// sends the victim never more than 1.5 times the octets that asked for it, and
// of one EID-prefix a few replies only. A peer that has answered a probe is no
// victim.
func TestAbuse_ReflectionThroughITRRLOC(t *testing.T) {
	cfg := etrConfig()
	for i := range 40 { // long replies
		d := Database{EID: eid(fmt.Sprintf("10.1.%d.0/28", 100+i))}
		for j := range 8 {
			d.Locators = append(d.Locators, mapping.MakeLocator(addr(fmt.Sprintf("2001:db8:ffff::%x", j+1)), 1, 1))
		}
		cfg.Databases = append(cfg.Databases, d)
	}
	for _, victim := range []string{"198.18.0.66", "2001:db8:bad::66"} {
		for _, encapsulated := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, encapsulated %v", victim, encapsulated), func(t *testing.T) {
				rng := seeded(t)
				r := newStrictRig(t, cfg)
				in, out, replies := 0, 0, 0
				to := map[string]int{}
				for n := range 20_000 {
					r.now = r.now.Add(time.Millisecond)
					e := []string{"10.1.200.1", "10.1.100.1", "10.1.1.5", "10.1.0.0/16", fmt.Sprintf("10.1.%d.3", rng.IntN(256)), "2001:db8:1::7"}[rng.IntN(6)]
					if n == 0 {
						e = "10.1.100.1" // longer than 1.5 times any one request
					}
					rlocs := []string{victim}
					if rng.IntN(2) == 0 {
						rlocs = append(rlocs, victim)
					}
					msg := request(t, rlocs, []string{e}, func(m *wire.MapRequest) { m.Probe = !encapsulated && rng.IntN(3) == 0 })
					from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 19, byte(n >> 8), byte(n)}), 4342)
					if encapsulated {
						msg = forwarded(t, msg, "198.19.0.1:4342")
					} else if n%2 == 0 {
						from = netip.AddrPortFrom(addr(victim), 4342)
					}
					in += onWire(len(msg), from.Addr())
					r.receive(msg, from)
					for _, s := range r.take() {
						out += onWire(len(s.data), s.dst.Addr())
						replies++
						to[s.dst.Addr().String()]++
					}
					if 2*out > 3*in {
						t.Fatalf("after %d Map-Requests %d octets for %d", n+1, out, in)
					}
				}
				if replies == 0 || r.stat(mapRepliesTooLarge) == 0 || r.stat(mapRepliesRateLimited) == 0 || len(to) != 1 {
					t.Errorf("%d replies to %v, %d too large, %d too often", replies, to, r.stat(mapRepliesTooLarge), r.stat(mapRepliesRateLimited))
				}
				if out > in/2 {
					t.Errorf("%d octets for %d, in spite of the limits", out, in)
				}
			})
		}
	}
	t.Run("bounded", func(t *testing.T) {
		r := newStrictRig(t, cfg)
		for n := range 5 * limiterKeys {
			r.receive(request(t, []string{netip.AddrFrom4([4]byte{198, byte(n >> 16), byte(n >> 8), byte(n)}).String()}, []string{"10.1.1.5"}, nil), etr1)
		}
		if c := &r.m.etr.credit; len(c.young)+len(c.old) > 2*limiterKeys {
			t.Errorf("%d credits are kept", len(c.young)+len(c.old))
		}
	})
	t.Run("verified", func(t *testing.T) {
		cfg := cfg
		cfg.Databases = slices.Clone(cfg.Databases)
		r := newStrictRig(t, cfg)
		r.learn(peer, rec("10.2.0.0/16", 1440))
		r.used("10.2.0.0/16")
		r.until(time.Millisecond)
		m := probeRequest(t, r.one().data)
		ask := request(t, []string{"203.0.113.7"}, []string{"10.1.100.1"}, nil)
		r.receive(ask, etr1)
		if n := len(r.take()); n != 0 {
			t.Fatalf("%d long replies before the probe is answered", n)
		}
		r.receive(probeReply(t, m.Nonce, etr1.Addr(), rec("10.2.0.0/16", 1440)), etr1)
		r.receive(ask, etr1)
		if len(r.take()) != 1 {
			t.Error("no reply to who has answered a probe")
		}
	})
}

// TestAbuse_ClockJumps: the clock jumps by an hour and by a year while
// everything is under way. Forward: what was learned has expired, nothing is
// sent in a burst, and service goes on. Backward, over a restart: nonces of
// Map-Registers still increase.
func TestAbuse_ClockJumps(t *testing.T) {
	for _, jump := range []time.Duration{time.Hour, 365 * 24 * time.Hour} {
		t.Run(jump.String(), func(t *testing.T) {
			r := newRig(t, testConfig())
			r.start()
			r.confirmAll()
			r.learn(peer, rec("10.2.0.0/16", 30))
			r.used("10.2.0.0/16")
			r.m.smrs.note(r.now, []netip.Addr{addr("203.0.113.99")})
			r.miss(addr("10.3.0.1"), hostA)
			r.until(5 * time.Second)
			if err := r.setDatabases(located("10.1.0.0/16", 3)); err != nil {
				t.Fatal(err)
			}
			r.take()
			r.now = r.now.Add(jump)
			r.m.advance(r.now)
			r.collect()
			if n := len(r.take()); n > 8 {
				t.Errorf("%d datagrams at once after the jump", n)
			}
			if got := r.cached(); len(got) != 0 {
				t.Errorf("cached %v", got)
			}
			begin := r.now.Sub(zeroTime)
			n := 0
			for s := time.Duration(0); s < 5*time.Minute; s += 100 * time.Millisecond {
				r.until(begin + s)
				n += len(r.out)
				r.confirmAll()
			}
			if n > 40 {
				t.Errorf("%d datagrams in 5 minutes after the jump", n)
			}
			for _, d := range r.m.reg.databases() {
				if d.Registrations[0].State != RegistrationRegistered {
					t.Errorf("%v is %v", d.EID, d.Registrations[0].State)
				}
			}
			r.learn(peer, rec("10.2.0.0/16", 30))
			r.check()
			last := r.m.reg.last

			cfg := testConfig()
			cfg.NonceFloor = last
			back := newRig(t, cfg) // the clock is back where it was
			back.start()
			if m := register(t, back.one().data); m.Nonce <= last {
				t.Errorf("nonce %d after %d", m.Nonce, last)
			}
			for range 5 {
				back.now = back.now.Add(-jump) // and goes on so
				if n := back.m.reg.registerNonce(back.now); n <= last {
					t.Errorf("nonce %d after %d", n, last)
				}
			}
		})
	}
}

// TestAbuse_LossyControlChannel: 30 % loss, 10 % duplicates, reordering and a
// delay of 500 ms, for an hour. Both sites stay registered, a mapping is
// learned and stays learned while it is used, a change of locators arrives, and
// retransmissions keep within bounds.
func TestAbuse_LossyControlChannel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := testnet.Path{Latency: 500 * time.Millisecond, Jitter: 200 * time.Millisecond, Loss: 0.3, Duplicate: 0.1}
		n, a, b, _ := wholeSite(t, path, false)
		a.hears(etr1.Addr())
		b.hears(own4)
		time.Sleep(2 * time.Minute)
		unregistered, unknown, begun := 0, 0, time.Now()
		host := netip.AddrFrom4([4]byte{10, 2, 3, 4})
		for s := range 3600 / 5 {
			for _, x := range []*site{a, b} {
				for _, d := range x.Databases() {
					// Half of all exchanges fail, six in a row once in sixty rounds.
					since := d.Registrations[0].LastNotify
					if since.Before(begun) { // a new registration
						since = begun
					}
					if time.Since(since) > 5*time.Minute {
						unregistered++
					}
				}
			}
			if _, ok := a.Lookup(0, host); !ok {
				unknown++
				a.misses <- Miss{Dst: host, Src: hostA}
			} else {
				a.Used(eidsOf([]string{"10.2.3.0/24"}))
			}
			if s == 360 {
				begun = time.Now()
				if err := b.SetDatabases([]Database{
					{EID: eid("10.2.0.0/16"), Locators: []mapping.Locator{mapping.MakeLocator(etr1.Addr(), 9, 100)}, TTL: 1},
					{EID: eid("10.2.3.0/24"), Locators: []mapping.Locator{mapping.MakeLocator(etr1.Addr(), 9, 100)}, TTL: 1},
				}); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(5 * time.Second)
		}
		if unregistered > 0 {
			t.Errorf("%d times the last Map-Notify was older than 5 minutes", unregistered)
		}
		if unknown > 72 { // a tenth of the time
			t.Errorf("%d times of 720 the mapping was not known", unknown)
		}
		sent := len(n.Datagrams())
		rec, ok := a.Lookup(0, host)
		for range 36 { // it may just have been lost
			if ok {
				break
			}
			a.misses <- Miss{Dst: host, Src: hostA}
			time.Sleep(5 * time.Second)
			rec, ok = a.Lookup(0, host)
		}
		if !ok || rec.Record.Locators[0].Priority != 9 {
			t.Errorf("at the end: %v", rec.Record)
		}
		if sent > 6000 {
			t.Errorf("%d datagrams in an hour", sent)
		}
	})
}
