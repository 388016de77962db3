package mapping

import (
	"iter"
	"maps"
	"net/netip"
	"slices"
	"sort"

	"github.com/gaissmai/bart"
)

// Table is an immutable longest-prefix table of EIDs, one per instance inside.
// Readers share it without a lock; a writer makes a new one with Edit and
// publishes it behind an atomic pointer. The zero Table is empty and ready.
type Table[V any] struct {
	instances map[uint32]*instance[V]
	size      int
}

// instance holds one address space. EIDs with a source prefix are rare, so
// they live beside the plain table and cost nothing while there are none.
type instance[V any] struct {
	any     *bart.Table[V]              // never nil
	sourced *bart.Table[*bart.Table[V]] // destination -> source -> value
}

// Len returns the number of EIDs in t.
func (t *Table[V]) Len() int { return t.size }

// Instances returns the instance-IDs that hold anything, ascending.
func (t *Table[V]) Instances() []uint32 {
	return slices.Sorted(maps.Keys(t.instances))
}

// Get returns the value of exactly this EID.
func (t *Table[V]) Get(e EID) (v V, ok bool) {
	in := t.instances[e.IID]
	if in == nil {
		return v, false
	}
	if !e.Source.IsValid() {
		return in.any.Get(e.Prefix)
	}
	if in.sourced != nil {
		if bySource, ok := in.sourced.Get(e.Prefix); ok {
			return bySource.Get(e.Source)
		}
	}
	return v, false
}

// Lookup returns the value of the longest EID that holds the address dst of
// instance iid, whatever its source. It does not allocate and takes no lock.
func (t *Table[V]) Lookup(iid uint32, dst netip.Addr) (v V, ok bool) {
	in := t.instances[iid]
	if in == nil {
		return v, false
	}
	return in.any.Lookup(dst)
}

// LookupFrom is Lookup for a packet whose source is known: the longest
// destination that has an entry for the source wins, and inside it the longest
// source (RFC 8060 section 4.8).
func (t *Table[V]) LookupFrom(iid uint32, dst, src netip.Addr) (v V, ok bool) {
	in := t.instances[iid]
	if in == nil {
		return v, false
	}
	if in.sourced == nil || !src.IsValid() {
		return in.any.Lookup(dst)
	}
	host := netip.PrefixFrom(dst, dst.BitLen())
	anyPfx, anyVal, anyOK := in.any.LookupPrefixLPM(host)
	for p, bySource := range in.sourced.Supernets(host) {
		if anyOK && p.Bits() < anyPfx.Bits() {
			break
		}
		if sv, ok := bySource.Lookup(src); ok {
			return sv, true
		}
	}
	return anyVal, anyOK
}

// LookupPrefix returns the longest EID that covers the prefix e (its source is
// not looked at), and the value there.
func (t *Table[V]) LookupPrefix(e EID) (found EID, v V, ok bool) {
	in := t.instances[e.IID]
	if in == nil {
		return EID{}, v, false
	}
	p, v, ok := in.any.LookupPrefixLPM(e.Prefix)
	if !ok {
		return EID{}, v, false
	}
	return EID{IID: e.IID, Prefix: p}, v, true
}

// Covered walks the EIDs that lie inside e, e itself included, prefixes before
// their more-specifics.
func (t *Table[V]) Covered(e EID) iter.Seq2[EID, V] {
	return func(yield func(EID, V) bool) {
		if in := t.instances[e.IID]; in != nil {
			in.walk(e.IID, in.any.Subnets(e.Prefix), e.Source, subnets, e.Prefix, yield)
		}
	}
}

// Walker is Covered for those who walk for every packet: it allocates nothing
// where no EID has a source. It is for one goroutine.
type Walker[V any] struct {
	visit func(EID, V) bool
	iid   uint32
	plain func(netip.Prefix, V) bool
}

// NewWalker returns a Walker that calls visit until it returns false.
func NewWalker[V any](visit func(EID, V) bool) *Walker[V] {
	w := &Walker[V]{visit: visit}
	w.plain = func(p netip.Prefix, v V) bool { return w.visit(EID{IID: w.iid, Prefix: p}, v) }
	return w
}

// Covered walks the EIDs of t that lie inside e, as Table.Covered does.
func (w *Walker[V]) Covered(t *Table[V], e EID) {
	in := t.instances[e.IID]
	switch {
	case in == nil:
	case in.sourced == nil && !e.Source.IsValid():
		w.iid = e.IID
		in.any.Subnets(e.Prefix)(w.plain)
	default:
		t.Covered(e)(w.visit)
	}
}

// Covering walks the EIDs that hold e, e itself included, most-specific first.
func (t *Table[V]) Covering(e EID) iter.Seq2[EID, V] {
	return func(yield func(EID, V) bool) {
		if in := t.instances[e.IID]; in != nil {
			in.walk(e.IID, in.any.Supernets(e.Prefix), e.Source, supernets, e.Prefix, yield)
		}
	}
}

// All walks the whole table in the order of EID.Compare within an instance;
// EIDs with a source come after all those without.
func (t *Table[V]) All() iter.Seq2[EID, V] {
	return func(yield func(EID, V) bool) {
		for _, iid := range t.Instances() {
			in := t.instances[iid]
			if !in.walk(iid, in.any.AllSorted(), netip.Prefix{}, allSorted, netip.Prefix{}, yield) {
				return
			}
		}
	}
}

// After walks the EIDs inside within, or all with the zero EID, as Covered and
// All do, but begins behind the place of e, which within covers and which need
// not be there; with the zero EID it begins at the start. It takes no longer
// than what it yields, wherever it begins.
func (t *Table[V]) After(within, e EID) iter.Seq2[EID, V] {
	switch {
	case !e.IsValid() && !within.IsValid():
		return t.All()
	case !e.IsValid():
		return t.Covered(within)
	}
	return func(yield func(EID, V) bool) {
		for _, iid := range t.Instances() {
			switch in := t.instances[iid]; {
			case iid < e.IID || within.IsValid() && iid != within.IID:
			case iid > e.IID:
				if !in.walk(iid, in.any.AllSorted(), netip.Prefix{}, allSorted, netip.Prefix{}, yield) {
					return
				}
			case !in.after(within, e, yield):
				return
			}
		}
	}
}

// after yields what comes after e inside within. It reports whether to go on.
func (in *instance[V]) after(within, e EID, yield func(EID, V) bool) bool {
	if !e.Source.IsValid() && !within.Source.IsValid() {
		for p, v := range behind(in.any, within.Prefix, e.Prefix) {
			if !yield(EID{IID: e.IID, Prefix: p}, v) {
				return false
			}
		}
	}
	if in.sourced == nil {
		return true
	}
	dsts := in.sourced.AllSorted()
	if within.IsValid() {
		dsts = in.sourced.Subnets(within.Prefix)
	}
	if e.Source.IsValid() {
		if bySource, ok := in.sourced.Get(e.Prefix); ok {
			for p, v := range behind(bySource, within.Source, e.Source) {
				if !yield(EID{IID: e.IID, Prefix: e.Prefix, Source: p}, v) {
					return false
				}
			}
		}
		dsts = behind(in.sourced, within.Prefix, e.Prefix)
	}
	for q, bySource := range dsts {
		srcs := bySource.AllSorted()
		if within.Source.IsValid() {
			srcs = bySource.Subnets(within.Source)
		}
		for p, v := range srcs {
			if !yield(EID{IID: e.IID, Prefix: q, Source: p}, v) {
				return false
			}
		}
	}
	return true
}

// behind walks what t has inside within, or of all prefixes with the zero one,
// behind the place of p in the order of netip.Prefix.Compare: what is inside of
// p, and then on the right of p and of each prefix that holds it.
func behind[V any](t *bart.Table[V], within, p netip.Prefix) iter.Seq2[netip.Prefix, V] {
	return func(yield func(netip.Prefix, V) bool) {
		for q, v := range t.Subnets(p) {
			if q != p && !yield(q, v) {
				return
			}
		}
		a := p.Addr().AsSlice()
		for bit := p.Bits() - 1; bit >= max(within.Bits(), 0); bit-- {
			mask := byte(0x80) >> (bit % 8)
			if a[bit/8]&mask != 0 {
				continue
			}
			a[bit/8] |= mask
			right, _ := netip.AddrFromSlice(a)
			a[bit/8] &^= mask
			for q, v := range t.Subnets(netip.PrefixFrom(right, bit+1).Masked()) {
				if !yield(q, v) {
					return
				}
			}
		}
		if !within.IsValid() && p.Addr().Is4() {
			t.Subnets(netip.PrefixFrom(netip.IPv6Unspecified(), 0))(yield)
		}
	}
}

type direction uint8

const (
	allSorted direction = iota
	subnets
	supernets
)

// walk yields the plain entries of seq, then those with a source that lie in
// the same direction from (p, source). It reports whether to go on.
func (in *instance[V]) walk(iid uint32, seq iter.Seq2[netip.Prefix, V], source netip.Prefix, dir direction, p netip.Prefix, yield func(EID, V) bool) bool {
	// An entry for any source lies inside e only when e is for any source.
	if dir != subnets || !source.IsValid() {
		for q, v := range seq {
			if !yield(EID{IID: iid, Prefix: q}, v) {
				return false
			}
		}
	}
	if in.sourced == nil || dir == supernets && !source.IsValid() {
		return true
	}
	dsts := in.sourced.AllSorted()
	switch dir {
	case subnets:
		dsts = in.sourced.Subnets(p)
	case supernets:
		dsts = in.sourced.Supernets(p)
	}
	for q, bySource := range dsts {
		srcs := bySource.AllSorted()
		switch {
		case dir == subnets && source.IsValid():
			srcs = bySource.Subnets(source)
		case dir == supernets:
			srcs = bySource.Supernets(source)
		}
		for s, v := range srcs {
			if !yield(EID{IID: iid, Prefix: q, Source: s}, v) {
				return false
			}
		}
	}
	return true
}

// Hole returns the least-specific prefix inside within that holds the address
// a and overlaps no EID of the table: what a negative Map-Reply should name
// (RFC 9301 sections 8.3 and 8.4). Entries that cover within or equal it do
// not count, so that the hole may be taken inside a configured prefix. ok is
// false when an EID more specific than within holds a.
func (t *Table[V]) Hole(within EID, a netip.Addr) (hole EID, ok bool) {
	first, bits := within.Prefix.Bits(), a.BitLen()
	if within.Prefix.Addr().BitLen() != bits || !within.Prefix.Contains(a) {
		return EID{}, false
	}
	in := t.instances[within.IID]
	overlaps := func(n int) bool {
		p, _ := a.Prefix(n)
		if in == nil {
			return false
		}
		return in.overlapsBelow(p, first)
	}
	n := first + sort.Search(bits-first, func(i int) bool { return !overlaps(first + i) })
	if overlaps(n) {
		return EID{}, false
	}
	p, _ := a.Prefix(n)
	return EID{IID: within.IID, Prefix: p}, true
}

// overlapsBelow reports whether an entry longer than floor bits covers p or
// lies inside p.
func (in *instance[V]) overlapsBelow(p netip.Prefix, floor int) bool {
	if overlapsBelow(in.any, p, floor) {
		return true
	}
	return in.sourced != nil && overlapsBelow(in.sourced, p, floor)
}

func overlapsBelow[V any](t *bart.Table[V], p netip.Prefix, floor int) bool {
	if !t.OverlapsPrefix(p) {
		return false
	}
	if lpm, _, ok := t.LookupPrefixLPM(p); ok && lpm.Bits() > floor {
		return true
	}
	for q := range t.Subnets(p) {
		if q.Bits() > floor {
			return true
		}
	}
	return false
}

// Everything is the EID that holds all addresses of a's family in iid.
func Everything(iid uint32, a netip.Addr) EID {
	p, _ := a.Prefix(0)
	return EID{IID: iid, Prefix: p}
}

// Editor makes a changed copy of a Table. It is for one goroutine. The table
// it came from is not changed.
type Editor[V any] struct {
	t       Table[V]
	inPlace map[uint32]bool // instances this editor owns whole
	bulk    bool
}

// Edit starts a change of about n entries. Few changes copy only the paths
// they touch; many copy an instance once and then change it in place.
func (t *Table[V]) Edit(n int) *Editor[V] {
	// A path copy costs about 16 us, cloning about 0.1 us an entry.
	return &Editor[V]{
		t:       Table[V]{instances: maps.Clone(t.instances), size: t.size},
		inPlace: make(map[uint32]bool),
		bulk:    n > 256 && n > t.size/128,
	}
}

// Get returns the value of exactly this EID, with the changes made so far.
func (ed *Editor[V]) Get(e EID) (V, bool) { return ed.t.Get(e) }

// Insert adds or replaces the value of e, which must be valid.
func (ed *Editor[V]) Insert(e EID, v V) {
	if _, ok := ed.t.Get(e); !ok {
		ed.t.size++
	}
	in := ed.own(e.IID)
	if !e.Source.IsValid() {
		if ed.inPlace[e.IID] {
			in.any.Insert(e.Prefix, v)
		} else {
			in.any = in.any.InsertPersist(e.Prefix, v)
		}
		return
	}
	if in.sourced == nil {
		in.sourced = new(bart.Table[*bart.Table[V]])
	}
	bySource, ok := in.sourced.Get(e.Prefix)
	if !ok {
		bySource = new(bart.Table[V])
	}
	in.sourced = in.sourced.InsertPersist(e.Prefix, bySource.InsertPersist(e.Source, v))
}

// Delete removes e and reports whether it was there.
func (ed *Editor[V]) Delete(e EID) bool {
	if _, ok := ed.t.Get(e); !ok {
		return false
	}
	ed.t.size--
	in := ed.own(e.IID)
	if !e.Source.IsValid() {
		if ed.inPlace[e.IID] {
			in.any.Delete(e.Prefix)
		} else {
			in.any = in.any.DeletePersist(e.Prefix)
		}
	} else {
		bySource, _ := in.sourced.Get(e.Prefix)
		if bySource = bySource.DeletePersist(e.Source); bySource.Size() > 0 {
			in.sourced = in.sourced.InsertPersist(e.Prefix, bySource)
		} else if in.sourced = in.sourced.DeletePersist(e.Prefix); in.sourced.Size() == 0 {
			in.sourced = nil
		}
	}
	if in.any.Size() == 0 && in.sourced == nil {
		delete(ed.t.instances, e.IID)
		delete(ed.inPlace, e.IID)
	}
	return true
}

// own returns a copy of the instance that this editor may change.
func (ed *Editor[V]) own(iid uint32) *instance[V] {
	if ed.inPlace == nil {
		panic("mapping: Editor used after Table")
	}
	old := ed.t.instances[iid]
	if own, seen := ed.inPlace[iid]; seen && (own || !ed.bulk) {
		return old
	}
	in := &instance[V]{any: new(bart.Table[V])}
	fresh := old == nil
	if !fresh {
		in.sourced = old.sourced
		if ed.bulk {
			in.any = old.any.Clone()
		} else {
			in.any = old.any
		}
	}
	if ed.t.instances == nil {
		ed.t.instances = make(map[uint32]*instance[V])
	}
	ed.t.instances[iid] = in
	ed.inPlace[iid] = ed.bulk || fresh
	return in
}

// Table ends the edit and returns the changed table. The editor must not be
// used afterwards.
func (ed *Editor[V]) Table() *Table[V] {
	ed.inPlace = nil
	return &ed.t
}
