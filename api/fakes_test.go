package api

import (
	"context"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"sync"

	"github.com/eidolon-lisp/eidolon/internal/fanout"
	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/server"
	"github.com/eidolon-lisp/eidolon/mapping/xtr"
)

// fakeDatabase is a map-server without sockets, which what it is told goes before.
type fakeDatabase struct {
	*server.Server
	mu    sync.Mutex
	puts  []int // operations of each Batch
	err   error // of Batch
	sites []server.SiteStatus
	regs  map[mapping.EID]server.MappingStatus

	subscriptions []server.SubscriptionStatus
	explained     server.Explanation
	itr           netip.Addr // of the last Explain
	events        fanout.Fanout[server.Event]
}

func newDatabase() *fakeDatabase {
	s, err := server.New(context.Background(), server.Config{}, nil)
	if err != nil {
		panic(err)
	}
	return &fakeDatabase{Server: s, regs: map[mapping.EID]server.MappingStatus{}}
}

func (d *fakeDatabase) Explain(e mapping.EID, itr netip.Addr) server.Explanation {
	x := d.explained
	x.EID, d.itr = e, itr
	return x
}

func (d *fakeDatabase) Subscriptions() iter.Seq[server.SubscriptionStatus] {
	return slices.Values(d.subscriptions)
}

func (d *fakeDatabase) Watch(queue int) (*fanout.Subscription[server.Event], error) {
	return d.events.Subscribe(queue)
}

func (d *fakeDatabase) Sites() []server.SiteStatus { return d.sites }

func (d *fakeDatabase) Lookup(e mapping.EID) (best server.MappingStatus, ok bool) {
	for st := range d.Database(mapping.EID{}) {
		if st.Record.EID.Covers(e) && (!ok || st.Record.EID.Prefix.Bits() > best.Record.EID.Prefix.Bits()) {
			best, ok = st, true
		}
	}
	return best, ok
}

func (d *fakeDatabase) Database(e mapping.EID) iter.Seq[server.MappingStatus] {
	all := slices.Collect(d.Server.Database(e))
	for _, st := range d.regs {
		if !e.IsValid() || e.Covers(st.Record.EID) {
			all = append(all, st)
		}
	}
	slices.SortFunc(all, func(a, b server.MappingStatus) int { return a.Record.EID.Compare(b.Record.EID) })
	return slices.Values(all)
}

func (d *fakeDatabase) Batch(ctx context.Context, ops []server.Op) (uint64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err != nil {
		return 0, d.err
	}
	d.puts = append(d.puts, len(ops))
	return d.Server.Batch(ctx, ops)
}

// fakeXTR has what it is told.
type fakeXTR struct {
	databases []xtr.DatabaseStatus
	sets      []xtr.LocatorSetStatus
	servers   []xtr.MapServerStatus
	resolvers []xtr.MapResolverStatus
	mu        sync.Mutex
	cache     []mapping.CacheEntry
	rlocs     []xtr.RLOCStatus
	locals    []xtr.LocalLocator
	explained xtr.Explanation
	events    fanout.Fanout[xtr.Event]
}

func (x *fakeXTR) RLOCs() []xtr.RLOCStatus { return x.rlocs }

func (x *fakeXTR) LocalLocators() []xtr.LocalLocator { return slices.Clone(x.locals) }

func (x *fakeXTR) DrainLocator(name string, drain bool) error {
	return x.steer(name, func(l *xtr.LocalLocator) { l.Drained = drain })
}

func (x *fakeXTR) SetLocator(name string, priority, weight *uint8) error {
	return x.steer(name, func(l *xtr.LocalLocator) { l.SetPriority, l.SetWeight = priority, weight })
}

func (x *fakeXTR) steer(name string, edit func(*xtr.LocalLocator)) error {
	err := fmt.Errorf("locator %q: %w", name, xtr.ErrNoLocator)
	for i := range x.locals {
		if l := &x.locals[i]; l.Uplink == name || l.Addr.String() == name {
			edit(l)
			err = nil
		}
	}
	return err
}

func (x *fakeXTR) Explain(uint32, netip.Addr) xtr.Explanation { return x.explained }

func (x *fakeXTR) Watch(queue int) (*fanout.Subscription[xtr.Event], error) {
	return x.events.Subscribe(queue)
}

func (x *fakeXTR) Databases() []xtr.DatabaseStatus       { return slices.Clone(x.databases) }
func (x *fakeXTR) LocatorSets() []xtr.LocatorSetStatus   { return slices.Clone(x.sets) }
func (x *fakeXTR) MapServers() []xtr.MapServerStatus     { return x.servers }
func (x *fakeXTR) MapResolvers() []xtr.MapResolverStatus { return x.resolvers }

func (x *fakeXTR) MapCache() []mapping.CacheEntry {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.Clone(x.cache)
}

func (x *fakeXTR) Lookup(iid uint32, dst netip.Addr) (best mapping.CacheEntry, ok bool) {
	for _, e := range x.MapCache() {
		if e.Record.EID.Contains(iid, dst) && (!ok || e.Record.EID.Prefix.Bits() > best.Record.EID.Prefix.Bits()) {
			best, ok = e, true
		}
	}
	return best, ok
}

func (x *fakeXTR) Clear(eid mapping.EID) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	n := len(x.cache)
	x.cache = slices.DeleteFunc(x.cache, func(e mapping.CacheEntry) bool { return e.Record.EID == eid })
	return len(x.cache) < n
}
