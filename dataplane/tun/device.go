package tun

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/eidolon-lisp/eidolon/dataplane"
)

// openDevice creates the TUN device with n queues. The kernel keeps a flow on
// one of them.
//
// golang.zx2c4.com/wireguard/tun opens such a device too, but reads one packet
// at a time and copies each segment on both ways; here the segments of a large
// packet are described by vectors, and small packets are read many at once.
func openDevice(name string, n int) ([]*queue, error) {
	var queues []*queue
	for i := range n {
		q, err := openQueue(name, i == 0, n > 1)
		if err != nil {
			for _, q := range queues {
				q.Close()
			}
			return nil, err
		}
		queues = append(queues, q)
	}
	return queues, nil
}

// Offloads that are asked of the kernel. The second set came with Linux 6.2.
const (
	offloadTCP = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6 | unix.TUN_F_TSO_ECN
	offloadUDP = unix.TUN_F_USO4 | unix.TUN_F_USO6
)

// Available reports why this process can't use TUN devices, or nil. It finds a
// missing or closed /dev/net/tun; whether the process may create a device shows
// only in New.
func Available() error {
	fd, err := openTUN()
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// openTUN opens the device that TUN devices are made with.
func openTUN() (int, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return -1, fmt.Errorf("open /dev/net/tun: %w: load the kernel module (modprobe tun), or in a container pass the device (--device /dev/net/tun)", err)
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return -1, fmt.Errorf("open /dev/net/tun: %w: the process needs read and write access to it; in a container the device must be allowed (--device /dev/net/tun)", err)
	case err != nil:
		return -1, fmt.Errorf("open /dev/net/tun: %w", err)
	}
	return fd, nil
}

func openQueue(name string, first, multi bool) (*queue, error) {
	fd, err := openTUN()
	if err != nil {
		return nil, err
	}
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("device name %q: %w", name, err)
	}
	flags := uint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if first {
		flags |= unix.IFF_TUN_EXCL
	}
	if multi {
		flags |= unix.IFF_MULTI_QUEUE
	}
	ifr.SetUint16(flags)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		unix.Close(fd)
		switch {
		case errors.Is(err, unix.EPERM):
			err = fmt.Errorf("%w: the process needs CAP_NET_ADMIN (run as root, setcap cap_net_admin+ep, or in a container --cap-add NET_ADMIN)", err)
		case errors.Is(err, unix.EBUSY):
			err = fmt.Errorf("%w: an interface of that name exists: another xtr is running, or the name belongs to something else", err)
		}
		return nil, fmt.Errorf("create TUN device %s: %w", name, err)
	}
	uso := unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, offloadTCP|offloadUDP) == nil
	if !uso {
		if err := unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, offloadTCP); err != nil {
			unix.Close(fd)
			return nil, fmt.Errorf("enable offloads on TUN device %s: %w", name, err)
		}
	}
	q, err := newQueue(fd, uso)
	if err != nil {
		return nil, fmt.Errorf("TUN device %s: %w", name, err)
	}
	return q, nil
}

const (
	// vnetLen is the length of struct virtio_net_hdr, which precedes each
	// packet both ways.
	vnetLen = 10
	// maxPacket is the largest IP packet, or sum of segments, both ways.
	maxPacket = 65535
	// readPackets is how many packets one Read takes from the kernel.
	readPackets = 64
	// readBytes is after how many octets it stops: a few super-packets.
	readBytes = 192 << 10
)

// queue is one queue of a device. It implements dataplane.Host: Read for one
// goroutine, Write for any.
type queue struct {
	// Neither is known to the runtime's poller, see socket.
	file, stop *os.File // the device; an eventfd that ends waiting
	rc, stopRC syscall.RawConn
	c          *dataplane.Counters // may be nil
	closed     atomic.Bool

	// Of Read.
	raw    [readPackets]rawPacket
	limit  int // how many of raw may be read
	got    int
	total  int  // octets of those that were read
	empty  bool // the last read found nothing more
	readFn func(fd uintptr)
	pollFn func(stop uintptr)
	poll   [2]unix.PollFd
	rerrno unix.Errno

	// Of Write, under mu.
	mu      sync.Mutex
	gro     coalescer
	iovs    []unix.Iovec
	vnet    vnetHeader
	writeFn func(fd uintptr)
	werrno  unix.Errno
}

// rawPacket is one read of the device. The packet has room for the LISP header
// before it.
type rawPacket struct {
	vnet [vnetLen]byte
	buf  []byte
	n    int // octets of the packet
	iov  [2]unix.Iovec
}

// newQueue takes the descriptor over.
func newQueue(fd int, uso bool) (*queue, error) {
	q := &queue{file: os.NewFile(uintptr(fd), "/dev/net/tun")}
	stop, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("eventfd: %w", err), q.file.Close())
	}
	q.stop = os.NewFile(uintptr(stop), "eventfd")
	q.rc, err = q.file.SyscallConn()
	if err == nil {
		q.stopRC, err = q.stop.SyscallConn()
	}
	if err == nil {
		err = unix.SetNonblock(fd, true) // only now, so that the poller does not take it
	}
	if err != nil {
		return nil, errors.Join(err, q.Close())
	}
	q.gro.udp = uso
	q.gro.mtu.Store(maxPacket)
	for i := range q.raw {
		r := &q.raw[i]
		r.buf = make([]byte, dataplane.Headroom+maxPacket) // touched, and so resident, as far as packets are large
		r.iov[0].Base = &r.vnet[0]
		r.iov[0].SetLen(vnetLen)
		r.iov[1].Base = &r.buf[dataplane.Headroom]
		r.iov[1].SetLen(maxPacket)
	}
	q.readFn, q.pollFn, q.writeFn = q.readAll, q.wait, q.writeOne
	return q, nil
}

// Close ends Read and Write. The device goes with its last queue.
func (q *queue) Close() error {
	q.closed.Store(true)
	_, err := q.stop.Write([]byte{1, 0, 0, 0, 0, 0, 0, 0})
	return errors.Join(err, q.stop.Close(), q.file.Close())
}

// Read implements dataplane.HostReader. Super-packets come whole.
func (q *queue) Read(pkts []dataplane.HostPacket) (n int, err error) {
	q.limit, q.got, q.total, q.rerrno = min(len(pkts), readPackets), 0, 0, 0
	for q.got == 0 {
		err := q.rc.Control(q.readFn)
		switch {
		case q.got > 0: // an error will come again
		case err != nil || q.closed.Load():
			return 0, os.ErrClosed
		case q.rerrno == unix.EBADFD:
			return 0, errDeviceGone
		case q.rerrno != 0:
			return 0, fmt.Errorf("read: %w", q.rerrno)
		}
	}
	if q.c != nil {
		q.c.Add(dataplane.HostReads, uint64(q.got))
	}
	for i := range q.got {
		pkts[i] = q.raw[i].packet()
	}
	return q.got, nil
}

var errDeviceGone = errors.New("the TUN device was removed")

// packet is what was read, as it is handed over.
func (r *rawPacket) packet() dataplane.HostPacket {
	p := dataplane.HostPacket{Buf: r.buf[:dataplane.Headroom+r.n]}
	pkt := p.Buf[dataplane.Headroom:]
	var v vnetHeader
	v.decode(&r.vnet)
	ok := true
	switch {
	case v.gsoType&^gsoECN != gsoNone:
		p.Super, ok = v.super(pkt)
	case v.flags&vnetNeedsChecksum != 0:
		ok = v.complete(pkt)
	}
	if !ok {
		return dataplane.HostPacket{Drop: dataplane.DropHostRead}
	}
	return p
}

// readAll takes what is there, but stops when there is enough to do. It waits
// for the first packet.
func (q *queue) readAll(fd uintptr) {
	yielded := false
	for q.got < q.limit && q.total <= readBytes {
		if q.empty && q.got == 0 {
			q.poll[0] = unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}
			if q.stopRC.Control(q.pollFn) != nil || q.closed.Load() {
				return
			}
			q.empty = false
		}
		r := &q.raw[q.got]
		n, _, errno := unix.Syscall(unix.SYS_READV, fd, uintptr(unsafe.Pointer(&r.iov[0])), uintptr(len(r.iov)))
		switch {
		case errno == unix.EINTR:
			continue
		case errno == unix.EAGAIN:
			if q.got > 0 && !yielded {
				// Few so far: who makes them may be waiting for this CPU, and
				// many at once cost less each.
				yielded = true
				unix.Syscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
				continue
			}
			if q.empty = true; q.got > 0 {
				return
			}
			continue
		case errno != 0:
			q.rerrno = errno
			return
		case int(n) <= vnetLen:
			continue
		}
		r.n = int(n) - vnetLen
		q.got++
		q.total += r.n
	}
}

// wait blocks until the device has a packet or Close was called.
func (q *queue) wait(stop uintptr) {
	q.poll[1] = unix.PollFd{Fd: int32(stop), Events: unix.POLLIN}
	unix.Ppoll(q.poll[:], nil, nil) // what a signal has interrupted finds nothing to read, and waits again
}

// Write implements dataplane.HostWriter. Packets of one flow that follow each
// other are handed to the kernel as one.
func (q *queue) Write(pkts [][]byte) (n int, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	unfinished := uint64(0)
	for len(pkts) > 0 {
		batch := pkts[:min(len(pkts), dataplane.MaxBatch)]
		pkts = pkts[len(batch):]
		q.gro.load(batch)
		for i := range q.gro.groups {
			g := &q.gro.groups[i]
			q.vnet = g.offload(batch[g.first])
			if g.unfinished {
				unfinished += uint64(g.n)
			}
			q.gather(batch, g)
			q.werrno = 0
			if q.rc.Control(q.writeFn) != nil {
				return n, os.ErrClosed
			}
			if q.werrno != 0 {
				err = q.werrno
				continue
			}
			n += g.n
		}
		if q.c != nil {
			q.c.Add(dataplane.HostWrites, uint64(len(q.gro.groups)))
		}
	}
	if unfinished > 0 && q.c != nil {
		q.c.Add(dataplane.Unfinished, unfinished)
	}
	return n, err
}

// gather lays out the vectors of a group: offload header, first packet whole,
// payloads of the others.
func (q *queue) gather(batch [][]byte, g *group) {
	q.iovs = q.iovs[:0]
	add := func(b []byte) {
		v := unix.Iovec{Base: &b[0]}
		v.SetLen(len(b))
		q.iovs = append(q.iovs, v)
	}
	add(q.vnet.encode())
	add(batch[g.first])
	for i := q.gro.link[g.first]; i >= 0; i = q.gro.link[i] {
		add(batch[i][g.headers:])
	}
}

func (q *queue) writeOne(fd uintptr) {
	for {
		_, _, errno := unix.Syscall(unix.SYS_WRITEV, fd, uintptr(unsafe.Pointer(&q.iovs[0])), uintptr(len(q.iovs)))
		if errno == unix.EINTR {
			continue
		}
		q.werrno = errno
		runtime.KeepAlive(q)
		return
	}
}

var _ dataplane.Host = (*queue)(nil)
