package mapsys

import (
	"fmt"
	"math"
	"math/rand/v2"
	"sort"
)

// zipf draws numbers below n, of which number k has a chance proportional to
// (k+1)^-s, for any s from 0 on; math/rand knows only those above 1.
type zipf struct {
	sums []float64 // up to and with each number
	rng  *rand.Rand
}

func newZipf(s float64, n int, rng *rand.Rand) (*zipf, error) {
	if n < 1 || s < 0 || math.IsNaN(s) {
		return nil, fmt.Errorf("a Zipf law of %d numbers with the exponent %v", n, s)
	}
	z := &zipf{sums: make([]float64, n), rng: rng}
	sum := 0.
	for k := range n {
		sum += math.Pow(float64(k+1), -s)
		z.sums[k] = sum
	}
	return z, nil
}

func (z *zipf) draw() int {
	x := z.rng.Float64() * z.sums[len(z.sums)-1]
	return min(sort.SearchFloat64s(z.sums, x), len(z.sums)-1)
}
