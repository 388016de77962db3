package api

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	eidolonv1 "github.com/eidolon-lisp/eidolon/api/proto/eidolon/v1"
	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/mapping"
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
