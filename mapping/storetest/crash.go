package storetest

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"testing"

	"github.com/eidolon-lisp/eidolon/mapping"
)

// crashEnv tells the test binary that it is the child of the crash test, and
// which directory its store is in.
const crashEnv = "EIDOLON_STORETEST_CRASH"

// Child must be called first in TestMain. In an ordinary run it returns at
// once. In the child process of the crash test it commits without end, writing
// the number of each acknowledged commit to standard output, until it is
// killed.
func Child(open Open) {
	dir := os.Getenv(crashEnv)
	if dir == "" {
		return
	}
	if err := crashChild(open, dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(1) // the parent kills it before
}

// crashWidth is the number of items that each commit of the child replaces.
const crashWidth = 200

func crashChild(open Open, dir string) error {
	s, err := open(dir)
	if err != nil {
		return err
	}
	first := 0
	for it, err := range s.Items(context.Background()) {
		if err != nil {
			return err
		}
		first = max(first, version(it))
	}
	for v := first + 1; ; v++ {
		cs := make([]mapping.Change, 0, crashWidth+1)
		for i := range crashWidth {
			cs = append(cs, mapping.Change{Item: numbered(i, v)})
		}
		// One more item for each commit, so that the store grows.
		cs = append(cs, mapping.Change{Item: numbered(crashWidth+v, v)})
		if err := s.Commit(context.Background(), cs); err != nil {
			return err
		}
		if _, err := fmt.Println(v); err != nil {
			return err
		}
	}
}

// testCrash kills a child in the middle of its commits, several times over,
// and finds every acknowledged commit, each whole.
func testCrash(t *testing.T, open Open) {
	dir := t.TempDir()
	acked := 0
	for round := range 4 {
		acked = killedAfter(t, dir, acked, 15+10*round)
		s := mustOpen(t, open, dir)
		all := items(t, s)
		if len(all) < crashWidth {
			t.Fatalf("round %d: %d items left", round, len(all))
		}
		v := version(all[0])
		if v < acked {
			t.Fatalf("round %d: commit %d was acknowledged, the store is at %d", round, acked, v)
		}
		for i, it := range all {
			wanted := v
			if i >= crashWidth {
				wanted = i - crashWidth + 1
			}
			if version(it) != wanted {
				t.Fatalf("round %d: item %d is of commit %d, want %d: half a commit", round, i, version(it), wanted)
			}
		}
		if len(all) != crashWidth+v {
			t.Fatalf("round %d: %d items after commit %d, want %d", round, len(all), v, crashWidth+v)
		}
		acked = v
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// killedAfter runs the child until it acknowledged n commits more, kills it
// and returns the last commit that it acknowledged.
func killedAfter(t *testing.T, dir string, acked, n int) int {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), crashEnv+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	first := true
	for lines := bufio.NewScanner(out); lines.Scan(); {
		v, err := strconv.Atoi(lines.Text())
		if err != nil {
			t.Fatalf("the child said %q; does TestMain call storetest.Child?", lines.Text())
		}
		if first && v < acked+1 {
			t.Fatalf("the child began at commit %d, after %d were acknowledged", v, acked)
		}
		first = false
		acked = v
		// Kill while the next commits are under way; what is still in the
		// pipe was acknowledged too, so read on to its end.
		if n--; n == 0 {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n > 0 {
		t.Fatalf("the child ended by itself, %d commits early", n)
	}
	return acked
}
