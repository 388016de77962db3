// Package dptest has what tests of a data plane need and no kernel: a host side
// and an underlay in memory, and IP packets with right checksums.
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
	// Payload follows the transport header, or for other protocols the IP
	// header.
	Payload []byte
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
		b = make([]byte, 20, 20+len(transport))
		b[0], b[1], b[8], b[9] = 0x45, p.TOS, p.TTL, p.Proto
		binary.BigEndian.PutUint16(b[2:], uint16(20+len(transport)))
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
		binary.BigEndian.PutUint16(b[10:], encap.Checksum(b))
	} else {
		b = make([]byte, 40, 40+len(transport))
		b[0], b[1], b[6], b[7] = 0x60|p.TOS>>4, p.TOS<<4, p.Proto, p.TTL
		binary.BigEndian.PutUint16(b[4:], uint16(len(transport)))
		copy(b[8:], p.Src.AsSlice())
		copy(b[24:], p.Dst.AsSlice())
	}
	return append(b, transport...)
}

// transport returns the IP payload with its checksum.
func (p Inner) transport() []byte {
	var h []byte
	at := 0
	switch {
	case p.Offset > 0:
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
	pseudo := encap.Sum(p.Dst.AsSlice(), encap.Sum(p.Src.AsSlice(), uint64(p.Proto)+uint64(len(h))))
	sum := ^encap.Fold(encap.Sum(h, pseudo))
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
