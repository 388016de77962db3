// Xtr is the site edge router of Eidolon: ITR and ETR.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/eidolon-lisp/eidolon/api"
	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/dataplane/tun"
	"github.com/eidolon-lisp/eidolon/internal/config"
	"github.com/eidolon-lisp/eidolon/internal/daemon"
	"github.com/eidolon-lisp/eidolon/internal/preflight"
	"github.com/eidolon-lisp/eidolon/internal/tracing"
	"github.com/eidolon-lisp/eidolon/internal/udp"
	"github.com/eidolon-lisp/eidolon/internal/uplink"
	"github.com/eidolon-lisp/eidolon/internal/version"
	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/auth"
	"github.com/eidolon-lisp/eidolon/mapping/xtr"
)

// itself is the program.
var itself = daemon.Daemon{
	Name:  "xtr",
	Short: "LISP site edge router (ITR and ETR)",
	Long: `xtr is the router at the edge of a site: it asks the mapping system for the
locators of a destination, encapsulates toward one of them, decapsulates what
comes for the site, and registers the site's own EID-prefixes (RFC 9300, RFC 9301).

It wants CAP_NET_ADMIN and /dev/net/tun. Its file is /etc/eidolon/xtr.yml; what
can be in it says /usr/share/doc/eidolon-xtr/configuration.md, and operations.md
beside it what an xtr does to its host and how to look into it with lispctl(1).`,
	Config:   "/etc/eidolon/xtr.yml",
	Check:    check,
	Run:      run,
	Socket:   socket,
	Commands: []*cobra.Command{cleanup()},
}

func main() { os.Exit(itself.Main(os.Args[1:], os.Stdout, os.Stderr)) }

func check(path string, deep bool) (warnings, err error) {
	if deep {
		return preflight.Check(path, config.KindXTR, feasible)
	}
	return config.Check(path, config.KindXTR)
}

// socket returns where the API of a daemon with this file is.
func socket(path string) (string, error) {
	cfg, err := config.LoadXTR(path)
	if err != nil {
		return "", err
	}
	return cfg.API.Socket, nil
}

// usageRound is how often the control plane hears which entries of the
// map-cache carried traffic, and asks from which RLOCs packets came.
const usageRound = 5 * time.Second

func run(ctx context.Context, path string) error {
	hangups := make(chan os.Signal, 1) // before SIGHUP could end the process
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	// The threads of the plane wait in the kernel, mostly not for long. Where all
	// could run at once none of them has to be replaced meanwhile, which costs
	// more than their work on a packet.
	cpus := runtime.GOMAXPROCS(0)
	runtime.GOMAXPROCS(2 * cpus)
	cfg, err := config.LoadXTR(path)
	if err != nil {
		return err
	}
	logs := daemon.NewLogs(os.Stderr, config.Subsystems(config.KindXTR))
	logs.Configure(cfg.Log)
	log, watching := logs.Logger("daemon"), logs.Logger("uplinks")
	for _, w := range cfg.Warnings {
		log.Warn("configuration", "warning", w.Error())
	}
	if err := tun.Available(); err != nil {
		return err
	}
	access, err := api.NewAccess(cfg.API, logs.Logger("api"))
	if err != nil {
		return err
	}
	defer access.Close()
	watcher, err := uplink.Open(uplinkConfig(cfg, watching))
	if err != nil {
		return err
	}
	states := watcher.Current()
	rlocs := addresses(states)

	fib := dataplane.NewFIB()
	control := controlConfig(cfg, controlUplinks(states), fib, logs.Logger("control"))
	control.PartLoggers = make(map[string]*slog.Logger)
	for _, part := range []string{xtr.LogResolve, xtr.LogRegister, xtr.LogProbe, xtr.LogAnswer} {
		control.PartLoggers[part] = logs.Logger(part)
	}
	var plane sitePlane // before x runs, which asks it
	if cfg.StateDir != "" {
		f := nonceFloor(filepath.Join(cfg.StateDir, "nonce_floor"))
		if control.NonceFloor, err = f.load(); err != nil {
			return errors.Join(err, watcher.Close())
		}
		control.SaveNonceFloor = f.save
	}
	dbs := newDatabases(cfg, control.Databases, logs.Logger("bgp"))
	speaks, err := newSpeaker(cfg, dbs.routes, logs.Logger("bgp"))
	if err != nil {
		return errors.Join(err, watcher.Close())
	}
	if speaks != nil {
		control.OnAnswering = speaks.answering
	}
	control.OnCache = func(changes []mapping.CacheChange) {
		fib.Apply(changes)
		speaks.cached(changes)
	}
	control.Heard = func() []netip.Addr { return plane.Heard() }
	if cfg.Tracing != nil {
		traces, err := tracing.New(ctx, traceConfig(cfg, logs.Logger("daemon")))
		if err != nil {
			return errors.Join(err, watcher.Close())
		}
		control.OnTraces = traces.Resolved
		defer closeTraces(traces, log)
	}
	x, err := xtr.New(control)
	if err != nil {
		return errors.Join(err, watcher.Close())
	}
	u := &uplinks{watcher: watcher, sockets: udp.NewSet(), site: x, log: watching}
	defer u.sockets.Close()
	listening := u.listen(states)
	plane, err = newPlane(cfg, planeConfig(cfg, rlocs, cpus, logs.Logger("plane")), fib)
	if err != nil {
		return errors.Join(err, watcher.Close())
	}
	u.plane, u.own = plane, dbs.setUnderlay
	dbs.site, dbs.plane = x, plane
	dbs.setUnderlay(rlocs)
	fib.SetLocal(local(control.Databases)) // the plane knows no versions
	fib.SetProxies(proxies(cfg))
	for _, w := range plane.Warnings() {
		log.Warn("host setting", "warning", w)
	}
	log.Info("xtr is up", "rlocs", fmt.Sprint(rlocs), "database_mappings", len(cfg.DatabaseMappings), "version", version.Get().String())

	// The plane outlives the control plane and BGP, so that traffic still flows
	// while registrations and announcements are withdrawn.
	planeCtx, stopPlane := context.WithCancel(context.WithoutCancel(ctx))
	defer stopPlane()
	g, ctx := errgroup.WithContext(ctx)
	misses := make(chan xtr.Miss)
	g.Go(func() error { return plane.Run(planeCtx) })
	var attracting sync.WaitGroup // what makes packets come here
	attracting.Add(2)
	g.Go(func() error {
		attracting.Wait()
		stopPlane()
		return nil
	})
	g.Go(func() error {
		defer attracting.Done()
		return x.Run(ctx, u.sockets, misses)
	})
	g.Go(func() error {
		defer attracting.Done()
		return speaks.run(ctx)
	})
	g.Go(func() error { return u.run(planeCtx, states, listening) })
	g.Go(func() error { return watchTraffic(ctx, fib, plane.Unreachable(), u.counters, x) })
	g.Go(func() error { return dbs.run(ctx) })
	r := &reloader{path: path, first: cfg, site: x, databases: dbs, access: access, logs: logs, log: log, watch: func(c *config.XTR) {
		watcher.Configure(uplinkConfig(c, watching))
	}}
	trial := r.trial()
	g.Go(func() error { return trial.Run(ctx, hangups, access.Hangup) })
	g.Go(func() error { daemon.Supervise(ctx, log, api.Probe(x.Stats)); return nil })
	g.Go(func() error { return pass(ctx, usageRound, fib, plane, x, misses) })
	g.Go(func() error {
		return api.Serve(ctx, api.Config{Socket: cfg.API.Socket, Access: access, Ready: api.NewReadiness(x.Stats, api.ObserveXTR(x, fib)), Logger: logs.Logger("api")},
			api.Controlled("xtr", api.Controls{Reload: trial.Reload, Logs: logs, Trial: trial}, api.JoinStats(x.Stats, plane.Stats, dbs.stats, access.Stats)), api.Router(x, fib), api.Traces(fib, byKernel(plane)), api.BGP(speaks.view(x, dbs.list)))
	})
	if cfg.HTTP.Listen.IsValid() {
		var page *api.Page
		if cfg.HTTP.Page {
			page = api.PageXTR(x, fib)
		}
		g.Go(func() error {
			return api.ServeHTTP(ctx, api.HTTPConfig{Listen: cfg.HTTP.Listen, Pprof: cfg.HTTP.Pprof, Page: page, REST: cfg.HTTP.RESTOf(cfg.API), Program: "xtr",
				Stats: api.JoinStats(x.Stats, plane.Stats, dbs.stats, access.Stats), Observed: api.ObserveXTR(x, fib), Configuration: trial.Status, Neighbours: speaks.neighbours(), Logger: logs.Logger("api")})
		})
	}
	return g.Wait()
}

// control is what the control plane wants to know of the data plane besides
// misses.
type control interface {
	Used([]mapping.EID)
	VersionFound(xtr.VersionEvent)
	PathMTUs([]xtr.PathMTU)
}

// pass carries misses and findings about map-versions from the plane to the
// control plane, and in rounds which entries of the map-cache are in use.
func pass(ctx context.Context, every time.Duration, fib *dataplane.FIB, plane dataplane.Plane, x control, misses chan<- xtr.Miss) error {
	round := time.NewTicker(every)
	defer round.Stop()
	for {
		select {
		case m := <-plane.Misses():
			select {
			case misses <- xtr.Miss(m):
			case <-ctx.Done():
				return nil
			}
		case ev := <-plane.Versions():
			x.VersionFound(xtr.VersionEvent(ev))
		case <-round.C:
			var used []mapping.EID
			fib.Usage(func(e mapping.EID, _, _ uint64) { used = append(used, e) })
			x.Used(used)
			x.PathMTUs(pathMTUs(fib))
		case <-ctx.Done():
			return nil
		}
	}
}

func controlConfig(cfg *config.XTR, uplinks []xtr.Uplink, fib *dataplane.FIB, log *slog.Logger) xtr.Config {
	c := xtr.Config{
		Uplinks:     uplinks,
		LocatorSets: locatorSets(cfg),
		XTRID:       cfg.XTRID,
		SiteID:      cfg.SiteID,
		LISPSec:     xtr.LISPSec{Policy: cfg.LISPSec, Instances: make(map[uint32]auth.SecurityPolicy)},
		CacheLimit:  cfg.MapCacheLimit,
		RLOCProbing: xtr.RLOCProbing{
			Off:      !cfg.RLOCProbing.Enabled,
			Interval: cfg.RLOCProbing.Interval,
			Retries:  cfg.RLOCProbing.Retries,
		},
		VerifyMapData: cfg.AcceptMapData == config.MapDataVerify,
		OnPathMTU:     usePathMTUs(fib),
		OnSources:     useSources(fib),
		OnDatabases:   func(d []xtr.Database) { fib.SetLocal(local(d)) },
		Logger:        log,
	}
	proxies := proxies(cfg)
	c.ProxyETRs, c.UsePETR, c.ProxyITR, c.ProxyETR = cfg.UsePETR, make(map[uint32]bool), proxies.ITR, proxies.ETR
	for _, in := range cfg.Instances {
		c.LISPSec.Instances[in.IID] = in.LISPSec
		c.UsePETR[in.IID] = in.NoMapping == config.NoMappingPETR
	}
	if p := cfg.PubSub; p != nil {
		c.PubSub = &xtr.PubSub{Key: p.Key, AcceptUnsolicited: p.AcceptUnsolicited}
	}
	for _, m := range cfg.DatabaseMappings {
		c.Databases = append(c.Databases, database(m))
	}
	s := mappingSystem(cfg)
	c.MapServers, c.MapResolvers, c.LISPSec.ResolverKeys = s.MapServers, s.MapResolvers, s.ResolverKeys
	return c
}

// mappingSystem is where the site registers and asks.
func mappingSystem(cfg *config.XTR) xtr.MappingSystem {
	s := xtr.MappingSystem{MapResolvers: cfg.MapResolvers, ResolverKeys: cfg.ResolverKeys}
	for _, m := range cfg.MapServers {
		s.MapServers = append(s.MapServers, xtr.MapServer{
			Addr:             m.Address,
			Key:              m.Keys[0],
			OtherKeys:        m.Keys[1:],
			ProxyReply:       m.ProxyReply,
			WantNotify:       m.WantMapNotify,
			Merge:            m.Merge,
			TTLFromRegister:  m.TTLFromRegister,
			RegisterInterval: m.RegisterInterval,
		})
	}
	return s
}

// proxies returns the roles beside that of the site's edge.
func proxies(cfg *config.XTR) (p dataplane.Proxies) {
	if cfg.ProxyITR != nil {
		p.ITR = cfg.ProxyITR.EIDPrefixes
	}
	if cfg.ProxyETR != nil {
		p.ETR = cfg.ProxyETR.EIDPrefixes
	}
	return p
}

func database(m config.DatabaseMapping) xtr.Database {
	return xtr.Database{EID: m.EID, LocatorSet: m.LocatorSet, Locators: m.Locators, Uplinks: uplinkLocators(m.Uplinks), TTL: m.RecordTTL, Version: m.MapVersion}
}

func uplinkLocators(list []config.UplinkLocator) (out []xtr.UplinkLocator) {
	for _, u := range list {
		out = append(out, xtr.UplinkLocator{Interface: u.Interface, IPv4: u.IPv4, IPv6: u.IPv6, Priority: u.Priority, Weight: u.Weight})
	}
	return out
}

func locatorSets(cfg *config.XTR) (out []xtr.LocatorSet) {
	for _, s := range cfg.LocatorSets {
		out = append(out, xtr.LocatorSet{Name: s.Name, Locators: s.Locators, Uplinks: uplinkLocators(s.Uplinks)})
	}
	return out
}

// local returns the site's EIDs with their map-versions for the data plane.
func local(databases []xtr.Database) []dataplane.LocalEID {
	list := make([]dataplane.LocalEID, len(databases))
	for i, d := range databases {
		list[i] = dataplane.LocalEID{EID: d.EID, Version: d.Version}
	}
	return list
}

var sourceChecks = map[config.SourceCheck]dataplane.SourceCheck{
	config.SourceOff: dataplane.SourcesUnchecked, config.SourceLoose: dataplane.SourcesLoose, config.SourceStrict: dataplane.SourcesStrict,
}

func planeConfig(cfg *config.XTR, rlocs []netip.Addr, cpus int, log *slog.Logger) tun.Config {
	c := tun.Config{
		Sources:       rlocs,
		Queues:        min(cpus, tun.MaxQueues),
		Table:         cfg.Plane.RouteTable,
		UplinkMTU:     cfg.Plane.UplinkMTU,
		MapVersioning: cfg.MapVersioning,
		SourceCheck:   sourceChecks[cfg.Plane.SourceCheck],
		MSSClamp:      cfg.Plane.MSSClamp,
		Unfinished:    cfg.Plane.UnfinishedChecksums,
		Logger:        log,
	}
	if cfg.Miss == config.MissHold {
		c.Miss = dataplane.DefaultMissPolicy
	}
	for _, in := range cfg.Instances {
		c.Instances = append(c.Instances, tun.Instance{IID: in.IID, Device: in.Device, Native: in.NoMapping == config.NoMappingNative})
	}
	for _, m := range cfg.DatabaseMappings {
		c.Locals = append(c.Locals, m.EID)
	}
	for _, l := range cfg.Learned {
		c.Guarded = append(c.Guarded, l.EID())
	}
	roles := proxies(cfg)
	c.ProxyITR, c.ProxyETR = roles.ITR, roles.ETR
	if cfg.Host != nil {
		c.Host = append([]mapping.EID{}, cfg.Host.EIDPrefixes...)
	}
	return c
}
