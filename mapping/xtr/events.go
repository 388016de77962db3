package xtr

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/eidolon-lisp/eidolon/internal/fanout"
	"github.com/eidolon-lisp/eidolon/mapping"
)

// EventKind says what happened at an xTR.
type EventKind uint8

const (
	// EventInstalled: the map-cache learned a mapping, or another one in the
	// place of what it had. A refresh that brings the same is no event.
	EventInstalled EventKind = iota + 1
	// EventRemoved: an entry left the map-cache.
	EventRemoved
	// EventConfirmed: a map-server confirmed a registration for the first time,
	// or again after EventLost.
	EventConfirmed
	// EventLost: several Map-Registers in a row had no Map-Notify.
	EventLost
	// EventSMR: a site solicited a Map-Request, which is sent. SMRs that are
	// ignored are no events.
	EventSMR
	// EventUp: a remote locator answers probes, after it did not.
	EventUp
	// EventDown: a remote locator does not answer probes any more.
	EventDown
	// EventLocator: an RLOC of this router is used, or is not, or an operator
	// wants something else of it.
	EventLocator
)

var eventNames = [...]string{"none", "installed", "removed", "confirmed", "lost", "smr", "up", "down", "locator"}

// String returns a name for logs.
func (k EventKind) String() string {
	if int(k) < len(eventNames) {
		return eventNames[k]
	}
	return fmt.Sprintf("event-%d", uint8(k))
}

// Event is something that happened to the map-cache, a registration or a
// locator.
type Event struct {
	Time time.Time
	Kind EventKind
	// EID is the EID-prefix; not valid with events about a locator.
	EID mapping.EID
	// Peer is the map-server of a registration, and who sent an SMR.
	Peer netip.AddrPort
	// RLOC is the locator of EventUp, EventDown and EventLocator.
	RLOC netip.Addr
	// Record is what was installed, and Previous what the map-cache had for the
	// EID-prefix before, if anything. They must not be changed.
	Record, Previous *mapping.Record
	// Reason says in words why, and with EventLocator how it is now; empty when
	// there is nothing to say.
	Reason string
}

// Watch returns a subscription to the events from now on, whose queue holds at
// most queue of them; the caller closes it. It fails with fanout.ErrTooMany.
func (x *XTR) Watch(queue int) (*fanout.Subscription[Event], error) {
	return x.m.events.Subscribe(queue)
}

// install enters records into the map-cache, as the answer to a question.
func (i *itr) install(now time.Time, recs []*mapping.Record) {
	before := make(map[mapping.EID]*mapping.Record)
	if i.events.Watched() {
		for _, r := range recs {
			if e, ok := i.cache.Get(r.EID); ok {
				before[r.EID] = e.Record
			}
		}
	}
	changes := i.cache.Apply(now, recs...)
	i.changes = append(i.changes, changes...)
	for _, c := range changes {
		switch {
		case c.Record != nil:
		case slices.ContainsFunc(recs, func(r *mapping.Record) bool { return r.EID == c.EID }):
			i.subs.left(now, c.EID, withdrawnHold)
		default:
			i.subs.left(now, c.EID, 0)
		}
	}
	if !i.events.Watched() {
		return
	}
	for _, c := range changes {
		was := before[c.EID]
		switch {
		case c.Record == nil && slices.ContainsFunc(recs, func(r *mapping.Record) bool { return r.EID == c.EID }):
			i.events.Publish(Event{Time: now, Kind: EventRemoved, EID: c.EID, Previous: was, Reason: "it was answered with a TTL of 0"})
		case c.Record == nil:
			i.events.Publish(Event{Time: now, Kind: EventRemoved, EID: c.EID, Reason: "to make room in the map-cache"})
		case was == nil || !was.Equal(c.Record):
			i.events.Publish(Event{Time: now, Kind: EventInstalled, EID: c.EID, Record: c.Record, Previous: was})
		}
	}
}

// removed takes note of entries that have left the map-cache.
func (i *itr) removed(now time.Time, changes []mapping.CacheChange, why string) {
	i.changes = append(i.changes, changes...)
	for _, c := range changes {
		i.subs.left(now, c.EID, 0)
		i.events.Publish(Event{Time: now, Kind: EventRemoved, EID: c.EID, Reason: why})
	}
}

// tell publishes an event about all EID-prefixes of a registration.
func (r *registrar) tell(now time.Time, kind EventKind, g *registration, why string) {
	if !r.events.Watched() {
		return
	}
	for _, d := range g.databases {
		db := r.cfg.Databases[d]
		r.events.Publish(Event{Time: now, Kind: kind, EID: db.EID, Peer: g.server.Addr, Record: db.record(), Reason: why})
	}
}
