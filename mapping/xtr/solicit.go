package xtr

import (
	"cmp"
	"container/heap"
	"net/netip"
	"slices"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// solicitor tells other sites that a mapping of this one changed: it sends
// SMRs (RFC 9301 section 6.1) to who may hold the old one. Those are the RLOCs
// of map-cache entries that carried traffic in the last minute, and those that
// packets came from in the last minute.
//
// The RFC has no answer to an SMR. One that is lost is made up for by
// repeating it, unless a Map-Request for the mapping came from there; but where
// a map-server answers for the site, that never comes, so there is an end.
//
// The first SMR waits until the map-servers have confirmed the new mapping, for
// a second at most: who asked earlier would learn the old one again.
type solicitor struct {
	part
	heard   map[netip.Addr]time.Time // when packets were decapsulated last
	cleaned time.Time                // when heard was last full

	jobs   map[netip.Addr][]*solicit // no empty ones
	count  int                       // of jobs
	timers solicitHeap               // jobs, and some that are done
	sent   limiter[replyKey]         // SMRs for each (RLOC, EID-prefix)
	all    limiter[struct{}]         // SMRs
	held   bool                      // some wait for the map-servers
	seq    uint64
}

// solicit is the task to tell rloc that the mapping of eid changed.
type solicit struct {
	rloc  netip.Addr
	eid   mapping.EID // of this site
	peer  mapping.EID // theirs; eid if it is not known
	tries int
	at    time.Time
	seq   uint64 // order of creation
	done  bool
}

func newSolicitor(c *core) *solicitor {
	return &solicitor{
		part:  c.part(LogAnswer),
		heard: make(map[netip.Addr]time.Time),
		jobs:  make(map[netip.Addr][]*solicit),
		sent:  newLimiter[replyKey](smrSpacing, 1, limiterKeys),
		all:   newLimiter[struct{}](smrPace, smrBurst, 1),
	}
}

// note keeps that packets from rlocs were decapsulated.
func (s *solicitor) note(now time.Time, rlocs []netip.Addr) {
	for _, a := range rlocs {
		a = a.Unmap()
		if mapping.ValidRLOC(a) != nil || s.isLocal(a) {
			continue
		}
		if _, ok := s.heard[a]; !ok && len(s.heard) >= maxHeard && !s.forget(now) {
			s.stats.inc(heardTableFull)
			continue
		}
		s.heard[a] = now
	}
}

// forget removes the RLOCs that were not heard of for too long, not more than
// once a second, and reports whether there is room again.
func (s *solicitor) forget(now time.Time) bool {
	if now.Sub(s.cleaned) < time.Second {
		return false
	}
	s.cleaned = now
	for a, at := range s.heard {
		if now.Sub(at) > smrWindow {
			delete(s.heard, a)
		}
	}
	return len(s.heard) < maxHeard
}

// targets returns who may hold mappings of this site, and for each an EID of
// theirs if one is known.
func (s *solicitor) targets(now time.Time, cache *mapping.Cache) map[netip.Addr]mapping.EID {
	to := make(map[netip.Addr]mapping.EID)
	for a, at := range s.heard {
		if now.Sub(at) <= smrWindow {
			to[a] = mapping.EID{}
		}
	}
	for e := range cache.All() {
		if e.LastUsed.IsZero() || now.Sub(e.LastUsed) > smrWindow {
			continue
		}
		for _, l := range e.Record.Locators {
			if l.Usable() && !s.isLocal(l.Addr) {
				to[l.Addr] = e.Record.EID
			}
		}
	}
	return to
}

// changed starts to tell all targets that the mappings of eids changed.
func (s *solicitor) changed(now time.Time, eids []mapping.EID, to map[netip.Addr]mapping.EID) {
	targets := make([]netip.Addr, 0, len(to))
	for a := range to {
		if _, ok := s.source(a); ok {
			targets = append(targets, a)
		}
	}
	slices.SortFunc(targets, netip.Addr.Compare)
	for _, e := range eids {
		for _, a := range targets {
			s.add(now, a, e, to[a])
		}
	}
	s.held = s.count > 0
	heap.Init(&s.timers)
}

// add enters one task, or begins it anew. The heap is out of order afterwards.
func (s *solicitor) add(now time.Time, rloc netip.Addr, e, theirs mapping.EID) {
	for _, j := range s.jobs[rloc] {
		if j.eid == e {
			j.tries, j.at = 0, now.Add(smrHold)
			return
		}
	}
	if s.count >= maxSolicits {
		s.stats.inc(smrTableFull)
		return
	}
	if !theirs.IsValid() {
		theirs = e
	}
	s.seq++
	j := &solicit{rloc: rloc, eid: e, peer: theirs, at: now.Add(smrHold), seq: s.seq}
	s.jobs[rloc] = append(s.jobs[rloc], j)
	s.count++
	s.timers = append(s.timers, j)
}

// finish removes a task; the heap forgets it later.
func (s *solicitor) finish(j *solicit) {
	j.done = true
	s.count--
	rest := slices.DeleteFunc(s.jobs[j.rloc], func(o *solicit) bool { return o == j })
	if len(rest) == 0 {
		delete(s.jobs, j.rloc)
	} else {
		s.jobs[j.rloc] = rest
	}
}

// hurry ends the wait of tasks for the map-servers.
func (s *solicitor) hurry(now time.Time) {
	s.held = false
	for _, j := range s.timers {
		if j.tries == 0 && j.at.After(now) {
			j.at = now
		}
	}
	heap.Init(&s.timers)
}

// asked notes a Map-Request: who asks for a mapping after an SMR has learned
// of the change.
func (s *solicitor) asked(m *wire.MapRequest) {
	if s.count == 0 || m.Probe {
		return
	}
	for _, a := range m.ITRRLOCs {
		ip, _ := a.IP()
		if s.jobs[ip] == nil {
			continue
		}
		for _, r := range m.EIDs {
			q, err := r.EID.EID(r.MaskLen)
			if err != nil {
				continue
			}
			for _, j := range slices.Clone(s.jobs[ip]) {
				if j.tries > 0 && (j.eid.Covers(q) || q.Covers(j.eid)) {
					s.stats.inc(smrAnswered)
					s.finish(j)
				}
			}
		}
	}
}

// advance sends the SMRs that are due and that the limits allow.
func (s *solicitor) advance(now time.Time) {
	for len(s.timers) > 0 {
		j := s.timers[0]
		switch key := (replyKey{j.rloc, j.eid}); {
		case j.done:
			heap.Pop(&s.timers)
		case j.at.After(now):
			return
		case j.tries >= smrTries: // nobody asked here: a map-server may have answered
			s.finish(j)
		case !s.sent.ready(now, key):
			j.at = s.sent.readyAt(key)
			heap.Fix(&s.timers, 0)
		case !s.all.ready(now, struct{}{}):
			return
		default:
			s.sent.take(now, key)
			s.all.take(now, struct{}{})
			s.solicit(now, j)
			heap.Fix(&s.timers, 0)
		}
	}
}

// solicit sends one SMR. The source EID names the mapping that changed, and
// the record an EID of the receiver, as deployed ETRs have it; nothing is to be
// replied to it, so the D bit is set.
func (s *solicitor) solicit(now time.Time, j *solicit) {
	j.at = now.Add(smrSpacing << j.tries)
	j.tries++
	nonce, err := s.nonce()
	if err != nil {
		s.stats.inc(sendErrors)
		s.log.Error("smr not sent", "eid", j.eid, "err", err)
		return
	}
	msg, ok := s.encode(&wire.MapRequest{
		SMR:       true,
		NoReply:   true,
		Nonce:     nonce,
		SourceEID: wire.EIDAddress(j.eid.IID, s.representative(j.eid)),
		ITRRLOCs:  s.itrRLOCs,
		EIDs:      []wire.RequestRecord{wire.NewRequestRecord(j.peer)},
	})
	if !ok {
		return
	}
	src, _ := s.source(j.rloc)
	s.send(src, netip.AddrPortFrom(j.rloc, wire.Port), msg)
	s.stats.inc(smrOut)
	s.log.Debug("smr sent", "eid", j.eid, "to", j.rloc, "try", j.tries)
}

// representative returns an address whose longest match in the database is e,
// the first that there is: a Source EID has no mask length, and the receiver
// looks up what it finds.
func (s *solicitor) representative(e mapping.EID) netip.Addr {
	a := e.Prefix.Addr()
	for e.Prefix.Contains(a) {
		m, _, ok := s.own.LookupPrefix(mapping.HostEID(e.IID, a))
		if !ok || m == e || !e.Covers(m) {
			return a
		}
		a = lastAddr(m.Prefix).Next()
	}
	return e.Prefix.Addr() // more-specifics fill it
}

// lastAddr returns the last address of p.
func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := range b {
		if host := 8*(i+1) - p.Bits(); host > 0 {
			b[i] |= byte(1<<min(host, 8) - 1)
		}
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// next returns when advance has something to do.
func (s *solicitor) next() (t time.Time, ok bool) {
	if len(s.timers) == 0 {
		return time.Time{}, false
	}
	t = s.timers[0].at
	if paced := s.all.readyAt(struct{}{}); paced.After(t) {
		t = paced
	}
	return t, true
}

// solicitHeap is a heap.Interface by time, then age.
type solicitHeap []*solicit

func (h solicitHeap) Len() int { return len(h) }
func (h solicitHeap) Less(i, j int) bool {
	return cmp.Or(h[i].at.Compare(h[j].at), cmp.Compare(h[i].seq, h[j].seq)) < 0
}
func (h solicitHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *solicitHeap) Push(x any)   { *h = append(*h, x.(*solicit)) }
func (h *solicitHeap) Pop() any {
	last := len(*h) - 1
	j := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return j
}
