package dataplane

import (
	"iter"
	"slices"
	"sync"
	"sync/atomic"
)

// Counter is something that a worker counts besides drops.
type Counter uint8

// The counters; counterTable says what each of them counts. Octets are those of
// inner packets, IP header included.
const (
	EncapPackets Counter = iota
	EncapBytes
	DecapPackets
	DecapBytes
	HeldPackets
	ReleasedPackets
	MissQueued
	MissRepeated
	MissLost
	Fragmented
	OuterFragmented
	ICMPTooBig
	ICMPUnreachable
	ICMPLimited
	ECNUnexpected
	SendCalls
	ReceiveCalls
	HostReads
	HostWrites
	MTULowered

	HeaderBitsIgnored
	HeardLost
	VersionQueued
	VersionRepeated
	VersionLost
	MissLimited
	SourceUnlisted
	MSSClamped
	UnreachableQueued
	UnreachableLost
	NativePackets
	CacheHits
	CacheMisses
	Whole
	Unfinished

	HostCacheHits
	HostCacheMisses
	SlowEncap
	SlowDecap
	KernelFull

	numCounters
)

// counterTable has the name of each counter, and in words what it counts.
var counterTable = [numCounters]struct{ name, counts string }{
	EncapPackets:    {"encap_packets", "packets that went to the underlay, fragments each"},
	EncapBytes:      {"encap_bytes", "octets of inner packets that went to the underlay"},
	DecapPackets:    {"decap_packets", "packets that went to the host side"},
	DecapBytes:      {"decap_bytes", "octets of inner packets that went to the host side"},
	HeldPackets:     {"held_packets", "packets put into the hold queue"},
	ReleasedPackets: {"released_packets", "packets that left the hold queue because a mapping came"},
	MissQueued:      {"miss_queued", "misses handed to the resolver"},
	MissRepeated:    {"miss_repeated", "misses not handed over: the same was a moment ago"},
	MissLost:        {"miss_lost", "misses not handed over: the queue was full"},
	Fragmented:      {"fragmented", "inner packets that were split"},
	OuterFragmented: {"outer_fragmented", "packets sent with outer fragmentation allowed"},
	ICMPTooBig:      {"icmp_too_big", "packet too big messages sent to hosts"},
	ICMPUnreachable: {"icmp_unreachable", "destination unreachable messages sent to hosts"},
	ICMPLimited:     {"icmp_limited", "ICMP messages not sent because of the rate limit"},
	ECNUnexpected:   {"ecn_unexpected", "ECN pairs that no standard sender makes (RFC 6040)"},
	SendCalls:       {"send_calls", "system calls, or the like, that sent"},
	ReceiveCalls:    {"receive_calls", "system calls, or the like, that received"},
	HostReads:       {"host_reads", "system calls, or the like, that read from the host side"},
	HostWrites:      {"host_writes", "system calls, or the like, that wrote to the host side"},
	MTULowered:      {"mtu_lowered", "path MTUs lowered by ICMP or by the kernel"},

	HeaderBitsIgnored: {"header_bits_ignored", "packets with a nonce or locator-status-bits, which are not looked at"},
	HeardLost:         {"heard_lost", "outer sources not noted: the memory of them was full"},
	VersionQueued:     {"version_queued", "findings about map-versions handed to the control plane"},
	VersionRepeated:   {"version_repeated", "findings about map-versions not handed over: the same was a moment ago"},
	VersionLost:       {"version_lost", "findings about map-versions not handed over: the queue was full"},
	MissLimited:       {"miss_limited", "misses of inner sources not handed over: there were too many"},
	SourceUnlisted:    {"source_unlisted", "flows and batches taken from an outer source that the mapping does not have"},
	MSSClamped:        {"mss_clamped", "TCP handshake packets whose maximum segment size was lowered"},
	UnreachableQueued: {"unreachable_queued", "unreachable paths handed to the control plane"},
	UnreachableLost:   {"unreachable_lost", "unreachable paths not handed over: the queue was full"},
	NativePackets:     {"native_packets", "packets given back to the host side to be forwarded natively"},
	CacheHits:         {"cache_hits", "packets of hosts for which the map-cache had an answer, be it negative"},
	CacheMisses:       {"cache_misses", "packets of hosts for which the map-cache had no answer"},

	Whole:      {"encap_whole", "super-packets of hosts that left in one piece, to be cut by a network card or by nobody"},
	Unfinished: {"decap_unfinished", "packets that came without a checksum inside, which virtual links and the sites at their ends leave to each other"},

	HostCacheHits:   {"host_cache_hits", "lookups that the kernel plane's caches of flows and hosts answered"},
	HostCacheMisses: {"host_cache_misses", "lookups that went to the kernel plane's tables of prefixes"},
	SlowEncap:       {"slow_encap", "packets of the site that the kernel plane left to the user-space plane"},
	SlowDecap:       {"slow_decap", "datagrams that the kernel plane left to the user-space plane"},
	KernelFull:      {"kernel_full", "times that a mapping found no room in the kernel plane, and was left to the user-space plane"},
}

// String returns the stable snake_case name.
func (c Counter) String() string {
	if c < numCounters {
		return counterTable[c].name
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

// Meanings returns the names of the counters, without those of drops, and in words
// what each counts.
func Meanings() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for _, c := range counterTable {
			if !yield(c.name, c.counts) {
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
