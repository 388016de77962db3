package graph

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"io"
	"strings"

	"github.com/eidolon-lisp/eidolon/lab/internal/clab"
)

// dot writes the topology in the DOT language of Graphviz.
func dot(w io.Writer, top *clab.Topology) error {
	var b strings.Builder
	fmt.Fprintf(&b, "graph %q {\n  node [shape=box];\n", top.Name)
	for _, n := range top.Nodes {
		label := n.Name
		for _, ifc := range top.Interfaces(n.Name) {
			for _, a := range addresses(n, ifc) {
				label += "\n" + ifc + " " + a
			}
		}
		fmt.Fprintf(&b, "  %q [label=%q];\n", n.Name, label)
	}
	for _, l := range top.Links {
		fmt.Fprintf(&b, "  %q -- %q [taillabel=%q, headlabel=%q, label=\"MTU %d\"];\n", l.A.Node, l.B.Node, l.A.Interface, l.B.Interface, l.MTU)
	}
	b.WriteString("}\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// Sizes of the picture in pixels.
const (
	boxWidth  = 210
	lineTall  = 15
	columnGap = 90
	rowGap    = 70
	margin    = 20
)

// box is a node in the picture.
type box struct {
	x, y, w, h float64
	lines      []string
}

// svg draws the topology: a box for each node with its addresses, and the
// links with the names of their interfaces.
func svg(w io.Writer, top *clab.Topology) error {
	l := newLayout(top)
	boxes := map[string]*box{}
	tallest := map[int]float64{} // by row
	widest := map[int]float64{}  // by column
	rows := 0
	for _, n := range top.Nodes {
		b := &box{w: boxWidth}
		for _, ifc := range top.Interfaces(n.Name) {
			for _, a := range addresses(n, ifc) {
				b.lines = append(b.lines, ifc+"  "+a)
			}
		}
		b.h = float64(28 + lineTall*len(b.lines))
		p := l.places[n.Name]
		tallest[p.row] = max(tallest[p.row], b.h)
		widest[p.column] = max(widest[p.column], float64(p.of)*(boxWidth+margin))
		rows = max(rows, p.row+1)
		boxes[n.Name] = b
	}
	top0 := make([]float64, rows+1)
	top0[0] = margin
	for r := range rows {
		top0[r+1] = top0[r] + tallest[r] + rowGap
	}
	left := make([]float64, len(l.backbone)+1)
	left[0] = margin
	for c := range l.backbone {
		left[c+1] = left[c] + widest[c] + columnGap
	}
	for name, b := range boxes {
		p := l.places[name]
		b.x = left[p.column] + widest[p.column]/2 + (float64(p.sibling)-float64(p.of-1)/2)*(boxWidth+margin) - b.w/2
		b.y = top0[p.row]
	}
	var out bytes.Buffer
	fmt.Fprintf(&out, `<svg xmlns="http://www.w3.org/2000/svg" width="%.0f" height="%.0f" font-family="sans-serif" font-size="12">`+"\n",
		left[len(l.backbone)]-columnGap+margin, top0[rows]-rowGap+margin)
	out.WriteString(`<rect width="100%" height="100%" fill="white"/>` + "\n")
	for _, lk := range top.Links {
		drawLink(&out, lk, boxes[lk.A.Node], boxes[lk.B.Node])
	}
	for _, n := range top.Nodes {
		b := boxes[n.Name]
		fmt.Fprintf(&out, `<rect x="%.0f" y="%.0f" width="%.0f" height="%.0f" rx="6" fill="#eef3f8" stroke="#345"/>`+"\n", b.x, b.y, b.w, b.h)
		fmt.Fprintf(&out, `<text x="%.0f" y="%.0f" text-anchor="middle" font-weight="bold">%s</text>`+"\n", b.x+b.w/2, b.y+19, escape(n.Name))
		for i, s := range b.lines {
			fmt.Fprintf(&out, `<text x="%.0f" y="%.0f" font-family="monospace" font-size="11">%s</text>`+"\n", b.x+8, b.y+36+float64(lineTall*i), escape(s))
		}
	}
	out.WriteString("</svg>\n")
	_, err := w.Write(out.Bytes())
	return err
}

// drawLink draws a line between the borders of two boxes, with the names of
// the interfaces at its ends.
func drawLink(out io.Writer, lk clab.Link, a, b *box) {
	ax, ay := a.border(b)
	bx, by := b.border(a)
	fmt.Fprintf(out, `<line x1="%.0f" y1="%.0f" x2="%.0f" y2="%.0f" stroke="#345" stroke-width="1.5"/>`+"\n", ax, ay, bx, by)
	label := func(x, y, dx, dy float64, s string) {
		anchor := "start"
		if dx < 0 {
			anchor = "end"
		}
		if dx > -8 && dx < 8 { // a steep line: beside it
			x, y = x+6, y+16
			if dy < 0 {
				y -= 24
			}
		} else {
			x, y = x+4*sign(dx), y-4
		}
		fmt.Fprintf(out, `<text x="%.0f" y="%.0f" text-anchor="%s" font-size="11" fill="#345">%s</text>`+"\n", x, y, anchor, escape(s))
	}
	label(ax, ay, bx-ax, by-ay, lk.A.Interface)
	label(bx, by, ax-bx, ay-by, lk.B.Interface)
}

// border is where a line to the middle of o leaves the box: at its side, or at
// its top or bottom if o is above or below. Lines between neighbours of a row
// are level.
func (b *box) border(o *box) (x, y float64) {
	switch {
	case o.x >= b.x+b.w:
		return b.x + b.w, b.y + 14
	case o.x+o.w <= b.x:
		return b.x, b.y + 14
	case o.y > b.y:
		return b.x + b.w/2, b.y + b.h
	}
	return b.x + b.w/2, b.y
}

func sign(f float64) float64 {
	if f < 0 {
		return -1
	}
	return 1
}

func escape(s string) string {
	var b bytes.Buffer
	xml.EscapeText(&b, []byte(s))
	return b.String()
}
