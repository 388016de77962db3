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
	// Heard returns the outer sources of packets that were decapsulated since
	// the last call, at most 4096, in no order. It is for one caller.
	Heard() []netip.Addr
	// Versions returns what received packets say about mappings, by
	// map-versioning and the check of sources.
	Versions() <-chan VersionEvent
	// Unreachable returns the paths that our kernel, or a router or host on the
	// way, said it can't forward packets on. Nothing follows from it here: it
	// may be forged by who can guess ports.
	Unreachable() <-chan Path
	// SetRLOCs replaces the addresses of this router to receive on and to send
	// from. Addresses that no interface has yet are bound when they appear;
	// traffic on those that stay is not disturbed.
	SetRLOCs([]netip.Addr)
	// Stats returns name and value of every counter and every drop reason.
	Stats() iter.Seq2[string, uint64]
}

// Headroom is how many octets lie before each packet in a HostPacket's Buf: the
// LISP header is written there.
const Headroom = 8

// MaxBatch is the largest number of packets that a worker handles at once.
const MaxBatch = 132

// Host is the site side of a plane, where packets of hosts come from and go
// to. Read and Write may be called at the same time; Write from several
// goroutines.
type Host interface {
	HostReader
	HostWriter
}

// HostReader is the reading half of a Host.
type HostReader interface {
	// Read blocks until there are packets and fills pkts from the start. The
	// packets are the caller's, to change too, until the next Read. A packet
	// with Drop set is one that the host side met but can't hand over. An error
	// ends the use of the host side; after Close it is os.ErrClosed.
	Read(pkts []HostPacket) (n int, err error)
}

// HostPacket is one IP packet from the host side, or a super-packet. It may be in
// two parts, so that the segments of a large one need not be copied.
type HostPacket struct {
	// Buf is Headroom octets and then the beginning of the packet, with all of
	// its IP and transport headers.
	Buf []byte
	// Body is the rest of the packet, or empty, as it is for a super-packet.
	Body []byte
	// Super says how a super-packet is to be cut.
	Super Super
	// Drop is set when the packet was lost on the host side.
	Drop DropReason
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
	// send. A super-packet it cuts, or leaves that to who does it later. The
	// packets are borrowed until it returns. One goroutine calls it.
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
	// Data is the LISP header and the inner packet, or its beginning.
	Data []byte
	// Body is the rest of the inner packet. It is empty in what is received, and
	// for a super-packet.
	Body []byte
	// Super says how the inner packet is to be cut, if that is a super-packet; the
	// LISP header is that of each segment.
	Super Super
	// Src and Dst are the outer addresses.
	Src, Dst netip.Addr
	// Hash is the flow hash, from which a sender takes the source port.
	Hash uint32
	// TTL and TOS are those of the outer header.
	TTL, TOS uint8
	// Fragmentable allows fragmentation of the outer packet.
	Fragmentable bool
	// Drop is set by the underlay when the packet was lost there, or some of the
	// segments, of which Lost is how many.
	Drop DropReason
	Lost int
}

// Len returns the length of the UDP payload in octets.
func (p *Packet) Len() int { return len(p.Data) + len(p.Body) }
