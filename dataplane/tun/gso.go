package tun

import (
	"encoding/binary"

	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/encap"
)

// Values of struct virtio_net_hdr (Virtual I/O Device specification 1.2,
// section 5.1.6), in the machine's byte order.
const (
	vnetNeedsChecksum = 1

	gsoNone  = 0
	gsoTCPv4 = 1
	gsoTCPv6 = 4
	gsoUDP   = 5 // UDP segmentation (USO)
	gsoECN   = 0x80
)

const (
	protoTCP = 6
	protoUDP = 17

	tcpFIN = 0x01
	tcpPSH = 0x08
	tcpACK = 0x10
	tcpCWR = 0x80
)

type vnetHeader struct {
	flags, gsoType                   uint8
	hdrLen, gsoSize, csumAt, csumOff uint16
	raw                              [vnetLen]byte
}

func (v *vnetHeader) decode(b *[vnetLen]byte) {
	v.flags, v.gsoType = b[0], b[1]
	v.hdrLen, v.gsoSize = binary.NativeEndian.Uint16(b[2:]), binary.NativeEndian.Uint16(b[4:])
	v.csumAt, v.csumOff = binary.NativeEndian.Uint16(b[6:]), binary.NativeEndian.Uint16(b[8:])
}

// encode returns the header's octets, valid as long as v.
func (v *vnetHeader) encode() []byte {
	b := &v.raw
	b[0], b[1] = v.flags, v.gsoType
	binary.NativeEndian.PutUint16(b[2:], v.hdrLen)
	binary.NativeEndian.PutUint16(b[4:], v.gsoSize)
	binary.NativeEndian.PutUint16(b[6:], v.csumAt)
	binary.NativeEndian.PutUint16(b[8:], v.csumOff)
	return b[:]
}

// complete computes the checksum that the kernel left to the device: over
// everything from csumAt on, the field itself holding the pseudo-header's sum.
func (v *vnetHeader) complete(pkt []byte) bool {
	at := int(v.csumAt) + int(v.csumOff)
	if at+2 > len(pkt) || int(v.csumAt) < 20 {
		return false
	}
	sum := ^encap.Fold(encap.Sum(pkt[v.csumAt:], 0))
	if sum == 0 && v.csumOff == 6 { // UDP: zero would mean none
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(pkt[at:], sum)
	return true
}

// splitter cuts a packet of many segments, as the kernel hands over what TCP
// segmentation offload or UDP_SEGMENT left whole, into the packets that a
// network card would make of it. Payloads stay where they are; each segment
// gets its own copy of the headers.
type splitter struct {
	pkt     []byte // nil when there is nothing to cut
	size    int    // payload of a segment
	ip      int    // length of the IP headers
	headers int    // of IP and transport headers
	csum    int    // offset of the transport checksum
	proto   uint8
	off     int // of the next payload
	index   int

	pseudo uint64 // sum of addresses and protocol
	seq    uint32
}

func (s *splitter) active() bool { return s.pkt != nil }

// begin takes a packet. It reports whether the kernel's description of it
// makes sense. pkt must stay unchanged until the last segment is done with.
func (s *splitter) begin(pkt []byte, v vnetHeader) bool {
	*s = splitter{size: int(v.gsoSize), ip: int(v.csumAt)}
	if len(pkt) < 20 || s.size == 0 {
		return false
	}
	minIP, typ := 20, v.gsoType&^gsoECN
	if pkt[0]>>4 == 6 {
		minIP = 40
	}
	switch {
	case typ == gsoTCPv4 && pkt[0]>>4 == 4, typ == gsoTCPv6 && pkt[0]>>4 == 6:
		if len(pkt) < s.ip+20 {
			return false
		}
		s.proto, s.csum, s.headers = protoTCP, s.ip+16, s.ip+int(pkt[s.ip+12]>>4)*4
		s.seq = binary.BigEndian.Uint32(pkt[s.ip+4:])
		if s.headers < s.ip+20 {
			return false
		}
	case typ == gsoUDP && (pkt[0]>>4 == 4 || pkt[0]>>4 == 6):
		s.proto, s.csum, s.headers = protoUDP, s.ip+6, s.ip+8
	default:
		return false
	}
	if s.ip < minIP || s.headers >= len(pkt) || s.headers > headLen-dataplane.Headroom ||
		pkt[0]>>4 == 4 && int(pkt[0]&0x0f)*4 != s.ip {
		return false
	}
	s.pseudo = encap.PseudoHeader(pkt, s.proto, 0)
	s.off = s.headers
	s.pkt = pkt
	return true
}

// segment returns the next one; its headers are in buf.
func (s *splitter) segment(buf *[headLen]byte) dataplane.HostPacket {
	body := s.pkt[s.off:min(s.off+s.size, len(s.pkt))]
	s.off += len(body)
	last := s.off == len(s.pkt)
	h := buf[dataplane.Headroom : dataplane.Headroom+s.headers]
	copy(h, s.pkt)
	length := s.headers + len(body)
	if h[0]>>4 == 4 {
		binary.BigEndian.PutUint16(h[2:], uint16(length))
		binary.BigEndian.PutUint16(h[4:], binary.BigEndian.Uint16(h[4:])+uint16(s.index))
		h[10], h[11] = 0, 0
		binary.BigEndian.PutUint16(h[10:], encap.Checksum(h[:s.ip]))
	} else {
		binary.BigEndian.PutUint16(h[4:], uint16(length-40))
	}
	if s.proto == protoTCP {
		binary.BigEndian.PutUint32(h[s.ip+4:], s.seq+uint32(s.index*s.size))
		if !last { // on the last segment only
			h[s.ip+13] &^= tcpFIN | tcpPSH
		}
		if s.index > 0 { // on the first segment only (RFC 3168 section 6.1.2)
			h[s.ip+13] &^= tcpCWR
		}
	} else {
		binary.BigEndian.PutUint16(h[s.ip+4:], uint16(length-s.ip))
	}
	h[s.csum], h[s.csum+1] = 0, 0
	// The headers have an even length, so the payload's sum just adds up.
	sum := encap.Sum(h[s.ip:], encap.Sum(body, s.pseudo+uint64(length-s.ip)))
	c := ^encap.Fold(sum)
	if c == 0 && s.proto == protoUDP {
		c = 0xffff
	}
	binary.BigEndian.PutUint16(h[s.csum:], c)
	s.index++
	if last {
		s.pkt = nil
	}
	return dataplane.HostPacket{Buf: buf[:dataplane.Headroom+s.headers], Body: body}
}
