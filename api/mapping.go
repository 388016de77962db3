package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/netip"
	"slices"
	"sync"

	"google.golang.org/grpc"

	eidolonv1 "github.com/eidolon-lisp/eidolon/api/proto/eidolon/v1"
	"github.com/eidolon-lisp/eidolon/internal/fanout"
	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/server"
)

// Database is what the MappingService needs of a map-server; *server.Server
// has it. The methods are called from several goroutines.
type Database interface {
	// Lookup returns the longest match for an EID.
	Lookup(e mapping.EID) (server.MappingStatus, bool)
	// Database walks the mappings inside e, or all with the zero EID, in
	// order.
	Database(e mapping.EID) iter.Seq[server.MappingStatus]
	// Batch changes the mappings of the API durably, all or none.
	Batch(ctx context.Context, ops []server.Op) (revision uint64, err error)
	// APIMapping returns the mapping that was put for exactly e.
	APIMapping(e mapping.EID) (*mapping.Record, bool)
	// Snapshot returns the database at one moment, and Follow what changes
	// after a revision.
	Snapshot() server.Snapshot
	Follow(after uint64) (*server.Follower, error)
	// Explain tells what a Map-Request for e by an ITR would get and why.
	Explain(e mapping.EID, itr netip.Addr) server.Explanation
	// Subscriptions walks the subscriptions of xTRs, in the order of EIDs.
	Subscriptions() iter.Seq[server.SubscriptionStatus]
	// Watch subscribes to what happens.
	Watch(queue int) (*fanout.Subscription[server.Event], error)
}

var _ Database = (*server.Server)(nil)

type mappings struct {
	eidolonv1.UnimplementedMappingServiceServer
	db Database
	// changing is held while mappings change, so that the audit log knows what
	// was there before.
	changing sync.Mutex
}

// Mappings is the MappingService of a map-server.
func Mappings(db Database) Service { return &mappings{db: db} }

func (s *mappings) register(r grpc.ServiceRegistrar) { eidolonv1.RegisterMappingServiceServer(r, s) }

func (s *mappings) GetMapping(_ context.Context, req *eidolonv1.GetMappingRequest) (*eidolonv1.GetMappingResponse, error) {
	e, ferr := eidFromProto("eid", req.GetEid())
	if ferr != nil {
		return nil, invalid(ferr)
	}
	for m := range s.db.Database(e) {
		if m.Record.EID == e {
			return &eidolonv1.GetMappingResponse{Mapping: mappingToProto(m)}, nil
		}
		break // the EID itself would come first
	}
	return nil, notFound("eid", "there is no mapping for exactly %v", e)
}

func (s *mappings) LookupMapping(_ context.Context, req *eidolonv1.LookupMappingRequest) (*eidolonv1.LookupMappingResponse, error) {
	e, ferr := eidFromProto("eid", req.GetEid())
	if ferr != nil {
		return nil, invalid(ferr)
	}
	m, ok := s.db.Lookup(e)
	if !ok {
		return nil, notFound("eid", "no mapping holds %v", e)
	}
	return &eidolonv1.LookupMappingResponse{Mapping: mappingToProto(m)}, nil
}

func (s *mappings) ListMappings(req *eidolonv1.ListMappingsRequest, stream grpc.ServerStreamingServer[eidolonv1.ListMappingsResponse]) error {
	f, ferr := mappingFilter(req)
	if ferr != nil {
		return invalid(ferr)
	}
	list := s.db.Database(f.within)
	if f.covering.IsValid() {
		list = slices.Values(s.db.Snapshot().Covering(f.covering))
	}
	out := batches[*eidolonv1.Mapping]{send: func(m []*eidolonv1.Mapping) error {
		return stream.Send(&eidolonv1.ListMappingsResponse{Mappings: m})
	}}
	for st := range list {
		if f.takes(st) {
			if err := out.add(mappingToProto(st)); err != nil {
				return err
			}
		}
	}
	return out.flush()
}

func (s *mappings) PutMappings(ctx context.Context, req *eidolonv1.PutMappingsRequest) (*eidolonv1.PutMappingsResponse, error) {
	recs, ferr := batchFromProto(req.GetRecords())
	if ferr != nil {
		return nil, invalid(ferr)
	}
	ops := putOps(recs)
	if ferr := conditions(ops, req.GetIfRevisions()); ferr != nil {
		return nil, invalid(ferr)
	}
	revision, err := s.batch(ctx, ops)
	if err != nil {
		return nil, batchFailed("put mappings", err, "records[%d].eid", "if_revisions[%d]")
	}
	return &eidolonv1.PutMappingsResponse{Revision: revision}, nil
}

// batch changes mappings and audits it.
func (s *mappings) batch(ctx context.Context, ops []server.Op) (revision uint64, err error) {
	s.changing.Lock()
	defer s.changing.Unlock()
	eids, before := make([]mapping.EID, len(ops)), make([]*mapping.Record, len(ops))
	for i, op := range ops {
		if eids[i] = op.EID; op.Record != nil {
			eids[i] = op.Record.EID
		}
		before[i], _ = s.db.APIMapping(eids[i])
	}
	if revision, err = s.db.Batch(ctx, ops); err != nil {
		return 0, err
	}
	after := make([]*mapping.Record, len(ops))
	for i, e := range eids {
		after[i], _ = s.db.APIMapping(e)
	}
	callOf(ctx).changedMappings(eids, before, after)
	return revision, nil
}

func putOps(recs []*mapping.Record) []server.Op {
	ops := make([]server.Op, len(recs))
	for i, r := range recs {
		ops[i].Record = r
	}
	return ops
}

// conditions gives each operation its precondition, if there are any.
func conditions(ops []server.Op, revisions []uint64) *fieldError {
	if len(revisions) == 0 {
		return nil
	}
	if len(revisions) != len(ops) {
		return badField("if_revisions", "found %d, expected none or %d", len(revisions), len(ops))
	}
	for i := range ops {
		ops[i].If = &revisions[i]
	}
	return nil
}

func (s *mappings) DeleteMappings(ctx context.Context, req *eidolonv1.DeleteMappingsRequest) (*eidolonv1.DeleteMappingsResponse, error) {
	if n := len(req.GetEids()); n < 1 || n > maxBatch {
		return nil, invalid(badField("eids", "found %d, expected 1 to %d", n, maxBatch))
	}
	ops, ferr := deleteOps(req.GetEids())
	if ferr == nil {
		ferr = conditions(ops, req.GetIfRevisions())
	}
	if ferr != nil {
		return nil, invalid(ferr)
	}
	revision, err := s.batch(ctx, ops)
	if err != nil {
		return nil, batchFailed("delete mappings", err, "eids[%d]", "if_revisions[%d]")
	}
	return &eidolonv1.DeleteMappingsResponse{Revision: revision}, nil
}

func deleteOps(eids []string) ([]server.Op, *fieldError) {
	ops := make([]server.Op, len(eids))
	first := make(map[mapping.EID]int, len(eids))
	for i, text := range eids {
		field := fmt.Sprintf("eids[%d]", i)
		e, ferr := eidFromProto(field, text)
		if ferr != nil {
			return nil, ferr
		}
		if j, twice := first[e]; twice {
			return nil, badField(field, "%v is in the batch twice, first as eids[%d]", e, j)
		}
		first[e] = i
		ops[i].EID = e
	}
	return ops, nil
}

func (s *mappings) BatchMappings(ctx context.Context, req *eidolonv1.BatchMappingsRequest) (*eidolonv1.BatchMappingsResponse, error) {
	if n := len(req.GetOperations()); n < 1 || n > maxBatch {
		return nil, invalid(badField("operations", "found %d, expected 1 to %d", n, maxBatch))
	}
	ops := make([]server.Op, len(req.GetOperations()))
	first := make(map[mapping.EID]int, len(ops))
	for i, p := range req.GetOperations() {
		path := fmt.Sprintf("operations[%d]", i)
		e, ferr := opFromProto(p, &ops[i])
		if ferr != nil {
			return nil, invalid(ferr.within(path))
		}
		if j, twice := first[e]; twice {
			return nil, invalid(badField(path, "%v is in the batch twice, first in operations[%d]", e, j))
		}
		first[e] = i
	}
	revision, err := s.batch(ctx, ops)
	if err != nil {
		return nil, batchFailed("change mappings", err, "operations[%d]", "operations[%d].if_revision")
	}
	return &eidolonv1.BatchMappingsResponse{Revision: revision}, nil
}

// opFromProto fills op and returns the EID that it is about.
func opFromProto(p *eidolonv1.MappingOperation, op *server.Op) (e mapping.EID, ferr *fieldError) {
	op.If = p.IfRevision
	switch x := p.GetOperation().(type) {
	case *eidolonv1.MappingOperation_Put:
		if op.Record, ferr = recordFromProto(x.Put); ferr != nil {
			return e, ferr.within("put")
		}
		return op.Record.EID, nil
	case *eidolonv1.MappingOperation_Delete:
		op.EID, ferr = eidFromProto("delete", x.Delete)
		return op.EID, ferr
	}
	return e, badField("operation", "it is missing, expected put or delete")
}

func (s *mappings) ImportMappings(stream grpc.BidiStreamingServer[eidolonv1.ImportMappingsRequest, eidolonv1.ImportMappingsResponse]) error {
	durable := uint64(0)
	for {
		req, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		recs, ferr := batchFromProto(req.GetRecords())
		if ferr != nil {
			return invalid(ferr)
		}
		if _, err := s.batch(stream.Context(), putOps(recs)); err != nil {
			return batchFailed("put mappings", err, "records[%d].eid", "")
		}
		durable += uint64(len(recs))
		if err := stream.Send(&eidolonv1.ImportMappingsResponse{DurableRecords: durable}); err != nil {
			return err
		}
	}
}

func (s *mappings) ExplainMapping(_ context.Context, req *eidolonv1.ExplainMappingRequest) (*eidolonv1.ExplainMappingResponse, error) {
	e, ferr := eidFromProto("eid", req.GetEid())
	if ferr != nil {
		return nil, invalid(ferr)
	}
	var itr netip.Addr
	if text := req.GetItrRloc(); text != "" {
		var err error
		if itr, err = netip.ParseAddr(text); err != nil {
			return nil, invalid(badField("itr_rloc", "found %q, expected an IPv4 or IPv6 address", text))
		}
	}
	return explanationToProto(s.db.Explain(e, itr.Unmap())), nil
}

func (s *mappings) ListSubscriptions(req *eidolonv1.ListSubscriptionsRequest, stream grpc.ServerStreamingServer[eidolonv1.ListSubscriptionsResponse]) error {
	filter, ferr := optionalEID("eid", req.GetEid())
	if ferr != nil {
		return invalid(ferr)
	}
	out := batches[*eidolonv1.Subscription]{send: func(list []*eidolonv1.Subscription) error {
		return stream.Send(&eidolonv1.ListSubscriptionsResponse{Subscriptions: list})
	}}
	for st := range s.db.Subscriptions() {
		if related(filter, st.EID) {
			if err := out.add(subscriptionToProto(st)); err != nil {
				return err
			}
		}
	}
	return out.flush()
}

func (s *mappings) MonitorMappings(req *eidolonv1.MonitorMappingsRequest, stream grpc.ServerStreamingServer[eidolonv1.MonitorMappingsResponse]) error {
	filter, ferr := optionalEID("eid", req.GetEid())
	if ferr != nil {
		return invalid(ferr)
	}
	sub, err := s.db.Watch(monitorQueue)
	return monitor(stream.Context(), sub, err, func(e server.Event) *eidolonv1.Event {
		if !wanted(filter, e.EID, false) {
			return nil
		}
		return serverEventToProto(e)
	}, func(events []*eidolonv1.Event) error {
		return stream.Send(&eidolonv1.MonitorMappingsResponse{Events: events})
	})
}
