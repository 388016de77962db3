package main

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	eidolonv1 "github.com/eidolon-lisp/eidolon/api/proto/eidolon/v1"
	"github.com/eidolon-lisp/eidolon/internal/testca"
)

// TestAccess: the API over TLS from the file of the configuration to the audit log.
// SIGHUP takes a new token and certificate, opens the audit log anew, and leaves
// connections, and all of it when the file is bad.
func TestAccess(t *testing.T) {
	dir := t.TempDir()
	ca, err := testca.New("the CA")
	if err != nil {
		t.Fatal(err)
	}
	certify := func() {
		t.Helper()
		c, err := ca.Issue("mapserver.example", x509.ExtKeyUsageServerAuth, nil)
		if err == nil {
			err = testca.Write(dir, "api", c)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	certify()
	var held []io.Closer // until all are chosen, or two might be the same
	free := func(network string) string {
		t.Helper()
		if network == "udp" {
			c, err := net.ListenPacket("udp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			held = append(held, c)
			return c.LocalAddr().String()
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, l)
		return l.Addr().String()
	}
	control, address, rest := free("udp"), free("tcp"), free("tcp")
	for _, c := range held {
		c.Close()
	}
	path, audit := filepath.Join(dir, "mapserver.yml"), filepath.Join(dir, "audit.log")
	write := func(token, more string) {
		t.Helper()
		text := fmt.Sprintf(`listen: [%q]
state_dir: state
api:
  socket: api.sock
  audit_file: audit.log
  tcp: {listen: [%q], rest_listen: [%q], certificate_file: api.crt, key_file: api.key}
  users: [{name: fabric, roles: [register], eid_prefixes: [10.1.0.0/16], token_hashes: ["%x"]}]
%s`, control, address, rest, sha256.Sum256([]byte(token)), more)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("first", "")
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, path) }()
	defer func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()

	roots := x509.NewCertPool()
	roots.AddCert(ca.Certificate)
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: roots})))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	put := func(token, locator string) error {
		call, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+token), 20*time.Second)
		defer cancel()
		_, err := eidolonv1.NewMappingServiceClient(conn).PutMappings(call, &eidolonv1.PutMappingsRequest{Records: []*eidolonv1.Record{
			{Eid: "10.1.0.0/16", Locators: []*eidolonv1.Locator{{Address: locator, Priority: 1, Weight: 100}}},
		}}, grpc.WaitForReady(true))
		return err
	}
	shown := func() string {
		t.Helper()
		c, err := tls.Dial("tcp", address, &tls.Config{RootCAs: roots, NextProtos: []string{"h2"}})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return c.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	hangup := func() {
		t.Helper()
		if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
	}
	lines := func(path string) (list []map[string]any) {
		t.Helper()
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			m := make(map[string]any)
			if err := json.Unmarshal([]byte(line), &m); err != nil {
				t.Fatal(err)
			}
			list = append(list, m)
		}
		return list
	}
	if err := put("first", "192.0.2.1"); err != nil {
		t.Fatal(err)
	}
	serial := shown()

	// A bad file changes nothing, and does not end the daemon.
	write("second", "nonsense: true\n")
	hangup()
	time.Sleep(100 * time.Millisecond)
	if err := put("first", "192.0.2.2"); err != nil {
		t.Fatal(err)
	}

	// A good one takes the new token, certificate and file.
	write("second", "")
	certify()
	if err := os.Rename(audit, audit+".1"); err != nil {
		t.Fatal(err)
	}
	hangup()
	for start := time.Now(); shown() == serial; time.Sleep(20 * time.Millisecond) {
		if time.Since(start) > 20*time.Second {
			t.Fatal("the certificate is the old one")
		}
	}
	if err := put("first", "192.0.2.9"); status.Code(err) != codes.Unauthenticated {
		t.Errorf("the old token: %v", err)
	}
	if err := put("second", "192.0.2.3"); err != nil {
		t.Fatal(err)
	}
	// By REST, with the new certificate and token, too.
	web := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}, Timeout: 20 * time.Second}
	defer web.CloseIdleConnections()
	for token, want := range map[string]int{"first": http.StatusUnauthorized, "second": http.StatusOK} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+rest+"/v1/mappings:put",
			strings.NewReader(`{"records": [{"eid": "10.1.0.0/16", "locators": [{"address": "192.0.2.3", "priority": 1, "weight": 100}]}]}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
		req.Header.Set("Content-Type", "application/json")
		resp, err := web.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if got := resp.TLS.PeerCertificates[0].SerialNumber.String(); resp.StatusCode != want || got == serial {
			t.Errorf("REST with the token %q: %s, certificate %s", token, resp.Status, got)
		}
	}
	// The same file and the same certificate change nothing, and are not told.
	hangup()
	of := func(who, path string) []map[string]any {
		return slices.DeleteFunc(lines(path), func(e map[string]any) bool { return e["who"] != who })
	}
	for start := time.Now(); len(of("SIGHUP", audit)) == 0; time.Sleep(20 * time.Millisecond) {
		if time.Since(start) > 20*time.Second {
			t.Fatal("the reload is not in the audit log")
		}
	}
	old, fresh := of("fabric", audit+".1"), of("fabric", audit)
	if len(old) != 2 || len(fresh) != 1 {
		t.Fatalf("lines of the audit log: %v, %v", old, fresh)
	}
	before, ok := fresh[0]["before"].(map[string]any)
	if !ok || fmt.Sprint(before["locators"].([]any)[0].(map[string]any)["address"]) != "192.0.2.2" {
		t.Errorf("the audit log has %v", fresh[0])
	}
	if old[0]["from"] != fresh[0]["from"] {
		t.Errorf("the connection was dropped: it came from %v, and from %v", old[0]["from"], fresh[0]["from"])
	}
	bad, good := of("SIGHUP", audit+".1"), of("SIGHUP", audit)
	if len(bad) != 1 || bad[0]["result"] != "FailedPrecondition" || !strings.Contains(fmt.Sprint(bad[0]["detail"]), "nonsense") {
		t.Errorf("of the bad file the audit log has %v", bad)
	}
	after, ok := good[0]["after"].(map[string]any)
	if len(good) != 1 || !ok || fmt.Sprint(after["changed"]) != "[api]" || fmt.Sprint(after["restart_keys"]) != "[]" {
		t.Fatalf("of the good file the audit log has %v", good)
	}
	was, _ := good[0]["before"].(map[string]any)
	values, _ := after["values"].(map[string]any)
	if len(was) != 2 || was["api.tcp.key_file"] != "api.key" || values["api.tcp.key_file"] != "api.key (with other contents)" {
		t.Errorf("of the good file the audit log has %v and %v", was, values)
	}
}
