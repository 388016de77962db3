package xtr

import (
	"bytes"
	"crypto/rand"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/auth"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

var resolverKey = auth.WrapKey{ID: 9, Secret: []byte("shared with the map-resolver")}

// secureConfig is testConfig with LISP-SEC.
func secureConfig(p auth.SecurityPolicy) Config {
	c := testConfig()
	c.LISPSec = LISPSec{Policy: p, ResolverKeys: map[netip.AddrPort]auth.WrapKey{mr1: resolverKey}}
	return c
}

// asking is a protected Map-Request as a map-server has opened it.
type asking struct {
	nonce uint64
	eid   mapping.EID
	otk   auth.OneTimeKey
	sec   wire.ECMSecurity
}

// opened does with an ECM what the map-resolver does. ok is false without
// LISP-SEC data.
func opened(t testing.TB, b []byte) (a asking, ok bool) {
	t.Helper()
	e, m := mapRequest(t, b)
	a = asking{nonce: m.Nonce, eid: asked(t, m)}
	if !e.Security {
		return a, false
	}
	if err := a.sec.Decode(e.SecurityData); err != nil {
		t.Fatal(err)
	}
	var err error
	if a.otk, err = auth.Unwrap(&a.sec, m.Nonce, []auth.WrapKey{resolverKey}, false); err != nil {
		t.Fatal(err)
	}
	return a, true
}

// securedAnswer is what a map-server, and who signs, say to an asking.
type securedAnswer struct {
	eids     []string // of the EID-AD
	cantSign bool
	hmac     auth.HMACID // 0: as asked
	eidHMAC  auth.HMACID // 0: as hmac
	kdf      auth.KDFID  // 0: as asked
	records  []*mapping.Record
}

func (a asking) answer(t testing.TB, x securedAnswer) []byte {
	t.Helper()
	var e wire.EIDAuth
	if err := e.Decode(a.sec.EIDAuth); err != nil {
		t.Fatal(err)
	}
	if x.hmac == 0 {
		x.hmac = auth.HMACID(a.sec.RequestedHMAC)
	}
	if x.eidHMAC == 0 {
		x.eidHMAC = x.hmac
	}
	if x.kdf == 0 {
		x.kdf = auth.KDFID(e.KDF)
	}
	e.KDF, e.HMACID, e.CantSign = uint16(x.kdf), uint16(x.eidHMAC), x.cantSign
	for _, s := range x.eids {
		e.Prefixes = append(e.Prefixes, wire.NewEIDAuthPrefix(eid(s)))
	}
	ad, err := a.otk.SignEIDAuth(nil, e)
	if err != nil {
		t.Fatal(err)
	}
	ms, err := a.otk.Derive(x.kdf)
	if err != nil {
		t.Fatal(err)
	}
	msg, err := ms.SignReply(reply(t, a.nonce, x.records...), ad, x.hmac)
	if err != nil {
		t.Fatal(err)
	}
	return msg
}

// askProtected starts a resolution of peer and returns its Map-Request.
func (r *rig) askProtected() asking {
	r.t.Helper()
	r.miss(peer, hostA)
	a, ok := opened(r.t, r.one().data)
	if !ok {
		r.t.Fatal("the Map-Request is not protected")
	}
	return a
}

// refused delivers msg, which must change nothing but this counter.
func (r *rig) refused(name string, msg []byte, c counter) {
	r.t.Helper()
	before := r.stat(c)
	r.receive(msg, etr1)
	if got := r.cached(); len(got) > 0 {
		r.t.Errorf("%s: %v cached", name, got)
	}
	if r.stat(c) != before+1 {
		r.t.Errorf("%s: %s counted %d times", name, counterTable[c].name, r.stat(c)-before)
	}
	r.check()
}

var good = securedAnswer{eids: []string{"10.2.0.0/16"}, records: []*mapping.Record{rec2("10.2.0.0/16")}}

func rec2(e string) *mapping.Record { return rec(e, 1440) }

func TestL2_MapRequest(t *testing.T) {
	r := newRig(t, secureConfig(auth.SecurityRequired))
	r.miss(peer, hostA)
	b := r.one().data
	e, _ := mapRequest(t, b)
	if !e.Security || len(e.SecurityData) != 36 || !bytes.Equal(e.SecurityData[32:], []byte{0, 4, 0, byte(auth.KDFSHA256)}) {
		t.Fatalf("S %v, authentication data %x", e.Security, e.SecurityData)
	}
	a, _ := opened(t, b)
	if a.sec.RequestedHMAC != uint16(auth.HMACSHA256) || a.sec.Wrapping != uint8(auth.WrapAES) || a.sec.KeyID != resolverKey.ID {
		t.Errorf("%+v", a.sec)
	}
	r.receive(a.answer(t, good), etr1)
	if got := r.cached(); !slices.Equal(got, []string{"10.2.0.0/16"}) {
		t.Errorf("cached %v", got)
	}
	if r.stat(mapRequestsProtected) != 1 || r.stat(mapRepliesVerified) != 1 {
		t.Error("not counted")
	}
}

func TestL3_OneTimeKeyIsWrapped(t *testing.T) {
	r := newRig(t, secureConfig(auth.SecurityPreferred))
	r.miss(peer, hostA)
	b := r.one().data
	a, _ := opened(t, b)
	if bytes.Contains(b, a.otk[:]) {
		t.Error("the one-time key is sent in the clear")
	}
	if r.m.itr.nonces[a.nonce].q.attempts[0].secure.otk != a.otk {
		t.Error("the map-resolver gets another key than the one kept")
	}
}

func TestL4_IndependentKeys(t *testing.T) {
	for name, x := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"one key for both": {func(c *Config) { c.LISPSec.ResolverKeys[mr1] = auth.WrapKey{ID: 1, Secret: key.Secret} }, "must be independent"},
		"the key of a rollover": {func(c *Config) {
			c.MapServers[0].OtherKeys = []auth.Key{{ID: 8, Algorithm: auth.SHA256, Secret: resolverKey.Secret}}
		}, "must be independent"},
		"an empty key":             {func(c *Config) { c.LISPSec.ResolverKeys[mr1] = auth.WrapKey{} }, "is empty"},
		"required without a key":   {func(c *Config) { c.MapResolvers = append(c.MapResolvers, mr2) }, "no lisp_sec_key"},
		"required in one instance": {func(c *Config) { c.LISPSec.Policy = 0; c.LISPSec.Instances[7] = 2; c.MapResolvers[0] = mr2 }, "no lisp_sec_key"},
		"an unknown policy":        {func(c *Config) { c.LISPSec.Policy = 3 }, "unknown"},
		"an unknown instance":      {func(c *Config) { c.LISPSec.Instances[1<<24] = 1 }, "instance-ID"},
		"a key without a port": {func(c *Config) {
			c.LISPSec.ResolverKeys = map[netip.AddrPort]auth.WrapKey{netip.AddrPortFrom(mr1.Addr(), 0): resolverKey}
		}, ""},
	} {
		c := secureConfig(auth.SecurityRequired)
		c.LISPSec.Instances = map[uint32]auth.SecurityPolicy{}
		x.change(&c)
		if _, err := c.withDefaults(); (err == nil) != (x.want == "") || err != nil && !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s: %v, want %q", name, err, x.want)
		}
	}
	r := newRig(t, secureConfig(auth.SecurityRequired))
	if err := r.setServers(MapServer{Addr: ms1, Key: auth.Key{ID: 4, Algorithm: auth.SHA256, Secret: resolverKey.Secret}}); err == nil {
		t.Error("a rollover to the key of the map-resolver")
	}
}

// TestL10_BadReplies: whatever is not what map-server and ETR signed is
// discarded, and the real reply is still accepted after it.
func TestL10_BadReplies(t *testing.T) {
	for _, policy := range []auth.SecurityPolicy{auth.SecurityPreferred, auth.SecurityRequired} {
		r := newRig(t, secureConfig(policy))
		a := r.askProtected()
		msg := a.answer(t, good)
		r.refused("stripped", reply(t, a.nonce, rec2("10.2.0.0/16")), mapRepliesUnprotected)
		var m wire.MapReply
		if err := m.Decode(msg); err != nil {
			t.Fatal(err)
		}
		for i := 12; i < len(msg); i++ { // what is before is type, counts and nonce
			bad := bytes.Clone(msg)
			bad[i] ^= 1
			before := r.stat(mapRepliesIn)
			r.receive(bad, etr1)
			if len(r.cached()) > 0 || r.stat(mapRepliesIn) != before+1 {
				t.Fatalf("octet %d changed, and the reply is accepted", i)
			}
		}
		// A signer that does not have the one-time key.
		forger := a
		forger.otk[0] ^= 1
		r.refused("another key", forger.answer(t, good), mapRepliesForged)
		// An ETR has the MS-OTK, and can sign the message, but no EID-AD.
		ms, err := a.otk.Derive(auth.KDFSHA256)
		if err != nil {
			t.Fatal(err)
		}
		var s wire.ReplySecurity
		if err := s.Decode(forger.securityOf(t, securedAnswer{eids: []string{"10.0.0.0/8"}, records: good.records})); err != nil {
			t.Fatal(err)
		}
		over, err := ms.SignReply(reply(t, a.nonce, rec2("10.0.0.0/8")), s.EIDAuth, auth.HMACSHA256)
		if err != nil {
			t.Fatal(err)
		}
		r.refused("an EID-AD of its own", over, mapRepliesForged)
		r.refused("the empty EID-AD", func() []byte {
			b, err := ms.SignReply(reply(t, a.nonce, rec2("10.2.0.0/16")), a.sec.EIDAuth, auth.HMACSHA256)
			if err != nil {
				t.Fatal(err)
			}
			return b
		}(), mapRepliesForged)
		r.receive(msg, etr1)
		if got := r.cached(); !slices.Equal(got, []string{"10.2.0.0/16"}) {
			t.Errorf("%v: cached %v after the real reply", policy, got)
		}
	}
}

// securityOf returns the authentication data of an answer.
func (a asking) securityOf(t testing.TB, x securedAnswer) []byte {
	t.Helper()
	var m wire.MapReply
	if err := m.Decode(a.answer(t, x)); err != nil {
		t.Fatal(err)
	}
	return m.SecurityData
}

// TestL10_OtherAlgorithms: a reply with other algorithms than those asked for
// is discarded, and others are asked for, one a second, until all were tried.
func TestL10_OtherAlgorithms(t *testing.T) {
	r := newRig(t, secureConfig(auth.SecurityRequired))
	a := r.askProtected()
	var tried [][2]uint16
	for n := range 4 {
		var e wire.EIDAuth
		if err := e.Decode(a.sec.EIDAuth); err != nil {
			t.Fatal(err)
		}
		tried = append(tried, [2]uint16{a.sec.RequestedHMAC, e.KDF})
		x := good
		if n%2 == 0 {
			x.hmac = 3 - auth.HMACID(a.sec.RequestedHMAC)
		} else {
			x.kdf = 3 - auth.KDFID(e.KDF)
		}
		bad := a.answer(t, x)
		r.refused("other algorithms", bad, mapRepliesAlgorithm)
		r.refused("the same again", bad, mapRepliesUnmatched) // L11
		if out := r.take(); len(out) != 0 {
			t.Fatal("asked again without a pause")
		}
		r.until(time.Duration(n+1) * time.Second)
		a, _ = opened(t, r.one().data)
	}
	if want := [][2]uint16{{2, 2}, {1, 2}, {2, 1}, {1, 1}}; !slices.Equal(tried, want) {
		t.Errorf("asked for %v, want %v", tried, want)
	}
	r.receive(a.answer(t, good), etr1)
	if got := r.cached(); !slices.Equal(got, []string{"10.2.0.0/16"}) {
		t.Errorf("cached %v", got)
	}
	// Algorithms that are not known here can't be verified: others are asked
	// for, unless the real reply comes.
	r = newRig(t, secureConfig(auth.SecurityRequired))
	a = r.askProtected()
	bad := a.answer(t, good)
	bad[len(bad)-17] = 9 // PKT HMAC ID
	for range 5 {
		r.refused("an unknown algorithm", bad, mapRepliesAlgorithm)
	}
	r.until(time.Second)
	b, _ := opened(t, r.one().data)
	if b.sec.RequestedHMAC != uint16(auth.HMACSHA1) {
		t.Errorf("%d asked for", b.sec.RequestedHMAC)
	}
	r.receive(a.answer(t, good), etr1)
	if got := r.cached(); !slices.Equal(got, []string{"10.2.0.0/16"}) {
		t.Errorf("cached %v", got)
	}
	// An HMAC of the map-server that is another, but a known one, is good.
	r = newRig(t, secureConfig(auth.SecurityRequired))
	x := good
	x.eidHMAC = auth.HMACSHA1
	r.receive(r.askProtected().answer(t, x), etr1)
	if got := r.cached(); !slices.Equal(got, []string{"10.2.0.0/16"}) {
		t.Errorf("cached %v", got)
	}
}

// TestL10_NoDowngradeWhenRequired: no Map-Request goes out without protection,
// whatever happens to its replies.
func TestL10_NoDowngradeWhenRequired(t *testing.T) {
	r := newRig(t, secureConfig(auth.SecurityRequired))
	a := r.askProtected()
	for range 20 {
		r.receive(reply(t, a.nonce, rec2("10.2.0.0/16")), etr1)
		r.until(r.now.Sub(zeroTime) + 8*time.Second)
		for _, s := range r.take() {
			next, ok := opened(t, s.data)
			if !ok {
				t.Fatal("a Map-Request without protection")
			}
			a = next
		}
	}
	if r.stat(resolutionsGivenUp) == 0 || len(r.cached()) > 0 {
		t.Errorf("given up %d times, cached %v", r.stat(resolutionsGivenUp), r.cached())
	}
	// That no ETR can sign is the answer then.
	r = newRig(t, secureConfig(auth.SecurityRequired))
	no := securedAnswer{eids: []string{"10.2.0.0/16"}, cantSign: true, records: []*mapping.Record{mapping.NegativeRecord(eid("10.2.0.0/16"), mapping.DropAuth, 1)}}
	r.receive(r.askProtected().answer(t, no), etr1)
	if got := r.cached(); !slices.Equal(got, []string{"10.2.0.0/16"}) {
		t.Errorf("cached %v", got)
	}
}

// TestL10_DowngradeWhenPreferred: the E bit, or no usable reply, make the next
// Map-Request go without; that is counted.
func TestL10_DowngradeWhenPreferred(t *testing.T) {
	r := newRig(t, secureConfig(auth.SecurityPreferred))
	a := r.askProtected()
	r.receive(a.answer(t, securedAnswer{eids: []string{"10.2.0.0/16"}, cantSign: true, records: []*mapping.Record{mapping.NegativeRecord(eid("10.2.0.0/16"), mapping.DropAuth, 1)}}), etr1)
	if len(r.cached()) > 0 {
		t.Errorf("cached %v", r.cached())
	}
	r.until(time.Second)
	out := r.one()
	plain, ok := opened(t, out.data)
	if ok || out.at != time.Second || r.stat(mapRequestsDowngraded) != 1 {
		t.Errorf("at %v, protected %v", out.at, ok)
	}
	r.receive(reply(t, plain.nonce, rec2("10.2.0.0/16")), etr1)
	if got := r.cached(); !slices.Equal(got, []string{"10.2.0.0/16"}) {
		t.Errorf("cached %v", got)
	}
	if r.m.itr.resolvers.list[0].timeouts != 0 {
		t.Error("the map-resolver is blamed, which answered")
	}
	// E with locators is from an ETR that signs: an answer.
	r = newRig(t, secureConfig(auth.SecurityPreferred))
	x := good
	x.cantSign = true
	r.receive(r.askProtected().answer(t, x), etr1)
	if got := r.cached(); !slices.Equal(got, []string{"10.2.0.0/16"}) {
		t.Errorf("cached %v", got)
	}
	// No reply at all: three transmissions are protected.
	r = newRig(t, secureConfig(auth.SecurityPreferred))
	r.askProtected()
	r.until(8 * time.Second)
	var got []bool
	for _, s := range r.take() {
		_, ok := opened(t, s.data)
		got = append(got, ok)
	}
	if !slices.Equal(got, []bool{true, true, false}) {
		t.Errorf("protected: %v", got)
	}
}

func TestL11_ReplaysAreNotAccepted(t *testing.T) {
	r := newRig(t, secureConfig(auth.SecurityRequired))
	a := r.askProtected()
	kept := r.m.itr.nonces[a.nonce].q.attempts[0].secure
	msg := a.answer(t, good)
	r.receive(msg, etr1)
	if kept.otk != (auth.OneTimeKey{}) {
		t.Error("the one-time key is still there")
	}
	r.m.clear(r.now, eid("10.2.0.0/16"))
	r.collect()
	r.refused("replayed", msg, mapRepliesUnmatched)
	// Nor is it, while the next Map-Request for the same is outstanding.
	r.until(2 * time.Second)
	b := r.askProtected()
	if b.otk == a.otk || b.nonce == a.nonce {
		t.Error("a one-time key is used twice")
	}
	r.refused("replayed", msg, mapRepliesUnmatched)
	forged := bytes.Clone(msg)
	copy(forged[4:12], []byte{0, 0, 0, 0, 0, 0, 0, byte(b.nonce)})
	r.refused("with the nonce of the next", forged, mapRepliesForged)
}

// TestL12_Overclaiming: an ETR can't answer for more than it registered.
func TestL12_Overclaiming(t *testing.T) {
	for name, x := range map[string]struct {
		eids, records, want []string
		overclaimed         uint64
	}{
		"less specific":          {[]string{"10.2.0.0/16"}, []string{"10.0.0.0/8"}, []string{}, 1},
		"everything":             {[]string{"10.2.0.0/16"}, []string{"0.0.0.0/0"}, []string{}, 1},
		"another prefix too":     {[]string{"10.2.0.0/16"}, []string{"10.2.0.0/16", "10.3.0.0/16"}, []string{"10.2.0.0/16"}, 1},
		"more specific":          {[]string{"10.2.0.0/16"}, []string{"10.2.0.0/24"}, []string{"10.2.0.0/24"}, 0},
		"with a more specific":   {[]string{"10.2.0.0/16"}, []string{"10.2.0.0/16", "10.2.128.0/24"}, []string{"10.2.0.0/16", "10.2.128.0/24"}, 0},
		"nothing is authorised":  {nil, []string{"10.2.0.0/16"}, []string{}, 1},
		"of another instance":    {[]string{"[7]10.2.0.0/16"}, []string{"10.2.0.0/16"}, []string{}, 1},
		"one of two prefixes":    {[]string{"10.9.0.0/16", "10.2.0.0/16"}, []string{"10.2.0.0/16"}, []string{"10.2.0.0/16"}, 0},
		"the site of the EID-AD": {[]string{"10.3.0.0/16"}, []string{"10.2.0.0/16"}, []string{}, 1},
	} {
		r := newRig(t, secureConfig(auth.SecurityRequired))
		y := securedAnswer{eids: x.eids}
		for _, e := range x.records {
			y.records = append(y.records, rec2(e))
		}
		r.receive(r.askProtected().answer(t, y), etr1)
		got := r.cached()
		slices.Sort(got)
		if !slices.Equal(got, x.want) || r.stat(mapReplyRecordsOverclaimed) != x.overclaimed {
			t.Errorf("%s: cached %v, want %v; %d records refused", name, got, x.want, r.stat(mapReplyRecordsOverclaimed))
		}
	}
	// Without protection nobody would notice.
	r := newRig(t, testConfig())
	r.learn(peer, rec2("10.0.0.0/8"))
	if got := r.cached(); !slices.Equal(got, []string{"10.0.0.0/8"}) {
		t.Errorf("cached %v", got)
	}
}

// TestL12_ExampleOfTheRFC is that of section 6.9.1.
func TestL12_ExampleOfTheRFC(t *testing.T) {
	r := newRig(t, secureConfig(auth.SecurityRequired))
	var m wire.MapReply
	if err := m.Decode(reply(t, 1, rec2("2001:db8:102::/48"), rec2("2001:db8:103::/48"), rec2("2001:db8:200::/40"))); err != nil {
		t.Fatal(err)
	}
	recs, _, ok := r.m.itr.accept(r.now, eid("2001:db8:103::5"), m.Records, []mapping.EID{eid("2001:db8:103::/48"), eid("2001:db8:203::/48")}, etr1)
	if !ok || len(recs) != 1 || recs[0].EID != eid("2001:db8:103::/48") {
		t.Errorf("%v, %v", recs, ok)
	}
}

func TestL13_ChanceOfTheSystem(t *testing.T) {
	c, err := secureConfig(auth.SecurityRequired).withDefaults()
	if err != nil || c.Rand != rand.Reader {
		t.Errorf("one-time keys come from %T, %v", c.Rand, err)
	}
	// Without chance nothing is sent, rather than something predictable.
	cfg := secureConfig(auth.SecurityRequired)
	cfg.Rand = iotest.ErrReader(errors.New("no entropy"))
	r := newRig(t, cfg)
	r.miss(peer, hostA)
	if out := r.take(); len(out) > 0 || r.stat(sendErrors) == 0 {
		t.Errorf("%d datagrams", len(out))
	}
}

// TestA7_Policies: each instance has its own.
func TestA7_Policies(t *testing.T) {
	c := secureConfig(auth.SecurityOff)
	c.LISPSec.Instances = map[uint32]auth.SecurityPolicy{7: auth.SecurityRequired}
	r := newRig(t, c)
	for iid, want := range map[uint32]bool{0: false, 7: true, 8: false} {
		r.m.miss(r.now, Miss{IID: iid, Dst: peer, Src: hostA})
		r.collect()
		if _, ok := opened(t, r.one().data); ok != want {
			t.Errorf("instance %d: protected %v, want %v", iid, ok, want)
		}
	}
	// A map-resolver without a key is asked without protection, if that is
	// only preferred.
	c = secureConfig(auth.SecurityPreferred)
	c.LISPSec.ResolverKeys = nil
	r = newRig(t, c)
	r.miss(peer, hostA)
	if _, ok := opened(t, r.one().data); ok || r.stat(mapRequestsDowngraded) != 0 {
		t.Error("protected without a key")
	}
}

// TestL10_EveryCause: Map-Requests for a refresh and after an SMR are protected
// like those for a miss, since they go through the mapping system.
func TestL10_EveryCause(t *testing.T) {
	r := newRig(t, secureConfig(auth.SecurityRequired))
	x := good
	x.records = []*mapping.Record{rec("10.2.0.0/16", 1)}
	r.receive(r.askProtected().answer(t, x), etr1)
	smr := wire.MapRequest{SMR: true, Nonce: 5, SourceEID: wire.IPAddress(peer), ITRRLOCs: []wire.Address{wire.IPAddress(etr1.Addr())}, EIDs: []wire.RequestRecord{wire.NewRequestRecord(eid("10.1.0.0/16"))}}
	r.until(5 * time.Second)
	r.receive(mustEncode(t, &smr), etr1)
	a, ok := opened(t, r.one().data)
	if !ok || a.eid != eid("10.2.0.0/16") {
		t.Errorf("SMR-invoked: protected %v, for %v", ok, a.eid)
	}
	r.receive(a.answer(t, x), etr1)
	r.until(50 * time.Second)
	r.used("10.2.0.0/16")
	if _, ok := opened(t, r.one().data); !ok {
		t.Error("a refresh without protection")
	}
}

// protectedRequest is what a map-server forwards to the ETR.
func protectedRequest(t testing.TB, with auth.Key, wrap auth.WrapID, otk auth.OneTimeKey, hmac uint16) ([]byte, []byte) {
	t.Helper()
	ad, err := auth.OneTimeKey{1}.SignEIDAuth(nil, wire.EIDAuth{KDF: 2, HMACID: 2, Prefixes: []wire.EIDAuthPrefix{wire.NewEIDAuthPrefix(eid("10.1.0.0/16"))}})
	if err != nil {
		t.Fatal(err)
	}
	s := wire.ECMSecurity{RequestedHMAC: hmac, KeyID: with.ID, Wrapping: uint8(wrap), EIDAuth: ad}
	if wrap == auth.WrapNull {
		copy(s.Key[8:], otk[:])
	} else if s.Key, err = (auth.WrapKey{ID: with.ID, Secret: with.Secret}).Wrap(77, otk); err != nil {
		t.Fatal(err)
	}
	data, err := s.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	inner := netip.MustParseAddrPort("192.0.2.99:4342")
	req := wire.MapRequest{Nonce: 77, ITRRLOCs: []wire.Address{wire.IPAddress(inner.Addr())}, EIDs: []wire.RequestRecord{wire.NewRequestRecord(eid("10.1.2.3/32"))}}
	return mustEncode(t, &wire.ECM{Security: true, SecurityData: data, Src: inner, Dst: netip.MustParseAddrPort("10.1.2.3:4342"), Message: mustEncode(t, &req)}), ad
}

func TestL8_ETRSigns(t *testing.T) {
	otk := auth.OneTimeKey{5, 4, 3, 2, 1}
	c := secureConfig(auth.SecurityPreferred)
	c.MapServers[0].OtherKeys = []auth.Key{{ID: 4, Algorithm: auth.SHA256, Secret: []byte("the key before")}}
	for _, x := range []struct {
		key  auth.Key
		hmac uint16
		want auth.HMACID
	}{{key, 2, auth.HMACSHA256}, {key, 1, auth.HMACSHA1}, {key, 0, auth.HMACSHA256}, {key, 77, auth.HMACSHA256}, {c.MapServers[0].OtherKeys[0], 2, auth.HMACSHA256}} {
		r := newRig(t, c)
		msg, ad := protectedRequest(t, x.key, auth.WrapAES, otk, x.hmac)
		r.receive(msg, ms1)
		out := r.one()
		var m wire.MapReply
		var s wire.ReplySecurity
		if err := m.Decode(out.data); err != nil || !m.Security || m.Nonce != 77 {
			t.Fatalf("%+v, %v", m, err)
		}
		if err := s.Decode(m.SecurityData); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(s.EIDAuth, ad) {
			t.Errorf("the EID-AD became %x", s.EIDAuth)
		}
		if auth.HMACID(s.HMACID) != x.want {
			t.Errorf("%d asked for, %v used", x.hmac, auth.HMACID(s.HMACID))
		}
		if err := otk.VerifyReply(out.data, &m, &s); err != nil {
			t.Error(err)
		}
		if r.stat(mapRepliesSigned) != 1 {
			t.Error("not counted")
		}
	}
	// An ordinary Map-Request gets an ordinary reply.
	r := newRig(t, c)
	req := wire.MapRequest{Nonce: 78, ITRRLOCs: []wire.Address{wire.IPAddress(addr("192.0.2.99"))}, EIDs: []wire.RequestRecord{wire.NewRequestRecord(eid("10.1.2.3/32"))}}
	r.receive(mustEncode(t, &req), etr1)
	var m wire.MapReply
	if err := m.Decode(r.one().data); err != nil || m.Security {
		t.Errorf("%+v, %v", m, err)
	}
}

func TestL5_ETRRefusesPlainKeys(t *testing.T) {
	r := newRig(t, secureConfig(auth.SecurityPreferred))
	msg, _ := protectedRequest(t, key, auth.WrapNull, auth.OneTimeKey{1}, 2)
	r.refused("a plain key", msg, mapRequestsSecurityRefused)
	if out := r.take(); len(out) > 0 {
		t.Error("answered")
	}
}

func TestL6_ETRRefusesKeysThatDoNotUnwrap(t *testing.T) {
	for name, k := range map[string]auth.Key{
		"another secret":    {ID: key.ID, Secret: []byte("another")},
		"an unknown key-id": {ID: 99, Secret: key.Secret},
	} {
		r := newRig(t, secureConfig(auth.SecurityPreferred))
		msg, _ := protectedRequest(t, k, auth.WrapAES, auth.OneTimeKey{1}, 2)
		r.refused(name, msg, mapRequestsSecurityRefused)
		if out := r.take(); len(out) > 0 {
			t.Errorf("%s: answered", name)
		}
	}
	r := newRig(t, testConfig())
	msg, _ := protectedRequest(t, key, auth.WrapAES, auth.OneTimeKey{1}, 2)
	r.refused("off", msg, mapRequestsSecurityOff)
}

func TestL9_MapRegister(t *testing.T) {
	for policy, want := range map[auth.SecurityPolicy]bool{auth.SecurityOff: false, auth.SecurityPreferred: true, auth.SecurityRequired: true} {
		r := newRig(t, secureConfig(policy))
		r.start()
		var m wire.MapRegister
		if err := m.Decode(r.one().data); err != nil || m.Security != want {
			t.Errorf("%v: S %v, %v", policy, m.Security, err)
		}
	}
}

func BenchmarkProtectedResolution(b *testing.B) {
	cfg := secureConfig(auth.SecurityRequired)
	cfg.Limits.Rate, cfg.Limits.RatePerHost = 1<<20, 1<<20
	r := newRig(b, cfg)
	b.ReportAllocs()
	for b.Loop() {
		r.now = r.now.Add(2 * time.Second)
		r.receive(r.askProtected().answer(b, good), etr1)
		r.m.clear(r.now, eid("10.2.0.0/16"))
		r.collect()
	}
}

// TestL14_MapDataIsVerified: of a mapping that comes with a Map-Request nothing
// is used but that somebody may be asked for it, and that is protected.
func TestL14_MapDataIsVerified(t *testing.T) {
	cfg := secureConfig(auth.SecurityRequired)
	cfg.VerifyMapData = true
	r := newRig(t, cfg)
	forged := rec("10.2.0.0/16", 1440)
	forged.Locators = []mapping.Locator{mapping.MakeLocator(addr("198.51.100.66"), 1, 100)}
	r.receive(withMapData(t, forged), etr1)
	if got := r.cached(); len(got) > 0 {
		t.Fatalf("%v cached unverified", got)
	}
	var a asking
	found := false
	for _, s := range r.take() {
		if ty, _ := wire.PeekType(s.data); ty == wire.TypeECM {
			a, found = opened(t, s.data)
		}
	}
	if !found || a.eid != eid("10.2.0.0/16") {
		t.Fatalf("protected %v, for %v", found, a.eid)
	}
	r.refused("unprotected", reply(t, a.nonce, forged), mapRepliesUnprotected)
	r.receive(a.answer(t, good), etr1)
	if rec, ok := r.m.itr.cache.Lookup(0, peer); !ok || rec.Locators[0].Addr != etr1.Addr() {
		t.Errorf("%v, %v", rec, ok)
	}
}
