package xtr

import (
	"net/netip"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// A ResolutionTrace is what became of a question to the mapping system, step by step.
type ResolutionTrace struct {
	// EID is what was asked for: a host for a miss, a cached prefix otherwise.
	EID mapping.EID
	// Why is "miss", "refresh", "smr" or "map-data".
	Why string
	// Source is the host that sent the packet that missed; not valid otherwise.
	Source netip.Addr
	// Begun is when the control plane heard of it.
	Begun time.Time
	// Requests are the Map-Requests, in the order they were sent.
	Requests []ResolutionRequest
	Outcome  ResolutionOutcome
	// Answered is when the answer came, and From where from; Answer is the record
	// that answers, By the type of its message, Request the index of the one of
	// Requests that it answers. They are for Outcome ResolutionAnswered.
	Answered time.Time
	From     netip.AddrPort
	Answer   *mapping.Record
	By       wire.Type
	Request  int
	// Ended is when OnCache had returned from the changes that the answer caused,
	// so that the planes had the mapping; or when the question was given up.
	Ended time.Time
}

// ResolutionRequest is one Map-Request.
type ResolutionRequest struct {
	Sent        time.Time
	MapResolver netip.AddrPort
	Nonce       uint64
	Protected   bool // by LISP-SEC
	Subscribes  bool
}

// ResolutionOutcome is how a resolution ended.
type ResolutionOutcome uint8

const (
	ResolutionAnswered ResolutionOutcome = iota
	ResolutionGivenUp                    // nobody answered
	ResolutionNeedless                   // something else brought the mapping, or it is not in use any more
	ResolutionEvicted                    // there were too many questions
)

// String returns a word.
func (o ResolutionOutcome) String() string {
	return [...]string{"answered", "given-up", "needless", "evicted"}[o]
}

var reasonNames = [...]string{forMiss: "miss", forRefresh: "refresh", forSMR: "smr", forMapData: "map-data"}

// ended tells what became of q, if anybody wants to know.
func (i *itr) ended(now time.Time, q *query, outcome ResolutionOutcome) *ResolutionTrace {
	if i.cfg.OnTraces == nil || q.told {
		return nil
	}
	q.told = true
	r := &ResolutionTrace{EID: q.eid, Why: reasonNames[q.why], Source: q.by.addr, Begun: q.begun, Outcome: outcome, Ended: now}
	for _, a := range q.attempts {
		r.Requests = append(r.Requests, ResolutionRequest{a.at, a.resolver.addr, a.nonce, a.secure != nil, a.subscribe})
	}
	i.traces = append(i.traces, r)
	return r
}

// takeTraces returns those that have ended since the last call.
func (m *machine) takeTraces() []*ResolutionTrace {
	list := m.itr.traces
	m.itr.traces = nil
	return list
}
