package auth

import (
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"fmt"
	"hash"

	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// Worker does what Sign and Verify do, again and again, and allocates nothing
// unless it refuses. It is for one goroutine.
type Worker struct {
	sha1, sha256 hash.Hash
	// Room for the computations, which would escape from a stack.
	inner, outer [sha256.BlockSize]byte
	sum          [sha256.Size]byte
	message      [sha256.Size]byte // the per-message key
	material     []byte            // what it is derived from
}

// NewWorker returns a Worker.
func NewWorker() *Worker { return &Worker{sha1: sha1.New(), sha256: sha256.New()} }

// blockEnd is the octet that HKDF appends to the only block of its output.
var blockEnd = [1]byte{1}

// mac computes the whole MAC of msg with its authentication data taken as
// zeros. It covers the complete UDP payload, the xTR-ID and Site-ID included,
// as every deployed implementation does. The MAC is valid until the next call.
func (w *Worker) mac(msg []byte, a Algorithm, dataLen int, secret []byte) []byte {
	x := algorithms[a]
	key := secret
	if x.derive {
		// per-msg-key = KDF(nonce || PSK, salt): HKDF (RFC 5869) with an
		// empty info and an output of one hash length.
		t, _ := wire.PeekType(msg)
		w.material = append(append(w.material[:0], msg[offNonce:offKeyID]...), secret...)
		extracted := w.hmac(w.sha256, salts[t], w.material)
		key = append(w.message[:0], w.hmac(w.sha256, extracted, blockEnd[:])...)
	}
	h := w.sha256
	if a == SHA1 {
		h = w.sha1
	}
	return w.hmac(h, key, msg[:offData], zeros[:dataLen], msg[offData+dataLen:])
}

// hmac computes HMAC (RFC 2104). Unlike crypto/hmac it can take another key
// each time without allocating. The result is in w.sum.
func (w *Worker) hmac(h hash.Hash, key []byte, parts ...[]byte) []byte {
	if len(key) > len(w.inner) {
		h.Reset()
		h.Write(key)
		key = h.Sum(w.sum[:0])
	}
	n := copy(w.inner[:], key)
	clear(w.inner[n:])
	for i := range w.inner {
		w.outer[i] = w.inner[i] ^ 0x5c
		w.inner[i] ^= 0x36
	}
	h.Reset()
	h.Write(w.inner[:])
	for _, p := range parts {
		h.Write(p)
	}
	sum := h.Sum(w.sum[:0])
	h.Reset()
	h.Write(w.outer[:])
	h.Write(sum)
	return h.Sum(w.sum[:0])
}

// Sign is the function Sign.
func (w *Worker) Sign(msg []byte, k Key) error {
	a, data, err := field(msg)
	if err != nil {
		return fmt.Errorf("sign with %v: %w", k, err)
	}
	if a != k.Algorithm || msg[offKeyID] != k.ID {
		return fmt.Errorf("sign with %v: the message names key %d and %v", k, msg[offKeyID], a)
	}
	if len(k.Secret) == 0 {
		return fmt.Errorf("sign with %v: the secret is empty", k)
	}
	copy(data, w.mac(msg, a, len(data), k.Secret))
	return nil
}

// Verify is the function Verify.
func (w *Worker) Verify(msg []byte, keys []Key, minimum Algorithm) (Key, error) {
	if minimum < SHA1 {
		minimum = DefaultMinimum
	}
	a, data, err := field(msg)
	if err != nil {
		return Key{}, err
	}
	if a < minimum {
		return Key{}, fmt.Errorf("%w: %v is weaker than %v, the minimum here", ErrAlgorithm, a, minimum)
	}
	mismatch := false
	for _, k := range keys {
		if k.ID != msg[offKeyID] || len(k.Secret) == 0 {
			continue
		}
		if hmac.Equal(w.mac(msg, a, len(data), k.Secret)[:len(data)], data) {
			k.Algorithm = a
			return k, nil
		}
		mismatch = true
	}
	if mismatch {
		return Key{}, ErrMismatch
	}
	return Key{}, fmt.Errorf("%w: %d", ErrUnknownKey, msg[offKeyID])
}
