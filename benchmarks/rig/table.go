// Package rig is what the benchmark programs share: BGP tables, real or
// generated, and a mapserver process under test.
package rig

import (
	"bufio"
	"compress/gzip"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"strings"
)

// lengths4 and lengths6 are the prefixes of each length in the global routing
// table of January 2024 as seen in RouteViews (the test data of gaissmai/bart:
// 901,899 IPv4 and 160,147 IPv6 prefixes). The generated table has the same
// shares.
var (
	lengths4 = map[int]int{8: 16, 9: 13, 10: 38, 11: 103, 12: 299, 13: 581, 14: 1203, 15: 2100, 16: 13490, 17: 8235,
		18: 13798, 19: 24870, 20: 42611, 21: 50750, 22: 108623, 23: 96510, 24: 537698, 32: 886}
	lengths6 = map[int]int{20: 16, 24: 30, 28: 193, 29: 4371, 30: 650, 31: 284, 32: 22548, 33: 2926, 34: 2603, 35: 1043,
		36: 5996, 37: 880, 38: 1617, 39: 1377, 40: 13418, 41: 903, 42: 2301, 43: 1001, 44: 14365, 45: 1553, 46: 3039,
		47: 3153, 48: 75488, 64: 184}
)

// Generate makes a table of about scale times the size of the real one. Half
// of the prefixes are drawn inside one that is already there, so that prefixes
// nest as they do in reality.
func Generate(scale float64, rng *rand.Rand) []netip.Prefix {
	var out []netip.Prefix
	seen := map[netip.Prefix]bool{}
	for _, family := range []struct {
		lengths map[int]int
		bits    int
		base    netip.Prefix
	}{
		{lengths4, 32, netip.MustParsePrefix("0.0.0.0/1")},
		{lengths6, 128, netip.MustParsePrefix("2000::/3")},
	} {
		var mine []netip.Prefix
		for n := 0; n <= family.bits; n++ {
			for range int(float64(family.lengths[n]) * scale) {
				inside := family.base
				if len(mine) > 0 && rng.IntN(2) == 0 {
					inside = mine[rng.IntN(len(mine))]
				}
				p, _ := RandomIn(inside, rng).Prefix(n)
				if !seen[p] && p.Bits() > inside.Bits() {
					seen[p] = true
					mine = append(mine, p)
				}
			}
		}
		out = append(out, mine...)
	}
	return out
}

// RandomIn returns a random address of p.
func RandomIn(p netip.Prefix, rng *rand.Rand) netip.Addr {
	b := p.Addr().AsSlice()
	for i := range b {
		keep := min(max(p.Bits()-8*i, 0), 8)
		mask := byte(0xff) >> keep
		b[i] = b[i]&^mask | byte(rng.Uint32())&mask
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// WriteTable writes one prefix a line, gzipped.
func WriteTable(path string, table []netip.Prefix) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	z := gzip.NewWriter(f)
	w := bufio.NewWriter(z)
	for _, p := range table {
		fmt.Fprintln(w, p)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	return f.Close()
}

// ReadTable reads the prefixes of a file in the formats that lispctl import
// takes: a prefix a line, or CAIDA's pfx2as (address, length, origin).
func ReadTable(path string) ([]netip.Prefix, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var r io.Reader = f
	if strings.HasSuffix(path, ".gz") {
		if r, err = gzip.NewReader(f); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	seen := map[netip.Prefix]bool{}
	var out []netip.Prefix
	for in := bufio.NewScanner(r); in.Scan(); {
		fields := strings.Fields(in.Text())
		if len(fields) == 0 || fields[0][0] == '#' {
			continue
		}
		s := fields[0]
		if len(fields) >= 2 {
			s += "/" + fields[1]
		}
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if p = p.Masked(); !seen[p] {
			seen[p] = true
			out = append(out, p)
		}
	}
	return out, nil
}
