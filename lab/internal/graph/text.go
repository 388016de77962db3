package graph

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/eidolon-lisp/eidolon/lab/internal/clab"
)

// text draws the backbone in one line with what hangs directly below it, and
// lists every interface.
func text(w io.Writer, top *clab.Topology) error {
	l := newLayout(top)
	fmt.Fprintf(w, "%s: %d nodes, %d links\n\n", top.Name, len(top.Nodes), len(top.Links))
	drawn := map[clab.Endpoint]bool{}
	var line strings.Builder
	middle := map[string]int{} // of a node's box
	for i, n := range l.backbone {
		middle[n] = line.Len() + (len(n)+2)/2
		line.WriteString("[" + n + "]")
		if i+1 == len(l.backbone) {
			break
		}
		near, far, ok := between(top, n, l.backbone[i+1])
		if !ok {
			line.WriteString("   ")
			continue
		}
		drawn[near], drawn[far] = true, true
		line.WriteString(near.Interface + "--" + far.Interface)
	}
	fmt.Fprintln(w, line.String())
	var below [4]strings.Builder
	for _, n := range l.backbone {
		i := slices.IndexFunc(top.Nodes, func(c *clab.Node) bool {
			p := l.places[c.Name]
			return l.parent[c.Name] == n && p.row == 1 && p.sibling == 0
		})
		if i < 0 {
			continue
		}
		child := top.Nodes[i].Name
		near, far, _ := between(top, n, child)
		at := middle[n]
		start := max(0, at-(len(child)+2)/2)
		if below[3].Len() >= start {
			continue // no room; the list has it
		}
		drawn[near], drawn[far] = true, true
		for row, s := range []string{"|" + near.Interface, "|", "|" + far.Interface} {
			pad(&below[row], at)
			below[row].WriteString(s)
		}
		pad(&below[3], start)
		below[3].WriteString("[" + child + "]")
	}
	for i := range below {
		if below[i].Len() > 0 {
			fmt.Fprintln(w, below[i].String())
		}
	}
	for _, lk := range top.Links {
		if !drawn[lk.A] {
			fmt.Fprintf(w, "and %s--%s\n", lk.A, lk.B)
		}
	}
	fmt.Fprintln(w)
	return interfaces(w, top)
}

func pad(b *strings.Builder, to int) {
	if n := to - b.Len(); n > 0 {
		b.WriteString(strings.Repeat(" ", n))
	}
}

// interfaces lists the interfaces of all nodes with what is at the other end.
func interfaces(w io.Writer, top *clab.Topology) error {
	t := tabwriter.NewWriter(w, 0, 8, 3, ' ', 0)
	fmt.Fprintln(t, "NODE\tINTERFACE\tTO\tMTU\tADDRESSES")
	for _, n := range top.Nodes {
		name := n.Name
		for _, ifc := range top.Interfaces(n.Name) {
			peer, mtu := other(top, clab.Endpoint{Node: n.Name, Interface: ifc})
			fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%s\n", name, ifc, peer, mtu, strings.Join(addresses(n, ifc), ", "))
			name = ""
		}
		if name != "" {
			fmt.Fprintf(t, "%s\tnone\t\t\t\n", name)
		}
	}
	return t.Flush()
}

// other returns the far end of the link at e.
func other(top *clab.Topology, e clab.Endpoint) (clab.Endpoint, int) {
	for _, l := range top.Links {
		if l.A == e {
			return l.B, l.MTU
		}
		if l.B == e {
			return l.A, l.MTU
		}
	}
	return clab.Endpoint{}, 0
}

func addresses(n *clab.Node, ifc string) []string {
	var list []string
	for _, a := range n.Addresses() {
		if a.Interface == ifc {
			list = append(list, a.Prefix.String())
		}
	}
	return list
}
