package wire

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"
)

// message is what all decoders have in common.
type message interface {
	Decode([]byte) error
	AppendBinary([]byte) ([]byte, error)
}

// newMessage returns the decoder for the type of b, or nil where this package
// has none.
func newMessage(b []byte) message {
	t, _ := PeekType(b)
	switch t {
	case TypeMapRequest:
		return new(MapRequest)
	case TypeMapReply:
		return new(MapReply)
	case TypeMapRegister:
		return new(MapRegister)
	case TypeMapNotify, TypeMapNotifyAck:
		return new(MapNotify)
	case TypeInfo:
		return new(Info)
	case TypeECM:
		return new(ECM)
	}
	return nil
}

type vector struct {
	name string
	b    []byte
}

// readVectors reads the named files of testdata: "name hex" in each line.
func readVectors(t testing.TB, files ...string) []vector {
	t.Helper()
	var vs []vector
	for _, f := range files {
		text, err := os.ReadFile(filepath.Join("testdata", f))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			name, h, ok := strings.Cut(strings.TrimSpace(line), " ")
			if !ok || name == "#" {
				continue
			}
			b, err := hex.DecodeString(h)
			if err != nil {
				t.Fatalf("%s: %s: %v", f, name, err)
			}
			vs = append(vs, vector{name, b})
		}
	}
	return vs
}

func messageVectors(t testing.TB) []vector {
	return readVectors(t, "third_party/tcpdump/messages.txt", "third_party/opendaylight/messages.txt", "computed/messages.txt")
}

func addressVectors(t testing.TB) []vector {
	return readVectors(t, "third_party/opendaylight/addresses.txt")
}

// messageVector returns one vector.
func messageVector(t testing.TB, name string) []byte {
	t.Helper()
	for _, v := range messageVectors(t) {
		if v.name == name {
			return v.b
		}
	}
	t.Fatalf("no vector %s", name)
	return nil
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// readCapture returns the control messages of a capture by frame number.
func readCapture(t testing.TB, file string) []vector {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", file))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := pcapgo.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	var vs []vector
	for frame := 1; ; frame++ {
		data, _, err := r.ReadPacketData()
		if err != nil {
			break
		}
		p := gopacket.NewPacket(data, r.LinkType(), gopacket.Default)
		if udp, ok := p.Layer(layers.LayerTypeUDP).(*layers.UDP); ok && (udp.DstPort == Port || udp.SrcPort == Port) {
			vs = append(vs, vector{fmt.Sprintf("%s:%d", filepath.Base(file), frame), udp.Payload})
		}
	}
	return vs
}

var captures = []string{
	"third_party/tcpdump/lisp_eid_register.pcap", "third_party/tcpdump/lisp_eid_notify.pcap",
	"third_party/tcpdump/lisp_ipv6.pcap", "third_party/tcpdump/lisp_invalid.pcap",
	"third_party/tcpdump/lisp_invalid_length.pcap", "third_party/opendaylight/lisp_odl_vectors.pcap",
	"computed/lisp_computed_vectors.pcap",
}

// dump renders everything that a decoded message says, and nothing of how it
// was laid out.
func dump(m message) string {
	switch m := m.(type) {
	case *MapRequest:
		c := *m
		c.MapData = Record{}
		return fmt.Sprintf("%+v data %s", c, dumpRecord(m.MapData))
	case *MapReply:
		c := *m
		c.Records = Records{}
		return fmt.Sprintf("%+v %s", c, dumpRecords(m.Records))
	case *MapRegister:
		c := *m
		c.Records = Records{}
		return fmt.Sprintf("%+v %s", c, dumpRecords(m.Records))
	case *MapNotify:
		c := *m
		c.Records = Records{}
		return fmt.Sprintf("%+v %s", c, dumpRecords(m.Records))
	case *ECM:
		c := *m
		if c.HopLimit == 0 {
			c.HopLimit = DefaultHopLimit
		}
		return fmt.Sprintf("%+v", c)
	default:
		return fmt.Sprintf("%+v", m)
	}
}

func dumpRecords(rs Records) string {
	s := fmt.Sprintf("%d records in %d octets", rs.Len(), rs.Size())
	for r := range rs.All() {
		s += "; " + dumpRecord(r)
	}
	return s
}

func dumpRecord(r Record) string {
	s := fmt.Sprintf("ttl %d act %d auth %t ver %d eid %x/%d %d locators", r.TTL, r.Action, r.Authoritative, r.Version, r.EID.Bytes(), r.MaskLen, r.NumLocators())
	for l := range r.Locators() {
		s += fmt.Sprintf(", %d/%d/%d/%d %d %x", l.Priority, l.Weight, l.MPriority, l.MWeight, l.Flags, l.Address.Bytes())
	}
	return s
}

// messageErrors are the vectors that must be refused, by name or frame; all
// others must decode.
var messageErrors = map[string]error{
	"T8":  ErrUnknownAFI,
	"T9":  ErrTruncated, // authentication longer than the message
	"RL":  ErrUnknownAFI,
	"Q1":  ErrTruncated, // M bit without a record
	"Q5":  ErrTruncated,
	"Q8":  ErrTruncated, // no ITR-RLOC
	"QF1": ErrTruncated, // M bit
	"QF3": ErrTruncated,
	"QF4": ErrTruncated,
	"P1":  ErrTruncated, // S bit without authentication data

	"lisp_invalid.pcap:1":        ErrUnknownAFI,
	"lisp_invalid.pcap:2":        ErrTruncated,
	"lisp_invalid_length.pcap:1": ErrTruncated,
	"lisp_odl_vectors.pcap:1":    ErrTruncated, // edited by their authors
	"lisp_odl_vectors.pcap:5":    ErrBadChecksum,
	"lisp_odl_vectors.pcap:12":   ErrBadChecksum,
	"lisp_odl_vectors.pcap:14":   ErrBadChecksum,
	"lisp_odl_vectors.pcap:16":   ErrBadChecksum,
	"lisp_odl_vectors.pcap:17":   ErrTruncated,
	"lisp_odl_vectors.pcap:18":   ErrTruncated,
	"lisp_odl_vectors.pcap:19":   ErrTruncated,
	"lisp_odl_vectors.pcap:20":   ErrTruncated,
}

// notCanonical are the vectors that decode, and encode to other octets.
var notCanonical = map[string]string{
	"T3":                       "a reserved bit",
	"T4":                       "a reserved bit",
	"T5":                       "I bit without IDs",
	"T6":                       "IDs without the I bit",
	"T10":                      "a reserved bit",
	"lisp_eid_notify.pcap:1":   "T3",
	"lisp_eid_notify.pcap:2":   "T4",
	"lisp_eid_notify.pcap:3":   "T5",
	"lisp_eid_notify.pcap:4":   "T6",
	"lisp_ipv6.pcap:2":         "T10",
	"lisp_odl_vectors.pcap:8":  "R bit, reserved",
	"lisp_odl_vectors.pcap:10": "R bit, reserved",
	"lisp_odl_vectors.pcap:11": "R bit, reserved",
}

func allMessages(t testing.TB) []vector {
	vs := messageVectors(t)
	for _, f := range captures {
		vs = append(vs, readCapture(t, f)...)
	}
	return vs
}

// The vectors of the text files and the packets of the captures decode, or are
// refused for the reason that is wrong with them, and encode to what they were.
func TestVectors(t *testing.T) {
	vs := allMessages(t)
	if len(vs) != 62+11+20+22 {
		t.Errorf("%d messages; is test data missing?", len(vs))
	}
	for _, v := range vs {
		m := newMessage(v.b)
		if m == nil {
			if typ, _ := PeekType(v.b); typ != TypeMapReferral && typ != TypeSharedExtension {
				t.Errorf("%s: no decoder for %v", v.name, typ)
			}
			continue
		}
		err := m.Decode(v.b)
		if want := messageErrors[v.name]; want != nil || err != nil {
			var de *DecodeError
			if !errors.Is(err, want) || want == nil {
				t.Errorf("%s: error %v, want %v", v.name, err, want)
			} else if !errors.As(err, &de) || de.Field == "" || de.Offset < 0 || de.Offset > len(v.b) {
				t.Errorf("%s: error does not tell where: %#v", v.name, err)
			}
			continue
		}
		got, err := m.AppendBinary([]byte("prefix"))
		if err != nil {
			t.Errorf("%s: %v", v.name, err)
			continue
		}
		got = bytes.TrimPrefix(got, []byte("prefix"))
		if _, ecm := m.(*ECM); ecm {
			// The inner identification, flags and traffic class are not kept.
			if len(got) != len(v.b) {
				t.Errorf("%s: %d octets became %d", v.name, len(v.b), len(got))
			}
		} else if same := bytes.Equal(got, v.b); same == (notCanonical[v.name] != "") {
			t.Errorf("%s: encodes to\n%x, was\n%x", v.name, got, v.b)
		}
		again := newMessage(got)
		if err := again.Decode(got); err != nil || dump(again) != dump(m) {
			t.Errorf("%s: %v\n%s became\n%s", v.name, err, dump(m), dump(again))
		}
	}
}

// No truncation of a message decodes, but for what is tolerated on purpose.
func TestTruncations(t *testing.T) {
	for _, v := range allMessages(t) {
		m := newMessage(v.b)
		if m == nil {
			continue
		}
		whole := m.Decode(v.b) == nil
		for n := range v.b {
			cut := slices.Clip(bytes.Clone(v.b[:n]))
			if err := m.Decode(cut); err == nil {
				if !whole || !tolerated(t, v, n) {
					t.Errorf("%s: decodes when cut to %d of %d octets", v.name, n, len(v.b))
				}
				again, err := m.AppendBinary(nil)
				if err != nil || len(again) > n {
					t.Errorf("%s cut to %d: encodes to %d octets, %v", v.name, n, len(again), err)
				}
			} else if de := (*DecodeError)(nil); !errors.As(err, &de) || de.Offset > n {
				t.Errorf("%s cut to %d: %v", v.name, n, err)
			}
		}
	}
}

// tolerated says whether the first n octets of v are a message of their own.
func tolerated(t *testing.T, v vector, n int) bool {
	m := newMessage(v.b)
	if err := m.Decode(v.b); err != nil {
		t.Fatal(err)
	}
	switch m := m.(type) {
	case *MapNotify:
		// Without its IDs a Map-Notify is a Map-Notify; parts of them count
		// as octets after the message unless the I bit announces them.
		records := len(v.b)
		if m.HasXTRID {
			records -= siteIDs
		}
		return n == records || n > records && v.b[0]&0x08 == 0
	case *MapReply:
		// What follows the records is for LISP-SEC to judge.
		return m.Security && n >= len(v.b)-len(m.SecurityData)+securityHeader
	}
	return false
}

// Decode assigns every field: after decoding any vector, whether it was good
// or not, a value decodes the next one as a fresh value does.
func TestDecodeAssignsEveryField(t *testing.T) {
	vs := allMessages(t)
	for _, before := range vs {
		for _, v := range vs {
			fresh, used := newMessage(v.b), newMessage(before.b)
			if fresh == nil || used == nil || fmt.Sprintf("%T", fresh) != fmt.Sprintf("%T", used) || fresh.Decode(v.b) != nil {
				continue
			}
			_ = used.Decode(before.b)
			if err := used.Decode(v.b); err != nil || dump(used) != dump(fresh) {
				t.Errorf("%s after %s: %v\n%s, fresh\n%s", v.name, before.name, err, dump(used), dump(fresh))
			}
		}
	}
}

// Decode borrows: what it returns shows a later change of the message.
func TestDecodeBorrows(t *testing.T) {
	b := bytes.Clone(messageVector(t, "C7"))
	var m MapReply
	if err := m.Decode(b); err != nil {
		t.Fatal(err)
	}
	before := dump(&m)
	b[len(b)-1]++
	if dump(&m) == before {
		t.Error("the Map-Reply does not borrow its message")
	}
}

// Reserved bits are ignored on receipt and zero when sent.
func TestReservedBits(t *testing.T) {
	reserved := map[string]map[int]byte{ // vector -> octet -> reserved bits
		"C9": {1: 0x2f, 2: 0x80, 20: 0x7f},
		"C7": {0: 0x01, 1: 0xff, 2: 0xff, 18: 0x0f, 19: 0xff, 20: 0xf0, 32: 0xff, 33: 0xf8},
		"R4": {0: 0x01, 1: 0xff, 2: 0xe2, 42: 0x0f, 43: 0xff, 44: 0xf0, 56: 0xff, 57: 0xf8, 68: 0xff, 69: 0xf8, 80: 0xff, 81: 0xf8},
		"N2": {0: 0x07, 1: 0xff, 2: 0xff, 42: 0x0f, 43: 0xff, 44: 0xf0},
		"C6": {1: 0xff, 2: 0xff, 3: 0xff},
		// Bit 4 in octet 24 is the first reserved octet after TTL.
		"C26": {0: 0x07, 1: 0xff, 2: 0xff, 3: 0xff, 20: 0xff},
	}
	for name, bits := range reserved {
		clean := messageVector(t, name)
		dirty := bytes.Clone(clean)
		for at, mask := range bits {
			dirty[at] |= mask
		}
		want, got := newMessage(clean), newMessage(dirty)
		if err := want.Decode(clean); err != nil {
			t.Fatal(err)
		}
		if err := got.Decode(dirty); err != nil || dump(got) != dump(want) {
			t.Errorf("%s: %v\n%s, want\n%s", name, err, dump(got), dump(want))
		}
		b1, _ := want.AppendBinary(nil)
		b2, _ := got.AppendBinary(nil)
		if !bytes.Equal(b1, b2) {
			t.Errorf("%s: reserved bits are sent:\n%x, want\n%x", name, b2, b1)
		}
	}
}

func TestPeek(t *testing.T) {
	if _, err := PeekType(nil); !errors.Is(err, ErrTruncated) {
		t.Errorf("empty message: %v", err)
	}
	for n := range 16 {
		typ, err := PeekType([]byte{byte(n) << 4})
		known := n >= 1 && n <= 8 || n == 15
		if int(typ) != n || (err == nil) != known || !known && !errors.Is(err, ErrUnknownType) {
			t.Errorf("type %d: %v, %v", n, typ, err)
		}
		if known == strings.HasPrefix(typ.String(), "type-") {
			t.Errorf("type %d is called %v", n, typ)
		}
	}
	if n, ok := PeekNonce(messageVector(t, "C24")); !ok || n != 0x1122334455667788 {
		t.Errorf("nonce of a Map-Referral: %x, %t", n, ok)
	}
	if _, ok := PeekNonce(messageVector(t, "C6")); ok {
		t.Error("an ECM has a nonce")
	}
	if _, ok := PeekNonce(make([]byte, 11)); ok {
		t.Error("11 octets have a nonce")
	}
}

// A message of another type is refused, and so is one that is too large.
func TestStart(t *testing.T) {
	for _, m := range []message{new(MapRequest), new(MapReply), new(MapRegister), new(MapNotify), new(Info), new(ECM)} {
		if err := m.Decode([]byte{0x90, 0, 0, 0}); !errors.Is(err, ErrUnknownType) {
			t.Errorf("%T: type 9: %v", m, err)
		}
		if err := m.Decode(nil); !errors.Is(err, ErrTruncated) {
			t.Errorf("%T: empty: %v", m, err)
		}
		if err := m.Decode(make([]byte, MaxMessage+1)); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%T: %d octets: %v", m, MaxMessage+1, err)
		}
	}
}

// Octets after a complete message are ignored, as reserved bits are.
func TestTrailingOctets(t *testing.T) {
	for _, name := range []string{"C7", "C9", "C14", "R1", "N1", "C20", "C26", "E13"} {
		b := messageVector(t, name)
		want, got := newMessage(b), newMessage(b)
		if err := want.Decode(b); err != nil {
			t.Fatal(err)
		}
		if err := got.Decode(append(bytes.Clone(b), 1, 2, 3)); err != nil || dump(got) != dump(want) {
			t.Errorf("%s: %v\n%s, want\n%s", name, err, dump(got), dump(want))
		}
	}
}

func TestDecodeError(t *testing.T) {
	b := messageVector(t, "T8")
	err := new(MapNotify).Decode(b)
	want := "map-notify: record 0 eid at octet 46: unknown address family 7680"
	if err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
	b = bytes.Clone(messageVector(t, "T2"))
	b[99] = 0x99 // AFI of the second locator of the second record
	err = new(MapRegister).Decode(b)
	want = "map-register: record 1 locator 1 address at octet 98: unknown address family 153"
	if err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}

// A map-server reads a message into a value that it has, without allocating.
func TestDecodeDoesNotAllocate(t *testing.T) {
	for _, name := range []string{"Q4", "C12x", "C27", "P2", "T2", "T4", "C26", "E13"} {
		b := []byte(nil)
		if name == "C12x" { // the Map-Request inside: subscription with IDs
			var e ECM
			if err := e.Decode(messageVector(t, "C12")); err != nil {
				t.Fatal(err)
			}
			b = e.Message
		} else {
			b = messageVector(t, name)
		}
		m := newMessage(b)
		n := testing.AllocsPerRun(100, func() {
			if err := m.Decode(b); err != nil {
				t.Fatal(err)
			}
		})
		if n != 0 {
			t.Errorf("%s: decoding a %T allocates %v times", name, m, n)
		}
	}
	var m MapReply
	if err := m.Decode(messageVector(t, "P2")); err != nil {
		t.Fatal(err)
	}
	count := 0
	n := testing.AllocsPerRun(100, func() {
		for r := range m.Records.All() {
			if _, err := r.EID.EID(r.MaskLen); err != nil {
				t.Fatal(err)
			}
			for l := range r.Locators() {
				if _, ok := l.Address.IP(); ok {
					count++
				}
			}
		}
	})
	if n != 0 || count == 0 {
		t.Errorf("walking records allocates %v times", n)
	}
}
