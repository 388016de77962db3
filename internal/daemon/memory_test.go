package daemon

import (
	"runtime"
	"testing"
)

// Memory is given back once, when the work that made garbage is over.
func TestTrimmer(t *testing.T) {
	const mib = 1 << 20
	var tr trimmer
	for i, x := range []struct {
		now  memory
		want bool
		why  string
	}{
		{memory{allocated: 500 * mib, live: 100 * mib, objects: 190 * mib}, false, "it is still at work"},
		{memory{allocated: 900 * mib, live: 200 * mib, objects: 300 * mib}, false, "it is still at work"},
		{memory{allocated: 901 * mib, live: 200 * mib, objects: 301 * mib, free: 50 * mib}, true, "it is at rest, with a lot of garbage"},
		{memory{allocated: 902 * mib, live: 200 * mib, objects: 201 * mib, free: 50 * mib}, false, "nothing was allocated since"},
		{memory{allocated: 930 * mib, live: 200 * mib, objects: 230 * mib, free: 50 * mib}, false, "it is at work again"},
		{memory{allocated: 931 * mib, live: 200 * mib, objects: 201 * mib, free: 10 * mib}, false, "there is little to gain"},
		{memory{allocated: 932 * mib, live: 200 * mib, objects: 232 * mib, free: 10 * mib}, true, "it is at rest"},
	} {
		if got := tr.due(x.now); got != x.want {
			t.Errorf("look %d: trim %v, but %s", i, got, x.why)
		}
	}
}

// The names of the metrics are those of this version of Go.
func TestLook(t *testing.T) {
	runtime.GC()
	if m := look(); m.allocated == 0 || m.live == 0 || m.objects == 0 {
		t.Errorf("%+v", m)
	}
}
