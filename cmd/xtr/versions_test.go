package main

import (
	"context"
	"encoding/binary"
	"iter"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/dataplane/dptest"
	"github.com/eidolon-lisp/eidolon/internal/testnet"
	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
	"github.com/eidolon-lisp/eidolon/mapping/xtr"
)

// memoryPlane is the core of a data plane between a host side and an underlay
// in memory.
type memoryPlane struct {
	*dataplane.Forwarder
	host  *dptest.Host
	under *dptest.Underlay
	out   *dataplane.Encap
	in    *dataplane.Decap
}

func (p *memoryPlane) Run(ctx context.Context) error    { <-ctx.Done(); return nil }
func (p *memoryPlane) Stats() iter.Seq2[string, uint64] { return p.Forwarder.Stats() }

// router is a whole xTR in memory: 10.<site>.0.0/16 behind 192.0.2.<site>.
type router struct {
	plane *memoryPlane
	fib   *dataplane.FIB
	x     *xtr.XTR
	db    []xtr.Database
	stop  func()
}

// startRouter starts an xTR that asks and registers at no one who answers, but
// answers itself. version 0 is an untrusted underlay.
func startRouter(t *testing.T, n *testnet.Network, site byte, version mapping.Version, resolver netip.AddrPort) *router {
	rloc := netip.AddrFrom4([4]byte{192, 0, 2, site})
	r := &router{fib: dataplane.NewFIB()}
	r.db = []xtr.Database{{
		EID:      mapping.EID{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, site}), 16)},
		Locators: []mapping.Locator{mapping.MakeLocator(rloc, 1, 100)}, Version: version,
	}}
	var err error
	r.x, err = xtr.New(xtr.Config{
		RLOCs: []netip.Addr{rloc}, Databases: r.db, MapResolvers: []netip.AddrPort{resolver},
		OnCache:     r.fib.Apply,
		OnDatabases: func(d []xtr.Database) { r.fib.SetLocal(local(d)) },
		Logger:      slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	r.fib.SetLocal(local(r.db))
	r.fib.SetSources([]dataplane.Source{{Addr: rloc, Priority: 1, Weight: 100}})
	p := &memoryPlane{Forwarder: dataplane.NewForwarder(r.fib, dataplane.Config{MapVersioning: version != 0}),
		host: dptest.NewHost(), under: dptest.NewUnderlay()}
	p.out, p.in = p.NewEncap(0, p.host, p.under), p.NewDecap(map[uint32]dataplane.HostWriter{0: p.host})
	r.plane = p
	conn, err := n.Listen(netip.AddrPortFrom(rloc, wire.Port))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	misses, done := make(chan xtr.Miss), make(chan error, 2)
	go func() { done <- r.x.Run(ctx, conn, misses) }()
	go func() { done <- pass(ctx, usageRound, r.fib, p, r.x, misses) }()
	r.stop = func() {
		cancel()
		for range 2 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}
	return r
}

// SetRLOCs implements dataplane.Plane: in memory every address is received on.
func (*memoryPlane) SetRLOCs([]netip.Addr) {}

// packet is one from a host of one site to a host of another.
func packet(from, to byte) dptest.Inner {
	return dptest.Inner{Src: netip.AddrFrom4([4]byte{10, from, 0, 1}), Dst: netip.AddrFrom4([4]byte{10, to, 0, 1}), Payload: []byte("data")}
}

// carry sends a packet from a host behind r and hands what leaves r to the
// other; it returns how many arrived at a host.
func (r *router) carry(p dptest.Inner, to *router) int {
	r.plane.out.Batch(time.Now(), []dataplane.HostPacket{dptest.HostPacket(p.Bytes(), 0)})
	to.plane.in.Batch(r.plane.under.Sent())
	return len(to.plane.host.Written())
}

// TestAbuse_ForgedHeaderBitsReachNoControlPlane: on an untrusted underlay a
// flood of data packets with forged nonces, status bits and versions changes
// no mapping and sends no control message, whatever it is and from wherever.
func TestAbuse_ForgedHeaderBitsReachNoControlPlane(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := testnet.New(t, testnet.Path{})
		b := startRouter(t, n, 2, 0, netip.MustParseAddrPort("192.0.2.1:4342"))
		defer b.stop()
		a := startRouter(t, n, 1, 0, netip.MustParseAddrPort("192.0.2.2:4342")) // an xTR answers for itself
		defer a.stop()
		a.carry(packet(1, 2), b)
		time.Sleep(2 * time.Second)
		if got := a.carry(packet(1, 2), b); got != 1 {
			t.Fatalf("%d packets arrived, cache %v", got, a.x.MapCache())
		}
		time.Sleep(time.Minute)
		before := a.x.MapCache()
		n.Forget()
		rng := rand.New(rand.NewPCG(1, 2))
		for range 20_000 {
			pkt := packet(byte(2+rng.IntN(5)), 1).Lisp(0, "192.0.2.2", "192.0.2.1")
			binary.BigEndian.PutUint32(pkt.Data, rng.Uint32()&0xf4ffffff)
			binary.BigEndian.PutUint32(pkt.Data[4:], rng.Uint32())
			pkt.Src = netip.AddrFrom4([4]byte{192, 0, 2, byte(2 + rng.IntN(100))})
			a.plane.in.Batch([]dataplane.Packet{pkt})
			time.Sleep(time.Millisecond)
		}
		synctest.Wait()
		if a.plane.Count(dataplane.DecapPackets) < 5000 || a.plane.Count(dataplane.HeaderBitsIgnored) < 5000 ||
			a.plane.Drops(dataplane.DropMapVersion) < 2000 {
			t.Error("the packets did not get as far as they should")
		}
		after := a.x.MapCache()
		if len(before) != 1 || len(after) != 1 || after[0].Record != before[0].Record || after[0].Expires != before[0].Expires {
			t.Errorf("the map-cache was %v, is %v", before, after)
		}
		for _, d := range n.Datagrams() {
			t.Errorf("a control message was sent: %v", d)
		}
		if got := a.carry(packet(1, 2), b); got != 1 {
			t.Errorf("%d packets arrived", got)
		}
	})
}

// TestDP25_EndToEnd: two sites with map-versions. When one changes its locators,
// without a word to the other, the next data packet makes the other ask, and
// from then on it uses the new version.
func TestDP25_EndToEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := testnet.New(t, testnet.Path{Latency: 10 * time.Millisecond})
		b := startRouter(t, n, 2, 4095, netip.MustParseAddrPort("192.0.2.1:4342"))
		defer b.stop()
		a := startRouter(t, n, 1, 7, netip.MustParseAddrPort("192.0.2.2:4342"))
		defer a.stop()
		versions := func() (src, dst uint16) {
			t.Helper()
			a.plane.out.Batch(time.Now(), []dataplane.HostPacket{dptest.HostPacket(packet(1, 2).Bytes(), 0)})
			sent := a.plane.under.Sent()
			if len(sent) != 1 {
				t.Fatalf("%d packets sent", len(sent))
			}
			word := binary.BigEndian.Uint32(sent[0].Data)
			if word>>24 != 0x10 {
				t.Fatalf("header flags %#x", word>>24)
			}
			b.plane.in.Batch(sent)
			return uint16(word >> 12 & 0xfff), uint16(word & 0xfff)
		}
		a.carry(packet(1, 2), b)
		time.Sleep(2 * time.Second)
		if src, dst := versions(); src != 7 || dst != 4095 {
			t.Fatalf("versions %d and %d", src, dst)
		}
		// Nobody was heard of for long, so that no SMR is due for the change.
		time.Sleep(2 * time.Minute)
		db := []xtr.Database{{EID: b.db[0].EID, Locators: []mapping.Locator{mapping.MakeLocator(netip.MustParseAddr("192.0.2.2"), 3, 100)}, Version: 4095}}
		if err := b.x.SetDatabases(db); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		if _, dst := versions(); dst != 4095 {
			t.Fatalf("version %d before anybody said so", dst)
		}
		time.Sleep(time.Second)
		if _, dst := versions(); dst != 1 {
			t.Errorf("version %d after the SMR", dst)
		}
		if len(b.plane.host.Written()) != 3 || b.plane.Drops(dataplane.DropVersionOld) != 0 {
			t.Error("packets with the old version were lost")
		}
		if c := a.x.MapCache(); len(c) != 1 || c[0].Record.Version != 1 || c[0].Record.Locators[0].Priority != 3 {
			t.Errorf("map-cache %v", c)
		}
	})
}
