package mapping

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// slowTable is the obvious table that the real one is compared with.
type slowTable map[EID]int

func (s slowTable) lookup(iid uint32, dst, src netip.Addr) (best EID, v int, ok bool) {
	for e, x := range s {
		if !e.Contains(iid, dst) || e.Source.IsValid() && !e.Source.Contains(src) {
			continue
		}
		if ok && (e.Prefix.Bits() < best.Prefix.Bits() ||
			e.Prefix.Bits() == best.Prefix.Bits() && sourceBits(e) < sourceBits(best)) {
			continue
		}
		best, v, ok = e, x, true
	}
	return best, v, ok
}

func sourceBits(e EID) int {
	if !e.Source.IsValid() {
		return -1
	}
	return e.Source.Bits()
}

func (s slowTable) hole(within EID, a netip.Addr) (EID, bool) {
	for n := within.Prefix.Bits(); n <= a.BitLen(); n++ {
		p, _ := a.Prefix(n)
		clash := false
		for e := range s {
			if e.IID == within.IID && e.Prefix.Bits() > within.Prefix.Bits() && e.Prefix.Overlaps(p) {
				clash = true
			}
		}
		if !clash {
			return EID{IID: within.IID, Prefix: p}, true
		}
	}
	return EID{}, false
}

// genPrefix draws from a small space, so that prefixes often nest and collide.
func genPrefix(v6 bool) *rapid.Generator[netip.Prefix] {
	return rapid.Custom(func(t *rapid.T) netip.Prefix {
		b := rapid.SliceOfN(rapid.ByteRange(0, 3), 2, 2).Draw(t, "octets")
		if v6 {
			a := netip.AddrFrom16([16]byte{0x20, 0x01, b[0], b[1], 14: b[0], 15: b[1]})
			return netip.PrefixFrom(a, rapid.SampledFrom([]int{0, 16, 24, 30, 31, 32, 127, 128}).Draw(t, "bits")).Masked()
		}
		a := netip.AddrFrom4([4]byte{10, b[0], b[1], b[0]})
		return netip.PrefixFrom(a, rapid.SampledFrom([]int{0, 8, 14, 15, 16, 23, 24, 31, 32}).Draw(t, "bits")).Masked()
	})
}

func genEID() *rapid.Generator[EID] {
	return rapid.Custom(func(t *rapid.T) EID {
		v6 := rapid.Bool().Draw(t, "v6")
		e := EID{IID: rapid.Uint32Range(0, 2).Draw(t, "iid"), Prefix: genPrefix(v6).Draw(t, "prefix")}
		if rapid.IntRange(0, 3).Draw(t, "sourced") == 0 {
			e.Source = genPrefix(v6).Draw(t, "source")
		}
		return e
	})
}

func TestTableMatchesSlowTable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		slow, table := slowTable{}, new(Table[int])
		for range rapid.IntRange(1, 4).Draw(t, "edits") {
			before := table
			beforeLen := before.Len()
			// A large announced size makes the editor clone and work in place.
			ed := table.Edit(rapid.SampledFrom([]int{1, 100000}).Draw(t, "size"))
			for range rapid.IntRange(0, 20).Draw(t, "changes") {
				e := genEID().Draw(t, "eid")
				if rapid.IntRange(0, 2).Draw(t, "op") == 0 {
					_, had := slow[e]
					delete(slow, e)
					if got := ed.Delete(e); got != had {
						t.Fatalf("Delete(%v) = %v, want %v", e, got, had)
					}
				} else {
					v := rapid.IntRange(0, 1000).Draw(t, "value")
					slow[e] = v
					ed.Insert(e, v)
				}
			}
			table = ed.Table()
			if before.Len() != beforeLen || len(collect(before)) != beforeLen {
				t.Fatal("an edit changed the table it came from")
			}
		}
		compareTables(t, table, slow)
	})
}

func collect[V any](t *Table[V]) []EID {
	var out []EID
	for e := range t.All() {
		out = append(out, e)
	}
	return out
}

func compareTables(t *rapid.T, table *Table[int], slow slowTable) {
	if table.Len() != len(slow) {
		t.Fatalf("Len() = %d, want %d", table.Len(), len(slow))
	}
	for e, v := range slow {
		if got, ok := table.Get(e); !ok || got != v {
			t.Fatalf("Get(%v) = %v %v, want %v", e, got, ok, v)
		}
	}
	seen := map[EID]bool{}
	for e, v := range table.All() {
		if seen[e] || slow[e] != v {
			t.Fatalf("All yields %v %v, again or wrong", e, v)
		}
		seen[e] = true
	}
	if len(seen) != len(slow) {
		t.Fatalf("All yields %d entries, want %d", len(seen), len(slow))
	}
	for range 10 {
		q := genEID().Draw(t, "query")
		dst := q.Prefix.Addr()
		src := genPrefix(dst.Is6()).Draw(t, "src").Addr()
		_, want, wantOK := slow.lookup(q.IID, dst, src)
		if got, ok := table.LookupFrom(q.IID, dst, src); ok != wantOK || got != want {
			t.Fatalf("LookupFrom(%d, %v, %v) = %v %v, want %v %v", q.IID, dst, src, got, ok, want, wantOK)
		}
		var covered, covering, wantCovered, wantCovering []EID
		for e := range table.Covered(q) {
			covered = append(covered, e)
		}
		for e := range table.Covering(q) {
			covering = append(covering, e)
		}
		for e := range slow {
			if q.Covers(e) {
				wantCovered = append(wantCovered, e)
			}
			if e.Covers(q) {
				wantCovering = append(wantCovering, e)
			}
		}
		for _, x := range []struct {
			what      string
			got, want []EID
		}{{"Covered", covered, wantCovered}, {"Covering", covering, wantCovering}} {
			slices.SortFunc(x.got, EID.Compare)
			slices.SortFunc(x.want, EID.Compare)
			if !slices.Equal(x.got, x.want) {
				t.Fatalf("%s(%v) = %v, want %v", x.what, q, x.got, x.want)
			}
		}
		within := Everything(q.IID, dst)
		if rapid.Bool().Draw(t, "inside") {
			n := rapid.IntRange(0, dst.BitLen()).Draw(t, "within")
			within.Prefix, _ = dst.Prefix(n)
		}
		hole, ok := table.Hole(within, dst)
		wantHole, wantOK := slow.hole(within, dst)
		if ok != wantOK || hole != wantHole {
			t.Fatalf("Hole(%v, %v) = %v %v, want %v %v", within, dst, hole, ok, wantHole, wantOK)
		}
	}
}

func TestHoleExamples(t *testing.T) {
	for _, x := range []struct {
		known       []string
		within, a   string
		want        string
		insideKnown bool
	}{
		{nil, "0.0.0.0/0", "10.1.2.3", "0.0.0.0/0", false},
		{[]string{"10.0.0.0/8"}, "0.0.0.0/0", "11.1.1.1", "11.0.0.0/8", false},
		{[]string{"10.0.0.0/16"}, "0.0.0.0/0", "10.1.2.3", "10.1.0.0/16", false},
		{[]string{"10.0.0.0/16"}, "0.0.0.0/0", "10.0.2.3", "", true},
		{[]string{"10.1.0.0/16", "10.1.128.0/24"}, "10.1.0.0/16", "10.1.1.1", "10.1.0.0/17", false},
		{[]string{"2001:db8::/32"}, "::/0", "2001:db9::1", "2001:db9::/32", false},
	} {
		ed := new(Table[int]).Edit(1)
		for _, k := range x.known {
			ed.Insert(MustParseEID(k), 1)
		}
		got, ok := ed.Table().Hole(MustParseEID(x.within), netip.MustParseAddr(x.a))
		if ok == x.insideKnown || ok && got.String() != x.want {
			t.Errorf("known %v: Hole(%s, %s) = %v %v, want %q", x.known, x.within, x.a, got, ok, x.want)
		}
	}
}

func TestLookupDoesNotAllocate(t *testing.T) {
	ed := new(Table[*Record]).Edit(1)
	ed.Insert(MustParseEID("[7]10.0.0.0/8"), &Record{})
	table, a := ed.Table(), netip.MustParseAddr("10.1.2.3")
	if n := testing.AllocsPerRun(100, func() { table.Lookup(7, a) }); n != 0 {
		t.Errorf("Lookup allocates %v times", n)
	}
}

func TestEIDText(t *testing.T) {
	for _, x := range []struct{ in, want string }{
		{"10.1.2.3/16", "10.1.0.0/16"},
		{"10.1.2.3", "10.1.2.3/32"},
		{"[0]10.1.2.3", "10.1.2.3/32"},
		{"[7]2001:DB8:1::/48", "[7]2001:db8:1::/48"},
		{"[16777215]::/0", "[16777215]::/0"},
		{"[7]10.0.0.0/8 from 10.2.3.4/16", "[7]10.0.0.0/8 from 10.2.0.0/16"},
		{"[7]10.0.0.0/8 from 0.0.0.0/0", "[7]10.0.0.0/8"},
	} {
		e, err := ParseEID(x.in)
		if err != nil || e.String() != x.want {
			t.Errorf("ParseEID(%q) = %v, %v, want %s", x.in, e, err, x.want)
		}
		if again, err := ParseEID(e.String()); err != nil || again != e {
			t.Errorf("ParseEID(%q) = %v, %v, want %v", e, again, err, e)
		}
	}
	for _, s := range []string{"", "x", "[7]", "[7", "[-1]10.0.0.0/8", "[16777216]10.0.0.0/8", "10.0.0.0/33",
		"10.0.0.0/8 from 2001:db8::/32", "::ffff:10.0.0.0/104", "fe80::1%eth0", "10.0.0.0/8 from x"} {
		if e, err := ParseEID(s); err == nil {
			t.Errorf("ParseEID(%q) = %v, want an error", s, e)
		}
	}
}

func BenchmarkTableLookup(b *testing.B) {
	const n = 100_000
	rng := rand.New(rand.NewPCG(1, 2))
	ed := new(Table[int]).Edit(n)
	addrs := make([]netip.Addr, n)
	for i := range addrs {
		addrs[i] = netip.AddrFrom4([4]byte{byte(rng.Uint32()), byte(rng.Uint32()), byte(rng.Uint32()), byte(rng.Uint32())})
		p, _ := addrs[i].Prefix(16 + rng.IntN(9))
		ed.Insert(EID{Prefix: p}, i)
	}
	table, i := ed.Table(), 0
	b.ReportAllocs()
	for b.Loop() {
		table.Lookup(0, addrs[i%n])
		i++
	}
}

func ExampleTable_Hole() {
	ed := new(Table[string]).Edit(1)
	ed.Insert(MustParseEID("10.0.0.0/16"), "site")
	hole, _ := ed.Table().Hole(MustParseEID("0.0.0.0/0"), netip.MustParseAddr("10.1.2.3"))
	fmt.Println(hole)
	// Output: 10.1.0.0/16
}

// TestAfter begins a walk behind every EID, there or not, and compares with the
// whole walk.
func TestAfter(t *testing.T) {
	rng := rand.New(rand.NewPCG(6, 1))
	random := func() EID {
		bits, a := 32, netip.AddrFrom4([4]byte{10, byte(rng.IntN(4)), byte(rng.IntN(4) << 6), byte(rng.IntN(256))})
		if rng.IntN(3) == 0 {
			bits, a = 128, netip.AddrFrom16([16]byte{0x20, 1, byte(rng.IntN(4)), 15: byte(rng.IntN(4))})
		}
		e, err := MakeEID(uint32(rng.IntN(3)), netip.PrefixFrom(a, rng.IntN(bits+1)))
		if err != nil {
			t.Fatal(err)
		}
		if rng.IntN(4) == 0 {
			e.Source = netip.PrefixFrom(a, 1+rng.IntN(bits)).Masked()
		}
		return e
	}
	withins := []EID{{}, MustParseEID("10.0.0.0/8"), MustParseEID("[1]10.1.0.0/16"), MustParseEID("[2]::/0"), MustParseEID("[1]10.0.0.0/8 from 10.0.0.0/9"), MustParseEID("[2]10.1.64.0/18")}
	places := 0
	for range 30 {
		ed := new(Table[int]).Edit(64)
		for i := range rng.IntN(64) {
			ed.Insert(random(), i)
		}
		table := ed.Table()
		for _, within := range withins {
			seq := table.All()
			if within.IsValid() {
				seq = table.Covered(within)
			}
			var all []EID
			for e := range seq {
				all = append(all, e)
			}
			list := func(e EID) (out []EID) {
				for e := range table.After(within, e) {
					out = append(out, e)
				}
				return out
			}
			if got := list(EID{}); !slices.Equal(got, all) {
				t.Fatalf("from the start inside %v: %v, want %v", within, got, all)
			}
			for i, e := range all {
				if got := list(e); !slices.Equal(got, all[i+1:]) {
					t.Fatalf("inside %v behind %v: %v, want %v", within, e, got, all[i+1:])
				}
				// And behind where it would be.
				ed := table.Edit(1)
				ed.Delete(e)
				without := ed.Table()
				var got []EID
				for e := range without.After(within, e) {
					got = append(got, e)
				}
				if !slices.Equal(got, all[i+1:]) {
					t.Fatalf("inside %v behind %v, which is not there: %v, want %v", within, e, got, all[i+1:])
				}
				places++
				for range without.After(within, e) {
					break
				}
			}
		}
	}
	if places < 300 {
		t.Errorf("only %d places were tried", places)
	}
}
