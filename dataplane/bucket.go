package dataplane

import "time"

// bucket is a token bucket for one goroutine.
type bucket struct {
	rate   float64 // tokens a second
	burst  float64
	tokens float64
	last   time.Time
}

func newBucket(rate, burst float64) bucket { return bucket{rate: rate, burst: burst, tokens: burst} }

// allow takes a token if there is one at now.
func (b *bucket) allow(now time.Time) bool {
	if d := now.Sub(b.last).Seconds(); d > 0 {
		if !b.last.IsZero() {
			b.tokens = min(b.burst, b.tokens+d*b.rate)
		}
		b.last = now
	}
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}
