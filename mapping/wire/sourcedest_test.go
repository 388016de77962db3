package wire

import (
	"errors"
	"testing"
)

func TestLC12_SourceDestKey(t *testing.T) {
	v4, v6 := mustDecodeAddress(t, v4Hex), mustDecodeAddress(t, v6Hex)
	testLCAF(t, LCAFSourceDest,
		lcafVector{"IPv4", "4003 0000 0c00 0010 0000 08 18" + v4Hex + v4Hex, &SourceDest{8, 24, v4, v4}, "192.0.2.1/24 from 192.0.2.1/8", nil},
		lcafVector{"IPv6", "4003 0000 0c00 0028 0000 00 80" + v6Hex + v6Hex, &SourceDest{0, 128, v6, v6}, "2001:db8::1/128 from 2001:db8::1/0", nil})
	refusesLCAF(t, LCAFSourceDest, ErrBadMaskLen, "0000 21 20"+v4Hex+v4Hex, "0000 20 21"+v4Hex+v4Hex)
}

func TestSourceDestDecode(t *testing.T) {
	s := SourceDest{SourceMaskLen: 1, DestMaskLen: 2}
	l, _ := mustDecodeAddress(t, "4003 0000 0c00 0010 ffff 1018 0001 11223344 0001 22334455").LCAF()
	if err := s.Decode(l); err != nil || s.SourceMaskLen != 16 || s.DestMaskLen != 24 ||
		s.Source.String() != "17.34.51.68" || s.Dest.String() != "34.51.68.85" {
		t.Errorf("%+v, %v", s, err)
	}
	for n := range l.Payload {
		if err := s.Decode(LCAF{Type: LCAFSourceDest, Payload: l.Payload[:n:n]}); !errors.Is(err, ErrTruncated) {
			t.Errorf("payload of %d octets: %v", n, err)
		}
	}
	l.Payload = append([]byte(nil), l.Payload...)
	l.Payload[3] = 33
	if err := s.Decode(l); !errors.Is(err, ErrBadMaskLen) {
		t.Errorf("mask of 33: %v", err)
	}
}
