package api

import (
	"context"
	_ "embed" // the OpenAPI document
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	eidolonv1 "github.com/eidolon-lisp/eidolon/api/proto/eidolon/v1"
	restv1 "github.com/eidolon-lisp/eidolon/api/proto/rest/eidolon/v1"
	"github.com/eidolon-lisp/eidolon/api/web"
)

//go:embed proto/openapi.swagger.json
var openAPI []byte

const (
	// maxREST bounds the REST calls under way, streams among them, so that
	// connections are left for metrics and health.
	maxREST = 32
	// restPatience is how long a client may take for what is written.
	restPatience = 20 * time.Second
	// maxRESTMessage bounds an answer of the daemon, in octets: a page of
	// mappings is far below it.
	maxRESTMessage = 32 << 20
)

// rest serves the gRPC API as REST under /v1/, as far as it only reads, and the
// OpenAPI document at /openapi.json. It calls the daemon by its own socket.
type rest struct {
	mux  *runtime.ServeMux
	conn *grpc.ClientConn
	room chan struct{}
}

func newREST(socket string) (*rest, error) {
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxRESTMessage)),
		grpc.WithUnaryInterceptor(func(ctx context.Context, name string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			if err := onlyReads(name); err != nil {
				return err
			}
			return invoke(ctx, name, req, reply, conn, opts...)
		}),
		grpc.WithStreamInterceptor(func(ctx context.Context, d *grpc.StreamDesc, conn *grpc.ClientConn, name string, stream grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			if err := onlyReads(name); err != nil {
				return nil, err
			}
			return stream(ctx, d, conn, name, opts...)
		}))
	if err != nil {
		return nil, fmt.Errorf("rest: %w", err)
	}
	mux, err := newMux(conn)
	if err != nil {
		conn.Close()
		return nil, err
	}
	return &rest{mux: mux, conn: conn, room: make(chan struct{}, maxREST)}, nil
}

// newMux returns all calls of the API by a connection as REST.
func newMux(conn grpc.ClientConnInterface) (*runtime.ServeMux, error) {
	mux := runtime.NewServeMux(
		// The names are those of the .proto files, and nothing is left out.
		runtime.WithMarshalerOption(runtime.MIMEWildcard, &runtime.JSONPb{
			MarshalOptions:   protojson.MarshalOptions{UseProtoNames: true, EmitDefaultValues: true},
			UnmarshalOptions: protojson.UnmarshalOptions{},
		}),
		// No header of the caller becomes one of the call, or the other way.
		runtime.WithIncomingHeaderMatcher(func(string) (string, bool) { return "", false }),
		runtime.WithOutgoingHeaderMatcher(func(string) (string, bool) { return "", false }),
		runtime.WithMetadata(func(context.Context, *http.Request) metadata.MD { return nil }),
	)
	ctx := context.Background()
	if err := errors.Join(
		restv1.RegisterAdminServiceHandlerClient(ctx, mux, eidolonv1.NewAdminServiceClient(conn)),
		restv1.RegisterMappingServiceHandlerClient(ctx, mux, eidolonv1.NewMappingServiceClient(conn)),
		restv1.RegisterSiteServiceHandlerClient(ctx, mux, eidolonv1.NewSiteServiceClient(conn)),
		restv1.RegisterRouterServiceHandlerClient(ctx, mux, eidolonv1.NewRouterServiceClient(conn)),
		restv1.RegisterBGPServiceHandlerClient(ctx, mux, eidolonv1.NewBGPServiceClient(conn)),
		restv1.RegisterALTServiceHandlerClient(ctx, mux, eidolonv1.NewALTServiceClient(conn)),
	); err != nil {
		return nil, fmt.Errorf("rest: %w", err)
	}
	return mux, nil
}

// onlyReads refuses what needs another role than RoleRead, whatever the document
// makes of it: on its socket the daemon would take the call for its own.
func onlyReads(name string) error {
	if m := methods[name]; !m.open && m.roles&RoleRead == 0 {
		return status.Errorf(codes.PermissionDenied, "%s is not for who is not known", name)
	}
	return nil
}

func (r *rest) close() error { return r.conn.Close() }

// ServeHTTP implements http.Handler.
func (r *rest) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	switch {
	case !web.Addressed(req.Host):
		// Who makes a name of its own lead here could read with somebody's browser.
		refuse(w, http.StatusMisdirectedRequest, codes.PermissionDenied, "this is served to who names it by an address, localhost or a name without a dot")
		return
	case req.Method != http.MethodGet:
		h.Set("Allow", http.MethodGet)
		refuse(w, http.StatusMethodNotAllowed, codes.PermissionDenied,
			"only what reads is served here, which is GET: change things as api.tcp of the daemon allows, by REST over TLS or by gRPC, or over its Unix socket")
		return
	}
	r.serve(w, req)
}

// serve answers a request that may be made.
func (r *rest) serve(w http.ResponseWriter, req *http.Request) {
	h := w.Header()
	if req.URL.Path == "/openapi.json" {
		h.Set("Content-Type", "application/json")
		w.Write(openAPI)
		return
	}
	select {
	case r.room <- struct{}{}:
		defer func() { <-r.room }()
	default:
		h.Set("Retry-After", "1")
		refuse(w, http.StatusServiceUnavailable, codes.ResourceExhausted, fmt.Sprintf("%d calls are under way already", maxREST))
		return
	}
	r.mux.ServeHTTP(&patient{w, http.NewResponseController(w)}, req)
}

// refuse answers as the gateway does with an error.
func refuse(w http.ResponseWriter, status int, code codes.Code, text string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// It can only fail where nobody reads any more.
	_ = json.NewEncoder(w).Encode(map[string]any{"code": code, "message": text, "details": []any{}})
}

// patient gives each write its time: a stream has no end that could be told
// beforehand.
type patient struct {
	http.ResponseWriter
	c *http.ResponseController
}

func (p *patient) Write(b []byte) (int, error) {
	// An error here is that of the write that follows.
	_ = p.c.SetWriteDeadline(time.Now().Add(restPatience))
	return p.ResponseWriter.Write(b)
}

// Flush implements http.Flusher, which the gateway needs for streams.
func (p *patient) Flush() {
	_ = p.c.SetWriteDeadline(time.Now().Add(restPatience))
	_ = p.c.Flush()
}

// Unwrap is for http.ResponseController.
func (p *patient) Unwrap() http.ResponseWriter { return p.ResponseWriter }
