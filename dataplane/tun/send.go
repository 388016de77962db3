package tun

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/encap"
)

// Limits of sending that are ours or the kernel's.
const (
	// sourcePorts is the number of sockets, and so of UDP source ports, for
	// each source RLOC. A flow keeps its port; routers and receivers spread
	// flows by it (RFC 9300 section 12).
	sourcePorts = 16
	// Source ports come from the dynamic range (RFC 6335) and are chosen at
	// random, so that who forges an ICMP message has to guess them.
	firstPort, lastPort = 49152, 65535
	// batchPieces is how many datagrams one call makes at most. Of those of 1500
	// octets three times 44 fit the largest runs that can be sent.
	batchPieces = 132
	// maxSegments is UDP_MAX_SEGMENTS of kernels before 6.9.
	maxSegments = 64
	maxPayload  = 65507
	sendBuffer  = 4 << 20 // octets, asked for each sending socket
	// errorBuffer is for messages of the error queue: an ICMPv6 error takes
	// some 3 KB there, and what does not fit is lost.
	errorBuffer = 128 << 10
	// sendTries is how often a message is offered to the kernel: an error that
	// an ICMP message left on the socket comes back once, in place of sending.
	sendTries = 3
)

// pool is the sending sockets of one source RLOC, shared by all workers.
type pool struct {
	src   netip.Addr
	ports [sourcePorts]*socket
	// numbers are the ports that ports are bound to.
	numbers [sourcePorts]uint16
	// fragment may send what is larger than the path takes; it is for packets
	// that can't be made smaller.
	fragment *socket
	// noSegmentation is set once the kernel or the device refused UDP_SEGMENT.
	noSegmentation atomic.Bool
	errors         *errorWatch
}

// openPool binds the sockets. The UDP checksum stays on. Over IPv4 and IPv6
// alike the kernel refuses UDP_SEGMENT without it, and a device computes it for
// nothing; a non-zero checksum is always allowed (RFC 9300 section 5.3).
//
// With unlabelled, IPv6 packets have no flow label, as those that leave by the
// outlet have none: routers that go by it would take them for another flow.
func openPool(src netip.Addr, unlabelled bool) (*pool, error) {
	p := &pool{src: src}
	var err error
	for i := range p.ports {
		if p.ports[i], p.numbers[i], err = openPort(src, true, unlabelled); err != nil {
			p.close()
			return nil, err
		}
	}
	if p.fragment, _, err = openPort(src, false, unlabelled); err == nil {
		p.errors, err = newErrorWatch(p.sockets())
	}
	if err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

// openPort binds one socket to a free port of the dynamic range.
func openPort(src netip.Addr, df, unlabelled bool) (*socket, uint16, error) {
	// PROBE sets DF and leaves the path MTU to us: ICMP messages arrive in the
	// error queue and are checked there, and the kernel's own memory of them,
	// which has another floor, does not stand in the way.
	discover := unix.IP_PMTUDISC_PROBE
	if !df {
		discover = unix.IP_PMTUDISC_DONT
	}
	opts := []option{
		{unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, sendBuffer, "SO_SNDBUFFORCE", true},
		{unix.SOL_SOCKET, unix.SO_RCVBUF, errorBuffer, "SO_RCVBUF", true},
	}
	if src.Is4() {
		opts = append(opts, option{unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, discover, "IP_MTU_DISCOVER", false},
			option{unix.IPPROTO_IP, unix.IP_RECVERR, 1, "IP_RECVERR", false})
	} else {
		opts = append(opts, option{unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, discover, "IPV6_MTU_DISCOVER", false},
			option{unix.IPPROTO_IPV6, unix.IPV6_RECVERR, 1, "IPV6_RECVERR", false})
		if unlabelled {
			opts = append(opts, option{unix.IPPROTO_IPV6, unix.IPV6_AUTOFLOWLABEL, 0, "IPV6_AUTOFLOWLABEL", true})
		}
	}
	for try := 0; ; try++ {
		port := uint16(firstPort + rand.IntN(lastPort-firstPort+1))
		s, err := listenUDP(netip.AddrPortFrom(src, port), opts)
		if err == nil {
			return s, port, nil
		}
		if !errors.Is(err, unix.EADDRINUSE) || try == 64 {
			return nil, 0, fmt.Errorf("open a sending socket: %w", err)
		}
	}
}

func (p *pool) sockets() []*socket {
	return append(p.ports[:len(p.ports):len(p.ports)], p.fragment)
}

func (p *pool) close() {
	if p.errors != nil {
		p.errors.close()
	}
	for _, s := range p.sockets() {
		if s != nil {
			s.close()
		}
	}
}

// sender implements dataplane.Sender for one worker.
type sender struct {
	pools *atomic.Pointer[[]*pool] // those that are open now, few
	c     *dataplane.Counters
	fwd   *dataplane.Forwarder
	told  teller
	exit  *exit // nil if there is no outlet

	// What is sent next: packets, and segments of super-packets with the room for
	// their headers.
	pieces [batchPieces]piece
	n      int
	cut    dataplane.Cutter
	heads  [batchPieces]dataplane.Head

	msgs  [batchPieces]message
	count int
	iovs  [2 * batchPieces]unix.Iovec // of each piece two
	// Messages of one socket go with one system call. Those are chained here,
	// and laid out in the order of the chains.
	chains []chain
	hdrs   [batchPieces]mmsghdr
	order  [batchPieces]int16 // which message a header is of

	// Arguments and results of write, which is set once so that no closure is
	// made for each call.
	write    func(fd uintptr)
	from, to int
	errno    unix.Errno
}

// piece is the payload of one datagram, in one part or two.
type piece struct {
	data, body []byte
	of         *dataplane.Packet // it, or the super-packet that it is a segment of
}

func (p *piece) len() int { return len(p.data) + len(p.body) }

// lose says that the piece was not sent.
func (p *piece) lose(why dataplane.DropReason) {
	p.of.Drop = why
	p.of.Lost++
}

// message is one datagram, or a run of datagrams that the kernel cuts.
type message struct {
	pool     *pool
	sock     *socket
	first, n int // pieces
	vectors  int
	name     rawName
	nameLen  uint32
	ctl      control
	next     int16 // of the same socket, -1 at the end
}

// chain is the messages of one socket, in their order.
type chain struct {
	sock        *socket
	first, last int16
}

func newSender(pools *atomic.Pointer[[]*pool], fwd *dataplane.Forwarder) *sender {
	s := &sender{pools: pools, fwd: fwd, chains: make([]chain, 0, batchPieces)}
	s.write = func(fd uintptr) {
		for tries := 0; s.from < s.to; {
			n, errno := sendmmsg(fd, s.hdrs[s.from:s.to], unix.MSG_DONTWAIT)
			switch {
			case errno == 0:
				s.c.Add(dataplane.SendCalls, 1)
				s.from += n
				tries = 0
			case errno == unix.EINTR:
			case errno == unix.EAGAIN && tries < roomTries:
				tries++
				waitRoom(fd)
			default:
				s.errno = errno
				return
			}
		}
	}
	return s
}

// Send implements dataplane.Sender.
func (s *sender) Send(pkts []dataplane.Packet) {
	for i := range pkts {
		p := &pkts[i]
		p.Drop, p.Lost = dataplane.NotDropped, 0
		if p.Super.Size == 0 {
			s.add(p, p.Data, p.Body)
			continue
		}
		if s.exit != nil && s.exit.takes(p) && s.sendWhole(p) {
			continue
		}
		for s.cut.Begin(p.Data, p.Super); s.cut.Active(); {
			first, body := s.cut.Next(&s.heads[s.n])
			s.add(p, first, body)
		}
	}
	s.flush()
}

// sendWhole sends a super-packet as it is, after what is before it. It reports
// whether that was possible.
func (s *sender) sendWhole(p *dataplane.Packet) bool {
	s.flush()
	pool := s.find(p.Src)
	if pool == nil || !s.exit.send(p, pool.numbers[p.Hash>>8%sourcePorts]) {
		return false
	}
	s.c.Add(dataplane.SendCalls, 1)
	s.c.Add(dataplane.Whole, 1)
	return true
}

// add puts a piece behind the others. When there is no more room all are sent.
func (s *sender) add(p *dataplane.Packet, data, body []byte) {
	s.pieces[s.n] = piece{data, body, p}
	if s.n++; s.n == len(s.pieces) {
		s.flush()
	}
}

// flush sends the pieces.
func (s *sender) flush() {
	s.build()
	to := 0
	for _, c := range s.chains {
		from := to
		for k := c.first; k >= 0; k = s.msgs[k].next {
			s.layOut(to, k)
			to++
		}
		s.transmit(from, to)
	}
	s.n = 0
}

// build makes messages of the pieces.
func (s *sender) build() {
	s.count, s.chains = 0, s.chains[:0]
	for i := 0; i < s.n; {
		p := s.pieces[i].of
		pool := s.find(p.Src)
		if pool == nil {
			s.pieces[i].lose(dataplane.DropSendNoSocket)
			i++
			continue
		}
		n := 1
		if !p.Fragmentable && !pool.noSegmentation.Load() {
			n = runLength(s.pieces[i:s.n])
		}
		s.message(pool, i, n)
		i += n
	}
}

func (s *sender) find(src netip.Addr) *pool {
	for _, p := range *s.pools.Load() {
		if p.src == src {
			return p
		}
	}
	return nil
}

// runLength returns how many pieces from the first on may go as one run: same
// outer header, all of one length but for a shorter last one.
func runLength(list []piece) int {
	first := &list[0]
	size, n := first.len(), 1
	total := size
	for n < len(list) && n < maxSegments {
		p := &list[n]
		if p.len() > size || total+p.len() > maxPayload || p.of != first.of && !alike(p.of, first.of) {
			break
		}
		total += p.len()
		n++
		if p.len() < size {
			break
		}
	}
	return n
}

// alike reports whether two packets have the same outer header.
func alike(p, first *dataplane.Packet) bool {
	return p.Hash == first.Hash && p.Dst == first.Dst && p.Src == first.Src && p.TTL == first.TTL && p.TOS == first.TOS && !p.Fragmentable
}

// message makes one of pieces i to i+n.
func (s *sender) message(pool *pool, i, n int) {
	k := s.count
	s.count++
	m, p := &s.msgs[k], s.pieces[i].of
	m.pool, m.first, m.n = pool, i, n
	// The low bits of the hash have chosen the locator; the port takes others.
	m.sock = pool.ports[p.Hash>>8%sourcePorts]
	if p.Fragmentable {
		m.sock = pool.fragment
	}
	m.vectors = 0
	for j := i; j < i+n; j++ {
		m.vectors += s.vectors(2*i+m.vectors, &s.pieces[j])
	}
	m.ctl.reset()
	if p.Dst.Is4() {
		m.ctl.add(unix.IPPROTO_IP, unix.IP_TTL, uint32(p.TTL), 4)
		m.ctl.add(unix.IPPROTO_IP, unix.IP_TOS, uint32(p.TOS), 4)
	} else {
		m.ctl.add(unix.IPPROTO_IPV6, unix.IPV6_HOPLIMIT, uint32(p.TTL), 4)
		m.ctl.add(unix.IPPROTO_IPV6, unix.IPV6_TCLASS, uint32(p.TOS), 4)
	}
	if n > 1 {
		m.ctl.add(unix.IPPROTO_UDP, unix.UDP_SEGMENT, uint32(s.pieces[i].len()), 2)
	}
	m.nameLen = m.name.put(p.Dst, encap.Port)
	m.next = -1
	for at := len(s.chains) - 1; at >= 0; at-- {
		if c := &s.chains[at]; c.sock == m.sock {
			s.msgs[c.last].next, c.last = int16(k), int16(k)
			return
		}
	}
	s.chains = append(s.chains, chain{m.sock, int16(k), int16(k)})
}

// layOut makes a header of message k.
func (s *sender) layOut(at int, k int16) {
	m, h := &s.msgs[k], &s.hdrs[at].hdr
	s.order[at] = k
	h.Name, h.Namelen = &m.name[0], m.nameLen
	h.Iov = &s.iovs[2*m.first]
	h.SetIovlen(m.vectors)
	h.Control = &m.ctl.buf[0]
	h.SetControllen(m.ctl.n)
	h.Flags = 0
}

// vectors lays out a piece at place k and returns how many vectors it took.
func (s *sender) vectors(k int, p *piece) int {
	s.iovs[k].Base = &p.data[0]
	s.iovs[k].SetLen(len(p.data))
	if len(p.body) == 0 {
		return 1
	}
	s.iovs[k+1].Base = &p.body[0]
	s.iovs[k+1].SetLen(len(p.body))
	return 2
}

// messageOf returns that of a header.
func (s *sender) messageOf(at int) *message { return &s.msgs[s.order[at]] }

// transmit sends messages from to to, all of one socket. A message that the
// kernel refuses costs none of the others.
func (s *sender) transmit(from, to int) {
	s.from, s.to = from, to
	at, tries := from, 0
	for s.from < s.to {
		s.errno = 0
		if s.messageOf(from).sock.use(s.write) != nil {
			for ; s.from < s.to; s.from++ {
				s.lose(s.from, dataplane.DropSendNoSocket)
			}
			return
		}
		if s.errno == 0 {
			continue
		}
		if s.from != at {
			at, tries = s.from, 0
		}
		if tries++; tries < sendTries {
			continue
		}
		why := dropOf(s.errno)
		if s.messageOf(at).n > 1 {
			why = s.oneByOne(at)
		} else {
			s.lose(at, why)
		}
		if p := s.pieces[s.messageOf(at).first].of; why == dataplane.DropSendUnreachable {
			s.told.tell(s.fwd, dataplane.Path{Local: p.Src, Remote: p.Dst}, s.c)
		}
		s.from = at + 1
		s.to = to
	}
}

// oneByOne sends the packets of a run that the kernel refused as such. When
// that works, and the refusal was of the kind that a device without the
// checksum offload makes, no more runs are tried on this pool. It returns why the
// last of those was not sent that were not.
func (s *sender) oneByOne(k int) (why dataplane.DropReason) {
	m, refused := s.messageOf(k), s.errno
	first, n, ok := m.first, m.n, false
	m.ctl.n -= unix.CmsgSpace(2) // UDP_SEGMENT was the last
	h := &s.hdrs[k].hdr
	h.SetControllen(m.ctl.n)
	h.Iov = &s.iovs[2*first]
	for i := first; i < first+n; i++ {
		h.SetIovlen(s.vectors(2*first, &s.pieces[i]))
		drop := dataplane.DropSendError
		for range sendTries {
			s.from, s.to, s.errno = k, k+1, 0
			if m.sock.use(s.write) != nil {
				drop = dataplane.DropSendNoSocket
				break
			}
			if s.errno == 0 {
				drop, ok = dataplane.NotDropped, true
				break
			}
			drop = dropOf(s.errno)
		}
		if drop != dataplane.NotDropped {
			s.pieces[i].lose(drop)
			why = drop
		}
	}
	if ok && (refused == unix.EIO || refused == unix.EINVAL || refused == unix.EOPNOTSUPP) {
		m.pool.noSegmentation.Store(true)
	}
	return why
}

func (s *sender) lose(k int, drop dataplane.DropReason) {
	m := s.messageOf(k)
	for i := m.first; i < m.first+m.n; i++ {
		s.pieces[i].lose(drop)
	}
}

// dropOf names an error of sending.
func dropOf(errno unix.Errno) dataplane.DropReason {
	switch errno {
	case unix.EMSGSIZE:
		return dataplane.DropSendTooBig
	case unix.ENETUNREACH, unix.EHOSTUNREACH, unix.ENETDOWN, unix.EHOSTDOWN, unix.ECONNREFUSED:
		return dataplane.DropSendUnreachable
	case unix.EPERM, unix.EACCES:
		return dataplane.DropSendDenied
	case unix.ENOBUFS, unix.ENOMEM, unix.EAGAIN:
		return dataplane.DropSendBuffer
	}
	return dataplane.DropSendError
}
