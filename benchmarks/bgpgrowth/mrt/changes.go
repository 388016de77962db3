package mrt

import (
	"cmp"
	"net/netip"
	"slices"
	"time"
)

// Spread is how a quantity is spread over messages or seconds.
type Spread struct {
	Mean, Median, P99, Max float64
}

func spread(list []int) (s Spread) {
	if len(list) == 0 {
		return s
	}
	slices.Sort(list)
	sum := 0
	for _, n := range list {
		sum += n
	}
	at := func(q float64) float64 { return float64(list[min(int(q*float64(len(list))), len(list)-1)]) }
	return Spread{float64(sum) / float64(len(list)), at(0.5), at(0.99), float64(list[len(list)-1])}
}

// Stats is what the messages of a file are. Prefixes are those of IPv4 unicast.
type Stats struct {
	Window                time.Duration
	Peers                 int
	Updates               int
	Octets                int // of all UPDATEs
	Announced, Withdrawn  int // prefixes in the messages
	Others                int // prefixes of other families
	OctetsEach            Spread
	PrefixesEach          Spread // of those with any of IPv4
	PerSecond             Spread // UPDATEs
	Prefixes              int    // different ones
	Again                 int    // announced by a peer just as it had announced them before
	SamePath              int    // announced again with the same path and other attributes
	Events, Changes       int    // see Changes
	Known                 int    // of Changes
	ChangesStub, Stubs    int    // of and for prefixes whose origin carries for nobody in the file
	FirstMentions, Routes int    // pairs of peer and prefix, and those that the file ends with
}

// Change is one of the neighbours of its origin over which some peer reaches a
// prefix. If the prefix were that of a site with a mapping, with a locator for each of
// these, this is what the site would register.
type Change struct {
	Time   time.Time
	Prefix netip.Prefix
	// Before and After are the neighbours, in the order of their numbers; none:
	// nobody reaches the prefix.
	Before, After []uint32
	// Known: what there was before is in the file. It is not where a peer says
	// something of the prefix for the first time, and may only have changed its path
	// far away from the origin.
	Known bool
}

// Gap ends an event: messages about a prefix, from any peer, that are closer belong
// together.
const Gap = 30 * time.Second

type route struct {
	upstream uint32
	path     []uint32
	update   *Update
}

type pair struct {
	peer   Peer
	prefix netip.Prefix
}

type destination struct {
	over map[uint32]int // neighbours of the origin, and how many peers go over each
	gone bool           // withdrawn, and nobody is known to reach it
	last time.Time
}

func (d *destination) neighbours() []uint32 {
	list := make([]uint32, 0, len(d.over))
	for as := range d.over {
		list = append(list, as)
	}
	slices.Sort(list)
	return list
}

// Analyse goes through a file. The changes are in the order of time, those in which
// nothing is Known included: they are the most that can have been, as far as these
// peers see.
func Analyse(f *File) (s Stats, changes []Change) {
	s.Updates = len(f.Updates)
	if len(f.Updates) == 0 {
		return s, nil
	}
	transit, origin := make(map[uint32]bool), make(map[netip.Prefix]uint32)
	peers := make(map[Peer]bool)
	first := f.Updates[0].Time
	var octets, prefixes []int
	var seconds []int
	for i := range f.Updates {
		u := &f.Updates[i]
		peers[u.Peer] = true
		s.Octets += u.Octets
		s.Announced += len(u.Announced)
		s.Withdrawn += len(u.Withdrawn)
		s.Others += u.Others
		octets = append(octets, u.Octets)
		if n := len(u.Announced) + len(u.Withdrawn); n > 0 {
			prefixes = append(prefixes, n)
		}
		s.Window = max(s.Window, u.Time.Sub(first))
		for second := int(u.Time.Sub(first) / time.Second); len(seconds) <= second && second >= 0; {
			seconds = append(seconds, 0)
		}
		seconds[max(0, int(u.Time.Sub(first)/time.Second))]++
		for _, as := range u.Path[:max(0, len(u.Path)-1)] {
			transit[as] = true
		}
		for _, p := range u.Announced {
			origin[p] = u.Origin()
		}
	}
	s.Peers = len(peers)
	s.OctetsEach, s.PrefixesEach, s.PerSecond = spread(octets), spread(prefixes), spread(seconds)
	stub := func(p netip.Prefix) bool { as, ok := origin[p]; return ok && !transit[as] }

	routes := make(map[pair]*route)
	destinations := make(map[netip.Prefix]*destination)
	say := func(u *Update, p netip.Prefix, now *route) {
		d := destinations[p]
		if d == nil {
			d = &destination{over: make(map[uint32]int)}
			destinations[p] = d
			if stub(p) {
				s.Stubs++
			}
		}
		if d.last.IsZero() || u.Time.Sub(d.last) > Gap {
			s.Events++
		}
		d.last = u.Time
		k := pair{u.Peer, p}
		old, known := routes[k]
		if !known {
			s.FirstMentions++
		}
		routes[k] = now
		before, gone := d.neighbours(), d.gone
		if old != nil {
			if d.over[old.upstream]--; d.over[old.upstream] == 0 {
				delete(d.over, old.upstream)
			}
		}
		if now != nil {
			d.over[now.upstream]++
		}
		if old != nil && now != nil && slices.Equal(old.path, now.path) {
			if same(old.update, now.update) {
				s.Again++
			} else {
				s.SamePath++
			}
		}
		after := d.neighbours()
		d.gone = len(after) == 0
		if slices.Equal(before, after) && d.gone == gone {
			return
		}
		changes = append(changes, Change{Time: u.Time, Prefix: p, Before: before, After: after, Known: known})
		if known {
			s.Known++
		}
		if stub(p) {
			s.ChangesStub++
		}
	}
	for i := range f.Updates {
		u := &f.Updates[i]
		for _, p := range u.Withdrawn {
			say(u, p, nil)
		}
		for _, p := range u.Announced {
			say(u, p, &route{u.Upstream(), u.Path, u})
		}
	}
	for _, r := range routes {
		if r != nil {
			s.Routes++
		}
	}
	s.Prefixes, s.Changes = len(destinations), len(changes)
	slices.SortStableFunc(changes, func(a, b Change) int { return cmp.Compare(a.Time.UnixNano(), b.Time.UnixNano()) })
	return s, changes
}

// same reports whether two messages have the same attributes.
func same(a, b *Update) bool {
	if a.nextHop != b.nextHop || len(a.Attributes) != len(b.Attributes) {
		return false
	}
	for i := range a.Attributes {
		x, err1 := a.Attributes[i].Serialize()
		y, err2 := b.Attributes[i].Serialize()
		if err1 != nil || err2 != nil || !slices.Equal(x, y) {
			return false
		}
	}
	return true
}
