package sites

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/internal/netns"
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

// Counters: each packet is counted once with its octets, for the mapping, the
// locator and the own address that it went by or came by, whichever part of the
// plane has forwarded it; what found no mapping is a miss and a drop, and no queue
// has overflowed.
func Counters(t *testing.T) {
	const (
		out, back, lost, size = 40, 30, 3, 100
		ip4, ip6              = size + 28, size + 48
	)
	tp := New(t)
	// IPv4 goes over IPv6 and the other way round. Site B does not know the
	// IPv6 prefix of A: what comes from there counts for its own address.
	ca, cb := ConfigA(RLOCB6), ConfigB(RLOCA6)
	ca.Entries[1].Locators = To(RLOCB4)
	cb.Entries = cb.Entries[:1]
	a, b := Start(t, tp.XTRA, ca), Start(t, tp.XTRB, cb)
	play := func(from *netns.NS, src netip.Addr, to *netns.NS, dst netip.Addr, n int) {
		t.Helper()
		if got, err := Datagrams(t, from, src, to, dst, false, slices.Repeat([]int{size}, n)...); len(got) != n {
			t.Fatalf("%d of %d packets arrived: %v", len(got), n, err)
		}
	}
	play(tp.HostA, HostA4, tp.HostB, HostB4, out)
	play(tp.HostB, HostB4, tp.HostA, HostA4, back)
	b.Ask("traffic") // and nothing of a mapping is counted from now on
	play(tp.HostA, HostA6, tp.HostB, HostB6, out)
	tx := UDPSocket(t, tp.HostA, HostA4, false)
	for range lost {
		_, err := tx.WriteTo([]byte("x"), net.UDPAddrFromAddrPort(netip.MustParseAddrPort("10.99.0.1:9")))
		Check(t, err)
	}
	type traffic = dataplane.Traffic
	for _, c := range []struct {
		name  string
		x     *XTR
		want  map[string]traffic
		stats map[string]uint64
	}{
		{"A", a, map[string]traffic{
			EIDB4.String():  {PacketsOut: out, BytesOut: out * ip4, PacketsIn: back, BytesIn: back * ip4},
			EIDB6.String():  {PacketsOut: out, BytesOut: out * ip6},
			RLOCB6.String(): {PacketsOut: out, BytesOut: out * ip4},
			RLOCB4.String(): {PacketsOut: out, BytesOut: out * ip6},
			RLOCA6.String(): {PacketsOut: out, BytesOut: out * ip4, PacketsIn: back, BytesIn: back * ip4},
			RLOCA4.String(): {PacketsOut: out, BytesOut: out * ip6},
		}, map[string]uint64{
			"encap_packets": 2 * out, "encap_bytes": out * (ip4 + ip6), "decap_packets": back, "decap_bytes": back * ip4,
			"cache_hits": 2 * out, "cache_misses": lost, "drop_no_mapping": lost,
		}},
		{"B", b, map[string]traffic{
			EIDA4.String():  {PacketsOut: back, BytesOut: back * ip4, PacketsIn: out, BytesIn: out * ip4},
			RLOCA6.String(): {PacketsOut: back, BytesOut: back * ip4},
			RLOCB6.String(): {PacketsOut: back, BytesOut: back * ip4, PacketsIn: out, BytesIn: out * ip4},
			RLOCB4.String(): {PacketsIn: out, BytesIn: out * ip6},
		}, map[string]uint64{
			"encap_packets": back, "encap_bytes": back * ip4, "decap_packets": 2 * out, "decap_bytes": out * (ip4 + ip6),
			"cache_hits": back, "cache_misses": 0,
		}},
	} {
		var errs []string
		for deadline := time.Now().Add(2 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			errs = nil
			traffic, stats := c.x.Ask("traffic").Traffic, c.x.State().Stats
			for name, want := range c.want {
				if got := traffic[name]; got != want {
					errs = append(errs, fmt.Sprintf("%s has %+v, want %+v", name, got, want))
				}
			}
			for name, want := range c.stats {
				if got := stats[name]; got != want {
					errs = append(errs, fmt.Sprintf("%s is %d, want %d", name, got, want))
				}
			}
			for name, got := range stats {
				drop := strings.HasPrefix(name, "drop_") && name != "drop_no_mapping" && name != "drop_multicast" && name != "drop_not_routable"
				if drop || strings.HasSuffix(name, "_lost") || name == "kernel_full" {
					errs = append(errs, fmt.Sprintf("%s is %d", name, got))
				}
			}
			if errs == nil || time.Now().After(deadline) {
				break
			}
		}
		for _, e := range errs {
			t.Errorf("site %s: %s", c.name, e)
		}
	}
}

// Trace: a trace tells of each packet of a flow, in both directions and in order,
// whichever part of the plane forwards such packets otherwise, and of no other
// packet; and each arrives. planes are those of the two xTRs (see Config.Plane), of
// which the first traces; in is whether it has to tell of what comes in. look gets
// its state after the trace, and again after as many packets more.
func Trace(t *testing.T, planes [2]string, in bool, look func(after, later Answer)) {
	const out, back = 7, 5
	tp := New(t)
	ca, cb := ConfigA(RLOCB4), ConfigB(RLOCA4)
	ca.Plane, cb.Plane = planes[0], planes[1]
	for _, host := range []*netns.NS{tp.HostA, tp.HostB} {
		// As from a wire: checksums that are not finished are not all planes' to
		// forward.
		Check(t, host.SetOffload("eth0", unix.ETHTOOL_STXCSUM, false))
	}
	a := Start(t, tp.XTRA, ca)
	Start(t, tp.XTRB, cb)
	play := func(from *netns.NS, src netip.Addr, to *netns.NS, dst netip.Addr, n int) {
		t.Helper()
		if got, err := Datagrams(t, from, src, to, dst, false, slices.Repeat([]int{100}, n)...); len(got) != n {
			t.Fatalf("%d of %d packets arrived: %v", len(got), n, err)
		}
	}
	all := func() {
		t.Helper()
		play(tp.HostA, HostA4, tp.HostB, HostB4, out)
		play(tp.HostB, HostB4, tp.HostA, HostA4, back)
		play(tp.HostA, HostA6, tp.HostB, HostB6, 1)
	}
	all()
	a.Tell("trace", dataplane.TraceFilter{Here: netip.PrefixFrom(HostA4, 32), There: EIDB4.Prefix, Protocol: unix.IPPROTO_UDP})
	all()
	time.Sleep(100 * time.Millisecond) // a packet is told when it has been delivered
	traced := a.Ask("trace").Traced
	after := a.State()
	all()
	look(after, a.State())
	var outs, ins int
	for _, ev := range traced {
		ok := ev.Drop == dataplane.NotDropped
		if ev.In {
			ins++
			ok = ok && ev.Src == RLOCB4 && ev.Dst == RLOCA4 && ev.Flow.Src == HostB4 && ev.Flow.Dst == HostA4
		} else {
			outs++
			ok = ok && ev.Src == RLOCA4 && ev.Dst == RLOCB4 && ev.Flow.Src == HostA4 && ev.Flow.Dst == HostB4
		}
		if !ok {
			t.Errorf("told of a packet: %+v", ev)
		}
	}
	if want := map[bool]int{true: back}[in]; outs != out || ins != want {
		t.Errorf("told of %d packets out and %d in, want %d and %d", outs, ins, out, want)
	}
}

// SuperPackets: what a host leaves to its device goes from site to site in
// super-packets, and where the core has a link that takes nothing larger than its
// MTU, as a wire does, in segments, which are the same octets at the other end,
// with and without GRO at the routers. planes are those of the two xTRs (see
// Config.Plane).
func SuperPackets(t *testing.T, outer6 bool, planes [2]string, look func(Answer)) {
	tp := New(t)
	toA, toB := RLOCA4, RLOCB4
	if outer6 {
		toA, toB = RLOCA6, RLOCB6
	}
	ca, cb := ConfigA(toB), ConfigB(toA)
	ca.Plane, cb.Plane = planes[0], planes[1]
	a, b := Start(t, tp.XTRA, ca), Start(t, tp.XTRB, cb)
	for _, c := range []struct {
		name      string
		wire, gro bool
	}{{"links that take super-packets", false, false}, {"segmented in the core", true, false}, {"segmented in the core, GRO at the routers", true, true}} {
		tp.setWire(t, c.wire, c.gro)
		for _, way := range []struct {
			from, to, at *netns.NS
			src, dst     netip.Addr
		}{
			{tp.HostA, tp.HostB, tp.XTRB, HostA4, HostB4}, {tp.HostA, tp.HostB, tp.XTRB, HostA6, HostB6},
			{tp.HostB, tp.HostA, tp.XTRA, HostB4, HostA4}, {tp.HostB, tp.HostA, tp.XTRA, HostB6, HostA6},
		} {
			octets, frames := received(t, way.at)
			Transfer(t, way.from, way.to, way.dst, 192<<10)
			segmented(t, way.from, way.src, way.to, way.dst)
			o, f := received(t, way.at)
			mean := int(o-octets) / int(f-frames)
			if frame := 1500 + 14; c.wire && (mean > frame || mean < frame/2) || !c.wire && mean < 2*frame {
				t.Errorf("%s: to %v, outer IPv6 %v: frames of %d octets in the middle", c.name, way.dst, outer6, mean)
			}
		}
	}
	look(a.State())
	look(b.State())
}

// setWire makes the links of the core take nothing larger than their MTU, as a
// wire does, or super-packets; and has the xTRs aggregate what they receive there,
// as with a network card, or not.
func (tp *Topology) setWire(t testing.TB, wire, gro bool) {
	t.Helper()
	size := 65536 // as veth has it
	if wire {
		// Not the switches of single offloads: they differ by what is inside.
		size = 1600
	}
	for _, dev := range []string{"a", "b"} {
		Check(t, tp.Core.Do(func() error {
			l, err := netlink.LinkByName(dev)
			if err != nil {
				return err
			}
			return netlink.LinkSetGSOMaxSize(l, size)
		}))
		// With it veth takes all for whole, and its other end does no GRO.
		Check(t, tp.Core.SetOffload(dev, unix.ETHTOOL_STSO, !wire))
	}
	for _, x := range []*netns.NS{tp.XTRA, tp.XTRB} {
		Check(t, x.SetOffload("up", unix.ETHTOOL_SGRO, gro))
	}
}

// received is what an xTR has got from the core.
func received(t testing.TB, xtr *netns.NS) (octets, frames uint64) {
	t.Helper()
	Check(t, xtr.Do(func() error {
		l, err := netlink.LinkByName("up")
		if err == nil {
			octets, frames = l.Attrs().Statistics.RxBytes, l.Attrs().Statistics.RxPackets
		}
		return err
	}))
	return octets, frames
}

// segmented sends datagrams as one super-packet of UDP, which have to arrive as
// they are, in order.
func segmented(t testing.TB, from *netns.NS, src netip.Addr, to *netns.NS, dst netip.Addr) {
	const size, n = 1200, 40
	t.Helper()
	rx, tx := UDPSocket(t, to, dst, false), UDPSocket(t, from, src, false)
	rc, err := tx.SyscallConn()
	Check(t, err)
	Check(t, rc.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT, size) }))
	Check(t, err)
	payload := make([]byte, n*size)
	for i := range payload {
		payload[i] = pattern(i)
	}
	_, err = tx.WriteTo(payload, rx.LocalAddr())
	Check(t, err)
	rx.SetReadDeadline(time.Now().Add(5 * time.Second))
	buf := make([]byte, 65536)
	for i := range n {
		k, _, err := rx.ReadFrom(buf)
		if err != nil {
			t.Fatalf("%d of %d datagrams of a super-packet arrived: %v", i, n, err)
		}
		if want := payload[i*size : (i+1)*size]; !bytes.Equal(buf[:k], want) {
			t.Errorf("datagram %d of a super-packet has %d octets, and is another", i, k)
		}
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
