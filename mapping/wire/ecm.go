package wire

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// ECM is the Encapsulated Control Message (RFC 9301 section 5.8): a control
// message inside UDP and IP inside a control message.
//
//	 0                   1                   2                   3
//	 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//	+-------+-+-+-+-+-----------------------------------------------+
//	|Type=8 |S|D|E|M|                   Reserved                    |
//	+-------+-+-+-+-+-----------------------------------------------+
//	|    AD Type    |   S: LISP-SEC authentication data  ...        |
//	+---------------+-----------------------------------------------+
//	|                     IPv4 or IPv6 header  ...                  |
//	+-------------------------------+-------------------------------+
//	|          Source Port          |       Destination Port        |
//	+-------------------------------+-------------------------------+
//	|           UDP Length          |         UDP Checksum          |
//	+-------------------------------+-------------------------------+
//	|                     LISP control message  ...                 |
//	+---------------------------------------------------------------+
type ECM struct {
	Security    bool // S: SecurityData is there
	DDT         bool // D: Map-Referrals are wanted (RFC 8111)
	ToETR       bool // E: sent by a map-server to an ETR
	ToMapServer bool // M: meant for a map-server

	// SecurityData is the LISP-SEC authentication data from its AD Type on
	// (RFC 9303 section 6.1); nil without S.
	SecurityData []byte
	// Src and Dst are the inner addresses and ports: in a Map-Request, Dst is
	// the EID that is asked for.
	Src, Dst netip.AddrPort
	// HopLimit is the inner TTL or hop limit; 0 is sent as DefaultHopLimit.
	HopLimit uint8
	// Message is the inner control message.
	Message []byte
}

// DefaultHopLimit is the inner TTL or hop limit of an ECM for which none is
// given. It does not matter to a receiver: the inner packet is not forwarded.
const DefaultHopLimit = 64

const (
	ecmHeader    = 4
	ipv4Header   = 20
	ipv6Header   = 40
	udpHeader    = 8
	protocolUDP  = 17
	ipv4DontFrag = 0x4000
)

// Decode reads an ECM and the headers of the packet inside, the message of
// which m then borrows. The inner checksums must be right, and that of UDP not
// zero (RFC 9301 section 5.8). Octets after the inner packet are ignored.
func (m *ECM) Decode(b []byte) error {
	*m = ECM{}
	c := start(b, TypeECM)
	h := c.take(ecmHeader, "header")
	if c.err != nil {
		return c.err
	}
	m.Security = h[0]&0x08 != 0
	m.DDT = h[0]&0x04 != 0
	m.ToETR = h[0]&0x02 != 0
	m.ToMapServer = h[0]&0x01 != 0
	if m.Security {
		n, err := ecmSecuritySize(c.b[c.off:])
		if err != nil {
			c.fail("security_data", err)
		}
		m.SecurityData = c.take(n, "security_data")
	}
	src, dst, udp := m.ip(&c)
	m.udp(&c, src, dst, udp)
	return c.err
}

// DecodePacket is Decode for the packet inside alone: a Map-Request as it crosses
// the ALT (RFC 6836 section 3).
func (m *ECM) DecodePacket(b []byte) error {
	*m = ECM{}
	c := cursor{msg: "ALT datagram", b: b}
	src, dst, udp := m.ip(&c)
	m.udp(&c, src, dst, udp)
	return c.err
}

// ip reads the inner IP header and returns the length of the UDP datagram.
func (m *ECM) ip(c *cursor) (src, dst netip.Addr, udp int) {
	if c.err != nil {
		return
	}
	if c.left() == 0 {
		c.fail("inner_ip", ErrTruncated)
		return
	}
	at := c.off
	switch version := c.b[at] >> 4; version {
	case 4:
		h := c.take(ipv4Header, "inner_ip")
		if h == nil {
			return
		}
		size, total := int(h[0]&0x0f)*4, int(binary.BigEndian.Uint16(h[2:]))
		switch {
		case size < ipv4Header || total < size+udpHeader:
			c.failAt(at, "inner_ip", ErrBadLength)
		case total > len(c.b)-at:
			c.failAt(at+2, "inner_ip", fmt.Errorf("%w: total length %d of %d octets", ErrTruncated, total, len(c.b)-at))
		case binary.BigEndian.Uint16(h[6:])&0x3fff != 0: // MF and offset
			c.failAt(at+6, "inner_ip", fmt.Errorf("%w: a fragment", ErrBadHeader))
		case h[9] != protocolUDP:
			c.failAt(at+9, "inner_ip", fmt.Errorf("%w: protocol %d", ErrBadHeader, h[9]))
		case ^fold(sum(c.b[at:at+size], 0)) != 0:
			c.failAt(at+10, "inner_ip", ErrBadChecksum)
		}
		c.take(size-ipv4Header, "inner_ip")
		m.HopLimit = h[8]
		return netip.AddrFrom4([4]byte(h[12:])), netip.AddrFrom4([4]byte(h[16:])), total - size
	case 6:
		h := c.take(ipv6Header, "inner_ip")
		if h == nil {
			return
		}
		size := int(binary.BigEndian.Uint16(h[4:]))
		switch {
		case size < udpHeader:
			c.failAt(at+4, "inner_ip", ErrBadLength)
		case size > c.left():
			c.failAt(at+4, "inner_ip", fmt.Errorf("%w: payload length %d of %d octets", ErrTruncated, size, c.left()))
		case h[6] != protocolUDP:
			c.failAt(at+6, "inner_ip", fmt.Errorf("%w: next header %d", ErrBadHeader, h[6]))
		}
		m.HopLimit = h[7]
		return netip.AddrFrom16([16]byte(h[8:])), netip.AddrFrom16([16]byte(h[24:])), size
	default:
		c.fail("inner_ip", fmt.Errorf("%w: version %d", ErrBadHeader, version))
		return
	}
}

// udp reads the inner UDP datagram, for which the IP header leaves size octets.
func (m *ECM) udp(c *cursor, src, dst netip.Addr, size int) {
	at := c.off
	h := c.take(udpHeader, "inner_udp")
	if h == nil {
		return
	}
	n := int(binary.BigEndian.Uint16(h[4:]))
	if n < udpHeader || n > size {
		c.failAt(at+4, "inner_udp", fmt.Errorf("%w: %d of %d octets", ErrBadLength, n, size))
		return
	}
	if binary.BigEndian.Uint16(h[6:]) == 0 || ^fold(sum(c.b[at:at+n], pseudoHeader(src, dst, n))) != 0 {
		c.failAt(at+6, "inner_udp", ErrBadChecksum)
		return
	}
	m.Src = netip.AddrPortFrom(src, binary.BigEndian.Uint16(h))
	m.Dst = netip.AddrPortFrom(dst, binary.BigEndian.Uint16(h[2:]))
	m.Message = c.take(n-udpHeader, "message")
}

// AppendBinary appends the ECM. It fails with ErrInvalid when Src and Dst are
// not of one family, or Security and SecurityData do not go together.
func (m *ECM) AppendBinary(b []byte) ([]byte, error) {
	at := len(b)
	if !m.Security && len(m.SecurityData) > 0 {
		return b, invalid(TypeECM, "security data without the S bit")
	}
	if m.Security {
		if n, err := ecmSecuritySize(m.SecurityData); err != nil || n != len(m.SecurityData) {
			return b, invalid(TypeECM, "security data of %d octets is not what it says", len(m.SecurityData))
		}
	}
	b = append(b, byte(TypeECM)<<4|bit(m.Security, 0x08)|bit(m.DDT, 0x04)|bit(m.ToETR, 0x02)|bit(m.ToMapServer, 0x01), 0, 0, 0)
	b = append(b, m.SecurityData...)
	b, err := m.AppendPacket(b)
	return finish(b, at, TypeECM, err)
}

// AppendPacket appends the packet inside alone. It fails with ErrInvalid when Src
// and Dst are not of one family.
func (m *ECM) AppendPacket(b []byte) ([]byte, error) {
	at, src, dst := len(b), m.Src.Addr(), m.Dst.Addr()
	switch {
	case !src.IsValid() || !dst.IsValid() || src.Is4() != dst.Is4():
		return b, invalid(TypeECM, "inner addresses %v and %v are not of one family", src, dst)
	case len(m.Message) > MaxMessage:
		return finish(append(b, m.Message...), at, TypeECM, nil)
	}
	hops, size := m.HopLimit, udpHeader+len(m.Message)
	if hops == 0 {
		hops = DefaultHopLimit
	}
	ip := len(b)
	if src.Is4() {
		s, d := src.As4(), dst.As4()
		b = append(b, 0x45, 0)
		b = binary.BigEndian.AppendUint16(b, uint16(ipv4Header+size))
		b = append(b, 0, 0) // an unfragmented packet needs no identification
		b = binary.BigEndian.AppendUint16(b, ipv4DontFrag)
		b = append(b, hops, protocolUDP, 0, 0)
		b = append(append(b, s[:]...), d[:]...)
		binary.BigEndian.PutUint16(b[ip+10:], ^fold(sum(b[ip:], 0)))
	} else {
		s, d := src.As16(), dst.As16()
		b = append(b, 0x60, 0, 0, 0)
		b = binary.BigEndian.AppendUint16(b, uint16(size))
		b = append(b, protocolUDP, hops)
		b = append(append(b, s[:]...), d[:]...)
	}
	udp := len(b)
	b = binary.BigEndian.AppendUint16(b, m.Src.Port())
	b = binary.BigEndian.AppendUint16(b, m.Dst.Port())
	b = binary.BigEndian.AppendUint16(b, uint16(size))
	b = append(b, 0, 0)
	b = append(b, m.Message...)
	check := ^fold(sum(b[udp:], pseudoHeader(src, dst, size)))
	if check == 0 {
		check = 0xffff // zero would mean that there is none (RFC 768)
	}
	binary.BigEndian.PutUint16(b[udp+6:], check)
	return finish(b, at, TypeECM, nil)
}

// pseudoHeader returns the sum of the pseudo-header for n octets of UDP.
func pseudoHeader(src, dst netip.Addr, n int) uint32 {
	s := uint32(protocolUDP + n)
	if src.Is4() {
		a, b := src.As4(), dst.As4()
		return sum(b[:], sum(a[:], s))
	}
	a, b := src.As16(), dst.As16()
	return sum(b[:], sum(a[:], s))
}

// sum adds the octets of b as 16-bit words to s (RFC 1071). It cannot overflow
// for the lengths that a message can have.
func sum(b []byte, s uint32) uint32 {
	for len(b) >= 2 {
		s += uint32(binary.BigEndian.Uint16(b))
		b = b[2:]
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	return s
}

func fold(s uint32) uint16 {
	s = s>>16 + s&0xffff
	return uint16(s>>16 + s)
}
