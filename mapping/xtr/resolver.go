package xtr

import (
	"net/netip"
	"slices"
	"time"
)

// resolvers chooses the map-resolver for each Map-Request: in turn among those
// that answer, another one for a retransmission. A map-resolver that left
// resolverDown requests in a row unanswered is passed over while another one
// answers, but is tried again every resolverRetry.
type resolvers struct {
	list []*resolver
	turn int
}

type resolver struct {
	addr               netip.AddrPort
	requests, replies  uint64
	timeouts           uint64
	failures           int // unanswered in a row
	rtt                time.Duration
	lastReply, retryAt time.Time
}

// set makes those at addrs the map-resolvers. What is known of one that stays is
// kept; what was asked of one that goes may still be answered.
func (rs *resolvers) set(addrs []netip.AddrPort) {
	list := make([]*resolver, len(addrs))
	for i, a := range addrs {
		if n := slices.IndexFunc(rs.list, func(r *resolver) bool { return r.addr == a }); n >= 0 {
			list[i] = rs.list[n]
		} else {
			list[i] = &resolver{addr: a}
		}
	}
	rs.list, rs.turn = list, 0
}

func (r *resolver) up() bool { return r.failures < resolverDown }

// pick returns the map-resolver to ask, another than avoid if there is a choice;
// nil avoids none. There must be at least one.
func (rs *resolvers) pick(now time.Time, avoid *resolver) *resolver {
	best := -1
	for n := range rs.list {
		i := (rs.turn + n) % len(rs.list)
		r := rs.list[i]
		switch {
		case r == avoid && len(rs.list) > 1:
		case !r.up() && !now.Before(r.retryAt) && avoid == nil:
			// Whether it is back is found out with a first transmission:
			// if not, the retransmission goes to another one.
			r.retryAt = now.Add(resolverRetry)
			rs.turn = i + 1
			return r
		case best < 0 || r.up() && !rs.list[best].up():
			best = i
		}
	}
	rs.turn = best + 1
	return rs.list[best]
}

func (r *resolver) unanswered(now time.Time) {
	r.timeouts++
	r.failures++
	if r.failures == resolverDown {
		r.retryAt = now.Add(resolverRetry)
	}
}

// answered notes a reply after rtt, smoothed as RFC 6298 does.
func (r *resolver) answered(now time.Time, rtt time.Duration) {
	r.replies++
	r.failures = 0
	r.lastReply = now
	if r.rtt == 0 {
		r.rtt = rtt
	} else {
		r.rtt += (rtt - r.rtt) / 8
	}
}
