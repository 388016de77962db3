package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/eidolon-lisp/eidolon/internal/udp"
)

const (
	// burst is how many requests are sent at once.
	burst = 32
	// ringSize is how many requests can be outstanding, and how many DNS can
	// tell apart.
	ringSize = 1 << 16
	// giveUp is when a request counts as lost.
	giveUp = time.Second
)

// A workload makes requests, numbered from 0, and knows their answers.
type workload interface {
	// request writes request seq to m, whose Payload may be used until the
	// request after the next ringSize.
	request(seq uint64, m *udp.Message)
	// match returns the number of the request that an answer is for, or its
	// low 16 bits; ok is false for what is no answer.
	match(answer []byte) (seq uint64, ok bool)
	// check looks at the answer to request seq.
	check(seq uint64, answer []byte) error
}

// result is what one run of load measured.
type result struct {
	sent, answered, lost, wrong uint64
	// unasked answers came too late, twice, or for nothing that was asked.
	unasked uint64
	time    time.Duration
	latency histogram
	// firstWrong says what was wrong first.
	firstWrong error
}

func (r *result) rate() float64 { return float64(r.answered) / r.time.Seconds() }

// load sends requests to a server for a while, and counts and checks what is
// answered. With a rate of 0 it keeps window requests outstanding; else it sends
// rate requests a second, whether they are answered or not. It never sleeps:
// it wants a core of its own.
func load(ctx context.Context, s *udp.Socket, server netip.AddrPort, w workload, window int, rate float64, d time.Duration) (*result, error) {
	if window > ringSize/2 {
		return nil, fmt.Errorf("a window of %d, at most %d is possible", window, ringSize/2)
	}
	q := s.Queues()[0]
	in, ok := q.(udp.Poller)
	if !ok {
		return nil, errors.New("the socket can't be polled")
	}
	type slot struct {
		seq  uint64
		at   time.Duration
		open bool
	}
	var (
		res    result
		ring   = make([]slot, ringSize)
		batch  = make([]udp.Message, burst)
		oldest uint64 // no older request is outstanding
		open   int
		start  = time.Now()
		end    = d
	)
	for {
		now := time.Since(start)
		// A look at the clock for each batch is enough, and one at ctx for
		// each thousand.
		if now >= end && (open == 0 || now >= end+giveUp) {
			break
		}
		if res.sent%1024 < burst && ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		got, err := in.Poll()
		if err != nil {
			return nil, fmt.Errorf("receive: %w", err)
		}
		for i := range got {
			seq, ok := w.match(got[i].Payload)
			x := &ring[seq%ringSize]
			if !ok || !x.open || x.seq != seq && (seq >= ringSize || x.seq%ringSize != seq) {
				res.unasked++
				continue
			}
			x.open = false
			open--
			res.latency.add(now - x.at)
			if err := w.check(x.seq, got[i].Payload); err != nil {
				if res.wrong++; res.firstWrong == nil {
					res.firstWrong = err
				}
				continue
			}
			res.answered++
		}
		// What was lost must not keep its place.
		for ; oldest < res.sent; oldest++ {
			x := &ring[oldest%ringSize]
			if x.open && x.seq == oldest {
				if now-x.at < giveUp && res.sent-oldest < ringSize {
					break
				}
				x.open = false
				open--
				res.lost++
			}
		}
		if now >= end {
			continue
		}
		n := min(window-open, burst)
		if rate > 0 {
			n = min(int(now.Seconds()*rate)-int(res.sent), burst)
		}
		if n <= 0 || rate == 0 && n < burst/2 && open > burst {
			continue
		}
		for i := range n {
			m := &batch[i]
			m.Dst = server
			w.request(res.sent, m)
			ring[res.sent%ringSize] = slot{seq: res.sent, at: now, open: true}
			res.sent++
		}
		open += n
		if failed := q.Send(batch[:n]); failed > 0 {
			return nil, fmt.Errorf("%d of %d requests could not be sent", failed, n)
		}
	}
	res.time = d
	if res.answered == 0 {
		return &res, fmt.Errorf("no answer to %d requests from %v (%d wrong, %v)", res.sent, server, res.wrong, res.firstWrong)
	}
	return &res, nil
}

// histogram counts durations in buckets that are at most 1/16 wide.
type histogram struct {
	buckets [64 * 16]uint64
	n       uint64
}

func (h *histogram) add(d time.Duration) {
	h.buckets[bucketOf(uint64(max(d, 0)))]++
	h.n++
}

// bucketOf returns the bucket of n nanoseconds: four bits behind the highest.
func bucketOf(n uint64) int {
	if n < 16 {
		return int(n)
	}
	shift := 0
	for m := n; m >= 32; m >>= 1 {
		shift++
	}
	return (shift+1)*16 + int(n>>shift) - 16
}

// bucketEnd returns the largest duration of a bucket.
func bucketEnd(i int) time.Duration {
	if i < 16 {
		return time.Duration(i)
	}
	shift := i/16 - 1
	return time.Duration((uint64(i%16+16)+1)<<shift - 1)
}

// quantile returns the duration that a share q of the counted does not exceed.
func (h *histogram) quantile(q float64) time.Duration {
	left := uint64(q * float64(h.n))
	for i, n := range h.buckets {
		if n > 0 && left < n {
			return bucketEnd(i)
		}
		left -= min(n, left)
	}
	return 0
}
