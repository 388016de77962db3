// Package manpages makes the manual pages in deploy/man of a program's commands,
// for a test of the program that keeps them as the commands are.
package manpages

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// Of returns a page in a section of the manual for root and one for each of its
// subcommands, by the name of the file.
func Of(root *cobra.Command, section string) (map[string][]byte, error) {
	pages := make(map[string][]byte)
	return pages, add(pages, root, section)
}

func add(pages map[string][]byte, cmd *cobra.Command, section string) error {
	cmd.DisableAutoGenTag = true
	name := strings.ReplaceAll(cmd.CommandPath(), " ", "-")
	var b bytes.Buffer
	// A date would make the same sources another page each day.
	long := time.Unix(0, 0).UTC()
	if err := doc.GenMan(cmd, &doc.GenManHeader{Title: strings.ToUpper(name), Section: section, Source: "Eidolon", Manual: "Eidolon", Date: &long}, &b); err != nil {
		return err
	}
	pages[name+"."+section] = bytes.ReplaceAll(b.Bytes(), []byte(`"Jan 1970"`), []byte(`""`))
	for _, c := range cmd.Commands() {
		if c.Name() == "help" { // of cobra's own making
			continue
		}
		if err := add(pages, c, section); err != nil {
			return err
		}
	}
	return nil
}

// Check compares the pages of root in dir with its commands, and with update
// writes them anew before. The error says how each page differs.
func Check(dir string, root *cobra.Command, section string, update bool) error {
	want, err := Of(root, section)
	if err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(dir, root.Name()+"*."+section))
	if err != nil {
		return err
	}
	if update {
		for _, f := range files {
			if err := os.Remove(f); err != nil {
				return err
			}
		}
		files = nil
		for name, text := range want {
			f := filepath.Join(dir, name)
			if err := os.WriteFile(f, text, 0o644); err != nil {
				return err
			}
			files = append(files, f)
		}
	}
	const hint = "go test ./cmd/%s -run Man -update"
	var errs []error
	for _, f := range files {
		got, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		name := filepath.Base(f)
		if !bytes.Equal(got, want[name]) {
			errs = append(errs, fmt.Errorf("%s is out of date: "+hint, name, root.Name()))
		}
		if bytes.Contains(got, []byte("1970")) {
			errs = append(errs, fmt.Errorf("%s has a date", name))
		}
		delete(want, name)
	}
	for name := range want {
		errs = append(errs, fmt.Errorf("%s is missing: "+hint, name, root.Name()))
	}
	return errors.Join(errs...)
}
