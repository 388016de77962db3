package server

import (
	"container/heap"
	"net/netip"
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
	// notifyOverhead is what a Map-Notify has more than a Map-Reply with the
	// same records: authentication data and IDs.
	notifyOverhead = 4 + 32 + 24
)

// notice is a Map-Notify that is sent until it is acknowledged. It is for a
// subscriber, or for an xTR whose merged set changed.
type notice struct {
	nonce   uint64
	payload []byte
	key     auth.Key
	to      []netip.AddrPort // in turn
	src     netip.AddrPort
	tries   int
	at      time.Time // the next transmission
	index   int       // in the heap

	about *subscription // nil: not for a subscriber
	eids  []mapping.EID // what it publishes; none if it confirms
}

// notices sends the Map-Notifies that nobody waits for (RFC 9301 section 5.7,
// RFC 9437 section 6). It is a machine under Server.mu: what it says is taken
// with take, and advance must be called at next.
//
// A subscription has one Map-Notify on the way at a time: its xTR drops what is
// not above the last nonce (RFC 9437 section 6), so one that was lost could not
// be sent again after a later one. What changes meanwhile is said by the next,
// as it is by then, several records in one.
type notices struct {
	s     *Server
	every time.Duration // for one new Map-Notify
	full  time.Time     // when the bucket of new ones is full again

	byNonce map[uint64][]*notice
	timers  noticeHeap
	waits   []*subscription // that have something to say, and nothing on the way
	extra   []*notice       // merged sets, not sent yet
	out     []datagram
	nonce   uint64 // of Map-Notifies about merged sets
}

func newNotices(s *Server, rate int) *notices {
	if rate == 0 {
		rate = defaultPubRate
	}
	return &notices{
		s: s, every: time.Second / time.Duration(rate), nonce: uint64(s.epoch.UnixNano()),
		byNonce: make(map[uint64][]*notice),
	}
}

// take returns what is to be sent, which is the caller's.
func (n *notices) take() []datagram {
	out := n.out
	n.out = nil
	return out
}

// burst is how far new Map-Notifies may run ahead of their rate.
const noticeBurst = 100 * time.Millisecond

// next is when advance has something to do; ok is false for never.
func (n *notices) next() (at time.Time, ok bool) {
	if len(n.waits)+len(n.extra) > 0 && len(n.timers) < maxNotices {
		at, ok = n.full.Add(n.every-noticeBurst), true
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
		if m.about != nil && !m.about.ended {
			n.s.giveUp(now, m.about)
		}
	}
	for len(n.waits)+len(n.extra) > 0 && len(n.timers) < maxNotices {
		if len(n.waits) > 0 && !n.waits[0].speaks() {
			n.waits[0].waits = false
			n.waits = n.waits[1:]
			continue
		}
		if n.full.Before(now) {
			n.full = now
		}
		if n.full.Add(n.every).After(now.Add(noticeBurst)) {
			return
		}
		n.full = n.full.Add(n.every)
		if len(n.extra) > 0 {
			m := n.extra[0]
			n.extra = n.extra[1:]
			n.begin(now, m)
			continue
		}
		x := n.waits[0]
		x.waits, n.waits = false, n.waits[1:]
		n.send(now, x)
	}
}

// speaks reports whether something can be published to x now.
func (x *subscription) speaks() bool { return !x.ended && x.onWay == nil && len(x.due) > 0 }

// publish queues what happened to e for x, once however often it changes
// before it is sent. It reports false when x has too many waiting.
func (n *notices) publish(x *subscription, e mapping.EID) bool {
	if x.queued[e] {
		return true
	}
	if x.by.due >= maxDue {
		return false
	}
	if x.queued == nil {
		x.queued = make(map[mapping.EID]bool)
	}
	x.by.due++
	x.queued[e] = true
	x.due = append(x.due, e)
	n.ready(x)
	return true
}

// ready lets x wait for its turn, if it has something to say.
func (n *notices) ready(x *subscription) {
	if x.speaks() && !x.waits {
		x.waits = true
		n.waits = append(n.waits, x)
	}
}

// send publishes what is due for x as it is now, as much as one message holds.
func (n *notices) send(now time.Time, x *subscription) {
	to := x.addresses(n.s)
	room := n.s.maxReply6
	if len(to) > 0 && to[0].Addr().Is4() {
		room = n.s.maxReply4
	}
	room -= replyHeader + notifyOverhead
	var eids []mapping.EID
	var recs []*mapping.Record
	t := n.s.table.Load()
	for len(x.due) > 0 {
		rec := &mapping.Record{EID: x.due[0]} // TTL 0: it is gone (RFC 9437 section 5)
		if r := n.s.answered(t, rec.EID); r != nil {
			rec = r
		}
		if room -= recordSize(rec); len(recs) > 0 && (room < 0 || len(recs) == wire.MaxRecords) {
			break
		}
		eids, recs = append(eids, rec.EID), append(recs, rec)
		delete(x.queued, rec.EID)
		x.by.due--
		x.due = x.due[1:]
	}
	x.nonce++
	n.s.pubsub.unsaved[x] = true
	if n.compose(now, x, eids, recs, x.nonce, to, x.local) {
		n.s.counters.inc(publications)
		for i, rec := range recs {
			n.s.events.Publish(Event{Time: now, Kind: EventPublished, EID: eids[i], By: x.by.registrant(), Peer: to[0], Record: rec})
		}
	}
}

// answer confirms subscriptions with the nonce of their Map-Request. to is
// where to; not valid: the ITR-RLOCs.
func (n *notices) answer(now time.Time, xs []*subscription, recs []*mapping.Record, nonce uint64, to, local netip.AddrPort) {
	dst := []netip.AddrPort{to}
	if !to.IsValid() {
		dst = xs[0].addresses(n.s)
	}
	n.compose(now, xs[0], nil, recs, nonce, dst, local)
}

// last tells the xTR of x once that it is not told any more.
func (n *notices) last(now time.Time, x *subscription) {
	rec := mapping.NegativeRecord(x.eid, mapping.DropAuth, 0)
	m, err := n.message(x.by, []*mapping.Record{rec}, x.nonce)
	if dst := x.addresses(n.s); err == nil && len(dst) > 0 {
		n.out = append(n.out, datagram{payload: m, src: source(x.local, dst[0]), dst: dst[0]})
		n.s.counters.inc(mapNotifies)
	}
}

// addresses are where Map-Notifies for x can go.
func (x *subscription) addresses(s *Server) []netip.AddrPort {
	var out []netip.AddrPort
	for _, a := range x.rlocs {
		if s.canSend(a) && checkRLOC(a, true) == nil {
			out = append(out, netip.AddrPortFrom(a, wire.Port))
		}
	}
	return out
}

func source(local, dst netip.AddrPort) netip.AddrPort {
	if local.IsValid() && local.Addr().Is4() == dst.Addr().Is4() {
		return local
	}
	return netip.AddrPort{}
}

// message makes a signed Map-Notify for a subscriber.
func (n *notices) message(by *subscriber, recs []*mapping.Record, nonce uint64) ([]byte, error) {
	rs, err := wire.NewRecords(recs...)
	if err != nil {
		return nil, err
	}
	m := wire.MapNotify{Nonce: nonce, Auth: by.Key.Template(), Records: rs, HasXTRID: true, XTRID: by.XTRID, SiteID: by.SiteID}
	b, err := m.AppendBinary(nil)
	if err != nil {
		return nil, err
	}
	return b, auth.Sign(b, by.Key)
}

// compose sends a Map-Notify to x in the place of the one that is on the way.
func (n *notices) compose(now time.Time, x *subscription, eids []mapping.EID, recs []*mapping.Record, nonce uint64, to []netip.AddrPort, local netip.AddrPort) bool {
	b, err := n.message(x.by, recs, nonce)
	if err == nil && len(to) == 0 {
		err = errNoRLOC
	}
	if err != nil {
		n.s.counters.inc(sendErrors)
		n.s.log.Error("map-notify not sent", "eid", x.eid, "err", err)
		return false
	}
	n.release(x)
	n.begin(now, &notice{nonce: nonce, payload: b, key: x.by.Key, to: to, src: local, about: x, eids: eids})
	return true
}

// begin sends m for the first time.
func (n *notices) begin(now time.Time, m *notice) {
	n.byNonce[m.nonce] = append(n.byNonce[m.nonce], m)
	if m.about != nil {
		m.about.onWay = m
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
	// An address from which nothing was acknowledged may be somebody else's:
	// no more goes there than Map-Requests have earned.
	if x := m.about; x != nil && !x.by.verified[to.Addr()] && !n.s.credits.of(to.Addr()).spend(0, onWire(len(m.payload), to.Addr())) {
		n.s.counters.inc(dropAmplification)
		return
	}
	n.out = append(n.out, datagram{payload: m.payload, src: source(m.src, to), dst: to})
	n.s.counters.inc(mapNotifies)
}

// forget ends the retransmission of m.
func (n *notices) forget(m *notice) {
	heap.Remove(&n.timers, m.index)
	if m.about != nil && m.about.onWay == m {
		m.about.onWay = nil
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

// release forgets what is on the way to x. What it publishes is due again.
func (n *notices) release(x *subscription) {
	m := x.onWay
	if m == nil {
		return
	}
	n.forget(m)
	for _, e := range m.eids {
		if !x.queued[e] {
			x.by.due++
			x.queued[e] = true
			x.due = append(x.due, e)
		}
	}
}

// drop forgets all that is for x.
func (n *notices) drop(x *subscription) {
	if x.onWay != nil {
		n.forget(x.onWay)
	}
	x.by.due -= len(x.due)
	x.due, x.queued = nil, nil
}

// acknowledged handles a Map-Notify-Ack (RFC 9301 section 5.7). One that
// answers nothing, or is not authentic, is counted.
func (n *notices) acknowledged(now time.Time, msg []byte) {
	nonce, ok := wire.PeekNonce(msg)
	if !ok {
		n.s.counters.inc(dropMalformed)
		return
	}
	candidates := n.byNonce[nonce]
	if len(candidates) == 0 {
		n.s.counters.inc(dropAckUnmatched)
		return
	}
	for _, m := range candidates {
		if _, err := auth.Verify(msg, []auth.Key{m.key}, m.key.Algorithm); err == nil {
			n.forget(m)
			if x := m.about; x != nil {
				x.by.verify(m.to[(m.tries-1)%len(m.to)].Addr())
				n.ready(x)
			}
			n.s.counters.inc(mapNotifyAcks)
			return
		}
	}
	n.s.counters.inc(dropAckAuthentication)
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
