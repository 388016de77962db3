package main

import (
	"bufio"
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/internal/netns"
	"github.com/eidolon-lisp/eidolon/mapping/bgp/bgptest"
)

// scrape returns the metrics of a program in ns, by name and labels; nil if it
// does not answer.
func scrape(t *testing.T, ns *netns.NS, at string) map[string]string {
	t.Helper()
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(_ context.Context, network, _ string) (conn net.Conn, err error) {
		err = ns.Do(func() (err error) { conn, err = net.Dial(network, at); return err })
		return conn, err
	}}}
	resp, err := c.Get("http://" + at + "/metrics")
	if err != nil {
		return nil
	}
	defer resp.Body.Close()
	told := make(map[string]string)
	for s := bufio.NewScanner(resp.Body); s.Scan(); {
		if i := strings.LastIndexByte(s.Text(), ' '); i > 0 && s.Text()[0] != '#' {
			told[s.Text()[:i]] = s.Text()[i+1:]
		}
	}
	return told
}

// TestMetricsOfReloads: the metrics of a running xTR tell what came of SIGHUP.
func TestMetricsOfReloads(t *testing.T) {
	netns.NeedTUN(t)
	ns := netns.Fresh(t, 2)
	if err := errors.Join(netns.Veth(ns[0], "up", ns[1], "net", 1500), ns[0].AddAddress("up", netip.MustParsePrefix("192.0.2.1/24"))); err != nil {
		t.Fatal(err)
	}
	const at = "192.0.2.1:9341"
	path := filepath.Join(t.TempDir(), "xtr.yml")
	write := func(edits ...string) {
		t.Helper()
		text := strings.NewReplacer(edits...).Replace(siteFile + "api: {socket: xtr.sock}\nhttp: {listen: \"" + at + "\"}\nlog: {level: error}\n")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write()
	daemon := startDaemon(t, ns[0], path)
	var used string
	tells := func(what, successful, restart string) {
		t.Helper()
		bgptest.Eventually(t, 20*time.Second, what, func() bool {
			told := scrape(t, ns[0], at)
			used = told["eidolon_xtr_config_last_reload_success_timestamp_seconds"]
			return told["eidolon_xtr_config_last_reload_successful"] == successful && told["eidolon_xtr_config_restart_pending"] == restart
		})
	}
	hangup := func() {
		t.Helper()
		if err := daemon.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
	}
	tells("it is up", "1", "0")
	first := used
	write("priority: 1", "priority: 1000")
	hangup()
	if tells("the file is bad", "0", "0"); used != first {
		t.Errorf("a bad file is used since %s", used)
	}
	write("priority: 1", "priority: 9", "map_resolvers:", "map_cache: {limit: 5000}\nmap_resolvers:")
	hangup()
	if tells("a key waits for a restart", "1", "1"); used == first {
		t.Errorf("the changed file is used since %s", used)
	}
	write()
	hangup()
	tells("all is as it was", "1", "0")
}
