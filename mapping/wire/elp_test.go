package wire

import "testing"

func TestLC10_ExplicitLocatorPath(t *testing.T) {
	v4, v6 := mustDecodeAddress(t, v4Hex), mustDecodeAddress(t, v6Hex)
	path := NewELP(Hop{Lookup: true, Address: v4}, Hop{Probe: true, Address: v4}, Hop{Strict: true, Address: v6})
	all := NewELP(Hop{true, true, true, v4}, Hop{Address: v4})
	v := lcafVector{"a hop of each flag", "4003 0000 0a00 0024 0004" + v4Hex + "0002" + v4Hex + "0001" + v6Hex, &path,
		"explicit-locator-path(192.0.2.1 L, 192.0.2.1 P, 2001:db8::1 S)", []int{0, 8, 16}}
	testLCAF(t, LCAFELP, v,
		lcafVector{"all flags and none", "4003 0000 0a00 0010 0007" + v4Hex + "0000" + v4Hex, &all, "explicit-locator-path(192.0.2.1 LPS, 192.0.2.1)", []int{0, 8}},
		lcafVector{"no hop", "4003 0000 0a00 0000", &ELP{}, "explicit-locator-path()", nil})
	for range path.All() {
		break // stops early
	}
	// It is carried, not walked.
	if ip, ok := mustDecodeAddress(t, v.hex).RLOC(); ok {
		t.Errorf("encapsulates to %v", ip)
	}
}
