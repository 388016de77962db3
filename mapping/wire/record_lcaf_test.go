package wire

import (
	"bytes"
	"errors"
	"net/netip"
	"testing"

	"github.com/eidolon-lisp/eidolon/mapping"
)

// An address with a name goes through the model with both: the octets
// unchanged, the address to encapsulate to.
func TestLC1_AddressAndNameInTheModel(t *testing.T) {
	const list = "4003 0000 0100 000b 0011 6d7300" + v4Hex
	const path = "4003 0000 0a00 0008 0000" + v4Hex
	b := unhex(t, "000005a0 04 08 1000 0000 0001 0a000000"+
		"01640000 0001"+v4Hex+"01640000 0001"+list+"01640000 0001"+path+"01640000 0001 0011 6d7300")
	c := cursor{b: b}
	r := c.record()
	m, err := r.Mapping()
	if c.err != nil || err != nil {
		t.Fatal(c.err, err)
	}
	want := []mapping.Locator{
		{Addr: netip.MustParseAddr("192.0.2.1")},
		{Opaque: string(unhex(t, "0011 6d7300"))},
		{Addr: netip.MustParseAddr("192.0.2.1"), Opaque: string(unhex(t, list))},
		{Opaque: string(unhex(t, path))},
	}
	for i, l := range m.Locators {
		if l.Addr != want[i].Addr || l.Opaque != want[i].Opaque {
			t.Errorf("locator %d is %+v, want %+v", i, l, want[i])
		}
	}
	again, err := AppendRecord(nil, m)
	if err != nil || len(again) != len(b) || !bytes.Contains(again, unhex(t, list)) || !bytes.Contains(again, unhex(t, path)) {
		t.Errorf("encodes to %x, %v", again, err)
	}
	// The two forms must agree.
	m.Locators[2].Addr = netip.MustParseAddr("192.0.2.2")
	if _, err := AppendRecord(nil, m); !errors.Is(err, ErrInvalid) {
		t.Errorf("another address than in the octets: %v", err)
	}
	m.Locators[2].Addr = netip.Addr{}
	if _, err := AppendRecord(nil, m); !errors.Is(err, ErrInvalid) {
		t.Errorf("no address, but one in the octets: %v", err)
	}
}

// Locators arrive in any order and are kept in that of the RFC.
func TestLC101_DecodedLocatorOrder(t *testing.T) {
	c := cursor{b: unhex(t, "000005a0 05 08 1000 0000 0001 0a000000"+
		"01640000 0001 4003 0000 0a00 0008 0000"+v4Hex+
		"01640000 0001 4003 0000 0100 0006"+v4Hex+
		"01640000 0001"+v6Hex+"01640000 0001 0011 6d7300 01640000 0001"+v4Hex)}
	r := c.record()
	m, err := r.Mapping()
	if c.err != nil || err != nil {
		t.Fatal(c.err, err)
	}
	out, err := NewRecord(m)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for l := range out.Locators() {
		got = append(got, l.Address.String())
	}
	sameStrings(t, "locators", got, "192.0.2.1", "2001:db8::1", `"ms"`, "afi-list(192.0.2.1)", "explicit-locator-path(192.0.2.1)")
}

// Counts that the octets do not bear out are found at the first record that is
// not there.
func TestAbuse_255RecordsIn60Bytes(t *testing.T) {
	reply := unhex(t, "200000ff 0000000000000001")
	register := unhex(t, "300000ff 0000000000000001 00000000")
	request := unhex(t, "100000ff 0000000000000001 0000"+v4Hex)
	for range 10 {
		reply = append(reply, unhex(t, "000005a0 00 18 1000 0000"+v4Hex)...)
		register = append(register, unhex(t, "000005a0 00 18 1000 0000"+v4Hex)...)
		request = append(request, unhex(t, "0018"+v4Hex)...)
	}
	notify := bytes.Clone(register)
	notify[0] = 0x40
	for _, m := range []struct {
		message
		b []byte
	}{{new(MapReply), reply}, {new(MapRegister), register}, {new(MapNotify), notify}, {new(MapRequest), request}} {
		b := m.b[:60:60]
		if err := m.Decode(b); !errors.Is(err, ErrTruncated) {
			t.Errorf("%T: %v", m.message, err)
		}
		// The work is bounded by the octets, not by the count.
		if n := testing.AllocsPerRun(10, func() { _ = m.Decode(b) }); n > 12 {
			t.Errorf("%T: %v allocations", m.message, n)
		}
	}
}
