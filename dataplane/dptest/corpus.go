package dptest

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/eidolon-lisp/eidolon/dataplane"
)

// Corpus returns all cases. They must not be changed.
var Corpus = sync.OnceValue(func() []Case {
	var b builder
	b.state = allStates().open
	b.outGood()
	b.outHeaders()
	b.outAddresses()
	b.outMappings()
	b.outSizes()
	b.outMSS()
	b.outProxy()
	b.inGood()
	b.inHeaders()
	b.inInner()
	b.inAddresses()
	b.inECN()
	b.inSources()
	b.inVersions()
	b.inMSS()
	b.inProxy()
	b.inWire()
	b.outSuper()
	b.inSuper()
	for _, s := range []*State{allStates().hold, allStates().holdShort} {
		pkt := out4(8).Bytes()
		b.add(Case{Name: s.Name + ": a mapping that is there", State: s, Out: pkt, Sent: []Datagram{over(Far4, 0, pkt)}})
	}
	return b.cases
})

// builder gathers cases.
type builder struct {
	cases []Case
	state *State
}

func (b *builder) add(c Case) {
	if c.State == nil {
		c.State = b.state
	}
	b.cases = append(b.cases, c)
}

// The usual flow out, UDP with n octets of payload; back is the way in.
func out4(n int) Inner { return Flow("10.1.0.1:1000", "10.2.0.1:80", UDP, n) }
func out6(n int) Inner { return Flow("[2001:db8:1::1]:1000", "[2001:db8:2::1]:80", UDP, n) }
func in4(n int) Inner  { return Flow("10.2.0.1:80", "10.1.0.1:1000", UDP, n) }
func in6(n int) Inner  { return Flow("[2001:db8:2::1]:80", "[2001:db8:1::1]:1000", UDP, n) }

// with returns a copy of p, edited.
func (p Inner) with(f func(*Inner)) Inner { f(&p); return p }

func (p Inner) from(a string) Inner { p.Src = addr(a); return p }
func (p Inner) to(a string) Inner   { p.Dst = addr(a); return p }

// patch returns the packet with octets replaced from offset at on.
func patch(pkt []byte, at int, octets ...byte) []byte {
	b := slices.Clone(pkt)
	copy(b[at:], octets)
	return b
}

// resum is patch for an IPv4 header, whose checksum is made right again.
func resum(pkt []byte, at int, octets ...byte) []byte {
	b := patch(pkt, at, octets...)
	sumHeader(b)
	return b
}

// iidHeader is the LISP header that is sent in an instance: the I bit unless it is
// instance 0, all else zero (RFC 9300 sections 4.1 and 5.3).
func iidHeader(iid uint32) (h [8]byte) {
	if iid != 0 {
		h[0] = 0x08
		binary.BigEndian.PutUint32(h[4:], iid<<8)
	}
	return h
}

// over is the datagram that carries pkt to a locator. TTL and TOS of the outer
// header are those of pkt (RFC 9300 section 5.3, RFC 6040 section 4.1).
func over(rloc netip.Addr, iid uint32, pkt []byte) Datagram {
	d := Datagram{Src: Ours4, Dst: rloc, Header: iidHeader(iid), Inner: pkt}
	if rloc.Is6() {
		d.Src = Ours6
	}
	if pkt[0]>>4 == 4 {
		d.TTL, d.TOS = pkt[8], pkt[1]
	} else {
		d.TTL, d.TOS = pkt[7], pkt[0]<<4|pkt[1]>>4
	}
	return d
}

// from is the datagram in which a locator sends pkt to us.
func from(rloc netip.Addr, iid uint32, pkt []byte) Datagram {
	d := over(rloc, iid, pkt)
	d.Src, d.Dst = d.Dst, d.Src
	return d
}

// sends adds the case that pkt is sent to the locator, unchanged.
func (b *builder) sends(name string, rloc netip.Addr, pkt []byte) {
	b.add(Case{Name: name, Out: pkt, Sent: []Datagram{over(rloc, 0, pkt)}})
}

// refuses adds the case that a host's packet is dropped.
func (b *builder) refuses(name string, why dataplane.DropReason, pkt []byte) {
	b.add(Case{Name: name, Out: pkt, Drop: why})
}

// stopped is refuses for what a router may not even forward.
func (b *builder) stopped(name string, why dataplane.DropReason, pkt []byte) {
	b.add(Case{Name: name, Out: pkt, Drop: why, Around: Stopped})
}

func (b *builder) outGood() {
	for _, c := range []struct {
		name string
		iid  uint32
		pkt  Inner
		rloc netip.Addr
	}{
		{"IPv4 over IPv4", 0, out4(100), Far4},
		{"IPv6 over IPv4", 0, out6(100), Far4},
		{"IPv4 over IPv6", 0, out4(100).to("10.3.0.1"), Far6},
		{"IPv6 over IPv6", 0, out6(100).to("2001:db8:3::1"), Far6},
		{"IPv4 over IPv4, instance 7", Red, out4(100).from("10.7.0.1"), Other4},
		{"IPv6 over IPv6, instance 7", Red, out6(100).from("2001:db8:7::1"), Other6},
		{"IPv4 over IPv4, the last instance", Last, out4(100).from("10.9.0.1"), Far4},
		{"IPv6 over IPv6, the last instance", Last, out6(100).from("2001:db8:9::1"), Far6},
	} {
		pkt := c.pkt.with(func(p *Inner) { p.TTL, p.TOS, p.ID = 33, 0xb8, 0x1234 }).Bytes()
		b.add(Case{Name: c.name, IID: c.iid, Out: pkt, Sent: []Datagram{over(c.rloc, c.iid, pkt)}})
	}
	for ecn, name := range ecnNames {
		for _, p := range []Inner{out4(8), out6(8)} {
			p.TOS = 0x28 | uint8(ecn)
			b.sends(fmt.Sprintf("%s, %v", name, family(p)), Far4, p.Bytes())
			p.TOS = 0xfc | uint8(ecn)
			b.sends(fmt.Sprintf("%s with all of DSCP, %v", name, family(p)), Far4, p.Bytes())
		}
	}
	for _, ttl := range []uint8{2, 3, 128, 255} {
		for _, p := range []Inner{out4(8), out6(8)} {
			p.TTL = ttl
			b.sends(fmt.Sprintf("TTL %d, %v", ttl, family(p)), Far4, p.Bytes())
		}
	}
	for _, p := range []Inner{out4(8), out6(8)} {
		one, zero := p, p
		one.TTL, zero.NoTTL = 1, true
		// The router has taken its own 1 before.
		b.add(Case{Name: "TTL 1, " + family(p), Out: one.Bytes(), Sent: []Datagram{over(Far4, 0, one.Bytes())}, Around: Stopped})
		b.stopped("TTL 0, "+family(p), dataplane.DropTTLExpired, zero.Bytes())
	}
}

var ecnNames = []string{"Not-ECT", "ECT(1)", "ECT(0)", "CE"}

func family(p Inner) string {
	if p.Src.Is4() {
		return "IPv4"
	}
	return "IPv6"
}

// outHeaders: all that a header can have which does not matter, and what is
// wrong.
func (b *builder) outHeaders() {
	four, six := out4(40), out6(40)
	b.sends("nothing behind the IPv4 header", Far4, four.with(func(p *Inner) { p.Raw, p.Payload = true, nil }).Bytes())
	b.sends("nothing behind the IPv6 header", Far4, six.with(func(p *Inner) { p.Raw, p.Payload = true, nil }).Bytes())
	b.sends("half of a UDP header", Far4, four.with(func(p *Inner) { p.Raw, p.Payload = true, []byte{3, 232, 0, 80, 0} }).Bytes())
	b.sends("less than the ports", Far4, six.with(func(p *Inner) { p.Raw, p.Payload = true, []byte{3, 232, 0} }).Bytes())
	b.sends("half of a TCP header", Far4, four.with(func(p *Inner) { p.Proto, p.Raw, p.Payload = TCP, true, make([]byte, 12) }).Bytes())
	b.sends("UDP length longer than the packet", Far4, patch(four.Bytes(), 24, 0xff, 0xff))
	b.sends("UDP length 0", Far4, patch(six.Bytes(), 44, 0, 0))
	b.sends("zero UDP checksum", Far4, patch(four.Bytes(), 26, 0, 0))
	b.sends("zero UDP checksum, IPv6", Far4, patch(six.Bytes(), 46, 0, 0))
	b.sends("wrong UDP checksum", Far4, patch(four.Bytes(), 26, 0xde, 0xad))
	b.sends("TCP", Far4, four.with(func(p *Inner) { p.Proto = TCP }).Bytes())
	b.sends("TCP, all flags", Far4, six.with(func(p *Inner) { p.Proto, p.Flags = TCP, 0xff }).Bytes())
	b.sends("SCTP", Far4, four.with(func(p *Inner) { p.Proto = 132 }).Bytes())
	b.sends("GRE", Far4, four.with(func(p *Inner) { p.Proto = 47 }).Bytes())
	b.sends("protocol 255", Far4, four.with(func(p *Inner) { p.Proto = 255 }).Bytes())
	b.sends("no next header", Far4, six.with(func(p *Inner) { p.Proto, p.Payload = 59, nil }).Bytes())
	b.sends("ping", Far4, four.with(func(p *Inner) { p.Proto, p.Payload = ICMP, []byte{8, 0, 0xf7, 0xff, 0, 0, 0, 0} }).Bytes())
	b.sends("ICMP error", Far4, four.with(func(p *Inner) {
		p.Proto, p.Payload = ICMP, slices.Concat([]byte{3, 3, 0, 0, 0, 0, 0, 0}, in4(0).Bytes())
	}).Bytes())
	b.sends("ICMPv6 error", Far4, six.with(func(p *Inner) {
		p.Proto, p.Payload = ICMPv6, slices.Concat([]byte{1, 4, 0, 0, 0, 0, 0, 0}, in6(0).Bytes())
	}).Bytes())
	b.sends("IPv4 in IPv4", Far4, four.with(func(p *Inner) { p.Proto, p.Payload = 4, out4(8).Bytes() }).Bytes())
	b.sends("IPv6 in IPv4", Far4, four.with(func(p *Inner) { p.Proto, p.Payload = 41, out6(8).Bytes() }).Bytes())
	b.sends("IPv4 in IPv6", Far4, six.with(func(p *Inner) { p.Proto, p.Payload = 4, out4(8).Bytes() }).Bytes())
	b.sends("LISP in IPv4", Far4, Datagram{Src: addr("10.1.0.1"), Dst: addr("10.2.0.1"), TTL: 64, Inner: out4(8).Bytes()}.Bytes())
	b.sends("LISP in IPv6", Far4, Datagram{Src: addr("2001:db8:1::1"), Dst: addr("2001:db8:2::1"), TTL: 64, Inner: out6(8).Bytes()}.Bytes())
	b.sends("first fragment", Far4, four.with(func(p *Inner) { p.MF, p.ID = true, 9 }).Bytes())
	b.sends("middle fragment", Far4, four.with(func(p *Inner) { p.MF, p.ID, p.Offset = true, 9, 1480 }).Bytes())
	b.sends("last fragment", Far4, four.with(func(p *Inner) { p.ID, p.Offset = 9, 65000 }).Bytes())
	b.sends("fragment with DF", Far4, four.with(func(p *Inner) { p.MF, p.DF = true, true }).Bytes())
	b.sends("reserved bit of the IPv4 flags", Far4, resum(four.Bytes(), 6, 0x80))
	b.sends("flow label", Far4, six.with(func(p *Inner) { p.Label = 0xfffff }).Bytes())

	ext := func(next uint8, ext ...byte) []byte {
		return six.with(func(p *Inner) { p.Next, p.Extensions = next, ext }).Bytes()
	}
	b.sends("destination options", Far4, ext(60, UDP, 0, 1, 4, 0, 0, 0, 0))
	b.sends("IPv6 first fragment", Far4, ext(44, UDP, 0, 0, 1, 0, 0, 0, 9))
	b.sends("IPv6 last fragment", Far4, ext(44, UDP, 0, 0x05, 0xa8, 0, 0, 0, 9))
	b.sends("destination options and fragment", Far4, ext(60, 44, 0, 1, 4, 0, 0, 0, 0, UDP, 0, 0, 0, 0, 0, 0, 9))
	b.sends("authentication header", Far4, ext(51, UDP, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0))
	b.sends("destination options longer than the packet", Far4, ext(60, UDP, 200, 1, 4, 0, 0, 0, 0))
	b.sends("routing header", Far4, ext(43, UDP, 2, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0))
	many := slices.Repeat([]byte{60, 0, 1, 4, 0, 0, 0, 0}, 12)
	many[len(many)-8] = UDP
	b.sends("twelve extension headers", Far4, ext(60, many...))
	hop := ext(0, UDP, 0, 5, 2, 0, 0, 1, 0) // router alert
	b.sends("hop-by-hop options", Far4, hop)

	opts := func(o ...byte) []byte { return four.with(func(p *Inner) { p.Options = o }).Bytes() }
	b.sends("IPv4 no-operation options", Far4, opts(1, 1, 1, 0))
	b.sends("router alert", Far4, opts(148, 4, 0, 0))
	b.sends("40 octets of options", Far4, opts(slices.Repeat([]byte{1}, 40)...))
	for _, o := range []struct {
		name   string
		b      []byte
		around Around
	}{
		{"record route", []byte{7, 7, 4, 0, 0, 0, 0, 0}, Changed},
		{"loose source route", []byte{131, 7, 4, 10, 2, 0, 9, 0}, Stopped},
		{"malformed option", []byte{7, 60, 4, 0}, Stopped},
	} {
		pkt := opts(o.b...)
		b.add(Case{Name: o.name, Out: pkt, Sent: []Datagram{over(Far4, 0, pkt)}, Around: o.around})
	}
	wrong := patch(four.Bytes(), 10, 0xde, 0xad)
	b.add(Case{Name: "wrong IPv4 header checksum", Out: wrong, Sent: []Datagram{over(Far4, 0, wrong)}, Around: Stopped})

	b.stopped("version 5", dataplane.DropInnerVersion, patch(four.Bytes(), 0, 0x55))
	b.stopped("version 0", dataplane.DropInnerVersion, patch(six.Bytes(), 0, 0))
	b.stopped("one octet", dataplane.DropInnerTruncated, []byte{0x45})
	b.stopped("19 octets of IPv4", dataplane.DropInnerTruncated, four.Bytes()[:19])
	b.stopped("39 octets of IPv6", dataplane.DropInnerTruncated, six.Bytes()[:39])
	b.stopped("IPv4 header length 4", dataplane.DropInnerHeader, resum4(four.Bytes(), 0x44))
	b.stopped("IPv4 header length 0", dataplane.DropInnerHeader, resum4(four.Bytes(), 0x40))
	b.stopped("IPv4 header longer than its packet", dataplane.DropInnerHeader, resum(four.with(func(p *Inner) { p.Options = make([]byte, 20) }).Bytes(), 2, 0, 24))
	b.stopped("IPv4 length 0", dataplane.DropInnerHeader, resum(four.Bytes(), 2, 0, 0))
	b.stopped("IPv4 shorter than its length", dataplane.DropInnerTruncated, resum(four.Bytes(), 2, 0, 69))
	b.stopped("IPv6 shorter than its length", dataplane.DropInnerTruncated, patch(six.Bytes(), 4, 0, 49))
	// Short frames of Ethernet are padded; a router takes the padding off.
	for _, c := range []struct {
		name   string
		p      Inner
		behind []byte
	}{
		{"octets behind IPv4", four, []byte{0}}, {"octets behind IPv6", six, []byte{0}}, {"two packets", four, four.Bytes()},
		{"a padded frame", four.with(func(p *Inner) { p.Payload = []byte{1} }), make([]byte, 17)},
	} {
		pkt := c.p.Bytes()
		b.add(Case{Name: c.name, Out: append(c.p.Bytes(), c.behind...), Drop: dataplane.DropInnerTrailing, Sent: []Datagram{over(Far4, 0, pkt)}, Around: Trimmed})
	}
	b.stopped("IPv6 jumbogram", dataplane.DropInnerTrailing, patch(ext(0, UDP, 0, 0xc2, 4, 0, 1, 0, 0), 4, 0, 0))
}

// resum4 is resum for the first octet, of a header of 20 octets whatever it
// says.
func resum4(pkt []byte, first byte) []byte {
	b := patch(pkt, 0, first)
	b[10], b[11] = 0, 0
	binary.BigEndian.PutUint16(b[10:], sum(b[:20]))
	return b
}

func (b *builder) outAddresses() {
	for _, a := range []string{"224.0.0.1", "239.1.1.1", "ff02::1", "ff0e::1"} {
		if p := out4(8); addr(a).Is4() {
			b.stopped("to "+a, dataplane.DropMulticast, p.to(a).Bytes())
			b.stopped("from "+a, dataplane.DropMulticast, p.from(a).Bytes())
		} else {
			b.stopped("to "+a, dataplane.DropMulticast, out6(8).to(a).Bytes())
			b.stopped("from "+a, dataplane.DropMulticast, out6(8).from(a).Bytes())
		}
	}
	for _, a := range []string{"0.0.0.0", "0.1.2.3", "127.0.0.1", "169.254.1.1", "240.0.0.1", "255.255.255.255", "::", "::1", "fe80::1"} {
		p := out4(8)
		if addr(a).Is6() {
			p = out6(8)
		}
		b.stopped("to "+a, dataplane.DropNotRoutable, p.to(a).Bytes())
		b.stopped("from "+a, dataplane.DropNotRoutable, p.from(a).Bytes())
	}
	// What a router does with these depends on its routes.
	b.stopped("from no EID", dataplane.DropSourceNotEID, out4(8).from("10.200.0.1").Bytes())
	b.stopped("from no EID, IPv6", dataplane.DropSourceNotEID, out6(8).from("2001:db8:200::1").Bytes())
	b.add(Case{Name: "from an EID of another instance", Out: out4(8).from("10.7.0.1").Bytes(), Drop: dataplane.DropSourceNotEID, Around: Inside})
	b.stopped("from an EID of another site", dataplane.DropSourceNotEID, out4(8).from("10.2.0.9").Bytes())
	b.stopped("to an EID of the site", dataplane.DropDestinationLocal, out4(8).to("10.1.200.1").Bytes())
	b.stopped("to an EID of the site, IPv6", dataplane.DropDestinationLocal, out6(8).to("2001:db8:1:200::1").Bytes())
	b.stopped("to itself", dataplane.DropDestinationLocal, out4(8).to("10.1.0.1").Bytes())
	b.stopped("IPv4-mapped addresses", dataplane.DropSourceNotEID, out6(8).from("::ffff:10.1.0.1").to("::ffff:10.2.0.1").Bytes())
	last := out4(8).from("10.1.255.255").to("10.2.255.255").Bytes()
	b.sends("the last addresses of the prefixes", Far4, last)
}

func (b *builder) outMappings() {
	for _, c := range []struct {
		dst  string
		rloc netip.Addr
	}{
		{"10.2.8.255", netip.Addr{}}, {"10.2.9.0", Other4}, {"10.2.9.8", Other4}, {"10.2.9.9", Other6}, {"10.2.9.255", Other4}, {"10.2.10.0", Far4},
		{"2001:db8:2:8:ffff::", netip.Addr{}}, {"2001:db8:2:9::", Other6}, {"2001:db8:2:9::8", Other6}, {"2001:db8:2:9::9", Other4}, {"2001:db8:2:a::", Far4},
		{"10.5.1.1", Other4}, {"10.5.2.1", Other4}, {"10.5.3.1", Other6}, {"10.5.4.1", Other4},
	} {
		p := out4(8)
		if addr(c.dst).Is6() {
			p = out6(8)
		}
		pkt := p.to(c.dst).Bytes()
		if !c.rloc.IsValid() {
			b.refuses("expired, to "+c.dst, dataplane.DropNoMapping, pkt)
			continue
		}
		b.sends("the mapping of "+c.dst, c.rloc, pkt)
	}
	b.refuses("no mapping", dataplane.DropNoMapping, out4(8).to("10.100.0.1").Bytes())
	b.refuses("no mapping, IPv6", dataplane.DropNoMapping, out6(8).to("2001:db8:100::1").Bytes())
	b.refuses("beside a mapping", dataplane.DropNoMapping, out4(8).to("10.6.5.255").Bytes())
	b.refuses("a mapping of another instance", dataplane.DropNoMapping, out4(8).to("10.12.0.1").Bytes())
	b.add(Case{Name: "no mapping in instance 7", IID: Red, Out: out4(8).from("10.7.0.1").to("10.3.0.1").Bytes(), Drop: dataplane.DropNoMapping})
	b.refuses("priority 255 alone", dataplane.DropNoLocator, out4(8).to("10.5.5.1").Bytes())
	b.refuses("priority 255 alone, IPv6", dataplane.DropNoLocator, out6(8).to("2001:db8:5:5::1").Bytes())
	b.refuses("R bit clear alone", dataplane.DropNoLocator, out4(8).to("10.5.6.1").Bytes())
	b.refuses("multicast locator", dataplane.DropNoLocator, out4(8).to("10.5.7.1").Bytes())
	only4 := allStates().only4
	b.add(Case{Name: "locator of a family without source", State: only4, Out: out4(8).to("10.3.0.1").Bytes(), Drop: dataplane.DropNoSource})
	pkt := out4(8).to("10.5.3.1").Bytes()
	b.add(Case{Name: "locator of a worse priority that can be used", State: only4, Out: pkt, Sent: []Datagram{over(Far4, 0, pkt)}})

	for i, c := range []struct {
		name    string
		why     dataplane.DropReason
		code4   uint8 // of the ICMP message to the host
		code6   uint8
		message bool
	}{
		{name: "no-action", why: dataplane.DropNoAction},
		{name: "natively-forward", why: dataplane.DropNativelyForward},
		{name: "send-map-request", why: dataplane.DropNoMapping},
		{"drop", dataplane.DropNegative, 0, 0, true},
		{"drop-policy-denied", dataplane.DropPolicyDenied, 13, 1, true},
		{"drop-auth-failure", dataplane.DropAuthFailure, 13, 1, true},
		{"an action without a name", dataplane.DropNegative, 0, 0, true},
	} {
		p4 := out4(8).to(fmt.Sprintf("10.4.%d.1", i))
		p6 := out6(8).to(fmt.Sprintf("2001:db8:4:%d::1", i))
		c4 := Case{Name: c.name, Out: p4.Bytes(), Drop: c.why}
		c6 := Case{Name: c.name + ", IPv6", Out: p6.Bytes(), Drop: c.why}
		if c.message {
			c4.Host = [][]byte{icmpError(p4.Bytes(), 3, c.code4, 0)}
			c6.Host = [][]byte{icmpError(p6.Bytes(), 1, c.code6, 0)}
		}
		b.add(c4)
		b.add(c6)
	}
	// About these no message may be sent (RFC 1122 section 3.2.2, RFC 4443
	// section 2.4 e).
	drop4, drop6 := out4(8).to("10.4.3.1"), out6(8).to("2001:db8:4:3::1")
	b.refuses("drop of a fragment", dataplane.DropNegative, drop4.with(func(p *Inner) { p.Offset = 80 }).Bytes())
	b.refuses("drop of an ICMP error", dataplane.DropNegative, drop4.with(func(p *Inner) {
		p.Proto, p.Payload = ICMP, slices.Concat([]byte{11, 0, 0, 0, 0, 0, 0, 0}, in4(0).Bytes())
	}).Bytes())
	b.refuses("drop of an ICMPv6 error", dataplane.DropNegative, drop6.with(func(p *Inner) {
		p.Proto, p.Payload = ICMPv6, slices.Concat([]byte{3, 0, 0, 0, 0, 0, 0, 0}, in6(0).Bytes())
	}).Bytes())
	ping := drop4.with(func(p *Inner) { p.Proto, p.Payload = ICMP, []byte{8, 0, 0xf7, 0xff, 0, 0, 0, 0} }).Bytes()
	b.add(Case{Name: "drop of a ping", Out: ping, Drop: dataplane.DropNegative, Host: [][]byte{icmpError(ping, 3, 0, 0)}})
	long4, long6 := out4(1200).to("10.4.3.1").Bytes(), out6(1300).to("2001:db8:4:3::1").Bytes()
	b.add(Case{Name: "drop of a long packet", Out: long4, Drop: dataplane.DropNegative, Host: [][]byte{icmpError(long4, 3, 0, 0)}})
	b.add(Case{Name: "drop of a long packet, IPv6", Out: long6, Drop: dataplane.DropNegative, Host: [][]byte{icmpError(long6, 1, 0, 0)}})
}

// icmpError is the message about pkt: from its destination, because the tunnel
// router need not have an address in the site; as much of pkt as 576 and 1280
// octets allow (RFC 1812 section 4.3.2.3, RFC 4443 section 2.4 c).
func icmpError(pkt []byte, typ, code uint8, rest uint32) []byte {
	p := Inner{TTL: 64, Raw: true}
	quote := 576 - 20 - 8
	if pkt[0]>>4 == 4 {
		p.Proto, p.TOS, p.DF = ICMP, 0xc0, true
		p.Src, p.Dst = netip.AddrFrom4([4]byte(pkt[16:])), netip.AddrFrom4([4]byte(pkt[12:]))
	} else {
		quote = 1280 - 40 - 8
		p.Proto = ICMPv6
		p.Src, p.Dst = netip.AddrFrom16([16]byte(pkt[24:])), netip.AddrFrom16([16]byte(pkt[8:]))
	}
	m := binary.BigEndian.AppendUint32([]byte{typ, code, 0, 0}, rest)
	m = append(m, pkt[:min(len(pkt), quote)]...)
	s := sum(m)
	if p.Proto == ICMPv6 {
		s = sumTransport(p.Src, p.Dst, ICMPv6, m)
	}
	binary.BigEndian.PutUint16(m[2:], s)
	p.Payload = m
	return p.Bytes()
}

// outSizes: what fits, and what does not (RFC 9300 section 7.1).
func (b *builder) outSizes() {
	// Room is the path MTU less the outer headers: 36 octets with IPv4, 56 with
	// IPv6.
	const room4, room6 = MTU - 36, MTU - 56
	sized4 := func(n int, df bool) Inner {
		return out4(n - 28).with(func(p *Inner) { p.DF, p.ID = df, 0x4321 })
	}
	sized6 := func(n int) Inner { return out6(n - 48) }
	for _, df := range []bool{true, false} {
		b.sends(fmt.Sprintf("IPv4 that just fits IPv4, DF %v", df), Far4, sized4(room4, df).Bytes())
		b.sends(fmt.Sprintf("IPv4 that just fits IPv6, DF %v", df), Far6, sized4(room6, df).to("10.3.0.1").Bytes())
	}
	b.sends("IPv6 that just fits IPv4", Far4, sized6(room4).Bytes())
	b.sends("IPv6 that just fits IPv6", Far6, sized6(room6).to("2001:db8:3::1").Bytes())
	b.sends("IPv4 that just fits a small path", Small4, sized4(SmallMTU4-36, true).to("10.6.4.1").Bytes())
	b.sends("IPv6 that just fits a small path", Small6, sized6(SmallMTU6-56).to("2001:db8:6:6::1").Bytes())

	tooBig := func(name string, p Inner, mtu int) {
		pkt := p.Bytes()
		m := icmpError(pkt, 3, 4, uint32(mtu))
		if p.Src.Is6() {
			m = icmpError(pkt, 2, 0, uint32(mtu))
		}
		b.add(Case{Name: name, Out: pkt, Drop: dataplane.DropTooBig, Host: [][]byte{m}})
	}
	tooBig("IPv4 too big for IPv6", sized4(room6+1, true).to("10.3.0.1"), room6)
	tooBig("IPv6 too big for IPv6", sized6(room6+1).to("2001:db8:3::1"), room6)
	tooBig("IPv4 too big for a small IPv4 path", sized4(SmallMTU4-35, true).to("10.6.4.1"), SmallMTU4-36)
	tooBig("IPv4 too big for a small IPv6 path", sized4(SmallMTU6-55, true).to("10.6.6.1"), SmallMTU6-56)
	tooBig("IPv6 too big for a small IPv4 path", sized6(1281).to("2001:db8:6:4::1"), 1280)
	tooBig("IPv6 too big for a small IPv6 path", sized6(1300).to("2001:db8:6:6::1"), 1280)
	fragment := sized4(1000, true).to("10.6.4.1").with(func(p *Inner) { p.Offset, p.Payload = 800, make([]byte, 980) })
	b.refuses("a fragment with DF too big, of which nobody is told", dataplane.DropTooBig, fragment.Bytes())
	// Nobody sends IPv6 packets of less than 1280 octets: the outer packet has
	// to be fragmented (RFC 2473 section 7.1 b).
	pkt := sized6(1280).to("2001:db8:6:4::1").Bytes()
	d := over(Small4, 0, pkt)
	d.Fragmentable = true
	b.add(Case{Name: "IPv6 of 1280 octets over a smaller IPv4 path", Out: pkt, Sent: []Datagram{d}})
	pkt = sized6(1280).to("2001:db8:6:6::1").Bytes()
	d = over(Small6, 0, pkt)
	d.Fragmentable = true
	b.add(Case{Name: "IPv6 of 1280 octets over a smaller IPv6 path", Out: pkt, Sent: []Datagram{d}})

	// Beyond what the site's router takes itself.
	for _, c := range []struct {
		name string
		p    Inner
		mtu  int
	}{
		{"IPv4 too big for IPv4", sized4(room4+1, true), room4}, {"IPv6 too big for IPv4", sized6(room4 + 1), room4},
		{"IPv4 jumbo", sized4(9000, true), room4}, {"IPv6 jumbo", sized6(65575), room4},
	} {
		pkt := c.p.Bytes()
		m := icmpError(pkt, 3, 4, uint32(c.mtu))
		if c.p.Src.Is6() {
			m = icmpError(pkt, 2, 0, uint32(c.mtu))
		}
		b.add(Case{Name: c.name, Out: pkt, Drop: dataplane.DropTooBig, Host: [][]byte{m}, Around: Stopped})
	}

	// Without DF the inner packet is split into pieces of about equal size, whose
	// offsets are multiples of 8.
	pieces := func(name string, rloc netip.Addr, p Inner, payload []byte, cuts ...int) {
		whole := p.with(func(p *Inner) { p.Raw, p.Payload = true, payload }).Bytes()
		c := Case{Name: name, Out: whole}
		start := 0
		for i, end := range append(cuts, len(payload)) {
			q := p.with(func(q *Inner) {
				q.Raw, q.Payload, q.Offset = true, payload[start:end], p.Offset+start
				q.MF = p.MF || i < len(cuts)
				if start > 0 {
					q.Options = copied(p.Options)
				}
			})
			c.Sent = append(c.Sent, over(rloc, 0, q.Bytes()))
			start = end
		}
		b.add(c)
	}
	udp := func(n int) []byte { return sized4(n, false).Bytes()[20:] }
	// 945 octets of payload, in two of at most 944: 473 each, to the next 8.
	pieces("IPv4 one octet too big, split", Small4, sized4(965, false).to("10.6.4.1"), udp(965), 480)
	pieces("IPv4 split in two", Far6, sized4(1460, false).to("10.3.0.1"), udp(1460), 720)
	// 944 octets fit, 1428 need two.
	pieces("IPv4 split in two for a small path", Small4, sized4(1448, false).to("10.6.4.1"), udp(1448), 720)
	pieces("a middle fragment split", Small4, sized4(1420, false).to("10.6.4.1").with(func(p *Inner) { p.MF, p.Offset = true, 1400 }), make([]byte, 1400), 704)
	pieces("a last fragment split", Small4, sized4(1420, false).to("10.6.4.1").with(func(p *Inner) { p.Offset = 2800 }), make([]byte, 1001), 504)
	// No offset can say where the second half of this one is.
	beyond := sized4(1420, false).to("10.6.4.1").with(func(p *Inner) { p.Raw, p.MF, p.Offset, p.Payload = true, true, 65072, make([]byte, 1400) })
	b.add(Case{Name: "a fragment beyond the largest datagram", Out: beyond.Bytes(), Drop: dataplane.DropInnerHeader})
	n := len(b.cases)
	pieces("options are copied as they say", Small4, sized4(1420, false).to("10.6.4.1").with(func(p *Inner) { p.Options = []byte{1, 130, 3, 7, 68, 4, 5, 0} }), make([]byte, 1000), 504)
	b.cases[n].Around = Changed // a timestamp option is filled in on the way
}

// copied returns the options of fragments other than the first, here by hand.
func copied(options []byte) []byte {
	if options == nil {
		return nil
	}
	return []byte{130, 3, 7, 0} // 1 and 68 have no copied flag
}

// syn is a TCP SYN of p with a maximum segment size.
func syn(p Inner, mss uint16, before ...byte) []byte {
	p.Proto, p.Flags, p.Raw = TCP, 0x02, true
	h := make([]byte, 20)
	binary.BigEndian.PutUint16(h, p.SrcPort)
	binary.BigEndian.PutUint16(h[2:], p.DstPort)
	h = append(append(h, before...), 2, 4, byte(mss>>8), byte(mss))
	for len(h)%4 != 0 {
		h = append(h, 0)
	}
	h[12], h[13] = byte(len(h)/4<<4), 0x02
	binary.BigEndian.PutUint16(h[16:], sumTransport(p.Src, p.Dst, TCP, h))
	p.Payload = h
	return p.Bytes()
}

func (b *builder) outMSS() {
	b.sends("SYN without clamp", Far4, syn(out4(0), 1460))
	b.state = allStates().clamp
	defer func() { b.state = allStates().open }()
	clamp := func(name string, rloc netip.Addr, was, is []byte) {
		b.add(Case{Name: name, Out: was, Sent: []Datagram{over(rloc, 0, is)}})
	}
	// IP and TCP header are 40 and 60 octets.
	clamp("SYN, IPv4 over IPv4", Far4, syn(out4(0), 1460), syn(out4(0), 1424))
	clamp("SYN, IPv6 over IPv4", Far4, syn(out6(0), 1440), syn(out6(0), 1404))
	clamp("SYN, IPv4 over IPv6", Far6, syn(out4(0).to("10.3.0.1"), 65535), syn(out4(0).to("10.3.0.1"), 1404))
	clamp("SYN, IPv6 over IPv6", Far6, syn(out6(0).to("2001:db8:3::1"), 1440), syn(out6(0).to("2001:db8:3::1"), 1384))
	clamp("SYN, small path", Small4, syn(out4(0).to("10.6.4.1"), 1460), syn(out4(0).to("10.6.4.1"), 924))
	clamp("SYN, odd place of the option", Far4, syn(out4(0), 1460, 1, 3, 3, 7, 1), syn(out4(0), 1424, 1, 3, 3, 7, 1))
	b.sends("SYN that is small enough", Far4, syn(out4(0), 1424))
	b.sends("SYN behind the end of options", Far4, syn(out4(0), 1460, 0))
	b.sends("SYN with a broken option", Far4, syn(out4(0), 1460, 3, 0, 1, 1))
	b.sends("no SYN", Far4, patch(syn(out4(0), 1460), 33, 0x10))
	b.sends("UDP that looks like a SYN", Far4, resum(syn(out4(0), 1460), 9, UDP))
}

func (b *builder) outProxy() {
	b.state = allStates().proxy
	defer func() { b.state = allStates().open }()
	b.sends("attracted", Far4, out4(8).from("203.0.113.1").Bytes())
	b.sends("attracted, IPv6", Far6, out6(8).from("2001:db8:200::1").to("2001:db8:3::1").Bytes())
	b.sends("of the own site", Far4, out4(8).Bytes())
	b.stopped("not attracted", dataplane.DropSourceNotEID, out4(8).from("203.0.113.1").to("203.0.113.9").Bytes())
	b.stopped("from a site to a site", dataplane.DropProxyLoop, out4(8).from("10.3.0.1").Bytes())
	b.refuses("attracted, no mapping any more", dataplane.DropNoMapping, out4(8).from("203.0.113.1").to("10.4.9.9").Bytes())
	b.refuses("attracted, natively-forward", dataplane.DropNativelyForward, out4(8).from("203.0.113.1").to("10.4.1.1").Bytes())
}
