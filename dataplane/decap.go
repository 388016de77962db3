package dataplane

import (
	"errors"
	"net"
	"net/netip"
	"time"

	"github.com/eidolon-lisp/eidolon/encap"
	"github.com/eidolon-lisp/eidolon/mapping"
)

// Decap is a worker on the way in: packets come from the underlay and go to
// the host side of their instance. It belongs to one goroutine.
type Decap struct {
	f     *Forwarder
	hosts map[uint32]*hostQueue
	used  []*hostQueue // those with packets in this batch
	c     *Counters

	asks   bucket // for mappings of inner sources
	traces bucket

	flow   encap.Flow
	header encap.Header
	outer  netip.Addr // outer source that was checked in this batch
	heard  netip.Addr // outer source that was noted in this batch
	local  netip.Addr // outer destination that at is of
	at     batchTally
	last   admission
	odd    uint64   // packets of this batch with nonce or status bits
	pkts   []Packet // of Run
}

// admission is a decision that holds for following packets of one batch.
type admission struct {
	valid    bool
	iid      uint32
	src, dst netip.Addr // inner
	host     *hostQueue
	drop     DropReason
	entry    *Entry // of the inner source; nil if there is none

	packets, bytes uint64 // to add to its counters

	// What the check of sources says of one outer source.
	from   netip.Addr
	source DropReason

	// Of the packets with map-versions among them.
	judged  bool
	pair    uint32
	rloc    netip.Addr
	version DropReason
}

// hostQueue gathers the packets of a batch that go to one instance.
type hostQueue struct {
	host  HostWriter
	pkts  [][]byte
	bytes uint64
}

// NewDecap returns a worker that delivers to hosts, by instance-ID.
func (f *Forwarder) NewDecap(hosts map[uint32]HostWriter) *Decap {
	d := &Decap{f: f, hosts: make(map[uint32]*hostQueue), c: f.stats.Worker(), asks: newBucket(sourceAsks, sourceAsksBurst), traces: newBucket(traceRate, traceBurst)}
	for iid, h := range hosts {
		d.hosts[iid] = &hostQueue{host: h, pkts: make([][]byte, 0, MaxBatch)}
	}
	d.used = make([]*hostQueue, 0, len(hosts))
	return d
}

// Counters returns the worker's counters.
func (d *Decap) Counters() *Counters { return d.c }

// Run receives from r and delivers until r is closed, which is not an error.
func (d *Decap) Run(r Receiver) error {
	if d.pkts == nil {
		d.pkts = make([]Packet, MaxBatch)
	}
	for {
		n, err := r.Receive(d.pkts)
		if n > 0 {
			d.Batch(d.pkts[:n])
		}
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return nil
			}
			return err
		}
	}
}

// Batch checks, edits and delivers packets in order. They are the caller's
// again when it returns.
func (d *Decap) Batch(pkts []Packet) {
	s, t, now := d.f.fib.Snapshot(), d.f.fib.tracer.Load(), d.f.now()
	d.last.valid, d.outer, d.heard, d.odd = false, netip.Addr{}, netip.Addr{}, 0
	for i := range pkts {
		if t != nil && d.traced(t, s, now, &pkts[i]) {
			continue
		}
		if drop := d.packet(s, now, &pkts[i]); drop != NotDropped {
			d.c.Drop(drop, 1)
		}
	}
	d.endRun()
	d.at.received()
	d.local = netip.Addr{}
	d.deliverAll()
	if d.odd > 0 {
		d.c.Add(HeaderBitsIgnored, d.odd)
	}
}

// packet queues the inner packet of p, or says why not. The order of checks is
// that of RFC 9300 section 4.2 step 7: outer header, LISP header, instance,
// inner header, addresses; only then the packet is edited.
func (d *Decap) packet(s *Snapshot, now time.Time, p *Packet) DropReason {
	if p.Drop != NotDropped {
		return p.Drop
	}
	if p.Src != d.outer {
		if p.Src == p.Dst || s.isOwn(p.Src) || !encap.Routable(p.Src) {
			return DropOuterSource
		}
		d.outer = p.Src
	}
	h := &d.header
	switch err := h.Decode(p.Data); {
	case err != nil:
		return DropOuterTruncated
	case h.KeyID != 0:
		return DropEncrypted
	case h.HasVersions && !d.f.versioning:
		return DropMapVersion // ours have the null version
	case h.HasNonce || h.HasStatus:
		d.odd++ // they could be forged: nothing follows (RFC 9300 section 4.1)
	}
	f, pkt := &d.flow, p.Data[encap.HeaderLen:]
	a := &d.last
	if !a.valid || a.iid != h.IID {
		d.endRun()
		*a = admission{iid: h.IID, host: d.hosts[h.IID]}
		if a.host == nil {
			return DropUnknownInstance
		}
	}
	switch drop := decode(f, pkt, len(pkt)); {
	case drop != NotDropped:
		return drop
	case p.TTL == 0: // the inner one would become 0
		return DropTTLExpired
	}
	if !a.valid || a.src != f.Src || a.dst != f.Dst {
		d.endRun()
		a.valid, a.judged, a.src, a.dst, a.drop = true, false, f.Src, f.Dst, addresses(&f.Key)
		a.entry, a.from = nil, netip.Addr{}
		if a.drop == NotDropped && !s.Local(h.IID, f.Dst) {
			a.drop = s.served(h.IID, f.Src, f.Dst)
		}
		switch {
		case a.drop != NotDropped:
		case s.Local(h.IID, f.Src):
			a.drop = DropSourceLocal // RFC 9300 section 16: spoofed
		default:
			a.entry = s.Lookup(h.IID, f.Src, f.Dst, now)
		}
	}
	if a.drop != NotDropped {
		return a.drop
	}
	if a.from != p.Src {
		a.from, a.source = p.Src, d.checkSource(a.entry, p.Src, now)
	}
	if a.source != NotDropped {
		return a.source
	}
	if h.HasVersions {
		pair := versionPair(mapping.Version(h.SrcVersion), mapping.Version(h.DstVersion))
		if !a.judged || a.pair != pair || a.rloc != p.Src {
			a.judged, a.pair, a.rloc, a.version = true, pair, p.Src, d.checkVersions(s, a.entry, p.Src, now)
		}
		if a.version != NotDropped {
			return a.version
		}
	}
	switch encap.ApplyOuter(pkt, p.TTL, p.TOS) {
	case encap.MustDrop:
		return DropCongestion
	case encap.Unexpected:
		d.c.Add(ECNUnexpected, 1)
	}
	if d.f.clamp && f.Protocol == protoTCP && encap.IsSYN(pkt) && encap.ClampMSS(pkt, s.roomBack(a.entry, p.Src), true) {
		d.c.Add(MSSClamped, 1)
	}
	a.packets++
	a.bytes += uint64(len(pkt))
	if p.Dst != d.local {
		d.at.received()
		d.local, d.at.tally = p.Dst, s.tallyOf(p.Dst)
	}
	d.at.packets++
	d.at.bytes += uint64(len(pkt))
	q := a.host
	if len(q.pkts) == 0 {
		d.used = append(d.used, q)
	}
	if p.Src != d.heard {
		d.heard = p.Src
		if !d.f.heard.add(p.Src) {
			d.c.Add(HeardLost, 1)
		}
	}
	q.pkts = append(q.pkts, pkt)
	q.bytes += uint64(len(pkt))
	return NotDropped
}

// endRun adds the packets of one inner source to the counter that all workers
// share.
func (d *Decap) endRun() {
	if a := &d.last; a.packets > 0 {
		if a.entry != nil {
			a.entry.use.received.Add(a.packets)
			a.entry.use.receivedBytes.Add(a.bytes)
			d.f.fib.activity.note(a.entry.use)
		}
		a.packets, a.bytes = 0, 0
	}
}

// deliver writes what is queued for one instance.
func (d *Decap) deliver(q *hostQueue) {
	want, bytes := len(q.pkts), q.bytes
	n, _ := q.host.Write(q.pkts)
	if n < want {
		d.c.Drop(DropHostWrite, uint64(want-n))
		bytes = bytes / uint64(want) * uint64(n) // which ones failed is not known
	}
	d.c.Add(DecapPackets, uint64(n))
	d.c.Add(DecapBytes, bytes)
	clear(q.pkts)
	q.pkts, q.bytes = q.pkts[:0], 0
}
