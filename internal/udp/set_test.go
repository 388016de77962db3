package udp

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"
)

func ap(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// TestSet: addresses come and go while others receive and send.
func TestSet(t *testing.T) {
	port := listen(t, "127.0.0.9:0").Addrs()[0].Port() // one that is free, we hope
	at := func(s string) netip.AddrPort { return netip.AddrPortFrom(netip.MustParseAddr(s), port) }
	s := NewSet()
	t.Cleanup(func() { s.Close() })
	if err := s.Write([]byte("x"), netip.AddrPort{}, at("127.0.0.1")); !errors.Is(err, ErrNoSocket) {
		t.Errorf("without an address: %v", err)
	}
	if missing, err := s.Update([]netip.AddrPort{at("127.0.0.1"), at("203.0.113.1")}); err == nil || len(missing) != 1 || missing[0] != at("203.0.113.1") {
		t.Fatalf("missing %v: %v", missing, err)
	}
	client := listen(t, "127.0.0.1:0")
	send := func(to netip.AddrPort) {
		t.Helper()
		if err := client.Write([]byte(to.String()), client.Addrs()[0], to); err != nil {
			t.Fatal(err)
		}
	}
	got := make(chan netip.AddrPort, 100)
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 100)
		for {
			n, _, dst, err := s.Read(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil || string(buf[:n]) != dst.String() {
				t.Errorf("%q at %v: %v", buf[:n], dst, err)
			}
			got <- dst
		}
	})
	want := func(a netip.AddrPort) {
		t.Helper()
		select {
		case g := <-got:
			if g != a {
				t.Errorf("came to %v, want %v", g, a)
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("nothing came to %v", a)
		}
	}
	send(at("127.0.0.1"))
	want(at("127.0.0.1"))
	if _, err := s.Update([]netip.AddrPort{at("127.0.0.1"), at("127.0.0.2"), at("127.0.0.2")}); err != nil {
		t.Fatal(err)
	}
	send(at("127.0.0.2"))
	want(at("127.0.0.2"))
	if _, err := s.Update([]netip.AddrPort{at("127.0.0.2")}); err != nil {
		t.Fatal(err)
	}
	if err := s.Write([]byte("x"), at("127.0.0.1"), client.Addrs()[0]); !errors.Is(err, ErrNoSocket) {
		t.Errorf("from an address that is gone: %v", err)
	}
	if err := s.Write([]byte("x"), at("127.0.0.2"), client.Addrs()[0]); err != nil {
		t.Error(err)
	}
	send(at("127.0.0.2"))
	want(at("127.0.0.2"))
	if c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(at("127.0.0.1"))); err != nil {
		t.Errorf("the address that is gone is still bound: %v", err)
	} else {
		c.Close()
	}
	s.Close()
	wg.Wait()
	if _, err := s.Update([]netip.AddrPort{ap("127.0.0.1:0")}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("update after close: %v", err)
	}
}
