package server

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/auth"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// withLog returns cfg with a logger that writes to the buffer.
func withLog(cfg Config) (Config, *bytes.Buffer) {
	log := new(bytes.Buffer)
	cfg.Logger = slog.New(slog.NewTextHandler(log, nil))
	return cfg, log
}

func versioned(v uint16, r *mapping.Record) *mapping.Record {
	r.Version = v
	return r
}

// TestS12_OlderMapVersion: what an xTR registers never goes back in its
// version, but a record without one is taken as it is.
func TestS12_OlderMapVersion(t *testing.T) {
	b := newBench(t, twoSites(), newMemStore())
	refused := uint64(0)
	for _, c := range []struct {
		why     string
		version uint16
		locator string
		xtr     byte
		taken   bool
	}{
		{"the first", 10, "192.0.2.1", 1, true},
		{"older", 9, "192.0.2.2", 1, false},
		{"the same, refreshed", 10, "192.0.2.1", 1, true},
		{"newer", 11, "192.0.2.3", 1, true},
		{"none", 0, "192.0.2.4", 1, true},
		{"any after none", 5, "192.0.2.5", 1, true},
		{"half the circle ahead", 5 + 2048, "192.0.2.6", 1, true},
		{"half the circle and one ahead, which is behind", 6, "192.0.2.7", 1, false},
		{"the end of the circle", 4095, "192.0.2.7", 1, true},
		{"around the end", 3, "192.0.2.8", 1, true},
		{"back around the end", 4094, "192.0.2.1", 1, false},
		{"another xTR's own count", 2, "192.0.2.9", 2, true},
	} {
		m := b.register(registering{proxy: true, xtr: xtrID(c.xtr), records: []*mapping.Record{versioned(c.version, rec("2001:db8:1::/48", c.locator))}})
		if !c.taken {
			refused++
		}
		if (m != nil) != c.taken || b.count(refusedMapVersion) != refused {
			t.Errorf("%s: Map-Notify %v, %d refused", c.why, m != nil, b.count(refusedMapVersion))
		}
		if answer := b.answer("2001:db8:1::1"); strings.Contains(answer[0], c.locator) != c.taken {
			t.Errorf("%s: the answer is %v", c.why, answer)
		}
	}
	// The whole message is dropped, and its nonce is not used up.
	b.register(registering{records: []*mapping.Record{versioned(7, rec("10.1.0.0/16", "192.0.2.1"))}})
	b.wantDrop("with a new record", refusedMapVersion, b.deliver(b.encode(registering{nonce: b.nonce + 1, records: []*mapping.Record{
		rec("10.1.1.0/24", "192.0.2.1"), versioned(6, rec("10.1.0.0/16", "192.0.2.1"))}}), etr1, local4), refused)
	if _, ok := b.s.table.Load().Get(eid("10.1.1.0/24")); ok {
		t.Error("a part of it was registered")
	}
	if b.register(registering{records: []*mapping.Record{versioned(8, rec("10.1.0.0/16", "192.0.2.1"))}}) == nil {
		t.Error("the nonce of a dropped Map-Register counts")
	}
	// An xTR that lost its version is heard when its registration is over.
	b.pass(registrationTimeout)
	if b.register(registering{records: []*mapping.Record{versioned(1, rec("10.1.0.0/16", "192.0.2.1"))}}) == nil {
		t.Error("a version of an expired registration counts")
	}
	b.check()
}

// TestS14_MapReplies are discarded, and logged when there are many.
func TestS14_MapReplies(t *testing.T) {
	cfg, log := withLog(twoSites())
	b := newBench(t, cfg, nil)
	recs, err := wire.NewRecords(rec("10.1.0.0/16", "203.0.113.66"))
	if err != nil {
		t.Fatal(err)
	}
	m := wire.MapReply{Nonce: 7, Records: recs}
	msg, err := m.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	table := b.s.table.Load()
	for range 60 {
		for range 8 {
			if out := b.deliver(msg, itr4, local4); len(out) > 0 {
				t.Fatalf("%v were sent for a Map-Reply", b.texts(out))
			}
		}
		b.pass(time.Second)
	}
	if log.Len() > 0 {
		t.Errorf("8 Map-Replies a second were logged: %s", log)
	}
	for range 1000 {
		b.deliver(msg, itr4, local4)
	}
	if !strings.Contains(log.String(), "map-replies discarded") || !strings.Contains(log.String(), itr4.String()) || strings.Count(log.String(), "\n") > 25 {
		t.Errorf("1000 Map-Replies at once were logged as: %s", log)
	}
	if got := b.count(dropMapReply); got != 60*8+1000 || b.s.table.Load() != table {
		t.Errorf("%d were counted, and the table has changed: %v", got, b.s.table.Load() != table)
	}
}

// TestS8_Denied: where a site's policy denies Map-Requests what is registered,
// they get ACT 4, or for a denial that does not last ACT 2 for a minute.
func TestS8_Denied(t *testing.T) {
	cfg := twoSites()
	cfg.Sites[0].Prefixes[0].Requests = RequestsDenied    // 10.1.0.0/16
	cfg.Sites[0].Prefixes[2].Requests = RequestsPostponed // 2001:db8:1::/48
	cfg.Static = append(cfg.Static, rec("10.1.200.0/24", "203.0.113.1"))
	b := newBench(t, cfg, newMemStore())
	want := func(when string) {
		t.Helper()
		b.wantAnswer("10.1.200.1", "10.1.200.0/24 ttl 1440m, 203.0.113.1 1/100 R") // the operator's own
		b.wantAnswer("2001:db8:1::1", "2001:db8:1::/48 ttl 1m send-map-request")
		if t.Failed() {
			t.Log(when)
		}
	}
	want("nothing registered")
	b.wantAnswer("10.1.0.1", "10.1.0.0/18 ttl 15m drop-policy-denied")
	for _, proxy := range []bool{false, true} {
		b.register(registering{proxy: proxy, records: []*mapping.Record{rec("10.1.1.0/24", "192.0.2.1"), rec("2001:db8:1::/48", "192.0.2.1")}})
		b.wantAnswer("10.1.1.1", "10.1.1.0/24 ttl 15m drop-policy-denied")
		want("registered")
		a := func(m *wire.MapRequest) { m.Authoritative = true }
		wantStrings(t, "from the ETR", b.texts(b.ask(asking{eids: []mapping.EID{eid("10.1.1.1")}, change: a})), "10.1.1.0/24 ttl 15m drop-policy-denied")
	}
	// Another site's more-specific has its own policy.
	b.register(registering{key: rightKey, proxy: true, records: []*mapping.Record{rec("10.1.64.0/20", "192.0.2.2")}})
	b.wantAnswer("10.1.64.1", "10.1.64.0/20 ttl 1440m, 192.0.2.2 1/100 R")
	// The operator sees what is registered, and why nobody gets it.
	st, ok := b.s.Lookup(eid("10.1.1.1"))
	if !ok || st.Requests != RequestsDenied || st.Origin != OriginRegistered || len(st.Record.Locators) != 1 || st.Forwarded {
		t.Errorf("the status is %+v", st)
	}
	b.check()
}

// TestXTRIDs: a site that names its xTRs is registered for by these only.
func TestXTRIDs(t *testing.T) {
	cfg := twoSites()
	store := newMemStore()
	b := newBench(t, cfg, store)
	records := func() []*mapping.Record { return []*mapping.Record{rec("10.1.0.0/16", "192.0.2.1")} }
	b.register(registering{xtr: xtrID(9), records: records()})
	cfg.Sites[0].XTRIDs = []mapping.XTRID{xtrID(1), xtrID(2)}
	b = b.restart(cfg)
	b.s.tick(t.Context(), b.now)
	wantStrings(t, "what another xTR had registered", store.registrations())
	for id, want := range map[byte]bool{1: true, 2: true, 3: false, 0: false} {
		before := b.count(refusedXTRID)
		if m := b.register(registering{xtr: xtrID(id), records: records()}); (m != nil) != want || (b.count(refusedXTRID) == before) != want {
			t.Errorf("xTR %d: notified %v", id, m != nil)
		}
	}
	if b.register(registering{key: rightKey, records: []*mapping.Record{rec("10.2.0.0/16", "192.0.2.1")}}) == nil {
		t.Error("another site is bound by it")
	}
}

// TestS2_OldKeyAfterRollover: what was held back of an old key does not win
// over what the xTR registered with the new one; and an xTR can go back.
func TestS2_OldKeyAfterRollover(t *testing.T) {
	next := auth.Key{ID: 2, Algorithm: auth.SHA256, Secret: []byte("left's next secret")}
	b := newBench(t, twoSites(), newMemStore())
	records := func(l string) []*mapping.Record { return []*mapping.Record{rec("2001:db8:1::/48", l)} }
	register := func(nonce uint64, k auth.Key, l string) bool {
		t.Helper()
		b.now = b.now.Add(time.Second)
		return b.register(registering{nonce: nonce, key: k, xtr: xtrID(1), proxy: true, records: records(l)}) != nil
	}
	if !register(100, leftKey, "192.0.2.1") {
		t.Fatal("the old key was refused")
	}
	heldBack := b.encode(registering{nonce: 101, key: leftKey, xtr: xtrID(1), proxy: true, records: records("192.0.2.66")})
	if !register(200, next, "192.0.2.2") {
		t.Fatal("the new key was refused")
	}
	b.wantAnswer("2001:db8:1::1", "2001:db8:1::/48 ttl 1440m, 192.0.2.2 1/100 R") // no registration was lost, none is left over
	b.wantDrop("held back", refusedReplay, b.deliver(heldBack, etr1, local4), 0)
	if !register(300, leftKey, "192.0.2.3") || !register(400, next, "192.0.2.2") {
		t.Error("a key that is in use was refused")
	}
	// After a restart too, as soon as the xTR was heard.
	b.s.tick(t.Context(), b.now)
	b = b.restart(twoSites())
	if !register(401, next, "192.0.2.2") {
		t.Error("refused after a restart")
	}
	b.wantDrop("held back, after a restart", refusedReplay, b.deliver(b.encode(registering{nonce: 301, key: leftKey, xtr: xtrID(1), records: records("192.0.2.66")}), etr1, local4), 0)
	// An xTR that lost its nonce begins anew with a new key.
	if b.register(registering{nonce: 5, key: next, xtr: xtrID(2), records: records("192.0.2.7")}) == nil {
		t.Error("a new key with a low nonce was refused")
	}
	b.check()
}
