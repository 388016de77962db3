package layers

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"flag"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"
)

var update = flag.Bool("update", false, "write the golden files anew")

const vectors = "../../mapping/wire/testdata/"

var captures = []string{
	"third_party/tcpdump/lisp_eid_register.pcap", "third_party/tcpdump/lisp_eid_notify.pcap",
	"third_party/tcpdump/lisp_ipv6.pcap", "third_party/tcpdump/lisp_invalid.pcap",
	"third_party/tcpdump/lisp_invalid_length.pcap", "third_party/opendaylight/lisp_odl_vectors.pcap",
	"computed/lisp_computed_vectors.pcap",
}

func readCapture(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(vectors + name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// texts returns the texts of the packets in a capture, up to where it is damaged.
func texts(capture []byte) (all string, err error) {
	for p, err := range Packets(bytes.NewReader(capture)) {
		if err != nil {
			return all, err
		}
		all += p.Text()
	}
	return all, nil
}

// wholeTexts is texts of a capture that is whole.
func wholeTexts(t testing.TB, capture []byte) string {
	t.Helper()
	all, err := texts(capture)
	if err != nil {
		t.Errorf("after %d octets of text: %v", len(all), err)
	}
	return all
}

// jsonLines returns the packets in a capture that is whole, as JSON, a line each.
func jsonLines(t testing.TB, capture []byte) string {
	t.Helper()
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	for p, err := range Packets(bytes.NewReader(capture)) {
		if err == nil {
			err = enc.Encode(p)
		}
		if err != nil {
			t.Errorf("after %d octets: %v", out.Len(), err)
		}
	}
	return out.String()
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got == string(want) {
		return
	}
	g, w := strings.Split(got, "\n"), strings.Split(string(want), "\n")
	for i := range max(len(g), len(w)) {
		if i >= len(g) || i >= len(w) || g[i] != w[i] {
			t.Fatalf("%s, line %d:\n got %q\nwant %q", path, i+1, g[min(i, len(g)-1)], w[min(i, len(w)-1)])
		}
	}
}

func TestGolden(t *testing.T) {
	for _, name := range captures {
		base := strings.TrimSuffix(filepath.Base(name), ".pcap")
		golden(t, base+".txt", wholeTexts(t, readCapture(t, name)))
	}
	golden(t, "lisp_computed_vectors.jsonl", jsonLines(t, readCapture(t, "computed/lisp_computed_vectors.pcap")))
}

// What the golden files must say, worked out from the packets by hand: block
// by packet number.
func TestContent(t *testing.T) {
	for name, packets := range map[string]map[int][]string{
		"third_party/tcpdump/lisp_eid_register.pcap": {
			1: {"192.168.0.105:4342 > 127.0.0.1:4342  map-register, 116 octets", "nonce c4218228892d20a4, flags IEM",
				"key-id 0, algorithm 1 (hmac-sha-1-96), 20 octets", "record 10.30.1.100/32: ttl 1440 min, authoritative\n",
				"locator 20.20.8.253 priority 1 weight 100 mpriority 1 mweight 100\n", "xtr-id 9787ad753caf58a713fa6920e6d27a8f, site-id 0"},
		},
		"third_party/tcpdump/lisp_ipv6.pcap": {
			1: {"record 2001:db8:85a3::/80", "record 2001:db8:95a3::/80"},
		},
		"third_party/tcpdump/lisp_invalid.pcap": {
			1: {"map-notify, 132 octets", "error: map-notify: record 0 eid at octet 46: unknown address family 7680"},
			2: {"error: map-notify: authentication_data at octet 16: truncated", "were not captured"},
		},
		"third_party/tcpdump/lisp_invalid_length.pcap": {
			1: {"13.1.1.1:61 > 1.254.1.121:4342  map-register, 8 octets", "error: map-register: nonce at octet 4: truncated"},
		},
		"third_party/opendaylight/lisp_odl_vectors.pcap": {
			1:  {"error: encapsulated-control-message: inner_ip at octet 6: truncated"},
			12: {"error: encapsulated-control-message: inner_udp at octet 50: bad checksum"},
			13: {"inner [2610:d0:ffff:192::1]:4342 > [2610:d0:ffff:192::2]:4342  map-request",
				"source-eid 2610:d0:ffff:192::1, itr-rlocs 10.0.58.156", "eid 2610:d0:ffff:192::2/128",
				"map-data 2610:d0:ffff:192::1/128: ttl 10 min, authoritative"},
			15: {"shared-extension", "64 octets, not decoded"},
		},
		"computed/lisp_computed_vectors.pcap": {
			1:  {"192.0.2.1:49443 > 198.51.100.1:4341  lisp-data, 44 octets", "flags I, instance-id 5", "inner UDP 10.1.0.1 port 1234 > 10.2.0.1 port 5678, ttl 63, 36 octets"},
			2:  {"flags NL, nonce abcdef, locator-status-bits 00000000000000000000000000000011"},
			3:  {"[2001:db8:ffff::1]:49445 > [2001:db8:ffff::2]:4341", "flags LVI, instance-id 7, map-versions 291 > 1110, locator-status-bits 00000001"},
			4:  {"inner UDP 2001:db8:1::1 port 1234 > 2001:db8:2::1 port 5678, ttl 63, 56 octets"},
			5:  {"flags IP, instance-id 9, next-protocol 3", "payload of 50 octets"},
			8:  {"negative-map-reply", "record 11.0.0.0/8: ttl 15 min, natively-forward"},
			9:  {"rloc-probe, ", "source-eid none"},
			10: {"rloc-probe-reply", "flags LpR"},
			11: {"solicit-map-request", "flags SD"},
			12: {"eid 10.2.0.0/16, subscribe"},
			18: {"key-id 10, algorithm 3 (hmac-sha-256-128-hkdf), 16 octets"},
			20: {"map-notify-ack"},
			21: {"lisp-sec data: 36 octets", "eid 10.2.0.1/32"},
			22: {"lisp-sec data: 56 octets"},
			23: {"map-referral", "nonce 1122334455667788", "40 octets, not decoded"},
			25: {"info-request"},
			26: {"info-reply", "ttl 15 min", "nat-traversal(global etr 203.0.113.10 port 61000, private etr 10.0.0.2, ms 203.0.113.1 port 4342, rtr 203.0.113.200)"},
			27: {"record [10]10.2.0.0/16"},
			28: {"flags I, instance-id 5, encrypted with key-id 1", "payload of 56 octets"},
		},
	} {
		capture := readCapture(t, name)
		var blocks []string
		for p, err := range Packets(bytes.NewReader(capture)) {
			if err != nil {
				t.Fatal(err)
			}
			if p.Number != len(blocks)+1 {
				t.Errorf("%s: packet %d after %d", name, p.Number, len(blocks))
			}
			blocks = append(blocks, p.Text())
		}
		for n, want := range packets {
			for _, s := range want {
				if n > len(blocks) || !strings.Contains(blocks[n-1], s) {
					t.Errorf("%s: packet %d does not say %q:\n%s", name, n, s, blocks[min(n, len(blocks))-1])
				}
			}
		}
	}
}

// Every line of JSON is an object of its own and reads back as what it was.
func TestJSONLines(t *testing.T) {
	capture := readCapture(t, "computed/lisp_computed_vectors.pcap")
	dec := json.NewDecoder(strings.NewReader(jsonLines(t, capture)))
	dec.DisallowUnknownFields()
	for want := range Packets(bytes.NewReader(capture)) {
		var got Packet
		if err := dec.Decode(&got); err != nil {
			t.Fatal(err)
		}
		if got.Text() != want.Text() {
			t.Errorf("packet %d:\n%s became\n%s", want.Number, want.Text(), got.Text())
		}
	}
	if dec.More() {
		t.Error("more lines than packets")
	}
}

// pcapng, with mixed link types, and gzip say the same as pcap.
func TestFormats(t *testing.T) {
	capture := readCapture(t, "computed/lisp_computed_vectors.pcap")
	want := wholeTexts(t, capture)
	ng := toPcapng(t, capture)
	if got := wholeTexts(t, ng); got != want {
		t.Errorf("pcapng:\n%s", got)
	}
	for name, b := range map[string][]byte{"pcap.gz": capture, "pcapng.gz": ng} {
		var z bytes.Buffer
		w := gzip.NewWriter(&z)
		w.Write(b)
		w.Close()
		if got := wholeTexts(t, z.Bytes()); got != want {
			t.Errorf("%s:\n%s", name, got)
		}
		if _, err := texts(z.Bytes()[:z.Len()/2]); err == nil {
			t.Errorf("half of a %s is no error", name)
		}
	}
}

func toPcapng(t testing.TB, capture []byte) []byte {
	t.Helper()
	r, err := pcapgo.NewReader(bytes.NewReader(capture))
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	w, err := pcapgo.NewNgWriter(&b, r.LinkType())
	if err != nil {
		t.Fatal(err)
	}
	raw, err := w.AddInterface(pcapgo.NgInterface{Name: "raw", LinkType: layers.LinkTypeRaw})
	if err != nil {
		t.Fatal(err)
	}
	for n := 0; ; n++ {
		data, ci, err := r.ReadPacketData()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if n%2 == 1 { // without its Ethernet header
			data, ci.InterfaceIndex = data[14:], raw
			ci.CaptureLength, ci.Length = len(data), len(data)
		}
		if err := w.WritePacket(ci, data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// A capture that is cut short is an error, except between two packets, and
// what was whole is still written.
func TestTruncatedCapture(t *testing.T) {
	pcap := readCapture(t, "third_party/tcpdump/lisp_eid_notify.pcap")
	for name, capture := range map[string][]byte{"pcap": pcap, "pcapng": toPcapng(t, pcap)} {
		whole := wholeTexts(t, capture)
		clean := 0
		for n := range capture {
			got, err := texts(capture[:n])
			if err == nil {
				clean++
			}
			if !strings.HasPrefix(whole, got) {
				t.Fatalf("%s cut to %d octets says\n%s", name, n, got)
			}
		}
		// After the file's header, the two interfaces of pcapng, and each
		// packet but the last.
		want := map[string]int{"pcap": 1 + 3, "pcapng": 1 + 2 + 3}[name]
		if clean != want {
			t.Errorf("%s: %d truncations are whole files, want %d", name, clean, want)
		}
	}
}

func TestDamagedCapture(t *testing.T) {
	pcap := readCapture(t, "computed/lisp_computed_vectors.pcap")
	ng := toPcapng(t, pcap)
	second := int(binary.LittleEndian.Uint32(ng[4:])) // the first interface
	epb := bytes.Index(ng, []byte{6, 0, 0, 0})
	for name, test := range map[string]struct {
		capture []byte
		at      int
		value   []byte
		want    string
	}{
		"magic":                   {pcap, 0, []byte("text"), "not a capture file"},
		"version":                 {pcap, 4, []byte{9}, "version"},
		"frame length":            {pcap, 32, []byte{0xff, 0xff, 0xff, 0x7f}, "packet 1: capture length exceeds"},
		"frame length and length": {pcap, 32, bytes.Repeat([]byte{0xff}, 8), "packet 1: capture length exceeds"},
		"byte order":              {ng, 8, []byte{0}, "no byte order"},
		"block length 0":          {ng, epb + 4, []byte{0, 0, 0, 0}, "a block of 0 octets"},
		"block length over":       {ng, epb + 4, []byte{0xfc, 0xff, 0xff, 0xff}, "a block of 4294967292 octets"},
		"block length odd":        {ng, epb + 4, []byte{0x7f}, "octets"},
		"ng frame length":         {ng, epb + 20, []byte{0xf0, 0xff, 0xff, 0xff}, "a frame of 4294967280 octets"},
		"ng frame over block":     {ng, epb + 20, []byte{0xff, 0}, "a frame of 255 octets in a block of"},
		"no such interface":       {ng, epb + 8, []byte{9}, "packet 1: Interface id 9"},
		"interface length":        {ng, second + 4, []byte{9, 0, 0, 0}, "a block of 9 octets"},
	} {
		b := bytes.Clone(test.capture)
		copy(b[test.at:], test.value)
		_, err := texts(b)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
	for name, text := range map[string]string{"empty": "", "three octets": "abc", "text": "hello, world", "gzip of nothing": "\x1f\x8b\x08\x00"} {
		if _, err := texts([]byte(text)); err == nil {
			t.Errorf("%s is a capture", name)
		}
	}
}

// Any file, however damaged, gives an answer or an error.
func FuzzPackets(f *testing.F) {
	for _, name := range captures {
		b := readCapture(f, name)
		f.Add(b)
		f.Add(toPcapng(f, b))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		n := 0
		for p, err := range Packets(bytes.NewReader(b)) {
			if err != nil {
				continue
			}
			n++
			if p.Number != n {
				t.Fatalf("packet %d after %d", p.Number, n-1)
			}
			if (p.Control != nil) == (p.Data != nil) && p.Other == "" {
				t.Fatalf("packet of no kind: %+v", p)
			}
			if _, err := json.Marshal(p); err != nil {
				t.Fatal(err)
			}
			if s := p.Text(); !strings.HasSuffix(s, "\n") {
				t.Fatalf("text %q", s)
			}
		}
	})
}

// writeCapture makes a pcap of frames.
func writeCapture(t *testing.T, link uint32, frames ...[]byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := pcapgo.NewWriter(&b)
	if err := w.WriteFileHeader(65536, layers.LinkType(link)); err != nil {
		t.Fatal(err)
	}
	// pcapgo has eight bits for the link type; the file has 32.
	copy(b.Bytes()[20:], []byte{byte(link), byte(link >> 8)})
	for _, f := range frames {
		if err := w.WritePacket(gopacket.CaptureInfo{CaptureLength: len(f), Length: len(f)}, f); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

func serialize(t *testing.T, ls ...gopacket.SerializableLayer) []byte {
	t.Helper()
	b := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true}, ls...); err != nil {
		t.Fatal(err)
	}
	return bytes.Clone(b.Bytes())
}

// LISP is found under every link layer that tcpdump writes on Linux.
func TestLinkTypes(t *testing.T) {
	ip := readCapture(t, "computed/lisp_computed_vectors.pcap")[24+16+14:][:20+8+44]
	mac := []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2}
	for name, test := range map[string]struct {
		link  uint32
		frame []byte
	}{
		"Ethernet": {1, append(bytes.Clone(mac), append([]byte{8, 0}, ip...)...)},
		"VLAN":     {1, append(bytes.Clone(mac), append([]byte{0x81, 0, 0, 7, 8, 0}, ip...)...)},
		"raw":      {101, ip},
		"IPv4":     {228, ip},
		"SLL":      {113, append([]byte{0, 4, 0, 1, 0, 6, 2, 0, 0, 0, 0, 1, 0, 0, 8, 0}, ip...)},
		"SLL2":     {276, append([]byte{8, 0, 0, 0, 0, 0, 0, 2, 0, 1, 4, 6, 2, 0, 0, 0, 0, 1, 0, 0}, ip...)},
	} {
		got := wholeTexts(t, writeCapture(t, test.link, test.frame))
		if !strings.Contains(got, "192.0.2.1:49443 > 198.51.100.1:4341  lisp-data, 44 octets") {
			t.Errorf("%s:\n%s", name, got)
		}
	}
	got := wholeTexts(t, writeCapture(t, 276, []byte{8, 0}))
	if !strings.Contains(got, "undecodable") {
		t.Errorf("two octets of SLL2:\n%s", got)
	}
}

func TestOtherPackets(t *testing.T) {
	src, dst := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("198.51.100.1")
	ip := func(p layers.IPProtocol) *layers.IPv4 {
		return &layers.IPv4{Version: 4, TTL: 64, Protocol: p, SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}
	}
	udp := func(from, to int) *layers.UDP {
		return &layers.UDP{SrcPort: layers.UDPPort(from), DstPort: layers.UDPPort(to)}
	}
	fragment := ip(layers.IPProtocolUDP)
	fragment.Flags, fragment.FragOffset = layers.IPv4MoreFragments, 100
	notify := gopacket.Payload("\x40\x00\x00\x00")
	for name, test := range map[string]struct {
		frame []byte
		want  string
	}{
		"TCP":                          {serialize(t, ip(layers.IPProtocolTCP), &layers.TCP{SrcPort: 1, DstPort: 2, DataOffset: 5}), "TCP 192.0.2.1 > 198.51.100.1\n"},
		"other UDP":                    {serialize(t, ip(layers.IPProtocolUDP), udp(1000, 2000), notify), "192.0.2.1:1000 > 198.51.100.1:2000  UDP, 4 octets\n"},
		"fragment":                     {serialize(t, fragment, gopacket.Payload("abcdefgh")), "Fragment 192.0.2.1 > 198.51.100.1\n"},
		"to the control port":          {serialize(t, ip(layers.IPProtocolUDP), udp(1000, 4342), notify), "map-notify, 4 octets\n    error: map-notify: nonce at octet 4: truncated\n"},
		"from the control port":        {serialize(t, ip(layers.IPProtocolUDP), udp(4342, 1000), notify), "map-notify, 4 octets\n"},
		"from the data port":           {serialize(t, ip(layers.IPProtocolUDP), udp(4341, 1000), notify), "UDP, 4 octets\n"},
		"between the ports":            {serialize(t, ip(layers.IPProtocolUDP), udp(4342, 4341), notify), "lisp-data, 4 octets\n    error: encap: LISP header"},
		"from VXLAN's port":            {serialize(t, ip(layers.IPProtocolUDP), udp(4789, 4341), gopacket.Payload("\x08\x00\x00\x00\x00\x00\x05\x00")), "flags I, instance-id 5\n    error: "},
		"unknown type":                 {serialize(t, ip(layers.IPProtocolUDP), udp(1, 4342), gopacket.Payload("\x90")), "malformed, 1 octets\n    error: message: type at octet 0: unexpected message type 9\n"},
		"empty":                        {serialize(t, ip(layers.IPProtocolUDP), udp(1, 4342)), "malformed, 0 octets\n    error: message: type at octet 0: truncated\n"},
		"after the message":            {serialize(t, ip(layers.IPProtocolUDP), udp(1, 4342), gopacket.Payload("\x20\x00\x00\x0012345678abc")), "    3 octets after the message\n"},
		"GPE with IPv4":                {serialize(t, ip(layers.IPProtocolUDP), udp(1, 4341), gopacket.Payload("\x0c\x00\x00\x01\x00\x00\x05\x00"), ip(layers.IPProtocolICMPv4), gopacket.Payload("12345678")), "flags IP, instance-id 5, next-protocol 1\n    inner ICMPv4 192.0.2.1 > 198.51.100.1, ttl 64, 28 octets\n"},
		"reserved bit":                 {serialize(t, ip(layers.IPProtocolUDP), udp(1, 4341), gopacket.Payload("\x04\x00\x00\x00\x00\x00\x00\x00"), ip(layers.IPProtocolICMPv4), gopacket.Payload("12345678")), "4341  lisp-data, 36 octets\n    inner ICMPv4"},
		"a name that steers terminals": {serialize(t, ip(layers.IPProtocolUDP), udp(1, 4342), gopacket.Payload("\x10\x00\x00\x0012345678\x00\x11\x1b[2J\x00\x00\x00")), `source-eid "\x1b[2J", itr-rlocs none`},
	} {
		got := wholeTexts(t, writeCapture(t, 101, test.frame))
		if !strings.Contains(got, test.want) {
			t.Errorf("%s: want %q in\n%s", name, test.want, got)
		}
	}
}
