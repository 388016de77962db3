package main

import (
	"net/netip"
	"testing"

	eidolonv1 "github.com/eidolon-lisp/eidolon/api/proto/eidolon/v1"
	"github.com/eidolon-lisp/eidolon/mapping"
)

// What stands beside an address, and what is no address, is shown, by show and
// by lig.
func TestLC1_NamesAndPlacesAreShown(t *testing.T) {
	for _, c := range []struct{ addr, opaque, want, state string }{
		{"192.0.2.1", "", "192.0.2.1", "up"},
		{"192.0.2.1", "\x40\x03\x00\x00\x01\x00\x00\x0b\x00\x01\xc0\x00\x02\x01\x00\x11ms\x00", `afi-list(192.0.2.1, "ms")`, "up"},
		{"192.0.2.1", "\x40\x03\x00\x00\x05\x00\x00\x12\x80\x34\x1f\x07\x80\x0d\x18\x1d\x00\x00\x00\x22\x00\x01\xc0\x00\x02\x01",
			`geo-coordinates(52°31'7"N 13°24'29"E 34 m, 192.0.2.1)`, "up"},
		{"", "\x40\x03\x00\x00\x0a\x00\x00\x08\x00\x01\x00\x01\xc0\x00\x02\x01", "explicit-locator-path(192.0.2.1 S)", "not an address"},
		{"", "\x00\x11etr\x00", `"etr"`, "not an address"},
		{"", "\x40\x03\x00\x00\xc8\x00\x00\x03abc", "lcaf-type-200(616263)", "not an address"},
	} {
		l := mapping.MakeLocator(netip.Addr{}, 1, 100)
		if c.addr != "" {
			l.Addr = netip.MustParseAddr(c.addr)
		}
		l.Opaque = c.opaque
		if got := locatorName(l); got != c.want || state(l) != c.state {
			t.Errorf("lig writes %s, %s; want %s, %s", got, state(l), c.want, c.state)
		}
		p := &eidolonv1.Locator{Address: c.addr, Opaque: []byte(c.opaque), Priority: 1, Weight: 100}
		if got := locatorText(p); got != c.want+" 1/100" {
			t.Errorf("show writes %s, want %s", got, c.want)
		}
	}
}
