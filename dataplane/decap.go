package dataplane

import (
	"errors"
	"net"
	"net/netip"

	"github.com/eidolon-lisp/eidolon/encap"
)

// Decap is a worker on the way in: packets come from the underlay and go to
// the host side of their instance. It belongs to one goroutine.
type Decap struct {
	f     *Forwarder
	hosts map[uint32]*hostQueue
	used  []*hostQueue // those with packets in this batch
	c     *Counters

	flow   encap.Flow
	header encap.Header
	outer  netip.Addr // outer source that was checked in this batch
	last   admission
	pkts   []Packet // of Run
}

// admission is a decision that holds for following packets of one batch.
type admission struct {
	valid    bool
	iid      uint32
	src, dst netip.Addr // inner
	host     *hostQueue
	drop     DropReason
}

// hostQueue gathers the packets of a batch that go to one instance.
type hostQueue struct {
	host  HostWriter
	pkts  [][]byte
	bytes uint64
}

// NewDecap returns a worker that delivers to hosts, by instance-ID.
func (f *Forwarder) NewDecap(hosts map[uint32]HostWriter) *Decap {
	d := &Decap{f: f, hosts: make(map[uint32]*hostQueue), c: f.stats.Worker()}
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
	s := d.f.fib.Snapshot()
	d.last.valid, d.outer = false, netip.Addr{}
	for i := range pkts {
		if drop := d.packet(s, &pkts[i]); drop != NotDropped {
			d.c.Drop(drop, 1)
		}
	}
	for _, q := range d.used {
		d.deliver(q)
	}
	d.used = d.used[:0]
}

// packet queues the inner packet of p, or says why not. The order of checks is
// that of RFC 9300 section 4.2 step 7: outer header, LISP header, instance,
// inner header, addresses; only then the packet is edited.
func (d *Decap) packet(s *Snapshot, p *Packet) DropReason {
	if p.Drop != NotDropped {
		return p.Drop
	}
	if p.Src != d.outer {
		if p.Src == p.Dst || p.Src == s.Source(p.Src) || !encap.Routable(p.Src) {
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
	case h.HasVersions:
		return DropMapVersion // ours have the null version
	}
	f, pkt := &d.flow, p.Data[encap.HeaderLen:]
	a := &d.last
	if !a.valid || a.iid != h.IID {
		*a = admission{iid: h.IID, host: d.hosts[h.IID]}
		if a.host == nil {
			return DropUnknownInstance
		}
	}
	if drop := decode(f, pkt, len(pkt)); drop != NotDropped {
		return drop
	}
	if !a.valid || a.src != f.Src || a.dst != f.Dst {
		a.valid, a.src, a.dst, a.drop = true, f.Src, f.Dst, addresses(&f.Key)
		switch {
		case a.drop != NotDropped:
		case !s.Local(h.IID, f.Dst):
			a.drop = DropDestinationNotLocal
		case s.Local(h.IID, f.Src):
			a.drop = DropSourceLocal // RFC 9300 section 16: spoofed
		}
	}
	if a.drop != NotDropped {
		return a.drop
	}
	switch encap.ApplyOuter(pkt, p.TTL, p.TOS) {
	case encap.MustDrop:
		return DropCongestion
	case encap.Unexpected:
		d.c.Add(ECNUnexpected, 1)
	}
	q := a.host
	if len(q.pkts) == 0 {
		d.used = append(d.used, q)
	}
	q.pkts = append(q.pkts, pkt)
	q.bytes += uint64(len(pkt))
	return NotDropped
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
