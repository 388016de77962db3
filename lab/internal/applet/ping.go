package applet

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const pingUsage = `usage: ping [-4|-6] [-c COUNT] [-i SECONDS] [-s OCTETS] [-M do|want|dont] [-t TTL] [-W SECONDS] [-I SOURCE] [-n] [-q] [-D] [--json] HOST`

// pingOptions are the options of ping, in iputils' words.
type pingOptions struct {
	family   int           // 4, 6 or 0: the first address of the host
	count    int           // 0: until interrupted
	interval time.Duration // between requests
	size     int           // octets of data after the ICMP header
	discover int           // IP_PMTUDISC_*; -1: the kernel's default
	ttl      int           // 0: the kernel's default
	timeout  time.Duration // for the reply to the last request
	source   netip.Addr
	quiet    bool
	stamped  bool // begin lines about packets with the time, in seconds since 1970
	json     bool
	host     string
}

// PingReport is the output of ping --json.
type PingReport struct {
	Host        string       `json:"host"`
	Address     netip.Addr   `json:"address"`
	Transmitted int          `json:"transmitted"`
	Received    int          `json:"received"`
	RTT         []float64    `json:"rtt_ms"` // of each reply, in order of arrival
	Errors      []PingErrors `json:"errors,omitempty"`
}

// PingErrors is an ICMP error, or the kernel's own refusal, for a request.
type PingErrors struct {
	Sequence int        `json:"sequence"`
	From     netip.Addr `json:"from,omitzero"` // who sent the ICMP error; none if the kernel refused
	Message  string     `json:"message"`
	MTU      int        `json:"mtu,omitempty"` // of a too-big, in octets
	Local    bool       `json:"local,omitempty"`
}

func parsePing(family int, args []string) (pingOptions, error) {
	o := pingOptions{family: family, interval: time.Second, size: 56, discover: -1, timeout: 2 * time.Second}
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		if !strings.HasPrefix(arg, "-") || arg == "-" {
			if o.host != "" {
				return o, usagef("two hosts: %s, %s\n%s", o.host, arg, pingUsage)
			}
			o.host = arg
			continue
		}
		switch arg {
		case "-4":
			o.family = 4
			continue
		case "-6":
			o.family = 6
			continue
		case "-n":
			continue
		case "-q":
			o.quiet = true
			continue
		case "-D":
			o.stamped = true
			continue
		case "--json":
			o.json = true
			continue
		}
		name, value := arg[:2], arg[2:]
		if !strings.Contains("-c-i-s-M-t-W-I", name) {
			return o, usagef("option %s is not known here\n%s", arg, pingUsage)
		}
		if value == "" {
			if len(args) == 0 {
				return o, usagef("%s wants an argument\n%s", name, pingUsage)
			}
			value, args = args[0], args[1:]
		}
		if err := o.set(name, value); err != nil {
			return o, err
		}
	}
	if o.host == "" {
		return o, usagef("no host given\n%s", pingUsage)
	}
	return o, nil
}

func (o *pingOptions) set(name, value string) error {
	integer := func(low, high int) (int, error) {
		n, err := strconv.Atoi(value)
		if err != nil || n < low || n > high {
			return 0, usagef("%s wants a number from %d to %d, not %q", name, low, high, value)
		}
		return n, nil
	}
	seconds := func() (time.Duration, error) {
		f, err := strconv.ParseFloat(value, 64)
		if err != nil || f < 0.001 || f > 3600 {
			return 0, usagef("%s wants seconds from 0.001 to 3600, not %q", name, value)
		}
		return time.Duration(f * float64(time.Second)), nil
	}
	var err error
	switch name {
	case "-c":
		o.count, err = integer(1, math.MaxInt32)
	case "-i":
		o.interval, err = seconds()
	case "-s":
		o.size, err = integer(0, 65507)
	case "-t":
		o.ttl, err = integer(1, 255)
	case "-W":
		o.timeout, err = seconds()
	case "-M":
		modes := map[string]int{"do": syscall.IP_PMTUDISC_DO, "want": syscall.IP_PMTUDISC_WANT, "dont": syscall.IP_PMTUDISC_DONT}
		var ok bool
		if o.discover, ok = modes[value]; !ok {
			err = usagef("-M wants do, want or dont, not %q", value)
		}
	case "-I":
		if o.source, err = netip.ParseAddr(value); err != nil {
			err = usagef("-I wants a source address, not %q", value)
		}
	}
	return err
}

// resolve finds the address of a host in the family asked for (4, 6, or 0 for
// any). Names come from the hosts file of the node.
func resolve(ctx context.Context, host string, family int) (netip.Addr, error) {
	network := "ip"
	if family != 0 {
		network += strconv.Itoa(family)
	}
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, network, host)
	if err != nil {
		return netip.Addr{}, err
	}
	return addrs[0].Unmap(), nil
}

// pinger is one run of ping.
type pinger struct {
	opts   pingOptions
	dst    netip.Addr
	id     uint16
	sent   map[uint16]time.Time // requests without an answer
	report PingReport
	out    Streams
}

func runPing(ctx context.Context, family int, args []string, s Streams) error {
	o, err := parsePing(family, args)
	if err != nil {
		return err
	}
	if o.source.IsValid() && o.family == 0 {
		o.family = 6
		if o.source.Is4() {
			o.family = 4
		}
	}
	dst, err := resolve(ctx, o.host, o.family)
	if err != nil {
		return usagef("%v", err)
	}
	conn, err := openICMP(dst, o)
	if err != nil {
		return fmt.Errorf("open an ICMP socket: %w", err)
	}
	defer conn.Close()
	p := &pinger{opts: o, dst: dst, id: uint16(rand.Uint32()), sent: map[uint16]time.Time{}, out: s}
	p.report = PingReport{Host: o.host, Address: dst, RTT: []float64{}}
	start := time.Now()
	if !o.json {
		fmt.Fprintf(s.Out, "PING %s (%s) %d data octets\n", o.host, dst, o.size)
	}
	err = p.run(ctx, conn)
	if o.json {
		if jerr := json.NewEncoder(s.Out).Encode(p.report); err == nil {
			err = jerr
		}
	} else {
		p.summary(time.Since(start))
	}
	if err == nil && p.report.Received == 0 {
		err = exitError(1)
	}
	return err
}

// run sends and receives until all is answered, given up, or ctx ends.
func (p *pinger) run(ctx context.Context, conn *icmpConn) error {
	packets := make(chan icmpPacket, 64)
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn.receive(packets)
	}()
	defer func() {
		conn.Close()
		for {
			select {
			case <-packets:
				continue
			case <-done:
				return
			}
		}
	}()
	var send <-chan time.Time
	now := make(chan time.Time, 1)
	now <- time.Now()
	send = now
	tick := time.NewTicker(p.opts.interval)
	defer tick.Stop()
	var giveUp <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-giveUp:
			return nil
		case pkt := <-packets:
			p.receive(pkt)
		case <-send:
			send = tick.C
			if p.opts.count > 0 && p.report.Transmitted == p.opts.count {
				send = nil
				giveUp = time.After(p.opts.timeout)
				break
			}
			if err := p.send(conn); err != nil {
				return err
			}
		}
		if p.opts.count > 0 && p.report.Transmitted == p.opts.count {
			if len(p.sent) == 0 {
				return nil
			}
			if giveUp == nil {
				send = nil
				giveUp = time.After(p.opts.timeout)
			}
		}
	}
}

func (p *pinger) send(conn *icmpConn) error {
	p.report.Transmitted++
	seq := uint16(p.report.Transmitted)
	at := time.Now()
	err := conn.sendEcho(p.id, seq, p.opts.size)
	if errors.Is(err, syscall.EMSGSIZE) {
		e := PingErrors{Sequence: int(seq), Message: "message too long", Local: true, MTU: conn.mtu()}
		p.fail(e)
		return nil
	}
	for _, transient := range []error{syscall.ENETUNREACH, syscall.EHOSTUNREACH, syscall.ENOBUFS, syscall.EACCES, syscall.EPERM, syscall.ENETDOWN} {
		if errors.Is(err, transient) {
			p.fail(PingErrors{Sequence: int(seq), Message: transient.Error(), Local: true})
			return nil
		}
	}
	if err != nil {
		return fmt.Errorf("send: %w", err)
	}
	p.sent[seq] = at
	return nil
}

func (p *pinger) receive(pkt icmpPacket) {
	if pkt.id != p.id {
		return
	}
	at, waiting := p.sent[pkt.seq]
	if !waiting {
		return
	}
	delete(p.sent, pkt.seq)
	if pkt.failure != "" {
		p.fail(PingErrors{Sequence: int(pkt.seq), From: pkt.from, Message: pkt.failure, MTU: pkt.mtu})
		return
	}
	rtt := float64(pkt.at.Sub(at)) / float64(time.Millisecond)
	p.report.Received++
	p.report.RTT = append(p.report.RTT, rtt)
	if !p.opts.json && !p.opts.quiet {
		fmt.Fprintf(p.out.Out, "%s%d octets from %s: icmp_seq=%d ttl=%d time=%.3f ms\n", p.stamp(pkt.at), pkt.size, pkt.from, pkt.seq, pkt.ttl, rtt)
	}
}

// stamp is what a line about something that happened at a time begins with.
func (p *pinger) stamp(at time.Time) string {
	if !p.opts.stamped {
		return ""
	}
	return fmt.Sprintf("[%.6f] ", float64(at.UnixMicro())/1e6)
}

func (p *pinger) fail(e PingErrors) {
	p.report.Errors = append(p.report.Errors, e)
	if p.opts.json {
		return
	}
	mtu := ""
	if e.MTU > 0 {
		mtu = fmt.Sprintf(" (mtu = %d)", e.MTU)
	}
	stamp := p.stamp(time.Now())
	if e.Local {
		fmt.Fprintf(p.out.Out, "%slocal error: %s%s\n", stamp, e.Message, mtu)
		return
	}
	fmt.Fprintf(p.out.Out, "%sFrom %s icmp_seq=%d %s%s\n", stamp, e.From, e.Sequence, e.Message, mtu)
}

func (p *pinger) summary(took time.Duration) {
	r := p.report
	errs := ""
	if len(r.Errors) > 0 {
		errs = fmt.Sprintf("+%d errors, ", len(r.Errors))
	}
	loss := 0.0
	if r.Transmitted > 0 {
		loss = 100 * float64(r.Transmitted-r.Received) / float64(r.Transmitted)
	}
	fmt.Fprintf(p.out.Out, "\n--- %s ping statistics ---\n%d packets transmitted, %d received, %s%.4g%% packet loss, time %dms\n",
		r.Host, r.Transmitted, r.Received, errs, loss, took.Milliseconds())
	if r.Received > 0 {
		sum, squares := 0.0, 0.0
		for _, v := range r.RTT {
			sum += v
			squares += v * v
		}
		mean := sum / float64(r.Received)
		dev := math.Sqrt(max(0, squares/float64(r.Received)-mean*mean))
		fmt.Fprintf(p.out.Out, "rtt min/avg/max/mdev = %.3f/%.3f/%.3f/%.3f ms\n", slices.Min(r.RTT), mean, slices.Max(r.RTT), dev)
	}
}

// fillEcho writes an ICMP or ICMPv6 echo request without its checksum.
func fillEcho(b []byte, typ byte, id, seq uint16) {
	clear(b)
	b[0] = typ
	binary.BigEndian.PutUint16(b[4:], id)
	binary.BigEndian.PutUint16(b[6:], seq)
	for i := 8; i < len(b); i++ {
		b[i] = byte(i)
	}
}

// ignoreClosed hides the error that ends a reader whose socket was closed.
func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}
