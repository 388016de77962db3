package dataplane

import (
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// MissPolicy says what becomes of packets while their mapping is resolved. The
// zero value drops them.
type MissPolicy struct {
	// Hold keeps them, within the limits below, and sends them in order when
	// the mapping comes. Without it they are dropped.
	Hold bool
	// Limits of the hold queue; 0 means the value of DefaultMissPolicy.
	PacketsPerEID, BytesPerEID int
	Packets, Bytes             int
	// Time is how long a packet is held at most.
	Time time.Duration
}

// DefaultMissPolicy holds packets: 64 and 128 KiB a destination, 4096 and 8 MiB
// in all, for 3 s. A Map-Request that was lost once is then still in time.
var DefaultMissPolicy = MissPolicy{
	Hold: true, PacketsPerEID: 64, BytesPerEID: 128 << 10, Packets: 4096, Bytes: 8 << 20, Time: 3 * time.Second,
}

func (p MissPolicy) withDefaults() MissPolicy {
	d := DefaultMissPolicy
	for v, def := range map[*int]int{
		&p.PacketsPerEID: d.PacketsPerEID, &p.BytesPerEID: d.BytesPerEID, &p.Packets: d.Packets, &p.Bytes: d.Bytes,
	} {
		if *v <= 0 {
			*v = def
		}
	}
	if p.Time <= 0 {
		p.Time = d.Time
	}
	return p
}

// holdKey is a destination: while nothing is known of it, each address is an
// EID by itself.
type holdKey struct {
	iid uint32
	dst netip.Addr
}

type heldPacket struct {
	buf   []byte // headroom and packet
	src   netip.Addr
	since time.Time
}

type heldQueue struct {
	pkts  []heldPacket
	bytes int
}

// hold keeps the packets of misses. Workers put packets in, one goroutine
// takes them out. A destination stays in the map until its last packet has
// been sent, and until then a worker that has a mapping for it queues behind:
// so the order of packets is kept.
type hold struct {
	policy MissPolicy
	active atomic.Int64  // destinations in byKey, read without the lock
	kick   chan struct{} // has a value after the first packet came

	mu      sync.Mutex
	byKey   map[holdKey]*heldQueue
	packets int
	bytes   int
}

func newHold(p MissPolicy) *hold {
	return &hold{policy: p.withDefaults(), byKey: make(map[holdKey]*heldQueue), kick: make(chan struct{}, 1)}
}

// put copies the packet into the queue. With behind set it does so only if packets of
// that destination are still there. It reports whether the packet was taken
// care of, and if it was dropped, why.
func (h *hold) put(k holdKey, src netip.Addr, pkt *HostPacket, now time.Time, behind bool) (taken bool, drop DropReason) {
	h.mu.Lock()
	defer h.mu.Unlock()
	q := h.byKey[k]
	if q == nil && behind {
		return false, NotDropped
	}
	p, size := &h.policy, len(pkt.Buf)-Headroom+len(pkt.Body)
	if h.packets >= p.Packets || h.bytes+size > p.Bytes ||
		q != nil && (len(q.pkts) >= p.PacketsPerEID || q.bytes+size > p.BytesPerEID) ||
		size > p.BytesPerEID {
		return true, DropHoldFull
	}
	if q == nil {
		q = new(heldQueue)
		h.byKey[k] = q
		h.active.Add(1)
		select {
		case h.kick <- struct{}{}:
		default:
		}
	}
	buf := slices.Concat(pkt.Buf, pkt.Body)
	q.pkts = append(q.pkts, heldPacket{buf, src, now})
	q.bytes += size
	h.packets++
	h.bytes += size
	return true, NotDropped
}

// has reports whether there are packets toward k.
func (h *hold) has(k holdKey) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.byKey[k] != nil
}

// keys returns the destinations that have packets.
func (h *hold) keys() []holdKey {
	h.mu.Lock()
	defer h.mu.Unlock()
	keys := make([]holdKey, 0, len(h.byKey))
	for k := range h.byKey {
		keys = append(keys, k)
	}
	return keys
}

// first returns the source of the oldest packet toward k.
func (h *hold) first(k holdKey) (src netip.Addr) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if q := h.byKey[k]; q != nil && len(q.pkts) > 0 {
		src = q.pkts[0].src
	}
	return src
}

// take removes and returns all packets toward k that now are there. When there
// are none it forgets k.
func (h *hold) take(k holdKey) []heldPacket {
	return h.remove(k, func(q *heldQueue) int { return len(q.pkts) })
}

// expire removes the packets toward k that were held for too long and returns
// how many.
func (h *hold) expire(k holdKey, now time.Time) int {
	return len(h.remove(k, func(q *heldQueue) (n int) {
		for n < len(q.pkts) && now.Sub(q.pkts[n].since) >= h.policy.Time {
			n++
		}
		return n
	}))
}

// remove takes the first n packets; a queue that was found empty is forgotten.
func (h *hold) remove(k holdKey, count func(*heldQueue) int) []heldPacket {
	h.mu.Lock()
	defer h.mu.Unlock()
	q := h.byKey[k]
	if q == nil {
		return nil
	}
	if len(q.pkts) == 0 {
		delete(h.byKey, k)
		h.active.Add(-1)
		return nil
	}
	n := count(q)
	out := q.pkts[:n:n]
	q.pkts = q.pkts[n:]
	for _, p := range out {
		size := len(p.buf) - Headroom
		q.bytes -= size
		h.bytes -= size
	}
	h.packets -= n
	return out
}
