// Package dptest has what tests of a data plane need: a host side and an
// underlay in memory, IP packets with right checksums, and the conformance
// suite that every plane passes: Run plays a corpus of packets, each with what
// has to become of it. What is expected is written down or built here, never
// asked of the code that is tested.
package dptest

import (
	"encoding/binary"
	"net/netip"

	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/encap"
)

// Protocol numbers that Inner knows how to build.
const (
	ICMP   = 1
	TCP    = 6
	UDP    = 17
	ICMPv6 = 58
)

// Inner describes an IP packet. The zero values of all fields but the
// addresses make a sound packet.
type Inner struct {
	Src, Dst netip.Addr
	// Proto is UDP when zero.
	Proto            uint8
	SrcPort, DstPort uint16
	// TTL is 64 when zero; NoTTL makes it 0.
	TTL   uint8
	NoTTL bool
	TOS   uint8
	// ID, DF, MF and Offset (in octets) are for IPv4.
	ID     uint16
	DF, MF bool
	Offset int
	// Seq, Ack and Flags are for TCP; Flags is ACK when zero.
	Seq, Ack uint32
	Flags    uint8
	// Options are those of IPv4, a multiple of 4 octets.
	Options []byte
	// Extensions are the extension headers of IPv6, the first of the kind
	// Next; the last one's next header must be Proto.
	Extensions []byte
	Next       uint8
	// Label is the flow label of IPv6.
	Label uint32
	// Payload follows the transport header; with Raw, and for other protocols
	// than TCP and UDP, the IP header and extension headers.
	Payload []byte
	Raw     bool
}

// Flow is an Inner between two addresses and ports, in text form.
func Flow(src, dst string, proto uint8, payload int) Inner {
	s, d := netip.MustParseAddrPort(src), netip.MustParseAddrPort(dst)
	p := Inner{Src: s.Addr(), Dst: d.Addr(), SrcPort: s.Port(), DstPort: d.Port(), Proto: proto, Payload: make([]byte, payload)}
	for i := range p.Payload {
		p.Payload[i] = byte(i * 7)
	}
	return p
}

// Bytes returns the packet.
func (p Inner) Bytes() []byte {
	if p.Proto == 0 {
		p.Proto = UDP
	}
	if p.TTL == 0 && !p.NoTTL {
		p.TTL = 64
	}
	var b []byte
	transport := p.transport()
	if p.Src.Is4() {
		hlen := 20 + len(p.Options)
		b = make([]byte, 20, hlen+len(transport))
		b[0], b[1], b[8], b[9] = 0x40|uint8(hlen/4), p.TOS, p.TTL, p.Proto
		binary.BigEndian.PutUint16(b[2:], uint16(hlen+len(transport)))
		binary.BigEndian.PutUint16(b[4:], p.ID)
		word := uint16(p.Offset / 8)
		if p.DF {
			word |= 0x4000
		}
		if p.MF {
			word |= 0x2000
		}
		binary.BigEndian.PutUint16(b[6:], word)
		copy(b[12:], p.Src.AsSlice())
		copy(b[16:], p.Dst.AsSlice())
		b = append(b, p.Options...)
		sumHeader(b)
	} else {
		b = make([]byte, 40, 40+len(p.Extensions)+len(transport))
		binary.BigEndian.PutUint32(b, 6<<28|uint32(p.TOS)<<20|p.Label&0xfffff)
		b[6], b[7] = p.Proto, p.TTL
		if len(p.Extensions) > 0 {
			b[6] = p.Next
		}
		binary.BigEndian.PutUint16(b[4:], uint16(len(p.Extensions)+len(transport)))
		copy(b[8:], p.Src.AsSlice())
		copy(b[24:], p.Dst.AsSlice())
		b = append(b, p.Extensions...)
	}
	return append(b, transport...)
}

// sum is the Internet checksum of the parts, each of even length but the last
// (RFC 1071), in the plainest way: what is tested has a faster one.
func sum(parts ...[]byte) uint16 {
	var s uint32
	for _, b := range parts {
		for i, c := range b {
			if i%2 == 0 {
				s += uint32(c) << 8
			} else {
				s += uint32(c)
			}
			s = s>>16 + s&0xffff
		}
	}
	return ^uint16(s>>16 + s&0xffff)
}

// sumHeader sets the checksum of the IPv4 header that b begins with.
func sumHeader(b []byte) {
	b[10], b[11] = 0, 0
	binary.BigEndian.PutUint16(b[10:], sum(b[:int(b[0]&15)*4]))
}

// sumTransport returns the checksum of a transport header with its payload.
func sumTransport(src, dst netip.Addr, proto uint8, b []byte) uint16 {
	n := len(b)
	return sum(src.AsSlice(), dst.AsSlice(), []byte{0, proto, byte(n >> 8), byte(n)}, b)
}

// transport returns the IP payload with its checksum.
func (p Inner) transport() []byte {
	var h []byte
	at := 0
	switch {
	case p.Offset > 0 || p.Raw:
		return p.Payload
	case p.Proto == UDP:
		h, at = make([]byte, 8), 6
		binary.BigEndian.PutUint16(h[4:], uint16(8+len(p.Payload)))
	case p.Proto == TCP:
		h, at = make([]byte, 20), 16
		binary.BigEndian.PutUint32(h[4:], p.Seq)
		binary.BigEndian.PutUint32(h[8:], p.Ack)
		h[12], h[13] = 5<<4, p.Flags
		if p.Flags == 0 {
			h[13] = 0x10
		}
		binary.BigEndian.PutUint16(h[14:], 0xffff)
	default:
		return p.Payload
	}
	binary.BigEndian.PutUint16(h, p.SrcPort)
	binary.BigEndian.PutUint16(h[2:], p.DstPort)
	h = append(h, p.Payload...)
	sum := sumTransport(p.Src, p.Dst, p.Proto, h)
	if sum == 0 && p.Proto == UDP {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(h[at:], sum)
	return h
}

// Lisp returns the packet as the underlay sees it: a LISP header with the
// instance-ID before it, and outer fields as an ITR at src would send them.
func (p Inner) Lisp(iid uint32, src, dst string) dataplane.Packet {
	inner := p.Bytes()
	var f encap.Flow
	if err := f.Decode(inner); err != nil {
		panic(err)
	}
	b := make([]byte, encap.HeaderLen, encap.HeaderLen+len(inner))
	encap.PutHeader(b, iid)
	return dataplane.Packet{
		Data: append(b, inner...), Src: netip.MustParseAddr(src), Dst: netip.MustParseAddr(dst),
		Hash: f.Hash(), TTL: f.TTL, TOS: f.TOS,
	}
}
