package config

import (
	"fmt"
	"io"
	"math"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/auth"
)

// shortKey is the length in octets below which an authentication key draws a
// warning: 128 bits, what the shortest MAC in use is worth.
const shortKey = 16

func readAtMost(r io.Reader, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("it is larger than %d octets", limit)
	}
	return data, nil
}

// integer reads a decimal number from low to high.
func (v value) integer(low, high, otherwise uint64) uint64 {
	v.form.is(integerForm(low, high, otherwise))
	want := fmt.Sprintf("a number from %d to %d", low, high)
	s, ok := v.text(want)
	if !ok {
		return otherwise
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || n < low || n > high {
		v.fail("found %q, expected %s", s, want)
		return otherwise
	}
	return n
}

func (v value) boolean(otherwise bool) bool {
	v.form.is(scalar{kind: boolean, otherwise: strconv.FormatBool(otherwise)})
	s, ok := v.text("true or false")
	switch {
	case !ok:
		return otherwise
	case s == "true" || s == "false":
		return s == "true"
	}
	v.fail("found %q, expected true or false", s)
	return otherwise
}

func (v value) duration(low, high, otherwise time.Duration) time.Duration {
	v.form.is(durationForm(low, high, otherwise))
	want := fmt.Sprintf("a duration from %s to %s, such as %s", shortDuration(low), shortDuration(high), shortDuration(otherwise))
	s, ok := v.text(want)
	if !ok {
		return otherwise
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < low || d > high {
		v.fail("found %q, expected %s", s, want)
		return otherwise
	}
	return d
}

// shortDuration is d.String without the zero units at the end.
func shortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// enum reads one of names; the first is the default.
func (v value) enum(names ...string) string {
	v.form.is(scalar{kind: enum, names: names, otherwise: names[0]})
	s, ok := v.text(oneOf(names))
	if !ok {
		return names[0]
	}
	for _, n := range names {
		if n == s {
			return s
		}
	}
	if guess := nearest(s, names); guess != "" {
		v.fail("found %q, expected %s; did you mean %q?", s, oneOf(names), guess)
	} else {
		v.fail("found %q, expected %s", s, oneOf(names))
	}
	return names[0]
}

const wantEID = "an EID-prefix such as 10.1.0.0/16 or \"[7]2001:db8:1::/48\""

// eid reads an EID-prefix; host bits that are set are taken for a slip.
func (v value) eid() (mapping.EID, bool) {
	v.form.is(eidForm)
	s, ok := v.text(wantEID)
	if !ok {
		return mapping.EID{}, false
	}
	e, err := mapping.ParseEID(s)
	if err != nil {
		v.fail("%v", err)
		return mapping.EID{}, false
	}
	if e.Source.IsValid() {
		v.fail("found %q, an EID with a source prefix can't be configured; expected %s", s, wantEID)
		return mapping.EID{}, false
	}
	_, prefix, bracketed := strings.Cut(s, "]")
	if !bracketed {
		prefix = s
	}
	if p, err := netip.ParsePrefix(strings.TrimSpace(prefix)); err == nil && p != p.Masked() {
		v.fail("found %q, which has host bits set; expected %v", s, e)
		return mapping.EID{}, false
	}
	if e.Prefix.Addr().IsMulticast() {
		v.fail("found the multicast prefix %q, expected %s", s, wantEID)
		return mapping.EID{}, false
	}
	return e, true
}

// rloc reads the address of a locator.
func (v value) rloc() (netip.Addr, bool) {
	v.form.is(addressForm)
	const want = "an IPv4 or IPv6 address that the underlay routes"
	s, ok := v.text(want)
	if !ok {
		return netip.Addr{}, false
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		v.fail("found %q, expected %s", s, want)
		return netip.Addr{}, false
	}
	if err := mapping.ValidRLOC(a); err != nil {
		v.fail("found %q, expected %s (%v)", s, want, err)
		return netip.Addr{}, false
	}
	return a, true
}

// addrPort reads an address with or without a port. A wildcard address is
// good only to listen on.
func (v value) addrPort(port uint16, wildcard bool) (netip.AddrPort, bool) {
	v.form.is(portForm(port))
	want := fmt.Sprintf("an IP address with or without a port, such as 203.0.113.10 or \"[2001:db8::10]:%d\"", port)
	s, ok := v.text(want)
	if !ok {
		return netip.AddrPort{}, false
	}
	ap, err := netip.ParseAddrPort(s)
	if err != nil {
		a, err := netip.ParseAddr(s)
		if err != nil {
			v.fail("found %q, expected %s", s, want)
			return netip.AddrPort{}, false
		}
		ap = netip.AddrPortFrom(a, port)
	}
	switch a := ap.Addr(); {
	case ap.Port() == 0:
		v.fail("found port 0 in %q, expected %s", s, want)
	case a.Is4In6():
		v.fail("found %q, write an IPv4 address as IPv4", s)
	case a.IsMulticast():
		v.fail("found the multicast address %q, expected %s", s, want)
	case a.IsUnspecified() && !wildcard:
		v.fail("found %q, which names no host; expected %s", s, want)
	default:
		return ap, true
	}
	return netip.AddrPort{}, false
}

// recordTTL reads a Record TTL in minutes. A week is the longest that a
// map-cache holds an entry without asking again.
func (v value) recordTTL() uint32 { return uint32(v.integer(1, 7*24*60, mapping.DefaultTTL)) }

// instanceID reads an instance-ID.
func (v value) instanceID() uint32 { return uint32(v.integer(0, mapping.MaxIID, 0)) }

// socketPath reads where a Unix socket is.
func (v value) socketPath(otherwise string) string {
	const longest = 107 // sun_path less its final zero, unix(7)
	v.form.is(pathForm)
	v.form.otherwise(otherwise)
	s, ok := v.text("the path of a Unix socket")
	if !ok {
		return otherwise
	}
	if s == "" || len(s) > longest {
		v.fail("found %q, expected the path of a Unix socket, 1 to %d octets long", s, longest)
		return otherwise
	}
	return v.r.relative(s)
}

// directory reads where a directory is, "" after an error.
func (v value) directory() string {
	v.form.is(pathForm)
	s, ok := v.text("the path of a directory")
	if !ok {
		return ""
	}
	if s == "" {
		v.fail("found an empty path, expected the path of a directory")
		return ""
	}
	return v.r.relative(s)
}

const wantKey = "a mapping with key_id, algorithm, and key or key_file"

// authenticationKey reads a pre-shared key. No message of it quotes the key.
func (v value) authenticationKey() (k auth.Key, ok bool) {
	v.secret = true
	o, ok := v.object()
	if !ok {
		return k, false
	}
	before := len(v.r.errors)
	k.ID = uint8(o.need("key_id", "a number from 0 to 255").integer(0, 255, 0))
	k.Algorithm = o.get("algorithm").algorithm(auth.SHA256HKDF)
	k.Secret = o.secret()
	o.end()
	return k, len(v.r.errors) == before
}

// secret reads key or key_file; it is empty after an error.
func (o *object) secret() []byte {
	inline, file := o.get("key"), o.get("key_file")
	inline.form.isText()
	file.form.is(pathForm)
	secret, from := "", inline
	switch {
	case inline.given() && file.given():
		o.fail(file.key, "found both key and key_file, expected one of them")
	case inline.given():
		switch s, isText := inline.secretText(); {
		case !isText:
		case s == "":
			inline.fail("found an empty key")
		default:
			secret = s
		}
	case file.given():
		secret, from = file.secretFile(), file
	default:
		o.fail(o.at, "found neither key nor key_file, expected one of them")
	}
	if secret != "" && len(secret) < shortKey {
		from.warn("the key has %d octets, at least %d are advised", len(secret), shortKey)
	}
	return []byte(secret)
}

// secretText is text for a value that must not be shown.
func (v value) secretText() (string, bool) {
	s, ok := v.text("the key as text")
	v.keep(s, true)
	return s, ok
}

// secretFile returns what the named file holds, without one newline at its
// end, or "" after an error.
func (v value) secretFile() string {
	v.form.is(pathForm)
	s, ok := v.text("the path of a file that holds the key")
	if !ok {
		return ""
	}
	path := v.r.relative(s)
	v.needs(NeedKey, path)
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() {
		v.fail("%s is not a regular file, expected a file that holds the key", s)
		return ""
	}
	f, err := os.Open(path)
	if err != nil {
		v.fail("the key can't be read: %v", err)
		return ""
	}
	defer f.Close()
	const longest = 4096
	data, err := readAtMost(f, longest)
	if err != nil {
		v.fail("the key can't be read: %s: %v", s, err)
		return ""
	}
	if info.Mode().Perm()&0o004 != 0 {
		v.warn("%s can be read by everybody (mode %04o), expected 0640 or less", s, info.Mode().Perm())
	}
	secret := strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
	if secret == "" {
		v.fail("%s holds no key", s)
	}
	v.keep(secret, false)
	return secret
}

func (v value) algorithm(otherwise auth.Algorithm) auth.Algorithm {
	names := []string{otherwise.String()}
	for a := auth.SHA256HKDF; a >= auth.SHA1; a-- {
		if a != otherwise {
			names = append(names, a.String())
		}
	}
	a, err := auth.ParseAlgorithm(v.enum(names...))
	if err != nil {
		return otherwise
	}
	return a
}

// xtrID reads 128 bits in hexadecimal.
func (v value) xtrID() (id mapping.XTRID) {
	v.form.is(xtrIDForm)
	const want = "32 hexadecimal digits"
	s, ok := v.text(want)
	if !ok {
		return id
	}
	for i := range id {
		if len(s) != 2*len(id) {
			break
		}
		n, err := strconv.ParseUint(s[2*i:2*i+2], 16, 8)
		if err != nil {
			v.fail("found %q, expected %s", s, want)
			return mapping.XTRID{}
		}
		id[i] = byte(n)
	}
	switch {
	case len(s) != 2*len(id):
		v.fail("found %q, which has %d characters; expected %s", s, len(s), want)
	case id == mapping.XTRID{}:
		v.fail("found an xTR-ID of zeros, which names no xTR; expected %s", want)
	}
	return id
}

// siteID reads 64 bits, decimal.
func (v value) siteID() uint64 { return v.integer(0, math.MaxUint64, 0) }
