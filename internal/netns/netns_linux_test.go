package netns

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// inode tells namespaces apart.
func inode(t *testing.T) string {
	t.Helper()
	s, err := os.Readlink(threadPath())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestDoEntersAndReturns(t *testing.T) {
	nss := Fresh(t, 2)
	home := inode(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen := map[int]map[string]bool{0: {}, 1: {}}
	for i := range 40 {
		wg.Go(func() {
			err := nss[i%2].Do(func() error {
				s, err := os.Readlink(threadPath())
				mu.Lock()
				seen[i%2][s] = true
				mu.Unlock()
				return err
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if len(seen[0]) != 1 || len(seen[1]) != 1 {
		t.Fatalf("a namespace showed more than one identity: %v", seen)
	}
	for s := range seen[0] {
		if seen[1][s] || s == home {
			t.Fatalf("namespaces are not apart: %v, home %s", seen, home)
		}
	}
	for range 50 { // threads given back must be at home
		wg.Go(func() {
			if s, _ := os.Readlink(threadPath()); s != home {
				t.Errorf("a thread was left in %s", s)
			}
		})
	}
	wg.Wait()
}

func TestDoReturnsTheError(t *testing.T) {
	nss := Fresh(t, 1)
	want := fmt.Errorf("from inside")
	if err := nss[0].Do(func() error { return want }); err != want {
		t.Fatalf("got %v", err)
	}
}

func TestRoutedTCPThroughThreeNamespaces(t *testing.T) {
	for _, c := range []struct{ name, a, ra, rb, b, all string }{
		{"v4", "192.0.2.1/30", "192.0.2.2/30", "198.51.100.1/30", "198.51.100.2/30", "0.0.0.0/0"},
		{"v6", "2001:db8:1::1/64", "2001:db8:1::2/64", "2001:db8:2::1/64", "2001:db8:2::2/64", "::/0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			nss := Fresh(t, 3)
			a, r, b := nss[0], nss[1], nss[2]
			ok := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			ok(Veth(a, "eth1", r, "eth1", 1500))
			ok(Veth(r, "eth2", b, "eth1", 1500))
			pfx := netip.MustParsePrefix
			ok(a.AddAddress("eth1", pfx(c.a)))
			ok(r.AddAddress("eth1", pfx(c.ra)))
			ok(r.AddAddress("eth2", pfx(c.rb)))
			ok(b.AddAddress("eth1", pfx(c.b)))
			ok(a.AddRoute(pfx(c.all), pfx(c.ra).Addr(), ""))
			ok(b.AddRoute(pfx(c.all), pfx(c.rb).Addr(), "eth1"))
			ok(r.SetSysctl("net.ipv4.ip_forward", "1"))
			ok(r.SetSysctl("net.ipv6.conf.all.forwarding", "1"))

			var ln net.Listener
			ok(b.Do(func() (err error) {
				ln, err = net.Listen("tcp", net.JoinHostPort(pfx(c.b).Addr().String(), "0"))
				return err
			}))
			defer ln.Close()
			go func() {
				conn, err := ln.Accept()
				if err != nil {
					return
				}
				io.WriteString(conn, "through a router")
				conn.Close()
			}()
			var conn net.Conn
			ok(a.Do(func() (err error) {
				addr := net.TCPAddrFromAddrPort(netip.MustParseAddrPort(ln.Addr().String()))
				conn, err = net.DialTCP("tcp", nil, addr)
				return err
			}))
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(3 * time.Second))
			got, err := io.ReadAll(conn)
			ok(err)
			if string(got) != "through a router" {
				t.Fatalf("read %q", got)
			}
		})
	}
}

// fakeTB records how Need ends.
type fakeTB struct{ skipped, failed bool }

func (f *fakeTB) Helper()               {}
func (f *fakeTB) Cleanup(func())        {}
func (f *fakeTB) Skipf(string, ...any)  { f.skipped = true }
func (f *fakeTB) Fatalf(string, ...any) { f.failed = true }

func TestUnavailableFailsInCI(t *testing.T) {
	t.Setenv("CI", "true")
	var f fakeTB
	unavailable(&f, "no")
	if !f.failed {
		t.Fatal("CI=true must not skip")
	}
	t.Setenv("CI", "")
	f = fakeTB{}
	unavailable(&f, "no")
	if !f.skipped || f.failed {
		t.Fatal("outside CI it must skip")
	}
}
