package server

import (
	"bytes"
	"container/list"
	"context"
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

// PubSub says who may subscribe to mappings (RFC 9437). Without subscribers
// the N bit of a Map-Request is ignored, as a map-server of RFC 9301 does.
//
// The security association of each is a key shared beforehand; none is derived
// from a LISP-SEC one-time key. The map-resolver that must be trusted is the
// server's own: Map-Requests that others forwarded subscribe for an xTR only if
// they name its xTR-ID, which nobody can guess, and its locators.
type PubSub struct {
	Subscribers []Subscriber
	// MaxPerXTR bounds the subscriptions of one xTR, those that ended and
	// whose nonce is kept included; 0 takes the default, 16384. Those that
	// ended first make room; beyond that the xTR gets Map-Replies.
	MaxPerXTR int
	// Rate is how many Map-Notifies that nobody waits for are sent a second,
	// retransmissions not counted; 0 takes the default, 2000. What can't go
	// out at once waits, and then carries the mapping as it is by then.
	Rate int
}

// Subscriber is an xTR that may subscribe.
type Subscriber struct {
	XTRID  mapping.XTRID
	SiteID uint64
	// Key authenticates the Map-Notifies and their acknowledgements. Without
	// a secret there is no security association, and subscriptions are
	// refused as RFC 9437 section 5 says for that (ACT 5).
	Key auth.Key
	// ITRRLOCs are the prefixes that its locators must be in; none means any.
	ITRRLOCs []netip.Prefix
}

// Defaults and limits of our own.
const (
	defaultMaxPerXTR = 16384
	defaultPubRate   = 2000
	// temporaryTTL is the life of a subscription to a hole (RFC 9437
	// section 5).
	temporaryTTL = 15 * time.Minute
	// maxDue bounds the publications of one subscriber that wait, the first of
	// each of its subscriptions not counted. Who has more is not kept up with:
	// its subscription ends, and it is told so.
	maxDue = 8192
	// subscribeQueue is the number of subscriptions that may wait.
	subscribeQueue = 1024
	// maxVerified bounds the verified locators of a subscriber.
	maxVerified = 256
	// nonceGap is what the first publication after a start skips of the nonces
	// of its subscription: those of the last second before a crash may not be
	// on disk.
	nonceGap = 1 << 20
)

func (c *Config) validatePubSub(fail func(string, ...any)) {
	seen := make(map[mapping.XTRID]bool)
	for _, x := range c.PubSub.Subscribers {
		switch {
		case x.XTRID == (mapping.XTRID{}):
			fail("pubsub: a subscriber has no xTR-ID")
		case seen[x.XTRID]:
			fail("pubsub: the xTR-ID %x is there twice", x.XTRID[:])
		case len(x.Key.Secret) > 0 && auth.Size(x.Key.Algorithm, false) == 0:
			fail("pubsub: subscriber %x: unknown %v", x.XTRID[:], x.Key.Algorithm)
		}
		seen[x.XTRID] = true
		for _, p := range x.ITRRLOCs {
			if !p.IsValid() {
				fail("pubsub: subscriber %x: an ITR-RLOC prefix is not valid", x.XTRID[:])
			}
		}
	}
	if c.PubSub.MaxPerXTR < 0 || c.PubSub.Rate < 0 {
		fail("pubsub: a limit is negative")
	}
}

// pubsub is the state of all subscriptions, under Server.mu but for the map of
// subscribers, which is constant.
type pubsub struct {
	subscribers map[mapping.XTRID]*subscriber
	maxPerXTR   int

	table     *mapping.Table[map[mapping.XTRID]*subscription]
	size      int         // active subscriptions
	temporary []temporary // in the order they were agreed on, which is about that of their ends
	unsaved   map[*subscription]bool
}

// temporary is the end of a temporary subscription, unless it was renewed.
type temporary struct {
	x     *subscription
	until age
}

// subscriber is an xTR with what it is subscribed to.
type subscriber struct {
	Subscriber
	kept, active int       // subscriptions whose nonce is kept, and those of them that are active
	over         list.List // those that ended, the oldest in front
	// floor is the highest nonce of those that were forgotten, for lack of room:
	// what has no nonce of its own must be above it.
	floor uint64
	// verified are locators that it acknowledged a Map-Notify from, so that it
	// is really there; at most maxVerified.
	verified map[netip.Addr]bool

	// Under notices: the publications that wait, the Map-Notifies that are on
	// the way, the subscriptions that have something to say, and whether it has
	// its turn to wait for.
	due, onWay int
	ready      []*subscription
	waits      bool
}

// allows reports whether a is one of the xTR's locators.
func (x *subscriber) allows(a netip.Addr) bool {
	return len(x.ITRRLOCs) == 0 || slices.ContainsFunc(x.ITRRLOCs, func(p netip.Prefix) bool { return p.Contains(a) })
}

// subscription is that of one xTR to one EID-prefix. It outlives its end, to
// keep the nonce, and to keep a more-specific that was unsubscribed from being
// published to who is subscribed to a less-specific.
//
// A Map-Request proves nothing but that its sender knows the xTR-ID. So nonce,
// locators and end of a subscription are those that the xTR last acknowledged,
// which takes its key; until then, what it asks for is a claim of the Map-Notify
// that confirms it, and publications wait.
type subscription struct {
	by    *subscriber
	eid   mapping.EID
	nonce uint64 // the last in either direction; 0: nothing was ever acknowledged
	skip  uint64 // what the next publication adds to it
	asked uint64 // that of the confirmation on the way, or 0
	ended bool
	left  bool // it ended because the xTR wanted it; forgotten with a restart
	// unsure: the xTR has acknowledged nothing since it began.
	unsure bool
	stored bool // the store has it, so its nonce is kept
	until  age  // end of a temporary one; 0: none
	rlocs  []netip.Addr
	local  netip.AddrPort // our address that it was asked at; not valid after a restart
	since  age            // when it began or, if it ended, ended
	over   *list.Element  // of by.over

	// Under notices: the Map-Notify that is on the way, the EIDs to publish
	// after it, in order, which those are, and whether it is in by.ready.
	onWay  *notice
	due    []mapping.EID
	queued map[mapping.EID]bool
	waits  bool
}

// last is what a nonce must be above.
func (x *subscription) last() uint64 { return max(x.nonce, x.asked) }

// claim is what a Map-Notify to a subscriber makes of a subscription when it is
// acknowledged; without locators, that ends. A publication makes nothing.
type claim struct {
	x     *subscription
	rlocs []netip.Addr
	until age
}

func newPubSub(c PubSub) pubsub {
	p := pubsub{
		subscribers: make(map[mapping.XTRID]*subscriber),
		maxPerXTR:   c.MaxPerXTR,
		table:       new(mapping.Table[map[mapping.XTRID]*subscription]),
		unsaved:     make(map[*subscription]bool),
	}
	if p.maxPerXTR == 0 {
		p.maxPerXTR = defaultMaxPerXTR
	}
	for _, x := range c.Subscribers {
		p.subscribers[x.XTRID] = &subscriber{Subscriber: x, verified: make(map[netip.Addr]bool)}
	}
	return p
}

func (x *subscription) item() mapping.Item {
	it := mapping.Item{Kind: mapping.ItemSubscription, EID: x.eid, By: x.by.registrant(), Nonce: x.nonce}
	if !x.ended {
		it.RLOCs = x.rlocs
	}
	return it
}

// restoreSubscription puts back what the store holds, and has its mapping
// published: a change before the crash may not have been. An xTR that is not
// configured any more, or has no key, loses its subscriptions.
func (s *Server) restoreSubscription(it mapping.Item) {
	by := s.pubsub.known(it.By)
	if by == nil {
		s.remove(it)
		return
	}
	x := &subscription{by: by, eid: it.EID, nonce: it.Nonce, stored: true}
	for _, a := range it.RLOCs {
		if by.allows(a) && s.canSend(a) {
			x.rlocs = append(x.rlocs, a)
			// Whether it is there is not known any more: enough credit to try.
			s.credits.of(a).spend(s.maxReply4, 0)
		}
	}
	if x.ended = len(x.rlocs) == 0; !x.ended {
		x.skip = nonceGap
	}
	s.pubsub.insert(x)
	if len(x.rlocs) < len(it.RLOCs) {
		s.put(x.item())
	}
	if !x.ended {
		s.notices.publish(x, x.eid)
	}
}

// floorItem is by's floor in the store: a nonce of no site.
func (x *subscriber) floorItem() mapping.Item {
	return mapping.Item{Kind: mapping.ItemNonce, By: x.registrant(), Nonce: x.floor}
}

// restoreFloor puts back what the store holds of floorItem.
func (s *Server) restoreFloor(it mapping.Item) {
	if by := s.pubsub.known(it.By); by != nil {
		by.floor = it.Nonce
	} else {
		s.remove(it)
	}
}

// known returns the subscriber that what is stored for id belongs to, or nil.
func (p *pubsub) known(id mapping.Registrant) *subscriber {
	if by := p.subscribers[id.XTRID]; by != nil && by.registrant() == id && len(by.Key.Secret) > 0 {
		return by
	}
	return nil
}

// verify notes that the xTR is at a, and forgets another where there are too
// many.
func (x *subscriber) verify(a netip.Addr) {
	if len(x.verified) >= maxVerified && !x.verified[a] {
		for b := range x.verified {
			delete(x.verified, b)
			break
		}
	}
	x.verified[a] = true
}

// insert adds a subscription, which must not be there.
func (p *pubsub) insert(x *subscription) {
	m, ok := p.table.Get(x.eid)
	if !ok {
		m = make(map[mapping.XTRID]*subscription)
		ed := p.table.Edit(1)
		ed.Insert(x.eid, m)
		p.table = ed.Table()
	}
	m[x.by.XTRID] = x
	x.by.kept++
	if x.ended {
		x.over = x.by.over.PushBack(x)
	} else {
		x.by.active++
		p.size++
	}
}

// begin makes x active again.
func (p *pubsub) begin(x *subscription) {
	x.by.over.Remove(x.over)
	x.over, x.ended, x.left, x.unsure = nil, false, false, true
	x.by.active++
	p.size++
}

// forget removes x and its nonce.
func (p *pubsub) forget(x *subscription) {
	m, _ := p.table.Get(x.eid)
	if m[x.by.XTRID] != x {
		return // it was forgotten before
	}
	delete(m, x.by.XTRID)
	x.by.kept--
	x.by.over.Remove(x.over)
	if len(m) == 0 {
		ed := p.table.Edit(1)
		ed.Delete(x.eid)
		p.table = ed.Table()
	}
}

// end makes x inactive, and keeps its nonce if there is one to keep.
func (s *Server) end(now time.Time, x *subscription) {
	s.notices.drop(x)
	x.since, x.asked = s.age(now), 0
	if !x.ended {
		x.ended = true
		x.over = x.by.over.PushBack(x)
		x.by.active--
		s.pubsub.size--
	}
	delete(s.pubsub.unsaved, x)
	switch {
	case x.stored && x.nonce != 0:
		s.put(x.item())
		return
	case x.stored:
		s.remove(x.item())
	}
	s.pubsub.forget(x)
}

// makeRoom reports whether by may have one more subscription. The one that
// ended first goes for it; the floor keeps its Map-Requests from being replayed
// (RFC 9437 section 5).
func (s *Server) makeRoom(by *subscriber) bool {
	for el := by.over.Front(); by.kept >= s.pubsub.maxPerXTR; el = by.over.Front() {
		for el != nil && el.Value.(*subscription).asked != 0 {
			el = el.Next()
		}
		if el == nil {
			s.counters.inc(subscriptionsTooMany)
			return false
		}
		x := el.Value.(*subscription)
		by.floor = max(by.floor, x.nonce)
		s.put(by.floorItem())
		s.remove(x.item())
		s.pubsub.forget(x)
	}
	return true
}

// get returns the subscription of an xTR to exactly e, ended or not, or nil.
func (p *pubsub) get(e mapping.EID, id mapping.XTRID) *subscription {
	m, _ := p.table.Get(e)
	return m[id]
}

// subscribe is a Map-Request that wants to subscribe or unsubscribe, whole as
// it was received.
type subscribe struct {
	msg      []byte
	src, dst netip.AddrPort
}

// unsubscribes reports whether m ends a subscription: its one ITR-RLOC is no
// address (RFC 9437 section 5).
func unsubscribes(m *wire.MapRequest) bool { return len(m.ITRRLOCs) == 1 && m.ITRRLOCs[0].IsZero() }

// confirmTo returns where the Map-Notify that confirms what m asks for can go:
// to its ITR-RLOCs, or to who unsubscribes.
func (s *Server) confirmTo(m *wire.MapRequest, q *request) (to []netip.AddrPort) {
	add := func(a netip.AddrPort) {
		if s.canSend(a.Addr()) && checkRLOC(a.Addr(), q.from.Addr().IsLoopback()) == nil {
			to = append(to, a)
		}
	}
	if unsubscribes(m) {
		add(q.src)
		return to
	}
	for _, a := range m.ITRRLOCs {
		if ip, ok := a.IP(); ok {
			add(netip.AddrPortFrom(ip, wire.Port))
		}
	}
	return to
}

// permit says what a reader does with a record that has the N bit: subscribe,
// or refuse with an action (RFC 9437 section 5).
func (r *reader) permit(q *request) (refusal mapping.Action, ok bool) {
	m := &r.req
	x := r.s.pubsub.subscribers[m.XTRID]
	if !m.HasXTRID || x == nil || x.SiteID != m.SiteID {
		return mapping.DropPolicy, false
	}
	for _, a := range m.ITRRLOCs {
		if ip, isIP := a.IP(); isIP && !x.allows(ip) {
			return mapping.DropPolicy, false
		}
	}
	if unsubscribes(m) && !x.allows(q.src.Addr()) || len(r.s.confirmTo(m, q)) == 0 {
		return mapping.DropPolicy, false
	}
	if len(x.Key.Secret) == 0 || m.Nonce == math.MaxUint64 {
		// A nonce that can't be followed by another one needs a new
		// association, too.
		return mapping.DropAuth, false
	}
	return mapping.NoAction, true
}

// subscribes handles a Map-Request with the N bit as far as a reader can:
// whether the xTR may subscribe. It reports false for one that is to be answered
// as any other. What is refused is refused for all its records.
func (r *reader) subscribes(q *request) bool {
	m := &r.req
	if !slices.ContainsFunc(m.EIDs, func(rec wire.RequestRecord) bool { return rec.Subscribe }) {
		return false
	}
	action, ok := r.permit(q)
	if !ok {
		r.refuseSubscription(q, action)
		return true
	}
	select {
	case r.s.subscriptions <- subscribe{bytes.Clone(q.outer), q.from, q.local}:
		return true
	default:
		r.s.counters.inc(subscribeQueueFull)
		return false
	}
}

// refuseSubscription answers with a negative Map-Reply: to an ITR-RLOC, or to
// who wanted to unsubscribe.
func (r *reader) refuseSubscription(q *request, action mapping.Action) {
	s, m := r.s, &r.req
	s.counters.inc(subscriptionsRefused)
	to := s.itrRLOC(m, *q)
	if where := s.confirmTo(m, q); unsubscribes(m) && len(where) > 0 {
		to = where[0].Addr()
	}
	if !to.IsValid() {
		s.counters.inc(dropNoITRRLOC)
		return
	}
	reply := reply{r: r, dst: netip.AddrPortFrom(to, q.src.Port()), secured: q.secured, limit: s.maxReply6}
	if to.Is4() {
		reply.limit = s.maxReply4
	}
	reply.credit, reply.received = s.credits.of(to), onWire(q.octets, q.from.Addr())
	reply.limit = min(reply.limit, reply.credit.available(reply.received)-onWire(0, to))
	for _, rec := range m.EIDs {
		e, err := rec.EID.EID(rec.MaskLen)
		if err != nil || !s.replies.allow(s.age(q.now), to, e) {
			continue
		}
		r.made = mapping.Record{EID: e, TTL: mapping.NegativeTTL, Action: action}
		r.found = append(r.found[:0], &r.made)
		reply.add()
	}
	reply.send(q.local)
}

// ack is a received Map-Notify-Ack.
type ack struct {
	msg []byte
	src netip.AddrPort
}

// acknowledgement queues a Map-Notify-Ack for the writer.
func (r *reader) acknowledgement(now time.Time, msg []byte, src netip.AddrPort) {
	s := r.s
	if !s.ackLimiter.allow(s.age(now), src.Addr(), 1) {
		s.counters.inc(dropRateLimited)
		return
	}
	select {
	case s.acks <- ack{bytes.Clone(msg), src}:
	default:
		s.counters.inc(dropAckQueueFull)
	}
}

// acknowledge takes Map-Notify-Acks.
func (s *Server) acknowledge(now time.Time, batch []ack) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range batch {
		s.notices.acknowledged(now, a.msg, a.src)
	}
}

// advance sends the Map-Notifies that are due at now, and says when it has
// something to do again; ok is false for never.
func (s *Server) advance(now time.Time) (out []datagram, next time.Time, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.notices.advance(now)
	next, ok = s.notices.next()
	return s.notices.take(), next, ok
}

// subscribeAll processes subscriptions, and returns the Map-Replies to those that
// are answered by one, valid until the next call. The Map-Notifies are notices'.
func (s *Server) subscribeAll(ctx context.Context, now time.Time, batch []subscribe) []datagram {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.writer
	r.begin()
	var confirmations []*confirmation
	for _, op := range batch {
		if c := s.subscribe(now, r, op); c != nil {
			confirmations = append(confirmations, c)
		}
	}
	err := s.commit(ctx)
	for _, c := range confirmations {
		if err != nil {
			for _, cl := range c.claims {
				s.disclaim(now, cl.x)
			}
			continue
		}
		s.notices.confirm(now, c)
		for _, cl := range c.claims {
			if len(cl.rlocs) > 0 {
				s.tellSubscription(now, EventSubscribed, cl.x, "")
			}
		}
	}
	return r.out
}

// confirmation is what a Map-Notify that answers a Map-Request says, and where
// it goes.
type confirmation struct {
	by     *subscriber
	nonce  uint64
	claims []claim
	recs   []*mapping.Record
	to     []netip.AddrPort
	local  netip.AddrPort
}

// subscribe processes one message, and returns what to send when the store has
// it.
func (s *Server) subscribe(now time.Time, r *reader, op subscribe) *confirmation {
	q := request{now: now, outer: op.msg, msg: op.msg, octets: len(op.msg), from: op.src, src: op.src, local: op.dst}
	secured := false
	if t, _ := wire.PeekType(op.msg); t == wire.TypeECM {
		if r.ecm.Decode(op.msg) != nil {
			return nil // can't be: a reader decoded it
		}
		q.msg, q.src, secured = r.ecm.Message, r.ecm.Src, r.ecm.Security
	}
	m := &r.req
	if m.Decode(q.msg) != nil {
		return nil
	}
	c := &confirmation{by: s.pubsub.subscribers[m.XTRID], nonce: m.Nonce, to: s.confirmTo(m, &q), local: op.dst}
	// What the Map-Request earned goes to where the answer goes, as with a
	// Map-Reply, and bounds it.
	first := c.to[0].Addr()
	credit, received := s.credits.of(first), onWire(len(op.msg), op.src.Addr())
	room := s.maxReply6
	if first.Is4() {
		room = s.maxReply4
	}
	if !c.by.verified[first] {
		room = min(room, credit.available(received)-onWire(0, first))
	}
	room -= notifyOverhead
	plain := false // one of them needs an ordinary answer
	for _, rec := range m.EIDs {
		e, err := rec.EID.EID(rec.MaskLen)
		if err != nil || !rec.Subscribe || !secured && s.security.demanding && s.security.policy(e.IID) == auth.SecurityRequired {
			plain = plain || err == nil
			continue
		}
		recs, ok := s.claimed(now, r, m, e, room, c)
		plain = plain || !ok
		for _, rec := range recs {
			room -= recordSize(rec)
		}
		c.recs = append(c.recs, recs...)
	}
	if len(c.claims) == 0 {
		if plain {
			r.plain(now, op)
		}
		return nil
	}
	credit.spend(received, 0)
	return c
}

// claimed adds to c the claim on e of the Map-Request m, and returns the records
// to confirm it with, of at most limit octets in a Map-Reply. ok is false if e
// needs an ordinary answer.
//
// A subscription that there is to exactly e is meant, whatever answers for it
// now; a new one is to the EID-prefix that answers.
func (s *Server) claimed(now time.Time, r *reader, m *wire.MapRequest, e mapping.EID, limit int, c *confirmation) (recs []*mapping.Record, ok bool) {
	by, leaves := c.by, unsubscribes(m)
	answers := r.resolve(s.table.Load(), e, false, limit) == nil && !r.across() &&
		!(r.found[0].Negative() && (r.found[0].Action == mapping.DropPolicy || r.found[0].Action == mapping.SendMapRequest))
	x := s.pubsub.get(e, by.XTRID)
	key := e
	switch {
	case answers && x == nil && !leaves:
		key = r.found[0].EID
		x = s.pubsub.get(key, by.XTRID)
	case !answers && !leaves:
		// An ETR or another map-server answers, and nobody would tell us of changes; or nobody may
		// know.
		return nil, false
	}
	if slices.ContainsFunc(c.claims, func(c claim) bool { return c.x == x }) {
		return nil, true
	}
	if x == nil && m.Nonce <= by.floor || x != nil && m.Nonce <= x.last() {
		s.counters.inc(refusedSubscriptionReplay)
		if s.mayLog(now) {
			s.log.Warn("subscription dropped: its nonce is not new", "eid", key, "xtr", fmt.Sprintf("%x", by.XTRID[:]), "to", c.to[0], "suppressed", s.suppressed.Swap(0))
		}
		return nil, true
	}
	recs = []*mapping.Record{{EID: key}}
	if answers {
		recs = cut(r.found, key)
	}
	size := replyHeader
	for _, rec := range recs {
		size += recordSize(rec)
	}
	if len(c.claims) > 0 && size > limit {
		s.counters.inc(dropTooLarge)
		return nil, false
	}
	if (x == nil || x.onWay == nil) && s.notices.busy(by) {
		s.counters.inc(subscriptionsTooMany)
		return nil, false
	}
	if x == nil {
		if !s.makeRoom(by) {
			return nil, false
		}
		x = &subscription{by: by, eid: key, since: s.age(now), ended: leaves, unsure: true}
		s.pubsub.insert(x)
	} else if x.ended && !leaves {
		x.since = s.age(now)
		s.pubsub.begin(x)
	}
	x.asked = m.Nonce
	cl := claim{x: x}
	if !leaves {
		s.counters.inc(subscriptions)
		for _, a := range c.to {
			cl.rlocs = append(cl.rlocs, a.Addr())
		}
		// One that began within the last minute keeps its end, so that who asks
		// over and over makes no list grow.
		if _, _, known := lookup(s.table.Load(), key); !known {
			if cl.until = x.until; cl.until < s.age(now)+age(temporaryTTL-time.Minute) {
				cl.until = s.age(now) + age(temporaryTTL)
			}
		}
		if x.unsure {
			s.grant(cl, c.local)
		}
	}
	if x.stored = x.stored || cl.until == 0; x.stored {
		it := x.item()
		it.Nonce, it.RLOCs = m.Nonce, cl.rlocs
		s.put(it)
		delete(s.pubsub.unsaved, x)
	}
	s.log.Debug("subscription", "eid", key, "xtr", fmt.Sprintf("%x", by.XTRID[:]), "active", !leaves, "temporary", cl.until != 0)
	c.claims = append(c.claims, cl)
	return recs, true
}

// cut returns copies of recs as they are for e: what holds it, only for it, and
// nothing beside it.
func cut(recs []*mapping.Record, e mapping.EID) (out []*mapping.Record) {
	for _, r := range recs {
		c := *r
		if r.EID.Covers(e) {
			c.EID = e
		}
		if e.Covers(c.EID) {
			out = append(out, &c)
		}
	}
	return out
}

// grant gives x the locators and the end that it claims.
func (s *Server) grant(c claim, local netip.AddrPort) {
	x := c.x
	x.rlocs, x.local = c.rlocs, local
	if x.until != c.until && c.until != 0 {
		s.pubsub.temporary = append(s.pubsub.temporary, temporary{x, c.until})
	}
	x.until = c.until
}

// agreed makes a claim true, which the xTR acknowledged.
func (s *Server) agreed(now time.Time, c claim, nonce uint64, local netip.AddrPort) {
	x := c.x
	x.nonce, x.skip, x.asked, x.unsure = nonce, 0, 0, false
	if len(c.rlocs) > 0 {
		s.grant(c, local)
		return
	}
	s.counters.inc(unsubscriptions)
	s.tellSubscription(now, EventUnsubscribed, x, "the xTR wanted it")
	x.left = true
	s.end(now, x)
}

// disclaim takes back what x would have become: nobody acknowledged it, or the
// store did not take it.
func (s *Server) disclaim(now time.Time, x *subscription) {
	x.asked = 0
	switch m := x.onWay; {
	case m != nil && len(m.eids) == 0:
		x.asked = m.nonce // an earlier one can still be acknowledged
	case x.unsure:
		s.end(now, x)
	case x.stored:
		s.put(x.item())
	}
	s.notices.ready(x)
}

// plain answers a message as if it had not asked to subscribe.
func (r *reader) plain(now time.Time, op subscribe) {
	r.ordinary = true
	r.take(now, op.msg, op.src, op.dst)
	r.ordinary = false
}

// publishAll notes who must hear of which of the touched EIDs.
func (s *Server) publishAll(now time.Time, old, t *table, touched []mapping.EID) {
	if s.pubsub.size == 0 {
		return
	}
	for _, e := range touched {
		if a, b := s.answered(old, e), s.answered(t, e); a != b && (a == nil || b == nil || !a.Equal(b)) {
			s.publish(now, old, t, e)
		}
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// answered returns the record that Map-Requests for e get by proxy, or nil.
func (s *Server) answered(t *table, e mapping.EID) *mapping.Record {
	v, ok := t.Get(e)
	if !ok {
		return nil
	}
	rec, origin := v.current()
	if n, isNode := v.(*node); origin == OriginNone || isNode && (n.forward || origin == OriginRegistered && n.prefix != nil && n.prefix.Requests != RequestsAllowed) {
		return nil
	}
	return rec
}

// said returns what is published to x about e, which lies in it: what the table
// has for e, and for all of x, what answers for it. With TTL 0 there is nothing
// (RFC 9437 section 5).
func (s *Server) said(t *table, x *subscription, e mapping.EID) *mapping.Record {
	from := e
	if found, _, ok := lookup(t, e); ok && e == x.eid {
		from = found
	}
	if rec := s.answered(t, from); rec != nil {
		return cut([]*mapping.Record{rec}, e)[0]
	}
	return &mapping.Record{EID: e}
}

// publish notes that the subscribers of e, and of what holds e, must hear of
// it, and those inside it that e answers for, or did.
func (s *Server) publish(now time.Time, old, t *table, e mapping.EID) {
	tell := func(x *subscription, e mapping.EID) {
		if !s.notices.publish(x, e) {
			s.giveUp(now, x, "its Map-Notifies are too many")
		}
	}
	heard := make(map[mapping.XTRID]bool) // once each: by its longest subscription
	left := make(map[mapping.XTRID]age)   // when it unsubscribed from a more-specific
	for _, m := range s.pubsub.table.Covering(e) {
		for id, x := range m {
			switch {
			case heard[id]:
			case x.left:
				left[id] = max(left[id], x.since)
			case !x.ended:
				heard[id] = true
				if since, ok := left[id]; !ok || since < x.since {
					tell(x, e)
				}
			}
		}
	}
	answers := func(t *table, in mapping.EID) bool {
		found, _, ok := lookup(t, in)
		return ok && found == e
	}
	for in, m := range s.pubsub.table.Covered(e) {
		if in == e || !answers(old, in) && !answers(t, in) {
			continue
		}
		for _, x := range m {
			if !x.ended {
				tell(x, in)
			}
		}
	}
}

// giveUp ends a subscription and tells its xTR once (RFC 9437 section 5).
func (s *Server) giveUp(now time.Time, x *subscription, why string) {
	s.counters.inc(subscriptionsGivenUp)
	s.log.Info("subscription ended", "eid", x.eid, "xtr", fmt.Sprintf("%x", x.by.XTRID[:]), "reason", why)
	s.tellSubscription(now, EventUnsubscribed, x, why)
	s.notices.last(now, x)
	s.end(now, x)
}

// expireSubscriptions ends temporary ones whose time is over.
func (s *Server) expireSubscriptions(now time.Time) {
	p := &s.pubsub
	for len(p.temporary) > 0 && p.temporary[0].until <= s.age(now) {
		x, until := p.temporary[0].x, p.temporary[0].until
		p.temporary = p.temporary[1:]
		if x.until == until && !x.ended {
			s.tellSubscription(now, EventUnsubscribed, x, "there was no mapping in time")
			s.end(now, x)
		}
	}
}

// saveNonces gives the store the nonces of what was published.
func (s *Server) saveNonces() {
	for x := range s.pubsub.unsaved {
		if x.stored {
			s.put(x.item())
		}
	}
	clear(s.pubsub.unsaved)
}

// SubscriptionStatus is a subscription as the API shows it.
type SubscriptionStatus struct {
	EID    mapping.EID
	XTRID  mapping.XTRID
	SiteID uint64
	// ITRRLOCs are where Map-Notifies go, one of them for each.
	ITRRLOCs []netip.Addr
	// Temporary: there is no mapping yet; Until is when it ends.
	Temporary    bool
	Since, Until time.Time
	// Waiting is the number of Map-Notifies that are not acknowledged.
	Waiting int
}

// Subscriptions walks the active subscriptions as they were when it began.
func (s *Server) Subscriptions() iter.Seq[SubscriptionStatus] {
	return func(yield func(SubscriptionStatus) bool) {
		for _, st := range s.statusOf(func() iter.Seq2[mapping.EID, map[mapping.XTRID]*subscription] { return s.pubsub.table.All() }) {
			if !yield(st) {
				return
			}
		}
	}
}

// subscribersOf returns the active subscriptions to e and to what holds it.
func (s *Server) subscribersOf(e mapping.EID) []SubscriptionStatus {
	return s.statusOf(func() iter.Seq2[mapping.EID, map[mapping.XTRID]*subscription] { return s.pubsub.table.Covering(e) })
}

// statusOf returns the active ones of some subscriptions, by EID and xTR. which
// is called under mu.
func (s *Server) statusOf(which func() iter.Seq2[mapping.EID, map[mapping.XTRID]*subscription]) []SubscriptionStatus {
	var out []SubscriptionStatus
	s.mu.Lock()
	for _, m := range which() {
		for _, x := range m {
			if x.ended {
				continue
			}
			st := SubscriptionStatus{EID: x.eid, XTRID: x.by.XTRID, SiteID: x.by.SiteID, ITRRLOCs: x.rlocs, Temporary: x.until != 0, Since: s.timeOf(x.since), Waiting: len(x.due)}
			if x.onWay != nil {
				st.Waiting++
			}
			if x.until != 0 {
				st.Until = s.timeOf(x.until)
			}
			out = append(out, st)
		}
	}
	s.mu.Unlock()
	slices.SortFunc(out, func(a, b SubscriptionStatus) int {
		if c := a.EID.Compare(b.EID); c != 0 {
			return c
		}
		return bytes.Compare(a.XTRID[:], b.XTRID[:])
	})
	return out
}
