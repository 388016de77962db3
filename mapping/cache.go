package mapping

import (
	"container/heap"
	"container/list"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/gaissmai/bart"
)

// Limits of the map-cache that are ours, not an RFC's.
const (
	// protectedShare is how much of the cache, in percent, may be held by
	// entries that have proved to be in use. The rest stays open to new
	// destinations, so a full cache can always learn.
	protectedShare = 80
	// promoteRounds is the number of observation rounds with traffic after
	// which an entry counts as in use. A scanning host sends a packet or two
	// to each destination, and never gets there.
	promoteRounds = 3
)

// CacheChange is one change of the map-cache, as it is handed to whoever keeps
// a copy (the forwarding table of a plane).
type CacheChange struct {
	EID EID
	// Record is nil when the entry was removed. It must not be changed.
	Record *Record
	// Expires is when the entry stops being valid, even if nobody says so.
	Expires time.Time
	// ProxyETRs, if not empty, are where packets go although Record is negative:
	// it says natively-forward, and the policy is to send what that is about to
	// proxy-ETRs (RFC 6832 section 6). They must not be changed.
	ProxyETRs []Locator
}

// CacheEntry is one entry of the map-cache.
type CacheEntry struct {
	Record    *Record
	Installed time.Time // when this record was learned
	Expires   time.Time
	LastUsed  time.Time // last observation round that saw traffic; zero if none
	// InUse is set once traffic was seen in enough rounds for the entry to be
	// safe from entries that never carried any.
	InUse bool
}

// Cache is the map-cache of an ITR (RFC 9301 section 5.3, RFC 9300 section 6):
// learned records with their expiry, positive and negative, within a limit.
//
// A full cache evicts by use, not by age: an entry becomes protected when
// traffic was seen in promoteRounds rounds of Touch, and an entry that is not
// protected is always evicted before one that is. A host that scans addresses
// so only pushes out other destinations that nobody uses.
//
// A Cache belongs to one goroutine.
type Cache struct {
	limit     int
	instances map[uint32]*bart.Table[*cacheNode]
	size      int
	probation *list.List // of *cacheNode, most recently used in front
	protected *list.List
	expiry    expiryHeap
	evictions uint64
}

type cacheNode struct {
	CacheEntry
	rounds int
	elem   *list.Element
	index  int // in the expiry heap
}

// NewCache returns a cache of at most limit entries; at least 1.
func NewCache(limit int) *Cache {
	return &Cache{
		limit:     max(limit, 1),
		instances: make(map[uint32]*bart.Table[*cacheNode]),
		probation: list.New(),
		protected: list.New(),
	}
}

// Len returns the number of entries, never more than the limit.
func (c *Cache) Len() int { return c.size }

// Evictions returns how many entries were removed to make room.
func (c *Cache) Evictions() uint64 { return c.evictions }

// Apply installs records learned at now and returns the changes in order. A
// record with TTL 0 removes its entry (RFC 9301 section 5.4). A less-specific
// record expires no later than any more-specific one that is cached (section
// 5.5). Records with a source prefix are not cached: their answer holds for
// some senders only. The records belong to the cache afterwards.
func (c *Cache) Apply(now time.Time, recs ...*Record) []CacheChange {
	changes := make([]CacheChange, 0, len(recs))
	for _, r := range recs {
		if !r.EID.IsValid() || r.EID.Source.IsValid() {
			continue
		}
		if r.TTL == 0 {
			changes = append(changes, c.Delete(r.EID)...)
			continue
		}
		changes = append(changes, c.install(now, r)...)
	}
	// The TTLs of more-specifics count once all records of a reply are in.
	for i, ch := range changes {
		if n := c.node(ch.EID); n != nil && ch.Record == n.Record {
			if t := c.earliestBelow(n); t.Before(n.Expires) {
				n.Expires = t
				heap.Fix(&c.expiry, n.index)
			}
			changes[i].Expires = n.Expires
		}
	}
	return changes
}

func (c *Cache) install(now time.Time, r *Record) []CacheChange {
	t := c.instances[r.EID.IID]
	if t == nil {
		t = new(bart.Table[*cacheNode])
		c.instances[r.EID.IID] = t
	}
	expires := now.Add(r.Lifetime())
	if n, ok := t.Get(r.EID.Prefix); ok {
		n.Record, n.Installed, n.Expires = r, now, expires
		heap.Fix(&c.expiry, n.index)
		return []CacheChange{{EID: r.EID, Record: r, Expires: expires}}
	}
	var changes []CacheChange
	for c.size >= c.limit {
		changes = append(changes, c.evict())
	}
	if c.instances[r.EID.IID] == nil { // the eviction emptied this instance
		c.instances[r.EID.IID] = t
	}
	n := &cacheNode{CacheEntry: CacheEntry{Record: r, Installed: now, Expires: expires}}
	t.Insert(r.EID.Prefix, n)
	c.size++
	n.elem = c.probation.PushFront(n)
	heap.Push(&c.expiry, n)
	return append(changes, CacheChange{EID: r.EID, Record: r, Expires: expires})
}

func (c *Cache) earliestBelow(n *cacheNode) time.Time {
	earliest := n.Expires
	if n.Record.EID.IsHost() {
		return earliest
	}
	for _, m := range c.instances[n.Record.EID.IID].Subnets(n.Record.EID.Prefix) {
		if m.Expires.Before(earliest) {
			earliest = m.Expires
		}
	}
	return earliest
}

// evict removes the entry that is least worth keeping.
func (c *Cache) evict() CacheChange {
	from := c.probation
	if from.Len() == 0 {
		from = c.protected
	}
	n := from.Back().Value.(*cacheNode)
	c.evictions++
	c.remove(n)
	return CacheChange{EID: n.Record.EID}
}

func (c *Cache) remove(n *cacheNode) {
	e := n.Record.EID
	t := c.instances[e.IID]
	t.Delete(e.Prefix)
	if t.Size() == 0 {
		delete(c.instances, e.IID)
	}
	c.size--
	c.listOf(n).Remove(n.elem)
	heap.Remove(&c.expiry, n.index)
}

func (c *Cache) listOf(n *cacheNode) *list.List {
	if n.InUse {
		return c.protected
	}
	return c.probation
}

func (c *Cache) node(e EID) *cacheNode {
	if t := c.instances[e.IID]; t != nil && !e.Source.IsValid() {
		n, _ := t.Get(e.Prefix)
		return n
	}
	return nil
}

// Lookup returns the record of the longest entry that holds dst. It may have
// expired if Expire was not called since; the source is not looked at.
func (c *Cache) Lookup(iid uint32, dst netip.Addr) (*Record, bool) {
	if t := c.instances[iid]; t != nil {
		if n, ok := t.Lookup(dst); ok {
			return n.Record, true
		}
	}
	return nil, false
}

// Get returns the entry of exactly e.
func (c *Cache) Get(e EID) (CacheEntry, bool) {
	if n := c.node(e); n != nil {
		return n.CacheEntry, true
	}
	return CacheEntry{}, false
}

// Seen says that traffic matches e, between the rounds that Touch counts:
// nothing but LastUsed changes.
func (c *Cache) Seen(now time.Time, e EID) {
	if n := c.node(e); n != nil {
		n.LastUsed = now
	}
}

// Touch says that traffic matched e since the last observation round. Call it
// once a round and entry; rounds should be some seconds apart.
func (c *Cache) Touch(now time.Time, e EID) {
	n := c.node(e)
	if n == nil {
		return
	}
	n.LastUsed = now
	n.rounds++
	c.listOf(n).MoveToFront(n.elem)
	if n.InUse || n.rounds < promoteRounds {
		return
	}
	c.probation.Remove(n.elem)
	n.InUse = true
	n.elem = c.protected.PushFront(n)
	if c.protected.Len()*100 > c.limit*protectedShare && c.protected.Len() > 1 {
		old := c.protected.Back().Value.(*cacheNode)
		c.protected.Remove(old.elem)
		old.InUse, old.rounds = false, 0
		old.elem = c.probation.PushFront(old)
	}
}

// Expire removes the entries whose time has come.
func (c *Cache) Expire(now time.Time) []CacheChange {
	var changes []CacheChange
	for len(c.expiry) > 0 && !c.expiry[0].Expires.After(now) {
		n := c.expiry[0]
		c.remove(n)
		changes = append(changes, CacheChange{EID: n.Record.EID})
	}
	return changes
}

// NextExpiry returns when Expire has something to do; ok is false when the
// cache is empty.
func (c *Cache) NextExpiry() (t time.Time, ok bool) {
	if len(c.expiry) == 0 {
		return time.Time{}, false
	}
	return c.expiry[0].Expires, true
}

// Delete removes exactly e, if it is there.
func (c *Cache) Delete(e EID) []CacheChange {
	n := c.node(e)
	if n == nil {
		return nil
	}
	c.remove(n)
	return []CacheChange{{EID: e}}
}

// Covered walks the entries of e and inside it.
func (c *Cache) Covered(e EID) iter.Seq[CacheEntry] {
	return func(yield func(CacheEntry) bool) {
		t := c.instances[e.IID]
		if t == nil || e.Source.IsValid() {
			return
		}
		for _, n := range t.Subnets(e.Prefix) {
			if !yield(n.CacheEntry) {
				return
			}
		}
	}
}

// All walks the entries by instance and prefix.
func (c *Cache) All() iter.Seq[CacheEntry] {
	return func(yield func(CacheEntry) bool) {
		for _, iid := range slices.Sorted(maps.Keys(c.instances)) {
			for _, n := range c.instances[iid].AllSorted() {
				if !yield(n.CacheEntry) {
					return
				}
			}
		}
	}
}

// expiryHeap is a heap.Interface by Expires whose nodes know their place.
type expiryHeap []*cacheNode

func (h expiryHeap) Len() int           { return len(h) }
func (h expiryHeap) Less(i, j int) bool { return h[i].Expires.Before(h[j].Expires) }
func (h expiryHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h *expiryHeap) Push(x any) {
	n := x.(*cacheNode)
	n.index = len(*h)
	*h = append(*h, n)
}

func (h *expiryHeap) Pop() any {
	last := len(*h) - 1
	n := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return n
}
