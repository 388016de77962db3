package tun

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/dataplane/dptest"
	"github.com/eidolon-lisp/eidolon/encap"
)

func flow(v6 bool, proto uint8, port uint16, payload []byte) dptest.Inner {
	p := dptest.Inner{Src: netip.MustParseAddr("10.1.0.1"), Dst: netip.MustParseAddr("10.2.0.1"), SrcPort: port, DstPort: 80, Proto: proto, Payload: payload}
	if v6 {
		p.Src, p.Dst = netip.MustParseAddr("2001:db8:1::1"), netip.MustParseAddr("2001:db8:2::1")
	}
	return p
}

func random(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// checkPacket verifies lengths and all checksums of an IP packet.
func checkPacket(t *testing.T, p []byte) {
	t.Helper()
	var f encap.Flow
	if err := f.Decode(p); err != nil || f.Length != len(p) {
		t.Fatalf("packet %x: %v, length %d of %d", p[:20], err, f.Length, len(p))
	}
	if p[0]>>4 == 4 && encap.Checksum(p[:f.HeaderLen]) != 0 {
		t.Fatal("IP header checksum")
	}
	if f.Protocol == protoUDP && binary.BigEndian.Uint16(p[f.HeaderLen+4:]) != uint16(len(p)-f.HeaderLen) {
		t.Fatal("UDP length")
	}
	if encap.Fold(encap.Sum(p[f.HeaderLen:], encap.PseudoHeader(p, f.Protocol, len(p)-f.HeaderLen))) != 0xffff {
		t.Fatal("transport checksum")
	}
}

// whole returns what the kernel would hand over for a packet of many segments:
// the packet with only the pseudo-header's sum as checksum, and its header.
func whole(p []byte, size int) ([]byte, vnetHeader) {
	var f encap.Flow
	if err := f.Decode(p); err != nil {
		panic(err)
	}
	v := vnetHeader{flags: vnetNeedsChecksum, gsoSize: uint16(size), csumAt: uint16(f.HeaderLen), csumOff: 16, gsoType: gsoTCPv4}
	if f.Src.Is6() {
		v.gsoType = gsoTCPv6
	}
	if f.Protocol == protoUDP {
		v.gsoType, v.csumOff = gsoUDP, 6
	}
	binary.BigEndian.PutUint16(p[int(v.csumAt+v.csumOff):], encap.Fold(encap.PseudoHeader(p, f.Protocol, len(p)-f.HeaderLen)))
	return p, v
}

// segments cuts a packet and returns copies.
func segments(t *testing.T, p []byte, v vnetHeader) (list [][]byte) {
	t.Helper()
	s, ok := v.super(p)
	if !ok {
		t.Fatal("refused to cut")
	}
	room := []byte("headroom")
	var c dataplane.Cutter
	var head dataplane.Head
	for c.Begin(slices.Concat(room, p), s); c.Active(); {
		first, body := c.Next(&head)
		if !bytes.Equal(first[:dataplane.Headroom], room) {
			t.Fatalf("the headroom of a segment is %x", first[:dataplane.Headroom])
		}
		list = append(list, slices.Concat(first[dataplane.Headroom:], body))
	}
	if len(list) != s.Segments(len(p)) {
		t.Fatalf("%d segments, %d announced", len(list), s.Segments(len(p)))
	}
	return list
}

// Cutting makes sound packets that carry the payload in order, with the
// header fields that a sender without offload would have given them.
func TestCut(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for range 400 {
		v6, proto := r.IntN(2) == 0, uint8([]int{protoTCP, protoUDP}[r.IntN(2)])
		payload := random(r, 2+r.IntN(60000))
		size := 1 + r.IntN(2000) + len(payload)/120
		in := flow(v6, proto, 1000, payload)
		in.ID, in.Seq, in.Ack, in.TOS, in.TTL = 0xfff0, 0xffffff00, 77, 0xb9, 33
		in.Flags = tcpACK | tcpPSH | tcpFIN | tcpCWR
		p, v := whole(in.Bytes(), size)
		list := segments(t, p, v)
		if want := (len(payload) + size - 1) / size; len(list) != want {
			t.Fatalf("%d segments, want %d", len(list), want)
		}
		var got []byte
		for i, s := range list {
			checkPacket(t, s)
			hlen := 20
			if v6 {
				hlen = 40
			} else if id := binary.BigEndian.Uint16(s[4:]); id != uint16(0xfff0+i) {
				t.Fatalf("segment %d has ID %#x", i, id)
			}
			var f encap.Flow
			f.Decode(s)
			if f.TTL != 33 || f.TOS != 0xb9 || f.Ports != 1000<<16|80 {
				t.Fatalf("segment %d: %+v", i, f)
			}
			if proto == protoTCP {
				seq, flags := binary.BigEndian.Uint32(s[hlen+4:]), s[hlen+13]
				want := byte(tcpACK)
				if i == 0 {
					want |= tcpCWR
				}
				if i == len(list)-1 {
					want |= tcpPSH | tcpFIN
				}
				if seq != 0xffffff00+uint32(len(got)) || flags != want {
					t.Fatalf("segment %d: sequence %#x after %d octets, flags %#x, want %#x", i, seq, len(got), flags, want)
				}
				hlen += 20
			} else {
				hlen += 8
			}
			got = append(got, s[hlen:]...)
		}
		if !bytes.Equal(got, payload) {
			t.Fatal("the payload differs")
		}
	}
}

// The kernel's description is not trusted: nothing panics, and what is refused
// is refused whole.
func FuzzCut(f *testing.F) {
	for _, proto := range []uint8{protoTCP, protoUDP} {
		for _, v6 := range []bool{false, true} {
			p, v := whole(flow(v6, proto, 1, make([]byte, 100)).Bytes(), 30)
			f.Add(slices.Concat(v.encode(), p))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) <= vnetLen || len(b) > vnetLen+maxPacket {
			return
		}
		var v vnetHeader
		v.decode((*[vnetLen]byte)(b))
		pkt := slices.Clone(b[vnetLen:])
		v.complete(slices.Clone(pkt))
		s, ok := v.super(pkt)
		if !ok {
			return
		}
		total, n := 0, 0
		var c dataplane.Cutter
		var head dataplane.Head
		for c.Begin(append(make([]byte, dataplane.Headroom), pkt...), s); c.Active(); n++ {
			_, body := c.Next(&head)
			if total += len(body); n > len(pkt) {
				t.Fatal("no end")
			}
		}
		if total != len(pkt)-int(s.Headers) || n != s.Segments(len(pkt)) {
			t.Fatalf("%d octets of %d in %d segments of %d", total, len(pkt)-int(s.Headers), n, s.Segments(len(pkt)))
		}
	})
}

func TestCompleteChecksum(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		for _, proto := range []uint8{protoTCP, protoUDP} {
			p, v := whole(flow(v6, proto, 1, []byte("hello")).Bytes(), 0)
			if !v.complete(p) {
				t.Fatal("refused")
			}
			checkPacket(t, p)
		}
	}
	p := flow(false, protoUDP, 1, nil).Bytes()
	for _, v := range []vnetHeader{{csumAt: 28, csumOff: 6}, {csumAt: 4, csumOff: 6}, {csumAt: 0xffff, csumOff: 0xffff}} {
		if v.complete(p) {
			t.Errorf("%+v was accepted", v)
		}
	}
}

// written is what a queue would write for a batch: each group as the kernel
// gets it, cut again by the description.
func written(t *testing.T, c *coalescer, pkts [][]byte) (out [][]byte, groups int) {
	t.Helper()
	batch := make([][]byte, len(pkts))
	for i, p := range pkts {
		batch[i] = slices.Clone(p)
	}
	c.load(batch)
	for i := range c.groups {
		g := &c.groups[i]
		v := g.offload(batch[g.first])
		p := slices.Clone(batch[g.first])
		if v.gsoType == gsoNone {
			if g.n != 1 || v.flags&vnetNeedsChecksum != 0 && !v.complete(p) {
				t.Fatalf("a group of %d packets that the kernel is told nothing sound of: %+v", g.n, v)
			}
			out = append(out, p)
			continue
		}
		for i := c.link[g.first]; i >= 0; i = c.link[i] {
			p = append(p, batch[i][g.headers:]...)
		}
		if len(p) != g.total || len(p) > maxPacket {
			t.Fatalf("a group of %d octets, counted %d", len(p), g.total)
		}
		out = append(out, segments(t, p, v)...)
	}
	return out, len(c.groups)
}

// Coalescing and the kernel's segmentation undo each other: whatever the mix,
// each flow's packets come out as they went in, in order.
func TestCoalesceRoundTrip(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 2))
	c := &coalescer{udp: true}
	merged := 0
	for range 600 {
		type stream struct {
			in  dptest.Inner
			seq uint32
			id  uint16
		}
		var streams []*stream
		for i := range 1 + r.IntN(4) {
			in := flow(r.IntN(2) == 0, uint8([]int{protoTCP, protoUDP}[r.IntN(2)]), uint16(100+i), nil)
			in.DF = r.IntN(2) == 0
			streams = append(streams, &stream{in, r.Uint32(), uint16(r.Uint32())})
		}
		size := 1 + r.IntN(1400)
		var pkts [][]byte
		for range 1 + r.IntN(dataplane.MaxBatch) {
			s := streams[r.IntN(len(streams))]
			p := s.in
			n := size
			switch r.IntN(12) {
			case 0:
				n = r.IntN(size + 1)
			case 1:
				n = size + 1
			}
			p.Payload, p.Seq, p.ID, p.Flags = random(r, n), s.seq, s.id, tcpACK
			switch r.IntN(24) {
			case 0:
				p.Flags |= tcpPSH
			case 1:
				p.Flags |= tcpFIN
			case 2:
				p.Ack = 9
			case 3:
				p.TTL = 7
			case 4:
				p.Seq += 1000
			case 5:
				p.TOS = 3
			case 6:
				p.ID += 5
			case 7:
				p.MF = p.Src.Is4()
			}
			s.seq += uint32(n)
			s.id++
			b := p.Bytes()
			if r.IntN(30) == 0 {
				b[len(b)-1] ^= 1 // corrupted on the way
			}
			pkts = append(pkts, b)
		}
		out, groups := written(t, c, pkts)
		merged += len(pkts) - groups
		if want, got := byFlow(pkts), byFlow(out); fmt.Sprint(want) != fmt.Sprint(got) {
			t.Fatalf("%d packets in, %d out, and a flow differs", len(pkts), len(out))
		}
	}
	if merged < 5000 {
		t.Errorf("only %d packets were merged", merged)
	}
}

// byFlow lists the packets of each flow in order. Where DF makes the
// identification meaningless (RFC 6864) it is left out, and with it the
// checksum that covers it.
func byFlow(pkts [][]byte) map[string][]string {
	m := make(map[string][]string)
	for _, p := range pkts {
		p = slices.Clone(p)
		var f encap.Flow
		if err := f.Decode(p); err != nil {
			panic(err)
		}
		if p[0]>>4 == 4 {
			if f.DF {
				p[4], p[5] = 0, 0
			}
			if encap.Checksum(p[:20]) != 0 || f.DF {
				p[10], p[11] = 0, 0
			}
		}
		key := fmt.Sprint(f.Src, f.Dst, f.Ports, f.Protocol)
		m[key] = append(m[key], string(p))
	}
	return m
}

func TestCoalesceBulk(t *testing.T) {
	c := &coalescer{udp: true}
	for _, v6 := range []bool{false, true} {
		for _, proto := range []uint8{protoTCP, protoUDP} {
			var pkts [][]byte
			for i := range 100 {
				p := flow(v6, proto, 5, make([]byte, 1000))
				p.Seq, p.DF = uint32(i*1000), true
				pkts = append(pkts, p.Bytes())
			}
			out, groups := written(t, c, pkts)
			if len(out) != 100 || groups != 2 { // 64 KiB, or 64 datagrams, at a time
				t.Errorf("IPv6 %v, protocol %d: %d packets in %d groups", v6, proto, len(out), groups)
			}
		}
	}
	c.udp = false // a kernel that does not take UDP segments
	pkts := [][]byte{flow(false, protoUDP, 5, []byte{1}).Bytes(), flow(false, protoUDP, 5, []byte{2}).Bytes()}
	if _, groups := written(t, c, pkts); groups != 2 {
		t.Error("UDP was merged for a kernel that can't split it")
	}
}

// left makes packets whose checksum was left to others.
func left(pkts ...[]byte) [][]byte {
	for _, p := range pkts {
		whole(p, 0)
	}
	return pkts
}

// Checksums that were left to others get finished, alone and together, and what
// came in one piece is cut into what every link takes.
func TestUnfinished(t *testing.T) {
	c := &coalescer{udp: true}
	c.mtu.Store(1464)
	for _, v6 := range []bool{false, true} {
		for _, proto := range []uint8{protoTCP, protoUDP} {
			packet := func(i, n int) []byte {
				p := flow(v6, proto, 5, bytes.Repeat([]byte{byte(i)}, n))
				p.Seq, p.DF = uint32(i*n), true
				return p.Bytes()
			}
			var pkts, want [][]byte
			for i := range 40 {
				pkts, want = append(pkts, packet(i, 1000)), append(want, packet(i, 1000))
			}
			left(pkts[:10]...) // as when the route changed
			out, groups := written(t, c, pkts)
			if groups != 1 || fmt.Sprint(byFlow(out)) != fmt.Sprint(byFlow(want)) {
				t.Errorf("IPv6 %v, protocol %d: %d packets in %d groups", v6, proto, len(out), groups)
			}
			// Alone, and beside one of another flow.
			other := flow(!v6, proto, 6, []byte("x")).Bytes()
			out, _ = written(t, c, append(left(packet(1, 1000)), other))
			if len(out) != 2 || !bytes.Equal(out[0], packet(1, 1000)) || !bytes.Equal(out[1], other) {
				t.Errorf("IPv6 %v, protocol %d: a packet by itself differs", v6, proto)
			}
			// In one piece: a datagram stays one.
			big := packet(3, 60000)
			out, _ = written(t, c, left(slices.Clone(big)))
			if proto == protoUDP {
				if len(out) != 1 || !bytes.Equal(out[0], big) {
					t.Errorf("IPv6 %v: a large datagram became %d packets", v6, len(out))
				}
				continue
			}
			payload := 0
			for i, p := range out {
				checkPacket(t, p)
				if len(p) > cutLength || i < len(out)-1 && len(p) < cutLength-1 {
					t.Fatalf("IPv6 %v: a segment of %d octets", v6, len(p))
				}
				payload += len(p) - (len(big) - 60000)
			}
			if payload != 60000 {
				t.Errorf("IPv6 %v: %d octets of 60000 in %d segments", v6, payload, len(out))
			}
		}
	}
	// One that only seems to go on where another ended.
	short, big := flow(false, protoTCP, 5, make([]byte, 1240)), flow(false, protoTCP, 5, make([]byte, 60000))
	short.DF, big.DF, big.Seq = true, true, (2480-60000)&(1<<32-1)
	out, _ := written(t, c, left(short.Bytes(), big.Bytes()))
	seqs := map[uint32]bool{}
	for _, p := range out {
		checkPacket(t, p)
		seqs[binary.BigEndian.Uint32(p[24:])] = true
	}
	if !seqs[0] || !seqs[big.Seq] || len(out) != 1+(60000+1239)/1240 {
		t.Errorf("%d packets, beginning at 0 %v, at %d %v", len(out), seqs[0], big.Seq, seqs[big.Seq])
	}
	// Longer than the device takes and finished: nobody may cut it.
	p := flow(false, protoTCP, 5, make([]byte, 3000)).Bytes()
	if out, _ := written(t, c, [][]byte{p}); len(out) != 1 || !bytes.Equal(out[0], p) {
		t.Error("a large packet with a checksum was cut")
	}
}

// Whatever comes, the kernel is told what makes sense, and no octet of payload is
// lost or added.
func FuzzCoalesce(f *testing.F) {
	for _, proto := range []uint8{protoTCP, protoUDP} {
		for _, v6 := range []bool{false, true} {
			var b []byte
			for i := range 3 {
				p := flow(v6, proto, 1, make([]byte, 50))
				p.Seq, p.DF = uint32(i*50), true
				pkt := p.Bytes()
				if i > 0 {
					left(pkt)
				}
				b = append(binary.BigEndian.AppendUint16(b, uint16(len(pkt))), pkt...)
			}
			f.Add(b, uint16(1280))
			f.Add(b, uint16(60))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte, mtu uint16) {
		var pkts [][]byte
		for len(b) > 2 && len(pkts) < dataplane.MaxBatch {
			n := min(int(binary.BigEndian.Uint16(b)), len(b)-2)
			var f encap.Flow
			if p := b[2 : 2+n]; n > 0 && f.Decode(p) == nil && f.Length == n { // else the core drops it
				pkts = append(pkts, slices.Clone(p))
			}
			b = b[2+n:]
		}
		c := &coalescer{udp: true}
		c.mtu.Store(int32(mtu))
		written(t, c, pkts)
	})
}

// A wrong checksum is never made right.
func TestCoalesceKeepsWrongChecksums(t *testing.T) {
	c := &coalescer{udp: true}
	for bad := range 3 {
		var pkts [][]byte
		for i := range 3 {
			p := flow(false, protoTCP, 5, make([]byte, 100))
			p.Seq, p.DF = uint32(i*100), true
			pkts = append(pkts, p.Bytes())
		}
		pkts[bad][50] ^= 0x40
		out, _ := written(t, c, pkts)
		if len(out) != 3 || !bytes.Equal(out[bad], pkts[bad]) {
			t.Errorf("packet %d with a wrong checksum was changed", bad)
		}
	}
}

func TestOffloadsDoNotAllocate(t *testing.T) {
	c := &coalescer{udp: true}
	var pkts [][]byte
	for i := range 100 {
		p := flow(i%2 == 0, protoTCP, 5, make([]byte, 1000))
		p.Seq = uint32(i / 2 * 1000)
		pkts = append(pkts, p.Bytes())
	}
	big, v := whole(flow(true, protoTCP, 5, make([]byte, 60000)).Bytes(), 1000)
	big = append(make([]byte, dataplane.Headroom), big...)
	s, _ := v.super(big[dataplane.Headroom:])
	var cut dataplane.Cutter
	head := new(dataplane.Head)
	c.load(pkts)
	if n := testing.AllocsPerRun(50, func() {
		c.load(pkts)
		for cut.Begin(big, s); cut.Active(); {
			cut.Next(head)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
