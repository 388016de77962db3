package server

import (
	"context"
	"math"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/auth"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

var pubKey = auth.Key{ID: 5, Algorithm: auth.SHA256HKDF, Secret: []byte("a subscriber's secret")}

// withSubscribers is twoSites with three xTRs that are known as subscribers: the
// last one has no key.
func withSubscribers() Config {
	cfg := twoSites()
	cfg.PubSub.Subscribers = []Subscriber{
		{XTRID: xtrID(1), SiteID: 7, Key: pubKey, ITRRLOCs: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}},
		{XTRID: xtrID(2), Key: pubKey},
		{XTRID: xtrID(3)},
	}
	return cfg
}

// subscribing is a Map-Request of xTR 1 to subscribe.
func subscribing(e string, nonce uint64, change func(*wire.MapRequest)) asking {
	return asking{eids: []mapping.EID{eid(e)}, nonce: nonce, change: func(m *wire.MapRequest) {
		m.HasXTRID, m.XTRID, m.SiteID = true, xtrID(1), 7
		m.EIDs[0].Subscribe = true
		if change != nil {
			change(m)
		}
	}}
}

func ending(m *wire.MapRequest) { m.ITRRLOCs = []wire.Address{{}} }

// subscribe sends a Map-Request and lets the writer do its part. It returns
// everything that was sent.
func (b *bench) subscribe(q asking) []datagram {
	b.t.Helper()
	out := slices.Clone(b.ask(q))
	for len(b.s.subscriptions) > 0 {
		out = append(out, b.s.subscribeAll(context.Background(), b.now, []subscribe{<-b.s.subscriptions})...)
	}
	return append(out, b.due()...)
}

// due returns what is sent unasked now.
func (b *bench) due() []datagram {
	out, _, _ := b.s.advance(b.now)
	return out
}

// notice is a Map-Notify as text, checked for its authentication.
func (b *bench) published(d datagram) (m wire.MapNotify, recs []string) {
	b.t.Helper()
	if err := m.Decode(d.payload); err != nil {
		b.t.Fatalf("not a Map-Notify: %v", err)
	}
	if _, err := auth.Verify(d.payload, []auth.Key{pubKey}, pubKey.Algorithm); err != nil {
		b.t.Errorf("the Map-Notify is not authentic: %v", err)
	}
	for r := range m.Records.All() {
		rec, err := r.Mapping()
		if err != nil {
			b.t.Fatal(err)
		}
		recs = append(recs, rec.String())
	}
	return m, recs
}

// wantNotify fails unless out is one Map-Notify with this nonce and records.
func (b *bench) wantNotify(out []datagram, nonce uint64, to string, recs ...string) {
	b.t.Helper()
	if len(out) != 1 {
		b.t.Fatalf("%d datagrams sent, want one Map-Notify: %v", len(out), b.texts(out))
	}
	m, got := b.published(out[0])
	if m.Nonce != nonce || out[0].dst.String() != to || !slices.Equal(got, recs) {
		b.t.Fatalf("Map-Notify with nonce %d to %v: %q\nwant %d to %s: %q", m.Nonce, out[0].dst, got, nonce, to, recs)
	}
}

// ack acknowledges a Map-Notify with a key.
func (b *bench) ack(d datagram, key auth.Key) {
	b.t.Helper()
	var m wire.MapNotify
	if err := m.Decode(d.payload); err != nil {
		b.t.Fatal(err)
	}
	m.Ack, m.Auth = true, key.Template()
	msg, err := m.AppendBinary(nil)
	if err != nil {
		b.t.Fatal(err)
	}
	if err := auth.Sign(msg, key); err != nil {
		b.t.Fatal(err)
	}
	b.deliver(msg, d.dst, local4)
	b.s.acknowledge(b.now, []ack{<-b.s.acks})
}

func (b *bench) put(r *mapping.Record) {
	b.t.Helper()
	if err := b.s.Put(b.t.Context(), []*mapping.Record{r}); err != nil {
		b.t.Fatal(err)
	}
}

const to1 = "192.0.2.10:4342"

func TestP1_OnlyWhoMaySubscribe(t *testing.T) {
	for name, change := range map[string]func(*wire.MapRequest){
		"no xTR-ID":              func(m *wire.MapRequest) { m.HasXTRID = false },
		"unknown xTR-ID":         func(m *wire.MapRequest) { m.XTRID = xtrID(9) },
		"another Site-ID":        func(m *wire.MapRequest) { m.SiteID = 8 },
		"a locator of others":    func(m *wire.MapRequest) { m.ITRRLOCs = append(m.ITRRLOCs, wire.IPAddress(addr("203.0.113.66"))) },
		"no locator, but a name": func(m *wire.MapRequest) { m.ITRRLOCs = []wire.Address{wire.IPAddress(addr("203.0.113.66"))} },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, withSubscribers(), nil)
			out := b.subscribe(subscribing("10.9.0.1", 100, change))
			if b.s.pubsub.size != 0 {
				t.Errorf("subscribed")
			}
			for _, d := range out {
				if typ, _ := wire.PeekType(d.payload); typ == wire.TypeMapNotify {
					t.Errorf("a Map-Notify was sent")
				}
			}
			if b.count(subscriptionsRefused) != 1 {
				t.Errorf("the refusal is not counted")
			}
		})
	}
}

// The only map-resolver that is trusted is this one: a Map-Request that another
// forwarded, from whatever address, has no rights but those of the xTR-ID and
// the locators in it.
func TestP2_TrustIsTheXTRs(t *testing.T) {
	b := newBench(t, withSubscribers(), nil)
	q := subscribing("10.9.0.1", 100, nil)
	q.from = netip.MustParseAddrPort("198.18.0.1:4342")
	b.wantNotify(b.subscribe(q), 100, to1, "10.9.0.0/16 ttl 1440m, 203.0.113.9 1/100 R")
	bad := subscribing("10.9.0.1", 101, func(m *wire.MapRequest) { m.XTRID = xtrID(8) })
	bad.from = q.from
	b.subscribe(bad)
	if b.s.pubsub.size != 1 || b.count(subscriptionsRefused) != 1 {
		t.Errorf("%d subscriptions, %d refused", b.s.pubsub.size, b.count(subscriptionsRefused))
	}
}

func TestP3_IDsMustBeThere(t *testing.T) {
	b := newBench(t, withSubscribers(), nil)
	q := subscribing("10.9.0.1", 100, nil).defaults()
	q.bare = true
	msg := encodeRequest(t, q)
	before := b.count(dropMalformed)
	out := b.deliver(msg[:len(msg)-1], q.from, q.to)
	if len(out) != 0 || b.count(dropMalformed) != before+1 || len(b.s.subscriptions) != 0 {
		t.Errorf("a Map-Request whose I bit lies was not dropped")
	}
}

func TestP4_NonceMustRise(t *testing.T) {
	b := newBench(t, withSubscribers(), nil)
	b.ack(b.subscribe(subscribing("10.9.0.1", 100, nil))[0], pubKey)
	for _, nonce := range []uint64{100, 99, 1} {
		if out := b.subscribe(subscribing("10.9.0.7", nonce, nil)); len(out) != 0 {
			t.Errorf("nonce %d after 100: %v", nonce, b.texts(out))
		}
	}
	if b.count(refusedSubscriptionReplay) != 3 {
		t.Errorf("%d replays counted", b.count(refusedSubscriptionReplay))
	}
	// An end that is replayed ends nothing.
	if out := b.subscribe(subscribing("10.9.0.0/16", 100, ending)); len(out) != 0 || b.s.pubsub.size != 1 {
		t.Error("a replay ended the subscription")
	}
	b.wantNotify(b.subscribe(subscribing("10.9.0.7", 101, nil)), 101, to1, "10.9.0.0/16 ttl 1440m, 203.0.113.9 1/100 R")
}

func TestP5_LaterReplacesEarlier(t *testing.T) {
	b := newBench(t, withSubscribers(), nil)
	b.put(rec("10.20.0.0/16", "203.0.113.1"))
	b.subscribe(subscribing("10.20.0.1", 100, nil))
	b.ack(b.subscribe(subscribing("10.20.0.0/16", 105, func(m *wire.MapRequest) { m.ITRRLOCs[0] = wire.IPAddress(addr("192.0.2.77")) }))[0], pubKey)
	if b.s.pubsub.size != 1 {
		t.Fatalf("%d subscriptions", b.s.pubsub.size)
	}
	b.put(rec("10.20.0.0/16", "203.0.113.2"))
	b.wantNotify(b.due(), 106, "192.0.2.77:4342", "10.20.0.0/16 ttl 1440m, 203.0.113.2 1/100 R")
}

func TestP6_ConfirmedWithItsNonce(t *testing.T) {
	b := newBench(t, withSubscribers(), newMemStore())
	out := b.subscribe(subscribing("10.9.3.4", 4711, nil))
	b.wantNotify(out, 4711, to1, "10.9.0.0/16 ttl 1440m, 203.0.113.9 1/100 R")
	var m wire.MapNotify
	if m.Decode(out[0].payload); !m.HasXTRID || m.XTRID != xtrID(1) || m.SiteID != 7 {
		t.Errorf("the Map-Notify is for xTR %x, site %d", m.XTRID, m.SiteID)
	}
	// What is confirmed is in the store: a failing store confirms nothing.
	b.store.setFail(context.DeadlineExceeded)
	if out := b.subscribe(subscribing("10.9.3.4", 4712, nil)); len(out) != 0 {
		t.Errorf("confirmed without the store: %v", b.texts(out))
	}
}

func TestP7_Refusals(t *testing.T) {
	for _, x := range []struct {
		name   string
		change func(*wire.MapRequest)
		want   mapping.Action
	}{
		{"policy", func(m *wire.MapRequest) { m.XTRID = xtrID(9) }, mapping.DropPolicy},
		{"no association", func(m *wire.MapRequest) { m.XTRID, m.SiteID = xtrID(3), 0 }, mapping.DropAuth},
		{"nonces at their end", func(m *wire.MapRequest) { m.Nonce = math.MaxUint64 }, mapping.DropAuth},
	} {
		b := newBench(t, withSubscribers(), nil)
		out := b.subscribe(subscribing("10.9.0.1", 100, x.change))
		if len(out) != 1 {
			t.Fatalf("%s: %d datagrams", x.name, len(out))
		}
		recs := records(t, out[0].payload)
		if len(recs) != 1 || !recs[0].Negative() || recs[0].Action != x.want || recs[0].EID != eid("10.9.0.1") {
			t.Errorf("%s: answered by %v, want %v", x.name, recs, x.want)
		}
	}
	// No resources: as if it had not asked to subscribe.
	cfg := withSubscribers()
	cfg.PubSub.MaxPerXTR = 1
	b := newBench(t, cfg, nil)
	b.put(rec("10.20.0.0/16", "203.0.113.1"))
	b.subscribe(subscribing("10.9.0.1", 100, nil))
	if got := b.texts(b.subscribe(subscribing("10.20.0.1", 101, nil))); !slices.Equal(got, []string{"10.20.0.0/16 ttl 1440m, 203.0.113.1 1/100 R"}) {
		t.Errorf("beyond the limit: %q", got)
	}
	// An ETR's answer is nothing that we hear changes of.
	b.register(registering{records: []*mapping.Record{rec("10.1.0.0/16", "192.0.2.1")}})
	if got := b.texts(b.subscribe(subscribing("10.1.0.1", 102, nil))); !slices.Equal(got, []string{"forwarded to 192.0.2.1:4342"}) {
		t.Errorf("what an ETR answers: %q", got)
	}
}

func TestP8_EndIsConfirmedToTheSource(t *testing.T) {
	b := newBench(t, withSubscribers(), nil)
	b.put(rec("10.20.0.0/16", "203.0.113.1"))
	b.ack(b.subscribe(subscribing("10.20.0.1", 100, nil))[0], pubKey)
	out := b.subscribe(subscribing("10.20.0.0/16", 101, ending))
	b.wantNotify(out, 101, itr4.String(), "10.20.0.0/16 ttl 1440m, 203.0.113.1 1/100 R")
	b.ack(out[0], pubKey)
	b.put(rec("10.20.0.0/16", "203.0.113.2"))
	if out := b.due(); len(out) != 0 || b.s.pubsub.size != 0 {
		t.Errorf("published after the end: %v", b.texts(out))
	}
	// To a source that is none of its locators nothing is sent but a refusal,
	// and nothing ends.
	b.subscribe(subscribing("10.20.0.1", 102, nil))
	q := subscribing("10.20.0.0/16", 103, ending)
	q.src = netip.MustParseAddrPort("203.0.113.200:4342")
	if out := b.texts(b.subscribe(q)); len(out) != 1 || out[0] != "10.20.0.0/16 ttl 15m drop-policy-denied" || b.s.pubsub.size != 1 {
		t.Errorf("an end from another address: %q, %d subscriptions", out, b.s.pubsub.size)
	}
}

func TestP9_EveryChangeIsPublished(t *testing.T) {
	b := newBench(t, withSubscribers(), nil)
	b.register(registering{proxy: true, records: []*mapping.Record{rec("10.1.0.0/16", "192.0.2.1")}})
	b.subscribe(subscribing("10.1.0.1", 100, nil))
	steps := []struct {
		name string
		do   func()
		want []string
	}{
		{"a refresh", func() {
			b.register(registering{proxy: true, records: []*mapping.Record{rec("10.1.0.0/16", "192.0.2.1")}})
		}, nil},
		{"other locators", func() {
			b.register(registering{proxy: true, records: []*mapping.Record{rec("10.1.0.0/16", "192.0.2.2")}})
		}, []string{"10.1.0.0/16 ttl 1440m, 192.0.2.2 1/100 R"}},
		{"a more-specific", func() {
			b.register(registering{proxy: true, records: []*mapping.Record{rec("10.1.5.0/24", "192.0.2.5")}})
		}, []string{"10.1.5.0/24 ttl 1440m, 192.0.2.5 1/100 R"}},
		{"a prefix elsewhere", func() { b.put(rec("10.30.0.0/16", "203.0.113.3")) }, nil},
		{"withdrawn", func() {
			b.register(registering{proxy: true, records: []*mapping.Record{withTTL(0, rec("10.1.5.0/24"))}})
		}, []string{"10.1.5.0/24 ttl 0m no-action"}},
		{"expired", func() { b.pass(4 * time.Minute) }, []string{"10.1.0.0/16 ttl 0m no-action"}},
		{"back", func() {
			b.register(registering{proxy: true, records: []*mapping.Record{rec("10.1.0.0/16", "192.0.2.1")}})
		}, []string{"10.1.0.0/16 ttl 1440m, 192.0.2.1 1/100 R"}},
	}
	nonce := uint64(100)
	for _, x := range steps {
		for _, d := range b.due() {
			b.ack(d, pubKey) // of before
		}
		for d, ok := b.outstanding(); ok; d, ok = b.outstanding() {
			b.ack(d, pubKey)
		}
		x.do()
		out := b.due()
		if x.want == nil {
			if len(out) > 0 {
				t.Errorf("%s: published %v", x.name, b.texts(out))
			}
			continue
		}
		nonce++
		b.wantNotify(out, nonce, to1, x.want...)
	}
}

// outstanding is a Map-Notify that is not acknowledged.
func (b *bench) outstanding() (datagram, bool) {
	if len(b.s.notices.timers) == 0 {
		return datagram{}, false
	}
	m := b.s.notices.timers[0]
	return datagram{payload: m.payload, dst: m.to[0]}, true
}

// Who unsubscribes from a more-specific keeps its less-specific subscription,
// and hears of the more-specific no more (RFC 9437 section 5).
func TestP9_UnsubscribedMoreSpecific(t *testing.T) {
	b := newBench(t, withSubscribers(), nil)
	b.put(rec("10.20.0.0/16", "203.0.113.1"))
	b.put(rec("10.20.1.0/24", "203.0.113.2"))
	b.ack(b.subscribe(subscribing("10.20.0.0/16", 100, nil))[0], pubKey)
	b.ack(b.subscribe(subscribing("10.20.1.0/24", 200, ending))[0], pubKey)
	b.put(rec("10.20.1.0/24", "203.0.113.3"))
	if out := b.due(); len(out) != 0 {
		t.Errorf("published %v", b.texts(out))
	}
	b.ack(b.subscribe(subscribing("10.20.1.0/24", 201, nil))[0], pubKey)
	b.put(rec("10.20.1.0/24", "203.0.113.4"))
	b.wantNotify(b.due(), 202, to1, "10.20.1.0/24 ttl 1440m, 203.0.113.4 1/100 R")
}

// What does not exist can be waited for, for 15 minutes.
func TestP9_Temporary(t *testing.T) {
	b := newBench(t, withSubscribers(), newMemStore())
	out := b.subscribe(subscribing("10.77.0.1", 100, nil))
	m, recs := b.published(out[0])
	if m.Nonce != 100 || len(recs) != 1 {
		t.Fatalf("confirmed by %q", recs)
	}
	b.ack(out[0], pubKey)
	b.put(rec("10.77.0.0/24", "203.0.113.1"))
	b.wantNotify(b.due(), 101, to1, "10.77.0.0/24 ttl 1440m, 203.0.113.1 1/100 R")
	d, _ := b.outstanding()
	b.ack(d, pubKey)
	b.pass(15*time.Minute + time.Second)
	b.put(rec("10.77.0.0/24", "203.0.113.2"))
	if out := b.due(); len(out) != 0 || b.s.pubsub.size != 0 || b.s.pubsub.table.Len() != 0 {
		t.Errorf("after its time: %v, %d subscriptions", b.texts(out), b.s.pubsub.size)
	}
}

// Who asks for a hole over and over keeps no list growing, and keeps no other's
// temporary subscription alive.
func TestTemporaryRenewed(t *testing.T) {
	b := newBench(t, withSubscribers(), nil)
	for i := range 1000 {
		b.subscribe(subscribing("10.77.0.1", uint64(100+i), nil))
	}
	if n := len(b.s.pubsub.temporary); n != 1 {
		t.Errorf("%d entries of one subscription", n)
	}
	b.put(rec("10.78.0.0/16", "203.0.113.1")) // another hole for what follows
	b.subscribe(subscribing("10.79.0.1", 100, nil))
	for i := range 20 {
		b.pass(50 * time.Second)
		for d, ok := b.outstanding(); ok; d, ok = b.outstanding() {
			b.ack(d, pubKey)
		}
		b.subscribe(subscribing("10.77.0.1", uint64(5000+i), nil))
	}
	if n := len(b.s.pubsub.temporary); b.s.pubsub.size != 1 || n > 20 {
		t.Errorf("%d subscriptions, %d entries", b.s.pubsub.size, n)
	}
}

// An association is a key that is configured: a LISP-SEC one-time key makes
// none, so none can make one twice.
func TestP10_NoAssociationFromOneTimeKeys(t *testing.T) {
	b := newBench(t, withSubscribers(), nil)
	out := b.subscribe(subscribing("10.9.0.1", 100, func(m *wire.MapRequest) { m.XTRID, m.SiteID = xtrID(3), 0 }))
	if len(out) != 1 || records(t, out[0].payload)[0].Action != mapping.DropAuth || b.s.pubsub.size != 0 {
		t.Error("an xTR without a key subscribed")
	}
}

func TestP11_NoncesOutlive(t *testing.T) {
	cfg := withSubscribers()
	store := newMemStore()
	b := newBench(t, cfg, store)
	b.put(rec("10.20.0.0/16", "203.0.113.1"))
	b.put(rec("10.21.0.0/16", "203.0.113.1"))
	b.ack(b.subscribe(subscribing("10.20.0.1", 100, nil))[0], pubKey)
	b.ack(b.subscribe(subscribing("10.21.0.1", 500, nil))[0], pubKey)
	b.ack(b.subscribe(subscribing("10.21.0.0/16", 501, ending))[0], pubKey)
	if b.subscribe(subscribing("10.21.0.1", 501, nil)); b.s.pubsub.size != 1 {
		t.Error("a replay after the end subscribed")
	}
	b = b.restart(cfg)
	if b.s.pubsub.size != 1 {
		t.Fatalf("%d subscriptions after the restart", b.s.pubsub.size)
	}
	// A change may have come with the crash. What is published is above all that
	// may have been sent before.
	out := b.due()
	b.wantNotify(out, 100+nonceGap+1, to1, "10.20.0.0/16 ttl 1440m, 203.0.113.1 1/100 R")
	b.ack(out[0], pubKey)
	for _, x := range []struct {
		e     string
		nonce uint64
	}{{"10.20.0.1", 100}, {"10.21.0.1", 501}} {
		if out := b.subscribe(subscribing(x.e, x.nonce, nil)); len(out) != 0 {
			t.Errorf("a replay of %s after the restart: %v", x.e, b.texts(out))
		}
	}
	b.put(rec("10.20.0.0/16", "203.0.113.9"))
	b.wantNotify(b.due(), 100+nonceGap+2, to1, "10.20.0.0/16 ttl 1440m, 203.0.113.9 1/100 R")
	// An xTR that is configured no more has no subscriptions.
	cfg.PubSub.Subscribers = cfg.PubSub.Subscribers[1:]
	if b = b.restart(cfg); b.s.pubsub.size != 0 {
		t.Error("a subscription of an unknown xTR came back")
	}
}

func TestP12_NoncesOfEachPrefix(t *testing.T) {
	b := newBench(t, withSubscribers(), nil)
	b.put(rec("10.20.0.0/16", "203.0.113.1"))
	b.subscribe(subscribing("10.9.0.1", 1000, nil))
	if b.subscribe(subscribing("10.20.0.1", 5, nil)); b.s.pubsub.size != 2 {
		t.Error("the nonce of another EID-prefix counted")
	}
}

func TestS9_Retransmission(t *testing.T) {
	b := newBench(t, withSubscribers(), nil)
	b.put(rec("10.20.0.0/16", "203.0.113.1"))
	out := b.subscribe(subscribing("10.20.0.1", 100, nil))
	b.ack(out[0], pubKey)
	b.put(rec("10.20.0.0/16", "203.0.113.2"))
	from := b.now
	var at []time.Duration
	for {
		out, next, ok := b.s.advance(b.now)
		for _, d := range out {
			m, _ := b.published(d)
			if m.Nonce == 101 && b.now.Sub(from) < time.Hour {
				at = append(at, b.now.Sub(from))
			}
		}
		if !ok {
			break
		}
		b.now = next
	}
	// The last one, at 75 s, says that there will be no more.
	want := []time.Duration{0, 3, 6, 9, 15, 27, 51, 75}
	for i := range want {
		want[i] *= time.Second
	}
	if !slices.Equal(at, want) {
		t.Errorf("transmissions at %v, want %v", at, want)
	}
	if b.s.pubsub.size != 0 || b.count(subscriptionsGivenUp) != 1 {
		t.Errorf("%d subscriptions of an xTR that does not answer", b.s.pubsub.size)
	}

	b.ack(b.subscribe(subscribing("10.20.0.1", 200, nil))[0], pubKey)
	b.put(rec("10.20.0.0/16", "203.0.113.3"))
	d := b.due()[0]
	forged := pubKey
	forged.Secret = []byte("another secret")
	b.ack(d, forged)
	if b.count(dropAckAuthentication) != 1 || b.s.notices.byNonce[201] == nil {
		t.Error("a forged Map-Notify-Ack was taken")
	}
	b.ack(d, pubKey)
	b.now = b.now.Add(3 * time.Second)
	for _, d := range b.due() {
		if m, _ := b.published(d); m.Nonce == 201 {
			t.Error("retransmitted after its Map-Notify-Ack")
		}
	}
}

// When the last Map-Notify is not acknowledged, its record has TTL 0 and ACT 5.
func TestS9_GivenUp(t *testing.T) {
	b := newBench(t, withSubscribers(), nil)
	b.subscribe(subscribing("10.9.0.1", 100, nil))
	var last []string
	for _, next, ok := b.s.advance(b.now); ok; {
		b.now = next
		var out []datagram
		if out, next, ok = b.s.advance(b.now); len(out) > 0 {
			_, last = b.published(out[len(out)-1])
		}
	}
	if !slices.Equal(last, []string{"10.9.0.0/16 ttl 0m drop-auth-failure"}) {
		t.Errorf("the last Map-Notify says %q", last)
	}
}

// One Map-Notify is on the way at a time: an xTR could not take a lost one
// after a later one. What changed meanwhile comes with the next.
func TestP9_OneOnTheWay(t *testing.T) {
	b := newBench(t, withSubscribers(), nil)
	b.put(rec("10.20.0.0/16", "203.0.113.1"))
	b.ack(b.subscribe(subscribing("10.20.0.0/16", 100, nil))[0], pubKey)
	b.put(rec("10.20.1.0/24", "203.0.113.2"))
	first := b.due()
	b.wantNotify(first, 101, to1, "10.20.1.0/24 ttl 1440m, 203.0.113.2 1/100 R")
	b.put(rec("10.20.2.0/24", "203.0.113.2"))
	b.put(rec("10.20.1.0/24", "203.0.113.3"))
	b.put(rec("10.20.2.0/24", "203.0.113.4"))
	if out := b.due(); len(out) != 0 {
		t.Fatalf("sent before the first is acknowledged: %v", b.texts(out))
	}
	b.now = b.now.Add(3 * time.Second)
	b.wantNotify(b.due(), 101, to1, "10.20.1.0/24 ttl 1440m, 203.0.113.2 1/100 R")
	b.ack(first[0], pubKey)
	b.wantNotify(b.due(), 102, to1, "10.20.2.0/24 ttl 1440m, 203.0.113.4 1/100 R", "10.20.1.0/24 ttl 1440m, 203.0.113.3 1/100 R")
	// A new subscription takes its place, and nothing that was due is lost.
	b.wantNotify(b.subscribe(subscribing("10.20.0.0/16", 200, nil)), 200, to1,
		"10.20.0.0/16 ttl 1440m, 203.0.113.1 1/100 R", "10.20.1.0/24 ttl 1440m, 203.0.113.3 1/100 R", "10.20.2.0/24 ttl 1440m, 203.0.113.4 1/100 R")
	d, _ := b.outstanding()
	b.ack(d, pubKey)
	b.wantNotify(b.due(), 201, to1, "10.20.2.0/24 ttl 1440m, 203.0.113.4 1/100 R", "10.20.1.0/24 ttl 1440m, 203.0.113.3 1/100 R")
}

// New Map-Notifies have a pace, and what changes meanwhile is said once.
func TestPublicationPace(t *testing.T) {
	cfg := withSubscribers()
	cfg.PubSub.Rate = 10
	b := newBench(t, cfg, nil)
	var recs []*mapping.Record
	for i := range 50 {
		recs = append(recs, &mapping.Record{EID: mapping.HostEID(0, netip.AddrFrom4([4]byte{10, 20, 0, byte(i)})), TTL: 5, Locators: []mapping.Locator{loc("203.0.113.7")}})
	}
	if err := b.s.Put(t.Context(), recs); err != nil {
		t.Fatal(err)
	}
	for i, r := range recs {
		b.ack(b.subscribe(subscribing(r.EID.String(), uint64(1000+i), nil))[0], pubKey)
	}
	b.now = b.now.Add(time.Second)
	for range 3 {
		for _, r := range recs {
			r.TTL++
		}
		if err := b.s.Put(t.Context(), recs); err != nil {
			t.Fatal(err)
		}
	}
	from, last := b.now, b.now
	sent := map[string]int{}
	for len(b.s.notices.waits) > 0 {
		out, next, _ := b.s.advance(b.now)
		for _, d := range out {
			_, recs := b.published(d)
			sent[recs[0]]++
			b.ack(d, pubKey)
			last = b.now
		}
		if next.After(b.now) {
			b.now = next
		}
	}
	if len(sent) != 50 {
		t.Errorf("%d records published, want 50", len(sent))
	}
	for r, n := range sent {
		if n != 1 {
			t.Errorf("%s published %d times", r, n)
		}
	}
	if d := last.Sub(from); d < 4700*time.Millisecond || d > 5200*time.Millisecond {
		t.Errorf("50 at 10 a second took %v", d)
	}
}

// Who can't be kept up with is told so; nothing grows.
func TestPublicationsBounded(t *testing.T) {
	cfg := withSubscribers()
	cfg.PubSub.Rate = 1
	b := newBench(t, cfg, nil)
	b.put(rec("10.0.0.0/8", "203.0.113.1"))
	b.ack(b.subscribe(subscribing("10.0.0.0/8", 100, nil))[0], pubKey)
	var recs []*mapping.Record
	for i := range maxDue + 10 {
		recs = append(recs, &mapping.Record{EID: mapping.HostEID(0, netip.AddrFrom4([4]byte{10, 200, byte(i >> 8), byte(i)})), TTL: 5, Locators: []mapping.Locator{loc("203.0.113.7")}})
	}
	if err := b.s.Put(t.Context(), recs); err != nil {
		t.Fatal(err)
	}
	if b.s.pubsub.size != 0 || b.count(subscriptionsGivenUp) != 1 || b.s.pubsub.subscribers[xtrID(1)].due != 0 {
		t.Errorf("%d subscriptions, %d given up, %d queued", b.s.pubsub.size, b.count(subscriptionsGivenUp), b.s.pubsub.subscribers[xtrID(1)].due)
	}
}

// The xTRs of a site that merge their sets hear of each other's changes.
func TestMergedSetIsTold(t *testing.T) {
	b := newBench(t, twoSites(), nil)
	b.register(registering{xtr: xtrID(1), merge: true, records: []*mapping.Record{rec("10.1.0.0/16", "192.0.2.1")}})
	b.register(registering{xtr: xtrID(2), src: etr2, merge: true, records: []*mapping.Record{rec("10.1.0.0/16", "192.0.2.2")}})
	out := b.due()
	if len(out) != 1 || out[0].dst != etr1 {
		t.Fatalf("%d Map-Notifies", len(out))
	}
	m := b.notify(out, leftKey)
	if m.XTRID != xtrID(1) || m.Records.Len() != 1 {
		t.Errorf("for xTR %x, %d records", m.XTRID, m.Records.Len())
	}
	for r := range m.Records.All() {
		if r.NumLocators() != 2 {
			t.Errorf("a merged set of %d locators", r.NumLocators())
		}
	}
	b.ack(out[0], leftKey)
	if _, _, ok := b.s.advance(b.now); ok {
		t.Error("something is left to send after the acknowledgement")
	}
	b.register(registering{xtr: xtrID(2), src: etr2, merge: true, records: []*mapping.Record{rec("10.1.0.0/16", "192.0.2.2")}})
	if out := b.due(); len(out) != 0 {
		t.Error("told of a refresh")
	}
}

func TestSubscriptions(t *testing.T) {
	b := newBench(t, withSubscribers(), nil)
	b.subscribe(subscribing("10.9.0.1", 100, nil))
	b.subscribe(subscribing("10.77.0.1", 101, nil))
	var got []string
	for st := range b.s.Subscriptions() {
		got = append(got, st.EID.String())
		if st.XTRID != xtrID(1) || st.SiteID != 7 || st.Waiting != 1 || st.Temporary != (st.EID != eid("10.9.0.0/16")) {
			t.Errorf("%+v", st)
		}
	}
	if len(got) != 2 || got[0] != "10.9.0.0/16" {
		t.Errorf("subscriptions %q", got)
	}
}

// Who names another's address as its locator makes us send no more there than
// 1.5 times what it sent itself, retransmissions included; only an
// acknowledgement changes that.
func TestAbuse_SubscriptionReflection(t *testing.T) {
	b := newBench(t, withSubscribers(), nil)
	b.strict = true
	var recs []*mapping.Record
	for i := range 20 {
		recs = append(recs, rec(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 20, byte(i), 0}), 24).String(), "203.0.113.1", "203.0.113.2"))
	}
	if err := b.s.Put(t.Context(), append(recs, rec("10.20.0.0/16", "203.0.113.1"))); err != nil {
		t.Fatal(err)
	}
	in, out := 0, 0
	for i := range 500 {
		q := subscribing("10.20.200.1", uint64(1000+100*i), nil)
		msg := encodeRequest(t, q.defaults())
		in += onWire(len(msg), itr4.Addr())
		for _, d := range b.subscribe(q) {
			out += onWire(len(d.payload), d.dst.Addr())
		}
		for range 4 {
			b.now = b.now.Add(time.Second)
			for _, d := range b.due() {
				out += onWire(len(d.payload), d.dst.Addr())
			}
		}
	}
	if out > in*3/2 {
		t.Errorf("%d octets out for %d in", out, in)
	}
	if out == 0 || b.count(dropAmplification) == 0 {
		t.Errorf("%d octets sent, %d Map-Notifies held back", out, b.count(dropAmplification))
	}
}
