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

// fuzzLCAF holds the round trip of the LCAFs that are looked into.
func fuzzLCAF(t *testing.T, l LCAF) {
	type codec interface {
		Decode(LCAF) error
		AppendBinary([]byte) ([]byte, error)
		String() string
	}
	var x, y codec
	switch l.Type {
	case LCAFInstanceID:
		x, y = new(InstanceID), new(InstanceID)
	case LCAFAFIList:
		x, y = new(AFIList), new(AFIList)
	case LCAFSourceDest:
		x, y = new(SourceDest), new(SourceDest)
	default:
		return
	}
	if err := x.Decode(l); err != nil {
		t.Fatalf("%v was accepted: %v", l, err)
	}
	b, err := x.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	a, _, err := DecodeAddress(b)
	if err != nil {
		t.Fatalf("%v encodes to %x: %v", x, b, err)
	}
	back, _ := a.LCAF()
	if err := y.Decode(back); err != nil || x.String() != y.String() {
		t.Fatalf("%v became %v, %v", x, y, err)
	}
}
