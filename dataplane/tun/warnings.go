package tun

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Warnings returns what in the kernel's settings will keep packets from being
// forwarded, one sentence each with what to do. The plane changes no setting but
// of its own devices.
func (p *Plane) Warnings() []string {
	var list []string
	for _, f := range p.host.families() {
		if p.cfg.Host != nil {
			break // nobody is behind it
		}
		path := "net/ipv4/ip_forward"
		if f == unix.AF_INET6 {
			path = "net/ipv6/conf/all/forwarding"
		}
		if sysctl(path) == "0" {
			list = append(list, fmt.Sprintf("%s forwarding is off, hosts behind this router will not be served: sysctl -w %s=1",
				familyName(f), strings.ReplaceAll(path, "/", ".")))
		}
	}
	for _, in := range p.cfg.Instances {
		if (in.Native || len(p.cfg.ProxyETR) > 0) && reversePath(in.Device) > "0" {
			list = append(list, fmt.Sprintf("reverse path filtering on %s drops packets that go on to where no LISP site is: sysctl -w net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.%s.rp_filter=0, and filter on the other interfaces by their own settings",
				in.Device, in.Device))
		}
	}
	strict, err := p.strictUplinks()
	if err != nil {
		return append(list, fmt.Sprintf("the interfaces can't be listed to check their rp_filter: %v", err))
	}
	return append(list, strict...)
}

// strictUplinks looks for strict reverse path filtering on IPv4 uplinks where it
// does harm. Where there are several, an encapsulated packet may come in by
// another one than the route to its sender goes out by. With native forwarding
// the route to a host of the Internet is the TUN device until the site has sent
// something there.
func (p *Plane) strictUplinks() (list []string, err error) {
	links, err := p.host.h.LinkList()
	if err != nil {
		return nil, err
	}
	type uplink struct {
		name string
		addr netip.Addr
	}
	var uplinks []uplink
	rlocs := p.rlocs()
	for _, l := range links {
		addrs, err := p.host.h.AddrList(l, netlink.FAMILY_V4)
		if err != nil {
			continue // it is gone
		}
		for _, a := range addrs {
			if ip, ok := netip.AddrFromSlice(a.IP.To4()); ok && slices.Contains(rlocs, ip) {
				uplinks = append(uplinks, uplink{l.Attrs().Name, ip})
				break
			}
		}
	}
	native := slices.ContainsFunc(p.cfg.Instances, func(in Instance) bool { return in.Native })
	for _, u := range uplinks {
		var drops string
		switch {
		case reversePath(u.name) != "1":
			continue
		case len(uplinks) > 1:
			drops = fmt.Sprintf("packets to %v that come in by another uplink", u.addr)
		case native:
			drops = "native packets from hosts that this site has not sent to"
		default:
			continue
		}
		list = append(list, fmt.Sprintf("strict reverse path filtering on %s drops %s: sysctl -w net.ipv4.conf.%s.rp_filter=2",
			u.name, drops, u.name))
	}
	return list, nil
}

// reversePath returns how the kernel filters by the route to the source of IPv4
// packets that come in by a device: 0 not at all, 1 strictly, 2 loosely. The
// higher of two settings holds.
func reversePath(device string) string {
	return max(sysctl("net/ipv4/conf/"+device+"/rp_filter"), sysctl("net/ipv4/conf/all/rp_filter"))
}

// unfilter takes the reverse path filter off a device of ours: the plane checks
// inner sources itself, and to what a proxy-ETR takes packets from there may be
// no route. A device without an address is never loose. Warnings tells where the
// setting for all devices is in the way.
func unfilter(device string) {
	_ = os.WriteFile("/proc/sys/net/ipv4/conf/"+device+"/rp_filter", []byte("0"), 0o644)
}

// sysctl returns a kernel setting, "" when there is none.
func sysctl(path string) string {
	b, err := os.ReadFile("/proc/sys/" + path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
