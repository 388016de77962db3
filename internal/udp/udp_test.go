package udp

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"
)

func listen(t *testing.T, addrs ...string) *Socket {
	t.Helper()
	var aps []netip.AddrPort
	for _, a := range addrs {
		aps = append(aps, netip.MustParseAddrPort(a))
	}
	s, err := Listen(aps)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func receive(t *testing.T, s *Socket) (string, netip.AddrPort, netip.AddrPort) {
	t.Helper()
	type result struct {
		b        string
		src, dst netip.AddrPort
	}
	got := make(chan result, 1)
	go func() {
		buf := make([]byte, 1500)
		if n, src, dst, err := s.Read(buf); err == nil {
			got <- result{string(buf[:n]), src, dst}
		}
	}()
	select {
	case r := <-got:
		return r.b, r.src, r.dst
	case <-time.After(5 * time.Second):
		t.Fatal("nothing received")
		panic("unreachable")
	}
}

// An answer must leave from the address that was asked, also from a wildcard
// socket on a host with several addresses.
func TestAnswerLeavesFromTheAddressAsked(t *testing.T) {
	for _, x := range []struct {
		name   string
		listen []string
		ask    string
	}{
		{"bound", []string{"127.0.0.2:0"}, "127.0.0.2"},
		{"wildcard IPv4", []string{"0.0.0.0:0"}, "127.0.0.3"},
		{"wildcard both", []string{"0.0.0.0:0", "[::]:0"}, "127.0.0.4"},
		{"wildcard IPv6", []string{"0.0.0.0:0", "[::]:0"}, "::1"},
	} {
		t.Run(x.name, func(t *testing.T) {
			ask := netip.MustParseAddr(x.ask)
			server := listen(t, x.listen...)
			var port uint16
			for _, a := range server.Addrs() {
				if a.Addr().Is4() == ask.Is4() {
					port = a.Port()
				}
			}
			client := listen(t, map[bool]string{true: "127.0.0.1:0", false: "[::1]:0"}[ask.Is4()])
			if err := client.Write([]byte("ask"), netip.AddrPort{}, netip.AddrPortFrom(ask, port)); err != nil {
				t.Fatal(err)
			}
			b, src, dst := receive(t, server)
			if b != "ask" || src != client.Addrs()[0] || dst != netip.AddrPortFrom(ask, port) {
				t.Fatalf("got %q from %v to %v", b, src, dst)
			}
			if err := server.Write([]byte("answer"), dst, src); err != nil {
				t.Fatal(err)
			}
			if b, src, _ := receive(t, client); b != "answer" || src != dst {
				t.Fatalf("answer %q came from %v, asked %v", b, src, dst)
			}
		})
	}
}

func TestWriteNeedsASocketOfTheFamily(t *testing.T) {
	s := listen(t, "127.0.0.1:0")
	for _, x := range []struct{ src, dst netip.AddrPort }{
		{netip.AddrPort{}, netip.MustParseAddrPort("[::1]:9")},
		{netip.MustParseAddrPort("127.0.0.9:0"), netip.MustParseAddrPort("127.0.0.1:9")},
	} {
		if err := s.Write([]byte("x"), x.src, x.dst); !errors.Is(err, ErrNoSocket) {
			t.Errorf("Write from %v to %v = %v, want ErrNoSocket", x.src, x.dst, err)
		}
	}
}

func TestCloseEndsRead(t *testing.T) {
	for _, addrs := range [][]string{{"127.0.0.1:0"}, {"127.0.0.1:0", "[::1]:0"}} {
		s := listen(t, addrs...)
		done := make(chan error, 1)
		go func() {
			_, _, _, err := s.Read(make([]byte, 10))
			done <- err
		}()
		time.Sleep(10 * time.Millisecond)
		s.Close()
		s.Close()
		select {
		case err := <-done:
			if !errors.Is(err, net.ErrClosed) {
				t.Errorf("Read after Close = %v", err)
			}
		case <-time.After(5 * time.Second):
			t.Error("Read did not end")
		}
	}
	if _, err := Listen([]netip.AddrPort{netip.MustParseAddrPort("192.0.2.77:4342")}); err == nil {
		t.Error("listening on somebody else's address worked")
	}
}
