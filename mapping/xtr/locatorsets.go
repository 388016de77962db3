package xtr

import (
	"slices"

	"github.com/eidolon-lisp/eidolon/mapping"
)

// LocatorSet is a set of locators with a name, which database-mappings are made
// of. The xTR only shows it; what it registers is what Database has.
type LocatorSet struct {
	Name string
	// Locators and Uplinks are as in Database.
	Locators []mapping.Locator
	Uplinks  []UplinkLocator
}

// LocatorSetStatus is a locator-set as it is now.
type LocatorSetStatus struct {
	Name string
	// Members are its locators in the order of addresses, then the interfaces
	// that have none for it.
	Members []LocatorSetMember
	// Databases are the database-mappings that use it, in the order in which they
	// were given.
	Databases []mapping.EID
}

// LocatorSetMember is a locator of a locator-set.
type LocatorSetMember struct {
	// Locator has the priority and the weight that are registered now: orders of
	// an operator included, and 255 when it is drained and another one is there.
	// Its Addr is not valid for an interface without an address.
	mapping.Locator
	// Uplink is the interface that has the address, or should have one; "" for an
	// address that is not watched or is another router's.
	Uplink string
	// Here says that it is, or was, an RLOC of this router, whose State is known.
	Here  bool
	State LocatorState
}

// SetLocatorSets replaces what LocatorSets shows. The slice is the xTR's after
// the call.
func (x *XTR) SetLocatorSets(sets []LocatorSet) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.m.sets = sets
}

// LocatorSets returns the locator-sets in the order in which they were given.
func (x *XTR) LocatorSets() []LocatorSetStatus {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.m.locatorSets()
}

func (m *machine) locatorSets() []LocatorSetStatus {
	users := make(map[string][]mapping.EID)
	for _, d := range m.declared {
		users[d.LocatorSet] = append(users[d.LocatorSet], d.EID)
	}
	out := make([]LocatorSetStatus, len(m.sets))
	for i, s := range m.sets {
		out[i] = LocatorSetStatus{Name: s.Name, Members: m.members(s), Databases: users[s.Name]}
	}
	return out
}

func (m *machine) members(s LocatorSet) (list []LocatorSetMember) {
	for _, l := range m.locatorsNow(s.Locators, s.Uplinks) {
		o := LocatorSetMember{Locator: l}
		if here := m.locals.get(l.Addr); here != nil {
			o.Uplink, o.Here, o.State = here.uplink, true, here.state()
		} else if m.locals.were[l.Addr] {
			o.Here, o.State = true, LocatorGone
		}
		list = append(list, o)
	}
	for _, u := range s.Uplinks {
		if slices.ContainsFunc(m.locals.list, u.takes) {
			continue
		}
		o := LocatorSetMember{Locator: mapping.Locator{Priority: u.Priority, Weight: u.Weight, MPriority: u.MPriority, MWeight: u.MWeight}, Uplink: u.Interface, Here: true, State: LocatorGone}
		if i := slices.IndexFunc(m.cfg.Uplinks, func(up Uplink) bool { return up.Name == u.Interface }); i >= 0 && !m.cfg.Uplinks[i].Up {
			o.State = LocatorNoCarrier
		}
		list = append(list, o)
	}
	return list
}

// databases returns the database-mappings with the sets that they are from.
func (m *machine) databases() []DatabaseStatus {
	sets := make(map[mapping.EID]string, len(m.declared))
	for _, d := range m.declared {
		sets[d.EID] = d.LocatorSet
	}
	list := m.reg.databases()
	for i := range list {
		list[i].LocatorSet = sets[list[i].EID]
	}
	return list
}
