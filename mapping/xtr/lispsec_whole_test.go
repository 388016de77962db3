package xtr_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eidolon-lisp/eidolon/internal/testnet"
	"github.com/eidolon-lisp/eidolon/internal/udp"
	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/auth"
	"github.com/eidolon-lisp/eidolon/mapping/server"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
	"github.com/eidolon-lisp/eidolon/mapping/xtr"
)

// LISP-SEC from end to end: an ITR, a map-server and map-resolver, and an ETR,
// over a network in virtual time, with somebody on the path.

var (
	mapServer = netip.MustParseAddrPort("198.51.100.1:4342")
	itrAddr   = netip.MustParseAddrPort("192.0.2.1:4342")
	etrAddr   = netip.MustParseAddrPort("203.0.113.7:4342")
	itrKey    = auth.WrapKey{ID: 5, Secret: []byte("ITR and map-resolver")}
	siteKey   = auth.Key{ID: 1, Algorithm: auth.SHA256HKDF, Secret: []byte("ETR and map-server")}
	site      = mapping.MustParseEID("10.2.0.0/16")
	remote    = netip.MustParseAddr("10.2.0.9")
)

const latency = 10 * time.Millisecond

// path is a connection with somebody on the path to it, who sees what comes and
// may change or drop it (nil).
type path struct {
	udp.Conn
	mu     sync.Mutex
	change func([]byte) []byte
	seen   [][]byte
}

func (p *path) Read(buf []byte) (int, netip.AddrPort, netip.AddrPort, error) {
	for {
		n, src, dst, err := p.Conn.Read(buf)
		if err != nil {
			return n, src, dst, err
		}
		p.mu.Lock()
		b := bytes.Clone(buf[:n])
		if t, _ := wire.PeekType(b); t == wire.TypeMapReply {
			p.seen = append(p.seen, bytes.Clone(b))
			if p.change != nil {
				b = p.change(b)
			}
		}
		p.mu.Unlock()
		if b != nil {
			return copy(buf, b), src, dst, nil
		}
	}
}

// world is the network with its nodes.
type world struct {
	t      *testing.T
	net    *testnet.Network
	itr    *xtr.XTR
	path   *path
	misses chan xtr.Miss
}

// inWorld runs f in a world with an ITR of the given policy. Unless etr is nil,
// it changes the configuration of the ETR.
func inWorld(t *testing.T, policy auth.SecurityPolicy, etr func(*xtr.Config), f func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		defer wg.Wait()
		defer cancel()
		n := testnet.New(t, testnet.Path{Latency: latency})
		srv, err := server.New(ctx, server.Config{
			Sites:   []server.Site{{Name: "right", Keys: []auth.Key{siteKey}, Prefixes: []server.SitePrefix{{EID: site}}}},
			LISPSec: server.LISPSec{Policy: auth.SecurityPreferred, Keys: []auth.WrapKey{itrKey}},
		}, nil)
		if err != nil {
			t.Fatal(err)
		}
		conn := n.MustListen(t, mapServer.String())
		wg.Go(func() { _ = srv.Run(ctx, conn, 2) })
		run := func(cfg xtr.Config, conn udp.Conn) (*xtr.XTR, chan xtr.Miss) {
			x, err := xtr.New(cfg)
			if err != nil {
				t.Fatal(err)
			}
			misses := make(chan xtr.Miss)
			wg.Go(func() { _ = x.Run(ctx, conn, misses) })
			return x, misses
		}
		if etr != nil {
			cfg := xtr.Config{
				RLOCs:      []netip.Addr{etrAddr.Addr()},
				Databases:  []xtr.Database{{EID: site, Locators: []mapping.Locator{mapping.MakeLocator(etrAddr.Addr(), 1, 100)}}},
				MapServers: []xtr.MapServer{{Addr: mapServer, Key: siteKey, WantNotify: true}},
				LISPSec:    xtr.LISPSec{Policy: auth.SecurityPreferred},
			}
			etr(&cfg)
			run(cfg, n.MustListen(t, etrAddr.String()))
		}
		w := &world{t: t, net: n, path: &path{Conn: n.MustListen(t, itrAddr.String())}}
		w.itr, w.misses = run(xtr.Config{
			RLOCs:        []netip.Addr{itrAddr.Addr()},
			MapResolvers: []netip.AddrPort{mapServer},
			LISPSec:      xtr.LISPSec{Policy: policy, ResolverKeys: map[netip.AddrPort]auth.WrapKey{mapServer: itrKey}},
		}, w.path)
		w.wait(time.Second)
		f(w)
		w.wait(time.Minute) // whatever is under way ends
	})
}

func (w *world) wait(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (w *world) ask() { w.misses <- xtr.Miss{Dst: remote, Src: netip.MustParseAddr("10.1.0.5")} }

// tamper sets what happens to Map-Replies on their way to the ITR.
func (w *world) tamper(f func([]byte) []byte) {
	w.path.mu.Lock()
	defer w.path.mu.Unlock()
	w.path.change = f
}

// replies returns the Map-Replies that came to the ITR's path.
func (w *world) replies() [][]byte {
	w.path.mu.Lock()
	defer w.path.mu.Unlock()
	return slices.Clone(w.path.seen)
}

func (w *world) stat(name string) uint64 {
	for n, v := range w.itr.Stats() {
		if n == name {
			return v
		}
	}
	w.t.Fatalf("no statistic %s", name)
	return 0
}

func (w *world) want(cached ...string) {
	w.t.Helper()
	var got []string
	for _, e := range w.itr.MapCache() {
		got = append(got, e.Record.String())
	}
	if !slices.Equal(got, cached) {
		w.t.Errorf("map-cache %q, want %q", got, cached)
	}
}

const fromETR, fromProxy = "10.2.0.0/16 ttl 1440m, 203.0.113.7 1/100 LR", "10.2.0.0/16 ttl 1440m, 203.0.113.7 1/100 R"

func asConfigured(*xtr.Config) {}
func proxied(c *xtr.Config)    { c.MapServers[0].ProxyReply = true }
func unsigned(c *xtr.Config)   { c.LISPSec.Policy = auth.SecurityOff }

// TestA7_EndToEnd: with forwarding and with a proxy reply, in exactly the round
// trips that an unprotected resolution takes.
func TestA7_EndToEnd(t *testing.T) {
	for name, x := range map[string]struct {
		etr   func(*xtr.Config)
		want  string
		trips time.Duration
	}{"forwarded": {asConfigured, fromETR, 3}, "proxy": {proxied, fromProxy, 2}} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, auth.SecurityRequired, x.etr, func(w *world) {
				w.ask()
				w.wait(x.trips * latency)
				w.want(x.want)
				if w.stat("map_requests_protected") != 1 || w.stat("map_replies_verified") != 1 || w.stat("map_requests_downgraded") != 0 {
					t.Error("it was not protected")
				}
			})
		})
	}
}

// TestA8_EndToEnd: the S bits of Map-Register, of both ECMs and of the Map-Reply
// are set when all are willing, and clear when LISP-SEC is off.
func TestA8_EndToEnd(t *testing.T) {
	for _, policy := range []auth.SecurityPolicy{auth.SecurityRequired, auth.SecurityOff} {
		inWorld(t, policy, func(c *xtr.Config) { c.LISPSec.Policy = policy }, func(w *world) {
			w.ask()
			w.wait(time.Second)
			w.want(fromETR)
			set := make(map[wire.Type][]bool)
			for _, d := range w.net.Datagrams() {
				ty, _ := wire.PeekType(d.Data)
				bit := byte(0x08) // in the first octet of an ECM
				switch ty {
				case wire.TypeMapRegister:
					bit = 0x04
				case wire.TypeMapReply:
					bit = 0x02
				case wire.TypeECM:
				default:
					continue
				}
				set[ty] = append(set[ty], d.Data[0]&bit != 0)
			}
			on := policy != auth.SecurityOff
			for ty, n := range map[wire.Type]int{wire.TypeMapRegister: 1, wire.TypeECM: 2, wire.TypeMapReply: 1} {
				if len(set[ty]) < n || slices.Contains(set[ty], !on) {
					t.Errorf("%v: S in %v of %v", policy, set[ty], ty)
				}
			}
		})
	}
}

// TestL10_OnThePath: whatever somebody on the path makes of the reply, nothing
// of it is installed. Once he leaves it alone, the ITR gets its answer.
func TestL10_OnThePath(t *testing.T) {
	strip := func(b []byte) []byte {
		var m wire.MapReply
		if m.Decode(b) != nil {
			return b
		}
		m.Security, m.SecurityData = false, nil
		out, err := m.AppendBinary(nil)
		if err != nil {
			t.Error(err)
		}
		return out
	}
	otherHMAC := func(b []byte) []byte {
		var m wire.MapReply
		var s wire.ReplySecurity
		if m.Decode(b) == nil && s.Decode(m.SecurityData) == nil {
			binary.BigEndian.PutUint16(b[len(b)-len(s.HMAC)-2:], 7)
		}
		return b
	}
	const record, eidAD = 12 + 12 + 4, 12 + 12 + 4 + 12
	for name, x := range map[string]struct {
		change  func([]byte) []byte
		counter string
	}{
		"stripped":           {strip, "map_replies_unprotected"},
		"an altered locator": {func(b []byte) []byte { b[record+8] = 66; return b }, "map_replies_forged"},
		"an altered TTL":     {func(b []byte) []byte { b[15]++; return b }, "map_replies_forged"},
		"a shorter prefix":   {func(b []byte) []byte { b[17] = 8; return b }, "map_replies_forged"},
		"an altered EID-AD":  {func(b []byte) []byte { b[eidAD+4+9] = 8; return b }, "map_replies_forged"},
		"the E bit":          {func(b []byte) []byte { b[eidAD+4+5] |= 0x80; return b }, "map_replies_forged"},
		"an altered HMAC":    {func(b []byte) []byte { b[len(b)-1] ^= 1; return b }, "map_replies_forged"},
		"another algorithm":  {otherHMAC, "map_replies_other_algorithm"},
	} {
		for _, etr := range []func(*xtr.Config){asConfigured, proxied} {
			t.Run(name, func(t *testing.T) {
				inWorld(t, auth.SecurityRequired, etr, func(w *world) {
					w.tamper(x.change)
					w.ask()
					w.wait(20 * time.Second)
					w.want()
					if n := w.stat(x.counter); n < 4 || w.stat("map_requests_downgraded") > 0 {
						t.Errorf("%s is %d", x.counter, n)
					}
					w.tamper(nil)
					w.wait(10 * time.Second)
					if len(w.itr.MapCache()) != 1 {
						t.Errorf("map-cache %v after he left", w.itr.MapCache())
					}
				})
			})
		}
	}
}

// TestL11_Replay: the reply of one exchange is none to the next.
func TestL11_Replay(t *testing.T) {
	inWorld(t, auth.SecurityRequired, asConfigured, func(w *world) {
		eve := w.net.MustListen(t, "198.51.100.66:4342")
		defer eve.Close()
		replay := func(b []byte) {
			t.Helper()
			if err := eve.Write(b, netip.AddrPort{}, itrAddr); err != nil {
				t.Fatal(err)
			}
			w.wait(2 * latency)
		}
		w.ask()
		w.wait(time.Second)
		w.want(fromETR)
		old := w.replies()[0]
		w.itr.Clear(site)
		w.wait(2 * time.Second)
		replay(old)
		w.want()
		// Now the ITR asks again, and only the real answer is kept from it.
		w.tamper(func(b []byte) []byte {
			if bytes.Equal(b, old) {
				return b
			}
			return nil
		})
		w.ask()
		w.wait(time.Second)
		replay(old)
		w.want()
		if w.stat("map_replies_unmatched") != 2 {
			t.Errorf("%d unmatched", w.stat("map_replies_unmatched"))
		}
	})
}

// overclaimer is an ETR that has its keys, and answers for more than it has.
func (w *world) overclaimer(answers string) func() {
	conn := w.net.MustListen(w.t, etrAddr.String())
	loc := []mapping.Locator{mapping.MakeLocator(etrAddr.Addr(), 1, 100)}
	recs, err := wire.NewRecords(&mapping.Record{EID: site, TTL: 60, Locators: loc})
	if err != nil {
		w.t.Fatal(err)
	}
	reg := wire.MapRegister{Security: true, Nonce: 1, Auth: siteKey.Template(), Records: recs}
	msg, err := reg.AppendBinary(nil)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := auth.Sign(msg, siteKey); err != nil {
		w.t.Fatal(err)
	}
	if err := conn.Write(msg, etrAddr, mapServer); err != nil {
		w.t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 4096)
		for {
			n, _, _, err := conn.Read(buf)
			if err != nil {
				return
			}
			var e wire.ECM
			var m wire.MapRequest
			var s wire.ECMSecurity
			if e.Decode(buf[:n]) != nil || m.Decode(e.Message) != nil || s.Decode(e.SecurityData) != nil {
				continue
			}
			otk, err := auth.Unwrap(&s, m.Nonce, []auth.WrapKey{{ID: siteKey.ID, Secret: siteKey.Secret}}, false)
			if err != nil {
				w.t.Error(err)
				continue
			}
			recs, err := wire.NewRecords(&mapping.Record{EID: mapping.MustParseEID(answers), TTL: 60, Locators: loc})
			if err != nil {
				w.t.Error(err)
				continue
			}
			reply := wire.MapReply{Nonce: m.Nonce, Records: recs}
			b, err := reply.AppendBinary(nil)
			if err != nil {
				w.t.Error(err)
				continue
			}
			if b, err = otk.SignReply(b, s.EIDAuth, auth.HMACSHA256); err != nil {
				w.t.Error(err)
				continue
			}
			_ = conn.Write(b, etrAddr, netip.AddrPortFrom(itrAddr.Addr(), e.Src.Port()))
		}
	})
	w.wait(time.Second)
	return func() { conn.Close(); wg.Wait() }
}

// TestL12_OverclaimingETR: an ETR with good keys can answer for what it
// registered, and for nothing that is larger.
func TestL12_OverclaimingETR(t *testing.T) {
	for answers, want := range map[string][]string{
		"10.2.0.0/16": {"10.2.0.0/16 ttl 60m, 203.0.113.7 1/100 R"},
		"10.2.0.0/24": {"10.2.0.0/24 ttl 60m, 203.0.113.7 1/100 R"},
		"10.0.0.0/8":  nil,
		"0.0.0.0/0":   nil,
	} {
		t.Run(answers, func(t *testing.T) {
			inWorld(t, auth.SecurityRequired, nil, func(w *world) {
				defer w.overclaimer(answers)()
				w.ask()
				w.wait(time.Second / 2)
				w.want(want...)
				if over := w.stat("map_reply_records_overclaimed"); (over > 0) != (want == nil) {
					t.Errorf("%d records refused", over)
				}
			})
		})
	}
}

// TestL7_Downgrade: an ETR that does not sign has the map-server say so. Where
// protection is preferred the ITR then goes on without, else it does not.
func TestL7_Downgrade(t *testing.T) {
	inWorld(t, auth.SecurityPreferred, unsigned, func(w *world) {
		w.ask()
		w.wait(3 * latency)
		w.want()
		w.wait(time.Second)
		w.want(fromETR)
		if w.stat("map_requests_downgraded") != 1 {
			t.Error("the downgrade is not counted")
		}
	})
	inWorld(t, auth.SecurityRequired, unsigned, func(w *world) {
		w.ask()
		w.wait(time.Second)
		w.want("10.2.0.0/16 ttl 1m drop-auth-failure")
		if w.stat("map_requests_downgraded") != 0 {
			t.Error("there was a downgrade")
		}
	})
}

// TestL3_NothingInTheClear: no datagram of an exchange shows a key that would
// let who sees it sign.
func TestL3_NothingInTheClear(t *testing.T) {
	inWorld(t, auth.SecurityRequired, asConfigured, func(w *world) {
		w.ask()
		w.wait(time.Second)
		w.want(fromETR)
		var keys [][]byte
		for _, d := range w.net.Datagrams() {
			var e wire.ECM
			var m wire.MapRequest
			var s wire.ECMSecurity
			if e.Decode(d.Data) != nil || m.Decode(e.Message) != nil || s.Decode(e.SecurityData) != nil {
				continue
			}
			otk, err := auth.Unwrap(&s, m.Nonce, []auth.WrapKey{itrKey, {ID: siteKey.ID, Secret: siteKey.Secret}}, false)
			if err != nil {
				t.Fatal(err)
			}
			keys = append(keys, otk[:])
		}
		if len(keys) != 2 || bytes.Equal(keys[0], keys[1]) {
			t.Fatalf("%d one-time keys, want those of ITR and map-server", len(keys))
		}
		for _, d := range w.net.Datagrams() {
			for _, k := range keys {
				if bytes.Contains(d.Data, k) {
					t.Errorf("%v shows a key", d)
				}
			}
		}
	})
}

// TestL10_Lig: a protected query takes the real answer, and no other.
func TestL10_Lig(t *testing.T) {
	local := netip.MustParseAddrPort("192.0.2.50:40000")
	inWorld(t, auth.SecurityOff, asConfigured, func(w *world) {
		ask := func(key auth.WrapKey, change func([]byte) []byte) (xtr.LigResult, error) {
			conn := &path{Conn: w.net.MustListen(t, local.String()), change: change}
			return xtr.Lig(w.t.Context(), conn, xtr.LigQuery{Resolver: mapServer, EID: mapping.HostEID(0, remote), Local: []netip.AddrPort{local}, Key: key, Count: 1})
		}
		res, err := ask(itrKey, nil)
		if err != nil || len(res.Records) != 1 || res.Records[0].EID != site || res.From != etrAddr {
			t.Errorf("%+v, %v", res, err)
		}
		w.wait(4 * time.Second)
		if res, err := ask(itrKey, func(b []byte) []byte { b[15]++; return b }); !errors.Is(err, xtr.ErrNoReply) {
			t.Errorf("altered: %+v, %v", res, err)
		}
		w.wait(4 * time.Second)
		if res, err := ask(auth.WrapKey{ID: itrKey.ID, Secret: []byte("another")}, nil); !errors.Is(err, xtr.ErrNoReply) {
			t.Errorf("with another key: %+v, %v", res, err)
		}
	})
}
