package applet

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// icmpConn is a raw ICMP or ICMPv6 socket towards one destination.
type icmpConn struct {
	*net.IPConn
	dst netip.Addr
	v6  bool
}

// icmpPacket is an echo reply, or an ICMP error about an echo request.
type icmpPacket struct {
	at      time.Time
	from    netip.Addr
	id, seq uint16
	ttl     int
	size    int    // octets of the ICMP message
	failure string // "" for an echo reply
	mtu     int    // of a too-big
}

func openICMP(dst netip.Addr, o pingOptions) (*icmpConn, error) {
	c := &icmpConn{dst: dst, v6: dst.Is6()}
	network := "ip4:icmp"
	if c.v6 {
		network = "ip6:ipv6-icmp"
	}
	var local *net.IPAddr
	if o.source.IsValid() {
		if o.source.Is6() != c.v6 {
			return nil, fmt.Errorf("source %s and destination %s are not of one family", o.source, dst)
		}
		local = &net.IPAddr{IP: o.source.AsSlice(), Zone: o.source.Zone()}
	}
	conn, err := net.ListenIP(network, local)
	if err != nil {
		return nil, err
	}
	c.IPConn = conn
	if err := c.configure(o); err != nil {
		conn.Close()
		return nil, err
	}
	return c, nil
}

func (c *icmpConn) configure(o pingOptions) error {
	type opt struct{ level, name, value int }
	var opts []opt
	if c.v6 {
		if o.discover >= 0 {
			dontFrag := 0
			if o.discover == syscall.IP_PMTUDISC_DO {
				dontFrag = 1
			}
			opts = append(opts, opt{unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, o.discover}, opt{unix.IPPROTO_IPV6, unix.IPV6_DONTFRAG, dontFrag})
		}
		if o.ttl > 0 {
			opts = append(opts, opt{unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, o.ttl})
		}
		opts = append(opts, opt{unix.IPPROTO_IPV6, unix.IPV6_RECVHOPLIMIT, 1})
	} else {
		if o.discover >= 0 {
			opts = append(opts, opt{unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, o.discover})
		}
		if o.ttl > 0 {
			opts = append(opts, opt{unix.IPPROTO_IP, unix.IP_TTL, o.ttl})
		}
		opts = append(opts, opt{unix.IPPROTO_IP, unix.IP_RECVTTL, 1})
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	err = raw.Control(func(fd uintptr) {
		for _, o := range opts {
			if serr = unix.SetsockoptInt(int(fd), o.level, o.name, o.value); serr != nil {
				serr = os.NewSyscallError("setsockopt", serr)
				return
			}
		}
	})
	if err != nil {
		return err
	}
	return serr
}

// mtu asks the kernel for the path MTU towards the destination; 0 if it has
// no answer.
func (c *icmpConn) mtu() int {
	network := "udp4"
	if c.v6 {
		network = "udp6"
	}
	u, err := net.DialUDP(network, nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(c.dst, 9)))
	if err != nil {
		return 0
	}
	defer u.Close()
	raw, err := u.SyscallConn()
	if err != nil {
		return 0
	}
	mtu := 0
	raw.Control(func(fd uintptr) {
		if c.v6 {
			mtu, _ = unix.GetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU)
		} else {
			mtu, _ = unix.GetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU)
		}
	})
	return mtu
}

func (c *icmpConn) sendEcho(id, seq uint16, size int) error {
	b := make([]byte, 8+size)
	if c.v6 {
		fillEcho(b, byte(ipv6.ICMPTypeEchoRequest), id, seq) // the kernel fills in the checksum
	} else {
		fillEcho(b, byte(ipv4.ICMPTypeEcho), id, seq)
		binary.BigEndian.PutUint16(b[2:], checksum(b))
	}
	_, err := c.WriteToIP(b, &net.IPAddr{IP: c.dst.AsSlice(), Zone: c.dst.Zone()})
	return err
}

// receive passes what concerns echo requests on until the socket is closed.
func (c *icmpConn) receive(to chan<- icmpPacket) {
	buf := make([]byte, 65536)
	oob := make([]byte, 128)
	for {
		n, oobn, _, from, err := c.ReadMsgIP(buf, oob)
		at := time.Now()
		if err != nil {
			if ignoreClosed(err) == nil {
				return
			}
			continue
		}
		b := buf[:n]
		var pkt icmpPacket
		var ok bool
		if c.v6 {
			pkt, ok = parseICMPv6(b)
			var cm ipv6.ControlMessage
			if cm.Parse(oob[:oobn]) == nil {
				pkt.ttl = cm.HopLimit
			}
		} else {
			// ReadMsgIP keeps the IPv4 header.
			b = skipIPv4(b)
			pkt, ok = parseICMP(b)
			var cm ipv4.ControlMessage
			if cm.Parse(oob[:oobn]) == nil {
				pkt.ttl = cm.TTL
			}
		}
		if !ok {
			continue
		}
		addr, _ := netip.AddrFromSlice(from.IP)
		pkt.at, pkt.from, pkt.size = at, addr.Unmap(), len(b)
		to <- pkt
	}
}

// skipIPv4 removes an IPv4 header; nil if there is none.
func skipIPv4(b []byte) []byte {
	if len(b) < 20 || b[0]>>4 != 4 {
		return nil
	}
	n := int(b[0]&15) * 4
	if n < 20 || len(b) < n {
		return nil
	}
	return b[n:]
}

// parseICMP reads an echo reply, or an error about an echo request (RFC 792).
func parseICMP(b []byte) (icmpPacket, bool) {
	var p icmpPacket
	if len(b) < 8 {
		return p, false
	}
	switch ipv4.ICMPType(b[0]) {
	case ipv4.ICMPTypeEchoReply:
		p.id, p.seq = binary.BigEndian.Uint16(b[4:]), binary.BigEndian.Uint16(b[6:])
		return p, true
	case ipv4.ICMPTypeDestinationUnreachable:
		p.failure = fmt.Sprintf("destination unreachable, code %d", b[1])
		if name, ok := unreachable4[b[1]]; ok {
			p.failure = name
		}
		if b[1] == 4 { // fragmentation needed: next-hop MTU (RFC 1191)
			p.mtu = int(binary.BigEndian.Uint16(b[6:]))
		}
	case ipv4.ICMPTypeTimeExceeded:
		p.failure = "time to live exceeded"
	case ipv4.ICMPTypeParameterProblem:
		p.failure = "parameter problem"
	default:
		return p, false
	}
	inner := b[8:]
	if len(inner) < 20 || inner[9] != 1 {
		return p, false
	}
	echo := skipIPv4(inner)
	if len(echo) < 8 || ipv4.ICMPType(echo[0]) != ipv4.ICMPTypeEcho {
		return p, false
	}
	p.id, p.seq = binary.BigEndian.Uint16(echo[4:]), binary.BigEndian.Uint16(echo[6:])
	return p, true
}

var unreachable4 = map[byte]string{
	0: "destination net unreachable", 1: "destination host unreachable", 2: "protocol unreachable",
	3: "port unreachable", 4: "fragmentation needed and DF set", 9: "net prohibited", 10: "host prohibited", 13: "packet filtered",
}

var unreachable6 = map[byte]string{
	0: "no route to destination", 1: "administratively prohibited", 2: "beyond scope of source address",
	3: "address unreachable", 4: "port unreachable", 5: "source address failed policy", 6: "reject route to destination",
}

// parseICMPv6 reads an echo reply, or an error about an echo request (RFC 4443).
func parseICMPv6(b []byte) (icmpPacket, bool) {
	var p icmpPacket
	if len(b) < 8 {
		return p, false
	}
	switch ipv6.ICMPType(b[0]) {
	case ipv6.ICMPTypeEchoReply:
		p.id, p.seq = binary.BigEndian.Uint16(b[4:]), binary.BigEndian.Uint16(b[6:])
		return p, true
	case ipv6.ICMPTypeDestinationUnreachable:
		p.failure = fmt.Sprintf("destination unreachable, code %d", b[1])
		if name, ok := unreachable6[b[1]]; ok {
			p.failure = name
		}
	case ipv6.ICMPTypePacketTooBig:
		p.failure = "packet too big"
		p.mtu = int(binary.BigEndian.Uint32(b[4:]))
	case ipv6.ICMPTypeTimeExceeded:
		p.failure = "hop limit exceeded"
	case ipv6.ICMPTypeParameterProblem:
		p.failure = "parameter problem"
	default:
		return p, false
	}
	inner := b[8:]
	if len(inner) < 48 || inner[0]>>4 != 6 || inner[6] != 58 || ipv6.ICMPType(inner[40]) != ipv6.ICMPTypeEchoRequest {
		return p, false
	}
	p.id, p.seq = binary.BigEndian.Uint16(inner[44:]), binary.BigEndian.Uint16(inner[46:])
	return p, true
}

// checksum is the Internet checksum (RFC 1071) of b.
func checksum(b []byte) uint16 {
	sum := uint32(0)
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
