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

// counterTable has the name of each counter, and in words what it counts; drops
// are told by their names.
var counterTable = [numCounters]struct{ name, counts string }{
	received:          {"alt_received", "packets that came by the tunnels of the ALT"},
	sent:              {"alt_sent", "Map-Requests sent over the ALT"},
	sendErrors:        {"alt_send_errors", "Map-Requests that could not be sent over the ALT"},
	dropMalformed:     {name: "drop_alt_malformed"},
	dropNotMapRequest: {name: "drop_alt_not_map_request"},
	dropRate:          {name: "drop_alt_rate"},
	dropQueueFull:     {name: "drop_alt_queue_full"},
	dropNoNeighbour:   {name: "drop_alt_no_neighbour"},
	dropNextHop:       {name: "drop_alt_next_hop"},
}

type counters [numCounters]atomic.Uint64

func (cs *counters) inc(c counter) { cs[c].Add(1) }

// Meanings returns the names of the counters of Stats, and in words what each
// counts; those of drops have no words.
func Meanings() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for _, c := range counterTable {
			if !yield(c.name, c.counts) {
				return
			}
		}
	}
}

// Stats walks the counters, which only grow, and the gauge alt_routes, of routes
// that neighbours announced.
func (r *Router) Stats() iter.Seq2[string, uint64] {
	return func(yield func(string, uint64) bool) {
		for c := range r.counters {
			if !yield(counterTable[c].name, r.counters[c].Load()) {
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
