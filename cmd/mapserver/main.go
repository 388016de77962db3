// Mapserver is the map-server and map-resolver of Eidolon.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/eidolon-lisp/eidolon/api"
	"github.com/eidolon-lisp/eidolon/internal/config"
	"github.com/eidolon-lisp/eidolon/internal/daemon"
	"github.com/eidolon-lisp/eidolon/internal/preflight"
	"github.com/eidolon-lisp/eidolon/internal/udp"
	"github.com/eidolon-lisp/eidolon/internal/version"
	"github.com/eidolon-lisp/eidolon/mapping/boltstore"
	"github.com/eidolon-lisp/eidolon/mapping/server"
)

// itself is the program.
var itself = daemon.Daemon{
	Name:  "mapserver",
	Short: "LISP map-server and map-resolver",
	Long: `mapserver is map-server and map-resolver: it keeps at which locators EID-prefixes
are reached, as their sites register it, and answers who asks (RFC 9301).

It needs no privilege, but for LISP+ALT. Its file is /etc/eidolon/mapserver.yml;
what can be in it says /usr/share/doc/eidolon-mapserver/configuration.md, and
operations.md beside it what it keeps and how to look into it with lispctl(1).`,
	Config:   "/etc/eidolon/mapserver.yml",
	Check:    check,
	Run:      run,
	Socket:   socket,
	Commands: []*cobra.Command{cleanup()},
}

func main() { os.Exit(itself.Main(os.Args[1:], os.Stdout, os.Stderr)) }

func check(path string, deep bool) (warnings, err error) {
	if deep {
		return preflight.Check(path, config.KindMapServer, nil)
	}
	return config.Check(path, config.KindMapServer)
}

// socket returns where the API of a daemon with this file is.
func socket(path string) (string, error) {
	cfg, err := config.LoadMapServer(path)
	if err != nil {
		return "", err
	}
	return cfg.API.Socket, nil
}

func run(ctx context.Context, path string) (err error) {
	hangups := make(chan os.Signal, 1) // before SIGHUP could end the process
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	cfg, err := config.LoadMapServer(path)
	if err != nil {
		return err
	}
	logs := daemon.NewLogs(os.Stderr, config.Subsystems(config.KindMapServer))
	logs.Configure(cfg.Log)
	log := logs.Logger("daemon")
	for _, w := range cfg.Warnings {
		log.Warn("configuration", "warning", w.Error())
	}
	if err := os.MkdirAll(cfg.StateDir, 0o700); err != nil {
		return fmt.Errorf("state_dir: %w", err)
	}
	store, err := boltstore.Open(filepath.Join(cfg.StateDir, "mapserver.db"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	overlay, err := newOverlay(cfg, logs.Logger("alt"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, overlay.close()) }()
	sc := serverConfig(cfg, logs.Logger("server"))
	sc.ALT = overlay.alt()
	srv, err := server.New(ctx, sc, store)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	var conn *udp.Socket
	if err := daemon.WaitAddress(ctx, log, func() (err error) {
		conn, err = udp.ListenShared(cfg.Listen, runtime.GOMAXPROCS(0))
		return err
	}); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	access, err := api.NewAccess(cfg.API, logs.Logger("api"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, access.Close()) }()
	log.Info("mapserver is up", "listen", fmt.Sprint(conn.Addrs()), "sites", len(cfg.Sites), "version", version.Get().String())
	g, ctx := errgroup.WithContext(ctx)
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	g.Go(func() error { defer stop(); return overlay.run(ctx) })
	r := &reloader{path: path, first: cfg, sites: srv, access: access, logs: logs, log: log}
	trial := r.trial()
	g.Go(func() error { return trial.Run(ctx, hangups, access.Hangup) })
	g.Go(func() error { daemon.KeepSmall(ctx); return nil })
	g.Go(func() error { daemon.Supervise(ctx, log, api.Probe(srv.Stats)); return nil })
	g.Go(func() error { return srv.Run(serving, conn, runtime.GOMAXPROCS(0)) })
	g.Go(func() error {
		return api.Serve(ctx, api.Config{Socket: cfg.API.Socket, Access: access, Ready: api.NewReadiness(srv.Stats, api.ObserveMapServer(srv)), Logger: logs.Logger("api")},
			api.Controlled("mapserver", api.Controls{Reload: trial.Reload, Logs: logs, Trial: trial}, srv.Stats, access.Stats), api.Mappings(srv), api.Sites(srv), api.ALT(overlay.view()))
	})
	if cfg.HTTP.Listen.IsValid() {
		var page *api.Page
		if cfg.HTTP.Page {
			page = api.PageMapServer(srv)
		}
		g.Go(func() error {
			return api.ServeHTTP(ctx, api.HTTPConfig{Listen: cfg.HTTP.Listen, Pprof: cfg.HTTP.Pprof, Page: page, REST: cfg.HTTP.RESTOf(cfg.API), Program: "mapserver",
				Stats: api.JoinStats(srv.Stats, access.Stats), Observed: api.ObserveMapServer(srv), Configuration: trial.Status, Neighbours: overlay.neighbours(), Logger: logs.Logger("api")})
		})
	}
	return g.Wait()
}

// serverConfig turns the file's types into the server's.
func serverConfig(cfg *config.MapServer, log *slog.Logger) server.Config {
	c := server.Config{
		Listen:      cfg.Listen,
		Static:      cfg.StaticMappings,
		RequestRate: server.RequestRate{PerSource: cfg.RequestRate.PerSource, Burst: cfg.RequestRate.Burst},
		ReplyRate:   server.ReplyRate{Every: cfg.ReplyRate.Every, Burst: cfg.ReplyRate.Burst},
		LISPSec:     server.LISPSec(cfg.LISPSec),
		Logger:      log,
	}
	c.Sites = sitesOf(cfg)
	c.PubSub = server.PubSub{MaxPerXTR: cfg.PubSub.MaxPerXTR, Rate: cfg.PubSub.Rate}
	for _, x := range cfg.PubSub.Subscribers {
		c.PubSub.Subscribers = append(c.PubSub.Subscribers, server.Subscriber(x))
	}
	return c
}

// sitesOf returns the sites of a file as the server has them.
func sitesOf(cfg *config.MapServer) (sites []server.Site) {
	policies := map[config.ProxyReply]server.ProxyPolicy{
		config.ProxyReplyAsRegistered: server.ProxyAsRegistered,
		config.ProxyReplyAlways:       server.ProxyAlways,
		config.ProxyReplyNever:        server.ProxyNever,
	}
	requests := map[config.RequestPolicy]server.RequestPolicy{
		config.RequestPolicyAllow:           server.RequestsAllowed,
		config.RequestPolicyDeny:            server.RequestsDenied,
		config.RequestPolicyDenyTemporarily: server.RequestsPostponed,
	}
	for _, s := range cfg.Sites {
		site := server.Site{Name: s.Name, Keys: s.Keys, MinAlgorithm: s.MinimumAlgorithm, XTRIDs: s.XTRIDs}
		for _, p := range s.EIDPrefixes {
			site.Prefixes = append(site.Prefixes, server.SitePrefix{
				EID:                 p.Prefix,
				AcceptMoreSpecifics: p.AcceptMoreSpecifics,
				ProxyReply:          policies[p.ProxyReply],
				Requests:            requests[p.RequestPolicy],
			})
		}
		sites = append(sites, site)
	}
	return sites
}
