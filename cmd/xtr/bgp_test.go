package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/internal/netns"
	"github.com/eidolon-lisp/eidolon/internal/udp"
	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/auth"
	"github.com/eidolon-lisp/eidolon/mapping/bgp/bgptest"
	"github.com/eidolon-lisp/eidolon/mapping/server"
)

// beXTR makes this test binary the program itself.
const beXTR = "EIDOLON_TEST_XTR"

func TestMain(m *testing.M) {
	bgptest.Main()
	if os.Getenv(beXTR) != "" {
		main()
	}
	os.Exit(m.Run())
}

// program is an xtr with these arguments.
func program(args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), beXTR+"=1")
	return cmd
}

// startDaemon starts an xtr with the configuration at path in ns.
func startDaemon(t *testing.T, ns *netns.NS, path string) *exec.Cmd {
	t.Helper()
	cmd := program("run", "--config", path)
	cmd.Stderr = os.Stderr
	if err := ns.Do(cmd.Start); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return cmd
}

// startMapServer runs a map-server at addr in ns, until the returned function ends
// it.
func startMapServer(t *testing.T, ns *netns.NS, addr netip.AddrPort) (ms *server.Server, stop func()) {
	t.Helper()
	static := &mapping.Record{EID: mapping.MustParseEID("10.7.0.0/16"), TTL: 60, Locators: []mapping.Locator{mapping.MakeLocator(netip.MustParseAddr("192.0.2.77"), 1, 100)}}
	ms, err := server.New(t.Context(), server.Config{Sites: []server.Site{{
		Name: "a", Keys: []auth.Key{{ID: 1, Algorithm: auth.SHA256HKDF, Secret: []byte("an example key of enough octets")}},
		Prefixes: []server.SitePrefix{
			{EID: mapping.MustParseEID("10.0.0.0/8"), AcceptMoreSpecifics: true, ProxyReply: server.ProxyAlways},
			{EID: mapping.MustParseEID("2001:db8::/32"), AcceptMoreSpecifics: true, ProxyReply: server.ProxyAlways},
		},
	}}, Static: []*mapping.Record{static}, Logger: slog.New(slog.DiscardHandler)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	var conn udp.Conn
	if err := ns.Do(func() (err error) { conn, err = udp.Listen([]netip.AddrPort{addr}); return err }); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- ms.Run(ctx, conn, 1) }()
	return ms, func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

const proxyFile = `
locator_sets: [{name: border, locators: [{address: 192.0.2.1}]}]
proxy_itr: {locator_set: border, eid_prefixes: [10.0.0.0/8]}
map_resolvers: [192.0.2.10]
api: {socket: xtr.sock}
state_dir: state
log: {level: warn}
`

// A proxy-ITR announces its aggregate to a plain GoBGP neighbour while it can serve
// it: not without a mapping system, not after an orderly stop; and it stays at the
// neighbour while a killed one is restarted.
func TestProxyITRAnnounces(t *testing.T) {
	netns.NeedTUN(t)
	ns := netns.Fresh(t, 2)
	if err := netns.Veth(ns[0], "up", ns[1], "net", 1500); err != nil {
		t.Fatal(err)
	}
	for addr, at := range map[string]struct {
		ns  *netns.NS
		dev string
	}{"192.0.2.1/24": {ns[0], "up"}, "192.0.2.10/24": {ns[1], "net"}, "192.0.2.254/24": {ns[1], "net"}} {
		if err := at.ns.AddAddress(at.dev, netip.MustParsePrefix(addr)); err != nil {
			t.Fatal(err)
		}
	}
	neighbour := bgptest.Start(t, bgptest.Config{AS: 64501, RouterID: netip.MustParseAddr("192.0.2.254"), Addr: netip.MustParseAddr("192.0.2.254"), Port: 179,
		Peer: netip.MustParseAddr("192.0.2.1"), PeerAS: 64500, RestartTime: 60}, func(c *exec.Cmd) error { return ns[1].Do(c.Start) })
	resolver := netip.MustParseAddrPort("192.0.2.10:4342")
	_, stopServer := startMapServer(t, ns[1], resolver)

	path := filepath.Join(t.TempDir(), "xtr.yml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const at = "192.0.2.1:9341"
	write(proxyFile + "http: {listen: \"" + at + "\"}\n" + `bgp:
  as: 64500
  router_id: 192.0.2.1
  restart_time: 40s
  neighbours: [{address: 192.0.2.254, as: 64501}]
  announce: [{prefixes: [10.0.0.0/8], origin_as: 64510, communities: ["64500:100"]}]
`)
	daemon := startDaemon(t, ns[0], path)
	own := netip.MustParseAddr("192.0.2.1")
	want := []bgptest.Route{{Prefix: netip.MustParsePrefix("10.0.0.0/8"), From: own, Best: true, NextHop: own, ASPath: []uint32{64500, 64510}, Communities: []uint32{64500<<16 | 100}}}
	announced := func() bool { return reflect.DeepEqual(neighbour.Routes(), want) }
	bgptest.Eventually(t, 60*time.Second, "the aggregate is announced", announced)
	if open := listening(t, ns[0]); !slices.Equal(open, []string{"010200C0:247D"}) { // that of the metrics
		t.Errorf("ports are open: %v", open)
	}
	session := func(what string) string {
		return scrape(t, ns[0], at)["eidolon_xtr_bgp_neighbour_"+what+`{neighbour="192.0.2.254"}`]
	}
	if up, told, flaps := session("up"), session("announced_prefixes"), session("flaps_total"); up != "1" || told != "1" || flaps != "0" {
		t.Errorf("metrics: up %q, announced %q, flaps %q", up, told, flaps)
	}

	daemon.Process.Kill()
	daemon.Wait()
	bgptest.Eventually(t, 10*time.Second, "the session is gone and the aggregate kept", func() bool {
		r := neighbour.Routes()
		return !neighbour.Established() && len(r) == 1 && r[0].Stale
	})
	daemon = startDaemon(t, ns[0], path)
	bgptest.Eventually(t, 40*time.Second, "the restart is over", func() bool {
		if len(neighbour.Routes()) != 1 {
			t.Fatal("the aggregate was lost in a restart")
		}
		return announced()
	})

	stopServer()
	after := bgptest.Eventually(t, 40*time.Second, "it is withdrawn without a mapping system", func() bool { return len(neighbour.Routes()) == 0 })
	if !neighbour.Established() {
		t.Error("it went with the session")
	}
	t.Logf("withdrawn after %v", after)
	_, stopServer = startMapServer(t, ns[1], resolver)
	bgptest.Eventually(t, 60*time.Second, "it is announced again", announced)

	if err := daemon.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	bgptest.Eventually(t, 5*time.Second, "it is withdrawn at a stop", func() bool { return len(neighbour.Routes()) == 0 })
	if err := daemon.Wait(); err != nil {
		t.Errorf("the daemon: %v", err)
	}
	stopServer()
}

// TestMetricsOfBGP: a neighbour that goes away is down in the metrics, and each
// time is counted.
func TestMetricsOfBGP(t *testing.T) {
	netns.NeedTUN(t)
	ns := netns.Fresh(t, 2)
	if err := errors.Join(netns.Veth(ns[0], "up", ns[1], "net", 1500), ns[0].AddAddress("up", netip.MustParsePrefix("192.0.2.1/24")),
		ns[1].AddAddress("net", netip.MustParsePrefix("192.0.2.254/24")), ns[1].AddAddress("net", netip.MustParsePrefix("192.0.2.10/24"))); err != nil {
		t.Fatal(err)
	}
	const at = "192.0.2.1:9341"
	path := filepath.Join(t.TempDir(), "xtr.yml")
	if err := os.WriteFile(path, []byte(strings.Replace(siteBGPFile, "10.1.255.2, as", "192.0.2.254, as", 1)+"http: {listen: \""+at+"\"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var told map[string]string
	session := func(what string) string { return told["eidolon_xtr_bgp_neighbour_"+what+`{neighbour="192.0.2.254"}`] }
	become := func(what, up, flaps string) {
		t.Helper()
		bgptest.Eventually(t, 60*time.Second, what, func() bool {
			told = scrape(t, ns[0], at)
			return session("up") == up && session("flaps_total") == flaps
		})
	}
	startDaemon(t, ns[0], path)
	become("there was no session yet", "0", "0")
	if s := session("since_timestamp_seconds"); s != "0" {
		t.Errorf("and it is so since %s", s)
	}
	var process *exec.Cmd
	bgptest.Start(t, bgptest.Config{AS: 64513, RouterID: netip.MustParseAddr("192.0.2.254"), Addr: netip.MustParseAddr("192.0.2.254"), Port: 179,
		Peer: netip.MustParseAddr("192.0.2.1"), PeerAS: 64512}, func(c *exec.Cmd) error { process = c; return ns[1].Do(c.Start) })
	become("the session is established", "1", "0")
	since := session("since_timestamp_seconds")
	if since == "0" || since == "" {
		t.Errorf("and it is so since %q", since)
	}
	process.Process.Kill()
	become("the neighbour was killed", "0", "1")
	if s := session("since_timestamp_seconds"); s == "0" || s == "" {
		t.Errorf("and it is so since %q", s)
	}
}

// listening returns the lines of TCP sockets in ns that listen.
func listening(t *testing.T, ns *netns.NS) (list []string) {
	t.Helper()
	for _, f := range []string{"tcp", "tcp6"} {
		var b []byte
		if err := ns.Do(func() (err error) { b, err = os.ReadFile("/proc/thread-self/net/" + f); return err }); err != nil {
			t.Fatal(err)
		}
		for _, line := range strings.Split(string(b), "\n") {
			if fields := strings.Fields(line); len(fields) > 3 && fields[3] == "0A" {
				list = append(list, fields[1])
			}
		}
	}
	return list
}

const siteBGPFile = `
locator_sets: [{name: site, locators: [{address: 192.0.2.1}]}]
database_mappings_from_bgp: [{prefix: 10.1.0.0/16, ge: 20, le: 24, locator_set: site, max_prefixes: 2}]
map_servers: [{address: 192.0.2.10, authentication_key: {key_id: 1, algorithm: hmac-sha-256-128-hkdf, key: an example key of enough octets}, want_map_notify: true, proxy_reply: true}]
map_resolvers: [192.0.2.10]
api: {socket: xtr.sock}
log: {level: warn}
bgp:
  as: 64512
  router_id: 10.1.255.1
  neighbours: [{address: 10.1.255.2, as: 64513}]
  withdraw_delay: 2s
  originate: [{prefixes: [0.0.0.0/0], communities: ["64512:1"]}]
  originate_mapped: {}
`

// A site's router announces the EID-prefixes, which are registered while it
// does; what is not the site's is left alone. It gets a default route, and the
// EID-prefixes that have come to the map-cache.
func TestLearnsEIDs(t *testing.T) {
	netns.NeedTUN(t)
	ns := netns.Fresh(t, 3)
	for _, l := range []struct {
		a, b       int
		dev, other string
		addrs      [2]string
	}{{0, 1, "up", "net", [2]string{"192.0.2.1/24", "192.0.2.10/24"}}, {0, 2, "site", "xtr", [2]string{"10.1.255.1/30", "10.1.255.2/30"}}} {
		if err := netns.Veth(ns[l.a], l.dev, ns[l.b], l.other, 1500); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(ns[l.a].AddAddress(l.dev, netip.MustParsePrefix(l.addrs[0])), ns[l.b].AddAddress(l.other, netip.MustParsePrefix(l.addrs[1]))); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(ns[0].SetSysctl("net.ipv4.ip_forward", "1"), ns[0].AddRoute(netip.MustParsePrefix("10.1.0.0/16"), netip.MustParseAddr("10.1.255.2"), ""),
		ns[2].AddRoute(netip.MustParsePrefix("0.0.0.0/0"), netip.MustParseAddr("10.1.255.1"), ""), ns[2].AddAddress("lo", netip.MustParsePrefix("10.1.1.1/32"))); err != nil {
		t.Fatal(err)
	}
	router := bgptest.Start(t, bgptest.Config{AS: 64513, RouterID: netip.MustParseAddr("10.1.255.2"), Addr: netip.MustParseAddr("10.1.255.2"), Port: 179,
		Peer: netip.MustParseAddr("10.1.255.1"), PeerAS: 64512}, func(c *exec.Cmd) error { return ns[2].Do(c.Start) })
	ms, stopServer := startMapServer(t, ns[1], netip.MustParseAddrPort("192.0.2.10:4342"))
	defer stopServer()
	path := filepath.Join(t.TempDir(), "xtr.yml")
	if err := os.WriteFile(path, []byte(siteBGPFile), 0o600); err != nil {
		t.Fatal(err)
	}
	daemon := startDaemon(t, ns[0], path)
	registered := func() (list []string) {
		for st := range ms.Database(mapping.MustParseEID("10.1.0.0/16")) {
			list = append(list, st.Record.EID.Prefix.String())
		}
		return list
	}
	prefix := netip.MustParsePrefix
	become := func(patience time.Duration, what string, want ...string) {
		t.Helper()
		bgptest.Eventually(t, patience, what, func() bool { return slices.Equal(registered(), want) })
	}

	router.Announce(nil, prefix("10.1.1.0/24"), prefix("10.1.2.0/24"))
	become(30*time.Second, "what is announced is registered", "10.1.1.0/24", "10.1.2.0/24")
	router.Announce(nil, prefix("0.0.0.0/0"), prefix("10.2.0.0/24"), prefix("10.1.4.0/26"), prefix("10.1.240.0/20"))
	heard := func() (list []string) {
		for _, r := range router.Routes() {
			list = append(list, r.Prefix.String())
		}
		return list
	}
	bgptest.Eventually(t, 30*time.Second, "the router gets a default route", func() bool { return slices.Equal(heard(), []string{"0.0.0.0/0"}) })
	if c := router.Routes()[0].Communities; !slices.Equal(c, []uint32{64512<<16 | 1}) {
		t.Errorf("its communities are %v", c)
	}

	// A packet from an EID to another site, whose mapping then is told.
	var conn net.Conn
	if err := ns[2].Do(func() (err error) {
		conn, err = net.DialUDP("udp4", &net.UDPAddr{IP: net.IPv4(10, 1, 1, 1)}, &net.UDPAddr{IP: net.IPv4(10, 7, 0, 1), Port: 9})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	bgptest.Eventually(t, 20*time.Second, "the router gets a mapped prefix", func() bool {
		conn.Write([]byte("x"))
		return slices.Equal(heard(), []string{"0.0.0.0/0", "10.7.0.0/16"})
	})

	router.Withdraw(prefix("10.1.2.0/24"))
	become(20*time.Second, "what is withdrawn is registered no more, and another has its place", "10.1.1.0/24", "10.1.240.0/20")

	if err := daemon.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	become(20*time.Second, "nothing is registered after the end")
	if err := daemon.Wait(); err != nil {
		t.Errorf("the daemon: %v", err)
	}
}
