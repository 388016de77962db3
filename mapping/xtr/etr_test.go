package xtr

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// The example of RFC 9301 section 5.5, and an instance.
func etrConfig() Config {
	c := testConfig()
	c.MapServers = nil
	far := mapping.MakeLocator(addr("203.0.113.99"), 2, 50)
	near4, near6 := mapping.MakeLocator(own4, 1, 100), mapping.MakeLocator(own6, 1, 100)
	c.Databases = nil
	for i, e := range []string{"10.1.0.0/16", "10.1.1.0/24", "10.1.2.0/24", "2001:db8:1::/48", "[7]10.1.0.0/16"} {
		// In no order: the records must be sorted.
		c.Databases = append(c.Databases, Database{EID: eid(e), Locators: []mapping.Locator{near6, far, near4}, TTL: uint32(60 + i)})
	}
	return c
}

// request makes a Map-Request for some EIDs with ITR-RLOCs.
func request(t testing.TB, rlocs []string, eids []string, change func(*wire.MapRequest)) []byte {
	m := wire.MapRequest{Nonce: 0x1122334455667788}
	for _, a := range rlocs {
		m.ITRRLOCs = append(m.ITRRLOCs, wire.IPAddress(addr(a)))
	}
	for _, e := range eids {
		m.EIDs = append(m.EIDs, wire.NewRequestRecord(eid(e)))
	}
	if change != nil {
		change(&m)
	}
	return mustEncode(t, &m)
}

// forwarded wraps a Map-Request as a map-server does.
func forwarded(t testing.TB, msg []byte, src string) []byte {
	s := netip.MustParseAddrPort(src)
	dst := netip.AddrPortFrom(addr("10.1.0.1"), 4342)
	if !s.Addr().Is4() {
		dst = netip.AddrPortFrom(addr("2001:db8:1::1"), 4342)
	}
	return mustEncode(t, &wire.ECM{Src: s, Dst: dst, Message: msg})
}

// answer decodes a Map-Reply.
func answer(t testing.TB, d sent) (wire.MapReply, []*mapping.Record) {
	t.Helper()
	var m wire.MapReply
	if err := m.Decode(d.data); err != nil {
		t.Fatal(err)
	}
	var recs []*mapping.Record
	for r := range m.Records.All() {
		rec, err := r.Mapping()
		if err != nil {
			t.Fatal(err)
		}
		// Mapping sorts: make sure that there was nothing to sort.
		var order []string
		for l := range r.Locators() {
			ip, _ := l.Address.IP()
			order = append(order, ip.String())
		}
		for i, l := range rec.Locators {
			if l.Addr.String() != order[i] {
				t.Errorf("locators of %v are not sorted: %v", rec.EID, order)
			}
		}
		recs = append(recs, rec)
	}
	return m, recs
}

func TestE6_MoreSpecificsInOneReply(t *testing.T) {
	itr := []string{"203.0.113.7"}
	for _, c := range []struct {
		name  string
		rlocs []string
		eids  []string
		want  []string // EIDs of the reply
		ttl   uint32
	}{
		{"host in the /24", itr, []string{"10.1.1.5"}, []string{"10.1.1.0/24"}, 61},
		{"host in the /16", itr, []string{"10.1.5.5"}, []string{"10.1.0.0/16", "10.1.1.0/24", "10.1.2.0/24"}, 60},
		{"the prefix itself", itr, []string{"10.1.0.0/16"}, []string{"10.1.0.0/16", "10.1.1.0/24", "10.1.2.0/24"}, 60},
		{"IPv6", itr, []string{"2001:db8:1::9"}, []string{"2001:db8:1::/48"}, 63},
		{"instance", itr, []string{"[7]10.1.1.5"}, []string{"[7]10.1.0.0/16"}, 64},
		{"two records", itr, []string{"10.1.1.5", "2001:db8:1::9"}, []string{"10.1.1.0/24", "2001:db8:1::/48"}, 61},
		{"one of two is ours", itr, []string{"10.7.1.5", "10.1.2.5"}, []string{"10.1.2.0/24"}, 62},
		{"twice the same prefix", itr, []string{"10.1.1.5", "10.1.1.6"}, []string{"10.1.1.0/24"}, 61},
		{"both families to choose", []string{"2001:db8:ffff::7", "203.0.113.7"}, []string{"10.1.1.5"}, []string{"10.1.1.0/24"}, 61},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, etrConfig())
			r.receive(forwarded(t, request(t, c.rlocs, c.eids, nil), "203.0.113.7:61000"), ms1)
			d := r.one()
			src, _ := r.m.source(addr(c.rlocs[0]))
			if want := netip.AddrPortFrom(addr(c.rlocs[0]), 61000); d.dst != want || d.src != src {
				t.Errorf("sent from %v to %v, want to %v", d.src, d.dst, want)
			}
			m, recs := answer(t, d)
			if m.Nonce != 0x1122334455667788 || m.Probe || m.Security || m.EchoNonce {
				t.Errorf("reply %+v", m)
			}
			var got []string
			for _, rec := range recs {
				got = append(got, rec.EID.String())
				if !rec.Authoritative || rec.TTL != c.ttl || rec.Action != 0 {
					t.Errorf("record %v: A %v, TTL %d, want %d", rec.EID, rec.Authoritative, rec.TTL, c.ttl)
				}
				want := []mapping.Locator{
					{Addr: own4, Priority: 1, Weight: 100, MPriority: 255, Flags: mapping.Reachable | mapping.Local},
					{Addr: addr("203.0.113.99"), Priority: 2, Weight: 50, MPriority: 255, Flags: mapping.Reachable},
					{Addr: own6, Priority: 1, Weight: 100, MPriority: 255, Flags: mapping.Reachable | mapping.Local},
				}
				if !slices.Equal(rec.Locators, want) {
					t.Errorf("locators %v", rec.Locators)
				}
			}
			slices.Sort(got)
			slices.Sort(c.want)
			if !slices.Equal(got, c.want) {
				t.Errorf("records %v, want %v", got, c.want)
			}
		})
	}
}

func TestMapRequestsDropped(t *testing.T) {
	itr := []string{"203.0.113.7"}
	ours := []string{"10.1.1.5"}
	direct := func(b []byte) []byte { return b }
	ecm := func(b []byte) []byte { return forwarded(t, b, "203.0.113.7:61000") }
	flag := func(f func(*wire.MapRequest)) func(*wire.MapRequest) { return f }
	for _, c := range []struct {
		name  string
		msg   []byte
		count counter
	}{
		{"not ours", ecm(request(t, itr, []string{"10.7.0.1"}, nil)), mapRequestsNotOurs},
		{"less specific than ours", ecm(request(t, itr, []string{"10.0.0.0/8"}, nil)), mapRequestsNotOurs},
		{"our prefix in another instance", ecm(request(t, itr, []string{"[8]10.1.0.1"}, nil)), mapRequestsNotOurs},
		{"no record", ecm(request(t, itr, nil, nil)), mapRequestsNotOurs},
		{"only AFI 0 as ITR-RLOC", ecm(request(t, nil, ours, flag(func(m *wire.MapRequest) { m.ITRRLOCs = []wire.Address{{}} }))), mapRequestsNoITRRLOC},
		{"multicast ITR-RLOC", ecm(request(t, []string{"224.0.0.5", "ff02::1"}, ours, nil)), mapRequestsNoITRRLOC},
		{"broadcast ITR-RLOC", ecm(request(t, []string{"255.255.255.255"}, ours, nil)), mapRequestsNoITRRLOC},
		{"loopback ITR-RLOC", ecm(request(t, []string{"127.0.0.1", "::1"}, ours, nil)), mapRequestsNoITRRLOC},
		{"ITR-RLOC in our EIDs", ecm(request(t, []string{"10.1.0.1"}, ours, nil)), mapRequestsNoITRRLOC},
		{"D bit", ecm(request(t, itr, ours, flag(func(m *wire.MapRequest) { m.NoReply = true }))), mapRequestsNoReply},
		{"probe in an ECM", ecm(request(t, itr, ours, flag(func(m *wire.MapRequest) { m.Probe = true }))), mapRequestsProbeEncapsulated},
		{"inner port 0", forwarded(t, request(t, itr, ours, nil), "203.0.113.7:0"), mapRequestsNoITRRLOC},
		{"truncated", direct(request(t, itr, ours, nil)[:20]), controlMalformed},
		{"ECM of a reply", ecm(reply(t, 1)), controlUnexpected},
		{"ECM of nothing", ecm(nil), controlUnexpected},
		{"broken ECM", ecm(request(t, itr, ours, nil))[:30], controlMalformed},
		{"ECM to the data port", mustEncode(t, &wire.ECM{Src: etr1, Dst: netip.MustParseAddrPort("10.1.0.1:4341"), Message: request(t, itr, ours, nil)}), controlUnexpected},
		{"Map-Register", []byte{0x30, 0, 0, 0}, controlUnexpected},
		{"unknown type", []byte{0xa0, 0, 0, 0}, controlMalformed},
		{"nothing", nil, controlMalformed},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, etrConfig())
			r.receive(c.msg, ms1)
			if n := len(r.take()); n != 0 {
				t.Errorf("%d datagrams sent", n)
			}
			if r.stat(c.count) != 1 {
				t.Errorf("%s is %d", counterTable[c.count].name, r.stat(c.count))
			}
		})
	}
	t.Run("no RLOC of the family", func(t *testing.T) {
		cfg := etrConfig()
		cfg.RLOCs = []netip.Addr{own4}
		r := newRig(t, cfg)
		r.receive(ecm(request(t, []string{"2001:db8:ffff::7"}, ours, nil)), ms1)
		if len(r.take()) != 0 || r.stat(mapRequestsNoITRRLOC) != 1 {
			t.Error("replied without a source")
		}
		r.receive(ecm(request(t, []string{"2001:db8:ffff::7", "203.0.113.7"}, ours, nil)), ms1)
		if d := r.one(); d.dst.Addr() != addr("203.0.113.7") {
			t.Errorf("replied to %v", d.dst)
		}
	})
}

// TestReplySource: a reply leaves from the address that was asked, if it is of
// the right family.
func TestReplySource(t *testing.T) {
	second := addr("192.0.2.99")
	cfg := etrConfig()
	cfg.RLOCs = []netip.Addr{own4, second, own6}
	for _, c := range []struct{ at, rloc, from string }{
		{"192.0.2.99", "203.0.113.7", "192.0.2.99"},
		{"192.0.2.1", "203.0.113.7", "192.0.2.1"},
		{"2001:db8:ffff::1", "203.0.113.7", "192.0.2.1"},
		{"192.0.2.99", "2001:db8:ffff::7", "2001:db8:ffff::1"},
		{"192.0.2.100", "203.0.113.7", "192.0.2.1"}, // not an RLOC
	} {
		r := newRig(t, cfg)
		r.m.receive(r.now, request(t, []string{c.rloc}, []string{"10.1.1.5"}, nil), etr1, netip.AddrPortFrom(addr(c.at), 4342))
		r.collect()
		if d := r.one(); d.src != netip.AddrPortFrom(addr(c.from), 4342) {
			t.Errorf("asked at %s for %s: from %v, want %s", c.at, c.rloc, d.src, c.from)
		}
	}
}

func TestE1_ProbeReply(t *testing.T) {
	probe := request(t, []string{"198.51.100.77", "203.0.113.7"}, []string{"10.1.1.0/24"}, func(m *wire.MapRequest) { m.Probe = true })
	for _, at := range []netip.Addr{own4, own6} {
		r := newRig(t, etrConfig())
		r.m.receive(r.now, probe, netip.MustParseAddrPort("203.0.113.7:50000"), netip.AddrPortFrom(at, 4342))
		r.collect()
		d := r.one()
		// The ITR-RLOC that sent it is preferred to the first one, and the
		// reply leaves from the probed address where that is possible.
		if d.dst != netip.MustParseAddrPort("203.0.113.7:50000") || d.src != local {
			t.Errorf("sent from %v to %v", d.src, d.dst)
		}
		m, recs := answer(t, d)
		if !m.Probe || m.Nonce != 0x1122334455667788 {
			t.Errorf("reply %+v", m)
		}
		for _, rec := range recs {
			if !rec.Authoritative {
				t.Error("a record without the A bit in a probe reply")
			}
			for _, l := range rec.Locators {
				if probed := l.Flags&mapping.Probed != 0; probed != (l.Addr == at) {
					t.Errorf("probed at %v: p bit of %v is %v", at, l.Addr, probed)
				}
			}
		}
		// It does not stick to the database.
		r.receive(request(t, []string{"203.0.113.7"}, []string{"10.1.1.5"}, nil), etr1)
		_, recs = answer(t, r.one())
		for _, l := range recs[0].Locators {
			if l.Flags&mapping.Probed != 0 {
				t.Error("p bit in an ordinary reply")
			}
		}
	}
}

// TestE5_ReplyRate: for each (RLOC, EID-prefix) a burst, then one in 3 s.
func TestE5_ReplyRate(t *testing.T) {
	r := newRig(t, etrConfig())
	counts := map[string][]time.Duration{}
	for n := range 100 {
		r.until(time.Duration(n) * 100 * time.Millisecond)
		for _, rloc := range []string{"203.0.113.7", "203.0.113.8"} {
			for _, e := range []string{fmt.Sprintf("10.1.1.%d", n), "10.1.2.5"} { // the prefix counts, not the host
				r.receive(forwarded(t, request(t, []string{rloc}, []string{e}, nil), "203.0.113.7:4342"), ms1)
				for _, d := range r.take() {
					k := rloc + " " + e[:strings.LastIndex(e, ".")]
					counts[k] = append(counts[k], d.at)
				}
			}
		}
	}
	if len(counts) != 4 {
		t.Errorf("replies for %d keys, want 4", len(counts))
	}
	for k, got := range counts {
		if want := seconds(0, 0.1, 0.2, 3, 6, 9); !slices.Equal(got, want) {
			t.Errorf("%s: replies at %v, want %v", k, got, want)
		}
	}
	// Probes have their own bucket.
	probe := request(t, []string{"203.0.113.7"}, []string{"10.1.1.0/24"}, func(m *wire.MapRequest) { m.Probe = true })
	n := 0
	for range 20 {
		r.receive(probe, etr1)
		n += len(r.take())
	}
	if n != probeBurst {
		t.Errorf("%d probes answered at once, want %d", n, probeBurst)
	}
}

// TestE6_TooManyMoreSpecifics: too many more-specifics for one message are answered with the
// part around the question that has none.
func TestE6_TooManyMoreSpecifics(t *testing.T) {
	cfg := etrConfig()
	cfg.Databases = []Database{{EID: eid("10.1.0.0/16"), Locators: []mapping.Locator{mapping.MakeLocator(own4, 1, 1)}}}
	for i := range 100 {
		cfg.Databases = append(cfg.Databases, Database{EID: eid(fmt.Sprintf("10.1.%d.0/24", i)), Locators: cfg.Databases[0].Locators})
	}
	for _, c := range []struct{ asked, want string }{
		{"10.1.200.1", "10.1.128.0/17"}, // the /24s end at 10.1.99.0
		{"10.1.100.1", "10.1.100.0/22"},
		{"10.1.5.5", "10.1.5.0/24"},
		{"10.1.0.0/16", "10.1.0.0/24"}, // the part that the question went to
	} {
		r := newRig(t, cfg)
		r.receive(request(t, []string{"203.0.113.7"}, []string{c.asked}, nil), etr1)
		d := r.one()
		if len(d.data) > maxPayload4 {
			t.Errorf("reply of %d octets", len(d.data))
		}
		_, recs := answer(t, d)
		if len(recs) != 1 || recs[0].EID.String() != c.want {
			t.Errorf("%s: answered %v, want %s", c.asked, recs, c.want)
		}
	}
	// Where the path carries it, all of them fit.
	cfg.MaxMessage = 8000
	r := newRig(t, cfg)
	r.receive(request(t, []string{"203.0.113.7"}, []string{"10.1.200.1"}, nil), etr1)
	if _, recs := answer(t, r.one()); len(recs) != 101 {
		t.Errorf("%d records, want 101", len(recs))
	}
}
