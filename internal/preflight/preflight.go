// Package preflight compares a configuration with the machine that a daemon is
// to run on: whether what the file names is there, and free. It changes nothing;
// ports are opened for a moment.
package preflight

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/eidolon-lisp/eidolon/internal/config"
)

// Planes says whether a data plane of the given kind can work here, and what
// the xtr does if it can't: warning is for a plane that another takes the place
// of, err for one without which it does not start.
type Planes func(kind string) (warning, err error)

// Check reads a file as config.Check does, and compares what it needs with the
// machine. Both results hold everything that was found at once. A nil planes is
// for a daemon without a data plane.
func Check(path string, kind config.Kind, planes Planes) (warnings, err error) {
	warnings, err = config.Check(path, kind)
	needs, unreadable := config.Needs(path, kind)
	if unreadable != nil {
		return warnings, err
	}
	l := newLook(needs, planes)
	for _, n := range needs {
		l.need(n)
	}
	l.locators(needs)
	return together(warnings, l.warnings), together(err, l.errors)
}

// together returns two kinds of findings as one, in the order of the file.
func together(a error, b config.Errors) error {
	list, ok := errors.AsType[config.Errors](a)
	if a != nil && !ok {
		return errors.Join(a, b)
	}
	list = append(slices.Clone(list), b...)
	if len(list) == 0 {
		return nil
	}
	list.Sort()
	return slices.Compact(list)
}

// A look is what is found on the machine.
type look struct {
	planes     Planes
	interfaces map[string][]netip.Addr // with their addresses
	down       map[string]bool         // interfaces that are
	running    bool                    // the daemon is
	tried      map[string]bool         // ports

	warnings, errors config.Errors
}

func newLook(needs []config.Need, planes Planes) *look {
	l := &look{planes: planes, interfaces: make(map[string][]netip.Addr), down: make(map[string]bool), tried: make(map[string]bool)}
	list, _ := net.Interfaces() // none is found then, and that is told
	for _, i := range list {
		l.interfaces[i.Name] = nil
		l.down[i.Name] = i.Flags&net.FlagUp == 0
		addrs, _ := i.Addrs()
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok {
				ip, _ := netip.AddrFromSlice(n.IP)
				l.interfaces[i.Name] = append(l.interfaces[i.Name], ip.Unmap())
			}
		}
	}
	for _, n := range needs {
		if n.Kind != config.NeedSocket {
			continue
		}
		if c, err := net.DialTimeout("unix", n.Name, time.Second); err == nil {
			c.Close()
			l.running = true
			l.warn(n, "a daemon answers at %s: ports and devices that it has are not looked at", n.Name)
		}
	}
	return l
}

func (l *look) fail(n config.Need, format string, args ...any) {
	l.errors = append(l.errors, n.Errorf(format, args...))
}

func (l *look) warn(n config.Need, format string, args ...any) {
	l.warnings = append(l.warnings, n.Errorf(format, args...))
}

// has reports whether an address is one of the machine.
func (l *look) has(a netip.Addr) bool {
	for _, addrs := range l.interfaces {
		if slices.Contains(addrs, a.WithZone("")) {
			return true
		}
	}
	return false
}

// usable are the addresses that an interface would have as locators.
func (l *look) usable(name string) (list []netip.Addr) {
	for _, a := range l.interfaces[name] {
		if !a.IsLinkLocalUnicast() && !a.IsMulticast() {
			list = append(list, a)
		}
	}
	return list
}

// need compares one need with the machine; locators are compared together.
func (l *look) need(n config.Need) {
	switch n.Kind {
	case config.NeedUplink, config.NeedInterface:
		_, there := l.interfaces[n.Name]
		switch {
		case !there:
			l.fail(n, "there is no interface %s", n.Name)
		case l.down[n.Name]:
			l.warn(n, "the interface %s is down", n.Name)
		case n.Kind == config.NeedUplink && len(l.usable(n.Name)) == 0:
			l.warn(n, "the interface %s has no address yet that could be a locator", n.Name)
		}
	case config.NeedDevice:
		if _, there := l.interfaces[n.Name]; there && !l.running {
			l.fail(n, "there is an interface %s already, expected a name that is free", n.Name)
		}
	case config.NeedAddress:
		if !l.has(n.Addr.Addr()) {
			l.fail(n, "no interface has the address %v", n.Addr.Addr())
		}
	case config.NeedTCP, config.NeedUDP:
		l.port(n, n.Addr, n.Kind == config.NeedTCP)
	case config.NeedKey:
		l.key(n)
	case config.NeedDirectory:
		l.directory(n, n.Name)
	case config.NeedSocket:
		if info, err := os.Lstat(n.Name); err == nil && info.Mode().Type() != os.ModeSocket {
			l.fail(n, "%s is there, and is no socket", n.Name)
			return
		}
		l.directory(n, filepath.Dir(n.Name))
	case config.NeedPlane:
		l.plane(n)
	}
}

// lispPorts are those of control messages and of data (RFC 9301 section 12.1, RFC
// 9300 section 18.1).
var lispPorts = []uint16{4342, 4341}

// locators compares the locators of an xTR with the addresses of the machine:
// those that it has are its RLOCs, on which it listens.
func (l *look) locators(needs []config.Need) {
	var others []config.Need // with addresses that the machine does not have
	some := false
	for _, n := range needs {
		var own []netip.Addr
		switch {
		case n.Kind == config.NeedUplink:
			own, some = l.usable(n.Name), true // it may have one later
		case n.Kind == config.NeedLocator && l.has(n.Addr.Addr()):
			own, some = []netip.Addr{n.Addr.Addr()}, true
		case n.Kind == config.NeedLocator:
			others = append(others, n)
		}
		for _, a := range own {
			for _, p := range lispPorts {
				l.port(n, netip.AddrPortFrom(a, p), false)
			}
		}
	}
	if len(others) > 0 && !some {
		l.fail(others[0], "no interface of this machine has the address of a locator, so the xtr would have no RLOC")
	}
}

// port tries to listen.
func (l *look) port(n config.Need, at netip.AddrPort, stream bool) {
	network := map[bool]string{true: "tcp", false: "udp"}[stream] + map[bool]string{true: "4", false: "6"}[at.Addr().Is4()]
	if key := network + at.String(); l.running || l.tried[key] {
		return
	} else {
		l.tried[key] = true
	}
	if !at.Addr().IsUnspecified() && !l.has(at.Addr()) {
		l.fail(n, "no interface has the address %v", at.Addr())
		return
	}
	var c interface{ Close() error }
	var err error
	var lc net.ListenConfig
	if stream {
		c, err = lc.Listen(context.Background(), network, at.String())
	} else {
		c, err = lc.ListenPacket(context.Background(), network, at.String())
	}
	switch {
	case err == nil:
		c.Close()
	case errors.Is(err, syscall.EADDRINUSE):
		l.fail(n, "%s port %d of %v is taken by another process", strings.ToUpper(network[:3]), at.Port(), at.Addr())
	default:
		l.fail(n, "%v", err)
	}
}

// key looks at who can read and change a file with a secret. That others can read
// it is a warning of config.Check.
func (l *look) key(n config.Need) {
	info, err := os.Stat(n.Name)
	if err != nil || !info.Mode().IsRegular() {
		return // config.Check says so
	}
	if perm := info.Mode().Perm(); perm&0o022 != 0 {
		l.fail(n, "%s can be changed by others (mode %04o), expected 0640 or less", n.Name, perm)
	}
	if s, ok := info.Sys().(*syscall.Stat_t); ok && s.Uid != 0 && int(s.Uid) != os.Geteuid() {
		l.warn(n, "%s belongs to user %d, expected root or the user that runs the daemon", n.Name, s.Uid)
	}
	dir := filepath.Dir(n.Name)
	if d, err := os.Stat(dir); err == nil && d.Mode().Perm()&0o002 != 0 && d.Mode()&os.ModeSticky == 0 {
		l.fail(n, "%s is in a directory where everybody can replace it (mode %04o)", n.Name, d.Mode().Perm())
	}
}

// directory looks whether a directory can be written to, or made.
func (l *look) directory(n config.Need, dir string) {
	for at := dir; ; at = filepath.Dir(at) {
		info, err := os.Stat(at)
		switch {
		case (errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)) && at != filepath.Dir(at):
			continue
		case err != nil:
			l.fail(n, "%v", err)
		case !info.IsDir():
			l.fail(n, "%s is no directory", at)
		case unix.Access(at, unix.W_OK|unix.X_OK) != nil:
			l.fail(n, "%s can't be written to by user %d", at, os.Geteuid())
		}
		return
	}
}

// plane looks whether a data plane can work.
func (l *look) plane(n config.Need) {
	if l.planes == nil {
		return
	}
	warning, err := l.planes(n.Name)
	if err != nil {
		l.fail(n, "%v", err)
	}
	if warning != nil {
		l.warn(n, "%v", warning)
	}
	if ok, err := netAdmin(); err != nil {
		l.fail(n, "%v", err)
	} else if !ok {
		l.fail(n, "user %s has no CAP_NET_ADMIN, which devices and routes need; start it as root or by the systemd unit", strconv.Itoa(os.Geteuid()))
	}
}

// netAdmin reports whether the process may change the network.
func netAdmin() (bool, error) {
	var data [2]unix.CapUserData
	if err := unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &data[0]); err != nil {
		return false, fmt.Errorf("capabilities of the process: %w", err)
	}
	return data[0].Effective&(1<<unix.CAP_NET_ADMIN) != 0, nil
}
