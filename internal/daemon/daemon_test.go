package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eidolon-lisp/eidolon/internal/version"
)

func TestMainStatusAndOutput(t *testing.T) {
	d := Daemon{
		Name: "testd", Short: "a daemon", Config: "/etc/testd.yml",
		Check: func(path string, deep bool) (error, error) {
			if deep {
				return errors.New("good.yml:1:1: is down"), errors.New("good.yml:2:2: is taken")
			}
			switch path {
			case "bad.yml":
				return nil, errors.New("bad.yml:3:5: found 12, expected an address\nbad.yml:9:1: unknown key")
			case "doubtful.yml":
				return errors.New("doubtful.yml:1:1: unused"), nil
			}
			return nil, nil
		},
		Run: func(_ context.Context, path string) error {
			if path == "bad.yml" {
				return errors.New("bad.yml:3:5: found 12, expected an address")
			}
			return nil
		},
	}
	for _, x := range []struct {
		args        string
		code        int
		out, errOut string
	}{
		{"check --config bad.yml", 1, "", "bad.yml:3:5: found 12, expected an address\nbad.yml:9:1: unknown key\n"},
		{"check --config doubtful.yml", 0, "doubtful.yml is good\n", "doubtful.yml:1:1: unused\n"},
		{"check --config good.yml --deep", 1, "", "good.yml:1:1: is down\ngood.yml:2:2: is taken\n"},
		{"check", 0, "/etc/testd.yml is good\n", ""},
		{"run --config bad.yml", 1, "", "bad.yml:3:5: found 12, expected an address\n"},
		{"run --config good.yml", 0, "", ""},
		{"run extra", 1, "", "unknown command"},
		{"run --confg x", 1, "", "unknown flag: --confg"},
		{"version", 0, "testd " + version.Get().String() + "\n", ""},
	} {
		var out, errOut bytes.Buffer
		code := d.Main(strings.Fields(x.args), &out, &errOut)
		if code != x.code || !strings.HasPrefix(out.String(), x.out) || !strings.Contains(errOut.String(), x.errOut) {
			t.Errorf("%s: status %d, out %q, err %q; want %d, %q, %q", x.args, code, out.String(), errOut.String(), x.code, x.out, x.errOut)
		}
	}
}

func TestWaitAddress(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	missing := fmt.Errorf("bind: %w", syscall.EADDRNOTAVAIL)
	synctest.Test(t, func(t *testing.T) {
		start, tries := time.Now(), 0
		err := WaitAddress(t.Context(), log, func() error {
			if tries++; tries < 5 {
				return missing
			}
			return nil
		})
		if err != nil || tries != 5 || time.Since(start) != 4*retryAfter {
			t.Errorf("%v after %d tries in %v", err, tries, time.Since(start))
		}
		if err := WaitAddress(t.Context(), log, func() error { return syscall.EACCES }); !errors.Is(err, syscall.EACCES) {
			t.Errorf("another error is %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := WaitAddress(ctx, log, func() error { return missing }); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("at the end of the context: %v", err)
		}
	})
}
