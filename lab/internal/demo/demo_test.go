package demo

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"
	"go.uber.org/goleak"

	"github.com/eidolon-lisp/eidolon/lab/internal/applet"
	"github.com/eidolon-lisp/eidolon/lab/internal/clab"
	"github.com/eidolon-lisp/eidolon/lab/internal/runner"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	rlocA, rlocB = "192.0.2.1", "192.0.2.5"
	links        = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/30"), netip.MustParsePrefix("192.0.2.4/30"), netip.MustParsePrefix("2001:db8:f000::/48")}
	known        = []netip.Addr{netip.MustParseAddr(rlocA), netip.MustParseAddr(rlocB), netip.MustParseAddr("2001:db8:f000::1"), netip.MustParseAddr("2001:db8:f000::2")}
)

// packet builds a frame of the given layers with gopacket, which knows nothing
// of the audit.
func packet(t *testing.T, ls ...gopacket.SerializableLayer) []byte {
	t.Helper()
	var prev gopacket.NetworkLayer
	for _, l := range ls {
		switch v := l.(type) {
		case *layers.IPv4:
			prev = v
		case *layers.IPv6:
			prev = v
		case *layers.UDP:
			v.SetNetworkLayerForChecksum(prev)
		case *layers.ICMPv6:
			v.SetNetworkLayerForChecksum(prev)
		}
	}
	b := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, ls...); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func eth(typ layers.EthernetType) *layers.Ethernet {
	return &layers.Ethernet{SrcMAC: []byte{2, 0, 0, 0, 0, 1}, DstMAC: []byte{2, 0, 0, 0, 0, 2}, EthernetType: typ}
}

func ip4(src, dst string, p layers.IPProtocol) *layers.IPv4 {
	return &layers.IPv4{Version: 4, TTL: 64, Protocol: p, SrcIP: netip.MustParseAddr(src).AsSlice(), DstIP: netip.MustParseAddr(dst).AsSlice()}
}

func ip6(src, dst string, p layers.IPProtocol) *layers.IPv6 {
	return &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: p, SrcIP: netip.MustParseAddr(src).AsSlice(), DstIP: netip.MustParseAddr(dst).AsSlice()}
}

func udp(src, dst layers.UDPPort) *layers.UDP { return &layers.UDP{SrcPort: src, DstPort: dst} }

// inner is the content of a data packet: a LISP header and an IPv4 packet.
func inner(t *testing.T, src, dst string) gopacket.Payload {
	return append([]byte{0x80, 0, 0, 1, 0, 0, 0, 0}, packet(t, ip4(src, dst, layers.IPProtocolUDP), udp(1, 2), gopacket.Payload("x"))...)
}

func TestAudit(t *testing.T) {
	eids := append(siteA.eids[:2:2], siteB.eids...)
	data := func(src, dst string) []byte {
		return packet(t, eth(layers.EthernetTypeIPv4), ip4(src, dst, layers.IPProtocolUDP), udp(40000, 4341), inner(t, "10.1.0.10", "10.2.0.10"))
	}
	control := packet(t, eth(layers.EthernetTypeIPv4), ip4(rlocA, rlocB, layers.IPProtocolUDP), udp(4342, 4342), gopacket.Payload("x"))
	good := [][]byte{
		data(rlocA, rlocB),
		packet(t, eth(layers.EthernetTypeIPv6), ip6("2001:db8:f000::1", "2001:db8:f000::2", layers.IPProtocolUDP), udp(1, 4341), inner(t, "10.1.0.10", "10.2.0.10")),
		control,
		packet(t, eth(layers.EthernetTypeIPv4), ip4(rlocA, rlocB, layers.IPProtocolUDP), udp(4342, 50000), gopacket.Payload("x")),
		packet(t, eth(layers.EthernetTypeIPv4), ip4(rlocA, "192.0.2.2", layers.IPProtocolICMPv4), &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(3, 4)}),
		packet(t, eth(layers.EthernetTypeIPv6), ip6("fe80::1", "ff02::1:ff00:1", layers.IPProtocolICMPv6), &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(135, 0)}, gopacket.Payload(make([]byte, 20))),
		packet(t, eth(layers.EthernetTypeARP), &layers.ARP{AddrType: 1, Protocol: 0x0800, HwAddressSize: 6, ProtAddressSize: 4, Operation: 1,
			SourceHwAddress: make([]byte, 6), SourceProtAddress: []byte{192, 0, 2, 1}, DstHwAddress: make([]byte, 6), DstProtAddress: []byte{192, 0, 2, 2}}),
	}
	a := newAudit(links, known, eids)
	for _, f := range good {
		a.frame(f)
	}
	if err := a.verdict(); err != nil {
		t.Fatal(err)
	}
	if a.data != 2 || a.inner != 2 || a.control != 2 || a.neighbour != 2 || a.icmp != 1 {
		t.Errorf("%+v", a)
	}

	fragment := ip4(rlocA, rlocB, layers.IPProtocolUDP)
	fragment.Flags = layers.IPv4MoreFragments
	for _, c := range []struct {
		name string
		f    []byte
		want string
	}{
		{"EID in the source", data("10.1.0.10", rlocB), "EID 10.1.0.10 in an outer header"},
		{"EID in the destination", packet(t, eth(layers.EthernetTypeIPv6), ip6("2001:db8:f000::1", "2001:db8:b::10", layers.IPProtocolTCP), gopacket.Payload("x")), "EID 2001:db8:b::10"},
		{"another network", data("198.51.100.1", rlocB), "none of the core's links"},
		{"no RLOC", data("192.0.2.2", rlocB), "192.0.2.2, which is no RLOC"},
		{"another port", packet(t, eth(layers.EthernetTypeIPv4), ip4(rlocA, rlocB, layers.IPProtocolUDP), udp(53, 53), gopacket.Payload("x")), "UDP from port 53"},
		{"data from, not to, 4341", packet(t, eth(layers.EthernetTypeIPv4), ip4(rlocA, rlocB, layers.IPProtocolUDP), udp(4341, 53), gopacket.Payload("x")), "UDP from port 4341"},
		{"TCP", packet(t, eth(layers.EthernetTypeIPv4), ip4(rlocA, rlocB, layers.IPProtocolTCP), gopacket.Payload(make([]byte, 20))), "IP protocol 6"},
		{"a fragment", packet(t, eth(layers.EthernetTypeIPv4), fragment, udp(1, 4341), inner(t, "10.1.0.10", "10.2.0.10")), "a fragment"},
		{"an inner packet that is none", packet(t, eth(layers.EthernetTypeIPv4), ip4(rlocA, rlocB, layers.IPProtocolUDP), udp(1, 4341), gopacket.Payload(make([]byte, 40))), "inner packet: IP version 0"},
		{"a strange EtherType", packet(t, eth(0x88cc), gopacket.Payload(make([]byte, 50))), "EtherType 0x88cc"},
		{"ARP about an EID", packet(t, eth(layers.EthernetTypeARP), &layers.ARP{AddrType: 1, Protocol: 0x0800, HwAddressSize: 6, ProtAddressSize: 4, Operation: 1,
			SourceHwAddress: make([]byte, 6), SourceProtAddress: []byte{192, 0, 2, 1}, DstHwAddress: make([]byte, 6), DstProtAddress: []byte{10, 2, 0, 10}}), "ARP about 10.2.0.10"},
	} {
		a := newAudit(links, known, eids)
		a.frame(good[0])
		a.frame(control)
		a.frame(c.f)
		if err := a.verdict(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	a = newAudit(links, known, eids)
	a.frame(control)
	if err := a.verdict(); err == nil {
		t.Error("a capture without data shows nothing")
	}
	a.frame(packet(t, eth(layers.EthernetTypeIPv4), ip4(rlocA, rlocB, layers.IPProtocolUDP), udp(1, 4341), inner(t, "198.51.100.10", "10.2.0.10")))
	if err := a.verdict(); err == nil || !strings.Contains(err.Error(), "carry no EIDs inside") {
		t.Errorf("inner addresses that are no EIDs: %v", err)
	}
}

// Truncated frames are faults, never a panic.
func FuzzAudit(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x86, 0xdd, 0x60, 0, 0, 0, 0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		a := newAudit(links, known, siteA.eids)
		a.frame(b)
		if n := a.data + a.control + a.neighbour + a.icmp + a.faults; n < 1 || n > 2 || n == 2 && a.data != 1 {
			t.Fatalf("counted as %+v", a)
		}
	})
}

func TestReadPcap(t *testing.T) {
	var b bytes.Buffer
	w := pcapgo.NewWriterNanos(&b)
	if err := w.WriteFileHeader(65535, layers.LinkTypeEthernet); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"first", "", "the third"} {
		if err := w.WritePacket(gopacket.CaptureInfo{Timestamp: time.Now(), CaptureLength: len(f), Length: len(f) + 9}, []byte(f)); err != nil {
			t.Fatal(err)
		}
	}
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		t.Skip("the writer of this test is little-endian, this machine is not")
	}
	var got []string
	if err := readPcap(bytes.NewReader(b.Bytes()), func(f []byte) { got = append(got, string(f)) }); err != nil {
		t.Fatal(err)
	}
	if strings.Join(got, "|") != "first||the third" {
		t.Errorf("%q", got)
	}
	for n := range b.Len() {
		err := readPcap(bytes.NewReader(b.Bytes()[:n]), func([]byte) {})
		whole := n == 24 || n == 24+16+5 || n == 24+16+5+16
		if (err == nil) != whole {
			t.Errorf("cut to %d octets: %v", n, err)
		}
	}
}

func TestFollower(t *testing.T) {
	dir := t.TempDir()
	lab := &runner.Lab{Dir: dir}
	path := lab.LogPath("xtr-a")
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	shownLines := make(chan string, 100)
	f := follow(lab, []string{"xtr-a"}, func(_ time.Time, s string) { shownLines <- s })
	defer f.stop()
	out, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	write := func(s string) {
		if _, err := out.WriteString(s); err != nil {
			t.Fatal(err)
		}
	}
	write("not JSON\n" + `{"time":"2026-01-02T03:04:05.1Z","level":"DEBUG","msg":"other"}` + "\n")
	write(`{"time":"2026-01-02T03:04:06.5Z","level":"INFO","msg":"registered","eid":"10.1.0.0/16","map_`)
	time.Sleep(3 * followEvery)
	write(`server":"203.0.113.10:4342"}` + "\n")
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	e, err := f.wait(ctx, time.Time{}, "xtr-a", "registered", "10.1.0.0/16")
	if err != nil || e.at.Second() != 6 {
		t.Fatalf("%+v %v", e, err)
	}
	if s := <-shownLines; s != "xtr-a      registered             eid=10.1.0.0/16 map_server=203.0.113.10:4342" {
		t.Errorf("shown: %q", s)
	}
	go func() {
		time.Sleep(30 * time.Millisecond)
		write(`{"time":"2026-01-02T03:04:07Z","msg":"map-reply received","eid":"10.2.0.0/16","ttl":1440,"rtt":1500000}` + "\n")
	}()
	e, err = f.wait(ctx, time.Time{}, "xtr-a", "map-reply received", "")
	if err != nil || !strings.HasSuffix(e.String(), "eid=10.2.0.0/16 ttl=1440 rtt=1.50 ms") {
		t.Errorf("%s %v", e, err)
	}
	short, stop := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer stop()
	if _, err := f.wait(short, e.at.Add(1), "xtr-a", "map-reply received", ""); err == nil {
		t.Error("an event before the time asked for was taken")
	}
}

func TestExtra(t *testing.T) {
	top, err := clab.Decode("t.clab.yml", []byte(`
name: t
topology:
  defaults: {kind: linux}
  nodes:
    x:
      exec:
        - ip route add default via 192.0.2.2
        - "ip -6 route add default via 2001:db8::2"
        - ip route add 198.51.100.0/24 via 192.0.2.2 src 192.0.2.1
    y:
  links:
    - endpoints: ["x:eth1", "y:eth1"]
`))
	if err != nil {
		t.Fatal(err)
	}
	clean := kernelState{
		links: []applet.JSONLink{{Name: "lo"}, {Name: "eth1"}},
		rules: []applet.JSONRule{{Family: "inet", Src: "all", Table: "local"}, {Family: "inet", Priority: 32766, Src: "all", Table: "main"},
			{Family: "inet", Priority: 32767, Src: "all", Table: "default"}, {Family: "inet6", Src: "all", Table: "local"}, {Family: "inet6", Priority: 32766, Src: "all", Table: "main"}},
		routes: []applet.JSONRoute{
			{Type: "unicast", Dst: "192.0.2.0/30", Dev: "eth1", Table: "main", Protocol: "kernel"},
			{Type: "local", Dst: "192.0.2.1/32", Dev: "eth1", Table: "local", Protocol: "kernel"},
			{Type: "unicast", Dst: "0.0.0.0/0", Gateway: "192.0.2.2", Dev: "eth1", Table: "main", Protocol: "boot"},
			{Type: "unicast", Dst: "::/0", Gateway: "2001:db8::2", Dev: "eth1", Table: "main", Protocol: "boot"},
			{Type: "unicast", Dst: "198.51.100.0/24", Gateway: "192.0.2.2", Dev: "eth1", Table: "main", Protocol: "boot"},
		},
	}
	if got := clean.extra(top, "x"); len(got) > 0 {
		t.Errorf("nothing is left, but it says %q", got)
	}
	dirty := clean
	dirty.links = append(dirty.links, applet.JSONLink{Name: "eidolon0"})
	dirty.rules = append(dirty.rules, applet.JSONRule{Family: "inet", Priority: 1002, Src: "10.1.0.0/16", Table: "4341"},
		applet.JSONRule{Family: "inet6", Priority: 32767, Src: "all", Table: "default"})
	dirty.routes = append(dirty.routes,
		applet.JSONRoute{Type: "unreachable", Dst: "0.0.0.0/0", Table: "4341", Protocol: "141"},
		applet.JSONRoute{Type: "unicast", Dst: "0.0.0.0/0", Gateway: "192.0.2.9", Table: "main", Protocol: "boot"},
		applet.JSONRoute{Type: "unicast", Dst: "fe80::/64", Dev: "eidolon0", Table: "main", Protocol: "kernel"})
	if got := dirty.extra(top, "x"); len(got) != 6 {
		t.Errorf("6 things are left, but it says %q", got)
	}
}

// The demo's constants are those of the quickstart topology.
func TestQuickstart(t *testing.T) {
	top, err := clab.Load("../../quickstart.clab.yml")
	if err != nil {
		t.Fatal(err)
	}
	has := func(node string, want netip.Addr) {
		t.Helper()
		for _, a := range top.Node(node).Addresses() {
			if a.Prefix.Addr() == want {
				return
			}
		}
		t.Errorf("node %s has no address %s", node, want)
	}
	eids := append(siteA.eids[:2:2], siteB.eids...)
	for _, s := range []site{siteA, siteB} {
		has(s.host, s.host4)
		has(s.host, s.host6)
		has(s.host, s.pa4)
		has(s.xtr, s.rloc4)
		for i, a := range []netip.Addr{s.host4, s.host6} {
			if !s.eids[i].Contains(a) {
				t.Errorf("%s is not in %s", a, s.eids[i])
			}
		}
	}
	// No link of the core, no provider-assigned address shares anything with EIDs.
	for _, node := range top.Nodes {
		for _, a := range node.Addresses() {
			for _, e := range eids {
				if e.Overlaps(a.Prefix.Masked()) && !e.Contains(a.Prefix.Masked().Addr()) || node.Name == core && e.Overlaps(a.Prefix.Masked()) {
					t.Errorf("%s of %s meets %s", a.Prefix, node.Name, e)
				}
			}
		}
	}
	d := &demo{top: top}
	if n := len(d.rlocs()); n != 6 {
		t.Errorf("%d RLOCs on the core's links, want 6: %v", n, d.rlocs())
	}
	if n := len(d.rlocPrefixes()); n != 6 {
		t.Errorf("%d networks of the core's links, want 6", n)
	}
	for _, l := range top.Links {
		if l.MTU != 1500 {
			t.Errorf("%v: the demo reckons with an MTU of 1500", l)
		}
	}
}

func TestStepsAndTable(t *testing.T) {
	var out bytes.Buffer
	d := &demo{opts: Options{Out: &out}, start: time.Now()}
	ok := step{"good", func(context.Context) (string, error) { return "5 of 5", nil }}
	bad := step{"bad", func(context.Context) (string, error) { return "3 of 5", errors.New("packets were lost") }}
	d.steps(t.Context(), []step{ok, bad})
	late, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	d.steps(late, []step{ok})
	interrupted, stop := context.WithCancel(t.Context())
	stop()
	d.steps(interrupted, []step{ok})
	if len(d.results) != 3 || d.failed() != 2 {
		t.Errorf("%d results, %d failed; want 3 and 2", len(d.results), d.failed())
	}
	d.table()
	for _, want := range []string{"pass  good", "FAIL  bad", "3 of 5; packets were lost", "not done: context deadline exceeded", "1 of 3 checks passed"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	if m := median([]float64{3, 1, 2}); m != 2 {
		t.Errorf("median %v", m)
	}
	if m := median([]float64{4, 1, 2, 3}); m != 2.5 {
		t.Errorf("median %v", m)
	}
}
