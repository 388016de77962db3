package dataplane

import (
	"iter"
	"slices"
	"sync"
	"sync/atomic"
)

// Counter is something that a worker counts besides drops.
type Counter uint8

// The counters. Octets are those of inner packets, IP header included.
const (
	EncapPackets    Counter = iota // packets that went to the underlay, fragments each
	EncapBytes                     // their octets
	DecapPackets                   // packets that went to the host side
	DecapBytes                     // their octets
	HeldPackets                    // packets put into the hold queue
	ReleasedPackets                // packets that left it because a mapping came
	MissQueued                     // misses handed to the resolver
	MissRepeated                   // misses not handed over: the same was a moment ago
	MissLost                       // misses not handed over: the queue was full
	Fragmented                     // inner packets that were split
	OuterFragmented                // packets sent with outer fragmentation allowed
	ICMPTooBig                     // packet too big messages sent to hosts
	ICMPUnreachable                // destination unreachable messages sent to hosts
	ICMPLimited                    // ICMP messages not sent because of the rate limit
	ECNUnexpected                  // ECN pairs that no standard sender makes (RFC 6040)
	SendCalls                      // system calls, or the like, that sent
	ReceiveCalls                   // system calls, or the like, that received
	HostReads                      // system calls, or the like, that read from the host side
	HostWrites                     // system calls, or the like, that wrote to it
	MTULowered                     // path MTUs lowered by ICMP or by the kernel

	HeaderBitsIgnored // packets with a nonce or locator-status-bits, which are not looked at
	HeardLost         // outer sources not noted: the memory of them was full
	VersionQueued     // findings about map-versions handed to the control plane
	VersionRepeated   // findings not handed over: the same was a moment ago
	VersionLost       // findings not handed over: the queue was full
	MissLimited       // misses of inner sources not handed over: there were too many
	SourceUnlisted    // flows and batches taken from an outer source that the mapping does not have
	MSSClamped        // TCP handshake packets whose maximum segment size was lowered
	UnreachableQueued // unreachable paths handed to the control plane
	UnreachableLost   // paths not handed over: the queue was full
	NativePackets     // packets given back to the host side to be forwarded natively
	CacheHits         // packets of hosts for which the map-cache had an answer, be it negative
	CacheMisses       // packets of hosts for which it had none

	HostCacheHits   // lookups that the kernel plane's caches of flows and hosts answered
	HostCacheMisses // lookups that went to its prefixes
	SlowEncap       // packets of the site that the kernel plane left to the user-space plane
	SlowDecap       // datagrams that the kernel plane left to the user-space plane
	KernelFull      // times that a mapping found no room in the kernel plane, and was left to the user-space plane

	numCounters
)

var counterNames = [numCounters]string{
	EncapPackets:    "encap_packets",
	EncapBytes:      "encap_bytes",
	DecapPackets:    "decap_packets",
	DecapBytes:      "decap_bytes",
	HeldPackets:     "held_packets",
	ReleasedPackets: "released_packets",
	MissQueued:      "miss_queued",
	MissRepeated:    "miss_repeated",
	MissLost:        "miss_lost",
	Fragmented:      "fragmented",
	OuterFragmented: "outer_fragmented",
	ICMPTooBig:      "icmp_too_big",
	ICMPUnreachable: "icmp_unreachable",
	ICMPLimited:     "icmp_limited",
	ECNUnexpected:   "ecn_unexpected",
	SendCalls:       "send_calls",
	ReceiveCalls:    "receive_calls",
	HostReads:       "host_reads",
	HostWrites:      "host_writes",
	MTULowered:      "mtu_lowered",

	HeaderBitsIgnored: "header_bits_ignored",
	HeardLost:         "heard_lost",
	VersionQueued:     "version_queued",
	VersionRepeated:   "version_repeated",
	VersionLost:       "version_lost",
	MissLimited:       "miss_limited",
	SourceUnlisted:    "source_unlisted",
	MSSClamped:        "mss_clamped",
	UnreachableQueued: "unreachable_queued",
	UnreachableLost:   "unreachable_lost",
	NativePackets:     "native_packets",
	CacheHits:         "cache_hits",
	CacheMisses:       "cache_misses",

	HostCacheHits:   "host_cache_hits",
	HostCacheMisses: "host_cache_misses",
	SlowEncap:       "slow_encap",
	SlowDecap:       "slow_decap",
	KernelFull:      "kernel_full",
}

// String returns the stable snake_case name.
func (c Counter) String() string {
	if c < numCounters {
		return counterNames[c]
	}
	return "unknown"
}

// Counters belong to one worker, so that workers do not share cache lines.
// Any goroutine may read them, and more than one may add.
type Counters struct {
	counts [numCounters]atomic.Uint64
	drops  [numDropReasons]atomic.Uint64
	_      [64]byte
}

// Add adds n to a counter.
func (c *Counters) Add(what Counter, n uint64) { c.counts[what].Add(n) }

// Drop counts n packets dropped for the reason.
func (c *Counters) Drop(why DropReason, n uint64) { c.drops[why].Add(n) }

// Stats are the counters of all workers of a plane.
type Stats struct {
	mu      sync.Mutex
	workers []*Counters
	ended   Counters // what workers that are gone have counted
}

// Worker returns new Counters that are part of the sum.
func (s *Stats) Worker() *Counters {
	c := new(Counters)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.workers = append(s.workers, c)
	return c
}

// End keeps what c has counted as part of the sum and forgets c, to which
// nothing may be added any more.
func (s *Stats) End(c *Counters) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.Index(s.workers, c)
	if i < 0 {
		return
	}
	s.workers = slices.Delete(s.workers, i, i+1)
	for k := range c.counts {
		s.ended.counts[k].Add(c.counts[k].Load())
	}
	for k := range c.drops {
		s.ended.drops[k].Add(c.drops[k].Load())
	}
}

// All returns name and sum of every counter and every drop reason, in a fixed
// order, zeros included. Reading stops no traffic: counters that are added to
// meanwhile may be seen before or after.
func (s *Stats) All() iter.Seq2[string, uint64] {
	return func(yield func(string, uint64) bool) {
		for c := range numCounters {
			if !yield(c.String(), s.Get(c)) {
				return
			}
		}
		for _, r := range DropReasons() {
			if !yield("drop_"+r.String(), s.Drops(r)) {
				return
			}
		}
	}
}

// Get returns the sum of one counter.
func (s *Stats) Get(c Counter) uint64 {
	return s.sum(func(w *Counters) uint64 { return w.counts[c].Load() })
}

// Drops returns how many packets were dropped for the reason.
func (s *Stats) Drops(r DropReason) uint64 {
	return s.sum(func(w *Counters) uint64 { return w.drops[r].Load() })
}

func (s *Stats) sum(of func(*Counters) uint64) (n uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n = of(&s.ended)
	for _, w := range s.workers {
		n += of(w)
	}
	return n
}
