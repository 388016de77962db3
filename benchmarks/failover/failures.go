package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/eidolon-lisp/eidolon/internal/netns"
)

// failure is what happens to the first uplink or its provider.
type failure struct {
	name string
	what string
	// inject returns when it has happened; the one that goes on for a while
	// returns when it is over.
	inject func(context.Context, *world, arm) error
}

var failures = []failure{
	{"carrier", "carrier loss at the site", carrierLoss},
	{"upstream", "the provider loses its upstream; the carrier at the site stays", upstreamLoss},
	{"hole-in", "silent black hole on the access link, toward the site", holeIn},
	{"hole-out", "silent black hole on the access link, from the site", holeOut},
	{"address", "the site router's address on the uplink changes", addressChange},
	{"flap", "the uplink flaps at 1 Hz for a minute", flap},
}

func failureNames() []string {
	var out []string
	for _, f := range failures {
		out = append(out, f.name)
	}
	return out
}

func failureByName(name string) (failure, error) {
	for _, f := range failures {
		if f.name == name {
			return f, nil
		}
	}
	return failure{}, fmt.Errorf("there is no failure %q", name)
}

// carrierLoss takes the provider's end of the access link down.
func carrierLoss(_ context.Context, w *world, _ arm) error {
	return w.withLink("p1", "site", netlink.LinkSetDown)
}

// upstreamLoss takes the core's end of the provider's upstream link down.
func upstreamLoss(_ context.Context, w *world, _ arm) error {
	return w.withLink("c1", "p1", netlink.LinkSetDown)
}

// holeIn swallows what the provider sends on the access link.
func holeIn(_ context.Context, w *world, _ arm) error { return w.swallow("p1", "site") }

// holeOut swallows what the site router sends on it.
func holeOut(_ context.Context, w *world, _ arm) error { return w.swallow("s", uplinks[0]) }

// swallow drops all that leaves an interface, without a word to anybody: the
// queueing discipline tells the sender that all went well.
func (w *world) swallow(node, dev string) error {
	return w.withLink(node, dev, func(l netlink.Link) error {
		return netlink.QdiscAdd(&netlink.GenericQdisc{
			QdiscAttrs: netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
			QdiscType:  "blackhole",
		})
	})
}

// addressChange gives the site router another address of the same provider, as
// a DHCP client does: the old one goes, and with it the routes by it.
func addressChange(_ context.Context, w *world, a arm) error {
	if a.pa {
		if err := w.delRoute(paRoutes[0]); err != nil {
			return err
		}
		if err := w.delAddress("hs", "eth0", netip.PrefixFrom(sitePA[0], 28)); err != nil {
			return err
		}
	}
	if err := w.delAddress("s", uplinks[0], netip.PrefixFrom(siteRLOC[0], 29)); err != nil {
		return err
	}
	if err := w.ns["s"].AddAddress(uplinks[0], netip.PrefixFrom(siteNewRLOC, 29)); err != nil {
		return err
	}
	if !a.bgp {
		if err := w.addRoute(route{"s", defaultRoute, providers[0], 100}); err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
	}
	if !a.pa {
		return nil
	}
	// The provider routes a new block to the site, and the host gets an
	// address of it.
	if err := w.addRoute(route{"p1", pfx("198.18.1.144/28"), siteNewRLOC, 0}); err != nil {
		return err
	}
	if err := w.ns["s"].AddAddress("host", pfx("198.18.1.145/28")); err != nil {
		return err
	}
	if err := w.ns["hs"].AddAddress("eth0", netip.PrefixFrom(siteNewPA, 28)); err != nil {
		return err
	}
	if a.mptcp {
		return w.ns["hs"].Do(func() error { return mptcpEndpoint(siteNewPA, 3) })
	}
	return nil
}

// flapTime is how long the uplink flaps. A quick run has less.
var flapTime = time.Minute

// flap takes the access link down and up, half a second each.
func flap(ctx context.Context, w *world, a arm) error {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for begin := time.Now(); time.Since(begin) < flapTime; {
		if err := w.withLink("p1", "site", netlink.LinkSetDown); err != nil {
			return err
		}
		if err := wait(ctx, tick.C); err != nil {
			return err
		}
		if err := w.linkUp(a); err != nil {
			return err
		}
		if err := wait(ctx, tick.C); err != nil {
			return err
		}
	}
	return nil
}

// linkUp brings the access link up again, and the provider's routes by it that
// a provider's configuration would bring back.
func (w *world) linkUp(a arm) error {
	if err := w.withLink("p1", "site", netlink.LinkSetUp); err != nil {
		return err
	}
	if !a.pa {
		return nil
	}
	return w.ns["p1"].Do(func() error {
		return netlink.RouteReplace(&netlink.Route{Dst: netns.IPNet(paRoutes[0].dst), Gw: paRoutes[0].via.AsSlice()})
	})
}

func wait(ctx context.Context, tick <-chan time.Time) error {
	select {
	case <-tick:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
