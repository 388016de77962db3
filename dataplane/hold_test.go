package dataplane_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/dataplane/dptest"
	"github.com/eidolon-lisp/eidolon/mapping"
)

// numbered is a packet that carries n.
func numbered(n int) dptest.Inner {
	p := flow4(8)
	binary.BigEndian.PutUint32(p.Payload, uint32(n))
	return p
}

func number(p dataplane.Packet) int { return int(binary.BigEndian.Uint32(p.Data[8+28:])) }

func (s *site) releasers() map[uint32]*dataplane.Encap {
	return map[uint32]*dataplane.Encap{0: s.fwd.NewReleaser(0, s.host, s.under), 7: s.fwd.NewReleaser(7, s.host7, s.under)}
}

func TestHoldAndRelease(t *testing.T) {
	s := newSite(t, dataplane.MissPolicy{Hold: true})
	w := s.releasers()
	for i := range 10 {
		s.send(0, numbered(i).Bytes())
	}
	s.send(7, numbered(100).Bytes())
	s.wantCount(dataplane.HeldPackets, 11)
	s.fwd.Release(s.now, w)
	if n := len(s.under.Sent()); n != 0 {
		t.Fatalf("%d packets without a mapping", n)
	}
	s.learn(positive("10.2.0.0/16", theirs4))
	// A packet that comes now waits behind those that are held.
	s.send(0, numbered(10).Bytes())
	s.fwd.Release(s.now, w)
	s.send(0, numbered(11).Bytes())
	sent := s.under.Sent()
	if len(sent) != 12 {
		t.Fatalf("%d packets sent, drops %v", len(sent), s.drops())
	}
	for i, p := range sent {
		if number(p) != i {
			t.Errorf("packet %d is number %d", i, number(p))
		}
	}
	s.wantCount(dataplane.ReleasedPackets, 11)
	// Instance 7 has no mapping yet.
	s.learn(positive("[7]10.2.0.0/16", theirs6))
	s.fwd.Release(s.now, w)
	if sent := s.under.Sent(); len(sent) != 1 || number(sent[0]) != 100 || sent[0].Dst != theirs6 {
		t.Errorf("instance 7 sent %v", sent)
	}
	if d := s.drops(); len(d) != 0 {
		t.Errorf("drops %v", d)
	}
}

// What is held and then turns out to be refused is dropped by the name of that.
func TestHoldThenNegative(t *testing.T) {
	s := newSite(t, dataplane.MissPolicy{Hold: true})
	s.send(0, numbered(1).Bytes(), numbered(2).Bytes())
	s.learn(mapping.NegativeRecord(eid("10.2.0.0/16"), mapping.NativelyForward, 15))
	s.fwd.Release(s.now, s.releasers())
	s.wantDrops(dataplane.DropNativelyForward, 2)
	s.send(0, numbered(3).Bytes())
	s.wantDrops(dataplane.DropNativelyForward, 3)
}

func TestHoldLimits(t *testing.T) {
	other := func(i int) []byte {
		p := numbered(i)
		p.Dst = netip.AddrFrom4([4]byte{10, 2, 1, byte(i)})
		return p.Bytes()
	}
	const size = 36 // of a numbered packet
	for _, c := range []struct {
		name   string
		policy dataplane.MissPolicy
		send   func(s *site)
		held   uint64
	}{
		{"packets of one EID", dataplane.MissPolicy{PacketsPerEID: 3}, func(s *site) {
			for i := range 10 {
				s.send(0, numbered(i).Bytes())
			}
		}, 3},
		{"octets of one EID", dataplane.MissPolicy{BytesPerEID: 4*size + 1}, func(s *site) {
			for i := range 10 {
				s.send(0, numbered(i).Bytes())
			}
		}, 4},
		{"packets", dataplane.MissPolicy{Packets: 6}, func(s *site) {
			for i := range 10 {
				s.send(0, other(i))
			}
		}, 6},
		{"octets", dataplane.MissPolicy{Bytes: 5 * size}, func(s *site) {
			for i := range 10 {
				s.send(0, other(i))
			}
		}, 5},
	} {
		c.policy.Hold = true
		s := newSite(t, c.policy)
		c.send(s)
		s.wantCount(dataplane.HeldPackets, c.held)
		s.wantDrops(dataplane.DropHoldFull, 10-c.held)
		// What was let go makes room again.
		s.learn(positive("10.2.0.0/16", theirs4))
		w := s.releasers()
		s.fwd.Release(s.now, w)
		s.fwd.Release(s.now, w)
		if n := len(s.under.Sent()); n != int(c.held) {
			t.Errorf("%s: %d released", c.name, n)
		}
		s.fib.Apply([]mapping.CacheChange{{EID: eid("10.2.0.0/16")}})
		c.send(s)
		s.wantCount(dataplane.HeldPackets, 2*c.held)
	}
}

func TestHoldTimeout(t *testing.T) {
	s := newSite(t, dataplane.MissPolicy{Hold: true, Time: 2 * time.Second})
	w := s.releasers()
	s.send(0, numbered(1).Bytes())
	s.now = s.now.Add(time.Second)
	s.send(0, numbered(2).Bytes())
	s.now = s.now.Add(time.Second)
	s.fwd.Release(s.now, w)
	s.wantDrops(dataplane.DropHoldTimeout, 1)
	s.learn(positive("10.2.0.0/16", theirs4))
	s.fwd.Release(s.now, w)
	if sent := s.under.Sent(); len(sent) != 1 || number(sent[0]) != 2 {
		t.Errorf("released %v", sent)
	}
}

// RunHold acts at once on a mapping, and on time without one.
func TestRunHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, dataplane.MissPolicy{})
		fwd := dataplane.NewForwarder(s.fib, dataplane.Config{Miss: dataplane.MissPolicy{Hold: true, Time: time.Second}})
		out := fwd.NewEncap(0, s.host, s.under)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			fwd.RunHold(ctx, map[uint32]*dataplane.Encap{0: fwd.NewReleaser(0, s.host, s.under)})
		})
		send := func(i int) {
			out.Batch(time.Now(), []dataplane.HostPacket{dptest.HostPacket(numbered(i).Bytes(), 0)})
		}
		send(1)
		time.Sleep(500 * time.Millisecond)
		send(2)
		time.Sleep(700 * time.Millisecond)
		synctest.Wait()
		if n := fwd.Drops(dataplane.DropHoldTimeout); n != 1 {
			t.Errorf("%d timed out", n)
		}
		s.fib.Apply(changes(time.Now().Add(time.Hour), positive("10.2.0.0/16", theirs4)))
		synctest.Wait()
		if sent := s.under.Sent(); len(sent) != 1 || number(sent[0]) != 2 {
			t.Errorf("released %v", sent)
		}
		cancel()
		wg.Wait()
	})
}

// While packets are released, others of the flow come: nothing is lost and
// nothing is passed.
func TestHoldKeepsOrder(t *testing.T) {
	for range 20 {
		s := newSite(t, dataplane.MissPolicy{Hold: true, PacketsPerEID: 4000})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { s.fwd.RunHold(ctx, s.releasers()) })
		const n = 2000
		for i := range n {
			if i == n/2 {
				s.learn(positive("10.2.0.0/16", theirs4))
			}
			s.send(0, numbered(i).Bytes())
		}
		var sent []dataplane.Packet
		for len(sent) < n {
			sent = append(sent, s.under.WaitSent()...)
		}
		cancel()
		wg.Wait()
		for i, p := range sent {
			if number(p) != i {
				t.Fatalf("packet %d is number %d", i, number(p))
			}
		}
	}
}

func TestMisses(t *testing.T) {
	s := newSite(t, dataplane.MissPolicy{})
	s.send(0, numbered(1).Bytes(), numbered(2).Bytes())
	s.send(7, numbered(3).Bytes())
	s.wantCount(dataplane.MissQueued, 2) // one for each instance
	s.wantCount(dataplane.MissRepeated, 1)
	want := dataplane.Miss{Dst: addr("10.2.0.1"), Src: addr("10.1.0.1")}
	for _, iid := range []uint32{0, 7} {
		want.IID = iid
		if m := <-s.fwd.Misses(); m != want {
			t.Errorf("%+v, want %+v", m, want)
		}
	}
	s.now = s.now.Add(300 * time.Millisecond)
	s.send(0, numbered(4).Bytes())
	s.wantCount(dataplane.MissQueued, 3)
}

// A scan fills the queue and is then lost and counted; a flood toward one
// destination takes one place.
func TestMissQueueBounded(t *testing.T) {
	s := newSite(t, dataplane.MissPolicy{})
	for i := range 5000 {
		s.send(0, numbered(i).Bytes())
	}
	s.wantCount(dataplane.MissQueued, 1)
	for i := range 5000 {
		p := numbered(i)
		p.Dst = netip.AddrFrom4([4]byte{10, 9, byte(i >> 8), byte(i)})
		s.send(0, p.Bytes())
	}
	q, l, r := s.fwd.Count(dataplane.MissQueued), s.fwd.Count(dataplane.MissLost), s.fwd.Count(dataplane.MissRepeated)
	if q != uint64(len(s.fwd.Misses())) || q != uint64(cap(s.fwd.Misses())) || q+l+r != 10000 {
		t.Errorf("queued %d, lost %d, repeated %d", q, l, r)
	}
	if s.drops()[dataplane.DropNoMapping] != 10000 {
		t.Error(fmt.Sprint(s.drops()))
	}
}
