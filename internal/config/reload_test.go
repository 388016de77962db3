package config

import (
	"reflect"
	"slices"
	"testing"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/auth"
)

// TestNeedsRestart: every field but those that are reloaded is named, by the
// key that stands in the file.
func TestNeedsRestart(t *testing.T) {
	load := func() *XTR {
		c, err := LoadXTR("../../deploy/examples/xtr.yml")
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	a, b := load(), load()
	b.DatabaseMappings = b.DatabaseMappings[:1]
	b.MapServers[0].Keys, b.MapServers[0].Merge = []auth.Key{{ID: 9}}, true
	b.MapResolvers, b.ResolverKeys = b.MapResolvers[:1], nil
	if got := a.NeedsRestart(b); len(got) != 0 {
		t.Errorf("%v need a restart", got)
	}
	b.XTRID, b.SiteID, b.MapCacheLimit = mapping.XTRID{1}, 5, 7
	b.API.Socket = "x"
	if got, want := a.NeedsRestart(b), []string{"xtr_id", "site_id", "map_cache", "api"}; !slices.Equal(got, want) {
		t.Errorf("%v need a restart, want %v", got, want)
	}
	if a.MapServers[0].Keys == nil {
		t.Error("the comparison changed what it compares")
	}
	if reflect.ValueOf(*a).NumField() < 10 {
		t.Error("the fields of XTR are no longer compared")
	}
}
