package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// peerProcess returns the process that listens on a Unix socket; 0 when it is in
// another PID namespace.
func peerProcess(socket string) (pid int, err error) {
	c, err := net.Dial("unix", socket)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	cerr := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err := errors.Join(cerr, err); err != nil {
		return 0, err
	}
	return int(cred.Pid), nil
}

// capabilities returns the effective capabilities of a process, a bit for each.
func capabilities(pid int) (uint64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if v, ok := strings.CutPrefix(line, "CapEff:"); ok {
			return strconv.ParseUint(strings.TrimSpace(v), 16, 64)
		}
	}
	return 0, errors.New("the kernel does not tell")
}

// capability is a privilege by its number.
type capability struct {
	name string
	bit  int
}

var (
	capBind     = capability{"CAP_NET_BIND_SERVICE", unix.CAP_NET_BIND_SERVICE}
	capNetAdmin = capability{"CAP_NET_ADMIN", unix.CAP_NET_ADMIN}
	capNetRaw   = capability{"CAP_NET_RAW", unix.CAP_NET_RAW}
	capBPF      = capability{"CAP_BPF", unix.CAP_BPF}
	capPerfmon  = capability{"CAP_PERFMON", unix.CAP_PERFMON}
)

// missing returns the names of those that are not in set.
func missing(set uint64, want ...capability) (names []string) {
	for _, c := range want {
		if set&(1<<c.bit) == 0 {
			names = append(names, c.name)
		}
	}
	return names
}

// udpSocket is a UDP socket of this network namespace.
type udpSocket struct {
	local netip.AddrPort
	inode string
}

// udpSockets returns all of them.
func udpSockets() (list []udpSocket, err error) {
	for _, file := range []string{"/proc/net/udp", "/proc/net/udp6"} {
		text, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue // no IPv6
		}
		if err != nil {
			return nil, err
		}
		s, err := parseUDPSockets(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		list = append(list, s...)
	}
	return list, nil
}

// parseUDPSockets reads a file of /proc/net, which has addresses as hexadecimal
// words of 32 bits, each in the byte order of this machine.
func parseUDPSockets(text []byte) (list []udpSocket, err error) {
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 10 || fields[0] == "sl" {
			continue
		}
		host, port, _ := strings.Cut(fields[1], ":")
		b, err := hex.DecodeString(host)
		n, perr := strconv.ParseUint(port, 16, 16)
		if err := errors.Join(err, perr); err != nil || len(b)%4 != 0 {
			return nil, fmt.Errorf("found the address %q", fields[1])
		}
		for w := range slices.Chunk(b, 4) {
			binary.NativeEndian.PutUint32(w, binary.BigEndian.Uint32(w))
		}
		a, ok := netip.AddrFromSlice(b)
		if !ok {
			return nil, fmt.Errorf("found the address %q", fields[1])
		}
		list = append(list, udpSocket{netip.AddrPortFrom(a.Unmap(), uint16(n)), fields[9]})
	}
	return list, lines.Err()
}

// meets reports whether the socket is, or is in the way of, one that listens on
// an address and port.
func (s udpSocket) meets(on netip.AddrPort) bool {
	a, b := s.local.Addr(), on.Addr()
	covers := func(wild, a netip.Addr) bool { return wild.IsUnspecified() && (wild.Is6() || a.Is4()) }
	return s.local.Port() == on.Port() && (a == b || covers(a, b) || covers(b, a))
}

// socketsOf returns the inodes of the sockets that a process has open.
func socketsOf(pid int) (map[string]bool, error) {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	inodes := make(map[string]bool)
	for _, f := range files {
		to, err := os.Readlink(filepath.Join(dir, f.Name()))
		if err != nil {
			continue // closed since
		}
		if n, ok := strings.CutPrefix(to, "socket:["); ok {
			inodes[strings.TrimSuffix(n, "]")] = true
		}
	}
	return inodes, nil
}

// owner names a process that has a socket open, or says that it can't be seen.
func owner(inode string) string {
	procs, _ := os.ReadDir("/proc")
	for _, p := range procs {
		pid, err := strconv.Atoi(p.Name())
		if err != nil {
			continue
		}
		if have, err := socketsOf(pid); err == nil && have[inode] {
			name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
			return fmt.Sprintf("%s, process %d", strings.TrimSpace(string(name)), pid)
		}
	}
	return "a process that you may not see"
}

// hostLink is an interface with what doctor looks at.
type hostLink struct {
	name    string
	on      bool // an operator wants it
	carrier bool
	mtu     int
	addrs   []netip.Addr // of global scope, and usable
}

// hostLinks returns the interfaces of this network namespace.
func hostLinks() ([]hostLink, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket: %w", err)
	}
	defer h.Close()
	links, err := h.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list the interfaces: %w", err)
	}
	list := make([]hostLink, 0, len(links))
	for _, l := range links {
		a := l.Attrs()
		x := hostLink{name: a.Name, on: a.Flags&net.FlagUp != 0, carrier: a.RawFlags&unix.IFF_RUNNING != 0, mtu: a.MTU}
		addrs, err := h.AddrList(l, netlink.FAMILY_ALL)
		if err != nil {
			continue // it is gone
		}
		for _, a := range addrs {
			ip, ok := netip.AddrFromSlice(a.IP)
			if ok && a.Scope == unix.RT_SCOPE_UNIVERSE && a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) == 0 {
				x.addrs = append(x.addrs, ip.Unmap())
			}
		}
		list = append(list, x)
	}
	return list, nil
}

// synchronised reports whether something disciplines the clock of the host.
func synchronised() (bool, error) {
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	if err != nil {
		return false, err
	}
	return state != unix.TIME_ERROR && t.Status&unix.STA_UNSYNC == 0, nil
}
