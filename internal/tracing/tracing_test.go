package tracing

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	spans "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/internal/netns"
	"github.com/eidolon-lisp/eidolon/internal/udp"
	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/server"
	"github.com/eidolon-lisp/eidolon/mapping/xtr"
)

// otlp is a collector that keeps what it is sent.
type otlp struct {
	collector.UnimplementedTraceServiceServer
	addr string
	mu   sync.Mutex
	list []*spans.Span
	from map[string]string // attributes of the resource
}

func (o *otlp) Export(_ context.Context, r *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, rs := range r.ResourceSpans {
		o.from = attributes(rs.Resource.Attributes)
		for _, ss := range rs.ScopeSpans {
			o.list = append(o.list, ss.Spans...)
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

func attributes(list []*common.KeyValue) map[string]string {
	m := make(map[string]string)
	for _, a := range list {
		switch v := a.Value.Value.(type) {
		case *common.AnyValue_StringValue:
			m[a.Key] = v.StringValue
		case *common.AnyValue_IntValue:
			m[a.Key] = fmt.Sprint(v.IntValue)
		case *common.AnyValue_BoolValue:
			m[a.Key] = fmt.Sprint(v.BoolValue)
		}
	}
	return m
}

func startCollector(t *testing.T, options ...grpc.ServerOption) *otlp {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o := &otlp{addr: l.Addr().String()}
	s := grpc.NewServer(options...)
	collector.RegisterTraceServiceServer(s, o)
	var serving sync.WaitGroup
	serving.Go(func() { _ = s.Serve(l) })
	t.Cleanup(func() { s.Stop(); serving.Wait() })
	return o
}

// story writes the spans of the collector, in the order of their beginnings, with
// times in milliseconds after begun.
func (o *otlp) story(t *testing.T, begun time.Time) (lines []string) {
	t.Helper()
	o.mu.Lock()
	defer o.mu.Unlock()
	slices.SortStableFunc(o.list, func(a, b *spans.Span) int { // what holds the others comes first
		return cmp.Or(cmp.Compare(a.StartTimeUnixNano, b.StartTimeUnixNano), len(a.ParentSpanId)-len(b.ParentSpanId))
	})
	var root *spans.Span
	for _, s := range o.list {
		if s.Name == "resolve" {
			root = s
		}
	}
	for _, s := range o.list {
		if s != root && (root == nil || !bytes.Equal(s.ParentSpanId, root.SpanId) || !bytes.Equal(s.TraceId, root.TraceId)) {
			t.Errorf("span %s is not inside of resolve", s.Name)
		}
		ms := func(ns uint64) float64 { return float64(int64(ns)-begun.UnixNano()) / 1e6 }
		a := attributes(s.Attributes)
		line := fmt.Sprintf("%s %v to %v", s.Name, ms(s.StartTimeUnixNano), ms(s.EndTimeUnixNano))
		for _, k := range []string{"lisp.eid", "lisp.reason", "lisp.source", "lisp.map_resolver", "lisp.answer", "lisp.mapping", "lisp.outcome"} {
			if a[k] != "" {
				line += " " + a[k]
			}
		}
		if s.Status.GetCode() == spans.Status_STATUS_CODE_ERROR {
			line += " error: " + s.Status.Message
		}
		lines = append(lines, line)
	}
	return lines
}

// after closes a tracer, and with that sends what it has.
func after(t *testing.T, tr *Tracer) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := tr.Close(ctx); err != nil {
		t.Error(err)
	}
}

var (
	begun = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	at    = func(ms int) time.Time { return begun.Add(time.Duration(ms) * time.Millisecond) }
	mr    = netip.MustParseAddrPort("192.0.2.2:4342")
)

// TestSpans: each step is a span, with the times of the resolution.
func TestSpans(t *testing.T) {
	asked := []xtr.ResolutionRequest{{Sent: at(0), MapResolver: mr, Nonce: 1}, {Sent: at(1000), MapResolver: mr, Nonce: 2}}
	e := mapping.MustParseEID("[7]10.2.0.9/32")
	answer := &mapping.Record{EID: mapping.MustParseEID("[7]10.2.0.0/16"), TTL: 10, Locators: []mapping.Locator{mapping.MakeLocator(netip.MustParseAddr("203.0.113.7"), 1, 100)}}
	for _, c := range []struct {
		name  string
		trace xtr.ResolutionTrace
		want  []string
	}{
		{"answered", xtr.ResolutionTrace{EID: e, Why: "miss", Source: netip.MustParseAddr("10.1.0.5"), Begun: begun, Requests: asked, Answered: at(1040), From: mr, Answer: answer, By: 2, Request: 1, Ended: at(1041)},
			[]string{"resolve 0 to 1041 10.2.0.9/32 miss 10.1.0.5 10.2.0.0/16 answered", "map-request 0 to 1000 192.0.2.2:4342 error: no answer before the next one",
				"map-request 1000 to 1040 192.0.2.2:4342 map-reply", "update planes 1040 to 1041"}},
		{"answered late", xtr.ResolutionTrace{EID: e, Why: "refresh", Begun: begun, Requests: asked, Answered: at(1040), From: mr, Answer: answer, By: 2, Ended: at(1041)},
			[]string{"resolve 0 to 1041 10.2.0.9/32 refresh 10.2.0.0/16 answered", "map-request 0 to 1040 192.0.2.2:4342 map-reply",
				"map-request 1000 to 1040 192.0.2.2:4342", "update planes 1040 to 1041"}},
		{"given up", xtr.ResolutionTrace{EID: e, Why: "smr", Begun: begun, Requests: asked, Outcome: xtr.ResolutionGivenUp, Ended: at(3000)},
			[]string{"resolve 0 to 3000 10.2.0.9/32 smr given-up error: given-up", "map-request 0 to 1000 192.0.2.2:4342 error: no answer before the next one",
				"map-request 1000 to 3000 192.0.2.2:4342 error: no answer"}},
		{"needless", xtr.ResolutionTrace{EID: e, Why: "miss", Begun: begun, Outcome: xtr.ResolutionNeedless, Ended: at(1)},
			[]string{"resolve 0 to 1 10.2.0.9/32 miss needless"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := startCollector(t)
			tr, err := New(t.Context(), Config{Endpoint: o.addr, Insecure: true, OneIn: 1, Version: "v1", Instance: "x"})
			if err != nil {
				t.Fatal(err)
			}
			tr.Resolved([]*xtr.ResolutionTrace{&c.trace})
			after(t, tr)
			if got := o.story(t, begun); !slices.Equal(got, c.want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
			if o.from["service.name"] != "eidolon-xtr" || o.from["service.version"] != "v1" || o.from["service.instance.id"] != "x" {
				t.Errorf("resource %v", o.from)
			}
		})
	}
}

// TestOneIn: about so many are traced, each whole.
func TestOneIn(t *testing.T) {
	o := startCollector(t)
	tr, err := New(t.Context(), Config{Endpoint: o.addr, Insecure: true, OneIn: 4})
	if err != nil {
		t.Fatal(err)
	}
	one := &xtr.ResolutionTrace{Begun: begun, Requests: []xtr.ResolutionRequest{{Sent: begun}}, Outcome: xtr.ResolutionNeedless, Ended: at(1)}
	for range 400 {
		tr.Resolved([]*xtr.ResolutionTrace{one})
	}
	after(t, tr)
	roots := 0
	for _, s := range o.list {
		if s.Name == "resolve" {
			roots++
		}
	}
	if roots < 50 || roots > 160 || len(o.list) != 2*roots {
		t.Errorf("%d of 400 are traced, %d spans", roots, len(o.list))
	}
}

// TestTLS: the collector shows a certificate of the authorities that are given,
// and what has another gets nothing.
func TestTLS(t *testing.T) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "collector"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	authority := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	o := startCollector(t, grpc.Creds(credentials.NewServerTLSFromCert(&tls.Certificate{Certificate: [][]byte{der}, PrivateKey: k})))
	one := []*xtr.ResolutionTrace{{Begun: begun, Outcome: xtr.ResolutionNeedless, Ended: at(1)}}
	var log bytes.Buffer
	stranger, err := New(t.Context(), Config{Endpoint: o.addr, OneIn: 1, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	stranger.Resolved(one)
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if err := stranger.Close(ctx); err == nil && log.Len() == 0 || len(o.list) != 0 {
		t.Errorf("a collector with an unknown certificate got %d spans: %v %s", len(o.list), err, &log)
	}
	friend, err := New(t.Context(), Config{Endpoint: o.addr, RootCAs: authority, OneIn: 1})
	if err != nil {
		t.Fatal(err)
	}
	friend.Resolved(one)
	after(t, friend)
	if len(o.list) != 1 {
		t.Errorf("%d spans", len(o.list))
	}
	if _, err := New(t.Context(), Config{Endpoint: o.addr, RootCAs: []byte("no certificate")}); err == nil {
		t.Error("authorities that are none are accepted")
	}
}

// TestWhole: an xTR asks a map-server over the kernel's sockets, and its packet's
// miss is a trace of the steps that the forwarding table saw the end of.
func TestWhole(t *testing.T) {
	ns := netns.Fresh(t, 1)[0]
	var site, resolver *udp.Socket
	if err := ns.Up("lo"); err != nil {
		t.Fatal(err)
	}
	for _, a := range []string{"192.0.2.1/32", "192.0.2.2/32"} {
		if err := ns.AddAddress("lo", netip.MustParsePrefix(a)); err != nil {
			t.Fatal(err)
		}
	}
	if err := ns.Do(func() (err error) {
		if site, err = udp.Listen([]netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:4342")}); err != nil {
			return err
		}
		resolver, err = udp.Listen([]netip.AddrPort{mr})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	o := startCollector(t)
	tr, err := New(t.Context(), Config{Endpoint: o.addr, Insecure: true, OneIn: 1})
	if err != nil {
		t.Fatal(err)
	}
	ms, err := server.New(t.Context(), server.Config{Static: []*mapping.Record{{EID: mapping.MustParseEID("10.2.0.0/16"), TTL: 10,
		Locators: []mapping.Locator{mapping.MakeLocator(netip.MustParseAddr("203.0.113.7"), 1, 100)}}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	fib := dataplane.NewFIB()
	told := make(chan *xtr.ResolutionTrace, 1)
	x, err := xtr.New(xtr.Config{
		RLOCs:        []netip.Addr{netip.MustParseAddr("192.0.2.1")},
		Databases:    []xtr.Database{{EID: mapping.MustParseEID("10.1.0.0/16"), Locators: []mapping.Locator{mapping.MakeLocator(netip.MustParseAddr("192.0.2.1"), 1, 100)}}},
		MapResolvers: []netip.AddrPort{mr},
		RLOCProbing:  xtr.RLOCProbing{Off: true},
		OnCache:      fib.Apply,
		OnTraces: func(list []*xtr.ResolutionTrace) {
			tr.Resolved(list)
			told <- list[0]
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	misses := make(chan xtr.Miss, 1)
	running.Go(func() {
		if err := ms.Run(ctx, resolver, 1); err != nil {
			t.Error(err)
		}
	})
	running.Go(func() {
		if err := x.Run(ctx, site, misses); err != nil {
			t.Error(err)
		}
	})
	misses <- xtr.Miss{Dst: netip.MustParseAddr("10.2.0.9"), Src: netip.MustParseAddr("10.1.0.5")}
	var r *xtr.ResolutionTrace
	select {
	case r = <-told:
	case <-time.After(20 * time.Second):
		t.Error("the question has no answer")
	}
	stop()
	running.Wait()
	after(t, tr)
	if r == nil {
		return
	}
	ms2 := func(x time.Time) string { return fmt.Sprint(float64(x.UnixNano()-r.Begun.UnixNano()) / 1e6) }
	want := []string{
		"resolve 0 to " + ms2(r.Ended) + " 10.2.0.9/32 miss 10.1.0.5 10.2.0.0/16 answered",
		"map-request " + ms2(r.Requests[0].Sent) + " to " + ms2(r.Answered) + " 192.0.2.2:4342 map-reply",
		"update planes " + ms2(r.Answered) + " to " + ms2(r.Ended),
	}
	if got := o.story(t, r.Begun); !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if !r.Ended.After(r.Answered) || !r.Answered.After(r.Begun) {
		t.Errorf("begun %v, answered %v, ended %v", r.Begun, r.Answered, r.Ended)
	}
}
