// Package udp is the control plane's socket: UDP over IPv4 and IPv6 at once,
// with the local address of each datagram known, so that an answer leaves from
// the address that was asked.
package udp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// Conn sends and receives whole UDP datagrams. All methods may be called from
// several goroutines at once.
type Conn interface {
	// Read blocks for the next datagram, copies it to buf and returns its
	// length, who sent it and the local address that it was sent to. A
	// datagram longer than buf is cut. After Close it fails with
	// net.ErrClosed; any other error is about one datagram, and Read may be
	// called again.
	Read(buf []byte) (n int, src, dst netip.AddrPort, err error)
	// Write sends b from the local address src to dst. The zero src leaves
	// the choice to the kernel; a src without a port (0) means any local
	// socket that can send from the address. It keeps nothing of b.
	Write(b []byte, src, dst netip.AddrPort) error
	// Close ends all calls. Closing twice is harmless.
	Close() error
}

// ErrNoSocket is returned by Write when no socket of the destination's family,
// or none that can send from the wanted source, is open.
var ErrNoSocket = errors.New("no local socket for this address family")

// socketBuffer is the receive buffer asked for: room for a burst of some
// thousand requests. The kernel gives what its limit allows.
const socketBuffer = 4 << 20

// Socket is a Batcher over the kernel's UDP sockets, one or several for each
// local address.
type Socket struct {
	conns []*conn
	in    chan datagram
	free  sync.Pool
	pumps sync.Once
	stop  chan struct{}
	once  sync.Once
	wg    sync.WaitGroup
}

type conn struct {
	*net.UDPConn
	raw      syscall.RawConn
	local    netip.AddrPort
	wildcard bool // bound to the unspecified address
}

type datagram struct {
	buf      *[]byte
	n        int
	src, dst netip.AddrPort
	err      error
}

// Listen opens one socket for each address. A port of 0 lets the kernel choose
// one. An unspecified address (0.0.0.0 or ::) listens on all addresses of its
// own family only. On an error nothing stays open.
func Listen(addrs []netip.AddrPort) (*Socket, error) { return ListenShared(addrs, 1) }

// ListenShared is Listen with n sockets for each address, among which the
// kernel shares the datagrams by their sources (SO_REUSEPORT), for a reader on
// each core. An address that another process has is refused all the same.
func ListenShared(addrs []netip.AddrPort, n int) (*Socket, error) {
	if len(addrs) == 0 {
		return nil, errors.New("no address to listen on")
	}
	s := &Socket{in: make(chan datagram), stop: make(chan struct{})}
	s.free.New = func() any { b := make([]byte, maxDatagram); return &b }
	for _, a := range addrs {
		// The first one binds alone, or a second process of ours would get
		// a part of the datagrams and nobody would notice.
		for i := range max(n, 1) {
			c, err := open(a, i > 0)
			if err == nil && n > 1 && i == 0 {
				err = c.share()
			}
			if err != nil {
				s.Close()
				return nil, fmt.Errorf("listen on UDP %v: %w", a, err)
			}
			s.conns = append(s.conns, c)
			a = netip.AddrPortFrom(a.Addr(), c.local.Port())
		}
	}
	return s, nil
}

// share lets other sockets bind to the address of c.
func (c *conn) share() error {
	var err error
	cerr := c.raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) })
	return errors.Join(cerr, err)
}

func open(a netip.AddrPort, shared bool) (*conn, error) {
	network := "udp6"
	if a.Addr().Is4() {
		network = "udp4"
	}
	lc := net.ListenConfig{Control: func(_, _ string, rc syscall.RawConn) error {
		var err error
		cerr := rc.Control(func(fd uintptr) {
			if network == "udp6" {
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
			}
			if shared {
				err = errors.Join(err, unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1))
			}
		})
		return errors.Join(cerr, err)
	}}
	pc, err := lc.ListenPacket(context.Background(), network, a.String())
	if err != nil {
		return nil, err
	}
	uc := pc.(*net.UDPConn)
	c := &conn{UDPConn: uc, local: uc.LocalAddr().(*net.UDPAddr).AddrPort()}
	c.local = netip.AddrPortFrom(c.local.Addr().Unmap().WithZone(""), c.local.Port())
	c.wildcard = c.local.Addr().IsUnspecified()
	if c.raw, err = uc.SyscallConn(); err != nil {
		uc.Close()
		return nil, err
	}
	// More than the system's limit is for the privileged; for others it is cut
	// to the limit, which is what we want.
	_ = uc.SetReadBuffer(socketBuffer)
	_ = c.raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, socketBuffer) })
	if c.wildcard {
		if network == "udp4" {
			err = ipv4.NewPacketConn(uc).SetControlMessage(ipv4.FlagDst, true)
		} else {
			err = ipv6.NewPacketConn(uc).SetControlMessage(ipv6.FlagDst, true)
		}
		if err != nil {
			uc.Close()
			return nil, fmt.Errorf("ask for the destination address of datagrams: %w", err)
		}
	}
	return c, nil
}

// Addrs returns the local addresses, with the ports that the kernel chose.
func (s *Socket) Addrs() []netip.AddrPort {
	var out []netip.AddrPort
	for _, c := range s.conns {
		if !slices.Contains(out, c.local) {
			out = append(out, c.local)
		}
	}
	return out
}

// Read implements Conn.
func (s *Socket) Read(buf []byte) (n int, src, dst netip.AddrPort, err error) {
	if len(s.conns) == 1 {
		return s.conns[0].read(buf)
	}
	s.pumps.Do(func() {
		for _, c := range s.conns {
			s.wg.Go(func() { s.pump(c) })
		}
	})
	select {
	case d := <-s.in:
		if d.buf != nil {
			n = copy(buf, (*d.buf)[:d.n])
			s.free.Put(d.buf)
		}
		return n, d.src, d.dst, d.err
	case <-s.stop:
		return 0, src, dst, net.ErrClosed
	}
}

// pump moves datagrams of one of several sockets to Read.
func (s *Socket) pump(c *conn) {
	for {
		buf := s.free.Get().(*[]byte)
		d := datagram{buf: buf}
		d.n, d.src, d.dst, d.err = c.read(*buf)
		if errors.Is(d.err, net.ErrClosed) {
			return
		}
		select {
		case s.in <- d:
		case <-s.stop:
			return
		}
	}
}

func (c *conn) read(buf []byte) (n int, src, dst netip.AddrPort, err error) {
	if !c.wildcard {
		n, src, err = c.ReadFromUDPAddrPort(buf)
		return n, unmap(src), c.local, err
	}
	var oob [64]byte
	n, oobn, _, src, err := c.ReadMsgUDPAddrPort(buf, oob[:])
	if err != nil {
		return 0, src, dst, err
	}
	return n, unmap(src), netip.AddrPortFrom(destination(oob[:oobn]), c.local.Port()), nil
}

// destination finds the packet-info control message; the zero Addr if there is
// none.
func destination(oob []byte) netip.Addr {
	for len(oob) > 0 {
		h, data, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			break
		}
		switch {
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
			return netip.AddrFrom4([4]byte(data[8:12])) // ipi_addr
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
			return netip.AddrFrom16([16]byte(data[:16]))
		}
		oob = rest
	}
	return netip.Addr{}
}

// Write implements Conn.
func (s *Socket) Write(b []byte, src, dst netip.AddrPort) error {
	dst = unmap(dst)
	c := pick(s.conns, src, dst)
	if c == nil {
		return fmt.Errorf("send to %v: %w", dst, ErrNoSocket)
	}
	return c.write(b, src, dst)
}

// write sends one datagram from src, if c is bound to no address.
func (c *conn) write(b []byte, src, dst netip.AddrPort) error {
	var oob []byte
	if c.wildcard && src.Addr().IsValid() && !src.Addr().IsUnspecified() {
		if src.Addr().Is4() {
			oob = unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: src.Addr().As4()})
		} else {
			oob = unix.PktInfo6(&unix.Inet6Pktinfo{Addr: src.Addr().As16()})
		}
	}
	_, _, err := c.WriteMsgUDPAddrPort(b, oob, dst)
	return err
}

// pick finds the socket to send from: one bound to src, else a wildcard of the
// family, else (no source wanted) any of the family.
func pick(conns []*conn, src, dst netip.AddrPort) *conn {
	var wildcard, any *conn
	for _, c := range conns {
		a := c.local.Addr()
		if !c.fits(src, dst) {
			continue
		}
		if a == src.Addr() {
			return c
		}
		if c.wildcard && wildcard == nil {
			wildcard = c
		}
		if any == nil {
			any = c
		}
	}
	if wildcard != nil {
		return wildcard
	}
	if !src.Addr().IsValid() || src.Addr().IsUnspecified() {
		return any
	}
	return nil
}

// fits reports whether c has dst's family and src's port.
func (c *conn) fits(src, dst netip.AddrPort) bool {
	return c.local.Addr().Is4() == dst.Addr().Is4() && (src.Port() == 0 || src.Port() == c.local.Port())
}

// serves reports whether c can send from src to dst.
func (c *conn) serves(src, dst netip.AddrPort) bool {
	return c.fits(src, dst) && (c.wildcard || c.local.Addr() == src.Addr())
}

// Close implements Conn.
func (s *Socket) Close() error {
	s.once.Do(func() {
		close(s.stop)
		for _, c := range s.conns {
			c.Close()
		}
		s.pumps.Do(func() {}) // none starts any more
		s.wg.Wait()
	})
	return nil
}

func unmap(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}
