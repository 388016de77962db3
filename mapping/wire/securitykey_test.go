package wire

import (
	"errors"
	"testing"
)

func TestLC11_SecurityKey(t *testing.T) {
	v4 := mustDecodeAddress(t, v4Hex)
	keys := func(k SecurityKey, keys ...string) *SecurityKey {
		b := make([][]byte, len(keys))
		for i, key := range keys {
			b[i] = []byte(key)
		}
		if err := k.SetKeys(b...); err != nil {
			t.Fatal(err)
		}
		return &k
	}
	two := keys(SecurityKey{Algorithm: 5, Revoked: true, Locator: v4}, "abc", "")
	testLCAF(t, LCAFSecurityKey,
		lcafVector{"two keys", "4003 0000 0b00 0011 02 00 05 01 0003 616263 0000" + v4Hex, two, "security-key(algorithm 5, keys of 3 0 octets, revoked, 192.0.2.1)", nil},
		lcafVector{"one key of RFC 8061", "4003 0000 0b00 002c 01 00 05 00 0020 8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a" + v4Hex,
			keys(SecurityKey{Algorithm: 5, Locator: v4}, string(unhex(t, "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"))),
			"security-key(algorithm 5, keys of 32 octets, 192.0.2.1)", nil},
		lcafVector{"none", "4003 0000 0b00 0006 00 00 02 00 0000", &SecurityKey{Algorithm: 2}, "security-key(algorithm 2)", nil})
	var got []string
	for key := range two.Keys() {
		got = append(got, string(key))
	}
	sameStrings(t, "keys", got, "abc", "")
	for range two.Keys() {
		break // stops early
	}
	var k SecurityKey
	if err := k.SetKeys(make([]byte, 1<<16)); !errors.Is(err, ErrInvalid) {
		t.Errorf("a key of 64 KiB: %v", err)
	}
	if err := k.SetKeys(make([][]byte, 256)...); !errors.Is(err, ErrInvalid) {
		t.Errorf("256 keys: %v", err)
	}
	// Who does not encrypt has no use for it.
	if a, err := (LCAF{Type: LCAFSecurityKey, Payload: unhex(t, "00 00 05 00"+v4Hex)}).Address(); err != nil || !a.IsLocator() {
		t.Errorf("%v, %v", a, err)
	} else if ip, ok := a.RLOC(); ok {
		t.Errorf("encapsulates to %v", ip)
	}
}
