package wire

// NullBody is the LCAF that says nothing but that it is one (RFC 8060 section
// 3): a header of length 0.
type NullBody struct{}

// Decode reads the payload of an LCAF of type LCAFNull. Octets in it are
// ignored.
func (n *NullBody) Decode(l LCAF) error {
	c := lcafCursor(l, LCAFNull)
	return c.err
}

// AppendBinary appends the LCAF with its AFI.
func (n NullBody) AppendBinary(b []byte) ([]byte, error) {
	return LCAF{Type: LCAFNull}.AppendBinary(b)
}

// String returns "null-body()".
func (n NullBody) String() string { return lcafText(LCAFNull) }
