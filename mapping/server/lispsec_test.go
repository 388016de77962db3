package server

import (
	"bytes"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/auth"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

var (
	itrKey = auth.WrapKey{ID: 7, Secret: []byte("secret of an ITR")}
	itrOTK = auth.OneTimeKey{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}
)

const secureNonce = 0x1122334455667788

// securedSites is twoSites with LISP-SEC for ITRs that have itrKey.
func securedSites() Config {
	c := twoSites()
	c.LISPSec = LISPSec{Policy: auth.SecurityPreferred, Keys: []auth.WrapKey{itrKey}}
	return c
}

// protected is a protected Map-Request of an ITR.
type protected struct {
	eids     []mapping.EID
	key      auth.WrapKey // default itrKey
	wrap     auth.WrapID  // default WrapAES
	hmac     uint16       // default 2
	kdf      uint16       // default 2
	noIDs    bool         // hmac and kdf 0
	from     netip.AddrPort
	change   func(*wire.MapRequest)
	security func([]byte) []byte // changes the authentication data
}

func (b *bench) askProtected(p protected) []datagram {
	b.t.Helper()
	q := asking{eids: p.eids, nonce: secureNonce, bare: true, change: p.change, from: p.from}.defaults()
	if p.key.Secret == nil {
		p.key = itrKey
	}
	if p.wrap == 0 {
		p.wrap = auth.WrapAES
	}
	if !p.noIDs && p.hmac == 0 {
		p.hmac = 2
	}
	if !p.noIDs && p.kdf == 0 {
		p.kdf = 2
	}
	s := wire.ECMSecurity{RequestedHMAC: p.hmac, KeyID: p.key.ID, Wrapping: uint8(p.wrap), EIDAuth: []byte{0, 4, 0, byte(p.kdf)}}
	if p.wrap == auth.WrapNull {
		copy(s.Key[8:], itrOTK[:])
	} else {
		var err error
		if s.Key, err = p.key.Wrap(secureNonce, itrOTK); err != nil {
			b.t.Fatal(err)
		}
	}
	data, err := s.AppendBinary(nil)
	if err != nil {
		b.t.Fatal(err)
	}
	if p.security != nil {
		data = p.security(data)
	}
	ecm := wire.ECM{Security: true, SecurityData: data, Src: itr4, Dst: netip.AddrPortFrom(itr4.Addr(), wire.Port), Message: encodeRequest(b.t, q)}
	msg, err := ecm.AppendBinary(nil)
	if err != nil {
		b.t.Fatal(err)
	}
	if !b.strict {
		for _, a := range q.itr {
			b.s.credits.of(a).spend(maxCredit, 0)
		}
	}
	return b.deliver(msg, q.from, q.to)
}

// opened is a protected Map-Reply that an ITR has verified.
type opened struct {
	records  []string
	prefixes []string // of the EID-AD
	cantSign bool
	hmac     uint16
	kdf      uint16
	octets   int
}

// verified opens the one protected Map-Reply in out.
func (b *bench) verified(out []datagram) opened {
	b.t.Helper()
	if len(out) != 1 {
		b.t.Fatalf("%d datagrams, want one Map-Reply", len(out))
	}
	msg := out[0].payload
	var m wire.MapReply
	if err := m.Decode(msg); err != nil {
		b.t.Fatal(err)
	}
	if !m.Security || m.Nonce != secureNonce {
		b.t.Fatalf("not a protected answer: %+v", m)
	}
	var s wire.ReplySecurity
	if err := s.Decode(m.SecurityData); err != nil {
		b.t.Fatal(err)
	}
	var e wire.EIDAuth
	if err := itrOTK.VerifyEIDAuth(s.EIDAuth, &e); err != nil {
		b.t.Fatal(err)
	}
	ms, err := itrOTK.Derive(auth.KDFID(e.KDF))
	if err != nil {
		b.t.Fatal(err)
	}
	if err := ms.VerifyReply(msg, &m, &s); err != nil {
		b.t.Fatal(err)
	}
	o := opened{cantSign: e.CantSign, hmac: s.HMACID, kdf: e.KDF, octets: len(msg)}
	for _, p := range e.Prefixes {
		x, err := p.EID.EID(p.MaskLen)
		if err != nil {
			b.t.Fatal(err)
		}
		o.prefixes = append(o.prefixes, x.String())
	}
	for w := range m.Records.All() {
		r, err := w.Mapping()
		if err != nil {
			b.t.Fatal(err)
		}
		o.records = append(o.records, r.String())
	}
	return o
}

// forwardedTo opens the one ECM in out: who gets it, the EID-AD, and the
// MS-OTK that it finds with key.
func (b *bench) forwardedTo(out []datagram, key auth.Key) (etr netip.Addr, e wire.EIDAuth, otk auth.OneTimeKey) {
	b.t.Helper()
	if len(out) != 1 {
		b.t.Fatalf("%d datagrams, want one ECM", len(out))
	}
	var m wire.ECM
	if err := m.Decode(out[0].payload); err != nil {
		b.t.Fatal(err)
	}
	var s wire.ECMSecurity
	if err := s.Decode(m.SecurityData); err != nil {
		b.t.Fatal(err)
	}
	otk, err := auth.Unwrap(&s, secureNonce, []auth.WrapKey{{ID: key.ID, Secret: key.Secret}}, false)
	if err != nil {
		b.t.Fatalf("the ETR does not get its key: %v", err)
	}
	if err := itrOTK.VerifyEIDAuth(s.EIDAuth, &e); err != nil {
		b.t.Fatal(err)
	}
	return out[0].dst.Addr(), e, otk
}

func TestL7_RuleOrder(t *testing.T) {
	const asked = "10.2.3.4"
	record := []*mapping.Record{rec("10.2.0.0/16", "192.0.2.1")}
	other := []*mapping.Record{rec("10.2.0.0/16", "192.0.2.2")}
	for _, c := range []struct {
		why       string
		xtrs      []registering
		proxy     bool
		to        []string // ETRs that may get it; none: a negative reply
		cantSign  bool
		authority bool // A bit
	}{
		{why: "P: a proxy reply", xtrs: []registering{{proxy: true, records: record}}, proxy: true},
		{why: "P and S: a proxy reply", xtrs: []registering{{proxy: true, signs: true, records: record}}, proxy: true},
		{why: "P of one, S of another: a proxy reply", xtrs: []registering{{signs: true, records: record}, {proxy: true, records: other}}, proxy: true},
		{why: "P, and an authoritative answer wanted: a proxy reply", xtrs: []registering{{proxy: true, signs: true, records: record}}, proxy: true, authority: true},
		{why: "S: to the ETR", xtrs: []registering{{signs: true, records: record}}, to: []string{"192.0.2.1"}},
		{why: "S of both: to either", xtrs: []registering{{signs: true, records: record}, {signs: true, records: other}}, to: []string{"192.0.2.1", "192.0.2.2"}},
		{why: "S of one: to that one, with E", xtrs: []registering{{records: record}, {signs: true, records: other}}, to: []string{"192.0.2.2"}, cantSign: true},
		{why: "S of none: a negative reply with E", xtrs: []registering{{records: record}, {records: other}}, cantSign: true},
	} {
		t.Run(c.why, func(t *testing.T) {
			b := newBench(t, securedSites(), newMemStore())
			for i, x := range c.xtrs {
				x.key, x.merge, x.xtr = rightKey, true, xtrID(byte(i+1))
				if b.register(x) == nil {
					t.Fatal("not registered")
				}
			}
			out := b.askProtected(protected{eids: []mapping.EID{eid(asked)}, change: func(m *wire.MapRequest) { m.Authoritative = c.authority }})
			switch {
			case c.proxy:
				o := b.verified(out)
				if o.cantSign != c.cantSign || !slices.Equal(o.prefixes, []string{"10.2.0.0/16"}) || len(o.records) != 1 || !strings.Contains(o.records[0], "192.0.2.1") {
					t.Errorf("%+v", o)
				}
			case c.to != nil:
				etr, e, _ := b.forwardedTo(out, rightKey)
				if !slices.Contains(c.to, etr.String()) || e.CantSign != c.cantSign {
					t.Errorf("to %v, E %v", etr, e.CantSign)
				}
			default:
				o := b.verified(out)
				if !o.cantSign || !slices.Equal(o.records, []string{"10.2.0.0/16 ttl 1m drop-auth-failure"}) {
					t.Errorf("%+v", o)
				}
				if b.count(cantSignReplies) != 1 {
					t.Error("not counted")
				}
			}
			b.check()
		})
	}
}

// Whatever a map-server answers by itself is protected: mappings of all
// origins, unregistered EID-prefixes and holes.
func TestL7_EveryAnswerIsProtected(t *testing.T) {
	b := newBench(t, securedSites(), newMemStore())
	b.register(registering{proxy: true, records: []*mapping.Record{rec("10.1.0.0/16", "192.0.2.1"), rec("10.1.1.0/24", "192.0.2.3")}})
	b.register(registering{proxy: true, records: []*mapping.Record{rec("[7]10.1.0.0/16", "192.0.2.7")}})
	// The longest answer comes last: the others have left octets to its ITR.
	for _, x := range []struct{ ask, prefix, record string }{
		{"10.1.1.5", "10.1.1.0/24", "10.1.1.0/24 ttl 1440m, 192.0.2.3 1/100 R"},
		{"[7]10.1.1.5", "[7]10.1.0.0/16", "[7]10.1.0.0/16 ttl 1440m, 192.0.2.7 1/100 R"},
		{"10.1.64.5", "10.1.64.0/20", "10.1.64.0/20 ttl 1m natively-forward"},
		{"10.9.9.9", "10.9.0.0/16", "10.9.0.0/16 ttl 1440m, 203.0.113.9 1/100 R"},
		{"11.0.0.1", "11.0.0.0/8", "11.0.0.0/8 ttl 15m natively-forward"},
		{"10.1.2.5", "10.1.0.0/16", "10.1.0.0/16 ttl 1m, 192.0.2.1 1/100 R"},
	} {
		o := b.verified(b.askProtected(protected{eids: []mapping.EID{eid(x.ask)}}))
		if !slices.Equal(o.prefixes, []string{x.prefix}) || o.records[0] != x.record || o.cantSign {
			t.Errorf("%+v: %+v", x, o)
		}
	}
	if n := b.count(protectedMapReplies); n != 6 || b.count(protectedMapRequests) != 6 {
		t.Errorf("%d protected replies to %d requests counted", n, b.count(protectedMapRequests))
	}
	// An ordinary Map-Request gets an ordinary answer.
	b.wantAnswer("11.0.0.1", "11.0.0.0/8 ttl 15m natively-forward")
}

// TestA8_SecurityBits: S of a Map-Register decides, and the S bits of ECM and
// Map-Reply go together.
func TestA8_SecurityBits(t *testing.T) {
	b := newBench(t, securedSites(), newMemStore())
	b.register(registering{key: rightKey, signs: true, records: []*mapping.Record{rec("10.2.0.0/16", "192.0.2.1")}})
	_, e, _ := b.forwardedTo(b.askProtected(protected{eids: []mapping.EID{eid("10.2.3.4")}}), rightKey)
	if len(e.Prefixes) != 1 {
		t.Errorf("%+v", e)
	}
	// Without S in the ECM there is none in what is forwarded.
	out := b.ask(asking{eids: []mapping.EID{eid("10.2.3.4")}})
	var m wire.ECM
	if err := m.Decode(out[0].payload); err != nil || m.Security {
		t.Errorf("%+v, %v", m, err)
	}
	// And no weaker MAC than that of the defaults: SHA-1 is refused.
	before := b.count(refusedAlgorithm)
	sha1 := auth.Key{ID: leftKey.ID, Algorithm: auth.SHA1, Secret: leftKey.Secret}
	b.wantDrop("SHA-1", refusedAlgorithm, b.deliver(b.encode(registering{key: sha1, records: []*mapping.Record{rec("10.1.0.0/16", "192.0.2.1")}}), etr1, local4), before)
	before = b.count(refusedAlgorithm)
	none := b.encode(registering{records: []*mapping.Record{rec("10.1.0.0/16", "192.0.2.1")}})
	none[wire.AuthenticationOffset-3] = 0 // Algorithm ID
	b.wantDrop("algorithm 0", refusedAlgorithm, b.deliver(none, etr1, local4), before)
}

func TestL3_KeysStayWrapped(t *testing.T) {
	b := newBench(t, securedSites(), newMemStore())
	second := auth.Key{ID: 2, Algorithm: auth.SHA256, Secret: []byte("left's next secret")}
	b.register(registering{key: second, signs: true, records: []*mapping.Record{rec("10.1.0.0/16", "192.0.2.1")}})
	ms, err := itrOTK.Derive(auth.KDFSHA256)
	if err != nil {
		t.Fatal(err)
	}
	out := b.askProtected(protected{eids: []mapping.EID{eid("10.1.2.3")}})
	_, _, otk := b.forwardedTo(out, second)
	if otk != ms {
		t.Errorf("the ETR gets %x, want the MS-OTK %x", otk[:], ms[:])
	}
	for name, k := range map[string]auth.OneTimeKey{"ITR-OTK": itrOTK, "MS-OTK": ms} {
		if bytes.Contains(out[0].payload, k[:]) {
			t.Errorf("the %s is sent in the clear", name)
		}
	}
	// After a restart, and until the next Map-Register, nobody knows which key
	// it was: the first of the site is taken.
	b = b.restart(securedSites())
	b.forwardedTo(b.askProtected(protected{eids: []mapping.EID{eid("10.1.2.3")}}), leftKey)
	b.register(registering{key: second, signs: true, records: []*mapping.Record{rec("10.1.0.0/16", "192.0.2.1")}})
	b.forwardedTo(b.askProtected(protected{eids: []mapping.EID{eid("10.1.2.3")}}), second)
}

func TestL4_IndependentKeys(t *testing.T) {
	for name, x := range map[string]struct {
		l    LISPSec
		want string
	}{
		"the key of a site":        {LISPSec{Keys: []auth.WrapKey{{ID: 1, Secret: rightKey.Secret}}}, "must be independent"},
		"an empty key":             {LISPSec{Keys: []auth.WrapKey{{ID: 1}}}, "is empty"},
		"a key-id twice":           {LISPSec{Keys: []auth.WrapKey{itrKey, {ID: itrKey.ID, Secret: []byte("x")}}}, "is there twice"},
		"no key":                   {LISPSec{Policy: auth.SecurityRequired}, "no key"},
		"no key for an instance":   {LISPSec{Instances: map[uint32]auth.SecurityPolicy{7: auth.SecurityPreferred}}, "no key"},
		"an unknown policy":        {LISPSec{Policy: 3, Keys: []auth.WrapKey{itrKey}}, "unknown"},
		"an unknown instance":      {LISPSec{Instances: map[uint32]auth.SecurityPolicy{1 << 24: 0}}, "instance-ID"},
		"no prefix to accept from": {LISPSec{AcceptUnwrappedFrom: make([]netip.Prefix, 1)}, "no prefix"},
		"another secret":           {LISPSec{Policy: auth.SecurityRequired, Keys: []auth.WrapKey{itrKey}}, ""},
	} {
		c := twoSites()
		c.LISPSec = x.l
		if err := c.Validate(); (err == nil) != (x.want == "") || err != nil && !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s: %v, want %q", name, err, x.want)
		}
	}
}

func TestL5_PlainKeysAreRefused(t *testing.T) {
	c := securedSites()
	c.LISPSec.AcceptUnwrappedFrom = []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}
	b := newBench(t, c, newMemStore())
	ask := protected{eids: []mapping.EID{eid("11.0.0.1")}, wrap: auth.WrapNull}
	b.wantDrop("a plain key", dropSecurityWrapping, b.askProtected(ask), 0)
	ask.wrap = 3
	b.wantDrop("an unknown wrapping", dropSecurityWrapping, b.askProtected(ask), 1)
	ask.wrap, ask.from = auth.WrapNull, netip.MustParseAddrPort("203.0.113.5:4342")
	if o := b.verified(b.askProtected(ask)); len(o.records) != 1 {
		t.Errorf("from a map-resolver on a protected path: %+v", o)
	}
}

func TestL6_KeysThatDoNotUnwrap(t *testing.T) {
	b := newBench(t, securedSites(), newMemStore())
	ask := protected{eids: []mapping.EID{eid("11.0.0.1")}, key: auth.WrapKey{ID: itrKey.ID, Secret: []byte("another secret")}}
	b.wantDrop("another secret", dropSecurityUnwrap, b.askProtected(ask), 0)
	ask.key = auth.WrapKey{ID: 8, Secret: itrKey.Secret}
	b.wantDrop("an unknown key-id", dropSecurityUnknownKey, b.askProtected(ask), 0)
	ask.key = itrKey
	ask.security = func(d []byte) []byte { d[12] ^= 1; return d }
	b.wantDrop("an altered key", dropSecurityUnwrap, b.askProtected(ask), 1)
	ask.security = func(d []byte) []byte { return append(d[:32], 0, 6, 0, 2, 1, 0) }
	b.wantDrop("a broken EID-AD", dropMalformed, b.askProtected(ask), 0)
	ask.security = nil
	ask.eids = append(ask.eids, eid("12.0.0.1"))
	b.wantDrop("two EIDs", dropTooManyRecords, b.askProtected(ask), 0)
}

// The algorithms that the ITR asks for are used, and the best for those that
// are not known here.
func TestL1_RequestedAlgorithms(t *testing.T) {
	b := newBench(t, securedSites(), newMemStore())
	for _, x := range []struct{ hmac, kdf, wantHMAC, wantKDF uint16 }{{2, 2, 2, 2}, {1, 1, 1, 1}, {1, 2, 1, 2}, {0, 0, 2, 2}, {9, 9, 2, 2}} {
		o := b.verified(b.askProtected(protected{eids: []mapping.EID{eid("11.0.0.1")}, hmac: x.hmac, kdf: x.kdf, noIDs: x.hmac == 0}))
		if o.hmac != x.wantHMAC || o.kdf != x.wantKDF {
			t.Errorf("%+v: %+v", x, o)
		}
	}
}

// TestA7_Policies: LISP-SEC can be off, preferred or required, by instance.
func TestA7_Policies(t *testing.T) {
	c := securedSites()
	c.LISPSec.Instances = map[uint32]auth.SecurityPolicy{7: auth.SecurityRequired, 8: auth.SecurityOff}
	b := newBench(t, c, newMemStore())
	b.register(registering{proxy: true, records: []*mapping.Record{rec("[7]10.1.0.0/16", "192.0.2.7")}})
	b.wantAnswer("11.0.0.1", "11.0.0.0/8 ttl 15m natively-forward")
	b.wantAnswer("[7]10.1.2.3", "[7]10.1.2.3/32 ttl 1m drop-policy-denied")
	if b.count(deniedUnprotected) != 1 {
		t.Error("not counted")
	}
	b.wantAnswer("[8]11.0.0.1", "[8]0.0.0.0/0 ttl 15m natively-forward")
	if o := b.verified(b.askProtected(protected{eids: []mapping.EID{eid("[7]10.1.2.3")}})); !strings.Contains(o.records[0], "192.0.2.7") {
		t.Errorf("%+v", o)
	}
	b.wantDrop("off", dropSecurityOff, b.askProtected(protected{eids: []mapping.EID{eid("[8]11.0.0.1")}}), 0)
	b = newBench(t, twoSites(), newMemStore())
	b.wantDrop("not configured", dropSecurityOff, b.askProtected(protected{eids: []mapping.EID{eid("11.0.0.1")}}), 0)
}

// What does not fit with its authentication data is answered by less.
func TestProtectedRepliesFit(t *testing.T) {
	b := newBench(t, securedSites(), newMemStore())
	put := []*mapping.Record{rec("10.64.0.0/10", "203.0.113.1")}
	for i := range 30 {
		put = append(put, rec(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 96, byte(i), 0}), 24).String(), "203.0.113.2"))
	}
	if err := b.s.Put(t.Context(), put); err != nil {
		t.Fatal(err)
	}
	for n := len(put); n > 0; n-- {
		o := b.verified(b.askProtected(protected{eids: []mapping.EID{eid("10.127.0.1")}}))
		if o.octets > maxReply4 {
			t.Errorf("%d octets with %d more-specifics", o.octets, n)
		}
		if len(o.prefixes) != 1 || !strings.HasPrefix(o.records[0], o.prefixes[0]+" ") {
			t.Errorf("%+v", o)
		}
		if err := b.s.Delete(t.Context(), []mapping.EID{put[n-1].EID}); err != nil {
			t.Fatal(err)
		}
		b.pass(3 * time.Second)
	}
}

func BenchmarkProtectedReply(bb *testing.B) {
	b := newBench(bb, securedSites(), nil)
	s := wire.ECMSecurity{RequestedHMAC: 2, KeyID: itrKey.ID, Wrapping: uint8(auth.WrapAES), EIDAuth: []byte{0, 4, 0, 2}}
	var err error
	if s.Key, err = itrKey.Wrap(secureNonce, itrOTK); err != nil {
		bb.Fatal(err)
	}
	data, err := s.AppendBinary(nil)
	if err != nil {
		bb.Fatal(err)
	}
	ecm := wire.ECM{Security: true, SecurityData: data, Src: itr4, Dst: netip.AddrPortFrom(itr4.Addr(), wire.Port),
		Message: encodeRequest(bb, asking{eids: []mapping.EID{eid("10.9.9.9")}, nonce: secureNonce, bare: true}.defaults())}
	msg, err := ecm.AppendBinary(nil)
	if err != nil {
		bb.Fatal(err)
	}
	bb.ReportAllocs()
	for bb.Loop() {
		b.now = b.now.Add(10 * time.Millisecond)
		b.r.handle(b.now, msg, itr4, local4)
	}
}
