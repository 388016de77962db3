package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// udpBatch is how many datagrams one system call takes: many enough that
	// the generator is not what is measured.
	udpBatch = 32
	// udpBuffer is asked for the sockets, in octets.
	udpBuffer = 8 << 20
	// udpDebt is how far a sender may fall behind its rate before it gives the
	// rest up: to send it all at once would measure buffers.
	udpDebt = 2 * time.Millisecond
	// Each datagram begins with the time when its sender began and a number.
	udpMinimum = 16
)

// mmsghdr is struct mmsghdr of recvmmsg(2) and sendmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
}

func udpSocket(local netip.AddrPort) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	// Without the privilege it is as large as the system allows.
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, udpBuffer) != nil {
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, udpBuffer)
	}
	if err := unix.Bind(fd, sockaddr(local)); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("bind UDP %v: %w", local, err)
	}
	return fd, nil
}

// sink counts the datagrams that come to a port.
type sink struct {
	fd            int
	packets, late atomic.Int64

	begun, last uint64 // of the sender that is counted now
	msgs        [udpBatch]mmsghdr
	iovs        [udpBatch]unix.Iovec
	bufs        [udpBatch][2048]byte
}

func newSink(port uint16) (*sink, error) {
	fd, err := udpSocket(netip.AddrPortFrom(netip.IPv4Unspecified(), port))
	if err != nil {
		return nil, err
	}
	s := &sink{fd: fd}
	for i := range s.msgs {
		s.iovs[i].Base = &s.bufs[i][0]
		s.iovs[i].SetLen(len(s.bufs[i]))
		s.msgs[i].hdr.Iov = &s.iovs[i]
		s.msgs[i].hdr.SetIovlen(1)
	}
	return s, nil
}

func (s *sink) run() {
	runtime.LockOSThread()
	for {
		n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, uintptr(s.fd), uintptr(unsafe.Pointer(&s.msgs[0])), udpBatch, unix.MSG_WAITFORONE, 0, 0)
		if errno != 0 {
			continue
		}
		late := int64(0)
		for i := range n {
			if s.msgs[i].n < udpMinimum {
				continue
			}
			begun, number := binary.BigEndian.Uint64(s.bufs[i][:]), binary.BigEndian.Uint64(s.bufs[i][8:])
			switch {
			case begun != s.begun:
				s.begun, s.last = begun, number
			case number < s.last:
				late++
			default:
				s.last = number
			}
		}
		s.packets.Add(int64(n))
		s.late.Add(late)
	}
}

// sendUDP sends datagrams at a rate for a time, to o.Dst, or to the first
// addresses of some mappings of the table.
func (h *host) sendUDP(o order) (res outcome, err error) {
	if o.Size < udpMinimum || o.Size > 1472 {
		return res, errors.New("a datagram has no such size")
	}
	fd, err := udpSocket(netip.AddrPortFrom(o.Src, 0))
	if err != nil {
		return res, err
	}
	defer unix.Close(fd)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0); err != nil { // nanoseconds, of this thread's sleep
		return res, err
	}
	var msgs [udpBatch]mmsghdr
	var iovs [udpBatch]unix.Iovec
	var names [udpBatch]unix.RawSockaddrInet4
	bufs := make([]byte, udpBatch*o.Size)
	begin := now()
	for i := range msgs {
		b := bufs[i*o.Size : (i+1)*o.Size]
		binary.BigEndian.PutUint64(b, uint64(begin))
		iovs[i].Base = &b[0]
		iovs[i].SetLen(len(b))
		msgs[i].hdr.Iov = &iovs[i]
		msgs[i].hdr.SetIovlen(1)
	}
	var targets [][4]byte
	if o.Targets == 0 {
		if err := unix.Connect(fd, sockaddr(o.Dst)); err != nil {
			return res, err
		}
	} else {
		if len(h.table) < o.Targets {
			h.table = mappings(o.Targets)
		}
		for _, p := range h.table[:o.Targets] {
			targets = append(targets, p.Addr().As4())
		}
		for i := range msgs {
			names[i].Family = unix.AF_INET
			binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&names[i].Port))[:], o.Dst.Port())
			msgs[i].hdr.Name = (*byte)(unsafe.Pointer(&names[i]))
			msgs[i].hdr.Namelen = unix.SizeofSockaddrInet4
		}
	}
	rng := rand.New(rand.NewPCG(uint64(begin), 0))
	next, number := 0, uint64(0)
	begin = now()
	from := begin // of the rate
	due := int64(0)
	for t := begin; t-begin < o.Time; t = now() {
		n := int64(udpBatch)
		if o.Rate > 0 {
			n = min(n, int64(o.Rate*(t-from).Seconds())-due)
			if n < udpBatch/2 {
				wait := unix.NsecToTimespec(int64(udpBatch / 2 / o.Rate * 1e9))
				unix.Nanosleep(&wait, nil)
				continue
			}
			if behind := int64(o.Rate*(t-from).Seconds()) - due; float64(behind) > max(o.Rate*udpDebt.Seconds(), 2*udpBatch) {
				due += behind - n
			}
		}
		for i := range n {
			binary.BigEndian.PutUint64(bufs[int(i)*o.Size+8:], number)
			number++
			if targets != nil {
				if o.Random {
					next = rng.IntN(len(targets))
				} else if next++; next == len(targets) {
					next = 0
				}
				names[i].Addr = targets[next]
			}
		}
		for done := int64(0); done < n; {
			k, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&msgs[done])), uintptr(n-done), 0, 0, 0)
			if errno != 0 {
				done++ // an error of an earlier one, or no room: it counts as not sent
				continue
			}
			done += int64(k)
			res.Sent += int64(k)
		}
		due += n
	}
	res.Took = now() - begin
	return res, nil
}
