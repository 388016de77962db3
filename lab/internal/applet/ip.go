package applet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const ipUsage = `usage: ip [-4|-6] [-j] OBJECT COMMAND
  addr  [show [dev D]] | {add|replace|del} PREFIX dev D [nodad]
  link  [show [dev D]] | set [dev] D {up|down|mtu N|name N|address MAC}... | del D
  route [show [table T|all]] | get ADDRESS [from ADDRESS]
        {add|append|replace|del} [unreachable|blackhole|prohibit] {PREFIX|default}
                                 [via G] [dev D] [metric M] [table T] [src A] [mtu N] [onlink]
  rule  [show] | {add|del} [from P] [to P] [iif D] [fwmark N] [table T] [pref N]
  neigh [show [dev D]]`

// ipCommand is a parsed call of ip: its options and the words that are left.
type ipCommand struct {
	family int // unix.AF_INET, AF_INET6; AF_UNSPEC if not given
	json   bool
	words  []string
	out    Streams
}

// runIP implements a part of iproute2's ip in the same words.
func runIP(_ context.Context, args []string, s Streams) error {
	c := &ipCommand{out: s}
	for len(args) > 0 && strings.HasPrefix(args[0], "-") {
		switch args[0] {
		case "-4":
			c.family = unix.AF_INET
		case "-6":
			c.family = unix.AF_INET6
		case "-j", "-json":
			c.json = true
		case "-o", "-oneline", "-br", "-brief", "-d", "-details", "-s", "-p", "-N", "-c", "-color":
			// Only the shape of the output; there is one shape here.
		case "-h", "-help", "--help":
			fmt.Fprintln(s.Out, ipUsage)
			return nil
		default:
			return usagef("option %s is not known here\n%s", args[0], ipUsage)
		}
		args = args[1:]
	}
	if len(args) == 0 {
		return usagef("no object given\n%s", ipUsage)
	}
	object := args[0]
	c.words = args[1:]
	verb := "show"
	if len(c.words) > 0 {
		verb = c.next()
	}
	if verb == "list" || verb == "ls" || verb == "lst" {
		verb = "show"
	}
	switch object {
	case "a", "addr", "address":
		return c.addr(verb)
	case "l", "link":
		return c.link(verb)
	case "r", "ro", "route":
		return c.route(verb)
	case "ru", "rule":
		return c.rule(verb)
	case "n", "neigh", "neighbor", "neighbour":
		if verb == "show" {
			return c.showNeighbours()
		}
	default:
		return usagef("object %q is not known here\n%s", object, ipUsage)
	}
	return c.badVerb(object, verb)
}

func (c *ipCommand) badVerb(object, verb string) error {
	return usagef("%s %s is not known here\n%s", object, verb, ipUsage)
}

// next takes the next word; "" if there is none.
func (c *ipCommand) next() string {
	if len(c.words) == 0 {
		return ""
	}
	w := c.words[0]
	c.words = c.words[1:]
	return w
}

// value takes the argument of the word name.
func (c *ipCommand) value(name string) (string, error) {
	if len(c.words) == 0 {
		return "", usagef("%s wants an argument", name)
	}
	return c.next(), nil
}

func (c *ipCommand) number(name string) (int, error) {
	v, err := c.value(name)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(v, 0, 32)
	if err != nil {
		return 0, usagef("%s wants a number, not %q", name, v)
	}
	return int(n), nil
}

// answer turns a kernel's refusal into iproute2's words.
func answer(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return fmt.Errorf("RTNETLINK answers: %w", errno)
	}
	return err
}

func device(name string) (netlink.Link, error) {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("cannot find device %q", name)
	}
	return l, nil
}

// prefix reads an address with or without a length, or "default" (and "any",
// "all") where that is meant.
func (c *ipCommand) prefix(s string) (netip.Prefix, error) {
	switch s {
	case "default", "any", "all":
		if c.family == unix.AF_INET6 {
			return netip.PrefixFrom(netip.IPv6Unspecified(), 0), nil
		}
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		a, aerr := netip.ParseAddr(s)
		if aerr != nil || a.Zone() != "" {
			return p, usagef("%q is neither an address nor a prefix", s)
		}
		p = netip.PrefixFrom(a, a.BitLen())
	}
	if c.family != 0 && familyOf(p.Addr()) != c.family {
		return p, usagef("%q is not of the address family that was asked for", s)
	}
	return p, nil
}

func (c *ipCommand) address(name string) (netip.Addr, error) {
	v, err := c.value(name)
	if err != nil {
		return netip.Addr{}, err
	}
	a, err := netip.ParseAddr(v)
	if err != nil || a.Zone() != "" {
		return a, usagef("%s wants an address, not %q", name, v)
	}
	return a, nil
}

func familyOf(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// families lists the families that a show command covers.
func (c *ipCommand) families(unspecified ...int) []int {
	if c.family != 0 {
		return []int{c.family}
	}
	return unspecified
}

func (c *ipCommand) addr(verb string) error {
	switch verb {
	case "show":
		return c.showAddresses()
	case "add", "replace", "change", "del", "delete":
	default:
		return c.badVerb("addr", verb)
	}
	if len(c.words) == 0 {
		return usagef("addr %s wants a prefix\n%s", verb, ipUsage)
	}
	p, err := c.prefix(c.next())
	if err != nil {
		return err
	}
	a := &netlink.Addr{IPNet: ipNet(p)}
	var link netlink.Link
	for len(c.words) > 0 {
		switch w := c.next(); w {
		case "dev":
			name, err := c.value(w)
			if err != nil {
				return err
			}
			if link, err = device(name); err != nil {
				return err
			}
		case "nodad":
			a.Flags |= unix.IFA_F_NODAD
		default:
			return usagef("%q is not known in addr %s\n%s", w, verb, ipUsage)
		}
	}
	if link == nil {
		return usagef("addr %s wants dev D", verb)
	}
	switch verb {
	case "add":
		return answer(netlink.AddrAdd(link, a))
	case "replace", "change":
		return answer(netlink.AddrReplace(link, a))
	}
	return answer(netlink.AddrDel(link, a))
}

func (c *ipCommand) link(verb string) error {
	switch verb {
	case "show":
		return c.showLinks()
	case "set":
		return c.linkSet()
	case "del", "delete":
		name := c.next()
		if name == "dev" {
			name = c.next()
		}
		l, err := device(name)
		if err != nil {
			return err
		}
		return answer(netlink.LinkDel(l))
	}
	return c.badVerb("link", verb)
}

func (c *ipCommand) linkSet() error {
	name := c.next()
	if name == "dev" {
		name = c.next()
	}
	l, err := device(name)
	if err != nil {
		return err
	}
	if len(c.words) == 0 {
		return usagef("link set %s: nothing to set\n%s", name, ipUsage)
	}
	for len(c.words) > 0 {
		switch w := c.next(); w {
		case "up":
			err = netlink.LinkSetUp(l)
		case "down":
			err = netlink.LinkSetDown(l)
		case "mtu":
			var n int
			if n, err = c.number(w); err == nil {
				err = netlink.LinkSetMTU(l, n)
			}
		case "name":
			var n string
			if n, err = c.value(w); err == nil {
				err = netlink.LinkSetName(l, n)
			}
		case "address":
			var v string
			if v, err = c.value(w); err == nil {
				var mac net.HardwareAddr
				if mac, err = net.ParseMAC(v); err == nil {
					err = netlink.LinkSetHardwareAddr(l, mac)
				}
			}
		default:
			return usagef("%q is not known in link set\n%s", w, ipUsage)
		}
		if err != nil {
			return answer(err)
		}
	}
	return nil
}
