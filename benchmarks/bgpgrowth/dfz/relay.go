package dfz

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/osrg/gobgp/v3/pkg/packet/bgp"
)

// relay stands between two speakers: the one of end 0 connects to it, and it
// connects to the one of end 1, from an address that is that one's neighbour. It
// counts what goes over the session, and coalesces it.
type relay struct {
	zone   *Zone
	link   Link
	listen net.Listener
	source netip.Addr // of the connection to end 1
	target netip.AddrPort

	mu    sync.Mutex
	conns [2]net.Conn // to the ends; nil between two sessions
	pipes [2]*pipe    // from end i to the other
	began time.Time   // when the last session did
	err   error
}

// pipe is one direction of a session.
type pipe struct {
	relay    *relay
	from, to int // speakers

	mu     sync.Mutex
	c      *coalescer
	said   map[netip.Prefix]string // what the other end has been told of watched prefixes
	out    net.Conn
	wake   chan struct{} // holds a token when c has something new
	closed bool
}

// serve passes sessions on, one after the other, until the listener is closed.
func (r *relay) serve(ctx context.Context) {
	for {
		a, err := r.listen.Accept()
		if err != nil {
			return
		}
		d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(r.source, 0))}
		b, err := d.DialContext(ctx, "tcp4", r.target.String())
		if err != nil { // the other end is idle; who connects tries again
			a.Close()
			continue
		}
		r.session(a, b)
	}
}

// session passes one on to its end.
func (r *relay) session(a, b net.Conn) {
	conns := [2]net.Conn{a, b}
	var wg sync.WaitGroup
	r.mu.Lock()
	r.conns, r.began = conns, time.Now()
	for i := range 2 {
		p := &pipe{relay: r, from: r.link.ends()[i], to: r.link.ends()[1-i], out: conns[1-i], wake: make(chan struct{}, 1), c: newCoalescer(), said: make(map[netip.Prefix]string)}
		p.c.interval = r.zone.mrai()
		r.pipes[i] = p
	}
	pipes := r.pipes
	r.mu.Unlock()
	for i, p := range pipes {
		wg.Go(func() {
			r.keep(p.read(conns[i]))
			a.Close()
			b.Close()
			p.close()
		})
		wg.Go(func() { r.keep(p.write()) })
	}
	wg.Wait()
	r.mu.Lock()
	r.conns, r.pipes = [2]net.Conn{}, [2]*pipe{}
	r.mu.Unlock()
}

// keep remembers what went wrong, but for the ends of connections.
func (r *relay) keep(err error) {
	if err == nil || errors.Is(err, net.ErrClosed) || isEnd(err) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = errors.Join(r.err, fmt.Errorf("session of speakers %d and %d: %w", r.link.A, r.link.B, err))
}

// cut ends the session, as when the line is cut and both see it at once.
func (r *relay) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.conns {
		if c != nil {
			c.Close()
		}
	}
}

// since returns when the last session began.
func (r *relay) since() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.began
}

// setInterval changes the MRAI of both directions. What waits keeps its time.
func (r *relay) setInterval(d time.Duration) {
	for _, p := range r.both() {
		p.mu.Lock()
		p.c.interval = d
		p.mu.Unlock()
	}
}

// both returns the directions of the present session, if there is one.
func (r *relay) both() []*pipe {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pipes[0] == nil {
		return nil
	}
	return r.pipes[:]
}

// waiting returns how many prefixes have something to say.
func (r *relay) waiting() (n int) {
	for _, p := range r.both() {
		p.mu.Lock()
		n += p.c.waiting
		p.mu.Unlock()
	}
	return n
}

func (p *pipe) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

func (p *pipe) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.poke()
}

// read takes what the speaker sends until the connection ends.
func (p *pipe) read(in net.Conn) error {
	var buf []byte
	var u update
	r := bufio.NewReaderSize(in, 1<<16)
	for {
		var err error
		if buf, err = readMessage(r, buf); err != nil {
			return err
		}
		if buf[18] != bgp.BGP_MSG_UPDATE {
			p.mu.Lock()
			_, err := p.out.Write(buf)
			p.mu.Unlock()
			if err != nil {
				return err
			}
			continue
		}
		if err := u.decode(buf); err != nil {
			return err
		}
		if len(u.withdrawn)+len(u.announced) == 0 {
			continue // End-of-RIB: nobody here restarts gracefully
		}
		attrs := ""
		if len(u.announced) > 0 {
			attrs = string(u.attrs)
		}
		now := time.Now()
		p.relay.zone.tracker.offered(u.withdrawn, u.announced)
		p.mu.Lock()
		for _, x := range u.withdrawn {
			p.c.add(now, x, withdrawal)
		}
		for _, x := range u.announced {
			p.c.add(now, x, attrs)
		}
		p.mu.Unlock()
		p.poke()
	}
}

// write says what is due, until close.
func (p *pipe) write() error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var g grouper
	for {
		p.mu.Lock()
		if p.closed {
			p.mu.Unlock()
			return nil
		}
		g.reset()
		p.c.take(time.Now(), func(x netip.Prefix, attrs string) {
			// GoBGP does not keep what it has told whom, and may withdraw what it
			// never announced. Others do not.
			if _, said := p.said[x]; attrs == withdrawal && !said && p.relay.zone.watched[x] {
				return
			}
			g.add(x, attrs)
		})
		at, ok := p.c.next()
		var err error
		if len(g.groups) > 0 {
			err = p.say(&g)
		}
		p.mu.Unlock()
		if err != nil {
			return err
		}
		timer.Stop()
		if ok {
			timer.Reset(time.Until(at))
		}
		select {
		case <-timer.C:
		case <-p.wake:
		}
	}
}

// say writes the messages of g, with p.mu held, and counts each.
func (p *pipe) say(g *grouper) error {
	var b []byte
	for _, x := range g.groups {
		var counts []int
		attrs := []byte(x.attrs)
		if x.attrs == withdrawal {
			attrs = nil
		}
		start := len(b)
		b, counts = appendUpdates(b, attrs, x.list)
		p.relay.zone.tracker.delivered(time.Now(), p, x.attrs == withdrawal, x.list, counts, len(b)-start)
		for _, y := range x.list {
			if !p.relay.zone.watched[y] {
				continue
			}
			if x.attrs == withdrawal {
				delete(p.said, y)
			} else {
				p.said[y] = x.attrs
			}
		}
	}
	_, err := p.out.Write(b)
	return err
}

// grouper puts prefixes with equal attributes together, in the order of the first
// of each.
type grouper struct {
	groups []group
	at     map[string]int
}

type group struct {
	attrs string
	list  []netip.Prefix
}

func (g *grouper) reset() {
	g.groups = g.groups[:0]
	if g.at == nil {
		g.at = make(map[string]int)
	}
	clear(g.at)
}

func (g *grouper) add(p netip.Prefix, attrs string) {
	i, ok := g.at[attrs]
	if !ok {
		i = len(g.groups)
		g.at[attrs] = i
		g.groups = append(g.groups, group{attrs: attrs})
	}
	g.groups[i].list = append(g.groups[i].list, p)
}
