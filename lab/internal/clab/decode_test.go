package clab

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func decode(t *testing.T, src string) (*Topology, error) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a.yml"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	top, err := Decode(filepath.Join(dir, "t.clab.yml"), []byte(src))
	if err != nil {
		var es Errors
		if !errors.As(err, &es) {
			t.Fatalf("not of type Errors: %v", err)
		}
		for i := range es {
			es[i].File = "t.clab.yml"
		}
		err = es
	}
	return top, err
}

func TestInheritance(t *testing.T) {
	top, err := decode(t, `
name: small
topology:
  defaults:
    kind: linux
    network-mode: none
    image: base:1
    env: {A: 1, B: default}
    exec: [ip link set lo up]
    cmd: sleep infinity
  kinds:
    linux:
      sysctls: {net.ipv4.ip_forward: 1}
      env: {B: kind, C: "yes"}
      exec:
        - sysctl -w net.ipv4.conf.all.rp_filter=0
      binds: ["a.yml:/etc/a.yml"]
      devices: [/dev/net/tun]
  nodes:
    r:
      privileged: false
      cap-add: [NET_ADMIN]
      cmd: xtr run --config "/etc/my file.yml"
      binds: ["a.yml:/etc/a.yml:ro", "/tmp:/x"]
      exec: ["ip addr add 192.0.2.1/30 dev eth1", "ip -6 addr add 2001:db8::1/64 dev eth1 nodad"]
      sysctls: {net.ipv6.conf.all.forwarding: true}
    h:
  links:
    - endpoints: ["r:eth1", "h:eth1"]
      mtu: 1500
    - endpoints: ["r:eth2", "h:eth2"]
`)
	if err != nil {
		t.Fatal(err)
	}
	r, h := top.Node("r"), top.Node("h")
	if top.Name != "small" || r == nil || h == nil || top.Node("x") != nil {
		t.Fatalf("%+v", top)
	}
	if want := []string{"xtr", "run", "--config", "/etc/my file.yml"}; !reflect.DeepEqual(r.Command, want) {
		t.Errorf("command %q", r.Command)
	}
	if want := []string{"sleep", "infinity"}; !reflect.DeepEqual(h.Command, want) {
		t.Errorf("command of h %q", h.Command)
	}
	if want := map[string]string{"A": "1", "B": "kind", "C": "yes"}; !reflect.DeepEqual(r.Env, want) {
		t.Errorf("env %v", r.Env)
	}
	if want := map[string]string{"net.ipv4.ip_forward": "1", "net.ipv6.conf.all.forwarding": "true"}; !reflect.DeepEqual(r.Sysctls, want) {
		t.Errorf("sysctls %v", r.Sysctls)
	}
	var lines []string
	for _, l := range r.Exec {
		lines = append(lines, l.Text)
	}
	if want := []string{"ip link set lo up", "sysctl -w net.ipv4.conf.all.rp_filter=0",
		"ip addr add 192.0.2.1/30 dev eth1", "ip -6 addr add 2001:db8::1/64 dev eth1 nodad"}; !reflect.DeepEqual(lines, want) {
		t.Errorf("exec %q", lines)
	}
	if len(r.Binds) != 2 || !r.Binds[0].ReadOnly || r.Binds[0].Target != "/etc/a.yml" || !filepath.IsAbs(r.Binds[0].Source) || r.Binds[1].ReadOnly {
		t.Errorf("binds %+v", r.Binds)
	}
	if !top.NeedsDevice("/dev/net/tun") || top.NeedsDevice("/dev/kvm") || !top.Runs("xtr") || top.Runs("mapserver") {
		t.Error("NeedsDevice, Runs")
	}
	want := []Link{
		{A: Endpoint{"r", "eth1"}, B: Endpoint{"h", "eth1"}, MTU: 1500},
		{A: Endpoint{"r", "eth2"}, B: Endpoint{"h", "eth2"}, MTU: DefaultMTU},
	}
	if !reflect.DeepEqual(top.Links, want) {
		t.Errorf("links %v", top.Links)
	}
	var addrs []string
	for _, a := range r.Addresses() {
		addrs = append(addrs, a.Interface+" "+a.Prefix.String())
	}
	if got := strings.Join(addrs, ","); got != "eth1 192.0.2.1/30,eth1 2001:db8::1/64" {
		t.Errorf("addresses %s", got)
	}
}

// Every fault is reported at once, each at its place.
func TestErrorsHavePlaces(t *testing.T) {
	cases := []struct {
		name, src string
		want      []string
	}{
		{"unknown keys with a near one", "name: x\ntopology:\n  nodes:\n    a:\n      kind: linux\n      bind: []\n  linkz: []\n",
			[]string{`6:7: unknown key "bind" in node a; did you mean "binds"?`, `7:3: unknown key "linkz" in topology; did you mean "links"?`}},
		{"known to containerlab", "name: x\nmgmt: {}\ntopology:\n  nodes:\n    a:\n      kind: linux\n      ports: [80:80]\n",
			[]string{`2:1: containerlab knows the key "mgmt", but this runner does not play it`, `7:7: containerlab knows the key "ports", but this runner does not play it: the runner has no management network`}},
		{"kinds", "name: x\ntopology:\n  nodes:\n    a: {kind: srl}\n    b: {}\n",
			[]string{`4:15: node a is of kind "srl"; this runner plays kind linux only`, `5:5: node b has no kind`}},
		{"links", "name: x\ntopology:\n  defaults: {kind: linux}\n  nodes:\n    a:\n    b:\n  links:\n    - endpoints: [\"a:eth1\", \"c:eth1\"]\n    - endpoints: [\"a:eth1\"]\n    - endpoints: [\"a:eth1\", \"host:x\"]\n    - endpoints: [\"a:anamethatistoolong\", \"b\"]\n    - mtu: 12\n",
			[]string{`8:29: endpoint "c:eth1": there is no node "c"; nodes are [a b]`, `9:`, `expected two`, `10:19: endpoint "a:eth1" is in two links`, `10:29: endpoint "host:x": this runner does not play containerlab's links to host`, `11:19: endpoint "a:anamethatistoolong": an interface name`, `11:43: endpoint "b": expected "node:interface"`, `12:12: mtu is a number`, `a link needs endpoints`}},
		{"types", "name: [1]\ntopology:\n  nodes:\n    a: 7\n    b: {kind: linux, exec: ip link, env: [1]}\n",
			[]string{`1:7: expected a text or a number, found a list`, `4:8: node a: expected a mapping (key: value), found a single value`, `5:28: exec: expected a list, found a single value`, `5:42: env: expected a mapping`}},
		{"command lines", "name: x\ntopology:\n  nodes:\n    a:\n      kind: linux\n      exec:\n        - sh -c 'open\n        - \"\"\n        - echo ${HOME}\n",
			[]string{`7:11: a quote is not closed: '`, `8:11: an empty command line`, `9:11: ${...} is not replaced`}},
		{"binds", "name: x\ntopology:\n  nodes:\n    a:\n      kind: linux\n      binds: [\"nowhere:/x\", \"a.yml\", \"a.yml:/x:exec\", \"a.yml:rel\"]\n      devices: [tun]\n      network-mode: bridge\n",
			[]string{`6:15: bind "nowhere:/x"`, `no such file`, `6:29: bind "a.yml": expected SOURCE:/TARGET`, `option "exec" is not played`, `bind "a.yml:rel": expected`, `7:17: device "tun"`, `8:21: network-mode "bridge" is not played`}},
		{"names", "name: ../x\ntopology:\n  nodes:\n    a/b: {kind: linux}\n", []string{`1:7: name "../x"`, `4:5: node name "a/b"`}},
		{"nothing", "", []string{"the file is empty"}},
		{"no topology", "name: x\n", []string{"topology is missing"}},
		{"no name", "topology:\n  nodes:\n    a: {kind: linux}\n", []string{"name is missing"}},
		{"no nodes", "name: x\ntopology:\n  links: []\n", []string{"topology has no nodes"}},
		{"twice", "name: x\nname: y\ntopology: {}\n", []string{"2:1: ", "already defined"}},
		{"not YAML", "name: x\ntopology: [\n", []string{"t.clab.yml:2:"}},
		{"two documents", "name: x\n---\nname: y\n", []string{"one YAML document"}},
		{"merge key", "name: x\ntopology:\n  defaults: &d {kind: linux}\n  nodes:\n    a: {<<: *d}\n", []string{"merge keys (<<) are not read"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := decode(t, c.src)
			if err == nil {
				t.Fatal("accepted")
			}
			got := err.Error()
			for _, w := range c.want {
				if !strings.Contains(got, w) {
					t.Errorf("missing %q in:\n%s", w, got)
				}
			}
		})
	}
}

func TestAliases(t *testing.T) {
	top, err := decode(t, "name: x\ntopology:\n  kinds:\n    linux: {exec: &e [ip link set lo up]}\n  nodes:\n    a: {kind: linux, exec: *e}\n")
	if err != nil {
		t.Fatal(err)
	}
	if n := len(top.Node("a").Exec); n != 2 {
		t.Fatalf("%d exec lines", n)
	}
	if _, err := decode(t, "name: x\ntopology:\n  nodes: {a: {kind: linux, exec: *nowhere}}\n"); err == nil || !strings.Contains(err.Error(), "nowhere") {
		t.Fatalf("alias without anchor: %v", err)
	}
}

func TestWords(t *testing.T) {
	for _, c := range []struct {
		in   string
		want []string
	}{
		{"ip  addr\tadd x", []string{"ip", "addr", "add", "x"}},
		{`sh -c 'a && b "c"'`, []string{"sh", "-c", `a && b "c"`}},
		{`a "b \" \n $x" c\ d`, []string{"a", `b " \n $x`, "c d"}},
		{`a '' ""`, []string{"a", "", ""}},
		{"a # rest\nb", []string{"a", "b"}},
		{"a#b", []string{"a#b"}},
		{"  ", nil},
	} {
		got, err := Words(c.in)
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("Words(%q) = %q, %v; want %q", c.in, got, err, c.want)
		}
	}
	for _, in := range []string{`"open`, `'open`, `end\`} {
		if w, err := Words(in); err == nil {
			t.Errorf("Words(%q) = %q, want an error", in, w)
		}
	}
}

// FuzzDecode wants either a topology whose every reference holds, or errors
// with places inside the file.
func FuzzDecode(f *testing.F) {
	f.Add("name: x\ntopology:\n  defaults: {kind: linux}\n  nodes:\n    a:\n    b: {exec: [ip addr add 192.0.2.1/30 dev eth1]}\n  links:\n    - endpoints: [\"a:eth1\", \"b:eth1\"]\n")
	f.Add("name: x\ntopology:\n  nodes:\n    a: &a {kind: *a}\n")
	f.Add("a: !!str &x [*x]\n? b\n: c\n")
	f.Fuzz(func(t *testing.T, src string) {
		top, err := Decode("t.clab.yml", []byte(src))
		if err != nil {
			var es Errors
			if !errors.As(err, &es) || len(es) == 0 {
				t.Fatalf("%T %v", err, err)
			}
			return
		}
		if !validName(top.Name) || len(top.Nodes) == 0 {
			t.Fatalf("accepted %+v", top)
		}
		for _, l := range top.Links {
			if top.Node(l.A.Node) == nil || top.Node(l.B.Node) == nil || l.A == l.B {
				t.Fatalf("accepted link %v", l)
			}
		}
	})
}
