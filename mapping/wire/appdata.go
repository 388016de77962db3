package wire

import (
	"encoding/binary"
	"fmt"
)

// AppData is the LCAF of a traffic class and port ranges beside an address (RFC
// 8060 section 5.1).
//
//	 0                   1                   2                   3
//	 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//	+-------------------------------+---------------+---------------+
//	|          AFI = 16387          |     Rsvd1     |     Flags     |
//	+---------------+---------------+---------------+---------------+
//	|   Type = 4    |     Rsvd2     |            Length             |
//	+---------------+---------------+---------------+---------------+
//	|        IP TOS, IPv6 TC or Flow Label          |   Protocol    |
//	+-------------------------------+---------------+---------------+
//	|    Local Port (lower-range)   |    Local Port (upper-range)   |
//	+-------------------------------+-------------------------------+
//	|   Remote Port (lower-range)   |   Remote Port (upper-range)   |
//	+-------------------------------+-------------------------------+
//	|              AFI              |          Address  ...
//	+-------------------------------+-------------------------------+
type AppData struct {
	Class    uint32 // 24 bits
	Protocol uint8
	// A single port is a range of one.
	Local, Remote PortRange
	Address       Address
}

// PortRange is the ports from Low to High, both included.
type PortRange struct{ Low, High uint16 }

// String returns "low-high", or the port of a range of one.
func (r PortRange) String() string {
	if r.Low == r.High {
		return fmt.Sprint(r.Low)
	}
	return fmt.Sprintf("%d-%d", r.Low, r.High)
}

// Decode reads the payload of an LCAF of type LCAFAppData, which it borrows.
// Octets after the address are ignored.
func (a *AppData) Decode(l LCAF) error {
	c := lcafCursor(l, LCAFAppData)
	class := c.u32("class_protocol")
	*a = AppData{Class: class >> 8, Protocol: uint8(class)}
	a.Local = PortRange{c.u16("local_port_low"), c.u16("local_port_high")}
	a.Remote = PortRange{c.u16("remote_port_low"), c.u16("remote_port_high")}
	a.Address = c.address("address")
	return c.err
}

// AppendBinary appends the LCAF with its AFI. It fails with ErrInvalid when
// Class has more than 24 bits.
func (a AppData) AppendBinary(b []byte) ([]byte, error) {
	if a.Class > 0xffffff {
		return b, fmt.Errorf("%v: %w: class %#x has more than 24 bits", LCAFAppData, ErrInvalid, a.Class)
	}
	return appendLCAF(b, LCAFAppData, 0, func(b []byte) []byte {
		b = binary.BigEndian.AppendUint32(b, a.Class<<8|uint32(a.Protocol))
		for _, port := range [...]uint16{a.Local.Low, a.Local.High, a.Remote.Low, a.Remote.High} {
			b = binary.BigEndian.AppendUint16(b, port)
		}
		return append(b, a.Address.Bytes()...)
	})
}

// String returns "application-data(class 0x0, protocol 6, ports 1-2 to 80, address)".
func (a AppData) String() string {
	return lcafText(LCAFAppData, fmt.Sprintf("class %#x", a.Class), fmt.Sprintf("protocol %d", a.Protocol),
		fmt.Sprintf("ports %v to %v", a.Local, a.Remote), inside(a.Address))
}
