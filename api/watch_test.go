package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	eidolonv1 "github.com/eidolon-lisp/eidolon/api/proto/eidolon/v1"
	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/boltstore"
	"github.com/eidolon-lisp/eidolon/mapping/server"
)

// newServer is a real map-server without LISP sockets, whose store is at path;
// "" for none.
func newServer(t *testing.T, path string) (*server.Server, func()) {
	t.Helper()
	var store mapping.Store
	if path != "" {
		s, err := boltstore.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		store = s
	}
	s, err := server.New(t.Context(), server.Config{Static: []*mapping.Record{mapping.NegativeRecord(mapping.MustParseEID("192.0.2.0/24"), mapping.Drop, 5)}}, store)
	if err != nil {
		t.Fatal(err)
	}
	return s, func() {
		if store != nil {
			if err := store.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

func putting(eid, locator string, want ...uint64) *eidolonv1.MappingOperation {
	op := &eidolonv1.MappingOperation{Operation: &eidolonv1.MappingOperation_Put{Put: rec(eid, locator)}}
	if len(want) > 0 {
		op.IfRevision = &want[0]
	}
	return op
}

func deleting(eid string, want ...uint64) *eidolonv1.MappingOperation {
	op := &eidolonv1.MappingOperation{Operation: &eidolonv1.MappingOperation_Delete{Delete: eid}}
	if len(want) > 0 {
		op.IfRevision = &want[0]
	}
	return op
}

func change(t *testing.T, c eidolonv1.MappingServiceClient, ops ...*eidolonv1.MappingOperation) uint64 {
	t.Helper()
	resp, err := c.BatchMappings(t.Context(), &eidolonv1.BatchMappingsRequest{Operations: ops})
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetRevision()
}

func detail[T proto.Message](t *testing.T, err error) (found T) {
	t.Helper()
	for _, d := range status.Convert(err).Details() {
		if x, ok := d.(T); ok {
			return x
		}
	}
	t.Errorf("%v has no %T among its details", err, found)
	return found
}

// TestBatchMappings: all or nothing, and whoever fails knows which and why.
func TestBatchMappings(t *testing.T) {
	s, _ := newServer(t, "")
	c := eidolonv1.NewMappingServiceClient(serve(t, Mappings(s)))
	first := change(t, c, putting("10.0.0.0/8", "192.0.2.1", 0), putting("11.0.0.0/8", "192.0.2.1"))
	got, err := c.GetMapping(t.Context(), &eidolonv1.GetMappingRequest{Eid: "10.0.0.0/8"})
	if err != nil || got.GetMapping().GetPutRevision() != first || first == 0 {
		t.Errorf("put_revision: %v, %v; want %d", got, err, first)
	}
	second := change(t, c, putting("10.0.0.0/8", "192.0.2.2", first), deleting("11.0.0.0/8", first), putting("12.0.0.0/8", "192.0.2.2", 0))
	if second != first+1 {
		t.Errorf("revision %d after %d", second, first)
	}
	batch := func(ops ...*eidolonv1.MappingOperation) error {
		_, err := c.BatchMappings(t.Context(), &eidolonv1.BatchMappingsRequest{Operations: ops})
		return err
	}
	err = batch(putting("13.0.0.0/8", "192.0.2.1"), putting("10.0.0.0/8", "192.0.2.3", first), deleting("12.0.0.0/8", second+7))
	wantCode(t, err, codes.Aborted, fmt.Sprintf("10.0.0.0/8 is at revision %d, not %d, and 1 more", second, first))
	if v := detail[*errdetails.BadRequest](t, err).GetFieldViolations(); len(v) != 2 || v[0].GetField() != "operations[1].if_revision" || v[1].GetField() != "operations[2].if_revision" {
		t.Errorf("fields: %v", v)
	}
	if v := detail[*errdetails.PreconditionFailure](t, err).GetViolations(); len(v) != 2 || v[0].GetType() != "REVISION" || v[0].GetSubject() != "10.0.0.0/8" || v[1].GetSubject() != "12.0.0.0/8" {
		t.Errorf("preconditions: %v", v)
	}
	err = batch(putting("13.0.0.0/8", "192.0.2.1"), deleting("14.0.0.0/8"))
	wantCode(t, err, codes.NotFound, "14.0.0.0/8")
	if v := detail[*errdetails.BadRequest](t, err).GetFieldViolations(); len(v) != 1 || v[0].GetField() != "operations[1]" {
		t.Errorf("fields: %v", v)
	}
	wantField(t, batch(), "operations")
	wantField(t, batch(putting("13.0.0.0/8", "192.0.2.1"), &eidolonv1.MappingOperation{}), "operations[1].operation")
	wantField(t, batch(putting("13.0.0.0/8", "192.0.2.1"), putting("10.0.0.0/33", "192.0.2.1")), "operations[1].put.eid")
	wantField(t, batch(putting("13.0.0.0/8", "192.0.2.1"), putting("14.0.0.0/8", "192.0.2.x")), "operations[1].put.locators[0].address")
	wantField(t, batch(deleting("10.0.0.0/8"), deleting("y")), "operations[1].delete")
	wantField(t, batch(deleting("10.0.0.0/8"), putting("10.0.0.0/8", "192.0.2.1")), "operations[1]")

	// Put and Delete have preconditions, too.
	_, err = c.PutMappings(t.Context(), &eidolonv1.PutMappingsRequest{Records: []*eidolonv1.Record{rec("13.0.0.0/8", "192.0.2.1"), rec("10.0.0.0/8", "192.0.2.1")}, IfRevisions: []uint64{0, first}})
	wantCode(t, err, codes.Aborted, "10.0.0.0/8")
	if v := detail[*errdetails.BadRequest](t, err).GetFieldViolations(); len(v) != 1 || v[0].GetField() != "if_revisions[1]" {
		t.Errorf("fields: %v", v)
	}
	_, err = c.PutMappings(t.Context(), &eidolonv1.PutMappingsRequest{Records: []*eidolonv1.Record{rec("13.0.0.0/8", "192.0.2.1")}, IfRevisions: []uint64{0, 0}})
	wantField(t, err, "if_revisions")
	_, err = c.DeleteMappings(t.Context(), &eidolonv1.DeleteMappingsRequest{Eids: []string{"10.0.0.0/8", "12.0.0.0/8"}, IfRevisions: []uint64{second, first}})
	wantCode(t, err, codes.Aborted, "12.0.0.0/8")
	_, err = c.DeleteMappings(t.Context(), &eidolonv1.DeleteMappingsRequest{Eids: []string{"10.0.0.0/8", "10.0.0.0/8"}})
	wantField(t, err, "eids[1]")
	if got := listEIDs(t, c, "", eidolonv1.MappingOrigin_MAPPING_ORIGIN_API); strings.Join(got, " ") != "10.0.0.0/8 12.0.0.0/8" {
		t.Errorf("after batches that failed there are %v", got)
	}
	put, err := c.PutMappings(t.Context(), &eidolonv1.PutMappingsRequest{Records: []*eidolonv1.Record{rec("13.0.0.0/8", "192.0.2.1")}, IfRevisions: []uint64{0}})
	if err != nil || put.GetRevision() != second+1 {
		t.Errorf("put: %v, %v", put, err)
	}
	gone, err := c.DeleteMappings(t.Context(), &eidolonv1.DeleteMappingsRequest{Eids: []string{"13.0.0.0/8"}, IfRevisions: []uint64{put.GetRevision()}})
	if err != nil || gone.GetRevision() != second+2 {
		t.Errorf("delete: %v, %v", gone, err)
	}
}

// TestPageMappings: what is there all the time is in exactly one page, whatever
// happens between the pages.
func TestPageMappings(t *testing.T) {
	s, _ := newServer(t, "")
	c := eidolonv1.NewMappingServiceClient(serve(t, Mappings(s)))
	var ops []*eidolonv1.MappingOperation
	for i := range 600 {
		ops = append(ops, putting(fmt.Sprintf("10.%d.%d.0/24", i/100, i%100), "192.0.2.1"))
	}
	ops = append(ops, putting("10.0.0.0/8", "192.0.2.1"), putting("[7]2001:db8::/32", "192.0.2.1"), putting("10.2.0.0/16 from 172.16.0.0/12", "192.0.2.1"))
	change(t, c, ops...)
	page := func(req *eidolonv1.PageMappingsRequest) (eids []string, next string) {
		t.Helper()
		resp, err := c.PageMappings(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range resp.GetMappings() {
			eids = append(eids, m.GetRecord().GetEid())
		}
		if resp.GetRevision() == 0 {
			t.Error("a page has no revision")
		}
		return eids, resp.GetNextPageToken()
	}
	all := func(req *eidolonv1.PageMappingsRequest, between func()) (eids []string) {
		t.Helper()
		for {
			some, next := page(req)
			if n := int(req.GetPageSize()); n > 0 && len(some) > n {
				t.Errorf("a page of %d, asked for %d", len(some), n)
			}
			if eids = append(eids, some...); next == "" {
				return eids
			}
			req.PageToken = next
			between()
		}
	}
	whole := listEIDs(t, c, "", 0)
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 1))
	steady := make(map[string]int)
	got := all(&eidolonv1.PageMappingsRequest{PageSize: 37}, func() {
		// Every third one comes and goes.
		i := rng.IntN(200) * 3
		e := fmt.Sprintf("10.%d.%d.0/24", i/100, i%100)
		if _, err := s.Batch(t.Context(), []server.Op{{EID: mapping.MustParseEID(e)}}); err != nil {
			change(t, c, putting(e, "192.0.2.2"))
		}
		change(t, c, putting(fmt.Sprintf("10.%d.%d.128/25", rng.IntN(6), rng.IntN(100)), "192.0.2.3"))
	})
	for _, e := range got {
		if steady[e]++; steady[e] > 1 {
			t.Errorf("seed %d: %s is in two pages", seed, e)
		}
	}
	for i, e := range whole {
		var n, m int
		if k, _ := fmt.Sscanf(e, "10.%d.%d.0/24", &n, &m); (k < 2 || (n*100+m)%3 != 0) && steady[e] != 1 {
			t.Errorf("seed %d: %s, number %d, is in %d pages", seed, e, i, steady[e])
		}
	}
	none := func() {}
	for _, x := range []struct {
		req  *eidolonv1.PageMappingsRequest
		want string
	}{
		{&eidolonv1.PageMappingsRequest{Within: "[7]::/0"}, "[7]2001:db8::/32"},
		{&eidolonv1.PageMappingsRequest{Covering: "10.5.8.1", PageSize: 1}, "10.0.0.0/8 10.5.8.0/24"},
		{&eidolonv1.PageMappingsRequest{Covering: "10.2.2.1 from 172.16.0.1", PageSize: 1}, "10.0.0.0/8 10.2.2.0/24 10.2.0.0/16 from 172.16.0.0/12"},
		{&eidolonv1.PageMappingsRequest{Origin: eidolonv1.MappingOrigin_MAPPING_ORIGIN_STATIC, PageSize: 3}, "192.0.2.0/24"},
		{&eidolonv1.PageMappingsRequest{Site: "nobody"}, ""},
	} {
		if got := strings.Join(all(x.req, none), " "); got != x.want {
			t.Errorf("%v: %s, want %s", x.req, got, x.want)
		}
	}
	if some, next := page(&eidolonv1.PageMappingsRequest{}); len(some) != defaultPage || next == "" {
		t.Errorf("a page of %d without a size", len(some))
	}
	if some, _ := page(&eidolonv1.PageMappingsRequest{PageSize: 1 << 30}); len(some) < 600 || len(some) > maxPage {
		t.Errorf("a page of %d of the largest size", len(some))
	}
	_, next := page(&eidolonv1.PageMappingsRequest{Within: "10.0.0.0/8", PageSize: 5})
	for field, req := range map[string]*eidolonv1.PageMappingsRequest{
		"page_token": {Within: "10.0.0.0/9", PageSize: 5, PageToken: next},
		"page_size":  {PageSize: -1},
		"within":     {Within: "10.0.0.0/40"},
		"covering":   {Within: "10.0.0.0/8", Covering: "10.0.0.1"},
	} {
		_, err := c.PageMappings(t.Context(), req)
		wantField(t, err, field)
	}
	for _, token := range []string{"x", "!!", next[1:], next[:len(next)-2] + "\x00"} {
		_, err := c.PageMappings(t.Context(), &eidolonv1.PageMappingsRequest{Within: "10.0.0.0/8", PageToken: token})
		if status.Code(err) != codes.InvalidArgument && status.Code(err) != codes.Internal { // not UTF-8
			t.Errorf("token %q: %v", token, err)
		}
	}
}

// watcher is a client that keeps a copy.
type watcher struct {
	stream eidolonv1.MappingService_WatchMappingsClient
	have   map[string]*eidolonv1.Mapping
	told   uint64
}

func watching(t *testing.T, ctx context.Context, c eidolonv1.MappingServiceClient, req *eidolonv1.WatchMappingsRequest) *watcher {
	t.Helper()
	stream, err := c.WatchMappings(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	return &watcher{stream: stream, have: map[string]*eidolonv1.Mapping{}}
}

// until receives up to a revision, and returns how many changes of a snapshot
// and how many others came.
func (w *watcher) until(t *testing.T, revision uint64) (snapshot, changes int) {
	t.Helper()
	for w.told < revision {
		resp, err := w.stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		for _, ch := range resp.GetChanges() {
			if ch.GetMapping() == nil {
				delete(w.have, ch.GetEid())
			} else {
				w.have[ch.GetEid()] = ch.GetMapping()
			}
			if ch.GetRevision() == 0 {
				t.Errorf("a change without a revision: %v", ch)
			}
		}
		if resp.GetSnapshot() {
			snapshot += len(resp.GetChanges())
		} else {
			changes += len(resp.GetChanges())
		}
		w.told = max(w.told, resp.GetRevision())
	}
	return snapshot, changes
}

func (w *watcher) verify(t *testing.T, c eidolonv1.MappingServiceClient, within string) {
	t.Helper()
	eids := listEIDs(t, c, within, 0)
	if len(eids) != len(w.have) {
		t.Errorf("a copy has %d mappings, the database %d", len(w.have), len(eids))
	}
	for _, e := range eids {
		got, err := c.GetMapping(t.Context(), &eidolonv1.GetMappingRequest{Eid: e})
		if err != nil || !proto.Equal(got.GetMapping(), w.have[e]) {
			t.Errorf("%s: %v in the copy, %v, %v", e, w.have[e], got, err)
		}
	}
}

func TestWatchMappings(t *testing.T) {
	s, _ := newServer(t, "")
	c := eidolonv1.NewMappingServiceClient(serve(t, Mappings(s)))
	var ops []*eidolonv1.MappingOperation
	for i := range 300 {
		ops = append(ops, putting(fmt.Sprintf("10.1.%d.%d", i/256, i%256), "192.0.2.1"))
	}
	first := change(t, c, ops...)
	all := watching(t, t.Context(), c, &eidolonv1.WatchMappingsRequest{})
	part := watching(t, t.Context(), c, &eidolonv1.WatchMappingsRequest{Within: "10.2.0.0/16"})
	if n, _ := all.until(t, first); n != 301 {
		t.Errorf("a snapshot of %d", n)
	}
	if n, _ := part.until(t, first); n != 0 {
		t.Errorf("a snapshot of %d of nothing", n)
	}
	change(t, c, putting("10.2.1.0/24", "192.0.2.2"), putting("10.2.2.0/24", "192.0.2.2"))
	change(t, c, deleting("10.1.0.7"), putting("10.1.0.8", "192.0.2.3"))
	last := change(t, c, deleting("10.2.1.0/24"))
	if _, n := all.until(t, last); n != 5 {
		t.Errorf("%d changes, want 5", n)
	}
	if _, n := part.until(t, last); n != 3 {
		t.Errorf("%d changes inside the prefix, want 3", n)
	}
	all.verify(t, c, "")
	part.verify(t, c, "10.2.0.0/16")

	// One that is not concerned is told now and then how far it is.
	for i := range 2 {
		ops = ops[:0]
		for j := range watchProgress {
			ops = append(ops, putting(fmt.Sprintf("10.3.%d.%d", j/256, j%256), fmt.Sprintf("192.0.2.%d", i+1)))
		}
		last = change(t, c, ops...)
	}
	if _, n := part.until(t, last); n != 0 {
		t.Errorf("%d changes inside the prefix, want none", n)
	}

	// It resumes where it was, and is told when that is not possible.
	next := change(t, c, putting("10.2.9.0/24", "192.0.2.1"))
	again := watching(t, t.Context(), c, &eidolonv1.WatchMappingsRequest{Within: "10.2.0.0/16", AfterRevision: &last})
	again.have = part.have
	if n, m := again.until(t, next); n != 0 || m != 1 {
		t.Errorf("resumed with a snapshot of %d and %d changes", n, m)
	}
	again.verify(t, c, "10.2.0.0/16")
	for _, after := range []uint64{first - 5, next + 1} {
		_, err := watching(t, t.Context(), c, &eidolonv1.WatchMappingsRequest{AfterRevision: &after}).stream.Recv()
		wantCode(t, err, codes.OutOfRange, "begin again with a snapshot")
		info := detail[*errdetails.ErrorInfo](t, err)
		if info.GetReason() != "RESYNC_REQUIRED" || info.GetMetadata()["revision"] != fmt.Sprint(next) || info.GetMetadata()["after_revision"] != fmt.Sprint(after) {
			t.Errorf("details: %v", info)
		}
	}
	_, err := watching(t, t.Context(), c, &eidolonv1.WatchMappingsRequest{Within: "x"}).stream.Recv()
	wantField(t, err, "within")
}

// TestWatchSlowConsumer: one that does not read costs nothing that grows, holds
// nobody up, and is told to begin again.
func TestWatchSlowConsumer(t *testing.T) {
	s, _ := newServer(t, "")
	conn := serve(t, Mappings(s))
	c := eidolonv1.NewMappingServiceClient(conn)
	w := watching(t, t.Context(), c, &eidolonv1.WatchMappingsRequest{})
	w.until(t, s.Snapshot().Revision)
	var recs []server.Op
	for i := range 20_000 {
		recs = append(recs, server.Op{Record: &mapping.Record{EID: mapping.MustParseEID(fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&0xff, i&0xff)), TTL: 1}})
	}
	begin := time.Now()
	for round := range 8 {
		for i := range recs {
			r := *recs[i].Record
			r.TTL = uint32(round + 1)
			recs[i].Record = &r
		}
		if _, err := s.Batch(t.Context(), recs); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("160,000 changes in %v beside one who does not read", time.Since(begin))
	changes := 0
	for {
		resp, err := w.stream.Recv()
		if err != nil {
			wantCode(t, err, codes.OutOfRange, "begin again")
			if info := detail[*errdetails.ErrorInfo](t, err); info.GetReason() != "RESYNC_REQUIRED" {
				t.Errorf("details: %v", info)
			}
			break
		}
		if changes += len(resp.GetChanges()); changes > 160_000 {
			t.Fatal("nothing was lost: it was not slow")
		}
	}
	t.Logf("it got %d of them", changes)
	fresh := watching(t, t.Context(), c, &eidolonv1.WatchMappingsRequest{})
	if n, _ := fresh.until(t, s.Snapshot().Revision); n != 20_001 {
		t.Errorf("the new snapshot has %d mappings", n)
	}
}

// TestWatchRestart: a watcher goes on after a restart of the map-server without
// a snapshot where it knew all, and is told where it did not. A map-server that
// stops ends the watch.
func TestWatchRestart(t *testing.T) {
	dir := t.TempDir()
	path, socket := filepath.Join(dir, "db"), filepath.Join(dir, "api.sock")
	start := func() (eidolonv1.MappingServiceClient, func()) {
		s, closeStore := newServer(t, path)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- Serve(ctx, Config{Socket: socket}, Mappings(s)) }()
		waitFor(t, socket)
		return eidolonv1.NewMappingServiceClient(dial(t, socket)), func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
			closeStore()
		}
	}
	c, stop := start()
	early := change(t, c, putting("10.0.0.0/8", "192.0.2.1"))
	w := watching(t, t.Context(), c, &eidolonv1.WatchMappingsRequest{})
	late := change(t, c, putting("11.0.0.0/8", "192.0.2.1"))
	w.until(t, late)
	stop()
	for {
		if _, err := w.stream.Recv(); err != nil {
			if errors.Is(err, io.EOF) {
				t.Error("the watch ended as if in order")
			}
			wantCode(t, err, codes.Unavailable, "")
			break
		}
	}
	c, stop = start()
	defer stop()
	again := watching(t, t.Context(), c, &eidolonv1.WatchMappingsRequest{AfterRevision: &late})
	again.have = w.have
	next := change(t, c, deleting("10.0.0.0/8", early), putting("12.0.0.0/8", "192.0.2.1", 0))
	if n, m := again.until(t, next); n != 0 || m != 2 || next != late+1 {
		t.Errorf("resumed at %d of %d with a snapshot of %d and %d changes", late, next, n, m)
	}
	again.verify(t, c, "")
	_, err := watching(t, t.Context(), c, &eidolonv1.WatchMappingsRequest{AfterRevision: &early}).stream.Recv()
	wantCode(t, err, codes.OutOfRange, "begin again with a snapshot")
}
