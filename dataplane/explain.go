package dataplane

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/eidolon-lisp/eidolon/encap"
	"github.com/eidolon-lisp/eidolon/mapping"
)

// Decision tells what becomes of the packets of one flow, and why.
type Decision struct {
	// Drop is why they are dropped; NotDropped when they are encapsulated.
	// DropNoMapping also means that a Map-Request is wanted and that they may
	// be held meanwhile.
	Drop DropReason
	// Entry is what they match; nil when they match nothing or the lookup was
	// not reached.
	Entry *Entry
	// Locators are those of the mapping, or proxy-ETRs, in their order, and what each of them
	// gets of all flows.
	Locators []LocatorUse
	// Hash is the flow hash and Slot the place in the slot table that it
	// picks, 0 to Slots-1.
	Hash uint32
	Slot int
	// RLOC is where they go, sent from Source; each nil or not valid when they
	// are dropped, and when it is for the source to decide, which is not known.
	RLOC   *RLOC
	Source netip.Addr
}

// LocatorUse says how much a locator of a mapping is used.
type LocatorUse struct {
	Locator mapping.Locator
	// Slots is the share of flows that go to it, of Slots.
	Slots int
	// Why is the reason in words when that is 0, and empty otherwise.
	Why string
}

// Explain decides as the forwarding of packets does for the flow k in instance
// iid at now. k may have no source; then what depends on it is left open, and
// the lookup is for any source.
func (s *Snapshot) Explain(iid uint32, k encap.Key, now time.Time) Decision {
	d, attracted := Decision{}, false
	switch {
	case k.Src.IsValid():
		d.Drop = addresses(&k)
	case k.Dst.IsMulticast():
		d.Drop = DropMulticast
	case !encap.Routable(k.Dst):
		d.Drop = DropNotRoutable
	}
	switch {
	case d.Drop != NotDropped:
		return d
	case k.Src.IsValid() && !s.Local(iid, k.Src):
		if d.Drop = s.attracted(iid, k.Src, k.Dst); d.Drop != NotDropped {
			return d
		}
		attracted = true
	}
	switch {
	case s.Local(iid, k.Dst):
		d.Drop = DropDestinationLocal
		return d
	}
	d.Entry = s.Lookup(iid, k.Dst, k.Src, now)
	if d.Entry == nil {
		d.Drop = DropNoMapping
		return d
	}
	d.Locators = s.uses(d.Entry)
	if d.Drop = d.Entry.drop; d.Entry.miss {
		d.Drop = DropNoMapping
	}
	if attracted && len(d.Entry.petrs) > 0 {
		d.Drop = DropNativelyForward
	}
	if d.Drop != NotDropped {
		return d
	}
	if k.Src.IsValid() {
		d.Hash = k.Hash()
		d.Slot = int(d.Hash % Slots)
	} else if len(d.Entry.rlocs) > 1 {
		return d
	}
	d.RLOC = d.Entry.RLOC(d.Hash)
	if from := s.sourcesFor(d.RLOC.addr); k.Src.IsValid() || len(from.addrs) == 1 {
		d.Source = from.of(d.Hash)
	}
	return d
}

// uses tells what each locator of an entry's mapping gets.
func (s *Snapshot) uses(e *Entry) []LocatorUse {
	slots := make(map[netip.Addr]int, len(e.rlocs))
	for slot := range uint32(Slots) {
		if r := e.RLOC(slot); r != nil {
			slots[r.addr]++
		}
	}
	best := mapping.PriorityUnusable
	for _, l := range e.Locators() {
		if slots[l.Addr] > 0 {
			best = min(best, int(l.Priority))
		}
	}
	out := make([]LocatorUse, len(e.Locators()))
	for i, l := range e.Locators() {
		u := LocatorUse{Locator: l}
		switch {
		case !l.Addr.IsValid():
			u.Why = "there is no address in it"
		case l.Flags&mapping.Reachable == 0:
			u.Why = "the R bit is clear: its site says that it is down, or it does not answer"
		case l.Priority == mapping.PriorityUnusable:
			u.Why = "priority 255: not for unicast"
		case !s.Sendable(l.Addr):
			u.Why = "this xTR has no RLOC of its address family"
		case int(l.Priority) > best:
			u.Why = fmt.Sprintf("priority %d, and there is one of %d", l.Priority, best)
		default:
			if u.Slots = slots[l.Addr]; u.Slots == 0 {
				u.Why = fmt.Sprintf("weight %d, beside larger ones", l.Weight)
			}
		}
		out[i] = u
	}
	return out
}
