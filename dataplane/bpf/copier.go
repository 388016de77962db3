package bpf

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/mapping"
)

// grace is how long what was taken out of the tables is not given to another:
// no program that has seen it runs so long.
const grace = 100 * time.Millisecond

// copier keeps the tables of the programs as the FIB is, and takes what they
// count back to it. An entry is never changed in place, but for its expiry: a
// new one takes its place in the prefixes, and then the generation changes, so
// that the caches of hosts and flows forget the old one. All methods may be called from
// any goroutine.
type copier struct {
	fwd     *dataplane.Forwarder
	follow  *dataplane.Follower
	devices map[uint32]uint32 // interface index by IID
	ports   func(src netip.Addr) []uint16
	// unfinished allows checksums that are left to who is behind a virtual link.
	unfinished bool
	c          *dataplane.Counters

	mu      sync.Mutex
	t       *tables
	tracing bool

	restUntil time.Time // of fold
	searched  time.Time // when fold looked for all marks

	lines   map[mapping.EID]*line
	byIndex []*line // by index of entries; nil: free, or nothing to tell
	indices pool
	remotes map[netip.Addr]*remote
	rlocs   pool
	slots   shared[[dataplane.Slots]uint32]
	sets    shared[string]
	sources map[lispSources]uint32 // those in use
	lately  map[uint32]time.Time   // when a table of sources was in use last
	sourced map[mapping.EID]map[netip.Prefix]bool
	locals  map[mapping.EID]lispLocal
	own     map[netip.Addr]*ours
	ownIdx  pool
	stats   lispStats // what was added to c
	adopted map[mapping.EID]*line
	full    bool // something did not find room
	retired []retired
	settled int // of retired, those whose grace has begun
	closed  bool

	eids4   batch[lispEid4]
	eids6   batch[lispEid6]
	placed  [2]int               // lines of each family
	refused map[mapping.EID]bool // had no place
	over    map[mapping.EID]int  // how many of those a prefix covers
	again   []mapping.EID        // to be looked at again
}

// line is what is in the tables for one EID-prefix.
type line struct {
	told  lispUsage
	entry *dataplane.Entry // nil when it was adopted and nothing new has come
	index uint32           // of entries; 0: the slow path

	hasSlots, hasSet bool // references that release gives back

	eid   mapping.EID
	rlocs []*remote
	slots *[dataplane.Slots]uint32 // nil: there is one locator
	set   string                   // "": the locator alone
}

// remote is a locator in the tables.
type remote struct {
	addr  netip.Addr
	index uint32
	refs  int
	rloc  *dataplane.RLOC
	told  lispUsage
}

// ours is an address of this router in the tables.
type ours struct {
	index uint32
	told  lispUsage
}

// retired is what waits for its grace.
type retired struct {
	since time.Time
	free  func()
}

// pool gives out indices, 1 to size-1.
type pool struct {
	size, next uint32
	free       []uint32
}

func (p *pool) get() (uint32, bool) {
	if n := len(p.free); n > 0 {
		i := p.free[n-1]
		p.free = p.free[:n-1]
		return i, true
	}
	if p.next+1 >= p.size {
		return 0, false
	}
	p.next++
	return p.next, true
}

func (p *pool) put(i uint32) { p.free = append(p.free, i) }

// shared are values that entries share, each with an index.
type shared[K comparable] struct {
	indices pool
	refs    map[K]*ref
}

type ref struct {
	index uint32
	n     int
}

// get returns the index of k, and whether it is new.
func (s *shared[K]) get(k K) (index uint32, fresh, ok bool) {
	if r := s.refs[k]; r != nil {
		r.n++
		return r.index, false, true
	}
	i, ok := s.indices.get()
	if ok {
		s.refs[k] = &ref{i, 1}
	}
	return i, true, ok
}

// put gives a reference back, and returns the index if it was the last.
func (s *shared[K]) put(k K) (index uint32, last bool) {
	r := s.refs[k]
	if r == nil {
		return 0, false
	}
	if r.n--; r.n > 0 {
		return 0, false
	}
	delete(s.refs, k)
	return r.index, true
}

func newCopier(t *tables, fwd *dataplane.Forwarder, devices map[uint32]uint32, ports func(netip.Addr) []uint16) *copier {
	return &copier{
		fwd: fwd, ports: ports, follow: fwd.FIB().Follow(), devices: devices, c: fwd.Counters(), t: t,
		lines: make(map[mapping.EID]*line), byIndex: make([]*line, len(t.entries)), indices: pool{size: uint32(len(t.entries))},
		remotes: make(map[netip.Addr]*remote), rlocs: pool{size: uint32(len(t.rlocs))},
		slots:   shared[[dataplane.Slots]uint32]{pool{size: uint32(len(t.slotTables))}, make(map[[dataplane.Slots]uint32]*ref)},
		sets:    shared[string]{pool{size: 1 << 31}, make(map[string]*ref)},
		sources: make(map[lispSources]uint32), lately: make(map[uint32]time.Time),
		sourced: make(map[mapping.EID]map[netip.Prefix]bool),
		locals:  make(map[mapping.EID]lispLocal), adopted: make(map[mapping.EID]*line), own: make(map[netip.Addr]*ours), ownIdx: pool{size: maxOwn},
		eids4: batch[lispEid4]{m: t.Eids4}, eids6: batch[lispEid6]{m: t.Eids6},
		refused: make(map[mapping.EID]bool), over: make(map[mapping.EID]int),
	}
}

// retire calls free when no program can see any more what it frees.
func (c *copier) retire(free func()) { c.retired = append(c.retired, retired{time.Now(), free}) }

func (c *copier) bury() {
	now, n := time.Now(), 0
	for n < c.settled && now.Sub(c.retired[n].since) >= grace {
		c.retired[n].free()
		n++
	}
	c.retired = slices.Delete(c.retired, 0, n)
	c.settled -= n
}

// sync brings the tables to the state of the FIB. What can't be expressed there is
// left to the slow path; an error is one of the kernel.
func (c *copier) sync() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	c.bury()
	s, eids, all := c.follow.Take()
	cfg := c.fwd.Settings()
	errs := []error{c.syncLocals(s), c.syncOwn(s)}
	c.syncSources(s)
	if all {
		want := make(map[mapping.EID]bool)
		for eid := range s.All() {
			want[eid] = true
			eids = append(eids, eid)
		}
		for eid, l := range c.lines {
			if !want[eid] && l.entry != nil {
				eids = append(eids, eid)
			}
		}
		for eid := range c.refused {
			if !want[eid] {
				eids = append(eids, eid)
			}
		}
		for eid, prefixes := range c.sourced {
			for p := range prefixes {
				if e := (mapping.EID{IID: eid.IID, Prefix: eid.Prefix, Source: p}); !want[e] {
					eids = append(eids, e)
				}
			}
		}
	}
	for _, eid := range eids {
		errs = append(errs, c.change(s, eid, cfg))
	}
	errs = append(errs, c.retry(s, cfg))
	c.syncRLOCs(s)
	errs = append(errs, c.flush())
	c.settle()
	changed := set(&c.t.settings.Check, uint32(cfg.SourceCheck))
	if set(&c.t.settings.Versioning, number(cfg.MapVersioning)) || changed {
		c.forgetFlows()
	}
	atomic.StoreUint32(&c.t.settings.Clamp, number(cfg.MSSClamp))
	atomic.StoreUint32(&c.t.settings.Unfinished, number(c.unfinished))
	return errors.Join(errs...)
}

// set gives a word of the tables a value, and reports whether it is another.
func set(word *uint32, v uint32) bool { return atomic.SwapUint32(word, v) != v }

func number(b bool) uint32 {
	if b {
		return 1
	}
	return 0
}

// change brings one EID to the state of the FIB.
func (c *copier) change(s *dataplane.Snapshot, eid mapping.EID, cfg dataplane.Settings) error {
	if eid.Source.IsValid() {
		src, base := eid.Source, mapping.EID{IID: eid.IID, Prefix: eid.Prefix}
		if s.Entry(eid) != nil {
			if c.sourced[base] == nil {
				c.sourced[base] = make(map[netip.Prefix]bool)
			}
			c.sourced[base][src] = true
		} else if delete(c.sourced[base], src); len(c.sourced[base]) == 0 {
			delete(c.sourced, base)
		}
		eid = base
	}
	e, old := s.Entry(eid), c.lines[eid]
	c.admit(eid)
	switch {
	case e == nil && len(c.sourced[eid]) == 0:
		if old == nil || old.entry == nil && old.index != 0 { // adopted: it is used until it expires
			return nil
		}
		return c.remove(old)
	case e == nil || len(c.sourced[eid]) > 0 || c.over[eid] > 0 || e.Drop() != dataplane.NotDropped || len(e.RLOCs()) == 0:
		if old != nil && old.index == 0 {
			old.entry = e
			return nil
		}
		return c.insert(&line{eid: eid, entry: e}, old)
	}
	l := &line{eid: eid, entry: e}
	ok := c.compile(l, cfg)
	if ok && old != nil && old.index != 0 && l.same(old) {
		// Only the expiry is new.
		was, expires := &c.t.entries[old.index], bootTime(e.Expires())
		if atomic.SwapUint64(&was.Expires, expires) > expires+uint64(time.Millisecond) { // both clocks are read one after the other
			c.forget(eid)
		}
		if was.Version == uint32(e.Record().Version) {
			c.release(l)
			old.entry = e
			return nil
		}
	}
	if !ok {
		c.noRoom()
		c.release(l)
		l = &line{eid: eid, entry: e}
	}
	return c.insert(l, old)
}

// same reports whether two lines do the same with packets, but for versions.
func (l *line) same(o *line) bool {
	return slices.Equal(l.rlocs, o.rlocs) && l.set == o.set && (l.slots == nil) == (o.slots == nil) && (l.slots == nil || *l.slots == *o.slots)
}

// compile takes the references of a line, and reports whether there was room.
func (c *copier) compile(l *line, cfg dataplane.Settings) bool {
	for _, r := range l.entry.RLOCs() {
		m := c.remotes[r.Addr()]
		if m == nil {
			i, ok := c.rlocs.get()
			if !ok {
				return false
			}
			m = &remote{addr: r.Addr(), index: i, told: c.sum(c.t.rlocUsages, i)}
			c.t.rlocs[i] = lispRloc{Addr: words(r.Addr()), V6: number(r.Addr().Is6()), Mtu: uint32(r.MTU())}
			c.remotes[r.Addr()] = m
		}
		m.rloc = r
		m.refs++
		l.rlocs = append(l.rlocs, m)
	}
	if t := l.entry.Table(); t != nil {
		l.slots = new([dataplane.Slots]uint32)
		for i, k := range t {
			l.slots[i] = l.rlocs[k].index
		}
	}
	if cfg.SourceCheck != dataplane.SourcesUnchecked {
		l.set = members(l.entry)
	}
	return true
}

// members returns the locators of a mapping as a key; "" if the one that is
// used is the only one.
func members(e *dataplane.Entry) string {
	var list []netip.Addr
	for _, loc := range e.Record().Locators {
		if loc.Addr.IsValid() {
			list = append(list, loc.Addr)
		}
	}
	slices.SortFunc(list, netip.Addr.Compare)
	list = slices.Compact(list)
	if len(list) == 1 && len(e.RLOCs()) == 1 && e.RLOCs()[0].Addr() == list[0] {
		return ""
	}
	return setKey(list)
}

// setKey returns the key of a set of addresses, which it sorts.
func setKey(list []netip.Addr) string {
	slices.SortFunc(list, netip.Addr.Compare)
	key := []byte{0}
	for _, a := range list {
		b := a.As16()
		key = append(append(key, byte(a.BitLen())), b[:]...)
	}
	return string(key)
}

// memberKeys returns the keys of a set in the table of members.
func memberKeys(set string, id uint32) (keys []lispMember) {
	for b := []byte(set)[1:]; len(b) > 0; b = b[17:] {
		a := netip.AddrFrom16([16]byte(b[1:17]))
		v6 := b[0] == 128
		if !v6 {
			a = a.Unmap()
		}
		keys = append(keys, lispMember{Set: id<<1 | number(v6), Addr: words(a)})
	}
	return keys
}

// insert puts a line in the place of old, which may be nil.
func (c *copier) insert(l, old *line) error {
	if old == nil && !c.room(l.eid) {
		c.release(l)
		c.refuse(l.eid)
		return nil
	}
	if len(l.rlocs) > 0 {
		if err := c.write(l); err != nil {
			c.release(l)
			if !errors.Is(err, errFull) {
				return err
			}
			c.noRoom()
			*l = line{eid: l.eid, entry: l.entry}
		}
	}
	if old == nil {
		c.placed[family(l.eid)]++
	}
	c.lines[l.eid] = l
	return c.put(l.eid, l, old)
}

var errFull = errors.New("no room in the tables of the kernel plane")

// write makes the entry of a line.
func (c *copier) write(l *line) error {
	e := lispEntry{Rloc: l.rlocs[0].index, Version: uint32(l.entry.Record().Version), Expires: bootTime(l.entry.Expires())}
	if len(l.rlocs) > 1 {
		i, fresh, ok := c.slots.get(*l.slots)
		if !ok {
			return errFull
		}
		l.hasSlots = true
		if fresh {
			c.t.slotTables[i].Rloc = *l.slots
		}
		e.Slots = i
	}
	if l.set != "" {
		i, fresh, ok := c.sets.get(l.set)
		if !ok {
			return errFull
		}
		l.hasSet = true
		if fresh {
			for _, k := range memberKeys(l.set, i) {
				if err := c.t.Members.Update(k, uint8(1), ebpf.UpdateAny); err != nil {
					if errors.Is(err, unix.E2BIG) {
						err = errFull
					}
					return fmt.Errorf("put a locator of %v into the tables: %w", l.eid, err)
				}
			}
		}
		e.Set = i
	}
	i, ok := c.indices.get()
	if !ok {
		return errFull
	}
	l.index = i
	l.told = c.sum(c.t.usages, i)
	c.t.entries[i] = e
	c.byIndex[i] = l
	return nil
}

// remove takes a line out of the tables.
func (c *copier) remove(l *line) error {
	delete(c.lines, l.eid)
	c.placed[family(l.eid)]--
	return c.put(l.eid, nil, l)
}

// drop gives back what a line that nobody finds any more has.
func (c *copier) drop(l *line) {
	c.release(l)
	if l.index == 0 {
		return
	}
	c.retire(func() {
		c.takeLine(l)
		c.byIndex[l.index] = nil
		c.indices.put(l.index)
	})
}

// release gives back the references of a line.
func (c *copier) release(l *line) {
	for _, m := range l.rlocs {
		if m.refs--; m.refs == 0 {
			delete(c.remotes, m.addr)
			c.retire(func() {
				c.takeRemote(m)
				c.rlocs.put(m.index)
			})
		}
	}
	if l.hasSlots {
		if i, last := c.slots.put(*l.slots); last {
			c.retire(func() { c.slots.indices.put(i) })
		}
	}
	if l.hasSet {
		if i, last := c.sets.put(l.set); last {
			keys := memberKeys(l.set, i)
			c.retire(func() {
				for _, k := range keys {
					_ = c.t.Members.Delete(k)
				}
				c.sets.indices.put(i)
			})
		}
	}
}

// forgetAll makes the caches of the programs hold nothing.
func (c *copier) forgetAll() { atomic.AddUint32(&c.t.generations[0].v, 1) }

// forgetFlows makes those of flows, of who sends to which host, and of our addresses
// hold nothing. The cache of hosts does not hang on what is changed in place.
func (c *copier) forgetFlows() { atomic.AddUint32(&c.t.generations[generations+1].v, 1) }

// forget makes the caches hold nothing of addresses of the prefix.
func (c *copier) forget(e mapping.EID) {
	i := 0
	if a := e.Prefix.Addr(); a.Is4() && e.Prefix.Bits() >= 16 || a.Is6() && e.Prefix.Bits() >= 32 {
		i = bucket(e.IID, a)
	}
	atomic.AddUint32(&c.t.generations[i].v, 1)
}

// bucket is which generation hosts of the same 16 bits, with IPv6 32, have: the
// programs compute the same.
func bucket(iid uint32, a netip.Addr) int {
	b := a.AsSlice()
	k := binary.BigEndian.Uint32(b)
	if a.Is4() {
		k >>= 16
	} else {
		iid |= 1 << 31
	}
	h := mix(mix(0, iid), k)
	return 1 + int((h^h>>15)&(generations-1))
}

func mix(h, k uint32) uint32 {
	k *= 0xcc9e2d51
	k = k<<15 | k>>17
	k *= 0x1b873593
	h ^= k
	h = h<<13 | h>>19
	return h*5 + 0xe6546b64
}

// bootTime returns an instant as the programs' clock will show it.
func bootTime(t time.Time) uint64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0 // no kernel is without this clock
	}
	return uint64(max(ts.Nano()+int64(time.Until(t)), 0))
}

// syncLocals brings the site's prefixes into the tables.
func (c *copier) syncLocals(s *dataplane.Snapshot) error {
	want := make(map[mapping.EID]lispLocal)
	for eid, v := range s.Locals() {
		if device, ok := c.devices[eid.IID]; ok && !eid.Source.IsValid() {
			want[eid] = lispLocal{Iid: eid.IID, Device: device, Version: uint32(v)}
		}
	}
	key := func(e mapping.EID) (*ebpf.Map, any) {
		if a := e.Prefix.Addr(); a.Is6() {
			return c.t.Locals6, &lispLocal6{Bits: uint32(e.Prefix.Bits()), Addr: words(a)}
		}
		return c.t.Locals4, &lispLocal4{Bits: uint32(e.Prefix.Bits()), Addr: words(e.Prefix.Addr())[0]}
	}
	changed := false
	for eid := range c.locals {
		if _, ok := want[eid]; !ok {
			m, k := key(eid)
			if err := m.Delete(k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
				return fmt.Errorf("take the local EID %v out of the tables: %w", eid, err)
			}
			delete(c.locals, eid)
			changed = true
		}
	}
	for eid, v := range want {
		if was, ok := c.locals[eid]; ok && was == v {
			continue
		}
		m, k := key(eid)
		if err := m.Update(k, &v, ebpf.UpdateAny); err != nil {
			return fmt.Errorf("put the local EID %v into the tables: %w", eid, err)
		}
		c.locals[eid] = v
		changed = true
	}
	if changed { // destinations that were not local may be so now
		c.forgetAll()
	}
	return nil
}

// syncOwn brings the addresses of this router into the tables. Those that find
// no room are received on by the slow path.
func (c *copier) syncOwn(s *dataplane.Snapshot) error {
	own := s.Own()
	changed := false
	defer func() {
		if changed {
			c.forgetFlows()
		}
	}()
	for a, o := range c.own {
		if slices.Contains(own, a) {
			continue
		}
		if err := c.t.Own.Delete(address(a)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("take the local RLOC %v out of the tables: %w", a, err)
		}
		delete(c.own, a)
		changed = true
		c.retire(func() { c.ownIdx.put(o.index) })
	}
	for _, a := range own {
		if c.own[a] != nil {
			continue
		}
		i, ok := c.ownIdx.get()
		if !ok {
			c.full = true
			break
		}
		if err := c.t.Own.Update(address(a), i, ebpf.UpdateAny); err != nil {
			return fmt.Errorf("put the local RLOC %v into the tables: %w", a, err)
		}
		c.own[a] = &ours{i, c.sum(c.t.ownUsages, i)}
	}
	return nil
}

// syncSources brings the choice of sources for both families into the tables.
func (c *copier) syncSources(s *dataplane.Snapshot) {
	now := time.Now()
	for _, i := range c.sources {
		c.lately[i] = now
	}
	used := make(map[lispSources]uint32)
	changed := set(&c.t.settings.Source4, c.sourceTable(used, s.SourceTable(netip.IPv4Unspecified())))
	changed = set(&c.t.settings.Source6, c.sourceTable(used, s.SourceTable(netip.IPv6Unspecified()))) || changed
	around := make(map[netip.Addr]uint32)
	for a := range s.Avoiding() {
		around[a] = c.sourceTable(used, s.SourceTable(a))
	}
	for a, m := range c.remotes {
		i, special := around[a]
		if special && i == 0 {
			i = maxSourceTable // has no sources: the slow path's
		}
		changed = set(&c.t.rlocs[m.index].Source, i) || changed
	}
	if changed {
		c.forgetFlows()
	}
	c.sources = used
}

// sourceTable returns the index of a table of sources, 0 if there is none or no
// room. A table that is in use is not changed, nor one that was a moment ago.
func (c *copier) sourceTable(used map[lispSources]uint32, t dataplane.SourceTable) uint32 {
	if len(t.Addrs) == 0 || len(t.Addrs) > maxSources {
		return 0
	}
	v := lispSources{N: uint32(len(t.Addrs))}
	for i, a := range t.Addrs {
		v.Addr[i] = words(a)
		if o := c.own[a]; o != nil {
			v.Own[i] = o.index
		}
		for k, port := range c.ports(a) {
			v.Ports[i][k%sourcePorts] = swapped(port)
		}
	}
	if t.Slots != nil {
		v.Slots = *t.Slots
	}
	if i, ok := used[v]; ok {
		return i
	}
	if i, ok := c.sources[v]; ok {
		used[v] = i
		return i
	}
	busy := make(map[uint32]bool)
	for _, i := range c.sources {
		busy[i] = true
	}
	for _, i := range used {
		busy[i] = true
	}
	for i := uint32(1); i < maxSourceTable; i++ {
		if !busy[i] && time.Since(c.lately[i]) >= grace {
			c.t.sourceTables[i].v = v
			used[v] = i
			return i
		}
	}
	c.full = true
	return 0
}

// syncRLOCs brings path MTUs, and the sources of new locators, into the tables.
func (c *copier) syncRLOCs(s *dataplane.Snapshot) {
	changed := false
	for _, m := range c.remotes {
		if m.rloc != nil {
			changed = set(&c.t.rlocs[m.index].Mtu, uint32(m.rloc.MTU())) || changed
		}
	}
	if changed {
		c.forgetFlows()
	}
	c.syncSources(s)
}

// setVirtual says which links leave checksums to others.
func (c *copier) setVirtual(links map[int]bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	var gone []uint32
	var k uint32
	var v uint8
	for it := c.t.Virtuals.Iterate(); it.Next(&k, &v); {
		if !links[int(k)] {
			gone = append(gone, k)
		}
	}
	for i := range links {
		if err := c.t.Virtuals.Update(uint32(i), uint8(1), ebpf.UpdateAny); err != nil {
			return fmt.Errorf("put interface %d into the tables: %w", i, err)
		}
	}
	for _, i := range gone {
		_ = c.t.Virtuals.Delete(i)
	}
	return nil
}

// sum adds the shards of one usage.
func (c *copier) sum(of []lispUsage, index uint32) (u lispUsage) {
	for i := range c.t.shards {
		s := &of[int(index)*c.t.shards+i]
		u.Packets += atomic.LoadUint64(&s.Packets)
		u.Bytes += atomic.LoadUint64(&s.Bytes)
		u.Received += atomic.LoadUint64(&s.Received)
		u.ReceivedBytes += atomic.LoadUint64(&s.ReceivedBytes)
	}
	return u
}

// fold takes to the FIB and to the counters what the programs have counted since
// the last time. Who asks often is answered with what is there: with many mappings
// in use it takes a sixteenth of a CPU, and not more.
func (c *copier) fold() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if begin := time.Now(); !c.closed && !begin.Before(c.restUntil) {
		all := begin.Sub(c.searched) >= searchInterval
		if c.take(all); all {
			c.searched = begin
		}
		c.restUntil = time.Now().Add(min(foldRest*time.Since(begin), foldInterval))
	}
}

// marked takes the marks from words of eight, and yields the indices of those that
// were set. A mark that is set meanwhile is for the next time.
func marked(words []uint64) iter.Seq[int] {
	return func(yield func(int) bool) {
		for w := range words {
			if atomic.LoadUint64(&words[w]) == 0 {
				continue
			}
			var b [8]byte
			binary.NativeEndian.PutUint64(b[:], atomic.SwapUint64(&words[w], 0))
			for k, mark := range b {
				if mark != 0 && !yield(w*8+k) {
					return
				}
			}
		}
	}
}

// take is fold, at once. With all it looks for marks everywhere, and not only where
// marks are said to be: on some CPUs that may have been seen before the mark itself.
func (c *copier) take(all bool) {
	any := false
	search := func(first, last int) {
		end := len(c.t.touched)
		for i := range marked(c.t.touched[min(first*touchLine/8, end):min(last*touchLine/8, end)]) {
			any = true
			if i += first * touchLine; i < len(c.byIndex) && c.byIndex[i] != nil {
				c.takeLine(c.byIndex[i])
			}
		}
	}
	for i := range marked(c.t.touchedIn) {
		search(i, i+1)
	}
	if all {
		search(0, int(c.indices.next)/touchLine+1) // beyond are no entries
	}
	if any {
		for _, m := range c.remotes {
			c.takeRemote(m)
		}
	}
	// What comes to an address need not be of a mapping.
	s := c.fwd.FIB().Snapshot()
	for a, o := range c.own {
		was, now := o.told, c.sum(c.t.ownUsages, o.index)
		if now == was {
			continue
		}
		o.told = now
		s.AddLocal(a, dataplane.Traffic{
			PacketsOut: now.Packets - was.Packets, BytesOut: now.Bytes - was.Bytes,
			PacketsIn: now.Received - was.Received, BytesIn: now.ReceivedBytes - was.ReceivedBytes,
		})
	}
	c.bury()
}

// trace has the programs leave the packets of a trace to the TUN plane, and with
// nil no more.
func (c *copier) trace(f *dataplane.TraceFilter) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	t := &c.t.settings.Trace
	atomic.StoreUint64(&t.Until, 0)
	if c.tracing = f != nil; !c.tracing {
		return
	}
	t.Iid, t.Protocol, t.Family = f.IID, uint32(f.Protocol), 0
	end := func(p netip.Prefix, prefix, mask *[4]uint32) {
		*prefix, *mask = [4]uint32{}, [4]uint32{}
		if !p.IsValid() {
			return
		}
		if t.Family = 4; p.Addr().Is6() {
			t.Family = 6
		}
		*prefix = words(p.Addr())
		var m [16]byte
		for i := range p.Bits() {
			m[i/8] |= 0x80 >> (i % 8)
		}
		for i := range mask {
			mask[i] = binary.NativeEndian.Uint32(m[4*i:])
		}
	}
	end(f.Here, &t.Here, &t.HereMask)
	end(f.There, &t.There, &t.ThereMask)
	atomic.StoreUint64(&t.Until, bootTime(time.Now().Add(traceTime)))
}

// traceOn prolongs a trace that is under way.
func (c *copier) traceOn() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed && c.tracing {
		atomic.StoreUint64(&c.t.settings.Trace.Until, bootTime(time.Now().Add(traceTime)))
	}
}

// takeLine takes the usage of one entry.
func (c *copier) takeLine(l *line) {
	was, now := l.told, c.sum(c.t.usages, l.index)
	sent, received := now.Packets-was.Packets, now.Received-was.Received
	l.told = now
	if sent == 0 && received == 0 {
		return
	}
	if l.entry == nil {
		c.ask(l)
		return
	}
	if sent > 0 {
		c.fwd.FIB().Sent(l.entry, sent, now.Bytes-was.Bytes)
	}
	if received > 0 {
		c.fwd.FIB().Received(l.entry, received, now.ReceivedBytes-was.ReceivedBytes)
	}
}

func (c *copier) takeRemote(m *remote) {
	now := c.sum(c.t.rlocUsages, m.index)
	if sent := now.Packets - m.told.Packets; sent > 0 && m.rloc != nil {
		m.rloc.SentTo(sent, now.Bytes-m.told.Bytes)
	}
	m.told = now
}

// close takes the last counts, and ends the use of the tables.
func (c *copier) close() error {
	c.mu.Lock()
	if !c.closed {
		c.take(true)
	}
	c.mu.Unlock()
	err := c.count()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	return errors.Join(err, c.t.unmap())
}

// count adds to the counters what the programs have counted.
func (c *copier) count() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	was := c.stats
	now, err := c.read()
	if err != nil {
		return err
	}
	c.stats = now
	c.c.Add(dataplane.EncapPackets, now.EncapPackets-was.EncapPackets)
	c.c.Add(dataplane.CacheHits, now.EncapPackets-was.EncapPackets)
	c.c.Add(dataplane.EncapBytes, now.EncapBytes-was.EncapBytes)
	c.c.Add(dataplane.DecapPackets, now.DecapPackets-was.DecapPackets)
	c.c.Add(dataplane.DecapBytes, now.DecapBytes-was.DecapBytes)
	c.c.Add(dataplane.ECNUnexpected, now.EcnUnexpected-was.EcnUnexpected)
	c.c.Add(dataplane.HeaderBitsIgnored, now.HeaderBits-was.HeaderBits)
	c.c.Add(dataplane.HeardLost, now.HeardLost-was.HeardLost)
	c.c.Add(dataplane.HostCacheHits, now.CacheHits-was.CacheHits)
	c.c.Add(dataplane.HostCacheMisses, now.CacheMisses-was.CacheMisses)
	c.c.Add(dataplane.SlowEncap, now.SlowEncap-was.SlowEncap)
	c.c.Add(dataplane.SlowDecap, now.SlowDecap-was.SlowDecap)
	c.c.Drop(dataplane.DropSendError, now.Undone-was.Undone)
	return nil
}

// drainHeard takes the outer sources to the forwarder.
func (c *copier) drainHeard() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	var list []lispAddress
	var k lispAddress
	var v uint8
	for it := c.t.Heard.Iterate(); it.Next(&k, &v); {
		list = append(list, k)
	}
	slices.SortFunc(list, func(a, b lispAddress) int {
		return cmp.Or(cmp.Compare(a.Family, b.Family), slices.Compare(a.Addr[:], b.Addr[:]))
	})
	for _, k := range slices.Compact(list) {
		if c.t.Heard.Delete(k) == nil {
			c.fwd.NoteHeard(netipAddr(k.Addr, k.Family == 6), c.c)
		}
	}
}

// read sums the counters of all CPUs.
func (c *copier) read() (now lispStats, err error) {
	var cpus []lispStats
	if err := c.t.Counts.Lookup(uint32(0), &cpus); err != nil {
		return now, fmt.Errorf("read the counters: %w", err)
	}
	for _, s := range cpus {
		now.EncapPackets += s.EncapPackets
		now.EncapBytes += s.EncapBytes
		now.DecapPackets += s.DecapPackets
		now.DecapBytes += s.DecapBytes
		now.EcnUnexpected += s.EcnUnexpected
		now.HeaderBits += s.HeaderBits
		now.HeardLost += s.HeardLost
		now.CacheHits += s.CacheHits
		now.CacheMisses += s.CacheMisses
		now.SlowEncap += s.SlowEncap
		now.SlowDecap += s.SlowDecap
		now.Undone += s.Undone
	}
	return now, nil
}
