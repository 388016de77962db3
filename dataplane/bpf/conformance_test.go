package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/dataplane/dptest"
	"github.com/eidolon-lisp/eidolon/dataplane/tun"
	"github.com/eidolon-lisp/eidolon/internal/netns"
)

// TestConformance runs the program on the packets of the corpus (BPF_PROG_TEST_RUN):
// what it forwards is right to the octet, and the rest it leaves unchanged.
func TestConformance(t *testing.T) {
	dptest.Run(t, dptest.Factory{New: newBench, SlowPath: true, Routes: true})
}

// bench is a kernel plane without traffic, whose program is run on packets.
type bench struct {
	ns         *netns.NS
	p          *Plane
	site, up   netlink.Link
	ran, taken int
}

func newBench(t testing.TB, s *dptest.State) dptest.Plane {
	netns.NeedTUN(t)
	ns := netns.Fresh(t, 3)
	b := &bench{ns: ns[1]}
	check(t, netns.Veth(ns[0], "eth0", b.ns, "site", 1500))
	check(t, netns.Veth(ns[2], "eth0", b.ns, "up", 1500))
	setSysctl(t, b.ns, "net/ipv4/ip_forward", "1")
	setSysctl(t, b.ns, "net/ipv6/conf/all/forwarding", "1")
	check(t, b.ns.AddAddress("up", netip.PrefixFrom(dptest.Ours4, 24)))
	check(t, b.ns.AddAddress("up", netip.PrefixFrom(dptest.Ours6, 64)))
	check(t, b.ns.AddRoute(prefix("0.0.0.0/0"), addr("192.0.2.254"), ""))
	check(t, b.ns.AddRoute(prefix("::/0"), addr("2001:db8:ffff::fe"), ""))
	cfg := tun.Config{
		Sources: []netip.Addr{dptest.Ours4, dptest.Ours6}, MapVersioning: s.Config.MapVersioning, SourceCheck: s.Config.SourceCheck, MSSClamp: s.Config.MSSClamp,
		ProxyITR: s.Proxies.ITR, ProxyETR: s.Proxies.ETR,
	}
	for _, iid := range s.Instances() {
		cfg.Instances = append(cfg.Instances, tun.Instance{IID: iid})
	}
	for _, l := range s.Locals() {
		cfg.Locals = append(cfg.Locals, l.EID)
		check(t, b.ns.AddRoute(l.EID.Prefix, netip.Addr{}, "site"))
	}
	fib := dataplane.NewFIB()
	check(t, b.ns.Do(func() (err error) {
		if b.p, err = New(Config{Config: cfg, Unfinished: true, unpinned: true}, fib); err != nil {
			return err
		}
		s.Tell(fib, time.Now())
		if b.site, err = netlink.LinkByName("site"); err == nil {
			b.up, err = netlink.LinkByName("up")
		}
		return errors.Join(err, b.p.copier.sync())
	}))
	t.Cleanup(func() {
		if err := b.ns.Do(b.p.Close); err != nil {
			t.Error(err)
		}
		if b.ran == 0 {
			return
		}
		t.Logf("%d of %d packets were forwarded by the program", b.taken, b.ran)
		if b.taken < b.ran/20 {
			t.Error("those are too few to say anything")
		}
	})
	return b
}

// instanceOf returns the instance that an address of the site is in.
func (b *bench) instanceOf(src netip.Addr) (uint32, bool) {
	for _, e := range b.p.locals {
		if e.Contains(e.IID, src) {
			return e.IID, true
		}
	}
	return 0, false
}

// Encap implements dptest.Plane. To which instance a packet belongs is told by
// its source; others would not come here.
func (b *bench) Encap(iid uint32, pkt []byte) dptest.Outcome {
	if src, ok := source(pkt); ok {
		if of, ok := b.instanceOf(src); ok && of != iid {
			return dptest.Outcome{Passed: true}
		}
	}
	out, passed := b.run(b.site, pkt)
	if passed {
		return dptest.Outcome{Passed: true}
	}
	return dptest.Outcome{Sent: [][]byte{out}}
}

func source(pkt []byte) (netip.Addr, bool) {
	switch {
	case len(pkt) >= 20 && pkt[0]>>4 == 4:
		return netip.AddrFrom4([4]byte(pkt[12:])), true
	case len(pkt) >= 40 && pkt[0]>>4 == 6:
		return netip.AddrFrom16([16]byte(pkt[8:])), true
	}
	return netip.Addr{}, false
}

// Decap implements dptest.Plane.
func (b *bench) Decap(_ uint32, pkt []byte) dptest.Outcome {
	out, passed := b.run(b.up, pkt)
	if passed {
		return dptest.Outcome{Passed: true}
	}
	return dptest.Outcome{Host: [][]byte{out}}
}

// skBuff is the beginning of struct __sk_buff, up to the interface.
type skBuff struct {
	_       [10]uint32
	Ifindex uint32
	_       [37]uint32
}

// run runs the program on a packet that comes from a link.
func (b *bench) run(l netlink.Link, pkt []byte) (out []byte, passed bool) {
	const redirect = 7 // TC_ACT_REDIRECT
	frame := append([]byte{}, l.Attrs().HardwareAddr...)
	frame = append(frame, 2, 0, 0, 0, 0, 1)
	if len(pkt) > 0 && pkt[0]>>4 == 6 {
		frame = binary.BigEndian.AppendUint16(frame, unix.ETH_P_IPV6)
	} else {
		frame = binary.BigEndian.AppendUint16(frame, unix.ETH_P_IP)
	}
	frame = append(frame, pkt...)
	if len(pkt) < 20 || pkt[0]>>4 == 6 && len(pkt) < 40 || len(frame) > 3500 { // not what the kernel makes a packet of
		return nil, true
	}
	b.ran++
	opts := ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+128), Context: skBuff{Ifindex: uint32(l.Attrs().Index)}}
	var ret uint32
	if err := b.ns.Do(func() (err error) {
		ret, err = b.p.objects.Ingress.Run(&opts)
		return err
	}); err != nil {
		panic(err) // a fuzz target has no testing.TB of its own here
	}
	switch ret {
	case redirect:
		b.taken++
		return opts.DataOut[14:], false
	case 1<<32 - 1:
		if string(opts.DataOut) != string(frame) {
			panic("a packet that was left alone is changed")
		}
		return nil, true
	}
	panic(fmt.Sprintf("the program returns %d", int32(ret)))
}

// FuzzProgram runs random packets through the core and through the program,
// which has to come to the same wherever it does not leave them alone.
func FuzzProgram(f *testing.F) {
	dptest.Fuzz(f, dptest.Factory{New: newBench, SlowPath: true, Routes: true})
}
