package xtr

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
)

// ErrNoLocator is wrapped by the errors of DrainLocator and SetLocator about a
// name that is neither an uplink nor an RLOC of this router.
var ErrNoLocator = errors.New("neither an uplink nor an rloc of this xtr")

// steering is what an operator wants of the locators of an uplink, or of one.
type steering struct {
	drained          bool
	priority, weight *uint8 // nil: as configured
}

func (s steering) none() bool { return s == steering{} }

// DrainLocator moves traffic away from locators of this router before
// maintenance, or, with drain false, lets it come back. Name is an uplink's
// interface, which includes the addresses that it gets later, or the address of
// a local RLOC. A drained locator is published with priority 255, and packets
// that still come to it are taken; nothing is sent from it as long as there is
// another. Where a mapping has no other locator that can be used, it is
// published as it was. The order holds until the xTR ends.
func (x *XTR) DrainLocator(name string, drain bool) error {
	return x.steer(name, func(s *steering) { s.drained = drain })
}

// SetLocator replaces the priority and the weight of locators of this router,
// named as with DrainLocator, until the xTR ends; nil is what is configured.
// Incoming traffic moves by the new mapping, which is registered and told at
// once, outgoing traffic by the new sources.
func (x *XTR) SetLocator(name string, priority, weight *uint8) error {
	return x.steer(name, func(s *steering) { s.priority, s.weight = clone(priority), clone(weight) })
}

func clone(v *uint8) *uint8 {
	if v == nil {
		return nil
	}
	c := *v
	return &c
}

func (x *XTR) steer(name string, edit func(*steering)) error {
	var err error
	x.do(func(now time.Time) { err = x.m.steer(now, name, edit) })
	x.tell()
	x.poke()
	return err
}

// steer changes what an operator wants of the locators of a name.
func (m *machine) steer(now time.Time, name string, edit func(*steering)) error {
	m.advance(now)
	if a, err := netip.ParseAddr(name); err == nil {
		name = a.Unmap().String()
		// What was said of an address that is gone can be taken back.
		if _, said := m.locals.steered[name]; !said && m.locals.get(a.Unmap()) == nil {
			return fmt.Errorf("locator %s: %w", name, ErrNoLocator)
		}
	} else if !m.hasUplink(name) {
		return fmt.Errorf("locator %q: %w", name, ErrNoLocator)
	}
	s := m.locals.steered[name]
	edit(&s)
	if m.locals.steered[name] = s; s.none() {
		delete(m.locals.steered, name)
	}
	m.log.Info("locator steered", "locator", name, "drained", s.drained)
	m.localsChanged(now)
	return nil
}

// hasUplink reports whether an uplink of that name is there or configured.
func (m *machine) hasUplink(name string) bool {
	return slices.ContainsFunc(m.cfg.Uplinks, func(u Uplink) bool { return u.Name == name }) ||
		slices.ContainsFunc(m.declared, func(d Database) bool {
			return slices.ContainsFunc(d.Uplinks, func(u UplinkLocator) bool { return u.Interface == name })
		})
}

// steering returns what the operator wants of l: by its address what is said of
// that, and otherwise what is said of its uplink.
func (s *locals) steering(l *localRLOC) steering {
	st := s.steered[l.addr.String()]
	up := s.steered[l.uplink]
	st.drained = st.drained || up.drained
	if st.priority == nil {
		st.priority = up.priority
	}
	if st.weight == nil {
		st.weight = up.weight
	}
	return st
}

// drained reports whether an operator wants no traffic by l.
func (s *locals) drained(l *localRLOC) bool {
	return len(s.steered) > 0 && s.steering(l).drained
}

// apply changes a locator of this router to what the operator wants of it.
func (s steering) apply(l *mapping.Locator) {
	if s.priority != nil {
		l.Priority = *s.priority
	}
	if s.weight != nil {
		l.Weight = *s.weight
	}
}

// drainSet takes the locators that are drained out of use, unless no other of
// the set can be used.
func drainSet(set []mapping.Locator, drained []netip.Addr) {
	is := func(l mapping.Locator) bool { return slices.Contains(drained, l.Addr) }
	if !slices.ContainsFunc(set, func(l mapping.Locator) bool { return l.Usable() && !is(l) }) {
		return
	}
	for i := range set {
		if is(set[i]) {
			set[i].Priority = mapping.PriorityUnusable
		}
	}
}
