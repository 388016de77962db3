package server

import (
	"net/netip"
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
	// EventRefused: a Map-Register was refused.
	EventRefused
)

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
	// By is the xTR that registered; zero for mappings of the API.
	By mapping.Registrant
	// Peer is where the Map-Register came from, if it is known.
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
