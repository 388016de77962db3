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

	about due // zero subscription: not for a subscriber
}

// due is a publication: to whom, about what.
type due struct {
	x   *subscription
	eid mapping.EID
}

// notices sends the Map-Notifies that nobody waits for (RFC 9301 section 5.7,
// RFC 9437 section 6). It is a machine under Server.mu: what it says is taken
// with take, and advance must be called at next.
type notices struct {
	s     *Server
	every time.Duration // for one new Map-Notify
	full  time.Time     // when the bucket of new ones is full again

	byNonce map[uint64][]*notice
	byDue   map[due]*notice
	timers  noticeHeap
	// waits are the publications not sent yet, in order; in queued are those
	// that still count.
	waits  []due
	queued map[due]bool
	extra  []*notice // merged sets, not sent yet
	out    []datagram
	nonce  uint64 // of Map-Notifies about merged sets
}

func newNotices(s *Server, rate int) *notices {
	if rate == 0 {
		rate = defaultPubRate
	}
	return &notices{
		s: s, every: time.Second / time.Duration(rate), nonce: uint64(s.epoch.UnixNano()),
		byNonce: make(map[uint64][]*notice), byDue: make(map[due]*notice), queued: make(map[due]bool),
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
		if m.about.x != nil && !m.about.x.ended {
			n.s.giveUp(now, m.about.x)
		}
	}
	for len(n.waits)+len(n.extra) > 0 && len(n.timers) < maxNotices {
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
		d := n.waits[0]
		n.waits = n.waits[1:]
		if n.queued[d] {
			delete(n.queued, d)
			d.x.by.due--
			n.send(now, d)
		}
	}
}

// publish queues what happened to e for x, once however often it changes
// before it is sent. It reports false when x has too many waiting.
func (n *notices) publish(x *subscription, e mapping.EID) bool {
	d := due{x, e}
	if n.queued[d] {
		return true
	}
	if x.by.due >= maxDue {
		return false
	}
	x.by.due++
	n.queued[d] = true
	n.waits = append(n.waits, d)
	return true
}

// send publishes the mapping of d as it is now.
func (n *notices) send(now time.Time, d due) {
	if d.x.ended {
		return
	}
	rec := &mapping.Record{EID: d.eid} // TTL 0: it is gone (RFC 9437 section 5)
	if r := n.s.answered(n.s.table.Load(), d.eid); r != nil {
		rec = r
	}
	d.x.nonce++
	n.s.pubsub.unsaved[d.x] = true
	to := d.x.addresses(n.s)
	if n.compose(now, d, []*mapping.Record{rec}, d.x.nonce, to, d.x.local) {
		n.s.counters.inc(publications)
		n.s.events.Publish(Event{Time: now, Kind: EventPublished, EID: d.eid, By: d.x.by.registrant(), Peer: to[0], Record: rec})
	}
}

// answer confirms subscriptions with the nonce of their Map-Request. to is
// where to; not valid: the ITR-RLOCs.
func (n *notices) answer(now time.Time, xs []*subscription, recs []*mapping.Record, nonce uint64, to, local netip.AddrPort) {
	dst := []netip.AddrPort{to}
	if !to.IsValid() {
		dst = xs[0].addresses(n.s)
	}
	n.compose(now, due{xs[0], xs[0].eid}, recs, nonce, dst, local)
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

func (n *notices) compose(now time.Time, d due, recs []*mapping.Record, nonce uint64, to []netip.AddrPort, local netip.AddrPort) bool {
	b, err := n.message(d.x.by, recs, nonce)
	if err == nil && len(to) == 0 {
		err = errNoRLOC
	}
	if err != nil {
		n.s.counters.inc(sendErrors)
		n.s.log.Error("map-notify not sent", "eid", d.eid, "err", err)
		return false
	}
	if old := n.byDue[d]; old != nil {
		n.forget(old) // the newer one says it all
	}
	n.begin(now, &notice{nonce: nonce, payload: b, key: d.x.by.Key, to: to, src: local, about: d})
	return true
}

// begin sends m for the first time.
func (n *notices) begin(now time.Time, m *notice) {
	n.byNonce[m.nonce] = append(n.byNonce[m.nonce], m)
	if m.about.x != nil {
		n.byDue[m.about] = m
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
	if x := m.about.x; x != nil && !x.by.verified[to.Addr()] && !n.s.credits.of(to.Addr()).spend(0, onWire(len(m.payload), to.Addr())) {
		n.s.counters.inc(dropAmplification)
		return
	}
	n.out = append(n.out, datagram{payload: m.payload, src: source(m.src, to), dst: to})
	n.s.counters.inc(mapNotifies)
}

// forget ends the retransmission of m.
func (n *notices) forget(m *notice) {
	heap.Remove(&n.timers, m.index)
	if m.about.x != nil && n.byDue[m.about] == m {
		delete(n.byDue, m.about)
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

// drop forgets all that is for x.
func (n *notices) drop(x *subscription) {
	for d := range n.queued {
		if d.x == x {
			delete(n.queued, d)
			x.by.due--
		}
	}
	for d, m := range n.byDue {
		if d.x == x {
			n.forget(m)
		}
	}
}

// waiting counts the Map-Notifies that are not acknowledged, by subscription.
func (n *notices) waiting() map[*subscription]int {
	count := make(map[*subscription]int)
	for d := range n.byDue {
		count[d.x]++
	}
	return count
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
			if m.about.x != nil {
				m.about.x.by.verify(m.to[(m.tries-1)%len(m.to)].Addr())
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
