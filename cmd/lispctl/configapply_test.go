package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/api"
	eidolonv1 "github.com/eidolon-lisp/eidolon/api/proto/eidolon/v1"
	"github.com/eidolon-lisp/eidolon/internal/config"
)

// configured serves a configuration in a directory for itself, and returns a
// command line that applies another one.
func configured(t *testing.T) (trial *config.Trial, apply []string) {
	t.Helper()
	h := &host{dir: t.TempDir()}
	trial, err := h.configuration(config.KindMapServer, "", serverConfig)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	t.Cleanup(func() { stop(); h.wait.Wait() })
	h.serve(ctx, programMapServer, api.Controlled(programMapServer, api.Controls{Trial: trial, Reload: trial.Reload}))
	for n := 0; ; n++ {
		if _, err := os.Stat(h.socket(programMapServer)); err == nil {
			break
		} else if n > 1000 {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond)
	}
	next := filepath.Join(h.dir, "next.yml")
	if err := os.WriteFile(next, []byte("listen: [192.0.2.1]\nlog: {level: debug}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return trial, []string{"config", "apply", next, "--socket", h.socket(programMapServer)}
}

// level returns which is in use.
func level(trial *config.Trial) string {
	d, _, err := trial.Compare([]byte("listen: [192.0.2.1]\nlog: {level: error}\n"))
	if err != nil || len(d) != 1 {
		return "unknown"
	}
	return d[0].Before
}

// Who does not answer in time, or is interrupted, has the configuration before.
func TestApplyUnanswered(t *testing.T) {
	t.Parallel()
	for _, interrupted := range []bool{false, true} {
		trial, args := configured(t)
		ctx, cancel := context.WithCancel(t.Context())
		wait := "1s"
		if interrupted {
			wait = "1h"
		}
		silent, hold := io.Pipe() // nobody writes
		defer hold.Close()
		var stdout, stderr bytes.Buffer
		code := make(chan int)
		go func() { code <- run(ctx, append(args, "--confirm", wait), silent, &stdout, &stderr) }()
		for n := 0; interrupted && level(trial) != "debug"; n++ {
			if n > 2000 {
				t.Fatal("it is never used")
			}
			time.Sleep(5 * time.Millisecond)
		}
		if interrupted {
			cancel()
		}
		if got := <-code; got != exitReverted || level(trial) != "info" || !strings.Contains(stderr.String(), "the configuration before is back") {
			t.Errorf("exit code %d, %s is in use, said\n%s", got, level(trial), &stderr)
		}
		cancel()
		if text, err := os.ReadFile(trial.Path); err != nil || !strings.Contains(string(text), "info") {
			t.Errorf("the file is %s, %v", text, err)
		}
	}
}

// Differences that the daemon does not tell are not left out in silence, and what is
// for programs is whole.
func TestMoreDifferences(t *testing.T) {
	for f, want := range map[format]struct{ out, err string }{
		formatTable: {"KEY  IN-USE  FILE  EFFECT\nk    1       2     at once\nand 6 differences more\n", ""},
		formatJSON:  {"[\n{\"key\":\"k\",\"before\":\"1\",\"after\":\"2\",\"restart\":false}\n]\n", "and 6 differences more\n"},
	} {
		var stdout, stderr bytes.Buffer
		cmd := newConfigDiff()
		cmd.SetErr(&stderr)
		s := configSession{cmd: cmd, o: output{w: &stdout, format: f}}
		d := &eidolonv1.DiffConfigurationResponse{Count: 7, Differences: []*eidolonv1.ConfigurationDifference{{Key: "k", Before: "1", After: "2"}}}
		if err := s.printDifferences(d); err != nil || stdout.String() != want.out || stderr.String() != want.err {
			t.Errorf("%s: %q, %q, %v", f, &stdout, &stderr, err)
		}
	}
}
