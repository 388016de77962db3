package api

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	eidolonv1 "github.com/eidolon-lisp/eidolon/api/proto/eidolon/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func someStats(yield func(string, uint64) bool) {
	_ = yield("map_requests", 7) && yield("map_replies", 1<<63)
}

// serve serves the services on a real socket until the test ends.
func serve(t *testing.T, services ...Service) *grpc.ClientConn {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sub", "api.sock")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, Config{Socket: path}, services...) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the socket is still there: %v", err)
		}
	})
	waitFor(t, path)
	return dial(t, path)
}

func waitFor(t *testing.T, path string) {
	t.Helper()
	for range 500 {
		if c, err := net.Dial("unix", path); err == nil {
			c.Close()
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("nobody answers on %s", path)
}

func dial(t *testing.T, path string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func wantCode(t *testing.T, err error, code codes.Code, text string) {
	t.Helper()
	if status.Code(err) != code || !strings.Contains(err.Error(), text) {
		t.Errorf("got %v, want code %v and %q", err, code, text)
	}
}

// wantField checks that the details of the error name a field.
func wantField(t *testing.T, err error, field string) {
	t.Helper()
	wantCode(t, err, codes.InvalidArgument, field)
	for _, d := range status.Convert(err).Details() {
		if b, ok := d.(*errdetails.BadRequest); ok && len(b.FieldViolations) == 1 && b.FieldViolations[0].Field == field {
			return
		}
	}
	t.Errorf("the details of %v do not name %s", err, field)
}

func TestSocket(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "api.sock")
	run := func(ctx context.Context) chan error {
		done := make(chan error, 1)
		go func() { done <- Serve(ctx, Config{Socket: path}, Admin("x")) }()
		return done
	}

	// Left over from a process that was killed: nobody answers.
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	stale.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := run(ctx)
	waitFor(t, path)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("mode of the socket: %v, %v", info.Mode(), err)
	}

	// One that answers is left alone, and goes on answering.
	if err := <-run(t.Context()); !errors.Is(err, ErrInUse) {
		t.Errorf("second daemon: %v, want ErrInUse", err)
	}
	waitFor(t, path)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}

	// Something else at that path is never removed.
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := <-run(t.Context()); err == nil || !strings.Contains(err.Error(), "not a socket") {
		t.Errorf("a file in the way: %v", err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "mine" {
		t.Errorf("the file in the way: %q, %v", b, err)
	}
}

// TestShutdown: a call that does not end does not keep Serve.
func TestShutdown(t *testing.T) {
	path := filepath.Join(t.TempDir(), "api.sock")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, Config{Socket: path}, Mappings(newDatabase())) }()
	waitFor(t, path)
	stream, err := eidolonv1.NewMappingServiceClient(dial(t, path)).ImportMappings(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&eidolonv1.ImportMappingsRequest{Records: []*eidolonv1.Record{rec("10.0.0.0/8", "192.0.2.1")}}); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(stopGrace + 5*time.Second):
		t.Fatal("Serve does not end")
	}
	if _, err := stream.Recv(); err == nil {
		t.Error("the stream goes on after the end")
	}
}

func TestPeers(t *testing.T) {
	c := &peerCredentials{uid: 1000, gid: 50}
	for _, p := range []struct {
		uid, gid uint32
		groups   []uint32
		want     bool
	}{
		{0, 0, nil, true},
		{1000, 9, nil, true},
		{1001, 50, nil, true},
		{1001, 9, []uint32{7, 50}, true},
		{1001, 9, []uint32{7, 8}, false},
		{65534, 65534, nil, false},
	} {
		if got := c.allows(PeerInfo{UID: p.uid, GID: p.gid}, p.groups); got != p.want {
			t.Errorf("uid %d gid %d groups %v: %v, want %v", p.uid, p.gid, p.groups, got, p.want)
		}
	}
	// What the kernel says of this very process.
	path := filepath.Join(t.TempDir(), "s")
	lis, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	out, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	in, err := lis.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	who, groups, err := peerOf(in)
	if err != nil || int(who.UID) != os.Geteuid() || int(who.GID) != os.Getegid() || int(who.PID) != os.Getpid() {
		t.Errorf("peer %+v, %v", who, err)
	}
	mine, err := os.Getgroups()
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range mine {
		if !slices.Contains(groups, uint32(g)) && g != os.Getegid() {
			t.Errorf("group %d is missing in %v", g, groups)
		}
	}
	// A peer that may not is refused before any call.
	if _, _, err := (&peerCredentials{uid: who.UID + 1, gid: 1 << 31, log: discard()}).ServerHandshake(in); (err == nil) != (who.UID == 0) {
		t.Errorf("handshake of a stranger: %v", err)
	}
}
