package auth

import (
	"bytes"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// random fills n octets from rng.
func random(rng *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

// register makes a Map-Register of n octets beyond its authentication data.
func register(rng *rand.Rand, k Key, n int) []byte {
	t := k.Template()
	b := append(random(rng, offKeyID), t.KeyID, t.Algorithm)
	b[0] = byte(wire.TypeMapRegister) << 4
	b = binary.BigEndian.AppendUint16(b, uint16(len(t.Data)))
	return append(append(b, t.Data...), random(rng, n)...)
}

// The MACs are those of the standard library, for secrets and messages of all
// lengths, with one Worker for all of them.
func TestWorkerAgreesWithTheLibrary(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	w := NewWorker()
	for i := range 500 {
		k := Key{ID: 3, Algorithm: Algorithm(1 + i%3), Secret: random(rng, 1+rng.IntN(200))}
		msg := register(rng, k, rng.IntN(300))
		_, data, err := field(msg)
		if err != nil {
			t.Fatal(err)
		}
		key := k.Secret
		if k.Algorithm == SHA256HKDF {
			salt := []byte("Map-Register Authentication")
			if key, err = hkdf.Key(sha256.New, append(bytes.Clone(msg[offNonce:offKeyID]), k.Secret...), salt, "", sha256.Size); err != nil {
				t.Fatal(err)
			}
		}
		h := hmac.New(algorithms[k.Algorithm].hash, key)
		h.Write(msg)
		want := h.Sum(nil)
		if err := w.Sign(msg, k); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(data, want[:len(data)]) {
			t.Fatalf("%v, secret of %d octets: %x, expected %x", k, len(k.Secret), data, want)
		}
		if _, err := w.Verify(msg, []Key{k}, SHA1); err != nil {
			t.Fatal(err)
		}
		msg[rng.IntN(len(msg)-offData)+offData] ^= 1
		if _, err := w.Verify(msg, []Key{k}, SHA1); err == nil {
			t.Fatal("an altered message is taken")
		}
	}
}

func TestWorkerAllocatesNothing(t *testing.T) {
	w := NewWorker()
	for a := SHA1; a <= SHA256HKDF; a++ {
		k := Key{ID: 3, Algorithm: a, Secret: []byte("a secret of 32 octets, as usual.")}
		keys := []Key{{ID: 2, Secret: []byte("another")}, k}
		msg := register(rand.New(rand.NewPCG(1, 2)), k, 80)
		if n := testing.AllocsPerRun(100, func() {
			if err := w.Sign(msg, k); err != nil {
				t.Fatal(err)
			}
			if _, err := w.Verify(msg, keys, SHA1); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%v: %.1f allocations", a, n)
		}
	}
}

func BenchmarkWorker(b *testing.B) {
	for a := SHA1; a <= SHA256HKDF; a++ {
		b.Run(a.String(), func(b *testing.B) {
			w, k := NewWorker(), Key{ID: 3, Algorithm: a, Secret: []byte("a secret of 32 octets, as usual.")}
			msg := register(rand.New(rand.NewPCG(1, 2)), k, 80)
			if err := w.Sign(msg, k); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := w.Verify(msg, []Key{k}, SHA1); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
