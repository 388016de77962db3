package wire

// KeyValue is the LCAF of a pair of addresses (RFC 8060 section 5.5), whose use
// is not defined.
//
//	 0                   1                   2                   3
//	 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//	+-------------------------------+---------------+---------------+
//	|          AFI = 16387          |     Rsvd1     |     Flags     |
//	+---------------+---------------+---------------+---------------+
//	|   Type = 15   |     Rsvd2     |            Length             |
//	+---------------+---------------+-------------------------------+
//	|              AFI              |       Address as Key  ...     |
//	+-------------------------------+-------------------------------+
//	|              AFI              |      Address as Value  ...    |
//	+-------------------------------+-------------------------------+
type KeyValue struct {
	Key, Value Address
}

// Decode reads the payload of an LCAF of type LCAFKeyValue, which it borrows.
// Octets after the second address are ignored.
func (k *KeyValue) Decode(l LCAF) error {
	c := lcafCursor(l, LCAFKeyValue)
	*k = KeyValue{Key: c.address("key"), Value: c.address("value")}
	return c.err
}

// AppendBinary appends the LCAF with its AFI.
func (k KeyValue) AppendBinary(b []byte) ([]byte, error) {
	return appendLCAF(b, LCAFKeyValue, 0, func(b []byte) []byte {
		return append(append(b, k.Key.Bytes()...), k.Value.Bytes()...)
	})
}

// String returns "key-value-address-pair(key, value)".
func (k KeyValue) String() string {
	return lcafText(LCAFKeyValue, k.Key.String(), k.Value.String())
}
