package dataplane

import (
	"context"
	"iter"
	"net/netip"
)

// Plane is a data plane as the daemon sees it.
type Plane interface {
	// Run forwards until ctx is done, then removes everything that the plane
	// set up in the host, and returns.
	Run(ctx context.Context) error
	// Misses returns the destinations for which a mapping is wanted.
	Misses() <-chan Miss
	// Stats returns name and value of every counter and every drop reason.
	Stats() iter.Seq2[string, uint64]
}

// Headroom is how many octets a host side must leave before each packet that
// it reads: the LISP header is prepended there.
const Headroom = 8

// MaxBatch is the largest number of packets that a worker handles at once.
const MaxBatch = 128

// Host is the site side of a plane, where packets of hosts come from and go
// to. Read and Write may be called at the same time; Write from several
// goroutines.
type Host interface {
	HostReader
	HostWriter
}

// HostReader is the reading half of a Host.
type HostReader interface {
	// Read blocks until there are packets and puts each into one of bufs, at
	// offset, with its length into the same place of sizes. The packets, the
	// octets before them and those behind them are the caller's until the next
	// Read. An error ends the plane's use of the host side; after Close it is
	// os.ErrClosed.
	Read(bufs [][]byte, sizes []int, offset int) (n int, err error)
}

// HostWriter is the writing half of a Host.
type HostWriter interface {
	// Write hands over whole IP packets. They are borrowed until it returns,
	// and may be changed by it. n is how many were accepted; the error is that
	// of one of the others, whichever.
	Write(pkts [][]byte) (n int, err error)
}

// Underlay is the provider side of a plane.
type Underlay interface {
	Sender
	Receiver
}

// Sender is the sending half of an Underlay.
type Sender interface {
	// Send sends the packets in order, and sets Drop of each that it could not
	// send. The packets are borrowed until it returns. One goroutine calls it.
	Send(pkts []Packet)
}

// Receiver is the receiving half of an Underlay.
type Receiver interface {
	// Receive blocks until there are packets and fills pkts from the start.
	// Their data is the caller's until the next Receive. After Close the error
	// is net.ErrClosed. A packet with Drop set is one that the underlay met but
	// can't hand over; it has no data.
	Receive(pkts []Packet) (n int, err error)
}

// Packet is one encapsulated packet between core and underlay: the payload of
// a UDP datagram of port 4341, and what the outer headers say.
type Packet struct {
	// Data is the LISP header and the inner packet.
	Data []byte
	// Src and Dst are the outer addresses.
	Src, Dst netip.Addr
	// Hash is the flow hash, from which a sender takes the source port.
	Hash uint32
	// TTL and TOS are those of the outer header.
	TTL, TOS uint8
	// Fragmentable allows fragmentation of the outer packet.
	Fragmentable bool
	// Drop is set by the underlay when the packet was lost there.
	Drop DropReason
}
