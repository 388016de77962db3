package xtr

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/auth"
)

func TestConfigDefaults(t *testing.T) {
	cfg := testConfig()
	cfg.MapResolvers[0] = netip.AddrPortFrom(mr1.Addr(), 0)
	cfg.MapServers[0].Addr = netip.AddrPortFrom(ms1.Addr(), 0)
	c, err := cfg.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	if c.Port != 4342 || c.MapResolvers[0] != mr1 || c.MapServers[0].Addr != ms1 || c.MapServers[0].RegisterInterval != time.Minute ||
		c.Databases[0].TTL != 1440 || c.CacheLimit != 65536 || c.Logger == nil || c.Rand == nil ||
		c.Limits != (Limits{Pending: 1024, PendingPerHost: 128, Rate: 256, RatePerHost: 16}) {
		t.Errorf("%+v", c)
	}
	if cfg.MapResolvers[0].Port() != 0 || cfg.Databases[0].TTL != 0 || cfg.Databases[0].Locators[0].Flags&mapping.Local != 0 {
		t.Error("the caller's configuration was changed")
	}
	if _, err := (Config{RLOCs: []netip.Addr{own4}, MapResolvers: []netip.AddrPort{mr1}}).withDefaults(); err != nil {
		t.Errorf("an ITR alone: %v", err)
	}
}

func TestConfigErrors(t *testing.T) {
	many := func(n int) (ls []mapping.Locator) {
		for i := range n {
			ls = append(ls, mapping.MakeLocator(netip.AddrFrom4([4]byte{203, 0, 113, byte(i)}), 1, 1))
		}
		return ls
	}
	for _, c := range []struct {
		name   string
		change func(*Config)
		want   string
	}{
		{"no rloc", func(c *Config) { c.RLOCs = nil }, "rloc: 0 given, expected 1 to 32"},
		{"multicast rloc", func(c *Config) { c.RLOCs[0] = addr("224.0.0.1") }, "rloc: 224.0.0.1 is not an address that an underlay routes"},
		{"rloc twice", func(c *Config) { c.RLOCs = append(c.RLOCs, own4) }, "rloc 192.0.2.1: given twice"},
		{"rloc in an EID", func(c *Config) { c.RLOCs = append(c.RLOCs, addr("10.1.0.1")) }, "rloc 10.1.0.1: inside the eid 10.1.0.0/16"},
		{"site_id alone", func(c *Config) { c.SiteID = 5 }, "site_id 5: needs an xtr_id"},
		{"max_message", func(c *Config) { c.MaxMessage = 100 }, "max_message 100: expected 548 to 65507 octets"},
		{"no eid", func(c *Config) { c.Databases[1].EID = mapping.EID{} }, "database_mapping 2: no eid"},
		{"source", func(c *Config) { c.Databases[1].EID = eid("10.1.0.0/16 from 10.2.0.0/16") }, "cannot be registered"},
		{"eid twice", func(c *Config) { c.Databases[1].EID = c.Databases[0].EID }, "database_mapping 10.1.0.0/16: given twice"},
		{"no locator", func(c *Config) { c.Databases[0].Locators = nil }, "database_mapping 10.1.0.0/16: no locator"},
		{"bad locator", func(c *Config) { c.Databases[0].Locators = []mapping.Locator{mapping.MakeLocator(addr("::1"), 1, 1)} }, "locator 1: ::1 is not an address that an underlay routes"},
		{"opaque locator", func(c *Config) { c.Databases[0].Locators = []mapping.Locator{{Opaque: "\x00\x11a\x00"}} }, "locator 1: not an address"},
		{"locator twice", func(c *Config) { c.Databases[0].Locators = append(many(1), many(1)...) }, "locator 203.0.113.0 given twice"},
		{"locator in an EID", func(c *Config) {
			c.Databases[0].Locators = append(many(1), mapping.MakeLocator(addr("2001:db8:1::1"), 1, 1))
		}, "database_mapping 10.1.0.0/16: locator 2001:db8:1::1 is inside the eid 2001:db8:1::/48"},
		{"too many locators", func(c *Config) { c.Databases[0].Locators = many(40) }, "40 locators make a record of 496 octets, of which 476 fit"},
		{"no map_server", func(c *Config) { c.MapServers[0].Addr = netip.AddrPort{} }, "map_server invalid IP: not the address of a host"},
		{"map_server twice", func(c *Config) { c.MapServers = append(c.MapServers, c.MapServers[0]) }, "map_server 198.51.100.3:4342: given twice"},
		{"map_server of a family without rloc", func(c *Config) { c.RLOCs, c.MapServers[0].Addr = c.RLOCs[:1], ms6 }, "map_server 2001:db8:ffff::53: no rloc of its address family"},
		{"map_server in an EID", func(c *Config) { c.MapServers[0].Addr = netip.MustParseAddrPort("10.1.0.1:0") }, "map_server 10.1.0.1: inside the eid 10.1.0.0/16"},
		{"no key", func(c *Config) { c.MapServers[0].Key.Secret = nil }, "map_server 198.51.100.3:4342: authentication_key: the secret is empty"},
		{"no algorithm", func(c *Config) { c.MapServers[0].Key.Algorithm = 0 }, "authentication_key: unknown algorithm-0"},
		{"short interval", func(c *Config) { c.MapServers[0].RegisterInterval = time.Second }, "register_interval 1s: expected 5s to 1h"},
		{"long interval", func(c *Config) { c.MapServers[0].RegisterInterval = 5 * time.Minute }, "register_interval 5m0s: 10.1.0.0/16 would time out after 3m0s"},
		{"interval over the TTL", func(c *Config) {
			c.MapServers[0].RegisterInterval, c.MapServers[0].TTLFromRegister, c.Databases[0].TTL = time.Minute, true, 1
		}, "register_interval 1m0s: 10.1.0.0/16 would time out after 1m0s"},
		{"unspecified map_resolver", func(c *Config) { c.MapResolvers[0] = netip.MustParseAddrPort("0.0.0.0:4342") }, "map_resolver 0.0.0.0: not the address of a host"},
		{"map_resolver twice", func(c *Config) { c.MapResolvers = append(c.MapResolvers, netip.AddrPortFrom(mr1.Addr(), 0)) }, "map_resolver 198.51.100.1:4342: given twice"},
		{"map_resolver in an EID", func(c *Config) { c.MapResolvers[0] = netip.MustParseAddrPort("[2001:db8:1::1]:4342") }, "map_resolver 2001:db8:1::1: inside the eid 2001:db8:1::/48"},
		{"cache_limit", func(c *Config) { c.CacheLimit = -1 }, "cache_limit -1: expected 1 to"},
		{"rate", func(c *Config) { c.Limits.RatePerHost = -5 }, "rate_per_host -5: expected 1 to"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := testConfig()
			cfg.RLOCs = slices.Clone(cfg.RLOCs)
			c.change(&cfg)
			x, err := New(cfg)
			if err == nil || x != nil {
				t.Fatal("accepted")
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %q does not say %q", err, c.want)
			}
		})
	}
	t.Run("all at once", func(t *testing.T) {
		cfg := testConfig()
		cfg.SiteID, cfg.CacheLimit, cfg.MapServers[0].Key.Secret = 1, -1, nil
		_, err := New(cfg)
		for _, want := range []string{"site_id", "cache_limit", "secret"} {
			if !strings.Contains(fmt.Sprint(err), want) {
				t.Errorf("%v does not name %s", err, want)
			}
		}
	})
	t.Run("no secret in errors", func(t *testing.T) {
		cfg := testConfig()
		cfg.MapServers[0].Key = auth.Key{Algorithm: 9, Secret: []byte("hunter2")}
		if _, err := New(cfg); strings.Contains(fmt.Sprint(err), "hunter2") {
			t.Error(err)
		}
	})
}

func TestCounterNames(t *testing.T) {
	seen := map[string]bool{}
	for i, c := range counterTable {
		if c.name == "" || seen[c.name] || strings.ToLower(c.name) != c.name {
			t.Errorf("counter %d is named %q", i, c.name)
		}
		if c.counts == "" {
			t.Errorf("there are no words for what %s counts", c.name)
		}
		seen[c.name] = true
	}
}
