package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// LCAFType is the type of a LISP Canonical Address Format (RFC 8060).
type LCAFType uint8

// The types of RFC 8060 and RFC 9306. This package looks into AFI-List,
// Instance-ID and Source/Dest-Key; all others it carries as they are.
const (
	LCAFNull         LCAFType = 0
	LCAFAFIList      LCAFType = 1
	LCAFInstanceID   LCAFType = 2
	LCAFASNumber     LCAFType = 3
	LCAFAppData      LCAFType = 4
	LCAFGeo          LCAFType = 5
	LCAFOpaqueKey    LCAFType = 6
	LCAFNAT          LCAFType = 7
	LCAFNonceLocator LCAFType = 8
	LCAFMulticast    LCAFType = 9
	LCAFELP          LCAFType = 10
	LCAFSecurityKey  LCAFType = 11
	LCAFSourceDest   LCAFType = 12
	LCAFRLE          LCAFType = 13
	LCAFJSON         LCAFType = 14
	LCAFKeyValue     LCAFType = 15
	LCAFEncap        LCAFType = 16
	LCAFVendor       LCAFType = 255
)

var lcafNames = [...]string{
	LCAFNull:         "null-body",
	LCAFAFIList:      "afi-list",
	LCAFInstanceID:   "instance-id",
	LCAFASNumber:     "as-number",
	LCAFAppData:      "application-data",
	LCAFGeo:          "geo-coordinates",
	LCAFOpaqueKey:    "opaque-key",
	LCAFNAT:          "nat-traversal",
	LCAFNonceLocator: "nonce-locator",
	LCAFMulticast:    "multicast-info",
	LCAFELP:          "explicit-locator-path",
	LCAFSecurityKey:  "security-key",
	LCAFSourceDest:   "source-dest-key",
	LCAFRLE:          "replication-list-entry",
	LCAFJSON:         "json-data-model",
	LCAFKeyValue:     "key-value-address-pair",
	LCAFEncap:        "encapsulation-format",
}

// String returns the name of the type, such as "instance-id".
func (t LCAFType) String() string {
	switch {
	case int(t) < len(lcafNames):
		return lcafNames[t]
	case t == LCAFVendor:
		return "vendor-specific"
	}
	return fmt.Sprintf("lcaf-type-%d", uint8(t))
}

// LCAF is a LISP Canonical Address Format (RFC 8060 section 3), its payload
// not looked into. InstanceID, AFIList and SourceDest decode their types.
//
//	 0                   1                   2                   3
//	 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//	+-------------------------------+---------------+---------------+
//	|          AFI = 16387          |     Rsvd1     |     Flags     |
//	+---------------+---------------+---------------+---------------+
//	|     Type      |     Rsvd2     |            Length             |
//	+---------------+---------------+-------------------------------+
//	|                    Payload, Length octets ...                 |
//	+---------------------------------------------------------------+
type LCAF struct {
	// Rsvd1 and Flags are ignored on receipt and zero in what we originate.
	Rsvd1, Flags uint8
	Type         LCAFType
	// Rsvd2 has a meaning in some types: the mask length of an Instance-ID.
	Rsvd2 uint8
	// Payload is what follows the Length field.
	Payload []byte
}

const lcafHeader = 8

// AppendBinary appends the LCAF with its AFI. It fails with ErrInvalid when
// the payload is longer than its Length field can say.
func (l LCAF) AppendBinary(b []byte) ([]byte, error) {
	if len(l.Payload) > 0xffff {
		return b, fmt.Errorf("%v: %w: payload of %d octets", l.Type, ErrInvalid, len(l.Payload))
	}
	b = append(b, 0x40, 0x03, l.Rsvd1, l.Flags, byte(l.Type), l.Rsvd2)
	b = binary.BigEndian.AppendUint16(b, uint16(len(l.Payload)))
	return append(b, l.Payload...), nil
}

// Address returns the LCAF as an address, after checking the addresses in it
// as DecodeAddress does.
func (l LCAF) Address() (Address, error) {
	b, err := l.AppendBinary(nil)
	if err != nil {
		return Address{}, err
	}
	a, _, err := DecodeAddress(b)
	return a, err
}

// appendLCAF appends an LCAF whose payload is written by body.
func appendLCAF(b []byte, t LCAFType, rsvd2 uint8, body func([]byte) []byte) ([]byte, error) {
	at := len(b)
	b = body(append(b, 0x40, 0x03, 0, 0, byte(t), rsvd2, 0, 0))
	n := len(b) - at - lcafHeader
	if n > 0xffff {
		return b[:at], fmt.Errorf("%v: %w: payload of %d octets", t, ErrInvalid, n)
	}
	binary.BigEndian.PutUint16(b[at+6:], uint16(n))
	return b, nil
}

// checkLCAF is checkAddress for AFI 16387. An address inside that reaches
// beyond its LCAF is a bad length, whatever follows the LCAF.
func checkLCAF(b []byte, depth int) (n, at int, err error) {
	if depth == MaxDepth {
		return 0, 0, ErrTooDeep
	}
	if len(b) < lcafHeader {
		return 0, 2, ErrTruncated
	}
	n = lcafHeader + int(binary.BigEndian.Uint16(b[6:]))
	if len(b) < n {
		return 0, 6, ErrTruncated
	}
	body := b[lcafHeader:n]
	switch LCAFType(b[4]) {
	case LCAFAFIList:
		at, err = checkAFIList(body, depth+1)
	case LCAFInstanceID:
		at, err = checkInstanceID(body, depth+1)
	case LCAFSourceDest:
		at, err = checkSourceDest(body, depth+1)
	}
	if errors.Is(err, ErrTruncated) {
		err = fmt.Errorf("%w of %v", ErrBadLength, LCAFType(b[4]))
	}
	if err != nil {
		return 0, lcafHeader + at, err
	}
	return n, 0, nil
}

// lcafCursor begins to decode the payload of an LCAF of type t.
func lcafCursor(l LCAF, t LCAFType) cursor {
	c := cursor{msg: t.String(), b: l.Payload}
	if l.Type != t {
		c.fail("lcaf_type", fmt.Errorf("%w: %v", ErrUnknownType, l.Type))
	}
	return c
}
