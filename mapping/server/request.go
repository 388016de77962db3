package server

import (
	"context"
	"hash/maphash"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/alt"
	"github.com/eidolon-lisp/eidolon/mapping/auth"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// datagram is a message to send.
type datagram struct {
	payload []byte
	// src is the local address; not valid: any of dst's family.
	src, dst netip.AddrPort
}

// reader handles the messages that one goroutine receives. It owns what it
// decodes into and encodes to, so that answering allocates nothing.
type reader struct {
	s      *Server
	ecm    wire.ECM
	req    wire.MapRequest
	reg    wire.MapRegister
	auth   *auth.Worker
	secure exchange

	// What to send for the messages of one batch, and its octets.
	out   []datagram
	first int    // where what is sent for the current message begins in out
	buf   []byte // of what is forwarded
	reply []byte // of the Map-Replies

	found []*mapping.Record // the answer to one requested EID
	made  mapping.Record    // one of them that is not in the table
	// ordinary: the N bit is ignored; the writer answers what can't subscribe.
	ordinary bool
	walker   *mapping.Walker[entry]
	more     more
	scratch  mapping.Record // what of it is being encoded

	// beyond: what is known here is not the longest match, but what the ALT
	// says, which is finding.
	beyond  bool
	finding alt.Finding
}

func (s *Server) newReader() *reader {
	r := &reader{s: s, auth: auth.NewWorker()}
	r.walker = mapping.NewWalker(r.addMore)
	return r
}

// handle processes one message, which it borrows until it returns. out is what
// to send, valid until the next call. reg is an authenticated Map-Register for
// the writer, or nil.
func (r *reader) handle(now time.Time, msg []byte, src, dst netip.AddrPort) (out []datagram, reg *register) {
	r.begin()
	reg = r.take(now, msg, src, dst)
	return r.out, reg
}

// begin forgets what was to be sent: a new batch of messages comes.
func (r *reader) begin() { r.out, r.buf, r.reply = r.out[:0], r.buf[:0], r.reply[:0] }

// take is handle for one message of a batch: it adds to r.out what to send.
func (r *reader) take(now time.Time, msg []byte, src, dst netip.AddrPort) (reg *register) {
	r.first = len(r.out)
	t, err := wire.PeekType(msg)
	if err != nil {
		r.s.malformed(now, err, src)
		return nil
	}
	switch t {
	case wire.TypeMapRequest:
		if err := r.req.Decode(msg); err != nil {
			r.s.malformed(now, err, src)
			return nil
		}
		r.request(request{now: now, outer: msg, msg: msg, octets: len(msg), from: src, src: src, local: dst})
	case wire.TypeECM:
		r.encapsulated(now, msg, src, dst)
	case wire.TypeMapRegister:
		return r.register(now, msg, src, dst)
	case wire.TypeMapReply:
		r.s.unasked(now, src)
	case wire.TypeMapNotifyAck:
		r.acknowledgement(now, msg, src)
	case wire.TypeInfo:
		r.info(now, msg, src, dst)
	default:
		r.s.counters.inc(dropUnexpectedType)
	}
	return nil
}

// unasked counts a Map-Reply: a map-server sends no Map-Requests of its own, so
// it discards them, and says so where they are many (RFC 9301 section 8.3).
func (s *Server) unasked(now time.Time, src netip.AddrPort) {
	s.counters.inc(dropMapReply)
	if !s.mapReplies.take(s.age(now), int64(time.Second)/mapReplyRate, int64(time.Second)) && s.mayLog(now) {
		s.log.Warn("map-replies discarded, which are for an ITR", "src", src, "total", s.counters[dropMapReply].Load(), "suppressed", s.suppressed.Swap(0))
	}
}

// malformed counts a message that can't be decoded, and logs it (RFC 9301
// section 5.1) unless too much was logged just before.
func (s *Server) malformed(now time.Time, err error, src netip.AddrPort) {
	s.counters.inc(dropMalformed)
	if s.mayLog(now) {
		s.log.Warn("message dropped", "reason", dropMalformed.String(), "err", err, "src", src, "suppressed", s.suppressed.Swap(0))
	}
}

func (r *reader) encapsulated(now time.Time, msg []byte, src, dst netip.AddrPort) {
	if err := r.ecm.Decode(msg); err != nil {
		r.s.malformed(now, err, src)
		return
	}
	if t, err := wire.PeekType(r.ecm.Message); err != nil || t != wire.TypeMapRequest {
		r.s.counters.inc(dropUnexpectedType)
		return
	}
	if err := r.req.Decode(r.ecm.Message); err != nil {
		r.s.malformed(now, err, src)
		return
	}
	if !r.ordinary {
		r.s.counters.inc(encapsulatedMapRequests)
	}
	r.request(request{now: now, outer: msg, msg: r.ecm.Message, octets: len(msg), from: src, src: r.ecm.Src, target: r.ecm.Dst, hops: r.ecm.HopLimit, secured: r.ecm.Security, local: dst})
}

// request is what is known of a Map-Request besides its fields.
type request struct {
	now    time.Time
	outer  []byte         // the whole message
	msg    []byte         // the Map-Request as it was received
	octets int            // of the whole message, the ECM too
	from   netip.AddrPort // who sent it to us
	src    netip.AddrPort // whose Map-Request it is: the inner source of an ECM
	local  netip.AddrPort // our address that it came to
	// target and hops are the inner destination and hop limit of an ECM.
	target netip.AddrPort
	hops   uint8
	// secured: r.ecm has LISP-SEC data, and the reply must have some too.
	secured bool
	// crossed: it came over the ALT, by this tunnel.
	crossed bool
	by      alt.Link
}

// request answers or forwards the Map-Request in r.req (RFC 9301 sections 8.3
// and 8.4).
func (r *reader) request(q request) {
	s, m := r.s, &r.req
	if !r.ordinary { // else it was counted when it came
		s.counters.inc(mapRequests)
	}
	switch {
	case m.Probe: // RFC 9301 section 5.2
		s.counters.inc(dropProbe)
		return
	case m.SMR: // for ITRs
		s.counters.inc(dropSMR)
		return
	case m.NoReply:
		s.counters.inc(dropNoReplyWanted)
		return
	case len(m.EIDs) == 0:
		s.counters.inc(dropNoEID)
		return
	case len(m.EIDs) > maxRequestRecords:
		s.counters.inc(dropTooManyRecords)
		return
	case !r.ordinary && !s.limiter.allow(s.age(q.now), q.from.Addr(), len(m.EIDs)):
		s.counters.inc(dropRateLimited)
		return
	}
	if q.src.Port() == 0 { // nobody could answer
		s.counters.inc(dropNoITRRLOC)
		return
	}
	if q.secured && !r.open(&q) {
		return
	}
	if !r.ordinary && !q.crossed && len(s.pubsub.subscribers) > 0 && r.subscribes(&q) {
		return
	}
	itr := s.itrRLOC(m, q)
	debug := s.log.Enabled(context.Background(), slog.LevelDebug)
	t := s.table.Load()
	reply := reply{r: r, dst: netip.AddrPortFrom(itr, q.src.Port()), secured: q.secured, limit: s.maxReply6}
	if itr.Is4() {
		reply.limit = s.maxReply4
	}
	if itr.IsValid() {
		reply.credit, reply.received = s.credits.of(itr), onWire(q.octets, q.from.Addr())
		reply.limit = min(reply.limit, reply.credit.available(reply.received)-onWire(0, itr))
	}
	for _, rec := range m.EIDs {
		e, err := rec.EID.EID(rec.MaskLen)
		if err != nil {
			s.counters.inc(dropNotIPEID)
			continue
		}
		if debug {
			s.log.Debug("map-request received", "eid", e, "itr", itr)
		}
		if n := r.answer(t, e, &q, reply.limit); n != nil {
			r.forward(n, e, q)
			continue
		}
		if r.across() {
			r.cross(e, q)
			continue
		}
		// RFC 9301 section 5.3. An ETR may reach an ITR-RLOC that we can't, so
		// this does not keep a Map-Request from being forwarded.
		if !itr.IsValid() {
			s.counters.inc(dropNoITRRLOC)
			continue
		}
		if !s.replies.allow(s.age(q.now), itr, r.found[0].EID) {
			s.counters.inc(dropReplyRate)
			continue
		}
		reply.add()
		if debug {
			s.log.Debug("map-reply sent", "eid", r.found[0].EID, "action", r.found[0].Action, "itr", itr)
		}
	}
	reply.send(q.local)
}

// itrRLOC picks the ITR-RLOC to reply to, one that can be sent to: the one that
// the request came from, which works now while others may have lost their
// uplink, else one of the family that it came in, else any. The zero Addr: none.
func (s *Server) itrRLOC(m *wire.MapRequest, q request) netip.Addr {
	var family, other netip.Addr
	for _, a := range m.ITRRLOCs {
		ip, ok := a.IP()
		switch {
		case !ok || checkRLOC(ip, q.from.Addr().IsLoopback()) != nil || !s.canSend(ip):
		case ip == q.from.Addr():
			return ip
		case ip.Is4() == q.local.Addr().Is4():
			if !family.IsValid() {
				family = ip
			}
		case !other.IsValid():
			other = ip
		}
	}
	if family.IsValid() {
		return family
	}
	return other
}

// canSend reports whether a socket of a's family is open.
func (s *Server) canSend(a netip.Addr) bool {
	if a.Is4() {
		return s.send4
	}
	return s.send6
}

// resolve finds what the table says about e. It returns the node whose ETRs
// are to answer, or nil after putting the records of the answer in r.found:
// the first one stands for e.
func (r *reader) resolve(t *table, e mapping.EID, authoritative bool, limit int) (forward *node) {
	r.found = r.found[:0]
	addr := e.Prefix.Addr()
	host := mapping.EID{IID: e.IID, Prefix: netip.PrefixFrom(addr, addr.BitLen()), Source: e.Source}
	found, v, ok := lookup(t, e)
	narrowed := false
	if r.beyond = false; r.s.alt != nil && e.IID == 0 && !e.Source.IsValid() {
		if r.askALT(t, e, found, ok) {
			return nil
		}
		narrowed = r.s.alt.Narrow(found.Prefix, addr) != found.Prefix
	}
	if !ok {
		if r.hole(t, e, limit) {
			return nil
		}
		return r.resolve(t, host, authoritative, limit)
	}
	if n, ok := v.(*node); ok && (n.forward || n.mayForward && authoritative) {
		return n
	}
	// The answer for a host that nobody registered is a hole (RFC 9301
	// section 8.3).
	rec, origin := v.current()
	hole := origin == OriginNone && e.IsHost()
	if !hole && !narrowed && !found.Source.IsValid() && r.withMoreSpecifics(t, rec, found, limit) {
		return nil
	}
	// One record, narrowed to the part that holds the address alone.
	part, ok := t.Hole(mapping.EID{IID: found.IID, Prefix: found.Prefix}, addr)
	switch {
	case ok:
	case e != host:
		// A more-specific holds the first address of the prefix.
		return r.resolve(t, host, authoritative, limit)
	default:
		part = host // only EIDs with a source hold it
	}
	if narrowed && part != host {
		if p := r.s.alt.Narrow(found.Prefix, addr); p.Bits() > part.Prefix.Bits() {
			part.Prefix = p
		}
	}
	part.Source = found.Source
	if part != rec.EID {
		r.made = *rec
		r.made.EID = part
		rec = &r.made
	}
	r.found = append(r.found[:0], rec)
	return nil
}

// lookup returns the longest EID that covers e.
func lookup(t *table, e mapping.EID) (found mapping.EID, v entry, ok bool) {
	if e.Source.IsValid() {
		if v, ok := t.LookupFrom(e.IID, e.Prefix.Addr(), e.Source.Addr()); ok && v.eid().Covers(e) {
			return v.eid(), v, true
		}
	}
	return t.LookupPrefix(e)
}

// withMoreSpecifics puts rec, the record of found, and those of all EIDs inside
// found in r.found (RFC 9301 section 5.5). It reports false when they are too
// many for one Map-Reply, or when one of them is for an ETR to answer.
func (r *reader) withMoreSpecifics(t *table, rec *mapping.Record, found mapping.EID, limit int) bool {
	r.found = append(r.found[:0], rec)
	r.more = more{of: found, size: replyHeader + recordSize(rec), limit: limit, fits: true}
	r.walker.Covered(t, found)
	return r.more.fits
}

// more is the state of a walk of withMoreSpecifics.
type more struct {
	of          mapping.EID
	size, limit int
	fits        bool
}

// addMore takes one EID of the walk of withMoreSpecifics.
func (r *reader) addMore(e mapping.EID, v entry) bool {
	m := &r.more
	if e == m.of {
		return true
	}
	rec, _ := v.current()
	n, ok := v.(*node)
	m.size += recordSize(rec)
	m.fits = !(ok && n.forward) && m.size <= m.limit && len(r.found) < wire.MaxRecords
	if m.fits {
		r.found = append(r.found, rec)
	}
	return m.fits
}

// hole answers for an EID that nothing covers: a negative record for the
// least-specific prefix that holds it and overlaps nothing that is known (RFC
// 9301 section 8.4). Where a prefix was asked for and something is inside, that
// is the prefix with all of it; hole reports false if that is no answer.
func (r *reader) hole(t *table, e mapping.EID, limit int) bool {
	addr := e.Prefix.Addr()
	hole, ok := t.Hole(mapping.Everything(e.IID, addr), addr)
	if !ok || hole.Prefix.Bits() > e.Prefix.Bits() {
		if !e.IsHost() {
			all := mapping.EID{IID: e.IID, Prefix: e.Prefix}
			return r.withMoreSpecifics(t, r.negative(all), all, limit)
		}
		hole = mapping.HostEID(e.IID, addr) // only EIDs with a source hold it
	}
	r.found = append(r.found[:0], r.negative(hole))
	return true
}

// negative returns the record of a hole, in r.made.
func (r *reader) negative(e mapping.EID) *mapping.Record {
	r.made = mapping.Record{EID: e, TTL: mapping.NegativeTTL, Action: mapping.NativelyForward}
	return &r.made
}

// forward sends the Map-Request as it is to one of the ETRs of n (RFC 9301
// section 8.3).
func (r *reader) forward(n *node, e mapping.EID, q request) {
	s := r.s
	ecm := wire.ECM{Src: q.src, Dst: q.target, Message: q.msg}
	if r.req.HasXTRID && len(s.pubsub.subscribers) > 0 {
		msg, err := anonymous(r.req)
		if err != nil {
			s.counters.inc(dropTooLarge)
			return
		}
		ecm.Message = msg
	}
	if q.target.IsValid() {
		// Each map-server takes one off, so that two of them that name
		// each other as the ETR do not play ping-pong.
		if ecm.HopLimit = q.hops - 1; q.hops <= 1 {
			s.counters.inc(dropHopLimit)
			return
		}
	} else {
		ecm.Dst = netip.AddrPortFrom(e.Prefix.Addr(), wire.Port)
		if ecm.Src.Addr().Is4() != ecm.Dst.Addr().Is4() {
			// The inner packet needs a source of the EID's family. An
			// ETR answers to the ITR-RLOCs, and to the port.
			ecm.Src = netip.AddrPortFrom(unspecified(ecm.Dst.Addr()), q.src.Port())
		}
	}
	etr := netip.Addr{}
	if q.secured {
		var err error
		if etr, ecm.SecurityData, err = r.secureFor(n, q.local.Addr()); err != nil {
			s.counters.inc(dropTooLarge)
			return
		}
		ecm.Security = true
	} else {
		etr = s.pickETR(n, r.req.Nonce, q.local.Addr())
	}
	if !etr.IsValid() {
		s.counters.inc(dropNoETR)
		return
	}
	to := netip.AddrPortFrom(etr, wire.Port)
	if slices.ContainsFunc(r.out[r.first:], func(d datagram) bool { return d.dst == to }) {
		return // it was forwarded for another of its EIDs, whole
	}
	start := len(r.buf)
	b, err := ecm.AppendBinary(r.buf)
	if err != nil {
		s.counters.inc(dropTooLarge)
		return
	}
	r.buf = b
	d := datagram{payload: b[start:len(b):len(b)], dst: to}
	if etr.Is4() == q.local.Addr().Is4() {
		d.src = q.local
	}
	r.out = append(r.out, d)
	s.counters.inc(forwardedMapRequests)
}

// anonymous returns m without the xTR-ID, which is not for other sites to know:
// who knows it may subscribe for the xTR.
func anonymous(m wire.MapRequest) ([]byte, error) {
	m.HasXTRID = false
	m.EIDs = slices.Clone(m.EIDs)
	for i := range m.EIDs {
		m.EIDs[i].Subscribe = false
	}
	return m.AppendBinary(nil)
}

func unspecified(a netip.Addr) netip.Addr {
	if a.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// pickETR chooses one of n's ETRs that can be sent to and is not ourselves.
func (s *Server) pickETR(n *node, nonce uint64, local netip.Addr) netip.Addr {
	type flow struct {
		eid   mapping.EID
		nonce uint64
	}
	h := maphash.Comparable(s.seed, flow{n.key, nonce})
	for i := range n.etrs {
		a := n.etrs[(h+uint64(i))%uint64(len(n.etrs))]
		if a != local && s.canSend(a) {
			return a
		}
	}
	return netip.Addr{}
}

// Sizes of what a Map-Reply is made of (RFC 9301 section 5.4).
const (
	replyHeader  = 12
	countOffset  = 3  // of the record count in a message
	recordHeader = 12 // with the EID-Prefix-AFI
	rlocHeader   = 8  // with the Loc-AFI
	iidHeader    = 12 // an Instance-ID LCAF around an address
	sourceHeader = 14 // a source/destination LCAF, without the source address
)

// recordSize returns the octets of r in a message.
func recordSize(r *mapping.Record) int {
	n := recordHeader + r.EID.Prefix.Addr().BitLen()/8
	if r.EID.IID != 0 {
		n += iidHeader
	}
	if r.EID.Source.IsValid() {
		n += sourceHeader + r.EID.Source.Addr().BitLen()/8
	}
	for _, l := range r.Locators {
		if l.Opaque != "" {
			n += rlocHeader - 2 + len(l.Opaque)
		} else {
			n += rlocHeader + l.Addr.BitLen()/8
		}
	}
	return n
}

// reply is a Map-Reply under construction at the end of r.reply.
type reply struct {
	r        *reader
	dst      netip.AddrPort
	limit    int // octets
	credit   credit
	received int // octets that the Map-Request was on the wire
	at       int // where it begins in r.reply
	n        int // records
	begun    bool
	secured  bool
	negative bool
}

// add appends the records in r.found, all with the lowest of their TTLs. What
// does not fit behind the answers to earlier EIDs of the request is left out.
func (p *reply) add() {
	r := p.r
	ttl := uint32(mapping.TTLReceiver)
	for _, rec := range r.found {
		ttl = min(ttl, rec.TTL)
	}
	if !p.begun {
		// The records are appended one by one, and counted in the end.
		head := wire.MapReply{Nonce: r.req.Nonce}
		p.at, p.begun = len(r.reply), true
		r.reply, _ = head.AppendBinary(r.reply)
		p.negative = r.found[0].Negative()
	}
	start, n := len(r.reply), p.n
	for _, rec := range r.found {
		r.scratch = *rec
		r.scratch.TTL = ttl
		b, err := wire.AppendRecord(r.reply, &r.scratch)
		size := len(b) - p.at
		if err != nil || size > wire.MaxMessage || n > 0 && size > p.limit || n == wire.MaxRecords {
			r.reply = r.reply[:start]
			r.s.counters.inc(dropTooLarge)
			return
		}
		r.reply = b
		n++
	}
	p.n = n
}

// send puts the Map-Reply, if there is one, among the reader's datagrams,
// unless it is too long for what was received.
func (p *reply) send(local netip.AddrPort) {
	r := p.r
	if p.n == 0 {
		if p.begun {
			r.reply = r.reply[:p.at]
		}
		return
	}
	r.reply[p.at+countOffset] = uint8(p.n)
	if p.secured {
		signed, err := r.protect(r.reply[p.at:], r.found[0].EID)
		if err != nil {
			r.reply = r.reply[:p.at]
			r.s.counters.inc(dropTooLarge)
			return
		}
		r.reply = append(r.reply[:p.at], signed...) // mostly there already
	}
	msg := r.reply[p.at:len(r.reply):len(r.reply)]
	if !p.credit.spend(p.received, onWire(len(msg), p.dst.Addr())) {
		r.s.counters.inc(dropAmplification)
		r.reply = r.reply[:p.at]
		return
	}
	d := datagram{payload: msg, dst: p.dst}
	if p.dst.Addr().Is4() == local.Addr().Is4() {
		d.src = local
	}
	r.out = append(r.out, d)
	r.s.counters.inc(mapReplies)
	if p.secured {
		r.s.counters.inc(protectedMapReplies)
	}
	if p.negative {
		r.s.counters.inc(negativeMapReplies)
	}
}
