package api

import (
	"context"
	"errors"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	eidolonv1 "github.com/eidolon-lisp/eidolon/api/proto/eidolon/v1"
	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/internal/fanout"
	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/server"
	"github.com/eidolon-lisp/eidolon/mapping/xtr"
)

// take receives events until there are n.
func take(t *testing.T, recv func() ([]*eidolonv1.Event, error), n int) []*eidolonv1.Event {
	t.Helper()
	var out []*eidolonv1.Event
	for len(out) < n {
		events, err := recv()
		if err != nil {
			t.Fatalf("after %d of %d events: %v", len(out), n, err)
		}
		out = append(out, events...)
	}
	return out
}

// watchMappings begins a watch and returns what receives its events.
func watchMappings(t *testing.T, c eidolonv1.MappingServiceClient, eid string) func() ([]*eidolonv1.Event, error) {
	t.Helper()
	stream, err := c.MonitorMappings(t.Context(), &eidolonv1.MonitorMappingsRequest{Eid: eid})
	if err != nil {
		t.Fatal(err)
	}
	if first, err := stream.Recv(); err != nil || len(first.GetEvents()) != 0 {
		t.Fatalf("the first message: %v, %v", first, err)
	}
	return func() ([]*eidolonv1.Event, error) {
		m, err := stream.Recv()
		return m.GetEvents(), err
	}
}

func TestMonitorMappings(t *testing.T) {
	db := newDatabase()
	c := eidolonv1.NewMappingServiceClient(serve(t, Mappings(db)))
	all, some := watchMappings(t, c, ""), watchMappings(t, c, "10.0.0.0/8")
	at := time.Unix(1700000000, 0)
	old, rec := mapping.NegativeRecord(mapping.MustParseEID("10.1.0.0/16"), mapping.Drop, 5), mapping.NegativeRecord(mapping.MustParseEID("10.1.0.0/16"), mapping.Drop, 60)
	db.events.Publish(server.Event{Time: at, Kind: server.EventRefused, Site: "a", Peer: netip.MustParseAddrPort("192.0.2.9:4342"), Reason: "refused_digest", Suppressed: 7})
	db.events.Publish(server.Event{Time: at, Kind: server.EventPut, EID: mapping.MustParseEID("[1]10.1.0.0/16"), Record: rec})
	db.events.Publish(server.Event{Time: at, Kind: server.EventChanged, EID: rec.EID, Site: "a", By: mapping.Registrant{XTRID: mapping.XTRID{15: 9}}, Record: rec, Previous: old})
	events := take(t, all, 3)
	if e := events[0]; e.GetKind() != eidolonv1.EventKind_EVENT_KIND_REGISTRATION_REFUSED || e.GetPeer() != "192.0.2.9:4342" || e.GetReason() != "refused_digest" || e.GetSuppressed() != 7 || e.GetEid() != "" || !e.GetTime().AsTime().Equal(at) {
		t.Errorf("refused: %v", e)
	}
	if e := events[1]; e.GetKind() != eidolonv1.EventKind_EVENT_KIND_PUT || e.GetEid() != "[1]10.1.0.0/16" || e.GetPrevious() != nil {
		t.Errorf("put: %v", e)
	}
	e := take(t, some, 1)[0]
	if e.GetKind() != eidolonv1.EventKind_EVENT_KIND_REGISTRATION_CHANGED || e.GetRegistrant() != "00000000000000000000000000000009" || e.GetRecord().GetRecordTtl() != 60 || e.GetPrevious().GetRecordTtl() != 5 {
		t.Errorf("changed: %v", e)
	}
	_, err := watchMappingsError(t, c, "x")
	wantField(t, err, "eid")
}

func watchMappingsError(t *testing.T, c eidolonv1.MappingServiceClient, eid string) (*eidolonv1.MonitorMappingsResponse, error) {
	t.Helper()
	stream, err := c.MonitorMappings(t.Context(), &eidolonv1.MonitorMappingsRequest{Eid: eid})
	if err != nil {
		t.Fatal(err)
	}
	return stream.Recv()
}

func TestMonitorRouter(t *testing.T) {
	x := &fakeXTR{}
	c := eidolonv1.NewRouterServiceClient(serve(t, Router(x, dataplane.NewFIB())))
	stream, err := c.MonitorRouter(t.Context(), &eidolonv1.MonitorRouterRequest{Eid: "10.2.0.0/16"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	x.events.Publish(xtr.Event{Kind: xtr.EventRemoved, EID: mapping.MustParseEID("10.3.0.0/16"), Reason: "it expired"})
	x.events.Publish(xtr.Event{Kind: xtr.EventRemoved, EID: mapping.MustParseEID("10.2.1.0/24"), Reason: "it expired"})
	x.events.Publish(xtr.Event{Kind: xtr.EventDown, RLOC: netip.MustParseAddr("192.0.2.2")})
	events := take(t, func() ([]*eidolonv1.Event, error) {
		m, err := stream.Recv()
		return m.GetEvents(), err
	}, 2)
	if e := events[0]; e.GetKind() != eidolonv1.EventKind_EVENT_KIND_CACHE_REMOVED || e.GetEid() != "10.2.1.0/24" || e.GetReason() != "it expired" {
		t.Errorf("removed: %v", e)
	}
	if e := events[1]; e.GetKind() != eidolonv1.EventKind_EVENT_KIND_RLOC_DOWN || e.GetEid() != "" || e.GetPeer() != "192.0.2.2" {
		t.Errorf("down: %v", e)
	}
}

// Every kind of event has a name in the API.
func TestEventKinds(t *testing.T) {
	for k := server.EventRegistered; k <= server.EventRefused; k++ {
		if serverEventKinds[k] == eidolonv1.EventKind_EVENT_KIND_UNSPECIFIED {
			t.Errorf("kind %d of the map-server has no name", k)
		}
	}
	for k := xtr.EventInstalled; k <= xtr.EventLocator; k++ {
		if routerEventKinds[k] == eidolonv1.EventKind_EVENT_KIND_UNSPECIFIED {
			t.Errorf("kind %d of the xTR has no name", k)
		}
	}
}

// A watcher that does not read is told how many events it lost, and costs the
// publisher no time.
func TestMonitorSlowWatcher(t *testing.T) {
	const many = 200_000
	db := newDatabase()
	recv := watchMappings(t, eidolonv1.NewMappingServiceClient(serve(t, Mappings(db))), "")
	e := server.Event{Kind: server.EventPut, EID: mapping.MustParseEID("10.1.0.0/16")}
	for range many {
		db.events.Publish(e)
	}
	var got, lost uint64
	for got+lost < many {
		for _, e := range take(t, recv, 1) {
			if lost += e.GetLost(); e.GetKind() != eidolonv1.EventKind_EVENT_KIND_LOST {
				got++
			}
		}
	}
	if got+lost != many || lost == 0 {
		t.Errorf("%d events and %d lost of %d", got, lost, many)
	}
}

func TestMonitorTooMany(t *testing.T) {
	db := newDatabase()
	for range fanout.MaxSubscriptions {
		if _, err := db.events.Subscribe(2); err != nil {
			t.Fatal(err)
		}
	}
	_, err := watchMappingsError(t, eidolonv1.NewMappingServiceClient(serve(t, Mappings(db))), "")
	wantCode(t, err, codes.ResourceExhausted, fanout.ErrTooMany.Error())
}

// A watch ends with the daemon, at once; and with the caller, who leaves no
// subscription behind.
func TestMonitorEnds(t *testing.T) {
	db := newDatabase()
	path := filepath.Join(t.TempDir(), "api.sock")
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, Config{Socket: path}, Mappings(db)) }()
	waitFor(t, path)
	c := eidolonv1.NewMappingServiceClient(dial(t, path))

	watch, leave := context.WithCancel(t.Context())
	stream, err := c.MonitorMappings(watch, &eidolonv1.MonitorMappingsRequest{})
	if err == nil {
		_, err = stream.Recv()
	}
	if err != nil {
		t.Fatal(err)
	}
	leave()
	for n := 0; db.events.Watched(); n++ {
		if n > 1000 {
			t.Fatal("a caller that left is still subscribed")
		}
		time.Sleep(time.Millisecond)
	}

	recv := watchMappings(t, c, "")
	begin := time.Now()
	stop()
	if _, err := recv(); status.Code(err) != codes.Unavailable || !errors.Is(<-done, nil) {
		t.Errorf("the watch ended with %v", err)
	}
	if took := time.Since(begin); took >= stopGrace {
		t.Errorf("the watch held the daemon up for %v", took)
	}
}
