package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// leaves calls do for each command that does something.
func leaves(do func(cmd *cobra.Command)) {
	each(newRoot(), func(cmd *cobra.Command) {
		if !cmd.HasSubCommands() {
			do(cmd)
		}
	})
}

// Each command prints in the same formats, but for completion, which prints a script
// for a shell.
func TestCommandsHaveFormats(t *testing.T) {
	leaves(func(cmd *cobra.Command) {
		if cmd.CommandPath() == "lispctl completion" {
			return
		}
		f := cmd.Flags().Lookup("output")
		switch {
		case f == nil:
			t.Errorf("%s has no --output", cmd.CommandPath())
			return
		case f.Shorthand != "o" || f.Value.Type() != "table|wide|json|jsonl|yaml":
			t.Errorf("%s has -%s %s", cmd.CommandPath(), f.Shorthand, f.Value.Type())
		}
		for _, name := range append([]string{formatText}, formats...) {
			if err := f.Value.Set(name); err != nil {
				t.Errorf("%s -o %s: %v", cmd.CommandPath(), name, err)
			}
		}
		if err := f.Value.Set("xml"); err == nil {
			t.Errorf("%s takes -o xml", cmd.CommandPath())
		}
	})
}

// Each command is run by a script.
func TestCommandsAreInScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/script/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d scripts, %v", len(files), err)
	}
	var lines strings.Builder
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		commands, _, _ := strings.Cut(string(b), "\n-- ") // files follow
		lines.WriteString("\n" + commands)
	}
	leaves(func(cmd *cobra.Command) {
		runs := regexp.MustCompile(`(?m)^[^#\n]*` + regexp.QuoteMeta(cmd.CommandPath()) + `( |$)`)
		if !runs.MatchString(lines.String()) {
			t.Errorf("no script runs %s", cmd.CommandPath())
		}
	})
}
