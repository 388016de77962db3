package wire

import (
	"bytes"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/eidolon-lisp/eidolon/mapping"
)

// mappings returns the records of a message in the form of the model.
func mappings(t testing.TB, rs Records) []string {
	t.Helper()
	var s []string
	for r := range rs.All() {
		m, err := r.Mapping()
		if err != nil {
			t.Fatal(err)
		}
		s = append(s, m.String())
	}
	return s
}

func sameStrings(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s:\n  %s\nwant\n  %s", what, strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

func TestRecordFields(t *testing.T) {
	var m MapRegister
	if err := m.Decode(messageVector(t, "R5")); err != nil {
		t.Fatal(err)
	}
	sameStrings(t, "R5", mappings(t, m.Records),
		"153.16.254.1/32 ttl 10m, 192.168.136.10 1/100 LR",
		"152.16.254.0/23 ttl 11m, 192.168.136.11 1/100 LR",
		"151.16.254.1/32 ttl 12m, 192.168.136.12 1/100 LR",
		"150.16.254.1/32 ttl 13m, 192.168.136.13 1/100 LR")
	want := []struct {
		act     mapping.Action
		auth    bool
		version uint16
	}{{0, true, 0}, {2, true, 0x111}, {0, false, 0x222}, {1, false, 0x333}}
	i := 0
	for r := range m.Records.All() {
		w := want[i]
		if r.Action != w.act || r.Authoritative != w.auth || r.Version != w.version || r.NumLocators() != 1 {
			t.Errorf("R5 record %d: %+v", i, r)
		}
		i++
	}
	if err := m.Decode(messageVector(t, "R6")); err != nil {
		t.Fatal(err)
	}
	for r := range m.Records.All() {
		if r.Action != 7 || !r.Authoritative {
			t.Errorf("R6: action %v, authoritative %t", r.Action, r.Authoritative)
		}
	}
}

// The message keeps the order of its locators; the model sorts them.
func TestRecordLocatorOrder(t *testing.T) {
	var m MapRegister
	if err := m.Decode(messageVector(t, "R4")); err != nil {
		t.Fatal(err)
	}
	var got []Locator
	for r := range m.Records.All() {
		got = slices.Collect(r.Locators())
		for range r.Locators() {
			break // stops early
		}
	}
	for i, w := range []struct {
		addr       string
		p, w, q, v uint8
		flags      mapping.LocatorFlags
	}{
		{"192.168.136.10", 1, 100, 31, 0, mapping.Local | mapping.Reachable},
		{"204.170.170.17", 103, 0, 48, 52, mapping.Probed},
		{"192.168.136.10", 96, 17, 52, 164, mapping.Probed | mapping.Reachable},
	} {
		l := got[i]
		if l.Address.String() != w.addr || l.Priority != w.p || l.Weight != w.w || l.MPriority != w.q || l.MWeight != w.v || l.Flags != w.flags {
			t.Errorf("R4 locator %d: %+v, want %+v", i, l, w)
		}
	}
	sameStrings(t, "R4", mappings(t, m.Records),
		"153.16.254.1/32 ttl 10m, 192.168.136.10 1/100 LR, 192.168.136.10 96/17 pR, 204.170.170.17 103/0 p")
}

// A locator that is not a plain address goes through the model unchanged.
func TestOpaqueLocators(t *testing.T) {
	b := unhex(t, "000005a0 06 08 1000 0000 0001 0a000000"+
		"01640000 0001 4003 1122 aa33 0003 010203"+ // an unknown LCAF, reserved fields set
		"01640000 0001 0011 6d7300"+
		"01640000 0001 0006 020000000001"+
		"01640000 0001 0002 20010db8000000000000000000000001"+
		"01640000 0001 0000"+
		"01640000 0001 0001 c0000201")
	c := cursor{b: b}
	r := c.record()
	if c.err != nil || c.left() != 0 {
		t.Fatal(c.err, c.left())
	}
	m, err := r.Mapping()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, l := range m.Locators {
		if l.Addr.IsValid() == (l.Opaque != "") {
			t.Errorf("locator %+v", l)
		}
		if l.Addr.IsValid() {
			got = append(got, l.Addr.String())
			continue
		}
		a, _, _ := DecodeAddress([]byte(l.Opaque))
		got = append(got, a.String())
	}
	sameStrings(t, "locators", got, "192.0.2.1", "2001:db8::1", "none", "02:00:00:00:00:01", `"ms"`, "lcaf-type-170(010203)")

	again, err := AppendRecord(nil, m)
	if err != nil {
		t.Fatal(err)
	}
	if len(again) != len(b) || !bytes.Contains(again, unhex(t, "4003 1122 aa33 0003 010203")) {
		t.Errorf("encodes to %x", again)
	}
	c = cursor{b: again}
	back := c.record()
	if m2, err := back.Mapping(); err != nil || !m2.Equal(m) {
		t.Errorf("became %v, %v", m2, err)
	}
}

func TestRecordMapping(t *testing.T) {
	tests := []struct {
		name, hex string
		err       error
		want      string
	}{
		{"withdrawal", "00000000 00 10 1000 0000 0001 0a010000", nil, "10.1.0.0/16 ttl 0m no-action"},
		{"host bits", "00000001 00 10 7000 0000 0001 0a01ffff", nil, "10.1.0.0/16 ttl 1m drop"},
		{"unassigned action", "00000001 00 10 c000 0000 0001 0a010000", nil, "10.1.0.0/16 ttl 1m action-6"},
		{"name", "00000001 00 10 1000 0000 0011 6100", ErrNotIPEID, ""},
		{"MAC", "00000001 00 30 1000 0000 0006 020000000001", ErrNotIPEID, ""},
		{"list", "00000001 00 30 1000 0000 4003 0000 0100 0000", ErrNotIPEID, ""},
	}
	for _, test := range tests {
		c := cursor{b: unhex(t, test.hex)}
		r := c.record()
		if c.err != nil {
			t.Errorf("%s: %v", test.name, c.err)
			continue
		}
		m, err := r.Mapping()
		if !errors.Is(err, test.err) || test.err == nil && m.String() != test.want {
			t.Errorf("%s: %v, %v; want %s, %v", test.name, m, err, test.want, test.err)
		}
	}
}

// Masks longer than the address make the message undecodable, also inside an
// Instance-ID.
func TestRecordMaskLen(t *testing.T) {
	for _, test := range []struct {
		hex string
		max int
	}{
		{"0001 0a010000", 32},
		{"0002 20010db8000000000000000000000001", 128},
		{"0006 020000000001", 48},
		{"4005 020000000001", 48},
		{"4003 0000 0200 000a 00000007 0001 0a010000", 32},
		{"4003 0000 0200 000c 00000007 0006 020000000001", 48},
		{"0011 6100", 16}, // the NUL included, RFC 9735 section 3
		{"4003 0000 0f00 0004 0000 0000", 255},
		{"0000", 255},
	} {
		for maskLen := range 256 {
			b := append([]byte{0, 0, 0, 1, 0, byte(maskLen), 0, 0, 0, 0}, unhex(t, test.hex)...)
			c := cursor{b: b}
			c.record()
			if want := maskLen > test.max; errors.Is(c.err, ErrBadMaskLen) != want || !want && c.err != nil {
				t.Fatalf("%s/%d: %v", test.hex, maskLen, c.err)
			}
		}
	}
}

func TestAppendRecordErrors(t *testing.T) {
	good := mapping.Record{EID: mapping.MustParseEID("10.0.0.0/8"), TTL: 1}
	v4 := netip.MustParseAddr("192.0.2.1")
	locators := func(ls ...mapping.Locator) func(*mapping.Record) {
		return func(r *mapping.Record) { r.Locators = ls }
	}
	for name, change := range map[string]func(*mapping.Record){
		"no EID":             func(r *mapping.Record) { r.EID = mapping.EID{} },
		"action":             func(r *mapping.Record) { r.Action = 8 },
		"version":            func(r *mapping.Record) { r.Version = 0x1000 },
		"256 locators":       func(r *mapping.Record) { r.Locators = make([]mapping.Locator, 256) },
		"empty locator":      locators(mapping.Locator{}),
		"locator with zone":  locators(mapping.Locator{Addr: netip.MustParseAddr("fe80::1%eth0")}),
		"both forms":         locators(mapping.Locator{Addr: v4, Opaque: "\x00\x00"}),
		"opaque cut short":   locators(mapping.Locator{Opaque: "\x00\x01\x0a"}),
		"opaque too long":    locators(mapping.Locator{Opaque: "\x00\x00\x00"}),
		"opaque unknown AFI": locators(mapping.MakeLocator(v4, 1, 1), mapping.Locator{Opaque: "\x00\x63ab"}),
	} {
		r := good
		change(&r)
		b, err := AppendRecord([]byte{1, 2, 3}, &r)
		if !errors.Is(err, ErrInvalid) || !bytes.Equal(b, []byte{1, 2, 3}) {
			t.Errorf("%s: %x, %v", name, b, err)
		}
		if _, err := NewRecord(&r); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: NewRecord: %v", name, err)
		}
		if rs, err := NewRecords(&good, &r); !errors.Is(err, ErrInvalid) || rs.Len() != 0 {
			t.Errorf("%s: NewRecords: %d, %v", name, rs.Len(), err)
		}
	}
	if _, err := NewRecords(slices.Repeat([]*mapping.Record{&good}, 256)...); !errors.Is(err, ErrInvalid) {
		t.Errorf("256 records: %v", err)
	}
	rs, err := NewRecords(slices.Repeat([]*mapping.Record{&good}, 255)...)
	if err != nil || rs.Len() != 255 || rs.Size() != 255*16 {
		t.Errorf("255 records: %d, %d octets, %v", rs.Len(), rs.Size(), err)
	}
}

// Any record of the model survives the wire.
func TestRecordProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := drawRecord(t)
		b, err := AppendRecord(nil, want)
		if err != nil {
			t.Fatal(err)
		}
		c := cursor{b: b}
		r := c.record()
		if c.err != nil || c.left() != 0 {
			t.Fatalf("%v: %v, %d octets left", want, c.err, c.left())
		}
		got, err := r.Mapping()
		if err != nil || !got.Equal(want) {
			t.Fatalf("%v became %v, %v", want, got, err)
		}
		again, err := r.AppendBinary(nil)
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%x became %x, %v", b, again, err)
		}
		// Cut short, it is an error and never something else.
		if n := rapid.IntRange(0, len(b)-1).Draw(t, "cut"); true {
			c := cursor{b: slices.Clip(b[:n])}
			if c.record(); c.err == nil {
				t.Fatalf("decodes when cut to %d of %d octets", n, len(b))
			}
		}
	})
}

func drawPrefix(t *rapid.T, six bool) netip.Prefix {
	n := 4
	if six {
		n = 16
	}
	b := rapid.SliceOfN(rapid.Byte(), n, n).Draw(t, "address")
	if six {
		b[0] |= 0x20 // not IPv4-mapped
	}
	a, _ := netip.AddrFromSlice(b)
	p, _ := a.Prefix(rapid.IntRange(1, n*8).Draw(t, "mask_len"))
	return p
}

func drawRecord(t *rapid.T) *mapping.Record {
	six := rapid.Bool().Draw(t, "ipv6")
	r := &mapping.Record{
		EID: mapping.EID{
			IID:    rapid.SampledFrom([]uint32{0, 0, 1, 7, mapping.MaxIID}).Draw(t, "iid"),
			Prefix: drawPrefix(t, six),
		},
		TTL:           rapid.Uint32().Draw(t, "ttl"),
		Action:        mapping.Action(rapid.Uint8Range(0, 7).Draw(t, "action")),
		Authoritative: rapid.Bool().Draw(t, "authoritative"),
		Version:       rapid.Uint16Range(0, 4095).Draw(t, "version"),
	}
	if rapid.IntRange(0, 3).Draw(t, "sourced") == 0 {
		r.EID.Source = drawPrefix(t, six)
	}
	opaque := []string{"\x00\x00", "\x00\x11ms\x00", "\x40\x03\x00\x00\xaa\x00\x00\x02hi", "\x00\x06abcdef"}
	for range rapid.IntRange(0, 4).Draw(t, "locators") {
		l := mapping.Locator{
			Priority: rapid.Byte().Draw(t, "priority"), Weight: rapid.Byte().Draw(t, "weight"),
			MPriority: rapid.Byte().Draw(t, "mpriority"), MWeight: rapid.Byte().Draw(t, "mweight"),
			Flags: mapping.LocatorFlags(rapid.Uint8Range(0, 7).Draw(t, "flags")),
		}
		if rapid.IntRange(0, 3).Draw(t, "opaque") == 0 {
			l.Opaque = rapid.SampledFrom(opaque).Draw(t, "octets")
		} else {
			l.Addr = drawPrefix(t, rapid.Bool().Draw(t, "ipv6")).Addr()
		}
		r.Locators = append(r.Locators, l)
	}
	slices.SortStableFunc(r.Locators, mapping.Locator.Compare)
	return r
}
