package wire

import (
	"errors"
	"strings"
	"testing"
)

func TestVendor(t *testing.T) {
	testLCAF(t, LCAFVendor,
		lcafVector{"data", "4003 0000 ff00 0006 00 00005e 0102", &Vendor{OUI: 0x5e, Data: []byte{1, 2}}, "vendor-specific(00005e, 0102)", []int{4, 5}},
		lcafVector{"none", "4003 0000 ff00 0004 00 ffffff", &Vendor{OUI: 0xffffff}, "vendor-specific(ffffff)", nil})
	unencodable(t, &Vendor{OUI: 1 << 24})
}

// A message with an unknown OUI does not decode, wherever it stands.
func TestLC255_UnknownOUI(t *testing.T) {
	const vendor = "4003 0000 ff00 0006 00 00005e 0102"
	in := []string{
		vendor,
		"4003 0000 0200 0012 00000007" + vendor, // in an instance
		"4003 0000 0100 0014" + v4Hex + vendor,  // in a list
		"4003 0000 0500 001a 0000 0000 0000 0000 00000000" + vendor, // beside a place
	}
	for _, h := range in {
		_, _, err := DecodeAddress(unhex(t, h))
		if !errors.Is(err, ErrUnknownOUI) || !strings.Contains(err.Error(), "00005e") {
			t.Errorf("%s: %v", h, err)
		}
	}
	reply := func(eid, locator string) []byte {
		return unhex(t, "20000001 0000000000000001"+"000005a0 01 18 1000 0000"+eid+"01640000 0001"+locator)
	}
	var m MapReply
	if err := m.Decode(reply(v4Hex, v4Hex)); err != nil {
		t.Fatal(err)
	}
	if err := m.Decode(reply(v4Hex, vendor)); !errors.Is(err, ErrUnknownOUI) {
		t.Errorf("as a locator: %v", err)
	}
	if err := m.Decode(reply(vendor, v4Hex)); !errors.Is(err, ErrUnknownOUI) {
		t.Errorf("as an EID: %v", err)
	}
	var q MapRequest
	request := "10000001 0000000000000001"
	if err := q.Decode(unhex(t, request+vendor+v4Hex+"0018"+v4Hex)); !errors.Is(err, ErrUnknownOUI) {
		t.Errorf("as a source EID: %v", err)
	}
	if err := q.Decode(unhex(t, request+"0000"+vendor+"0018"+v4Hex)); !errors.Is(err, ErrUnknownOUI) {
		t.Errorf("as an ITR-RLOC: %v", err)
	}
}
