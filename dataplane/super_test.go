package dataplane_test

import (
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/dataplane/dptest"
	"github.com/eidolon-lisp/eidolon/encap"
)

// super is a super-packet of n segments of 100 octets of payload, the last of 50,
// whose payload begins with which it is.
func super(which, n int) dataplane.HostPacket {
	p := dptest.Flow("10.1.0.1:1000", "10.2.0.1:80", dptest.TCP, n*100-50)
	binary.BigEndian.PutUint32(p.Payload, uint32(which))
	h := dptest.HostPacket(p.Bytes(), 0)
	pkt := h.Buf[dataplane.Headroom:]
	binary.BigEndian.PutUint16(pkt[36:], encap.Fold(encap.PseudoHeader(pkt, dptest.TCP, len(pkt)-20)))
	var ok bool
	if h.Super, ok = dataplane.NewSuper(pkt, dptest.TCP, 20, 100); !ok {
		panic("no super-packet")
	}
	return h
}

// Counters are those of the segments, of which some may be lost.
func TestSuperCounts(t *testing.T) {
	const octets = 7*40 + 650 // no multiple of 7
	for _, lose := range []int{0, 3, 7} {
		s := newSite(t, dataplane.MissPolicy{})
		s.learn(positive("10.2.0.0/16", theirs4))
		if lose > 0 {
			s.under.Lose = func(p *dataplane.Packet) dataplane.DropReason {
				p.Lost = lose
				return dataplane.DropSendBuffer
			}
		}
		s.out.Batch(s.now, []dataplane.HostPacket{super(0, 7)})
		if sent := len(s.under.Sent()); lose == 0 && sent != 7 {
			t.Errorf("%d packets sent, want 7", sent)
		}
		s.wantDrops(dataplane.DropSendBuffer, uint64(lose))
		s.wantCount(dataplane.EncapPackets, uint64(7-lose))
		s.wantCount(dataplane.EncapBytes, uint64(max(0, octets-(octets/7+1)*lose)))
		s.wantCount(dataplane.CacheHits, 7)
	}
}

// What can't be sent as it is counts, is told of, and is held for each segment.
func TestSuperRefused(t *testing.T) {
	s := newSite(t, dataplane.MissPolicy{})
	s.out.Batch(s.now, []dataplane.HostPacket{super(0, 10)})
	s.wantDrops(dataplane.DropNoMapping, 10)
	s.wantCount(dataplane.CacheMisses, 10)

	s = newSite(t, dataplane.MissPolicy{Hold: true})
	w := s.releasers()
	s.out.Batch(s.now, []dataplane.HostPacket{super(0, 10)})
	s.wantCount(dataplane.HeldPackets, 10)
	s.learn(positive("10.2.0.0/16", theirs4))
	// This one must not pass those that are held.
	s.out.Batch(s.now, []dataplane.HostPacket{super(1, 10)})
	if n := len(s.under.Sent()); n != 0 {
		t.Fatalf("%d packets passed those that are held", n)
	}
	s.fwd.Release(s.now, w)
	s.fwd.Release(s.now, w) // forgets the destination
	// Others that are held are not in its way.
	s.send(0, dptest.Flow("10.1.0.1:1000", "10.3.0.1:80", dptest.UDP, 8).Bytes())
	calls := 0
	s.under.Lose = func(*dataplane.Packet) dataplane.DropReason { calls++; return dataplane.NotDropped }
	s.out.Batch(s.now, []dataplane.HostPacket{super(2, 10)})
	if calls != 1 {
		t.Errorf("the sender got %d packets for a super-packet", calls)
	}
	sent := s.under.Sent()
	if len(sent) != 30 {
		t.Fatalf("%d packets sent, want 30; drops %v", len(sent), s.drops())
	}
	for i, p := range sent {
		inner := p.Data[8:]
		if seq := int(binary.BigEndian.Uint32(inner[24:])); seq != i%10*100 {
			t.Errorf("packet %d has the sequence number %d", i, seq)
		}
		if i%10 == 0 && int(binary.BigEndian.Uint32(inner[40:])) != i/10 {
			t.Errorf("packet %d is of another super-packet", i)
		}
	}
}

// A trace shows the packets that a super-packet stands for.
func TestSuperTraced(t *testing.T) {
	s := newSite(t, dataplane.MissPolicy{})
	s.learn(positive("10.2.0.0/16", theirs4))
	tr, err := s.fib.Trace(dataplane.TraceFilter{})
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	s.out.Batch(s.now, []dataplane.HostPacket{super(0, 3)})
	var got []int
	for len(tr.Events()) > 0 {
		ev := <-tr.Events()
		if ev.Dst != theirs4 || ev.Drop != dataplane.NotDropped {
			t.Errorf("an event of a packet to %v, drop %v", ev.Dst, ev.Drop)
		}
		got = append(got, ev.Flow.Length)
	}
	if fmt.Sprint(got) != "[140 140 90]" {
		t.Errorf("packets of %v octets were traced", got)
	}
	if n := len(s.under.Sent()); n != 3 {
		t.Errorf("%d packets sent", n)
	}
}
