package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

func TestECMVectors(t *testing.T) {
	for name, test := range map[string]struct {
		src, dst string
		hops     uint8
		security int
		inner    Type
	}{
		"C6":  {"192.0.2.1:49152", "10.2.0.1:4342", 64, 0, TypeMapRequest},
		"C12": {"192.0.2.1:49152", "10.2.0.0:4342", 64, 0, TypeMapRequest},
		"C21": {"192.0.2.1:49152", "10.2.0.1:4342", 64, 36, TypeMapRequest},
		"E13": {"[2610:d0:ffff:192::1]:4342", "[2610:d0:ffff:192::2]:4342", 255, 0, TypeMapRequest},
	} {
		var m ECM
		if err := m.Decode(messageVector(t, name)); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		typ, _ := PeekType(m.Message)
		if m.Src.String() != test.src || m.Dst.String() != test.dst || m.HopLimit != test.hops || typ != test.inner ||
			m.Security != (test.security > 0) || len(m.SecurityData) != test.security || m.DDT || m.ToETR || m.ToMapServer {
			t.Errorf("%s: %+v", name, m)
		}
	}
}

// The frames that their authors edited after the capture have the checksum
// that the unedited message had.
func TestECMRestored(t *testing.T) {
	for _, v := range readCapture(t, "third_party/opendaylight/lisp_odl_vectors.pcap") {
		switch v.name {
		case "lisp_odl_vectors.pcap:14", "lisp_odl_vectors.pcap:16", "lisp_odl_vectors.pcap:12":
			var m ECM
			if err := m.Decode(v.b); !errors.Is(err, ErrBadChecksum) {
				t.Errorf("%s: %v", v.name, err)
			}
			b := bytes.Clone(v.b)
			i := ecmHeader + ipv4Header + udpHeader
			if b[ecmHeader]>>4 == 6 {
				i = ecmHeader + ipv6Header + udpHeader
			}
			b[i] = 0x14
			var req MapRequest
			if err := m.Decode(b); err != nil {
				t.Errorf("%s restored: %v", v.name, err)
			} else if err := req.Decode(m.Message); err != nil || !req.HasMapData {
				t.Errorf("%s restored: %+v, %v", v.name, req, err)
			}
		}
	}
}

// What we build is what an independent encoder builds.
func TestECMHeaders(t *testing.T) {
	for _, test := range []struct {
		src, dst string
		hops     uint8
		message  string
	}{
		{"192.0.2.1:1024", "10.2.0.1:4342", 64, "message"},
		{"192.0.2.1:1024", "10.2.0.1:4342", 1, "even"},
		{"[2001:db8::1]:65535", "[2001:db8:2::1]:4342", 255, "message"},
		{"[2001:db8::1]:4342", "[2001:db8:2::1]:4342", 0, ""},
	} {
		m := ECM{Src: netip.MustParseAddrPort(test.src), Dst: netip.MustParseAddrPort(test.dst), HopLimit: test.hops, Message: []byte(test.message)}
		got, err := m.AppendBinary([]byte("prefix"))
		if err != nil {
			t.Fatal(err)
		}
		got = got[len("prefix"):]
		hops := test.hops
		if hops == 0 {
			hops = DefaultHopLimit
		}
		udp := &layers.UDP{SrcPort: layers.UDPPort(m.Src.Port()), DstPort: layers.UDPPort(m.Dst.Port())}
		var ip gopacket.SerializableLayer
		if src, dst := m.Src.Addr().AsSlice(), m.Dst.Addr().AsSlice(); m.Src.Addr().Is4() {
			ip4 := &layers.IPv4{Version: 4, TTL: hops, Flags: layers.IPv4DontFragment, Protocol: layers.IPProtocolUDP, SrcIP: src, DstIP: dst}
			_ = udp.SetNetworkLayerForChecksum(ip4)
			ip = ip4
		} else {
			ip6 := &layers.IPv6{Version: 6, HopLimit: hops, NextHeader: layers.IPProtocolUDP, SrcIP: src, DstIP: dst}
			_ = udp.SetNetworkLayerForChecksum(ip6)
			ip = ip6
		}
		buf := gopacket.NewSerializeBuffer()
		opts := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
		if err := gopacket.SerializeLayers(buf, opts, ip, udp, gopacket.Payload(test.message)); err != nil {
			t.Fatal(err)
		}
		if want := append([]byte{0x80, 0, 0, 0}, buf.Bytes()...); !bytes.Equal(got, want) {
			t.Errorf("%s: %x, want\n%x", test.src, got, want)
		}
		var back ECM
		if err := back.Decode(got); err != nil || dump(&back) != dump(&m) {
			t.Errorf("%v: %+v became %+v", err, m, back)
		}
	}
}

// A sum of zero is sent as all ones, which is as right (RFC 768).
func TestA3_ECMChecksumZero(t *testing.T) {
	m := ECM{Src: netip.MustParseAddrPort("192.0.2.1:1024"), Dst: netip.MustParseAddrPort("10.2.0.1:4342"), Message: make([]byte, 2)}
	found := 0
	for v := range 1 << 16 {
		binary.BigEndian.PutUint16(m.Message, uint16(v))
		b, err := m.AppendBinary(nil)
		if err != nil {
			t.Fatal(err)
		}
		switch binary.BigEndian.Uint16(b[ecmHeader+ipv4Header+6:]) {
		case 0:
			t.Fatalf("message %04x is sent without a checksum", v)
		case 0xffff:
			found++
			if err := new(ECM).Decode(b); err != nil {
				t.Errorf("message %04x: %v", v, err)
			}
		}
	}
	if found == 0 {
		t.Error("no message has a sum of zero")
	}
}

func TestECMFlags(t *testing.T) {
	ap := netip.MustParseAddrPort("192.0.2.1:4342")
	ad := unhex(t, "01000002001801021c333395b718fd4d1293ea3992b2937545d3189aaa6f33a400040002")
	for mask, m := range map[byte]ECM{
		0x08: {Security: true, SecurityData: ad}, 0x04: {DDT: true}, 0x02: {ToETR: true}, 0x01: {ToMapServer: true}, 0: {},
	} {
		m.Src, m.Dst, m.Message = ap, ap, []byte("x")
		b, err := m.AppendBinary(nil)
		if err != nil || b[0] != 0x80|mask {
			t.Errorf("%+v: %x, %v", m, b, err)
		}
		var back ECM
		if err := back.Decode(b); err != nil || dump(&back) != dump(&m) {
			t.Errorf("%v: %+v became %+v", err, m, back)
		}
	}
}

// What is wrong with an inner packet is found, and is all that is wrong: the
// checksums that the change breaks are made right again.
func TestECMInnerErrors(t *testing.T) {
	v4, v6 := messageVector(t, "C6"), messageVector(t, "E13")
	const ip, udp4, udp6 = ecmHeader, ecmHeader + ipv4Header, ecmHeader + ipv6Header
	set16 := func(b []byte, at, v int) { binary.BigEndian.PutUint16(b[at:], uint16(v)) }
	for name, test := range map[string]struct {
		b      []byte
		change func(b []byte)
		keep   bool // leave the IPv4 checksum as it is
		err    error
		offset int
	}{
		"version":               {b: v4, change: func(b []byte) { b[ip] = 0x55 }, err: ErrBadHeader, offset: ip},
		"IHL":                   {b: v4, change: func(b []byte) { b[ip] = 0x44 }, err: ErrBadLength, offset: ip},
		"IHL over total length": {b: v4, change: func(b []byte) { b[ip] = 0x4f }, err: ErrBadLength, offset: ip},
		"total length over":     {b: v4, change: func(b []byte) { set16(b, ip+2, len(b)-ip+1) }, err: ErrTruncated, offset: ip + 2},
		"total length under":    {b: v4, change: func(b []byte) { set16(b, ip+2, 27) }, err: ErrBadLength, offset: ip},
		"more fragments":        {b: v4, change: func(b []byte) { b[ip+6] = 0x20 }, err: ErrBadHeader, offset: ip + 6},
		"fragment offset":       {b: v4, change: func(b []byte) { b[ip+7] = 1 }, err: ErrBadHeader, offset: ip + 6},
		"TCP":                   {b: v4, change: func(b []byte) { b[ip+9] = 6 }, err: ErrBadHeader, offset: ip + 9},
		"header checksum":       {b: v4, change: func(b []byte) { b[ip+8]++ }, keep: true, err: ErrBadChecksum, offset: ip + 10},
		"UDP length 7":          {b: v4, change: func(b []byte) { set16(b, udp4+4, 7) }, err: ErrBadLength, offset: udp4 + 4},
		"UDP length over":       {b: v4, change: func(b []byte) { set16(b, udp4+4, len(b)-udp4+1) }, err: ErrBadLength, offset: udp4 + 4},
		"UDP checksum 0":        {b: v4, change: func(b []byte) { set16(b, udp4+6, 0) }, err: ErrBadChecksum, offset: udp4 + 6},
		"UDP checksum":          {b: v4, change: func(b []byte) { b[udp4+6]++ }, err: ErrBadChecksum, offset: udp4 + 6},
		"source address":        {b: v4, change: func(b []byte) { b[ip+12]++ }, err: ErrBadChecksum, offset: udp4 + 6},
		"message":               {b: v4, change: func(b []byte) { b[len(b)-1]++ }, err: ErrBadChecksum, offset: udp4 + 6},
		"TTL":                   {b: v4, change: func(b []byte) { b[ip+8]++ }},
		"traffic class":         {b: v4, change: func(b []byte) { b[ip+1] = 0xb8 }},
		"IPv6 length over":      {b: v6, change: func(b []byte) { set16(b, ip+4, len(b)-udp6+1) }, err: ErrTruncated, offset: ip + 4},
		"IPv6 length under":     {b: v6, change: func(b []byte) { set16(b, ip+4, 7) }, err: ErrBadLength, offset: ip + 4},
		"IPv6 length short":     {b: v6, change: func(b []byte) { set16(b, ip+4, 8) }, err: ErrBadLength, offset: udp6 + 4},
		"IPv6 extension":        {b: v6, change: func(b []byte) { b[ip+6] = 0 }, err: ErrBadHeader, offset: ip + 6},
		"IPv6 UDP checksum 0":   {b: v6, change: func(b []byte) { set16(b, udp6+6, 0) }, err: ErrBadChecksum, offset: udp6 + 6},
		"IPv6 destination":      {b: v6, change: func(b []byte) { b[ip+39]++ }, err: ErrBadChecksum, offset: udp6 + 6},
		"IPv6 flow label":       {b: v6, change: func(b []byte) { b[ip+3]++ }},
	} {
		b := bytes.Clone(test.b)
		test.change(b)
		if size := int(b[ip]&0xf) * 4; b[ip]>>4 == 4 && !test.keep && size >= ipv4Header && ip+size <= len(b) {
			set16(b, ip+10, 0)
			set16(b, ip+10, int(^fold(sum(b[ip:ip+size], 0))))
		}
		err := new(ECM).Decode(b)
		if !errors.Is(err, test.err) {
			t.Errorf("%s: %v, want %v", name, err, test.err)
		}
		if de := (*DecodeError)(nil); errors.As(err, &de) && de.Offset != test.offset {
			t.Errorf("%s: %v, want octet %d", name, err, test.offset)
		}
	}
}

// IPv4 options are skipped, and what is behind the inner packet is ignored.
func TestECMOptions(t *testing.T) {
	plain := messageVector(t, "C6")
	var want, got ECM
	if err := want.Decode(plain); err != nil {
		t.Fatal(err)
	}
	b := append(bytes.Clone(plain[:ecmHeader+ipv4Header]), 0x94, 4, 0, 0) // router alert
	b = append(append(b, plain[ecmHeader+ipv4Header:]...), 1, 2, 3)
	b[ecmHeader] = 0x46
	binary.BigEndian.PutUint16(b[ecmHeader+2:], uint16(len(b)-ecmHeader-3))
	binary.BigEndian.PutUint16(b[ecmHeader+10:], 0)
	binary.BigEndian.PutUint16(b[ecmHeader+10:], ^fold(sum(b[ecmHeader:ecmHeader+24], 0)))
	if err := got.Decode(b); err != nil || dump(&got) != dump(&want) {
		t.Errorf("%v: %+v, want %+v", err, got, want)
	}
}

func TestECMSecurityData(t *testing.T) {
	var m ECM
	good := messageVector(t, "C21")
	if err := m.Decode(good); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		at  int
		v   byte
		err error
	}{
		"unknown type":             {0, 2, ErrUnknownSecurity},
		"type 0":                   {0, 0, ErrUnknownSecurity},
		"key length":               {5, 25, ErrBadLength},
		"key length of the figure": {5, 28, nil},
		"EID-AD length":            {33, 3, ErrBadLength},
		"EID-AD length over":       {32, 0x40, ErrTruncated},
	} {
		b := bytes.Clone(good)
		b[ecmHeader+test.at] = test.v
		if err := m.Decode(b); !errors.Is(err, test.err) {
			t.Errorf("%s: %v, want %v", name, err, test.err)
		}
	}
	// As filled by a map-server: 32 octets of EID-AD.
	ad := append(bytes.Clone(good[ecmHeader:ecmHeader+32]), unhex(t, "0020000201000002001000010a01000099f59af81eab22ad41ccfba920fb2712")...)
	ap := netip.MustParseAddrPort("192.0.2.1:4342")
	m = ECM{Security: true, SecurityData: ad, Src: ap, Dst: ap, Message: []byte("x")}
	b, err := m.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	var back ECM
	if err := back.Decode(b); err != nil || !bytes.Equal(back.SecurityData, ad) || string(back.Message) != "x" {
		t.Errorf("%+v, %v", back, err)
	}
	for name, bad := range map[string]ECM{
		"without S":         {SecurityData: ad, Src: ap, Dst: ap},
		"S without data":    {Security: true, Src: ap, Dst: ap},
		"data cut short":    {Security: true, SecurityData: ad[:60], Src: ap, Dst: ap},
		"octets after data": {Security: true, SecurityData: append(bytes.Clone(ad), 0), Src: ap, Dst: ap},
		"no addresses":      {},
		"two families":      {Src: ap, Dst: netip.MustParseAddrPort("[2001:db8::1]:4342")},
	} {
		if b, err := bad.AppendBinary([]byte{1}); !errors.Is(err, ErrInvalid) || len(b) != 1 {
			t.Errorf("%s: %d octets, %v", name, len(b), err)
		}
	}
	for _, n := range []int{MaxMessage + 1, MaxMessage, MaxMessage - ecmHeader - ipv4Header - udpHeader + 1} {
		if b, err := (&ECM{Src: ap, Dst: ap, Message: make([]byte, n)}).AppendBinary([]byte{1}); !errors.Is(err, ErrTooLarge) || len(b) != 1 {
			t.Errorf("message of %d octets: %d octets, %v", n, len(b), err)
		}
	}
	b, err = (&ECM{Src: ap, Dst: ap, Message: make([]byte, MaxMessage-ecmHeader-ipv4Header-udpHeader)}).AppendBinary(nil)
	if err != nil || back.Decode(b) != nil {
		t.Errorf("largest message: %v", err)
	}
}

// What is inside of an ECM crosses the ALT alone, and is the same packet.
func TestECMPacket(t *testing.T) {
	for _, ends := range [][2]string{{"192.0.2.1:61000", "10.1.0.1:4342"}, {"[2001:db8::1]:61000", "[2001:db8:e::1]:4342"}} {
		m := ECM{Src: netip.MustParseAddrPort(ends[0]), Dst: netip.MustParseAddrPort(ends[1]), HopLimit: 7, Message: []byte{0x10, 2, 3}}
		whole, err := m.AppendBinary(nil)
		if err != nil {
			t.Fatal(err)
		}
		packet, err := m.AppendPacket([]byte{9})
		if err != nil || !bytes.Equal(packet[1:], whole[4:]) {
			t.Errorf("%x, %v, want %x", packet, err, whole[4:])
		}
		var got ECM
		if err := got.DecodePacket(packet[1:]); err != nil || got.Src != m.Src || got.Dst != m.Dst || got.HopLimit != 7 || !bytes.Equal(got.Message, m.Message) {
			t.Errorf("%+v, %v", got, err)
		}
		packet[len(packet)-1] ^= 1
		if err := got.DecodePacket(packet[1:]); !errors.Is(err, ErrBadChecksum) {
			t.Errorf("a packet that was changed: %v", err)
		}
	}
	mixed := ECM{Src: netip.MustParseAddrPort("192.0.2.1:1"), Dst: netip.MustParseAddrPort("[2001:db8::1]:4342"), Message: []byte{1}}
	if b, err := mixed.AppendPacket([]byte{9}); !errors.Is(err, ErrInvalid) || len(b) != 1 {
		t.Errorf("%x, %v", b, err)
	}
}
