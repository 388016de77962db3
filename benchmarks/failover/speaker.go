package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	api "github.com/osrg/gobgp/v3/api"
	"github.com/osrg/gobgp/v3/pkg/log"
	"github.com/osrg/gobgp/v3/pkg/server"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/eidolon-lisp/eidolon/internal/netns"
)

// speakerConfig is what a speaker is told on its standard input.
type speakerConfig struct {
	Name      string
	AS        uint32
	RouterID  netip.Addr
	Neighbors []neighborConfig
	Originate []netip.Prefix
	Detector  bool
	Verbose   bool
}

// neighborConfig is a neighbour on a link.
//
// One end of a link connects, the other waits. If both connected, GoBGP v3 might
// never come to a session again once it was closed: who is idle refuses the
// other's connection, which makes the other idle for as long, and when their
// turns are half a period apart it goes on like that. And who waits knows all
// addresses of the neighbour: of one that is known by a prefix only (a dynamic
// neighbour) GoBGP loses the address when it is shut before its session is
// there, and never opens it again.
type neighborConfig struct {
	Addr      netip.Addr
	Later     netip.Addr // the neighbour's address when the first has changed, if it may
	Wait      bool       // for its connection
	Dev       string
	AS        uint32
	Relation  relation
	LocalPref uint32         // of what it says; 0: by the relation
	Prepend   uint32         // of what it is told
	Export    []netip.Prefix // what it is told; nil: all
}

// relation says what a neighbour is to a router of a provider or of the core,
// and with that what it is told: customers everything, others what customers
// say and what is the router's own (Gao and Rexford 2001). Customers are also
// preferred. Without that the core would give transit to itself, and meet what
// GoBGP v3 does not do: when a best path is replaced by one that a neighbour
// must not hear of, because its AS is in it, the old one is not withdrawn there,
// and packets go round for ever.
type relation string

const (
	isCustomer relation = "customer"
	isPeer     relation = "peer"
	isProvider relation = "provider"
)

// preference is the local preference of what a neighbour says.
var preference = map[relation]uint32{isCustomer: 300, isPeer: 200, isProvider: 100}

// exported is the community of what customers say and of what is a router's own,
// toAll the name of the set with it.
const (
	exportedAS    = 65000
	exportedValue = 1
	toAll         = "to-all"
)

var exported = fmt.Sprintf("%d:%d", exportedAS, exportedValue)

// speakerRequest is a line to a running speaker, speakerReply its answer.
type speakerRequest struct {
	Op     string // state, announce, withdraw, close
	Prefix netip.Prefix
	To     netip.Addr // announce: only to this neighbour; close: the session with it
}

type speakerReply struct {
	Error       string
	Established int
	Neighbors   int
	Paths       int // in the table, for prefixes of the site
}

// speaker is a router's BGP: a GoBGP server, the watcher that installs its best
// paths in the kernel, and the one that closes sessions.
type speaker struct {
	c   speakerConfig
	bgp *server.BgpServer
	det *detector

	mu  sync.Mutex
	err error
}

// runSpeaker is the program of a speaker.
func runSpeaker() int {
	in := bufio.NewReader(os.Stdin)
	out := json.NewEncoder(os.Stdout)
	var s speaker
	err := readLine(in, &s.c)
	if err == nil {
		err = s.start(context.Background())
	}
	reply := speakerReply{}
	if err != nil {
		reply.Error = err.Error()
	}
	out.Encode(reply)
	if err != nil {
		return 1
	}
	for {
		var req speakerRequest
		if err := readLine(in, &req); err != nil {
			return 0 // whoever started us is gone or has enough
		}
		out.Encode(s.serve(context.Background(), req))
	}
}

func readLine(in *bufio.Reader, v any) error {
	line, err := in.ReadBytes('\n')
	if err != nil {
		return err
	}
	return json.Unmarshal(line, v)
}

var unicast4 = &api.Family{Afi: api.Family_AFI_IP, Safi: api.Family_SAFI_UNICAST}

func (s *speaker) start(ctx context.Context) error {
	s.bgp = server.NewBgpServer(server.LoggerOption(speakerLog{s.c.Name, s.c.Verbose}))
	go s.bgp.Serve()
	err := s.bgp.StartBgp(ctx, &api.StartBgpRequest{Global: &api.Global{
		Asn: s.c.AS, RouterId: s.c.RouterID.String(), ListenPort: bgpPort,
	}})
	if err != nil {
		return err
	}
	if err := s.policies(ctx); err != nil {
		return fmt.Errorf("policies: %w", err)
	}
	err = s.bgp.WatchEvent(ctx, &api.WatchEventRequest{Table: &api.WatchEventRequest_Table{
		Filters: []*api.WatchEventRequest_Table_Filter{{Type: api.WatchEventRequest_Table_Filter_BEST, Init: true}},
	}}, func(r *api.WatchEventResponse) { s.install(r.GetTable().GetPaths()) })
	if err != nil {
		return err
	}
	if s.det, err = newDetector(s, s.c.Detector); err != nil {
		return err
	}
	for _, p := range s.c.Originate {
		if err := s.announce(ctx, p); err != nil {
			return err
		}
	}
	for _, n := range s.c.Neighbors {
		if err := s.neighbor(ctx, n); err != nil {
			return fmt.Errorf("neighbor %s: %w", n.Addr, err)
		}
	}
	return nil
}

func (s *speaker) neighbor(ctx context.Context, n neighborConfig) error {
	// The default timers of GoBGP, and of the protocol: keepalives every 30 s,
	// and 90 s without one end a session. Connections are tried every second.
	timers := &api.Timers{Config: &api.TimersConfig{ConnectRetry: 1, HoldTime: 90, KeepaliveInterval: 30}}
	for _, a := range n.addrs() {
		err := s.bgp.AddPeer(ctx, &api.AddPeerRequest{Peer: &api.Peer{
			Conf:      &api.PeerConf{NeighborAddress: a.String(), PeerAsn: n.AS},
			Timers:    timers,
			Transport: &api.Transport{PassiveMode: n.Wait},
		}})
		if err != nil {
			return err
		}
	}
	return nil
}

// addrs lists the addresses that the neighbour has or may come to have.
func (n neighborConfig) addrs() []netip.Addr {
	if n.Later.IsValid() {
		return []netip.Addr{n.Addr, n.Later}
	}
	return []netip.Addr{n.Addr}
}

// established returns the address of the neighbour among those that there is a
// session with.
func (n neighborConfig) established(peers []netip.Addr) netip.Addr {
	for _, a := range n.addrs() {
		if slices.Contains(peers, a) {
			return a
		}
	}
	return netip.Addr{}
}

// policies prefer what some neighbours say, and tell them only what they are
// to hear.
func (s *speaker) policies(ctx context.Context) error {
	err := s.bgp.AddDefinedSet(ctx, &api.AddDefinedSetRequest{DefinedSet: &api.DefinedSet{
		DefinedType: api.DefinedType_COMMUNITY, Name: toAll, List: []string{exported},
	}})
	if err != nil {
		return err
	}
	marked := &api.MatchSet{Type: api.MatchSet_ANY, Name: toAll}
	accept := func() *api.Actions { return &api.Actions{RouteAction: api.RouteAction_ACCEPT} }
	var in, out []*api.Statement
	otherwise := api.RouteAction_ACCEPT
	for _, n := range s.c.Neighbors {
		pref := cmp.Or(n.LocalPref, preference[n.Relation])
		if pref == 0 && n.Export == nil {
			continue
		}
		set := "neighbor-" + n.Addr.String()
		var addrs []string
		for _, a := range n.addrs() {
			addrs = append(addrs, netip.PrefixFrom(a, a.BitLen()).String())
		}
		err := s.bgp.AddDefinedSet(ctx, &api.AddDefinedSetRequest{DefinedSet: &api.DefinedSet{
			DefinedType: api.DefinedType_NEIGHBOR, Name: set, List: addrs,
		}})
		if err != nil {
			return err
		}
		from := &api.MatchSet{Type: api.MatchSet_ANY, Name: set}
		if pref > 0 {
			st := &api.Statement{Name: "from-" + n.Addr.String(), Conditions: &api.Conditions{NeighborSet: from}, Actions: accept()}
			st.Actions.LocalPref = &api.LocalPrefAction{Value: pref}
			switch n.Relation {
			case isCustomer:
				st.Actions.Community = &api.CommunityAction{Type: api.CommunityAction_ADD, Communities: []string{exported}}
			case isPeer, isProvider:
				st.Actions.Community = &api.CommunityAction{Type: api.CommunityAction_REMOVE, Communities: []string{exported}}
			}
			in = append(in, st)
		}
		switch {
		case n.Export != nil:
			otherwise = api.RouteAction_REJECT
			if err := s.export(ctx, n.Addr, n.Export...); err != nil {
				return err
			}
			st := &api.Statement{
				Name:       "to-" + n.Addr.String(),
				Conditions: &api.Conditions{NeighborSet: from, PrefixSet: &api.MatchSet{Type: api.MatchSet_ANY, Name: exportSet(n.Addr)}},
				Actions:    accept(),
			}
			if n.Prepend > 0 {
				st.Actions.AsPrepend = &api.AsPrependAction{Asn: s.c.AS, Repeat: n.Prepend}
			}
			out = append(out, st)
		case n.Relation == isPeer || n.Relation == isProvider:
			out = append(out,
				&api.Statement{Name: "to-" + n.Addr.String(), Conditions: &api.Conditions{NeighborSet: from, CommunitySet: marked}, Actions: accept()},
				&api.Statement{Name: "not-to-" + n.Addr.String(), Conditions: &api.Conditions{NeighborSet: from}, Actions: &api.Actions{RouteAction: api.RouteAction_REJECT}})
		}
	}
	for _, d := range []struct {
		name       string
		direction  api.PolicyDirection
		statements []*api.Statement
		otherwise  api.RouteAction
	}{
		{"in", api.PolicyDirection_IMPORT, in, api.RouteAction_ACCEPT},
		{"out", api.PolicyDirection_EXPORT, out, otherwise},
	} {
		if len(d.statements) == 0 {
			continue
		}
		p := &api.Policy{Name: d.name, Statements: d.statements}
		if err := s.bgp.AddPolicy(ctx, &api.AddPolicyRequest{Policy: p}); err != nil {
			return err
		}
		err := s.bgp.AddPolicyAssignment(ctx, &api.AddPolicyAssignmentRequest{Assignment: &api.PolicyAssignment{
			Name: "global", Direction: d.direction, Policies: []*api.Policy{{Name: d.name}}, DefaultAction: d.otherwise,
		}})
		if err != nil {
			return err
		}
	}
	return nil
}

func exportSet(neighbor netip.Addr) string { return "export-" + neighbor.String() }

// export adds to what a neighbour is told.
func (s *speaker) export(ctx context.Context, neighbor netip.Addr, list ...netip.Prefix) error {
	set := &api.DefinedSet{DefinedType: api.DefinedType_PREFIX, Name: exportSet(neighbor)}
	for _, p := range list {
		set.Prefixes = append(set.Prefixes, &api.Prefix{IpPrefix: p.String(), MaskLengthMin: uint32(p.Bits()), MaskLengthMax: uint32(p.Bits())})
	}
	return s.bgp.AddDefinedSet(ctx, &api.AddDefinedSetRequest{DefinedSet: set})
}

func apiPath(p netip.Prefix) (*api.Path, error) {
	var attrs []*anypb.Any
	for _, a := range []proto.Message{
		&api.OriginAttribute{Origin: 0}, &api.NextHopAttribute{NextHop: "0.0.0.0"},
		&api.CommunitiesAttribute{Communities: []uint32{exportedAS<<16 | exportedValue}},
	} {
		x, err := anypb.New(a)
		if err != nil {
			return nil, err
		}
		attrs = append(attrs, x)
	}
	nlri, err := anypb.New(&api.IPAddressPrefix{Prefix: p.Addr().String(), PrefixLen: uint32(p.Bits())})
	return &api.Path{Family: unicast4, Nlri: nlri, Pattrs: attrs}, err
}

func (s *speaker) announce(ctx context.Context, p netip.Prefix) error {
	path, err := apiPath(p)
	if err != nil {
		return err
	}
	_, err = s.bgp.AddPath(ctx, &api.AddPathRequest{Path: path})
	return err
}

// serve answers one request.
func (s *speaker) serve(ctx context.Context, req speakerRequest) speakerReply {
	var r speakerReply
	var err error
	switch req.Op {
	case "state":
		r, err = s.state(ctx)
	case "announce":
		if req.To.IsValid() {
			err = s.export(ctx, req.To, req.Prefix)
		}
		if err == nil {
			err = s.announce(ctx, req.Prefix)
		}
	case "withdraw":
		var path *api.Path
		if path, err = apiPath(req.Prefix); err == nil {
			err = s.bgp.DeletePath(ctx, &api.DeletePathRequest{Family: unicast4, Path: path})
		}
	case "close": // as a detector does that is wrong; it opens it again
		err = s.bgp.DisablePeer(ctx, &api.DisablePeerRequest{Address: req.To.String()})
	default:
		err = fmt.Errorf("there is no request %q", req.Op)
	}
	s.mu.Lock()
	err = errors.Join(err, s.err)
	s.mu.Unlock()
	if err != nil {
		r.Error = err.Error()
	}
	return r
}

func (s *speaker) state(ctx context.Context) (r speakerReply, err error) {
	r.Neighbors = len(s.c.Neighbors)
	peers, err := s.peers(ctx)
	if err != nil {
		return r, err
	}
	for _, n := range s.c.Neighbors {
		if n.established(peers).IsValid() {
			r.Established++
		}
	}
	block := pfx(siteBlock)
	err = s.bgp.ListPath(ctx, &api.ListPathRequest{TableType: api.TableType_GLOBAL, Family: unicast4}, func(d *api.Destination) {
		if p, err := netip.ParsePrefix(d.Prefix); err == nil && block.Overlaps(p) {
			r.Paths += len(d.Paths)
		}
	})
	return r, err
}

// peers lists the addresses that there is a session with.
func (s *speaker) peers(ctx context.Context) (list []netip.Addr, err error) {
	err = s.bgp.ListPeer(ctx, &api.ListPeerRequest{}, func(p *api.Peer) {
		a, perr := netip.ParseAddr(p.State.NeighborAddress)
		if perr == nil && p.State.SessionState == api.PeerState_ESTABLISHED {
			list = append(list, a)
		}
	})
	return list, err
}

// install brings best paths into the kernel.
func (s *speaker) install(paths []*api.Path) {
	for _, p := range paths {
		if err := s.installOne(p); err != nil {
			s.mu.Lock()
			s.err = errors.Join(s.err, fmt.Errorf("install a best path: %w", err))
			s.mu.Unlock()
		}
	}
}

func (s *speaker) installOne(p *api.Path) error {
	var nlri api.IPAddressPrefix
	if err := p.Nlri.UnmarshalTo(&nlri); err != nil {
		return err
	}
	dst, err := netip.ParsePrefix(fmt.Sprintf("%s/%d", nlri.Prefix, nlri.PrefixLen))
	if err != nil {
		return err
	}
	r := &netlink.Route{Dst: netns.IPNet(dst), Protocol: unix.RTPROT_BGP}
	if p.IsWithdraw {
		err := netlink.RouteDel(r)
		if errors.Is(err, unix.ESRCH) { // it went with its interface
			return nil
		}
		return err
	}
	var via netip.Addr
	for _, a := range p.Pattrs {
		var nh api.NextHopAttribute
		if a.MessageIs(&nh) {
			if err := a.UnmarshalTo(&nh); err != nil {
				return err
			}
			via, err = netip.ParseAddr(nh.NextHop)
			if err != nil {
				return err
			}
		}
	}
	if !via.IsValid() || via.IsUnspecified() {
		return nil // our own
	}
	r.Gw = via.AsSlice()
	err = netlink.RouteReplace(r)
	if errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.ENETDOWN) || errors.Is(err, unix.EHOSTUNREACH) {
		return nil // its interface has just gone; the session follows
	}
	return err
}

// speakerLog passes what GoBGP says on to the standard error, if it is wanted.
type speakerLog struct {
	name    string
	verbose bool
}

func (l speakerLog) say(level, msg string, f log.Fields) {
	if l.verbose {
		fmt.Fprintf(os.Stderr, "%s %s %s %s %v\n", time.Now().Format("15:04:05.000"), l.name, level, msg, f)
	}
}

func (l speakerLog) Panic(msg string, f log.Fields) { l.say("panic", msg, f); panic(msg) }
func (l speakerLog) Fatal(msg string, f log.Fields) { l.say("fatal", msg, f); os.Exit(1) }
func (l speakerLog) Error(msg string, f log.Fields) { l.say("error", msg, f) }
func (l speakerLog) Warn(msg string, f log.Fields)  { l.say("warn", msg, f) }
func (l speakerLog) Info(msg string, f log.Fields)  { l.say("info", msg, f) }
func (l speakerLog) Debug(string, log.Fields)       {}
func (l speakerLog) SetLevel(log.LogLevel)          {}
func (l speakerLog) GetLevel() log.LogLevel         { return log.InfoLevel }
