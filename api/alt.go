package api

import (
	"context"
	"iter"
	"net/netip"
	"slices"
	"strings"

	"google.golang.org/grpc"

	eidolonv1 "github.com/eidolon-lisp/eidolon/api/proto/eidolon/v1"
	"github.com/eidolon-lisp/eidolon/mapping/alt"
	"github.com/eidolon-lisp/eidolon/mapping/bgp"
)

// ALTView is what the ALTService shows. Its functions are called from several
// goroutines.
type ALTView struct {
	AS       uint32
	RouterID netip.Addr
	Tunnels  []ALTTunnel
	// Own are prefixes that are always announced.
	Own        []netip.Prefix
	Neighbours func() ([]bgp.NeighbourStatus, error)
	Routes     func() iter.Seq[alt.Route]
}

// ALTTunnel is a tunnel with our addresses on it.
type ALTTunnel struct {
	Name      string
	Addresses []netip.Prefix
}

type altService struct {
	eidolonv1.UnimplementedALTServiceServer
	view *ALTView
}

// ALT is the ALTService of a map-server; a nil view is that of one in no ALT.
func ALT(view *ALTView) Service { return &altService{view: view} }

func (s *altService) register(r grpc.ServiceRegistrar) { eidolonv1.RegisterALTServiceServer(r, s) }

func (s *altService) GetALT(context.Context, *eidolonv1.GetALTRequest) (*eidolonv1.GetALTResponse, error) {
	v := s.view
	if v == nil {
		return nil, notConfigured("alt", "this map-server is in no ALT: its configuration has no alt")
	}
	list, err := v.Neighbours()
	if err != nil {
		return nil, failed("list BGP neighbours", err)
	}
	resp := &eidolonv1.GetALTResponse{As: v.AS, RouterId: v.RouterID.String()}
	for _, n := range list {
		resp.Neighbours = append(resp.Neighbours, neighbourToProto(n))
	}
	own := slices.SortedFunc(slices.Values(v.Own), netip.Prefix.Compare)
	first := func() *eidolonv1.ALTRoute {
		x := &eidolonv1.ALTRoute{Prefix: own[0].String(), Kind: eidolonv1.ALTRouteKind_ALT_ROUTE_KIND_OWN, Announced: true}
		own = own[1:]
		return x
	}
	for r := range v.Routes() {
		for len(own) > 0 && own[0].Compare(r.Prefix) < 0 {
			resp.Routes = append(resp.Routes, first())
		}
		if len(own) > 0 && own[0] == r.Prefix { // it goes before what others say
			resp.Routes = append(resp.Routes, first())
			continue
		}
		resp.Routes = append(resp.Routes, v.route(r))
	}
	for len(own) > 0 {
		resp.Routes = append(resp.Routes, first())
	}
	return resp, nil
}

func (v *ALTView) route(r alt.Route) *eidolonv1.ALTRoute {
	x := &eidolonv1.ALTRoute{Prefix: r.Prefix.String(), Kind: eidolonv1.ALTRouteKind_ALT_ROUTE_KIND_DOWN, Announced: r.Announced, OriginAs: r.OriginAS}
	switch r.Kind {
	case alt.Hole:
		x.Kind = eidolonv1.ALTRouteKind_ALT_ROUTE_KIND_AGGREGATE
	case alt.Forward:
		x.Kind, x.NextHop = eidolonv1.ALTRouteKind_ALT_ROUTE_KIND_FORWARD, r.NextHop.String()
		var names []string
		for _, t := range v.Tunnels {
			if slices.ContainsFunc(t.Addresses, func(p netip.Prefix) bool { return p.Contains(r.NextHop) }) {
				names = append(names, t.Name)
			}
		}
		x.Tunnel = strings.Join(names, ",")
	}
	return x
}
