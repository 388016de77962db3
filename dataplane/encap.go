package dataplane

import (
	"errors"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/eidolon-lisp/eidolon/encap"
)

// Limits of the way out that are ours.
const (
	// fragmentArena is the room for fragments of one batch; when it is full
	// the batch is sent in parts.
	fragmentArena = 128 << 10
	// ICMP messages to hosts, for each worker and kind, a second and at once.
	icmpRate  = 100
	icmpBurst = 50
)

const ( // IANA protocol numbers
	protoTCP = 6
	protoUDP = 17
)

// Encap is a worker on the way out: packets of one instance come from the host
// side and go to the underlay. It belongs to one goroutine.
type Encap struct {
	f        *Forwarder
	iid      uint32
	host     HostWriter // for ICMP messages to hosts
	under    Sender
	c        *Counters
	native   bool // the instance's policy is to forward natively
	releaser bool // empties the hold queue, and so does not hold

	tooBig, unreachable, traces bucket

	hits, misses uint64 // to add to the counters
	from         batchTally

	run   run
	flow  encap.Flow
	out   []Packet
	frag  []byte    // arena, fragments are appended
	whole []byte    // a packet of two parts, put together
	icmp  []byte    // one message
	msg   [1][]byte // Write's argument

	cutter Cutter
	head   Head // of the segment that cut is at

	pkts []HostPacket // of Run
	one  HostPacket   // of release
}

// run is a sequence of packets of one flow: the decision is made for the first
// and holds for all, within one batch.
type run struct {
	valid bool
	key   encap.Key

	entry *Entry
	rloc  *RLOC
	src   netip.Addr // outer source
	local *tally     // of src
	hash  uint32
	pair  uint32 // map-versions to send; 0 for none
	drop  DropReason
	miss  bool
	// native: drop is natively-forward, and that is to be done.
	native bool
	told   bool // an ICMP message was sent, or refused by the limit

	packets, bytes uint64 // to add to the counters of entry, rloc and local
}

// NewEncap returns a worker for the packets of an instance. ICMP messages to
// the hosts go to host.
func (f *Forwarder) NewEncap(iid uint32, host HostWriter, under Sender) *Encap {
	return &Encap{
		f: f, iid: iid, host: host, under: under, c: f.stats.Worker(), native: slices.Contains(f.native, iid),
		tooBig: newBucket(icmpRate, icmpBurst), unreachable: newBucket(icmpRate, icmpBurst), traces: newBucket(traceRate, traceBurst),
		out:  make([]Packet, 0, 2*MaxBatch),
		frag: make([]byte, 0, fragmentArena),
		icmp: make([]byte, 0, encap.MaxICMP),
	}
}

// NewReleaser returns a worker for RunHold: as NewEncap, but what it can't
// forward is dropped, not held again.
func (f *Forwarder) NewReleaser(iid uint32, host HostWriter, under Sender) *Encap {
	e := f.NewEncap(iid, host, under)
	e.releaser = true
	return e
}

// Counters returns the worker's counters.
func (e *Encap) Counters() *Counters { return e.c }

// Run reads from r and forwards until r is closed, which is not an error.
func (e *Encap) Run(r HostReader) error {
	if e.pkts == nil {
		e.pkts = make([]HostPacket, MaxBatch)
	}
	for {
		n, err := r.Read(e.pkts)
		if n > 0 {
			e.Batch(e.f.now(), e.pkts[:n])
		}
		if err != nil {
			if errors.Is(err, os.ErrClosed) {
				return nil
			}
			return err
		}
	}
}

// Batch forwards packets in order. They are edited, and the caller's again when
// Batch returns.
func (e *Encap) Batch(now time.Time, pkts []HostPacket) {
	s, t := e.f.fib.Snapshot(), e.f.fib.tracer.Load()
	for i := range pkts {
		if p := &pkts[i]; t != nil && p.Super.Size > 0 && e.concerns(t, p, &e.flow) {
			e.cut(t, s, now, p) // a trace shows what others will see
		} else {
			e.forward(t, s, now, p)
		}
	}
	e.end()
}

// forward forwards one packet, traced if there is a trace of it.
func (e *Encap) forward(t *Tracer, s *Snapshot, now time.Time, p *HostPacket) {
	if t == nil || !e.traced(t, s, now, p) {
		e.packet(s, now, p)
	}
}

// cut forwards the segments of a super-packet each by itself. They share the room
// for their headers, so what is queued of one is sent before the next.
func (e *Encap) cut(t *Tracer, s *Snapshot, now time.Time, p *HostPacket) {
	for e.cutter.Begin(p.Buf, p.Super); e.cutter.Active(); {
		e.one = HostPacket{}
		e.one.Buf, e.one.Body = e.cutter.Next(&e.head)
		e.forward(t, s, now, &e.one)
		e.flush()
	}
}

// release forwards held packets.
func (e *Encap) release(now time.Time, pkts []heldPacket) {
	s, t := e.f.fib.Snapshot(), e.f.fib.tracer.Load()
	for _, p := range pkts {
		e.one = HostPacket{Buf: p.buf}
		e.forward(t, s, now, &e.one)
	}
	e.end()
}

func (e *Encap) end() {
	e.endRun()
	e.from.sent()
	e.flush()
	if !e.releaser { // whose packets were counted when they were held
		e.c.Add(CacheHits, e.hits)
		e.c.Add(CacheMisses, e.misses)
	}
	e.hits, e.misses = 0, 0
}

// packet forwards one.
func (e *Encap) packet(s *Snapshot, now time.Time, p *HostPacket) {
	if p.Drop != NotDropped {
		e.c.Drop(p.Drop, 1)
		return
	}
	f, head := &e.flow, p.Buf[Headroom:]
	n := len(head) + len(p.Body)
	if drop := decode(f, head, n); drop != NotDropped {
		e.c.Drop(drop, uint64(p.Super.Segments(n)))
		return
	}
	r := &e.run
	if !r.valid || r.key != f.Key {
		e.endRun()
		e.decide(s, now)
	}
	if p.Super.Size > 0 && !e.goesWhole(p, n) {
		e.cut(nil, s, now, p)
		return
	}
	switch {
	case r.miss:
		e.misses++
	case r.entry != nil:
		e.hits += uint64(p.Super.Segments(n))
	}
	switch {
	case r.miss:
		e.missed(p, now)
		return
	case r.native:
		e.natively(p, now)
		return
	case r.drop != NotDropped:
		e.refuse(p, now)
		return
	case p.Super.Size == 0 && e.behindHeld():
		// Packets of this destination may still be on their way out of the
		// hold queue; this one must not pass them.
		if taken, drop := e.f.hold.put(holdKey{e.iid, f.Dst}, f.Src, p, now, true); taken {
			e.countHeld(drop)
			return
		}
	}
	room := r.rloc.Room()
	if e.f.clamp && f.Protocol == protoTCP && encap.ClampMSS(head, room, p.Super.Size > 0) {
		e.c.Add(MSSClamped, 1)
	}
	if p.Super.longest(n) <= room {
		e.emit(p, n, false)
		return
	}
	e.oversized(p, n, room, now)
}

// goesWhole reports whether a super-packet of n octets can go on as it is; it is
// asked after decide. What has to be held, refused or fragmented is cut before.
func (e *Encap) goesWhole(p *HostPacket, n int) bool {
	r := &e.run
	return !r.miss && r.drop == NotDropped && p.Super.longest(n) <= r.rloc.Room() &&
		!(e.behindHeld() && e.f.hold.has(holdKey{e.iid, e.flow.Dst}))
}

// behindHeld reports whether any packets are held that others must not pass.
func (e *Encap) behindHeld() bool {
	return !e.releaser && e.f.hold != nil && e.f.hold.active.Load() > 0
}

// decode parses an inner packet of n octets that begins with head, and makes
// the checks of a single packet that both ways share.
func decode(f *encap.Flow, head []byte, n int) DropReason {
	switch err := f.DecodeHead(head, n); {
	case err == nil:
	case errors.Is(err, encap.ErrVersion):
		return DropInnerVersion
	case errors.Is(err, encap.ErrTruncated):
		return DropInnerTruncated
	default:
		return DropInnerHeader
	}
	switch {
	case f.Length != n:
		return DropInnerTrailing
	case f.TTL == 0:
		return DropTTLExpired
	}
	return NotDropped
}

// addresses checks the addresses of a flow.
func addresses(k *encap.Key) DropReason {
	switch {
	case k.Dst.IsMulticast() || k.Src.IsMulticast():
		return DropMulticast
	case !encap.Routable(k.Dst) || !encap.Routable(k.Src):
		return DropNotRoutable
	}
	return NotDropped
}

// decide looks the flow up.
func (e *Encap) decide(s *Snapshot, now time.Time) {
	f, r := &e.flow, &e.run
	*r = run{valid: true, key: f.Key, drop: addresses(&f.Key)}
	attracted := false
	switch {
	case r.drop != NotDropped:
		return
	case !s.Local(e.iid, f.Src): // RFC 9300 section 8: both EIDs in one instance
		attracted = true
		if r.drop = s.attracted(e.iid, f.Src, f.Dst); r.drop != NotDropped {
			return
		}
	}
	if s.Local(e.iid, f.Dst) {
		r.drop = DropDestinationLocal
		return
	}
	r.entry = s.Lookup(e.iid, f.Dst, f.Src, now)
	if r.entry == nil || r.entry.miss {
		r.drop, r.miss = DropNoMapping, true
		return
	}
	if r.drop = r.entry.drop; r.drop != NotDropped {
		r.native = e.native && !attracted && r.drop == DropNativelyForward
		return
	}
	if attracted && len(r.entry.petrs) > 0 {
		r.drop = DropNativelyForward // it would come back
		return
	}
	r.hash = f.Hash()
	r.rloc = r.entry.RLOC(r.hash)
	r.src = s.Source(r.rloc.addr, r.hash)
	r.local = s.tallyOf(r.src)
	if e.f.versioning {
		r.pair = s.outgoing(e.iid, f.Src, r.entry)
	}
}

// endRun adds the run's packets to the counters that all workers share.
func (e *Encap) endRun() {
	if r := &e.run; r.packets > 0 {
		e.f.fib.sent(r.entry.use, r.packets, r.bytes)
		r.rloc.packets.Add(r.packets)
		r.rloc.bytes.Add(r.bytes)
		if e.from.tally != r.local {
			e.from.sent()
			e.from.tally = r.local
		}
		e.from.packets += r.packets
		e.from.bytes += r.bytes
	}
	e.run.valid = false
	e.run.packets, e.run.bytes = 0, 0
}

// emit queues a packet of n octets, or a super-packet.
func (e *Encap) emit(p *HostPacket, n int, fragmentable bool) {
	r := &e.run
	encap.PutHeader(p.Buf, e.iid)
	if r.pair != 0 {
		encap.PutVersions(p.Buf, r.pair)
	}
	r.packets += uint64(p.Super.Segments(n))
	r.bytes += p.Super.octets(n)
	e.out = append(e.out, Packet{
		Data: p.Buf, Body: p.Body, Super: p.Super, Src: r.src, Dst: r.rloc.addr, Hash: r.hash,
		TTL: e.flow.TTL, TOS: encap.OuterTOS(e.flow.TOS), Fragmentable: fragmentable,
	})
	if len(e.out) == cap(e.out) {
		e.flush()
	}
}

// flush sends what is queued and gives the arena free.
func (e *Encap) flush() {
	if len(e.out) > 0 {
		e.under.Send(e.out)
		var packets, bytes uint64
		for i := range e.out {
			p := &e.out[i]
			n := p.Len() - encap.HeaderLen
			sent, octets := uint64(p.Super.Segments(n)), p.Super.octets(n)
			if p.Drop != NotDropped {
				lost := uint64(1)
				if p.Super.Size > 0 {
					lost = uint64(p.Lost)
				}
				e.c.Drop(p.Drop, lost)
				octets -= min(octets, (octets+sent-1)/sent*lost)
				sent -= lost
			}
			packets += sent
			bytes += octets
			if p.Fragmentable && p.Drop == NotDropped {
				e.c.Add(OuterFragmented, 1)
			}
		}
		e.c.Add(EncapPackets, packets)
		e.c.Add(EncapBytes, bytes)
	}
	e.out, e.frag = e.out[:0], e.frag[:0]
}

// missed asks for a mapping and holds or drops the packet.
func (e *Encap) missed(p *HostPacket, now time.Time) {
	f := &e.flow
	e.c.Add(e.f.misses.offer(Miss{IID: e.iid, Dst: f.Dst, Src: f.Src}, now, nil), 1)
	if e.f.hold == nil || e.releaser {
		e.c.Drop(DropNoMapping, 1)
		return
	}
	_, drop := e.f.hold.put(holdKey{e.iid, f.Dst}, f.Src, p, now, false)
	e.countHeld(drop)
}

func (e *Encap) countHeld(drop DropReason) {
	if drop != NotDropped {
		e.c.Drop(drop, 1)
		return
	}
	e.c.Add(HeldPackets, 1)
}

// refuse drops the packet, and where the mapping says drop tells its source
// (RFC 9301 section 5.4).
func (e *Encap) refuse(p *HostPacket, now time.Time) {
	r := &e.run
	e.c.Drop(r.drop, 1)
	why := encap.NoRoute
	switch r.drop {
	case DropNegative:
	case DropPolicyDenied, DropAuthFailure:
		why = encap.Prohibited
	default:
		return
	}
	if r.told {
		return
	}
	r.told = true
	if msg, ok := encap.AppendUnreachable(e.icmp[:0], e.join(p), why); ok {
		e.tell(msg, &e.unreachable, ICMPUnreachable, now)
	}
}

// oversized handles a packet of n octets, more than the room that the path has
// (RFC 9300 section 7).
func (e *Encap) oversized(p *HostPacket, n, room int, now time.Time) {
	f := &e.flow
	switch {
	case !f.DF:
		e.fragment(e.join(p), room)
		return
	case f.Src.Is6() && n <= encap.MinMTU6:
		// No IPv6 host sends less than this, whatever it is told: the outer
		// packet has to be fragmented (RFC 2473 section 7.1 b).
		e.emit(p, n, true)
		return
	}
	e.c.Drop(DropTooBig, 1)
	if e.run.told {
		return
	}
	e.run.told = true
	if f.Src.Is6() {
		room = max(room, encap.MinMTU6)
	}
	if msg, ok := encap.AppendTooBig(e.icmp[:0], e.join(p), room); ok {
		e.tell(msg, &e.tooBig, ICMPTooBig, now)
	}
}

// join returns the inner packet in one piece, until the next join.
func (e *Encap) join(p *HostPacket) []byte {
	if len(p.Body) == 0 {
		return p.Buf[Headroom:]
	}
	e.whole = append(append(e.whole[:0], p.Buf[Headroom:]...), p.Body...)
	return e.whole
}

// fragment splits an IPv4 packet and queues the pieces.
func (e *Encap) fragment(pkt []byte, room int) {
	fr, err := encap.NewFragmenter(pkt, room)
	switch {
	case errors.Is(err, encap.ErrOffset):
		e.c.Drop(DropInnerHeader, 1)
		return
	case err != nil: // the floor of the path MTU leaves room for any header
		e.c.Drop(DropTooBig, 1)
		return
	}
	e.c.Add(Fragmented, 1)
	for {
		if cap(e.frag)-len(e.frag) < Headroom+room {
			e.flush()
		}
		start := len(e.frag)
		b, ok := fr.Next(e.frag[:start+Headroom])
		if !ok {
			return
		}
		e.frag = b
		buf := b[start:len(b):len(b)]
		e.emit(&HostPacket{Buf: buf}, len(buf)-Headroom, false)
	}
}

// tell writes an ICMP message to the host side, if the bucket has a token.
func (e *Encap) tell(msg []byte, limit *bucket, what Counter, now time.Time) {
	if !limit.allow(now) {
		e.c.Add(ICMPLimited, 1)
		return
	}
	e.msg[0] = msg
	if n, _ := e.host.Write(e.msg[:]); n == 1 {
		e.c.Add(what, 1)
	} else {
		e.c.Drop(DropHostWrite, 1)
	}
}
