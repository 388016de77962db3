package wire

import "testing"

func TestLC9_SourceAndGroup(t *testing.T) {
	testLCAF(t, LCAFMulticast,
		lcafVector{"(S,G)", "4003 0000 0900 0014 00000007 0000 18 20 0001 c0000200 0001 e9fc0001",
			&Multicast{IID: 7, SourceMaskLen: 24, GroupMaskLen: 32, Source: mustDecodeAddress(t, "0001 c0000200"), Group: mustDecodeAddress(t, "0001 e9fc0001")},
			"multicast-info([7], 192.0.2.0/24, 233.252.0.1/32)", nil},
		lcafVector{"(*,G) of IPv6", "4003 0000 0900 002c ffffffff 0000 00 80 0002 00000000000000000000000000000000 0002 ff3e0000000000000000000000000001",
			&Multicast{IID: 0xffffffff, GroupMaskLen: 128, Source: mustDecodeAddress(t, "0002 00000000000000000000000000000000"), Group: mustDecodeAddress(t, "0002 ff3e0000000000000000000000000001")},
			"multicast-info([4294967295], ::/0, ff3e::1/128)", nil})
	refusesLCAF(t, LCAFMulticast, ErrBadMaskLen, "00000007 0000 21 20 0001 c0000200 0001 e9fc0001", "00000007 0000 20 21 0001 c0000200 0001 e9fc0001")
}
