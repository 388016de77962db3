package encap

import (
	"bytes"
	"testing"
)

// RFC 9300 section 5.3: with N and V both set, the field is a nonce.
func TestDP6_NonceWinsOverVersions(t *testing.T) {
	for _, first := range []string{"90abc123", "b0abc123"} {
		var h Header
		if err := h.Decode(unhex(t, first+"00000000")); err != nil || !h.HasNonce || h.Nonce != 0xabc123 || h.HasVersions || h.SrcVersion|h.DstVersion != 0 {
			t.Errorf("%s: %+v, %v", first, h, err)
		}
	}
	// What we send has one of them at most, whatever was in the buffer before.
	b := bytes.Repeat([]byte{0xff}, HeaderLen)
	PutHeader(b, 7)
	PutVersions(b, 0xabc<<12|0x123)
	if want := unhex(t, "18abc12300000700"); !bytes.Equal(b, want) {
		t.Errorf("sent %x, want %x", b, want)
	}
	PutVersions(b, 0xff<<24|0x001002) // no more than 24 bits
	if want := unhex(t, "1800100200000700"); !bytes.Equal(b, want) {
		t.Errorf("sent %x, want %x", b, want)
	}
}

// RFC 9300 section 5.3: E without N means nothing.
func TestDP7_EchoWithoutNonceIsIgnored(t *testing.T) {
	for _, c := range []struct {
		in   string
		echo bool
	}{{"20abcdef00000000", false}, {"30abcdef00000000", false}, {"68abcdef00000700", false}, {"a0abcdef00000000", true}} {
		var h Header
		if err := h.Decode(unhex(t, c.in)); err != nil || h.EchoNonce != c.echo {
			t.Errorf("%s: %+v, %v", c.in, h, err)
		}
	}
}

// RFC 9300 section 5.3: R is sent as zero and changes nothing when received.
func TestDP8_ReservedBit(t *testing.T) {
	for _, in := range []string{"0012345600000700", "8812345600000700", "4800000000000755", "1012345600000000"} {
		b := unhex(t, in)
		var without, with Header
		if err := without.Decode(b); err != nil {
			t.Fatal(err)
		}
		b[0] |= 0x04
		if err := with.Decode(b); err != nil || with != without {
			t.Errorf("%s: with R %+v, %v, without %+v", in, with, err, without)
		}
		out, err := with.AppendBinary(nil)
		if err != nil || out[0]&0x04 != 0 {
			t.Errorf("%s: sent as %x, %v", in, out, err)
		}
	}
	b := bytes.Repeat([]byte{0xff}, HeaderLen)
	if PutHeader(b, 7); b[0]&0x04 != 0 {
		t.Errorf("sent %x", b)
	}
}

// RFC 6040 section 4.1, normal mode: the outer field is the inner one, and the
// DSCP with it.
func TestDP11_EncapsulationCopies(t *testing.T) {
	for tos := range 256 {
		if got := OuterTOS(uint8(tos)); got != uint8(tos) {
			t.Errorf("outer %#x for %#x", got, tos)
		}
	}
}
