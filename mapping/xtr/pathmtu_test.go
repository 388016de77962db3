package xtr

import (
	"net/netip"
	"slices"
	"testing"
	"time"
)

// mtuRig is a site whose planes use what is found, told of it in rounds of 5 s.
type mtuRig struct {
	*pathRig
	mtu   map[netip.Addr]int
	until map[netip.Addr]time.Time // what was found is forgotten
	sizes []int                    // of padded probes
	last  map[Path]time.Duration   // when the last was sent
}

func newMTURig(t *testing.T) *mtuRig {
	return &mtuRig{
		pathRig: newPathRig(t, nil), until: make(map[netip.Addr]time.Time), last: make(map[Path]time.Duration),
		mtu: map[netip.Addr]int{etr1.Addr(): 1500, rlocB: 1500},
	}
}

// run lets d pass and returns what was found in it.
func (r *mtuRig) run(d time.Duration) (found []PathMTU) {
	r.t.Helper()
	for end := r.now.Add(d); r.now.Before(end); {
		r.used("10.2.0.0/16")
		var list []PathMTU
		for a, mtu := range r.mtu {
			if mtu < 1500 && !r.now.Before(r.until[a]) {
				r.t.Errorf("at %v the planes have forgotten the path MTU of %v", r.now.Sub(zeroTime), a)
				r.mtu[a] = 1500
			}
			list = append(list, PathMTU{a, r.mtu[a], 1500})
		}
		slices.SortFunc(list, func(a, b PathMTU) int { return a.Remote.Compare(b.Remote) })
		r.m.pathMTUs(r.now, list)
		r.collect()
		r.pass(r.now.Add(5 * time.Second).Sub(zeroTime))
		for _, s := range r.probes {
			if n := onWire(len(s.data), s.dst.Addr()); n > 200 {
				r.sizes = append(r.sizes, n)
				path := Path{s.src.Addr(), s.dst.Addr()}
				if at, ok := r.last[path]; ok && s.at-at < time.Second {
					r.t.Errorf("two padded probes of %v within %v", path, s.at-at)
				}
				r.last[path] = s.at
			}
		}
		r.probes = nil
		for _, f := range r.m.mtus.found {
			found = append(found, f)
			r.mtu[f.Remote], r.until[f.Remote] = f.MTU, r.now.Add(10*time.Minute)
		}
		r.m.mtus.found = nil
	}
	return found
}

// Where all packets pass, each path costs one probe of full size in a while, and
// nothing changes.
func TestPathMTUConfirmed(t *testing.T) {
	r := newMTURig(t)
	if f := r.run(time.Hour); len(f) != 0 {
		t.Errorf("found %v", f)
	}
	if n := len(r.sizes); n < 4*6 || n > 4*13 { // four paths
		t.Errorf("%d probes in an hour", n)
	}
	for _, n := range r.sizes {
		if n != 1500 {
			t.Errorf("a probe of %d octets", n)
		}
	}
}

// Where large packets vanish, the largest size that passes is used within
// seconds, none that is smaller meanwhile; it is kept for as long as it is so,
// and no longer.
func TestPathMTUBlackHole(t *testing.T) {
	r := newMTURig(t)
	r.fits = 1400
	for _, f := range r.run(30 * time.Second) {
		if f.MTU != 1400 {
			t.Errorf("found %v", f)
		}
	}
	for a, mtu := range r.mtu {
		if mtu != 1400 {
			t.Errorf("toward %v after 30 s %d", a, mtu)
		}
	}
	if f := r.run(time.Hour); len(f) == 0 {
		t.Error("what was found was not renewed")
	} else {
		for _, m := range f {
			if m.MTU != 1400 {
				t.Errorf("later found %v", m)
			}
		}
	}
	r.fits = 1300
	r.run(10 * time.Minute)
	if r.mtu[rlocB] != 1280 {
		t.Errorf("a smaller path is not found: %v", r.mtu)
	}
	r.fits = 0
	r.run(10 * time.Minute)
	for a, mtu := range r.mtu {
		if mtu != 1500 {
			t.Errorf("toward %v, after it was repaired, %d", a, mtu)
		}
	}
	if got := r.m.stats[pathMTUsLowered].Load(); got < 4 {
		t.Errorf("%d lowered", got)
	}
}

// One of two paths to a locator is small: the locator's is the smaller.
func TestPathMTUOfOnePath(t *testing.T) {
	r := newMTURig(t)
	small := up2a
	r.lostSize = func(from netip.Addr, n int) bool { return from == small && n > 1450 }
	r.run(40 * time.Second)
	for a, mtu := range r.mtu {
		if mtu != 1440 {
			t.Errorf("toward %v %d", a, mtu)
		}
	}
}

// A peer that does not answer padded probes, or not at all, is not taken for a
// path with a small MTU, and is asked less and less often.
func TestPathMTUInconclusive(t *testing.T) {
	for _, fits := range []int{150, 1} {
		r := newMTURig(t)
		r.fits = fits
		if f := r.run(6 * time.Hour); len(f) != 0 {
			t.Errorf("found %v", f)
		}
		if n := len(r.sizes); n > 4*6*8 {
			t.Errorf("%d probes in six hours", n)
		}
		if len(r.m.mtus.nonces) > 4 || len(r.m.mtus.tests) > 4 {
			t.Errorf("%d nonces, %d tests are left", len(r.m.mtus.nonces), len(r.m.mtus.tests))
		}
	}
}

// Path MTUs are measured one path a second at most, and of paths that are no
// longer used nothing is kept.
func TestPathMTUPace(t *testing.T) {
	r := newMTURig(t)
	r.used("10.2.0.0/16")
	r.m.pathMTUs(r.now, []PathMTU{{etr1.Addr(), 1500, 1500}, {rlocB, 1500, 1500}})
	r.pass(30 * time.Second)
	var at []time.Duration
	for _, s := range r.probes {
		if onWire(len(s.data), s.dst.Addr()) == 1500 {
			at = append(at, s.at)
		}
	}
	if len(at) != 4 {
		t.Fatalf("%d probes", len(at))
	}
	for i := range at[1:] {
		if d := at[i+1] - at[i]; d < time.Second {
			t.Errorf("%v between two", d)
		}
	}
	r.pass(20 * time.Minute) // nothing is used any more
	r.m.pathMTUs(r.now, nil)
	if len(r.m.mtus.tests) != 0 || len(r.m.mtus.nonces) != 0 {
		t.Errorf("%d tests, %d nonces", len(r.m.mtus.tests), len(r.m.mtus.nonces))
	}
	if _, ok := r.m.mtus.next(); ok {
		t.Error("it wants to be woken")
	}
}
