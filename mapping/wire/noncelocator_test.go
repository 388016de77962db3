package wire

import "testing"

func TestLC8_NonceLocator(t *testing.T) {
	v := lcafVector{"IPv4", "4003 0000 0800 000a 00 123456" + v4Hex, &NonceLocator{0x123456, mustDecodeAddress(t, v4Hex)}, "nonce-locator(0x123456, 192.0.2.1)", nil}
	testLCAF(t, LCAFNonceLocator, v)
	unencodable(t, &NonceLocator{Nonce: 1 << 24})
	// It is no use to who does not send the nonce.
	a := mustDecodeAddress(t, v.hex)
	if ip, ok := a.RLOC(); ok || !a.IsLocator() {
		t.Errorf("%v: encapsulates to %v; a locator: %t", a, ip, a.IsLocator())
	}
}
