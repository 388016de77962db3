package dptest

import (
	"errors"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/mapping"
)

// Memory makes planes of the core and the fakes of this package.
var Memory = Factory{New: func(_ testing.TB, s *State) Plane { return newMemory(s) }}

// memory is the core of a plane between fakes.
type memory struct {
	fib   *dataplane.FIB
	fwd   *dataplane.Forwarder
	under *Underlay
	out   map[uint32]*dataplane.Encap
	in    *dataplane.Decap

	releasers map[uint32]*dataplane.Encap // of what is held
	hosts     map[uint32]*Host
	now       time.Time
	drops     map[dataplane.DropReason]uint64
	held      uint64
}

func newMemory(s *State) *memory {
	m := &memory{
		under: NewUnderlay(), out: make(map[uint32]*dataplane.Encap), releasers: make(map[uint32]*dataplane.Encap), hosts: make(map[uint32]*Host),
		now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), drops: make(map[dataplane.DropReason]uint64),
	}
	m.fib = dataplane.NewFIB()
	s.Tell(m.fib, m.now)
	cfg := s.Config
	cfg.Now = func() time.Time { return m.now }
	m.fwd = dataplane.NewForwarder(m.fib, cfg)
	writers := make(map[uint32]dataplane.HostWriter)
	for _, iid := range s.Instances() {
		m.hosts[iid] = NewHost()
		writers[iid] = m.hosts[iid]
		m.out[iid] = m.fwd.NewEncap(iid, m.hosts[iid], m.under)
		m.releasers[iid] = m.fwd.NewReleaser(iid, m.hosts[iid], m.under)
	}
	m.in = m.fwd.NewDecap(writers)
	return m
}

// Encap implements Plane.
func (m *memory) Encap(iid uint32, pkt []byte, size int) Outcome {
	p := HostPacket(pkt, 0)
	if size > 0 {
		whole, o := announce(pkt, size)
		p = HostPacket(whole, 0)
		protocol := uint8(TCP)
		if o.sum == 6 {
			protocol = UDP
		}
		var ok bool
		if p.Super, ok = dataplane.NewSuper(whole, protocol, o.start, size); !ok {
			return Outcome{Err: errors.New("no super-packet")}
		}
	}
	m.out[iid].Batch(m.now, []dataplane.HostPacket{p})
	return m.outcome(iid)
}

// Decap implements Plane. The outer headers must be sound.
func (m *memory) Decap(iid uint32, pkt []byte, size int) Outcome {
	pkts := [][]byte{pkt}
	if size > 0 {
		whole, o := announce(pkt, size)
		var err error
		if pkts, err = o.cut(whole); err != nil {
			return Outcome{Err: err}
		}
	}
	var batch []dataplane.Packet
	for _, p := range pkts {
		batch = append(batch, received(p))
	}
	m.in.Batch(batch)
	return m.outcome(iid)
}

// Learn implements Plane.
func (m *memory) Learn(changes ...mapping.CacheChange) {
	m.fib.Apply(changes)
	m.fwd.Release(m.now, m.releasers)
}

// Rest implements Plane.
func (m *memory) Rest(iid uint32, d time.Duration) Outcome {
	m.now = m.now.Add(d)
	m.fwd.Release(m.now, m.releasers)
	return m.outcome(iid)
}

// Misses implements Plane.
func (m *memory) Misses() (list []dataplane.Miss) {
	for len(m.fwd.Misses()) > 0 {
		list = append(list, <-m.fwd.Misses())
	}
	return list
}

// received returns what a receiver makes of a packet of the underlay.
func received(pkt []byte) dataplane.Packet {
	hlen := 20
	if pkt[0]>>4 == 6 {
		hlen = 40
	}
	// A payload shorter than a LISP header is padded for the parse only.
	d, _ := ParseDatagram(append(slices.Clone(pkt), make([]byte, 8)...))
	return dataplane.Packet{Data: slices.Clone(pkt[hlen+8:]), Src: d.Src, Dst: d.Dst, TTL: d.TTL, TOS: d.TOS}
}

func (m *memory) outcome(iid uint32) (o Outcome) {
	for _, p := range m.under.Sent() {
		d := Datagram{Src: p.Src, Dst: p.Dst, TTL: p.TTL, TOS: p.TOS, Fragmentable: p.Fragmentable, Inner: p.Data[8:],
			SrcPort: firstDynamic + uint16(p.Hash%(1<<14))}
		copy(d.Header[:], p.Data)
		o.Sent = append(o.Sent, d.Bytes())
	}
	if h := m.hosts[iid]; h != nil {
		o.Host = h.Written()
	}
	o.Drops = make(map[dataplane.DropReason]uint64)
	for _, r := range dataplane.DropReasons() {
		if n := m.fwd.Drops(r) - m.drops[r]; n > 0 {
			o.Drops[r] = n
		}
	}
	for r, n := range maps.All(o.Drops) {
		m.drops[r] += n
	}
	held := m.fwd.Count(dataplane.HeldPackets)
	o.Held, m.held = held-m.held, held
	return o
}
