package wire

import "testing"

func TestLC4_PortRanges(t *testing.T) {
	v4 := mustDecodeAddress(t, v4Hex)
	testLCAF(t, LCAFAppData,
		lcafVector{"ranges", "4003 0000 0400 0012 00002e 06 03e8 07cf 01bb 01bc" + v4Hex,
			&AppData{Class: 0x2e, Protocol: 6, Local: PortRange{1000, 1999}, Remote: PortRange{443, 444}, Address: v4},
			"application-data(class 0x2e, protocol 6, ports 1000-1999 to 443-444, 192.0.2.1)", nil},
		lcafVector{"one port", "4003 0000 0400 0012 ffffff 11 0000 ffff 0035 0035" + v4Hex,
			&AppData{Class: 0xffffff, Protocol: 17, Local: PortRange{0, 65535}, Remote: PortRange{53, 53}, Address: v4},
			"application-data(class 0xffffff, protocol 17, ports 0-65535 to 53, 192.0.2.1)", nil})
	unencodable(t, &AppData{Class: 1 << 24})
}
