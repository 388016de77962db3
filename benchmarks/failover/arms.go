package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/eidolon-lisp/eidolon/internal/netns"
)

// arm is a way to survive a failure.
type arm struct {
	name string
	what string

	bgp      bool // provider-independent prefix, announced by both providers
	detector bool // that closes BGP sessions
	eidolon  bool
	pubsub   bool
	pa       bool // the hosts have addresses of the providers
	mptcp    bool
}

var arms = []arm{
	{name: "bgp", what: "BGP multihoming, GoBGP, default timers", bgp: true},
	{name: "bgp-fast", what: "BGP multihoming, GoBGP, Eidolon's detector closes sessions", bgp: true, detector: true},
	{name: "eidolon", what: "Eidolon, defaults", eidolon: true},
	{name: "eidolon-pubsub", what: "Eidolon, publish/subscribe", eidolon: true, pubsub: true},
	{name: "mptcp", what: "Multipath TCP of the kernel, an address of each provider", pa: true, mptcp: true},
	{name: "single", what: "one provider, as control", pa: true},
}

func armNames() []string {
	var out []string
	for _, a := range arms {
		out = append(out, a.name)
	}
	return out
}

func armByName(name string) (arm, error) {
	for _, a := range arms {
		if a.name == name {
			return a, nil
		}
	}
	return arm{}, fmt.Errorf("there is no arm %q", name)
}

// movesTraffic tells whether the arm takes part in traffic engineering.
func (a arm) movesTraffic() bool { return a.eidolon || a.bgp && !a.detector }

// ends are the hosts' addresses that the streams are between.
func (a arm) ends() (site, remote netip.Addr) {
	if a.pa {
		return sitePA[0], remotePA
	}
	return siteHost, remoteHost
}

// trial is an arm at work in a world.
type trial struct {
	arm      arm
	w        *world
	counter  *counter
	warmUp   time.Duration
	dir      string // for configurations, sockets and logs
	verbose  bool
	programs string // directory of xtr and mapserver

	procs    []*exec.Cmd
	daemons  map[string]*exec.Cmd // of Eidolon, by node
	speakers map[string]*speakerProcess
}

// start sets an arm up and returns when it has been told to go; whether it
// works is found out by its traffic.
func (g *trial) start(ctx context.Context) error {
	a, w := g.arm, g.w
	if !a.bgp {
		if err := errors.Join(w.routes(underlayRoutes), w.filterSources()); err != nil {
			return err
		}
	}
	switch {
	case a.bgp:
		return g.startBGP(ctx)
	case a.eidolon:
		return g.startEidolon(ctx)
	case a.pa:
		return g.startPA()
	}
	return nil
}

// stop ends all processes.
func (g *trial) stop() {
	for _, s := range g.speakers {
		s.in.Close()
	}
	for _, p := range g.procs {
		p.Process.Kill()
		p.Wait()
	}
}

// command prepares a program that runs in a node, its output in a log.
func (g *trial) command(ctx context.Context, node, path string, args ...string) (*exec.Cmd, error) {
	cmd := exec.CommandContext(ctx, path, args...)
	log, err := os.Create(filepath.Join(g.dir, node+".log"))
	if err != nil {
		return nil, err
	}
	cmd.Stderr = log
	if g.verbose {
		cmd.Stderr = os.Stderr
	}
	return cmd, nil
}

// launch starts cmd in a node: a new process has the network namespace of the
// thread that made it.
func (g *trial) launch(node string, cmd *exec.Cmd) error {
	err := g.w.ns[node].Do(cmd.Start)
	if log, ok := cmd.Stderr.(*os.File); ok && log != os.Stderr {
		log.Close()
	}
	if err != nil {
		return fmt.Errorf("%s: %w", node, err)
	}
	g.procs = append(g.procs, cmd)
	return nil
}

// The autonomous systems.
var asOf = map[string]uint32{"s": 64500, "p1": 64501, "p2": 64502, "c1": 64511, "c2": 64512, "c3": 64513}

// sitePrefixes are what the site announces.
var sitePrefixes = []netip.Prefix{pfx(siteBlock)}

// speakerConfigs are the BGP network. The site prefers its first provider, and
// makes others prefer it by a longer AS path over the second. It tells only
// what is its own.
func speakerConfigs(detector, verbose bool) map[string]*speakerConfig {
	all := map[string]*speakerConfig{}
	for n, as := range asOf {
		all[n] = &speakerConfig{Name: n, AS: as, RouterID: netip.AddrFrom4([4]byte{10, 254, byte(as >> 8), byte(as)}), Detector: detector, Verbose: verbose}
	}
	for _, l := range links {
		a, b := all[l.a], all[l.b]
		if a == nil || b == nil {
			continue
		}
		toB := neighborConfig{Addr: l.bAddr.Addr(), Dev: l.aDev, AS: b.AS}
		toA := neighborConfig{Addr: l.aAddr.Addr(), Dev: l.bDev, AS: a.AS, Wait: true}
		switch {
		case l.a[0] == 'c': // the core is of peers
			toA.Relation, toB.Relation = isPeer, isPeer
		case l.a == "s":
			toA.Relation = isCustomer
		default:
			toA.Relation, toB.Relation = isCustomer, isProvider
		}
		if l.a == "s" {
			toB.Export = sitePrefixes
			if l.b == "p1" {
				toA.Later = siteNewRLOC
				toB.LocalPref = 200
			} else {
				toB.Prepend = 2
			}
		}
		a.Neighbors = append(a.Neighbors, toB)
		b.Neighbors = append(b.Neighbors, toA)
	}
	all["s"].Originate = sitePrefixes
	all["p1"].Originate = []netip.Prefix{pfx("198.18.1.0/24")}
	all["p2"].Originate = []netip.Prefix{pfx("198.18.2.0/24")}
	all["c3"].Originate = []netip.Prefix{pfx("198.18.3.0/24"), pfx(remoteBlock)}
	return all
}

func (g *trial) startBGP(ctx context.Context) error {
	if err := g.w.addRoute(route{"c3", pfx(remoteBlock), remoteRLOC, 0}); err != nil {
		return err
	}
	return g.startSpeakers(ctx, speakerConfigs(g.arm.detector, g.verbose))
}

func (g *trial) startSpeakers(ctx context.Context, configs map[string]*speakerConfig) error {
	g.speakers = map[string]*speakerProcess{}
	for node, c := range configs {
		s, err := g.startSpeaker(ctx, node, c)
		if err != nil {
			return fmt.Errorf("speaker %s: %w", node, err)
		}
		g.speakers[node] = s
	}
	deadline := time.Now().Add(30 * time.Second)
	for node, s := range g.speakers {
		for {
			r, err := s.ask(speakerRequest{Op: "state"})
			if err != nil {
				return fmt.Errorf("speaker %s: %w", node, err)
			}
			if r.Established == r.Neighbors {
				break
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("speaker %s has %d of %d sessions after 30 s", node, r.Established, r.Neighbors)
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
	return nil
}

// speakerProcess is a BGP speaker in a node.
type speakerProcess struct {
	in  io.WriteCloser
	out *bufio.Reader
}

func (g *trial) startSpeaker(ctx context.Context, node string, c *speakerConfig) (*speakerProcess, error) {
	cmd, err := g.command(ctx, node, "/proc/self/exe")
	if err != nil {
		return nil, err
	}
	cmd.Args = []string{speakerName}
	s := &speakerProcess{}
	if s.in, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	s.out = bufio.NewReader(out)
	if err := g.launch(node, cmd); err != nil {
		return nil, err
	}
	_, err = s.tell(c)
	return s, err
}

func (s *speakerProcess) ask(req speakerRequest) (speakerReply, error) { return s.tell(req) }

func (s *speakerProcess) tell(v any) (r speakerReply, err error) {
	if err := json.NewEncoder(s.in).Encode(v); err != nil {
		return r, err
	}
	if err := readLine(s.out, &r); err != nil {
		return r, err
	}
	if r.Error != "" {
		return r, errors.New(r.Error)
	}
	return r, nil
}

// ribPaths counts the paths for the site's prefixes in the tables of the core's
// speakers.
func (g *trial) ribPaths() (n int, err error) {
	for _, c := range coreNodes {
		if s := g.speakers[c]; s != nil {
			r, err := s.ask(speakerRequest{Op: "state"})
			if err != nil {
				return 0, fmt.Errorf("speaker %s: %w", c, err)
			}
			n += r.Paths
		}
	}
	return n, nil
}

const xtrKey = `{key_id: 1, algorithm: hmac-sha-256-128-hkdf, key: "a key of the failover benchmark only"}`

func (g *trial) startEidolon(ctx context.Context) error {
	g.daemons = map[string]*exec.Cmd{}
	ms := fmt.Sprintf("listen: [%q]\nstate_dir: %s\napi: {socket: %s}\nlog: {level: %s}\n", mapServer.String()+":4342", filepath.Join(g.dir, "state"), g.socket("ms"), g.level())
	ms += "sites:\n"
	for _, s := range []struct{ name, block string }{{"site", siteBlock}, {"remote", remoteBlock}} {
		ms += fmt.Sprintf("  - {name: %s, authentication_keys: [%s], eid_prefixes: [{prefix: %s}]}\n", s.name, xtrKey, s.block)
	}
	if g.arm.pubsub {
		ms += "pubsub:\n  subscribers:\n"
		for _, id := range []string{"a", "b"} {
			ms += fmt.Sprintf("    - {xtr_id: %s, site_id: 1, authentication_key: %s}\n", strings.Repeat(id, 32), subscriberKey(id))
		}
	}
	if err := g.daemon(ctx, "ms", "mapserver", ms); err != nil {
		return err
	}
	if err := g.daemon(ctx, "s", "xtr", g.xtrConfig("a", siteBlock, siteLocators(50, 50), g.socket("s"))); err != nil {
		return err
	}
	if err := g.daemon(ctx, "r", "xtr", g.xtrConfig("b", remoteBlock, fmt.Sprintf("      - {address: %s, priority: 1, weight: 100}\n", remoteRLOC), g.socket("r"))); err != nil {
		return err
	}
	// A packet before that would bring a negative answer, for a minute.
	for begin := time.Now(); g.counter.snapshot()["lisp map-notify"].Msgs < 2; {
		if time.Since(begin) > readyTimeout {
			return fmt.Errorf("the sites are not registered after %v", readyTimeout)
		}
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

func (g *trial) level() string {
	if g.verbose {
		return "debug"
	}
	return "warn"
}

func subscriberKey(id string) string {
	return fmt.Sprintf(`{key_id: 1, algorithm: hmac-sha-256-128-hkdf, key: "for publications to %s only"}`, id)
}

// siteLocators are the site's uplinks with their weights: whatever addresses
// the interfaces have.
func siteLocators(first, second int) string {
	s := ""
	for i, weight := range []int{first, second} {
		s += fmt.Sprintf("      - {interface: %s, family: ipv4, priority: 1, weight: %d}\n", uplinks[i], weight)
	}
	s += "uplinks:\n"
	for i, gateway := range providers {
		s += fmt.Sprintf("  - {interface: %s, gateway: %s}\n", uplinks[i], gateway)
	}
	return s
}

func (g *trial) xtrConfig(id, block, locators, socket string) string {
	s := fmt.Sprintf("xtr_id: %s\nsite_id: 1\nlocator_sets:\n  - name: own\n    locators:\n%s", strings.Repeat(id, 32), locators)
	s += fmt.Sprintf("database_mappings: [{eid: %s, locator_set: own}]\n", block)
	s += fmt.Sprintf("map_servers: [{address: %s, authentication_key: %s, proxy_reply: true, want_map_notify: true}]\nmap_resolvers: [%s]\n", mapServer, xtrKey, mapServer)
	if g.arm.pubsub {
		s += fmt.Sprintf("pubsub: {authentication_key: %s}\n", subscriberKey(id))
	}
	return s + fmt.Sprintf("api: {socket: %s}\nlog: {level: %s}\n", socket, g.level())
}

// daemon writes a configuration and starts a program of ours with it.
func (g *trial) daemon(ctx context.Context, node, program, config string) error {
	path := g.configPath(node)
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		return err
	}
	cmd, err := g.command(ctx, node, filepath.Join(g.programs, program), "run", "--config", path)
	if err != nil {
		return err
	}
	g.daemons[node] = cmd
	return g.launch(node, cmd)
}

func (g *trial) socket(node string) string { return filepath.Join(g.dir, node+".sock") }

func (g *trial) configPath(node string) string { return filepath.Join(g.dir, node+".yml") }

// startPA gives the hosts addresses of their providers: one at a single-homed
// site, one of each for Multipath TCP, whose packets leave by the provider of
// their source.
func (g *trial) startPA() error {
	w := g.w
	if err := w.routes(paRoutes); err != nil {
		return err
	}
	n := 1
	if g.arm.mptcp {
		n = 2
	}
	for i := range n {
		if err := w.ns["s"].AddAddress("host", netip.PrefixFrom(sitePA[i].Prev(), 28)); err != nil {
			return err
		}
		if err := w.ns["hs"].AddAddress("eth0", netip.PrefixFrom(sitePA[i], 28)); err != nil {
			return err
		}
	}
	if err := w.ns["r"].AddAddress("host", netip.PrefixFrom(remotePA.Prev(), 28)); err != nil {
		return err
	}
	if err := w.ns["hr"].AddAddress("eth0", netip.PrefixFrom(remotePA, 28)); err != nil {
		return err
	}
	if !g.arm.mptcp {
		return nil
	}
	const table = 102
	err := w.ns["s"].Do(func() error {
		rule := netlink.NewRule()
		rule.Priority, rule.Table = 1000, table
		rule.Src = netns.IPNet(netip.PrefixFrom(sitePA[1], 28).Masked())
		return errors.Join(netlink.RuleAdd(rule),
			netlink.RouteAdd(&netlink.Route{Dst: netns.IPNet(defaultRoute), Gw: providers[1].AsSlice(), Table: table}),
			// What is for the site itself is not for the provider.
			netlink.RouteAdd(&netlink.Route{Dst: netns.IPNet(pfx("198.18.2.128/28")), LinkIndex: mustIndex("host"), Table: table, Scope: netlink.SCOPE_LINK}))
	})
	if err != nil {
		return fmt.Errorf("s: %w", err)
	}
	for _, node := range []string{"hs", "hr"} {
		// The kernel keeps what came out of order over the other subflow in the
		// receive buffer, a small record as about a kilobyte, and gives nothing
		// of it up when it is full: with its 128 KiB there is no room left for
		// the record that is missed, and the connection stands still for ever.
		if err := w.ns[node].SetSysctl("net.ipv4.tcp_rmem", "4096 4194304 33554432"); err != nil {
			return err
		}
		if err := w.ns[node].Do(func() error { return mptcpLimits(4, 4) }); err != nil {
			return fmt.Errorf("%s: %w", node, err)
		}
	}
	return w.ns["hs"].Do(func() error { return mptcpEndpoint(sitePA[1], 2) })
}

func mustIndex(dev string) int {
	l, err := netlink.LinkByName(dev)
	if err != nil {
		return -1 // no interface has it, so that its user fails
	}
	return l.Attrs().Index
}
