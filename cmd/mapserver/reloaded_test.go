package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	eidolonv1 "github.com/eidolon-lisp/eidolon/api/proto/eidolon/v1"
)

// The command reload succeeds when the daemon uses the file, and fails with the
// reason when a part of it does not, which check can't know. Where the file names a
// socket that the daemon has only after a restart, it gets a signal.
func TestReloadCommand(t *testing.T) {
	dir := t.TempDir()
	path, socket := filepath.Join(dir, "mapserver.yml"), filepath.Join(dir, "s")
	listen := freePort(t)
	write := func(socket, audit, level string) {
		t.Helper()
		text := fmt.Sprintf("listen: [%q]\nstate_dir: %s\napi: {socket: %s, audit_file: %s}\nlog: {level: %s}\n", listen, dir, socket, filepath.Join(dir, audit), level)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	command := func(args ...string) (string, error) {
		out, err := program(append(args, "--config", path)...).CombinedOutput()
		return string(out), err
	}
	write(socket, "audit", "warn")
	if out, err := command("reload"); err == nil || !strings.Contains(out, "no daemon listens on the socket "+socket) {
		t.Errorf("without a daemon: %v, %s", err, out)
	}
	daemon := program("run", "--config", path)
	daemon.Stderr = os.Stderr
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { daemon.Process.Kill(); daemon.Wait() })
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	level := func() string {
		t.Helper()
		resp, err := eidolonv1.NewAdminServiceClient(conn).GetLogLevel(t.Context(), &eidolonv1.GetLogLevelRequest{Subsystem: "server"}, grpc.WaitForReady(true))
		if err != nil {
			t.Fatal(err)
		}
		return resp.GetLevels()[0].GetLevel().String()
	}
	if got := level(); got != "LOG_LEVEL_WARN" {
		t.Errorf("at first: %s", got)
	}
	write(socket, "audit", "error")
	if out, err := command("reload"); err != nil || !strings.Contains(out, path+" is in use") || level() != "LOG_LEVEL_ERROR" {
		t.Errorf("a good file: %v, %s, the level is %s", err, out, level())
	}
	write(socket, "mapserver.yml/audit", "warn")
	if out, err := command("check"); err != nil {
		t.Errorf("check knows it, so this shows nothing: %v, %s", err, out)
	}
	if out, err := command("reload"); err == nil || !strings.Contains(out, "not a directory") || level() != "LOG_LEVEL_ERROR" {
		t.Errorf("a file that is refused: %v, %s, the level is %s", err, out, level())
	}
	write(socket, "audit", "wran")
	if out, err := command("reload", "--pid", strconv.Itoa(daemon.Process.Pid)); err == nil || !strings.Contains(out, path+":4:") {
		t.Errorf("a bad file: %v, %s", err, out)
	}
	write(socket+"2", "audit", "warn")
	if out, err := command("reload"); err == nil || level() != "LOG_LEVEL_ERROR" {
		t.Errorf("another socket: %v, %s, the level is %s", err, out, level())
	}
	if out, err := command("reload", "--pid", strconv.Itoa(daemon.Process.Pid)); err != nil || !strings.Contains(out, "SIGHUP is sent") {
		t.Errorf("another socket, and a process: %v, %s", err, out)
	}
	for deadline := time.Now().Add(10 * time.Second); level() != "LOG_LEVEL_WARN"; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("after a signal the level is %s", level())
		}
	}
	write(socket, "audit", "warn}\nreply_rate: {burst: 5")
	if out, err := command("reload"); err != nil || !strings.Contains(out, "with a restart only: reply_rate\n") {
		t.Errorf("a key that needs a restart: %v, %s", err, out)
	}
}
