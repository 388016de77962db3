package server

import (
	"bytes"
	"container/heap"
	"math"
	"net/netip"
	"slices"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/auth"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// retransmissions are the pauses after each transmission of a Map-Notify that
// wants a Map-Notify-Ack: 3 times 3 s, then 3 times doubling (RFC 9301 section
// 5.7). After the last one it is given up.
var retransmissions = [...]time.Duration{3 * time.Second, 3 * time.Second, 3 * time.Second, 6 * time.Second, 12 * time.Second, 24 * time.Second, 24 * time.Second}

const (
	// maxNotices bounds the Map-Notifies that wait for an acknowledgement;
	// others wait to be sent.
	maxNotices = 1 << 16
	// maxOnWay bounds those of one subscriber, so that one that answers nothing
	// leaves the others theirs.
	maxOnWay = 1024
	// notifyOverhead is what a Map-Notify has more than a Map-Reply with the
	// same records: authentication data and IDs.
	notifyOverhead = 4 + 32 + 24
)

// notice is a Map-Notify that is sent until it is acknowledged. It is for a
// subscriber, or for an xTR whose merged set changed.
type notice struct {
	nonce   uint64
	payload []byte
	records []byte // of payload
	key     auth.Key
	to      []netip.AddrPort // in turn
	src     netip.AddrPort
	tries   int
	at      time.Time // the next transmission
	index   int       // in the heap

	by     *subscriber   // nil: not for a subscriber
	claims []claim       // what it is about
	eids   []mapping.EID // what it publishes; none if it confirms
	set    *mergedSet    // nil: not about one
}

// notices sends the Map-Notifies that nobody waits for (RFC 9301 section 5.7,
// RFC 9437 section 6). It is a machine under Server.mu: what it says is taken
// with take, and advance must be called at next.
//
// A subscription has one Map-Notify on the way at a time: its xTR drops what is
// not above the last nonce (RFC 9437 section 6), so one that was lost could not
// be sent again after a later one. What changes meanwhile is said by the next,
// as it is by then, several records in one. Subscribers take turns, and merged
// sets have every other one.
type notices struct {
	s     *Server
	every time.Duration // for one new Map-Notify
	burst time.Duration // how far new ones may run ahead of that
	full  time.Time     // when the bucket of new ones is full again

	byNonce map[uint64][]*notice
	timers  noticeHeap
	waits   []*subscriber // that have something to say, and can
	sets    map[mergedKey]*mergedSet
	extra   []*mergedSet // that wait
	turn    bool         // of extra, where both wait
	out     []datagram
	nonce   uint64 // of Map-Notifies about merged sets
}

func newNotices(s *Server, rate int) *notices {
	if rate == 0 {
		rate = defaultPubRate
	}
	every := max(time.Second/time.Duration(rate), 1)
	return &notices{
		s: s, every: every, burst: max(noticeBurst, every), nonce: uint64(s.epoch.UnixNano()),
		byNonce: make(map[uint64][]*notice), sets: make(map[mergedKey]*mergedSet),
	}
}

// take returns what is to be sent, which is the caller's.
func (n *notices) take() []datagram {
	out := n.out
	n.out = nil
	return out
}

// noticeBurst is how far new Map-Notifies may run ahead of their rate, or one.
const noticeBurst = 100 * time.Millisecond

// next is when advance has something to do; ok is false for never.
func (n *notices) next() (at time.Time, ok bool) {
	if len(n.waits)+len(n.extra) > 0 && len(n.timers) < maxNotices {
		at, ok = n.full.Add(n.every-n.burst), true
	}
	if len(n.timers) > 0 && (!ok || n.timers[0].at.Before(at)) {
		at, ok = n.timers[0].at, true
	}
	return at, ok
}

// advance sends what is due at now.
func (n *notices) advance(now time.Time) {
	for len(n.timers) > 0 && !n.timers[0].at.After(now) {
		m := n.timers[0]
		if m.tries < len(retransmissions) {
			n.s.counters.inc(retransmittedMapNotifies)
			n.transmit(now, m)
			continue
		}
		n.forget(m)
		n.s.counters.inc(unacknowledgedMapNotifies)
		for _, c := range m.claims {
			if len(m.eids) > 0 || c.x.unsure && !c.x.ended {
				n.s.giveUp(now, c.x, "its Map-Notifies are not acknowledged")
			} else {
				n.s.disclaim(now, c.x)
			}
		}
	}
	for len(n.waits)+len(n.extra) > 0 && len(n.timers) < maxNotices {
		var x *subscription
		if len(n.extra) == 0 || !n.turn && len(n.waits) > 0 {
			if x = n.waits[0].next(); x == nil {
				n.waits[0].waits, n.waits = false, n.waits[1:]
				continue
			}
		}
		if n.full.Before(now) {
			n.full = now
		}
		if n.full.Add(n.every).After(now.Add(n.burst)) {
			return
		}
		n.full = n.full.Add(n.every)
		if n.turn = x != nil; !n.turn {
			n.tellNext(now)
			continue
		}
		by := x.by
		by.waits, n.waits = false, n.waits[1:]
		n.send(now, x)
		n.resume(by)
	}
}

// speaks reports whether something can be published to x now.
func (x *subscription) speaks() bool {
	return !x.ended && !x.unsure && x.asked == 0 && x.onWay == nil && len(x.due) > 0
}

// next returns the subscription of b to publish to now, or nil.
func (b *subscriber) next() *subscription {
	for len(b.ready) > 0 && b.onWay < maxOnWay {
		x := b.ready[0]
		if x.speaks() {
			return x
		}
		x.waits, b.ready = false, b.ready[1:]
	}
	return nil
}

// busy reports whether nothing more may be on the way to b.
func (n *notices) busy(b *subscriber) bool { return b.onWay >= maxOnWay || len(n.timers) >= maxNotices }

// publish queues what happened to e for x, once however often it changes
// before it is sent. It reports false when too much waits for the xTR.
func (n *notices) publish(x *subscription, e mapping.EID) bool {
	if len(x.due) > 0 && !x.queued[e] && x.by.due >= maxDue {
		return false
	}
	n.queue(x, e)
	n.ready(x)
	return true
}

func (n *notices) queue(x *subscription, e mapping.EID) {
	if x.queued[e] {
		return
	}
	if x.queued == nil {
		x.queued = make(map[mapping.EID]bool)
	}
	x.by.due++
	x.queued[e] = true
	x.due = append(x.due, e)
}

// ready lets x wait for its turn, if it has something to say.
func (n *notices) ready(x *subscription) {
	if x.speaks() && !x.waits {
		x.waits = true
		x.by.ready = append(x.by.ready, x)
	}
	n.resume(x.by)
}

// resume lets b wait for its turn, if it needs one.
func (n *notices) resume(b *subscriber) {
	if !b.waits && len(b.ready) > 0 {
		b.waits = true
		n.waits = append(n.waits, b)
	}
}

// send publishes what is due for x as it is now, as much as one message holds.
func (n *notices) send(now time.Time, x *subscription) {
	if x.nonce >= math.MaxUint64-x.skip { // the next needs a new association
		n.s.giveUp(now, x, "its nonces are used up")
		return
	}
	to := x.addresses()
	room := n.s.maxReply6
	if len(to) > 0 && to[0].Addr().Is4() {
		room = n.s.maxReply4
	}
	room -= replyHeader + notifyOverhead
	var eids []mapping.EID
	var recs []*mapping.Record
	t := n.s.table.Load()
	for len(x.due) > 0 {
		rec := n.s.said(t, x, x.due[0])
		if room -= recordSize(rec); len(recs) > 0 && (room < 0 || len(recs) == wire.MaxRecords) {
			break
		}
		eids, recs = append(eids, rec.EID), append(recs, rec)
		delete(x.queued, rec.EID)
		x.by.due--
		x.due = x.due[1:]
	}
	x.nonce, x.skip = x.nonce+x.skip+1, 0
	n.s.pubsub.unsaved[x] = true
	m := &notice{nonce: x.nonce, to: to, src: x.local, by: x.by, claims: []claim{{x: x}}, eids: eids}
	if n.compose(now, m, recs) {
		n.s.counters.inc(publications)
		for i, rec := range recs {
			n.s.events.Publish(Event{Time: now, Kind: EventPublished, EID: eids[i], By: x.by.registrant(), Peer: to[0], Record: rec})
		}
	}
}

// confirm answers a Map-Request, in the place of what is on the way.
func (n *notices) confirm(now time.Time, c *confirmation) {
	for _, cl := range c.claims {
		n.release(cl.x)
	}
	n.compose(now, &notice{nonce: c.nonce, to: c.to, src: c.local, by: c.by, claims: c.claims}, c.recs)
}

// last tells the xTR of x once that it is not told any more.
func (n *notices) last(now time.Time, x *subscription) {
	rec := mapping.NegativeRecord(x.eid, mapping.DropAuth, 0)
	m := &notice{nonce: x.last(), to: x.addresses(), src: x.local, by: x.by}
	if n.sign(m, []*mapping.Record{rec}) == nil && len(m.to) > 0 {
		n.put(m, m.to[0])
	}
}

// addresses are where Map-Notifies for x can go.
func (x *subscription) addresses() []netip.AddrPort {
	var out []netip.AddrPort
	for _, a := range x.rlocs {
		out = append(out, netip.AddrPortFrom(a, wire.Port))
	}
	return out
}

func source(local, dst netip.AddrPort) netip.AddrPort {
	if local.IsValid() && local.Addr().Is4() == dst.Addr().Is4() {
		return local
	}
	return netip.AddrPort{}
}

// sign makes the message of m, for a subscriber.
func (n *notices) sign(m *notice, recs []*mapping.Record) error {
	return m.sign(wire.MapNotify{HasXTRID: true, XTRID: m.by.XTRID, SiteID: m.by.SiteID}, m.by.Key, recs)
}

// sign makes the message of m from what head has, with k.
func (m *notice) sign(head wire.MapNotify, k auth.Key, recs []*mapping.Record) (err error) {
	head.Nonce, head.Auth, m.key = m.nonce, k.Template(), k
	if head.Records, err = wire.NewRecords(recs...); err != nil {
		return err
	}
	if m.records, err = head.Records.AppendBinary(nil); err != nil {
		return err
	}
	if m.payload, err = head.AppendBinary(nil); err != nil {
		return err
	}
	return auth.Sign(m.payload, k)
}

// compose begins m, which is for a subscriber.
func (n *notices) compose(now time.Time, m *notice, recs []*mapping.Record) bool {
	if err := n.sign(m, recs); err != nil {
		n.s.counters.inc(sendErrors)
		n.s.log.Error("map-notify not sent", "eid", m.claims[0].x.eid, "err", err)
		for _, c := range m.claims {
			n.s.disclaim(now, c.x)
		}
		return false
	}
	n.begin(now, m)
	return true
}

// begin sends m for the first time.
func (n *notices) begin(now time.Time, m *notice) {
	n.byNonce[m.nonce] = append(n.byNonce[m.nonce], m)
	for _, c := range m.claims {
		c.x.onWay = m
	}
	if m.by != nil {
		m.by.onWay++
	}
	m.at = now
	heap.Push(&n.timers, m)
	n.transmit(now, m)
}

func (n *notices) transmit(now time.Time, m *notice) {
	to := m.to[m.tries%len(m.to)]
	m.at = now.Add(retransmissions[m.tries])
	m.tries++
	heap.Fix(&n.timers, m.index)
	n.put(m, to)
}

// put sends m to an address. One from which nothing was acknowledged may be
// somebody else's: no more goes there than Map-Requests have earned.
func (n *notices) put(m *notice, to netip.AddrPort) {
	if m.by != nil && !m.by.verified[to.Addr()] && !n.s.credits.of(to.Addr()).spend(0, onWire(len(m.payload), to.Addr())) {
		n.s.counters.inc(dropAmplification)
		return
	}
	n.out = append(n.out, datagram{payload: m.payload, src: source(m.src, to), dst: to})
	n.s.counters.inc(mapNotifies)
}

// forget ends the retransmission of m.
func (n *notices) forget(m *notice) {
	heap.Remove(&n.timers, m.index)
	for _, c := range m.claims {
		c.x.onWay = nil
	}
	if m.by != nil {
		m.by.onWay--
		n.resume(m.by)
	}
	if m.set != nil {
		m.set.onWay = nil
		n.settle(m.set)
	}
	same := n.byNonce[m.nonce]
	for i, o := range same {
		if o == m {
			same = append(same[:i:i], same[i+1:]...)
			break
		}
	}
	if len(same) == 0 {
		delete(n.byNonce, m.nonce)
	} else {
		n.byNonce[m.nonce] = same
	}
}

// release takes x out of what is on the way. What that publishes is due again.
func (n *notices) release(x *subscription) {
	m := x.onWay
	if m == nil {
		return
	}
	x.onWay = nil
	m.claims = slices.DeleteFunc(slices.Clone(m.claims), func(c claim) bool { return c.x == x })
	if len(m.claims) == 0 {
		n.forget(m)
	}
	for _, e := range m.eids {
		n.queue(x, e)
	}
}

// drop forgets all that is for x.
func (n *notices) drop(x *subscription) {
	n.release(x)
	x.by.due -= len(x.due)
	x.due, x.queued = nil, nil
}

// acknowledged handles a Map-Notify-Ack from src, which says what the Map-Notify
// said (RFC 9301 section 5.7). One that answers nothing, or is not authentic, is
// counted.
func (n *notices) acknowledged(now time.Time, msg []byte, src netip.AddrPort) {
	var ack wire.MapNotify
	if err := ack.Decode(msg); err != nil {
		n.s.malformed(now, err, src)
		return
	}
	records, _ := ack.Records.AppendBinary(nil)
	why := dropAckUnmatched
	for _, m := range n.byNonce[ack.Nonce] {
		if !bytes.Equal(m.records, records) {
			continue
		}
		if _, err := auth.Verify(msg, []auth.Key{m.key}, m.key.Algorithm); err != nil {
			why = dropAckAuthentication
			continue
		}
		n.forget(m)
		n.s.counters.inc(mapNotifyAcks)
		if m.by != nil && slices.ContainsFunc(m.to, func(a netip.AddrPort) bool { return a.Addr() == src.Addr() }) {
			m.by.verify(src.Addr())
		}
		for _, c := range m.claims {
			if len(m.eids) == 0 {
				n.s.agreed(now, c, m.nonce, m.src)
			}
			n.ready(c.x)
		}
		return
	}
	n.s.counters.inc(why)
}

// noticeHeap is a heap by time.
type noticeHeap []*notice

func (h noticeHeap) Len() int           { return len(h) }
func (h noticeHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h noticeHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

// Push implements heap.Interface.
func (h *noticeHeap) Push(v any) {
	m := v.(*notice)
	m.index = len(*h)
	*h = append(*h, m)
}

// Pop implements heap.Interface.
func (h *noticeHeap) Pop() any {
	last := len(*h) - 1
	m := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return m
}
