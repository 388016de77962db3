package auth

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

var password = []byte("password")

// Map-Registers with authentication data that others computed: unit tests of
// OpenDaylight lispflowmapping (LispAuthenticationTest and
// MapRegisterSerializationTest), key "password".
var thirdParty = []struct{ name, msg string }{
	{"SHA-1", "38000101ffbb000000000000000100142c61b9c99a20bad8f540d3556f5f6e5ab20abfb50000000a01201000000000019910fe010164ff0000050001c0a8880a"},
	{"SHA-256", "38000101ffbb000000000000000200207030d4c610440d83be4dbffda98c576d68a5bf3211c97b58c4b99f061123b9380000000a01201000000000019910fe010164ff0000050001c0a8880a"},
	{"four records", "38000104ffbb0000000000000001001487c133cdd11ebc80fd3e711181174074262544bd0000000a01201000000000019910fe010164ff0000050001c0a8880a0000000a01201000000000019810fe010164ff0000050001c0a8880b0000000a01201000000000019710fe010164ff0000050001c0a8880c0000000a01201000000000019610fe010164ff0000050001c0a8880d"},
	{"unassigned ACT", "38000101ffbb00000000000000010014ec471e5325912f68107513dd2ce86e3cac94ede40000000a0120f000000000019910fe010164ff0000050001c0a8880a"},
}

// The same message with each algorithm and length, computed by an independent
// implementation in Python: xTR-ID and Site-ID follow and are covered.
const (
	computedHead = "3a0001010000000000000101"
	computedTail = "0000000a0120100000000001c0a800010164ff0000050001c0a8880a00112233445566778899aabbccddeeff0000000000000001"
)

var computed = []struct{ name, msg string }{
	{"SHA-1 truncated", computedHead + "0001000c320476abd67d3bf330958d09" + computedTail},
	{"SHA-1 whole", computedHead + "000100143a5d8f2d04203a5ca9409072c3a53104928b45fb" + computedTail},
	{"SHA-256 truncated", computedHead + "00020010661a05685a3ccaa9807ddc6896229c0f" + computedTail},
	{"SHA-256 whole", computedHead + "000200207202cde296c632f6e689f673a6075138f914fab7b069c500614f3b5daadf97e6" + computedTail},
	{"HKDF Map-Register", computedHead + "0a030010f22997ffc642e6b594a9af2fcec18b9a" + computedTail},
	{"HKDF Map-Notify", "4800000100000000000001010a0300107abd58304bbf66aedd19bf4b29358ed0" + computedTail},
	{"HKDF Map-Notify-Ack", "5800000100000000000001010a030010ef178e6dbc61bd4c26b8001e9de954ec" + computedTail},
}

func keys(algorithm Algorithm) []Key {
	return []Key{{ID: 0, Algorithm: algorithm, Secret: password}, {ID: 10, Algorithm: algorithm, Secret: password}}
}

func TestVerifyVectors(t *testing.T) {
	for _, v := range append(thirdParty, computed...) {
		msg := unhex(t, v.msg)
		k, err := Verify(msg, keys(SHA256), SHA1)
		if err != nil {
			t.Errorf("%s: %v", v.name, err)
			continue
		}
		if k.Algorithm != Algorithm(msg[13]) || k.ID != msg[12] {
			t.Errorf("%s: verified with %v", v.name, k)
		}
		// What Verify accepts, Sign computes.
		signed := bytes.Clone(msg)
		n := int(msg[15])
		copy(signed[16:16+n], make([]byte, n))
		if err := Sign(signed, k); err != nil || !bytes.Equal(signed, msg) {
			t.Errorf("%s: Sign gives %x, %v", v.name, signed[16:16+n], err)
		}
		// Every octet is covered: any change is refused and names a reason.
		for i := range msg {
			bad := bytes.Clone(msg)
			bad[i] ^= 1
			if _, err := Verify(bad, keys(SHA256), SHA1); err == nil {
				t.Errorf("%s: octet %d changed and nobody noticed", v.name, i)
			}
		}
		for n := range msg {
			if _, err := Verify(msg[:n], keys(SHA256), SHA1); err == nil {
				t.Errorf("%s: cut to %d octets and accepted", v.name, n)
			}
		}
	}
}

func TestVerifyRefuses(t *testing.T) {
	const tail = "0000000a01201000000000019910fe010164ff0000050001c0a8880a"
	for _, x := range []struct {
		name, msg string
		keys      []Key
		minimum   Algorithm
		want      error
	}{
		{"wrong MAC", "38000101ffbb00000000000000010014e8f50bc5c5f2b02127a8214104f3465a5a5b5c5d" + tail, keys(SHA1), SHA1, ErrMismatch},
		{"weaker than the minimum", thirdParty[0].msg, keys(SHA1), SHA256, ErrAlgorithm},
		{"weaker than the default minimum", thirdParty[0].msg, keys(SHA1), 0, ErrAlgorithm},
		{"algorithm 0", "38000101ffbb000000000000" + "00000000" + tail, keys(SHA1), SHA1, ErrAlgorithm},
		{"algorithm 0 with data", "38000101ffbb000000000000" + "00000014" + strings.Repeat("00", 20) + tail, keys(SHA1), SHA1, ErrAlgorithm},
		{"algorithm 4", "38000101ffbb000000000000" + "00040010" + strings.Repeat("00", 16) + tail, keys(SHA1), SHA1, ErrAlgorithm},
		{"no data", "38000101ffbb000000000000" + "00020000" + tail, keys(SHA1), SHA1, ErrLength},
		{"one octet", "38000101ffbb000000000000" + "0002000170" + tail, keys(SHA1), SHA1, ErrLength},
		{"length of another algorithm", "38000101ffbb000000000000" + "00020014" + strings.Repeat("00", 20) + tail, keys(SHA1), SHA1, ErrLength},
		{"announced longer than the message", "38000101ffbb00000000000000000014", keys(SHA1), SHA1, ErrAlgorithm},
		{"cut", "38000101ffbb00000000000000010014aabb", keys(SHA1), SHA1, ErrLength},
		{"unknown key-id", thirdParty[0].msg, []Key{{ID: 9, Algorithm: SHA1, Secret: password}}, SHA1, ErrUnknownKey},
		{"no keys", thirdParty[0].msg, nil, SHA1, ErrUnknownKey},
		{"empty secret", thirdParty[0].msg, []Key{{Algorithm: SHA1}}, SHA1, ErrUnknownKey},
		{"other secret", thirdParty[0].msg, []Key{{Algorithm: SHA1, Secret: []byte("passw0rd")}}, SHA1, ErrMismatch},
		{"Map-Request", "1" + thirdParty[0].msg[1:], keys(SHA1), SHA1, ErrMessage},
		{"empty", "", keys(SHA1), SHA1, ErrMessage},
	} {
		_, err := Verify(unhex(t, x.msg), x.keys, x.minimum)
		if !errors.Is(err, x.want) {
			t.Errorf("%s: %v, want %v", x.name, err, x.want)
		}
	}
}

// During a rollover two keys may share an ID; either is accepted.
func TestVerifyTriesAllKeysOfAnID(t *testing.T) {
	ks := []Key{{ID: 0, Algorithm: SHA256, Secret: []byte("old")}, {ID: 0, Algorithm: SHA256, Secret: password}}
	if k, err := Verify(unhex(t, thirdParty[1].msg), ks, SHA256); err != nil || string(k.Secret) != "password" {
		t.Errorf("%v, %v", k, err)
	}
}

// The message type is part of a derived key, so that a Map-Register can't be
// replayed as its own Map-Notify.
func TestDerivedKeysDifferByMessage(t *testing.T) {
	msg := unhex(t, computed[4].msg)
	msg[0] = 0x4a
	if _, err := Verify(msg, keys(SHA256HKDF), SHA1); !errors.Is(err, ErrMismatch) {
		t.Errorf("a Map-Register passed as Map-Notify: %v", err)
	}
}

func TestSignNeedsARoom(t *testing.T) {
	k := Key{ID: 1, Algorithm: SHA256HKDF, Secret: password}
	m := wire.MapRegister{Nonce: 7, Auth: k.Template()}
	msg, err := m.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := Sign(msg, k); err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(msg, []Key{k}, SHA256HKDF); err != nil {
		t.Error(err)
	}
	for _, bad := range []Key{{ID: 2, Algorithm: SHA256HKDF, Secret: password}, {ID: 1, Algorithm: SHA256, Secret: password}, {ID: 1, Algorithm: SHA256HKDF}} {
		if err := Sign(bytes.Clone(msg), bad); err == nil {
			t.Errorf("signed with %v", bad)
		}
	}
}

func TestSecretsAreNotPrinted(t *testing.T) {
	k := Key{ID: 1, Algorithm: SHA256, Secret: []byte("s3cr3t")}
	var b bytes.Buffer
	slog.New(slog.NewTextHandler(&b, nil)).Info("x", "key", k)
	slog.New(slog.NewJSONHandler(&b, nil)).Info("x", "key", k)
	fmt.Fprintf(&b, "%v %+v %#v %s %v", k, k, k, k, []Key{k})
	for _, s := range []string{"s3cr3t", "czNjcjN0", hex.EncodeToString(k.Secret)} {
		if strings.Contains(b.String(), s) {
			t.Errorf("the secret is in %q", b.String())
		}
	}
}

func TestAlgorithmNames(t *testing.T) {
	for a := SHA1; a <= SHA256HKDF; a++ {
		if got, err := ParseAlgorithm(a.String()); err != nil || got != a {
			t.Errorf("ParseAlgorithm(%q) = %v, %v", a, got, err)
		}
	}
	if _, err := ParseAlgorithm("md5"); err == nil {
		t.Error("md5 is an algorithm")
	}
}

func FuzzVerify(f *testing.F) {
	for _, v := range append(thirdParty, computed...) {
		f.Add(unhex(f, v.msg))
	}
	f.Fuzz(func(t *testing.T, msg []byte) {
		before := bytes.Clone(msg)
		k, err := Verify(msg, keys(SHA256), SHA1)
		if !bytes.Equal(msg, before) {
			t.Fatal("Verify changed the message")
		}
		if err != nil {
			return
		}
		if err := Sign(msg, k); err != nil || !bytes.Equal(msg, before) {
			t.Fatalf("accepted what Sign would not write: %v", err)
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	for _, v := range computed {
		msg := unhex(b, v.msg)
		b.Run(v.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Verify(msg, keys(SHA256)[:], SHA1); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
