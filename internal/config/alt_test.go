package config

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping/bgp"
)

func TestExampleALT(t *testing.T) {
	got, err := LoadMapServer("../../deploy/examples/alt.yml")
	if err != nil {
		t.Fatal(err)
	}
	if w := withoutModes(got.Warnings); len(w) > 0 {
		t.Errorf("warnings:\n%v", w)
	}
	a, p := netip.MustParseAddr, netip.MustParsePrefix
	pfxs := func(list ...string) (out []netip.Prefix) {
		for _, s := range list {
			out = append(out, p(s))
		}
		return out
	}
	want := &ALT{
		Config: bgp.Config{
			AS: 4200000001, RouterID: a("203.0.113.10"), Transit: &bgp.Transit{Aggregates: pfxs("10.1.0.0/16")},
			Listen: []netip.Addr{a("172.16.0.2"), a("fd00:a::2"), a("172.16.1.1"), a("172.16.2.1")},
			Neighbours: []bgp.Neighbour{
				{Addr: a("172.16.0.1"), AS: 4200000000, LocalAddr: a("172.16.0.2"), Password: "a password of BGP sessions", HoldTime: 30 * time.Second, MaxPrefixes: 5000},
				{Addr: a("fd00:a::1"), AS: 4200000000, LocalAddr: a("fd00:a::2"), HoldTime: 90 * time.Second, MaxPrefixes: 1000},
				{Addr: a("172.16.1.2"), AS: 4200000002, LocalAddr: a("172.16.1.1"), HoldTime: 90 * time.Second, MaxPrefixes: 1000, MoreSpecifics: true, Passive: true},
				{Addr: a("172.16.2.2"), AS: 4200000003, LocalAddr: a("172.16.2.1"), HoldTime: 90 * time.Second, MaxPrefixes: 1000, Passive: true},
			},
		},
		Tunnels: []ALTTunnel{
			{Name: "alt-up", Kind: "gre", Local: a("203.0.113.10"), Remote: a("203.0.113.20"), ID: 5, Addresses: pfxs("172.16.0.2/30", "fd00:a::2/64")},
			{Name: "alt-beside", Kind: "vxlan", Local: a("203.0.113.10"), Remote: a("203.0.113.30"), ID: 77, Addresses: pfxs("172.16.1.1/30")},
			{Name: "wg0", Kind: "existing", Addresses: pfxs("172.16.2.1/30")},
		},
		Aggregates:     []ALTAggregate{{Prefix: p("10.1.0.0/16"), Components: pfxs("10.1.1.0/24", "10.1.9.0/24", "10.1.128.0/17")}},
		OriginateSites: true, Originate: pfxs("10.4.0.0/16"), Rate: 1000, Burst: 2000,
	}
	if !reflect.DeepEqual(got.ALT, want) {
		t.Errorf("got\n%+v, want\n%+v", got.ALT, want)
	}
	if got, want := got.ALTPrefixes(), pfxs("10.1.1.0/24", "10.1.9.0/24", "10.4.0.0/16"); !reflect.DeepEqual(got, want) {
		t.Errorf("originated are %v, want %v", got, want)
	}
	got.ALT.OriginateSites = false
	if got := got.ALTPrefixes(); !reflect.DeepEqual(got, pfxs("10.4.0.0/16")) {
		t.Errorf("without the sites: %v", got)
	}
}

// Each mistake is told with its place.
func TestALTMistakes(t *testing.T) {
	const file = `listen: ["203.0.113.10:4342"]
alt:
  as: 65001
  router_id: 203.0.113.10
  tunnels:
    - name: up
      local: 203.0.113.10
      remote: 203.0.113.20
      addresses: [172.16.0.2/30]
      neighbours: [{address: 172.16.0.1, as: 65000}]
  aggregates: [{prefix: 10.1.0.0/16, components: [10.1.1.0/24]}]
`
	load := func(text string) error {
		r, root, err := parse("alt.yml", []byte(text))
		if err == nil {
			_, err = readMapServer(r, root)
		}
		return err
	}
	if err := load(file); err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct{ old, new, want string }{
		{"as: 65001", "as: 0", "3:7: alt.as: found \"0\""},
		{"  router_id: 203.0.113.10\n", "", "missing key \"router_id\""},
		{"name: up", "name: a/b", "6:13: alt.tunnels[0].name: found \"a/b\", expected an interface name"},
		{"name: up", "name: up\n      kind: ipip", "expected gre, vxlan or existing"},
		{"name: up", "name: up\n      kind: existing", "which an existing tunnel has already"},
		{"name: up", "name: up\n      kind: vxlan", "missing key \"id\""},
		{"remote: 203.0.113.20", "remote: \"2001:db8::1\"", "another address of the same family"},
		{"remote: 203.0.113.20", "remote: 203.0.113.10", "another address of the same family"},
		{"172.16.0.2/30", "172.16.0.2", "9:19: alt.tunnels[0].addresses[0]: found \"172.16.0.2\", expected an address with its length"},
		{"172.16.0.2/30", "172.16.0.2/30, 172.16.0.2/24", "address 172.16.0.2 is given twice"},
		{"address: 172.16.0.1,", "address: 172.16.0.5,", "10:30: alt.tunnels[0].neighbours[0].address: found 172.16.0.5, expected an address in a network of the tunnel's addresses"},
		{"as: 65000}", "as: 65000}, {address: 172.16.0.1, as: 1}", "neighbour 172.16.0.1 is given twice"},
		{"as: 65000}", "as: 65000, hold_time: 1s}", "hold_time"},
		{"10.1.1.0/24]", "10.2.1.0/24]", "11:51: alt.aggregates[0].components[0]: found 10.2.1.0/24, expected a prefix inside of 10.1.0.0/16, and longer"},
		{"10.1.1.0/24]", "10.1.0.0/16]", "and longer"},
		{"{prefix: 10.1.0.0/16", "{prefix: \"[7]10.1.0.0/16\"", "without an instance-ID"},
		{"10.1.1.0/24]}]\n", "10.1.1.0/24]}, {prefix: 10.1.0.0/16}]\n", "aggregate 10.1.0.0/16 is given twice"},
		{"10.1.1.0/24]}]\n", "10.1.1.0/24]}]\n  rate: {per_tunnel: 0}\n", "expected a number from 1 to 1000000"},
	} {
		text := file
		if i := strings.LastIndex(text, x.old); i >= 0 {
			text = text[:i] + x.new + text[i+len(x.old):]
		} else {
			t.Fatalf("no %q", x.old)
		}
		if err := load(text); err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s: %v, want %s", x.new, err, x.want)
		}
	}
}
