package dataplane_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/mapping"
)

// What is sent and received is counted for the mapping and for the address of
// this router, and outlives both a change of the record and an address that goes
// and comes back.
func TestTraffic(t *testing.T) {
	s := newSite(t, dataplane.MissPolicy{})
	s.learn(positive("10.2.0.0/16", theirs4), positive("2001:db8:2::/48", theirs6))
	p4, p6 := flow4(72).Bytes(), flow6(152).Bytes() // 100 and 200 octets
	s.send(0, p4, p4, p6, p4)
	in4, in6 := back4(272), back6(352) // 300 and 400 octets
	s.in.Batch([]dataplane.Packet{
		in4.Lisp(0, theirs4.String(), ours4.String()), in4.Lisp(0, theirs4.String(), ours6.String()), in6.Lisp(0, theirs4.String(), ours4.String()),
	})
	want := func(when string) {
		t.Helper()
		f := s.fib.Snapshot()
		for e, want := range map[string]dataplane.Traffic{
			"10.2.0.0/16": {PacketsOut: 3, BytesOut: 300, PacketsIn: 2, BytesIn: 600}, "2001:db8:2::/48": {PacketsOut: 1, BytesOut: 200, PacketsIn: 1, BytesIn: 400},
		} {
			if got := f.Entry(eid(e)).Traffic(); got != want {
				t.Errorf("%s: %s has %+v, want %+v", when, e, got, want)
			}
		}
		for a, want := range map[netip.Addr]dataplane.Traffic{
			ours4: {PacketsOut: 3, BytesOut: 300, PacketsIn: 2, BytesIn: 700}, ours6: {PacketsOut: 1, BytesOut: 200, PacketsIn: 1, BytesIn: 300}, theirs4: {},
		} {
			if got := f.LocalTraffic(a); got != want {
				t.Errorf("%s: %v has %+v, want %+v", when, a, got, want)
			}
		}
	}
	want("at first")
	if e := s.fib.Snapshot().Entry(eid("10.2.0.0/24")); e != nil {
		t.Errorf("an entry for a part of a mapping: %v", e.EID())
	}
	s.fib.SetSources(from(ours6))
	if got := s.fib.Snapshot().LocalTraffic(ours4); got != (dataplane.Traffic{}) {
		t.Errorf("an address that is gone has %+v", got)
	}
	s.fib.SetSources(from(ours4, ours6))
	s.learn(positive("10.2.0.0/16", rlocN(9)))
	want("when the address was away and the record changed")
	// Addresses that this router had do not pile up, and those that it has
	// keep their counters.
	for i := range 600 {
		s.fib.SetSources(append(from(ours4, ours6), from(netip.AddrFrom4([4]byte{203, 0, 113, byte(i)}))...))
		s.fib.SetLocalRLOCs([]netip.Addr{netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)})})
	}
	want("after many addresses")
	s.fib.SetSources(from(ours6))
	for i := range 600 {
		s.fib.SetLocalRLOCs([]netip.Addr{netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)})})
	}
	s.fib.SetLocalRLOCs(nil)
	s.fib.SetSources(from(ours4, ours6))
	if got := s.fib.Snapshot().LocalTraffic(ours4); got != (dataplane.Traffic{}) {
		t.Errorf("after many others an address that was gone has %+v", got)
	}
}

// Each packet of a host is a hit or a miss of the map-cache once, those that were
// held too; what never got as far as to be looked up is neither.
func TestCacheHitsAndMisses(t *testing.T) {
	s := newSite(t, dataplane.MissPolicy{Hold: true})
	s.learn(mapping.NegativeRecord(eid("10.3.0.0/16"), mapping.Drop, 60), mapping.NegativeRecord(eid("10.4.0.0/16"), mapping.SendMapRequest, 60))
	known, negative, again, foreign := flow4(10), flow4(10), flow4(10), flow4(10)
	negative.Dst, again.Dst, foreign.Src = addr("10.3.0.1"), addr("10.4.0.1"), addr("172.16.0.1")
	s.send(0, known.Bytes(), known.Bytes(), negative.Bytes(), again.Bytes(), foreign.Bytes(), []byte{0x40})
	s.wantCount(dataplane.CacheHits, 1)
	s.wantCount(dataplane.CacheMisses, 3)
	s.learn(positive("10.2.0.0/16", theirs4))
	s.fwd.Release(s.now, s.releasers())
	s.send(0, known.Bytes())
	s.wantCount(dataplane.EncapPackets, 3)
	s.wantCount(dataplane.CacheHits, 2)
	s.wantCount(dataplane.CacheMisses, 3)
	s.now = s.now.Add(2 * time.Hour)
	s.send(0, known.Bytes())
	s.wantCount(dataplane.CacheMisses, 4)
}
