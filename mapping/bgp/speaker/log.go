package speaker

import (
	"context"
	"fmt"
	"log/slog"
	"slices"

	gobgplog "github.com/osrg/gobgp/v3/pkg/log"
)

// logger gives what GoBGP says to ours. What it calls fatal ends nothing here:
// it is said to be a bug, in the library, and its session is the worse for it.
type logger struct{ log *slog.Logger }

func (l logger) say(level slog.Level, msg string, f gobgplog.Fields) {
	if !l.log.Enabled(context.Background(), level) {
		return
	}
	attrs := make([]slog.Attr, 0, len(f))
	for k, v := range f {
		switch k {
		case "Topic", gobgplog.FieldFacility:
			continue
		case "Key":
			k = "neighbour"
		}
		attrs = append(attrs, slog.String(k, fmt.Sprint(v)))
	}
	slices.SortFunc(attrs, func(a, b slog.Attr) int { return slices.Compare([]byte(a.Key), []byte(b.Key)) })
	l.log.LogAttrs(context.Background(), level, msg, attrs...)
}

func (l logger) Panic(msg string, f gobgplog.Fields) { l.say(slog.LevelError, msg, f); panic(msg) }
func (l logger) Fatal(msg string, f gobgplog.Fields) { l.say(slog.LevelError, msg, f) }
func (l logger) Error(msg string, f gobgplog.Fields) { l.say(slog.LevelError, msg, f) }
func (l logger) Warn(msg string, f gobgplog.Fields)  { l.say(slog.LevelWarn, msg, f) }

// Info is debug to us: sessions are reported by the speaker itself.
func (l logger) Info(msg string, f gobgplog.Fields)  { l.say(slog.LevelDebug, msg, f) }
func (l logger) Debug(msg string, f gobgplog.Fields) { l.say(slog.LevelDebug, msg, f) }

func (l logger) SetLevel(gobgplog.LogLevel) {}

func (l logger) GetLevel() gobgplog.LogLevel {
	if l.log.Enabled(context.Background(), slog.LevelDebug) {
		return gobgplog.DebugLevel
	}
	return gobgplog.WarnLevel
}
