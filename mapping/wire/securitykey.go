package wire

import (
	"encoding/binary"
	"fmt"
	"iter"
)

// SecurityKey is the LCAF of keys that belong to a locator (RFC 8060 section
// 4.7; RFC 8061 says what they are for a data plane, RFC 8111 for DDT).
//
//	 0                   1                   2                   3
//	 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//	+-------------------------------+---------------+---------------+
//	|          AFI = 16387          |     Rsvd1     |     Flags     |
//	+---------------+---------------+---------------+---------------+
//	|   Type = 11   |     Rsvd2     |            Length             |
//	+---------------+---------------+---------------+-------------+-+
//	|   Key Count   |     Rsvd3     | Key Algorithm |    Rsvd4    |R|
//	+---------------+---------------+---------------+-------------+-+
//	|          Key Length           |       Key Material  ...       |
//	+-------------------------------+-------------------------------+
//	|              ...              |       Key Material  ...       |
//	+-------------------------------+-------------------------------+
//	|              AFI              |       Locator Address  ...    |
//	+-------------------------------+-------------------------------+
type SecurityKey struct {
	Algorithm uint8
	Revoked   bool // R
	Locator   Address

	n    int
	keys []byte // checked
}

// SetKeys replaces the keys, which are copied. It fails with ErrInvalid for
// more than 255 keys and for a key of more than 65535 octets.
func (k *SecurityKey) SetKeys(keys ...[]byte) error {
	if len(keys) > 0xff {
		return fmt.Errorf("%v: %w: %d keys", LCAFSecurityKey, ErrInvalid, len(keys))
	}
	var b []byte
	for _, key := range keys {
		if len(key) > 0xffff {
			return fmt.Errorf("%v: %w: key of %d octets", LCAFSecurityKey, ErrInvalid, len(key))
		}
		b = append(binary.BigEndian.AppendUint16(b, uint16(len(key))), key...)
	}
	k.n, k.keys = len(keys), b
	return nil
}

// Keys walks the key material; it borrows what k borrows.
func (k SecurityKey) Keys() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		c := cursor{b: k.keys}
		for range k.n {
			if key := c.take(int(c.u16("key_length")), "key"); !yield(key) {
				return
			}
		}
	}
}

// Decode reads the payload of an LCAF of type LCAFSecurityKey, which it
// borrows. Octets after the address are ignored.
func (k *SecurityKey) Decode(l LCAF) error {
	c := lcafCursor(l, LCAFSecurityKey)
	n := c.u8("key_count")
	c.u8("reserved")
	*k = SecurityKey{Algorithm: c.u8("key_algorithm"), Revoked: c.u8("flags")&1 != 0, n: int(n)}
	from := c.off
	for range n {
		c.take(int(c.u16("key_length")), "key")
	}
	k.keys = l.Payload[from:c.off]
	k.Locator = c.address("locator")
	return c.err
}

// AppendBinary appends the LCAF with its AFI.
func (k SecurityKey) AppendBinary(b []byte) ([]byte, error) {
	return appendLCAF(b, LCAFSecurityKey, 0, func(b []byte) []byte {
		b = append(b, byte(k.n), 0, k.Algorithm, bit(k.Revoked, 1))
		b = append(b, k.keys...)
		return append(b, k.Locator.Bytes()...)
	})
}

// String returns "security-key(algorithm 5, keys of 32 32 octets, revoked,
// address)": sizes, not the keys.
func (k SecurityKey) String() string {
	sizes, revoked := "", ""
	for key := range k.Keys() {
		sizes += fmt.Sprintf("%d ", len(key))
	}
	if k.n > 0 {
		sizes = "keys of " + sizes + "octets"
	}
	if k.Revoked {
		revoked = "revoked"
	}
	return lcafText(LCAFSecurityKey, fmt.Sprintf("algorithm %d", k.Algorithm), sizes, revoked, inside(k.Locator))
}
