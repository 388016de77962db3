package server

import (
	"context"
	"fmt"
	"hash/maphash"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/eidolon-lisp/eidolon/internal/fanout"
	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/alt"
)

// Server is a map-server and map-resolver. Make one with New; its methods may
// be called from several goroutines.
type Server struct {
	// Constant.
	log          *slog.Logger
	clock        func() time.Time
	epoch        time.Time
	seed         maphash.Seed
	sites        atomic.Pointer[sites]
	store        mapping.Store // nil: nothing is kept
	send4, send6 bool
	maxReply4    int
	maxReply6    int
	queue        chan *register
	// subscriptions and acks are messages for the writer, and wake says that
	// it has Map-Notifies to send.
	subscriptions chan subscribe
	acks          chan ack
	wake          chan struct{}
	security      security
	alt           *alt.Router // nil: none
	static        []*mapping.Record

	// Safe for several goroutines.
	table      atomic.Pointer[table]
	counters   counters
	limiter    *limiter
	ackLimiter *limiter // of Map-Notify-Acks, which no flood of requests may hold up
	replies    *replyLimiter
	credits    *credits
	mapReplies bucket        // of those received
	refusals   *rate.Limiter // of log lines
	suppressed atomic.Uint64 // log lines since the last
	mappings   atomic.Int64
	pendingLen atomic.Int64
	events     fanout.Fanout[Event]
	history    history

	standings *standings
	renewing  sync.Mutex // held by a reader that wants mu

	mu sync.Mutex
	// Under mu.
	nonces map[nonceKey]*nonceState
	// anonymous is the highest nonce of all xTRs without an xTR-ID, by site
	// and key.
	anonymous map[nonceKey]uint64
	expiry    expiryQueue
	sharing   *interner
	// pending are changes that must be in the store before the next
	// Map-Notify goes out, by key; late are nonces that may follow.
	pending map[itemKey]mapping.Change
	late    map[nonceKey]uint64
	pubsub  pubsub
	notices *notices
	asked   map[mergedKey]bool // who gets a Map-Notify as an answer now
	writer  *reader            // answers what the writer has taken from the readers
	// touched are the EIDs whose entries were replaced, and before is the
	// table from before that, since published was last called.
	touched []mapping.EID
	before  *table
	// revision is the last one that the store has, and digest what it has of
	// the configuration.
	revision, digest uint64
}

// itemKey is what tells the items of a store apart.
type itemKey struct {
	kind mapping.ItemKind
	eid  mapping.EID
	by   mapping.Registrant
	site string
	id   uint8
}

func keyOf(it *mapping.Item) itemKey {
	switch it.Kind {
	case mapping.ItemMapping:
		return itemKey{kind: it.Kind, eid: it.EID}
	case mapping.ItemRegistration:
		return itemKey{kind: it.Kind, eid: it.EID, by: it.By}
	}
	switch it.Kind {
	case mapping.ItemSubscription:
		return itemKey{kind: it.Kind, eid: it.EID, by: it.By}
	case mapping.ItemRevision:
		return itemKey{kind: it.Kind}
	case mapping.ItemSite:
		return itemKey{kind: it.Kind, site: it.Site}
	}
	return itemKey{kind: it.Kind, by: it.By, site: it.Site, id: it.KeyID}
}

// New makes a server that answers from what store holds. Registrations in it
// are taken as made now, and expire if nobody refreshes them. A registration
// that the configuration no longer admits is dropped from the store. A nil
// store keeps nothing. The store stays the caller's to close, after Run.
func New(ctx context.Context, cfg Config, store mapping.Store) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("configuration of the map-server: %w", err)
	}
	s := &Server{
		log:        cfg.Logger,
		clock:      cfg.Now,
		seed:       maphash.MakeSeed(),
		store:      store,
		maxReply4:  cfg.MaxReply4,
		maxReply6:  cfg.MaxReply6,
		limiter:    newLimiter(cfg.RequestRate),
		ackLimiter: newLimiter(RequestRate{PerSource: max(defaultPerSource, cfg.PubSub.Rate)}),
		replies:    newReplyLimiter(cfg.ReplyRate),
		credits:    newCredits(),
		security:   newSecurity(cfg.LISPSec),
		alt:        cfg.ALT,
		static:     cfg.Static,
		refusals:   rate.NewLimiter(5, 20),
		nonces:     make(map[nonceKey]*nonceState),
		standings:  newStandings(),
		anonymous:  make(map[nonceKey]uint64),
		sharing:    newInterner(),
		pending:    make(map[itemKey]mapping.Change),
		late:       make(map[nonceKey]uint64),
		pubsub:     newPubSub(cfg.PubSub),
		asked:      make(map[mergedKey]bool),

		subscriptions: make(chan subscribe, subscribeQueue),
		acks:          make(chan ack, subscribeQueue),
		wake:          make(chan struct{}, 1),
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.clock == nil {
		s.clock = time.Now
	}
	if s.maxReply4 == 0 {
		s.maxReply4 = maxReply4
	}
	if s.maxReply6 == 0 {
		s.maxReply6 = maxReply6
	}
	queue := cfg.RegisterQueue
	if queue == 0 {
		queue = defaultRegisterQueue
	}
	s.queue = make(chan *register, queue)
	s.send4 = len(cfg.Listen) == 0 || slices.ContainsFunc(cfg.Listen, func(a netip.AddrPort) bool { return a.Addr().Is4() })
	s.send6 = len(cfg.Listen) == 0 || slices.ContainsFunc(cfg.Listen, func(a netip.AddrPort) bool { return a.Addr().Is6() })
	s.epoch = s.clock()
	s.notices, s.writer = newNotices(s, cfg.PubSub.Rate), s.newReader()
	if err := s.load(ctx, cfg.Sites); err != nil {
		return nil, fmt.Errorf("load the database of the map-server: %w", err)
	}
	if err := s.beginHistory(ctx); err != nil {
		return nil, fmt.Errorf("load the database of the map-server: %w", err)
	}
	return s, nil
}

// load builds the first table.
func (s *Server) load(ctx context.Context, configured []Site) error {
	// However many items there are, nobody reads the table yet.
	const everything = 1 << 30
	ed := new(table).Edit(everything)
	put := make(map[string]*putSite)
	begin := func() {
		s.beginSites(configured, put)
		for e, p := range s.sites.Load().table.All() {
			place(ed, &node{key: e, prefix: p, configured: true})
		}
		for _, r := range s.static {
			n := s.nodeAt(ed, r.EID)
			n.static = r.Clone()
			normalise(n.static)
			place(ed, n)
		}
	}
	if s.store != nil {
		for it, err := range s.store.Items(ctx) {
			if err != nil {
				return err
			}
			if it.Kind == mapping.ItemSite { // these come first
				x, err := decodeSite(it.Site, it.Value)
				if err != nil {
					return fmt.Errorf("site %q: %w", it.Site, err)
				}
				put[it.Site] = &putSite{x, it.Revision}
				continue
			}
			if s.sites.Load() == nil {
				begin()
			}
			if err := s.restore(ed, it); err != nil {
				return err
			}
		}
	}
	if s.sites.Load() == nil {
		begin()
	}
	s.table.Store(ed.Table())
	s.pendingLen.Store(int64(len(s.pending)))
	return nil
}

// restore puts one item of the store in its place.
func (s *Server) restore(ed *mapping.Editor[entry], it mapping.Item) error {
	switch it.Kind {
	case mapping.ItemMapping:
		it.Record.Locators = s.sharing.share(it.Record.Locators)
		p := &plain{Record: *it.Record, revision: max(it.Revision, firstRevision)}
		if _, ok := ed.Get(it.EID); !ok {
			ed.Insert(it.EID, p)
		} else {
			n := s.nodeAt(ed, it.EID)
			n.api = p
			place(ed, n)
		}
		s.mappings.Add(1)
	case mapping.ItemRegistration:
		p, why := s.sites.Load().admit(it.EID)
		if why != 0 || p.site.name != it.Site || !p.site.rules.Load().knows(it.By.XTRID) {
			s.log.Info("registration dropped: the configuration does not admit it any more", "eid", it.EID, "site", it.Site, "xtr", it.By)
			s.remove(it)
			return nil
		}
		normalise(it.Record)
		x := &registration{eid: it.EID, by: it.By, stored: it.By, site: p.site, record: it.Record, flags: it.Flags, since: s.age(it.At)}
		s.enlist(x, 0)
		n := s.nodeAt(ed, it.EID)
		n.regs = append(slices.Clip(n.regs), x)
		place(ed, n)
	case mapping.ItemNonce:
		if it.Site == "" {
			s.restoreFloor(it)
			return nil
		}
		k := nonceKey{site: it.Site, by: it.By, key: it.KeyID}
		s.nonces[k] = &nonceState{nonce: it.Nonce}
		s.heard(k, it.Nonce)
		if site := s.sites.Load().byName[it.Site]; site != nil && it.By != (mapping.Registrant{}) {
			site.xtrs = append(site.xtrs, k)
		}
	case mapping.ItemSubscription:
		s.restoreSubscription(it)
	case mapping.ItemRevision:
		s.revision, s.digest = it.Revision, it.Digest
	default:
		return fmt.Errorf("item of an unknown kind %d", it.Kind)
	}
	return nil
}

// put and remove note what the store must take before the next Map-Notify.
func (s *Server) put(it mapping.Item) { s.pending[keyOf(&it)] = mapping.Change{Item: it} }

func (s *Server) remove(it mapping.Item) {
	s.pending[keyOf(&it)] = mapping.Change{Item: it, Delete: true}
}

// commit gives the store what is pending, and more, all or nothing, and a new
// revision if the database changes by it: what is touched and needs no commit
// shows nothing new. After an error what was pending stays
// so, and is tried again with the next commit.
func (s *Server) commit(ctx context.Context, more ...mapping.Change) error {
	defer func() { s.pendingLen.Store(int64(len(s.pending))) }()
	revision := s.revision
	if len(s.touched) > 0 && len(s.pending) > 0 || len(more) > 0 {
		revision++
	}
	if s.store == nil {
		clear(s.pending)
		s.revision = revision
		return nil
	}
	if len(s.pending) == 0 && revision == s.revision {
		return nil
	}
	changes := make([]mapping.Change, 0, len(s.pending)+len(more)+1)
	for _, c := range s.pending {
		changes = append(changes, c)
	}
	changes = append(changes, more...)
	if revision != s.revision {
		changes = append(changes, s.revisionItem(revision))
	}
	if err := s.store.Commit(ctx, changes); err != nil {
		s.counters.inc(storeErrors)
		s.log.Error("the store does not take changes; Map-Notifies wait", "changes", len(changes), "error", err)
		return err
	}
	s.counters.inc(storeCommits)
	clear(s.pending)
	s.revision = revision
	return nil
}

// flush gives the store everything, the late nonces too.
func (s *Server) flush(ctx context.Context) error {
	s.saveNonces()
	for k, nonce := range s.late {
		s.put(k.item(nonce))
	}
	clear(s.late)
	return s.commit(ctx)
}

// tick does what is due at now: registrations expire, late nonces are saved,
// and what a failing store did not take is tried again. It is called every
// second.
func (s *Server) tick(ctx context.Context, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire(now)
	s.expireSubscriptions(now)
	// The error is counted and logged; the next tick tries again.
	if s.flush(ctx) == nil {
		s.announce(now)
	}
}

// registerAll processes authenticated Map-Registers and returns the
// Map-Notifies. None is returned before the store has what it acknowledges.
func (s *Server) registerAll(ctx context.Context, now time.Time, batch []*register) []datagram {
	s.mu.Lock()
	defer s.mu.Unlock()
	records := 0
	for _, reg := range batch {
		records += len(reg.records)
	}
	defer clear(s.asked)
	ed := s.table.Load().Edit(records)
	var accepted []*register
	for _, reg := range batch {
		if s.apply(now, ed, reg) {
			accepted = append(accepted, reg)
			if reg.msg.WantNotify && reg.flags&mapping.MergeSet != 0 {
				for _, rec := range reg.records {
					s.asked[mergedKey{reg.by, rec.EID}] = true
				}
			}
		}
	}
	t := ed.Table()
	s.replace(t)
	if err := s.commit(ctx); err != nil {
		s.compactTouched() // it grows until the store takes changes again
		return nil
	}
	s.announce(now)
	var out []datagram
	for _, reg := range accepted {
		if !reg.msg.WantNotify {
			s.remember(t, reg, nil)
			continue
		}
		d, err := s.notify(t, reg)
		if err != nil {
			s.counters.inc(dropTooLarge)
			continue
		}
		s.counters.inc(mapNotifies)
		out = append(out, d)
		s.remember(t, reg, &d)
	}
	return out
}
