package speaker

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	api "github.com/osrg/gobgp/v3/api"
	"github.com/osrg/gobgp/v3/pkg/server"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/eidolon-lisp/eidolon/mapping/bgp"
)

// gobgp is a GoBGP server. Its methods are called from several goroutines.
type gobgp struct {
	server *server.BgpServer
	cancel context.CancelFunc // of the watch
}

// Protocol constants of GoBGP's API.
const (
	originIGP = 0
	// deferral is how long, after a restart, announcements wait for the neighbours
	// to say all that they have (RFC 4724 section 4.1). Nothing here depends on what
	// they say, but GoBGP sends nothing before.
	deferral = 5
	// connectRetry is how often a connection is tried, and idleHold how long nothing
	// is tried after a session that ended, in seconds.
	connectRetry = 5
	idleHold     = 1
)

var families = map[bool]*api.Family{
	true:  {Afi: api.Family_AFI_IP, Safi: api.Family_SAFI_UNICAST},
	false: {Afi: api.Family_AFI_IP6, Safi: api.Family_SAFI_UNICAST},
}

// start starts a server without neighbours.
func start(cfg bgp.Config) (_ *gobgp, err error) {
	g := &gobgp{server: server.NewBgpServer(server.LoggerOption(logger{cfg.Logger}))}
	go g.server.Serve() // it has no end
	global := &api.Global{Asn: cfg.AS, RouterId: cfg.RouterID.String(), ListenPort: -1}
	if len(cfg.Listen) > 0 {
		global.ListenPort = int32(cfg.ListenPort)
		for _, a := range cfg.Listen {
			global.ListenAddresses = append(global.ListenAddresses, a.String())
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	g.cancel = cancel
	if err := g.server.StartBgp(ctx, &api.StartBgpRequest{Global: global}); err != nil {
		cancel()
		return nil, err
	}
	defer func() {
		if err != nil {
			g.stop()
		}
	}()
	if err := g.exports(ctx, cfg); err != nil {
		return nil, fmt.Errorf("export policy: %w", err)
	}
	if cfg.OnRoutes != nil {
		err := g.server.WatchEvent(ctx, &api.WatchEventRequest{Table: &api.WatchEventRequest_Table{
			Filters: []*api.WatchEventRequest_Table_Filter{{Type: api.WatchEventRequest_Table_Filter_BEST, Init: true}},
		}}, func(r *api.WatchEventResponse) {
			if list := received(r.GetTable().GetPaths()); len(list) > 0 {
				cfg.OnRoutes(list)
			}
		})
		if err != nil {
			return nil, fmt.Errorf("watch routes: %w", err)
		}
	}
	return g, nil
}

// exports says what each neighbour is told: what is our own and, with a transit,
// what the others say, but for what is inside of an aggregate.
func (g *gobgp) exports(ctx context.Context, cfg bgp.Config) error {
	own := &api.Statement{
		Name:       "own",
		Conditions: &api.Conditions{RouteType: api.Conditions_ROUTE_TYPE_LOCAL},
		Actions:    &api.Actions{RouteAction: api.RouteAction_ACCEPT},
	}
	p, otherwise := &api.Policy{Name: "exports", Statements: []*api.Statement{own}}, api.RouteAction_REJECT
	if cfg.Transit != nil {
		var err error
		if p.Statements, err = g.transit(ctx, cfg); err != nil {
			return err
		}
		otherwise = api.RouteAction_ACCEPT
	}
	if len(p.Statements) == 0 {
		return nil
	}
	if err := g.server.AddPolicy(ctx, &api.AddPolicyRequest{Policy: p}); err != nil {
		return err
	}
	return g.server.AddPolicyAssignment(ctx, &api.AddPolicyAssignmentRequest{Assignment: &api.PolicyAssignment{
		Name: "global", Direction: api.PolicyDirection_EXPORT, Policies: []*api.Policy{{Name: p.Name}}, DefaultAction: otherwise,
	}})
}

// transit returns the statements that come before all is told: who may hear of
// what is inside of an aggregate hears all, nobody else hears that.
func (g *gobgp) transit(ctx context.Context, cfg bgp.Config) (list []*api.Statement, err error) {
	trusted := &api.DefinedSet{DefinedType: api.DefinedType_NEIGHBOR, Name: "more-specifics"}
	for _, n := range cfg.Neighbours {
		if n.MoreSpecifics {
			trusted.List = append(trusted.List, netip.PrefixFrom(n.Addr, n.Addr.BitLen()).String())
		}
	}
	if len(trusted.List) > 0 {
		if err := g.server.AddDefinedSet(ctx, &api.AddDefinedSetRequest{DefinedSet: trusted}); err != nil {
			return nil, err
		}
		list = append(list, &api.Statement{
			Name:       trusted.Name,
			Conditions: &api.Conditions{NeighborSet: &api.MatchSet{Name: trusted.Name}},
			Actions:    &api.Actions{RouteAction: api.RouteAction_ACCEPT},
		})
	}
	for v4, name := range map[bool]string{true: "inside-ipv4", false: "inside-ipv6"} { // a set has one family
		inside := &api.DefinedSet{DefinedType: api.DefinedType_PREFIX, Name: name}
		for _, a := range cfg.Transit.Aggregates {
			if a.Addr().Is4() == v4 && !a.IsSingleIP() {
				inside.Prefixes = append(inside.Prefixes, &api.Prefix{IpPrefix: a.String(), MaskLengthMin: uint32(a.Bits() + 1), MaskLengthMax: uint32(a.Addr().BitLen())})
			}
		}
		if len(inside.Prefixes) == 0 {
			continue
		}
		if err := g.server.AddDefinedSet(ctx, &api.AddDefinedSetRequest{DefinedSet: inside}); err != nil {
			return nil, err
		}
		list = append(list, &api.Statement{
			Name:       name,
			Conditions: &api.Conditions{PrefixSet: &api.MatchSet{Name: name}},
			Actions:    &api.Actions{RouteAction: api.RouteAction_REJECT},
		})
	}
	return list, nil
}

// stop ends the sessions with a Cease, after which no neighbour keeps anything.
func (g *gobgp) stop() {
	g.cancel()
	g.server.Stop()
}

// add opens sessions with n.
func (g *gobgp) add(n bgp.Neighbour, restart time.Duration) error {
	f := families[n.Addr.Is4()]
	p := &api.Peer{
		Conf: &api.PeerConf{NeighborAddress: n.Addr.String(), PeerAsn: n.AS, AuthPassword: n.Password},
		Timers: &api.Timers{Config: &api.TimersConfig{ConnectRetry: connectRetry, IdleHoldTimeAfterReset: idleHold,
			HoldTime: uint64(n.HoldTime / time.Second), KeepaliveInterval: uint64(n.HoldTime / time.Second / 3)}},
		Transport: &api.Transport{PassiveMode: n.Passive, RemotePort: uint32(n.Port)},
		AfiSafis: []*api.AfiSafi{{
			Config:            &api.AfiSafiConfig{Family: f, Enabled: true},
			PrefixLimits:      &api.PrefixLimit{Family: f, MaxPrefixes: uint32(n.MaxPrefixes)},
			MpGracefulRestart: &api.MpGracefulRestart{Config: &api.MpGracefulRestartConfig{Enabled: restart > 0}},
		}},
	}
	if n.LocalAddr.IsValid() {
		p.Transport.LocalAddress = n.LocalAddr.String()
	}
	if n.Multihop > 0 {
		p.EbgpMultihop = &api.EbgpMultihop{Enabled: true, MultihopTtl: uint32(n.Multihop)}
	}
	if restart > 0 {
		// A session that begins is the first one after a restart, for all that is
		// known. Packets are forwarded from then on as they were before.
		p.GracefulRestart = &api.GracefulRestart{Enabled: true, RestartTime: uint32(restart / time.Second), DeferralTime: deferral, LocalRestarting: true}
	}
	return g.server.AddPeer(context.Background(), &api.AddPeerRequest{Peer: p})
}

// enable begins a session again that was ended for too many prefixes.
func (g *gobgp) enable(a netip.Addr) error {
	return g.server.EnablePeer(context.Background(), &api.EnablePeerRequest{Address: a.String()})
}

func (g *gobgp) announce(r bgp.Route) error {
	p, err := path(r)
	if err != nil {
		return err
	}
	_, err = g.server.AddPath(context.Background(), &api.AddPathRequest{Path: p})
	return err
}

func (g *gobgp) withdraw(p netip.Prefix) error {
	x, err := path(bgp.Route{Prefix: p})
	if err != nil {
		return err
	}
	return g.server.DeletePath(context.Background(), &api.DeletePathRequest{Family: x.Family, Path: x})
}

// withdrawAll is withdraw for all that was announced, in few messages.
func (g *gobgp) withdrawAll() error {
	for _, f := range families {
		if err := g.server.DeletePath(context.Background(), &api.DeletePathRequest{Family: f}); err != nil {
			return err
		}
	}
	return nil
}

// path returns r with ourselves as next hop, which each session makes its own
// address of.
func path(r bgp.Route) (*api.Path, error) {
	p := &api.Path{Family: families[r.Prefix.Addr().Is4()]}
	var err error
	if p.Nlri, err = anypb.New(&api.IPAddressPrefix{Prefix: r.Prefix.Addr().String(), PrefixLen: uint32(r.Prefix.Bits())}); err != nil {
		return nil, err
	}
	attrs := []proto.Message{&api.OriginAttribute{Origin: originIGP}}
	if r.Prefix.Addr().Is4() {
		attrs = append(attrs, &api.NextHopAttribute{NextHop: "0.0.0.0"})
	} else {
		attrs = append(attrs, &api.MpReachNLRIAttribute{Family: p.Family, NextHops: []string{"::"}, Nlris: []*anypb.Any{p.Nlri}})
	}
	if r.OriginAS != 0 { // GoBGP puts our own before it
		attrs = append(attrs, &api.AsPathAttribute{Segments: []*api.AsSegment{{Type: api.AsSegment_AS_SEQUENCE, Numbers: []uint32{r.OriginAS}}}})
	}
	if len(r.Communities) > 0 {
		attrs = append(attrs, &api.CommunitiesAttribute{Communities: r.Communities})
	}
	if len(r.LargeCommunities) > 0 {
		l := new(api.LargeCommunitiesAttribute)
		for _, c := range r.LargeCommunities {
			l.Communities = append(l.Communities, &api.LargeCommunity{GlobalAdmin: c[0], LocalData1: c[1], LocalData2: c[2]})
		}
		attrs = append(attrs, l)
	}
	for _, a := range attrs {
		x, err := anypb.New(a)
		if err != nil {
			return nil, err
		}
		p.Pattrs = append(p.Pattrs, x)
	}
	return p, nil
}

// received returns those of paths that neighbours have announced or withdrawn.
func received(paths []*api.Path) (list []bgp.Received) {
	for _, p := range paths {
		var nlri api.IPAddressPrefix
		if p.GetNlri() == nil || p.Nlri.UnmarshalTo(&nlri) != nil {
			continue
		}
		prefix, err := netip.ParsePrefix(fmt.Sprintf("%s/%d", nlri.Prefix, nlri.PrefixLen))
		if err != nil {
			continue
		}
		from, err := netip.ParseAddr(p.NeighborIp)
		if !p.IsWithdraw && err != nil { // ours: no neighbour
			continue
		}
		r := bgp.Received{Prefix: prefix.Masked(), Withdrawn: p.IsWithdraw, From: from.Unmap()}
		for _, a := range p.Pattrs {
			m, err := a.UnmarshalNew()
			if err != nil {
				continue
			}
			switch m := m.(type) {
			case *api.AsPathAttribute:
				for _, seg := range m.Segments {
					if n := len(seg.Numbers); n > 0 {
						r.OriginAS = seg.Numbers[n-1]
					}
				}
			case *api.NextHopAttribute:
				r.NextHop = nextHop(m.NextHop)
			case *api.MpReachNLRIAttribute:
				if len(m.NextHops) > 0 {
					r.NextHop = nextHop(m.NextHops[0])
				}
			}
		}
		if r.Withdrawn {
			r.NextHop = netip.Addr{}
		}
		list = append(list, r)
	}
	return list
}

func nextHop(s string) netip.Addr {
	a, _ := netip.ParseAddr(s) // not valid: none
	return a.Unmap()
}

var states = map[api.PeerState_SessionState]bgp.State{
	api.PeerState_IDLE: bgp.Idle, api.PeerState_CONNECT: bgp.Connect, api.PeerState_ACTIVE: bgp.Active,
	api.PeerState_OPENSENT: bgp.OpenSent, api.PeerState_OPENCONFIRM: bgp.OpenConfirm, api.PeerState_ESTABLISHED: bgp.Established,
}

// peers returns the neighbours in any order. Announced is set with advertised.
func (g *gobgp) peers(advertised bool) (list []bgp.NeighbourStatus, err error) {
	err = g.server.ListPeer(context.Background(), &api.ListPeerRequest{EnableAdvertised: advertised}, func(p *api.Peer) {
		st := p.GetState()
		a, err := netip.ParseAddr(st.GetNeighborAddress())
		if err != nil {
			return
		}
		n := bgp.NeighbourStatus{
			Addr: a, AS: st.GetPeerAsn(), State: states[st.GetSessionState()], Flaps: st.GetFlops(),
			UpdatesIn: st.GetMessages().GetReceived().GetUpdate(), UpdatesOut: st.GetMessages().GetSent().GetUpdate(),
		}
		if n.AS == 0 {
			n.AS = p.GetConf().GetPeerAsn()
		}
		if st.GetAdminState() == api.PeerState_PFX_CT && n.State != bgp.Established {
			n.State = bgp.TooManyPrefixes
		}
		if n.Flaps > 0 { // else it was never up, and GoBGP says since when it tries
			n.Since = seconds(p.GetTimers().GetState().GetDowntime())
		}
		if n.State == bgp.Established {
			n.Since = seconds(p.GetTimers().GetState().GetUptime())
			n.RouterID, _ = netip.ParseAddr(st.GetRouterId())
		}
		for _, f := range p.GetAfiSafis() {
			n.Received += int(f.GetState().GetReceived())
			n.Announced += int(f.GetState().GetAdvertised())
			gr := f.GetMpGracefulRestart()
			n.GracefulRestart = n.State == bgp.Established && gr.GetConfig().GetEnabled() && gr.GetState().GetReceived()
		}
		list = append(list, n)
	})
	return list, err
}

// seconds returns a time of GoBGP's, which are whole seconds, and 0 for never.
func seconds(t *timestamppb.Timestamp) time.Time {
	if t.GetSeconds() == 0 {
		return time.Time{}
	}
	return t.AsTime()
}
