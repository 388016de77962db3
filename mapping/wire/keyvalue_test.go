package wire

import "testing"

func TestLC15_KeyValue(t *testing.T) {
	testLCAF(t, LCAFKeyValue,
		lcafVector{"address of a name", "4003 0000 0f00 000a 0011 6100" + v4Hex, &KeyValue{mustDecodeAddress(t, "0011 6100"), mustDecodeAddress(t, v4Hex)},
			`key-value-address-pair("a", 192.0.2.1)`, nil},
		lcafVector{"nothing", "4003 0000 0f00 0004 0000 0000", &KeyValue{}, "key-value-address-pair(none, none)", nil})
}
