package main

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// Each argument of a command is completed, or is known to be a file.
func TestArgumentsAreCompleted(t *testing.T) {
	files := []string{"lispctl import", "lispctl decode", "lispctl config check", "lispctl config diff", "lispctl config apply", "lispctl config confirm", "lispctl mapping import", "lispctl token"}
	each(newRoot(), func(cmd *cobra.Command) {
		name, rest, _ := strings.Cut(strings.TrimPrefix(cmd.UseLine(), cmd.Parent().CommandPath()+" "), " ")
		hasArguments := strings.TrimSuffix(rest, "[flags]") != ""
		completed := cmd.ValidArgsFunction != nil || len(cmd.ValidArgs) > 0 || slices.Contains(files, cmd.CommandPath())
		if !cmd.HasSubCommands() && hasArguments && !completed {
			t.Errorf("%s: the arguments of %s %s are not completed", cmd.CommandPath(), name, rest)
		}
	})
}

func each(cmd *cobra.Command, do func(*cobra.Command)) {
	for _, c := range cmd.Commands() {
		if c.Name() != "help" { // of cobra's own making
			do(c)
			each(c, do)
		}
	}
}

var update = flag.Bool("update", false, "write deploy/man anew")

// The manual pages in deploy/man are those of the commands that there are;
// go test ./cmd/lispctl -run Man -update writes them.
func TestManPages(t *testing.T) {
	const dir = "../../deploy/man"
	want := make(map[string][]byte)
	page := func(cmd *cobra.Command) {
		cmd.DisableAutoGenTag = true
		name := strings.ReplaceAll(cmd.CommandPath(), " ", "-")
		var b bytes.Buffer
		// A date would make the same sources another page each day.
		long := time.Unix(0, 0).UTC()
		if err := doc.GenMan(cmd, &doc.GenManHeader{Title: strings.ToUpper(name), Section: "1", Source: "Eidolon", Manual: "Eidolon", Date: &long}, &b); err != nil {
			t.Fatal(err)
		}
		want[name+".1"] = bytes.ReplaceAll(b.Bytes(), []byte(`"Jan 1970"`), []byte(`""`))
	}
	root := newRoot()
	page(root)
	each(root, page)
	if *update {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for name, text := range want {
			if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		got, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want[f.Name()]) {
			t.Errorf("%s is out of date: go test ./cmd/lispctl -run Man -update", f.Name())
		}
		if bytes.Contains(got, []byte("1970")) {
			t.Errorf("%s has a date", f.Name())
		}
		delete(want, f.Name())
	}
	for name := range want {
		t.Errorf("%s is missing: go test ./cmd/lispctl -run Man -update", name)
	}
}
