package config

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const comparedFile = `
xtr_id: 000102030405060708090a0b0c0d0e0f
locator_sets:
  - {name: a, locators: [{address: 192.0.2.1, priority: 1, weight: 50}, {address: 198.51.100.1}]}
database_mappings:
  - {eid: 10.1.0.0/16, locator_set: a}
  - {eid: "[7]10.7.0.0/16", locator_set: a, record_ttl: 5}
map_servers:
  - address: 203.0.113.10
    authentication_key: {key_id: 1, key: the first secret of this file}
  - address: 203.0.113.11
    authentication_keys: [{key_id: 2, key_file: two.key}, {key_id: 3, key: the third secret of it}]
map_resolvers: [203.0.113.10, 203.0.113.11]
log: {level: info}
`

// What differs is named by key, with what takes effect when, and never shows a
// secret.
func TestCompare(t *testing.T) {
	path := filepath.Join(t.TempDir(), "xtr.yml")
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(filepath.Dir(path), name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	load := func(edits ...string) *Text {
		t.Helper()
		for i := 0; i < len(edits); i += 2 {
			if !strings.Contains(comparedFile, edits[i]) {
				t.Fatalf("%q is not in the file", edits[i])
			}
		}
		write("xtr.yml", strings.NewReplacer(edits...).Replace(comparedFile))
		c, err := LoadXTR(path)
		if err != nil {
			t.Fatal(err)
		}
		return c.Text
	}
	write("two.key", "the second secret of it")
	before := load()
	for _, c := range []struct {
		name  string
		edits []string
		want  []string
	}{
		{"same", nil, nil},
		{"written otherwise", []string{"level: info}", `level: "info"} # as ever`, "{eid: 10.1.0.0/16, locator_set: a}", "{locator_set: a, eid: 10.1.0.0/16}"}, nil},
		{"values", []string{"level: info", "level: debug", "weight: 50", "weight: 60"}, []string{
			"locator_sets[a].locators[192.0.2.1].weight: 50 > 60", "log.level: info > debug"}},
		{"keys", []string{", weight: 50", "", "locator_set: a}", "locator_set: a, record_ttl: 6}"}, []string{
			"locator_sets[a].locators[192.0.2.1].weight: 50 > ", "database_mappings[10.1.0.0/16].record_ttl:  > 6"}},
		{"restart", []string{"0e0f", "0e10", "  - address: 203.0.113.11", "  - address: 203.0.113.11\n    merge: true"}, []string{
			"xtr_id: 000102030405060708090a0b0c0d0e0f > 000102030405060708090a0b0c0d0e10 (restart)", "map_servers[203.0.113.11].merge:  > true"}},
		{"items", []string{`  - {eid: "[7]10.7.0.0/16", locator_set: a, record_ttl: 5}`, "  - {eid: 10.2.0.0/16, locator_set: a}", "203.0.113.10\n", "203.0.113.12\n"}, []string{
			"database_mappings[10.2.0.0/16]:  > {eid: 10.2.0.0/16, locator_set: a}",
			"database_mappings[[7]10.7.0.0/16]: {eid: [7]10.7.0.0/16, locator_set: a, record_ttl: 5} > ",
			"map_servers[203.0.113.12]:  > {address: 203.0.113.12, authentication_key: {key_id: 1, key: (secret)}}",
			"map_servers[203.0.113.10]: {address: 203.0.113.10, authentication_key: {key_id: 1, key: (secret)}} > ",
			"instances:  > (by what it refers to) (restart)"}}, // one fewer
		{"list of texts", []string{"[203.0.113.10, 203.0.113.11]", "[203.0.113.10]"}, []string{"map_resolvers: [203.0.113.10, 203.0.113.11] > [203.0.113.10]"}},
		{"secret", []string{"the first secret", "another secret"}, []string{"map_servers[203.0.113.10].authentication_key.key: (secret) > (another secret)"}},
		{"order", []string{"{key_id: 2, key_file: two.key}, {key_id: 3, key: the third secret of it}", "{key_id: 3, key: the third secret of it}, {key_id: 2, key_file: two.key}"}, []string{
			"map_servers[203.0.113.11].authentication_keys: in the order 2, 3 > in the order 3, 2"}},
		{"text and mapping", []string{"[203.0.113.10, 203.0.113.11]", "[203.0.113.10, {address: 203.0.113.11}]"}, []string{
			"map_resolvers[203.0.113.11]: 203.0.113.11 > {address: 203.0.113.11}"}},
		{"file instead of key", []string{"key: the third secret of it", "key_file: two.key"}, []string{
			"map_servers[203.0.113.11].authentication_keys[3].key_file:  > two.key", "map_servers[203.0.113.11].authentication_keys[3].key: (secret) > "}},
	} {
		t.Run(c.name, func(t *testing.T) { wantDifferences(t, before, load(c.edits...), c.want...) })
	}
	write("two.key", "the fourth secret of it")
	wantDifferences(t, before, load(), "map_servers[203.0.113.11].authentication_keys[2].key_file: two.key > two.key (with other contents)")
}

func wantDifferences(t *testing.T, before, after *Text, want ...string) {
	t.Helper()
	diffs, err := Compare(before, after)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, d := range diffs {
		line := fmt.Sprintf("%s: %s > %s", d.Key, d.Before, d.After)
		if d.Restart {
			line += " (restart)"
		}
		if strings.Contains(line, "secret of") {
			t.Errorf("it shows a secret: %s", line)
		}
		got = append(got, line)
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// On a host EIDs come and go with a restart; what is without a name is numbered;
// a long value is cut.
func TestCompareOthers(t *testing.T) {
	before, err := LoadXTR("../../deploy/examples/host.yml")
	if err != nil {
		t.Fatal(err)
	}
	const line = "  - {eid: \"2001:db8:e9::5/128\", locator_set: access}\n"
	text := string(before.Text.data)
	if !strings.Contains(text, line) {
		t.Fatalf("the example has no line %s", line)
	}
	after, err := ParseXTR("../../deploy/examples/host.yml", []byte(strings.Replace(text, line, "", 1)))
	if err != nil {
		t.Fatal(err)
	}
	diffs, err := Compare(before.Text, after.Text)
	if err != nil || len(diffs) != 1 || !diffs[0].Restart || !strings.HasPrefix(diffs[0].Key, "database_mappings[2001:db8:e9::5/128]") {
		t.Errorf("an EID of a host: %+v, %v", diffs, err)
	}

	server := func(listen string, policies ...string) *Text {
		t.Helper()
		c, err := ParseMapServer("x.yml", []byte("listen: ["+listen+"]\nstatic_mappings: [{eid: 10.0.0.0/8, locators: [{address: 192.0.2.1}]}]\nlog: {levels: {"+strings.Join(policies, ", ")+"}}\n"))
		if err != nil {
			t.Fatal(err)
		}
		return c.Text
	}
	var many []string
	for i := range 40 {
		many = append(many, fmt.Sprintf("192.0.2.%d", i+1))
	}
	diffs, err = Compare(server("192.0.2.1"), server(strings.Join(many, ", "), "api: debug"))
	if err != nil || len(diffs) != 2 {
		t.Fatalf("%+v, %v", diffs, err)
	}
	if d := diffs[0]; d.Key != "listen" || !d.Restart || len(d.After) > maxShown+3 || !strings.HasSuffix(d.After, "...") {
		t.Errorf("a long list: %+v", d)
	}
	if d := diffs[1]; d.Key != "log.levels.api" && d.Key != "log.levels" || d.Restart || !strings.Contains(d.After, "debug") {
		t.Errorf("a level: %+v", d)
	}
}
