package xtr

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// Uplink is a way of this router to a provider: an interface, with the
// addresses on it that can be RLOCs, as they are now.
type Uplink struct {
	// Name is the interface's.
	Name string
	// Up is false without a carrier, or when the interface is off.
	Up bool
	// Addrs are the addresses that packets can be sent from, the preferred one
	// first. One that can't be an RLOC is left out: an address inside an EID of
	// the site, one of an earlier uplink, and what exceeds 32 in all.
	Addrs []netip.Addr
}

// UplinkLocator makes the addresses of an uplink locators of a
// database-mapping, as they come and go.
type UplinkLocator struct {
	Interface string
	// IPv4 and IPv6 say which of its addresses; at least one of them is true.
	IPv4, IPv6         bool
	Priority, Weight   uint8
	MPriority, MWeight uint8
}

// Source is a local RLOC that data may be sent from now: by the lowest
// priority, then by weight.
type Source struct {
	Addr             netip.Addr
	Priority, Weight uint8
}

// Path is the way from an RLOC of this router to one of another.
type Path struct{ Local, Remote netip.Addr }

// Traffic is what a data plane forwarded by an entry of the map-cache since the
// last time, in packets.
type Traffic struct {
	EID mapping.EID
	// Sent went to a locator of the entry, Received came from an EID in it.
	Sent, Received uint64
}

// UplinkTraffic is what went and came by an uplink since the last time, in
// packets of any kind.
type UplinkTraffic struct {
	Name           string // the interface's
	Sent, Received uint64
}

// localRLOC is an RLOC of this router.
type localRLOC struct {
	addr   netip.Addr
	uplink string // "" for one of Config.RLOCs
	up     bool   // its uplink has a carrier

	dead      bool // no packets come or go all the same
	deadSince time.Time
	lastInfo  time.Time // last Info-Reply to it
	info      infoState
	flaps     int       // times that it went away in a row, see flapWindow
	left      time.Time // the last of them
	held      time.Time // not used before; zero if it is not held
	gone      bool      // no uplink has the address now
}

// alive reports whether packets can be expected to come and go by l, and to do
// so for a while.
func (l *localRLOC) alive() bool { return l.up && !l.dead && l.held.IsZero() }

// locals are the RLOCs of this router. Which there are is told from outside,
// how they are also by what the machine finds out.
type locals struct {
	list []*localRLOC // in the order given
	past []*localRLOC // that were there lately, the oldest first, at most maxITRRLOCs
	// were holds locators of database-mappings that were here once. One that is
	// not now is not reachable; one that never was is another router's.
	were map[netip.Addr]bool
	// steered is what an operator wants of an uplink, by its name, or of an
	// RLOC, by its address.
	steered map[string]steering
	stats   *counters
}

func (s *locals) get(a netip.Addr) *localRLOC {
	for _, l := range s.list {
		if l.addr == a {
			return l
		}
	}
	return nil
}

// replace takes the present state. What was found out of addresses that are
// still there is kept.
func (s *locals) replace(now time.Time, uplinks []Uplink, rlocs []netip.Addr) {
	known := append(slices.Clone(s.list), s.past...)
	s.list = nil
	add := func(a netip.Addr, uplink string, up bool) {
		i := slices.IndexFunc(known, func(l *localRLOC) bool { return l.addr == a })
		if i < 0 {
			s.list = append(s.list, &localRLOC{addr: a, uplink: uplink, up: up})
			return
		}
		l := known[i]
		switch {
		case l.up && !up:
			s.went(now, l)
		case !l.up && up:
			l.dead = false
			s.returned(now, l)
		}
		l.uplink, l.up, l.gone = uplink, up, false
		s.list = append(s.list, l)
	}
	for _, a := range rlocs {
		add(a, "", true)
	}
	for _, u := range uplinks {
		for _, a := range u.Addrs {
			add(a, u.Name, u.Up)
		}
	}
	s.past = nil
	for _, l := range known {
		if slices.Contains(s.list, l) {
			continue
		}
		if !l.gone && l.up {
			s.went(now, l)
		}
		l.gone, l.up = true, false
		s.past = append(s.past, l)
	}
	if n := len(s.past) - maxITRRLOCs; n > 0 {
		s.past = slices.Delete(s.past, 0, n)
	}
}

// went notes that an RLOC can't be used any more.
func (s *locals) went(now time.Time, l *localRLOC) {
	if now.Sub(l.left) > flapWindow {
		l.flaps = 0
	}
	l.flaps, l.left, l.held, l.info = l.flaps+1, now, time.Time{}, infoState{}
}

// returned keeps an RLOC that could be used again from that for a while, so
// that one that comes and goes is left alone (flap damping).
func (s *locals) returned(now time.Time, l *localRLOC) {
	if l.flaps > 1 {
		s.stats.inc(uplinksDamped)
	}
	l.held = now.Add(min(holdDown<<min(max(l.flaps-1, 0), 16), holdDownMax))
}

// release ends the hold of RLOCs that is over at now, and of all while no other
// can be used. It reports whether there were any.
func (s *locals) release(now time.Time) (any bool) {
	none := !slices.ContainsFunc(s.list, (*localRLOC).alive)
	for _, l := range s.list {
		if !l.held.IsZero() && (none && l.up && !l.dead || !now.Before(l.held)) {
			l.held, any = time.Time{}, true
		}
	}
	return any
}

// next returns when release has something to do.
func (s *locals) next() (t time.Time, ok bool) {
	for _, l := range s.list {
		if !l.held.IsZero() && (!ok || l.held.Before(t)) {
			t, ok = l.held, true
		}
	}
	return t, ok
}

// rlocs returns all addresses.
func (s *locals) rlocs() []netip.Addr {
	out := make([]netip.Addr, len(s.list))
	for i, l := range s.list {
		out[i] = l.addr
	}
	return out
}

// checkUplinks refuses uplinks without a name of their own, and leaves out the
// addresses that can't be RLOCs: who gives an interface its addresses must not be
// able to keep the xTR from following the others.
func (c *Config) checkUplinks(own *mapping.Table[int], bad func(string, ...any)) (left error) {
	c.Uplinks = slices.Clone(c.Uplinks)
	taken := slices.Clone(c.fixed)
	var errs []error
	for i := range c.Uplinks {
		u := &c.Uplinks[i]
		if u.Name == "" || slices.ContainsFunc(c.Uplinks[:i], func(o Uplink) bool { return o.Name == u.Name }) {
			bad("uplink %q: no name, or given twice", u.Name)
		}
		var addrs []netip.Addr
		for _, a := range u.Addrs {
			err := mapping.ValidRLOC(a)
			if e, inside := insideEID(own, a); err == nil && inside {
				err = fmt.Errorf("it is inside the eid %v", e)
			}
			switch {
			case err != nil:
			case slices.Contains(taken, a):
				err = errors.New("it is there already")
			case len(taken) == maxITRRLOCs:
				err = fmt.Errorf("there are %d already", maxITRRLOCs)
			default:
				addrs, taken = append(addrs, a), append(taken, a)
				continue
			}
			errs = append(errs, fmt.Errorf("uplink %s: %v is no rloc: %w", u.Name, a, err))
		}
		u.Addrs = addrs
	}
	return errors.Join(errs...)
}

// dynamic reports whether the RLOCs may change.
func (c *Config) dynamic() bool { return c.Uplinks != nil }

// refresh derives from the locals what messages are sent from and say.
func (c *core) refresh() {
	c.rlocs4, c.rlocs6, c.itrRLOCs = nil, nil, nil
	use := func(l *localRLOC) {
		c.itrRLOCs = append(c.itrRLOCs, wire.IPAddress(l.addr))
		if l.addr.Is4() {
			c.rlocs4 = append(c.rlocs4, l.addr)
		} else {
			c.rlocs6 = append(c.rlocs6, l.addr)
		}
	}
	for _, fit := range [...]func(*localRLOC) bool{
		func(l *localRLOC) bool { return l.alive() && !c.locals.drained(l) },
		(*localRLOC).alive,
		func(*localRLOC) bool { return true }, // better than none
	} {
		for _, l := range c.locals.list {
			if fit(l) {
				use(l)
			}
		}
		if len(c.itrRLOCs) > 0 {
			return
		}
	}
}

// effective returns the declared database-mappings with the locators that they
// have now: those of this router as its uplinks are, others as they were given.
func (m *machine) effective(declared []Database) []Database {
	out := slices.Clone(declared)
	for i := range out {
		d := &out[i]
		for _, l := range d.Locators {
			if m.locals.get(l.Addr) != nil {
				m.locals.were[l.Addr] = true
			}
		}
		d.Locators = m.locatorsNow(d.Locators, d.Uplinks)
	}
	return out
}

// locatorsNow returns a locator-set as it is now: the locators of this router as
// its uplinks and the operator's orders are, others as they were given.
func (m *machine) locatorsNow(locators []mapping.Locator, uplinks []UplinkLocator) (set []mapping.Locator) {
	var drained []netip.Addr
	add := func(l mapping.Locator, here *localRLOC) {
		l.Flags &^= mapping.Local
		if here != nil {
			l.Flags |= mapping.Local
			st := m.locals.steering(here)
			if st.apply(&l); st.drained {
				drained = append(drained, l.Addr)
			}
			if !here.alive() {
				l.Flags &^= mapping.Reachable
			}
		}
		if !slices.ContainsFunc(set, func(o mapping.Locator) bool { return o.Addr == l.Addr }) {
			set = append(set, l)
		}
	}
	for _, l := range locators {
		here := m.locals.get(l.Addr)
		if here == nil && m.locals.were[l.Addr] {
			l.Flags &^= mapping.Reachable
		}
		add(l, here)
	}
	for _, u := range uplinks {
		for _, here := range m.locals.list {
			if u.takes(here) {
				add(mapping.Locator{
					Addr: here.addr, Priority: u.Priority, Weight: u.Weight, MPriority: u.MPriority, MWeight: u.MWeight,
					Flags: mapping.Reachable,
				}, here)
			}
		}
	}
	drainSet(set, drained)
	slices.SortFunc(set, mapping.Locator.Compare)
	return set
}

// takes reports whether a local RLOC is one of the locators that u stands for.
func (u UplinkLocator) takes(here *localRLOC) bool {
	return here.uplink == u.Interface && (here.addr.Is4() && u.IPv4 || here.addr.Is6() && u.IPv6)
}

// setUplinks takes the present state of the uplinks, or refuses it whole. What
// can't be an RLOC is left out and logged.
func (m *machine) setUplinks(now time.Time, uplinks []Uplink) error {
	m.advance(now)
	next := m.cfg
	next.Uplinks = uplinks
	if uplinks == nil {
		next.Uplinks = []Uplink{}
	}
	var errs []error
	next.leftOut = next.checkUplinks(m.own, func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) })
	if next.leftOut != nil {
		m.log.Warn("addresses of uplinks not used", "err", next.leftOut)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("xtr uplinks: %w", err)
	}
	m.cfg.Uplinks = next.Uplinks
	m.locals.replace(now, next.Uplinks, m.cfg.fixed)
	m.itr.changes = append(m.itr.changes, m.probes.localsChanged(now)...)
	m.localsChanged(now)
	return nil
}

// localsChanged carries a change of the local RLOCs, or of what is known of
// them, to everything that depends on it. It is the one way for all causes:
// carrier, address, verdict of probes, operator.
func (m *machine) localsChanged(now time.Time) {
	m.locals.release(now)
	m.tellLocals(now)
	m.cfg.RLOCs = m.locals.rlocs()
	m.refresh()
	m.sourcesChanged = true
	m.replaceDatabases(now, m.declared)
}

// sources returns the local RLOCs that data may be sent from: those that are
// alive, or if none is, all.
func (m *machine) sources() []Source {
	var out []Source
	for _, want := range [...]bool{true, false} {
		for _, l := range m.locals.list {
			if l.alive() == want {
				p, w := m.outbound(l)
				out = append(out, Source{Addr: l.addr, Priority: p, Weight: w})
			}
		}
		if len(out) > 0 {
			break
		}
	}
	slices.SortFunc(out, func(a, b Source) int { return cmp.Or(cmp.Compare(a.Priority, b.Priority), a.Addr.Compare(b.Addr)) })
	return out
}

// outbound returns priority and weight of a local RLOC as a source: those that
// it has as a locator of the first database-mapping that has it, so that
// traffic leaves as it comes; 255 if it is drained.
func (m *machine) outbound(here *localRLOC) (priority, weight uint8) {
	if m.locals.drained(here) {
		return mapping.PriorityUnusable, 0
	}
	a := here.addr
	for _, d := range m.cfg.Databases {
		for _, l := range d.Locators {
			if l.Addr == a && l.Priority != mapping.PriorityUnusable {
				return l.Priority, l.Weight
			}
		}
	}
	return mapping.PriorityUnusable - 1, 0
}

// takeDatabases returns the database-mappings in effect, if they changed since
// the last call.
func (m *machine) takeDatabases() (databases []Database, changed bool) {
	if !m.databasesChanged {
		return nil, false
	}
	m.databasesChanged = false
	return slices.Clone(m.cfg.Databases), true
}

// takeSources returns what the data plane may send from, and the paths that it
// may not, if that changed since the last call.
func (m *machine) takeSources() (sources []Source, down []Path, changed bool) {
	if !m.sourcesChanged {
		return nil, nil, false
	}
	m.sourcesChanged = false
	for path, r := range m.probes.paths {
		if r.down {
			down = append(down, path)
		}
	}
	slices.SortFunc(down, func(a, b Path) int { return cmp.Or(a.Local.Compare(b.Local), a.Remote.Compare(b.Remote)) })
	return m.sources(), down, true
}

// settle carries what the probes and the clock found out of the local RLOCs to
// where it belongs.
func (m *machine) settle(now time.Time) {
	released := m.locals.release(now)
	if !m.probes.moved && !released {
		return
	}
	m.probes.moved = false
	m.localsChanged(now)
}

// traffic notes what the data plane forwarded.
func (m *machine) traffic(now time.Time, list []Traffic) {
	m.advance(now)
	if !m.stopping {
		for _, t := range list {
			m.itr.cache.Seen(now, t.EID) // who a conversation has just begun with is told of changes, too
		}
		m.probes.traffic(now, list)
		m.advance(now)
	}
}

// uplinkTraffic notes what went and came by the uplinks.
func (m *machine) uplinkTraffic(now time.Time, list []UplinkTraffic) {
	m.advance(now)
	if !m.stopping {
		m.probes.uplinkTraffic(now, list)
		m.advance(now)
	}
}

// unreachable notes an ICMP message about what was sent on p.
func (m *machine) unreachable(now time.Time, p Path) {
	m.advance(now)
	if !m.stopping {
		m.probes.unreachable(now, p)
		m.advance(now)
	}
}
