package server

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
)

func TestPutAndDelete(t *testing.T) {
	b := newBench(t, twoSites(), newMemStore())
	given := rec("20.0.0.0/8", "203.0.113.2", "203.0.113.1")
	given.Authoritative = true
	given.Locators[0].Flags |= mapping.Local
	if err := b.s.Put(t.Context(), []*mapping.Record{given, rec("21.0.0.0/8", "203.0.113.1"), rec("21.0.0.0/8", "203.0.113.9")}); err != nil {
		t.Fatal(err)
	}
	if !given.Authoritative || given.Locators[0].Addr != addr("203.0.113.2") {
		t.Errorf("Put changed what it was given: %v", given)
	}
	b.wantAnswer("20.0.0.1", "20.0.0.0/8 ttl 1440m, 203.0.113.1 1/100 R, 203.0.113.2 1/100 R")
	b.wantAnswer("21.0.0.1", "21.0.0.0/8 ttl 1440m, 203.0.113.9 1/100 R")
	if got := len(b.store.items); got != 3 {
		t.Errorf("%d items in the store, want 2 and the revision", got)
	}
	commits := b.store.commitCount()
	if err := b.s.Put(t.Context(), []*mapping.Record{given, rec("21.0.0.0/8", "203.0.113.9")}); err != nil {
		t.Fatal(err)
	}
	if b.store.commitCount() != commits {
		t.Error("putting the same again went to the store")
	}
	if err := b.s.Put(t.Context(), []*mapping.Record{withTTL(7, rec("20.0.0.0/8"))}); err != nil {
		t.Fatal(err)
	}
	b.wantAnswer("20.0.0.1", "20.0.0.0/8 ttl 7m no-action")

	// A bad one changes nothing, whatever is with it.
	large := rec("22.0.0.0/8")
	for _, c := range []string{"a", "b"} { // two names of 40,000 letters
		large.Locators = append(large.Locators, mapping.Locator{Opaque: "\x00\x11" + strings.Repeat(c, 40000) + "\x00"})
	}
	table, commits := b.s.table.Load(), b.store.commitCount()
	for want, r := range map[string]*mapping.Record{
		"missing": nil, "record_ttl is 0": withTTL(0, rec("22.0.0.0/8", "203.0.113.1")),
		"the limit is 65507": large,
		"224.0.0.1":          rec("22.0.0.0/8", "224.0.0.1"), "not an EID": {TTL: 1}, "256 locators": {EID: eid("22.0.0.0/8"), TTL: 1, Locators: slices.Repeat([]mapping.Locator{loc("203.0.113.1")}, 256)},
	} {
		if err := b.s.Put(t.Context(), []*mapping.Record{rec("23.0.0.0/8", "203.0.113.1"), r}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want an error with %q", err, want)
		}
	}
	if err := b.s.Delete(t.Context(), []mapping.EID{eid("20.0.0.0/8"), eid("22.0.0.0/8")}); !errors.Is(err, ErrNoMapping) || !strings.Contains(err.Error(), "22.0.0.0/8") {
		t.Errorf("deleting what is not there: %v", err)
	}
	for _, e := range []string{"10.1.0.0/16", "10.9.0.0/16"} {
		if err := b.s.Delete(t.Context(), []mapping.EID{eid(e)}); !errors.Is(err, ErrNoMapping) {
			t.Errorf("deleting %s of the configuration: %v", e, err)
		}
	}
	b.store.setFail(errDisk)
	if err := b.s.Delete(t.Context(), []mapping.EID{eid("20.0.0.0/8")}); !errors.Is(err, errDisk) {
		t.Errorf("deleting with a full disk: %v", err)
	}
	b.store.setFail(nil)
	if b.s.table.Load() != table || b.store.commitCount() != commits {
		t.Error("a bad Put or Delete has changed something")
	}
	if err := b.s.Delete(t.Context(), []mapping.EID{eid("20.0.0.0/8"), eid("20.0.0.0/8")}); err != nil {
		t.Fatal(err)
	}
	b.wantAnswer("20.0.0.1", "20.0.0.0/8 ttl 15m natively-forward")
	b.check()
	if got := maps.Collect(b.s.Stats())["mappings"]; got != 1 {
		t.Errorf("%d mappings counted, want 1", got)
	}
}

func TestStatus(t *testing.T) {
	b := newBench(t, twoSites(), newMemStore())
	b.pass(time.Minute)
	at := b.now
	b.register(registering{proxy: true, merge: true, xtr: xtrID(1), records: []*mapping.Record{rec("2001:db8:1::/48", "192.0.2.1"), rec("10.1.0.0/16", "192.0.2.1"), rec("10.1.5.0/24", "192.0.2.1")}})
	b.register(registering{merge: true, xtr: xtrID(2), src: etr2, ttlFlag: true, records: []*mapping.Record{withTTL(9, rec("2001:db8:1::/48", "192.0.2.2"))}})
	b.register(registering{key: rightKey, records: []*mapping.Record{rec("10.2.0.0/16", "192.0.2.2"), rec("10.1.64.0/24", "192.0.2.2")}})
	b.register(registering{key: leftKey, nonce: 1, records: []*mapping.Record{rec("10.2.0.0/16", "192.0.2.2")}})
	b.pass(10 * time.Second)
	b.register(registering{proxy: true, merge: true, xtr: xtrID(1), records: []*mapping.Record{rec("2001:db8:1::/48", "192.0.2.1")}})

	ss := b.s.Sites()
	if len(ss) != 2 || ss[0].Name != "left" || ss[0].Registrations != 4 || ss[0].MaxRegistrations != DefaultMaxRegistrations || ss[0].Accepted != 3 ||
		!ss[0].LastRegistration.Equal(b.now) || ss[1].Registrations != 2 || ss[1].AuthFailures != 1 || ss[1].Refused != 1 {
		t.Errorf("sites: %+v", ss)
	}
	want := map[string]int{"10.1.0.0/16": 2, "10.1.128.0/20": 0, "2001:db8:1::/48": 1, "[7]10.1.0.0/16": 0}
	for _, p := range ss[0].Prefixes {
		if p.Registered != want[p.EID.String()] {
			t.Errorf("%v: %d registered, want %d", p.EID, p.Registered, want[p.EID.String()])
		}
	}

	st, ok := b.s.Lookup(eid("2001:db8:1::7"))
	if !ok || st.Origin != OriginRegistered || st.Site != "left" || st.Forwarded || st.Record.String() != "2001:db8:1::/48 ttl 9m, 192.0.2.1 1/100 R, 192.0.2.2 1/100 R" || len(st.Registrants) != 2 {
		t.Fatalf("lookup: %+v", st)
	}
	for _, x := range st.Registrants {
		last, expires, from := at.Add(10*time.Second), b.now.Add(registrationTimeout), etr1
		if x.By.XTRID == xtrID(2) {
			last, expires, from = at, at.Add(9*time.Minute), etr2
		}
		if !x.Since.Equal(at) || !x.LastRegistration.Equal(last) || !x.Expires.Equal(expires) || x.From != from {
			t.Errorf("registrant %v: %+v", x.By, x)
		}
	}
	if st, ok := b.s.Lookup(eid("10.2.0.0/24")); !ok || !st.Forwarded || st.Record.EID != eid("10.2.0.0/16") {
		t.Errorf("lookup of a prefix: %+v", st)
	}
	if st, ok := b.s.Lookup(eid("10.3.0.1")); !ok || st.Origin != OriginNone || !st.Record.Negative() || st.Site != "right" {
		t.Errorf("lookup of what is not registered: %+v", st)
	}
	if st, ok := b.s.Lookup(eid("99.0.0.1")); ok {
		t.Errorf("lookup of what nobody knows: %+v", st)
	}

	database := func(e mapping.EID) (out []string) {
		for st := range b.s.Database(e) {
			out = append(out, st.Record.EID.String()+" "+st.Origin.String())
		}
		return out
	}
	wantStrings(t, "database", database(mapping.EID{}), "10.1.0.0/16 registered", "10.1.5.0/24 registered", "10.1.64.0/24 registered",
		"10.2.0.0/16 registered", "10.8.0.0/16 static", "10.9.0.0/16 static", "2001:db8:1::/48 registered")
	wantStrings(t, "part of the database", database(eid("10.1.0.0/16")), "10.1.0.0/16 registered", "10.1.5.0/24 registered", "10.1.64.0/24 registered")
	for range b.s.Database(mapping.EID{}) {
		break
	}

	b = b.restart(twoSites())
	st, _ = b.s.Lookup(eid("2001:db8:1::7"))
	for _, x := range st.Registrants {
		if !x.LastRegistration.IsZero() || x.From.IsValid() || x.Expires.Before(b.now) || x.Since.Unix() != at.Unix() {
			t.Errorf("after a restart: %+v", x)
		}
	}
}

func TestStats(t *testing.T) {
	b := newBench(t, twoSites(), nil)
	seen := make(map[string]bool)
	for name := range b.s.Stats() {
		if name == "" || seen[name] || strings.ToLower(name) != name || strings.ContainsAny(name, " -") {
			t.Errorf("a counter is named %q", name)
		}
		seen[name] = true
	}
	if len(seen) != int(numCounters)-1+5 {
		t.Errorf("%d counters", len(seen))
	}
	for range b.s.Stats() {
		break
	}
}
