package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/internal/config"
	"github.com/eidolon-lisp/eidolon/internal/udp"
	"github.com/eidolon-lisp/eidolon/internal/uplink"
	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
	"github.com/eidolon-lisp/eidolon/mapping/xtr"
)

// retrySockets is how often sockets that could not be opened are tried again.
const retrySockets = time.Second

// uplinkConfig says which interfaces to watch: those that locators name, and
// those that have the address of a locator.
func uplinkConfig(cfg *config.XTR, log *slog.Logger) uplink.Config {
	c := uplink.Config{Logger: log}
	for _, u := range cfg.Uplinks {
		c.Interfaces = append(c.Interfaces, uplink.Interface{Name: u.Interface, Gateway4: u.Gateway4, Gateway6: u.Gateway6})
	}
	add := func(locators []mapping.Locator) {
		for _, l := range locators {
			if l.Addr.IsValid() && !slices.Contains(c.Addresses, l.Addr) {
				c.Addresses = append(c.Addresses, l.Addr)
			}
		}
	}
	for _, m := range cfg.DatabaseMappings {
		add(m.Locators)
	}
	for _, m := range cfg.Learned {
		add(m.Locators)
	}
	for _, p := range []*config.Proxy{cfg.ProxyITR, cfg.ProxyETR} {
		if p != nil {
			add(p.Locators)
		}
	}
	return c
}

// control is what of an xTR the uplinks change.
type uplinkUser interface {
	SetUplinks([]xtr.Uplink) error
}

// uplinks carries what happens to the uplinks to the planes: first sockets are
// opened on what is new, then it is used.
type uplinks struct {
	watcher *uplink.Watcher
	plane   interface{ SetRLOCs([]netip.Addr) }
	sockets *udp.Set
	site    uplinkUser
	own     func([]netip.Addr) // hears of the addresses too; may be nil
	log     *slog.Logger

	names atomic.Pointer[[]string] // of the interfaces
}

// controlUplinks returns the states as the control plane knows them.
func controlUplinks(states []uplink.State) []xtr.Uplink {
	out := []xtr.Uplink{}
	for _, s := range states {
		out = append(out, xtr.Uplink{Name: s.Name, Up: s.Up, Addrs: s.Addrs})
	}
	return out
}

// addresses returns all addresses of the uplinks.
func addresses(states []uplink.State) (list []netip.Addr) {
	for _, s := range states {
		list = append(list, s.Addrs...)
	}
	return list
}

// listen opens the control plane's sockets; done is false when some could not.
func (u *uplinks) listen(states []uplink.State) (done bool) {
	var names []string
	for _, s := range states {
		names = append(names, s.Name)
	}
	u.names.Store(&names)
	var addrs []netip.AddrPort
	for _, a := range addresses(states) {
		addrs = append(addrs, netip.AddrPortFrom(a, wire.Port))
	}
	missing, err := u.sockets.Update(addrs)
	if len(missing) > 0 {
		u.log.Warn("control socket not opened; trying again every second", "err", err)
	}
	return len(missing) == 0
}

// run follows the uplinks until ctx ends, from the states given, for which the
// sockets are open if done says so.
func (u *uplinks) run(ctx context.Context, states []uplink.State, done bool) error {
	changes := make(chan []uplink.State, 16)
	ended := make(chan error, 1)
	go func() {
		ended <- u.watcher.Run(ctx, func(s []uplink.State) { changes <- slices.Clone(s) })
	}()
	retry := time.NewTicker(retrySockets)
	defer retry.Stop()
	for {
		select {
		case states = <-changes:
			done = u.change(states)
		case <-retry.C:
			if !done {
				done = u.listen(states)
			}
		case err := <-ended:
			return err
		}
	}
}

// change makes everything use the uplinks as they are now.
func (u *uplinks) change(states []uplink.State) (done bool) {
	u.plane.SetRLOCs(addresses(states))
	if u.own != nil {
		u.own(addresses(states))
	}
	done = u.listen(states)
	if err := u.site.SetUplinks(controlUplinks(states)); err != nil {
		u.log.Error("uplinks not used as they are now", "uplinks", fmt.Sprint(states), "err", err)
	}
	return done
}

// counters appends what the uplinks carried so far.
func (u *uplinks) counters(buf []uplink.Counters) []uplink.Counters {
	if names := u.names.Load(); names != nil {
		return u.watcher.AppendCounters(buf, *names)
	}
	return buf
}

// useSources gives the plane what the control plane found out of the uplinks and
// of the paths from there.
func useSources(fib *dataplane.FIB) func([]xtr.Source, []xtr.Path) {
	return func(sources []xtr.Source, down []xtr.Path) {
		from, paths := make([]dataplane.Source, len(sources)), make([]dataplane.Path, len(down))
		for i, s := range sources {
			from[i] = dataplane.Source(s)
		}
		for i, p := range down {
			paths[i] = dataplane.Path(p)
		}
		fib.SetPathsDown(paths)
		fib.SetSources(from)
	}
}

// trafficRound is how often the control plane hears what entries of the
// map-cache carry.
const trafficRound = 50 * time.Millisecond

// trafficUser is what of an xTR hears of traffic.
type trafficUser interface {
	Traffic([]xtr.Traffic)
	UplinkTraffic([]xtr.UplinkTraffic)
	Unreachable(xtr.Path)
}

// watchTraffic tells x what the plane forwards and what the uplinks carry, and
// which paths ICMP calls unreachable, until ctx ends.
func watchTraffic(ctx context.Context, fib *dataplane.FIB, unreachable <-chan dataplane.Path, counters func([]uplink.Counters) []uplink.Counters, x trafficUser) error {
	round := time.NewTicker(trafficRound)
	defer round.Stop()
	var active []dataplane.Activity
	var traffic []xtr.Traffic
	before, now := make(map[mapping.EID]dataplane.Activity), make(map[mapping.EID]dataplane.Activity)
	var carried []uplink.Counters
	var uplinks []xtr.UplinkTraffic
	last := make(map[string]uplink.Counters)
	for {
		select {
		case p := <-unreachable:
			x.Unreachable(xtr.Path(p))
		case <-round.C:
			carried, uplinks = counters(carried[:0]), uplinks[:0]
			any := false
			for _, c := range carried {
				if b, known := last[c.Name]; known && c.Sent >= b.Sent && c.Received >= b.Received {
					uplinks = append(uplinks, xtr.UplinkTraffic{Name: c.Name, Sent: c.Sent - b.Sent, Received: c.Received - b.Received})
					any = any || c != b
				}
			}
			clear(last)
			for _, c := range carried {
				last[c.Name] = c
			}
			if any {
				x.UplinkTraffic(uplinks)
			}
			active, traffic = fib.Active(active[:0]), traffic[:0]
			clear(now)
			for _, a := range active {
				now[a.EID] = a
				b, known := before[a.EID]
				if known && a.Sent >= b.Sent && a.Received >= b.Received && (a.Sent > b.Sent || a.Received > b.Received) {
					traffic = append(traffic, xtr.Traffic{EID: a.EID, Sent: a.Sent - b.Sent, Received: a.Received - b.Received})
				}
			}
			before, now = now, before
			if len(traffic) > 0 {
				x.Traffic(traffic)
			}
		case <-ctx.Done():
			return nil
		}
	}
}
