package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/goccy/go-yaml"
	"go.uber.org/goleak"

	"github.com/eidolon-lisp/eidolon/internal/config"
	"github.com/eidolon-lisp/eidolon/internal/netns"
	"github.com/eidolon-lisp/eidolon/lab/internal/clab"
	"github.com/eidolon-lisp/eidolon/lab/internal/runner"
	"github.com/eidolon-lisp/eidolon/lab/internal/scenario"
)

// The test program plays the lab's processes itself where it does not build the
// program.
func TestMain(m *testing.M) {
	if status, internal := runner.Internal(os.Args); internal {
		os.Exit(status)
	}
	goleak.VerifyTestMain(m)
}

// Every topology is one that the runner plays, and what its nodes run is
// configured by files without faults.
func TestTopologies(t *testing.T) {
	files, err := filepath.Glob("*.clab.yml")
	if err != nil || len(files) == 0 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, f := range files {
		top, err := clab.Load(f)
		if err != nil {
			t.Error(err)
			continue
		}
		for _, n := range top.Nodes {
			for _, b := range n.Binds {
				var kind config.Kind
				switch b.Target {
				case "/etc/eidolon/xtr.yml":
					kind = config.KindXTR
				case "/etc/eidolon/mapserver.yml":
					kind = config.KindMapServer
				default:
					continue
				}
				warnings, err := config.Check(b.Source, kind)
				if warnings != nil || err != nil {
					t.Errorf("node %s: %v %v", n.Name, warnings, err)
				}
			}
		}
	}
}

// Every topology is one that containerlab deploys without privileges, with the one
// image that the project builds, and that says whether its daemons are ready.
func TestContainers(t *testing.T) {
	files, err := filepath.Glob("*.clab.yml")
	if err != nil || len(files) == 0 {
		t.Fatalf("%v, %v", files, err)
	}
	type node struct {
		Image, Cmd  string
		Privileged  *bool
		NetworkMode string         `yaml:"network-mode"`
		CapAdd      []string       `yaml:"cap-add"`
		Healthcheck map[string]any `yaml:"healthcheck"`
		Devices     []string
	}
	for _, f := range files {
		content, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		var top struct {
			Topology struct {
				Defaults node
				Nodes    map[string]node
			}
		}
		if err := yaml.Unmarshal(content, &top); err != nil {
			t.Fatal(err)
		}
		d := top.Topology.Defaults
		if d.Privileged == nil || *d.Privileged || d.NetworkMode != "none" || d.Image != "eidolon/lab:latest" || !slices.Equal(d.CapAdd, []string{"NET_ADMIN", "NET_RAW"}) {
			t.Errorf("%s: defaults %+v", f, d)
		}
		for name, n := range top.Topology.Nodes {
			daemon, _, _ := strings.Cut(n.Cmd, " ")
			asked := map[string]string{"xtr": "[CMD lispctl health --ready]", "mapserver": "[CMD lispctl health --ready]", "bgprouter": "[CMD bgprouter neighbours]"}[daemon]
			if asked != "" && fmt.Sprint(n.Healthcheck["test"]) != asked {
				t.Errorf("%s: node %s runs %s, and its healthcheck is %v", f, name, daemon, n.Healthcheck)
			}
			if n.Image != "" || n.Privileged != nil || n.CapAdd != nil || daemon == "xtr" != slices.Contains(n.Devices, "/dev/net/tun") {
				t.Errorf("%s: node %s: %+v", f, name, n)
			}
		}
	}
}

// Every script is one that can be played.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("*" + scenario.Ending)
	if err != nil || len(files) == 0 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, f := range files {
		if _, err := scenario.Load(f); err != nil {
			t.Error(err)
		}
	}
}

// Every script is played, by the program itself as it is built for users. They
// mostly wait, and are played at once. Four times the time is allowed: other
// tests run beside these.
func TestScenarios(t *testing.T) {
	netns.NeedTUN(t)
	if testing.Short() {
		t.Skip("it takes a while")
	}
	program := filepath.Join(t.TempDir(), "lab")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, ".")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	files, err := filepath.Glob("*" + scenario.Ending)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(f, scenario.Ending), func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(t.Context(), program, "scenario", "--slack", "4", f)
			cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			if testing.Verbose() {
				t.Logf("%s", out)
			}
		})
	}
}

func command(t *testing.T, args ...string) (string, error) {
	t.Helper()
	t.Setenv("XDG_RUNTIME_DIR", "")
	t.Setenv("TMPDIR", t.TempDir())
	var out bytes.Buffer
	c := newCommand()
	c.SetArgs(args)
	c.SetOut(&out)
	err := c.ExecuteContext(context.Background())
	return out.String(), err
}

func TestCommands(t *testing.T) {
	for _, c := range []struct {
		args      string
		out, fail string
	}{
		{"graph quickstart.clab.yml", "[host-a]eth1--eth1[xtr-a]eth2--eth1[core]", ""},
		{"graph", "quickstart: 6 nodes, 5 links", ""},
		{"graph -o svg quickstart.clab.yml", "<svg", ""},
		{"graph -o png quickstart.clab.yml", "", `format "png" is not known`},
		{"up no-such.clab.yml", "", "no such file"},
		{"scenario no-such", "", "no-such.scenario: no such file"},
		{"scenario --slack 0 multihoming", "", "--slack wants"},
		{"down", "nothing to take down", ""},
		{"down quickstart.clab.yml", "nothing to take down", ""},
		{"down other", "nothing to take down", ""},
		{"ps", "no lab is up", ""},
		{"exec host-a true", "", "no lab is up"},
		{"exec --name other host-a true", "", "lab other: the lab is not up"},
		{"exec host-a", "", "requires at least 2 arg"},
		{"logs host-a", "", "no lab is up"},
	} {
		out, err := command(t, strings.Fields(c.args)...)
		if c.fail == "" && err != nil || c.fail != "" && (err == nil || !strings.Contains(err.Error(), c.fail)) {
			t.Errorf("lab %s: error %v, want %q", c.args, err, c.fail)
		}
		if !strings.Contains(out, c.out) {
			t.Errorf("lab %s: no %q in\n%s", c.args, c.out, out)
		}
	}
}
