package dataplane_test

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/dataplane/dptest"
	"github.com/eidolon-lisp/eidolon/encap"
	"github.com/eidolon-lisp/eidolon/mapping"
)

var (
	flow4 = func(n int) dptest.Inner { return dptest.Flow("10.1.0.1:1000", "10.2.0.1:80", dptest.UDP, n) }
	flow6 = func(n int) dptest.Inner {
		return dptest.Flow("[2001:db8:1::1]:1000", "[2001:db8:2::1]:80", dptest.UDP, n)
	}
	back4 = func(n int) dptest.Inner { return dptest.Flow("10.2.0.1:80", "10.1.0.1:1000", dptest.UDP, n) }
	back6 = func(n int) dptest.Inner {
		return dptest.Flow("[2001:db8:2::1]:80", "[2001:db8:1::1]:1000", dptest.UDP, n)
	}
)

// All four combinations of families, both ways, in two instances: the outer
// header is right, and what goes in comes out.
func TestDP1_AllFamiliesBothWays(t *testing.T) {
	for _, rloc := range []netip.Addr{theirs4, theirs6} {
		for _, iid := range []uint32{0, 7} {
			s := newSite(t, dataplane.MissPolicy{})
			prefix := map[uint32]string{7: "[7]"}[iid]
			s.learn(positive(prefix+"10.2.0.0/16", rloc), positive(prefix+"2001:db8:2::/48", rloc))
			for _, p := range []dptest.Inner{flow4(100), flow6(100)} {
				p.TTL, p.TOS = 33, 0xb9
				inner := p.Bytes()
				s.send(iid, slices.Clone(inner))
				sent := s.under.Sent()
				if len(sent) != 1 {
					t.Fatalf("%d packets to %v, drops %v", len(sent), rloc, s.drops())
				}
				got := sent[0]
				var h encap.Header
				if err := h.Decode(got.Data); err != nil || h != (encap.Header{HasInstance: iid != 0, IID: iid}) {
					t.Errorf("LISP header %x: %+v", got.Data[:8], h)
				}
				if !bytes.Equal(got.Data[8:], inner) {
					t.Error("the inner packet was changed")
				}
				var f encap.Flow
				f.Decode(inner)
				want := dataplane.Packet{Src: ours6, Dst: theirs6, TTL: 33, TOS: 0xb9, Hash: f.Hash()}
				if rloc.Is4() {
					want.Src, want.Dst = ours4, theirs4
				}
				if got.Data = nil; got.Src != want.Src || got.Dst != want.Dst || got.TTL != want.TTL || got.TOS != want.TOS || got.Hash != want.Hash || got.Fragmentable {
					t.Errorf("outer %+v, want %+v", got, want)
				}
			}
			from, to := theirs4.String(), ours4.String()
			if rloc.Is6() {
				from, to = theirs6.String(), ours6.String()
			}
			host := map[uint32]*dptest.Host{0: s.host, 7: s.host7}[iid]
			for _, p := range []dptest.Inner{back4(100), back6(100)} {
				pkt := p.Lisp(iid, from, to)
				pkt.TTL = 9
				s.in.Batch([]dataplane.Packet{pkt})
				p.TTL = 9
				if out := host.Written(); len(out) != 1 || !bytes.Equal(out[0], p.Bytes()) {
					t.Errorf("decapsulated %x, want %x, drops %v", out, p.Bytes(), s.drops())
				}
			}
			s.wantCount(dataplane.EncapPackets, 2)
			s.wantCount(dataplane.EncapBytes, 128+148)
			s.wantCount(dataplane.DecapPackets, 2)
			s.wantCount(dataplane.DecapBytes, 128+148)
		}
	}
}

// A packet that the host side hands over in two parts is the same packet.
func TestTwoParts(t *testing.T) {
	for _, size := range []int{50, 1436, 1437, 5000} {
		s := newSite(t, dataplane.MissPolicy{})
		s.learn(positive("10.2.0.0/16", theirs4))
		p := flow4(size).Bytes()
		s.out.Batch(s.now, []dataplane.HostPacket{dptest.HostPacket(p, 0)})
		one := s.under.Sent()
		s.out.Batch(s.now, []dataplane.HostPacket{dptest.HostPacket(p, 28)})
		two := s.under.Sent()
		if len(one) == 0 || len(one) != len(two) {
			t.Fatalf("%d octets: %d packets, in two parts %d", size, len(one), len(two))
		}
		for i := range one {
			if !bytes.Equal(one[i].Data, two[i].Data) {
				t.Errorf("%d octets: packet %d differs", size, i)
			}
		}
	}
}

// Every drop reason that the core gives is reached here, alone.
func TestDropReasons(t *testing.T) {
	lisp4 := func(p dptest.Inner) dataplane.Packet { return p.Lisp(0, "198.51.100.1", "192.0.2.1") }
	edit := func(p dataplane.Packet, f func(*dataplane.Packet)) dataplane.Packet { f(&p); return p }
	with := func(p dptest.Inner, f func(*dptest.Inner)) dptest.Inner { f(&p); return p }
	negative := func(a mapping.Action) func(*site) {
		return func(s *site) { s.learn(mapping.NegativeRecord(eid("10.2.0.0/16"), a, 15)) }
	}
	known := func(s *site) { s.learn(positive("10.2.0.0/16", theirs4)) }
	lose := func(r dataplane.DropReason) func(*site) {
		return func(s *site) {
			known(s)
			s.under.Lose = func(*dataplane.Packet) dataplane.DropReason { return r }
		}
	}
	proxies := func(s *site) {
		known(s)
		s.fib.SetProxies(dataplane.Proxies{ITR: []mapping.EID{eid("10.0.0.0/8")}, ETR: []mapping.EID{eid("10.2.0.0/16")}})
	}
	type test struct {
		want  dataplane.DropReason
		name  string
		setup func(*site)
		out   []byte            // from a host
		in    *dataplane.Packet // from the underlay
		lost  dataplane.DropReason
	}
	in := func(p dataplane.Packet) *dataplane.Packet { return &p }
	tests := []test{
		{want: dataplane.DropInnerVersion, out: []byte{0x50, 0, 0, 0}},
		{want: dataplane.DropInnerVersion, in: in(edit(lisp4(back4(4)), func(p *dataplane.Packet) { p.Data[8] = 0x15 }))},
		{want: dataplane.DropInnerTruncated, out: flow4(20).Bytes()[:30]},
		{want: dataplane.DropInnerTruncated, in: in(edit(lisp4(back4(4)), func(p *dataplane.Packet) { p.Data = p.Data[:8] }))},
		{want: dataplane.DropInnerHeader, out: append([]byte{0x44}, flow4(20).Bytes()[1:]...)},
		{want: dataplane.DropInnerTrailing, out: append(flow4(20).Bytes(), 0)},
		{want: dataplane.DropInnerTrailing, name: "two LISP packets in one datagram", in: in(edit(lisp4(back4(4)), func(p *dataplane.Packet) {
			p.Data = slices.Concat(p.Data, p.Data)
		}))},
		{want: dataplane.DropMulticast, out: with(flow4(4), func(p *dptest.Inner) { p.Dst = addr("239.1.1.1") }).Bytes()},
		{want: dataplane.DropMulticast, out: with(flow6(4), func(p *dptest.Inner) { p.Dst = addr("ff0e::1") }).Bytes()},
		{want: dataplane.DropNotRoutable, out: with(flow6(4), func(p *dptest.Inner) { p.Src = addr("fe80::1") }).Bytes()},
		{want: dataplane.DropNotRoutable, in: in(lisp4(with(back4(4), func(p *dptest.Inner) { p.Src = addr("127.0.0.1") })))},
		{want: dataplane.DropTTLExpired, setup: known, out: with(flow4(4), func(p *dptest.Inner) { p.NoTTL = true }).Bytes()},
		{want: dataplane.DropSourceNotEID, setup: known, out: with(flow4(4), func(p *dptest.Inner) { p.Src = addr("10.9.0.1") }).Bytes()},
		{want: dataplane.DropDestinationLocal, out: with(flow4(4), func(p *dptest.Inner) { p.Dst = addr("10.1.9.9") }).Bytes()},
		{want: dataplane.DropNoMapping, out: flow4(4).Bytes()},
		{want: dataplane.DropNoMapping, name: "expired", out: flow4(4).Bytes(), setup: func(s *site) {
			s.fib.Apply(changes(s.now, positive("10.2.0.0/16", theirs4)))
		}},
		{want: dataplane.DropNoMapping, name: "other instance", out: flow4(4).Bytes(), setup: func(s *site) { s.learn(positive("[7]10.2.0.0/16", theirs4)) }},
		{want: dataplane.DropNoMapping, name: "send-map-request", setup: negative(mapping.SendMapRequest), out: flow4(4).Bytes()},
		{want: dataplane.DropNoAction, setup: negative(mapping.NoAction), out: flow4(4).Bytes()},
		{want: dataplane.DropNativelyForward, setup: negative(mapping.NativelyForward), out: flow4(4).Bytes()},
		{want: dataplane.DropNegative, setup: negative(mapping.Drop), out: flow4(4).Bytes()},
		{want: dataplane.DropNegative, name: "unassigned action", setup: negative(7), out: flow4(4).Bytes()},
		{want: dataplane.DropPolicyDenied, setup: negative(mapping.DropPolicy), out: flow4(4).Bytes()},
		{want: dataplane.DropAuthFailure, setup: negative(mapping.DropAuth), out: flow4(4).Bytes()},
		{want: dataplane.DropNoLocator, out: flow4(4).Bytes(), setup: func(s *site) {
			r := positive("10.2.0.0/16", theirs4, theirs6)
			r.Locators[0].Priority = mapping.PriorityUnusable
			r.Locators[1].Flags = 0
			s.learn(r)
		}},
		{want: dataplane.DropNoSource, out: flow4(4).Bytes(), setup: func(s *site) {
			s.learn(positive("10.2.0.0/16", theirs6))
			s.fib.SetSources(from(ours4))
		}},
		{want: dataplane.DropTooBig, setup: known, out: with(flow4(1500), func(p *dptest.Inner) { p.DF = true }).Bytes()},
		{want: dataplane.DropOuterTruncated, in: in(edit(lisp4(back4(4)), func(p *dataplane.Packet) { p.Data = p.Data[:7] }))},
		{want: dataplane.DropOuterTruncated, name: "as the underlay says", in: in(dataplane.Packet{Drop: dataplane.DropOuterTruncated})},
		{want: dataplane.DropEncrypted, in: in(edit(lisp4(back4(4)), func(p *dataplane.Packet) { p.Data[0] |= 1 }))},
		{want: dataplane.DropMapVersion, in: in(edit(lisp4(back4(4)), func(p *dataplane.Packet) { p.Data[0] |= 0x10 }))},
		{want: dataplane.DropOuterSource, in: in(back4(4).Lisp(0, "224.0.0.1", "192.0.2.1"))},
		{want: dataplane.DropOuterSource, name: "ourselves", in: in(back4(4).Lisp(0, "192.0.2.1", "192.0.2.1"))},
		{want: dataplane.DropOuterSource, name: "our other address", in: in(back4(4).Lisp(0, "192.0.2.1", "192.0.2.9"))},
		{want: dataplane.DropUnknownInstance, in: in(back4(4).Lisp(8, "198.51.100.1", "192.0.2.1"))},
		{want: dataplane.DropDestinationNotLocal, in: in(lisp4(with(back4(4), func(p *dptest.Inner) { p.Dst = addr("10.3.0.1") })))},
		{want: dataplane.DropSourceLocal, in: in(lisp4(with(back4(4), func(p *dptest.Inner) { p.Src = addr("10.1.0.9") })))},
		{want: dataplane.DropCongestion, in: in(edit(lisp4(back4(4)), func(p *dataplane.Packet) { p.TOS = encap.CE }))},
		{want: dataplane.DropHostWrite, in: in(lisp4(back4(4))), setup: func(s *site) { s.host.Refuse = func([]byte) bool { return true } }},
		{want: dataplane.DropProxySource, setup: proxies, in: in(lisp4(with(back4(4), func(p *dptest.Inner) { p.Src, p.Dst = addr("10.9.0.1"), addr("203.0.113.1") })))},
		{want: dataplane.DropProxyLoop, setup: proxies, in: in(lisp4(with(back4(4), func(p *dptest.Inner) { p.Dst = addr("10.3.0.1") })))},
		{want: dataplane.DropProxyLoop, setup: proxies, out: with(flow4(4), func(p *dptest.Inner) { p.Src = addr("10.9.0.1") }).Bytes()},
		{want: dataplane.DropSourceNotEID, name: "not attracted", setup: proxies, out: with(flow4(4), func(p *dptest.Inner) { p.Src, p.Dst = addr("203.0.113.9"), addr("203.0.113.1") }).Bytes()},
		{want: dataplane.DropHostRead, lost: dataplane.DropHostRead},
	}
	for _, r := range []dataplane.DropReason{dataplane.DropSendTooBig, dataplane.DropSendUnreachable, dataplane.DropSendDenied,
		dataplane.DropSendBuffer, dataplane.DropSendNoSocket, dataplane.DropSendError} {
		tests = append(tests, test{want: r, setup: lose(r), out: flow4(4).Bytes()})
	}
	reached := map[dataplane.DropReason]bool{
		dataplane.DropHostQueue: true, dataplane.DropReceiveBuffer: true, // the kernel's, in dataplane/tun
		dataplane.DropHoldFull: true, dataplane.DropHoldTimeout: true, // TestHoldLimits, TestHoldTimeout
		dataplane.DropVersionNewer: true, dataplane.DropVersionOld: true, // TestDP25_ReceivedVersions
		dataplane.DropSourceNoMapping: true, dataplane.DropSourceUnlisted: true, // TestSourceCheck
	}
	for _, c := range tests {
		reached[c.want] = true
		t.Run(c.want.String()+" "+c.name, func(t *testing.T) {
			s := newSite(t, dataplane.MissPolicy{})
			if c.setup != nil {
				c.setup(s)
			}
			switch {
			case c.out != nil:
				s.send(0, c.out)
			case c.in != nil:
				s.in.Batch([]dataplane.Packet{*c.in})
			default:
				s.out.Batch(s.now, []dataplane.HostPacket{{Drop: c.lost}})
			}
			if d := s.drops(); len(d) != 1 || d[c.want] != 1 {
				t.Errorf("drops %v", d)
			}
			if n := len(s.under.Sent()); n != 0 {
				t.Errorf("%d packets were sent", n)
			}
			s.wantCount(dataplane.EncapPackets, 0)
			s.wantCount(dataplane.DecapPackets, 0)
		})
	}
	for _, r := range dataplane.DropReasons() {
		if !reached[r] {
			t.Errorf("no test reaches %v", r)
		}
	}
}

func TestNames(t *testing.T) {
	seen := make(map[string]bool)
	s := newSite(t, dataplane.MissPolicy{})
	for name := range s.fwd.Stats() {
		for _, c := range name {
			if c != '_' && (c < 'a' || c > 'z') {
				t.Errorf("%q is not snake_case", name)
			}
		}
		if name == "" || seen[name] || name == "drop_unknown" || name == "drop_" {
			t.Errorf("name %q is missing or double", name)
		}
		seen[name] = true
	}
	if !seen["encap_packets"] || !seen["drop_no_mapping"] {
		t.Error("names that others rely on are gone")
	}
}

// One bad packet in a batch costs no other.
func TestBadPacketAlone(t *testing.T) {
	s := newSite(t, dataplane.MissPolicy{})
	s.learn(positive("10.2.0.0/16", theirs4), positive("2001:db8:2::/48", theirs4))
	s.send(0, flow4(1).Bytes(), []byte{0}, flow6(2).Bytes(), nil, flow4(3).Bytes())
	if n := len(s.under.Sent()); n != 3 {
		t.Errorf("%d of 3 sent", n)
	}
	good := back4(1).Lisp(0, "198.51.100.1", "192.0.2.1")
	s.in.Batch([]dataplane.Packet{good, {Src: good.Src, Dst: good.Dst}, back6(1).Lisp(7, "198.51.100.1", "192.0.2.1"), good})
	if a, b := len(s.host.Written()), len(s.host7.Written()); a != 2 || b != 1 {
		t.Errorf("%d and %d delivered", a, b)
	}
}

func TestDP11_UnexpectedPairsAreCounted(t *testing.T) {
	s := newSite(t, dataplane.MissPolicy{})
	p := back4(4).Lisp(0, "198.51.100.1", "192.0.2.1")
	p.TOS = encap.ECT0
	s.in.Batch([]dataplane.Packet{p})
	s.wantCount(dataplane.ECNUnexpected, 1)
	s.wantCount(dataplane.DecapPackets, 1)
}

func TestDP12_TooBigNamesWhatFits(t *testing.T) {
	for _, c := range []struct {
		name string
		pkt  dptest.Inner
		rloc netip.Addr
		mtu  int
		want uint32 // MTU in the message
	}{
		{"IPv4 over IPv4", flow4(1437), theirs4, 1500, 1464},
		{"IPv4 over IPv6", flow4(1437), theirs6, 1500, 1444},
		{"IPv6 over IPv4", flow6(1417), theirs4, 1500, 1464},
		{"IPv6 over IPv6", flow6(1417), theirs6, 1500, 1444},
		{"IPv4, small path", flow4(1437), theirs4, 600, 564},
		{"IPv6, small path", flow6(1437), theirs6, 1300, 1280},
	} {
		s := newSite(t, dataplane.MissPolicy{})
		s.learn(positive("10.2.0.0/16", c.rloc), positive("2001:db8:2::/48", c.rloc))
		s.fib.SetRouteMTU(c.rloc, c.mtu, s.now)
		c.pkt.DF = true
		s.send(0, c.pkt.Bytes())
		msgs := s.host.Written()
		if len(msgs) != 1 {
			t.Fatalf("%s: %d messages, drops %v", c.name, len(msgs), s.drops())
		}
		m, h, typ := msgs[0], 20, byte(3)
		if c.pkt.Src.Is6() {
			h, typ = 40, 2
		}
		if m[h] != typ || binary.BigEndian.Uint32(m[h+4:]) != c.want {
			t.Errorf("%s: type %d, MTU %d, want %d", c.name, m[h], binary.BigEndian.Uint32(m[h+4:]), c.want)
		}
		s.wantCount(dataplane.ICMPTooBig, 1)
		s.wantDrops(dataplane.DropTooBig, 1)
		// What the message asks for goes through.
		over := 28
		if c.pkt.Src.Is6() {
			over = 48
		}
		c.pkt.Payload = c.pkt.Payload[:int(c.want)-over]
		s.send(0, c.pkt.Bytes())
		s.wantCount(dataplane.EncapPackets, 1)
	}
}

// An IPv6 packet that no host makes smaller goes out in a fragmentable outer
// packet.
func TestOuterFragmentation(t *testing.T) {
	s := newSite(t, dataplane.MissPolicy{})
	s.learn(positive("2001:db8:2::/48", theirs6))
	s.fib.SetRouteMTU(theirs6, 1280, s.now)
	s.send(0, flow6(1280-48).Bytes(), flow6(1280-56-48).Bytes())
	sent := s.under.Sent()
	if len(sent) != 2 || !sent[0].Fragmentable || sent[1].Fragmentable {
		t.Errorf("sent %d, fragmentable %v", len(sent), sent)
	}
	s.wantCount(dataplane.OuterFragmented, 1)
}

func TestICMPLimits(t *testing.T) {
	s := newSite(t, dataplane.MissPolicy{})
	s.learn(positive("10.2.0.0/16", theirs4), mapping.NegativeRecord(eid("10.3.0.0/16"), mapping.Drop, 15))
	var big, refused [][]byte
	for i := range 300 {
		p := flow4(1500)
		p.DF, p.SrcPort = true, uint16(i+1)
		big = append(big, p.Bytes())
		p.Dst = addr("10.3.0.1")
		refused = append(refused, p.Bytes())
	}
	s.send(0, big...)
	n := uint64(len(s.host.Written()))
	s.send(0, refused...)
	u := uint64(len(s.host.Written()))
	if n == 0 || n > 60 || u == 0 || u > 60 { // one kind does not starve the other
		t.Errorf("%d and %d messages at once", n, u)
	}
	s.wantCount(dataplane.ICMPTooBig, n)
	s.wantCount(dataplane.ICMPUnreachable, u)
	s.wantCount(dataplane.ICMPLimited, 600-n-u)
	s.now = s.now.Add(time.Second)
	s.send(0, big...)
	if m := len(s.host.Written()); m == 0 || m > 110 {
		t.Errorf("%d messages a second later", m)
	}
	// One message for a run of one flow.
	s.now = s.now.Add(time.Minute)
	s.send(0, big[0], big[0], big[0])
	if m := len(s.host.Written()); m != 1 {
		t.Errorf("%d messages for three packets of one flow", m)
	}
}

func TestI18_ActionsAreObeyed(t *testing.T) {
	for a, code := range map[mapping.Action]byte{mapping.Drop: 0, mapping.DropPolicy: 13, mapping.DropAuth: 13} {
		s := newSite(t, dataplane.MissPolicy{})
		s.learn(mapping.NegativeRecord(eid("10.2.0.0/16"), a, 15))
		s.send(0, flow4(4).Bytes())
		if m := s.host.Written(); len(m) != 1 || m[0][20] != 3 || m[0][21] != code {
			t.Errorf("%v: %x", a, m)
		}
	}
	for _, a := range []mapping.Action{mapping.NoAction, mapping.NativelyForward, mapping.SendMapRequest} {
		s := newSite(t, dataplane.MissPolicy{})
		s.learn(mapping.NegativeRecord(eid("10.2.0.0/16"), a, 15))
		s.send(0, flow4(4).Bytes())
		if m := s.host.Written(); len(m) != 0 {
			t.Errorf("%v: %x", a, m)
		}
		if sent := s.under.Sent(); len(sent) != 0 {
			t.Errorf("%v: %d packets sent", a, len(sent))
		}
		// Only send-map-request asks again.
		if asked := len(s.fwd.Misses()); asked != int(count(a == mapping.SendMapRequest)) {
			t.Errorf("%v: asked %d times", a, asked)
		}
	}
}

// A large batch of packets that all have to be split does not outgrow the
// worker's memory, and nothing is lost.
func TestDP12_FragmentedWithoutDF(t *testing.T) {
	s := newSite(t, dataplane.MissPolicy{})
	s.learn(positive("10.2.0.0/16", theirs4))
	s.fib.SetRouteMTU(theirs4, 1000, s.now)
	var pkts [][]byte
	for i := range 100 {
		p := flow4(9000)
		p.ID = uint16(i)
		pkts = append(pkts, p.Bytes())
	}
	s.send(0, pkts...)
	payload := make(map[uint16]int)
	for _, p := range s.under.Sent() {
		if len(p.Data) > 1000-28 {
			t.Fatalf("a UDP payload of %d octets on a path of 1000", len(p.Data))
		}
		inner := p.Data[8:]
		var f encap.Flow
		if err := f.Decode(inner); err != nil || !f.Fragment || encap.Checksum(inner[:20]) != 0 {
			t.Fatalf("fragment %x: %v", inner[:20], err)
		}
		payload[binary.BigEndian.Uint16(inner[4:])] += len(inner) - 20
	}
	for i := range uint16(100) {
		if payload[i] != 9008 {
			t.Fatalf("packet %d: %d octets of payload, want 9008", i, payload[i])
		}
	}
	s.wantCount(dataplane.Fragmented, 100)
}

// A flow keeps its locator whatever else is in the batch; flows spread.
func TestFlowsKeepLocator(t *testing.T) {
	s := newSite(t, dataplane.MissPolicy{})
	s.learn(positive("10.2.0.0/16", theirs4, addr("198.51.100.2")))
	var pkts [][]byte
	for i := range 120 {
		p := flow4(10)
		p.SrcPort = uint16(1 + i%40)
		pkts = append(pkts, p.Bytes())
	}
	s.send(0, pkts...)
	rloc, count := make(map[uint16]netip.Addr), make(map[netip.Addr]int)
	for _, p := range s.under.Sent() {
		port := binary.BigEndian.Uint16(p.Data[8+20:])
		if was, ok := rloc[port]; ok && was != p.Dst {
			t.Fatalf("port %d to %v and %v", port, was, p.Dst)
		}
		rloc[port] = p.Dst
		count[p.Dst]++
	}
	if len(count) != 2 || count[theirs4] < 24 {
		t.Errorf("spread %v", count)
	}
}

func TestRunLoops(t *testing.T) {
	s := newSite(t, dataplane.MissPolicy{})
	s.learn(positive("10.2.0.0/16", theirs4))
	done := make(chan error, 2)
	go func() { done <- s.out.Run(s.host) }()
	go func() { done <- s.in.Run(s.under) }()
	s.host.Inject(flow4(5).Bytes())
	if p := s.under.WaitSent(); len(p) != 1 {
		t.Errorf("%d sent", len(p))
	}
	s.under.Inject(back4(5).Lisp(0, "198.51.100.1", "192.0.2.1"))
	if p := s.host.WaitWritten(); len(p) != 1 {
		t.Errorf("%d written", len(p))
	}
	s.host.Close()
	s.under.Close()
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestNoAllocation(t *testing.T) {
	s := newSite(t, dataplane.MissPolicy{})
	s.host.Discard, s.host7.Discard, s.under.Discard = true, true, true
	s.learn(positive("10.2.0.0/16", theirs4, theirs6), positive("2001:db8:2::/48", theirs4, theirs6),
		mapping.NegativeRecord(eid("10.3.0.0/16"), mapping.Drop, 15))
	miss, refused, big := flow4(10), flow4(10), flow4(1500)
	miss.Dst, refused.Dst, big.DF = addr("10.4.0.1"), addr("10.3.0.1"), true
	v4, v6 := flow4(1000).Bytes(), flow6(1000).Bytes()
	for _, c := range []struct {
		name string
		pkts [][]byte
	}{
		{"IPv4", slices.Repeat([][]byte{v4}, 64)},
		{"IPv6", slices.Repeat([][]byte{v6}, 64)},
		{"mixed", slices.Repeat([][]byte{v4, v6, miss.Bytes(), refused.Bytes(), big.Bytes(), flow4(3000).Bytes()}, 20)},
	} {
		for _, split := range []int{0, 48} {
			var batch []dataplane.HostPacket
			for _, p := range c.pkts {
				batch = append(batch, dptest.HostPacket(p, split))
			}
			s.out.Batch(s.now, batch)
			if n := testing.AllocsPerRun(50, func() { s.out.Batch(s.now, batch) }); n != 0 {
				t.Errorf("encapsulation, %s, parts %d: %v allocations", c.name, split, n)
			}
		}
	}
	for _, c := range []struct {
		name string
		pkts []dataplane.Packet
	}{
		{"IPv4", slices.Repeat([]dataplane.Packet{back4(1000).Lisp(0, "198.51.100.1", "192.0.2.1")}, 64)},
		{"IPv6", slices.Repeat([]dataplane.Packet{back6(1000).Lisp(7, "198.51.100.1", "192.0.2.1")}, 64)},
		{"mixed", slices.Repeat([]dataplane.Packet{back4(1000).Lisp(7, "2001:db8:eeee::1", "2001:db8:ffff::1"),
			back6(1000).Lisp(0, "198.51.100.1", "192.0.2.1"), back6(10).Lisp(9, "198.51.100.1", "192.0.2.1")}, 40)},
	} {
		s.in.Batch(c.pkts)
		if n := testing.AllocsPerRun(50, func() { s.in.Batch(c.pkts) }); n != 0 {
			t.Errorf("decapsulation, %s: %v allocations", c.name, n)
		}
	}
}

func BenchmarkEncap(b *testing.B) {
	s := newSite(b, dataplane.MissPolicy{})
	s.under.Discard = true
	s.learn(positive("10.2.0.0/16", theirs4))
	var one, many []dataplane.HostPacket
	for i := range 64 {
		p := flow4(1000)
		one = append(one, dptest.HostPacket(p.Bytes(), 0))
		p.SrcPort = uint16(i + 1)
		many = append(many, dptest.HostPacket(p.Bytes(), 0))
	}
	for name, batch := range map[string][]dataplane.HostPacket{"one flow": one, "64 flows": many} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				s.out.Batch(s.now, batch)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/64, "ns/packet")
		})
	}
}

func BenchmarkDecap(b *testing.B) {
	s := newSite(b, dataplane.MissPolicy{})
	s.host.Discard = true
	batch := slices.Repeat([]dataplane.Packet{back4(1000).Lisp(0, "198.51.100.1", "192.0.2.1")}, 64)
	for b.Loop() {
		s.in.Batch(batch)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/64, "ns/packet")
}
