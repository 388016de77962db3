package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/eidolon-lisp/eidolon/benchmarks/rig"
)

// job is what a child in namespaces of its own is to do.
type job struct {
	TE       bool // traffic engineering instead of a failure
	Arm      string
	Failure  string
	RTT      int // milliseconds
	Dir      string
	Programs string
	WarmUp   time.Duration // of the streams, before the failure
	Quick    bool
	Verbose  bool
}

// direction is what happened to the streams of one direction. Times are in
// milliseconds.
type direction struct {
	Outage    float64 `json:"outage_ms"` // of what was lost
	Pause     float64 `json:"pause_ms"`  // without an arrival
	Recovered bool    `json:"recovered"`
	Lost      int     `json:"lost"`
}

// result is what a child found out.
type result struct {
	Error string `json:"error,omitempty"`

	// UDP streams of 1 ms: of the flow that used the failed uplink, and of one
	// that used the other both ways. Nil where the arm has none.
	Out, In                   *direction `json:",omitempty"`
	BystanderOut, BystanderIn *direction `json:",omitempty"`
	// The TCP connection that used the failed uplink: whether it carried data
	// both ways at the end, and its longest pause.
	TCPSurvived bool
	TCPOut      direction
	TCPIn       direction
	TCPError    string `json:",omitempty"`
	Idle        string // "yes", or why the idle session is dead
	MPTCP       bool

	Control  counts        // sent from the failure to the end
	Before   counts        // sent until then, set-up included
	Window   time.Duration // from the failure to the end
	CoreFIB  [2]int        // routes in the core, before and after
	CoreSite [2]int        // those of them in the site's prefix
	CoreRIB  [2]int        // BGP paths in the core for the site's prefixes
	Delay    string

	TE *teResult `json:",omitempty"`
}

// runChild is the program of a run: the first process of a PID namespace, so
// that all it starts ends with it.
func runChild() int {
	// The parent holds the other end of standard input.
	in := bufio.NewReader(os.Stdin)
	var j job
	if err := readLine(in, &j); err != nil {
		fmt.Fprintln(os.Stderr, "failover: read the job:", err)
		return 1
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		in.ReadByte() // only ever ends
		cancel()
	}()
	res := &result{}
	err := rig.Private()
	if err == nil {
		res, err = j.run(ctx)
	}
	if err != nil {
		res.Error = err.Error()
	}
	if err := json.NewEncoder(os.Stdout).Encode(res); err != nil {
		return 1
	}
	return 0
}

func (j job) run(ctx context.Context) (*result, error) {
	res := &result{}
	a, err := armByName(j.Arm)
	if err != nil {
		return res, err
	}
	rtt := time.Duration(j.RTT) * time.Millisecond
	w, err := build(rtt)
	if err != nil {
		return res, err
	}
	defer w.close()
	res.Delay = w.delay
	c, err := newCounter(w.ns, owners())
	if err != nil {
		return res, err
	}
	defer c.close()
	g := &trial{arm: a, w: w, counter: c, warmUp: j.WarmUp, dir: j.Dir, programs: j.Programs, verbose: j.Verbose}
	defer g.stop()
	if j.TE {
		res.TE, err = g.engineer(ctx, c)
		return res, err
	}
	f, err := failureByName(j.Failure)
	if err != nil {
		return res, err
	}
	if j.Quick {
		flapTime = quickFlap
	}
	if err := g.start(ctx); err != nil {
		return res, err
	}
	return res, g.measure(ctx, f, c, rtt, res)
}

const quickFlap = 8 * time.Second

// owners tells whose each address is, also those that somebody gets later.
func owners() map[netip.Addr]string {
	own := map[netip.Addr]string{siteNewRLOC: "s", sitePA[0]: "hs", sitePA[1]: "hs", siteNewPA: "hs", remotePA: "hr"}
	for _, l := range links {
		own[l.aAddr.Addr()], own[l.bAddr.Addr()] = l.a, l.b
	}
	return own
}

const (
	readyTimeout = 40 * time.Second
	tailTime     = 2 * time.Second // after the streams are back
	backWindow   = 500 * time.Millisecond
	keyTimeout   = 10 * time.Second
)

// patience is how long a run waits for the streams to come back. BGP's hold
// timer is 90 s, and may begin anew when the neighbour is heard for a while;
// TCP, which doubles its time each time, tries again 204 s after the failure. A
// session that has nothing to go to is not waited for so long.
func (a arm) patience() time.Duration {
	switch {
	case a.bgp && a.detector:
		return 60 * time.Second
	case a.bgp:
		return 240 * time.Second
	case a.eidolon:
		return 60 * time.Second
	case a.mptcp:
		return 30 * time.Second
	}
	return 10 * time.Second
}

// measure runs the streams through a failure.
func (g *trial) measure(ctx context.Context, f failure, c *counter, rtt time.Duration, res *result) error {
	site, remote := g.arm.ends()
	x, err := watchWays(g.w)
	if err != nil {
		return err
	}
	begin := time.Now()
	streamCtx, stopStreams := context.WithCancel(ctx)
	var wg sync.WaitGroup
	var hit, other *udpFlow
	var tcp []*tcpFlow
	defer func() {
		stopStreams()
		for _, u := range []*udpFlow{hit, other} {
			if u != nil {
				u.close()
			}
		}
		closeFlows(tcp)
		wg.Wait()
	}()
	if !g.arm.mptcp {
		for {
			if hit, other, err = choose(g.w, x, site, remote); err == nil {
				break
			}
			if time.Since(begin) > readyTimeout || ctx.Err() != nil {
				x.close()
				return fmt.Errorf("no traffic gets through: %w", errors.Join(err, ctx.Err()))
			}
		}
	}
	n := candidates
	if g.arm.pa || g.arm.bgp {
		n = 2
	}
	ln, err := listenTCP(ctx, g.w, netip.AddrPortFrom(remote, tcpPort), g.arm.mptcp)
	if err != nil {
		x.close()
		return err
	}
	defer ln.Close()
	for {
		tcp, err = openTCP(ctx, g.w, site, ln, n, g.arm.mptcp)
		if err == nil {
			break
		}
		if time.Since(begin) > readyTimeout || ctx.Err() != nil {
			x.close()
			return fmt.Errorf("open TCP connections: %w", err)
		}
	}
	if g.arm.mptcp {
		err = g.subflows(x, tcp)
	} else {
		tcp, err = chooseTCP(x, tcp)
	}
	x.close()
	if err != nil {
		return err
	}
	session, idle := tcp[0], tcp[1]
	res.MPTCP = session.mptcp
	if g.arm.mptcp && !session.mptcp {
		return errors.New("the connection fell back to plain TCP")
	}

	begin = time.Now()
	var streams []*stream
	if hit != nil {
		hit.run(streamCtx, &wg, begin)
		streams = append(streams, hit.out, hit.in)
	}
	if other != nil {
		other.run(streamCtx, &wg, begin)
	}
	session.run(streamCtx, &wg, begin)
	streams = append(streams, session.out, session.in)
	if err := sleep(ctx, g.warmUp); err != nil {
		return err
	}
	for _, s := range streams {
		if !s.recovered(backWindow) {
			return errors.New("the streams do not run before the failure")
		}
	}
	if res.CoreFIB[0], res.CoreSite[0], err = g.w.coreRoutes(); err != nil {
		return err
	}
	if res.CoreRIB[0], err = g.ribPaths(); err != nil {
		return err
	}

	res.Before = c.snapshot()
	failed := time.Since(begin)
	if err := f.inject(ctx, g.w, g.arm); err != nil {
		return fmt.Errorf("%s: %w", f.name, err)
	}
	injected := time.Since(begin)
	back := func() bool {
		for _, s := range streams {
			if s.failed() == nil && !s.recovered(backWindow) {
				return false
			}
		}
		return true
	}
	for time.Since(begin)-injected < g.arm.patience() {
		if err := sleep(ctx, 50*time.Millisecond); err != nil {
			return err
		}
		if time.Since(begin)-injected > backWindow+200*time.Millisecond && back() {
			break
		}
	}
	if err := sleep(ctx, tailTime); err != nil {
		return err
	}
	// Keys are typed when the rest is back, or nobody believes in it any more.
	res.Idle = "yes"
	if err := idle.keystroke(keyTimeout); err != nil {
		res.Idle = err.Error()
	}
	end := time.Since(begin)
	res.Control = c.snapshot().minus(res.Before)
	res.Window = end - failed
	if res.CoreFIB[1], res.CoreSite[1], err = g.w.coreRoutes(); err != nil {
		return err
	}
	if res.CoreRIB[1], err = g.ribPaths(); err != nil {
		return err
	}
	tail := rtt + 300*time.Millisecond
	analyse := func(s *stream) *direction {
		x := s.gap(failed, end, tail)
		return &direction{Outage: milliseconds(x.outage), Pause: milliseconds(x.pause), Recovered: x.ended, Lost: x.lost}
	}
	if hit != nil {
		res.Out, res.In = analyse(hit.out), analyse(hit.in)
	}
	if other != nil {
		res.BystanderOut, res.BystanderIn = analyse(other.out), analyse(other.in)
	}
	res.TCPOut, res.TCPIn = *analyse(session.out), *analyse(session.in)
	failure := errors.Join(session.out.failed(), session.in.failed())
	if failure != nil {
		res.TCPError = failure.Error()
	}
	res.TCPSurvived = failure == nil && res.TCPOut.Recovered && res.TCPIn.Recovered
	return ctx.Err()
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// subflows wants packets of a connection over both providers.
func (g *trial) subflows(x *ways, flows []*tcpFlow) error {
	deadline := time.Now().Add(10 * time.Second)
	for {
		for _, f := range flows {
			if err := f.keystroke(5 * time.Second); err != nil {
				return err
			}
		}
		x.mu.Lock()
		seen := map[netip.Addr]bool{}
		for k := range maps.Keys(x.seen) {
			if k.proto == protoTCP {
				seen[k.src.Addr()] = true
			}
		}
		x.mu.Unlock()
		if seen[sitePA[0]] && seen[sitePA[1]] {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the connections have no subflow from %s within 10 s", sitePA[1])
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// logs returns the last lines of the programs' logs, for an error.
func logs(dir string) string {
	paths, _ := filepath.Glob(filepath.Join(dir, "*.log"))
	out := ""
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err != nil || len(b) == 0 {
			continue
		}
		if len(b) > 2000 {
			b = b[len(b)-2000:]
		}
		out += fmt.Sprintf("\n%s:\n%s", filepath.Base(p), b)
	}
	return out
}
