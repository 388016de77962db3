package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"

	"github.com/eidolon-lisp/eidolon/api"
	"github.com/eidolon-lisp/eidolon/internal/config"
	"github.com/eidolon-lisp/eidolon/mapping/server"
)

// access is who may call the API, and the audit log.
type access interface {
	Reload(config.API) error
	Hangup(api.Reloaded, error)
}

// reloader applies a changed configuration file to a running map-server: its
// sites, who may call the API, and what is logged, and how. Everything else
// needs a restart, and is named.
type reloader struct {
	path  string
	first *config.MapServer // what the map-server was started with
	sites interface {
		SetSites(context.Context, []server.Site) error
	}
	access access
	logs   interface{ Configure(config.Log) }
	log    *slog.Logger

	mu      sync.Mutex        // a signal and the API may reload at once
	running *config.MapServer // what was last reloaded; nil: first
}

// run reloads at each signal until ctx ends.
func (r *reloader) run(ctx context.Context, signals <-chan os.Signal) error {
	for {
		select {
		case <-signals:
			r.access.Hangup(r.reload())
		case <-ctx.Done():
			return nil
		}
	}
}

// reload reads the file again. If it is bad, or a part of the map-server does not
// take it, all stays as it is, or is put back.
func (r *reloader) reload() (done api.Reloaded, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	next, err := config.LoadMapServer(r.path)
	if err != nil {
		r.log.Error("configuration not reloaded, the running one stays", "err", err)
		return done, err
	}
	for _, w := range next.Warnings {
		r.log.Warn("configuration", "warning", w.Error())
		done.Warnings = append(done.Warnings, w.Error())
	}
	if done.Restart = r.first.NeedsRestart(next); len(done.Restart) > 0 {
		r.log.Warn("changes that take effect with a restart only", "keys", done.Restart)
	}
	if r.running == nil {
		r.running = r.first
	}
	if err := r.use(next); err != nil {
		r.log.Error("configuration not reloaded, the running one stays", "err", err)
		return api.Reloaded{}, err
	}
	done.Changed = r.running.Changed(next)
	r.running = next
	r.logs.Configure(next.Log)
	r.log.Info("configuration reloaded", "file", r.path)
	return done, nil
}

// use gives the map-server its sites and callers, or neither. Sites are last, as
// what ends with them does not come back.
func (r *reloader) use(next *config.MapServer) error {
	if err := r.access.Reload(next.API); err != nil {
		return fmt.Errorf("api: %w", err)
	}
	err := r.sites.SetSites(context.Background(), sitesOf(next))
	if err == nil {
		return nil
	}
	if back := r.access.Reload(r.running.API); back != nil {
		err = fmt.Errorf("%w; nor could who may call the API be put back: %w", err, back)
	}
	return err
}
