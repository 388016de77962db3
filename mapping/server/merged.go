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
	if x.notify == nil && reg.msg.WantNotify && x.flags&mapping.MergeSet != 0 {
		x.notify = &target{key: reg.key, to: reg.notifyTo(), src: reg.dst, msg: reg.msg.HasXTRID, by: reg.by}
	}
}

// tellMerged sends the merged set of every touched EID-prefix to the xTRs that
// registered a part of it and want Map-Notifies, but for those in asked, which
// get it as the answer to their Map-Register. RFC 9301 says what an unsolicited
// Map-Notify is, and leaves open when it is sent; this is what deployed
// map-servers do.
func (s *Server) tellMerged(old, t *table, e mapping.EID, asked map[mapping.Registrant]bool) {
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
		if x.flags&mapping.MergeSet == 0 || x.notify == nil || asked[x.by] {
			continue
		}
		if err := s.notices.merged(x.notify, n.registered); err != nil {
			s.counters.inc(sendErrors)
			s.log.Error("map-notify of a merged set not sent", "eid", e, "err", err)
		}
	}
}

// merged queues an unsolicited Map-Notify with rec. A list that is too long
// forgets: the xTR's next Map-Register is answered by the merged set too.
func (n *notices) merged(to *target, rec *mapping.Record) error {
	if len(n.extra) >= maxDue {
		n.s.counters.inc(subscribeQueueFull)
		return nil
	}
	rs, err := wire.NewRecords(rec)
	if err != nil {
		return err
	}
	n.nonce++
	m := wire.MapNotify{Nonce: n.nonce, Auth: to.key.Template(), Records: rs, HasXTRID: to.msg, XTRID: to.by.XTRID, SiteID: to.by.SiteID}
	b, err := m.AppendBinary(nil)
	if err != nil {
		return err
	}
	if err := auth.Sign(b, to.key); err != nil {
		return err
	}
	n.extra = append(n.extra, &notice{nonce: n.nonce, payload: b, key: to.key, to: []netip.AddrPort{to.to}, src: to.src, at: time.Time{}})
	return nil
}
