// Package layers reads LISP packets out of captures: gopacket layers for
// control messages and for the data header, and a readable summary of a whole
// capture file for lispctl and the lab. It is for looking at packets, never on
// their way through a data plane.
package layers

import (
	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"github.com/eidolon-lisp/eidolon/encap"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// The layer types of LISP. Their numbers are those of their UDP ports, in the
// range that gopacket leaves to applications.
const (
	LayerTypeData    gopacket.LayerType = encap.Port
	LayerTypeControl gopacket.LayerType = wire.Port
)

func init() {
	gopacket.RegisterLayerType(int(LayerTypeData), gopacket.LayerTypeMetadata{Name: "LISP", Decoder: gopacket.DecodeFunc(decodeData)})
	gopacket.RegisterLayerType(int(LayerTypeControl), gopacket.LayerTypeMetadata{Name: "LISPControl", Decoder: gopacket.DecodeFunc(decodeControl)})
}

// RegisterPorts makes gopacket decode UDP ports 4341 and 4342 as LISP, for the
// whole process. Nothing in this package needs it.
func RegisterPorts() {
	layers.RegisterUDPPortLayerType(encap.Port, LayerTypeData)
	layers.RegisterUDPPortLayerType(wire.Port, LayerTypeControl)
}

// Message is a decoded control message: one of *wire.MapRequest,
// *wire.MapReply, *wire.MapRegister, *wire.MapNotify, *wire.Info, *wire.ECM.
type Message interface {
	Decode([]byte) error
	AppendBinary([]byte) ([]byte, error)
}

// newMessage returns the decoder for a type, or nil for the types that this
// version only recognises.
func newMessage(t wire.Type) Message {
	switch t {
	case wire.TypeMapRequest:
		return new(wire.MapRequest)
	case wire.TypeMapReply:
		return new(wire.MapReply)
	case wire.TypeMapRegister:
		return new(wire.MapRegister)
	case wire.TypeMapNotify, wire.TypeMapNotifyAck:
		return new(wire.MapNotify)
	case wire.TypeInfo:
		return new(wire.Info)
	case wire.TypeECM:
		return new(wire.ECM)
	}
	return nil
}

// Control is a LISP control message (RFC 9301). The payload of an
// Encapsulated Control Message is the message inside; its inner IP and UDP
// headers belong to Contents. All others have no payload.
type Control struct {
	layers.BaseLayer
	Type wire.Type
	// Message borrows the packet. It is nil for Map-Referral and the shared
	// extension.
	Message Message
}

// LayerType returns LayerTypeControl.
func (c *Control) LayerType() gopacket.LayerType { return LayerTypeControl }

// CanDecode returns LayerTypeControl.
func (c *Control) CanDecode() gopacket.LayerClass { return LayerTypeControl }

// NextLayerType returns LayerTypeControl after an ECM, else nothing.
func (c *Control) NextLayerType() gopacket.LayerType {
	if c.Type == wire.TypeECM {
		return LayerTypeControl
	}
	return gopacket.LayerTypeZero
}

// DecodeFromBytes reads the message that b is, and borrows b.
func (c *Control) DecodeFromBytes(b []byte, _ gopacket.DecodeFeedback) error {
	*c = Control{}
	t, err := wire.PeekType(b)
	if err != nil {
		return err
	}
	m := newMessage(t)
	if m != nil {
		if err := m.Decode(b); err != nil {
			return err
		}
	}
	*c = Control{BaseLayer: layers.BaseLayer{Contents: b}, Type: t, Message: m}
	if e, ok := m.(*wire.ECM); ok {
		// The message is the end of b but for octets that are ignored.
		c.Payload = e.Message
	}
	return nil
}

func decodeControl(b []byte, p gopacket.PacketBuilder) error {
	c := new(Control)
	if err := c.DecodeFromBytes(b, p); err != nil {
		return err
	}
	p.AddLayer(c)
	if c.NextLayerType() == gopacket.LayerTypeZero {
		return nil
	}
	return p.NextDecoder(c.NextLayerType())
}

// NextProtocol says what follows a LISP-GPE header (RFC 9305 section 3).
type NextProtocol uint8

// The protocols that have a number.
const (
	NextIPv4     NextProtocol = 1
	NextIPv6     NextProtocol = 2
	NextEthernet NextProtocol = 3
	NextNSH      NextProtocol = 4
)

// Data is the header of a LISP data packet (RFC 9300 section 5.1). What
// follows is an IPv4 or IPv6 packet, or any payload when the header is that of
// LISP-GPE or the packet is encrypted.
type Data struct {
	layers.BaseLayer
	encap.Header
	// GPE is the P bit of RFC 9305, which RFC 9300 has reserved; Next is 0
	// without it.
	GPE  bool
	Next NextProtocol
}

// LayerType returns LayerTypeData.
func (d *Data) LayerType() gopacket.LayerType { return LayerTypeData }

// CanDecode returns LayerTypeData.
func (d *Data) CanDecode() gopacket.LayerClass { return LayerTypeData }

// NextLayerType returns IPv4 or IPv6 where that is what follows.
func (d *Data) NextLayerType() gopacket.LayerType {
	version := byte(0)
	if len(d.Payload) > 0 {
		version = d.Payload[0] >> 4
	}
	switch {
	case d.KeyID != 0:
		return gopacket.LayerTypePayload
	case d.GPE && d.Next != NextIPv4 && d.Next != NextIPv6:
		return gopacket.LayerTypePayload
	case version == 4:
		return layers.LayerTypeIPv4
	case version == 6:
		return layers.LayerTypeIPv6
	}
	return gopacket.LayerTypePayload
}

// DecodeFromBytes reads the header at the start of b, and borrows b.
func (d *Data) DecodeFromBytes(b []byte, df gopacket.DecodeFeedback) error {
	*d = Data{}
	// RFC 9305 section 3: with P set, N, E and V are ignored. A next protocol
	// of 0 is reserved, so that a P bit with it is RFC 9300's reserved bit.
	if len(b) >= encap.HeaderLen && b[0]&0x04 != 0 && b[3] != 0 && b[0]&0xb0 == 0 {
		d.GPE, d.Next = true, NextProtocol(b[3])
	}
	if err := d.Header.Decode(b); err != nil {
		df.SetTruncated()
		return err
	}
	d.BaseLayer = layers.BaseLayer{Contents: b[:encap.HeaderLen], Payload: b[encap.HeaderLen:]}
	return nil
}

func decodeData(b []byte, p gopacket.PacketBuilder) error {
	d := new(Data)
	if err := d.DecodeFromBytes(b, p); err != nil {
		return err
	}
	p.AddLayer(d)
	return p.NextDecoder(d.NextLayerType())
}

// port says which of LISP's two ports a datagram belongs to. Control messages
// are known by either port (RFC 9301 section 5), data packets by the
// destination (RFC 9300 section 5.3).
func port(src, dst layers.UDPPort) int {
	switch {
	case dst == encap.Port:
		return encap.Port
	case dst == wire.Port || src == wire.Port:
		return wire.Port
	}
	return 0
}
