package wire

import (
	"errors"
	"fmt"
)

// What can be wrong with a message. Decode wraps one of these in a
// *DecodeError. In all these cases the message is dropped and nothing else is
// done with it (RFC 9301 section 5.1 for ErrUnknownAFI, RFC 9306 sections 3 and
// 4 for ErrUnknownLCAF and ErrUnknownOUI).
var (
	// ErrTruncated: the message ends before the field does.
	ErrTruncated = errors.New("truncated")
	// ErrTooLarge: the message is, or would be, longer than MaxMessage.
	ErrTooLarge = errors.New("too large")
	// ErrUnknownType: the message is not of a type that the decoder reads.
	ErrUnknownType = errors.New("unexpected message type")
	// ErrUnknownAFI: an address family that is not known.
	ErrUnknownAFI = errors.New("unknown address family")
	// ErrTooDeep: LCAFs nested deeper than MaxDepth.
	ErrTooDeep = errors.New("addresses nested too deep")
	// ErrBadLength: a length field that contradicts what it measures.
	ErrBadLength = errors.New("bad length")
	// ErrBadMaskLen: a mask longer than the address that it masks.
	ErrBadMaskLen = errors.New("mask longer than the address")
	// ErrBadValue: a value outside the range that its RFC gives.
	ErrBadValue = errors.New("value out of range")
	// ErrUnknownLCAF: an EID-prefix that is an LCAF of a type that is not
	// known, or is none for EIDs (RFC 9306 section 3).
	ErrUnknownLCAF = errors.New("unknown LCAF type")
	// ErrUnknownOUI: a Vendor-Specific LCAF, wherever it stands (RFC 9306
	// section 4).
	ErrUnknownOUI = errors.New("unknown vendor")
	// ErrBadChecksum: an inner checksum of an ECM that is zero or wrong.
	ErrBadChecksum = errors.New("bad checksum")
	// ErrBadHeader: the inner packet of an ECM is not an unfragmented UDP
	// datagram over IPv4 or IPv6.
	ErrBadHeader = errors.New("inner packet is not UDP over IPv4 or IPv6")
	// ErrUnknownSecurity: authentication data of an unknown type in an ECM,
	// the length of which is unknown as well (RFC 9303 section 6.1).
	ErrUnknownSecurity = errors.New("unknown authentication data type")
)

// ErrNotIPEID is wrapped by Address.EID and Record.Mapping when an address is
// not an EID that package mapping can hold: an IPv4 or IPv6 prefix, perhaps in
// an instance, perhaps with a source. The message around it is well formed.
var ErrNotIPEID = errors.New("not an IPv4 or IPv6 EID")

// ErrInvalid is wrapped by every error of AppendBinary and AppendRecord but
// ErrTooLarge: the value has no encoding.
var ErrInvalid = errors.New("cannot be encoded")

// DecodeError says where in a message the decoder stopped, and why.
type DecodeError struct {
	Message string // the kind of message, such as "map-request"
	Field   string // the field, such as "itr_rloc 2"
	Offset  int    // where the trouble is, in octets from the start of the message
	Err     error  // the cause; wraps one of the Err variables of this package
}

// Error names message, field and offset.
func (e *DecodeError) Error() string {
	return fmt.Sprintf("%s: %s at octet %d: %v", e.Message, e.Field, e.Offset, e.Err)
}

// Unwrap returns the cause.
func (e *DecodeError) Unwrap() error { return e.Err }

func invalid(t Type, format string, args ...any) error {
	return fmt.Errorf("%v: %w: %s", t, ErrInvalid, fmt.Sprintf(format, args...))
}

// finish returns the message that was appended to b after start, or b as it
// was when there was an error or the message is too large.
func finish(b []byte, start int, t Type, err error) ([]byte, error) {
	if err != nil {
		return b[:start], err
	}
	if n := len(b) - start; n > MaxMessage {
		return b[:start], fmt.Errorf("%v: %w: %d octets, the limit is %d", t, ErrTooLarge, n, MaxMessage)
	}
	return b, nil
}
