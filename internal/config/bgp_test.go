package config

import (
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/bgp"
)

// A site that learns its EID-prefixes.
func TestExampleSiteBGP(t *testing.T) {
	got, err := LoadXTR("../../deploy/examples/site-bgp.yml")
	if err != nil {
		t.Fatal(err)
	}
	if len(got.DatabaseMappings) != 0 || len(got.Learned) != 2 || got.BGP == nil {
		t.Fatalf("%+v", got)
	}
	first, second := got.Learned[0], got.Learned[1]
	if first.Rule != (bgp.Rule{Prefix: netip.MustParsePrefix("10.1.0.0/16"), MinBits: 20, MaxBits: 24, Max: 100}) || first.RecordTTL != 60 ||
		first.LocatorSet != "site" || len(first.Locators) != 1 || first.EID() != mapping.MustParseEID("10.1.0.0/16") {
		t.Errorf("%+v", first)
	}
	if second.Rule != (bgp.Rule{Prefix: netip.MustParsePrefix("2001:db8:a::/48"), MinBits: 48, MaxBits: 64, Max: bgp.DefaultMaxLearned}) {
		t.Errorf("%+v", second)
	}
	b := got.BGP
	if len(b.Originate) != 1 || b.Originate[0].Prefix != netip.MustParsePrefix("0.0.0.0/0") || b.OriginateMapped == nil || b.MaxMapped != 1000 ||
		b.WithdrawDelay != 30*time.Second || !slices.Equal(b.OriginateMapped.Communities, []uint32{bgp.WellKnown["no-export"]}) {
		t.Errorf("%+v", b)
	}
}

func TestExamplePITR(t *testing.T) {
	got, err := LoadXTR("../../deploy/examples/pitr.yml")
	if err != nil {
		t.Fatal(err)
	}
	if w := withoutModes(got.Warnings); len(w) > 0 {
		t.Errorf("warnings:\n%v", w)
	}
	want := &BGP{
		Config: bgp.Config{
			AS: 64500, RouterID: netip.MustParseAddr("192.0.2.1"), Listen: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, ListenPort: 179,
			RestartTime: 2 * time.Minute,
			Neighbours: []bgp.Neighbour{
				{Addr: netip.MustParseAddr("192.0.2.254"), AS: 64501, Port: 179, Password: "a password of BGP sessions",
					LocalAddr: netip.MustParseAddr("192.0.2.1"), HoldTime: 90 * time.Second, MaxPrefixes: 1000},
				{Addr: netip.MustParseAddr("2001:db8:ff::1"), AS: 64502, Port: 179, HoldTime: 90 * time.Second, Multihop: 8, MaxPrefixes: 1000},
			},
		},
		Announce: []bgp.Route{
			{Prefix: netip.MustParsePrefix("10.0.0.0/8"), OriginAS: 64510, Communities: []uint32{64500<<16 | 100, 0xffffff01}, LargeCommunities: [][3]uint32{{64500, 1, 2}}},
			{Prefix: netip.MustParsePrefix("2001:db8:e0::/44")},
		},
		WithdrawDelay: bgp.DefaultWithdrawDelay,
	}
	if !reflect.DeepEqual(got.BGP, want) {
		t.Errorf("got\n%+v, want\n%+v", got.BGP, want)
	}
	if got, want := got.BGP.Announce[0].CommunityTexts(), []string{"64500:100", "no-export", "64500:1:2"}; !reflect.DeepEqual(got, want) {
		t.Errorf("communities %v, want %v", got, want)
	}
	if keys := got.NeedsRestart(&XTR{}); !reflect.DeepEqual(keys[:1], []string{"instances"}) || !strings.Contains(strings.Join(keys, " "), " bgp") {
		t.Errorf("a restart for %v", keys)
	}
}

// Each mistake is told with its place.
func TestBGPMistakes(t *testing.T) {
	const file = `locator_sets: [{name: border, locators: [{address: 192.0.2.1}]}]
proxy_itr: {locator_set: border, eid_prefixes: [10.0.0.0/8]}
map_resolvers: [203.0.113.1]
bgp:
  as: 64500
  router_id: 192.0.2.1
  neighbours: [{address: 192.0.2.254, as: 64501}]
  announce: [{prefixes: [10.0.0.0/8]}]
`
	if _, err := load(t, file); err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct{ old, new, want string }{
		{"as: 64500", "as: 0", "5:7: bgp.as: found \"0\""},
		{"  router_id: 192.0.2.1", "  router_id: \"::1\"", "6:14: bgp.router_id"},
		{"  router_id: 192.0.2.1\n", "", "missing key \"router_id\""},
		{"[{address: 192.0.2.254, as: 64501}]", "[]", "7:15: bgp.neighbours: found an empty list"},
		{"192.0.2.254", "10.0.0.9", "inside the EID-prefix [0]10.0.0.0/8 of proxy_itr"},
		{"as: 64501}", "as: 64501}, {address: 192.0.2.254, as: 64501}", "7:61: bgp.neighbours[1].address"},
		{"as: 64501}", "as: 64501, passive: true}", "nothing to wait at"},
		{"as: 64501}", "as: 64501, hold_time: 3500ms}", "expected whole seconds"},
		{"as: 64501}", "as: 64501, local_address: \"2001:db8::1\"}", "of the same family"},
		{"as: 64501}", "as: 64501, multihop: 1}", "expected a number from 2 to 255"},
		{"as: 64501}", "as: 64501, password: secret}", "unknown key \"password\", did you mean \"password_file\"?"},
		{"[10.0.0.0/8]}]\n", "[11.0.0.0/8]}]\n", "8:26: bgp.announce[0].prefixes[0]: found 11.0.0.0/8, which the xTR does not attract"},
		{"[10.0.0.0/8]}]\n", "[\"[7]10.0.0.0/8\"]}]\n", "without an instance-ID"},
		{"[10.0.0.0/8]}]\n", "[10.0.0.0/8], communities: [\"64500:70000\"]}]\n", "found \"64500:70000\", expected a community"},
		{"[10.0.0.0/8]}]\n", "[10.0.0.0/8], communities: [no-exports]}]\n", "expected a community"},
		{"[10.0.0.0/8]}]\n", "[10.0.0.0/8, 10.0.0.0/8]}]\n", "bgp.announce[0].prefixes[1]"},
		{"as: 64500\n", "as: 64500\n  listen: [\"192.0.2.1:1790\"]\n", "expected port: 1790 beside listen"},
	} {
		text := file
		if i := strings.LastIndex(text, x.old); i >= 0 {
			text = text[:i] + x.new + text[i+len(x.old):]
		} else {
			t.Fatalf("no %q", x.old)
		}
		if _, err := load(t, text); err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s: %v, want %s", x.new, err, x.want)
		}
	}
}
