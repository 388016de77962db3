package server

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net/netip"
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

// TestA1_Ports: whatever port a message comes from, and whatever port of ours
// it came to, it is handled.
func TestA1_Ports(t *testing.T) {
	for _, c := range []struct{ from, to uint16 }{{61000, 4342}, {4342, 4342}, {4342, 61000}} {
		b := newBench(t, twoSites(), nil)
		to := netip.AddrPortFrom(local4.Addr(), c.to)
		msg := b.encode(registering{records: []*mapping.Record{rec("10.1.0.0/16", "192.0.2.1")}})
		if b.notify(b.deliver(msg, netip.AddrPortFrom(etr1.Addr(), c.from), to), leftKey) == nil {
			t.Errorf("a Map-Register from port %d to %d was not taken", c.from, c.to)
		}
		for _, bare := range []bool{false, true} {
			out := b.ask(asking{eids: []mapping.EID{eid("10.9.0.1")}, bare: bare, from: netip.AddrPortFrom(itr4.Addr(), c.from), to: to})
			if len(out) != 1 {
				t.Errorf("a Map-Request from port %d to %d was not answered, bare %v", c.from, c.to, bare)
			}
		}
	}
}

// TestA2_ReplySize: whatever is asked for at once, over either family, the IP
// packet with the Map-Reply has at most 576 or 1280 octets.
func TestA2_ReplySize(t *testing.T) {
	b := newBench(t, Config{}, nil)
	var put []*mapping.Record
	for i := range 60 {
		put = append(put, rec(fmt.Sprintf("10.0.%d.0/24", i), "203.0.113.1", "2001:db8::1"))
	}
	put = append(put, rec("20.0.0.0/8", "203.0.113.1"))
	for i := range 25 { // these with the one above are just too many for 576 octets
		put = append(put, rec(fmt.Sprintf("20.%d.0.0/16", i)))
		put[len(put)-1].Action = mapping.Drop
	}
	if err := b.s.Put(t.Context(), put); err != nil {
		t.Fatal(err)
	}
	largest := make(map[int]int)
	for _, c := range []struct {
		itr   netip.Addr
		to    netip.AddrPort
		limit int
	}{{itr4.Addr(), local4, 576}, {itr6.Addr(), local6, 1280}} {
		for n := 1; n <= maxRequestRecords; n++ {
			for first := range 60 {
				q := asking{itr: []netip.Addr{c.itr}, to: c.to}
				for i := range n {
					q.eids = append(q.eids, eid([]string{fmt.Sprintf("10.0.%d.1", (first+i)%60), "10.0.0.0/16", "20.255.0.1", "10.0.0.0/19"}[(first+i)%4]))
				}
				for _, d := range b.ask(q) {
					size := onWire(len(d.payload), d.dst.Addr())
					largest[c.limit] = max(largest[c.limit], size)
				}
			}
		}
		if got := largest[c.limit]; got > c.limit || got < c.limit-80 {
			t.Errorf("the largest packet has %d octets, want at most %d, and nearly that", got, c.limit)
		}
	}
}

// TestA3_ForwardedChecksum: the packet inside a forwarded ECM has its UDP
// checksum, over IPv4 too, and one that came with a wrong one goes nowhere.
func TestA3_ForwardedChecksum(t *testing.T) {
	b := newBench(t, twoSites(), nil)
	b.register(registering{key: rightKey, records: []*mapping.Record{rec("10.2.0.0/16", "192.0.2.2")}})
	for _, bare := range []bool{false, true} {
		out := b.ask(asking{eids: []mapping.EID{eid("10.2.0.1")}, bare: bare})
		if len(out) != 1 {
			t.Fatal(b.texts(out))
		}
		ip := out[0].payload[4:]
		if sum := binary.BigEndian.Uint16(ip[20+6:]); sum == 0 {
			t.Error("forwarded without a checksum")
		}
		if err := new(wire.ECM).Decode(out[0].payload); err != nil { // which verifies it
			t.Error(err)
		}
	}
	msg := encodeRequest(t, asking{eids: []mapping.EID{eid("10.2.0.1")}}.defaults())
	for name, change := range map[string]func([]byte){
		"wrong": func(sum []byte) { sum[1]++ },
		"zero":  func(sum []byte) { clear(sum) },
	} {
		bad := bytes.Clone(msg)
		change(bad[4+20+6 : 4+20+8])
		before := b.count(dropMalformed)
		b.wantDrop(name, dropMalformed, b.deliver(bad, itr4, local4), before)
	}
}

// TestA5_ReservedBits are ignored on receipt, and zero in what is sent.
func TestA5_ReservedBits(t *testing.T) {
	b := newBench(t, twoSites(), nil)
	plain := b.encode(registering{nonce: 5000, proxy: true, records: []*mapping.Record{rec("2001:db8:1::/48", "192.0.2.1")}})
	reg := bytes.Clone(plain)
	reg[0] |= 0x01
	reg[1] = 0xff
	reg[2] |= 0xe2
	record := reg[16+int(binary.BigEndian.Uint16(reg[14:])):]
	record[6] |= 0x0f
	record[7] = 0xff
	record[8] |= 0xf0
	locator := record[10+18:]
	locator[4], locator[5] = 0xff, locator[5]|0xf8
	if err := auth.Sign(reg, leftKey); err != nil {
		t.Fatal(err)
	}
	out := b.deliver(reg, etr1, local4)
	if b.notify(out, leftKey) == nil {
		t.Fatal("a Map-Register with reserved bits was refused")
	}
	notify := out[0].payload
	if notify[0]&0x07 != 0 || notify[1] != 0 || notify[2] != 0 {
		t.Errorf("reserved bits in the Map-Notify: %x", notify[:4])
	}
	checkRecord := func(what string, r []byte) {
		t.Helper()
		if l := r[10+18:]; r[6]&0x0f != 0 || r[7] != 0 || r[8]&0xf0 != 0 || l[4] != 0 || l[5]&0xf8 != 0 {
			t.Errorf("reserved bits in the record of the %s: %x", what, r[:10+18+6])
		}
	}
	checkRecord("Map-Notify", notify[16+int(binary.BigEndian.Uint16(notify[14:])):])

	q := asking{eids: []mapping.EID{eid("2001:db8:1::1")}, bare: true}.defaults()
	req := encodeRequest(t, q)
	want := b.texts(b.ask(q))
	req[1] |= 0x2f
	req[2] |= 0x80
	req[len(req)-20] |= 0x7f // of the record: flags, mask length, AFI and address
	out = b.deliver(req, itr4, local4)
	wantStrings(t, "the answer", b.texts(out), want...)
	if reply := out[0].payload; reply[0]&0x01 != 0 || reply[1] != 0 || reply[2] != 0 {
		t.Errorf("reserved bits in the Map-Reply: %x", reply[:4])
	}
	checkRecord("Map-Reply", out[0].payload[12:])

	ecm := encodeRequest(t, asking{eids: []mapping.EID{eid("2001:db8:1::1")}}.defaults())
	ecm[0] |= 0x03
	ecm[1], ecm[2], ecm[3] = 0xff, 0xff, 0xff
	wantStrings(t, "the answer to an ECM", b.texts(b.deliver(ecm, itr4, local4)), want...)
	if b.register(registering{key: rightKey, records: []*mapping.Record{rec("10.2.0.0/16", "192.0.2.2")}}) == nil {
		t.Fatal("refused")
	}
	fwd := b.ask(asking{eids: []mapping.EID{eid("10.2.0.1")}})
	if h := fwd[0].payload[:4]; h[0]&0x07 != 0 || h[1] != 0 || h[2] != 0 || h[3] != 0 {
		t.Errorf("reserved bits in the forwarded ECM: %x", h)
	}
}

// TestA6_FailedAuthentication: a Map-Register without the right authentication
// data is dropped, and does nothing.
func TestA6_FailedAuthentication(t *testing.T) { failedAuthentication(t) }

// TestS1_FailedAuthentication is that rule of the map-server.
func TestS1_FailedAuthentication(t *testing.T) { failedAuthentication(t) }

func failedAuthentication(t *testing.T) {
	b := newBench(t, twoSites(), newMemStore())
	good := b.encode(registering{xtr: xtrID(1), records: []*mapping.Record{rec("10.1.0.0/16", "192.0.2.1")}})
	drop := func(why string, msg []byte) {
		t.Helper()
		if out := b.deliver(msg, etr1, local4); len(out) > 0 {
			t.Errorf("%s: %v was sent", why, b.texts(out))
		}
	}
	for i := 4; i < len(good); i++ { // every octet behind the header, xTR-ID and Site-ID too
		for _, bit := range []byte{0x01, 0x80} {
			changed := bytes.Clone(good)
			changed[i] ^= bit
			drop(fmt.Sprintf("octet %d", i), changed)
		}
	}
	drop("another secret", b.encode(registering{key: auth.Key{ID: 1, Algorithm: auth.SHA256HKDF, Secret: []byte("guess")}, records: []*mapping.Record{rec("10.1.0.0/16", "192.0.2.1")}}))
	if len(b.s.expiry) > 0 || len(b.s.nonces) > 0 || b.store.commitCount() > 0 || b.s.sites.Load().all[0].authFailures.Load() == 0 {
		t.Error("a Map-Register that was dropped left something")
	}
	if b.notify(b.deliver(good, etr1, local4), leftKey) == nil {
		t.Error("the good one was refused")
	}
}

// TestA13_Locators are sorted in Map-Replies and merged Map-Notifies, in
// whatever order they were registered.
func TestA13_Locators(t *testing.T) {
	name := mapping.Locator{Priority: 1, Weight: 1, Flags: mapping.Reachable, Opaque: "\x00\x11a name\x00"}
	mixed := func(ls ...string) *mapping.Record {
		r := rec("2001:db8:1::/48")
		r.Locators = append(r.Locators, name)
		for _, l := range ls {
			r.Locators = append(r.Locators, loc(l))
		}
		return r
	}
	b := newBench(t, twoSites(), nil)
	order := func(msg []byte) (out []string) {
		var m wire.MapReply
		if err := m.Decode(msg); err != nil {
			t.Fatal(err)
		}
		for r := range m.Records.All() {
			for l := range r.Locators() {
				out = append(out, l.Address.String())
			}
		}
		return out
	}
	b.register(registering{proxy: true, merge: true, xtr: xtrID(1), records: []*mapping.Record{mixed("2001:db8::2", "198.51.100.9", "2001:db8::1", "192.0.2.9")}})
	ask := asking{eids: []mapping.EID{eid("2001:db8:1::1")}}
	text := order(b.ask(ask)[0].payload)
	wantStrings(t, "one xTR", text[:4], "192.0.2.9", "198.51.100.9", "2001:db8::1", "2001:db8::2")
	if len(text) != 5 {
		t.Errorf("the name is not behind them: %v", text)
	}
	m := b.register(registering{proxy: true, merge: true, xtr: xtrID(2), records: []*mapping.Record{mixed("2001:db8::", "203.0.113.1", "10.0.0.1")}})
	want := []string{"10.0.0.1", "192.0.2.9", "198.51.100.9", "203.0.113.1", "2001:db8::", "2001:db8::1", "2001:db8::2"}
	wantStrings(t, "two xTRs", order(b.ask(ask)[0].payload)[:7], want...)
	var notify []string
	for r := range m.Records.All() {
		for l := range r.Locators() {
			notify = append(notify, l.Address.String())
		}
	}
	wantStrings(t, "the Map-Notify", notify[:7], want...)
	// What the API and the configuration bring is sorted as well.
	r := rec("50.0.0.0/8", "2001:db8::1", "192.0.2.2", "192.0.2.1")
	if err := b.s.Put(t.Context(), []*mapping.Record{r}); err != nil {
		t.Fatal(err)
	}
	wantStrings(t, "over the API", order(b.ask(asking{eids: []mapping.EID{eid("50.0.0.1")}})[0].payload), "192.0.2.1", "192.0.2.2", "2001:db8::1")
}

// TestS4_ProxyReply: what an ETR may say of itself, a proxy must not.
func TestS4_ProxyReply(t *testing.T) {
	b := newBench(t, twoSites(), nil)
	r := rec("2001:db8:1::/48", "192.0.2.1", "192.0.2.2")
	r.Authoritative = true
	for i := range r.Locators {
		r.Locators[i].Flags = mapping.Local | mapping.Reachable
	}
	static := rec("50.0.0.0/8", "192.0.2.1")
	static.Authoritative, static.Locators[0].Flags = true, mapping.Local|mapping.Probed|mapping.Reachable
	b.register(registering{proxy: true, records: []*mapping.Record{r}})
	if err := b.s.Put(t.Context(), []*mapping.Record{static}); err != nil {
		t.Fatal(err)
	}
	for _, e := range []string{"2001:db8:1::1", "50.0.0.1"} {
		for _, d := range b.ask(asking{eids: []mapping.EID{eid(e)}}) {
			got := records(t, d.payload) // which looks at A, L and p
			if len(got) != 1 || len(got[0].Locators) == 0 {
				t.Errorf("%s: %v", e, texts(got))
			}
		}
	}
}

// TestS5_Probe: an RLOC-probe is for the ETR that has the RLOC.
func TestS5_Probe(t *testing.T) { probes(t, true) }

// TestR1_Probe: inside an ECM it must not be, and is dropped as well.
func TestR1_Probe(t *testing.T) { probes(t, false) }

func probes(t *testing.T, bare bool) {
	b := newBench(t, twoSites(), nil)
	b.register(registering{key: rightKey, records: []*mapping.Record{rec("10.2.0.0/16", "192.0.2.2")}})
	for i, e := range []string{"10.2.0.1", "10.9.0.1", "11.0.0.1"} { // an ETR's, ours, nobody's
		q := asking{eids: []mapping.EID{eid(e)}, bare: bare, change: func(m *wire.MapRequest) { m.Probe = true }}
		b.wantDrop(e, dropProbe, b.ask(q), uint64(i))
	}
}

// TestS6_NoKey: a site without a key can't register.
func TestS6_NoKey(t *testing.T) {
	for name, keys := range map[string][]auth.Key{"no key": nil, "an empty key": {{ID: 1, Algorithm: auth.SHA256}}} {
		cfg := twoSites()
		cfg.Sites[0].Keys = keys
		if _, err := New(t.Context(), cfg, nil); err == nil {
			t.Errorf("%s: a server was made", name)
		}
	}
	b := newBench(t, twoSites(), nil)
	b.s.sites.Load().all[0].rules.Store(new(rules))
	b.wantDrop("without keys", refusedUnknownKey, b.deliver(b.encode(registering{records: []*mapping.Record{rec("10.1.0.0/16", "192.0.2.1")}}), etr1, local4), 0)
}

// TestS10_NoITRRLOC: without an ITR-RLOC that we can send to there is nobody to
// reply to. What an ETR is to answer goes on.
func TestS10_NoITRRLOC(t *testing.T) { withoutITRRLOC(t, "10.3.0.1") }

// TestR6_NoITRRLOC: nor is there for a map-resolver.
func TestR6_NoITRRLOC(t *testing.T) { withoutITRRLOC(t, "11.0.0.1") }

func withoutITRRLOC(t *testing.T, ours string) {
	b := newBench(t, twoSites(), nil)
	b.register(registering{key: rightKey, records: []*mapping.Record{rec("10.2.0.0/16", "192.0.2.2"), rec("10.3.0.0/16", "192.0.2.2")}})
	for i, a := range []wire.Address{{}, mustAddress(t, []byte("\x00\x11name\x00")), wire.IPAddress(addr("224.0.0.1"))} {
		none := func(m *wire.MapRequest) { m.ITRRLOCs = []wire.Address{a} }
		b.wantDrop(ours, dropNoITRRLOC, b.ask(asking{eids: []mapping.EID{eid(ours)}, change: none}), uint64(i))
		wantStrings(t, "an ETR's", b.texts(b.ask(asking{eids: []mapping.EID{eid("10.2.0.1")}, change: none})), "forwarded to 192.0.2.2:4342")
	}
}

// TestR3_Hole: the least-specific prefix that overlaps nothing known, after
// every change of what is known.
func TestR3_Hole(t *testing.T) {
	b := newBench(t, Config{}, nil)
	b.wantAnswer("11.1.1.1", "0.0.0.0/0 ttl 15m natively-forward")
	for _, c := range []struct{ put, want string }{
		{"10.0.0.0/8", "11.0.0.0/8"},
		{"11.128.0.0/9", "11.0.0.0/9"},
		{"11.1.0.0/24", "11.1.1.0/24"},
		{"11.1.1.0/32", "11.1.1.1/32"},
	} {
		if err := b.s.Put(t.Context(), []*mapping.Record{rec(c.put, "192.0.2.1")}); err != nil {
			t.Fatal(err)
		}
		b.wantAnswer("11.1.1.1", c.want+" ttl 15m natively-forward")
	}
	if err := b.s.Delete(t.Context(), []mapping.EID{eid("11.1.1.0/32"), eid("11.1.0.0/24")}); err != nil {
		t.Fatal(err)
	}
	b.wantAnswer("11.1.1.1", "11.0.0.0/9 ttl 15m natively-forward")
	b.wantAnswer("2001:db8::1", "::/0 ttl 15m natively-forward")
}

// TestR5_NothingIsCached: every answer is what is known at that moment, and a
// question leaves nothing behind.
func TestR5_NothingIsCached(t *testing.T) {
	b := newBench(t, twoSites(), newMemStore())
	register := func(l string, ttl uint32) {
		b.register(registering{key: rightKey, proxy: true, records: []*mapping.Record{withTTL(ttl, rec("10.2.0.0/16", l))}})
	}
	for i := range 5 {
		b.wantAnswer("10.2.0.1", "10.2.0.0/16 ttl 1m natively-forward")
		l := fmt.Sprintf("192.0.2.%d", i+1)
		register(l, 60)
		table, commits := b.s.table.Load(), b.store.commitCount()
		b.wantAnswer("10.2.0.1", "10.2.0.0/16 ttl 60m, "+l+" 1/100 R")
		b.wantAnswer("10.2.0.1", "10.2.0.0/16 ttl 60m, "+l+" 1/100 R")
		if b.s.table.Load() != table || b.store.commitCount() != commits {
			t.Error("a question changed something")
		}
		register(l, 0)
	}
}
