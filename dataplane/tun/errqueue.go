package tun

import (
	"encoding/binary"
	"net/netip"
	"slices"
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

// watchErrors reads the error queue of a sending socket until it is closed. It
// lowers the path MTU of locators toward which packets were too big, and tells
// the paths of packets that could not be delivered.
//
// What the kernel has checked before: the packet that the ICMP message quotes
// was sent from this socket's address and port. Checked here: it went to port
// 4341 of a locator in use; and of an MTU, that it is smaller than what we
// believe. The FIB does not go below its floor (RFC 9300 section 7.2, RFC 6936
// section 4).
func (p *Plane) watchErrors(src netip.Addr, s *socket) {
	var (
		name rawName
		quot [64]byte
		ctl  [512]byte
		n    int
	)
	iov := unix.Iovec{Base: &quot[0]}
	iov.SetLen(len(quot))
	var hdr [1]mmsghdr
	read := func(fd uintptr) bool {
		h := &hdr[0].hdr
		h.Name, h.Namelen = &name[0], uint32(len(name))
		h.Iov = &iov
		h.SetIovlen(1)
		h.Control, h.Flags = &ctl[0], 0
		h.SetControllen(len(ctl))
		var errno unix.Errno
		n, errno = recvmmsg(fd, hdr[:], unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
		if errno == 0 {
			return true
		}
		// Whatever came as data is thrown away, so that it can't stay there.
		for range 64 {
			if _, _, err := unix.Recvfrom(int(fd), nil, unix.MSG_DONTWAIT|unix.MSG_TRUNC); err == unix.EAGAIN {
				break
			}
		}
		n = 0
		return errno != unix.EAGAIN
	}
	var told teller
	for s.readable(read) == nil {
		if n == 0 {
			continue
		}
		dst, port := name.get()
		e, ok := parseError(ctl[:hdr[0].hdr.Controllen])
		if !ok || !validTarget(e, dst, port) {
			continue
		}
		switch {
		case e.mtu > 0:
			if p.fib.LowerMTU(dst, e.mtu, time.Now()) {
				p.c.Add(dataplane.MTULowered, 1)
			}
		case p.fib.InUse(dst):
			told.tell(p.fwd, dataplane.Path{Local: src, Remote: dst}, p.c)
		}
	}
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
