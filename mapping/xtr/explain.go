package xtr

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
)

// Resolution is a question to the mapping system that has no answer yet.
type Resolution struct {
	// EID is what is asked for.
	EID mapping.EID
	// Tries counts the Map-Requests so far.
	Tries int
	// GivenUp says that none of them was answered, and that nothing is asked
	// before Next; else Next is when the next Map-Request goes out.
	GivenUp bool
	Next    time.Time
}

// Explanation tells what the control plane of an xTR knows about a
// destination.
type Explanation struct {
	// Database is the site's own EID-prefix that holds the destination; Own is
	// false when there is none. Packets to it are not encapsulated.
	Database DatabaseStatus
	Own      bool
	// Entry is the map-cache entry that packets match; Cached is false when
	// there is none.
	Entry  mapping.CacheEntry
	Cached bool
	// Resolution is the question under way for the destination or for Entry;
	// Resolving is false when there is none.
	Resolution Resolution
	Resolving  bool
	// Unresolvable is the reason in words when the mapping system would not be
	// asked for the destination; empty when it would.
	Unresolvable string
}

// Explain tells what is known about the destination dst of instance iid. It
// asks nobody and changes nothing.
func (x *XTR) Explain(iid uint32, dst netip.Addr) Explanation {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.m.explain(iid, dst.Unmap().WithZone(""))
}

func (m *machine) explain(iid uint32, dst netip.Addr) (e Explanation) {
	host := mapping.HostEID(iid, dst)
	if i, ok := m.ownEID(host); ok {
		e.Own, e.Database = true, m.databases()[i]
	}
	itr := m.itr
	q := itr.queries[host]
	if rec, ok := itr.cache.Lookup(iid, dst); ok {
		e.Entry, e.Cached = itr.cache.Get(rec.EID)
		if q == nil {
			q = itr.queries[rec.EID]
		}
	}
	if q != nil {
		e.Resolving, e.Resolution = true, Resolution{EID: q.eid, Tries: q.tries, GivenUp: q.paused, Next: q.at}
	}
	switch err := mapping.ValidRLOC(dst); {
	case e.Own:
		e.Unresolvable = fmt.Sprintf("%v is the site's own", e.Database.EID)
	case len(m.cfg.MapResolvers) == 0:
		e.Unresolvable = "no map-resolver is configured"
	case err != nil:
		e.Unresolvable = err.Error()
	}
	return e
}
