package api

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
)

// withREST serves REST, too.
func withREST(s *secure) {
	s.cfg.TCP.REST = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")}
}

// web returns a client of REST with a certificate or none.
func (s *secure) web(cert *tls.Certificate, h2 bool) *http.Client {
	c := &tls.Config{RootCAs: x509.NewCertPool()}
	c.RootCAs.AddCert(s.ca.Certificate)
	if cert != nil {
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	t := &http.Transport{TLSClientConfig: c, ForceAttemptHTTP2: h2}
	s.t.Cleanup(t.CloseIdleConnections)
	return &http.Client{Transport: t, Timeout: 10 * time.Second}
}

// rest makes a request and returns the status and the answer.
func (s *secure) rest(c *http.Client, method, path, token, kind, body string) (int, string, *http.Response) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), method, "https://"+s.access.RESTAddrs()[0].String()+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	if kind != "" {
		req.Header.Set("Content-Type", kind)
	}
	resp, err := c.Do(req)
	if err != nil {
		s.t.Fatalf("%s %s: %v\n%s", method, path, err, s.log.String())
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp.StatusCode, string(b), resp
}

const (
	inJSON = "application/json"
	one    = `{"records":[{"eid":"10.1.2.0/24","record_ttl":60,"locators":[{"address":"192.0.2.9","priority":1,"weight":100}]}]}`
	other  = `{"records":[{"eid":"10.9.0.0/16","record_ttl":60,"locators":[{"address":"192.0.2.9","priority":1,"weight":100}]}]}`
)

// REST over TLS is the API: who may call what is as in gRPC, by token and by
// certificate, and changes are in the audit log.
func TestRESTOverTLS(t *testing.T) {
	s := serveSecure(t, withREST)
	operator := s.client("operator.example")
	for _, tt := range []struct {
		what, method, path, token, kind, body string
		cert                                  *tls.Certificate
		want                                  int
	}{
		{"a token that operates", "POST", "/v1/mappings:put", operateToken, inJSON, one, nil, 200},
		{"a certificate that operates", "POST", "/v1/mappings:put", "", inJSON, other, operator, 200},
		{"a token goes before a certificate", "POST", "/v1/mappings:put", readToken, inJSON, one, operator, 403},
		{"who reads reads", "GET", "/v1/mappings:get?eid=10.1.2.0/24", readToken, "", "", nil, 200},
		{"and changes nothing", "POST", "/v1/mappings:put", readToken, inJSON, one, nil, 403},
		{"who registers, inside of its EIDs", "POST", "/v1/mappings:put", registerToken, inJSON, one, nil, 200},
		{"who registers, outside", "POST", "/v1/mappings:put", registerToken, inJSON, other, nil, 403},
		{"nobody", "GET", "/v1/version", "", "", "", nil, 401},
		{"somebody else", "GET", "/v1/version", "a token that nobody has at all", "", "", nil, 401},
		{"a form of a page", "POST", "/v1/mappings:put", operateToken, "text/plain", one, nil, 415},
		{"no type", "POST", "/v1/mappings:put", operateToken, "", one, nil, 415},
		{"another method", "DELETE", "/v1/mappings", operateToken, inJSON, "", nil, 405},
		{"an unknown path", "GET", "/v1/nothing", operateToken, "", "", nil, 404},
		{"what is no JSON", "POST", "/v1/mappings:put", operateToken, inJSON, "{", nil, 400},
		{"what is too much", "POST", "/v1/mappings:put", operateToken, inJSON, `{"records":"` + strings.Repeat("x", maxMessage) + `"}`, nil, 400},
		{"the document", "GET", "/openapi.json", "", "", "", nil, 200},
	} {
		for _, h2 := range []bool{false, true} {
			c := s.web(tt.cert, h2)
			got, body, resp := s.rest(c, tt.method, tt.path, tt.token, tt.kind, tt.body)
			if got != tt.want {
				t.Errorf("%s: %d %.200s, want %d", tt.what, got, body, tt.want)
			}
			c.CloseIdleConnections() // one address may have 16
			if want := map[bool]int{false: 1, true: 2}[h2]; resp.ProtoMajor != want {
				t.Errorf("%s: HTTP/%d, want %d", tt.what, resp.ProtoMajor, want)
			}
			if !json.Valid([]byte(body)) {
				t.Errorf("%s: %.200s is no JSON", tt.what, body)
			}
		}
	}
	for _, e := range []string{"10.1.2.0/24", "10.9.0.0/16"} {
		if _, ok := s.db.Lookup(mapping.MustParseEID(e)); !ok {
			t.Errorf("%s was not put", e)
		}
	}
	by := make(map[string]int)
	for _, l := range s.lines(s.audit) {
		if !strings.HasPrefix(l.From, "127.0.0.1:") {
			t.Errorf("%+v is from elsewhere", l)
		}
		by[l.Who+" "+l.By+" "+l.Result]++
	}
	for _, want := range []string{"operator token OK", "operator certificate OK", "reader token PermissionDenied", "fabric token PermissionDenied"} {
		if by[want] == 0 {
			t.Errorf("the audit log has no line of %s: %v", want, by)
		}
	}
	if n := s.stat("api_authentication_failures"); n != 4 {
		t.Errorf("%d failures to say who calls, want 4", n)
	}
}

// A stream goes on, and ends when its user is taken out; the next call of the same
// connection is refused.
func TestRESTReload(t *testing.T) {
	s := serveSecure(t, withREST)
	c := s.web(nil, true)
	c.Timeout = 0
	req, err := http.NewRequestWithContext(t.Context(), "GET", "https://"+s.access.RESTAddrs()[0].String()+"/v1/mappings:watch", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+readToken)
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	first := make([]byte, 4096)
	if n, err := resp.Body.Read(first); err != nil || !bytes.Contains(first[:n], []byte(`"result"`)) {
		t.Fatalf("the stream begins with %q, %v", first[:n], err)
	}
	s.cfg.Users = s.cfg.Users[1:]
	if err := s.access.Reload(s.cfg); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(resp.Body)
	if err != nil || !bytes.Contains(rest, []byte(`"error"`)) {
		t.Errorf("the stream ends with %q, %v", rest, err)
	}
	if got, body, _ := s.rest(c, "GET", "/v1/version", readToken, "", ""); got != 401 {
		t.Errorf("%d %s after the user was taken out", got, body)
	}
	if got, body, _ := s.rest(c, "GET", "/v1/version", operateToken, "", ""); got != 200 {
		t.Errorf("%d %s of another user", got, body)
	}
}

// Who says nothing, or nothing that is known, is not kept, and a connection leaves
// nothing behind.
func TestRESTStrangers(t *testing.T) {
	s := serveSecure(t, func(s *secure) {
		withREST(s)
		s.patience = 50 * time.Millisecond
	})
	at := s.access.RESTAddrs()[0].String()
	conf := &tls.Config{RootCAs: x509.NewCertPool()}
	conf.RootCAs.AddCert(s.ca.Certificate)
	conn, err := tls.Dial("tcp", at, conf)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET /v1/version HTTP/1.1\r\nHost: daemon.example\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	answer, err := io.ReadAll(conn)
	if !bytes.HasPrefix(answer, []byte("HTTP/1.1 401 ")) {
		t.Errorf("a stranger gets %q, %v", answer, err)
	}
	// Who says nothing is no failure; who does not speak TLS 1.3 is one.
	silent, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	silent.Close()
	if _, err := tls.Dial("tcp", at, &tls.Config{RootCAs: conf.RootCAs, MaxVersion: tls.VersionTLS12}); err == nil {
		t.Error("TLS 1.2 is spoken")
	}
	for deadline := time.Now().Add(10 * time.Second); s.stat("api_tls_failures") != 1 || s.stat("api_connections") != 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d failed handshakes and %d connections, want 1 and none", s.stat("api_tls_failures"), s.stat("api_connections"))
		}
	}
}
