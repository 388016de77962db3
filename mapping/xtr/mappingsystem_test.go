package xtr

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping/auth"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

var ms2 = netip.MustParseAddrPort("198.51.100.4:4342")

func (r *rig) setSystem(s MappingSystem) error {
	err := r.m.setMappingSystem(r.now, s)
	r.collect()
	return err
}

// setServers replaces the map-servers only.
func (r *rig) setServers(servers ...MapServer) error {
	return r.setSystem(MappingSystem{MapServers: servers, MapResolvers: r.m.cfg.MapResolvers, ResolverKeys: r.m.cfg.LISPSec.ResolverKeys})
}

// setResolvers replaces the map-resolvers only.
func (r *rig) setResolvers(addrs ...netip.AddrPort) error {
	return r.setSystem(MappingSystem{MapServers: r.m.cfg.MapServers, MapResolvers: addrs, ResolverKeys: r.m.cfg.LISPSec.ResolverKeys})
}

// mapServers are map-servers that hold what is registered with them.
type mapServers struct {
	t          testing.TB
	registered map[netip.AddrPort]map[string]bool
	nonces     map[netip.AddrPort]uint64
	last       map[netip.AddrPort]wire.MapRegister
}

func newMapServers(t testing.TB) *mapServers {
	return &mapServers{t, make(map[netip.AddrPort]map[string]bool), make(map[netip.AddrPort]uint64), make(map[netip.AddrPort]wire.MapRegister)}
}

// take handles a Map-Register that was sent to one of them, as RFC 9301 section
// 5.6 wants: a nonce that does not grow is a replay. It returns the Map-Notify.
func (m *mapServers) take(s sent, keys ...auth.Key) []byte {
	m.t.Helper()
	var reg wire.MapRegister
	k, err := auth.Verify(s.data, keys, auth.SHA256)
	if err != nil || reg.Decode(s.data) != nil || reg.Nonce <= m.nonces[s.dst] {
		return nil
	}
	m.nonces[s.dst], m.last[s.dst] = reg.Nonce, reg
	if m.registered[s.dst] == nil {
		m.registered[s.dst] = make(map[string]bool)
	}
	for rec := range reg.Records.All() {
		mr, err := rec.Mapping()
		if err != nil {
			m.t.Fatal(err)
		}
		if mr.TTL == 0 {
			delete(m.registered[s.dst], mr.EID.String())
		} else {
			m.registered[s.dst][mr.EID.String()] = true
		}
	}
	return notify(m.t, s.data, k)
}

// has returns what is registered at a, sorted.
func (m *mapServers) has(a netip.AddrPort) []string {
	out := []string{}
	for e := range m.registered[a] {
		out = append(out, e)
	}
	slices.Sort(out)
	return out
}

// registersOf returns those of out that are Map-Registers.
func registersOf(out []sent) (regs []sent) {
	for _, s := range out {
		if typ, _ := wire.PeekType(s.data); typ == wire.TypeMapRegister {
			regs = append(regs, s)
		}
	}
	return regs
}

// serve answers all Map-Registers for a time.
func (r *rig) serve(m *mapServers, d time.Duration, keys ...auth.Key) {
	for end := r.now.Add(d); r.now.Before(end); {
		for _, s := range registersOf(r.take()) {
			if n := m.take(s, keys...); n != nil {
				r.receive(n, s.dst)
			}
		}
		r.until(r.now.Sub(zeroTime) + 50*time.Millisecond)
	}
}

// TestMapServersChange: what a new configuration adds is registered with at once,
// what it leaves out is withdrawn from, and comes back as if it had stayed away.
func TestMapServersChange(t *testing.T) {
	site := []string{"10.1.0.0/16", "2001:db8:1::/48"}
	r, m := newRig(t, testConfig()), newMapServers(t)
	one, two := testConfig().MapServers[0], MapServer{Addr: ms2, Key: newKey, WantNotify: true}
	r.start()
	r.serve(m, time.Minute, key, newKey)
	if got := m.has(ms1); !slices.Equal(got, site) {
		t.Fatalf("registered %v", got)
	}
	if err := r.setServers(one, two); err != nil {
		t.Fatal(err)
	}
	r.serve(m, time.Second, key, newKey)
	if got := m.has(ms2); !slices.Equal(got, site) || !slices.Equal(m.has(ms1), site) {
		t.Errorf("with a second one, registered there %v, at the first %v", got, m.has(ms1))
	}
	if err := r.setServers(two); err != nil {
		t.Fatal(err)
	}
	r.serve(m, time.Second, key, newKey)
	if got := m.has(ms1); len(got) > 0 || !slices.Equal(m.has(ms2), site) {
		t.Errorf("without the first one, registered there %v, at the second %v", got, m.has(ms2))
	}
	nonce := m.nonces[ms1]
	r.serve(m, 10*time.Minute, key, newKey)
	if st := r.m.reg.mapServers(); m.nonces[ms1] != nonce || len(st) != 1 || st[0].Addr != ms2 || st[0].Registered != 2 || len(r.m.reg.regs) != 1 {
		t.Errorf("a map-server that is gone hears more, or %+v", st)
	}

	// It comes back while its withdrawal is on the way, which is lost.
	if err := r.setServers(one, two); err != nil {
		t.Fatal(err)
	}
	r.serve(m, time.Minute, key, newKey)
	if err := r.setServers(two); err != nil {
		t.Fatal(err)
	}
	r.until(r.now.Sub(zeroTime) + 100*time.Millisecond)
	late := registersOf(r.take())
	if len(late) == 0 {
		t.Fatal("no withdrawal")
	}
	if err := r.setServers(two, one); err != nil {
		t.Fatal(err)
	}
	for _, s := range late { // and comes late
		m.take(s, key, newKey)
	}
	r.serve(m, 2*time.Second, key, newKey)
	if got := m.has(ms1); !slices.Equal(got, site) {
		t.Errorf("when it is back, registered %v", got)
	}
	r.serve(m, 5*time.Minute, key, newKey)
	if got := m.has(ms1); !slices.Equal(got, site) || len(r.m.reg.regs) != 2 {
		t.Errorf("some time later %v, in %d registrations", got, len(r.m.reg.regs))
	}
}

// TestMapServerFlagsChange: flags and interval of a map-server change at once.
func TestMapServerFlagsChange(t *testing.T) {
	r, m := newRig(t, testConfig()), newMapServers(t)
	r.start()
	r.serve(m, time.Minute+time.Second, key)
	s := testConfig().MapServers[0]
	s.ProxyReply, s.Merge, s.TTLFromRegister, s.RegisterInterval = true, true, true, 10*time.Second
	if err := r.setServers(s); err != nil {
		t.Fatal(err)
	}
	r.serve(m, 100*time.Millisecond, key)
	if reg := m.last[ms1]; !reg.ProxyReply || !reg.Merge || !reg.TTLFromRegister {
		t.Errorf("the Map-Register after the change has P %v, M %v, T %v", reg.ProxyReply, reg.Merge, reg.TTLFromRegister)
	}
	before := r.m.stats[mapRegistersOut].Load()
	r.serve(m, time.Minute, key)
	if n := r.m.stats[mapRegistersOut].Load() - before; n < 5 || n > 7 {
		t.Errorf("%d Map-Registers in a minute, want one each 10 s", n)
	}
	before = r.m.stats[mapRegistersOut].Load()
	if err := r.setServers(s); err != nil || r.m.stats[mapRegistersOut].Load() != before {
		t.Errorf("the same again: %v, and Map-Registers", err)
	}
}

// TestMapResolversChange: who waits for an answer asks those that there are now,
// takes the answer of the one before, too, and nobody is asked where there is
// none.
func TestMapResolversChange(t *testing.T) {
	r := newRig(t, testConfig())
	r.start()
	r.learn(addr("10.9.0.1"), rec("10.9.0.0/16", 1440))
	r.take()
	r.miss(peer, hostA)
	first := r.one()
	if err := r.setResolvers(mr2); err != nil {
		t.Fatal(err)
	}
	r.take() // Map-Registers
	r.until(2 * time.Second)
	var again []sent
	for _, s := range r.take() {
		if typ, _ := wire.PeekType(s.data); typ == wire.TypeECM {
			again = append(again, s)
		}
	}
	if first.dst != mr1 || len(again) != 1 || again[0].dst != mr2 {
		t.Fatalf("asked %v, then %v", first.dst, again)
	}
	_, req := mapRequest(t, first.data)
	r.receive(reply(t, req.Nonce, rec("10.2.0.0/16", 1440)), etr1)
	if !slices.Contains(r.cached(), "10.2.0.0/16") {
		t.Error("the answer of the map-resolver before was not taken")
	}
	if st := r.m.itr.resolvers.status(); len(st) != 1 || st[0].Addr != mr2 || st[0].Requests != 1 {
		t.Errorf("map-resolvers %+v", st)
	}
	if err := r.setResolvers(mr1, mr2); err != nil {
		t.Fatal(err)
	}
	if st := r.m.itr.resolvers.status(); len(st) != 2 || st[1].Requests != 1 {
		t.Errorf("map-resolvers %+v: what was known is gone", st)
	}
	r.check()

	r.miss(addr("10.3.0.1"), hostA)
	if err := r.setResolvers(); err != nil {
		t.Fatal(err)
	}
	r.check()
	if len(r.m.itr.queries) > 0 {
		t.Error("questions without a map-resolver")
	}
	r.miss(addr("10.3.0.2"), hostA)
	r.take()
	for s := time.Minute; s < 25*time.Hour; s += 10 * time.Minute { // refreshes fall due
		r.until(s)
		r.used("10.9.0.0/16", "10.2.0.0/16")
	}
	for _, s := range r.take() {
		if typ, _ := wire.PeekType(s.data); typ == wire.TypeECM {
			t.Fatalf("%v was asked", s.dst)
		}
	}
	if err := r.setResolvers(mr1); err != nil {
		t.Fatal(err)
	}
	r.miss(addr("10.3.0.3"), hostA)
	if s := r.one(); s.dst != mr1 {
		t.Errorf("asked %v", s.dst)
	}
	r.check()
}

// TestMappingSystemRefused: what is bad changes nothing.
func TestMappingSystemRefused(t *testing.T) {
	one := testConfig().MapServers[0]
	for name, s := range map[string]MappingSystem{
		"inside the eid":  {MapServers: []MapServer{one, {Addr: netip.MustParseAddrPort("10.1.0.9:4342"), Key: key}}, MapResolvers: []netip.AddrPort{mr2}},
		"given twice":     {MapServers: []MapServer{one}, MapResolvers: []netip.AddrPort{mr2, mr2}},
		"secret is empty": {MapServers: []MapServer{{Addr: ms2, Key: auth.Key{Algorithm: auth.SHA256}}}, MapResolvers: []netip.AddrPort{mr2}},
	} {
		r, m := newRig(t, testConfig()), newMapServers(t)
		r.start()
		r.serve(m, time.Minute, key)
		if err := r.setSystem(s); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
		r.serve(m, 5*time.Minute, key)
		if len(m.registered) != 1 || r.m.itr.resolvers.status()[0].Addr != mr1 || len(r.m.cfg.MapServers) != 1 {
			t.Errorf("%s: it changed something", name)
		}
	}
}

// TestMappingSystemComesToRest: whatever was configured in which order, while
// messages were lost and came late, in the end exactly the site's EID-prefixes are
// registered with exactly the map-servers that there are.
func TestMappingSystemComesToRest(t *testing.T) {
	for range 30 {
		chance := seeded(t)
		r, m := newRig(t, testConfig()), newMapServers(t)
		all := []MapServer{
			{Addr: ms1, Key: key, WantNotify: true}, {Addr: ms2, Key: newKey, WantNotify: true}, {Addr: ms6, Key: key, WantNotify: true},
		}
		dbs := testConfig().Databases
		servers, databases := []MapServer{all[0]}, dbs
		r.start()
		for range 40 {
			switch chance.IntN(3) {
			case 0:
				servers = nil
				for _, s := range all {
					if chance.IntN(2) == 0 {
						if chance.IntN(3) == 0 {
							s.Key, s.OtherKeys = newKey, []auth.Key{key}
						}
						s.Merge = chance.IntN(2) == 0
						servers = append(servers, s)
					}
				}
				if err := r.setServers(servers...); err != nil {
					t.Fatal(err)
				}
			case 1:
				databases = nil
				for _, d := range dbs {
					if chance.IntN(3) > 0 {
						databases = append(databases, d)
					}
				}
				if err := r.setDatabases(databases...); err != nil {
					t.Fatal(err)
				}
			case 2:
				r.until(r.now.Sub(zeroTime) + time.Duration(chance.IntN(3000))*time.Millisecond)
			}
			r.check()
			for _, s := range registersOf(r.take()) {
				if chance.IntN(3) == 0 {
					continue // lost
				}
				if n := m.take(s, key, newKey); n != nil && chance.IntN(3) > 0 {
					r.receive(n, s.dst)
				}
			}
		}
		r.serve(m, 6*time.Minute, key, newKey)
		r.m.advance(r.now)
		var want []string
		for _, d := range databases {
			want = append(want, d.EID.String())
		}
		for _, s := range all {
			there := slices.ContainsFunc(servers, func(o MapServer) bool { return o.Addr == s.Addr })
			if got := fmt.Sprint(m.has(s.Addr)); there && got != fmt.Sprint(want) || !there && got != "[]" {
				t.Fatalf("%v has %v; the site %v, and it is configured: %v", s.Addr, got, want, there)
			}
		}
		if len(r.m.reg.regs) > len(servers) {
			t.Fatalf("%d registrations with %d map-servers", len(r.m.reg.regs), len(servers))
		}
	}
}
