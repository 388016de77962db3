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
	snap atomic.Pointer[Snapshot]

	mu         sync.Mutex // writers
	watchers   []chan struct{}
	rlocs      map[netip.Addr]*RLOC
	idle       int
	defaultMTU int
}

// Snapshot is one state of the FIB. It does not change.
type Snapshot struct {
	entries mapping.Table[*Entry]
	local   mapping.Table[mapping.Version]
	src4    netip.Addr
	src6    netip.Addr
}

// NewFIB returns an empty table: no mapping, no local EID, no source.
func NewFIB() *FIB {
	f := &FIB{rlocs: make(map[netip.Addr]*RLOC), defaultMTU: encap.DefaultMTU}
	f.snap.Store(new(Snapshot))
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
			use := new(usage)
			if had {
				use = old.use
			}
			ed.Insert(c.EID, f.compile(c.EID, c.Record, c.Expires, use, &s))
		case had:
			ed.Delete(c.EID)
		}
		if had {
			f.release(old)
		}
	}
	s.entries = *ed.Table()
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

// SetSources sets the RLOCs that packets are sent from. The zero Addr means
// that there is none of the family, and so no locator of it can be used.
func (f *FIB) SetSources(v4, v6 netip.Addr) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := *f.snap.Load()
	families := s.src4.IsValid() != v4.IsValid() || s.src6.IsValid() != v6.IsValid()
	s.src4, s.src6 = v4, v6
	if families {
		ed := s.entries.Edit(s.entries.Len())
		for eid, e := range s.entries.All() {
			ed.Insert(eid, f.compile(eid, e.record, e.expires, e.use, &s))
			f.release(e)
		}
		s.entries = *ed.Table()
	}
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

// Source returns the RLOC to send from toward the locator.
func (s *Snapshot) Source(rloc netip.Addr) netip.Addr {
	if rloc.Is4() {
		return s.src4
	}
	return s.src6
}

// All walks the entries.
func (s *Snapshot) All() iter.Seq2[mapping.EID, *Entry] { return s.entries.All() }

// Entry is what is done with packets to one EID. It does not change, but for
// its counters.
type Entry struct {
	eid     mapping.EID
	record  *mapping.Record
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

// usage outlives the Entry when a record is replaced.
type usage struct {
	packets, bytes atomic.Uint64

	toldPackets, toldBytes uint64 // under FIB.mu: what Usage has reported
}

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
func (f *FIB) compile(eid mapping.EID, r *mapping.Record, expires time.Time, use *usage, s *Snapshot) *Entry {
	e := &Entry{eid: eid, record: r, expires: expires, use: use}
	if r.Negative() {
		e.drop, e.miss = negative(r.Action)
		return e
	}
	var best []mapping.Locator
	e.drop = DropNoLocator
	for _, l := range r.Locators {
		if !l.Usable() || !encap.Routable(l.Addr) {
			continue
		}
		if !s.Source(l.Addr).IsValid() {
			if len(best) == 0 {
				e.drop = DropNoSource
			}
			continue
		}
		switch {
		case len(best) == 0 || l.Priority < best[0].Priority:
			best = append(best[:0], l)
		case l.Priority == best[0].Priority && len(best) < 255:
			best = append(best, l)
		}
	}
	if len(best) == 0 {
		return e
	}
	e.drop = NotDropped
	slices.SortFunc(best, func(a, b mapping.Locator) int { return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Weight, b.Weight)) })
	locs := make([]weighted, len(best))
	e.rlocs = make([]*RLOC, len(best))
	for i, l := range best {
		e.rlocs[i], locs[i] = f.acquire(l.Addr), weighted{l.Addr, l.Weight}
	}
	if len(best) > 1 {
		e.slots = slotTable(locs)
	}
	return e
}

// Usage calls fn for each EID that packets were forwarded by since the last
// call, with how many. It is for one caller, who tells the map-cache what is
// in use.
func (f *FIB) Usage(fn func(e mapping.EID, packets, bytes uint64)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for eid, e := range f.snap.Load().All() {
		p, b := e.Count()
		if p != e.use.toldPackets {
			fn(eid, p-e.use.toldPackets, b-e.use.toldBytes)
			e.use.toldPackets, e.use.toldBytes = p, b
		}
	}
}
