package dataplane_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/dataplane/dptest"
	"github.com/eidolon-lisp/eidolon/mapping"
)

var (
	addr = netip.MustParseAddr
	eid  = mapping.MustParseEID
	t0   = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

	ours4, ours6     = addr("192.0.2.1"), addr("2001:db8:ffff::1")
	theirs4, theirs6 = addr("198.51.100.1"), addr("2001:db8:eeee::1")
)

// site is the core of one xTR between fakes: instance 0 and instance 7, each
// with IPv4 and IPv6 EIDs, and sources of both families.
type site struct {
	t     testing.TB
	fib   *dataplane.FIB
	fwd   *dataplane.Forwarder
	host  *dptest.Host
	host7 *dptest.Host
	under *dptest.Underlay
	out   *dataplane.Encap
	out7  *dataplane.Encap
	in    *dataplane.Decap
	now   time.Time
}

func newSite(t testing.TB, miss dataplane.MissPolicy) *site {
	s := &site{t: t, fib: dataplane.NewFIB(), host: dptest.NewHost(), host7: dptest.NewHost(), under: dptest.NewUnderlay(), now: t0}
	s.fib.SetSources(from(ours4, ours6))
	s.fib.SetLocal([]dataplane.LocalEID{
		{EID: eid("10.1.0.0/16")}, {EID: eid("2001:db8:1::/48")}, {EID: eid("[7]10.1.0.0/16")}, {EID: eid("[7]2001:db8:1::/48")},
	})
	s.fwd = dataplane.NewForwarder(s.fib, dataplane.Config{Miss: miss, Now: func() time.Time { return s.now }})
	s.out = s.fwd.NewEncap(0, s.host, s.under)
	s.out7 = s.fwd.NewEncap(7, s.host7, s.under)
	s.in = s.fwd.NewDecap(map[uint32]dataplane.HostWriter{0: s.host, 7: s.host7})
	return s
}

// from makes sources of equal priority and weight.
func from(list ...netip.Addr) (out []dataplane.Source) {
	for _, a := range list {
		out = append(out, dataplane.Source{Addr: a, Priority: 1, Weight: 100})
	}
	return out
}

// learn puts mappings into the FIB that are valid for an hour.
func (s *site) learn(recs ...*mapping.Record) {
	s.fib.Apply(changes(s.now.Add(time.Hour), recs...))
}

func changes(expires time.Time, recs ...*mapping.Record) []mapping.CacheChange {
	var list []mapping.CacheChange
	for _, r := range recs {
		list = append(list, mapping.CacheChange{EID: r.EID, Record: r, Expires: expires})
	}
	return list
}

// positive is a record with locators of priority 1 and equal weight.
func positive(e string, rlocs ...netip.Addr) *mapping.Record {
	r := &mapping.Record{EID: eid(e), TTL: 60}
	for _, a := range rlocs {
		r.Locators = append(r.Locators, mapping.MakeLocator(a, 1, 100))
	}
	r.SortLocators()
	return r
}

// send puts packets through the instance's encapsulating worker.
func (s *site) send(iid uint32, pkts ...[]byte) {
	w := s.out
	if iid == 7 {
		w = s.out7
	}
	var batch []dataplane.HostPacket
	for _, p := range pkts {
		batch = append(batch, dptest.HostPacket(p, 0))
	}
	w.Batch(s.now, batch)
}

// drops returns the reasons that have a count, with it.
func (s *site) drops() map[dataplane.DropReason]uint64 {
	m := make(map[dataplane.DropReason]uint64)
	for _, r := range dataplane.DropReasons() {
		if n := s.fwd.Drops(r); n > 0 {
			m[r] = n
		}
	}
	return m
}

func (s *site) wantCount(c dataplane.Counter, n uint64) {
	s.t.Helper()
	if got := s.fwd.Count(c); got != n {
		s.t.Errorf("%v is %d, want %d", c, got, n)
	}
}

func (s *site) wantDrops(r dataplane.DropReason, n uint64) {
	s.t.Helper()
	if got := s.fwd.Drops(r); got != n {
		s.t.Errorf("drop_%v is %d, want %d", r, got, n)
	}
}
