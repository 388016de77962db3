package encap

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

func TestOverhead(t *testing.T) {
	if Overhead(v4a) != 36 || Overhead(v6a) != 56 {
		t.Errorf("overhead %d, %d", Overhead(v4a), Overhead(v6a))
	}
}

// reassemble puts fragments of one packet together and returns its payload,
// where it starts in the original, and whether the last had MF.
func reassemble(t *testing.T, frags [][]byte) (payload []byte, offset int, more bool) {
	t.Helper()
	for i, p := range frags {
		var f Flow
		if err := f.Decode(p); err != nil || f.Length != len(p) {
			t.Fatalf("fragment %d: %v, length %d of %d", i, err, f.Length, len(p))
		}
		if Checksum(p[:f.HeaderLen]) != 0 {
			t.Fatalf("fragment %d: header checksum", i)
		}
		word := binary.BigEndian.Uint16(p[6:])
		if i == 0 {
			offset = int(word&0x1fff) * 8
		}
		if int(word&0x1fff)*8 != offset+len(payload) {
			t.Fatalf("fragment %d: offset %d, want %d", i, word&0x1fff*8, offset+len(payload))
		}
		more = word&0x2000 != 0
		if i < len(frags)-1 && !more {
			t.Fatalf("fragment %d of %d has no MF", i, len(frags))
		}
		payload = append(payload, p[f.HeaderLen:]...)
	}
	return payload, offset, more
}

func fragment(t *testing.T, pkt []byte, size int) [][]byte {
	t.Helper()
	fr, err := NewFragmenter(pkt, size)
	if err != nil {
		t.Fatal(err)
	}
	var out [][]byte
	for {
		b, ok := fr.Next(nil)
		if !ok {
			return out
		}
		if len(b) > size {
			t.Fatalf("a fragment of %d octets, at most %d", len(b), size)
		}
		out = append(out, b)
	}
}

func TestFragmentProperties(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	opts := [][]byte{nil, {1, 1, 1, 0}, {0x94, 4, 0, 0}, {0x94, 4, 0, 0, 0x44, 4, 5, 0}, {0x07, 7, 4, 0, 0, 0, 0, 0}}
	for range 3000 {
		payload := make([]byte, r.IntN(6000))
		for i := range payload {
			payload[i] = uint8(r.Uint32())
		}
		var word uint16
		switch r.IntN(3) {
		case 1:
			word = 0x2000 | uint16(r.IntN(500))
			payload = payload[:len(payload)&^7]
		case 2:
			word = uint16(r.IntN(500))
		}
		pkt := ipv4("10.1.1.1", "10.2.1.1", 17, 9, 0, word, opts[r.IntN(len(opts))], payload)
		size := 100 + r.IntN(1400)
		frags := fragment(t, pkt, size)
		got, offset, more := reassemble(t, frags)
		if !bytes.Equal(got, payload) || offset != int(word&0x1fff)*8 || more != (word&0x2000 != 0) {
			t.Fatalf("size %d of %d: payload differs, or offset %d, MF %v for %#x", size, len(pkt), offset, more, word)
		}
		if len(pkt) > size && len(pkt) <= 2*(size-16)-60 && len(frags) != 2 {
			t.Fatalf("%d octets in %d fragments of %d", len(pkt), len(frags), size)
		}
	}
}

// A fragment that ends beyond the largest datagram can't be split: the offsets
// of its pieces would begin anew.
func TestFragmentBeyond(t *testing.T) {
	for _, c := range []struct {
		offset, payload int
		want            error
	}{{65072, 463, nil}, {65072, 464, ErrOffset}, {65528, 7, nil}, {65528, 8, ErrOffset}, {0, 60000, nil}} {
		pkt := ipv4("10.1.1.1", "10.2.1.1", 17, 9, 0, uint16(c.offset/8), nil, make([]byte, c.payload))
		if _, err := NewFragmenter(pkt, 200); !errors.Is(err, c.want) {
			t.Errorf("%d octets at %d: %v, expected %v", c.payload, c.offset, err, c.want)
		}
	}
}

// RFC 9300 section 7.1: two fragments of about S/2.
func TestFragmentEqualHalves(t *testing.T) {
	frags := fragment(t, ipv4("10.1.1.1", "10.2.1.1", 17, 9, 0, 0, nil, make([]byte, 1480)), 1464)
	if len(frags) != 2 || len(frags[0]) != 20+744 || len(frags[1]) != 20+736 {
		t.Fatalf("fragments of %d and %d octets", len(frags[0]), len(frags[1]))
	}
}

func TestFragmentOptions(t *testing.T) {
	// Record route (7) is not copied, router alert (0x94) is.
	opts := []byte{7, 7, 4, 0, 0, 0, 0, 0x94, 4, 0, 0, 0}
	frags := fragment(t, ipv4("10.1.1.1", "10.2.1.1", 17, 9, 0, 0, opts, make([]byte, 1000)), 600)
	if len(frags) != 2 || !bytes.Equal(frags[0][20:32], opts) || frags[1][0] != 0x46 || !bytes.Equal(frags[1][20:24], []byte{0x94, 4, 0, 0}) {
		t.Fatalf("%d fragments, options %x and %x", len(frags), frags[0][20:32], frags[1][20:24])
	}
	broken := []byte{0x94, 40, 0, 0} // longer than the header
	fragment(t, ipv4("10.1.1.1", "10.2.1.1", 17, 9, 0, 0, broken, make([]byte, 1000)), 600)
}

func TestDP12_FragmentRefuses(t *testing.T) {
	df := ipv4("10.1.1.1", "10.2.1.1", 17, 9, 0, 0x4000, nil, make([]byte, 1480))
	if _, err := NewFragmenter(df, 1000); err != ErrDontFragment {
		t.Error(err)
	}
	if _, err := NewFragmenter(ipv6("2001:db8::1", "2001:db8::2", 17, 9, 0, ports), 1000); err != ErrDontFragment {
		t.Error(err)
	}
	if _, err := NewFragmenter(ipv4("10.1.1.1", "10.2.1.1", 17, 9, 0, 0, nil, ports), 27); err != ErrMTU {
		t.Error(err)
	}
}

// checkICMP verifies checksums, addresses and the quote of an ICMP error.
func checkICMP(t *testing.T, msg, about []byte) {
	t.Helper()
	var f, orig Flow
	if err := f.Decode(msg); err != nil || f.Length != len(msg) || len(msg) > MaxICMP {
		t.Fatalf("ICMP error %x: %v", msg, err)
	}
	if err := orig.Decode(about); err != nil {
		t.Fatal(err)
	}
	if f.Src != orig.Dst || f.Dst != orig.Src {
		t.Fatalf("ICMP error from %v to %v about a packet from %v to %v", f.Src, f.Dst, orig.Src, orig.Dst)
	}
	icmp := msg[f.HeaderLen:]
	if msg[0]>>4 == 4 {
		if Checksum(msg[:20]) != 0 || Checksum(icmp) != 0 || len(msg) > 576 {
			t.Fatalf("ICMP error %x: checksum or length", msg)
		}
	} else if Fold(Sum(icmp, PseudoHeader(msg, 58, len(icmp)))) != 0xffff || len(msg) > 1280 {
		t.Fatalf("ICMPv6 error %x: checksum or length", msg)
	}
	if quote := icmp[8:]; !bytes.HasPrefix(about, quote) || len(quote) < min(len(about), 548) {
		t.Fatalf("quotes %d octets", len(quote))
	}
}

func TestTooBig(t *testing.T) {
	for _, c := range []struct {
		pkt []byte
		typ uint8
		mtu uint32
	}{
		{ipv4("10.1.1.1", "10.2.1.1", 6, 9, 0, 0x4000, nil, make([]byte, 1480)), 3, 1464},
		{ipv4("10.1.1.1", "10.2.1.1", 6, 9, 0, 0x4000, nil, ports), 3, 540},
		{ipv6("2001:db8:1::1", "2001:db8:2::1", 17, 9, 0, make([]byte, 1460)), 2, 1444},
	} {
		msg, ok := AppendTooBig(nil, c.pkt, int(c.mtu))
		if !ok {
			t.Fatal("no message")
		}
		checkICMP(t, msg, c.pkt)
		h := 20
		if c.typ == 2 {
			h = 40
		}
		if msg[h] != c.typ || binary.BigEndian.Uint32(msg[h+4:]) != c.mtu || c.typ == 3 && msg[h+1] != 4 {
			t.Errorf("message %x", msg[h:h+8])
		}
	}
}

func TestUnreachable(t *testing.T) {
	p4, p6 := ipv4("10.1.1.1", "10.2.1.1", 6, 9, 0, 0, nil, ports), ipv6("2001:db8:1::1", "2001:db8:2::1", 17, 9, 0, ports)
	for _, c := range []struct {
		pkt       []byte
		why       Unreachable
		typ, code uint8
	}{{p4, NoRoute, 3, 0}, {p4, Prohibited, 3, 13}, {p6, NoRoute, 1, 0}, {p6, Prohibited, 1, 1}} {
		msg, ok := AppendUnreachable([]byte{}, c.pkt, c.why)
		if !ok {
			t.Fatal("no message")
		}
		checkICMP(t, msg, c.pkt)
		if h := len(msg) - len(c.pkt) - 8; msg[h] != c.typ || msg[h+1] != c.code {
			t.Errorf("type %d code %d, want %+v", msg[h], msg[h+1], c)
		}
	}
}

func TestNoICMPError(t *testing.T) {
	echo, unreach := []byte{8, 0, 0, 0}, []byte{3, 1, 0, 0}
	echo6, ptb6 := []byte{128, 0, 0, 0}, []byte{2, 0, 0, 0}
	for _, c := range []struct {
		name string
		pkt  []byte
		ok   bool
	}{
		{"echo", ipv4("10.1.1.1", "10.2.1.1", 1, 9, 0, 0, nil, echo), true},
		{"error", ipv4("10.1.1.1", "10.2.1.1", 1, 9, 0, 0, nil, unreach), false},
		{"ICMP without a type", ipv4("10.1.1.1", "10.2.1.1", 1, 9, 0, 0, nil, nil), false},
		{"first fragment", ipv4("10.1.1.1", "10.2.1.1", 17, 9, 0, 0x2000, nil, ports), true},
		{"later fragment", ipv4("10.1.1.1", "10.2.1.1", 17, 9, 0, 0x2001, nil, ports), false},
		{"multicast source", ipv4("224.0.0.1", "10.2.1.1", 17, 9, 0, 0, nil, ports), false},
		{"unspecified source", ipv4("0.0.0.0", "10.2.1.1", 17, 9, 0, 0, nil, ports), false},
		{"loopback source", ipv4("127.0.0.1", "10.2.1.1", 17, 9, 0, 0, nil, ports), false},
		{"class E source", ipv4("250.0.0.1", "10.2.1.1", 17, 9, 0, 0, nil, ports), false},
		{"multicast destination", ipv4("10.1.1.1", "239.1.1.1", 17, 9, 0, 0, nil, ports), false},
		{"broadcast destination", ipv4("10.1.1.1", "255.255.255.255", 17, 9, 0, 0, nil, ports), false},
		{"echo6", ipv6("2001:db8::1", "2001:db8::2", 58, 9, 0, echo6), true},
		{"error6", ipv6("2001:db8::1", "2001:db8::2", 58, 9, 0, ptb6), false},
		{"redirect6", ipv6("2001:db8::1", "2001:db8::2", 58, 9, 0, []byte{137}), false},
		{"error6 behind an extension header", ipv6("2001:db8::1", "2001:db8::2", 60, 9, 0, slices.Concat([]byte{58, 0, 1, 4, 0, 0, 0, 0}, ptb6)), false},
		{"error6 in a first fragment", ipv6("2001:db8::1", "2001:db8::2", 44, 9, 0, slices.Concat([]byte{58, 0, 0, 1, 0, 0, 0, 9}, ptb6)), false},
		{"first fragment6", ipv6("2001:db8::1", "2001:db8::2", 44, 9, 0, slices.Concat(fragHdr, ports)), true},
		{"later fragment6", ipv6("2001:db8::1", "2001:db8::2", 44, 9, 0, slices.Concat([]byte{17, 0, 0, 8, 0, 0, 0, 9}, ports)), false},
		{"unspecified source6", ipv6("::", "2001:db8::2", 17, 9, 0, ports), false},
		{"multicast destination6", ipv6("2001:db8::1", "ff02::2", 17, 9, 0, ports), false},
	} {
		if msg, ok := AppendTooBig(nil, c.pkt, 1300); ok != c.ok || !ok && len(msg) != 0 {
			t.Errorf("%s: %v", c.name, ok)
		}
		if _, ok := AppendUnreachable(nil, c.pkt, NoRoute); ok != c.ok {
			t.Errorf("%s: unreachable: %v", c.name, ok)
		}
	}
}

func TestRoutable(t *testing.T) {
	for s, want := range map[string]bool{
		"10.0.0.1": true, "2001:db8::1": true, "fd00::1": true, "169.254.1.1": false, "fe80::1": false,
		"0.0.0.0": false, "::": false, "::1": false, "127.0.0.1": false, "224.0.0.5": false, "ff02::1": false, "255.255.255.255": false,
	} {
		if got := Routable(netip.MustParseAddr(s)); got != want {
			t.Errorf("%s: %v", s, got)
		}
	}
}

func TestNoAllocation(t *testing.T) {
	p4 := ipv4("10.1.1.1", "10.2.1.1", 17, 9, 0, 0, nil, make([]byte, 1400))
	p6 := ipv6("2001:db8:1::1", "2001:db8:2::1", 17, 9, 0, make([]byte, 1400))
	buf := make([]byte, 0, 4096)
	var f Flow
	var h Header
	if n := testing.AllocsPerRun(100, func() {
		for _, p := range [][]byte{p4, p6} {
			f.Decode(p)
			f.Hash()
			ApplyOuter(p, 9, 0)
			AppendTooBig(buf, p, 1300)
		}
		PutHeader(buf[:8], 7)
		h.Decode(buf[:8])
		fr, _ := NewFragmenter(p4, 1000)
		for ok := true; ok; {
			_, ok = fr.Next(buf)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
