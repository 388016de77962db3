package config

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

// Text is a configuration as it was written. It does not change.
type Text struct {
	kind    Kind
	data    []byte
	secrets map[string]secret // by the names of the values that they were read for
	// What was read, by kind.
	xtr    *XTR
	server *MapServer
}

// secret is what is remembered of one: not itself, but what tells it from others.
type secret struct {
	digest [sha256.Size]byte
	inline bool // it stands in the text; else in a file that the text names
}

// keep remembers a secret that v was read for.
func (v value) keep(s string, inline bool) {
	v.r.secrets[v.name] = secret{sha256.Sum256([]byte(s)), inline}
}

// Difference is a key whose values differ between two configurations.
type Difference struct {
	// Key is where the key stands. Items of lists have the name, EID or address
	// that tells them from others: "map_servers[203.0.113.10].merge".
	Key string
	// Before and After are the values as they are written, "" where the key is
	// left out. They never hold a secret.
	Before, After string
	// Restart says that the change takes effect with a restart only.
	Restart bool
}

// Referred is After of a key that stands there as before and means something else,
// because others have changed.
const Referred = "(by what it refers to)"

// maxShown bounds a value of a Difference, in octets.
const maxShown = 256

// Compare returns the keys in which two configurations of a kind differ, in the
// order of after, then of before. What is written in another way and means the
// same is a difference, as it is to who reads the files.
func Compare(before, after *Text) ([]Difference, error) {
	a, err := before.tree()
	if err != nil {
		return nil, err
	}
	b, err := after.tree()
	if err != nil {
		return nil, err
	}
	host, _ := b.object()
	c := comparison{kind: after.kind, host: host.fields["host"].given()}
	c.values("", "", a, b)
	for _, k := range needsRestart(before, after) {
		if !slices.ContainsFunc(c.out, func(d Difference) bool { return d.Restart && inside(d.Key, k) }) {
			c.add(Difference{Key: k, After: Referred, Restart: true})
		}
	}
	return c.out, nil
}

func needsRestart(before, after *Text) []string {
	switch {
	case before.xtr != nil && after.xtr != nil:
		return before.xtr.NeedsRestart(after.xtr)
	case before.server != nil && after.server != nil:
		return before.server.NeedsRestart(after.server)
	}
	return nil
}

// inside reports whether a key is another one, or inside of it.
func inside(key, of string) bool {
	rest, found := strings.CutPrefix(key, of)
	return found && (rest == "" || rest[0] == '.' || rest[0] == '[')
}

// tree parses the text again.
func (t *Text) tree() (value, error) {
	r, root, err := parse("", t.data)
	if err != nil {
		return value{}, err
	}
	r.secrets, r.items = t.secrets, -1<<40 // lists are walked several times
	return root, nil
}

// comparison is a walk through two trees.
type comparison struct {
	kind Kind
	host bool // whose EIDs are added and removed with a restart only
	out  []Difference
}

// values compares what stands under a key; path is the key without what tells the
// items of lists apart.
func (c *comparison) values(key, path string, a, b value) {
	_, aMap := a.node.(ast.MapNode)
	_, bMap := b.node.(ast.MapNode)
	as, aList := a.node.(*ast.SequenceNode)
	bs, bList := b.node.(*ast.SequenceNode)
	switch {
	case aMap && bMap:
		c.mappings(key, path, a, b)
	case aList && bList && (hasMapping(as) || hasMapping(bs)):
		c.lists(key, path, a, b)
	default:
		x, y := shown(a), shown(b)
		switch was, is := a.r.secrets[a.name], b.r.secrets[b.name]; {
		case x != y:
		case was.digest == is.digest:
			return
		case is.inline:
			y = "(another secret)"
		default:
			y += " (with other contents)"
		}
		c.add(Difference{Key: key, Before: x, After: y, Restart: c.restart(path)})
	}
}

func (c *comparison) add(d Difference) {
	d.Before, d.After = short(d.Before), short(d.After)
	c.out = append(c.out, d)
}

func short(s string) string {
	if len(s) <= maxShown {
		return s
	}
	return strings.ToValidUTF8(s[:maxShown], "") + "..."
}

func (c *comparison) mappings(key, path string, a, b value) {
	ao, _ := a.object()
	bo, _ := b.object()
	for _, k := range slices.Concat(bo.order, ao.order) {
		if slices.Contains(bo.known, k) {
			continue // compared
		}
		va, vb := ao.get(k), bo.get(k)
		if va.given() || vb.given() {
			c.values(join(key, k), join(path, k), va, vb)
		}
	}
}

func join(key, k string) string {
	if key == "" {
		return k
	}
	return key + "." + k
}

// lists compares lists with mappings, whose items are told apart by what they are of.
func (c *comparison) lists(key, path string, a, b value) {
	as, bs := items(a), items(b)
	was, is := make(map[string]value, len(as)), make(map[string]bool, len(bs))
	for _, it := range as {
		was[it.id] = it.value
	}
	comesAndGoes := c.restart(path) || c.host && path == "database_mappings"
	var common, order []string // as in b, as in a
	for _, it := range bs {
		is[it.id] = true
		name := fmt.Sprintf("%s[%s]", key, it.id)
		if old, ok := was[it.id]; ok {
			common = append(common, it.id)
			c.values(name, path+"[]", old, it.value)
		} else {
			c.add(Difference{Key: name, After: shown(it.value), Restart: comesAndGoes})
		}
	}
	for _, it := range as {
		if is[it.id] {
			order = append(order, it.id)
		} else {
			c.add(Difference{Key: fmt.Sprintf("%s[%s]", key, it.id), Before: shown(it.value), Restart: comesAndGoes})
		}
	}
	if !slices.Equal(common, order) {
		c.add(Difference{Key: key, Before: "in the order " + strings.Join(order, ", "), After: "in the order " + strings.Join(common, ", "), Restart: c.restart(path)})
	}
}

// item is one of a list of mappings.
type item struct {
	id string
	value
}

// identities are the keys that tell items of lists apart, the first that all items
// have and that differs.
var identities = []string{"eid", "prefix", "name", "address", "interface", "iid", "key_id", "xtr_id", "device"}

// items are those of a list, numbered from 1 where nothing tells them apart. A text
// among mappings is what it is of.
func items(v value) []item {
	values := v.list("")
	out, seen := make([]item, len(values)), make(map[string]bool, len(values))
	for _, k := range identities {
		clear(seen)
		for i, it := range values {
			what := it
			if _, ok := it.node.(ast.MapNode); ok {
				o, _ := it.object()
				what = o.fields[k]
			}
			if what.given() {
				out[i] = item{shown(what), it}
				seen[out[i].id] = true
			}
		}
		if len(seen) == len(values) {
			return out
		}
	}
	for i, it := range values {
		out[i] = item{fmt.Sprint(i + 1), it}
	}
	return out
}

func hasMapping(s *ast.SequenceNode) bool {
	return slices.ContainsFunc(s.Values, func(n ast.Node) bool {
		_, ok := n.(ast.MapNode)
		return ok
	})
}

// shown is a value as it is written, on one line, without secrets.
func shown(v value) string {
	switch n := v.node.(type) {
	case nil:
		return ""
	case ast.MapNode:
		o, _ := v.object()
		parts := make([]string, 0, len(o.order))
		for _, k := range o.order {
			if f := o.fields[k]; f.given() {
				parts = append(parts, k+": "+shown(f))
			}
		}
		return "{" + strings.Join(parts, ", ") + "}"
	case *ast.SequenceNode:
		var parts []string
		for _, it := range v.list("") {
			parts = append(parts, shown(it))
		}
		return "[" + strings.Join(parts, ", ") + "]"
	default:
		if v.r.secrets[v.name].inline {
			return "(secret)"
		}
		return cmp.Or(scalarText(n), `""`)
	}
}

// reloaded are the keys whose changes a running daemon takes, with all that is
// inside of them.
var reloaded = map[Kind][]string{
	KindXTR: append([]string{"database_mappings", "locator_sets", "uplinks", "map_servers", "map_resolvers", "log"},
		reloadedAPI...),
	KindMapServer: append([]string{"sites", "log"}, reloadedAPI...),
}

var reloadedAPI = []string{"api.users", "api.audit_file", "api.tcp.certificate_file", "api.tcp.client_ca_file", "api.tcp.key_file"}

// restart says whether a change of a key takes effect with a restart only.
func (c *comparison) restart(path string) bool {
	return !slices.ContainsFunc(reloaded[c.kind], func(k string) bool { return inside(path, k) })
}
