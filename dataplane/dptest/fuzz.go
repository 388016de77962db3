package dptest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/mapping"
)

// Fuzz plays random packets on the core and looks at what must always hold:
// each packet goes on, has one reason why not, or is held and then, with its
// mapping, one of these; what goes out is a sound
// datagram, and another site's core makes the same packet of it. Then planes of
// the other factories play the same packets, and have to come to the same. What
// the corpus has is where the fuzzer begins.
func Fuzz(f *testing.F, others ...Factory) {
	z := fuzzer{peer: newPeer(), others: others}
	for _, s := range States() {
		z.core = append(z.core, newMemory(s))
		planes := make([]Plane, len(others))
		for i, o := range others {
			planes[i] = o.New(f, s)
		}
		z.planes = append(z.planes, planes)
	}
	for _, c := range Corpus() {
		if c.Size > 0 {
			continue
		}
		state, instance, in := slices.Index(States(), c.State), slices.Index(allInstances(), c.IID), c.In != nil
		d, err := Datagram{TTL: 64}, error(nil)
		pkt := c.Out
		if in {
			d, err = ParseDatagram(c.In)
			pkt = slices.Concat(d.Header[:], d.Inner)
		}
		if n := len(pkt); err == nil && n <= maxRandom+maxPad {
			short := min(n, maxRandom)
			f.Add(uint8(state), uint8(instance), in, n > short, uint8(max(0, slices.Index(outerSources, d.Src))), d.TTL, d.TOS, uint16(n-short), pkt[:short])
		}
	}
	for i, s := range States() {
		if s.Config.Miss.Hold {
			f.Add(uint8(i), uint8(0), false, false, uint8(0), uint8(64), uint8(0), uint16(0), numbered("10.100.0.1", i))
			f.Add(uint8(i), uint8(0), false, false, uint8(0), uint8(64), uint8(0), uint16(0), numbered("2001:db8:100::1", i))
		}
	}
	f.Fuzz(func(t *testing.T, state, instance uint8, in, fix bool, from, ttl, tos uint8, pad uint16, pkt []byte) {
		c := Case{Name: "random", State: States()[int(state)%len(States())], IID: allInstances()[int(instance)%len(allInstances())]}
		if len(pkt) == 0 || len(pkt) > maxRandom {
			return
		}
		pkt = slices.Concat(pkt, make([]byte, pad%(maxPad+1)))
		at := 0
		if in {
			at = min(8, len(pkt))
		}
		if fix {
			fit(pkt[at:])
		}
		if !in {
			c.Out = pkt
		} else {
			c.In = udpPacket(outerSources[int(from)%len(outerSources)], ttl, tos, pkt)
			if c.IID = 0; at == 8 && pkt[0]&0x08 != 0 {
				c.IID = binary.BigEndian.Uint32(pkt[4:]) >> 8
			}
		}
		if err := z.play(t, int(state)%len(States()), &c); err != nil {
			t.Error(err)
		}
	})
}

// Random packets have so many octets, because the fuzzer is long over large
// ones, and then so many zeros.
const (
	maxRandom = 256
	maxPad    = 2048
)

// outerSources are whom random datagrams come from.
var outerSources = []netip.Addr{Far4, Far6, Other4, Other6, addr("198.51.100.9"), addr("224.0.0.1"), addr("fe80::1"), Ours4}

func allInstances() []uint32 { return allStates().open.Instances() }

// fit gives a packet the length and the header checksum that it should have.
func fit(pkt []byte) {
	switch {
	case len(pkt) >= 20 && pkt[0]>>4 == 4 && int(pkt[0]&15)*4 <= len(pkt) && pkt[0]&15 >= 5:
		binary.BigEndian.PutUint16(pkt[2:], uint16(len(pkt)))
		sumHeader(pkt)
	case len(pkt) >= 40 && pkt[0]>>4 == 6:
		binary.BigEndian.PutUint16(pkt[4:], uint16(len(pkt)-40))
	}
}

// udpPacket is an IP packet to us with the UDP payload, whatever it is.
func udpPacket(src netip.Addr, ttl, tos uint8, payload []byte) []byte {
	dst := Ours4
	if src.Is6() {
		dst = Ours6
	}
	return Inner{Src: src, Dst: dst, SrcPort: 50000, DstPort: lispPort, TTL: ttl, NoTTL: true, TOS: tos, Payload: payload}.Bytes()
}

type fuzzer struct {
	core   []*memory // by state
	planes [][]Plane // by state, then factory
	others []Factory
	peer   *memory
}

// newPeer is the core of a site that has the EIDs of all others, and no
// mappings.
func newPeer() *memory {
	s := &State{Sources: sources(addr("192.0.2.99"), addr("2001:db8:ffff::99"))}
	m := newMemory(s)
	m.fib.SetLocal(peerEIDs())
	return m
}

func peerEIDs() (locals []dataplane.LocalEID) {
	for _, iid := range []string{"", "[7]", "[16777215]"} {
		for _, p := range []string{"10.2.0.0/15", "10.4.0.0/15", "10.6.0.0/16", "10.12.0.0/14", "2001:db8:2::/47", "2001:db8:4::/47", "2001:db8:6::/48"} {
			locals = append(locals, dataplane.LocalEID{EID: eid(iid + p)})
		}
	}
	return locals
}

// play plays a packet on the core of a state, completes the case by what came of
// it, and plays that on the other planes.
func (z *fuzzer) play(t *testing.T, state int, c *Case) error {
	m := z.core[state]
	var o Outcome
	if c.Out != nil {
		o = m.Encap(c.IID, slices.Clone(c.Out), 0)
		if o.Held > 0 {
			return z.wasHeld(state, c, o)
		}
	} else {
		o = m.Decap(c.IID, slices.Clone(c.In), 0)
	}
	if err := z.fate(c, o); err != nil {
		return err
	}
	return z.compare(state, c, o)
}

// fate looks at what the core made of a packet, and completes the case by it.
func (z *fuzzer) fate(c *Case, o Outcome) error {
	var reasons uint64
	for r, n := range o.Drops {
		c.Drop = r
		reasons += n
	}
	what := fmt.Sprintf("%d sent, %d to the host, drops %v", len(o.Sent), len(o.Host), o.Drops)
	var err error
	switch {
	case reasons > 1, reasons == 0 && len(o.Sent)+len(o.Host) == 0, reasons == 1 && len(o.Sent) > 0:
		return fmt.Errorf("not one fate: %s", what)
	case c.Out != nil && reasons == 0:
		err = z.wentOut(c, o)
	case c.Out != nil && len(o.Host) > 0:
		err = answered(c.Out, o.Host)
	case c.In != nil && reasons == 0:
		err = wentIn(c, o)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// wasHeld gives the core of a state the mapping that a packet is held for, looks at
// what comes of the packet then, and takes the mapping away again. No other plane
// may have decided, without it.
func (z *fuzzer) wasHeld(state int, c *Case, o Outcome) error {
	if o.Held != 1 || len(o.Sent)+len(o.Host)+len(o.Drops) > 0 {
		return fmt.Errorf("%d held of one, and %d sent, %d to the host, drops %v", o.Held, len(o.Sent), len(o.Host), o.Drops)
	}
	for i, p := range z.planes[state] {
		f := z.others[i]
		if f.Routes && (len(routed(c.Out)) < len(c.Out) || !belongs(state, c.IID, c.Out)) {
			continue
		}
		if got := p.Encap(c.IID, slices.Clone(c.Out), 0); got.Err != nil || got.Held != 1 && !(got.Passed && f.SlowPath) {
			return fmt.Errorf("the core holds it; but plane %d: %d sent, %d to the host, drops %v, error %v", i, len(got.Sent), len(got.Host), got.Drops, got.Err)
		}
	}
	m, dst := z.core[state], destination(c.Out)
	to := mapping.EID{IID: c.IID, Prefix: netip.PrefixFrom(dst, dst.BitLen())}
	record := &mapping.Record{EID: to, TTL: 60, Locators: []mapping.Locator{mapping.MakeLocator(Far4, 1, 100)}}
	m.Learn(mapping.CacheChange{EID: to, Record: record, Expires: m.now.Add(time.Hour)})
	o = m.outcome(c.IID)
	m.Learn(mapping.CacheChange{EID: to})
	if again := m.Rest(c.IID, 0); len(again.Sent)+len(again.Host)+len(again.Drops) > 0 {
		return fmt.Errorf("held once, it came twice: %d sent, %d to the host, drops %v", len(again.Sent), len(again.Host), again.Drops)
	}
	z.peer.fib.SetLocal(append(peerEIDs(), dataplane.LocalEID{EID: to}))
	defer z.peer.fib.SetLocal(peerEIDs())
	return z.fate(c, o)
}

// destination of a packet that the core has taken for one.
func destination(pkt []byte) netip.Addr {
	if pkt[0]>>4 == 4 {
		return netip.AddrFrom4([4]byte(pkt[16:]))
	}
	return netip.AddrFrom16([16]byte(pkt[24:]))
}

// wentOut looks at what the core made of a packet that it sent.
func (z *fuzzer) wentOut(c *Case, o Outcome) error {
	var pieces [][]byte
	for i, b := range o.Sent {
		d, err := ParseDatagram(b)
		if err != nil {
			return fmt.Errorf("packet %d: %w", i, err)
		}
		c.Sent = append(c.Sent, d)
		pieces = append(pieces, d.Inner)
		if d.Src != Ours4 && d.Src != Ours6 || d.Src.Is4() != d.Dst.Is4() {
			return fmt.Errorf("packet %d is from %v to %v", i, d.Src, d.Dst)
		}
		want := iidHeader(c.IID)
		if c.State.Config.MapVersioning { // the versions are looked at in the corpus
			want[0], want[1], want[2], want[3] = d.Header[0], d.Header[1], d.Header[2], d.Header[3]
		}
		if d.Header != want {
			return fmt.Errorf("packet %d has the LISP header %x", i, d.Header)
		}
		if c.State.Proxies.ITR != nil {
			continue // from anywhere, and so from what is the other site's here
		}
		// The other site makes the same packet of it.
		if d.Header[0]&0x10 != 0 {
			d.Header[0], d.Header[1], d.Header[2], d.Header[3] = d.Header[0]&^0x10, 0, 0, 0
		}
		back := z.peer.Decap(c.IID, d.Bytes(), 0)
		if len(back.Host) != 1 || !bytes.Equal(back.Host[0], d.Inner) {
			return fmt.Errorf("packet %d: the other site makes %x of it, drops %v", i, back.Host, back.Drops)
		}
	}
	if len(pieces) > 1 {
		return samePieces(c.Out, pieces)
	}
	if c.State.Config.MSSClamp {
		return sameButMSS(c.Out, pieces[0])
	}
	if !bytes.Equal(pieces[0], c.Out) {
		return fmt.Errorf("the inner packet was changed: %x", pieces[0])
	}
	return nil
}

// samePieces compares an IPv4 packet with its fragments.
func samePieces(pkt []byte, pieces [][]byte) error {
	hlen := int(pkt[0]&15) * 4
	word := binary.BigEndian.Uint16(pkt[6:])
	if pkt[0]>>4 != 4 || word&0x4000 != 0 {
		return fmt.Errorf("%d pieces of a packet that must not be fragmented", len(pieces))
	}
	var payload []byte
	for i, p := range pieces {
		h, w := int(p[0]&15)*4, binary.BigEndian.Uint16(p[6:])
		switch {
		case int(binary.BigEndian.Uint16(p[2:])) != len(p) || sum(p[:h]) != 0:
			return fmt.Errorf("piece %d has a wrong length or checksum", i)
		case int(w&0x1fff)*8 != int(word&0x1fff)*8+len(payload):
			return fmt.Errorf("piece %d is at %d, after %d octets", i, int(w&0x1fff)*8, len(payload))
		case w&0x2000 == 0 != (i == len(pieces)-1 && word&0x2000 == 0), w&0xc000 != word&0xc000:
			return fmt.Errorf("piece %d has the flags %#x", i, w>>13)
		case p[1] != pkt[1], !bytes.Equal(p[4:6], pkt[4:6]), !bytes.Equal(p[8:10], pkt[8:10]), !bytes.Equal(p[12:20], pkt[12:20]):
			return fmt.Errorf("piece %d has another header", i)
		case i == 0 && !bytes.Equal(p[20:h], pkt[20:hlen]), h > hlen:
			return fmt.Errorf("piece %d has other options", i)
		case i < len(pieces)-1 && (len(p)-h)%8 != 0:
			return fmt.Errorf("piece %d has %d octets", i, len(p)-h)
		}
		payload = append(payload, p[h:]...)
	}
	if !bytes.Equal(payload, pkt[hlen:]) {
		return fmt.Errorf("the pieces are not the packet")
	}
	return nil
}

// sameButMSS compares packets of which the second may have a smaller maximum
// segment size, and so another TCP checksum, which is right if it was.
func sameButMSS(was, is []byte) error {
	if bytes.Equal(was, is) {
		return nil
	}
	if len(was) != len(is) {
		return fmt.Errorf("the length was changed to %d", len(is))
	}
	at, n := -1, 0
	for i := range was {
		if was[i] != is[i] {
			if at < 0 {
				at = i
			}
			n++
		}
	}
	// The checksum and one option: 2 octets each, but options may be repeated.
	if at < 20+16 || n > 2+2*10 {
		return fmt.Errorf("%d octets were changed, from %d on", n, at)
	}
	// Both have the same sum over everything behind the addresses.
	if a, b := sum(was[20:]), sum(is[20:]); a != b && a^b != 0xffff {
		return fmt.Errorf("the TCP checksum does not fit: %#x, was %#x", b, a)
	}
	return nil
}

// wentIn looks at what the core made of a datagram that it took.
func wentIn(c *Case, o Outcome) error {
	c.Host = o.Host
	if len(o.Host) != 1 {
		return fmt.Errorf("%d packets of one", len(o.Host))
	}
	d, _ := ParseDatagram(c.In)
	got, was := o.Host[0], slices.Clone(d.Inner)
	if c.State.Config.MSSClamp && len(got) == len(was) {
		h := 40
		if was[0]>>4 == 4 {
			h = int(was[0]&15) * 4
		}
		if err := sameButMSS(slices.Concat(make([]byte, 20), was[h:]), slices.Concat(make([]byte, 20), got[h:])); err != nil {
			return err
		}
		copy(was[h:], got[h:])
	}
	ecn := func(inner uint8) uint8 {
		if want := decapECN[inner&3][d.TOS&3]; want != ecnDrop {
			return d.TOS&^3 | want
		}
		return 0xff // had to be dropped
	}
	if was[0]>>4 == 4 {
		right := sum(was[:int(was[0]&15)*4]) == 0
		was[1], was[8] = ecn(was[1]), min(was[8], d.TTL)
		if right {
			sumHeader(was)
		} else if sum(got[:int(got[0]&15)*4]) == 0 && !bytes.Equal(was, got) {
			return fmt.Errorf("a wrong checksum became right")
		} else {
			copy(was[10:12], got[10:12])
		}
	} else {
		class := ecn(was[0]<<4 | was[1]>>4)
		was[0], was[1] = was[0]&0xf0|class>>4, was[1]&0x0f|class<<4
		was[7] = min(was[7], d.TTL)
	}
	if !bytes.Equal(got, was) {
		return fmt.Errorf("it became\n%x\nwant\n%x", got, was)
	}
	return nil
}

// answered looks at the ICMP message about a packet.
func answered(pkt []byte, host [][]byte) error {
	if len(host) != 1 {
		return fmt.Errorf("%d messages", len(host))
	}
	m := host[0]
	src, ok := source(pkt)
	if !ok {
		return fmt.Errorf("an answer to no packet")
	}
	from, _ := source(m)
	h, proto := 20, byte(ICMP)
	to := netip.AddrFrom4([4]byte(m[16:]))
	if m[0]>>4 == 6 {
		h, proto, to = 40, m[6], netip.AddrFrom16([16]byte(m[24:]))
	}
	switch {
	case to != src || from.Is4() != src.Is4() || proto == 0:
		return fmt.Errorf("a message from %v to %v", from, to)
	case src.Is4() && (sum(m[:20]) != 0 || sum(m[20:]) != 0), src.Is6() && sumTransport(from, to, ICMPv6, m[h:]) != 0:
		return fmt.Errorf("a message with a wrong checksum: %x", m)
	case !bytes.HasPrefix(pkt, m[h+8:]):
		return fmt.Errorf("a message about another packet: %x", m)
	}
	return nil
}

// compare plays a case, which is what the core made of a packet, on the other
// planes.
func (z *fuzzer) compare(state int, c *Case, o Outcome) error {
	for i, p := range z.planes[state] {
		f, c := z.others[i], *c
		if f.Routes {
			// What a router hands to the core, or gets from it, is another packet.
			switch pkt := routed(c.Out); {
			case c.In != nil:
				if len(o.Host) > 0 && routed(o.Host[0]) == nil {
					c.Around = Stopped
				}
			case pkt == nil:
				c.Around = Stopped
			case len(pkt) < len(c.Out):
				c.Around = Changed
			case !belongs(state, c.IID, pkt):
				continue
			}
		}
		play, pkt := p.Encap, c.Out
		if c.In != nil {
			play, pkt = p.Decap, withoutSum(c.In)
		}
		for _, when := range []string{"", " the second time"} { // when it may remember
			if err := c.check(f, play(c.IID, slices.Clone(pkt), 0)); err != nil {
				return fmt.Errorf("the core: %d sent, %d to the host, drops %v; but plane %d%s: %w", len(o.Sent), len(o.Host), o.Drops, i, when, err)
			}
		}
	}
	return nil
}

// belongs reports whether a router takes a packet for one of the instance, which
// it does by the source.
func belongs(state int, iid uint32, pkt []byte) bool {
	src, _ := source(pkt)
	for _, l := range States()[state].Locals() {
		if l.EID.Prefix.Contains(src) {
			return l.EID.IID == iid
		}
	}
	return true
}

// routed returns the part of a packet that a router forwards; nil when it does
// not.
func routed(pkt []byte) []byte {
	switch {
	case len(pkt) >= 20 && pkt[0]>>4 == 4:
		hlen, n := int(pkt[0]&15)*4, int(binary.BigEndian.Uint16(pkt[2:]))
		if hlen < 20 || n < hlen || n > len(pkt) || sum(pkt[:hlen]) != 0 || pkt[8] <= 1 {
			return nil
		}
		return pkt[:n]
	case len(pkt) >= 40 && pkt[0]>>4 == 6:
		n := 40 + int(binary.BigEndian.Uint16(pkt[4:]))
		if n > len(pkt) || pkt[7] <= 1 {
			return nil
		}
		return pkt[:n]
	}
	return nil
}
