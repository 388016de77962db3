package xtr

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/auth"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// TestRandomFlood throws everything at a machine with small limits, from one
// printed seed: its state stays consistent and bounded, no EID is asked for
// more than once a second, and new resolutions keep within their rate.
func TestRandomFlood(t *testing.T) {
	rng := seeded(t)
	cfg := testConfig()
	cfg.MapResolvers = []netip.AddrPort{mr1, mr2}
	cfg.CacheLimit = 40
	cfg.Limits = Limits{Pending: 30, PendingPerHost: 10, Rate: 50, RatePerHost: 20}
	r := newRig(t, cfg)
	r.start()
	last := map[mapping.EID]time.Duration{}
	var pending [][]byte // Map-Requests that may be answered
	var register []byte
	started := 0
	for n := range 60_000 {
		before := r.m.itr.seq
		r.flood(rng, &pending, register)
		started += int(r.m.itr.seq - before)
		for _, d := range r.take() {
			switch ty, _ := wire.PeekType(d.data); ty {
			case wire.TypeECM:
				_, m := mapRequest(t, d.data)
				e := asked(t, m)
				if at, ok := last[e]; ok && d.at-at < time.Second {
					t.Fatalf("%v asked at %v and %v", e, at, d.at)
				}
				last[e] = d.at
				pending = append(pending, d.data)
				if len(pending) > 50 {
					pending = pending[1:]
				}
			case wire.TypeMapRegister:
				register = d.data
			}
		}
		if n%50 == 0 {
			r.check()
		}
	}
	elapsed := r.now.Sub(zeroTime)
	refreshes := int(r.stat(mapRequestsRefresh) + r.stat(mapRequestsSMRInvoked))
	if most := requestBurst*50 + int(elapsed.Seconds()*50); started-refreshes > most {
		t.Errorf("%d resolutions in %v, at most %d", started-refreshes, elapsed, most)
	}
	// The run must have been worth it.
	for _, c := range []counter{resolutionsAnswered, resolutionsGivenUp, resolutionsEvicted, missesPending, missesCached, missesTableFull,
		missesRateLimited, mapRequestsRefresh, mapRequestsSMRInvoked, mapRepliesUnmatched, mapRepliesWrongEID, mapReplyRecordsRefused,
		mapRepliesOut, mapRepliesRateLimited, mapNotifiesIn, controlMalformed} {
		if r.stat(c) == 0 {
			t.Errorf("%s never happened", counterTable[c].name)
		}
		t.Logf("%s: %d", counterTable[c].name, r.stat(c))
	}
}

// flood gives one random input.
func (r *rig) flood(rng *rand.Rand, pending *[][]byte, register []byte) {
	prefix := func() *mapping.Record {
		p, _ := netip.AddrFrom4([4]byte{10, byte(rng.IntN(6)), byte(rng.IntN(4)), byte(rng.IntN(8))}).Prefix(8 + rng.IntN(25))
		rec := rec(p.String(), uint32(rng.IntN(3)))
		if rng.IntN(3) == 0 {
			rec.Locators, rec.Action = nil, mapping.Action(rng.IntN(8))
		}
		return rec
	}
	switch rng.IntN(12) {
	case 0:
		pause := time.Duration(rng.ExpFloat64() * float64(300*time.Millisecond))
		if rng.IntN(100) == 0 { // quiet for long enough to give up
			pause = 2 * time.Minute
		}
		r.until(r.now.Sub(zeroTime) + pause)
	case 1, 2, 3, 4, 5:
		r.miss(netip.AddrFrom4([4]byte{10, byte(rng.IntN(6)), byte(rng.IntN(4)), byte(rng.IntN(8))}),
			netip.AddrFrom4([4]byte{10, 1, 0, byte(rng.ExpFloat64() * 5)}))
	case 6: // an answer, mostly a good one
		if len(*pending) == 0 {
			return
		}
		i := rng.IntN(len(*pending))
		_, m := mapRequest(r.t, (*pending)[i])
		recs := []*mapping.Record{prefix(), prefix()}
		if rng.IntN(3) > 0 {
			e := asked(r.t, m)
			p, _ := e.Prefix.Addr().Prefix(8 + rng.IntN(e.Prefix.Bits()-7))
			recs[0].EID = mapping.EID{IID: e.IID, Prefix: p}
		}
		r.receive(reply(r.t, m.Nonce, recs...), etr1)
	case 7:
		var eids []mapping.EID
		for e := range r.m.itr.cache.All() {
			if rng.IntN(2) == 0 {
				eids = append(eids, e.Record.EID)
			}
		}
		r.m.used(r.now, eids)
		r.collect()
	case 8:
		e, q := prefix().EID, prefix().EID
		for rng.IntN(2) == 0 { // a burst about our own
			q = eid("10.1.0.0/16")
			r.receive(request(r.t, []string{"203.0.113.7"}, []string{"10.1.0.0/16"}, nil), etr1)
		}
		r.receive(mustEncode(r.t, &wire.MapRequest{
			SMR: rng.IntN(2) == 0, Probe: rng.IntN(4) == 0, NoReply: rng.IntN(8) == 0, SourceEID: wire.IPAddress(e.Prefix.Addr()),
			ITRRLOCs: []wire.Address{wire.IPAddress(netip.AddrFrom4([4]byte{203, 0, 113, byte(rng.IntN(2))}))},
			EIDs:     []wire.RequestRecord{wire.NewRequestRecord(q)},
		}), etr1)
	case 9:
		if register != nil {
			b := notify(r.t, register, key)
			if rng.IntN(2) == 0 {
				b[4+rng.IntN(len(b)-4)] ^= byte(1 << rng.IntN(8))
			}
			r.receive(b, ms1)
		}
	case 10:
		b := make([]byte, rng.IntN(60))
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		r.receive(b, etr1)
	case 11:
		r.m.clear(r.now, prefix().EID)
		r.collect()
	}
}

// FuzzReceive gives a machine with outstanding requests, a cached entry and a
// registration under way one datagram: it must not panic, must keep its state
// bounded, must answer with well-formed messages only, and may change the
// map-cache only if the nonce is one that it sent.
func FuzzReceive(f *testing.F) {
	good := rec("10.2.0.0/16", 10)
	f.Add(reply(f, 2, good, rec("10.2.3.0/24", 10)))
	f.Add(reply(f, 2, mapping.NegativeRecord(eid("0.0.0.0/0"), mapping.Drop, 15)))
	f.Add(reply(f, 3, rec("[7]10.2.0.0/16", 0)))
	f.Add(request(f, []string{"203.0.113.7", "2001:db8:ffff::7"}, []string{"10.1.0.1", "2001:db8:1::/64"}, nil))
	f.Add(request(f, []string{"203.0.113.7"}, []string{"10.1.0.0/16"}, func(m *wire.MapRequest) { m.Probe = true }))
	f.Add(request(f, []string{"203.0.113.7"}, []string{"10.1.0.0/16"}, func(m *wire.MapRequest) { m.SMR = true; m.SourceEID = wire.IPAddress(addr("10.9.0.0")) }))
	f.Add(forwarded(f, request(f, []string{"203.0.113.7"}, []string{"10.1.0.1"}, nil), "203.0.113.7:4342"))
	reg := mustEncode(f, &wire.MapRegister{Nonce: uint64(zeroTime.UnixNano()), Auth: key.Template(), Records: records(f, good)})
	f.Add(notify(f, reg, key))
	unsolicited := mustEncode(f, &wire.MapNotify{Nonce: 9, Auth: key.Template(), Records: records(f, good)})
	if err := auth.Sign(unsolicited, key); err != nil {
		f.Fatal(err)
	}
	f.Add(unsolicited)
	f.Fuzz(func(t *testing.T, msg []byte) {
		r := newRig(t, testConfig())
		r.start()
		r.learn(addr("10.9.0.1"), rec("10.9.0.0/16", 10)) // nonce 1
		r.miss(peer, hostA)                               // nonce 2
		r.m.miss(r.now, Miss{IID: 7, Dst: peer, Src: hostA})
		r.collect() // nonce 3
		r.take()
		r.changes = nil
		entries := fmt.Sprint(r.cached())
		for _, from := range []netip.AddrPort{etr1, ms1} {
			r.receive(msg, from)
			r.check()
		}
		if nonce, ok := wire.PeekNonce(msg); !ok || nonce < 2 || nonce > 3 {
			if len(r.changes) != 0 || fmt.Sprint(r.cached()) != entries {
				t.Fatalf("map-cache changed to %v by %x", r.cached(), msg)
			}
		}
		for e := range r.m.itr.cache.All() {
			if _, own := r.m.ownEID(e.Record.EID); own {
				t.Fatalf("%v is ours and cached", e.Record.EID)
			}
			for _, l := range e.Record.Locators {
				if l.Opaque == "" && mapping.ValidRLOC(l.Addr) != nil {
					t.Fatalf("locator %v is cached", l)
				}
			}
		}
		for _, d := range r.take() {
			if len(d.data) > maxPayload6 || !d.dst.IsValid() || d.dst.Port() == 0 || d.src.Addr().Is4() != d.dst.Addr().Is4() {
				t.Fatalf("%d octets from %v to %v", len(d.data), d.src, d.dst)
			}
			switch ty, _ := wire.PeekType(d.data); ty {
			case wire.TypeMapReply:
				answer(t, d)
			case wire.TypeECM:
				mapRequest(t, d.data)
			case wire.TypeMapNotifyAck:
				var m wire.MapNotify
				if err := m.Decode(d.data); err != nil {
					t.Fatal(err)
				}
			default:
				t.Fatalf("a %v was sent", ty)
			}
		}
		r.until(5 * time.Minute) // and time goes on
		r.check()
	})
}
