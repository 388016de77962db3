// Package netns runs code in network namespaces and joins them with veth
// pairs. It is for tests and for the lab; no daemon needs it.
//
// A network namespace belongs to a thread. Do keeps its function on one locked
// thread; sockets and TUN devices opened there stay in the namespace and may
// be used from any goroutine afterwards, but a goroutine that the function
// starts runs in the namespace of the process again.
package netns

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// NS is a handle on a network namespace. The namespace lives at least as long
// as the handle is open. All methods may be called from any goroutine, but not
// after Close.
type NS struct {
	file *os.File
}

// New creates a network namespace with its loopback interface up. IPv6
// duplicate address detection is off in it, so that addresses can be used at
// once. It needs CAP_SYS_ADMIN.
func New() (*NS, error) {
	var ns *NS
	err := onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("create a network namespace: %w", err)
		}
		var err error
		if ns, err = Open(threadPath()); err != nil {
			return err
		}
		if err := prepare(); err != nil {
			return errors.Join(err, ns.Close())
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return ns, nil
}

// Self returns a handle on the namespace of the calling goroutine's thread.
func Self() (*NS, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return Open(threadPath())
}

// Open returns a handle on the namespace that path names: a file of
// /proc/PID/ns/net, or a namespace that was given a name (ByName).
func Open(path string) (*NS, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open a network namespace: %w", err)
	}
	return &NS{file: f}, nil
}

// ByName opens a namespace that `ip netns add NAME` has named.
func ByName(name string) (*NS, error) { return Open("/run/netns/" + name) }

// Close releases the handle. The kernel removes the namespace when nothing
// uses it any more.
func (ns *NS) Close() error { return ns.file.Close() }

// Do runs f on a thread that is in the namespace, and returns f's error.
// f must not change the thread's namespace.
func (ns *NS) Do(f func() error) error {
	return onThread(func() error {
		if err := unix.Setns(int(ns.file.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter a network namespace: %w", err)
		}
		return f()
	})
}

// onThread runs f on a locked thread of its own goroutine and puts the thread
// back into the namespace it came from. A thread that cannot be put back is
// never given to another goroutine.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		var err error
		restored := false
		defer func() {
			if restored {
				runtime.UnlockOSThread()
			}
			done <- err
		}()
		var home *os.File
		home, err = os.Open(threadPath())
		if err != nil {
			err = fmt.Errorf("open the thread's network namespace: %w", err)
			restored = true
			return
		}
		defer home.Close()
		defer func() {
			if serr := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); serr != nil {
				err = errors.Join(err, fmt.Errorf("return to the thread's network namespace: %w", serr))
				return
			}
			restored = true
		}()
		err = f()
	}()
	return <-done
}

func threadPath() string { return fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()) }

// prepare brings loopback up and turns duplicate address detection off in the
// namespace of the calling thread. A kernel without IPv6 is no error.
func prepare() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find the loopback interface: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("bring the loopback interface up: %w", err)
	}
	for _, conf := range []string{"all", "default"} {
		path := fmt.Sprintf("/proc/sys/net/ipv6/conf/%s/accept_dad", conf)
		err := os.WriteFile(path, []byte("0"), 0o644)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("turn duplicate address detection off: %w", err)
		}
	}
	return nil
}

// Veth joins a and b with a veth pair: aName in a, bName in b, both up, with
// the given MTU in octets (at least 68; 1280 for IPv6).
func Veth(a *NS, aName string, b *NS, bName string, mtu int) error {
	err := a.Do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU = aName, mtu
		veth := netlink.NewVeth(attrs)
		veth.PeerName = bName
		veth.PeerMTU = uint32(mtu)
		veth.PeerNamespace = netlink.NsFd(b.file.Fd())
		return netlink.LinkAdd(veth)
	})
	if err != nil {
		return fmt.Errorf("create veth pair %s, %s: %w", aName, bName, err)
	}
	if err := a.Up(aName); err != nil {
		return err
	}
	return b.Up(bName)
}

// Up brings the interface dev up.
func (ns *NS) Up(dev string) error {
	return ns.withLink(dev, netlink.LinkSetUp)
}

// AddAddress gives the interface dev an address with its prefix length. An
// IPv6 address is usable at once (no duplicate address detection).
func (ns *NS) AddAddress(dev string, addr netip.Prefix) error {
	err := ns.withLink(dev, func(l netlink.Link) error {
		a := &netlink.Addr{IPNet: IPNet(addr)}
		if addr.Addr().Is6() {
			a.Flags = unix.IFA_F_NODAD
		}
		return netlink.AddrAdd(l, a)
	})
	if err != nil {
		return fmt.Errorf("add address %s: %w", addr, err)
	}
	return nil
}

// AddRoute adds a route to dst in the main table: through the gateway via,
// on the interface dev, or both. The zero value of either leaves it out.
func (ns *NS) AddRoute(dst netip.Prefix, via netip.Addr, dev string) error {
	err := ns.Do(func() error {
		r := &netlink.Route{Dst: IPNet(dst.Masked()), Gw: via.AsSlice()}
		if dev != "" {
			l, err := netlink.LinkByName(dev)
			if err != nil {
				return fmt.Errorf("interface %s: %w", dev, err)
			}
			r.LinkIndex = l.Attrs().Index
			if !via.IsValid() {
				r.Scope = netlink.SCOPE_LINK
			}
		}
		return netlink.RouteAdd(r)
	})
	if err != nil {
		return fmt.Errorf("add route %s: %w", dst, err)
	}
	return nil
}

// SetSysctl writes a kernel setting of the namespace, for example
// net.ipv4.ip_forward. Dots separate its parts.
func (ns *NS) SetSysctl(key, value string) error {
	return ns.Do(func() error {
		b := []byte(key)
		for i, c := range b {
			if c == '.' {
				b[i] = '/'
			}
		}
		if err := os.WriteFile("/proc/sys/"+string(b), []byte(value), 0o644); err != nil {
			return fmt.Errorf("set %s: %w", key, err)
		}
		return nil
	})
}

// SetOffload switches a feature of the interface dev on or off, as ethtool -K
// does: command is one of unix.ETHTOOL_STSO, unix.ETHTOOL_SGRO and the like.
func (ns *NS) SetOffload(dev string, command uint32, on bool) error {
	err := ns.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		value := struct{ command, data uint32 }{command: command}
		if on {
			value.data = 1
		}
		var req struct {
			name [unix.IFNAMSIZ]byte
			data unsafe.Pointer
			_    [24 - unsafe.Sizeof(uintptr(0))]byte
		}
		copy(req.name[:unix.IFNAMSIZ-1], dev)
		req.data = unsafe.Pointer(&value)
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req))); errno != 0 {
			return errno
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("offload of interface %s: %w", dev, err)
	}
	return nil
}

func (ns *NS) withLink(dev string, f func(netlink.Link) error) error {
	err := ns.Do(func() error {
		l, err := netlink.LinkByName(dev)
		if err != nil {
			return err
		}
		return f(l)
	})
	if err != nil {
		return fmt.Errorf("interface %s: %w", dev, err)
	}
	return nil
}

// IPNet converts a prefix to the type that the netlink library takes; host
// bits are kept.
func IPNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
