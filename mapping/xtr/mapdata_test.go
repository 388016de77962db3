package xtr

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// withMapData is a Map-Request for our 10.1.0.0/16 that carries rec.
func withMapData(t testing.TB, rec *mapping.Record) []byte {
	rs := records(t, rec)
	m := wire.MapRequest{Nonce: 5, ITRRLOCs: []wire.Address{wire.IPAddress(etr1.Addr())},
		EIDs: []wire.RequestRecord{wire.NewRequestRecord(eid("10.1.0.0/16"))}, HasMapData: true}
	for r := range rs.All() {
		m.MapData = r
	}
	return mustEncode(t, &m)
}

// TestE4_MapDataVerified: the mapping that a Map-Request carries is asked for
// through the mapping system, once, and what that says is used.
func TestE4_MapDataVerified(t *testing.T) {
	cfg := noRegister()
	cfg.VerifyMapData = true
	r := newRig(t, cfg)
	forged := rec("10.2.0.0/16", 1440)
	forged.Locators[0].Addr = addr("203.0.113.66")
	r.receive(withMapData(t, forged), etr1)
	r.receive(withMapData(t, forged), etr1)
	out := r.take()
	out = slices.DeleteFunc(out, func(s sent) bool { ty, _ := wire.PeekType(s.data); return ty == wire.TypeMapReply })
	if len(out) != 1 || out[0].dst != mr1 || len(r.cached()) != 0 || len(r.changes) != 0 {
		t.Fatalf("%d requests, cached %v", len(out), r.cached())
	}
	_, m := mapRequest(t, out[0].data)
	if asked(t, m) != eid("10.2.0.0/16") || !m.SourceEID.IsZero() || m.SMRInvoked {
		t.Errorf("asked %+v", m)
	}
	r.check()
	r.until(time.Second) // a lost reply is asked for again
	_, m = mapRequest(t, r.one().data)
	r.receive(reply(t, m.Nonce, rec("10.2.0.0/16", 10)), etr1)
	entry, _ := r.m.itr.cache.Get(eid("10.2.0.0/16"))
	if entry.Record == nil || entry.Record.Locators[0].Addr != etr1.Addr() || entry.Record.TTL != 10 {
		t.Errorf("cached %v", entry.Record)
	}
	r.receive(withMapData(t, forged), etr1) // it is cached now
	if out := r.take(); len(out) > 1 {
		t.Errorf("%d datagrams for a cached mapping", len(out))
	}
}

// TestE4_MapDataIgnored: what cannot be a mapping of another site, and all of
// it by default, causes nothing.
func TestE4_MapDataIgnored(t *testing.T) {
	for name, c := range map[string]struct {
		rec    *mapping.Record
		verify bool
	}{
		"off":       {rec("10.2.0.0/16", 1440), false},
		"ours":      {rec("10.1.3.0/24", 1440), true},
		"negative":  {mapping.NegativeRecord(eid("10.2.0.0/16"), mapping.Drop, 15), true},
		"withdrawn": {rec("10.2.0.0/16", 0), true},
	} {
		cfg := noRegister()
		cfg.VerifyMapData = c.verify
		r := newRig(t, cfg)
		r.receive(withMapData(t, c.rec), etr1)
		if n := r.stat(mapRequestsOut); n != 0 || r.stat(mapDataIgnored) != 1 || len(r.cached()) != 0 {
			t.Errorf("%s: %d requests", name, n)
		}
	}
}

// TestE4_MapDataRate: a flood of mappings is verified at a bounded rate and in
// a bounded part of the table.
func TestE4_MapDataRate(t *testing.T) {
	cfg := noRegister()
	cfg.VerifyMapData = true
	r := newRig(t, cfg)
	for i := range 50_000 {
		e := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 2, byte(i >> 8), byte(i)}), 32)
		r.until(time.Duration(i) * 200 * time.Microsecond)
		r.receive(withMapData(t, rec(e.String(), 1440)), etr1)
	}
	if n := r.stat(mapRequestsVerify); n < 100 || n > 125 {
		t.Errorf("%d verified in 10 s", n)
	}
	r.check()
}
