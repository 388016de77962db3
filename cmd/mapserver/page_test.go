package main

import (
	"bytes"
	"context"
	"log/slog"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/eidolon-lisp/eidolon/api"
	"github.com/eidolon-lisp/eidolon/internal/config"
	"github.com/eidolon-lisp/eidolon/internal/config/configtest"
	"github.com/eidolon-lisp/eidolon/mapping/server"
)

// TestPageSaysWhatReloads: what docs/configuration.md says of each key is what a
// reload does.
func TestPageSaysWhatReloads(t *testing.T) {
	for _, c := range configtest.Changes(t, "../..", config.KindMapServer, configtest.OfUsers,
		configtest.Base{Example: "mapserver.yml"}, configtest.Base{Example: "mapserver.yml", Edit: func(m map[string]any) {
			tunnel := m["alt"].(map[string]any)["tunnels"].([]any)[0].(map[string]any)
			tunnel["addresses"] = []any{"172.16.0.2/29"}
		}}) {
		first, err := config.LoadMapServer(c.Before)
		if err != nil {
			t.Fatal(err)
		}
		configtest.Compared(t, c, config.KindMapServer)
		var out bytes.Buffer
		var got, before taken
		r := reloader{path: c.Before, first: first, sites: &before, access: &before, logs: &before, log: slog.New(slog.NewTextHandler(&out, nil))}
		if r.reload(); strings.Contains(out.String(), "restart") {
			t.Fatalf("%s: the same file is said to be changed: %s", c.Path, &out)
		}
		r.path, r.sites, r.access, r.logs = c.After, &got, &got, &got
		r.reload()
		restart := regexp.MustCompile(`restart.* keys="?\[[^]]*\b` + c.Key + `\b`).MatchString(out.String())
		if applied := !reflect.DeepEqual(got, before); restart == c.AtOnce || applied != c.AtOnce {
			t.Errorf("%s: the page says at once: %v; restart %v, applied %v:\n%s", c.Path, c.AtOnce, restart, applied, &out)
		}
	}
}

// taken keeps what a reload gives to a running map-server.
type taken struct {
	log   config.Log
	sites []server.Site
	api   config.API
}

func (x *taken) Configure(l config.Log) { x.log = l }

func (x *taken) SetSites(_ context.Context, sites []server.Site) error {
	x.sites = sites
	return nil
}

func (x *taken) Hangup(api.Reloaded, error) {}

func (x *taken) Expired(error) {}

func (x *taken) Reload(a config.API) error {
	x.api = a
	x.api.Socket = "" // which it does not take
	return nil
}
