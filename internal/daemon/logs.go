package daemon

import (
	"context"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/eidolon-lisp/eidolon/internal/config"
)

// Logs are the loggers of a daemon, one for each of its subsystems. They write
// to one writer; each has a level of its own, which can be changed while it is in
// use, and so can the format of all. Its methods may be called by any goroutine.
type Logs struct {
	names            []string
	levels           map[string]*slog.LevelVar // by name; the map does not change
	json             atomic.Bool
	forText, forJSON slog.Handler // without a level
}

// NewLogs returns the loggers of subsystems with the given names, which log text
// from level info on.
func NewLogs(w io.Writer, names []string) *Logs {
	w = &exclusive{w: w} // two handlers write to it
	all := &slog.HandlerOptions{Level: slog.Level(math.MinInt)}
	l := &Logs{names: slices.Clone(names), levels: make(map[string]*slog.LevelVar),
		forText: slog.NewTextHandler(w, all), forJSON: slog.NewJSONHandler(w, all)}
	for _, n := range names {
		l.levels[n] = new(slog.LevelVar)
	}
	return l
}

// Logger returns the logger of a subsystem, which says its name in each line. It
// panics if there is no such subsystem.
func (l *Logs) Logger(name string) *slog.Logger {
	if l.levels[name] == nil {
		panic("no subsystem is named " + name)
	}
	return slog.New(&handler{l, l.levels[name], l.forText, l.forJSON}).With("subsystem", name)
}

// Configure makes format and levels those of a configuration, whatever they were
// set to.
func (l *Logs) Configure(c config.Log) {
	l.json.Store(c.Format == "json")
	for name, v := range l.levels {
		if own, ok := c.Levels[name]; ok {
			v.Set(own)
		} else {
			v.Set(c.Level)
		}
	}
}

// Levels returns the subsystems and their levels.
func (l *Logs) Levels() iter.Seq2[string, slog.Level] {
	return func(yield func(string, slog.Level) bool) {
		for _, n := range l.names {
			if !yield(n, l.levels[n].Level()) {
				return
			}
		}
	}
}

// SetLevel changes the level of a subsystem, or of all if name is "", until the
// next change or the next Configure. It fails if there is no such subsystem.
func (l *Logs) SetLevel(name string, level slog.Level) error {
	if name == "" {
		for _, v := range l.levels {
			v.Set(level)
		}
		return nil
	}
	v := l.levels[name]
	if v == nil {
		return fmt.Errorf("no subsystem is named %q, expected one of %s", name, strings.Join(l.names, ", "))
	}
	v.Set(level)
	return nil
}

// handler is that of one subsystem. It has both forms of what a logger was given,
// so that the format can change under a logger that is in use.
type handler struct {
	logs       *Logs
	level      *slog.LevelVar
	text, json slog.Handler
}

func (h *handler) Enabled(_ context.Context, level slog.Level) bool { return level >= h.level.Level() }

func (h *handler) Handle(ctx context.Context, r slog.Record) error {
	if h.logs.json.Load() {
		return h.json.Handle(ctx, r)
	}
	return h.text.Handle(ctx, r)
}

func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &handler{h.logs, h.level, h.text.WithAttrs(attrs), h.json.WithAttrs(attrs)}
}

func (h *handler) WithGroup(name string) slog.Handler {
	return &handler{h.logs, h.level, h.text.WithGroup(name), h.json.WithGroup(name)}
}

// exclusive is a writer for several goroutines.
type exclusive struct {
	mu sync.Mutex
	w  io.Writer
}

func (e *exclusive) Write(p []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.w.Write(p)
}
