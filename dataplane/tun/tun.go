// Package tun is the portable data plane: a TUN device for each instance on
// the host side, ordinary UDP sockets on the underlay side, both with
// segmentation offload and in batches. It needs CAP_NET_ADMIN and no kernel
// module but tun, and works inside a user namespace.
//
// It sets up its own routes and rules, removes them when Run ends, and leaves
// an unreachable route where it was killed, so that packets of the site never
// leave it natively.
package tun

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/mapping"
)

// DefaultTable is the kernel routing table of the first instance.
const DefaultTable = 4341

// Limits and intervals that are ours.
const (
	// MaxQueues is the largest number of queues that a plane makes by itself.
	MaxQueues = 8
	// bindInterval is how often an address that was missing is tried again.
	bindInterval = 100 * time.Millisecond
	// mtuInterval is how often the MTU of uplinks and routes is read again.
	mtuInterval = 10 * time.Second
)

// Instance is one instance-ID and the TUN device for it.
type Instance struct {
	IID uint32
	// Device is the interface name, at most 15 octets; "" means eidolonIID.
	Device string
	// Native forwards packets natively, by the kernel's other routes, where the
	// mapping system says so.
	Native bool
}

// Config is what New needs. It is not changed, and must not be while the plane
// lives.
type Config struct {
	// Instances are those that this xTR has EIDs in or is a proxy for; at least
	// one.
	Instances []Instance
	// Locals are the EIDs of the site; each is of one of the instances.
	Locals []mapping.EID
	// Guarded are EID-prefixes in which the site has EIDs that come and go, see
	// SetLocals: what is sent from them never follows a provider's route, be it
	// a local EID at the time or not, and what is sent to them follows the site's
	// routes where there are any.
	Guarded []mapping.EID
	// ProxyITR are EID-prefixes to attract: routes in the main table lead to the
	// devices. ProxyETR are those that this is a proxy-ETR for. The FIB has to
	// be told too, with SetProxies.
	ProxyITR, ProxyETR []mapping.EID
	// Host, unless nil, says that this is a host: the Locals, which are single
	// addresses, at most one of each family in an instance, are addresses of the
	// devices, and sources of what sockets send to the EID-prefixes in Host
	// without being bound to an address.
	Host []mapping.EID
	// Sources are the RLOCs of this xTR at the beginning, see SetRLOCs: packets
	// are received on all, and sent from the first of each family until the FIB
	// is told otherwise.
	Sources []netip.Addr
	// Table is the kernel routing table of the first instance; the others take
	// the numbers after it. 0 means DefaultTable.
	Table int
	// UplinkMTU is the MTU of the way to the providers, in octets; 0 means that
	// of the interfaces that have the Sources.
	UplinkMTU int
	// Queues is the number of queues, and so of workers, each way; 0 means one
	// for each CPU, at most 8.
	Queues int
	// Miss says what becomes of packets without a mapping.
	Miss dataplane.MissPolicy
	// MapVersioning sends and checks map-versions; only for a trusted
	// underlay. The versions of Locals are told to the FIB with SetLocal.
	MapVersioning bool
	// SourceCheck says how inner sources of received packets are checked.
	SourceCheck dataplane.SourceCheck
	// MSSClamp lowers the maximum segment size in TCP handshakes to what fits
	// the path.
	MSSClamp bool
	// Unfinished allows packets to leave with checksums inside that nobody has
	// computed, and super-packets in one piece. A network card finishes both; out
	// of virtual links (veth, bridge, virtio) they arrive as they are, so all
	// routers behind such links must take them. Those of this package do, and so
	// does who decapsulates in the kernel, but not every program that reads a
	// socket. Where the kernel can't (Linux 6.17) packets leave finished.
	Unfinished bool
	// Logger gets what happens rarely; nil discards.
	Logger *slog.Logger
}

// Plane is a running or ready data plane. It implements dataplane.Plane.
type Plane struct {
	cfg Config
	log *slog.Logger
	fib *dataplane.FIB
	fwd *dataplane.Forwarder
	c   *dataplane.Counters // of what is outside of the workers

	devices map[uint32][]*queue
	marker  *os.File // nil if no instance is native
	outlet  *outlet  // nil if there is none
	pools   atomic.Pointer[[]*pool]

	hostMu     sync.Mutex // guards the local EIDs of host
	host       *host
	hostClosed bool

	changed chan struct{} // has a value after SetRLOCs

	mu      sync.Mutex
	bound   []*binding
	missing []netip.Addr // RLOCs that are not bound
	closed  bool

	deviceDrops uint64 // of the kernel, counted already

	uplinkMTU, deviceMTU int // of New, then of the goroutine that runs maintain
}

// binding is one local RLOC with its sockets.
type binding struct {
	addr      netip.Addr
	receivers []*receiver
	pool      *pool
	running   bool // its goroutines were started
}

func (b *binding) close() {
	for _, r := range b.receivers {
		r.close()
	}
	b.pool.close()
}

// New creates the devices, binds the sockets, and sets up routes and rules; from
// then on packets of the Locals go to the plane. It also tells fib the Locals
// and the Sources. Nothing is forwarded before Run, which must follow, or
// Close.
//
// An address of Sources that no interface has is no error; see Missing.
func New(cfg Config, fib *dataplane.FIB) (_ *Plane, err error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	p := &Plane{
		cfg: cfg, log: cfg.Logger, fib: fib, fwd: dataplane.NewForwarder(fib, dataplane.Config{
			Miss: cfg.Miss, Native: natively(cfg.Instances), MapVersioning: cfg.MapVersioning, SourceCheck: cfg.SourceCheck, MSSClamp: cfg.MSSClamp}),
		devices: make(map[uint32][]*queue), missing: slices.Clone(cfg.Sources),
		changed: make(chan struct{}, 1),
	}
	p.c = p.fwd.Counters()
	p.pools.Store(new([]*pool))
	if p.host, err = newHost(&p.cfg); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.host.undo(), p.release())
		}
	}()
	for _, in := range p.cfg.Instances {
		if p.devices[in.IID], err = openDevice(in.Device, p.cfg.Queues); err != nil {
			return nil, err
		}
	}
	if native(p.cfg.Instances) {
		if p.marker, err = openMarker(); err != nil {
			return nil, err
		}
	}
	if p.cfg.Unfinished {
		if p.outlet, err = openOutlet(); err != nil {
			p.log.Info("super-packets are cut, each into the packets that it stands for", "err", err)
			err = nil
		}
	}
	if err = p.bind(); err != nil {
		return nil, err
	}
	p.uplinkMTU = p.findUplinkMTU()
	fib.SetDefaultMTU(p.uplinkMTU)
	local := make([]dataplane.LocalEID, len(cfg.Locals))
	for i, e := range cfg.Locals {
		local[i].EID = e
	}
	fib.SetLocal(local)
	fib.SetSources(firstOfEach(cfg.Sources))
	p.setDeviceMTU(p.wantDeviceMTU())
	if err = p.host.setUp(p.deviceMTU); err != nil {
		return nil, err
	}
	if p.outlet != nil {
		if err := p.host.setUpOutlet(p.outlet); err != nil {
			p.log.Warn("super-packets are cut, each into the packets that it stands for", "err", err)
			_ = p.outlet.Close()
			p.outlet = nil
		}
	}
	return p, nil
}

// complete checks the configuration and puts defaults in.
func (c *Config) complete() error {
	if len(c.Instances) == 0 {
		return errors.New("data plane: no instance")
	}
	c.Instances = slices.Clone(c.Instances)
	for i := range c.Instances {
		in := &c.Instances[i]
		if in.Device == "" {
			in.Device = fmt.Sprintf("eidolon%d", in.IID)
		}
		for _, other := range c.Instances[:i] {
			if other.IID == in.IID || other.Device == in.Device {
				return fmt.Errorf("data plane: instances %d and %d share an instance-ID or a device", other.IID, in.IID)
			}
		}
	}
	if err := c.checkEIDs(slices.Concat(c.Locals, c.Guarded, c.ProxyITR, c.ProxyETR, c.Host)); err != nil {
		return err
	}
	for _, e := range c.Locals {
		if c.Host != nil && !e.Prefix.IsSingleIP() {
			return fmt.Errorf("data plane: the EID %v of a host is no address", e)
		}
	}
	for _, a := range c.Sources {
		if err := mapping.ValidRLOC(a); err != nil {
			return fmt.Errorf("data plane: source RLOC: %w", err)
		}
	}
	if c.Table == 0 {
		c.Table = DefaultTable
	}
	if c.Queues <= 0 {
		c.Queues = min(runtime.GOMAXPROCS(0), MaxQueues)
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// checkEIDs fails for EIDs that the kernel's routing can't be told of.
func (c *Config) checkEIDs(eids []mapping.EID) error {
	for _, e := range eids {
		if !slices.ContainsFunc(c.Instances, func(in Instance) bool { return in.IID == e.IID }) {
			return fmt.Errorf("data plane: the EID %v is of no configured instance", e)
		}
		if e.Source.IsValid() {
			return fmt.Errorf("data plane: the EID %v has a source of its own, which the kernel's rules can't express", e)
		}
	}
	return nil
}

// SetLocals replaces the EIDs of the site in the kernel's routing; the FIB has to
// be told too, with SetLocal, after new ones were added here and before others
// are removed, so that no packet of the site leaves by a provider. What an EID
// that stays sends is not disturbed. After an error the next call tries the rest
// again. On a host (Config.Host) it fails, and then has done nothing. The slice
// stays the caller's.
func (p *Plane) SetLocals(locals []mapping.EID) error {
	if p.cfg.Host != nil {
		return errors.New("data plane: the EIDs of a host are fixed")
	}
	if err := p.cfg.checkEIDs(locals); err != nil {
		return err
	}
	p.hostMu.Lock()
	defer p.hostMu.Unlock()
	if p.hostClosed {
		return nil
	}
	return p.host.setLocals(slices.Clone(locals))
}

// firstOfEach prefers the first address of each family.
func firstOfEach(list []netip.Addr) (sources []dataplane.Source) {
	for i, a := range list {
		src := dataplane.Source{Addr: a, Priority: 1, Weight: 100}
		if slices.ContainsFunc(list[:i], func(b netip.Addr) bool { return b.Is4() == a.Is4() }) {
			src.Priority = 2
		}
		sources = append(sources, src)
	}
	return sources
}

// Forwarder returns the core, for a part of the plane that is elsewhere.
func (p *Plane) Forwarder() *dataplane.Forwarder { return p.fwd }

// SourcePorts returns the UDP source ports of the packets that are sent from a
// source: that of a flow is at (hash >> 8) modulo their number, which is 16.
// Whoever sends from them gets told here what ICMP messages say of it. It is nil
// when the source is not bound.
func (p *Plane) SourcePorts(src netip.Addr) []uint16 {
	for _, pool := range *p.pools.Load() {
		if pool.src == src {
			return pool.numbers[:]
		}
	}
	return nil
}

// Instances returns the instances with the names of their devices. The slice
// must not be changed.
func (p *Plane) Instances() []Instance { return p.cfg.Instances }

// Misses implements dataplane.Plane.
func (p *Plane) Misses() <-chan dataplane.Miss { return p.fwd.Misses() }

// Heard implements dataplane.Plane.
func (p *Plane) Heard() []netip.Addr { return p.fwd.Heard() }

// Versions implements dataplane.Plane.
func (p *Plane) Versions() <-chan dataplane.VersionEvent { return p.fwd.Versions() }

// Unreachable implements dataplane.Plane.
func (p *Plane) Unreachable() <-chan dataplane.Path { return p.fwd.Unreachable() }

// Stats implements dataplane.Plane.
func (p *Plane) Stats() iter.Seq2[string, uint64] {
	p.countKernelDrops()
	return p.fwd.Stats()
}

// countKernelDrops adds what the kernel has dropped, for want of room, since
// the last time.
func (p *Plane) countKernelDrops() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	var device uint64
	for _, in := range p.cfg.Instances {
		if l, err := p.host.h.LinkByName(in.Device); err == nil && l.Attrs().Statistics != nil {
			device += l.Attrs().Statistics.TxDropped
		}
	}
	for _, b := range p.bound {
		p.countSocketDrops(b)
	}
	if device > p.deviceDrops {
		p.c.Drop(dataplane.DropHostQueue, device-p.deviceDrops)
		p.deviceDrops = device
	}
}

// countSocketDrops is countKernelDrops for the sockets of one RLOC. Called under
// mu.
func (p *Plane) countSocketDrops(b *binding) {
	for _, r := range b.receivers {
		if n := r.drops(); n > r.counted {
			p.c.Drop(dataplane.DropReceiveBuffer, n-r.counted)
			r.counted = n
		}
	}
}

// Missing returns those RLOCs whose address no interface had at the last try;
// Run tries all 100 ms.
func (p *Plane) Missing() []netip.Addr {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.missing)
}

// rlocs returns the local RLOCs, missing ones too.
func (p *Plane) rlocs() (list []netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, b := range p.bound {
		list = append(list, b.addr)
	}
	return append(list, p.missing...)
}

// SetRLOCs implements dataplane.Plane. When it returns, the sockets of new
// addresses are open, but for those that are Missing, and those of addresses
// that are gone are closed. What can't be an RLOC is left out.
func (p *Plane) SetRLOCs(list []netip.Addr) {
	p.mu.Lock()
	var missing []netip.Addr
	for _, a := range list {
		switch err := mapping.ValidRLOC(a); {
		case err != nil:
			p.log.Warn("not used as an RLOC", "address", a, "err", err)
		case !slices.Contains(missing, a) && !slices.ContainsFunc(p.bound, func(b *binding) bool { return b.addr == a }):
			missing = append(missing, a)
		}
	}
	p.missing = missing
	p.mu.Unlock()
	if err := p.bind(); err != nil { // first what comes, so that traffic can move there
		p.log.Warn("opening the sockets of an RLOC failed; trying again", "err", err)
	}
	p.unbind(list)
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

// bind opens the sockets of RLOCs that are not open. A missing address is left
// for later; any other error counts.
func (p *Plane) bind() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	var missing []netip.Addr
	var errs []error
	for _, a := range p.missing {
		rs, err := openReceivers(a, p.cfg.Queues, p.fwd.Counters)
		var pl *pool
		if err == nil {
			if pl, err = openPool(a, p.outlet != nil); err != nil {
				for _, r := range rs {
					r.close()
					p.fwd.End(r.c)
				}
			}
		}
		switch {
		case err == nil:
			p.bound = append(p.bound, &binding{addr: a, receivers: rs, pool: pl})
			continue
		case errors.Is(err, unix.EADDRINUSE):
			err = fmt.Errorf("%w: another process receives LISP data on %v", err, a)
		case errors.Is(err, unix.EADDRNOTAVAIL):
			err = nil
		}
		missing = append(missing, a)
		if err != nil {
			errs = append(errs, err)
		}
	}
	p.missing = missing
	p.publish()
	return errors.Join(errs...)
}

// unbind closes the sockets of addresses that are not in list.
func (p *Plane) unbind(list []netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	var gone []*binding
	p.bound = slices.DeleteFunc(p.bound, func(b *binding) bool {
		if slices.Contains(list, b.addr) {
			return false
		}
		gone = append(gone, b)
		return true
	})
	p.publish()
	for _, b := range gone {
		p.countSocketDrops(b)
		b.close()
		if !b.running { // else the goroutines do it
			for _, r := range b.receivers {
				p.fwd.End(r.c)
			}
		}
	}
}

// publish tells workers and the FIB which RLOCs are bound. Called under mu.
func (p *Plane) publish() {
	pools, addrs := make([]*pool, 0, len(p.bound)), make([]netip.Addr, 0, len(p.bound))
	for _, b := range p.bound {
		pools, addrs = append(pools, b.pool), append(addrs, b.addr)
	}
	p.pools.Store(&pools)
	p.fib.SetLocalRLOCs(addrs)
}

// Run forwards until ctx is done; then it removes routes, rules and devices and
// returns. When a device or socket fails before that, Run returns the error
// and leaves routes and rules in place: packets of the site are refused, as
// when the process had been killed.
func (p *Plane) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var workers sync.WaitGroup
	failures := make(chan error, 1) // the first one
	start := func(what string, f func() error) {
		workers.Go(func() {
			if err := f(); err != nil {
				select {
				case failures <- fmt.Errorf("%s: %w", what, err):
				default:
				}
				cancel()
			}
		})
	}
	releasers := make(map[uint32]*dataplane.Encap)
	for _, in := range p.cfg.Instances {
		for _, q := range p.devices[in.IID] {
			q.c = p.fwd.Counters()
			w := p.newEncap(p.fwd.NewEncap, in.IID, q)
			start("read from "+in.Device, func() error { return w.Run(q) })
		}
		releasers[in.IID] = p.newEncap(p.fwd.NewReleaser, in.IID, p.devices[in.IID][0])
	}
	startSockets := func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, b := range p.bound {
			if b.running {
				continue
			}
			b.running = true
			for i, r := range b.receivers {
				hosts := make(map[uint32]dataplane.HostWriter)
				for iid, qs := range p.devices {
					hosts[iid] = qs[i%len(qs)]
				}
				w := p.fwd.NewDecap(hosts)
				start(fmt.Sprintf("receive on %v", b.addr), func() error {
					defer p.fwd.End(r.c)
					defer p.fwd.End(w.Counters())
					return w.Run(r)
				})
			}
			r := &errorReader{p: p, src: b.addr}
			workers.Go(func() { b.pool.errors.run(r.read) })
		}
	}
	startSockets()
	workers.Go(func() { p.fwd.RunHold(ctx, releasers) })
	if p.marker != nil {
		changed := p.fib.Watch()
		workers.Go(func() { p.runNatives(ctx, changed) })
	}
	p.maintain(ctx, startSockets)

	var err error
	select {
	case err = <-failures:
	default:
		err = p.tearDown()
	}
	err = errors.Join(err, p.release())
	workers.Wait()
	return err
}

// newEncap joins a worker with its sender.
func (p *Plane) newEncap(make func(uint32, dataplane.HostWriter, dataplane.Sender) *dataplane.Encap, iid uint32, q *queue) *dataplane.Encap {
	s := newSender(&p.pools, p.fwd)
	if p.outlet != nil {
		s.exit = newExit(p.outlet)
	}
	w := make(iid, q, s)
	s.c = w.Counters()
	return w
}

// maintain does what has to be done from time to time, until ctx is done.
func (p *Plane) maintain(ctx context.Context, startSockets func()) {
	table := p.fib.Watch()
	p.refreshMTU(true)
	mtu, retry := time.NewTicker(mtuInterval), time.NewTimer(bindInterval)
	defer mtu.Stop()
	defer retry.Stop()
	var outlet <-chan time.Time
	said := "nothing yet"
	if p.outlet != nil {
		t := time.NewTicker(outletInterval)
		defer t.Stop()
		outlet = t.C
		p.lookAtOutlet(&said)
	}
	for _, a := range p.Missing() {
		p.log.Warn("no interface has the address of a local RLOC; waiting for it", "rloc", a)
	}
	failed := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-table:
			p.refreshMTU(false)
		case <-mtu.C:
			p.refreshMTU(true)
		case <-outlet:
			p.lookAtOutlet(&said)
		case <-p.changed:
			startSockets()
			p.refreshMTU(true)
			retry.Reset(bindInterval)
		case <-retry.C:
			was := p.Missing()
			if len(was) == 0 {
				continue
			}
			retry.Reset(bindInterval)
			now := ""
			if err := p.bind(); err != nil {
				now = err.Error()
			}
			if now != failed && now != "" {
				p.log.Warn("opening the sockets of a local RLOC failed; trying again", "err", now)
			}
			failed = now
			if now := p.Missing(); len(now) < len(was) {
				startSockets()
				p.log.Info("local RLOCs bound", "missing", now)
				p.refreshMTU(true)
			}
		}
	}
}

// Close removes everything that New set up. It is for a plane that does not
// run; Run does the same when its context ends.
func (p *Plane) Close() error {
	err := p.tearDown()
	return errors.Join(err, p.release())
}

// tearDown removes routes and rules, for good.
func (p *Plane) tearDown() error {
	p.hostMu.Lock()
	defer p.hostMu.Unlock()
	p.hostClosed = true
	return p.host.tearDown()
}

// release closes sockets and devices.
func (p *Plane) release() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	p.closed = true
	var errs []error
	for _, qs := range p.devices {
		for _, q := range qs {
			errs = append(errs, q.Close())
		}
	}
	for _, b := range p.bound {
		b.close()
	}
	if p.marker != nil {
		errs = append(errs, p.marker.Close())
	}
	if p.outlet != nil {
		errs = append(errs, p.outlet.Close())
	}
	p.host.close()
	return errors.Join(errs...)
}

var _ dataplane.Plane = (*Plane)(nil)
