package applet

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/eidolon-lisp/eidolon/mapping/bgp/plain"
)

const bgpUsage = `usage: bgprouter COMMAND
  run as N id ADDRESS [neighbour ADDRESS as N [connect]]... [originate PREFIX]...
                         be a router, which follows what its neighbours say
  routes [-j]            all paths; > marks the best
  neighbours [-j]
  announce PREFIX...     originate more prefixes
  withdraw PREFIX...`

// bgpSocket is where a running router is asked. Its name is one of the network
// namespace, which so has one router.
const bgpSocket = "@eidolon-bgprouter"

// bgpPort is where neighbours are connected to.
const bgpPort = 179

// runBGPRouter is a plain BGP router, and the client that steers it.
func runBGPRouter(ctx context.Context, args []string, s Streams) error {
	if len(args) == 0 {
		return usagef("no command given\n%s", bgpUsage)
	}
	command, args := args[0], args[1:]
	switch command {
	case "run":
		cfg, originate, err := parseBGP(args)
		if err != nil {
			return err
		}
		return routeBGP(ctx, cfg, originate, s)
	case "routes", "neighbours":
		if len(args) > 1 || len(args) == 1 && args[0] != "-j" {
			return usagef("%s knows -j and nothing else\n%s", command, bgpUsage)
		}
		show := showBGPRoutes
		if command == "neighbours" {
			show = showBGPNeighbours
		}
		return askBGP(ctx, func(c *plain.Client) error { return show(c, s.Out, len(args) == 1) })
	case "announce", "withdraw":
		if len(args) == 0 {
			return usagef("%s wants a prefix\n%s", command, bgpUsage)
		}
		prefixes, err := bgpPrefixes(args)
		if err != nil {
			return err
		}
		return askBGP(ctx, func(c *plain.Client) error {
			if command == "withdraw" {
				return c.Withdraw(prefixes...)
			}
			return c.Announce(nil, prefixes...)
		})
	case "-h", "-help", "--help":
		fmt.Fprintln(s.Out, bgpUsage)
		return nil
	}
	return usagef("%q is not known here\n%s", command, bgpUsage)
}

func bgpPrefixes(words []string) (list []netip.Prefix, err error) {
	for _, w := range words {
		p, err := netip.ParsePrefix(w)
		if err != nil || p != p.Masked() {
			return nil, usagef("%q is not a prefix", w)
		}
		list = append(list, p)
	}
	return list, nil
}

// parseBGP reads the words of run.
func parseBGP(words []string) (cfg plain.Config, originate []netip.Prefix, err error) {
	next := func(name string) string {
		if len(words) == 0 {
			err = cmp.Or(err, error(usagef("%s wants an argument\n%s", name, bgpUsage)))
			return ""
		}
		w := words[0]
		words = words[1:]
		return w
	}
	number := func(name string) uint32 {
		w := next(name)
		n, perr := strconv.ParseUint(w, 10, 32)
		if perr != nil || n == 0 {
			err = cmp.Or(err, error(usagef("%s wants a number from 1, not %q", name, w)))
		}
		return uint32(n)
	}
	address := func(name string) netip.Addr {
		w := next(name)
		a, perr := netip.ParseAddr(w)
		if perr != nil || a.Zone() != "" {
			err = cmp.Or(err, error(usagef("%s wants an address, not %q", name, w)))
		}
		return a
	}
	for len(words) > 0 && err == nil {
		switch w := next(""); w {
		case "as":
			cfg.AS = number(w)
		case "id":
			cfg.RouterID = address(w)
		case "neighbour":
			n := plain.Neighbour{Addr: address(w)}
			if as := next(w); err == nil && as != "as" {
				return cfg, nil, usagef("neighbour %v wants as N, not %q\n%s", n.Addr, as, bgpUsage)
			}
			n.AS = number("as")
			if len(words) > 0 && words[0] == "connect" {
				n.Port = bgpPort
				next("")
			}
			cfg.Neighbours = append(cfg.Neighbours, n)
		case "originate":
			word := next(w)
			if err == nil {
				var list []netip.Prefix
				list, err = bgpPrefixes([]string{word})
				originate = append(originate, list...)
			}
		default:
			return cfg, nil, usagef("%q is not known in run\n%s", w, bgpUsage)
		}
	}
	if err == nil && (cfg.AS == 0 || !cfg.RouterID.Is4()) {
		err = usagef("run wants as N and id ADDRESS, of IPv4\n%s", bgpUsage)
	}
	return cfg, originate, err
}

// routeBGP is a router until ctx ends. What it has learned is in the main table
// of its network namespace for so long.
func routeBGP(ctx context.Context, cfg plain.Config, originate []netip.Prefix, s Streams) error {
	ln, err := net.Listen("unix", bgpSocket)
	if err != nil {
		return fmt.Errorf("a router runs already, or none can be asked here: %w", err)
	}
	defer ln.Close()
	// Links and addresses may come later than we, and GoBGP waits for long after an
	// attempt that fails.
	for _, n := range cfg.Neighbours {
		if n.Port != 0 && awaitWay(ctx, n.Addr) != nil {
			return nil // it was told to end
		}
	}
	k := &kernelRoutes{said: s.Err, installed: map[netip.Prefix]bool{}}
	cfg.OnBest, cfg.Log = k.follow, s.Err
	r, err := plain.Start(cfg)
	if err != nil {
		return err
	}
	defer k.flush()
	defer r.Stop()
	if err := r.Announce(nil, originate...); err != nil {
		return err
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	context.AfterFunc(ctx, func() { ln.Close() })
	for {
		c, err := ln.Accept()
		if ctx.Err() != nil {
			if err == nil {
				c.Close()
			}
			return nil
		}
		if err != nil {
			return err
		}
		wg.Go(func() {
			defer c.Close()
			defer context.AfterFunc(ctx, func() { c.Close() })()
			if err := r.Serve(c, c); err != nil && ctx.Err() == nil {
				fmt.Fprintf(s.Err, "a client: %v\n", err)
			}
		})
	}
}

// awaitWay waits until the kernel has a way to a, or ctx ends.
func awaitWay(ctx context.Context, a netip.Addr) error {
	for {
		if _, err := netlink.RouteGet(a.AsSlice()); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// kernelRoutes are the routes that the router has put into the kernel.
type kernelRoutes struct {
	said io.Writer // hears what the kernel refuses

	mu        sync.Mutex
	over      bool // nothing is put there any more
	installed map[netip.Prefix]bool
}

// follow does what changes of the best paths ask for.
func (k *kernelRoutes) follow(list []plain.Best) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, b := range list {
		var err error
		switch {
		case k.over:
		case b.NextHop.IsValid():
			if err = netlink.RouteReplace(&netlink.Route{Dst: ipNet(b.Prefix), Gw: b.NextHop.AsSlice(), Protocol: unix.RTPROT_BGP}); err == nil {
				k.installed[b.Prefix] = true
			}
		case k.installed[b.Prefix]:
			err = k.remove(b.Prefix)
		}
		if err != nil {
			fmt.Fprintf(k.said, "the route to %v by %v: %v\n", b.Prefix, b.NextHop, err)
		}
	}
}

func (k *kernelRoutes) remove(p netip.Prefix) error {
	delete(k.installed, p)
	err := netlink.RouteDel(&netlink.Route{Dst: ipNet(p), Protocol: unix.RTPROT_BGP})
	if errors.Is(err, unix.ESRCH) {
		return nil // it went with its interface
	}
	return err
}

// flush removes all, for good.
func (k *kernelRoutes) flush() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.over = true
	for p := range k.installed {
		if err := k.remove(p); err != nil {
			fmt.Fprintf(k.said, "the route to %v: %v\n", p, err)
		}
	}
}

// askBGP asks the router of this network namespace.
func askBGP(ctx context.Context, ask func(*plain.Client) error) error {
	c, err := new(net.Dialer).DialContext(ctx, "unix", bgpSocket)
	if errors.Is(err, unix.ECONNREFUSED) {
		return errors.New("no bgprouter runs here")
	}
	if err != nil {
		return err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	return ask(plain.NewClient(c, c))
}

func showBGPRoutes(c *plain.Client, w io.Writer, asJSON bool) error {
	list, err := c.Routes()
	if err != nil {
		return err
	}
	if asJSON {
		return json.NewEncoder(w).Encode(list)
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "  PREFIX\tNEXT HOP\tFROM\tAS PATH\tCOMMUNITIES")
	for _, r := range list {
		mark, from := " ", "here"
		if r.Best {
			mark = ">"
		}
		if r.From.IsValid() {
			from = r.From.String()
		}
		var communities []string
		for _, x := range r.Communities {
			communities = append(communities, fmt.Sprintf("%d:%d", x>>16, x&0xffff))
		}
		for _, x := range r.Large {
			communities = append(communities, fmt.Sprintf("%d:%d:%d", x[0], x[1], x[2]))
		}
		if r.Stale {
			from += " (stale)"
		}
		fmt.Fprintf(t, "%s %v\t%v\t%s\t%s\t%s\n", mark, r.Prefix, r.NextHop, from, strings.Trim(fmt.Sprint(r.ASPath), "[]"), strings.Join(communities, " "))
	}
	return t.Flush()
}

func showBGPNeighbours(c *plain.Client, w io.Writer, asJSON bool) error {
	list, err := c.Sessions()
	if err != nil {
		return err
	}
	if asJSON {
		return json.NewEncoder(w).Encode(list)
	}
	routes, err := c.Routes()
	if err != nil {
		return err
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "ADDRESS\tAS\tSTATE\tUPDATES\tPREFIXES")
	for _, n := range list {
		state := "down"
		if n.Established {
			state = "established"
		}
		own := slices.DeleteFunc(slices.Clone(routes), func(r plain.Route) bool { return r.From != n.Addr })
		fmt.Fprintf(t, "%v\t%d\t%s\t%d\t%d\n", n.Addr, n.AS, state, n.Updates, len(own))
	}
	return t.Flush()
}
