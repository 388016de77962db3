// Package plain is a BGP router with nothing of Eidolon in it: GoBGP as it comes,
// for tests and the lab, which need somebody else to talk to. The library keeps
// settings in variables of its package, so a process has one router at most.
package plain

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"slices"

	api "github.com/osrg/gobgp/v3/api"
	"github.com/osrg/gobgp/v3/pkg/log"
	"github.com/osrg/gobgp/v3/pkg/server"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// Config is a router and its neighbours.
type Config struct {
	AS       uint32
	RouterID netip.Addr   // an IPv4 address
	Listen   []netip.Addr // where it waits for neighbours; none: all addresses
	Port     uint16       // where it waits; 0 is that of BGP
	// Neighbours are all who may have a session.
	Neighbours []Neighbour
	// OnBest is called, if set, with changes of the best paths, in order and from one
	// goroutine. It owns the slice.
	OnBest func([]Best) `json:"-"`
	// Log gets what the library has to say, a line each; nil discards it.
	Log io.Writer `json:"-"`
}

// Neighbour is a router that there is a session with. The session carries the
// prefixes of the address family of its address.
type Neighbour struct {
	Addr netip.Addr
	AS   uint32
	// Port is where it is connected to; 0 waits for it to connect.
	Port uint16
	// LocalAddr is our end of the session; not valid: that of the way to it.
	LocalAddr netip.Addr
	// Password authenticates the segments of TCP (RFC 2385); "" for none.
	Password string
	// RestartTime, unless 0, makes us a helper in its restarts (RFC 4724), in seconds.
	RestartTime uint32
}

// Route is a path to a prefix, of a neighbour or our own.
type Route struct {
	Prefix      netip.Prefix
	From        netip.Addr // the neighbour; not valid: we originate it
	Best        bool
	NextHop     netip.Addr
	ASPath      []uint32
	Communities []uint32    `json:",omitempty"`
	Large       [][3]uint32 `json:",omitempty"`
	// Stale: it is kept through a restart of who announced it.
	Stale bool `json:",omitempty"`
}

// Best is a change of the best path to a prefix. NextHop is not valid when there
// is none, or none of a neighbour.
type Best struct {
	Prefix  netip.Prefix
	NextHop netip.Addr
}

// Session is how a neighbour is.
type Session struct {
	Addr        netip.Addr
	AS          uint32
	Established bool
	Updates     uint64 // messages received in the present session
}

// Router is a running router. Its methods may be called from several goroutines.
type Router struct {
	server *server.BgpServer
	cancel context.CancelFunc // of the watch
}

var families = []*api.Family{
	{Afi: api.Family_AFI_IP, Safi: api.Family_SAFI_UNICAST},
	{Afi: api.Family_AFI_IP6, Safi: api.Family_SAFI_UNICAST},
}

func family(a netip.Addr) *api.Family {
	if a.Is4() {
		return families[0]
	}
	return families[1]
}

// Start starts a router, which runs until Stop.
func Start(cfg Config) (_ *Router, err error) {
	ctx, cancel := context.WithCancel(context.Background())
	r := &Router{server: server.NewBgpServer(server.LoggerOption(logger{cfg.Log})), cancel: cancel}
	go r.server.Serve() // it has no end
	global := &api.Global{Asn: cfg.AS, RouterId: cfg.RouterID.String(), ListenPort: int32(cfg.Port)}
	for _, a := range cfg.Listen {
		global.ListenAddresses = append(global.ListenAddresses, a.String())
	}
	if err := r.server.StartBgp(ctx, &api.StartBgpRequest{Global: global}); err != nil {
		cancel()
		return nil, err
	}
	defer func() {
		if err != nil {
			r.Stop()
		}
	}()
	if cfg.OnBest != nil {
		if err := r.watch(ctx, cfg.OnBest); err != nil {
			return nil, err
		}
	}
	for _, n := range cfg.Neighbours {
		if err := r.add(ctx, n); err != nil {
			return nil, fmt.Errorf("neighbour %v: %w", n.Addr, err)
		}
	}
	return r, nil
}

// Stop ends the sessions with a Cease, after which no neighbour keeps anything.
func (r *Router) Stop() {
	r.cancel()
	r.server.Stop()
}

func (r *Router) watch(ctx context.Context, tell func([]Best)) error {
	return r.server.WatchEvent(ctx, &api.WatchEventRequest{Table: &api.WatchEventRequest_Table{
		Filters: []*api.WatchEventRequest_Table_Filter{{Type: api.WatchEventRequest_Table_Filter_BEST, Init: true}},
	}}, func(e *api.WatchEventResponse) {
		var list []Best
		for _, p := range e.GetTable().GetPaths() {
			var nlri api.IPAddressPrefix
			if p.GetNlri() == nil || p.Nlri.UnmarshalTo(&nlri) != nil {
				continue
			}
			x := route(fmt.Sprintf("%s/%d", nlri.Prefix, nlri.PrefixLen), p)
			b := Best{Prefix: x.Prefix}
			if !p.IsWithdraw && x.From.IsValid() {
				b.NextHop = x.NextHop
			}
			list = append(list, b)
		}
		if len(list) > 0 {
			tell(list)
		}
	})
}

func (r *Router) add(ctx context.Context, n Neighbour) error {
	f := &api.AfiSafi{Config: &api.AfiSafiConfig{Family: family(n.Addr), Enabled: true}}
	p := &api.Peer{
		Conf:      &api.PeerConf{NeighborAddress: n.Addr.String(), PeerAsn: n.AS, AuthPassword: n.Password},
		Timers:    &api.Timers{Config: &api.TimersConfig{ConnectRetry: 1, HoldTime: 90, KeepaliveInterval: 30, IdleHoldTimeAfterReset: 1}},
		Transport: &api.Transport{PassiveMode: n.Port == 0, RemotePort: uint32(n.Port)},
		AfiSafis:  []*api.AfiSafi{f},
	}
	if n.LocalAddr.IsValid() {
		p.Transport.LocalAddress = n.LocalAddr.String()
	}
	if n.RestartTime > 0 {
		p.GracefulRestart = &api.GracefulRestart{Enabled: true, RestartTime: n.RestartTime}
		f.MpGracefulRestart = &api.MpGracefulRestart{Config: &api.MpGracefulRestartConfig{Enabled: true}}
	}
	return r.server.AddPeer(ctx, &api.AddPeerRequest{Peer: p})
}

// Routes returns all paths, by prefix and the best of each first.
func (r *Router) Routes() (list []Route, err error) {
	for _, f := range families {
		err = r.server.ListPath(context.Background(), &api.ListPathRequest{TableType: api.TableType_GLOBAL, Family: f}, func(d *api.Destination) {
			for _, p := range d.Paths {
				list = append(list, route(d.Prefix, p))
			}
		})
		if err != nil {
			return nil, err
		}
	}
	slices.SortStableFunc(list, func(a, b Route) int { return a.Prefix.Compare(b.Prefix) })
	return list, nil
}

// Sessions returns how the neighbours are, by address.
func (r *Router) Sessions() (list []Session, err error) {
	err = r.server.ListPeer(context.Background(), &api.ListPeerRequest{}, func(p *api.Peer) {
		s := Session{AS: p.Conf.PeerAsn, Established: p.State.SessionState == api.PeerState_ESTABLISHED, Updates: p.State.GetMessages().GetReceived().GetUpdate()}
		s.Addr, _ = netip.ParseAddr(p.State.NeighborAddress) // it was given as an address
		list = append(list, s)
	})
	slices.SortFunc(list, func(a, b Session) int { return a.Addr.Compare(b.Addr) })
	return list, err
}

// Announce originates prefixes; path are the ASes behind ours.
func (r *Router) Announce(path []uint32, prefixes ...netip.Prefix) error {
	for _, x := range prefixes {
		p, err := own(x, path)
		if err == nil {
			_, err = r.server.AddPath(context.Background(), &api.AddPathRequest{Path: p})
		}
		if err != nil {
			return fmt.Errorf("announce %v: %w", x, err)
		}
	}
	return nil
}

// Withdraw ends that.
func (r *Router) Withdraw(prefixes ...netip.Prefix) error {
	for _, x := range prefixes {
		p, err := own(x, nil)
		if err == nil {
			err = r.server.DeletePath(context.Background(), &api.DeletePathRequest{Family: p.Family, Path: p})
		}
		if err != nil {
			return fmt.Errorf("withdraw %v: %w", x, err)
		}
	}
	return nil
}

func route(prefix string, p *api.Path) Route {
	r := Route{Best: p.Best, Stale: p.Stale}
	r.Prefix, _ = netip.ParsePrefix(prefix)
	r.From = address(p.NeighborIp)
	for _, a := range p.Pattrs {
		m, err := a.UnmarshalNew()
		if err != nil {
			continue
		}
		switch m := m.(type) {
		case *api.NextHopAttribute:
			r.NextHop = address(m.NextHop)
		case *api.MpReachNLRIAttribute:
			if len(m.NextHops) > 0 {
				r.NextHop = address(m.NextHops[0])
			}
		case *api.AsPathAttribute:
			for _, s := range m.Segments {
				r.ASPath = append(r.ASPath, s.Numbers...)
			}
		case *api.CommunitiesAttribute:
			r.Communities = m.Communities
		case *api.LargeCommunitiesAttribute:
			for _, c := range m.Communities {
				r.Large = append(r.Large, [3]uint32{c.GlobalAdmin, c.LocalData1, c.LocalData2})
			}
		}
	}
	return r
}

// address reads an address; what is none, as the neighbour of our own paths, is not
// valid.
func address(s string) netip.Addr {
	a, _ := netip.ParseAddr(s)
	return a.Unmap()
}

// own returns a path of ours, in which each session puts its own address.
func own(prefix netip.Prefix, as []uint32) (*api.Path, error) {
	nlri, err := anypb.New(&api.IPAddressPrefix{Prefix: prefix.Addr().String(), PrefixLen: uint32(prefix.Bits())})
	if err != nil {
		return nil, err
	}
	x := &api.Path{Family: family(prefix.Addr()), Nlri: nlri}
	attrs := []proto.Message{&api.OriginAttribute{}, &api.NextHopAttribute{NextHop: "0.0.0.0"}}
	if prefix.Addr().Is6() {
		attrs[1] = &api.MpReachNLRIAttribute{Family: x.Family, NextHops: []string{"::"}, Nlris: []*anypb.Any{nlri}}
	}
	if len(as) > 0 {
		attrs = append(attrs, &api.AsPathAttribute{Segments: []*api.AsSegment{{Type: api.AsSegment_AS_SEQUENCE, Numbers: as}}})
	}
	for _, a := range attrs {
		y, err := anypb.New(a)
		if err != nil {
			return nil, err
		}
		x.Pattrs = append(x.Pattrs, y)
	}
	return x, nil
}

// logger writes what the library says, but for its debugging.
type logger struct{ to io.Writer }

func (l logger) say(level, msg string, f log.Fields) {
	if l.to != nil {
		fmt.Fprintln(l.to, level, msg, f)
	}
}

func (l logger) Panic(msg string, _ log.Fields) { panic(msg) }
func (l logger) Fatal(msg string, f log.Fields) { panic(fmt.Sprint(msg, f)) }
func (l logger) Error(msg string, f log.Fields) { l.say("error:", msg, f) }
func (l logger) Warn(msg string, f log.Fields)  { l.say("warning:", msg, f) }
func (l logger) Info(msg string, f log.Fields)  { l.say("info:", msg, f) }
func (l logger) Debug(string, log.Fields)       {}
func (l logger) SetLevel(log.LogLevel)          {}
func (l logger) GetLevel() log.LogLevel         { return log.InfoLevel }
