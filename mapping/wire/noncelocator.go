package wire

import (
	"encoding/binary"
	"fmt"
)

// NonceLocator is the LCAF of a locator that wants to see a nonce in the data
// packets that it gets (RFC 8060 section 5.3).
//
//	 0                   1                   2                   3
//	 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//	+-------------------------------+---------------+---------------+
//	|          AFI = 16387          |     Rsvd1     |     Flags     |
//	+---------------+---------------+---------------+---------------+
//	|   Type = 8    |     Rsvd2     |            Length             |
//	+---------------+---------------+---------------+---------------+
//	|   Reserved    |                     Nonce                     |
//	+---------------+---------------+-------------------------------+
//	|              AFI              |          Address  ...
//	+-------------------------------+-------------------------------+
type NonceLocator struct {
	Nonce   uint32 // 24 bits
	Address Address
}

// Decode reads the payload of an LCAF of type LCAFNonceLocator, which it
// borrows. Octets after the address are ignored.
func (n *NonceLocator) Decode(l LCAF) error {
	c := lcafCursor(l, LCAFNonceLocator)
	*n = NonceLocator{Nonce: c.u32("nonce") & 0xffffff, Address: c.address("address")}
	return c.err
}

// AppendBinary appends the LCAF with its AFI. It fails with ErrInvalid when the
// nonce has more than 24 bits.
func (n NonceLocator) AppendBinary(b []byte) ([]byte, error) {
	if n.Nonce > 0xffffff {
		return b, fmt.Errorf("%v: %w: nonce %#x has more than 24 bits", LCAFNonceLocator, ErrInvalid, n.Nonce)
	}
	return appendLCAF(b, LCAFNonceLocator, 0, func(b []byte) []byte {
		b = binary.BigEndian.AppendUint32(b, n.Nonce)
		return append(b, n.Address.Bytes()...)
	})
}

// String returns "nonce-locator(0x123456, address)".
func (n NonceLocator) String() string {
	return lcafText(LCAFNonceLocator, fmt.Sprintf("%#x", n.Nonce), inside(n.Address))
}
