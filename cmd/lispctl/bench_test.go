package main

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
)

// Questions go out at the rate, as far as those that wait let them, and are counted
// by what became of them.
func TestLoad(t *testing.T) {
	for _, c := range []struct {
		name                   string
		concurrency            int
		answer                 time.Duration
		answered, lost, failed int
		took                   time.Duration
	}{
		{"enough", 16, 10 * time.Millisecond, 90, 5, 5, time.Second},
		{"one at a time", 1, 100 * time.Millisecond, 9, 1, 1, 1100 * time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := load{within: mapping.MustParseEID("10.0.0.0/8"), rate: 100, concurrency: c.concurrency, duration: time.Second}
				var n atomic.Int64
				m := l.run(t.Context(), func(_ context.Context, e mapping.EID) error {
					if !l.within.Covers(e) {
						t.Errorf("asked for %v", e)
					}
					k := n.Add(1)
					time.Sleep(c.answer)
					switch k % 20 {
					case 5:
						return errUnanswered
					case 6:
						return errors.New("odd")
					}
					return nil
				})
				if len(m.answers) != c.answered || m.lost != c.lost || m.failed != c.failed || m.percentile(50) != c.answer || m.percentile(100) != c.answer {
					t.Errorf("%d answered, %d lost, %d failed, in %v", len(m.answers), m.lost, m.failed, m.percentile(50))
				}
				if d := m.took - c.took; d < -20*time.Millisecond || d > 20*time.Millisecond {
					t.Errorf("it took %v, want %v", m.took, c.took)
				}
			})
		})
	}
}

func TestPercentiles(t *testing.T) {
	var m measured
	if m.percentile(50) != 0 {
		t.Error("no answers have a time")
	}
	for i := range 100 {
		m.answers = append(m.answers, time.Duration(i+1))
	}
	for p, want := range map[float64]time.Duration{0: 1, 50: 51, 99: 100, 100: 100} {
		if got := m.percentile(p); got != want {
			t.Errorf("percentile %v is %d, want %d", p, got, want)
		}
	}
}

// Questions are inside of the EID, differ, and are the same in each run.
func TestLoadEIDs(t *testing.T) {
	for _, within := range []string{"10.1.2.0/23", "[7]2001:db8::/32", "10.1.1.1/32", "0.0.0.0/0"} {
		l := load{within: mapping.MustParseEID(within)}
		seen := make(map[mapping.EID]bool)
		for n := range 200 {
			e := l.eid(n)
			if seen[e] = true; !l.within.Covers(e) || e != l.eid(n) {
				t.Errorf("%v is asked for, inside of %s", e, within)
			}
		}
		if len(seen) < 100 && within != "10.1.1.1/32" {
			t.Errorf("%s: only %d EIDs", within, len(seen))
		}
	}
}

func TestLoopback(t *testing.T) {
	for address, want := range map[string]bool{"": true, "127.0.0.1:9343": true, "[::1]:1": true, "localhost:1": true, "192.0.2.1:1": false, "ms.example:1": false, "odd": false} {
		if loopback(address) != want {
			t.Errorf("%q is of this machine: %v", address, !want)
		}
	}
}
