package tun

import (
	"bytes"
	"encoding/binary"
	"sync/atomic"

	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/encap"
)

// Limits of coalescing.
const (
	// searchGroups is how far back a packet's flow is looked for.
	searchGroups = 16
	// maxUDPSegments is what the kernel takes in one packet.
	maxUDPSegments = 64
	// ordinaryMTU is that of Ethernet. A packet of TCP that is longer and whose
	// checksum was left to others stands for several: a larger one by itself, of
	// jumbo frames, loses nothing by being cut.
	ordinaryMTU = 1500
	// cutLength is how long the packets are that a super-packet of TCP is cut into
	// which came without a word of its segments: what any link takes inside of a
	// site (RFC 8200 section 5), as whoever sent it can't be told of a smaller one.
	cutLength = encap.MinMTU6
)

// coalescer finds in a batch the packets of one flow that follow each other and
// makes groups of them, as a network card's receive offload does. Each group
// is written to the device as one packet of many segments. The order of a
// flow's packets does not change.
type coalescer struct {
	udp    bool         // the kernel takes UDP segments
	mtu    atomic.Int32 // of the device: what is longer has to be cut
	groups []group
	link   [dataplane.MaxBatch]int16 // next packet of the group, -1 at the end
}

// group is one packet, or several that will be one.
type group struct {
	first, last int
	n           int
	total       int // length of the whole in octets

	// Of a candidate; headers is 0 for a packet that must stay alone.
	proto       uint8
	ip, headers int
	size        int    // payload of each segment but the last
	next        uint32 // TCP sequence number that continues it
	push        uint8  // PSH, if the last segment had it
	closed      bool   // nothing may follow
	// The checksum is that of the pseudo-header alone: it was left to whoever
	// takes the packet to where a checksum is needed. Among virtual links that is
	// nobody. A packet of which this is said by chance loses nothing, as computing
	// its checksum comes to the same.
	unfinished bool
	cut        bool // it came in one piece, and stays alone
	checked    bool // the first packet's checksum was found right
}

// load makes groups of at most MaxBatch packets, in the order of their first.
func (c *coalescer) load(pkts [][]byte) {
	c.groups = c.groups[:0]
	for i, p := range pkts {
		c.link[i] = -1
		g := c.candidate(p)
		g.first, g.last, g.n, g.total = i, i, 1, len(p)
		if g.headers > 0 {
			if at := c.find(pkts, p, &g); at >= 0 && c.join(pkts, at, i, &g) {
				continue
			}
		}
		c.groups = append(c.groups, g)
	}
}

// candidate parses p as far as it matters here. A packet with ports that can't
// be coalesced is a closed group of its own: find comes upon it, and so nothing
// of its flow that follows is put before it.
func (c *coalescer) candidate(p []byte) (g group) {
	if p[0]>>4 == 4 {
		// No options, no fragments.
		if len(p) < 20 || p[0] != 0x45 || binary.BigEndian.Uint16(p[6:])&0x3fff != 0 {
			return g
		}
		g.ip, g.proto = 20, p[9]
	} else {
		if len(p) < 40 {
			return g
		}
		g.ip, g.proto = 40, p[6]
	}
	switch {
	case g.proto == protoTCP && len(p) >= g.ip+20:
		g.headers = g.ip + int(p[g.ip+12]>>4)*4
		if g.headers < g.ip+20 || g.headers > len(p) {
			g.headers = 0
			return g
		}
		g.unfinished = binary.BigEndian.Uint16(p[g.ip+16:]) == pseudoSum(p, &g)
		flags := p[g.ip+13]
		g.size = len(p) - g.headers
		g.next = binary.BigEndian.Uint32(p[g.ip+4:]) + uint32(g.size)
		g.push = flags & tcpPSH
		// Anything but plain data stays alone, and ends its group.
		g.closed = flags&^tcpPSH != tcpACK || g.size == 0 || g.push != 0
		if g.unfinished && len(p) > min(ordinaryMTU, int(c.mtu.Load())) {
			g.size, g.closed, g.cut = cutLength-g.headers, true, true
		}
	case g.proto == protoUDP && len(p) >= g.ip+8:
		g.unfinished = binary.BigEndian.Uint16(p[g.ip+6:]) == pseudoSum(p, &g)
		g.headers = g.ip + 8
		g.size = len(p) - g.headers
		g.closed = !c.udp || g.size == 0 || int(binary.BigEndian.Uint16(p[g.ip+4:])) != len(p)-g.ip || binary.BigEndian.Uint16(p[g.ip+6:]) == 0
	}
	return g
}

// find returns the latest group of p's flow, or -1.
func (c *coalescer) find(pkts [][]byte, p []byte, g *group) int {
	src := 12
	if g.ip == 40 {
		src = 8
	}
	// Addresses and ports lie together.
	key := p[src : g.ip+4]
	for i := len(c.groups) - 1; i >= 0 && i >= len(c.groups)-searchGroups; i-- {
		o := &c.groups[i]
		if o.headers > 0 && o.ip == g.ip && o.proto == g.proto && bytes.Equal(pkts[o.first][src:g.ip+4], key) {
			return i
		}
	}
	return -1
}

// join adds packet i, described by p, to group at. It reports false when they
// do not belong together; then i begins a group of its own.
func (c *coalescer) join(pkts [][]byte, at, i int, p *group) bool {
	g := &c.groups[at]
	head, pkt := pkts[g.first], pkts[i]
	if g.closed || p.cut || p.headers != g.headers || p.size > g.size || p.size == 0 || g.total+p.size > maxPacket || !sameIP(head, pkt, g.n) {
		return false
	}
	switch g.proto {
	case protoTCP:
		flags := pkt[p.ip+13]
		if flags&^tcpPSH != tcpACK || p.next-uint32(p.size) != g.next || !sameTCP(head[g.ip:g.headers], pkt[p.ip:p.headers]) {
			return false
		}
	case protoUDP:
		if p.closed || g.n >= maxUDPSegments {
			return false
		}
	}
	// The kernel will not look at the checksums of a coalesced packet again.
	if !g.checked && !g.sound(head) || !p.sound(pkt) {
		g.closed = !g.checked
		return false
	}
	g.checked = true
	c.link[g.last] = int16(i)
	g.last, g.n, g.total, g.next = i, g.n+1, g.total+p.size, p.next
	g.closed, g.push = p.closed || p.size < g.size, p.push
	return true
}

// sameIP compares what segmentation will copy from the first packet into all:
// TOS, TTL and DF, or traffic class, flow label and hop limit. pkt would be the
// n-th after head; without DF the identification has to continue.
func sameIP(head, pkt []byte, n int) bool {
	if head[0]>>4 == 6 {
		return bytes.Equal(head[:4], pkt[:4]) && head[7] == pkt[7]
	}
	if head[1] != pkt[1] || head[6] != pkt[6] || head[8] != pkt[8] {
		return false
	}
	df := head[6]&0x40 != 0
	return df || binary.BigEndian.Uint16(pkt[4:]) == binary.BigEndian.Uint16(head[4:])+uint16(n)
}

// sameTCP compares two TCP headers but for sequence number, PSH and checksum:
// acknowledgement, window, urgent pointer and options.
func sameTCP(a, b []byte) bool {
	return bytes.Equal(a[8:13], b[8:13]) && bytes.Equal(a[14:16], b[14:16]) && bytes.Equal(a[18:], b[18:])
}

// sound reports whether nothing is wrong with the checksum of a packet that g
// describes.
func (g *group) sound(p []byte) bool {
	return g.unfinished || encap.Fold(encap.Sum(p[g.ip:], encap.PseudoHeader(p, g.proto, len(p)-g.ip))) == 0xffff
}

// pseudoSum is what is in place of an unfinished checksum.
func pseudoSum(p []byte, g *group) uint16 {
	return encap.Fold(encap.PseudoHeader(p, g.proto, len(p)-g.ip))
}

// offload returns what the kernel is told of a group whose first packet is head,
// which finish has to be asked of, if it is more than one packet or has to be cut.
func (g *group) offload(head []byte) vnetHeader {
	switch {
	case g.n > 1, g.cut && g.headers+g.size < g.total:
		return g.finish(head)
	case g.unfinished:
		v := vnetHeader{flags: vnetNeedsChecksum, csumAt: uint16(g.ip), csumOff: 16}
		if g.proto == protoUDP {
			v.csumOff = 6
		}
		return v
	}
	return vnetHeader{}
}

// finish makes head, the first packet of the group, the head of the whole, and
// returns how the kernel is to cut it.
func (g *group) finish(head []byte) vnetHeader {
	v := vnetHeader{flags: vnetNeedsChecksum, hdrLen: uint16(g.headers), gsoSize: uint16(g.size), csumAt: uint16(g.ip)}
	if head[0]>>4 == 4 {
		v.gsoType = gsoTCPv4
		binary.BigEndian.PutUint16(head[2:], uint16(g.total))
		head[10], head[11] = 0, 0
		binary.BigEndian.PutUint16(head[10:], encap.Checksum(head[:g.ip]))
	} else {
		v.gsoType = gsoTCPv6
		binary.BigEndian.PutUint16(head[4:], uint16(g.total-40))
	}
	v.csumOff = 16
	if g.proto == protoUDP {
		v.gsoType, v.csumOff = gsoUDP, 6
		binary.BigEndian.PutUint16(head[g.ip+4:], uint16(g.total-g.ip))
	} else {
		head[g.ip+13] |= g.push // segmentation leaves it to the last
		if head[g.ip+13]&tcpCWR != 0 {
			v.gsoType |= gsoECN // and this to the first
		}
	}
	sum := encap.Fold(encap.PseudoHeader(head, g.proto, g.total-g.ip))
	binary.BigEndian.PutUint16(head[g.ip+int(v.csumOff):], sum)
	return v
}
