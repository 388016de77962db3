package wire

import (
	"bytes"
	"encoding/hex"
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/eidolon-lisp/eidolon/mapping"
)

func mustDecodeAddress(t testing.TB, h string) Address {
	t.Helper()
	b := unhex(t, h)
	a, n, err := DecodeAddress(b)
	if err != nil || n != len(b) {
		t.Fatalf("%s: %d octets, %v", h, n, err)
	}
	return a
}

func TestAddressVectors(t *testing.T) {
	want := map[string]struct {
		text string
		size int // 0: all of it
		err  error
	}{
		"L1":  {text: "afi-list(170.187.204.221, 1122:3344:1122:3344:1122:3344:1122:3344)"},
		"L2":  {text: "afi-list()"},
		"L3":  {err: ErrTruncated},
		"L4":  {text: "[12307677]17.34.51.68"},
		"L5":  {text: "[2864434397]17.34.51.68"},
		"L6":  {err: ErrBadLength},
		"L7":  {text: "lcaf-type-170(00bbccdd000111223344)"},
		"L8":  {text: "application-data(class 0xaabbcc, protocol 221, ports 42657-42658 to 65501-65502, 17.34.51.68)"},
		"L9":  {err: ErrBadLength},
		"L10": {text: "explicit-locator-path(170.187.204.221 LS, 17.34.51.68 P)"},
		"L11": {text: "34.51.68.85/24 from 17.34.51.68/16"},
		"L12": {text: "4433:2211:8877:6655:99aa:bbcc:aabb:ccdd/120 from 1122:3344:5566:7788:99aa:bbcc:aabb:ccdd/120"},
		"L13": {text: "key-value-address-pair(17.34.51.68, 34.51.68.85)"},
		"L14": {text: "lcaf-type-17(000001ff)"},
		"L15": {text: `"david"`},
		"L16": {text: `"dav"`, size: 6},
	}
	vs := addressVectors(t)
	if len(vs) != len(want) {
		t.Errorf("%d vectors, want %d", len(vs), len(want))
	}
	for _, v := range vs {
		w := want[v.name]
		a, n, err := DecodeAddress(v.b)
		if !errors.Is(err, w.err) {
			t.Errorf("%s: error %v, want %v", v.name, err, w.err)
		}
		if err != nil {
			continue
		}
		if w.size == 0 {
			w.size = len(v.b)
		}
		if n != w.size || a.String() != w.text {
			t.Errorf("%s: %d octets, %v; want %d, %s", v.name, n, a, w.size, w.text)
		}
		if b, err := a.AppendBinary(nil); err != nil || !bytes.Equal(b, v.b[:n]) {
			t.Errorf("%s: encodes to %x, %v", v.name, b, err)
		}
		for cut := range n {
			if _, _, err := DecodeAddress(slices.Clip(bytes.Clone(v.b[:cut]))); err == nil {
				t.Errorf("%s: decodes when cut to %d of %d octets", v.name, cut, n)
			}
		}
	}
}

func TestAddressFamilies(t *testing.T) {
	tests := []struct {
		hex, text string
		afi       AFI
	}{
		{"0000", "none", AFINone},
		{"0001 c0000201", "192.0.2.1", AFIIPv4},
		{"0002 20010db8000000000000000000000001", "2001:db8::1", AFIIPv6},
		{"0002 00000000000000000000ffffc0000201", "::ffff:192.0.2.1", AFIIPv6},
		{"0006 020000000001", "02:00:00:00:00:01", AFIMAC},
		{"4005 020000000001", "02:00:00:00:00:01", AFIEUI48},
		{"0011 00", `""`, AFIName},
		{"0011 1b5b324a00", `"\x1b[2J"`, AFIName},
		{"4003 0000 0220 0006 00000007 0000", "[7/32]", AFILCAF},
		{"4003 0000 0200 000c 00000007 0006 020000000001", "[7]02:00:00:00:00:01", AFILCAF},
		// Octets after the address are skipped.
		{"4003 0000 0200 000c 00000007 0001 c0000201 ffff", "[7]192.0.2.1", AFILCAF},
		// Unknown types in a list, and no looking into them.
		{"4003 0000 0100 0012 4003 0000 c800 0004 deadbeef 0001 c0000201", "afi-list(lcaf-type-200(deadbeef), 192.0.2.1)", AFILCAF},
		{"4003 0000 0000 0000", "null-body()", AFILCAF},
		// An LCAF that this package does not look into may hold anything.
		{"4003 0000 c800 0004 7777ffff", "lcaf-type-200(7777ffff)", AFILCAF},
	}
	for _, test := range tests {
		a := mustDecodeAddress(t, test.hex)
		if a.AFI() != test.afi || a.String() != test.text || a.IsZero() != (test.afi == AFINone) {
			t.Errorf("%s: %v %v, want %v %v", test.hex, a.AFI(), a, test.afi, test.text)
		}
		if !bytes.Equal(a.Bytes(), unhex(t, test.hex)) {
			t.Errorf("%s: is %x", test.hex, a.Bytes())
		}
		_, isIP := a.IP()
		_, isMAC := a.MAC()
		_, isName := a.Name()
		_, isLCAF := a.LCAF()
		if isIP != (a.AFI() <= AFIIPv6 && a.AFI() > 0) || isMAC != (a.AFI() == AFIMAC || a.AFI() == AFIEUI48) ||
			isName != (a.AFI() == AFIName) || isLCAF != (a.AFI() == AFILCAF) {
			t.Errorf("%s: ip %t mac %t name %t lcaf %t", test.hex, isIP, isMAC, isName, isLCAF)
		}
	}
	if got := (Address{}).Bytes(); !bytes.Equal(got, []byte{0, 0}) {
		t.Errorf("the zero Address is %x", got)
	}
}

func TestAddressErrors(t *testing.T) {
	nest := func(levels int) string { // lists around an empty list
		b := []byte{0x40, 3, 0, 0, 1, 0, 0, 0}
		for range levels {
			b, _ = LCAF{Type: LCAFAFIList, Payload: b}.AppendBinary(nil)
		}
		return string(b)
	}
	tests := []struct {
		name, b string
		err     error
		offset  int
	}{
		{"empty", "", ErrTruncated, 0},
		{"half an AFI", "\x00", ErrTruncated, 0},
		{"unknown AFI", "\x1e\x00\x00\x00\x00\x00", ErrUnknownAFI, 0},
		{"short IPv4", "\x00\x01\x0a\x00\x00", ErrTruncated, 2},
		{"name without NUL", "\x00\x11abc", ErrTruncated, 2},
		{"LCAF header", "\x40\x03\x00\x00\x01\x00\x00", ErrTruncated, 2},
		{"LCAF length", "\x40\x03\x00\x00\xaa\x00\x00\x01", ErrTruncated, 6},
		{"unknown AFI in a list", "\x40\x03\x00\x00\x01\x00\x00\x06\x00\x00\x00\x63ab", ErrUnknownAFI, 10},
		{"one octet in a list", "\x40\x03\x00\x00\x01\x00\x00\x01\x00\x00\x00", ErrBadLength, 8},
		{"name reaching out of a list", "\x40\x03\x00\x00\x01\x00\x00\x04\x00\x11ab\x00", ErrBadLength, 10},
		{"no instance", "\x40\x03\x00\x00\x02\x00\x00\x03\x00\x00\x00\x00", ErrBadLength, 8},
		{"no address in an instance", "\x40\x03\x00\x00\x02\x00\x00\x04\x00\x00\x00\x07", ErrBadLength, 12},
		{"source mask", "\x40\x03\x00\x00\x0c\x00\x00\x10\x00\x00\x21\x00\x00\x01abcd\x00\x01abcd", ErrBadMaskLen, 12},
		{"destination mask", "\x40\x03\x00\x00\x0c\x00\x00\x10\x00\x00\x00\x21\x00\x01abcd\x00\x01abcd", ErrBadMaskLen, 18},
		{"no masks", "\x40\x03\x00\x00\x0c\x00\x00\x02\x00\x00", ErrBadLength, 10},
		{"as deep as allowed", nest(MaxDepth - 1), nil, 0},
		{"too deep", nest(MaxDepth), ErrTooDeep, 8 * MaxDepth},
		{"20 deep", nest(20), ErrTooDeep, 8 * MaxDepth},
	}
	for _, test := range tests {
		_, _, err := DecodeAddress([]byte(test.b))
		if !errors.Is(err, test.err) {
			t.Errorf("%s: %v, want %v", test.name, err, test.err)
		}
		if de := (*DecodeError)(nil); errors.As(err, &de) && de.Offset != test.offset {
			t.Errorf("%s: %v, want octet %d", test.name, err, test.offset)
		}
	}
}

func TestAddressEID(t *testing.T) {
	tests := []struct {
		hex     string
		maskLen uint8
		want    string
		err     error
	}{
		{hex: "0001 0a020001", maskLen: 16, want: "10.2.0.0/16"}, // host bits cleared
		{hex: "0001 0a020001", maskLen: 0, want: "0.0.0.0/0"},
		{hex: "0001 0a020001", maskLen: 33, err: ErrBadMaskLen},
		{hex: "0002 20010db885a3000000008a2e03707334", maskLen: 80, want: "2001:db8:85a3:0:0::/80"},
		{hex: "0002 20010db885a3000000008a2e03707334", maskLen: 129, err: ErrBadMaskLen},
		{hex: "4003 0000 0220 000a 00000007 0001 0a020001", maskLen: 24, want: "[7]10.2.0.0/24"},
		{hex: "4003 0000 0220 000a 00ffffff 0001 0a020001", maskLen: 24, want: "[16777215]10.2.0.0/24"},
		{hex: "4003 0000 0220 000a 01000000 0001 0a020001", maskLen: 24, err: ErrNotIPEID},
		{hex: "4003 0000 0220 000a 00000000 0001 0a020001", maskLen: 24, want: "10.2.0.0/24"},
		{hex: "4003 0000 0c00 0010 0000 1018 0001 11223344 0001 22334455", maskLen: 99, want: "34.51.68.0/24 from 17.34.0.0/16"},
		{hex: "4003 0000 0c00 0010 0000 0018 0001 11223344 0001 22334455", maskLen: 24, want: "34.51.68.0/24"},
		{hex: "4003 0000 0200 001c 00000009 4003 0000 0c00 0010 0000 1018 0001 11223344 0001 22334455", want: "[9]34.51.68.0/24 from 17.34.0.0/16"},
		{hex: "4003 0000 0c00 0010 0000 1018 0001 11223344 0000 00000000", err: ErrNotIPEID},
		{hex: "0000", err: ErrNotIPEID},
		{hex: "0006 020000000001", maskLen: 48, err: ErrNotIPEID},
		{hex: "0011 6100", maskLen: 16, err: ErrNotIPEID},
		{hex: "0002 00000000000000000000ffffc0000201", maskLen: 128, err: ErrNotIPEID},
		{hex: "4003 0000 0220 0006 00000007 0000", err: ErrNotIPEID},
		{hex: "4003 0000 0d00 0000", err: ErrNotIPEID},
		{hex: "4003 0000 0100 0006 0001 0a020001", maskLen: 32, err: ErrNotIPEID},
		// An instance in an instance has no meaning.
		{hex: "4003 0000 0200 0016 00000001 4003 0000 0200 000a 00000002 0001 0a020001", maskLen: 32, err: ErrNotIPEID},
	}
	for _, test := range tests {
		got, err := mustDecodeAddress(t, test.hex).EID(test.maskLen)
		if !errors.Is(err, test.err) {
			t.Errorf("%s: error %v, want %v", test.hex, err, test.err)
		}
		if test.err == nil && got != mapping.MustParseEID(test.want) {
			t.Errorf("%s: %v, want %v", test.hex, got, test.want)
		}
	}
}

func TestMakeAddress(t *testing.T) {
	for _, s := range []string{"10.1.0.0/16", "[7]10.1.0.0/16", "2001:db8::/32", "[16777215]::/0", "0.0.0.0/0",
		"10.1.0.0/16 from 10.0.0.0/8", "[9]2001:db8::/32 from 2001:db8:1::/48"} {
		e := mapping.MustParseEID(s)
		a, maskLen := PrefixAddress(e)
		back := mustDecodeAddress(t, hex.EncodeToString(a.Bytes()))
		if got, err := back.EID(maskLen); err != nil || got != e {
			t.Errorf("%v is encoded as %v/%d, which is %v, %v", e, a, maskLen, got, err)
		}
		if got := a.PrefixString(maskLen); got != s {
			t.Errorf("%v is written %v", e, got)
		}
	}
	ip := netip.MustParseAddr("192.0.2.1")
	if got := EIDAddress(0, ip); got.AFI() != AFIIPv4 {
		t.Errorf("an EID of instance 0 is %v", got)
	}
	want := unhex(t, "4003 0000 0200 000a 00000007 0001 c0000201")
	if got := EIDAddress(7, ip); !bytes.Equal(got.Bytes(), want) {
		t.Errorf("[7]192.0.2.1 is %x, want %x", got.Bytes(), want)
	}
	if !IPAddress(netip.Addr{}).IsZero() || !EIDAddress(0, netip.Addr{}).IsZero() {
		t.Error("no address is not AFI 0")
	}
	zoned := netip.MustParseAddr("fe80::1%eth0")
	if got, ok := IPAddress(zoned).IP(); !ok || got != zoned.WithZone("") {
		t.Errorf("%v became %v", zoned, got)
	}
	mapped := netip.MustParseAddr("::ffff:192.0.2.1")
	if got, _ := IPAddress(mapped).IP(); got != mapped {
		t.Errorf("%v became %v", mapped, got)
	}
	if got := IPAddress(ip).PrefixString(99); got != "192.0.2.1/99" {
		t.Errorf("PrefixString of an impossible mask: %s", got)
	}
}

func TestAFIString(t *testing.T) {
	for afi, want := range map[AFI]string{0: "none", 1: "ipv4", 2: "ipv6", 6: "mac", 17: "distinguished-name", 16387: "lcaf", 16389: "eui-48", 3: "afi-3"} {
		if got := afi.String(); got != want {
			t.Errorf("AFI %d is %s, want %s", uint16(afi), got, want)
		}
	}
}
