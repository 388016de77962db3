package eidolon

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"strings"
	"testing"
)

const module = "github.com/eidolon-lisp/eidolon"

// A rule says what a room may import, or who may import something. Paths are
// relative to the module; a trailing /... takes the rooms below too. Standard
// library packages are always allowed.
type rule struct {
	room  string
	only  []string // all it may import, its own sub-rooms included
	never []string // what it must not import
	why   string
}

var rules = []rule{
	{room: "encap", only: []string{}, why: "headers and hashes are shared with the kernel plane and must stand alone"},
	{room: "encap/layers", only: []string{"encap", "mapping", "mapping/wire", "github.com/google/gopacket/..."}, why: "decoding for captures; gopacket is never on the packet path"},
	{room: "mapping", only: []string{"github.com/gaissmai/bart"}, why: "the model knows no wire format, socket or database"},
	{room: "mapping/wire", only: []string{"mapping"}, why: "formats only: no keys, no roles, no sockets"},
	{room: "mapping/auth", only: []string{"mapping", "mapping/wire"}, why: "computations over messages, used by both sides"},
	{room: "mapping/server", only: []string{"mapping", "mapping/wire", "mapping/auth", "mapping/alt", "internal/udp", "internal/fanout", "golang.org/x/time/rate"}, why: "the map-server knows neither the xTR nor a data plane nor protobuf"},
	{room: "mapping/xtr", only: []string{"mapping", "mapping/wire", "mapping/auth", "internal/udp", "internal/fanout", "golang.org/x/time/rate"}, why: "the site side knows neither the map-server nor a data plane nor protobuf"},
	{room: "mapping/bgp", only: []string{}, why: "what is said and heard of BGP needs no library, so that who only shows it does not link one"},
	{room: "mapping/bgp/plain", only: []string{"github.com/osrg/gobgp/v3/...", "google.golang.org/protobuf/..."}, why: "a neighbour shows something only if nothing of Eidolon is in it"},
	{room: "mapping/alt", only: []string{"mapping", "mapping/bgp", "mapping/wire", "golang.org/x/time/rate"}, why: "where a Map-Request goes by the ALT is decided without BGP's library, tunnels or sockets"},
	{room: "internal/tunnel", only: []string{"github.com/vishvananda/netlink", "github.com/vishvananda/netlink/nl", "golang.org/x/sys/...", "golang.org/x/net/..."}, why: "a tunnel knows no message"},
	{room: "mapping/boltstore", only: []string{"mapping", "mapping/wire", "go.etcd.io/bbolt", "go.etcd.io/bbolt/errors"}, why: "a store is its driver and the record's bytes"},
	{room: "mapping/storetest", only: []string{"mapping", "mapping/wire"}, why: "the conformance suite knows no implementation"},
	{room: "dataplane", only: []string{"mapping", "encap", "github.com/gaissmai/bart"}, never: []string{"mapping/wire", "mapping/auth"}, why: "planes forward packets; control messages are another room's"},
	{room: "dataplane/...", never: []string{"mapping/wire", "mapping/auth", "mapping/server", "mapping/xtr", "api"}, why: "planes forward packets; control messages are another room's"},
	{room: "api", never: []string{"dataplane/tun", "dataplane/bpf", "lab/...", "benchmarks/..."}, why: "the API sees planes only through dataplane"},
	{room: "api/web", only: []string{}, why: "the page knows HTTP and bounds, and nothing of what its rows say"},
	{room: "internal/udp", only: []string{"golang.org/x/net/...", "golang.org/x/sys/..."}, why: "a socket knows no message"},
	{room: "internal/fanout", only: []string{}, why: "a queue knows nothing of what it carries"},
	{room: "internal/preflight", only: []string{"internal/config", "golang.org/x/sys/unix"}, why: "a check looks at the machine, and starts nothing of the daemons"},
	{room: "internal/config", only: []string{"mapping", "mapping/bgp", "mapping/auth", "mapping/wire", "github.com/goccy/go-yaml/..."}, why: "configuration types stop at the edge"},
}

// importers restricts who may import a package at all.
var importers = []struct {
	pkg  string
	only []string
	why  string
}{
	{"github.com/osrg/gobgp/v3/...", []string{"mapping/bgp/...", "benchmarks/..."}, "one room to move when gobgp changes"},
	{"mapping/bgp", []string{"mapping/bgp/...", "mapping/alt", "internal/config", "api", "cmd/xtr", "cmd/mapserver", "benchmarks/..."}, "BGP is for the edges"},
	{"mapping/bgp/plain", []string{"mapping/bgp/bgptest", "lab/internal/applet"}, "a plain router is for tests and the lab"},
	{"mapping/bgp/bgptest", []string{}, "it is for tests"},
	{"mapping/bgp/speaker", []string{"cmd/xtr", "cmd/mapserver", "benchmarks/..."}, "who links the speaker links all of GoBGP"},
	{"github.com/google/gopacket/...", []string{"encap/layers", "lab/...", "benchmarks/..."}, "gopacket is for captures and tests"},
	{"github.com/grpc-ecosystem/...", []string{"api", "api/proto/rest/..."}, "REST is another form of the API, and nothing that others build upon"},
	{"github.com/prometheus/...", []string{"api"}, "metrics are observed, not sprinkled"},
	{"github.com/cilium/ebpf/...", []string{"dataplane/bpf", "benchmarks/..."}, "one room knows the kernel's programs and maps"},
	{"api/proto/...", []string{"api/...", "cmd/lispctl", "docs/examples/...", "lab/...", "benchmarks/..."}, "protobuf stops at the edge"},
	{"go.opentelemetry.io/...", []string{"internal/tracing"}, "traces are made of what the rooms tell, and one room knows how"},
	{"lab/...", []string{"lab/..."}, "nothing depends on the lab"},
	{"benchmarks/...", []string{"benchmarks/..."}, "nothing depends on the benchmarks"},
	{"mapping/server", []string{"api", "cmd/mapserver", "benchmarks/..."}, "the two sides of the protocol meet only on the wire"},
	{"mapping/xtr/...", []string{"api", "cmd/xtr", "internal/tracing", "cmd/lispctl", "mapping/xtr/...", "benchmarks/..."}, "the two sides of the protocol meet only on the wire"},
}

type pkg struct {
	ImportPath string
	Imports    []string
}

// TestImports holds the rules of ARCHITECTURE.md over the non-test imports of
// every package.
func TestImports(t *testing.T) {
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports", "./...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	seen := map[string]bool{}
	for dec := json.NewDecoder(bytes.NewReader(out)); dec.More(); {
		var p pkg
		if err := dec.Decode(&p); err != nil {
			t.Fatal(err)
		}
		room := strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
		for _, imp := range p.Imports {
			check(t, room, strings.TrimPrefix(imp, module+"/"))
		}
		seen[room] = true
	}
	for _, r := range rules {
		if !strings.HasSuffix(r.room, "/...") && !seen[r.room] {
			t.Errorf("the rule for %s guards nothing: there is no such package", r.room)
		}
	}
}

func check(t *testing.T, room, imp string) {
	if std(imp) {
		return
	}
	for _, r := range rules {
		if !match(r.room, room) {
			continue
		}
		if r.only != nil && !matchAny(r.only, imp) || matchAny(r.never, imp) {
			t.Errorf("%s must not import %s: %s", room, imp, r.why)
		}
	}
	for _, x := range importers {
		if match(x.pkg, imp) && !matchAny(x.only, room) {
			t.Errorf("%s must not import %s: %s", room, imp, x.why)
		}
	}
}

// std reports whether an import path is of the standard library: no dot in its
// first element and not a room of ours.
func std(imp string) bool {
	first, _, _ := strings.Cut(imp, "/")
	switch first {
	case "api", "benchmarks", "cmd", "dataplane", "encap", "internal", "lab", "mapping":
		return false
	}
	return !strings.Contains(first, ".")
}

func match(pattern, path string) bool {
	if base, ok := strings.CutSuffix(pattern, "/..."); ok {
		return path == base || strings.HasPrefix(path, base+"/")
	}
	return pattern == path
}

func matchAny(patterns []string, path string) bool {
	for _, p := range patterns {
		if match(p, path) {
			return true
		}
	}
	return false
}

// A rule that can't fail guards nothing: each kind refuses what it should.
func TestImportRulesBite(t *testing.T) {
	for _, x := range []struct{ room, imp string }{
		{"encap", "mapping"},
		{"mapping/server", "mapping/xtr"},
		{"mapping/xtr", "dataplane"},
		{"dataplane/tun", "mapping/wire"},
		{"mapping/server", "github.com/osrg/gobgp/v3/pkg/server"},
		{"dataplane", "github.com/prometheus/client_golang/prometheus"},
		{"cmd/xtr", "lab"},
		{"cmd/xtr", "mapping/bgp/plain"},
		{"mapping/bgp/plain", "mapping/bgp"},
		{"lab/internal/applet", "mapping/bgp/speaker"},
	} {
		probe := &testing.T{}
		check(probe, x.room, x.imp)
		if !probe.Failed() {
			t.Errorf("%s may import %s", x.room, x.imp)
		}
	}
}
