package server

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/internal/fanout"
	"github.com/eidolon-lisp/eidolon/mapping"
)

// eventsOf returns the events that wait in a subscription, as text.
func eventsOf(sub *fanout.Subscription[Event]) (out []string) {
	for _, it := range sub.Take() {
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
		if got := eventsOf(sub); !slices.Equal(got, c.want) {
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
	if got := eventsOf(sub); len(got) != 0 {
		t.Errorf("before the store has it: %q", got)
	}
	store.setFail(nil)
	b.s.tick(t.Context(), b.now)
	if got := eventsOf(sub); len(got) != 1 {
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

func TestEventsOfSubscriptions(t *testing.T) {
	b := newBench(t, withSubscribers(), newMemStore())
	b.put(rec("10.64.0.0/10", "203.0.113.1"))
	sub, err := b.s.Watch(64)
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Close()
	for _, c := range []struct {
		what string
		do   func()
		want []string
	}{
		{"subscribed", func() { b.ack(b.subscribe(subscribing("10.64.0.0/10", 100, nil))[0], pubKey) }, []string{"subscribed 10.64.0.0/10 by 1"}},
		{"a change", func() {
			b.put(rec("10.64.0.0/10", "203.0.113.2"))
			b.ack(b.due()[0], pubKey)
		}, []string{"put 10.64.0.0/10 to 203.0.113.2 from 203.0.113.1", "published 10.64.0.0/10 to 203.0.113.2 by 1"}},
		{"unsubscribed", func() { b.ack(b.subscribe(subscribing("10.64.0.0/10", 200, ending))[0], pubKey) }, []string{"unsubscribed 10.64.0.0/10 by 1: the xTR wanted it"}},
		{"a temporary one", func() { b.ack(b.subscribe(subscribing("172.16.0.1", 300, nil))[0], pubKey) }, []string{"subscribed 128.0.0.0/1 by 1"}},
		{"its end", func() {
			b.now = b.now.Add(temporaryTTL + time.Second)
			b.s.tick(t.Context(), b.now)
		}, []string{"unsubscribed 128.0.0.0/1 by 1: there was no mapping in time"}},
		{"no acknowledgement", func() {
			b.subscribe(subscribing("10.64.0.0/10", 400, nil))
			for range len(retransmissions) {
				b.now = b.now.Add(time.Minute)
				b.due()
			}
		}, []string{"subscribed 10.64.0.0/10 by 1", "unsubscribed 10.64.0.0/10 by 1: its Map-Notifies are not acknowledged"}},
	} {
		c.do()
		if got := eventsOf(sub); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", c.what, got, c.want)
		}
	}
}

// Explain names who is told of changes.
func TestExplainSubscriptions(t *testing.T) {
	b := newBench(t, withSubscribers(), newMemStore())
	b.put(rec("10.64.0.0/10", "203.0.113.1"))
	b.subscribe(subscribing("10.64.0.0/10", 100, nil))
	x := b.s.Explain(eid("10.64.3.4"), itr4.Addr())
	if len(x.Subscriptions) != 1 || x.Subscriptions[0].EID != eid("10.64.0.0/10") || x.Subscriptions[0].XTRID != xtrID(1) || x.Subscriptions[0].Waiting != 1 {
		t.Errorf("subscriptions %+v", x.Subscriptions)
	}
	if x = b.s.Explain(eid("10.1.3.4"), itr4.Addr()); len(x.Subscriptions) != 0 {
		t.Errorf("subscriptions to something else %+v", x.Subscriptions)
	}
}
