package tun

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/internal/netns"
	"github.com/eidolon-lisp/eidolon/mapping"
)

// childEnv makes the test binary an xTR: a plane in a process of its own, as it
// is in life, so that it can be killed. It takes commands on its standard
// input, one line each, and answers each with one line of JSON.
const childEnv = "EIDOLON_TUN_TEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		if err := child(); err != nil {
			fmt.Println(errorLine(err))
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func errorLine(err error) string {
	b, _ := json.Marshal(answer{Err: err.Error()})
	return string(b)
}

// childConfig is what the child gets as its first line.
type childConfig struct {
	Instances []Instance
	Guarded   []mapping.EID
	Locals    []mapping.EID
	Sources   []netip.Addr
	ProxyITR  []mapping.EID
	ProxyETR  []mapping.EID
	Host      []mapping.EID
	Table     int
	Queues    int
	UplinkMTU int
	Hold      bool
	Entries   []entry
	// Version, if not 0, is the map-version of all Locals, and switches
	// map-versioning on.
	Version  mapping.Version
	MSSClamp bool
	// DropCapability takes CAP_NET_ADMIN away before the plane starts.
	DropCapability bool
}

// entry is one static mapping.
type entry struct {
	EID      mapping.EID
	Locators []mapping.Locator
	Version  uint16
	Removed  bool
	// Native is a negative mapping: natively-forward; Locators, if any, are
	// proxy-ETRs.
	Native bool
}

type answer struct {
	Err      string
	Stats    map[string]uint64
	Missing  []netip.Addr
	Warnings []string
	Misses   []dataplane.Miss
	Heard    []netip.Addr
	Versions []dataplane.VersionEvent
	MTU      map[string]int
	Mallocs  uint64

	Unreachable []dataplane.Path
	Active      []dataplane.Activity
}

func changes(entries []entry) []mapping.CacheChange {
	var list []mapping.CacheChange
	for _, e := range entries {
		c := mapping.CacheChange{EID: e.EID, Expires: time.Now().Add(time.Hour)}
		switch {
		case e.Native:
			c.Record, c.ProxyETRs = mapping.NegativeRecord(e.EID, mapping.NativelyForward, 15), e.Locators
		case !e.Removed:
			c.Record = &mapping.Record{EID: e.EID, TTL: 60, Locators: e.Locators, Version: e.Version}
		}
		list = append(list, c)
	}
	return list
}

func child() error {
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 1<<20)
	if !in.Scan() {
		return io.ErrUnexpectedEOF
	}
	var cfg childConfig
	if err := json.Unmarshal(in.Bytes(), &cfg); err != nil {
		return err
	}
	if cfg.DropCapability {
		runtime.LockOSThread() // capabilities are the thread's
		hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&hdr, &none[0]); err != nil {
			return err
		}
	}
	fib := dataplane.NewFIB()
	fib.Apply(changes(cfg.Entries))
	p, err := New(Config{
		Instances: cfg.Instances, Locals: cfg.Locals, Guarded: cfg.Guarded, ProxyITR: cfg.ProxyITR, ProxyETR: cfg.ProxyETR, Host: cfg.Host, Sources: cfg.Sources, Table: cfg.Table, Queues: cfg.Queues,
		UplinkMTU: cfg.UplinkMTU, Miss: dataplane.MissPolicy{Hold: cfg.Hold}, MapVersioning: cfg.Version != 0, MSSClamp: cfg.MSSClamp,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	}, fib)
	if err != nil {
		return err
	}
	if cfg.Version != 0 {
		var local []dataplane.LocalEID
		for _, e := range cfg.Locals {
			local = append(local, dataplane.LocalEID{EID: e, Version: cfg.Version})
		}
		fib.SetLocal(local)
	}
	fib.SetProxies(dataplane.Proxies{ITR: cfg.ProxyITR, ETR: cfg.ProxyETR})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	fmt.Println("{}")
	for in.Scan() {
		var a answer
		cmd, arg, _ := strings.Cut(in.Text(), " ")
		switch cmd {
		case "apply":
			var list []entry
			if err := json.Unmarshal([]byte(arg), &list); err != nil {
				return err
			}
			fib.Apply(changes(list))
		case "state":
			a = answer{Stats: map[string]uint64{}, MTU: map[string]int{}, Missing: p.Missing(), Warnings: p.Warnings()}
			for name, v := range p.Stats() {
				if v != 0 {
					a.Stats[name] = v
				}
			}
			for r := range fib.RLOCs() {
				a.MTU[r.Addr().String()] = r.MTU()
			}
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			a.Mallocs = m.Mallocs
		case "locals":
			// As who learns of EIDs does it: what is new first in the kernel.
			var list []mapping.EID
			if err := json.Unmarshal([]byte(arg), &list); err != nil {
				return err
			}
			var local []dataplane.LocalEID
			for _, e := range list {
				local = append(local, dataplane.LocalEID{EID: e})
			}
			err := p.SetLocals(list)
			fib.SetLocal(local)
			if err != nil {
				a.Err = err.Error()
			}
		case "rlocs":
			var list []netip.Addr
			if err := json.Unmarshal([]byte(arg), &list); err != nil {
				return err
			}
			p.SetRLOCs(list)
		case "sources":
			var list []dataplane.Source
			if err := json.Unmarshal([]byte(arg), &list); err != nil {
				return err
			}
			fib.SetSources(list)
		case "unreachable":
			for len(p.Unreachable()) > 0 {
				a.Unreachable = append(a.Unreachable, <-p.Unreachable())
			}
		case "active":
			a.Active = fib.Active(nil)
		case "heard":
			a.Heard = p.Heard()
		case "versions":
			for len(p.Versions()) > 0 {
				a.Versions = append(a.Versions, <-p.Versions())
			}
		case "misses":
			for len(p.Misses()) > 0 {
				a.Misses = append(a.Misses, <-p.Misses())
			}
		case "wait", "exit":
			if cmd == "exit" {
				cancel()
			}
			if err := <-done; err != nil {
				return err
			}
			fmt.Println("{}")
			return nil
		}
		b, err := json.Marshal(a)
		if err != nil {
			return err
		}
		fmt.Println(string(b))
	}
	return in.Err()
}

// xtr is a child process with a plane.
type xtr struct {
	t   testing.TB
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner

	mu     sync.Mutex
	exited bool
}

// startXTR runs a plane in a namespace and waits until it forwards.
func startXTR(t testing.TB, ns *netns.NS, cfg childConfig) *xtr {
	t.Helper()
	x, a := tryXTR(t, ns, cfg)
	if a.Err != "" {
		t.Fatalf("xtr: %s", a.Err)
	}
	return x
}

func tryXTR(t testing.TB, ns *netns.NS, cfg childConfig) (*xtr, answer) {
	t.Helper()
	x := &xtr{t: t, cmd: exec.Command(os.Args[0])}
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
	t.Cleanup(x.kill)
	b, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return x, x.ask(string(b))
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Logf("%s", strings.TrimSpace(string(b)))
	return len(b), nil
}

func (x *xtr) ask(cmd string) (a answer) {
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

func (x *xtr) state() answer { x.t.Helper(); return x.ask("state") }

func (x *xtr) apply(list ...entry) { x.t.Helper(); x.tell("apply", list) }

// rlocs and sources are what the control plane says when addresses change.
func (x *xtr) rlocs(list ...netip.Addr) { x.t.Helper(); x.tell("rlocs", list) }

func (x *xtr) sources(list ...netip.Addr) {
	x.t.Helper()
	var s []dataplane.Source
	for _, a := range list {
		s = append(s, dataplane.Source{Addr: a, Priority: 1, Weight: 100})
	}
	x.tell("sources", s)
}

func (x *xtr) tell(cmd string, what any) answer {
	x.t.Helper()
	b, err := json.Marshal(what)
	if err != nil {
		x.t.Fatal(err)
	}
	return x.ask(cmd + " " + string(b))
}

// exit ends the plane in an orderly way.
func (x *xtr) exit() {
	x.t.Helper()
	if a := x.ask("exit"); a.Err != "" {
		x.t.Fatalf("xtr: %s", a.Err)
	}
	x.wait()
}

// kill ends the process as kill -9 does.
func (x *xtr) kill() {
	x.cmd.Process.Kill()
	x.wait()
}

func (x *xtr) wait() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.exited {
		x.exited = true
		x.cmd.Wait()
	}
}
