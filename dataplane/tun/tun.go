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
	maxQueues = 8
	// bindInterval is how often an address that was missing is tried again.
	bindInterval = time.Second
	// mtuInterval is how often the MTU of uplinks and routes is read again.
	mtuInterval = 10 * time.Second
)

// Instance is one instance-ID and the TUN device for it.
type Instance struct {
	IID uint32
	// Device is the interface name, at most 15 octets; "" means eidolonIID.
	Device string
}

// Config is what New needs. It is not changed, and must not be while the plane
// lives.
type Config struct {
	// Instances are those that this xTR has EIDs in; at least one.
	Instances []Instance
	// Locals are the EIDs of the site; each is of one of the instances.
	Locals []mapping.EID
	// Sources are the RLOCs of this xTR: packets are received on all, and sent
	// from the first of each family until the FIB is told otherwise. Addresses
	// that no interface has yet are bound when they appear.
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
	// Logger gets what happens rarely; nil discards.
	Logger *slog.Logger
}

// Plane is a running or ready data plane. It implements dataplane.Plane.
type Plane struct {
	cfg  Config
	log  *slog.Logger
	fib  *dataplane.FIB
	fwd  *dataplane.Forwarder
	host *host
	c    *dataplane.Counters // of what is outside of the workers

	devices map[uint32][]*queue
	pools   atomic.Pointer[[]*pool]

	mu        sync.Mutex
	receivers []*receiver
	missing   []netip.Addr // Sources that are not bound
	closed    bool

	deviceDrops, socketDrops uint64 // of the kernel, counted already

	uplinkMTU int // of New, then of the goroutine that runs maintain
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
		cfg: cfg, log: cfg.Logger, fib: fib, fwd: dataplane.NewForwarder(fib, dataplane.Config{Miss: cfg.Miss, RLOCs: cfg.Sources, MapVersioning: cfg.MapVersioning}),
		devices: make(map[uint32][]*queue), missing: slices.Clone(cfg.Sources),
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
	fib.SetSources(firstOf(cfg.Sources, netip.Addr.Is4), firstOf(cfg.Sources, netip.Addr.Is6))
	if err = p.host.setUp(p.deviceMTU()); err != nil {
		return nil, err
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
	for _, e := range c.Locals {
		if !slices.ContainsFunc(c.Instances, func(in Instance) bool { return in.IID == e.IID }) {
			return fmt.Errorf("data plane: the local EID %v is of no configured instance", e)
		}
		if e.Source.IsValid() {
			return fmt.Errorf("data plane: the local EID %v has a source of its own, which the kernel's rules can't express", e)
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
		c.Queues = min(runtime.GOMAXPROCS(0), maxQueues)
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

func firstOf(list []netip.Addr, ok func(netip.Addr) bool) netip.Addr {
	if i := slices.IndexFunc(list, ok); i >= 0 {
		return list[i]
	}
	return netip.Addr{}
}

// Misses implements dataplane.Plane.
func (p *Plane) Misses() <-chan dataplane.Miss { return p.fwd.Misses() }

// Heard implements dataplane.Plane.
func (p *Plane) Heard() []netip.Addr { return p.fwd.Heard() }

// Versions implements dataplane.Plane.
func (p *Plane) Versions() <-chan dataplane.VersionEvent { return p.fwd.Versions() }

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
	var device, socket uint64
	for _, in := range p.cfg.Instances {
		if l, err := p.host.h.LinkByName(in.Device); err == nil && l.Attrs().Statistics != nil {
			device += l.Attrs().Statistics.TxDropped
		}
	}
	for _, r := range p.receivers {
		socket += r.drops()
	}
	if device > p.deviceDrops {
		p.c.Drop(dataplane.DropHostQueue, device-p.deviceDrops)
		p.deviceDrops = device
	}
	if socket > p.socketDrops {
		p.c.Drop(dataplane.DropReceiveBuffer, socket-p.socketDrops)
		p.socketDrops = socket
	}
}

// Missing returns those Sources whose address no interface has at the moment
// of the last try; Run tries every second.
func (p *Plane) Missing() []netip.Addr {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.missing)
}

// bind opens the sockets of Sources that are not open. A missing address is
// left for later; any other error counts.
func (p *Plane) bind() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var missing []netip.Addr
	var errs []error
	for _, a := range p.missing {
		rs, err := openReceivers(a, p.cfg.Queues, p.fwd.Counters)
		var pl *pool
		if err == nil {
			if pl, err = openPool(a); err != nil {
				for _, r := range rs {
					r.close()
				}
			}
		}
		switch {
		case err == nil:
			p.receivers = append(p.receivers, rs...)
			pools := append(slices.Clone(*p.pools.Load()), pl)
			p.pools.Store(&pools)
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
	return errors.Join(errs...)
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
	started, opened := 0, 0
	startSockets := func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		for ; started < len(p.receivers); started++ {
			r := p.receivers[started]
			hosts := make(map[uint32]dataplane.HostWriter)
			for iid, qs := range p.devices {
				hosts[iid] = qs[started%len(qs)]
			}
			w := p.fwd.NewDecap(hosts)
			start(fmt.Sprintf("receive on %v", r.local), func() error { return w.Run(r) })
		}
		pools := *p.pools.Load()
		for ; opened < len(pools); opened++ {
			for _, s := range pools[opened].sockets() {
				workers.Go(func() { watchErrors(s, p.fib, p.c) })
			}
		}
	}
	startSockets()
	workers.Go(func() { p.fwd.RunHold(ctx, releasers) })
	p.maintain(ctx, startSockets)

	var err error
	select {
	case err = <-failures:
	default:
		err = p.host.tearDown()
	}
	err = errors.Join(err, p.release())
	workers.Wait()
	return err
}

// newEncap joins a worker with its sender.
func (p *Plane) newEncap(make func(uint32, dataplane.HostWriter, dataplane.Sender) *dataplane.Encap, iid uint32, q *queue) *dataplane.Encap {
	s := newSender(&p.pools)
	w := make(iid, q, s)
	s.c = w.Counters()
	return w
}

// maintain does what has to be done from time to time, until ctx is done.
func (p *Plane) maintain(ctx context.Context, startSockets func()) {
	changed := p.fib.Watch()
	p.refreshMTU(true)
	mtu, bind := time.NewTicker(mtuInterval), time.NewTicker(bindInterval)
	defer mtu.Stop()
	defer bind.Stop()
	for _, a := range p.Missing() {
		p.log.Warn("no interface has the address of a source RLOC; trying again every second", "rloc", a)
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-changed:
			p.refreshMTU(false)
		case <-mtu.C:
			p.refreshMTU(true)
		case <-bind.C:
			was := p.Missing()
			if len(was) == 0 {
				bind.Stop()
				continue
			}
			if err := p.bind(); err != nil {
				p.log.Warn("opening the sockets of a source RLOC failed; trying again every second", "err", err)
			}
			if now := p.Missing(); len(now) < len(was) {
				startSockets()
				p.log.Info("source RLOCs bound", "missing", now)
				p.refreshMTU(true)
			}
		}
	}
}

// Close removes everything that New set up. It is for a plane that does not
// run; Run does the same when its context ends.
func (p *Plane) Close() error {
	err := p.host.tearDown()
	return errors.Join(err, p.release())
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
	for _, r := range p.receivers {
		r.close()
	}
	for _, pl := range *p.pools.Load() {
		pl.close()
	}
	p.host.close()
	return errors.Join(errs...)
}

var _ dataplane.Plane = (*Plane)(nil)
