package applet

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const captureUsage = `usage: capture [-i INTERFACE|any]... [-w FILE|-] [-t SECONDS] [-c COUNT] [-s OCTETS]`

// captureOptions are the options of capture.
type captureOptions struct {
	interfaces []string // none: all but loopback
	file       string
	duration   time.Duration // 0: until interrupted
	count      int           // frames; 0: no limit
	snap       int           // octets kept of each frame
}

func parseCapture(args []string) (captureOptions, error) {
	o := captureOptions{}
	fs := flag.NewFlagSet("capture", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Func("i", "", func(s string) error {
		o.interfaces = append(o.interfaces, s)
		return nil
	})
	fs.StringVar(&o.file, "w", "-", "")
	seconds := fs.Float64("t", 0, "")
	fs.IntVar(&o.count, "c", 0, "")
	fs.IntVar(&o.snap, "s", 65535+14, "")
	if err := fs.Parse(args); err != nil {
		return o, usagef("%v\n%s", err, captureUsage)
	}
	if fs.NArg() > 0 || *seconds < 0 || *seconds > 86400 || o.count < 0 || o.snap < 14 || o.snap > 262144 {
		return o, usagef("%s", captureUsage)
	}
	o.duration = time.Duration(*seconds * float64(time.Second))
	return o, nil
}

// runCapture writes the frames that pass interfaces, both ways, to a pcap
// file with nanosecond time stamps. What it says goes to the error stream:
// "capturing" when every later frame will be seen, and the counts at the end.
func runCapture(ctx context.Context, args []string, s Streams) error {
	o, err := parseCapture(args)
	if err != nil {
		return err
	}
	if len(o.interfaces) == 0 || slices.Contains(o.interfaces, "any") {
		o.interfaces = nil
		all, err := net.Interfaces()
		if err != nil {
			return fmt.Errorf("list interfaces: %w", err)
		}
		for _, i := range all {
			if i.Flags&net.FlagLoopback == 0 && len(i.HardwareAddr) == 6 {
				o.interfaces = append(o.interfaces, i.Name)
			}
		}
	}
	out := s.Out
	var file *os.File
	if o.file != "-" {
		if file, err = os.Create(o.file); err != nil {
			return err
		}
		defer file.Close()
		out = file
	}
	if o.duration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, o.duration)
		defer cancel()
	}
	w := newPcapWriter(out, o.snap)
	seen, missed, err := capture(ctx, o, w, s.Err)
	if err == nil {
		err = w.flush()
	}
	if file != nil {
		if cerr := file.Close(); err == nil {
			err = cerr
		}
	}
	fmt.Fprintf(s.Err, "%d frames captured, %d dropped by the kernel\n", seen, missed)
	return err
}

func capture(ctx context.Context, o captureOptions, w *pcapWriter, say io.Writer) (seen, missed int, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var socks []*packetSocket
	for _, name := range o.interfaces {
		ps, err := openPacketSocket(name)
		if err != nil {
			for _, ps := range socks {
				ps.file.Close()
			}
			return 0, 0, fmt.Errorf("capture on %s: %w", name, err)
		}
		socks = append(socks, ps)
	}
	fmt.Fprintf(say, "capturing on %v\n", o.interfaces)
	var mu sync.Mutex
	var wg sync.WaitGroup
	var errs []error
	for _, ps := range socks {
		wg.Go(func() {
			err := ps.read(o.snap, func(at time.Time, frame []byte, length int) error {
				mu.Lock()
				defer mu.Unlock()
				if o.count > 0 && seen == o.count {
					return io.EOF
				}
				seen++
				if o.count > 0 && seen == o.count {
					defer cancel()
				}
				return w.write(at, frame, length)
			})
			if err != nil {
				mu.Lock()
				errs = append(errs, err)
				mu.Unlock()
				cancel()
			}
		})
	}
	<-ctx.Done()
	for _, ps := range socks {
		missed += ps.drops()
		ps.file.SetReadDeadline(time.Now()) // wakes the reader; queued frames have been waiting already
	}
	wg.Wait()
	for _, ps := range socks {
		ps.file.Close()
	}
	return seen, missed, errors.Join(errs...)
}

// packetSocket sees all frames of one interface.
type packetSocket struct {
	file *os.File
}

func openPacketSocket(name string) (*packetSocket, error) {
	ifi, err := net.InterfaceByName(name)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	fail := func(call string, err error) (*packetSocket, error) {
		unix.Close(fd)
		return nil, os.NewSyscallError(call, err)
	}
	const buffer = 32 << 20 // room for bursts of 64 KiB frames
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, buffer); err != nil {
		// An ordinary user's namespace may not exceed the system's limit.
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, buffer); err != nil {
			return fail("setsockopt SO_RCVBUF", err)
		}
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1); err != nil {
		return fail("setsockopt SO_TIMESTAMPNS", err)
	}
	all := uint16(unix.ETH_P_ALL)<<8 | uint16(unix.ETH_P_ALL)>>8 // network order
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: ifi.Index}); err != nil {
		return fail("bind", err)
	}
	return &packetSocket{file: os.NewFile(uintptr(fd), "packet socket on "+name)}, nil
}

// drops counts the frames that did not fit the socket's buffer.
func (ps *packetSocket) drops() int {
	raw, err := ps.file.SyscallConn()
	if err != nil {
		return 0
	}
	n := 0
	raw.Control(func(fd uintptr) {
		if st, err := unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
			n = int(st.Drops)
		}
	})
	return n
}

// read gives each frame to f: at most snap octets of it, and its real length.
// The frame is valid until f returns. It ends without error at the deadline
// of the file, once what was queued has been read, or when f returns io.EOF.
func (ps *packetSocket) read(snap int, f func(at time.Time, frame []byte, length int) error) error {
	raw, err := ps.file.SyscallConn()
	if err != nil {
		return err
	}
	buf := make([]byte, snap)
	oob := make([]byte, 128)
	for {
		var n, oobn int
		var rerr error
		recv := func(fd uintptr) bool {
			n, oobn, _, _, rerr = unix.Recvmsg(int(fd), buf, oob, unix.MSG_TRUNC)
			return rerr != unix.EAGAIN
		}
		err := raw.Read(recv)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			// Drain what arrived before the deadline.
			done := false
			cerr := raw.Control(func(fd uintptr) { done = !recv(fd) })
			if done || cerr != nil {
				return cerr
			}
			err = nil
		}
		if err == nil {
			err = rerr
		}
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.ENETDOWN) {
			continue // an interface that goes down may come back
		}
		if err != nil {
			return err
		}
		if err := f(stamp(oob[:oobn]), buf[:min(n, snap)], n); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// stamp reads the kernel's time stamp of a frame.
func stamp(oob []byte) time.Time {
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

// pcapWriter writes the classic pcap format, in native byte order with
// nanoseconds, link type Ethernet.
type pcapWriter struct {
	buf *bufio.Writer
	err error
}

const (
	pcapMagicNano = 0xa1b23c4d
	pcapMagic     = 0xa1b2c3d4
	pcapEthernet  = 1
)

func newPcapWriter(w io.Writer, snap int) *pcapWriter {
	p := &pcapWriter{buf: bufio.NewWriterSize(w, 1<<20)}
	h := make([]byte, 24)
	binary.NativeEndian.PutUint32(h, pcapMagicNano)
	binary.NativeEndian.PutUint16(h[4:], 2)
	binary.NativeEndian.PutUint16(h[6:], 4)
	binary.NativeEndian.PutUint32(h[16:], uint32(snap))
	binary.NativeEndian.PutUint32(h[20:], pcapEthernet)
	_, p.err = p.buf.Write(h)
	return p
}

func (p *pcapWriter) write(at time.Time, frame []byte, length int) error {
	if p.err != nil {
		return p.err
	}
	h := make([]byte, 16)
	binary.NativeEndian.PutUint32(h, uint32(at.Unix()))
	binary.NativeEndian.PutUint32(h[4:], uint32(at.Nanosecond()))
	binary.NativeEndian.PutUint32(h[8:], uint32(len(frame)))
	binary.NativeEndian.PutUint32(h[12:], uint32(length))
	if _, p.err = p.buf.Write(h); p.err == nil {
		_, p.err = p.buf.Write(frame)
	}
	return p.err
}

func (p *pcapWriter) flush() error {
	if p.err != nil {
		return p.err
	}
	return p.buf.Flush()
}
