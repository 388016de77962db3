package api

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	eidolonv1 "github.com/eidolon-lisp/eidolon/api/proto/eidolon/v1"
	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/server"
	"github.com/eidolon-lisp/eidolon/mapping/xtr"
)

// clientMax is the largest message that a client of gRPC takes by default, in
// octets.
const clientMax = 4 << 20

// TestLocatorSets: the sets in pages, which change between two of them, and what of
// a set is told.
func TestLocatorSets(t *testing.T) {
	x := &fakeXTR{sets: []xtr.LocatorSetStatus{{Name: "z", Databases: many(300), Members: []xtr.LocatorSetMember{
		{Locator: mapping.MakeLocator(netip.MustParseAddr("192.0.2.1"), 1, 70), Uplink: "eth2", Here: true, State: xtr.LocatorDead},
		{Locator: mapping.MakeLocator(netip.MustParseAddr("192.0.2.2"), 2, 30)},
		{Locator: mapping.Locator{Priority: 3}, Uplink: "eth3", Here: true, State: xtr.LocatorGone},
	}}, {Name: "a"}, {Name: "m"}}}
	c := eidolonv1.NewRouterServiceClient(serve(t, Router(x, dataplane.NewFIB())))
	resp, err := c.ListLocatorSets(t.Context(), &eidolonv1.ListLocatorSetsRequest{Name: "z"})
	if err != nil || len(resp.GetLocatorSets()) != 1 || resp.GetNextPageToken() != "" {
		t.Fatalf("ListLocatorSets: %v, %v", resp, err)
	}
	s := resp.GetLocatorSets()[0]
	if l := s.GetLocators()[0]; l.GetLocator().GetAddress() != "192.0.2.1" || l.GetLocator().GetPriority() != 1 || l.GetLocator().GetWeight() != 70 || l.GetInterface() != "eth2" ||
		l.GetState() != eidolonv1.LocalLocatorState_LOCAL_LOCATOR_STATE_DEAD {
		t.Errorf("a locator of this router: %v", l)
	}
	if l := s.GetLocators()[1]; l.GetInterface() != "" || l.GetState() != eidolonv1.LocalLocatorState_LOCAL_LOCATOR_STATE_UNSPECIFIED {
		t.Errorf("a locator of another router: %v", l)
	}
	if l := s.GetLocators()[2]; l.GetLocator().GetAddress() != "" || l.GetLocator().GetReachable() || l.GetInterface() != "eth3" || l.GetState() != eidolonv1.LocalLocatorState_LOCAL_LOCATOR_STATE_GONE {
		t.Errorf("an interface without an address: %v", l)
	}
	if len(s.GetDatabaseMappings()) != 256 || s.GetDatabaseMappings()[0] != "10.0.0.0/32" || s.GetDatabaseMappingCount() != 300 {
		t.Errorf("%d of %d database-mappings", len(s.GetDatabaseMappings()), s.GetDatabaseMappingCount())
	}

	first, err := c.ListLocatorSets(t.Context(), &eidolonv1.ListLocatorSetsRequest{PageSize: 2})
	if err != nil || namesOfSets(first) != "a m" || first.GetNextPageToken() == "" {
		t.Fatalf("the first page: %v, %v", first, err)
	}
	x.sets = []xtr.LocatorSetStatus{{Name: "n"}, {Name: "b"}, {Name: "z"}} // that the page ended with is gone
	next, err := c.ListLocatorSets(t.Context(), &eidolonv1.ListLocatorSetsRequest{PageSize: 2, PageToken: first.GetNextPageToken()})
	if err != nil || namesOfSets(next) != "n z" || next.GetNextPageToken() != "" {
		t.Errorf("the next page: %v, %v", next, err)
	}
	for field, req := range map[string]*eidolonv1.ListLocatorSetsRequest{
		"page_token": {Name: "z", PageToken: first.GetNextPageToken()}, "page_size": {PageSize: -1},
	} {
		_, err := c.ListLocatorSets(t.Context(), req)
		wantField(t, err, field)
	}
	_, err = c.ListLocatorSets(t.Context(), &eidolonv1.ListLocatorSetsRequest{PageToken: "nonsense"})
	wantField(t, err, "page_token")
	_, err = c.ListLocatorSets(t.Context(), &eidolonv1.ListLocatorSetsRequest{Name: "b2"})
	wantCode(t, err, codes.NotFound, "b2")

	// Whatever the sets hold, a page is one that a client takes.
	x.sets = nil
	for i := range 200 {
		s := xtr.LocatorSetStatus{Name: fmt.Sprintf("set-%03d", i), Databases: many(256)}
		for a := range 255 {
			s.Members = append(s.Members, xtr.LocatorSetMember{Locator: mapping.MakeLocator(netip.AddrFrom4([4]byte{192, 0, byte(i), byte(a)}), 1, 1), Uplink: "a-long-interface"[:15]})
		}
		x.sets = append(x.sets, s)
	}
	var seen []string
	for token, pages := "", 0; ; pages++ {
		resp, err := c.ListLocatorSets(t.Context(), &eidolonv1.ListLocatorSetsRequest{PageSize: 1000, PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		if n := proto.Size(resp); n > clientMax {
			t.Errorf("a page of %d octets", n)
		}
		for _, s := range resp.GetLocatorSets() {
			seen = append(seen, s.GetName())
		}
		if token = resp.GetNextPageToken(); token == "" {
			if pages == 0 {
				t.Error("all in one page")
			}
			break
		}
	}
	if len(seen) != 200 || !slices.IsSorted(seen) || len(slices.Compact(seen)) != 200 {
		t.Errorf("%d sets in pages", len(seen))
	}
}

// many returns n EIDs.
func many(n int) (list []mapping.EID) {
	for i := range n {
		list = append(list, mapping.HostEID(0, netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})))
	}
	return list
}

func namesOfSets(resp *eidolonv1.ListLocatorSetsResponse) string {
	var names []string
	for _, s := range resp.GetLocatorSets() {
		names = append(names, s.GetName())
	}
	return strings.Join(names, " ")
}

// walked asks for all pages of a list and checks that each is one that a client
// takes.
func walked(t *testing.T, ask func(token string) (proto.Message, string, error)) (pages int) {
	t.Helper()
	for token := ""; ; {
		resp, next, err := ask(token)
		if err != nil {
			t.Fatal(err)
		}
		if n := proto.Size(resp); n > clientMax {
			t.Errorf("a page of %d octets", n)
		}
		pages++
		if token = next; token == "" {
			return pages
		}
	}
}

// wantTooLarge checks that an error asks for pages, which is not what a client says
// of a message that it does not take.
func wantTooLarge(t *testing.T, err error) {
	t.Helper()
	wantCode(t, err, codes.ResourceExhausted, "page_size: ")
	for _, d := range status.Convert(err).Details() {
		if b, ok := d.(*errdetails.BadRequest); ok && len(b.FieldViolations) == 1 && b.FieldViolations[0].Field == "page_size" {
			return
		}
	}
	t.Errorf("the details of %v do not name page_size", err)
}

// TestManyDatabaseMappings: EID-prefixes learned by BGP are more than a message
// holds; in pages a client of gRPC gets all of them.
func TestManyDatabaseMappings(t *testing.T) {
	const n = 15_000
	x := new(fakeXTR)
	for _, e := range many(n) {
		x.databases = append(x.databases, xtr.DatabaseStatus{EID: e, TTL: 60, Locators: manyLocators(16)})
	}
	slices.Reverse(x.databases)
	c := eidolonv1.NewRouterServiceClient(serve(t, Router(x, dataplane.NewFIB())))
	_, err := c.ListDatabaseMappings(t.Context(), &eidolonv1.ListDatabaseMappingsRequest{})
	wantTooLarge(t, err)
	var got []string
	pages := walked(t, func(token string) (proto.Message, string, error) {
		resp, err := c.ListDatabaseMappings(t.Context(), &eidolonv1.ListDatabaseMappingsRequest{PageSize: 1000, PageToken: token})
		for _, d := range resp.GetDatabaseMappings() {
			got = append(got, d.GetRecord().GetEid())
		}
		return resp, resp.GetNextPageToken(), err
	})
	if len(got) != n || pages < n/1000 || got[0] != "10.0.0.0/32" || got[n-1] != x.databases[0].EID.String() {
		t.Errorf("%d database-mappings in %d pages", len(got), pages)
	}
	_, err = c.ListDatabaseMappings(t.Context(), &eidolonv1.ListDatabaseMappingsRequest{PageSize: -1})
	wantField(t, err, "page_size")
	whole, err := c.ListDatabaseMappings(t.Context(), &eidolonv1.ListDatabaseMappingsRequest{Eid: "10.0.0.0/24"})
	if list := whole.GetDatabaseMappings(); err != nil || len(list) != 256 || list[0].GetRecord().GetEid() != "10.0.0.255/32" || whole.GetNextPageToken() != "" {
		t.Errorf("%d database-mappings of a prefix, %v", len(list), err)
	}
	for i := range x.databases { // a page is bounded by its octets too
		x.databases[i].Locators = manyLocators(255)
	}
	x.databases = x.databases[:1000]
	if pages := walked(t, func(token string) (proto.Message, string, error) {
		resp, err := c.ListDatabaseMappings(t.Context(), &eidolonv1.ListDatabaseMappingsRequest{PageSize: 1000, PageToken: token})
		return resp, resp.GetNextPageToken(), err
	}); pages < 2 {
		t.Error("all in one page")
	}
}

func manyLocators(n int) (list []mapping.Locator) {
	for i := range n {
		list = append(list, mapping.MakeLocator(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), 1, 100))
	}
	return list
}

func TestManyRemoteLocators(t *testing.T) {
	const n = 15_000
	paths := make([]xtr.PathStatus, 32)
	for i := range paths {
		paths[i].Local = netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})
	}
	x := new(fakeXTR)
	for _, e := range many(n) {
		x.rlocs = append(x.rlocs, xtr.RLOCStatus{Addr: e.Prefix.Addr(), Up: true, Probes: 7, Replies: 7, Paths: paths})
	}
	c := eidolonv1.NewRouterServiceClient(serve(t, Router(x, dataplane.NewFIB())))
	_, err := c.ListRemoteLocators(t.Context(), &eidolonv1.ListRemoteLocatorsRequest{})
	wantTooLarge(t, err)
	var got []string
	walked(t, func(token string) (proto.Message, string, error) {
		resp, err := c.ListRemoteLocators(t.Context(), &eidolonv1.ListRemoteLocatorsRequest{PageSize: 5000, PageToken: token})
		for _, l := range resp.GetRemoteLocators() {
			got = append(got, l.GetAddress())
		}
		return resp, resp.GetNextPageToken(), err
	})
	if len(got) != n || got[0] != "10.0.0.0" || got[n-1] != x.rlocs[n-1].Addr.String() {
		t.Errorf("%d remote locators", len(got))
	}
}

// TestManySites: pages of sites, of which one alone is more than a page holds.
func TestManySites(t *testing.T) {
	db := newDatabase()
	large := server.SiteStatus{Name: "large", MaxRegistrations: 9}
	for _, e := range many(220_000) {
		large.Prefixes = append(large.Prefixes, server.PrefixStatus{SitePrefix: server.SitePrefix{EID: e, AcceptMoreSpecifics: true}})
	}
	slices.Reverse(large.Prefixes)
	db.sites = []server.SiteStatus{{Name: "z"}, large, {Name: "large", Put: 3, Shadowed: "the configuration has one"}, {Name: "a", Prefixes: large.Prefixes[:2]}}
	c := eidolonv1.NewSiteServiceClient(serve(t, Sites(db)))
	_, err := c.ListSites(t.Context(), &eidolonv1.ListSitesRequest{})
	wantTooLarge(t, err)
	var names []string
	var eids []string
	if pages := walked(t, func(token string) (proto.Message, string, error) {
		resp, err := c.ListSites(t.Context(), &eidolonv1.ListSitesRequest{PageSize: 1000, PageToken: token})
		for _, s := range resp.GetSites() {
			names = append(names, fmt.Sprintf("%s %v", s.GetName(), s.GetPutRevision()))
			if s.GetName() == "large" && s.GetPutRevision() == 0 {
				if s.GetMaxRegistrations() != 9 {
					t.Errorf("a part of a site: %v", s.GetName())
				}
				for _, p := range s.GetPrefixes() {
					eids = append(eids, p.GetEid())
				}
			}
		}
		return resp, resp.GetNextPageToken(), err
	}); pages < 2 {
		t.Errorf("%d pages", pages)
	}
	if want := []string{"a 0", "large 0", "large 3", "z 0"}; !slices.Equal(slices.Compact(names), want) {
		t.Errorf("sites %v, want %v", names, want)
	}
	if len(eids) != len(large.Prefixes) || eids[0] != "10.0.0.0/32" || eids[len(eids)-1] != large.Prefixes[0].EID.String() {
		t.Errorf("%d EID-prefixes of the site", len(eids))
	}

	// What changes between two pages, and what is not of the request.
	db.sites = []server.SiteStatus{{Name: "a"}, {Name: "b"}, {Name: "c"}}
	first, err := c.ListSites(t.Context(), &eidolonv1.ListSitesRequest{PageSize: 2})
	if err != nil || len(first.GetSites()) != 2 || first.GetNextPageToken() == "" {
		t.Fatalf("the first page: %v, %v", first, err)
	}
	db.sites = []server.SiteStatus{{Name: "a"}, {Name: "aa"}, {Name: "c"}}
	next, err := c.ListSites(t.Context(), &eidolonv1.ListSitesRequest{PageSize: 2, PageToken: first.GetNextPageToken()})
	if err != nil || len(next.GetSites()) != 1 || next.GetSites()[0].GetName() != "c" || next.GetNextPageToken() != "" {
		t.Errorf("the next page: %v, %v", next, err)
	}
	_, err = c.ListSites(t.Context(), &eidolonv1.ListSitesRequest{PageToken: first.GetNextPageToken(), Name: "c"})
	wantField(t, err, "page_token")
	_, err = c.ListSites(t.Context(), &eidolonv1.ListSitesRequest{PageToken: "nonsense"})
	wantField(t, err, "page_token")
	_, err = c.ListSites(t.Context(), &eidolonv1.ListSitesRequest{PageSize: -1})
	wantField(t, err, "page_size")
}

// TestListMappings: the filters, and messages that a client takes whatever the
// mappings hold.
func TestListMappings(t *testing.T) {
	db := newDatabase()
	c := eidolonv1.NewMappingServiceClient(serve(t, Mappings(db)))
	list := func(req *eidolonv1.ListMappingsRequest) (eids []string, err error) {
		stream, err := c.ListMappings(t.Context(), req)
		if err != nil {
			return nil, err
		}
		for {
			resp, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return eids, nil
			}
			if err != nil {
				return eids, err
			}
			for _, m := range resp.GetMappings() {
				eids = append(eids, m.GetRecord().GetEid())
			}
		}
	}
	var ops []server.Op
	for _, e := range []string{"10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "10.2.0.0/16"} {
		ops = append(ops, server.Op{Record: &mapping.Record{EID: mapping.MustParseEID(e), TTL: 60, Locators: manyLocators(1)}})
	}
	if _, err := db.Server.Batch(t.Context(), ops); err != nil {
		t.Fatal(err)
	}
	registered := mapping.MustParseEID("10.3.0.0/16")
	db.regs[registered] = server.MappingStatus{Record: &mapping.Record{EID: registered, TTL: 60, Locators: manyLocators(1)}, Origin: server.OriginRegistered, Site: "a"}
	for _, c := range []struct {
		req  *eidolonv1.ListMappingsRequest
		want string
	}{
		{&eidolonv1.ListMappingsRequest{}, "10.0.0.0/8 10.1.0.0/16 10.1.2.0/24 10.2.0.0/16 10.3.0.0/16"},
		{&eidolonv1.ListMappingsRequest{Within: "10.1.0.0/16"}, "10.1.0.0/16 10.1.2.0/24"},
		{&eidolonv1.ListMappingsRequest{Covering: "10.1.2.3"}, "10.0.0.0/8 10.1.0.0/16 10.1.2.0/24"},
		{&eidolonv1.ListMappingsRequest{Covering: "11.1.2.3"}, ""},
		{&eidolonv1.ListMappingsRequest{Site: "a"}, "10.3.0.0/16"},
		{&eidolonv1.ListMappingsRequest{Origin: eidolonv1.MappingOrigin_MAPPING_ORIGIN_API, Site: "a"}, ""},
	} {
		if got, err := list(c.req); err != nil || strings.Join(got, " ") != c.want {
			t.Errorf("%v: %v, %v, want %v", c.req, got, err, c.want)
		}
	}
	_, err := list(&eidolonv1.ListMappingsRequest{Within: "10.0.0.0/8", Covering: "10.1.2.3"})
	wantField(t, err, "covering")

	for _, e := range many(listBatch) {
		db.regs[e] = server.MappingStatus{Record: &mapping.Record{EID: e, TTL: 60, Locators: manyLocators(255)}, Origin: server.OriginRegistered,
			Registrants: []server.RegistrantStatus{{Record: &mapping.Record{EID: e, TTL: 60, Locators: manyLocators(255)}}, {Record: &mapping.Record{EID: e, TTL: 60, Locators: manyLocators(255)}}}}
	}
	if got, err := list(&eidolonv1.ListMappingsRequest{Within: "10.0.0.0/16"}); err != nil || len(got) != listBatch {
		t.Errorf("%d large mappings, %v", len(got), err)
	}
}
