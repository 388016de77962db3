package tunnel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/eidolon-lisp/eidolon/internal/netns"
)

func packet(port uint16, payload string) []byte {
	n := 28 + len(payload)
	p := []byte{0x45, 0, 0, byte(n), 0, 0, 0x40, 0, 64, unix.IPPROTO_UDP, 0, 0, 192, 0, 2, 99, 10, 1, 2, 3, 0xf0, 0, byte(port >> 8), byte(port), 0, byte(n - 20), 0, 0}
	return append(p, payload...)
}

// pair are two routers with a link between them, and what opens their ends of a
// tunnel.
func pair(t *testing.T, kind Kind) (open [2]func() (*Set, error), in [2]*netns.NS) {
	t.Helper()
	ns := netns.Fresh(t, 2)
	if err := netns.Veth(ns[0], "up", ns[1], "up", 1500); err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		under := func(i int) netip.Addr { return netip.MustParseAddr(fmt.Sprintf("203.0.113.%d", i+1)) }
		if err := ns[i].AddAddress("up", netip.PrefixFrom(under(i), 24)); err != nil {
			t.Fatal(err)
		}
		cfg := Config{Name: "alt0", Kind: kind, Local: under(i), Remote: under(1 - i), ID: 77,
			Addrs: []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("172.16.0.%d/30", i+1)), netip.MustParsePrefix(fmt.Sprintf("fd00:a::%d/64", i+1))}}
		open[i] = func() (s *Set, err error) {
			err = ns[i].Do(func() error { s, err = Open([]Config{cfg}, 4342, nil); return err })
			return s, err
		}
	}
	return open, [2]*netns.NS(ns)
}

// Packets to addresses that no kernel has a route for reach the other end, those
// to the port alone; what a killed process left is replaced, and a stop leaves
// nothing.
func TestTunnel(t *testing.T) {
	open, ns := pair(t, VXLAN)
	var ends [2]*Set
	for i := range ends {
		var err error
		if ends[i], err = open[i](); err != nil {
			t.Fatal(err)
		}
	}
	if err := ns[0].Do(func() error {
		f, err := os.ReadFile("/proc/thread-self/net/dev")
		if err == nil && !strings.Contains(string(f), "alt0") {
			err = errors.New("there is no alt0")
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	next := netip.MustParseAddr("172.16.0.2")
	if err := ends[0].Send(0, next, packet(4342, "x")); !errors.Is(err, ErrNoNeighbour) {
		t.Errorf("sent to whom nobody knows: %v", err)
	}
	got := make(chan []byte, 10)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 2)
	go func() { done <- ends[0].Run(ctx, func(int, []byte) {}) }()
	go func() {
		done <- ends[1].Run(ctx, func(i int, p []byte) { got <- append([]byte{byte(i)}, p...) })
	}()
	// The kernel learns who is at the other end, as by a BGP session.
	if err := ns[0].Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Sendto(fd, []byte("hello"), 0, &unix.SockaddrInet4{Port: 9, Addr: next.As4()})
	}); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for errors.Is(ends[0].Send(0, next, packet(4343, "another port")), ErrNoNeighbour) {
		if time.Now().After(deadline) {
			t.Fatal("the other end was not found")
		}
		time.Sleep(50 * time.Millisecond)
	}
	want := packet(4342, "a request")
	if err := ends[0].Send(0, next, want); err != nil {
		t.Fatal(err)
	}
	select {
	case p := <-got:
		if !bytes.Equal(p[1:], want) || p[0] != 0 {
			t.Errorf("%x, want %x", p, want)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("nothing came")
	}
	cancel()
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if _, err := open[0](); err == nil || !strings.Contains(err.Error(), "another process uses") {
		t.Errorf("beside another process: %v", err)
	}
	if err := ns[0].Do(Cleanup); !errors.Is(err, ErrRunning) {
		t.Errorf("cleanup beside a process: %v", err)
	}
	// As after a kill: the link is there, the process is not.
	ends[0].links[0].file.Close()
	ends[0].links[0].made = nil
	if err := ns[0].Do(func() error {
		l, err := netlink.LinkByName("alt0")
		if err != nil {
			return err
		}
		return errors.Join(netlink.LinkSetDown(l), netlink.LinkSetName(l, "before"))
	}); err != nil {
		t.Fatal(err)
	}
	again, err := open[0]()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*Set{again, ends[0], ends[1]} {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	for i := range ns {
		for _, name := range []string{"alt0", "before"} {
			if err := ns[i].Do(func() error { _, err := netlink.LinkByName(name); return err }); err == nil {
				t.Errorf("a stop leaves %s", name)
			}
		}
	}
}

// A link that somebody else made is used if it is meant, and never replaced.
func TestExisting(t *testing.T) {
	open, ns := pair(t, VXLAN)
	if err := ns[0].Do(func() error {
		a := netlink.NewLinkAttrs()
		a.Name = "alt0"
		return netlink.LinkAdd(&netlink.Vxlan{LinkAttrs: a, VxlanId: 5, Port: vxlanPort})
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := open[0](); err == nil || !strings.Contains(err.Error(), "not of ours") {
		t.Errorf("somebody's link: %v", err)
	}
	if err := ns[0].Do(func() error {
		s, err := Open([]Config{{Name: "alt0", Kind: Existing}}, 4342, nil)
		if err != nil {
			return err
		}
		if err := s.Close(); err != nil {
			return err
		}
		_, err = netlink.LinkByName("alt0")
		return err
	}); err != nil {
		t.Errorf("an existing link: %v", err)
	}
}

// Where the kernel has GRE, a tunnel of it works; where not, the error says so.
func TestGRE(t *testing.T) {
	open, _ := pair(t, GRE)
	s, err := open[0]()
	if err != nil {
		if !strings.Contains(err.Error(), "this kernel has no gre tunnels") {
			t.Error(err)
		}
		return
	}
	defer s.Close()
	if s.links[0].ethernet {
		t.Error("a GRE tunnel taken for an Ethernet")
	}
	if err := s.Send(0, netip.MustParseAddr("172.16.0.2"), packet(4342, "x")); err != nil {
		t.Error(err)
	}
}
