package scenario

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/eidolon-lisp/eidolon/internal/netns"
	"github.com/eidolon-lisp/eidolon/lab/internal/clab"
	"github.com/eidolon-lisp/eidolon/lab/internal/runner"
)

// The test program plays the keeper, the nodes and the applets itself.
func TestMain(m *testing.M) {
	if status, internal := runner.Internal(os.Args); internal {
		os.Exit(status)
	}
	goleak.VerifyTestMain(m)
}

const pair = `
name: pair
topology:
  defaults: {kind: linux, env: {GORACE: atexit_sleep_ms=0}}
  nodes:
    a: {exec: [ip addr add 192.0.2.1/30 dev eth1]}
    b: {cmd: sleep 3600, exec: [ip addr add 192.0.2.2/30 dev eth1]}
  links:
    - {endpoints: ["a:eth1", "b:eth1"], mtu: 1500}
`

func decode(t *testing.T, src string) (*Script, error) {
	t.Helper()
	return Decode("t.scenario", []byte(src), func(path string) (*clab.Topology, error) {
		if path != "t.clab.yml" {
			return nil, os.ErrNotExist
		}
		return clab.Decode(path, []byte(pair))
	})
}

func TestDecode(t *testing.T) {
	s, err := decode(t, `
# A comment.
topology t.clab.yml
limit 20s
step All is well
run a ip link set 'eth1' up
within 1500ms b sh -c "echo a ~ b" ~ ^a +~b$
within 1s b true !~ x
`)
	if err != nil {
		t.Fatal(err)
	}
	st := s.Steps[0].Statements
	if s.Name != "t" || s.Limit != 20*time.Second || len(s.Steps) != 1 || s.Steps[0].Title != "All is well" || len(st) != 3 {
		t.Fatalf("%+v", s)
	}
	if got := fmt.Sprintf("%q", st[0].Argv); got != `["ip" "link" "set" "eth1" "up"]` || st[0].Node != "a" || st[0].At != "t.scenario:6" {
		t.Error(got, st[0])
	}
	if st[1].Negated || st[1].Pattern.String() != "(?m)^a +~b$" || fmt.Sprintf("%q", st[1].Argv) != `["sh" "-c" "echo a ~ b"]` {
		t.Errorf("%+v", st[1])
	}
	if st[2].Negated != true || st[2].Pattern.String() != "(?m)x" || st[2].Duration != time.Second || st[2].Node != "b" {
		t.Errorf("%+v", st[2])
	}
	for _, c := range []struct{ line, want string }{
		{"dance a", `t.scenario:3: "dance" is no statement`},
		{"run c true", `t.clab.yml has no node "c"`},
		{"run a", "expected run NODE COMMAND"},
		{"run a 'true", "quote"},
		{"pause", "expected pause DURATION"},
		{"pause -1s", "not a positive duration"},
		{"pause 1s 2s", "expected pause DURATION"},
		{"within 1s a true", "expected within DURATION NODE COMMAND ~ REGEXP"},
		{"within 1s a true ~ (", "missing closing"},
		{"ping p a b", "unable to parse IP"},
		{"ping p a", "expected ping NAME NODE ADDRESS"},
		{"stream s a c 192.0.2.2 1M", `no node "c"`},
		{"ends p", `no ping or stream "p" was started before`},
		{"outage p 1s", `no ping "p" was started before`},
		{"traffic a eth9 in some", "no link at eth9"},
		{"traffic a eth1 up some", "expected in or out"},
		{"traffic a eth1 in much", "expected none or some, not much"},
		{"watch w a eth9 192.0.2.0/24", "no link at eth9"},
		{"watch w a eth1 192.0.2.0/24,b", `"b"`},
		{"seen w none", `no watch "w" was started before`},
		{"kill a", "node a runs nothing"},
		{"start a", "node a runs nothing"},
		{"kill c", `no node "c"`},
		{"limit 3s", `"limit" is no statement`},
	} {
		if _, err := decode(t, "topology t.clab.yml\nstep x\n"+c.line+"\n"); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.line, err, c.want)
		}
	}
	for _, c := range []struct{ src, want string }{
		{"step x\n", "t.scenario:1: expected topology FILE first"},
		{"topology other.clab.yml\n", "file does not exist"},
		{"topology t.clab.yml\nrun a true\n", "t.scenario:2: expected step TITLE before this"},
		{"topology t.clab.yml\n", "no step"},
		{"topology t.clab.yml\nstep x\nstream s a b 192.0.2.2 1M\nlost s 0\nping s a 192.0.2.2\n", "t.scenario:4: s is a stream, not a ping"},
		{"topology t.clab.yml\nstep x\nwatch s a eth1 192.0.2.0/24\nends s\n", "t.scenario:4: s is a watch, not a ping or stream"},
		{"topology t.clab.yml\nstep x\nstream s a b 192.0.2.2 1M\nping s a 192.0.2.2\n", "t.scenario:4: there is a stream s already"},
	} {
		if _, err := decode(t, c.src); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, want %q", c.src, err, c.want)
		}
	}
}

// What a ping says is judged by the requests of a time: how many were lost,
// and how long none was answered.
func TestPings(t *testing.T) {
	start := time.UnixMicro(1_700_000_000_000_000)
	at := func(n int) time.Time { return start.Add(time.Duration(n-1) * pingEvery) }
	p := &pings{}
	p.line("PING 192.0.2.2 (192.0.2.2) 56 data octets")
	if p.oddLine() != "" || p.since(start, at(100)).sent != 0 {
		t.Error(p.oddLine(), p.since(start, at(100)))
	}
	answer := func(from, to int) {
		for n := from; n <= to; n++ {
			got := at(n).Add(2 * time.Millisecond)
			p.line(fmt.Sprintf("[%.6f] 64 octets from 192.0.2.2: icmp_seq=%d ttl=62 time=2.000 ms", float64(got.UnixMicro())/1e6, uint16(n)))
		}
	}
	answer(11, 100) // the first ten were not answered
	answer(113, 200)
	answer(221, 70000) // beyond 16 bits
	p.line("From 192.0.2.9 icmp_seq=4465 destination net unreachable")
	now := at(70000).Add(pingPatience)
	near := func(got, want time.Duration) bool { return (got - want).Abs() <= pingEvery }
	for _, c := range []struct {
		begin, now time.Time
		sent, lost int
		outage     time.Duration
		ongoing    bool
	}{
		{start, now, 70000, 42, 200 * time.Millisecond, false},
		{at(101), at(201), 69900, 32, 200 * time.Millisecond, false},
		{at(1000), now, 69001, 0, 0, false},
		{at(70000), now, 1, 0, 0, false},
		{at(50), now, 69951, 32, 200 * time.Millisecond, false},
		{at(211), now, 69790, 10, 90 * time.Millisecond, false}, // it began in the middle of an outage
		{at(69001), now.Add(time.Second), 1100, 100, time.Second, true},
		{at(80000), at(80000).Add(100 * time.Millisecond), 0, 0, 0, false},
		{at(80000), at(80101).Add(pingPatience), 101, 101, time.Second, true},
	} {
		v := p.since(c.begin, c.now)
		if v.sent != c.sent || v.lost != c.lost || !near(v.outage, c.outage) && v.lost > 0 || v.ongoing != c.ongoing {
			t.Errorf("from request %d: %+v, want %+v", c.begin.Sub(start)/pingEvery+1, v, c)
		}
	}
	if p.oddLine() != "From 192.0.2.9 icmp_seq=4465 destination net unreachable" {
		t.Error(p.oddLine())
	}
	// iputils' words.
	p = &pings{}
	p.line("[1700000000.500000] 64 bytes from 192.0.2.2: icmp_seq=1 ttl=64 time=0.045 ms")
	if v := p.since(start, start.Add(1500*time.Millisecond)); v.sent < 50 || v.lost != v.sent-1 || !v.ongoing {
		t.Error(v)
	}
}

func play1(t *testing.T, src string) (string, error) {
	t.Helper()
	return playSlack(t, src, 1)
}

func playSlack(t *testing.T, src string, slack float64) (string, error) {
	t.Helper()
	netns.Need(t)
	t.Setenv("XDG_RUNTIME_DIR", "")
	t.Setenv("GORACE", "atexit_sleep_ms=0")
	dir, err := os.MkdirTemp("/tmp", "lab")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	t.Setenv("TMPDIR", dir)
	s, err := decode(t, src)
	if err != nil {
		t.Fatal(err)
	}
	s.Topology.File = filepath.Join(dir, "t.clab.yml")
	var out bytes.Buffer
	err = Run(context.Background(), s, Options{Out: &out, Slack: slack})
	if t.Failed() || testing.Verbose() {
		t.Log(out.String())
	}
	return out.String(), err
}

// What a script allows for all of it is multiplied by the slack, as is what its
// statements allow.
func TestSlack(t *testing.T) {
	const src = `
topology t.clab.yml
limit 300ms
step It takes longer than the script allows
pause 600ms
`
	if _, err := playSlack(t, src, 1); err == nil {
		t.Error("there is no limit")
	}
	if _, err := playSlack(t, src, 10); err != nil {
		t.Error(err)
	}
}

func TestRun(t *testing.T) {
	out, err := play1(t, `
topology t.clab.yml
limit 60s
step It begins
run a true
fails a false
show a echo hello
ping p a 192.0.2.2
stream s a b 192.0.2.2 800K
within 5s b sh -c 'echo x >> /tmp/said; cat /tmp/said' ~ x\nx\nx
pause 500ms
traffic b eth1 in some
lost p 0
step The link fails
run b ip link set eth1 down
pause 300ms
run b ip link set eth1 up
pause 1200ms
outage p 1s
step Replies are lost
run b ip route add blackhole 192.0.2.1/32
pause 200ms
run b ip route del blackhole 192.0.2.1/32
pause 300ms
outage p 500ms
step The wire is watched
watch w b eth1 198.51.100.0/24,192.0.2.1/32
watch other b eth1 198.51.100.0/24,2001:db8::/32
run a ping -c 1 192.0.2.2
seen w some
seen other none
step It ends
ends s
ends p
pause 50ms
traffic b eth1 in none
kill b
fails b pgrep -x sleep
start b
run b pgrep -x sleep
kill b
`)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"            | hello\n", "p: 0 of ", "of 1", "one connection, ", "pass  The link fails", "lost, longest outage ", " frames from 198.51.100.0/24 192.0.2.1/32",
		"seen    other none: 0 of ", "killed by signal 9"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}

// Each failure is told, and the steps after it are played all the same.
func TestRunFails(t *testing.T) {
	out, err := play1(t, `
topology t.clab.yml
step unlike expected
run a false
run a touch /tmp/skipped
step like expected
fails a cat /tmp/skipped
step a command that should have failed
fails a true
step words that do not come
within 100ms a echo hello ~ goodbye
step nothing was done
ping p a 192.0.2.2
outage p 1s
step an outage
run b ip link set eth1 down
pause 800ms
outage p 100ms
step lost packets
run b ip link set eth1 up
pause 1s
run b ip route add blackhole 192.0.2.1/32
pause 200ms
run b ip route del blackhole 192.0.2.1/32
pause 300ms
lost p 0
step no traffic
traffic a eth1 out none
step a stream that is cut
stream s a b 192.0.2.2 800K
pause 200ms
run b ip link set eth1 down
ends s
step an address on the wire that should not be there
run b ip link set eth1 up
within 5s a ping -c 1 -W 1 192.0.2.2 ~ 1 received
watch w b eth1 192.0.2.1/32
run a ping -c 1 192.0.2.2
seen w none
step an address that should
watch v b eth1 192.0.2.128/25
run a ping -c 1 192.0.2.2
seen v some
step a watch that sees nothing
run b ip link set eth1 down
pause 100ms
watch u b eth1 192.0.2.128/25
seen u none
step a watch that is over
seen u none
step a ping that never begins
run a false
ping q a 192.0.2.2
step what is said of it
run a true
lost q 0
step a command that has ended
kill b
kill b
step a command that runs
start b
start b
`)
	if err == nil || !strings.Contains(err.Error(), "16 of 17 steps failed") {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{
		"t.scenario:4: run a false: it ended with status 1", "pass  like expected", "fails a true: it ended with status 0",
		"it said to the end:\nhello", "the step has run nothing yet", "outage p 100ms: it is not answered", "lost p 0: at most 0 may be lost",
		"out none: expected otherwise", "ends s: the connection did not live: status 1",
		"expected none; the first: 192.0.2.1->192.0.2.2", "seen v some: expected some", "nothing at all was seen", "seen u none: it does not run", "lost q 0: it does not run",
		"kill b: sleep 3600 killed by signal 9", "start b: sleep 3600 runs",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}
