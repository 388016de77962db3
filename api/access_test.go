package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	eidolonv1 "github.com/eidolon-lisp/eidolon/api/proto/eidolon/v1"
	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/internal/config"
	"github.com/eidolon-lisp/eidolon/internal/testca"
	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/server"
	"github.com/eidolon-lisp/eidolon/mapping/xtr"
)

// secure is a server on a real TCP socket with TLS, and on a Unix socket.
type secure struct {
	t      *testing.T
	cfg    config.API
	ca     *testca.CA
	access *Access
	addr   netip.AddrPort
	socket string
	audit  string
	db     *fakeDatabase
	xtr    *fakeXTR
	log    syncBuffer
	// patience with strangers; 0 is the usual.
	patience time.Duration
}

// syncBuffer is a buffer that is read while others write.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

const (
	readToken     = "a token of somebody who reads"
	operateToken  = "a token of somebody who operates"
	registerToken = "a token of somebody who registers"
)

func hashed(token string) [][sha256.Size]byte {
	return [][sha256.Size]byte{sha256.Sum256([]byte(token))}
}

func newCA(t *testing.T) *testca.CA {
	t.Helper()
	ca, err := testca.New("the CA")
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func issue(t *testing.T, ca *testca.CA, name string, use x509.ExtKeyUsage, edit func(*x509.Certificate)) tls.Certificate {
	t.Helper()
	c, err := ca.Issue(name, use, edit)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// serveSecure serves all services to a user of each role, which have tokens and
// certificates with their names; edit may change what is configured.
func serveSecure(t *testing.T, edit func(*secure)) *secure {
	t.Helper()
	s := &secure{t: t, ca: newCA(t), db: newDatabase(), xtr: &fakeXTR{locals: []xtr.LocalLocator{{Addr: netip.MustParseAddr("192.0.2.1"), Uplink: "eth2", Priority: 1, Weight: 100}}}}
	dir := t.TempDir()
	s.socket, s.audit = filepath.Join(dir, "api.sock"), filepath.Join(dir, "log", "audit.log")
	s.cfg = config.API{
		AuditFile: s.audit,
		TCP: &config.APITCP{Listen: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")}, MaxConnections: 32,
			Certificate: issue(t, s.ca, "daemon.example", x509.ExtKeyUsageServerAuth, nil), ClientCAs: []*x509.Certificate{s.ca.Certificate}},
		Users: []config.APIUser{
			{Name: "reader", Read: true, Certificates: []string{"reader.example"}, Tokens: hashed(readToken)},
			{Name: "operator", Operate: true, Certificates: []string{"operator.example"}, Tokens: hashed(operateToken)},
			{Name: "fabric", Register: true, Certificates: []string{"fabric.example"}, Tokens: hashed(registerToken),
				EIDPrefixes: []mapping.EID{mapping.MustParseEID("10.1.0.0/16")}, Instances: []uint32{7}},
		},
	}
	if edit != nil {
		edit(s)
	}
	log := slog.New(slog.NewTextHandler(&s.log, nil))
	var err error
	if s.access, err = NewAccess(s.cfg, log); err != nil {
		t.Fatal(err)
	}
	if s.patience != 0 {
		s.access.patience = s.patience
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- Serve(ctx, Config{Socket: s.socket, Access: s.access, Logger: log},
			Controlled("test", Controls{Reload: func() (Reloaded, error) {
				return Reloaded{Changed: []string{"listen", "sites"}, Restart: []string{"listen"}, Differences: []config.Difference{
					{Key: "listen", Before: "192.0.2.10", After: "192.0.2.11", Restart: true}, {Key: "sites[b]", Before: "{name: b}"}}}, nil
			}, Logs: new(someLogs)}), Mappings(s.db), Sites(s.db), Router(s.xtr, dataplane.NewFIB()), Traces(dataplane.NewFIB(), false), BGP(nil), ALT(nil))
	}()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-done, s.access.Close()); err != nil {
			t.Error(err)
		}
	})
	waitFor(t, s.socket)
	for s.access.Addrs() == nil {
		time.Sleep(time.Millisecond)
	}
	s.addr = s.access.Addrs()[0]
	return s
}

// bearerToken is a token on each call.
type bearerToken string

func (t bearerToken) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(t)}, nil
}
func (bearerToken) RequireTransportSecurity() bool { return true }

// dial connects with a certificate, a token, both or neither.
func (s *secure) dial(cert *tls.Certificate, token string) *grpc.ClientConn {
	s.t.Helper()
	c := &tls.Config{RootCAs: x509.NewCertPool()}
	c.RootCAs.AddCert(s.ca.Certificate)
	if cert != nil {
		// Whatever CAs the server names.
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	opts := []grpc.DialOption{grpc.WithTransportCredentials(credentials.NewTLS(c))}
	if token != "" {
		opts = append(opts, grpc.WithPerRPCCredentials(bearerToken(token)))
	}
	conn, err := grpc.NewClient(s.addr.String(), opts...)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { conn.Close() })
	return conn
}

func (s *secure) client(name string) *tls.Certificate {
	s.t.Helper()
	c := issue(s.t, s.ca, name, x509.ExtKeyUsageClientAuth, nil)
	return &c
}

func ask(t *testing.T, conn *grpc.ClientConn) error {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, err := eidolonv1.NewAdminServiceClient(conn).GetVersion(ctx, &eidolonv1.GetVersionRequest{})
	return err
}

func (s *secure) stat(name string) uint64 {
	for n, v := range s.access.Stats() {
		if n == name {
			return v
		}
	}
	s.t.Fatalf("there is no statistic %s", name)
	return 0
}

// lines returns the audit log.
func (s *secure) lines(path string) (list []auditLine) {
	s.t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, text := range strings.Split(strings.TrimSuffix(string(b), "\n"), "\n") {
		var e auditLine
		if err := json.Unmarshal([]byte(text), &e); err != nil {
			s.t.Fatalf("%v in %q", err, text)
		}
		list = append(list, e)
	}
	return list
}

// allMethods walks every method of every service that is served, and every one
// that the protocol has.
func allMethods(t *testing.T) map[string]protoreflect.MethodDescriptor {
	t.Helper()
	s := grpc.NewServer()
	for _, service := range []Service{Admin(""), Mappings(nil), Sites(nil), Router(nil, nil), Traces(nil, false), BGP(nil), ALT(nil)} {
		service.register(s)
	}
	all := make(map[string]protoreflect.MethodDescriptor)
	add := func(sd protoreflect.ServiceDescriptor) {
		for i := range sd.Methods().Len() {
			m := sd.Methods().Get(i)
			all[fmt.Sprintf("/%s/%s", sd.FullName(), m.Name())] = m
		}
	}
	protoregistry.GlobalFiles.RangeFilesByPackage("eidolon.v1", func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			add(f.Services().Get(i))
		}
		return true
	})
	for name := range s.GetServiceInfo() {
		if !strings.HasPrefix(name, "eidolon.v1.") {
			t.Errorf("%s is a service of an unknown package", name)
		}
	}
	for _, name := range []protoreflect.FullName{"grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"} {
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(name)
		if err != nil {
			t.Fatal(err)
		}
		add(d.(protoreflect.ServiceDescriptor))
	}
	return all
}

// TestEveryMethodIsDeclared: there is no method without a role, and none that is
// declared and not there. What reads changes nothing, by its name, and what
// changes something says so.
func TestEveryMethodIsDeclared(t *testing.T) {
	all := allMethods(t)
	for name, d := range all {
		m := methods[name]
		if !m.declared() {
			t.Errorf("no role is declared for %s", name)
		}
		reads := slices.ContainsFunc([]string{"Get", "List", "Page", "Lookup", "Explain", "Monitor", "Watch", "Trace", "Diff", "Check", "ServerReflection"}, func(p string) bool {
			return strings.HasPrefix(string(d.Name()), p)
		})
		if m.changes == reads {
			t.Errorf("%s: changes %v", name, m.changes)
		}
		if m.changes && (m.open || m.roles&RoleRead != 0) {
			t.Errorf("%s changes something, and who reads may call it", name)
		}
		if !m.open && m.roles&RoleOperate == 0 && m.roles&RoleRead == 0 {
			t.Errorf("%s may not be called by an operator", name)
		}
		if m.roles&RoleRegister != 0 && m.eids == nil {
			t.Errorf("%s may be called by who registers, whatever its EIDs", name)
		}
	}
	for name := range methods {
		if all[name] == nil {
			t.Errorf("%s is declared, and is not there", name)
		}
	}
	// Serve refuses a service with a method that is not declared.
	err := undeclared(map[string]grpc.ServiceInfo{"eidolon.v1.NewService": {Methods: []grpc.MethodInfo{{Name: "Explode"}}}})
	if err == nil || !strings.Contains(err.Error(), "/eidolon.v1.NewService/Explode") {
		t.Errorf("a method without a role: %v", err)
	}
	// The EIDs of a message of another type are all EIDs.
	for _, e := range methods[eidolonv1.MappingService_PutMappings_FullMethodName].eids(&eidolonv1.GetMappingRequest{Eid: "10.1.0.0/16"}) {
		if e != "" {
			t.Errorf("a message of another type names %q", e)
		}
	}
}

// invoke calls any method with an empty message.
func invoke(t *testing.T, conn *grpc.ClientConn, name string, d protoreflect.MethodDescriptor) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: d.IsStreamingServer(), ClientStreams: d.IsStreamingClient()}, name)
	if err != nil {
		return err
	}
	if err := stream.SendMsg(dynamicpb.NewMessage(d.Input())); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	if err := stream.RecvMsg(dynamicpb.NewMessage(d.Output())); !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

// TestRoles calls every method as a user of each role, by certificate and by
// token, over TLS, and as nobody.
func TestRoles(t *testing.T) {
	s := serveSecure(t, nil)
	users := []struct {
		role Role
		conn *grpc.ClientConn
	}{
		{RoleRead, s.dial(s.client("reader.example"), "")},
		{RoleRead, s.dial(nil, readToken)},
		{RoleRead | RoleOperate, s.dial(s.client("operator.example"), "")},
		{RoleRead | RoleOperate, s.dial(nil, operateToken)},
		{RoleRegister, s.dial(s.client("fabric.example"), "")},
		{RoleRegister, s.dial(nil, registerToken)},
	}
	local := dial(t, s.socket)
	for name, d := range allMethods(t) {
		m := methods[name]
		for _, u := range users {
			allowed := m.open || u.role&m.roles != 0
			if u.role == RoleRegister && !m.changes && !m.open {
				allowed = false // an empty message names all EIDs
			}
			err := invoke(t, u.conn, name, d)
			if code := status.Code(err); allowed == (code == codes.PermissionDenied) || code == codes.Unauthenticated || code == codes.Unavailable {
				t.Errorf("%s with roles %b: %v, allowed %v", name, u.role, err, allowed)
			}
		}
		if code := status.Code(invoke(t, local, name, d)); code == codes.PermissionDenied || code == codes.Unauthenticated {
			t.Errorf("%s on the Unix socket: %v", name, code)
		}
	}
	// A method that is not there is not there for anybody.
	err := users[2].conn.Invoke(t.Context(), "/eidolon.v1.AdminService/Explode", &eidolonv1.GetVersionRequest{}, &eidolonv1.GetVersionResponse{})
	wantCode(t, err, codes.Unimplemented, "Explode")
}

// TestNobody: whoever can't say who it is calls nothing, not even what is open.
func TestNobody(t *testing.T) {
	s := serveSecure(t, nil)
	other := newCA(t)
	cert := func(ca *testca.CA, name string, use x509.ExtKeyUsage, edit func(*x509.Certificate)) *tls.Certificate {
		c := issue(t, ca, name, use, edit)
		return &c
	}
	for _, c := range []struct {
		what  string
		cert  *tls.Certificate
		token string
		code  codes.Code
		text  string
	}{
		{"a certificate", s.client("reader.example"), "", codes.OK, ""},
		{"a token", nil, readToken, codes.OK, ""},
		{"nothing", nil, "", codes.Unauthenticated, "neither a client certificate nor a token"},
		{"a wrong token", nil, readToken + "!", codes.Unauthenticated, "nobody's"},
		{"the hash of a token", nil, fmt.Sprintf("%x", sha256.Sum256([]byte(readToken))), codes.Unauthenticated, "nobody's"},
		{"a certificate, and a wrong token", s.client("reader.example"), "x", codes.Unauthenticated, "nobody's"},
		{"a token that is too long", nil, strings.Repeat("x", maxToken+1), codes.Unauthenticated, "no bearer token"},
		{"a certificate of another CA", cert(other, "reader.example", x509.ExtKeyUsageClientAuth, nil), "", codes.Unavailable, ""},
		{"a certificate of another CA, and a token", cert(other, "reader.example", x509.ExtKeyUsageClientAuth, nil), readToken, codes.Unavailable, ""},
		{"a certificate that expired", cert(s.ca, "reader.example", x509.ExtKeyUsageClientAuth, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) }), "", codes.Unavailable, ""},
		{"a certificate that is not valid yet", cert(s.ca, "reader.example", x509.ExtKeyUsageClientAuth, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }), "", codes.Unavailable, ""},
		{"a certificate of a server", cert(s.ca, "reader.example", x509.ExtKeyUsageServerAuth, nil), "", codes.Unavailable, ""},
		{"a certificate of no user", s.client("stranger.example"), "", codes.Unauthenticated, "no user's"},
		{"the name of a user beside other names", cert(s.ca, "reader.example", x509.ExtKeyUsageClientAuth, func(c *x509.Certificate) { c.DNSNames = []string{"stranger.example"} }), "", codes.Unauthenticated, "no user's"},
	} {
		conn := s.dial(c.cert, c.token)
		err := ask(t, conn)
		conn.Close() // or it would try again, and fail once more
		if status.Code(err) != c.code || err != nil && !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: got %v, want %v and %q", c.what, err, c.code, c.text)
		}
	}
	// A second authorization, and one that is none.
	conn := s.dial(s.client("reader.example"), "")
	for _, given := range [][]string{{"authorization", "Bearer " + readToken, "authorization", "Bearer x"}, {"authorization", "Basic " + readToken}, {"authorization", "Bearer"}} {
		_, err := eidolonv1.NewAdminServiceClient(conn).GetVersion(metadata.AppendToOutgoingContext(t.Context(), given...), &eidolonv1.GetVersionRequest{})
		wantCode(t, err, codes.Unauthenticated, "no bearer token")
	}
	if n := s.stat("api_authentication_failures"); n != 10 {
		t.Errorf("%d failures of authentication are counted", n)
	}
	if n := s.stat("api_tls_failures"); n < 4 {
		t.Errorf("%d failures of TLS are counted", n)
	}
	for _, secret := range []string{readToken, fmt.Sprintf("%x", sha256.Sum256([]byte(readToken)))} {
		if strings.Contains(s.log.String(), secret) {
			t.Errorf("the log has %q", secret)
		}
	}
}

// TestOpenIsForUsers: health and reflection are not for nobody.
func TestOpenIsForUsers(t *testing.T) {
	s := serveSecure(t, nil)
	all := allMethods(t)
	conn := s.dial(nil, "")
	for name, m := range methods {
		if m.open {
			wantCode(t, invoke(t, conn, name, all[name]), codes.Unauthenticated, "neither")
		}
	}
}

// TestTransport: TLS 1.3 or nothing.
func TestTransport(t *testing.T) {
	s := serveSecure(t, nil)
	plain, err := grpc.NewClient(s.addr.String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	wantCode(t, ask(t, plain), codes.Unavailable, "")
	roots := x509.NewCertPool()
	roots.AddCert(s.ca.Certificate)
	old, err := tls.Dial("tcp", s.addr.String(), &tls.Config{RootCAs: roots, MaxVersion: tls.VersionTLS12, NextProtos: []string{"h2"}})
	if err == nil {
		old.Close()
		t.Error("TLS 1.2 is spoken")
	}
	// Where users have certificates only, nobody without one gets as far as a call.
	certain := serveSecure(t, func(s *secure) {
		for i := range s.cfg.Users {
			s.cfg.Users[i].Tokens = nil
		}
	})
	wantCode(t, ask(t, certain.dial(nil, readToken)), codes.Unavailable, "")
	if err := ask(t, certain.dial(certain.client("reader.example"), "")); err != nil {
		t.Error(err)
	}
	// And where they have tokens only, certificates are not asked for.
	tokens := serveSecure(t, func(s *secure) { s.cfg.TCP.ClientCAs = nil })
	if err := ask(t, tokens.dial(nil, readToken)); err != nil {
		t.Error(err)
	}
	wantCode(t, ask(t, tokens.dial(tokens.client("reader.example"), "")), codes.Unauthenticated, "")
}

// TestRegisterIsBounded: who registers some EIDs reads and changes those, and a
// message with one that is not among them changes nothing.
func TestRegisterIsBounded(t *testing.T) {
	s := serveSecure(t, nil)
	theirs := mapping.MustParseEID("10.2.0.0/16")
	if _, err := s.db.Batch(t.Context(), []server.Op{{Record: mapping.NegativeRecord(theirs, mapping.Drop, 60)}}); err != nil {
		t.Fatal(err)
	}
	c := eidolonv1.NewMappingServiceClient(s.dial(nil, registerToken))
	ctx := t.Context()
	put := func(eids ...string) error {
		req := new(eidolonv1.PutMappingsRequest)
		for _, e := range eids {
			req.Records = append(req.Records, rec(e, "192.0.2.1"))
		}
		_, err := c.PutMappings(ctx, req)
		return err
	}
	for _, e := range []string{"10.1.0.0/16", "10.1.2.0/24", "[7]2001:db8::/32", "[7]0.0.0.0/0", "10.1.0.0/16 from 192.0.2.0/24"} {
		if err := put(e); err != nil {
			t.Errorf("put %s: %v", e, err)
		}
		if _, err := c.GetMapping(ctx, &eidolonv1.GetMappingRequest{Eid: e}); err != nil {
			t.Errorf("get %s: %v", e, err)
		}
	}
	list := func(within string) error {
		stream, err := c.ListMappings(ctx, &eidolonv1.ListMappingsRequest{Within: within})
		if err == nil {
			_, err = stream.Recv()
		}
		return err
	}
	if err := list("10.1.0.0/16"); err != nil {
		t.Errorf("list: %v", err)
	}
	for _, e := range []string{"10.2.0.0/16", "10.0.0.0/8", "10.2.0.0/16 from 10.1.0.0/16", "0.0.0.0/0", "[8]10.1.0.0/16", "2001:db8::/32", ""} {
		wantNotPermitted(t, put("10.1.3.0/24", e), "records[1].eid")
		_, err := c.GetMapping(ctx, &eidolonv1.GetMappingRequest{Eid: e})
		wantNotPermitted(t, err, "eid")
		wantNotPermitted(t, list(e), "within")
		_, err = c.DeleteMappings(ctx, &eidolonv1.DeleteMappingsRequest{Eids: []string{"10.1.2.0/24", e}})
		wantNotPermitted(t, err, "eids[1]")
		_, err = c.BatchMappings(ctx, &eidolonv1.BatchMappingsRequest{Operations: []*eidolonv1.MappingOperation{
			{Operation: &eidolonv1.MappingOperation_Put{Put: rec("10.1.3.0/24", "192.0.2.1")}},
			{Operation: &eidolonv1.MappingOperation_Put{Put: rec(e, "192.0.2.1")}},
		}})
		wantNotPermitted(t, err, "operations[1].put.eid")
		_, err = c.BatchMappings(ctx, &eidolonv1.BatchMappingsRequest{Operations: []*eidolonv1.MappingOperation{{Operation: &eidolonv1.MappingOperation_Delete{Delete: e}}}})
		wantNotPermitted(t, err, "operations[0].delete")
		_, err = c.PageMappings(ctx, &eidolonv1.PageMappingsRequest{Within: e})
		wantNotPermitted(t, err, "within")
		_, err = c.PageMappings(ctx, &eidolonv1.PageMappingsRequest{Covering: "10.1.2.0/24"})
		wantNotPermitted(t, err, "within")
		watch, err := c.WatchMappings(ctx, &eidolonv1.WatchMappingsRequest{Within: e})
		if err == nil {
			_, err = watch.Recv()
		}
		wantNotPermitted(t, err, "within")
	}
	if page, err := c.PageMappings(ctx, &eidolonv1.PageMappingsRequest{Within: "10.1.0.0/16"}); err != nil || len(page.GetMappings()) != 3 {
		t.Errorf("page: %v, %v", page, err)
	}
	if _, err := c.BatchMappings(ctx, &eidolonv1.BatchMappingsRequest{Operations: []*eidolonv1.MappingOperation{
		{Operation: &eidolonv1.MappingOperation_Put{Put: rec("10.1.4.0/24", "192.0.2.1")}},
	}}); err != nil {
		t.Errorf("batch: %v", err)
	}
	wantField(t, put("10.1.0.0/33"), "records[0].eid")
	if _, ok := s.db.APIMapping(mapping.MustParseEID("10.1.3.0/24")); ok {
		t.Error("a refused message has changed something")
	}
	if _, ok := s.db.APIMapping(theirs); !ok {
		t.Error("a mapping of others is gone")
	}
	// Each message of an import is looked at, the later ones too.
	stream, err := c.ImportMappings(ctx)
	if err != nil {
		t.Fatal(err)
	}
	send := func(e string) error {
		if err := stream.Send(&eidolonv1.ImportMappingsRequest{Records: []*eidolonv1.Record{rec(e, "192.0.2.9")}}); err != nil {
			return err
		}
		_, err := stream.Recv()
		return err
	}
	if err := send("10.1.9.0/24"); err != nil {
		t.Error(err)
	}
	wantNotPermitted(t, send("10.2.9.0/24"), "records[0].eid")
	if _, ok := s.db.APIMapping(mapping.MustParseEID("10.2.9.0/24")); ok {
		t.Error("an import has put a mapping of others")
	}
	if _, err := c.DeleteMappings(ctx, &eidolonv1.DeleteMappingsRequest{Eids: []string{"10.1.2.0/24"}}); err != nil {
		t.Error(err)
	}
	if n := s.stat("api_calls_denied"); n < 24 {
		t.Errorf("%d denied calls are counted", n)
	}
}

// wantNotPermitted checks that an error names the field with an EID of others.
func wantNotPermitted(t *testing.T, err error, field string) {
	t.Helper()
	wantCode(t, err, codes.PermissionDenied, field+": ")
	var named, reason bool
	for _, d := range status.Convert(err).Details() {
		switch d := d.(type) {
		case *errdetails.BadRequest:
			named = len(d.FieldViolations) == 1 && d.FieldViolations[0].Field == field
		case *errdetails.ErrorInfo:
			reason = d.Reason == "EID_NOT_PERMITTED" && d.Domain == "eidolon" && d.Metadata["user"] == "fabric"
		}
	}
	if !named || !reason {
		t.Errorf("the details of %v do not name %s", err, field)
	}
}

// TestAudit reads who changed what, and what it was before.
func TestAudit(t *testing.T) {
	s := serveSecure(t, nil)
	ctx := t.Context()
	c := eidolonv1.NewMappingServiceClient(s.dial(nil, registerToken))
	put := func(e, locator string) error {
		_, err := c.PutMappings(ctx, &eidolonv1.PutMappingsRequest{Records: []*eidolonv1.Record{rec(e, locator)}})
		return err
	}
	for _, locator := range []string{"192.0.2.1", "192.0.2.2", "192.0.2.2"} { // the last changes nothing
		if err := put("10.1.0.0/16", locator); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.DeleteMappings(ctx, &eidolonv1.DeleteMappingsRequest{Eids: []string{"10.1.0.0/16"}}); err != nil {
		t.Fatal(err)
	}
	wantCode(t, put("10.2.0.0/16", "192.0.2.1"), codes.PermissionDenied, "")
	s.db.mu.Lock()
	s.db.err = errors.New("the disk is full")
	s.db.mu.Unlock()
	wantCode(t, put("10.1.0.0/16", "192.0.2.1"), codes.Internal, "disk")
	router := eidolonv1.NewRouterServiceClient(s.dial(s.client("operator.example"), ""))
	if _, err := router.SetLocator(ctx, &eidolonv1.SetLocatorRequest{Locator: "eth2", Priority: proto.Uint32(9)}); err != nil {
		t.Fatal(err)
	}
	wantRefused := eidolonv1.NewRouterServiceClient(s.dial(nil, readToken))
	_, err := wantRefused.DrainLocator(ctx, &eidolonv1.DrainLocatorRequest{Locator: "eth2"})
	wantCode(t, err, codes.PermissionDenied, "user reader may not call")
	local := eidolonv1.NewRouterServiceClient(dial(t, s.socket))
	if _, err := local.DrainLocator(ctx, &eidolonv1.DrainLocatorRequest{Locator: "192.0.2.1"}); err != nil {
		t.Fatal(err)
	}
	if _, err := local.ClearMapCache(ctx, &eidolonv1.ClearMapCacheRequest{Within: "10.0.0.0/8"}); err != nil {
		t.Fatal(err)
	}
	if _, err := local.ListLocalLocators(ctx, &eidolonv1.ListLocalLocatorsRequest{}); err != nil { // changes nothing
		t.Fatal(err)
	}
	admin := eidolonv1.NewAdminServiceClient(s.dial(nil, operateToken))
	if _, err := admin.SetLogLevel(ctx, &eidolonv1.SetLogLevelRequest{Level: eidolonv1.LogLevel_LOG_LEVEL_DEBUG}); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.SetLogLevel(ctx, &eidolonv1.SetLogLevelRequest{Subsystem: "api", Level: eidolonv1.LogLevel_LOG_LEVEL_WARN}); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.Reload(ctx, &eidolonv1.ReloadRequest{}); err != nil {
		t.Fatal(err)
	}
	traced, stop := context.WithCancel(ctx)
	trace, err := eidolonv1.NewTraceServiceClient(s.dial(nil, operateToken)).TraceFlow(traced, &eidolonv1.TraceFlowRequest{Destination: "10.2.0.1", Source: "10.1.0.1"})
	if err == nil {
		_, err = trace.Recv()
	}
	if stop(); err != nil {
		t.Fatal(err)
	}

	record := func(locator string) string {
		return `{"eid":"10.1.0.0/16","record_ttl":1440,"locators":[{"address":"` + locator + `","priority":1,"weight":100,"multicast_priority":255,"reachable":true}]}`
	}
	mine, me := fmt.Sprintf("uid %d", os.Geteuid()), fmt.Sprintf("pid %d", os.Getpid())
	want := []auditLine{
		{Who: "fabric", By: "token", Method: "eidolon.v1.MappingService/PutMappings", What: "10.1.0.0/16", Before: json.RawMessage("null"), After: json.RawMessage(record("192.0.2.1")), Result: "OK"},
		{Who: "fabric", By: "token", Method: "eidolon.v1.MappingService/PutMappings", What: "10.1.0.0/16", Before: json.RawMessage(record("192.0.2.1")), After: json.RawMessage(record("192.0.2.2")), Result: "OK"},
		{Who: "fabric", By: "token", Method: "eidolon.v1.MappingService/DeleteMappings", What: "10.1.0.0/16", Before: json.RawMessage(record("192.0.2.2")), After: json.RawMessage("null"), Result: "OK"},
		{Who: "fabric", By: "token", Method: "eidolon.v1.MappingService/PutMappings", What: "10.2.0.0/16", Before: json.RawMessage("null"), After: json.RawMessage("null"), Result: "PermissionDenied", Detail: "records[0].eid: 10.2.0.0/16 is none of the EIDs of user fabric"},
		{Who: "fabric", By: "token", Method: "eidolon.v1.MappingService/PutMappings", What: "10.1.0.0/16", Before: json.RawMessage("null"), After: json.RawMessage("null"), Result: "Internal", Detail: "put mappings: the disk is full"},
		{Who: "operator", By: "certificate", Method: "eidolon.v1.RouterService/SetLocator", What: "locator eth2", Before: json.RawMessage(`[{"address":"192.0.2.1","drained":false,"priority":null,"weight":null}]`), After: json.RawMessage(`[{"address":"192.0.2.1","drained":false,"priority":9,"weight":null}]`), Result: "OK"},
		{Who: "reader", By: "token", Method: "eidolon.v1.RouterService/DrainLocator", Before: json.RawMessage("null"), After: json.RawMessage("null"), Result: "PermissionDenied", Detail: "user reader may not call eidolon.v1.RouterService/DrainLocator"},
		{Who: mine, By: "unix", From: me, Method: "eidolon.v1.RouterService/DrainLocator", What: "locator 192.0.2.1", Before: json.RawMessage(`[{"address":"192.0.2.1","drained":false,"priority":9,"weight":null}]`), After: json.RawMessage(`[{"address":"192.0.2.1","drained":true,"priority":9,"weight":null}]`), Result: "OK"},
		{Who: mine, By: "unix", From: me, Method: "eidolon.v1.RouterService/ClearMapCache", What: "map-cache within 10.0.0.0/8", Before: json.RawMessage(`{"entries":0}`), After: json.RawMessage(`{"entries":0}`), Result: "OK"},
		{Who: "operator", By: "token", Method: "eidolon.v1.AdminService/SetLogLevel", What: "log levels", Before: json.RawMessage(`{"api":"info","server":"info"}`), After: json.RawMessage(`{"api":"debug","server":"debug"}`), Result: "OK"},
		{Who: "operator", By: "token", Method: "eidolon.v1.AdminService/SetLogLevel", What: "log levels", Before: json.RawMessage(`{"api":"debug"}`), After: json.RawMessage(`{"api":"warn"}`), Result: "OK"},
		{Who: "operator", By: "token", Method: "eidolon.v1.AdminService/Reload", What: "configuration", Before: json.RawMessage(`{"listen":"192.0.2.10","sites[b]":"{name: b}"}`),
			After: json.RawMessage(`{"changed":["listen","sites"],"restart_keys":["listen"],"values":{"listen":"192.0.2.11","sites[b]":null}}`), Result: "OK"},
		{Who: "operator", By: "token", Method: "eidolon.v1.TraceService/TraceFlow", What: "packets of hosts", Before: json.RawMessage("null"), After: json.RawMessage(`{"destination":"10.2.0.1","source":"10.1.0.1"}`), Result: "OK"},
	}
	got := s.lines(s.audit)
	for i, e := range got {
		if when, err := time.Parse(time.RFC3339Nano, e.Time); err != nil || time.Since(when) > time.Minute || !strings.HasSuffix(e.Time, "Z") {
			t.Errorf("line %d is of %q", i, e.Time)
		}
		if from, err := netip.ParseAddrPort(e.From); e.By != "unix" && (err != nil || from.Addr() != s.addr.Addr()) {
			t.Errorf("line %d is from %q", i, e.From)
		}
		e.Time = ""
		if e.By != "unix" {
			e.From = ""
		}
		have, _ := json.Marshal(e)
		if i >= len(want) {
			t.Errorf("line %d too many: %s", i, have)
			continue
		}
		if expected, _ := json.Marshal(want[i]); !bytes.Equal(have, expected) {
			t.Errorf("line %d\n%s, want\n%s", i, have, expected)
		}
	}
	if len(got) < len(want) {
		t.Errorf("%d lines, want %d", len(got), len(want))
	}
	if b, err := os.ReadFile(s.audit); err != nil || bytes.Contains(b, []byte(registerToken)) || bytes.Contains(b, []byte("Bearer")) {
		t.Errorf("the audit log has a token: %v", err)
	}
	if info, err := os.Stat(s.audit); err != nil || info.Mode().Perm()&0o007 != 0 {
		t.Errorf("the mode of the audit log: %v, %v", info.Mode(), err)
	}

	// Rotated: renamed, then opened anew.
	if err := os.Rename(s.audit, s.audit+".1"); err != nil {
		t.Fatal(err)
	}
	drain := func() {
		t.Helper()
		if _, err := local.UndrainLocator(ctx, &eidolonv1.UndrainLocatorRequest{Locator: "192.0.2.1"}); err != nil {
			t.Fatal(err)
		}
	}
	drain()
	if err := s.access.Reload(s.cfg); err != nil {
		t.Fatal(err)
	}
	drain()
	if old, fresh := s.lines(s.audit+".1"), s.lines(s.audit); len(old) != len(want)+1 || len(fresh) != 1 {
		t.Errorf("%d lines in the old file, %d in the new one", len(old), len(fresh))
	}
	if n := s.stat("api_audit_lines"); n != uint64(len(want)+2) {
		t.Errorf("%d lines are counted", n)
	}
	// A file that can't be opened leaves the one that is.
	broken := s.cfg
	broken.AuditFile = filepath.Join(s.audit, "not-a-directory")
	if err := s.access.Reload(broken); err == nil || !strings.Contains(err.Error(), "audit_file") {
		t.Errorf("a file that can't be: %v", err)
	}
	drain()
	if fresh := s.lines(s.audit); len(fresh) != 2 {
		t.Errorf("%d lines after a file that can't be", len(fresh))
	}
}

// Without a file, changes are told in the log, and those of one large message
// together.
func TestAuditInLog(t *testing.T) {
	s := serveSecure(t, func(s *secure) { s.cfg.AuditFile = "" })
	c := eidolonv1.NewMappingServiceClient(s.dial(nil, operateToken))
	req := new(eidolonv1.PutMappingsRequest)
	put := func(n int) {
		t.Helper()
		for len(req.Records) < n {
			req.Records = append(req.Records, rec(fmt.Sprintf("10.9.%d.0/24", len(req.Records)), "192.0.2.1"))
		}
		if _, err := c.PutMappings(t.Context(), req); err != nil {
			t.Fatal(err)
		}
	}
	put(1)
	log := s.log.String()
	if !strings.Contains(log, `msg=audit who=operator by=token from=127.0.0.1:`) || !strings.Contains(log, `what=10.9.0.0/24 before=null after="{`) {
		t.Errorf("the log is\n%s", log)
	}
	put(50)
	if log := strings.TrimPrefix(s.log.String(), log); strings.Count(log, "msg=audit") != 1 || !strings.Contains(log, `what="49 mappings, 10.9.1.0/24 and others"`) {
		t.Errorf("then the log is\n%s", log)
	}
}

// TestSecretFields: what a message says is secret is not told.
func TestSecretFields(t *testing.T) {
	secret := new(descriptorpb.FieldOptions)
	proto.SetExtension(secret, eidolonv1.E_IsSecret, true)
	text, label := descriptorpb.FieldDescriptorProto_TYPE_STRING, descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL
	many, message := descriptorpb.FieldDescriptorProto_LABEL_REPEATED, descriptorpb.FieldDescriptorProto_TYPE_MESSAGE
	file, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{
		Name: proto.String("secret.proto"), Package: proto.String("secret"), Syntax: proto.String("proto3"),
		MessageType: []*descriptorpb.DescriptorProto{{Name: proto.String("Site"), Field: []*descriptorpb.FieldDescriptorProto{
			{Name: proto.String("name"), Number: proto.Int32(1), Type: &text, Label: &label},
			{Name: proto.String("key"), Number: proto.Int32(2), Type: &text, Label: &label, Options: secret},
			{Name: proto.String("parts"), Number: proto.Int32(3), Type: &message, Label: &many, TypeName: proto.String(".secret.Site")},
			{Name: proto.String("whole"), Number: proto.Int32(4), Type: &message, Label: &label, TypeName: proto.String(".secret.Site")},
		}}},
	}, protoregistry.GlobalFiles)
	if err != nil {
		t.Fatal(err)
	}
	d := file.Messages().ByName("Site")
	site := func(name string) *dynamicpb.Message {
		m := dynamicpb.NewMessage(d)
		m.Set(d.Fields().ByName("name"), protoreflect.ValueOfString(name))
		m.Set(d.Fields().ByName("key"), protoreflect.ValueOfString("hunter2"))
		return m
	}
	m := site("a")
	m.Mutable(d.Fields().ByName("parts")).List().Append(protoreflect.ValueOfMessage(site("b")))
	m.Set(d.Fields().ByName("whole"), protoreflect.ValueOfMessage(site("c")))
	var got bytes.Buffer
	if err := json.Compact(&got, asJSON(m)); err != nil || got.String() != `{"name":"a","parts":[{"name":"b"}],"whole":{"name":"c"}}` {
		t.Errorf("%s, %v", got.String(), err)
	}
	if !m.Has(d.Fields().ByName("key")) {
		t.Error("the message itself was changed")
	}
}

// TestReloadAccess: certificates and users change without a connection being
// dropped, and who was taken out is out at once.
func TestReloadAccess(t *testing.T) {
	s := serveSecure(t, nil)
	ctx := t.Context()
	reader, operator := s.dial(s.client("reader.example"), ""), s.dial(nil, operateToken)
	watch := func(conn *grpc.ClientConn) grpc.ServerStreamingClient[eidolonv1.MonitorRouterResponse] {
		t.Helper()
		stream, err := eidolonv1.NewRouterServiceClient(conn).MonitorRouter(ctx, &eidolonv1.MonitorRouterRequest{})
		if err == nil {
			_, err = stream.Recv()
		}
		if err != nil {
			t.Fatal(err)
		}
		return stream
	}
	watched, stays := watch(reader), watch(operator)
	local := func() (port string) {
		t.Helper()
		c := eidolonv1.NewRouterServiceClient(operator)
		if _, err := c.UndrainLocator(ctx, &eidolonv1.UndrainLocatorRequest{Locator: "eth2"}); err != nil {
			t.Fatal(err)
		}
		lines := s.lines(s.audit)
		return lines[len(lines)-1].From
	}
	before := local()
	shown := func() *x509.Certificate {
		t.Helper()
		roots := x509.NewCertPool()
		roots.AddCert(s.ca.Certificate)
		c, err := tls.Dial("tcp", s.addr.String(), &tls.Config{RootCAs: roots, NextProtos: []string{"h2"}})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return c.ConnectionState().PeerCertificates[0]
	}
	first := shown()
	next := s.cfg
	tcp := *s.cfg.TCP
	tcp.Certificate = issue(t, s.ca, "daemon.example", x509.ExtKeyUsageServerAuth, nil)
	next.TCP = &tcp
	if err := s.access.Reload(next); err != nil {
		t.Fatal(err)
	}
	if c := shown(); c.Equal(first) || !c.Equal(tcp.Certificate.Leaf) {
		t.Error("the new certificate is not shown")
	}
	if after := local(); after != before {
		t.Errorf("the connection was from %s, and is from %s now", before, after)
	}
	s.xtr.events.Publish(xtr.Event{Kind: xtr.EventRemoved, EID: mapping.MustParseEID("10.1.0.0/16")})
	for _, stream := range []grpc.ServerStreamingClient[eidolonv1.MonitorRouterResponse]{watched, stays} {
		if m, err := stream.Recv(); err != nil || len(m.GetEvents()) != 1 {
			t.Errorf("a stream after the reload: %v, %v", m, err)
		}
	}
	if err := ask(t, reader); err != nil {
		t.Error(err)
	}

	// The reader is taken out, and the operator has another role.
	next.Users = slices.Clone(next.Users[1:])
	next.Users[0] = config.APIUser{Name: "operator", Read: true, Tokens: hashed(operateToken)}
	if err := s.access.Reload(next); err != nil {
		t.Fatal(err)
	}
	_, err := watched.Recv()
	wantCode(t, err, codes.Unauthenticated, "no user's")
	wantCode(t, ask(t, reader), codes.Unauthenticated, "no user's")
	_, err = eidolonv1.NewRouterServiceClient(operator).DrainLocator(ctx, &eidolonv1.DrainLocatorRequest{Locator: "eth2"})
	wantCode(t, err, codes.PermissionDenied, "")
	s.xtr.events.Publish(xtr.Event{Kind: xtr.EventRemoved, EID: mapping.MustParseEID("10.1.0.0/16")})
	if m, err := stays.Recv(); err != nil || len(m.GetEvents()) != 1 {
		t.Errorf("the stream of who still reads: %v, %v", m, err)
	}

	// Another CA: what the old one signed is worth nothing any more.
	next.Users = s.cfg.Users
	if err := s.access.Reload(next); err != nil {
		t.Fatal(err)
	}
	if err := ask(t, reader); err != nil {
		t.Error(err)
	}
	other := tcp
	other.ClientCAs = []*x509.Certificate{newCA(t).Certificate}
	next.TCP = &other
	if err := s.access.Reload(next); err != nil {
		t.Fatal(err)
	}
	wantCode(t, ask(t, reader), codes.Unauthenticated, "unknown authority")

	// Taking TCP away needs a restart; until then those who are left may call.
	next.TCP = nil
	if err := s.access.Reload(next); err != nil {
		t.Error(err)
	}
	if err := ask(t, operator); err != nil {
		t.Error(err)
	}
	next.Users = nil
	if err := s.access.Reload(next); err != nil {
		t.Error(err)
	}
	wantCode(t, ask(t, operator), codes.Unauthenticated, "nobody's")
}

// A certificate that ends while its connection goes on is worth nothing then.
func TestCertificateEnds(t *testing.T) {
	s := serveSecure(t, nil)
	end := time.Now().Truncate(time.Second).Add(2 * time.Second)
	cert := issue(t, s.ca, "reader.example", x509.ExtKeyUsageClientAuth, func(c *x509.Certificate) { c.NotAfter = end })
	conn := s.dial(&cert, "")
	stream, err := eidolonv1.NewRouterServiceClient(conn).MonitorRouter(t.Context(), &eidolonv1.MonitorRouterRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	_, err = stream.Recv()
	wantCode(t, err, codes.Unauthenticated, "expired")
	if time.Now().Before(end) {
		t.Error("the stream ended too early")
	}
	wantCode(t, ask(t, conn), codes.Unauthenticated, "expired")
}

// TestGuessing: who fails too often is not listened to.
func TestGuessing(t *testing.T) {
	s := serveSecure(t, nil)
	conn := s.dial(nil, "guess")
	for n := 0; ; n++ {
		err := ask(t, conn)
		if status.Code(err) == codes.Unavailable {
			if n < failureBurst-1 {
				t.Errorf("cut off after %d", n)
			}
			break
		}
		wantCode(t, err, codes.Unauthenticated, "nobody's")
		if n > failureBurst {
			t.Fatal("it may go on")
		}
	}
	wantCode(t, ask(t, s.dial(nil, readToken)), codes.Unavailable, "")
	if s.stat("api_authentication_failures") < failureBurst || s.stat("api_connections_limited") == 0 {
		t.Errorf("%d failures, %d connections", s.stat("api_authentication_failures"), s.stat("api_connections_limited"))
	}
	if err := ask(t, dial(t, s.socket)); err != nil {
		t.Errorf("the Unix socket: %v", err)
	}
}

// A source may fail so often at once, and once more as time goes by; others are
// not concerned.
func TestFailures(t *testing.T) {
	var f failures
	f.init()
	now := time.Unix(1_700_000_000, 0)
	who, neighbour, other := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2"), netip.MustParseAddr("2001:db8:1::1")
	for other = other.Next(); f.bucket(other) == f.bucket(who); { // they may fall together
		other = netip.AddrFrom16(func() (b [16]byte) { b = other.As16(); b[6]++; return }())
	}
	for n := 1; n <= 3*failureBurst; n++ {
		if got, want := f.add(who, now), n >= failureBurst; got != want {
			t.Errorf("failure %d: %v", n, got)
		}
		if got, want := f.tooMany(neighbour, now), n >= failureBurst; got != want {
			t.Errorf("after failure %d: %v", n, got)
		}
	}
	if f.tooMany(other, now) {
		t.Error("another source is not listened to")
	}
	now = now.Add(failureEvery)
	if f.tooMany(who, now) {
		t.Error("time does not help")
	}
	if !f.add(who, now) || !f.tooMany(who, now) {
		t.Error("the next failure is not one too many")
	}
	if now = now.Add(failureBurst * failureEvery); f.add(who, now) {
		t.Error("nothing is forgotten")
	}
}

// TestRoom: connections are bounded, for all and for one source, and who says
// nothing does not keep one.
func TestRoom(t *testing.T) {
	s := serveSecure(t, func(s *secure) { s.cfg.TCP.MaxConnections, s.patience = 4, time.Second })
	roots := x509.NewCertPool()
	roots.AddCert(s.ca.Certificate)
	hold := func() (*tls.Conn, error) {
		return tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", s.addr.String(), &tls.Config{RootCAs: roots, NextProtos: []string{"h2"}})
	}
	for range 2 { // half of the room is one source's
		c, err := hold()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	if c, err := hold(); err == nil {
		c.Close()
		t.Error("there is room for a third")
	}
	if s.stat("api_connections_refused") != 1 {
		t.Errorf("%d connections are refused", s.stat("api_connections_refused"))
	}
	wantCode(t, ask(t, s.dial(nil, readToken)), codes.Unavailable, "")
	for start := time.Now(); s.stat("api_connections") > 0; time.Sleep(20 * time.Millisecond) {
		if time.Since(start) > 10*time.Second {
			t.Fatal("strangers hold their connections")
		}
	}
	if err := ask(t, s.dial(nil, readToken)); err != nil {
		t.Errorf("when strangers are gone: %v", err)
	}
}

// The connections of who is known stay.
func TestKnownStay(t *testing.T) {
	s := serveSecure(t, func(s *secure) { s.patience = 50 * time.Millisecond })
	conn := s.dial(nil, readToken)
	stream, err := eidolonv1.NewRouterServiceClient(conn).MonitorRouter(t.Context(), &eidolonv1.MonitorRouterRequest{})
	if err == nil {
		_, err = stream.Recv()
	}
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(200 * time.Millisecond)
	s.xtr.events.Publish(xtr.Event{Kind: xtr.EventRemoved, EID: mapping.MustParseEID("10.1.0.0/16")})
	if m, err := stream.Recv(); err != nil || len(m.GetEvents()) != 1 {
		t.Errorf("%v, %v", m, err)
	}
}

// What serves strangers over HTTP calls nothing that needs more than RoleRead.
func TestRESTOnlyReads(t *testing.T) {
	s := serveSecure(t, nil)
	r, err := newREST(s.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	for name, d := range allMethods(t) {
		m := methods[name]
		if err := invoke(t, r.conn, name, d); (m.open || m.roles&RoleRead != 0) == (status.Code(err) == codes.PermissionDenied) {
			t.Errorf("%s: %v", name, err)
		}
	}
	wantCode(t, r.conn.Invoke(t.Context(), eidolonv1.MappingService_PutMappings_FullMethodName, &eidolonv1.PutMappingsRequest{}, &eidolonv1.PutMappingsResponse{}),
		codes.PermissionDenied, "PutMappings")
}
