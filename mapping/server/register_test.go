package server

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/auth"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

func texts(recs []*mapping.Record) (out []string) {
	for _, r := range recs {
		out = append(out, r.String())
	}
	return out
}

func notified(t *testing.T, m *wire.MapNotify) (out []string) {
	t.Helper()
	if m == nil {
		t.Fatal("no Map-Notify")
	}
	for w := range m.Records.All() {
		r, err := w.Mapping()
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, r.String())
	}
	return out
}

func wantStrings(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s:\n got %s\nwant %s", what, strings.Join(got, "\n     "), strings.Join(want, "\n     "))
	}
}

func TestRegisterAndNotify(t *testing.T) {
	b := newBench(t, twoSites(), newMemStore())
	r := rec("10.1.0.0/16", "192.0.2.1")
	r.Authoritative = true
	r.Locators[0].Flags |= mapping.Local
	m := b.register(registering{nonce: 77, proxy: true, xtr: xtrID(1), records: []*mapping.Record{r}})
	wantStrings(t, "the Map-Notify", notified(t, m), "10.1.0.0/16 ttl 1440m, 192.0.2.1 1/100 LR")
	if m.Nonce != 77 || !m.HasXTRID || m.XTRID != xtrID(1) || m.SiteID != 5 || m.Auth.KeyID != 1 || m.Auth.Algorithm != 3 || len(m.Auth.Data) != 16 {
		t.Errorf("the Map-Notify has %+v", m)
	}
	// The fields that a map-server must not answer with are gone.
	b.wantAnswer("10.1.0.1", "10.1.0.0/16 ttl 1m, 192.0.2.1 1/100 R", "10.1.64.0/20 ttl 1m natively-forward", "10.1.128.0/20 ttl 1m natively-forward")
	wantStrings(t, "the store", b.store.registrations(), "10.1.0.0/16 ttl 1440m, 192.0.2.1 1/100 R by "+mapping.Registrant{XTRID: xtrID(1)}.String())
	if n, ok := b.store.nonce("left", mapping.Registrant{XTRID: xtrID(1), SiteID: 5}, 1); !ok || n != 77 {
		t.Errorf("the store has the nonce %d, %v", n, ok)
	}
	b.check()

	if b.register(registering{quiet: true, records: []*mapping.Record{r}}) != nil {
		t.Error("a Map-Notify that nobody wanted")
	}
}

// TestA9_AuthenticationData: the digest of the Map-Notify is as long as that of
// the Map-Register was, and by the same key and algorithm.
func TestA9_AuthenticationData(t *testing.T) {
	for _, c := range []struct {
		key       auth.Key
		truncated bool
		want      int
	}{
		{rightKey, false, 32}, {rightKey, true, 16},
		{auth.Key{ID: 1, Algorithm: auth.SHA256HKDF, Secret: rightKey.Secret}, false, 16},
	} {
		b := newBench(t, twoSites(), nil)
		m := b.register(registering{key: c.key, truncated: c.truncated, records: []*mapping.Record{rec("10.2.0.0/16", "192.0.2.1")}})
		if m == nil || len(m.Auth.Data) != c.want || m.Auth.Algorithm != uint8(c.key.Algorithm) {
			t.Errorf("%v, truncated %v: Map-Notify %+v", c.key, c.truncated, m)
		}
	}
	cfg := twoSites()
	cfg.Sites[1].MinAlgorithm = auth.SHA1
	b := newBench(t, cfg, nil)
	if m := b.register(registering{key: weakKey, records: []*mapping.Record{rec("10.2.0.0/16", "192.0.2.1")}}); m == nil {
		t.Error("SHA-1 was refused where the site allows it")
	}
}

// TestS3_Refusals: what is refused has its counter, leaves table and store as they
// were, and is not answered.
func TestS3_Refusals(t *testing.T) {
	ok := rec("10.1.0.0/16", "192.0.2.1")
	forged := leftKey
	forged.Secret = []byte("guessed")
	bad := func(f func(*mapping.Record)) *mapping.Record {
		r := ok.Clone()
		f(r)
		return r
	}
	for _, c := range []struct {
		name string
		g    registering
		want counter
	}{
		{"no records", registering{}, refusedNoRecords},
		{"an EID that is nobody's", registering{records: []*mapping.Record{ok, rec("11.0.0.0/8", "192.0.2.1")}}, refusedNoSite},
		{"a less-specific", registering{records: []*mapping.Record{rec("10.0.0.0/8", "192.0.2.1")}}, refusedNoSite},
		{"another instance", registering{records: []*mapping.Record{rec("[9]10.1.0.0/16", "192.0.2.1")}}, refusedNoSite},
		{"static is no permission", registering{records: []*mapping.Record{rec("10.9.0.0/16", "192.0.2.1")}}, refusedNoSite},
		{"a more-specific that is not accepted", registering{records: []*mapping.Record{rec("2001:db8:1:1::/64", "192.0.2.1")}}, refusedMoreSpecific},
		{"the longest prefix decides", registering{records: []*mapping.Record{rec("10.1.128.0/24", "192.0.2.1")}}, refusedMoreSpecific},
		{"another site's", registering{records: []*mapping.Record{rec("10.2.0.0/16", "192.0.2.1")}}, refusedDigest},
		{"another site's more-specific", registering{records: []*mapping.Record{rec("10.1.64.0/24", "192.0.2.1")}}, refusedDigest},
		{"two sites'", registering{records: []*mapping.Record{ok, rec("10.2.0.0/16", "192.0.2.1")}}, refusedSeveralSites},
		{"a wrong secret", registering{key: forged, records: []*mapping.Record{ok}}, refusedDigest},
		{"an unknown key-id", registering{key: auth.Key{ID: 8, Algorithm: auth.SHA256, Secret: leftKey.Secret}, records: []*mapping.Record{ok}}, refusedUnknownKey},
		{"a weak algorithm", registering{key: weakKey, records: []*mapping.Record{rec("10.2.0.0/16", "192.0.2.1")}}, refusedAlgorithm},
		{"a multicast locator", registering{records: []*mapping.Record{ok, rec("10.1.1.0/24", "224.0.0.5")}}, refusedLocator},
		{"a loopback locator from afar", registering{records: []*mapping.Record{rec("10.1.1.0/24", "127.0.0.1")}}, refusedLocator},
		{"the broadcast address", registering{records: []*mapping.Record{bad(func(r *mapping.Record) { r.Locators[0] = loc("255.255.255.255") })}}, refusedLocator},
	} {
		b := newBench(t, twoSites(), newMemStore())
		b.register(registering{proxy: true, records: []*mapping.Record{rec("10.1.0.0/16", "192.0.2.99")}})
		b.register(registering{key: rightKey, proxy: true, records: []*mapping.Record{rec("10.2.0.0/16", "192.0.2.99")}})
		table, stored := b.s.table.Load(), b.store.commitCount()
		msg := b.encode(c.g)
		b.wantDrop(c.name, c.want, b.deliver(msg, etr1, local4), 0)
		if b.s.table.Load() != table || b.store.commitCount() != stored {
			t.Errorf("%s: something has changed", c.name)
		}
		b.check()
	}
	b := newBench(t, twoSites(), newMemStore())
	msg := b.encode(registering{records: []*mapping.Record{ok}})
	b.wantDrop("cut", dropMalformed, b.deliver(msg[:len(msg)-1], etr1, local4), 0)
	for i := range msg {
		flipped := slices.Clone(msg)
		flipped[i] ^= 0x04
		if out := b.deliver(flipped, etr1, local4); len(out) > 0 {
			t.Errorf("octet %d changed, and there was an answer", i)
		}
	}
	if len(b.s.expiry) > 0 {
		t.Error("a changed Map-Register was accepted")
	}
	// A name is no EID, whatever else is in the message.
	name := wire.MapRegister{Nonce: 1, Auth: leftKey.Template()}
	withName, err := name.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	withName[3] = 1
	withName = append(withName, "\x00\x00\x00\x05\x00\x00\x00\x00\x00\x00\x00\x11name\x00"...)
	if err := auth.Sign(withName, leftKey); err != nil {
		t.Fatal(err)
	}
	before := b.count(refusedNotIPEID)
	b.wantDrop("a name for an EID", refusedNotIPEID, b.deliver(withName, etr1, local4), before)
}

// TestNotifyPort is the rule in the package documentation.
func TestNotifyPort(t *testing.T) {
	for _, c := range []struct{ src, locator, want string }{
		{"192.0.2.1:4342", "192.0.2.1", "192.0.2.1:4342"},
		{"192.0.2.1:4342", "192.0.2.2", "192.0.2.1:4342"},
		{"192.0.2.1:5555", "192.0.2.1", "192.0.2.1:4342"},
		{"192.0.2.1:5555", "192.0.2.2", "192.0.2.1:5555"}, // behind a NAT
		{"127.0.0.1:5555", "192.0.2.2", "127.0.0.1:5555"},
	} {
		b := newBench(t, twoSites(), nil)
		out := b.deliver(b.encode(registering{records: []*mapping.Record{rec("10.1.0.0/16", c.locator)}}), netip.MustParseAddrPort(c.src), local4)
		if len(out) != 1 || out[0].dst.String() != c.want || out[0].src != local4 {
			t.Errorf("from %s with locator %s: %+v, want to %s", c.src, c.locator, out, c.want)
		}
	}
}

func TestS2_Replay(t *testing.T) {
	b := newBench(t, twoSites(), newMemStore())
	one := []*mapping.Record{rec("10.1.0.0/16", "192.0.2.1")}
	two := []*mapping.Record{rec("10.1.0.0/16", "192.0.2.2")}
	first := b.encode(registering{nonce: 50, records: one})
	second := b.encode(registering{nonce: 60, records: two})
	sameNonce := b.encode(registering{nonce: 60, records: one})
	b.deliver(first, etr1, local4)
	b.deliver(second, etr1, local4)
	stored := b.store.commitCount()

	b.wantDrop("an old one", refusedReplay, b.deliver(first, etr1, local4), 0)
	b.wantDrop("a new one with an old nonce", refusedReplay, b.deliver(b.encode(registering{nonce: 59, records: one}), etr1, local4), 1)
	b.wantDrop("the same nonce, something else", refusedReplay, b.deliver(sameNonce, etr1, local4), 2)
	b.wantAnswer("10.1.0.1", "forwarded to 192.0.2.2:4342")
	// The last one again: a retransmission, notified and not processed.
	for range 3 {
		wantStrings(t, "a retransmission", notified(t, b.notify(b.deliver(second, etr1, local4), leftKey)), "10.1.0.0/16 ttl 1440m, 192.0.2.2 1/100 R")
	}
	if got := b.count(repeatedMapRegisters); got != 3 {
		t.Errorf("%d retransmissions counted, want 3", got)
	}
	if b.store.commitCount() != stored {
		t.Error("a retransmission went to the store")
	}
	b.pass(registrationTimeout + time.Second)
	if out := b.deliver(second, etr1, local4); len(b.s.expiry) != 0 || len(out) != 0 {
		t.Errorf("a retransmission renewed what had expired, or acknowledged it: %v", b.texts(out))
	}

	// The source address of an xTR without an xTR-ID proves nothing.
	before := b.count(refusedReplay)
	b.wantDrop("an old one from elsewhere", refusedReplay, b.deliver(first, etr2, local4), before)

	// Nonces are of one xTR, one key and one site.
	for name, g := range map[string]registering{
		"another RLOC":   {nonce: 70, src: etr2},
		"an xTR-ID":      {nonce: 5, xtr: xtrID(1)},
		"another xTR-ID": {nonce: 5, xtr: xtrID(2)},
		"another key":    {nonce: 5, key: auth.Key{ID: 2, Algorithm: auth.SHA256, Secret: []byte("left's next secret")}},
	} {
		g.records = one
		if b.register(g) == nil {
			t.Errorf("%s: refused", name)
		}
	}
	if b.register(registering{nonce: 5, key: rightKey, records: []*mapping.Record{rec("10.2.0.0/16", "192.0.2.1")}}) == nil {
		t.Error("another site: refused")
	}

	// And they survive.
	b.s.tick(t.Context(), b.now)
	b = b.restart(twoSites())
	b.wantDrop("after a restart", refusedReplay, b.deliver(first, etr1, local4), 0)
	b.wantDrop("after a restart, expired", refusedReplay, b.deliver(second, etr1, local4), 1)
	if b.register(registering{nonce: 71, records: one}) == nil {
		t.Error("the next one was refused after a restart")
	}
}

// TestS2_RetransmissionAfterRestart: the server died before the Map-Notify got
// through. What was asked for is there, so the ETR hears that.
func TestS2_RetransmissionAfterRestart(t *testing.T) {
	b := newBench(t, twoSites(), newMemStore())
	b.register(registering{records: []*mapping.Record{rec("10.1.1.0/24", "192.0.2.1")}})
	msg := b.encode(registering{nonce: 5000, records: []*mapping.Record{rec("10.1.0.0/16", "192.0.2.1"), withTTL(0, rec("10.1.1.0/24"))}})
	b.deliver(msg, etr1, local4)
	b = b.restart(twoSites())
	if b.notify(b.deliver(msg, etr1, local4), leftKey) == nil || b.count(repeatedMapRegisters) != 1 {
		t.Error("the retransmission was not notified")
	}
	other := b.encode(registering{nonce: 5000, records: []*mapping.Record{rec("10.1.0.0/16", "192.0.2.9")}})
	b = b.restart(twoSites())
	b.wantDrop("the nonce with something else", refusedReplay, b.deliver(other, etr1, local4), 0)
	b.check()
}

// TestS2_ForgottenXTRs: what a site's xTRs leave in memory is bounded, and a
// forgotten one's Map-Registers can't be replayed.
func TestS2_ForgottenXTRs(t *testing.T) {
	b := newBench(t, twoSites(), newMemStore())
	records := []*mapping.Record{rec("10.1.0.0/16", "192.0.2.1")}
	source := func(i int) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, byte(i >> 8), byte(i)}), 4342)
	}
	var first []byte
	for i := range maxRegistrants + 10 {
		b.now = b.now.Add(time.Millisecond)
		msg := b.encode(registering{records: records, quiet: true})
		if i == 0 {
			first = msg
		}
		b.deliver(msg, source(i), local4)
	}
	if got := b.count(acceptedMapRegisters); got != maxRegistrants+10 {
		t.Fatalf("%d accepted", got)
	}
	if got := len(b.s.nonces); got > maxRegistrants+1 {
		t.Errorf("%d nonces in memory", got)
	}
	for range 2 {
		b.wantDrop("a forgotten xTR's", refusedReplay, b.deliver(first, source(0), local4), 0)
		b.s.tick(t.Context(), b.now)
		b = b.restart(twoSites())
	}
	if got := len(b.s.sites.Load().all[0].xtrs); got != maxRegistrants {
		t.Errorf("%d registrants after a restart, want %d", got, maxRegistrants)
	}
	if b.register(registering{src: source(0), records: records}) == nil {
		t.Error("a forgotten xTR with a new nonce was refused")
	}
}

// TestReplace: without the merge bit, the last registration is the truth.
func TestReplace(t *testing.T) {
	b := newBench(t, twoSites(), newMemStore())
	b.register(registering{proxy: true, records: []*mapping.Record{rec("2001:db8:1::/48", "192.0.2.1")}})
	b.register(registering{proxy: true, src: etr2, records: []*mapping.Record{rec("2001:db8:1::/48", "192.0.2.2")}})
	b.wantAnswer("2001:db8:1::1", "2001:db8:1::/48 ttl 1440m, 192.0.2.2 1/100 R")
	wantStrings(t, "the store", b.store.registrations(), "2001:db8:1::/48 ttl 1440m, 192.0.2.2 1/100 R by 192.0.2.2")
	// The first one's withdrawal is not about the second one's registration.
	if b.register(registering{records: []*mapping.Record{withTTL(0, rec("2001:db8:1::/48"))}}) == nil {
		t.Error("a withdrawal of nothing was not notified")
	}
	b.wantAnswer("2001:db8:1::1", "2001:db8:1::/48 ttl 1440m, 192.0.2.2 1/100 R")
	b.register(registering{src: etr2, records: []*mapping.Record{withTTL(0, rec("2001:db8:1::/48"))}})
	b.wantAnswer("2001:db8:1::1", "2001:db8:1::/48 ttl 1m natively-forward")
	b.check()
}

// TestRefreshesAreNotStored: only changes are, and neither are two xTRs that
// register the same in turns.
func TestRefreshesAreNotStored(t *testing.T) {
	b := newBench(t, twoSites(), newMemStore())
	same := func() []*mapping.Record { return []*mapping.Record{rec("10.1.0.0/16", "192.0.2.1", "192.0.2.2")} }
	b.register(registering{proxy: true, records: same()})
	before := b.store.commitCount()
	for i := range 10 {
		b.now = b.now.Add(time.Minute)
		src := etr1
		if i%2 == 0 {
			src = etr2
		}
		if b.register(registering{proxy: true, src: src, records: same()}) == nil {
			t.Fatal("a refresh was not notified")
		}
	}
	if got := b.store.commitCount() - before; got != 0 {
		t.Errorf("10 refreshes made %d commits", got)
	}
	b.check()
	// The nonces follow within a second, in one commit.
	b.pass(time.Second)
	if got := b.store.commitCount() - before; got != 1 {
		t.Errorf("%d commits a second later, want 1", got)
	}
	if n, _ := b.store.nonce("left", mapping.Registrant{RLOC: etr2.Addr()}, 1); n != b.nonce-1 {
		t.Errorf("the store has the nonce %d, want %d", n, b.nonce-1)
	}
	b.pass(10 * time.Second)
	if got := b.store.commitCount() - before; got != 1 {
		t.Errorf("%d commits while nothing happened", got-1)
	}
	// The end of it reaches the store, whoever it is stored under.
	b.pass(registrationTimeout)
	wantStrings(t, "the store after all expired", b.store.registrations())
	b.check()
}

func TestMerge(t *testing.T) {
	b := newBench(t, twoSites(), newMemStore())
	reg := func(id byte, records ...*mapping.Record) *wire.MapNotify {
		t.Helper()
		m := b.register(registering{proxy: true, merge: true, xtr: xtrID(id), records: records})
		b.check()
		return m
	}
	wantStrings(t, "first", notified(t, reg(1, rec("2001:db8:1::/48", "192.0.2.1", "192.0.2.3"))), "2001:db8:1::/48 ttl 1440m, 192.0.2.1 1/100 R, 192.0.2.3 1/100 R")
	other := withTTL(60, rec("2001:db8:1::/48", "192.0.2.2", "192.0.2.3"))
	other.Locators[1].Priority = 9
	b.now = b.now.Add(time.Second)
	merged := "2001:db8:1::/48 ttl 60m, 192.0.2.1 1/100 R, 192.0.2.2 1/100 R, 192.0.2.3 9/100 R"
	wantStrings(t, "second", notified(t, reg(2, other)), merged)
	b.wantAnswer("2001:db8:1::5", merged)

	// A new set of the first replaces its old one only.
	b.now = b.now.Add(100 * time.Second)
	wantStrings(t, "moved", notified(t, reg(1, rec("2001:db8:1::/48", "192.0.2.7"))), "2001:db8:1::/48 ttl 60m, 192.0.2.2 1/100 R, 192.0.2.3 9/100 R, 192.0.2.7 1/100 R")
	// Each contribution ages by itself.
	b.pass(80 * time.Second)
	b.wantAnswer("2001:db8:1::5", "2001:db8:1::/48 ttl 1440m, 192.0.2.7 1/100 R")
	reg(2, rec("2001:db8:1::/48", "192.0.2.2"))
	// And is withdrawn by itself.
	wantStrings(t, "withdrawal", notified(t, reg(1, withTTL(0, rec("2001:db8:1::/48")))), "2001:db8:1::/48 ttl 1440m, 192.0.2.2 1/100 R")
	b.wantAnswer("2001:db8:1::5", "2001:db8:1::/48 ttl 1440m, 192.0.2.2 1/100 R")
	// A registration without the bit ends all others, and is ended by one
	// with it.
	b.register(registering{proxy: true, xtr: xtrID(3), records: []*mapping.Record{rec("2001:db8:1::/48", "192.0.2.30")}})
	b.wantAnswer("2001:db8:1::5", "2001:db8:1::/48 ttl 1440m, 192.0.2.30 1/100 R")
	reg(1, rec("2001:db8:1::/48", "192.0.2.1"))
	b.wantAnswer("2001:db8:1::5", "2001:db8:1::/48 ttl 1440m, 192.0.2.1 1/100 R")
	reg(2, rec("2001:db8:1::/48", "192.0.2.2"))

	// All of it survives a restart.
	b = b.restart(twoSites())
	b.wantAnswer("2001:db8:1::5", "2001:db8:1::/48 ttl 1440m, 192.0.2.1 1/100 R, 192.0.2.2 1/100 R")
	b.check()
}
