package model

import (
	"errors"
	"math"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"
)

func near(a, b, within float64) bool { return math.Abs(a-b) <= within }

// An example that can be checked by hand: y = 2x + 1 with errors +1, -2, +1.
func TestFit(t *testing.T) {
	l, err := Fit([]float64{0, 1, 2, math.NaN()}, []float64{2, 1, 6, 9})
	if err != nil {
		t.Fatal(err)
	}
	// The slope is (6-2)/2, the offset 3-2; residuals 1, -2, 1; variance 6/1; the
	// interval 12.706 sqrt(6/2).
	if !near(l.Slope, 2, 1e-9) || !near(l.Offset, 1, 1e-9) || !near(l.SlopeHalf, 12.706*math.Sqrt(3), 1e-6) || l.N != 3 || l.Low != 0 || l.High != 2 {
		t.Errorf("%+v", l)
	}
	y, half := l.Predict(1, 1)
	if !near(y, 3, 1e-9) || !near(half, 12.706*math.Sqrt(6*(1+1./3)), 1e-6) {
		t.Errorf("%v ± %v", y, half)
	}
	if l.Extrapolates(2) || !l.Extrapolates(2.1) || !l.Extrapolates(-1) {
		t.Error("what was measured is said to be beyond, or the other way round")
	}
	for _, x := range [][]float64{nil, {1, 2}, {1, 1, 1}} {
		if _, err := Fit(x, x); !errors.Is(err, ErrPoints) {
			t.Errorf("%v: %v", x, err)
		}
	}
	if _, err := Fit([]float64{1}, nil); err == nil {
		t.Error("lists of different lengths")
	}
}

// Points on a line are predicted exactly, whatever the line.
func TestFitExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		slope, offset := rapid.Float64Range(-1e3, 1e3).Draw(t, "slope"), rapid.Float64Range(-1e3, 1e3).Draw(t, "offset")
		x := rapid.SliceOfNDistinct(rapid.Map(rapid.IntRange(0, 1000), func(n int) float64 { return float64(n) }), 3, 20, rapid.ID[float64]).Draw(t, "x")
		y := make([]float64, len(x))
		for i := range x {
			y[i] = slope*x[i] + offset
		}
		l, err := Fit(x, y)
		if err != nil {
			t.Fatal(err)
		}
		if got, half := l.Predict(500, 1); !near(got, slope*500+offset, 1e-5) || half > 1e-4 {
			t.Fatalf("%v ± %v, expected %v", got, half, slope*500+offset)
		}
	})
}

// The intervals hold what they promise: of many experiments with known answers, 95
// of 100 have the slope, and one more measurement, inside.
func TestFitCovers(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	const runs = 4000
	slope, next := 0, 0
	for range runs {
		x, y := []float64{500, 1000, 2000, 4000}, make([]float64, 4)
		for i := range x {
			y[i] = 3*x[i] + 10 + 50*rng.NormFloat64()
		}
		l, err := Fit(x, y)
		if err != nil {
			t.Fatal(err)
		}
		if near(l.Slope, 3, l.SlopeHalf) {
			slope++
		}
		if at, half := l.Predict(8000, 1); near(at, 3*8000+10+50*rng.NormFloat64(), half) {
			next++
		}
	}
	for what, n := range map[string]int{"slopes": slope, "predictions": next} {
		if share := float64(n) / runs; share < 0.94 || share > 0.96 {
			t.Errorf("%.3f of the %s are in their interval, expected 0.95", share, what)
		}
	}
}

func TestStudentT(t *testing.T) {
	for freedom, want := range map[int]float64{1: 12.706, 2: 4.303, 10: 2.228, 30: 2.042, 40: 2.021, 60: 2.000, 120: 1.980, 100000: 1.960} {
		if got := studentT(freedom); !near(got, want, 0.0011) {
			t.Errorf("%d: %v, expected %v", freedom, got, want)
		}
	}
	if !math.IsNaN(studentT(0)) {
		t.Error("without freedom there is no interval")
	}
}
