package mapping

import "testing"

// RFC 9302 section 6: half of the circle after a version is newer than it,
// NullVersion is no part of the circle.
func TestDP25_VersionComparison(t *testing.T) {
	for _, c := range []struct {
		v, o  Version
		newer bool
	}{
		{69, 69, false},
		{70, 69, true}, {2117, 69, true}, // the first and last newer one
		{2118, 69, false}, {4095, 69, false}, {1, 69, false}, {68, 69, false},
		{1, 4095, true}, {4095, 1, false}, // around the end
		{2049, 1, true}, {2050, 1, false}, {1, 2050, true},
		{0, 69, false}, {69, 0, false}, {0, 0, false}, // never compared
	} {
		if got := c.v.Newer(c.o); got != c.newer {
			t.Errorf("%d newer than %d: %v, want %v", c.v, c.o, got, c.newer)
		}
	}
	for v := Version(1); v <= MaxVersion; v++ {
		for o := Version(1); o <= MaxVersion; o += 7 {
			if v != o && v.Newer(o) == o.Newer(v) && v != o+2048 && o != v+2048 {
				t.Fatalf("%d and %d: each newer, or neither", v, o)
			}
		}
	}
}

func TestDP25_NextVersionSkipsNull(t *testing.T) {
	v, seen := Version(1), 0
	for {
		n := v.Next()
		if n == NullVersion || n > MaxVersion || !n.Newer(v) || v.Newer(n) {
			t.Fatalf("after %d comes %d", v, n)
		}
		v = n
		if seen++; v == 1 {
			break
		}
	}
	if seen != MaxVersion {
		t.Errorf("the circle has %d versions, want %d", seen, MaxVersion)
	}
	if n := NullVersion.Next(); n != NullVersion {
		t.Errorf("a mapping without a version gets %d", n)
	}
	if Version(4096).Valid() == nil || Version(4095).Valid() != nil || NullVersion.Valid() != nil {
		t.Error("a version has 12 bits")
	}
}
