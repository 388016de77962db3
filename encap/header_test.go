package encap

import (
	"bytes"
	"encoding/hex"
	"testing"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestHeaderDecode(t *testing.T) {
	for _, c := range []struct {
		name, in string
		want     Header
	}{
		{"nothing", "0000000000000000", Header{}},
		{"meaningless fields are ignored", "00ffffffffffffff", Header{}},
		{"nonce", "8012345600000000", Header{HasNonce: true, Nonce: 0x123456}},
		{"echo request", "a0abcdef00000000", Header{HasNonce: true, EchoNonce: true, Nonce: 0xabcdef}},
		{"E without N", "20abcdef00000000", Header{}},
		{"versions", "10abc12300000000", Header{HasVersions: true, SrcVersion: 0xabc, DstVersion: 0x123}},
		{"N wins over V", "90abc12300000000", Header{HasNonce: true, Nonce: 0xabc123}},
		{"E and V without N", "30abc12300000000", Header{HasVersions: true, SrcVersion: 0xabc, DstVersion: 0x123}},
		{"instance", "08000000010203ff", Header{HasInstance: true, IID: 0x010203}},
		{"instance and status", "48000000010203a5", Header{HasInstance: true, IID: 0x010203, HasStatus: true, Status: 0xa5}},
		{"status", "40000000deadbeef", Header{HasStatus: true, Status: 0xdeadbeef}},
		{"reserved", "0400000000000000", Header{}},
		{"key-id", "0200000000000000", Header{KeyID: 2}},
	} {
		h := Header{HasNonce: true, Nonce: 1, EchoNonce: true, HasVersions: true, SrcVersion: 2, DstVersion: 3,
			HasInstance: true, IID: 4, HasStatus: true, Status: 5, KeyID: 3} // stale state must go
		if err := h.Decode(unhex(t, c.in)); err != nil || h != c.want {
			t.Errorf("%s: got %+v, %v, want %+v", c.name, h, err, c.want)
		}
	}
	for n := range HeaderLen {
		var h Header
		if err := h.Decode(make([]byte, n)); err != ErrHeaderTruncated {
			t.Errorf("%d octets: %v", n, err)
		}
	}
}

func TestDP6_NonceAndVersionsAreNotEncodedTogether(t *testing.T) {
	for _, h := range []Header{
		{HasNonce: true, HasVersions: true}, {EchoNonce: true}, {HasNonce: true, Nonce: 1 << 24},
		{HasVersions: true, SrcVersion: 1 << 12}, {HasVersions: true, DstVersion: 1 << 12},
		{HasInstance: true, IID: 1 << 24}, {HasInstance: true, HasStatus: true, Status: 256}, {KeyID: 4},
	} {
		if b, err := h.AppendBinary([]byte{1}); err != ErrHeaderField || len(b) != 1 {
			t.Errorf("%+v: %x, %v", h, b, err)
		}
	}
}

func TestPutHeader(t *testing.T) {
	for iid, want := range map[uint32]string{0: "0000000000000000", 7: "0800000000000700", 0xffffff: "08000000ffffff00"} {
		b := bytes.Repeat([]byte{0xff}, HeaderLen)
		if PutHeader(b, iid); !bytes.Equal(b, unhex(t, want)) {
			t.Errorf("IID %d: %x, want %s", iid, b, want)
		}
	}
}

func FuzzHeader(f *testing.F) {
	f.Add([]byte{0x90, 1, 2, 3, 4, 5, 6, 7})
	f.Add([]byte{0x68, 1, 2, 3, 4, 5, 6, 7})
	f.Fuzz(func(t *testing.T, b []byte) {
		var h, again Header
		if h.Decode(b) != nil {
			if len(b) >= HeaderLen {
				t.Fatal("a whole header was refused")
			}
			return
		}
		out, err := h.AppendBinary(nil)
		if err != nil || len(out) != HeaderLen {
			t.Fatalf("%+v does not encode: %v", h, err)
		}
		if again.Decode(out); again != h {
			t.Fatalf("%x: %+v, after a round trip %+v", b, h, again)
		}
	})
}
