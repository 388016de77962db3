package wire

import (
	"encoding/binary"
	"strconv"
)

// ASNumber is the LCAF that says to which autonomous system an address belongs
// (RFC 8060 section 4.2).
//
//	 0                   1                   2                   3
//	 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//	+-------------------------------+---------------+---------------+
//	|          AFI = 16387          |     Rsvd1     |     Flags     |
//	+---------------+---------------+---------------+---------------+
//	|   Type = 3    |     Rsvd2     |            Length             |
//	+---------------+---------------+-------------------------------+
//	|                           AS Number                           |
//	+-------------------------------+-------------------------------+
//	|              AFI              |          Address  ...
//	+-------------------------------+-------------------------------+
type ASNumber struct {
	AS      uint32
	Address Address
}

// Decode reads the payload of an LCAF of type LCAFASNumber, which it borrows.
// Octets after the address are ignored.
func (a *ASNumber) Decode(l LCAF) error {
	c := lcafCursor(l, LCAFASNumber)
	*a = ASNumber{AS: c.u32("as_number"), Address: c.address("address")}
	return c.err
}

// AppendBinary appends the LCAF with its AFI.
func (a ASNumber) AppendBinary(b []byte) ([]byte, error) {
	return appendLCAF(b, LCAFASNumber, 0, func(b []byte) []byte {
		b = binary.BigEndian.AppendUint32(b, a.AS)
		return append(b, a.Address.Bytes()...)
	})
}

// String returns "as-number(64500, address)".
func (a ASNumber) String() string {
	return lcafText(LCAFASNumber, strconv.FormatUint(uint64(a.AS), 10), inside(a.Address))
}
