package xtr

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/internal/fanout"
	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// eventsOf returns the events that wait in a subscription, as text.
func eventsOf(sub *fanout.Subscription[Event]) (out []string) {
	for _, it := range sub.Take() {
		e := it.Event
		text := fmt.Sprint(e.Kind)
		if e.EID.IsValid() {
			text += " " + e.EID.String()
		}
		if e.Previous != nil {
			text += " again"
		}
		if e.Peer.IsValid() {
			text += " at " + e.Peer.String()
		}
		if e.Reason != "" {
			text += ": " + e.Reason
		}
		out = append(out, text)
	}
	return out
}

func TestEventsOfTheMapCache(t *testing.T) {
	cfg := testConfig()
	cfg.CacheLimit = 2
	r := newRig(t, cfg)
	sub, err := r.m.events.Subscribe(64)
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Close()
	ask := func(e string, recs ...*mapping.Record) {
		t.Helper()
		r.now = r.now.Add(2 * time.Second)
		r.take()
		r.m.itr.ask(r.now, &query{eid: eid(e), why: forRefresh})
		r.collect()
		_, req := mapRequest(t, r.one().data)
		r.receive(reply(t, req.Nonce, recs...), etr1)
	}
	changed := rec("10.2.0.0/16", 60)
	changed.Locators[0].Weight = 7
	for _, c := range []struct {
		what string
		do   func()
		want []string
	}{
		{"learned", func() { r.learn(peer, rec("10.2.0.0/16", 60)) }, []string{"installed 10.2.0.0/16"}},
		{"refreshed", func() { ask("10.2.0.0/16", rec("10.2.0.0/16", 60)) }, nil},
		{"changed", func() { ask("10.2.0.0/16", changed) }, []string{"installed 10.2.0.0/16 again"}},
		{"solicited", func() {
			r.now = r.now.Add(10 * time.Second)
			smr := wire.MapRequest{SMR: true, Nonce: 9, SourceEID: wire.EIDAddress(0, peer), ITRRLOCs: []wire.Address{wire.IPAddress(etr1.Addr())}, EIDs: []wire.RequestRecord{wire.NewRequestRecord(eid("10.1.0.0/16"))}}
			r.receive(mustEncode(t, &smr), etr1)
		}, []string{"smr 10.2.0.0/16"}},
		{"divided", func() {
			_, req := mapRequest(t, r.one().data)
			r.receive(reply(t, req.Nonce, rec("10.2.0.0/17", 60)), etr1)
		}, []string{"removed 10.2.0.0/16: the mapping system does not know it any more", "installed 10.2.0.0/17"}},
		{"full", func() {
			r.learn(addr("10.3.0.1"), rec("10.3.0.0/16", 1))
			r.learn(addr("10.4.0.1"), rec("10.4.0.0/16", 60))
		}, []string{"installed 10.3.0.0/16", "removed 10.2.0.0/17: to make room in the map-cache", "installed 10.4.0.0/16"}},
		{"expired", func() { r.until(r.now.Sub(zeroTime) + time.Minute) }, []string{"removed 10.3.0.0/16: it expired"}},
		{"cleared", func() { r.m.clear(r.now, eid("10.4.0.0/16")) }, []string{"removed 10.4.0.0/16: it was cleared"}},
	} {
		c.do()
		if got := eventsOf(sub); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", c.what, got, c.want)
		}
	}
}

func TestEventsOfRegistrations(t *testing.T) {
	r := newRig(t, testConfig())
	sub, err := r.m.events.Subscribe(64)
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Close()
	r.start()
	confirm := func() {
		t.Helper()
		out := r.take()
		r.receive(notify(t, out[len(out)-1].data, key), ms1)
	}
	confirm()
	want := []string{"confirmed 10.1.0.0/16 at 198.51.100.3:4342", "confirmed 2001:db8:1::/48 at 198.51.100.3:4342"}
	if got := eventsOf(sub); !slices.Equal(got, want) {
		t.Errorf("confirmed: %q, want %q", got, want)
	}
	r.until(61 * time.Second)
	confirm()
	if got := eventsOf(sub); len(got) != 0 {
		t.Errorf("refreshed: %q", got)
	}
	r.until(5 * time.Minute)
	got := eventsOf(sub)
	if len(got) != 2 || got[0] != fmt.Sprintf("lost 10.1.0.0/16 at 198.51.100.3:4342: %d map-registers in a row had no map-notify", unconfirmedTries) {
		t.Errorf("lost: %q", got)
	}
	confirm()
	if got := eventsOf(sub); !slices.Equal(got, want) {
		t.Errorf("confirmed again: %q, want %q", got, want)
	}
}

// TestEventsOfLocators: whatever becomes of a locator of this router is told
// once, and how it is.
func TestEventsOfLocators(t *testing.T) {
	r := newRig(t, multihomed())
	r.start()
	r.confirmAll()
	sub, err := r.m.events.Subscribe(64)
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Close()
	w := uint8(9)
	for _, step := range []struct {
		what string
		do   func()
		want []string
	}{
		{"nothing new", func() { r.setUplinks(uplinks(true, true, up2a)) }, nil},
		{"carrier", func() { r.setUplinks(uplinks(false, true, up2a)) }, []string{"192.0.2.1 no carrier on eth2"}},
		{"back", func() { r.setUplinks(uplinks(true, true, up2a)) }, []string{"192.0.2.1 back on eth2, used again in 1s"}},
		{"for a second", func() { r.until(r.now.Sub(zeroTime) + time.Second) }, []string{"192.0.2.1 up on eth2"}},
		{"drained", func() { r.steer("eth3", drain) }, []string{"198.18.0.1 up on eth3, drained"}},
		{"undrained and set", func() { r.steer("eth3", func(s *steering) { *s = steering{weight: &w} }) },
			[]string{"198.18.0.1 up on eth3, weight set to 9"}},
		{"another address", func() { r.setUplinks(uplinks(true, true, up2b)) },
			[]string{"198.18.0.77 up on eth3, weight set to 9", "198.18.0.1 gone from eth3, weight set to 9"}},
	} {
		step.do()
		r.confirmAll()
		var got []string
		for _, it := range sub.Take() {
			if e := it.Event; e.Kind == EventLocator {
				got = append(got, e.RLOC.String()+" "+e.Reason)
			}
		}
		if !slices.Equal(got, step.want) {
			t.Errorf("%s: %q, want %q", step.what, got, step.want)
		}
	}
}
