package tun

import (
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
	wgtun "golang.zx2c4.com/wireguard/tun"

	"github.com/eidolon-lisp/eidolon/dataplane"
)

// headroom is what lies before each packet in a worker's buffers: the LISP
// header. It is rounded up to keep packets aligned.
const headroom = 16

// openDevice creates the TUN device with n queues. The kernel keeps a flow on
// one of them.
func openDevice(name string, n int) ([]*hostQueue, error) {
	var queues []*hostQueue
	for i := range n {
		q, err := openQueue(name, i == 0, n > 1)
		if err != nil {
			for _, q := range queues {
				q.Close()
			}
			return nil, err
		}
		queues = append(queues, q)
	}
	return queues, nil
}

func openQueue(name string, first, multi bool) (*hostQueue, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return nil, fmt.Errorf("open /dev/net/tun: %w: load the kernel module (modprobe tun), or in a container pass the device (--device /dev/net/tun)", err)
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return nil, fmt.Errorf("open /dev/net/tun: %w: the process needs read and write access to it, in a container the device must be allowed (--device /dev/net/tun)", err)
	case err != nil:
		return nil, fmt.Errorf("open /dev/net/tun: %w", err)
	}
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("device name %q: %w", name, err)
	}
	flags := uint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if first {
		flags |= unix.IFF_TUN_EXCL
	}
	if multi {
		flags |= unix.IFF_MULTI_QUEUE
	}
	ifr.SetUint16(flags)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		unix.Close(fd)
		switch {
		case errors.Is(err, unix.EPERM):
			err = fmt.Errorf("%w: the process needs CAP_NET_ADMIN (run as root, setcap cap_net_admin+ep, or in a container --cap-add NET_ADMIN)", err)
		case errors.Is(err, unix.EBUSY):
			err = fmt.Errorf("%w: an interface of that name exists: another xtr is running, or the name belongs to something else", err)
		}
		return nil, fmt.Errorf("create TUN device %s: %w", name, err)
	}
	dev, _, err := wgtun.CreateUnmonitoredTUNFromFD(fd)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("set up TUN device %s: %w", name, err)
	}
	return newHostQueue(dev), nil
}

// hostQueue is one queue of a device. It implements dataplane.Host.
type hostQueue struct {
	dev wgtun.Device

	mu   sync.Mutex
	bufs [][]byte
	args [][]byte
}

const writeOffset = 16

func newHostQueue(dev wgtun.Device) *hostQueue {
	q := &hostQueue{dev: dev}
	q.bufs = make([][]byte, dataplane.MaxBatch)
	for i := range q.bufs {
		q.bufs[i] = make([]byte, 65535+writeOffset)
	}
	q.args = make([][]byte, dataplane.MaxBatch)
	return q
}

func (q *hostQueue) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	n, err := q.dev.Read(bufs, sizes, offset)
	if errors.Is(err, wgtun.ErrTooManySegments) {
		err = nil
	}
	return n, err
}

func (q *hostQueue) Write(pkts [][]byte) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	done := 0
	for len(pkts) > 0 {
		n := min(len(pkts), dataplane.MaxBatch)
		for i, p := range pkts[:n] {
			k := copy(q.bufs[i][writeOffset:], p)
			q.args[i] = q.bufs[i][:writeOffset+k]
		}
		if _, err := q.dev.Write(q.args[:n], writeOffset); err != nil {
			return done, err
		}
		done += n
		pkts = pkts[n:]
	}
	return done, nil
}

func (q *hostQueue) Close() error { return q.dev.Close() }
