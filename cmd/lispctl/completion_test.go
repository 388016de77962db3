package main

import (
	"flag"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/eidolon-lisp/eidolon/internal/manpages"
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

var update = flag.Bool("update", false, "write the pages of lispctl in deploy/man anew")

// The manual pages in deploy/man are those of the commands that there are;
// go test ./cmd/lispctl -run Man -update writes them.
func TestManPages(t *testing.T) {
	if err := manpages.Check("../../deploy/man", newRoot(), "1", *update); err != nil {
		t.Error(err)
	}
}
