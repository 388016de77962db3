package server

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/internal/fanout"
	"github.com/eidolon-lisp/eidolon/mapping"
)

// eventsOf returns the events that wait in a subscription, as text.
func eventsOf(t *testing.T, sub *fanout.Subscription[Event]) (out []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	items, _ := sub.Next(ctx)
	for _, it := range items {
		e := it.Event
		text := fmt.Sprint(e.Kind)
		if e.EID.IsValid() {
			text += " " + e.EID.String()
		}
		if e.Record != nil {
			text += " to"
			for _, l := range e.Record.Locators {
				text += " " + l.Addr.String()
			}
		}
		if e.Previous != nil {
			text += " from"
			for _, l := range e.Previous.Locators {
				text += " " + l.Addr.String()
			}
		}
		if e.By.XTRID != (mapping.XTRID{}) {
			text += fmt.Sprintf(" by %d", e.By.XTRID[15])
		}
		if e.Site != "" {
			text += " of " + e.Site
		}
		if e.Reason != "" {
			text += ": " + e.Reason
		}
		out = append(out, text)
	}
	return out
}

func TestEvents(t *testing.T) {
	b := newBench(t, twoSites(), newMemStore())
	sub, err := b.s.Watch(64)
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Close()
	by := func(n byte, merge bool, recs ...*mapping.Record) registering {
		return registering{key: rightKey, xtr: xtrID(n), merge: merge, records: recs}
	}
	for _, c := range []struct {
		what string
		do   func()
		want []string
	}{
		{"a registration", func() { b.register(by(1, false, rec("10.2.0.0/16", "192.0.2.2"))) }, []string{"registered 10.2.0.0/16 to 192.0.2.2 by 1 of right"}},
		{"a refresh", func() { b.register(by(1, false, rec("10.2.0.0/16", "192.0.2.2"))) }, nil},
		{"a change", func() { b.register(by(1, false, rec("10.2.0.0/16", "192.0.2.3"))) }, []string{"changed 10.2.0.0/16 to 192.0.2.3 from 192.0.2.2 by 1 of right"}},
		{"another xTR", func() { b.register(by(2, false, rec("10.2.0.0/16", "192.0.2.4"))) }, []string{
			"withdrawn 10.2.0.0/16 to 192.0.2.3 by 1 of right: another xTR of the site took its place", "registered 10.2.0.0/16 to 192.0.2.4 by 2 of right"}},
		{"a withdrawal", func() { b.register(by(2, false, withTTL(0, rec("10.2.0.0/16", "192.0.2.4")))) }, []string{"withdrawn 10.2.0.0/16 to 192.0.2.4 by 2 of right"}},
		{"two that merge", func() {
			b.register(by(1, true, rec("10.2.0.0/16", "192.0.2.1")))
			b.register(by(2, true, rec("10.2.0.0/16", "192.0.2.2")))
		}, []string{"registered 10.2.0.0/16 to 192.0.2.1 by 1 of right", "registered 10.2.0.0/16 to 192.0.2.2 by 2 of right"}},
		{"the end of both", func() {
			b.now = b.now.Add(registrationTimeout + time.Second)
			b.s.tick(t.Context(), b.now)
		}, []string{"expired 10.2.0.0/16 to 192.0.2.1 by 1 of right", "expired 10.2.0.0/16 to 192.0.2.2 by 2 of right"}},
		{"a mapping put, and one again", func() {
			for range 2 {
				if err := b.s.Put(t.Context(), []*mapping.Record{rec("10.64.0.0/10", "203.0.113.1")}); err != nil {
					t.Fatal(err)
				}
			}
		}, []string{"put 10.64.0.0/10 to 203.0.113.1"}},
		{"put in its place", func() {
			if err := b.s.Put(t.Context(), []*mapping.Record{rec("10.64.0.0/10", "203.0.113.2")}); err != nil {
				t.Fatal(err)
			}
		}, []string{"put 10.64.0.0/10 to 203.0.113.2 from 203.0.113.1"}},
		{"deleted", func() {
			if err := b.s.Delete(t.Context(), []mapping.EID{eid("10.64.0.0/10")}); err != nil {
				t.Fatal(err)
			}
		}, []string{"deleted 10.64.0.0/10 to 203.0.113.2"}},
		{"refused", func() {
			b.register(registering{key: leftKey, records: []*mapping.Record{rec("10.2.0.0/16", "192.0.2.2")}})
		}, []string{"refused of right: refused_digest"}},
	} {
		c.do()
		if got := eventsOf(t, sub); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", c.what, got, c.want)
		}
	}
}

// A change is told when it is durable, and then once.
func TestEventsWaitForTheStore(t *testing.T) {
	store := newMemStore()
	b := newBench(t, twoSites(), store)
	sub, err := b.s.Watch(64)
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Close()
	store.setFail(errDisk)
	b.register(registering{key: rightKey, records: []*mapping.Record{rec("10.2.0.0/16", "192.0.2.2")}})
	if got := eventsOf(t, sub); len(got) != 0 {
		t.Errorf("before the store has it: %q", got)
	}
	store.setFail(nil)
	b.s.tick(t.Context(), b.now)
	if got := eventsOf(t, sub); len(got) != 1 {
		t.Errorf("when the store has it: %q", got)
	}
}

// A flood of Map-Registers that are refused is told in part, so that it can't
// push other events out of the queues.
func TestEventsOfAFlood(t *testing.T) {
	const flood = 10_000
	b := newBench(t, twoSites(), newMemStore())
	sub, err := b.s.Watch(64)
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Close()
	for range flood {
		b.s.refuse(b.now, nil, refusedDigest, etr1)
	}
	items, err := sub.Next(t.Context())
	if err != nil || len(items) == 0 || len(items) > 32 {
		t.Fatalf("%d events of a flood, %v", len(items), err)
	}
	b.now = b.now.Add(time.Minute)
	b.s.refuse(b.now, nil, refusedDigest, etr1)
	last, err := sub.Next(t.Context())
	if err != nil || len(last) != 1 || last[0].Event.Suppressed != uint64(flood-len(items)) {
		t.Errorf("after the flood: %+v, %v, %d were told", last, err, len(items))
	}
}
