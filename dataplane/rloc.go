package dataplane

import (
	"iter"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/eidolon-lisp/eidolon/encap"
)

// RLOC is a remote locator with its counters and its path MTU. One RLOC is
// shared by all entries that use it, and by successive snapshots.
type RLOC struct {
	addr     netip.Addr
	overhead int

	packets, bytes atomic.Uint64
	mtu            atomic.Int64 // effective path MTU
	routed         atomic.Bool  // routeMTU is of a route, not a default
	routeMTU       atomic.Int64 // of the route toward it

	// Under FIB.mu.
	refs    int
	pathMTU int // learned from ICMP or measured, 0: none
	learned time.Time
}

// Addr returns the locator's address.
func (r *RLOC) Addr() netip.Addr { return r.addr }

// MTU returns the path MTU toward the locator in octets, outer headers
// included.
func (r *RLOC) MTU() int { return int(r.mtu.Load()) }

// Room returns the largest inner packet that reaches the locator unfragmented
// (S of RFC 9300 section 7.1).
func (r *RLOC) Room() int { return int(r.mtu.Load()) - r.overhead }

// Count returns what was sent to the locator: packets and inner octets.
func (r *RLOC) Count() (packets, bytes uint64) { return r.packets.Load(), r.bytes.Load() }

// RouteMTU returns the MTU of the route toward the locator, or what is assumed
// without one.
func (r *RLOC) RouteMTU() int { return int(r.routeMTU.Load()) }

// RouteKnown reports whether SetRouteMTU was called for the locator.
func (r *RLOC) RouteKnown() bool { return r.routed.Load() }

// floor is the path MTU that is never undercut.
func (r *RLOC) floor() int {
	if r.addr.Is4() {
		return encap.MinMTU4
	}
	return encap.MinMTU6
}

// update computes the effective MTU, and reports whether it became another.
// Called under FIB.mu.
func (r *RLOC) update() bool {
	mtu := r.RouteMTU()
	if r.pathMTU > 0 {
		mtu = min(mtu, r.pathMTU)
	}
	mtu = max(mtu, r.floor())
	return r.mtu.Swap(int64(mtu)) != int64(mtu)
}

// update is RLOC.update, and tells who follows. Called under mu.
func (f *FIB) update(r *RLOC) {
	if r.update() && len(f.followers) > 0 {
		f.tell()
	}
}

// acquire returns the RLOC of an address with one more reference.
func (f *FIB) acquire(a netip.Addr) *RLOC {
	r := f.rlocs[a]
	if r == nil {
		r = &RLOC{addr: a, overhead: encap.Overhead(a)}
		r.routeMTU.Store(int64(f.defaultMTU))
		r.update()
		f.rlocs[a] = r
	} else if r.refs == 0 {
		f.idle--
	}
	r.refs++
	return r
}

// release gives back the references of an entry.
func (f *FIB) release(e *Entry) {
	for _, r := range e.rlocs {
		if r.refs--; r.refs == 0 {
			f.idle++
		}
	}
	if f.idle <= idleRLOCs {
		return
	}
	for a, r := range f.rlocs {
		if r.refs == 0 {
			delete(f.rlocs, a)
		}
	}
	f.idle = 0
}

// RLOCs returns the locators that mappings use now, in the order of their
// addresses.
func (f *FIB) RLOCs() iter.Seq[*RLOC] {
	f.mu.Lock()
	defer f.mu.Unlock()
	var list []*RLOC
	for _, r := range f.rlocs {
		if r.refs > 0 {
			list = append(list, r)
		}
	}
	slices.SortFunc(list, func(a, b *RLOC) int { return a.addr.Compare(b.addr) })
	return slices.Values(list)
}

// InUse reports whether a mapping uses the locator now.
func (f *FIB) InUse(a netip.Addr) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := f.rlocs[a]
	return r != nil && r.refs > 0
}

// SetDefaultMTU sets the path MTU, in octets, that new locators start with
// until SetRouteMTU says better; without it, encap.DefaultMTU.
func (f *FIB) SetDefaultMTU(mtu int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := *f.snap.Load()
	f.defaultMTU, s.defaultMTU = mtu, mtu
	f.snap.Store(&s)
}

// roomBack returns the size of packets that reach the other site: by e, the
// entry for its EID, on each of the ways in use, or if it is nil or has none,
// what is assumed of the way to rloc.
func (s *Snapshot) roomBack(e *Entry, rloc netip.Addr) int {
	if e == nil || len(e.rlocs) == 0 {
		return s.defaultMTU - encap.Overhead(rloc)
	}
	room := e.rlocs[0].Room()
	for _, r := range e.rlocs[1:] {
		room = min(room, r.Room())
	}
	return room
}

// SetRouteMTU sets the MTU of the route toward a locator, in octets, and
// forgets a lower path MTU that is older than 10 minutes at now.
func (f *FIB) SetRouteMTU(a netip.Addr, mtu int, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r := f.rlocs[a]; r != nil {
		r.routeMTU.Store(int64(mtu))
		r.routed.Store(true)
		if now.Sub(r.learned) >= mtuAge {
			r.pathMTU = 0
		}
		f.update(r)
	}
}

// SetPathMTU records that the path toward a locator was measured: packets of mtu
// octets pass, and larger ones do not unless that is the MTU of the route. It
// holds as long and has the same floor as what LowerMTU is told.
func (f *FIB) SetPathMTU(a netip.Addr, mtu int, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r := f.rlocs[a]; r != nil && mtu > 0 {
		r.pathMTU, r.learned = mtu, now
		f.update(r)
	}
}

// LowerMTU records that the path toward a locator takes no more than mtu
// octets, outer headers included. The floor is 576 for IPv4 and 1280 for IPv6.
// It reports whether the path MTU in use became smaller.
func (f *FIB) LowerMTU(a netip.Addr, mtu int, now time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := f.rlocs[a]
	if r == nil || mtu <= 0 {
		return false
	}
	was := r.MTU()
	if max(mtu, r.floor()) > was {
		return false
	}
	r.pathMTU, r.learned = max(mtu, r.floor()), now
	f.update(r)
	return r.MTU() < was
}
