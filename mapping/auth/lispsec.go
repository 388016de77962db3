package auth

import (
	"crypto/aes"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// The computations of LISP-SEC (RFC 9303). Where the RFC leaves a choice, or
// contradicts itself, the choices are these:
//
//   - HKDF has an empty salt and an empty info, and an output of 16 octets:
//     for the key that a one-time key is wrapped with (section 6.5, where the
//     input is nonce, "OTK-Key-Wrap" and the pre-shared key), and for the
//     MS-OTK (section 6.7.1, where the input is the ITR-OTK).
//   - The EID HMAC is computed with its own octets zero, as section 6.7.1 has
//     it. Section 6.9 makes the receiver zero the EID HMAC ID as well; a
//     receiver here takes either.
//   - Lengths of EID-AD and PKT-AD count from the length field itself on.

// HMACID is an algorithm of the LISP-SEC authentication data HMAC ID registry
// (RFC 9303 section 8.3).
type HMACID uint16

const (
	HMACNoPreference HMACID = 0
	HMACSHA1         HMACID = 1 // AUTH-HMAC-SHA-1-96
	HMACSHA256       HMACID = 2 // AUTH-HMAC-SHA-256-128
)

// Size returns the octets of an HMAC; 0 for an algorithm that is not known.
func (h HMACID) Size() int {
	switch h {
	case HMACSHA1:
		return 12
	case HMACSHA256:
		return 16
	}
	return 0
}

func (h HMACID) hash() func() hash.Hash {
	if h == HMACSHA1 {
		return sha1.New
	}
	return sha256.New
}

// String returns the name of the registry.
func (h HMACID) String() string {
	switch h {
	case HMACNoPreference:
		return "NOPREF"
	case HMACSHA1:
		return "AUTH-HMAC-SHA-1-96"
	case HMACSHA256:
		return "AUTH-HMAC-SHA-256-128"
	}
	return fmt.Sprintf("hmac-%d", uint16(h))
}

// KDFID is a key derivation function (RFC 9303 section 8.5).
type KDFID uint16

const (
	KDFNoPreference KDFID = 0
	KDFSHA1         KDFID = 1 // HKDF-SHA1-128
	KDFSHA256       KDFID = 2 // HKDF-SHA256
)

// Known reports whether keys can be derived with k.
func (k KDFID) Known() bool { return k == KDFSHA1 || k == KDFSHA256 }

// String returns the name of the registry.
func (k KDFID) String() string {
	switch k {
	case KDFNoPreference:
		return "NOPREF"
	case KDFSHA1:
		return "HKDF-SHA1-128"
	case KDFSHA256:
		return "HKDF-SHA256"
	}
	return fmt.Sprintf("kdf-%d", uint16(k))
}

// WrapID says how a one-time key is wrapped (RFC 9303 section 8.4).
type WrapID uint8

const (
	// WrapNull sends the one-time key as it is. It is for hops that something
	// else protects.
	WrapNull WrapID = 1 // NULL-KEY-WRAP-128
	WrapAES  WrapID = 2 // AES-KEY-WRAP-128+HKDF-SHA256
)

// String returns the name of the registry.
func (w WrapID) String() string {
	switch w {
	case WrapNull:
		return "NULL-KEY-WRAP-128"
	case WrapAES:
		return "AES-KEY-WRAP-128+HKDF-SHA256"
	}
	return fmt.Sprintf("key-wrap-%d", uint8(w))
}

// Errors of LISP-SEC. ErrMismatch, ErrLength and ErrAlgorithm are used too.
var (
	// ErrWrapping: the one-time key is wrapped in a way that is not accepted.
	ErrWrapping = errors.New("key wrapping not accepted")
	// ErrUnwrap: the initial value of an unwrapped key is wrong, so the key
	// was wrapped with another one, or altered (RFC 9303 section 6.5).
	ErrUnwrap = errors.New("one-time key does not unwrap")
)

// WrapKey is a pre-shared key that one-time keys are wrapped with, between an
// ITR and its map-resolver or between a map-server and an ETR.
type WrapKey struct {
	// ID is the key-id, 0 to 255.
	ID uint8
	// Secret is the pre-shared key; it must not be empty.
	Secret []byte
}

// String names the key without its secret.
func (k WrapKey) String() string { return fmt.Sprintf("key %d", k.ID) }

// GoString keeps the secret out of %#v.
func (k WrapKey) GoString() string { return k.String() }

// MarshalText keeps the secret out of structured logs and JSON.
func (k WrapKey) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// OneTimeKey is an ITR-OTK or an MS-OTK.
type OneTimeKey [16]byte

// String keeps the key out of logs.
func (OneTimeKey) String() string { return "one-time key" }

// GoString keeps the key out of %#v.
func (k OneTimeKey) GoString() string { return k.String() }

// NewOneTimeKey draws a key from chance, which must be fit for cryptography
// (RFC 9303 section 7.2).
func NewOneTimeKey(chance io.Reader) (k OneTimeKey, err error) {
	if _, err := io.ReadFull(chance, k[:]); err != nil {
		return k, fmt.Errorf("draw a one-time key: %w", err)
	}
	return k, nil
}

// wrapSalt is the string in the input of the key derivation of WrapAES.
const wrapSalt = "OTK-Key-Wrap"

// perMessage returns the key that a one-time key of the Map-Request with this
// nonce is wrapped with.
func (k WrapKey) perMessage(nonce uint64) ([]byte, error) {
	ikm := binary.BigEndian.AppendUint64(make([]byte, 0, 64), nonce)
	ikm = append(append(ikm, wrapSalt...), k.Secret...)
	key, err := hkdf.Key(sha256.New, ikm, nil, "", aes.BlockSize)
	if err != nil {
		return nil, fmt.Errorf("derive the key to wrap with: %w", err)
	}
	return key, nil
}

// Wrap wraps otk for the Map-Request with this nonce, as WrapAES has it.
func (k WrapKey) Wrap(nonce uint64, otk OneTimeKey) (out [wire.WrappedKeySize]byte, err error) {
	if len(k.Secret) == 0 {
		return out, fmt.Errorf("wrap with %v: the secret is empty", k)
	}
	key, err := k.perMessage(nonce)
	if err != nil {
		return out, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return out, fmt.Errorf("wrap with %v: %w", k, err)
	}
	wrapKey(block, out[:], otk[:])
	return out, nil
}

// Unwrap is the inverse of Wrap. It fails with ErrUnwrap when the key was not
// wrapped with k for this nonce.
func (k WrapKey) Unwrap(nonce uint64, in [wire.WrappedKeySize]byte) (otk OneTimeKey, err error) {
	if len(k.Secret) == 0 {
		return otk, fmt.Errorf("unwrap with %v: the secret is empty", k)
	}
	key, err := k.perMessage(nonce)
	if err != nil {
		return otk, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return otk, fmt.Errorf("unwrap with %v: %w", k, err)
	}
	if !unwrapKey(block, otk[:], in[:]) {
		return OneTimeKey{}, ErrUnwrap
	}
	return otk, nil
}

// Unwrap returns the one-time key of s, which came with the Map-Request with
// this nonce. keys are those shared with the sender. A key that is not wrapped
// is accepted only if null is set: something else must protect the hop (RFC
// 9303 section 6.5.1). The error wraps ErrWrapping, ErrUnknownKey or ErrUnwrap.
func Unwrap(s *wire.ECMSecurity, nonce uint64, keys []WrapKey, null bool) (OneTimeKey, error) {
	switch w := WrapID(s.Wrapping); {
	case w == WrapNull && null:
		return OneTimeKey(s.Key[wire.WrappedKeySize-16:]), nil
	case w == WrapNull:
		return OneTimeKey{}, fmt.Errorf("%w: %v on a hop that nothing protects", ErrWrapping, w)
	case w != WrapAES:
		return OneTimeKey{}, fmt.Errorf("%w: %v", ErrWrapping, w)
	}
	err := fmt.Errorf("%w: %d", ErrUnknownKey, s.KeyID)
	for _, k := range keys {
		if k.ID != s.KeyID {
			continue
		}
		var otk OneTimeKey
		if otk, err = k.Unwrap(nonce, s.Key); err == nil {
			return otk, nil
		}
	}
	return OneTimeKey{}, err
}

// Derive returns the MS-OTK of an ITR-OTK. The error wraps ErrAlgorithm.
func (k OneTimeKey) Derive(id KDFID) (ms OneTimeKey, err error) {
	h := sha256.New
	switch id {
	case KDFSHA256:
	case KDFSHA1:
		h = sha1.New
	default:
		return ms, fmt.Errorf("%w: %v", ErrAlgorithm, id)
	}
	key, err := hkdf.Key(h, k[:], nil, "", len(ms))
	if err != nil {
		return ms, fmt.Errorf("derive the MS-OTK: %w", err)
	}
	return OneTimeKey(key), nil
}

// sum returns the HMAC of the parts, one after the other.
func (k OneTimeKey) sum(id HMACID, parts ...[]byte) []byte {
	h := hmac.New(id.hash(), k[:])
	for _, p := range parts {
		h.Write(p)
	}
	return h.Sum(nil)[:id.Size()]
}

// hmacIDOffset is where the EID HMAC ID stands in an EID-AD.
const hmacIDOffset = 6

// SignEIDAuth appends the EID-AD e to b with its HMAC under k, the ITR-OTK.
// HMACID says with which algorithm; HMAC is not read. The error wraps
// ErrAlgorithm, or is one of AppendBinary.
func (k OneTimeKey) SignEIDAuth(b []byte, e wire.EIDAuth) ([]byte, error) {
	id := HMACID(e.HMACID)
	if id.Size() == 0 {
		return b, fmt.Errorf("%w: %v", ErrAlgorithm, id)
	}
	at := len(b)
	e.Filled, e.HMAC = true, zeros[:id.Size()]
	b, err := e.AppendBinary(b)
	if err != nil {
		return b, err
	}
	copy(b[len(b)-id.Size():], k.sum(id, b[at:]))
	return b, nil
}

// VerifyEIDAuth checks the EID-AD b against k, the ITR-OTK, and decodes it
// into e, which then borrows b. The error wraps ErrAlgorithm, ErrLength or
// ErrMismatch, or is one of Decode.
func (k OneTimeKey) VerifyEIDAuth(b []byte, e *wire.EIDAuth) error {
	if err := e.Decode(b); err != nil {
		return err
	}
	if !e.Filled {
		return fmt.Errorf("%w: the EID-AD is empty", ErrMismatch)
	}
	id := HMACID(e.HMACID)
	if id.Size() == 0 {
		return fmt.Errorf("%w: %v in the EID-AD", ErrAlgorithm, id)
	}
	if len(e.HMAC) != id.Size() {
		return fmt.Errorf("%w: %d octets of %v in the EID-AD", ErrLength, len(e.HMAC), id)
	}
	head := b[:int(binary.BigEndian.Uint16(b))-len(e.HMAC)]
	if hmac.Equal(k.sum(id, head, zeros[:id.Size()]), e.HMAC) ||
		hmac.Equal(k.sum(id, head[:hmacIDOffset], zeros[:2], head[hmacIDOffset+2:], zeros[:id.Size()]), e.HMAC) {
		return nil
	}
	return fmt.Errorf("%w: EID-AD", ErrMismatch)
}

// SignReply makes a protected Map-Reply of msg: it sets S, appends eidAuth, a
// whole EID-AD as it was received or made, and the PKT-AD with an HMAC of the
// given algorithm under k, the MS-OTK. msg is a whole Map-Reply without S. The
// error wraps ErrAlgorithm, ErrMessage, or one of wire.
func (k OneTimeKey) SignReply(msg []byte, eidAuth []byte, id HMACID) ([]byte, error) {
	if id.Size() == 0 {
		return msg, fmt.Errorf("%w: %v", ErrAlgorithm, id)
	}
	if t, err := wire.PeekType(msg); err != nil || t != wire.TypeMapReply || msg[0]&securityBit != 0 {
		return msg, fmt.Errorf("%w: no unprotected Map-Reply", ErrMessage)
	}
	s := wire.ReplySecurity{EIDAuth: eidAuth, HMACID: uint16(id), HMAC: zeros[:id.Size()]}
	b, err := s.AppendBinary(msg)
	if err != nil {
		return msg, err
	}
	if len(b) > wire.MaxMessage {
		return msg, fmt.Errorf("sign a map-reply: %w", wire.ErrTooLarge)
	}
	b[0] |= securityBit
	copy(b[len(b)-id.Size():], k.sum(id, b))
	return b, nil
}

// securityBit is S in the first octet of a Map-Reply.
const securityBit = 0x02

// VerifyReply checks the PKT-AD of msg, a Map-Reply that was decoded to m,
// with its authentication data in s, against k, the MS-OTK. Octets after the
// authentication data are not covered. The error wraps ErrAlgorithm, ErrLength
// or ErrMismatch.
func (k OneTimeKey) VerifyReply(msg []byte, m *wire.MapReply, s *wire.ReplySecurity) error {
	id := HMACID(s.HMACID)
	if id.Size() == 0 {
		return fmt.Errorf("%w: %v in the PKT-AD", ErrAlgorithm, id)
	}
	if len(s.HMAC) != id.Size() {
		return fmt.Errorf("%w: %d octets of %v in the PKT-AD", ErrLength, len(s.HMAC), id)
	}
	// The authentication data ends the message: AD Type, EID-AD, PKT-AD.
	head := msg[:len(msg)-len(m.SecurityData)+4+len(s.EIDAuth)+4]
	if !hmac.Equal(k.sum(id, head, zeros[:id.Size()]), s.HMAC) {
		return fmt.Errorf("%w: PKT-AD", ErrMismatch)
	}
	return nil
}
