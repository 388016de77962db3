package config

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

const tracedSite = `map_resolvers: [192.0.2.1]
map_servers: [{address: 192.0.2.1, authentication_key: {key_id: 1, key: 0123456789abcdef}}]
locator_sets: [{name: a, locators: [{address: 192.0.2.1}]}]
database_mappings: [{eid: 10.0.0.0/8, locator_set: a}]
tracing: %s
`

// TestTracing: hosts by name and address, with and without a port.
func TestTracing(t *testing.T) {
	for text, want := range map[string]Tracing{
		`{endpoint: otel.example.net}`:                {Endpoint: "otel.example.net:4317", OneIn: 1},
		`{endpoint: "10.0.0.1:99", insecure: true}`:   {Endpoint: "10.0.0.1:99", Insecure: true, OneIn: 1},
		`{endpoint: "2001:db8::1", one_in: 100}`:      {Endpoint: "[2001:db8::1]:4317", OneIn: 100},
		`{endpoint: "[2001:db8::1]:1", one_in: 1000}`: {Endpoint: "[2001:db8::1]:1", OneIn: 1000},
		`{endpoint: "[2001:db8::1]"}`:                 {Endpoint: "[2001:db8::1]:4317", OneIn: 1},
	} {
		c, err := LoadXTR(write(t, fmt.Sprintf(tracedSite, text)))
		if err != nil {
			t.Errorf("%s: %v", text, err)
		} else if !reflect.DeepEqual(*c.Tracing, want) {
			t.Errorf("%s: %+v, want %+v", text, *c.Tracing, want)
		}
	}
	for _, bad := range []string{`""`, `"a b"`, `"host:"`, `"host:65536"`, `"http://host"`, `[host]`} {
		if _, err := LoadXTR(write(t, fmt.Sprintf(tracedSite, "{endpoint: "+bad+"}"))); err == nil || !strings.Contains(err.Error(), ":5:21: tracing.endpoint: found") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// TestTracingAuthorities: their file is read, and must hold some.
func TestTracingAuthorities(t *testing.T) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	authorities := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	path := write(t, fmt.Sprintf(tracedSite, "{endpoint: host, ca_file: ca.pem}"))
	ca := filepath.Join(filepath.Dir(path), "ca.pem")
	if err := os.WriteFile(ca, authorities, 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := LoadXTR(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(c.Tracing.RootCAs) != string(authorities) {
		t.Errorf("got %q", c.Tracing.RootCAs)
	}
	if err := os.WriteFile(ca, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadXTR(path); err == nil || !strings.Contains(err.Error(), "tracing.ca_file: it holds no certificate in PEM") {
		t.Errorf("got %v", err)
	}
}
