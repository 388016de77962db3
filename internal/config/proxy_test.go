package config

import (
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/eidolon-lisp/eidolon/mapping"
)

func load(t *testing.T, text string) (*XTR, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "xtr.yml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return LoadXTR(path)
}

// A proxy needs neither EIDs of its own nor map-servers; a proxy-ETR asks
// nobody.
func TestProxies(t *testing.T) {
	const sets = "locator_sets: [{name: border, locators: [{address: 192.0.2.1}]}]\n"
	c, err := load(t, sets+`
proxy_itr: {locator_set: border, eid_prefixes: ["2001:db8:e::/48", "[7]10.0.0.0/8"]}
proxy_etr: {locator_set: border, eid_prefixes: ["[7]10.0.0.0/8"]}
map_resolvers: [203.0.113.1]
`)
	if err != nil {
		t.Fatal(err)
	}
	locators := []mapping.Locator{mapping.MakeLocator(netip.MustParseAddr("192.0.2.1"), 1, 100)}
	v6, v4 := mapping.MustParseEID("2001:db8:e::/48"), mapping.MustParseEID("[7]10.0.0.0/8")
	if want := (&Proxy{"border", locators, nil, []mapping.EID{v6, v4}}); !reflect.DeepEqual(c.ProxyITR, want) {
		t.Errorf("proxy-ITR %+v, want %+v", c.ProxyITR, want)
	}
	if want := (&Proxy{"border", locators, nil, []mapping.EID{v4}}); !reflect.DeepEqual(c.ProxyETR, want) {
		t.Errorf("proxy-ETR %+v, want %+v", c.ProxyETR, want)
	}
	if len(c.Instances) != 2 || c.Instances[0].IID != 0 || c.Instances[1].IID != 7 || len(c.Warnings) != 0 {
		t.Errorf("instances %+v, warnings %v", c.Instances, c.Warnings)
	}
	if _, err := load(t, sets+"proxy_etr: {locator_set: border, eid_prefixes: [10.0.0.0/8]}\n"); err != nil {
		t.Errorf("a proxy-ETR alone: %v", err)
	}
	if _, err := load(t, sets+"proxy_itr: {locator_set: border, eid_prefixes: [10.0.0.0/8]}\n"); err == nil || !strings.Contains(err.Error(), "map_resolvers") {
		t.Errorf("a proxy-ITR that can ask nobody: %v", err)
	}
}

const siteFile = `
locator_sets: [{name: a, locators: [{address: 192.0.2.1}]}]
database_mappings: [{eid: 10.1.0.5/32, locator_set: a}, {eid: "[7]10.7.0.0/16", locator_set: a}]
map_servers: [{address: 203.0.113.1, authentication_key: {key_id: 1, algorithm: hmac-sha-256-128-hkdf, key: an example key of enough octets}}]
map_resolvers: [203.0.113.1]
`

// The policy of an instance is its own, or that of all; nothing leaves unless
// the file says so.
func TestNoMapping(t *testing.T) {
	c, err := load(t, siteFile)
	if err != nil {
		t.Fatal(err)
	}
	for _, in := range c.Instances {
		if in.NoMapping != NoMappingDrop {
			t.Errorf("instance %d: %s by default", in.IID, in.NoMapping)
		}
	}
	c, err = load(t, siteFile+`
no_mapping: petr
use_petr: [{address: 203.0.113.9, priority: 2}, {address: 203.0.113.8, weight: 30}]
instances: [{iid: 0}, {iid: 7, no_mapping: native}]
`)
	if err != nil {
		t.Fatal(err)
	}
	want := []mapping.Locator{mapping.MakeLocator(netip.MustParseAddr("203.0.113.8"), 1, 30), mapping.MakeLocator(netip.MustParseAddr("203.0.113.9"), 2, 100)}
	if !reflect.DeepEqual(c.UsePETR, want) || c.Instances[0].NoMapping != NoMappingPETR || c.Instances[1].NoMapping != NoMappingNative {
		t.Errorf("%v, instances %+v", c.UsePETR, c.Instances)
	}
	next, err := load(t, siteFile+"use_petr: [{address: 203.0.113.9}]\n")
	if err != nil {
		t.Fatal(err)
	}
	if len(next.Warnings) != 1 || !strings.Contains(next.Warnings[0].Message, "no instance uses") {
		t.Errorf("warnings %v", next.Warnings)
	}
	if keys := c.NeedsRestart(next); !reflect.DeepEqual(keys, []string{"instances", "no_mapping", "use_petr"}) {
		t.Errorf("a restart for %v", keys)
	}
}

func TestHost(t *testing.T) {
	_, err := load(t, strings.Replace(siteFile, "10.7.0.0/16", "10.7.0.0/32", 1)+`host: {eid_prefixes: [0.0.0.0/0]}`)
	if err == nil {
		t.Fatal("0.0.0.0/0 of instance 0 holds an EID of another")
	}
	_, err = load(t, strings.Replace(siteFile, "10.7.0.0/16", "10.7.0.0/32", 1)+`host: {eid_prefixes: [10.0.0.0/13, "[7]10.0.8.0/21"]}`)
	if err == nil || !strings.Contains(err.Error(), "overlaps") {
		t.Fatal(err)
	}
	c, err := load(t, strings.Replace(siteFile, "10.7.0.0/16", "10.77.0.1/32", 1)+`host: {eid_prefixes: [10.0.0.0/13, "[7]10.72.0.0/13"]}`)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Host.EIDPrefixes) != 2 {
		t.Errorf("%+v", c.Host)
	}
}
