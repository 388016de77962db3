package xtr

import (
	"time"

	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// mapData handles the mapping of its sender that a Map-Request carries (M bit,
// RFC 9301 section 5.3). Nobody vouches for it: it names an EID that is likely
// to be needed, for which the mapping system is asked, and nothing else is
// taken from it.
func (i *itr) mapData(now time.Time, m *wire.MapRequest) {
	i.stats.inc(mapDataIn)
	rec, err := m.MapData.Mapping()
	if err != nil || !i.cfg.VerifyMapData || rec.Negative() || rec.TTL == 0 || rec.EID.Source.IsValid() {
		i.stats.inc(mapDataIgnored)
		return
	}
	eid := rec.EID
	_, own := i.ownEID(eid)
	_, cached := i.cache.Lookup(eid.IID, eid.Prefix.Addr())
	if own || cached || i.queries[eid] != nil {
		i.stats.inc(mapDataIgnored)
		return
	}
	if !i.spacing.ready(now, eid) || !i.data.ready(now, struct{}{}) || !i.mayRefresh() {
		i.stats.inc(mapDataRateLimited)
		return
	}
	i.data.take(now, struct{}{})
	i.stats.inc(mapRequestsVerify)
	i.ask(now, &query{eid: eid, why: forMapData})
}
