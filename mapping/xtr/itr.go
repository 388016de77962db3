package xtr

import (
	"container/heap"
	"net/netip"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// Miss says that a data plane has a packet from Src to Dst, in instance IID,
// and no entry of the map-cache for it, or one with Send-Map-Request.
type Miss struct {
	IID uint32
	Dst netip.Addr
	// Src is the host that sent the packet. It becomes the source EID of the
	// Map-Request, and is what limits for each host go by.
	Src netip.Addr
}

// reason says why a query is asked.
type reason uint8

const (
	forMiss    reason = iota // a packet had no entry
	forRefresh               // an entry in use is about to expire
	forSMR                   // an ETR solicited it
	forMapData               // a Map-Request carried it
)

// host is a source of misses.
type host struct {
	iid  uint32
	addr netip.Addr
}

// query is a Map-Request with its retransmissions. There is at most one for
// each EID.
type query struct {
	eid mapping.EID // a host for a miss, a cached prefix otherwise
	why reason
	by  host // who asks; zero unless why is forMiss
	// attempts are the transmissions, oldest first. A reply to any of them is
	// a reply.
	attempts []attempt
	tries    int // transmissions, those that failed locally included
	// protected are the transmissions with LISP-SEC, algorithm is the next to
	// ask for. cantSign: a map-server said that the ETRs do not sign. replied:
	// the last transmission had a reply, which was no answer.
	protected, algorithm int
	subscribes           int // transmissions that subscribe (RFC 9437)
	cantSign, replied    bool
	told                 bool      // Config.OnTraces was
	begun                time.Time // when ask was called
	paused               bool      // given up; kept so that nothing is sent for a while
	at                   time.Time // when to retransmit, or to end the pause
	seq                  uint64    // order of creation
	index                int       // in the heap
}

// attempt is one transmission of a query.
type attempt struct {
	nonce    uint64
	resolver *resolver
	at       time.Time
	secure   *protection // nil: without LISP-SEC
	// subscribe: a Map-Notify may answer it, too.
	subscribe bool
	// unknown: a reply came whose algorithms are not known here.
	unknown bool
}

// outstanding is what a nonce stands for.
type outstanding struct {
	q *query
	n int // index of the attempt
}

// itr asks the mapping system and keeps the map-cache.
type itr struct {
	part
	cache     *mapping.Cache
	changes   []mapping.CacheChange
	resolvers resolvers
	traces    []*ResolutionTrace // for Config.OnTraces
	subs      *subscriber
	heardOf   func(now time.Time) // the mapping system answered

	queries map[mapping.EID]*query
	nonces  map[uint64]outstanding
	timers  queryHeap
	perHost map[host]int // queries for misses of each host; no zeros
	refresh int          // queries not for a miss
	seq     uint64

	spacing limiter[mapping.EID]      // Map-Requests for each EID-prefix
	hosts   limiter[host]             // new resolutions of each host
	all     limiter[struct{}]         // new resolutions
	smr     limiter[mapping.EID]      // SMR-invoked Map-Requests for each EID-prefix
	later   map[mapping.EID]time.Time // when to ask for what an SMR was too early for
	data    limiter[struct{}]         // Map-Requests that verify map data
	strays  limiter[struct{}]         // Map-Replies that answer nothing
}

func newITR(c *core) *itr {
	l := c.cfg.Limits
	i := &itr{
		part:    c.part(LogResolve),
		cache:   mapping.NewCache(c.cfg.CacheLimit),
		later:   make(map[mapping.EID]time.Time),
		queries: make(map[mapping.EID]*query),
		nonces:  make(map[uint64]outstanding),
		perHost: make(map[host]int),
		spacing: newLimiter[mapping.EID](requestSpacing, 1, limiterKeys+requestBurst*l.Rate+l.Pending),
		hosts:   newLimiter[host](time.Second/time.Duration(l.RatePerHost), requestBurst*l.RatePerHost, limiterKeys),
		all:     newLimiter[struct{}](time.Second/time.Duration(l.Rate), requestBurst*l.Rate, 1),
		smr:     newLimiter[mapping.EID](smrSpacing, 1, limiterKeys),
		data:    newLimiter[struct{}](mapDataSpacing, mapDataBurst, 1),
		strays:  newLimiter[struct{}](straySpacing, strayBurst, 1),
	}
	i.resolvers.set(c.cfg.MapResolvers)
	i.subs = newSubscriber(c, i)
	return i
}

// miss starts a resolution, unless one is under way, the map-cache has the
// answer already, or a limit forbids it.
func (i *itr) miss(now time.Time, m Miss) {
	i.stats.inc(misses)
	m.Dst, m.Src = m.Dst.Unmap().WithZone(""), m.Src.Unmap().WithZone("")
	if !i.resolvable(m) {
		i.stats.inc(missesRefused)
		return
	}
	eid := mapping.HostEID(m.IID, m.Dst)
	space := eid
	if rec, ok := i.cache.Lookup(m.IID, m.Dst); ok {
		if !rec.Negative() || rec.Action != mapping.SendMapRequest {
			i.stats.inc(missesCached)
			return
		}
		space = rec.EID // its packets ask once a second, wherever they go
	}
	if i.queries[eid] != nil {
		i.stats.inc(missesPending)
		return
	}
	by := host{m.IID, m.Src}
	switch {
	case !i.spacing.ready(now, eid), !i.spacing.ready(now, space), !i.hosts.ready(now, by), !i.all.ready(now, struct{}{}):
		i.stats.inc(missesRateLimited)
		return
	case i.perHost[by] >= i.cfg.Limits.PendingPerHost, !i.makeRoom(now, by):
		i.stats.inc(missesTableFull)
		return
	}
	i.hosts.take(now, by)
	i.all.take(now, struct{}{})
	if space != eid {
		i.spacing.take(now, space)
	}
	i.log.Debug("map-cache miss", "eid", eid, "source", m.Src)
	i.ask(now, &query{eid: eid, by: by, why: forMiss})
}

// resolvable reports whether the mapping system can be asked for m: an address
// that could be an RLOC could be an EID, if it is not of this site.
func (i *itr) resolvable(m Miss) bool {
	if len(i.cfg.MapResolvers) == 0 || m.IID > mapping.MaxIID || mapping.ValidRLOC(m.Dst) != nil {
		return false
	}
	_, own := i.own.Lookup(m.IID, m.Dst)
	return !own
}

// makeRoom makes sure that one more query of a host fits in the table. If it
// is full, the host with the most queries loses its oldest, unless that would
// be the asking one: who floods pays.
func (i *itr) makeRoom(now time.Time, by host) bool {
	if len(i.queries) < i.cfg.Limits.Pending {
		return true
	}
	most := 0
	for _, n := range i.perHost {
		most = max(most, n)
	}
	if most <= i.perHost[by]+1 {
		return false
	}
	var oldest *query
	for _, q := range i.queries {
		if q.why == forMiss && i.perHost[q.by] == most && (oldest == nil || q.seq < oldest.seq) {
			oldest = q
		}
	}
	i.ended(now, oldest, ResolutionEvicted)
	i.finish(oldest)
	i.stats.inc(resolutionsEvicted)
	return true
}

// used notes traffic for entries and starts the refresh of those that are
// about to expire. An entry that nobody uses just expires.
func (i *itr) used(now time.Time, eids []mapping.EID) {
	for _, e := range eids {
		i.cache.Touch(now, e)
		entry, ok := i.cache.Get(e)
		if !ok || now.Before(refreshAt(entry)) || i.queries[e] != nil {
			continue
		}
		if entry.Record.Negative() && entry.Record.Action == mapping.SendMapRequest {
			continue // its packets ask anyway
		}
		if !i.spacing.ready(now, e) || !i.mayRefresh() {
			continue // a later round comes in time
		}
		i.stats.inc(mapRequestsRefresh)
		i.ask(now, &query{eid: e, why: forRefresh})
	}
}

// refreshAt is when an entry in use is asked for again.
func refreshAt(e mapping.CacheEntry) time.Time {
	life := e.Expires.Sub(e.Installed)
	return e.Expires.Add(-min(max(life/refreshShare, refreshMin), refreshMax, life/2))
}

// mayRefresh reports whether the table has room for one more refresh.
func (i *itr) mayRefresh() bool {
	return len(i.cfg.MapResolvers) > 0 && i.refresh < i.cfg.Limits.Pending/refreshPart &&
		len(i.queries) < i.cfg.Limits.Pending
}

// ask enters q and sends its first Map-Request, if there is anybody to ask.
func (i *itr) ask(now time.Time, q *query) {
	if len(i.resolvers.list) == 0 {
		return
	}
	i.seq++
	q.seq = i.seq
	i.queries[q.eid] = q
	if q.why == forMiss {
		i.perHost[q.by]++
	} else {
		i.refresh++
	}
	q.at, q.begun = now, now
	heap.Push(&i.timers, q)
	i.transmit(now, q)
}

// finish removes q.
func (i *itr) finish(q *query) {
	delete(i.queries, q.eid)
	for _, a := range q.attempts {
		a.forget()
		delete(i.nonces, a.nonce)
	}
	heap.Remove(&i.timers, q.index)
	switch {
	case q.why != forMiss:
		i.refresh--
	case i.perHost[q.by] == 1:
		delete(i.perHost, q.by)
	default:
		i.perHost[q.by]--
	}
}

// transmit sends q to a map-resolver, with a nonce of its own: a reply then
// tells which transmission it answers, and so its round-trip time.
func (i *itr) transmit(now time.Time, q *query) {
	i.schedule(q, now.Add(min(requestSpacing<<q.tries, maxRetry)))
	q.tries++
	subscribe := i.subs.wants(now, q)
	draw := i.nonce
	if subscribe {
		draw = func() (uint64, error) { return i.subs.asking(now, q) }
	}
	nonce, err := draw()
	if err != nil {
		i.stats.inc(sendErrors)
		i.log.Error("map-request not sent", "eid", q.eid, "err", err)
		return
	}
	var avoid *resolver
	if n := len(q.attempts); n > 0 {
		avoid = q.attempts[n-1].resolver
		i.stats.inc(mapRequestsRetransmitted)
	}
	if i.subs.used(nonce) {
		return // as good as never; the next retransmission draws again
	}
	r := i.resolvers.pick(now, avoid)
	secure, security, err := i.protect(q, r.addr, nonce)
	if err != nil {
		i.stats.inc(sendErrors)
		i.log.Error("map-request not protected, and so not sent", "eid", q.eid, "err", err)
		return
	}
	i.spacing.take(now, q.eid)
	i.nonces[nonce] = outstanding{q, len(q.attempts)}
	q.attempts = append(q.attempts, attempt{nonce: nonce, resolver: r, at: now, secure: secure, subscribe: subscribe})

	req := wire.MapRequest{
		Nonce:      nonce,
		ITRRLOCs:   i.itrRLOCs,
		EIDs:       []wire.RequestRecord{wire.NewRequestRecord(q.eid)},
		SMRInvoked: q.why == forSMR,
	}
	if req.PITR = i.forProxy(q); q.why == forMiss && q.by.addr.IsValid() && !req.PITR {
		req.SourceEID = wire.EIDAddress(q.by.iid, q.by.addr)
	}
	if subscribe {
		i.subs.identify(&req)
	}
	dst := q.eid.Prefix.Addr()
	if i.sendRequest(&req, r, q.tries-1, netip.AddrPortFrom(i.innerSource(q, dst), i.cfg.Port), netip.AddrPortFrom(dst, wire.Port), security) {
		i.log.Debug("map-request sent", "eid", q.eid, "map_resolver", r.addr, "nonce", hex(nonce), "attempt", q.tries)
	}
}

// sendRequest sends m to r, in an ECM from src to dst with the authentication
// data security, if any. The try counts from 0.
func (i *itr) sendRequest(m *wire.MapRequest, r *resolver, try int, src, dst netip.AddrPort, security []byte) bool {
	msg, ok := i.encode(m)
	if !ok {
		return false
	}
	msg, ok = i.encode(&wire.ECM{Security: security != nil, SecurityData: security, Src: src, Dst: dst, Message: msg})
	if !ok {
		return false
	}
	from, _ := i.sourceFor(r.addr.Addr(), try)
	i.send(from, r.addr, msg)
	r.requests++
	i.stats.inc(mapRequestsOut)
	return true
}

// innerSource returns an address of the EID's family: the ITR's RLOC or the
// host that asks (RFC 9301 section 5.8), whichever has it. Nothing is sent
// there, so with neither the unspecified address does.
func (i *itr) innerSource(q *query, dst netip.Addr) netip.Addr {
	if src, ok := i.source(dst); ok {
		return src.Addr()
	}
	if q.by.addr.IsValid() && q.by.addr.Is4() == dst.Is4() {
		return q.by.addr
	}
	if dst.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// fire handles the timer of q.
func (i *itr) fire(now time.Time, q *query) {
	if q.paused {
		i.finish(q)
		return
	}
	if n := len(q.attempts); n > 0 && !q.replied {
		q.attempts[n-1].resolver.unanswered(now)
	}
	q.replied = false
	switch {
	case !i.wanted(q):
		i.ended(now, q, ResolutionNeedless)
		i.finish(q)
	case q.tries > maxRetransmits:
		q.paused = true
		i.schedule(q, now.Add(pauseAfter))
		i.stats.inc(resolutionsGivenUp)
		i.ended(now, q, ResolutionGivenUp)
		i.log.Debug("no map-reply", "eid", q.eid, "tries", q.tries)
	default:
		i.transmit(now, q)
	}
}

// wanted reports whether q still needs an answer: for a miss, no other reply
// has covered it, and so for map data; for a cached entry, the entry is still
// there.
func (i *itr) wanted(q *query) bool {
	if q.why != forMiss && q.why != forMapData {
		_, ok := i.cache.Get(q.eid)
		return ok
	}
	rec, ok := i.cache.Lookup(q.eid.IID, q.eid.Prefix.Addr())
	return !ok || rec.Negative() && rec.Action == mapping.SendMapRequest
}

// advance does what is due at now.
func (i *itr) advance(now time.Time) {
	i.removed(now, i.cache.Expire(now), "it expired")
	for len(i.timers) > 0 && !i.timers[0].at.After(now) {
		i.fire(now, i.timers[0])
	}
	for e, at := range i.later {
		if !at.After(now) {
			delete(i.later, e)
			i.solicit(now, e)
		}
	}
}

// next returns when advance has something to do.
func (i *itr) next() (t time.Time, ok bool) {
	t, ok = i.cache.NextExpiry()
	if len(i.timers) > 0 && (!ok || i.timers[0].at.Before(t)) {
		t, ok = i.timers[0].at, true
	}
	for _, at := range i.later {
		if !ok || at.Before(t) {
			t, ok = at, true
		}
	}
	return t, ok
}

func (i *itr) schedule(q *query, at time.Time) {
	q.at = at
	heap.Fix(&i.timers, q.index)
}

// queryHeap is a heap.Interface by time, then age, whose queries know their
// place.
type queryHeap []*query

func (h queryHeap) Len() int { return len(h) }
func (h queryHeap) Less(i, j int) bool {
	if !h[i].at.Equal(h[j].at) {
		return h[i].at.Before(h[j].at)
	}
	return h[i].seq < h[j].seq
}
func (h queryHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}
func (h *queryHeap) Push(x any) {
	q := x.(*query)
	q.index = len(*h)
	*h = append(*h, q)
}
func (h *queryHeap) Pop() any {
	last := len(*h) - 1
	q := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return q
}
