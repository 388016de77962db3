package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/eidolon-lisp/eidolon/internal/netns"
)

// Ports of what is counted. The detector of the BGP arms is ours.
const (
	bgpPort      = 179
	controlPort  = 4342
	dataPort     = 4341
	detectorPort = 3784
)

// tally is what was sent of one kind.
type tally struct {
	Msgs   int `json:"msgs"`
	Octets int `json:"octets"` // of IP packets, TCP's acknowledgements included
	Hops   int `json:"hops"`   // octets again, as often as a link carried them
}

// counts are messages by kind: "bgp update", "lisp map-register" and so on.
// Acknowledgements and handshakes of TCP are no messages, only octets.
type counts map[string]tally

// minus tells what was added since before.
func (c counts) minus(before counts) counts {
	d := counts{}
	for k, t := range c {
		b := before[k]
		if t != b {
			d[k] = tally{t.Msgs - b.Msgs, t.Octets - b.Octets, t.Hops - b.Hops}
		}
	}
	return d
}

// sum adds up the kinds that begin with prefix.
func (c counts) sum(prefix string) tally {
	var s tally
	for k, t := range c {
		if strings.HasPrefix(k, prefix) {
			s.Msgs += t.Msgs
			s.Octets += t.Octets
			s.Hops += t.Hops
		}
	}
	return s
}

func (c counts) String() string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(c)) {
		if c[k].Msgs > 0 {
			out = append(out, fmt.Sprintf("%s %d", k, c[k].Msgs))
		}
	}
	return strings.Join(out, ", ")
}

// counter counts control messages on the wire in all nodes, as they leave the
// node that made them, and their octets on each further link.
type counter struct {
	own   map[netip.Addr]string // who has an address
	socks []*os.File
	wg    sync.WaitGroup

	mu     sync.Mutex
	counts counts
	flows  map[flowKey]*messageStream
	err    error
}

type flowKey struct{ src, dst netip.AddrPort }

// newCounter begins to count. own tells whose each address is, also those that
// nobody has yet.
func newCounter(nodes map[string]*netns.NS, own map[netip.Addr]string) (*counter, error) {
	c := &counter{own: own, counts: counts{}, flows: map[flowKey]*messageStream{}}
	for name, ns := range nodes {
		var f *os.File
		err := ns.Do(func() (err error) {
			f, err = packetSocket(0, controlFilter)
			return err
		})
		if err != nil {
			c.close()
			return nil, fmt.Errorf("capture in %s: %w", name, err)
		}
		c.socks = append(c.socks, f)
		c.wg.Go(func() { c.read(name, f) })
	}
	return c, nil
}

// controlFilter takes what leaves by other than loopback: IPv4, unfragmented,
// of BGP, LISP's control plane, or the detector.
var controlFilter = assemble(
	bpf.LoadExtension{Num: bpf.ExtType},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.PACKET_OUTGOING, SkipTrue: 15},
	bpf.LoadExtension{Num: bpf.ExtInterfaceIndex},
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: 1, SkipTrue: 13},
	bpf.LoadExtension{Num: bpf.ExtProto},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.ETH_P_IP, SkipTrue: 11},
	bpf.LoadMemShift{Off: 0},
	bpf.LoadIndirect{Off: 0, Size: 2},
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: bgpPort, SkipTrue: 7},
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: controlPort, SkipTrue: 6},
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: detectorPort, SkipTrue: 5},
	bpf.LoadIndirect{Off: 2, Size: 2},
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: bgpPort, SkipTrue: 3},
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: controlPort, SkipTrue: 2},
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: detectorPort, SkipTrue: 1},
	bpf.RetConstant{Val: 0},
	bpf.RetConstant{Val: 65535},
	bpf.RetConstant{Val: 0},
)

// everything takes all IPv4 packets of an interface, both ways.
var everything = assemble(
	bpf.LoadExtension{Num: bpf.ExtProto},
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.ETH_P_IP, SkipTrue: 1},
	bpf.RetConstant{Val: 0},
	bpf.RetConstant{Val: 65535},
)

func assemble(list ...bpf.Instruction) []unix.SockFilter {
	raw, err := bpf.Assemble(list)
	if err != nil {
		panic(err) // a constant
	}
	out := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		out[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	return out
}

// packetSocket gives packets from their IP header on, of one interface or all
// (0) of the calling thread's namespace.
func packetSocket(ifindex int, filter []unix.SockFilter) (*os.File, error) {
	// Nothing may arrive before the filter is there.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	err = os.NewSyscallError("setsockopt", errors.Join(
		unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &prog),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 4<<20)))
	if err == nil {
		err = os.NewSyscallError("bind", unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: allProtocols, Ifindex: ifindex}))
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "packets"), nil
}

func (c *counter) read(node string, f *os.File) {
	buf := make([]byte, 65536)
	for {
		n, err := f.Read(buf)
		if errors.Is(err, unix.ENETDOWN) {
			continue
		}
		if err != nil {
			if !errors.Is(err, os.ErrClosed) {
				c.mu.Lock()
				c.err = errors.Join(c.err, err)
				c.mu.Unlock()
			}
			return
		}
		c.mu.Lock()
		c.count(node, buf[:n])
		c.mu.Unlock()
	}
}

// count takes a packet that leaves a node.
func (c *counter) count(node string, b []byte) {
	p, ok := parseIPv4(b)
	if !ok {
		return
	}
	add := func(kind string, msgs int, octets int) {
		t := c.counts[kind]
		t.Hops += octets
		if c.own[p.src.Addr()] == node {
			t.Msgs += msgs
			t.Octets += octets
		}
		c.counts[kind] = t
	}
	switch {
	case p.proto == unix.IPPROTO_TCP && (p.src.Port() == bgpPort || p.dst.Port() == bgpPort):
		// The octets of the packet go with the first message in it.
		kinds := []string(nil)
		if c.own[p.src.Addr()] == node {
			kinds = c.bgp(p)
		}
		octets := len(b)
		for _, k := range kinds {
			add("bgp "+k, 1, octets)
			octets = 0
		}
		if octets > 0 {
			add("bgp tcp", 0, octets)
		}
	case p.proto != unix.IPPROTO_UDP || len(p.payload) == 0:
	case p.src.Port() == detectorPort || p.dst.Port() == detectorPort:
		add("detector probe", 1, len(b))
	case p.src.Port() == controlPort || p.dst.Port() == controlPort:
		add("lisp "+lispKind(p.payload), 1, len(b))
	}
}

// lispKind names a control message (RFC 9301 section 5.1).
func lispKind(b []byte) string {
	switch b[0] >> 4 {
	case 1:
		switch {
		case b[0]&0x02 != 0:
			return "probe"
		case b[0]&0x01 != 0:
			return "smr"
		}
		return "map-request"
	case 2:
		if b[0]&0x08 != 0 {
			return "probe-reply"
		}
		return "map-reply"
	case 3:
		return "map-register"
	case 4:
		return "map-notify"
	case 5:
		return "map-notify-ack"
	case 7:
		return "info"
	case 8:
		return "ecm"
	}
	return "other"
}

// messageStream finds BGP messages in one direction of a TCP connection.
type messageStream struct {
	next uint32 // sequence number expected
	buf  []byte // of a message that is not complete
}

const bgpHeader = 19

var bgpKinds = map[byte]string{1: "open", 2: "update", 3: "notification", 4: "keepalive", 5: "route-refresh"}

// bgp returns the kinds of the messages that end in a segment. What is sent
// again counts as octets only.
func (c *counter) bgp(p packet) (kinds []string) {
	k := flowKey{p.src, p.dst}
	s := c.flows[k]
	if s == nil || p.syn {
		s = &messageStream{next: p.seq}
		if p.syn {
			s.next++
		}
		c.flows[k] = s
	}
	data := p.payload
	old := int32(s.next - p.seq)
	if old < 0 || int(old) >= len(data) {
		return nil
	}
	data = data[old:]
	s.next += uint32(len(data))
	s.buf = append(s.buf, data...)
	for len(s.buf) >= bgpHeader {
		n := int(binary.BigEndian.Uint16(s.buf[16:]))
		if n < bgpHeader || len(s.buf) < n {
			break
		}
		name := bgpKinds[s.buf[18]]
		if name == "" {
			name = "other"
		}
		kinds = append(kinds, name)
		s.buf = s.buf[n:]
	}
	return kinds
}

// snapshot returns what was counted so far.
func (c *counter) snapshot() counts {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.counts)
}

func (c *counter) close() error {
	for _, f := range c.socks {
		f.Close()
	}
	c.wg.Wait()
	return c.err
}

// packet is an IPv4 packet of UDP or TCP.
type packet struct {
	proto    uint8
	src, dst netip.AddrPort
	seq      uint32 // of TCP
	syn      bool
	payload  []byte
}

func parseIPv4(b []byte) (p packet, ok bool) {
	if len(b) < 20 || b[0]>>4 != 4 {
		return p, false
	}
	hl := int(b[0]&0xf) * 4
	n := int(binary.BigEndian.Uint16(b[2:]))
	if hl < 20 || n < hl || n > len(b) || binary.BigEndian.Uint16(b[6:])&0x1fff != 0 {
		return p, false
	}
	p.proto = b[9]
	src, dst := netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:]))
	b = b[hl:n]
	if len(b) < 8 {
		return p, false
	}
	p.src = netip.AddrPortFrom(src, binary.BigEndian.Uint16(b))
	p.dst = netip.AddrPortFrom(dst, binary.BigEndian.Uint16(b[2:]))
	switch p.proto {
	case unix.IPPROTO_UDP:
		p.payload = b[8:]
		return p, true
	case unix.IPPROTO_TCP:
		if len(b) < 20 || int(b[12]>>4)*4 > len(b) {
			return p, false
		}
		p.seq = binary.BigEndian.Uint32(b[4:])
		p.syn = b[13]&2 != 0
		p.payload = b[b[12]>>4*4:]
		return p, true
	}
	return p, false
}

// ways tells by which provider the packets of flows went.
type ways struct {
	socks []*os.File
	wg    sync.WaitGroup

	mu   sync.Mutex
	seen map[way][2]int // packets, by provider
}

// way is one direction of a flow, with the addresses of the hosts.
type way struct {
	proto    uint8
	src, dst netip.AddrPort
}

// watchWays begins to look at the links between the site and its providers.
func watchWays(w *world) (*ways, error) { return watchPackets(w, (*ways).note) }

func (x *ways) note(provider int, p packet) {
	x.mu.Lock()
	defer x.mu.Unlock()
	k := way{p.proto, p.src, p.dst}
	c := x.seen[k]
	c[provider]++
	x.seen[k] = c
}

// watchPackets calls f for each packet on the links between the site and its
// providers; of LISP data packets, it is what is inside.
func watchPackets(w *world, f func(x *ways, provider int, p packet)) (*ways, error) {
	x := &ways{seen: map[way][2]int{}}
	for i, n := range providerNodes {
		var s *os.File
		err := w.withLink(n, "site", func(l netlink.Link) (err error) {
			s, err = packetSocket(l.Attrs().Index, everything)
			return err
		})
		if err != nil {
			x.close()
			return nil, err
		}
		x.socks = append(x.socks, s)
		x.wg.Go(func() { x.read(i, s, f) })
	}
	return x, nil
}

func (x *ways) read(provider int, s *os.File, f func(x *ways, provider int, p packet)) {
	buf := make([]byte, 65536)
	for {
		n, err := s.Read(buf)
		if errors.Is(err, unix.ENETDOWN) {
			continue
		}
		if err != nil {
			return
		}
		p, ok := parseIPv4(buf[:n])
		if ok && p.proto == unix.IPPROTO_UDP && p.dst.Port() == dataPort && len(p.payload) > 8 {
			p, ok = parseIPv4(p.payload[8:])
		}
		if ok {
			f(x, provider, p)
		}
	}
}

// by tells by which provider a direction of a flow went: 0, 1, or -1 where
// none or both were seen.
func (x *ways) by(k way) int {
	x.mu.Lock()
	defer x.mu.Unlock()
	switch c := x.seen[k]; {
	case c[0] > 0 && c[1] == 0:
		return 0
	case c[1] > 0 && c[0] == 0:
		return 1
	}
	return -1
}

// forget starts anew: what is seen from now on tells the way.
func (x *ways) forget() {
	x.mu.Lock()
	defer x.mu.Unlock()
	clear(x.seen)
}

func (x *ways) close() {
	for _, f := range x.socks {
		f.Close()
	}
	x.wg.Wait()
}
