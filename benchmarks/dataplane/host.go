package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/eidolon-lisp/eidolon/benchmarks/rig"
)

// Ports of each host.
const (
	tcpPort  = 5001 // what comes is counted
	sinkPort = 5002 // the same for UDP
	echoPort = 5003 // UDP, sent back
)

// order is what a host is to do; its answer is an outcome.
type order struct {
	Op   string         `json:"op"`
	Src  netip.Addr     `json:"src"`
	Dst  netip.AddrPort `json:"dst"`
	Time time.Duration  `json:"time,omitempty"`
	// tcp
	Flows int `json:"flows,omitempty"`
	// udp
	Size    int     `json:"size,omitempty"` // of the payload, in octets
	Rate    float64 `json:"rate,omitempty"` // packets per second; 0: as fast as it goes
	Targets int     `json:"targets,omitempty"`
	Random  bool    `json:"random,omitempty"` // targets uniformly at random, else in turn
	// rtt
	Count int `json:"count,omitempty"`
	// bind: to one CPU, or if it is less than 0 to none.
	CPU int `json:"cpu,omitempty"`
}

// outcome is the answer of a host.
type outcome struct {
	Error string `json:"error,omitempty"`
	// Received so far, at a time of the monotonic clock that all processes share.
	At      time.Duration `json:"at,omitempty"`
	Octets  int64         `json:"octets,omitempty"`
	Packets int64         `json:"packets,omitempty"`
	Late    int64         `json:"late,omitempty"`
	// udp: sent, and how long that took.
	Sent int64         `json:"sent,omitempty"`
	Took time.Duration `json:"took,omitempty"`
	// rtt
	P50 time.Duration `json:"p50,omitempty"`
	P99 time.Duration `json:"p99,omitempty"`
}

// host receives all the time and sends when it is told to.
type host struct {
	octets atomic.Int64 // of TCP
	sink   *sink
	all    unix.CPUSet
	table  []netip.Prefix // of the targets, made once
}

// runHost is the program of a host: orders come on the standard input, one a
// line, and end with it.
func runHost() int {
	h, err := newHost(addr(os.Args[1]))
	if err == nil {
		err = h.serve(os.Stdin, os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "host:", err)
		return 1
	}
	return 0
}

func newHost(self netip.Addr) (*host, error) {
	h := &host{}
	if err := unix.SchedGetaffinity(0, &h.all); err != nil {
		return nil, err
	}
	ln, err := net.Listen("tcp4", fmt.Sprintf(":%d", tcpPort))
	if err != nil {
		return nil, err
	}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go h.drain(c)
		}
	}()
	if h.sink, err = newSink(sinkPort); err != nil {
		return nil, err
	}
	go h.sink.run()
	return h, echo(netip.AddrPortFrom(self, echoPort))
}

// drain reads a TCP connection to its end.
func (h *host) drain(c net.Conn) {
	defer c.Close()
	buf := make([]byte, tcpChunk)
	for {
		n, err := c.Read(buf)
		h.octets.Add(int64(n))
		if err != nil {
			return
		}
	}
}

const tcpChunk = 256 << 10

func (h *host) serve(r io.Reader, w io.Writer) error {
	in, out := bufio.NewScanner(r), json.NewEncoder(w)
	for in.Scan() {
		var o order
		if err := json.Unmarshal(in.Bytes(), &o); err != nil {
			return err
		}
		res, err := h.do(o)
		if err != nil {
			res.Error = err.Error()
		}
		if err := out.Encode(res); err != nil {
			return err
		}
	}
	return in.Err()
}

func (h *host) do(o order) (res outcome, err error) {
	switch o.Op {
	case "count":
		res = outcome{At: now(), Octets: h.octets.Load(), Packets: h.sink.packets.Load(), Late: h.sink.late.Load()}
	case "bind":
		if o.CPU < 0 {
			err = unbind(&h.all)
		} else {
			err = rig.BindSelf(o.CPU)
		}
	case "tcp":
		err = sendTCP(o)
	case "udp":
		res, err = h.sendUDP(o)
	case "rtt":
		res, err = roundTrips(o)
	default:
		err = fmt.Errorf("the order %q is not known", o.Op)
	}
	return res, err
}

// now is the time of the clock that all processes of the machine share.
func now() time.Duration {
	var ts unix.Timespec
	unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // can't fail
	return time.Duration(ts.Nano())
}

// unbind lets all threads run on any of the CPUs.
func unbind(all *unix.CPUSet) error {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	for _, t := range tasks {
		var tid int
		if _, err := fmt.Sscan(t.Name(), &tid); err != nil {
			return err
		}
		if err := unix.SchedSetaffinity(tid, all); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
	}
	return nil
}

// sendTCP writes to some connections for a time.
func sendTCP(o order) error {
	errs := make([]error, o.Flows)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() { errs[i] = sendFlow(o) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func sendFlow(o order) error {
	d := net.Dialer{Timeout: 5 * time.Second, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(o.Src, 0))}
	c, err := d.Dial("tcp", o.Dst.String())
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetWriteDeadline(time.Now().Add(o.Time + 5*time.Second))
	buf := make([]byte, tcpChunk)
	for end := time.Now().Add(o.Time); time.Now().Before(end); {
		if _, err := c.Write(buf); err != nil {
			return err
		}
	}
	return c.(*net.TCPConn).SetLinger(0) // what is still in the buffer would disturb the next
}

// roundTrips sends requests to the echo port of the other host, one after the
// other, and returns how long answers took.
func roundTrips(o order) (res outcome, err error) {
	fd, err := udpSocket(netip.AddrPortFrom(o.Src, 0))
	if err != nil {
		return res, err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, sockaddr(o.Dst)); err != nil {
		return res, err
	}
	patience := unix.NsecToTimeval(int64(200 * time.Millisecond))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience); err != nil {
		return res, err
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var took []time.Duration
	var buf [64]byte
	for lost := 0; len(took) < o.Count; {
		begin := now()
		if _, err := unix.Write(fd, buf[:]); err != nil && !errors.Is(err, unix.ECONNREFUSED) {
			return res, err
		}
		if _, err := unix.Read(fd, buf[:]); err != nil {
			if lost++; lost > 10 {
				return res, fmt.Errorf("no echo from %v: %w", o.Dst, err)
			}
			continue
		}
		took = append(took, now()-begin)
	}
	slices.Sort(took)
	res.P50, res.P99 = took[len(took)/2], took[len(took)*99/100]
	return res, nil
}

// echo sends back what comes to a UDP port, from then on.
func echo(at netip.AddrPort) error {
	fd, err := udpSocket(at)
	if err != nil {
		return err
	}
	go func() {
		runtime.LockOSThread()
		var buf [2048]byte
		for {
			n, from, err := unix.Recvfrom(fd, buf[:], 0)
			if err != nil {
				continue // what an ICMP message left on the socket
			}
			unix.Sendto(fd, buf[:n], 0, from)
		}
	}()
	return nil
}
