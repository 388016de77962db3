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

// Trouble is a setting of the kernel that keeps packets from being forwarded.
type Trouble struct {
	// Setting is "forwarding" or "rp_filter".
	Setting string
	// Of is the IP family or the interface that the setting is of.
	Of string
	// Problem is a sentence without a full stop.
	Problem string
	// Remedy is the command that changes the setting.
	Remedy string
}

func (t Trouble) String() string { return t.Problem + ": " + t.Remedy }

// Warnings returns what in the kernel's settings will keep packets from being
// forwarded, one sentence each with what to do. The plane changes no setting but
// of its own devices.
func (p *Plane) Warnings() []string {
	troubles, err := examine(&p.cfg, p.host.families(), p.rlocs(), p.host.h)
	list := make([]string, len(troubles))
	for i, t := range troubles {
		list[i] = t.String()
	}
	if err != nil {
		list = append(list, err.Error())
	}
	return list
}

// Examine says what Warnings would say of a plane that New makes of a
// configuration, and IP families that it serves. It makes no plane, and needs no
// privileges. With an error it returns what could be found.
func Examine(cfg Config) (troubles []Trouble, families []string, err error) {
	s, err := newHost(&cfg)
	if err != nil {
		return nil, nil, err
	}
	defer s.close()
	for _, f := range s.families() {
		families = append(families, familyName(f))
	}
	troubles, err = examine(&cfg, s.families(), cfg.Sources, s.h)
	return troubles, families, err
}

func examine(cfg *Config, families []int, rlocs []netip.Addr, h *netlink.Handle) (list []Trouble, err error) {
	for _, f := range families {
		if cfg.Host != nil {
			break // nobody is behind it
		}
		path := "net/ipv4/ip_forward"
		if f == unix.AF_INET6 {
			path = "net/ipv6/conf/all/forwarding"
		}
		if sysctl(path) == "0" {
			list = append(list, Trouble{"forwarding", familyName(f),
				familyName(f) + " forwarding is off, hosts behind this router will not be served",
				fmt.Sprintf("sysctl -w %s=1", strings.ReplaceAll(path, "/", "."))})
		}
	}
	for _, in := range cfg.Instances {
		if (in.Native || len(cfg.ProxyETR) > 0) && reversePath(in.Device) > "0" {
			list = append(list, Trouble{"rp_filter", in.Device,
				fmt.Sprintf("reverse path filtering on %s drops packets that go on to where no LISP site is", in.Device),
				fmt.Sprintf("sysctl -w net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.%s.rp_filter=0, and filter on the other interfaces by their own settings", in.Device)})
		}
	}
	strict, err := strictUplinks(cfg, rlocs, h)
	if err != nil {
		return list, fmt.Errorf("the interfaces can't be listed to check their rp_filter: %w", err)
	}
	return append(list, strict...), nil
}

// strictUplinks looks for strict reverse path filtering on IPv4 uplinks where it
// does harm. Where there are several, an encapsulated packet may come in by
// another one than the route to its sender goes out by. With native forwarding
// the route to a host of the Internet is the TUN device until the site has sent
// something there.
func strictUplinks(cfg *Config, rlocs []netip.Addr, h *netlink.Handle) (list []Trouble, err error) {
	links, err := h.LinkList()
	if err != nil {
		return nil, err
	}
	type uplink struct {
		name string
		addr netip.Addr
	}
	var uplinks []uplink
	for _, l := range links {
		addrs, err := h.AddrList(l, netlink.FAMILY_V4)
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
	native := slices.ContainsFunc(cfg.Instances, func(in Instance) bool { return in.Native })
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
		list = append(list, Trouble{"rp_filter", u.name,
			fmt.Sprintf("strict reverse path filtering on %s drops %s", u.name, drops),
			fmt.Sprintf("sysctl -w net.ipv4.conf.%s.rp_filter=2", u.name)})
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
