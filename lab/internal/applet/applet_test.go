package applet

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/eidolon-lisp/eidolon/internal/netns"
)

// The test program acts as an applet when it is told to, so that tests run
// applets as processes that are wholly in a namespace, as a lab does.
func TestMain(m *testing.M) {
	if name := os.Getenv("TEST_APPLET"); name != "" {
		os.Exit(Main(name, os.Args[1:]))
	}
	goleak.VerifyTestMain(m)
}

// start runs a command line of an applet in a namespace.
func start(t *testing.T, ns *netns.NS, line string) *process {
	t.Helper()
	words := strings.Fields(line)
	p := &process{line: line, cmd: exec.Command("/proc/self/exe", words[1:]...)}
	p.cmd.Env = append(os.Environ(), "TEST_APPLET="+words[0], "GORACE=atexit_sleep_ms=0")
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.err
	if err := ns.Do(p.cmd.Start); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if p.cmd.ProcessState == nil {
			p.cmd.Process.Kill()
			p.cmd.Wait()
		}
	})
	return p
}

type process struct {
	line     string
	cmd      *exec.Cmd
	out, err output
}

// output is what a process says, and may be read while it goes on.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(b)
}

func (o *output) Bytes() []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	return bytes.Clone(o.buf.Bytes())
}

func (o *output) String() string { return string(o.Bytes()) }

// wait returns the exit status.
func (p *process) wait(t *testing.T) int {
	t.Helper()
	timer := time.AfterFunc(10*time.Second, func() { p.cmd.Process.Kill() })
	defer timer.Stop()
	p.cmd.Wait()
	return p.cmd.ProcessState.ExitCode()
}

func (p *process) stop(t *testing.T) int {
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	return p.wait(t)
}

// run wants the exit status and returns the output.
func run(t *testing.T, ns *netns.NS, status int, line string) (out, errs string) {
	t.Helper()
	p := start(t, ns, line)
	if got := p.wait(t); got != status {
		t.Fatalf("%s: status %d, want %d\n%s%s", line, got, status, p.out.String(), p.err.String())
	}
	return p.out.String(), p.err.String()
}

func runJSON[T any](t *testing.T, ns *netns.NS, line string) T {
	t.Helper()
	out, _ := run(t, ns, 0, line)
	var v T
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		t.Fatalf("%s: %v\n%s", line, err, out)
	}
	return v
}

// path is three namespaces in a row, a - r - b, set up by the ip and sysctl
// applets; the link r - b has MTU 1400.
func path(t *testing.T) (a, r, b *netns.NS) {
	t.Helper()
	nss := netns.Fresh(t, 3)
	a, r, b = nss[0], nss[1], nss[2]
	for _, err := range []error{netns.Veth(a, "eth1", r, "eth1", 1500), netns.Veth(r, "eth2", b, "eth1", 1500)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		ns   *netns.NS
		line string
	}{
		{a, "ip addr add 192.0.2.1/30 dev eth1"},
		{a, "ip -6 addr add 2001:db8:1::1/64 dev eth1 nodad"},
		{a, "ip route add default via 192.0.2.2"},
		{a, "ip -6 route add default via 2001:db8:1::2 dev eth1 metric 5"},
		{r, "ip addr add 192.0.2.2/30 dev eth1"},
		{r, "ip addr add 198.51.100.1/30 dev eth2"},
		{r, "ip addr add 2001:db8:1::2/64 dev eth1 nodad"},
		{r, "ip addr add 2001:db8:2::1/64 dev eth2 nodad"},
		{r, "ip link set dev eth2 mtu 1400"},
		{r, "sysctl -w net.ipv4.ip_forward=1"},
		{r, "sysctl -q -w net.ipv6.conf.all.forwarding=1 net.ipv6.conf.eth2.forwarding=1"},
		{b, "ip addr add 198.51.100.2/30 dev eth1"},
		{b, "ip addr add 2001:db8:2::2/64 dev eth1 nodad"},
		{b, "ip link set eth1 mtu 1400 up"},
		{b, "ip route add 192.0.2.0/24 via 198.51.100.1"},
		{b, "ip route add default via 2001:db8:2::1"},
	} {
		run(t, c.ns, 0, c.line)
	}
	return a, r, b
}

func TestPing(t *testing.T) {
	a, r, _ := path(t)
	for _, dst := range []string{"198.51.100.2", "2001:db8:2::2"} {
		rep := runJSON[PingReport](t, a, "ping -c 3 -i 0.05 --json "+dst)
		if rep.Transmitted != 3 || rep.Received != 3 || len(rep.Errors) > 0 || rep.Address != netip.MustParseAddr(dst) {
			t.Errorf("%+v", rep)
		}
		for _, rtt := range rep.RTT {
			if rtt <= 0 || rtt > 1000 {
				t.Errorf("round trip of %v ms", rtt)
			}
		}
	}
	out, _ := run(t, a, 0, "ping -c1 -s1000 198.51.100.2")
	for _, want := range []string{"1008 octets from 198.51.100.2: icmp_seq=1 ttl=63 time=", "1 packets transmitted, 1 received, 0% packet loss"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	out, _ = run(t, a, 0, "ping6 -c 1 2001:db8:2::2")
	if !strings.Contains(out, "from 2001:db8:2::2: icmp_seq=1 ttl=63") {
		t.Error(out)
	}
	before := float64(time.Now().UnixMicro()) / 1e6
	out, _ = run(t, a, 0, "ping -D -c 1 198.51.100.2")
	at := 0.0
	_, line, _ := strings.Cut(out, "\n")
	fmt.Sscanf(line, "[%f] 64 octets from 198.51.100.2: icmp_seq=1", &at)
	if at < before || at > before+5 {
		t.Errorf("stamped with %f at %f:\n%s", at, before, out)
	}
	// The first request learns the path MTU from the router, the second from
	// the kernel, which has remembered it.
	for dst, router := range map[string]string{"198.51.100.2": "192.0.2.2", "2001:db8:2::2": "2001:db8:1::2"} {
		line := "ping -c 2 -i 0.1 -W 0.2 -M do -s 1400 --json " + dst
		p := start(t, a, line)
		if code := p.wait(t); code != 1 {
			t.Fatalf("%s: status %d %s", line, code, p.err.String())
		}
		var rep PingReport
		if err := json.Unmarshal(p.out.Bytes(), &rep); err != nil {
			t.Fatal(err)
		}
		if len(rep.Errors) != 2 || rep.Errors[0].MTU != 1400 || rep.Errors[0].From != netip.MustParseAddr(router) || rep.Errors[0].Local ||
			rep.Errors[1].MTU != 1400 || !rep.Errors[1].Local {
			t.Errorf("%s: %+v", dst, rep)
		}
	}
	for _, c := range []struct{ line, want string }{
		{"ping -c 1 -t 1 -W 0.3 198.51.100.2", "From 192.0.2.2 icmp_seq=1 time to live exceeded"},
		{"ping -c 1 -t 1 -W 0.3 2001:db8:2::2", "From 2001:db8:1::2 icmp_seq=1 hop limit exceeded"},
		{"ping -c 1 -W 0.3 203.0.113.1", "From 192.0.2.2 icmp_seq=1 destination net unreachable"},
		{"ping -c 1 -W 0.3 2001:db8:3::1", "From 2001:db8:1::2 icmp_seq=1 no route to destination"},
	} {
		if out, _ := run(t, a, 1, c.line); !strings.Contains(out, c.want) || !strings.Contains(out, "+1 errors, 100% packet loss") {
			t.Errorf("%s:\n%s", c.line, out)
		}
	}
	run(t, r, 0, "ip link set eth2 down")
	if out, _ := run(t, r, 1, "ping -c 1 -W 0.2 198.51.100.2"); !strings.Contains(out, "local error: network is unreachable") {
		t.Error(out)
	}
	p := start(t, r, "ping -I 192.0.2.2 192.0.2.1")
	time.Sleep(300 * time.Millisecond)
	if code := p.stop(t); code != 0 || !strings.Contains(p.out.String(), "1 packets transmitted, 1 received") {
		t.Errorf("interrupted: status %d\n%s", code, p.out.String())
	}
}

func TestTTCP(t *testing.T) {
	a, _, b := path(t)
	server := start(t, b, "ttcp serve")
	waitFor(t, &server.err, "listening")
	for _, dst := range []string{"198.51.100.2", "2001:db8:2::2"} {
		r := runJSON[TTCPReport](t, a, "ttcp send -n 3M --json "+dst)
		if r.Octets != 3<<20 || r.OctetsSent != r.Octets || len(r.SHA256) != 64 || r.SHA256 != r.SentSHA256 || r.BitsPerSecond <= 0 {
			t.Errorf("%+v", r)
		}
		if r.MSS < 1200 || r.MSS > 1360 {
			t.Errorf("MSS %d was not taken from the path's 1400 octets", r.MSS)
		}
		r = runJSON[TTCPReport](t, a, "ttcp send -t 0.2 -P 3 --json "+dst)
		if r.Flows != 3 || r.Octets < 1e6 || r.SHA256 != "" || r.Octets != r.OctetsSent || r.Seconds > 2 {
			t.Errorf("%+v", r)
		}
		r = runJSON[TTCPReport](t, a, "ttcp send -u -t 0.3 -r 8M -l 1000 --json "+dst)
		if r.Mode != "udp" || r.PacketsSent < 200 || r.PacketsSent > 400 || r.Packets != r.PacketsSent || r.Octets != 1000*r.Packets {
			t.Errorf("%+v", r)
		}
	}
	// A paced transfer keeps its rate, ends in order by a signal, and knows its stalls.
	paced := start(t, a, "ttcp send -t 60 -r 800K --json 198.51.100.2")
	time.Sleep(600 * time.Millisecond)
	var p TTCPReport
	if code := paced.stop(t); code != 0 || json.Unmarshal([]byte(paced.out.String()), &p) != nil {
		t.Errorf("paced: status %d, %s%s", code, paced.out.String(), paced.err.String())
	}
	if p.Octets < 20_000 || p.Octets > 100_000 || p.SHA256 == "" || p.SHA256 != p.SentSHA256 || p.Stall <= 0 || p.Stall > 0.6 {
		t.Errorf("%+v", p)
	}
	out, _ := run(t, a, 0, "ttcp send -n 64K -B 192.0.2.1 198.51.100.2")
	if !strings.Contains(out, "tcp from 192.0.2.1:") || !strings.Contains(out, "65536 octets") {
		t.Error(out)
	}
	if code := server.stop(t); code != 0 {
		t.Errorf("server: status %d %s", code, server.err.String())
	}
	if _, errs := run(t, a, 1, "ttcp send -t 1 198.51.100.2"); !strings.Contains(errs, "connection refused") {
		t.Error(errs)
	}
	for _, line := range []string{"ttcp", "ttcp send", "ttcp send -t 1 -n 5 h", "ttcp send -n 0 h", "ttcp send -P 2 -n 1 h", "ttcp send -r 1M -P 2 h", "ttcp serve x", "ttcp send -p 70000 h"} {
		run(t, a, 2, line)
	}
}

// waitFor waits until a process has said something.
func waitFor(t *testing.T, b *output, text string) {
	t.Helper()
	for range 500 {
		if strings.Contains(b.String(), text) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("waited in vain for %q, got %q", text, b.String())
}

func TestNamesAndUnknown(t *testing.T) {
	if got := fmt.Sprint(Names()); got != "[bgprouter capture ip ping ping6 sysctl ttcp]" {
		t.Error(got)
	}
	var errs bytes.Buffer
	if code := Run(context.Background(), "nc", nil, Streams{nil, &errs, &errs}); code != 127 || Known("nc") || !strings.Contains(errs.String(), "[bgprouter capture") {
		t.Errorf("%d %s", code, errs.String())
	}
}
