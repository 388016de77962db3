package auth

import (
	"crypto/cipher"
	"crypto/subtle"
	"encoding/binary"
)

// keyWrapIV is the initial value of the AES key wrap (RFC 3394 section 2.2.3.1).
const keyWrapIV = 0xA6A6A6A6A6A6A6A6

// wrapKey wraps the n*8 octets of key into out, which is 8 octets longer, with
// an AES block (RFC 3394 section 2.2.1).
func wrapKey(block cipher.Block, out, key []byte) {
	n := len(key) / 8
	copy(out[8:], key)
	var b [16]byte
	a := uint64(keyWrapIV)
	for j := range 6 {
		for i := 1; i <= n; i++ {
			r := out[8*i : 8*i+8]
			binary.BigEndian.PutUint64(b[:], a)
			copy(b[8:], r)
			block.Encrypt(b[:], b[:])
			a = binary.BigEndian.Uint64(b[:]) ^ uint64(n*j+i)
			copy(r, b[8:])
		}
	}
	binary.BigEndian.PutUint64(out, a)
}

// unwrapKey is the inverse of wrapKey; key is 8 octets shorter than in. It
// reports whether the initial value is right: if not, key holds nothing of use
// (RFC 3394 section 2.2.2).
func unwrapKey(block cipher.Block, key, in []byte) bool {
	n := len(key) / 8
	copy(key, in[8:])
	var b [16]byte
	a := binary.BigEndian.Uint64(in)
	for j := 5; j >= 0; j-- {
		for i := n; i >= 1; i-- {
			r := key[8*i-8 : 8*i]
			binary.BigEndian.PutUint64(b[:], a^uint64(n*j+i))
			copy(b[8:], r)
			block.Decrypt(b[:], b[:])
			a = binary.BigEndian.Uint64(b[:])
			copy(r, b[8:])
		}
	}
	var got, want [8]byte
	binary.BigEndian.PutUint64(got[:], a)
	binary.BigEndian.PutUint64(want[:], keyWrapIV)
	return subtle.ConstantTimeCompare(got[:], want[:]) == 1
}
