package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/eidolon-lisp/eidolon/lab/internal/applet"
	"github.com/eidolon-lisp/eidolon/lab/internal/runner"
)

// site is what the quickstart topology has of a site.
type site struct {
	xtr, host string
	eids      []netip.Prefix
	host4     netip.Addr // EID of the host
	host6     netip.Addr
	pa4       netip.Addr // the host's provider-assigned address
	rloc4     netip.Addr
}

var (
	siteA = site{
		xtr: "xtr-a", host: "host-a",
		eids:  []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("2001:db8:a::/48")},
		host4: netip.MustParseAddr("10.1.0.10"), host6: netip.MustParseAddr("2001:db8:a::10"),
		pa4: netip.MustParseAddr("198.51.100.10"), rloc4: netip.MustParseAddr("192.0.2.1"),
	}
	siteB = site{
		xtr: "xtr-b", host: "host-b",
		eids:  []netip.Prefix{netip.MustParsePrefix("10.2.0.0/16"), netip.MustParsePrefix("2001:db8:b::/48")},
		host4: netip.MustParseAddr("10.2.0.10"), host6: netip.MustParseAddr("2001:db8:b::10"),
		pa4: netip.MustParseAddr("198.51.100.26"), rloc4: netip.MustParseAddr("192.0.2.5"),
	}
)

const (
	core      = "core"
	mapServer = "mapserver"

	applets      = "/.lab/applets/" // ours, not those of the machine: their output is known
	transfer     = 16 << 20         // octets
	tooBig       = 1500             // octets of an IP packet
	underLISPMTU = 1500 - 36        // outer IPv4, UDP and LISP headers (RFC 9300 section 7)
)

func (d *demo) protocolSteps() []step {
	return []step{
		{"capture in the core has begun", d.startCapture},
		{"both sites are registered", d.registered},
		{"first packet: miss, request, reply, delivery", d.firstPacket},
		{"ping from EID to EID, IPv4", func(ctx context.Context) (string, error) { return d.ping(ctx, siteB.host4) }},
		{"ping from EID to EID, IPv6", func(ctx context.Context) (string, error) { return d.ping(ctx, siteB.host6) }},
		{"too-big packet is answered with the right MTU, IPv4", func(ctx context.Context) (string, error) { return d.tooBig(ctx, siteB.host4, 28) }},
		{"too-big packet is answered with the right MTU, IPv6", func(ctx context.Context) (string, error) { return d.tooBig(ctx, siteB.host6, 48) }},
		{"TCP transfer, IPv4: content arrives unchanged", func(ctx context.Context) (string, error) { return d.transfer(ctx, siteB.host4) }},
		{"TCP transfer, IPv6: content arrives unchanged", func(ctx context.Context) (string, error) { return d.transfer(ctx, siteB.host6) }},
		{"the core sees LISP between RLOCs and nothing else", d.auditCapture},
		{"the core has no route to an EID", d.coreRoutes},
		{"lig of a registered EID", func(ctx context.Context) (string, error) {
			return d.lig(ctx, siteB.host4.String(), 0, siteB.eids[0].String(), siteB.rloc4.String())
		}},
		{"lig of a static EID", func(ctx context.Context) (string, error) {
			return d.lig(ctx, "10.9.1.1", 0, "10.9.0.0/16", siteB.rloc4.String())
		}},
		{"lig of an unregistered EID", func(ctx context.Context) (string, error) { return d.lig(ctx, "172.16.0.1", 3, "", "") }},
		{"lig of a nonsense EID", func(ctx context.Context) (string, error) { return d.lig(ctx, "10.2.0.1.5/99", 1, "", "") }},
	}
}

// registered waits until the map-server has all EID-prefixes and both xTRs
// know it.
func (d *demo) registered(ctx context.Context) (string, error) {
	d.title("The sites register")
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	last := time.Time{}
	n := 0
	for _, s := range []site{siteA, siteB} {
		for _, eid := range s.eids {
			for _, e := range [][2]string{{mapServer, "registration accepted"}, {s.xtr, "registered"}} {
				ev, err := d.logs.wait(ctx, time.Time{}, e[0], e[1], eid.String())
				if err != nil {
					return "", err
				}
				if ev.at.After(last) {
					last = ev.at
				}
			}
			n++
		}
	}
	return fmt.Sprintf("%d EID-prefixes, acknowledged %.2f s after the start", n, last.Sub(d.start).Seconds()), nil
}

// run runs a command in a node and wants its exit status.
func (d *demo) run(ctx context.Context, node string, status int, argv ...string) (runner.Result, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	res, err := d.lab.Run(ctx, node, argv...)
	if err != nil {
		return res, err
	}
	if res.Exit != status {
		return res, fmt.Errorf("%s in %s ended with status %d, not %d: %s", strings.Join(argv, " "), node, res.Exit, status,
			strings.TrimSpace(string(res.Stdout)+" "+string(res.Stderr)))
	}
	return res, nil
}

// pingJSON pings from site A's host; a status of 1 (no reply) is a report too.
func (d *demo) pingJSON(ctx context.Context, args ...string) (applet.PingReport, error) {
	var r applet.PingReport
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	res, err := d.lab.Run(ctx, siteA.host, append([]string{applets + "ping", "--json"}, args...)...)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(res.Stdout, &r); err != nil {
		return r, fmt.Errorf("ping in %s: %w: %s", siteA.host, err, res.Stderr)
	}
	return r, nil
}

// firstPacket sends one packet towards an EID that the xTR does not know yet,
// and wants to see each step of its resolution.
func (d *demo) firstPacket(ctx context.Context) (string, error) {
	d.title("The first packet of a conversation")
	since := time.Now()
	r, err := d.pingJSON(ctx, "-c", "1", "-W", "5", siteB.host4.String())
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	var events []event
	for _, w := range []struct{ node, msg, eid string }{
		{siteA.xtr, "map-cache miss", ""},
		{siteA.xtr, "map-request sent", ""},
		{mapServer, "map-request received", ""},
		{mapServer, "map-reply sent", ""},
		{siteA.xtr, "map-reply received", siteB.eids[0].String()},
		{siteA.xtr, "mapping installed", siteB.eids[0].String()},
	} {
		e, err := d.logs.wait(ctx, since, w.node, w.msg, w.eid)
		if err != nil {
			return "", err
		}
		events = append(events, e)
	}
	resolved := events[len(events)-1].at.Sub(events[0].at)
	if r.Received != 1 {
		return fmt.Sprintf("resolved in %s", ms(resolved)), fmt.Errorf("the packet was not answered: %v", r.Errors)
	}
	return fmt.Sprintf("answered after %.2f ms; from miss to mapping %s", r.RTT[0], ms(resolved)), nil
}

func ms(d time.Duration) string { return fmt.Sprintf("%.2f ms", float64(d)/float64(time.Millisecond)) }

func (d *demo) ping(ctx context.Context, dst netip.Addr) (string, error) {
	r, err := d.pingJSON(ctx, "-c", "10", "-i", "0.05", "-W", "3", dst.String())
	if err != nil {
		return "", err
	}
	value := fmt.Sprintf("%d of %d answered", r.Received, r.Transmitted)
	if r.Received > 0 {
		value += fmt.Sprintf(", first %.2f ms, median %.2f ms", r.RTT[0], median(r.RTT))
	}
	if r.Received != r.Transmitted {
		return value, errors.New("packets were lost")
	}
	return value, nil
}

// tooBig sends a packet of 1500 octets that must not be fragmented; headers
// are the octets of its IP and ICMP headers.
func (d *demo) tooBig(ctx context.Context, dst netip.Addr, headers int) (string, error) {
	r, err := d.pingJSON(ctx, "-c", "1", "-W", "2", "-M", "do", "-s", fmt.Sprint(tooBig-headers), dst.String())
	if err != nil {
		return "", err
	}
	if r.Received > 0 || len(r.Errors) != 1 {
		return "", fmt.Errorf("%d replies and %d errors came, where one too-big was expected", r.Received, len(r.Errors))
	}
	e := r.Errors[0]
	if e.Local {
		return e.Message, errors.New("the host's own kernel refused it, so no router was asked")
	}
	value := fmt.Sprintf("%s says %q, MTU %d", e.From, e.Message, e.MTU)
	if e.MTU != underLISPMTU {
		return value, fmt.Errorf("expected %d", underLISPMTU)
	}
	// What just fits must pass.
	r, err = d.pingJSON(ctx, "-c", "1", "-W", "2", "-M", "do", "-s", fmt.Sprint(underLISPMTU-headers), dst.String())
	if err == nil && r.Received != 1 {
		err = fmt.Errorf("a packet of %d octets does not pass", underLISPMTU)
	}
	return value + fmt.Sprintf("; a packet of %d passes", underLISPMTU), err
}

// serve runs the receiver of transfers in site B's host until the returned
// function is called.
func (d *demo) serve(args ...string) (stop func(), err error) {
	p, err := d.lab.Start(siteB.host, append([]string{applets + "ttcp", "serve"}, args...), nil, [3]*os.File{}, false)
	if err != nil {
		return nil, err
	}
	return func() {
		p.Signal(syscall.SIGTERM)
		p.Wait()
	}, nil
}

// send runs a transfer from site A's host. The receiver may need a moment to
// listen.
func (d *demo) send(ctx context.Context, args ...string) (applet.TTCPReport, error) {
	var r applet.TTCPReport
	var err error
	for range 20 {
		var res runner.Result
		res, err = d.run(ctx, siteA.host, 0, append([]string{applets + "ttcp", "send", "--json"}, args...)...)
		if err == nil {
			return r, json.Unmarshal(res.Stdout, &r)
		}
		if !strings.Contains(err.Error(), "connection refused") {
			return r, err
		}
		time.Sleep(50 * time.Millisecond)
	}
	return r, err
}

func (d *demo) transfer(ctx context.Context, dst netip.Addr) (string, error) {
	stop, err := d.serve()
	if err != nil {
		return "", err
	}
	defer stop()
	r, err := d.send(ctx, "-n", fmt.Sprint(transfer), dst.String())
	if err != nil {
		return "", err
	}
	value := fmt.Sprintf("%d MiB in %.2f s, SHA-256 %.12s..., MSS %d", r.Octets>>20, r.Seconds, r.SHA256, r.MSS)
	if r.Octets != transfer || len(r.SHA256) != 64 || r.SHA256 != r.SentSHA256 {
		return value, errors.New("what arrived differs from what was sent")
	}
	return value, nil
}

// coreRoutes wants no route in the core whose destination shares an address
// with a site's EIDs.
func (d *demo) coreRoutes(ctx context.Context) (string, error) {
	res, err := d.run(ctx, core, 0, applets+"ip", "-j", "route", "show", "table", "all")
	if err != nil {
		return "", err
	}
	var routes []applet.JSONRoute
	if err := json.Unmarshal(res.Stdout, &routes); err != nil {
		return "", fmt.Errorf("read the routes of the core: %w", err)
	}
	if len(routes) == 0 {
		return "", errors.New("the core shows no route at all")
	}
	for _, r := range routes {
		p, err := netip.ParsePrefix(r.Dst)
		if err != nil {
			return "", fmt.Errorf("read the routes of the core: %w", err)
		}
		for _, s := range []site{siteA, siteB} {
			for _, eid := range s.eids {
				if p.Overlaps(eid) {
					return "", fmt.Errorf("the core has a route to %s, which meets %s", p, eid)
				}
			}
		}
	}
	for _, dst := range []netip.Addr{siteA.host4, siteA.host6, siteB.host4, siteB.host6} {
		if res, err := d.run(ctx, core, 1, applets+"ip", "route", "get", dst.String()); err != nil {
			return "", fmt.Errorf("asked for %s: %w", dst, err)
		} else if !strings.Contains(string(res.Stderr), "unreachable") {
			return "", fmt.Errorf("asked for %s, it says %s", dst, res.Stderr)
		}
	}
	return fmt.Sprintf("%d routes, none of them covers an EID; asked for four, it says unreachable", len(routes)), nil
}

// ligAnswer is what lispctl lig -o json prints.
type ligAnswer struct {
	Negative bool    `json:"negative"`
	RTT      float64 `json:"rtt_ms"`
	Record   struct {
		EID      string `json:"eid"`
		TTL      uint32 `json:"record_ttl"`
		Action   string `json:"action"`
		Locators []struct {
			Address string `json:"address"`
		} `json:"locators"`
	} `json:"record"`
}

// lig asks the map-resolver from site A's xTR and wants an exit status, and
// for a positive answer the prefix and its first locator.
func (d *demo) lig(ctx context.Context, eid string, status int, prefix, locator string) (string, error) {
	res, err := d.run(ctx, siteA.xtr, status, "lispctl", "lig", eid, "--resolver", "203.0.113.10", "-o", "json")
	if err != nil {
		return "", err
	}
	if status == 1 {
		said := strings.TrimSpace(string(res.Stderr))
		if said == "" || len(res.Stdout) > 0 {
			return said, errors.New("expected a message on stderr and nothing else")
		}
		return fmt.Sprintf("refused: %s", strings.SplitN(said, "\n", 2)[0]), nil
	}
	var a ligAnswer
	if err := json.Unmarshal(res.Stdout, &a); err != nil {
		return "", fmt.Errorf("read lig's answer: %w: %s", err, res.Stdout)
	}
	if status == 3 {
		value := fmt.Sprintf("%s: negative for %s, action %s, TTL %d min, in %.2f ms", eid, a.Record.EID, a.Record.Action, a.Record.TTL, a.RTT)
		hole, err := netip.ParsePrefix(a.Record.EID)
		if err != nil || !hole.Contains(netip.MustParseAddr(eid)) || !a.Negative || len(a.Record.Locators) > 0 {
			return value, errors.New("expected a negative answer that covers the EID")
		}
		for _, known := range []netip.Prefix{siteA.eids[0], siteB.eids[0], netip.MustParsePrefix("10.9.0.0/16")} {
			if hole.Overlaps(known) {
				return value, fmt.Errorf("the hole covers %s, which is mapped", known)
			}
		}
		return value, nil
	}
	var locators []string
	for _, l := range a.Record.Locators {
		locators = append(locators, l.Address)
	}
	value := fmt.Sprintf("%s is in %s, locators %s, in %.2f ms", eid, a.Record.EID, strings.Join(locators, " "), a.RTT)
	if a.Record.EID != prefix || a.Negative || len(locators) == 0 || locators[0] != locator {
		return value, fmt.Errorf("expected %s with %s first", prefix, locator)
	}
	return value, nil
}
