package dptest

import (
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/mapping"
)

// holding tests what becomes of packets whose mapping is not there yet.
type holding struct {
	t *testing.T
	f Factory
	p Plane
}

// held plays packets to EIDs of which nothing is known, which a plane keeps, and
// tells it their mappings then.
func held(t *testing.T, f Factory, p Plane, s *State) {
	h := holding{t, f, p}
	switch {
	case f.SlowPath:
		h.passed()
	case s.Config.Miss.Time < time.Second:
		h.late()
	default:
		h.inOrder()
		h.whileMore()
		h.bounded(s.Config.Miss)
		h.refused()
		h.super()
	}
}

// numbered is a packet to an address that is told by its number.
func numbered(dst string, i int) []byte {
	p := out4(8)
	if addr(dst).Is6() {
		p = out6(8)
	}
	return p.to(dst).with(func(p *Inner) { p.Payload = []byte{byte(i), 1, 2, 3} }).Bytes()
}

// learn tells the plane of a mapping to one locator, or of a negative one.
func (h *holding) learn(e string, rloc netip.Addr) {
	r := mapping.NegativeRecord(eid(e), mapping.Drop, 60)
	if rloc.IsValid() {
		r = &mapping.Record{EID: eid(e), TTL: 60, Locators: []mapping.Locator{mapping.MakeLocator(rloc, 1, 100)}}
	}
	h.p.Learn(mapping.CacheChange{EID: r.EID, Record: r, Expires: time.Now().Add(time.Hour)})
}

// keep plays a packet that has to be held, which it is as n packets.
func (h *holding) keep(iid uint32, pkt []byte, size int, n uint64) {
	h.t.Helper()
	o := h.p.Encap(iid, pkt, size)
	held := o.Held
	o.Held = 0
	if c := (Case{Out: pkt}); held != n {
		h.t.Fatalf("%d packets are held, want %d: %d sent, drops %v, error %v", held, n, len(o.Sent), o.Drops, o.Err)
	} else if err := c.check(h.f, o); err != nil {
		h.t.Fatal(err)
	}
}

// overflow plays a packet that finds no room.
func (h *holding) overflow(pkt []byte) {
	h.t.Helper()
	c := Case{Out: pkt, Drop: dataplane.DropHoldFull}
	if err := c.check(h.f, h.p.Encap(0, pkt, 0)); err != nil {
		h.t.Fatal(err)
	}
}

// gather waits until so many packets were sent, or dropped for the reason.
func (h *holding) gather(iid uint32, o Outcome, sent int, why dataplane.DropReason, drops uint64) Outcome {
	h.t.Helper()
	for range 200 {
		if len(o.Sent) >= sent && o.Drops[why] >= drops || o.Err != nil {
			break
		}
		more := h.p.Rest(iid, 5*time.Millisecond)
		o = merge(o, more)
	}
	return o
}

func merge(a, b Outcome) Outcome {
	a.Sent, a.Host, a.Leaked = append(a.Sent, b.Sent...), append(a.Host, b.Host...), append(a.Leaked, b.Leaked...)
	a.SentFrames, a.HostFrames = a.SentFrames+b.SentFrames, a.HostFrames+b.HostFrames
	a.Held += b.Held
	if a.Err == nil {
		a.Err = b.Err
	}
	drops := maps.Clone(a.Drops)
	if drops == nil {
		drops = make(map[dataplane.DropReason]uint64)
	}
	for r, n := range b.Drops {
		drops[r] += n
	}
	a.Drops = drops
	return a
}

// check compares an outcome with packets sent to a locator.
func (h *holding) check(o Outcome, iid uint32, rloc netip.Addr, pkts ...[]byte) {
	h.t.Helper()
	c := Case{Out: []byte{}}
	for _, p := range pkts {
		c.Sent = append(c.Sent, over(rloc, iid, p))
	}
	if err := c.check(h.f, o); err != nil {
		h.t.Error(err)
	}
}

// released waits for the packets that were held.
func (h *holding) released(iid uint32, rloc netip.Addr, pkts ...[]byte) {
	h.t.Helper()
	h.check(h.gather(iid, Outcome{}, len(pkts), dataplane.NotDropped, 0), iid, rloc, pkts...)
}

// inOrder: packets to several EIDs go out when the mapping of theirs comes, in
// the order that they came in, and the plane asks for all of these mappings and no
// others.
func (h *holding) inOrder() {
	const a, b, red = "10.100.0.1", "2001:db8:100::1", "10.100.0.1"
	h.p.Misses()
	var toA, toB, toRed [][]byte
	for i := range 5 {
		toA, toB = append(toA, numbered(a, i)), append(toB, numbered(b, i))
		toRed = append(toRed, out4(i).from("10.7.0.1").to(red).Bytes())
		h.keep(0, toA[i], 0, 1)
		h.keep(0, toB[i], 0, 1)
		h.keep(Red, toRed[i], 0, 1)
	}
	h.check(h.p.Rest(0, 0), 0, Far4)
	asked := make(map[dataplane.Miss]bool)
	for _, m := range h.p.Misses() {
		asked[m] = true
	}
	want := map[dataplane.Miss]bool{
		{Dst: addr(a), Src: addr("10.1.0.1")}: true, {Dst: addr(b), Src: addr("2001:db8:1::1")}: true,
		{IID: Red, Dst: addr(red), Src: addr("10.7.0.1")}: true,
	}
	if !maps.Equal(asked, want) {
		h.t.Errorf("asked for %v, want %v", slices.Collect(maps.Keys(asked)), slices.Collect(maps.Keys(want)))
	}
	h.learn("10.100.0.0/24", Far4)
	h.released(0, Far4, toA...)
	h.check(h.p.Encap(0, numbered(a, 9), 0), 0, Far4, numbered(a, 9))
	h.learn("2001:db8:100::/48", Far6)
	h.released(0, Far6, toB...)
	h.learn("[7]10.100.0.0/24", Other4)
	h.released(Red, Other4, toRed...)
}

// whileMore: packets that come when the mapping does are behind those that were
// held, or if the plane has a faster part at least in order among themselves. They
// are no more than may be held, as the plane may need a moment.
func (h *holding) whileMore() {
	const dst, before, all = "10.101.0.1", 4, 8
	var pkts [][]byte
	for i := range all {
		pkts = append(pkts, numbered(dst, i))
	}
	for _, p := range pkts[:before] {
		h.keep(0, p, 0, 1)
	}
	h.learn("10.101.0.0/24", Far4)
	var o Outcome
	for _, p := range pkts[before:] {
		o = merge(o, h.p.Encap(0, p, 0))
	}
	o = h.gather(0, o, all, dataplane.NotDropped, 0)
	o.Held = 0
	if h.f.Overtakes {
		late := func(pkt []byte) int {
			if d, _ := ParseDatagram(pkt); len(d.Inner) > 28 && d.Inner[28] >= before {
				return 1
			}
			return 0
		}
		slices.SortStableFunc(o.Sent, func(a, b []byte) int { return late(a) - late(b) })
	}
	h.check(o, 0, Far4, pkts...)
}

// bounded: what is held has bounds, for each EID and for all, and what finds no
// room is counted.
func (h *holding) bounded(limit dataplane.MissPolicy) {
	var first, others [][]byte
	for i := range limit.PacketsPerEID {
		first = append(first, numbered("10.102.0.1", i))
		h.keep(0, first[i], 0, 1)
	}
	h.overflow(numbered("10.102.0.1", 99))
	for i := range limit.Packets - limit.PacketsPerEID {
		others = append(others, numbered(netip.AddrFrom4([4]byte{10, 102, 1, byte(i)}).String(), i))
		h.keep(0, others[i], 0, 1)
	}
	h.overflow(numbered("10.102.2.1", 99))
	h.overflow(numbered("10.102.0.1", 99))
	h.learn("10.102.0.0/16", Far4)
	// Destinations have no order.
	o := h.gather(0, Outcome{}, limit.Packets, dataplane.NotDropped, 0)
	destination := func(b []byte) netip.Addr {
		d, _ := ParseDatagram(b)
		if len(d.Inner) < 20 {
			return netip.Addr{}
		}
		return netip.AddrFrom4([4]byte(d.Inner[16:]))
	}
	slices.SortStableFunc(o.Sent, func(a, b []byte) int { return destination(a).Compare(destination(b)) })
	h.check(o, 0, Far4, slices.Concat(first, others)...)

	// There is room again; octets have a bound, too.
	var large [][]byte
	for n := 0; n+1428 <= limit.BytesPerEID; n += 1428 {
		large = append(large, out4(1400).to("10.103.0.1").Bytes())
		h.keep(0, large[0], 0, 1)
	}
	h.overflow(large[0])
	h.learn("10.103.0.0/24", Far4)
	h.released(0, Far4, large...)
}

// refused: what was held is dropped as the mapping says, and the host is told.
func (h *holding) refused() {
	pkt := numbered("10.104.0.1", 1)
	h.keep(0, pkt, 0, 1)
	h.keep(0, pkt, 0, 1)
	h.learn("10.104.0.0/24", netip.Addr{})
	c := Case{Out: pkt, Drop: dataplane.DropNegative, Count: 2, Host: [][]byte{icmpError(pkt, 3, 0, 0)}}
	if err := c.check(h.f, h.gather(0, Outcome{}, 0, c.Drop, 2)); err != nil {
		h.t.Error(err)
	}
}

// super: a super-packet is held as the packets that it stands for.
func (h *holding) super() {
	p := out4(0).to("10.105.0.1").with(func(p *Inner) { p.Proto, p.DF, p.ID = TCP, true, 7 })
	whole, segments := super(p, 6*500+1, 500)
	h.keep(0, whole, 500, uint64(len(segments)))
	h.learn("10.105.0.0/24", Far6)
	h.released(0, Far6, segments...)
}

// late: what was held for too long is dropped, also if its mapping comes then.
func (h *holding) late() {
	pkt := numbered("10.100.0.1", 1)
	for range 3 {
		h.keep(0, pkt, 0, 1)
	}
	c := Case{Out: pkt, Drop: dataplane.DropHoldTimeout, Count: 3}
	o := h.gather(0, Outcome{}, 0, c.Drop, 3)
	h.learn("10.100.0.0/24", Far4)
	if err := c.check(h.f, merge(o, h.p.Rest(0, 10*time.Millisecond))); err != nil {
		h.t.Error(err)
	}
	h.check(h.p.Encap(0, pkt, 0), 0, Far4, pkt)
}

// passed: a part of a plane leaves packets without a mapping to the slow path, and
// decides when it has one.
func (h *holding) passed() {
	for _, dst := range []string{"10.100.0.1", "2001:db8:100::1"} {
		pkt := numbered(dst, 1)
		if o := h.p.Encap(0, pkt, 0); !o.Passed || o.Err != nil {
			h.t.Errorf("without a mapping %d packets were sent, error %v", len(o.Sent), o.Err)
		}
		h.learn(netip.PrefixFrom(addr(dst), addr(dst).BitLen()).String(), Far4)
		o := h.p.Encap(0, pkt, 0)
		if o.Passed {
			h.t.Errorf("with its mapping a packet to %v goes to the slow path", dst)
			continue
		}
		h.check(o, 0, Far4, pkt)
	}
}
