package daemon

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// The manager hears ready, then the watchdog for as long as the daemon is
// alive, and stopping at the end.
func TestSupervise(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "40000")
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	hear := func(patience time.Duration) string {
		conn.SetReadDeadline(time.Now().Add(patience))
		var b [100]byte
		n, err := conn.Read(b[:])
		if err != nil {
			return err.Error()
		}
		return string(b[:n])
	}
	ctx, stop := context.WithCancel(t.Context())
	stuck, ended := make(chan struct{}), make(chan struct{})
	alive := make(chan bool, 3)
	go func() {
		defer close(ended)
		Supervise(ctx, slog.New(slog.DiscardHandler), func() {
			select {
			case alive <- true:
			default:
				<-stuck
			}
		})
	}()
	for i, want := range []string{"READY=1", "WATCHDOG=1", "WATCHDOG=1", "WATCHDOG=1"} {
		if got := hear(5 * time.Second); got != want {
			t.Errorf("message %d: %q, expected %q", i, got, want)
		}
	}
	if got := hear(300 * time.Millisecond); got == "WATCHDOG=1" {
		t.Error("what does not answer feeds the watchdog")
	}
	stop()
	<-ended
	if got := hear(5 * time.Second); got != "STOPPING=1" {
		t.Errorf("at the end: %q", got)
	}
	close(stuck)
}

// Without a manager nothing is said, and nothing is asked.
func TestUnsupervised(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	t.Setenv("WATCHDOG_USEC", "")
	ctx, stop := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer stop()
	Supervise(ctx, slog.New(slog.DiscardHandler), func() { t.Error("nobody asked") })
}
