package api

import (
	"errors"
	"iter"
	"net/netip"
	"slices"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	eidolonv1 "github.com/eidolon-lisp/eidolon/api/proto/eidolon/v1"
	"github.com/eidolon-lisp/eidolon/mapping/alt"
	"github.com/eidolon-lisp/eidolon/mapping/bgp"
)

func TestALT(t *testing.T) {
	if _, err := eidolonv1.NewALTServiceClient(serve(t, ALT(nil))).GetALT(t.Context(), &eidolonv1.GetALTRequest{}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("without an ALT: %v", err)
	}
	p, a := netip.MustParsePrefix, netip.MustParseAddr
	var fail error
	view := &ALTView{
		AS: 65001, RouterID: a("203.0.113.1"), Tunnels: []ALTTunnel{{"up", []netip.Prefix{p("172.16.0.2/30")}}, {"down", []netip.Prefix{p("172.16.1.1/30")}}},
		Own: []netip.Prefix{p("2001:db8::/48"), p("10.1.9.0/24"), p("10.1.1.0/24")},
		Neighbours: func() ([]bgp.NeighbourStatus, error) {
			return []bgp.NeighbourStatus{{Addr: a("172.16.0.1"), AS: 65000, State: bgp.Established, Announced: 2}}, fail
		},
		Routes: func() iter.Seq[alt.Route] {
			return slices.Values([]alt.Route{
				{Prefix: p("0.0.0.0/0"), Kind: alt.Forward, NextHop: a("172.16.0.1"), OriginAS: 65000},
				{Prefix: p("10.1.0.0/16"), Kind: alt.Hole, Aggregate: true, Announced: true},
				{Prefix: p("10.1.1.0/24"), Kind: alt.Down},
				{Prefix: p("10.1.2.0/24"), Kind: alt.Down},
			})
		},
	}
	c := eidolonv1.NewALTServiceClient(serve(t, ALT(view)))
	got, err := c.GetALT(t.Context(), &eidolonv1.GetALTRequest{})
	if err != nil {
		t.Fatal(err)
	}
	want := &eidolonv1.GetALTResponse{
		As: 65001, RouterId: "203.0.113.1",
		Neighbours: []*eidolonv1.BGPNeighbour{{Address: "172.16.0.1", As: 65000, State: eidolonv1.BGPState_BGP_STATE_ESTABLISHED, Announced: 2}},
		Routes: []*eidolonv1.ALTRoute{
			{Prefix: "0.0.0.0/0", Kind: eidolonv1.ALTRouteKind_ALT_ROUTE_KIND_FORWARD, NextHop: "172.16.0.1", Tunnel: "up", OriginAs: 65000},
			{Prefix: "10.1.0.0/16", Kind: eidolonv1.ALTRouteKind_ALT_ROUTE_KIND_AGGREGATE, Announced: true},
			{Prefix: "10.1.1.0/24", Kind: eidolonv1.ALTRouteKind_ALT_ROUTE_KIND_OWN, Announced: true},
			{Prefix: "10.1.2.0/24", Kind: eidolonv1.ALTRouteKind_ALT_ROUTE_KIND_DOWN},
			{Prefix: "10.1.9.0/24", Kind: eidolonv1.ALTRouteKind_ALT_ROUTE_KIND_OWN, Announced: true},
			{Prefix: "2001:db8::/48", Kind: eidolonv1.ALTRouteKind_ALT_ROUTE_KIND_OWN, Announced: true},
		},
	}
	if !proto.Equal(got, want) {
		t.Errorf("got\n%v, want\n%v", got, want)
	}
	fail = errors.New("gone")
	if _, err := c.GetALT(t.Context(), &eidolonv1.GetALTRequest{}); err == nil {
		t.Error("an error was lost")
	}
}
