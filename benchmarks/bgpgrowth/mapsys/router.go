package mapsys

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/xtr"
)

// router is the xTR of a site, with what stands for its data plane: the map-cache as
// the plane gets it, and one packet every 50 ms to each site that it talks to.
type router struct {
	system *System
	number int
	port   *port
	xtr    *xtr.XTR
	misses chan xtr.Miss
	rlocs  []netip.Addr // by uplink

	mu    sync.Mutex
	cache map[mapping.EID]*mapping.Record
	peers []*router // that it sends packets to
	// heard are the RLOCs that packets came from since the xTR last asked.
	heard map[netip.Addr]bool
	// changed is called, if set, with each change of the cache.
	changed func(now time.Time, eid mapping.EID, rec *mapping.Record)
}

func uplinkName(u int) string { return fmt.Sprintf("up%d", u) }

// router makes the xTR of site n.
func (s *System) router(n int) (_ *router, err error) {
	victim := n < s.cfg.Victims
	site := s.cfg.Sites[n]
	r := &router{system: s, number: n, misses: make(chan xtr.Miss, 64), cache: make(map[mapping.EID]*mapping.Record), heard: make(map[netip.Addr]bool)}
	cfg := xtr.Config{
		XTRID:        xtrID(n),
		MapServers:   []xtr.MapServer{{Addr: s.addr, Key: siteKey(n), ProxyReply: true, WantNotify: true}},
		MapResolvers: []netip.AddrPort{s.addr},
		OnCache:      r.learned,
		Databases:    []xtr.Database{{EID: eid(site.EID)}},
	}
	if s.cfg.SMR {
		cfg.Heard = r.takeHeard
	}
	if s.cfg.PubSub && !victim {
		cfg.PubSub = &xtr.PubSub{Key: siteKey(-1)}
	}
	cfg.RLOCProbing.Off = !s.cfg.Probes || victim && s.cfg.silent()
	for u := range site.Uplinks {
		r.rlocs = append(r.rlocs, uplinkAddr(s.addr.Addr(), n, u))
		// The uplinks are used in turn, not at once.
		cfg.Databases[0].Uplinks = append(cfg.Databases[0].Uplinks, xtr.UplinkLocator{Interface: uplinkName(u), IPv4: true, Priority: uint8(1 + u), Weight: 100})
	}
	cfg.Uplinks = r.uplinks(nil)
	if r.xtr, err = xtr.New(cfg); err != nil {
		return nil, err
	}
	addrs := make([]netip.AddrPort, len(r.rlocs))
	for u, a := range r.rlocs {
		addrs[u] = control(a)
	}
	r.port, err = listen(s.counter, addrs...)
	return r, err
}

// uplinks returns the uplinks, of which those in down have no carrier.
func (r *router) uplinks(down map[int]bool) (list []xtr.Uplink) {
	for u, a := range r.rlocs {
		list = append(list, xtr.Uplink{Name: uplinkName(u), Up: !down[u], Addrs: []netip.Addr{a}})
	}
	return list
}

// learned is what the data plane does with changes of the map-cache.
func (r *router) learned(changes []mapping.CacheChange) {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range changes {
		if c.Record == nil {
			delete(r.cache, c.EID)
		} else {
			r.cache[c.EID] = c.Record
		}
		if r.changed != nil {
			r.changed(now, c.EID, c.Record)
		}
	}
}

func (r *router) takeHeard() []netip.Addr {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []netip.Addr
	for a := range r.heard {
		list = append(list, a)
	}
	clear(r.heard)
	return list
}

// eid is the router's own.
func (r *router) eid() mapping.EID { return eid(r.system.cfg.Sites[r.number].EID) }

// host is one of the site.
func (r *router) host() netip.Addr { return r.eid().Prefix.Addr().Next() }

// current returns the locator that packets by rec go to: the usable one of the best
// priority.
func current(rec *mapping.Record) (best netip.Addr) {
	priority := 256
	if rec == nil {
		return best
	}
	for _, l := range rec.Locators {
		if l.Usable() && int(l.Priority) < priority {
			best, priority = l.Addr, int(l.Priority)
		}
	}
	return best
}

// trafficEvery is how often a plane tells its xTR of traffic, usedEvery how often of
// entries that were used.
const (
	trafficEvery = 50 * time.Millisecond
	usedEvery    = 5 * time.Second
)

// traffic sends a packet to each peer, again and again, each of which is answered if
// it arrives.
func (r *router) traffic(ctx context.Context) {
	t := time.NewTicker(trafficEvery)
	defer t.Stop()
	used := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-t.C:
			list, eids := r.send()
			if r.system.cfg.Probes && len(list) > 0 {
				r.xtr.Traffic(list)
			}
			if now.Sub(used) >= usedEvery && len(eids) > 0 {
				used = now
				r.xtr.Used(eids)
			}
		}
	}
}

// send is one round of packets.
func (r *router) send() (list []xtr.Traffic, eids []mapping.EID) {
	r.mu.Lock()
	peers := r.peers
	r.mu.Unlock()
	for _, p := range peers {
		e := p.eid()
		r.mu.Lock()
		to := current(r.cache[e])
		r.mu.Unlock()
		if !to.IsValid() {
			select {
			case r.misses <- xtr.Miss{Dst: p.host(), Src: r.host()}:
			default:
			}
			continue
		}
		x := xtr.Traffic{EID: e, Sent: 1}
		if !p.port.isDown(to) {
			x.Received = 1
			p.mu.Lock()
			p.heard[r.rlocs[0]] = true
			p.mu.Unlock()
		}
		list = append(list, x)
		eids = append(eids, e)
	}
	return list, eids
}
