package encap

import (
	"encoding/binary"
	"errors"
	"net/netip"
)

// IP protocol numbers that the parse knows (IANA protocol numbers).
const (
	protoHopByHop   = 0
	protoICMP       = 1
	protoTCP        = 6
	protoUDP        = 17
	protoRouting    = 43
	protoFragment   = 44
	protoICMPv6     = 58
	protoNoNext     = 59
	protoDstOptions = 60
	protoSCTP       = 132
)

// maxExtensions bounds the walk over IPv6 extension headers: more than this
// names no flow that anybody sends, and the rest is hashed by addresses.
const maxExtensions = 8

// Errors of Flow.Decode.
var (
	ErrVersion   = errors.New("encap: inner packet: neither IPv4 nor IPv6")
	ErrTruncated = errors.New("encap: inner packet: shorter than its headers or its length field say")
	ErrBadHeader = errors.New("encap: inner packet: impossible header length")
)

// Flow is what forwarding needs to know of an inner packet.
type Flow struct {
	// Key names the flow.
	Key
	// Length is the packet's own idea of its length in octets, headers
	// included. It is at most len of the decoded slice; octets after it are
	// not part of the packet.
	Length int
	// HeaderLen is the length of the IPv4 header or of the fixed IPv6 header.
	HeaderLen int
	// TTL is the TTL or hop limit, TOS the whole TOS or traffic class octet.
	TTL, TOS uint8
	// DF is the IPv4 don't-fragment bit; true for IPv6.
	DF bool
	// Fragment is set for every piece of a fragmented packet, the first
	// included; NotFirst for all but the first.
	Fragment, NotFirst bool
}

// Key is the part of a Flow that is the same in all its packets: addresses,
// and ports for TCP, UDP and SCTP. It is comparable.
type Key struct {
	// Src and Dst are plain IPv4 or IPv6 addresses, never mapped, no zone.
	Src, Dst netip.Addr
	// Ports is source port << 16 | destination port; 0 without HasPorts.
	Ports uint32
	// Protocol is 6, 17 or 132 with HasPorts, else 0.
	Protocol uint8
	// HasPorts is false for all other protocols, for fragments, and when the
	// ports lie behind headers that the parse does not walk.
	HasPorts bool
}

// Decode parses the IPv4 or IPv6 packet at the start of b and assigns every
// field. It keeps no reference to b. Octets after the packet's own length are
// allowed; it is the caller who knows whether they should be there.
//
// A packet whose ports are out of reach (fragment, unknown extension header,
// truncated transport header) is not an error: it is a flow by its addresses.
func (f *Flow) Decode(b []byte) error { return f.DecodeHead(b, len(b)) }

// DecodeHead is Decode for a packet of which only the head is at hand: b is the
// beginning of n octets, at least all headers up to the ports. n must not be
// less than len(b).
func (f *Flow) DecodeHead(b []byte, n int) error {
	*f = Flow{}
	if len(b) == 0 {
		return ErrTruncated
	}
	switch b[0] >> 4 {
	case 4:
		return f.decode4(b, n)
	case 6:
		return f.decode6(b, n)
	}
	return ErrVersion
}

func (f *Flow) decode4(b []byte, n int) error {
	if len(b) < ipv4Len {
		return ErrTruncated
	}
	hlen, total := int(b[0]&0x0f)*4, int(binary.BigEndian.Uint16(b[2:]))
	if hlen < ipv4Len || total < hlen {
		return ErrBadHeader
	}
	if total > n || hlen > len(b) {
		return ErrTruncated
	}
	f.Length, f.HeaderLen = total, hlen
	f.TOS, f.TTL = b[1], b[8]
	frag := binary.BigEndian.Uint16(b[6:])
	f.DF = frag&ipv4DF != 0
	f.Fragment, f.NotFirst = frag&(ipv4MF|ipv4Offset) != 0, frag&ipv4Offset != 0
	f.Src, f.Dst = netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:]))
	if !f.Fragment {
		f.ports(b[9], b[hlen:min(total, len(b))])
	}
	return nil
}

func (f *Flow) decode6(b []byte, n int) error {
	if len(b) < ipv6Len {
		return ErrTruncated
	}
	// A payload length of 0 with a jumbo option (RFC 2675) does not fit a UDP
	// datagram; it reads as an empty packet and the caller finds octets over.
	total := ipv6Len + int(binary.BigEndian.Uint16(b[4:]))
	if total > n {
		return ErrTruncated
	}
	f.Length, f.HeaderLen = total, ipv6Len
	f.TOS, f.TTL = b[0]<<4|b[1]>>4, b[7]
	f.DF = true
	f.Src, f.Dst = netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:]))
	proto, rest, fragment := walkExtensions(b[6], b[ipv6Len:min(total, len(b))])
	if fragment != nil {
		f.Fragment, f.NotFirst = true, binary.BigEndian.Uint16(fragment[2:])&^7 != 0
		return nil
	}
	f.ports(proto, rest)
	return nil
}

// walkExtensions skips the extension headers that every router may skip
// (RFC 8200 section 4). It returns the protocol it ended at and what follows;
// fragment is the 8 octets of a fragment header, where the walk ends.
func walkExtensions(next uint8, b []byte) (proto uint8, rest, fragment []byte) {
	for range maxExtensions {
		switch next {
		case protoHopByHop, protoRouting, protoDstOptions:
			if len(b) < 8 {
				return protoNoNext, nil, nil
			}
			n := 8 + int(b[1])*8
			if len(b) < n {
				return protoNoNext, nil, nil
			}
			next, b = b[0], b[n:]
		case protoFragment:
			if len(b) < 8 {
				return protoNoNext, nil, nil
			}
			return b[0], b[8:], b[:8]
		default:
			return next, b, nil
		}
	}
	return protoNoNext, nil, nil
}

// ports sets the ports of the three protocols that RFC 9300 section 12 names.
func (f *Flow) ports(proto uint8, b []byte) {
	switch proto {
	case protoTCP, protoUDP, protoSCTP:
		if len(b) >= 4 {
			f.Ports, f.Protocol, f.HasPorts = binary.BigEndian.Uint32(b), proto, true
		}
	}
}
