package server

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
)

func TestS7_Expiry(t *testing.T) {
	b := newBench(t, twoSites(), newMemStore())
	b.register(registering{records: []*mapping.Record{rec("10.1.0.0/16", "192.0.2.1")}})
	b.register(registering{ttlFlag: true, records: []*mapping.Record{withTTL(10, rec("10.1.1.0/24", "192.0.2.1")), withTTL(1, rec("10.1.2.0/24", "192.0.2.1"))}})
	alive := func() (out []string) {
		for st := range b.s.Database(mapping.EID{}) {
			if st.Origin == OriginRegistered {
				out = append(out, st.Record.EID.String())
			}
		}
		return out
	}
	for _, c := range []struct {
		at   time.Duration
		want []string
	}{
		{59 * time.Second, []string{"10.1.0.0/16", "10.1.1.0/24", "10.1.2.0/24"}},
		{60 * time.Second, []string{"10.1.0.0/16", "10.1.1.0/24"}},
		{179 * time.Second, []string{"10.1.0.0/16", "10.1.1.0/24"}},
		{180 * time.Second, []string{"10.1.1.0/24"}},
		{599 * time.Second, []string{"10.1.1.0/24"}},
		{600 * time.Second, nil},
	} {
		b.pass(start.Add(c.at).Sub(b.now))
		wantStrings(t, fmt.Sprint("after ", c.at), alive(), c.want...)
		b.check()
	}
	if got := b.count(expiredRegistrations); got != 3 {
		t.Errorf("%d expired, want 3", got)
	}
	b.wantAnswer("10.1.1.5", "10.1.0.0/18 ttl 1m natively-forward")

	// A refresh moves the end, and a restart begins anew.
	b.register(registering{records: []*mapping.Record{rec("10.1.0.0/16", "192.0.2.1")}})
	b.pass(179 * time.Second)
	b.register(registering{records: []*mapping.Record{rec("10.1.0.0/16", "192.0.2.1")}})
	b.pass(179 * time.Second)
	wantStrings(t, "refreshed", alive(), "10.1.0.0/16")
	b = b.restart(twoSites())
	b.pass(179 * time.Second)
	wantStrings(t, "restarted", alive(), "10.1.0.0/16")
	b.pass(time.Second)
	wantStrings(t, "restarted, and silent", alive())
}

func TestLimits(t *testing.T) {
	cfg := twoSites()
	b := newBench(t, cfg, newMemStore())
	sixteen := func(n int) (rs []*mapping.Record) {
		for i := range n {
			rs = append(rs, rec(fmt.Sprintf("10.1.%d.0/24", 64+i), "192.0.2.1"))
		}
		return rs
	}
	full := registering{key: rightKey, records: sixteen(7)}
	b.wantDrop("seven of six", refusedTooMany, b.deliver(b.encode(full), etr1, local4), 0)
	b.check()
	full.records = sixteen(6)
	if b.register(full) == nil {
		t.Error("six of six were refused")
	}
	b.wantDrop("one more", refusedTooMany, b.deliver(b.encode(registering{key: rightKey, records: []*mapping.Record{rec("10.2.0.0/16", "192.0.2.1")}}), etr1, local4), 1)
	full.records = sixteen(6)
	full.src = etr2
	if b.register(full) == nil {
		t.Error("another xTR could not take over the six")
	}
	full.records = append(sixteen(5), withTTL(0, rec("10.1.69.0/24")))
	if b.register(full) == nil {
		t.Error("a withdrawal at the limit was refused")
	}
	b.check()

	// A merged record holds 255 locators.
	many := func(net byte) *mapping.Record {
		r := &mapping.Record{EID: eid("2001:db8:1::/48"), TTL: 60}
		for i := range 200 {
			r.Locators = append(r.Locators, mapping.MakeLocator(netip.AddrFrom4([4]byte{192, 0, net, byte(i)}), 1, 1))
		}
		return r
	}
	before := b.count(refusedTooMany)
	for id, net := range []byte{1, 1, 1, 2} {
		out := b.deliver(b.encode(registering{merge: true, xtr: xtrID(byte(id + 1)), records: []*mapping.Record{many(net)}}), etr1, local4)
		if id < 3 && len(out) != 1 {
			t.Errorf("the set of xTR %d was refused", id)
		} else if id == 3 {
			b.wantDrop("400 locators", refusedTooMany, out, before)
		}
	}
}

// TestOrigins: static before registered before API, each uncovering the next.
func TestOrigins(t *testing.T) {
	cfg := twoSites()
	cfg.Static = append(cfg.Static, rec("10.2.0.0/16", "203.0.113.1"))
	b := newBench(t, cfg, newMemStore())
	put := func(e, l string) {
		t.Helper()
		if err := b.s.Put(t.Context(), []*mapping.Record{rec(e, l)}); err != nil {
			t.Fatal(err)
		}
	}
	put("10.2.0.0/16", "203.0.113.3")
	put("10.3.0.0/16", "203.0.113.3")
	b.register(registering{key: rightKey, records: []*mapping.Record{rec("10.2.0.0/16", "203.0.113.2"), rec("10.3.0.0/16", "203.0.113.2")}})
	want := func(e, l string) {
		t.Helper()
		b.wantAnswer(e+".0.1", e+".0.0/16 ttl 1440m, "+l+" 1/100 R")
	}
	want("10.2", "203.0.113.1")
	want("10.3", "203.0.113.2")
	b = b.restart(cfg)
	want("10.2", "203.0.113.1")
	want("10.3", "203.0.113.2")
	b.pass(registrationTimeout)
	want("10.3", "203.0.113.3")
	b = b.restart(twoSites())
	want("10.2", "203.0.113.3")
	if err := b.s.Delete(t.Context(), []mapping.EID{eid("10.3.0.0/16")}); err != nil {
		t.Fatal(err)
	}
	b.wantAnswer("10.3.0.1", "10.3.0.0/16 ttl 1m natively-forward")
	b.check()
}

// TestRestart: what a crashed server had is answered at once, and what the
// configuration no longer admits is gone for good.
func TestRestart(t *testing.T) {
	b := newBench(t, twoSites(), newMemStore())
	b.register(registering{proxy: true, records: []*mapping.Record{rec("2001:db8:1::/48", "192.0.2.1"), rec("10.1.7.0/24", "192.0.2.1")}})
	b.register(registering{key: rightKey, records: []*mapping.Record{rec("10.2.0.0/16", "192.0.2.2")}})
	if err := b.s.Put(t.Context(), []*mapping.Record{rec("50.0.0.0/8", "203.0.113.1")}); err != nil {
		t.Fatal(err)
	}
	b = b.restart(twoSites())
	b.check()
	b.wantAnswer("2001:db8:1::1", "2001:db8:1::/48 ttl 1440m, 192.0.2.1 1/100 R")
	b.wantAnswer("10.1.7.1", "10.1.7.0/24 ttl 1440m, 192.0.2.1 1/100 R")
	b.wantAnswer("10.2.7.1", "forwarded to 192.0.2.2:4342")
	b.wantAnswer("50.7.1.1", "50.0.0.0/8 ttl 1440m, 203.0.113.1 1/100 R")

	cfg := twoSites()
	cfg.Sites[0].Prefixes[0].AcceptMoreSpecifics = false
	cfg.Sites = cfg.Sites[:1]
	b = b.restart(cfg)
	b.wantAnswer("10.2.7.1", "10.2.0.0/15 ttl 15m natively-forward")
	b.s.tick(t.Context(), b.now)
	b.check()
	wantStrings(t, "the store", b.store.registrations(), "2001:db8:1::/48 ttl 1440m, 192.0.2.1 1/100 R by 192.0.2.1")
}

// TestFailingStore: while the store takes nothing, the table goes on, and
// nothing is notified that could be lost.
func TestFailingStore(t *testing.T) {
	b := newBench(t, twoSites(), newMemStore())
	records := func(l string) []*mapping.Record { return []*mapping.Record{rec("2001:db8:1::/48", l)} }
	b.register(registering{proxy: true, records: records("192.0.2.1")})
	b.store.setFail(errDisk)
	if b.register(registering{proxy: true, records: records("192.0.2.1")}) == nil {
		t.Error("a refresh needs no store, and was not notified")
	}
	msg := b.encode(registering{proxy: true, records: records("192.0.2.2")})
	if out := b.deliver(msg, etr1, local4); len(out) > 0 {
		t.Error("notified what the store does not have")
	}
	b.wantAnswer("2001:db8:1::1", "2001:db8:1::/48 ttl 1440m, 192.0.2.2 1/100 R")
	if out := b.deliver(msg, etr1, local4); len(out) > 0 {
		t.Error("notified what the store does not have, when asked again")
	}
	if b.register(registering{key: rightKey, records: []*mapping.Record{rec("10.2.0.0/16", "192.0.2.2")}}) != nil {
		t.Error("notified what the store does not have, of another site")
	}
	if err := b.s.Put(t.Context(), []*mapping.Record{rec("50.0.0.0/8", "203.0.113.1")}); err == nil {
		t.Error("Put succeeded")
	}
	b.wantAnswer("50.0.0.1", "32.0.0.0/3 ttl 15m natively-forward") // and did nothing
	b.pass(3 * time.Second)
	if b.count(storeErrors) < 5 {
		t.Errorf("%d errors counted", b.count(storeErrors))
	}
	b.store.setFail(nil)
	b.pass(time.Second)
	b.check()
	wantStrings(t, "the store", b.store.registrations(), "10.2.0.0/16 ttl 1440m, 192.0.2.2 1/100 R by 192.0.2.1", "2001:db8:1::/48 ttl 1440m, 192.0.2.2 1/100 R by 192.0.2.1")
	if b.notify(b.deliver(msg, etr1, local4), leftKey) == nil {
		t.Error("the retransmission was not notified once the store had it")
	}
}

// TestDurableBeforeNotify: a changed registration and its nonce are in the
// store, in one commit, before the Map-Notify is returned.
func TestDurableBeforeNotify(t *testing.T) {
	b := newBench(t, twoSites(), newMemStore())
	b.register(registering{nonce: 500, records: []*mapping.Record{rec("10.1.0.0/16", "192.0.2.1"), rec("10.1.1.0/24", "192.0.2.1")}})
	if len(b.store.commits) != 1 {
		t.Fatalf("%d commits", len(b.store.commits))
	}
	kinds := make(map[mapping.ItemKind]int)
	for _, c := range b.store.commits[0] {
		kinds[c.Kind]++
	}
	if kinds[mapping.ItemRegistration] != 2 || kinds[mapping.ItemNonce] != 1 {
		t.Errorf("the commit holds %v", kinds)
	}
}
