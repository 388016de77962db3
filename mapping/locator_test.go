package mapping

import (
	"net/netip"
	"slices"
	"testing"
)

// Plain addresses come first, IPv4 before IPv6, then all others by address
// family and LCAF type, whatever address is in them (RFC 8060 section 3).
func TestLC101_LocatorOrder(t *testing.T) {
	want := []Locator{
		{Addr: netip.MustParseAddr("192.0.2.1")},
		{Addr: netip.MustParseAddr("192.0.2.9")},
		{Addr: netip.MustParseAddr("2001:db8::1")},
		{Opaque: "\x00\x06\x02\x00\x00\x00\x00\x01"},
		{Opaque: "\x00\x11ms\x00"},
		{Addr: netip.MustParseAddr("192.0.2.5"), Opaque: "\x40\x03\x00\x00\x01\x00\x00\x06\x00\x01\xc0\x00\x02\x05"},
		{Addr: netip.MustParseAddr("192.0.2.2"), Opaque: "\x40\x03\x00\x00\x03\x00\x00\x0a\x00\x00\xfb\xf4\x00\x01\xc0\x00\x02\x02"},
		{Opaque: "\x40\x03\x00\x00\x0a\x00\x00\x08\x00\x00\x00\x01\xc0\x00\x02\x01"},
		{Opaque: "\x40\x03\x00\x00\xc8\x00\x00\x00"},
	}
	r := Record{Locators: slices.Clone(want)}
	slices.Reverse(r.Locators)
	r.SortLocators()
	if !slices.Equal(r.Locators, want) {
		t.Errorf("sorted to %q", r.Locators)
	}
	for i, a := range want {
		for j, b := range want {
			if got := a.Compare(b); got < 0 != (i < j) || got > 0 != (i > j) {
				t.Errorf("locator %d is compared to %d as %d", i, j, got)
			}
		}
	}
}

// A locator with an address in it is as good as a plain one.
func TestLocatorUsable(t *testing.T) {
	a := netip.MustParseAddr("192.0.2.5")
	named := MakeLocator(a, 1, 100)
	named.Opaque = "\x40\x03\x00\x00\x01\x00\x00\x06\x00\x01\xc0\x00\x02\x05"
	name := named
	name.Addr = netip.Addr{}
	down := named
	down.Flags = 0
	for _, c := range []struct {
		l    Locator
		want bool
	}{{MakeLocator(a, 1, 100), true}, {named, true}, {name, false}, {down, false}, {MakeLocator(a, PriorityUnusable, 100), false}} {
		if c.l.Usable() != c.want {
			t.Errorf("%+v is usable: %t", c.l, !c.want)
		}
	}
}
