package api

import (
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	eidolonv1 "github.com/eidolon-lisp/eidolon/api/proto/eidolon/v1"
	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/internal/config"
)

// someLogs have two subsystems.
type someLogs struct {
	mu     sync.Mutex
	levels [2]slog.Level
}

var someSubsystems = [2]string{"server", "api"}

func (l *someLogs) Levels() iter.Seq2[string, slog.Level] {
	l.mu.Lock()
	levels := l.levels
	l.mu.Unlock()
	return func(yield func(string, slog.Level) bool) {
		for i, n := range someSubsystems {
			if !yield(n, levels[i]) {
				return
			}
		}
	}
}

func (l *someLogs) SetLevel(name string, level slog.Level) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, n := range someSubsystems {
		if name == "" || n == name {
			l.levels[i] = level
		}
	}
	return nil
}

func TestControls(t *testing.T) {
	var logs someLogs
	var done Reloaded
	var failure error
	c := eidolonv1.NewAdminServiceClient(serve(t, Controlled("xtr", Controls{Reload: func() (Reloaded, error) { return done, failure }, Logs: &logs}, statistics("x", 1))))
	if v, err := c.GetVersion(t.Context(), &eidolonv1.GetVersionRequest{}); err != nil || v.GetProgram() != "xtr" {
		t.Errorf("version: %v, %v", v, err)
	}

	levels := func(list []*eidolonv1.SubsystemLogLevel, err error) string {
		if err != nil {
			return err.Error()
		}
		var out []string
		for _, l := range list {
			out = append(out, l.GetSubsystem()+" "+strings.TrimPrefix(l.GetLevel().String(), "LOG_LEVEL_"))
		}
		return strings.Join(out, ", ")
	}
	get := func(name string) string {
		resp, err := c.GetLogLevel(t.Context(), &eidolonv1.GetLogLevelRequest{Subsystem: name})
		return levels(resp.GetLevels(), err)
	}
	set := func(name string, l eidolonv1.LogLevel) (string, error) {
		resp, err := c.SetLogLevel(t.Context(), &eidolonv1.SetLogLevelRequest{Subsystem: name, Level: l})
		return levels(resp.GetLevels(), err), err
	}
	if got := get(""); got != "server INFO, api INFO" {
		t.Errorf("levels: %s", got)
	}
	if got, _ := set("api", eidolonv1.LogLevel_LOG_LEVEL_DEBUG); got != "api DEBUG" || get("api") != got || get("") != "server INFO, api DEBUG" {
		t.Errorf("one level set: %s, then %s", got, get(""))
	}
	if got, _ := set("", eidolonv1.LogLevel_LOG_LEVEL_ERROR); got != "server ERROR, api ERROR" || get("") != got {
		t.Errorf("all levels set: %s", got)
	}
	_, err := set("api", 0)
	wantField(t, err, "level")
	_, err = set("api", 9)
	wantField(t, err, "level")
	_, err = set("nobody", eidolonv1.LogLevel_LOG_LEVEL_WARN)
	wantNotFound(t, err, "subsystem")
	_, err = c.GetLogLevel(t.Context(), &eidolonv1.GetLogLevelRequest{Subsystem: "nobody"})
	wantNotFound(t, err, "subsystem")
	if got := get(""); got != "server ERROR, api ERROR" {
		t.Errorf("after errors: %s", got)
	}

	done = Reloaded{Warnings: []string{"a doubt"}, Restart: []string{"listen"}}
	resp, err := c.Reload(t.Context(), &eidolonv1.ReloadRequest{})
	if err != nil || len(resp.GetWarnings()) != 1 || len(resp.GetRestartKeys()) != 1 || resp.GetRestartKeys()[0] != "listen" {
		t.Errorf("reload: %v, %v", resp, err)
	}
	failure = fmt.Errorf("read it: %w", config.Errors{{File: "x.yml", Line: 3, Column: 7, Message: "found a pear"}, {File: "x.yml", Line: 4, Column: 1, Message: "and a plum"}})
	_, err = c.Reload(t.Context(), &eidolonv1.ReloadRequest{})
	wantCode(t, err, codes.FailedPrecondition, "the running one stays")
	if v := detail[*errdetails.PreconditionFailure](t, err).GetViolations(); len(v) != 2 || v[0].GetSubject() != "x.yml:3:7" || v[1].GetDescription() != "and a plum" {
		t.Errorf("what is wrong: %v", v)
	}
	failure = errors.New("no such file")
	_, err = c.Reload(t.Context(), &eidolonv1.ReloadRequest{})
	wantCode(t, err, codes.FailedPrecondition, "no such file")
}

func wantNotFound(t *testing.T, err error, field string) {
	t.Helper()
	wantCode(t, err, codes.NotFound, "")
	if v := detail[*errdetails.BadRequest](t, err).GetFieldViolations(); len(v) != 1 || v[0].GetField() != field {
		t.Errorf("%v names %v, want %s", err, v, field)
	}
}

// TestNotFound: whoever names what is not there learns which field it was.
func TestNotFound(t *testing.T) {
	s, _ := newServer(t, "")
	conn := serve(t, Mappings(s), Sites(s), Router(&fakeXTR{}, dataplane.NewFIB()), BGP(nil), ALT(nil))
	m, r := eidolonv1.NewMappingServiceClient(conn), eidolonv1.NewRouterServiceClient(conn)
	_, err := m.GetMapping(t.Context(), &eidolonv1.GetMappingRequest{Eid: "99.0.0.0/8"})
	wantNotFound(t, err, "eid")
	_, err = m.LookupMapping(t.Context(), &eidolonv1.LookupMappingRequest{Eid: "99.0.0.0/8"})
	wantNotFound(t, err, "eid")
	_, err = m.DeleteMappings(t.Context(), &eidolonv1.DeleteMappingsRequest{Eids: []string{"99.0.0.0/8"}})
	wantNotFound(t, err, "eids[0]")
	_, err = eidolonv1.NewSiteServiceClient(conn).ListSites(t.Context(), &eidolonv1.ListSitesRequest{Name: "nobody"})
	wantNotFound(t, err, "name")
	_, err = r.LookupMapCache(t.Context(), &eidolonv1.LookupMapCacheRequest{Eid: "99.0.0.1"})
	wantNotFound(t, err, "eid")
	_, err = r.DrainLocator(t.Context(), &eidolonv1.DrainLocatorRequest{Locator: "eth9"})
	wantNotFound(t, err, "locator")
	for subject, call := range map[string]func() error{
		"bgp": func() error {
			_, err := eidolonv1.NewBGPServiceClient(conn).GetBGP(t.Context(), &eidolonv1.GetBGPRequest{})
			return err
		},
		"alt": func() error {
			_, err := eidolonv1.NewALTServiceClient(conn).GetALT(t.Context(), &eidolonv1.GetALTRequest{})
			return err
		},
	} {
		err := call()
		wantCode(t, err, codes.FailedPrecondition, "configuration")
		if v := detail[*errdetails.PreconditionFailure](t, err).GetViolations(); len(v) != 1 || v[0].GetSubject() != subject {
			t.Errorf("details of %v: %v", err, v)
		}
	}
}

// TestBadFields gives every field of every request that names an EID, a locator
// or one of several words something else, and is told which field it was.
func TestBadFields(t *testing.T) {
	s, _ := newServer(t, "")
	conn := serve(t, Mappings(s), Sites(s), Router(&fakeXTR{}, dataplane.NewFIB()), Traces(dataplane.NewFIB(), false))
	eids := map[protoreflect.Name]bool{"eid": true, "within": true, "covering": true, "itr_rloc": true, "destination": true, "source": true, "page_token": true}
	tried := 0
	for _, file := range []protoreflect.FileDescriptor{eidolonv1.File_eidolon_v1_mapping_proto, eidolonv1.File_eidolon_v1_site_proto, eidolonv1.File_eidolon_v1_router_proto, eidolonv1.File_eidolon_v1_trace_proto} {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for j := range service.Methods().Len() {
				method := service.Methods().Get(j)
				if method.IsStreamingClient() {
					continue
				}
				fields := method.Input().Fields()
				for k := range fields.Len() {
					f := fields.Get(k)
					req := newMessage(t, method.Input())
					for n := range fields.Len() { // what is needed beside it
						switch fields.Get(n).Name() {
						case "eid", "destination":
							req.ProtoReflect().Set(fields.Get(n), protoreflect.ValueOfString("10.0.0.1"))
						}
					}
					switch {
					case f.Kind() == protoreflect.StringKind && !f.IsList() && eids[f.Name()]:
						req.ProtoReflect().Set(f, protoreflect.ValueOfString("nonsense"))
					case f.Kind() == protoreflect.EnumKind && !f.IsList():
						req.ProtoReflect().Set(f, protoreflect.ValueOfEnum(77))
					default:
						continue
					}
					tried++
					name := fmt.Sprintf("/%s/%s", service.FullName(), method.Name())
					err := callOnce(t, conn, name, method, req)
					found := false
					for _, d := range status.Convert(err).Details() {
						b, ok := d.(*errdetails.BadRequest)
						found = found || ok && len(b.GetFieldViolations()) == 1 && b.GetFieldViolations()[0].GetField() == string(f.Name())
					}
					if status.Code(err) != codes.InvalidArgument || !found {
						t.Errorf("%s with a bad %s: %v, %v", name, f.Name(), err, status.Convert(err).Details())
					}
				}
			}
		}
	}
	if tried < 15 {
		t.Errorf("only %d fields were tried", tried)
	}
}

func newMessage(t *testing.T, d protoreflect.MessageDescriptor) proto.Message {
	t.Helper()
	mt, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		t.Fatal(err)
	}
	return mt.New().Interface()
}

// callOnce makes a call and returns its error, that of a stream's first message.
func callOnce(t *testing.T, conn *grpc.ClientConn, name string, m protoreflect.MethodDescriptor, req proto.Message) error {
	t.Helper()
	resp := newMessage(t, m.Output())
	if !m.IsStreamingServer() {
		return conn.Invoke(t.Context(), name, req, resp)
	}
	stream, err := conn.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true}, name)
	if err != nil {
		return err
	}
	if err := stream.SendMsg(req); err != nil {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	return stream.RecvMsg(resp)
}
