package server

import (
	"hash/maphash"
	"net/netip"
	"sync/atomic"
	"time"
)

// limiterSlots is the number of token buckets: 512 KiB.
const limiterSlots = 1 << 16

// limiter is a table of token buckets that sources are hashed to. It needs no
// lock and does not grow, whatever sources are forged; the hash has a secret
// seed, so nobody can aim at another's bucket.
type limiter struct {
	seed  maphash.Seed
	every int64 // nanoseconds for one token
	burst int64 // in nanoseconds
	// full holds, for each bucket, the age at which it will be full again.
	full [limiterSlots]atomic.Int64
}

func newLimiter(r RequestRate) *limiter {
	if r.PerSource == 0 {
		r.PerSource = defaultPerSource
	}
	if r.Burst == 0 {
		r.Burst = max(defaultBurst, r.PerSource)
	}
	every := max(int64(time.Second)/int64(r.PerSource), 1)
	return &limiter{seed: maphash.MakeSeed(), every: every, burst: every * int64(r.Burst)}
}

// allow takes n tokens from the bucket of a source, if they are there.
func (l *limiter) allow(now age, src netip.Addr, n int) bool {
	b := src.As16()
	if src.Is6() {
		clear(b[8:])
	}
	slot := &l.full[maphash.Bytes(l.seed, b[:])%limiterSlots]
	for {
		old := slot.Load()
		full := max(old, now) + int64(n)*l.every
		if full-now > l.burst {
			return false
		}
		if slot.CompareAndSwap(old, full) {
			return true
		}
	}
}
