package dataplane

import (
	"context"
	"iter"
	"net/netip"
	"slices"
	"time"
)

// Config is what a Forwarder needs to know besides its FIB.
type Config struct {
	// Miss says what becomes of packets without a mapping.
	Miss MissPolicy
	// MapVersioning sends and checks map-versions (RFC 9302). Only for an
	// underlay where nobody forges packets: never on the public Internet
	// (section 8). Without it a packet that carries versions is dropped, as
	// all mappings have the null version then (section 6.1).
	MapVersioning bool
	// SourceCheck says how inner sources of received packets are checked.
	SourceCheck SourceCheck
	// MSSClamp lowers the maximum segment size in TCP handshakes, both ways, to
	// what fits the path to the other site.
	MSSClamp bool
	// Native are the instances whose packets are forwarded natively where the
	// mapping system says so; see Entry.SetNative.
	Native []uint32
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Forwarder is the core of a plane: it makes the workers and holds what they
// share. All methods may be called from any goroutine.
type Forwarder struct {
	fib      *FIB
	now      func() time.Time
	stats    Stats
	watch    <-chan struct{} // of the FIB, for RunHold
	misses   *misses
	hold     *hold // nil when the policy is to drop
	heard    *heard
	versions *versions

	versioning bool
	check      SourceCheck
	clamp      bool
	mismatches *mismatches
	native     []uint32

	unreachable chan Path
}

// unreachableQueue is how many paths may wait for the control plane.
const unreachableQueue = 64

// NewForwarder returns a core that forwards by fib. It starts no goroutine.
func NewForwarder(fib *FIB, cfg Config) *Forwarder {
	f := &Forwarder{fib: fib, now: cfg.Now, watch: fib.Watch(), misses: newMisses(), heard: newHeard(), versions: newVersions(),
		versioning: cfg.MapVersioning, check: cfg.SourceCheck, clamp: cfg.MSSClamp, mismatches: newMismatches(), native: slices.Clone(cfg.Native),
		unreachable: make(chan Path, unreachableQueue)}
	if f.now == nil {
		f.now = time.Now
	}
	if cfg.Miss.Hold {
		f.hold = newHold(cfg.Miss)
	}
	return f
}

// FIB returns the table.
func (f *Forwarder) FIB() *FIB { return f.fib }

// Misses returns the queue of destinations that want a mapping. It is bounded;
// what finds it full is counted and lost.
func (f *Forwarder) Misses() <-chan Miss { return f.misses.queue }

// Heard returns the outer sources of packets that were decapsulated since the
// last call, at most 4096, in no order; what found no room is counted. It is
// for one caller, who tells their sites when a mapping changes (RFC 9301
// section 6.1).
func (f *Forwarder) Heard() []netip.Addr { return f.heard.drain() }

// Versions returns the queue of what received packets say about mappings. It is
// bounded; what finds it full is counted and lost. Nothing comes without
// map-versioning and without a check of sources.
func (f *Forwarder) Versions() <-chan VersionEvent {
	if !f.versioning && f.check == SourcesUnchecked {
		return nil
	}
	return f.versions.queue
}

// Unreachable returns the queue of what TellUnreachable was told.
func (f *Forwarder) Unreachable() <-chan Path { return f.unreachable }

// TellUnreachable is for the part of a plane that hears of errors: our packets
// on the path do not arrive. It never waits; at most 64 paths wait, what is too
// much is lost, and both are counted in c.
func (f *Forwarder) TellUnreachable(p Path, c *Counters) {
	select {
	case f.unreachable <- p:
		c.Add(UnreachableQueued, 1)
	default:
		c.Add(UnreachableLost, 1)
	}
}

// Counters returns new counters that are part of Stats, for a part of the
// plane outside of the core.
func (f *Forwarder) Counters() *Counters { return f.stats.Worker() }

// End keeps what c has counted and forgets c, which was returned by Counters
// here or of a worker, and is not used any more.
func (f *Forwarder) End(c *Counters) { f.stats.End(c) }

// Stats returns name and value of every counter and every drop reason.
func (f *Forwarder) Stats() iter.Seq2[string, uint64] { return f.stats.All() }

// Count returns the sum of one counter over all workers.
func (f *Forwarder) Count(c Counter) uint64 { return f.stats.Get(c) }

// Drops returns how many packets all workers dropped for the reason.
func (f *Forwarder) Drops(r DropReason) uint64 { return f.stats.Drops(r) }

// holdTick is how often held packets are looked at without a change of the
// FIB: they age, and a worker may have put one in just after its mapping came.
const holdTick = 50 * time.Millisecond

// RunHold releases and expires held packets until ctx is done. Each instance's
// packets go out through its Encap in workers, which belong to this call. With
// the policy to drop it only waits.
func (f *Forwarder) RunHold(ctx context.Context, workers map[uint32]*Encap) {
	if f.hold == nil {
		<-ctx.Done()
		return
	}
	tick := time.NewTimer(time.Hour)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.watch:
		case <-f.hold.kick:
		case <-tick.C:
		}
		f.Release(f.now(), workers)
		if f.hold.active.Load() > 0 {
			tick.Reset(holdTick)
		}
	}
}

// Release sends the held packets whose mapping is there at now, in order, and
// drops those that were held for too long. RunHold calls it; so may a test.
func (f *Forwarder) Release(now time.Time, workers map[uint32]*Encap) {
	if f.hold == nil || f.hold.active.Load() == 0 {
		return
	}
	for _, k := range f.hold.keys() {
		w := workers[k.iid]
		if w == nil {
			continue
		}
		w.c.Drop(DropHoldTimeout, uint64(f.hold.expire(k, now)))
		e := f.fib.Snapshot().Lookup(k.iid, k.dst, f.hold.first(k), now)
		if e == nil || e.miss || w.native && e.drop == DropNativelyForward && e.use.native.Load() == 0 {
			continue
		}
		for pkts := f.hold.take(k); len(pkts) > 0; pkts = f.hold.take(k) {
			w.c.Add(ReleasedPackets, uint64(len(pkts)))
			w.release(now, pkts)
		}
	}
}
