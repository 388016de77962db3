package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// LCAFType is the type of a LISP Canonical Address Format (RFC 8060).
type LCAFType uint8

// The types of RFC 8060 and RFC 9306.
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

// lcafKind is what is known of one type.
type lcafKind struct {
	name string
	// eid and rloc: it may be an EID, or a locator.
	eid, rloc bool
	// check decodes, for the error alone; it allocates nothing.
	check func(LCAF) error
	body  func() lcafBody
}

// lcafBody is what the payload of a type says.
type lcafBody interface {
	Decode(LCAF) error
	AppendBinary([]byte) ([]byte, error)
	String() string
}

// lcafKinds has the types that are known, the others are zero. It is filled by
// init because decoders of addresses and of LCAFs call each other.
var lcafKinds [256]lcafKind

func init() {
	const eid, rloc, no = true, true, false
	lcafKinds = [256]lcafKind{
		LCAFNull:         {"null-body", no, no, func(l LCAF) error { return new(NullBody).Decode(l) }, func() lcafBody { return new(NullBody) }},
		LCAFAFIList:      {"afi-list", eid, rloc, func(l LCAF) error { return new(AFIList).Decode(l) }, func() lcafBody { return new(AFIList) }},
		LCAFInstanceID:   {"instance-id", eid, rloc, func(l LCAF) error { return new(InstanceID).Decode(l) }, func() lcafBody { return new(InstanceID) }},
		LCAFASNumber:     {"as-number", eid, rloc, func(l LCAF) error { return new(ASNumber).Decode(l) }, func() lcafBody { return new(ASNumber) }},
		LCAFAppData:      {"application-data", eid, rloc, func(l LCAF) error { return new(AppData).Decode(l) }, func() lcafBody { return new(AppData) }},
		LCAFGeo:          {"geo-coordinates", eid, rloc, func(l LCAF) error { return new(Geo).Decode(l) }, func() lcafBody { return new(Geo) }},
		LCAFOpaqueKey:    {"opaque-key", eid, no, func(l LCAF) error { return new(OpaqueKey).Decode(l) }, func() lcafBody { return new(OpaqueKey) }},
		LCAFNAT:          {"nat-traversal", no, no, func(l LCAF) error { return new(NAT).Decode(l) }, func() lcafBody { return new(NAT) }},
		LCAFNonceLocator: {"nonce-locator", no, rloc, func(l LCAF) error { return new(NonceLocator).Decode(l) }, func() lcafBody { return new(NonceLocator) }},
		LCAFMulticast:    {"multicast-info", eid, no, func(l LCAF) error { return new(Multicast).Decode(l) }, func() lcafBody { return new(Multicast) }},
		LCAFELP:          {"explicit-locator-path", no, rloc, func(l LCAF) error { return new(ELP).Decode(l) }, func() lcafBody { return new(ELP) }},
		LCAFSecurityKey:  {"security-key", eid, rloc, func(l LCAF) error { return new(SecurityKey).Decode(l) }, func() lcafBody { return new(SecurityKey) }},
		LCAFSourceDest:   {"source-dest-key", eid, no, func(l LCAF) error { return new(SourceDest).Decode(l) }, func() lcafBody { return new(SourceDest) }},
		LCAFRLE:          {"replication-list-entry", no, rloc, func(l LCAF) error { return new(RLE).Decode(l) }, func() lcafBody { return new(RLE) }},
		LCAFJSON:         {"json-data-model", eid, rloc, func(l LCAF) error { return new(JSON).Decode(l) }, func() lcafBody { return new(JSON) }},
		LCAFKeyValue:     {"key-value-address-pair", eid, rloc, func(l LCAF) error { return new(KeyValue).Decode(l) }, func() lcafBody { return new(KeyValue) }},
		LCAFEncap:        {"encapsulation-format", no, rloc, func(l LCAF) error { return new(EncapFormat).Decode(l) }, func() lcafBody { return new(EncapFormat) }},
		LCAFVendor:       {"vendor-specific", eid, rloc, checkVendor, func() lcafBody { return new(Vendor) }},
	}
}

// String returns the name of the type, such as "instance-id".
func (t LCAFType) String() string {
	if k := &lcafKinds[t]; k.name != "" {
		return k.name
	}
	return fmt.Sprintf("lcaf-type-%d", uint8(t))
}

// LCAF is a LISP Canonical Address Format (RFC 8060 section 3), its payload
// not looked into: that is what InstanceID, AFIList and the other types do.
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

	depth int // how many LCAFs are around it
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
	l := LCAF{Type: LCAFType(b[4]), Rsvd2: b[5], Payload: b[lcafHeader:n:n], depth: depth}
	check := lcafKinds[l.Type].check
	if check == nil {
		return n, 0, nil
	}
	switch e := check(l).(type) {
	case nil:
		return n, 0, nil
	case *DecodeError:
		at, err = lcafHeader+e.Offset, e.Err
	default:
		at, err = lcafHeader, e
	}
	if errors.Is(err, ErrTruncated) {
		err = fmt.Errorf("%w of %v", ErrBadLength, l.Type)
	}
	return 0, at, err
}

// lcafCursor begins to decode the payload of an LCAF of type t.
func lcafCursor(l LCAF, t LCAFType) cursor {
	c := cursor{msg: t.String(), b: l.Payload, depth: l.depth + 1}
	if l.Type != t {
		c.fail("lcaf_type", fmt.Errorf("%w: %v", ErrUnknownType, l.Type))
	}
	return c
}
