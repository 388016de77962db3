package server

import (
	"hash/maphash"
	"net/netip"
	"slices"
	"sync/atomic"

	"github.com/eidolon-lisp/eidolon/mapping"
)

// table is the published state: all EIDs that are known to exist.
type table = mapping.Table[entry]

// entry is what is known about one EID. An entry in a published table is not
// changed any more, but for the atomic fields of its registrations.
type entry interface {
	// eid is the key of the entry.
	eid() mapping.EID
	// current is the record that stands for the EID now, and where it came
	// from. It is never nil: an EID that is configured but not registered
	// has a negative record.
	current() (*mapping.Record, Origin)
}

// plain is a mapping that was put over the API. It is the usual entry of a large
// table, where nothing else is known about the EID.
type plain struct {
	mapping.Record
	// revision is that of the database at which it was put.
	revision uint64
}

func (p *plain) eid() mapping.EID                   { return p.EID }
func (p *plain) current() (*mapping.Record, Origin) { return &p.Record, OriginAPI }

// node is every other entry.
type node struct {
	key        mapping.EID
	prefix     *sitePrefix // the longest configured EID-prefix that covers it; nil: none
	configured bool        // it is that EID-prefix itself
	static     *mapping.Record
	api        *plain
	regs       []*registration

	// Computed by settle.

	// registered is the record that all registrations make together, and
	// etrs are the RLOCs in it that a Map-Request can be forwarded to.
	registered *mapping.Record
	etrs       []netip.Addr
	// record and origin are those of current.
	record *mapping.Record
	origin Origin
	// forward: Map-Requests are for an ETR to answer, one of etrs.
	// mayForward: they may be, if the requester wants that.
	forward, mayForward bool
}

func (n *node) eid() mapping.EID                   { return n.key }
func (n *node) current() (*mapping.Record, Origin) { return n.record, n.origin }

// shown is the record that the API shows: what is registered also where it is
// not answered.
func (n *node) shown() *mapping.Record {
	if n.origin == OriginRegistered {
		return n.registered
	}
	return n.record
}

// registration is what one xTR registered for one EID-prefix.
type registration struct {
	// Constant.
	eid    mapping.EID
	by     mapping.Registrant
	site   *site
	record *mapping.Record // normalised: A and L clear, for a Map-Reply
	flags  mapping.RegisterFlags
	since  age // when it was last changed

	// Under Server.mu.

	// stored is the key that the store has this registration under: not by,
	// after another xTR registered the same.
	stored mapping.Registrant
	queue  int // its place in the expiry queue
	due    age // the expiry that the queue has it under

	// Atomic: refreshed in place.
	seen    atomic.Int64
	expires atomic.Int64
	// notify is how to tell the xTR of a merged set; nil: it wants no
	// Map-Notify, or has not registered since a restart. Under Server.mu.
	notify *target
	from   atomic.Pointer[netip.AddrPort] // where the last Map-Register came from
	keyID  atomic.Uint32                  // 1 more than that of its key; 0 after a restart
}

// maxLocators is what the locator count of a record can say.
const maxLocators = 255

// settle computes what follows from the origins of n.
func (n *node) settle() {
	n.registered, n.etrs, n.forward, n.mayForward = nil, nil, false, false
	if len(n.regs) > 0 {
		n.registered = merge(n.regs)
		for _, l := range n.registered.Locators {
			if l.Usable() {
				n.etrs = append(n.etrs, l.Addr)
			}
		}
	}
	switch {
	case n.static != nil:
		n.record, n.origin = n.static, OriginStatic
	case n.registered != nil && n.policy() == RequestsAllowed:
		n.record, n.origin = n.registered, OriginRegistered
		n.settleForwarding()
	case n.api != nil:
		n.record, n.origin = &n.api.Record, OriginAPI
	case n.policy() != RequestsAllowed:
		n.record, n.origin = denied(n.key, n.policy()), OriginNone
		if n.registered != nil {
			n.origin = OriginRegistered
		}
	default:
		n.record, n.origin = notRegistered(n.key), OriginNone
	}
}

// policy is that of the site's prefix that n lies in.
func (n *node) policy() RequestPolicy {
	if n.prefix == nil {
		return RequestsAllowed
	}
	return n.prefix.Requests
}

// denied is the answer where policy does not let Map-Requests have another
// (RFC 9301 section 8.3).
func denied(e mapping.EID, p RequestPolicy) *mapping.Record {
	if p == RequestsPostponed {
		return mapping.NegativeRecord(e, mapping.SendMapRequest, mapping.NotRegisteredTTL)
	}
	return mapping.NegativeRecord(e, mapping.DropPolicy, mapping.NegativeTTL)
}

func (n *node) settleForwarding() {
	policy := ProxyAsRegistered
	if n.prefix != nil {
		policy = n.prefix.ProxyReply
	}
	proxied := slices.ContainsFunc(n.regs, func(r *registration) bool { return r.flags&mapping.ProxyReply != 0 })
	switch {
	case policy == ProxyAlways || n.registered.Negative():
	case policy == ProxyAsRegistered && proxied:
		n.mayForward = len(n.etrs) > 0
	case len(n.etrs) > 0:
		n.forward, n.mayForward = true, true
	default:
		// There is nobody to forward to, and we may not answer for them.
		n.record = notRegistered(n.key)
	}
}

// empty reports whether nothing is known about the EID any more.
func (n *node) empty() bool {
	return !n.configured && n.static == nil && n.api == nil && len(n.regs) == 0
}

// entry returns n, or the small form where that says the same.
func (n *node) entry() entry {
	if n.api != nil && !n.configured && n.static == nil && len(n.regs) == 0 {
		return n.api
	}
	n.settle()
	return n
}

// notRegistered is the answer for an EID-prefix that is configured, and that
// nobody has registered (RFC 9301 section 8.3).
func notRegistered(e mapping.EID) *mapping.Record {
	return mapping.NegativeRecord(e, mapping.NativelyForward, mapping.NotRegisteredTTL)
}

// merge returns the record that registrations of one EID-prefix make together
// (RFC 9301 section 5.6): every locator once, as the latest of those who
// registered it described it, and the lowest TTL.
func merge(regs []*registration) *mapping.Record {
	if len(regs) == 1 {
		return regs[0].record
	}
	byAge := slices.Clone(regs)
	slices.SortStableFunc(byAge, func(a, b *registration) int { return int(min(max(b.since-a.since, -1), 1)) })
	m := *byAge[0].record
	m.Locators = nil
	type key struct {
		addr   netip.Addr
		opaque string
	}
	seen := make(map[key]bool)
	for _, r := range byAge {
		m.TTL = min(m.TTL, r.record.TTL)
		for _, l := range r.record.Locators {
			if k := (key{l.Addr, l.Opaque}); !seen[k] {
				seen[k] = true
				m.Locators = append(m.Locators, l)
			}
		}
	}
	m.SortLocators()
	return &m
}

// normalise makes r what a map-server may put in a Map-Reply: A clear, and L
// and p clear in every locator (RFC 9301 section 5.4). r is changed.
func normalise(r *mapping.Record) {
	r.Authoritative = false
	for i := range r.Locators {
		r.Locators[i].Flags &= mapping.Reachable
	}
	if len(r.Locators) > 0 {
		r.Action = mapping.NoAction // it says nothing then
	}
	r.SortLocators()
}

// nodeAt returns a node for e that the caller may change: a copy of what ed
// has, or a new one.
func (s *Server) nodeAt(ed *mapping.Editor[entry], e mapping.EID) *node {
	v, _ := ed.Get(e)
	switch v := v.(type) {
	case *node:
		n := *v
		return &n
	case *plain:
		return &node{key: e, prefix: s.sites.Load().longest(e), api: v}
	}
	return &node{key: e, prefix: s.sites.Load().longest(e)}
}

// place puts a changed node where it belongs.
func place(ed *mapping.Editor[entry], n *node) {
	if n.empty() {
		ed.Delete(n.key)
		return
	}
	ed.Insert(n.key, n.entry())
}

// interner lets records of equal locators share them: a BGP table has a million
// prefixes and far fewer sets of locators. It forgets what collides.
type interner struct {
	seed  maphash.Seed
	slots [1 << 14][]mapping.Locator
}

func newInterner() *interner { return &interner{seed: maphash.MakeSeed()} }

// share returns locators that equal ls, which must not be changed any more.
func (in *interner) share(ls []mapping.Locator) []mapping.Locator {
	if len(ls) == 0 {
		return nil
	}
	var h uint64
	for _, l := range ls {
		h = h*31 + maphash.Comparable(in.seed, l)
	}
	slot := &in.slots[h%uint64(len(in.slots))]
	if !slices.Equal(*slot, ls) {
		*slot = slices.Clip(ls)
	}
	return *slot
}
