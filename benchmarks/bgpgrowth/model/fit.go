// Package model makes coefficients of what was measured: straight lines with their
// intervals, and what they say of a run that they have not seen.
package model

import (
	"errors"
	"fmt"
	"math"
)

// Line is y = Slope·x + Offset, fitted by least squares.
type Line struct {
	Slope, Offset float64
	// SlopeHalf is half of the 95 % interval of the slope.
	SlopeHalf float64
	// N is the number of points, Low and High the range of x that they span: beyond
	// it the line is a guess.
	N         int
	Low, High float64

	mean, spread, rest float64 // of x, the sum of squares around it; residual variance
}

// ErrPoints is wrapped when there are too few points for a line with an interval.
var ErrPoints = errors.New("a line with an interval takes three points at two places at least")

// Fit fits a line. NaN is left out.
func Fit(x, y []float64) (l Line, err error) {
	if len(x) != len(y) {
		return l, fmt.Errorf("%d x and %d y", len(x), len(y))
	}
	var sx, sy float64
	l.Low, l.High = math.Inf(1), math.Inf(-1)
	for i := range x {
		if math.IsNaN(x[i]) || math.IsNaN(y[i]) {
			continue
		}
		l.N++
		sx, sy = sx+x[i], sy+y[i]
		l.Low, l.High = min(l.Low, x[i]), max(l.High, x[i])
	}
	if l.N < 3 || l.Low == l.High {
		return l, fmt.Errorf("%d points: %w", l.N, ErrPoints)
	}
	n := float64(l.N)
	l.mean = sx / n
	var xy float64
	for i := range x {
		if !math.IsNaN(x[i]) && !math.IsNaN(y[i]) {
			d := x[i] - l.mean
			l.spread += d * d
			xy += d * (y[i] - sy/n)
		}
	}
	l.Slope = xy / l.spread
	l.Offset = sy/n - l.Slope*l.mean
	for i := range x {
		if !math.IsNaN(x[i]) && !math.IsNaN(y[i]) {
			r := y[i] - l.At(x[i])
			l.rest += r * r
		}
	}
	l.rest /= n - 2
	l.SlopeHalf = studentT(l.N-2) * math.Sqrt(l.rest/l.spread)
	return l, nil
}

// At is the value of the line.
func (l Line) At(x float64) float64 { return l.Slope*x + l.Offset }

// Predict returns the value at x and half of the 95 % interval in which the mean of n
// more measurements there is expected.
func (l Line) Predict(x float64, n int) (y, half float64) {
	d := x - l.mean
	return l.At(x), studentT(l.N-2) * math.Sqrt(l.rest*(1/float64(n)+1/float64(l.N)+d*d/l.spread))
}

// Extrapolates reports whether x is beyond what was measured.
func (l Line) Extrapolates(x float64) bool { return x < l.Low || x > l.High }

// studentT is the 97.5 % quantile of Student's t with so many degrees of freedom.
func studentT(freedom int) float64 {
	table := []float64{0, 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
		2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042}
	switch {
	case freedom < 1:
		return math.NaN()
	case freedom < len(table):
		return table[freedom]
	}
	// Within 0.001 from there on (Cornish and Fisher).
	const z = 1.959964
	f := float64(freedom)
	return z + (z*z*z+z)/(4*f) + (5*z*z*z*z*z+16*z*z*z+3*z)/(96*f*f)
}
