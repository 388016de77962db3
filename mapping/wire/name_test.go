package wire

import (
	"bytes"
	"errors"
	"net/netip"
	"strings"
	"testing"
)

// A distinguished name ends at its first NUL; the empty name is one (RFC 9735
// section 3).
func TestLC17_NULTerminated(t *testing.T) {
	for _, test := range []struct {
		hex, name string
		size      int
	}{
		{"0011 00", "", 3},
		{"0011 69657466 00", "ietf", 7},
		{"0011 6461 00 6964", "da", 5}, // what follows is not of the name
	} {
		a, n, err := DecodeAddress(unhex(t, test.hex))
		if name, ok := a.Name(); err != nil || !ok || name != test.name || n != test.size {
			t.Errorf("%s: %q, %d octets, %v", test.hex, name, n, err)
		}
		if b, _ := a.AppendBinary(nil); !bytes.Equal(b, unhex(t, test.hex)[:test.size]) {
			t.Errorf("%s encodes to %x", test.hex, b)
		}
	}
	if _, _, err := DecodeAddress(unhex(t, "0011 69657466")); !errors.Is(err, ErrTruncated) {
		t.Errorf("without a NUL: %v", err)
	}
}

// The mask length of a name counts its bits with the NUL (RFC 9735 section 3);
// deployed implementations leave the NUL out.
func TestLC17_MaskLength(t *testing.T) {
	for _, test := range []struct {
		name string
		mask uint8
		want string // "": refused
	}{
		{"ietf", 40, `"ietf"`},
		{"ietf", 32, `"ietf"`},
		{"ietf", 41, ""},
		{"ietf", 24, `"ietf"/24`},
		{"", 8, `""`},
		{"", 0, `""`},
		{"", 9, ""},
		{strings.Repeat("n", 40), 255, `"` + strings.Repeat("n", 40) + `"/255`}, // more bits than the mask can count
	} {
		eid := append(append([]byte{0, 17}, test.name...), 0)
		for _, wrapped := range []bool{false, true} {
			if wrapped {
				eid, _ = InstanceID{IID: 7, Address: Address{eid}}.AppendBinary(nil)
			}
			c := cursor{b: append([]byte{0, 0, 0, 1, 0, test.mask, 0x10, 0, 0, 0}, eid...)}
			r := c.record()
			switch {
			case test.want == "":
				if !errors.Is(c.err, ErrBadMaskLen) {
					t.Errorf("%q/%d: %v", test.name, test.mask, c.err)
				}
			case c.err != nil:
				t.Errorf("%q/%d: %v", test.name, test.mask, c.err)
			default:
				want := test.want
				if wrapped {
					want = "[7]" + want
				}
				if got := r.EID.PrefixString(r.MaskLen); got != want {
					t.Errorf("%q/%d is written %s, want %s", test.name, test.mask, got, want)
				}
			}
		}
	}
}

// An address and its name are a list that is good to encapsulate to.
func TestLC17_NamedAddress(t *testing.T) {
	for name, want := range map[string]string{"uplink-a": `afi-list(192.0.2.1, "uplink-a")`, "": `afi-list(192.0.2.1, "")`, "a\x00b": `afi-list(192.0.2.1, "a")`} {
		ip := netip.MustParseAddr("192.0.2.1")
		a := NamedAddress(ip, name)
		back, n, err := DecodeAddress(a.Bytes())
		if err != nil || n != len(a.Bytes()) || back.String() != want {
			t.Errorf("%q: %v, %d octets, %v", name, back, n, err)
		}
		if got, ok := back.RLOC(); !ok || got != ip {
			t.Errorf("%q: encapsulates to %v", name, got)
		}
	}
}
