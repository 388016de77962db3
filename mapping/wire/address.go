package wire

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"

	"github.com/eidolon-lisp/eidolon/mapping"
)

// AFI is an address family number of the IANA registry.
type AFI uint16

// The address families that LISP control messages use (RFC 9301 section 5.1,
// RFC 8060, RFC 9735). AFIEUI48 is read like AFIMAC, which is the one we send.
const (
	AFINone  AFI = 0
	AFIIPv4  AFI = 1
	AFIIPv6  AFI = 2
	AFIMAC   AFI = 6
	AFIName  AFI = 17
	AFILCAF  AFI = 16387
	AFIEUI48 AFI = 16389
)

// String returns the name of the family, such as "ipv4".
func (a AFI) String() string {
	switch a {
	case AFINone:
		return "none"
	case AFIIPv4:
		return "ipv4"
	case AFIIPv6:
		return "ipv6"
	case AFIMAC:
		return "mac"
	case AFIName:
		return "distinguished-name"
	case AFILCAF:
		return "lcaf"
	case AFIEUI48:
		return "eui-48"
	}
	return fmt.Sprintf("afi-%d", uint16(a))
}

// MaxDepth is how many LCAFs may stand one inside the other. Real addresses
// use two or three (an Instance-ID around a list of addresses with a name).
const MaxDepth = 4

// Address is an address of any family: a view of its two octets of AFI and the
// octets that follow, checked when it was decoded. The zero Address is AFI 0,
// no address. Its text form, for people, is String.
//
//	 0                   1                   2                   3
//	 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//	+-------------------------------+-------------------------------+
//	|              AFI              |          Address  ...
//	+-------------------------------+-------------------------------+
type Address struct {
	b []byte // nil or AFI and address
}

// DecodeAddress reads the address at the start of b and says how many octets
// it takes. The Address borrows b. Errors are *DecodeError.
func DecodeAddress(b []byte) (a Address, n int, err error) {
	c := cursor{msg: "address", b: b}
	a = c.address("address")
	return a, c.off, c.err
}

// checkAddress returns the length of the address that b begins with, or an
// error and the offset where it is.
func checkAddress(b []byte, depth int) (n, at int, err error) {
	if len(b) < 2 {
		return 0, 0, ErrTruncated
	}
	switch afi := AFI(binary.BigEndian.Uint16(b)); afi {
	case AFINone:
		n = 2
	case AFIIPv4:
		n = 2 + 4
	case AFIIPv6:
		n = 2 + 16
	case AFIMAC, AFIEUI48:
		n = 2 + 6
	case AFIName:
		// RFC 9735 section 3: US-ASCII and a NUL; the empty name is legal.
		end := bytes.IndexByte(b[2:], 0)
		if end < 0 {
			return 0, 2, ErrTruncated
		}
		n = 2 + end + 1
	case AFILCAF:
		return checkLCAF(b, depth)
	default:
		return 0, 0, fmt.Errorf("%w %d", ErrUnknownAFI, uint16(afi))
	}
	if len(b) < n {
		return 0, 2, ErrTruncated
	}
	return n, 0, nil
}

// IPAddress returns the address of a plain IPv4 or IPv6 address. An
// IPv4-mapped IPv6 address stays IPv6; a zone is left out; the zero Addr
// gives the zero Address.
func IPAddress(ip netip.Addr) Address {
	if !ip.IsValid() {
		return Address{}
	}
	return Address{appendIP(make([]byte, 0, 18), ip)}
}

func appendIP(b []byte, ip netip.Addr) []byte {
	if ip.Is4() {
		v := ip.As4()
		return append(append(b, 0, byte(AFIIPv4)), v[:]...)
	}
	v := ip.As16()
	return append(append(b, 0, byte(AFIIPv6)), v[:]...)
}

// NamedAddress returns the list of an address and its name (RFC 8060 section
// 4.10.3, RFC 9735 section 9). The name is US-ASCII; it ends before its first
// NUL, if it has one.
func NamedAddress(ip netip.Addr, name string) Address {
	name, _, _ = strings.Cut(name, "\x00")
	n := append(append([]byte{0, byte(AFIName)}, name...), 0)
	b, _ := NewAFIList(IPAddress(ip), Address{n}).AppendBinary(nil)
	return Address{b}
}

// EIDAddress returns the address of ip in an instance: in an Instance-ID LCAF,
// or as IPAddress does when iid is 0.
func EIDAddress(iid uint32, ip netip.Addr) Address {
	if iid == 0 {
		return IPAddress(ip)
	}
	return Address{appendEID(make([]byte, 0, lcafHeader+4+18), iid, ip)}
}

// appendEID appends what EIDAddress returns.
func appendEID(b []byte, iid uint32, ip netip.Addr) []byte {
	if iid != 0 {
		b = append(b, byte(AFILCAF>>8), byte(AFILCAF&0xff), 0, 0, byte(LCAFInstanceID), 0, 0, uint8(4+2+ip.BitLen()/8))
		b = binary.BigEndian.AppendUint32(b, iid)
	}
	return appendIP(b, ip)
}

// PrefixAddress returns the address and the mask length that stand for e in a
// record: a plain address, or LCAFs around it when e has an instance or a
// source. The mask length is that of the destination.
func PrefixAddress(e mapping.EID) (a Address, maskLen uint8) {
	maskLen = uint8(max(e.Prefix.Bits(), 0))
	if !e.Source.IsValid() {
		return EIDAddress(e.IID, e.Prefix.Addr()), maskLen
	}
	sd := SourceDest{
		SourceMaskLen: uint8(e.Source.Bits()), DestMaskLen: maskLen,
		Source: IPAddress(e.Source.Addr()), Dest: IPAddress(e.Prefix.Addr()),
	}
	b, _ := sd.AppendBinary(nil)
	if e.IID != 0 {
		b, _ = InstanceID{IID: e.IID, Address: Address{b}}.AppendBinary(nil)
	}
	return Address{b}, maskLen
}

// AFI returns the address family.
func (a Address) AFI() AFI {
	if len(a.b) < 2 {
		return AFINone
	}
	return AFI(binary.BigEndian.Uint16(a.b))
}

// IsZero reports whether a is no address: AFI 0.
func (a Address) IsZero() bool { return a.AFI() == AFINone }

// IP returns a plain IPv4 or IPv6 address; ok is false for any other family.
func (a Address) IP() (ip netip.Addr, ok bool) {
	switch a.AFI() {
	case AFIIPv4:
		return netip.AddrFrom4([4]byte(a.b[2:])), true
	case AFIIPv6:
		return netip.AddrFrom16([16]byte(a.b[2:])), true
	}
	return netip.Addr{}, false
}

// MAC returns a MAC address of either family that carries one.
func (a Address) MAC() (mac [6]byte, ok bool) {
	switch a.AFI() {
	case AFIMAC, AFIEUI48:
		return [6]byte(a.b[2:]), true
	}
	return mac, false
}

// Name returns a distinguished name without its NUL (RFC 9735). The octets
// are the sender's: they may be other than printable ASCII.
func (a Address) Name() (name string, ok bool) {
	if a.AFI() != AFIName {
		return "", false
	}
	return string(a.b[2 : len(a.b)-1]), true
}

// LCAF returns the header and the payload of an LCAF; ok is false for any
// other family. The payload borrows what a borrows.
func (a Address) LCAF() (l LCAF, ok bool) {
	if a.AFI() != AFILCAF {
		return LCAF{}, false
	}
	return LCAF{Rsvd1: a.b[2], Flags: a.b[3], Type: LCAFType(a.b[4]), Rsvd2: a.b[5], Payload: a.b[lcafHeader:]}, true
}

// Bytes returns the AFI and the address as they are on the wire. It must not
// be changed, and is valid as long as what a borrows.
func (a Address) Bytes() []byte {
	if len(a.b) == 0 {
		return zeroAddress[:]
	}
	return a.b
}

var zeroAddress [2]byte

// AppendBinary appends AFI and address. The error is always nil.
func (a Address) AppendBinary(b []byte) ([]byte, error) { return append(b, a.Bytes()...), nil }

// EID returns the EID that a and a record's mask length stand for, bits beyond
// the mask cleared: a plain address, one in an Instance-ID, or a
// source/destination key, which carries its own mask lengths (RFC 8060
// sections 4.1 and 4.8). Any other address, an instance-ID over
// mapping.MaxIID and an IPv4-mapped IPv6 address fail with ErrNotIPEID, a mask
// that is too long with ErrBadMaskLen.
func (a Address) EID(maskLen uint8) (mapping.EID, error) {
	iid, inner := uint32(0), a
	if l, ok := inner.LCAF(); ok && l.Type == LCAFInstanceID {
		var i InstanceID
		if err := i.Decode(l); err != nil {
			return mapping.EID{}, err
		}
		iid, inner = i.IID, i.Address
	}
	var source netip.Prefix
	if l, ok := inner.LCAF(); ok && l.Type == LCAFSourceDest {
		var sd SourceDest
		if err := sd.Decode(l); err != nil {
			return mapping.EID{}, err
		}
		src, ok1 := sd.Source.IP()
		dst, ok2 := sd.Dest.IP()
		if !ok1 || !ok2 || src.BitLen() != dst.BitLen() || src.Is4In6() {
			return mapping.EID{}, fmt.Errorf("%w: %v", ErrNotIPEID, a)
		}
		// A source of length 0 is the absence of a source.
		if sd.SourceMaskLen > 0 {
			source, _ = src.Prefix(int(sd.SourceMaskLen))
		}
		inner, maskLen = sd.Dest, sd.DestMaskLen
	}
	ip, ok := inner.IP()
	if !ok {
		return mapping.EID{}, fmt.Errorf("%w: %v", ErrNotIPEID, a)
	}
	if int(maskLen) > ip.BitLen() {
		return mapping.EID{}, fmt.Errorf("%w: %v/%d", ErrBadMaskLen, ip, maskLen)
	}
	e, err := mapping.MakeEID(iid, netip.PrefixFrom(ip, int(maskLen)))
	if err != nil {
		return mapping.EID{}, fmt.Errorf("%w: %w", ErrNotIPEID, err)
	}
	e.Source = source
	return e, nil
}

// RLOC returns the address that packets can be encapsulated to when a is a
// locator: a plain one, or the first one that an LCAF adds something to: an
// AFI-List (with a name, or a place), an AS number, Geo-Coordinates, JSON, an
// Encapsulation Format that includes LISP. ok is false for all others: to use
// them takes more than an address (a path, a nonce, keys, an instance).
func (a Address) RLOC() (ip netip.Addr, ok bool) {
	l, isLCAF := a.LCAF()
	if !isLCAF {
		return a.IP()
	}
	switch l.Type {
	case LCAFAFIList:
		var list AFIList
		if list.Decode(l) != nil {
			return netip.Addr{}, false
		}
		for x := range list.All() {
			if ip, ok = x.RLOC(); ok {
				return ip, true
			}
		}
	case LCAFASNumber:
		var x ASNumber
		if x.Decode(l) == nil {
			return x.Address.RLOC()
		}
	case LCAFGeo:
		var x Geo
		if x.Decode(l) == nil {
			return x.Address.RLOC()
		}
	case LCAFJSON:
		var x JSON
		if x.Decode(l) == nil {
			return x.Address.RLOC()
		}
	case LCAFEncap:
		var x EncapFormat
		if x.Decode(l) == nil && x.Formats&EncapLISP != 0 {
			return x.Address.RLOC()
		}
	}
	return netip.Addr{}, false
}

// IsLocator reports whether a is of a kind that can be a locator, usable or
// not. One that is not, such as an LCAF of an unknown type, is ignored where a
// locator is expected (RFC 9306 section 3).
func (a Address) IsLocator() bool {
	l, ok := a.LCAF()
	return !ok && !a.IsZero() || ok && lcafKinds[l.Type].rloc
}

// checkEID fails for an LCAF that cannot be an EID: the message around it must
// be dropped (RFC 9306 section 3).
func (a Address) checkEID() error {
	l, ok := a.LCAF()
	switch {
	case !ok:
	case l.Type == LCAFInstanceID:
		var i InstanceID
		if i.Decode(l) == nil {
			return i.Address.checkEID()
		}
	case !lcafKinds[l.Type].eid:
		return fmt.Errorf("%w for an EID: %v", ErrUnknownLCAF, l.Type)
	}
	return nil
}

// maskBits returns the largest mask length of a, and false where the family
// sets no bound. A mask belongs to the address inside an Instance-ID; that of a
// name may count its NUL (RFC 9735 section 3).
func (a Address) maskBits() (bits uint8, bounded bool) {
	switch a.AFI() {
	case AFIIPv4:
		return 32, true
	case AFIIPv6:
		return 128, true
	case AFIMAC, AFIEUI48:
		return 48, true
	case AFIName:
		bits := 8 * (len(a.b) - 2)
		return uint8(min(bits, 255)), bits <= 255
	case AFILCAF:
		var i InstanceID
		if l, _ := a.LCAF(); l.Type == LCAFInstanceID && i.Decode(l) == nil {
			return i.Address.maskBits()
		}
	}
	return 0, false
}

// prefix reads the EID that a mask length belongs to.
func (c *cursor) prefix(field string, maskLen uint8) Address {
	off := c.off
	a := c.address(field)
	if bits, bounded := a.maskBits(); bounded && maskLen > bits {
		c.failAt(off, field, fmt.Errorf("%w: %d of %d bits", ErrBadMaskLen, maskLen, bits))
	}
	if err := a.checkEID(); err != nil {
		c.failAt(off, field, err)
	}
	return a
}
