package xtr

import (
	crand "crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/auth"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// allRequests makes an xTR send a Map-Request of each kind and returns them, by
// the name of the kind, without their encapsulation.
func allRequests(t *testing.T, cfg Config) map[string][]byte {
	cfg.VerifyMapData = true
	r := newRig(t, cfg)
	out := map[string][]byte{}
	keep := func(name string) {
		t.Helper()
		for _, s := range r.take() {
			b := s.data
			if ty, _ := wire.PeekType(b); ty == wire.TypeECM {
				e, _ := mapRequest(t, b)
				b = e.Message
			} else if ty != wire.TypeMapRequest {
				continue
			}
			out[name] = slices.Clone(b)
		}
	}
	r.start()
	r.confirmAll()
	r.miss(peer, hostA)
	keep("miss")
	var m wire.MapRequest
	if err := m.Decode(out["miss"]); err != nil {
		t.Fatal(err)
	}
	r.receive(reply(t, m.Nonce, rec("10.2.0.0/16", 1)), etr1)
	r.until(2 * time.Second)
	r.used("10.2.0.0/16")
	r.until(3 * time.Second)
	keep("probe")
	r.receive(smrFrom(t, "10.2.0.0", "10.1.0.0/16"), etr1)
	keep("smr-invoked")
	if err := m.Decode(out["smr-invoked"]); err != nil {
		t.Fatal(err)
	}
	r.receive(reply(t, m.Nonce, rec("10.2.0.0/16", 1)), etr1)
	r.receive(withMapData(t, rec("10.3.0.0/16", 1440)), etr1)
	keep("map data")
	if err := r.setDatabases(located("10.1.0.0/16", 9)); err != nil {
		t.Fatal(err)
	}
	r.confirmAllKeeping()
	keep("smr")
	r.m.itr.finish(r.m.itr.queries[eid("10.3.0.0/16")])
	r.m.probes.forget(r.now, r.m.probes.paths[Path{own4, etr1.Addr()}])
	r.until(50 * time.Second)
	r.take()
	r.m.itr.used(r.now, []mapping.EID{eid("10.2.0.0/16")})
	r.collect()
	keep("refresh")
	if len(out) != 6 {
		t.Fatalf("%d kinds of Map-Requests", len(out))
	}
	return out
}

// TestI1_ITRRLOCs: every Map-Request has as many ITR-RLOCs as there are, at
// least one, and IRC is one less. A probe has the one of its path.
func TestI1_ITRRLOCs(t *testing.T) {
	for _, rlocs := range [][]netip.Addr{{own4}, {own4, own6}} {
		cfg := testConfig()
		cfg.RLOCs = rlocs
		for name, b := range allRequests(t, cfg) {
			var m wire.MapRequest
			if err := m.Decode(b); err != nil {
				t.Fatal(err)
			}
			want := len(rlocs)
			if m.Probe { // whose reply must come back to where it was sent from
				want = 1
			}
			if irc := int(b[2] & 0x1f); irc != want-1 || len(m.ITRRLOCs) != want {
				t.Errorf("%s: IRC %d, %d ITR-RLOCs, want %d", name, irc, len(m.ITRRLOCs), want)
			}
		}
	}
	cfg := testConfig()
	cfg.RLOCs = nil
	if _, err := New(cfg); err == nil {
		t.Error("an xTR without an RLOC was made")
	}
}

// TestI2_ITRRLOCsRoutable: what no underlay routes, and what is inside the
// site, cannot be an ITR-RLOC.
func TestI2_ITRRLOCsRoutable(t *testing.T) {
	for _, bad := range []string{"0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255", "169.254.1.1", "::", "::1", "ff02::1", "fe80::1", "10.1.0.1"} {
		cfg := testConfig()
		cfg.RLOCs = append(cfg.RLOCs, addr(bad))
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), "rloc") {
			t.Errorf("%s is an RLOC: %v", bad, err)
		}
	}
	for name, b := range allRequests(t, testConfig()) {
		var m wire.MapRequest
		if err := m.Decode(b); err != nil {
			t.Fatal(err)
		}
		for i, a := range m.ITRRLOCs {
			if ip, _ := a.IP(); ip != testConfig().RLOCs[i] {
				t.Errorf("%s: ITR-RLOC %v", name, ip)
			}
		}
	}
}

// TestI3_OneRecord: every Map-Request asks for exactly one EID-prefix.
func TestI3_OneRecord(t *testing.T) {
	for name, b := range allRequests(t, testConfig()) {
		var m wire.MapRequest
		if err := m.Decode(b); err != nil || len(m.EIDs) != 1 || b[3] != 1 {
			t.Errorf("%s: %d records, count %d: %v", name, len(m.EIDs), b[3], err)
		}
	}
}

// failingReader has no randomness to give.
type failingReader struct{}

func (failingReader) Read([]byte) (int, error) { return 0, errors.New("no entropy") }

// TestI4_NonceFromSystem: nonces are 8 octets of the operating system's
// generator, a fresh one for every transmission; without it nothing is sent.
func TestI4_NonceFromSystem(t *testing.T) {
	c, err := testConfig().withDefaults()
	if err != nil || c.Rand != crand.Reader {
		t.Fatalf("the source of nonces is %v: %v", c.Rand, err)
	}
	cfg := noRegister()
	cfg.Rand = crand.Reader
	r := newRig(t, cfg)
	seen := map[uint64]bool{}
	var ones uint64
	for i := range 200 {
		r.until(time.Duration(i) * time.Second)
		r.miss(netip.AddrFrom4([4]byte{10, 2, 0, byte(i)}), hostA)
		for _, s := range r.take() {
			_, m := mapRequest(t, s.data)
			if seen[m.Nonce] {
				t.Fatalf("nonce %x twice", m.Nonce)
			}
			seen[m.Nonce] = true
			ones |= m.Nonce
		}
	}
	if len(seen) < 200 || ones != 1<<64-1 {
		t.Errorf("%d nonces, bits %x", len(seen), ones)
	}
	cfg.Rand = failingReader{}
	r = newRig(t, cfg)
	r.miss(peer, hostA)
	if len(r.take()) != 0 || r.stat(sendErrors) != 1 {
		t.Error("a Map-Request without a random nonce was sent")
	}
}

// TestI6_MapResolver: a map-resolver is an address in the core, not an EID of
// the site and not one that no host has.
func TestI6_MapResolver(t *testing.T) {
	for _, bad := range []string{"10.1.0.53:4342", "[2001:db8:1::53]:4342", "0.0.0.0:4342", "224.0.0.5:4342", "[ff02::1]:4342"} {
		cfg := testConfig()
		cfg.MapResolvers = []netip.AddrPort{netip.MustParseAddrPort(bad)}
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), "map_resolver") {
			t.Errorf("%s is a map-resolver: %v", bad, err)
		}
	}
	r := newRig(t, testConfig()) // nor can it become one
	if err := r.setDatabases(located("198.51.100.1/32", 1)); err == nil {
		t.Error("the map-resolver became an EID of the site")
	}
}

// TestI8_TTLZeroRemoves: a record with TTL 0 takes its entry, and only that,
// out of the map-cache and the planes at once.
func TestI8_TTLZeroRemoves(t *testing.T) {
	r := newRig(t, noRegister())
	r.learn(peer, rec("10.2.0.0/16", 1440), rec("10.2.3.0/24", 1440))
	r.until(2 * time.Second)
	r.receive(smrFrom(t, "10.2.3.0", "10.1.0.0/16"), etr1)
	_, m := mapRequest(t, r.one().data)
	r.changes = nil
	r.receive(reply(t, m.Nonce, rec("10.2.3.0/24", 0)), etr1)
	if got := r.cached(); !slices.Equal(got, []string{"10.2.0.0/16"}) {
		t.Errorf("cached %v", got)
	}
	if len(r.changes) != 1 || r.changes[0].EID != eid("10.2.3.0/24") || r.changes[0].Record != nil {
		t.Errorf("changes %+v", r.changes)
	}
}

// TestE2_NoITRRLOC: a Map-Request without an address to reply to is dropped.
func TestE2_NoITRRLOC(t *testing.T) {
	for name, rlocs := range map[string][]wire.Address{
		"AFI 0":          {{}},
		"only multicast": {wire.IPAddress(addr("224.0.0.5"))},
		"only ours":      {wire.IPAddress(addr("10.1.0.1"))},
	} {
		r := newRig(t, etrConfig())
		r.receive(request(t, nil, []string{"10.1.1.5"}, func(m *wire.MapRequest) { m.ITRRLOCs = rlocs }), etr1)
		if n := len(r.take()); n != 0 || r.stat(mapRequestsNoITRRLOC) != 1 {
			t.Errorf("%s: %d replies", name, n)
		}
	}
}

// TestE3_SeveralRecords: all records of a Map-Request are answered, in one
// reply; what is not ours is left out.
func TestE3_SeveralRecords(t *testing.T) {
	r := newRig(t, etrConfig())
	r.receive(request(t, []string{"203.0.113.7"}, []string{"10.7.0.1", "10.1.1.5", "2001:db8:1::9", "10.1.2.5"}, nil), etr1)
	_, recs := answer(t, r.one())
	var got []string
	for _, rec := range recs {
		got = append(got, rec.EID.String())
	}
	slices.Sort(got)
	if want := []string{"10.1.1.0/24", "10.1.2.0/24", "2001:db8:1::/48"}; !slices.Equal(got, want) {
		t.Errorf("records %v, want %v", got, want)
	}
}

// TestE7_LocatorsSorted: a reply has its locators in ascending order, IPv4
// before IPv6, however they were configured.
func TestE7_LocatorsSorted(t *testing.T) {
	cfg := etrConfig()
	locs := []string{"2001:db8:ffff::9", "203.0.113.99", "2001:db8:ffff::1", "9.9.9.9", "203.0.113.2"}
	cfg.Databases = []Database{{EID: eid("10.1.0.0/16")}}
	for _, l := range locs {
		cfg.Databases[0].Locators = append(cfg.Databases[0].Locators, mapping.MakeLocator(addr(l), 1, 1))
	}
	r := newRig(t, cfg)
	r.receive(request(t, []string{"203.0.113.7"}, []string{"10.1.1.5"}, nil), etr1)
	var m wire.MapReply
	if err := m.Decode(r.one().data); err != nil {
		t.Fatal(err)
	}
	var got []string
	for rec := range m.Records.All() {
		for l := range rec.Locators() {
			ip, _ := l.Address.IP()
			got = append(got, ip.String())
		}
	}
	if want := []string{"9.9.9.9", "203.0.113.2", "203.0.113.99", "2001:db8:ffff::1", "2001:db8:ffff::9"}; !slices.Equal(got, want) {
		t.Errorf("locators %v, want %v", got, want)
	}
}

// TestE8_ProbeReplyAuthoritative: the A bit is set in all records of a probe's
// reply, in those of more-specifics too.
func TestE8_ProbeReplyAuthoritative(t *testing.T) {
	r := newRig(t, etrConfig())
	r.receive(request(t, []string{"203.0.113.7"}, []string{"10.1.0.0/16"}, func(m *wire.MapRequest) { m.Probe = true }), etr1)
	m, recs := answer(t, r.one())
	if !m.Probe || len(recs) != 3 {
		t.Fatalf("reply %+v with %d records", m, len(recs))
	}
	for _, rec := range recs {
		if !rec.Authoritative {
			t.Errorf("%v is not authoritative", rec.EID)
		}
	}
}

// TestE10_XTRIDInEveryRegister: with an xTR-ID configured, it stands with the
// Site-ID in every Map-Register: the first, a refresh, a withdrawal.
func TestE10_XTRIDInEveryRegister(t *testing.T) {
	cfg := testConfig()
	cfg.XTRID, cfg.SiteID = mapping.XTRID{1, 2, 15: 3}, 77
	r := newRig(t, cfg)
	r.start()
	r.until(2 * time.Minute)
	if err := r.setDatabases(located("10.1.0.0/16", 1)); err != nil {
		t.Fatal(err)
	}
	r.until(3 * time.Minute)
	r.m.stop(r.now)
	r.collect()
	withdrawn := 0
	for _, s := range r.take() {
		m := register(t, s.data)
		if !m.HasXTRID || m.XTRID != cfg.XTRID || m.SiteID != 77 {
			t.Errorf("at %v: I %v, xTR-ID %x, Site-ID %d", s.at, m.HasXTRID, m.XTRID, m.SiteID)
		}
		for rec := range m.Records.All() {
			if rec.TTL == 0 {
				withdrawn++
			}
		}
	}
	if withdrawn < 2 {
		t.Errorf("%d withdrawals", withdrawn)
	}
	cfg = testConfig()
	cfg.SiteID = 77
	if _, err := New(cfg); err == nil {
		t.Error("a Site-ID without an xTR-ID was accepted")
	}
}

// TestE16_AnycastIdentity: two xTRs that share an anycast locator, and even the
// source of their Map-Registers and the key, are told apart by their xTR-IDs.
func TestE16_AnycastIdentity(t *testing.T) {
	anycast := mapping.MakeLocator(own4, 1, 100)
	seen := map[string]bool{}
	for n := range 2 {
		cfg := testConfig()
		cfg.XTRID = mapping.XTRID{15: byte(n + 1)}
		cfg.MapServers[0].Merge = true
		unique := mapping.MakeLocator(netip.AddrFrom4([4]byte{192, 0, 2, byte(100 + n)}), 1, 100)
		cfg.Databases = []Database{{EID: eid("10.1.0.0/16"), Locators: []mapping.Locator{anycast, unique}}}
		r := newRig(t, cfg)
		r.start()
		s := r.one()
		m := register(t, s.data)
		if !m.Merge || m.Auth.KeyID != key.ID {
			t.Errorf("Map-Register %+v", m)
		}
		who := fmt.Sprintf("source %v key %d xTR %x", s.src, m.Auth.KeyID, m.XTRID)
		if seen[who] {
			t.Errorf("two xTRs register as %s", who)
		}
		seen[who] = true
	}
}

// TestE17_ProxyRegistersAll: with the P bit go all locators of the prefix, those
// of the site's other xTRs too, each with its R bit as it is.
func TestE17_ProxyRegistersAll(t *testing.T) {
	cfg := testConfig()
	far, down := mapping.MakeLocator(addr("203.0.113.99"), 2, 50), mapping.MakeLocator(addr("203.0.113.98"), 1, 50)
	down.Flags &^= mapping.Reachable
	cfg.Databases = []Database{{EID: eid("10.1.0.0/16"), Locators: []mapping.Locator{mapping.MakeLocator(own4, 1, 100), far, down}}}
	cfg.MapServers = []MapServer{{Addr: ms1, Key: key, WantNotify: true, ProxyReply: true}}
	r := newRig(t, cfg)
	r.start()
	s := r.one()
	if m := register(t, s.data); !m.ProxyReply {
		t.Error("no P bit")
	}
	r.out = []sent{s}
	if got, want := r.registered(), []string{"10.1.0.0/16 ttl 1440m, 192.0.2.1 1/100 LR, 203.0.113.98 1/50, 203.0.113.99 2/50 R"}; !slices.Equal(got, want) {
		t.Errorf("registered %q, want %q", got, want)
	}
}

// TestA14_NoProbedBit: the p bit stands in no record of a Map-Register, though
// it was configured or left by a probe, and no Map-Request has a record for it
// to stand in.
func TestA14_NoProbedBit(t *testing.T) {
	cfg := testConfig()
	for i := range cfg.Databases {
		cfg.Databases[i].Locators = []mapping.Locator{mapping.MakeLocator(own4, 1, 100)}
		cfg.Databases[i].Locators[0].Flags |= mapping.Probed
	}
	r := newRig(t, cfg)
	r.receive(request(t, []string{"203.0.113.7"}, []string{"10.1.0.0/16"}, func(m *wire.MapRequest) { m.Probe = true }), etr1)
	r.take()
	r.start()
	r.until(2 * time.Minute)
	n := 0
	for _, s := range r.take() {
		m := register(t, s.data)
		for rec := range m.Records.All() {
			for l := range rec.Locators() {
				n++
				if l.Flags&mapping.Probed != 0 {
					t.Errorf("p bit in a Map-Register at %v", s.at)
				}
			}
		}
	}
	if n == 0 {
		t.Error("no locator was registered")
	}
	for name, b := range allRequests(t, cfg) {
		if b[0]&0x04 != 0 {
			t.Errorf("%s: a Map-Request carries a record", name)
		}
	}
}

// TestE12_SeparateKeys: each map-server gets Map-Registers with its own key
// only, so that no site's key has to be known to another's map-server.
func TestE12_SeparateKeys(t *testing.T) {
	cfg := testConfig()
	other := auth.Key{ID: 9, Algorithm: auth.SHA256HKDF, Secret: []byte("a key for the other one")}
	cfg.MapServers = []MapServer{{Addr: ms1, Key: key, WantNotify: true}, {Addr: mr2, Key: other, WantNotify: true}}
	r := newRig(t, cfg)
	r.start()
	r.until(3 * time.Minute)
	for _, s := range r.take() {
		k := key
		if s.dst == mr2 {
			k = other
		}
		if _, err := auth.Verify(s.data, []auth.Key{k}, auth.SHA256); err != nil {
			t.Errorf("Map-Register to %v: %v", s.dst, err)
		}
	}
}
