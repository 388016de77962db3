package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/eidolon-lisp/eidolon/internal/netns"
)

// teName stands for the failure in the rows of traffic engineering.
const teName = "te"

const (
	teTarget  = 0.70 // of the inbound packets by the first provider
	teRate    = 4000 // packets a second
	teSockets = 64
	tePort    = 32000
	teBefore  = 8 * time.Second
	teAfter   = 10 * time.Second // from the change to the end
	teBin     = 200 * time.Millisecond
	teMargin  = 0.06 // a bin is this near to the end's share when all has moved
	teSteady  = 5    // bins in a row that show that; one alone may by chance
)

// teResult is what moving the site's inbound traffic took.
type teResult struct {
	Before, After float64 // share of the first provider
	Took          time.Duration
	Lost          int
	Control       counts
	FIB, RIB      [2]int // routes and BGP paths in the core for the site, before and after
}

// passing is a packet that was seen at a provider.
type passing struct {
	at       time.Duration
	provider int
}

// The BGP way: each half of the site's prefix is announced by one provider,
// and the whole by both, as a reserve. To move traffic, parts of the second
// half are announced by the first provider too. Prefixes longer than /24 are
// filtered in the Internet, so a sixteenth of the block is what can be moved.
var (
	teHalves = []netip.Prefix{pfx("10.20.0.0/21"), pfx("10.20.8.0/21")}
	teMoved  = []netip.Prefix{pfx("10.20.8.0/23"), pfx("10.20.10.0/24")}
)

func teSpeakerConfigs(verbose bool) map[string]*speakerConfig {
	all := speakerConfigs(false, verbose)
	s := all["s"]
	s.Originate = append([]netip.Prefix{pfx(siteBlock)}, teHalves...)
	for i := range s.Neighbors {
		n := &s.Neighbors[i]
		n.LocalPref, n.Prepend = 0, 0
		half := teHalves[0]
		if n.Addr == providers[1] {
			half = teHalves[1]
		}
		n.Export = []netip.Prefix{pfx(siteBlock), half}
	}
	return all
}

// engineer moves inbound traffic from 50/50 to 70/30.
func (g *trial) engineer(ctx context.Context, c *counter) (*teResult, error) {
	if err := g.startTE(ctx); err != nil {
		return nil, err
	}
	// All addresses of the block are the host's, but for that of its router.
	err := g.w.ns["hs"].Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return errors.Join(
			netlink.RouteAdd(&netlink.Route{Dst: netns.IPNet(pfx("10.20.0.1/32")), LinkIndex: mustIndex("eth0"), Table: unix.RT_TABLE_LOCAL, Scope: netlink.SCOPE_LINK}),
			netlink.RouteAdd(&netlink.Route{Dst: netns.IPNet(pfx(siteBlock)), LinkIndex: lo.Attrs().Index, Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL, Scope: netlink.SCOPE_HOST}))
	})
	if err != nil {
		return nil, fmt.Errorf("hs: %w", err)
	}
	for _, half := range teHalves {
		if err := g.w.addRoute(route{"s", half, siteHost, 0}); err != nil {
			return nil, err
		}
	}
	l, err := newLoad(g.w)
	if err != nil {
		return nil, err
	}
	defer l.close()
	begin := time.Now()
	for received := uint64(0); received < teSockets; received = l.received.Load() {
		l.burst(teSockets)
		if err := sleep(ctx, 100*time.Millisecond); err != nil {
			return nil, err
		}
		if time.Since(begin) > readyTimeout {
			return nil, errors.New("no traffic gets through")
		}
	}
	if err := sleep(ctx, time.Second); err != nil {
		return nil, err
	}
	res := &teResult{}
	if res.FIB[0], res.RIB[0], err = g.coreState(); err != nil {
		return nil, err
	}
	watch, err := watchPassing(g.w)
	if err != nil {
		return nil, err
	}
	defer watch.close()
	sent, received := l.sent.Load(), l.received.Load()
	loadCtx, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { l.run(loadCtx) })
	defer wg.Wait()
	defer stop()
	if err := sleep(ctx, teBefore); err != nil {
		return nil, err
	}
	before := c.snapshot()
	changed := watch.now()
	if err := g.moveTraffic(ctx); err != nil {
		return nil, err
	}
	if err := sleep(ctx, teAfter); err != nil {
		return nil, err
	}
	res.Control = c.snapshot().minus(before)
	stop()
	wg.Wait()
	if err := sleep(ctx, 500*time.Millisecond); err != nil {
		return nil, err
	}
	res.Lost = int(l.sent.Load()-sent) - int(l.received.Load()-received)
	if res.FIB[1], res.RIB[1], err = g.coreState(); err != nil {
		return nil, err
	}
	res.Before, res.After, res.Took = moved(watch.list(), changed)
	return res, nil
}

// startTE sets the arm up with traffic shared 50/50.
func (g *trial) startTE(ctx context.Context) error {
	switch {
	case g.arm.eidolon:
		return g.start(ctx)
	case g.arm.bgp:
		if err := g.w.addRoute(route{"c3", pfx(remoteBlock), remoteRLOC, 0}); err != nil {
			return err
		}
		return g.startSpeakers(ctx, teSpeakerConfigs(g.verbose))
	}
	return fmt.Errorf("%s moves no traffic", g.arm.name)
}

func (g *trial) coreState() (fib, rib int, err error) {
	if _, fib, err = g.w.coreRoutes(); err != nil {
		return 0, 0, err
	}
	rib, err = g.ribPaths()
	return fib, rib, err
}

// moveTraffic tells the network to share 70/30.
func (g *trial) moveTraffic(ctx context.Context) error {
	if g.arm.bgp {
		for _, p := range teMoved {
			if _, err := g.speakers["s"].ask(speakerRequest{Op: "announce", Prefix: p, To: providers[0]}); err != nil {
				return err
			}
		}
		return nil
	}
	config := g.xtrConfig("a", siteBlock, siteLocators(70, 30), g.socket("s"))
	if err := os.WriteFile(g.configPath("s"), []byte(config), 0o600); err != nil {
		return err
	}
	return g.daemons["s"].Process.Signal(syscall.SIGHUP)
}

// moved finds the shares of the first provider before the change and at the
// end, and how long it took until they were steadily near to that of the end.
func moved(list []passing, changed time.Duration) (before, after float64, took time.Duration) {
	bins := map[time.Duration][2]int{} // by the time since the change, in bins
	var last time.Duration
	for _, p := range list {
		b := (p.at - changed).Truncate(teBin)
		if p.at < changed {
			b -= teBin
		}
		x := bins[b]
		x[p.provider]++
		bins[b] = x
		last = max(last, b)
	}
	share := func(from, to time.Duration) float64 {
		var n [2]int
		for b := from; b < to; b += teBin {
			n[0], n[1] = n[0]+bins[b][0], n[1]+bins[b][1]
		}
		return float64(n[0]) / float64(max(n[0]+n[1], 1))
	}
	before = share(-3*time.Second, 0)
	after = share(last-3*time.Second, last)
	steady := 0
	for b := time.Duration(0); b < last && steady < teSteady; b += teBin {
		if d := share(b, b+teBin) - after; d > teMargin || d < -teMargin {
			took, steady = b+teBin, 0
		} else {
			steady++
		}
	}
	return before, after, took
}

// load sends from the remote host to all addresses of the site, so that each
// packet is of another flow for a while.
type load struct {
	from           []*net.UDPConn
	to             *net.UDPConn
	rng            *rand.Rand
	sent, received atomic.Uint64
}

func newLoad(w *world) (*load, error) {
	l := &load{rng: rand.New(rand.NewPCG(1, 2))}
	err := w.ns["hs"].Do(func() (err error) {
		l.to, err = net.ListenUDP("udp4", &net.UDPAddr{Port: tePort})
		return err
	})
	if err != nil {
		return nil, err
	}
	l.to.SetReadBuffer(4 << 20)
	err = w.ns["hr"].Do(func() error {
		for range teSockets {
			c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: remoteHost.AsSlice()})
			if err != nil {
				return err
			}
			l.from = append(l.from, c)
		}
		return nil
	})
	if err != nil {
		l.close()
		return nil, err
	}
	go func() {
		b := make([]byte, 64)
		for {
			if _, err := l.to.Read(b); err != nil {
				return
			}
			l.received.Add(1)
		}
	}()
	return l, nil
}

// burst sends n packets of random flows.
func (l *load) burst(n int) {
	base := pfx(siteBlock).Addr().As4()
	for range n {
		// Not the network's own address or its router's, nor the broadcast one.
		h := 2 + l.rng.IntN(1<<(32-pfx(siteBlock).Bits())-3)
		a := base
		a[2] |= byte(h >> 8)
		a[3] = byte(h)
		c := l.from[l.rng.IntN(len(l.from))]
		c.WriteToUDPAddrPort([]byte("load"), netip.AddrPortFrom(netip.AddrFrom4(a), tePort))
		l.sent.Add(1)
	}
}

func (l *load) run(ctx context.Context) {
	const slice = 5 * time.Millisecond
	for next := time.Now(); ctx.Err() == nil; next = next.Add(slice) {
		time.Sleep(time.Until(next))
		l.burst(int(teRate * slice / time.Second))
	}
}

func (l *load) close() {
	for _, c := range l.from {
		c.Close()
	}
	l.to.Close()
}

// passings records when packets of the load come from a provider to the site.
type passings struct {
	begin time.Time
	ways  *ways
	mu    sync.Mutex
	seen  []passing
}

func watchPassing(w *world) (*passings, error) {
	p := &passings{begin: time.Now()}
	var err error
	p.ways, err = watchPackets(w, func(_ *ways, provider int, x packet) {
		if x.proto == protoUDP && x.dst.Port() == tePort {
			p.mu.Lock()
			p.seen = append(p.seen, passing{time.Since(p.begin), provider})
			p.mu.Unlock()
		}
	})
	return p, err
}

func (p *passings) now() time.Duration { return time.Since(p.begin) }

func (p *passings) list() []passing {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen
}

func (p *passings) close() { p.ways.close() }

// fill writes the columns of te.csv.
func (te *teResult) fill(r row) {
	for k, v := range map[string]string{
		"te_share_before": fmt.Sprintf("%.4f", te.Before), "te_share_after": fmt.Sprintf("%.4f", te.After),
		"te_ms": strconv.Itoa(int(te.Took.Milliseconds())), "te_prefixes": strconv.Itoa(te.FIB[1] - te.FIB[0]), "in_lost": strconv.Itoa(te.Lost),
		"core_site_fib_before": strconv.Itoa(te.FIB[0]), "core_site_fib_after": strconv.Itoa(te.FIB[1]),
		"core_rib_before": strconv.Itoa(te.RIB[0]), "core_rib_after": strconv.Itoa(te.RIB[1]),
		"window_s": fmt.Sprintf("%.1f", teAfter.Seconds()),
	} {
		r[k] = v
	}
	r.counts(te.Control)
}

func (te *teResult) summary() string {
	return fmt.Sprintf("share %.1f %% to %.1f %% in %s, %d lost; %d routes more in the core; %s",
		100*te.Before, 100*te.After, te.Took, te.Lost, te.FIB[1]-te.FIB[0], te.Control)
}
