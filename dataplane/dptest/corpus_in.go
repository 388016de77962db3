package dptest

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/eidolon-lisp/eidolon/dataplane"
)

// takes adds the case that the datagram is taken and want reaches the host.
func (b *builder) takes(name string, iid uint32, d Datagram, want []byte) {
	b.add(Case{Name: "in: " + name, IID: iid, In: d.Bytes(), Host: [][]byte{want}})
}

// rejects adds the case that the datagram is dropped.
func (b *builder) rejects(name string, why dataplane.DropReason, d Datagram) {
	b.add(Case{Name: "in: " + name, In: d.Bytes(), Drop: why})
}

// lisp is the usual datagram with p inside; with TTL 64 inside and outside
// nothing of p has to change.
func lisp(p Inner) Datagram { return from(Far4, 0, p.Bytes()) }

// header returns d with another LISP header.
func (d Datagram) header(h ...byte) Datagram { copy(d.Header[:], h); return d }

func (b *builder) inGood() {
	for _, c := range []struct {
		name string
		iid  uint32
		rloc netip.Addr
		p    Inner
	}{
		{"IPv4 in IPv4", 0, Far4, in4(100)},
		{"IPv6 in IPv4", 0, Far4, in6(100)},
		{"IPv4 in IPv6", 0, Far6, in4(100).from("10.3.0.1")},
		{"IPv6 in IPv6", 0, Far6, in6(100).from("2001:db8:3::1")},
		{"IPv4 in IPv4, instance 7", Red, Other4, in4(100).to("10.7.0.1")},
		{"IPv6 in IPv6, instance 7", Red, Other6, in6(100).to("2001:db8:7::1")},
		{"IPv4 in IPv4, the last instance", Last, Far4, in4(100).to("10.9.0.1")},
		{"IPv6 in IPv6, the last instance", Last, Far6, in6(100).to("2001:db8:9::1")},
	} {
		pkt := c.p.with(func(p *Inner) { p.TOS, p.ID = 0xb8, 0x1234 }).Bytes()
		b.takes(c.name, c.iid, from(c.rloc, c.iid, pkt), pkt)
	}
	// The TTL is lowered to that outside and never raised, DSCP is that
	// outside (RFC 9300 section 5.3).
	for _, c := range []struct{ inner, outer, want uint8 }{
		{64, 60, 60}, {10, 200, 10}, {255, 255, 255}, {255, 2, 2}, {2, 255, 2}, {64, 1, 1}, {1, 64, 1},
	} {
		for _, p := range []Inner{in4(8), in6(8)} {
			p.TTL = c.inner
			d := lisp(p)
			d.TTL = c.outer
			p.TTL = c.want
			b.add(Case{Name: fmt.Sprintf("in: TTL %d in %d, %s", c.inner, c.outer, family(p)), In: d.Bytes(), Host: [][]byte{p.Bytes()}, Around: stoppedIf(c.want == 1)})
		}
	}
	for _, p := range []Inner{in4(8), in6(8)} {
		d := lisp(p)
		d.TTL = 0
		b.add(Case{Name: "in: TTL 0 outside, " + family(p), In: d.Bytes(), Drop: dataplane.DropTTLExpired})
		p.NoTTL, p.TTL = true, 0
		d = lisp(p)
		d.TTL = 64
		b.rejects("TTL 0 inside, "+family(p), dataplane.DropTTLExpired, d)
		for _, dscp := range []uint8{0, 0xb8, 0xfc} {
			p.TTL, p.TOS = 64, 0x28
			d := lisp(p)
			d.TOS, p.TOS = dscp, dscp
			b.takes(fmt.Sprintf("DSCP 0x28 in %#x, %s", dscp, family(p)), 0, d, p.Bytes())
		}
	}
}

func stoppedIf(yes bool) Around {
	if yes {
		return Stopped
	}
	return Forwarded
}

// inHeaders: the bits of the LISP header (RFC 9300 section 5.3).
func (b *builder) inHeaders() {
	pkt := in4(20).Bytes()
	d := from(Far4, 0, pkt)
	for _, c := range []struct {
		name string
		h    []byte
	}{
		{"nonce", []byte{0x80, 1, 2, 3}},
		{"nonce and echo request", []byte{0xa0, 1, 2, 3}},
		{"E without N", []byte{0x20, 1, 2, 3}},
		{"N with V, which is a nonce", []byte{0x90, 1, 2, 3}},
		{"N with V and E", []byte{0xb0, 1, 2, 3}},
		{"status bits", []byte{0x40, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}},
		{"a nonce field without N", []byte{0, 1, 2, 3}},
		{"a status field without L", []byte{0, 0, 0, 0, 1, 2, 3, 4}},
		{"R bit", []byte{0x04}},
		{"all bits but V, I and the key", []byte{0xe4, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}},
		{"instance 0, said", []byte{0x08}},
		{"instance 0 with status bits", []byte{0x48, 0, 0, 0, 0, 0, 0, 0xff}},
	} {
		b.takes(c.name, 0, d.header(c.h...), pkt)
	}
	seven := in4(20).to("10.7.0.1").Bytes()
	b.takes("instance 7 with everything", Red, from(Far4, Red, seven).header(0xec, 9, 9, 9, 0, 0, 7, 0xff), seven)
	for key := range 3 {
		b.rejects(fmt.Sprintf("key-id %d", key+1), dataplane.DropEncrypted, d.header(byte(key+1)))
	}
	b.rejects("all bits", dataplane.DropEncrypted, d.header(0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff))
	b.rejects("V, and mappings have no version", dataplane.DropMapVersion, d.header(0x10, 0, 0x30, 5))
	b.rejects("V with null versions", dataplane.DropMapVersion, d.header(0x10))
	b.rejects("an unknown instance", dataplane.DropUnknownInstance, from(Far4, 8, pkt))
	b.rejects("an instance that differs in its first bit", dataplane.DropUnknownInstance, d.header(8, 0, 0, 0, 0x80, 0, 7, 0))
	b.rejects("another instance than the destination's", dataplane.DropDestinationNotLocal, from(Far4, Red, pkt))
	b.rejects("the destination's instance left out", dataplane.DropDestinationNotLocal, from(Far4, 0, seven))
	for n := range 8 {
		short := Inner{Src: Far4, Dst: Ours4, DstPort: lispPort, SrcPort: 50000, Payload: make([]byte, n)}.Bytes()
		b.add(Case{Name: fmt.Sprintf("in: %d octets of LISP header", n), In: short, Drop: dataplane.DropOuterTruncated})
	}
}

func (b *builder) inInner() {
	four, six := in4(40), in6(40)
	reject := func(name string, why dataplane.DropReason, pkt []byte) {
		b.rejects(name, why, Datagram{Src: Far4, Dst: Ours4, TTL: 64, Inner: pkt})
	}
	take := func(name string, p Inner) { pkt := p.Bytes(); b.takes(name, 0, lisp(p), pkt) }
	reject("no inner packet", dataplane.DropInnerTruncated, nil)
	reject("one octet", dataplane.DropInnerTruncated, []byte{0x45})
	reject("one octet of version 5", dataplane.DropInnerVersion, []byte{0x50})
	reject("version 0, as Ethernet would be", dataplane.DropInnerVersion, append(make([]byte, 12), 8, 0))
	reject("version 5", dataplane.DropInnerVersion, patch(four.Bytes(), 0, 0x55))
	reject("version 15", dataplane.DropInnerVersion, patch(six.Bytes(), 0, 0xf0))
	reject("19 octets of IPv4", dataplane.DropInnerTruncated, four.Bytes()[:19])
	reject("39 octets of IPv6", dataplane.DropInnerTruncated, six.Bytes()[:39])
	reject("IPv4 header length 4", dataplane.DropInnerHeader, resum4(four.Bytes(), 0x44))
	reject("IPv4 header longer than its packet", dataplane.DropInnerHeader, resum4(in4(0).Bytes(), 0x4f))
	reject("IPv4 header longer than what is there", dataplane.DropInnerTruncated, resum(patch(four.Bytes(), 0, 0x4f), 2, 0, 60)[:40])
	reject("IPv4 shorter than its length", dataplane.DropInnerTruncated, resum(four.Bytes(), 2, 0, 69))
	reject("IPv4 much shorter than its length", dataplane.DropInnerTruncated, resum(four.Bytes(), 2, 0xff, 0xff))
	reject("IPv4 longer than its length", dataplane.DropInnerTrailing, resum(four.Bytes(), 2, 0, 67))
	reject("IPv4 length 0", dataplane.DropInnerHeader, resum(four.Bytes(), 2, 0, 0))
	reject("IPv6 shorter than its length", dataplane.DropInnerTruncated, patch(six.Bytes(), 4, 0, 49))
	reject("IPv6 longer than its length", dataplane.DropInnerTrailing, patch(six.Bytes(), 4, 0, 47))
	reject("two LISP packets in one", dataplane.DropInnerTrailing, slices.Concat(four.Bytes(), make([]byte, 8), four.Bytes()))
	reject("padding", dataplane.DropInnerTrailing, append(in4(0).Bytes(), make([]byte, 18)...))

	take("nothing behind the IPv4 header", four.with(func(p *Inner) { p.Raw, p.Payload = true, nil }))
	take("nothing behind the IPv6 header", six.with(func(p *Inner) { p.Raw, p.Payload = true, nil }))
	take("half of a TCP header", four.with(func(p *Inner) { p.Proto, p.Raw, p.Payload = TCP, true, make([]byte, 12) }))
	take("SCTP", six.with(func(p *Inner) { p.Proto = 132 }))
	take("ping", four.with(func(p *Inner) { p.Proto, p.Payload = ICMP, []byte{0, 0, 0xff, 0xff, 0, 0, 0, 0} }))
	take("ICMP error", four.with(func(p *Inner) {
		p.Proto, p.Payload = ICMP, slices.Concat([]byte{3, 4, 0, 0, 0, 0, 5, 0x78}, out4(0).Bytes())
	}))
	take("IPv4 in IPv4 in LISP", four.with(func(p *Inner) { p.Proto, p.Payload = 4, in4(8).Bytes() }))
	take("first fragment", four.with(func(p *Inner) { p.MF, p.ID = true, 9 }))
	take("last fragment", four.with(func(p *Inner) { p.ID, p.Offset = 9, 1400 }))
	take("IPv6 fragment", six.with(func(p *Inner) { p.Next, p.Extensions = 44, []byte{UDP, 0, 0, 1, 0, 0, 0, 9} }))
	take("destination options", six.with(func(p *Inner) { p.Next, p.Extensions = 60, []byte{UDP, 0, 1, 4, 0, 0, 0, 0} }))
	take("flow label", six.with(func(p *Inner) { p.Label = 0xabcde }))
	take("no-operation options", four.with(func(p *Inner) { p.Options = []byte{1, 1, 1, 0} }))
	take("large", in4(1400-28))
	take("large, IPv6", in6(1400-48))
	// Jumbo: more than a usual link takes, as fragments brought it.
	for _, p := range []Inner{in4(8000), in6(8000), in4(65507 - 8 - 28)} {
		b.takes(fmt.Sprintf("%d octets, %s", len(p.Bytes()), family(p)), 0, lisp(p), p.Bytes())
	}
	// A tunnel to us inside a tunnel is a packet to our locator, which is no
	// EID; one between hosts is a packet like others.
	again := Datagram{Src: Far4, Dst: Ours4, TTL: 64, Inner: lisp(four).Bytes()}
	b.rejects("LISP to us in LISP", dataplane.DropDestinationNotLocal, again)
	hosts := Datagram{Src: addr("10.2.0.1"), Dst: addr("10.1.0.1"), TTL: 64, Inner: four.Bytes()}
	b.takes("LISP between hosts in LISP", 0, from(Far4, 0, hosts.Bytes()), hosts.Bytes())
	wrong := patch(four.Bytes(), 10, 0xde, 0xad)
	b.add(Case{Name: "in: wrong IPv4 header checksum", In: from(Far4, 0, wrong).Bytes(), Host: [][]byte{wrong}, Around: Stopped})
	sums := patch(four.Bytes(), 26, 0xde, 0xad)
	b.takes("wrong UDP checksum inside", 0, from(Far4, 0, sums), sums)
	sums = patch(six.Bytes(), 46, 0, 0)
	b.takes("zero UDP checksum inside", 0, from(Far4, 0, sums), sums)
}

func (b *builder) inAddresses() {
	reject := func(name string, why dataplane.DropReason, p Inner) { b.rejects(name, why, lisp(p)) }
	for _, a := range []string{"224.0.0.1", "239.1.1.1", "ff02::1", "ff0e::1"} {
		p := in4(8)
		if addr(a).Is6() {
			p = in6(8)
		}
		reject("to "+a, dataplane.DropMulticast, p.to(a))
		reject("from "+a, dataplane.DropMulticast, p.from(a))
	}
	for _, a := range []string{"0.0.0.0", "0.1.2.3", "127.0.0.1", "169.254.1.1", "240.0.0.1", "255.255.255.255", "::", "::1", "fe80::1"} {
		p := in4(8)
		if addr(a).Is6() {
			p = in6(8)
		}
		reject("to "+a, dataplane.DropNotRoutable, p.to(a))
		reject("from "+a, dataplane.DropNotRoutable, p.from(a))
	}
	reject("to no EID", dataplane.DropDestinationNotLocal, in4(8).to("10.200.0.1"))
	reject("to no EID, IPv6", dataplane.DropDestinationNotLocal, in6(8).to("2001:db8:200::1"))
	reject("to an EID of another site", dataplane.DropDestinationNotLocal, in4(8).to("10.3.0.1"))
	reject("from an EID of the site", dataplane.DropSourceLocal, in4(8).from("10.1.0.9"))
	reject("from an EID of the site, IPv6", dataplane.DropSourceLocal, in6(8).from("2001:db8:1::9"))
	reject("from the destination itself", dataplane.DropSourceLocal, in4(8).from("10.1.0.1"))
	b.takes("from a site that nobody knows", 0, lisp(in4(8).from("10.100.0.1")), in4(8).from("10.100.0.1").Bytes())
	b.takes("from our EID of another instance", 0, lisp(in4(8).from("10.7.0.1")), in4(8).from("10.7.0.1").Bytes())

	// The outer source. What a kernel takes for a martian does not reach a
	// plane behind it.
	for _, a := range []string{"224.0.0.1", "0.0.0.0", "127.0.0.1", "240.0.0.1", "255.255.255.255", "192.0.2.1", "ff0e::1", "::", "::1", "fe80::99", "2001:db8:ffff::1"} {
		d := lisp(in4(8))
		d.Src = addr(a)
		if d.Src.Is6() {
			d.Dst = Ours6
		}
		b.add(Case{Name: "in: outer source " + a, In: d.Bytes(), Drop: dataplane.DropOuterSource, Around: Martian})
	}
	d := lisp(in4(8))
	d.Src = addr("169.254.1.1")
	b.rejects("outer source 169.254.1.1", dataplane.DropOuterSource, d)
}

// decapECN is the table of RFC 6040 section 4.2 as [inner][outer], in the order
// Not-ECT, ECT(1), ECT(0), CE of the values.
var decapECN = [4][4]uint8{
	{0, 0, 0, ecnDrop},
	{1, 1, 1, 3},
	{2, 1, 2, 3},
	{3, 3, 3, 3},
}

const ecnDrop = 4

// inECN: each of the 16 pairs, for each pair of families.
func (b *builder) inECN() {
	for inner := range 4 {
		for outer := range 4 {
			for _, rloc := range []netip.Addr{Far4, Far6} {
				for _, p := range []Inner{in4(8), in6(8)} {
					if rloc.Is6() {
						p.Src = map[bool]netip.Addr{true: addr("10.3.0.1"), false: addr("2001:db8:3::1")}[p.Src.Is4()]
					}
					p.TOS = 0x28 | uint8(inner)
					d := from(rloc, 0, p.Bytes())
					d.TOS = 0x28 | uint8(outer)
					name := fmt.Sprintf("%s in %s, %s in %s", ecnNames[inner], ecnNames[outer], family(p), family(Inner{Src: rloc}))
					if want := decapECN[inner][outer]; want == ecnDrop {
						b.rejects(name, dataplane.DropCongestion, d)
					} else {
						p.TOS = 0x28 | want
						b.takes(name, 0, d, p.Bytes())
					}
				}
			}
		}
	}
}

// inSources: the outer source beside the mapping of the inner one.
func (b *builder) inSources() {
	listed := func(p Inner) Datagram { return lisp(p) }
	unlisted := func(p Inner) Datagram { return from(addr("198.51.100.9"), 0, p.Bytes()) }
	s := allStates()
	defer func() { b.state = s.open }()
	taken := func(name string, d Datagram) { b.takes(name, 0, d, d.Inner) }
	known, stranger, negative := in4(8), in4(8).from("10.100.0.1"), in4(8).from("10.4.3.1")
	expired, late := in4(8).from("10.2.8.1"), in4(8).from("10.14.0.1")

	b.state = s.open
	taken("unlisted, unchecked", unlisted(known))
	taken("unlisted for long, unchecked", unlisted(late))
	b.state = s.loose
	taken("listed, loose", listed(known))
	taken("listed, loose, IPv6", listed(in6(8)))
	taken("unlisted just now, loose", unlisted(known))
	b.rejects("unlisted by a later mapping, loose", dataplane.DropSourceUnlisted, unlisted(late))
	taken("no mapping, loose", unlisted(stranger))
	taken("negative mapping, loose", unlisted(negative))
	taken("expired mapping, loose", unlisted(expired))
	b.state = s.strict
	taken("listed, strict", listed(known))
	taken("listed, strict, IPv6", listed(in6(8)))
	taken("listed in a mapping of priority 255, strict", listed(in4(8).from("10.5.5.1")))
	b.rejects("unlisted, strict", dataplane.DropSourceUnlisted, unlisted(known))
	b.rejects("unlisted by a later mapping, strict", dataplane.DropSourceUnlisted, unlisted(late))
	b.rejects("listed for the less specific only, strict", dataplane.DropSourceUnlisted, listed(in4(8).from("10.2.9.1")))
	b.rejects("no mapping, strict", dataplane.DropSourceNoMapping, listed(stranger))
	b.rejects("no mapping, strict, IPv6", dataplane.DropSourceNoMapping, listed(in6(8).from("2001:db8:100::1")))
	b.rejects("negative mapping, strict", dataplane.DropSourceNoMapping, listed(negative))
	b.rejects("expired mapping, strict", dataplane.DropSourceNoMapping, listed(expired))
	b.rejects("V comes after the check of nothing", dataplane.DropMapVersion, listed(stranger).header(0x10, 0, 0x30, 5))
}

// inVersions: RFC 9302 section 7. Ours is 5, theirs 3.
func (b *builder) inVersions() {
	b.state = allStates().versions
	defer func() { b.state = allStates().open }()
	with := func(p Inner, src, dst int) Datagram {
		return lisp(p).header(0x10, byte(src>>4), byte(src<<4|dst>>8), byte(dst))
	}
	taken := func(name string, d Datagram) { b.takes(name, 0, d, d.Inner) }
	p := in4(8)
	taken("no versions", lisp(p))
	taken("the right versions", with(p, 3, 5))
	taken("a null source version", with(p, 0, 5))
	taken("a newer source version", with(p, 4, 5))
	taken("an older destination version", with(p, 3, 4))
	taken("the oldest destination version", with(p, 3, 5+2049))
	taken("N and V", with(p, 9, 9).header(0x90))
	b.rejects("a newer destination version", dataplane.DropVersionNewer, with(p, 3, 6))
	b.rejects("the newest destination version", dataplane.DropVersionNewer, with(p, 3, 5+2048))
	b.rejects("an older source version", dataplane.DropVersionOld, with(p, 2, 5))
	b.rejects("a null destination version", dataplane.DropMapVersion, with(p, 3, 0))
	b.rejects("versions of a mapping that has none", dataplane.DropMapVersion, with(p.to("10.11.0.1"), 3, 5))
	taken("the source has no mapping", with(p.from("10.100.0.1"), 99, 5))
	taken("the source has a mapping without version", with(p.from("10.13.0.1"), 99, 5))

	sent := func(name string, p Inner, h ...byte) {
		d := over(Far4, 0, p.Bytes()).header(h...)
		b.add(Case{Name: name, Out: p.Bytes(), Sent: []Datagram{d}})
	}
	sent("versions", out4(8), 0x10, 0, 0x50, 3)
	sent("versions, IPv6", out6(8), 0x10, 0, 0x50, 3)
	sent("no version of the own mapping", out4(8).from("10.11.0.1"))
	sent("no version of the other mapping", out4(8).to("10.13.0.1"))
	pkt := out4(8).from("10.7.0.1").Bytes()
	b.add(Case{Name: "versions in instance 7", IID: Red, Out: pkt, Sent: []Datagram{over(Other4, Red, pkt).header(0x18, 0, 0x50, 3)}})
}

func (b *builder) inMSS() {
	pkt := syn(in4(0), 1460)
	b.takes("SYN without clamp", 0, from(Far4, 0, pkt), pkt)
	b.state = allStates().clamp
	defer func() { b.state = allStates().open }()
	b.takes("SYN", 0, from(Far4, 0, pkt), syn(in4(0), 1424))
	b.takes("SYN, IPv6", 0, from(Far4, 0, syn(in6(0), 1440)), syn(in6(0), 1404))
	b.takes("SYN of a site whose path is small", 0, from(Small4, 0, syn(in4(0).from("10.6.4.1"), 1460)), syn(in4(0).from("10.6.4.1"), 924))
	b.takes("SYN of a site without mapping", 0, from(Far6, 0, syn(in4(0).from("10.100.0.1"), 1460)), syn(in4(0).from("10.100.0.1"), 1404))
	small := syn(in4(0), 536)
	b.takes("SYN that is small enough", 0, from(Far4, 0, small), small)
}

func (b *builder) inProxy() {
	b.state = allStates().proxy
	defer func() { b.state = allStates().open }()
	out := in4(8).to("203.0.113.1")
	b.takes("from a site to the Internet", 0, lisp(out), out.Bytes())
	b.takes("from a site to ours", 0, lisp(in4(8)), in4(8).Bytes())
	b.rejects("from elsewhere to the Internet", dataplane.DropProxySource, lisp(out.from("10.100.0.1")))
	b.rejects("from a site to a site", dataplane.DropProxyLoop, lisp(out.to("10.3.0.1")))
	b.rejects("from a site to what is attracted", dataplane.DropProxyLoop, lisp(out.to("10.4.0.1")))
	b.rejects("instance 7 is no proxy", dataplane.DropDestinationNotLocal, from(Far4, Red, out.Bytes()))
	b.rejects("the site's own as a source", dataplane.DropProxySource, lisp(out.from("10.1.0.9")))
}

// inWire is about what a kernel or the program before it does with the outer
// headers.
func (b *builder) inWire() {
	for _, rloc := range []netip.Addr{Far4, Far6} {
		p, fam := in4(100), "IPv4"
		if rloc.Is6() {
			p, fam = in6(100).from("2001:db8:3::1"), "IPv6"
		}
		d := from(rloc, 0, p.Bytes())
		d.Sum = ZeroSum
		b.add(Case{Name: "in: zero outer checksum, " + fam, In: d.Bytes(), Host: [][]byte{p.Bytes()}, Wire: true})
		d.Sum = WrongSum
		b.add(Case{Name: "in: wrong outer checksum, " + fam, In: d.Bytes(), MayDrop: dataplane.DropReceiveBuffer, Wire: true})
		d.Sum = RightSum
		for _, port := range []uint16{1, 4341, 65535} {
			d.SrcPort = port
			b.add(Case{Name: fmt.Sprintf("in: source port %d, %s", port, fam), In: d.Bytes(), Host: [][]byte{p.Bytes()}, Wire: true})
		}
		d.SrcPort, d.DstPort = 0, 4340
		b.add(Case{Name: "in: another port, " + fam, In: d.Bytes(), Wire: true})
		d.DstPort = 0
		pkt := d.Bytes()
		udp := len(pkt) - 16 - len(d.Inner)
		b.add(Case{Name: "in: UDP length too long, " + fam, In: patch(pkt, udp+4, 0xff, 0xff), Wire: true})
		b.add(Case{Name: "in: UDP length 7, " + fam, In: patch(pkt, udp+4, 0, 7), Wire: true})
		b.add(Case{Name: "in: octets behind the outer packet, " + fam, In: append(slices.Clone(pkt), 1, 2, 3), Host: [][]byte{p.Bytes()}, Wire: true})
	}
	d := lisp(in4(30))
	b.add(Case{Name: "in: wrong outer IPv4 header checksum", In: patch(d.Bytes(), 10, 0xde, 0xad), Wire: true})
	b.add(Case{Name: "in: outer DF clear", In: resum(d.Bytes(), 6, 0), Host: [][]byte{in4(30).Bytes()}, Wire: true})
	withOptions := Inner{Src: Far4, Dst: Ours4, TTL: 64, Raw: true, Options: []byte{1, 1, 1, 0}, Payload: d.Bytes()[20:]}.Bytes()
	b.add(Case{Name: "in: outer IPv4 options", In: withOptions, Host: [][]byte{in4(30).Bytes()}, Wire: true})
	elsewhere := d
	elsewhere.Dst = addr("192.0.2.77")
	b.add(Case{Name: "in: to another router", In: elsewhere.Bytes(), Wire: true})
}
