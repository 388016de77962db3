package server

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/eidolon-lisp/eidolon/internal/fanout"
	"github.com/eidolon-lisp/eidolon/mapping"
)

// EventKind says what happened to a mapping.
type EventKind uint8

const (
	// EventRegistered: an xTR registered an EID-prefix that it had not.
	EventRegistered EventKind = iota + 1
	// EventChanged: an xTR changed what it had registered. A refresh is no
	// event.
	EventChanged
	// EventWithdrawn: a registration ended in order, or another xTR of the site
	// took its place.
	EventWithdrawn
	// EventExpired: a registration ended because nobody refreshed it.
	EventExpired
	// EventPut: a mapping was put over the API, new or in the place of
	// another.
	EventPut
	// EventDeleted: a mapping that had been put was deleted.
	EventDeleted
	// EventSubscribed: an xTR subscribed to an EID, or did so again.
	EventSubscribed
	// EventUnsubscribed: a subscription ended.
	EventUnsubscribed
	// EventPublished: a Map-Notify about an EID went to a subscriber for the
	// first time; what is sent again is no event.
	EventPublished
	// EventRefused: a Map-Register was refused.
	EventRefused
)

var eventNames = [...]string{"none", "registered", "changed", "withdrawn", "expired", "put", "deleted", "subscribed", "unsubscribed", "published", "refused"}

// String returns a name for logs.
func (k EventKind) String() string {
	if int(k) < len(eventNames) {
		return eventNames[k]
	}
	return fmt.Sprintf("event-%d", uint8(k))
}

// Event is something that happened to a mapping, after it is answered so and
// durable.
type Event struct {
	Time time.Time
	Kind EventKind
	// EID is the EID-prefix; not valid with EventRefused.
	EID mapping.EID
	// Site is the name of the site; empty for mappings of the API, and when it
	// is not known who was refused.
	Site string
	// By is the xTR that registered or subscribed; zero for mappings of the
	// API.
	By mapping.Registrant
	// Peer is where the Map-Register came from, if it is known, or where the
	// Map-Notify went.
	Peer netip.AddrPort
	// Record is what By registered or what was put, or had been when it ended;
	// Previous is what that was before a change. They must not be changed.
	Record, Previous *mapping.Record
	// Reason is why: with EventRefused the name of the counter, in words with
	// others, empty when there is nothing to say.
	Reason string
	// Suppressed counts refused messages since the last such event that are not
	// told: what anybody can send must not push out the other events.
	Suppressed uint64
}

// Watch returns a subscription to the events from now on, whose queue holds at
// most queue of them; the caller closes it. It fails with fanout.ErrTooMany.
func (s *Server) Watch(queue int) (*fanout.Subscription[Event], error) {
	return s.events.Subscribe(queue)
}

// tell publishes what has become of the touched EIDs between two tables.
func (s *Server) tell(now time.Time, old, new *table, touched []mapping.EID) {
	if !s.events.Watched() {
		return
	}
	for _, e := range touched {
		before, after := contents(old, e), contents(new, e)
		for _, ev := range s.difference(now, before, after) {
			ev.Time, ev.EID = now, e
			s.events.Publish(ev)
		}
	}
}

// content is what an entry holds that events are about.
type content struct {
	regs []*registration
	api  *plain
}

func contents(t *table, e mapping.EID) content {
	v, _ := t.Get(e)
	if n, ok := v.(*node); ok {
		return content{n.regs, n.api}
	}
	return content{api: apiMapping(t, e)}
}

// difference returns the events, without time and EID, that lead from before to
// after: what ended comes before what began.
func (s *Server) difference(now time.Time, before, after content) (out []Event) {
	find := func(regs []*registration, by mapping.Registrant) *registration {
		if i := slices.IndexFunc(regs, func(x *registration) bool { return x.by == by }); i >= 0 {
			return regs[i]
		}
		return nil
	}
	about := func(k EventKind, x *registration) Event {
		ev := Event{Kind: k, Site: x.site.name, By: x.by, Record: x.record}
		if p := x.from.Load(); p != nil {
			ev.Peer = *p
		}
		return ev
	}
	for _, x := range before.regs {
		switch {
		case find(after.regs, x.by) != nil:
		case x.expires.Load() <= s.age(now):
			out = append(out, about(EventExpired, x))
		case slices.ContainsFunc(after.regs, func(y *registration) bool { return find(before.regs, y.by) != y }):
			ev := about(EventWithdrawn, x)
			ev.Reason = "another xTR of the site took its place"
			out = append(out, ev)
		default:
			ev := about(EventWithdrawn, x)
			if p, why := s.sites.Load().admit(x.eid); why != 0 || p.site != x.site || !p.site.rules.Load().knows(x.by.XTRID) {
				ev.Reason = "its site does not admit it any more"
			}
			out = append(out, ev)
		}
	}
	for _, x := range after.regs {
		switch was := find(before.regs, x.by); {
		case was == nil:
			out = append(out, about(EventRegistered, x))
		case was != x && (was.flags != x.flags || !was.record.Equal(x.record)):
			ev := about(EventChanged, x)
			ev.Previous = was.record
			out = append(out, ev)
		}
	}
	switch {
	case after.api != nil && (before.api == nil || !before.api.Equal(&after.api.Record)):
		ev := Event{Kind: EventPut, Record: &after.api.Record}
		if before.api != nil {
			ev.Previous = &before.api.Record
		}
		out = append(out, ev)
	case before.api != nil && after.api == nil:
		out = append(out, Event{Kind: EventDeleted, Record: &before.api.Record})
	}
	return out
}

// tellSubscription publishes what has become of a subscription.
func (s *Server) tellSubscription(now time.Time, k EventKind, x *subscription, why string) {
	ev := Event{Time: now, Kind: k, EID: x.eid, By: x.by.registrant(), Reason: why}
	if to := x.addresses(); len(to) > 0 {
		ev.Peer = to[0]
	}
	s.events.Publish(ev)
}

func (x *subscriber) registrant() mapping.Registrant {
	return mapping.Registrant{XTRID: x.XTRID, SiteID: x.SiteID}
}
