package internet

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

func TestTable(t *testing.T) {
	asrel := write(t, "r", "1|10|-1\n2|10|-1\n1|20|-1\n")
	got, err := ReadTable(write(t, "t",
		// A provider with a more-specific, its multihomed customer with a hole in
		// its block, two halves and a more-specific; a hole in the block of another;
		// a single-homed one, a stranger, and a prefix of two origins.
		"10.0.0.0\t8\t1\n10.1.0.0\t16\t1\n10.2.0.0\t24\t10\n"+
			"20.0.0.0\t24\t10\n20.0.1.0\t24\t10\n20.0.1.0\t25\t10\n20.0.1.0\t25\t10\n"+
			"30.0.0.0\t16\t99\n30.0.1.0\t24\t10\n40.0.0.0\t24\t20\n50.0.0.0\t24\t1_2\n"), asrel)
	if err != nil {
		t.Fatal(err)
	}
	want := Table{All: 9, Multihomed: 5, SingleHomed: 1, Transit: 2, Unknown: 1, Extra: 3, TransitSpecifics: 1, Aggregated: 6}
	if got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if left, factor := got.Without(got.Extra); left != 6 || factor != 9./6 {
		t.Error(left, factor)
	}
}

// What is aggregated covers the addresses that were covered, no others, and no two of
// it could be one.
func TestAggregate(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 0))
	for range 300 {
		var list []netip.Prefix
		for range 1 + rng.IntN(40) {
			a := netip.AddrFrom4([4]byte{10, 0, 0, byte(rng.Uint32())})
			list = append(list, netip.PrefixFrom(a, 26+rng.IntN(7)).Masked())
		}
		out := aggregate(list)
		for i := range 256 {
			a := netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})
			in := func(p netip.Prefix) bool { return p.Contains(a) }
			if slices.ContainsFunc(list, in) != slices.ContainsFunc(out, in) {
				t.Fatalf("%v of %v: %v", a, list, out)
			}
		}
		for i, p := range out[1:] {
			q := out[i]
			if q.Overlaps(p) || q.Bits() == p.Bits() && netip.PrefixFrom(p.Addr(), p.Bits()-1).Masked().Contains(q.Addr()) {
				t.Fatalf("%v and %v of %v", q, p, list)
			}
		}
	}
}
