package internet

import (
	"compress/gzip"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// What is drawn is as often of each kind as was published.
func TestPublished(t *testing.T) {
	const n = 200_000
	rng := rand.New(rand.NewPCG(1, 0))
	var totals []int
	multihomed, specific, sum := 0, 0, 0
	for range n {
		s := Published{}.Draw(rng)
		if s.Roots < 1 || s.Specifics < 0 || s.Providers < 1 {
			t.Fatalf("%+v", s)
		}
		if s.Providers > 1 {
			multihomed++
		}
		if s.Specifics > 0 {
			specific++
		}
		totals = append(totals, s.Roots+s.Specifics)
		sum += s.Roots + s.Specifics
	}
	slices.Sort(totals)
	for _, x := range []struct {
		what           string
		got, low, high float64
	}{
		{"share of multihomed stubs", float64(multihomed) / n, 0.556, 0.565},
		{"mean of prefixes (6.52 in the table)", float64(sum) / n, 5, 7},
		{"90th percentile", float64(totals[n*9/10]), 11, 12},
		{"99th percentile", float64(totals[n*99/100]), 58, 70},
		{"share that de-aggregates", float64(specific) / n, 0.1, 0.224},
	} {
		if x.got < x.low || x.got > x.high {
			t.Errorf("%s: %v, expected %v to %v", x.what, x.got, x.low, x.high)
		}
	}
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if !strings.HasSuffix(name, ".gz") {
		f.WriteString(text)
		return path
	}
	z := gzip.NewWriter(f)
	z.Write([]byte(text))
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestRead(t *testing.T) {
	asrel := write(t, "as-rel.txt.gz", "# comment\n1|2|0\n1|10|-1\n2|10|-1\n2|10|-1\n1|20|-1\n20|30|-1\n2|40|-1\n")
	table := write(t, "pfx2as.gz", strings.Join([]string{
		"10.0.0.0\t16\t10", "10.0.1.0\t24\t10", "10.0.0.0\t24\t10", "10.2.0.0\t24\t10", "10.2.0.0\t24\t10",
		"10.3.0.0\t24\t20", "10.3.0.0\t25\t30", "10.5.0.0\t24\t40_41", "10.6.0.0\t24\t99", "2001:db8::\t32\t30",
	}, "\n"))
	r, err := Read(table, asrel)
	if err != nil {
		t.Fatal(err)
	}
	// 20 has a customer, 40 no prefix of its own, 99 no provider.
	if want := []Stub{{2, 2, 2}, {1, 1, 0}}; !slices.Equal(r.Stubs, want) {
		t.Errorf("%+v, want %+v", r.Stubs, want)
	}
	if s := r.String(); s != "2 stub networks of pfx2as.gz and as-rel.txt.gz" {
		t.Error(s)
	}
	rng := rand.New(rand.NewPCG(1, 0))
	for range 10 {
		if s := r.Draw(rng); !slices.Contains(r.Stubs, s) {
			t.Errorf("drawn %+v", s)
		}
	}
	for name, bad := range map[string][2]string{
		"no stub in common": {"10.0.0.0\t24\t7\n", "1|2|-1\n"},
		"bad prefix":        {"10.0.0\t24\t7\n", "1|2|-1\n"},
		"bad origin":        {"10.0.0.0\t24\tx\n", "1|2|-1\n"},
		"bad relation":      {"10.0.0.0\t24\t2\n", "1|2|5\n"},
		"bad AS":            {"10.0.0.0\t24\t2\n", "1|x|-1\n"},
	} {
		if _, err := Read(write(t, "t", bad[0]), write(t, "r", bad[1])); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
