package wire

import (
	"encoding/binary"
	"fmt"
	"strconv"
)

// JSON is the LCAF of a JSON document beside an address (RFC 8060 section 5.4).
// The document is not looked into.
//
//	 0                   1                   2                   3
//	 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//	+-------------------------------+---------------+---------------+
//	|          AFI = 16387          |     Rsvd1     |     Flags     |
//	+---------------+-------------+-+---------------+---------------+
//	|   Type = 14   |    Rsvd2    |B|            Length             |
//	+---------------+-------------+-+-------------------------------+
//	|          JSON length          |  JSON binary/text encoding ...|
//	+-------------------------------+-------------------------------+
//	|              AFI              |     Optional Address  ...     |
//	+-------------------------------+-------------------------------+
type JSON struct {
	Binary   bool // B: not text
	Document []byte
	Address  Address
}

// Decode reads the payload of an LCAF of type LCAFJSON, which it borrows.
// Octets after the address are ignored.
func (j *JSON) Decode(l LCAF) error {
	c := lcafCursor(l, LCAFJSON)
	*j = JSON{Binary: l.Rsvd2&1 != 0, Document: c.take(int(c.u16("json_length")), "json"), Address: c.address("address")}
	return c.err
}

// AppendBinary appends the LCAF with its AFI. It fails with ErrInvalid for a
// document that is too long.
func (j JSON) AppendBinary(b []byte) ([]byte, error) {
	if len(j.Document) > 0xffff {
		return b, fmt.Errorf("%v: %w: document of %d octets", LCAFJSON, ErrInvalid, len(j.Document))
	}
	return appendLCAF(b, LCAFJSON, bit(j.Binary, 1), func(b []byte) []byte {
		b = binary.BigEndian.AppendUint16(b, uint16(len(j.Document)))
		b = append(b, j.Document...)
		return append(b, j.Address.Bytes()...)
	})
}

// String returns "json-data-model("{}", address)", the document quoted, as it
// is the sender's, or in hex if it is binary.
func (j JSON) String() string {
	document := hexText(j.Document)
	if !j.Binary {
		document = strconv.Quote(string(j.Document))
	}
	return lcafText(LCAFJSON, document, inside(j.Address))
}
