package encap

import (
	"encoding/binary"
	"errors"
	"net/netip"
)

// Port is the UDP destination port of LISP data packets (RFC 9300 section 19.1).
const Port = 4341

// Sizes of the headers that encapsulation adds, in octets (RFC 9300 sections
// 5.1 and 5.2).
const (
	HeaderLen = 8 // the LISP header
	udpLen    = 8
	ipv4Len   = 20
	ipv6Len   = 40

	// Overhead4 and Overhead6 are what encapsulation adds to a packet under an
	// IPv4 and an IPv6 outer header.
	Overhead4 = ipv4Len + udpLen + HeaderLen
	Overhead6 = ipv6Len + udpLen + HeaderLen
)

// Overhead returns how many octets encapsulation toward the locator adds.
func Overhead(rloc netip.Addr) int {
	if rloc.Is4() {
		return Overhead4
	}
	return Overhead6
}

// Bits of the first octet of the LISP header (RFC 9300 section 5.1).
const (
	flagN   = 0x80 // nonce present
	flagL   = 0x40 // locator-status-bits field enabled
	flagE   = 0x20 // echo-nonce request
	flagV   = 0x10 // map-version present
	flagI   = 0x08 // instance-ID present
	maskKey = 0x03 // KK, encryption key-id (RFC 8061 section 9)
)

// Limits of the header's fields.
const (
	maxNonce   = 1<<24 - 1
	maxVersion = 1<<12 - 1
	maxIID     = 1<<24 - 1
)

// Header is the LISP header (RFC 9300 section 5.1):
//
//	 0                   1                   2                   3
//	 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	|N|L|E|V|I|R|K|K|            Nonce/Map-Version                  |
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	|                 Instance ID/Locator-Status-Bits               |
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//
// With V the 24 bits are the source (12) and destination (12) map-version.
// With I the last word is the instance-ID (24) and 8 locator-status-bits.
type Header struct {
	// HasNonce is the N bit; Nonce has 24 bits.
	HasNonce bool
	Nonce    uint32
	// EchoNonce is the E bit; never set without HasNonce.
	EchoNonce bool
	// HasVersions is the V bit; never set together with HasNonce. The versions
	// have 12 bits (RFC 9302).
	HasVersions            bool
	SrcVersion, DstVersion uint16
	// HasInstance is the I bit; IID has 24 bits and is 0 without it.
	HasInstance bool
	IID         uint32
	// HasStatus is the L bit. Status has 32 bits, 8 when HasInstance is set.
	HasStatus bool
	Status    uint32
	// KeyID is KK: 0 when the payload is not encrypted (RFC 8061).
	KeyID uint8
}

// Errors of Header.
var (
	ErrHeaderTruncated = errors.New("encap: LISP header: fewer than 8 octets")
	ErrHeaderField     = errors.New("encap: LISP header: a field is out of range or N and V are both set")
)

// Decode reads the header at the start of b and assigns every field. It keeps
// no reference to b. It fails only with ErrHeaderTruncated.
//
// N wins over V, E without N is ignored, and R is ignored (RFC 9300 section
// 5.3). What a clear bit makes meaningless is left zero.
func (h *Header) Decode(b []byte) error {
	*h = Header{}
	if len(b) < HeaderLen {
		return ErrHeaderTruncated
	}
	first, second := binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:])
	flags := b[0]
	h.KeyID = flags & maskKey
	switch {
	case flags&flagN != 0: // "the N-bit ... MUST treat the field as a nonce" when both are set
		h.HasNonce, h.Nonce, h.EchoNonce = true, first&maxNonce, flags&flagE != 0
	case flags&flagV != 0: // RFC 9302 section 4
		h.HasVersions, h.SrcVersion, h.DstVersion = true, uint16(first>>12&maxVersion), uint16(first&maxVersion)
	}
	h.HasInstance, h.HasStatus = flags&flagI != 0, flags&flagL != 0
	if h.HasInstance { // RFC 9300 section 8
		h.IID = second >> 8
		second &= 0xff
	}
	if h.HasStatus {
		h.Status = second
	}
	return nil
}

// AppendBinary appends the 8 octets of the header to b. It fails with
// ErrHeaderField, and b unchanged, when N and V are both set, E is set without
// N, or a value does not fit its field.
func (h *Header) AppendBinary(b []byte) ([]byte, error) {
	if h.HasNonce && h.HasVersions || h.EchoNonce && !h.HasNonce ||
		h.Nonce > maxNonce || h.SrcVersion > maxVersion || h.DstVersion > maxVersion ||
		h.IID > maxIID || h.HasInstance && h.Status > 0xff || h.KeyID > maskKey {
		return b, ErrHeaderField
	}
	var first, second uint32
	flags := h.KeyID
	if h.HasNonce {
		flags |= flagN
		first = h.Nonce
	}
	if h.EchoNonce {
		flags |= flagE
	}
	if h.HasVersions {
		flags |= flagV
		first = uint32(h.SrcVersion)<<12 | uint32(h.DstVersion)
	}
	if h.HasStatus {
		flags |= flagL
		second = h.Status
	}
	if h.HasInstance {
		flags |= flagI
		second |= h.IID << 8
	}
	b = binary.BigEndian.AppendUint32(b, uint32(flags)<<24|first)
	return binary.BigEndian.AppendUint32(b, second), nil
}

// PutHeader writes to b[:8] the header that Eidolon sends: no nonce, no
// version, no status bits (RFC 9300 section 4.1, use on the public Internet),
// and the I bit with the instance-ID unless that is 0. b must have 8 octets;
// iid must be at most 1<<24-1.
func PutHeader(b []byte, iid uint32) {
	_ = b[HeaderLen-1]
	var flags uint32
	if iid != 0 {
		flags = flagI
	}
	binary.BigEndian.PutUint32(b, flags<<24)
	binary.BigEndian.PutUint32(b[4:], iid<<8)
}

// PutVersions sets in the header that PutHeader wrote to b the V bit and the
// map-versions (RFC 9302 section 4): source version << 12 | destination
// version, 12 bits each.
func PutVersions(b []byte, pair uint32) {
	binary.BigEndian.PutUint32(b, uint32(b[0]|flagV)<<24|pair&maxNonce)
}
