package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/eidolon-lisp/eidolon/lab/internal/applet"
	"github.com/eidolon-lisp/eidolon/lab/internal/clab"
)

func (d *demo) stopSteps() []step {
	return []step{
		{"xtr-a stops in order and leaves nothing behind", func(ctx context.Context) (string, error) { return d.stopXTR(ctx, siteA.xtr) }},
		{"xtr-b stops in order and leaves nothing behind", func(ctx context.Context) (string, error) { return d.stopXTR(ctx, siteB.xtr) }},
		{"mapserver stops in order", func(context.Context) (string, error) {
			d.title("The map-server stops")
			return d.stopCommand(mapServer)
		}},
	}
}

// stopCommand ends a node's command with SIGTERM.
func (d *demo) stopCommand(node string) (string, error) {
	before, err := d.lab.Status(node)
	if err != nil {
		return "", err
	}
	if !before.Running {
		return before.String(), errors.New("it did not run any more")
	}
	begin := time.Now()
	st, err := d.lab.StopCommand(node, 10*time.Second)
	if err != nil {
		return "", err
	}
	value := fmt.Sprintf("status %d after %s", st.Exit, ms(time.Since(begin)))
	if st.Exit != 0 {
		return value, errors.New("expected status 0")
	}
	return value, nil
}

// stopXTR stops an xTR and looks for what it has left in the kernel.
func (d *demo) stopXTR(ctx context.Context, node string) (string, error) {
	d.title("The xTR " + node + " stops")
	while, err := d.kernelState(ctx, node)
	if err != nil {
		return "", err
	}
	value, err := d.stopCommand(node)
	if err != nil {
		return value, err
	}
	after, err := d.kernelState(ctx, node)
	if err != nil {
		return value, err
	}
	busy, left := while.extra(d.top, node), after.extra(d.top, node)
	if len(left) > 0 {
		return value, fmt.Errorf("left behind: %s", strings.Join(left, ", "))
	}
	if len(busy) == 0 {
		return value, errors.New("it had no device, rule or route while it ran, so nothing was shown")
	}
	return value + fmt.Sprintf("; all %d devices, rules and routes of its own are gone", len(busy)), nil
}

// kernelState is what is set in a node's network namespace.
type kernelState struct {
	links  []applet.JSONLink
	rules  []applet.JSONRule
	routes []applet.JSONRoute
}

func (d *demo) kernelState(ctx context.Context, node string) (kernelState, error) {
	var s kernelState
	for _, q := range []struct {
		args []string
		into any
	}{
		{[]string{"link", "show"}, &s.links},
		{[]string{"route", "show", "table", "all"}, &s.routes},
	} {
		if err := d.ipJSON(ctx, node, q.into, q.args...); err != nil {
			return s, err
		}
	}
	for _, family := range []string{"-4", "-6"} {
		var rules []applet.JSONRule
		if err := d.ipJSON(ctx, node, &rules, family, "rule", "show"); err != nil {
			return s, err
		}
		s.rules = append(s.rules, rules...)
	}
	return s, nil
}

func (d *demo) ipJSON(ctx context.Context, node string, into any, args ...string) error {
	res, err := d.run(ctx, node, 0, append([]string{applets + "ip", "-j"}, args...)...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(res.Stdout, into); err != nil {
		return fmt.Errorf("read what ip says in %s: %w", node, err)
	}
	return nil
}

// extra lists what is there beyond the kernel's own and what the topology's
// links and exec lines have set.
func (s kernelState) extra(top *clab.Topology, node string) []string {
	var list []string
	ours := append(top.Interfaces(node), "lo")
	for _, l := range s.links {
		if !slices.Contains(ours, l.Name) {
			list = append(list, "device "+l.Name)
		}
	}
	// The kernel's own: local, main, default (IPv4 only).
	own := map[string][]int{"inet": {0, 32766, 32767}, "inet6": {0, 32766}}
	for _, r := range s.rules {
		if r.Src != "all" || r.Dst != "" || r.Iif != "" || r.Mark != 0 || !slices.Contains(own[r.Family], r.Priority) {
			list = append(list, fmt.Sprintf("rule %d from %s to %s %s%s", r.Priority, r.Src, r.Dst, r.Table, r.Action))
		}
	}
	configured := configuredRoutes(top.Node(node))
	for _, r := range s.routes {
		// In the main table the kernel puts routes to the links' networks, in
		// the local table those to our own addresses.
		if r.Protocol == "kernel" && (r.Table == "local" || slices.Contains(ours, r.Dev)) {
			continue
		}
		if r.Table == "main" && r.Type == "unicast" && slices.Contains(configured, r.Dst+" via "+r.Gateway) {
			continue
		}
		list = append(list, fmt.Sprintf("route %s %s via %q dev %s table %s proto %s", r.Type, r.Dst, r.Gateway, r.Dev, r.Table, r.Protocol))
	}
	return list
}

// configuredRoutes lists the routes of a node's exec lines, as "PREFIX via
// GATEWAY".
func configuredRoutes(n *clab.Node) []string {
	var list []string
	for _, l := range n.Exec {
		i := slices.Index(l.Words, "route")
		if i < 0 || i+2 >= len(l.Words) || l.Words[0] != "ip" || l.Words[i+1] != "add" && l.Words[i+1] != "replace" {
			continue
		}
		dst, via := l.Words[i+2], ""
		if j := slices.Index(l.Words, "via"); j > 0 && j+1 < len(l.Words) {
			via = l.Words[j+1]
		}
		if gw, err := netip.ParseAddr(via); err == nil && dst == "default" {
			dst = "0.0.0.0/0"
			if gw.Is6() {
				dst = "::/0"
			}
		}
		list = append(list, dst+" via "+via)
	}
	return list
}
