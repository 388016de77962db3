package main

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/dataplane/dptest"
	"github.com/eidolon-lisp/eidolon/internal/netns"
	"github.com/eidolon-lisp/eidolon/internal/udp"
	"github.com/eidolon-lisp/eidolon/internal/uplink"
	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/xtr"
)

// follower records what the uplinks change.
type follower struct {
	rlocs   chan []netip.Addr
	uplinks chan []xtr.Uplink
}

func (f *follower) SetRLOCs(list []netip.Addr) { f.rlocs <- list }
func (f *follower) SetUplinks(u []xtr.Uplink) error {
	f.uplinks <- u
	return nil
}

// TestUplinks: an xTR that starts without an address receives and sends by it as
// soon as it comes, after duplicate address detection too.
func TestUplinks(t *testing.T) {
	ns := netns.Fresh(t, 2)
	v4, v6 := netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("2001:db8:f::1/64")
	if err := netns.Veth(ns[0], "uplink", ns[1], "provider", 1500); err != nil {
		t.Fatal(err)
	}
	if err := ns[0].SetSysctl("net.ipv6.conf.uplink.accept_dad", "1"); err != nil {
		t.Fatal(err)
	}
	f := &follower{make(chan []netip.Addr, 16), make(chan []xtr.Uplink, 16)}
	u := &uplinks{sockets: udp.NewSet(), plane: f, site: f, log: slog.New(slog.DiscardHandler)}
	if err := ns[0].Do(func() (err error) {
		for range 500 { // the kernel tells of a carrier a moment later
			link, err := netlink.LinkByName("uplink")
			if err != nil {
				return err
			}
			if link.Attrs().OperState == netlink.OperUp {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		u.watcher, err = uplink.Open(uplink.Config{Interfaces: []uplink.Interface{{Name: "uplink"}}})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	states := u.watcher.Current()
	if len(states) != 1 || !states[0].Up || len(states[0].Addrs) != 0 {
		t.Fatalf("uplinks %v", states)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- ns[0].Do(func() error { return u.run(ctx, states, u.listen(states)) }) }()
	if err := ns[0].Do(func() error {
		link, err := netlink.LinkByName("uplink")
		if err != nil {
			return err
		}
		for _, p := range []netip.Prefix{v6, v4} {
			if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: netns.IPNet(p)}); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for deadline := time.After(10 * time.Second); ; {
		select {
		case got := <-f.uplinks:
			all := <-f.rlocs
			if len(got) != 1 || !slices.Equal(got[0].Addrs, all) {
				t.Fatalf("uplinks %v, RLOCs of the plane %v", got, all)
			}
			if len(all) < 2 {
				continue
			}
		case <-deadline:
			t.Fatal("the uplink does not have both addresses after 10 s")
		}
		break
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// heard records what the control plane hears of traffic.
type heard struct {
	uplinks     []xtr.UplinkTraffic
	traffic     []xtr.Traffic
	unreachable []xtr.Path
}

func (h *heard) Traffic(list []xtr.Traffic)             { h.traffic = append(h.traffic, list...) }
func (h *heard) UplinkTraffic(list []xtr.UplinkTraffic) { h.uplinks = append(h.uplinks, list...) }
func (h *heard) Unreachable(p xtr.Path)                 { h.unreachable = append(h.unreachable, p) }

// TestWatchTraffic: what entries carried since the last round is told, and
// nothing when they carried nothing.
func TestWatchTraffic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		local, remote := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("198.51.100.1")
		fib := dataplane.NewFIB()
		fib.SetSources([]dataplane.Source{{Addr: local}})
		fib.SetLocal([]dataplane.LocalEID{{EID: mapping.MustParseEID("10.1.0.0/16")}})
		eid := mapping.MustParseEID("10.2.0.0/16")
		fib.Apply([]mapping.CacheChange{{EID: eid, Expires: time.Now().Add(time.Hour), Record: &mapping.Record{EID: eid, TTL: 60, Locators: []mapping.Locator{mapping.MakeLocator(remote, 1, 1)}}}})
		out := dataplane.NewForwarder(fib, dataplane.Config{}).NewEncap(0, dptest.NewHost(), dptest.NewUnderlay())
		var h heard
		ctx, cancel := context.WithCancel(t.Context())
		unreachable := make(chan dataplane.Path)
		var up uplink.Counters
		counters := func(buf []uplink.Counters) []uplink.Counters {
			up.Name, up.Sent, up.Received = "eth2", up.Sent+3, up.Received+1
			return append(buf, up)
		}
		go watchTraffic(ctx, fib, unreachable, counters, &h)
		path := dataplane.Path{Local: local, Remote: remote}
		unreachable <- path
		time.Sleep(trafficRound / 2) // between two rounds
		for range 3 {
			for range 2 {
				p := dptest.HostPacket(dptest.Flow("10.1.0.5:1000", "10.2.0.9:2000", 17, 20).Bytes(), 0)
				out.Batch(time.Now(), []dataplane.HostPacket{p})
			}
			time.Sleep(trafficRound)
		}
		time.Sleep(time.Second)
		cancel()
		synctest.Wait()
		// What the first round saw is where counting begins.
		if want := []xtr.Traffic{{EID: eid, Sent: 2}, {EID: eid, Sent: 2}}; !slices.Equal(h.traffic, want) {
			t.Errorf("traffic %+v, want %+v", h.traffic, want)
		}
		if len(h.uplinks) < 10 || h.uplinks[0] != (xtr.UplinkTraffic{Name: "eth2", Sent: 3, Received: 1}) {
			t.Errorf("uplinks %+v", h.uplinks)
		}
		if !slices.Equal(h.unreachable, []xtr.Path{xtr.Path(path)}) {
			t.Errorf("unreachable %v", h.unreachable)
		}
	})
}
