// Package tunnel makes the kernel's links between two routers over the underlay,
// GRE (RFC 2784) or VXLAN (RFC 7348), or uses those that are there, and moves
// packets over them that the kernel shall not route: it sends them to whom it is
// told, and takes those in UDP to one port, whatever their destination.
//
// The kernel forwards nothing that comes by such a link.
package tunnel

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Kind is what a tunnel is made of.
type Kind string

const (
	// GRE is a point-to-point link of the kernel, over IPv4 or IPv6.
	GRE Kind = "gre"
	// VXLAN is a link with two stations. It takes what anybody sends with its
	// number.
	VXLAN Kind = "vxlan"
	// Existing is a link that somebody else made, with its addresses.
	Existing Kind = "existing"
)

// Limits and intervals that are ours.
const (
	// alias marks the links of ours in the kernel.
	alias = "eidolon tunnel"
	// look is how often the kernel is asked for link-layer addresses, and soon
	// how long it is not when somebody wants one that was not there.
	look = time.Second
	soon = 50 * time.Millisecond
	// ttl is that of the outer packets: the inner one may be 1.
	ttl = 64
	// vxlanPort is that of RFC 7348.
	vxlanPort = 4789
	// maxPacket is the largest packet that is received, in octets.
	maxPacket = 1 << 16
)

// ErrNoNeighbour says that the kernel does not know the link-layer address of a
// next hop.
var ErrNoNeighbour = errors.New("the link-layer address of the next hop is not known")

// Config is a tunnel.
type Config struct {
	// Name is that of the interface.
	Name string
	Kind Kind
	// Local and Remote are the ends in the underlay, of one family.
	Local, Remote netip.Addr
	// ID is the key of GRE, 0 for none, or the number of a VXLAN, which no other
	// link of the host may have.
	ID uint32
	// Addrs are our addresses inside, which an existing link must have.
	Addrs []netip.Prefix
}

// Set is some tunnels. Send may be called from any goroutine.
type Set struct {
	h     *netlink.Handle
	log   *slog.Logger
	links []*link
	// neighbours are the link-layer addresses of next hops.
	neighbours atomic.Pointer[map[hop][6]byte]
	looking    sync.Mutex
	looked     time.Time // under looking
}

type hop struct {
	index int
	addr  netip.Addr
}

type link struct {
	Config
	index    int
	ethernet bool
	made     netlink.Link // by us; nil for an existing one
	file     *os.File     // of the packet socket
	conn     interface {
		Read(func(uintptr) bool) error
		Write(func(uintptr) bool) error
	}
}

// ErrRunning is returned by Cleanup while a process uses links of ours.
var ErrRunning = errors.New("a mapserver is running, whose tunnels stay")

// Open makes the links, after removing those that a killed process left, and
// opens a socket on each for packets in UDP to port. It needs CAP_NET_ADMIN and
// CAP_NET_RAW. Close follows. A nil logger discards.
func Open(cfgs []Config, port uint16, log *slog.Logger) (_ *Set, err error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := &Set{log: log}
	if s.h, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return nil, fmt.Errorf("open a netlink socket: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	// By other names too, which would bar new ones with their ends or number.
	if _, err := removeUnused(s.h); err != nil {
		return nil, fmt.Errorf("remove what an earlier run left: %w", err)
	}
	for _, c := range cfgs {
		l := &link{Config: c}
		s.links = append(s.links, l)
		if err := s.open(l, port); err != nil {
			return nil, fmt.Errorf("tunnel %s: %w", c.Name, err)
		}
	}
	s.refresh(0)
	return s, nil
}

func (s *Set) open(l *link, port uint16) error {
	if l.Kind != Existing {
		if err := s.make(l); err != nil {
			return err
		}
	}
	is, err := s.h.LinkByName(l.Name)
	if err != nil {
		return err
	}
	l.index, l.ethernet = is.Attrs().Index, is.Attrs().EncapType == "ether"
	for _, v := range []string{"ipv4", "ipv6"} {
		if err := noForwarding(fmt.Sprintf("/proc/sys/net/%s/conf/%s/forwarding", v, l.Name)); err != nil {
			return fmt.Errorf("turn forwarding of the kernel off: %w", err)
		}
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("open a packet socket: %w", err)
	}
	l.file = os.NewFile(uintptr(fd), "packet "+l.Name)
	if err := filter(fd, port); err != nil {
		return fmt.Errorf("filter packets: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: network(unix.ETH_P_ALL), Ifindex: l.index}); err != nil {
		return fmt.Errorf("bind a packet socket: %w", err)
	}
	l.conn, err = l.file.SyscallConn()
	return err
}

// Cleanup removes the links that a killed process has left in this network
// namespace. Those that a process uses stay; then it returns ErrRunning. It needs
// CAP_NET_ADMIN.
func Cleanup() error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open a netlink socket: %w", err)
	}
	defer h.Close()
	used, err := removeUnused(h)
	if err == nil && used > 0 {
		return ErrRunning
	}
	return err
}

// removeUnused removes the links of ours on which nobody has a packet socket, as
// each process that lives has, and returns how many others there are.
func removeUnused(h *netlink.Handle) (used int, err error) {
	links, err := h.LinkList()
	if err != nil {
		return 0, fmt.Errorf("list the interfaces: %w", err)
	}
	links = slices.DeleteFunc(links, func(l netlink.Link) bool { return l.Attrs().Alias != alias })
	if len(links) == 0 {
		return 0, nil
	}
	text, err := os.ReadFile("/proc/thread-self/net/packet")
	if err != nil {
		return 0, err
	}
	listening := make(map[int]bool)
	for line := range strings.Lines(string(text)) {
		// sk RefCnt Type Proto Iface
		f := strings.Fields(line)
		if len(f) > 4 && f[2] == strconv.Itoa(unix.SOCK_DGRAM) {
			index, _ := strconv.Atoi(f[4])
			listening[index] = true
		}
	}
	var errs []error
	for _, l := range links {
		if listening[l.Attrs().Index] {
			used++
		} else if err := h.LinkDel(l); err != nil {
			errs = append(errs, fmt.Errorf("remove tunnel %s: %w", l.Attrs().Name, err))
		}
	}
	return used, errors.Join(errs...)
}

// make makes a link with its addresses.
func (s *Set) make(l *link) error {
	if old, err := s.h.LinkByName(l.Name); err == nil {
		if old.Attrs().Alias != alias {
			return errors.New("there is an interface with this name, which is not of ours")
		}
		return errors.New("there is an interface with this name, which another process uses")
	}
	a := netlink.NewLinkAttrs()
	a.Name = l.Name
	local, remote := net.IP(l.Local.AsSlice()), net.IP(l.Remote.AsSlice())
	var is netlink.Link = &netlink.Gretun{LinkAttrs: a, Local: local, Remote: remote, Ttl: ttl, PMtuDisc: 1, IKey: l.ID, OKey: l.ID}
	if l.Kind == VXLAN {
		is = &netlink.Vxlan{LinkAttrs: a, VxlanId: int(l.ID), SrcAddr: local, Group: remote, TTL: ttl, Port: vxlanPort}
	}
	if err := s.h.LinkAdd(is); err != nil {
		if errors.Is(err, unix.EOPNOTSUPP) {
			return fmt.Errorf("this kernel has no %s tunnels: %w", l.Kind, err)
		}
		return fmt.Errorf("make the link: %w", err)
	}
	l.made = is
	if err := s.h.LinkSetAlias(is, alias); err != nil {
		return fmt.Errorf("mark the link: %w", err)
	}
	for _, p := range l.Addrs {
		addr := &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}}
		if p.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := s.h.AddrAdd(is, addr); err != nil {
			return fmt.Errorf("add address %v: %w", p, err)
		}
	}
	if err := s.h.LinkSetUp(is); err != nil {
		return fmt.Errorf("bring the link up: %w", err)
	}
	return nil
}

// noForwarding writes 0 to a file that has something else. A kernel without the
// address family is no error.
func noForwarding(path string) error {
	is, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) || err == nil && len(is) > 0 && is[0] == '0' {
		return nil
	}
	if err != nil {
		return err
	}
	return os.WriteFile(path, []byte("0"), 0o644)
}

// filter lets a packet socket receive only what is in UDP to port, and no
// fragments. It sees packets from their IP header on.
func filter(fd int, port uint16) error {
	const take, drop = 1 << 18, 0
	program, err := bpf.Assemble([]bpf.Instruction{
		/*  0 */ bpf.LoadAbsolute{Off: 0, Size: 1},
		/*  1 */ bpf.ALUOpConstant{Op: bpf.ALUOpShiftRight, Val: 4},
		/*  2 */ bpf.JumpIf{Cond: bpf.JumpEqual, Val: 6, SkipTrue: 8},
		/*  3 */ bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 4, SkipTrue: 12},
		/*  4 */ bpf.LoadAbsolute{Off: 9, Size: 1},
		/*  5 */ bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_UDP, SkipTrue: 10},
		/*  6 */ bpf.LoadAbsolute{Off: 6, Size: 2},
		/*  7 */ bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: 0x3fff, SkipTrue: 8},
		/*  8 */ bpf.LoadMemShift{Off: 0},
		/*  9 */ bpf.LoadIndirect{Off: 2, Size: 2},
		/* 10 */ bpf.Jump{Skip: 3},
		/* 11 */ bpf.LoadAbsolute{Off: 6, Size: 1},
		/* 12 */ bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_UDP, SkipTrue: 3},
		/* 13 */ bpf.LoadAbsolute{Off: 42, Size: 2},
		/* 14 */ bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(port), SkipTrue: 1},
		/* 15 */ bpf.RetConstant{Val: take},
		/* 16 */ bpf.RetConstant{Val: drop},
	})
	if err != nil {
		return err
	}
	code := make([]unix.SockFilter, len(program))
	for i, x := range program {
		code[i] = unix.SockFilter{Code: x.Op, Jt: x.Jt, Jf: x.Jf, K: x.K}
	}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]})
}

// network returns a number of 16 bits as it is in a packet.
func network(n uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], n)
	return binary.NativeEndian.Uint16(b[:])
}

// Run calls deliver with each packet that comes and the place of its tunnel in
// what Open was given, until ctx ends. deliver is called from a goroutine for each
// tunnel, and borrows the packet until it returns.
func (s *Set) Run(ctx context.Context, deliver func(tunnel int, packet []byte)) error {
	var wg sync.WaitGroup
	for i, l := range s.links {
		wg.Go(func() { l.read(func(p []byte) { deliver(i, p) }) })
	}
	tick := time.NewTicker(look)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.refresh(0)
		case <-ctx.Done():
			for _, l := range s.links {
				l.file.SetReadDeadline(time.Unix(1, 0))
			}
			wg.Wait()
			return nil
		}
	}
}

// read reads until the deadline or the end of the socket.
func (l *link) read(deliver func([]byte)) {
	buf := make([]byte, maxPacket)
	for {
		var n int
		var from unix.Sockaddr
		var rerr error
		if err := l.conn.Read(func(fd uintptr) bool {
			n, from, rerr = unix.Recvfrom(int(fd), buf, 0)
			return rerr != unix.EAGAIN
		}); err != nil {
			return
		}
		if rerr != nil { // the link is down, for now
			time.Sleep(10 * time.Millisecond)
			continue
		}
		if a, ok := from.(*unix.SockaddrLinklayer); ok && a.Pkttype != unix.PACKET_OUTGOING && a.Pkttype != unix.PACKET_OTHERHOST {
			deliver(buf[:n])
		}
	}
}

// refresh reads the link-layer addresses of the neighbours, unless that was done
// within pause.
func (s *Set) refresh(pause time.Duration) {
	s.looking.Lock()
	defer s.looking.Unlock()
	if now := time.Now(); now.Sub(s.looked) >= pause {
		s.looked = now
	} else {
		return
	}
	found := make(map[hop][6]byte)
	for _, l := range s.links {
		if !l.ethernet {
			continue
		}
		list, err := s.h.NeighList(l.index, netlink.FAMILY_ALL)
		if err != nil {
			s.log.Debug("list the neighbours on a tunnel", "tunnel", l.Name, "err", err)
			continue
		}
		for _, n := range list {
			const known = netlink.NUD_REACHABLE | netlink.NUD_STALE | netlink.NUD_DELAY | netlink.NUD_PROBE | netlink.NUD_PERMANENT
			a, ok := netip.AddrFromSlice(n.IP)
			if ok && n.State&known != 0 && len(n.HardwareAddr) == 6 {
				found[hop{l.index, a.Unmap()}] = [6]byte(n.HardwareAddr)
			}
		}
	}
	s.neighbours.Store(&found)
}

// Send sends a whole IP packet by a tunnel to the router with the address next on
// it.
func (s *Set) Send(tunnel int, next netip.Addr, packet []byte) error {
	l := s.links[tunnel]
	to := &unix.SockaddrLinklayer{Protocol: network(unix.ETH_P_IP), Ifindex: l.index}
	if len(packet) > 0 && packet[0]>>4 == 6 {
		to.Protocol = network(unix.ETH_P_IPV6)
	}
	if l.ethernet {
		mac, ok := (*s.neighbours.Load())[hop{l.index, next}]
		if !ok {
			s.refresh(soon)
			if mac, ok = (*s.neighbours.Load())[hop{l.index, next}]; !ok {
				return ErrNoNeighbour
			}
		}
		to.Halen = 6
		copy(to.Addr[:], mac[:])
	}
	var serr error
	if err := l.conn.Write(func(fd uintptr) bool { serr = unix.Sendto(int(fd), packet, unix.MSG_DONTWAIT, to); return true }); err != nil {
		return err
	}
	return serr
}

// Close closes the sockets and removes the links that were made.
func (s *Set) Close() error {
	var errs []error
	for _, l := range s.links {
		if l.file != nil {
			l.file.Close()
		}
		if l.made != nil {
			if err := s.h.LinkDel(l.made); err != nil {
				errs = append(errs, fmt.Errorf("remove tunnel %s: %w", l.Name, err))
			}
		}
	}
	s.h.Close()
	return errors.Join(errs...)
}
