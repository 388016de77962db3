package xtr

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/eidolon-lisp/eidolon/internal/udp"
	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// XTR drives the machine: it owns the clock, the timer and the connection.
// Everything but Run may be called from any goroutine.
type XTR struct {
	onCache     func([]mapping.CacheChange)
	onDatabases func([]Database)
	onSources   func([]Source, []Path)
	onPathMTU   func([]PathMTU)
	onAnswering func(bool)
	onTraces    func([]*ResolutionTrace)
	stats       counters
	wake        chan struct{} // holds a token when there is output to flush
	telling     sync.Mutex    // held while OnDatabases and OnSources are called, in order

	mu      sync.Mutex // guards what follows
	m       *machine
	running bool
}

// New returns an xTR with an empty map-cache. It fails with all that is wrong
// with the configuration. Nothing happens before Run.
func New(cfg Config) (*XTR, error) {
	c, err := cfg.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("xtr configuration: %w", err)
	}
	x := &XTR{onCache: c.OnCache, onDatabases: c.OnDatabases, onSources: c.OnSources, onPathMTU: c.OnPathMTU, onAnswering: c.OnAnswering, onTraces: c.OnTraces, wake: make(chan struct{}, 1)}
	x.m = newMachine(c, &x.stats)
	return x, nil
}

// Run registers the site, resolves misses and answers Map-Requests until ctx
// ends or the connection is closed; then it withdraws the registrations, for
// which it waits 2 s at most. It closes conn. The error is nil after ctx ended.
//
// conn must receive on Config.Port of every address in Config.RLOCs. misses
// may be nil or closed; Run never blocks its sender for long, but the sender
// should drop a miss rather than wait. Run can be called once.
func (x *XTR) Run(ctx context.Context, conn udp.Conn, misses <-chan Miss) error {
	defer conn.Close()
	x.mu.Lock()
	if x.running {
		x.mu.Unlock()
		return errors.New("xtr: Run called twice")
	}
	x.running = true
	x.m.start(time.Now())
	x.mu.Unlock()

	r := receiver{x: x, conn: conn, answers: make(chan packet, queueLen), requests: make(chan packet, queueLen)}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer conn.Close() // ends the receiver, before the wait
	closed := make(chan struct{})
	wg.Go(func() { defer close(closed); r.loop() })

	timer := time.NewTimer(0)
	defer timer.Stop()
	done := ctx.Done()
	var linger <-chan time.Time
	for {
		x.flush(conn)
		x.arm(timer)
		if linger != nil && x.stopped() {
			return nil
		}
		select {
		case p := <-r.answers:
			x.do(func(now time.Time) { x.m.receive(now, p.msg, p.src, p.dst) })
		case p := <-r.requests:
			x.do(func(now time.Time) { x.m.receive(now, p.msg, p.src, p.dst) })
		case miss, ok := <-misses:
			if !ok {
				misses = nil
				continue
			}
			x.do(func(now time.Time) { x.m.miss(now, miss) })
		case <-x.wake:
		case <-timer.C:
			x.do(x.m.advance)
		case <-done:
			done = nil
			linger = time.After(stopLinger)
			x.do(x.m.stop)
		case <-linger:
			return nil
		case <-closed:
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("xtr: %w", net.ErrClosed)
		}
	}
}

// Used says that a data plane saw traffic for these entries of the map-cache
// since the last call. Call it in rounds, every 5 to 10 s: entries that are
// about to expire are refreshed when they are used, and others expire.
func (x *XTR) Used(eids []mapping.EID) {
	x.do(func(now time.Time) { x.m.used(now, eids) })
	x.poke()
}

// SetDatabases replaces the site's database-mappings: locators, priorities,
// weights and R bits that changed, and EID-prefixes that were added or removed.
// The new set is registered at once with every map-server, what is gone is
// withdrawn there, and who may hold an old mapping gets an SMR. It is checked
// as in Config; after an error nothing has changed. Databases that are equal to
// the present ones cause nothing. The slice stays the caller's.
func (x *XTR) SetDatabases(databases []Database) error {
	var err error
	x.do(func(now time.Time) { err = x.m.setDatabases(now, databases) })
	x.tell()
	x.poke()
	return err
}

// SetUplinks tells how the uplinks are now; call it at each change of a
// carrier, an address or an interface. Locators bound to them change at once,
// as with SetDatabases. After an error nothing has changed. It is for an xTR
// with Config.Uplinks. The slices stay the caller's.
func (x *XTR) SetUplinks(uplinks []Uplink) error {
	var err error
	x.do(func(now time.Time) { err = x.m.setUplinks(now, uplinks) })
	x.tell()
	x.poke()
	return err
}

// Traffic says what a data plane forwarded since the last call, for entries
// that carried traffic lately. Call it every 50 ms while there is any: traffic
// that goes one way only, where it went both ways before, makes the locators
// suspect. The slice stays the caller's.
func (x *XTR) Traffic(t []Traffic) {
	x.do(func(now time.Time) { x.m.traffic(now, t) })
	x.poke()
}

// UplinkTraffic says what went and came by each uplink since the last call. Call
// it as often as Traffic: an uplink that nothing comes in by any more, though
// packets go out, makes its paths suspect. The slice stays the caller's.
func (x *XTR) UplinkTraffic(t []UplinkTraffic) {
	x.do(func(now time.Time) { x.m.uplinkTraffic(now, t) })
	x.poke()
}

// PathMTUs says how large packets to the remote RLOCs in use may be. Call it in
// rounds of 5 to 10 s: paths are measured, and Config.OnPathMTU hears of those
// where such packets vanish without a message. The slice stays the caller's.
func (x *XTR) PathMTUs(list []PathMTU) {
	x.do(func(now time.Time) { x.m.pathMTUs(now, list) })
	x.poke()
}

// Unreachable says that an ICMP message called the remote end of p unreachable.
// It makes the path suspect and proves nothing: such messages can be forged
// (RFC 9301 section 7).
func (x *XTR) Unreachable(p Path) {
	x.do(func(now time.Time) { x.m.unreachable(now, p) })
	x.poke()
}

// SetMappingSystem replaces the map-servers and map-resolvers. The site registers
// at once with a map-server that is new, or whose keys or flags are, and is
// withdrawn from one that is gone; questions that are under way go on, to the
// map-resolvers that there are now. All is checked as in Config; after an error
// nothing has changed. The slices and the map stay the caller's.
func (x *XTR) SetMappingSystem(s MappingSystem) error {
	var err error
	x.do(func(now time.Time) { err = x.m.setMappingSystem(now, s) })
	x.poke()
	return err
}

// Clear removes exactly eid from the map-cache and reports whether it was
// there.
func (x *XTR) Clear(eid mapping.EID) (found bool) {
	x.do(func(now time.Time) { found = x.m.clear(now, eid) })
	x.poke()
	return found
}

// do gives the machine an input.
func (x *XTR) do(input func(now time.Time)) {
	x.mu.Lock()
	defer x.mu.Unlock()
	input(time.Now())
}

// poke makes Run flush what an input from another goroutine put out.
func (x *XTR) poke() {
	select {
	case x.wake <- struct{}{}:
	default:
	}
}

// tell reports the database-mappings in effect and the sources, if they changed.
func (x *XTR) tell() {
	x.telling.Lock()
	defer x.telling.Unlock()
	x.mu.Lock()
	databases, dbs := x.m.takeDatabases()
	sources, down, srcs := x.m.takeSources()
	x.mu.Unlock()
	if dbs && x.onDatabases != nil {
		x.onDatabases(databases)
	}
	if srcs && x.onSources != nil {
		x.onSources(sources, down)
	}
}

// flush sends and reports what the machine has put out.
func (x *XTR) flush(conn udp.Conn) {
	x.tell()
	x.mu.Lock()
	out, changes := x.m.take()
	mtus := x.m.mtus.found
	x.m.mtus.found = nil
	answers, told := x.m.answers.take()
	traces := x.m.takeTraces()
	x.mu.Unlock()
	// The planes learn first: a packet may wait for the mapping.
	if len(changes) > 0 && x.onCache != nil {
		x.onCache(changes)
	}
	if len(traces) > 0 {
		now := time.Now()
		for _, r := range traces {
			if r.Outcome == ResolutionAnswered {
				r.Ended = now
			}
		}
		defer x.onTraces(traces) // after what has to be sent
	}
	if len(mtus) > 0 && x.onPathMTU != nil {
		x.onPathMTU(mtus)
	}
	if told && x.onAnswering != nil {
		x.onAnswering(answers)
	}
	for _, d := range out {
		if err := conn.Write(d.data, d.src, d.dst); err != nil {
			x.stats.inc(sendErrors)
			x.m.log.Debug("send failed", "to", d.dst, "err", err)
		}
	}
}

// arm sets the timer to the machine's next wake-up.
func (x *XTR) arm(timer *time.Timer) {
	x.mu.Lock()
	at, ok := x.m.next()
	x.mu.Unlock()
	if !ok {
		timer.Stop()
		return
	}
	timer.Reset(time.Until(at))
}

func (x *XTR) stopped() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.m.reg.stopped()
}

// packet is a received datagram.
type packet struct {
	msg      []byte
	src, dst netip.AddrPort
}

// receiver reads datagrams and sorts them into two bounded queues, so that a
// flood of requests cannot displace the answers that the xTR waits for, and
// neither can stall the socket.
type receiver struct {
	x                 *XTR
	conn              udp.Conn
	answers, requests chan packet
}

// retryRead is the pause after a failed read, which grows to a hundred times
// that while reads fail.
const retryRead = 10 * time.Millisecond

func (r *receiver) loop() {
	buf := make([]byte, wire.MaxMessage)
	failures := 0
	for {
		n, src, dst, err := r.conn.Read(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			r.x.stats.inc(readErrors)
			failures = min(failures+1, 100)
			time.Sleep(time.Duration(failures) * retryRead)
			continue
		}
		failures = 0
		r.sort(buf[:n], src, dst)
	}
}

// sort queues one datagram. There is one sender for each queue, so a queue
// that has room keeps it until the message is copied.
func (r *receiver) sort(msg []byte, src, dst netip.AddrPort) {
	// RFC 9301 section 5: one of the ports is that of the control plane.
	if src.Port() != wire.Port && dst.Port() != wire.Port {
		r.x.stats.inc(controlWrongPort)
		return
	}
	queue := r.requests
	switch t, err := wire.PeekType(msg); {
	case err != nil:
		r.x.stats.inc(controlMalformed)
		return
	case t == wire.TypeMapReply, t == wire.TypeMapNotify, t == wire.TypeInfo:
		queue = r.answers
	}
	if len(queue) == cap(queue) {
		r.x.stats.inc(controlQueueFull)
		return
	}
	queue <- packet{slices.Clone(msg), src, dst}
}
