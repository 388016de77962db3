package wire

import "testing"

func TestLC16_EncapsulationFormat(t *testing.T) {
	v4 := mustDecodeAddress(t, v4Hex)
	testLCAF(t, LCAFEncap,
		lcafVector{"LISP", "4003 0000 1000 000a 00000001" + v4Hex, &EncapFormat{EncapLISP, v4}, "encapsulation-format(lisp, 192.0.2.1)", nil},
		lcafVector{"all", "4003 0000 1000 000a 0000007f" + v4Hex, &EncapFormat{allEncapsulations, v4},
			"encapsulation-format(lisp l2-lisp vxlan vxlan-gpe nvgre geneve gue, 192.0.2.1)", nil},
		lcafVector{"none", "4003 0000 1000 0006 00000000 0000", &EncapFormat{}, "encapsulation-format()", nil})
}

// An ITR that only does LISP uses a locator that takes it.
func TestLC16_OnlyLISPIsUsable(t *testing.T) {
	for formats := range 1 << 7 {
		b, _ := EncapFormat{Encapsulations(formats), mustDecodeAddress(t, v4Hex)}.AppendBinary(nil)
		a, _, err := DecodeAddress(b)
		if err != nil {
			t.Fatal(err)
		}
		if ip, ok := a.RLOC(); ok != (formats&1 != 0) {
			t.Errorf("%v: encapsulates to %v", a, ip)
		}
	}
}
