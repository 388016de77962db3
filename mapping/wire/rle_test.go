package wire

import "testing"

func TestLC13_ReplicationList(t *testing.T) {
	v4, v6, name := mustDecodeAddress(t, v4Hex), mustDecodeAddress(t, v6Hex), mustDecodeAddress(t, "0011 727400")
	list := NewRLE(Replica{Address: v4}, Replica{Level: 128, Address: v6})
	named := NewRLE(Replica{Level: 1, Address: v4, Name: name}, Replica{Level: 2, Address: v4})
	v := lcafVector{"two levels", "4003 0000 0d00 0020 00000000" + v4Hex + "00000080" + v6Hex, &list,
		"replication-list-entry(192.0.2.1 level 0, 2001:db8::1 level 128)", []int{0, 10}}
	testLCAF(t, LCAFRLE, v,
		lcafVector{"names", "4003 0000 0d00 0019 00000001" + v4Hex + "0011 727400 00000002" + v4Hex, &named,
			"replication-list-entry(\"rt\" 192.0.2.1 level 1, 192.0.2.1 level 2)", []int{0, 10, 15}},
		lcafVector{"empty", "4003 0000 0d00 0000", &RLE{}, "replication-list-entry()", nil})
	for range list.All() {
		break // stops early
	}
	// It is carried, not replicated to.
	if ip, ok := mustDecodeAddress(t, v.hex).RLOC(); ok {
		t.Errorf("encapsulates to %v", ip)
	}
}
