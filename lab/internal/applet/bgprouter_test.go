package applet

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/internal/netns"
	"github.com/eidolon-lisp/eidolon/mapping/bgp/plain"
)

// Two routers tell each other what they originate, and the kernel follows them, to
// the end of the session and of the router.
func TestBGPRouter(t *testing.T) {
	nss := netns.Fresh(t, 2)
	a, b := nss[0], nss[1]
	if err := netns.Veth(a, "eth1", b, "eth1", 1500); err != nil {
		t.Fatal(err)
	}
	run(t, a, 1, "bgprouter routes") // none runs
	for _, c := range []struct {
		ns   *netns.NS
		line string
	}{
		{b, "ip addr add 192.0.2.2/30 dev eth1"}, {b, "ip -6 addr add 2001:db8::2/64 dev eth1 nodad"},
		{a, "ip addr add 192.0.2.1/30 dev eth1"}, {a, "ip -6 addr add 2001:db8::1/64 dev eth1 nodad"},
		{a, "ip route add 203.0.113.0/24 via 192.0.2.2"},
	} {
		run(t, c.ns, 0, c.line)
	}
	first := start(t, a, "bgprouter run as 64500 id 192.0.2.1 neighbour 192.0.2.2 as 64501 neighbour 2001:db8::2 as 64501 originate 10.0.0.0/8 originate 2001:db8:a::/48")
	second := start(t, b, "bgprouter run as 64501 id 192.0.2.2 neighbour 192.0.2.1 as 64500 connect neighbour 2001:db8::1 as 64500 connect originate 198.51.100.0/24")
	routes := func(ns *netns.NS) []string {
		var list []string
		for _, line := range []string{"ip -j route", "ip -6 -j route"} {
			for _, r := range runJSON[[]JSONRoute](t, ns, line) {
				if r.Protocol == "bgp" {
					list = append(list, r.Dst+" via "+r.Gateway)
				}
			}
		}
		return list
	}
	become := func(ns *netns.NS, want ...string) {
		t.Helper()
		for limit := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
			got := routes(ns)
			if slices.Equal(got, want) {
				return
			}
			if time.Now().After(limit) {
				t.Fatalf("routes %v, want %v\n%s%s", got, want, first.err.String(), second.err.String())
			}
		}
	}
	become(a, "198.51.100.0/24 via 192.0.2.2")
	become(b, "10.0.0.0/8 via 192.0.2.1", "2001:db8:a::/48 via 2001:db8::1")
	got := runJSON[[]plain.Route](t, b, "bgprouter routes -j")
	from := netip.MustParseAddr("192.0.2.1")
	if len(got) != 3 || got[0].Prefix != netip.MustParsePrefix("10.0.0.0/8") || got[0].From != from || got[0].NextHop != from || !got[0].Best || !slices.Equal(got[0].ASPath, []uint32{64500}) ||
		got[1].From.IsValid() || got[2].From != netip.MustParseAddr("2001:db8::1") {
		t.Errorf("paths %+v", got)
	}
	if out, _ := run(t, b, 0, "bgprouter routes"); !strings.Contains(out, "\n> 10.0.0.0/8       192.0.2.1    192.0.2.1    64500") {
		t.Errorf("routes\n%s", out)
	}
	if out, _ := run(t, a, 0, "bgprouter neighbours"); strings.Count(out, "64501  established") != 2 {
		t.Errorf("neighbours\n%s", out)
	}

	run(t, b, 0, "bgprouter announce 198.51.101.0/24 2001:db8:b::/48 203.0.113.0/24")
	become(a, "198.51.100.0/24 via 192.0.2.2", "198.51.101.0/24 via 192.0.2.2", "203.0.113.0/24 via 192.0.2.2", "2001:db8:b::/48 via 2001:db8::2")
	run(t, b, 0, "bgprouter withdraw 198.51.100.0/24 203.0.113.0/24")
	become(a, "198.51.101.0/24 via 192.0.2.2", "2001:db8:b::/48 via 2001:db8::2")

	if _, errs := run(t, a, 1, "bgprouter run as 64500 id 192.0.2.1"); !strings.Contains(errs, "a router runs already") {
		t.Errorf("a second router: %s", errs)
	}
	if status := first.stop(t); status != 0 {
		t.Errorf("status %d\n%s", status, first.err.String())
	}
	become(b)
	become(a)
}

func TestBGPRouterUsage(t *testing.T) {
	ns := netns.Fresh(t, 1)[0]
	for line, want := range map[string]string{
		"bgprouter":                                 "no command given",
		"bgprouter dance":                           `"dance" is not known here`,
		"bgprouter routes all":                      "routes knows -j",
		"bgprouter announce":                        "announce wants a prefix",
		"bgprouter withdraw 10.0.0.1/8":             `"10.0.0.1/8" is not a prefix`,
		"bgprouter run as 64500":                    "run wants as N and id ADDRESS",
		"bgprouter run as x id 192.0.2.1":           "as wants a number from 1",
		"bgprouter run as 64500 id 2001:db8::1":     "of IPv4",
		"bgprouter run neighbour 192.0.2.1 64500":   `neighbour 192.0.2.1 wants as N, not "64500"`,
		"bgprouter run neighbour 192.0.2.1 as":      "as wants an argument",
		"bgprouter run neighbor 192.0.2.1 as 1":     `"neighbor" is not known in run`,
		"bgprouter run as 1 id 1.2.3.4 originate":   "originate wants an argument",
		"bgprouter run as 1 id 1.2.3.4 originate x": `"x" is not a prefix`,
	} {
		if _, errs := run(t, ns, 2, line); !strings.Contains(errs, want) {
			t.Errorf("%s: %s, want %q", line, errs, want)
		}
	}
}
