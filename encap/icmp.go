package encap

import (
	"encoding/binary"
	"net/netip"
)

// How much of the packet an ICMP error quotes: all that keeps the message
// within 576 octets (RFC 1812 section 4.3.2.3) or the minimum IPv6 MTU
// (RFC 4443 section 2.4 c).
const (
	icmpLen      = 8
	maxICMPError = 576
	maxICMPv6    = MinMTU6
)

// MaxICMP is the largest message that AppendTooBig and AppendUnreachable
// append, in octets: callers with a buffer that large never make them allocate.
const MaxICMP = maxICMPv6

// Unreachable says why a packet is not forwarded, in the terms that ICMP has
// for it.
type Unreachable uint8

const (
	// NoRoute: nothing is known of a way to the destination.
	NoRoute Unreachable = iota
	// Prohibited: policy forbids it.
	Prohibited
)

// AppendTooBig appends the packet that tells the source of pkt to send no more
// than mtu octets: ICMPv4 type 3 code 4 (RFC 1191) or ICMPv6 type 2 (RFC 4443
// section 3.2), IP header included. ok is false, and b unchanged, when no error
// may be sent about pkt. pkt must have passed Flow.Decode and be cut to its
// Length. For IPv6 mtu should be at least MinMTU6: hosts go no lower.
//
// The message comes from pkt's destination. The tunnel router need not have an
// address inside the site, and the host's kernel drops a packet that claims to
// be from one of its router's addresses but arrives from a tunnel.
func AppendTooBig(b, pkt []byte, mtu int) (msg []byte, ok bool) {
	if pkt[0]>>4 == 4 {
		return appendICMP4(b, pkt, 3, 4, uint32(mtu)&0xffff)
	}
	return appendICMP6(b, pkt, 2, 0, uint32(mtu))
}

// AppendUnreachable appends the destination unreachable message about pkt, as
// AppendTooBig does.
func AppendUnreachable(b, pkt []byte, why Unreachable) (msg []byte, ok bool) {
	if pkt[0]>>4 == 4 {
		code := uint8(0) // net unreachable
		if why == Prohibited {
			code = 13 // communication administratively prohibited (RFC 1812)
		}
		return appendICMP4(b, pkt, 3, code, 0)
	}
	code := uint8(0) // no route to destination
	if why == Prohibited {
		code = 1
	}
	return appendICMP6(b, pkt, 1, code, 0)
}

func appendICMP4(b, pkt []byte, typ, code uint8, rest uint32) ([]byte, bool) {
	if !mayAnswer4(pkt) {
		return b, false
	}
	quote := pkt[:min(len(pkt), maxICMPError-ipv4Len-icmpLen)]
	start, total := len(b), ipv4Len+icmpLen+len(quote)
	b = append(b, 0x45, 0xc0) // precedence 6, internetwork control (RFC 1812 section 4.3.2.5)
	b = binary.BigEndian.AppendUint16(b, uint16(total))
	b = append(b, 0, 0, ipv4DF>>8, 0, 64, protoICMP, 0, 0) // an atomic datagram needs no ID (RFC 6864)
	b = append(b, pkt[16:20]...)
	b = append(b, pkt[12:16]...)
	binary.BigEndian.PutUint16(b[start+10:], Checksum(b[start:]))
	b = append(b, typ, code, 0, 0)
	b = binary.BigEndian.AppendUint32(b, rest)
	b = append(b, quote...)
	icmp := b[start+ipv4Len:]
	binary.BigEndian.PutUint16(icmp[2:], Checksum(icmp))
	return b, true
}

func appendICMP6(b, pkt []byte, typ, code uint8, rest uint32) ([]byte, bool) {
	if !mayAnswer6(pkt) {
		return b, false
	}
	quote := pkt[:min(len(pkt), maxICMPv6-ipv6Len-icmpLen)]
	start, n := len(b), icmpLen+len(quote)
	b = append(b, 0x60, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(n))
	b = append(b, protoICMPv6, 64)
	b = append(b, pkt[24:40]...)
	b = append(b, pkt[8:24]...)
	b = append(b, typ, code, 0, 0)
	b = binary.BigEndian.AppendUint32(b, rest)
	b = append(b, quote...)
	icmp := b[start+ipv6Len:]
	sum := Sum(icmp, PseudoHeader(b[start:], protoICMPv6, n))
	binary.BigEndian.PutUint16(icmp[2:], ^Fold(sum))
	return b, true
}

// mayAnswer4 holds the rules of RFC 1122 section 3.2.2: no error about an ICMP
// error, a fragment other than the first, a group or broadcast destination, or
// a source that is not one host.
func mayAnswer4(pkt []byte) bool {
	hlen := int(pkt[0]&0x0f) * 4
	if binary.BigEndian.Uint16(pkt[6:])&ipv4Offset != 0 {
		return false
	}
	if !unicast(netip.AddrFrom4([4]byte(pkt[12:]))) || !unicast(netip.AddrFrom4([4]byte(pkt[16:]))) {
		return false
	}
	if pkt[9] != protoICMP {
		return true
	}
	if len(pkt) <= hlen {
		return false
	}
	switch pkt[hlen] {
	case 3, 4, 5, 11, 12:
		return false
	}
	return true
}

// mayAnswer6 holds the rules of RFC 4443 section 2.4 e.
func mayAnswer6(pkt []byte) bool {
	if !unicast(netip.AddrFrom16([16]byte(pkt[8:]))) || !unicast(netip.AddrFrom16([16]byte(pkt[24:]))) {
		return false
	}
	proto, rest, fragment := walkExtensions(pkt[6], pkt[ipv6Len:])
	if fragment != nil {
		if binary.BigEndian.Uint16(fragment[2:])&^7 != 0 {
			return false
		}
		proto, rest, _ = walkExtensions(proto, rest)
	}
	if proto != protoICMPv6 {
		return true
	}
	// Types below 128 are errors; 137 is a redirect.
	return len(rest) > 0 && rest[0] >= 128 && rest[0] != 137
}

// unicast reports whether a names one host.
func unicast(a netip.Addr) bool {
	if a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() {
		return false
	}
	if a.Is4() {
		b := a.As4()
		return b[0] != 0 && b[0] < 240
	}
	return true
}

// Routable reports whether a may be the source or destination of a packet that
// is forwarded between sites: one host's address, and not of a single link.
func Routable(a netip.Addr) bool { return unicast(a) && !a.IsLinkLocalUnicast() }
