package server

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/auth"
)

func TestValidate(t *testing.T) {
	good := twoSites()
	if err := good.Validate(); err != nil {
		t.Fatalf("a good configuration: %v", err)
	}
	for want, f := range map[string]func(*Config){
		"site 0 has no name":                           func(c *Config) { c.Sites[0].Name = "" },
		"the limit is 255":                             func(c *Config) { c.Sites[0].Name = strings.Repeat("x", 256) },
		"site right is there twice":                    func(c *Config) { c.Sites[0].Name = "right" },
		"site left has no authentication_key":          func(c *Config) { c.Sites[0].Keys = nil },
		"key 1 (hmac-sha-256-128-hkdf) is empty":       func(c *Config) { c.Sites[0].Keys[0].Secret = nil },
		"key-id 2 is there twice":                      func(c *Config) { c.Sites[0].Keys[0].ID = 2 },
		"unknown minimum algorithm":                    func(c *Config) { c.Sites[0].MinAlgorithm = 4 },
		"the limit of registrations is -1":             func(c *Config) { c.Sites[0].MaxRegistrations = -1 },
		"10.1.0.0/16 belongs to site left already":     func(c *Config) { c.Sites[1].Prefixes[0].EID = eid("10.1.0.0/16") },
		"2001:db8:1::/48 belongs to site left already": func(c *Config) { c.Sites[0].Prefixes[0].EID = eid("2001:db8:1::/48") },
		"site left: not an EID":                        func(c *Config) { c.Sites[0].Prefixes[0].EID = mapping.EID{} },
		"has host bits":                                func(c *Config) { c.Sites[0].Prefixes[0].EID.Prefix = netip.MustParsePrefix("10.1.2.3/16") },
		"unknown proxy-policy-3":                       func(c *Config) { c.Sites[0].Prefixes[0].ProxyReply = 3 },
		"static mapping 0 is missing":                  func(c *Config) { c.Static[0] = nil },
		"static mapping 10.9.0.0/16 is there twice":    func(c *Config) { c.Static[1] = c.Static[0] },
		"record_ttl is 0":                              func(c *Config) { c.Static[0].TTL = 0 },
		"224.0.0.1 is not an address":                  func(c *Config) { c.Static[0].Locators[0] = loc("224.0.0.1") },
		"static mapping 10.9.0.0/16: record of":        func(c *Config) { c.Static[0].Locators[0] = mapping.Locator{} },
		"a limit is negative":                          func(c *Config) { c.RequestRate.Burst = -1 },
	} {
		c := twoSites()
		c.Sites[0].Keys[1].Secret = []byte("x")
		f(&c)
		err := c.Validate()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want an error with %q", err, want)
		}
		if _, err := New(t.Context(), c, nil); err == nil {
			t.Errorf("New took a configuration with %q", want)
		}
	}
	// All errors at once, and none of them tells a secret.
	c := twoSites()
	c.Sites[0].Keys = []auth.Key{{ID: 1, Secret: []byte("hunter2")}, {ID: 1, Secret: []byte("hunter2")}}
	c.Sites[1].Name = ""
	err := c.Validate()
	if n := strings.Count(err.Error(), "\n"); n != 1 || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("%v", err)
	}
}

func TestProxyPolicy(t *testing.T) {
	for p := range ProxyNever + 1 {
		if got, err := ParseProxyPolicy(p.String()); err != nil || got != p {
			t.Errorf("%v came back as %v, %v", p, got, err)
		}
	}
	if _, err := ParseProxyPolicy("sometimes"); err == nil {
		t.Error("a policy that there is not was accepted")
	}
}
