package dataplane

import (
	"errors"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/eidolon-lisp/eidolon/encap"
)

// Limits of traces that are ours.
const (
	// traceQueue is how many events wait for who reads them.
	traceQueue = 1024
	// Each worker traces so many packets a second, and at once: a packet that is
	// traced goes alone, and not in a batch.
	traceRate  = 200
	traceBurst = 100
)

// ErrTracing is returned by Trace while there is another trace.
var ErrTracing = errors.New("another trace is under way")

// TraceFilter says which packets of hosts a trace is of. Both directions of a
// flow match.
type TraceFilter struct {
	IID uint32
	// Here and There are what the two ends lie inside of, whichever of them is
	// the source; invalid prefixes hold all addresses.
	Here, There netip.Prefix
	// Protocol is an IP protocol with ports: TCP, UDP or SCTP; 0 stands for all
	// protocols.
	Protocol uint8
	// HerePort and TherePort are those of the two ends; 0 stands for all.
	HerePort, TherePort uint16
}

func (f *TraceFilter) matches(k *encap.Key) bool {
	if f.Protocol != 0 && k.Protocol != f.Protocol {
		return false
	}
	src, dst := uint16(k.Ports>>16), uint16(k.Ports)
	return f.ends(k.Src, src, k.Dst, dst) || f.ends(k.Dst, dst, k.Src, src)
}

func (f *TraceFilter) ends(here netip.Addr, herePort uint16, there netip.Addr, therePort uint16) bool {
	in := func(p netip.Prefix, a netip.Addr) bool { return !p.IsValid() || p.Contains(a) }
	port := func(want, got uint16) bool { return want == 0 || want == got }
	return in(f.Here, here) && in(f.There, there) && port(f.HerePort, herePort) && port(f.TherePort, therePort)
}

// Traced is a packet of a host and what became of it.
type Traced struct {
	Time time.Time
	// In says that it came encapsulated; else it came from a host.
	In  bool
	IID uint32
	// Flow is that of the packet as it came.
	Flow encap.Flow
	// Src and Dst are the outer addresses; invalid when it was not encapsulated.
	Src, Dst netip.Addr
	// Counts are the counters that it moved.
	Counts []Counter
	// Drop is why it was dropped; NotDropped when it was not. A packet that is
	// held is not, and is traced again when it is released.
	Drop DropReason
}

// Tracer is a trace that is under way.
type Tracer struct {
	fib    *FIB
	filter TraceFilter
	events chan Traced
	lost   atomic.Uint64
}

// Trace begins a trace, of which there is one at a time. It must be closed.
func (t *FIB) Trace(filter TraceFilter) (*Tracer, error) {
	t.tracing.Lock()
	defer t.tracing.Unlock()
	if t.tracer.Load() != nil {
		return nil, ErrTracing
	}
	tr := &Tracer{fib: t, filter: filter, events: make(chan Traced, traceQueue)}
	t.tracer.Store(tr)
	if t.onTrace != nil {
		t.onTrace(&filter)
	}
	return tr, nil
}

// OnTrace sets a function that is called when a trace begins, with its filter, and
// with nil when it ends: a plane that forwards packets elsewhere leaves those that
// match to the workers meanwhile. It is set once, before the first trace.
func (t *FIB) OnTrace(fn func(*TraceFilter)) {
	t.tracing.Lock()
	defer t.tracing.Unlock()
	t.onTrace = fn
}

// Close ends the trace. Some events may come after it.
func (t *Tracer) Close() {
	f := t.fib
	f.tracing.Lock()
	defer f.tracing.Unlock()
	if f.tracer.CompareAndSwap(t, nil) && f.onTrace != nil {
		f.onTrace(nil)
	}
}

// Events are the packets, in order for each worker. The channel is not closed.
func (t *Tracer) Events() <-chan Traced { return t.events }

// Lost returns how many packets matched and were not traced, because there were
// too many.
func (t *Tracer) Lost() uint64 { return t.lost.Load() }

// allow reports whether a packet that matches is traced.
func (t *Tracer) allow(limit *bucket, now time.Time) bool {
	if len(t.events) == cap(t.events) || !limit.allow(now) {
		t.lost.Add(1)
		return false
	}
	return true
}

// report queues an event. before are the counters of the worker before the packet.
func (t *Tracer) report(ev Traced, c *Counters, before *countersThen) {
	for i := range numCounters {
		switch i {
		case EncapBytes, DecapBytes, SendCalls, ReceiveCalls, HostReads, HostWrites:
			// of the way of working, and not of what became of a packet
		default:
			if c.counts[i].Load() != before.counts[i] {
				ev.Counts = append(ev.Counts, i)
			}
		}
	}
	for r := range numDropReasons {
		if c.drops[r].Load() != before.drops[r] {
			ev.Drop = r
		}
	}
	select {
	case t.events <- ev:
	default:
		t.lost.Add(1)
	}
}

// countersThen is what counters were.
type countersThen struct {
	counts [numCounters]uint64
	drops  [numDropReasons]uint64
}

func (c *Counters) then() (t countersThen) {
	for i := range t.counts {
		t.counts[i] = c.counts[i].Load()
	}
	for i := range t.drops {
		t.drops[i] = c.drops[i].Load()
	}
	return t
}

// concerns reports whether the trace is of a packet, whose headers go to f.
func (e *Encap) concerns(t *Tracer, p *HostPacket, f *encap.Flow) bool {
	if t.filter.IID != e.iid || p.Drop != NotDropped {
		return false
	}
	head := p.Buf[Headroom:]
	return f.DecodeHead(head, len(head)+len(p.Body)) == nil && t.filter.matches(&f.Key)
}

// traced forwards a packet alone if the trace is of it, and reports whether it
// did. What became of it is what the worker's counters say: each fate has one.
func (e *Encap) traced(t *Tracer, s *Snapshot, now time.Time, p *HostPacket) bool {
	ev := Traced{Time: now, IID: e.iid}
	if !e.concerns(t, p, &ev.Flow) || !t.allow(&e.traces, now) {
		return false
	}
	e.endRun()
	e.flush()
	before := e.c.then()
	e.packet(s, now, p)
	if r := &e.run; r.packets > 0 {
		ev.Src, ev.Dst = r.src, r.rloc.addr
	}
	e.endRun()
	e.flush()
	t.report(ev, e.c, &before)
	return true
}

// traced is the same on the way in.
func (d *Decap) traced(t *Tracer, s *Snapshot, now time.Time, p *Packet) bool {
	var h encap.Header
	if p.Drop != NotDropped || h.Decode(p.Data) != nil || h.IID != t.filter.IID || h.KeyID != 0 {
		return false
	}
	ev := Traced{Time: now, In: true, IID: h.IID, Src: p.Src, Dst: p.Dst}
	pkt := p.Data[encap.HeaderLen:]
	if ev.Flow.DecodeHead(pkt, len(pkt)) != nil || !t.filter.matches(&ev.Flow.Key) || !t.allow(&d.traces, now) {
		return false
	}
	d.deliverAll()
	before := d.c.then()
	if drop := d.packet(s, now, p); drop != NotDropped {
		d.c.Drop(drop, 1)
	}
	d.deliverAll()
	t.report(ev, d.c, &before)
	return true
}

// deliverAll writes what is queued for all instances.
func (d *Decap) deliverAll() {
	for _, q := range d.used {
		d.deliver(q)
	}
	d.used = d.used[:0]
}
