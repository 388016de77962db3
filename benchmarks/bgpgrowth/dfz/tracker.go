package dfz

import (
	"net/netip"
	"sync"
	"time"
)

// Count is what went over the sessions on account of one event, or of all. A
// message that is about several events counts for each of them in parts.
type Count struct {
	Updates, Bytes         float64 // among speakers, as delivered
	Announced, Withdrawn   float64 // prefixes in them
	Offered                float64 // UPDATEs of the speakers, before they were coalesced
	EdgeUpdates, EdgeBytes float64 // of sites to speakers
	Completed              float64 // withdrawals that GoBGP left out and the relays added
	First, Last            time.Time
	touched                map[int]bool
}

// Touched returns how many speakers got or sent any of the messages.
func (c *Count) Touched() int { return len(c.touched) }

// Event is something that happens to prefixes, and what comes of it.
type Event struct {
	Start time.Time // set when it happens
	Count
}

// tracker counts messages.
type tracker struct {
	mu       sync.Mutex
	total    Count
	of       map[netip.Prefix]*Event
	activity time.Time // the last message of any kind of UPDATE
	heard    time.Time // the last UPDATE of a speaker
}

func (t *tracker) each(list []netip.Prefix, add func(e *Event, n int)) {
	if len(t.of) == 0 {
		return
	}
	var last *Event
	n := 0
	for _, p := range list {
		e := t.of[p]
		if e != last && n > 0 {
			add(last, n)
			n = 0
		}
		last = e
		if e != nil {
			n++
		}
	}
	if n > 0 {
		add(last, n)
	}
}

// offered counts a message of a speaker.
func (t *tracker) offered(withdrawn, announced []netip.Prefix) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.activity = time.Now()
	t.heard = t.activity
	t.total.Offered++
	all := float64(len(withdrawn) + len(announced))
	add := func(e *Event, n int) { e.Offered += float64(n) / all }
	t.each(withdrawn, add)
	t.each(announced, add)
}

// delivered counts messages of the given sizes, in prefixes, to the other end of a
// session.
func (t *tracker) delivered(now time.Time, p *pipe, withdrawn bool, list []netip.Prefix, sizes []int, octets int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.activity = now
	all := float64(len(list))
	count := func(c *Count, n, messages, octets float64) {
		c.Updates += messages
		c.Bytes += octets
		if withdrawn {
			c.Withdrawn += n
		} else {
			c.Announced += n
		}
		if c.First.IsZero() {
			c.First = now
		}
		c.Last = now
		if c.touched == nil {
			c.touched = make(map[int]bool)
		}
		c.touched[p.from], c.touched[p.to] = true, true
	}
	count(&t.total, all, float64(len(sizes)), float64(octets))
	for _, n := range sizes {
		part := float64(octets) * float64(n) / all
		t.each(list[:n], func(e *Event, k int) { count(&e.Count, float64(k), float64(k)/float64(n), part*float64(k)/float64(n)) })
		list = list[n:]
	}
}

// edge counts messages of a site.
func (t *tracker) edge(list []netip.Prefix, sizes []int, octets int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.activity = time.Now()
	t.total.EdgeUpdates += float64(len(sizes))
	t.total.EdgeBytes += float64(octets)
	all := float64(len(list))
	for _, n := range sizes {
		t.each(list[:n], func(e *Event, k int) {
			e.EdgeUpdates += float64(k) / float64(n)
			e.EdgeBytes += float64(octets) * float64(k) / all
		})
		list = list[n:]
	}
}

// completed counts a withdrawal that was added.
// last returns when a speaker last said something.
func (t *tracker) last() time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.heard
}

func (t *tracker) completed(p netip.Prefix) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.total.Completed++
	if e := t.of[p]; e != nil {
		e.Completed++
	}
}
