package sites

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// What follows is what every plane has to do between two sites. look is called
// with what the xTR of site A has counted.

// PathMTU: on a path with a smaller MTU in the middle nothing vanishes: hosts are told
// the right size, or packets are fragmented, in all four combinations.
func PathMTU(t *testing.T, look func(Answer)) {
	tp := New(t)
	Check(t, tp.Core.Do(func() error {
		l, err := netlink.LinkByName("b")
		if err != nil {
			return err
		}
		return netlink.LinkSetMTU(l, 1400)
	}))
	for _, outer6 := range []bool{false, true} {
		rloc, room := RLOCB4, 1364
		if outer6 {
			rloc, room = RLOCB6, 1344
		}
		t.Run(rloc.String(), func(t *testing.T) {
			a, b := tp.Start(t, outer6)
			Transfer(t, tp.HostA, tp.HostB, HostB4, 1<<20)
			Transfer(t, tp.HostA, tp.HostB, HostB6, 1<<20)
			s := a.State()
			if got := s.MTU[rloc.String()]; got != 1400 {
				t.Errorf("path MTU toward %v is %d", rloc, got)
			}
			look(s)
			// DF=0: of any size, whole at the other end.
			if got, _ := Datagrams(t, tp.HostA, HostA4, tp.HostB, HostB4, false, 1000, 1400, 4000, 20000); len(got) != 4 {
				t.Errorf("DF=0: of four sizes arrived %v", got)
			}
			if got, _ := Datagrams(t, tp.HostA, HostA6, tp.HostB, HostB6, false, 1000, 1400, 4000, 20000); len(got) != 4 {
				t.Errorf("IPv6: of four sizes arrived %v", got)
			}
			// DF=1: exactly what fits, and an error for more.
			if got, err := Datagrams(t, tp.HostA, HostA4, tp.HostB, HostB4, true, room-28, room-27, room-27); !slices.Equal(got, []int{room - 28}) || !errors.Is(err, unix.EMSGSIZE) {
				t.Errorf("DF=1: arrived %v, last error %v", got, err)
			}
			if got, err := Datagrams(t, tp.HostA, HostA6, tp.HostB, HostB6, true, room-48, room-47, room-47); !slices.Equal(got, []int{room - 48}) || !errors.Is(err, unix.EMSGSIZE) {
				t.Errorf("IPv6, no fragments: arrived %v, last error %v", got, err)
			}
			a.Exit()
			b.Exit()
			ForgetPaths(t, tp.HostA)
		})
	}
}

// TTL: every router on the way counts: the two xTRs and the core in the middle.
func TTL(t *testing.T, look func(Answer)) {
	tp := New(t)
	for _, outer6 := range []bool{false, true} {
		a, b := tp.Start(t, outer6)
		for _, dst := range []netip.Addr{HostB4, HostB6} {
			src := HostA4
			if dst.Is6() {
				src = HostA6
			}
			rx, tx := UDPSocket(t, tp.HostB, dst, false), UDPSocket(t, tp.HostA, src, false)
			for ttl := 1; ttl <= 6; ttl++ {
				rc, err := tx.SyscallConn()
				Check(t, err)
				Check(t, rc.Control(func(fd uintptr) {
					if dst.Is4() {
						err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_TTL, ttl)
					} else {
						err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, ttl)
					}
				}))
				Check(t, err)
				_, err = tx.WriteTo([]byte{byte(ttl)}, rx.LocalAddr())
				Check(t, err)
				rx.SetReadDeadline(time.Now().Add(150 * time.Millisecond))
				var buf [8]byte
				n, _, err := rx.ReadFrom(buf[:])
				// xtrA and core decrement; xtrB takes the smaller and decrements
				// too: three routers, so four hops.
				if got, want := err == nil && n == 1 && buf[0] == byte(ttl), ttl > 3; got != want {
					t.Errorf("to %v, outer IPv6 %v, TTL %d: arrived %v, want %v", dst, outer6, ttl, got, want)
				}
			}
		}
		look(a.State())
		a.Exit()
		b.Exit()
	}
}

// BenchmarkTCP measures one flow for a second each, in turn: plain routing, and
// IPv4 and IPv6 inside IPv4 and IPv6. Use it with -benchtime 5x or so.
func BenchmarkTCP(b *testing.B) {
	plain, over4, over6 := New(b), New(b), New(b)
	plain.Native(b)
	over4.Start(b, false)
	over6.Start(b, true)
	var sum [5]float64
	n := 0.0
	for b.Loop() {
		n++
		for i, c := range []struct {
			tp  *Topology
			dst netip.Addr
		}{{plain, HostB4}, {over4, HostB4}, {over4, HostB6}, {over6, HostB4}, {over6, HostB6}} {
			sum[i] += throughput(b, c.tp.HostA, c.tp.HostB, c.dst, time.Second) / 1e9
		}
	}
	for i, unit := range []string{"plain-Gb/s", "4in4-Gb/s", "6in4-Gb/s", "4in6-Gb/s", "6in6-Gb/s"} {
		b.ReportMetric(sum[i]/n, unit)
	}
}
