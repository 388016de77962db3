package server

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/alt"
	"github.com/eidolon-lisp/eidolon/mapping/auth"
	"github.com/eidolon-lisp/eidolon/mapping/bgp"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// tunnels remember the packets that they were given.
type tunnels struct{ sent []crossing }

type crossing struct {
	by   alt.Link
	next netip.Addr
	wire.ECM
}

func (x *tunnels) Send(by alt.Link, next netip.Addr, packet []byte) error {
	c := crossing{by: by, next: next}
	if err := c.DecodePacket(append([]byte(nil), packet...)); err != nil {
		return err
	}
	x.sent = append(x.sent, c)
	return nil
}

// altBench is a map-server with sites in an overlay: tunnel 0 leads up, 1 down.
func altBench(t *testing.T) (*bench, *tunnels, *alt.Router) {
	t.Helper()
	links := new(tunnels)
	router, err := alt.New(alt.Config{
		Tunnels:    [][]netip.Prefix{{netip.MustParsePrefix("172.16.0.1/30"), netip.MustParsePrefix("fd00::1/64")}, {netip.MustParsePrefix("172.16.1.1/30")}},
		Aggregates: []alt.Aggregate{{Prefix: netip.MustParsePrefix("10.32.0.0/11"), Components: []netip.Prefix{netip.MustParsePrefix("10.33.0.0/16"), netip.MustParsePrefix("10.34.0.0/16")}}},
	}, links)
	if err != nil {
		t.Fatal(err)
	}
	var list []bgp.Received
	for p, next := range map[string]string{"10.0.0.0/8": "172.16.0.2", "10.2.7.0/24": "172.16.1.2", "10.33.0.0/16": "172.16.1.2", "2001:db8::/32": "fd00::2"} {
		list = append(list, bgp.Received{Prefix: netip.MustParsePrefix(p), From: addr(next), NextHop: addr(next)})
	}
	router.Update(list)
	cfg := securedSites()
	cfg.LISPSec.Instances = map[uint32]auth.SecurityPolicy{7: auth.SecurityRequired}
	cfg.ALT = router
	return newBench(t, cfg, newMemStore()), links, router
}

// What is here is answered here, if nothing longer is elsewhere; what neither the
// ALT nor anybody here has is a hole of both.
func TestLA1_Routes(t *testing.T) {
	b, links, _ := altBench(t)
	b.register(registering{proxy: true, records: []*mapping.Record{rec("10.1.0.0/16", "192.0.2.1")}})
	b.register(registering{key: rightKey, proxy: true, records: []*mapping.Record{rec("10.2.0.0/16", "192.0.2.2")}})
	for _, c := range []struct {
		why, ask string
		want     []string // none: over the ALT
		by       alt.Link
	}{
		{"a site of ours", "10.1.2.5", []string{"10.1.0.0/16 ttl 1m, 192.0.2.1 1/100 R", "10.1.64.0/20 ttl 1m natively-forward", "10.1.128.0/20 ttl 1m natively-forward"}, 0},
		{"a part of it that is elsewhere", "10.2.7.5", nil, 1},
		{"the rest of it, without that part", "10.2.8.5", []string{"10.2.8.0/21 ttl 1440m, 192.0.2.2 1/100 R"}, 0},
		{"somebody else's", "10.200.0.1", nil, 0},
		{"a component that is up", "10.33.0.1", nil, 1},
		{"a component that is down", "10.34.0.1", []string{"10.34.0.0/16 ttl 1m drop"}, 0},
		{"a hole of our aggregate", "10.40.0.1", []string{"10.40.0.0/13 ttl 15m natively-forward"}, 0},
		{"a hole of the ALT", "11.0.0.1", []string{"11.0.0.0/8 ttl 15m natively-forward"}, 0},
		{"IPv6", "2001:db8:99::1", nil, 0},
		{"the ALT has no instances", "[9]10.200.0.1", []string{"[9]0.0.0.0/0 ttl 15m natively-forward"}, 0},
	} {
		links.sent = nil
		x := b.s.Explain(eid(c.ask), itr4.Addr())
		if c.want != nil {
			b.wantAnswer(c.ask, c.want...)
			if len(links.sent) > 0 {
				t.Errorf("%s: sent over the ALT too", c.why)
			}
			continue
		}
		q := asking{eids: []mapping.EID{eid(c.ask)}, hops: 9}
		if strings.Contains(c.ask, "::") {
			q.src, q.from = itr6, itr4
		}
		out := b.ask(q)
		if len(out) != 0 || len(links.sent) != 1 {
			t.Errorf("%s: %d answers, %d over the ALT", c.why, len(out), len(links.sent))
			continue
		}
		got := links.sent[0]
		if got.by != c.by || got.HopLimit != 8 || got.Src != q.defaults().src || got.Dst != netip.AddrPortFrom(eid(c.ask).Prefix.Addr(), 4342) {
			t.Errorf("%s: %+v", c.why, got)
		}
		if x.Outcome != OutcomeALT || !strings.Contains(x.Reasons[0], "the ALT has a longer route") {
			t.Errorf("%s: explained by %v %q", c.why, x.Outcome, x.Reasons)
		}
	}
	if x := b.s.Explain(eid("10.34.0.1"), itr4.Addr()); x.Outcome != OutcomeNegative || !strings.Contains(x.Reasons[0], "nobody announces it now") {
		t.Errorf("%v %q", x.Outcome, x.Reasons)
	}
}

// A Map-Request that comes over the ALT is answered to the ITR over the underlay,
// forwarded to an ETR, or goes on, and never in circles.
func TestLA6_Forwarding(t *testing.T) {
	b, links, _ := altBench(t)
	b.register(registering{key: rightKey, records: []*mapping.Record{rec("10.2.0.0/16", "192.0.2.2")}})
	come := func(e string, by alt.Link, hops uint8, change func(*wire.MapRequest)) []datagram {
		q := asking{eids: []mapping.EID{eid(e)}, bare: true, change: change}.defaults()
		links.sent = nil
		return b.r.handleALT(b.now, alt.Request{Message: encodeRequest(t, q), Src: itr4, Dst: netip.AddrPortFrom(eid(e).Prefix.Addr(), 4342), HopLimit: hops, By: by})
	}
	out := come("10.2.3.4", 0, 5, nil)
	var ecm wire.ECM
	if len(out) != 1 || out[0].dst != etr2 || ecm.Decode(out[0].payload) != nil || ecm.Src != itr4 || ecm.HopLimit != 4 {
		t.Fatalf("to an ETR: %+v %+v", out, ecm)
	}
	out = come("10.40.0.1", 0, 5, nil)
	if len(out) != 1 || out[0].dst != itr4 {
		t.Fatalf("a negative answer: %+v", out)
	}
	if got := records(t, out[0].payload); len(got) != 1 || got[0].String() != "10.40.0.0/13 ttl 15m natively-forward" {
		t.Errorf("a negative answer: %v", got)
	}
	if out := come("10.33.1.1", 0, 5, nil); len(out) != 0 || len(links.sent) != 1 || links.sent[0].by != 1 || links.sent[0].HopLimit != 4 || links.sent[0].Src != itr4 {
		t.Errorf("down: %+v %+v", out, links.sent)
	}
	var xtr mapping.XTRID
	xtr[3] = 9
	come("10.33.1.1", 0, 5, func(m *wire.MapRequest) { m.HasXTRID, m.XTRID = true, xtr })
	var m wire.MapRequest
	if len(links.sent) != 1 || m.Decode(links.sent[0].Message) != nil || m.HasXTRID || len(m.EIDs) != 1 {
		t.Errorf("who asks is told: %+v", m)
	}
	for why, c := range map[string]struct {
		drop   counter
		e      string
		by     alt.Link
		hops   uint8
		change func(*wire.MapRequest)
	}{
		"back where it came from":  {dropALTLoop, "10.33.1.1", 1, 5, nil},
		"the last hop":             {dropHopLimit, "10.33.1.1", 0, 1, nil},
		"the last hop, to an ETR":  {dropHopLimit, "10.2.3.4", 0, 1, nil},
		"a probe":                  {dropProbe, "10.33.1.1", 0, 5, func(m *wire.MapRequest) { m.Probe = true }},
		"for several EID-prefixes": {dropTooManyRecords, "10.33.1.1", 0, 5, func(m *wire.MapRequest) { m.EIDs = append(m.EIDs, m.EIDs[0]) }},
	} {
		before := b.count(c.drop)
		if out := come(c.e, c.by, c.hops, c.change); len(out) != 0 || len(links.sent) != 0 || b.count(c.drop) != before+1 {
			t.Errorf("%s: %d answers, %d over the ALT, %v %d times", why, len(out), len(links.sent), c.drop, b.count(c.drop)-before)
		}
	}
	if out := b.r.handleALT(b.now, alt.Request{Message: []byte{0x10}, Src: itr4}); len(out) != 0 || b.count(dropMalformed) != 1 {
		t.Errorf("malformed: %+v", out)
	}
	// An ITR that asks for several gets each to where it belongs.
	links.sent = nil
	b.ask(asking{eids: []mapping.EID{eid("10.33.1.1"), eid("10.200.0.1")}, hops: 9})
	if len(links.sent) != 2 || links.sent[0].by != 1 || links.sent[1].by != 0 || m.Decode(links.sent[1].Message) != nil || len(m.EIDs) != 1 {
		t.Errorf("%+v", links.sent)
	}
	stats := make(map[string]uint64)
	for name, v := range b.s.Stats() {
		stats[name] = v
	}
	if stats["alt_sent"] != 4 || stats["alt_map_requests"] != 10 || stats["alt_routes"] != 4 {
		t.Errorf("%v", stats)
	}
}

// What LISP-SEC protects does not cross, as the key in it would be in the open; an
// answer from here is protected as any. What must be protected is denied, whatever
// was asked before.
func TestALTProtected(t *testing.T) {
	b, links, _ := altBench(t)
	if out := b.askProtected(protected{eids: []mapping.EID{eid("10.200.0.1")}}); len(out) != 0 || len(links.sent) != 0 || b.count(dropALTSecured) != 1 {
		t.Errorf("%d answers, %d over the ALT, %d dropped", len(out), len(links.sent), b.count(dropALTSecured))
	}
	if got := b.verified(b.askProtected(protected{eids: []mapping.EID{eid("10.34.0.1")}})); len(got.records) != 1 || !strings.Contains(got.records[0], "drop") {
		t.Errorf("%+v", got)
	}
	b.ask(asking{eids: []mapping.EID{eid("10.200.0.1")}})
	b.wantAnswer("[7]10.200.0.1", "[7]10.200.0.1/32 ttl 1m drop-policy-denied")
	if len(links.sent) != 1 {
		t.Errorf("%d over the ALT", len(links.sent))
	}
}
