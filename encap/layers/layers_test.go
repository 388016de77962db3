package layers

import (
	"errors"
	"os"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"

	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// payloads returns the UDP payloads of a capture, by frame from 1.
func payloads(t *testing.T, name string) map[int][]byte {
	t.Helper()
	f, err := os.Open(vectors + name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := pcapgo.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	m := map[int][]byte{}
	for n := 1; ; n++ {
		data, _, err := r.ReadPacketData()
		if err != nil {
			return m
		}
		p := gopacket.NewPacket(data, r.LinkType(), gopacket.Default)
		m[n] = p.Layer(layers.LayerTypeUDP).LayerPayload()
	}
}

func layerNames(p gopacket.Packet) string {
	s := ""
	for _, l := range p.Layers() {
		s += " " + l.LayerType().String()
	}
	return s
}

func TestLayers(t *testing.T) {
	frames := payloads(t, "computed/lisp_computed_vectors.pcap")
	for n, test := range map[int]struct {
		first gopacket.LayerType
		want  string
	}{
		1:  {LayerTypeData, " LISP IPv4 UDP Payload"},
		2:  {LayerTypeData, " LISP IPv6 UDP Payload"},
		5:  {LayerTypeData, " LISP Payload"},
		28: {LayerTypeData, " LISP Payload"},
		6:  {LayerTypeControl, " LISPControl LISPControl"},
		7:  {LayerTypeControl, " LISPControl"},
		23: {LayerTypeControl, " LISPControl"},
	} {
		p := gopacket.NewPacket(frames[n], test.first, gopacket.Default)
		if got := layerNames(p); got != test.want || p.ErrorLayer() != nil {
			t.Errorf("frame %d:%s, want%s, %v", n, got, test.want, p.ErrorLayer())
		}
	}
	p := gopacket.NewPacket(frames[6], LayerTypeControl, gopacket.Default)
	outer, inner := p.Layers()[0].(*Control), p.Layers()[1].(*Control)
	if e, ok := outer.Message.(*wire.ECM); !ok || outer.Type != wire.TypeECM || e.Dst.String() != "10.2.0.1:4342" {
		t.Errorf("outer %+v", outer)
	}
	if m, ok := inner.Message.(*wire.MapRequest); !ok || m.Nonce != 0x1122334455667788 || len(inner.Contents) == 0 {
		t.Errorf("inner %+v", inner)
	}
	d := gopacket.NewPacket(frames[5], LayerTypeData, gopacket.Default).Layer(LayerTypeData).(*Data)
	if !d.GPE || d.Next != NextEthernet || d.IID != 9 || len(d.Payload) != 50 || len(d.Contents) != 8 {
		t.Errorf("GPE %+v", d)
	}
}

// An error of the codec reaches who asks gopacket.
func TestLayerErrors(t *testing.T) {
	frames := payloads(t, "third_party/tcpdump/lisp_invalid.pcap")
	p := gopacket.NewPacket(frames[1], LayerTypeControl, gopacket.Default)
	var de *wire.DecodeError
	if p.ErrorLayer() == nil || !errors.As(p.ErrorLayer().Error(), &de) || de.Offset != 46 || !errors.Is(de, wire.ErrUnknownAFI) {
		t.Errorf("error layer %v", p.ErrorLayer())
	}
	if p := gopacket.NewPacket([]byte{0x90, 0}, LayerTypeControl, gopacket.Default); p.ErrorLayer() == nil {
		t.Error("type 9 is no error")
	}
	if p := gopacket.NewPacket(make([]byte, 7), LayerTypeData, gopacket.Default); p.ErrorLayer() == nil || !p.Metadata().Truncated {
		t.Errorf("7 octets of header: %v", p)
	}
}

// The layers work in gopacket's parser, and leave nothing of an earlier packet.
func TestDecodingLayerParser(t *testing.T) {
	frames := payloads(t, "computed/lisp_computed_vectors.pcap")
	var d Data
	var ip4 layers.IPv4
	var ip6 layers.IPv6
	var udp layers.UDP
	var payload gopacket.Payload
	parser := gopacket.NewDecodingLayerParser(LayerTypeData, &d, &ip4, &ip6, &udp, &payload)
	var got []gopacket.LayerType
	for _, n := range []int{3, 2, 5, 4} {
		err := parser.DecodeLayers(frames[n], &got)
		if err != nil {
			t.Errorf("frame %d: %v", n, err)
		}
		var fresh Data
		if err := fresh.DecodeFromBytes(frames[n], gopacket.NilDecodeFeedback); err != nil || fresh.Header != d.Header || fresh.GPE != d.GPE || fresh.Next != d.Next {
			t.Errorf("frame %d: %+v, fresh %+v, %v", n, d, fresh, err)
		}
	}
	var c Control
	control := gopacket.NewDecodingLayerParser(LayerTypeControl, &c)
	for _, n := range []int{6, 23, 7} {
		if err := control.DecodeLayers(frames[n], &got); err != nil {
			t.Errorf("frame %d: %v", n, err)
		}
	}
	if c.Type != wire.TypeMapReply || c.Payload != nil {
		t.Errorf("%+v", c)
	}
}

// Without RegisterPorts gopacket is as it was; with it, it finds LISP itself.
func TestRegisterPorts(t *testing.T) {
	find := func() string {
		b := readCapture(t, "computed/lisp_computed_vectors.pcap")[24+16:][:14+20+8+44]
		return layerNames(gopacket.NewPacket(b, layers.LayerTypeEthernet, gopacket.Default))
	}
	if got := find(); got != " Ethernet IPv4 UDP Payload" {
		t.Errorf("before: %s", got)
	}
	RegisterPorts()
	t.Cleanup(func() {
		layers.RegisterUDPPortLayerType(4341, gopacket.LayerTypeZero)
		layers.RegisterUDPPortLayerType(4342, gopacket.LayerTypeZero)
	})
	if got := find(); got != " Ethernet IPv4 UDP LISP IPv4 UDP Payload" {
		t.Errorf("after: %s", got)
	}
}
