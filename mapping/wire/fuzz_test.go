package wire

import (
	"bytes"
	"testing"
)

// Every decoder holds the same property: what it accepts encodes again, that
// decodes to the same, and encodes to the same octets from then on.

func fuzzMessage[M any, P interface {
	*M
	message
}](f *testing.F) {
	for _, v := range allMessages(f) {
		f.Add(v.b)
		// The messages inside ECMs are seeds too.
		var e ECM
		if e.Decode(v.b) == nil {
			f.Add(e.Message)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		input := bytes.Clone(b)
		m := P(new(M))
		if m.Decode(b) != nil {
			return
		}
		once, err := m.AppendBinary(nil)
		if err != nil {
			t.Fatalf("%s does not encode: %v", dump(m), err)
		}
		if len(once) > len(b)+siteIDs {
			t.Fatalf("%d octets became %d", len(b), len(once))
		}
		again := P(new(M))
		if err := again.Decode(once); err != nil {
			t.Fatalf("%s encodes to %x: %v", dump(m), once, err)
		}
		if dump(again) != dump(m) {
			t.Fatalf("%s became\n%s", dump(m), dump(again))
		}
		twice, err := again.AppendBinary(nil)
		if err != nil || !bytes.Equal(twice, once) {
			t.Fatalf("%x became %x, %v", once, twice, err)
		}
		if typ, err := PeekType(b); err != nil {
			t.Fatalf("a %T decodes from type %v", m, typ)
		}
		useRecords(t, m)
		if !bytes.Equal(b, input) {
			t.Fatal("decoding changed the message")
		}
	})
}

// useRecords does with the records of m what the roles do.
func useRecords(t *testing.T, m message) {
	var rs Records
	switch m := m.(type) {
	case *MapReply:
		rs = m.Records
	case *MapRegister:
		rs = m.Records
	case *MapNotify:
		rs = m.Records
	case *MapRequest:
		for _, r := range m.EIDs {
			_ = r.EID.PrefixString(r.MaskLen)
		}
		return
	}
	n := 0
	for r := range rs.All() {
		n++
		locators := 0
		for l := range r.Locators() {
			_ = l.Address.String()
			locators++
		}
		if locators != r.NumLocators() {
			t.Fatalf("record %d: %d of %d locators", n, locators, r.NumLocators())
		}
		want, err := r.Mapping()
		if err != nil {
			continue
		}
		b, err := AppendRecord(nil, want)
		if err != nil {
			t.Fatalf("%v: %v", want, err)
		}
		c := cursor{b: b}
		back := c.record()
		if got, err := back.Mapping(); c.err != nil || err != nil || !got.Equal(want) {
			t.Fatalf("%v became %v, %v, %v", want, got, c.err, err)
		}
	}
	if n != rs.Len() {
		t.Fatalf("%d of %d records", n, rs.Len())
	}
}

func FuzzMapRequest(f *testing.F)  { fuzzMessage[MapRequest](f) }
func FuzzMapReply(f *testing.F)    { fuzzMessage[MapReply](f) }
func FuzzMapRegister(f *testing.F) { fuzzMessage[MapRegister](f) }
func FuzzMapNotify(f *testing.F)   { fuzzMessage[MapNotify](f) }
func FuzzInfo(f *testing.F)        { fuzzMessage[Info](f) }
func FuzzECM(f *testing.F)         { fuzzMessage[ECM](f) }

func FuzzAddress(f *testing.F) {
	for _, v := range addressVectors(f) {
		f.Add(v.b, uint8(24))
	}
	for _, s := range []string{"0000", "0001c0000201", "0006020000000001", "4003000002200006000000070000",
		"40030000020000180000000140030000020000" + "0a0000000200010a020001"} {
		f.Add(unhex(f, s), uint8(32))
	}
	f.Fuzz(func(t *testing.T, b []byte, maskLen uint8) {
		a, n, err := DecodeAddress(b)
		if err != nil {
			return
		}
		if n < 2 || n > len(b) || !bytes.Equal(a.Bytes(), b[:n]) {
			t.Fatalf("%x: %d octets, %x", b, n, a.Bytes())
		}
		again, m, err := DecodeAddress(a.Bytes())
		if err != nil || m != n || again.String() != a.String() {
			t.Fatalf("%x alone: %v, %d octets, %v", b[:n], again, m, err)
		}
		for cut := range n {
			if _, _, err := DecodeAddress(b[:cut:cut]); err == nil {
				t.Fatalf("%x decodes when cut to %d of %d octets", b[:n], cut, n)
			}
		}
		if l, ok := a.LCAF(); ok {
			back, err := l.Address()
			if err != nil || !bytes.Equal(back.Bytes(), a.Bytes()) {
				t.Fatalf("%x as an LCAF is %x, %v", a.Bytes(), back.Bytes(), err)
			}
			fuzzLCAF(t, l)
		}
		if e, err := a.EID(maskLen); err == nil {
			c, bits := PrefixAddress(e)
			if back, err := c.EID(bits); err != nil || back != e {
				t.Fatalf("%v became %v, %v", e, back, err)
			}
		}
	})
}

// fuzzLCAF holds that what a known type accepts encodes again, to something
// that decodes to the same, as an address too, and encodes the same from then on.
func fuzzLCAF(t *testing.T, l LCAF) {
	k := &lcafKinds[l.Type]
	if k.body == nil {
		return
	}
	x, y := k.body(), k.body()
	err := x.Decode(l)
	if l.Type != LCAFVendor {
		if c := k.check(l); (c == nil) != (err == nil) {
			t.Fatalf("%v: %v, but the check said %v", l, err, c)
		}
	}
	if err != nil {
		return
	}
	once, err := x.AppendBinary(nil)
	if err != nil {
		t.Fatalf("%v: %v", x, err)
	}
	if len(once) > lcafHeader+len(l.Payload) {
		t.Fatalf("%d octets of payload became %d", len(l.Payload), len(once)-lcafHeader)
	}
	if _, n, err := DecodeAddress(once); l.Type != LCAFVendor && (err != nil || n != len(once)) {
		t.Fatalf("%v encodes to %x: %d octets, %v", x, once, n, err)
	}
	back := LCAF{Type: LCAFType(once[4]), Rsvd2: once[5], Payload: once[lcafHeader:]}
	if err := y.Decode(back); err != nil || x.String() != y.String() {
		t.Fatalf("%v became %v, %v", x, y, err)
	}
	if twice, err := y.AppendBinary(nil); err != nil || !bytes.Equal(once, twice) {
		t.Fatalf("%x became %x, %v", once, twice, err)
	}
}

func FuzzLCAF(f *testing.F) {
	for typ, p := range map[LCAFType]string{
		LCAFNull: "", LCAFAFIList: v4Hex + "0011 6100", LCAFInstanceID: "00000007" + v4Hex, LCAFASNumber: "0000fbf4" + v4Hex,
		LCAFAppData: "00002e06 03e807cf 01bb01bc" + v4Hex, LCAFGeo: "80341f07 800d181d 00000022 0000",
		LCAFOpaqueKey: "01 0002 0a0b", LCAFNAT: "10f61f90" + v4Hex + v4Hex + v4Hex + v4Hex, LCAFNonceLocator: "00123456" + v4Hex,
		LCAFMulticast: "00000007 0000 1820" + v4Hex + v4Hex, LCAFELP: "0005" + v4Hex + "0000" + v6Hex,
		LCAFSecurityKey: "02 00 05 01 0001 61 0000" + v4Hex, LCAFSourceDest: "0000 1818" + v4Hex + v4Hex,
		LCAFRLE: "00000080" + v4Hex + "0011 6100 00000001" + v6Hex, LCAFJSON: "0002 7b7d" + v4Hex, LCAFKeyValue: v4Hex + "0000",
		LCAFEncap: "00000041" + v4Hex, LCAFVendor: "0000005e 01",
	} {
		f.Add(uint8(typ), uint8(0), unhex(f, p))
	}
	f.Fuzz(func(t *testing.T, typ, rsvd2 uint8, payload []byte) {
		if len(payload) > 0xffff {
			return
		}
		l := LCAF{Type: LCAFType(typ), Rsvd2: rsvd2, Payload: payload}
		fuzzLCAF(t, l)
		if a, err := l.Address(); err == nil {
			_, _ = a.RLOC()
			_ = a.String()
		}
	})
}
