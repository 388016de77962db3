package wire

import (
	"errors"
	"testing"
)

func TestInfoVectors(t *testing.T) {
	m := Info{Reply: true, TTL: 9, Body: mustDecodeAddress(t, "0001 c0000201")}
	if err := m.Decode(messageVector(t, "C25")); err != nil || m.Reply || m.Nonce != 0x1122334455667788 ||
		m.TTL != 0 || !m.EID.IsZero() || !m.Body.IsZero() || len(m.Auth.Data) != 0 {
		t.Errorf("C25: %+v, %v", m, err)
	}
	if err := m.Decode(messageVector(t, "C26")); err != nil || !m.Reply || m.TTL != 15 || !m.EID.IsZero() {
		t.Errorf("C26: %+v, %v", m, err)
	}
	l, ok := m.Body.LCAF()
	if !ok || l.Type != LCAFNAT || len(l.Payload) != 28 {
		t.Errorf("C26: body %v", m.Body)
	}
}

func TestInfo(t *testing.T) {
	// As lispers.net sends it: the host's name for a body.
	want := Info{
		Nonce: 7, Auth: Authentication{KeyID: 1, Algorithm: 2, Data: make([]byte, 32)}, TTL: 3,
		MaskLen: 32, EID: mustDecodeAddress(t, "4003 0000 0200 000a 00000007 0001 c0000201"), Body: mustDecodeAddress(t, "0011 787472312d3000"),
	}
	b, err := want.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	var got Info
	if err := got.Decode(b); err != nil || dump(&got) != dump(&want) {
		t.Errorf("%v: %+v became %+v", err, want, got)
	}
	want.MaskLen = 33
	b, _ = want.AppendBinary(nil)
	if err := got.Decode(b); !errors.Is(err, ErrBadMaskLen) {
		t.Errorf("mask of 33: %v", err)
	}
	want.Auth.Data = make([]byte, MaxMessage+1)
	if b, err := want.AppendBinary(nil); !errors.Is(err, ErrInvalid) || len(b) != 0 {
		t.Errorf("too much authentication data: %d octets, %v", len(b), err)
	}
}
