package api

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"

	"github.com/eidolon-lisp/eidolon/internal/config"
	"github.com/eidolon-lisp/eidolon/mapping"
)

// Role is a set of what somebody may do.
type Role uint8

const (
	// RoleRead sees everything and changes nothing.
	RoleRead Role = 1 << iota
	// RoleOperate sees and changes everything.
	RoleOperate
	// RoleRegister sees and changes the mappings of some EIDs.
	RoleRegister
)

// maxToken bounds what is hashed of a stranger, in octets.
const maxToken = 512

// Access decides who may call what, and keeps the audit log. Its methods may be
// called from several goroutines.
type Access struct {
	log   *slog.Logger
	tcp   *config.APITCP // as the daemon started; nil without
	audit auditLog

	reloading sync.Mutex
	running   *config.APITCP // whose certificates are used; under reloading

	rules    atomic.Pointer[rules]
	failures failures
	// complaints bounds the lines that strangers can cause in the log.
	complaints *rate.Limiter
	// refusals bounds the lines in the audit log of what did not happen.
	refusals *rate.Limiter
	tcpRoom  *room
	unixRoom *room
	// patience is how long a stranger may hold a connection.
	patience time.Duration
	addrs    atomic.Pointer[[]netip.AddrPort]
	// restAddrs are the same for REST.
	restAddrs atomic.Pointer[[]netip.AddrPort]

	failed, handshakes, denied, limited atomic.Uint64
}

// rules are what can be replaced while the daemon runs.
type rules struct {
	users     []config.APIUser
	transport credentials.TransportCredentials // nil without TCP
	web       *tls.Config                      // the same for REST
	clientCAs *x509.CertPool
	// replaced is closed when others take their place.
	replaced chan struct{}
}

// NewAccess makes the access of a daemon and opens its audit log. log gets
// failures, and the changes when there is no file for them.
func NewAccess(cfg config.API, log *slog.Logger) (*Access, error) {
	if log == nil {
		log = discard()
	}
	a := &Access{log: log, tcp: cfg.TCP, running: cfg.TCP, complaints: rate.NewLimiter(1, 20), refusals: rate.NewLimiter(10, 100), unixRoom: &room{max: maxConnections}, patience: handshakeTime}
	a.failures.init()
	if cfg.TCP != nil {
		a.tcpRoom = &room{max: cfg.TCP.MaxConnections, each: (cfg.TCP.MaxConnections + 1) / 2}
	}
	a.rules.Store(newRules(cfg))
	a.audit.log = log
	if err := a.audit.open(cfg.AuditFile); err != nil {
		return nil, fmt.Errorf("audit_file: %w", err)
	}
	return a, nil
}

// Reload takes users, certificates and CAs from now on as cfg has them, and opens
// the audit log anew. Connections stay; a call, or a stream, whose caller may
// not make it any more ends. Where to listen, and whether, changes with a restart
// only. After an error all is as it was.
func (a *Access) Reload(cfg config.API) error {
	if err := a.audit.open(cfg.AuditFile); err != nil {
		return fmt.Errorf("audit_file: %w", err)
	}
	a.reloading.Lock()
	defer a.reloading.Unlock()
	if a.tcp == nil || cfg.TCP == nil {
		cfg.TCP = a.running
	}
	a.running = cfg.TCP
	close(a.rules.Swap(newRules(cfg)).replaced)
	return nil
}

// Addrs returns where services are served over TCP, nil before Serve.
func (a *Access) Addrs() []netip.AddrPort {
	if p := a.addrs.Load(); p != nil {
		return slices.Clone(*p)
	}
	return nil
}

// Close closes the audit log.
func (a *Access) Close() error { return a.audit.close() }

// Stats tells what was refused and how many connections there are.
func (a *Access) Stats() iter.Seq2[string, uint64] {
	return func(yield func(string, uint64) bool) {
		connections, refused := a.unixRoom.count()
		if a.tcpRoom != nil {
			n, r := a.tcpRoom.count()
			connections, refused = connections+n, refused+r
		}
		_ = yield("api_connections", connections) &&
			yield("api_connections_refused", refused) &&
			yield("api_connections_limited", a.limited.Load()) &&
			yield("api_tls_failures", a.handshakes.Load()) &&
			yield("api_authentication_failures", a.failed.Load()) &&
			yield("api_calls_denied", a.denied.Load()) &&
			yield("api_audit_lines", a.audit.lines.Load()) &&
			yield("api_audit_failures", a.audit.failures.Load())
	}
}

// accessMeanings returns the names of the counters of Access.Stats, and in words
// what each counts.
func accessMeanings() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		_ = yield("api_connections_refused", "connections to the API that were closed because there were too many") &&
			yield("api_connections_limited", "connections to the API that were closed because their address made too many that failed") &&
			yield("api_tls_failures", "connections to the API whose TLS handshake failed") &&
			yield("api_authentication_failures", "calls of the API by callers who are not known") &&
			yield("api_calls_denied", "calls of the API that their callers may not make") &&
			yield("api_audit_lines", "lines written to the audit log") &&
			yield("api_audit_failures", "lines of the audit log that could not be written")
	}
}

func newRules(cfg config.API) *rules {
	r := &rules{users: cfg.Users, replaced: make(chan struct{})}
	if cfg.TCP == nil {
		return r
	}
	c := &tls.Config{
		MinVersion:             tls.VersionTLS13,
		Certificates:           []tls.Certificate{cfg.TCP.Certificate},
		SessionTicketsDisabled: true, // who was taken out must not come back by one
	}
	if len(cfg.TCP.ClientCAs) > 0 {
		r.clientCAs = x509.NewCertPool()
		for _, ca := range cfg.TCP.ClientCAs {
			r.clientCAs.AddCert(ca)
		}
		c.ClientCAs, c.ClientAuth = r.clientCAs, tls.RequireAndVerifyClientCert
		if slices.ContainsFunc(cfg.Users, func(u config.APIUser) bool { return len(u.Tokens) > 0 }) {
			c.ClientAuth = tls.VerifyClientCertIfGiven
		}
	}
	r.transport = credentials.NewTLS(c)
	r.web = c.Clone()
	r.web.NextProtos = []string{"h2", "http/1.1"}
	return r
}

// caller is somebody who calls.
type caller struct {
	name string
	by   string // unix, certificate or token
	from string
	// roles are what it may do; eids and instances bound RoleRegister.
	roles     Role
	eids      []mapping.EID
	instances []uint32
	// expires is when its certificate does; zero for others.
	expires time.Time
}

// may reports whether the caller has a role for a method, and whether it is only
// RoleRegister, which is bounded.
func (c *caller) may(m method) (allowed, bounded bool) {
	have := c.roles & m.roles
	return have != 0 || m.open, !m.open && have == RoleRegister
}

// holds reports whether e is one of the EIDs of RoleRegister.
func (c *caller) holds(e mapping.EID) bool {
	return slices.Contains(c.instances, e.IID) || slices.ContainsFunc(c.eids, func(own mapping.EID) bool { return own.Covers(e) })
}

// proof is what a caller has shown.
type proof struct {
	token  *[sha256.Size]byte
	remote *remote
}

var errUnknown = errors.New("found neither a client certificate nor a token (authorization: Bearer ...)")

// identify returns who shows a proof.
func (r *rules) identify(p proof, now time.Time) (*caller, error) {
	if p.token != nil {
		// All are compared, whatever is found: how long it takes tells nothing.
		found := -1
		for i, u := range r.users {
			for _, t := range u.Tokens {
				if subtle.ConstantTimeCompare(t[:], p.token[:]) == 1 {
					found = i
				}
			}
		}
		if found < 0 {
			return nil, errors.New("the token is nobody's")
		}
		return r.caller(found, "token", p.remote), nil
	}
	if len(p.remote.chain) == 0 {
		return nil, errUnknown
	}
	leaf := p.remote.chain[0]
	if known := p.remote.known.Load(); known != nil && known.rules == r && now.Before(leaf.NotAfter) {
		return known.caller, nil
	}
	if r.clientCAs == nil {
		return nil, errUnknown
	}
	between := x509.NewCertPool()
	for _, c := range p.remote.chain[1:] {
		between.AddCert(c)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: r.clientCAs, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		return nil, fmt.Errorf("the client certificate: %w", err)
	}
	names := namesOf(leaf)
	for i, u := range r.users {
		if slices.ContainsFunc(u.Certificates, func(n string) bool { return slices.Contains(names, n) }) {
			c := r.caller(i, "certificate", p.remote)
			c.expires = leaf.NotAfter
			p.remote.known.Store(&identity{r, c})
			return c, nil
		}
	}
	return nil, fmt.Errorf("the client certificate, of %q, is no user's", names)
}

// namesOf returns the names in a certificate that users go by: those that it is
// an alternative name for, or, if there are none, its common name.
func namesOf(c *x509.Certificate) []string {
	names := slices.Concat(c.DNSNames, c.EmailAddresses)
	for _, u := range c.URIs {
		names = append(names, u.String())
	}
	if len(names) == 0 && len(c.IPAddresses) == 0 && c.Subject.CommonName != "" {
		names = append(names, c.Subject.CommonName)
	}
	return names
}

func (r *rules) caller(i int, by string, from *remote) *caller {
	u := r.users[i]
	c := &caller{name: u.Name, by: by, from: from.addr.String(), eids: u.EIDPrefixes, instances: u.Instances}
	if u.Read {
		c.roles |= RoleRead
	}
	if u.Operate {
		c.roles |= RoleRead | RoleOperate
	}
	if u.Register {
		c.roles |= RoleRegister
	}
	return c
}

// bearer returns the token of a call, if it has one.
func bearer(header metadata.MD) (*[sha256.Size]byte, error) {
	given := header.Get("authorization")
	if len(given) == 0 {
		return nil, nil
	}
	scheme, token, ok := strings.Cut(given[0], " ")
	if len(given) > 1 || !ok || !strings.EqualFold(scheme, "bearer") || token == "" || len(token) > maxToken {
		return nil, errors.New("the authorization is no bearer token")
	}
	sum := sha256.Sum256([]byte(token))
	return &sum, nil
}

// call is a call under way.
type call struct {
	access *Access
	name   string // of the method, without the slash in front
	rpc    method
	proof  proof // zero for one on the Unix socket
	caller atomic.Pointer[caller]
	rules  *rules // those that caller is by
	// told says that the audit log has been told of it.
	told atomic.Bool
	// denied says that a message named EIDs that are not the caller's.
	denied atomic.Bool
}

type callKey struct{}

// callOf returns the call of a context, nil in one of no call.
func callOf(ctx context.Context) *call {
	c, _ := ctx.Value(callKey{}).(*call)
	return c
}

// admit is where each call begins, before anything of its messages is read: it
// finds out who calls, and whether that one may call this at all.
func (a *Access) admit(ctx context.Context, info *tap.Info) (context.Context, error) {
	c := &call{access: a, name: strings.TrimPrefix(info.FullMethodName, "/"), rules: a.rules.Load()}
	p, _ := peer.FromContext(ctx)
	if p == nil {
		return ctx, status.Error(codes.Internal, "a call from nowhere")
	}
	switch from := p.AuthInfo.(type) {
	case PeerInfo:
		c.caller.Store(&caller{name: fmt.Sprintf("uid %d", from.UID), by: "unix", from: fmt.Sprintf("pid %d", from.PID), roles: RoleRead | RoleOperate})
	case *remote:
		who, err := c.identify(from, info.Header)
		if err != nil {
			a.fail(from, err)
			return ctx, status.Error(codes.Unauthenticated, err.Error())
		}
		from.authenticated()
		c.caller.Store(who)
	default:
		return ctx, status.Errorf(codes.Unauthenticated, "nothing is known of a peer of type %T", from)
	}
	m, ok := methods[info.FullMethodName]
	if !ok {
		return ctx, status.Errorf(codes.Unimplemented, "unknown method %s", c.name)
	}
	c.rpc = m
	if err := c.permitted(c.caller.Load()); err != nil {
		a.denied.Add(1)
		c.refused(err, "")
		return ctx, err
	}
	return context.WithValue(ctx, callKey{}, c), nil
}

func (c *call) identify(from *remote, header metadata.MD) (*caller, error) {
	token, err := bearer(header)
	if err != nil {
		return nil, err
	}
	c.proof = proof{token, from}
	return c.rules.identify(c.proof, time.Now())
}

func (c *call) permitted(who *caller) error {
	if ok, _ := who.may(c.rpc); !ok {
		return status.Errorf(codes.PermissionDenied, "user %s may not call %s", who.name, c.name)
	}
	return nil
}

// check says whether the EIDs of a message are the caller's to name.
func (c *call) check(message any) error {
	who := c.caller.Load()
	if _, bounded := who.may(c.rpc); !bounded {
		return nil
	}
	for field, text := range c.rpc.eids(message) {
		if text == "" {
			return c.deny(message, notPermitted(field, who.name, "", fmt.Sprintf("user %s may not name all EIDs", who.name)))
		}
		e, ferr := eidFromProto(field, text)
		if ferr != nil {
			return invalid(ferr)
		}
		if !who.holds(e) {
			return c.deny(message, notPermitted(field, who.name, e.String(), fmt.Sprintf("%v is none of the EIDs of user %s", e, who.name)))
		}
	}
	return nil
}

func (c *call) deny(message any, err error) error {
	c.access.denied.Add(1)
	c.denied.Store(true)
	c.refused(err, c.summary(message))
	return err
}

// unary has the calls with one message each way checked, and audited if they
// change something.
func (a *Access) unary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	c := callOf(ctx)
	if c == nil {
		return nil, status.Error(codes.PermissionDenied, "a call of nobody")
	}
	if err := c.check(req); err != nil {
		return nil, err
	}
	resp, err := handler(ctx, req)
	c.ended(req, err)
	return resp, err
}

// stream is unary for the others.
func (a *Access) stream(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	c := callOf(ss.Context())
	if c == nil {
		return status.Error(codes.PermissionDenied, "a call of nobody")
	}
	ctx, cancel := context.WithCancelCause(ss.Context())
	var watching sync.WaitGroup
	defer watching.Wait()
	defer cancel(nil)
	if c.proof.remote != nil {
		watching.Go(func() { c.watch(ctx, cancel) })
	}
	s := &checkedStream{servedStream: servedStream{ss, ctx}, call: c}
	err := handler(srv, s)
	if why := context.Cause(ctx); why != nil && status.Code(why) != codes.Unknown {
		err = why // of watch
	}
	c.ended(s.last, err)
	return err
}

// watch ends a stream whose caller is not allowed it any more.
func (c *call) watch(ctx context.Context, cancel context.CancelCauseFunc) {
	for {
		var expired <-chan time.Time
		if t := c.caller.Load().expires; !t.IsZero() {
			timer := time.NewTimer(time.Until(t))
			defer timer.Stop()
			expired = timer.C
		}
		select {
		case <-ctx.Done():
			return
		case <-expired:
		case <-c.rules.replaced:
		}
		c.rules = c.access.rules.Load()
		who, err := c.rules.identify(c.proof, time.Now())
		if err == nil {
			err = c.permitted(who)
		} else {
			err = status.Error(codes.Unauthenticated, err.Error())
		}
		if err != nil {
			cancel(err)
			return
		}
		c.caller.Store(who)
	}
}

// checkedStream is a stream each of whose messages is checked.
type checkedStream struct {
	servedStream
	call *call
	last any // message; of the goroutine that receives
}

// RecvMsg implements grpc.ServerStream.
func (s *checkedStream) RecvMsg(m any) error {
	if err := s.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	if err := context.Cause(s.ctx); err != nil {
		return err
	}
	s.last = m
	return s.call.check(m)
}

// fail notes that somebody from a remote address was not who it should be.
func (a *Access) fail(from *remote, why error) {
	a.failed.Add(1)
	a.complain("API authentication failed", from.addr.Addr(), why)
	if a.failures.add(from.addr.Addr(), time.Now()) {
		from.conn.Close()
	}
}

// complain logs what strangers do, as far as they are not too many.
func (a *Access) complain(message string, from netip.Addr, why error) {
	if a.complaints.Allow() {
		a.log.Warn(message, "from", from, "err", why)
	}
}
