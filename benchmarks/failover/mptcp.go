package main

import (
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// The kernel's path manager of Multipath TCP, over generic netlink
// (linux/mptcp_pm.h).
const (
	mptcpFamily  = "mptcp_pm"
	mptcpVersion = 1

	mptcpAddAddr   = 1
	mptcpSetLimits = 5

	mptcpAttrAddr     = 1
	mptcpAttrAddAddrs = 2
	mptcpAttrSubflows = 3

	mptcpAddrFamily = 1
	mptcpAddrID     = 2
	mptcpAddr4      = 3
	mptcpAddrFlags  = 6

	mptcpSubflow = 2 // the endpoint is used for subflows
)

// mptcpAvailable tells whether this kernel has Multipath TCP; if not, why.
func mptcpAvailable() (why string) {
	b, err := os.ReadFile("/proc/sys/net/mptcp/enabled")
	if err != nil {
		return "this kernel has no Multipath TCP"
	}
	if strings.TrimSpace(string(b)) != "1" {
		return "Multipath TCP is off: net.mptcp.enabled"
	}
	return ""
}

// mptcpLimits says, for the namespace of the calling thread, how many subflows
// a connection may have besides the first, and how many addresses the peer may
// announce.
func mptcpLimits(subflows, addrs uint32) error {
	return mptcpCommand(mptcpSetLimits, nl.NewRtAttr(mptcpAttrAddAddrs, nl.Uint32Attr(addrs)), nl.NewRtAttr(mptcpAttrSubflows, nl.Uint32Attr(subflows)))
}

// mptcpEndpoint makes the kernel use an address for further subflows.
func mptcpEndpoint(a netip.Addr, id uint8) error {
	x := nl.NewRtAttr(mptcpAttrAddr|unix.NLA_F_NESTED, nil)
	x.AddRtAttr(mptcpAddrFamily, nl.Uint16Attr(unix.AF_INET))
	x.AddRtAttr(mptcpAddrID, nl.Uint8Attr(id))
	x.AddRtAttr(mptcpAddr4, a.AsSlice())
	x.AddRtAttr(mptcpAddrFlags, nl.Uint32Attr(mptcpSubflow))
	return mptcpCommand(mptcpAddAddr, x)
}

func mptcpCommand(command uint8, attrs ...*nl.RtAttr) error {
	f, err := netlink.GenlFamilyGet(mptcpFamily)
	if err != nil {
		return fmt.Errorf("path manager of Multipath TCP: %w", err)
	}
	req := nl.NewNetlinkRequest(int(f.ID), unix.NLM_F_ACK)
	req.AddData(&nl.Genlmsg{Command: command, Version: mptcpVersion})
	for _, a := range attrs {
		req.AddData(a)
	}
	if _, err := req.Execute(unix.NETLINK_GENERIC, 0); err != nil {
		return fmt.Errorf("path manager of Multipath TCP: %w", err)
	}
	return nil
}
