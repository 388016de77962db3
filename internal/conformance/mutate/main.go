// Mutate shows that conformance tests bite: it removes the code of ten rules,
// one at a time, and runs the tests named after the rule, which must pass with
// the code and fail without it. It changes no file of the tree: each changed
// file is compiled by way of the go command's overlay.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
)

// mutation removes the code of a rule: old, which must be in the file exactly
// once, becomes new.
type mutation struct {
	rule, pkg, file string
	old, new        string
}

func main() {
	only := flag.String("rule", "", "remove just the code of this rule")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *only); err != nil {
		fmt.Fprintln(os.Stderr, "mutate:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, only string) error {
	dir, err := os.MkdirTemp("", "mutate")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var errs []error
	bitten := 0
	for _, m := range mutations {
		if only != "" && m.rule != only {
			continue
		}
		if err := m.bites(ctx, dir); err != nil {
			fmt.Printf("%-5s FAIL %v\n", m.rule, err)
			errs = append(errs, fmt.Errorf("%s: %w", m.rule, err))
			continue
		}
		bitten++
		fmt.Printf("%-5s ok   its tests in %s fail without %q\n", m.rule, m.pkg, m.old)
	}
	if bitten == 0 && len(errs) == 0 {
		return fmt.Errorf("there is no rule %s here", only)
	}
	fmt.Printf("%d rules removed, %d not noticed\n", bitten, len(errs))
	return errors.Join(errs...)
}

// bites reports an error unless the rule's tests pass now and fail without its
// code.
func (m mutation) bites(ctx context.Context, dir string) error {
	path, err := filepath.Abs(filepath.FromSlash(m.pkg + "/" + m.file))
	if err != nil {
		return err
	}
	src, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if n := strings.Count(string(src), m.old); n != 1 {
		return fmt.Errorf("%s has the code to remove %d times, expected once: %q", path, n, m.old)
	}
	if out, err := m.test(ctx); err != nil {
		return fmt.Errorf("with its code: %w\n%s", err, out)
	} else if !strings.Contains(out, "--- PASS") {
		return fmt.Errorf("no test of it in %s", m.pkg)
	}
	mutant := filepath.Join(dir, m.rule+".go")
	if err := os.WriteFile(mutant, []byte(strings.Replace(string(src), m.old, m.new, 1)), 0o600); err != nil {
		return err
	}
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {path: mutant}})
	if err != nil {
		return err
	}
	file := filepath.Join(dir, m.rule+".json")
	if err := os.WriteFile(file, overlay, 0o600); err != nil {
		return err
	}
	out, err := m.test(ctx, "-overlay", file)
	switch {
	case err == nil:
		return errors.New("its tests pass without its code")
	case !strings.Contains(out, "--- FAIL"): // such as a build error
		return fmt.Errorf("without its code: %w\n%s", err, out)
	}
	return nil
}

// test runs the tests of the rule.
func (m mutation) test(ctx context.Context, args ...string) (string, error) {
	args = append([]string{"test", "-count=1", "-v", "-vet=off", "-timeout=5m", "-run", "^Test" + m.rule + "_"}, args...)
	out, err := exec.CommandContext(ctx, "go", append(args, "./"+m.pkg)...).CombinedOutput()
	return string(out), err
}
