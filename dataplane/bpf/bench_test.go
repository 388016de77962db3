package bpf

import (
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/dataplane/dptest"
)

// BenchmarkPassed is what packets pay that are not of the site, by the kernel's own
// clock for the program alone: one again and again, and 10,000 flows in turn, whose
// figure has the reading of the clock in it.
func BenchmarkPassed(b *testing.B) {
	p := parts.New(b, dptest.States()[0]).(*program)
	frames := make([][]byte, 10_000)
	for i := range frames {
		pkt := dptest.Flow("203.0.113.9:"+strconv.Itoa(1024+i), "203.0.113.10:443", dptest.TCP, 64).Bytes()
		frames[i] = slices.Concat(make([]byte, 12), []byte{8, 0}, pkt) // from the loopback interface, which has no address, to itself
	}
	run := func(b *testing.B, frame []byte, n int) time.Duration {
		ret, each, err := p.plane.Program().Benchmark(frame, n, nil)
		if err != nil || int32(ret) != -1 {
			b.Fatalf("the program says %d, %v", int32(ret), err)
		}
		return each
	}
	b.Run("flow", func(b *testing.B) {
		if err := p.ns.Do(func() error {
			b.ReportMetric(float64(run(b, frames[0], max(b.N, 1_000_000))), "ns/packet")
			return nil
		}); err != nil {
			b.Fatal(err)
		}
	})
	b.Run("flows", func(b *testing.B) {
		if err := p.ns.Do(func() error {
			var sum time.Duration
			for range b.N {
				sum = 0
				for _, f := range frames {
					sum += run(b, f, 1)
				}
			}
			b.ReportMetric(float64(sum)/float64(len(frames)), "ns/packet")
			return nil
		}); err != nil {
			b.Fatal(err)
		}
	})
}
