package main

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"

	"github.com/eidolon-lisp/eidolon/benchmarks/rig"
)

func TestTableFileAndSlowTable(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 0))
	table := rig.Generate(0.001, rng)
	if len(table) < 500 {
		t.Fatalf("only %d prefixes", len(table))
	}
	path := filepath.Join(t.TempDir(), "t.gz")
	if err := rig.WriteTable(path, table); err != nil {
		t.Fatal(err)
	}
	read, err := rig.ReadTable(path)
	if err != nil || !slices.Equal(read, table) {
		t.Fatalf("read %d of %d prefixes: %v", len(read), len(table), err)
	}
	b, slow := sorted(table), newSlowTable(table)
	for range 300 {
		p := table[rng.IntN(len(table))]
		var want, got []netip.Prefix
		for _, q := range table {
			if q.Bits() > p.Bits() && p.Contains(q.Addr()) {
				want = append(want, q)
			}
		}
		for q := range b.inside(p) {
			got = append(got, q)
		}
		slices.SortFunc(want, netip.Prefix.Compare)
		if !slices.Equal(got, want) {
			t.Fatalf("inside %v: %v, want %v", p, got, want)
		}
		if a := rig.RandomIn(p, rng); !p.Contains(a) {
			t.Fatalf("%v is not in %v", a, p)
		} else if l, ok := slow.longest(a); !ok || l.Bits() < p.Bits() {
			t.Fatalf("longest(%v) = %v %v inside %v", a, l, ok, p)
		}
	}
}

// TestImport is the whole walk at a small scale: the real binaries, the real
// store, a kill -9 and a restart, every answer compared.
func TestImport(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and runs mapserver")
	}
	if err := run(context.Background(), options{scale: 0.01, samples: 3000, seed: 7}); err != nil {
		t.Fatal(err)
	}
}
