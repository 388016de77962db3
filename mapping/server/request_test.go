package server

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// TestS8_Answers walks through RFC 9301 section 8.3 and the overlap rule of 5.5.
func TestS8_Answers(t *testing.T) {
	b := newBench(t, twoSites(), newMemStore())
	b.register(registering{proxy: true, records: []*mapping.Record{rec("10.1.0.0/16", "192.0.2.1"), withTTL(60, rec("10.1.1.0/24", "192.0.2.3"))}})
	b.register(registering{proxy: true, records: []*mapping.Record{rec("2001:db8:1::/48", "2001:db8::1", "192.0.2.1")}})
	b.register(registering{proxy: true, records: []*mapping.Record{rec("[7]10.1.0.0/16", "192.0.2.7")}})
	b.register(registering{key: rightKey, records: []*mapping.Record{rec("10.2.0.0/16", "192.0.2.2")}})
	b.register(registering{key: rightKey, records: []*mapping.Record{rec("10.3.0.0/16", "192.0.2.2")}})
	b.register(registering{key: rightKey, proxy: true, records: []*mapping.Record{rec("10.4.0.0/16", "192.0.2.2")}})
	put := []*mapping.Record{rec("10.64.0.0/10", "203.0.113.1"), rec("10.96.0.0/16", "203.0.113.2"), rec("10.9.0.0/16", "203.0.113.3"), rec("10.3.0.0/16", "203.0.113.4"),
		mapping.NegativeRecord(eid("10.97.0.0/16"), mapping.Drop, 5)}
	if err := b.s.Put(t.Context(), put); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		why, ask string
		want     []string
	}{
		{"the longest match, alone", "10.1.1.5", []string{"10.1.1.0/24 ttl 60m, 192.0.2.3 1/100 R"}},
		{"with its more-specifics, the configured and unregistered ones too, of one TTL", "10.1.2.5", []string{
			"10.1.0.0/16 ttl 1m, 192.0.2.1 1/100 R", "10.1.1.0/24 ttl 1m, 192.0.2.3 1/100 R",
			"10.1.64.0/20 ttl 1m natively-forward", "10.1.128.0/20 ttl 1m natively-forward"}},
		{"IPv6 EID, both families of RLOC", "2001:db8:1::99", []string{"2001:db8:1::/48 ttl 1440m, 192.0.2.1 1/100 R, 2001:db8::1 1/100 R"}},
		{"an instance of its own", "[7]10.1.1.5", []string{"[7]10.1.0.0/16 ttl 1440m, 192.0.2.7 1/100 R"}},
		{"not the instance", "[8]10.1.1.5", []string{"[8]0.0.0.0/0 ttl 15m natively-forward"}},
		{"no proxy: to the ETR", "10.2.3.4", []string{"forwarded to 192.0.2.2:4342"}},
		{"proxy by policy", "10.3.3.4", []string{"10.3.0.0/16 ttl 1440m, 192.0.2.2 1/100 R"}},
		{"no proxy by policy", "10.4.3.4", []string{"forwarded to 192.0.2.2:4342"}},
		{"configured, not registered", "10.1.64.5", []string{"10.1.64.0/20 ttl 1m natively-forward"}},
		{"static before API", "10.9.9.9", []string{"10.9.0.0/16 ttl 1440m, 203.0.113.9 1/100 R"}},
		{"static and negative", "10.8.9.9", []string{"10.8.0.0/16 ttl 30m drop-policy-denied"}},
		{"API, with more-specifics", "10.64.0.1", []string{"10.64.0.0/10 ttl 5m, 203.0.113.1 1/100 R", "10.96.0.0/16 ttl 5m, 203.0.113.2 1/100 R", "10.97.0.0/16 ttl 5m drop"}},
		{"API, negative", "10.97.0.1", []string{"10.97.0.0/16 ttl 5m drop"}},
		{"a hole", "11.0.0.1", []string{"11.0.0.0/8 ttl 15m natively-forward"}},
		{"a hole between", "10.5.5.5", []string{"10.5.0.0/16 ttl 15m natively-forward"}},
		{"the other half of everything", "192.0.2.1", []string{"128.0.0.0/1 ttl 15m natively-forward"}},
		{"an IPv6 hole", "2001:db8:2::1", []string{"2001:db8:2::/47 ttl 15m natively-forward"}},
		{"a prefix, exactly", "10.1.1.0/24", []string{"10.1.1.0/24 ttl 60m, 192.0.2.3 1/100 R"}},
		{"a prefix inside", "10.1.1.128/25", []string{"10.1.1.0/24 ttl 60m, 192.0.2.3 1/100 R"}},
		{"a prefix that nothing covers, with all inside", "10.8.0.0/14", []string{
			"10.8.0.0/14 ttl 15m natively-forward", "10.8.0.0/16 ttl 15m drop-policy-denied", "10.9.0.0/16 ttl 15m, 203.0.113.9 1/100 R"}},
		{"a prefix with an ETR's inside: its first address alone", "10.4.0.0/14", []string{"forwarded to 192.0.2.2:4342"}},
	} {
		t.Run(c.why, func(t *testing.T) { b.t = t; b.wantAnswer(c.ask, c.want...) })
	}
	b.t = t
	b.check()
	if got := b.count(forwardedMapRequests); got != 3 {
		t.Errorf("%d Map-Requests forwarded, want 3", got)
	}
	if got := b.count(negativeMapReplies); got != 9 {
		t.Errorf("%d negative Map-Replies, want 9", got)
	}
}

// TestReplyAddresses: a Map-Reply goes to an ITR-RLOC and to the port that the
// Map-Request came from, with its nonce, and leaves from where we were asked.
func TestReplyAddresses(t *testing.T) {
	v4, v6 := itr4.Addr(), itr6.Addr()
	for _, c := range []struct {
		name     string
		q        asking
		listen   []netip.AddrPort
		src, dst string // of the Map-Reply; "" when it is dropped
	}{
		{"ECM: the port of the inner header", asking{src: itr4, from: netip.MustParseAddrPort("192.0.2.99:33333")}, nil, "198.51.100.1:4342", "192.0.2.10:61000"},
		{"bare: the port of the packet", asking{bare: true, src: itr4}, nil, "198.51.100.1:4342", "192.0.2.10:61000"},
		{"the family that the request came in", asking{itr: []netip.Addr{v6, v4}}, nil, "198.51.100.1:4342", "192.0.2.10:61000"},
		{"the family that the request came in", asking{itr: []netip.Addr{v4, v6}, to: local6, from: itr6}, nil, "[2001:db8:ff::1]:4342", "[2001:db8:aa::10]:61000"},
		{"another family", asking{itr: []netip.Addr{v6}}, nil, "", "[2001:db8:aa::10]:61000"},
		{"no socket of the other family", asking{itr: []netip.Addr{v6}}, []netip.AddrPort{local4}, "", ""},
		{"the one that the request came from", asking{itr: []netip.Addr{addr("192.0.2.77"), v4}}, nil, "198.51.100.1:4342", "192.0.2.10:61000"},
		{"the first that can be used", asking{itr: []netip.Addr{addr("224.0.0.1"), addr("0.0.0.0"), addr("127.0.0.1"), addr("192.0.2.77"), v4}, from: netip.MustParseAddrPort("192.0.2.99:4342")}, nil, "198.51.100.1:4342", "192.0.2.77:61000"},
		{"loopback, from afar", asking{itr: []netip.Addr{addr("127.0.0.1")}}, nil, "", ""},
		{"loopback, from loopback", asking{itr: []netip.Addr{addr("127.0.0.1")}, from: netip.MustParseAddrPort("127.0.0.1:5000"), to: netip.MustParseAddrPort("127.0.0.1:4342")}, nil, "127.0.0.1:4342", "127.0.0.1:61000"},
		{"link-local", asking{itr: []netip.Addr{addr("fe80::1")}}, nil, "", ""},
		{"no port to answer to", asking{src: netip.AddrPortFrom(v4, 0)}, nil, "", ""},
	} {
		cfg := twoSites()
		cfg.Listen = c.listen
		b := newBench(t, cfg, nil)
		c.q.eids, c.q.nonce = []mapping.EID{eid("11.0.0.1")}, 0xfeedfacecafebeef
		out := b.ask(c.q)
		if c.dst == "" {
			b.wantDrop(c.name, dropNoITRRLOC, out, 0)
			continue
		}
		if len(out) != 1 {
			t.Errorf("%s: %d datagrams", c.name, len(out))
			continue
		}
		var m wire.MapReply
		if err := m.Decode(out[0].payload); err != nil || m.Nonce != c.q.nonce {
			t.Errorf("%s: nonce %x, %v", c.name, m.Nonce, err)
		}
		src := ""
		if out[0].src.IsValid() {
			src = out[0].src.String()
		}
		if src != c.src || out[0].dst.String() != c.dst {
			t.Errorf("%s: from %q to %v, want from %q to %s", c.name, src, out[0].dst, c.src, c.dst)
		}
	}
}

// TestDrops: every Map-Request that is not answered has its counter.
func TestDrops(t *testing.T) {
	change := func(f func(*wire.MapRequest)) asking {
		return asking{eids: []mapping.EID{eid("11.0.0.1")}, change: f}
	}
	many := asking{}
	for i := range maxRequestRecords + 1 {
		many.eids = append(many.eids, mapping.HostEID(0, netip.AddrFrom4([4]byte{11, 0, 0, byte(i)})))
	}
	name := wire.RequestRecord{EID: mustAddress(t, []byte("\x00\x11name\x00"))}
	for _, c := range []struct {
		name string
		q    asking
		want counter
	}{
		{"a probe", change(func(m *wire.MapRequest) { m.Probe = true }), dropProbe},
		{"an SMR", change(func(m *wire.MapRequest) { m.SMR = true }), dropSMR},
		{"no reply wanted", change(func(m *wire.MapRequest) { m.NoReply = true }), dropNoReplyWanted},
		{"an ITR-RLOC of no family", change(func(m *wire.MapRequest) { m.ITRRLOCs = []wire.Address{{}} }), dropNoITRRLOC},
		{"no EID", asking{}, dropNoEID},
		{"too many EIDs", many, dropTooManyRecords},
		{"a name for an EID", change(func(m *wire.MapRequest) { m.EIDs = []wire.RequestRecord{name} }), dropNotIPEID},
	} {
		for _, bare := range []bool{false, true} {
			b := newBench(t, twoSites(), nil)
			q := c.q
			q.bare = bare
			b.wantDrop(fmt.Sprintf("%s, bare %v", c.name, bare), c.want, b.ask(q), 0)
			if b.count(mapRequests) != 1 {
				t.Errorf("%s: not counted as a Map-Request", c.name)
			}
		}
	}
	b := newBench(t, twoSites(), nil)
	good := encodeRequest(t, asking{eids: []mapping.EID{eid("11.0.0.1")}}.defaults())
	inner := encodeRequest(t, asking{eids: []mapping.EID{eid("11.0.0.1")}, bare: true}.defaults())
	wrap := func(msg []byte) []byte {
		e := wire.ECM{Src: itr4, Dst: local4, Message: msg}
		out, err := e.AppendBinary(nil)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	for _, c := range []struct {
		name string
		msg  []byte
		want counter
	}{
		{"nothing", nil, dropMalformed},
		{"half an ECM", good[:len(good)/2], dropMalformed},
		{"half a Map-Request", inner[:len(inner)-3], dropMalformed},
		{"half a Map-Request in an ECM", wrap(inner[:len(inner)-3]), dropMalformed},
		{"an ECM in an ECM", wrap(good), dropUnexpectedType},
		{"a Map-Register in an ECM", wrap(b.encode(registering{records: []*mapping.Record{rec("10.1.0.0/16", "192.0.2.1")}})), dropUnexpectedType},
		{"a Map-Reply", []byte{0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, dropMapReply},
		{"a type that nobody knows", []byte{0xd0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, dropMalformed},
	} {
		before := b.count(c.want)
		b.wantDrop(c.name, c.want, b.deliver(c.msg, itr4, local4), before)
	}
}

func mustAddress(t testing.TB, b []byte) wire.Address {
	a, _, err := wire.DecodeAddress(b)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// TestA4_MalformedIsLogged: an unknown address family is logged (RFC 9301 section
// 5.1), but a flood of such messages does not fill the disk.
func TestA4_MalformedIsLogged(t *testing.T) {
	var log bytes.Buffer
	cfg := twoSites()
	cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
	b := newBench(t, cfg, nil)
	msg := encodeRequest(t, asking{eids: []mapping.EID{eid("11.0.0.1")}, bare: true}.defaults())
	msg[12], msg[13] = 0x1e, 0 // the Source-EID-AFI
	b.deliver(msg, itr4, local4)
	if line := log.String(); !strings.Contains(line, "unknown address family 7680") || !strings.Contains(line, itr4.String()) {
		t.Errorf("logged %q", line)
	}
	for range 1000 {
		b.deliver(msg, itr4, local4)
	}
	if n := strings.Count(log.String(), "\n"); n > 50 {
		t.Errorf("%d lines logged", n)
	}
}

// TestR4_Forward: the Map-Request reaches the ETR as it was (RFC 9301 section
// 8.3).
func TestR4_Forward(t *testing.T) {
	b := newBench(t, twoSites(), nil)
	r := rec("10.2.0.0/16", "192.0.2.21", "192.0.2.22", "2001:db8::23", "192.0.2.24", "192.0.2.25")
	r.Locators[3].Flags = 0 // not reachable
	r.Locators[4].Priority = mapping.PriorityUnusable
	r.SortLocators()
	b.register(registering{key: rightKey, records: []*mapping.Record{r}})

	chosen := make(map[string]int)
	for nonce := range uint64(300) {
		q := asking{eids: []mapping.EID{eid("10.2.3.4")}, itr: []netip.Addr{itr4.Addr(), itr6.Addr()}, nonce: nonce + 1, hops: 9}.defaults()
		sent := encodeRequest(t, q)
		out := b.deliver(sent, netip.MustParseAddrPort("192.0.2.99:4342"), local4)
		if len(out) != 1 {
			t.Fatalf("%d datagrams", len(out))
		}
		var in, fwd wire.ECM
		if err := in.Decode(sent); err != nil {
			t.Fatal(err)
		}
		if err := fwd.Decode(out[0].payload); err != nil {
			t.Fatal(err)
		}
		if string(fwd.Message) != string(in.Message) || fwd.Src != in.Src || fwd.Dst != in.Dst || fwd.HopLimit != 8 || fwd.Security || fwd.DDT {
			t.Fatalf("forwarded %+v as %+v", in, fwd)
		}
		chosen[out[0].dst.String()]++
		again := b.deliver(sent, netip.MustParseAddrPort("192.0.2.99:4342"), local4)
		if again[0].dst != out[0].dst {
			t.Error("the same Map-Request went to two ETRs")
		}
	}
	for _, etr := range []string{"192.0.2.21:4342", "192.0.2.22:4342", "[2001:db8::23]:4342"} {
		if chosen[etr] < 50 {
			t.Errorf("%s was chosen %d times of 300", etr, chosen[etr])
		}
		delete(chosen, etr)
	}
	if len(chosen) > 0 {
		t.Errorf("Map-Requests went to unusable locators: %v", chosen)
	}

	t.Run("an ITR-RLOC that only the ETR reaches", func(t *testing.T) {
		b.s.send6 = false
		defer func() { b.s.send6 = true }()
		out := b.ask(asking{eids: []mapping.EID{eid("10.2.3.4")}, itr: []netip.Addr{itr6.Addr()}})
		if got := b.texts(out); len(got) != 1 || !strings.HasPrefix(got[0], "forwarded to ") {
			t.Errorf("%v, want it to be forwarded", got)
		}
	})

	t.Run("several EIDs", func(t *testing.T) {
		for nonce := range uint64(20) {
			q := asking{nonce: nonce + 1}
			for i := range byte(maxRequestRecords) {
				q.eids = append(q.eids, mapping.HostEID(0, netip.AddrFrom4([4]byte{10, 2, 3, i})))
			}
			if got := b.texts(b.ask(q)); len(got) != 1 {
				t.Errorf("%v, want one copy for an ETR", got)
			}
		}
	})

	t.Run("no IPv6 socket", func(t *testing.T) {
		b.s.send6 = false
		defer func() { b.s.send6 = true }()
		for nonce := range uint64(100) {
			if out := b.ask(asking{eids: []mapping.EID{eid("10.2.3.4")}, nonce: nonce + 1}); len(out) != 1 || !out[0].dst.Addr().Is4() {
				t.Fatal(b.texts(out))
			}
		}
	})
	t.Run("hop limit", func(t *testing.T) {
		before := b.count(dropHopLimit)
		b.wantDrop("hop limit 1", dropHopLimit, b.ask(asking{eids: []mapping.EID{eid("10.2.3.4")}, hops: 1}), before)
	})
	t.Run("bare", func(t *testing.T) {
		q := asking{bare: true, eids: []mapping.EID{eid("10.2.3.4")}, itr: []netip.Addr{itr6.Addr()}, src: itr6, to: local6}.defaults()
		out := b.ask(q)
		var fwd wire.ECM
		if len(out) != 1 || fwd.Decode(out[0].payload) != nil || fwd.Dst.String() != "10.2.3.4:4342" || fwd.Src.Port() != itr6.Port() {
			t.Fatalf("forwarded %+v", fwd)
		}
	})
	t.Run("not to ourselves", func(t *testing.T) {
		b.register(registering{key: rightKey, records: []*mapping.Record{rec("10.2.0.0/16", local4.Addr().String())}})
		b.wantDrop("our own address", dropNoETR, b.ask(asking{eids: []mapping.EID{eid("10.2.3.4")}}), 0)
	})
	t.Run("nobody to forward to", func(t *testing.T) {
		b.t = t
		r := rec("10.2.0.0/16", "192.0.2.21")
		r.Locators[0].Flags = 0
		b.register(registering{key: rightKey, records: []*mapping.Record{r}})
		b.wantAnswer("10.2.3.4", "10.2.0.0/16 ttl 1m natively-forward")
	})
	t.Run("registered as negative", func(t *testing.T) {
		b.t = t
		b.register(registering{key: rightKey, records: []*mapping.Record{mapping.NegativeRecord(eid("10.2.0.0/16"), mapping.Drop, 7)}})
		b.wantAnswer("10.2.3.4", "10.2.0.0/16 ttl 7m drop")
	})
}

// TestAuthoritative: the A bit asks for the ETR's own answer (RFC 9301 section
// 5.2), which the site's policy may refuse.
func TestAuthoritative(t *testing.T) {
	b := newBench(t, twoSites(), nil)
	b.register(registering{proxy: true, records: []*mapping.Record{rec("2001:db8:1::/48", "192.0.2.1")}})
	b.register(registering{key: rightKey, records: []*mapping.Record{rec("10.3.0.0/16", "192.0.2.2")}})
	a := func(m *wire.MapRequest) { m.Authoritative = true }
	for e, want := range map[string]string{
		"2001:db8:1::5": "forwarded to 192.0.2.1:4342",
		"10.3.0.1":      "10.3.0.0/16 ttl 1440m, 192.0.2.2 1/100 R",
		"10.9.0.1":      "10.9.0.0/16 ttl 1440m, 203.0.113.9 1/100 R",
	} {
		if got := b.texts(b.ask(asking{eids: []mapping.EID{eid(e)}, change: a})); !slices.Equal(got, []string{want}) {
			t.Errorf("%s: %v, want %s", e, got, want)
		}
	}
}

func TestR2_SeveralRecords(t *testing.T) {
	b := newBench(t, twoSites(), nil)
	b.register(registering{key: rightKey, records: []*mapping.Record{rec("10.2.0.0/16", "192.0.2.2")}})
	got := b.texts(b.ask(asking{eids: []mapping.EID{eid("11.0.0.1"), eid("10.2.0.1"), eid("10.9.0.1"), eid("2001:db8::1")}}))
	want := []string{"forwarded to 192.0.2.2:4342", "11.0.0.0/8 ttl 15m natively-forward", "10.9.0.0/16 ttl 1440m, 203.0.113.9 1/100 R", "2001:db8::/48 ttl 15m natively-forward"}
	if !slices.Equal(got, want) {
		t.Errorf("got %v\nwant %v", got, want)
	}
}

// TestS13_ReplySize: a Map-Reply that would be too long for the family's packet
// holds one record instead, narrowed to what overlaps nothing else.
func TestS13_ReplySize(t *testing.T) {
	b := newBench(t, Config{}, nil)
	put := []*mapping.Record{rec("10.0.0.0/8", "203.0.113.1", "2001:db8::1")}
	for i := range 30 {
		put = append(put, rec(fmt.Sprintf("10.%d.0.0/16", 4*i), "203.0.113.1", "2001:db8::1"))
	}
	if err := b.s.Put(t.Context(), put); err != nil {
		t.Fatal(err)
	}
	// 12 + 31 x (16 + 12 + 24) octets do not fit either limit.
	for _, to := range []netip.AddrPort{local4, local6} {
		itr := itr4.Addr()
		if to == local6 {
			itr = itr6.Addr()
		}
		got := b.texts(b.ask(asking{eids: []mapping.EID{eid("10.1.2.3")}, itr: []netip.Addr{itr}, to: to}))
		want := []string{"10.1.0.0/16 ttl 1440m, 203.0.113.1 1/100 R, 2001:db8::1 1/100 R"}
		if !slices.Equal(got, want) {
			t.Errorf("over %v: %v, want %v", to, got, want)
		}
	}
	b.wantAnswer("10.200.0.1", "10.128.0.0/9 ttl 1440m, 203.0.113.1 1/100 R, 2001:db8::1 1/100 R")
	// Up to the limit all are there: 12 + 10 x 52 = 532 of 548 octets.
	var eids []mapping.EID
	for _, r := range put[10:] {
		eids = append(eids, r.EID)
	}
	if err := b.s.Delete(t.Context(), eids); err != nil {
		t.Fatal(err)
	}
	if got := b.answer("10.1.2.3"); len(got) != 10 {
		t.Errorf("%d records, want 10: %v", len(got), got)
	}
	if err := b.s.Put(t.Context(), put[10:11]); err != nil {
		t.Fatal(err)
	}
	if got := b.answer("10.1.2.3"); len(got) != 1 {
		t.Errorf("%d records, want 1: %v", len(got), got)
	}
	b.s.maxReply4 = 12 + 11*52
	if got := b.answer("10.1.2.3"); len(got) != 11 {
		t.Errorf("%d records with a higher limit, want 11: %v", len(got), got)
	}
}

// TestS13_MoreSpecificElsewhere: where a more-specific is for an ETR to answer, we
// answer for the rest only.
func TestS13_MoreSpecificElsewhere(t *testing.T) {
	b := newBench(t, twoSites(), nil)
	b.register(registering{proxy: true, records: []*mapping.Record{rec("10.1.0.0/16", "192.0.2.1")}})
	b.register(registering{key: rightKey, records: []*mapping.Record{rec("10.1.64.0/20", "192.0.2.2")}})
	b.wantAnswer("10.1.64.1", "forwarded to 192.0.2.2:4342")
	b.wantAnswer("10.1.1.1", "10.1.0.0/18 ttl 1440m, 192.0.2.1 1/100 R")
	b.wantAnswer("10.1.0.0/16", "10.1.0.0/18 ttl 1440m, 192.0.2.1 1/100 R")
}

func TestSourceSpecific(t *testing.T) {
	b := newBench(t, Config{}, nil)
	if err := b.s.Put(t.Context(), []*mapping.Record{rec("10.0.0.0/8", "203.0.113.1"), rec("10.0.0.0/8 from 20.0.0.0/8", "203.0.113.2"), rec("10.1.0.0/16", "203.0.113.3"),
		rec("30.0.0.0/8 from 20.0.0.0/8", "203.0.113.4")}); err != nil {
		t.Fatal(err)
	}
	b.wantAnswer("10.2.0.1 from 20.0.0.1", "10.2.0.0/15 from 20.0.0.0/8 ttl 1440m, 203.0.113.2 1/100 R")
	b.wantAnswer("10.2.0.1 from 21.0.0.1", "10.0.0.0/8 ttl 1440m, 203.0.113.1 1/100 R", "10.1.0.0/16 ttl 1440m, 203.0.113.3 1/100 R", "10.0.0.0/8 from 20.0.0.0/8 ttl 1440m, 203.0.113.2 1/100 R")
	b.wantAnswer("10.1.0.1 from 20.0.0.1", "10.1.0.0/16 ttl 1440m, 203.0.113.3 1/100 R")
	b.wantAnswer("30.0.0.1", "30.0.0.1/32 ttl 15m natively-forward")
	b.wantAnswer("30.0.0.1 from 20.0.0.1", "30.0.0.0/8 from 20.0.0.0/8 ttl 1440m, 203.0.113.4 1/100 R")
}

// TestRecordSize: the size that a Map-Reply is planned with is the size that
// it has.
func TestRecordSize(t *testing.T) {
	opaque := rec("10.0.0.0/8", "192.0.2.1")
	opaque.Locators = append(opaque.Locators, mapping.Locator{Opaque: "\x00\x11name\x00"})
	for _, r := range []*mapping.Record{rec("10.0.0.0/8"), rec("[7]10.0.0.0/8", "192.0.2.1"), rec("2001:db8::/32", "2001:db8::1"), rec("[7]2001:db8::/32 from 2001:db8::/33"),
		rec("10.0.0.0/8 from 11.0.0.0/8"), opaque} {
		b, err := wire.AppendRecord(nil, r)
		if err != nil {
			t.Fatal(err)
		}
		if got := recordSize(r); got != len(b) {
			t.Errorf("%v: size %d, want %d", r, got, len(b))
		}
	}
}

func TestRateLimit(t *testing.T) {
	cfg := Config{RequestRate: RequestRate{PerSource: 10, Burst: 5}}
	b := newBench(t, cfg, nil)
	answered := func(src netip.AddrPort, n int) (k int) {
		for range n {
			k += len(b.ask(asking{eids: []mapping.EID{eid("11.0.0.1")}, from: src}))
		}
		return k
	}
	if got := answered(itr4, 20); got != 5 {
		t.Errorf("%d of a burst were answered, want 5", got)
	}
	if got := b.count(dropRateLimited); got != 15 {
		t.Errorf("%d counted, want 15", got)
	}
	if got := answered(netip.AddrPortFrom(itr4.Addr(), 7), 1); got != 0 {
		t.Error("another port of the same source was answered")
	}
	if got := answered(netip.MustParseAddrPort("192.0.2.222:1"), 20); got != 5 {
		t.Errorf("%d of another source were answered, want 5", got)
	}
	b.pass(300e6)
	if got := answered(itr4, 20); got != 3 {
		t.Errorf("%d were answered 0.3 s later, want 3", got)
	}
	b.pass(3600e9)
	if got := answered(itr4, 20); got != 5 {
		t.Errorf("%d were answered much later, want 5", got)
	}
	two := asking{eids: []mapping.EID{eid("11.0.0.1"), eid("11.0.0.2")}, from: netip.MustParseAddrPort("[2001:db8::1]:1")}
	other := two
	other.from = netip.MustParseAddrPort("[2001:db8::ffff]:1") // the same /64
	if got := len(b.ask(two)) + len(b.ask(other)) + len(b.ask(two)); got != 2 {
		t.Errorf("%d Map-Requests for two EIDs each were answered, want 2", got)
	}
}
