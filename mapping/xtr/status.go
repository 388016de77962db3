package xtr

import (
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
)

// RegistrationState says what is known of a registration.
type RegistrationState uint8

const (
	// RegistrationPending: nothing was sent yet, or no Map-Notify has come to
	// the first Map-Registers.
	RegistrationPending RegistrationState = iota
	// RegistrationRegistered: a Map-Notify confirmed it, and the last
	// Map-Registers did not go without.
	RegistrationRegistered
	// RegistrationUnconfirmed: several Map-Registers in a row had no
	// Map-Notify. The map-server is away, or it refuses them; it does not say
	// which.
	RegistrationUnconfirmed
	// RegistrationSent: it is sent, and no Map-Notify is asked for.
	RegistrationSent
	// RegistrationWithdrawn: it was ended in order.
	RegistrationWithdrawn
)

var registrationStates = [...]string{"pending", "registered", "unconfirmed", "sent", "withdrawn"}

// String returns the name used in the API and output.
func (s RegistrationState) String() string {
	if int(s) < len(registrationStates) {
		return registrationStates[s]
	}
	return fmt.Sprintf("state-%d", uint8(s))
}

// Registration is the state of one EID-prefix at one map-server.
type Registration struct {
	MapServer  netip.AddrPort
	State      RegistrationState
	LastSent   time.Time // last Map-Register; zero if none
	LastNotify time.Time // last Map-Notify; zero if none
	Next       time.Time // next Map-Register, unless a Map-Notify comes before
	// Failures is the number of Map-Registers since the last Map-Notify, 0 if
	// none is asked for.
	Failures int
	// RTT is the time from Map-Register to Map-Notify; 0 if not known.
	RTT time.Duration
}

// DatabaseStatus is a database-mapping and its registrations.
type DatabaseStatus struct {
	EID           mapping.EID
	LocatorSet    string // the name of the set that Locators are from; maybe ""
	Locators      []mapping.Locator
	TTL           uint32 // minutes
	Version       mapping.Version
	Registrations []Registration
}

// MapServerStatus sums up the registrations at one map-server.
type MapServerStatus struct {
	Addr netip.AddrPort
	// Databases and Registered count EID-prefixes.
	Databases, Registered int
	LastSent, LastNotify  time.Time
	Failures              int // the largest of its registrations
	RTT                   time.Duration
}

// MapResolverStatus is what is known of a map-resolver.
type MapResolverStatus struct {
	Addr netip.AddrPort
	// Up is false while it is passed over because it does not answer.
	Up                          bool
	Requests, Replies, Timeouts uint64
	// Failures is the number of requests in a row without a reply.
	Failures  int
	RTT       time.Duration // smoothed, of the whole resolution; 0 if not known
	LastReply time.Time
}

func (g *registration) status() Registration {
	s := Registration{
		MapServer: g.server.Addr, LastSent: g.sent, LastNotify: g.lastNotify, RTT: g.rtt,
		Next: g.renew,
	}
	if !g.resend.IsZero() && (g.renew.IsZero() || g.resend.Before(g.renew)) {
		s.Next = g.resend
	}
	if g.server.WantNotify {
		s.Failures = g.tries
	}
	switch {
	case g.sent.IsZero():
	case g.renew.IsZero():
		s.State = RegistrationWithdrawn
	case !g.server.WantNotify:
		s.State = RegistrationSent
	case g.unconfirmed:
		s.State = RegistrationUnconfirmed
	case !g.lastNotify.IsZero():
		s.State = RegistrationRegistered
	}
	return s
}

func (r *registrar) databases() []DatabaseStatus {
	out := make([]DatabaseStatus, len(r.cfg.Databases))
	for i, d := range r.cfg.Databases {
		out[i] = DatabaseStatus{EID: d.EID, Locators: slices.Clone(d.Locators), TTL: d.TTL, Version: d.Version}
	}
	for _, g := range r.regs {
		for _, d := range g.databases {
			out[d].Registrations = append(out[d].Registrations, g.status())
		}
	}
	return out
}

func (r *registrar) mapServers() []MapServerStatus {
	out := make([]MapServerStatus, len(r.cfg.MapServers))
	for i, s := range r.cfg.MapServers {
		o := &out[i]
		o.Addr = s.Addr
		for _, g := range r.regs {
			if g.server.Addr != s.Addr || g.gone != nil {
				continue
			}
			st := g.status()
			o.Databases += len(g.databases)
			if st.State == RegistrationRegistered {
				o.Registered += len(g.databases)
			}
			if st.LastSent.After(o.LastSent) {
				o.LastSent = st.LastSent
			}
			if st.LastNotify.After(o.LastNotify) {
				o.LastNotify, o.RTT = st.LastNotify, st.RTT
			}
			o.Failures = max(o.Failures, st.Failures)
		}
	}
	return out
}

func (rs *resolvers) status() []MapResolverStatus {
	out := make([]MapResolverStatus, len(rs.list))
	for i, r := range rs.list {
		out[i] = MapResolverStatus{
			Addr: r.addr, Up: r.up(), Requests: r.requests, Replies: r.replies, Timeouts: r.timeouts,
			Failures: r.failures, RTT: r.rtt, LastReply: r.lastReply,
		}
	}
	return out
}

// MapCache returns the entries of the map-cache by instance and prefix. The
// records are shared and must not be changed. Like all methods that report
// state, it may be called from any goroutine, before, during and after Run.
func (x *XTR) MapCache() []mapping.CacheEntry {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.AppendSeq(make([]mapping.CacheEntry, 0, x.m.itr.cache.Len()), x.m.itr.cache.All())
}

// Lookup returns the longest map-cache entry that holds dst.
func (x *XTR) Lookup(iid uint32, dst netip.Addr) (mapping.CacheEntry, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	rec, ok := x.m.itr.cache.Lookup(iid, dst)
	if !ok {
		return mapping.CacheEntry{}, false
	}
	return x.m.itr.cache.Get(rec.EID)
}

// Databases returns the database-mappings and how they are registered.
func (x *XTR) Databases() []DatabaseStatus {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.m.databases()
}

// MapServers returns the state of each map-server, in the order of Config.
func (x *XTR) MapServers() []MapServerStatus {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.m.reg.mapServers()
}

// MapResolvers returns the state of each map-resolver, in the order of Config.
func (x *XTR) MapResolvers() []MapResolverStatus {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.m.itr.resolvers.status()
}

// Stats walks the counters, which count events since New; names are in
// snake_case and do not change. The gauges map_cache_entries,
// resolutions_pending and subscriptions_active come after them.
func (x *XTR) Stats() iter.Seq2[string, uint64] {
	return func(yield func(string, uint64) bool) {
		for name, n := range x.stats.all() {
			if !yield(name, n) {
				return
			}
		}
		x.mu.Lock()
		entries, pending, evictions := x.m.itr.cache.Len(), len(x.m.itr.queries), x.m.itr.cache.Evictions()
		subscriptions := x.m.itr.subs.active()
		x.mu.Unlock()
		_ = yield("map_cache_evictions", evictions) && yield("map_cache_entries", uint64(entries)) &&
			yield("resolutions_pending", uint64(pending)) && yield("subscriptions_active", uint64(subscriptions))
	}
}
