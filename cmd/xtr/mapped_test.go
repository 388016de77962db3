package main

import (
	"log/slog"
	"net/netip"
	"testing"

	"github.com/eidolon-lisp/eidolon/internal/config"
	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/bgp"
	"github.com/eidolon-lisp/eidolon/mapping/bgp/speaker"
)

// Mapped prefixes are announced up to their number, and those that have waited
// when there is room; negative entries, those of instances, and what is announced
// anyway are none of them.
func TestMappedPrefixes(t *testing.T) {
	c := bgp.Config{AS: 64512, RouterID: netip.MustParseAddr("10.1.255.1"), Neighbours: []bgp.Neighbour{{Addr: netip.MustParseAddr("10.1.255.2"), AS: 64513}}}
	sp, err := speaker.New(c)
	if err != nil {
		t.Fatal(err)
	}
	s := &bgpSpeaker{Speaker: sp, log: slog.New(slog.DiscardHandler), mapped: map[netip.Prefix]bool{}, waiting: map[netip.Prefix]bool{},
		cfg: &config.BGP{Config: c, MaxMapped: 2, OriginateMapped: &bgp.Route{}, Originate: []bgp.Route{{Prefix: netip.MustParsePrefix("10.9.0.0/16")}}}}
	entry := func(e string, positive bool) mapping.CacheChange {
		id := mapping.MustParseEID(e)
		r := mapping.NegativeRecord(id, mapping.NativelyForward, 15)
		if positive {
			r = &mapping.Record{EID: id, TTL: 60, Locators: []mapping.Locator{mapping.MakeLocator(netip.MustParseAddr("192.0.2.9"), 1, 100)}}
		}
		return mapping.CacheChange{EID: id, Record: r}
	}
	gone := func(e string) mapping.CacheChange { return mapping.CacheChange{EID: mapping.MustParseEID(e)} }
	has := func(what string, want ...string) {
		t.Helper()
		if len(s.wanted()) != len(want)+1 {
			t.Fatalf("%s: %v", what, s.wanted())
		}
		for _, w := range want {
			if !s.mapped[netip.MustParsePrefix(w)] {
				t.Fatalf("%s: %v, expected %v", what, s.mapped, want)
			}
		}
	}
	s.answering(true)
	s.cached([]mapping.CacheChange{entry("10.2.0.0/16", true), entry("10.3.0.0/16", false), entry("[7]10.4.0.0/16", true), entry("10.9.0.0/16", true)})
	has("one that counts", "10.2.0.0/16")
	s.cached([]mapping.CacheChange{entry("10.5.0.0/16", true)})
	s.cached([]mapping.CacheChange{entry("10.6.0.0/16", true), entry("10.7.0.0/16", true)})
	has("no room", "10.2.0.0/16", "10.5.0.0/16")
	s.cached([]mapping.CacheChange{gone("10.7.0.0/16")})
	s.cached([]mapping.CacheChange{gone("10.2.0.0/16")})
	has("room again", "10.5.0.0/16", "10.6.0.0/16")
	s.cached([]mapping.CacheChange{entry("10.6.0.0/16", false)})
	has("a mapping that has become negative", "10.5.0.0/16")
	if len(s.waiting) != 0 {
		t.Errorf("waiting: %v", s.waiting)
	}
}
