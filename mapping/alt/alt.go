// Package alt is LISP+ALT (RFC 6836) as a map-server and map-resolver sees it: what
// BGP said over the overlay of tunnels, where a Map-Request goes by that, and what
// may come in. It knows neither who speaks BGP nor what a tunnel is.
//
// A Map-Request crosses the ALT as a packet to the EID that it asks for, from an
// RLOC of the ITR. Each ALT router sends it to the next hop of its longest route.
// Who has the EID, or an aggregate without a longer route inside, answers, and the
// answer does not cross the ALT.
package alt

import (
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/bgp"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// Limits of our own.
const (
	// DefaultRate is how many Map-Requests a second may come by one tunnel, and
	// DefaultBurst how many at once (RFC 6836 section 4.1).
	DefaultRate, DefaultBurst = 1000, 2000
	// maxQueue is how many that came in may wait to be dealt with.
	maxQueue = 512
	// maxPacket is the largest packet that is taken, in octets.
	maxPacket = wire.MaxMessage + 48
)

// Link numbers a tunnel: it is its place in Config.Tunnels.
type Link int

// None is the Link of a Map-Request that did not come over the ALT.
const None Link = -1

// Sender sends whole IP packets by tunnels. Its method is called from several
// goroutines.
type Sender interface {
	// Send sends a packet by a tunnel to the router with the address next at its
	// other end. It keeps nothing of the packet.
	Send(by Link, next netip.Addr, packet []byte) error
}

// ErrNoNeighbour is what a Sender says when it does not know how to reach the
// next hop on its link.
var ErrNoNeighbour = errors.New("the link-layer address of the next hop is not known")

// Config is what a Router is made of.
type Config struct {
	// Tunnels are our addresses on each tunnel with the length of its network: a
	// next hop is reached by the tunnel with whose network it is in.
	Tunnels [][]netip.Prefix
	// Aggregates are originated; what is inside is ours to answer for.
	Aggregates []Aggregate
	// Own are prefixes that this map-server has by itself, such as those of its
	// sites: an aggregate around one has a component for good.
	Own []netip.Prefix
	// Rate and Burst limit the Map-Requests that come by each tunnel, in a second
	// and at once; 0 takes the defaults.
	Rate, Burst int
}

// Aggregate is a prefix that stands for those inside of it.
type Aggregate struct {
	Prefix netip.Prefix
	// Always announces it even while there is nothing inside.
	Always bool
	// Components are the prefixes inside that LISP sites have. One without a route
	// is down, and packets to it are dropped; what is in no component is no EID
	// (RFC 6836 section 4.2).
	Components []netip.Prefix
}

// Kind is what the ALT says of an address.
type Kind uint8

const (
	// Unknown: no route and no aggregate of ours covers it.
	Unknown Kind = iota
	// Forward: a neighbour has a route.
	Forward
	// Hole: the longest that covers it is an aggregate of ours.
	Hole
	// Down: it is in a component of an aggregate that has no route now.
	Down
)

// Finding is what the ALT says of an address.
type Finding struct {
	Kind Kind
	// Prefix is the longest route, aggregate or component that covers the address;
	// not valid for Unknown.
	Prefix netip.Prefix
	// NextHop is where to forward to, and By the tunnel.
	NextHop netip.Addr
	By      Link
}

// Longer reports whether f covers less than an EID-prefix of bits, -1 for none.
func (f *Finding) Longer(bits int) bool { return f.Kind != Unknown && f.Prefix.Bits() > bits }

// entry is what is known of one prefix.
type entry struct {
	nextHop   netip.Addr // not valid: no route
	by        Link
	from      netip.Addr
	originAS  uint32
	aggregate bool
	component bool
}

func (e entry) empty() bool { return !e.nextHop.IsValid() && !e.aggregate && !e.component }

// Request is a Map-Request that came over the ALT.
type Request struct {
	// Message is the Map-Request; whoever gets it owns it.
	Message []byte
	// Src is the RLOC and port of the ITR, Dst the EID.
	Src, Dst netip.AddrPort
	HopLimit uint8
	By       Link // the tunnel that it came by
}

// Router is the ALT side of a map-server. Make one with New. Its methods may be
// called from any goroutine.
type Router struct {
	tunnels  [][]netip.Prefix
	links    Sender
	limiters []*rate.Limiter
	queue    chan Request
	counters counters

	table atomic.Pointer[mapping.Table[entry]]

	mu         sync.Mutex // guards what follows, and changes of table
	aggregates []aggregate
}

type aggregate struct {
	Aggregate
	announced bool
}

// New returns a router without routes. It fails with all that is wrong with the
// configuration.
func New(cfg Config, links Sender) (*Router, error) {
	r := &Router{tunnels: cfg.Tunnels, links: links, queue: make(chan Request, maxQueue)}
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf("alt: "+format, args...)) }
	if cfg.Rate < 0 || cfg.Burst < 0 {
		bad("a rate of %d, %d at once", cfg.Rate, cfg.Burst)
	}
	if cfg.Rate == 0 {
		cfg.Rate = DefaultRate
	}
	if cfg.Burst == 0 {
		cfg.Burst = max(DefaultBurst, cfg.Rate)
	}
	for range cfg.Tunnels {
		r.limiters = append(r.limiters, rate.NewLimiter(rate.Limit(cfg.Rate), cfg.Burst))
	}
	ed := new(mapping.Table[entry]).Edit(1 << 20)
	put := func(p netip.Prefix, change func(*entry)) {
		e, err := mapping.MakeEID(0, p)
		if err != nil || e.Prefix != p {
			bad("%v is no EID-prefix", p)
			return
		}
		x, _ := ed.Get(e)
		change(&x)
		ed.Insert(e, x)
	}
	for i, a := range cfg.Aggregates {
		if slices.ContainsFunc(cfg.Aggregates[:i], func(o Aggregate) bool { return o.Prefix == a.Prefix }) {
			bad("the aggregate %v is there twice", a.Prefix)
		}
		put(a.Prefix, func(e *entry) { e.aggregate = true })
		for _, c := range a.Components {
			if !inside(c, a.Prefix) {
				bad("the component %v is not inside of %v", c, a.Prefix)
				continue
			}
			put(c, func(e *entry) { e.component = true })
		}
		if slices.ContainsFunc(cfg.Own, func(p netip.Prefix) bool { return inside(p, a.Prefix) }) {
			a.Always = true
		}
		r.aggregates = append(r.aggregates, aggregate{Aggregate: a})
	}
	r.table.Store(ed.Table())
	return r, errors.Join(errs...)
}

// inside reports whether p is a part of a, and not all of it.
func inside(p, a netip.Prefix) bool {
	return p.IsValid() && p.Addr().Is4() == a.Addr().Is4() && p.Bits() > a.Bits() && a.Contains(p.Addr())
}

// Update takes what changed in BGP, in order. A route by a next hop that is on no
// tunnel is not used, and counted.
func (r *Router) Update(changes []bgp.Received) {
	r.mu.Lock()
	defer r.mu.Unlock()
	ed := r.table.Load().Edit(len(changes))
	for _, c := range changes {
		e, err := mapping.MakeEID(0, c.Prefix)
		if err != nil {
			continue
		}
		x, _ := ed.Get(e)
		x.nextHop, x.by, x.from, x.originAS = netip.Addr{}, 0, netip.Addr{}, 0
		if !c.Withdrawn {
			if by, ok := r.tunnelTo(c.NextHop); ok {
				x.nextHop, x.by, x.from, x.originAS = c.NextHop, by, c.From, c.OriginAS
			} else {
				r.counters.inc(dropNextHop)
			}
		}
		if x.empty() {
			ed.Delete(e)
		} else {
			ed.Insert(e, x)
		}
	}
	r.table.Store(ed.Table())
}

func (r *Router) tunnelTo(a netip.Addr) (Link, bool) {
	for i, own := range r.tunnels {
		for _, p := range own {
			if p.Contains(a) && p.Addr() != a {
				return Link(i), true
			}
		}
	}
	return 0, false
}

// Aggregates returns the aggregates that are to be announced since the last call
// and were not before, and the other way round. One is announced while there is a
// component: a route of a neighbour, or a prefix of our own, inside of it.
func (r *Router) Aggregates() (announce, withdraw []netip.Prefix) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.table.Load()
	for i := range r.aggregates {
		a := &r.aggregates[i]
		is := a.Always
		if !is {
			for e, x := range t.Covered(mapping.EID{Prefix: a.Prefix}) {
				if is = e.Prefix != a.Prefix && x.nextHop.IsValid(); is {
					break
				}
			}
		}
		switch {
		case is && !a.announced:
			announce = append(announce, a.Prefix)
		case !is && a.announced:
			withdraw = append(withdraw, a.Prefix)
		}
		a.announced = is
	}
	return announce, withdraw
}

// Find returns what the ALT says of an address of instance 0.
func (r *Router) Find(a netip.Addr) Finding {
	e, x, ok := r.table.Load().LookupPrefix(mapping.HostEID(0, a))
	switch {
	case !ok:
		return Finding{}
	case x.aggregate:
		return Finding{Kind: Hole, Prefix: e.Prefix}
	case x.nextHop.IsValid():
		return Finding{Kind: Forward, Prefix: e.Prefix, NextHop: x.nextHop, By: x.by}
	}
	return Finding{Kind: Down, Prefix: e.Prefix}
}

// Narrow returns the largest part of a prefix of instance 0 that holds a and
// overlaps nothing that is longer than the prefix: what an answer about a may be
// for, as others have, or may have, what is longer.
func (r *Router) Narrow(within netip.Prefix, a netip.Addr) netip.Prefix {
	hole, ok := r.table.Load().Hole(mapping.EID{Prefix: within}, a)
	if !ok {
		return netip.PrefixFrom(a, a.BitLen())
	}
	return hole.Prefix
}

// Send sends a packet to where f says. It reports false, and counts why, if it
// could not.
func (r *Router) Send(f Finding, packet []byte) bool {
	switch err := r.links.Send(f.By, f.NextHop, packet); {
	case err == nil:
		r.counters.inc(sent)
		return true
	case errors.Is(err, ErrNoNeighbour):
		r.counters.inc(dropNoNeighbour)
	default:
		r.counters.inc(sendErrors)
	}
	return false
}

// Take takes a packet that came by a tunnel, which it borrows until it returns.
// What is no Map-Request in UDP to port 4342 is dropped: the ALT is for nothing
// else (RFC 6836 section 4.1).
func (r *Router) Take(now time.Time, by Link, packet []byte) {
	r.counters.inc(received)
	if len(packet) > maxPacket {
		r.counters.inc(dropMalformed)
		return
	}
	var m wire.ECM
	if err := m.DecodePacket(packet); err != nil {
		r.counters.inc(dropMalformed)
		return
	}
	if t, err := wire.PeekType(m.Message); err != nil || t != wire.TypeMapRequest || m.Dst.Port() != wire.Port {
		r.counters.inc(dropNotMapRequest)
		return
	}
	if !r.limiters[by].AllowN(now, 1) {
		r.counters.inc(dropRate)
		return
	}
	select {
	case r.queue <- Request{slices.Clone(m.Message), m.Src, m.Dst, m.HopLimit, by}:
	default:
		r.counters.inc(dropQueueFull)
	}
}

// Requests is where the Map-Requests are that came.
func (r *Router) Requests() <-chan Request { return r.queue }

// Route is a prefix that the ALT knows.
type Route struct {
	Prefix netip.Prefix
	// Kind is what is found for an address that nothing longer covers.
	Kind    Kind
	NextHop netip.Addr // not valid unless Kind is Forward
	From    netip.Addr // the neighbour that said so; not valid as NextHop
	// OriginAS is the last AS of the path.
	OriginAS uint32
	// Aggregate says that we may announce it; Announced that it is announced.
	Aggregate, Announced bool
}

// Routes walks all that the ALT knows, by prefix.
func (r *Router) Routes() iter.Seq[Route] {
	announced := make(map[netip.Prefix]bool)
	r.mu.Lock()
	t := r.table.Load()
	for _, a := range r.aggregates {
		announced[a.Prefix] = a.announced
	}
	r.mu.Unlock()
	return func(yield func(Route) bool) {
		for e, x := range t.All() {
			out := Route{Prefix: e.Prefix, Kind: Down, Aggregate: x.aggregate, Announced: announced[e.Prefix]}
			switch {
			case x.aggregate:
				out.Kind = Hole
			case x.nextHop.IsValid():
				out.Kind, out.NextHop, out.From, out.OriginAS = Forward, x.nextHop, x.from, x.originAS
			}
			if !yield(out) {
				return
			}
		}
	}
}
