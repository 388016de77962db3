package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

const (
	examples = "../../deploy/examples/"
	schemas  = "../../deploy/"
	page     = "../../docs/configuration.md"
)

// exampleFiles are the examples of each kind of file; the first is complete.
var exampleFiles = map[Kind][]string{
	KindXTR:       {"xtr.yml", "host.yml", "pitr.yml", "site-bgp.yml"},
	KindMapServer: {"mapserver.yml", "alt.yml"},
}

// asked are files in which other keys may be left out, or are left out, than in
// the examples; they need not be good.
var asked = map[Kind][]string{
	KindXTR:       {"{}", "proxy_etr: {}", "proxy_itr: {}", askedAPI, "api: {tcp: {}, users: [{}]}"},
	KindMapServer: {"{}", askedAPI, "api: {tcp: {}, users: [{}]}"},
}

// askedAPI has what names files that are on no examiner's disk.
const askedAPI = `api:
  audit_file: x
  tcp: {listen: [x], rest_listen: [x], certificate_file: x, key_file: x, client_ca_file: x, max_connections: 1}
  users: [{name: x, roles: [read], certificates: [x], eid_prefixes: [x], instances: [1], token_file: x, token_hashes: [x]}]
`

// formOf returns the form of a kind of file, by watching its reader.
func formOf(t *testing.T, k Kind) *form {
	t.Helper()
	f := new(form)
	read := func(path string, data []byte) error {
		r, root, err := parse(path, data)
		if err != nil {
			return err
		}
		root.form = f
		if k == KindXTR {
			_, err = readXTR(r, root)
		} else {
			_, err = readMapServer(r, root)
		}
		return err
	}
	for _, name := range exampleFiles[k] {
		data, err := os.ReadFile(examples + name)
		if err == nil {
			err = read(examples+name, data)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, text := range asked[k] {
		_ = read("asked", []byte(text))
	}
	f.settle()
	return f
}

// settle takes what a key is when left out from those that can't be.
func (f *form) settle() {
	for k, x := range f.keys {
		if x.settle(); !f.optional[k] {
			x.otherwise("")
		}
	}
	if f.items != nil {
		f.items.settle()
		f.items.otherwise("")
	}
}

// each calls visit for every key of a form, with those inside of mappings as a.b
// and those in the items of a list as a[].b, sorted.
func (f *form) each(path string, visit func(path string, f *form, needed bool)) {
	if f.items != nil {
		f.items.each(path+"[]", visit)
	}
	if path != "" {
		path += "."
	}
	for _, k := range slices.Sorted(maps.Keys(f.keys)) {
		visit(path+k, f.keys[k], !f.optional[k])
		f.keys[k].each(path+k, visit)
	}
}

// value says in a few words what a key may hold.
func (f *form) value() string {
	var ways []string
	if f.scalar != nil {
		ways = append(ways, f.scalar.words())
	}
	if f.keys != nil {
		ways = append(ways, "mapping")
	}
	if f.items != nil {
		items := f.items.value()
		if s := f.items.scalar; s != nil && s.kind == enum {
			items = "of " + items
		}
		ways = append(ways, "list: "+items)
	}
	return strings.Join(ways, "; or ")
}

func (s *scalar) words() (w string) {
	switch s.kind {
	case integer:
		w = fmt.Sprintf("%d to %d", s.low, s.high)
	case boolean:
		w = "true, false"
	case enum:
		w = strings.Join(slices.Sorted(slices.Values(s.names)), ", ")
	case duration:
		w = shortDuration(time.Duration(s.low)) + " to " + shortDuration(time.Duration(s.high))
	default:
		w = s.what
	}
	if s.otherwise != "" && !s.varies {
		w += "; `" + s.otherwise + "`"
	}
	return w
}

type jsonObject = map[string]any

// schema returns the JSON schema of a form. said are the words of each key.
func (f *form) schema(path string, said map[string]row) jsonObject {
	var ways []jsonObject
	if f.scalar != nil {
		ways = append(ways, f.scalar.schema())
	}
	if f.items != nil {
		list := jsonObject{"type": "array", "items": f.items.schema(path+"[]", said)}
		if f.nonEmpty {
			list["minItems"] = 1
		}
		ways = append(ways, list)
	}
	if f.keys != nil {
		properties, required := jsonObject{}, []string{}
		for k, x := range f.keys {
			at := strings.TrimPrefix(path+"."+k, ".")
			p := x.schema(at, said)
			p["description"] = said[at].meaning
			properties[k] = p
			if !f.optional[k] {
				required = append(required, k)
			}
		}
		m := jsonObject{"type": "object", "properties": properties, "additionalProperties": false}
		if slices.Sort(required); len(required) > 0 {
			m["required"] = required
		}
		ways = append(ways, m)
	}
	if len(ways) == 1 {
		return ways[0]
	}
	return jsonObject{"anyOf": ways}
}

func (s *scalar) schema() jsonObject {
	m := jsonObject{}
	switch s.kind {
	case integer:
		m = jsonObject{"type": "integer", "minimum": s.low, "maximum": s.high}
	case boolean:
		m["type"] = "boolean"
	case enum:
		m["enum"] = slices.Sorted(slices.Values(s.names))
	case duration:
		m = jsonObject{"type": "string", "pattern": `^([0-9]+(\.[0-9]*)?(ns|us|µs|ms|s|m|h))+$`}
		if s.low == 0 {
			m["type"], m["maximum"] = []string{"string", "integer"}, 0
		}
	default:
		m["type"] = "string"
		if s.numeric {
			m["type"] = []string{"string", "number"}
		}
		if s.pattern != "" {
			m["pattern"] = s.pattern
		}
	}
	if s.otherwise != "" && !s.varies {
		m["default"] = s.otherwise
		switch s.kind {
		case integer:
			m["default"] = json.Number(s.otherwise)
		case boolean:
			m["default"] = s.otherwise == "true"
		}
	}
	return m
}

// A row is what the page says of a key.
type row struct{ value, meaning, change string }

var tableRow = regexp.MustCompile("^\\| `([^`]+)` \\| (.*?) \\| (.*) \\| (.*) \\|$")

// readPage returns the page, and what its table for a kind of file says.
func readPage(t *testing.T, k Kind) (before string, rows map[string]row, after string) {
	t.Helper()
	data, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	begin, end := fmt.Sprintf("<!-- keys of %s -->\n", k), fmt.Sprintf("<!-- end of keys of %s -->\n", k)
	before, rest, ok := strings.Cut(string(data), begin)
	table, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no table between %q and %q", page, begin, end)
	}
	rows = make(map[string]row)
	for line := range strings.Lines(table) {
		m := tableRow.FindStringSubmatch(strings.TrimSpace(line))
		if m == nil {
			continue
		}
		if _, twice := rows[m[1]]; twice {
			t.Errorf("%s: %s has two rows", page, m[1])
		}
		rows[m[1]] = row{m[2], m[3], m[4]}
	}
	return before + begin, rows, end + after
}

// TestPageNamesAllKeys: the page says of every key that is read, and of no
// other, what it may hold, what that means and whether it reloads. With -update
// the rows are sorted and their values written.
func TestPageNamesAllKeys(t *testing.T) {
	for _, k := range []Kind{KindXTR, KindMapServer} {
		before, rows, after := readPage(t, k)
		table := "\n| key | value; if left out | meaning | change |\n|---|---|---|---|\n"
		known := make(map[string]bool)
		formOf(t, k).each("", func(path string, f *form, needed bool) {
			known[path] = true
			r, value := rows[path], f.value()
			if needed {
				value += "; needed"
			}
			if !*update && value != r.value {
				t.Errorf("%s of %s: the page says %q, read is %q; if that is right, run with -update", path, k, r.value, value)
			}
			if r.meaning == "" {
				t.Errorf("%s of %s has no meaning on the page", path, k)
			}
			if r.change != "at once" && r.change != "restart" {
				t.Errorf("%s of %s: a change takes effect %q, expected at once or restart", path, k, r.change)
			}
			table += fmt.Sprintf("| `%s` | %s | %s | %s |\n", path, value, r.meaning, r.change)
		})
		for path := range rows {
			if !known[path] {
				t.Errorf("%s of %s is on the page, and is not read", path, k)
			}
		}
		if *update {
			if err := os.WriteFile(page, []byte(before+table+"\n"+after), 0o666); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestSchemas: the committed schemas are those of the reader and of the page.
// With -update they are written.
func TestSchemas(t *testing.T) {
	for _, k := range []Kind{KindXTR, KindMapServer} {
		_, rows, _ := readPage(t, k)
		s := formOf(t, k).schema("", rows)
		s["$schema"] = "http://json-schema.org/draft-07/schema#" // what editors know
		s["title"] = fmt.Sprintf("Configuration of %s", k)
		var want bytes.Buffer
		e := json.NewEncoder(&want)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		if err := e.Encode(s); err != nil {
			t.Fatal(err)
		}
		path := schemas + string(k) + ".schema.json"
		if *update {
			if err := os.WriteFile(path, want.Bytes(), 0o666); err != nil {
				t.Fatal(err)
			}
		}
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want.Bytes()) {
			t.Errorf("%s is out of date: run go test ./internal/config -run 'Page|Schemas' -update", path)
		}
	}
}

// compiled returns a validator of files of a kind.
func compiled(t *testing.T, k Kind) func(path string) error {
	t.Helper()
	s, err := jsonschema.NewCompiler().Compile(schemas + string(k) + ".schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return func(path string) error {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var v any
		if err := yaml.Unmarshal(data, &v); err != nil {
			return err
		}
		return s.Validate(v)
	}
}

// TestExamplesFitSchema: an editor has nothing against the examples.
func TestExamplesFitSchema(t *testing.T) {
	for k, files := range exampleFiles {
		validate := compiled(t, k)
		for _, name := range files {
			if err := validate(examples + name); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// TestGoodFilesFitSchema: nor against the configurations of the lab's topologies.
func TestGoodFilesFitSchema(t *testing.T) {
	files, err := filepath.Glob("../../lab/*/*.yml")
	if err != nil {
		t.Fatal(err)
	}
	good := 0
	for _, name := range files {
		k, err := Detect(name)
		if err != nil {
			continue // the file of a topology
		}
		if _, err := Check(name, k); err != nil {
			t.Errorf("%v", err)
			continue
		}
		good++
		if err := compiled(t, k)(name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if good < 10 {
		t.Errorf("%d files were good", good)
	}
}

// unseen are the wrong files that a schema can't tell from good ones: what is
// wrong with them is a reference, a repetition, a file or what several keys say
// together.
var unseen = []string{
	"mapserver-lisp-sec-no-key", "xtr-ids", "xtr-inside", "xtr-no-map-server", "xtr-overlap",
	"xtr-reference-to-none", "xtr-references", "xtr-two-documents", "xtr-versions-off",
}

// TestBadFilesMissSchema: an editor sees what is wrong with a file, but for what
// no schema can say.
func TestBadFilesMissSchema(t *testing.T) {
	var good []string
	for _, k := range []Kind{KindXTR, KindMapServer} {
		validate := compiled(t, k)
		files, err := filepath.Glob("testdata/bad/" + string(k) + "-*.yml")
		if err != nil || len(files) < 10 {
			t.Fatal(len(files), err)
		}
		for _, name := range files {
			if validate(name) == nil {
				good = append(good, strings.TrimSuffix(filepath.Base(name), ".yml"))
			}
		}
	}
	slices.Sort(good)
	if !slices.Equal(good, unseen) {
		t.Errorf("the schemas accept\n%q\nexpected\n%q", good, unseen)
	}
}
