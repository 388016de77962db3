package bpf

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/eidolon-lisp/eidolon/dataplane/tun"
	"github.com/eidolon-lisp/eidolon/internal/netns"
	"github.com/eidolon-lisp/eidolon/mapping"
)

// The topology of the tests: two sites behind a router that knows RLOCs only.
//
//	hostA --- xtrA --- core --- xtrB --- hostB
//	 10.1.0.2   198.51.100.1  .2|.5   .6    10.2.0.2
//	 2001:db8:a::2   2001:db8:f1::1 ::2|2001:db8:f2::2 ::1   2001:db8:b::2
type topology struct {
	hostA, xtrA, core, xtrB, hostB *netns.NS
}

var (
	hostA4, hostB4 = addr("10.1.0.2"), addr("10.2.0.2")
	hostA6, hostB6 = addr("2001:db8:a::2"), addr("2001:db8:b::2")
	rlocA4, rlocB4 = addr("198.51.100.1"), addr("198.51.100.6")
	rlocA6, rlocB6 = addr("2001:db8:f1::1"), addr("2001:db8:f2::1")
	eidA4, eidB4   = mapping.MustParseEID("10.1.0.0/24"), mapping.MustParseEID("10.2.0.0/24")
	eidA6, eidB6   = mapping.MustParseEID("2001:db8:a::/64"), mapping.MustParseEID("2001:db8:b::/64")
)

var addr, prefix = netip.MustParseAddr, netip.MustParsePrefix

func newTopology(t testing.TB) *topology {
	t.Helper()
	netns.NeedTUN(t)
	ns := netns.Fresh(t, 5)
	tp := &topology{ns[0], ns[1], ns[2], ns[3], ns[4]}
	check(t, netns.Veth(tp.hostA, "eth0", tp.xtrA, "site", 1500))
	check(t, netns.Veth(tp.xtrA, "up", tp.core, "a", 1500))
	check(t, netns.Veth(tp.core, "b", tp.xtrB, "up", 1500))
	check(t, netns.Veth(tp.xtrB, "site", tp.hostB, "eth0", 1500))
	for _, a := range []struct {
		ns   *netns.NS
		dev  string
		addr string
	}{
		{tp.hostA, "eth0", "10.1.0.2/24"}, {tp.xtrA, "site", "10.1.0.1/24"},
		{tp.hostA, "eth0", "2001:db8:a::2/64"}, {tp.xtrA, "site", "2001:db8:a::1/64"},
		{tp.hostB, "eth0", "10.2.0.2/24"}, {tp.xtrB, "site", "10.2.0.1/24"},
		{tp.hostB, "eth0", "2001:db8:b::2/64"}, {tp.xtrB, "site", "2001:db8:b::1/64"},
		{tp.xtrA, "up", "198.51.100.1/30"}, {tp.core, "a", "198.51.100.2/30"},
		{tp.xtrB, "up", "198.51.100.6/30"}, {tp.core, "b", "198.51.100.5/30"},
		{tp.xtrA, "up", "2001:db8:f1::1/64"}, {tp.core, "a", "2001:db8:f1::2/64"},
		{tp.xtrB, "up", "2001:db8:f2::1/64"}, {tp.core, "b", "2001:db8:f2::2/64"},
	} {
		check(t, a.ns.AddAddress(a.dev, prefix(a.addr)))
	}
	for _, r := range []struct {
		ns  *netns.NS
		via string
	}{
		{tp.hostA, "10.1.0.1"}, {tp.hostA, "2001:db8:a::1"}, {tp.hostB, "10.2.0.1"}, {tp.hostB, "2001:db8:b::1"},
		{tp.xtrA, "198.51.100.2"}, {tp.xtrA, "2001:db8:f1::2"}, {tp.xtrB, "198.51.100.5"}, {tp.xtrB, "2001:db8:f2::2"},
	} {
		any := prefix("0.0.0.0/0")
		if addr(r.via).Is6() {
			any = prefix("::/0")
		}
		check(t, r.ns.AddRoute(any, addr(r.via), ""))
	}
	for _, ns := range []*netns.NS{tp.xtrA, tp.core, tp.xtrB} {
		setSysctl(t, ns, "net/ipv4/ip_forward", "1")
		setSysctl(t, ns, "net/ipv6/conf/all/forwarding", "1")
	}
	return tp
}

// native gives the core the routes to the sites that it must not have: plain
// routing, to compare with.
func (tp *topology) native(t testing.TB) {
	t.Helper()
	for _, r := range []struct{ dst, via string }{
		{"10.1.0.0/24", "198.51.100.1"}, {"10.2.0.0/24", "198.51.100.6"},
		{"2001:db8:a::/64", "2001:db8:f1::1"}, {"2001:db8:b::/64", "2001:db8:f2::1"},
	} {
		check(t, tp.core.AddRoute(prefix(r.dst), addr(r.via), ""))
	}
}

// sites starts the two xTRs, each with mappings of the other site toward
// locators of the outer family.
func (tp *topology) sites(t testing.TB, outer6 bool) (a, b *xtr) {
	t.Helper()
	toA, toB := rlocA4, rlocB4
	if outer6 {
		toA, toB = rlocA6, rlocB6
	}
	return startXTR(t, tp.xtrA, configA(toB)), startXTR(t, tp.xtrB, configB(toA))
}

func to(rloc netip.Addr) []mapping.Locator {
	return []mapping.Locator{mapping.MakeLocator(rloc, 1, 100)}
}

func configA(rloc netip.Addr) childConfig {
	return childConfig{
		Instances: []tun.Instance{{IID: 0}}, Locals: []mapping.EID{eidA4, eidA6}, Sources: []netip.Addr{rlocA4, rlocA6},
		Entries: []entry{{EID: eidB4, Locators: to(rloc)}, {EID: eidB6, Locators: to(rloc)}},
	}
}

func configB(rloc netip.Addr) childConfig {
	return childConfig{
		Instances: []tun.Instance{{IID: 0}}, Locals: []mapping.EID{eidB4, eidB6}, Sources: []netip.Addr{rlocB4, rlocB6},
		Entries: []entry{{EID: eidA4, Locators: to(rloc)}, {EID: eidA6, Locators: to(rloc)}},
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func setSysctl(t testing.TB, ns *netns.NS, path, value string) {
	t.Helper()
	check(t, ns.Do(func() error { return os.WriteFile("/proc/sys/"+path, []byte(value), 0o644) }))
}

func listen(t testing.TB, ns *netns.NS, a netip.Addr) net.Listener {
	t.Helper()
	var l net.Listener
	check(t, ns.Do(func() (err error) {
		l, err = net.Listen("tcp", netip.AddrPortFrom(a, 0).String())
		return err
	}))
	t.Cleanup(func() { l.Close() })
	return l
}

func dial(ns *netns.NS, a net.Addr, timeout time.Duration) (c net.Conn, err error) {
	err = ns.Do(func() error {
		// A numeric address is dialled on the calling thread.
		c, err = net.DialTimeout("tcp", a.String(), timeout)
		return err
	})
	return c, err
}

// transfer sends n octets over one TCP connection and compares what arrives.
func transfer(t testing.TB, from, to *netns.NS, dst netip.Addr, n int) {
	t.Helper()
	l := listen(t, to, dst)
	got := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			got <- err
			return
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(10 * time.Second))
		buf := make([]byte, 64<<10)
		total := 0
		for {
			k, err := c.Read(buf)
			for i, b := range buf[:k] {
				if b != pattern(total+i) {
					got <- fmt.Errorf("octet %d is %d, want %d", total+i, b, pattern(total+i))
					return
				}
			}
			total += k
			if err == io.EOF {
				break
			}
			if err != nil {
				got <- fmt.Errorf("after %d octets: %w", total, err)
				return
			}
		}
		if total != n {
			err = fmt.Errorf("%d octets, want %d", total, n)
		}
		got <- err
	}()
	c, err := dial(from, l.Addr(), 5*time.Second)
	check(t, err)
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	buf := make([]byte, n)
	for i := range buf {
		buf[i] = pattern(i)
	}
	if _, err := c.Write(buf); err != nil {
		t.Fatal(err)
	}
	c.(*net.TCPConn).CloseWrite()
	check(t, <-got)
}

func pattern(i int) byte { return byte(i*31 + i>>8) }

// throughput measures one TCP connection for a time, in bits a second.
func throughput(t testing.TB, from, to *netns.NS, dst netip.Addr, d time.Duration) float64 {
	t.Helper()
	l := listen(t, to, dst)
	type result struct {
		n int64
		d time.Duration
	}
	got := make(chan result, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			got <- result{}
			return
		}
		defer c.Close()
		buf := make([]byte, 256<<10)
		start := time.Now()
		var n int64
		for {
			k, err := c.Read(buf)
			n += int64(k)
			if err != nil {
				break
			}
		}
		got <- result{n, time.Since(start)}
	}()
	c, err := dial(from, l.Addr(), 5*time.Second)
	check(t, err)
	buf := make([]byte, 256<<10)
	for end := time.Now().Add(d); time.Now().Before(end); {
		c.SetWriteDeadline(time.Now().Add(5 * time.Second))
		if _, err := c.Write(buf); err != nil {
			t.Fatal(err)
		}
	}
	c.Close()
	r := <-got
	return float64(r.n) * 8 / r.d.Seconds()
}

// udpSocket opens a UDP socket in a namespace with the DF bit as told.
func udpSocket(t testing.TB, ns *netns.NS, a netip.Addr, df bool) *net.UDPConn {
	t.Helper()
	var c *net.UDPConn
	lc := net.ListenConfig{Control: func(_, _ string, rc syscall.RawConn) error {
		var err error
		cerr := rc.Control(func(fd uintptr) {
			switch {
			case a.Is6() && df:
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DO)
			case a.Is4() && df:
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO)
			case a.Is4():
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT)
			}
		})
		return errors.Join(cerr, err)
	}}
	check(t, ns.Do(func() error {
		pc, err := lc.ListenPacket(context.Background(), "udp", netip.AddrPortFrom(a, 0).String())
		if err == nil {
			c = pc.(*net.UDPConn)
		}
		return err
	}))
	t.Cleanup(func() { c.Close() })
	return c
}
