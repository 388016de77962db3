package api

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	eidolonv1 "github.com/eidolon-lisp/eidolon/api/proto/eidolon/v1"
	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/dataplane/dptest"
	"github.com/eidolon-lisp/eidolon/mapping"
)

// A trace begins with the first message, tells of packets both ways, is alone,
// and leaves nothing behind when its caller goes.
func TestTraceFlow(t *testing.T) {
	now := time.Now()
	fib := dataplane.NewFIB()
	ours := mapping.MustParseEID("10.1.0.0/16")
	fib.SetLocal([]dataplane.LocalEID{{EID: ours}})
	fib.SetSources([]dataplane.Source{{Addr: netip.MustParseAddr("192.0.2.1")}})
	theirs := mapping.MustParseEID("10.2.0.0/16")
	fib.Apply([]mapping.CacheChange{{EID: theirs, Expires: now.Add(time.Hour), Record: &mapping.Record{EID: theirs,
		Locators: []mapping.Locator{mapping.MakeLocator(netip.MustParseAddr("192.0.2.2"), 1, 1)}}}})
	forward := dataplane.NewForwarder(fib, dataplane.Config{})
	out := forward.NewEncap(0, dptest.NewHost(), dptest.NewUnderlay())
	in := forward.NewDecap(map[uint32]dataplane.HostWriter{0: dptest.NewHost()})

	for _, kernel := range []bool{false, true} {
		c := eidolonv1.NewTraceServiceClient(serve(t, Traces(fib, kernel)))
		ctx, leave := context.WithCancel(t.Context())
		req := &eidolonv1.TraceFlowRequest{Destination: "10.2.0.9", Source: "10.1.0.0/16", Protocol: 17, DestinationPort: 2000}
		var stream grpc.ServerStreamingClient[eidolonv1.TraceFlowResponse]
		begin := func() (*eidolonv1.TraceFlowResponse, error) {
			s, err := c.TraceFlow(ctx, req)
			if err != nil {
				return nil, err
			}
			stream = s
			return s.Recv()
		}
		first, err := begin()
		for deadline := time.Now().Add(10 * time.Second); err != nil && kernel && time.Now().Before(deadline); { // the one before goes
			first, err = begin()
		}
		if err != nil || first.GetKernelPlane() != kernel || len(first.GetPackets()) != 0 {
			t.Fatalf("first message %v, %v; kernel %v", first, err, kernel)
		}
		other, err := c.TraceFlow(t.Context(), req)
		if err == nil {
			_, err = other.Recv()
		}
		wantCode(t, err, codes.AlreadyExists, "another trace")

		out.Batch(now, []dataplane.HostPacket{
			dptest.HostPacket(dptest.Flow("10.1.0.5:1000", "10.2.0.9:2000", dptest.UDP, 100).Bytes(), 0),
			dptest.HostPacket(dptest.Flow("10.1.0.5:1000", "10.2.0.9:2001", dptest.UDP, 100).Bytes(), 0),
		})
		in.Batch([]dataplane.Packet{dptest.Flow("10.2.0.9:2000", "10.1.0.5:1000", dptest.UDP, 7).Lisp(0, "192.0.2.2", "192.0.2.1"),
			dptest.Flow("10.2.0.9:2000", "10.77.0.5:1000", dptest.UDP, 8).Lisp(0, "192.0.2.2", "192.0.2.1")})
		var got []string
		for len(got) < 2 {
			m, err := stream.Recv()
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range m.GetPackets() {
				got = append(got, fmt.Sprintf("%v %s:%d>%s:%d %d %d %s>%s %v%s", p.GetReceived(), p.GetSource(), p.GetSourcePort(), p.GetDestination(), p.GetDestinationPort(),
					p.GetProtocol(), p.GetLength(), p.GetSourceRloc(), p.GetRloc(), p.GetCounters(), p.GetDrop()))
			}
		}
		want := []string{"false 10.1.0.5:1000>10.2.0.9:2000 17 128 192.0.2.1>192.0.2.2 [encap_packets]", "true 10.2.0.9:2000>10.1.0.5:1000 17 35 192.0.2.2>192.0.2.1 [decap_packets]"}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("told %v, want %v", got, want)
		}
		leave()
	}
}

// TestTraceFields: what is no flow is refused by the name of its field.
func TestTraceFields(t *testing.T) {
	c := eidolonv1.NewTraceServiceClient(serve(t, Traces(dataplane.NewFIB(), false)))
	for field, req := range map[string]*eidolonv1.TraceFlowRequest{
		"destination":      {},
		"source":           {Destination: "10.0.0.1", Source: "2001:db8::/32"},
		"protocol":         {Destination: "10.0.0.1", Protocol: 1},
		"source_port":      {Destination: "10.0.0.1", Protocol: 6, SourcePort: 65536},
		"destination_port": {Destination: "10.0.0.1", DestinationPort: 80},
	} {
		stream, err := c.TraceFlow(t.Context(), req)
		if err == nil {
			_, err = stream.Recv()
		}
		wantField(t, err, field)
	}
}
