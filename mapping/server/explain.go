package server

import (
	"fmt"
	"net/netip"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/alt"
)

// Outcome says how a Map-Request is dealt with.
type Outcome uint8

const (
	// OutcomeReply: the map-server answers with locators, or with a negative
	// record that somebody registered or put.
	OutcomeReply Outcome = iota
	// OutcomeForward: an ETR is to answer.
	OutcomeForward
	// OutcomeNegative: the map-server answers that there is no mapping.
	OutcomeNegative
	// OutcomeALT: it goes on over the ALT.
	OutcomeALT
)

var outcomeNames = [...]string{"reply", "forward", "negative", "alt"}

// String returns the name used in the API and output.
func (o Outcome) String() string {
	if int(o) < len(outcomeNames) {
		return outcomeNames[o]
	}
	return fmt.Sprintf("outcome-%d", uint8(o))
}

// Explanation tells what the map-server knows about an EID, what it would do
// with a Map-Request for it, and why.
type Explanation struct {
	// EID is what was asked for.
	EID mapping.EID
	// Site is the name of the site that may register the EID, and Prefix the
	// configured EID-prefix that lets it; both are zero when there is none.
	Site   string
	Prefix PrefixStatus
	// Match is the longest EID known that covers the asked one; Matched is
	// false when there is none.
	Match   MappingStatus
	Matched bool
	// Outcome is what would become of the Map-Request.
	Outcome Outcome
	// Records are those of the Map-Reply, the first of which stands for the
	// EID, all with the lowest of their TTLs; none when it is forwarded. Their
	// locators must not be changed.
	Records []*mapping.Record
	// ETRs are the candidates to forward to; one of them is chosen for each
	// Map-Request.
	ETRs []netip.Addr
	// Subscriptions are those of xTRs to the EID or to what holds it: they are
	// told when its mapping changes.
	Subscriptions []SubscriptionStatus
	// Reasons say in words what led to the outcome, in the order in which it
	// was decided; at least one.
	Reasons []string
}

// Explain tells what a Map-Request for e would get, sent by an ITR with the
// given RLOC, by whose family it is decided how many records fit in a
// Map-Reply; the zero Addr stands for IPv4. It decides with the code that
// answers Map-Requests, and counts nothing.
func (s *Server) Explain(e mapping.EID, itr netip.Addr) Explanation {
	x := Explanation{EID: e}
	t, limit := s.table.Load(), s.maxReply4
	if p := s.sites.Load().longest(e); p != nil {
		x.Site, x.Prefix = p.site.name, p.status(t)
	}
	if itr.Is6() {
		limit = s.maxReply6
	}
	if _, v, ok := lookup(t, e); ok {
		x.Match, x.Matched = s.status(v), true
	}
	x.Subscriptions = s.subscribersOf(e)
	r := s.newReader()
	if n := r.resolve(t, e, false, limit); n != nil {
		x.Outcome = OutcomeForward
		for _, a := range n.etrs {
			if s.canSend(a) {
				x.ETRs = append(x.ETRs, a)
			}
		}
		x.because(origin(n), proxying(n))
		if len(x.ETRs) == 0 {
			x.because("no socket of the address family of an ETR is open: the Map-Request is dropped")
		}
		return x
	}
	if f := r.finding; r.beyond && f.Kind == alt.Forward {
		x.Outcome = OutcomeALT
		x.because(fmt.Sprintf("the ALT has a longer route, %v by %v, than what is known here", f.Prefix, f.NextHop))
		return x
	}
	x.Records = withLowestTTL(r.found)
	if f := r.finding; r.beyond && f.Kind != alt.Unknown {
		x.Outcome = OutcomeNegative
		why := fmt.Sprintf("it is in the aggregate %v of ours, inside of which no longer route covers it", f.Prefix)
		if f.Kind == alt.Down {
			why = fmt.Sprintf("%v is a component of an aggregate of ours, and nobody announces it now", f.Prefix)
		}
		x.because(why)
		return x
	}
	rec := x.Records[0]
	_, v, ok := lookup(t, rec.EID)
	if !ok {
		x.Outcome = OutcomeNegative
		x.because("no EID-prefix of a site and no mapping covers it", fmt.Sprintf("%v is the largest prefix around it that overlaps nothing known", rec.EID))
		return x
	}
	x.because(origin(v))
	if n, ok := v.(*node); ok && n.origin == OriginRegistered {
		x.because(proxying(n))
		if n.record != n.registered {
			x.Outcome = OutcomeNegative
		}
	}
	if _, o := v.current(); o == OriginNone {
		x.Outcome = OutcomeNegative
	}
	switch more := len(x.Records) - 1; {
	case more > 0:
		x.because(fmt.Sprintf("%d EID-prefixes inside it go along, because an ITR would use %v for them too", more, rec.EID))
	case rec.EID != v.eid():
		x.because(fmt.Sprintf("%v is the largest part of %v that holds it and no more-specific", rec.EID, v.eid()))
	}
	return x
}

// withLowestTTL returns copies of records as one Map-Reply carries them.
func withLowestTTL(recs []*mapping.Record) []*mapping.Record {
	ttl := uint32(mapping.TTLReceiver)
	for _, r := range recs {
		ttl = min(ttl, r.TTL)
	}
	out := make([]*mapping.Record, len(recs))
	for i, r := range recs {
		c := *r
		c.TTL, out[i] = ttl, &c
	}
	return out
}

func (x *Explanation) because(reasons ...string) { x.Reasons = append(x.Reasons, reasons...) }

// origin says where the record of an entry comes from, and what it goes before.
func origin(v entry) string {
	n, ok := v.(*node)
	if !ok {
		return fmt.Sprintf("%v was put over the API", v.eid())
	}
	before := ""
	switch {
	case n.origin == OriginStatic && len(n.regs) > 0:
		before = ", which goes before what is registered"
	case n.origin == OriginRegistered && n.api != nil:
		before = ", which goes before what was put over the API"
	}
	switch n.origin {
	case OriginStatic:
		return fmt.Sprintf("%v is a static mapping of the configuration%s", n.key, before)
	case OriginRegistered:
		by := "by one xTR"
		if len(n.regs) > 1 {
			by = fmt.Sprintf("by %d xTRs, whose locators are merged", len(n.regs))
		}
		return fmt.Sprintf("%v is registered %s%s", n.key, by, before)
	case OriginAPI:
		if len(n.regs) > 0 {
			return fmt.Sprintf("%v was put over the API; what is registered is not answered, because request_policy is %v", n.key, n.policy())
		}
		return fmt.Sprintf("%v was put over the API, and is not registered", n.key)
	}
	if n.policy() != RequestsAllowed {
		return fmt.Sprintf("%v is an EID-prefix of a site, and not registered, and request_policy is %v", n.key, n.policy())
	}
	return fmt.Sprintf("%v is an EID-prefix of a site, and not registered", n.key)
}

// proxying says who answers for a registered EID-prefix, as settleForwarding
// has decided.
func proxying(n *node) string {
	policy := ProxyAsRegistered
	if n.prefix != nil {
		policy = n.prefix.ProxyReply
	}
	bit := "no registration has the P bit"
	if !n.forward && policy == ProxyAsRegistered {
		bit = "a registration has the P bit"
	}
	rule := fmt.Sprintf("proxy_reply is %v", policy)
	if policy == ProxyAsRegistered {
		rule += " and " + bit
	}
	switch {
	case n.policy() != RequestsAllowed:
		return fmt.Sprintf("request_policy is %v: the answer is %v", n.policy(), n.record.Action)
	case n.registered.Negative():
		return "it is registered without a locator: the map-server answers"
	case n.forward:
		return rule + ": an ETR answers"
	case n.record != n.registered:
		return fmt.Sprintf("proxy_reply is %v, and no ETR can be reached by what is registered: the answer is that there is no mapping", policy)
	case n.mayForward:
		return rule + ": the map-server answers, unless the Map-Request asks for an authoritative answer"
	}
	return rule + ": the map-server answers"
}
