package udp

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
)

// Set is a Conn whose local addresses come and go. Each has a socket of its
// own.
type Set struct {
	in   chan datagram
	stop chan struct{}
	free sync.Pool
	wg   sync.WaitGroup

	update sync.Mutex // one at a time

	mu     sync.RWMutex // guards what follows
	conns  []*conn
	closed bool
}

// NewSet returns a Set without an address.
func NewSet() *Set {
	s := &Set{in: make(chan datagram), stop: make(chan struct{})}
	s.free.New = func() any { b := make([]byte, maxDatagram); return &b }
	return s
}

// Update opens a socket for each address that has none, and closes those of
// addresses that are not in the list. It returns the addresses that could not
// be opened, with the error, which does not keep it from the others; they are
// tried again by the next Update. After Close it fails with net.ErrClosed.
func (s *Set) Update(addrs []netip.AddrPort) (missing []netip.AddrPort, err error) {
	s.update.Lock()
	defer s.update.Unlock()
	s.mu.RLock()
	old, closed := s.conns, s.closed
	s.mu.RUnlock()
	if closed {
		return nil, net.ErrClosed
	}
	var conns, fresh []*conn
	var errs []error
	for i, a := range addrs {
		if slices.Contains(addrs[:i], a) {
			continue
		}
		if i := slices.IndexFunc(old, func(c *conn) bool { return c.local == a }); i >= 0 {
			conns = append(conns, old[i])
			continue
		}
		c, err := open(a, false)
		if err != nil {
			missing = append(missing, a)
			errs = append(errs, fmt.Errorf("listen on UDP %v: %w", a, err))
			continue
		}
		conns, fresh = append(conns, c), append(fresh, c)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		for _, c := range fresh {
			c.Close()
		}
		return nil, net.ErrClosed
	}
	for _, c := range old {
		if !slices.Contains(conns, c) {
			c.Close() // ends its pump
		}
	}
	s.conns = conns
	for _, c := range fresh {
		s.wg.Go(func() { s.pump(c) })
	}
	return missing, errors.Join(errs...)
}

// pump moves datagrams of one socket to Read until it is closed.
func (s *Set) pump(c *conn) {
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

// Read implements Conn.
func (s *Set) Read(buf []byte) (n int, src, dst netip.AddrPort, err error) {
	select {
	case d := <-s.in:
		n = copy(buf, (*d.buf)[:d.n])
		s.free.Put(d.buf)
		return n, d.src, d.dst, d.err
	case <-s.stop:
		return 0, src, dst, net.ErrClosed
	}
}

// Write implements Conn. It fails with ErrNoSocket while src is not one of the
// local addresses.
func (s *Set) Write(b []byte, src, dst netip.AddrPort) error {
	dst = unmap(dst)
	s.mu.RLock()
	c := pick(s.conns, src, dst)
	s.mu.RUnlock()
	if c == nil {
		return fmt.Errorf("send to %v: %w", dst, ErrNoSocket)
	}
	return c.write(b, src, dst)
}

// Close implements Conn.
func (s *Set) Close() error {
	s.mu.Lock()
	closed := s.closed
	s.closed = true
	if !closed {
		close(s.stop)
		for _, c := range s.conns {
			c.Close()
		}
	}
	s.mu.Unlock()
	s.wg.Wait()
	return nil
}

var _ Conn = (*Set)(nil)
