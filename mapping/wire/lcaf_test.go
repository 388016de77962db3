package wire

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
)

func TestLCAF(t *testing.T) {
	const h = "4003 11 22 aa 33 0003 010203"
	l, ok := mustDecodeAddress(t, h).LCAF()
	if !ok || l.Rsvd1 != 0x11 || l.Flags != 0x22 || l.Type != 0xaa || l.Rsvd2 != 0x33 || !bytes.Equal(l.Payload, []byte{1, 2, 3}) {
		t.Errorf("%s is %+v", h, l)
	}
	if b, err := l.AppendBinary(nil); err != nil || !bytes.Equal(b, unhex(t, h)) {
		t.Errorf("encodes to %x, %v", b, err)
	}
	if a, err := l.Address(); err != nil || !bytes.Equal(a.Bytes(), unhex(t, h)) {
		t.Errorf("as an address %v, %v", a, err)
	}
	if _, err := (LCAF{Type: LCAFInstanceID}).Address(); !errors.Is(err, ErrBadLength) {
		t.Errorf("an Instance-ID of no octets: %v", err)
	}
	if b, err := (LCAF{Payload: make([]byte, 1<<16)}).AppendBinary([]byte{7}); !errors.Is(err, ErrInvalid) || len(b) != 1 {
		t.Errorf("64 KiB of payload: %d octets, %v", len(b), err)
	}
	long := LCAF{Type: LCAFJSON, Payload: make([]byte, 100)}
	if got := long.String(); got != "json-data-model("+strings.Repeat("00", 32)+"... 100 octets)" {
		t.Errorf("long payload is written %s", got)
	}
}

// The encoders agree with lengths worked out by hand from RFC 8060.
func TestLCAFEncodings(t *testing.T) {
	v4, v6 := mustDecodeAddress(t, "0001 c0000201"), mustDecodeAddress(t, "0002 20010db8000000000000000000000001")
	mac := mustDecodeAddress(t, "0006 020000000001")
	tests := []struct {
		name string
		v    interface{ AppendBinary([]byte) ([]byte, error) }
		want string
	}{
		{"instance of IPv4", InstanceID{IID: 7, Address: v4}, "4003 0000 0200 000a 00000007 0001 c0000201"},
		{"instance of IPv6", InstanceID{IID: 7, Address: v6}, "4003 0000 0200 0016 00000007 0002 20010db8000000000000000000000001"},
		{"instance of MAC", InstanceID{IID: 7, Address: mac}, "4003 0000 0200 000c 00000007 0006 020000000001"},
		{"range of instances", InstanceID{IID: 0x100, MaskLen: 24}, "4003 0000 0218 0006 00000100 0000"},
		{"list", NewAFIList(v4, v6), "4003 0000 0100 0018 0001 c0000201 0002 20010db8000000000000000000000001"},
		{"list of a MAC", NewAFIList(mac), "4003 0000 0100 0008 0006 020000000001"},
		{"empty list", AFIList{}, "4003 0000 0100 0000"},
		{"list of no address", NewAFIList(Address{}), "4003 0000 0100 0002 0000"},
		{"source and destination", SourceDest{SourceMaskLen: 8, DestMaskLen: 24, Source: v4, Dest: v4}, "4003 0000 0c00 0010 0000 0818 0001 c0000201 0001 c0000201"},
	}
	for _, test := range tests {
		b, err := test.v.AppendBinary([]byte{0xff})
		if want := append([]byte{0xff}, unhex(t, test.want)...); err != nil || !bytes.Equal(b, want) {
			t.Errorf("%s: %x, %v; want %x", test.name, b, err, want)
		}
		mustDecodeAddress(t, hex.EncodeToString(b[1:]))
	}
}

func TestLCAFTypeString(t *testing.T) {
	seen := map[string]bool{}
	for n := range 256 {
		s := LCAFType(n).String()
		if seen[s] || s == "" {
			t.Errorf("type %d is called %q", n, s)
		}
		seen[s] = true
		if known := n <= 16 || n == 255; known == strings.HasPrefix(s, "lcaf-type-") {
			t.Errorf("type %d is called %q", n, s)
		}
	}
}
