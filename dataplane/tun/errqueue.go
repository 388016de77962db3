package tun

import (
	"encoding/binary"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/encap"
)

// watchErrors reads the error queue of a sending socket until it is closed,
// and lowers the path MTU of locators toward which packets were too big.
//
// What the kernel has checked before: the packet that the ICMP message quotes
// was sent from this socket's address and port. Checked here: it went to port
// 4341 of a locator in use, and the MTU is smaller than what we believe. The
// FIB does not go below its floor (RFC 9300 section 7.2, RFC 6936 section 4).
func watchErrors(s *socket, fib *dataplane.FIB, c *dataplane.Counters) {
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
	for s.readable(read) == nil {
		if n == 0 {
			continue
		}
		dst, port := name.get()
		if e, ok := tooBig(ctl[:hdr[0].hdr.Controllen]); ok && validTarget(e, dst, port) {
			if fib.LowerMTU(dst, e.mtu, time.Now()) {
				c.Add(dataplane.MTULowered, 1)
			}
		}
	}
}

// sizeError is a message that says a packet was too big.
type sizeError struct {
	mtu   int
	local bool // our own kernel says so, of the device
}

// validTarget reports whether the packet in question was a data packet. Of our
// own kernel's messages the port is not always set.
func validTarget(e sizeError, dst netip.Addr, port uint16) bool {
	return dst.IsValid() && (port == encap.Port || e.local && port == 0)
}

// tooBig finds the struct sock_extended_err of a size error in ancillary data.
func tooBig(ctl []byte) (sizeError, bool) {
	for {
		level, typ, data, rest, ok := nextControl(ctl)
		if !ok {
			return sizeError{}, false
		}
		ctl = rest
		if level == unix.IPPROTO_IP && typ == unix.IP_RECVERR || level == unix.IPPROTO_IPV6 && typ == unix.IPV6_RECVERR {
			// errno 0..3, origin 4, type 5, code 6, info 8..11
			if len(data) < 16 || binary.NativeEndian.Uint32(data) != uint32(unix.EMSGSIZE) {
				return sizeError{}, false
			}
			e := sizeError{mtu: int(binary.NativeEndian.Uint32(data[8:]))}
			switch data[4] {
			case unix.SO_EE_ORIGIN_LOCAL:
				e.local = true
			case unix.SO_EE_ORIGIN_ICMP, unix.SO_EE_ORIGIN_ICMP6:
			default:
				return sizeError{}, false
			}
			return e, true
		}
	}
}
