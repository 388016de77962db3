package encap

import (
	"encoding/binary"
	"math/bits"
)

// Sum adds the octets of b to a running one's complement sum, as the Internet
// checksum wants it (RFC 1071). Start with 0, or with PseudoHeader; b must
// begin at an even offset of what is summed. Fold ends the sum.
func Sum(b []byte, sum uint64) uint64 {
	// 64-bit words with end-around carry; byte order does not matter until the
	// end (RFC 1071 section 2). Two chains, because the carry makes one wait
	// for itself.
	acc, other := bits.ReverseBytes64(sum), uint64(0)
	var c, d uint64
	for len(b) >= 128 {
		p := (*[128]byte)(b)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(p[0:]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(p[8:]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(p[16:]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(p[24:]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(p[32:]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(p[40:]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(p[48:]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(p[56:]), c)
		other, d = bits.Add64(other, binary.LittleEndian.Uint64(p[64:]), d)
		other, d = bits.Add64(other, binary.LittleEndian.Uint64(p[72:]), d)
		other, d = bits.Add64(other, binary.LittleEndian.Uint64(p[80:]), d)
		other, d = bits.Add64(other, binary.LittleEndian.Uint64(p[88:]), d)
		other, d = bits.Add64(other, binary.LittleEndian.Uint64(p[96:]), d)
		other, d = bits.Add64(other, binary.LittleEndian.Uint64(p[104:]), d)
		other, d = bits.Add64(other, binary.LittleEndian.Uint64(p[112:]), d)
		other, d = bits.Add64(other, binary.LittleEndian.Uint64(p[120:]), d)
		b = b[128:]
	}
	acc, c = bits.Add64(acc, other, c)
	acc, c = bits.Add64(acc, d, c)
	acc += c
	for len(b) >= 8 {
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(b), 0)
		acc += c
		b = b[8:]
	}
	if len(b) > 0 {
		var tail [8]byte
		copy(tail[:], b)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(tail[:]), 0)
		acc += c
	}
	return bits.ReverseBytes64(acc)
}

// Fold reduces a sum to 16 bits, not complemented.
func Fold(sum uint64) uint16 {
	sum = sum>>32 + sum&0xffffffff
	sum = sum>>16&0xffff + sum>>32 + sum&0xffff
	sum = sum>>16 + sum&0xffff
	return uint16(sum>>16 + sum)
}

// Checksum returns the Internet checksum of b, ready to be stored.
func Checksum(b []byte) uint16 { return ^Fold(Sum(b, 0)) }

// PseudoHeader returns the sum of the pseudo-header of pkt, an IPv4 or IPv6
// packet: its addresses, the protocol and length octets of transport
// (RFC 9293 section 3.1, RFC 8200 section 8.1).
func PseudoHeader(pkt []byte, proto uint8, length int) uint64 {
	sum := uint64(proto) + uint64(length)
	if pkt[0]>>4 == 4 {
		return Sum(pkt[12:20], sum)
	}
	return Sum(pkt[8:40], sum)
}

// updateChecksum replaces a 16-bit word under a stored checksum (RFC 1624,
// equation 3).
func updateChecksum(sum, was, is uint16) uint16 {
	s := uint32(^sum) + uint32(^was) + uint32(is)
	s = s>>16 + s&0xffff
	return ^uint16(s>>16 + s)
}
