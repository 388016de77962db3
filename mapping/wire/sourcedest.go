package wire

import "fmt"

// SourceDest is the LCAF that makes a key of a source and a destination prefix
// (RFC 8060 section 4.8).
//
//	 0                   1                   2                   3
//	 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//	+-------------------------------+---------------+---------------+
//	|          AFI = 16387          |     Rsvd1     |     Flags     |
//	+---------------+---------------+---------------+---------------+
//	|   Type = 12   |     Rsvd2     |            Length             |
//	+---------------+---------------+---------------+---------------+
//	|           Reserved            |   Source-ML   |    Dest-ML    |
//	+-------------------------------+---------------+---------------+
//	|              AFI              |      Source-Prefix ...        |
//	+-------------------------------+-------------------------------+
//	|              AFI              |   Destination-Prefix ...      |
//	+-------------------------------+-------------------------------+
type SourceDest struct {
	SourceMaskLen, DestMaskLen uint8
	Source, Dest               Address
}

// Decode reads the payload of an LCAF of type LCAFSourceDest, which it
// borrows. Octets after the second address are ignored.
func (s *SourceDest) Decode(l LCAF) error {
	c := lcafCursor(l, LCAFSourceDest)
	c.u16("reserved")
	*s = SourceDest{SourceMaskLen: c.u8("source_mask_len"), DestMaskLen: c.u8("dest_mask_len")}
	s.Source = c.prefix("source", s.SourceMaskLen)
	s.Dest = c.prefix("dest", s.DestMaskLen)
	return c.err
}

// AppendBinary appends the LCAF with its AFI.
func (s SourceDest) AppendBinary(b []byte) ([]byte, error) {
	return appendLCAF(b, LCAFSourceDest, 0, func(b []byte) []byte {
		b = append(b, 0, 0, s.SourceMaskLen, s.DestMaskLen)
		b = append(b, s.Source.Bytes()...)
		return append(b, s.Dest.Bytes()...)
	})
}

// String returns "destination/mask-len from source/mask-len".
func (s SourceDest) String() string {
	return fmt.Sprintf("%v/%d from %v/%d", s.Dest, s.DestMaskLen, s.Source, s.SourceMaskLen)
}
