package tun

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// socket is a UDP socket that the runtime's poller does not know: it would wake
// for each datagram that has left, and costs more than a thread that waits in
// the kernel.
type socket struct {
	fd     int
	mu     sync.RWMutex // held for reading by who uses fd
	closed atomic.Bool
}

// option is one socket option with an integer value.
type option struct {
	level, name, value int
	what               string
	optional           bool
}

// listenUDP binds a UDP socket of the address's family with the options.
func listenUDP(local netip.AddrPort, opts []option) (*socket, error) {
	family := unix.AF_INET
	if local.Addr().Is6() {
		family = unix.AF_INET6
		opts = append([]option{{unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1, "IPV6_V6ONLY", false}}, opts...)
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.IPPROTO_UDP)
	if err != nil {
		return nil, fmt.Errorf("open a UDP socket: %w", err)
	}
	for _, o := range opts {
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil && !o.optional {
			unix.Close(fd)
			return nil, fmt.Errorf("set %s on the UDP socket of %v: %w", o.what, local, err)
		}
	}
	if err := unix.Bind(fd, sockaddr(local)); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("bind UDP %v: %w", local, err)
	}
	return &socket{fd: fd}, nil
}

// close ends the use of the socket, also by what waits to receive. When it
// returns the port is free.
func (s *socket) close() {
	if s.closed.Swap(true) {
		return
	}
	unix.Shutdown(s.fd, unix.SHUT_RDWR) // wakes, though it says that there is no connection
	s.mu.Lock()
	defer s.mu.Unlock()
	unix.Close(s.fd)
}

// use calls f, which may block. After close it fails.
func (s *socket) use(f func(fd uintptr)) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed.Load() {
		return net.ErrClosed
	}
	f(uintptr(s.fd))
	if s.closed.Load() {
		return net.ErrClosed
	}
	return nil
}

// Limits of waiting for room to send.
const (
	roomPause = time.Millisecond
	roomTries = 1000
)

// waitRoom waits a little until the socket may have room to send. A message in
// its error queue ends poll at once, until the queue is read.
func waitRoom(fd uintptr) {
	p := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	if n, err := unix.Poll(p[:], int(roomPause/time.Millisecond)); err != nil || n > 0 && p[0].Revents&unix.POLLOUT == 0 {
		time.Sleep(roomPause)
	}
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

// rawName holds a socket address of either family as the kernel lays it out.
type rawName [unix.SizeofSockaddrInet6]byte

// put writes a and returns its length.
func (n *rawName) put(a netip.Addr, port uint16) uint32 {
	*n = rawName{}
	binary.BigEndian.PutUint16(n[2:], port)
	if a.Is4() {
		binary.NativeEndian.PutUint16(n[:], unix.AF_INET)
		b := a.As4()
		copy(n[4:], b[:])
		return unix.SizeofSockaddrInet4
	}
	binary.NativeEndian.PutUint16(n[:], unix.AF_INET6)
	b := a.As16()
	copy(n[8:], b[:])
	return unix.SizeofSockaddrInet6
}

// get reads an address; the zero Addr when it is of no IP family.
func (n *rawName) get() (a netip.Addr, port uint16) {
	port = binary.BigEndian.Uint16(n[2:])
	switch binary.NativeEndian.Uint16(n[:]) {
	case unix.AF_INET:
		return netip.AddrFrom4([4]byte(n[4:])), port
	case unix.AF_INET6:
		return netip.AddrFrom16([16]byte(n[8:])).Unmap(), port
	}
	return netip.Addr{}, 0
}

// mmsghdr is struct mmsghdr of recvmmsg(2) and sendmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
}

func recvmmsg(fd uintptr, msgs []mmsghdr, flags int) (int, unix.Errno) {
	n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&msgs[0])), uintptr(len(msgs)), uintptr(flags), 0, 0)
	return int(n), errno
}

func sendmmsg(fd uintptr, msgs []mmsghdr, flags int) (int, unix.Errno) {
	n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&msgs[0])), uintptr(len(msgs)), uintptr(flags), 0, 0)
	return int(n), errno
}

// control builds the ancillary data of one message.
type control struct {
	buf [96]byte
	n   int
}

func (c *control) reset() { c.n = 0 }

// add appends a control message with a value of size octets, native order.
func (c *control) add(level, typ int32, value uint32, size int) {
	h := (*unix.Cmsghdr)(unsafe.Pointer(&c.buf[c.n]))
	h.Level, h.Type = level, typ
	h.SetLen(unix.CmsgLen(size))
	data := c.buf[c.n+unix.CmsgLen(0):]
	switch size {
	case 2:
		binary.NativeEndian.PutUint16(data, uint16(value))
	default:
		binary.NativeEndian.PutUint32(data, value)
	}
	c.n += unix.CmsgSpace(size)
}

// nextControl cuts the first control message off b. ok is false at the end.
func nextControl(b []byte) (level, typ int32, data, rest []byte, ok bool) {
	if len(b) < unix.SizeofCmsghdr {
		return 0, 0, nil, nil, false
	}
	h := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
	n := int(h.Len)
	if n < unix.SizeofCmsghdr || n > len(b) {
		return 0, 0, nil, nil, false
	}
	data = b[unix.CmsgLen(0):n]
	return h.Level, h.Type, data, b[min(len(b), unix.CmsgSpace(len(data))):], true
}

// controlInt reads an integer of one octet or of four.
func controlInt(data []byte) int {
	switch {
	case len(data) >= 4:
		return int(int32(binary.NativeEndian.Uint32(data)))
	case len(data) >= 1:
		return int(data[0])
	}
	return 0
}
