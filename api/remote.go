package api

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/credentials"
)

// Limits of our own.
const (
	// maxConnections bounds the connections on the Unix socket.
	maxConnections = 256
	// handshakeTime is how long a handshake may take, and then the first call
	// whose caller is known, so that strangers hold no connection for long.
	handshakeTime = 10 * time.Second
	// failureBurst is how often one source may fail to say who it is, and
	// failureEvery the time that makes one more. What is above is not listened
	// to: guessing a token is hopeless anyway, and handshakes cost time.
	failureBurst = 20
	failureEvery = 3 * time.Second
	// failureBuckets is how many sources are told apart, more or less.
	failureBuckets = 4096
)

// remote is the other end of a TLS connection.
type remote struct {
	credentials.CommonAuthInfo
	addr  netip.AddrPort
	conn  net.Conn
	chain []*x509.Certificate // of the client
	// known is who the certificate is.
	known atomic.Pointer[identity]
	// stranger closes the connection of who has not been known for too long.
	stranger *time.Timer
}

// identity is a caller by some rules.
type identity struct {
	rules  *rules
	caller *caller
}

// AuthType implements credentials.AuthInfo.
func (*remote) AuthType() string { return "tls" }

func (r *remote) authenticated() { r.stranger.Stop() }

// transport has the kernel say who is at the other end of a Unix socket, and TLS
// who is elsewhere.
type transport struct {
	peerCredentials
	access *Access
}

// ServerHandshake implements credentials.TransportCredentials.
func (t *transport) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	if b, ok := conn.(*bridged); ok {
		return conn, b.who, nil
	}
	if a, ok := conn.(*admitted); ok {
		if _, ok := a.Conn.(*net.UnixConn); ok {
			_, who, err := t.peerCredentials.ServerHandshake(a.Conn)
			return conn, who, err
		}
	}
	return t.access.handshake(conn)
}

// Clone implements credentials.TransportCredentials.
func (t *transport) Clone() credentials.TransportCredentials {
	clone := *t
	return &clone
}

func (a *Access) handshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	r := a.rules.Load()
	from, ok := addrOf(conn)
	if r.transport == nil || !ok {
		return nil, nil, fmt.Errorf("a connection of type %T is not expected", conn)
	}
	secure, info, err := r.transport.ServerHandshake(conn)
	if err != nil {
		// Who connects and says nothing may only see whether somebody listens.
		if !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
			a.handshakeFailed(conn, err)
		}
		return nil, nil, err
	}
	state, ok := info.(credentials.TLSInfo)
	if !ok {
		return nil, nil, fmt.Errorf("TLS tells a %T", info)
	}
	who := &remote{CommonAuthInfo: state.CommonAuthInfo, addr: from, conn: conn, chain: state.State.PeerCertificates}
	who.stranger = time.AfterFunc(a.patience, func() { conn.Close() })
	return secure, who, nil
}

// handshakeFailed notes that somebody who said something did not get through TLS.
func (a *Access) handshakeFailed(conn net.Conn, why error) {
	from, ok := addrOf(conn)
	if !ok {
		return
	}
	a.handshakes.Add(1)
	a.failures.add(from.Addr(), time.Now())
	a.complain("API TLS handshake failed", from.Addr(), why)
}

func addrOf(conn net.Conn) (netip.AddrPort, bool) {
	a, ok := conn.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}, false
	}
	ap := a.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()), true
}

// listen returns all that is listened on, the socket among it; after an error
// nothing is.
func (a *Access) listen(ctx context.Context, socket net.Listener) ([]net.Listener, error) {
	all := []net.Listener{&doorkeeper{socket, a, a.unixRoom}}
	if a.tcp == nil {
		return all, nil
	}
	over, err := a.listenOn(ctx, a.tcp.Listen, "API over TCP", &a.addrs)
	if err != nil {
		socket.Close()
		return nil, err
	}
	return append(all, over...), nil
}

// listenREST returns what REST over TLS is listened for on, if it is.
func (a *Access) listenREST(ctx context.Context) ([]net.Listener, error) {
	if a.tcp == nil {
		return nil, nil
	}
	return a.listenOn(ctx, a.tcp.REST, "REST over TLS", &a.restAddrs)
}

// listenOn listens on all of some addresses, or on none after an error.
func (a *Access) listenOn(ctx context.Context, on []netip.AddrPort, what string, told *atomic.Pointer[[]netip.AddrPort]) (all []net.Listener, err error) {
	var addrs []netip.AddrPort
	for _, at := range on {
		l, err := listenTCP(ctx, at)
		if err != nil {
			for _, l := range all {
				l.Close()
			}
			return nil, fmt.Errorf("%s: %w", what, err)
		}
		a.log.Info(what, "listen", l.Addr())
		all = append(all, &doorkeeper{l, a, a.tcpRoom})
		if tcp, ok := l.Addr().(*net.TCPAddr); ok {
			addrs = append(addrs, tcp.AddrPort())
		}
	}
	told.Store(&addrs)
	return all, nil
}

// listenTCP listens on an address that an interface may get later.
func listenTCP(ctx context.Context, at netip.AddrPort) (net.Listener, error) {
	lc := net.ListenConfig{Control: func(network, _ string, c syscall.RawConn) error {
		var inner error
		err := c.Control(func(fd uintptr) {
			if at.Addr().Is4() {
				inner = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_FREEBIND, 1)
			} else {
				inner = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1)
			}
		})
		return errors.Join(err, inner)
	}}
	return lc.Listen(ctx, "tcp", at.String())
}

// source is what addresses are told apart by: who has an IPv6 network of 64 bits
// has all of its addresses.
func source(a netip.Addr) netip.Prefix {
	a = a.Unmap()
	bits := a.BitLen()
	if a.Is6() {
		bits = 64
	}
	p, _ := a.Prefix(bits)
	return p
}

// failures limits how often each source fails. Its table is of a fixed size;
// sources that fall together share a bucket, and who they are is not to be
// foreseen.
type failures struct {
	seed maphash.Seed
	mu   sync.Mutex
	// until is when all that a source has spent is made again.
	until []time.Time
}

func (f *failures) init() { f.seed, f.until = maphash.MakeSeed(), make([]time.Time, failureBuckets) }

func (f *failures) bucket(a netip.Addr) *time.Time {
	return &f.until[maphash.Comparable(f.seed, source(a))%failureBuckets]
}

// add counts a failure, and reports whether it was one too many.
func (f *failures) add(a netip.Addr, now time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	b := f.bucket(a)
	if b.Before(now) {
		*b = now
	}
	if b.Sub(now) < failureBurst*failureEvery {
		*b = b.Add(failureEvery)
	}
	return b.Sub(now) >= failureBurst*failureEvery
}

// tooMany reports whether a source is not to be listened to.
func (f *failures) tooMany(a netip.Addr, now time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.bucket(a).Sub(now) > (failureBurst-1)*failureEvery
}

// room bounds connections.
type room struct {
	max, each int // all, and of one source; 0 is no bound

	mu      sync.Mutex
	all     int
	of      map[netip.Prefix]int
	refused uint64
}

func (r *room) count() (connections, refused uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return uint64(r.all), r.refused
}

func (r *room) enter(from netip.Prefix) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.all >= r.max || r.each > 0 && r.of[from] >= r.each {
		r.refused++
		return false
	}
	if r.of == nil {
		r.of = make(map[netip.Prefix]int)
	}
	r.all++
	r.of[from]++
	return true
}

func (r *room) leave(from netip.Prefix) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all--
	if r.of[from]--; r.of[from] == 0 {
		delete(r.of, from)
	}
}

// doorkeeper is a listener that closes what there is no room for, and what comes
// from where too many failed.
type doorkeeper struct {
	net.Listener
	access *Access
	room   *room
}

// Accept implements net.Listener.
func (d *doorkeeper) Accept() (net.Conn, error) {
	for {
		conn, err := d.Listener.Accept()
		if err != nil {
			return nil, err
		}
		var from netip.Prefix // none on a Unix socket
		if a, ok := addrOf(conn); ok {
			from = source(a.Addr())
			if d.access.failures.tooMany(a.Addr(), time.Now()) {
				d.access.limited.Add(1)
				conn.Close()
				continue
			}
		}
		if !d.room.enter(from) {
			conn.Close()
			continue
		}
		return &admitted{Conn: conn, leave: func() { d.room.leave(from) }}, nil
	}
}

// admitted is a connection that takes room until it is closed.
type admitted struct {
	net.Conn
	leave func()
	once  sync.Once
	heard atomic.Bool // something came
}

// Read implements net.Conn.
func (a *admitted) Read(b []byte) (int, error) {
	n, err := a.Conn.Read(b)
	if n > 0 && !a.heard.Load() {
		a.heard.Store(true)
	}
	return n, err
}

// Close implements net.Conn.
func (a *admitted) Close() error {
	a.once.Do(a.leave)
	return a.Conn.Close()
}
