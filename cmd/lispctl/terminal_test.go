package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// terminal runs a command whose output is a terminal, and puts what is shown there
// into the file screen: terminal lispctl show locator. With a number it is
// interrupted when the screen has been cleared so often: terminal 3 lispctl show
// locator --watch 1.
func terminal(ts *testscript.TestScript, neg bool, args []string) {
	pty, tty, err := openTerminal()
	ts.Check(err)
	shown(ts, neg, args, pty, tty, clearScreen)
}

// piped is terminal with a pipe, and what is counted is the documents of YAML that
// another one has followed.
func piped(ts *testscript.TestScript, neg bool, args []string) {
	r, w, err := os.Pipe()
	ts.Check(err)
	shown(ts, neg, args, r, w, "---\n")
}

func shown(ts *testscript.TestScript, neg bool, args []string, pty, tty *os.File, mark string) {
	defer pty.Close()
	rounds, err := strconv.Atoi(args[0])
	if err == nil {
		args = args[1:]
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr, cmd.Dir = tty, tty, ts.MkAbs(".")
	cmd.Env = append(os.Environ(), "TERM=xterm", "NO_COLOR="+ts.Getenv("NO_COLOR"))
	ts.Check(cmd.Start())
	tty.Close()
	guard := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() })
	defer guard.Stop()
	var screen bytes.Buffer
	buf := make([]byte, 4096)
	for {
		n, err := pty.Read(buf)
		screen.Write(buf[:n])
		if rounds > 0 && bytes.Count(screen.Bytes(), []byte(mark)) >= rounds {
			ts.Check(cmd.Process.Signal(syscall.SIGINT))
			rounds = 0
		}
		if err != nil {
			break // nobody has the other end open
		}
	}
	if err := cmd.Wait(); (err != nil) != neg {
		ts.Fatalf("%v: %s", err, screen.Bytes())
	}
	ts.Check(os.WriteFile(ts.MkAbs("screen"), screen.Bytes(), 0o600))
}

// openTerminal makes a pseudo-terminal and returns both ends.
func openTerminal() (pty, tty *os.File, err error) {
	pty, err = os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, err
	}
	n, err := unix.IoctlGetInt(int(pty.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(pty.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	}
	if err != nil {
		pty.Close()
	}
	return pty, tty, err
}

// revision puts the first revision that a watch tells into a variable: revision NAME
// lispctl mapping watch.
func revision(ts *testscript.TestScript, neg bool, args []string) {
	r, w, err := os.Pipe()
	ts.Check(err)
	shown(ts, neg, append([]string{"1"}, args[1:]...), r, w, "revision ")
	_, after, _ := strings.Cut(ts.ReadFile("screen"), "revision ")
	n, _, whole := strings.Cut(after, "\n")
	if !whole {
		ts.Fatalf("no revision: %s", ts.ReadFile("screen"))
	}
	ts.Setenv(args[0], n)
}
