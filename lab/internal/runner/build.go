package runner

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/eidolon-lisp/eidolon/lab/internal/clab"
)

const modulePath = "github.com/eidolon-lisp/eidolon"

// ModuleRoot finds the source tree of this module: around the working
// directory, or where this program was compiled from.
func ModuleRoot(ctx context.Context) (string, error) {
	_, here, _, _ := runtime.Caller(0)
	for _, dir := range []string{".", filepath.Dir(here)} {
		cmd := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Path}}\t{{.Dir}}")
		cmd.Dir = dir
		out, err := cmd.Output()
		if errors.Is(err, exec.ErrNotFound) {
			return "", fmt.Errorf("the go command is needed to build the programs of the lab: %w", err)
		}
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(out)) {
			if path, root, ok := strings.Cut(strings.TrimSpace(line), "\t"); ok && path == modulePath {
				return root, nil
			}
		}
	}
	return "", fmt.Errorf("the source tree of %s is neither around the working directory nor at %s", modulePath, filepath.Dir(here))
}

// programs are those of the module that nodes may run.
var programs = []string{"xtr", "mapserver", "lispctl"}

// Build compiles the module's programs if the topology runs one of them, and
// returns the directory they are in; otherwise it does nothing and returns "".
// say hears of the progress.
func Build(ctx context.Context, top *clab.Topology, say func(string, ...any)) (dir string, err error) {
	if !slices.ContainsFunc(programs, top.Runs) {
		return "", nil
	}
	root, err := ModuleRoot(ctx)
	if err != nil {
		return "", err
	}
	out, err := programCache()
	if err != nil {
		return "", err
	}
	unlock, err := lockRoot(out) // two builds at once would write the same files
	if err != nil {
		return "", err
	}
	defer unlock()
	say("go build ./cmd/...   in %s", root)
	cmd := exec.CommandContext(ctx, "go", "build", "-v", "-o", out+"/", "./cmd/...")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0") // what nodes run depends on nothing else
	pipe, err := cmd.StderrPipe()
	if err != nil {
		return "", err
	}
	if err := cmd.Start(); err != nil {
		return "", fmt.Errorf("build the programs of the lab: %w", err)
	}
	var messages bytes.Buffer
	compiled := 0
	last := time.Now()
	lines := bufio.NewScanner(pipe)
	for lines.Scan() {
		line := lines.Text()
		if isPackagePath(line) {
			compiled++
			if time.Since(last) > 2*time.Second {
				last = time.Now()
				say("compiled %d packages, the last %s", compiled, line)
			}
			continue
		}
		messages.WriteString(line + "\n")
	}
	if err := cmd.Wait(); err != nil {
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		return "", fmt.Errorf("build the programs of the lab: %w\n%s", err, messages.String())
	}
	for _, name := range programs {
		if _, err := os.Stat(filepath.Join(out, name)); err != nil {
			return "", fmt.Errorf("go build made no program %s: %w", name, err)
		}
	}
	say("built %s (%d packages compiled, the rest was up to date)", strings.Join(programs, ", "), compiled)
	return out, nil
}

// programCache is where programs stay between runs, so that what has not
// changed is not linked again.
func programCache() (string, error) {
	base, err := os.UserCacheDir()
	if err == nil {
		dir := filepath.Join(base, "eidolon-lab", "bin")
		if os.MkdirAll(dir, 0o700) == nil {
			return dir, nil
		}
	}
	root, err := StateRoot() // a user without a home
	if err != nil {
		return "", err
	}
	dir := filepath.Join(root, ".bin")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("create a directory for the programs of the lab: %w", err)
	}
	return dir, nil
}

// isPackagePath tells the package names that `go build -v` prints from the
// compiler's messages.
func isPackagePath(line string) bool {
	return line != "" && !strings.ContainsAny(line, " \t:#")
}
