package main

import (
	"flag"
	"testing"

	"github.com/eidolon-lisp/eidolon/internal/manpages"
)

var update = flag.Bool("update", false, "write the pages of mapserver in deploy/man anew")

// The manual pages in deploy/man are those of the commands that there are;
// go test ./cmd/mapserver -run Man -update writes them.
func TestManPages(t *testing.T) {
	if err := manpages.Check("../../deploy/man", itself.Command(), "8", *update); err != nil {
		t.Error(err)
	}
}
