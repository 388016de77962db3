package container

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/eidolon-lisp/eidolon/lab/internal/clab"
	"github.com/eidolon-lisp/eidolon/lab/internal/runner"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The first process of a node tells how its command is, and stays when that is
// killed; told to end, it ends.
func TestInit(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.Command("../../init.sh", "sleep", "1000")
	cmd.Env = append(os.Environ(), "LAB_RUN="+dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	// status reads the files as Status does in a node.
	status := func() (st runner.Status) {
		var said string
		for _, f := range []string{pidFile, statusFile} {
			b, _ := os.ReadFile(filepath.Join(dir, filepath.Base(f)))
			said += string(b)
		}
		parseStatus(said, &st)
		return st
	}
	become := func(want func(runner.Status) bool) runner.Status {
		t.Helper()
		for limit := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			if st := status(); want(st) {
				return st
			}
			if time.Now().After(limit) {
				t.Fatalf("it became %+v", status())
			}
		}
	}
	st := become(func(st runner.Status) bool { return st.Running })
	if err := syscall.Kill(st.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if st = become(func(st runner.Status) bool { return st.PID != 0 && !st.Running }); st.Exit != 128+9 {
		t.Errorf("the command %s", st)
	}
	select {
	case err := <-ended:
		t.Fatalf("it ended with its command: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	cmd.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		cmd.Process.Kill()
		t.Error("it does not end when it is told to")
	}
}

func TestParseStatus(t *testing.T) {
	for _, c := range []struct {
		said string
		want runner.Status
		fail bool
	}{
		{"17\n", runner.Status{PID: 17, Running: true}, false},
		{"17\n137\n", runner.Status{PID: 17, Exit: 137}, false},
		{"", runner.Status{}, true},
		{"1 2 3", runner.Status{}, true},
		{"x", runner.Status{}, true},
		{"17 x", runner.Status{}, true},
	} {
		var st runner.Status
		if err := parseStatus(c.said, &st); (err != nil) != c.fail || err == nil && (st.PID != c.want.PID || st.Running != c.want.Running || st.Exit != c.want.Exit) {
			t.Errorf("%q: %+v, %v", c.said, st, err)
		}
	}
}

// Where there is no containerlab, it is said, and there is nothing to destroy.
func TestWithoutContainerlab(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := Deploy(context.Background(), &clab.Topology{Name: "x", File: "/x.clab.yml"})
	if err == nil || !strings.Contains(err.Error(), "containerlab") {
		t.Errorf("%v", err)
	}
}
