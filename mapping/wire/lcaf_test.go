package wire

import (
	"bytes"
	"encoding/hex"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// lcafVector is an LCAF, what it says, and how it is written.
type lcafVector struct {
	name string
	hex  string // as it is sent: reserved bits zero
	want lcafBody
	text string
	// ends are the lengths that the payload may be cut to and still be one.
	ends []int
}

// testLCAF decodes every vector into one value, encodes what is wanted, and
// cuts the payload everywhere.
func testLCAF(t *testing.T, typ LCAFType, vectors ...lcafVector) {
	t.Helper()
	for _, v := range vectors {
		b := unhex(t, v.hex)
		l := LCAF{Type: LCAFType(b[4]), Rsvd2: b[5], Payload: b[lcafHeader:]}
		if l.Type != typ || len(l.Payload) != int(b[6])<<8|int(b[7]) {
			t.Fatalf("%s: not an LCAF of type %d", v.name, typ)
		}
		got := lcafKinds[typ].body()
		for _, dirty := range vectors {
			d := unhex(t, dirty.hex)
			_ = got.Decode(LCAF{Type: typ, Rsvd2: d[5], Payload: d[lcafHeader:]})
		}
		if err := got.Decode(l); err != nil {
			t.Errorf("%s: %v", v.name, err)
			continue
		}
		if got.String() != v.text || v.want.String() != v.text || l.String() != v.text {
			t.Errorf("%s: decoded %v, wanted %v, as an LCAF %v; the text should be %s", v.name, got, v.want, l, v.text)
		}
		for _, x := range []lcafBody{got, v.want} {
			if again, err := x.AppendBinary([]byte{7}); err != nil || !bytes.Equal(again[1:], b) {
				t.Errorf("%s: encodes to %x, %v; want %x", v.name, again[1:], err, b)
			}
		}
		for n := range len(l.Payload) {
			err := got.Decode(LCAF{Type: typ, Rsvd2: l.Rsvd2, Payload: l.Payload[:n:n]})
			if slices.Contains(v.ends, n) {
				if err != nil {
					t.Errorf("%s: a payload of %d octets: %v", v.name, n, err)
				}
			} else if !errors.Is(err, ErrTruncated) {
				t.Errorf("%s: a payload of %d octets: %v", v.name, n, err)
			}
			// The same as an address: the Length contradicts what it holds.
			short := slices.Concat(b[:6], []byte{byte(n >> 8), byte(n)}, l.Payload)
			if a, _, err := DecodeAddress(short); typ != LCAFVendor && !slices.Contains(v.ends, n) && !errors.Is(err, ErrBadLength) {
				t.Errorf("%s: Length %d: %v, %v", v.name, n, a, err)
			}
		}
		if err := got.Decode(LCAF{Type: typ ^ 0x40, Payload: l.Payload}); !errors.Is(err, ErrUnknownType) {
			t.Errorf("%s: decoding another type: %v", v.name, err)
		}
	}
}

// refusesLCAF decodes payloads that are wrong in another way than too short.
func refusesLCAF(t *testing.T, typ LCAFType, err error, payloads ...string) {
	t.Helper()
	for _, p := range payloads {
		l := LCAF{Type: typ, Payload: unhex(t, p)}
		if got := lcafKinds[typ].body().Decode(l); !errors.Is(got, err) {
			t.Errorf("%s decodes: %v, want %v", p, got, err)
		}
		if a, got := l.Address(); !errors.Is(got, err) {
			t.Errorf("%s is %v, %v; want %v", p, a, got, err)
		}
	}
}

// unencodable encodes what has no encoding.
func unencodable(t *testing.T, vs ...lcafBody) {
	t.Helper()
	for _, v := range vs {
		if b, err := v.AppendBinary([]byte{7}); !errors.Is(err, ErrInvalid) || len(b) != 1 {
			t.Errorf("%v encodes to %x, %v", v, b, err)
		}
	}
}

const (
	v4Hex = "0001 c0000201"
	v6Hex = "0002 20010db8000000000000000000000001"
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
	long := LCAF{Type: 200, Payload: make([]byte, 100)}
	if got := long.String(); got != "lcaf-type-200("+strings.Repeat("00", 32)+"... 100 octets)" {
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

// A message whose EID is of a type that is not known, or is none for EIDs,
// does not decode; a locator of one is carried and not used (RFC 9306 section
// 3).
func TestLC100_UnknownType(t *testing.T) {
	const (
		unknown = "4003 0000 c800 0004 deadbeef"
		path    = "4003 0000 0a00 0008 0000" + v4Hex
	)
	for _, eid := range []string{unknown, path, "4003 0000 0200 0010 00000007" + unknown} {
		c := cursor{b: unhex(t, "000005a0 00 00 1000 0000"+eid)}
		if c.record(); !errors.Is(c.err, ErrUnknownLCAF) {
			t.Errorf("a record of %s: %v", eid, c.err)
		}
		var q MapRequest
		if err := q.Decode(unhex(t, "10000001 0000000000000001 0000"+v4Hex+"0000"+eid)); !errors.Is(err, ErrUnknownLCAF) {
			t.Errorf("a request for %s: %v", eid, err)
		}
	}
	c := cursor{b: unhex(t, "000005a0 01 18 1000 0000"+v4Hex+"01640000 0001"+unknown)}
	r := c.record()
	m, err := r.Mapping()
	if c.err != nil || err != nil || len(m.Locators) != 1 {
		t.Fatal(c.err, err)
	}
	if l := m.Locators[0]; l.Opaque != string(unhex(t, unknown)) || l.Usable() {
		t.Errorf("the locator became %+v", l)
	}
	for typ := range 256 {
		a := LCAF{Type: LCAFType(typ)}
		rloc := slices.Contains([]LCAFType{1, 2, 3, 4, 5, 8, 10, 11, 13, 14, 15, 16, 255}, a.Type)
		if b, _ := a.AppendBinary(nil); (Address{b}).IsLocator() != rloc {
			t.Errorf("type %d is a locator: %t", typ, !rloc)
		}
	}
}

// LCAFs are read MaxDepth deep, of any type that holds addresses.
func TestLC102_NestingLimit(t *testing.T) {
	around := map[LCAFType]func(Address) lcafBody{
		LCAFAFIList:      func(a Address) lcafBody { l := NewAFIList(a); return &l },
		LCAFInstanceID:   func(a Address) lcafBody { return &InstanceID{Address: a} },
		LCAFASNumber:     func(a Address) lcafBody { return &ASNumber{Address: a} },
		LCAFAppData:      func(a Address) lcafBody { return &AppData{Address: a} },
		LCAFGeo:          func(a Address) lcafBody { return &Geo{Address: a} },
		LCAFNAT:          func(a Address) lcafBody { return &NAT{RTRs: NewAFIList(a)} },
		LCAFNonceLocator: func(a Address) lcafBody { return &NonceLocator{Address: a} },
		LCAFMulticast:    func(a Address) lcafBody { return &Multicast{Group: a} },
		LCAFELP:          func(a Address) lcafBody { l := NewELP(Hop{Address: a}); return &l },
		LCAFSecurityKey:  func(a Address) lcafBody { return &SecurityKey{Locator: a} },
		LCAFSourceDest:   func(a Address) lcafBody { return &SourceDest{Dest: a} },
		LCAFRLE:          func(a Address) lcafBody { l := NewRLE(Replica{Address: a}); return &l },
		LCAFJSON:         func(a Address) lcafBody { return &JSON{Address: a} },
		LCAFKeyValue:     func(a Address) lcafBody { return &KeyValue{Value: a} },
		LCAFEncap:        func(a Address) lcafBody { return &EncapFormat{Address: a} },
	}
	for typ, wrap := range around {
		a := IPAddress(netip.MustParseAddr("192.0.2.1"))
		for depth := 1; depth <= MaxDepth+1; depth++ {
			b, err := wrap(a).AppendBinary(nil)
			if err != nil {
				t.Fatal(err)
			}
			_, _, err = DecodeAddress(b)
			if depth <= MaxDepth && err != nil || depth > MaxDepth && !errors.Is(err, ErrTooDeep) {
				t.Errorf("%v, %d deep: %v", typ, depth, err)
			}
			a = Address{b}
		}
		// And what is wrong inside is wrong outside.
		b, _ := wrap(Address{[]byte{0x1e, 0x00}}).AppendBinary(nil)
		if _, _, err := DecodeAddress(b); !errors.Is(err, ErrUnknownAFI) {
			t.Errorf("%v of an unknown address family: %v", typ, err)
		}
	}
}

func TestAbuse_NestedLCAF1000Deep(t *testing.T) {
	a := unhex(t, v4Hex)
	for range 1000 {
		a, _ = LCAF{Type: LCAFAFIList, Payload: a}.AppendBinary(nil)
	}
	if _, _, err := DecodeAddress(a); !errors.Is(err, ErrTooDeep) {
		t.Errorf("1000 deep: %v", err)
	}
	// Depth costs no more than MaxDepth: the innermost is never reached.
	bad := slices.Clone(a)
	bad[len(bad)-5] = 0x63 // the address family
	var d *DecodeError
	if _, _, err := DecodeAddress(bad); !errors.As(err, &d) || d.Offset != MaxDepth*lcafHeader {
		t.Errorf("stopped at %v", err)
	}
	var m MapReply
	if err := m.Decode(slices.Concat(unhex(t, "20000001 0000000000000001 000005a0 01 18 1000 0000"+v4Hex+"01640000 0001"), a)); !errors.Is(err, ErrTooDeep) {
		t.Errorf("as a locator: %v", err)
	}
}

// Reserved fields are zero when sent and ignored when received.
func TestLC103_ReservedBits(t *testing.T) {
	for _, test := range []struct {
		typ          LCAFType
		rsvd2        uint8 // the part that means nothing
		clean, dirty string
	}{
		{LCAFNull, 0xff, "", ""},
		{LCAFAFIList, 0xff, v4Hex, v4Hex},
		{LCAFInstanceID, 0, "00000007" + v4Hex, "00000007" + v4Hex},
		{LCAFASNumber, 0xff, "0000fbf4" + v4Hex, "0000fbf4" + v4Hex},
		{LCAFAppData, 0xff, "00002e06 03e807cf 01bb01bc" + v4Hex, "00002e06 03e807cf 01bb01bc" + v4Hex},
		{LCAFGeo, 0xff, "80341f07 800d181d 00000022 0000", "80341f07 800d181d 00000022 0000"},
		{LCAFOpaqueKey, 0xff, "01 0002 0a0b", "01 0002 0a0b"},
		{LCAFNAT, 0xff, "10f61f90 0000 0000 0000", "10f61f90 0000 0000 0000"},
		{LCAFNonceLocator, 0xff, "00123456" + v4Hex, "ff123456" + v4Hex},
		{LCAFMulticast, 0xff, "00000007 0000 1820" + v4Hex + v4Hex, "00000007 ffff 1820" + v4Hex + v4Hex},
		{LCAFELP, 0xff, "0005" + v4Hex, "fffd" + v4Hex},
		{LCAFSecurityKey, 0xff, "01 00 05 01 0001 61" + v4Hex, "01 ff 05 ff 0001 61" + v4Hex},
		{LCAFSourceDest, 0xff, "0000 1818" + v4Hex + v4Hex, "ffff 1818" + v4Hex + v4Hex},
		{LCAFRLE, 0xff, "00000080" + v4Hex, "ffffff80" + v4Hex},
		{LCAFJSON, 0xfe, "0002 7b7d" + v4Hex, "0002 7b7d" + v4Hex},
		{LCAFKeyValue, 0xff, v4Hex + v4Hex, v4Hex + v4Hex},
		{LCAFEncap, 0xff, "00000041" + v4Hex, "ffffffc1" + v4Hex},
		{LCAFVendor, 0xff, "0000005e 01", "ff00005e 01"},
	} {
		l := LCAF{Rsvd1: 0xff, Flags: 0xff, Type: test.typ, Rsvd2: test.rsvd2, Payload: unhex(t, test.dirty)}
		v := lcafKinds[test.typ].body()
		if err := v.Decode(l); err != nil {
			t.Errorf("%v: %v", test.typ, err)
			continue
		}
		want, _ := LCAF{Type: test.typ, Payload: unhex(t, test.clean)}.AppendBinary(nil)
		if got, err := v.AppendBinary(nil); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%v: %x, %v; want %x", v, got, err, want)
		}
	}
}

// LCAFs of every type are checked without allocation.
func TestLCAFCheckDoesNotAllocate(t *testing.T) {
	b := unhex(t, "4003 0000 0100 0078"+
		"4003 0000 0500 000e 8034 1f07 800d 181d 00000022 0000"+
		"4003 0000 0a00 0010 0007"+v4Hex+"0000"+v4Hex+
		"4003 0000 0b00 0011 02 00 05 01 0003 616263 0000"+v4Hex+
		"4003 0000 0e00 000f 0007 7b2261223a317d"+v4Hex+
		"4003 0000 1000 0006 00000000 0000"+v4Hex+"0000 0000")
	b[7] = byte(len(b) - lcafHeader)
	if n := testing.AllocsPerRun(100, func() {
		if _, _, err := DecodeAddress(b); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
