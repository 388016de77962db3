package sites

import (
	"bufio"
	"encoding/json"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/internal/netns"
)

// XTR is a process with a plane. Its methods end the test when the process does
// not do what it is asked.
type XTR struct {
	t   testing.TB
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner

	mu     sync.Mutex
	exited bool
}

// Start runs a plane in a namespace and waits until it forwards. It is killed
// when the test ends.
func Start(t testing.TB, ns *netns.NS, cfg Config) *XTR {
	t.Helper()
	x, a := Try(t, ns, cfg)
	if a.Err != "" {
		t.Fatalf("xtr: %s", a.Err)
	}
	return x
}

// Try is Start for a plane that may say why it can't forward.
func Try(t testing.TB, ns *netns.NS, cfg Config) (*XTR, Answer) {
	t.Helper()
	x := Spawn(t, ns)
	t.Cleanup(func() {
		x.Kill()
		if planes.Cleanup != nil {
			if err := ns.Do(planes.Cleanup); err != nil {
				t.Error(err)
			}
		}
	})
	return x, x.Configure(cfg)
}

// Spawn starts the process of an xTR, which waits for its configuration. The test
// has to end it.
func Spawn(t testing.TB, ns *netns.NS) *XTR {
	t.Helper()
	x := &XTR{t: t, cmd: exec.Command(os.Args[0])}
	x.cmd.Env = append(os.Environ(), childEnv+"=1")
	x.cmd.Stderr = testWriter{t}
	var err error
	if x.in, err = x.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := x.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	x.out = bufio.NewScanner(out)
	x.out.Buffer(nil, 1<<20)
	// A child belongs to the namespace of the thread that starts it.
	if err := ns.Do(x.cmd.Start); err != nil {
		t.Fatal(err)
	}
	return x
}

// Configure gives an xTR its configuration, which starts the plane.
func (x *XTR) Configure(cfg Config) Answer {
	x.t.Helper()
	b, err := json.Marshal(cfg)
	if err != nil {
		x.t.Fatal(err)
	}
	return x.Ask(string(b))
}

// Process is that of the xTR.
func (x *XTR) Process() *os.Process { return x.cmd.Process }

type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Logf("%s", strings.TrimSpace(string(b)))
	return len(b), nil
}

// Ask gives a command; see child.
func (x *XTR) Ask(cmd string) (a Answer) {
	x.t.Helper()
	if _, err := io.WriteString(x.in, cmd+"\n"); err != nil {
		x.t.Fatalf("xtr: %v", err)
	}
	if !x.out.Scan() {
		x.t.Fatalf("xtr ended: %v", x.out.Err())
	}
	if err := json.Unmarshal(x.out.Bytes(), &a); err != nil {
		x.t.Fatalf("xtr said %q", x.out.Text())
	}
	return a
}

// State asks for counters, warnings and path MTUs.
func (x *XTR) State() Answer { x.t.Helper(); return x.Ask("state") }

// Apply changes the mappings.
func (x *XTR) Apply(list ...Entry) { x.t.Helper(); x.Tell("apply", list) }

// RLOCs are the addresses to receive on and to send from, if Sources says so, as
// the control plane tells the plane when addresses change.
func (x *XTR) RLOCs(list ...netip.Addr) { x.t.Helper(); x.Tell("rlocs", list) }

// Sources are the addresses to send from, with equal shares.
func (x *XTR) Sources(list ...netip.Addr) {
	x.t.Helper()
	var s []dataplane.Source
	for _, a := range list {
		s = append(s, dataplane.Source{Addr: a, Priority: 1, Weight: 100})
	}
	x.Tell("sources", s)
}

// Tell gives a command with an argument in JSON.
func (x *XTR) Tell(cmd string, what any) Answer {
	x.t.Helper()
	b, err := json.Marshal(what)
	if err != nil {
		x.t.Fatal(err)
	}
	return x.Ask(cmd + " " + string(b))
}

// Exit ends the plane in an orderly way.
func (x *XTR) Exit() {
	x.t.Helper()
	if a := x.Ask("exit"); a.Err != "" {
		x.t.Fatalf("xtr: %s", a.Err)
	}
	x.wait()
}

// Kill ends the process as kill -9 does.
func (x *XTR) Kill() {
	x.cmd.Process.Kill()
	x.wait()
}

func (x *XTR) wait() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.exited {
		x.exited = true
		x.cmd.Wait()
	}
}
