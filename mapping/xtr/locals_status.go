package xtr

import (
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// LocatorState says whether a local RLOC is used, and if not, why.
type LocatorState uint8

const (
	// LocatorUp: packets can be expected to come and go.
	LocatorUp LocatorState = iota
	// LocatorNoCarrier: its uplink has no carrier, or is off.
	LocatorNoCarrier
	// LocatorDead: its uplink has a carrier, and no tested path over it works.
	LocatorDead
	// LocatorHeld: it could be used again, and is not before LocalLocator.Held.
	LocatorHeld
	// LocatorGone: the address is not there any more.
	LocatorGone
)

var locatorStates = [...]string{"up", "no-carrier", "dead", "held", "gone"}

// String returns the name used in the API and output.
func (s LocatorState) String() string {
	if int(s) < len(locatorStates) {
		return locatorStates[s]
	}
	return fmt.Sprintf("state-%d", uint8(s))
}

// LocalLocator is the state of an RLOC of this router.
type LocalLocator struct {
	Addr netip.Addr
	// Uplink is the interface; "" for an RLOC that is configured by address and
	// not watched.
	Uplink string
	State  LocatorState
	// Held is when a LocatorHeld is used again; zero with other states.
	Held time.Time
	// Flaps is how often it went away in a row, each time within a minute of
	// the last, and Left when it last did; zero if it never did.
	Flaps int
	Left  time.Time
	// Drained says that an operator wants no traffic by it.
	Drained bool
	// SetPriority and SetWeight are what an operator has set; nil if they are as
	// configured.
	SetPriority, SetWeight *uint8
	// Priority and Weight are those of outgoing traffic: 255 if it is drained,
	// 254 if no database-mapping has it.
	Priority, Weight uint8
	// Paths are the ways from it to the remote RLOCs that are probed, and
	// PathsDown those of them that do not work.
	Paths, PathsDown int
	// LastReply is when something last came back to it for a probe or an
	// Info-Request; zero if never.
	LastReply time.Time
}

func (l *localRLOC) state() LocatorState {
	switch {
	case l.gone:
		return LocatorGone
	case !l.up:
		return LocatorNoCarrier
	case l.dead:
		return LocatorDead
	case !l.held.IsZero():
		return LocatorHeld
	}
	return LocatorUp
}

func (m *machine) localLocators() []LocalLocator {
	out := make([]LocalLocator, 0, len(m.locals.list)+len(m.locals.past))
	for _, l := range slices.Concat(m.locals.list, m.locals.past) {
		st := m.locals.steering(l)
		o := LocalLocator{
			Addr: l.addr, Uplink: l.uplink, State: l.state(), Held: l.held, Flaps: l.flaps, Left: l.left,
			Drained: st.drained, SetPriority: clone(st.priority), SetWeight: clone(st.weight), LastReply: l.lastInfo,
		}
		o.Priority, o.Weight = m.outbound(l)
		for path, r := range m.probes.paths {
			if path.Local != l.addr {
				continue
			}
			o.Paths++
			if r.down {
				o.PathsDown++
			}
			o.LastReply = latest(o.LastReply, r.lastReply)
		}
		out = append(out, o)
	}
	return out
}

// text says how l is, and what an operator wants of it.
func (s *locals) text(now time.Time, l *localRLOC) string {
	text := [...]string{
		LocatorUp:        "up",
		LocatorNoCarrier: "no carrier",
		LocatorDead:      "a carrier, but no packets",
		LocatorHeld:      "back",
		LocatorGone:      "gone",
	}[l.state()]
	switch {
	case l.uplink == "":
	case l.gone:
		text += " from " + l.uplink
	default:
		text += " on " + l.uplink
	}
	if !l.held.IsZero() {
		text += fmt.Sprintf(", used again in %v", l.held.Sub(now))
	}
	st := s.steering(l)
	if st.drained {
		text += ", drained"
	}
	if st.priority != nil {
		text += fmt.Sprintf(", priority set to %d", *st.priority)
	}
	if st.weight != nil {
		text += fmt.Sprintf(", weight set to %d", *st.weight)
	}
	return text
}

// tellLocals publishes how the RLOCs of this router are that are otherwise than
// before.
func (m *machine) tellLocals(now time.Time) {
	is := make(map[netip.Addr]string)
	for _, l := range slices.Concat(m.locals.list, m.locals.past) {
		is[l.addr] = m.locals.text(now, l)
		if is[l.addr] != m.locators[l.addr] {
			m.events.Publish(Event{Time: now, Kind: EventLocator, RLOC: l.addr, Reason: is[l.addr]})
		}
	}
	m.locators = is
}

// LocalLocators returns the RLOCs of this router in the order in which they
// were given, and after them some that it had lately. XTR.RLOCs has the paths
// from them to others.
func (x *XTR) LocalLocators() []LocalLocator {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.m.localLocators()
}
