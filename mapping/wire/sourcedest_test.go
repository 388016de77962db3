package wire

import (
	"errors"
	"testing"
)

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
