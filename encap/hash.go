package encap

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
)

// Hash returns the flow hash: all planes and all restarts give the same flow
// the same value, from which the locator and the outer UDP source port follow
// (RFC 9300 section 12).
//
// It is MurmurHash3_x86_32 with seed 0 (as published by Austin Appleby; 32-bit
// words are read little-endian) over these octets in network order:
//
//	source address        4 or 16
//	destination address   4 or 16
//	source port           2  \
//	destination port      2   | only with HasPorts
//	0, 0, 0, protocol     4  /
//
// The key is always a multiple of 4 octets, so the algorithm's tail step never
// runs.
func (k *Key) Hash() uint32 {
	var h, n uint32
	if k.Src.Is4() {
		h = mixAddr4(mixAddr4(h, k.Src), k.Dst)
		n = 8
	} else {
		h = mixAddr6(mixAddr6(h, k.Src), k.Dst)
		n = 32
	}
	if k.HasPorts {
		h = mix(h, bits.ReverseBytes32(k.Ports))
		h = mix(h, uint32(k.Protocol)<<24)
		n += 8
	}
	h ^= n
	h ^= h >> 16
	h *= 0x85ebca6b
	h ^= h >> 13
	h *= 0xc2b2ae35
	h ^= h >> 16
	return h
}

func mixAddr4(h uint32, a netip.Addr) uint32 {
	b := a.As4()
	return mix(h, binary.LittleEndian.Uint32(b[:]))
}

func mixAddr6(h uint32, a netip.Addr) uint32 {
	b := a.As16()
	for i := 0; i < 16; i += 4 {
		h = mix(h, binary.LittleEndian.Uint32(b[i:]))
	}
	return h
}

func mix(h, k uint32) uint32 {
	k *= 0xcc9e2d51
	k = bits.RotateLeft32(k, 15)
	k *= 0x1b873593
	h ^= k
	h = bits.RotateLeft32(h, 13)
	return h*5 + 0xe6546b64
}
