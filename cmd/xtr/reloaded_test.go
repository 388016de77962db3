package main

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/internal/netns"
)

// The command reload succeeds when the daemon uses the file, and fails with the
// reason when a part of it does not, which check can't know.
func TestReloadCommand(t *testing.T) {
	netns.NeedTUN(t)
	ns := netns.Fresh(t, 1)[0]
	if err := ns.AddAddress("lo", netip.MustParsePrefix("192.0.2.1/32")); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "xtr.yml")
	write := func(eid, audit string) {
		t.Helper()
		if err := os.WriteFile(path, fmt.Appendf(nil, `
database_mappings: [{eid: %s, locator_set: a}]
locator_sets: [{name: a, locators: [{address: 192.0.2.1, priority: 1, weight: 100}]}]
map_servers: [{address: 192.0.2.1, authentication_key: {key_id: 1, key: an example key of enough octets}}]
map_resolvers: [192.0.2.1]
api: {socket: s, audit_file: %s}
log: {level: error}
`, eid, audit), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	command := func(name string) (string, error) {
		out, err := program(name, "--config", path).CombinedOutput()
		return string(out), err
	}
	write("10.1.0.0/16", "audit")
	startDaemon(t, ns, path)
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		out, err := command("reload")
		if err == nil && strings.Contains(out, path+" is in use") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%v, %s", err, out)
		}
	}
	write("10.2.0.0/16", "xtr.yml/audit")
	if out, err := command("check"); err != nil {
		t.Errorf("check knows it, so this shows nothing: %v, %s", err, out)
	}
	if out, err := command("reload"); err == nil || !strings.Contains(out, "the running one stays") || !strings.Contains(out, "not a directory") {
		t.Errorf("a file that is refused: %v, %s", err, out)
	}
	write("10.2.0.0/16", "audit")
	if out, err := command("reload"); err != nil {
		t.Errorf("%v, %s", err, out)
	}
}
