package xtr

import (
	"cmp"
	"container/heap"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// prober tests whether the locators that carry traffic answer (RFC 9301
// section 7.1). A locator that does not is treated as if its R bit were off:
// not in the map-cache, which keeps what was learned, but in what the planes
// get. If all of an entry's locators are down, they get it unchanged: packets
// to a locator that is silent are lost no more surely than packets that are
// dropped, and a peer that filters probes keeps working.
//
// One probe serves all mappings of an RLOC. At rest each RLOC is probed once in
// an interval, and all together once a second at most. A probe without a reply
// raises suspicion; then the next ones follow at once, and after a few the
// locator is down. It is tried again every 10 s, and one reply brings it back.
// A reply is used for reachability only, never to change the mapping.
type prober struct {
	*core
	cache  *mapping.Cache
	rlocs  map[netip.Addr]*probed
	nonces map[uint64]outstandingProbe
	timers probeHeap
	down   int // RLOCs that are down

	each      limiter[netip.Addr]
	resting   limiter[struct{}]
	suspected limiter[struct{}]
}

// probed is an RLOC that is tested.
type probed struct {
	addr     netip.Addr
	eids     []mapping.EID // cached entries that have it, a few
	turn     int           // which of them is asked for next
	lastUsed time.Time

	down     bool
	failures int      // probes in a row without a reply
	waiting  bool     // the last probe has neither a reply nor timed out
	nonces   []uint64 // outstanding, oldest first

	probes, replies      uint64
	lastProbe, lastReply time.Time
	rtt                  time.Duration // smoothed
	at                   time.Time     // when to do something
	index                int           // in the heap
}

// outstandingProbe is what the nonce of a probe stands for.
type outstandingProbe struct {
	rloc *probed
	eid  mapping.EID
	at   time.Time
}

func newProber(c *core, cache *mapping.Cache) *prober {
	return &prober{
		core:      c,
		cache:     cache,
		rlocs:     make(map[netip.Addr]*probed),
		nonces:    make(map[uint64]outstandingProbe),
		each:      newLimiter[netip.Addr](probeEach, probeEachBurst, maxProbed),
		resting:   newLimiter[struct{}](probeResting, 1, 1),
		suspected: newLimiter[struct{}](probeSuspected, probeSuspectedBurst, 1),
	}
}

// used notes that entries of the map-cache carry traffic.
func (p *prober) used(now time.Time, eids []mapping.EID) {
	if p.cfg.RLOCProbing.Off {
		return
	}
	for _, e := range eids {
		entry, ok := p.cache.Get(e)
		if !ok {
			continue
		}
		for _, l := range entry.Record.Locators {
			if !l.Usable() || !p.mayProbe(l.Addr) {
				continue
			}
			r := p.rlocs[l.Addr]
			if r == nil {
				if len(p.rlocs) >= maxProbed {
					p.stats.inc(rlocProbeTableFull)
					continue
				}
				r = &probed{addr: l.Addr, at: now}
				p.rlocs[l.Addr] = r
				heap.Push(&p.timers, r)
			}
			r.lastUsed = now
			if !slices.Contains(r.eids, e) {
				if len(r.eids) == probeEIDs {
					r.eids = slices.Delete(r.eids, 0, 1)
				}
				r.eids = append(r.eids, e)
			}
		}
	}
}

// mayProbe reports whether a can be tested: it is not this router, and it is
// not the mapping system, which must not answer (section 5.2).
func (p *prober) mayProbe(a netip.Addr) bool {
	_, ok := p.source(a)
	return ok && !p.isLocal(a) &&
		!slices.ContainsFunc(p.cfg.MapResolvers, func(m netip.AddrPort) bool { return m.Addr() == a }) &&
		!slices.ContainsFunc(p.cfg.MapServers, func(m MapServer) bool { return m.Addr.Addr() == a })
}

// advance does what is due and returns the changes for the planes.
func (p *prober) advance(now time.Time) (changes []mapping.CacheChange) {
	for len(p.timers) > 0 && !p.timers[0].at.After(now) {
		changes = append(changes, p.fire(now, p.timers[0])...)
	}
	return changes
}

// next returns when advance has something to do.
func (p *prober) next() (t time.Time, ok bool) {
	if len(p.timers) == 0 {
		return time.Time{}, false
	}
	return p.timers[0].at, true
}

func (p *prober) schedule(r *probed, at time.Time) {
	r.at = at
	heap.Fix(&p.timers, r.index)
}

// fire handles the timer of r: a probe went without a reply, or the next one is
// due.
func (p *prober) fire(now time.Time, r *probed) (changes []mapping.CacheChange) {
	if r.waiting {
		r.waiting = false
		r.failures++
		r.turn++ // the ETR may not know this EID any more
		p.stats.inc(rlocProbesUnanswered)
		if !r.down && r.failures >= p.cfg.RLOCProbing.Retries {
			changes = p.verdict(now, r, true)
		}
		if r.down {
			p.schedule(r, r.lastProbe.Add(probeEach))
			return changes
		}
	}
	keep := probeKeep
	if r.down {
		keep = probeKeepDown
	}
	eid, ok := p.eid(r)
	if !ok || now.Sub(r.lastUsed) > keep {
		return p.forget(now, r)
	}
	all := &p.resting
	if r.failures > 0 && !r.down {
		all = &p.suspected
	}
	if at := all.readyAt(struct{}{}); at.After(now) {
		p.schedule(r, at)
		return changes
	}
	if at := p.each.readyAt(r.addr); at.After(now) {
		p.schedule(r, at)
		return changes
	}
	all.take(now, struct{}{})
	p.each.take(now, r.addr)
	p.schedule(r, now.Add(min(max(probeTimeout, 2*r.rtt), probeTimeoutMax)))
	p.probe(now, r, eid)
	return changes
}

// eid returns an entry of the map-cache that has r as a usable locator.
func (p *prober) eid(r *probed) (mapping.EID, bool) {
	r.eids = slices.DeleteFunc(r.eids, func(e mapping.EID) bool { return !p.has(e, r.addr) })
	if len(r.eids) == 0 {
		return mapping.EID{}, false
	}
	return r.eids[r.turn%len(r.eids)], true
}

// has reports whether the cached entry of exactly e has a as a usable locator.
func (p *prober) has(e mapping.EID, a netip.Addr) bool {
	entry, ok := p.cache.Get(e)
	return ok && usesLocator(entry.Record, a)
}

func usesLocator(r *mapping.Record, a netip.Addr) bool {
	return slices.ContainsFunc(r.Locators, func(l mapping.Locator) bool { return l.Addr == a && l.Usable() })
}

// probe sends a Map-Request with the P bit from an RLOC to an RLOC, not
// encapsulated.
func (p *prober) probe(now time.Time, r *probed, e mapping.EID) {
	nonce, err := p.nonce()
	if err != nil {
		p.stats.inc(sendErrors)
		p.log.Error("rloc-probe not sent", "rloc", r.addr, "err", err)
		return
	}
	if _, used := p.nonces[nonce]; used {
		return // once in 2^64
	}
	msg, ok := p.encode(&wire.MapRequest{
		Probe:    true,
		Nonce:    nonce,
		ITRRLOCs: p.itrRLOCs,
		EIDs:     []wire.RequestRecord{wire.NewRequestRecord(e)},
	})
	if !ok {
		return
	}
	if len(r.nonces) == probeOutstanding {
		delete(p.nonces, r.nonces[0])
		r.nonces = slices.Delete(r.nonces, 0, 1)
	}
	r.nonces = append(r.nonces, nonce)
	p.nonces[nonce] = outstandingProbe{r, e, now}
	r.waiting, r.lastProbe = true, now
	r.probes++
	src, _ := p.source(r.addr)
	p.send(src, netip.AddrPortFrom(r.addr, wire.Port), msg)
	p.stats.inc(rlocProbesOut)
	p.log.Debug("rloc-probe sent", "rloc", r.addr, "eid", e, "nonce", hex(nonce))
}

// reply handles a Map-Reply, if its nonce is that of a probe.
func (p *prober) reply(now time.Time, msg []byte, from netip.AddrPort) (handled bool, changes []mapping.CacheChange) {
	nonce, _ := wire.PeekNonce(msg)
	o, ok := p.nonces[nonce]
	if !ok {
		return false, nil
	}
	p.stats.inc(mapRepliesIn)
	var m wire.MapReply
	if err := m.Decode(msg); err != nil {
		p.refuse(now, controlMalformed, from, err)
		return true, nil
	}
	r, ok := p.answered(o, &m)
	if !ok {
		p.stats.inc(rlocProbeRepliesRefused)
		return true, nil
	}
	p.stats.inc(rlocProbesAnswered)
	r.replies++
	r.lastReply, r.failures, r.waiting = now, 0, false
	if rtt := now.Sub(o.at); r.rtt == 0 {
		r.rtt = rtt
	} else {
		r.rtt += (rtt - r.rtt) / 8
	}
	p.unwait(o.rloc)
	if r.down {
		changes = p.verdict(now, r, false)
	}
	p.schedule(r, r.lastProbe.Add(p.jitter(p.cfg.RLOCProbing.Interval)))
	return true, changes
}

// answered returns the RLOC that a reply to o speaks for: the first locator
// with the p bit, which must be one of the mapping that the probe asked for.
// ok is false when the message must be discarded: one of its records is not
// authoritative, or it is no answer to a probe.
func (p *prober) answered(o outstandingProbe, m *wire.MapReply) (r *probed, ok bool) {
	if !m.Probe {
		return nil, false
	}
	var locator netip.Addr
	found := false
	for raw := range m.Records.All() {
		rec, err := raw.Mapping()
		if err != nil || !rec.Authoritative {
			return nil, false
		}
		for _, l := range rec.Locators {
			if l.Flags&mapping.Probed != 0 && !found {
				locator, found = l.Addr, true
			}
		}
	}
	r = p.rlocs[locator]
	return r, found && r != nil && (r == o.rloc || p.has(o.eid, locator))
}

// verified reports whether a answered a probe lately, and so is where it says.
func (p *prober) verified(now time.Time, a netip.Addr) bool {
	r := p.rlocs[a]
	return r != nil && !r.lastReply.IsZero() && now.Sub(r.lastReply) <= 2*p.cfg.RLOCProbing.Interval
}

// unwait forgets the outstanding probes of r.
func (p *prober) unwait(r *probed) {
	for _, n := range r.nonces {
		delete(p.nonces, n)
	}
	r.nonces = r.nonces[:0]
}

// verdict declares r down or up and returns the changes of all entries that
// have it, with the records as they were learned: adjust changes them.
func (p *prober) verdict(now time.Time, r *probed, down bool) (changes []mapping.CacheChange) {
	r.down = down
	if down {
		p.down++
		p.stats.inc(rlocsDown)
		p.log.Warn("rloc does not answer", "rloc", r.addr, "probes", r.failures)
		p.events.Publish(Event{Time: now, Kind: EventDown, RLOC: r.addr, Reason: fmt.Sprintf("%d probes in a row had no reply", r.failures)})
	} else {
		p.down--
		p.stats.inc(rlocsUp)
		p.log.Info("rloc is up again", "rloc", r.addr)
		p.events.Publish(Event{Time: now, Kind: EventUp, RLOC: r.addr})
	}
	for e := range p.cache.All() {
		if usesLocator(e.Record, r.addr) {
			changes = append(changes, mapping.CacheChange{EID: e.Record.EID, Record: e.Record, Expires: e.Expires})
		}
	}
	return changes
}

// forget ends the testing of r, which carries nothing any more. It counts as up
// from then on.
func (p *prober) forget(now time.Time, r *probed) (changes []mapping.CacheChange) {
	if r.down {
		changes = p.verdict(now, r, false)
	}
	p.unwait(r)
	delete(p.rlocs, r.addr)
	heap.Remove(&p.timers, r.index)
	return changes
}

// adjust takes the R bit off the locators that are down, in copies of the
// records, unless that would leave a record without a usable one.
func (p *prober) adjust(changes []mapping.CacheChange) {
	if p.down == 0 {
		return
	}
	for i, c := range changes {
		if c.Record == nil {
			continue
		}
		var adjusted *mapping.Record
		usable := false
		for n, l := range c.Record.Locators {
			if !l.Usable() {
				continue
			}
			if r := p.rlocs[l.Addr]; r == nil || !r.down {
				usable = true
				continue
			}
			if adjusted == nil {
				adjusted = c.Record.Clone()
			}
			adjusted.Locators[n].Flags &^= mapping.Reachable
		}
		if adjusted != nil && usable {
			changes[i].Record = adjusted
		}
	}
}

// jitter returns a random duration from 3/4 to 5/4 of d, so that the probes of
// many xTRs do not fall into step.
func (p *prober) jitter(d time.Duration) time.Duration {
	n, err := p.nonce()
	if err != nil {
		return d
	}
	return d*3/4 + time.Duration(n%uint64(d/2))
}

// probeHeap is a heap.Interface by time, then by who waits longest, whose RLOCs
// know their place.
type probeHeap []*probed

func (h probeHeap) Len() int { return len(h) }
func (h probeHeap) Less(i, j int) bool {
	return cmp.Or(h[i].at.Compare(h[j].at), h[i].lastProbe.Compare(h[j].lastProbe), h[i].addr.Compare(h[j].addr)) < 0
}
func (h probeHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}
func (h *probeHeap) Push(x any) {
	r := x.(*probed)
	r.index = len(*h)
	*h = append(*h, r)
}
func (h *probeHeap) Pop() any {
	last := len(*h) - 1
	r := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return r
}

// RLOCStatus is what probing knows of a locator.
type RLOCStatus struct {
	Addr netip.Addr
	// Up is false once the last probes had no reply.
	Up bool
	// Failures is the number of probes in a row without a reply.
	Failures        int
	Probes, Replies uint64
	LastProbe       time.Time     // zero if none
	LastReply       time.Time     // zero if none
	LastUsed        time.Time     // last round with traffic to a mapping that has it
	RTT             time.Duration // smoothed; 0 if not known
}

func (p *prober) status() []RLOCStatus {
	out := make([]RLOCStatus, 0, len(p.rlocs))
	for _, r := range p.rlocs {
		out = append(out, RLOCStatus{
			Addr: r.addr, Up: !r.down, Failures: r.failures, Probes: r.probes, Replies: r.replies,
			LastProbe: r.lastProbe, LastReply: r.lastReply, LastUsed: r.lastUsed, RTT: r.rtt,
		})
	}
	slices.SortFunc(out, func(a, b RLOCStatus) int { return a.Addr.Compare(b.Addr) })
	return out
}

// RLOCs returns the locators that are probed, ascending: those of map-cache
// entries that carried traffic in the last minute, and those that are down.
// The map-cache itself does not show what probing found.
func (x *XTR) RLOCs() []RLOCStatus {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.m.probes.status()
}
