package xtr

import (
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// solicited handles an SMR (RFC 9301 section 6.1): if the mapping that changed
// is cached, the mapping system is asked for it again. The SMR itself proves
// nothing, and nothing is taken from it.
//
// The RFC does not say which field names the mapping. Deployed ETRs put it in
// the source EID, and the EID of the receiver in the record, so the source EID
// is looked up first.
func (i *itr) solicited(now time.Time, m *wire.MapRequest) {
	i.stats.inc(smrIn)
	eid, ok := i.cachedFor(m)
	if !ok {
		i.stats.inc(smrNotCached)
		return
	}
	// Another change may come before the limit allows to ask again. What comes
	// within a second is the same news: an ETR tells all our RLOCs.
	if i.spacing.ready(now, eid) && !i.smr.ready(now, eid) && len(i.later) < maxLater {
		i.later[eid] = i.smr.readyAt(eid)
		i.stats.inc(smrDelayed)
		return
	}
	i.solicit(now, eid)
}

// solicit asks for the mapping of a cached EID, if the limits allow it.
func (i *itr) solicit(now time.Time, eid mapping.EID) {
	if _, ok := i.cache.Get(eid); !ok {
		return // gone since
	}
	if i.queries[eid] != nil || !i.smr.ready(now, eid) || !i.spacing.ready(now, eid) || !i.mayRefresh() {
		i.stats.inc(smrRateLimited)
		return
	}
	i.smr.take(now, eid)
	i.stats.inc(mapRequestsSMRInvoked)
	i.log.Debug("smr received", "eid", eid)
	i.events.Publish(Event{Time: now, Kind: EventSMR, EID: eid})
	i.ask(now, &query{eid: eid, why: forSMR})
}

// cachedFor returns the cached EID that an SMR is about.
func (i *itr) cachedFor(m *wire.MapRequest) (mapping.EID, bool) {
	var candidates []mapping.EID
	if e, err := hostEID(m.SourceEID); err == nil {
		candidates = append(candidates, e)
	}
	if len(m.EIDs) > 0 {
		if e, err := m.EIDs[0].EID.EID(m.EIDs[0].MaskLen); err == nil {
			candidates = append(candidates, e)
		}
	}
	for _, e := range candidates {
		if rec, ok := i.cache.Lookup(e.IID, e.Prefix.Addr()); ok {
			return rec.EID, true
		}
	}
	return mapping.EID{}, false
}

// hostEID returns the EID of a single address, as a Source EID without a mask
// length is meant.
func hostEID(a wire.Address) (mapping.EID, error) {
	if e, err := a.EID(128); err == nil {
		return e, nil
	}
	return a.EID(32)
}
