package udp

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"
)

// receiveAll reads n datagrams from all queues of s.
func receiveAll(t *testing.T, s *Socket, n int) map[string]Message {
	t.Helper()
	var mu sync.Mutex
	var once sync.Once
	got := make(map[string]Message)
	done := make(chan struct{})
	for _, q := range s.Queues() {
		go func() {
			for {
				ms, err := q.Receive()
				if err != nil {
					return
				}
				mu.Lock()
				for _, m := range ms {
					got[string(m.Payload)] = Message{Src: m.Src, Dst: m.Dst}
				}
				if len(got) == n {
					once.Do(func() { close(done) })
				}
				mu.Unlock()
			}
		}()
	}
	select {
	case <-done:
	case <-time.After(5 * time.Second):
	}
	mu.Lock()
	defer mu.Unlock()
	if len(got) < n {
		t.Fatalf("%d datagrams received, %d sent", len(got), n)
	}
	return maps.Clone(got)
}

// A batch goes from the addresses wanted to the addresses wanted, whichever
// sockets they belong to, and arrives with the addresses it was sent with.
func TestBatchKeepsTheAddresses(t *testing.T) {
	for _, x := range []struct {
		name   string
		listen []string
		from   []string // of the sender, one socket each
		to     []string // addresses of the receiver
	}{
		{"bound", []string{"127.0.0.2:0"}, []string{"127.0.0.3:0"}, []string{"127.0.0.2"}},
		{"wildcard", []string{"0.0.0.0:0", "[::]:0"}, []string{"127.0.0.3:0", "127.0.0.4:0", "[::1]:0"}, []string{"127.0.0.8", "127.0.0.9", "::1"}},
		{"from a wildcard", []string{"127.0.0.2:0", "[::1]:0"}, []string{"0.0.0.0:0", "[::]:0"}, []string{"127.0.0.2", "::1"}},
	} {
		t.Run(x.name, func(t *testing.T) {
			srv, cli := listen(t, x.listen...), listen(t, x.from...)
			ports := make(map[bool]uint16)
			for _, a := range srv.Addrs() {
				ports[a.Addr().Is4()] = a.Port()
			}
			var ms []Message
			for i := range 3 * batch {
				to := netip.MustParseAddr(x.to[i%len(x.to)])
				m := Message{Payload: fmt.Appendf(nil, "%d", i), Dst: netip.AddrPortFrom(to, ports[to.Is4()])}
				for _, a := range cli.Addrs() {
					switch {
					case a.Addr().Is4() != to.Is4():
					case a.Addr() == netip.IPv4Unspecified():
						m.Src = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 1, byte(i)}), a.Port())
					case a.Addr().IsUnspecified():
						m.Src = netip.AddrPortFrom(netip.IPv6Loopback(), a.Port())
					case !m.Src.IsValid() || i%2 == 0:
						m.Src = a
					}
				}
				ms = append(ms, m)
			}
			for name, sender := range map[string]Sender{"own": cli.NewSender(), "queue": cli.Queues()[0], "plain": NewSender(plain{cli})} {
				if failed := sender.Send(ms); failed != 0 {
					t.Fatalf("%s: %d datagrams were not sent", name, failed)
				}
			}
			got := receiveAll(t, srv, len(ms))
			for _, m := range ms {
				if g := got[string(m.Payload)]; g.Src != m.Src || g.Dst != m.Dst {
					t.Errorf("datagram %s came from %v to %v, was sent from %v to %v", m.Payload, g.Src, g.Dst, m.Src, m.Dst)
				}
			}
		})
	}
}

// plain hides that a Conn is a Batcher.
type plain struct{ Conn }

// One that can't be sent does not keep back the others.
func TestBatchSkipsWhatCannotBeSent(t *testing.T) {
	srv := listen(t, "127.0.0.1:0")
	cli := listen(t, "127.0.0.1:0")
	to := srv.Addrs()[0]
	ms := []Message{
		{Payload: []byte("a"), Dst: to},
		{Payload: make([]byte, 70000), Dst: to},
		{Payload: []byte("b"), Dst: to},
		{Payload: []byte("c"), Dst: netip.MustParseAddrPort("[::1]:9")}, // no socket of the family
		{Payload: []byte("d"), Dst: to},
	}
	if failed := cli.NewSender().Send(ms); failed != 2 {
		t.Errorf("%d of the datagrams failed, expected 2", failed)
	}
	if got := receiveAll(t, srv, 3); len(got) != 3 {
		t.Errorf("received %v", got)
	}
}

// The sockets of a shared address receive every datagram once, and another
// process still can't take a part of them.
func TestSharedSockets(t *testing.T) {
	s, err := ListenShared([]netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")}, 4)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if n := len(s.Queues()); n != 4 {
		t.Fatalf("%d queues", n)
	}
	if a := s.Addrs(); len(a) != 1 {
		t.Fatalf("addresses %v", a)
	}
	if other, err := ListenShared(s.Addrs(), 4); err == nil {
		other.Close()
		t.Error("the address could be taken twice")
	}
	const clients = 64
	for i := range clients {
		c := listen(t, "127.0.0.1:0")
		if err := c.Write(fmt.Appendf(nil, "%d", i), netip.AddrPort{}, s.Addrs()[0]); err != nil {
			t.Fatal(err)
		}
	}
	receiveAll(t, s, clients)
}

func TestReceiveAfterClose(t *testing.T) {
	s := listen(t, "127.0.0.1:0")
	for _, q := range append(s.Queues(), Queues(plain{s}, 1)...) {
		got := make(chan error)
		go func() {
			_, err := q.Receive()
			got <- err
		}()
		time.Sleep(10 * time.Millisecond)
		s.Close()
		if err := <-got; !errors.Is(err, net.ErrClosed) {
			t.Errorf("Receive after Close: %v", err)
		}
	}
	if failed := s.NewSender().Send([]Message{{Payload: []byte("x"), Dst: netip.MustParseAddrPort("127.0.0.1:9")}}); failed != 1 {
		t.Error("sent after Close")
	}
}

// Moving batches leaves nothing to the garbage collector.
func TestBatchAllocatesNothing(t *testing.T) {
	for _, addr := range []string{"127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"} {
		s := listen(t, addr)
		q := s.Queues()[0]
		to := s.Addrs()[0]
		if to.Addr().IsUnspecified() {
			if to.Addr().Is4() {
				to = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), to.Port())
			} else {
				to = netip.AddrPortFrom(netip.IPv6Loopback(), to.Port())
			}
		}
		ms := make([]Message, 3)
		for i := range ms {
			ms[i] = Message{Payload: []byte("datagram"), Src: to, Dst: to}
		}
		if allocs := testing.AllocsPerRun(100, func() {
			if q.Send(ms) != 0 {
				t.Fatal("not sent")
			}
			for n := 0; n < len(ms); {
				got, err := q.Receive()
				if err != nil {
					t.Fatal(err)
				}
				n += len(got)
			}
		}); allocs != 0 {
			t.Errorf("%s: %.1f allocations for a batch", addr, allocs)
		}
	}
}
