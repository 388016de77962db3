package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// Limits on a file, so that a mistake such as naming a disk image, or aliases
// of aliases, ends in a message.
const (
	maxFileSize = 16 << 20
	maxItems    = 1 << 20 // list items read, counted again through each alias
	maxNesting  = 64      // brackets that are open at once
)

// reader walks the syntax tree of one file and collects what is wrong with it.
// The walk is steered by what the daemons expect, never by what the file holds.
type reader struct {
	file     string
	anchors  map[string]ast.Node
	errors   Errors
	warnings Errors
	needs    []Need
	secrets  map[string]secret // by the names of their values
	items    int
}

// value is one node of the tree with the key it stands under. A value whose
// node is nil was not given, or was null; reading it yields the default.
type value struct {
	r    *reader
	name string
	node ast.Node
	// at is where to point when the value is blamed, key when its name is.
	at, key *token.Position
	// secret keeps what was found out of messages.
	secret bool
	// broken says that the node was refused already.
	broken bool
	form   *form // nil unless watched
}

// object is a mapping whose keys are being asked for one by one.
type object struct {
	r       *reader
	name    string // "" for the file
	at      *token.Position
	fields  map[string]value
	order   []string // keys as given
	known   []string // keys asked for
	needed  []string // those that must be there
	missing []missing
	form    *form // nil unless watched
}

type missing struct{ key, want string }

// readFile reads and parses the file. The error is an Errors when the file
// could be read but is not YAML.
func readFile(path string) (*reader, value, error) {
	data, err := readText(path)
	if err != nil {
		return nil, value{}, err
	}
	return parse(path, data)
}

// readText reads the file.
func readText(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	defer f.Close()
	data, err := readAtMost(f, maxFileSize)
	if err != nil {
		return nil, fmt.Errorf("read configuration %s: %w", path, err)
	}
	return data, nil
}

// parse builds the tree of a file's text.
func parse(path string, data []byte) (*reader, value, error) {
	r := &reader{file: path, anchors: make(map[string]ast.Node), secrets: make(map[string]secret)}
	if line := nestedTooDeep(data); line > 0 {
		r.fail(&token.Position{Line: line, Column: 1}, "more than %d brackets are open at once", maxNesting)
		return nil, value{}, r.errors
	}
	file, err := parser.ParseBytes(data, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		r.syntaxError(data, err)
		return nil, value{}, r.errors
	}
	if len(file.Docs) == 0 || file.Docs[0].Body == nil {
		r.fail(&token.Position{Line: 1, Column: 1}, "the file is empty")
		return nil, value{}, r.errors
	}
	if len(file.Docs) > 1 {
		at := &token.Position{Line: 1, Column: 1}
		if start := file.Docs[1].Start; start != nil {
			at = start.Position
		}
		r.fail(at, "found a second YAML document, expected one")
		return nil, value{}, r.errors
	}
	body := file.Docs[0].Body
	for _, n := range ast.Filter(ast.AnchorType, body) {
		a := n.(*ast.AnchorNode)
		name := a.Name.GetToken().Value
		if _, twice := r.anchors[name]; twice {
			r.fail(position(a), "anchor &%s is defined twice", name)
		}
		r.anchors[name] = a.Value
	}
	return r, value{r: r, node: body, at: position(body)}, nil
}

// nestedTooDeep returns the line where brackets nest deeper than any
// configuration does, or 0. The parser recurses once for each.
func nestedTooDeep(data []byte) int {
	line, depth := 1, 0
	for _, c := range data {
		switch c {
		case '\n':
			line++
		case '[', '{':
			if depth++; depth > maxNesting {
				return line
			}
		case ']', '}':
			depth = max(0, depth-1)
		}
	}
	return 0
}

// bareInstance finds an EID whose instance-ID is not quoted.
var bareInstance = regexp.MustCompile(`(?:^|[\s:,{\[])(\[[0-9]+\][0-9a-fA-F:.]+(?:/[0-9]+)?)`)

func (r *reader) syntaxError(data []byte, err error) {
	at, message := &token.Position{Line: 1, Column: 1}, err.Error()
	if ye, ok := errors.AsType[yaml.Error](err); ok {
		message = ye.GetMessage()
		if tk := ye.GetToken(); tk != nil && tk.Position != nil {
			at = tk.Position
		}
	}
	lines := strings.Split(string(data), "\n")
	if at.Line >= 1 && at.Line <= len(lines) {
		line := lines[at.Line-1]
		if m := bareInstance.FindStringSubmatch(line); m != nil && !strings.Contains(line, `"`+m[1]) && !strings.Contains(line, `'`+m[1]) {
			r.fail(at, "an EID that begins with its instance-ID must be quoted, because [ begins a list: write \"%s\"", m[1])
			return
		}
	}
	r.fail(at, "not valid YAML: %s", message)
}

func (r *reader) fail(at *token.Position, format string, args ...any) {
	r.errors = append(r.errors, Error{r.file, at.Line, at.Column, fmt.Sprintf(format, args...)})
}

func (r *reader) warn(at *token.Position, format string, args ...any) {
	r.warnings = append(r.warnings, Error{r.file, at.Line, at.Column, fmt.Sprintf(format, args...)})
}

// result returns what was found wrong, or nil.
func (r *reader) result() error {
	if len(r.errors) == 0 {
		r.warnings.Sort()
		return nil
	}
	r.errors.Sort()
	r.errors = slices.Compact(r.errors)
	return r.errors
}

// relative resolves a path that the file names against the file's directory.
func (r *reader) relative(path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(filepath.Dir(r.file), path)
}

// position returns where a node begins. A block mapping's own token is its
// first colon, so its first key stands for it.
func position(n ast.Node) *token.Position {
	if m, ok := n.(*ast.MappingNode); ok && len(m.Values) > 0 && !m.IsFlowStyle {
		return position(m.Values[0].Key)
	}
	if tk := n.GetToken(); tk != nil && tk.Position != nil {
		return tk.Position
	}
	return &token.Position{Line: 1, Column: 1}
}

// put gives v the node n, through anchors and aliases: none when n is null or,
// after an error, when it can't be used.
func (v *value) put(n ast.Node) {
	v.at = position(n)
	target, err := v.r.resolve(n)
	if err != nil {
		v.r.fail(v.at, "%v", err)
		v.broken = true
	}
	v.node = target
}

func (r *reader) resolve(n ast.Node) (ast.Node, error) {
	for range 8 {
		switch v := n.(type) {
		case nil, *ast.NullNode:
			return nil, nil
		case *ast.AnchorNode:
			n = v.Value
		case *ast.AliasNode:
			name := v.Value.GetToken().Value
			target, ok := r.anchors[name]
			if !ok {
				return nil, fmt.Errorf("alias *%s has no anchor &%s", name, name)
			}
			n = target
		case *ast.TagNode:
			return nil, fmt.Errorf("found the tag %s, tags are not used here", v.GetToken().Value)
		default:
			return n, nil
		}
	}
	return nil, errors.New("an alias leads to itself")
}

func (v value) given() bool { return v.node != nil }

func (v value) fail(format string, args ...any) {
	v.r.fail(v.at, "%s: %s", v.name, fmt.Sprintf(format, args...))
}

func (v value) warn(format string, args ...any) {
	v.r.warn(v.at, "%s: %s", v.name, fmt.Sprintf(format, args...))
}

// found describes the node for a message.
func (v value) found() string {
	switch n := v.node.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return "found a mapping"
	case *ast.SequenceNode:
		return "found a list"
	case nil:
		return "found nothing"
	default:
		if v.secret {
			return "found a text"
		}
		return fmt.Sprintf("found %q", scalarText(n))
	}
}

// scalarText is what the operator wrote, without quotes.
func scalarText(n ast.Node) string {
	if l, ok := n.(*ast.LiteralNode); ok {
		return l.Value.Value
	}
	return n.GetToken().Value
}

// text returns a scalar as it is written: 0010 is "0010", not 8.
func (v value) text(want string) (string, bool) {
	v.form.isText()
	switch v.node.(type) {
	case nil:
		return "", false
	case *ast.MappingNode, *ast.MappingValueNode, *ast.SequenceNode:
		v.fail("%s, expected %s", v.found(), want)
		return "", false
	}
	return scalarText(v.node), true
}

// list returns the items of a list; want describes one item.
func (v value) list(want string) []value {
	form := v.form.list()
	if !v.given() {
		return nil
	}
	seq, ok := v.node.(*ast.SequenceNode)
	if !ok {
		v.fail("%s, expected a list of %s", v.found(), want)
		return nil
	}
	if v.r.items += len(seq.Values); v.r.items > maxItems {
		v.fail("the file's lists have more than %d items", maxItems)
		return nil
	}
	items := make([]value, 0, len(seq.Values))
	for i, n := range seq.Values {
		item := value{r: v.r, name: fmt.Sprintf("%s[%d]", v.name, i), secret: v.secret, form: form}
		if item.put(n); item.node == nil {
			if !item.broken {
				item.fail("found an empty item, expected %s", want)
			}
			continue
		}
		items = append(items, item)
	}
	return items
}

// atLeastOne is list for a list that must not be empty.
func (v value) atLeastOne(want string) []value {
	v.form.isNotEmpty()
	if seq, ok := v.node.(*ast.SequenceNode); ok && len(seq.Values) == 0 {
		v.fail("found an empty list, expected %s", want)
	}
	return v.list(want)
}

// object returns the keys of a mapping; ok is false, after an error, when v is
// something else, and without one when v was not given. The caller ends
// reading it with object.end.
func (v value) object() (o *object, ok bool) {
	o = &object{r: v.r, name: v.name, at: v.at, fields: make(map[string]value), form: v.form}
	if !v.given() {
		return o, false
	}
	m, isMap := v.node.(ast.MapNode)
	if !isMap {
		o.fail(v.at, "%s, expected a mapping of keys to values", v.found())
		return o, false
	}
	o.at = position(v.node)
	for it := m.MapRange(); it.Next(); {
		key, name := it.Key(), it.Key().GetToken().Value
		if key.IsMergeKey() {
			v.r.fail(position(key), "merge keys are not used here, write the keys out")
			continue
		}
		full := name
		if v.name != "" {
			full = v.name + "." + name
		}
		if first, twice := o.fields[name]; twice {
			v.r.fail(position(key), "%s: key given twice, first at line %d", full, first.key.Line)
			continue
		}
		field := value{r: v.r, name: full, key: position(key)}
		if field.put(it.Value()); field.node == nil {
			field.at = field.key
		}
		o.fields[name] = field
		o.order = append(o.order, name)
	}
	return o, true
}

// fail blames the object as a whole, at one of its places.
func (o *object) fail(at *token.Position, format string, args ...any) {
	message := fmt.Sprintf(format, args...)
	if o.name != "" {
		message = o.name + ": " + message
	}
	o.r.fail(at, "%s", message)
}

// get returns the value of a key that may be left out.
func (o *object) get(key string) value {
	if !slices.Contains(o.known, key) {
		o.known = append(o.known, key)
	}
	v, ok := o.fields[key]
	if !ok {
		v = value{r: o.r, name: key, at: o.at, key: o.at}
	}
	v.form = o.form.key(key)
	return v
}

// need is get for a key that must be there; want says what it would hold.
func (o *object) need(key, want string) value {
	v := o.get(key)
	o.needed = append(o.needed, key)
	if !v.given() && !v.broken {
		o.missing = append(o.missing, missing{key, want})
	}
	return v
}

// end reports the keys that nobody asked for, and the needed ones that are not
// there. A key that is missing because it is misspelt is reported once.
func (o *object) end() {
	o.form.ended(o.known, o.needed)
	var meant []string
	for _, key := range o.order {
		if slices.Contains(o.known, key) {
			continue
		}
		at := o.fields[key].key
		var free []string
		for _, k := range o.known {
			if _, used := o.fields[k]; !used {
				free = append(free, k)
			}
		}
		if guess := nearest(key, free); guess != "" {
			meant = append(meant, guess)
			o.fail(at, "unknown key %q, did you mean %q?", key, guess)
			continue
		}
		o.fail(at, "unknown key %q, expected %s", key, oneOf(o.known))
	}
	for _, m := range o.missing {
		if slices.Contains(meant, m.key) {
			continue
		}
		if v, given := o.fields[m.key]; given {
			v.fail("found nothing, expected %s", m.want)
			continue
		}
		o.fail(o.at, "missing key %q, expected %s", m.key, m.want)
	}
}
