package xtr

import (
	"bytes"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping/auth"
)

// MappingSystem is where an xTR registers and where it asks, as in Config.
type MappingSystem struct {
	MapServers   []MapServer
	MapResolvers []netip.AddrPort
	// ResolverKeys are those of Config.LISPSec.
	ResolverKeys map[netip.AddrPort]auth.WrapKey
}

// setMappingSystem replaces map-servers and map-resolvers, or refuses them whole.
func (m *machine) setMappingSystem(now time.Time, s MappingSystem) error {
	m.advance(now)
	next := m.cfg
	next.RLOCs, next.Databases = next.fixed, m.declared
	next.MapServers, next.MapResolvers, next.LISPSec.ResolverKeys = s.MapServers, s.MapResolvers, s.ResolverKeys
	next, err := next.withDefaults()
	if err != nil {
		return fmt.Errorf("xtr configuration: %w", err)
	}
	if m.stopping {
		return nil
	}
	m.cfg.LISPSec.ResolverKeys = next.LISPSec.ResolverKeys
	if !slices.Equal(m.cfg.MapResolvers, next.MapResolvers) {
		m.log.Info("map-resolvers changed", "map_resolvers", fmt.Sprint(next.MapResolvers))
		m.cfg.MapResolvers = next.MapResolvers
		m.itr.setResolvers(now)
	}
	m.reg.setServers(now, next.MapServers)
	m.infos.forgetServers()
	m.advance(now)
	m.solicitSettled(now)
	return nil
}

// setResolvers takes the map-resolvers of the configuration.
func (i *itr) setResolvers(now time.Time) {
	i.resolvers.set(i.cfg.MapResolvers)
	if len(i.cfg.MapResolvers) > 0 {
		return
	}
	for _, q := range i.queries {
		if !q.paused {
			i.ended(now, q, ResolutionNeedless)
		}
		i.finish(q)
	}
}

// setServers makes servers, which are checked, the map-servers: what is new or
// different is registered anew, and what is registered with others is withdrawn
// there.
func (r *registrar) setServers(now time.Time, servers []MapServer) {
	old := r.cfg.MapServers
	r.cfg.MapServers, r.acks.limit = servers, max(r.acks.limit, len(servers)+1)
	find := func(list []MapServer, addr netip.AddrPort) int {
		return slices.IndexFunc(list, func(s MapServer) bool { return s.Addr == addr })
	}
	r.regs = slices.DeleteFunc(r.regs, func(g *registration) bool {
		n := find(servers, g.server.Addr)
		switch {
		case n < 0 && g.gone == nil:
			return !r.withdraw(now, g)
		case n < 0:
			return false // withdraws what is gone, and then goes itself
		}
		before := g.server
		g.server = &servers[n]
		if g.gone != nil {
			return !r.stayGone(now, g, before)
		}
		if !before.equal(g.server) {
			g.again(now, before)
		}
		return false
	})
	for i := range servers {
		s := &servers[i]
		if n := find(old, s.Addr); n >= 0 {
			if !old[n].sameKeys(s) {
				r.log.Info("keys changed", "map_server", s.Addr)
			}
			continue
		}
		r.log.Info("map-server added", "map_server", s.Addr)
		r.quick = now.Add(quickPeriod)
		for _, batch := range r.batches(s, r.cfg.Databases) {
			g := &registration{server: s, databases: batch}
			if r.started {
				g.renew = now
			}
			r.regs = append(r.regs, g)
		}
	}
	maps.DeleteFunc(r.newest, func(a netip.AddrPort, _ uint64) bool {
		return find(servers, a) < 0 && !slices.ContainsFunc(r.regs, func(g *registration) bool { return g.server.Addr == a })
	})
	for _, s := range old {
		if find(servers, s.Addr) < 0 {
			r.log.Info("map-server removed", "map_server", s.Addr)
		}
	}
}

// withdraw makes g, whose map-server is one no more, withdraw what it has
// registered. It reports false when there is nothing to withdraw.
func (r *registrar) withdraw(now time.Time, g *registration) bool {
	if g.sent.IsZero() {
		return false
	}
	for _, d := range g.databases {
		g.gone = append(g.gone, r.cfg.Databases[d])
	}
	g.databases, g.withdrawn, g.silent, g.tries = nil, true, true, 0 // nobody waits for it
	r.begin(now, g)
	g.renew, g.expires = time.Time{}, now.Add(quickPeriod)
	return true
}

// stayGone takes out of g, which withdraws what is gone, what is of the site
// again. It reports false when nothing is left.
func (r *registrar) stayGone(now time.Time, g *registration, before *MapServer) bool {
	n := len(g.gone)
	g.gone = slices.DeleteFunc(g.gone, func(d Database) bool { return r.has(d.EID) })
	switch {
	case len(g.gone) == 0:
		return false
	case !before.sameKeys(g.server):
		g.key = 0
	case len(g.gone) == n:
		return true
	}
	r.compose(now, g)
	return true
}

// again begins a round of g at once, as its map-server is not as before.
func (g *registration) again(now time.Time, before *MapServer) {
	if !before.sameKeys(g.server) {
		g.key = 0
	}
	if !g.sent.IsZero() && !g.renew.IsZero() {
		g.renew = now
	}
}

func (m *MapServer) equal(o *MapServer) bool {
	return m.sameKeys(o) && m.Addr == o.Addr && m.ProxyReply == o.ProxyReply && m.WantNotify == o.WantNotify && m.Merge == o.Merge &&
		m.TTLFromRegister == o.TTLFromRegister && m.RegisterInterval == o.RegisterInterval
}

func (m *MapServer) sameKeys(o *MapServer) bool { return slices.EqualFunc(m.keys(), o.keys(), sameKey) }

func sameKey(a, b auth.Key) bool {
	return a.ID == b.ID && a.Algorithm == b.Algorithm && bytes.Equal(a.Secret, b.Secret)
}
