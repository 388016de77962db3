package wire

import (
	"errors"
	"slices"
	"testing"
)

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
