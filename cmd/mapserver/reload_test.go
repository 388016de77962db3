package main

import (
	"bytes"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/eidolon-lisp/eidolon/internal/config"
	"github.com/eidolon-lisp/eidolon/internal/daemon"
)

// TestReload: what is logged changes at once, the rest is named, and a bad file
// changes nothing.
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
	var out bytes.Buffer
	logs := daemon.NewLogs(&out, config.Subsystems(config.KindMapServer))
	logs.Configure(first.Log)
	r := reloader{path: path, first: first, logs: logs, log: logs.Logger("daemon")}
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
}
