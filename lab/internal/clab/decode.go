package clab

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// Error is one fault of a topology file.
type Error struct {
	File         string
	Line, Column int // from 1; 0 if the fault is of the file as a whole
	Message      string
}

func (e Error) Error() string {
	if e.Line == 0 {
		return e.File + ": " + e.Message
	}
	return fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Column, e.Message)
}

// Errors are all faults of a topology file, in the order of the file.
type Errors []Error

func (es Errors) Error() string {
	lines := make([]string, len(es))
	for i, e := range es {
		lines[i] = e.Error()
	}
	return strings.Join(lines, "\n")
}

// Load reads and checks a topology file. A fault of its content comes back
// as Errors.
func Load(path string) (*Topology, error) {
	src, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the topology: %w", err)
	}
	return Decode(path, src)
}

// Decode checks the topology src, which is called path in errors and whose
// directory relative binds start from. Sources of binds must exist.
func Decode(path string, src []byte) (*Topology, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("find the topology's directory: %w", err)
	}
	d := &decoder{file: path, dir: filepath.Dir(abs), anchors: map[string]ast.Node{}}
	t := d.decode(src)
	if len(d.errs) > 0 {
		slices.SortStableFunc(d.errs, func(a, b Error) int {
			return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
		})
		return nil, d.errs
	}
	t.File = abs
	return t, nil
}

type decoder struct {
	file, dir string
	anchors   map[string]ast.Node
	errs      Errors
}

func (d *decoder) errorf(at *token.Token, format string, args ...any) {
	e := Error{File: d.file, Message: fmt.Sprintf(format, args...)}
	if at != nil && at.Position != nil {
		e.Line, e.Column = at.Position.Line, at.Position.Column
	}
	d.errs = append(d.errs, e)
}

func (d *decoder) position(at *token.Token) string {
	return fmt.Sprintf("%s:%d:%d", d.file, at.Position.Line, at.Position.Column)
}

func (d *decoder) decode(src []byte) *Topology {
	f, err := parser.ParseBytes(src, 0)
	if err != nil {
		var ye yaml.Error
		if errors.As(err, &ye) {
			d.errorf(ye.GetToken(), "%s", ye.GetMessage())
		} else {
			d.errorf(nil, "%v", err)
		}
		return nil
	}
	var body ast.Node
	for _, doc := range f.Docs {
		if doc.Body == nil {
			continue
		}
		if body != nil {
			d.errorf(doc.Body.GetToken(), "a topology file is one YAML document; here starts another")
			return nil
		}
		body = doc.Body
	}
	if body == nil {
		d.errorf(nil, "the file is empty; expected name and topology")
		return nil
	}
	t := &Topology{}
	var topo *entry
	for _, e := range d.mapping(body, "the topology file", rootKeys) {
		switch e.key {
		case "name":
			t.Name = d.text(e.value)
			if t.Name != "" && !validName(t.Name) {
				d.errorf(e.value.GetToken(), "name %q: use letters, digits, '-', '_' and '.', at most 64", t.Name)
			}
		case "topology":
			topo = &e
		}
	}
	if t.Name == "" && len(d.errs) == 0 {
		d.errorf(body.GetToken(), "name is missing")
	}
	if topo == nil {
		if len(d.errs) == 0 {
			d.errorf(body.GetToken(), "topology is missing")
		}
		return t
	}
	d.topology(t, topo.value)
	return t
}

func (d *decoder) topology(t *Topology, n ast.Node) {
	var defaults definition
	kinds := map[string]definition{}
	var nodes []definition
	var links ast.Node
	for _, e := range d.mapping(n, "topology", topologyKeys) {
		switch e.key {
		case "defaults":
			defaults = d.definition(e, "defaults")
		case "kinds":
			for _, k := range d.mapping(e.value, "kinds", nil) {
				kinds[k.key] = d.definition(k, "kind "+k.key)
			}
		case "nodes":
			for _, k := range d.mapping(e.value, "nodes", nil) {
				if !validName(k.key) {
					d.errorf(k.at, "node name %q: use letters, digits, '-', '_' and '.', at most 64", k.key)
				}
				nodes = append(nodes, d.definition(k, "node "+k.key))
			}
		case "links":
			links = e.value
		}
	}
	if len(nodes) == 0 && len(d.errs) == 0 {
		d.errorf(n.GetToken(), "topology has no nodes")
	}
	for _, def := range nodes {
		kind := cmp.Or(def.kind, defaults.kind)
		if kind != "linux" {
			at := def.kindAt
			if def.kind == "" {
				at = cmp.Or(defaults.kindAt, def.at)
			}
			if kind == "" {
				d.errorf(at, "node %s has no kind; expected linux, here or under defaults", def.name)
			} else {
				d.errorf(at, "node %s is of kind %q; this runner plays kind linux only", def.name, kind)
			}
		}
		t.Nodes = append(t.Nodes, d.node(defaults, kinds[kind], def))
	}
	if links != nil {
		d.links(t, links)
	}
}

// links decodes the list of links and checks their ends against the nodes.
func (d *decoder) links(t *Topology, n ast.Node) {
	used := map[Endpoint]bool{}
	for _, item := range d.sequence(n, "links") {
		link := Link{MTU: DefaultMTU}
		var ends []Endpoint
		for _, e := range d.mapping(item, "a link", linkKeys) {
			switch e.key {
			case "type":
				if typ := d.text(e.value); typ != "" && typ != "veth" {
					d.errorf(e.value.GetToken(), "link type %q is not played; expected veth or no type at all", typ)
				}
			case "mtu":
				mtu, err := strconv.Atoi(d.text(e.value))
				if err != nil || mtu < 68 || mtu > 65535 {
					d.errorf(e.value.GetToken(), "mtu is a number of octets from 68 to 65535")
				}
				link.MTU = mtu
			case "endpoints":
				items := d.sequence(e.value, "endpoints")
				if len(items) != 2 {
					d.errorf(e.value.GetToken(), "endpoints: expected two of the form \"node:interface\", found %d", len(items))
				}
				for _, it := range items {
					ends = append(ends, d.endpoint(t, it, used))
				}
			}
		}
		if len(ends) == 2 {
			link.A, link.B = ends[0], ends[1]
			t.Links = append(t.Links, link)
		} else if ends == nil {
			d.errorf(item.GetToken(), "a link needs endpoints: [\"node:interface\", \"node:interface\"]")
		}
	}
}

// endpoint decodes "node:interface", or the mapping of the extended form.
func (d *decoder) endpoint(t *Topology, n ast.Node, used map[Endpoint]bool) Endpoint {
	var e Endpoint
	if d.resolve(n).Type() == ast.MappingType {
		for _, m := range d.mapping(n, "an endpoint", map[string]key{
			"node": {use: played}, "interface": {use: played},
			"mac":  {notPlayed, "the kernel chooses the MAC addresses here"},
			"vars": {notPlayed, ""}, "ipv4": {notPlayed, "use exec: ip addr add"}, "ipv6": {notPlayed, "use exec: ip addr add"},
		}) {
			if m.key == "node" {
				e.Node = d.text(m.value)
			} else if m.key == "interface" {
				e.Interface = d.text(m.value)
			}
		}
	} else {
		s := d.text(n)
		var ok bool
		if e.Node, e.Interface, ok = strings.Cut(s, ":"); !ok {
			d.errorf(n.GetToken(), "endpoint %q: expected \"node:interface\"", s)
			return e
		}
	}
	at := n.GetToken()
	switch {
	case t.Node(e.Node) == nil:
		special := []string{"host", "mgmt-net", "macvlan", "dummy"}
		if slices.Contains(special, e.Node) {
			d.errorf(at, "endpoint %q: this runner does not play containerlab's links to %s", e, e.Node)
		} else {
			d.errorf(at, "endpoint %q: there is no node %q; nodes are %v", e, e.Node, t.NodeNames())
		}
	case e.Interface == "" || len(e.Interface) > 15 || strings.ContainsAny(e.Interface, "/ :") || e.Interface == "lo":
		d.errorf(at, "endpoint %q: an interface name has 1 to 15 characters, no '/', ':' or blank, and is not lo", e)
	case used[e]:
		d.errorf(at, "endpoint %q is in two links", e)
	}
	used[e] = true
	return e
}

func validName(s string) bool {
	if s == "" || len(s) > 64 || s[0] == '.' || s[0] == '-' {
		return false
	}
	return strings.IndexFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' || r == '.')
	}) < 0
}
