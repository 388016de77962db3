package main

import (
	"bytes"
	"log/slog"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/eidolon-lisp/eidolon/internal/config"
	"github.com/eidolon-lisp/eidolon/internal/config/configtest"
	"github.com/eidolon-lisp/eidolon/internal/uplink"
)

// reloaded is what a reload gives to a running xTR.
type reloaded struct {
	recorder
	uplinks uplink.Config
	log     string
}

func reloadFrom(first *config.XTR, path string) (got reloaded) {
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, nil))
	r := reloader{path: path, first: first, site: &got.recorder, databases: &got.recorder, access: &got.recorder, logs: &got.recorder, log: log,
		watch: func(c *config.XTR) { got.uplinks = uplinkConfig(c, nil) }}
	r.reload()
	got.log = out.String()
	return got
}

// TestPageSaysWhatReloads: what docs/configuration.md says of each key is what a
// reload does.
func TestPageSaysWhatReloads(t *testing.T) {
	type tree = map[string]any
	second := func(m tree) {
		m["locator_sets"] = append(m["locator_sets"].([]any), tree{"name": "other", "locators": []any{tree{"address": "192.0.2.50"}, tree{"interface": "eth9"}}})
	}
	site := func(m tree) { // no part of it is used by a proxy or by BGP
		second(m)
		delete(m, "proxy_itr")
		delete(m, "proxy_etr")
		delete(m, "database_mappings_from_bgp")
		delete(m["bgp"].(tree), "announce")
	}
	silent := func(m tree) {
		second(m)
		delete(m["bgp"].(tree), "announce")
	}
	versions := func(m tree) {
		site(m)
		m["underlay"], m["map_versioning"] = "trusted", true
	}
	// Names by which others mean something can't change alone.
	for _, c := range configtest.Changes(t, "../..", config.KindXTR, append([]string{"locator_sets[].name", "instances[].iid"}, configtest.OfUsers...),
		configtest.Base{Example: "xtr.yml", Edit: site}, configtest.Base{Example: "xtr.yml", Edit: versions},
		configtest.Base{Example: "xtr.yml", Edit: second}, configtest.Base{Example: "xtr.yml", Edit: silent}, configtest.Base{Example: "host.yml"}) {
		first, err := config.LoadXTR(c.Before)
		if err != nil {
			t.Fatal(err)
		}
		configtest.Compared(t, c, config.KindXTR)
		before, got := reloadFrom(first, c.Before), reloadFrom(first, c.After)
		if strings.Contains(before.log, "restart") {
			t.Fatalf("%s: the same file is said to be changed: %s", c.Path, before.log)
		}
		restart := regexp.MustCompile(`restart.* keys="?\[[^]]*\b` + c.Key + `\b`).MatchString(got.log)
		log := got.log
		before.log, got.log = "", ""
		if applied := !reflect.DeepEqual(got, before); restart == c.AtOnce || c.AtOnce && !applied {
			t.Errorf("%s: the page says at once: %v; restart %v, applied %v:\n%s", c.Path, c.AtOnce, restart, applied, log)
		}
	}
}
