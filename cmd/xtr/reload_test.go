package main

import (
	"bytes"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/api"
	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/internal/config"
	"github.com/eidolon-lisp/eidolon/internal/netns"
	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/auth"
	"github.com/eidolon-lisp/eidolon/mapping/bgp/bgptest"
	"github.com/eidolon-lisp/eidolon/mapping/server"
	"github.com/eidolon-lisp/eidolon/mapping/xtr"
)

const siteFile = `
database_mappings:
  - {eid: 10.1.0.0/16, locator_set: a}
locator_sets:
  - {name: a, locators: [{address: 192.0.2.1, priority: 1, weight: 100}]}
map_servers:
  - address: 203.0.113.10
    authentication_key: {key_id: 1, key: an example key of enough octets}
map_resolvers: [203.0.113.10]
`

// recorder is a site that keeps what it is told.
type recorder struct {
	databases []xtr.Database
	servers   []xtr.MapServer
	sets      []xtr.LocatorSet
	resolvers []netip.AddrPort
	keys      map[netip.AddrPort]auth.WrapKey
	underlay  []netip.Addr
	logs      config.Log
	api       config.API
	// refuse is what is said to a database-mapping with this EID, and to a key
	// with this secret.
	refuse string
}

func (r *recorder) SetDatabases(d []xtr.Database) error {
	if r.refuse != "" && d[0].EID.String() == r.refuse {
		return errors.New("no such EID")
	}
	r.databases = d
	return nil
}
func (r *recorder) Configure(l config.Log)     { r.logs = l }
func (r *recorder) Reload(a config.API) error  { r.api = a; return nil }
func (r *recorder) Hangup(api.Reloaded, error) {}

func (r *recorder) SetLocatorSets(sets []xtr.LocatorSet) { r.sets = sets }

func (r *recorder) Expired(error) {}
func (r *recorder) SetMappingSystem(s xtr.MappingSystem) error {
	if r.refuse != "" && string(s.MapServers[0].Key.Secret) == r.refuse {
		return errors.New("no such key")
	}
	r.servers, r.resolvers, r.keys = s.MapServers, s.MapResolvers, s.ResolverKeys
	return nil
}
func (r *recorder) setServers(cfg *config.XTR) { r.underlay = servers(cfg) }

func TestReload(t *testing.T) {
	path := filepath.Join(t.TempDir(), "xtr.yml")
	write := func(edits ...string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(strings.NewReplacer(edits...).Replace(siteFile)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write()
	first, err := config.LoadXTR(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		edits []string
		log   string // one line holds all of these words
		// priority and address of the locator; 0 when nothing is applied
		priority uint8
		address  string
		secret   string
		eid      string
	}{
		{"same", nil, "configuration reloaded", 1, "192.0.2.1", "an example key of enough octets", "10.1.0.0/16"},
		{"locator", []string{"192.0.2.1, priority: 1", "192.0.2.7, priority: 9"}, "configuration reloaded", 9, "192.0.2.7", "an example key of enough octets", "10.1.0.0/16"},
		{"key", []string{"an example key", "another key"}, "configuration reloaded", 1, "192.0.2.1", "another key of enough octets", "10.1.0.0/16"},
		{"bad file", []string{"priority: 1", "priority: 1000"}, "not reloaded priority 1000", 0, "", "", ""},
		{"other key", []string{"map_resolvers:", "map_cache: {limit: 5000}\nmap_resolvers:"}, "restart map_cache", 1, "192.0.2.1", "an example key of enough octets", "10.1.0.0/16"},
		{"EID", []string{"10.1.0.0/16", "10.9.0.0/16"}, "configuration reloaded", 1, "192.0.2.1", "an example key of enough octets", "10.9.0.0/16"},
	} {
		t.Run(c.name, func(t *testing.T) {
			write(c.edits...)
			var log bytes.Buffer
			var got recorder
			logger := slog.New(slog.NewTextHandler(&log, nil))
			var watched []netip.Addr
			r := reloader{path: path, first: first, site: &got, databases: &got, access: &got, logs: &got, log: logger,
				watch: func(c *config.XTR) { watched = uplinkConfig(c, logger).Addresses }}
			r.reload()
			found := false
			for line := range strings.Lines(log.String()) {
				all := true
				for word := range strings.FieldsSeq(c.log) {
					all = all && strings.Contains(line, word)
				}
				found = found || all
			}
			if !found {
				t.Errorf("no line has all of %q:\n%s", c.log, &log)
			}
			if c.priority == 0 {
				if got.databases != nil || got.servers != nil || watched != nil || got.logs.Format != "" {
					t.Errorf("a bad file changed %+v", got)
				}
				return
			}
			if len(got.databases) != 1 || len(got.servers) != 1 {
				t.Fatalf("got %+v", got)
			}
			if len(got.sets) != 1 || got.sets[0].Name != "a" || got.sets[0].Locators[0] != got.databases[0].Locators[0] || got.databases[0].LocatorSet != "a" {
				t.Errorf("locator-sets %+v", got.sets)
			}
			if len(watched) != 1 || watched[0].String() != c.address {
				t.Errorf("uplinks with %v are watched", watched)
			}
			if got.logs.Format != "text" {
				t.Errorf("logs %+v", got.logs)
			}
			d, l := got.databases[0], got.databases[0].Locators[0]
			if d.EID.String() != c.eid || l.Priority != c.priority || l.Addr.String() != c.address {
				t.Errorf("database-mapping %+v", d)
			}
			if s := string(got.servers[0].Key.Secret); s != c.secret {
				t.Errorf("key %q", s)
			}
		})
	}
}

// TestReloadIsAtomic: what is not taken by one part is taken back from all, to
// what was reloaded before.
func TestReloadIsAtomic(t *testing.T) {
	path := filepath.Join(t.TempDir(), "xtr.yml")
	write := func(edits ...string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(strings.NewReplacer(edits...).Replace(siteFile)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write()
	first, err := config.LoadXTR(path)
	if err != nil {
		t.Fatal(err)
	}
	var got recorder
	var watched []netip.Addr
	r := reloader{path: path, first: first, site: &got, databases: &got, access: &got, logs: &got,
		log: slog.New(slog.DiscardHandler), watch: func(c *config.XTR) { watched = uplinkConfig(c, nil).Addresses }}
	write("192.0.2.1, priority: 1", "192.0.2.7, priority: 9", "an example key", "the second key")
	if done, err := r.reload(); err != nil || len(done.Restart) > 0 || !slices.Contains(done.Changed, "database_mappings") || !slices.Contains(done.Changed, "map_servers") {
		t.Fatalf("%+v, %v", done, err)
	}
	if done, err := r.reload(); err != nil || len(done.Changed) > 0 {
		t.Fatalf("the same file again: %+v, %v", done, err)
	}
	for want, refuse := range map[string]string{"no such EID": "10.9.0.0/16", "no such key": "the third key of enough octets"} {
		got.refuse = refuse
		write("192.0.2.1, priority: 1", "192.0.2.8, priority: 3", "an example key", "the third key", "10.1.0.0/16", "10.9.0.0/16", "map_resolvers:", "log: {level: debug}\nmap_resolvers:")
		_, err := r.reload()
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "put back") {
			t.Errorf("%v, want %q", err, want)
		}
		d, key := got.databases[0], string(got.servers[len(got.servers)-1].Key.Secret)
		if d.EID.String() != "10.1.0.0/16" || d.Locators[0].Priority != 9 || key != "the second key of enough octets" || len(watched) != 1 ||
			watched[0].String() != "192.0.2.7" || got.logs.Level != slog.LevelInfo {
			t.Errorf("%s: what runs is %+v with the key %q, %v is watched, the log is %+v", want, d, key, watched, got.logs)
		}
	}
}

const movingFile = `
locator_sets: [{name: site, locators: [{address: 192.0.2.1}]}]
database_mappings: [{eid: 10.1.0.0/16, locator_set: site}]
map_servers: [{address: SERVER, authentication_key: {key_id: 1, algorithm: hmac-sha-256-128-hkdf, key: an example key of enough octets}}]
map_resolvers: [SERVER]
api: {socket: xtr.sock}
log: {level: warn}
`

// TestMovesToAnotherMapServer: a site goes to another map-server by a reload: it is
// registered there, and with the one before no more, whom it does not ask either.
func TestMovesToAnotherMapServer(t *testing.T) {
	netns.NeedTUN(t)
	ns := netns.Fresh(t, 2)
	if err := netns.Veth(ns[0], "up", ns[1], "net", 1500); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(ns[0].AddAddress("up", netip.MustParsePrefix("192.0.2.1/24")), ns[1].AddAddress("net", netip.MustParsePrefix("192.0.2.10/24")),
		ns[1].AddAddress("net", netip.MustParsePrefix("192.0.2.11/24")), ns[0].AddAddress("lo", netip.MustParsePrefix("10.1.0.1/32"))); err != nil {
		t.Fatal(err)
	}
	first, stopFirst := startMapServer(t, ns[1], netip.MustParseAddrPort("192.0.2.10:4342"))
	second, stopSecond := startMapServer(t, ns[1], netip.MustParseAddrPort("192.0.2.11:4342"))
	defer stopSecond()
	path := filepath.Join(t.TempDir(), "xtr.yml")
	write := func(server string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(strings.ReplaceAll(movingFile, "SERVER", server)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	registered := func(ms *server.Server) bool {
		for range ms.Database(mapping.MustParseEID("10.1.0.0/16")) {
			return true
		}
		return false
	}
	asked := func(ms *server.Server) (n uint64) {
		for name, value := range ms.Stats() {
			if name == "encapsulated_map_requests" {
				n = value
			}
		}
		return n
	}
	var conn net.PacketConn
	if err := ns[0].Do(func() (err error) { conn, err = net.ListenPacket("udp4", "10.1.0.1:0"); return err }); err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	send := func(to string) {
		if _, err := conn.WriteTo([]byte("x"), net.UDPAddrFromAddrPort(netip.MustParseAddrPort(to))); err != nil {
			t.Log(err) // a mapping without a way to its locator
		}
	}

	write("192.0.2.10")
	daemon := startDaemon(t, ns[0], path)
	bgptest.Eventually(t, 20*time.Second, "the site is registered", func() bool { return registered(first) })
	bgptest.Eventually(t, 10*time.Second, "the first is asked", func() bool { send("10.7.0.1:9"); return asked(first) > 0 })
	if registered(second) || asked(second) > 0 {
		t.Error("the second one was told or asked something")
	}
	write("192.0.2.11")
	if err := daemon.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	bgptest.Eventually(t, 5*time.Second, "the site has moved", func() bool { return registered(second) && !registered(first) })
	stopFirst()
	bgptest.Eventually(t, 10*time.Second, "the second is asked", func() bool { send("10.8.0.1:9"); return asked(second) > 0 })
	if err := daemon.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	bgptest.Eventually(t, 10*time.Second, "nothing is registered after the end", func() bool { return !registered(second) })
	if err := daemon.Wait(); err != nil {
		t.Errorf("the daemon: %v", err)
	}
}

// TestReloadOfHost: EIDs that a host gets or loses wait for a restart, as they are
// addresses of its device; the rest of them is reloaded.
func TestReloadOfHost(t *testing.T) {
	path := filepath.Join(t.TempDir(), "xtr.yml")
	write := func(edits ...string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(strings.NewReplacer(edits...).Replace(siteFile+"host: {eid_prefixes: [10.0.0.0/8]}\n")), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("10.1.0.0/16", "10.1.0.1/32")
	first, err := config.LoadXTR(path)
	if err != nil {
		t.Fatal(err)
	}
	var got recorder
	r := reloader{path: path, first: first, site: &got, databases: &got, access: &got, logs: &got,
		log: slog.New(slog.DiscardHandler), watch: func(*config.XTR) {}}
	write("10.1.0.0/16", "10.1.0.1/32", "priority: 1", "priority: 7")
	if done, err := r.reload(); err != nil || len(done.Restart) > 0 || got.databases[0].Locators[0].Priority != 7 {
		t.Errorf("a priority: %+v, %v, %+v", done, err, got.databases)
	}
	write("10.1.0.0/16", "10.1.0.9/32")
	if done, err := r.reload(); err != nil || !slices.Contains(done.Restart, "database_mappings") || got.databases[0].EID.String() != "10.1.0.1/32" {
		t.Errorf("another EID: %+v, %v, %+v", done, err, got.databases)
	}
}

// noLocals is a plane that takes any EID-prefixes.
type noLocals struct{}

func (noLocals) SetLocals([]mapping.EID) error { return nil }

// TestReloadOfWhatGoesTogether: a map-server and EID-prefixes that are good with each
// other are reloaded together, also where one of them is not good with what runs.
// Where each takes the place of the other neither can be first, and all stays.
func TestReloadOfWhatGoesTogether(t *testing.T) {
	path := filepath.Join(t.TempDir(), "xtr.yml")
	write := func(eid, server string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(strings.NewReplacer("10.1.0.0/16", eid, "203.0.113.10", server).Replace(siteFile)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("10.1.0.0/16", "203.0.113.10")
	first, err := config.LoadXTR(path)
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	control := controlConfig(first, nil, dataplane.NewFIB(), log)
	control.RLOCs = []netip.Addr{netip.MustParseAddr("192.0.2.1")}
	x, err := xtr.New(control)
	if err != nil {
		t.Fatal(err)
	}
	dbs := newDatabases(first, control.Databases, log)
	dbs.site, dbs.plane = x, noLocals{}
	var others recorder
	r := reloader{path: path, first: first, site: x, databases: dbs, access: &others, logs: &others, log: log, watch: func(*config.XTR) {}}
	eid, server := "10.1.0.0/16", "203.0.113.10"
	for _, c := range []struct {
		name, eid, server string
		refused           []string // what the error has; nil: it is taken
	}{
		{"the server is in the EID-prefix before", "10.9.0.0/16", "10.1.0.10", nil},
		{"each is in the other's place", "10.1.0.0/16", "10.9.0.10", []string{"map_servers, map_resolvers: ", "database_mappings: "}},
		{"the server alone", "10.9.0.0/16", "203.0.113.10", nil},
		{"each is in the other's place again", "203.0.113.0/24", "10.9.0.10", []string{"map_servers, map_resolvers: ", "database_mappings: "}},
		{"the server is in the EID-prefix before again", "10.1.0.0/16", "10.9.0.10", nil},
		{"the server before is in the EID-prefix", "10.9.0.0/16", "203.0.113.10", nil},
	} {
		if c.refused == nil {
			eid, server = c.eid, c.server
		}
		write(c.eid, c.server)
		_, err := r.reload()
		if (err == nil) != (c.refused == nil) || err != nil && strings.Contains(err.Error(), "put back") {
			t.Errorf("%s: %v", c.name, err)
		}
		for _, want := range c.refused {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %q", c.name, err, want)
			}
		}
		d, s := x.Databases(), x.MapServers()
		if len(d) != 1 || d[0].EID.String() != eid || len(s) != 1 || s[0].Addr.Addr().String() != server {
			t.Errorf("%s: what runs is %+v with %+v", c.name, d, s)
		}
	}
}
