package bpf

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"

	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/dataplane/dptest"
	"github.com/eidolon-lisp/eidolon/dataplane/tun"
	"github.com/eidolon-lisp/eidolon/internal/netns"
	"github.com/eidolon-lisp/eidolon/mapping"
)

// inState makes a plane in a state of the suite.
func inState(s *dptest.State, fib *dataplane.FIB) (*Plane, error) {
	cfg := Config{unpinned: true, Mappings: 1024, Cache: 1024, Config: tun.Config{
		Unfinished: true,
		ProxyITR:   s.Proxies.ITR, ProxyETR: s.Proxies.ETR, Queues: 1,
		Miss: s.Config.Miss, MapVersioning: s.Config.MapVersioning, SourceCheck: s.Config.SourceCheck, MSSClamp: s.Config.MSSClamp,
	}}
	for _, iid := range s.Instances() {
		cfg.Instances = append(cfg.Instances, tun.Instance{IID: iid})
	}
	for _, l := range s.Locals() {
		cfg.Locals = append(cfg.Locals, l.EID)
	}
	for _, src := range s.Sources {
		cfg.Sources = append(cfg.Sources, src.Addr)
	}
	return New(cfg, fib)
}

// The whole plane, programs and slow path, passes the suite on real links.
func TestConformance(t *testing.T) {
	f := dptest.Wire(func(s *dptest.State, fib *dataplane.FIB) (dataplane.Plane, error) { return inState(s, fib) })
	f.Overtakes, f.Unsummed = true, 32
	dptest.Run(t, f)
}

// What the programs decide by themselves passes it too, and is most of what is
// no exception.
func TestConformanceOfPrograms(t *testing.T) {
	f := parts
	f.Decides = 200
	dptest.Run(t, f)
}

// Random packets through the core and through the programs come to the same.
func FuzzPrograms(f *testing.F) { dptest.Fuzz(f, parts) }

// parts runs the program alone (BPF_PROG_TEST_RUN).
var parts = dptest.Factory{SlowPath: true, Routes: true, New: func(t testing.TB, s *dptest.State) dptest.Plane {
	host, router, core := dptest.Network(t, s)
	p := &program{t: t, ns: router, host: dptest.MAC(t, host, "eth0"), core: dptest.MAC(t, core, "eth0")}
	fib := dataplane.NewFIB()
	p.fib = fib
	if err := router.Do(func() (err error) {
		p.plane, err = inState(s, fib)
		if err != nil {
			return err
		}
		s.Tell(fib, time.Now())
		for dev, index := range map[string]*uint32{dptest.Site: &p.site, dptest.Uplink: &p.uplink} {
			l, err := netlink.LinkByName(dev)
			if err != nil {
				return err
			}
			*index = uint32(l.Attrs().Index)
		}
		return errors.Join(p.plane.copier.sync(), p.plane.attach())
	}); err != nil {
		t.Fatal(err)
	}
	p.mac = map[uint32]net.HardwareAddr{p.site: dptest.MAC(t, router, dptest.Site), p.uplink: dptest.MAC(t, router, dptest.Uplink)}
	t.Cleanup(func() {
		if err := p.plane.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}}

// program implements dptest.Plane.
type program struct {
	t            testing.TB
	ns           *netns.NS
	plane        *Plane
	fib          *dataplane.FIB
	site, uplink uint32
	host, core   net.HardwareAddr
	mac          map[uint32]net.HardwareAddr
}

func (p *program) Encap(_ uint32, pkt []byte, size int) (o dptest.Outcome) {
	o, out := p.run(p.site, p.host, pkt, size)
	if out != nil {
		o.Sent = [][]byte{out}
	}
	return o
}

func (p *program) Decap(_ uint32, pkt []byte, size int) (o dptest.Outcome) {
	o, out := p.run(p.uplink, p.core, pkt, size)
	if out != nil {
		o.Host = [][]byte{out}
	}
	return o
}

func (p *program) Learn(changes ...mapping.CacheChange) {
	p.fib.Apply(changes)
	if err := p.plane.copier.sync(); err != nil {
		p.t.Error(err)
	}
}

// Rest returns nothing: a program by itself does nothing.
func (p *program) Rest(uint32, time.Duration) dptest.Outcome { return dptest.Outcome{} }

// Misses returns none: these are the slow path's.
func (p *program) Misses() []dataplane.Miss { return nil }

// Of struct __sk_buff the kernel takes the interface, and what tells of a
// super-packet.
type skb struct {
	_       [10]uint32
	ifindex uint32
	_       [30]uint32
	gsoSegs uint32
	_       [2]uint32
	gsoSize uint32
	_       [2]uint32
}

// run gives the program a frame that comes in by an interface. The kernel wants a
// whole IP header in it, and no more than a page. Of a super-packet it can't be
// told the kind here, so that the program has to leave it as it is.
func (p *program) run(index uint32, from net.HardwareAddr, pkt []byte, size int) (o dptest.Outcome, out []byte) {
	const (
		unspec    = 0xffffffff // TC_ACT_UNSPEC
		redirect  = 7
		pageFrame = 3500
	)
	proto, short := []byte{8, 0}, len(pkt) < 20
	if pkt[0]>>4 == 6 {
		proto, short = []byte{0x86, 0xdd}, len(pkt) < 40
	}
	switch {
	case short:
		return dptest.Outcome{Refused: true}, nil
	case len(pkt) > pageFrame:
		return dptest.Outcome{Passed: true}, nil
	}
	frame := slices.Concat(p.mac[index], from, proto, pkt)
	context := &skb{ifindex: index}
	if size > 0 {
		context.gsoSize, context.gsoSegs = uint32(size), uint32(len(pkt)/size)
	}
	opts := &ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+256), Context: context}
	var ret uint32
	if err := p.ns.Do(func() (err error) {
		ret, err = p.plane.Program().Run(opts)
		return err
	}); err != nil {
		return dptest.Outcome{Err: fmt.Errorf("run on %d octets: %w", len(frame), err)}, nil
	}
	switch {
	case ret == unspec && !bytes.Equal(opts.DataOut, frame):
		return dptest.Outcome{Err: fmt.Errorf("left to the slow path, but changed:\n%x\n%x", frame, opts.DataOut)}, nil
	case ret == unspec:
		return dptest.Outcome{Passed: true}, nil
	case ret == redirect:
		return dptest.Outcome{}, opts.DataOut[14:]
	}
	return dptest.Outcome{Err: fmt.Errorf("the program says %d", ret)}, nil
}
