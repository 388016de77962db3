package wire

import "iter"

// AFIList is the LCAF that binds several addresses together (RFC 8060 section
// 4.10). The list has no order; an element that its reader does not know is
// skipped (section 4.10.5).
//
//	 0                   1                   2                   3
//	 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//	+-------------------------------+---------------+---------------+
//	|          AFI = 16387          |     Rsvd1     |     Flags     |
//	+---------------+---------------+---------------+---------------+
//	|   Type = 1    |     Rsvd2     |            Length             |
//	+---------------+---------------+-------------------------------+
//	|              AFI              |          Address  ...         |
//	+-------------------------------+-------------------------------+
//	|              ...              |          ...                  |
//	+-------------------------------+-------------------------------+
type AFIList struct {
	b []byte // addresses, checked
}

// NewAFIList returns a list of addresses.
func NewAFIList(addrs ...Address) AFIList {
	var b []byte
	for _, a := range addrs {
		b = append(b, a.Bytes()...)
	}
	return AFIList{b}
}

// Decode reads the payload of an LCAF of type LCAFAFIList, which it borrows.
func (l *AFIList) Decode(f LCAF) error {
	c := lcafCursor(f, LCAFAFIList)
	*l = c.addresses("address")
	return c.err
}

// All walks the addresses of the list; they borrow what the list borrows.
func (l AFIList) All() iter.Seq[Address] {
	return func(yield func(Address) bool) {
		for b := l.b; len(b) > 0; {
			a, n, err := DecodeAddress(b)
			if err != nil || !yield(a) {
				return
			}
			b = b[n:]
		}
	}
}

// AppendBinary appends the LCAF with its AFI.
func (l AFIList) AppendBinary(b []byte) ([]byte, error) {
	return LCAF{Type: LCAFAFIList, Payload: l.b}.AppendBinary(b)
}

// String returns "afi-list(address, address)".
func (l AFIList) String() string {
	var s []string
	for a := range l.All() {
		s = append(s, a.String())
	}
	return lcafText(LCAFAFIList, s...)
}
