package applet

import (
	"slices"
	"strings"
	"testing"

	"github.com/eidolon-lisp/eidolon/internal/netns"
)

func TestIPRoutes(t *testing.T) {
	nss := netns.Fresh(t, 2)
	ns := nss[0]
	if err := netns.Veth(ns, "e0", nss[1], "peer", 1500); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"ip link set e0 down",
		"ip link set dev e0 name d0 mtu 1400 address 02:00:00:00:00:01 up",
		"ip a add 192.0.2.1/24 dev d0",
		"ip addr replace 192.0.2.2/24 dev d0",
		"ip addr del 192.0.2.2/24 dev d0",
		"ip -6 addr add 2001:db8::1/64 dev d0 nodad",
		"ip route add 198.51.100.0/24 via 192.0.2.9",
		"ip route replace 198.51.100.0/24 via 192.0.2.8 dev d0 mtu 1300",
		"ip route add default via 192.0.2.7 metric 10 src 192.0.2.1",
		"ip route add 203.0.113.0/24 dev d0",
		"ip route add unreachable 10.0.0.0/8 metric 4000 table 100",
		"ip route add blackhole 2001:db8:bad::/48",
		"ip -6 route add default via 2001:db8::9",
		"ip route add 2001:db8:1::/48 via 2001:db8::8 metric 7",
		"ip route del 203.0.113.0/24",
		"ip rule add from 10.1.0.0/16 table 100 pref 500",
		"ip -6 rule add to 2001:db8:2::/48 iif d0 table 100 pref 501",
		"ip rule add from 10.3.0.0/16 pref 502 table 7",
		"ip rule del from 10.3.0.0/16 pref 502 table 7",
	} {
		run(t, ns, 0, line)
	}
	list := runJSON[[]JSONRoute](t, ns, "ip -j route show table all")
	var got []string
	for _, r := range list {
		if r.Protocol != "kernel" {
			got = append(got, routeText(r, true))
		}
	}
	slices.Sort(got)
	want := []string{
		"198.51.100.0/24 via 192.0.2.8 dev d0 proto boot mtu 1300",
		"2001:db8:1::/48 via 2001:db8::8 dev d0 proto boot metric 7",
		"blackhole 2001:db8:bad::/48 dev lo proto boot metric 1024",
		"default via 192.0.2.7 dev d0 proto boot src 192.0.2.1 metric 10",
		"default via 2001:db8::9 dev d0 proto boot metric 1024",
		"unreachable 10.0.0.0/8 table 100 proto boot metric 4000",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if out, _ := run(t, ns, 0, "ip rule"); out != "0:\tfrom all lookup local\n500:\tfrom 10.1.0.0/16 lookup 100\n32766:\tfrom all lookup main\n32767:\tfrom all lookup default\n" {
		t.Errorf("rules:\n%s", out)
	}
	if out, _ := run(t, ns, 0, "ip -6 rule show"); !strings.Contains(out, "501:\tfrom all to 2001:db8:2::/48 iif d0 lookup 100\n") {
		t.Errorf("rules:\n%s", out)
	}
	if out, _ := run(t, ns, 0, "ip route get 198.51.100.7"); !strings.Contains(out, "198.51.100.7/32 via 192.0.2.8 dev d0") {
		t.Error(out)
	}
	links := runJSON[[]JSONLink](t, ns, "ip -j addr show dev d0")
	if len(links) != 1 || !links[0].Up || links[0].MTU != 1400 || links[0].Address != "02:00:00:00:00:01" || links[0].Addresses[0] != (JSONAddress{"inet", "192.0.2.1", 24}) {
		t.Errorf("%+v", links)
	}
	if out, _ := run(t, ns, 0, "ip -br -6 a show d0"); !strings.Contains(out, "inet6 2001:db8::1/64") || strings.Contains(out, "192.0.2") {
		t.Error(out)
	}
}

func TestIPRefuses(t *testing.T) {
	ns := netns.Fresh(t, 1)[0]
	for _, c := range []struct {
		status int
		line   string
		want   string
	}{
		{2, "ip", "no object given"},
		{2, "ip tunnel add", `object "tunnel" is not known here`},
		{2, "ip -q link", "option -q is not known"},
		{2, "ip addr flush", "addr flush is not known here"},
		{2, "ip addr add 192.0.2.1/24", "wants dev D"},
		{2, "ip addr add 192.0.2.1/24 dev lo scope host", `"scope" is not known`},
		{2, "ip addr add 192.0.2.300/24 dev lo", "neither an address nor a prefix"},
		{1, "ip addr add 192.0.2.1/24 dev nothere", `cannot find device "nothere"`},
		{2, "ip -6 route add 192.0.2.0/24 dev lo", "not of the address family"},
		{2, "ip route add 192.0.2.1/24 dev lo", "did you mean 192.0.2.0/24"},
		{2, "ip route add 192.0.2.0/24", "wants via G or dev D"},
		{2, "ip route add 192.0.2.0/24 via 2001:db8::1", "not of one family"},
		{2, "ip route add default via inet6 fe80::1 dev lo", "gateway of the other family"},
		{2, "ip route add default nexthop via 192.0.2.1", `"nexthop" is not known`},
		{2, "ip route add default via", "via wants an argument"},
		{1, "ip route add default via 192.0.2.1", "RTNETLINK answers: network is unreachable"},
		{1, "ip route del 192.0.2.0/24", "RTNETLINK answers: no such process"},
		{2, "ip link set lo", "nothing to set"},
		{2, "ip link set lo mtu big", "wants a number"},
		{2, "ip link add x type veth", "link add is not known here"},
		{2, "ip rule add from 10.0.0.1/8", "bits set beyond"},
		{2, "ip rule add table 0", "table wants"},
		{2, "sysctl", "usage"},
		{2, "sysctl -w ../../etc/passwd=x", "no name of a kernel setting"},
		{1, "sysctl net.ipv4.nosuch", "no such file"},
		{1, "sysctl -w net.ipv4.ip_forward=nonsense", "set net.ipv4.ip_forward to nonsense"},
		{2, "ping", "no host given"},
		{2, "ping -c x h", "-c wants a number"},
		{2, "ping -M maybe h", "-M wants"},
		{2, "ping a b", "two hosts"},
		{2, "ping --flood h", "not known here"},
		{2, "capture -s 3", "usage"},
		{1, "capture -i nothere", "capture on nothere"},
	} {
		if _, errs := run(t, ns, c.status, c.line); !strings.Contains(errs, c.want) {
			t.Errorf("%s: %q is not in\n%s", c.line, c.want, errs)
		}
	}
	if out, _ := run(t, ns, 0, "sysctl -n net.ipv6.conf.default.accept_dad"); out != "0\n" {
		t.Errorf("sysctl -n: %q", out)
	}
	if out, _ := run(t, ns, 0, "sysctl -w net/ipv4/conf/lo/forwarding=1"); out != "net/ipv4/conf/lo/forwarding = 1\n" {
		t.Errorf("sysctl -w: %q", out)
	}
}
