package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/eidolon-lisp/eidolon/internal/netns"
)

const (
	udpInterval = time.Millisecond
	tcpInterval = 5 * time.Millisecond
	udpPayload  = 64
	tcpRecord   = 64
	sitePort    = 20000 // and following: of the site's host, UDP
	remotePort  = 30000
	tcpPort     = 31000 // where the remote host listens
)

// stream is one direction of what the hosts send each other: numbered records
// with the time when they were sent.
type stream struct {
	interval time.Duration
	begin    time.Time
	sent     atomic.Uint64

	mu   sync.Mutex
	list []arrival
	err  error // that ended it
}

func newStream(begin time.Time, interval time.Duration) *stream {
	return &stream{begin: begin, interval: interval, list: make([]arrival, 0, 1<<14)}
}

// send calls write with each record when it is time, until ctx ends. What is
// late is sent at once, so that the number of records does not depend on the
// scheduler.
func (s *stream) send(ctx context.Context, size int, write func([]byte) error) {
	b := make([]byte, size)
	next := time.Now()
	for ctx.Err() == nil {
		now := time.Now()
		if wait := next.Sub(now); wait > 0 {
			time.Sleep(wait)
			continue
		}
		binary.BigEndian.PutUint64(b, s.sent.Load())
		binary.BigEndian.PutUint64(b[8:], uint64(now.Sub(s.begin)))
		if err := write(b); err != nil {
			s.fail(err)
			return
		}
		s.sent.Add(1)
		next = next.Add(s.interval)
	}
}

func (s *stream) receive(b []byte) {
	now := time.Since(s.begin)
	s.mu.Lock()
	s.list = append(s.list, arrival{binary.BigEndian.Uint64(b), time.Duration(binary.BigEndian.Uint64(b[8:])), now})
	s.mu.Unlock()
}

func (s *stream) fail(err error) {
	if errors.Is(err, net.ErrClosed) {
		return
	}
	s.mu.Lock()
	s.err = errors.Join(s.err, err)
	s.mu.Unlock()
}

func (s *stream) failed() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

func (s *stream) recovered(window time.Duration) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return recovered(s.list, time.Since(s.begin), window, s.interval)
}

// gap analyses from..to; what was sent within tail of the end is not missed.
func (s *stream) gap(from, to, tail time.Duration) gap {
	s.mu.Lock()
	defer s.mu.Unlock()
	return longest(s.list, from, to, s.sent.Load(), uint64(tail/s.interval))
}

// udpFlow is a pair of sockets, one at each host, that send to each other.
type udpFlow struct {
	site, remote net.PacketConn
	siteAddr     netip.AddrPort
	remoteAddr   netip.AddrPort
	out, in      *stream // seen from the site
}

func openUDP(w *world, site, remote netip.AddrPort) (*udpFlow, error) {
	f := &udpFlow{siteAddr: site, remoteAddr: remote}
	open := func(ns *netns.NS, a netip.AddrPort) (c net.PacketConn, err error) {
		err = ns.Do(func() error {
			c, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(a))
			return err
		})
		return c, err
	}
	var err error
	if f.site, err = open(w.ns["hs"], site); err != nil {
		return nil, err
	}
	if f.remote, err = open(w.ns["hr"], remote); err != nil {
		f.site.Close()
		return nil, err
	}
	return f, nil
}

// probe sends n small datagrams each way, which are not looked at.
func (f *udpFlow) probe(n int) {
	for range n {
		f.site.WriteTo([]byte("probe"), net.UDPAddrFromAddrPort(f.remoteAddr))
		f.remote.WriteTo([]byte("probe"), net.UDPAddrFromAddrPort(f.siteAddr))
	}
}

// run sends both ways until ctx ends.
func (f *udpFlow) run(ctx context.Context, wg *sync.WaitGroup, begin time.Time) {
	f.out, f.in = newStream(begin, udpInterval), newStream(begin, udpInterval)
	for _, d := range []struct {
		s        *stream
		from, to net.PacketConn
		dst      netip.AddrPort
	}{{f.out, f.site, f.remote, f.remoteAddr}, {f.in, f.remote, f.site, f.siteAddr}} {
		dst := net.UDPAddrFromAddrPort(d.dst)
		wg.Go(func() {
			d.s.send(ctx, udpPayload, func(b []byte) error {
				// Unreachable now is lost, not the end.
				_, err := d.from.WriteTo(b, dst)
				if errors.Is(err, net.ErrClosed) {
					return err
				}
				return nil
			})
		})
		wg.Go(func() {
			b := make([]byte, 2048)
			for {
				n, _, err := d.to.ReadFrom(b)
				if errors.Is(err, net.ErrClosed) {
					return
				}
				if err == nil && n == udpPayload {
					d.s.receive(b)
				}
			}
		})
	}
}

func (f *udpFlow) close() {
	f.site.Close()
	f.remote.Close()
}

// tcpFlow is a TCP connection that the site's host opened.
type tcpFlow struct {
	site, remote net.Conn
	out, in      *stream
	mptcp        bool
}

// listenTCP opens the remote host's socket. Subflows of Multipath TCP need it
// for as long as the connection lasts.
func listenTCP(ctx context.Context, w *world, remote netip.AddrPort, multipath bool) (ln net.Listener, err error) {
	var lc net.ListenConfig
	lc.SetMultipathTCP(multipath)
	err = w.ns["hr"].Do(func() error {
		ln, err = lc.Listen(ctx, "tcp4", remote.String())
		return err
	})
	return ln, err
}

// openTCP opens n connections from an address of the site's host.
func openTCP(ctx context.Context, w *world, site netip.Addr, ln net.Listener, n int, multipath bool) ([]*tcpFlow, error) {
	var flows []*tcpFlow
	for range n {
		f := &tcpFlow{}
		err := w.ns["hs"].Do(func() (err error) {
			d := net.Dialer{Timeout: 10 * time.Second, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(site, 0))}
			d.SetMultipathTCP(multipath)
			// Dial with one address starts no goroutine that could leave the namespace.
			f.site, err = d.DialContext(ctx, "tcp4", ln.Addr().String())
			return err
		})
		if err == nil {
			ln.(*net.TCPListener).SetDeadline(time.Now().Add(5 * time.Second))
			f.remote, err = ln.Accept()
		}
		if err != nil {
			closeFlows(append(flows, f))
			return nil, err
		}
		if f.mptcp, err = f.site.(*net.TCPConn).MultipathTCP(); err != nil {
			closeFlows(append(flows, f))
			return nil, err
		}
		flows = append(flows, f)
	}
	return flows, nil
}

func closeFlows(list []*tcpFlow) {
	for _, f := range list {
		f.close()
	}
}

// way is that of the packets from the site.
func (f *tcpFlow) ends() (site, remote netip.AddrPort) {
	return f.site.LocalAddr().(*net.TCPAddr).AddrPort(), f.site.RemoteAddr().(*net.TCPAddr).AddrPort()
}

// run sends records both ways until ctx ends.
func (f *tcpFlow) run(ctx context.Context, wg *sync.WaitGroup, begin time.Time) {
	f.out, f.in = newStream(begin, tcpInterval), newStream(begin, tcpInterval)
	for _, d := range []struct {
		s        *stream
		from, to net.Conn
	}{{f.out, f.site, f.remote}, {f.in, f.remote, f.site}} {
		wg.Go(func() {
			d.s.send(ctx, tcpRecord, func(b []byte) error {
				_, err := d.from.Write(b)
				return err
			})
		})
		wg.Go(func() {
			in := bufio.NewReader(d.to)
			b := make([]byte, tcpRecord)
			for {
				if _, err := io.ReadFull(in, b); err != nil {
					if ctx.Err() == nil {
						d.s.fail(err)
					}
					return
				}
				d.s.receive(b)
			}
		})
	}
}

// keystroke sends an octet from the site and waits for its echo, as a terminal
// session does.
func (f *tcpFlow) keystroke(timeout time.Duration) error {
	echo := make(chan error, 1)
	deadline := time.Now().Add(timeout)
	f.site.SetDeadline(deadline)
	f.remote.SetDeadline(deadline)
	go func() {
		b := make([]byte, 1)
		_, err := io.ReadFull(f.remote, b)
		if err == nil {
			_, err = f.remote.Write(b)
		}
		echo <- err
	}()
	_, err := f.site.Write([]byte("x"))
	if err == nil {
		_, err = io.ReadFull(f.site, make([]byte, 1))
	}
	if err != nil {
		f.remote.SetDeadline(time.Now())
	}
	err = errors.Join(err, <-echo)
	f.site.SetDeadline(time.Time{})
	f.remote.SetDeadline(time.Time{})
	return err
}

func (f *tcpFlow) close() {
	for _, c := range []net.Conn{f.site, f.remote} {
		if c != nil {
			c.(*net.TCPConn).SetLinger(0)
			c.Close()
		}
	}
}

// candidates is how many flows are tried to find those that go the way that
// is wanted: with two uplinks used evenly, one in four does both ways.
const candidates = 24

// choose finds the UDP flow that is hit by the failure, going by the first
// provider both ways, and one that goes by the other both ways; the latter is
// nil where all goes by one provider.
func choose(w *world, x *ways, site, remote netip.Addr) (hit, bystander *udpFlow, err error) {
	var flows []*udpFlow
	defer func() {
		for _, f := range flows {
			if f != hit && f != bystander {
				f.close()
			}
		}
	}()
	// Routes that changed since an earlier try would look like both ways.
	x.forget()
	for i := range candidates {
		f, err := openUDP(w, netip.AddrPortFrom(site, uint16(sitePort+i)), netip.AddrPortFrom(remote, uint16(remotePort+i)))
		if err != nil {
			return nil, nil, err
		}
		flows = append(flows, f)
	}
	// The first ones may be held while the mapping is asked for.
	for range 5 {
		for _, f := range flows {
			f.probe(2)
		}
		time.Sleep(40 * time.Millisecond)
	}
	time.Sleep(200 * time.Millisecond)
	var seen [2][3]int // out and in: by the first provider, by the second, neither or both
	for _, f := range flows {
		out, in := x.by(way{protoUDP, f.siteAddr, f.remoteAddr}), x.by(way{protoUDP, f.remoteAddr, f.siteAddr})
		seen[0][(out+3)%3]++
		seen[1][(in+3)%3]++
		switch {
		case out == 0 && in == 0 && hit == nil:
			hit = f
		case out == 1 && in == 1 && bystander == nil:
			bystander = f
		}
	}
	if hit == nil {
		bystander = nil
		return nil, nil, fmt.Errorf("none of %d flows goes by the first provider both ways; by the first, the second, and neither or both go %v from the site, %v to it", candidates, seen[0], seen[1])
	}
	return hit, bystander, nil
}

// chooseTCP keeps two connections that go by the first provider both ways.
func chooseTCP(x *ways, flows []*tcpFlow) ([]*tcpFlow, error) {
	var kept []*tcpFlow
	for _, f := range flows {
		f.keystroke(5 * time.Second)
	}
	time.Sleep(100 * time.Millisecond)
	for _, f := range flows {
		site, remote := f.ends()
		if len(kept) < 2 && x.by(way{protoTCP, site, remote}) == 0 && x.by(way{protoTCP, remote, site}) == 0 {
			kept = append(kept, f)
		}
	}
	for _, f := range flows {
		if !slices.Contains(kept, f) {
			f.close()
		}
	}
	if len(kept) < 2 {
		closeFlows(kept)
		return nil, fmt.Errorf("%d of %d connections go by the first provider both ways; two are needed", len(kept), len(flows))
	}
	return kept, nil
}

const (
	protoUDP = 17
	protoTCP = 6
)
