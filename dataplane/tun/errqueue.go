package tun

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/encap"
)

// unreachableRepeat is after which time the same path is told again.
const unreachableRepeat = 50 * time.Millisecond

// teller tells of unreachable paths, each not again at once. It is for one
// goroutine.
type teller struct {
	path dataplane.Path
	at   time.Time
}

func (t *teller) tell(fwd *dataplane.Forwarder, path dataplane.Path, c *dataplane.Counters) {
	if now := time.Now(); path != t.path || now.Sub(t.at) >= unreachableRepeat {
		t.path, t.at = path, now
		fwd.TellUnreachable(path, c)
	}
}

// errorWatch waits for messages in the error queues of sockets.
type errorWatch struct {
	sockets []*socket
	// Of an epoll instance that has the sockets, so that only errors wake: the
	// runtime's poller would wake for each datagram that has left too.
	file *os.File
	rc   syscall.RawConn
}

func newErrorWatch(sockets []*socket) (*errorWatch, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err == nil {
		err = unix.SetNonblock(fd, true) // for the runtime's poller to take it
	}
	if err != nil {
		return nil, fmt.Errorf("watch the errors of sockets: %w", err)
	}
	w := &errorWatch{sockets: sockets, file: os.NewFile(uintptr(fd), "epoll")}
	if w.rc, err = w.file.SyscallConn(); err != nil {
		return nil, errors.Join(err, w.file.Close())
	}
	for i, s := range sockets {
		err := s.use(func(sock uintptr) {
			ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(i)} // and errors, always
			err = unix.EpollCtl(fd, unix.EPOLL_CTL_ADD, int(sock), &ev)
		})
		if err != nil {
			return nil, errors.Join(fmt.Errorf("watch the errors of a socket: %w", err), w.file.Close())
		}
	}
	return w, nil
}

func (w *errorWatch) close() { w.file.Close() }

// run calls f with each socket that has something to read or an error, until
// close.
func (w *errorWatch) run(f func(s *socket)) {
	var events [sourcePorts + 1]unix.EpollEvent
	n := 0
	wait := func(fd uintptr) bool {
		var err error
		n, err = unix.EpollWait(int(fd), events[:], 0)
		return err == nil && n > 0
	}
	for w.rc.Read(wait) == nil {
		for _, ev := range events[:n] {
			f(w.sockets[ev.Fd])
		}
	}
}

// errorReader reads the error queues of the sending sockets of one address. It
// lowers the path MTU of locators toward which packets were too big, and tells
// the paths of packets that could not be delivered.
//
// What the kernel has checked before: the packet that the ICMP message quotes
// was sent from this socket's address and port. Checked here: it went to port
// 4341 of a locator in use; and of an MTU, that it is smaller than what we
// believe. The FIB does not go below its floor (RFC 9300 section 7.2, RFC 6936
// section 4).
type errorReader struct {
	p    *Plane
	src  netip.Addr
	told teller

	name rawName
	quot [64]byte
	ctl  [512]byte
	iov  unix.Iovec
	hdr  [1]mmsghdr
}

// read empties the error queue of s.
func (r *errorReader) read(s *socket) {
	for more := true; more; {
		if s.use(func(fd uintptr) { more = r.next(fd) }) != nil {
			return
		}
		if !more {
			return
		}
		dst, port := r.name.get()
		e, ok := parseError(r.ctl[:r.hdr[0].hdr.Controllen])
		if !ok || !validTarget(e, dst, port) {
			continue
		}
		switch {
		case e.mtu > 0:
			if r.p.fib.LowerMTU(dst, e.mtu, time.Now()) {
				r.p.c.Add(dataplane.MTULowered, 1)
			}
		case r.p.fib.InUse(dst):
			r.told.tell(r.p.fwd, dataplane.Path{Local: r.src, Remote: dst}, r.p.c)
		}
	}
}

// next takes a message from the error queue, and reports whether there was one.
func (r *errorReader) next(fd uintptr) bool {
	r.iov.Base = &r.quot[0]
	r.iov.SetLen(len(r.quot))
	h := &r.hdr[0].hdr
	h.Name, h.Namelen = &r.name[0], uint32(len(r.name))
	h.Iov = &r.iov
	h.SetIovlen(1)
	h.Control, h.Flags = &r.ctl[0], 0
	h.SetControllen(len(r.ctl))
	if _, errno := recvmmsg(fd, r.hdr[:], unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT); errno == 0 {
		return true
	}
	// Whatever came as data is thrown away, so that it can't stay there; and
	// the error that an ICMP message left on the socket is taken.
	for range 64 {
		if _, _, err := unix.Recvfrom(int(fd), nil, unix.MSG_DONTWAIT|unix.MSG_TRUNC); err == unix.EAGAIN {
			break
		}
	}
	return false
}

// socketError is what a message says of a packet.
type socketError struct {
	mtu   int  // it was too big for this; 0: it could not be delivered
	local bool // our own kernel says so, of the device
}

// validTarget reports whether the packet in question was a data packet. Of our
// own kernel's messages the port is not always set.
func validTarget(e socketError, dst netip.Addr, port uint16) bool {
	return dst.IsValid() && (port == encap.Port || e.local && port == 0)
}

// Types of ICMP messages (RFC 792, RFC 4443).
const (
	icmpUnreachable  = 3
	icmp6Unreachable = 1
)

// parseError finds the struct sock_extended_err in ancillary data, and reports
// whether it is of a size error or of a destination that can't be reached. Of
// the other codes of unreachable, such as a protocol or a source route, none is
// about a path.
func parseError(ctl []byte) (e socketError, ok bool) {
	for {
		level, typ, data, rest, ok := nextControl(ctl)
		if !ok {
			return socketError{}, false
		}
		ctl = rest
		if level != unix.IPPROTO_IP || typ != unix.IP_RECVERR {
			if level != unix.IPPROTO_IPV6 || typ != unix.IPV6_RECVERR {
				continue
			}
		}
		// errno 0..3, origin 4, type 5, code 6, info 8..11
		if len(data) < 16 {
			return socketError{}, false
		}
		origin, kind, code := data[4], data[5], data[6]
		if binary.NativeEndian.Uint32(data) == uint32(unix.EMSGSIZE) {
			mtu := int(binary.NativeEndian.Uint32(data[8:]))
			local := origin == unix.SO_EE_ORIGIN_LOCAL
			if mtu > 0 && (local || origin == unix.SO_EE_ORIGIN_ICMP || origin == unix.SO_EE_ORIGIN_ICMP6) {
				return socketError{mtu, local}, true
			}
			return socketError{}, false
		}
		switch {
		case origin == unix.SO_EE_ORIGIN_ICMP && kind == icmpUnreachable:
			// net, host, port; those two unknown; those two prohibited; filtered
			return socketError{}, slices.Contains([]byte{0, 1, 3, 6, 7, 9, 10, 13}, code)
		case origin == unix.SO_EE_ORIGIN_ICMP6 && kind == icmp6Unreachable:
			return socketError{}, code <= 6 // all that there are
		}
		return socketError{}, false
	}
}
