package encap

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"
)

// The table of RFC 6040 section 4.2 as it is printed there, row by row.
func TestDP11_DecapsulationTable(t *testing.T) {
	const drop = 9
	outer := [4]uint8{NotECT, ECT0, ECT1, CE}
	for inner, row := range map[uint8][4]uint8{
		NotECT: {NotECT, NotECT, NotECT, drop},
		ECT0:   {ECT0, ECT0, ECT1, CE},
		ECT1:   {ECT1, ECT1, ECT1, CE},
		CE:     {CE, CE, CE, CE},
	} {
		for i, want := range row {
			got, v := DecapECN(inner, outer[i])
			if want == drop && v != MustDrop || want != drop && (v == MustDrop || got != want) {
				t.Errorf("inner %d, outer %d: %d, %v, want %d", inner, outer[i], got, v, want)
			}
		}
	}
	unexpected := 0
	for in := range uint8(4) {
		for out := range uint8(4) {
			if _, v := DecapECN(in, out); v == Unexpected {
				unexpected++
			}
		}
	}
	if unexpected != 4 { // the marked cells, less the one that drops
		t.Errorf("%d unexpected pairs", unexpected)
	}
}

func TestDP10_ApplyOuter(t *testing.T) {
	for _, c := range []struct {
		ttl, tos, outTTL, outTOS uint8
		wantTTL, wantTOS         uint8
		verdict                  Verdict
	}{
		{64, 0, 60, 0, 60, 0, Fine},
		{10, 0, 60, 0, 10, 0, Fine}, // never raised
		{64, 0xb8 | ECT0, 64, 0x28 | CE, 64, 0x28 | CE, Fine},
		{64, ECT0, 64, ECT1, 64, ECT1, Fine},
		{64, ECT1, 64, ECT0, 64, ECT1, Unexpected},
		{64, 0, 3, CE, 64, 0, MustDrop}, // and not edited
		{0, 0, 1, 0xff &^ 3, 0, 0xfc, Fine},
	} {
		for _, pkt := range [][]byte{
			ipv4("10.1.1.1", "10.2.1.1", 6, c.ttl, c.tos, 0, []byte{1, 1, 1, 0}, ports),
			ipv6("2001:db8:1::1", "2001:db8:2::1", 17, c.ttl, c.tos, ports),
		} {
			was := slices.Clone(pkt)
			var f Flow
			v := ApplyOuter(pkt, c.outTTL, c.outTOS)
			if err := f.Decode(pkt); err != nil || v != c.verdict || f.TTL != c.wantTTL || f.TOS != c.wantTOS {
				t.Errorf("%+v: TTL %d TOS %#x %v", c, f.TTL, f.TOS, v)
			}
			if pkt[0]>>4 == 4 && Checksum(pkt[:f.HeaderLen]) != 0 {
				t.Errorf("%+v: header checksum is wrong", c)
			}
			if pkt[0]>>4 == 6 && (pkt[1]&0x0f != was[1]&0x0f || pkt[2] != was[2]) {
				t.Errorf("%+v: flow label changed", c)
			}
			if v == MustDrop && !bytes.Equal(pkt, was) {
				t.Errorf("%+v: a packet to drop was edited", c)
			}
		}
	}
}

// The incremental update agrees with a full computation, for any header, and
// keeps a wrong checksum wrong.
func TestApplyOuterChecksum(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 20000 {
		pkt := ipv4("10.1.1.1", "10.2.1.1", 6, uint8(r.Uint32()), uint8(r.Uint32())|1, 0, nil, nil)
		for i := 12; i < 20; i++ {
			pkt[i] = uint8(r.Uint32())
		}
		pkt[10], pkt[11] = 0, 0
		binary.BigEndian.PutUint16(pkt[10:], Checksum(pkt))
		bad := slices.Clone(pkt)
		bad[11] ^= 0x10
		ttl, tos := uint8(r.Uint32()), uint8(r.Uint32())
		ApplyOuter(pkt, ttl, tos)
		ApplyOuter(bad, ttl, tos)
		if Checksum(pkt) != 0 {
			t.Fatalf("%x: checksum", pkt)
		}
		if Checksum(bad) == 0 {
			t.Fatalf("%x: a wrong checksum was made right", bad)
		}
	}
}

// slowSum is RFC 1071 by the book.
func slowSum(b []byte, sum uint64) uint16 {
	for i := 0; i < len(b); i += 2 {
		w := uint64(b[i]) << 8
		if i+1 < len(b) {
			w |= uint64(b[i+1])
		}
		sum += w
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

func TestSum(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for n := range 300 {
		b := make([]byte, n)
		for i := range b {
			b[i] = uint8(r.Uint32())
			if n%3 == 0 {
				b[i] = 0xff
			}
		}
		start := uint64(r.Uint32())
		// 0 and 0xffff are both zero in one's complement.
		if got, want := Fold(Sum(b, start)), slowSum(b, start); got != want && (got%0xffff != 0 || want%0xffff != 0) {
			t.Fatalf("%d octets: %#x, want %#x", n, got, want)
		}
	}
}

func BenchmarkSum(b *testing.B) {
	p := make([]byte, 1408)
	b.SetBytes(int64(len(p)))
	for b.Loop() {
		Sum(p, 1)
	}
}
