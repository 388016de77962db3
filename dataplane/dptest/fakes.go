package dptest

import (
	"errors"
	"net"
	"os"
	"slices"
	"sync"

	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/encap"
)

// queue is a FIFO that a reader waits on.
type queue[T any] struct {
	mu     sync.Mutex
	cond   *sync.Cond
	items  []T
	closed bool
}

func (q *queue[T]) init() { q.cond = sync.NewCond(&q.mu) }

func (q *queue[T]) put(items ...T) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.items = append(q.items, items...)
	q.cond.Broadcast()
}

// take waits for items and returns at most n; none after close.
func (q *queue[T]) take(n int) []T {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.items) == 0 && !q.closed {
		q.cond.Wait()
	}
	n = min(n, len(q.items))
	out := q.items[:n:n]
	q.items = q.items[n:]
	return out
}

// drain returns all items there are, without waiting.
func (q *queue[T]) drain() []T {
	q.mu.Lock()
	defer q.mu.Unlock()
	out := q.items
	q.items = nil
	return out
}

func (q *queue[T]) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.cond.Broadcast()
}

// ErrRefused is what a Host's Write returns for packets it was told to refuse.
var ErrRefused = errors.New("dptest: refused")

// Host is the host side of a plane in memory.
type Host struct {
	// Refuse, when set before use, makes Write refuse a packet.
	Refuse func(pkt []byte) bool
	// Discard forgets what is written, without a copy.
	Discard bool
	// Split, when not 0, makes Read hand over longer packets in two parts, the
	// first of that many octets.
	Split int

	in, out queue[[]byte]
}

// NewHost returns a host side with nothing to read.
func NewHost() *Host {
	h := new(Host)
	h.in.init()
	h.out.init()
	return h
}

// Inject makes packets that Read returns.
func (h *Host) Inject(pkts ...[]byte) { h.in.put(pkts...) }

// Written returns copies of the packets that were written since the last call.
func (h *Host) Written() [][]byte { return h.out.drain() }

// WaitWritten waits for one packet at least and returns those there are; none
// after Close.
func (h *Host) WaitWritten() [][]byte { return h.out.take(1 << 30) }

// Read implements dataplane.HostReader.
func (h *Host) Read(pkts []dataplane.HostPacket) (int, error) {
	in := h.in.take(len(pkts))
	if len(in) == 0 {
		return 0, os.ErrClosed
	}
	for i, p := range in {
		pkts[i] = HostPacket(p, h.Split)
	}
	return len(in), nil
}

// HostPacket returns p as a host side hands it over: with headroom and, when
// split is not 0, what is beyond split octets in Body.
func HostPacket(p []byte, split int) dataplane.HostPacket {
	if split == 0 || split > len(p) {
		split = len(p)
	}
	buf := make([]byte, dataplane.Headroom+split)
	copy(buf[dataplane.Headroom:], p)
	return dataplane.HostPacket{Buf: buf, Body: slices.Clone(p[split:])}
}

// Write implements dataplane.HostWriter.
func (h *Host) Write(pkts [][]byte) (n int, err error) {
	for _, p := range pkts {
		if h.Refuse != nil && h.Refuse(p) {
			err = ErrRefused
			continue
		}
		n++
		if !h.Discard {
			h.out.put(slices.Clone(p))
		}
	}
	return n, err
}

// Close ends Read and WaitWritten.
func (h *Host) Close() error {
	h.in.close()
	h.out.close()
	return nil
}

// Underlay is the provider side of a plane in memory.
type Underlay struct {
	// Lose, when set before use, says which packets Send can't send, and why; of a
	// super-packet it may set how many segments.
	Lose func(p *dataplane.Packet) dataplane.DropReason
	// Discard forgets what is sent, without a copy.
	Discard bool

	in, out queue[dataplane.Packet]
}

// NewUnderlay returns an underlay with nothing to receive.
func NewUnderlay() *Underlay {
	u := new(Underlay)
	u.in.init()
	u.out.init()
	return u
}

// Inject makes packets that Receive returns.
func (u *Underlay) Inject(pkts ...dataplane.Packet) { u.in.put(pkts...) }

// Sent returns copies of the packets that were sent since the last call.
func (u *Underlay) Sent() []dataplane.Packet { return u.out.drain() }

// WaitSent waits for one packet at least and returns those there are; none
// after Close.
func (u *Underlay) WaitSent() []dataplane.Packet { return u.out.take(1 << 30) }

// Send implements dataplane.Sender.
func (u *Underlay) Send(pkts []dataplane.Packet) {
	for i := range pkts {
		if u.Lose != nil {
			p := &pkts[i]
			if p.Drop = u.Lose(p); p.Drop != dataplane.NotDropped {
				if p.Lost == 0 {
					p.Lost = p.Super.Segments(p.Len() - encap.HeaderLen)
				}
				continue
			}
		}
		if u.Discard {
			continue
		}
		p := pkts[i]
		if p.Super.Size == 0 {
			p.Data, p.Body = slices.Concat(p.Data, p.Body), nil
			u.out.put(p)
			continue
		}
		var cut dataplane.Cutter
		var head dataplane.Head
		for cut.Begin(p.Data, p.Super); cut.Active(); {
			s := p
			s.Data, s.Super = slices.Concat(cut.Next(&head)), dataplane.Super{}
			u.out.put(s)
		}
	}
}

// Receive implements dataplane.Receiver.
func (u *Underlay) Receive(pkts []dataplane.Packet) (int, error) {
	in := u.in.take(len(pkts))
	if len(in) == 0 {
		return 0, net.ErrClosed
	}
	return copy(pkts, in), nil
}

// Close ends Receive and WaitSent.
func (u *Underlay) Close() error {
	u.in.close()
	u.out.close()
	return nil
}

var (
	_ dataplane.Host     = (*Host)(nil)
	_ dataplane.Underlay = (*Underlay)(nil)
)
