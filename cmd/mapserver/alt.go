package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/eidolon-lisp/eidolon/api"
	"github.com/eidolon-lisp/eidolon/internal/config"
	"github.com/eidolon-lisp/eidolon/internal/tunnel"
	"github.com/eidolon-lisp/eidolon/mapping/alt"
	"github.com/eidolon-lisp/eidolon/mapping/bgp"
	"github.com/eidolon-lisp/eidolon/mapping/bgp/speaker"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// overlay is the place of the map-server in LISP+ALT: tunnels, what BGP says over
// them, and where Map-Requests go by that. It is nil for one that has none.
type overlay struct {
	router  *alt.Router
	tunnels *tunnel.Set
	speaker *speaker.Speaker
	cfg     *config.ALT
	log     *slog.Logger
	own     []netip.Prefix
}

// newOverlay makes the tunnels. close follows.
func newOverlay(cfg *config.MapServer, log *slog.Logger) (_ *overlay, err error) {
	if cfg.ALT == nil {
		return nil, nil
	}
	a := &overlay{cfg: cfg.ALT, log: log, own: cfg.ALTPrefixes()}
	var links []tunnel.Config
	c := alt.Config{Own: a.own, Rate: cfg.ALT.Rate, Burst: cfg.ALT.Burst}
	for _, t := range cfg.ALT.Tunnels {
		links = append(links, tunnel.Config{Name: t.Name, Kind: tunnel.Kind(t.Kind), Local: t.Local, Remote: t.Remote, ID: t.ID, Addrs: t.Addresses})
		c.Tunnels = append(c.Tunnels, t.Addresses)
	}
	for _, g := range cfg.ALT.Aggregates {
		c.Aggregates = append(c.Aggregates, alt.Aggregate(g))
	}
	if a.router, err = alt.New(c, a); err != nil {
		return nil, err
	}
	b := cfg.ALT.Config
	b.Logger, b.OnRoutes = log, a.routes
	if a.speaker, err = speaker.New(b); err != nil {
		return nil, err
	}
	routes := make([]bgp.Route, len(a.own))
	for i, p := range a.own {
		routes[i].Prefix = p
	}
	if err := a.speaker.Announce(routes); err != nil {
		return nil, err
	}
	a.aggregate()
	if a.tunnels, err = tunnel.Open(links, wire.Port, log); err != nil {
		return nil, fmt.Errorf("alt: %w", err)
	}
	return a, nil
}

// cleanup is the command that removes what a killed map-server has left.
func cleanup() *cobra.Command {
	return &cobra.Command{
		Use:   "cleanup",
		Short: "Remove the tunnels of LISP+ALT that a map-server that was killed has left in the kernel",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := tunnel.Cleanup(); err != nil {
				return err
			}
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "nothing of mapserver is left in the kernel")
			return err
		},
	}
}

// Send is what the router sends by.
func (a *overlay) Send(by alt.Link, next netip.Addr, packet []byte) error {
	err := a.tunnels.Send(int(by), next, packet)
	if errors.Is(err, tunnel.ErrNoNeighbour) {
		return alt.ErrNoNeighbour
	}
	return err
}

// routes takes what neighbours say.
func (a *overlay) routes(list []bgp.Received) {
	a.router.Update(list)
	a.aggregate()
}

// aggregate announces the aggregates that have a component, and no others.
func (a *overlay) aggregate() {
	up, down := a.router.Aggregates()
	routes := make([]bgp.Route, len(up))
	for i, p := range up {
		routes[i].Prefix = p
	}
	if err := a.speaker.Announce(routes); err != nil {
		a.log.Error("aggregates are not announced", "err", err)
	}
	a.speaker.Withdraw(down)
	if len(up)+len(down) > 0 {
		a.log.Info("aggregates of the ALT", "announced", fmt.Sprint(up), "withdrawn", fmt.Sprint(down))
	}
}

// run has the sessions and takes what comes by the tunnels until ctx ends, and a
// second more, as neighbours need time to send elsewhere.
func (a *overlay) run(ctx context.Context) error {
	if a == nil {
		<-ctx.Done()
		return nil
	}
	packets, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var g errgroup.Group
	g.Go(func() error {
		return a.tunnels.Run(packets, func(i int, p []byte) { a.router.Take(time.Now(), alt.Link(i), p) })
	})
	err := a.speaker.Run(ctx)
	stop()
	return errors.Join(err, g.Wait())
}

// close removes the tunnels; nothing is sent any more.
func (a *overlay) close() error {
	if a == nil {
		return nil
	}
	return a.tunnels.Close()
}

// alt returns the router; nil without an ALT.
func (a *overlay) alt() *alt.Router {
	if a == nil {
		return nil
	}
	return a.router
}

// neighbours is what metrics ask; nil without an ALT.
func (a *overlay) neighbours() func() ([]bgp.NeighbourStatus, error) {
	if a == nil {
		return nil
	}
	return a.speaker.Neighbours
}

// view is what the API shows; nil without an ALT.
func (a *overlay) view() *api.ALTView {
	if a == nil {
		return nil
	}
	v := &api.ALTView{AS: a.cfg.Config.AS, RouterID: a.cfg.Config.RouterID, Own: a.own, Neighbours: a.speaker.Neighbours, Routes: a.router.Routes}
	for _, t := range a.cfg.Tunnels {
		v.Tunnels = append(v.Tunnels, api.ALTTunnel{Name: t.Name, Addresses: t.Addresses})
	}
	return v
}
