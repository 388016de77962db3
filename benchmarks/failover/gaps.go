package main

import (
	"math"
	"slices"
	"time"
)

// arrival is one datagram or record of a stream that got through. Times are
// those of one clock, since the run began.
type arrival struct {
	seq  uint64
	sent time.Duration
	at   time.Duration
}

// gap is what a stream went through.
type gap struct {
	outage time.Duration // the longest run of what was lost, by the sender's clock
	pause  time.Duration // the longest time without an arrival
	ended  bool          // false: nothing came until the end
	lost   int
}

// longest looks at the window from..to of a stream. Arrivals are in the order
// in which they came. sent counts what was sent, with numbers from 0; the last
// tail of them may still be on their way and do not count as lost.
//
// The outage is told apart from the pause, because on a busy machine a stream
// may pause without losing anything. What arrived late is not lost.
func longest(list []arrival, from, to time.Duration, sent, tail uint64) gap {
	g := gap{ended: true}
	last := from
	for _, a := range list {
		if a.at >= from && a.at <= to {
			g.pause = max(g.pause, a.at-last)
			last = a.at
		}
	}
	g.pause = max(g.pause, to-last)
	g.ended = to-last <= stillWaiting
	if sent <= tail {
		return g
	}
	got := make([]time.Duration, sent) // when it was sent; 0: it did not arrive
	for _, a := range list {
		if a.seq < sent {
			got[a.seq] = max(a.sent, 1)
		}
	}
	before, run := time.Duration(0), false
	for _, at := range got[:sent-tail] {
		switch {
		case at == 0:
			g.lost++
			run = true
			continue
		case run:
			g.outage = max(g.outage, at-before)
		}
		before, run = at, false
	}
	if !g.ended {
		g.outage = max(g.outage, to-before)
	}
	return g
}

// stillWaiting is the pause at the end of a run from which on a stream counts
// as not recovered. Runs end seconds after the streams are back.
const stillWaiting = time.Second

// recovered tells since when the stream is back at time now: nothing was
// missing from it for as long as window. Arrivals are in the order in which
// they came; one is expected each interval.
func recovered(list []arrival, now, window, interval time.Duration) bool {
	n := 0
	for i := len(list) - 1; i >= 0 && list[i].at > now-window; i-- {
		n++
	}
	return float64(n) >= 0.9*float64(window/interval)
}

// quantile of a list by the nearest rank, q from 0 to 1; NaN for an empty
// list. +Inf stands for what never ended.
func quantile(list []float64, q float64) float64 {
	if len(list) == 0 {
		return math.NaN()
	}
	s := slices.Sorted(slices.Values(list))
	return s[min(max(int(math.Ceil(q*float64(len(s))))-1, 0), len(s)-1)]
}
