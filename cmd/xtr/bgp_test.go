package main

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"reflect"
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

const daemonVariable = "EIDOLON_XTR_DAEMON"

func TestMain(m *testing.M) {
	bgptest.Main()
	if path := os.Getenv(daemonVariable); path != "" {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		err := run(ctx, path)
		stop()
		if err != nil {
			os.Stderr.WriteString(err.Error() + "\n")
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// startDaemon starts an xtr with the configuration at path in ns.
func startDaemon(t *testing.T, ns *netns.NS, path string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), daemonVariable+"="+path)
	cmd.Stderr = os.Stderr
	if err := ns.Do(cmd.Start); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return cmd
}

// startMapServer runs a map-server at addr in ns, until the returned function ends
// it.
func startMapServer(t *testing.T, ns *netns.NS, addr netip.AddrPort) (stop func()) {
	t.Helper()
	ms, err := server.New(t.Context(), server.Config{Sites: []server.Site{{
		Name: "a", Keys: []auth.Key{{ID: 1, Algorithm: auth.SHA256HKDF, Secret: []byte("an example key of enough octets")}},
		Prefixes: []server.SitePrefix{{EID: mapping.MustParseEID("10.0.0.0/8")}},
	}}, Logger: slog.New(slog.DiscardHandler)}, nil)
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
	return func() {
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
	stopServer := startMapServer(t, ns[1], resolver)

	path := filepath.Join(t.TempDir(), "xtr.yml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(proxyFile + `bgp:
  as: 64500
  router_id: 192.0.2.1
  restart_time: 40s
  neighbours: [{address: 192.0.2.254, as: 64501}]
  announce: [{prefixes: [10.0.0.0/8], origin_as: 64510, communities: ["64500:100"]}]
`)
	daemon := startDaemon(t, ns[0], path)
	want := []bgptest.Route{{Prefix: netip.MustParsePrefix("10.0.0.0/8"), NextHop: "192.0.2.1", ASPath: []uint32{64500, 64510}, Communities: []uint32{64500<<16 | 100}}}
	announced := func() bool { return reflect.DeepEqual(neighbour.Routes(), want) }
	bgptest.Eventually(t, 60*time.Second, "the aggregate is announced", announced)
	if open := listening(t, ns[0]); len(open) > 0 {
		t.Errorf("ports are open: %v", open)
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
	stopServer = startMapServer(t, ns[1], resolver)
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
