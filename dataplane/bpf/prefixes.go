package bpf

import (
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"

	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/mapping"
)

// batchSize is how many writes to a map of prefixes go to the kernel at once.
const batchSize = 4096

// edit is a write to a map of prefixes that waits to be made.
type edit struct {
	eid mapping.EID
	l   *line // whose index is written; nil if the prefix goes
	old *line // that nobody finds any more when it is made; may be nil
}

// batch are writes to one of the maps of prefixes, in order and all of a kind: a
// system call for each takes longer than the write. Where the kernel has none
// for many in this kind of map, which the first try shows, they are made one by
// one.
type batch[K any] struct {
	m      *ebpf.Map
	single bool
	remove bool
	keys   []K
	values []uint32
	edits  []edit
}

// add puts a write into the batch, which has room for it.
func (b *batch[K]) add(k K, v uint32, e edit) {
	b.keys, b.values, b.edits = append(b.keys, k), append(b.values, v), append(b.edits, e)
}

// flush makes the writes, and tells of each in order.
func (b *batch[K]) flush(made func(e edit), failed func(e edit, k *K, err error)) {
	for i := 0; i < len(b.keys); {
		n, err := 0, error(nil)
		if !b.single {
			if b.remove {
				n, err = b.m.BatchDelete(b.keys[i:], nil)
			} else {
				n, err = b.m.BatchUpdate(b.keys[i:], b.values[i:], nil)
			}
			if err != nil && n >= len(b.keys)-i { // nothing was tried
				n = 0
			}
		}
		for range n {
			made(b.edits[i])
			i++
		}
		if i == len(b.keys) {
			break
		}
		// The one that is next has failed, or all would.
		var one error
		if b.remove {
			if one = b.m.Delete(&b.keys[i]); errors.Is(one, ebpf.ErrKeyNotExist) {
				one = nil
			}
		} else {
			one = b.m.Update(&b.keys[i], b.values[i], ebpf.UpdateAny)
		}
		if one != nil {
			failed(b.edits[i], &b.keys[i], one)
		} else {
			if n == 0 && err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
				b.single = true
			}
			made(b.edits[i])
		}
		i++
	}
	clear(b.edits)
	b.keys, b.values, b.edits = b.keys[:0], b.values[:0], b.edits[:0]
}

// put writes the index of an EID-prefix, or removes it if l is nil. It is made
// with the next flush at the latest.
func (c *copier) put(eid mapping.EID, l, old *line) error {
	a, bits := eid.Prefix.Addr(), uint32(32+eid.Prefix.Bits())
	if a.Is4() {
		return stage(c, &c.eids4, lispEid4{Bits: bits, Iid: bigEndian(eid.IID), Addr: words(a)[0]}, edit{eid, l, old})
	}
	return stage(c, &c.eids6, lispEid6{Bits: bits, Iid: bigEndian(eid.IID), Addr: words(a)}, edit{eid, l, old})
}

func stage[K any](c *copier, b *batch[K], k K, e edit) (err error) {
	remove, v := e.l == nil, uint32(0)
	if !remove {
		v = e.l.index
	}
	if len(b.keys) == batchSize || len(b.keys) > 0 && b.remove != remove {
		err = flushBatch(c, b)
	}
	b.remove = remove
	b.add(k, v, e)
	return err
}

// flush makes the writes to both maps of prefixes.
func (c *copier) flush() error {
	return errors.Join(flushBatch(c, &c.eids4), flushBatch(c, &c.eids6))
}

func flushBatch[K any](c *copier, b *batch[K]) error {
	var errs []error
	b.flush(func(e edit) {
		// Only now: a host that was looked up before it is the old line's.
		c.forget(e.eid)
		if e.old != nil {
			c.drop(e.old)
		}
	}, func(e edit, k *K, err error) {
		err = fmt.Errorf("write %v to %v: %w", e.eid, b.m, err)
		errs = append(errs, err)
		if e.old != nil && e.old.index != 0 {
			atomic.StoreUint64(&c.t.entries[e.old.index].Expires, 0)
			c.forget(e.eid)
		}
		if b.remove {
			return // what is there has expired for good, and keeps its place
		}
		if dead := b.m.Delete(k); dead != nil && !errors.Is(dead, ebpf.ErrKeyNotExist) {
			errs = append(errs, fmt.Errorf("take %v out of %v: %w", e.eid, b.m, dead))
		} else {
			c.forget(e.eid)
			if e.old != nil {
				c.drop(e.old)
			}
		}
		if c.lines[e.eid] == e.l { // else a later write takes its place
			delete(c.lines, e.eid)
			c.placed[family(e.eid)]--
			c.drop(e.l)
			c.refuse(e.eid)
		}
	})
	return errors.Join(errs...)
}

// family is the index of placed for an EID.
func family(e mapping.EID) int {
	if e.Prefix.Addr().Is4() {
		return 0
	}
	return 1
}

// room reports whether one more prefix fits in. One place stays free, as older
// kernels replace nothing in a map that is full.
func (c *copier) room(e mapping.EID) bool {
	m := c.eids4.m
	if family(e) == 1 {
		m = c.eids6.m
	}
	return c.placed[family(e)]+1 < int(m.MaxEntries())
}

// refuse notes that a prefix has no place. Its packets would find the mapping of
// a shorter prefix, so those that cover it are the slow path's, too.
func (c *copier) refuse(e mapping.EID) {
	c.noRoom()
	if c.refused[e] {
		return
	}
	c.refused[e] = true
	for p := range covers(e) {
		c.over[p]++
		if l := c.lines[p]; l != nil && l.index != 0 {
			atomic.StoreUint64(&c.t.entries[l.index].Expires, 0)
			c.forget(p)
		}
	}
}

// noRoom counts a mapping that is left to the slow path for want of room.
func (c *copier) noRoom() {
	c.full = true
	c.c.Add(dataplane.KernelFull, 1)
}

// admit forgets that a prefix had no place. What covers it is looked at again.
func (c *copier) admit(e mapping.EID) {
	if !c.refused[e] {
		return
	}
	delete(c.refused, e)
	for p := range covers(e) {
		if c.over[p]--; c.over[p] <= 0 {
			delete(c.over, p)
			if c.lines[p] != nil {
				c.again = append(c.again, p)
			}
		}
	}
}

// covers walks the shorter prefixes of one.
func covers(e mapping.EID) func(yield func(mapping.EID) bool) {
	return func(yield func(mapping.EID) bool) {
		for bits := e.Prefix.Bits() - 1; bits >= 0; bits-- {
			p := netip.PrefixFrom(e.Prefix.Addr(), bits).Masked()
			if !yield(mapping.EID{IID: e.IID, Prefix: p}) {
				return
			}
		}
	}
}

// retry gives the prefixes that had no place one, as far as there is room now.
func (c *copier) retry(s *dataplane.Snapshot, cfg dataplane.Settings) error {
	var errs []error
	for e := range c.refused {
		if c.room(e) {
			errs = append(errs, c.change(s, e, cfg))
		}
	}
	for len(c.again) > 0 {
		e := c.again[len(c.again)-1]
		c.again = c.again[:len(c.again)-1]
		errs = append(errs, c.change(s, e, cfg))
	}
	return errors.Join(errs...)
}

// lack returns errFull if there was ever something that did not find room.
func (c *copier) lack() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.full {
		return errFull
	}
	return nil
}

// settle begins the grace of what no program finds any more since the writes.
func (c *copier) settle() {
	now := time.Now()
	for i := c.settled; i < len(c.retired); i++ {
		c.retired[i].since = now
	}
	c.settled = len(c.retired)
}
