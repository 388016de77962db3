package udp

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// TestA3_ChecksumsAreSent: no socket is told to leave them out.
func TestA3_ChecksumsAreSent(t *testing.T) {
	s := listen(t, "127.0.0.1:0", "[::1]:0", "0.0.0.0:0")
	for _, c := range s.conns {
		if err := c.raw.Control(func(fd uintptr) {
			none, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_NO_CHECK)
			if err != nil || none != 0 {
				t.Errorf("%v: SO_NO_CHECK is %d, %v", c.local, none, err)
			}
			if c.local.Addr().Is4() {
				return
			}
			for name, option := range map[string]int{"UDP_NO_CHECK6_TX": unix.UDP_NO_CHECK6_TX, "UDP_NO_CHECK6_RX": unix.UDP_NO_CHECK6_RX} {
				if none, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_UDP, option); err != nil || none != 0 {
					t.Errorf("%v: %s is %d, %v", c.local, name, none, err)
				}
			}
		}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestA3_BadChecksumIsDropped sends packets that this test made, as a raw socket
// can, and reads only those whose checksum is right.
func TestA3_BadChecksumIsDropped(t *testing.T) {
	raw, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if errors.Is(err, unix.EPERM) {
		t.Skip("a raw socket needs CAP_NET_RAW")
	}
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(raw)
	s := listen(t, "127.0.0.1:0")
	to := s.conns[0].local
	src, dst := netip.MustParseAddr("127.0.0.5"), to.Addr()
	send := func(message string, change func(sum uint16) uint16) {
		t.Helper()
		udp := make([]byte, 8, 64)
		binary.BigEndian.PutUint16(udp[0:], 4342)
		binary.BigEndian.PutUint16(udp[2:], to.Port())
		binary.BigEndian.PutUint16(udp[4:], uint16(8+len(message)))
		udp = append(udp, message...)
		binary.BigEndian.PutUint16(udp[6:], change(checksum(src, dst, udp)))
		ip := []byte{0x45, 0, 0, byte(20 + len(udp)), 0, 0, 0, 0, 64, unix.IPPROTO_UDP, 0, 0}
		ip = append(append(ip, src.AsSlice()...), dst.AsSlice()...) // the kernel fills in the header's checksum
		if err := unix.Sendto(raw, append(ip, udp...), 0, &unix.SockaddrInet4{Addr: dst.As4()}); err != nil {
			t.Fatal(err)
		}
	}
	send("wrong", func(sum uint16) uint16 { return sum ^ 0x0100 })
	send("inverted", func(sum uint16) uint16 { return ^sum })
	send("right", func(sum uint16) uint16 { return sum })
	if got, from, _ := receive(t, s); got != "right" || from.Addr() != src {
		t.Errorf("received %q from %v", got, from)
	}
}

// checksum is that of a UDP datagram (RFC 768) of an even or odd length, whose
// own checksum field is zero.
func checksum(src, dst netip.Addr, udp []byte) uint16 {
	b := append(append(src.AsSlice(), dst.AsSlice()...), 0, unix.IPPROTO_UDP)
	b = binary.BigEndian.AppendUint16(b, uint16(len(udp)))
	b = append(b, udp...)
	if len(b)%2 == 1 {
		b = append(b, 0)
	}
	sum := uint32(0)
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
