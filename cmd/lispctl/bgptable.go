package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/eidolon-lisp/eidolon/mapping"
)

// tableFormat is how a line of a BGP table looks.
type tableFormat uint8

const (
	// formatPrefixes has a prefix a line: "192.0.2.0/24".
	formatPrefixes tableFormat = iota + 1
	// formatPfx2as is that of CAIDA: address, length and origin, separated by
	// white space: "192.0.2.0	24	64496". Several origins of one prefix are
	// joined by "_", the members of an AS set by ",".
	formatPfx2as
)

func (f tableFormat) String() string {
	if f == formatPfx2as {
		return "pfx2as"
	}
	return "a prefix a line"
}

// route is one line of a BGP table.
type route struct {
	prefix netip.Prefix
	origin string // "" when the format has none
}

// badLine is a line that is not a route.
type badLine struct {
	number int
	err    error
}

// bgpTable is a BGP table that was read.
type bgpTable struct {
	format tableFormat
	// routes is sorted by prefix, each once; of several lines for one prefix
	// the last counts.
	routes     []route
	duplicates int
	bad        int
	// firstBad are the first of the bad lines.
	firstBad []badLine
}

// Limits on a table.
const (
	maxLine     = 64 << 10 // octets
	maxRoutes   = 1 << 25
	maxFirstBad = 20
)

// readTable reads a table, perhaps in gzip. The format is told by the first
// line that is not empty and not a comment (#).
func readTable(r io.Reader) (*bgpTable, error) {
	in, err := plainReader(r)
	if err != nil {
		return nil, err
	}
	t := new(bgpTable)
	lines := bufio.NewScanner(in)
	lines.Buffer(make([]byte, 1<<12), maxLine)
	number := 0
	for lines.Scan() {
		number++
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		rt, err := t.parse(line)
		if err != nil {
			if t.bad++; len(t.firstBad) < maxFirstBad {
				t.firstBad = append(t.firstBad, badLine{number, err})
			}
			continue
		}
		if t.routes = append(t.routes, rt); len(t.routes) > maxRoutes {
			return nil, fmt.Errorf("line %d: more than %d prefixes", number, maxRoutes)
		}
	}
	if err := lines.Err(); err != nil {
		if errors.Is(err, bufio.ErrTooLong) {
			err = fmt.Errorf("longer than %d octets", maxLine)
		}
		return nil, fmt.Errorf("line %d: %w", number+1, err)
	}
	t.sort()
	return t, nil
}

// sort puts the routes in the order of EIDs and takes duplicates out.
func (t *bgpTable) sort() {
	slices.SortStableFunc(t.routes, func(a, b route) int { return a.prefix.Compare(b.prefix) })
	kept := t.routes[:0]
	for i, rt := range t.routes {
		if i+1 < len(t.routes) && t.routes[i+1].prefix == rt.prefix {
			t.duplicates++
			continue
		}
		kept = append(kept, rt)
	}
	t.routes = kept
}

// parse reads one line, and the format from the first good one.
func (t *bgpTable) parse(line string) (rt route, err error) {
	fields := strings.Fields(line)
	format := formatPrefixes
	if len(fields) > 1 {
		format = formatPfx2as
	}
	switch {
	case format == formatPfx2as && len(fields) != 3:
		return rt, fmt.Errorf("found %d columns, expected a prefix, or address, length and origin", len(fields))
	case t.format != 0 && t.format != format:
		return rt, fmt.Errorf("found %q, expected %v as in the lines before", clip(line), t.format)
	}
	text := fields[0]
	if format == formatPfx2as {
		text += "/" + fields[1]
		if rt.origin = fields[2]; !validOrigin(rt.origin) {
			return rt, fmt.Errorf("found origin %q, expected AS numbers joined by _ or ,", clip(rt.origin))
		}
		// Of the text of the line only the origin is kept.
		rt.origin = strings.Clone(rt.origin)
	}
	if rt.prefix, err = netip.ParsePrefix(text); err != nil {
		return rt, fmt.Errorf("found %q, expected an IPv4 or IPv6 prefix", clip(text))
	}
	if rt.prefix != rt.prefix.Masked() {
		return rt, fmt.Errorf("found %q, which has host bits set; expected %v", clip(text), rt.prefix.Masked())
	}
	if _, err := mapping.MakeEID(0, rt.prefix); err != nil {
		return rt, err
	}
	t.format = format
	return rt, nil
}

// clip keeps a message short.
func clip(s string) string {
	const longest = 60
	if len(s) > longest {
		return s[:longest] + "..."
	}
	return s
}

// validOrigin accepts "64496", "64496_64497" and "64496,64497_64498".
func validOrigin(s string) bool {
	for as := range strings.FieldsFuncSeq(s, func(c rune) bool { return c == '_' || c == ',' }) {
		if _, err := strconv.ParseUint(as, 10, 32); err != nil {
			return false
		}
	}
	last := strings.TrimRight(s, "_,")
	return s != "" && last == s && strings.TrimLeft(s, "_,") == s
}
