package udp

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// batch is how many datagrams one system call moves at most. More gain
	// nothing: the cost of the call is then a fiftieth of that of a datagram.
	batch = 64
	// maxDatagram holds the largest UDP datagram.
	maxDatagram = 65536
	// bufferStride keeps the buffers of a batch, of which mostly the first
	// octets are used, from falling into the same lines of the caches.
	bufferStride = maxDatagram + 5*64
	// controlSize holds the packet-info of either family.
	controlSize = 64
)

// mmsghdr is the kernel's struct mmsghdr.
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32 // octets received or sent
}

// vector is what recvmmsg and sendmmsg need for a batch. It is made once, and
// the system calls allocate nothing.
type vector struct {
	hdrs    [batch]mmsghdr
	iovs    [batch]unix.Iovec
	names   [batch]unix.RawSockaddrInet6 // holds an IPv4 one too
	control [batch][controlSize]byte
	n       int // how many are used

	raw   syscall.RawConn
	call  func(fd uintptr) bool // made once, as once is, for they escape
	once  func(fd uintptr)
	done  int
	errno syscall.Errno
}

func newVector(raw syscall.RawConn, call func(v *vector, fd uintptr) bool) *vector {
	v := &vector{raw: raw}
	v.call = func(fd uintptr) bool { return call(v, fd) }
	v.once = func(fd uintptr) { call(v, fd) }
	for i := range v.hdrs {
		h := &v.hdrs[i].hdr
		h.Name = (*byte)(unsafe.Pointer(&v.names[i]))
		h.Iov = &v.iovs[i]
		h.SetIovlen(1)
	}
	return v
}

// recvmmsg and sendmmsg make one system call that does not block. They report false
// when the socket is not ready. The calls are short, so the scheduler need not
// know of them.
func recvmmsg(v *vector, fd uintptr) bool {
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&v.hdrs[0])), batch, unix.MSG_DONTWAIT, 0, 0)
		if errno == unix.EINTR {
			continue
		}
		v.done, v.errno = int(n), errno
		return errno != unix.EAGAIN
	}
}

func sendmmsg(v *vector, fd uintptr) bool {
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&v.hdrs[v.done])), uintptr(v.n-v.done), unix.MSG_DONTWAIT, 0, 0)
		if errno == unix.EINTR {
			continue
		}
		if v.errno = errno; errno == 0 {
			v.done += int(n)
		}
		return errno != unix.EAGAIN
	}
}

// queue is the Queue of one of a Socket's sockets.
type queue struct {
	batchSender
	in      *vector
	buffers []byte
	got     [batch]Message
}

// Queues implements Batcher.
func (s *Socket) Queues() []Queue {
	qs := make([]Queue, len(s.conns))
	for i, c := range s.conns {
		q := &queue{batchSender: batchSender{s: s, own: c}, in: newVector(c.raw, recvmmsg), buffers: make([]byte, batch*bufferStride)}
		for j := range q.in.iovs {
			q.in.iovs[j].Base = &q.buffers[j*bufferStride]
			q.in.iovs[j].SetLen(maxDatagram)
			if c.wildcard {
				q.in.hdrs[j].hdr.Control = &q.in.control[j][0]
			}
		}
		qs[i] = q
	}
	return qs
}

// Poller is what the queues of a Socket can do besides, for a program that owns
// its core and never sleeps.
type Poller interface {
	// Poll is Receive that does not block: it may return no message.
	Poll() ([]Message, error)
}

// Receive implements Queue.
func (q *queue) Receive() ([]Message, error) {
	q.prepare()
	if err := q.in.raw.Read(q.in.call); err != nil {
		return nil, err
	}
	return q.received()
}

// Poll implements Poller.
func (q *queue) Poll() ([]Message, error) {
	q.prepare()
	if err := q.in.raw.Control(q.in.once); err != nil {
		return nil, err
	}
	if q.in.errno == unix.EAGAIN {
		return nil, nil
	}
	return q.received()
}

func (q *queue) prepare() {
	for i := range q.in.hdrs {
		h := &q.in.hdrs[i].hdr
		h.Namelen = unix.SizeofSockaddrInet6
		if q.own.wildcard {
			h.SetControllen(controlSize)
		}
	}
}

func (q *queue) received() ([]Message, error) {
	if q.in.errno != 0 {
		return nil, os.NewSyscallError("recvmmsg", q.in.errno)
	}
	for i := range q.in.done {
		m := &q.in.hdrs[i]
		local := q.own.local
		if q.own.wildcard {
			local = netip.AddrPortFrom(destination(q.in.control[i][:m.hdr.Controllen]), local.Port())
		}
		at := i * bufferStride
		q.got[i] = Message{Payload: q.buffers[at : at+int(m.n) : at+int(m.n)], Src: source(&q.in.names[i]), Dst: local}
	}
	return q.got[:q.in.done], nil
}

// source reads a socket address.
func source(sa *unix.RawSockaddrInet6) netip.AddrPort {
	port := binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&sa.Port))[:])
	if sa.Family == unix.AF_INET {
		return netip.AddrPortFrom(netip.AddrFrom4((*unix.RawSockaddrInet4)(unsafe.Pointer(sa)).Addr), port)
	}
	a := netip.AddrFrom16(sa.Addr).Unmap()
	if sa.Scope_id != 0 {
		zone := strconv.Itoa(int(sa.Scope_id))
		if i, err := net.InterfaceByIndex(int(sa.Scope_id)); err == nil {
			zone = i.Name
		}
		a = a.WithZone(zone)
	}
	return netip.AddrPortFrom(a, port)
}

// batchSender is the Sender of a Socket.
type batchSender struct {
	s   *Socket
	own *conn             // sent from where it will do; may be nil
	out map[*conn]*vector // of the sockets that were used
	top *vector           // of the last one
	at  *conn             // which that is
}

// NewSender implements Batcher.
func (s *Socket) NewSender() Sender { return &batchSender{s: s} }

// Send implements Sender.
func (b *batchSender) Send(ms []Message) (failed int) {
	for i := range ms {
		m := &ms[i]
		dst := unmap(m.Dst)
		c := b.own
		if c == nil || !c.serves(m.Src, dst) {
			c = pick(b.s.conns, m.Src, dst)
		}
		if c == nil || dst.Addr().Zone() != "" || m.Src.Addr().Zone() != "" {
			// The zone needs a look at the interfaces; Write names the error.
			failed += b.flush()
			if b.s.Write(m.Payload, m.Src, m.Dst) != nil {
				failed++
			}
			continue
		}
		if c != b.at {
			failed += b.flush()
			b.use(c)
		}
		b.top.put(m.Payload, c, m.Src, dst)
		if b.top.n == batch {
			failed += b.flush()
		}
	}
	return failed + b.flush()
}

func (b *batchSender) use(c *conn) {
	v := b.out[c]
	if v == nil {
		v = newVector(c.raw, sendmmsg)
		for i := range v.hdrs {
			v.prepare(i, c)
		}
		if b.out == nil {
			b.out = make(map[*conn]*vector)
		}
		b.out[c] = v
	}
	b.at, b.top = c, v
}

// flush sends what was put, and returns how many could not be sent.
func (b *batchSender) flush() (failed int) {
	v := b.top
	if v == nil {
		return 0
	}
	for v.done = 0; v.done < v.n; {
		if err := v.raw.Write(v.call); err != nil {
			failed += v.n - v.done // closed
			break
		}
		if v.errno != 0 { // this one can't be sent
			v.done++
			failed++
		}
	}
	v.n = 0
	return failed
}

// prepare writes what never changes of message i.
func (v *vector) prepare(i int, c *conn) {
	h := &v.hdrs[i].hdr
	v4 := c.local.Addr().Is4()
	v.names[i].Family, h.Namelen = unix.AF_INET6, unix.SizeofSockaddrInet6
	if v4 {
		v.names[i].Family, h.Namelen = unix.AF_INET, unix.SizeofSockaddrInet4
	}
	if !c.wildcard {
		return
	}
	if v4 {
		copy(v.control[i][:], unix.PktInfo4(&unix.Inet4Pktinfo{}))
	} else {
		copy(v.control[i][:], unix.PktInfo6(&unix.Inet6Pktinfo{}))
	}
}

// put adds a datagram to what the next system call sends.
func (v *vector) put(payload []byte, c *conn, src, dst netip.AddrPort) {
	i := v.n
	v.n++
	h, sa := &v.hdrs[i].hdr, &v.names[i]
	v.iovs[i].Base = unsafe.SliceData(payload)
	v.iovs[i].SetLen(len(payload))
	v4 := c.local.Addr().Is4()
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&sa.Port))[:], dst.Port())
	if v4 {
		(*unix.RawSockaddrInet4)(unsafe.Pointer(sa)).Addr = dst.Addr().As4()
	} else {
		sa.Addr = dst.Addr().As16()
	}
	h.Control = nil
	h.SetControllen(0)
	if !c.wildcard || !src.Addr().IsValid() || src.Addr().IsUnspecified() {
		return
	}
	data := v.control[i][unix.CmsgLen(0):]
	if v4 {
		a := src.Addr().As4()
		copy(data[4:8], a[:]) // ipi_spec_dst
		h.SetControllen(unix.CmsgSpace(unix.SizeofInet4Pktinfo))
	} else {
		a := src.Addr().As16()
		copy(data[:16], a[:])
		h.SetControllen(unix.CmsgSpace(unix.SizeofInet6Pktinfo))
	}
	h.Control = &v.control[i][0]
}
