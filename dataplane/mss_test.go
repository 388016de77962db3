package dataplane_test

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/dataplane/dptest"
	"github.com/eidolon-lisp/eidolon/encap"
)

// syn is a TCP SYN with an MSS of 1460 in its payload, where options go.
func syn(p dptest.Inner) []byte {
	p.Proto, p.Flags, p.Payload = dptest.TCP, 0x02, []byte{2, 4, 1460 >> 8, 1460 & 0xff}
	b := p.Bytes()
	at := len(b) - 24
	b[at+12] = 6 << 4 // the payload becomes options
	fixChecksum(b, at)
	return b
}

func fixChecksum(b []byte, at int) {
	b[at+16], b[at+17] = 0, 0
	binary.BigEndian.PutUint16(b[at+16:], ^encap.Fold(encap.Sum(b[at:], encap.PseudoHeader(b, dptest.TCP, len(b)-at))))
}

// With the clamp both ways announce what fits the path, with right checksums;
// without it nothing is changed, and other TCP packets never are.
func TestMSSClamp(t *testing.T) {
	mss := func(b []byte) int {
		t.Helper()
		at := len(b) - 24
		if encap.Fold(encap.Sum(b[at:], encap.PseudoHeader(b, dptest.TCP, len(b)-at))) != 0xffff {
			t.Errorf("%x: wrong checksum", b)
		}
		return int(binary.BigEndian.Uint16(b[len(b)-2:]))
	}
	for _, clamp := range []bool{false, true} {
		s := newSite(t, dataplane.MissPolicy{})
		s.fwd = dataplane.NewForwarder(s.fib, dataplane.Config{MSSClamp: clamp, Now: func() time.Time { return s.now }})
		s.out, s.in = s.fwd.NewEncap(0, s.host, s.under), s.fwd.NewDecap(map[uint32]dataplane.HostWriter{0: s.host})
		s.fib.SetDefaultMTU(1480)
		s.learn(positive("10.2.0.0/16", theirs4), positive("2001:db8:2::/48", theirs6, theirs4))
		s.fib.SetRouteMTU(theirs4, 1400, s.now)
		s.fib.SetRouteMTU(theirs6, 1500, s.now)
		s.send(0, syn(flow4(0)), flow4(10).Bytes(), dptest.Flow("10.1.0.1:1000", "10.2.0.1:80", dptest.TCP, 1300).Bytes())
		s.in.Batch([]dataplane.Packet{
			lisp(syn(back4(0)), "198.51.100.1"), lisp(syn(back6(0)), "198.51.100.1"),
			lisp(syn(dptest.Flow("10.99.0.1:1", "10.1.0.1:2", 0, 0)), "198.51.100.1"),
			back4(10).Lisp(0, "198.51.100.1", "192.0.2.1"),
		})
		sent, got := s.under.Sent(), s.host.Written()
		if len(sent) != 3 || len(got) != 4 {
			t.Fatalf("%d sent, %d received, drops %v", len(sent), len(got), s.drops())
		}
		want := []int{1460, 1460, 1460, 1460}
		if clamp { // of two locators the smaller room counts; nothing is known of the last
			want = []int{1400 - 36 - 40, 1400 - 36 - 40, 1400 - 36 - 60, 1480 - 36 - 40}
		}
		for i, b := range [][]byte{sent[0].Data[8:], got[0], got[1], got[2]} {
			if n := mss(b); n != want[i] {
				t.Errorf("clamp %v: SYN %d says %d, want %d", clamp, i, n, want[i])
			}
		}
		n := uint64(0)
		if clamp {
			n = 4
		}
		s.wantCount(dataplane.MSSClamped, n)
	}
}

// lisp is an inner packet as the underlay has it.
func lisp(inner []byte, src string) dataplane.Packet {
	b := make([]byte, encap.HeaderLen, encap.HeaderLen+len(inner))
	encap.PutHeader(b, 0)
	return dataplane.Packet{Data: append(b, inner...), Src: addr(src), Dst: ours4, TTL: 64}
}
