package dfz

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"syscall"

	api "github.com/osrg/gobgp/v3/api"
	"github.com/osrg/gobgp/v3/pkg/log"
	"github.com/osrg/gobgp/v3/pkg/server"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// relation says what a neighbour is to a router.
type relation string

const (
	isSite     relation = "site"
	isCustomer relation = "customer"
	isPeer     relation = "peer"
	isProvider relation = "provider"
)

// preference is the local preference of what a neighbour says: who pays comes
// first (Gao and Rexford 2001).
var preference = map[relation]uint32{isSite: 300, isCustomer: 300, isPeer: 200, isProvider: 100}

// exportable is the community of what a router tells everybody: its own routes and
// those of customers. It is put on at the import and taken off there from what
// others say.
const exportable = "65000:1"

const exportableValue = 65000<<16 | 1

// speaker is a router of the zone: a GoBGP server.
type speaker struct {
	number     int
	as         uint32
	addr       netip.Addr
	server     *server.BgpServer
	neighbours map[relation][]netip.Addr
	relations  map[netip.Addr]relation
}

var unicast = &api.Family{Afi: api.Family_AFI_IP, Safi: api.Family_SAFI_UNICAST}

// start makes a server that listens. GoBGP keeps the rules of route selection in
// variables of its package: they are the same for all here, and set before the
// first session.
func (s *speaker) start(ctx context.Context, port uint16) error {
	s.server = server.NewBgpServer(server.LoggerOption(quiet{}))
	go s.server.Serve() // it has no end
	return s.server.StartBgp(ctx, &api.StartBgpRequest{Global: &api.Global{
		Asn: s.as, RouterId: s.addr.String(), ListenPort: int32(port), ListenAddresses: []string{s.addr.String()},
		// Without this the oldest route wins, and the same zone comes to rest in
		// different states.
		RouteSelectionOptions: &api.RouteSelectionOptionsConfig{ExternalCompareRouterId: true},
	}})
}

func (s *speaker) is(a netip.Addr, r relation) {
	s.neighbours[r] = append(s.neighbours[r], a)
	s.relations[a] = r
}

// policies are those of Gao and Rexford: customers are preferred to peers and
// peers to providers, and only customers hear of what peers and providers say.
// Sites hear nothing: they have a default.
func (s *speaker) policies(ctx context.Context) error {
	err := s.server.AddDefinedSet(ctx, &api.AddDefinedSetRequest{DefinedSet: &api.DefinedSet{
		DefinedType: api.DefinedType_COMMUNITY, Name: "exportable", List: []string{exportable},
	}})
	if err != nil {
		return err
	}
	var in, out []*api.Statement
	for _, r := range []relation{isSite, isCustomer, isPeer, isProvider} {
		set := &api.DefinedSet{DefinedType: api.DefinedType_NEIGHBOR, Name: string(r)}
		for _, a := range s.neighbours[r] {
			set.List = append(set.List, netip.PrefixFrom(a, 32).String())
		}
		if r == isSite {
			set.List = []string{edges.String()}
		}
		if len(set.List) == 0 {
			continue
		}
		if err := s.server.AddDefinedSet(ctx, &api.AddDefinedSetRequest{DefinedSet: set}); err != nil {
			return err
		}
		them := func() *api.MatchSet { return &api.MatchSet{Type: api.MatchSet_ANY, Name: string(r)} }
		community := &api.CommunityAction{Type: api.CommunityAction_REMOVE, Communities: []string{exportable}}
		if r == isSite || r == isCustomer {
			community.Type = api.CommunityAction_ADD
		}
		in = append(in, &api.Statement{
			Name: "from-" + string(r), Conditions: &api.Conditions{NeighborSet: them()},
			Actions: &api.Actions{RouteAction: api.RouteAction_ACCEPT, LocalPref: &api.LocalPrefAction{Value: preference[r]}, Community: community},
		})
		if r == isPeer || r == isProvider {
			out = append(out, &api.Statement{
				Name: "to-" + string(r), Conditions: &api.Conditions{NeighborSet: them(), CommunitySet: &api.MatchSet{Type: api.MatchSet_ANY, Name: "exportable"}},
				Actions: &api.Actions{RouteAction: api.RouteAction_ACCEPT},
			})
		}
		if r != isCustomer {
			out = append(out, &api.Statement{
				Name: "not-to-" + string(r), Conditions: &api.Conditions{NeighborSet: them()}, Actions: &api.Actions{RouteAction: api.RouteAction_REJECT},
			})
		}
	}
	for _, d := range []struct {
		name       string
		direction  api.PolicyDirection
		statements []*api.Statement
	}{{"in", api.PolicyDirection_IMPORT, in}, {"out", api.PolicyDirection_EXPORT, out}} {
		p := &api.Policy{Name: d.name, Statements: d.statements}
		if err := s.server.AddPolicy(ctx, &api.AddPolicyRequest{Policy: p}); err != nil {
			return err
		}
		err := s.server.AddPolicyAssignment(ctx, &api.AddPolicyAssignmentRequest{Assignment: &api.PolicyAssignment{
			Name: "global", Direction: d.direction, Policies: []*api.Policy{{Name: d.name}}, DefaultAction: api.RouteAction_ACCEPT,
		}})
		if err != nil {
			return err
		}
	}
	return nil
}

// neighbour adds a neighbour at a. With a port the speaker connects to it, else it
// waits: if both ends connected, one might refuse the other for ever.
func (s *speaker) neighbour(ctx context.Context, a netip.Addr, as uint32, port uint16) error {
	return s.server.AddPeer(ctx, &api.AddPeerRequest{Peer: &api.Peer{
		Conf:      &api.PeerConf{NeighborAddress: a.String(), PeerAsn: as},
		Timers:    &api.Timers{Config: &api.TimersConfig{ConnectRetry: 1, HoldTime: edgeHold, KeepaliveInterval: edgeHold / 3, IdleHoldTimeAfterReset: 1}},
		Transport: &api.Transport{PassiveMode: port == 0, RemotePort: uint32(port), LocalAddress: s.addr.String()},
		AfiSafis:  []*api.AfiSafi{{Config: &api.AfiSafiConfig{Family: unicast, Enabled: true}}},
	}})
}

// established returns the neighbours that there is a session with.
func (s *speaker) established(ctx context.Context) (list []netip.Addr, err error) {
	err = s.server.ListPeer(ctx, &api.ListPeerRequest{}, func(p *api.Peer) {
		a, perr := netip.ParseAddr(p.State.NeighborAddress)
		if perr == nil && p.State.SessionState == api.PeerState_ESTABLISHED {
			list = append(list, a)
		}
	})
	return list, err
}

// table returns how many prefixes and paths the speaker has. All paths can be
// used, so each prefix has a best one.
func (s *speaker) table(ctx context.Context) (prefixes, paths int, err error) {
	t, err := s.server.GetTable(ctx, &api.GetTableRequest{TableType: api.TableType_GLOBAL, Family: unicast})
	if err != nil {
		return 0, 0, err
	}
	return int(t.NumDestination), int(t.NumPath), nil
}

// originate adds a route of the router's own.
func (s *speaker) originate(ctx context.Context, p netip.Prefix) error {
	nlri, err := anypb.New(&api.IPAddressPrefix{Prefix: p.Addr().String(), PrefixLen: uint32(p.Bits())})
	if err != nil {
		return err
	}
	path := &api.Path{Family: unicast, Nlri: nlri}
	for _, a := range []proto.Message{
		&api.OriginAttribute{}, &api.NextHopAttribute{NextHop: "0.0.0.0"}, &api.CommunitiesAttribute{Communities: []uint32{exportableValue}},
	} {
		x, err := anypb.New(a)
		if err != nil {
			return err
		}
		path.Pattrs = append(path.Pattrs, x)
	}
	_, err = s.server.AddPath(ctx, &api.AddPathRequest{Path: path})
	return err
}

// best is the best path of a speaker to a prefix.
type best struct {
	from       netip.Addr // the neighbour; not valid: the router's own
	path       []uint32
	exportable bool
}

// bests returns the best paths to those of the prefixes that there is one to.
func (s *speaker) bests(ctx context.Context, list []netip.Prefix) (map[netip.Prefix]best, error) {
	req := &api.ListPathRequest{TableType: api.TableType_GLOBAL, Family: unicast}
	for _, p := range list {
		req.Prefixes = append(req.Prefixes, &api.TableLookupPrefix{Prefix: p.String()})
	}
	out := make(map[netip.Prefix]best, len(list))
	if len(list) == 0 {
		return out, nil
	}
	var bad error
	err := s.server.ListPath(ctx, req, func(d *api.Destination) {
		p, err := netip.ParsePrefix(d.Prefix)
		if err != nil {
			bad = err
			return
		}
		for _, x := range d.Paths {
			if !x.Best {
				continue
			}
			var b best
			b.from, _ = netip.ParseAddr(x.NeighborIp)
			for _, a := range x.Pattrs {
				m, err := a.UnmarshalNew()
				if err != nil {
					bad = err
					return
				}
				switch m := m.(type) {
				case *api.AsPathAttribute:
					for _, seg := range m.Segments {
						b.path = append(b.path, seg.Numbers...)
					}
				case *api.CommunitiesAttribute:
					for _, c := range m.Communities {
						b.exportable = b.exportable || c == exportableValue
					}
				}
			}
			out[p] = b
		}
	})
	return out, errors.Join(err, bad)
}

// quiet is a logger that says nothing.
type quiet struct{}

func (quiet) Panic(msg string, f log.Fields) { panic(fmt.Sprint(msg, f)) }
func (quiet) Fatal(msg string, f log.Fields) { panic(fmt.Sprint(msg, f)) }
func (quiet) Error(string, log.Fields)       {}
func (quiet) Warn(string, log.Fields)        {}
func (quiet) Info(string, log.Fields)        {}
func (quiet) Debug(string, log.Fields)       {}
func (quiet) SetLevel(log.LogLevel)          {}
func (quiet) GetLevel() log.LogLevel         { return log.PanicLevel }
