package api

import (
	"errors"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	eidolonv1 "github.com/eidolon-lisp/eidolon/api/proto/eidolon/v1"
	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/server"
)

// watchProgress is after how many changes that are not watched a watcher is told
// the revision all the same: far fewer than the map-server keeps, so that one
// that is cut off can resume.
const watchProgress = 4096

// watch is one call of WatchMappings.
type watch struct {
	stream grpc.ServerStreamingServer[eidolonv1.WatchMappingsResponse]
	within mapping.EID
	told   uint64 // the last revision sent
}

func (s *mappings) WatchMappings(req *eidolonv1.WatchMappingsRequest, stream grpc.ServerStreamingServer[eidolonv1.WatchMappingsResponse]) error {
	within, ferr := optionalEID("within", req.GetWithin())
	if ferr != nil {
		return invalid(ferr)
	}
	w := &watch{stream: stream, within: within, told: req.GetAfterRevision()}
	var first server.Snapshot
	if req.AfterRevision == nil {
		first = s.db.Snapshot()
		w.told = first.Revision
	}
	f, err := s.db.Follow(w.told)
	if err != nil {
		return watchFailed(err)
	}
	defer f.Close()
	if req.AfterRevision == nil {
		err = w.snapshot(f, first)
	} else {
		err = stream.Send(&eidolonv1.WatchMappingsResponse{Revision: w.told})
	}
	first = server.Snapshot{} // its memory is not needed any more
	if err != nil {
		return err
	}
	return w.follow(f)
}

func watchFailed(err error) error {
	if e, ok := errors.AsType[*server.ResyncError](err); ok {
		return resync(e)
	}
	if errors.Is(err, server.ErrTooManyFollow) {
		return status.Error(codes.ResourceExhausted, "watch: "+err.Error())
	}
	return ended(err)
}

// snapshot sends what is there. It ends early where what has changed since is
// lost already.
func (w *watch) snapshot(f *server.Follower, d server.Snapshot) error {
	batch := &eidolonv1.WatchMappingsResponse{Snapshot: true}
	for st := range d.Mappings(w.within, mapping.EID{}) {
		if len(batch.Changes) == listBatch {
			if f.Lagging() {
				break // and the follower says so
			}
			if err := w.stream.Send(batch); err != nil {
				return err
			}
			batch = &eidolonv1.WatchMappingsResponse{Snapshot: true}
		}
		st.Registrants = nil
		batch.Changes = append(batch.Changes, &eidolonv1.MappingChange{Eid: st.Record.EID.String(), Mapping: mappingToProto(st), Revision: d.Revision})
	}
	if f.Lagging() {
		return nil
	}
	batch.Revision = d.Revision
	return w.stream.Send(batch)
}

// follow sends changes until the caller or the daemon ends it, or f is too slow.
func (w *watch) follow(f *server.Follower) error {
	ctx, stop := whileServing(w.stream.Context())
	defer stop()
	for skipped := 0; ; {
		changes, told, err := f.Next(ctx, listBatch)
		if err != nil {
			return watchFailed(err)
		}
		batch := new(eidolonv1.WatchMappingsResponse)
		for _, c := range changes {
			if w.within.IsValid() && !w.within.Covers(c.EID) {
				skipped++
				continue
			}
			p := &eidolonv1.MappingChange{Eid: c.EID.String(), Revision: c.Revision}
			if c.Mapping != nil {
				p.Mapping = mappingToProto(*c.Mapping)
			}
			batch.Changes = append(batch.Changes, p)
		}
		if len(batch.Changes) == 0 && (skipped < watchProgress || told == w.told) {
			continue
		}
		if told != w.told {
			batch.Revision, w.told, skipped = told, told, 0
		}
		if err := w.stream.Send(batch); err != nil {
			return err
		}
	}
}
