package xtr

import (
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// reply handles a Map-Reply (RFC 9301 sections 5.4 and 5.5). The nonce is
// looked up before anything is decoded: what was not asked for costs a map
// lookup.
func (i *itr) reply(now time.Time, msg []byte, from netip.AddrPort) {
	i.stats.inc(mapRepliesIn)
	nonce, _ := wire.PeekNonce(msg)
	o, ok := i.nonces[nonce]
	if !ok {
		i.stray(now, from)
		return
	}
	var m wire.MapReply
	if err := m.Decode(msg); err != nil {
		i.refuse(now, controlMalformed, from, err)
		return
	}
	if m.Probe { // no probe has this nonce
		i.stats.inc(mapRepliesUnmatched)
		return
	}
	q, a := o.q, o.q.attempts[o.n]
	var authorised []mapping.EID
	if a.secure != nil {
		if authorised, ok = i.authorised(now, o, msg, &m, from); !ok {
			return
		}
	}
	recs, scope, ok := i.accept(now, q.eid, m.Records, authorised, from)
	if !ok || i.subs.refusal(now, o, scope, from) {
		return
	}
	if a.subscribe {
		i.subs.plain(scope.EID)
	}
	i.answered(now, o, wire.TypeMapReply, recs, scope, from)
}

// answered ends the query of o with the records of a message that answer it, of
// which scope is the answer itself.
func (i *itr) answered(now time.Time, o outstanding, by wire.Type, recs []*mapping.Record, scope *mapping.Record, from netip.AddrPort) {
	q, a := o.q, o.q.attempts[o.n]
	rtt := now.Sub(a.at)
	a.resolver.answered(now, rtt)
	i.heardOf(now)
	i.stats.inc(resolutionsAnswered)
	i.log.Debug(strings.ToLower(by.String())+" received", "eid", scope.EID, "ttl", scope.TTL, "locators", locatorText{scope}, "rtt", rtt, "from", from)
	if r := i.ended(now, q, ResolutionAnswered); r != nil {
		r.Answered, r.From, r.Answer, r.By, r.Request = now, from, scope, by, o.n
	}
	i.finish(q)

	stale := i.superseded(q.eid, scope.EID, recs)
	for _, e := range stale {
		i.removed(now, i.cache.Delete(e), "the mapping system does not know it any more")
	}
	i.install(now, recs)
	for _, r := range recs {
		if r.TTL != 0 {
			i.log.Debug("mapping installed", "eid", r.EID, "locators", locatorText{r})
		}
	}
}

// stray counts a Map-Reply that nothing was asked for. Many of them are
// somebody who guesses nonces.
func (i *itr) stray(now time.Time, from netip.AddrPort) {
	i.stats.inc(mapRepliesUnmatched)
	if !i.strays.allow(now, struct{}{}) && i.logs.allow(now, alarmForgedReplies) {
		i.stats.inc(alarmForgedReplies)
		i.log.Warn("many map-replies that answer nothing; somebody may be forging them", "from", from)
	}
}

// accept returns those of records that may enter the map-cache as an answer to
// a question for asked, and among them the one that answers it: the shortest,
// if several do. See the package comment for the rules. authorised, unless it
// is nil, are the EID-prefixes that the map-server lets the sender answer for.
// ok is false when the whole message is refused.
func (i *itr) accept(now time.Time, asked mapping.EID, records wire.Records, authorised []mapping.EID, from netip.AddrPort) (recs []*mapping.Record, answer *mapping.Record, ok bool) {
	for r := range records.All() {
		rec, err := r.Mapping()
		if err != nil { // an EID of another kind: RFC 9306 section 3
			i.refuse(now, controlMalformed, from, err)
			return nil, nil, false
		}
		if rec.EID.Source.IsValid() {
			i.stats.inc(mapReplyRecordsRefused)
			continue
		}
		if authorised != nil && !slices.ContainsFunc(authorised, func(e mapping.EID) bool { return e.Covers(rec.EID) }) {
			i.refuse(now, mapReplyRecordsOverclaimed, from, nil)
			continue
		}
		recs = append(recs, rec)
	}
	for _, r := range recs {
		if answers(r.EID, asked) && (answer == nil || r.EID.Prefix.Bits() < answer.EID.Prefix.Bits()) {
			answer = r
		}
	}
	if answer == nil {
		i.refuse(now, mapRepliesWrongEID, from, nil)
		return nil, nil, false
	}
	if _, own := i.ownEID(answer.EID); own {
		i.refuse(now, mapReplyRecordsRefused, from, nil)
		return nil, nil, false
	}
	seen := map[mapping.EID]bool{}
	recs = slices.DeleteFunc(recs, func(r *mapping.Record) bool {
		_, own := i.ownEID(r.EID)
		if own || seen[r.EID] || !answer.EID.Covers(r.EID) && !asked.Covers(r.EID) {
			i.stats.inc(mapReplyRecordsRefused)
			return true
		}
		seen[r.EID] = true
		i.sanitize(r)
		return false
	})
	return recs, answer, true
}

// answers reports whether a record for got answers a question for asked: it
// covers it, or, where a cached prefix was asked for that is divided now, it is
// the part of it that the question went to.
func answers(got, asked mapping.EID) bool {
	return got.Covers(asked) || asked.Covers(got) && got.Contains(asked.IID, asked.Prefix.Addr())
}

// sanitize takes the locators out of r that must not be used. Those that are
// no locators to this ITR it ignores, and where all are such, the record is one
// without locators (RFC 9306 section 3).
func (i *itr) sanitize(r *mapping.Record) {
	ignored := 0
	for _, l := range r.Locators {
		if l.Opaque == "" {
			continue
		}
		if a, _, err := wire.DecodeAddress([]byte(l.Opaque)); err != nil || !a.IsLocator() {
			ignored++
		}
	}
	i.stats.add(mapReplyLocatorsIgnored, ignored)
	if ignored == len(r.Locators) {
		r.Locators = nil
	}
	r.Locators = slices.DeleteFunc(r.Locators, func(l mapping.Locator) bool {
		if !l.Addr.IsValid() {
			return false
		}
		bad := mapping.ValidRLOC(l.Addr) != nil
		if !bad {
			_, bad = insideEID(i.own, l.Addr)
		}
		if bad {
			i.stats.inc(mapReplyLocatorsRefused)
		}
		return bad
	})
	for n := range r.Locators {
		r.Locators[n].Flags &^= mapping.Probed // means something in a probe only
	}
}

// superseded returns the cached EIDs between the answer and what was asked
// that the reply does not name: the mapping system knows them no more. If the
// answer is only a part of what was asked, that is what is gone.
func (i *itr) superseded(asked, answer mapping.EID, recs []*mapping.Record) []mapping.EID {
	var gone []mapping.EID
	for bits := min(answer.Prefix.Bits(), asked.Prefix.Bits()); bits <= asked.Prefix.Bits(); bits++ {
		p, err := asked.Prefix.Addr().Prefix(bits)
		if err != nil {
			break
		}
		e := mapping.EID{IID: asked.IID, Prefix: p}
		if _, ok := i.cache.Get(e); ok && !slices.ContainsFunc(recs, func(r *mapping.Record) bool { return r.EID == e }) {
			gone = append(gone, e)
		}
	}
	return gone
}

// locatorText writes the locators of a record, or its action, for the log.
type locatorText struct{ r *mapping.Record }

func (t locatorText) String() string {
	if t.r.Negative() {
		return t.r.Action.String()
	}
	var out []string
	for _, l := range t.r.Locators {
		out = append(out, l.String())
	}
	return strings.Join(out, ", ")
}

// LogValue keeps the conversion off the path when the line is not logged.
func (t locatorText) LogValue() slog.Value { return slog.StringValue(t.String()) }
