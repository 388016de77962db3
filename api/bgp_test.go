package api

import (
	"net/netip"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	eidolonv1 "github.com/eidolon-lisp/eidolon/api/proto/eidolon/v1"
	"github.com/eidolon-lisp/eidolon/mapping/bgp"
	"github.com/eidolon-lisp/eidolon/mapping/xtr"
)

func TestBGP(t *testing.T) {
	_, err := eidolonv1.NewBGPServiceClient(serve(t, BGP(nil))).GetBGP(t.Context(), &eidolonv1.GetBGPRequest{})
	if status.Code(err) != codes.FailedPrecondition {
		t.Errorf("without BGP: %v", err)
	}
	since := time.Unix(1_800_000_000, 0)
	v4, v6 := netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8:e::/48")
	view := &BGPView{
		AS: 64500, RouterID: netip.MustParseAddr("192.0.2.1"),
		Announce: func() []bgp.Route {
			return []bgp.Route{{Prefix: v6}, {Prefix: v4, OriginAS: 64510, Communities: []uint32{0xffffff01}}}
		},
		Announced: func() []bgp.Route { return []bgp.Route{{Prefix: v4}} },
		Neighbours: func() ([]bgp.NeighbourStatus, error) {
			return []bgp.NeighbourStatus{
				{Addr: netip.MustParseAddr("192.0.2.254"), AS: 64501, State: bgp.Established, Since: since, RouterID: netip.MustParseAddr("192.0.2.9"),
					GracefulRestart: true, Received: 3, Announced: 1, UpdatesIn: 4, UpdatesOut: 2},
				{Addr: netip.MustParseAddr("2001:db8::1"), AS: 64502},
			}, nil
		},
		Answering: func() xtr.Answering { return xtr.Answering{Watched: true, Now: true, Since: since, LastAnswer: since} },
	}
	got, err := eidolonv1.NewBGPServiceClient(serve(t, BGP(view))).GetBGP(t.Context(), &eidolonv1.GetBGPRequest{})
	if err != nil {
		t.Fatal(err)
	}
	at := timestamppb.New(since)
	want := &eidolonv1.GetBGPResponse{
		As: 64500, RouterId: "192.0.2.1", MappingSystemAnswers: true, MappingSystemSince: at, LastAnswer: at,
		Neighbours: []*eidolonv1.BGPNeighbour{
			{Address: "192.0.2.254", As: 64501, State: eidolonv1.BGPState_BGP_STATE_ESTABLISHED, Since: at, RouterId: "192.0.2.9",
				GracefulRestart: true, Received: 3, Announced: 1, UpdatesIn: 4, UpdatesOut: 2},
			{Address: "2001:db8::1", As: 64502, State: eidolonv1.BGPState_BGP_STATE_IDLE},
		},
		Announcements: []*eidolonv1.BGPAnnouncement{
			{Prefix: "10.0.0.0/8", Announced: true, OriginAs: 64510, Communities: []string{"no-export"}},
			{Prefix: "2001:db8:e::/48", OriginAs: 64500},
		},
	}
	if !proto.Equal(got, want) {
		t.Errorf("got\n%v, want\n%v", got, want)
	}
	for s := bgp.Idle; s <= bgp.Waiting; s++ {
		if bgpStateToProto(s) == eidolonv1.BGPState_BGP_STATE_UNSPECIFIED {
			t.Errorf("state %v has no number", s)
		}
	}
}
