package config

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

const uplinkRest = `
database_mappings: [{eid: 10.1.0.0/16, locator_set: a}]
map_servers: [{address: 203.0.113.1, authentication_key: {key_id: 1, algorithm: hmac-sha-256-128-hkdf, key: an example key of enough octets}}]
map_resolvers: [203.0.113.1]
`

// TestUplinks: locators that name interfaces, and what is known of these.
func TestUplinks(t *testing.T) {
	c, err := load(t, `
locator_sets:
  - name: a
    locators:
      - {interface: eth2, weight: 70}
      - {interface: eth3, family: ipv4, priority: 2}
      - {interface: eth3, family: ipv6}
      - {address: 192.0.2.1}
uplinks:
  - {interface: eth3, gateway: 192.0.2.2, gateway6: "fe80::1"}
`+uplinkRest)
	if err != nil {
		t.Fatal(err)
	}
	want := []UplinkLocator{{"eth2", true, true, 1, 70}, {"eth3", true, false, 2, 100}, {"eth3", false, true, 1, 100}}
	if got := c.DatabaseMappings[0]; !reflect.DeepEqual(got.Uplinks, want) || len(got.Locators) != 1 {
		t.Errorf("locators %v and %v, want %v", got.Locators, got.Uplinks, want)
	}
	if want := []Uplink{{Interface: "eth2"}, {"eth3", netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("fe80::1")}}; !reflect.DeepEqual(c.Uplinks, want) {
		t.Errorf("uplinks %v, want %v", c.Uplinks, want)
	}
}

// TestUplinksRefused: each mistake has its place and its reason.
func TestUplinksRefused(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"locator_sets: [{name: a, locators: [{interface: eth2, address: 192.0.2.1}]}]", "xtr.yml:1:55: locator_sets[0].locators[0]: found address beside interface"},
		{"locator_sets: [{name: a, locators: [{interface: eth2}, {interface: eth2, family: ipv6}]}]", "1:56: locator_sets[0].locators[1]: interface eth2 is in the list twice"},
		{"locator_sets: [{name: a, locators: [{interface: eth2, family: ipv5}]}]", `found "ipv5", expected both, ipv4 or ipv6`},
		{"locator_sets: [{name: a, locators: [{interface: 'eth 2'}]}]", `found "eth 2", expected an interface name`},
		{"locator_sets: [{name: a, locators: [{priority: 1}]}]", `missing key "address", expected an IPv4 or IPv6 address, or instead of it interface`},
		{"locator_sets: [{name: a, locators: [{interface: eth2}]}]\nuplinks: [{interface: eth1}]", `2:23: uplinks[0].interface: "eth1" is not one of the interfaces that a locator names, did you mean "eth2"?`},
		{"locator_sets: [{name: a, locators: [{interface: eth2}]}]\nuplinks: [{interface: eth2, gateway: 'fe80::1'}]", `found "fe80::1", expected an IPv4 address`},
		{"locator_sets: [{name: a, locators: [{interface: eth2}]}]\nuplinks: [{interface: eth2}, {interface: eth2}]", "2:"},
	} {
		_, err := load(t, c.text+uplinkRest)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s:\n got %v\nwant %s", c.text, err, c.want)
		}
	}
}
