package encap

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"
)

// segment is a TCP segment with options inside IPv4 or IPv6, the latter with an
// extension header, and a right checksum.
func segment(six bool, flags byte, options []byte) []byte {
	for len(options)%4 != 0 {
		options = append(options, 0)
	}
	h := make([]byte, 20, 64)
	binary.BigEndian.PutUint32(h, 1234<<16|80)
	h[12], h[13] = byte(20+len(options))/4<<4, flags
	h = append(h, options...)
	pkt := make([]byte, 20)
	pkt[0], pkt[9] = 0x45, protoTCP
	copy(pkt[12:], []byte{10, 1, 0, 1, 10, 2, 0, 1})
	if six {
		pkt = make([]byte, 48)
		pkt[0], pkt[6], pkt[40] = 0x60, protoDstOptions, protoTCP
		pkt[23], pkt[39] = 1, 2
		binary.BigEndian.PutUint16(pkt[4:], uint16(8+len(h)))
	} else {
		binary.BigEndian.PutUint16(pkt[2:], uint16(20+len(h)))
	}
	binary.BigEndian.PutUint16(h[16:], ^Fold(Sum(h, PseudoHeader(pkt, protoTCP, len(h)))))
	return append(pkt, h...)
}

func validSegment(pkt []byte) bool {
	at := tcpAt(pkt)
	return Fold(Sum(pkt[at:], PseudoHeader(pkt, protoTCP, len(pkt)-at))) == 0xffff
}

func tcpAt(pkt []byte) int {
	if pkt[0]>>4 == 6 {
		return 48
	}
	return 20
}

func TestClampMSS(t *testing.T) {
	mss := func(n int) []byte { return []byte{2, 4, byte(n >> 8), byte(n)} }
	const syn, synAck, ack = 0x02, 0x12, 0x10
	for _, c := range []struct {
		name    string
		flags   byte
		options []byte
		at      int // of the value in the options; where it is lowered
	}{
		{"SYN", syn, mss(1460), 2},
		{"SYN and ACK", synAck, mss(1460), 2},
		{"at an odd place", syn, append([]byte{1}, mss(1460)...), 3},
		{"behind others", syn, append([]byte{4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7}, mss(9000)...), 18},
		{"largest", syn, mss(65535), 2},
		{"small enough", syn, mss(1300), 0},
		{"none", syn, []byte{1, 1, 4, 2}, 0},
		{"no SYN", ack, mss(1460), 0},
		{"behind the end", syn, append([]byte{0, 0, 0, 0}, mss(1460)...), 0},
		{"behind an option of length 0", syn, append([]byte{3, 0, 0, 0}, mss(1460)...), 0},
		{"behind an option of length 1", syn, append([]byte{3, 1}, mss(1460)...), 0},
		{"behind one that is too long", syn, append([]byte{3, 40}, mss(1460)...), 0},
		{"of another length", syn, []byte{2, 6, 5, 0xb4, 0, 0}, 0},
		{"cut off", syn, []byte{1, 1, 2, 4}, 0},
		{"only a kind", syn, []byte{1, 1, 1, 2}, 0},
	} {
		for _, six := range []bool{false, true} {
			pkt := segment(six, c.flags, c.options)
			was := slices.Clone(pkt)
			room, want := 1404, 1364
			if six {
				want = 1344
			}
			if c.at > 0 {
				binary.BigEndian.PutUint16(was[tcpAt(pkt)+20+c.at:], uint16(want))
			}
			copy(was[tcpAt(pkt)+16:], pkt[tcpAt(pkt)+16:][:2]) // the checksum is looked at below
			if got := ClampMSS(pkt, room, false); got != (c.at > 0) || !validSegment(pkt) {
				t.Errorf("%s, IPv6 %v: clamped %v, checksum right %v", c.name, six, got, validSegment(pkt))
			}
			copy(was[tcpAt(pkt)+16:], pkt[tcpAt(pkt)+16:][:2])
			if !slices.Equal(pkt, was) {
				t.Errorf("%s, IPv6 %v:\n%x, want\n%x", c.name, six, pkt, was)
			}
			if IsSYN(pkt) != (c.flags&tcpSYN != 0) {
				t.Errorf("%s, IPv6 %v: SYN %v", c.name, six, IsSYN(pkt))
			}
		}
	}
	// One that was left to others stays that, where it may be.
	for _, six := range []bool{false, true} {
		pkt := segment(six, syn, mss(1460))
		at := tcpAt(pkt)
		pseudo := Fold(PseudoHeader(pkt, protoTCP, len(pkt)-at))
		for _, may := range []bool{false, true} {
			p := slices.Clone(pkt)
			binary.BigEndian.PutUint16(p[at+16:], pseudo)
			if !ClampMSS(p, 1400, may) || (binary.BigEndian.Uint16(p[at+16:]) == pseudo) != may {
				t.Errorf("IPv6 %v: an unfinished checksum %#x became %x", six, pseudo, p[at+16:at+18])
			}
		}
		if !ClampMSS(pkt, 1400, true) || !validSegment(pkt) {
			t.Errorf("IPv6 %v: a right checksum became a wrong one", six)
		}
	}
	// A checksum that was wrong stays wrong, a fragment and other protocols are
	// left alone, and a room for nothing changes nothing.
	pkt := segment(false, syn, mss(1460))
	pkt[36] ^= 1
	if ClampMSS(pkt, 1400, false); validSegment(pkt) {
		t.Error("a wrong checksum was made right")
	}
	for _, edit := range []func(p []byte){func(p []byte) { p[7] = 1 }, func(p []byte) { p[9] = protoUDP }} {
		pkt := segment(false, syn, mss(1460))
		edit(pkt)
		if IsSYN(pkt) || ClampMSS(pkt, 1400, false) {
			t.Errorf("%x was clamped", pkt)
		}
	}
	if ClampMSS(segment(false, syn, mss(1460)), 40, false) {
		t.Error("clamped to nothing")
	}
}

// Whatever the octets are: no panic, no change of the length, a right checksum
// stays right, and nothing but option values and the checksum changes.
func FuzzClampMSS(f *testing.F) {
	f.Add(false, byte(2), []byte{2, 4, 5, 0xb4}, 1400, 0)
	f.Add(true, byte(2), []byte{1, 2, 4, 5, 0xb4, 1, 1}, 1300, 3)
	f.Fuzz(func(t *testing.T, six bool, flags byte, options []byte, room, cut int) {
		pkt := segment(six, flags, options[:min(len(options), 40)])
		whole := cut <= 0 || cut >= len(pkt)
		if !whole {
			pkt = pkt[:cut]
		}
		was := slices.Clone(pkt)
		clamped := ClampMSS(pkt, room, false)
		if clamped == slices.Equal(pkt, was) {
			t.Fatalf("clamped %v: %x became %x", clamped, was, pkt)
		}
		if whole && !validSegment(pkt) {
			t.Fatalf("%x became %x", was, pkt)
		}
		at := tcpAt(pkt)
		if clamped && (!slices.Equal(pkt[:at+16], was[:at+16]) || !slices.Equal(pkt[at+18:at+20], was[at+18:at+20])) {
			t.Fatalf("%x became %x", was, pkt)
		}
	})
}

func TestClampMSSRandom(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 5))
	for range 20000 {
		options := make([]byte, r.IntN(11)*4)
		for i := range options {
			options[i] = byte(r.IntN(6))
		}
		pkt := segment(r.IntN(2) == 0, 2, options)
		if ClampMSS(pkt, 60+r.IntN(1500), false); !validSegment(pkt) {
			t.Fatalf("options %x", options)
		}
	}
}
