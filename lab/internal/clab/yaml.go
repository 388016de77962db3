package clab

import (
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"
)

// entry is one key of a mapping with its value.
type entry struct {
	key   string
	at    *token.Token
	value ast.Node
}

// resolve follows anchors, aliases and tags to the node they stand for.
func (d *decoder) resolve(n ast.Node) ast.Node {
	for range 100 {
		switch v := n.(type) {
		case *ast.AnchorNode:
			if v.Name != nil {
				d.anchors[v.Name.GetToken().Value] = v.Value
			}
			n = v.Value
		case *ast.AliasNode:
			target, ok := d.anchors[v.Value.GetToken().Value]
			if !ok {
				d.errorf(v.GetToken(), "there is no anchor %q before this alias", v.Value.GetToken().Value)
				return ast.Null(v.GetToken())
			}
			n = target
		case *ast.TagNode:
			n = v.Value
		default:
			return n
		}
	}
	d.errorf(n.GetToken(), "an alias stands for itself")
	return ast.Null(n.GetToken())
}

// mapping lists the entries of a mapping. Keys are checked against known
// unless that is nil (names chosen by the author).
func (d *decoder) mapping(n ast.Node, level string, known map[string]key) []entry {
	n = d.resolve(n)
	var values []*ast.MappingValueNode
	switch v := n.(type) {
	case *ast.MappingNode:
		values = v.Values
	case *ast.MappingValueNode:
		values = []*ast.MappingValueNode{v}
	case *ast.NullNode:
		d.errorf(n.GetToken(), "%s is empty", level)
		return nil
	default:
		d.errorf(n.GetToken(), "%s: expected a mapping (key: value), found %s", level, kindOf(n))
		return nil
	}
	seen := map[string]bool{}
	var list []entry
	for _, v := range values {
		at := v.Key.GetToken()
		if v.Key.Type() == ast.MergeKeyType {
			d.errorf(at, "merge keys (<<) are not read; use defaults and kinds")
			continue
		}
		name := d.text(v.Key)
		if seen[name] {
			d.errorf(at, "key %q is in %s twice", name, level)
			continue
		}
		seen[name] = true
		if known != nil {
			if msg := checkKey(name, level, known); msg != "" {
				d.errorf(at, "%s", msg)
				continue
			}
		}
		list = append(list, entry{key: name, at: at, value: v.Value})
	}
	return list
}

func (d *decoder) sequence(n ast.Node, level string) []ast.Node {
	n = d.resolve(n)
	s, ok := n.(*ast.SequenceNode)
	if !ok {
		d.errorf(n.GetToken(), "%s: expected a list, found %s", level, kindOf(n))
		return nil
	}
	return s.Values
}

// text returns a scalar as its author wrote it. containerlab replaces ${NAME}
// from its environment before it reads the file; that is not done here.
func (d *decoder) text(n ast.Node) string {
	n = d.resolve(n)
	var s string
	switch v := n.(type) {
	case *ast.StringNode:
		s = v.Value
	case *ast.LiteralNode:
		s = v.Value.Value
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		s = n.GetToken().Value
	default:
		d.errorf(n.GetToken(), "expected a text or a number, found %s", kindOf(n))
		return ""
	}
	if strings.Contains(s, "${") {
		d.errorf(n.GetToken(), "${...} is not replaced from the environment by this runner, as containerlab would; write the value")
	}
	return s
}

// settings decodes a mapping of names to scalars, as of env and sysctls.
func (d *decoder) settings(n ast.Node, level string) map[string]string {
	m := map[string]string{}
	for _, e := range d.mapping(n, level, nil) {
		m[e.key] = d.text(e.value)
	}
	return m
}

func kindOf(n ast.Node) string {
	switch n.Type() {
	case ast.MappingType, ast.MappingValueType:
		return "a mapping"
	case ast.SequenceType:
		return "a list"
	case ast.NullType:
		return "nothing"
	}
	return "a single value"
}
