package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/eidolon-lisp/eidolon/internal/netns"
)

// wire is a link that takes time: two veth pairs, whose inner ends are in a
// namespace of their own, and between these two goroutines that pass frames
// on after a fixed delay, in order.
type wire struct {
	ns    *netns.NS
	ends  [2]*os.File
	wg    sync.WaitGroup
	queue [2]chan delayedFrame

	mu  sync.Mutex
	err error
}

type delayedFrame struct {
	due time.Time
	b   []byte // with the kernel's header that describes segmentation
}

// wireQueue bounds the frames that are on their way in one direction: at 80 ms
// enough for 400,000 a second.
const wireQueue = 1 << 15

// newWire joins a and b.
func newWire(a *netns.NS, aDev string, b *netns.NS, bDev string, delay time.Duration) (*wire, error) {
	ns, err := netns.New()
	if err != nil {
		return nil, err
	}
	w := &wire{ns: ns}
	if err := ns.SetSysctl("net.ipv6.conf.all.disable_ipv6", "1"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, errors.Join(err, ns.Close())
	}
	for i, end := range []struct {
		ns  *netns.NS
		dev string
	}{{a, aDev}, {b, bDev}} {
		inner := fmt.Sprintf("end%d", i)
		err := netns.Veth(end.ns, end.dev, ns, inner, mtu)
		if err == nil {
			err = ns.Do(func() (err error) {
				w.ends[i], err = frameSocket(inner)
				return err
			})
		}
		if err != nil {
			return nil, errors.Join(err, w.close())
		}
	}
	for i := range 2 {
		w.queue[i] = make(chan delayedFrame, wireQueue)
		w.wg.Go(func() { w.keep(w.read(w.ends[i], delay, w.queue[i])) })
		w.wg.Go(func() { w.keep(w.write(w.ends[1-i], w.queue[i])) })
	}
	return w, nil
}

// frameSocket gives the frames that come in on dev, each with a virtio_net_hdr,
// without which large segments and unfinished checksums could not be passed on.
func frameSocket(dev string) (*os.File, error) {
	ifi, err := net.InterfaceByName(dev)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	for _, o := range []struct{ level, name, value int }{
		{unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1},
		{unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1},
		{unix.SOL_SOCKET, unix.SO_RCVBUF, 8 << 20},
		{unix.SOL_SOCKET, unix.SO_SNDBUF, 8 << 20},
	} {
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			unix.Close(fd)
			return nil, os.NewSyscallError("setsockopt", err)
		}
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: allProtocols, Ifindex: ifi.Index}); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("bind", err)
	}
	return os.NewFile(uintptr(fd), dev), nil
}

// allProtocols is ETH_P_ALL in network order.
var allProtocols = binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL})

func (w *wire) read(f *os.File, delay time.Duration, q chan<- delayedFrame) error {
	defer close(q)
	buf := make([]byte, 10+14+65536)
	for {
		n, err := f.Read(buf)
		if errors.Is(err, unix.ENETDOWN) {
			continue
		}
		if err != nil {
			return err
		}
		q <- delayedFrame{time.Now().Add(delay), append([]byte(nil), buf[:n]...)}
	}
}

func (w *wire) write(f *os.File, q <-chan delayedFrame) error {
	for fr := range q {
		time.Sleep(time.Until(fr.due))
		if _, err := f.Write(fr.b); err != nil && !errors.Is(err, unix.ENETDOWN) && !errors.Is(err, unix.ENOBUFS) {
			for range q { // the reader must not be held
			}
			return err
		}
	}
	return nil
}

func (w *wire) keep(err error) {
	if err == nil || errors.Is(err, os.ErrClosed) {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.err = errors.Join(w.err, err)
}

// close ends the wire and says what went wrong in it.
func (w *wire) close() error {
	for _, f := range w.ends {
		if f != nil {
			f.Close()
		}
	}
	w.wg.Wait()
	return errors.Join(w.err, w.ns.Close())
}
