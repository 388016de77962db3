package dptest

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/eidolon-lisp/eidolon/dataplane"
)

// outSuper: super-packets of hosts go out as one, or as the packets that they
// stand for.
func (b *builder) outSuper() {
	sends := func(name string, c Case, rloc netip.Addr, p Inner, n, size int) {
		var list [][]byte
		c.Name, c.Size = "super-packet: "+name, size
		c.Out, list = super(p, n, size)
		for _, s := range list {
			c.Sent = append(c.Sent, over(rloc, c.IID, s))
		}
		b.add(c)
	}
	for _, proto := range []uint8{TCP, UDP} {
		kind := map[uint8]string{TCP: "TCP", UDP: "UDP"}[proto]
		with := func(p Inner) Inner {
			p.Proto, p.DF, p.ID, p.Seq, p.TTL, p.TOS = proto, true, 0xfff8, 0xfffff000, 33, 0x2a
			return p
		}
		for _, f := range []struct {
			name string
			iid  uint32
			p    Inner
			rloc netip.Addr
		}{
			{"IPv4 over IPv4", 0, out4(0), Far4}, {"IPv6 over IPv4", 0, out6(0), Far4},
			{"IPv4 over IPv6", 0, out4(0).to("10.3.0.1"), Far6}, {"IPv6 over IPv6", 0, out6(0).to("2001:db8:3::1"), Far6},
			{"IPv4 over IPv4, instance 7", Red, out4(0).from("10.7.0.1"), Other4},
			{"IPv6 over IPv6, the last instance", Last, out6(0).from("2001:db8:9::1"), Far6},
		} {
			sends(kind+", "+f.name, Case{IID: f.iid, Whole: true}, f.rloc, with(f.p), 12*1200+500, 1200)
			// What fits the path of 1500 octets to the last one.
			size := MTU - 36 - 40
			if f.rloc.Is6() {
				size -= 20
			}
			if f.p.Src.Is6() {
				size -= 20
			}
			if proto == UDP {
				size += 12
			}
			sends(kind+", that just fits, "+f.name, Case{IID: f.iid, Whole: true}, f.rloc, with(f.p), 5*size, size)
		}
		sends(kind+", two segments", Case{Whole: true}, Far4, with(out4(0)), 1000, 999)
		sends(kind+", IPv4 without DF", Case{Whole: true}, Far4, with(out4(0)).with(func(p *Inner) { p.DF = false }), 7000, 1400)
		sends(kind+", of 120 segments", Case{}, Far6, with(out6(0)).to("2001:db8:3::1"), 120*500, 500)
		// Links take packets of less than 64 KiB, Ethernet header included. With
		// the outer headers these are too large for a link, and those for IP.
		large := func(n int, p Inner) int {
			n -= 20 + 20
			if p.Src.Is6() {
				n -= 20
			}
			if proto == UDP {
				n += 12
			}
			return n
		}
		sends(kind+", too large to leave in one", Case{}, Far4, with(out4(0)), large(65490, out4(0)), 1424)
		sends(kind+", the largest of IPv4", Case{}, Far4, with(out4(0)), large(65521, out4(0)), 1424)
		sends(kind+", the largest of IPv4 over IPv6", Case{}, Far6, with(out4(0)).to("10.3.0.1"), large(65521, out4(0)), 1400)
		sends(kind+", the largest of IPv6", Case{}, Far4, with(out6(0)), large(65521, out6(0)), 1400)

		// Larger than the path: of each of the packets what would be without
		// offloads, and one message to the host.
		refused := func(name string, p Inner, n, size, mtu int, why dataplane.DropReason, around Around) {
			c := Case{Name: "super-packet: " + kind + ", " + name, Size: size, Drop: why, Around: around}
			var list [][]byte
			c.Out, list = super(with(p), n, size)
			c.Count = uint64(len(list))
			switch {
			case why == dataplane.DropNegative && p.Src.Is4():
				c.Host = [][]byte{icmpError(list[0], 3, 0, 0)}
			case why == dataplane.DropTooBig && p.Src.Is4():
				c.Host = [][]byte{icmpError(list[0], 3, 4, uint32(mtu))}
			case why == dataplane.DropTooBig:
				c.Host = [][]byte{icmpError(list[0], 2, 0, uint32(mtu))}
			}
			b.add(c)
		}
		refused("IPv4 too big for a small path", out4(0).to("10.6.4.1"), 6000, 1000, SmallMTU4-36, dataplane.DropTooBig, Forwarded)
		refused("IPv4 too big for a small IPv6 path", out4(0).to("10.6.6.1"), 5*1220, 1220, SmallMTU6-56, dataplane.DropTooBig, Forwarded)
		refused("IPv6 too big for a small path", out6(0).to("2001:db8:6:4::1"), 4*1240, 1240, 1280, dataplane.DropTooBig, Forwarded)
		refused("IPv6 too big for IPv6", out6(0).to("2001:db8:3::1"), 4*1400, 1400, MTU-56, dataplane.DropTooBig, Forwarded)
		refused("too big for any path", out4(0), 4*1440, 1440, MTU-36, dataplane.DropTooBig, Stopped)
		refused("of a mapping that says drop", out4(0).to("10.4.3.1"), 5000, 1000, 0, dataplane.DropNegative, Forwarded)
		refused("without a mapping", out6(0).to("2001:db8:100::1"), 5000, 1000, 0, dataplane.DropNoMapping, Forwarded)

		// A last one that is small enough goes on.
		c := Case{Name: "super-packet: " + kind + ", of which the last fits", Size: 1000, Drop: dataplane.DropTooBig, Count: 3}
		var list [][]byte
		c.Out, list = super(with(out4(0).to("10.6.4.1")), 3400, 1000)
		c.Host, c.Sent = [][]byte{icmpError(list[0], 3, 4, SmallMTU4-36)}, []Datagram{over(Small4, 0, list[3])}
		b.add(c)
		// Without DF each is split, with IPv6 of the smallest MTU what is outside.
		c = Case{Name: "super-packet: " + kind + ", IPv4 split for a small path", Size: 1016}
		c.Out, list = super(with(out4(0).to("10.6.4.1")).with(func(p *Inner) { p.DF = false }), 3*1016, 1016)
		for _, s := range list {
			for _, piece := range halves(s) {
				c.Sent = append(c.Sent, over(Small4, 0, piece))
			}
		}
		b.add(c)
		c = Case{Name: "super-packet: " + kind + ", IPv6 of 1280 octets over a smaller path", Size: 1280 - 60}
		if proto == UDP {
			c.Size += 12
		}
		c.Out, list = super(with(out6(0).to("2001:db8:6:4::1")), 3*c.Size, c.Size)
		for _, s := range list {
			d := over(Small4, 0, s)
			d.Fragmentable = true
			c.Sent = append(c.Sent, d)
		}
		b.add(c)
	}
}

// halves returns the two fragments of an IPv4 packet, of about equal size.
func halves(pkt []byte) [][]byte {
	n := (len(pkt) - 20 + 1) / 2
	n = (n + 7) &^ 7
	first, second := slices.Clone(pkt[:20+n]), slices.Concat(pkt[:20], pkt[20+n:])
	first, second = resum(first, 2, byte(len(first)>>8), byte(len(first))), resum(second, 2, byte(len(second)>>8), byte(len(second)))
	return [][]byte{resum(first, 6, 0x20|byte(0), 0), resum(second, 6, byte(n/8>>8), byte(n/8))}
}

// inSuper: datagrams that a tunnel router sends at once may come as one large
// one, which holds LISP packet after LISP packet.
func (b *builder) inSuper() {
	train := func(rloc netip.Addr, iid uint32, pkts ...[]byte) (d Datagram, size int) {
		d = from(rloc, iid, pkts[0])
		for _, p := range pkts[1:] {
			d.Inner = slices.Concat(d.Inner, d.Header[:], p)
		}
		return d, 8 + len(pkts[0])
	}
	for _, c := range []struct {
		name string
		iid  uint32
		rloc netip.Addr
		p    Inner
	}{
		{"IPv4 in IPv4", 0, Far4, in4(0)}, {"IPv6 in IPv4", 0, Far4, in6(0)},
		{"IPv4 in IPv6", 0, Far6, in4(0).from("10.3.0.1")}, {"IPv6 in IPv6", 0, Far6, in6(0).from("2001:db8:3::1")},
		{"IPv4 in IPv4, instance 7", Red, Other4, in4(0).to("10.7.0.1")},
	} {
		for _, proto := range []uint8{TCP, UDP} {
			p := c.p.with(func(p *Inner) {
				p.Proto, p.DF, p.ID, p.Seq, p.TOS, p.Flags = proto, true, 0xfffe, 0xffffff00, 0x2a, 0x10
			})
			_, list := super(p, 11*1200+77, 1200)
			d, size := train(c.rloc, c.iid, list...)
			b.add(Case{Name: fmt.Sprintf("in: super-packet of protocol %d, %s", proto, c.name), IID: c.iid, In: d.Bytes(), Size: size, Host: list, Whole: true})
		}
	}
	// Each packet in it is judged by itself.
	good, other := in4(100), in4(100).with(func(p *Inner) { p.SrcPort = 81 })
	bad := patch(good.Bytes(), 0, 0x55)
	d, size := train(Far4, 0, good.Bytes(), bad, other.Bytes(), good.Bytes(), good.to("10.99.0.1").Bytes(), other.Bytes())
	b.add(Case{Name: "in: super-packet of several flows, with what must be dropped", In: d.Bytes(), Size: size,
		Drop: dataplane.DropInnerVersion, MayDrop: dataplane.DropDestinationNotLocal, Host: [][]byte{good.Bytes(), other.Bytes(), good.Bytes(), other.Bytes()}})
}
