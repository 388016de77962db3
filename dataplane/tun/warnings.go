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
// forwarded, one sentence each with what to do. The plane changes no setting.
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
	strict, err := p.strictUplinks()
	if err != nil {
		return append(list, fmt.Sprintf("the interfaces can't be listed to check their rp_filter: %v", err))
	}
	return append(list, strict...)
}

// strictUplinks looks for strict reverse path filtering where there are several
// IPv4 uplinks: there an encapsulated packet may come in by another one than
// the route to its sender goes out by.
func (p *Plane) strictUplinks() (list []string, err error) {
	links, err := p.host.h.LinkList()
	if err != nil {
		return nil, err
	}
	uplinks, rlocs := 0, p.rlocs()
	for _, l := range links {
		addrs, err := p.host.h.AddrList(l, netlink.FAMILY_V4)
		if err != nil {
			continue // it is gone
		}
		i := slices.IndexFunc(addrs, func(a netlink.Addr) bool {
			ip, ok := netip.AddrFromSlice(a.IP.To4())
			return ok && slices.Contains(rlocs, ip)
		})
		if i < 0 {
			continue
		}
		uplinks++
		name := l.Attrs().Name
		if sysctl("net/ipv4/conf/"+name+"/rp_filter") == "1" || sysctl("net/ipv4/conf/all/rp_filter") == "1" {
			list = append(list, fmt.Sprintf("strict reverse path filtering on %s drops packets to %v that come in by another uplink: sysctl -w net.ipv4.conf.%s.rp_filter=2",
				name, addrs[i].IP, name))
		}
	}
	if uplinks < 2 {
		return nil, nil
	}
	return list, nil
}

// sysctl returns a kernel setting, "" when there is none.
func sysctl(path string) string {
	b, err := os.ReadFile("/proc/sys/" + path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
