package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/eidolon-lisp/eidolon/api"
	"github.com/eidolon-lisp/eidolon/internal/config"
	"github.com/eidolon-lisp/eidolon/internal/testca"
	"github.com/eidolon-lisp/eidolon/mapping/boltstore"
	"github.com/eidolon-lisp/eidolon/mapping/server"
)

// daemon is the API of a map-server: at a Unix socket, and by TLS.
type daemon struct{ socket, address, ca, token string }

// serve serves the API of a map-server until the test ends.
func serve(t *testing.T) (d daemon) {
	t.Helper()
	dir := t.TempDir()
	d = daemon{socket: filepath.Join(dir, "api.sock"), ca: filepath.Join(dir, "ca.pem"), token: filepath.Join(dir, "token")}
	ca, err := testca.New("the CA")
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := ca.Issue("mapserver.example", x509.ExtKeyUsageServerAuth, nil)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d.address = l.Addr().String()
	l.Close()
	if err := errors.Join(testca.Write(dir, "api", certificate),
		os.WriteFile(d.ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Certificate.Raw}), 0o600),
		os.WriteFile(d.token, []byte("the token of a builder\n"), 0o600),
		os.WriteFile(filepath.Join(dir, "mapserver.yml"), fmt.Appendf(nil, `listen: [127.0.0.1]
state_dir: state
api:
  socket: api.sock
  tcp: {listen: [%q], certificate_file: api.crt, key_file: api.key}
  users: [{name: builder, roles: [read, register], eid_prefixes: ["[7]2001:db8:7::/48"], token_hashes: ["%x"]}]
`, d.address, sha256.Sum256([]byte("the token of a builder"))), 0o600)); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.LoadMapServer(filepath.Join(dir, "mapserver.yml"))
	if err != nil {
		t.Fatal(err)
	}
	access, err := api.NewAccess(cfg.API, nil)
	if err != nil {
		t.Fatal(err)
	}
	store, err := boltstore.Open(filepath.Join(dir, "db"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := server.New(t.Context(), server.Config{}, store)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- api.Serve(ctx, api.Config{Socket: cfg.API.Socket, Access: access}, api.Mappings(s)) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		store.Close()
		access.Close()
	})
	for range 500 {
		u, err := net.Dial("unix", d.socket)
		if err == nil {
			u.Close()
			if c, err := net.Dial("tcp", d.address); err == nil {
				c.Close()
				return d
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("nobody answers")
	return d
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
	d := serve(t)
	var out bytes.Buffer
	if err := run(t.Context(), d.socket, "", "", true, &out); err != nil {
		t.Fatal(err)
	}
	told(t, out.String())
	d = serve(t)
	if err := run(t.Context(), d.address, d.ca, "", true, &out); status.Code(err) != codes.Unauthenticated {
		t.Errorf("without a token: %v", err)
	}
	out.Reset()
	if err := run(t.Context(), d.address, d.ca, d.token, true, &out); err != nil {
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
	d, other := serve(t), serve(t)
	for _, args := range [][]string{{d.socket}, {other.address, "--ca", other.ca, "--token-file", other.token}} {
		out, err := exec.CommandContext(ctx, python, append([]string{"../python/client.py", "--once"}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
		told(t, string(out))
	}
}
