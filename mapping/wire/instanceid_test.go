package wire

import (
	"errors"
	"testing"
)

func TestInstanceIDDecode(t *testing.T) {
	i := InstanceID{MaskLen: 9, IID: 9, Address: mustDecodeAddress(t, "0001 c0000201")}
	l, _ := mustDecodeAddress(t, "4003 0000 0220 0006 00bbccdd 0000").LCAF()
	if err := i.Decode(l); err != nil || i.IID != 0xbbccdd || i.MaskLen != 32 || !i.Address.IsZero() {
		t.Errorf("%+v, %v", i, err)
	}
	if err := i.Decode(LCAF{Type: LCAFGeo, Payload: l.Payload}); !errors.Is(err, ErrUnknownType) {
		t.Errorf("decoding another type: %v", err)
	}
	for n := range l.Payload {
		if err := i.Decode(LCAF{Type: LCAFInstanceID, Payload: l.Payload[:n:n]}); !errors.Is(err, ErrTruncated) {
			t.Errorf("payload of %d octets: %v", n, err)
		}
	}
}
