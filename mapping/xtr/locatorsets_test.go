package xtr

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/eidolon-lisp/eidolon/mapping"
)

// text returns a locator-set as a line.
func (s LocatorSetStatus) text() string {
	var parts []string
	for _, m := range s.Members {
		p := fmt.Sprintf("%v %d/%d", m.Addr, m.Priority, m.Weight)
		if m.Flags&mapping.Reachable != 0 {
			p += " R"
		}
		if m.Here {
			p += fmt.Sprintf(" %v", m.State)
		}
		parts = append(parts, strings.TrimSpace(p+" "+m.Uplink))
	}
	return fmt.Sprintf("%s: %s; %v", s.Name, strings.Join(parts, ", "), s.Databases)
}

// TestLocatorSets: the sets show what is registered of each of their locators, and
// which database-mappings have them, after each change of uplinks, orders and
// configuration.
func TestLocatorSets(t *testing.T) {
	cfg := multihomed()
	other := mapping.MakeLocator(netip.MustParseAddr("203.0.113.77"), 3, 10)
	cfg.Databases[0].LocatorSet = "both"
	cfg.LocatorSets = []LocatorSet{
		{Name: "both", Uplinks: cfg.Databases[0].Uplinks},
		{Name: "spare", Locators: []mapping.Locator{other, mapping.MakeLocator(up2a, 9, 1)}},
	}
	r := newRig(t, cfg)
	r.start()
	check := func(what string, want ...string) {
		t.Helper()
		var got []string
		for _, s := range r.m.locatorSets() {
			got = append(got, s.text())
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s:\n%s\nwant\n%s", what, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	const spare = "spare: 198.18.0.1 9/1 R up eth3, 203.0.113.77 3/10 R; []"
	check("at the start", "both: 192.0.2.1 1/70 R up eth2, 198.18.0.1 1/30 R up eth3; [10.1.0.0/16]", spare)
	r.steer("eth2", drain)
	check("drained", "both: 192.0.2.1 255/70 R up eth2, 198.18.0.1 1/30 R up eth3; [10.1.0.0/16]", spare)
	r.steer("eth2", undrain)
	r.setUplinks(uplinks(false, true, up2a))
	check("no carrier", "both: 192.0.2.1 1/70 no-carrier eth2, 198.18.0.1 1/30 R up eth3; [10.1.0.0/16]", spare)
	r.setUplinks(uplinks(true, true))
	r.until(r.now.Sub(zeroTime) + 2*holdDown)
	check("without an address", "both: 192.0.2.1 1/70 R up eth2, invalid IP 1/30 gone eth3; [10.1.0.0/16]", "spare: 198.18.0.1 9/1 R, 203.0.113.77 3/10 R; []")

	// A name that changes alone changes nothing else.
	r.take()
	cfg.Databases[0].LocatorSet = "two"
	r.m.sets = []LocatorSet{{Name: "two", Uplinks: cfg.Databases[0].Uplinks}}
	if err := r.m.setDatabases(r.now, cfg.Databases); err != nil {
		t.Fatal(err)
	}
	r.collect()
	check("renamed", "two: 192.0.2.1 1/70 R up eth2, invalid IP 1/30 gone eth3; [10.1.0.0/16]")
	if d := r.m.databases(); len(d) != 1 || d[0].LocatorSet != "two" {
		t.Errorf("database-mappings %+v", d)
	}
	if len(r.out) != 0 {
		t.Errorf("%d messages were sent for a name", len(r.out))
	}
}
