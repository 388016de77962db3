package config

import (
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/auth"
)

var update = flag.Bool("update", false, "rewrite testdata/bad/*.out")

// withoutModes drops the warnings about file modes, which depend on the umask
// of whoever checked the files out.
func withoutModes(es Errors) (rest Errors) {
	for _, e := range es {
		if !strings.Contains(e.Message, "can be read by everybody") {
			rest = append(rest, e)
		}
	}
	return rest
}

func TestExampleXTR(t *testing.T) {
	got, err := LoadXTR("../../deploy/examples/xtr.yml")
	if err != nil {
		t.Fatal(err)
	}
	if w := withoutModes(got.Warnings); len(w) > 0 {
		t.Errorf("warnings:\n%v", w)
	}
	got.Warnings = nil
	if got.BGP == nil || len(got.BGP.Announce) != 1 || len(got.BGP.Originate) != 1 || len(got.Learned) != 1 {
		t.Errorf("bgp %+v, learned %+v", got.BGP, got.Learned)
	}
	got.BGP, got.Learned = nil, nil // TestExamplePITR and TestExampleSiteBGP look at them
	locators := []mapping.Locator{
		mapping.MakeLocator(netip.MustParseAddr("192.0.2.1"), 1, 100),
		mapping.MakeLocator(netip.MustParseAddr("2001:db8:a::1"), 1, 100),
	}
	uplinks := []UplinkLocator{{"eth2", true, true, 2, 100}}
	dbm := func(e string) DatabaseMapping {
		return DatabaseMapping{EID: mapping.MustParseEID(e), LocatorSet: "site-a", Locators: locators, Uplinks: uplinks, RecordTTL: 1440}
	}
	proxy := &Proxy{"site-a", locators, uplinks, []mapping.EID{mapping.MustParseEID("2001:db8:e0::/44")}}
	want := &XTR{
		Uplinks:          []Uplink{{"eth2", netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("fe80::1")}},
		XTRID:            mapping.XTRID{0, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0x0a},
		SiteID:           1,
		DatabaseMappings: []DatabaseMapping{dbm("10.1.0.0/16"), dbm("2001:db8:e1::/48"), dbm("[7]10.7.0.0/16")},
		LocatorSets:      []LocatorSet{{Name: "site-a", Locators: locators, Uplinks: uplinks}},
		NoMapping:        NoMappingDrop,
		Instances: []Instance{{IID: 0, Device: "eidolon0", NoMapping: NoMappingDrop},
			{IID: 7, Device: "eidolon7", LISPSec: auth.SecurityPreferred, NoMapping: NoMappingPETR}},
		UsePETR: []mapping.Locator{
			mapping.MakeLocator(netip.MustParseAddr("203.0.113.7"), 1, 100),
			mapping.MakeLocator(netip.MustParseAddr("203.0.113.8"), 2, 100),
		},
		ProxyITR:     proxy,
		ProxyETR:     proxy,
		ResolverKeys: map[netip.AddrPort]auth.WrapKey{netip.MustParseAddrPort("[2001:db8:113::10]:4342"): {ID: 1, Secret: []byte("shared with the map-resolver")}},
		MapServers: []XTRMapServer{{
			Address:          netip.MustParseAddrPort("203.0.113.10:4342"),
			Keys:             []auth.Key{{ID: 1, Algorithm: auth.SHA256HKDF, Secret: []byte("an example key, 128 bits or more")}},
			WantMapNotify:    true,
			RegisterInterval: time.Minute,
		}, {
			Address: netip.MustParseAddrPort("[2001:db8:113::10]:4342"),
			Keys: []auth.Key{
				{ID: 1, Algorithm: auth.SHA256HKDF, Secret: []byte("the key of site-a in a file of its own")},
				{ID: 2, Algorithm: auth.SHA256HKDF, Secret: []byte("the key before that one")},
			},
			WantMapNotify:    true,
			RegisterInterval: time.Minute,
		}},
		MapResolvers:  []netip.AddrPort{netip.MustParseAddrPort("203.0.113.10:4342"), netip.MustParseAddrPort("[2001:db8:113::10]:4342")},
		MapCacheLimit: 100000,
		PubSub:        &XTRPubSub{Key: auth.Key{ID: 1, Algorithm: auth.SHA256HKDF, Secret: []byte("shared for publications")}},
		Underlay:      UnderlayInternet,
		Miss:          MissHold,
		RLOCProbing:   RLOCProbing{Enabled: true, Interval: 30 * time.Second, Retries: 3},
		AcceptMapData: MapDataOff,
		StateDir:      "/var/lib/eidolon",
		Plane:         Plane{Kind: "auto", RouteTable: 4341, SourceCheck: SourceLoose},
		API:           API{Socket: "/run/eidolon/xtr.sock"},
		HTTP:          HTTP{Listen: netip.MustParseAddrPort("127.0.0.1:9341")},
		Log:           exampleLog(KindXTR),
		Tracing:       &Tracing{Endpoint: "127.0.0.1:4317", Insecure: true, OneIn: 1},
	}
	got.Text = nil
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v, want\n%+v", got, want)
	}
}

// exampleLog has every subsystem.
func exampleLog(k Kind) Log {
	l := Log{Level: slog.LevelInfo, Format: "text", Levels: make(map[string]slog.Level)}
	for _, name := range Subsystems(k) {
		l.Levels[name] = slog.LevelInfo
	}
	return l
}

func TestExampleHost(t *testing.T) {
	got, err := LoadXTR("../../deploy/examples/host.yml")
	if err != nil {
		t.Fatal(err)
	}
	if w := withoutModes(got.Warnings); len(w) > 0 {
		t.Errorf("warnings:\n%v", w)
	}
	want := &Host{[]mapping.EID{mapping.MustParseEID("10.0.0.0/8"), mapping.MustParseEID("2001:db8:e0::/44")}}
	if !reflect.DeepEqual(got.Host, want) {
		t.Errorf("host %+v, want %+v", got.Host, want)
	}
	if up := got.DatabaseMappings[1].Uplinks; !reflect.DeepEqual(up, []UplinkLocator{{"eth0", true, true, 1, 100}, {"wlan0", true, true, 2, 100}}) {
		t.Errorf("uplinks %+v", up)
	}
}

// TestExamplesHaveAllKeys: every key of a file stands in its complete example,
// if only in a comment.
func TestExamplesHaveAllKeys(t *testing.T) {
	for k, files := range exampleFiles {
		text, err := os.ReadFile(examples + files[0])
		if err != nil {
			t.Fatal(err)
		}
		keys := 0
		formOf(t, k).each("", func(path string, _ *form, _ bool) {
			keys++
			if !regexp.MustCompile(`\b` + path[strings.LastIndex(path, ".")+1:] + `:`).Match(text) {
				t.Errorf("%s is not in %s", path, files[0])
			}
		})
		if keys < 80 {
			t.Errorf("%s has only %d keys", k, keys)
		}
	}
}

// TestExamplesAreGood: check has nothing against the examples, and knows whose
// they are.
func TestExamplesAreGood(t *testing.T) {
	for want, files := range exampleFiles {
		for _, name := range files {
			k, err := Detect(examples + name)
			if err != nil || k != want {
				t.Errorf("%s is of %q, %v; want %q", name, k, err, want)
			}
			warnings, err := Check(examples+name, k)
			doubts, _ := errors.AsType[Errors](warnings)
			if doubts = withoutModes(doubts); err != nil || len(doubts) > 0 {
				t.Errorf("%s: %v, %v", name, doubts, err)
			}
		}
	}
}

func TestExampleMapServer(t *testing.T) {
	got, err := LoadMapServer("../../deploy/examples/mapserver.yml")
	if err != nil {
		t.Fatal(err)
	}
	if w := withoutModes(got.Warnings); len(w) > 0 {
		t.Errorf("warnings:\n%v", w)
	}
	got.Warnings = nil
	if got.ALT == nil || len(got.ALT.Tunnels) != 1 || len(got.ALT.Aggregates) != 1 {
		t.Errorf("alt %+v", got.ALT)
	}
	got.ALT = nil // TestExampleALT looks at one
	want := &MapServer{
		Listen:   []netip.AddrPort{netip.MustParseAddrPort("203.0.113.10:4342"), netip.MustParseAddrPort("[2001:db8:113::10]:4342")},
		StateDir: "/var/lib/eidolon",
		Sites: []Site{{
			Name:             "site-a",
			MinimumAlgorithm: auth.SHA256,
			Keys: []auth.Key{
				{ID: 1, Algorithm: auth.SHA256HKDF, Secret: []byte("an example key, 128 bits or more")},
				{ID: 2, Algorithm: auth.SHA256HKDF, Secret: []byte("the key of site-a in a file of its own")},
			},
			XTRIDs: []mapping.XTRID{{0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef, 0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef}},
			EIDPrefixes: []EIDPrefix{
				{mapping.MustParseEID("10.1.0.0/16"), false, ProxyReplyAsRegistered, RequestPolicyAllow},
				{mapping.MustParseEID("2001:db8:e1::/48"), false, ProxyReplyAsRegistered, RequestPolicyAllow},
				{mapping.MustParseEID("[7]10.7.0.0/16"), true, ProxyReplyAlways, RequestPolicyAllow},
			},
		}, {
			Name:             "site-b",
			MinimumAlgorithm: auth.SHA1,
			Keys:             []auth.Key{{ID: 0, Algorithm: auth.SHA1, Secret: []byte("another example of a key")}},
			EIDPrefixes:      []EIDPrefix{{mapping.MustParseEID("10.2.0.0/16"), false, ProxyReplyAsRegistered, RequestPolicyAllow}},
		}},
		StaticMappings: []*mapping.Record{
			{EID: mapping.MustParseEID("10.9.0.0/16"), TTL: 1440, Locators: []mapping.Locator{mapping.MakeLocator(netip.MustParseAddr("192.0.2.5"), 1, 100)}},
			{EID: mapping.MustParseEID("10.8.0.0/16"), TTL: 1440, Action: mapping.Drop},
		},
		RequestRate: RequestRate{PerSource: 10000, Burst: 20000},
		ReplyRate:   ReplyRate{Every: 3 * time.Second, Burst: 3},
		LISPSec: LISPSec{
			Policy:              auth.SecurityPreferred,
			Instances:           map[uint32]auth.SecurityPolicy{7: auth.SecurityRequired},
			Keys:                []auth.WrapKey{{ID: 1, Secret: []byte("shared with the ITRs")}},
			AcceptUnwrappedFrom: []netip.Prefix{netip.MustParsePrefix("203.0.113.64/29"), netip.MustParsePrefix("2001:db8:113::64/128")},
		},
		PubSub: PubSub{
			Subscribers: []Subscriber{{
				XTRID:    mapping.XTRID{0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef, 0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef},
				SiteID:   1,
				Key:      auth.Key{ID: 1, Algorithm: auth.SHA256HKDF, Secret: []byte("an example key for notifications")},
				ITRRLOCs: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")},
			}},
			MaxPerXTR: 16384,
			Rate:      2000,
		},
		API:  API{Socket: "/run/eidolon/mapserver.sock"},
		HTTP: HTTP{Listen: netip.MustParseAddrPort("127.0.0.1:9342")},
		Log:  exampleLog(KindMapServer),
	}
	got.Text = nil
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v, want\n%+v", got, want)
	}
}

// TestBad compares what is said about each bad file with the committed text;
// the name of the file begins with its kind.
func TestBad(t *testing.T) {
	files, err := filepath.Glob("testdata/bad/*.yml")
	if err != nil || len(files) < 20 {
		t.Fatalf("found %d bad files (%v)", len(files), err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".yml")
		t.Run(name, func(t *testing.T) {
			kind, _, _ := strings.Cut(name, "-")
			_, err := Check(file, Kind(kind))
			if _, ok := errors.AsType[Errors](err); !ok {
				t.Fatalf("got error %v (%T), want Errors", err, err)
			}
			got := strings.ReplaceAll(err.Error(), filepath.Dir(file)+"/", "") + "\n"
			golden := strings.TrimSuffix(file, ".yml") + ".out"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got\n%swant\n%s", got, want)
			}
			if strings.Contains(got, "hunter2") {
				t.Error("the text shows a key")
			}
		})
	}
}

// TestDefaults reads the shortest files that are good.
func TestDefaults(t *testing.T) {
	x, err := LoadXTR(write(t, `
map_resolvers: [192.0.2.1]
map_servers: [{address: 192.0.2.1, authentication_key: {key_id: 1, key: 0123456789abcdef}}]
locator_sets: [{name: a, locators: [{address: 192.0.2.2}]}]
database_mappings: [{eid: "[16777215]10.0.0.0/8", locator_set: a}, {eid: "[2]11.0.0.0/8", locator_set: a}]
`))
	if err != nil {
		t.Fatal(err)
	}
	if want := []Instance{{IID: 2, Device: "eidolon2", NoMapping: NoMappingDrop}, {IID: 16777215, Device: "eidolon16777215", NoMapping: NoMappingDrop}}; !reflect.DeepEqual(x.Instances, want) || x.MapCacheLimit != 100000 ||
		x.Miss != MissHold || x.Plane != (Plane{Kind: "auto", RouteTable: 4341, SourceCheck: SourceLoose}) || x.API.Socket != "/run/eidolon/xtr.sock" {
		t.Errorf("got %+v", x)
	}
	m, err := LoadMapServer(write(t, "listen: [\"::\"]\n"))
	if err != nil {
		t.Fatal(err)
	}
	if m.Listen[0] != netip.MustParseAddrPort("[::]:4342") || m.StateDir != "/var/lib/eidolon" ||
		m.RequestRate != (RequestRate{10000, 20000}) || m.API.Socket != "/run/eidolon/mapserver.sock" {
		t.Errorf("got %+v", m)
	}
}

// TestMapVersions: a mapping has the version that it is given, and none
// otherwise.
func TestMapVersions(t *testing.T) {
	x, err := LoadXTR(write(t, `
underlay: trusted
map_versioning: true
map_resolvers: [192.0.2.1]
map_servers: [{address: 192.0.2.1, authentication_key: {key_id: 1, key: 0123456789abcdef}}]
locator_sets: [{name: a, locators: [{address: 192.0.2.2}]}]
database_mappings: [{eid: 10.0.0.0/8, locator_set: a, map_version: 4095}, {eid: 11.0.0.0/8, locator_set: a}]
`))
	if err != nil {
		t.Fatal(err)
	}
	if x.Underlay != UnderlayTrusted || !x.MapVersioning || x.DatabaseMappings[0].MapVersion != 4095 || x.DatabaseMappings[1].MapVersion != 0 {
		t.Errorf("got %+v", x)
	}
}

// TestValuesAsWritten guards against numbers being read as YAML reads them.
func TestValuesAsWritten(t *testing.T) {
	x, err := LoadXTR(write(t, `
xtr_id: 00112233445566778899001122334455
map_resolvers: &r [192.0.2.1]
locator_sets: [{name: 0x10, locators: &l [{address: "2001:db8::1"}, {address: 192.0.2.1}]}, {name: 020, locators: *l}]
database_mappings: [{eid: 10.0.0.1, locator_set: 0x10}, {eid: 10.0.0.2, locator_set: 020}]
map_servers: [{address: 192.0.2.1, authentication_key: {key_id: 255, key: 0123456789012345}}]
log: {level: debug, format: json}
api: {socket: sub/x.sock}
`))
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprintf("%x", x.XTRID[:]); got != "00112233445566778899001122334455" {
		t.Errorf("xtr_id is %s", got)
	}
	if got := string(x.MapServers[0].Keys[0].Secret); got != "0123456789012345" {
		t.Errorf("key is %q", got)
	}
	for i, m := range x.DatabaseMappings {
		if m.LocatorSet != []string{"0x10", "020"}[i] || len(m.Locators) != 2 || !m.Locators[0].Addr.Is4() {
			t.Errorf("mapping %d is %+v", i, m)
		}
	}
	if x.Log.Level != slog.LevelDebug || x.Log.Format != "json" {
		t.Errorf("log is %+v", x.Log)
	}
	if !filepath.IsAbs(x.API.Socket) || !strings.HasSuffix(x.API.Socket, "/sub/x.sock") {
		t.Errorf("socket is %s", x.API.Socket)
	}
	if len(x.Warnings) != 0 {
		t.Errorf("warnings:\n%v", x.Warnings)
	}
}

func TestWarnings(t *testing.T) {
	path := write(t, `
map_resolvers: [192.0.2.1]
locator_sets: [{name: a, locators: [{address: 192.0.2.1}]}, {name: b, locators: [{address: 192.0.2.1}]}]
database_mappings: [{eid: 10.0.0.1, locator_set: a}]
map_servers:
  - {address: 192.0.2.1, authentication_key: {key_id: 1, key: hunter2}}
  - {address: 192.0.2.2, authentication_key: {key_id: 1, key_file: k}}
`)
	if err := os.WriteFile(filepath.Join(filepath.Dir(path), "k"), []byte("hunter2hunter2hunter2\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(filepath.Dir(path), "k"), 0o644); err != nil {
		t.Fatal(err)
	}
	x, err := LoadXTR(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := string(x.MapServers[1].Keys[0].Secret); got != "hunter2hunter2hunter2" {
		t.Errorf("key is %q", got)
	}
	want := path + `:3:68: locator_sets[1].name: locator-set "b" is not used by any of the database_mappings
` + path + `:6:63: map_servers[0].authentication_key.key: the key has 7 octets, at least 16 are advised
` + path + `:7:68: map_servers[1].authentication_key.key_file: k can be read by everybody (mode 0644), expected 0640 or less`
	if got := x.Warnings.Error(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	for _, text := range []string{fmt.Sprintf("%v", x), fmt.Sprintf("%+v", *x), fmt.Sprintf("%#v", x.MapServers[0].Keys[0])} {
		if strings.Contains(text, "hunter2") || strings.Contains(text, "104 117 110") {
			t.Errorf("a key shows in %s", text)
		}
	}
}

func TestDetect(t *testing.T) {
	if k, err := Detect(write(t, "log: {level: info}\n")); err == nil {
		t.Errorf("got %q for a file that could be either", k)
	}
	if k, err := Detect(write(t, "[1, 2]\n")); err == nil {
		t.Errorf("got %q for a list", k)
	}
	if _, err := Detect("../../deploy/examples/none.yml"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v for a missing file", err)
	}
}

// FuzzParse: whatever the file holds, the answer is a configuration or errors
// with places inside the file, and never a panic.
func FuzzParse(f *testing.F) {
	files, _ := filepath.Glob("testdata/bad/*.yml")
	for _, name := range append(files, "../../deploy/examples/xtr.yml", "../../deploy/examples/host.yml", "../../deploy/examples/pitr.yml", "../../deploy/examples/site-bgp.yml", "../../deploy/examples/mapserver.yml", "../../deploy/examples/alt.yml") {
		data, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, load := range []func(*reader, value) (any, error){
			func(r *reader, v value) (any, error) { return readXTR(r, v) },
			func(r *reader, v value) (any, error) { return readMapServer(r, v) },
		} {
			r, root, err := parse("f", data)
			if err == nil {
				_, err = load(r, root)
			}
			es, _ := errors.AsType[Errors](err)
			if err != nil && len(es) == 0 {
				t.Fatalf("error %v without a place", err)
			}
			// A carriage return alone ends a line too (YAML 1.2 section 5.4).
			lines := strings.Count(string(data), "\n") + strings.Count(string(data), "\r") + 1
			for _, e := range es {
				if e.Line < 1 || e.Line > lines+1 || e.Column < 1 || e.Message == "" {
					t.Fatalf("bad place of %d lines: %v", lines, e)
				}
			}
		}
	})
}

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.yml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
