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

// gap is the longest pause of a stream.
type gap struct {
	length time.Duration
	ended  bool // false: nothing came until the end
	lost   int
}

// longest finds the longest time without an arrival in the window from..to,
// and how many of the sent were lost. Arrivals are in the order in which they
// came. sent counts what was sent, with numbers from 0; the last tail of them
// may still be on their way and do not count as lost.
//
// A pause that began before the window counts from the window's begin, and one
// that lasts until its end has not ended.
func longest(list []arrival, from, to time.Duration, sent, tail uint64) gap {
	g := gap{ended: true}
	last := from
	for _, a := range list {
		if a.at < from || a.at > to {
			continue
		}
		g.length = max(g.length, a.at-last)
		last = a.at
	}
	if end := to - last; end > stillWaiting {
		g.ended = false
		g.length = max(g.length, end)
	}
	if sent > tail {
		got := make([]bool, sent)
		for _, a := range list {
			if a.seq < sent {
				got[a.seq] = true
			}
		}
		for _, ok := range got[:sent-tail] {
			if !ok {
				g.lost++
			}
		}
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
