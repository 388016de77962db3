package wire

import (
	"encoding/binary"
	"fmt"

	"github.com/eidolon-lisp/eidolon/mapping"
)

// The LISP-SEC authentication data (RFC 9303 section 6) that ECM and MapReply
// carry as octets. What is computed over it is in mapping/auth.

// securityLISPSEC is the only authentication data type of both registries (RFC
// 9303 sections 8.1 and 8.2).
const securityLISPSEC = 1

// WrappedKeySize is the size of a one-time key on the wire: the preamble and
// the 128 bits of the key, wrapped or plain.
const WrappedKeySize = 8 + 16

// Sizes of the parts of the authentication data.
const (
	otkHeader     = 8                          // AD Type to OTK Wrapping ID
	otkSize       = otkHeader + WrappedKeySize // where the EID-AD of an ECM begins
	eidAuthHeader = 4                          // EID-AD Length and KDF ID
	pktAuthHeader = 4                          // PKT-AD Length and PKT HMAC ID
)

// ECMSecurity is the authentication data of an ECM (RFC 9303 section 6.1). An
// ITR sends the EID-AD empty: it says the KDF alone, and the map-server
// fills it.
//
//	 0                   1                   2                   3
//	 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//	+---------------+---------------+-------------------------------+
//	|  AD Type = 1  |  Unassigned   |       Requested HMAC ID       |
//	+---------------+---------------+---------------+---------------+
//	|          OTK Length           |    Key ID     |OTK Wrapping ID|
//	+-------------------------------+---------------+---------------+
//	|       One-Time-Key Preamble, 64 bits; One-Time-Key, 128 bits  |
//	+-------------------------------+-------------------------------+
//	|                   EID-AD, see EIDAuth  ...                    |
//	+---------------------------------------------------------------+
type ECMSecurity struct {
	RequestedHMAC uint16
	KeyID         uint8 // of the key that the one-time key is wrapped with
	Wrapping      uint8
	// Key is the preamble and the one-time key.
	Key [WrappedKeySize]byte
	// EIDAuth is the EID-AD from its length on, which EIDAuth decodes: it is
	// passed on octet for octet.
	EIDAuth []byte
}

// Decode reads the SecurityData of an ECM, which s then borrows.
func (s *ECMSecurity) Decode(b []byte) error {
	*s = ECMSecurity{}
	n, err := ecmSecuritySize(b)
	if err != nil {
		return &DecodeError{Message: "ecm", Field: "security_data", Err: err}
	}
	s.RequestedHMAC = binary.BigEndian.Uint16(b[2:])
	s.KeyID, s.Wrapping = b[6], b[7]
	s.Key = [WrappedKeySize]byte(b[otkHeader:])
	s.EIDAuth = b[otkSize:n:n]
	return nil
}

// AppendBinary appends the authentication data. It fails with ErrInvalid when
// the EIDAuth is not as long as it says.
func (s *ECMSecurity) AppendBinary(b []byte) ([]byte, error) {
	if n, err := eidAuthSize(s.EIDAuth); err != nil || n != len(s.EIDAuth) {
		return b, fmt.Errorf("ecm security data: %w: EID-AD of %d octets is not what it says", ErrInvalid, len(s.EIDAuth))
	}
	b = append(b, securityLISPSEC, 0)
	b = binary.BigEndian.AppendUint16(b, s.RequestedHMAC)
	b = append(b, 0, WrappedKeySize, s.KeyID, s.Wrapping)
	b = append(b, s.Key[:]...)
	return append(b, s.EIDAuth...), nil
}

// EIDAuth is the EID authentication data (EID-AD) in which a map-server says
// which EID-prefixes may be answered for (RFC 9303 sections 6.1 and 6.7.1).
//
//	 0                   1                   2                   3
//	 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//	+-------------------------------+-------------------------------+
//	|         EID-AD Length         |            KDF ID             |
//	+---------------+-+-------------+-------------------------------+
//	| Record Count  |E| Unassigned  |          EID HMAC ID          | \
//	+---------------+-+-------------+-------------------------------+  > filled
//	|  Unassigned   | EID mask-len  |            EID-AFI            |  | by the
//	+---------------+---------------+-------------------------------+  | map-
//	|                       EID-Prefix  ...                         |  | server
//	+---------------------------------------------------------------+  |
//	|                        EID HMAC  ...                          | /
//	+---------------------------------------------------------------+
type EIDAuth struct {
	KDF uint16
	// Filled: a map-server has filled what follows. An ITR sends none of it.
	Filled   bool
	CantSign bool // E: an ETR of the EID-prefix can't sign
	HMACID   uint16
	// Prefixes has at most MaxRecords entries.
	Prefixes []EIDAuthPrefix
	// HMAC is the authentication code, not yet verified.
	HMAC []byte
}

// EIDAuthPrefix is an EID-prefix of an EID-AD.
type EIDAuthPrefix struct {
	MaskLen uint8
	EID     Address
}

// NewEIDAuthPrefix returns the entry for e.
func NewEIDAuthPrefix(e mapping.EID) EIDAuthPrefix {
	a, n := PrefixAddress(e)
	return EIDAuthPrefix{MaskLen: n, EID: a}
}

// Decode reads an EID-AD, which e then borrows, and nothing after it.
func (e *EIDAuth) Decode(b []byte) error {
	*e = EIDAuth{Prefixes: e.Prefixes[:0]}
	n, err := eidAuthSize(b)
	if err != nil {
		return &DecodeError{Message: "eid-ad", Field: "length", Err: err}
	}
	c := cursor{msg: "eid-ad", b: b[:n], off: 2}
	e.KDF = c.u16("kdf_id")
	if c.left() == 0 {
		return nil
	}
	e.Filled = true
	h := c.take(2, "record_count")
	e.HMACID = c.u16("eid_hmac_id")
	if c.err != nil {
		return c.err
	}
	e.CantSign = h[1]&0x80 != 0
	for i := range int(h[0]) {
		c.u8("unassigned")
		p := EIDAuthPrefix{MaskLen: c.u8("eid_mask_len")}
		p.EID = c.prefix("eid", p.MaskLen)
		if c.err != nil {
			c.within(fmt.Sprintf("record %d", i))
			return c.err
		}
		e.Prefixes = append(e.Prefixes, p)
	}
	e.HMAC = c.take(c.left(), "eid_hmac")
	return c.err
}

// AppendBinary appends the EID-AD. It fails with ErrInvalid for more than
// MaxRecords prefixes, with ErrTooLarge for what its length can't say.
func (e *EIDAuth) AppendBinary(b []byte) ([]byte, error) {
	at := len(b)
	if len(e.Prefixes) > MaxRecords {
		return b, fmt.Errorf("eid-ad: %w: %d prefixes, at most %d are possible", ErrInvalid, len(e.Prefixes), MaxRecords)
	}
	b = append(b, 0, 0)
	b = binary.BigEndian.AppendUint16(b, e.KDF)
	if e.Filled {
		b = append(b, uint8(len(e.Prefixes)), bit(e.CantSign, 0x80))
		b = binary.BigEndian.AppendUint16(b, e.HMACID)
		for _, p := range e.Prefixes {
			b = append(b, 0, p.MaskLen)
			b = append(b, p.EID.Bytes()...)
		}
		b = append(b, e.HMAC...)
	}
	if len(b)-at > MaxMessage {
		return b[:at], fmt.Errorf("eid-ad: %w", ErrTooLarge)
	}
	binary.BigEndian.PutUint16(b[at:], uint16(len(b)-at))
	return b, nil
}

// eidAuthSize returns how many octets of b the EID-AD takes.
func eidAuthSize(b []byte) (int, error) {
	if len(b) < eidAuthHeader {
		return 0, ErrTruncated
	}
	n := int(binary.BigEndian.Uint16(b))
	switch {
	case n < eidAuthHeader:
		return 0, fmt.Errorf("%w of the EID authentication data: %d", ErrBadLength, n)
	case n > len(b):
		return 0, ErrTruncated
	}
	return n, nil
}

// ecmSecuritySize returns how many octets of b the authentication data of an
// ECM takes. There is no length of the whole, so that of an unknown type is
// not known.
func ecmSecuritySize(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, ErrTruncated
	}
	if b[0] != securityLISPSEC {
		return 0, fmt.Errorf("%w %d", ErrUnknownSecurity, b[0])
	}
	if len(b) < otkSize {
		return 0, ErrTruncated
	}
	// The text makes the length 24, preamble and key; the figure 28, with the
	// four octets before them. 24 octets follow in both readings.
	if n := binary.BigEndian.Uint16(b[4:]); n != WrappedKeySize && n != WrappedKeySize+4 {
		return 0, fmt.Errorf("%w of the one-time key: %d", ErrBadLength, n)
	}
	n, err := eidAuthSize(b[otkSize:])
	return otkSize + n, err
}

// ReplySecurity is the authentication data of a Map-Reply (RFC 9303 section
// 6.2). PKT-AD Length counts the PKT-AD from itself on, as EID-AD Length does.
//
//	 0                   1                   2                   3
//	 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//	+---------------+-----------------------------------------------+
//	|  AD Type = 1  |                  Unassigned                   |
//	+---------------+-----------------------------------------------+
//	|               EID-AD of the ECM, see EIDAuth  ...             |
//	+-------------------------------+-------------------------------+
//	|         PKT-AD Length         |          PKT HMAC ID          |
//	+-------------------------------+-------------------------------+
//	|                        PKT HMAC  ...                          |
//	+---------------------------------------------------------------+
type ReplySecurity struct {
	// EIDAuth is the EID-AD from its length on, which EIDAuth decodes.
	EIDAuth []byte
	HMACID  uint16
	// HMAC is the authentication code over the Map-Reply.
	HMAC []byte
}

// Decode reads the SecurityData of a Map-Reply, which s then borrows. Octets
// after it are ignored. Authentication data of another type fails with
// ErrUnknownSecurity.
func (s *ReplySecurity) Decode(b []byte) error {
	*s = ReplySecurity{}
	c := cursor{msg: "map-reply security data", b: b}
	h := c.take(securityHeader, "ad_type")
	if c.err != nil {
		return c.err
	}
	if h[0] != securityLISPSEC {
		c.failAt(0, "ad_type", fmt.Errorf("%w %d", ErrUnknownSecurity, h[0]))
		return c.err
	}
	n, err := eidAuthSize(b[c.off:])
	if err != nil {
		c.fail("eid_ad", err)
	}
	s.EIDAuth = c.take(n, "eid_ad")
	at := c.off
	n = int(c.u16("pkt_ad_length"))
	s.HMACID = c.u16("pkt_hmac_id")
	if c.err == nil && n < pktAuthHeader {
		c.failAt(at, "pkt_ad_length", fmt.Errorf("%w: %d", ErrBadLength, n))
	}
	s.HMAC = c.take(n-pktAuthHeader, "pkt_hmac")
	return c.err
}

// AppendBinary appends the authentication data. It fails with ErrInvalid when
// the EIDAuth is not as long as it says, or the HMAC longer than any is.
func (s *ReplySecurity) AppendBinary(b []byte) ([]byte, error) {
	if n, err := eidAuthSize(s.EIDAuth); err != nil || n != len(s.EIDAuth) || len(s.HMAC) > MaxMessage {
		return b, fmt.Errorf("map-reply security data: %w: EID-AD of %d octets, HMAC of %d", ErrInvalid, len(s.EIDAuth), len(s.HMAC))
	}
	b = append(b, securityLISPSEC, 0, 0, 0)
	b = append(b, s.EIDAuth...)
	b = binary.BigEndian.AppendUint16(b, uint16(pktAuthHeader+len(s.HMAC)))
	b = binary.BigEndian.AppendUint16(b, s.HMACID)
	return append(b, s.HMAC...), nil
}
