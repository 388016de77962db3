package mapsys

import (
	"net/netip"
	"sync"

	"github.com/eidolon-lisp/eidolon/internal/udp"
)

// The underlay of the system are loopback addresses, which can't be RLOCs: each
// 127.x.y.z stands for the RLOC 198.x.y.z.
const (
	loopback = 127
	underlay = 198
)

func exchange(a netip.AddrPort, from, to byte) netip.AddrPort {
	if !a.Addr().Is4() {
		return a
	}
	b := a.Addr().As4()
	if b[0] != from {
		return a
	}
	b[0] = to
	return netip.AddrPortFrom(netip.AddrFrom4(b), a.Port())
}

// port is the socket of a router or server: it counts what is sent, and drops what
// goes by an uplink that is down.
type port struct {
	udp.Conn
	c *counter

	mu   sync.RWMutex
	down map[netip.Addr]bool
}

// listen opens the sockets of RLOCs.
func listen(c *counter, rlocs ...netip.AddrPort) (*port, error) {
	addrs := make([]netip.AddrPort, len(rlocs))
	for i, a := range rlocs {
		addrs[i] = exchange(a, underlay, loopback)
	}
	s, err := udp.Listen(addrs)
	if err != nil {
		return nil, err
	}
	return &port{Conn: s, c: c, down: make(map[netip.Addr]bool)}, nil
}

// set says that the uplink with an RLOC is down, or up again.
func (p *port) set(rloc netip.Addr, down bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down[rloc] = down
}

func (p *port) isDown(rloc netip.Addr) bool {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.down[rloc]
}

// Read implements udp.Conn.
func (p *port) Read(buf []byte) (int, netip.AddrPort, netip.AddrPort, error) {
	for {
		n, src, dst, err := p.Conn.Read(buf)
		src, dst = exchange(src, loopback, underlay), exchange(dst, loopback, underlay)
		if err == nil && p.isDown(dst.Addr()) {
			continue
		}
		return n, src, dst, err
	}
}

// Write implements udp.Conn.
func (p *port) Write(b []byte, src, dst netip.AddrPort) error {
	if p.isDown(src.Addr()) {
		return nil // it is lost
	}
	p.c.sent(b, dst.Addr())
	return p.Conn.Write(b, exchange(src, underlay, loopback), exchange(dst, underlay, loopback))
}
