package wire

import (
	"encoding/binary"
	"fmt"
)

// OpaqueKey is the LCAF of a lookup key that has a meaning for its users alone
// (RFC 8060 section 5.2).
//
//	 0                   1                   2                   3
//	 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//	+-------------------------------+---------------+---------------+
//	|          AFI = 16387          |     Rsvd1     |     Flags     |
//	+---------------+---------------+---------------+---------------+
//	|   Type = 6    |     Rsvd2     |            Length             |
//	+---------------+---------------+---------------+---------------+
//	| Key Field Num |      Key Wildcard Fields      |    Key  ...
//	+---------------+-------------------------------+---------------+
type OpaqueKey struct {
	// Fields is the number of fields of equal width in Key, 1 to 16; the wire
	// has one less.
	Fields int
	// Wildcards has a bit for each field that may have any value, the lowest
	// for the first.
	Wildcards uint16
	Key       []byte
}

const maxKeyFields = 16

// Decode reads the payload of an LCAF of type LCAFOpaqueKey, which it borrows.
func (k *OpaqueKey) Decode(l LCAF) error {
	c := lcafCursor(l, LCAFOpaqueKey)
	*k = OpaqueKey{Fields: int(c.u8("key_field_num")) + 1, Wildcards: c.u16("key_wildcard_fields")}
	if k.Fields > maxKeyFields {
		c.failAt(0, "key_field_num", fmt.Errorf("%w: %d fields, at most %d", ErrBadValue, k.Fields, maxKeyFields))
	}
	k.Key = c.take(c.left(), "key")
	return c.err
}

// AppendBinary appends the LCAF with its AFI. It fails with ErrInvalid when
// Fields is out of range.
func (k OpaqueKey) AppendBinary(b []byte) ([]byte, error) {
	if k.Fields < 1 || k.Fields > maxKeyFields {
		return b, fmt.Errorf("%v: %w: %d fields, expected 1 to %d", LCAFOpaqueKey, ErrInvalid, k.Fields, maxKeyFields)
	}
	return appendLCAF(b, LCAFOpaqueKey, 0, func(b []byte) []byte {
		b = binary.BigEndian.AppendUint16(append(b, byte(k.Fields-1)), k.Wildcards)
		return append(b, k.Key...)
	})
}

// String returns "opaque-key(2 fields, wildcards 0x1, 0a0b0c0d)".
func (k OpaqueKey) String() string {
	return lcafText(LCAFOpaqueKey, fmt.Sprintf("%d fields", k.Fields), fmt.Sprintf("wildcards %#x", k.Wildcards), hexText(k.Key))
}
