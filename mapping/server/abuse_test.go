package server

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// ledger adds up what reached a server in the name of an address, and what the
// server sent there: octets of IP packets.
type ledger struct{ in, out map[netip.Addr]int }

func newLedger() ledger {
	return ledger{make(map[netip.Addr]int), make(map[netip.Addr]int)}
}

func (l ledger) deliver(b *bench, msg []byte, victim netip.Addr, src, dst netip.AddrPort) []datagram {
	l.in[victim] += onWire(len(msg), src.Addr())
	out := b.deliver(msg, src, dst)
	for _, d := range out {
		l.out[d.dst.Addr()] += onWire(len(d.payload), d.dst.Addr())
	}
	return out
}

// check fails where more than 1.5 times the octets went out.
func (l ledger) check(t *testing.T, victim netip.Addr) {
	t.Helper()
	if in, out := l.in[victim], l.out[victim]; 2*out > 3*in {
		t.Errorf("%v got %d octets for %d that named it, %.2f times", victim, out, in, float64(out)/float64(in))
	} else {
		t.Logf("%v got %d octets for %d that named it, %.2f times", victim, out, in, float64(out)/float64(in))
	}
}

// TestAbuse_ReflectionThroughITRRLOC: thousands of spoofed Map-Requests name
// one victim as the ITR-RLOC, for whatever makes the longest answers. The
// victim gets at most 1.5 times the octets that the attacker spent, at any
// time.
func TestAbuse_ReflectionThroughITRRLOC(t *testing.T) {
	cfg := twoSites()
	long := rec("10.7.0.0/16")
	for i := range 100 {
		long.Locators = append(long.Locators, loc(fmt.Sprintf("2001:db8::%x", i+1)))
	}
	cfg.Static = append(cfg.Static, long)
	for i := range 200 {
		cfg.Static = append(cfg.Static,
			rec(fmt.Sprintf("20.%d.0.0/16", i), "192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"),
			rec(fmt.Sprintf("2001:db8:%x::/48", 0x1000+i), "2001:db8::1", "2001:db8::2"))
	}
	cfg.Static = append(cfg.Static, rec("20.0.0.0/8", "192.0.2.1"), rec("2001:db8::/32", "2001:db8::1"))
	eids := func(rng *rand.Rand) mapping.EID {
		switch rng.IntN(5) {
		case 0:
			return eid("10.7.0.1") // one long record
		case 1:
			return eid("20.255.0.1") // many more-specifics
		case 2:
			return mapping.HostEID(0, netip.AddrFrom4([4]byte{20, byte(rng.IntN(200)), 1, 1}))
		case 3:
			return eid("2001:db8:2000::1")
		}
		return mapping.HostEID(0, netip.AddrFrom4([4]byte{byte(30 + rng.IntN(190)), byte(rng.IntN(256)), 1, 1})) // holes
	}
	for _, victim := range []netip.Addr{addr("198.18.0.66"), addr("2001:db8:bad::66")} {
		for _, bare := range []bool{false, true} {
			for _, often := range []bool{false, true} {
				t.Run(fmt.Sprintf("%v, bare %v, without the limit of Map-Replies %v", victim, bare, often), func(t *testing.T) {
					b, l := strictBench(t, cfg, nil), newLedger()
					if often {
						b = newBench(t, cfg, nil)
						b.strict = true
					}
					rng := rand.New(rand.NewPCG(1, 2))
					answers := 0
					for i := range 5_000 {
						q := asking{eids: []mapping.EID{eids(rng)}, itr: []netip.Addr{victim}, bare: bare, nonce: rng.Uint64()}
						for range rng.IntN(4) {
							q.eids = append(q.eids, eids(rng))
						}
						// From anywhere, over either family, and from the
						// victim itself.
						q.from = netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 19, byte(i >> 8), byte(i)}), 4342)
						if i%3 == 0 {
							q.from, q.to, q.src = itr6, local6, itr6
						} else if i%3 == 1 && victim.Is4() {
							q.from = netip.AddrPortFrom(victim, 4342)
						}
						q = q.defaults()
						answers += len(l.deliver(b, encodeRequest(t, q), victim, q.from, q.to))
						if 2*l.out[victim] > 3*l.in[victim] {
							t.Fatalf("after %d Map-Requests, %d octets for %d", i+1, l.out[victim], l.in[victim])
						}
						b.now = b.now.Add(time.Millisecond)
					}
					l.check(t, victim)
					if answers == 0 || b.count(dropAmplification) == 0 || (b.count(dropReplyRate) == 0) != often {
						t.Errorf("%d answers, %d too long, %d too often: the test is not about anything", answers, b.count(dropAmplification), b.count(dropReplyRate))
					}
				})
			}
		}
	}
}

// TestAbuse_MapRequestFlood: a million forged sources and ITR-RLOCs leave
// nothing behind, and an ITR that is not of them is still answered.
func TestAbuse_MapRequestFlood(t *testing.T) {
	n := 1_000_000
	if testing.Short() {
		n /= 10
	}
	b := strictBench(t, twoSites(), nil)
	msg := encodeRequest(t, asking{eids: []mapping.EID{eid("10.9.0.1")}, bare: true}.defaults())
	const itrRLOC = 12 + 2 + 2 // behind the header and a source EID of AFI 0, with the AFI
	if !bytes.Equal(msg[itrRLOC:itrRLOC+4], itr4.Addr().AsSlice()) {
		t.Fatal("the ITR-RLOC is elsewhere")
	}
	table := b.s.table.Load()
	b.deliver(msg, itr4, local4)
	before := heapInUse()
	for i := range n {
		a := netip.AddrFrom4([4]byte{20 + byte(i>>24), byte(i >> 16), byte(i >> 8), byte(i)})
		copy(msg[itrRLOC:], a.AsSlice())
		b.r.handle(b.now, msg, netip.AddrPortFrom(a, 4342), local4)
		b.now = b.now.Add(time.Microsecond)
	}
	if grown := int64(heapInUse()) - int64(before); grown > 1<<20 {
		t.Errorf("the heap has grown by %d octets", grown)
	}
	if got := b.count(mapReplies); got < uint64(n)/2 {
		t.Errorf("%d answers: the test is not about anything", got)
	}
	if b.s.table.Load() != table || len(b.s.nonces) > 0 {
		t.Error("questions changed something")
	}
	if got := len(b.ask(asking{eids: []mapping.EID{eid("10.9.0.1")}, itr: []netip.Addr{addr("198.51.100.77")}})); got != 1 {
		t.Error("an honest ITR is not answered")
	}
}

// TestAbuse_MapRepliesToServer: the server never asks, so it believes nobody,
// and neither answers nor forwards a Map-Reply.
func TestAbuse_MapRepliesToServer(t *testing.T) {
	b := registered(t)
	rng := rand.New(rand.NewPCG(3, 4))
	for i := range 10_000 {
		r := rec([]string{"10.1.0.0/16", "0.0.0.0/0", "10.2.3.0/24", "11.0.0.0/8"}[i%4], "203.0.113.66")
		r.Authoritative = true
		recs, err := wire.NewRecords(r)
		if err != nil {
			t.Fatal(err)
		}
		m := wire.MapReply{Nonce: rng.Uint64(), Records: recs, Probe: i%3 == 0}
		msg, err := m.AppendBinary(nil)
		if err != nil {
			t.Fatal(err)
		}
		if i%5 == 0 {
			e := wire.ECM{Src: itr4, Dst: local4, Message: msg}
			if msg, err = e.AppendBinary(nil); err != nil {
				t.Fatal(err)
			}
		}
		if out := b.deliver(msg, etr1, local4); len(out) > 0 {
			t.Fatalf("%v was sent", b.texts(out))
		}
	}
	if got := b.count(dropMapReply) + b.count(dropUnexpectedType); got != 10_000 || b.count(dropMapReply) != 8000 {
		t.Errorf("%d of 10000 were counted", got)
	}
	b.wantAnswer("2001:db8:1::1", "2001:db8:1::/48 ttl 1440m, 192.0.2.1 1/100 R")
	b.wantAnswer("11.0.0.1", "11.0.0.0/8 ttl 15m natively-forward")
}
