package wire

import (
	"errors"
	"testing"
)

func TestMapRegisterVectors(t *testing.T) {
	one := []string{"153.16.254.1/32 ttl 10m, 192.168.136.10 1/100 LR"}
	loc := "192.168.0.1/32 ttl 10m, 192.168.136.10 1/100 LR"
	for name, test := range map[string]struct {
		flags             string
		nonce             uint64
		key, alg, authLen int
		xtr               string
		site              uint64
		records           []string
	}{
		"T1": {"IEM", 0xc4218228892d20a4, 0, 1, 20, "9787ad753caf58a713fa6920e6d27a8f", 0, []string{
			"10.30.1.100/32 ttl 1440m, 20.20.8.253 1/100", "10.30.1.96/32 ttl 1440m, 20.20.8.252 1/100"}},
		"T2": {"IEM", 0xc4218228892d20a4, 0, 1, 20, "9787ad753caf58a713fa6920e6d27a8f", 0, []string{
			"10.30.1.100/32 ttl 1440m, 20.20.8.253 1/100", "10.30.1.96/32 ttl 1440m, 20.20.8.251 1/100, 20.20.8.252 1/100"}},
		"T7": {"IEM", 0xc4218228892d20a4, 0, 1, 20, "9787ad753caf58a713fa6920e6d27a8f", 0, []string{
			"2001:db8:85a3::/80 ttl 1440m, 20.20.8.253 1/100", "2001:db8:95a3::/80 ttl 1440m, 20.20.8.251 1/100"}},
		"R1":  {"PM", 0xffbb000000000000, 0, 1, 20, "", 0, one},
		"R2":  {"PM", 0xffbb000000000000, 0, 2, 32, "", 0, one},
		"R7":  {"PM", 0xffbb000000000000, 0, 0, 0, "", 0, one},
		"RI":  {"IM", 0x639983642306a8be, 0, 1, 20, "151a3980e335e6c449a6908720659ab7", 0, []string{"[1]195.168.200.1/32 ttl 1440m, 172.16.1.2 10/50 L"}},
		"C14": {"PIM", 0x101, 0, 1, 12, "00112233445566778899aabbccddeeff", 1, []string{loc}},
		"C17": {"PIM", 0x101, 0, 2, 32, "00112233445566778899aabbccddeeff", 1, []string{loc}},
		"C18": {"PIM", 0x101, 10, 3, 16, "00112233445566778899aabbccddeeff", 1, []string{loc}},
	} {
		var m MapRegister
		if err := m.Decode(messageVector(t, name)); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		xtr := ""
		if m.HasXTRID {
			xtr = hexString(m.XTRID[:])
		}
		if got := registerFlags(&m); got != test.flags || m.Nonce != test.nonce || int(m.Auth.KeyID) != test.key ||
			int(m.Auth.Algorithm) != test.alg || len(m.Auth.Data) != test.authLen || xtr != test.xtr || m.SiteID != test.site {
			t.Errorf("%s: flags %s, %+v", name, got, m)
		}
		sameStrings(t, name, mappings(t, m.Records), test.records...)
	}
}

func registerFlags(m *MapRegister) string {
	s := ""
	for _, f := range []struct {
		on bool
		s  string
	}{{m.ProxyReply, "P"}, {m.Security, "S"}, {m.HasXTRID, "I"}, {m.EIDNotify, "E"}, {m.TTLFromRegister, "T"}, {m.Merge, "a"}, {m.WantNotify, "M"}} {
		if f.on {
			s += f.s
		}
	}
	return s
}

// Each flag has the bit that RFC 9301 section 5.6 gives it.
func TestMapRegisterFlags(t *testing.T) {
	for want, test := range map[string]struct {
		octet int
		mask  byte
	}{"P": {0, 0x08}, "S": {0, 0x04}, "I": {0, 0x02}, "E": {2, 0x10}, "T": {2, 0x08}, "a": {2, 0x04}, "M": {2, 0x01}} {
		b := make([]byte, 16+siteIDs)
		b[0] = byte(TypeMapRegister) << 4
		b[test.octet] |= test.mask
		var m MapRegister
		if err := m.Decode(b); err != nil || registerFlags(&m) != want {
			t.Errorf("bit %#x of octet %d: %s, %v; want %s", test.mask, test.octet, registerFlags(&m), err, want)
		}
		again, err := m.AppendBinary(nil)
		if err != nil || again[0] != b[0] || again[2] != b[2] {
			t.Errorf("%s is sent as %x, %v", want, again[:4], err)
		}
	}
}

func TestMapRegisterErrors(t *testing.T) {
	m := MapRegister{Auth: Authentication{Data: make([]byte, 1<<16)}}
	if b, err := m.AppendBinary([]byte{1}); !errors.Is(err, ErrInvalid) || len(b) != 1 {
		t.Errorf("64 KiB of authentication data: %d octets, %v", len(b), err)
	}
	m = MapRegister{Auth: Authentication{Data: make([]byte, MaxMessage-15)}}
	if b, err := m.AppendBinary([]byte{1}); !errors.Is(err, ErrTooLarge) || len(b) != 1 {
		t.Errorf("one octet too many: %d octets, %v", len(b), err)
	}
	m = MapRegister{Auth: Authentication{Data: make([]byte, MaxMessage-16)}}
	b, err := m.AppendBinary(nil)
	if err != nil || len(b) != MaxMessage {
		t.Fatalf("largest message: %d octets, %v", len(b), err)
	}
	if err := m.Decode(b); err != nil || len(m.Auth.Data) != MaxMessage-16 {
		t.Errorf("largest message: %v", err)
	}
}
