package wire

import (
	"errors"
	"testing"
)

func TestLC2_InstanceID(t *testing.T) {
	testLCAF(t, LCAFInstanceID,
		lcafVector{"IPv4", "4003 0000 0200 000a 00000007" + v4Hex, &InstanceID{IID: 7, Address: mustDecodeAddress(t, v4Hex)}, "[7]192.0.2.1", nil},
		lcafVector{"IPv6", "4003 0000 0220 0016 ffffffff" + v6Hex, &InstanceID{MaskLen: 32, IID: 0xffffffff, Address: mustDecodeAddress(t, v6Hex)}, "[4294967295]2001:db8::1", nil},
		lcafVector{"MAC", "4003 0000 0200 000c 00000007 0006 020000000001", &InstanceID{IID: 7, Address: mustDecodeAddress(t, "0006 020000000001")}, "[7]02:00:00:00:00:01", nil},
		lcafVector{"range", "4003 0000 0218 0006 00000100 0000", &InstanceID{MaskLen: 24, IID: 0x100}, "[256/24]", nil})
	// A locator in an instance is not one of the underlay.
	if ip, ok := mustDecodeAddress(t, "4003 0000 0200 000a 00000007"+v4Hex).RLOC(); ok {
		t.Errorf("encapsulates to %v", ip)
	}
}

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
