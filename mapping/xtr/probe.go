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
// What is probed is a path: from an RLOC of this router to one of another, and
// back, since a probe names no other ITR-RLOC than the one it is sent from. A
// locator is down when all paths to it are.
//
// One probe serves all mappings of an RLOC. A path is probed as soon as it is
// known, so that its round-trip time is. At rest each RLOC is probed once in an
// interval, by one path after the other, and all together once a second at
// most. A probe without a reply raises suspicion, and so do signs from
// elsewhere, see suspicion.go; then the next ones follow at once, and after a
// few the path is down. It is tried again every 10 s, and one reply brings it
// back. A reply is used for reachability only, never to change the mapping.
type prober struct {
	part
	cache   *mapping.Cache
	paths   map[Path]*probed
	from    map[netip.Addr]int       // number of paths by local end
	remotes map[netip.Addr][]*probed // paths by remote end; no empty ones
	nonces  map[uint64]outstandingProbe
	timers  probeHeap
	down    int // remote RLOCs that are down
	// moved says that the paths that are down, or the verdict on an uplink, are
	// others than when machine.settle looked.
	moved       bool
	flows       map[mapping.EID]*flow
	forgetAgain time.Time // no look at all flows before
	// uplinks is the traffic of all entries, and whatever else there is, by the
	// names of the uplinks.
	uplinks map[string]*flow
	hints   map[Path]hint // of peers that probe us
	// failing is told of a local RLOC from which a probe was lost.
	failing func(now time.Time, l *localRLOC)

	each      limiter[Path]
	resting   limiter[struct{}]
	fresh     limiter[struct{}] // paths that are new
	suspected limiter[struct{}]
}

// probed is a path that is tested.
type probed struct {
	local    netip.Addr
	addr     netip.Addr    // remote RLOC
	eids     []mapping.EID // cached entries that have it, a few
	turn     int           // which of them is asked for next
	lastUsed time.Time

	down     bool
	suspect  bool      // to be tested at once
	witness  bool      // and the limit of the path does not count: see callWitnesses
	failures int       // probes in a row without a reply
	failing  time.Time // when the first of them was sent
	waiting  bool      // the last probe has neither a reply nor timed out
	nonces   []uint64  // outstanding, oldest first

	probes, replies      uint64
	lastProbe, lastReply time.Time
	rtt, deviation       time.Duration // smoothed; 0 before the first reply
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
		part:      c.part(LogProbe),
		cache:     cache,
		paths:     make(map[Path]*probed),
		from:      make(map[netip.Addr]int),
		remotes:   make(map[netip.Addr][]*probed),
		nonces:    make(map[uint64]outstandingProbe),
		flows:     make(map[mapping.EID]*flow),
		hints:     make(map[Path]hint),
		each:      newLimiter[Path](probeEach, probeEachBurst, maxProbed),
		resting:   newLimiter[struct{}](probeResting, 1, 1),
		fresh:     newLimiter[struct{}](probeFresh, probeFreshBurst, 1),
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
		for _, l := range p.locators(entry.Record) {
			if !l.Usable() || !p.mayProbe(l.Addr) {
				continue
			}
			p.cover(now, l.Addr)
			for _, r := range p.remotes[l.Addr] {
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
}

// cover has every path to a remote RLOC tested that there is now.
func (p *prober) cover(now time.Time, remote netip.Addr) {
	for _, l := range p.locals.list {
		path := Path{l.addr, remote}
		if !l.up || l.addr.Is4() != remote.Is4() || p.paths[path] != nil {
			continue
		}
		if len(p.paths) >= maxProbed {
			p.stats.inc(rlocProbeTableFull)
			return
		}
		r := &probed{local: l.addr, addr: remote, at: now}
		if others := p.remotes[remote]; len(others) > 0 {
			r.lastUsed, r.eids = others[0].lastUsed, slices.Clone(others[0].eids)
		}
		p.paths[path] = r
		p.from[l.addr]++
		p.remotes[remote] = append(p.remotes[remote], r)
		heap.Push(&p.timers, r)
	}
}

// localsChanged forgets the paths from local RLOCs that are gone or have no
// carrier, and tests those from new ones.
func (p *prober) localsChanged(now time.Time) (changes []mapping.CacheChange) {
	for path, r := range p.paths {
		if l := p.locals.get(path.Local); l != nil && l.up {
			continue
		}
		if others := p.remotes[path.Remote]; len(others) == 1 {
			p.cover(now, path.Remote)
		}
		changes = append(changes, p.forget(now, r)...)
	}
	for remote := range p.remotes {
		p.cover(now, remote)
	}
	return changes
}

// mayProbe reports whether a can be tested: it is not this router, and it is
// not the mapping system, which must not answer (section 5.2).
func (p *prober) mayProbe(a netip.Addr) bool {
	_, ok := p.source(a)
	return ok && mapping.ValidRLOC(a) == nil && !p.isLocal(a) &&
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
			p.judge(now)
		}
		if r.failures == 1 {
			r.failing = r.lastProbe
			p.testOthers(now, r)
			if l := p.locals.get(r.local); l != nil {
				p.failing(now, l)
			}
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
	switch {
	case r.down:
	case r.suspect || r.failures > 0:
		all = &p.suspected
	case r.probes == 0:
		all = &p.fresh
	}
	if at := all.readyAt(struct{}{}); at.After(now) {
		p.schedule(r, at)
		return changes
	}
	path := Path{r.local, r.addr}
	if at := p.each.readyAt(path); at.After(now) && !p.inDoubt(r) && !r.down && !r.witness {
		p.schedule(r, at)
		return changes
	}
	all.take(now, struct{}{})
	if !r.down { // that has a pace of its own, and is to be testable when it is back
		p.each.take(now, path)
	}
	r.suspect, r.witness = false, false
	p.schedule(r, now.Add(p.patience(r)))
	p.probe(now, r, eid)
	return changes
}

// patience is how long a probe may go without a reply. Where the round-trip time
// of the path is not known, that of another path to the same RLOC serves.
func (p *prober) patience(r *probed) time.Duration {
	rtt, deviation := r.rtt, r.deviation
	if rtt == 0 {
		for _, o := range p.remotes[r.addr] {
			rtt, deviation = max(rtt, o.rtt), max(deviation, o.deviation)
		}
	}
	if rtt == 0 {
		return min(probeTimeoutFirst<<min(r.failures, 8), probeTimeout)
	}
	return min(max(probeTimeoutMin, rtt+max(2*deviation, rtt/2)+probeMargin), probeTimeoutMax)
}

// inDoubt reports whether a probe of r was lost and others have to follow before
// there is a verdict. They do not wait for the limit of the path, which they
// count for all the same: suspicions that came to nothing must not leave it
// undecided for long.
func (p *prober) inDoubt(r *probed) bool {
	return !r.down && r.failures > 0 && r.failures < p.cfg.RLOCProbing.Retries
}

// test probes r at once, as far as the limits allow.
func (p *prober) test(now time.Time, r *probed) {
	if r.waiting || r.suspect {
		return
	}
	r.suspect = true
	p.schedule(r, now)
}

// testOthers tests the other paths to the remote end of r: if they work, it is
// the path that does not.
func (p *prober) testOthers(now time.Time, r *probed) {
	for _, o := range p.remotes[r.addr] {
		if o != r && !o.down {
			p.test(now, o)
		}
	}
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
	return ok && usesLocator(p.locators(entry.Record), a)
}

func usesLocator(list []mapping.Locator, a netip.Addr) bool {
	return slices.ContainsFunc(list, func(l mapping.Locator) bool { return l.Addr == a && l.Usable() })
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
		ITRRLOCs: []wire.Address{wire.IPAddress(r.local)}, // so that the reply takes the path too
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
	p.send(netip.AddrPortFrom(r.local, p.cfg.Port), netip.AddrPortFrom(r.addr, wire.Port), msg)
	p.stats.inc(rlocProbesOut)
	p.log.Debug("rloc-probe sent", "rloc", r.addr, "from", r.local, "eid", e, "nonce", hex(nonce))
}

// reply handles a Map-Reply, if its nonce is that of a probe.
func (p *prober) reply(now time.Time, msg []byte, from, to netip.AddrPort) (handled bool, changes []mapping.CacheChange) {
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
	if !ok || to.Addr() != r.local { // by another way back it says nothing of this one
		p.stats.inc(rlocProbeRepliesRefused)
		return true, nil
	}
	p.stats.inc(rlocProbesAnswered)
	r.replies++
	r.lastReply, r.failures, r.waiting, r.suspect = now, 0, false, false
	rtt := max(now.Sub(o.at), 1)
	if r.rtt == 0 {
		r.rtt, r.deviation = rtt, rtt/2
	} else { // as RFC 6298 section 2
		r.deviation += ((r.rtt - rtt).Abs() - r.deviation) / 4
		r.rtt += (rtt - r.rtt) / 8
	}
	p.unwait(o.rloc)
	if r.down {
		changes = p.verdict(now, r, false)
	}
	p.judge(now)
	p.schedule(r, r.lastProbe.Add(p.jitter(p.cfg.RLOCProbing.Interval)*time.Duration(len(p.remotes[r.addr]))))
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
	r = p.paths[Path{o.rloc.local, locator}]
	return r, found && r != nil && (r == o.rloc || p.has(o.eid, locator))
}

// verified reports whether a answered a probe lately, and so is where it says.
func (p *prober) verified(now time.Time, a netip.Addr) bool {
	rs := p.remotes[a]
	return slices.ContainsFunc(rs, func(r *probed) bool {
		return !r.lastReply.IsZero() && now.Sub(r.lastReply) <= 2*p.cfg.RLOCProbing.Interval*time.Duration(len(rs))
	})
}

// unwait forgets the outstanding probes of r.
func (p *prober) unwait(r *probed) {
	for _, n := range r.nonces {
		delete(p.nonces, n)
	}
	r.nonces = r.nonces[:0]
}

// isDown reports whether all paths to a remote RLOC are down.
func (p *prober) isDown(a netip.Addr) bool {
	rs := p.remotes[a]
	return len(rs) > 0 && !slices.ContainsFunc(rs, func(r *probed) bool { return !r.down })
}

// verdict declares r down or up. If that makes its remote end so, it returns
// the changes of all entries that have it, with the records as they were
// learned: adjust changes them.
func (p *prober) verdict(now time.Time, r *probed, down bool) (changes []mapping.CacheChange) {
	was := p.isDown(r.addr)
	r.down, p.moved = down, true
	if p.isDown(r.addr) == was {
		p.log.Info("path changed", "from", r.local, "rloc", r.addr, "up", !down)
		if down {
			p.stats.inc(pathsDown)
		}
		return nil
	}
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
	return p.affected(r.addr)
}

// affected returns the entries of the map-cache that have a remote RLOC.
func (p *prober) affected(a netip.Addr) (changes []mapping.CacheChange) {
	for e := range p.cache.All() {
		if usesLocator(p.locators(e.Record), a) {
			changes = append(changes, mapping.CacheChange{EID: e.Record.EID, Record: e.Record, Expires: e.Expires})
		}
	}
	return changes
}

// forget ends the testing of r, which carries nothing any more. It counts as up
// from then on.
func (p *prober) forget(now time.Time, r *probed) (changes []mapping.CacheChange) {
	was := p.isDown(r.addr)
	p.moved = p.moved || r.down
	p.unwait(r)
	delete(p.paths, Path{r.local, r.addr})
	if p.from[r.local]--; p.from[r.local] == 0 {
		delete(p.from, r.local)
	}
	delete(p.hints, Path{r.local, r.addr})
	p.remotes[r.addr] = slices.DeleteFunc(p.remotes[r.addr], func(o *probed) bool { return o == r })
	if len(p.remotes[r.addr]) == 0 {
		delete(p.remotes, r.addr)
	}
	heap.Remove(&p.timers, r.index)
	switch is := p.isDown(r.addr); {
	case was && !is:
		p.down--
		p.stats.inc(rlocsUp)
		return p.affected(r.addr)
	case is && !was:
		p.down++
		p.stats.inc(rlocsDown)
		return p.affected(r.addr)
	}
	return nil
}

// adjust adds the proxy-ETRs to what goes to them, and takes the R bit off the
// locators that are down, in copies, unless that would leave none that is
// usable.
func (p *prober) adjust(changes []mapping.CacheChange) {
	for i, c := range changes {
		if c.Record != nil && p.toProxy(c.Record) {
			changes[i].ProxyETRs = p.alive(p.cfg.ProxyETRs)
		}
		if p.down == 0 || c.Record == nil {
			continue
		}
		var adjusted *mapping.Record
		usable := false
		for n, l := range c.Record.Locators {
			if !l.Usable() {
				continue
			}
			if !p.isDown(l.Addr) {
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
	a, b := h[i], h[j]
	return cmp.Or(a.at.Compare(b.at), a.lastProbe.Compare(b.lastProbe), a.addr.Compare(b.addr), a.local.Compare(b.local)) < 0
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
	RTT             time.Duration // smoothed, of the path that answered last; 0 if not known
	// Paths are the ways to it, ascending by this router's RLOC. The
	// other fields sum them up.
	Paths []PathStatus
}

// PathStatus is what probing knows of one path.
type PathStatus struct {
	Local     netip.Addr
	Up        bool
	Failures  int
	LastProbe time.Time     // zero if none
	LastReply time.Time     // zero if none
	RTT       time.Duration // smoothed; 0 if not known
}

func (p *prober) status() []RLOCStatus {
	out := make([]RLOCStatus, 0, len(p.remotes))
	for a, rs := range p.remotes {
		st := RLOCStatus{Addr: a, Up: !p.isDown(a), Failures: rs[0].failures}
		for _, r := range rs {
			st.Failures = min(st.Failures, r.failures)
			st.Probes += r.probes
			st.Replies += r.replies
			st.LastUsed = latest(st.LastUsed, r.lastUsed)
			st.LastProbe = latest(st.LastProbe, r.lastProbe)
			if r.lastReply.After(st.LastReply) {
				st.LastReply, st.RTT = r.lastReply, r.rtt
			}
			st.Paths = append(st.Paths, PathStatus{r.local, !r.down, r.failures, r.lastProbe, r.lastReply, r.rtt})
		}
		slices.SortFunc(st.Paths, func(a, b PathStatus) int { return a.Local.Compare(b.Local) })
		out = append(out, st)
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

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
