package runner

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/eidolon-lisp/eidolon/internal/netns"
	"github.com/eidolon-lisp/eidolon/lab/internal/clab"
)

// The test program plays the keeper, the nodes and the applets itself.
func TestMain(m *testing.M) {
	if status, internal := Internal(os.Args); internal {
		os.Exit(status)
	}
	goleak.VerifyTestMain(m)
}

const routed = `
name: routed
topology:
  defaults: {kind: linux, env: {GORACE: atexit_sleep_ms=0}}
  nodes:
    a:
      binds: ["a.conf:/etc/a.conf:ro", "shared:/var/shared"]
      env: {COLOUR: blue}
      exec:
        - ip addr add 192.0.2.1/30 dev eth1
        - ip -6 addr add 2001:db8:1::1/64 dev eth1 nodad
        - ip route add default via 192.0.2.2
        - ip -6 route add default via 2001:db8:1::2
        - sh -c 'echo "$COLOUR sky" > /tmp/said'
    r:
      cmd: sh -c 'echo hello from $(hostname); trap "echo bye; exit 7" TERM; while :; do sleep 0.05; done'
      sysctls: {net.ipv4.ip_forward: 1, net.ipv6.conf.all.forwarding: 1}
      exec:
        - ip addr add 192.0.2.2/30 dev eth1
        - ip addr add 198.51.100.2/30 dev eth2
        - ip addr add 2001:db8:1::2/64 dev eth1 nodad
        - ip addr add 2001:db8:2::2/64 dev eth2 nodad
        - sysctl -w net.ipv4.conf.all.rp_filter=0
    b:
      cmd: ttcp serve
      exec:
        - ip addr add 198.51.100.1/30 dev eth1
        - ip addr add 2001:db8:2::1/64 dev eth1 nodad
        - ip route add default via 198.51.100.2
        - ip route add default via 2001:db8:2::2
  links:
    - endpoints: ["a:eth1", "r:eth1"]
      mtu: 1500
    - endpoints: ["r:eth2", "b:eth1"]
      mtu: 1400
`

// load decodes a topology in a directory of its own and puts the states of
// labs into another.
func load(t *testing.T, src string) *clab.Topology {
	t.Helper()
	netns.Need(t)
	dir := t.TempDir()
	t.Setenv("XDG_RUNTIME_DIR", "")
	t.Setenv("GORACE", "atexit_sleep_ms=0") // else each process waits a second at its end
	t.Setenv("TMPDIR", shortTemp(t))
	if err := os.WriteFile(filepath.Join(dir, "a.conf"), []byte("configured\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "shared"), 0o755); err != nil {
		t.Fatal(err)
	}
	top, err := clab.Decode(filepath.Join(dir, "t.clab.yml"), []byte(src))
	if err != nil {
		t.Fatal(err)
	}
	return top
}

// shortTemp is a temporary directory whose name leaves room for sockets.
func shortTemp(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "lab")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func up(t *testing.T, top *clab.Topology) *Lab {
	t.Helper()
	lab, err := Up(t.Context(), top, Options{Say: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lab.Down(); err != nil {
			t.Error(err)
		}
	})
	return lab
}

// sh runs a shell line in a node, wants its status, and returns its output.
func sh(t *testing.T, lab *Lab, node string, status int, line string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	res, err := lab.Run(ctx, node, "sh", "-c", line)
	if err != nil {
		t.Fatal(err)
	}
	if res.Exit != status {
		t.Fatalf("%s: %s: status %d, want %d\n%s%s", node, line, res.Exit, status, res.Stdout, res.Stderr)
	}
	return string(res.Stdout)
}

func TestLab(t *testing.T) {
	top := load(t, routed)
	lab := up(t, top)

	t.Run("traffic through the router", func(t *testing.T) {
		for _, dst := range []string{"198.51.100.1", "2001:db8:2::1", "b"} {
			sh(t, lab, "a", 0, "/.lab/applets/ping -c 2 -i 0.05 "+dst)
		}
		out := sh(t, lab, "a", 0, "ttcp send -n 1M -4 b && ttcp send -n 1M -6 b")
		if strings.Count(out, "1048576 octets") != 2 {
			t.Error(out)
		}
		if out := sh(t, lab, "a", 1, "/.lab/applets/ping -M do -s 1450 -c 1 -W 0.5 b"); !strings.Contains(out, "mtu = 1400") {
			t.Error(out)
		}
	})
	t.Run("the node's own system", func(t *testing.T) {
		if got := sh(t, lab, "a", 0, "hostname; echo $$ >/dev/null; cat /tmp/said /etc/a.conf; pwd"); got != "a\nblue sky\nconfigured\n/root\n" {
			t.Errorf("got %q", got)
		}
		sh(t, lab, "a", 1, "echo x >/usr/nobody-writes-here 2>/dev/null || exit 1")
		sh(t, lab, "a", 1, "echo x >/etc/a.conf 2>/dev/null || exit 1")
		sh(t, lab, "a", 0, "echo shared >/var/shared/f; echo x >/etc/x; echo x >/var/lib/x; test -c /dev/null")
		if b, err := os.ReadFile(filepath.Join(filepath.Dir(top.File), "shared", "f")); err != nil || string(b) != "shared\n" {
			t.Errorf("a bind that may be written: %q, %v", b, err)
		}
		if out := sh(t, lab, "b", 0, "ls /etc/x /var/lib/x /etc/a.conf 2>/dev/null; cat /proc/1/cmdline | tr '\\0' ' '; ls /sys/class/net | tr '\\n' ' '"); out != "lab-node eth1 lo " {
			t.Errorf("node b shows %q", out)
		}
		if out := sh(t, lab, "r", 0, "cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv4/conf/all/rp_filter"); out != "1\n0\n" {
			t.Errorf("settings %q", out)
		}
		if out := sh(t, lab, "a", 0, "ls -d "+lab.Dir+" 2>/dev/null || echo hidden"); out != "hidden\n" {
			t.Errorf("the state directory: %q", out)
		}
	})
	t.Run("executing", func(t *testing.T) {
		res, err := lab.Run(t.Context(), "a", "sh", "-c", "echo out; echo err >&2; exit 3")
		if err != nil || res.Exit != 3 || string(res.Stdout) != "out\n" || string(res.Stderr) != "err\n" {
			t.Errorf("%+v %v", res, err)
		}
		if res, _ := lab.Run(t.Context(), "a", "sh", "-c", "kill -9 $$"); res.Exit != 137 {
			t.Errorf("killed: status %d", res.Exit)
		}
		if _, err := lab.Run(t.Context(), "a", "no-such-program"); err == nil || !strings.Contains(err.Error(), "not found") {
			t.Errorf("unknown program: %v", err)
		}
		if _, err := lab.Run(t.Context(), "x", "true"); err == nil || !strings.Contains(err.Error(), "nodes are [a b r]") {
			t.Errorf("unknown node: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		if _, err := lab.Run(ctx, "a", "sleep", "1000"); err == nil {
			t.Error("a command outlived its context")
		}
		waitUntil(t, "the command is hung up", func() bool { return sh(t, lab, "a", 0, "pgrep -x sleep || true") == "" })
		// Orphans are collected.
		sh(t, lab, "a", 0, "for i in 1 2 3; do (sleep 0.01 &) ; done")
		waitUntil(t, "no zombies", func() bool {
			return !strings.Contains(sh(t, lab, "a", 0, "cat /proc/[0-9]*/stat 2>/dev/null; true"), ") Z ")
		})
	})
	t.Run("input and signals", func(t *testing.T) {
		inR, inW, _ := os.Pipe()
		outR, outW, _ := os.Pipe()
		defer outR.Close()
		p, err := lab.Start("b", []string{"sh", "-c", `trap 'echo got int; exit 5' INT; cat; echo end; while :; do sleep 0.02; done`}, nil, [3]*os.File{inR, outW, nil}, false)
		inR.Close()
		outW.Close()
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(inW, "through\n")
		inW.Close()
		buf := make([]byte, 100)
		n, _ := io.ReadAtLeast(outR, buf, len("through\nend\n"))
		if string(buf[:n]) != "through\nend\n" {
			t.Errorf("got %q", buf[:n])
		}
		if err := p.Signal(syscall.SIGINT); err != nil {
			t.Fatal(err)
		}
		rest, _ := io.ReadAll(outR)
		if status, err := p.Wait(); status != 5 || err != nil || string(rest) != "got int\n" {
			t.Errorf("status %d, %v, %q", status, err, rest)
		}
	})
	t.Run("a terminal", func(t *testing.T) {
		master, slave, err := openPTY()
		if err != nil {
			t.Fatal(err)
		}
		defer master.Close()
		p, err := lab.Start("a", []string{"sh", "-c", "tty >/dev/null && ps -o tty= -p $$ >/dev/tty && echo on a terminal"}, nil, [3]*os.File{slave, slave, slave}, true)
		slave.Close()
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		io.Copy(&out, master)
		if status, err := p.Wait(); status != 0 || err != nil || !strings.Contains(out.String(), "on a terminal") {
			t.Errorf("status %d, %v, %q", status, err, out.String())
		}
	})
	t.Run("the node's command", func(t *testing.T) {
		if st, err := lab.Status("a"); err != nil || st.String() != "waits" {
			t.Errorf("%v, %v", st, err)
		}
		st, err := lab.Status("r")
		if err != nil || !st.Running {
			t.Errorf("%v, %v", st, err)
		}
		st, err = lab.StopCommand("r", 5*time.Second)
		if err != nil || st.Running || st.Exit != 7 {
			t.Errorf("%v, %v", st, err)
		}
		if b, _ := os.ReadFile(lab.LogPath("r")); string(b) != "hello from r\nbye\n" {
			t.Errorf("log %q", b)
		}
	})
	t.Run("names", func(t *testing.T) {
		if _, err := Up(t.Context(), top, Options{}); err == nil || !strings.Contains(err.Error(), "is up already") {
			t.Errorf("a second lab of the name: %v", err)
		}
		again, err := Open("routed")
		if err != nil || again.Dir != lab.Dir || len(again.Topology.Nodes) != 3 {
			t.Errorf("%+v, %v", again, err)
		}
		labs, stale, err := List()
		if err != nil || len(labs) != 1 || len(stale) != 0 {
			t.Errorf("%v, %v, %v", labs, stale, err)
		}
	})
}

func waitUntil(t *testing.T, what string, f func() bool) {
	t.Helper()
	for range 200 {
		if f() {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatalf("waited in vain until %s", what)
}

const lone = "name: lone\ntopology:\n  nodes:\n    a: {kind: linux, cmd: sleep 4321}\n"

// sleepers counts the processes of the lab called lone.
func sleepers(t *testing.T) int {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil && string(b) == "sleep\x004321\x00" {
			n++
		}
	}
	return n
}

func TestDownLeavesNothing(t *testing.T) {
	top := load(t, lone)
	lab, err := Up(t.Context(), top, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if sleepers(t) != 1 {
		t.Error("the command does not run")
	}
	if err := lab.Down(); err != nil {
		t.Fatal(err)
	}
	if err := lab.Down(); err != nil {
		t.Errorf("a second time: %v", err)
	}
	if _, err := os.Stat(lab.Dir); !os.IsNotExist(err) {
		t.Errorf("the state is still there: %v", err)
	}
	if n := sleepers(t); n != 0 {
		t.Errorf("%d processes are left", n)
	}
	if _, err := Open("lone"); err == nil {
		t.Error("it can still be opened")
	}
}

// A keeper that is killed takes everything with it; its state is seen to be
// stale, and the next lab of the name replaces it.
func TestKilledKeeper(t *testing.T) {
	top := load(t, lone)
	lab := up(t, top)
	if err := syscall.Kill(lab.keeper, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	waitUntil(t, "all is gone", func() bool { return sleepers(t) == 0 && !alive(lab.Dir) })
	if labs, stale, err := List(); err != nil || len(labs) != 0 || len(stale) != 1 || stale[0] != "lone" {
		t.Errorf("%v %v %v", labs, stale, err)
	}
	second, err := Up(t.Context(), top, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Down(); err != nil {
		t.Error(err)
	}
	if err := RemoveStale("lone"); err != nil {
		t.Error(err)
	}
}

func TestLifeline(t *testing.T) {
	top := load(t, lone)
	lab, err := Up(t.Context(), top, Options{Name: "other", Lifeline: true})
	if err != nil {
		t.Fatal(err)
	}
	if filepath.Base(lab.Dir) != "other" {
		t.Errorf("state in %s", lab.Dir)
	}
	lab.lifeline.Close() // as when this process dies
	waitUntil(t, "all is gone", func() bool {
		_, err := os.Stat(lab.Dir)
		return sleepers(t) == 0 && os.IsNotExist(err)
	})
}

// A lab that cannot be brought up says why and leaves nothing behind.
func TestUpFails(t *testing.T) {
	for _, c := range []struct{ name, node, want string }{
		{"exec line", "{kind: linux, exec: [ip link set lo up, ip addr add 192.0.2.1/30 dev eth9, 'false']}", `t.clab.yml:4:48: node a: exec "ip addr add 192.0.2.1/30 dev eth9" ended with status 1: ip: cannot find device "eth9"`},
		{"sysctl", "{kind: linux, sysctls: {net.ipv4.nosuch: 1}}", "set net.ipv4.nosuch to 1"},
		{"bind", "{kind: linux, binds: ['a.conf:/usr/x/y']}", "choose a target under /etc"},
		{"device", "{kind: linux, devices: [/dev/nosuch]}", "device /dev/nosuch"},
	} {
		t.Run(c.name, func(t *testing.T) {
			top := load(t, "name: bad\ntopology:\n  nodes:\n    a: "+c.node+"\n")
			_, err := Up(t.Context(), top, Options{})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if labs, stale, err := List(); err != nil || len(labs)+len(stale) > 0 {
				t.Errorf("left behind: %v %v %v", labs, stale, err)
			}
		})
	}
	t.Run("cancelled", func(t *testing.T) {
		top := load(t, "name: bad\ntopology:\n  nodes:\n    a: {kind: linux, exec: [sleep 1]}\n")
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		if _, err := Up(ctx, top, Options{}); err == nil {
			t.Error("it came up")
		}
		if labs, stale, err := List(); err != nil || len(labs)+len(stale) > 0 {
			t.Errorf("left behind: %v %v %v", labs, stale, err)
		}
	})
	t.Run("a command that is not there", func(t *testing.T) {
		lab := up(t, load(t, "name: bad\ntopology:\n  nodes:\n    a: {kind: linux, cmd: no-such-program -x}\n"))
		if st, err := lab.Status("a"); err != nil || st.Running || !strings.Contains(st.Failure, "no-such-program") {
			t.Errorf("%v %v", st, err)
		}
	})
}

func TestHostsFile(t *testing.T) {
	top, err := clab.Decode("t.clab.yml", []byte("name: x\ntopology:\n  nodes:\n    n: {kind: linux, exec: [\"ip addr add 2001:db8::1/64 dev e\", ip addr add 10.0.0.1/8 dev e, ip -4 a add 10.1.0.1/8 dev f]}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if got := hostsFile(top); !strings.HasSuffix(got, "\n10.0.0.1\tn\n10.1.0.1\tn\n2001:db8::1\tn\n") {
		t.Error(got)
	}
}

func TestProgressOfBuild(t *testing.T) {
	for line, want := range map[string]bool{
		"github.com/eidolon-lisp/eidolon/mapping": true, "fmt": true, "": false, "# a/b": false,
		"a.go:1:2: undefined: x": false, "\tnote": false, "go: downloading x v1": false,
	} {
		if isPackagePath(line) != want {
			t.Errorf("isPackagePath(%q) = %v", line, !want)
		}
	}
}

func TestExplain(t *testing.T) {
	for _, c := range []struct {
		res  probeResult
		want string
	}{
		{probeResult{}, ""},
		{probeResult{"veth", syscall.EOPNOTSUPP}, "modprobe veth"},
		{probeResult{"tun", syscall.ENODEV}, "modprobe tun"},
		{probeResult{"mount", syscall.EPERM}, "namespaces"},
		{probeResult{"veth", syscall.EPERM}, "namespaces"},
	} {
		err := explain(c.res)
		if c.want == "" {
			if err != nil {
				t.Error(err)
			}
		} else if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v", c.res, err)
		}
	}
}
