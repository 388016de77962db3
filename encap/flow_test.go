package encap

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
	"slices"
	"testing"
)

// ipv4 returns a packet with a right checksum.
func ipv4(src, dst string, proto uint8, ttl, tos uint8, frag uint16, opts, payload []byte) []byte {
	hlen := 20 + len(opts)
	b := []byte{0x40 | uint8(hlen/4), tos, 0, 0, 0x12, 0x34, 0, 0, ttl, proto, 0, 0}
	binary.BigEndian.PutUint16(b[2:], uint16(hlen+len(payload)))
	binary.BigEndian.PutUint16(b[6:], frag)
	b = append(b, netip.MustParseAddr(src).AsSlice()...)
	b = append(b, netip.MustParseAddr(dst).AsSlice()...)
	b = append(b, opts...)
	binary.BigEndian.PutUint16(b[10:], Checksum(b))
	return append(b, payload...)
}

func ipv6(src, dst string, next uint8, ttl, class uint8, payload []byte) []byte {
	b := []byte{0x60 | class>>4, class << 4, 0, 0, 0, 0, next, ttl}
	binary.BigEndian.PutUint16(b[4:], uint16(len(payload)))
	b = append(b, netip.MustParseAddr(src).AsSlice()...)
	b = append(b, netip.MustParseAddr(dst).AsSlice()...)
	return append(b, payload...)
}

var (
	ports   = []byte{0x1f, 0x90, 0xc3, 0x50, 0, 8, 0, 0}
	v4a     = netip.MustParseAddr("10.1.1.1")
	v4b     = netip.MustParseAddr("10.2.1.1")
	v6a     = netip.MustParseAddr("2001:db8:1::1")
	v6b     = netip.MustParseAddr("2001:db8:2::1")
	tcp4    = Key{Src: v4a, Dst: v4b, Ports: 0x1f90c350, Protocol: 6, HasPorts: true}
	plain4  = Key{Src: v4a, Dst: v4b}
	udp6    = Key{Src: v6a, Dst: v6b, Ports: 0x1f90c350, Protocol: 17, HasPorts: true}
	plain6  = Key{Src: v6a, Dst: v6b}
	hbh     = []byte{17, 0, 1, 4, 0, 0, 0, 0}
	nopHBH  = []byte{0, 0, 1, 4, 0, 0, 0, 0}
	fragHdr = []byte{17, 0, 0, 1, 0, 0, 0, 9}
)

func TestFlowDecode(t *testing.T) {
	for _, c := range []struct {
		name string
		in   []byte
		want Flow
	}{
		{"tcp", ipv4("10.1.1.1", "10.2.1.1", 6, 63, 0xb9, 0x4000, nil, ports),
			Flow{Key: tcp4, Length: 28, HeaderLen: 20, TTL: 63, TOS: 0xb9, DF: true}},
		{"options", ipv4("10.1.1.1", "10.2.1.1", 6, 63, 0, 0, []byte{1, 1, 1, 0}, ports),
			Flow{Key: tcp4, Length: 32, HeaderLen: 24, TTL: 63}},
		{"icmp", ipv4("10.1.1.1", "10.2.1.1", 1, 1, 0, 0, nil, ports),
			Flow{Key: plain4, Length: 28, HeaderLen: 20, TTL: 1}},
		{"first fragment", ipv4("10.1.1.1", "10.2.1.1", 6, 1, 0, 0x2000, nil, ports),
			Flow{Key: plain4, Length: 28, HeaderLen: 20, TTL: 1, Fragment: true}},
		{"last fragment", ipv4("10.1.1.1", "10.2.1.1", 6, 1, 0, 3, nil, ports),
			Flow{Key: plain4, Length: 28, HeaderLen: 20, TTL: 1, Fragment: true, NotFirst: true}},
		{"ports cut off", ipv4("10.1.1.1", "10.2.1.1", 6, 1, 0, 0, nil, ports[:3]),
			Flow{Key: plain4, Length: 23, HeaderLen: 20, TTL: 1}},
		{"octets behind the packet", append(ipv4("10.1.1.1", "10.2.1.1", 6, 1, 0, 0, nil, ports), 1, 2, 3),
			Flow{Key: tcp4, Length: 28, HeaderLen: 20, TTL: 1}},
		{"udp over IPv6", ipv6("2001:db8:1::1", "2001:db8:2::1", 17, 9, 0xb9, ports),
			Flow{Key: udp6, Length: 48, HeaderLen: 40, TTL: 9, TOS: 0xb9, DF: true}},
		{"hop-by-hop", ipv6("2001:db8:1::1", "2001:db8:2::1", 0, 9, 0, slices.Concat(hbh, ports)),
			Flow{Key: udp6, Length: 56, HeaderLen: 40, TTL: 9, DF: true}},
		{"IPv6 fragment", ipv6("2001:db8:1::1", "2001:db8:2::1", 44, 9, 0, slices.Concat(fragHdr, ports)),
			Flow{Key: plain6, Length: 56, HeaderLen: 40, TTL: 9, DF: true, Fragment: true}},
		{"ESP", ipv6("2001:db8:1::1", "2001:db8:2::1", 50, 9, 0, ports),
			Flow{Key: plain6, Length: 48, HeaderLen: 40, TTL: 9, DF: true}},
		{"extension header cut off", ipv6("2001:db8:1::1", "2001:db8:2::1", 0, 9, 0, []byte{17, 1, 0, 0, 0, 0, 0, 0}),
			Flow{Key: plain6, Length: 48, HeaderLen: 40, TTL: 9, DF: true}},
		{"more extension headers than anybody sends", ipv6("2001:db8:1::1", "2001:db8:2::1", 0, 9, 0, slices.Repeat(nopHBH, 20)),
			Flow{Key: plain6, Length: 200, HeaderLen: 40, TTL: 9, DF: true}},
	} {
		f := Flow{NotFirst: true, Fragment: true, DF: true, Key: Key{HasPorts: true, Ports: 1}}
		if err := f.Decode(c.in); err != nil || f != c.want {
			t.Errorf("%s: got %+v, %v\nwant %+v", c.name, f, err, c.want)
		}
	}
}

func TestFlowDecodeErrors(t *testing.T) {
	p4 := ipv4("10.1.1.1", "10.2.1.1", 6, 63, 0, 0, nil, ports)
	p6 := ipv6("2001:db8:1::1", "2001:db8:2::1", 17, 9, 0, ports)
	var f Flow
	for n := range p4 {
		if err := f.Decode(p4[:n]); err != ErrTruncated {
			t.Errorf("IPv4 cut to %d: %v", n, err)
		}
	}
	for n := range p6 {
		if err := f.Decode(p6[:n]); err != ErrTruncated {
			t.Errorf("IPv6 cut to %d: %v", n, err)
		}
	}
	short := slices.Clone(p4)
	short[0] = 0x44
	small := slices.Clone(p4)
	small[3] = 19
	for _, c := range []struct {
		b    []byte
		want error
	}{{short, ErrBadHeader}, {small, ErrBadHeader}, {[]byte{0x50}, ErrVersion}, {[]byte{0}, ErrVersion}} {
		if err := f.Decode(c.b); err != c.want {
			t.Errorf("%x: %v, want %v", c.b, err, c.want)
		}
	}
}

// murmur3 is MurmurHash3_x86_32 written from its definition, over octets.
func murmur3(b []byte, seed uint32) uint32 {
	h, n := seed, uint32(len(b))
	block := func(k uint32) uint32 { return bits.RotateLeft32(k*0xcc9e2d51, 15) * 0x1b873593 }
	for ; len(b) >= 4; b = b[4:] {
		h = bits.RotateLeft32(h^block(binary.LittleEndian.Uint32(b)), 13)*5 + 0xe6546b64
	}
	var k uint32
	for i, c := range b {
		k |= uint32(c) << (8 * i)
	}
	h = (h ^ block(k)) ^ n
	h = (h ^ h>>16) * 0x85ebca6b
	h = (h ^ h>>13) * 0xc2b2ae35
	return h ^ h>>16
}

// keyOctets is the key as the doc comment of Hash describes it.
func keyOctets(k Key) []byte {
	b := slices.Concat(k.Src.AsSlice(), k.Dst.AsSlice())
	if k.HasPorts {
		b = binary.BigEndian.AppendUint32(b, k.Ports)
		b = append(b, 0, 0, 0, k.Protocol)
	}
	return b
}

func TestHash(t *testing.T) {
	// Published vectors of MurmurHash3_x86_32, so that the reference is one.
	for s, want := range map[string]uint32{
		"": 0, "test": 0xba6bd213, "Hello, world!": 0xc0363e43,
		"The quick brown fox jumps over the lazy dog": 0x2e4ff723,
	} {
		if got := murmur3([]byte(s), 0); got != want {
			t.Fatalf("reference(%q) = %#x, want %#x", s, got, want)
		}
	}
	// Vectors of our own, for the implementation in C.
	for _, c := range []struct {
		key  Key
		want uint32
	}{{tcp4, hashTCP4}, {plain4, hashPlain4}, {udp6, hashUDP6}, {plain6, hashPlain6}} {
		if got := c.key.Hash(); got != c.want || got != murmur3(keyOctets(c.key), 0) {
			t.Errorf("%+v: %#x, want %#x, reference %#x", c.key, got, c.want, murmur3(keyOctets(c.key), 0))
		}
	}
}

const (
	hashTCP4   = 0x4852c42b
	hashPlain4 = 0x746c27aa
	hashUDP6   = 0xfe3e1c0d
	hashPlain6 = 0xa4e7a373
)

// Flows that differ by one port must spread over locators and source ports.
func TestHashSpreads(t *testing.T) {
	k := tcp4
	var low, port [16]int
	for i := range uint32(16384) {
		k.Ports = i << 16
		h := k.Hash()
		low[h&15]++
		port[h>>8&15]++
	}
	for i := range 16 {
		if low[i] < 900 || low[i] > 1150 || port[i] < 900 || port[i] > 1150 {
			t.Errorf("bucket %d of 16384 flows: %d by the low bits, %d by bits 8 to 11", i, low[i], port[i])
		}
	}
}

func FuzzFlow(f *testing.F) {
	f.Add(ipv4("10.1.1.1", "10.2.1.1", 6, 63, 0, 0, nil, ports))
	f.Add(ipv6("2001:db8:1::1", "2001:db8:2::1", 0, 9, 0, slices.Concat(hbh, ports)))
	f.Add(ipv6("2001:db8:1::1", "2001:db8:2::1", 44, 9, 0, slices.Concat(fragHdr, ports)))
	f.Fuzz(func(t *testing.T, b []byte) {
		var fl, again Flow
		if fl.Decode(b) != nil {
			return
		}
		if fl.Length > len(b) || fl.HeaderLen > fl.Length || fl.Src.Is4In6() && b[0]>>4 == 4 {
			t.Fatalf("%+v of %d octets", fl, len(b))
		}
		// What lies behind the packet must not matter.
		if err := again.Decode(b[:fl.Length]); err != nil || again != fl {
			t.Fatalf("cut to its length: %+v, %v, before %+v", again, err, fl)
		}
		if fl.Hash() != murmur3(keyOctets(fl.Key), 0) {
			t.Fatal("hash differs from the reference")
		}
		pkt := slices.Clone(b[:fl.Length])
		AppendUnreachable(nil, pkt, NoRoute)
		if msg, ok := AppendTooBig(nil, pkt, 1300); ok {
			checkICMP(t, msg, pkt)
		}
		if ApplyOuter(pkt, 7, 3) != MustDrop {
			if err := again.Decode(pkt); err != nil || again.TTL > 7 || again.Key != fl.Key || again.Length != fl.Length {
				t.Fatalf("after ApplyOuter: %+v, %v", again, err)
			}
		}
	})
}
