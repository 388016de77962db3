package main

import (
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/api"
	"github.com/eidolon-lisp/eidolon/mapping/boltstore"
	"github.com/eidolon-lisp/eidolon/mapping/server"
)

// serve serves the API of a map-server until the test ends.
func serve(t *testing.T) (socket string) {
	t.Helper()
	dir := t.TempDir()
	store, err := boltstore.Open(filepath.Join(dir, "db"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := server.New(t.Context(), server.Config{}, store)
	if err != nil {
		t.Fatal(err)
	}
	socket = filepath.Join(dir, "api.sock")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- api.Serve(ctx, api.Config{Socket: socket}, api.Mappings(s)) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		store.Close()
	})
	for range 500 {
		if c, err := net.Dial("unix", socket); err == nil {
			c.Close()
			return socket
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("nobody answers")
	return ""
}

// told checks what either example prints.
func told(t *testing.T, out string) {
	t.Helper()
	for _, want := range []string{"put at revision 2\n", "there is [7]2001:db8:7::/48 ", "revision 2: [7]2001:db8:7::/48 is there\n", "the copy has 1 mappings at revision 2\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing in:\n%s", want, out)
		}
	}
}

func TestGo(t *testing.T) {
	var out bytes.Buffer
	if err := run(t.Context(), serve(t), true, &out); err != nil {
		t.Fatal(err)
	}
	told(t, out.String())
}

// TestPython runs the example in Python where Python has what it needs, as it must
// where CI=true.
func TestPython(t *testing.T) {
	python := ""
	for _, name := range []string{"python3", "/usr/bin/python3"} {
		if exec.Command(name, "-c", "import grpc, grpc_tools").Run() == nil {
			python = name
			break
		}
		_, protoc := exec.LookPath("protoc")
		_, plugin := exec.LookPath("grpc_python_plugin")
		if protoc == nil && plugin == nil && exec.Command(name, "-c", "import grpc, google.protobuf").Run() == nil {
			python = name
			break
		}
	}
	const missing = "no Python with grpc and grpc_tools, or protoc with grpc_python_plugin"
	if python == "" && os.Getenv("CI") == "true" {
		t.Fatal(missing)
	}
	if python == "" {
		t.Skip(missing)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, python, "../python/client.py", serve(t), "--once").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	told(t, string(out))
}
