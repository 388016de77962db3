package demo

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
)

// Ports of RFC 9300 and RFC 9301.
const (
	portData    = 4341
	portControl = 4342
)

// audit looks at the frames of the core: outer headers may carry RLOCs only,
// and nothing but LISP and what Ethernet and IP need for themselves.
type audit struct {
	links []netip.Prefix // networks of the core's links
	rlocs []netip.Addr   // of xTRs and map-server
	eids  []netip.Prefix

	data, control, neighbour, icmp int
	inner                          int // data packets whose inner addresses are EIDs of two sites
	faults                         int
	first                          error // the first fault
}

func newAudit(links []netip.Prefix, rlocs []netip.Addr, eids []netip.Prefix) *audit {
	return &audit{links: links, rlocs: rlocs, eids: eids}
}

func (a *audit) String() string {
	return fmt.Sprintf("%d frames: %d of data (UDP 4341), %d of control (UDP 4342), %d ARP/ND/MLD, %d ICMP; %d carry EIDs inside, none outside",
		a.data+a.control+a.neighbour+a.icmp+a.faults, a.data, a.control, a.neighbour, a.icmp, a.inner)
}

func (a *audit) verdict() error {
	switch {
	case a.faults > 0:
		return fmt.Errorf("%d frames do not belong there; the first: %w", a.faults, a.first)
	case a.data == 0 || a.control == 0:
		return errors.New("there is no data, or no control packet, so nothing was shown")
	case a.inner != a.data:
		return fmt.Errorf("%d of %d data packets carry no EIDs inside", a.data-a.inner, a.data)
	}
	return nil
}

// frame looks at one Ethernet frame, of which b is at least the beginning.
func (a *audit) frame(b []byte) {
	err := a.look(b)
	if err == nil {
		return
	}
	a.faults++
	if a.first == nil {
		a.first = fmt.Errorf("%w (%x)", err, b[:min(len(b), 64)])
	}
}

func (a *audit) look(b []byte) error {
	if len(b) < 14 {
		return errors.New("a frame of less than 14 octets")
	}
	typ, b := binary.BigEndian.Uint16(b[12:]), b[14:]
	switch typ {
	case 0x0806:
		return a.arp(b)
	case 0x0800, 0x86dd:
		h, err := parseIP(b)
		if err != nil {
			return err
		}
		return a.packet(h)
	}
	return fmt.Errorf("EtherType %#04x", typ)
}

func (a *audit) arp(b []byte) error {
	if len(b) < 28 {
		return errors.New("ARP is cut short")
	}
	for _, o := range []int{14, 24} {
		ip := netip.AddrFrom4([4]byte(b[o : o+4]))
		if !a.onLink(ip) && !ip.IsUnspecified() {
			return fmt.Errorf("ARP about %s", ip)
		}
	}
	a.neighbour++
	return nil
}

func (a *audit) onLink(ip netip.Addr) bool {
	return slices.ContainsFunc(a.links, func(p netip.Prefix) bool { return p.Contains(ip) })
}

func (a *audit) isEID(ip netip.Addr) bool {
	return slices.ContainsFunc(a.eids, func(p netip.Prefix) bool { return p.Contains(ip) })
}

// packet looks at an IP packet of the core.
func (a *audit) packet(h ipHeader) error {
	local := func(ip netip.Addr) bool {
		return ip.Is6() && (ip.IsLinkLocalUnicast() || ip.IsMulticast() || ip.IsUnspecified())
	}
	for _, ip := range []netip.Addr{h.src, h.dst} {
		if a.isEID(ip) {
			return fmt.Errorf("EID %s in an outer header", ip)
		}
		if !a.onLink(ip) && !local(ip) {
			return fmt.Errorf("address %s, which is none of the core's links", ip)
		}
	}
	switch {
	case h.fragment:
		return errors.New("a fragment")
	case h.protocol == 58 && h.src.Is6() && len(h.payload) > 0:
		if t := h.payload[0]; t >= 130 && t <= 137 || t == 143 { // MLD, ND
			a.neighbour++
		} else {
			a.icmp++
		}
		return nil
	case h.protocol == 1 && h.src.Is4():
		a.icmp++
		return nil
	case h.protocol != 17:
		return fmt.Errorf("IP protocol %d from %s to %s", h.protocol, h.src, h.dst)
	case len(h.payload) < 8:
		return errors.New("UDP is cut short")
	}
	for _, ip := range []netip.Addr{h.src, h.dst} {
		if !slices.Contains(a.rlocs, ip) {
			return fmt.Errorf("UDP with %s, which is no RLOC", ip)
		}
	}
	src, dst := binary.BigEndian.Uint16(h.payload), binary.BigEndian.Uint16(h.payload[2:])
	switch {
	case dst == portData:
		a.data++
		return a.encapsulated(h.payload[8:])
	case src == portControl || dst == portControl:
		a.control++
		return nil
	}
	return fmt.Errorf("UDP from port %d to port %d", src, dst)
}

// encapsulated looks at what follows UDP to port 4341: the LISP header of 8
// octets and the inner packet (RFC 9300 section 5.1).
func (a *audit) encapsulated(b []byte) error {
	if len(b) < 8 {
		return errors.New("the LISP header is cut short")
	}
	h, err := parseIP(b[8:])
	if err != nil {
		return fmt.Errorf("inner packet: %w", err)
	}
	if a.isEID(h.src) && a.isEID(h.dst) {
		a.inner++
	}
	return nil
}

// ipHeader is what the audit wants of an IP header.
type ipHeader struct {
	src, dst netip.Addr
	protocol byte
	fragment bool
	payload  []byte
}

func parseIP(b []byte) (ipHeader, error) {
	var h ipHeader
	if len(b) < 20 {
		return h, errors.New("an IP header is cut short")
	}
	switch b[0] >> 4 {
	case 4:
		n := int(b[0]&15) * 4
		if n < 20 || len(b) < n {
			return h, errors.New("an IPv4 header is cut short")
		}
		h.src, h.dst = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
		h.protocol = b[9]
		h.fragment = binary.BigEndian.Uint16(b[6:])&0x3fff != 0 // more fragments, or an offset
		h.payload = b[n:]
		return h, nil
	case 6:
		if len(b) < 40 {
			return h, errors.New("an IPv6 header is cut short")
		}
		h.src, h.dst = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
		h.protocol, h.payload = b[6], b[40:]
		if h.protocol == 0 { // hop-by-hop options, as MLD has them
			if len(h.payload) < 8 || len(h.payload) < 8*(1+int(h.payload[1])) {
				return h, errors.New("hop-by-hop options are cut short")
			}
			h.protocol, h.payload = h.payload[0], h.payload[8*(1+int(h.payload[1])):]
		}
		h.fragment = h.protocol == 44
		return h, nil
	}
	return h, fmt.Errorf("IP version %d", b[0]>>4)
}

// readPcap gives each frame of a capture file to f; the frame is valid until
// f returns. Only the format that the capture applet writes is read.
func readPcap(r io.Reader, f func(frame []byte)) error {
	br := bufio.NewReaderSize(r, 1<<20)
	var head [24]byte
	if _, err := io.ReadFull(br, head[:]); err != nil {
		return fmt.Errorf("the file's header: %w", err)
	}
	if binary.NativeEndian.Uint32(head[:]) != 0xa1b23c4d || binary.NativeEndian.Uint32(head[20:]) != 1 {
		return errors.New("not a pcap file with nanoseconds and Ethernet frames")
	}
	var frame []byte
	for {
		var rec [16]byte
		if _, err := io.ReadFull(br, rec[:]); err == io.EOF {
			return nil
		} else if err != nil {
			return fmt.Errorf("a frame's header: %w", err)
		}
		n := binary.NativeEndian.Uint32(rec[8:])
		if n > 1<<18 {
			return fmt.Errorf("a frame of %d octets", n)
		}
		frame = slices.Grow(frame[:0], int(n))[:n]
		if _, err := io.ReadFull(br, frame); err != nil {
			return fmt.Errorf("a frame: %w", err)
		}
		f(frame)
	}
}
