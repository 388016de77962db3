// Package mapsys is a live mapping system in one process: a map-server and
// map-resolver, xTRs of some sites, and for the other sites one that registers them
// as their xTRs would. They talk over UDP sockets on loopback addresses, and every
// message is counted.
package mapsys

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/auth"
	"github.com/eidolon-lisp/eidolon/mapping/server"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
	"github.com/eidolon-lisp/eidolon/mapping/xtr"
)

// Site is a site of the mapping system.
type Site struct {
	EID     netip.Prefix
	Uplinks int // one to each of its providers
}

// Config says what there is and how those who use a mapping hear of its change.
type Config struct {
	// Sites are all that are registered. The first Victims of them, and Users behind
	// those, have an xTR of their own; the users talk to the victims. At most
	// maxLive in all.
	Sites          []Site
	Victims, Users int

	SMR    bool // those whose packets came are told (RFC 9301 section 6.1)
	PubSub bool // users subscribe (RFC 9437)
	// Probes: users test the locators that they use. If nothing else is set, nobody
	// tells them: the xTR of a victim does not know that its uplink is dead.
	Probes bool
	// Watchers are ITRs that subscribe to all sites; Watch starts them. They need
	// PubSub.
	Watchers int
}

const maxLive = 200

// watchRate is how many publications a second the map-server may send.
const watchRate = 20000

func (c Config) silent() bool { return !c.SMR && !c.PubSub }

// System is a running mapping system. Its methods are for one goroutine.
type System struct {
	cfg     Config
	addr    netip.AddrPort
	counter *counter
	server  *server.Server
	port    *port
	reg     *registrar
	victims []*router
	users   []*router
	// watchers have been started by Watch.
	watchers []*itr

	cancel context.CancelFunc
	wg     sync.WaitGroup
	mu     sync.Mutex
	err    error
}

// The RLOCs: 198.n.0.1 is the map-server, 198.n.0.2 who registers the sites without
// an xTR, 198.n.0.3 the ITR under load, 198.n.8.i+1
// watcher i, and 198.n.16+u.i+1 the uplink u of router i.
// The locators of the other sites, where nobody listens, are of 100.64.0.0/10.
func registrarAddr(server netip.Addr) netip.Addr { return at(server, 0, 2) }
func itrAddr(server netip.Addr) netip.Addr       { return at(server, 0, 3) }
func uplinkAddr(server netip.Addr, router, uplink int) netip.Addr {
	return at(server, 16+byte(uplink), byte(router)+1)
}

func at(server netip.Addr, third, fourth byte) netip.Addr {
	b := server.As4()
	b[2], b[3] = third, fourth
	return netip.AddrFrom4(b)
}

func control(a netip.Addr) netip.AddrPort { return netip.AddrPortFrom(a, wire.Port) }

// siteKey is the key of a site; that of subscribers has the number -1.
func siteKey(n int) auth.Key {
	return auth.Key{ID: 1, Algorithm: auth.SHA256HKDF, Secret: fmt.Appendf(nil, "key of site %d", n)}
}

func xtrID(n int) (id mapping.XTRID) {
	binary.BigEndian.PutUint64(id[8:], uint64(n)+1)
	return id
}

// New starts a map-server and the xTRs, and returns when these are registered. The
// other sites are registered by RegisterAll.
func New(ctx context.Context, cfg Config) (_ *System, err error) {
	if n := cfg.Victims + cfg.Users; n > maxLive || n > len(cfg.Sites) {
		return nil, fmt.Errorf("%d xTRs, at most %d and one for each of %d sites are possible", n, maxLive, len(cfg.Sites))
	}
	s := &System{cfg: cfg, counter: &counter{owner: make(map[netip.Prefix][]netip.Addr)}}
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.cancel = cancel
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	// Another of these may run on this machine.
	for n := range byte(32) {
		s.addr = control(netip.AddrFrom4([4]byte{underlay, 18 + n, 0, 1}))
		if s.port, err = listen(s.counter, s.addr); err == nil {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	sc := server.Config{Listen: []netip.AddrPort{s.addr}}
	for i, x := range cfg.Sites {
		sc.Sites = append(sc.Sites, server.Site{Name: fmt.Sprintf("site-%d", i), Keys: []auth.Key{siteKey(i)}, Prefixes: []server.SitePrefix{{EID: eid(x.EID)}}})
	}
	if cfg.PubSub {
		for i := range cfg.Users {
			sc.PubSub.Subscribers = append(sc.PubSub.Subscribers, server.Subscriber{XTRID: xtrID(cfg.Victims + i), Key: siteKey(-1)})
		}
		for i := range cfg.Watchers {
			sc.PubSub.Subscribers = append(sc.PubSub.Subscribers, server.Subscriber{XTRID: watcherID(s, i), Key: siteKey(-1)})
		}
		if cfg.Watchers > 0 { // the defaults are meant for one site among many
			sc.PubSub.MaxPerXTR, sc.PubSub.Rate = 2*len(cfg.Sites), watchRate
		}
	}
	if s.server, err = server.New(ctx, sc, nil); err != nil {
		return nil, err
	}
	for i, x := range cfg.Sites {
		from := []netip.Addr{registrarAddr(s.addr.Addr())}
		if i < cfg.Victims+cfg.Users {
			from = nil
			for u := range x.Uplinks {
				from = append(from, uplinkAddr(s.addr.Addr(), i, u))
			}
		}
		s.counter.owner[x.EID] = from
	}
	s.wg.Go(func() { s.keep(s.server.Run(run, s.port, 1)) })
	for i := range cfg.Victims + cfg.Users {
		r, err := s.router(i)
		if err != nil {
			return nil, fmt.Errorf("xTR of site %d: %w", i, err)
		}
		if i < cfg.Victims {
			s.victims = append(s.victims, r)
		} else {
			s.users = append(s.users, r)
		}
		s.wg.Go(func() { s.keep(r.xtr.Run(run, r.port, r.misses)) })
	}
	for _, r := range s.users {
		s.wg.Go(func() { r.traffic(run) })
	}
	return s, s.await(ctx, "the xTRs are registered", func() bool {
		for _, r := range slices.Concat(s.victims, s.users) {
			for _, d := range r.xtr.Databases() {
				for _, x := range d.Registrations {
					if x.State != xtr.RegistrationRegistered {
						return false
					}
				}
			}
		}
		return true
	})
}

func eid(p netip.Prefix) mapping.EID { return mapping.EID{Prefix: p} }

// keep remembers what went wrong.
func (s *System) keep(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = errors.Join(s.err, err)
}

func (s *System) errors() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

const readyTimeout = 30 * time.Second

func (s *System) await(ctx context.Context, what string, ok func() bool) error {
	for limit := time.Now().Add(readyTimeout); !ok(); {
		if err := s.errors(); err != nil {
			return err
		}
		if time.Now().After(limit) {
			return fmt.Errorf("after %v still not: %s", readyTimeout, what)
		}
		if err := sleep(ctx, 5*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// RegisterAll registers the sites that have no xTR, and keeps them registered. It
// returns by how much the heap has grown by that.
func (s *System) RegisterAll(ctx context.Context) (grown int, err error) {
	r := &registrar{server: s.addr}
	live := len(s.victims) + len(s.users)
	for i, x := range s.cfg.Sites[live:] {
		n := live + i
		rec := &mapping.Record{EID: eid(x.EID), TTL: mapping.DefaultTTL}
		for u := range x.Uplinks {
			k := uint32(100<<24|64<<16) + uint32(n)*32 + uint32(u)
			rec.Locators = append(rec.Locators, mapping.MakeLocator(netip.AddrFrom4([4]byte{byte(k >> 24), byte(k >> 16), byte(k >> 8), byte(k)}), byte(1+u), 100))
		}
		r.list = append(r.list, registrant{record: rec, id: xtrID(n), key: siteKey(n)})
	}
	if len(r.list) == 0 {
		return 0, nil
	}
	if r.port, err = listen(s.counter, control(registrarAddr(s.addr.Addr()))); err != nil {
		return 0, err
	}
	s.reg = r
	before := heap()
	if err := r.register(ctx); err != nil {
		return 0, err
	}
	grown = int(heap()) - int(before)
	run, cancel := context.WithCancel(context.Background())
	stop := s.cancel
	s.cancel = func() { cancel(); stop() }
	s.wg.Go(func() { r.keep(run) })
	return grown, nil
}

// heap returns how much of the heap is in use after collections.
func heap() uint64 {
	var m runtime.MemStats
	for range 2 { // what finalizers let go is free after the second
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// Registered returns how many registrations the map-server has.
func (s *System) Registered() int {
	for name, n := range s.server.Stats() {
		if name == "registrations" {
			return int(n)
		}
	}
	return 0
}

// Subscriptions returns how many the map-server has.
func (s *System) Subscriptions() int {
	for name, n := range s.server.Stats() {
		if name == "subscriptions_active" {
			return int(n)
		}
	}
	return 0
}

// Rest counts all messages for d, while nothing happens but that users send packets.
func (s *System) Rest(ctx context.Context, d time.Duration) (Count, error) {
	s.counter.reset(netip.Prefix{})
	if err := sleep(ctx, d); err != nil {
		return Count{}, err
	}
	total, _ := s.counter.counts()
	return total, s.errors()
}

// Close ends everything.
func (s *System) Close() error {
	s.cancel()
	for _, r := range slices.Concat(s.victims, s.users) {
		r.port.Close() // does not wait until registrations are withdrawn
	}
	if s.reg != nil {
		s.reg.port.Close()
	}
	s.wg.Wait()
	if s.port != nil {
		s.port.Close()
	}
	return s.errors()
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
