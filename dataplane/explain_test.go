package dataplane_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/encap"
	"github.com/eidolon-lisp/eidolon/mapping"
)

func TestExplain(t *testing.T) {
	f := dataplane.NewFIB()
	f.SetSources(from(netip.MustParseAddr("192.0.2.1")))
	f.SetLocal([]dataplane.LocalEID{{EID: mapping.MustParseEID("10.1.0.0/16")}})
	l := func(a string, priority, weight uint8) mapping.Locator {
		return mapping.MakeLocator(netip.MustParseAddr(a), priority, weight)
	}
	down := l("203.0.113.4", 1, 100)
	down.Flags = 0
	name := mapping.Locator{Opaque: "\x00\x11rtr\x00", Priority: 1, Weight: 100, Flags: mapping.Reachable}
	several := &mapping.Record{EID: mapping.MustParseEID("10.2.0.0/16"), TTL: 60, Locators: []mapping.Locator{
		l("203.0.113.1", 1, 75), l("203.0.113.2", 1, 25), l("203.0.113.3", 2, 100), down,
		l("203.0.113.5", 255, 0), l("203.0.113.6", 1, 0), l("2001:db8::1", 1, 100), name}}
	install := func(r *mapping.Record) {
		f.Apply([]mapping.CacheChange{{EID: r.EID, Record: r, Expires: t0.Add(r.Lifetime())}})
	}
	install(several)
	install(&mapping.Record{EID: mapping.MustParseEID("10.3.0.0/16"), TTL: 60, Locators: []mapping.Locator{l("203.0.113.9", 1, 100)}})
	install(&mapping.Record{EID: mapping.MustParseEID("10.4.0.0/16"), TTL: 60, Locators: []mapping.Locator{l("2001:db8::1", 1, 100)}})
	install(mapping.NegativeRecord(mapping.MustParseEID("10.5.0.0/16"), mapping.NativelyForward, 60))
	install(mapping.NegativeRecord(mapping.MustParseEID("10.6.0.0/16"), mapping.SendMapRequest, 60))

	s := f.Snapshot()
	key := func(src, dst string) encap.Key {
		k := encap.Key{Dst: netip.MustParseAddr(dst)}
		if src != "" {
			k.Src = netip.MustParseAddr(src)
		}
		return k
	}
	for _, c := range []struct {
		src, dst string
		drop     dataplane.DropReason
		rloc     string
	}{
		{"10.1.0.1", "10.3.0.1", dataplane.NotDropped, "203.0.113.9"},
		{"", "10.3.0.1", dataplane.NotDropped, "203.0.113.9"},
		{"", "10.2.0.1", dataplane.NotDropped, ""}, // depends on the source
		{"10.1.0.1", "10.4.0.1", dataplane.DropNoSource, ""},
		{"10.1.0.1", "10.5.0.1", dataplane.DropNativelyForward, ""},
		{"10.1.0.1", "10.6.0.1", dataplane.DropNoMapping, ""},
		{"10.1.0.1", "10.7.0.1", dataplane.DropNoMapping, ""},
		{"10.7.0.1", "10.3.0.1", dataplane.DropSourceNotEID, ""},
		{"10.1.0.1", "10.1.0.2", dataplane.DropDestinationLocal, ""},
		{"10.1.0.1", "224.0.0.5", dataplane.DropMulticast, ""},
		{"", "127.0.0.1", dataplane.DropNotRoutable, ""},
	} {
		d := s.Explain(0, key(c.src, c.dst), t0)
		rloc := ""
		if d.RLOC != nil {
			rloc = d.RLOC.Addr().String()
		}
		if d.Drop != c.drop || rloc != c.rloc || d.Source.IsValid() != (rloc != "") {
			t.Errorf("%s to %s: %v to %q from %v, want %v to %q", c.src, c.dst, d.Drop, rloc, d.Source, c.drop, c.rloc)
		}
	}
	if d := s.Explain(0, key("10.1.0.1", "10.3.0.1"), t0.Add(2*60*60*1e9)); d.Drop != dataplane.DropNoMapping {
		t.Errorf("after the mapping's expiry: %v", d.Drop)
	}

	// The locator of a flow is the one that its packets go to.
	k := key("10.1.0.1", "10.2.0.1")
	k.Ports, k.Protocol, k.HasPorts = 1234<<16|443, 6, true
	d := s.Explain(0, k, t0)
	if d.Hash != k.Hash() || d.Slot != int(k.Hash()%dataplane.Slots) || d.RLOC == nil || d.RLOC != d.Entry.RLOC(k.Hash()) {
		t.Errorf("flow: %+v", d)
	}
	total := 0
	for i, want := range []string{"", "", "priority 2, and there is one of 1", "R bit is clear", "not for unicast", "weight 0, beside larger", "no RLOC of its address family", "no address in it"} {
		u := d.Locators[i]
		total += u.Slots
		if (u.Slots == 0) != (want != "") || !strings.Contains(u.Why, want) || want == "" && u.Why != "" {
			t.Errorf("locator %v: %d slots, %q, want %q", u.Locator, u.Slots, u.Why, want)
		}
	}
	if total != dataplane.Slots || d.Locators[0].Slots <= d.Locators[1].Slots {
		t.Errorf("%d slots in all, %d and %d by weight 75 and 25", total, d.Locators[0].Slots, d.Locators[1].Slots)
	}
}
