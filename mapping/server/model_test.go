package server

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// model is a slow and obvious map-server: a list of what is known.
type model map[mapping.EID]known

type known struct {
	rec     *mapping.Record // nil: configured, not registered
	forward bool
}

// longest is the longest match for a.
func (m model) longest(iid uint32, a netip.Addr) (best mapping.EID, ok bool) {
	for e := range m {
		if e.Contains(iid, a) && (!ok || e.Prefix.Bits() > best.Prefix.Bits()) {
			best, ok = e, true
		}
	}
	return best, ok
}

// check judges one answer for the address a.
func (m model) check(iid uint32, a netip.Addr, forwarded bool, answer []*mapping.Record) error {
	match, found := m.longest(iid, a)
	if found && m[match].forward {
		if !forwarded {
			return fmt.Errorf("answered with %v, and not forwarded", texts(answer))
		}
		return nil
	}
	if forwarded || len(answer) == 0 {
		return fmt.Errorf("forwarded %v, answered with %v", forwarded, texts(answer))
	}
	first := answer[0]
	if !first.EID.Contains(iid, a) {
		return fmt.Errorf("%v does not hold the address", first.EID)
	}
	if found && !match.Covers(first.EID) {
		return fmt.Errorf("%v is outside of the longest match %v", first.EID, match)
	}
	// What the answer says of every known EID must be true: one that lies
	// inside the answered prefix is in the message as well.
	said := make(map[mapping.EID]*mapping.Record)
	for _, r := range answer[1:] {
		if !first.EID.Covers(r.EID) || r.EID == first.EID {
			return fmt.Errorf("%v is no more-specific of %v", r.EID, first.EID)
		}
		said[r.EID] = r
	}
	inside := 0
	for e, k := range m {
		if e == match && found || !first.EID.Covers(e) {
			continue
		}
		inside++
		r := said[e]
		switch {
		case r == nil:
			return fmt.Errorf("%v is inside of %v, and not in the answer", e, first.EID)
		case k.forward:
			return fmt.Errorf("%v is for an ETR to answer", e)
		case !sameAnswer(r, k.rec):
			return fmt.Errorf("%v is answered as %v", k.rec, r)
		}
	}
	if inside != len(said) {
		return fmt.Errorf("%d more-specifics, %d records for them", inside, len(said))
	}
	switch {
	case !found:
		if first.TTL != mapping.NegativeTTL || !sameAnswer(first, nil) {
			return fmt.Errorf("a hole is answered as %v", first)
		}
		// It is the least-specific hole.
		if b := first.EID.Prefix.Bits(); b > 0 {
			wider, _ := first.EID.Prefix.Addr().Prefix(b - 1)
			if !m.overlaps(mapping.EID{IID: iid, Prefix: wider}) {
				return fmt.Errorf("%v overlaps nothing either, and %v is answered", wider, first.EID)
			}
		}
	case !sameAnswer(first, m[match].rec):
		return fmt.Errorf("%v is answered as %v", m[match].rec, first)
	case first.EID != match:
		// It is narrowed no more than it must be.
		if len(said) > 0 {
			return fmt.Errorf("%v is narrowed to %v, and has more-specifics", match, first.EID)
		}
		wider, _ := first.EID.Prefix.Addr().Prefix(first.EID.Prefix.Bits() - 1)
		for e := range m {
			if e != match && match.Covers(e) && e.IID == iid && wider.Overlaps(e.Prefix) {
				return nil
			}
		}
		return fmt.Errorf("%v is narrowed to %v, and %v overlaps nothing either", match, first.EID, wider)
	}
	return nil
}

func (m model) overlaps(e mapping.EID) bool {
	for k := range m {
		if k.IID == e.IID && k.Prefix.Overlaps(e.Prefix) {
			return true
		}
	}
	return false
}

// sameAnswer compares what an answer says of the locators. The TTL is the
// lowest of the message, and the prefix may be narrowed.
func sameAnswer(r, want *mapping.Record) bool {
	if want == nil {
		return r.Negative() && r.Action == mapping.NativelyForward
	}
	c := *r
	c.EID, c.TTL = want.EID, want.TTL
	return c.Equal(want)
}

// space makes EIDs in a small corner, so that they overlap often.
func randomIn(rng *rand.Rand) (iid uint32, a netip.Addr) {
	iid = uint32(rng.IntN(2)) * 7
	if rng.IntN(3) == 0 {
		return iid, netip.AddrFrom16([16]byte{0x20, byte(rng.IntN(2)), byte(rng.IntN(4) << 6), byte(rng.IntN(256)), 15: byte(rng.IntN(4))})
	}
	return iid, netip.AddrFrom4([4]byte{byte(rng.IntN(2) * 10), byte(rng.IntN(4) << 6), byte(rng.IntN(256)), byte(rng.IntN(4) << 6)})
}

func randomEID(rng *rand.Rand, minBits, maxBits int) mapping.EID {
	iid, a := randomIn(rng)
	e, err := mapping.MakeEID(iid, netip.PrefixFrom(a, minBits+rng.IntN(maxBits-minBits+1)))
	if err != nil {
		panic(err)
	}
	return e
}

func randomLocators(rng *rand.Rand, r *mapping.Record) {
	for i := range 1 + rng.IntN(3) {
		r.Locators = append(r.Locators, mapping.MakeLocator(netip.AddrFrom4([4]byte{192, 0, byte(i), byte(rng.IntN(4) + 1)}), byte(rng.IntN(3)), byte(rng.IntN(100))))
	}
}

// TestModel makes random changes from every side and compares every answer
// with the model's: it holds the address, says the truth of it, and overlaps
// nothing known of which it does not say the truth as well.
func TestModel(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	for round := range 12 {
		cfg := Config{}
		m := make(model)
		cfg.Sites = []Site{{Name: "s", Keys: twoSites().Sites[0].Keys}}
		policy := make(map[mapping.EID]ProxyPolicy)
		for range rng.IntN(6) {
			e := randomEID(rng, 6, 18)
			if _, ok := m[e]; ok {
				continue
			}
			m[e] = known{}
			policy[e] = ProxyPolicy(rng.IntN(3))
			cfg.Sites[0].Prefixes = append(cfg.Sites[0].Prefixes, SitePrefix{EID: e, AcceptMoreSpecifics: true, ProxyReply: policy[e]})
		}
		static := make(map[mapping.EID]*mapping.Record)
		for range rng.IntN(4) {
			r := &mapping.Record{EID: randomEID(rng, 0, 24), TTL: 1 + uint32(rng.IntN(9)), Action: mapping.Drop}
			if rng.IntN(2) == 0 {
				r.Action = mapping.NoAction
				randomLocators(rng, r)
			}
			if static[r.EID] == nil {
				cfg.Static = append(cfg.Static, r)
				static[r.EID] = r
			}
		}
		if round%3 == 0 {
			cfg.MaxReply4, cfg.MaxReply6 = 80, 80 // next to nothing fits
		}
		b := newBench(t, cfg, newMemStore())
		api := make(map[mapping.EID]*mapping.Record)
		registered := make(map[mapping.EID]known)
		rebuild := func() {
			clear(m)
			for e := range policy {
				m[e] = known{}
			}
			for e, r := range api {
				m[e] = known{rec: r}
			}
			for e, k := range registered {
				m[e] = k
			}
			for e, r := range static {
				m[e] = known{rec: r}
			}
		}
		rebuild()
		for step := range 60 {
			switch rng.IntN(8) {
			case 0, 1, 2:
				r := &mapping.Record{EID: randomEID(rng, 0, 32), TTL: 1 + uint32(rng.IntN(9))}
				randomLocators(rng, r)
				r.SortLocators()
				if err := b.s.Put(t.Context(), []*mapping.Record{r}); err != nil {
					t.Fatal(err)
				}
				api[r.EID] = r
			case 3:
				for e := range api {
					if err := b.s.Delete(t.Context(), []mapping.EID{e}); err != nil {
						t.Fatal(err)
					}
					delete(api, e)
					break
				}
			case 4, 5, 6:
				if len(cfg.Sites[0].Prefixes) == 0 {
					continue
				}
				in := cfg.Sites[0].Prefixes[rng.IntN(len(cfg.Sites[0].Prefixes))].EID
				e := in
				for range 20 {
					if c := randomEID(rng, in.Prefix.Bits(), min(32, in.Prefix.Bits()+12)); in.Covers(c) {
						e = c
					}
				}
				r := &mapping.Record{EID: e, TTL: 1 + uint32(rng.IntN(9))}
				proxy := rng.IntN(2) == 0
				if rng.IntN(4) == 0 {
					r.TTL = 0
				} else {
					randomLocators(rng, r)
					r.SortLocators()
				}
				if b.register(registering{proxy: proxy, records: []*mapping.Record{r}}) == nil {
					t.Fatalf("round %d, step %d: %v was refused", round, step, r)
				}
				if r.TTL == 0 {
					delete(registered, e)
					break
				}
				k := known{rec: r}
				switch p := policy[b.s.sites.Load().longest(e).EID]; p {
				case ProxyNever:
					k.forward = true
				case ProxyAsRegistered:
					k.forward = !proxy
				}
				registered[e] = k
			case 7:
				if step%4 == 0 {
					b = b.restart(cfg)
				} else if step%7 == 0 {
					b.pass(registrationTimeout)
					clear(registered)
				}
			}
			rebuild()
			for range 10 {
				iid, a := randomIn(rng)
				itr, to := itr4.Addr(), local4
				if rng.IntN(2) == 0 {
					itr, to = itr6.Addr(), local6
				}
				out := b.ask(asking{eids: []mapping.EID{mapping.HostEID(iid, a)}, itr: []netip.Addr{itr}, to: to})
				var answer []*mapping.Record
				forwarded := false
				for _, d := range out {
					if ty, _ := wire.PeekType(d.payload); ty == wire.TypeECM {
						forwarded = true
						continue
					}
					answer = records(t, d.payload)
					if limit := b.s.maxReply6; len(answer) > 1 && len(d.payload) > limit {
						t.Errorf("a Map-Reply of %d octets with more-specifics, the limit is %d", len(d.payload), limit)
					}
				}
				if err := m.check(iid, a, forwarded, answer); err != nil {
					t.Fatalf("seed %d, round %d, step %d: [%d]%v: %v\nanswer: %v\nknown: %v", seed, round, step, iid, a, err, texts(answer), m)
				}
			}
		}
		b.check()
	}
}

// FuzzHandle gives the server any message, after some that it accepted, and
// the same again some time later. Nothing panics, what goes out is bounded and
// well formed, the inside stays consistent, and without a key nothing changes.
func FuzzHandle(f *testing.F) {
	cfg := twoSites()
	seeds := newBench(f, cfg, nil)
	seeds.nonce = 5000
	f.Add(encodeRequest(f, asking{eids: []mapping.EID{eid("10.1.1.1")}}.defaults()), true)
	f.Add(encodeRequest(f, asking{eids: []mapping.EID{eid("10.2.1.1"), eid("[7]10.1.0.0/16"), eid("10.0.0.0/8")}, bare: true}.defaults()), false)
	f.Add(encodeRequest(f, asking{eids: []mapping.EID{eid("2001:db8:1::1 from 2001:db8::/32")}, itr: []netip.Addr{itr6.Addr()}, src: itr6}.defaults()), true)
	f.Add(seeds.encode(registering{proxy: true, merge: true, xtr: xtrID(1), records: []*mapping.Record{rec("10.1.0.0/16", "192.0.2.1"), rec("10.1.1.0/24", "2001:db8::1")}}), false)
	f.Add(seeds.encode(registering{key: rightKey, ttlFlag: true, records: []*mapping.Record{withTTL(0, rec("10.2.0.0/16"))}}), true)
	f.Fuzz(func(t *testing.T, msg []byte, six bool) {
		b := newBench(t, cfg, newMemStore())
		b.register(registering{proxy: true, records: []*mapping.Record{rec("10.1.0.0/16", "192.0.2.1"), rec("[7]10.1.0.0/16", "192.0.2.1")}})
		b.register(registering{key: rightKey, records: []*mapping.Record{rec("10.2.0.0/16", "192.0.2.1")}})
		table := b.s.table.Load()
		src, dst := itr4, local4
		if six {
			src, dst = itr6, local6
		}
		for range 2 {
			out := b.deliver(msg, src, dst)
			if len(out) > maxRequestRecords+1 {
				t.Fatalf("%d datagrams for one", len(out))
			}
			octets := 0
			for _, d := range out {
				octets += len(d.payload)
				switch ty, _ := wire.PeekType(d.payload); ty {
				case wire.TypeMapReply:
					records(t, d.payload)
				case wire.TypeECM:
					var m wire.ECM
					if err := m.Decode(d.payload); err != nil {
						t.Fatal(err)
					}
				case wire.TypeMapNotify:
					var m wire.MapNotify
					if err := m.Decode(d.payload); err != nil {
						t.Fatal(err)
					}
				default:
					t.Fatalf("a server sent %v", ty)
				}
			}
			// A reply, and the message again for each EID it forwards.
			if limit := maxReply6 + 34 + (maxRequestRecords+1)*(len(msg)+64); octets > limit {
				t.Fatalf("%d octets for a message of %d, the limit is %d", octets, len(msg), limit)
			}
			b.now = b.now.Add(time.Second)
		}
		if b.count(acceptedMapRegisters) == 2 && b.s.table.Load() != table {
			t.Fatal("the table has changed without a Map-Register")
		}
		b.s.tick(context.Background(), b.now)
		b.check()
	})
}
