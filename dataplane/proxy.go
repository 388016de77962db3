package dataplane

import (
	"net/netip"
	"slices"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
)

// Proxies are the roles of this router between LISP sites and the rest of the
// Internet (RFC 6832), beside its own site.
type Proxies struct {
	// ITR are the EID-prefixes that it attracts: packets to them come from
	// sources that are no EIDs.
	ITR []mapping.EID
	// ETR are the EID-prefixes of the sites that it forwards packets of, to
	// destinations that are no EIDs.
	ETR []mapping.EID
}

// proxies is what a Snapshot has of Proxies.
type proxies struct {
	itr, etr  mapping.Table[struct{}]
	instances []uint32 // of etr
}

// SetProxies replaces the roles as a proxy.
func (f *FIB) SetProxies(p Proxies) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := *f.snap.Load()
	s.proxies = proxies{itr: prefixes(p.ITR), etr: prefixes(p.ETR)}
	for _, e := range p.ETR {
		if !slices.Contains(s.instances, e.IID) {
			s.instances = append(s.instances, e.IID)
		}
	}
	f.publish(&s)
}

func prefixes(list []mapping.EID) mapping.Table[struct{}] {
	ed := new(mapping.Table[struct{}]).Edit(len(list))
	for _, e := range list {
		ed.Insert(e, struct{}{})
	}
	return *ed.Table()
}

// attracted judges a packet from the host side whose source is no local EID: a
// proxy-ITR encapsulates what it attracted (RFC 6832 section 5).
func (s *Snapshot) attracted(iid uint32, src, dst netip.Addr) DropReason {
	if _, ok := s.itr.Lookup(iid, dst); !ok {
		return DropSourceNotEID
	}
	if _, ok := s.itr.Lookup(iid, src); ok {
		return DropProxyLoop // another ITR's work
	}
	return NotDropped
}

// served judges a received packet whose inner destination is no local EID: a
// proxy-ETR forwards what its sites send, and nobody else, to what is no EID
// (RFC 6832 section 6).
func (s *Snapshot) served(iid uint32, src, dst netip.Addr) DropReason {
	if !slices.Contains(s.instances, iid) {
		return DropDestinationNotLocal
	}
	if _, ok := s.etr.Lookup(iid, src); !ok {
		return DropProxySource
	}
	_, site := s.etr.Lookup(iid, dst)
	if _, attracted := s.itr.Lookup(iid, dst); site || attracted {
		return DropProxyLoop // it would be encapsulated again
	}
	return NotDropped
}

// nativeGrace is how long after the kernel has its route packets may still come
// here that it should forward itself.
const nativeGrace = time.Second

// SetNative says that from now on the kernel itself forwards packets that match
// the entry, or no more. For a moment then those that were held, or on their way
// here, are given back to it; later ones are dropped, so that none goes round.
// It is for planes with Config.Native and entries with DropNativelyForward.
func (e *Entry) SetNative(on bool, now time.Time) {
	switch {
	case !on:
		e.use.native.Store(0)
	case e.use.native.Load() == 0:
		e.use.native.Store(now.UnixMilli())
	}
}

// natively gives the packet back to the host side, as soon as the kernel will
// not send it here again.
func (e *Encap) natively(p *HostPacket, now time.Time) {
	since := e.run.entry.use.native.Load()
	switch {
	case since != 0 && now.UnixMilli()-since <= nativeGrace.Milliseconds():
		e.msg[0] = e.join(p)
		if n, _ := e.host.Write(e.msg[:]); n == 1 {
			e.c.Add(NativePackets, 1)
		} else {
			e.c.Drop(DropHostWrite, 1)
		}
	case since != 0 || e.f.hold == nil || e.releaser:
		e.c.Drop(DropNativelyForward, 1)
	default:
		_, drop := e.f.hold.put(holdKey{e.iid, e.flow.Dst}, e.flow.Src, p, now, false)
		e.countHeld(drop)
	}
}
