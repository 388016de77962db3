package tun

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/encap"
)

// OutletDevice is the name of the interface by which super-packets leave, where
// Config.Unfinished allows it. The kernel takes them for packets that came in by
// it and forwards them, so they pass the firewall as such.
const OutletDevice = "eidolon-out"

// outletInterval is how often the settings of the outlet are looked at. Nothing
// leaves by it before the second look: what manages the interfaces of the machine
// may have settings of its own for a new one.
var outletInterval = time.Second

// Super-packets in tunnels, which Linux 6.17 brought (if_tun.h and virtio_net.h;
// Virtual I/O Device specification 1.4, section 5.1.6).
const (
	offloadTunnel = 0x80 | 0x100 // TUN_F_UDP_TUNNEL_GSO, TUN_F_UDP_TUNNEL_GSO_CSUM
	vnetOuterSum  = 8            // VIRTIO_NET_HDR_F_UDP_TUNNEL_CSUM
	gsoTunnel4    = 0x20         // VIRTIO_NET_HDR_GSO_UDP_TUNNEL_IPV4
	gsoTunnel6    = 0x40
	tunnelVnetLen = 24 // struct virtio_net_hdr_v1_hash_tunnel
)

const (
	ethernetLen = 14
	udpLen      = 8
	// wholeLen is how long a super-packet must be to leave in one piece: who takes
	// it off knows it by that (see coalescer).
	wholeLen = ordinaryMTU + 1
	// frameLen is the room for all that is before a LISP header.
	frameLen = tunnelVnetLen + ethernetLen + 40 + udpLen
)

// outlet is a TAP device by which super-packets leave in one piece, with the outer
// headers of the first of their segments: the last device on the way cuts them, or
// nobody. No socket takes such a packet.
type outlet struct {
	file *os.File
	rc   syscall.RawConn
	mac  net.HardwareAddr // of 6 octets
	// open4 and open6 say that the kernel forwards what comes out with outer
	// headers of the family.
	open4, open6 atomic.Bool
	looked       bool // by look; for one goroutine
}

// openOutlet creates the device. It fails where the kernel takes no super-packets
// in tunnels.
func openOutlet() (*outlet, error) {
	fd, err := openTUN()
	if err != nil {
		return nil, err
	}
	o := &outlet{file: os.NewFile(uintptr(fd), "/dev/net/tun")}
	if err := o.create(fd); err != nil {
		return nil, errors.Join(fmt.Errorf("device %s: %w", OutletDevice, err), o.file.Close())
	}
	return o, nil
}

func (o *outlet) create(fd int) error {
	ifr, err := unix.NewIfreq(OutletDevice)
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR | unix.IFF_TUN_EXCL)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		return fmt.Errorf("create it: %w", err)
	}
	err = errors.Join(unix.IoctlSetPointerInt(fd, unix.TUNSETVNETLE, 1), unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, tunnelVnetLen))
	if err != nil {
		return fmt.Errorf("choose the header of its packets: %w", err)
	}
	if err := unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, offloadTCP|offloadTunnel); err != nil {
		return fmt.Errorf("the kernel takes no super-packets in tunnels, as Linux 6.17 and later do: %w", err)
	}
	o.rc, err = o.file.SyscallConn()
	return err
}

// Close removes the device.
func (o *outlet) Close() error {
	o.open4.Store(false)
	o.open6.Store(false)
	return o.file.Close()
}

// setUpOutlet brings the device up.
func (s *host) setUpOutlet(o *outlet) error {
	link, err := s.h.LinkByName(OutletDevice)
	if err != nil {
		return fmt.Errorf("find device %s: %w", OutletDevice, err)
	}
	// Of our own choice: what manages interfaces changes one of the kernel's.
	o.mac = make(net.HardwareAddr, 6)
	binary.BigEndian.PutUint32(o.mac[2:], rand.Uint32())
	o.mac[0] = 0x02 // locally administered
	if err := s.h.LinkSetHardwareAddr(link, o.mac); err != nil {
		return fmt.Errorf("set the address of %s: %w", OutletDevice, err)
	}
	_ = s.h.LinkSetIP6AddrGenMode(link, addrGenNone)
	if err := s.h.LinkSetARPOff(link); err != nil { // nobody is there
		return fmt.Errorf("set up %s: %w", OutletDevice, err)
	}
	if err := s.h.LinkSetUp(link); err != nil {
		return fmt.Errorf("bring %s up: %w", OutletDevice, err)
	}
	return nil
}

// settleOutlet has the kernel forward IPv4 packets of the device whose source is
// an address of ours. Netlink may do so where /proc/sys may not be written, as in
// containers.
func (s *host) settleOutlet(link netlink.Link) error {
	const forwarding, rpFilter, acceptLocal = 1, 8, 23 // IPV4_DEVCONF_...
	req := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(link.Attrs().Index)
	req.AddData(msg)
	spec := nl.NewRtAttr(unix.IFLA_AF_SPEC, nil)
	conf := spec.AddRtAttr(unix.AF_INET, nil).AddRtAttr(unix.IFLA_INET_CONF, nil)
	conf.AddRtAttr(forwarding, nl.Uint32Attr(1))
	conf.AddRtAttr(rpFilter, nl.Uint32Attr(0)) // a device without an address is never loose
	conf.AddRtAttr(acceptLocal, nl.Uint32Attr(1))
	req.AddData(spec)
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// look opens and closes the outlet by what the settings of the device are, and
// makes those that others have changed. The first look opens nothing. troubles are
// what is in the way of a family that the plane has RLOCs of.
func (o *outlet) look(s *host, v4, v6 bool) (troubles []string) {
	trouble := func(format string, args ...any) { troubles = append(troubles, fmt.Sprintf(format, args...)) }
	open4, open6 := v4, v6
	link, err := s.h.LinkByName(OutletDevice)
	if err == nil && !bytes.Equal(link.Attrs().HardwareAddr, o.mac) {
		err = s.h.LinkSetHardwareAddr(link, o.mac)
	}
	if err != nil {
		trouble("%s: %v", OutletDevice, err)
		open4, open6 = false, false
	}
	conf4, conf6 := "net/ipv4/conf/"+OutletDevice+"/", "net/ipv6/conf/"+OutletDevice+"/"
	if open4 {
		good := func() bool {
			return sysctl(conf4+"forwarding") == "1" && sysctl(conf4+"accept_local") == "1" && sysctl(conf4+"rp_filter") == "0"
		}
		if !good() {
			err = s.settleOutlet(link)
		}
		switch {
		case !good():
			trouble("IPv4: the settings of %s can't be made: %v", OutletDevice, err)
			open4 = false
		case reversePath(OutletDevice) > "0":
			trouble("IPv4: reverse path filtering is on for all interfaces: sysctl -w net.ipv4.conf.all.rp_filter=0, and filter by the settings of each")
			open4 = false
		}
	}
	if open6 {
		// Forwarding for all devices would end autoconfiguration of others.
		for key, value := range map[string]string{"force_forwarding": "1", "disable_ipv6": "0"} {
			if sysctl(conf6+key) != value {
				_ = os.WriteFile("/proc/sys/"+conf6+key, []byte(value), 0o644)
			}
		}
		if disabled := sysctl(conf6+"disable_ipv6") != "0"; disabled || sysctl(conf6+"force_forwarding") != "1" && sysctl("net/ipv6/conf/all/forwarding") == "0" {
			trouble("IPv6: forwarding is off, and can't be turned on for %s alone: sysctl -w net.ipv6.conf.%s.disable_ipv6=0 net.ipv6.conf.%s.force_forwarding=1", OutletDevice, OutletDevice, OutletDevice)
			open6 = false
		}
	}
	o.open4.Store(open4 && o.looked)
	o.open6.Store(open6 && o.looked)
	o.looked = true
	return troubles
}

// lookAtOutlet does so for the plane, and says in the log what has changed.
// before is what it said last.
func (p *Plane) lookAtOutlet(before *string) {
	var v4, v6 bool
	for _, a := range p.rlocs() {
		v4, v6 = v4 || a.Is4(), v6 || a.Is6()
	}
	first := !p.outlet.looked
	now := strings.Join(p.outlet.look(p.host, v4, v6), "; ")
	if first || now == *before {
		return
	}
	*before = now
	if now != "" {
		p.log.Warn("super-packets are cut where the kernel would not forward what leaves by "+OutletDevice, "err", now)
	} else {
		p.log.Info("super-packets leave in one piece", "device", OutletDevice)
	}
}

// exit is what one worker needs to send by the outlet.
type exit struct {
	o     *outlet
	frame [frameLen]byte
	iovs  [2]unix.Iovec
	n     int // octets of the frame
	write func(fd uintptr)
	errno unix.Errno
}

func newExit(o *outlet) *exit {
	x := &exit{o: o}
	x.write = func(fd uintptr) {
		for {
			_, _, errno := unix.Syscall(unix.SYS_WRITEV, fd, uintptr(unsafe.Pointer(&x.iovs[0])), uintptr(len(x.iovs)))
			if errno != unix.EINTR {
				x.errno = errno
				return
			}
		}
	}
	return x
}

// takes reports whether a super-packet may leave by the outlet. Who takes it off
// knows one by its length, and where its segments begin only without options. A
// router behind would take one of UDP for a single datagram, and what is forwarded
// loses one from its TTL.
func (x *exit) takes(p *dataplane.Packet) bool {
	open, inner := &x.o.open4, p.Data[encap.HeaderLen:]
	if p.Dst.Is6() {
		open = &x.o.open6
	}
	plain := 20
	if inner[0]>>4 == 6 {
		plain = 40
	}
	return open.Load() && p.Super.Protocol == protoTCP && int(p.Super.Transport) == plain && inner[plain+13]&tcpSYN == 0 &&
		len(inner) >= wholeLen && p.TTL < 255 && p.Src.Is4() == p.Dst.Is4() && len(inner)+encap.Overhead(p.Dst) <= maxPacket
}

// send sends a super-packet from a UDP source port of ours. It reports whether the
// kernel took it.
func (x *exit) send(p *dataplane.Packet, port uint16) bool {
	x.build(p, port)
	x.iovs[0].Base = &x.frame[0]
	x.iovs[0].SetLen(x.n)
	x.iovs[1].Base = &p.Data[0]
	x.iovs[1].SetLen(len(p.Data))
	err := x.o.rc.Control(x.write)
	runtime.KeepAlive(p)
	return err == nil && x.errno == 0
}

// build makes what comes before the LISP header of a super-packet: the kernel's
// description, and the headers. The UDP checksum is left to who cuts it, too:
// without one no receiver would aggregate the segments (UDP_GRO).
func (x *exit) build(p *dataplane.Packet, port uint16) {
	clear(x.frame[:])
	inner := p.Data[encap.HeaderLen:]
	vnet, le := x.frame[:tunnelVnetLen], binary.LittleEndian
	eth := x.frame[tunnelVnetLen:]
	copy(eth, x.o.mac)
	copy(eth[6:], x.o.mac)
	eth[6] ^= 0x02 // not its own
	ip, length := eth[ethernetLen:], udpLen+len(p.Data)
	outer, typ := 20, byte(gsoTunnel4)
	if p.Dst.Is4() {
		binary.BigEndian.PutUint16(eth[12:], unix.ETH_P_IP)
		src, dst := p.Src.As4(), p.Dst.As4()
		ip[0], ip[1] = 0x45, p.TOS
		binary.BigEndian.PutUint16(ip[2:], uint16(outer+length))
		ip[6] = 0x40 // DF
		ip[8], ip[9] = p.TTL+1, protoUDP
		copy(ip[12:], src[:])
		copy(ip[16:], dst[:])
		binary.BigEndian.PutUint16(ip[10:], encap.Checksum(ip[:outer]))
	} else {
		outer, typ = 40, gsoTunnel6
		binary.BigEndian.PutUint16(eth[12:], unix.ETH_P_IPV6)
		src, dst := p.Src.As16(), p.Dst.As16()
		binary.BigEndian.PutUint16(ip, 6<<12|uint16(p.TOS)<<4)
		binary.BigEndian.PutUint16(ip[4:], uint16(length))
		ip[6], ip[7] = protoUDP, p.TTL+1
		copy(ip[8:], src[:])
		copy(ip[24:], dst[:])
	}
	udp := ip[outer:]
	binary.BigEndian.PutUint16(udp, port)
	binary.BigEndian.PutUint16(udp[2:], encap.Port)
	binary.BigEndian.PutUint16(udp[4:], uint16(length))
	binary.BigEndian.PutUint16(udp[6:], encap.Fold(encap.PseudoHeader(ip[:outer], protoUDP, length)))
	x.n = tunnelVnetLen + ethernetLen + outer + udpLen

	first := ethernetLen + outer + udpLen + encap.HeaderLen // of the inner packet
	transport := first + int(p.Super.Transport)
	vnet[0] = vnetNeedsChecksum | vnetOuterSum
	vnet[1] = typ | gsoTCPv4
	if inner[0]>>4 == 6 {
		vnet[1] = typ | gsoTCPv6
	}
	if inner[p.Super.Transport+13]&tcpCWR != 0 {
		vnet[1] |= gsoECN
	}
	le.PutUint16(vnet[2:], uint16(first)+p.Super.Headers)
	le.PutUint16(vnet[4:], p.Super.Size)
	le.PutUint16(vnet[6:], uint16(transport))
	le.PutUint16(vnet[8:], 16) // the checksum's place in a TCP header
	le.PutUint16(vnet[20:], uint16(ethernetLen+outer))
	le.PutUint16(vnet[22:], uint16(first))
}
