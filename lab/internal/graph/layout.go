// Package graph draws topologies: as text, as SVG, and in the DOT language.
package graph

import (
	"fmt"
	"io"
	"slices"

	"github.com/eidolon-lisp/eidolon/lab/internal/clab"
)

// Formats are the names that Draw takes.
var Formats = []string{"text", "svg", "dot"}

// Draw writes a picture of the topology in one of the Formats.
func Draw(w io.Writer, top *clab.Topology, format string) error {
	switch format {
	case "text":
		return text(w, top)
	case "svg":
		return svg(w, top)
	case "dot":
		return dot(w, top)
	}
	return fmt.Errorf("format %q is not known; expected one of %v", format, Formats)
}

// place is where a node is drawn: the backbone is row 0, left to right; what
// hangs on it is below, siblings side by side.
type place struct {
	column, row int
	sibling, of int // the how-manieth of how many at this column and row
}

// layout puts the two nodes that are farthest apart at the ends of the
// backbone. Nodes that nothing joins to it follow at its end.
type layout struct {
	backbone []string
	places   map[string]place
	parent   map[string]string // of a node below the backbone
}

func newLayout(top *clab.Topology) layout {
	l := layout{places: map[string]place{}, parent: map[string]string{}}
	for _, from := range top.NodeNames() {
		before, order := walk(top, []string{from})
		path := []string{}
		for at := order[len(order)-1]; at != ""; at = before[at] {
			path = append(path, at)
		}
		if len(path) > len(l.backbone) {
			slices.Reverse(path)
			l.backbone = path
		}
	}
	before, order := walk(top, l.backbone)
	for _, n := range top.NodeNames() {
		if !slices.Contains(order, n) { // of another part of the topology
			l.backbone = append(l.backbone, n)
		}
	}
	cells := map[[2]int][]string{}
	for i, n := range l.backbone {
		l.places[n] = place{column: i, of: 1}
	}
	for _, n := range order {
		if _, ok := l.places[n]; ok {
			continue
		}
		up := l.places[before[n]]
		l.parent[n] = before[n]
		l.places[n] = place{column: up.column, row: up.row + 1}
		cell := [2]int{up.column, up.row + 1}
		cells[cell] = append(cells[cell], n)
	}
	for _, names := range cells {
		for i, n := range names {
			p := l.places[n]
			p.sibling, p.of = i, len(names)
			l.places[n] = p
		}
	}
	return l
}

// walk visits what can be reached from the given nodes, the nearest first.
func walk(top *clab.Topology, from []string) (before map[string]string, order []string) {
	before = map[string]string{}
	seen := map[string]bool{}
	for _, n := range from {
		seen[n] = true
	}
	order = slices.Clone(from)
	for i := 0; i < len(order); i++ {
		for _, l := range top.Links {
			for _, e := range [][2]string{{l.A.Node, l.B.Node}, {l.B.Node, l.A.Node}} {
				if e[0] == order[i] && !seen[e[1]] {
					seen[e[1]] = true
					before[e[1]] = e[0]
					order = append(order, e[1])
				}
			}
		}
	}
	return before, order
}

// between returns the first link that joins two nodes, a's end first.
func between(top *clab.Topology, a, b string) (near, far clab.Endpoint, ok bool) {
	for _, l := range top.Links {
		if l.A.Node == a && l.B.Node == b {
			return l.A, l.B, true
		}
		if l.B.Node == a && l.A.Node == b {
			return l.B, l.A, true
		}
	}
	return near, far, false
}
