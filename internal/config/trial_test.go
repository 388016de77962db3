package config

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// tried is a map-server's configuration in use, which some texts can't become.
type tried struct {
	Trial
	log     bytes.Buffer
	running *MapServer
	stuck   bool // the one before can't be used again
	reads   int  // of the file
	expired int
}

func newTried(t *testing.T) *tried {
	t.Helper()
	x := &tried{Trial: Trial{Path: filepath.Join(t.TempDir(), "mapserver.yml"), Kind: KindMapServer}}
	x.Log = slog.New(slog.NewTextHandler(&x.log, nil))
	x.Expired = func(error) { x.expired++ }
	x.Running = func() *Text { return x.running.Text }
	x.Take = func(text []byte) (done Reloaded, back func() error, err error) {
		next := new(MapServer)
		if text == nil {
			x.reads++
			next, err = LoadMapServer(x.Path)
		} else {
			next, err = ParseMapServer(x.Path, text)
		}
		if err != nil {
			return done, nil, err
		}
		before := x.running
		x.running = next
		return Reloaded{Restart: before.NeedsRestart(next)}, func() error {
			if x.stuck {
				return errors.New("stuck")
			}
			x.running = before
			return nil
		}, nil
	}
	x.write(t, "info")
	c, err := LoadMapServer(x.Path)
	if err != nil {
		t.Fatal(err)
	}
	x.running = c
	return x
}

func withLevel(level string) []byte {
	return []byte("listen: [192.0.2.1]\nlog: {level: " + level + "}\n")
}

func (x *tried) write(t *testing.T, level string) {
	t.Helper()
	if err := os.WriteFile(x.Path, withLevel(level), 0o640); err != nil {
		t.Fatal(err)
	}
}

// want checks which level is in use, and which is in the file.
func (x *tried) want(t *testing.T, running, file string) {
	t.Helper()
	got, err := os.ReadFile(x.Path)
	if err != nil || !bytes.Equal(got, withLevel(file)) {
		t.Errorf("the file is %s, %v, want %s", got, err, file)
	}
	if got := strings.ToLower(x.running.Log.Level.String()); got != running {
		t.Errorf("%s is in use, want %s", got, running)
	}
}

// What is applied is in use at once. Its file changes with the confirmation; when
// none comes in time, the configuration before is in use again.
func TestTrial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newTried(t)
		diffs, _, err := x.Compare(withLevel("debug"))
		if err != nil || len(diffs) != 1 || diffs[0].Key != "log.level" {
			t.Errorf("%+v, %v", diffs, err)
		}
		if _, _, err := x.Apply([]byte("listen: nonsense\n"), 0); err == nil {
			t.Error("a bad configuration was applied")
		}
		x.want(t, "info", "info")

		if _, id, err := x.Apply(withLevel("debug"), 0); err != nil || id != "" {
			t.Errorf("at once: %q, %v", id, err)
		}
		x.want(t, "debug", "debug")

		_, id, err := x.Apply(withLevel("warn"), time.Minute)
		if err != nil || id == "" {
			t.Fatalf("%q, %v", id, err)
		}
		x.want(t, "warn", "debug")
		if _, _, err := x.Apply(withLevel("error"), time.Minute); !errors.Is(err, ErrTrial) {
			t.Errorf("while one waits: %v", err)
		}
		if err := errors.Join(x.Confirm("another"), x.Revert("another")); !errors.Is(err, ErrNoTrial) {
			t.Errorf("by another name: %v", err)
		}
		time.Sleep(59 * time.Second)
		x.want(t, "warn", "debug")
		if err := x.Confirm(id); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Hour)
		x.want(t, "warn", "warn")

		if _, id, err = x.Apply(withLevel("error"), time.Minute); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		x.want(t, "warn", "warn")
		if err := x.Confirm(id); !errors.Is(err, ErrNoTrial) {
			t.Errorf("too late: %v", err)
		}
		if !strings.Contains(x.log.String(), "not confirmed in time") {
			t.Errorf("log:\n%s", &x.log)
		}
		if x.expired != 1 {
			t.Errorf("%d expired", x.expired)
		}

		if _, _, err = x.Apply(withLevel("error"), time.Minute); err != nil {
			t.Fatal(err)
		}
		if err := x.Revert(""); err != nil {
			t.Error(err)
		}
		x.want(t, "warn", "warn")
	})
}

// A reload ends the waiting, unless the file is bad.
func TestTrialReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newTried(t)
		if _, _, err := x.Apply(withLevel("debug"), time.Minute); err != nil {
			t.Fatal(err)
		}
		x.write(t, "nonsense")
		if _, err := x.Reload(); err == nil {
			t.Error("a bad file was reloaded")
		}
		x.want(t, "debug", "nonsense")
		x.write(t, "warn")
		if _, err := x.Reload(); err != nil {
			t.Error(err)
		}
		x.want(t, "warn", "warn")
		time.Sleep(time.Hour)
		x.want(t, "warn", "warn")
		if err := x.Confirm(""); !errors.Is(err, ErrNoTrial) {
			t.Errorf("after a reload: %v", err)
		}
	})
}

// The status tells whether the file was good when it was last read, when the
// configuration in use became that, and which keys of it wait for a restart.
func TestTrialStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newTried(t)
		x.Started = time.Now()
		first := *x.running
		take := x.Take
		x.Take = func(text []byte) (Reloaded, func() error, error) {
			done, back, err := take(text)
			if err == nil {
				done.Restart = first.NeedsRestart(x.running)
			}
			return done, back, err
		}
		used := time.Now()
		want := func(what string, refused bool, restart ...string) {
			t.Helper()
			s := x.Status()
			if s.Refused != refused || !s.Used.Equal(used) || !slices.Equal(s.Restart, restart) {
				t.Errorf("%s: %+v, want refused %v, used %v, restart %v", what, s, refused, used, restart)
			}
			time.Sleep(time.Second)
		}
		waiting := []byte("listen: [192.0.2.1]\nreply_rate: {burst: 5}\n")
		file := func(text []byte) {
			t.Helper()
			if err := os.WriteFile(x.Path, text, 0o640); err != nil {
				t.Fatal(err)
			}
		}
		want("at the start", false)
		file([]byte("nonsense"))
		x.Reload()
		want("a bad file", true)
		file(waiting)
		x.Reload()
		used = time.Now()
		want("a key for a restart", false, "reply_rate")
		file([]byte("nonsense"))
		x.Reload()
		want("a bad file after it", true, "reply_rate")
		if _, _, err := x.Apply([]byte("nonsense"), 0); err == nil {
			t.Fatal("nonsense was applied")
		}
		want("a bad one over the API", true, "reply_rate")
		if _, _, err := x.Apply(withLevel("warn"), time.Minute); err != nil {
			t.Fatal(err)
		}
		used = time.Now()
		want("on trial, and the file is still bad", true)
		if err := x.Revert(""); err != nil {
			t.Fatal(err)
		}
		used = time.Now()
		want("taken back", true, "reply_rate")
		x.Apply(withLevel("warn"), time.Minute)
		used = time.Now()
		time.Sleep(2 * time.Second)
		if err := x.Confirm(""); err != nil {
			t.Fatal(err)
		}
		want("confirmed, and so in the file", false)
		if _, _, err := x.Apply(waiting, 0); err != nil {
			t.Fatal(err)
		}
		used = time.Now()
		want("applied and installed", false, "reply_rate")
		x.Path = filepath.Join(filepath.Dir(x.Path), "gone", "mapserver.yml")
		if _, _, err := x.Apply(withLevel("warn"), 0); err == nil {
			t.Fatal("installed in a directory that is not there")
		}
		want("not installed", false, "reply_rate")
	})
}

// Where the one before can't be used again, the file is.
func TestTrialStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newTried(t)
		x.stuck = true
		if _, _, err := x.Apply(withLevel("debug"), time.Minute); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if x.want(t, "info", "info"); x.reads != 1 {
			t.Errorf("the file was read %d times", x.reads)
		}
	})
}

// A file that can't be replaced is an error that changes nothing, and what waits
// goes on waiting.
func TestTrialNotInstalled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newTried(t)
		target := x.Path
		if err := Installable(target); err != nil {
			t.Fatal(err)
		}
		x.Path = filepath.Join(filepath.Dir(target), "gone", "mapserver.yml")
		if Installable(x.Path) == nil {
			t.Error("a file that is not there could be replaced")
		}
		_, _, err := x.Apply(withLevel("debug"), 0)
		if bad, ok := errors.AsType[*InstallError](err); !ok || bad.Path != x.Path || !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%v", err)
		}
		if x.running.Log.Level != slog.LevelInfo {
			t.Error("it is in use all the same")
		}
		if _, _, err := x.Apply(withLevel("debug"), time.Minute); err != nil {
			t.Fatal(err)
		}
		if _, ok := errors.AsType[*InstallError](x.Confirm("")); !ok {
			t.Error("confirmed without a file")
		}
		x.Path = target
		if err := x.Confirm(""); err != nil {
			t.Error(err)
		}
		x.want(t, "debug", "debug")
	})
}

// Install keeps the mode, replaces what a symbolic link leads to, leaves no other
// file behind, and makes no new ones.
func TestInstall(t *testing.T) {
	dir := t.TempDir()
	file, link := filepath.Join(dir, "a", "x.yml"), filepath.Join(dir, "x.yml")
	if err := errors.Join(os.Mkdir(filepath.Dir(file), 0o700), os.WriteFile(file, []byte("old"), 0o640), os.Symlink("a/x.yml", link)); err != nil {
		t.Fatal(err)
	}
	if err := Install(link, []byte("new")); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	info, serr := os.Stat(file)
	if err != nil || serr != nil || string(text) != "new" || info.Mode() != 0o640 {
		t.Errorf("%q, %v, %v, %v", text, info.Mode(), err, serr)
	}
	if l, err := os.Readlink(link); err != nil || l != "a/x.yml" {
		t.Errorf("the link: %s, %v", l, err)
	}
	if err := Install(filepath.Join(dir, "other.yml"), nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that was not there: %v", err)
	}
	if err := Install(dir, nil); err == nil {
		t.Error("a directory was replaced")
	}
	for _, d := range []string{dir, filepath.Dir(file)} {
		if list, err := os.ReadDir(d); err != nil || len(list) > 2 {
			t.Errorf("%s holds %v, %v", d, list, err)
		}
	}
}
