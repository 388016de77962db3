package api

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	eidolonv1 "github.com/eidolon-lisp/eidolon/api/proto/eidolon/v1"
	"github.com/eidolon-lisp/eidolon/dataplane"
)

// traceGather is how long packets of a trace are gathered for one message, and
// traceNews how often the number of those lost is told when there are none.
const (
	traceGather = 50 * time.Millisecond
	traceNews   = time.Second
)

// Tracing is what TraceService needs of a forwarding table.
type Tracing interface {
	Trace(dataplane.TraceFilter) (*dataplane.Tracer, error)
}

type traces struct {
	eidolonv1.UnimplementedTraceServiceServer
	fib    Tracing
	kernel bool
}

// Traces is the TraceService of an xTR that forwards by fib. kernel says that a
// kernel plane does, and leaves to the process what is traced.
func Traces(fib Tracing, kernel bool) Service { return &traces{fib: fib, kernel: kernel} }

func (s *traces) register(r grpc.ServiceRegistrar) { eidolonv1.RegisterTraceServiceServer(r, s) }

func (s *traces) TraceFlow(req *eidolonv1.TraceFlowRequest, stream grpc.ServerStreamingServer[eidolonv1.TraceFlowResponse]) error {
	filter, ferr := traceFilter(req)
	if ferr != nil {
		return invalid(ferr)
	}
	t, err := s.fib.Trace(filter)
	if errors.Is(err, dataplane.ErrTracing) {
		return status.Error(codes.AlreadyExists, err.Error())
	}
	if err != nil {
		return status.Error(codes.Internal, err.Error())
	}
	defer t.Close()
	// It changes nothing, and is told because it shows the packets of hosts.
	callOf(stream.Context()).changed("packets of hosts", nil, req)
	ctx, stop := whileServing(stream.Context())
	defer stop()
	if err := stream.Send(&eidolonv1.TraceFlowResponse{KernelPlane: s.kernel}); err != nil {
		return err
	}
	tick := time.NewTicker(traceGather)
	defer tick.Stop()
	news, told := time.Now(), uint64(0)
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ended(context.Cause(ctx))
		}
		resp := new(eidolonv1.TraceFlowResponse)
		for len(t.Events()) > 0 && len(resp.Packets) < listBatch {
			resp.Packets = append(resp.Packets, tracedToProto(<-t.Events()))
		}
		resp.Lost = t.Lost()
		if len(resp.Packets) == 0 && (resp.Lost == told || time.Since(news) < traceNews) {
			continue
		}
		news, told = time.Now(), resp.Lost
		if err := stream.Send(resp); err != nil {
			return err
		}
	}
}

// traceFilter reads the flow of a request.
func traceFilter(req *eidolonv1.TraceFlowRequest) (f dataplane.TraceFilter, ferr *fieldError) {
	e, ferr := eidFromProto("destination", req.GetDestination())
	if ferr != nil {
		return f, ferr
	}
	f.IID, f.There = e.IID, e.Prefix
	if text := req.GetSource(); text != "" {
		p, err := netip.ParsePrefix(text)
		if a, aerr := netip.ParseAddr(text); aerr == nil && a.Zone() == "" {
			p, err = netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()), nil
		}
		if err != nil || p.Addr().Is4() != e.Prefix.Addr().Is4() {
			return f, badField("source", "found %q, expected an address or a prefix of the family of %v", text, e)
		}
		f.Here = p.Masked()
	}
	switch p := req.GetProtocol(); p {
	case 0, 6, 17, 132:
		f.Protocol = uint8(p)
	default:
		return f, badField("protocol", "found %d, expected 6, 17, 132, or 0 for all", p)
	}
	for _, p := range []struct {
		field string
		port  uint32
		to    *uint16
	}{{"source_port", req.GetSourcePort(), &f.HerePort}, {"destination_port", req.GetDestinationPort(), &f.TherePort}} {
		if p.port > 65535 || p.port > 0 && f.Protocol == 0 {
			return f, badField(p.field, "found %d, expected 0 to 65535, and more than 0 only with a protocol", p.port)
		}
		*p.to = uint16(p.port)
	}
	return f, nil
}

func tracedToProto(ev dataplane.Traced) *eidolonv1.TracedPacket {
	p := &eidolonv1.TracedPacket{
		Time: timestamppb.New(ev.Time), Received: ev.In,
		Source: ev.Flow.Src.String(), Destination: ev.Flow.Dst.String(), Length: uint32(ev.Flow.Length),
	}
	if ev.Flow.HasPorts {
		p.Protocol, p.SourcePort, p.DestinationPort = uint32(ev.Flow.Protocol), ev.Flow.Ports>>16, ev.Flow.Ports&0xffff
	}
	if ev.Dst.IsValid() {
		p.SourceRloc, p.Rloc = ev.Src.String(), ev.Dst.String()
	}
	for _, c := range ev.Counts {
		p.Counters = append(p.Counters, c.String())
	}
	if ev.Drop != dataplane.NotDropped {
		p.Drop = ev.Drop.String()
	}
	return p
}
