package dfz

import (
	"container/heap"
	"net/netip"
	"time"
)

// gather is how long a relay waits for more of what is to be said: GoBGP sends
// an UPDATE for each prefix, where other routers put those with equal attributes
// into one. The relays do that for it, and each hop takes this long.
const gather = 10 * time.Millisecond

// coalescer is the output side of a session: it knows what a router wants to say
// and says it when it may. The first change of a prefix goes out after gather;
// what follows within the interval (MinRouteAdvertisementIntervalTimer, RFC 4271
// section 9.2.1.1, which goes for withdrawals too) waits for its end, and of that
// only the last counts. If that is what was said last, nothing is said. The timer
// is each prefix's own.
//
// It is a function of its inputs and the time that is given with them.
type coalescer struct {
	interval time.Duration
	routes   map[netip.Prefix]*route
	due      routeHeap
	waiting  int // routes that have something to say
	order    uint64
}

// route is a prefix that has something to say, or that has said something within
// the interval.
type route struct {
	prefix netip.Prefix
	at     time.Time // when it may speak, or be forgotten
	order  uint64    // of coming, among equal times
	index  int       // in the heap
	waits  bool
	want   string // attributes, or "" to withdraw, if it waits
	said   bool   // something, last within the interval
	last   string // that
}

// withdrawal stands for the attributes of what is withdrawn.
const withdrawal = ""

func newCoalescer() *coalescer { return &coalescer{routes: make(map[netip.Prefix]*route)} }

// add takes what the router says of p at now: its attributes, or withdrawal.
func (c *coalescer) add(now time.Time, p netip.Prefix, attrs string) {
	r := c.routes[p]
	if r == nil {
		c.order++
		r = &route{prefix: p, at: now.Add(gather), order: c.order}
		c.routes[p] = r
		heap.Push(&c.due, r)
	}
	if !r.waits {
		r.waits = true
		c.waiting++
		if soon := now.Add(gather); r.at.Before(soon) {
			r.at = soon
			heap.Fix(&c.due, r.index)
		}
	}
	r.want = attrs
}

// next returns when take has something to do.
func (c *coalescer) next() (time.Time, bool) {
	if len(c.due) == 0 {
		return time.Time{}, false
	}
	return c.due[0].at, true
}

// take calls say for what is to be said at now, in the order in which it came to
// be due.
func (c *coalescer) take(now time.Time, say func(p netip.Prefix, attrs string)) {
	for len(c.due) > 0 && !c.due[0].at.After(now) {
		r := c.due[0]
		speak := r.waits && !(r.said && r.last == r.want)
		if r.waits {
			c.waiting--
		}
		if speak {
			say(r.prefix, r.want)
			if c.interval > 0 {
				r.waits, r.said, r.last, r.want = false, true, r.want, ""
				r.at = now.Add(c.interval)
				heap.Fix(&c.due, 0)
				continue
			}
		}
		heap.Pop(&c.due)
		delete(c.routes, r.prefix)
	}
}

// routeHeap orders routes by time, and equal times by order.
type routeHeap []*route

func (h routeHeap) Len() int { return len(h) }
func (h routeHeap) Less(i, j int) bool {
	if h[i].at.Equal(h[j].at) {
		return h[i].order < h[j].order
	}
	return h[i].at.Before(h[j].at)
}
func (h routeHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}
func (h *routeHeap) Push(x any) {
	r := x.(*route)
	r.index = len(*h)
	*h = append(*h, r)
}
func (h *routeHeap) Pop() any {
	old := *h
	r := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return r
}
