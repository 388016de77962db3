package config

import (
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/internal/testca"
	"github.com/eidolon-lisp/eidolon/mapping"
)

// apiDirectory returns a directory with the files that api sections name.
func apiDirectory(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	ca, err := testca.New("clients")
	if err != nil {
		t.Fatal(err)
	}
	if err := ca.WriteCA(filepath.Join(dir, "clients.pem")); err != nil {
		t.Fatal(err)
	}
	put := func(base string, edit func(*x509.Certificate)) {
		t.Helper()
		c, err := ca.Issue("mapserver.example", x509.ExtKeyUsageServerAuth, edit)
		if err != nil {
			t.Fatal(err)
		}
		if err := testca.Write(dir, base, c); err != nil {
			t.Fatal(err)
		}
	}
	put("api", nil)
	put("other", nil)
	put("old", func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	})
	put("fresh", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(90 * 24 * time.Hour) })
	for name, f := range map[string]struct {
		text string
		mode os.FileMode
	}{
		"noc.token":     {"hunter2-hunter2-hunter2-hunter2\n", 0o600},
		"open.token":    {"hunter2-hunter2-hunter2-hunter2\n", 0o604},
		"short.token":   {"hunter2\n", 0o600},
		"spaces.token":  {"hunter2 hunter2 hunter2 hunter2\n", 0o600},
		"nothing.pem":   {"nothing", 0o644},
		"broken.pem":    {"-----BEGIN CERTIFICATE-----\naHVudGVyMg==\n-----END CERTIFICATE-----\n", 0o644},
		"everybody.key": {"hunter2", 0o666},
	} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(f.text), f.mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, f.mode); err != nil { // whatever the umask
			t.Fatal(err)
		}
	}
	return dir
}

// TestExampleAPI reads the example in a directory that has the files it names.
func TestExampleAPI(t *testing.T) {
	dir := apiDirectory(t)
	text, err := os.ReadFile(examples + "api-tcp.yml")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "mapserver.yml")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := LoadMapServer(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range c.Warnings {
		if !strings.Contains(w.Message, "expires soon") { // an hour is soon
			t.Error(w)
		}
	}
	got := c.API
	if got.TCP == nil || got.TCP.Certificate.Leaf == nil || got.TCP.Certificate.Leaf.Subject.CommonName != "mapserver.example" || len(got.TCP.ClientCAs) != 1 {
		t.Fatalf("got %+v", got.TCP)
	}
	got.TCP.Certificate.Certificate, got.TCP.Certificate.PrivateKey, got.TCP.Certificate.Leaf, got.TCP.ClientCAs = nil, nil, nil, nil
	want := API{
		Socket: "/run/eidolon/mapserver.sock", AuditFile: "/var/log/eidolon/audit.log",
		TCP: &APITCP{Listen: []netip.AddrPort{netip.MustParseAddrPort("203.0.113.10:9344"), netip.MustParseAddrPort("[2001:db8:113::10]:9344")}, REST: []netip.AddrPort{netip.MustParseAddrPort("203.0.113.10:9444")}, MaxConnections: 128},
		Users: []APIUser{
			{Name: "noc", Read: true, Certificates: []string{"noc.example.org"}, Tokens: [][32]byte{sha256.Sum256([]byte("hunter2-hunter2-hunter2-hunter2"))}},
			{Name: "alice", Operate: true, Certificates: []string{"alice@example.org"}},
			{Name: "fabric", Register: true, EIDPrefixes: []mapping.EID{mapping.MustParseEID("10.1.0.0/16"), mapping.MustParseEID("2001:db8:e1::/48")}, Instances: []uint32{7},
				Tokens: [][32]byte{sha256.Sum256([]byte("an example, not a secret")), sha256.Sum256([]byte("the one before that one"))}},
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v, want\n%+v", got, want)
	}
	if err := compiled(t, KindMapServer)(examples + "api-tcp.yml"); err != nil {
		t.Errorf("an editor objects: %v", err)
	}
	// Neither in a dump of the configuration nor in a message is a token's hash.
	if text := fmt.Sprint(c.Warnings); strings.Contains(text, "hunter2") {
		t.Errorf("the warnings are %s", text)
	}
}

// TestBadAPI: everything wrong is found, each at its place.
func TestBadAPI(t *testing.T) {
	dir := apiDirectory(t)
	const tcp = "  tcp: {listen: [127.0.0.1], certificate_file: fresh.crt, key_file: fresh.key, client_ca_file: clients.pem}\n"
	const user = "  users: [{name: a, roles: [read], token_file: noc.token}]\n"
	hash := strings.Repeat("ab", 32)
	for _, c := range []struct{ name, api, want string }{
		{"nothing is wrong", tcp + user, ""},
		{"no users", tcp, "3:3: api: found tcp without users, so nobody could call over it"},
		{"no tcp", user, "3:10: warning: api.users: without tcp nobody can be one of these: who uses the socket may do everything"},
		{"missing keys", "  tcp: {}\n" + user, "" +
			"3:8: api.tcp: missing key \"listen\", expected a list of addresses to listen on, such as [\"203.0.113.10:9344\"]\n" +
			"3:8: api.tcp: missing key \"certificate_file\", expected the file of the daemon's certificate, in PEM, with those between it and the CA\n" +
			"3:8: api.tcp: missing key \"key_file\", expected the file of the key of the certificate, in PEM"},
		{"files", "  tcp: {listen: [127.0.0.1, \"127.0.0.1:9344\"], certificate_file: missing.crt, key_file: api.key, client_ca_file: nothing.pem, max_connections: 0}\n" + user, "" +
			"3:29: api.tcp.listen[1]: address 127.0.0.1:9344 is given twice, first at line 3\n" +
			"3:66: api.tcp.certificate_file: it can't be read: open DIR/missing.crt: no such file or directory\n" +
			"3:114: api.tcp.client_ca_file: it holds no certificate in PEM\n" +
			"3:144: api.tcp.max_connections: found \"0\", expected a number from 1 to 4096"},
		{"REST on the port of gRPC", "  tcp: {listen: [127.0.0.1], rest_listen: [\"127.0.0.1:9344\", 127.0.0.1], certificate_file: fresh.crt, key_file: fresh.key}\n" + user,
			"3:44: api.tcp.rest_listen[0]: address 127.0.0.1:9344 is given twice, first at line 3"},
		{"another's key", "  tcp: {listen: [127.0.0.1], certificate_file: fresh.crt, key_file: other.key, client_ca_file: broken.pem}\n" + user, "" +
			"3:69: api.tcp.key_file: it is not the key of the certificate of \"CN=mapserver.example\": tls: private key does not match public key\n" +
			"3:96: api.tcp.client_ca_file: certificate 1 can't be used: x509: malformed certificate"},
		{"everybody's key", "  tcp: {listen: [127.0.0.1], certificate_file: fresh.crt, key_file: everybody.key}\n" + user,
			"3:69: api.tcp.key_file: everybody can read or write everybody.key (mode 0666), expected 0640 or less"},
		{"no CA", "  tcp: {listen: [127.0.0.1], certificate_file: fresh.crt, key_file: fresh.key, client_ca_file: fresh.crt}\n" + user,
			"3:96: api.tcp.client_ca_file: \"CN=mapserver.example\" is not the certificate of a CA"},
		{"expired", "  tcp: {listen: [127.0.0.1], certificate_file: old.crt, key_file: old.key}\n" + user,
			"3:48: warning: api.tcp.certificate_file: the certificate of \"CN=mapserver.example\" expired at TIME"},
		{"tokens", tcp + "  users:\n    - {name: a, roles: [read], token_file: open.token}\n    - {name: b, roles: [read], token_file: short.token}\n    - {name: c, roles: [read], token_file: spaces.token}\n" +
			"    - {name: d, roles: [read], token_file: noc.token, token_hashes: [hunter2, " + hash + "]}\n    - {name: e, roles: [read], token_hashes: [" + hash + "]}\n    - {name: f, roles: [read], token_file: .}\n", "" +
			"5:44: api.users[0].token_file: everybody can read or write open.token (mode 0604), expected 0640 or less\n" +
			"6:44: api.users[1].token_file: the token has 7 characters, expected 22 to 512, drawn at random\n" +
			"7:44: api.users[2].token_file: the token has a space, or a character that is not of ASCII\n" +
			"8:70: api.users[3].token_hashes[0]: found a text of 7 characters, expected the SHA-256 of a token as 64 hexadecimal digits\n" +
			"9:47: api.users[4].token_hashes[0]: the token is given twice, first at line 8\n" +
			"10:44: api.users[5].token_file: . is not a regular file, expected a file that holds a token"},
		{"users", tcp + "  users:\n    - {name: \"a b\", roles: [reads], certificates: [\"\"]}\n    - {name: a, roles: [register], certificates: [x]}\n    - {name: a, roles: [read, register], eid_prefixes: [], certificates: [x]}\n" +
			"    - {name: c, roles: [read], instances: [1], certificates: [c]}\n    - {name: d, roles: [operate, register], instances: [16777216]}\n    - {roles: [], password: x, certificates: [y]}\n", "" +
			"5:14: api.users[0].name: found \"a b\", expected 1 to 63 letters, digits and any of . _ @ -\n" +
			"5:29: api.users[0].roles[0]: found \"reads\", expected read, operate or register; did you mean \"read\"?\n" +
			"5:52: api.users[0].certificates[0]: found an empty name\n" +
			"6:17: api.users[1]: found the role register without eid_prefixes or instances that it is for\n" +
			"7:14: api.users[2].name: user a is given twice, first at line 6\n" +
			"7:56: api.users[2].eid_prefixes: found an empty list, expected EID-prefixes whose mappings the user may change\n" +
			"7:75: api.users[2].certificates[0]: certificate x is given twice, first at line 6\n" +
			"8:17: api.users[3]: found eid_prefixes or instances without the role register, which alone they limit\n" +
			"9:7: api.users[4]: found neither certificates, token_file nor token_hashes, so nobody could be this user\n" +
			"9:24: api.users[4].roles: found register and operate, which changes all mappings; expected one of them\n" +
			"9:57: api.users[4].instances[0]: found \"16777216\", expected a number from 0 to 16777215\n" +
			"10:7: api.users[5]: missing key \"name\", expected the name of the user\n" +
			"10:15: api.users[5].roles: found an empty list, expected read, operate or register\n" +
			"10:19: api.users[5]: unknown key \"password\", expected name, roles, eid_prefixes, instances, certificates, token_file or token_hashes"},
		{"certificates without a CA", "  tcp: {listen: [127.0.0.1], certificate_file: fresh.crt, key_file: fresh.key}\n  users: [{name: a, roles: [read], certificates: [a]}]\n",
			"4:51: api.users[0].certificates[0]: there is no tcp.client_ca_file to sign it"},
		{"audit file", "  audit_file: /var/log/\n", "3:15: api.audit_file: found \"/var/log/\", expected the path of a file that changes are written to"},
	} {
		path := filepath.Join(dir, "mapserver.yml")
		if err := os.WriteFile(path, []byte("listen: [\"127.0.0.1:4342\"]\napi:\n"+c.api), 0o600); err != nil {
			t.Fatal(err)
		}
		var got []string
		cfg, err := LoadMapServer(path)
		if err != nil {
			got = strings.Split(err.Error(), "\n")
		} else {
			for _, w := range cfg.Warnings {
				if strings.Contains(w.Message, "CN=clients") {
					continue // an hour is soon
				}
				got = append(got, fmt.Sprintf("%s:%d:%d: warning: %s", w.File, w.Line, w.Column, w.Message))
			}
		}
		text := strings.NewReplacer(path+":", "", dir, "DIR").Replace(strings.Join(got, "\n"))
		text = regexp.MustCompile(`20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ`).ReplaceAllString(text, "TIME")
		if text != c.want {
			t.Errorf("%s: got\n%s\nwant\n%s", c.name, text, c.want)
		}
		if strings.Contains(text, "hunter2") || strings.Contains(text, hash) {
			t.Errorf("%s: the text shows a token", c.name)
		}
	}
}

// What is served to whoever connects is warned of, unless only this host can.
func TestHTTPIsOpen(t *testing.T) {
	for listen, want := range map[string]string{
		"127.0.0.1": "", "'[::1]:9342'": "",
		"0.0.0.0:9342":      "[2:36: found true with listen: 0.0.0.0:9342 2:48: found true with listen: 0.0.0.0:9342]",
		"203.0.113.10:9342": "[2:41: found true with listen: 203.0.113.10:9342 2:53: found true with listen: 203.0.113.10:9342]",
	} {
		path := write(t, "listen: [203.0.113.10]\nhttp: {listen: "+listen+", rest: true, page: true}\n")
		c, err := LoadMapServer(path)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, w := range c.Warnings {
			what, why, _ := strings.Cut(w.Message, "; ")
			if !strings.Contains(why, "without a password") {
				t.Errorf("%s: warning %v", listen, w)
			}
			_, what, _ = strings.Cut(what, ": ")
			got = append(got, fmt.Sprintf("%d:%d: %s", w.Line, w.Column, what))
		}
		if text := fmt.Sprint(got); text != want && (len(got) > 0 || want != "") {
			t.Errorf("%s: %s, want %s", listen, text, want)
		}
		if err := os.WriteFile(path, []byte("listen: [203.0.113.10]\nhttp: {listen: "+listen+"}\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if c, err := LoadMapServer(path); err != nil || len(c.Warnings) > 0 {
			t.Errorf("%s, without them: %v, %v", listen, c.Warnings, err)
		}
	}
}

// Who may call is reloaded; where to listen needs a restart.
func TestAPINeedsRestart(t *testing.T) {
	a := XTR{API: API{Socket: "/run/x", AuditFile: "a", TCP: &APITCP{Listen: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:1")}}, Users: []APIUser{{Name: "a"}}}}
	b := a
	b.API = API{Socket: "/run/x", AuditFile: "b", TCP: &APITCP{Listen: a.API.TCP.Listen, ClientCAs: []*x509.Certificate{{}}}}
	if keys := a.NeedsRestart(&b); len(keys) > 0 {
		t.Errorf("%v", keys)
	}
	b.API.TCP = &APITCP{Listen: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:2")}}
	if keys := a.NeedsRestart(&b); !reflect.DeepEqual(keys, []string{"api"}) {
		t.Errorf("%v", keys)
	}
}
