package server

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
)

// routes makes n distinct prefixes with the look of a BGP table: mostly /24 to
// /16, overlapping, and few sets of locators among many prefixes.
func routes(n int, seed uint64) []*mapping.Record {
	rng := rand.New(rand.NewPCG(seed, 0))
	seen := make(map[mapping.EID]bool, n)
	recs := make([]*mapping.Record, 0, n)
	for len(recs) < n {
		bits := 24
		if x := rng.IntN(10); x < 4 {
			bits = 16 + x + rng.IntN(5)
		}
		a := netip.AddrFrom4([4]byte{byte(1 + rng.IntN(223)), byte(rng.IntN(256)), byte(rng.IntN(256)), 0})
		e, err := mapping.MakeEID(0, netip.PrefixFrom(a, bits))
		if err != nil {
			panic(err)
		}
		if seen[e] {
			continue
		}
		seen[e] = true
		origin := rng.IntN(n/15 + 1)
		r := &mapping.Record{EID: e, TTL: 1440}
		for i := range 2 {
			l := netip.AddrFrom4([4]byte{198, byte(18 + i), byte(origin >> 8), byte(origin)})
			r.Locators = append(r.Locators, mapping.MakeLocator(l, 1, 50))
		}
		recs = append(recs, r)
	}
	return recs
}

func heapInUse() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestMemory: an imported mapping is a record and its place in the table. A
// BGP table of 1.06 million must stay under 450 MB.
func TestMemory(t *testing.T) {
	const n, limit = 100_000, 400
	store := newMemStore()
	cfg := Config{}
	before := heapInUse()
	s, err := New(t.Context(), cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	base := heapInUse() - before
	recs := routes(n, 1)
	for i := 0; i < n; i += 10_000 {
		if err := s.Put(t.Context(), recs[i:i+10_000]); err != nil {
			t.Fatal(err)
		}
	}
	clear(recs)
	recs = nil
	each := float64(heapInUse()-before-base) / n
	t.Logf("%.0f octets for each of %d mappings put", each, n)
	if each > limit {
		t.Errorf("%.0f octets for each mapping, the limit is %d", each, limit)
	}
	runtime.KeepAlive(s)

	// The same again, loaded from a store.
	for _, r := range routes(n, 1) {
		it := mapping.Item{Kind: mapping.ItemMapping, EID: r.EID, Record: r}
		store.items[keyOf(&it)] = it
	}
	s = nil
	before = heapInUse()
	loaded, err := New(t.Context(), cfg, store)
	if err != nil {
		t.Fatal(err)
	}
	each = float64(heapInUse()-before-base) / n
	t.Logf("%.0f octets for each of %d mappings loaded", each, n)
	if each > limit {
		t.Errorf("%.0f octets for each mapping loaded, the limit is %d", each, limit)
	}
	runtime.KeepAlive(loaded)
	runtime.KeepAlive(store)
}

// TestRequestAllocations: answering leaves nothing to the garbage collector,
// whatever the answer is.
func TestRequestAllocations(t *testing.T) {
	b := newBench(t, twoSites(), nil)
	if err := b.s.Put(t.Context(), []*mapping.Record{
		rec("12.0.0.0/8", "192.0.2.9"), rec("12.1.0.0/16", "192.0.2.9"), rec("2001:db8:c::/48", "2001:db8::9", "192.0.2.9"), rec("[7]12.0.0.0/8", "192.0.2.9"),
	}); err != nil {
		t.Fatal(err)
	}
	b.register(registering{key: rightKey, records: []*mapping.Record{rec("10.2.0.0/16", "192.0.2.2")}})
	for name, e := range map[string]string{
		"positive":                  "10.9.0.1",
		"in an instance":            "[7]12.0.0.1",
		"with more-specifics":       "12.3.0.1",
		"IPv6":                      "2001:db8:c::1",
		"hole":                      "11.0.0.1",
		"IPv6 hole":                 "2001:db9::1",
		"forwarded":                 "10.2.0.1",
		"prefix that holds some":    "12.0.0.0/6",
		"configured, nobody has it": "10.1.0.1",
	} {
		for _, itr := range []netip.AddrPort{itr4, itr6} {
			q := asking{eids: []mapping.EID{eid(e)}, itr: []netip.Addr{itr.Addr()}}
			msg := encodeRequest(t, q.defaults())
			if allocs := testing.AllocsPerRun(200, func() {
				if out, _ := b.r.handle(b.now, msg, itr, local4); len(out) != 1 {
					t.Fatalf("%s: no answer", name)
				}
				b.now = b.now.Add(time.Millisecond)
			}); allocs != 0 {
				t.Errorf("%s, ITR-RLOC %v: %.1f allocations", name, itr.Addr(), allocs)
			}
		}
	}
}

func benchServer(b *testing.B, n int) (*Server, []*mapping.Record) {
	cfg := twoSites()
	cfg.RequestRate = RequestRate{PerSource: 1 << 30, Burst: 1 << 30}
	cfg.ReplyRate = ReplyRate{Every: time.Millisecond, Burst: MaxReplyBurst}
	s, err := New(context.Background(), cfg, nil)
	if err != nil {
		b.Fatal(err)
	}
	recs := routes(n, 1)
	if err := s.Put(context.Background(), recs); err != nil {
		b.Fatal(err)
	}
	return s, recs
}

// BenchmarkRequest answers Map-Requests for addresses in a table of 100,000
// mappings, by proxy, from several readers at once.
func BenchmarkRequest(b *testing.B) {
	s, recs := benchServer(b, 100_000)
	msgs := make([][]byte, 4096)
	for i := range msgs {
		e := mapping.HostEID(0, recs[i*7%len(recs)].EID.Prefix.Addr())
		msgs[i] = encodeRequest(b, asking{eids: []mapping.EID{e}}.defaults())
	}
	now := time.Now()
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		r := s.newReader()
		for i := 0; pb.Next(); i++ {
			if out, _ := r.handle(now, msgs[i%len(msgs)], itr4, local4); len(out) != 1 {
				b.Fatal("no answer")
			}
		}
	})
}

// BenchmarkHole answers for addresses that nothing covers.
func BenchmarkHole(b *testing.B) {
	s, _ := benchServer(b, 100_000)
	msgs := make([][]byte, 4096)
	rng := rand.New(rand.NewPCG(9, 9))
	for i := range msgs {
		for {
			e := mapping.HostEID(0, netip.AddrFrom4([4]byte{byte(1 + rng.IntN(223)), byte(rng.IntN(256)), byte(rng.IntN(256)), 1}))
			if _, ok := s.Lookup(e); !ok {
				msgs[i] = encodeRequest(b, asking{eids: []mapping.EID{e}}.defaults())
				break
			}
		}
	}
	r := s.newReader()
	now := time.Now()
	i := 0
	b.ReportAllocs()
	for b.Loop() {
		if out, _ := r.handle(now, msgs[i%len(msgs)], itr4, local4); len(out) != 1 {
			b.Fatal("no answer")
		}
		i++
	}
}

// BenchmarkRefresh is a Map-Register that changes nothing: decoding,
// authentication, the refresh and the Map-Notify.
func BenchmarkRefresh(b *testing.B) {
	s, _ := benchServer(b, 100_000)
	r := s.newReader()
	nonce := uint64(0)
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		nonce++
		msg := encodeRegister(b, registering{key: leftKey, nonce: nonce, records: []*mapping.Record{rec("10.1.0.0/16", "192.0.2.1")}})
		b.StartTimer()
		now := time.Now()
		_, reg := r.handle(now, msg, etr1, local4)
		if len(s.registerAll(context.Background(), now, []*register{reg})) != 1 {
			b.Fatal("no Map-Notify")
		}
	}
}
