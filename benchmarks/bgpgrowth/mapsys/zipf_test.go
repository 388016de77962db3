package mapsys

import (
	"math"
	"math/rand/v2"
	"testing"
)

// Each number comes as often as the law says, within five standard deviations.
func TestZipf(t *testing.T) {
	const n, draws = 50, 200_000
	for _, s := range []float64{0, 0.6, 1, 1.2} {
		z, err := newZipf(s, n, rand.New(rand.NewPCG(1, 0)))
		if err != nil {
			t.Fatal(err)
		}
		var got [n]int
		for range draws {
			got[z.draw()]++
		}
		sum := 0.
		for k := range n {
			sum += math.Pow(float64(k+1), -s)
		}
		for k := range n {
			p := math.Pow(float64(k+1), -s) / sum
			if d := math.Abs(float64(got[k])-draws*p) / math.Sqrt(draws*p*(1-p)); d > 5 {
				t.Errorf("exponent %v: %d is drawn %d times, %.0f expected", s, k, got[k], draws*p)
			}
		}
	}
	for _, bad := range []struct {
		s float64
		n int
	}{{-1, 5}, {1, 0}, {math.NaN(), 5}} {
		if _, err := newZipf(bad.s, bad.n, nil); err == nil {
			t.Errorf("a law of %d numbers with the exponent %v", bad.n, bad.s)
		}
	}
}
