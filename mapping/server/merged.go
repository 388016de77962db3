package server

import (
	"net/netip"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/auth"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// target is where and how an xTR that registered a part of a merged set hears
// that the others' parts changed.
type target struct {
	key     auth.Key
	to, src netip.AddrPort
	msg     bool // it sends its xTR-ID
	by      mapping.Registrant
}

// hears notes how the xTR of reg is told of a merged set that x is a part of.
func (x *registration) hears(reg *register) {
	x.notify = nil
	if reg.msg.WantNotify && x.flags&mapping.MergeSet != 0 {
		x.notify = &target{key: reg.key, to: reg.notifyTo(), src: reg.dst, msg: reg.msg.HasXTRID, by: reg.by}
	}
}

// mergedKey names what an xTR hears of.
type mergedKey struct {
	by  mapping.Registrant
	eid mapping.EID
}

// mergedSet is a merged set that an xTR must hear of: it waits to be sent, as it
// is by then, or is on the way.
type mergedSet struct {
	mergedKey
	target
	waits bool
	onWay *notice
}

// tellMerged sends the merged set of every touched EID-prefix to the xTRs that
// registered a part of it and want Map-Notifies, but for those in asked, which
// get it as the answer to their Map-Register. RFC 9301 says what an unsolicited
// Map-Notify is, and leaves open when it is sent; this is what deployed
// map-servers do.
func (s *Server) tellMerged(old, t *table, e mapping.EID, asked map[mergedKey]bool) {
	v, _ := t.Get(e)
	n, ok := v.(*node)
	if !ok || n.registered == nil {
		return
	}
	if v, ok := old.Get(e); ok {
		if was, ok := v.(*node); ok && was.registered != nil && was.registered.Equal(n.registered) {
			return
		}
	}
	for _, x := range n.regs {
		if x.flags&mapping.MergeSet == 0 || x.notify == nil {
			continue
		}
		s.notices.merged(x.notify, e, !asked[mergedKey{x.by, e}])
	}
}

// maxMerged bounds the merged sets that xTRs are to hear of.
const maxMerged = 1 << 14

// merged notes that the set of e changed, so that what is on the way is not
// true any more, and queues an unsolicited Map-Notify, if one is wanted. A list
// that is too long forgets: the xTR's next Map-Register is answered by the
// merged set too.
func (n *notices) merged(to *target, e mapping.EID, wanted bool) {
	k := mergedKey{to.by, e}
	m := n.sets[k]
	if m == nil {
		if !wanted {
			return
		}
		if len(n.sets) >= maxMerged {
			n.s.counters.inc(subscribeQueueFull)
			return
		}
		m = &mergedSet{mergedKey: k}
		n.sets[k] = m
	}
	m.target = *to
	if wanted && !m.waits {
		m.waits = true
		n.extra = append(n.extra, m)
	}
	if m.onWay != nil {
		n.forget(m.onWay)
	}
}

// settle forgets m, if there is nothing to do for it.
func (n *notices) settle(m *mergedSet) {
	if !m.waits && m.onWay == nil {
		delete(n.sets, m.mergedKey)
	}
}

// tellNext sends the merged set that waits for longest.
func (n *notices) tellNext(now time.Time) {
	m := n.extra[0]
	n.extra = n.extra[1:]
	m.waits = false
	v, _ := n.s.table.Load().Get(m.eid)
	if x, ok := v.(*node); ok && x.registered != nil {
		n.nonce++
		m.onWay = &notice{nonce: n.nonce, to: []netip.AddrPort{m.to}, src: m.src, set: m}
		err := m.onWay.sign(wire.MapNotify{HasXTRID: m.msg, XTRID: m.target.by.XTRID, SiteID: m.target.by.SiteID}, m.key, []*mapping.Record{x.registered})
		if err == nil {
			n.begin(now, m.onWay)
			return
		}
		m.onWay = nil
		n.s.counters.inc(sendErrors)
		n.s.log.Error("map-notify of a merged set not sent", "eid", m.eid, "err", err)
	}
	n.settle(m)
}
