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
	tcpSYN = 0x02
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

// super describes a packet of many segments, as the kernel hands over what TCP
// segmentation offload or UDP_SEGMENT left whole. ok is false where the kernel's
// description makes no sense.
func (v *vnetHeader) super(pkt []byte) (s dataplane.Super, ok bool) {
	if len(pkt) == 0 {
		return s, false
	}
	protocol := uint8(0)
	switch typ, version := v.gsoType&^gsoECN, pkt[0]>>4; {
	case typ == gsoTCPv4 && version == 4, typ == gsoTCPv6 && version == 6:
		protocol = protoTCP
	case typ == gsoUDP:
		protocol = protoUDP
	}
	return dataplane.NewSuper(pkt, protocol, int(v.csumAt), int(v.gsoSize))
}
