package wire

import (
	"encoding/binary"
	"fmt"
)

// Vendor is the LCAF of what one organisation defined (RFC 9306 section 4).
// None is known here, so that DecodeAddress, and the decoder of any message
// with one, fail with ErrUnknownOUI.
//
//	 0                   1                   2                   3
//	 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//	+-------------------------------+---------------+---------------+
//	|          AFI = 16387          |     Rsvd1     |     Flags     |
//	+---------------+---------------+---------------+---------------+
//	|  Type = 255   |     Rsvd2     |            Length             |
//	+---------------+---------------+-------------------------------+
//	|     Rsvd3     |   Organizationally Unique Identifier (OUI)    |
//	+---------------+-----------------------------------------------+
//	|                      Internal format  ...                     |
//	+---------------------------------------------------------------+
type Vendor struct {
	OUI  uint32 // 24 bits: an OUI or CID of the IEEE
	Data []byte
}

// Decode reads the payload of an LCAF of type LCAFVendor, which it borrows.
func (v *Vendor) Decode(l LCAF) error {
	c := lcafCursor(l, LCAFVendor)
	*v = Vendor{OUI: c.u32("oui") & 0xffffff, Data: c.take(c.left(), "data")}
	return c.err
}

// checkVendor refuses what nobody here understands: a message with an OUI that
// is not known must be dropped, and should be logged (RFC 9306 section 4).
func checkVendor(l LCAF) error {
	var v Vendor
	if err := v.Decode(l); err != nil {
		return err
	}
	return &DecodeError{Message: LCAFVendor.String(), Field: "oui", Offset: 1, Err: fmt.Errorf("%w %06x", ErrUnknownOUI, v.OUI)}
}

// AppendBinary appends the LCAF with its AFI. It fails with ErrInvalid when the
// OUI has more than 24 bits.
func (v Vendor) AppendBinary(b []byte) ([]byte, error) {
	if v.OUI > 0xffffff {
		return b, fmt.Errorf("%v: %w: OUI %#x has more than 24 bits", LCAFVendor, ErrInvalid, v.OUI)
	}
	return appendLCAF(b, LCAFVendor, 0, func(b []byte) []byte {
		return append(binary.BigEndian.AppendUint32(b, v.OUI), v.Data...)
	})
}

// String returns "vendor-specific(00005e, 0102)".
func (v Vendor) String() string {
	return lcafText(LCAFVendor, fmt.Sprintf("%06x", v.OUI), hexText(v.Data))
}
