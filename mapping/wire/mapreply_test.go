package wire

import (
	"bytes"
	"encoding/hex"
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/eidolon-lisp/eidolon/mapping"
)

func TestMapReplyVectors(t *testing.T) {
	for name, test := range map[string]struct {
		nonce    uint64
		probe    bool
		security int
		records  []string
	}{
		"P2":  {0, false, 0, []string{"1.2.3.4/32 ttl 2m, 10.10.10.10 1/2 Lp, 1:2:3:4:5:6:7:8 4/3 R", "4.3.0.0/16 ttl 0m natively-forward"}},
		"P3":  {0, false, 0, []string{"1.2.3.4/32 ttl 1m no-action", "4.3.0.0/16 ttl 0m natively-forward"}},
		"C7":  {0x1122334455667788, false, 0, []string{"10.2.0.0/16 ttl 1440m, 198.51.100.1 1/100 LR"}},
		"C8":  {0x1122334455667788, false, 0, []string{"11.0.0.0/8 ttl 15m natively-forward"}},
		"C10": {0xa1a2a3a4a5a6a7a8, true, 0, []string{"10.2.0.0/16 ttl 1440m, 198.51.100.1 1/100 LpR"}},
		"C22": {0x1122334455667788, false, 56, []string{"10.1.0.0/16 ttl 1440m, 192.0.2.1 1/100 LR"}},
		"C27": {0x1122334455667788, false, 0, []string{"[10]10.2.0.0/16 ttl 1440m, 198.51.100.1 1/100 LR"}},
	} {
		var m MapReply
		if err := m.Decode(messageVector(t, name)); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if m.Nonce != test.nonce && test.nonce != 0 || m.Probe != test.probe || len(m.SecurityData) != test.security || m.Security != (test.security > 0) || m.EchoNonce {
			t.Errorf("%s: %+v", name, m)
		}
		sameStrings(t, name, mappings(t, m.Records), test.records...)
	}
}

func TestMapReplyFlags(t *testing.T) {
	for _, m := range []MapReply{{Probe: true}, {EchoNonce: true}, {Security: true, SecurityData: []byte{1, 0, 0, 0}}} {
		b, err := m.AppendBinary(nil)
		if err != nil {
			t.Fatal(err)
		}
		var back MapReply
		if err := back.Decode(b); err != nil || dump(&back) != dump(&m) {
			t.Errorf("%v: %+v became %+v", err, m, back)
		}
	}
	b, _ := (&MapReply{EchoNonce: true, Nonce: 0xabcdef}).AppendBinary(nil)
	if got, want := hex.EncodeToString(b), "240000000000000000abcdef"; got != want {
		t.Errorf("echo-nonce reply is %s, want %s", got, want)
	}
	for _, m := range []MapReply{{Security: true}, {Security: true, SecurityData: []byte{1, 0, 0}}, {SecurityData: []byte{1, 0, 0, 0}}} {
		if b, err := m.AppendBinary(nil); !errors.Is(err, ErrInvalid) || len(b) != 0 {
			t.Errorf("%+v: %x, %v", m, b, err)
		}
	}
}

// More locators than fit in a datagram are refused, not truncated.
func TestMapReplyTooLarge(t *testing.T) {
	r := &mapping.Record{EID: mapping.MustParseEID("10.0.0.0/8"), TTL: 1}
	r.Locators = slices.Repeat([]mapping.Locator{mapping.MakeLocator(netip.MustParseAddr("2001:db8::1"), 1, 1)}, 255)
	rs, err := NewRecords(slices.Repeat([]*mapping.Record{r}, 12)...)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := (&MapReply{Records: rs}).AppendBinary([]byte{1}); !errors.Is(err, ErrTooLarge) || len(b) != 1 {
		t.Errorf("%d octets of records: %d octets, %v", rs.Size(), len(b), err)
	}
}

// Counts that promise more than the message holds.
func TestMapReplyCounts(t *testing.T) {
	for octet, field := range map[int]string{3: "record 1 record_ttl", 16: "record 0 locator 1 header"} {
		b := bytes.Clone(messageVector(t, "C7"))
		b[octet] = 255
		err := new(MapReply).Decode(b)
		if de := (*DecodeError)(nil); !errors.As(err, &de) || !errors.Is(err, ErrTruncated) || de.Field != field || de.Offset != len(b) {
			t.Errorf("octet %d set to 255: %v, want %s at octet %d", octet, err, field, len(b))
		}
	}
}
