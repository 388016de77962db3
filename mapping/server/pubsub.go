package server

import (
	"bytes"
	"context"
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
	// whose nonce is kept included; 0 takes the default, 16384. Beyond it the
	// xTR gets Map-Replies.
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
	// maxDue bounds the publications of one subscriber that wait. Who has more
	// is not kept up with: its subscription ends, and it is told so.
	maxDue = 8192
	// subscribeQueue is the number of subscriptions that may wait.
	subscribeQueue = 1024
	// maxVerified bounds the verified locators of a subscriber.
	maxVerified = 256
	// nonceGap is what the nonces of a subscription skip when the server
	// starts: those of the last second before a crash may not be on disk.
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
	temporary []temporary // by their end
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
	kept, active int // subscriptions whose nonce is kept, and those of them that are active
	due          int // publications that wait
	// verified are locators that it has acknowledged a Map-Notify from, so that
	// it is really there; at most maxVerified.
	verified map[netip.Addr]bool
}

// allows reports whether a is one of the xTR's locators.
func (x *subscriber) allows(a netip.Addr) bool {
	return len(x.ITRRLOCs) == 0 || slices.ContainsFunc(x.ITRRLOCs, func(p netip.Prefix) bool { return p.Contains(a) })
}

// subscription is that of one xTR to one EID-prefix. It outlives its end, to
// keep the nonce, and to keep a more-specific that was unsubscribed from being
// published to who is subscribed to a less-specific.
type subscription struct {
	by    *subscriber
	eid   mapping.EID
	nonce uint64 // the last in either direction
	ended bool
	until age // end of a temporary one; 0: none
	rlocs []netip.Addr
	local netip.AddrPort // our address that it was asked at; not valid after a restart
	since age

	// Under notices: the Map-Notify that is on the way, the EIDs to publish
	// after it, in order, which those are, and whether it has its turn to wait
	// for.
	onWay  *notice
	due    []mapping.EID
	queued map[mapping.EID]bool
	waits  bool
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
	it := mapping.Item{Kind: mapping.ItemSubscription, EID: x.eid, By: mapping.Registrant{XTRID: x.by.XTRID, SiteID: x.by.SiteID}, Nonce: x.nonce}
	if !x.ended {
		it.RLOCs = x.rlocs
	}
	return it
}

// restoreSubscription puts back what the store holds. An xTR that is not
// configured any more loses its subscriptions.
func (s *Server) restoreSubscription(it mapping.Item) {
	by := s.pubsub.subscribers[it.By.XTRID]
	if by == nil || by.SiteID != it.By.SiteID {
		s.remove(it)
		return
	}
	x := &subscription{by: by, eid: it.EID, nonce: it.Nonce, ended: len(it.RLOCs) == 0, rlocs: it.RLOCs}
	if !x.ended && x.nonce < math.MaxUint64-nonceGap {
		x.nonce += nonceGap
	}
	for _, a := range x.rlocs {
		by.verify(a)
	}
	s.pubsub.insert(x)
}

// verify notes that the xTR is at a.
func (x *subscriber) verify(a netip.Addr) {
	if len(x.verified) < maxVerified {
		x.verified[a] = true
	}
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
	if !x.ended {
		x.by.active++
		p.size++
	}
}

// end makes x inactive. Its nonce is kept, unless it was temporary.
func (p *pubsub) end(x *subscription) {
	if !x.ended {
		x.ended = true
		x.by.active--
		p.size--
	}
	if x.until == 0 {
		return
	}
	m, _ := p.table.Get(x.eid)
	delete(m, x.by.XTRID)
	x.by.kept--
	if len(m) == 0 {
		ed := p.table.Edit(1)
		ed.Delete(x.eid)
		p.table = ed.Table()
	}
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

// permit says what a reader does with a record that has the N bit: subscribe,
// or refuse with an action (RFC 9437 section 5).
func (r *reader) permit(q *request) (refusal mapping.Action, ok bool) {
	m := &r.req
	x := r.s.pubsub.subscribers[m.XTRID]
	if !m.HasXTRID || x == nil || x.SiteID != m.SiteID {
		return mapping.DropPolicy, false
	}
	usable := 0
	for _, a := range m.ITRRLOCs {
		if ip, isIP := a.IP(); isIP {
			if !x.allows(ip) {
				return mapping.DropPolicy, false
			}
			usable++
		}
	}
	if unsubscribes(m) {
		if !x.allows(q.src.Addr()) {
			return mapping.DropPolicy, false
		}
	} else if usable == 0 {
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
	if unsubscribes(m) && checkRLOC(q.src.Addr(), q.from.Addr().IsLoopback()) == nil && s.canSend(q.src.Addr()) {
		to = q.src.Addr()
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

// acknowledgement queues a Map-Notify-Ack for the writer.
func (r *reader) acknowledgement(now time.Time, msg []byte, src netip.AddrPort) {
	s := r.s
	if !s.limiter.allow(s.age(now), src.Addr(), 1) {
		s.counters.inc(dropRateLimited)
		return
	}
	select {
	case s.acks <- bytes.Clone(msg):
	default:
		s.counters.inc(dropAckQueueFull)
	}
}

// acknowledge takes Map-Notify-Acks.
func (s *Server) acknowledge(now time.Time, msgs [][]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, msg := range msgs {
		s.notices.acknowledged(now, msg)
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
	var accepted []func()
	for _, op := range batch {
		if f := s.subscribe(now, r, op); f != nil {
			accepted = append(accepted, f)
		}
	}
	if err := s.commit(ctx); err == nil {
		for _, f := range accepted {
			f()
		}
	}
	return r.out
}

// subscribe processes one message, and returns what to do when the store has
// it: send its Map-Notify.
func (s *Server) subscribe(now time.Time, r *reader, op subscribe) (confirm func()) {
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
	by := s.pubsub.subscribers[m.XTRID]
	var told []*mapping.Record
	var xs []*subscription
	plain := false // one of them needs an ordinary answer
	t := s.table.Load()
	for _, rec := range m.EIDs {
		e, err := rec.EID.EID(rec.MaskLen)
		if err != nil || !rec.Subscribe {
			plain = plain || err == nil
			continue
		}
		if !secured && s.security.demanding && s.security.policy(e.IID) == auth.SecurityRequired {
			plain = true
			continue
		}
		if r.resolve(t, e, false, s.maxReply4-notifyOverhead) != nil || r.found[0].Negative() && (r.found[0].Action == mapping.DropPolicy || r.found[0].Action == mapping.SendMapRequest) {
			// An ETR answers, and nobody would tell us of changes; or nobody
			// may know.
			plain = true
			continue
		}
		found := slices.Clone(r.found)
		for i, f := range found { // r.made is used again
			c := *f
			found[i] = &c
		}
		key := found[0].EID
		x := s.pubsub.get(key, by.XTRID)
		if x != nil && m.Nonce <= x.nonce {
			s.counters.inc(refusedSubscriptionReplay)
			if s.mayLog(now) {
				s.log.Warn("subscription dropped: its nonce is not new", "eid", key, "xtr", fmt.Sprintf("%x", by.XTRID[:]), "src", op.src, "suppressed", s.suppressed.Swap(0))
			}
			continue
		}
		if unsubscribes(m) {
			if x == nil {
				x = &subscription{by: by, eid: key, ended: true}
				if by.kept >= s.pubsub.maxPerXTR {
					s.counters.inc(subscriptionsTooMany)
					plain = true
					continue
				}
				s.pubsub.insert(x)
			}
			s.notices.drop(x)
			x.nonce, x.local = m.Nonce, op.dst
			x.until = 0 // the nonce of a temporary one is kept from now on
			s.pubsub.end(x)
			s.put(x.item())
			s.counters.inc(unsubscriptions)
		} else {
			if x == nil {
				if by.kept >= s.pubsub.maxPerXTR {
					s.counters.inc(subscriptionsTooMany)
					plain = true
					continue
				}
				x = &subscription{by: by, eid: key, since: s.age(now)}
				s.pubsub.insert(x)
			} else if x.ended {
				x.ended = false
				by.active++
				s.pubsub.size++
			}
			_, exact := t.Get(key)
			s.notices.release(x)
			was := x.until
			x.nonce, x.local, x.rlocs, x.until = m.Nonce, op.dst, itrRLOCs(m), 0
			if found[0].Negative() && !exact {
				// One that began within the last minute keeps its end, so that
				// who asks over and over makes no list grow.
				if x.until = was; was < s.age(now)+age(temporaryTTL-time.Minute) {
					x.until = s.age(now) + age(temporaryTTL)
					s.pubsub.temporary = append(s.pubsub.temporary, temporary{x, x.until})
				}
			} else {
				s.put(x.item())
			}
			s.counters.inc(subscriptions)
		}
		s.log.Debug("subscription", "eid", key, "xtr", fmt.Sprintf("%x", by.XTRID[:]), "active", !x.ended, "temporary", x.until != 0)
		xs, told = append(xs, x), append(told, found...)
	}
	if len(xs) == 0 {
		if plain {
			r.plain(now, op)
		}
		return nil
	}
	to := q.src
	if !unsubscribes(m) {
		to = netip.AddrPort{}
	}
	// What the Map-Request earned goes to where the answer goes, as with a
	// Map-Reply.
	s.credits.of(s.firstAddress(xs[0], to)).spend(onWire(len(op.msg), op.src.Addr()), 0)
	nonce := m.Nonce
	return func() {
		s.notices.answer(now, xs, told, nonce, to, op.dst)
		for _, x := range xs {
			if x.ended {
				s.tellSubscription(now, EventUnsubscribed, x, "the xTR wanted it")
			} else {
				s.tellSubscription(now, EventSubscribed, x, "")
			}
		}
	}
}

// firstAddress is where the confirmation of a subscription goes first.
func (s *Server) firstAddress(x *subscription, to netip.AddrPort) netip.Addr {
	if to.IsValid() {
		return to.Addr()
	}
	if a := x.addresses(s); len(a) > 0 {
		return a[0].Addr()
	}
	return netip.Addr{}
}

// plain answers a message as if it had not asked to subscribe.
func (r *reader) plain(now time.Time, op subscribe) {
	r.ordinary = true
	r.take(now, op.msg, op.src, op.dst)
	r.ordinary = false
}

// itrRLOCs returns the plain addresses among the ITR-RLOCs of m.
func itrRLOCs(m *wire.MapRequest) []netip.Addr {
	var out []netip.Addr
	for _, a := range m.ITRRLOCs {
		if ip, ok := a.IP(); ok {
			out = append(out, ip)
		}
	}
	return out
}

// publishAll notes who must hear of which of the touched EIDs.
func (s *Server) publishAll(now time.Time, old, t *table, touched []mapping.EID) {
	if s.pubsub.size == 0 {
		return
	}
	for _, e := range touched {
		if a, b := s.answered(old, e), s.answered(t, e); a != b && (a == nil || b == nil || !a.Equal(b)) {
			s.publish(now, t, e)
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

// publish notes that the subscribers of e, and of what holds e, must hear of
// it, and those inside it that have no mapping of their own.
func (s *Server) publish(now time.Time, t *table, e mapping.EID) {
	tell := func(x *subscription) {
		if x.ended {
			return
		}
		if own := s.pubsub.get(e, x.by.XTRID); own != nil && own.ended && own != x {
			return // it unsubscribed from the more-specific
		}
		if !s.notices.publish(x, e) {
			s.giveUp(now, x)
		}
	}
	heard := make(map[mapping.XTRID]bool) // once each: by its longest subscription
	for _, m := range s.pubsub.table.Covering(e) {
		for id, x := range m {
			if !x.ended && !heard[id] {
				heard[id] = true
				tell(x)
			}
		}
	}
	for in, m := range s.pubsub.table.Covered(e) {
		if in == e {
			continue
		}
		if _, own := t.Get(in); own {
			continue
		}
		for _, x := range m {
			tell(x)
		}
	}
}

// giveUp ends a subscription whose xTR does not acknowledge or can't be kept
// up with, and tells it once (RFC 9437 section 5).
func (s *Server) giveUp(now time.Time, x *subscription) {
	s.counters.inc(subscriptionsGivenUp)
	s.log.Info("subscription ended: its Map-Notifies are not acknowledged, or are too many", "eid", x.eid, "xtr", fmt.Sprintf("%x", x.by.XTRID[:]))
	s.tellSubscription(now, EventUnsubscribed, x, "its Map-Notifies are not acknowledged, or are too many")
	s.notices.drop(x)
	temporary := x.until != 0
	s.notices.last(now, x)
	s.pubsub.end(x)
	if !temporary {
		s.put(x.item())
	}
}

// expireSubscriptions ends temporary ones whose time is over.
func (s *Server) expireSubscriptions(now time.Time) {
	p := &s.pubsub
	for len(p.temporary) > 0 && p.temporary[0].until <= s.age(now) {
		x, until := p.temporary[0].x, p.temporary[0].until
		p.temporary = p.temporary[1:]
		if x.until == until && !x.ended {
			s.tellSubscription(now, EventUnsubscribed, x, "there was no mapping in time")
			s.notices.drop(x)
			p.end(x)
		}
	}
}

// saveNonces gives the store the nonces of what was published.
func (s *Server) saveNonces() {
	for x := range s.pubsub.unsaved {
		if x.until == 0 {
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

var errNoRLOC = errors.New("no locator that can be sent to")
