package main

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/eidolon-lisp/eidolon/api"
	"github.com/eidolon-lisp/eidolon/internal/config"
	"github.com/eidolon-lisp/eidolon/mapping/server"
)

// access is who may call the API, and the audit log.
type access interface {
	Reload(config.API) error
	Hangup(api.Reloaded, error)
	Expired(error)
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

// trial applies configurations to the running map-server.
func (r *reloader) trial() *config.Trial {
	return &config.Trial{Path: r.path, Kind: config.KindMapServer, Log: r.log, Take: r.take, Expired: r.access.Expired, Started: time.Now(), Running: func() *config.Text {
		r.mu.Lock()
		defer r.mu.Unlock()
		return cmp.Or(r.running, r.first).Text
	}}
}

// reload reads the file again.
func (r *reloader) reload() (done api.Reloaded, err error) {
	done, _, err = r.take(nil)
	return done, err
}

// take has the map-server use a configuration, or with nil that of the file. If it
// is bad, or a part of the map-server does not take it, all stays as it is, or is
// put back. back puts the one before back later.
func (r *reloader) take(text []byte) (done api.Reloaded, back func() error, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var next *config.MapServer
	if text == nil {
		next, err = config.LoadMapServer(r.path)
	} else {
		next, err = config.ParseMapServer(r.path, text)
	}
	if err != nil {
		r.log.Error("configuration not reloaded, the running one stays", "err", err)
		return done, nil, err
	}
	for _, w := range next.Warnings {
		r.log.Warn("configuration", "warning", w.Error())
		done.Warnings = append(done.Warnings, w.Error())
	}
	if done.Restart = r.first.NeedsRestart(next); len(done.Restart) > 0 {
		r.log.Warn("changes that take effect with a restart only", "keys", done.Restart)
	}
	before := cmp.Or(r.running, r.first)
	if err := r.use(next); err != nil {
		r.log.Error("configuration not reloaded, the running one stays", "err", err)
		return api.Reloaded{}, nil, err
	}
	done.Changed = before.Changed(next)
	if done.Differences, err = config.Compare(before.Text, next.Text); err != nil {
		r.log.Error("what the reload has changed is not known", "err", err)
	}
	r.log.Info("configuration reloaded", "file", r.path)
	return done, func() error { return r.putBack(before) }, nil
}

// putBack has the map-server use a configuration that it used before.
func (r *reloader) putBack(before *config.MapServer) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.use(before); err != nil {
		return err
	}
	r.log.Info("the configuration before is used again")
	return nil
}

// use gives the map-server its sites and callers, or neither, and what is logged.
// Sites are last, as what ends with them does not come back.
func (r *reloader) use(next *config.MapServer) error {
	if err := r.access.Reload(next.API); err != nil {
		return fmt.Errorf("api: %w", err)
	}
	if err := r.sites.SetSites(context.Background(), sitesOf(next)); err != nil {
		if back := r.access.Reload(cmp.Or(r.running, r.first).API); back != nil {
			err = fmt.Errorf("%w; nor could who may call the API be put back: %w", err, back)
		}
		return err
	}
	r.logs.Configure(next.Log)
	r.running = next
	return nil
}
