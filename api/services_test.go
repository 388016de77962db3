package api

import (
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	eidolonv1 "github.com/eidolon-lisp/eidolon/api/proto/eidolon/v1"
	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/server"
	"github.com/eidolon-lisp/eidolon/mapping/xtr"
)

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
	want := &eidolonv1.Mapping{PutRevision: db.Snapshot().Revision, Origin: eidolonv1.MappingOrigin_MAPPING_ORIGIN_API, Record: &eidolonv1.Record{
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
	c := eidolonv1.NewRouterServiceClient(serve(t, Router(x, dataplane.NewFIB())))
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
