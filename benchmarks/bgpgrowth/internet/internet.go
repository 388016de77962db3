// Package internet says what stub networks are like: how many providers each has, and
// how many prefixes, of which how many lie inside another of its own. It draws them
// from real tables, or from what has been published of them.
package internet

import (
	"bufio"
	"cmp"
	"compress/gzip"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"sort"
	"strconv"
	"strings"
)

// Stub is what one stub network is like. All numbers but Specifics are at least 1.
type Stub struct {
	Providers int
	// Roots are its prefixes that are in no other of its own; Specifics are the others.
	Roots, Specifics int
}

// Source draws stubs.
type Source interface {
	Draw(rng *rand.Rand) Stub
	// String says where they are from.
	String() string
}

// Published are the distributions of the tables of January and February 2016 (CAIDA AS
// relationships and pfx2as of RouteViews), with the tails as power laws between their
// percentiles. Prefixes and providers are drawn independently, which real ones are not:
// stubs with more providers have more prefixes.
type Published struct{}

// The published numbers.
var (
	// providerShares are stub ASes by their number of providers: 1, 2, 3, 4, and 5
	// or more.
	providerShares = []float64{19640, 18551, 4228, 1283, 978}
	// prefixTail are points of the share of multihomed stubs with at least so many
	// prefixes, specificTail the same of those inside another prefix, for the stubs
	// that have any, which are specificShare of all.
	prefixTail    = []tailPoint{{1, 1}, {2, 0.5}, {12, 0.1}, {65, 0.01}, {1461, 1. / 24971}}
	specificTail  = []tailPoint{{1, 1}, {4, 0.1 / specificShare}, {30, 0.01 / specificShare}, {854, 1. / 24971 / specificShare}}
	specificShare = 0.224
)

type tailPoint struct{ at, share float64 }

// quantile returns how many a stub has that the share u of all exceeds.
func quantile(tail []tailPoint, u float64) int {
	i := sort.Search(len(tail), func(i int) bool { return tail[i].share <= u })
	switch i {
	case 0:
		return int(tail[0].at)
	case len(tail):
		return int(tail[len(tail)-1].at)
	}
	a, b := tail[i-1], tail[i]
	x := math.Log(u/a.share) / math.Log(b.share/a.share)
	return int(a.at * math.Pow(b.at/a.at, x))
}

// Draw implements Source.
func (Published) Draw(rng *rand.Rand) Stub {
	s := Stub{Providers: pick(providerShares, rng) + 1}
	total := quantile(prefixTail, 1-rng.Float64())
	if rng.Float64() < specificShare {
		s.Specifics = min(quantile(specificTail, 1-rng.Float64()), total-1)
	}
	s.Roots = total - s.Specifics
	return s
}

// String implements Source.
func (Published) String() string {
	return "drawn from the published distributions of stub networks in January and February 2016"
}

// pick returns an index with a chance that is proportional to its weight.
func pick(weights []float64, rng *rand.Rand) int {
	sum := 0.
	for _, w := range weights {
		sum += w
	}
	x := rng.Float64() * sum
	for i, w := range weights {
		if x -= w; x < 0 {
			return i
		}
	}
	return len(weights) - 1
}

// Real are the stubs of a table: ASes with providers and without customers that
// originate prefixes. Drawn stubs are as they are there, with what hangs together.
type Real struct {
	Stubs []Stub // in the order of their AS numbers
	from  string
}

// Draw implements Source.
func (r *Real) Draw(rng *rand.Rand) Stub { return r.Stubs[rng.IntN(len(r.Stubs))] }

// String implements Source.
func (r *Real) String() string { return r.from }

// Read reads a pfx2as table and a file of AS relationships (serial-1), both of CAIDA,
// gzipped or plain. Prefixes of several origins and those of IPv6 are left out.
func Read(pfx2as, asrel string) (*Real, error) {
	providers, customers, err := readRelations(asrel)
	if err != nil {
		return nil, err
	}
	origins, err := readOrigins(pfx2as)
	if err != nil {
		return nil, err
	}
	r := &Real{}
	ases := make([]uint32, 0, len(origins))
	for as := range origins {
		ases = append(ases, as)
	}
	slices.Sort(ases)
	for _, as := range ases {
		if len(providers[as]) == 0 || customers[as] > 0 {
			continue
		}
		s := Stub{Providers: len(providers[as])}
		s.Roots, s.Specifics = split(origins[as])
		r.Stubs = append(r.Stubs, s)
	}
	if len(r.Stubs) == 0 {
		return nil, fmt.Errorf("%s and %s have no stub network in common", pfx2as, asrel)
	}
	r.from = fmt.Sprintf("%d stub networks of %s and %s", len(r.Stubs), base(pfx2as), base(asrel))
	return r, nil
}

func base(path string) string { return path[strings.LastIndexByte(path, '/')+1:] }

// split counts the prefixes that are in no other of the list, and the others. A prefix
// that is there twice counts once.
func split(list []netip.Prefix) (roots, specifics int) {
	slices.SortFunc(list, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	var root netip.Prefix
	for i, p := range list {
		switch {
		case i > 0 && p == list[i-1]:
		case root.IsValid() && root.Contains(p.Addr()):
			specifics++
		default:
			roots++
			root = p
		}
	}
	return roots, specifics
}

// readRelations returns the providers of each AS and how many customers it has.
func readRelations(path string) (providers map[uint32]map[uint32]bool, customers map[uint32]int, err error) {
	providers, customers = make(map[uint32]map[uint32]bool), make(map[uint32]int)
	err = lines(path, func(line string) error {
		if strings.HasPrefix(line, "#") {
			return nil
		}
		f := strings.Split(line, "|")
		if len(f) < 3 || f[2] != "-1" && f[2] != "0" {
			return fmt.Errorf("expected AS|AS|-1 or AS|AS|0, found %q", line)
		}
		a, err1 := strconv.ParseUint(f[0], 10, 32)
		b, err2 := strconv.ParseUint(f[1], 10, 32)
		if err := cmp.Or(err1, err2); err != nil {
			return err
		}
		if f[2] == "0" {
			return nil
		}
		p := providers[uint32(b)]
		if p == nil {
			p = make(map[uint32]bool)
			providers[uint32(b)] = p
		}
		if !p[uint32(a)] {
			p[uint32(a)] = true
			customers[uint32(a)]++
		}
		return nil
	})
	return providers, customers, err
}

// readOrigins returns the IPv4 prefixes of each AS.
func readOrigins(path string) (map[uint32][]netip.Prefix, error) {
	origins := make(map[uint32][]netip.Prefix)
	return origins, lines(path, func(line string) error {
		f := strings.Fields(line)
		if len(f) != 3 {
			return fmt.Errorf("expected prefix, length and origin, found %q", line)
		}
		if strings.ContainsAny(f[2], "_,") {
			return nil // several origins, or a set
		}
		p, err := netip.ParsePrefix(f[0] + "/" + f[1])
		if err != nil {
			return err
		}
		as, err := strconv.ParseUint(f[2], 10, 32)
		if err != nil {
			return err
		}
		if p.Addr().Is4() {
			origins[uint32(as)] = append(origins[uint32(as)], p.Masked())
		}
		return nil
	})
}

// lines calls each with the lines of a file that are not empty.
func lines(path string, each func(string) error) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	in := bufio.NewReader(f)
	var r io.Reader = in
	if magic, err := in.Peek(2); err == nil && magic[0] == 0x1f && magic[1] == 0x8b {
		if r, err = gzip.NewReader(in); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	s := bufio.NewScanner(r)
	for n := 1; s.Scan(); n++ {
		if line := strings.TrimSpace(s.Text()); line != "" {
			if err := each(line); err != nil {
				return fmt.Errorf("%s:%d: %w", path, n, err)
			}
		}
	}
	if err := s.Err(); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}
