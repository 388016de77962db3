package wire

import (
	"encoding/binary"
	"fmt"

	"github.com/eidolon-lisp/eidolon/mapping"
)

// cursor walks a message. Its first error sticks: later reads return zero
// values and leave the error as it is, so a decoder reads a run of fields and
// looks at err once. It lives on the stack of the decoder.
type cursor struct {
	msg string
	b   []byte
	off int
	err error

	depth int // how many LCAFs are around b
}

// start begins a message of type t. The decoders for which two types are
// legal call startAny.
func start(b []byte, t Type) cursor { return startAny(b, t, t) }

func startAny(b []byte, t, or Type) cursor {
	c := cursor{msg: t.String(), b: b}
	switch {
	case len(b) > MaxMessage:
		c.fail("message", ErrTooLarge)
	case len(b) == 0:
		c.fail("type", ErrTruncated)
	case Type(b[0]>>4) != t && Type(b[0]>>4) != or:
		c.fail("type", fmt.Errorf("%w: %v", ErrUnknownType, Type(b[0]>>4)))
	}
	return c
}

func (c *cursor) fail(field string, err error) { c.failAt(c.off, field, err) }

func (c *cursor) failAt(off int, field string, err error) {
	if c.err == nil {
		c.err = &DecodeError{Message: c.msg, Field: field, Offset: off, Err: err}
	}
}

// within says in what, such as the element of a list, the error was met.
func (c *cursor) within(what string) {
	if e, ok := c.err.(*DecodeError); ok {
		e.Field = what + " " + e.Field
	}
}

func (c *cursor) left() int { return len(c.b) - c.off }

// take returns the next n octets, or nil after an error. The slice cannot grow
// into what follows it.
func (c *cursor) take(n int, field string) []byte {
	if c.err != nil {
		return nil
	}
	if c.left() < n {
		c.fail(field, ErrTruncated)
		return nil
	}
	v := c.b[c.off : c.off+n : c.off+n]
	c.off += n
	return v
}

func (c *cursor) u8(field string) uint8 {
	if v := c.take(1, field); v != nil {
		return v[0]
	}
	return 0
}

func (c *cursor) u16(field string) uint16 {
	if v := c.take(2, field); v != nil {
		return binary.BigEndian.Uint16(v)
	}
	return 0
}

func (c *cursor) u32(field string) uint32 {
	if v := c.take(4, field); v != nil {
		return binary.BigEndian.Uint32(v)
	}
	return 0
}

func (c *cursor) u64(field string) uint64 {
	if v := c.take(8, field); v != nil {
		return binary.BigEndian.Uint64(v)
	}
	return 0
}

func (c *cursor) address(field string) Address {
	if c.err != nil {
		return Address{}
	}
	n, at, err := checkAddress(c.b[c.off:], c.depth)
	if err != nil {
		c.failAt(c.off+at, field, err)
		return Address{}
	}
	return Address{c.take(n, field)}
}

// addresses reads addresses up to the end.
func (c *cursor) addresses(field string) AFIList {
	from := c.off
	for c.err == nil && c.left() > 0 {
		c.address(field)
	}
	if c.err != nil {
		return AFIList{}
	}
	return AFIList{c.b[from:c.off:c.off]}
}

// siteIDs is the size of the xTR-ID and the Site-ID that the I bit announces.
const siteIDs = 16 + 8

// ids reads the xTR-ID and the Site-ID.
func (c *cursor) ids() (x mapping.XTRID, site uint64) {
	copy(x[:], c.take(len(x), "xtr_id"))
	return x, c.u64("site_id")
}

func appendIDs(b []byte, x mapping.XTRID, site uint64) []byte {
	return binary.BigEndian.AppendUint64(append(b, x[:]...), site)
}
