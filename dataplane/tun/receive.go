package tun

import (
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/encap"
)

const (
	// receiveBatch is how many datagrams one recvmmsg takes. Each may be the
	// sum of up to 64 KiB of packets (UDP_GRO).
	receiveBatch = 32
	datagramLen  = 65535
	// receiveBuffer is asked for each receiving socket, in octets: about what
	// arrives in 5 ms at 10 Gb/s.
	receiveBuffer = 8 << 20
)

// receiver is one socket on port 4341 of a local RLOC. It implements
// dataplane.Receiver for one goroutine.
type receiver struct {
	*socket
	local netip.Addr
	c     *dataplane.Counters

	counted uint64 // drops that were counted; under Plane.mu

	msgs  [receiveBatch]mmsghdr
	iovs  [receiveBatch]unix.Iovec
	names [receiveBatch]rawName
	ctls  [receiveBatch][128]byte
	bufs  [receiveBatch][]byte
	read  func(fd uintptr) // set once, so that no closure is made
	errno unix.Errno

	// What the last recvmmsg brought and Receive has not returned yet.
	got, next int
	rest      []byte // of message next-1
	segment   int
	src       netip.Addr
	ttl, tos  uint8
}

// openReceivers binds n sockets to port 4341 of a, among which the kernel
// spreads flows. Only the first bind can fail because another process is
// there: sharing is switched on after it.
func openReceivers(a netip.Addr, n int, c func() *dataplane.Counters) ([]*receiver, error) {
	opts := []option{
		{unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer, "SO_RCVBUFFORCE", true},
		{unix.IPPROTO_UDP, unix.UDP_GRO, 1, "UDP_GRO", true}, // Linux 5.0; without it packets come one by one
	}
	if a.Is4() {
		opts = append(opts, option{unix.IPPROTO_IP, unix.IP_RECVTTL, 1, "IP_RECVTTL", false},
			option{unix.IPPROTO_IP, unix.IP_RECVTOS, 1, "IP_RECVTOS", false})
	} else {
		opts = append(opts, option{unix.IPPROTO_IPV6, unix.IPV6_RECVHOPLIMIT, 1, "IPV6_RECVHOPLIMIT", false},
			option{unix.IPPROTO_IPV6, unix.IPV6_RECVTCLASS, 1, "IPV6_RECVTCLASS", false},
			// RFC 9300 section 5.3: an ETR accepts a zero checksum; RFC 6936
			// section 4 wants that opened for this port only.
			option{unix.IPPROTO_UDP, unix.UDP_NO_CHECK6_RX, 1, "UDP_NO_CHECK6_RX", false})
	}
	var list []*receiver
	for i := range n {
		o := opts
		if i > 0 {
			o = append(o[:len(o):len(o)], option{unix.SOL_SOCKET, unix.SO_REUSEPORT, 1, "SO_REUSEPORT", false})
		}
		s, err := listenUDP(netip.AddrPortFrom(a, encap.Port), o)
		if err != nil {
			for _, r := range list {
				r.close()
			}
			return nil, err
		}
		if i == 0 && n > 1 {
			s.use(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) })
		}
		list = append(list, newReceiver(s, a, c()))
	}
	return list, nil
}

func newReceiver(s *socket, local netip.Addr, c *dataplane.Counters) *receiver {
	r := &receiver{socket: s, local: local, c: c}
	for i := range r.msgs {
		r.bufs[i] = make([]byte, datagramLen)
		r.iovs[i].Base = &r.bufs[i][0]
		r.iovs[i].SetLen(datagramLen)
		h := &r.msgs[i].hdr
		h.Name, h.Iov, h.Control = &r.names[i][0], &r.iovs[i], &r.ctls[i][0]
		h.SetIovlen(1)
	}
	r.read = func(fd uintptr) {
		// Blocks until there is something, and takes what is there.
		r.got, r.errno = recvmmsg(fd, r.msgs[:], unix.MSG_WAITFORONE)
	}
	return r
}

// drops returns how many datagrams the kernel dropped because the socket's
// buffer was full.
func (r *receiver) drops() (n uint64) {
	const skMeminfoDrops = 8 // SK_MEMINFO_DROPS, the last of the array
	r.use(func(fd uintptr) {
		var info [skMeminfoDrops + 1]uint32
		size := uint32(unsafe.Sizeof(info))
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_MEMINFO,
			uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
		if errno == 0 {
			n = uint64(info[skMeminfoDrops])
		}
	})
	return n
}

// Receive implements dataplane.Receiver.
func (r *receiver) Receive(pkts []dataplane.Packet) (n int, err error) {
	for n < len(pkts) {
		switch {
		case len(r.rest) > 0:
			pkts[n] = r.split()
			n++
		case r.next < r.got:
			if drop := r.open(r.next); drop != dataplane.NotDropped {
				pkts[n] = dataplane.Packet{Drop: drop}
				n++
			}
			r.next++
		case n > 0:
			return n, nil
		default:
			if err := r.fill(); err != nil {
				return 0, err
			}
		}
	}
	return n, nil
}

// fill waits for datagrams.
func (r *receiver) fill() error {
	for {
		for i := range r.msgs {
			h := &r.msgs[i].hdr
			h.Namelen, h.Flags = uint32(len(r.names[i])), 0
			h.SetControllen(len(r.ctls[i]))
		}
		r.got, r.next = 0, 0
		if err := r.use(r.read); err != nil {
			r.got = 0
			return err
		}
		if r.errno != 0 {
			// A signal, or an error that an ICMP message left on the socket: it
			// is reported once and says nothing about receiving.
			r.got = 0
			continue
		}
		r.c.Add(dataplane.ReceiveCalls, 1)
		return nil
	}
}

// open makes message i the one that split cuts.
func (r *receiver) open(i int) dataplane.DropReason {
	m := &r.msgs[i]
	if m.hdr.Flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 || m.n == 0 {
		return dataplane.DropOuterTruncated
	}
	r.src, _ = r.names[i].get()
	r.rest = r.bufs[i][:m.n]
	r.segment, r.ttl, r.tos = int(m.n), 255, 0
	ctl := r.ctls[i][:m.hdr.Controllen]
	for {
		level, typ, data, rest, ok := nextControl(ctl)
		if !ok {
			return dataplane.NotDropped
		}
		ctl = rest
		switch {
		case level == unix.IPPROTO_IP && typ == unix.IP_TTL, level == unix.IPPROTO_IPV6 && typ == unix.IPV6_HOPLIMIT:
			r.ttl = uint8(controlInt(data))
		case level == unix.IPPROTO_IP && typ == unix.IP_TOS, level == unix.IPPROTO_IPV6 && typ == unix.IPV6_TCLASS:
			r.tos = uint8(controlInt(data))
		case level == unix.IPPROTO_UDP && typ == unix.UDP_GRO:
			if s := controlInt(data); s > 0 {
				r.segment = s
			}
		}
	}
}

// split cuts the next datagram off what UDP_GRO had put together.
func (r *receiver) split() dataplane.Packet {
	n := min(r.segment, len(r.rest))
	p := dataplane.Packet{Data: r.rest[:n:n], Src: r.src, Dst: r.local, TTL: r.ttl, TOS: r.tos}
	r.rest = r.rest[n:]
	return p
}
