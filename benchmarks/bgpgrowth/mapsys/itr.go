package mapsys

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/xtr"
)

// Load is traffic from one site to all the others.
type Load struct {
	Zipf     float64       // exponent of the law that destinations are drawn by
	Rate     float64       // flows a second
	Duration time.Duration //
	Cache    int           // entries that fit in the map-cache; 0: as many as there are sites
	// Unlimited takes the ITR's own limits of new resolutions away. They are meant
	// for hosts that scan, and hide what the cache alone does.
	Unlimited bool
	Seed      uint64
}

// Traffic is what became of a load.
type Traffic struct {
	Count
	Packets, Misses int // first packets of flows, and those of them that found no entry
	Entries         int // in the end
	// Waits is how long first packets that found no entry waited, or have waited
	// until the end, in any order.
	Waits  []time.Duration
	Window time.Duration
}

// Wait returns the time that a share q of the first packets that found no entry did
// not exceed until there was one.
func (t *Traffic) Wait(q float64) time.Duration {
	if len(t.Waits) == 0 {
		return 0
	}
	w := slices.Clone(t.Waits)
	slices.Sort(w)
	return w[min(int(q*float64(len(w))), len(w)-1)]
}

// hosts is how many hosts of the site the flows come from.
const hosts = 200

// itr is an xTR that sends to all sites, with the map-cache as its plane has it.
type itr struct {
	sites   []Site
	index   map[netip.Prefix]int
	xtr     *xtr.XTR
	misses  chan xtr.Miss
	mu      sync.Mutex
	has     []bool
	entries int
	used    []bool // since the xTR was last told
	waiting map[int]*wait
	waits   []time.Duration
}

// wait is flows to a destination that is not resolved yet.
type wait struct {
	began []time.Time
	again time.Time // when the hosts try again
}

// retry is when a host that has no answer sends again, as TCP does.
const retry = time.Second

// newITR makes an ITR; with an xTR-ID that is not zero it subscribes.
func newITR(sites []Site, system *System, addr netip.Addr, id mapping.XTRID, load Load) (*itr, *port, error) {
	p, err := listen(system.counter, control(addr))
	if err != nil {
		return nil, nil, err
	}
	x := &itr{
		sites: sites, index: make(map[netip.Prefix]int), misses: make(chan xtr.Miss, 4096),
		has: make([]bool, len(sites)), used: make([]bool, len(sites)), waiting: make(map[int]*wait),
	}
	for i, s := range sites {
		x.index[s.EID] = i
	}
	cfg := xtr.Config{
		RLOCs:        []netip.Addr{addr},
		MapResolvers: []netip.AddrPort{system.addr},
		CacheLimit:   load.Cache,
		RLOCProbing:  xtr.RLOCProbing{Off: true}, // nobody is behind most of the locators
		OnCache:      x.learned,
	}
	if id != (mapping.XTRID{}) {
		cfg.XTRID, cfg.PubSub = id, &xtr.PubSub{Key: siteKey(-1)}
	}
	if load.Cache == 0 {
		cfg.CacheLimit = len(sites)
	}
	if load.Unlimited {
		const none = 1 << 24
		cfg.Limits = xtr.Limits{Pending: none, PendingPerHost: none, Rate: none, RatePerHost: none}
	}
	if x.xtr, err = xtr.New(cfg); err != nil {
		p.Close()
	}
	return x, p, err
}

func (x *itr) learned(changes []mapping.CacheChange) {
	now := time.Now()
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, c := range changes {
		i, ok := x.index[c.EID.Prefix]
		if !ok {
			continue
		}
		there := current(c.Record).IsValid()
		if there != x.has[i] {
			x.has[i] = there
			if there {
				x.entries++
			} else {
				x.entries--
			}
		}
		if w := x.waiting[i]; there && w != nil {
			for _, at := range w.began {
				x.waits = append(x.waits, now.Sub(at))
			}
			delete(x.waiting, i)
		}
	}
}

// packet is the first packet of a flow to site i, and reports whether it found an
// entry.
func (x *itr) packet(now time.Time, i int, src netip.Addr) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.has[i] {
		x.used[i] = true
		return true
	}
	w := x.waiting[i]
	if w == nil {
		w = &wait{again: now.Add(retry)}
		x.waiting[i] = w
		x.miss(i, src)
	}
	w.began = append(w.began, now)
	return false
}

// miss tells the xTR, as a plane does: what does not fit in the queue is tried again
// by the host.
func (x *itr) miss(i int, src netip.Addr) {
	e := x.sites[i].EID
	dst := e.Addr().Next()
	if !e.Contains(dst) { // one host
		dst = e.Addr()
	}
	select {
	case x.misses <- xtr.Miss{Dst: dst, Src: src}:
	default:
	}
}

// again has the hosts try again that have waited long enough.
func (x *itr) again(now time.Time, src func() netip.Addr) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for i, w := range x.waiting {
		if now.After(w.again) {
			w.again = now.Add(retry)
			x.miss(i, src())
		}
	}
}

// tell says which entries were used.
func (x *itr) tell() {
	x.mu.Lock()
	var list []mapping.EID
	for i, u := range x.used {
		if u {
			list = append(list, eid(x.sites[i].EID))
		}
		x.used[i] = false
	}
	x.mu.Unlock()
	x.xtr.Used(list)
}

// Run puts a load on an ITR whose map-cache is empty. Which site is how popular is by
// chance.
func (s *System) Run(ctx context.Context, load Load) (t Traffic, err error) {
	rng := rand.New(rand.NewPCG(load.Seed, 1))
	z, err := newZipf(load.Zipf, len(s.cfg.Sites), rng)
	if err != nil {
		return t, err
	}
	if load.Rate <= 0 {
		return t, fmt.Errorf("%v flows a second", load.Rate)
	}
	rank := rng.Perm(len(s.cfg.Sites))
	source := func() netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, byte(1 + rng.IntN(hosts))}) }
	return s.load(ctx, load, func(x *itr) (packets, misses int, err error) {
		const tick = 2 * time.Millisecond
		begin := time.Now()
		told := begin
		for {
			now := time.Now()
			for ; float64(packets) < now.Sub(begin).Seconds()*load.Rate; packets++ {
				if !x.packet(now, rank[z.draw()], source()) {
					misses++
				}
			}
			x.again(now, source)
			if now.Sub(told) >= usedEvery {
				told = now
				x.tell()
			}
			if now.Sub(begin) >= load.Duration {
				return packets, misses, nil
			}
			if err := sleep(ctx, tick); err != nil {
				return packets, misses, err
			}
		}
	})
}

// Restart is an ITR that begins anew while flows to the first n sites go on: each
// sends a packet at once, and tries again until it gets through. It returns when all
// do, or after limit.
func (s *System) Restart(ctx context.Context, n int, limit time.Duration, load Load) (t Traffic, err error) {
	rng := rand.New(rand.NewPCG(load.Seed, 2))
	source := func() netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, byte(1 + rng.IntN(hosts))}) }
	list := rng.Perm(len(s.cfg.Sites))[:min(n, len(s.cfg.Sites))]
	return s.load(ctx, load, func(x *itr) (packets, misses int, err error) {
		begin := time.Now()
		for _, i := range list {
			packets++
			if !x.packet(begin, i, source()) {
				misses++
			}
		}
		for {
			x.mu.Lock()
			left := len(x.waiting)
			x.mu.Unlock()
			if left == 0 || time.Since(begin) > limit {
				return packets, misses, nil
			}
			if err := sleep(ctx, time.Millisecond); err != nil {
				return packets, misses, err
			}
			x.again(time.Now(), source)
		}
	})
}

// load runs an ITR while drive makes packets.
func (s *System) load(ctx context.Context, load Load, drive func(*itr) (packets, misses int, err error)) (t Traffic, err error) {
	x, p, err := newITR(s.cfg.Sites, s, itrAddr(s.addr.Addr()), mapping.XTRID{}, load)
	if err != nil {
		return t, err
	}
	run, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer p.Close()
	defer cancel()
	s.counter.reset(netip.Prefix{})
	begin := time.Now()
	wg.Go(func() { s.keep(x.xtr.Run(run, p, x.misses)) })
	t.Packets, t.Misses, err = drive(x)
	t.Window = time.Since(begin)
	t.Count, _ = s.counter.counts()
	x.mu.Lock()
	t.Entries, t.Waits = x.entries, slices.Clone(x.waits)
	for _, w := range x.waiting {
		for _, at := range w.began {
			t.Waits = append(t.Waits, begin.Add(t.Window).Sub(at))
		}
	}
	x.mu.Unlock()
	if err == nil {
		err = s.errors()
	}
	return t, err
}
