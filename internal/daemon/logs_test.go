package daemon

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"testing"
	"testing/slogtest"

	"github.com/eidolon-lisp/eidolon/internal/config"
)

// TestLogLevels: each subsystem has its level, whoever sets it.
func TestLogLevels(t *testing.T) {
	var out bytes.Buffer
	l := NewLogs(&out, []string{"plane", "probe"})
	plane, probe := l.Logger("plane"), l.Logger("probe").With("rloc", "192.0.2.1")
	lines := func(want ...string) {
		t.Helper()
		for _, x := range []struct {
			log  *slog.Logger
			name string
		}{{plane, "plane"}, {probe, "probe"}} {
			x.log.Debug("d")
			x.log.Info("i")
			x.log.Warn("w")
		}
		var got []string
		for line := range strings.Lines(out.String()) {
			_, rest, _ := strings.Cut(strings.TrimSpace(line), "msg=")
			got = append(got, rest)
		}
		if strings.Join(got, "; ") != strings.Join(want, "; ") {
			t.Errorf("logged %q, want %q", got, want)
		}
		out.Reset()
	}
	const p, r = " subsystem=plane", " subsystem=probe rloc=192.0.2.1"
	lines("i"+p, "w"+p, "i"+r, "w"+r)
	l.Configure(config.Log{Level: slog.LevelWarn, Levels: map[string]slog.Level{"probe": slog.LevelDebug}})
	lines("w"+p, "d"+r, "i"+r, "w"+r)
	if err := l.SetLevel("plane", slog.LevelInfo); err != nil {
		t.Error(err)
	}
	if got := maps.Collect(l.Levels()); len(got) != 2 || got["plane"] != slog.LevelInfo || got["probe"] != slog.LevelDebug {
		t.Errorf("levels %v", got)
	}
	lines("i"+p, "w"+p, "d"+r, "i"+r, "w"+r)
	if err := l.SetLevel("", slog.LevelError); err != nil {
		t.Error(err)
	}
	lines()
	if err := l.SetLevel("prob", slog.LevelDebug); err == nil || !strings.Contains(err.Error(), `"prob", expected one of plane, probe`) {
		t.Errorf("an unknown subsystem: %v", err)
	}
	lines()
	l.Configure(config.Log{})
	lines("i"+p, "w"+p, "i"+r, "w"+r)
}

// TestLogFormat: the format changes under loggers in use, with what they were
// given before.
func TestLogFormat(t *testing.T) {
	var out bytes.Buffer
	l := NewLogs(&out, []string{"api"})
	log := l.Logger("api").WithGroup("call").With("n", 1)
	l.Configure(config.Log{Format: "json"})
	log.Info("x")
	l.Configure(config.Log{Format: "text"})
	log.Info("y")
	first, second, _ := strings.Cut(out.String(), "\n")
	var got struct {
		Msg, Subsystem string
		Call           struct{ N int }
	}
	if err := json.Unmarshal([]byte(first), &got); err != nil || got.Msg != "x" || got.Subsystem != "api" || got.Call.N != 1 {
		t.Errorf("%q: %+v, %v", first, got, err)
	}
	if !strings.HasSuffix(second, " msg=y subsystem=api call.n=1\n") {
		t.Errorf("%q", second)
	}
}

// TestLogHandler runs the suite of the standard library.
func TestLogHandler(t *testing.T) {
	var out bytes.Buffer
	l := NewLogs(&out, []string{"x"})
	l.Configure(config.Log{Format: "json"})
	h := &handler{l, l.levels["x"], l.forText, l.forJSON}
	if err := slogtest.TestHandler(h, func() (list []map[string]any) {
		for line := range strings.Lines(out.String()) {
			m := make(map[string]any)
			if err := json.Unmarshal([]byte(line), &m); err != nil {
				t.Fatal(err)
			}
			list = append(list, m)
		}
		return list
	}); err != nil {
		t.Error(err)
	}
}

// TestLogsTogether: loggers are used while levels and format change.
func TestLogsTogether(t *testing.T) {
	var out bytes.Buffer
	l := NewLogs(&out, []string{"a", "b"})
	var all sync.WaitGroup
	for _, n := range []string{"a", "b"} {
		all.Go(func() {
			for range 100 {
				l.Logger(n).Info("x")
			}
		})
	}
	for i := range 100 {
		l.Configure(config.Log{Format: []string{"text", "json"}[i%2]})
	}
	all.Wait()
	if n := strings.Count(out.String(), "\n"); n != 200 {
		t.Errorf("%d lines", n)
	}
	for line := range strings.Lines(out.String()) {
		if strings.Count(line, "subsystem") != 1 || !strings.HasSuffix(line, "\n") {
			t.Errorf("a torn line: %q", line)
		}
	}
}

// TestLogOff: a line that is not logged costs next to nothing.
func TestLogOff(t *testing.T) {
	log := NewLogs(io.Discard, []string{"x"}).Logger("x")
	if n := testing.AllocsPerRun(100, func() { log.Debug("x") }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	defer func() {
		if recover() == nil {
			t.Error("a subsystem that is not there has a logger")
		}
	}()
	NewLogs(io.Discard, nil).Logger("x")
}
