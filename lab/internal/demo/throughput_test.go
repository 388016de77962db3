package demo

import "testing"

func TestSlow(t *testing.T) {
	for _, c := range []struct {
		lisp, plain float64 // Gbit/s
		slow        bool
	}{
		{7.1, 11.4, false},
		{2.9, 11.4, false},
		{2.8, 11.4, true},
		{4.4, 19.6, false}, // less than a quarter, and enough
		{2.9, 19.6, true},
		{0.6, 2.2, false}, // little, and more than a quarter
		{0.5, 2.2, true},
	} {
		if got := slow([]float64{c.lisp * 1e9}, []float64{c.plain * 1e9}); got != c.slow {
			t.Errorf("LISP %v, plain %v: slow is %v, want %v", c.lisp, c.plain, got, c.slow)
		}
	}
}
