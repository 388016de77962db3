package dataplane

import (
	"cmp"
	"iter"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/eidolon-lisp/eidolon/encap"
	"github.com/eidolon-lisp/eidolon/mapping"
)

// Limits of the FIB that are ours.
const (
	// mtuAge is how long a lowered path MTU is believed (RFC 1191 section 6.3).
	mtuAge = 10 * time.Minute
	// idleRLOCs is how many locators without a mapping keep their counters and
	// path MTU, so that a mapping that flaps does not lose them.
	idleRLOCs = 1024
)

// LocalEID is a prefix of this site.
type LocalEID struct {
	EID mapping.EID
	// Version is its map-version, for planes with map-versioning.
	Version mapping.Version
}

// FIB is the forwarding table: an immutable Snapshot behind an atomic pointer,
// compiled from the changes of the map-cache and from the local EIDs. Writers
// take a lock, readers of the Snapshot none. All methods may be called from
// any goroutine.
type FIB struct {
	snap   atomic.Pointer[Snapshot]
	tracer atomic.Pointer[Tracer] // nil: none

	tracing sync.Mutex // of who begins and ends traces
	onTrace func(*TraceFilter)

	mu         sync.Mutex // writers
	watchers   []chan struct{}
	followers  []*Follower
	onRead     func()
	rlocs      map[netip.Addr]*RLOC
	idle       int
	defaultMTU int
	sources    []Source
	down       []Path
	local      []netip.Addr             // nil: not known
	tallies    map[netip.Addr]*tally    // of addresses of this router
	tables     map[string]*[Slots]uint8 // by locators

	activity activity
	carried  carried
}

// Snapshot is one state of the FIB. It does not change.
type Snapshot struct {
	entries mapping.Table[*Entry]
	local   mapping.Table[mapping.Version]
	proxies

	from4, from6 *sources                // nil when there is none of the family
	around       map[netip.Addr]*sources // toward remote RLOCs with paths that are down
	own          []localRLOC             // addresses of this router
	defaultMTU   int
}

// NewFIB returns an empty table: no mapping, no local EID, no source.
func NewFIB() *FIB {
	f := &FIB{
		rlocs: make(map[netip.Addr]*RLOC), defaultMTU: encap.DefaultMTU, tables: make(map[string]*[Slots]uint8),
		tallies:  make(map[netip.Addr]*tally),
		activity: activity{fresh: make(chan *usage, maxActive)},
	}
	f.snap.Store(&Snapshot{defaultMTU: f.defaultMTU})
	return f
}

// Snapshot returns the current state.
func (f *FIB) Snapshot() *Snapshot { return f.snap.Load() }

// Watch returns a new channel that gets a value after the table has changed,
// one for any number of changes. It lives as long as the FIB: it is for the
// parts of a plane, not for passing callers.
func (f *FIB) Watch() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	ch := make(chan struct{}, 1)
	f.watchers = append(f.watchers, ch)
	return ch
}

// publish makes s the current state. Called under mu.
func (f *FIB) publish(s *Snapshot) {
	f.snap.Store(s)
	f.tell()
}

// tell says that something has changed. Called under mu.
func (f *FIB) tell() {
	for _, ch := range f.watchers {
		select {
		case ch <- struct{}{}:
		default:
		}
	}
}

// Apply compiles changes of the map-cache, in order, and publishes them at
// once. Counters of an EID live on while its record is replaced.
func (f *FIB) Apply(changes []mapping.CacheChange) {
	if len(changes) == 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	s := *f.snap.Load()
	ed := s.entries.Edit(len(changes))
	for _, c := range changes {
		old, had := ed.Get(c.EID)
		switch {
		case c.Record != nil:
			use := &usage{eid: c.EID}
			if had {
				use = old.use
			}
			ed.Insert(c.EID, f.compile(c.EID, c.Record, c.ProxyETRs, c.Expires, use, &s))
		case had:
			ed.Delete(c.EID)
			old.use.gone.Store(true)
		}
		if had {
			f.release(old)
		}
	}
	s.entries = *ed.Table()
	f.follow(changes)
	f.publish(&s)
}

// SetLocal replaces the local EIDs.
func (f *FIB) SetLocal(local []LocalEID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := *f.snap.Load()
	ed := new(mapping.Table[mapping.Version]).Edit(len(local))
	for _, l := range local {
		ed.Insert(l.EID, l.Version)
	}
	s.local = *ed.Table()
	f.publish(&s)
}

// Lookup returns the entry of the longest EID that holds dst, for packets from
// src; nil when there is none or it has expired at now.
func (s *Snapshot) Lookup(iid uint32, dst, src netip.Addr, now time.Time) *Entry {
	e, ok := s.entries.LookupFrom(iid, dst, src)
	if !ok || !e.expires.After(now) {
		return nil
	}
	return e
}

// Local reports whether a is inside a local EID of the instance.
func (s *Snapshot) Local(iid uint32, a netip.Addr) bool {
	_, ok := s.local.Lookup(iid, a)
	return ok
}

// LocalVersion returns the map-version of the longest local EID that holds a;
// mapping.NullVersion if there is none.
func (s *Snapshot) LocalVersion(iid uint32, a netip.Addr) mapping.Version {
	v, _ := s.local.Lookup(iid, a)
	return v
}

// All walks the entries.
func (s *Snapshot) All() iter.Seq2[mapping.EID, *Entry] { return s.entries.All() }

// Entry is what is done with packets to one EID. It does not change, but for
// its counters.
type Entry struct {
	eid     mapping.EID
	record  *mapping.Record
	petrs   []mapping.Locator // instead of those that record does not have
	expires time.Time
	drop    DropReason // NotDropped: forward
	miss    bool       // ask again: send-map-request
	rlocs   []*RLOC
	slots   *[Slots]uint8 // nil when there is one locator
	use     *usage
}

// EID returns the entry's key.
func (e *Entry) EID() mapping.EID { return e.eid }

// Record returns the mapping that the entry was compiled from; it must not be
// changed.
func (e *Entry) Record() *mapping.Record { return e.record }

// Locators returns those that packets go to: of the mapping, or proxy-ETRs where
// there is none. They must not be changed.
func (e *Entry) Locators() []mapping.Locator {
	if len(e.petrs) > 0 {
		return e.petrs
	}
	return e.record.Locators
}

// Expires returns when the entry stops being used.
func (e *Entry) Expires() time.Time { return e.expires }

// Drop returns why packets are dropped, or NotDropped.
func (e *Entry) Drop() DropReason { return e.drop }

// RLOC returns the locator that packets of the flow hash go to; nil when they
// are dropped.
func (e *Entry) RLOC(hash uint32) *RLOC {
	switch {
	case len(e.rlocs) == 0:
		return nil
	case e.slots == nil:
		return e.rlocs[0]
	}
	return e.rlocs[e.slots[hash%Slots]]
}

// RLOCs returns the locators in use; the slice must not be changed.
func (e *Entry) RLOCs() []*RLOC { return e.rlocs }

// Count returns what was forwarded by the EID so far: packets and octets.
func (e *Entry) Count() (packets, bytes uint64) { return e.use.packets.Load(), e.use.bytes.Load() }

// negative says what becomes of packets that match a record without locators.
func negative(a mapping.Action) (drop DropReason, miss bool) {
	switch a {
	case mapping.NoAction:
		return DropNoAction, false
	case mapping.NativelyForward:
		return DropNativelyForward, false
	case mapping.SendMapRequest:
		return DropNoMapping, true
	case mapping.DropPolicy:
		return DropPolicyDenied, false
	case mapping.DropAuth:
		return DropAuthFailure, false
	}
	return DropNegative, false // and the unassigned actions
}

// compile chooses the locators: usable, of a family that we can send in, and
// of those the lowest priority (RFC 9300 section 9). Called under mu; the
// references that it takes are given back by release.
func (f *FIB) compile(eid mapping.EID, r *mapping.Record, petrs []mapping.Locator, expires time.Time, use *usage, s *Snapshot) *Entry {
	e := &Entry{eid: eid, record: r, expires: expires, use: use}
	if r.Negative() && r.Action == mapping.NativelyForward {
		e.petrs = petrs
	}
	if r.Negative() && len(e.petrs) == 0 {
		e.drop, e.miss = negative(r.Action)
		return e
	}
	priority := mapping.PriorityUnusable
	e.drop = DropNoLocator
	for _, l := range e.Locators() {
		switch {
		case !l.Usable() || !encap.Routable(l.Addr):
		case s.Sendable(l.Addr):
			priority = min(priority, int(l.Priority))
		default:
			e.drop = DropNoSource
		}
	}
	if priority == mapping.PriorityUnusable {
		return e
	}
	e.drop = NotDropped
	var locs []weighted
	for _, l := range e.Locators() {
		if int(l.Priority) == priority && len(locs) < 255 && encap.Routable(l.Addr) && s.Sendable(l.Addr) {
			locs = append(locs, weighted{l.Addr, l.Weight, !l.Usable()})
		}
	}
	slices.SortFunc(locs, func(a, b weighted) int { return cmp.Or(a.addr.Compare(b.addr), cmp.Compare(a.weight, b.weight)) })
	for _, l := range locs {
		if !l.out {
			e.rlocs = append(e.rlocs, f.acquire(l.addr))
		}
	}
	if len(e.rlocs) > 1 {
		e.slots = f.slotTable(locs)
	}
	return e
}

// Usage calls fn for each EID that packets were forwarded by since the last
// call, with how many, in no order. It is for one caller, who tells the map-cache
// what is in use, and takes as long as there are such EIDs, however many mappings
// there are. Until it is called again, the FIB keeps what it will tell of.
func (f *FIB) Usage(fn func(e mapping.EID, packets, bytes uint64)) {
	f.beforeRead()
	f.carried.take(func(u *usage) {
		p, b := u.packets.Load(), u.bytes.Load()
		if p == u.toldPackets { // octets that came meanwhile are told with the next packet
			return
		}
		if !u.gone.Load() {
			fn(u.eid, p-u.toldPackets, b-u.toldBytes)
		}
		u.toldPackets, u.toldBytes = p, b
	})
}
