// Package auth computes and checks the authentication data of Map-Register,
// Map-Notify, Map-Notify-Ack and Info messages (RFC 9301 sections 5.6 and 5.7),
// and that of LISP-SEC in Map-Requests and Map-Replies (RFC 9303).
package auth

import (
	"crypto/sha1"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"strings"

	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// Algorithm is an Algorithm ID of RFC 9301 section 12.5. A larger value is a
// stronger algorithm. 0, which stands for no authentication, is never accepted.
type Algorithm uint8

const (
	SHA1       Algorithm = 1 // HMAC-SHA-1-96-None
	SHA256     Algorithm = 2 // HMAC-SHA-256-128-None
	SHA256HKDF Algorithm = 3 // HMAC-SHA256-128+HKDF-SHA256
)

// DefaultMinimum is the weakest algorithm accepted where nothing else is
// configured: SHA-1 must not be used on the public Internet (RFC 9301
// section 1.1).
const DefaultMinimum = SHA256

// algorithm is what is known of each: its name, hash, whether a key is derived
// for each message, and the two lengths of its MAC that are deployed. The RFC
// names the truncated length; ODL, OOR, lispers.net and captured routers send
// the whole MAC for the first two.
var algorithms = map[Algorithm]struct {
	name            string
	hash            func() hash.Hash
	derive          bool
	truncated, full int
	sendFull        bool
}{
	SHA1:       {"hmac-sha-1-96", sha1.New, false, 12, sha1.Size, true},
	SHA256:     {"hmac-sha-256-128", sha256.New, false, 16, sha256.Size, true},
	SHA256HKDF: {"hmac-sha-256-128-hkdf", sha256.New, true, 16, sha256.Size, false},
}

// String returns the name used in configuration, the API and output.
func (a Algorithm) String() string {
	if x, ok := algorithms[a]; ok {
		return x.name
	}
	return fmt.Sprintf("algorithm-%d", uint8(a))
}

// ParseAlgorithm is the inverse of String.
func ParseAlgorithm(s string) (Algorithm, error) {
	var names []string
	for a := SHA1; a <= SHA256HKDF; a++ {
		if algorithms[a].name == s {
			return a, nil
		}
		names = append(names, algorithms[a].name)
	}
	return 0, fmt.Errorf("unknown authentication algorithm %q, expected one of %s", s, strings.Join(names, ", "))
}

// Size returns the octets of a MAC: the whole one, or the truncated one of the
// algorithm's name. It is 0 for an unknown algorithm.
func Size(a Algorithm, full bool) int {
	if full {
		return algorithms[a].full
	}
	return algorithms[a].truncated
}

// Key is a pre-shared key of a site. A site may have several, told apart by ID,
// so that they can be rolled over.
type Key struct {
	// ID is the key-id, 0 to 255.
	ID uint8
	// Algorithm is the one to sign with.
	Algorithm Algorithm
	// Secret is the pre-shared key; it must not be empty.
	Secret []byte
}

// String names the key without its secret, so that a key is safe to log.
func (k Key) String() string { return fmt.Sprintf("key %d (%v)", k.ID, k.Algorithm) }

// GoString keeps the secret out of %#v.
func (k Key) GoString() string { return k.String() }

// Template returns the authentication field to encode a message with before
// Sign: the key-id, the algorithm and zeros of the length to be sent. That is
// the whole MAC for algorithms 1 and 2, as all deployed map-servers expect,
// and 16 octets for 3.
func (k Key) Template() wire.Authentication {
	x := algorithms[k.Algorithm]
	return wire.Authentication{
		KeyID:     k.ID,
		Algorithm: uint8(k.Algorithm),
		Data:      make([]byte, Size(k.Algorithm, x.sendFull)),
	}
}

// Errors of Verify and Sign. Each refusal of Verify wraps exactly one.
var (
	ErrUnknownKey = errors.New("no key with this key-id")
	ErrAlgorithm  = errors.New("authentication algorithm not accepted")
	ErrLength     = errors.New("authentication data of a wrong length")
	ErrMismatch   = errors.New("authentication data does not match")
	ErrMessage    = errors.New("not an authenticated message")
)

// Offsets of the authentication field, the same in all four messages.
const (
	offNonce     = 4
	offKeyID     = 12
	offAlgorithm = 13
	offLength    = 14
	offData      = 16
)

// salts are the strings that RFC 9301 section 5.6 derives per-message keys
// with. An Info message has none, so it can't be sent with HKDF: see
// Key.ForInfo.
var salts = map[wire.Type][]byte{
	wire.TypeMapRegister:  []byte("Map-Register Authentication"),
	wire.TypeMapNotify:    []byte("Map-Notify Authentication"),
	wire.TypeMapNotifyAck: []byte("Map-Notify-Ack Authentication"),
}

// ForInfo returns the key to sign and verify Info messages with: k, or if its
// algorithm is not defined for them, its secret with the strongest that is.
func (k Key) ForInfo() Key {
	if algorithms[k.Algorithm].derive {
		k.Algorithm = SHA256
	}
	return k
}

// field finds the authentication data of msg, which may be cut or hostile.
func field(msg []byte) (a Algorithm, data []byte, err error) {
	t, err := wire.PeekType(msg)
	if err != nil {
		return 0, nil, fmt.Errorf("%w: %w", ErrMessage, err)
	}
	if _, ok := salts[t]; !ok && t != wire.TypeInfo {
		return 0, nil, fmt.Errorf("%w: type %d", ErrMessage, t)
	}
	if len(msg) < offData {
		return 0, nil, fmt.Errorf("%w: %d octets", ErrMessage, len(msg))
	}
	a = Algorithm(msg[offAlgorithm])
	x, ok := algorithms[a]
	if !ok {
		return a, nil, fmt.Errorf("%w: %v", ErrAlgorithm, a)
	}
	if x.derive && t == wire.TypeInfo {
		return a, nil, fmt.Errorf("%w: %v is not defined for Info messages", ErrAlgorithm, a)
	}
	n := int(binary.BigEndian.Uint16(msg[offLength:]))
	if n != x.truncated && n != x.full {
		return a, nil, fmt.Errorf("%w: %d octets for %v, expected %d or %d", ErrLength, n, a, x.truncated, x.full)
	}
	if len(msg) < offData+n {
		return a, nil, fmt.Errorf("%w: %d octets announced, %d there", ErrLength, n, len(msg)-offData)
	}
	return a, msg[offData : offData+n], nil
}

// zeros stands in for the authentication data while the MAC is computed.
var zeros [sha256.Size]byte

// Sign writes the authentication data of msg in place. msg is a whole encoded
// Map-Register, Map-Notify, Map-Notify-Ack or Info message whose authentication
// field has k's ID and algorithm and data of one of the algorithm's two
// lengths, as Template makes it; the content of the data does not matter.
func Sign(msg []byte, k Key) error { return NewWorker().Sign(msg, k) }

// Verify checks the authentication data of msg against the keys that have its
// key-id, and returns the one that matches, with Algorithm set to that of the
// message. The algorithm of the message must be minimum or stronger; one below
// SHA1 counts as DefaultMinimum. It does not read anything but the fixed part
// of the header, so it may run before the records are decoded. The comparison
// takes the same time wherever the first difference is.
func Verify(msg []byte, keys []Key, minimum Algorithm) (Key, error) {
	return NewWorker().Verify(msg, keys, minimum)
}

// MarshalText keeps the secret out of structured logs and JSON.
func (k Key) MarshalText() ([]byte, error) { return []byte(k.String()), nil }
