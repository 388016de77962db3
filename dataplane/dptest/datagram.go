package dptest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
)

// The ports of a Datagram: LISP data (RFC 9300 section 19.1), and the range
// that source ports come from (RFC 6335).
const (
	lispPort     = 4341
	firstDynamic = 49152
)

// Datagram is a LISP data packet with its outer headers.
type Datagram struct {
	Src, Dst netip.Addr
	TTL, TOS uint8
	// SrcPort is 50000 when zero, DstPort 4341.
	SrcPort, DstPort uint16
	// Fragmentable leaves out DF of an IPv4 header.
	Fragmentable bool
	// Sum is what the UDP checksum is.
	Sum Checksum
	// Header is the LISP header.
	Header [8]byte
	Inner  []byte
}

// Checksum is a kind of UDP checksum.
type Checksum uint8

// The kinds.
const (
	RightSum Checksum = iota
	ZeroSum
	WrongSum
)

// Bytes returns the packet.
func (d Datagram) Bytes() []byte {
	if d.SrcPort == 0 {
		d.SrcPort = 50000
	}
	if d.DstPort == 0 {
		d.DstPort = lispPort
	}
	h := make([]byte, 8, 16+len(d.Inner))
	binary.BigEndian.PutUint16(h, d.SrcPort)
	binary.BigEndian.PutUint16(h[2:], d.DstPort)
	binary.BigEndian.PutUint16(h[4:], uint16(16+len(d.Inner)))
	h = append(append(h, d.Header[:]...), d.Inner...)
	if d.Sum != ZeroSum {
		s := sumTransport(d.Src, d.Dst, UDP, h)
		if s == 0 {
			s = 0xffff
		}
		if d.Sum == WrongSum {
			if s ^= 0x0100; s == 0 {
				s = 0x0101
			}
		}
		binary.BigEndian.PutUint16(h[6:], s)
	}
	return Inner{Src: d.Src, Dst: d.Dst, Proto: UDP, Raw: true, TTL: d.TTL, NoTTL: true, TOS: d.TOS, DF: !d.Fragmentable, Payload: h}.Bytes()
}

// Errors of ParseDatagram.
var errNotLISP = errors.New("no LISP data packet")

// ParseDatagram takes a packet apart that has no IP options and no extension
// headers. Inner is a part of b. What it finds odd about lengths and the
// checksums is the error; all that could be read is there nevertheless.
func ParseDatagram(b []byte) (d Datagram, err error) {
	var udp []byte
	switch {
	case len(b) >= 36 && b[0] == 0x45 && b[9] == UDP:
		d.Src, d.Dst = netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:]))
		d.TOS, d.TTL, d.Fragmentable = b[1], b[8], b[6]&0x40 == 0
		udp = b[20:]
		switch {
		case int(binary.BigEndian.Uint16(b[2:])) != len(b):
			err = fmt.Errorf("the IP length is not %d", len(b))
		case binary.BigEndian.Uint16(b[6:])&0x3fff != 0:
			err = errors.New("it is a fragment")
		case sum(b[:20]) != 0:
			err = errors.New("the checksum of the IP header is wrong")
		}
	case len(b) >= 56 && b[0]>>4 == 6 && b[6] == UDP:
		d.Src, d.Dst = netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:]))
		d.TOS, d.TTL = b[0]<<4|b[1]>>4, b[7]
		udp = b[40:]
		if 40+int(binary.BigEndian.Uint16(b[4:])) != len(b) {
			err = fmt.Errorf("the IP length is not %d", len(b))
		}
	default:
		return d, errNotLISP
	}
	d.SrcPort, d.DstPort = binary.BigEndian.Uint16(udp), binary.BigEndian.Uint16(udp[2:])
	copy(d.Header[:], udp[8:])
	d.Inner = udp[16:]
	switch given := binary.BigEndian.Uint16(udp[6:]); {
	case int(binary.BigEndian.Uint16(udp[4:])) != len(udp):
		err = errors.Join(err, fmt.Errorf("the UDP length is not %d", len(udp)))
	case given == 0:
		d.Sum = ZeroSum
	case sumTransport(d.Src, d.Dst, UDP, udp) != 0:
		d.Sum = WrongSum
		err = errors.Join(err, errors.New("the UDP checksum is wrong"))
	}
	return d, err
}

// same compares a packet that was sent with what had to be sent. The source
// port may be any of the dynamic range, IPv4 ID and flow label any; checksums
// have to be right, that of UDP right or zero (RFC 9300 section 5.3).
func (d Datagram) same(b []byte) error {
	got, err := ParseDatagram(b)
	switch {
	case err != nil:
		return fmt.Errorf("%w: %x", err, b)
	case got.SrcPort < firstDynamic || got.DstPort != lispPort:
		return fmt.Errorf("ports %d and %d", got.SrcPort, got.DstPort)
	case got.Src != d.Src || got.Dst != d.Dst:
		return fmt.Errorf("from %v to %v, want %v to %v", got.Src, got.Dst, d.Src, d.Dst)
	case got.TTL != d.TTL || got.TOS != d.TOS:
		return fmt.Errorf("TTL %d and TOS %#x, want %d and %#x", got.TTL, got.TOS, d.TTL, d.TOS)
	case got.Fragmentable != d.Fragmentable && d.Src.Is4():
		return fmt.Errorf("DF is %v", !got.Fragmentable)
	case got.Header != d.Header:
		return fmt.Errorf("LISP header %x, want %x", got.Header, d.Header)
	case !bytes.Equal(got.Inner, d.Inner):
		return fmt.Errorf("inner packet\n%x\nwant\n%x", got.Inner, d.Inner)
	}
	return nil
}

// source returns the source address of an IP packet.
func source(b []byte) (netip.Addr, bool) {
	switch {
	case len(b) >= 20 && b[0]>>4 == 4:
		return netip.AddrFrom4([4]byte(b[12:])), true
	case len(b) >= 40 && b[0]>>4 == 6:
		return netip.AddrFrom16([16]byte(b[8:])), true
	}
	return netip.Addr{}, false
}
