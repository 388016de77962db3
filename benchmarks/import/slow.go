package main

import (
	"iter"
	"net/netip"
	"slices"
)

// slowTable answers longest-prefix questions the obvious way: it tries every
// length, longest first.
type slowTable map[netip.Prefix]bool

func newSlowTable(table []netip.Prefix) slowTable {
	s := make(slowTable, len(table))
	for _, p := range table {
		s[p] = true
	}
	return s
}

func (s slowTable) longest(a netip.Addr) (netip.Prefix, bool) {
	for n := a.BitLen(); n >= 0; n-- {
		if p, _ := a.Prefix(n); s[p] {
			return p, true
		}
	}
	return netip.Prefix{}, false
}

// bounds is the sorted form of the same table, to ask what lies inside p.
type bounds []netip.Prefix

// inside walks the prefixes of the table that lie strictly inside p.
func (b bounds) inside(p netip.Prefix) iter.Seq[netip.Prefix] {
	i, exact := slices.BinarySearchFunc(b, p, netip.Prefix.Compare)
	if exact {
		i++
	}
	return func(yield func(netip.Prefix) bool) {
		for ; i < len(b) && p.Contains(b[i].Addr()); i++ {
			if !yield(b[i]) {
				return
			}
		}
	}
}
