package alt

import (
	"iter"
	"sync/atomic"
)

// counter names a counter.
type counter uint8

const (
	received counter = iota
	sent
	sendErrors
	dropMalformed
	dropNotMapRequest
	dropRate
	dropQueueFull
	dropNoNeighbour
	dropNextHop
	numCounters
)

var counterNames = [numCounters]string{
	received:          "alt_received",
	sent:              "alt_sent",
	sendErrors:        "alt_send_errors",
	dropMalformed:     "drop_alt_malformed",
	dropNotMapRequest: "drop_alt_not_map_request",
	dropRate:          "drop_alt_rate",
	dropQueueFull:     "drop_alt_queue_full",
	dropNoNeighbour:   "drop_alt_no_neighbour",
	dropNextHop:       "drop_alt_next_hop",
}

type counters [numCounters]atomic.Uint64

func (cs *counters) inc(c counter) { cs[c].Add(1) }

// Stats walks the counters, which only grow, and the gauge alt_routes, of routes
// that neighbours announced.
func (r *Router) Stats() iter.Seq2[string, uint64] {
	return func(yield func(string, uint64) bool) {
		for c := range r.counters {
			if !yield(counterNames[c], r.counters[c].Load()) {
				return
			}
		}
		routes := uint64(0)
		for _, x := range r.table.Load().All() {
			if x.nextHop.IsValid() {
				routes++
			}
		}
		yield("alt_routes", routes)
	}
}
