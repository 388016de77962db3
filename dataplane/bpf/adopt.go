package bpf

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/mapping"
)

// adopt takes over tables that an earlier run has left. Packets go on being
// forwarded by what is there until it expires. The map-cache of this run is
// empty, so a mapping that packets are forwarded by is asked for, and replaced
// when the answer comes.
func (c *copier) adopt() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	sets, err := c.adoptSets()
	if err != nil {
		return err
	}
	var k4 lispEid4
	var k6 lispEid6
	var index uint32
	var found []*line
	it := c.t.Eids4.Iterate()
	for it.Next(&k4, &index) {
		a := netipAddr([4]uint32{k4.Addr}, false)
		found = append(found, &line{eid: mapping.EID{IID: bigEndian(k4.Iid), Prefix: netip.PrefixFrom(a, int(k4.Bits)-32)}, index: index})
	}
	if err := it.Err(); err != nil {
		return fmt.Errorf("read the prefixes: %w", err)
	}
	for it = c.t.Eids6.Iterate(); it.Next(&k6, &index); {
		a := netipAddr(k6.Addr, true)
		found = append(found, &line{eid: mapping.EID{IID: bigEndian(k6.Iid), Prefix: netip.PrefixFrom(a, int(k6.Bits)-32)}, index: index})
	}
	if err := it.Err(); err != nil {
		return fmt.Errorf("read the prefixes: %w", err)
	}
	byRLOC := make(map[uint32]*remote)
	for _, l := range found {
		c.lines[l.eid] = l
		c.placed[family(l.eid)]++
		if l.index == 0 || int(l.index) >= len(c.t.entries) {
			if err := c.remove(&line{eid: l.eid}); err != nil { // the slow path finds out anew
				return err
			}
			continue
		}
		c.adoptLine(l, byRLOC, sets)
	}
	if err := c.flush(); err != nil {
		return err
	}
	c.settle()
	c.indices.without(func(i uint32) bool { return c.byIndex[i] != nil })
	c.rlocs.without(func(i uint32) bool { return byRLOC[i] != nil })
	c.slots.adopted()
	c.sets.adopted()
	c.busySources()
	return c.adoptSite()
}

// adoptLine finds what an entry refers to.
func (c *copier) adoptLine(l *line, byRLOC map[uint32]*remote, sets map[uint32]string) {
	e := &c.t.entries[l.index]
	l.told = c.sum(c.t.usages, l.index)
	indices := []uint32{e.Rloc}
	if e.Slots != 0 {
		slots := c.t.slotTables[e.Slots].Rloc
		l.slots, l.hasSlots = &slots, true
		c.slots.adopt(slots, e.Slots)
		indices = slices.Compact(slices.Sorted(slices.Values(l.slots[:])))
	}
	for _, i := range indices {
		m := byRLOC[i]
		if m == nil {
			r := &c.t.rlocs[i]
			m = &remote{addr: netipAddr(r.Addr, r.V6 != 0), index: i, told: c.sum(c.t.rlocUsages, i)}
			byRLOC[i], c.remotes[m.addr] = m, m
		}
		m.refs++
		l.rlocs = append(l.rlocs, m)
	}
	slices.SortFunc(l.rlocs, func(a, b *remote) int { return a.addr.Compare(b.addr) }) // as in dataplane.Entry
	if set, ok := sets[e.Set]; ok && e.Set != 0 {
		l.set, l.hasSet = set, true
		c.sets.adopt(set, e.Set)
	}
	c.byIndex[l.index] = l
	c.adopted[l.eid] = l
}

// adoptSets returns the sets of locators by their numbers.
func (c *copier) adoptSets() (map[uint32]string, error) {
	lists := make(map[uint32][]netip.Addr)
	var k lispMember
	var v uint8
	it := c.t.Members.Iterate()
	for it.Next(&k, &v) {
		lists[k.Set>>1] = append(lists[k.Set>>1], netipAddr(k.Addr, k.Set&1 != 0))
	}
	sets := make(map[uint32]string)
	for id, list := range lists {
		sets[id] = setKey(list)
	}
	return sets, it.Err()
}

// adoptSite finds the site's prefixes and this router's addresses.
func (c *copier) adoptSite() error {
	var k4 lispLocal4
	var k6 lispLocal6
	var v lispLocal
	it := c.t.Locals4.Iterate()
	for it.Next(&k4, &v) {
		c.locals[mapping.EID{IID: v.Iid, Prefix: netip.PrefixFrom(netipAddr([4]uint32{k4.Addr}, false), int(k4.Bits))}] = v
	}
	errs := []error{it.Err()}
	for it = c.t.Locals6.Iterate(); it.Next(&k6, &v); {
		c.locals[mapping.EID{IID: v.Iid, Prefix: netip.PrefixFrom(netipAddr(k6.Addr, true), int(k6.Bits))}] = v
	}
	errs = append(errs, it.Err())
	var a lispAddress
	var index uint32
	used := make(map[uint32]bool)
	for it = c.t.Own.Iterate(); it.Next(&a, &index); {
		c.own[netipAddr(a.Addr, a.Family == 6)] = &ours{index, c.sum(c.t.ownUsages, index)}
		used[index] = true
	}
	c.ownIdx.without(func(i uint32) bool { return used[i] })
	return errors.Join(append(errs, it.Err())...)
}

// busySources notes which tables of sources are in use.
func (c *copier) busySources() {
	now := time.Now()
	c.lately[c.t.settings.Source4], c.lately[c.t.settings.Source6] = now, now
	for _, m := range c.remotes {
		c.lately[c.t.rlocs[m.index].Source] = now
	}
}

// expire removes adopted lines that have expired: no map-cache does.
func (c *copier) expire() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	now := bootTime(time.Now())
	var errs []error
	for eid, l := range c.adopted {
		switch {
		case c.lines[eid] != l || l.entry != nil:
			delete(c.adopted, eid)
		case c.t.entries[l.index].Expires <= now:
			delete(c.adopted, eid)
			errs = append(errs, c.remove(l))
		}
	}
	errs = append(errs, c.flush())
	c.settle()
	return errors.Join(errs...)
}

// without makes the pool give out what is not used.
func (p *pool) without(used func(uint32) bool) {
	p.free, p.next = nil, 0
	for i := p.size - 1; i > 0; i-- {
		if used(i) {
			p.next = i
			break
		}
	}
	for i := uint32(1); i < p.next; i++ {
		if !used(i) {
			p.free = append(p.free, i)
		}
	}
}

// adopt takes a reference to a value that has an index already.
func (s *shared[K]) adopt(k K, index uint32) {
	if r := s.refs[k]; r != nil {
		r.n++
		return
	}
	s.refs[k] = &ref{index, 1}
}

// adopted makes the pool give out what has not been adopted.
func (s *shared[K]) adopted() {
	used, last := make(map[uint32]bool), uint32(0)
	for _, r := range s.refs {
		used[r.index] = true
		last = max(last, r.index)
	}
	s.indices.next = last
	for i := uint32(1); i < last; i++ {
		if !used[i] {
			s.indices.free = append(s.indices.free, i)
		}
	}
}

// ask tells the resolver that the mapping of an adopted line is in use.
func (c *copier) ask(l *line) {
	c.fwd.Ask(dataplane.Miss{IID: l.eid.IID, Dst: l.eid.Prefix.Addr()}, c.c)
}
