package main

import (
	"cmp"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/eidolon-lisp/eidolon/api"
	"github.com/eidolon-lisp/eidolon/internal/config"
	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/xtr"
)

// site is what of a running xTR a new configuration can change.
type site interface {
	SetMappingSystem(xtr.MappingSystem) error
	SetLocatorSets([]xtr.LocatorSet)
}

// access is who may call the API, and the audit log.
type access interface {
	Reload(config.API) error
	Hangup(api.Reloaded, error)
	Expired(error)
}

// reloader applies a changed configuration file to a running xTR: EID-prefixes,
// locators, their priorities and weights, record TTLs, map-servers, map-resolvers,
// keys, and what is logged. Everything else needs a restart, and is named.
type reloader struct {
	path  string
	first *config.XTR // what the xTR was started with
	site  site
	// databases takes those of the configuration, and which servers there are.
	databases interface {
		SetDatabases([]xtr.Database) error
		setServers(*config.XTR)
	}
	access access
	logs   interface{ Configure(config.Log) }
	log    *slog.Logger
	watch  func(*config.XTR) // the uplinks of a configuration

	mu      sync.Mutex  // a signal and the API may reload at once
	running *config.XTR // what was last reloaded; nil: first
}

// trial applies configurations to the running xTR.
func (r *reloader) trial() *config.Trial {
	return &config.Trial{Path: r.path, Kind: config.KindXTR, Log: r.log, Take: r.take, Expired: r.access.Expired, Started: time.Now(), Running: func() *config.Text {
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

// take has the xTR use a configuration, or with nil that of the file. If it is bad,
// or a part of the xTR does not take it, all stays as it is, or is put back. back
// puts it back later.
func (r *reloader) take(text []byte) (done api.Reloaded, back func() error, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var next *config.XTR
	if text == nil {
		next, err = config.LoadXTR(r.path)
	} else {
		next, err = config.ParseXTR(r.path, text)
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
	if added, removed := r.otherEIDs(next); len(added)+len(removed) > 0 {
		r.log.Warn("the EIDs of a host are added and removed with a restart only; the others are reloaded", "added", added, "removed", removed)
		done.Restart = append(done.Restart, "database_mappings")
	}
	if r.running == nil {
		r.running = r.first
	}
	before := r.running
	if err := r.use(next); err != nil {
		if back := r.use(before); back != nil {
			err = fmt.Errorf("%w; nor could all be put back: %w", err, back)
		}
		r.log.Error("configuration not reloaded, the running one stays", "err", err)
		return api.Reloaded{}, nil, err
	}
	done.Changed = r.running.Changed(next)
	if done.Differences, err = config.Compare(r.running.Text, next.Text); err != nil {
		r.log.Error("what the reload has changed is not known", "err", err)
	}
	r.running = next
	r.log.Info("configuration reloaded", "file", r.path)
	return done, func() error { return r.putBack(before) }, nil
}

// putBack has the xTR use a configuration that it used before.
func (r *reloader) putBack(before *config.XTR) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.use(before); err != nil {
		return err
	}
	r.running = before
	r.log.Info("the configuration before is used again")
	return nil
}

// use gives the xTR what it takes of a configuration, and stops at the first
// part that is not taken. A mapping system that is not good with the
// database-mappings before can be with those of next, so it comes after them then.
func (r *reloader) use(next *config.XTR) error {
	r.logs.Configure(next.Log)
	if err := r.access.Reload(next.API); err != nil {
		return err
	}
	r.watch(next)
	system := mappingSystem(next)
	early := r.site.SetMappingSystem(system)
	r.databases.setServers(next)
	if err := r.databases.SetDatabases(r.mappings(next)); err != nil {
		err = fmt.Errorf("database_mappings: %w", err)
		if early != nil {
			err = fmt.Errorf("map_servers, map_resolvers: %w; %w", early, err)
		}
		return err
	}
	if early != nil {
		if err := r.site.SetMappingSystem(system); err != nil {
			return fmt.Errorf("map_servers, map_resolvers: %w", err)
		}
	}
	r.site.SetLocatorSets(locatorSets(next))
	return nil
}

// mappings returns the database-mappings of next; on a host, whose EIDs are
// addresses of a device, each of the EID-prefixes that the xTR was started with
// as next has it.
func (r *reloader) mappings(next *config.XTR) []xtr.Database {
	list := next.DatabaseMappings
	if r.first.Host != nil {
		list = r.sameEIDs(next)
	}
	var out []xtr.Database
	for _, m := range list {
		if !r.first.MapVersioning {
			m.MapVersion = mapping.NullVersion
		}
		out = append(out, database(m))
	}
	return out
}

func (r *reloader) sameEIDs(next *config.XTR) (out []config.DatabaseMapping) {
	for _, m := range r.first.DatabaseMappings {
		if i := indexOf(next.DatabaseMappings, m.EID); i >= 0 {
			m = next.DatabaseMappings[i]
		}
		out = append(out, m)
	}
	return out
}

// otherEIDs returns the EIDs of a host that next adds and removes; none of a site.
func (r *reloader) otherEIDs(next *config.XTR) (added, removed []mapping.EID) {
	if r.first.Host == nil {
		return nil, nil
	}
	for _, m := range r.first.DatabaseMappings {
		if indexOf(next.DatabaseMappings, m.EID) < 0 {
			removed = append(removed, m.EID)
		}
	}
	for _, m := range next.DatabaseMappings {
		if indexOf(r.first.DatabaseMappings, m.EID) < 0 {
			added = append(added, m.EID)
		}
	}
	return added, removed
}

func indexOf(in []config.DatabaseMapping, e mapping.EID) int {
	return slices.IndexFunc(in, func(m config.DatabaseMapping) bool { return m.EID == e })
}
