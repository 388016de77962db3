package wire

import "testing"

func TestLC6_OpaqueKey(t *testing.T) {
	testLCAF(t, LCAFOpaqueKey,
		lcafVector{"two fields", "4003 0000 0600 0007 01 0002 0a0b0c0d", &OpaqueKey{Fields: 2, Wildcards: 2, Key: []byte{10, 11, 12, 13}},
			"opaque-key(2 fields, wildcards 0x2, 0a0b0c0d)", []int{3, 4, 5, 6}},
		lcafVector{"no key", "4003 0000 0600 0003 0f ffff", &OpaqueKey{Fields: 16, Wildcards: 0xffff}, "opaque-key(16 fields, wildcards 0xffff)", nil})
	refusesLCAF(t, LCAFOpaqueKey, ErrBadValue, "10 0000 00")
	unencodable(t, &OpaqueKey{}, &OpaqueKey{Fields: 17})
}
