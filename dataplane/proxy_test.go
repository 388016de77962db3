package dataplane_test

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/dataplane/dptest"
	"github.com/eidolon-lisp/eidolon/encap"
	"github.com/eidolon-lisp/eidolon/mapping"
)

var petr = addr("203.0.113.31")

// hole says that natively-forward is the action for what is outside of LISP.
func (s *site) hole(petrs ...mapping.Locator) {
	s.fib.Apply([]mapping.CacheChange{{EID: eid("100.64.0.0/10"), Record: mapping.NegativeRecord(eid("100.64.0.0/10"), mapping.NativelyForward, 15),
		Expires: s.now.Add(time.Hour), ProxyETRs: petrs}})
}

func outside(src string) dptest.Inner {
	return dptest.Inner{Src: addr(src), Dst: addr("100.64.0.1"), Payload: []byte("data")}
}

// Packets of the site to natively-forward go to proxy-ETRs by priority and
// weight; those that this router attracted do not.
func TestProxyETR(t *testing.T) {
	s := newSite(t, dataplane.MissPolicy{})
	s.fib.SetProxies(dataplane.Proxies{ITR: []mapping.EID{eid("10.0.0.0/8"), eid("100.64.0.0/10")}})
	other := mapping.MakeLocator(theirs6, 2, 100)
	s.hole(mapping.MakeLocator(petr, 1, 100), other)
	s.send(0, outside("10.1.0.1").Bytes())
	sent := s.under.Sent()
	if len(sent) != 1 || sent[0].Dst != petr || sent[0].Src != ours4 {
		t.Fatalf("sent %+v", sent)
	}
	s.send(0, outside("203.0.113.9").Bytes())
	s.wantDrops(dataplane.DropNativelyForward, 1)
	k := encap.Key{Src: addr("10.1.0.1"), Dst: addr("100.64.0.1")}
	if d := s.fib.Snapshot().Explain(0, k, s.now); d.RLOC == nil || d.RLOC.Addr() != petr || len(d.Locators) != 2 {
		t.Errorf("explained as %+v", d)
	}
	k.Src = addr("203.0.113.9")
	if d := s.fib.Snapshot().Explain(0, k, s.now); d.Drop != dataplane.DropNativelyForward {
		t.Errorf("attracted: explained as %+v", d)
	}
	s.fib.SetSources(from(ours6)) // the proxy-ETR of the other family is left
	s.send(0, outside("10.1.0.1").Bytes())
	if sent := s.under.Sent(); len(sent) != 1 || sent[0].Dst != theirs6 {
		t.Errorf("sent %+v", sent)
	}
	s.hole()
	s.send(0, outside("10.1.0.1").Bytes())
	s.wantDrops(dataplane.DropNativelyForward, 2)
	s.fib.Apply([]mapping.CacheChange{{EID: eid("10.7.0.0/16"), Record: mapping.NegativeRecord(eid("10.7.0.0/16"), mapping.Drop, 15),
		Expires: s.now.Add(time.Hour), ProxyETRs: []mapping.Locator{other}}})
	s.send(0, dptest.Inner{Src: addr("10.1.0.1"), Dst: addr("10.7.0.1")}.Bytes())
	s.wantDrops(dataplane.DropNegative, 1)
}

// Where the site uses a proxy-ETR, packets still come in from a proxy-ITR that
// is another router.
func TestProxyITRIsNoUnlistedSource(t *testing.T) {
	s := newSite(t, dataplane.MissPolicy{})
	s.hole(mapping.MakeLocator(petr, 1, 100))
	s.in.Batch([]dataplane.Packet{dptest.Inner{Src: addr("100.64.0.1"), Dst: addr("10.1.0.1")}.Lisp(0, "198.51.100.9", "192.0.2.1")})
	s.wantCount(dataplane.DecapPackets, 1)
	s.wantCount(dataplane.SourceUnlisted, 0)
}

// A proxy-ETR hands packets of its sites to the kernel, in the instances that
// it serves, and what a proxy-ITR attracts from sources without an EID goes to
// the site.
func TestProxyRoles(t *testing.T) {
	s := newSite(t, dataplane.MissPolicy{})
	s.fib.SetLocal(nil)
	s.fib.SetProxies(dataplane.Proxies{ITR: []mapping.EID{eid("10.0.0.0/8")}, ETR: []mapping.EID{eid("10.2.0.0/16")}})
	s.in.Batch([]dataplane.Packet{
		dptest.Inner{Src: addr("10.2.0.1"), Dst: addr("203.0.113.1")}.Lisp(0, "198.51.100.1", "192.0.2.1"),
		dptest.Inner{Src: addr("10.2.0.1"), Dst: addr("203.0.113.1")}.Lisp(7, "198.51.100.1", "192.0.2.1"),
	})
	s.wantCount(dataplane.DecapPackets, 1)
	s.wantDrops(dataplane.DropDestinationNotLocal, 1)
	s.learn(positive("10.2.0.0/16", theirs4))
	s.send(0, dptest.Inner{Src: addr("203.0.113.1"), Dst: addr("10.2.0.1")}.Bytes())
	s.send(7, dptest.Inner{Src: addr("203.0.113.1"), Dst: addr("10.2.0.1")}.Bytes())
	s.wantDrops(dataplane.DropSourceNotEID, 1)
	if sent := s.under.Sent(); len(sent) != 1 || sent[0].Dst != theirs4 {
		t.Errorf("sent %+v", sent)
	}
}

// The policy to forward natively: packets are held until the kernel has its
// route, then given back to it, and after a moment dropped, whatever brings them.
func TestNative(t *testing.T) {
	s := newSite(t, dataplane.DefaultMissPolicy)
	s.fwd = dataplane.NewForwarder(s.fib, dataplane.Config{Miss: dataplane.DefaultMissPolicy, Native: []uint32{0}, Now: func() time.Time { return s.now }})
	s.out, s.out7 = s.fwd.NewEncap(0, s.host, s.under), s.fwd.NewEncap(7, s.host7, s.under)
	releasers := map[uint32]*dataplane.Encap{0: s.fwd.NewReleaser(0, s.host, s.under)}
	s.hole()
	pkt := outside("10.1.0.1").Bytes()
	s.send(0, slices.Clone(pkt))
	s.fwd.Release(s.now, releasers)
	if len(s.host.Written()) != 0 {
		t.Fatal("given back before the kernel has a route")
	}
	entry := s.fib.Snapshot().Lookup(0, addr("100.64.0.1"), netip.Addr{}, s.now)
	s.now = s.now.Add(time.Second)
	entry.SetNative(true, s.now)
	s.fwd.Release(s.now, releasers)
	if w := s.host.Written(); len(w) != 1 || !slices.Equal(w[0], pkt) {
		t.Errorf("given back %v", w)
	}
	s.fwd.Release(s.now, releasers) // forgets the destination
	s.send(0, slices.Clone(pkt))
	if len(s.host.Written()) != 1 {
		t.Error("a packet on its way was not given back")
	}
	s.now = s.now.Add(2 * time.Second)
	entry.SetNative(true, s.now)
	s.send(0, slices.Clone(pkt))
	s.wantDrops(dataplane.DropNativelyForward, 1)
	s.wantCount(dataplane.NativePackets, 2)
	s.hole() // the answer comes again: nothing changes
	s.send(0, slices.Clone(pkt))
	s.wantDrops(dataplane.DropNativelyForward, 2)
	// Neither without the policy nor for what is attracted.
	s.fib.SetProxies(dataplane.Proxies{ITR: []mapping.EID{eid("100.64.0.0/10")}})
	s.send(0, outside("203.0.113.9").Bytes())
	s.wantDrops(dataplane.DropNativelyForward, 3)
	s.fib.Apply([]mapping.CacheChange{{EID: eid("[7]100.64.0.0/10"), Record: mapping.NegativeRecord(eid("[7]100.64.0.0/10"), mapping.NativelyForward, 15), Expires: s.now.Add(time.Hour)}})
	s.send(7, slices.Clone(pkt))
	s.wantDrops(dataplane.DropNativelyForward, 4)
	if len(s.host.Written())+len(s.host7.Written())+len(s.under.Sent()) != 0 {
		t.Error("something leaked")
	}
}
