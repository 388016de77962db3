package dataplane_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/dataplane/dptest"
	"github.com/eidolon-lisp/eidolon/encap"
	"github.com/eidolon-lisp/eidolon/mapping"
)

// forged is a packet of the other site whose LISP header begins with the given
// octet and word, with or without the I bit of instance 7.
func forged(p dptest.Inner, flags byte, first, last uint32) dataplane.Packet {
	pkt := p.Lisp(0, "198.51.100.1", "192.0.2.1")
	binary.BigEndian.PutUint32(pkt.Data, uint32(flags)<<24|first&0xffffff)
	binary.BigEndian.PutUint32(pkt.Data[4:], last)
	return pkt
}

// flags returns the first octet of the LISP header of everything sent.
func (s *site) flags() (all []byte) {
	for _, p := range s.under.Sent() {
		all = append(all, p.Data[0])
	}
	return all
}

func TestDP6_NonceWithVersionBitIsNoVersion(t *testing.T) {
	for _, s := range []*site{newSite(t, dataplane.MissPolicy{}), newVersionedSite(t)} {
		// As versions these would be newer than what there is.
		s.in.Batch([]dataplane.Packet{forged(back4(10), 0x90, 9<<12|9, 0)})
		s.wantCount(dataplane.DecapPackets, 1)
		s.wantCount(dataplane.VersionQueued, 0)
		if d := s.drops(); len(d) != 0 {
			t.Errorf("drops %v", d)
		}
	}
}

// Locator-status-bits are not used: nothing that is sent has the L bit or any
// of the bits, also on a trusted underlay, also after a change of the set.
func TestDP9_NoStatusBitsAreSent(t *testing.T)          { neverSent(t, 0x40) }
func TestDP22_NoStatusBitsAfterASetChange(t *testing.T) { neverSent(t, 0x40) }

func neverSent(t *testing.T, bits byte) {
	t.Helper()
	plain, versioned := newSite(t, dataplane.MissPolicy{}), newVersionedSite(t)
	plain.learn(positive("10.2.0.0/16", theirs4), positive("[7]10.2.0.0/16", theirs6))
	for _, s := range []*site{plain, versioned} {
		s.send(0, flow4(10).Bytes(), flow4(4000).Bytes())
		if s == plain {
			s.send(7, flow4(10).Bytes())
		}
		// The other site sets every bit it can; then its set changes.
		s.in.Batch([]dataplane.Packet{forged(back4(10), 0xe0, 0x123456, 0xffffffff), forged(back4(10), 0x60, 0, 1)})
		r := positive("10.2.0.0/16", theirs4, rlocN(2))
		r.Version = 4
		s.learn(r)
		s.send(0, flow4(10).Bytes())
		sent := s.under.Sent()
		if len(sent) < 4 {
			t.Fatalf("%d packets sent", len(sent))
		}
		for _, p := range sent {
			if p.Data[0]&bits != 0 || p.Data[7] != 0 {
				t.Errorf("sent header %x", p.Data[:8])
			}
		}
	}
}

func TestDP10_TTLIsNeverRaised(t *testing.T) {
	for _, c := range []struct{ inner, outer, want uint8 }{{64, 60, 60}, {10, 200, 10}, {5, 5, 5}, {255, 1, 1}} {
		for _, p := range []dptest.Inner{back4(10), back6(10)} {
			s := newSite(t, dataplane.MissPolicy{})
			p.TTL = c.inner
			pkt := p.Lisp(0, "198.51.100.1", "192.0.2.1")
			pkt.TTL = c.outer
			s.in.Batch([]dataplane.Packet{pkt})
			out := s.host.Written()
			var f encap.Flow
			if len(out) != 1 || f.Decode(out[0]) != nil || f.TTL != c.want {
				t.Errorf("inner %d, outer %d: TTL %d, want %d", c.inner, c.outer, f.TTL, c.want)
			}
		}
	}
}

// ECN goes out as it came and in by the table of RFC 6040 section 4.2.
func TestDP11_BothWays(t *testing.T) {
	s := newSite(t, dataplane.MissPolicy{})
	s.learn(positive("10.2.0.0/16", theirs4))
	for _, ecn := range []uint8{encap.NotECT, encap.ECT0, encap.ECT1, encap.CE} {
		p := flow4(10)
		p.TOS = 0x28 | ecn
		s.send(0, p.Bytes())
		if sent := s.under.Sent(); len(sent) != 1 || sent[0].TOS != 0x28|ecn {
			t.Errorf("ECN %d: sent %+v", ecn, sent)
		}
	}
	for _, c := range []struct {
		inner, outer, want uint8
		drop               bool
	}{
		{encap.ECT0, encap.CE, encap.CE, false}, {encap.CE, encap.ECT0, encap.CE, false},
		{encap.NotECT, encap.ECT0, encap.NotECT, false}, {encap.NotECT, encap.CE, 0, true},
		{encap.ECT0, encap.ECT1, encap.ECT1, false}, {encap.ECT1, encap.ECT0, encap.ECT1, false},
	} {
		p := back4(10)
		p.TOS = c.inner
		pkt := p.Lisp(0, "198.51.100.1", "192.0.2.1")
		pkt.TOS = c.outer
		s.in.Batch([]dataplane.Packet{pkt})
		out := s.host.Written()
		if c.drop != (len(out) == 0) || !c.drop && out[0][1]&3 != c.want {
			t.Errorf("inner %d, outer %d: %x", c.inner, c.outer, out)
		}
	}
}

// Exactly up to S = L - H octets go through whole, with or without DF; one more
// does not (RFC 9300 section 7.1).
func TestDP13_PacketsUpToSAreTaken(t *testing.T) {
	for rloc, room := range map[netip.Addr]int{theirs4: 1464, theirs6: 1444} {
		for _, df := range []bool{true, false} {
			s := newSite(t, dataplane.MissPolicy{})
			s.learn(positive("10.2.0.0/16", rloc), positive("2001:db8:2::/48", rloc))
			fit4, fit6, over := flow4(room-28), flow6(room-48), flow4(room-27)
			fit4.DF, over.DF = df, df
			s.send(0, fit4.Bytes(), fit6.Bytes())
			sent := s.under.Sent()
			if len(sent) != 2 || len(sent[0].Data) != room+8 || len(sent[1].Data) != room+8 || sent[0].Fragmentable || sent[1].Fragmentable {
				t.Fatalf("%v, DF %v: sent %d, drops %v", rloc, df, len(sent), s.drops())
			}
			s.wantCount(dataplane.Fragmented, 0)
			s.send(0, over.Bytes())
			if sent := s.under.Sent(); df && len(sent) != 0 || !df && len(sent) != 2 {
				t.Errorf("%v, DF %v: one octet more went out in %d packets", rloc, df, len(sent))
			}
		}
	}
}

// The EIDs of a packet are of one instance, on the way out and on the way in
// (RFC 9300 section 8).
func TestDP14_BothEIDsOfOneInstance(t *testing.T) {
	s := newSite(t, dataplane.MissPolicy{})
	s.fib.SetLocal([]dataplane.LocalEID{{EID: eid("10.1.0.0/16")}, {EID: eid("[7]10.7.0.0/16")}})
	s.learn(positive("10.2.0.0/16", theirs4), positive("[7]10.8.0.0/16", theirs4))
	foreign, mapped := flow4(10), flow4(10)
	foreign.Src = addr("10.7.0.1") // of instance 7, sent in instance 0
	mapped.Dst = addr("10.8.0.1")  // mapped in instance 7 only
	s.send(0, foreign.Bytes(), mapped.Bytes())
	if sent := s.under.Sent(); len(sent) != 0 {
		t.Errorf("%d packets across instances", len(sent))
	}
	s.wantDrops(dataplane.DropSourceNotEID, 1)
	s.wantDrops(dataplane.DropNoMapping, 1)
	in := back4(10) // to an EID of instance 0
	s.in.Batch([]dataplane.Packet{in.Lisp(7, "198.51.100.1", "192.0.2.1")})
	s.wantDrops(dataplane.DropDestinationNotLocal, 1)
	s.wantCount(dataplane.DecapPackets, 0)
}

// spread returns to which RLOCs 500 flows go by a record with these locators.
func spread(t *testing.T, locs ...mapping.Locator) (map[netip.Addr]int, *site) {
	s := newSite(t, dataplane.MissPolicy{})
	r := &mapping.Record{EID: eid("10.2.0.0/16"), TTL: 60, Locators: locs}
	r.SortLocators()
	s.learn(r)
	for i := range 500 {
		p := flow4(10)
		p.SrcPort = uint16(1 + i)
		s.send(0, p.Bytes())
	}
	to := make(map[netip.Addr]int)
	for _, p := range s.under.Sent() {
		to[p.Dst]++
	}
	return to, s
}

// A locator of priority 255 gets no packet and no slot, beside others and alone
// (RFC 9300 section 9, RFC 9301 section 5.4).
func TestDP15_Priority255(t *testing.T)        { priority255(t) }
func TestI9_Priority255IsNotUsed(t *testing.T) { priority255(t) }

func priority255(t *testing.T) {
	t.Helper()
	never := mapping.MakeLocator(rlocN(1), mapping.PriorityUnusable, 100)
	to, _ := spread(t, never, mapping.MakeLocator(rlocN(2), 254, 1))
	if len(to) != 1 || to[rlocN(2)] != 500 {
		t.Errorf("beside another: %v", to)
	}
	to, s := spread(t, never, mapping.MakeLocator(rlocN(3), mapping.PriorityUnusable, 1))
	if len(to) != 0 {
		t.Errorf("alone: %v", to)
	}
	s.wantDrops(dataplane.DropNoLocator, 500)
	if e := s.fib.Snapshot().Lookup(0, addr("10.2.0.1"), ours4, s.now); len(e.RLOCs()) != 0 || e.RLOC(0) != nil {
		t.Errorf("the entry has %d locators", len(e.RLOCs()))
	}
}

// A locator without the R bit gets no packet (RFC 9300 section 9).
func TestDP16_UnreachableLocator(t *testing.T) {
	down := mapping.MakeLocator(rlocN(1), 1, 100)
	down.Flags = 0
	to, _ := spread(t, down, mapping.MakeLocator(rlocN(2), 1, 100), mapping.MakeLocator(rlocN(3), 9, 100))
	if len(to) != 1 || to[rlocN(2)] != 500 {
		t.Errorf("beside another: %v", to)
	}
	to, s := spread(t, down)
	if len(to) != 0 {
		t.Errorf("alone: %v", to)
	}
	s.wantDrops(dataplane.DropNoLocator, 500)
}

// Packets teach nothing about their source: an answer needs a mapping as ever,
// and there is no entry that could have a weight (RFC 9300 section 9).
func TestDP17_NothingIsGleaned(t *testing.T) {
	s := noGleaning(t)
	s.send(0, flow4(10).Bytes())
	if sent := s.under.Sent(); len(sent) != 0 {
		t.Errorf("%d packets without a mapping", len(sent))
	}
	if m := <-s.fwd.Misses(); m != (dataplane.Miss{Dst: addr("10.2.0.1"), Src: addr("10.1.0.1")}) {
		t.Errorf("asked for %+v", m)
	}
}

func TestDP18_NoGleanedLocator(t *testing.T) {
	s := noGleaning(t)
	for e := range s.fib.Snapshot().All() {
		t.Errorf("entry %v", e)
	}
	for r := range s.fib.RLOCs() {
		t.Errorf("locator %v", r.Addr())
	}
}

// noGleaning is a site that got packets from an RLOC that it has no mapping to.
func noGleaning(t *testing.T) *site {
	s := newSite(t, dataplane.MissPolicy{})
	s.in.Batch(slices.Repeat([]dataplane.Packet{back4(10).Lisp(0, "198.51.100.1", "192.0.2.1")}, 20))
	s.wantCount(dataplane.DecapPackets, 20)
	if n := len(s.fwd.Misses()); n != 0 {
		t.Errorf("packets that came in caused %d questions", n)
	}
	return s
}

// The public Internet is the default: N, L, E and V are not sent, and a packet
// with V is dropped (RFC 9300 section 4.1, RFC 9302 sections 6.1 and 8).
func TestDP19_InternetIsTheDefault(t *testing.T) {
	s := newSite(t, dataplane.MissPolicy{})
	s.fib.SetLocal([]dataplane.LocalEID{{EID: eid("10.1.0.0/16"), Version: 5}})
	r := positive("10.2.0.0/16", theirs4)
	r.Version = 3
	s.learn(r)
	s.send(0, flow4(10).Bytes())
	if f := s.flags(); len(f) != 1 || f[0] != 0 {
		t.Errorf("sent %x", f)
	}
	s.in.Batch([]dataplane.Packet{forged(back4(10), 0x10, 3<<12|5, 0)})
	s.wantDrops(dataplane.DropMapVersion, 1)
	if s.fwd.Versions() != nil {
		t.Error("there is a queue for findings about versions")
	}
}

// Traffic of one direction goes on for as long as the mapping lives: that
// nothing comes back is no sign (RFC 9300 section 10).
func TestDP20_OneWayTraffic(t *testing.T) {
	s := newSite(t, dataplane.MissPolicy{})
	s.fib.Apply(changes(t0.Add(24*time.Hour), positive("10.2.0.0/16", theirs4, rlocN(2))))
	p := flow4(10).Bytes()
	var first netip.Addr
	for range 1000 {
		s.now = s.now.Add(time.Minute)
		s.send(0, slices.Clone(p))
		sent := s.under.Sent()
		if len(sent) != 1 || first.IsValid() && sent[0].Dst != first {
			t.Fatalf("at %v: %+v, drops %v", s.now.Sub(t0), sent, s.drops())
		}
		first = sent[0].Dst
	}
}

// Received locator-status-bits are no news, however often they change (RFC 9300
// section 3 wants the reaction limited; there is none).
func TestDP21_StatusBitsChangeNothing(t *testing.T) {
	s := newSite(t, dataplane.MissPolicy{})
	s.learn(positive("10.2.0.0/16", theirs4, rlocN(2)))
	where := func() string {
		var out string
		for i := range 64 {
			p := flow4(10)
			p.SrcPort = uint16(1 + i)
			s.send(0, p.Bytes())
		}
		for _, p := range s.under.Sent() {
			out += fmt.Sprint(p.Dst, " ")
		}
		return out
	}
	before := where()
	for i := range 1000 {
		s.in.Batch([]dataplane.Packet{forged(back4(10), 0x40, 0, uint32(i%4))})
	}
	if after := where(); after != before {
		t.Errorf("flows moved from %v to %v", before, after)
	}
	s.wantCount(dataplane.DecapPackets, 1000)
	s.wantCount(dataplane.HeaderBitsIgnored, 1000)
}

// Multicast is not encapsulated, so no source RLOC of it can be wrong; and it
// is not let in (RFC 9300 section 14).
func TestDP23_NoMulticast(t *testing.T) {
	s := newSite(t, dataplane.MissPolicy{})
	s.learn(positive("0.0.0.0/0", theirs4), positive("::/0", theirs4))
	s.fib.SetLocal([]dataplane.LocalEID{{EID: eid("10.1.0.0/16")}, {EID: eid("2001:db8:1::/48")}, {EID: eid("224.0.0.0/4")}, {EID: eid("ff00::/8")}})
	group4, group6 := flow4(10), flow6(10)
	group4.Dst, group6.Dst = addr("239.1.2.3"), addr("ff0e::1:2")
	s.send(0, group4.Bytes(), group6.Bytes())
	if sent := s.under.Sent(); len(sent) != 0 {
		t.Errorf("%d multicast packets sent", len(sent))
	}
	group4.Src, group6.Src = addr("10.2.0.1"), addr("2001:db8:2::1")
	s.in.Batch([]dataplane.Packet{group4.Lisp(0, "198.51.100.1", "192.0.2.1"), group6.Lisp(0, "198.51.100.1", "192.0.2.1")})
	s.wantCount(dataplane.DecapPackets, 0)
	s.wantDrops(dataplane.DropMulticast, 4)
}

// LISP-GPE (RFC 9305): its P bit is the reserved bit, so neither sent nor looked
// at; what it carries besides IP is not taken for IP.
func TestDP26_NoGPE(t *testing.T) {
	s := newSite(t, dataplane.MissPolicy{})
	s.learn(positive("10.2.0.0/16", theirs4), positive("[7]10.2.0.0/16", theirs4))
	s.send(0, flow4(10).Bytes())
	s.send(7, flow4(10).Bytes())
	if f := s.flags(); !bytes.Equal(f, []byte{0, 8}) {
		t.Errorf("sent flags %x", f)
	}
	// P with next protocol IPv6 before an IPv4 packet: the packet says what it is.
	s.in.Batch([]dataplane.Packet{forged(back4(10), 0x04, 2, 0)})
	if out := s.host.Written(); len(out) != 1 || !bytes.Equal(out[0], back4(10).Bytes()) {
		t.Errorf("delivered %x, drops %v", out, s.drops())
	}
	frame := forged(back4(10), 0x04, 3, 0) // an Ethernet frame
	frame.Data = append(frame.Data[:8:8], 0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2, 0x08, 0)
	s.in.Batch([]dataplane.Packet{frame})
	s.wantDrops(dataplane.DropInnerVersion, 1)
}

// A tunnel router's address is one host's: packets from any other are dropped,
// and none are sent to one (RFC 9301 section 5.4).
func TestA12_OuterAddresses(t *testing.T) {
	bad := []string{"224.0.0.5", "255.255.255.255", "0.0.0.0", "127.0.0.1", "169.254.1.1", "ff02::5", "ff0e::1", "::", "::1", "fe80::1"}
	for _, a := range bad {
		s := newSite(t, dataplane.MissPolicy{})
		to := "192.0.2.1"
		if addr(a).Is6() {
			to = "2001:db8:ffff::1"
		}
		s.in.Batch([]dataplane.Packet{back4(10).Lisp(0, a, to)})
		s.wantDrops(dataplane.DropOuterSource, 1)
		s.wantCount(dataplane.DecapPackets, 0)
		s.learn(positive("10.2.0.0/16", addr(a)))
		s.send(0, flow4(10).Bytes())
		s.wantDrops(dataplane.DropNoLocator, 1)
		if sent := s.under.Sent(); len(sent) != 0 {
			t.Errorf("a packet was sent to %v", a)
		}
	}
}

// Nor does a packet come from this router itself, by whichever of its addresses
// (RFC 9300 section 16).
func TestA12_OuterSourceIsNotOurs(t *testing.T) {
	second := addr("192.0.2.200")
	s := newSite(t, dataplane.MissPolicy{})
	s.fib.SetLocalRLOCs([]netip.Addr{ours4, second})
	s.fwd = dataplane.NewForwarder(s.fib, dataplane.Config{})
	s.in = s.fwd.NewDecap(map[uint32]dataplane.HostWriter{0: s.host})
	s.in.Batch([]dataplane.Packet{back4(10).Lisp(0, "192.0.2.200", "192.0.2.1"), back4(10).Lisp(0, "192.0.2.1", "192.0.2.200")})
	s.wantDrops(dataplane.DropOuterSource, 2)
	s.wantCount(dataplane.DecapPackets, 0)
	if h := s.fwd.Heard(); len(h) != 0 {
		t.Errorf("heard of %v", h)
	}
}

// Forged header bits of all kinds, from RLOCs that are in mappings and that are
// not, change nothing on an untrusted underlay: not the table, not where
// packets go or what they look like, and nothing is asked or told. Each is
// counted.
func TestAbuse_ForgedStatusBitsVersionsAndEchoNonce(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	s := newSite(t, dataplane.MissPolicy{})
	s.host.Discard, s.host7.Discard = true, true
	s.fib.SetLocal([]dataplane.LocalEID{{EID: eid("10.1.0.0/16"), Version: 5}, {EID: eid("[7]10.1.0.0/16"), Version: 5}})
	known := positive("10.2.0.0/16", theirs4, rlocN(2))
	known.Version = 3
	s.learn(known, mapping.NegativeRecord(eid("10.3.0.0/16"), mapping.Drop, 15))
	view := func() string {
		var out string
		for i := range 32 {
			p := flow4(10)
			p.SrcPort = uint16(1 + i)
			s.send(0, p.Bytes())
		}
		for _, p := range s.under.Sent() {
			out += fmt.Sprintf("%v %x\n", p.Dst, p.Data[:8])
		}
		return out
	}
	before, snapshot := view(), s.fib.Snapshot()
	s.fib.Usage(func(mapping.EID, uint64, uint64) {})
	misses := s.fwd.Count(dataplane.MissQueued)
	var versions, ignored, plain uint64
	const forgeries = 20_000
	for range forgeries {
		flags := byte(r.Uint32()) & 0xfc
		p := back4(10)
		p.Src = netip.AddrFrom4([4]byte{10, byte(2 + r.IntN(3)), byte(r.Uint32()), 1 + byte(r.IntN(200))})
		pkt := forged(p, flags, r.Uint32(), 7<<8|r.Uint32()&0xff)
		pkt.Src = netip.AddrFrom4([4]byte{198, 51, 100, byte(1 + r.IntN(250))})
		switch {
		case flags&0x90 == 0x10:
			versions++
		case flags&0xc0 != 0:
			ignored++
		default:
			plain++
		}
		s.in.Batch([]dataplane.Packet{pkt})
	}
	s.wantDrops(dataplane.DropMapVersion, versions)
	s.wantCount(dataplane.HeaderBitsIgnored, ignored)
	s.wantCount(dataplane.DecapPackets, ignored+plain)
	if s.fib.Snapshot() != snapshot {
		t.Error("the forwarding table was changed")
	}
	s.fib.Usage(func(e mapping.EID, _, _ uint64) { t.Errorf("%v counts as used", e) })
	if n := s.fwd.Count(dataplane.MissQueued) - misses; n != 0 || len(s.fwd.Misses()) != 0 {
		t.Errorf("%d mappings were asked for", n)
	}
	if s.fwd.Versions() != nil || s.fwd.Count(dataplane.VersionQueued) != 0 {
		t.Error("the control plane was told of versions")
	}
	if sent := s.under.Sent(); len(sent) != 0 {
		t.Errorf("%d packets were sent", len(sent))
	}
	if after := view(); after != before {
		t.Errorf("packets go\n%snow, before\n%s", after, before)
	}
}
