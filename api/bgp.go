package api

import (
	"context"
	"net/netip"
	"slices"

	"google.golang.org/grpc"

	eidolonv1 "github.com/eidolon-lisp/eidolon/api/proto/eidolon/v1"
	"github.com/eidolon-lisp/eidolon/mapping/bgp"
	"github.com/eidolon-lisp/eidolon/mapping/xtr"
)

// BGPView is what the BGPService shows. Its functions are called from several
// goroutines.
type BGPView struct {
	AS       uint32
	RouterID netip.Addr
	// Announce is what there is to announce, Announced what of it is.
	Announce  func() []bgp.Route
	Announced func() []bgp.Route
	// Learned is what neighbours announce of the site; it may be nil.
	Learned    func() []bgp.Learned
	Neighbours func() ([]bgp.NeighbourStatus, error)
	Answering  func() xtr.Answering
}

type bgpService struct {
	eidolonv1.UnimplementedBGPServiceServer
	view *BGPView
}

// BGP is the BGPService of an xTR; a nil view is that of one that speaks no BGP.
func BGP(view *BGPView) Service { return &bgpService{view: view} }

func (s *bgpService) register(r grpc.ServiceRegistrar) { eidolonv1.RegisterBGPServiceServer(r, s) }

func (s *bgpService) GetBGP(context.Context, *eidolonv1.GetBGPRequest) (*eidolonv1.GetBGPResponse, error) {
	v := s.view
	if v == nil {
		return nil, notConfigured("bgp", "this xTR speaks no BGP: its configuration has no bgp")
	}
	list, err := v.Neighbours()
	if err != nil {
		return nil, failed("list BGP neighbours", err)
	}
	a := v.Answering()
	resp := &eidolonv1.GetBGPResponse{
		As: v.AS, RouterId: v.RouterID.String(), MappingSystemAnswers: a.Now, MappingSystemSince: timeToProto(a.Since),
		LastAnswer: timeToProto(a.LastAnswer), HeldUntil: timeToProto(a.Held),
	}
	for _, n := range list {
		resp.Neighbours = append(resp.Neighbours, neighbourToProto(n))
	}
	announced := v.Announced()
	for _, r := range slices.SortedFunc(slices.Values(v.Announce()), func(a, b bgp.Route) int { return a.Prefix.Compare(b.Prefix) }) {
		x := &eidolonv1.BGPAnnouncement{Prefix: r.Prefix.String(), OriginAs: r.OriginAS, Communities: r.CommunityTexts(),
			Announced: slices.ContainsFunc(announced, func(o bgp.Route) bool { return o.Prefix == r.Prefix })}
		if x.OriginAs == 0 {
			x.OriginAs = v.AS
		}
		resp.Announcements = append(resp.Announcements, x)
	}
	if v.Learned != nil {
		for _, l := range v.Learned() {
			resp.Learned = append(resp.Learned, learnedToProto(l))
		}
	}
	return resp, nil
}

func learnedToProto(l bgp.Learned) *eidolonv1.BGPLearned {
	return &eidolonv1.BGPLearned{
		Prefix: l.Prefix.String(), Neighbour: l.From.String(), OriginAs: l.OriginAS, Accepted: l.Refusal == bgp.Accepted,
		Reason: reason(l.Refusal), Since: timeToProto(l.Since), Leaving: timeToProto(l.Leaving),
	}
}

// reason is empty for what is accepted.
func reason(r bgp.Refusal) string {
	if r == bgp.Accepted {
		return ""
	}
	return r.String()
}

func neighbourToProto(n bgp.NeighbourStatus) *eidolonv1.BGPNeighbour {
	x := &eidolonv1.BGPNeighbour{
		Address: n.Addr.String(), As: n.AS, State: bgpStateToProto(n.State), Since: timeToProto(n.Since), GracefulRestart: n.GracefulRestart,
		Received: uint64(n.Received), Announced: uint64(n.Announced), UpdatesIn: n.UpdatesIn, UpdatesOut: n.UpdatesOut,
	}
	if n.RouterID.IsValid() {
		x.RouterId = n.RouterID.String()
	}
	return x
}

func bgpStateToProto(s bgp.State) eidolonv1.BGPState {
	switch s {
	case bgp.Idle:
		return eidolonv1.BGPState_BGP_STATE_IDLE
	case bgp.Connect:
		return eidolonv1.BGPState_BGP_STATE_CONNECT
	case bgp.Active:
		return eidolonv1.BGPState_BGP_STATE_ACTIVE
	case bgp.OpenSent:
		return eidolonv1.BGPState_BGP_STATE_OPEN_SENT
	case bgp.OpenConfirm:
		return eidolonv1.BGPState_BGP_STATE_OPEN_CONFIRM
	case bgp.Established:
		return eidolonv1.BGPState_BGP_STATE_ESTABLISHED
	case bgp.TooManyPrefixes:
		return eidolonv1.BGPState_BGP_STATE_TOO_MANY_PREFIXES
	case bgp.Waiting:
		return eidolonv1.BGPState_BGP_STATE_WAITING
	}
	return eidolonv1.BGPState_BGP_STATE_UNSPECIFIED
}
