package wire

import "testing"

func TestLC0_NullBody(t *testing.T) {
	testLCAF(t, LCAFNull, lcafVector{"null", "4003 0000 0000 0000", &NullBody{}, "null-body()", nil})
	if mustDecodeAddress(t, "4003 0000 0000 0000").IsLocator() {
		t.Error("a null body is taken for a locator")
	}
}
