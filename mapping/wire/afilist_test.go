package wire

import (
	"errors"
	"slices"
	"testing"
)

// Every address of a list is read, whatever the order.
func TestLC1_AFIList(t *testing.T) {
	v4, v6, name := mustDecodeAddress(t, v4Hex), mustDecodeAddress(t, v6Hex), mustDecodeAddress(t, "0011 6d7300")
	list := func(addrs ...Address) *AFIList {
		l := NewAFIList(addrs...)
		return &l
	}
	testLCAF(t, LCAFAFIList,
		lcafVector{"both families", "4003 0000 0100 0018" + v4Hex + v6Hex, list(v4, v6), "afi-list(192.0.2.1, 2001:db8::1)", []int{0, 6}},
		lcafVector{"name first", "4003 0000 0100 000b 0011 6d7300" + v4Hex, list(name, v4), `afi-list("ms", 192.0.2.1)`, []int{0, 5}},
		lcafVector{"name last", "4003 0000 0100 000b" + v4Hex + "0011 6d7300", list(v4, name), `afi-list(192.0.2.1, "ms")`, []int{0, 6}},
		lcafVector{"empty", "4003 0000 0100 0000", list(), "afi-list()", nil})
}

// The address of a list is a locator that can be used; names, places and what
// is not known are passed over (RFC 8060 section 4.10.5).
func TestLC1_LocatorOfAList(t *testing.T) {
	const geo = "4003 0000 0500 000e 8034 1f07 800d 181d 00000022 0000"
	for _, test := range []struct{ name, hex, want string }{
		{"plain IPv4", v4Hex, "192.0.2.1"},
		{"plain IPv6", v6Hex, "2001:db8::1"},
		{"name and address", "4003 0000 0100 000b 0011 6d7300" + v4Hex, "192.0.2.1"},
		{"address and name", "4003 0000 0100 000b" + v4Hex + "0011 6d7300", "192.0.2.1"},
		{"place and address", "4003 0000 0100 002a" + geo + v6Hex + "0000", "2001:db8::1"},
		{"unknown and address", "4003 0000 0100 000e 4003 0000 c800 0000" + v4Hex, "192.0.2.1"},
		{"list in a list", "4003 0000 0100 0013 0011 6d7300 4003 0000 0100 0006" + v4Hex, "192.0.2.1"},
		{"place around an address", "4003 0000 0500 0012 8034 1f07 800d 181d 00000022" + v4Hex, "192.0.2.1"},
		{"AS number", "4003 0000 0300 000a 0000fbf4" + v4Hex, "192.0.2.1"},
		{"JSON", "4003 0000 0e00 000a 0002 7b7d" + v4Hex, "192.0.2.1"},
		{"name alone", "0011 6d7300", ""},
		{"MAC", "0006 020000000001", ""},
		{"place alone", geo, ""},
		{"unknown", "4003 0000 c800 0006" + v4Hex, ""},
		{"key and value", "4003 0000 0f00 000c" + v4Hex + v4Hex, ""},
		{"no address", "0000", ""},
	} {
		got, ok := mustDecodeAddress(t, test.hex).RLOC()
		if ok != (test.want != "") || ok && got.String() != test.want {
			t.Errorf("%s: %v, %t; want %q", test.name, got, ok, test.want)
		}
	}
}

func TestAFIListDecode(t *testing.T) {
	list := NewAFIList(Address{})
	f, _ := mustDecodeAddress(t, "4003 0000 0100 0015 0001 c0000201 4003 0000 aa00 0000 0011 6d7300 0000").LCAF()
	if err := list.Decode(f); err != nil {
		t.Fatal(err)
	}
	var got []string
	for a := range list.All() {
		got = append(got, a.String())
	}
	want := []string{"192.0.2.1", "lcaf-type-170()", `"ms"`, "none"}
	if !slices.Equal(got, want) {
		t.Errorf("list of %q, want %q", got, want)
	}
	for range list.All() {
		break // stops early
	}
	if err := list.Decode(LCAF{Type: LCAFAFIList}); err != nil || len(slices.Collect(list.All())) != 0 {
		t.Errorf("empty list: %v, %v", list, err)
	}
	if err := list.Decode(LCAF{Type: LCAFRLE, Payload: f.Payload}); !errors.Is(err, ErrUnknownType) || len(slices.Collect(list.All())) != 0 {
		t.Errorf("decoding another type: %v, %v", list, err)
	}
	if err := list.Decode(LCAF{Type: LCAFAFIList, Payload: f.Payload[:5]}); !errors.Is(err, ErrTruncated) {
		t.Errorf("cut short: %v", err)
	}
}
