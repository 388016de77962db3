package config

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/eidolon-lisp/eidolon/mapping"
)

const namedXTR = `
map_resolvers: [203.0.113.10]
map_servers:
  - address: 203.0.113.10
    authentication_key: {key_id: 1, algorithm: hmac-sha-256-128, key: a key of this test}
locator_sets:
  - name: a
    locators: [{address: 192.0.2.1, name: NAME}, {address: 192.0.2.9}]
database_mappings:
  - {eid: 10.1.0.0/16, locator_set: a}
`

// A name in the configuration makes an AFI-list of address and name, behind the
// plain addresses.
func TestLC17_NameOfALocator(t *testing.T) {
	c, err := LoadXTR(write(t, strings.Replace(namedXTR, "NAME", "uplink-a", 1)))
	if err != nil {
		t.Fatal(err)
	}
	named := mapping.MakeLocator(netip.MustParseAddr("192.0.2.1"), 1, 100)
	named.Opaque = "\x40\x03\x00\x00\x01\x00\x00\x11\x00\x01\xc0\x00\x02\x01\x00\x11uplink-a\x00"
	got := c.DatabaseMappings[0].Locators
	if len(got) != 2 || got[0] != mapping.MakeLocator(netip.MustParseAddr("192.0.2.9"), 1, 100) || got[1] != named {
		t.Errorf("locators %q", got)
	}
	for _, bad := range []string{`""`, `"a\0b"`, `"Ünicode"`, strings.Repeat("n", 64), "[a]"} {
		_, err := LoadXTR(write(t, strings.Replace(namedXTR, "NAME", bad, 1)))
		es, ok := errors.AsType[Errors](err)
		if !ok || len(es) != 1 || es[0].Line != 8 || !strings.Contains(es[0].Message, "1 to 63 printable ASCII characters") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}
