package xtr

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/auth"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// Config says who the xTR is and whom it talks to. New checks it whole and
// keeps a copy; zero values take the defaults that are named here.
type Config struct {
	// RLOCs are the addresses of this xTR in the underlay, at most 32. All are
	// offered as ITR-RLOCs; the first of each family is the source of what the
	// xTR sends. At least one is needed, unless Uplinks is given.
	RLOCs []netip.Addr
	// Uplinks, unless nil, says that RLOCs come and go: it is what there is at
	// the beginning, maybe nothing, and SetUplinks tells what changes.
	Uplinks []Uplink
	fixed   []netip.Addr // RLOCs as given
	leftOut error        // addresses of Uplinks that can't be RLOCs
	// Port is the local UDP port of the control plane; wire.Port (4342) by
	// default.
	Port uint16
	// XTRID tells this xTR from others of its site (RFC 9301 section 5.6). If
	// set, every Map-Register carries it and SiteID.
	XTRID  mapping.XTRID
	SiteID uint64

	// Databases are the site's EID-prefixes.
	Databases []Database
	// LocatorSets are what LocatorSets shows, and nothing else.
	LocatorSets []LocatorSet
	// MapServers are where all Databases are registered.
	MapServers []MapServer
	// MapResolvers are asked for the locators of others. A port of 0 means
	// wire.Port. They must not be inside an EID-prefix (RFC 9301 section 8.1).
	MapResolvers []netip.AddrPort
	// LISPSec is how Map-Requests and Map-Replies are protected.
	LISPSec LISPSec
	// PubSub subscribes to mappings; nil for none (RFC 9437).
	PubSub *PubSub

	// ProxyETRs take the packets of the instances in UsePETR to destinations
	// that natively-forward is said of (RFC 6832 section 6). They are tested as
	// the locators of a mapping are.
	ProxyETRs []mapping.Locator
	UsePETR   map[uint32]bool
	// ProxyITR are the EID-prefixes that this xTR attracts packets to, from
	// sources that are no EIDs (RFC 6832 section 5).
	ProxyITR []mapping.EID
	// ProxyETR are the EID-prefixes whose sites use this xTR as a proxy-ETR. It
	// answers probes about whatever is outside of them.
	ProxyETR []mapping.EID

	// CacheLimit is the largest number of entries in the map-cache; 65536 by
	// default.
	CacheLimit int
	// Limits bound what a host, or all hosts, can make the xTR do.
	Limits Limits
	// RLOCProbing is how the locators of others are tested.
	RLOCProbing RLOCProbing
	// VerifyMapData asks the mapping system for the mapping that a Map-Request
	// carries of its sender, if it is not cached (RFC 9301 section 5.3); by
	// default it is ignored. It is never used itself.
	VerifyMapData bool
	// MaxMessage is the largest UDP payload to send, in octets. By default it
	// is 548 to an IPv4 and 1232 to an IPv6 destination, which keeps IP
	// packets within 576 and 1280 octets (RFC 9301 section 5). Set it when the
	// path MTU is known.
	MaxMessage int

	// KeepRegistered leaves the registrations in place when Run ends; by
	// default they are withdrawn with a Record TTL of 0.
	KeepRegistered bool
	// NonceFloor is a value that all Map-Register nonces will exceed. They are
	// made from the clock, so that they increase across restarts (RFC 9301
	// section 5.6); where the clock may go back, keep a floor with
	// SaveNonceFloor and give it here after a restart.
	NonceFloor uint64
	// SaveNonceFloor is called, if set, before a nonce above the last saved
	// floor is used, with a value that covers the next hour. It is called from
	// Run with the state locked and should only write a file. After an error
	// the registration goes out all the same; the error is logged.
	SaveNonceFloor func(floor uint64) error

	// Heard returns, if set, from which RLOCs the data plane decapsulated packets
	// since the last call. Who sent packets in the last minute is told with an
	// SMR when a mapping of the site changes (RFC 9301 section 6.1). It is called
	// then, and by Used, with the state locked.
	Heard func() []netip.Addr
	// OnCache is called, if set, with every batch of changes of the map-cache,
	// in order, from the goroutine of Run. It owns the slice, not the records.
	OnCache func([]mapping.CacheChange)
	// OnDatabases is called, if set, with the databases in effect whenever they
	// change, before SetDatabases returns if that is why: versions and locators
	// may differ from those that were given. It owns the slice, not the
	// locators. One call ends before the next begins.
	OnDatabases func([]Database)
	// OnSources is called, if set, with the local RLOCs that data may be sent
	// from and the paths that are down, at the beginning of Run and
	// whenever one of the two changes, in order. It owns the slices.
	OnSources func(sources []Source, down []Path)
	// OnPathMTU is called, if set, with the sizes that were found to pass where
	// larger packets vanish, and with what passes when that ends, in order,
	// from the goroutine of Run. It owns the slice.
	OnPathMTU func([]PathMTU)
	// OnAnswering is called, if set, when the mapping system begins to answer and
	// when it ceases to, in order, from the goroutine of Run, the first time as soon
	// as one of the two is known. Without it nobody finds out: it takes a Map-Request
	// to each of MapResolvers for each 10 s without traffic.
	OnAnswering func(answers bool)
	// OnTraces is called, if set, with the questions to the mapping system that
	// have ended, in order, after OnCache, from the goroutine of Run. It owns what it
	// gets, but for the records, which are shared and must not be changed. Without
	// it nothing is kept of them.
	OnTraces func([]*ResolutionTrace)
	// Logger gets events; nil discards them. Single packets are counted, and
	// logged at most at debug level.
	Logger *slog.Logger
	// PartLoggers has the loggers of parts of the xTR, by the names below, that do
	// not use Logger.
	PartLoggers map[string]*slog.Logger
	// Rand is the source of Map-Request nonces; crypto/rand by default.
	Rand io.Reader
}

// Names of the parts of an xTR in Config.PartLoggers.
const (
	LogResolve  = "resolve"  // Map-Requests and what comes of them, subscriptions
	LogRegister = "register" // Map-Registers and Info-Requests
	LogProbe    = "probe"    // probes of locators, path MTUs
	LogAnswer   = "answer"   // answers to others and SMRs
)

// Database is a database-mapping: an EID-prefix of the site and its locators.
type Database struct {
	EID mapping.EID
	// LocatorSet is the name of the set that the locators are from; it is shown
	// only, and may be "".
	LocatorSet string
	// Locators is the whole locator-set of the site, those of its other xTRs
	// included, in any order. The L bit is set for those in Config.RLOCs.
	Locators []mapping.Locator
	// Uplinks adds the addresses of uplinks to Locators. Where there is none,
	// and no other locator, the EID is not registered.
	Uplinks []UplinkLocator
	// TTL is the Record TTL in minutes; mapping.DefaultTTL by default.
	TTL uint32
	// Version is the map-version (RFC 9302), 0 for none. It is to be given
	// only where the underlay is trusted (section 8), and when the mapping
	// changed while the xTR did not run, has to be a newer one. SetDatabases
	// replaces it by the next when locators change.
	Version mapping.Version
}

// MapServer is a map-server to register with.
type MapServer struct {
	// Addr is its address; port 0 means wire.Port.
	Addr netip.AddrPort
	// Key signs Map-Registers and verifies Map-Notifies.
	Key auth.Key
	// OtherKeys are tried in turn when registrations with Key are not
	// confirmed, so that a key can be changed at the site before or after the
	// map-server. They need WantNotify.
	OtherKeys []auth.Key
	// ProxyReply asks the map-server to answer Map-Requests for the site.
	ProxyReply bool
	// WantNotify asks for a Map-Notify. Without it nobody knows whether a
	// registration was accepted.
	WantNotify bool
	// Merge asks for this locator-set to be merged with those of the site's
	// other xTRs.
	Merge bool
	// TTLFromRegister makes the Record TTL the registration timeout, instead
	// of 3 minutes.
	TTLFromRegister bool
	// RegisterInterval is the period of Map-Registers: 5 s to 1 h, 60 s by
	// default.
	RegisterInterval time.Duration
}

// Limits of new resolutions. A resolution is a Map-Request with its
// retransmissions for one EID.
type Limits struct {
	// Pending is the largest number of resolutions under way; 1024 by default.
	// When the table is full, the host with the most of them loses its oldest.
	Pending int
	// PendingPerHost is the same for one source host; 128 by default.
	PendingPerHost int
	// Rate is the number of new resolutions a second, in bursts of four
	// seconds' worth; 256 by default.
	Rate int
	// RatePerHost is the same for one source host; 16 by default.
	RatePerHost int
}

// RLOCProbing says how the locators that carry traffic are tested (RFC 9301
// section 7.1).
type RLOCProbing struct {
	// Off is no probing at all: every locator is used as its R bit says.
	Off bool
	// Interval is the time between two probes of an RLOC that answers, give or
	// take a quarter: 10 s to 1 h, 30 s by default.
	Interval time.Duration
	// Retries is how many probes in a row without a reply make an RLOC down: 2
	// to 5, 3 by default.
	Retries int
}

// withDefaults returns a copy of c in which every default is filled in and
// that shares no slice with c, or all that is wrong with c.
func (c Config) withDefaults() (Config, error) {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }

	c.RLOCs = slices.Clone(c.RLOCs)
	if len(c.RLOCs) == 0 && !c.dynamic() || len(c.RLOCs) > maxITRRLOCs {
		bad("rloc: %d given, expected 1 to %d", len(c.RLOCs), maxITRRLOCs)
	}
	for i, a := range c.RLOCs {
		if err := mapping.ValidRLOC(a); err != nil {
			bad("rloc: %w", err)
		} else if slices.Contains(c.RLOCs[:i], a) {
			bad("rloc %v: given twice", a)
		}
	}
	c.fixed = c.RLOCs
	c.leftOut = c.checkUplinks(c.databaseTable(), bad)
	for _, u := range c.Uplinks {
		c.RLOCs = append(c.RLOCs[:len(c.RLOCs):len(c.RLOCs)], u.Addrs...)
	}
	if c.SiteID != 0 && c.XTRID == (mapping.XTRID{}) {
		bad("site_id %d: needs an xtr_id, they are sent together", c.SiteID)
	}
	if c.MaxMessage != 0 && (c.MaxMessage < maxPayload4 || c.MaxMessage > wire.MaxMessage) {
		bad("max_message %d: expected %d to %d octets", c.MaxMessage, maxPayload4, wire.MaxMessage)
	}
	c.checkDatabases(bad)
	c.checkPeers(bad)
	c.checkProxies(bad)
	c.checkLISPSec(bad)
	c.checkPubSub(bad)

	c.Port = cmp.Or(c.Port, wire.Port)
	c.CacheLimit = cmp.Or(c.CacheLimit, defaultCacheLimit)
	c.Limits.Pending = cmp.Or(c.Limits.Pending, defaultPending)
	c.Limits.PendingPerHost = cmp.Or(c.Limits.PendingPerHost, defaultPendingPerHost)
	c.Limits.Rate = cmp.Or(c.Limits.Rate, defaultRequests)
	c.Limits.RatePerHost = cmp.Or(c.Limits.RatePerHost, defaultRequestsHost)
	for _, l := range []struct {
		name string
		n    int
	}{
		{"cache_limit", c.CacheLimit}, {"pending", c.Limits.Pending}, {"pending_per_host", c.Limits.PendingPerHost},
		{"rate", c.Limits.Rate}, {"rate_per_host", c.Limits.RatePerHost},
	} {
		if l.n < 1 || l.n > 1<<24 {
			bad("%s %d: expected 1 to %d", l.name, l.n, 1<<24)
		}
	}
	c.RLOCProbing.Interval = cmp.Or(c.RLOCProbing.Interval, defaultProbeInterval)
	c.RLOCProbing.Retries = cmp.Or(c.RLOCProbing.Retries, defaultProbeRetries)
	if i := c.RLOCProbing.Interval; i < 10*time.Second || i > time.Hour {
		bad("rloc_probing: interval %v: expected 10s to 1h", i)
	}
	if n := c.RLOCProbing.Retries; n < 2 || n > 5 {
		bad("rloc_probing: retries %d: expected 2 to 5", n)
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Rand == nil {
		c.Rand = rand.Reader
	}
	return c, errors.Join(errs...)
}

func (c *Config) checkDatabases(bad func(string, ...any)) {
	c.Databases = slices.Clone(c.Databases)
	seen := make(map[mapping.EID]bool)
	for i := range c.Databases {
		d := &c.Databases[i]
		switch {
		case !d.EID.IsValid():
			bad("database_mapping %d: no eid", i+1)
			continue
		case d.EID.Source.IsValid():
			bad("database_mapping %v: an eid with a source cannot be registered", d.EID)
		case seen[d.EID]:
			bad("database_mapping %v: given twice", d.EID)
		case len(d.Locators) == 0 && len(d.Uplinks) == 0:
			bad("database_mapping %v: no locator", d.EID)
		}
		d.Uplinks = slices.Clone(d.Uplinks)
		for _, u := range d.Uplinks {
			if u.Interface == "" || !u.IPv4 && !u.IPv6 {
				bad("database_mapping %v: uplink %q: no interface, or no address family", d.EID, u.Interface)
			}
		}
		seen[d.EID] = true
		if err := d.Version.Valid(); err != nil {
			bad("database_mapping %v: %w", d.EID, err)
			d.Version = mapping.NullVersion
		}
		d.TTL = cmp.Or(d.TTL, mapping.DefaultTTL)
		d.Locators = slices.Clone(d.Locators)
		slices.SortFunc(d.Locators, mapping.Locator.Compare)
		for j := range d.Locators {
			l := &d.Locators[j]
			if err := mapping.ValidRLOC(l.Addr); err != nil {
				bad("database_mapping %v: locator %d: %w", d.EID, j+1, err)
				continue
			}
			if slices.ContainsFunc(d.Locators[:j], func(x mapping.Locator) bool { return x.Addr == l.Addr }) {
				bad("database_mapping %v: locator %v given twice", d.EID, l.Addr)
			}
			// The p bit never stands in a Map-Register (RFC 9301 section
			// 5.4), and L is what the RLOCs of this xTR say.
			l.Flags &^= mapping.Probed | mapping.Local
			if slices.Contains(c.RLOCs, l.Addr) {
				l.Flags |= mapping.Local
			}
		}
		c.checkRecordSize(d, bad)
	}
	// A locator inside an EID-prefix of the site would be encapsulated to
	// itself. Other instances are other address spaces.
	own := c.databaseTable()
	for _, a := range c.RLOCs {
		if e, ok := insideEID(own, a); ok {
			bad("rloc %v: inside the eid %v, so packets to it would be encapsulated", a, e)
		}
	}
	for _, d := range c.Databases {
		for _, l := range d.Locators {
			if e, ok := insideEID(own, l.Addr); ok {
				bad("database_mapping %v: locator %v is inside the eid %v", d.EID, l.Addr, e)
			}
		}
	}
}

// databaseTable returns a table of the valid EIDs in Databases with their
// indexes.
func (c *Config) databaseTable() *mapping.Table[int] {
	ed := new(mapping.Table[int]).Edit(len(c.Databases))
	for i, d := range c.Databases {
		if d.EID.IsValid() && !d.EID.Source.IsValid() {
			ed.Insert(d.EID, i)
		}
	}
	return ed.Table()
}

// insideEID returns the EID-prefix of own that holds a in instance 0, which is
// the underlay's address space too.
func insideEID(own *mapping.Table[int], a netip.Addr) (mapping.EID, bool) {
	if !a.IsValid() {
		return mapping.EID{}, false
	}
	e, _, ok := own.LookupPrefix(mapping.HostEID(0, a))
	return e, ok
}

// checkRecordSize makes sure that one record fits in one message of each kind.
func (c *Config) checkRecordSize(d *Database, bad func(string, ...any)) {
	rs, err := wire.NewRecords(d.record())
	if err != nil {
		bad("database_mapping %v: %w", d.EID, err)
		return
	}
	room := c.maxPayload(netip.IPv4Unspecified()) - registerOverhead
	if rs.Size() > room {
		bad("database_mapping %v: %d locators make a record of %d octets, of which %d fit in a message; set max_message if the path carries more",
			d.EID, len(d.Locators), rs.Size(), room)
	}
}

func (c *Config) checkPeers(bad func(string, ...any)) {
	own := c.databaseTable()
	peer := func(what string, a netip.AddrPort) netip.AddrPort {
		ip := a.Addr().Unmap()
		switch {
		case !ip.IsValid() || ip.IsUnspecified() || ip.IsMulticast() || ip.Zone() != "":
			bad("%s %v: not the address of a host", what, a.Addr())
			return a
		case !c.dynamic() && !slices.ContainsFunc(c.RLOCs, func(r netip.Addr) bool { return r.Is4() == ip.Is4() }):
			bad("%s %v: no rloc of its address family to reach it from", what, ip)
		}
		if e, ok := insideEID(own, ip); ok {
			bad("%s %v: inside the eid %v; it must be reachable without LISP", what, ip, e)
		}
		return netip.AddrPortFrom(ip, cmp.Or(a.Port(), wire.Port))
	}
	c.MapServers = slices.Clone(c.MapServers)
	for i := range c.MapServers {
		m := &c.MapServers[i]
		m.Addr = peer("map_server", m.Addr)
		if slices.ContainsFunc(c.MapServers[:i], func(o MapServer) bool { return o.Addr == m.Addr }) {
			bad("map_server %v: given twice", m.Addr)
		}
		m.OtherKeys = slices.Clone(m.OtherKeys)
		m.checkKeys(bad)
		m.RegisterInterval = cmp.Or(m.RegisterInterval, registerInterval)
		if m.RegisterInterval < 5*time.Second || m.RegisterInterval > time.Hour {
			bad("map_server %v: register_interval %v: expected 5s to 1h", m.Addr, m.RegisterInterval)
		}
		for _, d := range c.Databases {
			timeout := 3 * time.Minute // RFC 9301 section 8.2
			if m.TTLFromRegister {
				timeout = (&mapping.Record{TTL: d.TTL}).Lifetime()
			}
			if m.RegisterInterval >= timeout {
				bad("map_server %v: register_interval %v: %v would time out after %v", m.Addr, m.RegisterInterval, d.EID, timeout)
				break
			}
		}
	}
	c.MapResolvers = slices.Clone(c.MapResolvers)
	for i, a := range c.MapResolvers {
		c.MapResolvers[i] = peer("map_resolver", a)
		if slices.Contains(c.MapResolvers[:i], c.MapResolvers[i]) {
			bad("map_resolver %v: given twice", c.MapResolvers[i])
		}
	}
}

// keys returns Key and OtherKeys.
func (m *MapServer) keys() []auth.Key { return append([]auth.Key{m.Key}, m.OtherKeys...) }

func (m *MapServer) checkKeys(bad func(string, ...any)) {
	keys := m.keys()
	for i, k := range keys {
		if auth.Size(k.Algorithm, false) == 0 {
			bad("map_server %v: authentication_key: unknown %v", m.Addr, k.Algorithm)
		}
		if len(k.Secret) == 0 {
			bad("map_server %v: authentication_key: the secret is empty", m.Addr)
		}
		if slices.ContainsFunc(keys[:i], func(o auth.Key) bool { return o.ID == k.ID }) {
			bad("map_server %v: authentication_key: key_id %d is given twice", m.Addr, k.ID)
		}
	}
	if len(keys) > 1 && !m.WantNotify {
		bad("map_server %v: authentication_key: of %d keys the right one is found only with want_map_notify", m.Addr, len(keys))
	}
}

// maxPayload returns the largest message for a destination of a's family.
func (c *Config) maxPayload(a netip.Addr) int {
	switch {
	case c.MaxMessage != 0:
		return c.MaxMessage
	case a.Is4():
		return maxPayload4
	}
	return maxPayload6
}

// record returns the EID-record of d as this ETR sends it.
func (d *Database) record() *mapping.Record {
	return &mapping.Record{EID: d.EID, TTL: d.TTL, Authoritative: true, Version: uint16(d.Version), Locators: d.Locators}
}
