package main

import (
	"io"
	"math"
	"os"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/benchmarks/bgpgrowth/internet"
	"github.com/eidolon-lisp/eidolon/benchmarks/bgpgrowth/measure"
)

func TestMain(m *testing.M) {
	if os.Getenv(roleVariable) != "" {
		os.Exit(child())
	}
	os.Exit(m.Run())
}

// A world in a process of its own gives rows of each kind, with what was counted on
// the wire, and the last of them says that the job is done.
func TestMeasureJob(t *testing.T) {
	t.Parallel()
	for _, j := range []job{
		{Arm: measure.ArmHoles, Speakers: 6, Sites: 20, Seed: 3, Live: 4, MRAIs: []time.Duration{0, time.Second}, Failures: 2, Restarts: 1},
		{Arm: measure.ArmEidolon, Variant: measure.VariantSMR, Speakers: 6, Sites: 20, Seed: 3, Live: 4, NoZone: true,
			Mapping: &mappingJob{Victims: 1, Rest: time.Second, Zipf: []float64{1}, Caches: []float64{1}, Rate: 100, Load: time.Second, Flows: 10}},
	} {
		t.Run(j.Arm, func(t *testing.T) {
			t.Parallel()
			rows, err := measureJob(t.Context(), j, func(string) {})
			if err != nil {
				t.Fatal(err)
			}
			if len(rows) == 0 || rows[len(rows)-1].Key() != j.done().Key() {
				t.Fatalf("rows %+v", rows)
			}
			kinds := make(map[string]int)
			for _, r := range rows {
				kinds[r.Kind]++
				if r.Seed != j.Seed || r.Source != (internet.Published{}).String() {
					t.Errorf("seed %d, sites %s", r.Seed, r.Source)
				}
				counted := []float64{r.Updates, r.Bytes}
				switch {
				case r.Kind == measure.KindMapping: // a second at rest may be without a message
					counted = []float64{r.Records, r.RecordHeap, r.Seconds}
				case j.Mapping != nil:
					counted = []float64{r.Messages, r.MessageBytes, r.Seconds}
				}
				for _, x := range counted {
					if math.IsNaN(x) || x <= 0 {
						t.Errorf("nothing was counted: %+v", r)
					}
				}
				if r.Kind == measure.KindFailure && !(r.ConvergenceMs > 0) {
					t.Errorf("a failure without a change: %+v", r)
				}
			}
			want := map[string]int{measure.KindFailure: 4, measure.KindRepair: 4, measure.KindRestart: 1, measure.KindTable: 1}
			if j.Mapping != nil {
				want = map[string]int{measure.KindFailure: 1, measure.KindRepair: 1, measure.KindRestart: 1, measure.KindCache: 1, measure.KindMapping: 1}
			}
			for k, n := range want {
				if kinds[k] != n {
					t.Errorf("%d rows of %s, expected %d", kinds[k], k, n)
				}
			}
		})
	}
}

// No two jobs of a plan give rows of one key, so that each of them is measured.
func TestPlans(t *testing.T) {
	for name, plan := range map[string][]job{"quick": quickPlan(1), "full": fullPlan(1)} {
		seen := make(map[measure.Key]bool)
		for _, j := range plan {
			k := j.done().Key()
			if seen[k] {
				t.Errorf("%s: %v is there twice", name, j)
			}
			seen[k] = true
		}
	}
}

func TestParse(t *testing.T) {
	for _, bad := range [][]string{{"x"}, {"-match", "("}, {"-pfx2as", "f"}, {"-asrel", "f"}, {"-seed", "x"}} {
		if _, err := parse(bad, io.Discard); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	o, err := parse([]string{"--quick", "-seed", "7", "-pfx2as", "a", "-asrel", "b", "-out", "d"}, io.Discard)
	if err != nil || !o.quick || o.seed != 7 || o.prefixToAS != "a" || o.relations != "b" || o.out != "d" {
		t.Errorf("%+v, %v", o, err)
	}
}
