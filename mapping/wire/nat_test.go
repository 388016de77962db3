package wire

import "testing"

func TestLC7_NATTraversal(t *testing.T) {
	v4, v6 := mustDecodeAddress(t, v4Hex), mustDecodeAddress(t, v6Hex)
	ports := "10f6 1f90"
	testLCAF(t, LCAFNAT,
		lcafVector{"no RTR", "4003 0000 0700 0016" + ports + v4Hex + v4Hex + v4Hex,
			&NAT{MSPort: 4342, ETRPort: 8080, GlobalETR: v4, MS: v4, PrivateETR: v4},
			"nat-traversal(global etr 192.0.2.1 port 8080, private etr 192.0.2.1, ms 192.0.2.1 port 4342)", nil},
		lcafVector{"one RTR", "4003 0000 0700 001c" + ports + v4Hex + v4Hex + v4Hex + "0001 c6336407",
			&NAT{MSPort: 4342, ETRPort: 8080, GlobalETR: v4, MS: v4, PrivateETR: v4, RTRs: NewAFIList(mustDecodeAddress(t, "0001 c6336407"))},
			"nat-traversal(global etr 192.0.2.1 port 8080, private etr 192.0.2.1, ms 192.0.2.1 port 4342, rtr 198.51.100.7)", []int{22}},
		lcafVector{"AFI 0 for none", "4003 0000 0700 0024" + ports + v4Hex + v6Hex + v4Hex + "0000",
			&NAT{MSPort: 4342, ETRPort: 8080, GlobalETR: v4, MS: v6, PrivateETR: v4, RTRs: NewAFIList(Address{})},
			"nat-traversal(global etr 192.0.2.1 port 8080, private etr 192.0.2.1, ms 2001:db8::1 port 4342, rtr none)", []int{34}})
	// In Info messages only: it is no locator.
	if a, err := (LCAF{Type: LCAFNAT, Payload: unhex(t, ports+v4Hex+v4Hex+v4Hex)}).Address(); err != nil || a.IsLocator() {
		t.Errorf("%v is taken for a locator, %v", a, err)
	}
}
