// Package bgptest is a plain GoBGP router for tests, in a process of its own: the
// library keeps settings in variables of its package, so that two routers in one
// process disturb each other.
package bgptest

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"time"

	api "github.com/osrg/gobgp/v3/api"
	"github.com/osrg/gobgp/v3/pkg/log"
	"github.com/osrg/gobgp/v3/pkg/server"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// Config is a router with one neighbour, which it waits for.
type Config struct {
	AS       uint32
	RouterID netip.Addr
	Addr     netip.Addr // it listens on
	Port     uint16
	Peer     netip.Addr
	PeerAS   uint32
	// PeerPort, unless 0, makes it connect to the peer.
	PeerPort uint16
	Password string
	// RestartTime, unless 0, makes it a helper in restarts of the peer, in seconds.
	RestartTime uint32
}

// Route is what the router has learned.
type Route struct {
	Prefix      netip.Prefix
	NextHop     string
	ASPath      []uint32
	Communities []uint32
	Large       [][3]uint32
	// Stale: it is kept through a restart of who announced it.
	Stale bool
}

// TB is what Start uses of testing.TB.
type TB interface {
	Helper()
	Fatalf(format string, args ...any)
	Cleanup(func())
}

const roleVariable = "EIDOLON_BGPTEST"

// Main is the program of the router, if that is what this process is for. Tests
// call it first in TestMain.
func Main() {
	if os.Getenv(roleVariable) == "" {
		return
	}
	if err := serve(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bgptest:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

type request struct {
	Op       string // routes, established, announce, withdraw
	Prefixes []netip.Prefix
	// Path are the ASes behind that of the router.
	Path []uint32
}

type reply struct {
	Error       string
	Routes      []Route
	Established bool
	Updates     uint64 // received
}

// Router is a running router. Its methods end the test when they fail.
type Router struct {
	t   TB
	cmd *exec.Cmd
	in  io.WriteCloser
	out *json.Decoder
}

// Start starts a router, which ends with the test. The command's process is made
// by start, if that is not nil: so it can be in another network namespace.
func Start(t TB, cfg Config, start func(*exec.Cmd) error) *Router {
	t.Helper()
	r := &Router{t: t, cmd: exec.Command("/proc/self/exe")}
	r.cmd.Env = append(os.Environ(), roleVariable+"=1")
	r.cmd.Stderr = os.Stderr
	var err error
	if r.in, err = r.cmd.StdinPipe(); err != nil {
		t.Fatalf("%v", err)
	}
	out, err := r.cmd.StdoutPipe()
	if err != nil {
		t.Fatalf("%v", err)
	}
	r.out = json.NewDecoder(out)
	if start == nil {
		start = (*exec.Cmd).Start
	}
	if err := start(r.cmd); err != nil {
		t.Fatalf("start a router: %v", err)
	}
	t.Cleanup(func() {
		r.in.Close()
		r.cmd.Wait()
	})
	r.do(cfg)
	return r
}

// Routes returns what the neighbour has announced, by prefix.
func (r *Router) Routes() []Route { return r.do(request{Op: "routes"}).Routes }

// Prefixes returns the prefixes of Routes.
func (r *Router) Prefixes() (list []netip.Prefix) {
	for _, x := range r.Routes() {
		list = append(list, x.Prefix)
	}
	return list
}

// Established reports whether there is a session.
func (r *Router) Established() bool { return r.do(request{Op: "established"}).Established }

// Updates returns how many UPDATE messages have come in the present session.
func (r *Router) Updates() uint64 { return r.do(request{Op: "established"}).Updates }

// Announce announces prefixes, of an origin at the end of path.
func (r *Router) Announce(path []uint32, prefixes ...netip.Prefix) {
	r.do(request{Op: "announce", Prefixes: prefixes, Path: path})
}

// Withdraw ends that.
func (r *Router) Withdraw(prefixes ...netip.Prefix) {
	r.do(request{Op: "withdraw", Prefixes: prefixes})
}

func (r *Router) do(req any) (rep reply) {
	r.t.Helper()
	line, err := json.Marshal(req)
	if err == nil {
		_, err = r.in.Write(append(line, '\n'))
	}
	if err == nil {
		err = r.out.Decode(&rep)
	}
	if err == nil && rep.Error != "" {
		err = fmt.Errorf("%s", rep.Error)
	}
	if err != nil {
		r.t.Fatalf("router: %v", err)
	}
	return rep
}

// FreePort returns a TCP port that nobody listens on at a.
func FreePort(t TB, a netip.Addr) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", netip.AddrPortFrom(a, 0).String())
	if err != nil {
		t.Fatalf("%v", err)
		return 0
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).AddrPort().Port()
}

// Eventually waits until ok, at most for limit.
func Eventually(t TB, limit time.Duration, what string, ok func() bool) time.Duration {
	t.Helper()
	start := time.Now()
	for !ok() {
		if time.Since(start) > limit {
			t.Fatalf("after %v still not: %s", limit, what)
		}
		time.Sleep(20 * time.Millisecond)
	}
	return time.Since(start)
}

// process is the router in its process.
type process struct {
	cfg    Config
	server *server.BgpServer
	family *api.Family
}

func serve(in io.Reader, out io.Writer) error {
	lines, enc := bufio.NewReader(in), json.NewEncoder(out)
	next := func(v any) error {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return err
		}
		return json.Unmarshal(line, v)
	}
	var p process
	if err := next(&p.cfg); err != nil {
		return err
	}
	answer := func(rep reply, err error) error {
		if err != nil {
			rep.Error = err.Error()
		}
		return enc.Encode(rep)
	}
	if err := answer(reply{}, p.start()); err != nil {
		return err
	}
	for {
		var req request
		if err := next(&req); err != nil {
			return nil // whoever started us is gone or has enough
		}
		if err := answer(p.serve(req)); err != nil {
			return err
		}
	}
}

func (p *process) start() error {
	p.server = server.NewBgpServer(server.LoggerOption(quiet{}))
	go p.server.Serve()
	err := p.server.StartBgp(context.Background(), &api.StartBgpRequest{Global: &api.Global{
		Asn: p.cfg.AS, RouterId: p.cfg.RouterID.String(), ListenPort: int32(p.cfg.Port), ListenAddresses: []string{p.cfg.Addr.String()},
	}})
	if err != nil {
		return err
	}
	p.family = &api.Family{Afi: api.Family_AFI_IP, Safi: api.Family_SAFI_UNICAST}
	if p.cfg.Peer.Is6() {
		p.family.Afi = api.Family_AFI_IP6
	}
	n := &api.Peer{
		Conf:      &api.PeerConf{NeighborAddress: p.cfg.Peer.String(), PeerAsn: p.cfg.PeerAS, AuthPassword: p.cfg.Password},
		Timers:    &api.Timers{Config: &api.TimersConfig{ConnectRetry: 1, HoldTime: 90, KeepaliveInterval: 30, IdleHoldTimeAfterReset: 1}},
		Transport: &api.Transport{PassiveMode: p.cfg.PeerPort == 0, RemotePort: uint32(p.cfg.PeerPort), LocalAddress: p.cfg.Addr.String()},
		AfiSafis:  []*api.AfiSafi{{Config: &api.AfiSafiConfig{Family: p.family, Enabled: true}}},
	}
	if p.cfg.RestartTime > 0 {
		n.GracefulRestart = &api.GracefulRestart{Enabled: true, RestartTime: p.cfg.RestartTime}
		n.AfiSafis[0].MpGracefulRestart = &api.MpGracefulRestart{Config: &api.MpGracefulRestartConfig{Enabled: true}}
	}
	return p.server.AddPeer(context.Background(), &api.AddPeerRequest{Peer: n})
}

func (p *process) serve(req request) (rep reply, err error) {
	ctx := context.Background()
	switch req.Op {
	case "routes":
		err = p.server.ListPath(ctx, &api.ListPathRequest{TableType: api.TableType_GLOBAL, Family: p.family}, func(d *api.Destination) {
			for _, x := range d.Paths {
				if x.NeighborIp != "" && x.NeighborIp != "<nil>" && x.SourceAsn == p.cfg.PeerAS {
					rep.Routes = append(rep.Routes, route(d.Prefix, x))
				}
			}
		})
		slices.SortFunc(rep.Routes, func(a, b Route) int { return a.Prefix.Compare(b.Prefix) })
	case "established":
		err = p.server.ListPeer(ctx, &api.ListPeerRequest{}, func(x *api.Peer) {
			rep.Established = x.State.SessionState == api.PeerState_ESTABLISHED
			rep.Updates = x.State.GetMessages().GetReceived().GetUpdate()
		})
	case "announce", "withdraw":
		for _, x := range req.Prefixes {
			var path *api.Path
			if path, err = p.path(x, req.Path); err != nil {
				break
			}
			if req.Op == "announce" {
				_, err = p.server.AddPath(ctx, &api.AddPathRequest{Path: path})
			} else {
				err = p.server.DeletePath(ctx, &api.DeletePathRequest{Family: p.family, Path: path})
			}
			if err != nil {
				break
			}
		}
	default:
		err = fmt.Errorf("there is no request %q", req.Op)
	}
	return rep, err
}

func route(prefix string, p *api.Path) Route {
	r := Route{Stale: p.Stale}
	r.Prefix, _ = netip.ParsePrefix(prefix)
	for _, a := range p.Pattrs {
		m, err := a.UnmarshalNew()
		if err != nil {
			continue
		}
		switch m := m.(type) {
		case *api.NextHopAttribute:
			r.NextHop = m.NextHop
		case *api.MpReachNLRIAttribute:
			r.NextHop = m.NextHops[0]
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

func (p *process) path(prefix netip.Prefix, as []uint32) (*api.Path, error) {
	nlri, err := anypb.New(&api.IPAddressPrefix{Prefix: prefix.Addr().String(), PrefixLen: uint32(prefix.Bits())})
	if err != nil {
		return nil, err
	}
	attrs := []proto.Message{&api.OriginAttribute{}, &api.NextHopAttribute{NextHop: "0.0.0.0"}}
	if p.cfg.Peer.Is6() {
		attrs[1] = &api.MpReachNLRIAttribute{Family: p.family, NextHops: []string{"::"}, Nlris: []*anypb.Any{nlri}}
	}
	if len(as) > 0 {
		attrs = append(attrs, &api.AsPathAttribute{Segments: []*api.AsSegment{{Type: api.AsSegment_AS_SEQUENCE, Numbers: as}}})
	}
	x := &api.Path{Family: p.family, Nlri: nlri}
	for _, a := range attrs {
		y, err := anypb.New(a)
		if err != nil {
			return nil, err
		}
		x.Pattrs = append(x.Pattrs, y)
	}
	return x, nil
}

// quiet says nothing.
type quiet struct{}

func (quiet) Panic(msg string, _ log.Fields) { panic(msg) }
func (quiet) Fatal(msg string, f log.Fields) { panic(fmt.Sprint(msg, f)) }
func (quiet) Error(string, log.Fields)       {}
func (quiet) Warn(string, log.Fields)        {}
func (quiet) Info(string, log.Fields)        {}
func (quiet) Debug(string, log.Fields)       {}
func (quiet) SetLevel(log.LogLevel)          {}
func (quiet) GetLevel() log.LogLevel         { return log.PanicLevel }
