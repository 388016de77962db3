package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	eidolonv1 "github.com/eidolon-lisp/eidolon/api/proto/eidolon/v1"
	"github.com/eidolon-lisp/eidolon/internal/netns"
)

// TestAdministered steers the program by its API: what is logged, and a reload
// that keeps what runs where the file is wrong.
func TestAdministered(t *testing.T) {
	dir := t.TempDir()
	path, socket := filepath.Join(dir, "mapserver.yml"), filepath.Join(dir, "s")
	listen := freePort(t)
	web := freePort(t)
	write := func(more string) {
		t.Helper()
		text := fmt.Sprintf("listen: [%q]\nstate_dir: %s\napi: {socket: %s}\nhttp: {listen: %q}\n%s", listen, dir, socket, web, more)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("")
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
	c := eidolonv1.NewAdminServiceClient(conn)
	level := func(subsystem string) string {
		t.Helper()
		resp, err := c.GetLogLevel(t.Context(), &eidolonv1.GetLogLevelRequest{Subsystem: subsystem})
		if err != nil || len(resp.GetLevels()) != 1 {
			t.Fatalf("level of %s: %v, %v", subsystem, resp, err)
		}
		return resp.GetLevels()[0].GetLevel().String()
	}
	for range 200 {
		if _, err := c.GetVersion(t.Context(), &eidolonv1.GetVersionRequest{}); err == nil {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if got := level("server"); got != "LOG_LEVEL_INFO" {
		t.Errorf("at first: %s", got)
	}
	if _, err := c.SetLogLevel(t.Context(), &eidolonv1.SetLogLevelRequest{Subsystem: "server", Level: eidolonv1.LogLevel_LOG_LEVEL_DEBUG}); err != nil {
		t.Fatal(err)
	}
	if got := level("server"); got != "LOG_LEVEL_DEBUG" {
		t.Errorf("set: %s", got)
	}
	// reloaded checks what metrics tell: whether the last reload was successful, and
	// whether a restart is waited for.
	reloaded := func(what string, successful, restart string) (used string) {
		t.Helper()
		var got [3]string
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			told := scrape(t, web, nil)
			got = [3]string{told["eidolon_mapserver_config_last_reload_successful"], told["eidolon_mapserver_config_restart_pending"],
				told["eidolon_mapserver_config_last_reload_success_timestamp_seconds"]}
			if got[0] == successful && got[1] == restart || time.Now().After(deadline) {
				break
			}
		}
		if got[0] != successful || got[1] != restart {
			t.Errorf("%s: successful %s, restart %s, want %s, %s", what, got[0], got[1], successful, restart)
		}
		return got[2]
	}
	atFirst := reloaded("at first", "1", "0")
	write("log: {level: wran}\n")
	_, err = c.Reload(t.Context(), &eidolonv1.ReloadRequest{})
	if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), path+":5:") {
		t.Errorf("a wrong file: %v", err)
	}
	if got := level("server"); got != "LOG_LEVEL_DEBUG" {
		t.Errorf("after a wrong file: %s", got)
	}
	if used := reloaded("after a wrong file", "0", "0"); used != atFirst {
		t.Errorf("a wrong file is used since %s", used)
	}
	write("log: {level: warn}\n")
	if err := daemon.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	if used := reloaded("SIGHUP, a good file", "1", "0"); used == atFirst {
		t.Errorf("a new configuration is used since %s", used)
	}
	write("log: {level: wran}\n")
	if err := daemon.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	reloaded("SIGHUP, a wrong file", "0", "0")
	write("log: {level: warn}\nreply_rate: {burst: 5}\n")
	done, err := c.Reload(t.Context(), &eidolonv1.ReloadRequest{})
	if err != nil || strings.Join(done.GetRestartKeys(), " ") != "reply_rate" {
		t.Errorf("reload: %v, %v", done, err)
	}
	if got := level("server"); got != "LOG_LEVEL_WARN" {
		t.Errorf("reloaded: %s", got)
	}
	reloaded("a key for a restart", "1", "1")

	// A configuration is tried, taken back by itself, and tried again and kept.
	now, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	other := []byte(strings.Replace(string(now), "level: warn", "level: error", 1))
	diff, err := c.DiffConfiguration(t.Context(), &eidolonv1.DiffConfigurationRequest{Configuration: other})
	if err != nil || diff.GetCount() != 1 || diff.GetDifferences()[0].GetKey() != "log.level" || diff.GetFile() != path || diff.GetFileError() != "" {
		t.Errorf("difference: %v, %v", diff, err)
	}
	applied, err := c.ApplyConfiguration(t.Context(), &eidolonv1.ApplyConfigurationRequest{Configuration: other, ConfirmSeconds: 1})
	if err != nil || applied.GetId() == "" {
		t.Fatalf("applied: %v, %v", applied, err)
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != string(now) {
		t.Errorf("before it is confirmed the file is %q, %v", text, err)
	}
	for range 200 {
		if level("server") == "LOG_LEVEL_WARN" {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if got := level("server"); got != "LOG_LEVEL_WARN" {
		t.Errorf("not taken back: %s", got)
	}
	applied, err = c.ApplyConfiguration(t.Context(), &eidolonv1.ApplyConfigurationRequest{Configuration: other, ConfirmSeconds: 3600})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.ConfirmConfiguration(t.Context(), &eidolonv1.ConfirmConfigurationRequest{Id: applied.GetId()}); err != nil {
		t.Error(err)
	}
	reloaded("kept", "1", "1")
	if text, err := os.ReadFile(path); err != nil || string(text) != string(other) || level("server") != "LOG_LEVEL_ERROR" {
		t.Errorf("kept: the file is %q, %v, the level %s", text, err, level("server"))
	}
}

// scrape returns the metrics of a program, by name and labels; it is asked from ns,
// unless that is nil.
func scrape(t *testing.T, at netip.AddrPort, ns *netns.NS) map[string]string {
	t.Helper()
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, address string) (conn net.Conn, err error) {
		dial := func() (err error) { conn, err = net.Dial(network, address); return err }
		if ns == nil {
			err = dial()
		} else {
			err = ns.Do(dial)
		}
		return conn, err
	}}}
	resp, err := c.Get("http://" + at.String() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	told := make(map[string]string)
	for s := bufio.NewScanner(resp.Body); s.Scan(); {
		if name, value, ok := strings.Cut(s.Text(), " "); ok && name != "#" {
			told[name] = value
		}
	}
	return told
}
