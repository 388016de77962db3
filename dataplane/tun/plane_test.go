package tun

import (
	"testing"
	"time"
)

// All four family combinations carry TCP both ways, unchanged.
func TestTCP(t *testing.T) {
	tp := newTopology(t)
	for _, outer6 := range []bool{false, true} {
		name := map[bool]string{false: "IPv4", true: "IPv6"}[outer6]
		t.Run("outer "+name, func(t *testing.T) {
			a, b := tp.sites(t, outer6)
			for range 2 {
				transfer(t, tp.hostA, tp.hostB, hostB4, 3<<20)
				transfer(t, tp.hostB, tp.hostA, hostA4, 3<<20)
				transfer(t, tp.hostA, tp.hostB, hostB6, 3<<20)
				transfer(t, tp.hostB, tp.hostA, hostA6, 3<<20)
			}
			t.Log(a.state())
			t.Log(b.state())
			a.exit()
			b.exit()
		})
	}
}

func TestThroughput(t *testing.T) {
	plain := func() float64 {
		tp := newTopology(t)
		tp.native(t)
		return throughput(t, tp.hostA, tp.hostB, hostB4, 2*time.Second)
	}()
	tp := newTopology(t)
	a, b := tp.sites(t, false)
	lisp := throughput(t, tp.hostA, tp.hostB, hostB4, 2*time.Second)
	t.Logf("plain %.2f Gb/s, LISP %.2f Gb/s, %.2f", plain/1e9, lisp/1e9, lisp/plain)
	t.Log(a.state().Stats)
	t.Log(b.state().Stats)
	a.exit()
	b.exit()
}
