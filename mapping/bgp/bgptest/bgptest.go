// Package bgptest has plain routers for tests, each in a process of its own.
package bgptest

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping/bgp/plain"
)

// Config is a router with one neighbour, which it waits for.
type Config struct {
	AS       uint32
	RouterID netip.Addr
	Addr     netip.Addr // it listens on
	Port     uint16
	Peer     netip.Addr
	PeerAS   uint32
	// PeerPort, unless 0, makes it connect to the peer.
	PeerPort uint16
	Password string
	// RestartTime, unless 0, makes it a helper in restarts of the peer, in seconds.
	RestartTime uint32
}

// Route is what the router has learned.
type Route = plain.Route

// TB is what Start uses of testing.TB.
type TB interface {
	Helper()
	Fatalf(format string, args ...any)
	Cleanup(func())
}

const roleVariable = "EIDOLON_BGPTEST"

// Main is the program of the router, if that is what this process is for. Tests
// call it first in TestMain.
func Main() {
	text := os.Getenv(roleVariable)
	if text == "" {
		return
	}
	var cfg plain.Config
	err := json.Unmarshal([]byte(text), &cfg)
	if err == nil {
		var r *plain.Router
		if r, err = plain.Start(cfg); err == nil {
			err = r.Serve(os.Stdin, os.Stdout) // whoever started us is gone or has enough
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bgptest:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// Router is a running router. Its methods end the test when they fail.
type Router struct {
	t      TB
	cmd    *exec.Cmd
	in     io.WriteCloser
	client *plain.Client
}

// Start starts a router, which ends with the test. The command's process is made
// by start, if that is not nil: so it can be in another network namespace.
func Start(t TB, cfg Config, start func(*exec.Cmd) error) *Router {
	t.Helper()
	text, err := json.Marshal(plain.Config{
		AS: cfg.AS, RouterID: cfg.RouterID, Listen: []netip.Addr{cfg.Addr}, Port: cfg.Port,
		Neighbours: []plain.Neighbour{{Addr: cfg.Peer, AS: cfg.PeerAS, Port: cfg.PeerPort, LocalAddr: cfg.Addr, Password: cfg.Password, RestartTime: cfg.RestartTime}},
	})
	if err != nil {
		t.Fatalf("%v", err)
	}
	r := &Router{t: t, cmd: exec.Command("/proc/self/exe")}
	r.cmd.Env = append(os.Environ(), roleVariable+"="+string(text))
	r.cmd.Stderr = os.Stderr
	if r.in, err = r.cmd.StdinPipe(); err != nil {
		t.Fatalf("%v", err)
	}
	out, err := r.cmd.StdoutPipe()
	if err != nil {
		t.Fatalf("%v", err)
	}
	r.client = plain.NewClient(out, r.in)
	if start == nil {
		start = (*exec.Cmd).Start
	}
	if err := start(r.cmd); err != nil {
		t.Fatalf("start a router: %v", err)
	}
	t.Cleanup(func() {
		r.in.Close()
		r.cmd.Wait()
	})
	r.session() // it has begun
	return r
}

func (r *Router) check(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatalf("router: %v", err)
	}
}

// Routes returns what the neighbour has announced, by prefix.
func (r *Router) Routes() []Route {
	r.t.Helper()
	list, err := r.client.Routes()
	r.check(err)
	return slices.DeleteFunc(list, func(x Route) bool { return !x.From.IsValid() })
}

// Prefixes returns the prefixes of Routes.
func (r *Router) Prefixes() (list []netip.Prefix) {
	r.t.Helper()
	for _, x := range r.Routes() {
		list = append(list, x.Prefix)
	}
	return list
}

func (r *Router) session() plain.Session {
	r.t.Helper()
	list, err := r.client.Sessions()
	r.check(err)
	return list[0]
}

// Established reports whether there is a session.
func (r *Router) Established() bool { return r.session().Established }

// Updates returns how many UPDATE messages have come in the present session.
func (r *Router) Updates() uint64 { return r.session().Updates }

// Announce announces prefixes, of an origin at the end of path.
func (r *Router) Announce(path []uint32, prefixes ...netip.Prefix) {
	r.t.Helper()
	r.check(r.client.Announce(path, prefixes...))
}

// Withdraw ends that.
func (r *Router) Withdraw(prefixes ...netip.Prefix) {
	r.t.Helper()
	r.check(r.client.Withdraw(prefixes...))
}

// FreePort returns a TCP port that nobody listens on at a.
func FreePort(t TB, a netip.Addr) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", netip.AddrPortFrom(a, 0).String())
	if err != nil {
		t.Fatalf("%v", err)
		return 0
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).AddrPort().Port()
}

// Eventually waits until ok, at most for limit.
func Eventually(t TB, limit time.Duration, what string, ok func() bool) time.Duration {
	t.Helper()
	start := time.Now()
	for !ok() {
		if time.Since(start) > limit {
			t.Fatalf("after %v still not: %s", limit, what)
		}
		time.Sleep(20 * time.Millisecond)
	}
	return time.Since(start)
}
