package wire

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/eidolon-lisp/eidolon/mapping"
)

// summary writes a Map-Request in one line.
func (m *MapRequest) summary(t testing.TB) string {
	t.Helper()
	var s strings.Builder
	for _, f := range []struct {
		on bool
		s  string
	}{{m.Authoritative, "A"}, {m.HasMapData, "M"}, {m.Probe, "P"}, {m.SMR, "S"}, {m.PITR, "p"}, {m.SMRInvoked, "s"}, {m.HasXTRID, "I"}, {m.LocalXTR, "L"}, {m.NoReply, "D"}} {
		if f.on {
			s.WriteString(f.s)
		}
	}
	fmt.Fprintf(&s, " %x from %v via", m.Nonce, m.SourceEID)
	for _, a := range m.ITRRLOCs {
		fmt.Fprintf(&s, " %v", a)
	}
	s.WriteString(" for")
	for _, r := range m.EIDs {
		fmt.Fprintf(&s, " %s", r.EID.PrefixString(r.MaskLen))
		if r.Subscribe {
			s.WriteString("(N)")
		}
	}
	if m.HasMapData {
		r, err := m.MapData.Mapping()
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&s, " data %v", r)
	}
	if m.HasXTRID {
		fmt.Fprintf(&s, " xtr %x site %x", m.XTRID[:], m.SiteID)
	}
	return s.String()
}

func TestMapRequestVectors(t *testing.T) {
	for name, want := range map[string]string{
		"Q2":  "MPp 3d8d2acd39c8d608 from none via 192.168.136.10 for 1.2.3.4/32 data 1.2.3.4/32 ttl 2m, 10.10.10.10 1/2 Lp",
		"Q3":  "M 3ef77f5b417c773c from 1.1.1.1 via 192.168.56.102 for 1.2.3.4/32 data 1.1.1.1/32 ttl 10m, 192.168.56.102 1/100 LR",
		"Q4":  " 3d8d2acd39c8d608 from none via 192.168.136.10 ::1 17.34.52.86 for 1.2.3.4/32",
		"Q6":  "Pp d from 10.0.0.1 via 1.2.3.4 1:2:3:4:5:6:7:8 for 1.2.3.4/32",
		"Q7":  "MPp d from 10.0.0.1 via 1.2.3.4 1:2:3:4:5:6:7:8 for 1.2.3.4/32 data 0.0.0.0/0 ttl 0m, 0.0.0.2 0/0",
		"QF2": "AS 3d8d2acd39c8d608 from none via 192.168.136.10 for 1.2.3.4/32",
		"QF5": "ASs 3d8d2acd39c8d608 from none via 192.168.136.10 for 1.2.3.4/32",
		"C9":  "P a1a2a3a4a5a6a7a8 from none via 192.0.2.1 for 10.2.0.0/16",
		"C11": "SD b1b2b3b4b5b6b7b8 from 10.2.0.0 via 198.51.100.1 for 10.1.0.0/16",
		"C6":  " 1122334455667788 from 10.1.0.1 via 192.0.2.1 for 10.2.0.1/32",
		"C12": "I 64 from 10.1.0.1 via 192.0.2.1 for 10.2.0.0/16(N) xtr 00112233445566778899aabbccddeeff site 1",
		"C13": "I 65 from 10.1.0.1 via none for 10.2.0.0/16(N) xtr 00112233445566778899aabbccddeeff site 1",
		"E13": "M fff5bf5d7b7593e6 from 2610:d0:ffff:192::1 via 10.0.58.156 for 2610:d0:ffff:192::2/128 data 2610:d0:ffff:192::1/128 ttl 10m, 10.0.58.156 1/100 LR",
	} {
		b := messageVector(t, name)
		var e ECM
		if typ, _ := PeekType(b); typ == TypeECM {
			if err := e.Decode(b); err != nil {
				t.Fatal(err)
			}
			b = e.Message
		}
		var m MapRequest
		if err := m.Decode(b); err != nil {
			t.Errorf("%s: %v", name, err)
		} else if got := m.summary(t); got != want {
			t.Errorf("%s: %s, want\n%s", name, got, want)
		}
	}
}

// Every flag alone has its own bit.
func TestMapRequestFlags(t *testing.T) {
	v4 := IPAddress(netip.MustParseAddr("192.0.2.1"))
	for name, test := range map[string]struct {
		set   func(*MapRequest)
		octet int
		mask  byte
	}{
		"A": {func(m *MapRequest) { m.Authoritative = true }, 0, 0x08},
		"M": {func(m *MapRequest) { m.HasMapData = true }, 0, 0x04},
		"P": {func(m *MapRequest) { m.Probe = true }, 0, 0x02},
		"S": {func(m *MapRequest) { m.SMR = true }, 0, 0x01},
		"p": {func(m *MapRequest) { m.PITR = true }, 1, 0x80},
		"s": {func(m *MapRequest) { m.SMRInvoked = true }, 1, 0x40},
		"I": {func(m *MapRequest) { m.HasXTRID = true }, 1, 0x10},
		"L": {func(m *MapRequest) { m.LocalXTR = true }, 2, 0x40},
		"D": {func(m *MapRequest) { m.NoReply = true }, 2, 0x20},
	} {
		m := MapRequest{ITRRLOCs: []Address{v4}}
		plain, _ := m.AppendBinary(nil)
		test.set(&m)
		b, err := m.AppendBinary(nil)
		if err != nil || b[test.octet]^plain[test.octet] != test.mask {
			t.Errorf("%s: octet %d is %#x, was %#x, %v", name, test.octet, b[test.octet], plain[test.octet], err)
		}
		var back MapRequest
		if err := back.Decode(b); err != nil || dump(&back) != dump(&m) {
			t.Errorf("%s: %v\n%s became\n%s", name, err, dump(&m), dump(&back))
		}
	}
}

func TestMapRequestCounts(t *testing.T) {
	v4 := IPAddress(netip.MustParseAddr("192.0.2.1"))
	rec := NewRequestRecord(mapping.MustParseEID("[7]10.0.0.0/8"))
	for _, test := range []struct {
		rlocs, recs int
		err         error
	}{{0, 1, ErrInvalid}, {1, 0, nil}, {1, 1, nil}, {32, 255, nil}, {33, 1, ErrInvalid}, {1, 256, ErrInvalid}} {
		var m MapRequest
		for range test.rlocs {
			m.ITRRLOCs = append(m.ITRRLOCs, v4)
		}
		for range test.recs {
			m.EIDs = append(m.EIDs, rec)
		}
		b, err := m.AppendBinary([]byte{1})
		if !errors.Is(err, test.err) {
			t.Errorf("%d ITR-RLOCs, %d records: %v, want %v", test.rlocs, test.recs, err, test.err)
		}
		if err != nil {
			if !bytes.Equal(b, []byte{1}) {
				t.Errorf("an error left %x", b)
			}
			continue
		}
		var back MapRequest
		if err := back.Decode(b[1:]); err != nil || len(back.ITRRLOCs) != test.rlocs || len(back.EIDs) != test.recs {
			t.Errorf("%d ITR-RLOCs, %d records became %d, %d, %v", test.rlocs, test.recs, len(back.ITRRLOCs), len(back.EIDs), err)
		}
	}
}

// Counts that promise more than there is, and IDs that are not whole.
func TestMapRequestTruncated(t *testing.T) {
	b := bytes.Clone(messageVector(t, "C9"))
	for octet, v := range map[int]byte{2: 31, 3: 255, 1: 0x10} {
		bad := bytes.Clone(b)
		bad[octet] = v
		if err := new(MapRequest).Decode(bad); err == nil {
			t.Errorf("octet %d set to %d: decodes", octet, v)
		}
	}
	b[1] = 0x10
	for n := range siteIDs {
		if err := new(MapRequest).Decode(append(bytes.Clone(b), make([]byte, n)...)); !errors.Is(err, ErrTruncated) {
			t.Errorf("I bit and %d octets: %v", n, err)
		}
	}
	if err := new(MapRequest).Decode(append(bytes.Clone(b), make([]byte, siteIDs)...)); err != nil {
		t.Errorf("I bit and %d octets: %v", siteIDs, err)
	}
}

func TestMapRequestMapData(t *testing.T) {
	rec := &mapping.Record{EID: mapping.MustParseEID("[7]10.1.0.0/16"), TTL: 1440, Locators: []mapping.Locator{mapping.MakeLocator(netip.MustParseAddr("192.0.2.1"), 1, 100)}}
	data, err := NewRecord(rec)
	if err != nil {
		t.Fatal(err)
	}
	m := MapRequest{
		SourceEID: EIDAddress(7, netip.MustParseAddr("10.1.0.1")), ITRRLOCs: []Address{IPAddress(netip.MustParseAddr("192.0.2.1"))},
		EIDs:       []RequestRecord{NewRequestRecord(mapping.MustParseEID("[7]10.2.0.1"))},
		HasMapData: true, MapData: data, HasXTRID: true, XTRID: mapping.XTRID{15: 1}, SiteID: 2,
	}
	b, err := m.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	var back MapRequest
	if err := back.Decode(b); err != nil || dump(&back) != dump(&m) {
		t.Fatalf("%v\n%s became\n%s", err, dump(&m), dump(&back))
	}
	if got, err := back.MapData.Mapping(); err != nil || !got.Equal(rec) {
		t.Errorf("%v became %v, %v", rec, got, err)
	}
	m.MapData.Version = 0x1000
	if b, err := m.AppendBinary(nil); !errors.Is(err, ErrInvalid) || len(b) != 0 {
		t.Errorf("version of 13 bits: %x, %v", b, err)
	}
}
