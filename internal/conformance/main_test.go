package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFind(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "mapping", "x_test.go")
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	src := "package x\n\nfunc TestI5_Once(t *T) {}\nfunc (s) TestI6_Method() {}\nfunc TestInside(t *T) {}\nfunc TestDP12_Split(t *T) {}\n"
	if err := os.WriteFile(file, []byte(src), 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := find(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || got["I5"][0] != (Test{"mapping", "TestI5_Once"}) || got["DP12"][0] != (Test{"mapping", "TestDP12_Split"}) {
		t.Fatalf("found %v", got)
	}
}

func TestWriteRefuses(t *testing.T) {
	rules := func(rs ...Rule) []Family { return []Family{{"T", rs}} }
	one := map[string][]Test{"I1": {{"p", "TestI1_X"}}}
	for _, x := range []struct {
		name  string
		rules []Family
		tests map[string][]Test
		want  string
	}{
		{"no test", rules(Rule{ID: "I1"}, Rule{ID: "I2", Text: "two"}), one, "rule I2 has no test"},
		{"unknown rule", rules(Rule{ID: "I2", Open: "why"}), one, "there is no rule I1"},
		{"open and tested", rules(Rule{ID: "I1", Open: "why"}), one, "marked open"},
		{"twice", rules(Rule{ID: "I1"}, Rule{ID: "I1"}), one, "twice"},
	} {
		var b bytes.Buffer
		if err := write(&b, x.rules, x.tests); err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s: error %v, want one with %q", x.name, err, x.want)
		}
	}
	var b bytes.Buffer
	if err := write(&b, rules(Rule{ID: "I1", Text: "a|b", RFC: "9301 §5"}), one); err != nil {
		t.Fatal(err)
	}
	if want := "| I1 | a\\|b | 9301 §5 | p: `TestI1_X` | tested |\n"; !strings.Contains(b.String(), want) {
		t.Errorf("page lacks %q:\n%s", want, b.String())
	}
}
