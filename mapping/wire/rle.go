package wire

import (
	"encoding/binary"
	"fmt"
	"iter"
)

// RLE is the LCAF of the routers that multicast packets are replicated to (RFC
// 8060 section 4.9). This package only carries it.
//
//	 0                   1                   2                   3
//	 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//	+-------------------------------+---------------+---------------+
//	|          AFI = 16387          |     Rsvd1     |     Flags     |
//	+---------------+---------------+---------------+---------------+
//	|   Type = 13   |     Rsvd2     |            Length             |
//	+---------------+---------------+---------------+---------------+
//	|             Rsvd3             |     Rsvd4     |  Level Value  |
//	+-------------------------------+---------------+---------------+
//	|              AFI              |       RTR/ETR #1  ...         |
//	+-------------------------------+---------------+---------------+
//	|             Rsvd3             |     Rsvd4     |  Level Value  |
//	+-------------------------------+---------------+---------------+
//	|              AFI              |       RTR/ETR #n  ...         |
//	+-------------------------------+-------------------------------+
type RLE struct {
	b []byte // entries, checked; at least six octets each
}

// Replica is one entry of an RLE.
type Replica struct {
	Level   uint8 // lower is nearer to the ITR
	Address Address
	// Name is a distinguished name behind the address, or no address. It is an
	// extension that lispers.net sends: it stands where a next entry would
	// begin with Rsvd3, which is zero.
	Name Address
}

// NewRLE returns a replication list. Only a Name of AFIName is encoded.
func NewRLE(entries ...Replica) RLE {
	var b []byte
	for _, e := range entries {
		b = e.append(b)
	}
	return RLE{b}
}

func (e Replica) append(b []byte) []byte {
	b = append(b, 0, 0, 0, e.Level)
	b = append(b, e.Address.Bytes()...)
	if e.Name.AFI() == AFIName {
		b = append(b, e.Name.Bytes()...)
	}
	return b
}

// Decode reads the payload of an LCAF of type LCAFRLE, which it borrows.
func (r *RLE) Decode(l LCAF) error {
	*r = RLE{}
	c := lcafCursor(l, LCAFRLE)
	for c.err == nil && c.left() > 0 {
		c.replica()
	}
	if c.err == nil {
		r.b = l.Payload
	}
	return c.err
}

func (c *cursor) replica() Replica {
	e := Replica{Level: uint8(c.u32("level")), Address: c.address("address")}
	if c.left() >= 2 && AFI(binary.BigEndian.Uint16(c.b[c.off:])) == AFIName {
		e.Name = c.address("name")
	}
	return e
}

// All walks the entries; they borrow what the RLE borrows.
func (r RLE) All() iter.Seq[Replica] {
	return func(yield func(Replica) bool) {
		for c := (cursor{b: r.b}); c.left() > 0; {
			if e := c.replica(); c.err != nil || !yield(e) {
				return
			}
		}
	}
}

// AppendBinary appends the LCAF with its AFI, reserved bits cleared.
func (r RLE) AppendBinary(b []byte) ([]byte, error) {
	return appendLCAF(b, LCAFRLE, 0, func(b []byte) []byte {
		from := len(b)
		b = append(b, r.b...)
		for c := (cursor{b: b[from:]}); c.err == nil && c.left() > 0; c.replica() {
			clear(c.b[c.off : c.off+3]) // Rsvd3, Rsvd4
		}
		return b
	})
}

// String returns "replication-list-entry(192.0.2.1 level 0, 192.0.2.2 level 128)".
func (r RLE) String() string {
	var s []string
	for e := range r.All() {
		text := fmt.Sprintf("%v level %d", e.Address, e.Level)
		if !e.Name.IsZero() {
			text = fmt.Sprintf("%v %s", e.Name, text)
		}
		s = append(s, text)
	}
	return lcafText(LCAFRLE, s...)
}
