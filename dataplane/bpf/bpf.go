// Package bpf is the kernel plane: programs at the ingress of interfaces that
// encapsulate and decapsulate, and what keeps their tables as the FIB is. It
// stands beside the TUN plane, which gets whatever the programs leave alone, so
// that each exception is that plane's to judge: a packet without a mapping or with
// an expired one, one that is too big, fragments, options, and drops.
//
// It needs CAP_BPF and CAP_NET_ADMIN in the initial user namespace.
package bpf

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/dataplane/tun"
	"github.com/eidolon-lisp/eidolon/mapping"
)

// Limits and intervals that are ours.
const (
	// DefaultCache is the size of the cache of hosts.
	DefaultCache = 65536
	// DefaultMappings is for how many mappings there is room.
	DefaultMappings = 65536
	// foldInterval is how often the tables are looked at when nobody asks.
	foldInterval = time.Second
	// searchInterval is how often fold looks for marks everywhere.
	searchInterval = foldInterval * 9 / 10
	// foldRest is how many times as long as a look it is until the next one.
	foldRest = 15
	// traceTime is how long the programs leave packets to a trace that nobody
	// prolongs: when the process is killed, they forward them again.
	traceTime = 3 * foldInterval
	// interfaceInterval is how often interfaces and routes are looked at when
	// nothing is heard of a change, and gather how long further changes are
	// waited for when something is.
	interfaceInterval = 10 * time.Second
	gather            = 50 * time.Millisecond
)

// Config is what New needs besides the configuration of the TUN plane.
type Config struct {
	tun.Config
	// Mappings is for how many EID-prefixes there is room; what is too much is
	// the TUN plane's. 0 means DefaultMappings.
	Mappings int
	// Cache is for how many hosts the lookup of the longest prefix is
	// remembered; 0 means DefaultCache.
	Cache int

	unpinned bool // for tests: nothing outlives the process
	classic  bool // for tests: as on a kernel without TCX
}

// Plane is the kernel plane with its slow path. It implements dataplane.Plane.
type Plane struct {
	*tun.Plane
	fwd     *dataplane.Forwarder
	log     *slog.Logger
	locals  []mapping.EID
	h       *netlink.Handle
	objects lispObjects
	copier  *copier
	pins    pins // "": nothing outlives the process
	tcx     func(int, *ebpf.Program) (link.Link, error)
	events  *nl.NetlinkSocket
	adopted bool // pins of an earlier run

	mu       sync.Mutex
	attached map[int]*attachment
	closed   bool
}

// Available reports whether the kernel plane can work here, and if not why.
func Available() error {
	spec, err := loadLisp()
	if err != nil {
		return err
	}
	if err := specify(spec, 64, 64); err != nil {
		return err
	}
	var o lispObjects
	if err := spec.LoadAndAssign(&o, nil); err != nil {
		return fmt.Errorf("load the programs of the kernel plane: %w", err)
	}
	return o.Close()
}

// New creates the TUN plane, loads the programs, and puts them at the
// interfaces. Run must follow, or Close.
func New(cfg Config, fib *dataplane.FIB) (_ *Plane, err error) {
	if cfg.Mappings <= 0 {
		cfg.Mappings = DefaultMappings
	}
	if cfg.Cache <= 0 {
		cfg.Cache = DefaultCache
	}
	slow, err := tun.New(cfg.Config, fib)
	if err != nil {
		return nil, err
	}
	p := &Plane{Plane: slow, fwd: slow.Forwarder(), log: cfg.Logger, attached: make(map[int]*attachment), tcx: attachTCX}
	if cfg.classic {
		p.tcx = func(int, *ebpf.Program) (link.Link, error) { return nil, ebpf.ErrNotSupported }
	}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	p.locals = slices.Clone(cfg.Locals)
	defer func() {
		if err != nil {
			err = errors.Join(err, p.release(!p.adopted), slow.Close())
		}
	}()
	if !cfg.unpinned {
		if p.pins, err = findPins(true); err != nil {
			return nil, err
		}
	}
	unlock, err := lockPins(p.pins)
	switch {
	case errors.Is(err, fs.ErrPermission):
		p.log.Warn("nothing can be pinned: forwarding in the kernel ends with the process", "err", err)
		p.pins, unlock = "", func() {}
	case err != nil:
		return nil, err
	case p.pins == "" && !cfg.unpinned:
		p.log.Warn("no BPF file system at /sys/fs/bpf: forwarding in the kernel ends with the process")
	}
	defer unlock()
	if err = sweep(p.pins); err != nil {
		p.log.Warn("pins of network namespaces that are gone are not removed", "err", err)
	}
	if p.h, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return nil, fmt.Errorf("open a netlink socket: %w", err)
	}
	p.events, err = nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("subscribe to netlink events: %w", err)
	}
	spec, err := loadLisp()
	if err != nil {
		return nil, err
	}
	// What is replaced keeps its place for a moment.
	if err = specify(spec, min(cfg.Mappings+cfg.Mappings/4+1024, maxEntries), cfg.Cache); err != nil {
		return nil, err
	}
	if p.attached, err = p.pins.links(); err != nil {
		return nil, err
	}
	tables, err := p.pins.load(spec, &p.objects)
	p.adopted = tables || len(p.attached) > 0
	if err != nil {
		return nil, err
	}
	t, err := mapTables(p.objects.lispMaps)
	if err != nil {
		return nil, err
	}
	devices := make(map[uint32]uint32)
	for _, in := range slow.Instances() {
		l, err := p.h.LinkByName(in.Device)
		if err != nil {
			return nil, fmt.Errorf("find device %s: %w", in.Device, err)
		}
		devices[in.IID] = uint32(l.Attrs().Index)
	}
	p.copier = newCopier(t, p.fwd, devices, slow.SourcePorts)
	p.copier.unfinished = cfg.Unfinished
	fib.OnRead(p.copier.fold)
	fib.OnTrace(p.copier.trace)
	p.copier.trace(nil) // one of an earlier run has ended with it
	if p.copier.stats, err = p.copier.read(); err != nil {
		return nil, err
	}
	if tables {
		if err = p.copier.adopt(); err != nil {
			return nil, err
		}
		p.log.Info("the kernel plane of an earlier run is adopted", "mappings", len(p.copier.lines))
	}
	if err = p.copier.sync(); err != nil {
		return nil, err
	}
	// The earlier run may have ended between a change and what makes it heeded. Only
	// now, as hosts that are looked up again need the site's devices of this run.
	p.copier.forgetAll()
	for _, a := range p.attached { // which are links
		if err = a.link.Update(p.objects.Ingress); err != nil {
			return nil, fmt.Errorf("replace the program of interface %d: %w", a.index, err)
		}
	}
	if err = p.attach(); err != nil {
		return nil, err
	}
	// Classic filters that an earlier run has left where none is wanted now.
	var classic []int
	for i, a := range p.attached {
		if a.link == nil {
			classic = append(classic, i)
		}
	}
	if err = errors.Join(removeFilters(p.h, classic), p.pins.removeOthers()); err != nil {
		return nil, err
	}
	return p, nil
}

// attach puts the program at interfaces that want it, and takes it away from
// others.
func (p *Plane) attach() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	links, err := p.h.LinkList()
	if err != nil {
		return fmt.Errorf("list the interfaces: %w", err)
	}
	if err := p.copier.setVirtual(virtual(links)); err != nil {
		return err
	}
	want, err := interfaces(p.h, links, p.fwd.FIB().Snapshot().Own(), p.locals)
	if err != nil {
		return err
	}
	keep := make(map[int]bool)
	var errs []error
	for _, i := range want {
		keep[i] = true
		if p.attached[i] != nil {
			continue
		}
		a, err := attach(p.h, i, p.objects.Ingress, p.pins, p.tcx)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		p.attached[i] = a
	}
	for i, a := range p.attached {
		if !keep[i] {
			delete(p.attached, i)
			errs = append(errs, a.detach(p.h))
		}
	}
	return errors.Join(errs...)
}

// SetLocals is that of tun.Plane, and puts the program where hosts of the EIDs
// are.
func (p *Plane) SetLocals(locals []mapping.EID) error {
	if err := p.Plane.SetLocals(locals); err != nil {
		return err
	}
	p.mu.Lock()
	p.locals = slices.Clone(locals)
	p.mu.Unlock()
	return p.attach()
}

// Run forwards until ctx is done; then it takes the programs away and ends the
// TUN plane as that does.
func (p *Plane) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var done sync.WaitGroup
	done.Go(func() { p.keep(ctx) })
	err := p.Plane.Run(ctx)
	cancel()
	done.Wait()
	return errors.Join(p.release(true), err)
}

// keep brings the tables to the state of the FIB, and the programs to where they
// belong.
func (p *Plane) keep(ctx context.Context) {
	fold, look := time.NewTicker(foldInterval), time.NewTicker(interfaceInterval)
	defer fold.Stop()
	defer look.Stop()
	changed, stop := p.listen()
	defer stop()
	own := p.fwd.FIB().Snapshot().Own()
	told := make(map[string]string)
	check := func(what string, err error) {
		text := ""
		if err != nil {
			text = err.Error()
		}
		if text != told[what] && text != "" {
			p.log.Warn(what, "err", text)
		}
		told[what] = text
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.copier.follow.Changed:
			check("the tables of the kernel plane are not as they should be", p.copier.sync())
			if now := p.fwd.FIB().Snapshot().Own(); !equal(now, own) {
				own = now
				check("the programs of the kernel plane are not where they should be", p.attach())
			}
		case <-fold.C:
			p.copier.fold()
			p.copier.traceOn()
			check("mappings of an earlier run are not removed", p.copier.expire())
			check("some packets are the TUN plane's for want of room, see the counter kernel_full", p.copier.lack())
		case <-changed:
			select {
			case <-ctx.Done():
				return
			case <-time.After(gather):
			}
			select {
			case <-changed:
			default:
			}
			check("the programs of the kernel plane are not where they should be", p.attach())
		case <-look.C:
			check("the programs of the kernel plane are not where they should be", p.attach())
		}
	}
}

// listen tells that interfaces, addresses or routes have changed: what is told is
// looked at as a whole, so that an event that is lost does no harm.
func (p *Plane) listen() (changed <-chan struct{}, stop func()) {
	tokens, ended := make(chan struct{}, 1), make(chan struct{})
	var stopped atomic.Bool
	go func() {
		defer close(ended)
		for {
			_, _, err := p.events.Receive()
			if stopped.Load() {
				return
			}
			if err != nil {
				time.Sleep(gather)
			}
			select {
			case tokens <- struct{}{}:
			default:
			}
		}
	}()
	return tokens, func() {
		stopped.Store(true)
		p.events.Close()
		<-ended
	}
}

func equal(a, b []netip.Addr) bool {
	if len(a) != len(b) {
		return false
	}
	in := make(map[netip.Addr]bool)
	for _, x := range a {
		in[x] = true
	}
	for _, x := range b {
		if !in[x] {
			return false
		}
	}
	return true
}

// Heard implements dataplane.Plane.
func (p *Plane) Heard() []netip.Addr {
	if !p.isClosed() {
		p.copier.drainHeard()
	}
	return p.Plane.Heard()
}

// Stats implements dataplane.Plane.
func (p *Plane) Stats() iter.Seq2[string, uint64] {
	if !p.isClosed() {
		p.copier.fold()
		if err := p.copier.count(); err != nil {
			p.log.Warn("the counters of the kernel plane", "err", err)
		}
	}
	return p.Plane.Stats()
}

func (p *Plane) isClosed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closed
}

// Close removes everything that New set up. It is for a plane that does not run.
func (p *Plane) Close() error { return errors.Join(p.release(true), p.Plane.Close()) }

// release takes the programs away, or leaves them and their pins.
func (p *Plane) release(remove bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	p.closed = true
	var errs []error
	for _, a := range p.attached {
		switch {
		case remove:
			errs = append(errs, a.detach(p.h))
		case a.link != nil:
			errs = append(errs, a.link.Close())
		}
	}
	p.attached = nil
	if remove {
		errs = append(errs, p.pins.remove())
	}
	if p.copier != nil {
		errs = append(errs, p.copier.close())
	}
	if p.objects.Ingress != nil {
		errs = append(errs, p.objects.Close())
	}
	if p.events != nil {
		p.events.Close()
	}
	if p.h != nil {
		p.h.Close()
	}
	return errors.Join(errs...)
}

// Program is the program, for tests that run it on packets.
func (p *Plane) Program() *ebpf.Program { return p.objects.Ingress }

var _ dataplane.Plane = (*Plane)(nil)
