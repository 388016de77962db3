package main

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/eidolon-lisp/eidolon/api"
	eidolonv1 "github.com/eidolon-lisp/eidolon/api/proto/eidolon/v1"
	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/dataplane/dptest"
	"github.com/eidolon-lisp/eidolon/internal/config"
	"github.com/eidolon-lisp/eidolon/internal/daemon"
	"github.com/eidolon-lisp/eidolon/internal/fanout"
	"github.com/eidolon-lisp/eidolon/internal/netns"
	"github.com/eidolon-lisp/eidolon/internal/testca"
	"github.com/eidolon-lisp/eidolon/internal/udp"
	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/alt"
	"github.com/eidolon-lisp/eidolon/mapping/auth"
	"github.com/eidolon-lisp/eidolon/mapping/bgp"
	"github.com/eidolon-lisp/eidolon/mapping/server"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
	"github.com/eidolon-lisp/eidolon/mapping/xtr"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"lispctl": main, "daemons": standIns})
}

// TestScripts runs lispctl as a process against a real map-server and an API
// server in front of a made-up xTR.
func TestScripts(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			h := &host{dir: env.WorkDir}
			env.Values[hostKey{}] = h
			ctx, cancel := context.WithCancel(context.Background())
			env.Defer(func() { cancel(); h.wait.Wait() })
			if err := h.mapServer(ctx); err != nil {
				return err
			}
			if err := h.xtr(ctx); err != nil {
				return err
			}
			// The race detector waits a second at the end of each process.
			env.Setenv("GORACE", "atexit_sleep_ms=0")
			env.Setenv("CAPTURES", filepath.Join(root, "mapping/wire/testdata"))
			env.Setenv("DECODED", filepath.Join(root, "encap/layers/testdata"))
			env.Setenv("MS", h.addr.String())
			env.Setenv("MS_SOCK", h.socket("mapserver"))
			env.Setenv("XTR_SOCK", h.socket("xtr"))
			env.Setenv("MS_TLS", h.tls)
			silent, err := net.ListenPacket("udp4", "127.0.0.1:0")
			if err != nil {
				return err
			}
			env.Defer(func() { silent.Close() })
			env.Setenv("SILENT", silent.LocalAddr().String())
			// A socket that nobody accepts at.
			mute, err := net.Listen("unix", filepath.Join(env.WorkDir, "silent.sock"))
			if err != nil {
				return err
			}
			env.Defer(func() { mute.Close() })
			env.Setenv("SILENT_SOCK", mute.Addr().String())
			if err := h.half(env); err != nil {
				return err
			}
			env.Setenv("HALF_SOCK", h.socket("half"))
			return h.up()
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exit": exitCode, "watched": watched, "happen": happen, "namespace": namespace, "inside": inside, "fill": fill, "terminal": terminal, "piped": piped, "revision": revision, "begin": begin, "ended": ended, "send": send},
	})
}

// half serves the health of a daemon that is there and not ready.
func (h *host) half(env *testscript.Env) error {
	l, err := net.Listen("unix", h.socket("half"))
	if err != nil {
		return err
	}
	healthy, s := health.NewServer(), grpc.NewServer()
	healthy.SetServingStatus(serviceReady, healthv1.HealthCheckResponse_NOT_SERVING)
	healthv1.RegisterHealthServer(s, healthy)
	h.wait.Go(func() { s.Serve(l) })
	env.Defer(s.Stop)
	h.health = healthy
	return nil
}

// exitCode runs lispctl and checks its exit code: exit 3 lig 10.0.0.1
func exitCode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exit CODE lispctl ARGS")
	}
	err := ts.Exec(args[1], args[2:]...)
	got := "0"
	if err != nil {
		got = strings.TrimPrefix(err.Error(), "exit status ")
	}
	if got != args[0] {
		ts.Fatalf("exit code %s, want %s", got, args[0])
	}
}

// watched waits until somebody monitors the xTR: watched xtr. With ! it waits
// until nobody does. On a map-server it waits until somebody has begun for the
// nth time: watched mapserver 2.
func watched(ts *testscript.TestScript, neg bool, args []string) {
	h := ts.Value(hostKey{}).(*host)
	watchers := func() bool { return h.made.events.Watched() }
	if args[0] == programMapServer {
		nth := int32(1)
		if len(args) > 1 {
			n, err := strconv.Atoi(args[1])
			ts.Check(err)
			nth = int32(n)
		}
		watchers = func() bool { return h.watched.watchers.Load() >= nth }
	}
	for n := 0; watchers() == neg; n++ {
		if n > 4000 {
			ts.Fatalf("%s is monitored: %v", args[0], !neg)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// happen makes events happen at a daemon: happen mapserver; a queue of the xTR
// overflow: happen overflow; or what is half there ready: happen ready.
func happen(ts *testscript.TestScript, neg bool, args []string) {
	h := ts.Value(hostKey{}).(*host)
	switch args[0] {
	case "traffic":
		h.traffic()
		return
	case "ready":
		h.health.SetServingStatus(serviceReady, healthv1.HealthCheckResponse_SERVING)
		return
	case "overflow":
		h.lost.Store(4)
		return
	case programMapServer:
		bad := h.key
		bad.Secret = []byte("not the secret")
		c, err := h.register(bad, 2)
		ts.Check(err)
		ts.Check(c.Close())
		return
	}
	for _, e := range []string{"10.3.0.0/16", "10.2.1.0/24"} {
		h.made.events.Publish(xtr.Event{Time: h.made.now, Kind: xtr.EventRemoved, EID: mapping.MustParseEID(e), Reason: "it expired"})
	}
}

// hostKey is where a script finds its host.
type hostKey struct{}

// host is a machine with both daemons.
type host struct {
	dir     string
	addr    netip.AddrPort
	wait    sync.WaitGroup
	srv     *server.Server
	watched *watchedServer
	made    *madeUpXTR
	key     auth.Key
	lost    atomic.Uint64 // misses
	traffic func()        // has packets go through the xTR
	tls     string        // where the map-server is served over TLS
	ns      *netns.NS     // of the command namespace
	capture *capturing    // of the command begin
	health  *health.Server
}

func (h *host) socket(program string) string { return filepath.Join(h.dir, program+".sock") }

func (h *host) serve(ctx context.Context, program string, services ...api.Service) {
	h.serveFor(ctx, nil, program, services...)
}

func (h *host) serveFor(ctx context.Context, access *api.Access, program string, services ...api.Service) {
	h.wait.Go(func() { api.Serve(ctx, api.Config{Socket: h.socket(program), Access: access}, services...) })
}

func locator(a string, priority, weight uint8) mapping.Locator {
	return mapping.MakeLocator(netip.MustParseAddr(a), priority, weight)
}

// mapServer starts a map-server with a site that has registered.
func (h *host) mapServer(ctx context.Context) error {
	conn, err := udp.Listen([]netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")})
	if err != nil {
		return err
	}
	h.addr = conn.Addrs()[0]
	h.key = auth.Key{ID: 1, Algorithm: auth.SHA256HKDF, Secret: []byte("0123456789abcdef")}
	h.srv, err = server.New(ctx, server.Config{
		Listen: []netip.AddrPort{h.addr},
		Sites: []server.Site{
			{Name: "site-a", Keys: []auth.Key{h.key}, Prefixes: []server.SitePrefix{
				{EID: mapping.MustParseEID("10.1.0.0/16"), ProxyReply: server.ProxyAlways},
				{EID: mapping.MustParseEID("[7]10.0.0.0/8"), AcceptMoreSpecifics: true},
			}},
			{Name: "site-b", Keys: []auth.Key{h.key}, Prefixes: []server.SitePrefix{{EID: mapping.MustParseEID("10.2.0.0/16")}}},
		},
		Static: []*mapping.Record{
			{EID: mapping.MustParseEID("10.9.0.0/16"), TTL: 1440, Locators: []mapping.Locator{locator("192.0.2.5", 1, 60), locator("2001:db8::5", 2, 100)}},
			mapping.NegativeRecord(mapping.MustParseEID("10.8.0.0/16"), mapping.Drop, 60),
		},
	}, nil)
	if err != nil {
		return err
	}
	h.watched = &watchedServer{Server: h.srv}
	h.wait.Go(func() { h.srv.Run(ctx, conn, 2) })
	overlay := &api.ALTView{AS: 65001, RouterID: netip.MustParseAddr("203.0.113.10"), Own: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")},
		Tunnels: []api.ALTTunnel{{Name: "alt-up", Addresses: []netip.Prefix{netip.MustParsePrefix("172.16.0.2/30")}}},
		Neighbours: func() ([]bgp.NeighbourStatus, error) {
			return []bgp.NeighbourStatus{{Addr: netip.MustParseAddr("172.16.0.1"), AS: 65000, State: bgp.Established, Since: time.Now().Add(-49*time.Hour - time.Minute), Announced: 1, Received: 3, UpdatesIn: 4, UpdatesOut: 2}}, nil
		},
		Routes: func() iter.Seq[alt.Route] {
			return slices.Values([]alt.Route{{Prefix: netip.MustParsePrefix("10.0.0.0/8"), Kind: alt.Forward, NextHop: netip.MustParseAddr("172.16.0.1"), OriginAS: 65000}})
		},
	}
	access, err := h.access()
	if err != nil {
		return err
	}
	trial, err := h.configuration(config.KindMapServer, "", serverConfig)
	if err != nil {
		return err
	}
	h.serveFor(ctx, access, programMapServer, api.Controlled(programMapServer, api.Controls{Trial: trial, Reload: trial.Reload, Logs: logs(config.KindMapServer)}, h.srv.Stats), api.Mappings(h.watched), api.Sites(h.srv), api.ALT(overlay))
	for access.Addrs() == nil {
		time.Sleep(time.Millisecond)
	}
	h.tls = access.Addrs()[0].String()
	return h.registerSite()
}

// access lets users in over TLS, and writes what they need to the directory: a
// certificate noc, of who reads, and fabric.token, of who registers.
func (h *host) access() (*api.Access, error) {
	ca, err := testca.New("the CA")
	if err != nil {
		return nil, err
	}
	daemon, err := ca.Issue("mapserver.example", x509.ExtKeyUsageServerAuth, nil)
	if err != nil {
		return nil, err
	}
	noc, err := ca.Issue("noc.example", x509.ExtKeyUsageClientAuth, nil)
	if err != nil {
		return nil, err
	}
	const token = "a token for tests, of who registers"
	if err := errors.Join(ca.WriteCA(filepath.Join(h.dir, "ca.pem")), testca.Write(h.dir, "noc", noc),
		os.WriteFile(filepath.Join(h.dir, "fabric.token"), []byte(strings.ReplaceAll(token, " ", "-")+"\n"), 0o600)); err != nil {
		return nil, err
	}
	return api.NewAccess(config.API{
		TCP: &config.APITCP{Listen: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")}, MaxConnections: 64, Certificate: daemon, ClientCAs: []*x509.Certificate{ca.Certificate}},
		Users: []config.APIUser{
			{Name: "noc", Read: true, Certificates: []string{"noc.example"}},
			{Name: "fabric", Register: true, EIDPrefixes: []mapping.EID{mapping.MustParseEID("10.0.0.0/8")},
				Tokens: [][sha256.Size]byte{sha256.Sum256([]byte(strings.ReplaceAll(token, " ", "-")))}},
		},
	}, nil)
}

// Configurations of the two daemons, which nothing else uses.
const (
	serverConfig = "listen: [192.0.2.1]\nlog: {level: info}\n"
	xtrConfig    = "proxy_etr: {eid_prefixes: [10.0.0.0/8], locator_set: a}\nlocator_sets: [{name: a, locators: [{address: 192.0.2.1}]}]\n"
)

// logs are those of a daemon that logs nowhere.
func logs(k config.Kind) *daemon.Logs { return daemon.NewLogs(io.Discard, config.Subsystems(k)) }

// configuration is a daemon's, in a file of the directory etc that the daemon names
// as seen.
func (h *host) configuration(k config.Kind, seen, text string) (*config.Trial, error) {
	path := filepath.Join(h.dir, "etc", string(k)+".yml")
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o640)); err != nil {
		return nil, err
	}
	if seen == "" {
		seen = path
	}
	parse := func(text []byte) (*config.Text, error) {
		if k == config.KindXTR {
			c, err := config.ParseXTR(seen, text)
			if err != nil {
				return nil, err
			}
			return c.Text, nil
		}
		c, err := config.ParseMapServer(seen, text)
		if err != nil {
			return nil, err
		}
		return c.Text, nil
	}
	first, err := parse([]byte(text))
	if err != nil {
		return nil, err
	}
	var running atomic.Pointer[config.Text]
	running.Store(first)
	return &config.Trial{Path: seen, Kind: k, Log: slog.New(slog.DiscardHandler), Running: running.Load,
		Take: func(text []byte) (done config.Reloaded, back func() error, err error) {
			if text == nil {
				if text, err = os.ReadFile(path); err != nil {
					return done, nil, err
				}
			}
			next, err := parse(text)
			if err != nil {
				return done, nil, err
			}
			diffs, err := config.Compare(first, next)
			for _, d := range diffs {
				if d.Restart {
					done.Restart = append(done.Restart, d.Key)
				}
			}
			before := running.Swap(next)
			return done, func() error { running.Store(before); return nil }, err
		}}, nil
}

// watchedServer is a map-server that counts who watches its events.
type watchedServer struct {
	*server.Server
	watchers atomic.Int32
}

func (s *watchedServer) Watch(queue int) (*fanout.Subscription[server.Event], error) {
	sub, err := s.Server.Watch(queue)
	s.watchers.Add(1)
	return sub, err
}

// Subscriptions is made up: nobody subscribes in these tests.
func (s *watchedServer) Subscriptions() iter.Seq[server.SubscriptionStatus] {
	now := time.Now()
	return slices.Values([]server.SubscriptionStatus{
		{EID: mapping.MustParseEID("10.9.0.0/16"), XTRID: mapping.XTRID{15: 11}, ITRRLOCs: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}, Since: now.Add(-49*time.Hour - time.Minute)},
		{EID: mapping.MustParseEID("11.0.0.0/8"), XTRID: mapping.XTRID{15: 11}, Temporary: true, Since: now, Until: now.Add(49*time.Hour + 59*time.Minute), Waiting: 2},
	})
}

// register sends a Map-Register signed with a key.
func (h *host) register(key auth.Key, nonce uint64) (net.Conn, error) {
	rs, err := wire.NewRecords(&mapping.Record{EID: mapping.MustParseEID("10.1.0.0/16"), TTL: 1440, Authoritative: true,
		Locators: []mapping.Locator{locator("192.0.2.1", 1, 100)}})
	if err != nil {
		return nil, err
	}
	msg, err := (&wire.MapRegister{ProxyReply: true, WantNotify: true, Nonce: nonce, Auth: key.Template(), Records: rs, HasXTRID: true, XTRID: mapping.XTRID{15: 10}, SiteID: 1}).AppendBinary(nil)
	if err != nil {
		return nil, err
	}
	if err := auth.Sign(msg, key); err != nil {
		return nil, err
	}
	// Not from the LISP port, so that the Map-Notify comes back here.
	c, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(h.addr))
	if err != nil {
		return nil, err
	}
	_, err = c.Write(msg)
	return c, err
}

func (h *host) registerSite() error {
	c, err := h.register(h.key, 1)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Read(make([]byte, 1500)); err != nil {
		return fmt.Errorf("no Map-Notify: %w", err)
	}
	return nil
}

// xtr serves the API of an xTR.
func (h *host) xtr(ctx context.Context) error {
	now := time.Now()
	x := &madeUpXTR{resolver: h.addr, now: now, locals: []xtr.LocalLocator{
		{Addr: netip.MustParseAddr("192.0.2.1"), Uplink: "eth2", Priority: 1, Weight: 100, Paths: 2, PathsDown: 1, LastReply: now.Add(-49*time.Hour - time.Minute)},
		{Addr: netip.MustParseAddr("2001:db8::1"), Uplink: "eth2", State: xtr.LocatorHeld, Held: now.Add(49*time.Hour + 59*time.Minute), Flaps: 6, Priority: 2, Weight: 50},
		{Addr: netip.MustParseAddr("198.51.100.1"), Uplink: "eth3", State: xtr.LocatorNoCarrier, Priority: 254},
	}}
	entry := func(r *mapping.Record) {
		x.cache = append(x.cache, mapping.CacheEntry{Record: r, Installed: now.Add(-25*time.Hour - time.Minute), Expires: now.Add(26*time.Hour + 59*time.Minute)})
	}
	entry(&mapping.Record{EID: mapping.MustParseEID("10.2.0.0/16"), TTL: 16, Locators: []mapping.Locator{locator("192.0.2.2", 1, 100)}})
	entry(mapping.NegativeRecord(mapping.MustParseEID("[7]2001:db8::/32"), mapping.NativelyForward, 16))
	fib := dataplane.NewFIB()
	fib.SetSources([]dataplane.Source{{Addr: netip.MustParseAddr("192.0.2.1"), Priority: 1, Weight: 100}})
	fib.SetLocal([]dataplane.LocalEID{{EID: mapping.MustParseEID("10.1.0.0/16")}})
	for _, e := range x.cache {
		fib.Apply([]mapping.CacheChange{{EID: e.Record.EID, Record: e.Record, Expires: e.Expires}})
	}
	forward := dataplane.NewForwarder(fib, dataplane.Config{})
	out := forward.NewEncap(0, dptest.NewHost(), dptest.NewUnderlay())
	in := forward.NewDecap(map[uint32]dataplane.HostWriter{0: dptest.NewHost()})
	packet := func(to string) dataplane.HostPacket {
		return dptest.HostPacket(dptest.Flow("10.1.0.5:1000", to, 17, 1200).Bytes(), 0)
	}
	out.Batch(now, []dataplane.HostPacket{packet("10.2.0.9:2000"), packet("10.2.0.9:2000")})
	h.traffic = func() {
		out.Batch(time.Now(), []dataplane.HostPacket{packet("10.2.0.9:2000"), packet("10.99.0.1:2000"), packet("10.2.0.9:53")})
		in.Batch([]dataplane.Packet{dptest.Flow("10.2.0.9:2000", "10.1.0.5:1000", 17, 100).Lisp(0, "192.0.2.2", "192.0.2.1")})
	}
	h.made = x
	// It can't be replaced where the daemon looks for it, and can by lispctl.
	trial, err := h.configuration(config.KindXTR, "etc/xtr.yml", xtrConfig)
	if err != nil {
		return err
	}
	view := &api.BGPView{AS: 64500, RouterID: netip.MustParseAddr("192.0.2.1"),
		Announce: func() []bgp.Route {
			return []bgp.Route{{Prefix: netip.MustParsePrefix("10.0.0.0/8"), OriginAS: 64510, Communities: []uint32{64500<<16 | 100, 0xffffff01}}, {Prefix: netip.MustParsePrefix("2001:db8::/32")}}
		},
		Announced: func() []bgp.Route { return []bgp.Route{{Prefix: netip.MustParsePrefix("10.0.0.0/8")}} },
		Neighbours: func() ([]bgp.NeighbourStatus, error) {
			return []bgp.NeighbourStatus{
				{Addr: netip.MustParseAddr("192.0.2.254"), AS: 64501, State: bgp.Established, Since: now.Add(-49*time.Hour - time.Minute), Announced: 1, Received: 3, UpdatesIn: 4, UpdatesOut: 2, GracefulRestart: true},
				{Addr: netip.MustParseAddr("2001:db8::1"), AS: 64502, State: bgp.TooManyPrefixes},
			}, nil
		},
		Answering: func() xtr.Answering {
			return xtr.Answering{Watched: true, Now: true, Since: now, LastAnswer: now.Add(-49*time.Hour - time.Minute)}
		},
		Learned: func() []bgp.Learned {
			from, since := netip.MustParseAddr("10.1.255.2"), now.Add(-49*time.Hour-time.Minute)
			return []bgp.Learned{
				{Prefix: netip.MustParsePrefix("0.0.0.0/0"), From: from, Rule: -1, Refusal: bgp.RefusedDefault, Since: since},
				{Prefix: netip.MustParsePrefix("10.1.1.0/24"), From: from, OriginAS: 64513, Since: since},
				{Prefix: netip.MustParsePrefix("10.1.2.0/24"), From: from, OriginAS: 64513, Since: since, Leaving: now.Add(time.Hour + time.Minute)},
			}
		},
	}
	h.serve(ctx, programXTR, api.Router(x, fib), api.Traces(fib, true), api.BGP(view), api.Controlled(programXTR, api.Controls{Trial: trial, Reload: trial.Reload, Logs: logs(config.KindXTR)}, func() iter.Seq2[string, uint64] {
		return func(yield func(string, uint64) bool) {
			_ = yield("misses", 5) && yield("map_requests_out", 6) && yield("drop_no_source", 0) && yield("drop_too_big", 7) && yield("miss_lost", h.lost.Load())
		}
	}))
	return nil
}

// up waits until both sockets answer.
func (h *host) up() error {
	for _, p := range []string{programXTR, programMapServer} {
		for n := 0; ; n++ {
			c, err := net.Dial("unix", h.socket(p))
			if err == nil {
				c.Close()
				break
			}
			if n > 1000 {
				return err
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	return nil
}

// madeUpXTR is the state of an xTR.
type madeUpXTR struct {
	resolver netip.AddrPort
	now      time.Time
	mu       sync.Mutex
	cache    []mapping.CacheEntry
	locals   []xtr.LocalLocator
	events   fanout.Fanout[xtr.Event]
}

func (x *madeUpXTR) Databases() []xtr.DatabaseStatus {
	return []xtr.DatabaseStatus{{EID: mapping.MustParseEID("10.1.0.0/16"), LocatorSet: "uplinks", TTL: 1440, Locators: []mapping.Locator{locator("192.0.2.1", 1, 100)},
		Registrations: []xtr.Registration{
			{MapServer: netip.MustParseAddrPort("203.0.113.10:4342"), State: xtr.RegistrationRegistered, LastNotify: x.now.Add(-49*time.Hour - time.Minute), Next: x.now.Add(49*time.Hour + 59*time.Minute)},
			{MapServer: netip.MustParseAddrPort("203.0.113.11:4342"), State: xtr.RegistrationUnconfirmed, Failures: 4},
		}}}
}

func (x *madeUpXTR) LocatorSets() []xtr.LocatorSetStatus {
	up, gone := locator("192.0.2.1", 1, 100), mapping.Locator{Priority: 2, Weight: 50}
	eids := make([]mapping.EID, 300)
	for i := range eids {
		eids[i] = mapping.HostEID(0, netip.AddrFrom4([4]byte{10, 4, byte(i >> 8), byte(i)}))
	}
	return []xtr.LocatorSetStatus{
		{Name: "uplinks", Databases: []mapping.EID{mapping.MustParseEID("10.1.0.0/16")}, Members: []xtr.LocatorSetMember{
			{Locator: up, Uplink: "eth2", Here: true}, {Locator: locator("192.0.2.99", 1, 50)}, {Locator: gone, Uplink: "eth3", Here: true, State: xtr.LocatorNoCarrier},
		}},
		{Name: "learned", Databases: eids, Members: []xtr.LocatorSetMember{{Locator: up, Uplink: "eth2", Here: true}}},
	}
}

func (x *madeUpXTR) MapServers() []xtr.MapServerStatus {
	return []xtr.MapServerStatus{{Addr: netip.MustParseAddrPort("203.0.113.10:4342"), Databases: 1, Registered: 1, RTT: 1500 * time.Microsecond}}
}

func (x *madeUpXTR) MapResolvers() []xtr.MapResolverStatus {
	return []xtr.MapResolverStatus{
		{Addr: netip.MustParseAddrPort("192.0.2.250:4342"), Timeouts: 9, Failures: 9},
		{Addr: x.resolver, Up: true, Requests: 3, Replies: 3},
	}
}

func (x *madeUpXTR) MapCache() []mapping.CacheEntry {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.Clone(x.cache)
}

func (x *madeUpXTR) Lookup(uint32, netip.Addr) (e mapping.CacheEntry, found bool) { return e, false }

func (x *madeUpXTR) Explain(iid uint32, dst netip.Addr) (e xtr.Explanation) {
	for _, d := range x.Databases() {
		if d.EID.Contains(iid, dst) {
			e.Own, e.Database, e.Unresolvable = true, d, "it is the site's own"
		}
	}
	for _, c := range x.MapCache() {
		if c.Record.EID.Contains(iid, dst) {
			e.Cached, e.Entry = true, c
		}
	}
	if dst == netip.MustParseAddr("10.3.0.1") {
		e.Resolving, e.Resolution = true, xtr.Resolution{EID: mapping.HostEID(iid, dst), Tries: 2, Next: x.now.Add(time.Hour)}
	}
	return e
}

func (x *madeUpXTR) RLOCs() []xtr.RLOCStatus {
	return []xtr.RLOCStatus{
		{Addr: netip.MustParseAddr("192.0.2.2"), Up: true, Probes: 4, Replies: 4, LastReply: x.now.Add(-49*time.Hour - time.Minute), RTT: 1500 * time.Microsecond,
			Paths: []xtr.PathStatus{{Local: netip.MustParseAddr("192.0.2.1"), Up: true, LastReply: x.now.Add(-49*time.Hour - time.Minute), RTT: 1500 * time.Microsecond}}},
		{Addr: netip.MustParseAddr("192.0.2.3"), Failures: 7, Probes: 7, Paths: []xtr.PathStatus{{Local: netip.MustParseAddr("192.0.2.1"), Failures: 7}}},
	}
}

func (x *madeUpXTR) LocalLocators() []xtr.LocalLocator {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.Clone(x.locals)
}

func (x *madeUpXTR) DrainLocator(name string, drain bool) error {
	return x.steer(name, func(l *xtr.LocalLocator) { l.Drained = drain })
}

func (x *madeUpXTR) SetLocator(name string, priority, weight *uint8) error {
	return x.steer(name, func(l *xtr.LocalLocator) { l.SetPriority, l.SetWeight = priority, weight })
}

func (x *madeUpXTR) steer(name string, edit func(*xtr.LocalLocator)) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	err := fmt.Errorf("locator %q: %w", name, xtr.ErrNoLocator)
	for i := range x.locals {
		if l := &x.locals[i]; l.Uplink == name || l.Addr.String() == name {
			edit(l)
			err = nil
		}
	}
	return err
}

func (x *madeUpXTR) Watch(queue int) (*fanout.Subscription[xtr.Event], error) {
	return x.events.Subscribe(queue)
}

func (x *madeUpXTR) Clear(e mapping.EID) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	n := len(x.cache)
	x.cache = slices.DeleteFunc(x.cache, func(c mapping.CacheEntry) bool { return c.Record.EID == e })
	return len(x.cache) < n
}

// Every reason that a data plane drops packets for is told in words.
func TestDropMeanings(t *testing.T) {
	known := dataplane.DropReasons()
	for _, r := range known {
		if dropMeaning[r.String()] == "" {
			t.Errorf("no words for %v", r)
		}
	}
	if len(dropMeaning) != len(known) {
		t.Errorf("words for %d reasons, and there are %d", len(dropMeaning), len(known))
	}
}

// Every queue of an xTR that can be full is known to show drops.
func TestOverflows(t *testing.T) {
	x, err := xtr.New(xtr.Config{
		RLOCs:        []netip.Addr{netip.MustParseAddr("192.0.2.1")},
		ProxyETR:     []mapping.EID{mapping.MustParseEID("10.0.0.0/8")},
		MapResolvers: []netip.AddrPort{netip.MustParseAddrPort("203.0.113.1:4342")},
	})
	if err != nil {
		t.Fatal(err)
	}
	counters := make(map[string]bool)
	for _, stats := range []iter.Seq2[string, uint64]{x.Stats(), new(dataplane.Stats).All()} {
		for name := range stats {
			counters[name] = true
			if strings.HasSuffix(name, "_lost") || strings.HasSuffix(name, "queue_full") {
				if overflows[name].queue == "" {
					t.Errorf("nothing is known of %s", name)
				}
			}
		}
	}
	for name := range overflows {
		if !counters[name] {
			t.Errorf("there is no counter %s", name)
		}
	}
}

func TestVolume(t *testing.T) {
	for octets, want := range map[uint64]string{0: "3 (0 B)", 999: "3 (999 B)", 1000: "3 (1 kB)", 1234567: "3 (1.23 MB)", 999_600: "3 (1 MB)", 1<<64 - 1: "3 (18.4 EB)"} {
		if got := sentText(&eidolonv1.Traffic{PacketsOut: 3, BytesOut: octets}); got != want {
			t.Errorf("%d octets are %q, want %q", octets, got, want)
		}
	}
	if got := receivedText(nil); got != "" {
		t.Errorf("what is not known is %q", got)
	}
}

// pagedSites has the sites of a map-server in pages.
type pagedSites struct {
	eidolonv1.SiteServiceClient
	pages [][]*eidolonv1.Site
}

func (p pagedSites) ListSites(_ context.Context, req *eidolonv1.ListSitesRequest, _ ...grpc.CallOption) (*eidolonv1.ListSitesResponse, error) {
	n, _ := strconv.Atoi(req.GetPageToken())
	resp := &eidolonv1.ListSitesResponse{Sites: p.pages[n]}
	if n+1 < len(p.pages) {
		resp.NextPageToken = strconv.Itoa(n + 1)
	}
	return resp, nil
}

// A site that goes on in the next page is one site.
func TestSitesOfPages(t *testing.T) {
	site := func(name string, prefixes ...string) *eidolonv1.Site {
		s := &eidolonv1.Site{Name: name}
		for _, e := range prefixes {
			s.Prefixes = append(s.Prefixes, &eidolonv1.SitePrefix{Eid: e})
		}
		return s
	}
	list, err := allSites(t.Context(), pagedSites{pages: [][]*eidolonv1.Site{
		{site("a", "10.1.0.0/16"), site("b", "10.2.0.0/16")}, {site("b", "10.3.0.0/16")}, {}, {site("b", "10.4.0.0/16"), site("c")},
	}}, &eidolonv1.ListSitesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range list {
		got = append(got, fmt.Sprint(s.GetName(), len(s.GetPrefixes())))
	}
	if want := "a1 b3 c0"; strings.Join(got, " ") != want {
		t.Errorf("%v, want %s", got, want)
	}
}
