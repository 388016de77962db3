package api

import (
	"net/netip"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	eidolonv1 "github.com/eidolon-lisp/eidolon/api/proto/eidolon/v1"
	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// opaque are locators that are no plain address: an LCAF of type 1 with two
// addresses, a MAC address, a distinguished name.
var opaque = []string{
	"\x40\x03\x00\x00\x01\x00\x00\x0c\x00\x01\xc0\x00\x02\x01\x00\x01\xc0\x00\x02\x02",
	"\x00\x06\x02\x00\x00\x00\x00\x01",
	"\x00\x11rtr\x00",
}

func genAddr(t *rapid.T) netip.Addr {
	for {
		var a netip.Addr
		if rapid.Bool().Draw(t, "v4") {
			a = netip.AddrFrom4([4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "octets")))
		} else {
			a = netip.AddrFrom16([16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "octets")))
		}
		if mapping.ValidRLOC(a) == nil {
			return a
		}
	}
}

func genEID(t *rapid.T) mapping.EID {
	a := genAddr(t)
	p, err := a.Prefix(rapid.IntRange(0, a.BitLen()).Draw(t, "bits"))
	if err != nil {
		t.Fatal(err)
	}
	e, err := mapping.MakeEID(uint32(rapid.IntRange(0, mapping.MaxIID).Draw(t, "iid")), p)
	if err != nil {
		t.Fatal(err)
	}
	if rapid.Bool().Draw(t, "sourced") {
		e.Source, _ = a.Prefix(rapid.IntRange(1, a.BitLen()).Draw(t, "source bits"))
	}
	return e
}

func genRecord(t *rapid.T) *mapping.Record {
	r := &mapping.Record{
		EID:           genEID(t),
		TTL:           rapid.OneOf(rapid.Uint32Range(1, 1<<32-1), rapid.Just[uint32](mapping.TTLReceiver)).Draw(t, "ttl"),
		Authoritative: rapid.Bool().Draw(t, "authoritative"),
		Version:       uint16(rapid.IntRange(0, maxMapVersion).Draw(t, "version")),
	}
	seen := map[mapping.Locator]bool{}
	for range rapid.IntRange(0, 4).Draw(t, "locators") {
		l := mapping.Locator{}
		if rapid.IntRange(0, 3).Draw(t, "opaque") == 0 {
			l.Opaque = rapid.SampledFrom(opaque).Draw(t, "octets")
			a, _, _ := wire.DecodeAddress([]byte(l.Opaque))
			l.Addr, _ = a.RLOC()
		} else {
			l.Addr = genAddr(t)
		}
		if seen[l] {
			continue
		}
		seen[l] = true
		l.Priority, l.Weight = rapid.Byte().Draw(t, "priority"), rapid.Byte().Draw(t, "weight")
		l.MPriority, l.MWeight = rapid.Byte().Draw(t, "mpriority"), rapid.Byte().Draw(t, "mweight")
		l.Flags = mapping.LocatorFlags(rapid.IntRange(0, 7).Draw(t, "flags"))
		r.Locators = append(r.Locators, l)
	}
	r.SortLocators()
	if r.Negative() {
		r.Action = mapping.Action(rapid.IntRange(0, mapping.MaxAction).Draw(t, "action"))
	}
	return r
}

// TestRecordRoundTrip: what goes out and comes back, through the wire, is the
// same.
func TestRecordRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := genRecord(t)
		b, err := proto.Marshal(recordToProto(want))
		if err != nil {
			t.Fatal(err)
		}
		var p eidolonv1.Record
		if err := proto.Unmarshal(b, &p); err != nil {
			t.Fatal(err)
		}
		got, ferr := recordFromProto(&p)
		if ferr != nil {
			t.Fatalf("%v: %v", want, ferr)
		}
		if !got.Equal(want) {
			t.Fatalf("got %+v, want %+v", got, want)
		}
	})
}

func TestRecordDefaults(t *testing.T) {
	got, ferr := recordFromProto(&eidolonv1.Record{Eid: "10.0.0.0/8", Locators: []*eidolonv1.Locator{{Address: "192.0.2.1", Priority: 1, Weight: 2}}})
	if ferr != nil {
		t.Fatal(ferr)
	}
	want := &mapping.Record{EID: mapping.MustParseEID("10.0.0.0/8"), TTL: mapping.DefaultTTL,
		Locators: []mapping.Locator{mapping.MakeLocator(netip.MustParseAddr("192.0.2.1"), 1, 2)}}
	if !got.Equal(want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestRecordErrors(t *testing.T) {
	loc := func(l *eidolonv1.Locator) *eidolonv1.Record {
		return &eidolonv1.Record{Eid: "10.0.0.0/8", Locators: []*eidolonv1.Locator{{Address: "192.0.2.9"}, l}}
	}
	many := make([]*eidolonv1.Locator, 256)
	for _, c := range []struct {
		p           *eidolonv1.Record
		field, text string
	}{
		{&eidolonv1.Record{}, "eid", "not an EID"},
		{&eidolonv1.Record{Eid: "10.0.0.0/33"}, "eid", "not an EID"},
		{&eidolonv1.Record{Eid: "[16777216]10.0.0.0/8"}, "eid", "instance-ID"},
		{&eidolonv1.Record{Eid: "10.0.0.0/8", RecordTtl: proto.Uint32(0)}, "record_ttl", "withdraw"},
		{&eidolonv1.Record{Eid: "10.0.0.0/8", MapVersion: 4096}, "map_version", "0 to 4095"},
		{&eidolonv1.Record{Eid: "10.0.0.0/8", Action: 9}, "action", "not an action"},
		{&eidolonv1.Record{Eid: "10.0.0.0/8", Action: -1}, "action", "not an action"},
		{&eidolonv1.Record{Eid: "10.0.0.0/8", Action: 4, Locators: many[:1]}, "action", "one of them"},
		{&eidolonv1.Record{Eid: "10.0.0.0/8", Locators: many}, "locators", "at most 255"},
		{loc(&eidolonv1.Locator{}), "locators[1].address", "expected an IPv4 or IPv6 address"},
		{loc(&eidolonv1.Locator{Address: "::ffff:192.0.2.1"}), "locators[1].address", "not a plain"},
		{loc(&eidolonv1.Locator{Address: "fe80::1%eth0"}), "locators[1].address", "not a plain"},
		{loc(&eidolonv1.Locator{Address: "224.0.0.1"}), "locators[1].address", "underlay"},
		{loc(&eidolonv1.Locator{Address: "192.0.2.9"}), "locators", "twice"},
		{loc(&eidolonv1.Locator{Address: "192.0.2.1", Priority: 256}), "locators[1].priority", "0 to 255"},
		{loc(&eidolonv1.Locator{Address: "192.0.2.1", Weight: 256}), "locators[1].weight", "0 to 255"},
		{loc(&eidolonv1.Locator{Address: "192.0.2.1", MulticastPriority: proto.Uint32(256)}), "locators[1].multicast_priority", "0 to 255"},
		{loc(&eidolonv1.Locator{Address: "192.0.2.1", MulticastWeight: 1 << 31}), "locators[1].multicast_weight", "0 to 255"},
		{loc(&eidolonv1.Locator{Address: "192.0.2.1", Opaque: []byte(opaque[1])}), "locators[1].address", "not the address in opaque"},
		{loc(&eidolonv1.Locator{Opaque: []byte(opaque[1] + "x")}), "locators[1].opaque", "after the address"},
		{loc(&eidolonv1.Locator{Opaque: []byte("\x00\x01\xc0\x00\x02\x01")}), "locators[1].opaque", "not an opaque"},
		{loc(&eidolonv1.Locator{Opaque: []byte("\x40")}), "locators[1].opaque", ""},
	} {
		r, ferr := recordFromProto(c.p)
		if ferr == nil {
			t.Errorf("%v: got %v, want an error", c.p, r)
			continue
		}
		if ferr.field != c.field || !strings.Contains(ferr.Error(), c.text) {
			t.Errorf("%v: got %q, want field %q and text %q", c.p, ferr, c.field, c.text)
		}
	}
}
