package wire

import (
	"encoding/binary"
	"strings"
)

// EncapFormat is the LCAF of a locator and the encapsulations that it decodes
// (RFC 8060 section 5.6).
//
//	 0                   1                   2                   3
//	 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//	+-------------------------------+---------------+---------------+
//	|          AFI = 16387          |     Rsvd1     |     Flags     |
//	+---------------+---------------+---------------+---------------+
//	|   Type = 16   |     Rsvd2     |            Length             |
//	+---------------+---------------+-----------------+-+-+-+-+-+-+-+
//	|         Reserved-for-Future-Encapsulations      |U|G|N|v|V|l|L|
//	+-------------------------------+-----------------+-+-+-+-+-+-+-+
//	|              AFI              |          Address  ...
//	+-------------------------------+-------------------------------+
type EncapFormat struct {
	Formats Encapsulations
	Address Address
}

// Encapsulations is a set of encapsulations with the bits of an EncapFormat.
type Encapsulations uint8

// The encapsulations of RFC 8060 section 5.6.
const (
	EncapLISP     Encapsulations = 1 << iota // L: UDP port 4341
	EncapLISPL2                              // l: UDP port 8472
	EncapVXLAN                               // V: UDP port 4789
	EncapVXLANGPE                            // v: UDP port 4790
	EncapNVGRE                               // N: IP protocol 47
	EncapGeneve                              // G: UDP port 6081
	EncapGUE                                 // U: UDP port 6080

	allEncapsulations = 1<<iota - 1
)

var encapNames = [...]string{"lisp", "l2-lisp", "vxlan", "vxlan-gpe", "nvgre", "geneve", "gue"}

// String returns the names of the encapsulations, such as "lisp vxlan".
func (e Encapsulations) String() string {
	var s []string
	for i, name := range encapNames {
		if e&(1<<i) != 0 {
			s = append(s, name)
		}
	}
	return strings.Join(s, " ")
}

// Decode reads the payload of an LCAF of type LCAFEncap, which it borrows.
// Octets after the address are ignored.
func (e *EncapFormat) Decode(l LCAF) error {
	c := lcafCursor(l, LCAFEncap)
	*e = EncapFormat{Formats: Encapsulations(c.u32("formats") & allEncapsulations), Address: c.address("address")}
	return c.err
}

// AppendBinary appends the LCAF with its AFI.
func (e EncapFormat) AppendBinary(b []byte) ([]byte, error) {
	return appendLCAF(b, LCAFEncap, 0, func(b []byte) []byte {
		b = binary.BigEndian.AppendUint32(b, uint32(e.Formats&allEncapsulations))
		return append(b, e.Address.Bytes()...)
	})
}

// String returns "encapsulation-format(lisp vxlan, address)".
func (e EncapFormat) String() string {
	return lcafText(LCAFEncap, e.Formats.String(), inside(e.Address))
}
