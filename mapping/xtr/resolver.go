package xtr

import (
	"net/netip"
	"time"
)

// resolvers chooses the map-resolver for each Map-Request: in turn among those
// that answer, another one for a retransmission. A map-resolver that left
// resolverDown requests in a row unanswered is passed over while another one
// answers, but is tried again every resolverRetry.
type resolvers struct {
	list []resolver
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

func newResolvers(addrs []netip.AddrPort) resolvers {
	var r resolvers
	for _, a := range addrs {
		r.list = append(r.list, resolver{addr: a})
	}
	return r
}

func (r *resolver) up() bool { return r.failures < resolverDown }

// pick returns the index of the map-resolver to ask, another than avoid if
// there is a choice. There must be at least one.
func (rs *resolvers) pick(now time.Time, avoid int) int {
	best := -1
	for n := range rs.list {
		i := (rs.turn + n) % len(rs.list)
		r := &rs.list[i]
		switch {
		case i == avoid && len(rs.list) > 1:
		case !r.up() && !now.Before(r.retryAt) && avoid < 0:
			// Whether it is back is found out with a first transmission:
			// if not, the retransmission goes to another one.
			r.retryAt = now.Add(resolverRetry)
			rs.turn = i + 1
			return i
		case best < 0 || r.up() && !rs.list[best].up():
			best = i
		}
	}
	rs.turn = best + 1
	return best
}

func (rs *resolvers) unanswered(now time.Time, i int) {
	r := &rs.list[i]
	r.timeouts++
	r.failures++
	if r.failures == resolverDown {
		r.retryAt = now.Add(resolverRetry)
	}
}

// answered notes a reply after rtt, smoothed as RFC 6298 does.
func (rs *resolvers) answered(now time.Time, i int, rtt time.Duration) {
	r := &rs.list[i]
	r.replies++
	r.failures = 0
	r.lastReply = now
	if r.rtt == 0 {
		r.rtt = rtt
	} else {
		r.rtt += (rtt - r.rtt) / 8
	}
}
