package udp

import "net/netip"

// Message is one datagram of a batch.
type Message struct {
	Payload []byte
	// Src and Dst are as Read returns them, and as Write takes them.
	Src, Dst netip.AddrPort
}

// Queue is one of the sockets that a Conn reads from. Each of its two methods
// is for one goroutine; both may be for the same.
type Queue interface {
	// Receive blocks for the next datagram, and returns it with others that
	// wait behind it. They are valid until the next call. Errors are those of
	// Conn.Read.
	Receive() ([]Message, error)
	Sender
}

// Sender sends batches. It is for one goroutine.
type Sender interface {
	// Send sends the datagrams in their order, and returns how many of them
	// could not be sent: one that cannot does not keep back the others. It
	// keeps nothing of them.
	Send([]Message) (failed int)
}

// Batcher is what a Conn can be besides: one that moves many datagrams with
// one system call.
type Batcher interface {
	Conn
	// Queues returns a Queue for each socket. Together they receive all
	// datagrams, each one once; a source keeps to one of them. Read must not
	// be called then.
	Queues() []Queue
	// NewSender returns a Sender that belongs to no Queue.
	NewSender() Sender
}

// Queues returns the queues of c, or where it has none, n of them that take
// turns in reading one datagram at a time.
func Queues(c Conn, n int) []Queue {
	if b, ok := c.(Batcher); ok {
		return b.Queues()
	}
	qs := make([]Queue, max(n, 1))
	for i := range qs {
		qs[i] = &single{sender: sender{c}, buf: make([]byte, maxDatagram)}
	}
	return qs
}

// NewSender returns a Sender of c; where it has none, one that calls Write.
func NewSender(c Conn) Sender {
	if b, ok := c.(Batcher); ok {
		return b.NewSender()
	}
	return sender{c}
}

// single is a Queue of any Conn.
type single struct {
	sender
	buf []byte
	one [1]Message
}

// Receive implements Queue.
func (q *single) Receive() ([]Message, error) {
	n, src, dst, err := q.c.Read(q.buf)
	if err != nil {
		return nil, err
	}
	q.one[0] = Message{q.buf[:n], src, dst}
	return q.one[:], nil
}

type sender struct{ c Conn }

// Send implements Sender.
func (s sender) Send(ms []Message) (failed int) {
	for _, m := range ms {
		if s.c.Write(m.Payload, m.Src, m.Dst) != nil {
			failed++
		}
	}
	return failed
}
