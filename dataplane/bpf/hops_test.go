package bpf

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/eidolon-lisp/eidolon/dataplane/dptest/sites"
	"github.com/eidolon-lisp/eidolon/dataplane/tun"
	"github.com/eidolon-lisp/eidolon/internal/netns"
)

// What the kernel has said of the way of a packet is believed for a moment only:
// routes that change are heeded in both directions by programs whose process has been
// killed, and a way that short packets take is not that of longer ones.
func TestRoutesAreHeeded(t *testing.T) {
	tp := sites.New(t)
	a, _ := tp.Start(t, false)
	there := func(what string, size, want int) {
		t.Helper()
		arrived, _ := sites.Datagrams(t, tp.HostA, sites.HostA4, tp.HostB, sites.HostB4, false, size)
		if len(arrived) != want {
			t.Errorf("%s, %d of 1 datagrams of %d octets arrived at the other site, want %d", what, len(arrived), size, want)
		}
	}
	back := func(what string, size, want int) {
		t.Helper()
		arrived, _ := sites.Datagrams(t, tp.HostB, sites.HostB4, tp.HostA, sites.HostA4, false, size)
		if len(arrived) != want {
			t.Errorf("%s, %d of 1 datagrams of %d octets arrived from the other site, want %d", what, len(arrived), size, want)
		}
	}
	route := func(dst netip.Addr, change func(*netlink.Route) error) (remove func()) {
		t.Helper()
		r := &netlink.Route{Dst: netns.IPNet(netip.PrefixFrom(dst, 32))}
		sites.Check(t, tp.XTRA.Do(func() error {
			if err := change(r); err != nil {
				return err
			}
			return netlink.RouteAdd(r)
		}))
		time.Sleep(100 * time.Millisecond)
		return func() {
			sites.Check(t, tp.XTRA.Do(func() error { return netlink.RouteDel(r) }))
			time.Sleep(100 * time.Millisecond)
		}
	}
	blackhole := func(r *netlink.Route) error {
		r.Type = unix.RTN_BLACKHOLE
		return nil
	}
	narrow := func(r *netlink.Route) error {
		l, err := netlink.LinkByName("site")
		if err == nil {
			r.LinkIndex, r.Scope, r.MTU, r.MTULock = l.Attrs().Index, netlink.SCOPE_LINK, 600, true
		}
		return err
	}
	there("at first", 100, 1)
	back("at first", 100, 1)
	a.Kill()
	there("after the process was killed", 100, 1)
	back("after the process was killed", 100, 1)

	remove := route(sites.RLOCB4, blackhole)
	there("without a route to the RLOC", 100, 0)
	remove()
	there("with the route again", 100, 1)

	remove = route(sites.HostA4, blackhole)
	back("without a route to the host", 100, 0)
	remove()
	back("with the route again", 100, 1)

	remove = route(sites.HostA4, narrow)
	// All within the time that an answer is believed.
	var arrived []int
	begin := time.Now()
	rx, tx := sites.UDPSocket(t, tp.HostA, sites.HostA4, false), sites.UDPSocket(t, tp.HostB, sites.HostB4, false)
	for _, size := range []int{100, 1000, 101, 500} {
		if _, err := tx.WriteTo(make([]byte, size), rx.LocalAddr()); err != nil {
			t.Fatal(err)
		}
	}
	sent := time.Since(begin)
	rx.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	for buf := make([]byte, 2048); ; {
		n, _, err := rx.ReadFrom(buf)
		if err != nil {
			break
		}
		arrived = append(arrived, n)
	}
	if !slices.Equal(arrived, []int{100, 101, 500}) {
		t.Errorf("of datagrams of 100, 1000, 101 and 500 octets, sent within %v where the route takes 600, these arrived: %v", sent, arrived)
	}
	remove()
	sites.Check(t, tp.XTRA.Do(tun.Cleanup))
	sites.Check(t, tp.XTRA.Do(Cleanup))
}
