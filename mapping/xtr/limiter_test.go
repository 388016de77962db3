package xtr

import (
	"testing"
	"time"
)

// TestLimiter compares with the definition: in any window of length w, at most
// burst + w/every events of one key.
func TestLimiter(t *testing.T) {
	rng := seeded(t)
	const every, burst, limit = 100 * time.Millisecond, 3, 8
	l := newLimiter[int](every, burst, limit)
	now := zeroTime
	allowed := map[int][]time.Time{}
	for range 20_000 {
		now = now.Add(time.Duration(rng.IntN(8)) * time.Millisecond)
		k := rng.IntN(limit) // few enough never to be forgotten
		ready := l.ready(now, k)
		if got := l.allow(now, k); got != ready {
			t.Fatalf("ready %v, allow %v", ready, got)
		}
		if ready {
			allowed[k] = append(allowed[k], now)
		}
	}
	for k, ts := range allowed {
		for i := range ts {
			for j := i; j < len(ts); j++ {
				if n, most := j-i+1, burst+int(ts[j].Sub(ts[i])/every); n > most {
					t.Fatalf("key %d: %d events in %v, at most %d", k, n, ts[j].Sub(ts[i]), most)
				}
			}
		}
		// And it is not stricter than it says: the whole rate is given.
		if span := ts[len(ts)-1].Sub(ts[0]); len(ts) < int(span/every)*9/10 {
			t.Errorf("key %d: only %d events in %v", k, len(ts), span)
		}
	}
}

// TestLimiterMemory: a flood of keys neither grows it nor frees a key in use.
func TestLimiterMemory(t *testing.T) {
	const limit = 100
	l := newLimiter[int](time.Hour, 1, limit)
	l.take(zeroTime, -1)
	for k := range 100_000 {
		if k%50 == 0 && l.allow(zeroTime, -1) {
			t.Fatal("a key in use was forgotten")
		}
		if k%50 == 0 {
			l.take(zeroTime, -1)
		}
		l.allow(zeroTime, k)
		if len(l.young) > limit || len(l.old) > limit {
			t.Fatalf("%d and %d keys", len(l.young), len(l.old))
		}
	}
}
