package xtr

import (
	"cmp"
	"math"
	"net/netip"
	"slices"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
)

// What makes a path suspect before its next probe is due: traffic of an entry, or
// of an uplink, that goes one way only where it went both ways, or of which
// markedly less comes than did, an ICMP message, an SMR of the peer, and a peer
// that probes us in quick succession, which shows that it does not hear our
// replies. None of these proves anything, and all but the first can be forged:
// what follows is a probe, within the budget of its path.

// flow is what traffic by one entry of the map-cache, or by an uplink, looks like.
type flow struct {
	// waiting is since when packets go out and none came in; zero if the last
	// one came in.
	waiting time.Time
	last    time.Time       // last packet either way
	probed  *mapping.Record // whose paths the prober knows
	both    int             // rounds with packets in, up to flowTwoWay
	normal  time.Duration   // what it waited lately before something came
	again   time.Time       // no suspicion before
	backoff time.Duration

	// What comes in a round, in packets: the mean and the mean deviation from
	// it of rounds so many, and how many in a row had less.
	mean, deviation float64
	rounds, low     int
}

// traffic notes what the data plane forwarded since the last call.
func (p *prober) traffic(now time.Time, list []Traffic) {
	if p.cfg.RLOCProbing.Off {
		return
	}
	for _, t := range list {
		if t.Sent == 0 && t.Received == 0 {
			continue
		}
		f := p.flows[t.EID]
		if f == nil {
			if len(p.flows) >= maxFlows && !p.forgetFlows(now) {
				continue
			}
			f = &flow{}
			p.flows[t.EID] = f
		}
		f.begin(now)
		if e, ok := p.cache.Get(t.EID); ok && f.probed != e.Record {
			f.probed = e.Record // so that the round-trip times are known before they are needed
			p.used(now, []mapping.EID{t.EID})
		}
		fell := f.falls(now.Sub(f.last), t.Received)
		f.last = now
		if silent := f.silent(now, t.Sent, t.Received); !silent && !fell || now.Before(f.again) {
			continue
		}
		f.doubt(now)
		p.stats.inc(suspicionsTraffic)
		p.used(now, []mapping.EID{t.EID})
		p.suspectEntry(now, t.EID)
	}
}

// uplinkTraffic notes what went and came by the uplinks since the last call. It
// tells when nothing comes in by one of them, which is lost in the traffic of an
// entry that uses several.
func (p *prober) uplinkTraffic(now time.Time, list []UplinkTraffic) {
	if p.cfg.RLOCProbing.Off {
		return
	}
	flows := make(map[string]*flow, len(list))
	for _, t := range list {
		f := p.uplinks[t.Name]
		if f == nil {
			f = &flow{}
		}
		flows[t.Name] = f
		if t.Sent == 0 && t.Received == 0 {
			continue
		}
		f.begin(now)
		f.last = now
		if !f.silent(now, t.Sent, t.Received) || now.Before(f.again) {
			continue
		}
		f.doubt(now)
		p.stats.inc(suspicionsUplink)
		for _, l := range p.locals.list {
			if l.uplink == t.Name && l.up {
				p.suspectLocal(now, l.addr)
			}
		}
	}
	p.uplinks = flows
}

// suspectLocal tests some of the paths from a local RLOC, those that were used
// last.
func (p *prober) suspectLocal(now time.Time, local netip.Addr) {
	var list []*probed
	for path, r := range p.paths {
		if path.Local == local && !r.down {
			list = append(list, r)
		}
	}
	slices.SortFunc(list, func(a, b *probed) int { return cmp.Or(b.lastUsed.Compare(a.lastUsed), a.addr.Compare(b.addr)) })
	for _, r := range list[:min(len(list), confirmPaths)] {
		p.test(now, r)
	}
}

// begin makes f another conversation if there was nothing for long.
func (f *flow) begin(now time.Time) {
	if now.Sub(f.last) > flowIdle {
		*f = flow{again: f.again, backoff: f.backoff}
	}
}

// silent notes what went out and came in, and reports whether nothing has come
// in for longer than usual, though packets go out and came in before.
func (f *flow) silent(now time.Time, sent, received uint64) bool {
	switch {
	case received > 0:
		f.heard(now)
		return false
	case f.waiting.IsZero():
		if sent > 0 {
			f.waiting = now
		}
		return false
	}
	return f.both >= flowTwoWay && now.Sub(f.waiting) >= f.patience()
}

// doubt puts off the next suspicion.
func (f *flow) doubt(now time.Time) {
	f.backoff = min(max(2*f.backoff, suspectAgain), suspectAgainMax)
	f.again = now.Add(f.backoff)
}

// heard notes that packets came in.
func (f *flow) heard(now time.Time) {
	f.both = min(f.both+1, flowTwoWay)
	f.normal -= f.normal / 8
	if !f.waiting.IsZero() {
		f.normal = max(f.normal, now.Sub(f.waiting))
		f.waiting = time.Time{}
	}
	if now.Sub(f.again) > suspectAgainMax {
		f.backoff = 0
	}
}

// falls notes what came in since the last round, that long ago, and reports
// whether markedly less comes than did: where traffic is spread over several
// paths and one of them fails, the rest still comes.
func (f *flow) falls(gap time.Duration, received uint64) bool {
	if gap > flowPause {
		f.rounds, f.low = 0, 0
	}
	// As many as there would be in a round of the usual length: on a busy machine
	// some are longer, and the next one is shorter.
	n := float64(received) * float64(flowRound) / float64(max(gap, flowRound/2))
	if f.rounds >= flowKnown && n < f.mean-max(3*f.deviation, f.mean/8, 1) {
		if f.low++; f.low < flowForgets {
			return f.low == flowLow
		}
		f.rounds, f.low = 0, 0 // this is how it is now
	}
	f.low = 0
	if f.rounds == 0 {
		f.mean, f.deviation = n, n/2
	}
	f.rounds = min(f.rounds+1, flowKnown)
	f.deviation += (math.Abs(n-f.mean) - f.deviation) / 8
	f.mean += (n - f.mean) / 8
	return false
}

// patience is how long the flow may go one way before that is suspect.
func (f *flow) patience() time.Duration {
	return min(max(suspectAfter, 2*f.normal), suspectAfterMax)
}

// forgetFlows removes those without traffic and reports whether there is room. It looks
// at all of them, so where more EIDs have traffic than are known it does so only every
// flowLook.
func (p *prober) forgetFlows(now time.Time) bool {
	if now.Before(p.forgetAgain) {
		return false
	}
	p.forgetAgain = now.Add(flowLook)
	for e, f := range p.flows {
		if now.Sub(f.last) > flowIdle && now.After(f.again) {
			delete(p.flows, e)
		}
	}
	return len(p.flows) < maxFlows
}

// suspectEntry tests the paths to all usable locators of a cached entry, as far
// as they carry traffic.
func (p *prober) suspectEntry(now time.Time, e mapping.EID) {
	entry, ok := p.cache.Get(e)
	if !ok {
		return
	}
	for _, l := range p.locators(entry.Record) {
		if l.Usable() {
			p.suspect(now, l.Addr)
		}
	}
}

// suspect tests the paths to a remote RLOC that are not known to be down.
func (p *prober) suspect(now time.Time, remote netip.Addr) {
	for _, r := range p.remotes[remote] {
		if !r.down {
			p.test(now, r)
		}
	}
}

// unreachable notes an ICMP message about what was sent on a path.
func (p *prober) unreachable(now time.Time, path Path) {
	if r := p.paths[path]; r != nil && !r.down && !r.waiting {
		p.stats.inc(suspicionsICMP)
		p.test(now, r)
	}
}

// hint says when a peer probed a path of ours: the first and the last of probes
// that follow each other within hintWithin.
type hint struct{ first, last time.Time }

// probedBy notes that a peer probed us. Two probes within a second mean that it
// had no reply to the first, so that our way to it is suspect, unless a reply
// took it since. Without that, two xTRs that suspect each other's tests would go
// on until they may test no more.
func (p *prober) probedBy(now time.Time, local, peer netip.Addr) {
	path := Path{local, peer}
	r := p.paths[path]
	if r == nil {
		return
	}
	h := p.hints[path]
	if now.Sub(h.last) >= hintWithin {
		h.first = now
	}
	h.last = now
	p.hints[path] = h
	if !r.down && !r.waiting && h.first.Before(now) && !r.lastReply.After(h.first) {
		p.stats.inc(suspicionsPeer)
		p.test(now, r)
		p.testOthers(now, r)
	}
}

// judge finds the uplinks of this router that do not carry packets though they
// have a carrier: a path from there is down and its site answers another uplink,
// or Info-Requests have no answer and by another uplink something has; and none
// that was tested since works. Before it blames the uplink for one path, it
// tests a few others.
func (p *prober) judge(now time.Time) {
	for _, l := range p.locals.list {
		if !l.up {
			continue
		}
		if l.dead {
			if p.replied(l.addr, l.deadSince) || p.informed(l, l.deadSince) {
				l.dead, p.moved = false, true
				p.locals.returned(now, l)
				p.stats.inc(uplinksUp)
				p.log.Info("uplink carries packets again", "rloc", l.addr, "uplink", l.uplink)
			}
			continue
		}
		since, failed := p.firstFailure(l.addr)
		if failed && !p.reachedByOthers(l.addr, since) {
			p.callWitnesses(now, l.addr, since)
			failed = false
		}
		if !failed && l.info.failures >= infoTries && p.othersReplied(l.addr, l.info.failing) {
			since, failed = l.info.failing, true
		}
		if !failed || p.replied(l.addr, since) || p.informed(l, since) || p.confirm(now, l.addr, since) {
			continue
		}
		l.dead, l.deadSince, p.moved = true, now, true
		p.stats.inc(uplinksDown)
		p.log.Warn("uplink has a carrier but carries no packets", "rloc", l.addr, "uplink", l.uplink)
	}
}

// firstFailure returns when the first probe of the latest path from local that
// is down was lost.
func (p *prober) firstFailure(local netip.Addr) (since time.Time, failed bool) {
	for path, r := range p.paths {
		if path.Local == local && r.down {
			since, failed = latest(since, r.failing), true
		}
	}
	return since, failed
}

// replied reports whether something came back to local for a probe after since.
func (p *prober) replied(local netip.Addr, since time.Time) bool {
	for path, r := range p.paths {
		if path.Local == local && r.lastReply.After(since) {
			return true
		}
	}
	return false
}

// informed reports whether an Info-Reply that came to l after since says that
// the uplink works. It does not where several paths from it are down: the
// map-server may be nearer than what is broken.
func (p *prober) informed(l *localRLOC, since time.Time) bool {
	if !l.lastInfo.After(since) {
		return false
	}
	down := 0
	for path, r := range p.paths {
		if path.Local == l.addr && r.down {
			down++
		}
	}
	return down < confirmPaths
}

// reachedByOthers reports whether a site that can't be reached from local, by a
// path that is down, answered another RLOC of this router since. If it answers
// none of them, it is not our uplink that is dead.
func (p *prober) reachedByOthers(local netip.Addr, since time.Time) bool {
	sites := make(map[mapping.EID]bool)
	for path, r := range p.paths {
		if path.Local == local && r.down {
			for _, e := range r.eids {
				sites[e] = true
			}
		}
	}
	for _, o := range p.paths {
		l := p.locals.get(o.local)
		if o.local == local || l == nil || !l.up || l.dead || !o.lastReply.After(since) {
			continue
		}
		if slices.ContainsFunc(o.eids, func(e mapping.EID) bool { return sites[e] }) {
			return true
		}
	}
	return false
}

// callWitnesses tests whether sites that can't be reached from local answer another
// RLOC of this router, if that was not tried since. A few tests will do, which
// do not wait for the limits of their paths: suspicions that came to nothing must
// not leave a dead uplink without one who could tell.
func (p *prober) callWitnesses(now time.Time, local netip.Addr, since time.Time) {
	var list []*probed
	for path, r := range p.paths {
		if path.Local != local || !r.down {
			continue
		}
		for _, o := range p.remotes[r.addr] {
			l := p.locals.get(o.local)
			if o.local != local && l != nil && l.up && !l.dead && !o.down && !o.waiting && o.lastProbe.Before(since) {
				list = append(list, o)
			}
		}
	}
	slices.SortFunc(list, func(a, b *probed) int {
		return cmp.Or(b.lastUsed.Compare(a.lastUsed), a.addr.Compare(b.addr), a.local.Compare(b.local))
	})
	list = slices.Compact(list)
	for _, o := range list[:min(len(list), confirmPaths)] {
		o.suspect, o.witness = true, true
		p.schedule(o, now)
	}
}

// othersReplied reports whether another RLOC of this router had a reply since.
func (p *prober) othersReplied(local netip.Addr, since time.Time) bool {
	for _, o := range p.locals.list {
		if o.addr != local && o.up && !o.dead && (p.replied(o.addr, since) || o.lastInfo.After(since)) {
			return true
		}
	}
	return false
}

// confirm tests a few other paths from local, if any was not tested after
// since, and reports whether a verdict has to wait for that. It does not wait for
// one that may not be tested for a while, because it was tested so often lately.
func (p *prober) confirm(now time.Time, local netip.Addr, since time.Time) (wait bool) {
	tested := 0
	var more []*probed
	for path, r := range p.paths {
		switch {
		case path.Local != local || r.down:
		case r.waiting, p.inDoubt(r), r.suspect && !p.each.readyAt(path).After(now.Add(probeTimeoutMin)):
			wait = true
			tested++
		case r.lastProbe.Before(since):
			more = append(more, r)
		default:
			tested++
		}
	}
	for _, r := range more {
		if tested == confirmPaths {
			break
		}
		p.test(now, r)
		tested++
		wait = true
	}
	return wait
}
