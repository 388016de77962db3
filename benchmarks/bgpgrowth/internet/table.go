package internet

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
)

// Table is what a table of IPv4 prefixes is made of, in prefixes. Each is in one of
// the classes of its origin: a stub AS has no customer, and is multihomed when it has
// several providers.
type Table struct {
	// All are the prefixes with one origin: those of several are left out.
	All int
	// Multihomed, SingleHomed and Transit are those of such origins, Unknown those of
	// origins that the AS relationships do not have.
	Multihomed, SingleHomed, Transit, Unknown int
	// Extra are those of multihomed stubs that lie inside another prefix: of their
	// own, of a provider, or of others, which may have been their providers once.
	Extra int
	// TransitSpecifics are those of transit ASes that lie inside another of their own.
	TransitSpecifics int
	// Aggregated is how many would be left if every origin announced as few as
	// cover the same addresses.
	Aggregated int
}

// ReadTable takes apart a pfx2as table, with the AS relationships (serial-1) of about
// the same time.
func ReadTable(pfx2as, asrel string) (Table, error) {
	providers, customers, err := readRelations(asrel)
	if err != nil {
		return Table{}, err
	}
	origins, err := readOrigins(pfx2as)
	if err != nil {
		return Table{}, err
	}
	return compose(origins, providers, customers), nil
}

// Without returns how many prefixes are left when n are not there, and by which factor
// the table is smaller.
func (t Table) Without(n int) (left int, factor float64) {
	left = t.All - n
	return left, float64(t.All) / float64(left)
}

func compose(origins map[uint32][]netip.Prefix, providers map[uint32]map[uint32]bool, customers map[uint32]int) Table {
	type route struct {
		prefix netip.Prefix
		origin uint32
	}
	var t Table
	var routes []route
	for _, as := range slices.Sorted(maps.Keys(origins)) {
		for _, p := range origins[as] {
			routes = append(routes, route{p, as})
		}
		t.Aggregated += len(aggregate(origins[as]))
	}
	slices.SortFunc(routes, func(a, b route) int {
		return cmp.Or(a.prefix.Addr().Compare(b.prefix.Addr()), cmp.Compare(a.prefix.Bits(), b.prefix.Bits()), cmp.Compare(a.origin, b.origin))
	})
	var over []route // those that contain the one at hand, the shortest first
	for i, r := range routes {
		if i > 0 && r == routes[i-1] {
			continue
		}
		for len(over) > 0 && !over[len(over)-1].prefix.Contains(r.prefix.Addr()) {
			over = over[:len(over)-1]
		}
		own, inside := false, false
		for _, o := range over {
			if o.prefix != r.prefix {
				own = own || o.origin == r.origin
				inside = true
			}
		}
		over = append(over, r)
		t.All++
		switch {
		case customers[r.origin] > 0:
			t.Transit++
			if own {
				t.TransitSpecifics++
			}
		case len(providers[r.origin]) > 1:
			t.Multihomed++
			if inside {
				t.Extra++
			}
		case len(providers[r.origin]) == 1:
			t.SingleHomed++
		default:
			t.Unknown++
		}
	}
	return t
}

// aggregate returns the fewest prefixes that cover the same addresses, in order.
func aggregate(list []netip.Prefix) []netip.Prefix {
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	var out []netip.Prefix
	for _, p := range list {
		if n := len(out); n > 0 && out[n-1].Contains(p.Addr()) {
			continue
		}
		// Two halves are one, which may be the half of another.
		for n := len(out); n > 0 && p.Bits() > 0 && out[n-1].Bits() == p.Bits(); n = len(out) {
			whole := netip.PrefixFrom(p.Addr(), p.Bits()-1).Masked()
			if !whole.Contains(out[n-1].Addr()) {
				break
			}
			out, p = out[:n-1], whole
		}
		out = append(out, p)
	}
	return out
}
