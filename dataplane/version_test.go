package dataplane_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/dataplane/dptest"
	"github.com/eidolon-lisp/eidolon/encap"
	"github.com/eidolon-lisp/eidolon/mapping"
)

// newVersionedSite is a site on a trusted underlay: version 5 of its own
// 10.1.0.0/16, version 3 of the other site's 10.2.0.0/16 in the cache.
func newVersionedSite(t testing.TB) *site {
	s := newSite(t, dataplane.MissPolicy{})
	s.fib.SetLocal([]dataplane.LocalEID{
		{EID: eid("10.1.0.0/16"), Version: 5}, {EID: eid("10.1.200.0/24")}, {EID: eid("2001:db8:1::/48")},
	})
	s.fwd = dataplane.NewForwarder(s.fib, dataplane.Config{MapVersioning: true, Now: func() time.Time { return s.now }})
	s.out = s.fwd.NewEncap(0, s.host, s.under)
	s.in = s.fwd.NewDecap(map[uint32]dataplane.HostWriter{0: s.host})
	r := positive("10.2.0.0/16", theirs4)
	r.Version = 3
	s.learn(r, positive("10.4.0.0/16", theirs4))
	return s
}

// versioned is a packet as an ITR sends it with source version << 12 |
// destination version.
func versioned(p dptest.Inner, pair uint32) dataplane.Packet {
	pkt := p.Lisp(0, "198.51.100.1", "192.0.2.1")
	encap.PutVersions(pkt.Data, pair)
	return pkt
}

// events returns what the plane told the control plane.
func (s *site) events() (list []dataplane.VersionEvent) {
	for len(s.fwd.Versions()) > 0 {
		list = append(list, <-s.fwd.Versions())
	}
	return list
}

// RFC 9302 section 7: an ITR sends the versions of both mappings, and without a
// version of one of them no version at all.
func TestDP25_BothVersionsAreSent(t *testing.T) {
	s := newVersionedSite(t)
	unversioned, toNull := flow4(10), flow4(10)
	unversioned.Src, toNull.Dst = addr("10.1.200.1"), addr("10.4.0.1")
	s.send(0, flow4(10).Bytes(), unversioned.Bytes(), toNull.Bytes())
	for i, p := range s.under.Sent() {
		want := encap.Header{}
		if i == 0 {
			want = encap.Header{HasVersions: true, SrcVersion: 5, DstVersion: 3}
		}
		var h encap.Header
		if err := h.Decode(p.Data); err != nil || h != want {
			t.Errorf("packet %d has %+v, want %+v", i, h, want)
		}
	}
	s.wantCount(dataplane.EncapPackets, 3)
}

// RFC 9302 sections 6.1, 7.1 and 7.2: what an ETR does with every pair of
// versions.
func TestDP25_ReceivedVersions(t *testing.T) {
	outdated := dataplane.VersionEvent{Outdated: true, EID: eid("10.1.0.0/16"), RLOC: theirs4, Host: addr("10.2.0.1")}
	newer := dataplane.VersionEvent{EID: eid("10.2.0.0/16"), RLOC: theirs4, Host: addr("10.2.0.1")}
	for _, c := range []struct {
		name     string
		src, dst mapping.Version
		from, to string // inner, when not the usual
		drop     dataplane.DropReason
		event    *dataplane.VersionEvent
	}{
		{name: "the same", src: 3, dst: 5},
		{name: "newer destination", src: 3, dst: 6, drop: dataplane.DropVersionNewer},
		{name: "older destination", src: 3, dst: 4, event: &outdated},
		{name: "older destination, around the circle", src: 3, dst: 4095, event: &outdated},
		{name: "null destination", src: 3, dst: 0, drop: dataplane.DropMapVersion},
		{name: "our mapping has none", src: 3, dst: 1, to: "10.1.200.1", drop: dataplane.DropMapVersion},
		{name: "newer source", src: 4, dst: 5, event: &newer},
		{name: "older source", src: 2, dst: 5, drop: dataplane.DropVersionOld},
		{name: "null source", src: 0, dst: 5},
		{name: "source not cached", src: 9, dst: 5, from: "10.3.0.1"},
		{name: "source cached without version", src: 9, dst: 5, from: "10.4.0.1"},
	} {
		s := newVersionedSite(t)
		p := back4(10)
		if c.from != "" {
			p.Src = addr(c.from)
		}
		if c.to != "" {
			p.Dst = addr(c.to)
		}
		s.in.Batch([]dataplane.Packet{versioned(p, uint32(c.src)<<12|uint32(c.dst))})
		s.wantDrops(dataplane.DropMapVersion, count(c.drop == dataplane.DropMapVersion))
		s.wantDrops(dataplane.DropVersionNewer, count(c.drop == dataplane.DropVersionNewer))
		s.wantDrops(dataplane.DropVersionOld, count(c.drop == dataplane.DropVersionOld))
		s.wantCount(dataplane.DecapPackets, count(c.drop == dataplane.NotDropped))
		ev := s.events()
		if c.event == nil && len(ev) != 0 || c.event != nil && (len(ev) != 1 || ev[0] != *c.event) {
			t.Errorf("%s: told %+v", c.name, ev)
		}
		if t.Failed() {
			t.Fatal(c.name)
		}
	}
}

func count(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

// RFC 9302 section 7.1: an ITR with an old mapping is told once and ten times
// more, every 4 s; after that its packets are dropped, and it is told every
// 30 s. When it has the mapping, its packets pass again.
func TestDP25_OldVersionIsToldThenDropped(t *testing.T) {
	s := newVersionedSite(t)
	var at []time.Duration
	delivered := 0
	for d := time.Duration(0); d < 105*time.Second; d += 250 * time.Millisecond {
		s.now = t0.Add(d)
		s.in.Batch([]dataplane.Packet{versioned(back4(10), 3<<12|4), versioned(back4(10), 3<<12|4)})
		for range s.events() {
			at = append(at, d)
		}
		if n := len(s.host.Written()); n > 0 {
			delivered += n
			if d >= 44*time.Second {
				t.Fatalf("a packet passed after %v", d)
			}
		}
	}
	want := []time.Duration{0, 4, 8, 12, 16, 20, 24, 28, 32, 36, 40, 70, 100}
	if len(at) != len(want) {
		t.Fatalf("told at %v", at)
	}
	for i := range want {
		if at[i] != want[i]*time.Second {
			t.Errorf("told at %v", at)
		}
	}
	if delivered != 2*4*44 {
		t.Errorf("%d packets passed, want %d", delivered, 2*4*44)
	}
	s.wantDrops(dataplane.DropVersionOld, 2*4*61)
	s.in.Batch([]dataplane.Packet{versioned(back4(10), 3<<12|5)})
	if n := len(s.host.Written()); n != 1 {
		t.Errorf("with the new version %d packets passed", n)
	}
}

// The events of many RLOCs at once stay within the queue, and all else goes on.
func TestDP25_EventsAreBounded(t *testing.T) {
	s := newVersionedSite(t)
	s.host.Discard = true
	for i := range 2000 {
		p := versioned(back4(10), 3<<12|4)
		p.Src = netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)})
		s.in.Batch([]dataplane.Packet{p})
	}
	s.wantCount(dataplane.DecapPackets, 2000)
	if n := len(s.events()); n != 256 {
		t.Errorf("%d events wait", n)
	}
	if lost := s.fwd.Count(dataplane.VersionLost); lost < 1000 {
		t.Errorf("%d events lost", lost)
	}
}
