// Package configtest changes the examples of configurations, one key at a time,
// so that a daemon's test can see what its reload makes of each and compare that
// with docs/configuration.md.
package configtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"github.com/eidolon-lisp/eidolon/internal/config"
)

// A Change is a good configuration in which one key was changed.
type Change struct {
	// Path is the key, such as map_servers[].merge, Key the first of its names.
	Path, Key string
	// Before and After are the files.
	Before, After string
	// AtOnce is what the page says: that the change takes effect on SIGHUP.
	AtOnce bool
}

// tree is a mapping of a file.
type tree = map[string]any

// alternatives are keys of which a mapping has one.
var alternatives = map[string]string{
	"key": "key_file", "key_file": "key", "address": "interface", "interface": "address", "locators": "action", "action": "locators",
	"authentication_key": "authentication_keys", "authentication_keys": "authentication_key", "ca_file": "insecure",
}

// texts are values for keys that hold some text; most are good for few of them.
var texts = []any{
	"other", "other.key", "ca.pem", "eth9", "192.0.2.77", "203.0.113.77", "198.51.100.77", "fe80::77", "2001:db8:77::1", "127.0.0.1:9999",
	"10.77.0.0/16", "10.1.77.0/24", "10.4.0.0/16", "2001:db8:77::/48", "2001:db8:e0:77::/64", "172.16.0.3/29", "172.16.0.3", "10.0.0.0/7", "64500:77",
	"00112233445566778899aabbccddee77", "another text of more than sixteen octets", "50s", "20s", "7ms",
}

// OfUsers are the keys that need certificates and tokens to be good. The test of a
// map-server's access changes what of them takes effect at once.
var OfUsers = []string{
	"api.tcp.listen", "api.tcp.rest_listen", "api.tcp.certificate_file", "api.tcp.key_file", "api.tcp.client_ca_file", "api.tcp.max_connections",
	"api.users[].name", "api.users[].roles", "api.users[].certificates", "api.users[].eid_prefixes", "api.users[].instances",
	"api.users[].token_file", "api.users[].token_hashes",
}

// Changes returns a change of each key of the page that holds a value, by trying
// values in the bases until one makes a good file. A base is an example, in the
// repository's deploy/examples, after edit. Keys that can't be changed alone are
// left out: except names them.
func Changes(t *testing.T, root string, kind config.Kind, except []string, bases ...Base) []Change {
	t.Helper()
	schema := readSchema(t, filepath.Join(root, "deploy", string(kind)+".schema.json"))
	says := readPage(t, filepath.Join(root, "docs/configuration.md"), kind)
	dir := t.TempDir()
	for _, name := range []string{"site-a.key", "bgp.key", "other.key"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("the key in "+name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	authority(t, filepath.Join(dir, "ca.pem"))
	var before []string
	var trees []tree
	for i, b := range bases {
		data, err := os.ReadFile(filepath.Join(root, "deploy/examples", b.Example))
		if err != nil {
			t.Fatal(err)
		}
		var m tree
		if err := yaml.Unmarshal(data, &m); err != nil {
			t.Fatal(err)
		}
		if b.Edit != nil {
			b.Edit(m)
		}
		path := filepath.Join(dir, fmt.Sprintf("base%d.yml", i))
		write(t, path, m)
		if _, err := config.Check(path, kind); err != nil {
			t.Fatalf("base %d is not good: %v", i, err)
		}
		before, trees = append(before, path), append(trees, m)
	}
	var out []Change
	for _, path := range slices.Sorted(maps.Keys(says)) {
		leaf := schema[path]
		if leaf == nil || slices.Contains(except, path) {
			continue // a mapping, or a list of them
		}
		c := Change{Path: path, Key: path[:strings.IndexAny(path+".", ".[")], AtOnce: says[path] == "at once"}
		for i := range trees {
			if after, ok := change(t, dir, kind, trees[i], path, leaf); ok {
				c.Before, c.After = before[i], after
				break
			}
		}
		if c.After == "" {
			t.Errorf("no value was found for %s", path)
			continue
		}
		out = append(out, c)
	}
	return out
}

// Compared checks that a comparison of the two files of a change finds it, and
// nothing that takes effect at another time.
func Compared(t *testing.T, c Change, k config.Kind) {
	t.Helper()
	read := func(path string) *config.Text {
		if k == config.KindMapServer {
			if m, err := config.LoadMapServer(path); err == nil {
				return m.Text
			}
		} else if x, err := config.LoadXTR(path); err == nil {
			return x.Text
		}
		t.Fatalf("%s is not good", path)
		return nil
	}
	diffs, err := config.Compare(read(c.Before), read(c.After))
	if err != nil || len(diffs) == 0 {
		t.Errorf("%s: differences %v, %v", c.Path, diffs, err)
	}
	for _, d := range diffs {
		if d.After == config.Referred && !c.AtOnce {
			continue
		}
		if d.Restart == c.AtOnce || !strings.HasPrefix(d.Key, c.Key) {
			t.Errorf("%s: the page says at once: %v; the difference is %+v", c.Path, c.AtOnce, d)
		}
	}
}

// authority writes the certificate of an authority.
func authority(t *testing.T, path string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err == nil {
		err = os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// A Base is an example after an edit of its keys; a nil Edit leaves them.
type Base struct {
	Example string
	Edit    func(map[string]any)
}

func write(t *testing.T, path string, m tree) {
	t.Helper()
	data, err := json.Marshal(m) // which is YAML
	if err == nil {
		err = os.WriteFile(path, data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// change writes a good file in which the value at path differs from the one in m.
func change(t *testing.T, dir string, kind config.Kind, m tree, path string, leaf *leaf) (file string, ok bool) {
	t.Helper()
	old, there := get(m, path)
	file = filepath.Join(dir, path+".yml")
	for _, v := range leaf.values() {
		if there && reflect.DeepEqual(fmt.Sprint(old), fmt.Sprint(v)) || !there && fmt.Sprint(v) == fmt.Sprint(leaf.otherwise) {
			continue
		}
		next := clone(m).(tree)
		if !set(next, path, v) {
			return "", false
		}
		write(t, file, next)
		if _, err := config.Check(file, kind); err == nil {
			return file, true
		}
	}
	return "", false
}

func clone(v any) any {
	switch v := v.(type) {
	case tree:
		m := make(tree)
		for k, x := range v {
			m[k] = clone(x)
		}
		return m
	case []any:
		l := make([]any, len(v))
		for i, x := range v {
			l[i] = clone(x)
		}
		return l
	}
	return v
}

// walk calls f with each mapping that can have the last key of a path, and that
// key, until f returns true.
func walk(v any, path string, f func(m tree, key string, list bool) bool) bool {
	m, ok := v.(tree)
	if !ok {
		return false
	}
	name, rest, inside := strings.Cut(path, ".")
	name, list := strings.CutSuffix(name, "[]")
	if !inside {
		return f(m, name, list)
	}
	if !list {
		return walk(m[name], rest, f)
	}
	items, _ := m[name].([]any)
	for _, x := range items {
		if walk(x, rest, f) {
			return true
		}
	}
	return false
}

func get(m tree, path string) (v any, ok bool) {
	walk(m, path, func(m tree, key string, _ bool) bool {
		v, ok = m[key]
		if l, isList := v.([]any); isList && len(l) > 0 {
			v = l[0]
		}
		return ok
	})
	return v, ok
}

// set changes the first mapping that has the key or, if none has it, the first
// that could. Of a list it changes the first item.
func set(m tree, path string, v any) (ok bool) {
	for _, there := range []bool{true, false} {
		if walk(m, path, func(m tree, key string, _ bool) bool {
			old, has := m[key]
			if has != there {
				return false
			}
			delete(m, alternatives[key])
			switch l := old.(type) {
			case []any:
				m[key] = append([]any{v}, l[1:]...)
			default:
				m[key] = v
			}
			return true
		}) {
			return true
		}
	}
	return false
}

// A leaf is what the schema says of a key that holds a value or a list of them.
type leaf struct {
	kinds     []string
	enum      []any
	low, high json.Number
	pattern   *regexp.Regexp
	otherwise any
	list      bool
}

// values are some that the schema allows.
func (l *leaf) values() (out []any) {
	add := func(list ...any) {
		for _, v := range list {
			if l.list {
				out = append(out, v, []any{v})
			} else {
				out = append(out, v)
			}
		}
	}
	switch {
	case l.enum != nil:
		add(l.enum...)
	case slices.Contains(l.kinds, "boolean"):
		add(true, false)
	case slices.Contains(l.kinds, "integer") && l.low != "":
		for _, n := range []json.Number{"7", "9", "22", "25", "150", "2000", l.high, l.low} {
			add(n)
		}
	default:
		for _, v := range texts {
			if l.pattern == nil || l.pattern.MatchString(v.(string)) {
				add(v)
			}
		}
	}
	return out
}

// readSchema returns the keys of a schema that hold values.
func readSchema(t *testing.T, path string) map[string]*leaf {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	d := json.NewDecoder(strings.NewReader(string(data)))
	d.UseNumber()
	var s tree
	if err := d.Decode(&s); err != nil {
		t.Fatal(err)
	}
	out := make(map[string]*leaf)
	var read func(s tree, path string, list bool)
	read = func(s tree, path string, list bool) {
		ways, ok := s["anyOf"].([]any)
		if !ok {
			ways = []any{s}
		}
		for _, w := range ways {
			m := w.(tree)
			switch {
			case m["properties"] != nil:
				for k, x := range m["properties"].(tree) {
					read(x.(tree), strings.TrimPrefix(path+"."+k, "."), false)
				}
			case m["items"] != nil:
				items := m["items"].(tree)
				if items["properties"] == nil && items["anyOf"] == nil {
					read(items, path, true)
				} else {
					read(items, path+"[]", true)
				}
			default:
				l := &leaf{otherwise: m["default"], list: list}
				l.enum, _ = m["enum"].([]any)
				l.low, _ = m["minimum"].(json.Number)
				l.high, _ = m["maximum"].(json.Number)
				switch k := m["type"].(type) {
				case string:
					l.kinds = []string{k}
				case []any:
					l.kinds = []string{k[0].(string)}
				}
				if p, ok := m["pattern"].(string); ok {
					l.pattern = regexp.MustCompile(p)
				}
				out[strings.TrimSuffix(path, "[]")] = l
			}
		}
	}
	read(s, "", false)
	return out
}

var row = regexp.MustCompile("(?m)^\\| `([^`]+)` \\|.*\\| (at once|restart) \\|$")

// readPage returns what the page says of the changes of each key.
func readPage(t *testing.T, path string, kind config.Kind) map[string]string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(data), fmt.Sprintf("<!-- keys of %s -->", kind))
	table, _, _ = strings.Cut(table, "<!-- end of keys")
	out := make(map[string]string)
	for _, m := range row.FindAllStringSubmatch(table, -1) {
		out[m[1]] = m[2]
	}
	if len(out) < 50 {
		t.Fatalf("%s says only of %d keys of %s what a change does", path, len(out), kind)
	}
	return out
}
