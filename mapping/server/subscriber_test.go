package server

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/auth"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// subscribed subscribes and acknowledges that.
func (b *bench) subscribed(q asking) {
	b.t.Helper()
	out := b.subscribe(q)
	if len(out) != 1 {
		b.t.Fatalf("%d datagrams: %v", len(out), b.texts(out))
	}
	b.ack(out[0], pubKey)
}

// told acknowledges the Map-Notifies that are due, and returns what they say.
func (b *bench) told() (recs []string) {
	b.t.Helper()
	for out := b.due(); len(out) > 0; out = b.due() {
		for _, d := range out {
			_, rs := b.published(d)
			recs = append(recs, rs...)
			b.ack(d, pubKey)
		}
	}
	return recs
}

func (b *bench) wantTold(what string, want ...string) {
	b.t.Helper()
	if got := b.told(); !slices.Equal(got, want) {
		b.t.Errorf("%s: told %q, want %q", what, got, want)
	}
}

// unanswered lets all retransmissions pass, and returns what was sent last.
func (b *bench) unanswered() (last []datagram) {
	b.t.Helper()
	for out, next, ok := b.s.advance(b.now); ok; out, next, ok = b.s.advance(b.now) {
		if len(out) > 0 {
			last = out
		}
		b.now = next
	}
	return last
}

// Who renews or ends its subscription names that, whatever answers now.
func TestP5_RenewedWhereItIs(t *testing.T) {
	b := newBench(t, withSubscribers(), nil)
	b.put(rec("10.0.0.0/8", "203.0.113.1"))
	b.put(rec("10.20.0.0/16", "203.0.113.2"))
	b.subscribed(subscribing("10.20.0.1", 100, nil))
	b.subscribed(subscribing("10.30.0.1", 1000, nil))
	if err := b.s.Delete(t.Context(), []mapping.EID{eid("10.20.0.0/16")}); err != nil {
		t.Fatal(err)
	}
	b.told()
	// Its nonces are its own.
	out := b.subscribe(subscribing("10.20.0.0/16", 102, nil))
	b.wantNotify(out, 102, to1, "10.20.0.0/16 ttl 1440m, 203.0.113.1 1/100 R")
	b.ack(out[0], pubKey)
	if b.s.pubsub.size != 2 {
		t.Errorf("%d subscriptions", b.s.pubsub.size)
	}
	if out := b.subscribe(subscribing("10.20.0.0/16", 102, nil)); len(out) != 0 {
		t.Error("a replay was taken")
	}
}

func TestP8_EndsOnlyWhatItNames(t *testing.T) {
	b := newBench(t, withSubscribers(), nil)
	b.put(rec("10.20.0.0/16", "203.0.113.1"))
	b.subscribed(subscribing("10.20.0.1", 100, nil))
	b.subscribed(subscribing("10.20.5.0/24", 200, ending))
	if b.s.pubsub.size != 1 {
		t.Fatal("the end of a more-specific ended the subscription")
	}
	b.put(rec("10.20.0.0/16", "203.0.113.2"))
	b.wantTold("what it is subscribed to", "10.20.0.0/16 ttl 1440m, 203.0.113.2 1/100 R")
	b.put(rec("10.20.5.0/24", "203.0.113.5"))
	b.wantTold("what it is not")
	// Also where an ETR answers by now.
	if err := b.s.Delete(t.Context(), []mapping.EID{eid("10.20.0.0/16")}); err != nil {
		t.Fatal(err)
	}
	b.put(rec("10.1.0.0/16", "203.0.113.1"))
	b.told()
	b.subscribed(subscribing("10.1.0.0/16", 100, nil))
	b.register(registering{records: []*mapping.Record{rec("10.1.0.0/16", "192.0.2.1")}})
	b.told()
	b.subscribed(subscribing("10.1.0.0/16", 300, ending))
	if b.s.pubsub.size != 1 {
		t.Errorf("%d subscriptions", b.s.pubsub.size)
	}
}

// A subscription that was given up does not shut out the less-specific one.
func TestP9_GivenUpMoreSpecific(t *testing.T) {
	b := newBench(t, withSubscribers(), nil)
	b.put(rec("10.20.0.0/16", "203.0.113.1"))
	b.put(rec("10.20.1.0/24", "203.0.113.2"))
	b.subscribed(subscribing("10.20.1.0/24", 200, nil))
	b.put(rec("10.20.1.0/24", "203.0.113.3"))
	b.unanswered()
	b.subscribed(subscribing("10.20.0.0/16", 100, nil))
	b.put(rec("10.20.1.0/24", "203.0.113.4"))
	b.wantTold("by the less-specific", "10.20.1.0/24 ttl 1440m, 203.0.113.4 1/100 R")
}

// An end is about the subscriptions that there were: who subscribes to a
// less-specific later hears of everything in it.
func TestP9_SubscribedAfterTheEnd(t *testing.T) {
	b := newBench(t, withSubscribers(), nil)
	b.put(rec("10.20.0.0/16", "203.0.113.1"))
	b.put(rec("10.20.1.0/24", "203.0.113.2"))
	b.subscribed(subscribing("10.20.1.0/24", 200, nil))
	b.subscribed(subscribing("10.20.1.0/24", 201, ending))
	b.now = b.now.Add(time.Second)
	b.subscribed(subscribing("10.20.0.0/16", 100, nil))
	b.put(rec("10.20.1.0/24", "203.0.113.4"))
	b.wantTold("afterwards", "10.20.1.0/24 ttl 1440m, 203.0.113.4 1/100 R")
}

// What is published to a subscription inside a mapping is the part that it is
// to, and only by the mapping that answers for it.
func TestP9_CoveringMapping(t *testing.T) {
	b := newBench(t, withSubscribers(), nil)
	b.put(rec("10.20.0.0/16", "203.0.113.1"))
	b.subscribed(subscribing("10.20.0.1", 100, nil))
	if err := b.s.Delete(t.Context(), []mapping.EID{eid("10.20.0.0/16")}); err != nil {
		t.Fatal(err)
	}
	b.wantTold("gone", "10.20.0.0/16 ttl 0m no-action")
	b.put(rec("10.0.0.0/8", "203.0.113.8"))
	b.wantTold("a mapping around it", "10.20.0.0/16 ttl 1440m, 203.0.113.8 1/100 R")
	b.put(rec("10.16.0.0/12", "203.0.113.12"))
	b.wantTold("a longer one", "10.20.0.0/16 ttl 1440m, 203.0.113.12 1/100 R")
	b.put(rec("10.0.0.0/8", "203.0.113.88"))
	b.wantTold("one that does not answer for it")
	if err := b.s.Delete(t.Context(), []mapping.EID{eid("10.16.0.0/12")}); err != nil {
		t.Fatal(err)
	}
	b.wantTold("the longer one gone", "10.20.0.0/16 ttl 1440m, 203.0.113.88 1/100 R")
	if err := b.s.Delete(t.Context(), []mapping.EID{eid("10.0.0.0/8")}); err != nil {
		t.Fatal(err)
	}
	b.wantTold("all gone", "10.20.0.0/16 ttl 0m no-action")
}

// The first publication after a restart skips nonces; until then, the xTR may
// go on from the last one that it knows.
func TestP11_GapIsThePublications(t *testing.T) {
	cfg := withSubscribers()
	b := newBench(t, cfg, newMemStore())
	b.put(rec("10.20.0.0/16", "203.0.113.1"))
	b.subscribed(subscribing("10.20.0.1", 100, nil))
	b = b.restart(cfg)
	q := subscribing("10.20.0.0/16", 101, nil).defaults()
	b.ask(q)
	out := b.s.subscribeAll(t.Context(), b.now, []subscribe{<-b.s.subscriptions})
	out = append(slices.Clone(out), b.due()...)
	b.wantNotify(out, 101, to1, "10.20.0.0/16 ttl 1440m, 203.0.113.1 1/100 R")
}

// A restored subscription needs a key and a locator that is allowed.
func TestP1_RestoredSubscriptions(t *testing.T) {
	for name, change := range map[string]func(*Subscriber){
		"no key":         func(x *Subscriber) { x.Key.Secret = nil },
		"other locators": func(x *Subscriber) { x.ITRRLOCs = []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")} },
	} {
		cfg := withSubscribers()
		b := newBench(t, cfg, newMemStore())
		b.subscribed(subscribing("10.9.0.1", 100, nil))
		change(&cfg.PubSub.Subscribers[0])
		if b = b.restart(cfg); b.s.pubsub.size != 0 || len(b.due()) != 0 {
			t.Errorf("%s: %d subscriptions came back", name, b.s.pubsub.size)
		}
	}
}

// Whether it is possible to tell the xTR is known before anything is promised.
func TestP1_NowhereToNotify(t *testing.T) {
	cfg := withSubscribers()
	cfg.Listen = []netip.AddrPort{local4}
	b := newBench(t, cfg, nil)
	six := func(m *wire.MapRequest) {
		m.XTRID, m.SiteID, m.ITRRLOCs = xtrID(2), 0, []wire.Address{wire.IPAddress(addr("2001:db8::1"))}
	}
	b.subscribe(subscribing("10.9.0.1", 100, six))
	loopback := func(m *wire.MapRequest) {
		m.XTRID, m.SiteID, m.ITRRLOCs = xtrID(2), 0, []wire.Address{wire.IPAddress(addr("127.0.0.1"))}
	}
	b.subscribe(subscribing("10.9.0.1", 101, loopback))
	end := subscribing("10.9.0.1", 102, func(m *wire.MapRequest) { ending(m); m.XTRID, m.SiteID = xtrID(2), 0 })
	end.src, end.from = netip.MustParseAddrPort("127.0.0.1:4342"), itr4
	if out := b.subscribe(end); len(out) != 0 {
		t.Errorf("sent to %v", out[0].dst)
	}
	if b.s.pubsub.size != 0 || b.s.pubsub.table.Len() != 0 || b.count(subscriptionsRefused) != 3 {
		t.Errorf("%d subscriptions, %d refused", b.s.pubsub.size, b.count(subscriptionsRefused))
	}
}

// The rate may be lower than one in the time of a burst.
func TestPublicationsAtALowRate(t *testing.T) {
	cfg := withSubscribers()
	cfg.PubSub.Rate = 1
	b := newBench(t, cfg, nil)
	b.put(rec("10.20.0.0/16", "203.0.113.1"))
	b.put(rec("10.21.0.0/16", "203.0.113.1"))
	b.subscribed(subscribing("10.20.0.1", 100, nil))
	b.subscribed(subscribing("10.21.0.1", 100, nil))
	b.put(rec("10.20.0.0/16", "203.0.113.2"))
	b.put(rec("10.21.0.0/16", "203.0.113.2"))
	b.wantTold("at once", "10.20.0.0/16 ttl 1440m, 203.0.113.2 1/100 R")
	_, next, ok := b.s.advance(b.now)
	if !ok || next.Sub(b.now) != time.Second {
		t.Fatalf("the next in %v, %v", next.Sub(b.now), ok)
	}
	b.now = next
	b.wantTold("a second later", "10.21.0.0/16 ttl 1440m, 203.0.113.2 1/100 R")
}

// hosts returns n mappings of addresses.
func hosts(n int, locator string) (recs []*mapping.Record) {
	for i := range n {
		recs = append(recs, &mapping.Record{EID: mapping.HostEID(0, netip.AddrFrom4([4]byte{10, 200, byte(i >> 8), byte(i)})), TTL: 5, Locators: []mapping.Locator{loc(locator)}})
	}
	return recs
}

// An xTR may be subscribed to more than may wait, and all of that may change at
// once.
func TestEverySubscriptionMayWait(t *testing.T) {
	cfg := withSubscribers()
	cfg.PubSub.Rate = 1
	b := newBench(t, cfg, nil)
	const n = maxDue + 100
	recs := hosts(n, "203.0.113.7")
	if err := b.s.Put(t.Context(), recs); err != nil {
		t.Fatal(err)
	}
	for i, r := range recs {
		b.subscribed(subscribing(r.EID.String(), uint64(1000+i), nil))
	}
	if err := b.s.Put(t.Context(), hosts(n, "203.0.113.8")); err != nil {
		t.Fatal(err)
	}
	if b.s.pubsub.size != n || b.s.pubsub.subscribers[xtrID(1)].due != n {
		t.Errorf("%d subscriptions, %d wait", b.s.pubsub.size, b.s.pubsub.subscribers[xtrID(1)].due)
	}
}

// An xTR that acknowledges nothing does not take what others need.
func TestOnWayBounded(t *testing.T) {
	cfg := withSubscribers()
	cfg.PubSub.Rate = 1_000_000
	b := newBench(t, cfg, nil)
	recs := hosts(maxOnWay+100, "203.0.113.7")
	if err := b.s.Put(t.Context(), append(recs, rec("10.20.0.0/16", "203.0.113.1"))); err != nil {
		t.Fatal(err)
	}
	for i, r := range recs {
		b.subscribed(subscribing(r.EID.String(), uint64(1000+i), nil))
	}
	b.subscribed(subscribing("10.20.0.1", 100, func(m *wire.MapRequest) { m.XTRID, m.SiteID = xtrID(2), 0 }))
	if err := b.s.Put(t.Context(), hosts(len(recs), "203.0.113.8")); err != nil {
		t.Fatal(err)
	}
	b.put(rec("10.20.0.0/16", "203.0.113.2"))
	out := b.due()
	if len(out) != maxOnWay+1 || b.s.pubsub.subscribers[xtrID(1)].onWay != maxOnWay {
		t.Fatalf("%d sent, %d on the way", len(out), b.s.pubsub.subscribers[xtrID(1)].onWay)
	}
	// Nor is another subscription confirmed: it is an ordinary Map-Request.
	more := subscribing("10.9.0.1", 100, nil)
	if got := b.texts(b.subscribe(more)); len(got) != 1 || got[0] != "10.9.0.0/16 ttl 1440m, 203.0.113.9 1/100 R" || b.count(subscriptionsTooMany) != 1 {
		t.Errorf("one more: %q", got)
	}
	for _, d := range out {
		b.ack(d, pubKey)
	}
	if got := b.told(); len(got) != 100 {
		t.Errorf("%d more told, want 100", len(got))
	}
}

// A Map-Request that nobody acknowledges the confirmation of, such as a forged
// one, changes nothing of a subscription.
func TestAbuse_ForgedSubscription(t *testing.T) {
	b := newBench(t, withSubscribers(), newMemStore())
	b.put(rec("10.20.0.0/16", "203.0.113.1"))
	b.subscribed(subscribing("10.20.0.1", 100, nil))
	elsewhere := func(m *wire.MapRequest) { m.ITRRLOCs = []wire.Address{wire.IPAddress(addr("192.0.2.99"))} }
	for name, q := range map[string]asking{
		"other locators, the highest nonce": subscribing("10.20.0.0/16", math.MaxUint64-1, elsewhere),
		"an end":                            subscribing("10.20.0.0/16", math.MaxUint64-1, ending),
	} {
		if len(b.subscribe(q)) != 1 {
			t.Fatalf("%s: not answered", name)
		}
		b.put(rec("10.20.0.0/16", "203.0.113.2"))
		b.now = b.now.Add(2 * time.Minute)
		for next, ok := b.now, true; ok && !next.After(b.now.Add(time.Minute)); {
			var out []datagram
			if out, next, ok = b.s.advance(b.now); len(out) > 0 {
				if m, _ := b.published(out[0]); m.Nonce < 1000 {
					b.wantNotify(out, b.s.pubsub.get(eid("10.20.0.0/16"), xtrID(1)).nonce, to1, "10.20.0.0/16 ttl 1440m, 203.0.113.2 1/100 R")
					b.ack(out[0], pubKey)
					break
				}
			}
			b.now = next
		}
		x := b.s.pubsub.get(eid("10.20.0.0/16"), xtrID(1))
		if x.ended || x.nonce > 200 || x.asked != 0 || !slices.Equal(x.rlocs, []netip.Addr{itr4.Addr()}) {
			t.Errorf("%s: %+v", name, x)
		}
		b.put(rec("10.20.0.0/16", "203.0.113.1"))
		b.wantTold(name, "10.20.0.0/16 ttl 1440m, 203.0.113.1 1/100 R")
		b.s.tick(t.Context(), b.now)
		it := b.store.items[keyOf(ptr(x.item()))]
		if it.Nonce != x.nonce || len(it.RLOCs) != 1 {
			t.Errorf("%s: the store has %+v", name, it)
		}
	}
	// Nor what the store has, where nothing was to be published meanwhile.
	b.subscribe(subscribing("10.20.0.0/16", math.MaxUint64-1, elsewhere))
	b.unanswered()
	b.s.tick(t.Context(), b.now)
	x := b.s.pubsub.get(eid("10.20.0.0/16"), xtrID(1))
	if it := b.store.items[keyOf(ptr(x.item()))]; it.Nonce != x.nonce || !slices.Equal(it.RLOCs, x.rlocs) {
		t.Errorf("the store has %+v", it)
	}
	// One that nothing was ever acknowledged of leaves nothing.
	b.subscribe(subscribing("10.9.0.1", math.MaxUint64-1, nil))
	b.unanswered()
	b.s.tick(t.Context(), b.now)
	if x := b.s.pubsub.get(eid("10.9.0.0/16"), xtrID(1)); x != nil || len(b.store.items) != 3 {
		t.Errorf("left: %+v, %d items", x, len(b.store.items))
	}
	b.subscribed(subscribing("10.9.0.1", 5, nil))
}

func ptr[T any](v T) *T { return &v }

// Other sites do not get to know who subscribes.
func TestForwardedWithoutXTRID(t *testing.T) {
	cfg := withSubscribers()
	cfg.RequestRate = RequestRate{PerSource: 1, Burst: 1}
	b := newBench(t, cfg, nil)
	b.register(registering{records: []*mapping.Record{rec("10.1.0.0/16", "192.0.2.1")}})
	out := b.subscribe(subscribing("10.1.0.1", 100, nil))
	var e wire.ECM
	var m wire.MapRequest
	if len(out) != 1 || e.Decode(out[0].payload) != nil || m.Decode(e.Message) != nil {
		t.Fatalf("not forwarded: %v", b.texts(out))
	}
	if m.HasXTRID || m.EIDs[0].Subscribe || m.Nonce != 100 || len(m.ITRRLOCs) != 1 {
		t.Errorf("forwarded %+v", m)
	}
	// It is one Map-Request, and was one in all limits.
	if b.count(mapRequests) != 1 || b.count(encapsulatedMapRequests) != 1 {
		t.Errorf("counted %d times, encapsulated %d times", b.count(mapRequests), b.count(encapsulatedMapRequests))
	}
}

// When no nonce follows any more, the subscription ends.
func TestNoncesUsedUp(t *testing.T) {
	b := newBench(t, withSubscribers(), nil)
	b.put(rec("10.20.0.0/16", "203.0.113.1"))
	b.subscribed(subscribing("10.20.0.1", math.MaxUint64-1, nil))
	b.put(rec("10.20.0.0/16", "203.0.113.2"))
	out := b.due()
	b.wantNotify(out, math.MaxUint64, to1, "10.20.0.0/16 ttl 1440m, 203.0.113.2 1/100 R")
	b.ack(out[0], pubKey)
	b.put(rec("10.20.0.0/16", "203.0.113.3"))
	b.wantNotify(b.due(), math.MaxUint64, to1, "10.20.0.0/16 ttl 0m drop-auth-failure")
	if b.s.pubsub.size != 0 || b.count(subscriptionsGivenUp) != 1 {
		t.Errorf("%d subscriptions", b.s.pubsub.size)
	}
}

// A Map-Notify-Ack is of the Map-Notify with its records.
func TestS9_AckOfTheRecords(t *testing.T) {
	b := newBench(t, withSubscribers(), nil)
	b.put(rec("10.20.0.0/16", "203.0.113.1"))
	first := b.subscribe(subscribing("10.9.0.1", 100, nil))
	second := b.subscribe(subscribing("10.20.0.1", 100, nil))
	b.ack(second[0], pubKey)
	if x := b.s.pubsub.get(eid("10.9.0.0/16"), xtrID(1)); x.onWay == nil || !x.unsure {
		t.Error("acknowledged by what is about something else")
	}
	if x := b.s.pubsub.get(eid("10.20.0.0/16"), xtrID(1)); x.onWay != nil {
		t.Error("not acknowledged")
	}
	b.ack(second[0], pubKey)
	if b.count(dropAckUnmatched) != 1 {
		t.Error("a second acknowledgement was taken")
	}
	b.ack(first[0], pubKey)
}

// An address is verified by an acknowledgement from there, and one that was
// notified.
func TestVerifiedBySource(t *testing.T) {
	b := newBench(t, withSubscribers(), nil)
	by := b.s.pubsub.subscribers[xtrID(1)]
	both := func(m *wire.MapRequest) { m.ITRRLOCs = append(m.ITRRLOCs, wire.IPAddress(addr("192.0.2.11"))) }
	d := b.subscribe(subscribing("10.9.0.1", 100, both))[0]
	d.dst = netip.MustParseAddrPort("192.0.2.11:4342")
	b.ack(d, pubKey)
	if len(by.verified) != 1 || !by.verified[d.dst.Addr()] {
		t.Errorf("verified: %v", by.verified)
	}
	d = b.subscribe(subscribing("10.9.0.1", 101, both))[0]
	d.dst = netip.MustParseAddrPort("192.0.2.12:4342")
	b.ack(d, pubKey)
	if len(by.verified) != 1 {
		t.Errorf("verified: %v", by.verified)
	}
	// The table does not fill up for good.
	for i := range maxVerified + 1 {
		by.verify(netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)}))
	}
	if last := netip.AddrFrom4([4]byte{192, 0, maxVerified >> 8, maxVerified & 255}); len(by.verified) != maxVerified || !by.verified[last] {
		t.Errorf("%d verified, the last one: %v", len(by.verified), by.verified[last])
	}
}

// What the store says of a locator is no acknowledgement: after a restart it is
// tried with little.
func TestAbuse_RestoredLocators(t *testing.T) {
	cfg := withSubscribers()
	b := newBench(t, cfg, newMemStore())
	b.subscribed(subscribing("10.9.0.1", 100, nil))
	b = b.restart(cfg)
	if by := b.s.pubsub.subscribers[xtrID(1)]; len(by.verified) != 0 {
		t.Error("verified by the store")
	}
	if len(b.due()) != 1 {
		t.Fatal("not tried")
	}
	for range 30 { // nothing is acknowledged
		b.s.notices.last(b.now, b.s.pubsub.get(eid("10.9.0.0/16"), xtrID(1)))
		if b.count(dropAmplification) > 0 {
			return
		}
	}
	t.Error("no bound on what an address gets that nothing came from")
}

// The nonces of subscriptions that ended make room, the oldest first, and what
// they kept from being replayed still can't be.
func TestP11_RoomForNew(t *testing.T) {
	cfg := withSubscribers()
	cfg.PubSub.MaxPerXTR = 3
	b := newBench(t, cfg, newMemStore())
	recs := hosts(6, "203.0.113.7")
	if err := b.s.Put(t.Context(), recs); err != nil {
		t.Fatal(err)
	}
	for i, r := range recs[:5] {
		b.now = b.now.Add(time.Second)
		b.subscribed(subscribing(r.EID.String(), uint64(100+10*i), nil))
		b.subscribed(subscribing(r.EID.String(), uint64(101+10*i), ending))
	}
	by := b.s.pubsub.subscribers[xtrID(1)]
	if by.kept != 3 || by.floor != 111 {
		t.Fatalf("%d kept, floor %d", by.kept, by.floor)
	}
	for range 2 {
		if out := b.subscribe(subscribing(recs[0].EID.String(), 100, nil)); len(out) != 0 || b.s.pubsub.size != 0 {
			t.Error("a replay of what was forgotten was taken")
		}
		b.s.tick(t.Context(), b.now)
		b = b.restart(cfg)
	}
	for i, r := range recs[3:] {
		b.subscribed(subscribing(r.EID.String(), uint64(1000+i), nil))
	}
	if by := b.s.pubsub.subscribers[xtrID(1)]; by.kept != 3 || by.active != 3 || b.s.pubsub.size != 3 {
		t.Errorf("%d kept, %d active", by.kept, by.active)
	}
	// Active ones make no room.
	if b.subscribe(subscribing("10.9.0.1", 2000, nil)); b.s.pubsub.size != 3 || b.count(subscriptionsTooMany) != 1 {
		t.Errorf("%d subscriptions", b.s.pubsub.size)
	}
}

// Several records of one Map-Request are confirmed by one Map-Notify, as far as
// one holds them.
func TestSubscriptionOfSeveralRecords(t *testing.T) {
	b := newBench(t, withSubscribers(), nil)
	b.put(rec("10.20.0.0/16", "203.0.113.1"))
	two := func(m *wire.MapRequest) {
		m.EIDs = append(m.EIDs, wire.NewRequestRecord(eid("10.20.0.1/32")), wire.NewRequestRecord(eid("10.20.0.2/32")))
		m.EIDs[1].Subscribe, m.EIDs[2].Subscribe = true, true
	}
	out := b.subscribe(subscribing("10.9.0.1", 100, two))
	b.wantNotify(out, 100, to1, "10.9.0.0/16 ttl 1440m, 203.0.113.9 1/100 R", "10.20.0.0/16 ttl 1440m, 203.0.113.1 1/100 R")
	for _, e := range []string{"10.9.0.0/16", "10.20.0.0/16"} {
		if x := b.s.pubsub.get(eid(e), xtrID(1)); x == nil || x.onWay == nil {
			t.Fatalf("%s: %+v", e, x)
		}
	}
	// One of them is asked for anew: the other is still on the way.
	again := b.subscribe(subscribing("10.9.0.1", 101, nil))
	b.ack(out[0], pubKey)
	if x := b.s.pubsub.get(eid("10.9.0.0/16"), xtrID(1)); !x.unsure || x.last() != 101 {
		t.Errorf("the newer: %+v", x)
	}
	b.ack(again[0], pubKey)
	for _, e := range []string{"10.9.0.0/16", "10.20.0.0/16"} {
		if x := b.s.pubsub.get(eid(e), xtrID(1)); x.unsure || x.onWay != nil || b.s.pubsub.subscribers[xtrID(1)].onWay != 0 {
			t.Errorf("%s: %+v", e, x)
		}
	}
	// What does not fit in one message is not subscribed to.
	var many []*mapping.Record
	for i := range 12 {
		many = append(many, rec(fmt.Sprintf("10.64.%d.0/24", i), "203.0.113.1"), rec(fmt.Sprintf("10.65.%d.0/24", i), "203.0.113.1"))
	}
	if err := b.s.Put(t.Context(), append(many, rec("10.64.0.0/16", "203.0.113.1"), rec("10.65.0.0/16", "203.0.113.1"))); err != nil {
		t.Fatal(err)
	}
	out = b.subscribe(subscribing("10.64.0.0/16", 100, func(m *wire.MapRequest) {
		m.EIDs = append(m.EIDs, wire.NewRequestRecord(eid("10.65.0.0/16")))
		m.EIDs[1].Subscribe = true
	}))
	if len(out) != 1 || len(out[0].payload) > b.s.maxReply4 {
		t.Errorf("%d Map-Notifies, of %d octets", len(out), len(out[0].payload))
	}
}

// Map-Notify-Acks have limits of their own.
func TestAbuse_RequestsDoNotStarveAcks(t *testing.T) {
	cfg := withSubscribers()
	cfg.RequestRate = RequestRate{PerSource: 1, Burst: 1}
	b := newBench(t, cfg, nil)
	q := subscribing("10.9.0.1", 100, nil)
	q.from = netip.MustParseAddrPort("192.0.2.10:4342")
	d := b.subscribe(q)[0]
	b.ask(asking{eids: []mapping.EID{eid("10.9.0.1")}, from: q.from})
	if b.count(dropRateLimited) == 0 {
		t.Fatal("the Map-Requests are not limited")
	}
	b.ack(d, pubKey)
	if b.count(mapNotifyAcks) != 1 {
		t.Error("the acknowledgement was dropped")
	}
}

// ackMerged acknowledges the Map-Notifies about merged sets.
func (b *bench) ackMerged(key auth.Key) (n int) {
	for out := b.due(); len(out) > 0; out = b.due() {
		for _, d := range out {
			b.ack(d, key)
			n++
		}
	}
	return n
}

// A merged set that changes again is sent once, as it is by then; where it goes
// follows the xTR.
func TestMergedSetsCoalesce(t *testing.T) {
	b := newBench(t, twoSites(), nil)
	reg := func(n byte, src netip.AddrPort, e string, locators ...string) {
		b.register(registering{xtr: xtrID(n), src: src, merge: true, records: []*mapping.Record{rec(e, locators...)}})
	}
	reg(1, etr1, "10.1.0.0/16", "192.0.2.1")
	reg(2, etr2, "10.1.0.0/16", "192.0.2.2")
	first := b.due()
	if len(first) != 1 {
		t.Fatalf("%d Map-Notifies", len(first))
	}
	for _, l := range []string{"192.0.2.3", "192.0.2.4", "192.0.2.5"} {
		reg(2, etr2, "10.1.0.0/16", "192.0.2.2", l)
	}
	if n := len(b.s.notices.extra); n != 1 || len(b.s.notices.timers) != 0 {
		t.Errorf("%d wait, %d on the way", n, len(b.s.notices.timers))
	}
	moved := netip.MustParseAddrPort("192.0.2.1:5000")
	reg(1, moved, "10.1.0.0/16", "192.0.2.7")
	reg(2, etr2, "10.1.0.0/16", "192.0.2.2")
	out := b.due()
	if len(out) != 2 { // to both: each changed the other's set
		t.Fatalf("%d Map-Notifies", len(out))
	}
	i := slices.IndexFunc(out, func(d datagram) bool { return d.dst == moved })
	if i < 0 {
		t.Fatalf("sent to %v and %v", out[0].dst, out[1].dst)
	}
	m := b.notify(out[i:i+1], leftKey)
	for r := range m.Records.All() {
		if r.NumLocators() != 2 {
			t.Errorf("a set of %d locators", r.NumLocators())
		}
	}
	for _, d := range out {
		b.ack(d, leftKey)
	}
	if len(b.s.notices.sets) != 0 || b.ackMerged(leftKey) != 0 {
		t.Errorf("%d sets left", len(b.s.notices.sets))
	}
	// An xTR that no more wants to hear does not.
	b.register(registering{xtr: xtrID(1), src: moved, merge: true, quiet: true, records: []*mapping.Record{rec("10.1.0.0/16", "192.0.2.7")}})
	reg(2, etr2, "10.1.0.0/16", "192.0.2.2", "192.0.2.3")
	if n := b.ackMerged(leftKey); n != 0 {
		t.Errorf("%d Map-Notifies", n)
	}
}

// In a batch, who registers one part of a site's sets is told of the others.
func TestMergedSetOfAnotherPrefix(t *testing.T) {
	b := newBench(t, twoSites(), nil)
	for _, e := range []string{"10.1.0.0/16", "10.1.1.0/24"} {
		b.register(registering{xtr: xtrID(1), merge: true, records: []*mapping.Record{rec(e, "192.0.2.1")}})
	}
	var batch []*register
	for _, g := range []struct {
		xtr byte
		src netip.AddrPort
		rec *mapping.Record
	}{{1, etr1, rec("10.1.1.0/24", "192.0.2.1", "192.0.2.9")}, {2, etr2, rec("10.1.0.0/16", "192.0.2.2")}} {
		_, reg := b.r.handle(b.now, b.encode(registering{xtr: xtrID(g.xtr), merge: true, records: []*mapping.Record{g.rec}}), g.src, local4)
		batch = append(batch, reg)
	}
	b.s.registerAll(t.Context(), b.now, batch)
	if n := b.ackMerged(leftKey); n != 1 {
		t.Errorf("%d Map-Notifies, want that of the prefix that xTR 1 did not register now", n)
	}
}

// Publications and merged sets take turns.
func TestMergedSetsAndPublicationsTakeTurns(t *testing.T) {
	cfg := withSubscribers()
	cfg.PubSub.Rate = 10
	b := newBench(t, cfg, nil)
	b.put(rec("10.20.0.0/16", "203.0.113.1"))
	b.subscribed(subscribing("10.20.0.1", 100, nil))
	for i := range 20 {
		for n, src := range []netip.AddrPort{etr1, etr2} {
			b.register(registering{xtr: xtrID(byte(n + 1)), src: src, merge: true,
				records: []*mapping.Record{rec(fmt.Sprintf("10.1.%d.0/24", i), src.Addr().String())}})
		}
	}
	b.put(rec("10.20.0.0/16", "203.0.113.2"))
	from := b.now
	for {
		out, next, ok := b.s.advance(b.now)
		for _, d := range out {
			if d.dst.String() == to1 {
				if b.now.Sub(from) > 300*time.Millisecond {
					t.Errorf("published after %v", b.now.Sub(from))
				}
				return
			}
		}
		if !ok {
			t.Fatal("never published")
		}
		b.now = next
	}
}

// Who has no credit for all that its Map-Request would get is subscribed to the
// part that it has credit for, as with a Map-Reply.
func TestSubscriptionWithinTheCredit(t *testing.T) {
	b := newBench(t, withSubscribers(), nil)
	b.strict = true
	var recs []*mapping.Record
	for i := range 10 {
		recs = append(recs, rec(fmt.Sprintf("10.20.%d.0/24", i), "203.0.113.1"))
	}
	if err := b.s.Put(t.Context(), append(recs, rec("10.20.0.0/16", "203.0.113.1"))); err != nil {
		t.Fatal(err)
	}
	out := b.subscribe(subscribing("10.20.200.1", 100, nil))
	b.wantNotify(out, 100, to1, "10.20.128.0/17 ttl 1440m, 203.0.113.1 1/100 R")
	b.ack(out[0], pubKey)
	// Who has proved to be there gets all.
	if _, got := b.published(b.subscribe(subscribing("10.20.100.1", 100, nil))[0]); len(got) != 11 {
		t.Errorf("%d records", len(got))
	}
}

// What the store does not take is taken back, and what it took before is not.
func TestSubscriptionsOfAFailingStore(t *testing.T) {
	b := newBench(t, withSubscribers(), newMemStore())
	first := b.subscribe(subscribing("10.9.0.1", 100, nil))
	b.store.setFail(errDisk)
	b.subscribe(subscribing("10.9.0.1", 101, nil))
	b.ack(first[0], pubKey)
	if x := b.s.pubsub.get(eid("10.9.0.0/16"), xtrID(1)); x == nil || x.unsure || x.nonce != 100 {
		t.Errorf("what was confirmed: %+v", x)
	}
	var batch []subscribe
	for nonce := range uint64(3) {
		b.ask(subscribing("10.77.0.1", 300+nonce, nil))
		batch = append(batch, <-b.s.subscriptions)
	}
	b.s.subscribeAll(t.Context(), b.now, batch)
	by := b.s.pubsub.subscribers[xtrID(1)]
	if out := b.due(); len(out) != 0 || by.kept != 1 || by.active != 1 || b.s.pubsub.size != 1 {
		t.Errorf("%d sent, %d kept, %d active, %d in all", len(out), by.kept, by.active, b.s.pubsub.size)
	}
}
