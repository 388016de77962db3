package main

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/eidolon-lisp/eidolon/dataplane/tun"
	"github.com/eidolon-lisp/eidolon/internal/netns"
	"github.com/eidolon-lisp/eidolon/internal/uplink"
)

// ours counts the rules and routes of a protocol number in a namespace, of IPv4
// and of IPv6.
func ours(t *testing.T, ns *netns.NS, protocol netlink.RouteProtocol) (rules, routes [2]int) {
	t.Helper()
	if err := ns.Do(func() error {
		for i, f := range []int{unix.AF_INET, unix.AF_INET6} {
			list, err := netlink.RuleList(f)
			if err != nil {
				return err
			}
			for _, r := range list {
				if r.Protocol == uint8(protocol) {
					rules[i]++
				}
			}
			all, err := netlink.RouteListFiltered(f, &netlink.Route{Protocol: protocol, Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
			if err != nil {
				return err
			}
			routes[i] = len(all)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return rules, routes
}

// The command cleanup takes away all that a killed xTR has left in the kernel's
// routing, that of its uplinks too, and nothing while one runs.
func TestCleanup(t *testing.T) {
	netns.NeedTUN(t)
	ns := netns.Fresh(t, 2)
	if err := netns.Veth(ns[0], "up", ns[1], "net", 1500); err != nil {
		t.Fatal(err)
	}
	for _, a := range []string{"192.0.2.1/24", "2001:db8:f::1/64"} {
		if err := ns[0].AddAddress("up", netip.MustParsePrefix(a)); err != nil {
			t.Fatal(err)
		}
	}
	for dst, via := range map[string]string{"0.0.0.0/0": "192.0.2.254", "::/0": "2001:db8:f::fe"} {
		if err := ns[0].AddRoute(netip.MustParsePrefix(dst), netip.MustParseAddr(via), ""); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(t.TempDir(), "xtr.yml")
	if err := os.WriteFile(path, []byte(`
database_mappings: [{eid: 10.1.0.0/16, locator_set: a}, {eid: "2001:db8:a::/48", locator_set: a}]
locator_sets: [{name: a, locators: [{interface: up, family: both, priority: 1, weight: 100}]}]
map_servers: [{address: 192.0.2.10, authentication_key: {key_id: 1, key: an example key of enough octets}}]
map_resolvers: [192.0.2.10]
api: {socket: xtr.sock}
log: {level: error}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	xtr := startDaemon(t, ns[0], path)
	there := func(protocol netlink.RouteProtocol) bool {
		rules, routes := ours(t, ns[0], protocol)
		return rules[0] > 0 && rules[1] > 0 && routes[0] > 1 && routes[1] > 1
	}
	for deadline := time.Now().Add(10 * time.Second); !there(tun.Protocol) || !there(uplink.Protocol); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the xTR sets up no routes and rules")
		}
	}
	cleanup := func() (string, error) {
		var out strings.Builder
		cmd := program("cleanup")
		cmd.Stdout, cmd.Stderr = &out, &out
		err := ns[0].Do(cmd.Run)
		return out.String(), err
	}
	if out, err := cleanup(); err == nil || !strings.Contains(out, tun.ErrRunning.Error()) || !there(tun.Protocol) || !there(uplink.Protocol) {
		t.Fatalf("beside a running xTR: %v, %s", err, out)
	}
	xtr.Process.Kill()
	xtr.Wait()
	if !there(uplink.Protocol) {
		t.Fatal("a killed xTR leaves nothing of its uplinks, so that this shows nothing")
	}
	if out, err := cleanup(); err != nil || !strings.Contains(out, "nothing of xtr is left") {
		t.Errorf("%v, %s", err, out)
	}
	for _, p := range []netlink.RouteProtocol{tun.Protocol, uplink.Protocol} {
		if rules, routes := ours(t, ns[0], p); rules != [2]int{} || routes != [2]int{} {
			t.Errorf("of protocol %d %v rules and %v routes are left", p, rules, routes)
		}
	}
}
