package tun

import (
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/eidolon-lisp/eidolon/encap"
)

// findUplinkMTU returns the largest MTU of the interfaces that have the local
// RLOCs. A loopback interface tells nothing of the way out.
func (p *Plane) findUplinkMTU() int {
	if p.cfg.UplinkMTU > 0 {
		return p.cfg.UplinkMTU
	}
	mtu, rlocs := 0, p.rlocs()
	links, err := p.host.h.LinkList()
	if err != nil {
		return encap.DefaultMTU
	}
	for _, l := range links {
		addrs, err := p.host.h.AddrList(l, netlink.FAMILY_ALL)
		if err != nil || l.Attrs().EncapType == "loopback" {
			continue
		}
		for _, a := range addrs {
			ip, _ := netip.AddrFromSlice(a.IP)
			if slices.Contains(rlocs, ip.Unmap()) {
				mtu = max(mtu, l.Attrs().MTU)
			}
		}
	}
	if mtu == 0 {
		return encap.DefaultMTU
	}
	return mtu
}

// wantDeviceMTU is what the TUN devices get: the largest inner packet that fits the
// uplink, so that the kernel itself tells hosts in the common case. IPv6 wants
// 1280; the core handles what then does not fit.
func (p *Plane) wantDeviceMTU() int {
	overhead := encap.Overhead6
	for _, a := range p.rlocs() {
		overhead = min(overhead, encap.Overhead(a))
	}
	return max(p.uplinkMTU-overhead, encap.MinMTU6)
}

// setDeviceMTU notes the MTU that the devices get.
func (p *Plane) setDeviceMTU(mtu int) {
	p.deviceMTU = mtu
	for _, qs := range p.devices {
		for _, q := range qs {
			q.gro.mtu.Store(int32(mtu))
		}
	}
}

// refreshMTU reads the MTU of the routes toward locators: of all, and of the
// uplinks, or only of locators that are new.
func (p *Plane) refreshMTU(all bool) {
	now := time.Now()
	if all && len(p.rlocs()) > 0 { // without an address there is nothing to go by
		if mtu := p.findUplinkMTU(); mtu != p.uplinkMTU {
			p.uplinkMTU = mtu
			p.fib.SetDefaultMTU(mtu)
			p.log.Info("uplink MTU changed", "mtu", mtu)
		}
		if mtu := p.wantDeviceMTU(); mtu != p.deviceMTU {
			p.setDeviceMTU(mtu)
			for _, in := range p.cfg.Instances {
				link, err := p.host.h.LinkByName(in.Device)
				if err == nil {
					err = p.host.h.LinkSetMTU(link, mtu)
				}
				if err != nil {
					p.log.Warn("setting the MTU of a device failed", "device", in.Device, "err", err)
				}
			}
		}
	}
	links := make(map[int]int) // MTU by interface index
	for r := range p.fib.RLOCs() {
		if !all && r.RouteKnown() {
			continue
		}
		if mtu := p.routeMTU(r.Addr(), links); mtu > 0 {
			p.fib.SetRouteMTU(r.Addr(), mtu, now)
		}
	}
}

// routeMTU returns the MTU of the route toward a locator: that of its
// interface, or a smaller one configured for the route. Each of our RLOCs may
// have a route of its own, of which the smallest counts: one RLOC has one path
// MTU. 0 when there is no route. What the kernel remembers of ICMP messages is
// left out. links remembers the MTU of interfaces.
func (p *Plane) routeMTU(rloc netip.Addr, links map[int]int) int {
	mtu := 0
	var routes []netlink.Route
	for _, src := range p.rlocs() {
		if src.Is4() != rloc.Is4() {
			continue
		}
		list, err := p.host.h.RouteGetWithOptions(rloc.AsSlice(), &netlink.RouteGetOptions{FIBMatch: true, SrcAddr: src.AsSlice()})
		if err == nil { // else no packets go that way
			routes = append(routes, list...)
		}
	}
	consider := func(index, metric int) {
		m, ok := links[index]
		if !ok {
			l, err := p.host.h.LinkByIndex(index)
			if err != nil {
				return
			}
			m = l.Attrs().MTU
			links[index] = m
		}
		if metric > 0 {
			m = min(m, metric)
		}
		if p.cfg.UplinkMTU > 0 {
			m = min(m, p.cfg.UplinkMTU)
		}
		if mtu == 0 || m < mtu {
			mtu = m
		}
	}
	for _, r := range routes {
		if len(r.MultiPath) == 0 {
			consider(r.LinkIndex, r.MTU)
		}
		for _, hop := range r.MultiPath {
			consider(hop.LinkIndex, r.MTU)
		}
	}
	return mtu
}
