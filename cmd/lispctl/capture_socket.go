package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/eidolon-lisp/eidolon/encap"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// captureBuffer is the room for frames that wait to be read, in octets.
const captureBuffer = 16 << 20

// maxSnap is the longest frame that is taken, in octets.
const maxSnap = 256 << 10

// frameSocket gets the frames of one interface, both ways.
type frameSocket struct {
	file *os.File
}

// openFrames opens a socket on an interface. Those frames come that the filter
// takes; nil takes all. It needs CAP_NET_RAW.
func openFrames(name string, filter []bpf.RawInstruction) (*frameSocket, error) {
	ifi, err := net.InterfaceByName(name)
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w", name, err)
	}
	// Of no protocol: nothing comes before the filter is there.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if errors.Is(err, unix.EPERM) {
		return nil, errors.New("capturing needs CAP_NET_RAW: run it as root")
	}
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	fail := func(call string, err error) (*frameSocket, error) {
		unix.Close(fd)
		return nil, fmt.Errorf("interface %s: %w", name, os.NewSyscallError(call, err))
	}
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, captureBuffer) != nil {
		// Without CAP_NET_ADMIN up to the limit of the system.
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, captureBuffer); err != nil {
			return fail("setsockopt SO_RCVBUF", err)
		}
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1); err != nil {
		return fail("setsockopt SO_TIMESTAMPNS", err)
	}
	if filter != nil {
		program := make([]unix.SockFilter, len(filter))
		for i, in := range filter {
			program[i] = unix.SockFilter{Code: in.Op, Jt: in.Jt, Jf: in.Jf, K: in.K}
		}
		if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}); err != nil {
			return fail("setsockopt SO_ATTACH_FILTER", err)
		}
	}
	all := binary.NativeEndian.Uint16([]byte{unix.ETH_P_ALL >> 8, unix.ETH_P_ALL & 0xff})
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: ifi.Index}); err != nil {
		return fail("bind", err)
	}
	return &frameSocket{file: os.NewFile(uintptr(fd), "frames of "+name)}, nil
}

// lost returns how many frames found no room in the buffer since the last call.
func (s *frameSocket) lost() (n uint64) {
	raw, err := s.file.SyscallConn()
	if err != nil {
		return 0
	}
	_ = raw.Control(func(fd uintptr) {
		if st, err := unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
			n = uint64(st.Drops)
		}
	})
	return n
}

// read calls each for frames: at most snap octets of one, valid until each
// returns, and the octets that it had. It ends without an error at the deadline
// of the file, when what had come by then has been read.
func (s *frameSocket) read(snap int, each func(at time.Time, frame []byte, length int) error) error {
	raw, err := s.file.SyscallConn()
	if err != nil {
		return err
	}
	buf, oob := make([]byte, snap), make([]byte, 128)
	for {
		var n, oobn int
		var failed error
		receive := func(fd uintptr) bool {
			n, oobn, _, _, failed = unix.Recvmsg(int(fd), buf, oob, unix.MSG_TRUNC)
			return failed != unix.EAGAIN
		}
		err := raw.Read(receive)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			some := false
			if err := raw.Control(func(fd uintptr) { some = receive(fd) }); err != nil || !some {
				return err
			}
			err = nil
		}
		if err == nil {
			err = failed
		}
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.ENETDOWN) {
			continue // an interface that goes down may come back
		}
		if err == nil {
			err = each(frameTime(oob[:oobn]), buf[:min(n, snap)], n)
		}
		if err != nil {
			return err
		}
	}
}

// frameTime reads the kernel's time stamp of a frame.
func frameTime(oob []byte) time.Time {
	for len(oob) >= unix.CmsgLen(16) {
		h, data, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			break
		}
		if h.Level == unix.SOL_SOCKET && h.Type == unix.SCM_TIMESTAMPNS && len(data) >= 16 {
			return time.Unix(int64(binary.NativeEndian.Uint64(data)), int64(binary.NativeEndian.Uint64(data[8:])))
		}
		oob = rest
	}
	return time.Now()
}

// outerFilter takes UDP datagrams of LISP over IPv4 and IPv6. Of datagrams in
// fragments it takes those that may be LISP's, as only the first shows the ports.
// It counts from the network header, so that it is the same for all kinds of
// interfaces.
func outerFilter() ([]bpf.RawInstruction, error) {
	const (
		network  = 0xfff00000 // SKF_NET_OFF
		udp      = unix.IPPROTO_UDP
		fragment = unix.IPPROTO_FRAGMENT
		v6, test = 8, 13
		yes, no  = 19, 20
	)
	equal := func(at int, value uint32, ifSo, ifNot int) bpf.Instruction {
		return bpf.JumpIf{Cond: bpf.JumpEqual, Val: value, SkipTrue: uint8(ifSo - at - 1), SkipFalse: uint8(ifNot - at - 1)}
	}
	return bpf.Assemble([]bpf.Instruction{
		0: bpf.LoadExtension{Num: bpf.ExtProto},
		1: equal(1, unix.ETH_P_IP, 2, v6),
		2: bpf.LoadAbsolute{Off: network + 9, Size: 1}, // protocol
		3: equal(3, udp, 4, no),
		4: bpf.LoadAbsolute{Off: network + 6, Size: 2}, // fragment offset
		5: bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: 0x1fff, SkipTrue: yes - 5 - 1},
		6: bpf.LoadMemShift{Off: network}, // length of the IPv4 header
		7: bpf.Jump{Skip: test - 7 - 1},

		v6: equal(v6, unix.ETH_P_IPV6, 9, no),
		9:  bpf.LoadAbsolute{Off: network + 6, Size: 1}, // next header
		10: equal(10, fragment, yes, 11),
		11: equal(11, udp, 12, no),
		12: bpf.LoadConstant{Dst: bpf.RegX, Val: 40},

		test: bpf.LoadIndirect{Off: network, Size: 2}, // source port
		14:   equal(14, encap.Port, yes, 15),
		15:   equal(15, wire.Port, yes, 16),
		16:   bpf.LoadIndirect{Off: network + 2, Size: 2}, // destination port
		17:   equal(17, encap.Port, yes, 18),
		18:   equal(18, wire.Port, yes, no),

		yes: bpf.RetConstant{Val: maxSnap},
		no:  bpf.RetConstant{Val: 0},
	})
}
