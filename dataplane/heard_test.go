package dataplane_test

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/dataplane/dptest"
)

// The outer sources of what was decapsulated are told once, those of dropped
// packets never.
func TestHeard(t *testing.T) {
	s := newSite(t, dataplane.MissPolicy{})
	spoofed := back4(4)
	spoofed.Src = addr("10.1.0.9")
	s.in.Batch([]dataplane.Packet{
		back4(4).Lisp(0, "198.51.100.1", "192.0.2.1"),
		back6(4).Lisp(7, "2001:db8:eeee::1", "2001:db8:ffff::1"),
		back4(4).Lisp(0, "198.51.100.1", "192.0.2.1"),
		spoofed.Lisp(0, "198.51.100.2", "192.0.2.1"),
		back4(4).Lisp(9, "198.51.100.3", "192.0.2.1"),
		back4(4).Lisp(0, "224.0.0.1", "192.0.2.1"),
	})
	got := s.fwd.Heard()
	slices.SortFunc(got, netip.Addr.Compare)
	if !slices.Equal(got, []netip.Addr{theirs4, theirs6}) {
		t.Errorf("heard of %v", got)
	}
	if again := s.fwd.Heard(); len(again) != 0 {
		t.Errorf("heard of %v again, without a packet", again)
	}
	s.in.Batch([]dataplane.Packet{back4(4).Lisp(0, "198.51.100.1", "192.0.2.1")})
	if got := s.fwd.Heard(); !slices.Equal(got, []netip.Addr{theirs4}) {
		t.Errorf("in the next round heard of %v", got)
	}
}

// A flood of sources does not grow the memory, what is lost is counted, and
// the next round has room again.
func TestHeardBounded(t *testing.T) {
	s := newSite(t, dataplane.MissPolicy{})
	s.host.Discard = true
	flood := func() int {
		batch := slices.Repeat([]dataplane.Packet{back4(4).Lisp(0, "198.51.100.1", "192.0.2.1")}, 100)
		for i := 0; i < 20_000; i += len(batch) {
			for j := range batch {
				batch[j].Src = netip.AddrFrom4([4]byte{198, 18, byte((i + j) >> 8), byte(i + j)})
			}
			s.in.Batch(batch)
		}
		return len(s.fwd.Heard())
	}
	first := flood()
	if first > 4096 || first < 4000 {
		t.Errorf("heard of %d RLOCs", first)
	}
	s.wantCount(dataplane.HeardLost, uint64(20_000-first))
	s.wantCount(dataplane.DecapPackets, 20_000)
	if second := flood(); second > 4096 || second < 4000 {
		t.Errorf("in the second round heard of %d", second)
	}
}

// Workers note and the drain takes at the same time: no address comes out that
// did not go in, and none of a worker that is done is missing.
func TestHeardConcurrent(t *testing.T) {
	s := newSite(t, dataplane.MissPolicy{})
	s.host.Discard = true
	seen := make(map[netip.Addr]bool)
	var wg sync.WaitGroup
	for range 3 {
		in := s.fwd.NewDecap(map[uint32]dataplane.HostWriter{0: s.host})
		wg.Go(func() {
			p := back4(4).Lisp(0, "198.51.100.1", "192.0.2.1")
			for i := range 2000 {
				// High and low half of the address say the same.
				var b [16]byte
				binary.BigEndian.PutUint64(b[:], 0x2001_0000_0000_0000|uint64(i%500))
				binary.BigEndian.PutUint64(b[8:], 0x2001_0000_0000_0000|uint64(i%500))
				p.Src = netip.AddrFrom16(b)
				in.Batch([]dataplane.Packet{p})
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	for ended := false; !ended; {
		select {
		case <-done:
			ended = true
		default:
		}
		for _, a := range s.fwd.Heard() {
			b := a.As16()
			if binary.BigEndian.Uint64(b[:]) != binary.BigEndian.Uint64(b[8:]) {
				t.Fatalf("%v never sent a packet", a)
			}
			seen[a] = true
		}
	}
	if len(seen) != 500 {
		t.Errorf("heard of %d of 500", len(seen))
	}
}

// What the plane does for each packet takes no memory, whatever the header
// says.
func TestHeardAndVersionsDoNotAllocate(t *testing.T) {
	s := newVersionedSite(t)
	s.host.Discard = true
	var batch []dataplane.Packet
	for i := range 64 {
		p := versioned(back4(100), uint32(3+i%3)<<12|uint32(5+i%3))
		p.Src = netip.AddrFrom4([4]byte{198, 51, 100, byte(i)})
		batch = append(batch, p)
	}
	s.in.Batch(batch)
	if n := testing.AllocsPerRun(50, func() { s.in.Batch(batch) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	s.under.Discard = true
	out := []dataplane.HostPacket{dptest.HostPacket(flow4(100).Bytes(), 0)}
	if n := testing.AllocsPerRun(50, func() { s.out.Batch(s.now, out) }); n != 0 {
		t.Errorf("%v allocations on the way out", n)
	}
}
