package dataplane

import (
	"net/netip"
	"slices"
)

// Source is an RLOC of this router that packets may be sent from.
type Source struct {
	Addr netip.Addr
	// Priority and Weight choose among the sources of one family: those of the
	// lowest priority share the flows by weight. With 255 it is used only when
	// there is no other.
	Priority, Weight uint8
}

// Path is the way from an RLOC of this router to a remote one.
type Path struct {
	Local, Remote netip.Addr
}

// sources chooses the source RLOC of a flow. It does not change.
type sources struct {
	addrs []netip.Addr  // 1 at least
	slots *[Slots]uint8 // nil when there is one
}

// of returns the source for a flow hash. The bits of it are others than those
// that choose the locator, so that each locator's flows spread over all sources.
func (t *sources) of(hash uint32) netip.Addr {
	if t.slots == nil {
		return t.addrs[0]
	}
	return t.addrs[t.slots[hash>>16%Slots]]
}

// SetSources replaces the RLOCs that packets are sent from, of both families. A
// locator of a family without a source can't be used. A source that is not one
// of SetLocalRLOCs is left out while there is another.
func (f *FIB) SetSources(list []Source) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := *f.snap.Load()
	had4, had6 := s.from4 != nil, s.from6 != nil
	f.sources = slices.Clone(list)
	f.chooseSources(&s)
	if had4 != (s.from4 != nil) || had6 != (s.from6 != nil) {
		ed := s.entries.Edit(s.entries.Len())
		for eid, e := range s.entries.All() {
			ed.Insert(eid, f.compile(eid, e.record, e.petrs, e.expires, e.use, &s))
			f.release(e)
		}
		s.entries = *ed.Table()
		f.follow(nil)
	}
	f.publish(&s)
}

// SetPathsDown replaces the set of paths that are not used. A remote RLOC whose
// paths are all down is sent to as if none were: whether it is used at all is
// for its mapping to say.
func (f *FIB) SetPathsDown(down []Path) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := *f.snap.Load()
	f.down = slices.Clone(down)
	f.chooseSources(&s)
	f.publish(&s)
}

// SetLocalRLOCs replaces the addresses of this router that packets are received
// on. A packet that claims to come from one of them, or from a source, is
// dropped. nil leaves open which they are.
func (f *FIB) SetLocalRLOCs(list []netip.Addr) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := *f.snap.Load()
	f.local = slices.Clone(list)
	f.chooseSources(&s)
	f.publish(&s)
}

// chooseSources makes the source tables of s. Called under mu.
func (f *FIB) chooseSources(s *Snapshot) {
	f.setOwn(s)
	s.from4, s.from6 = f.sourcesFor(netip.IPv4Unspecified(), nil), f.sourcesFor(netip.IPv6Unspecified(), nil)
	down := make(map[netip.Addr][]netip.Addr)
	for _, p := range f.down {
		down[p.Remote] = append(down[p.Remote], p.Local)
	}
	s.around = make(map[netip.Addr]*sources, len(down))
	for remote, locals := range down {
		if t := f.sourcesFor(remote, locals); t != nil {
			s.around[remote] = t
		}
	}
}

// sourcesFor returns the table of sources toward remote; nil when there is none
// of its family. down are the sources of paths that are not used. Called under
// mu.
func (f *FIB) sourcesFor(remote netip.Addr, down []netip.Addr) *sources {
	var list []Source
	for _, src := range f.sources {
		same := func(l Source) bool { return l.Addr == src.Addr }
		if src.Addr.Is4() == remote.Is4() && !slices.ContainsFunc(list, same) {
			list = append(list, src)
		}
	}
	if len(list) == 0 {
		return nil
	}
	here := func(src Source) bool { return f.local == nil || slices.Contains(f.local, src.Addr) }
	usable := func(src Source) bool { return here(src) && !slices.Contains(down, src.Addr) }
	if !slices.ContainsFunc(list, usable) {
		if usable = here; !slices.ContainsFunc(list, usable) {
			usable = func(Source) bool { return true }
		}
	}
	priority := 256
	for _, src := range list {
		if usable(src) {
			priority = min(priority, int(src.Priority))
		}
	}
	slices.SortFunc(list, func(a, b Source) int { return a.Addr.Compare(b.Addr) })
	t := new(sources)
	var locs []weighted
	for _, src := range list {
		if int(src.Priority) != priority {
			continue
		}
		locs = append(locs, weighted{src.Addr, src.Weight, !usable(src)})
		if usable(src) {
			t.addrs = append(t.addrs, src.Addr)
		}
	}
	if len(t.addrs) > 1 {
		t.slots = f.slotTable(locs)
	}
	return t
}

// Source returns the RLOC to send packets of the flow hash from, toward the
// locator; the zero Addr when there is none of its family.
func (s *Snapshot) Source(rloc netip.Addr, hash uint32) netip.Addr {
	if t := s.sourcesFor(rloc); t != nil {
		return t.of(hash)
	}
	return netip.Addr{}
}

func (s *Snapshot) sourcesFor(rloc netip.Addr) *sources {
	if len(s.around) > 0 {
		if t := s.around[rloc]; t != nil {
			return t
		}
	}
	if rloc.Is4() {
		return s.from4
	}
	return s.from6
}

// Sendable reports whether there is a source of the locator's family.
func (s *Snapshot) Sendable(rloc netip.Addr) bool {
	return rloc.Is4() && s.from4 != nil || rloc.Is6() && s.from6 != nil
}
