package wire

import (
	"iter"
)

// ELP is the LCAF of a path of locators that packets are to take (RFC 8060
// section 4.6). This package only carries it.
//
//	 0                   1                   2                   3
//	 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//	+-------------------------------+---------------+---------------+
//	|          AFI = 16387          |     Rsvd1     |     Flags     |
//	+---------------+---------------+---------------+---------------+
//	|   Type = 10   |     Rsvd2     |            Length             |
//	+---------------+---------+-+-+-+-------------------------------+
//	|          Rsvd3          |L|P|S|              AFI              |
//	+-------------------------+-+-+-+-------------------------------+
//	|                       Reencap Hop 1  ...                      |
//	+-------------------------+-+-+-+-------------------------------+
//	|          Rsvd3          |L|P|S|              AFI              |
//	+-------------------------+-+-+-+-------------------------------+
//	|                       Reencap Hop k  ...                      |
//	+---------------------------------------------------------------+
type ELP struct {
	b []byte // hops, checked; at least four octets each
}

// Hop is one re-encapsulating router of an ELP.
type Hop struct {
	Lookup  bool // L: its address is to be looked up, not encapsulated to
	Probe   bool // P: it may be sent RLOC-probes
	Strict  bool // S: it must not be skipped
	Address Address
}

// NewELP returns a path of hops.
func NewELP(hops ...Hop) ELP {
	var b []byte
	for _, h := range hops {
		b = h.append(b)
	}
	return ELP{b}
}

func (h Hop) append(b []byte) []byte {
	b = append(b, 0, bit(h.Lookup, 4)|bit(h.Probe, 2)|bit(h.Strict, 1))
	return append(b, h.Address.Bytes()...)
}

// String returns the address and the letters of the flags that are set.
func (h Hop) String() string {
	s := h.Address.String()
	if h.Lookup || h.Probe || h.Strict {
		s += " "
	}
	for _, f := range []struct {
		set    bool
		letter string
	}{{h.Lookup, "L"}, {h.Probe, "P"}, {h.Strict, "S"}} {
		if f.set {
			s += f.letter
		}
	}
	return s
}

// Decode reads the payload of an LCAF of type LCAFELP, which it borrows.
func (e *ELP) Decode(l LCAF) error {
	*e = ELP{}
	c := lcafCursor(l, LCAFELP)
	for c.err == nil && c.left() > 0 {
		c.hop()
	}
	if c.err == nil {
		e.b = l.Payload
	}
	return c.err
}

func (c *cursor) hop() Hop {
	flags := c.u16("hop_flags")
	return Hop{Lookup: flags&4 != 0, Probe: flags&2 != 0, Strict: flags&1 != 0, Address: c.address("hop")}
}

// All walks the hops in their order; they borrow what the ELP borrows.
func (e ELP) All() iter.Seq[Hop] {
	return func(yield func(Hop) bool) {
		for c := (cursor{b: e.b}); c.left() > 0; {
			if h := c.hop(); c.err != nil || !yield(h) {
				return
			}
		}
	}
}

// AppendBinary appends the LCAF with its AFI, reserved bits cleared.
func (e ELP) AppendBinary(b []byte) ([]byte, error) {
	return appendLCAF(b, LCAFELP, 0, func(b []byte) []byte {
		from := len(b)
		b = append(b, e.b...)
		for c := (cursor{b: b[from:]}); c.err == nil && c.left() > 0; c.hop() {
			c.b[c.off], c.b[c.off+1] = 0, c.b[c.off+1]&7 // Rsvd3
		}
		return b
	})
}

// String returns "explicit-locator-path(192.0.2.1 LS, 192.0.2.2)".
func (e ELP) String() string {
	var s []string
	for h := range e.All() {
		s = append(s, h.String())
	}
	return lcafText(LCAFELP, s...)
}
