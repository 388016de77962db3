package wire

import (
	"bytes"
	"encoding/hex"
	"errors"
	"testing"
)

func hexString(b []byte) string { return hex.EncodeToString(b) }

func TestMapNotifyVectors(t *testing.T) {
	three := []string{
		"10.30.1.100/32 ttl 1440m, 20.20.8.253 1/100",
		"10.30.1.96/32 ttl 1440m, 20.20.8.251 1/100, 20.20.8.252 1/100",
		"10.30.1.80/32 ttl 1440m, 20.20.8.239 1/100",
	}
	v6 := []string{"2001:db8:85a3::/80 ttl 1440m, 20.20.8.253 1/100", "2001:db8:95a3::/80 ttl 1440m, 20.20.8.251 1/100"}
	const cisco, ours = "9787ad753caf58a713fa6920e6d27a8f", "00112233445566778899aabbccddeeff"
	for name, test := range map[string]struct {
		ack     bool
		authLen int
		xtr     string
		site    uint64
		records []string
	}{
		"T3":  {false, 20, "", 0, three},
		"T4":  {false, 20, cisco, 0, three[:2]},
		"T5":  {false, 20, "", 0, three},        // I bit, nothing behind it
		"T6":  {false, 20, cisco, 0, three[:2]}, // IDs, no I bit
		"T10": {false, 20, "", 0, v6},
		"N1":  {false, 0, "00000000000000000000000000000001", 1, []string{"153.16.254.1/32 ttl 10m, 192.168.136.10 1/100 LR"}},
		"N3":  {false, 32, "", 0, []string{"153.16.254.1/32 ttl 10m, 192.168.136.10 1/100 LR"}},
		"C19": {false, 16, ours, 1, []string{"192.168.0.1/32 ttl 10m, 192.168.136.10 1/100 LR"}},
		"C20": {true, 16, ours, 1, []string{"192.168.0.1/32 ttl 10m, 192.168.136.10 1/100 LR"}},
	} {
		var m MapNotify
		if err := m.Decode(messageVector(t, name)); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		xtr := ""
		if m.HasXTRID {
			xtr = hexString(m.XTRID[:])
		}
		if m.Ack != test.ack || len(m.Auth.Data) != test.authLen || xtr != test.xtr || m.SiteID != test.site {
			t.Errorf("%s: %+v", name, m)
		}
		sameStrings(t, name, mappings(t, m.Records), test.records...)
	}
}

// What follows the records is read by the I bit and by its length.
func TestMapNotifyIDs(t *testing.T) {
	bare := messageVector(t, "T3")
	for _, ibit := range []bool{false, true} {
		for n := range siteIDs + 9 {
			b := append(bytes.Clone(bare), bytes.Repeat([]byte{0xab}, n)...)
			if ibit {
				b[0] |= 0x08
			}
			var m MapNotify
			err := m.Decode(b)
			switch {
			case ibit && n > 0 && n < siteIDs:
				if !errors.Is(err, ErrTruncated) {
					t.Errorf("I bit and %d octets: %v", n, err)
				}
			case err != nil:
				t.Errorf("I bit %t and %d octets: %v", ibit, n, err)
			case m.HasXTRID != (n == siteIDs || ibit && n > siteIDs):
				t.Errorf("I bit %t and %d octets: IDs %t", ibit, n, m.HasXTRID)
			case m.HasXTRID && (m.XTRID[15] != 0xab || m.SiteID != 0xabababababababab):
				t.Errorf("IDs %x %x", m.XTRID, m.SiteID)
			}
		}
	}
}
