package server

import (
	"context"
	"net/netip"
	"time"

	"github.com/eidolon-lisp/eidolon/internal/udp"
	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/alt"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// askALT asks the ALT about e where that knows something longer than found, the
// longest match here, or where nothing here covers e (known is false). It then
// reports true: the Map-Request goes on over the ALT (see across), or the answer
// is in r.found: nobody has the EID, or nobody now.
func (r *reader) askALT(t *table, e, found mapping.EID, known bool) bool {
	addr, bits := e.Prefix.Addr(), -1
	if known {
		bits = found.Prefix.Bits()
	}
	f := r.s.alt.Find(addr)
	if known && !f.Longer(bits) {
		return false
	}
	r.beyond, r.finding = true, f
	if f.Kind == alt.Forward {
		return true
	}
	within := mapping.Everything(0, addr)
	if f.Kind != alt.Unknown {
		within.Prefix = f.Prefix
	}
	part := r.s.alt.Narrow(within.Prefix, addr)
	if hole, ok := t.Hole(within, addr); !ok {
		part = netip.PrefixFrom(addr, addr.BitLen()) // only EIDs with a source hold it
	} else if hole.Prefix.Bits() > part.Bits() {
		part = hole.Prefix
	}
	rec := r.negative(mapping.EID{Prefix: part})
	if f.Kind == alt.Down {
		rec.Action, rec.TTL = mapping.Drop, mapping.NotRegisteredTTL
	}
	r.found = append(r.found, rec)
	return true
}

// across reports whether what was resolved last is to go over the ALT.
func (r *reader) across() bool { return r.beyond && r.finding.Kind == alt.Forward }

// cross sends the Map-Request for e over the ALT, as the packet that it was when
// its ITR encapsulated it (RFC 6836 section 3), but for e alone.
func (r *reader) cross(e mapping.EID, q request) {
	s := r.s
	switch {
	case q.secured: // its key is for who answers, and may not cross in the open
		s.counters.inc(dropALTSecured)
		return
	case q.crossed && q.by == r.finding.By:
		s.counters.inc(dropALTLoop)
		return
	}
	p := wire.ECM{Src: q.src, Dst: netip.AddrPortFrom(e.Prefix.Addr(), wire.Port), Message: q.msg}
	if q.target.IsValid() {
		if p.HopLimit = q.hops - 1; q.hops <= 1 {
			s.counters.inc(dropHopLimit)
			return
		}
	}
	if p.Src.Addr().Is4() != p.Dst.Addr().Is4() {
		p.Src = netip.AddrPortFrom(unspecified(p.Dst.Addr()), q.src.Port())
	}
	if len(r.req.EIDs) > 1 || r.req.HasXTRID {
		m := r.req
		m.EIDs = []wire.RequestRecord{wire.NewRequestRecord(e)}
		msg, err := anonymous(m)
		if err != nil {
			s.counters.inc(dropTooLarge)
			return
		}
		p.Message = msg
	}
	start := len(r.buf)
	b, err := p.AppendPacket(r.buf)
	if err != nil {
		s.counters.inc(dropTooLarge)
		return
	}
	s.alt.Send(r.finding, b[start:])
	r.buf = b[:start]
}

// readALT deals with the Map-Requests that come over the ALT until ctx ends.
func (s *Server) readALT(ctx context.Context, to udp.Sender) {
	if s.alt == nil {
		return
	}
	r := s.newReader()
	var out []udp.Message
	for {
		select {
		case <-ctx.Done():
			return
		case x := <-s.alt.Requests():
			out = s.send(to, r.handleALT(s.clock(), x), out)
		}
	}
}

// handleALT processes a Map-Request that came over the ALT. What it returns is
// valid until the next call.
func (r *reader) handleALT(now time.Time, x alt.Request) []datagram {
	r.begin()
	r.first = 0
	r.s.counters.inc(altMapRequests)
	if err := r.req.Decode(x.Message); err != nil {
		r.s.malformed(now, err, x.Src)
		return nil
	}
	if len(r.req.EIDs) > 1 { // nobody sends it so, and each hop could make more of it
		r.s.counters.inc(dropTooManyRecords)
		return nil
	}
	r.request(request{now: now, outer: x.Message, msg: x.Message, octets: len(x.Message), from: x.Src, src: x.Src, target: x.Dst, hops: x.HopLimit, crossed: true, by: x.By})
	return r.out
}
