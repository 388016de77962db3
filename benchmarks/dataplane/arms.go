package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"

	"github.com/vishvananda/netlink"

	"github.com/eidolon-lisp/eidolon/internal/netns"
)

// arm is a way to cross from one site to the other.
type arm struct {
	name string
	what string
	// start sets it up in a world; it may take a while until packets pass.
	start func(ctx context.Context, s *site) error
	plane string // of the left xtr, empty for others
	right string // of the right one, where it differs
	other bool   // xtr is that of another build
	// shipped: checksums are finished and super-packets cut before they leave,
	// as is the default where the way out is a virtual link.
	shipped bool
}

const plainArm = "plain"

var arms = []arm{
	{name: plainArm, what: "plain routing: the core has routes to both sites", start: startPlain},
	{name: "vxlan", what: "VXLAN of the kernel", start: startVXLAN},
	{name: "wireguard", what: "wireguard-go, with encryption", start: startWireguard},
	{name: "tun", what: "Eidolon, TUN plane", start: startEidolon, plane: "tun"},
	{name: "tun-shipped", what: "Eidolon, TUN plane as shipped, without unfinished_checksums", start: startEidolon, plane: "tun", shipped: true},
	{name: "bpf", what: "Eidolon, eBPF plane", start: startEidolon, plane: "bpf"},
	{name: "tun-bpf", what: "Eidolon, from the TUN plane to the eBPF plane", start: startEidolon, plane: "tun", right: "bpf", shipped: true},
	{name: "bpf-tun", what: "Eidolon, from the eBPF plane to the TUN plane", start: startEidolon, plane: "bpf", right: "tun", shipped: true},
	{name: "tun-other", what: "Eidolon, TUN plane of another build (-other)", start: startEidolon, plane: "tun", other: true},
	{name: "bpf-other", what: "Eidolon, eBPF plane of another build (-other)", start: startEidolon, plane: "bpf", other: true},
}

func armNames() (list []string) {
	for _, a := range arms {
		list = append(list, a.name)
	}
	return list
}

func armByName(name string) (arm, bool) {
	for _, a := range arms {
		if a.name == name {
			return a, true
		}
	}
	return arm{}, false
}

// kernel tells whether all packets of the arm are the kernel's to forward.
func (a arm) kernel() bool { return a.plane == "bpf" && a.right == "" }

// errUnavailable is that an arm can't run on this machine.
var errUnavailable = errors.New("not available here")

// site is an arm at work: a world with what is needed to cross it.
type site struct {
	arm      arm
	outside  int // family of the outer addresses
	mappings int
	job      job
	dir      string // of its own
	w        *world
	hosts    map[string]*hostProcess
	procs    map[string]*exec.Cmd // by node, those that forward packets
	other    []*exec.Cmd
}

func startPlain(_ context.Context, s *site) error {
	f := families[4]
	return errors.Join(s.w.route("core", pfx(leftBlock), f.left, ""), s.w.route("core", pfx(rightBlock), f.right, ""))
}

const vxlanDevice = "vxlan0"

// startVXLAN is what `ip link add type vxlan id 1 remote ADDRESS dstport 4789`
// makes.
func startVXLAN(_ context.Context, s *site) error {
	f := families[s.outside]
	for _, e := range []struct {
		node, addr, via, block string
		tunnel                 netlink.Vxlan
	}{
		{"x1", "10.255.0.1/30", "10.255.0.2", rightBlock, netlink.Vxlan{SrcAddr: f.left.AsSlice(), Group: f.right.AsSlice()}},
		{"x2", "10.255.0.2/30", "10.255.0.1", leftBlock, netlink.Vxlan{SrcAddr: f.right.AsSlice(), Group: f.left.AsSlice()}},
	} {
		err := s.w.withLink(e.node, "up", func(up netlink.Link) error {
			e.tunnel.LinkAttrs = netlink.NewLinkAttrs()
			e.tunnel.Name, e.tunnel.VtepDevIndex = vxlanDevice, up.Attrs().Index
			e.tunnel.VxlanId, e.tunnel.Port, e.tunnel.Learning, e.tunnel.UDPCSum = 1, 4789, true, true
			return netlink.LinkAdd(&e.tunnel)
		})
		ns := s.w.ns[e.node]
		if err == nil {
			err = ns.Up(vxlanDevice)
		}
		if err == nil {
			err = ns.AddAddress(vxlanDevice, pfx(e.addr))
		}
		if err == nil {
			err = ns.AddRoute(pfx(e.block), addr(e.via), "")
		}
		if err != nil {
			return fmt.Errorf("%s: %s: %w", e.node, vxlanDevice, err)
		}
	}
	return nil
}

// addRouteTo routes a block to a device in a node.
func addRouteTo(ns *netns.NS, block, dev string) error {
	return ns.Do(func() error {
		l, err := netlink.LinkByName(dev)
		if err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{Dst: netns.IPNet(pfx(block)), LinkIndex: l.Attrs().Index, Scope: netlink.SCOPE_LINK})
	})
}
