package xtr

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/auth"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

var (
	pubKey = auth.Key{ID: 9, Algorithm: auth.SHA256HKDF, Secret: []byte("shared with publishers")}
	// pub is where Map-Notifies come from: a map-server that the xTR does not
	// know by its address.
	pub = netip.MustParseAddrPort("198.51.100.77:4342")
)

func pubSubConfig() Config {
	cfg := testConfig()
	cfg.XTRID, cfg.SiteID = mapping.XTRID{1, 2, 3}, 7
	cfg.PubSub = &PubSub{Key: pubKey}
	return cfg
}

// mapNotify makes a Map-Notify, signed with a key.
func mapNotify(t testing.TB, k auth.Key, id mapping.XTRID, nonce uint64, recs ...*mapping.Record) []byte {
	t.Helper()
	m := wire.MapNotify{Nonce: nonce, Auth: k.Template(), Records: records(t, recs...), HasXTRID: true, XTRID: id, SiteID: 7}
	b := mustEncode(t, &m)
	if err := auth.Sign(b, k); err != nil {
		t.Fatal(err)
	}
	return b
}

// publish delivers an authentic Map-Notify.
func (r *rig) publish(nonce uint64, recs ...*mapping.Record) {
	r.t.Helper()
	r.receive(mapNotify(r.t, pubKey, r.m.cfg.XTRID, nonce, recs...), pub)
}

// ack checks that d acknowledges the nonce at pub.
func (r *rig) ack(d sent, nonce uint64) {
	r.t.Helper()
	var m wire.MapNotify
	if err := m.Decode(d.data); err != nil {
		r.t.Fatal(err)
	}
	if !m.Ack || m.Nonce != nonce || m.Records.Len() == 0 || !m.HasXTRID || m.XTRID != r.m.cfg.XTRID || d.dst != pub || d.src != local {
		r.t.Errorf("acknowledgement %+v from %v to %v, want nonce %x", m, d.src, d.dst, nonce)
	}
	if _, err := auth.Verify(d.data, []auth.Key{pubKey}, pubKey.Algorithm); err != nil {
		r.t.Error(err)
	}
}

// acked checks that only an acknowledgement was sent.
func (r *rig) acked(nonce uint64) {
	r.t.Helper()
	r.ack(r.unprobed(), nonce)
}

// unprobed returns the only datagram sent, RLOC-probes left out.
func (r *rig) unprobed() sent {
	r.t.Helper()
	out := slices.DeleteFunc(r.take(), func(d sent) bool { ty, _ := wire.PeekType(d.data); return ty == wire.TypeMapRequest })
	if len(out) != 1 {
		r.t.Fatalf("%d datagrams sent, want 1", len(out))
	}
	return out[0]
}

// subscribe asks for dst and has the subscription confirmed with recs; it
// returns the nonce.
func (r *rig) subscribe(dst netip.Addr, recs ...*mapping.Record) uint64 {
	r.t.Helper()
	r.take()
	r.miss(dst, hostA)
	_, m := mapRequest(r.t, r.one().data)
	if !m.EIDs[0].Subscribe {
		r.t.Fatal("the Map-Request does not subscribe")
	}
	r.publish(m.Nonce, recs...)
	r.acked(m.Nonce)
	return m.Nonce
}

func (r *rig) subscribed() []string {
	out := []string{}
	for e := range r.m.itr.subs.table.All() {
		out = append(out, e.String())
	}
	return out
}

func (r *rig) wantCached(eids ...string) {
	r.t.Helper()
	if got := r.cached(); !slices.Equal(got, eids) {
		r.t.Errorf("cached %v, want %v", got, eids)
	}
}

func (r *rig) wantSubscribed(eids ...string) {
	r.t.Helper()
	if got := r.subscribed(); !slices.Equal(got, eids) {
		r.t.Errorf("subscribed to %v, want %v", got, eids)
	}
}

func (r *rig) wantStat(c counter, n uint64) {
	r.t.Helper()
	if got := r.stat(c); got != n {
		r.t.Errorf("%s is %d, want %d", counterTable[c].name, got, n)
	}
}

// at is rec with another locator.
func at(e, locator string) *mapping.Record {
	r := rec(e, 10)
	r.Locators[0].Addr = addr(locator)
	return r
}

func (r *rig) locator(dst string) string {
	m, ok := r.m.itr.cache.Lookup(0, addr(dst))
	if !ok || len(m.Locators) == 0 {
		return ""
	}
	return m.Locators[0].Addr.String()
}

// TestP13_IDsAndIBit: Map-Requests for misses, refreshes and SMRs carry xTR-ID
// and Site-ID and the N bit; without pubsub, none does.
func TestP13_IDsAndIBit(t *testing.T) {
	r := newRig(t, pubSubConfig())
	check := func(what string) uint64 {
		t.Helper()
		_, m := mapRequest(t, r.unprobed().data)
		if !m.HasXTRID || m.XTRID != r.m.cfg.XTRID || m.SiteID != 7 || !m.EIDs[0].Subscribe || len(m.ITRRLOCs) != 2 {
			t.Errorf("%s: %+v", what, m)
		}
		return m.Nonce
	}
	r.miss(peer, hostA)
	n := check("miss")
	r.publish(n, rec("10.2.0.0/16", 10))
	r.acked(n)

	r.until(9*time.Minute + 10*time.Second)
	r.used("10.2.0.0/16")
	n = check("refresh")
	r.publish(n, rec("10.2.0.0/16", 10))
	r.acked(n)

	r.until(10 * time.Minute)
	r.receive(mustEncode(t, &wire.MapRequest{SMR: true, SourceEID: wire.IPAddress(peer), ITRRLOCs: []wire.Address{wire.IPAddress(etr1.Addr())},
		EIDs: []wire.RequestRecord{wire.NewRequestRecord(eid("10.1.0.5/32"))}}), etr1)
	check("smr")

	r = newRig(t, testConfig())
	r.miss(peer, hostA)
	if _, m := mapRequest(t, r.one().data); m.HasXTRID || m.EIDs[0].Subscribe {
		t.Errorf("without pubsub: %+v", m)
	}
}

// TestP13_IDsConfigured: no subscriptions without an xTR-ID.
func TestP13_IDsConfigured(t *testing.T) {
	cfg := pubSubConfig()
	cfg.XTRID, cfg.SiteID = mapping.XTRID{}, 0
	if _, err := New(cfg); err == nil {
		t.Error("pubsub without an xTR-ID is accepted")
	}
	cfg = pubSubConfig()
	cfg.PubSub = &PubSub{Key: auth.Key{ID: 1, Algorithm: auth.SHA256}}
	if _, err := New(cfg); err == nil {
		t.Error("pubsub without a secret is accepted")
	}
}

// TestP14_NonceAboveAll: each Map-Request has a nonce above all that the
// EID-prefix saw in either direction, with the clock at the same second or
// behind, and the low half is random.
func TestP14_NonceAboveAll(t *testing.T) {
	r := newRig(t, pubSubConfig())
	last := r.subscribe(peer, rec("10.2.0.0/16", 10))
	if last>>32 != uint64(zeroTime.Unix()) {
		t.Errorf("nonce %x is not from the clock", last)
	}
	for range 3 { // far above the clock
		last += 1<<32 - 1
		r.publish(last, rec("10.2.0.0/16", 10))
		r.acked(last)
	}
	// An EID inside, the prefix itself, and one that holds it.
	for _, e := range []string{"10.2.0.9/32", "10.2.0.0/16", "10.0.0.0/8"} {
		n, err := r.m.itr.subs.nonce(r.now, eid(e), 0)
		if err != nil || n <= last {
			t.Errorf("nonce %x for %s, %v; the last was %x", n, e, err, last)
		}
	}
	rng := rand.NewChaCha8([32]byte{1})
	r.m.cfg.Rand = rng
	low := map[uint32]bool{}
	for range 100 {
		n, _ := r.m.itr.subs.nonce(r.now, eid("10.2.0.0/16"), 0)
		low[uint32(n-last)] = true
	}
	if len(low) < 100 {
		t.Errorf("%d of 100 nonces differ", len(low))
	}
}

// TestP14_Retransmissions: each has a higher nonce, and an answer to any of
// them is one.
func TestP14_Retransmissions(t *testing.T) {
	r := newRig(t, pubSubConfig())
	r.miss(peer, hostA)
	r.until(4 * time.Second)
	var ns []uint64
	for _, d := range r.take() {
		_, m := mapRequest(t, d.data)
		if m.EIDs[0].Subscribe {
			ns = append(ns, m.Nonce)
		}
	}
	if len(ns) != subscribeTries || !slices.IsSorted(ns) || ns[0] == ns[1] {
		t.Fatalf("nonces %x", ns)
	}
	// The map-server answers all; the xTR takes the second as a publication.
	r.publish(ns[0], at("10.2.0.0/16", "203.0.113.1"))
	r.acked(ns[0])
	r.publish(ns[2], at("10.2.0.0/16", "203.0.113.2"))
	r.acked(ns[2])
	r.publish(ns[2]+1, at("10.2.0.0/16", "203.0.113.3"))
	r.acked(ns[2] + 1)
	if got := r.locator("10.2.0.9"); got != "203.0.113.3" {
		t.Errorf("locator %s", got)
	}
}

// TestP15_Subscribe: the Map-Notify that answers a Map-Request is verified,
// installs its mapping and ends the question.
func TestP15_Subscribe(t *testing.T) {
	r := newRig(t, pubSubConfig())
	r.miss(peer, hostA)
	_, m := mapRequest(t, r.one().data)
	for name, msg := range map[string][]byte{
		"another key":     mapNotify(t, key, r.m.cfg.XTRID, m.Nonce, rec("10.2.0.0/16", 10)),
		"another secret":  mapNotify(t, auth.Key{ID: pubKey.ID, Algorithm: pubKey.Algorithm, Secret: []byte("x")}, r.m.cfg.XTRID, m.Nonce, rec("10.2.0.0/16", 10)),
		"weaker":          mapNotify(t, auth.Key{ID: pubKey.ID, Algorithm: auth.SHA1, Secret: pubKey.Secret}, r.m.cfg.XTRID, m.Nonce, rec("10.2.0.0/16", 10)),
		"to another xTR":  mapNotify(t, pubKey, mapping.XTRID{5}, m.Nonce, rec("10.2.0.0/16", 10)),
		"another EID":     mapNotify(t, pubKey, r.m.cfg.XTRID, m.Nonce, rec("10.3.0.0/16", 10)),
		"the site's EIDs": mapNotify(t, pubKey, r.m.cfg.XTRID, m.Nonce, rec("10.1.0.0/16", 10)),
	} {
		r.receive(msg, pub)
		if len(r.cached()) != 0 || len(r.take()) != 0 || len(r.subscribed()) != 0 {
			t.Fatalf("a Map-Notify with %s was accepted", name)
		}
	}
	r.wantStat(publicationsAuthFailed, 4)
	r.publish(m.Nonce, rec("10.2.0.0/16", 10))
	r.acked(m.Nonce)
	r.wantCached("10.2.0.0/16")
	r.wantSubscribed("10.2.0.0/16")
	if r.m.itr.subs.active() != 1 || len(r.m.itr.queries) != 0 {
		t.Error("the question goes on")
	}
	r.check()
}

// TestP15_Publication: a change reaches the map-cache at once, as do
// more-specifics, negative records and withdrawals.
func TestP15_Publication(t *testing.T) {
	r := newRig(t, pubSubConfig())
	n := r.subscribe(peer, at("10.2.0.0/16", "203.0.113.1"))
	r.changes = nil
	next := func(recs ...*mapping.Record) {
		t.Helper()
		n++
		r.publish(n, recs...)
		r.acked(n)
	}
	next(at("10.2.0.0/16", "203.0.113.2"))
	if len(r.changes) != 1 || r.changes[0].Record.Locators[0].Addr != addr("203.0.113.2") || r.locator("10.2.0.9") != "203.0.113.2" {
		t.Fatalf("changes %v", r.changes)
	}
	next(at("10.2.7.0/24", "203.0.113.3"))
	r.wantCached("10.2.0.0/16", "10.2.7.0/24")
	next(mapping.NegativeRecord(eid("10.2.7.0/24"), mapping.Drop, 5))
	if got, _ := r.m.itr.cache.Lookup(0, addr("10.2.7.1")); got.Action != mapping.Drop {
		t.Errorf("%v", got)
	}
	next(rec("10.2.7.0/24", 0))
	r.wantCached("10.2.0.0/16")
	next(rec("10.2.0.0/16", 0))
	r.wantCached()
	// The site comes back.
	next(at("10.2.0.0/16", "203.0.113.4"))
	r.wantCached("10.2.0.0/16")
	// Nothing of the site, nothing beside.
	next(at("10.2.0.0/16", "203.0.113.5"), rec("10.1.3.0/24", 10), rec("10.3.0.0/16", 10))
	r.wantCached("10.2.0.0/16")
	r.wantStat(mapReplyRecordsRefused, 2)
}

// TestP15_WithoutLISPSec: a Map-Notify that answers a protected Map-Request
// has no LISP-SEC data; the PubSub key is what counts (RFC 9437 section 7.1).
func TestP15_WithoutLISPSec(t *testing.T) {
	cfg := pubSubConfig()
	cfg.LISPSec = LISPSec{Policy: auth.SecurityRequired, ResolverKeys: map[netip.AddrPort]auth.WrapKey{mr1: {ID: 1, Secret: []byte("0123456789abcdef")}}}
	r := newRig(t, cfg)
	r.miss(peer, hostA)
	e, m := mapRequest(t, r.one().data)
	if !e.Security {
		t.Fatal("the Map-Request is not protected")
	}
	r.receive(mapNotify(t, key, cfg.XTRID, m.Nonce, rec("10.2.0.0/16", 10)), pub)
	r.wantCached()
	r.publish(m.Nonce, rec("10.2.0.0/16", 10))
	r.acked(m.Nonce)
	r.wantCached("10.2.0.0/16")
	r.check()
}

// TestP16_NonceOrder: what is not above the last nonce changes nothing.
func TestP16_NonceOrder(t *testing.T) {
	r := newRig(t, pubSubConfig())
	n := r.subscribe(peer, at("10.2.0.0/16", "203.0.113.1"))
	r.publish(n+5, at("10.2.0.0/16", "203.0.113.5"))
	r.acked(n + 5)
	for _, old := range []uint64{n + 4, n + 1, n - 1, n - 1<<33, 1} {
		r.publish(old, at("10.2.0.0/16", "203.0.113.9"))
		if len(r.take()) != 0 {
			t.Errorf("nonce %x was acknowledged", old)
		}
	}
	r.wantStat(publicationsReplayed, 5)
	// No jump beyond reach, either: it would shut out what follows.
	r.publish(n+1<<40, at("10.2.0.0/16", "203.0.113.9"))
	r.wantStat(publicationsUnsolicited, 1)
	if got := r.locator("10.2.0.9"); got != "203.0.113.5" {
		t.Errorf("locator %s", got)
	}
}

// TestP16_ReplayToAnotherSubscription: a publication of a less-specific's
// chain can't be played to a more-specific, whose nonces are lower.
func TestP16_ReplayToAnotherSubscription(t *testing.T) {
	r := newRig(t, pubSubConfig())
	inner := r.subscribe(peer, at("10.2.0.0/16", "203.0.113.1"))
	r.until(time.Minute)
	outer := r.subscribe(addr("10.9.0.1"), at("10.0.0.0/8", "203.0.113.2"))
	r.publish(outer+1, at("10.2.0.0/16", "203.0.113.3"))
	r.acked(outer + 1)
	r.publish(inner+1, at("10.2.0.0/16", "203.0.113.4"))
	r.acked(inner + 1)
	r.publish(outer+1, at("10.2.0.0/16", "203.0.113.3")) // a duplicate
	r.acked(outer + 1)
	if got := r.locator("10.2.0.9"); got != "203.0.113.4" {
		t.Errorf("locator %s", got)
	}
	r.wantStat(publicationsIn, 2)
	r.wantStat(publicationsDuplicate, 1)
}

// TestP17_Ack: every accepted Map-Notify is acknowledged, and again when it
// comes again.
func TestP17_Ack(t *testing.T) {
	r := newRig(t, pubSubConfig())
	n := r.subscribe(peer, at("10.2.0.0/16", "203.0.113.1"))
	r.publish(n, at("10.2.0.0/16", "203.0.113.1"))
	r.acked(n)
	r.publish(n+1, at("10.2.0.0/16", "203.0.113.2"))
	r.acked(n + 1)
	r.publish(n+3, at("10.2.0.0/16", "203.0.113.3"))
	r.acked(n + 3)
	r.changes = nil
	for _, again := range []uint64{n, n + 1, n + 3} {
		r.publish(again, at("10.2.0.0/16", "203.0.113.9"))
		r.acked(again)
	}
	if len(r.changes) != 0 {
		t.Error("a duplicate changed the map-cache")
	}
	r.wantStat(publicationsDuplicate, 4)
}

// TestP18_Restart: an xTR that has forgotten its nonces begins above those
// that it used, and above its floor when its clock was set back.
func TestP18_Restart(t *testing.T) {
	r := newRig(t, pubSubConfig())
	last := r.subscribe(peer, rec("10.2.0.0/16", 10))
	for range 100 {
		last++
		r.publish(last, rec("10.2.0.0/16", 10))
		r.acked(last)
	}
	cfg := pubSubConfig()
	cfg.Rand = &nonces{}
	r = newRig(t, cfg)
	r.now = r.now.Add(time.Second)
	if n := r.subscribe(peer, rec("10.2.0.0/16", 10)); n <= last {
		t.Errorf("nonce %x after a restart, %x before", n, last)
	}
	cfg.NonceFloor = uint64(zeroTime.Add(time.Hour).UnixNano())
	r = newRig(t, cfg)
	if n := r.subscribe(peer, rec("10.2.0.0/16", 10)); n <= last {
		t.Errorf("nonce %x with a floor, %x before", n, last)
	}
}

// TestP18_ReplayedAtMapServer: if the map-server drops what it takes for a
// replay, the question is answered all the same, without a subscription.
func TestP18_ReplayedAtMapServer(t *testing.T) {
	r := newRig(t, pubSubConfig())
	r.miss(peer, hostA)
	r.until(7 * time.Second)
	out := r.take()
	var last wire.MapRequest
	for n, d := range out {
		_, last = mapRequest(t, d.data)
		if last.EIDs[0].Subscribe != (n < subscribeTries) || last.HasXTRID != (n < subscribeTries) {
			t.Errorf("transmission %d: %+v", n, last)
		}
	}
	r.receive(reply(t, last.Nonce, rec("10.2.0.0/16", 10)), etr1)
	r.wantCached("10.2.0.0/16")
	r.wantSubscribed()
}

// TestPubSubFallback: a Map-Reply answers as ever, and ends what there was.
func TestPubSubFallback(t *testing.T) {
	r := newRig(t, pubSubConfig())
	r.miss(peer, hostA)
	_, m := mapRequest(t, r.unprobed().data)
	r.receive(reply(t, m.Nonce, rec("10.2.0.0/16", 10)), etr1)
	r.wantCached("10.2.0.0/16")
	r.wantSubscribed()
	r.publish(m.Nonce+1, rec("10.2.0.0/16", 0))
	r.wantCached("10.2.0.0/16")
	r.wantStat(publicationsUnsolicited, 1)
	if len(r.take()) != 0 {
		t.Error("what was not subscribed to was acknowledged")
	}
}

// TestPubSubRefused: where the map-server refuses, the question goes on
// without, and nobody subscribes there for 15 minutes; after some refusals,
// nowhere.
func TestPubSubRefused(t *testing.T) {
	r := newRig(t, pubSubConfig())
	refused := func(dst string, prefix string) {
		t.Helper()
		r.take()
		r.miss(addr(dst), hostA)
		_, m := mapRequest(t, r.unprobed().data)
		if !m.EIDs[0].Subscribe {
			t.Fatal("no subscription is asked for")
		}
		r.receive(reply(t, m.Nonce, mapping.NegativeRecord(eid(prefix), mapping.DropPolicy, 1)), pub)
		r.until(r.now.Sub(zeroTime) + time.Second)
		_, m = mapRequest(t, r.unprobed().data)
		if m.EIDs[0].Subscribe {
			t.Fatal("it is asked for again")
		}
		r.receive(reply(t, m.Nonce, at(prefix, "203.0.113.1")), etr1)
		if r.locator(dst) != "203.0.113.1" {
			t.Fatal("the answer is not in the map-cache")
		}
	}
	refused("10.2.0.9", "10.2.0.0/24")
	r.miss(addr("10.2.0.10"), hostA) // cached
	r.m.clear(r.now, eid("10.2.0.0/24"))
	r.miss(addr("10.2.0.10"), hostA)
	_, m := mapRequest(t, r.unprobed().data)
	if m.EIDs[0].Subscribe {
		t.Error("a subscription in the back-off")
	}
	r.receive(reply(t, m.Nonce, rec("10.2.0.0/24", 10)), etr1)
	for n := range refusedMax - 1 {
		refused([]string{"10.2.1.1", "10.2.2.1", "10.2.3.1"}[n], []string{"10.2.1.0/24", "10.2.2.0/24", "10.2.3.0/24"}[n])
	}
	r.take()
	r.miss(addr("10.9.9.9"), hostA)
	if _, m := mapRequest(t, r.unprobed().data); m.EIDs[0].Subscribe {
		t.Error("a subscription after four refusals")
	}
	r.wantStat(subscriptionsRefused, refusedMax)
	r.m.clear(r.now, eid("10.2.0.0/24"))
	r.until(r.now.Sub(zeroTime) + refusedFor)
	r.take()
	r.miss(addr("10.2.0.11"), hostA)
	if _, m := mapRequest(t, r.unprobed().data); !m.EIDs[0].Subscribe {
		t.Error("no subscription after the back-off")
	}
	r.check()
}

// unsubscribed checks a Map-Request that unsubscribes and returns its nonce.
func unsubscribed(t *testing.T, d sent, e string, above uint64) uint64 {
	t.Helper()
	ecm, m := mapRequest(t, d.data)
	if asked(t, m) != eid(e) || !m.EIDs[0].Subscribe || !m.HasXTRID || len(m.ITRRLOCs) != 1 || !m.ITRRLOCs[0].IsZero() || m.Nonce <= above ||
		ecm.Src != local || d.dst != mr1 {
		t.Fatalf("%+v in %+v to %v is no end of a subscription to %s", m, ecm, d.dst, e)
	}
	return m.Nonce
}

// TestP14_Unsubscribe: an entry that expires unused is unsubscribed from, with
// a nonce above all, until the map-server confirms it.
func TestP14_Unsubscribe(t *testing.T) {
	r := newRig(t, pubSubConfig())
	n := r.subscribe(peer, rec("10.2.0.0/16", 10))
	r.publish(n+1, rec("10.2.0.0/16", 10))
	r.acked(n + 1)
	r.until(10*time.Minute + 3*time.Second)
	out := r.take()
	if !slices.Equal(times(out), seconds(600, 603)) || r.m.itr.subs.active() != 0 {
		t.Fatalf("sent at %v, %d active", times(out), r.m.itr.subs.active())
	}
	first := unsubscribed(t, out[0], "10.2.0.0/16", n+1)
	second := unsubscribed(t, out[1], "10.2.0.0/16", first)
	r.publish(second, rec("10.2.0.0/16", 10))
	r.acked(second)
	r.wantCached() // it does not come back
	r.wantSubscribed()
	r.until(time.Hour)
	if len(r.take()) != 0 {
		t.Error("it goes on")
	}
	// Nobody answers: it ends all the same.
	r.subscribe(peer, rec("10.2.0.0/16", 10))
	r.until(2 * time.Hour)
	if out := r.take(); len(out) != leaveTries || len(r.subscribed()) != 0 || len(r.m.itr.subs.leaving) != 0 {
		t.Errorf("%d tries; %v", len(out), r.subscribed())
	}
}

// TestP17_AckOfAnEnd: the confirmation of an end is acknowledged again when it
// comes again, and whichever Map-Request it answers; the map-server keeps the
// subscription otherwise.
func TestP17_AckOfAnEnd(t *testing.T) {
	r := newRig(t, pubSubConfig())
	n := r.subscribe(peer, rec("10.2.0.0/16", 10))
	r.until(10*time.Minute + 3*time.Second)
	out := r.take()
	first := unsubscribed(t, out[0], "10.2.0.0/16", n)
	second := unsubscribed(t, out[1], "10.2.0.0/16", first)
	for _, nonce := range []uint64{first, first, second} {
		r.publish(nonce, rec("10.2.0.0/16", 10))
		r.acked(nonce)
	}
	r.wantCached()
	r.wantSubscribed()
	r.wantStat(subscriptionsLeft, 1)
	r.receive(mapNotify(t, key, r.m.cfg.XTRID, first, rec("10.2.0.0/16", 10)), pub)
	r.publish(0, rec("10.2.0.0/16", 10))
	if len(r.take()) != 0 {
		t.Error("what is forged or no answer was acknowledged")
	}
}

// TestUnsubscribeInside: no more-specific is unsubscribed from while a
// less-specific subscription is alive.
func TestUnsubscribeInside(t *testing.T) {
	r := newRig(t, pubSubConfig())
	n := r.subscribe(peer, rec("10.2.0.0/16", 10))
	outer := r.subscribe(addr("10.9.0.1"), rec("10.0.0.0/8", 60))
	r.m.itr.removed(r.now, r.m.itr.cache.Delete(eid("10.2.0.0/16")), "test")
	r.until(5 * time.Minute)
	if len(r.take()) != 0 {
		t.Error("unsubscribed inside a subscription")
	}
	// It is still heard of.
	r.publish(n+1, at("10.2.0.0/16", "203.0.113.2"))
	r.acked(n + 1)
	r.m.itr.removed(r.now, r.m.itr.cache.Delete(eid("10.2.0.0/16")), "test")
	r.m.clear(r.now, eid("10.0.0.0/8"))
	r.until(10 * time.Minute)
	out := r.take()
	if len(out) < 2 {
		t.Fatalf("%d sent", len(out))
	}
	unsubscribed(t, out[0], "10.0.0.0/8", outer)
	unsubscribed(t, out[len(out)-1], "10.2.0.0/16", n+1)
	r.wantSubscribed()
}

// TestHole: what appears in a hole is published to who asked there, and is
// subscribed to at once; so is a mapping that covers the hole.
func TestHole(t *testing.T) {
	r := newRig(t, pubSubConfig())
	hole := func() *mapping.Record { return mapping.NegativeRecord(eid("10.2.0.0/16"), mapping.NativelyForward, 15) }
	appears := func(n uint64, e string) {
		t.Helper()
		r.publish(n, at(e, "203.0.113.1"))
		out := r.take()
		if len(out) != 2 {
			t.Fatalf("%d sent", len(out))
		}
		r.ack(out[0], n)
		_, m := mapRequest(t, out[1].data)
		if asked(t, m) != eid(e) || !m.EIDs[0].Subscribe || m.Nonce <= n {
			t.Fatalf("%+v", m)
		}
		r.publish(m.Nonce, at(e, "203.0.113.1"))
		r.acked(m.Nonce)
	}
	n := r.subscribe(peer, hole())
	appears(n+1, "10.2.0.0/24")
	r.wantCached("10.2.0.0/16", "10.2.0.0/24")
	r.wantSubscribed("10.2.0.0/16", "10.2.0.0/24")
	r.until(holeLife + 2*time.Minute)
	r.wantSubscribed() // the hole by itself; the other was unsubscribed from
	r.until(time.Hour)
	r.take()

	n = r.subscribe(peer, hole())
	appears(n+1, "10.0.0.0/8")
	r.wantCached("10.0.0.0/8") // the hole is gone
	if r.locator("10.2.0.9") != "203.0.113.1" {
		t.Error("packets still go into the hole")
	}
	r.check()
}

// TestSubscriptionEnded: a map-server that gives up says so, with the last
// nonce or one above.
func TestSubscriptionEnded(t *testing.T) {
	r := newRig(t, pubSubConfig())
	n := r.subscribe(peer, rec("10.2.0.0/16", 10))
	r.publish(n+1, rec("10.2.7.0/24", 10)) // nobody would tell when it changes
	r.acked(n + 1)
	n++
	r.publish(n-2, mapping.NegativeRecord(eid("10.2.0.0/16"), mapping.DropAuth, 0))
	r.wantSubscribed("10.2.0.0/16")
	r.publish(n, mapping.NegativeRecord(eid("10.2.0.0/16"), mapping.DropAuth, 0))
	r.acked(n)
	r.wantSubscribed()
	r.wantCached()
	r.wantStat(subscriptionsEnded, 1)
	r.until(time.Hour)
	if len(r.take()) != 0 {
		t.Error("unsubscribed from what is over")
	}
}

// TestUnsolicitedPublication: it is dropped, unless it is configured that such
// are taken; then their nonces count.
func TestUnsolicitedPublication(t *testing.T) {
	r := newRig(t, pubSubConfig())
	r.publish(100, rec("10.2.0.0/16", 10))
	r.wantCached()
	r.wantStat(publicationsUnsolicited, 1)
	if len(r.take()) != 0 {
		t.Error("it was acknowledged")
	}
	cfg := pubSubConfig()
	cfg.PubSub.AcceptUnsolicited = true
	r = newRig(t, cfg)
	r.publish(100, at("10.2.0.0/16", "203.0.113.1"))
	r.acked(100)
	r.publish(101, at("10.2.0.0/16", "203.0.113.2"))
	r.acked(101)
	r.publish(99, at("10.2.0.0/16", "203.0.113.3"))
	if len(r.take()) != 0 || r.locator("10.2.0.9") != "203.0.113.2" {
		t.Error("an old one was taken")
	}
	r.wantSubscribed("10.2.0.0/16")
}

// TestUnsolicitedBesideSubscription: an unsolicited publication of what the xTR
// is subscribed to already, with a nonce far above, goes on with that
// subscription, whose timers and end stay what they were.
func TestUnsolicitedBesideSubscription(t *testing.T) {
	cfg := pubSubConfig()
	cfg.PubSub.AcceptUnsolicited = true
	r := newRig(t, cfg)
	n := r.subscribe(peer, mapping.NegativeRecord(eid("10.2.0.0/16"), mapping.NativelyForward, 15))
	x, _ := r.m.itr.subs.table.Get(eid("10.2.0.0/16"))
	far := n + 1<<40
	r.publish(far, rec("10.2.0.0/16", 10))
	r.ack(r.take()[0], far)
	if y, _ := r.m.itr.subs.table.Get(eid("10.2.0.0/16")); y != x || len(r.m.itr.subs.timers) != 1 {
		t.Errorf("another subscription took its place, with %d timers", len(r.m.itr.subs.timers))
	}
	if x.taken(far-1) || !x.taken(far) {
		t.Error("what was accepted before the jump is taken for what came just before it")
	}
	r.check()
}

// TestE14_OwnMapNotifyWithPubSub: an unsolicited Map-Notify for the site's own
// EIDs is the registrar's, with the key of the map-server.
func TestE14_OwnMapNotifyWithPubSub(t *testing.T) {
	r := newRig(t, pubSubConfig())
	r.receive(mapNotify(t, key, r.m.cfg.XTRID, 42, rec("10.1.0.0/16", 10)), ms1)
	var m wire.MapNotify
	d := r.unprobed()
	if err := m.Decode(d.data); err != nil || !m.Ack || m.Nonce != 42 || d.dst != ms1 {
		t.Fatalf("%+v to %v, %v", m, d.dst, err)
	}
	if _, err := auth.Verify(d.data, []auth.Key{key}, key.Algorithm); err != nil {
		t.Error(err)
	}
	r.wantCached()
}

// TestAbuse_ForgedPubSubNotify: without the key, nothing that an attacker
// sends changes anything or is answered, whatever nonce it has; with a table
// that is full, no more is subscribed to.
func TestAbuse_ForgedPubSubNotify(t *testing.T) {
	cfg := pubSubConfig()
	cfg.CacheLimit = 2
	r := newRig(t, cfg)
	n := r.subscribe(peer, at("10.2.0.0/16", "203.0.113.1"))
	r.changes = nil
	forger := auth.Key{ID: pubKey.ID, Algorithm: pubKey.Algorithm, Secret: []byte("guessed")}
	before := r.stat(mapNotifiesIn)
	tries := uint64(0)
	for _, k := range []auth.Key{forger, key} {
		for _, nonce := range []uint64{0, 1, n - 1, n, n + 1, n + 2, n + 1<<33, 1<<64 - 1} {
			for _, e := range []string{"10.2.0.0/16", "10.2.7.0/24", "10.0.0.0/8", "10.9.0.0/16"} {
				for _, rr := range []*mapping.Record{at(e, "203.0.113.66"), rec(e, 0), mapping.NegativeRecord(eid(e), mapping.DropAuth, 0)} {
					r.receive(mapNotify(t, k, cfg.XTRID, nonce, rr), pub)
					tries++
				}
			}
		}
	}
	if len(r.take()) != 0 || len(r.changes) != 0 || r.locator("10.2.0.9") != "203.0.113.1" {
		t.Error("a forged Map-Notify had an effect")
	}
	dropped := r.stat(publicationsAuthFailed) + r.stat(publicationsReplayed) + r.stat(publicationsUnsolicited)
	if got := r.stat(mapNotifiesIn) - before; got != tries || dropped != tries {
		t.Errorf("%d sent, %d counted, %d dropped by name", tries, got, dropped)
	}
	r.publish(n+1, at("10.2.0.0/16", "203.0.113.2")) // the real one is still taken
	r.acked(n + 1)

	r.subscribe(addr("10.8.0.1"), rec("10.8.0.0/16", 10))
	r.take()
	r.miss(addr("10.9.0.1"), hostA)
	if _, m := mapRequest(t, r.unprobed().data); m.EIDs[0].Subscribe {
		t.Error("more subscriptions than the table holds")
	}
	if len(r.subscribed()) > cfg.CacheLimit {
		t.Errorf("%d subscriptions", len(r.subscribed()))
	}
}
