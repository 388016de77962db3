package api

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	eidolonv1 "github.com/eidolon-lisp/eidolon/api/proto/eidolon/v1"
	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/server"
	"github.com/eidolon-lisp/eidolon/mapping/xtr"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeDatabase is a map-server that only has API mappings, kept in a map.
type fakeDatabase struct {
	mu    sync.Mutex
	recs  map[mapping.EID]*mapping.Record
	puts  []int // records of each Put
	err   error // of Put and Delete
	sites []server.SiteStatus
	regs  map[mapping.EID]server.MappingStatus
}

func newDatabase() *fakeDatabase {
	return &fakeDatabase{recs: map[mapping.EID]*mapping.Record{}, regs: map[mapping.EID]server.MappingStatus{}}
}

func (d *fakeDatabase) Sites() []server.SiteStatus { return d.sites }

func (d *fakeDatabase) Lookup(e mapping.EID) (best server.MappingStatus, ok bool) {
	for st := range d.Database(mapping.EID{}) {
		if st.Record.EID.Covers(e) && (!ok || st.Record.EID.Prefix.Bits() > best.Record.EID.Prefix.Bits()) {
			best, ok = st, true
		}
	}
	return best, ok
}

func (d *fakeDatabase) Database(e mapping.EID) iter.Seq[server.MappingStatus] {
	d.mu.Lock()
	defer d.mu.Unlock()
	var all []server.MappingStatus
	for _, r := range d.recs {
		all = append(all, server.MappingStatus{Record: r, Origin: server.OriginAPI})
	}
	for _, st := range d.regs {
		all = append(all, st)
	}
	all = slices.DeleteFunc(all, func(st server.MappingStatus) bool { return e.IsValid() && !e.Covers(st.Record.EID) })
	slices.SortFunc(all, func(a, b server.MappingStatus) int { return a.Record.EID.Compare(b.Record.EID) })
	return slices.Values(all)
}

func (d *fakeDatabase) Put(_ context.Context, recs []*mapping.Record) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err != nil {
		return d.err
	}
	d.puts = append(d.puts, len(recs))
	for _, r := range recs {
		d.recs[r.EID] = r
	}
	return nil
}

func (d *fakeDatabase) Delete(_ context.Context, eids []mapping.EID) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err != nil {
		return d.err
	}
	for _, e := range eids {
		if d.recs[e] == nil {
			return fmt.Errorf("%v: %w", e, server.ErrNoMapping)
		}
	}
	for _, e := range eids {
		delete(d.recs, e)
	}
	return nil
}

// fakeXTR has what it is told.
type fakeXTR struct {
	databases []xtr.DatabaseStatus
	servers   []xtr.MapServerStatus
	resolvers []xtr.MapResolverStatus
	mu        sync.Mutex
	cache     []mapping.CacheEntry
}

func (x *fakeXTR) Databases() []xtr.DatabaseStatus       { return x.databases }
func (x *fakeXTR) MapServers() []xtr.MapServerStatus     { return x.servers }
func (x *fakeXTR) MapResolvers() []xtr.MapResolverStatus { return x.resolvers }

func (x *fakeXTR) MapCache() []mapping.CacheEntry {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.Clone(x.cache)
}

func (x *fakeXTR) Lookup(iid uint32, dst netip.Addr) (best *mapping.Record, ok bool) {
	for _, e := range x.MapCache() {
		if e.Record.EID.Contains(iid, dst) && (best == nil || e.Record.EID.Prefix.Bits() > best.EID.Prefix.Bits()) {
			best = e.Record
		}
	}
	return best, best != nil
}

func (x *fakeXTR) Clear(eid mapping.EID) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	n := len(x.cache)
	x.cache = slices.DeleteFunc(x.cache, func(e mapping.CacheEntry) bool { return e.Record.EID == eid })
	return len(x.cache) < n
}

func someStats(yield func(string, uint64) bool) {
	_ = yield("map_requests", 7) && yield("map_replies", 1<<63)
}

// serve serves the services on a real socket until the test ends.
func serve(t *testing.T, services ...Service) *grpc.ClientConn {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sub", "api.sock")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, Config{Socket: path}, services...) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the socket is still there: %v", err)
		}
	})
	waitFor(t, path)
	return dial(t, path)
}

func waitFor(t *testing.T, path string) {
	t.Helper()
	for range 500 {
		if c, err := net.Dial("unix", path); err == nil {
			c.Close()
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("nobody answers on %s", path)
}

func dial(t *testing.T, path string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func wantCode(t *testing.T, err error, code codes.Code, text string) {
	t.Helper()
	if status.Code(err) != code || !strings.Contains(err.Error(), text) {
		t.Errorf("got %v, want code %v and %q", err, code, text)
	}
}

// wantField checks that the details of the error name a field.
func wantField(t *testing.T, err error, field string) {
	t.Helper()
	wantCode(t, err, codes.InvalidArgument, field)
	for _, d := range status.Convert(err).Details() {
		if b, ok := d.(*errdetails.BadRequest); ok && len(b.FieldViolations) == 1 && b.FieldViolations[0].Field == field {
			return
		}
	}
	t.Errorf("the details of %v do not name %s", err, field)
}

func TestAdmin(t *testing.T) {
	conn := serve(t, Admin("mapserver", func() iter.Seq2[string, uint64] { return someStats }))
	c := eidolonv1.NewAdminServiceClient(conn)
	v, err := c.GetVersion(t.Context(), &eidolonv1.GetVersionRequest{})
	if err != nil || v.GetProgram() != "mapserver" || v.GetVersion() == "" || v.GetGoVersion() == "" {
		t.Errorf("GetVersion: %v, %v", v, err)
	}
	s, err := c.GetStatistics(t.Context(), &eidolonv1.GetStatisticsRequest{Prefix: "map_rep"})
	if err != nil || len(s.GetStatistics()) != 1 || s.GetStatistics()[0].GetValue() != 1<<63 {
		t.Errorf("GetStatistics: %v, %v", s, err)
	}
	s, err = c.GetStatistics(t.Context(), &eidolonv1.GetStatisticsRequest{})
	if err != nil || len(s.GetStatistics()) != 2 || s.GetStatistics()[0].GetName() != "map_requests" {
		t.Errorf("GetStatistics: %v, %v", s, err)
	}
	h, err := healthv1.NewHealthClient(conn).Check(t.Context(), &healthv1.HealthCheckRequest{Service: "eidolon.v1.AdminService"})
	if err != nil || h.GetStatus() != healthv1.HealthCheckResponse_SERVING {
		t.Errorf("health: %v, %v", h, err)
	}
	if _, err := eidolonv1.NewRouterServiceClient(conn).ListMapServers(t.Context(), &eidolonv1.ListMapServersRequest{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("a service that is not there: %v", err)
	}
	stream, err := reflectionv1.NewServerReflectionClient(conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	resp, err := stream.Recv()
	if err != nil || !strings.Contains(resp.String(), "eidolon.v1.AdminService") {
		t.Errorf("reflection: %v, %v", resp, err)
	}
	stream.CloseSend()
}

func rec(eid, locator string) *eidolonv1.Record {
	return &eidolonv1.Record{Eid: eid, Locators: []*eidolonv1.Locator{{Address: locator, Priority: 1, Weight: 100}}}
}

func TestMappings(t *testing.T) {
	db := newDatabase()
	c := eidolonv1.NewMappingServiceClient(serve(t, Mappings(db)))
	ctx := t.Context()
	put := func(recs ...*eidolonv1.Record) error {
		_, err := c.PutMappings(ctx, &eidolonv1.PutMappingsRequest{Records: recs})
		return err
	}
	if err := put(rec("10.1.0.0/16", "192.0.2.1"), rec("10.0.0.0/8", "192.0.2.2"), rec("[7]2001:db8::/32", "2001:db8::1")); err != nil {
		t.Fatal(err)
	}

	got, err := c.GetMapping(ctx, &eidolonv1.GetMappingRequest{Eid: "10.0.0.0/8"})
	want := &eidolonv1.Mapping{Origin: eidolonv1.MappingOrigin_MAPPING_ORIGIN_API, Record: &eidolonv1.Record{
		Eid: "10.0.0.0/8", RecordTtl: proto.Uint32(1440), Locators: []*eidolonv1.Locator{
			{Address: "192.0.2.2", Priority: 1, Weight: 100, MulticastPriority: proto.Uint32(255), Reachable: proto.Bool(true)}}}}
	if err != nil || !proto.Equal(got.GetMapping(), want) {
		t.Errorf("GetMapping: %v, %v; want %v", got, err, want)
	}
	_, err = c.GetMapping(ctx, &eidolonv1.GetMappingRequest{Eid: "10.0.0.0/9"})
	wantCode(t, err, codes.NotFound, "10.0.0.0/9")
	_, err = c.GetMapping(ctx, &eidolonv1.GetMappingRequest{Eid: "10.0.0.0/7x"})
	wantField(t, err, "eid")

	found, err := c.LookupMapping(ctx, &eidolonv1.LookupMappingRequest{Eid: "10.1.2.3"})
	if err != nil || found.GetMapping().GetRecord().GetEid() != "10.1.0.0/16" {
		t.Errorf("LookupMapping: %v, %v", found, err)
	}
	_, err = c.LookupMapping(ctx, &eidolonv1.LookupMappingRequest{Eid: "[7]10.1.2.3"})
	wantCode(t, err, codes.NotFound, "[7]10.1.2.3")

	for _, l := range []struct {
		within string
		origin eidolonv1.MappingOrigin
		want   string
	}{
		{"", 0, "10.0.0.0/8 10.1.0.0/16 [7]2001:db8::/32"},
		{"10.0.0.0/9", 0, "10.1.0.0/16"},
		{"[7]::/0", eidolonv1.MappingOrigin_MAPPING_ORIGIN_API, "[7]2001:db8::/32"},
		{"", eidolonv1.MappingOrigin_MAPPING_ORIGIN_STATIC, ""},
	} {
		if got := listEIDs(t, c, l.within, l.origin); strings.Join(got, " ") != l.want {
			t.Errorf("ListMappings(%q, %v) = %v, want %v", l.within, l.origin, got, l.want)
		}
	}

	// A bad record in a batch: the field is named and nothing changes.
	wantField(t, put(rec("10.2.0.0/16", "192.0.2.1"), rec("10.3.0.0/16", "127.0.0.1")), "records[1].locators[0].address")
	wantField(t, put(rec("10.2.0.0/16", "192.0.2.1"), rec("10.2.0.0/16", "192.0.2.1")), "records[1].eid")
	wantField(t, put(), "records")
	if n := len(listEIDs(t, c, "", 0)); n != 3 {
		t.Errorf("there are %d mappings after bad batches, want 3", n)
	}

	del := func(eids ...string) error {
		_, err := c.DeleteMappings(ctx, &eidolonv1.DeleteMappingsRequest{Eids: eids})
		return err
	}
	wantField(t, del("10.0.0.0/8", "x"), "eids[1]")
	wantField(t, del(), "eids")
	wantCode(t, del("10.0.0.0/8", "10.9.0.0/16"), codes.NotFound, "10.9.0.0/16")
	if err := del("10.0.0.0/8", "[7]2001:db8::/32"); err != nil {
		t.Error(err)
	}
	if got := listEIDs(t, c, "", 0); !slices.Equal(got, []string{"10.1.0.0/16"}) {
		t.Errorf("left after DeleteMappings: %v", got)
	}

	db.err = fmt.Errorf("commit: %w", mapping.ErrStoreClosed)
	wantCode(t, put(rec("10.2.0.0/16", "192.0.2.1")), codes.Unavailable, "closed")
	db.err = errors.New("disk full")
	wantCode(t, del("10.1.0.0/16"), codes.Internal, "disk full")
}

func listEIDs(t *testing.T, c eidolonv1.MappingServiceClient, within string, origin eidolonv1.MappingOrigin) (eids []string) {
	t.Helper()
	stream, err := c.ListMappings(t.Context(), &eidolonv1.ListMappingsRequest{Within: within, Origin: origin})
	if err != nil {
		t.Fatal(err)
	}
	for {
		resp, err := stream.Recv()
		if err != nil {
			if status.Code(err) != codes.OK && err.Error() != "EOF" {
				t.Fatal(err)
			}
			return eids
		}
		if n := len(resp.GetMappings()); n == 0 || n > listBatch {
			t.Errorf("a message holds %d mappings", n)
		}
		for _, m := range resp.GetMappings() {
			eids = append(eids, m.GetRecord().GetEid())
		}
	}
}

func TestImport(t *testing.T) {
	db := newDatabase()
	c := eidolonv1.NewMappingServiceClient(serve(t, Mappings(db)))
	stream, err := c.ImportMappings(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	const batches, size = 3, 1000
	total := uint64(0)
	for b := range batches {
		req := &eidolonv1.ImportMappingsRequest{}
		for i := range size {
			req.Records = append(req.Records, rec(fmt.Sprintf("10.%d.%d.%d/32", b, i/256, i%256), "192.0.2.1"))
		}
		if err := stream.Send(req); err != nil {
			t.Fatal(err)
		}
		ack, err := stream.Recv()
		if total += size; err != nil || ack.GetDurableRecords() != total {
			t.Fatalf("acknowledged %v, %v; want %d", ack, err, total)
		}
	}
	if !slices.Equal(db.puts, []int{size, size, size}) {
		t.Errorf("puts of %v records", db.puts)
	}
	// The next batch is bad: the stream ends, what was acknowledged stays.
	if err := stream.Send(&eidolonv1.ImportMappingsRequest{Records: []*eidolonv1.Record{rec("11.0.0.0/8", "192.0.2.1"), {}}}); err != nil {
		t.Fatal(err)
	}
	_, err = stream.Recv()
	wantField(t, err, "records[1].eid")
	if got := len(listEIDs(t, c, "", 0)); got != batches*size {
		t.Errorf("%d mappings, want %d", got, batches*size)
	}
}

func TestTooLarge(t *testing.T) {
	c := eidolonv1.NewMappingServiceClient(serve(t, Mappings(newDatabase())))
	req := &eidolonv1.PutMappingsRequest{}
	for i := range maxBatch + 1 {
		req.Records = append(req.Records, rec(fmt.Sprintf("10.%d.%d.0/24", i/256, i%256), "192.0.2.1"))
	}
	_, err := c.PutMappings(t.Context(), req)
	wantField(t, err, "records")
	_, err = c.PutMappings(t.Context(), &eidolonv1.PutMappingsRequest{Records: []*eidolonv1.Record{rec(strings.Repeat("x", maxMessage), "192.0.2.1")}})
	wantCode(t, err, codes.ResourceExhausted, "larger than max")
}

func TestSites(t *testing.T) {
	db := newDatabase()
	at := time.Unix(1700000000, 0)
	db.sites = []server.SiteStatus{
		{Name: "a", Registrations: 1, MaxRegistrations: 10, LastRegistration: at, Accepted: 5, AuthFailures: 1, Refused: 2, Prefixes: []server.PrefixStatus{
			{SitePrefix: server.SitePrefix{EID: mapping.MustParseEID("10.1.0.0/16"), AcceptMoreSpecifics: true, ProxyReply: server.ProxyNever}, Registered: 1},
			{SitePrefix: server.SitePrefix{EID: mapping.MustParseEID("10.2.0.0/16")}},
		}},
		{Name: "b"},
	}
	e := mapping.MustParseEID("10.1.1.0/24")
	one := &mapping.Record{EID: e, TTL: 60, Locators: []mapping.Locator{mapping.MakeLocator(netip.MustParseAddr("192.0.2.1"), 1, 50)}}
	db.regs[e] = server.MappingStatus{Record: one, Origin: server.OriginRegistered, Site: "a", Forwarded: true, Registrants: []server.RegistrantStatus{
		{By: mapping.Registrant{XTRID: mapping.XTRID{15: 9}, SiteID: 4}, From: netip.MustParseAddrPort("192.0.2.1:4342"), Record: one, Flags: mapping.ProxyReply, Since: at, LastRegistration: at, Expires: at.Add(time.Minute)},
		{By: mapping.Registrant{RLOC: netip.MustParseAddr("192.0.2.2")}, Record: one, Flags: mapping.MergeSet, Since: at},
	}}
	conn := serve(t, Sites(db), Mappings(db))
	c := eidolonv1.NewSiteServiceClient(conn)
	resp, err := c.ListSites(t.Context(), &eidolonv1.ListSitesRequest{})
	if err != nil || len(resp.GetSites()) != 2 || len(resp.GetSites()[0].GetPrefixes()) != 2 {
		t.Fatalf("ListSites: %v, %v", resp, err)
	}
	s := resp.GetSites()[0]
	if s.GetRegistrations() != 1 || s.GetMaxRegistrations() != 10 || !s.GetLastRegistration().AsTime().Equal(at) || s.GetAccepted() != 5 || s.GetAuthFailures() != 1 || s.GetRefused() != 2 {
		t.Errorf("site %v", s)
	}
	p := s.GetPrefixes()[0]
	if p.GetEid() != "10.1.0.0/16" || !p.GetAcceptMoreSpecifics() || p.GetRegistered() != 1 || p.GetProxyReply() != eidolonv1.ProxyReplyPolicy_PROXY_REPLY_POLICY_NEVER {
		t.Errorf("prefix %v", p)
	}
	resp, err = c.ListSites(t.Context(), &eidolonv1.ListSitesRequest{Eid: "10.2.3.4"})
	if err != nil || len(resp.GetSites()) != 1 || len(resp.GetSites()[0].GetPrefixes()) != 1 {
		t.Errorf("ListSites of an EID: %v, %v", resp, err)
	}
	_, err = c.ListSites(t.Context(), &eidolonv1.ListSitesRequest{Name: "c"})
	wantCode(t, err, codes.NotFound, `"c"`)
	_, err = c.ListSites(t.Context(), &eidolonv1.ListSitesRequest{Eid: "c"})
	wantField(t, err, "eid")

	stream, err := c.ListRegistrations(t.Context(), &eidolonv1.ListRegistrationsRequest{Site: "a", Within: "10.0.0.0/8"})
	if err != nil {
		t.Fatal(err)
	}
	regs, err := stream.Recv()
	if err != nil || len(regs.GetRegistrations()) != 2 {
		t.Fatalf("ListRegistrations: %v, %v", regs, err)
	}
	r, r2 := regs.GetRegistrations()[0], regs.GetRegistrations()[1]
	if r.GetSite() != "a" || r.GetXtrId() != "00000000000000000000000000000009" || r.GetSiteId() != 4 || r.GetFrom() != "192.0.2.1:4342" || !r.GetProxyReply() || r.GetMerge() || r.GetRecord().GetEid() != "10.1.1.0/24" {
		t.Errorf("registration %v", r)
	}
	if r2.GetXtrId() != "" || r2.GetFrom() != "" || !r2.GetMerge() || r2.GetRefreshed() != nil || r2.GetExpires() != nil {
		t.Errorf("registration %v", r2)
	}
	stream, err = c.ListRegistrations(t.Context(), &eidolonv1.ListRegistrationsRequest{Site: "b"})
	if err != nil {
		t.Fatal(err)
	}
	if regs, err := stream.Recv(); err == nil {
		t.Errorf("registrations of site b: %v", regs)
	}
	m, err := eidolonv1.NewMappingServiceClient(conn).GetMapping(t.Context(), &eidolonv1.GetMappingRequest{Eid: "10.1.1.0/24"})
	if err != nil || m.GetMapping().GetSite() != "a" || !m.GetMapping().GetForwarded() || len(m.GetMapping().GetRegistrations()) != 2 {
		t.Errorf("GetMapping: %v, %v", m, err)
	}
}

func TestRouter(t *testing.T) {
	at := time.Unix(1700000000, 0)
	entry := func(eid string, ttl uint32) mapping.CacheEntry {
		return mapping.CacheEntry{Record: mapping.NegativeRecord(mapping.MustParseEID(eid), mapping.NativelyForward, ttl), Installed: at, Expires: at.Add(time.Minute)}
	}
	x := &fakeXTR{
		databases: []xtr.DatabaseStatus{{
			EID: mapping.MustParseEID("10.1.0.0/16"), TTL: 1440, Locators: []mapping.Locator{mapping.MakeLocator(netip.MustParseAddr("192.0.2.1"), 1, 100)},
			Registrations: []xtr.Registration{{MapServer: netip.MustParseAddrPort("203.0.113.10:4342"), State: xtr.RegistrationRegistered, LastSent: at, LastNotify: at, Failures: 0, RTT: time.Millisecond}},
		}, {EID: mapping.MustParseEID("[7]10.2.0.0/16"), TTL: 60}},
		servers:   []xtr.MapServerStatus{{Addr: netip.MustParseAddrPort("203.0.113.10:4342"), Databases: 2, Registered: 1, Failures: 3}},
		resolvers: []xtr.MapResolverStatus{{Addr: netip.MustParseAddrPort("[2001:db8::10]:4342"), Up: true, Requests: 9, Replies: 8, Timeouts: 1, RTT: time.Second}},
	}
	for i := range 2*listBatch + 1 {
		x.cache = append(x.cache, entry(fmt.Sprintf("10.%d.%d.0/24", i/256, i%256), 15))
	}
	x.cache = append(x.cache, entry("[7]10.0.0.0/8", 15))
	c := eidolonv1.NewRouterServiceClient(serve(t, Router(x)))
	ctx := t.Context()

	db, err := c.ListDatabaseMappings(ctx, &eidolonv1.ListDatabaseMappingsRequest{})
	if err != nil || len(db.GetDatabaseMappings()) != 2 {
		t.Fatalf("ListDatabaseMappings: %v, %v", db, err)
	}
	if r := db.GetDatabaseMappings()[0].GetRegistrations()[0]; r.GetState() != eidolonv1.RegistrationState_REGISTRATION_STATE_REGISTERED || r.GetRoundTripTime().AsDuration() != time.Millisecond || r.GetNext() != nil {
		t.Errorf("registration %v", r)
	}
	db, err = c.ListDatabaseMappings(ctx, &eidolonv1.ListDatabaseMappingsRequest{Eid: "[7]0.0.0.0/0"})
	if err != nil || len(db.GetDatabaseMappings()) != 1 || db.GetDatabaseMappings()[0].GetRecord().GetEid() != "[7]10.2.0.0/16" {
		t.Errorf("ListDatabaseMappings of instance 7: %v, %v", db, err)
	}
	ms, err := c.ListMapServers(ctx, &eidolonv1.ListMapServersRequest{})
	if err != nil || ms.GetMapServers()[0].GetRegistered() != 1 || ms.GetMapServers()[0].GetDatabaseMappings() != 2 || ms.GetMapServers()[0].GetFailures() != 3 {
		t.Errorf("ListMapServers: %v, %v", ms, err)
	}
	mr, err := c.ListMapResolvers(ctx, &eidolonv1.ListMapResolversRequest{})
	if err != nil || mr.GetMapResolvers()[0].GetAddress() != "[2001:db8::10]:4342" || !mr.GetMapResolvers()[0].GetUp() || mr.GetMapResolvers()[0].GetRoundTripTime().AsDuration() != time.Second {
		t.Errorf("ListMapResolvers: %v, %v", mr, err)
	}

	count := func(eid string) (n int) {
		stream, err := c.ListMapCache(ctx, &eidolonv1.ListMapCacheRequest{Eid: eid})
		if err != nil {
			t.Fatal(err)
		}
		for {
			resp, err := stream.Recv()
			if err != nil {
				return n
			}
			n += len(resp.GetEntries())
		}
	}
	if n := count(""); n != len(x.cache) {
		t.Errorf("the map-cache has %d entries, want %d", n, len(x.cache))
	}
	if n := count("10.0.3.7"); n != 1 {
		t.Errorf("%d entries for an address, want 1", n)
	}
	found, err := c.LookupMapCache(ctx, &eidolonv1.LookupMapCacheRequest{Eid: "10.0.3.7"})
	if err != nil || found.GetEntry().GetRecord().GetEid() != "10.0.3.0/24" || !found.GetEntry().GetExpires().AsTime().Equal(at.Add(time.Minute)) || found.GetEntry().GetLastUsed() != nil {
		t.Errorf("LookupMapCache: %v, %v", found, err)
	}
	_, err = c.LookupMapCache(ctx, &eidolonv1.LookupMapCacheRequest{Eid: "11.0.0.1"})
	wantCode(t, err, codes.NotFound, "11.0.0.1")
	_, err = c.LookupMapCache(ctx, &eidolonv1.LookupMapCacheRequest{Eid: "10.0.0.0/8"})
	wantField(t, err, "eid")

	cleared, err := c.ClearMapCache(ctx, &eidolonv1.ClearMapCacheRequest{Within: "10.0.3.0/24"})
	if err != nil || cleared.GetRemoved() != 1 || count("") != 2*listBatch+1 {
		t.Errorf("ClearMapCache: %v, %v, %d left", cleared, err, count(""))
	}
	cleared, err = c.ClearMapCache(ctx, &eidolonv1.ClearMapCacheRequest{})
	if err != nil || cleared.GetRemoved() != 2*listBatch+1 || count("") != 0 {
		t.Errorf("ClearMapCache: %v, %v, %d left", cleared, err, count(""))
	}
	_, err = c.ClearMapCache(ctx, &eidolonv1.ClearMapCacheRequest{Within: "?"})
	wantField(t, err, "within")
}

func TestSocket(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "api.sock")
	run := func(ctx context.Context) chan error {
		done := make(chan error, 1)
		go func() { done <- Serve(ctx, Config{Socket: path}, Admin("x")) }()
		return done
	}

	// Left over from a process that was killed: nobody answers.
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	stale.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := run(ctx)
	waitFor(t, path)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("mode of the socket: %v, %v", info.Mode(), err)
	}

	// One that answers is left alone, and goes on answering.
	if err := <-run(t.Context()); !errors.Is(err, ErrInUse) {
		t.Errorf("second daemon: %v, want ErrInUse", err)
	}
	waitFor(t, path)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}

	// Something else at that path is never removed.
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := <-run(t.Context()); err == nil || !strings.Contains(err.Error(), "not a socket") {
		t.Errorf("a file in the way: %v", err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "mine" {
		t.Errorf("the file in the way: %q, %v", b, err)
	}
}

// TestShutdown: a call that does not end does not keep Serve.
func TestShutdown(t *testing.T) {
	path := filepath.Join(t.TempDir(), "api.sock")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, Config{Socket: path}, Mappings(newDatabase())) }()
	waitFor(t, path)
	stream, err := eidolonv1.NewMappingServiceClient(dial(t, path)).ImportMappings(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&eidolonv1.ImportMappingsRequest{Records: []*eidolonv1.Record{rec("10.0.0.0/8", "192.0.2.1")}}); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(stopGrace + 5*time.Second):
		t.Fatal("Serve does not end")
	}
	if _, err := stream.Recv(); err == nil {
		t.Error("the stream goes on after the end")
	}
}

func TestPeers(t *testing.T) {
	c := &peerCredentials{uid: 1000, gid: 50}
	for _, p := range []struct {
		uid, gid uint32
		groups   []uint32
		want     bool
	}{
		{0, 0, nil, true},
		{1000, 9, nil, true},
		{1001, 50, nil, true},
		{1001, 9, []uint32{7, 50}, true},
		{1001, 9, []uint32{7, 8}, false},
		{65534, 65534, nil, false},
	} {
		if got := c.allows(PeerInfo{UID: p.uid, GID: p.gid}, p.groups); got != p.want {
			t.Errorf("uid %d gid %d groups %v: %v, want %v", p.uid, p.gid, p.groups, got, p.want)
		}
	}
	// What the kernel says of this very process.
	path := filepath.Join(t.TempDir(), "s")
	lis, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	out, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	in, err := lis.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	who, groups, err := peerOf(in)
	if err != nil || int(who.UID) != os.Geteuid() || int(who.GID) != os.Getegid() || int(who.PID) != os.Getpid() {
		t.Errorf("peer %+v, %v", who, err)
	}
	mine, err := os.Getgroups()
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range mine {
		if !slices.Contains(groups, uint32(g)) && g != os.Getegid() {
			t.Errorf("group %d is missing in %v", g, groups)
		}
	}
	// A peer that may not is refused before any call.
	if _, _, err := (&peerCredentials{uid: who.UID + 1, gid: 1 << 31, log: discard()}).ServerHandshake(in); (err == nil) != (who.UID == 0) {
		t.Errorf("handshake of a stranger: %v", err)
	}
}
