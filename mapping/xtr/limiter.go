package xtr

import "time"

// limiter is a token bucket for each key, in bounded memory. It keeps two
// generations of at most limit keys each: when the young one is full, it
// becomes the old one. A key that is in use moves to the young generation, so
// what is forgotten, and starts again with a full bucket, is what was not used
// while limit other keys were.
//
// A bucket is held as the instant at which it will be full again.
type limiter[K comparable] struct {
	every      time.Duration // the time that makes one token
	burst      int           // tokens in a full bucket, at least 1
	limit      int
	young, old map[K]time.Time
}

func newLimiter[K comparable](every time.Duration, burst, limit int) limiter[K] {
	return limiter[K]{every: every, burst: burst, limit: limit, young: make(map[K]time.Time)}
}

func (l *limiter[K]) full(k K) time.Time {
	if t, ok := l.young[k]; ok {
		return t
	}
	return l.old[k]
}

// ready reports whether the bucket of k holds a token.
func (l *limiter[K]) ready(now time.Time, k K) bool { return !l.readyAt(k).After(now) }

// readyAt returns when the bucket of k holds a token again, or a time in the
// past.
func (l *limiter[K]) readyAt(k K) time.Time {
	return l.full(k).Add(-time.Duration(l.burst-1) * l.every)
}

// take takes a token of k, which may put the bucket in debt.
func (l *limiter[K]) take(now time.Time, k K) {
	t := l.full(k)
	if t.Before(now) {
		t = now
	}
	if _, ok := l.young[k]; !ok && len(l.young) >= l.limit {
		l.old, l.young = l.young, make(map[K]time.Time)
	}
	l.young[k] = t.Add(l.every)
}

// allow takes a token of k if there is one.
func (l *limiter[K]) allow(now time.Time, k K) bool {
	if !l.ready(now, k) {
		return false
	}
	l.take(now, k)
	return true
}
