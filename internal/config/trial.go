package config

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// MaxTrial is the longest that a configuration may wait for its confirmation.
const MaxTrial = time.Hour

// Reloaded is what became of a configuration.
type Reloaded struct {
	// Warnings are doubts that did not keep it from being used.
	Warnings []string
	// Restart are the keys that have changed and need a restart.
	Restart []string
	// Changed are all keys that have changed since they were last read.
	Changed []string
	// Differences are how, without secrets.
	Differences []Difference
}

// Status is how a daemon and its configuration stand.
type Status struct {
	// Refused says that the file could not be used when it was last read.
	Refused bool
	// Used is when a configuration was last taken into use, be it from the file,
	// over the API, or the one before that was put back.
	Used time.Time
	// Restart are the keys in which the one in use differs from what the daemon was
	// started with, and that need a restart.
	Restart []string
}

// Errors of a Trial.
var (
	// ErrTrial is that another configuration waits for its confirmation.
	ErrTrial = errors.New("another configuration waits for its confirmation")
	// ErrNoTrial is that none does, or another one.
	ErrNoTrial = errors.New("this configuration does not wait for a confirmation: it was confirmed, or taken back, or never applied")
)

// InstallError is that the file can't be replaced.
type InstallError struct {
	Path string
	Err  error
}

// Error implements error.
func (e *InstallError) Error() string {
	return fmt.Sprintf("the daemon can't replace its configuration file %s: %v", e.Path, e.Err)
}

// Unwrap returns the cause.
func (e *InstallError) Unwrap() error { return e.Err }

// Trial has a daemon use a configuration before it is in the file. Until it is
// confirmed, the file is the one before; so whatever ends the daemon, the next
// start is without it. Methods may be called from any goroutine.
type Trial struct {
	// Path is the daemon's configuration file, Kind its kind.
	Path string
	Kind Kind
	// Log is told what becomes of configurations.
	Log *slog.Logger
	// Running returns what the daemon uses.
	Running func() *Text
	// Take has the daemon use a configuration, or, with nil, the file; all of it or,
	// with an error, nothing. back has it use the one before again.
	Take func(text []byte) (done Reloaded, back func() error, err error)
	// Expired is told when a configuration was taken back because nobody confirmed
	// it, with why not all could be; nil for nobody.
	Expired func(error)
	// Started is when the daemon began to use its configuration.
	Started time.Time

	mu      sync.Mutex
	waiting *waiting               // nil: none
	status  atomic.Pointer[Status] // nil: as at the start; replaced under mu
}

// waiting is a configuration that is used and not confirmed.
type waiting struct {
	id    string
	text  []byte
	back  func() error
	timer *time.Timer
	// restart are Status.Restart of the configuration before.
	restart []string
}

// Status tells how the daemon and its configuration stand. It does not wait for a
// configuration that is being taken into use.
func (t *Trial) Status() Status {
	if s := t.status.Load(); s != nil {
		return *s
	}
	return Status{Used: t.Started}
}

// used notes that another configuration is in use, with t.mu held.
func (t *Trial) used(restart []string) {
	s := t.Status()
	s.Used, s.Restart = time.Now(), restart
	t.status.Store(&s)
}

// refused notes whether the file can't be used, with t.mu held.
func (t *Trial) refused(is bool) {
	s := t.Status()
	s.Refused = is
	t.status.Store(&s)
}

// Run has the daemon use the file at each signal, until ctx ends, and tells what
// came of it.
func (t *Trial) Run(ctx context.Context, signals <-chan os.Signal, tell func(Reloaded, error)) error {
	for {
		select {
		case <-signals:
			tell(t.Reload())
		case <-ctx.Done():
			return nil
		}
	}
}

// Reload has the daemon use the file. What was not confirmed is thereby taken back;
// after an error it goes on.
func (t *Trial) Reload() (Reloaded, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.reload()
}

func (t *Trial) reload() (Reloaded, error) {
	done, _, err := t.Take(nil)
	if t.refused(err != nil); err != nil {
		return done, err
	}
	t.used(done.Restart)
	if t.waiting != nil {
		t.end()
		t.Log.Warn("the configuration that waited for a confirmation is replaced by the file", "file", t.Path)
	}
	return done, nil
}

// Compare returns how a configuration differs from the one in use, and its doubts.
// The error is an Errors if there is something wrong with it.
func (t *Trial) Compare(text []byte) ([]Difference, Errors, error) {
	next, warnings, err := parseText(t.Kind, t.Path, text)
	if err != nil {
		return nil, nil, err
	}
	diffs, err := Compare(t.Running(), next)
	return diffs, warnings, err
}

// parseText reads a configuration of a kind as if it stood at path.
func parseText(k Kind, path string, text []byte) (*Text, Errors, error) {
	if k == KindMapServer {
		c, err := ParseMapServer(path, text)
		if err != nil {
			return nil, nil, err
		}
		return c.Text, c.Warnings, nil
	}
	c, err := ParseXTR(path, text)
	if err != nil {
		return nil, nil, err
	}
	return c.Text, c.Warnings, nil
}

// Apply has the daemon use a configuration. With wait it is in use for that long,
// MaxTrial at most, and then taken back, unless it is confirmed by its id; without,
// it replaces the file at once. After an error all is as before.
func (t *Trial) Apply(text []byte, wait time.Duration) (done Reloaded, id string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.waiting != nil {
		return done, "", ErrTrial
	}
	done, back, err := t.Take(text)
	if err != nil {
		return Reloaded{}, "", err
	}
	before := t.Status()
	t.used(done.Restart)
	if wait <= 0 {
		if err := t.install(text); err != nil {
			kept := back()
			if kept == nil {
				t.status.Store(&before)
			}
			return Reloaded{}, "", errors.Join(err, kept)
		}
		return done, "", nil
	}
	w := &waiting{id: rand.Text(), text: text, back: back, restart: before.Restart}
	w.timer = time.AfterFunc(min(wait, MaxTrial), func() { t.expire(w) })
	t.waiting = w
	t.Log.Info("a configuration is used until it is confirmed", "for", wait)
	return done, w.id, nil
}

func (t *Trial) install(text []byte) error {
	if err := Install(t.Path, text); err != nil {
		return &InstallError{t.Path, err}
	}
	t.refused(false)
	t.Log.Info("configuration installed", "file", t.Path)
	return nil
}

// expire takes back what was not confirmed in time.
func (t *Trial) expire(w *waiting) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.waiting == w {
		t.Log.Warn("the configuration was not confirmed in time, and is taken back")
		if err := t.takeBack(); t.Expired != nil {
			t.Expired(err)
		}
	}
}

// end is the end of the configuration that waits.
func (t *Trial) end() {
	t.waiting.timer.Stop()
	t.waiting = nil
}

// takeBack has the daemon use the configuration before, or, if that fails, the file.
func (t *Trial) takeBack() error {
	back, restart := t.waiting.back, t.waiting.restart
	t.end()
	err := back()
	if err == nil {
		t.used(restart)
		return nil
	}
	t.Log.Error("the configuration before can't be used again; the file is read", "err", err)
	if _, again := t.reload(); again != nil {
		return errors.Join(err, again)
	}
	return nil
}

// find returns the configuration that waits, if it has the id or id is "".
func (t *Trial) find(id string) (*waiting, error) {
	if t.waiting == nil || id != "" && id != t.waiting.id {
		return nil, ErrNoTrial
	}
	return t.waiting, nil
}

// Confirm puts the configuration that waits into the file: the one with the id, or
// whichever with "". After an InstallError it still waits.
func (t *Trial) Confirm(id string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	w, err := t.find(id)
	if err != nil {
		return err
	}
	if err := t.install(w.text); err != nil {
		return err
	}
	t.end()
	return nil
}

// Revert takes back the configuration that waits: the one with the id, or whichever
// with "".
func (t *Trial) Revert(id string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, err := t.find(id); err != nil {
		return err
	}
	t.Log.Info("the configuration is taken back")
	return t.takeBack()
}
