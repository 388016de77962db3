package dataplane

import (
	"encoding/binary"

	"github.com/eidolon-lisp/eidolon/encap"
)

// TCP flags that segments share out among them.
const (
	tcpFIN = 0x01
	tcpPSH = 0x08
	tcpCWR = 0x80
)

// Super describes a super-packet: a packet of TCP or UDP with the payload of
// several and headers for all of them, as hosts hand it over that leave the
// cutting to their network device (TCP segmentation offload, UDP_SEGMENT). Its
// transport checksum is unfinished: in its place is the sum of the
// pseudo-header, with the length of the whole. The zero value is that of a
// packet by itself.
type Super struct {
	// Size is the payload of each segment but the last, in octets; 0 says that
	// the packet is none.
	Size uint16
	// Transport is the length of the IP headers, Headers that of the transport
	// header too, in octets.
	Transport, Headers uint16
	// Protocol is TCP or UDP, by IANA's number.
	Protocol uint8
}

// NewSuper describes pkt, whose transport header begins at transport, as a
// super-packet. ok is false where that makes no sense: whoever says so is not
// trusted.
func NewSuper(pkt []byte, protocol uint8, transport, size int) (s Super, ok bool) {
	if len(pkt) < 20 || size <= 0 || size > 0xffff || transport > len(pkt) {
		return Super{}, false
	}
	headers := transport
	switch pkt[0] >> 4 {
	case 4:
		if transport < 20 || int(pkt[0]&0x0f)*4 != transport {
			return Super{}, false
		}
	case 6:
		if transport < 40 {
			return Super{}, false
		}
	default:
		return Super{}, false
	}
	switch protocol {
	case protoTCP:
		if len(pkt) < transport+20 {
			return Super{}, false
		}
		headers += int(pkt[transport+12]>>4) * 4
		if headers < transport+20 {
			return Super{}, false
		}
	case protoUDP:
		headers += 8
	default:
		return Super{}, false
	}
	if headers >= len(pkt) || headers > HeadLen-Headroom {
		return Super{}, false
	}
	return Super{Size: uint16(size), Transport: uint16(transport), Headers: uint16(headers), Protocol: protocol}, true
}

// Segments returns how many packets a super-packet of n octets stands for; 1 for
// a packet by itself.
func (s *Super) Segments(n int) int {
	if s.Size == 0 {
		return 1
	}
	return (n - int(s.Headers) + int(s.Size) - 1) / int(s.Size)
}

// octets is how many octets the segments of a super-packet of n have together.
func (s *Super) octets(n int) uint64 {
	return uint64(n + (s.Segments(n)-1)*int(s.Headers))
}

// longest is the length of the longest segment of a super-packet of n octets; n
// for a packet by itself.
func (s *Super) longest(n int) int {
	if s.Size == 0 {
		return n
	}
	return min(n, int(s.Headers)+int(s.Size))
}

// Head is the room for what each segment has for itself.
type Head [HeadLen]byte

// HeadLen is the room for LISP header, IP headers and transport header, in octets.
const HeadLen = Headroom + 40 + 60 + 148

// Cutter cuts a super-packet into the packets that a network device would make
// of it. Payloads stay where they are; each segment gets its own headers. The
// zero value has nothing to cut.
type Cutter struct {
	Super
	buf    []byte // headroom and packet; nil when there is nothing to cut
	off    int    // of the next payload
	index  int
	pseudo uint64 // sum of addresses and protocol
}

// Begin takes a super-packet with the Headroom before it. It must stay unchanged
// until the last segment is done with.
func (c *Cutter) Begin(buf []byte, s Super) {
	*c = Cutter{Super: s, buf: buf, off: Headroom + int(s.Headers), pseudo: encap.PseudoHeader(buf[Headroom:], s.Protocol, 0)}
}

// Active reports whether there are more segments.
func (c *Cutter) Active() bool { return c.buf != nil }

// Next returns the next segment, in two parts: the headroom, as it is, and the
// headers, both in head, and the payload, inside of the super-packet.
func (c *Cutter) Next(head *Head) (first, body []byte) {
	headers, ip := int(c.Headers), int(c.Transport)
	body = c.buf[c.off:min(c.off+int(c.Size), len(c.buf))]
	c.off += len(body)
	last := c.off == len(c.buf)
	first = head[:Headroom+headers]
	copy(first, c.buf)
	h := first[Headroom:]
	length := headers + len(body)
	if h[0]>>4 == 4 {
		binary.BigEndian.PutUint16(h[2:], uint16(length))
		binary.BigEndian.PutUint16(h[4:], binary.BigEndian.Uint16(h[4:])+uint16(c.index))
		h[10], h[11] = 0, 0
		binary.BigEndian.PutUint16(h[10:], encap.Checksum(h[:ip]))
	} else {
		binary.BigEndian.PutUint16(h[4:], uint16(length-40))
	}
	csum := ip + 16
	if c.Protocol == protoTCP {
		binary.BigEndian.PutUint32(h[ip+4:], binary.BigEndian.Uint32(h[ip+4:])+uint32(c.index*int(c.Size)))
		if !last { // on the last segment only
			h[ip+13] &^= tcpFIN | tcpPSH
		}
		if c.index > 0 { // on the first segment only (RFC 3168 section 6.1.2)
			h[ip+13] &^= tcpCWR
		}
	} else {
		csum = ip + 6
		binary.BigEndian.PutUint16(h[ip+4:], uint16(length-ip))
	}
	h[csum], h[csum+1] = 0, 0
	// The headers have an even length, so the payload's sum just adds up.
	sum := ^encap.Fold(encap.Sum(h[ip:], encap.Sum(body, c.pseudo+uint64(length-ip))))
	if sum == 0 && c.Protocol == protoUDP { // zero would mean none
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(h[csum:], sum)
	c.index++
	if last {
		c.buf = nil
	}
	return first, body
}
