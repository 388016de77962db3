package applet

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"
)

// The file that capture writes holds every frame of a ping, both ways, on
// both interfaces of the router, and an independent reader understands it.
func TestCapture(t *testing.T) {
	a, r, _ := path(t)
	file := filepath.Join(t.TempDir(), "x.pcap")
	c := start(t, r, "capture -w "+file)
	waitFor(t, &c.err, "capturing on [eth1 eth2]")
	begin := time.Now()
	run(t, a, 0, "ping -c 4 -i 0.02 -q -s 600 198.51.100.2")
	if code := c.stop(t); code != 0 {
		t.Fatalf("status %d: %s", code, c.err.String())
	}
	src, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	frames := readAll(t, src)
	counts := map[string]int{}
	for _, f := range frames {
		p := gopacket.NewPacket(f.data, layers.LayerTypeEthernet, gopacket.Default)
		if l := p.ErrorLayer(); l != nil {
			t.Error(l.Error())
		}
		if l, ok := p.Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4); ok {
			ip := p.Layer(layers.LayerTypeIPv4).(*layers.IPv4)
			counts[fmt.Sprintf("%s ttl %d", l.TypeCode, ip.TTL)]++
		}
		if f.at.Before(begin.Add(-time.Second)) || f.at.After(time.Now()) {
			t.Errorf("time stamp %v", f.at)
		}
	}
	for _, k := range []string{"EchoRequest ttl 64", "EchoRequest ttl 63", "EchoReply ttl 64", "EchoReply ttl 63"} {
		if counts[k] != 4 {
			t.Errorf("%s: %d frames, want 4 (%v)", k, counts[k], counts)
		}
	}
}

func TestCaptureLimits(t *testing.T) {
	a, r, _ := path(t)
	c := start(t, r, "capture -i eth1 -c 3 -s 40")
	waitFor(t, &c.err, "capturing on [eth1]")
	run(t, a, 0, "ping -c 4 -i 0.02 -q -s 600 198.51.100.2")
	if code := c.wait(t); code != 0 {
		t.Fatal(c.err.String())
	}
	frames := readAll(t, c.out.Bytes())
	if len(frames) != 3 {
		t.Errorf("%d frames, want 3", len(frames))
	}
	for _, f := range frames {
		if len(f.data) > 40 {
			t.Errorf("kept %d octets, want at most 40", len(f.data))
		}
	}
	begin := time.Now()
	run(t, r, 0, "capture -i any -t 0.2")
	if took := time.Since(begin); took < 200*time.Millisecond || took > 3*time.Second {
		t.Errorf("-t 0.2 took %v", took)
	}
}

type frame struct {
	at   time.Time
	data []byte
}

func readAll(t *testing.T, src []byte) []frame {
	t.Helper()
	if len(src) < 24 || binary.NativeEndian.Uint32(src) != pcapMagicNano {
		t.Fatal("no pcap header")
	}
	rd, err := pcapgo.NewReader(bytes.NewReader(src))
	if err != nil {
		t.Fatal(err)
	}
	var list []frame
	for {
		data, info, err := rd.ReadPacketData()
		if err != nil {
			break
		}
		list = append(list, frame{info.Timestamp, data})
	}
	return list
}

func TestParseICMPErrors(t *testing.T) {
	// RFC 792 and RFC 1191: type 3, code 4, next-hop MTU 1464, then the IPv4
	// header and 8 octets of the echo request 0x1234, sequence 7.
	inner4 := append([]byte{0x45, 0, 5, 220, 0, 0, 0x40, 0, 64, 1, 0, 0, 10, 1, 1, 2, 10, 2, 1, 2}, 8, 0, 0, 0, 0x12, 0x34, 0, 7)
	p, ok := parseICMP(append([]byte{3, 4, 0, 0, 0, 0, 5, 184}, inner4...))
	if !ok || p.mtu != 1464 || p.id != 0x1234 || p.seq != 7 || p.failure != "fragmentation needed and DF set" {
		t.Errorf("%+v %v", p, ok)
	}
	inner6 := make([]byte, 48)
	inner6[0], inner6[6], inner6[40] = 0x60, 58, 128
	copy(inner6[44:], []byte{0x12, 0x34, 0, 9})
	p, ok = parseICMPv6(append([]byte{2, 0, 0, 0, 0, 0, 5, 184}, inner6...))
	if !ok || p.mtu != 1464 || p.id != 0x1234 || p.seq != 9 || p.failure != "packet too big" {
		t.Errorf("%+v %v", p, ok)
	}
	for n := range len(inner4) {
		if _, ok := parseICMP(append([]byte{3, 4, 0, 0, 0, 0, 5, 184}, inner4[:n]...)); ok {
			t.Errorf("accepted an error with %d octets of its cause", n)
		}
	}
	for n := range len(inner6) {
		if _, ok := parseICMPv6(append([]byte{2, 0, 0, 0, 0, 0, 5, 184}, inner6[:n]...)); ok {
			t.Errorf("accepted an error with %d octets of its cause", n)
		}
	}
}

func FuzzParseICMP(f *testing.F) {
	f.Add([]byte{3, 4, 0, 0, 0, 0, 5, 184, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, 1, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 8, 0, 0, 0, 0, 1, 0, 2})
	f.Add([]byte{0, 0, 0, 0, 0, 1, 0, 2})
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, parse := range []func([]byte) (icmpPacket, bool){parseICMP, parseICMPv6} {
			p, ok := parse(b)
			if ok && p.failure != "" && len(b) < 8+28 {
				t.Fatalf("an error without its cause: %x", b)
			}
		}
		parseICMP(skipIPv4(b))
	})
}
