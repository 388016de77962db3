package encap

import "encoding/binary"

// ECN codepoints, the low two bits of TOS and traffic class (RFC 3168).
const (
	NotECT = 0
	ECT1   = 1
	ECT0   = 2
	CE     = 3
)

const ecnMask = 3

// OuterTOS returns the TOS or traffic class of the outer header for an inner
// one: DSCP copied (RFC 9300 section 5.3), ECN copied, which is the normal mode
// of RFC 6040 section 4.1.
func OuterTOS(inner uint8) uint8 { return inner }

// Verdict is what RFC 6040 section 4.2 says of a pair of ECN fields.
type Verdict uint8

const (
	// Fine: an ordinary pair.
	Fine Verdict = iota
	// Unexpected: forward, but no standard sender makes this pair; worth
	// counting.
	Unexpected
	// MustDrop: congestion was met by a packet that can't carry the mark.
	MustDrop
)

// ecnTable is the table of RFC 6040 section 4.2, indexed by inner and outer.
var ecnTable = [4][4]struct {
	ecn     uint8
	verdict Verdict
}{
	NotECT: {NotECT: {NotECT, Fine}, ECT1: {NotECT, Unexpected}, ECT0: {NotECT, Unexpected}, CE: {NotECT, MustDrop}},
	ECT1:   {NotECT: {ECT1, Fine}, ECT1: {ECT1, Fine}, ECT0: {ECT1, Unexpected}, CE: {CE, Fine}},
	ECT0:   {NotECT: {ECT0, Fine}, ECT1: {ECT1, Fine}, ECT0: {ECT0, Fine}, CE: {CE, Fine}},
	CE:     {NotECT: {CE, Fine}, ECT1: {CE, Unexpected}, ECT0: {CE, Fine}, CE: {CE, Fine}},
}

// DecapECN returns the ECN field of the packet that leaves the tunnel
// (RFC 6040 section 4.2). Only the low two bits of the arguments count.
func DecapECN(inner, outer uint8) (ecn uint8, v Verdict) {
	c := ecnTable[inner&ecnMask][outer&ecnMask]
	return c.ecn, c.verdict
}

// ApplyOuter edits the inner packet pkt at decapsulation: TTL lowered to the
// outer TTL, never raised; DSCP copied from the outer header (the uniform
// model); ECN combined (RFC 9300 section 5.3, RFC 6040 section 4.2). The IPv4
// header checksum is updated, not recomputed, so that a wrong one stays wrong.
// With MustDrop the packet is unchanged. pkt must have passed Flow.Decode.
func ApplyOuter(pkt []byte, ttl, tos uint8) Verdict {
	if pkt[0]>>4 == 4 {
		ecn, v := DecapECN(pkt[1], tos)
		if v == MustDrop {
			return v
		}
		was0, was8 := binary.BigEndian.Uint16(pkt), binary.BigEndian.Uint16(pkt[8:])
		pkt[1] = tos&^ecnMask | ecn
		pkt[8] = min(pkt[8], ttl)
		is0, is8 := binary.BigEndian.Uint16(pkt), binary.BigEndian.Uint16(pkt[8:])
		if was0 != is0 || was8 != is8 {
			sum := binary.BigEndian.Uint16(pkt[10:])
			sum = updateChecksum(updateChecksum(sum, was0, is0), was8, is8)
			binary.BigEndian.PutUint16(pkt[10:], sum)
		}
		return v
	}
	ecn, v := DecapECN(pkt[1]>>4, tos)
	if v == MustDrop {
		return v
	}
	class := tos&^ecnMask | ecn
	pkt[0] = pkt[0]&0xf0 | class>>4
	pkt[1] = pkt[1]&0x0f | class<<4
	pkt[7] = min(pkt[7], ttl)
	return v
}
