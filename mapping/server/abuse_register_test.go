package server

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"
	"time"
	"unsafe"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/auth"
	"github.com/eidolon-lisp/eidolon/mapping/boltstore"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// state is all that a Map-Register could change.
func (b *bench) state() (out []string) {
	for e, v := range b.s.table.Load().All() {
		rec, origin := v.current()
		out = append(out, fmt.Sprint(e, " ", origin, " ", rec))
		if n, ok := v.(*node); ok {
			for _, x := range n.regs {
				out = append(out, fmt.Sprint(e, " by ", x.by, " of ", x.site.name, ": ", x.record, x.flags, x.expires.Load()))
			}
		}
	}
	for k, st := range b.s.nonces {
		out = append(out, fmt.Sprint(k, *st))
	}
	if b.store != nil {
		out = append(out, fmt.Sprint(b.store.commitCount()))
		out = append(out, b.store.registrations()...)
	}
	slices.Sort(out)
	return out
}

// wantNothing delivers msg, and fails unless it is dropped for this reason,
// leaves everything as it was and is not answered.
func (b *bench) wantNothing(what string, why counter, msg []byte) {
	b.t.Helper()
	before, dropped := b.state(), b.count(why)
	out := b.deliver(msg, etr2, local4)
	if len(out) > 0 {
		b.t.Errorf("%s: %v was sent", what, b.texts(out))
	}
	if got := b.count(why) - dropped; got != 1 {
		b.t.Errorf("%s: %v counted %d times, want once", what, why, got)
	}
	if after := b.state(); !slices.Equal(before, after) {
		b.t.Errorf("%s: something has changed:\n%v\n%v", what, before, after)
	}
}

// registered is a bench where both sites have registered.
func registered(t *testing.T) *bench {
	b := newBench(t, twoSites(), newMemStore())
	if b.register(registering{xtr: xtrID(1), proxy: true, records: []*mapping.Record{rec("10.1.0.0/16", "192.0.2.1"), rec("2001:db8:1::/48", "192.0.2.1")}}) == nil ||
		b.register(registering{key: rightKey, xtr: xtrID(1), proxy: true, records: []*mapping.Record{rec("10.2.0.0/16", "192.0.2.2")}}) == nil {
		t.Fatal("refused")
	}
	return b
}

// TestAbuse_ReplayedMapRegister: a captured Map-Register does nothing, from
// wherever it is sent, now, after the xTR has moved on, after a restart with the
// store on disk, and at another map-server: one that has a key of its own
// refuses it by its key, one with the same key by its nonce once it has heard
// the xTR itself.
func TestAbuse_ReplayedMapRegister(t *testing.T) {
	for _, id := range []mapping.XTRID{xtrID(1), {}} {
		t.Run(fmt.Sprintf("with an xTR-ID %v", id != mapping.XTRID{}), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "state.db")
			open := func(now time.Time) (*bench, func()) {
				store, err := boltstore.Open(path)
				if err != nil {
					t.Fatal(err)
				}
				b := &bench{t: t, now: now}
				cfg := twoSites()
				cfg.Now = func() time.Time { return b.now }
				if b.s, err = New(t.Context(), cfg, store); err != nil {
					t.Fatal(err)
				}
				b.r, b.strict = b.s.newReader(), true
				return b, func() { store.Close() }
			}
			message := func(nonce uint64, l string) []byte {
				return encodeRegister(t, registering{key: leftKey, nonce: nonce, xtr: id, proxy: true, records: []*mapping.Record{rec("2001:db8:1::/48", l)}})
			}
			replay := func(b *bench, when string, msg []byte) {
				t.Helper()
				for _, src := range []netip.AddrPort{etr1, etr2, netip.MustParseAddrPort("203.0.113.66:9")} {
					before := b.count(refusedReplay)
					b.wantDrop(when+" from "+src.String(), refusedReplay, b.deliver(msg, src, local4), before)
				}
			}
			b, closeStore := open(start)
			captured := message(1000, "192.0.2.66")
			b.deliver(captured, etr1, local4)
			b.now = b.now.Add(time.Second)
			last := message(1001, "192.0.2.1")
			if len(b.deliver(last, etr1, local4)) != 1 {
				t.Fatal("refused")
			}
			replay(b, "now", captured)
			b.wantAnswer("2001:db8:1::1", "2001:db8:1::/48 ttl 1440m, 192.0.2.1 1/100 R")
			b.pass(time.Second)
			closeStore()

			b, closeStore = open(b.now)
			replay(b, "after a restart", captured)
			b.wantAnswer("2001:db8:1::1", "2001:db8:1::/48 ttl 1440m, 192.0.2.1 1/100 R")
			b.pass(registrationTimeout + time.Second)
			replay(b, "after a restart, when the registration is over", captured)
			replay(b, "the last one, when the registration is over", last)
			b.wantAnswer("2001:db8:1::1", "2001:db8:1::/48 ttl 1m natively-forward")
			closeStore()
			b, closeStore = open(b.now)
			replay(b, "after another restart", last)
			b.pass(time.Hour)
			replay(b, "an hour later", last)
			closeStore()

			// The second map-server.
			own := twoSites()
			own.Sites[0].Keys = []auth.Key{{ID: 1, Algorithm: auth.SHA256HKDF, Secret: []byte("left's secret with the other map-server")}}
			second := newBench(t, own, nil)
			second.wantNothing("a key of its own", refusedDigest, captured)
			second = newBench(t, twoSites(), nil)
			second.deliver(message(1002, "192.0.2.1"), etr1, local4) // xTRs count on for each map-server
			replay(second, "the same key", captured)
			replay(second, "the same key", last)
		})
	}
}

// TestAbuse_RegisterOtherSitesPrefix: no key of one site registers for another.
func TestAbuse_RegisterOtherSitesPrefix(t *testing.T) {
	b := registered(t)
	b.wantNothing("the prefix", refusedDigest, b.encode(registering{records: []*mapping.Record{rec("10.2.0.0/16", "203.0.113.66")}}))
	b.wantNothing("a more-specific", refusedDigest, b.encode(registering{records: []*mapping.Record{rec("10.1.64.0/24", "203.0.113.66")}}))
	b.wantNothing("a withdrawal", refusedDigest, b.encode(registering{xtr: xtrID(1), records: []*mapping.Record{withTTL(0, rec("10.2.0.0/16"))}}))
	b.wantNothing("among its own", refusedSeveralSites, b.encode(registering{records: []*mapping.Record{rec("10.1.0.0/16", "203.0.113.66"), rec("10.2.0.0/16", "203.0.113.66")}}))
	b.wantNothing("in another instance", refusedNoSite, b.encode(registering{records: []*mapping.Record{rec("[8]10.1.0.0/16", "203.0.113.66")}}))
}

// TestAbuse_RegisterCoveringPrefix: a less-specific would draw what is the
// neighbours'.
func TestAbuse_RegisterCoveringPrefix(t *testing.T) {
	b := registered(t)
	for _, e := range []string{"10.0.0.0/8", "10.0.0.0/15", "2001:db8::/32", "2001:db8::/47", "[7]10.0.0.0/15"} {
		b.wantNothing(e, refusedNoSite, b.encode(registering{records: []*mapping.Record{rec(e, "203.0.113.66")}}))
	}
}

// TestAbuse_RegisterDefaultRoute: least of all everything.
func TestAbuse_RegisterDefaultRoute(t *testing.T) {
	b := registered(t)
	for _, e := range []string{"0.0.0.0/0", "::/0", "[7]0.0.0.0/0", "0.0.0.0/1"} {
		b.wantNothing(e, refusedNoSite, b.encode(registering{records: []*mapping.Record{rec(e, "203.0.113.66")}}))
	}
	b.wantAnswer("192.0.2.200", "128.0.0.0/1 ttl 15m natively-forward")
}

// TestAbuse_RegisterMoreSpecificNotAllowed: nor a part of its own, where the
// operator did not allow it.
func TestAbuse_RegisterMoreSpecificNotAllowed(t *testing.T) {
	b := registered(t)
	for _, e := range []string{"2001:db8:1::/49", "2001:db8:1::1/128", "10.1.128.0/21", "10.1.143.255/32"} {
		b.wantNothing(e, refusedMoreSpecific, b.encode(registering{records: []*mapping.Record{rec(e, "203.0.113.66")}}))
	}
	b.wantNothing("many", refusedTooMany, b.encode(registering{key: rightKey, records: func() (rs []*mapping.Record) {
		for i := range 16 {
			rs = append(rs, rec(fmt.Sprintf("10.1.%d.0/24", 64+i), "203.0.113.66"))
		}
		return rs
	}()}))
}

// TestAbuse_AllOrNothing: a message with good and forbidden records does
// nothing, wherever the forbidden one stands.
func TestAbuse_AllOrNothing(t *testing.T) {
	good := func() []*mapping.Record {
		return []*mapping.Record{rec("10.1.0.0/16", "192.0.2.77"), rec("10.1.9.0/24", "192.0.2.77"), withTTL(0, rec("2001:db8:1::/48"))}
	}
	for _, c := range []struct {
		name string
		bad  *mapping.Record
		why  counter
	}{
		{"another site's", rec("10.2.0.0/16", "192.0.2.77"), refusedSeveralSites},
		{"nobody's", rec("11.0.0.0/8", "192.0.2.77"), refusedNoSite},
		{"the default route", rec("0.0.0.0/0", "192.0.2.77"), refusedNoSite},
		{"a more-specific", rec("10.1.128.0/24", "192.0.2.77"), refusedMoreSpecific},
		{"a locator that is none", rec("10.1.10.0/24", "224.0.0.1"), refusedLocator},
		{"an older version", versioned(3, rec("[7]10.1.0.0/16", "192.0.2.77")), refusedMapVersion},
	} {
		for at := range len(good()) + 1 {
			b := registered(t)
			b.register(registering{xtr: xtrID(1), records: []*mapping.Record{versioned(4, rec("[7]10.1.0.0/16", "192.0.2.1"))}})
			b.wantNothing(fmt.Sprintf("%s at place %d", c.name, at), c.why, b.encode(registering{xtr: xtrID(1), records: slices.Insert(good(), at, c.bad)}))
			b.check()
		}
	}
}

// TestAbuse_AlgorithmZero: no authentication is none, whatever is in its place.
func TestAbuse_AlgorithmZero(t *testing.T) {
	b := registered(t)
	recs, err := wire.NewRecords(rec("10.1.0.0/16", "203.0.113.66"))
	if err != nil {
		t.Fatal(err)
	}
	for _, octets := range []int{0, 12, 16, 20, 32} {
		for id := range 4 {
			m := wire.MapRegister{WantNotify: true, Nonce: 1 << 62, Auth: wire.Authentication{KeyID: uint8(id), Data: make([]byte, octets)}, Records: recs}
			msg, err := m.AppendBinary(nil)
			if err != nil {
				t.Fatal(err)
			}
			b.wantNothing(fmt.Sprintf("%d octets, key-id %d", octets, id), refusedAlgorithm, msg)
		}
	}
}

// TestAbuse_Downgrade: an algorithm below the site's minimum is refused even
// with the right secret, and a message whose algorithm was changed on the way is
// no longer authentic.
func TestAbuse_Downgrade(t *testing.T) {
	b := registered(t)
	records := []*mapping.Record{rec("10.1.0.0/16", "203.0.113.66")}
	b.wantNothing("SHA-1", refusedAlgorithm, b.encode(registering{key: auth.Key{ID: 1, Algorithm: auth.SHA1, Secret: leftKey.Secret}, records: records}))
	for _, k := range []auth.Key{leftKey, {ID: 2, Algorithm: auth.SHA256, Secret: []byte("left's next secret")}} {
		good := b.encode(registering{key: k, records: records})
		for a := range 256 {
			if uint8(a) == uint8(k.Algorithm) {
				continue
			}
			msg := bytes.Clone(good)
			msg[13] = uint8(a)
			why := refusedAlgorithm
			if a == int(auth.SHA256) || a == int(auth.SHA256HKDF) {
				why = refusedDigest
			}
			b.wantNothing(fmt.Sprintf("%v as algorithm %d", k, a), why, msg)
		}
	}
	cfg := twoSites()
	cfg.Sites[0].MinAlgorithm = auth.SHA256HKDF
	b = newBench(t, cfg, newMemStore())
	b.wantNothing("below HKDF", refusedAlgorithm, b.encode(registering{key: auth.Key{ID: 2, Algorithm: auth.SHA256, Secret: []byte("left's next secret")}, records: records}))
}

// TestAbuse_TruncatedDigest: a short digest would be quick to guess. Only the
// two deployed lengths are taken.
func TestAbuse_TruncatedDigest(t *testing.T) {
	b := registered(t)
	recs, err := wire.NewRecords(rec("10.2.0.0/16", "203.0.113.66"))
	if err != nil {
		t.Fatal(err)
	}
	for octets := range 40 {
		m := wire.MapRegister{WantNotify: true, Nonce: 1 << 62, Auth: wire.Authentication{KeyID: rightKey.ID, Algorithm: uint8(auth.SHA256), Data: make([]byte, octets)}, Records: recs}
		msg, err := m.AppendBinary(nil)
		if err != nil {
			t.Fatal(err)
		}
		mac := hmac.New(sha256.New, rightKey.Secret)
		mac.Write(msg)
		copy(msg[16:16+octets], append(mac.Sum(nil), make([]byte, 8)...)) // the right digest, as far as it goes
		if octets == 16 || octets == 32 {
			msg[16+octets-1] ^= 1
			b.wantNothing(fmt.Sprintf("%d octets, the last one wrong", octets), refusedDigest, msg)
			continue
		}
		b.wantNothing(fmt.Sprintf("%d octets", octets), refusedAlgorithm, msg)
	}
}

// TestAbuse_WrongKeyID: a key-id that the site does not have, or has for
// another secret.
func TestAbuse_WrongKeyID(t *testing.T) {
	b := registered(t)
	for id := range 256 {
		if id == int(leftKey.ID) {
			continue
		}
		why := refusedUnknownKey
		if id == 2 {
			why = refusedDigest
		}
		k := leftKey
		k.ID = uint8(id)
		b.wantNothing(fmt.Sprintf("key-id %d", id), why, b.encode(registering{key: k, records: []*mapping.Record{rec("10.1.0.0/16", "203.0.113.66")}}))
	}
}

// nested is an IPv4 address inside 1000 Instance-ID LCAFs.
func nested() []byte {
	a := []byte{0, 1, 10, 1, 0, 0}
	for range 1000 {
		h := []byte{0x40, 0x03, 0, 0, 2, 0, 0, 0, 0, 0, 0, 7}
		binary.BigEndian.PutUint16(h[6:], uint16(4+len(a)))
		a = append(h, a...)
	}
	return a
}

// TestAbuse_NestedLCAF: an address 1000 deep is refused before anything is done
// with it, wherever it stands.
func TestAbuse_NestedLCAF(t *testing.T) {
	b := registered(t)
	deep := nested()
	request := []byte{0x10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1}
	withRLOC := []byte{0, 1, 192, 0, 2, 10}
	for name, msg := range map[string][]byte{
		"the source EID": slices.Concat(request, deep, withRLOC, []byte{0, 32, 0, 1, 10, 1, 0, 1}),
		"an ITR-RLOC":    slices.Concat(request, []byte{0, 0}, deep, []byte{0, 32, 0, 1, 10, 1, 0, 1}),
		"the EID":        slices.Concat(request, []byte{0, 0}, withRLOC, []byte{0, 32}, deep),
	} {
		b.wantNothing(name, dropMalformed, msg)
	}
	m := wire.MapRegister{WantNotify: true, Nonce: 1 << 62, Auth: leftKey.Template()}
	head, err := m.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	head[3] = 1
	for name, record := range map[string][]byte{
		"a registered EID":     slices.Concat([]byte{0, 0, 5, 0, 0, 16, 0, 0, 0, 0}, deep),
		"a registered locator": slices.Concat([]byte{0, 0, 5, 0, 1, 16, 0, 0, 0, 0, 0, 1, 10, 1, 0, 0, 1, 1, 255, 0, 0, 1}, deep),
	} {
		msg := slices.Concat(head, record)
		if err := auth.Sign(msg, leftKey); err != nil {
			t.Fatal(err)
		}
		b.wantNothing(name, dropMalformed, msg)
	}
}

// TestAbuse_255RecordsClaimed: counts are believed only as far as there are
// octets, and cost nothing beyond.
func TestAbuse_255RecordsClaimed(t *testing.T) {
	b := registered(t)
	request := encodeRequest(t, asking{eids: []mapping.EID{eid("10.9.0.1")}, bare: true}.defaults())
	request[3] = 255
	reg := encodeRegister(t, registering{key: leftKey, nonce: 1 << 62, records: []*mapping.Record{rec("10.1.0.0/16")}})
	reg[3] = 255
	locators := encodeRegister(t, registering{key: leftKey, nonce: 1 << 62, records: []*mapping.Record{rec("10.1.0.0/16")}})
	locators[16+16+4] = 255
	itrs := bytes.Clone(request)
	itrs[2] |= 0x1f
	for name, msg := range map[string][]byte{"Map-Request": request, "ITR-RLOCs": itrs, "Map-Register": reg, "locators": locators} {
		if len(msg) > 60 {
			t.Fatalf("%s: %d octets", name, len(msg))
		}
		b.wantNothing(name, dropMalformed, msg)
		if allocs := testing.AllocsPerRun(100, func() { b.r.handle(b.now, msg, etr2, local4) }); allocs > 20 {
			t.Errorf("%s: %.0f allocations", name, allocs)
		}
	}
	// As many as are claimed are too many as well.
	var q asking
	for i := range 255 {
		q.eids = append(q.eids, mapping.HostEID(0, netip.AddrFrom4([4]byte{10, 9, 0, byte(i)})))
	}
	b.wantNothing("255 EIDs", dropTooManyRecords, encodeRequest(t, q.defaults()))
}

// TestAbuse_ManyXTRIDs: who has a site's key and invents xTR-IDs fills that
// site's limits, and no other's.
func TestAbuse_ManyXTRIDs(t *testing.T) {
	cfg := twoSites()
	cfg.Sites[0].MaxRegistrations = 1000
	b := newBench(t, cfg, newMemStore())
	const n = 3 * maxRegistrants
	for i := range n {
		b.now = b.now.Add(time.Millisecond)
		var id mapping.XTRID
		binary.BigEndian.PutUint32(id[:], uint32(i+1))
		b.deliver(b.encode(registering{xtr: id, merge: i%2 == 0, quiet: true, records: []*mapping.Record{rec("10.1.0.0/16", "192.0.2.1")}}), etr1, local4)
		if i == n/2 {
			if b.register(registering{key: rightKey, xtr: xtrID(1), records: []*mapping.Record{rec("10.2.0.0/16", "192.0.2.2")}}) == nil {
				t.Error("the other site was refused")
			}
		}
	}
	left := b.s.sites.Load().all[0]
	if got := len(left.xtrs); got > maxRegistrants {
		t.Errorf("%d xTRs are remembered, the limit is %d", got, maxRegistrants)
	}
	if got := len(b.s.nonces); got > maxRegistrants+3 {
		t.Errorf("%d nonces are remembered", got)
	}
	if got := left.registrations.Load(); got > 1000 {
		t.Errorf("%d registrations, the limit is 1000", got)
	}
	b.s.tick(t.Context(), b.now)
	stored := 0
	for it := range maps.Values(b.store.items) {
		if it.Kind == mapping.ItemNonce {
			stored++
		}
	}
	if stored > maxRegistrants+3 {
		t.Errorf("%d nonces are in the store", stored)
	}
	if b.register(registering{key: rightKey, xtr: xtrID(1), records: []*mapping.Record{rec("10.2.0.0/16", "192.0.2.2")}}) == nil {
		t.Error("the other site's xTR was forgotten, or its limit is used up")
	}
	b.check()
}

// jump moves the wall clock of t by d and leaves its monotonic reading, as
// happens to a program when somebody sets the clock.
func jump(t *testing.T, at time.Time, d time.Duration) time.Time {
	t.Helper()
	after := at
	// The first word of a Time with a monotonic reading holds seconds from
	// bit 30 on.
	*(*uint64)(unsafe.Pointer(&after)) += uint64(int64(d/time.Second)) << 30
	if after.Sub(at) != 0 || after.Unix()-at.Unix() != int64(d/time.Second) {
		t.Fatalf("%v is no jump by %v from %v", after, d, at)
	}
	return after
}

// TestAbuse_ClockJumps: whoever controls the server's NTP must not end all
// registrations, or keep them alive.
func TestAbuse_ClockJumps(t *testing.T) {
	if s, err := New(t.Context(), Config{}, nil); err != nil || jump(t, s.clock(), time.Hour).Sub(s.clock()) > time.Minute {
		t.Fatalf("the default clock follows the time of day: %v", err)
	}
	const year = 365 * 24 * time.Hour
	for _, d := range []time.Duration{time.Hour, -time.Hour, year, -year} {
		t.Run(d.String(), func(t *testing.T) {
			records := func() []*mapping.Record { return []*mapping.Record{rec("2001:db8:1::/48", "192.0.2.1")} }
			alive := func(b *bench, want bool) {
				t.Helper()
				if got := len(b.s.expiry) > 0; got != want {
					t.Errorf("at %v the registration is there: %v, want %v", b.now, got, want)
				}
			}
			b := newBenchAt(t, twoSites(), newMemStore(), time.Now())
			b.register(registering{proxy: true, records: records()})
			b.pass(time.Minute)
			b.now = jump(t, b.now, d)
			b.pass(119 * time.Second)
			alive(b, true)
			b.pass(time.Second)
			alive(b, false)
			// Registering, refreshing and the limits go on as before.
			for range 5 {
				if b.register(registering{proxy: true, records: records()}) == nil {
					t.Error("refused after the jump")
				}
				b.pass(time.Minute)
				alive(b, true)
			}
			if got := len(b.ask(asking{eids: []mapping.EID{eid("2001:db8:1::1")}})); got != 1 {
				t.Error("no answer after the jump")
			}
			// A server that starts with another time of day than the one
			// before has the registrations for three minutes.
			b.now = jump(t, b.now, -2*d)
			b = b.restart(twoSites())
			alive(b, true)
			b.pass(registrationTimeout - time.Second)
			alive(b, true)
			b.pass(time.Second)
			alive(b, false)
			if st, ok := b.s.Lookup(eid("2001:db8:1::1")); !ok || st.Origin != OriginNone {
				t.Errorf("it is still there: %+v", st)
			}
			b.check()
		})
	}
}

// TestAbuse_NotifyReflection: a captured Map-Register, sent again from a forged
// source while it is the xTR's last, is answered with no more than 1.5 times its
// octets, however much was merged into its record.
func TestAbuse_NotifyReflection(t *testing.T) {
	many := func(net byte) *mapping.Record {
		r := &mapping.Record{EID: eid("2001:db8:1::/48"), TTL: 60}
		for i := range 120 {
			r.Locators = append(r.Locators, mapping.MakeLocator(netip.AddrFrom4([4]byte{192, 0, net, byte(i)}), 1, 1))
		}
		return r
	}
	b, l := strictBench(t, twoSites(), nil), newLedger()
	for id := range byte(2) {
		if b.register(registering{merge: true, xtr: xtrID(id + 1), records: []*mapping.Record{many(id)}}) == nil {
			t.Fatal("refused")
		}
	}
	captured := b.encode(registering{merge: true, xtr: xtrID(3), records: []*mapping.Record{rec("2001:db8:1::/48", "192.0.2.1")}})
	victim := netip.MustParseAddrPort("198.18.0.66:4342")
	for range 1000 {
		if m := b.notify(l.deliver(b, captured, victim.Addr(), victim, local4), leftKey); m == nil {
			t.Fatal("not answered at all: the test is not about anything")
		}
		if 2*l.out[victim.Addr()] > 3*l.in[victim.Addr()] {
			t.Fatalf("%d octets for %d", l.out[victim.Addr()], l.in[victim.Addr()])
		}
	}
	l.check(t, victim.Addr())
	if b.count(reducedMapNotifies) == 0 {
		t.Error("no Map-Notify was reduced: the test is not about anything")
	}
	// What they save is enough for the whole set now and then.
	if len(b.deliver(b.encode(registering{merge: true, xtr: xtrID(3), records: []*mapping.Record{rec("2001:db8:1::/48", "192.0.2.2")}}), etr1, local4)) != 1 {
		t.Error("the xTR itself is not answered")
	}
}
