package xtr

import (
	"cmp"
	"container/heap"
	"errors"
	"fmt"
	"iter"
	"math"
	"net/netip"
	"slices"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/auth"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// PubSub makes the xTR subscribe to the mappings that it asks for (RFC 9437),
// so that changes reach its map-cache at once. It needs Config.XTRID.
type PubSub struct {
	// Key is shared with the mapping system: it authenticates the Map-Notifies
	// and signs their acknowledgements.
	Key auth.Key
	// AcceptUnsolicited takes authentic publications of mappings that the xTR
	// did not subscribe to, as a map-server with subscriptions in its
	// configuration sends them (RFC 9437 section 5). The nonce of the first
	// one is taken as it comes, so after a restart an old one can be replayed.
	AcceptUnsolicited bool
}

func (c *Config) checkPubSub(bad func(string, ...any)) {
	if c.PubSub == nil {
		return
	}
	p := *c.PubSub
	c.PubSub = &p
	if c.XTRID == (mapping.XTRID{}) {
		bad("pubsub: needs an xtr_id")
	}
	if auth.Size(p.Key.Algorithm, false) == 0 {
		bad("pubsub: authentication_key: unknown %v", p.Key.Algorithm)
	}
	if len(p.Key.Secret) == 0 {
		bad("pubsub: authentication_key: the secret is empty")
	}
}

// subscriber keeps the subscriptions of the xTR. Without Config.PubSub it has
// none and does nothing.
//
// What an entry of the map-cache was learned with stays subscribed as long as
// the entry is there, which a refresh prolongs with a new subscription. When
// the entry goes, the xTR unsubscribes, but never inside a less-specific
// subscription that is alive: the map-server would then not publish the
// more-specific to that one either (RFC 9437 section 5).
//
// # Nonces
//
// A nonce must be above all that the EID-prefix has seen in either direction
// (section 5), also after a restart that forgot them, and no one off the path
// may guess it, as a Map-Reply may answer too (RFC 9301 section 5.3). Its high
// half is the time in seconds, its low half is random. Publications count up
// from the last nonce by one each, so the clock stays ahead of them for fewer
// than 2^32 a second; where it does not, as after it was set back, the nonce is
// a random step above the last one known. This goes beyond the "one more" of
// the RFC in the only direction that a map-server checks. If all that fails, a
// map-server drops the request as a replay: after subscribeTries the question
// goes on without a subscription.
type subscriber struct {
	part
	itr    *itr
	table  *mapping.Table[*subscription]
	timers subscriptionHeap
	// leaving are the subscriptions that the xTR is about to end, by the nonces
	// of the Map-Requests that say so.
	leaving map[uint64]*subscription
	leavers int
	// gone are the nonces of the Map-Requests that said so, of the last that
	// ended, in a ring: a confirmation comes again if its acknowledgement was
	// lost.
	gone   [64]uint64
	goneAt int
	// wanted are entries that were published and have no subscription of their
	// own, to be asked for when retry is reached.
	wanted []mapping.EID
	retry  time.Time
	// refused are the prefixes that the map-server refuses subscriptions to;
	// after refusedMax in a row, none is asked for until silent.
	refused  limiter[mapping.EID]
	refusals int
	silent   time.Time
}

// subscription is what the xTR knows of one.
type subscription struct {
	eid      mapping.EID
	last     uint64 // the last nonce accepted
	window   uint64 // bit n: last-n was accepted
	sent     uint64 // the last nonce sent for eid; 0: none
	negative bool   // to a hole: the map-server ends it by itself

	at    time.Time // when to look at it; zero for never
	index int       // in the heap, if at is set
	// tries and nonces are of the Map-Requests to unsubscribe.
	tries  int
	nonces []uint64
}

func newSubscriber(c *core, i *itr) *subscriber {
	return &subscriber{
		part: c.part(LogResolve), itr: i,
		table:   new(mapping.Table[*subscription]),
		leaving: make(map[uint64]*subscription),
		refused: newLimiter[mapping.EID](refusedFor, 1, limiterKeys),
	}
}

func (s *subscriber) on() bool { return s.cfg.PubSub != nil }

// wants reports whether the next Map-Request of q is to subscribe.
func (s *subscriber) wants(now time.Time, q *query) bool {
	if !s.on() || q.subscribes >= subscribeTries || now.Before(s.silent) {
		return false
	}
	if _, ok := s.table.Get(q.eid); !ok && s.table.Len() >= s.cfg.CacheLimit {
		s.stats.inc(subscriptionsTableFull)
		return false
	}
	if len(s.refused.young)+len(s.refused.old) == 0 {
		return true
	}
	for bits := q.eid.Prefix.Bits(); bits >= 0; bits-- {
		p, err := q.eid.Prefix.Addr().Prefix(bits)
		if err == nil && !s.refused.ready(now, mapping.EID{IID: q.eid.IID, Prefix: p}) {
			return false
		}
	}
	return true
}

// nonce returns one for a Map-Request about e that subscribes or unsubscribes:
// above floor and those of all subscriptions that it may be held against.
func (s *subscriber) nonce(now time.Time, e mapping.EID, floor uint64) (uint64, error) {
	random, err := s.core.nonce()
	if err != nil {
		return 0, err
	}
	for _, x := range s.table.Covering(e) {
		floor = max(floor, x.last, x.sent)
	}
	for _, x := range s.table.Covered(e) {
		floor = max(floor, x.last, x.sent)
	}
	if floor >= math.MaxUint64-1<<33 {
		floor = 0 // there is none above: the map-server needs a new key
	}
	seconds := max(now.Unix(), int64(s.cfg.NonceFloor/uint64(time.Second)))
	return max(uint64(seconds)<<32, floor+1) + random&math.MaxUint32, nil
}

// asking prepares the next transmission of q, which subscribes, and returns its
// nonce.
func (s *subscriber) asking(now time.Time, q *query) (uint64, error) {
	var floor uint64
	for _, a := range q.attempts {
		if a.subscribe {
			floor = max(floor, a.nonce)
		}
	}
	n, err := s.nonce(now, q.eid, floor)
	if err != nil {
		return 0, err
	}
	for _, x := range s.table.Covering(q.eid) {
		if x.tries > 0 { // it may be wanted again
			s.stayed(x)
			s.schedule(x, now.Add(lookAgain))
		}
	}
	if x, ok := s.table.Get(q.eid); ok {
		x.sent = n
	}
	q.subscribes++
	s.stats.inc(mapRequestsSubscribe)
	return n, nil
}

// plain notes that a Map-Reply answered a Map-Request that was to subscribe.
// Nobody will tell of changes of e then.
func (s *subscriber) plain(e mapping.EID) {
	if x, ok := s.table.Get(e); ok {
		s.forget(x)
	}
}

// refusal handles a Map-Reply to the transmission o of a query that refuses
// the subscription (RFC 9437 section 5). It reports whether answer is one:
// nothing else is taken from it, and the query goes on without a subscription.
func (s *subscriber) refusal(now time.Time, o outstanding, answer *mapping.Record, from netip.AddrPort) bool {
	if !o.q.attempts[o.n].subscribe || !answer.Negative() || answer.Action != mapping.DropPolicy && answer.Action != mapping.DropAuth {
		return false
	}
	s.refuse(now, subscriptionsRefused, from, fmt.Errorf("%v: %v", answer.EID, answer.Action))
	s.refused.take(now, answer.EID)
	s.refusals++
	if s.refusals >= refusedMax {
		s.refusals, s.silent = 0, now.Add(refusedFor)
	}
	o.q.subscribes = subscribeTries
	s.itr.again(now, o)
	return true
}

// notify handles a Map-Notify that was sent to the local address at, unless it
// is about the site's own EIDs.
func (s *subscriber) notify(now time.Time, msg []byte, from, at netip.AddrPort) (handled bool) {
	nonce, _ := wire.PeekNonce(msg)
	var m wire.MapNotify
	if err := m.Decode(msg); err != nil {
		s.stats.inc(mapNotifiesIn)
		s.refuse(now, controlMalformed, from, err)
		return true
	}
	recs, err := s.records(&m)
	o, asked := s.itr.nonces[nonce]
	x, leaving := s.leaving[nonce]
	if !asked && !leaving {
		if len(recs) == 0 && err == nil {
			return false
		}
		if len(recs) > 0 {
			if _, own := s.ownEID(recs[0].EID); own {
				return false
			}
		}
	}
	s.stats.inc(mapNotifiesIn)
	p := publication{m: &m, msg: msg, recs: recs, from: from, at: at}
	switch {
	case err != nil:
		s.refuse(now, controlMalformed, from, err)
	case asked && o.q.attempts[o.n].subscribe:
		s.subscribed(now, o, p)
	case asked:
		s.refuse(now, publicationsUnsolicited, from, nil)
	case leaving:
		if s.authentic(now, p) {
			s.acknowledge(p)
			s.stats.inc(subscriptionsLeft)
			for _, n := range x.nonces {
				s.gone[s.goneAt%len(s.gone)] = n
				s.goneAt++
			}
			s.over(now, x)
		}
	case nonce != 0 && slices.Contains(s.gone[:], nonce):
		if s.authentic(now, p) {
			s.stats.inc(publicationsDuplicate)
			s.acknowledge(p)
		}
	default:
		s.published(now, p)
	}
	return true
}

// publication is a received Map-Notify.
type publication struct {
	m        *wire.MapNotify
	msg      []byte
	recs     []*mapping.Record
	from, at netip.AddrPort
}

// records returns the records of m, those of a source left out: an ITR does
// not ask for them.
func (s *subscriber) records(m *wire.MapNotify) (recs []*mapping.Record, err error) {
	for r := range m.Records.All() {
		rec, err := r.Mapping()
		if err != nil {
			return recs, err
		}
		if rec.EID.Source.IsValid() {
			continue
		}
		recs = append(recs, rec)
	}
	return recs, nil
}

// errForeign is why a Map-Notify to another xTR is dropped.
var errForeign = errors.New("it is for another xtr-id")

// authentic checks who sent p. LISP-SEC has no part in it, also where the
// Map-Request was protected (RFC 9437 section 7.1).
func (s *subscriber) authentic(now time.Time, p publication) bool {
	k := s.cfg.PubSub.Key
	_, err := auth.Verify(p.msg, []auth.Key{k}, k.Algorithm)
	if err == nil && p.m.HasXTRID && p.m.XTRID != s.cfg.XTRID {
		err = errForeign
	}
	if err != nil {
		s.refuse(now, publicationsAuthFailed, p.from, err)
	}
	return err == nil
}

// acknowledge answers p with the same nonce and records.
func (s *subscriber) acknowledge(p publication) {
	m := *p.m
	m.Ack, m.Auth = true, s.cfg.PubSub.Key.Template()
	ack, ok := s.encode(&m)
	if !ok {
		return
	}
	if err := auth.Sign(ack, s.cfg.PubSub.Key); err != nil {
		s.stats.inc(sendErrors)
		s.log.Error("map-notify-ack could not be signed", "to", p.from, "err", err)
		return
	}
	s.send(p.at, p.from, ack)
	s.stats.inc(mapNotifyAcksOut)
}

// subscribed handles a Map-Notify that answers the transmission o of a query:
// the subscription is accepted (RFC 9437 section 5).
func (s *subscriber) subscribed(now time.Time, o outstanding, p publication) {
	if !s.authentic(now, p) {
		return
	}
	recs, answer, ok := s.itr.accept(now, o.q.eid, p.m.Records, nil, p.from)
	if !ok {
		return
	}
	s.refusals = 0
	sent := p.m.Nonce
	for _, a := range o.q.attempts {
		if a.subscribe {
			sent = max(sent, a.nonce)
		}
	}
	s.itr.answered(now, o, wire.TypeMapNotify, recs, answer, p.from)
	s.acknowledge(p)
	x := s.add(answer.EID)
	if x == nil {
		return
	}
	s.stats.inc(subscriptionsConfirmed)
	x.take(p.m.Nonce)
	x.sent, x.negative = max(x.sent, sent), answer.Negative()
	s.watch(now, x)
}

// add returns the subscription to e, a new one if there is none, or nil when the
// table is full.
func (s *subscriber) add(e mapping.EID) *subscription {
	if x, ok := s.table.Get(e); ok {
		return x
	}
	if s.table.Len() >= s.cfg.CacheLimit {
		s.stats.inc(subscriptionsTableFull)
		return nil
	}
	x := &subscription{eid: e, index: -1}
	ed := s.table.Edit(1)
	ed.Insert(e, x)
	s.table = ed.Table()
	return x
}

// take notes that n was accepted.
func (x *subscription) take(n uint64) {
	switch shift := n - x.last; {
	case n <= x.last:
		return
	case shift < 64:
		x.window = x.window<<shift | 1
	default:
		x.window = 1
	}
	x.last = n
}

// taken reports whether n was accepted not long ago.
func (x *subscription) taken(n uint64) bool {
	return n <= x.last && x.last-n < 64 && x.window>>(x.last-n)&1 == 1
}

// distance is how far n is from the nonces that x is at.
func (x *subscription) distance(n uint64) uint64 {
	d := max(n, x.last) - min(n, x.last)
	if x.sent != 0 {
		d = min(d, max(n, x.sent)-min(n, x.sent))
	}
	return d
}

// find returns the subscription that a publication about e belongs to: one to e
// or to what holds it, or one inside e, as a map-server publishes a covering
// mapping to those that have none of their own. Where there are several, the
// nonce tells which: each counts up by one from where it is, and they started
// from times of their own. What is more than nonceReach away from all belongs
// to none, so that a message recorded from one can't be played to another.
func (s *subscriber) find(e mapping.EID, nonce uint64) (best *subscription) {
	for x := range s.about(e) {
		if x.distance(nonce) < nonceReach && (best == nil || x.distance(nonce) < best.distance(nonce)) {
			best = x
		}
	}
	return best
}

// about walks the subscriptions to e, to what holds it, and to what is inside.
func (s *subscriber) about(e mapping.EID) iter.Seq[*subscription] {
	return func(yield func(*subscription) bool) {
		for _, x := range s.table.Covering(e) {
			if !yield(x) {
				return
			}
		}
		for _, x := range s.table.Covered(e) {
			if x.eid != e && !yield(x) {
				return
			}
		}
	}
}

// ends reports whether r is the last thing that a map-server says about x (RFC
// 9437 section 5).
func (x *subscription) ends(r *mapping.Record) bool {
	return r.EID == x.eid && r.TTL == 0 && r.Negative() && r.Action == mapping.DropAuth
}

// published handles a Map-Notify that answers nothing (RFC 9437 section 6).
func (s *subscriber) published(now time.Time, p publication) {
	nonce := p.m.Nonce
	x := s.find(p.recs[0].EID, nonce)
	if x == nil {
		if x = s.unsolicited(now, p); x == nil {
			return
		}
	}
	switch {
	case x.ends(p.recs[0]) && nonce >= x.last:
		if s.authentic(now, p) {
			s.acknowledge(p)
			s.stats.inc(subscriptionsEnded)
			s.log.Info("subscription ended by the map-server", "eid", x.eid)
			s.over(now, x)
		}
	case x.taken(nonce): // the acknowledgement was lost
		if s.authentic(now, p) {
			s.stats.inc(publicationsDuplicate)
			s.acknowledge(p)
		}
	case nonce <= x.last:
		s.refuse(now, publicationsReplayed, p.from, fmt.Errorf("%v: nonce %v, the last was %v", x.eid, hex(nonce), hex(x.last)))
	case s.authentic(now, p):
		x.take(nonce)
		s.stats.inc(publicationsIn)
		if x.tries == 0 { // else it is not wanted any more
			s.apply(now, x, p)
		}
		s.acknowledge(p)
		s.askWanted(now)
	}
}

// unsolicited handles a publication that no subscription is known for. It
// returns a new one, if it is to be taken.
func (s *subscriber) unsolicited(now time.Time, p publication) *subscription {
	e, nonce := p.recs[0].EID, p.m.Nonce
	for x := range s.about(e) {
		if nonce <= x.last {
			s.refuse(now, publicationsReplayed, p.from, fmt.Errorf("%v: nonce %v, the last was %v", x.eid, hex(nonce), hex(x.last)))
			return nil
		}
	}
	if !s.cfg.PubSub.AcceptUnsolicited || nonce == 0 {
		s.refuse(now, publicationsUnsolicited, p.from, nil)
		return nil
	}
	if !s.authentic(now, p) {
		return nil
	}
	x := s.add(e)
	if x != nil {
		x.last, x.window = nonce-1, 0
	}
	return x
}

// apply changes the map-cache as p says, which x is about.
func (s *subscriber) apply(now time.Time, x *subscription, p publication) {
	recs := slices.DeleteFunc(p.recs, func(r *mapping.Record) bool {
		_, own := s.ownEID(r.EID)
		if own || !x.eid.Covers(r.EID) && !r.EID.Covers(x.eid) {
			s.stats.inc(mapReplyRecordsRefused)
			return true
		}
		s.itr.sanitize(r)
		return false
	})
	for _, r := range recs {
		if r.TTL != 0 && r.EID != x.eid && r.EID.Covers(x.eid) {
			// What was subscribed to has no mapping of its own any more.
			for _, e := range s.itr.superseded(x.eid, r.EID, recs) {
				s.itr.removed(now, s.itr.cache.Delete(e), "a mapping that covers it was published")
			}
		}
		if x.negative && r.TTL != 0 && !r.Negative() {
			s.want(now, r.EID)
		}
		s.log.Debug("mapping published", "eid", r.EID, "ttl", r.TTL, "locators", locatorText{r}, "nonce", hex(p.m.Nonce))
	}
	s.itr.install(now, recs)
}

// want has e subscribed to, which was published to who asked for the hole that
// it appeared in: that subscription ends soon.
func (s *subscriber) want(now time.Time, e mapping.EID) {
	if len(s.wanted) >= maxWanted {
		s.stats.inc(subscriptionsTableFull)
		return
	}
	if len(s.wanted) == 0 {
		s.retry = now
	}
	s.wanted = append(s.wanted, e)
}

// askWanted subscribes to what is wanted, as far as the limits allow.
func (s *subscriber) askWanted(now time.Time) {
	for ; len(s.wanted) > 0 && !now.Before(s.retry); s.wanted = s.wanted[1:] {
		e := s.wanted[0]
		_, cached := s.itr.cache.Get(e)
		x, ok := s.table.Get(e)
		if !cached || s.itr.queries[e] != nil || ok && !x.negative || len(s.cfg.MapResolvers) == 0 {
			continue
		}
		if !s.itr.spacing.ready(now, e) || !s.itr.mayRefresh() {
			s.retry = now.Add(requestSpacing)
			return
		}
		s.stats.inc(mapRequestsRefresh)
		s.itr.ask(now, &query{eid: e, why: forRefresh})
	}
}

// watch says when to look at x next, which was just confirmed.
func (s *subscriber) watch(now time.Time, x *subscription) {
	s.stayed(x)
	if x.negative {
		s.schedule(x, now.Add(holeLife))
		return
	}
	s.schedule(x, time.Time{})
}

// stayed takes back that the xTR leaves x.
func (s *subscriber) stayed(x *subscription) {
	for _, n := range x.nonces {
		delete(s.leaving, n)
	}
	if x.tries > 0 {
		s.leavers--
	}
	x.nonces, x.tries = nil, 0
}

// left notes that the entry of e left the map-cache; hold is how long it is
// still of interest.
func (s *subscriber) left(now time.Time, e mapping.EID, hold time.Duration) {
	if x, ok := s.table.Get(e); ok && !x.negative && x.tries == 0 {
		s.schedule(x, now.Add(hold))
	}
}

// look decides what becomes of x, whose time has come.
func (s *subscriber) look(now time.Time, x *subscription) {
	_, cached := s.itr.cache.Get(x.eid)
	switch {
	case cached && x.negative:
		s.schedule(x, now.Add(lookAgain))
	case cached && x.tries == 0:
		s.schedule(x, time.Time{})
	case x.negative:
		s.forget(x)
	case x.tries >= leaveTries, len(s.cfg.MapResolvers) == 0:
		s.over(now, x)
	case x.tries == 0 && s.inside(x):
		s.schedule(x, now.Add(lookAgain))
	case !s.itr.spacing.ready(now, x.eid):
		s.schedule(x, now.Add(requestSpacing))
	default:
		s.unsubscribe(now, x)
	}
}

// inside reports whether there is a less-specific subscription than x.
func (s *subscriber) inside(x *subscription) bool {
	for e := range s.table.Covering(x.eid) {
		if e != x.eid {
			return true
		}
	}
	return false
}

// unsubscribe sends a Map-Request that ends x: its only ITR-RLOC is no address,
// so that the answer goes to the inner source (RFC 9437 section 5).
func (s *subscriber) unsubscribe(now time.Time, x *subscription) {
	s.schedule(x, now.Add(leaveSpacing))
	if x.tries++; x.tries == 1 {
		s.leavers++
	}
	n, err := s.nonce(now, x.eid, 0)
	if err == nil && s.used(n) {
		return // the next one draws again
	}
	i := s.itr
	r := i.resolvers.pick(now, nil)
	resolver := r.addr
	var security []byte
	if err == nil {
		var secure *protection
		if secure, security, err = i.protect(&query{eid: x.eid}, resolver, n); secure != nil {
			*secure = protection{} // no Map-Reply is waited for
		}
	}
	if err != nil {
		s.stats.inc(sendErrors)
		s.log.Error("map-request not sent", "eid", x.eid, "err", err)
		return
	}
	x.sent, x.nonces = n, append(x.nonces, n)
	s.leaving[n] = x
	i.spacing.take(now, x.eid)
	req := wire.MapRequest{
		Nonce:    n,
		ITRRLOCs: []wire.Address{{}},
		EIDs:     []wire.RequestRecord{wire.NewRequestRecord(x.eid)},
	}
	s.identify(&req)
	dst := netip.AddrPortFrom(x.eid.Prefix.Addr(), wire.Port)
	src, ok := s.source(dst.Addr())
	if !ok { // the answer matters more than what the inner destination says
		dst = resolver
		src, _ = s.source(dst.Addr())
	}
	if i.sendRequest(&req, r, 0, src, dst, security) {
		s.stats.inc(mapRequestsUnsubscribe)
		s.log.Debug("unsubscribed", "eid", x.eid, "map_resolver", resolver, "nonce", hex(n), "try", x.tries)
	}
}

// identify makes m subscribe, with the IDs of this xTR (RFC 9437 section 4).
func (s *subscriber) identify(m *wire.MapRequest) {
	m.HasXTRID, m.XTRID, m.SiteID = true, s.cfg.XTRID, s.cfg.SiteID
	m.EIDs[0].Subscribe = true
}

// used reports whether n stands for something already.
func (s *subscriber) used(n uint64) bool {
	_, leaving := s.leaving[n]
	_, asked := s.itr.nonces[n]
	return leaving || asked
}

// over removes x, and from the map-cache what nobody tells of any more: the
// entry, and those more-specifics that were published and have no subscription
// of their own. Packets to them ask again.
func (s *subscriber) over(now time.Time, x *subscription) {
	s.forget(x)
	var gone []mapping.EID
	for e := range s.itr.cache.Covered(x.eid) {
		if _, _, ok := s.table.LookupPrefix(e.Record.EID); !ok {
			gone = append(gone, e.Record.EID)
		}
	}
	for _, e := range gone {
		s.itr.removed(now, s.itr.cache.Delete(e), "its subscription ended")
	}
}

// forget removes x.
func (s *subscriber) forget(x *subscription) {
	s.stayed(x)
	s.schedule(x, time.Time{})
	ed := s.table.Edit(1)
	ed.Delete(x.eid)
	s.table = ed.Table()
}

// active is the number of subscriptions that the xTR is not leaving.
func (s *subscriber) active() int { return s.table.Len() - s.leavers }

// advance does what is due at now.
func (s *subscriber) advance(now time.Time) {
	for len(s.timers) > 0 && !s.timers[0].at.After(now) {
		s.look(now, s.timers[0])
	}
	s.askWanted(now)
}

// next returns when advance has something to do.
func (s *subscriber) next() (t time.Time, ok bool) {
	if len(s.wanted) > 0 {
		t, ok = s.retry, true
	}
	if len(s.timers) > 0 && (!ok || s.timers[0].at.Before(t)) {
		return s.timers[0].at, true
	}
	return t, ok
}

// schedule has x looked at at a time, or never if that is zero.
func (s *subscriber) schedule(x *subscription, at time.Time) {
	x.at = at
	switch {
	case x.index < 0 && !at.IsZero():
		heap.Push(&s.timers, x)
	case x.index >= 0 && at.IsZero():
		heap.Remove(&s.timers, x.index)
	case x.index >= 0:
		heap.Fix(&s.timers, x.index)
	}
}

// subscriptionHeap is a heap.Interface by time, then EID, whose subscriptions
// know their place.
type subscriptionHeap []*subscription

func (h subscriptionHeap) Len() int { return len(h) }
func (h subscriptionHeap) Less(i, j int) bool {
	return cmp.Or(h[i].at.Compare(h[j].at), h[i].eid.Compare(h[j].eid)) < 0
}
func (h subscriptionHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}
func (h *subscriptionHeap) Push(v any) {
	x := v.(*subscription)
	x.index = len(*h)
	*h = append(*h, x)
}
func (h *subscriptionHeap) Pop() any {
	last := len(*h) - 1
	x := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	x.index = -1
	return x
}
