package preflight

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"

	"github.com/eidolon-lisp/eidolon/internal/config"
	"github.com/eidolon-lisp/eidolon/internal/netns"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// site is a configuration that the machine of the tests has everything for.
const site = `xtr_id: 00112233445566778899aabbccddee0a
state_dir: state/xtr
locator_sets:
  - name: a
    locators:
      - {address: 192.0.2.1}
      - {address: 198.51.100.9}
      - {interface: up0}
database_mappings: [{eid: 10.1.0.0/16, locator_set: a}]
instances: [{iid: 0, device: eid0}]
map_servers: [{address: 203.0.113.10, authentication_key: {key_id: 1, key_file: keys/site.key}}]
map_resolvers: [203.0.113.10]
bgp:
  as: 64512
  router_id: 192.0.2.1
  listen: [192.0.2.1]
  port: 1179
  neighbours: [{address: 192.0.2.2, as: 64513, local_address: 192.0.2.1}]
plane: {kind: bpf}
api: {socket: run/xtr.sock}
http: {listen: 127.0.0.1:9341}
`

// machine is a namespace with an interface up0, and a directory with a
// configuration and what that names.
type machine struct {
	ns   *netns.NS
	file string
}

func newMachine(t *testing.T, text string) *machine {
	t.Helper()
	list := netns.Fresh(t, 2)
	if err := errors.Join(
		netns.Veth(list[0], "up0", list[1], "isp", 1500), list[0].Up("lo"), list[0].Up("up0"), list[1].Up("isp"),
		list[0].AddAddress("up0", netip.MustParsePrefix("192.0.2.1/24"))); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	m := &machine{list[0], filepath.Join(dir, "xtr.yml")}
	m.write(t, "xtr.yml", text)
	if err := os.Mkdir(filepath.Join(dir, "keys"), 0o700); err != nil {
		t.Fatal(err)
	}
	m.write(t, "keys/site.key", "a key of more than sixteen octets")
	return m
}

func (m *machine) path(name string) string { return filepath.Join(filepath.Dir(m.file), name) }

func (m *machine) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(m.path(name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// check returns what is found, one a line, without the name of the file.
func (m *machine) check(t *testing.T, planes Planes) (warnings, errs string) {
	t.Helper()
	var w, e error
	if err := m.ns.Do(func() error { w, e = Check(m.file, config.KindXTR, planes); return nil }); err != nil {
		t.Fatal(err)
	}
	text := func(err error) string {
		if err == nil {
			return ""
		}
		return strings.ReplaceAll(strings.ReplaceAll(err.Error(), m.file+":", ""), filepath.Dir(m.file), "DIR")
	}
	return text(w), text(e)
}

func works(string) (error, error) { return nil, nil }

func TestAllIsThere(t *testing.T) {
	m := newMachine(t, site)
	if w, e := m.check(t, works); w != "" || e != "" {
		t.Errorf("warnings:\n%s\nerrors:\n%s", w, e)
	}
	for _, name := range []string{"state", "run"} {
		if _, err := os.Stat(m.path(name)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s was made: %v", name, err)
		}
	}
}

// TestAllIsFoundAtOnce: whatever is wrong with the file or the machine is told by
// one check, in the order of the file.
func TestAllIsFoundAtOnce(t *testing.T) {
	m := newMachine(t, strings.NewReplacer("[{iid: 0, device: eid0}]", "[{iid: 0, device: isp1}]", "map_resolvers: [203.0.113.10]", "map_resolvers: [203.0.113]",
		"listen: [192.0.2.1]", "listen: [192.0.2.7]", "local_address: 192.0.2.1", "local_address: 192.0.2.8", "interface: up0", "interface: up9").Replace(site))
	m.write(t, "state", "no directory")
	m.write(t, "run", "no directory")
	var held []interface{ Close() error }
	defer func() {
		for _, c := range held {
			c.Close()
		}
	}()
	if err := m.ns.Do(func() error {
		if err := netns.Veth(m.ns, "isp1", m.ns, "isp2", 1500); err != nil {
			return err
		}
		u, err := net.ListenPacket("udp4", "0.0.0.0:4342") // as a map-server does
		if err != nil {
			return err
		}
		l, err := net.Listen("tcp4", "127.0.0.1:9341")
		held = append(held, u, l)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chmod(m.path("keys/site.key"), 0o666), os.Chmod(m.path("keys"), 0o777)); err != nil {
		t.Fatal(err)
	}
	w, e := m.check(t, func(kind string) (error, error) {
		return fmt.Errorf("no %s here", kind), errors.New("no TUN devices here")
	})
	if w != "19:15: plane.kind: no bpf here" {
		t.Errorf("warnings:\n%s", w)
	}
	want := `2:12: state_dir: DIR/state is no directory
6:19: locator_sets[0].locators[0].address: UDP port 4342 of 192.0.2.1 is taken by another process
8:21: locator_sets[0].locators[2].interface: there is no interface up9
10:30: instances[0].device: there is an interface isp1 already, expected a name that is free
11:81: map_servers[0].authentication_key.key_file: DIR/keys/site.key can be changed by others (mode 0666), expected 0640 or less
11:81: map_servers[0].authentication_key.key_file: DIR/keys/site.key is in a directory where everybody can replace it (mode 0777)
12:17: map_resolvers[0]: found "203.0.113", expected an IP address with or without a port, such as 203.0.113.10 or "[2001:db8::10]:4342"
16:12: bgp.listen[0]: no interface has the address 192.0.2.7
18:63: bgp.neighbours[0].local_address: no interface has the address 192.0.2.8
19:15: plane.kind: no TUN devices here
20:15: api.socket: DIR/run is no directory
21:16: http.listen: TCP port 9341 of 127.0.0.1 is taken by another process`
	if e != want {
		t.Errorf("errors:\n%s\nwant\n%s", e, want)
	}
}

// TestNoRLOC: locators of which the machine has none.
func TestNoRLOC(t *testing.T) {
	m := newMachine(t, strings.NewReplacer("      - {address: 192.0.2.1}\n", "", "      - {interface: up0}\n", "").Replace(site))
	if _, e := m.check(t, works); e != "6:19: locator_sets[0].locators[0].address: no interface of this machine has the address of a locator, so the xtr would have no RLOC" {
		t.Errorf("errors:\n%s", e)
	}
}

// TestInterfaces: one that is down, and one without an address.
func TestInterfaces(t *testing.T) {
	m := newMachine(t, strings.Replace(site, "      - {interface: up0}\n", "      - {interface: lo}\n      - {interface: bare}\n      - {interface: off}\n", 1))
	if err := m.ns.Do(func() error {
		if err := netns.Veth(m.ns, "bare", m.ns, "off", 1500); err != nil {
			return err
		}
		off, err := netlink.LinkByName("off")
		if err != nil {
			return err
		}
		return netlink.LinkSetDown(off)
	}); err != nil {
		t.Fatal(err)
	}
	w, e := m.check(t, works)
	if want := `9:21: locator_sets[0].locators[3].interface: the interface bare has no address yet that could be a locator
10:21: locator_sets[0].locators[4].interface: the interface off is down`; w != want || e != "" {
		t.Errorf("warnings:\n%s\nwant\n%s\nerrors:\n%s", w, want, e)
	}
}

// TestRunning: what the daemon itself has taken is not held against it.
func TestRunning(t *testing.T) {
	m := newMachine(t, site)
	if err := os.Mkdir(m.path("run"), 0o700); err != nil {
		t.Fatal(err)
	}
	api, err := net.Listen("unix", m.path("run/xtr.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer api.Close()
	var u net.PacketConn
	if err := m.ns.Do(func() (err error) { u, err = net.ListenPacket("udp4", "192.0.2.1:4341"); return err }); err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	w, e := m.check(t, works)
	if want := "20:15: api.socket: a daemon answers at DIR/run/xtr.sock: ports and devices that it has are not looked at"; e != "" || w != want {
		t.Errorf("warnings:\n%s\nwant\n%s\nerrors:\n%s", w, want, e)
	}
}

// TestUnreadable: a file that is not there, or no YAML, is told once.
func TestUnreadable(t *testing.T) {
	if _, err := Check("testdata/none.yml", config.KindMapServer, nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	m := newMachine(t, "a: [")
	if _, e := m.check(t, works); strings.Count(e, "\n") != 0 || !strings.Contains(e, "not valid YAML") {
		t.Errorf("errors:\n%s", e)
	}
}

// TestMapServer: its addresses, and those of its tunnels.
func TestMapServer(t *testing.T) {
	m := newMachine(t, `listen: [192.0.2.1, "[::]:4342", 192.0.2.9]
state_dir: .
alt:
  as: 64512
  router_id: 192.0.2.1
  tunnels:
    - {name: gre1, local: 192.0.2.9, remote: 192.0.2.2, addresses: [172.16.0.1/30], neighbours: [{address: 172.16.0.2, as: 64513}]}
    - {name: wg0, kind: existing, addresses: [172.16.1.1/30], neighbours: [{address: 172.16.1.2, as: 64513}]}
api: {socket: x.sock}
`)
	var err error
	if e := m.ns.Do(func() error { _, err = Check(m.file, config.KindMapServer, nil); return nil }); e != nil {
		t.Fatal(e)
	}
	want := `1:34: listen[2]: no interface has the address 192.0.2.9
7:27: alt.tunnels[0].local: no interface has the address 192.0.2.9
8:14: alt.tunnels[1].name: there is no interface wg0
8:47: alt.tunnels[1].addresses[0]: no interface has the address 172.16.1.1`
	if got := strings.ReplaceAll(fmt.Sprint(err), m.file+":", ""); got != want {
		t.Errorf("errors:\n%s\nwant\n%s", got, want)
	}
}
