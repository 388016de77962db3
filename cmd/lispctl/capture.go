package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"github.com/vishvananda/netlink"
	"golang.org/x/net/bpf"

	eidolonv1 "github.com/eidolon-lisp/eidolon/api/proto/eidolon/v1"
	"github.com/eidolon-lisp/eidolon/encap/layers"
	"github.com/eidolon-lisp/eidolon/mapping"
)

func newCapture() *cobra.Command {
	var c capture
	var eid, rloc, file string
	var duration time.Duration
	cmd := &cobra.Command{
		Use:   "capture",
		Short: "Capture the packets of LISP on this host",
		Long: `capture takes the packets of LISP that pass the interfaces of this host, both ways:
data packets with what is inside of them, and control messages. It prints them as
decode does, or with --write keeps them in a file in the pcapng format, which
tshark and Wireshark read too.

The interfaces are those of the locators of the xTR that runs here, and without
one all that are up. --inner takes the packets of hosts on the TUN devices instead,
before they are encapsulated and after they were decapsulated; those that the
kernel plane forwards do not pass there.

--eid keeps packets that have an address inside of the EID-prefix, as source or
destination of a host's packet, or a control message about it. It needs root, or
CAP_NET_RAW.`,
		Example: `  lispctl capture --eid 10.2.0.0/16
  lispctl capture --data --rloc 192.0.2.2 --count 100 --write - | tshark -r -`,
		Args: arguments(0, 0),
	}
	f := cmd.Flags()
	f.StringSliceVarP(&c.interfaces, "interface", "i", nil, "an interface; may be repeated (default: see above)")
	f.BoolVar(&c.inner, "inner", false, "packets of hosts on the TUN devices")
	f.BoolVar(&c.data, "data", false, "data packets only")
	f.BoolVar(&c.control, "control", false, "control messages only")
	f.StringVar(&eid, "eid", "", "only packets and messages about this EID")
	f.StringVar(&rloc, "rloc", "", "only packets from or to this address, outside")
	f.IntVarP(&c.left, "count", "c", 0, "end after so many packets (default: when interrupted)")
	f.DurationVar(&duration, "duration", 0, "end after this time")
	f.IntVar(&c.snap, "snap", maxSnap, "octets of each frame to keep, headers included")
	f.StringVarP(&file, "write", "w", "", "write pcapng to a file; - for standard output")
	completes(cmd, 0, nil)
	socket := cmd.Flags().String("socket", "", "Unix socket of the xTR of this host (default "+defaultSocket(programXTR)+")")
	out := formatFlag(cmd, formatTable)
	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		if err := c.set(eid, rloc); err != nil {
			return err
		}
		if duration < 0 || c.left < 0 {
			return errors.New("--duration and --count: expected a positive number")
		}
		if file == "-" && isTerminal(cmd.OutOrStdout()) {
			return errors.New("--write -: standard output is a terminal, expected a file or a pipe")
		}
		if len(c.interfaces) == 0 {
			if c.interfaces, err = c.chooseInterfaces(cmd.Context(), *socket); err != nil {
				return err
			}
		}
		if err := c.open(); err != nil {
			return err
		}
		defer c.close()
		switch file {
		case "":
			c.print = out.output(cmd).lines()
		case "-":
			c.file = bufio.NewWriter(cmd.OutOrStdout())
		default:
			f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, f.Close()) }()
			c.file = bufio.NewWriter(f)
		}
		ctx := cmd.Context()
		if duration > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, duration)
			defer cancel()
		}
		return c.run(ctx, cmd.ErrOrStderr())
	}
	return cmd
}

// capture takes frames of interfaces, and keeps or prints those that match.
type capture struct {
	interfaces    []string
	inner         bool
	data, control bool
	eid           mapping.EID // not valid: all
	rloc          netip.Addr  // not valid: all
	left          int         // packets until the end; 0 or less: none
	snap          int
	file          *bufio.Writer // nil: print
	print         *listing      // with file: nothing

	from    []layers.Interface
	sockets []*frameSocket

	mu     sync.Mutex
	record *layers.Recorder // nil: print
	taken  int
}

func (c *capture) set(eid, rloc string) (err error) {
	if eid != "" {
		if c.eid, err = mapping.ParseEID(eid); err != nil {
			return err
		}
	}
	if rloc != "" {
		if c.rloc, err = netip.ParseAddr(rloc); err != nil {
			return fmt.Errorf("--rloc: found %q, expected an IPv4 or IPv6 address", rloc)
		}
	}
	switch {
	case c.data && c.control:
		return errors.New("--data and --control exclude each other")
	case c.inner && (c.data || c.control || rloc != ""):
		return errors.New("--inner: packets of hosts are neither data packets nor control messages, and have no RLOC")
	case c.snap < 64 || c.snap > maxSnap:
		return fmt.Errorf("--snap: found %d, expected 64 to %d", c.snap, maxSnap)
	}
	return nil
}

// chooseInterfaces returns those of the local xTR's locators, or its TUN devices;
// without an xTR all that are up.
func (c *capture) chooseInterfaces(ctx context.Context, socket string) (names []string, err error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list the interfaces: %w", err)
	}
	if c.inner {
		for _, l := range links {
			if t, ok := l.(*netlink.Tuntap); ok && t.Mode == netlink.TUNTAP_MODE_TUN {
				names = append(names, l.Attrs().Name)
			}
		}
		if len(names) == 0 {
			return nil, errors.New("there is no TUN device; name one with --interface")
		}
		return names, nil
	}
	if x, err := dialLocal(ctx, socket, programXTR); err == nil {
		defer x.close()
		timed, cancel := context.WithTimeout(ctx, answerTime)
		defer cancel()
		resp, err := eidolonv1.NewRouterServiceClient(x.conn).ListLocalLocators(timed, &eidolonv1.ListLocalLocatorsRequest{})
		if err != nil {
			return nil, explain(err)
		}
		for _, l := range resp.GetLocalLocators() {
			i := l.GetInterface()
			there := slices.ContainsFunc(links, func(l netlink.Link) bool { return l.Attrs().Name == i })
			if there && !slices.Contains(names, i) {
				names = append(names, i)
			}
		}
		if len(names) > 0 {
			return names, nil
		}
	} else if socket != "" {
		return nil, err
	}
	for _, l := range links {
		if a := l.Attrs(); a.EncapType == "ether" && a.OperState != netlink.OperDown {
			names = append(names, a.Name)
		}
	}
	if len(names) == 0 {
		return nil, errors.New("no interface is up; name one with --interface")
	}
	return names, nil
}

// open opens a socket on each interface.
func (c *capture) open() error {
	var filter []bpf.RawInstruction
	words := ""
	if !c.inner {
		words = "udp port 4341 or udp port 4342"
		var err error
		if filter, err = outerFilter(); err != nil {
			return err
		}
	}
	for _, name := range c.interfaces {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return errors.Join(fmt.Errorf("interface %s: %w", name, err), c.close())
		}
		i := layers.Interface{Name: name, Filter: words}
		switch l.Attrs().EncapType {
		case "ether", "loopback":
		case "none", "ppp":
			i.Raw = true
		default:
			return errors.Join(fmt.Errorf("interface %s: its frames are of the type %s, expected Ethernet or IP", name, l.Attrs().EncapType), c.close())
		}
		s, err := openFrames(name, filter)
		if err != nil {
			return errors.Join(err, c.close())
		}
		c.from, c.sockets = append(c.from, i), append(c.sockets, s)
	}
	return nil
}

func (c *capture) close() (err error) {
	for _, s := range c.sockets {
		err = errors.Join(err, s.file.Close())
	}
	c.sockets = nil
	return err
}

// run captures until ctx ends or enough has come.
func (c *capture) run(ctx context.Context, said io.Writer) (err error) {
	if c.file != nil {
		if c.record, err = layers.NewRecorder(c.file, "lispctl", c.from); err != nil {
			return err
		}
		if err := c.file.Flush(); err != nil {
			return err
		}
	}
	for _, i := range c.from {
		fmt.Fprintf(said, "capturing on %s\n", i.Name)
	}
	ctx, enough := context.WithCancel(ctx)
	defer enough()
	sockets := c.sockets // which may be closed before the function below has run
	stop := context.AfterFunc(ctx, func() {
		for _, s := range sockets {
			_ = s.file.SetReadDeadline(time.Now())
		}
	})
	defer stop()
	errs := make([]error, len(c.sockets)+1)
	var wg sync.WaitGroup
	for n, s := range c.sockets {
		wg.Go(func() {
			errs[n] = s.read(c.snap, func(at time.Time, frame []byte, length int) error { return c.frame(n, at, frame, length) })
			if errors.Is(errs[n], errEnough) {
				errs[n] = nil
			}
			enough()
		})
	}
	wg.Wait()
	if c.record != nil {
		errs[len(c.sockets)] = errors.Join(c.record.Flush(), c.file.Flush())
	} else {
		errs[len(c.sockets)] = c.print.end()
	}
	var lost uint64
	for _, s := range c.sockets {
		lost += s.lost()
	}
	fmt.Fprintf(said, "%d packets captured, %d lost because they came too fast\n", c.taken, lost)
	return errors.Join(errs...)
}

// frame keeps or prints a frame of an interface if it matches.
func (c *capture) frame(n int, at time.Time, frame []byte, length int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left < 0 {
		return errEnough
	}
	p := c.from[n].Decode(c.taken+1, at, frame, length)
	if !c.matches(p, frame, c.from[n]) {
		return nil
	}
	c.taken++
	var err error
	if c.record == nil {
		err = addPacket(c.print, p)
	} else if err = c.record.Write(n, at, frame, length); err == nil {
		// Who reads along sees each packet when it has come.
		err = errors.Join(c.record.Flush(), c.file.Flush())
	}
	if err == nil && c.left > 0 {
		if c.left--; c.left == 0 {
			c.left = -1
			return errEnough
		}
	}
	return err
}

// matches reports whether a packet is wanted.
func (c *capture) matches(p *layers.Packet, frame []byte, from layers.Interface) bool {
	if c.inner {
		src, dst, ok := hostAddresses(frame, from.Raw)
		return ok && (!c.eid.IsValid() || c.eid.Prefix.Contains(src) || c.eid.Prefix.Contains(dst))
	}
	switch {
	case p.Data == nil && p.Control == nil:
		// The rest of a datagram in fragments, of which nothing more is known.
		return !c.data && !c.control && !c.eid.IsValid() && !c.rloc.IsValid()
	case c.data && p.Data == nil, c.control && p.Control == nil:
		return false
	case c.rloc.IsValid() && p.Source.Addr() != c.rloc && p.Destination.Addr() != c.rloc:
		return false
	case !c.eid.IsValid():
		return true
	case p.Control != nil:
		return aboutEID(p.Control, c.eid)
	}
	in := p.Data.Inner
	return in != nil && (c.eid.Contains(p.Data.InstanceID, in.Source) || c.eid.Contains(p.Data.InstanceID, in.Destination))
}

// hostAddresses returns source and destination of the IP packet in a frame.
func hostAddresses(frame []byte, raw bool) (src, dst netip.Addr, ok bool) {
	const ethernet = 14
	if !raw {
		frame = frame[min(ethernet, len(frame)):]
	}
	switch {
	case len(frame) >= 20 && frame[0]>>4 == 4:
		return netip.AddrFrom4([4]byte(frame[12:])), netip.AddrFrom4([4]byte(frame[16:])), true
	case len(frame) >= 40 && frame[0]>>4 == 6:
		return netip.AddrFrom16([16]byte(frame[8:])), netip.AddrFrom16([16]byte(frame[24:])), true
	}
	return src, dst, false
}

// aboutEID reports whether a control message names the EID, something inside of it
// or something that holds it.
func aboutEID(m *layers.ControlSummary, e mapping.EID) bool {
	if m == nil {
		return false
	}
	names := []string{m.EID}
	for _, r := range m.EIDs {
		names = append(names, r.EID)
	}
	for _, r := range m.Records {
		names = append(names, r.EID)
	}
	if m.MapData != nil {
		names = append(names, m.MapData.EID)
	}
	for _, s := range names {
		if x, err := mapping.ParseEID(s); err == nil && (x.Covers(e) || e.Covers(x)) {
			return true
		}
	}
	return aboutEID(m.Inner, e)
}
