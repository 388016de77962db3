package sites

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/eidolon-lisp/eidolon/internal/netns"
)

// Check ends the test if there is an error.
func Check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Listen accepts TCP in a namespace until the test ends.
func Listen(t testing.TB, ns *netns.NS, a netip.Addr) net.Listener {
	t.Helper()
	var l net.Listener
	Check(t, ns.Do(func() (err error) {
		l, err = net.Listen("tcp", netip.AddrPortFrom(a, 0).String())
		return err
	}))
	t.Cleanup(func() { l.Close() })
	return l
}

// Dial connects from a namespace to a numeric address.
func Dial(ns *netns.NS, a net.Addr, timeout time.Duration) (c net.Conn, err error) {
	err = ns.Do(func() error {
		// A numeric address is dialled on the calling thread.
		c, err = net.DialTimeout("tcp", a.String(), timeout)
		return err
	})
	return c, err
}

// Transfer sends n octets over one TCP connection and compares what arrives.
func Transfer(t testing.TB, from, to *netns.NS, dst netip.Addr, n int) {
	t.Helper()
	l := Listen(t, to, dst)
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
	c, err := Dial(from, l.Addr(), 5*time.Second)
	Check(t, err)
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
	Check(t, <-got)
}

func pattern(i int) byte { return byte(i*31 + i>>8) }

// throughput measures one TCP connection for a time, in bits a second.
func throughput(t testing.TB, from, to *netns.NS, dst netip.Addr, d time.Duration) float64 {
	t.Helper()
	l := Listen(t, to, dst)
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
	c, err := Dial(from, l.Addr(), 5*time.Second)
	Check(t, err)
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

// UDPSocket opens a UDP socket in a namespace with the DF bit as told.
func UDPSocket(t testing.TB, ns *netns.NS, a netip.Addr, df bool) *net.UDPConn {
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
	Check(t, ns.Do(func() error {
		pc, err := lc.ListenPacket(context.Background(), "udp", netip.AddrPortFrom(a, 0).String())
		if err == nil {
			c = pc.(*net.UDPConn)
		}
		return err
	}))
	t.Cleanup(func() { c.Close() })
	return c
}

// Datagrams sends payloads of some sizes between two hosts, and returns the sizes
// that arrived intact and the error of the last send.
func Datagrams(t testing.TB, from *netns.NS, src netip.Addr, to *netns.NS, dst netip.Addr, df bool, sizes ...int) (arrived []int, err error) {
	t.Helper()
	rx, tx := UDPSocket(t, to, dst, df), UDPSocket(t, from, src, df)
	for _, n := range sizes {
		payload := make([]byte, n)
		for i := range payload {
			payload[i] = pattern(i)
		}
		if _, err = tx.WriteTo(payload, rx.LocalAddr()); err != nil {
			continue
		}
		rx.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		buf := make([]byte, 65536)
		k, _, rerr := rx.ReadFrom(buf)
		if rerr != nil {
			continue
		}
		if !bytes.Equal(buf[:k], payload) {
			t.Errorf("%d octets arrived changed", n)
		}
		arrived = append(arrived, k)
	}
	return arrived, err
}

// ForgetPaths makes a host forget what it learned of path MTUs.
func ForgetPaths(t testing.TB, ns *netns.NS) {
	t.Helper()
	Check(t, ns.SetSysctl("net.ipv4.route.flush", "1"))
	Check(t, ns.SetSysctl("net.ipv6.route.flush", "1"))
}
