package wire

import "testing"

func TestLC3_ASNumber(t *testing.T) {
	testLCAF(t, LCAFASNumber,
		lcafVector{"IPv4", "4003 0000 0300 000a 0000fbf4" + v4Hex, &ASNumber{64500, mustDecodeAddress(t, v4Hex)}, "as-number(64500, 192.0.2.1)", nil},
		lcafVector{"no address", "4003 0000 0300 0006 fffffffe 0000", &ASNumber{AS: 4294967294}, "as-number(4294967294)", nil})
}
