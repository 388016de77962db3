package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/eidolon-lisp/eidolon/api"
	"github.com/eidolon-lisp/eidolon/internal/config"
	"github.com/eidolon-lisp/eidolon/internal/daemon"
	"github.com/eidolon-lisp/eidolon/mapping/server"
)

// TestReload: what is logged changes at once, and so do the sites; the rest is
// named, and a bad file, or one that the server refuses, changes nothing.
func TestReload(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mapserver.yml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("listen: [192.0.2.1]\n")
	first, err := config.LoadMapServer(path)
	if err != nil {
		t.Fatal(err)
	}
	srv, err := server.New(t.Context(), serverConfig(first, nil), nil)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	logs := daemon.NewLogs(&out, config.Subsystems(config.KindMapServer))
	logs.Configure(first.Log)
	var who callers
	r := reloader{path: path, first: first, sites: srv, access: &who, logs: logs, log: logs.Logger("daemon")}
	for _, x := range []struct {
		text          string
		server, alt   slog.Level
		says, silence string
	}{
		{"listen: [192.0.2.1]\nlog: {level: warn, levels: {server: debug}}\n", slog.LevelDebug, slog.LevelWarn, "", "reloaded"},
		{"listen: [192.0.2.1]\nlog: {level: warm}\n", slog.LevelDebug, slog.LevelWarn, "not reloaded", "configuration reloaded"},
		{"listen: [192.0.2.1, 192.0.2.2]\nlog: {format: json}\nreply_rate: {burst: 5}\n", slog.LevelInfo, slog.LevelInfo, `keys="[listen reply_rate]"`, "not reloaded"},
	} {
		out.Reset()
		write(x.text)
		r.reload()
		if got := maps.Collect(logs.Levels()); got["server"] != x.server || got["alt"] != x.alt {
			t.Errorf("%q: levels %v", x.text, got)
		}
		if !strings.Contains(out.String(), x.says) || strings.Contains(out.String(), x.silence) {
			t.Errorf("%q: logged %s", x.text, &out)
		}
	}
	const key = "{key_id: 1, key: a key of more than sixteen octets}"
	sites := func(more string) string {
		return "listen: [192.0.2.1]\nlog: {level: warn}\nsites:\n  - name: a\n    authentication_keys: [" + key + "]\n    eid_prefixes: [{prefix: 10.1.0.0/16}]\n" + more
	}
	write(sites("api: {audit_file: one}\n"))
	if done, err := r.reload(); err != nil || len(done.Restart) > 0 || len(srv.Sites()) != 1 {
		t.Fatalf("a site more: %+v, %v, %d sites", done, err, len(srv.Sites()))
	}
	broken := errors.New("the store is full")
	write(sites("") + "  - name: b\n    authentication_keys: [" + key + "]\n    eid_prefixes: [{prefix: 10.2.0.0/16}]\napi: {audit_file: two}\n")
	r.sites = refusing{broken}
	if done, err := r.reload(); !errors.Is(err, broken) || done.Restart != nil {
		t.Errorf("a store that is full: %+v, %v", done, err)
	}
	if filepath.Base(who.api.AuditFile) != "one" {
		t.Errorf("after that the audit log is %q", who.api.AuditFile)
	}
	r.sites, who.err = srv, errors.New("no such directory")
	if _, err := r.reload(); !errors.Is(err, who.err) || len(srv.Sites()) != 1 {
		t.Errorf("an audit log that can't be: %v, %d sites", err, len(srv.Sites()))
	}
	who.err = nil
	done, err := r.reload()
	if err != nil || len(srv.Sites()) != 2 || filepath.Base(who.api.AuditFile) != "two" || fmt.Sprint(done.Changed) != "[sites api]" {
		t.Errorf("another site: %v, %d sites, the audit log is %q, changed is %v", err, len(srv.Sites()), who.api.AuditFile, done.Changed)
	}
	if done, err := r.reload(); err != nil || len(done.Changed) > 0 {
		t.Errorf("the same file again: %v, changed is %v", err, done.Changed)
	}
}

type refusing struct{ err error }

func (x refusing) SetSites(context.Context, []server.Site) error { return x.err }

// callers are who may call the API.
type callers struct {
	api config.API
	err error
}

func (c *callers) Reload(a config.API) error {
	if c.err == nil {
		c.api = a
	}
	return c.err
}

func (c *callers) Hangup(api.Reloaded, error) {}

func (c *callers) Expired(error) {}
