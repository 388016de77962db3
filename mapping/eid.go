package mapping

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// MaxIID is the largest instance-ID. The control plane carries 32 bits
// (RFC 8060 section 4.1), the data header only the low 24 (RFC 9300
// section 8), so Eidolon accepts what both can carry.
const MaxIID = 1<<24 - 1

// EID is an endpoint identifier: a prefix inside an instance. Its text form is
// "[IID]prefix", where "[0]" may be left out, and "[IID]prefix from source"
// when only traffic from a source prefix is meant (RFC 8060 section 4.8).
//
// An EID is comparable and may be a map key. Build one with MakeEID or
// ParseEID, which mask the host bits; the zero EID is not valid.
type EID struct {
	// IID is the instance-ID, 0 to MaxIID.
	IID uint32
	// Prefix is the destination prefix, always masked.
	Prefix netip.Prefix
	// Source restricts the EID to packets from this prefix, always masked and
	// never of length 0. The zero Prefix means any source.
	Source netip.Prefix
}

// ErrBadEID is wrapped by every error that ParseEID and MakeEID return.
var ErrBadEID = errors.New("not an EID")

// MakeEID returns the EID of a prefix in an instance, host bits masked off.
// It fails with ErrBadEID when iid exceeds MaxIID, the prefix is not valid, is
// an IPv4-mapped IPv6 prefix, or has a zone.
func MakeEID(iid uint32, p netip.Prefix) (EID, error) {
	if iid > MaxIID {
		return EID{}, fmt.Errorf("%w: instance-ID %d is over %d, the largest that a data packet can carry", ErrBadEID, iid, MaxIID)
	}
	if !p.IsValid() {
		return EID{}, fmt.Errorf("%w: not a valid prefix", ErrBadEID)
	}
	if p.Addr().Is4In6() {
		return EID{}, fmt.Errorf("%w: %v is an IPv4-mapped IPv6 prefix, write it as IPv4", ErrBadEID, p)
	}
	return EID{IID: iid, Prefix: p.Masked()}, nil
}

// HostEID returns the EID that holds just one address: a /32 or /128.
// IPv4-mapped addresses become IPv4. The address must be valid.
func HostEID(iid uint32, a netip.Addr) EID {
	a = a.Unmap().WithZone("")
	return EID{IID: iid, Prefix: netip.PrefixFrom(a, a.BitLen())}
}

// ParseEID reads the text form "[IID]prefix" or "[IID]prefix from source".
// A bare address stands for its /32 or /128. Errors wrap ErrBadEID and say
// what was expected.
func ParseEID(s string) (EID, error) {
	text, iid := strings.TrimSpace(s), uint32(0)
	if rest, ok := strings.CutPrefix(text, "["); ok {
		num, after, ok := strings.Cut(rest, "]")
		if !ok {
			return EID{}, fmt.Errorf("%w: %q has no closing bracket, expected [IID]prefix such as [7]10.1.0.0/16", ErrBadEID, s)
		}
		n, err := strconv.ParseUint(num, 10, 32)
		if err != nil || n > MaxIID {
			return EID{}, fmt.Errorf("%w: %q: instance-ID must be a number from 0 to %d", ErrBadEID, s, MaxIID)
		}
		text, iid = after, uint32(n)
	}
	dst, src, sourced := strings.Cut(text, " from ")
	p, err := parsePrefix(dst)
	if err != nil {
		return EID{}, fmt.Errorf("%w: %q: expected an IPv4 or IPv6 prefix or address such as [7]10.1.0.0/16", ErrBadEID, s)
	}
	e, err := MakeEID(iid, p)
	if err != nil {
		return EID{}, err
	}
	if sourced {
		sp, err := parsePrefix(src)
		if err != nil || sp.Addr().Is4() != p.Addr().Is4() {
			return EID{}, fmt.Errorf("%w: %q: the source must be a prefix of the same family as the destination", ErrBadEID, s)
		}
		// A source of length 0 is any source, of which there is one form only.
		if sp.Bits() > 0 {
			e.Source = sp.Masked()
		}
	}
	return e, nil
}

// MustParseEID is ParseEID for constants and tests; it panics on an error.
func MustParseEID(s string) EID {
	e, err := ParseEID(s)
	if err != nil {
		panic(err)
	}
	return e
}

func parsePrefix(s string) (netip.Prefix, error) {
	s = strings.TrimSpace(s)
	if strings.Contains(s, "/") {
		return netip.ParsePrefix(s)
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Prefix{}, err
	}
	if a.Zone() != "" {
		return netip.Prefix{}, errors.New("zones are not part of an EID")
	}
	return netip.PrefixFrom(a, a.BitLen()), nil
}

// IsValid reports whether e holds a prefix; the zero EID does not.
func (e EID) IsValid() bool { return e.Prefix.IsValid() }

// IsHost reports whether e is a single address.
func (e EID) IsHost() bool { return e.Prefix.IsSingleIP() }

// Contains reports whether the address a of instance iid lies inside e,
// from whatever source.
func (e EID) Contains(iid uint32, a netip.Addr) bool {
	return e.IID == iid && e.Prefix.Contains(a)
}

// Covers reports whether o lies inside e: the same instance, a prefix at least
// as long, and a source inside e's source.
func (e EID) Covers(o EID) bool {
	if e.IID != o.IID || !covers(e.Prefix, o.Prefix) {
		return false
	}
	return !e.Source.IsValid() || o.Source.IsValid() && covers(e.Source, o.Source)
}

func covers(p, q netip.Prefix) bool { return p.Bits() <= q.Bits() && p.Contains(q.Addr()) }

// Compare orders EIDs by instance, destination and source: a total order in
// which a prefix comes before its more-specifics.
func (e EID) Compare(o EID) int {
	return cmp.Or(cmp.Compare(e.IID, o.IID), e.Prefix.Compare(o.Prefix), comparePrefix(e.Source, o.Source))
}

func comparePrefix(a, b netip.Prefix) int {
	switch {
	case a == b:
		return 0
	case !a.IsValid():
		return -1
	case !b.IsValid():
		return 1
	}
	return a.Compare(b)
}

// String returns the text form; ParseEID reads it back.
func (e EID) String() string {
	if !e.IsValid() {
		return "invalid EID"
	}
	b, _ := e.AppendText(make([]byte, 0, 64))
	return string(b)
}

// AppendText appends the text form to b (encoding.TextAppender). It fails for
// an EID that is not valid.
func (e EID) AppendText(b []byte) ([]byte, error) {
	if !e.IsValid() {
		return b, fmt.Errorf("%w: no prefix", ErrBadEID)
	}
	if e.IID != 0 {
		b = append(b, '[')
		b = strconv.AppendUint(b, uint64(e.IID), 10)
		b = append(b, ']')
	}
	b = e.Prefix.AppendTo(b)
	if e.Source.IsValid() {
		b = append(b, " from "...)
		b = e.Source.AppendTo(b)
	}
	return b, nil
}

// MarshalText implements encoding.TextMarshaler.
func (e EID) MarshalText() ([]byte, error) { return e.AppendText(nil) }

// UnmarshalText implements encoding.TextUnmarshaler with ParseEID.
func (e *EID) UnmarshalText(b []byte) error {
	v, err := ParseEID(string(b))
	if err != nil {
		return err
	}
	*e = v
	return nil
}
