package server

import (
	"encoding/binary"
	"hash/maphash"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
)

// The limits are tables of fixed size that sources and destinations are hashed
// to. They need no lock and do not grow, whatever addresses are forged; the
// hash has a secret seed, so nobody can aim at another's slot.
const (
	// limiterSlots is the number of token buckets for sources: 512 KiB.
	limiterSlots = 1 << 16
	// replySlots is the number of buckets for Map-Replies: 8 MiB, room for
	// what is answered within replySpacing at full speed.
	replySlots = 1 << 20
	// creditSlots is the number of byte credits: 1 MiB.
	creditSlots = 1 << 17
)

// bucket is a token bucket: it holds the age at which it will be full again.
type bucket struct{ full atomic.Int64 }

// take takes tokens that come back within cost nanoseconds, if they are there.
// burst is a full bucket, in nanoseconds.
func (b *bucket) take(now age, cost, burst int64) bool {
	for {
		old := b.full.Load()
		full := max(old, now) + cost
		if full-now > burst {
			return false
		}
		if b.full.CompareAndSwap(old, full) {
			return true
		}
	}
}

// limiter holds token buckets for the sources of Map-Requests.
type limiter struct {
	seed  maphash.Seed
	every int64 // nanoseconds for one token
	burst int64 // in nanoseconds
	slots [limiterSlots]bucket
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
	return l.slots[maphash.Bytes(l.seed, b[:])%limiterSlots].take(now, int64(n)*l.every, l.burst)
}

// replyLimiter holds token buckets for Map-Replies, one for each pair of
// ITR-RLOC and EID-prefix (RFC 9301 section 5.4). Its times are in
// milliseconds, which wrap after 49 days.
//
// A slot is the high half of the hash of its pair, and the time at which the
// bucket will be full again. A pair that finds another one in its slot takes
// it over: the table rather forgets than refuses what is rightly asked for.
// What an attacker gains by flooding it is bounded by credits.
type replyLimiter struct {
	seed         maphash.Seed
	every, burst uint32
	slots        [replySlots]atomic.Uint64
}

func newReplyLimiter(r ReplyRate) *replyLimiter {
	if r.Every == 0 {
		r.Every = replySpacing
	}
	if r.Burst == 0 {
		r.Burst = replyBurst
	}
	every := uint32(r.Every / time.Millisecond)
	return &replyLimiter{seed: maphash.MakeSeed(), every: every, burst: every * uint32(r.Burst)}
}

// allow takes a token for a Map-Reply about e to itr, if there is one.
func (l *replyLimiter) allow(now age, itr netip.Addr, e mapping.EID) bool {
	var pair [16 + 16 + 4 + 1]byte
	a, p := itr.As16(), e.Prefix.Addr().As16()
	copy(pair[:], a[:])
	copy(pair[16:], p[:])
	binary.BigEndian.PutUint32(pair[32:], e.IID)
	pair[36] = uint8(e.Prefix.Bits())
	h := maphash.Bytes(l.seed, pair[:])
	slot, tag := &l.slots[h%replySlots], h>>32
	at := uint32(now / int64(time.Millisecond))
	for {
		old := slot.Load()
		ahead := uint32(old) - at // how long until the bucket is full
		if old>>32 != tag || ahead > l.burst {
			ahead = 0 // another pair's, or full long ago
		}
		if ahead+l.every > l.burst {
			return false
		}
		if slot.CompareAndSwap(old, tag<<32|uint64(at+ahead+l.every)) {
			return true
		}
	}
}

// maxCredit bounds what a credit saves, in octets: as much as one IP packet can
// hold, so that every answer can be saved for.
const maxCredit = 1 << 16

// credits keep the server from amplifying: to no address it sends more than
// 1.5 times the octets of what it received that asked to be answered there,
// whoever sent that. What an answer leaves of its request's share is saved for
// the next one: an ITR whose answer was too long asks again, and then has the
// credit of both.
//
// A slot is the high half of the hash of its address, and the octets that it
// has saved. An address that finds another one in its slot takes it over, and
// begins with nothing.
type credits struct {
	seed  maphash.Seed
	slots [creditSlots]atomic.Uint64
}

func newCredits() *credits { return &credits{seed: maphash.MakeSeed()} }

// credit is the account of one address.
type credit struct {
	slot *atomic.Uint64
	tag  uint64
}

func (c *credits) of(a netip.Addr) credit {
	b := a.As16()
	h := maphash.Bytes(c.seed, b[:])
	return credit{&c.slots[h%creditSlots], h >> 32}
}

// saved returns the octets in a slot's value that belong to this account.
func (c credit) saved(slot uint64) int {
	if slot>>32 != c.tag {
		return 0
	}
	return int(uint32(slot))
}

// earned is the share that a message of received octets earns.
func earned(received int) int { return received + received/2 }

// available returns what may be sent for a message of received octets.
func (c credit) available(received int) int {
	return min(c.saved(c.slot.Load())+earned(received), maxCredit)
}

// spend adds what a message of received octets earns and takes sent octets, if
// they are there; else it only adds, and reports false.
func (c credit) spend(received, sent int) bool {
	for {
		old := c.slot.Load()
		left := min(c.saved(old)+earned(received), maxCredit)
		ok := sent <= left
		if ok {
			left -= sent
		}
		if c.slot.CompareAndSwap(old, c.tag<<32|uint64(left)) {
			return ok
		}
	}
}

// onWire returns the octets of the IP packet that carries n octets of a LISP
// message to or from a.
func onWire(n int, a netip.Addr) int {
	const udp = 8
	if a.Is4() {
		return 20 + udp + n
	}
	return 40 + udp + n
}
