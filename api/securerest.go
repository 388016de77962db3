package api

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// restBody is how long a client of REST may take to send a body.
const restBody = 30 * time.Second

// secureREST serves all of the API as REST, over TLS and to users. Each connection
// of HTTP has one of gRPC behind it, which is known as what the connection of HTTP
// is: who may call what, the limits and the audit log are those of gRPC.
type secureREST struct {
	rest   *rest
	bridge *bridge
	server *http.Server
}

func newSecureREST(a *Access, log *slog.Logger) (*secureREST, error) {
	s := &secureREST{bridge: &bridge{conns: make(chan net.Conn), closed: make(chan struct{})}}
	mux, err := newMux(ofSession{})
	if err != nil {
		return nil, err
	}
	s.rest = &rest{mux: mux, room: make(chan struct{}, maxREST)}
	s.server = &http.Server{
		Handler:           http.HandlerFunc(s.serve),
		ReadHeaderTimeout: handshakeTime,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    maxHeaders,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		TLSConfig: &tls.Config{
			MinVersion: tls.VersionTLS13,
			NextProtos: []string{"h2", "http/1.1"},
			GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
				return a.rules.Load().web, nil
			},
		},
	}
	var sessions sync.Map // of net.Conn
	s.server.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		x := &session{access: a, bridge: s.bridge, conn: c}
		sessions.Store(c, x)
		return context.WithValue(ctx, sessionKey{}, x)
	}
	s.server.ConnState = func(c net.Conn, state http.ConnState) {
		if state != http.StateClosed {
			return
		}
		if x, ok := sessions.LoadAndDelete(c); ok {
			x.(*session).close()
		}
		// Who connects and says nothing may only see whether somebody listens.
		if t, ok := c.(*tls.Conn); ok && !t.ConnectionState().HandshakeComplete {
			if from, ok := t.NetConn().(*admitted); ok && from.heard.Load() {
				a.handshakeFailed(from, errors.New("REST: the handshake was not completed"))
			}
		}
	}
	return s, nil
}

// run serves on listeners until ctx ends; calls under way have a few seconds then.
func (s *secureREST) run(ctx context.Context, listeners []net.Listener) error {
	ended := make(chan error, len(listeners))
	for _, l := range listeners {
		go func() {
			if err := s.server.ServeTLS(l, "", ""); !errors.Is(err, http.ErrServerClosed) {
				ended <- fmt.Errorf("REST on %v: %w", l.Addr(), err)
				return
			}
			ended <- nil
		}()
	}
	var err error
	left := len(listeners)
	select {
	case err = <-ended:
		left--
	case <-ctx.Done():
	}
	grace, stop := context.WithTimeout(context.WithoutCancel(ctx), stopGrace)
	defer stop()
	if s.server.Shutdown(grace) != nil {
		s.server.Close()
	}
	for range left {
		<-ended
	}
	return err
}

func (s *secureREST) serve(w http.ResponseWriter, req *http.Request) {
	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	switch req.Method {
	case http.MethodGet:
	case http.MethodPost:
		// No page of somebody else can have a browser send this by itself, with
		// the certificate that is in it.
		if kind, _, err := mime.ParseMediaType(req.Header.Get("Content-Type")); err != nil || kind != "application/json" {
			refuse(w, http.StatusUnsupportedMediaType, codes.InvalidArgument, "found another Content-Type, expected application/json")
			return
		}
		// An error here is that of the read that follows.
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(restBody))
		req.Body = http.MaxBytesReader(w, req.Body, maxMessage)
	default:
		h.Set("Allow", "GET, POST")
		refuse(w, http.StatusMethodNotAllowed, codes.InvalidArgument, "found "+req.Method+", expected GET or POST")
		return
	}
	x := sessionOf(req.Context())
	if err := x.open(req.TLS); err != nil {
		refuse(w, http.StatusInternalServerError, codes.Internal, err.Error())
		return
	}
	s.rest.serve(w, req)
}

// session is a connection of HTTP, and the one of gRPC behind it.
type session struct {
	access *Access
	bridge *bridge
	conn   net.Conn

	mu     sync.Mutex
	who    *remote          // nil before the first request
	behind *grpc.ClientConn // the same
	ended  bool
}

type sessionKey struct{}

func sessionOf(ctx context.Context) *session {
	x, _ := ctx.Value(sessionKey{}).(*session)
	return x
}

// open connects, for the first request.
func (x *session) open(state *tls.ConnectionState) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	from, ok := addrOf(x.conn)
	switch {
	case x.behind != nil:
		return nil
	case x.ended || state == nil || !ok:
		return errors.New("the connection has ended")
	}
	x.who = &remote{CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}, addr: from, conn: x.conn, chain: state.PeerCertificates}
	conn, err := grpc.NewClient("passthrough:///rest", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxRESTMessage)),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return x.bridge.dial(ctx, x.who) }))
	if err != nil {
		return err
	}
	x.behind = conn
	x.who.stranger = time.AfterFunc(x.access.patience, func() { x.conn.Close() })
	return nil
}

func (x *session) close() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.ended = true
	if x.behind != nil {
		x.who.stranger.Stop()
		x.behind.Close()
	}
}

// ofSession calls by the connection behind that of the request.
type ofSession struct{}

func (ofSession) conn(ctx context.Context) (*grpc.ClientConn, error) {
	x := sessionOf(ctx)
	if x == nil {
		return nil, status.Error(codes.Internal, "a request of no connection")
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.behind == nil || x.ended {
		return nil, status.Error(codes.Unavailable, "the connection has ended")
	}
	return x.behind, nil
}

// Invoke implements grpc.ClientConnInterface.
func (o ofSession) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	conn, err := o.conn(ctx)
	if err != nil {
		return err
	}
	return conn.Invoke(ctx, method, args, reply, opts...)
}

// NewStream implements grpc.ClientConnInterface.
func (o ofSession) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	conn, err := o.conn(ctx)
	if err != nil {
		return nil, err
	}
	return conn.NewStream(ctx, desc, method, opts...)
}

// bridge is a listener of connections inside of the process.
type bridge struct {
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

// bridged is the end of the server, which knows who is at the other one.
type bridged struct {
	net.Conn
	who *remote
}

func (b *bridge) dial(ctx context.Context, who *remote) (net.Conn, error) {
	here, there := net.Pipe()
	select {
	case b.conns <- &bridged{there, who}:
		return here, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-b.closed:
		return nil, net.ErrClosed
	}
}

// Accept implements net.Listener.
func (b *bridge) Accept() (net.Conn, error) {
	select {
	case c := <-b.conns:
		return c, nil
	case <-b.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (b *bridge) Close() error {
	b.once.Do(func() { close(b.closed) })
	return nil
}

// Addr implements net.Listener.
func (b *bridge) Addr() net.Addr { return &net.UnixAddr{Name: "inside", Net: "unix"} }

// RESTAddrs returns where REST is served over TLS, nil before Serve.
func (a *Access) RESTAddrs() []netip.AddrPort {
	if p := a.restAddrs.Load(); p != nil {
		return append([]netip.AddrPort(nil), *p...)
	}
	return nil
}
