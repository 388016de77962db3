package xtr

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// etr answers Map-Requests for the EID-prefixes of the site (RFC 9301 sections
// 5.3 to 5.5 and 7.1).
type etr struct {
	part
	replies limiter[replyKey]
	probes  limiter[replyKey]
	credit  credits
	// verified reports whether an address has proved that it is there.
	verified func(now time.Time, a netip.Addr) bool
	req      wire.MapRequest // reused
}

// replyKey is what Map-Replies are limited for: a destination and the
// EID-prefix that answers.
type replyKey struct {
	rloc netip.Addr
	eid  mapping.EID
}

func newETR(c *core) *etr {
	return &etr{
		part:    c.part(LogAnswer),
		replies: newLimiter[replyKey](replySpacing, replyBurst, limiterKeys),
		probes:  newLimiter[replyKey](probeSpacing, probeBurst, limiterKeys),
		credit:  newCredits(),
	}
}

// arrival is how a Map-Request came.
type arrival struct {
	from netip.AddrPort // outer source
	at   netip.AddrPort // the local address it was sent to
	size int            // octets of the IP packet
	// port is the source port of the Map-Request itself, which the Map-Reply
	// goes to (RFC 9301 section 5.5): the inner one if it came in an ECM.
	port         uint16
	encapsulated bool
	security     []byte // the LISP-SEC data of the ECM; nil without
}

// request handles a Map-Request that is not an SMR.
func (e *etr) request(now time.Time, m *wire.MapRequest, how arrival) {
	switch {
	case m.Probe && how.encapsulated: // section 5.8
		e.stats.inc(mapRequestsProbeEncapsulated)
		return
	case m.NoReply:
		e.stats.inc(mapRequestsNoReply)
		return
	case m.Probe:
		e.stats.inc(rlocProbesIn)
	}
	to, ok := e.itrRLOC(m, how.from.Addr())
	if !ok || how.port == 0 {
		e.stats.inc(mapRequestsNoITRRLOC)
		return
	}
	src, _ := e.source(to)
	if how.at.Addr().Is4() == to.Is4() && e.isLocal(how.at.Addr()) {
		src = netip.AddrPortFrom(how.at.Addr(), e.cfg.Port)
	}
	var own []mapping.EID // prefixes that answer, without repetition
	var asked []mapping.EID
	for _, r := range m.EIDs {
		eid, err := r.EID.EID(r.MaskLen)
		if err != nil {
			continue
		}
		if i, ok := e.ownEID(eid); ok && !slices.Contains(own, e.cfg.Databases[i].EID) {
			own = append(own, e.cfg.Databases[i].EID)
			asked = append(asked, eid)
		}
	}
	if len(own) == 0 {
		if m.Probe && e.proxyProbe(now, m, how, to, src) {
			return
		}
		e.stats.inc(mapRequestsNotOurs)
		return
	}
	e.credit.earn(to, how.size)
	limit := &e.replies
	if m.Probe {
		limit = &e.probes
	}
	if !limit.allow(now, replyKey{to, own[0]}) {
		e.stats.inc(mapRepliesRateLimited)
		return
	}
	room := e.cfg.maxPayload(to) - replyHeader
	trusted := e.verified(now, to)
	if !trusted {
		room = min(room, e.credit.of(to)-onWire(replyHeader, to))
	}
	var sign signature
	if how.security != nil {
		if sign, ok = e.open(now, m, how); !ok {
			return
		}
		room -= sign.size()
	}
	var probed netip.Addr
	if m.Probe {
		probed = how.at.Addr()
	}
	recs := e.records(own, asked, probed, room)
	if len(recs) == 0 {
		e.stats.inc(mapRepliesTooLarge)
		return
	}
	// All records of one reply should expire together (section 5.5).
	ttl := slices.MinFunc(recs, func(a, b *mapping.Record) int { return cmp.Compare(a.TTL, b.TTL) }).TTL
	for _, r := range recs {
		r.TTL = ttl
	}
	rs, err := wire.NewRecords(recs...)
	if err != nil {
		e.stats.inc(sendErrors)
		e.log.Error("map-reply could not be encoded", "err", err)
		return
	}
	msg, ok := e.encode(&wire.MapReply{Probe: m.Probe, Nonce: m.Nonce, Records: rs})
	if !ok {
		return
	}
	if how.security != nil {
		if msg, err = sign.otk.SignReply(msg, sign.eidAuth, sign.hmac); err != nil {
			e.stats.inc(sendErrors)
			e.log.Error("map-reply could not be signed", "err", err)
			return
		}
		e.stats.inc(mapRepliesSigned)
	}
	if !trusted && !e.credit.spend(to, onWire(len(msg), to)) {
		e.stats.inc(mapRepliesTooLarge)
		return
	}
	dst := netip.AddrPortFrom(to, how.port)
	e.send(src, dst, msg)
	e.stats.inc(mapRepliesOut)
	e.log.Debug("map-reply sent", "eid", own[0], "to", dst, "records", len(recs), "probe", m.Probe, "nonce", hex(m.Nonce))
}

// replyHeader is the size of a Map-Reply without its records.
const replyHeader = 12

// itrRLOC returns the address to reply to: an ITR-RLOC that can be one and is
// of a family that this xTR has, the sender's own address first, which is the
// one that is known to send from there.
func (e *etr) itrRLOC(m *wire.MapRequest, from netip.Addr) (best netip.Addr, ok bool) {
	for _, a := range m.ITRRLOCs {
		ip, isIP := a.IP()
		if !isIP || mapping.ValidRLOC(ip) != nil {
			continue
		}
		if _, inside := insideEID(e.own, ip); inside {
			continue
		}
		if _, have := e.source(ip); !have {
			continue
		}
		if ip == from {
			return ip, true
		}
		if !ok {
			best, ok = ip, true
		}
	}
	return best, ok
}

// records returns the EID-records that answer: for each prefix of own, itself
// and all its more-specifics in the database (section 5.5). If that is more
// than room octets, each prefix is narrowed to the largest part around what
// was asked that has no more-specifics, which needs one record only; records
// that are still too many are left out, and will be asked for again.
func (e *etr) records(own, asked []mapping.EID, probed netip.Addr, room int) []*mapping.Record {
	var recs []*mapping.Record
	used, seen := 0, make(map[mapping.EID]bool)
	add := func(r *mapping.Record) bool {
		size := recordSize(r)
		if used+size > room || len(recs) == wire.MaxRecords {
			return false
		}
		used += size
		recs = append(recs, r)
		return true
	}
	whole := true
	for _, o := range own {
		for q, i := range e.own.Covered(o) {
			if !seen[q] {
				seen[q] = true
				whole = whole && add(e.record(i, probed))
			}
		}
	}
	if whole {
		return recs
	}
	recs, used = nil, 0
	for _, q := range asked {
		host := q.Prefix.Addr()
		o, i, _ := e.own.LookupPrefix(mapping.HostEID(q.IID, host))
		r := e.record(i, probed)
		r.EID, _ = e.own.Hole(o, host)
		if !add(r) {
			break
		}
	}
	return recs
}

// record returns the record of a database-mapping, the p bit set for the
// locator that was probed (section 5.4).
func (e *etr) record(database int, probed netip.Addr) *mapping.Record {
	r := e.cfg.Databases[database].record()
	r.Locators = slices.Clone(r.Locators)
	for i := range r.Locators {
		if probed.IsValid() && r.Locators[i].Addr == probed {
			r.Locators[i].Flags |= mapping.Probed
		}
	}
	return r
}

// recordSize returns the octets of r in a message; records that cannot be
// encoded were refused with the configuration.
func recordSize(r *mapping.Record) int {
	b, _ := wire.AppendRecord(nil, r)
	return len(b)
}
