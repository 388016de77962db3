package encap

import (
	"encoding/binary"
	"math/bits"
)

// Sum adds the octets of b to a running one's complement sum, as the Internet
// checksum wants it (RFC 1071). Start with 0, or with PseudoHeader; b must
// begin at an even offset of what is summed. Fold ends the sum.
func Sum(b []byte, sum uint64) uint64 {
	// 64-bit words in the machine's order, end-around carry; byte order does
	// not matter until the end (RFC 1071 section 2).
	acc := bits.ReverseBytes64(sum)
	var c uint64
	for len(b) >= 64 {
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(b), 0)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(b[8:]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(b[16:]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(b[24:]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(b[32:]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(b[40:]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(b[48:]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(b[56:]), c)
		acc, c = bits.Add64(acc, c, 0)
		acc += c
		b = b[64:]
	}
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
