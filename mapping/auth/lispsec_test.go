package auth

import (
	"bytes"
	"crypto/aes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// RFC 3394 sections 4.1 to 4.6: all of its vectors.
func TestKeyWrapVectors(t *testing.T) {
	const kek, data = "000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F", "00112233445566778899AABBCCDDEEFF000102030405060708090A0B0C0D0E0F"
	for _, v := range []struct {
		kek, data int // octets
		want      string
	}{
		{16, 16, "1FA68B0A8112B447AEF34BD8FB5A7B829D3E862371D2CFE5"},
		{24, 16, "96778B25AE6CA435F92B5B97C050AED2468AB8A17AD84E5D"},
		{32, 16, "64E8C3F9CE0F5BA263E9777905818A2A93C8191E7D6E8AE7"},
		{24, 24, "031D33264E15D33268F24EC260743EDCE1C6C7DDEE725A936BA814915C6762D2"},
		{32, 24, "A8F9BC1612C68B3FF6E6F4FBE30E71E4769C8B80A32CB8958CD5D17D6B254DA1"},
		{32, 32, "28C9F404C4B810F4CBCCB35CFB87F8263F5786E2D80ED326CBC7F0E71A99F43BFB988B9B7A02DD21"},
	} {
		block, err := aes.NewCipher(unhex(t, kek)[:v.kek])
		if err != nil {
			t.Fatal(err)
		}
		key, want := unhex(t, data)[:v.data], unhex(t, v.want)
		out := make([]byte, len(key)+8)
		wrapKey(block, out, key)
		if !bytes.Equal(out, want) {
			t.Errorf("%d octets with %d: %x, want %x", v.data, v.kek, out, want)
		}
		back := make([]byte, len(key))
		if !unwrapKey(block, back, want) || !bytes.Equal(back, key) {
			t.Errorf("%d octets with %d unwrap to %x", v.data, v.kek, back)
		}
		for i := range want {
			bad := bytes.Clone(want)
			bad[i] ^= 0x80
			if unwrapKey(block, back, bad) {
				t.Errorf("octet %d changed and nobody noticed", i)
			}
		}
	}
}

// What an independent implementation in Python computed.
const (
	vectorNonce = 0x1122334455667788
	ecmData     = "01000002001801021c333395b718fd4d1293ea3992b2937545d3189aaa6f33a400040002"
	eidAD       = "0020000201000002001000010a01000099f59af81eab22ad41ccfba920fb2712"
	replyBody   = "200000011122334455667788000005a001101000000000010a0100000164ff0000050001c0000201"
	signedReply = "22" + "0000011122334455667788000005a001101000000000010a0100000164ff0000050001c000020101000000" + eidAD + "0014000288e14550462b80d38e283a18951857b7"
)

var (
	itrMR   = WrapKey{ID: 1, Secret: []byte("itr-mr-secret")}
	msETR   = WrapKey{ID: 1, Secret: []byte("ms-etr-secret")}
	itrOTK  = OneTimeKey{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}
	eidAuth = wire.EIDAuth{KDF: 2, HMACID: 2, Prefixes: []wire.EIDAuthPrefix{wire.NewEIDAuthPrefix(mapping.MustParseEID("10.1.0.0/16"))}}
)

func TestL1_Vectors(t *testing.T) {
	key, err := itrMR.perMessage(vectorNonce)
	if err != nil || !bytes.Equal(key, unhex(t, "890d2ae5c84e22a5bb5aa3a83a452fae")) {
		t.Errorf("key to wrap with: %x, %v", key, err)
	}
	wrapped, err := itrMR.Wrap(vectorNonce, itrOTK)
	if err != nil || !bytes.Equal(wrapped[:], unhex(t, "1c333395b718fd4d1293ea3992b2937545d3189aaa6f33a4")) {
		t.Errorf("wrapped for the map-resolver: %x, %v", wrapped, err)
	}
	ms, err := itrOTK.Derive(KDFSHA256)
	if err != nil || !bytes.Equal(ms[:], unhex(t, "4e24185f0cf7d7413ccbe2ba72d38dfc")) {
		t.Errorf("MS-OTK: %x, %v", ms[:], err)
	}
	wrapped, err = msETR.Wrap(vectorNonce, ms)
	if err != nil || !bytes.Equal(wrapped[:], unhex(t, "8eb284c98eee57767906ec5dda8f948ba30113573d2a26b7")) {
		t.Errorf("wrapped for the ETR: %x, %v", wrapped, err)
	}
	var s wire.ECMSecurity
	if err := s.Decode(unhex(t, ecmData)); err != nil {
		t.Fatal(err)
	}
	if otk, err := Unwrap(&s, vectorNonce, []WrapKey{{ID: 2, Secret: []byte("x")}, {ID: 1, Secret: []byte("old")}, itrMR}, false); err != nil || otk != itrOTK {
		t.Errorf("unwrapped: %x, %v", otk[:], err)
	}
	ad, err := itrOTK.SignEIDAuth(nil, eidAuth)
	if err != nil || !bytes.Equal(ad, unhex(t, eidAD)) {
		t.Errorf("EID-AD: %x, %v", ad, err)
	}
	msg, err := ms.SignReply(unhex(t, replyBody), ad, HMACSHA256)
	if err != nil || !bytes.Equal(msg, unhex(t, signedReply)) {
		t.Errorf("Map-Reply: %x, %v", msg, err)
	}
}

// TestL1_Algorithms runs every pair of algorithms through the whole exchange.
func TestL1_Algorithms(t *testing.T) {
	for _, h := range []HMACID{HMACSHA1, HMACSHA256} {
		for _, k := range []KDFID{KDFSHA1, KDFSHA256} {
			ms, err := itrOTK.Derive(k)
			if err != nil || ms == itrOTK {
				t.Fatalf("%v: %x, %v", k, ms[:], err)
			}
			e := eidAuth
			e.KDF, e.HMACID, e.CantSign = uint16(k), uint16(h), true
			ad, err := itrOTK.SignEIDAuth(nil, e)
			if err != nil {
				t.Fatal(err)
			}
			msg, err := ms.SignReply(unhex(t, replyBody), ad, h)
			if err != nil {
				t.Fatal(err)
			}
			got, err := verify(msg, itrOTK, ms)
			if err != nil || !got.CantSign || KDFID(got.KDF) != k || HMACID(got.HMACID) != h {
				t.Errorf("%v, %v: %+v, %v", h, k, got, err)
			}
		}
	}
	for _, id := range []uint16{0, 3} {
		if _, err := itrOTK.Derive(KDFID(id)); !errors.Is(err, ErrAlgorithm) || KDFID(id).Known() {
			t.Errorf("KDF %d: %v", id, err)
		}
		if _, err := itrOTK.SignReply(unhex(t, replyBody), unhex(t, eidAD), HMACID(id)); !errors.Is(err, ErrAlgorithm) {
			t.Errorf("HMAC %d: %v", id, err)
		}
		e := eidAuth
		e.HMACID = id
		if _, err := itrOTK.SignEIDAuth(nil, e); !errors.Is(err, ErrAlgorithm) {
			t.Errorf("EID HMAC %d: %v", id, err)
		}
	}
}

// verify does with a Map-Reply what an ITR does.
func verify(msg []byte, itr, ms OneTimeKey) (e wire.EIDAuth, err error) {
	var m wire.MapReply
	if err := m.Decode(msg); err != nil {
		return e, err
	}
	var s wire.ReplySecurity
	if err := s.Decode(m.SecurityData); err != nil {
		return e, err
	}
	if err := itr.VerifyEIDAuth(s.EIDAuth, &e); err != nil {
		return e, err
	}
	return e, ms.VerifyReply(msg, &m, &s)
}

// TestL8_Scopes changes each octet of a Map-Reply: somebody notices.
func TestL8_Scopes(t *testing.T) {
	ms, err := itrOTK.Derive(KDFSHA256)
	if err != nil {
		t.Fatal(err)
	}
	good := unhex(t, signedReply)
	if _, err := verify(good, itrOTK, ms); err != nil {
		t.Fatal(err)
	}
	for i := range good {
		for _, flip := range []byte{0x01, 0x80} {
			bad := bytes.Clone(good)
			bad[i] ^= flip
			if _, err := verify(bad, itrOTK, ms); err == nil {
				t.Errorf("octet %d changed by %#x and nobody noticed", i, flip)
			}
		}
	}
	for n := range good {
		if _, err := verify(good[:n], itrOTK, ms); err == nil {
			t.Errorf("cut to %d octets and accepted", n)
		}
	}
	// The EID-AD is under the ITR-OTK, the rest under the MS-OTK: an ETR,
	// which has the latter, can't make an EID-AD.
	var e wire.EIDAuth
	if err := ms.VerifyEIDAuth(unhex(t, eidAD), &e); !errors.Is(err, ErrMismatch) {
		t.Errorf("an EID-AD under the MS-OTK: %v", err)
	}
	if _, err := verify(good, itrOTK, itrOTK); !errors.Is(err, ErrMismatch) {
		t.Errorf("a PKT-AD under the ITR-OTK: %v", err)
	}
	// Section 6.9 zeroes the EID HMAC ID too: a map-server may do so.
	ad := unhex(t, eidAD)
	copy(ad[6:8], []byte{0, 0})
	copy(ad[len(ad)-16:], itrOTK.sum(HMACSHA256, ad[:len(ad)-16], zeros[:16]))
	ad[7] = 2
	if err := itrOTK.VerifyEIDAuth(ad, &e); err != nil {
		t.Errorf("with the EID HMAC ID zeroed: %v", err)
	}
	// The empty EID-AD of an ITR authorises nothing.
	if err := itrOTK.VerifyEIDAuth(unhex(t, "00040002"), &e); !errors.Is(err, ErrMismatch) {
		t.Errorf("an empty EID-AD: %v", err)
	}
	if _, err := ms.SignReply(good, unhex(t, eidAD), HMACSHA256); !errors.Is(err, ErrMessage) {
		t.Errorf("signed twice: %v", err)
	}
	// An HMAC of another length, with everything else as it was.
	short := append(bytes.Clone(good[:len(good)-4]), nil...)
	binary.BigEndian.PutUint16(short[len(short)-16:], 16)
	if _, err := verify(short, itrOTK, ms); !errors.Is(err, ErrLength) {
		t.Errorf("a truncated HMAC: %v", err)
	}
}

func TestL5_NullWrapIsRefused(t *testing.T) {
	s := wire.ECMSecurity{KeyID: 1, Wrapping: uint8(WrapNull)}
	copy(s.Key[8:], itrOTK[:])
	if _, err := Unwrap(&s, 1, []WrapKey{itrMR}, false); !errors.Is(err, ErrWrapping) {
		t.Errorf("a plain key on an open hop: %v", err)
	}
	if otk, err := Unwrap(&s, 1, nil, true); err != nil || otk != itrOTK {
		t.Errorf("a plain key on a protected hop: %x, %v", otk[:], err)
	}
	for _, w := range []uint8{0, 3, 255} {
		s.Wrapping = w
		if _, err := Unwrap(&s, 1, []WrapKey{itrMR}, true); !errors.Is(err, ErrWrapping) {
			t.Errorf("wrapping %d: %v", w, err)
		}
	}
}

func TestL6_WrongInitialValue(t *testing.T) {
	wrapped, err := itrMR.Wrap(7, itrOTK)
	if err != nil {
		t.Fatal(err)
	}
	s := wire.ECMSecurity{KeyID: 1, Wrapping: uint8(WrapAES), Key: wrapped}
	for name, x := range map[string]struct {
		nonce uint64
		key   WrapKey
		want  error
	}{
		"right":            {7, itrMR, nil},
		"another nonce":    {8, itrMR, ErrUnwrap},
		"another secret":   {7, msETR, ErrUnwrap},
		"an unknown id":    {7, WrapKey{ID: 2, Secret: itrMR.Secret}, ErrUnknownKey},
		"an altered octet": {7, itrMR, ErrUnwrap},
	} {
		s := s
		if name == "an altered octet" {
			s.Key[23] ^= 1
		}
		otk, err := Unwrap(&s, x.nonce, []WrapKey{x.key}, false)
		if !errors.Is(err, x.want) || err != nil && otk != (OneTimeKey{}) {
			t.Errorf("%s: %x, %v, want %v", name, otk[:], err, x.want)
		}
	}
	empty := WrapKey{ID: 1}
	if _, err := Unwrap(&s, 7, []WrapKey{empty}, false); err == nil {
		t.Error("unwrapped with an empty secret")
	}
	if _, err := empty.Wrap(7, itrOTK); err == nil {
		t.Error("wrapped with an empty secret")
	}
}

func TestL13_NewOneTimeKey(t *testing.T) {
	a, err := NewOneTimeKey(rand.Reader)
	b, berr := NewOneTimeKey(rand.Reader)
	if err != nil || berr != nil || a == b || a == (OneTimeKey{}) {
		t.Errorf("%x, %x, %v, %v", a[:], b[:], err, berr)
	}
	if _, err := NewOneTimeKey(io.LimitReader(rand.Reader, 15)); err == nil {
		t.Error("a key of 15 octets")
	}
	if _, err := NewOneTimeKey(iotest.ErrReader(io.ErrClosedPipe)); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("no chance: %v", err)
	}
}

func TestOneTimeKeysAreNotPrinted(t *testing.T) {
	var b bytes.Buffer
	k := WrapKey{ID: 1, Secret: []byte("s3cr3t")}
	slog.New(slog.NewJSONHandler(&b, nil)).Info("x", "key", k)
	fmt.Fprintf(&b, "%v %+v %#v %s %v %+v %#v", k, k, k, []WrapKey{k}, itrOTK, itrOTK, itrOTK)
	for _, s := range []string{"s3cr3t", "czNjcjN0", "1 2 3", "0x1, 0x2", "010203"} {
		if strings.Contains(b.String(), s) {
			t.Errorf("the secret is in %q", b.String())
		}
	}
}

func BenchmarkUnwrap(b *testing.B) {
	var s wire.ECMSecurity
	if err := s.Decode(unhex(b, ecmData)); err != nil {
		b.Fatal(err)
	}
	keys := []WrapKey{itrMR}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Unwrap(&s, vectorNonce, keys, false); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDerive(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := itrOTK.Derive(KDFSHA256); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSignReply(b *testing.B) {
	msg, buf := unhex(b, replyBody), make([]byte, 0, 512)
	b.ReportAllocs()
	for b.Loop() {
		ad, err := itrOTK.SignEIDAuth(buf[256:256], eidAuth)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := itrOTK.SignReply(append(buf[:0], msg...), ad, HMACSHA256); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerifyReply(b *testing.B) {
	ms, err := itrOTK.Derive(KDFSHA256)
	if err != nil {
		b.Fatal(err)
	}
	msg := unhex(b, signedReply)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := verify(msg, itrOTK, ms); err != nil {
			b.Fatal(err)
		}
	}
}
