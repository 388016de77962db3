package config

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
)

// API is where a daemon's gRPC services listen, and who may call them.
type API struct {
	// Socket is the path of the Unix socket; a relative one has been
	// resolved against the directory of the file.
	Socket string
	// AuditFile gets a line for each change; with "" changes are told in the
	// log.
	AuditFile string
	// TCP is nil where there is the Unix socket only.
	TCP *APITCP
	// Users are who may call over TCP. Each has a name of its own, a role at
	// least, and a certificate or token that no other has.
	Users []APIUser
}

// APITCP is where gRPC services listen with TLS.
type APITCP struct {
	// Listen is not empty.
	Listen []netip.AddrPort
	// REST is where the services are there as REST, too.
	REST []netip.AddrPort
	// Certificate is the daemon's, with its key; its Leaf is set.
	Certificate tls.Certificate `json:"-"`
	// ClientCAs sign the certificates of users; empty where these have tokens
	// only.
	ClientCAs []*x509.Certificate `json:"-"`
	// MaxConnections is how many there may be at the same time.
	MaxConnections int
}

// APIUser is somebody who calls over TCP.
type APIUser struct {
	Name string
	// Read sees everything, Operate also changes everything.
	Read, Operate bool
	// Register reads and changes mappings inside of EIDPrefixes and in
	// Instances, one of which is not empty then.
	Register    bool
	EIDPrefixes []mapping.EID
	Instances   []uint32
	// Certificates are names of which a client certificate has one.
	Certificates []string
	// Tokens are the SHA-256 of bearer tokens.
	Tokens [][sha256.Size]byte `json:"-"`
}

// Limits on users, of our own.
const (
	maxUsers    = 1024
	maxPEM      = 1 << 20
	shortToken  = 22 // characters of base64 that hold 128 bits
	longToken   = 512
	soonExpired = 14 * 24 * time.Hour
	restPorts   = 100 // from the port of gRPC to that of REST
)

// restart returns what of it takes effect with a restart only.
func (a API) restart() API {
	a.AuditFile, a.Users = "", nil
	if a.TCP != nil {
		a.TCP = &APITCP{Listen: a.TCP.Listen, REST: a.TCP.REST, MaxConnections: a.TCP.MaxConnections}
	}
	return a
}

// api reads where the services of a daemon listen: on the socket otherwise, and
// on port of the addresses that have none.
func (v value) api(otherwise string, port uint16) API {
	a := API{Socket: otherwise}
	o, ok := v.object()
	if !ok {
		v.needs(NeedSocket, a.Socket)
		return a
	}
	socket, file := o.get("socket"), o.get("audit_file")
	a.Socket = socket.socketPath(otherwise)
	socket.needs(NeedSocket, a.Socket)
	if file.given() {
		a.AuditFile = file.filePath("the path of a file that changes are written to")
		file.needs(NeedDirectory, filepath.Dir(a.AuditFile))
	}
	tcp, users := o.get("tcp"), o.get("users")
	certificates := a.readTCP(tcp, port)
	a.readUsers(users, certificates)
	o.end()
	switch {
	case tcp.given() && !users.given():
		o.fail(tcp.key, "found tcp without users, so nobody could call over it")
	case users.given() && !tcp.given():
		users.warn("without tcp nobody can be one of these: who uses the socket may do everything")
	}
	return a
}

// filePath reads the path of a file that need not be there, "" after an error.
func (v value) filePath(want string) string {
	v.form.is(pathForm)
	s, ok := v.text(want)
	if !ok {
		return ""
	}
	if s == "" || strings.HasSuffix(s, "/") {
		v.fail("found %q, expected %s", s, want)
		return ""
	}
	return v.r.relative(s)
}

// readTCP reports whether users may have certificates.
func (a *API) readTCP(v value, port uint16) (certificates bool) {
	o, ok := v.object()
	if !ok {
		return false
	}
	before, t := len(v.r.errors), &APITCP{}
	seen := make(names[netip.AddrPort])
	for _, item := range o.need("listen", fmt.Sprintf("a list of addresses to listen on, such as [\"203.0.113.10:%d\"]", port)).atLeastOne("addresses to listen on") {
		if ap, ok := item.addrPort(port, true); ok && seen.add(ap, item, "address") {
			t.Listen = append(t.Listen, ap)
			item.needsAddr(NeedTCP, ap)
		}
	}
	for _, item := range o.get("rest_listen").atLeastOne("addresses to serve REST on") {
		if ap, ok := item.addrPort(port+restPorts, true); ok && seen.add(ap, item, "address") {
			t.REST = append(t.REST, ap)
			item.needsAddr(NeedTCP, ap)
		}
	}
	certificate := o.need("certificate_file", "the file of the daemon's certificate, in PEM, with those between it and the CA")
	key := o.need("key_file", "the file of the key of the certificate, in PEM")
	t.MaxConnections = int(o.get("max_connections").integer(1, 4096, 128))
	ca := o.get("client_ca_file")
	if ca.given() {
		t.ClientCAs = ca.certificates()
		for _, c := range t.ClientCAs {
			if !c.IsCA {
				ca.fail("%q is not the certificate of a CA", c.Subject)
			}
			ca.warnExpiry(c)
		}
	}
	o.end()
	chain := certificate.certificates()
	if t.Certificate = key.keyOf(chain); len(chain) > 0 {
		certificate.warnExpiry(chain[0])
	}
	if len(v.r.errors) == before {
		a.TCP = t
	}
	return ca.given()
}

// warnExpiry warns of a certificate that can't be used, or soon can't.
func (v value) warnExpiry(c *x509.Certificate) {
	switch now := time.Now(); {
	case now.After(c.NotAfter):
		v.warn("the certificate of %q expired at %s", c.Subject, c.NotAfter.UTC().Format(time.RFC3339))
	case now.Add(soonExpired).After(c.NotAfter):
		v.warn("the certificate of %q expires soon, at %s", c.Subject, c.NotAfter.UTC().Format(time.RFC3339))
	case now.Before(c.NotBefore):
		v.warn("the certificate of %q is not valid before %s", c.Subject, c.NotBefore.UTC().Format(time.RFC3339))
	}
}

// content reads the file that v names; what is private must not be open to
// everybody. It fails without a text of the content.
func (v value) content(want string, limit int64, private bool) ([]byte, bool) {
	v.form.is(pathForm)
	name, ok := v.text("the path of " + want)
	if !ok {
		return nil, false
	}
	path := v.r.relative(name)
	if private {
		v.needs(NeedKey, path)
	}
	info, err := os.Stat(path) // before it is opened: it may be a FIFO
	if err == nil && !info.Mode().IsRegular() {
		v.fail("%s is not a regular file, expected %s", name, want)
		return nil, false
	}
	f, err := os.Open(path)
	if err != nil {
		v.fail("it can't be read: %v", err)
		return nil, false
	}
	defer f.Close()
	info, err = f.Stat()
	if err != nil {
		v.fail("it can't be read: %v", err)
		return nil, false
	}
	if mode := info.Mode().Perm(); private && mode&0o007 != 0 {
		v.fail("everybody can read or write %s (mode %04o), expected 0640 or less", name, mode)
		return nil, false
	}
	data, err := readAtMost(f, limit)
	if err != nil {
		v.fail("%s can't be read: %v", name, err)
		return nil, false
	}
	v.keep(string(data), false)
	return data, true
}

// certificates reads a file of certificates, nil after an error.
func (v value) certificates() (list []*x509.Certificate) {
	data, ok := v.content("certificates in PEM", maxPEM, false)
	if !ok {
		return nil
	}
	for {
		block, rest := pem.Decode(data)
		if block == nil {
			break
		}
		data = rest
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			v.fail("certificate %d can't be used: %v", len(list)+1, err)
			return nil
		}
		list = append(list, c)
	}
	if len(list) == 0 {
		v.fail("it holds no certificate in PEM")
	}
	return list
}

// inPEM is a list of certificates as files hold them.
func inPEM(list []*x509.Certificate) (text []byte) {
	for _, c := range list {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return text
}

// keyOf reads the key of the first of chain, which is empty after an error.
func (v value) keyOf(chain []*x509.Certificate) (pair tls.Certificate) {
	key, ok := v.content("a key in PEM", maxPEM, true)
	if !ok || len(chain) == 0 {
		return pair
	}
	pair, err := tls.X509KeyPair(inPEM(chain), key)
	if err != nil {
		v.fail("it is not the key of the certificate of %q: %v", chain[0].Subject, err)
		return tls.Certificate{}
	}
	pair.Leaf = chain[0]
	return pair
}

const wantUsers = "users, each with name, roles, and a certificate, token_file or token_hashes"

func (a *API) readUsers(v value, certificates bool) {
	seen, subjects, tokens := make(names[string]), make(names[string]), make(names[[sha256.Size]byte])
	for i, item := range v.atLeastOne(wantUsers) {
		if i == maxUsers {
			item.fail("found more than %d users", maxUsers)
			return
		}
		o, ok := item.object()
		if !ok {
			continue
		}
		var u APIUser
		at := o.need("name", "the name of the user")
		if u.Name, ok = at.userName(); ok {
			seen.add(u.Name, at, "user")
		}
		u.readRoles(o)
		for _, c := range o.get("certificates").list("names of certificates") {
			name, ok := c.text("a name in the certificate of the user")
			switch {
			case !ok:
			case name == "":
				c.fail("found an empty name")
			case !certificates:
				c.fail("there is no tcp.client_ca_file to sign it")
			case subjects.add(name, c, "certificate"):
				u.Certificates = append(u.Certificates, name)
			}
		}
		add := func(sum [sha256.Size]byte, at value) {
			if first, twice := tokens[sum]; twice {
				at.fail("the token is given twice, first at line %d", first.at.Line)
				return
			}
			tokens[sum] = at
			u.Tokens = append(u.Tokens, sum)
		}
		file, hashes := o.get("token_file"), o.get("token_hashes")
		if file.given() {
			if sum, ok := file.tokenFile(); ok {
				add(sum, file)
			}
		}
		hashes.secret = true
		for _, h := range hashes.list("SHA-256 hashes of tokens") {
			if sum, ok := h.tokenHash(); ok {
				add(sum, h)
			}
		}
		if !o.fields["certificates"].given() && !file.given() && !hashes.given() {
			o.fail(o.at, "found neither certificates, token_file nor token_hashes, so nobody could be this user")
		}
		o.end()
		a.Users = append(a.Users, u)
	}
}

// userName reads the name that a user has in the audit log.
func (v value) userName() (string, bool) {
	const want = "1 to 63 letters, digits and any of . _ @ -"
	v.form.is(scalar{what: want, pattern: `^[A-Za-z0-9._@-]{1,63}$`, numeric: true})
	s, ok := v.text(want)
	if !ok {
		return "", false
	}
	if len(s) < 1 || len(s) > 63 || strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._@-", r))
	}) {
		v.fail("found %q, expected %s", s, want)
		return "", false
	}
	return s, true
}

func (u *APIUser) readRoles(o *object) {
	roles := o.need("roles", "a list of read, operate and register")
	for _, r := range roles.atLeastOne("read, operate or register") {
		switch r.enum("read", "operate", "register") {
		case "read":
			u.Read = true
		case "operate":
			u.Operate = true
		case "register":
			u.Register = true
		}
	}
	prefixes, instances := o.get("eid_prefixes"), o.get("instances")
	for _, p := range prefixes.atLeastOne("EID-prefixes whose mappings the user may change") {
		if e, ok := p.eid(); ok {
			u.EIDPrefixes = append(u.EIDPrefixes, e)
		}
	}
	for _, i := range instances.atLeastOne("instance-IDs whose mappings the user may change") {
		if iid := i.instanceID(); !slices.Contains(u.Instances, iid) {
			u.Instances = append(u.Instances, iid)
		}
	}
	limited := prefixes.given() || instances.given()
	switch {
	case u.Register && u.Operate:
		roles.fail("found register and operate, which changes all mappings; expected one of them")
	case u.Register && !limited:
		o.fail(roles.key, "found the role register without eid_prefixes or instances that it is for")
	case !u.Register && limited && roles.given():
		o.fail(roles.key, "found eid_prefixes or instances without the role register, which alone they limit")
	}
}

// tokenFile reads a token; only its hash is kept.
func (v value) tokenFile() (sum [sha256.Size]byte, ok bool) {
	data, ok := v.content("a file that holds a token", 4096, true)
	if !ok {
		return sum, false
	}
	token := strings.TrimRight(string(data), "\r\n")
	switch {
	case len(token) < shortToken || len(token) > longToken:
		v.fail("the token has %d characters, expected %d to %d, drawn at random", len(token), shortToken, longToken)
		return sum, false
	case strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }):
		v.fail("the token has a space, or a character that is not of ASCII")
		return sum, false
	}
	return sha256.Sum256([]byte(token)), true
}

func (v value) tokenHash() (sum [sha256.Size]byte, ok bool) {
	const want = "the SHA-256 of a token as 64 hexadecimal digits"
	v.form.is(scalar{what: "64 hexadecimal digits", pattern: `^[0-9a-fA-F]{64}$`, numeric: true})
	s, ok := v.text(want)
	if !ok {
		return sum, false
	}
	v.keep(s, true)
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(sum) {
		v.fail("found a text of %d characters, expected %s", len(s), want)
		return sum, false
	}
	return [sha256.Size]byte(b), true
}
