package applet

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"
)

const ttcpUsage = `usage: ttcp serve [-p PORT] [-B ADDRESS] [-A CPU]
       ttcp send [-4|-6] [-p PORT] [-B SOURCE] [-A CPU] [-t SECONDS | -n OCTETS] [-P FLOWS]
                 [-r BITS/S] [-u [-l OCTETS]] [--json] HOST
A TCP transfer of -n octets or at a rate -r is of random content, whose SHA-256 both sides compute. A signal ends a
transfer as if its time was over.
-A keeps the process on one CPU, counted from 0.`

// A conversation of ttcp: the sender opens a TCP connection and writes one
// JSON line (ttcpHello). For TCP the data follow until the sender closes its
// direction. For UDP the receiver answers with a line that names its port
// (ttcpReady), the datagrams go there, each with a sequence number in its
// first 8 octets, and the sender ends by closing its direction. In both cases
// the receiver's last line says what arrived (ttcpArrived).
type (
	ttcpHello struct {
		UDP  bool `json:"udp,omitempty"`
		Hash bool `json:"hash,omitempty"`
	}
	ttcpReady struct {
		Port uint16 `json:"port"`
	}
	ttcpArrived struct {
		Octets  int64   `json:"octets"`
		Seconds float64 `json:"seconds"`         // from the first to the last octet
		Stall   float64 `json:"stall,omitempty"` // the longest time in seconds without an octet, TCP only
		SHA256  string  `json:"sha256,omitempty"`
		Packets int64   `json:"packets,omitempty"`
		Late    int64   `json:"late,omitempty"` // datagrams that a later one overtook
	}
)

// TTCPReport is the output of ttcp send --json.
type TTCPReport struct {
	Mode          string  `json:"mode"` // tcp or udp
	Source        string  `json:"source"`
	Destination   string  `json:"destination"`
	Flows         int     `json:"flows"`
	OctetsSent    int64   `json:"octets_sent"`
	Octets        int64   `json:"octets"` // that arrived
	Seconds       float64 `json:"seconds"`
	Stall         float64 `json:"stall,omitempty"` // the longest time in seconds in which no octet arrived, TCP only
	BitsPerSecond float64 `json:"bits_per_second"`
	SentSHA256    string  `json:"sent_sha256,omitempty"`
	SHA256        string  `json:"sha256,omitempty"`
	Retransmits   int64   `json:"retransmits"`
	MSS           int     `json:"mss,omitempty"` // of the sender at the end, in octets
	PacketsSent   int64   `json:"packets_sent,omitempty"`
	Packets       int64   `json:"packets,omitempty"`
	Late          int64   `json:"late,omitempty"`
}

const (
	ttcpPort    = 5001
	ttcpPatient = 10 * time.Second // for the hello, an answer, or a stalled transfer
	ttcpLeave   = 2 * time.Second  // for the answer after a signal
)

func runTTCP(ctx context.Context, args []string, s Streams) error {
	if len(args) == 0 {
		return usagef("%s", ttcpUsage)
	}
	switch args[0] {
	case "serve":
		return ttcpServe(ctx, args[1:], s)
	case "send":
		return ttcpSend(ctx, args[1:], s)
	}
	return usagef("%q is not known\n%s", args[0], ttcpUsage)
}

type ttcpOptions struct {
	family  int
	port    uint
	cpu     int // -1: any
	local   netip.Addr
	seconds float64
	octets  int64
	flows   int
	udp     bool
	rate    float64 // bits per second of each flow; 0: as fast as it goes
	length  int     // octets of a UDP datagram's payload
	json    bool
	host    string
}

func parseTTCP(args []string, sender bool) (ttcpOptions, error) {
	var o ttcpOptions
	fs := flag.NewFlagSet("ttcp", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.UintVar(&o.port, "p", ttcpPort, "")
	fs.IntVar(&o.cpu, "A", -1, "")
	fs.TextVar(&o.local, "B", netip.Addr{}, "")
	if sender {
		fs.BoolFunc("4", "", func(string) error { o.family = 4; return nil })
		fs.BoolFunc("6", "", func(string) error { o.family = 6; return nil })
		fs.Float64Var(&o.seconds, "t", 0, "")
		fs.Func("n", "", func(v string) (err error) {
			f, err := scaled(v, 1024)
			o.octets = int64(f)
			return err
		})
		fs.IntVar(&o.flows, "P", 1, "")
		fs.BoolVar(&o.udp, "u", false, "")
		fs.Func("r", "", func(v string) (err error) { o.rate, err = scaled(v, 1000); return err })
		fs.IntVar(&o.length, "l", 1200, "")
		fs.BoolVar(&o.json, "json", false, "")
	}
	if err := fs.Parse(args); err != nil {
		return o, usagef("%v\n%s", err, ttcpUsage)
	}
	if o.cpu < -1 {
		return o, usagef("-A wants the number of a CPU, from 0")
	}
	if o.port == 0 || o.port > 65535 {
		return o, usagef("-p wants a port from 1 to 65535")
	}
	if !sender {
		if fs.NArg() > 0 {
			return o, usagef("%s", ttcpUsage)
		}
		return o, nil
	}
	switch {
	case fs.NArg() != 1:
		return o, usagef("give one host, after the options\n%s", ttcpUsage)
	case o.seconds < 0 || o.seconds > 3600 || o.octets < 0 || o.seconds > 0 && o.octets > 0:
		return o, usagef("-t wants seconds up to 3600, -n a number of octets, and only one of the two")
	case o.flows < 1 || o.flows > 64:
		return o, usagef("-P wants 1 to 64 flows")
	case (o.octets > 0 || o.rate > 0) && o.flows > 1:
		return o, usagef("-n and -r are for one flow: the content of several has no order")
	case o.udp && (o.octets > 0 || o.flows > 1 || o.length < 8 || o.length > 65507):
		return o, usagef("-u goes with -t, one flow and -l from 8 to 65507")
	}
	if o.seconds == 0 && o.octets == 0 {
		o.seconds = 5
	}
	if o.local.IsValid() && o.family == 0 {
		o.family = 6
		if o.local.Is4() {
			o.family = 4
		}
	}
	o.host = fs.Arg(0)
	return o, nil
}

// scaled reads a positive number with an optional K, M or G.
func scaled(v string, step float64) (float64, error) {
	factor := 1.0
	if n := len(v); n > 0 {
		if i := strings.IndexByte("KMG", v[n-1]); i >= 0 {
			for range i + 1 {
				factor *= step
			}
			v = v[:n-1]
		}
	}
	f, err := strconv.ParseFloat(v, 64)
	if err != nil || f <= 0 || f*factor > 1e15 {
		return 0, errors.New("wants a positive number, optionally with K, M or G")
	}
	return f * factor, nil
}

func ttcpSend(ctx context.Context, args []string, s Streams) error {
	o, err := parseTTCP(args, true)
	if err != nil {
		return err
	}
	if o.cpu >= 0 {
		if err := pin(o.cpu); err != nil {
			return err
		}
	}
	dst, err := resolve(ctx, o.host, o.family)
	if err != nil {
		return err
	}
	target := netip.AddrPortFrom(dst, uint16(o.port))
	var report TTCPReport
	if o.udp {
		report, err = sendUDP(ctx, o, target)
	} else {
		report, err = sendFlows(ctx, o, target)
	}
	if err != nil {
		return fmt.Errorf("send to %s: %w", target, err)
	}
	if o.json {
		err = json.NewEncoder(s.Out).Encode(report)
	} else {
		report.print(s.Out)
	}
	if err == nil && report.SentSHA256 != report.SHA256 {
		return fmt.Errorf("the content that arrived differs from what was sent")
	}
	return err
}

func (r TTCPReport) print(w io.Writer) {
	fmt.Fprintf(w, "%s from %s to %s: %d octets in %.3f s, %s\n", r.Mode, r.Source, r.Destination, r.Octets, r.Seconds, Rate(r.BitsPerSecond))
	if r.Mode == "tcp" {
		fmt.Fprintf(w, "flows %d, retransmitted segments %d, MSS %d, longest stall %.3f s\n", r.Flows, r.Retransmits, r.MSS, r.Stall)
	} else {
		lost := 0.0
		if r.PacketsSent > 0 {
			lost = 100 * float64(r.PacketsSent-r.Packets) / float64(r.PacketsSent)
		}
		fmt.Fprintf(w, "datagrams sent %d, arrived %d, lost %.3g%%, late %d\n", r.PacketsSent, r.Packets, lost, r.Late)
	}
	if r.SHA256 != "" {
		fmt.Fprintf(w, "SHA-256 sent    %s\nSHA-256 arrived %s\n", r.SentSHA256, r.SHA256)
	}
}

// Rate writes bits per second with a unit.
func Rate(bits float64) string {
	for _, u := range []struct {
		size float64
		name string
	}{{1e9, "Gbit/s"}, {1e6, "Mbit/s"}, {1e3, "kbit/s"}} {
		if bits >= u.size {
			return fmt.Sprintf("%.2f %s", bits/u.size, u.name)
		}
	}
	return fmt.Sprintf("%.0f bit/s", bits)
}

// dialTTCP opens the TCP connection of a conversation and says hello.
func dialTTCP(ctx context.Context, o ttcpOptions, target netip.AddrPort, hello ttcpHello) (*net.TCPConn, error) {
	d := net.Dialer{Timeout: ttcpPatient}
	if o.local.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(o.local, 0))
	}
	c, err := d.DialContext(ctx, "tcp", target.String())
	if err != nil {
		return nil, err
	}
	line, err := json.Marshal(hello)
	if err == nil {
		_, err = c.Write(append(line, '\n'))
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

// answerLine reads the next JSON line of the receiver.
func answerLine(c net.Conn, r *bufio.Reader, into any) error {
	c.SetReadDeadline(time.Now().Add(ttcpPatient))
	line, err := r.ReadSlice('\n')
	if err != nil {
		return fmt.Errorf("wait for the receiver's answer: %w", err)
	}
	return json.Unmarshal(line, into)
}

func ttcpServe(ctx context.Context, args []string, s Streams) error {
	o, err := parseTTCP(args, false)
	if err != nil {
		return err
	}
	if o.cpu >= 0 {
		if err := pin(o.cpu); err != nil {
			return err
		}
	}
	addr := ":" + strconv.Itoa(int(o.port))
	if o.local.IsValid() {
		addr = netip.AddrPortFrom(o.local, uint16(o.port)).String()
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	fmt.Fprintf(s.Err, "listening on %s\n", ln.Addr())
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	defer ln.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	slots := make(chan struct{}, 128)
	for {
		c, err := ln.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept: %w", err)
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			defer c.Close()
			stop := context.AfterFunc(ctx, func() { c.Close() })
			defer stop()
			if err := receiveTTCP(c.(*net.TCPConn)); err != nil && ctx.Err() == nil {
				fmt.Fprintf(s.Err, "%s: %v\n", c.RemoteAddr(), err)
			}
		})
	}
}
