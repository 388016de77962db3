// Xtr is the site edge router of Eidolon: ITR and ETR.
package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/eidolon-lisp/eidolon/api"
	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/dataplane/tun"
	"github.com/eidolon-lisp/eidolon/internal/config"
	"github.com/eidolon-lisp/eidolon/internal/daemon"
	"github.com/eidolon-lisp/eidolon/internal/udp"
	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/auth"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
	"github.com/eidolon-lisp/eidolon/mapping/xtr"
)

func main() {
	os.Exit(daemon.Daemon{
		Name:   "xtr",
		Short:  "LISP site edge router (ITR and ETR)",
		Config: "/etc/eidolon/xtr.yml",
		Check:  func(path string) (error, error) { return config.Check(path, config.KindXTR) },
		Run:    run,
	}.Main(os.Args[1:], os.Stdout, os.Stderr))
}

// usageRound is how often the control plane hears which entries of the
// map-cache carried traffic, and from which RLOCs packets came.
const usageRound = 5 * time.Second

func run(ctx context.Context, path string) error {
	hangups := make(chan os.Signal, 1) // before SIGHUP could end the process
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	cfg, err := config.LoadXTR(path)
	if err != nil {
		return err
	}
	log := cfg.Log.Logger(os.Stderr)
	for _, w := range cfg.Warnings {
		log.Warn("configuration", "warning", w.Error())
	}
	// Before waiting for addresses, which may take long.
	if err := tun.Available(); err != nil {
		return err
	}
	rlocs, err := localLocators(ctx, log, cfg)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}

	fib := dataplane.NewFIB()
	control := controlConfig(cfg, rlocs, fib, log)
	x, err := xtr.New(control)
	if err != nil {
		return err
	}
	var listen []netip.AddrPort
	for _, a := range rlocs {
		listen = append(listen, netip.AddrPortFrom(a, wire.Port))
	}
	conn, err := udp.Listen(listen)
	if err != nil {
		return err
	}
	defer conn.Close()
	plane, err := tun.New(planeConfig(cfg, rlocs, log), fib)
	if err != nil {
		return err
	}
	fib.SetLocal(local(control.Databases)) // the plane knows no versions
	for _, w := range plane.Warnings() {
		log.Warn("host setting", "warning", w)
	}
	log.Info("xtr is up", "rlocs", fmt.Sprint(rlocs), "database_mappings", len(cfg.DatabaseMappings), "version", daemon.Version())

	// The plane outlives the control plane, so that traffic still flows while
	// the registrations are withdrawn.
	planeCtx, stopPlane := context.WithCancel(context.WithoutCancel(ctx))
	defer stopPlane()
	g, ctx := errgroup.WithContext(ctx)
	misses := make(chan xtr.Miss)
	g.Go(func() error { return plane.Run(planeCtx) })
	g.Go(func() error {
		defer stopPlane()
		return x.Run(ctx, conn, misses)
	})
	r := &reloader{path: path, first: cfg, servers: control.MapServers, rlocs: rlocs, site: x, log: log, local: interfaceAddrs}
	g.Go(func() error { return r.run(ctx, hangups) })
	g.Go(func() error { return pass(ctx, usageRound, fib, plane, x, misses) })
	g.Go(func() error {
		return api.Serve(ctx, api.Config{Socket: cfg.API.Socket, Logger: log},
			api.Admin("xtr", concat(x.Stats, plane.Stats)), api.Router(x, fib))
	})
	return g.Wait()
}

// control is what the control plane wants to know of the data plane besides
// misses.
type control interface {
	Used([]mapping.EID)
	Heard([]netip.Addr)
	VersionFound(xtr.VersionEvent)
	PathMTUs([]xtr.PathMTU)
}

// pass carries misses and findings about map-versions from the plane to the
// control plane, and in rounds which entries of the map-cache are in use and
// from where packets came.
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
			x.Heard(plane.Heard())
			x.PathMTUs(pathMTUs(fib))
		case <-ctx.Done():
			return nil
		}
	}
}

func concat(seqs ...func() iter.Seq2[string, uint64]) func() iter.Seq2[string, uint64] {
	return func() iter.Seq2[string, uint64] {
		return func(yield func(string, uint64) bool) {
			for _, seq := range seqs {
				for name, v := range seq() {
					if !yield(name, v) {
						return
					}
				}
			}
		}
	}
}

// settle is how long locators may be missing after the first is there: the
// addresses of a router come one after the other.
const settle = 3 * time.Second

// localLocators returns the addresses of the locator-sets that an interface of
// this router has and that can be used: a new IPv6 address can't while the
// kernel looks for duplicates of it. It waits for the first, and then a moment
// for the others, which may as well belong to another xTR of the site.
func localLocators(ctx context.Context, log *slog.Logger, cfg *config.XTR) ([]netip.Addr, error) {
	var all, here []netip.Addr
	for _, m := range cfg.DatabaseMappings {
		for _, l := range m.Locators {
			if l.Addr.IsValid() && !slices.Contains(all, l.Addr) {
				all = append(all, l.Addr)
			}
		}
	}
	if len(all) == 0 {
		return nil, errors.New("no database_mapping has a locator: an xtr needs an RLOC of its own")
	}
	slices.SortFunc(all, netip.Addr.Compare)
	var first time.Time
	err := daemon.WaitAddress(ctx, log, func() error {
		here = here[:0]
		addrs, err := net.InterfaceAddrs()
		if err != nil {
			return err
		}
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil && slices.Contains(all, p.Addr()) && !slices.Contains(here, p.Addr()) && usable(p.Addr()) {
				here = append(here, p.Addr())
			}
		}
		if len(here) > 0 && first.IsZero() {
			first = time.Now()
		}
		if len(here) == len(all) || len(here) > 0 && time.Since(first) >= settle {
			return nil
		}
		return fmt.Errorf("of the locators %v this router has %v: %w", all, here, syscall.EADDRNOTAVAIL)
	})
	slices.SortFunc(here, netip.Addr.Compare)
	return here, err
}

// usable reports whether sockets can be bound to a local address.
func usable(a netip.Addr) bool {
	conn, err := udp.Listen([]netip.AddrPort{netip.AddrPortFrom(a, 0)})
	if err == nil {
		conn.Close()
	}
	return !errors.Is(err, syscall.EADDRNOTAVAIL)
}

// reachable returns the peers whose address family one of rlocs has. A router
// that came up without one of its uplinks starts with the others. If there is
// no such peer it returns all, and xtr.New says what is wrong.
func reachable[P any](log *slog.Logger, rlocs []netip.Addr, what string, peers []P, address func(P) netip.Addr) []P {
	var kept []P
	for _, p := range peers {
		a := address(p)
		if slices.ContainsFunc(rlocs, func(r netip.Addr) bool { return r.Is4() == a.Is4() }) {
			kept = append(kept, p)
		} else {
			log.Warn("not used: this router has no locator of its address family", what, a)
		}
	}
	if len(kept) == 0 {
		return peers
	}
	return kept
}

func controlConfig(cfg *config.XTR, rlocs []netip.Addr, fib *dataplane.FIB, log *slog.Logger) xtr.Config {
	c := xtr.Config{
		RLOCs:        rlocs,
		XTRID:        cfg.XTRID,
		SiteID:       cfg.SiteID,
		MapResolvers: reachable(log, rlocs, "map_resolver", cfg.MapResolvers, netip.AddrPort.Addr),
		LISPSec:      xtr.LISPSec{Policy: cfg.LISPSec, Instances: make(map[uint32]auth.SecurityPolicy), ResolverKeys: cfg.ResolverKeys},
		CacheLimit:   cfg.MapCacheLimit,
		RLOCProbing: xtr.RLOCProbing{
			Off:      !cfg.RLOCProbing.Enabled,
			Interval: cfg.RLOCProbing.Interval,
			Retries:  cfg.RLOCProbing.Retries,
		},
		VerifyMapData: cfg.AcceptMapData == config.MapDataVerify,
		OnCache:       fib.Apply,
		OnPathMTU:     usePathMTUs(fib),
		OnDatabases:   func(d []xtr.Database) { fib.SetLocal(local(d)) },
		Logger:        log,
	}
	for _, in := range cfg.Instances {
		c.LISPSec.Instances[in.IID] = in.LISPSec
	}
	if p := cfg.PubSub; p != nil {
		c.PubSub = &xtr.PubSub{Key: p.Key, AcceptUnsolicited: p.AcceptUnsolicited}
	}
	for _, m := range cfg.DatabaseMappings {
		c.Databases = append(c.Databases, database(m))
	}
	for _, m := range reachable(log, rlocs, "map_server", cfg.MapServers, func(m config.XTRMapServer) netip.Addr { return m.Address.Addr() }) {
		c.MapServers = append(c.MapServers, xtr.MapServer{
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
	return c
}

func database(m config.DatabaseMapping) xtr.Database {
	return xtr.Database{EID: m.EID, Locators: m.Locators, TTL: m.RecordTTL, Version: m.MapVersion}
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

func planeConfig(cfg *config.XTR, rlocs []netip.Addr, log *slog.Logger) tun.Config {
	c := tun.Config{
		Sources:       rlocs,
		Table:         cfg.Plane.RouteTable,
		UplinkMTU:     cfg.Plane.UplinkMTU,
		MapVersioning: cfg.MapVersioning,
		SourceCheck:   sourceChecks[cfg.Plane.SourceCheck],
		MSSClamp:      cfg.Plane.MSSClamp,
		Logger:        log,
	}
	if cfg.Miss == config.MissHold {
		c.Miss = dataplane.DefaultMissPolicy
	}
	for _, in := range cfg.Instances {
		c.Instances = append(c.Instances, tun.Instance{IID: in.IID, Device: in.Device})
	}
	for _, m := range cfg.DatabaseMappings {
		c.Locals = append(c.Locals, m.EID)
	}
	return c
}
