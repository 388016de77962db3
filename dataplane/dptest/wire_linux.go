package dptest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/internal/netns"
	"github.com/eidolon-lisp/eidolon/mapping"
)

// The interfaces of the router under test: toward the hosts, and toward the
// providers. Site takes packets of any size; Uplink has MTU.
const (
	Site   = "site"
	Uplink = "up"
)

// Start makes a plane in the state. It is called in the router's namespace, and
// so is Run of the plane. The FIB must not have been told anything before; after
// Start it is told the state.
type Start func(s *State, fib *dataplane.FIB) (dataplane.Plane, error)

// Wire makes planes of real interfaces: the packets of Encap are frames that a
// host sends to its router, those of Decap frames from the core.
//
//	host -- eth0 | site -- router -- up | eth0 -- core
//
// The router forwards, as a Linux kernel does; the plane is in it.
func Wire(start Start) Factory {
	return Factory{Routes: true, Wire: true, Noise: true, New: func(t testing.TB, s *State) Plane { return newWire(t, s, start, nil) }}
}

// Devices is Wire without the router on the host side: the packets of Encap are
// what comes out of the device of an instance, and those of the plane are taken
// there. The plane so gets what no router would forward.
func Devices(start Start, device func(iid uint32) string) Factory {
	return Factory{Wire: true, Noise: true, New: func(t testing.TB, s *State) Plane { return newWire(t, s, start, device) }}
}

// wire is a plane between two links.
type wire struct {
	plane  dataplane.Plane
	fib    *dataplane.FIB
	router *netns.NS
	core   *link
	hosts  map[uint32]*link // by instance; one and the same with a router
	local  []netip.Prefix
	n      uint64 // markers that were sent

	counted map[string]uint64 // by the plane, when count looked
}

const (
	gateway4, gateway6 = "192.0.2.254", "2001:db8:ffff::fe"
	host4, host6       = "10.254.0.2", "2001:db8:fe::2"
)

// Network makes a host, its router, and the core behind that, in namespaces, with
// the links and routes of a state. There is no plane yet.
func Network(t testing.TB, s *State) (host, router, core *netns.NS) {
	t.Helper()
	netns.NeedTUN(t)
	ns := netns.Fresh(t, 3)
	host, router, core = ns[0], ns[1], ns[2]
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(netns.Veth(host, "eth0", router, Site, 65535))
	must(netns.Veth(router, Uplink, core, "eth0", MTU))
	for _, key := range []string{"net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"} {
		must(router.SetSysctl(key, "1"))
	}
	must(router.AddAddress(Site, netip.MustParsePrefix("10.254.0.1/30")))
	must(router.AddAddress(Site, netip.MustParsePrefix("2001:db8:fe::1/64")))
	must(router.AddAddress(Uplink, netip.PrefixFrom(Ours4, 24)))
	must(router.AddAddress(Uplink, netip.PrefixFrom(Ours6, 64)))
	hostMAC, coreMAC := MAC(t, host, "eth0"), MAC(t, core, "eth0")
	must(router.Do(func() error {
		for _, e := range []struct {
			dev, ip string
			mac     net.HardwareAddr
		}{{Site, host4, hostMAC}, {Site, host6, hostMAC}, {Uplink, gateway4, coreMAC}, {Uplink, gateway6, coreMAC}} {
			if err := neighbour(e.dev, addr(e.ip), e.mac); err != nil {
				return err
			}
		}
		return nil
	}))
	// The hosts and, for a proxy, the rest of the Internet are on the site's side.
	behind := []string{"203.0.113.0/24", "2001:db8:200::/48"}
	for _, l := range s.Locals() {
		behind = append(behind, l.EID.Prefix.String())
	}
	for _, p := range behind {
		p, via := netip.MustParsePrefix(p), addr(host4)
		if p.Addr().Is6() {
			via = addr(host6)
		}
		must(router.AddRoute(p, via, Site))
	}
	must(router.AddRoute(netip.MustParsePrefix("0.0.0.0/0"), addr(gateway4), Uplink))
	must(router.AddRoute(netip.MustParsePrefix("::/0"), addr(gateway6), Uplink))
	must(router.Do(func() error {
		return errors.Join(smaller(Small4, gateway4, SmallMTU4), smaller(Small6, gateway6, SmallMTU6))
	}))
	return host, router, core
}

func newWire(t testing.TB, s *State, start Start, device func(uint32) string) *wire {
	t.Helper()
	host, router, core := Network(t, s)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	w := &wire{fib: dataplane.NewFIB(), router: router, hosts: make(map[uint32]*link)}
	for _, l := range s.Locals() {
		w.local = append(w.local, l.EID.Prefix)
	}
	must(router.Do(func() (err error) {
		w.plane, err = start(s, w.fib)
		return err
	}))
	s.Tell(w.fib, time.Now())
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- router.Do(func() error { return w.plane.Run(ctx) }) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("the plane ended: %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Error("the plane does not end")
		}
	})
	w.core = newLink(t, core, "eth0", MAC(t, router, Uplink))
	one := newLink(t, host, "eth0", MAC(t, router, Site))
	for _, iid := range s.Instances() {
		if w.hosts[iid] = one; device != nil {
			w.hosts[iid] = newLink(t, router, device(iid), nil)
		}
	}
	// Now it forwards, or will in a moment.
	for _, six := range []bool{false, true} {
		if six && !slices.ContainsFunc(s.Sources, func(s dataplane.Source) bool { return s.Addr.Is6() }) {
			break
		}
		var err error
		for range 100 {
			if err = w.settle(0, six, &Outcome{}, 50*time.Millisecond); err == nil {
				break
			}
		}
		must(err)
	}
	return w
}

// MAC returns the Ethernet address of an interface.
func MAC(t testing.TB, ns *netns.NS, dev string) (a net.HardwareAddr) {
	t.Helper()
	if err := ns.Do(func() error {
		l, err := netlink.LinkByName(dev)
		if err == nil {
			a = l.Attrs().HardwareAddr
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return a
}

// neighbour says in the namespace of the thread whose address it is, so that
// nobody has to ask.
func neighbour(dev string, a netip.Addr, mac net.HardwareAddr) error {
	l, err := netlink.LinkByName(dev)
	if err != nil {
		return err
	}
	return netlink.NeighSet(&netlink.Neigh{LinkIndex: l.Attrs().Index, IP: a.AsSlice(), HardwareAddr: mac, State: netlink.NUD_PERMANENT})
}

// smaller adds a route with an MTU of its own.
func smaller(a netip.Addr, via string, mtu int) error {
	l, err := netlink.LinkByName(Uplink)
	if err != nil {
		return err
	}
	return netlink.RouteAdd(&netlink.Route{Dst: netns.IPNet(netip.PrefixFrom(a, a.BitLen())), Gw: addr(via).AsSlice(), LinkIndex: l.Attrs().Index, MTU: mtu})
}

// Encap implements Plane.
func (w *wire) Encap(iid uint32, pkt []byte, size int) Outcome {
	return w.play(iid, false, w.hosts[iid], size, pkt)
}

// Decap implements Plane. What is larger than the underlay takes comes in
// fragments.
func (w *wire) Decap(iid uint32, pkt []byte, size int) Outcome {
	pkts := [][]byte{pkt}
	if size == 0 {
		pkts = cut(pkt)
	}
	return w.play(iid, pkt[0]>>4 == 6, w.core, size, pkts...)
}

func (w *wire) play(iid uint32, six bool, from *link, size int, pkts ...[]byte) (o Outcome) {
	w.count(&Outcome{}) // what came late
	for _, p := range pkts {
		switch err := from.send(p, size); {
		case errors.Is(err, unix.EMSGSIZE):
			return Outcome{Refused: true}
		case err != nil:
			return Outcome{Err: err}
		}
	}
	// Packets can pass each other where they are queued on another CPU. Where
	// nothing came of this one it may be on its way.
	for try := range 4 {
		if try > 0 {
			time.Sleep(time.Duration(try) * time.Millisecond)
		}
		if err := w.settle(iid, six, &o, 2*time.Second); err != nil {
			return Outcome{Err: err}
		}
		w.count(&o)
		if len(o.Sent)+len(o.Host)+len(o.Drops) > 0 || o.Held > 0 {
			break
		}
	}
	return o
}

// count adds to an outcome what the plane has counted since the last time.
func (w *wire) count(o *Outcome) {
	now := make(map[string]uint64)
	for name, n := range w.plane.Stats() {
		now[name] = n
	}
	if o.Drops == nil {
		o.Drops = make(map[dataplane.DropReason]uint64)
	}
	for _, r := range dataplane.DropReasons() {
		if name := "drop_" + r.String(); now[name] > w.counted[name] {
			o.Drops[r] += now[name] - w.counted[name]
		}
	}
	held := dataplane.HeldPackets.String()
	o.Held += now[held] - w.counted[held]
	w.counted = now
}

// Learn implements Plane.
func (w *wire) Learn(changes ...mapping.CacheChange) { w.fib.Apply(changes) }

// Rest implements Plane.
func (w *wire) Rest(iid uint32, d time.Duration) (o Outcome) {
	time.Sleep(d)
	if err := w.settle(iid, false, &o, 2*time.Second); err != nil {
		return Outcome{Err: err}
	}
	w.count(&o)
	return o
}

// Misses implements Plane.
func (w *wire) Misses() (list []dataplane.Miss) {
	for len(w.plane.Misses()) > 0 {
		list = append(list, <-w.plane.Misses())
	}
	return list
}

// segmenting makes the link to the core one that takes nothing larger than its
// MTU, as a wire does: the router's kernel makes the segments.
func (w *wire) segmenting(on bool) error {
	size := 65536 // as veth has it
	if on {
		// Not the switches of single offloads: they differ by what is inside.
		size = 700 // the kernel wants some hundred at least
	}
	return w.router.Do(func() error {
		l, err := netlink.LinkByName(Uplink)
		if err != nil {
			return err
		}
		return netlink.LinkSetGSOMaxSize(l, size)
	})
}

// markers are good packets in all states: from which locators those come that
// go in, over IPv4 and over IPv6, and to whom.
var markers = map[uint32]struct {
	own, own6, theirs6 string
	from, from6        netip.Addr
}{
	0:    {"10.1.255.1", "2001:db8:1:ffff::1", "2001:db8:3::1", Far4, Far6},
	Red:  {"10.7.255.1", "2001:db8:7:ffff::1", "2001:db8:2::1", Other4, Other6},
	Last: {"10.9.255.1", "2001:db8:9:ffff::1", "2001:db8:2::1", Far4, Far6},
}

// settle waits until a good packet each way came through, which was sent after
// all others, and gathers what came before. They can't pass others: those that
// come in, six says over which of the protocols, go by the same socket.
func (w *wire) settle(iid uint32, six bool, o *Outcome, timeout time.Duration) error {
	w.n++
	mark := binary.BigEndian.AppendUint64([]byte("the end of case "), w.n)
	m := markers[iid]
	// With options and an outer checksum no part of a plane takes them that is
	// faster than the others.
	out := Inner{Src: addr(m.own), Dst: addr("10.2.0.1"), SrcPort: 9, DstPort: 9, Options: []byte{1, 1, 1, 0}, Payload: mark}
	back := Inner{Src: out.Dst, Dst: out.Src, SrcPort: 9, DstPort: 9, Payload: mark}
	from := m.from
	if six {
		from, back.Src, back.Dst = m.from6, addr(m.theirs6), addr(m.own6)
	}
	deadline := time.Now().Add(timeout)
	if err := w.hosts[iid].send(out.Bytes(), 0); err != nil {
		return err
	}
	err := w.core.receive(mark, deadline, func(pkts [][]byte) {
		was := len(o.Sent)
		for _, pkt := range pkts {
			switch d, err := ParseDatagram(pkt); {
			case err != nil && errors.Is(err, errNotLISP), d.DstPort != lispPort:
				if src, ok := source(pkt); ok && slices.ContainsFunc(w.local, func(p netip.Prefix) bool { return p.Contains(src) }) {
					o.Leaked = append(o.Leaked, pkt)
				}
			default:
				o.Sent = append(o.Sent, pkt)
			}
		}
		if len(o.Sent) > was {
			o.SentFrames++
		}
	})
	if err != nil {
		return fmt.Errorf("the way out: %w", err)
	}
	d := Datagram{Src: from, Dst: Ours4, TTL: 64, Header: iidHeader(iid), Inner: back.Bytes()}
	if six {
		d.Dst = Ours6
	}
	if err := w.core.send(d.Bytes(), 0); err != nil {
		return err
	}
	err = w.hosts[iid].receive(mark, deadline, func(pkts [][]byte) {
		was := len(o.Host)
		o.Host = append(o.Host, slices.DeleteFunc(pkts, chatter)...)
		if len(o.Host) > was {
			o.HostFrames++
		}
	})
	if err != nil {
		return fmt.Errorf("the way in: %w", err)
	}
	return nil
}

// chatter is what kernels say to their neighbours, IPv6 about addresses and
// groups, IPv4 about groups, and what a router says of a link-local destination
// seconds later, when it has looked for it in vain.
func chatter(b []byte) bool {
	src, ok := source(b)
	switch {
	case !ok:
		return false
	case src.Is4():
		const igmp = 2
		return b[9] == igmp && b[16]>>4 == 14
	}
	const icmpv6, unreachable, header, quoted = 58, 1, 40, 40 + 8
	if b[6] == icmpv6 && len(b) >= quoted+header && b[header] == unreachable && netip.AddrFrom16([16]byte(b[quoted+24:])).IsLinkLocalUnicast() {
		return true
	}
	return src.IsLinkLocalUnicast() || src.IsUnspecified()
}

// cut splits an IPv4 packet without options into fragments that the underlay
// takes.
func cut(pkt []byte) (list [][]byte) {
	const step = (MTU - 20) &^ 7
	if len(pkt) <= MTU || pkt[0] != 0x45 {
		return [][]byte{pkt}
	}
	for at := 20; at < len(pkt); at += step {
		end := min(at+step, len(pkt))
		f := slices.Concat(pkt[:20], pkt[at:end])
		binary.BigEndian.PutUint16(f[2:], uint16(len(f)))
		binary.BigEndian.PutUint16(f[4:], 0x7777)
		word := uint16((at - 20) / 8)
		if end < len(pkt) {
			word |= 0x2000
		}
		binary.BigEndian.PutUint16(f[6:], word)
		sumHeader(f)
		list = append(list, f)
	}
	return list
}

// link is one end of a link, for frames with or without an Ethernet header.
type link struct {
	fd    int
	index int
	peer  net.HardwareAddr // nil: no Ethernet header
	own   net.HardwareAddr
	buf   []byte
	parts map[uint32][]part // fragments, by what identifies their packet
}

// struct virtio_net_hdr says what the kernel left to a device to do (Virtual I/O
// Device specification 1.2, section 5.1.6).
const (
	vnetLen       = 10
	needsChecksum = 1
	gsoTCPv4      = 1
	gsoTCPv6      = 4
	gsoUDP        = 5
	gsoECN        = 0x80
)

func newLink(t testing.TB, ns *netns.NS, dev string, peer net.HardwareAddr) *link {
	t.Helper()
	l := &link{fd: -1, peer: peer, buf: make([]byte, 1<<17), parts: make(map[uint32][]part)}
	err := ns.Do(func() (err error) {
		i, err := netlink.LinkByName(dev)
		if err != nil {
			return err
		}
		l.index, l.own = i.Attrs().Index, i.Attrs().HardwareAddr
		if l.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
			return err
		}
		return errors.Join(
			unix.SetsockoptInt(l.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20),
			unix.SetsockoptInt(l.fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1),
			unix.Bind(l.fd, &unix.SockaddrLinklayer{Protocol: swap(unix.ETH_P_ALL), Ifindex: l.index}))
	})
	if l.fd >= 0 {
		t.Cleanup(func() { unix.Close(l.fd) })
	}
	if err != nil {
		t.Fatalf("packet socket on %s: %v", dev, err)
	}
	return l
}

func swap(x uint16) uint16 { return x<<8 | x>>8 }

// etherType is what a packet claims to be; a kernel looks at it again.
func etherType(pkt []byte) uint16 {
	if pkt[0]>>4 == 6 {
		return unix.ETH_P_IPV6
	}
	return unix.ETH_P_IP
}

// send sends an IP packet, or what should be one; with a size a super-packet.
func (l *link) send(pkt []byte, size int) error {
	b := make([]byte, vnetLen, vnetLen+14+len(pkt))
	if size > 0 {
		var o offload
		pkt, o = announce(pkt, size)
		b[0], b[1] = needsChecksum, gsoTCPv4
		switch {
		case o.sum == 6:
			b[1] = gsoUDP
		case pkt[0]>>4 == 6:
			b[1] = gsoTCPv6
		}
		start, head := o.start, o.start+8
		if o.sum == 16 {
			head = o.start + 20
		}
		if l.peer != nil {
			start, head = start+14, head+14
		}
		for at, n := range map[int]int{2: head, 4: size, 6: start, 8: o.sum} {
			binary.NativeEndian.PutUint16(b[at:], uint16(n))
		}
	}
	if l.peer != nil {
		b = append(append(b, l.peer...), l.own...)
		b = binary.BigEndian.AppendUint16(b, etherType(pkt))
	}
	err := unix.Sendto(l.fd, append(b, pkt...), 0, &unix.SockaddrLinklayer{Protocol: swap(etherType(pkt)), Ifindex: l.index})
	if err != nil {
		return fmt.Errorf("send a frame: %w", os.NewSyscallError("sendto", err))
	}
	return nil
}

// receive calls fn for the IP packets of each frame that came, until one holds the
// mark.
func (l *link) receive(mark []byte, deadline time.Time, fn func(pkts [][]byte)) error {
	for {
		n, from, err := unix.Recvfrom(l.fd, l.buf, 0)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			wait := time.Until(deadline)
			if wait <= 0 {
				return errors.New("the last packet did not come")
			}
			if _, err := unix.Poll([]unix.PollFd{{Fd: int32(l.fd), Events: unix.POLLIN}}, int(wait.Milliseconds())+1); err != nil && !errors.Is(err, unix.EINTR) {
				return err
			}
			continue
		case err != nil:
			return err
		}
		if sll, ok := from.(*unix.SockaddrLinklayer); !ok || sll.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		pkts, err := l.packets(l.buf[:n])
		if err != nil {
			return err
		}
		end := slices.ContainsFunc(pkts, func(p []byte) bool { return bytes.Contains(p, mark) })
		// An older mark may come late.
		if fn(slices.DeleteFunc(pkts, func(p []byte) bool { return bytes.Contains(p, mark[:16]) })); end {
			return nil
		}
	}
}

// packets returns copies of the IP packets of one frame, with what the kernel
// left undone, done: checksums, segmentation; and whole packets of fragments.
func (l *link) packets(b []byte) ([][]byte, error) {
	v, b := b[:vnetLen], b[vnetLen:]
	if l.peer != nil {
		if len(b) < 14 {
			return nil, nil
		}
		switch binary.BigEndian.Uint16(b[12:]) {
		case unix.ETH_P_IP, unix.ETH_P_IPV6:
		default:
			return nil, nil
		}
		b = b[14:]
	}
	b = slices.Clone(b)
	word := func(at int) int { return int(binary.NativeEndian.Uint16(v[at:])) }
	o := offload{start: word(6), sum: word(8), size: word(4)}
	if l.peer != nil {
		o.start -= 14
	}
	switch {
	case v[1]&^gsoECN == 0 && v[0]&needsChecksum != 0:
		// What is stored is the sum of the pseudo-header.
		binary.BigEndian.PutUint16(b[o.start+o.sum:], nonzero(sum(b[o.start:])))
		fallthrough
	case v[1]&^gsoECN == 0:
		return l.whole(b), nil
	case v[0]&needsChecksum == 0:
		return nil, errors.New("a super-packet that says nothing of its checksum")
	}
	return o.cut(b)
}

// part is a fragment: octets of the payload.
type part struct {
	offset int
	more   bool
	head   []byte // IP headers, without the fragment header
	proto  uint8
	data   []byte
}

// whole returns b, or if it is a fragment the packet of which it is the last
// missing part.
func (l *link) whole(b []byte) [][]byte {
	var p part
	var id uint32
	switch {
	case len(b) >= 20 && b[0] == 0x45 && binary.BigEndian.Uint16(b[6:])&0x3fff != 0:
		word := binary.BigEndian.Uint16(b[6:])
		id = uint32(binary.BigEndian.Uint16(b[4:]))
		p = part{int(word&0x1fff) * 8, word&0x2000 != 0, b[:20], b[9], b[20:]}
	case len(b) >= 48 && b[0]>>4 == 6 && b[6] == 44:
		word := binary.BigEndian.Uint16(b[42:])
		id = binary.BigEndian.Uint32(b[44:])
		p = part{int(word &^ 7), word&1 != 0, b[:40], b[40], b[48:]}
	default:
		return [][]byte{b}
	}
	if src, ok := source(b); !ok || src != Ours4 && src != Ours6 {
		return [][]byte{b} // of a host: fragments are packets like others
	}
	parts := append(l.parts[id], p)
	slices.SortFunc(parts, func(a, b part) int { return a.offset - b.offset })
	l.parts[id] = parts
	var data []byte
	for _, p := range parts {
		if p.offset != len(data) {
			return nil
		}
		data = append(data, p.data...)
	}
	if parts[len(parts)-1].more {
		return nil
	}
	delete(l.parts, id)
	w := slices.Concat(parts[0].head, data)
	if w[0]>>4 == 4 {
		binary.BigEndian.PutUint16(w[2:], uint16(len(w)))
		w[6], w[7] = 0, 0
		sumHeader(w)
	} else {
		w[6] = parts[0].proto
		binary.BigEndian.PutUint16(w[4:], uint16(len(data)))
	}
	return [][]byte{w}
}
