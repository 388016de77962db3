package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"
)

// testCase is one kind of traffic.
type testCase struct {
	name string
	what string
	unit string
	link link

	flows  int // of TCP; 0: UDP
	onOne  bool
	size   int // of the IP packet, UDP
	both   bool
	rtt    bool
	target int // mappings that UDP goes to; 0: one flow
	random bool
}

const (
	headers = 28 // IPv4 and UDP
	segment = 1448

	// The largest table that the cases with targets send to.
	flowTargets, uniformTargets = 10_000, 200_000
)

var cases = []testCase{
	{name: "tcp1", what: "TCP, one flow, both hosts on one CPU", unit: gbps, flows: 1, onOne: true},
	{name: "tcp1-free", what: "TCP, one flow, hosts on any CPU", unit: gbps, flows: 1},
	{name: "tcp4", what: "TCP, four flows", unit: gbps, flows: 4},
	{name: "udp1400", what: "UDP, packets of 1400 octets, one flow", unit: kpps, size: 1400},
	{name: "small", what: "UDP, packets of 64 octets, one flow", unit: kpps, size: 64},
	{name: "both", what: "UDP, packets of 64 octets, a flow each way, sum", unit: kpps, size: 64, both: true},
	{name: "rtt", what: "round trip of a UDP packet, median, both hosts on one CPU", unit: micros, rtt: true, onOne: true},
	{name: "wire", what: "TCP, one flow, segmented in the core, no GRO", unit: gbps, flows: 1, link: link{segmented: true}},
	{name: "wire-gro", what: "TCP, one flow, segmented in the core, GRO at the routers", unit: gbps, flows: 1, link: link{segmented: true, gro: true}},
	{name: "flows", what: "UDP, packets of 64 octets, 10,000 flows to 10,000 EID-prefixes in turn", unit: kpps, size: 64, target: flowTargets},
	{name: "uniform", what: "UDP, packets of 64 octets, each to one of 200,000 EID-prefixes at random", unit: kpps, size: 64, target: uniformTargets, random: true},
}

const (
	gbps   = "Gbit/s"
	kpps   = "kpps"
	micros = "us"
)

func caseNames() (list []string) {
	for _, c := range cases {
		list = append(list, c.name)
	}
	return list
}

func caseByName(name string) (testCase, bool) {
	for _, c := range cases {
		if c.name == name {
			return c, true
		}
	}
	return testCase{}, false
}

// sample is one measurement.
type sample struct {
	Command  string  `json:"-"` // of the run that it is from
	Commit   string  `json:"-"`
	Time     string  `json:"time"`
	Group    string  `json:"group"`
	Case     string  `json:"case"`
	Arm      string  `json:"arm"`
	Outside  int     `json:"outside"`
	Mappings int     `json:"mappings"`
	Round    int     `json:"round"`
	Value    float64 `json:"value"` // in the unit of the case
	// Of UDP: the part that was lost at the rate that counts, and how many
	// packets came after a later one of their flow. Of round trips: the 99th
	// percentile.
	Loss float64 `json:"loss"`
	Late int64   `json:"late"`
	P99  float64 `json:"p99"`
	// Processor time in microseconds for each packet that arrived, or each
	// segment of TCP: of the whole machine, what else it does included, of the
	// process that forwards on each router, and of the hosts.
	Machine float64 `json:"cpu_machine"`
	Left    float64 `json:"cpu_x1"`
	Right   float64 `json:"cpu_x2"`
	Sender  float64 `json:"cpu_h1"`
	Sink    float64 `json:"cpu_h2"`
	// Frame is how many octets a frame from the core to the right router has,
	// on average; more than the MTU where segments cross as one.
	Frame float64 `json:"frame"`
	// Load is the load average of the last minute, of all that the machine does.
	Load float64 `json:"load"`
}

func (m sample) unit() string {
	c, _ := caseByName(m.Case)
	return c.unit
}

func (m sample) String() string {
	s := fmt.Sprintf("%7.2f %s", m.Value, m.unit())
	switch m.unit() {
	case kpps:
		s += fmt.Sprintf(", %.2f%% lost", 100*m.Loss)
		if m.Late > 0 {
			s += fmt.Sprintf(", %d late", m.Late)
		}
	case micros:
		s += fmt.Sprintf(", p99 %.0f us", m.P99)
	}
	if m.Machine > 0 {
		s += fmt.Sprintf("; us of CPU a packet: %.2f, x1 %.2f, x2 %.2f, h1 %.2f, h2 %.2f; %.0f octets a frame", m.Machine, m.Left, m.Right, m.Sender, m.Sink, m.Frame)
	}
	return s
}

// pause between two measurements, so that one does not see the other's rest.
const pause = 50 * time.Millisecond

func (s *site) measure(ctx context.Context, c testCase) (m sample, err error) {
	if err := sleep(ctx, pause); err != nil {
		return m, err
	}
	cpu := -1
	if c.onOne {
		cpu = 0
	}
	for _, h := range s.hosts {
		if _, err := h.do(order{Op: "bind", CPU: cpu}); err != nil {
			return m, err
		}
	}
	switch {
	case c.rtt:
		return s.roundTrips(c)
	case c.flows > 0:
		return s.throughput(ctx, c)
	}
	return s.packetRate(ctx, c)
}

func (s *site) roundTrips(c testCase) (m sample, err error) {
	n := max(int(s.job.Time/time.Millisecond), 500)
	r, err := s.hosts["h1"].do(order{Op: "rtt", Src: leftHost, Dst: netip.AddrPortFrom(rightHost, echoPort), Count: n})
	m.Value, m.P99 = r.P50.Seconds()*1e6, r.P99.Seconds()*1e6
	return m, err
}

// warmUp is how long TCP runs before it is measured.
const warmUp = 300 * time.Millisecond

func (s *site) throughput(ctx context.Context, c testCase) (m sample, err error) {
	sent := make(chan error, 1)
	go func() {
		_, err := s.hosts["h1"].do(order{Op: "tcp", Src: leftHost, Dst: netip.AddrPortFrom(rightHost, tcpPort), Flows: c.flows, Time: warmUp + s.job.Time + 50*time.Millisecond})
		sent <- err
	}()
	m, err = func() (m sample, err error) {
		if err := sleep(ctx, warmUp); err != nil {
			return m, err
		}
		u := s.usage()
		before, err := s.hosts["h2"].do(order{Op: "count"})
		if err != nil {
			return m, err
		}
		if err := sleep(ctx, s.job.Time); err != nil {
			return m, err
		}
		after, err := s.hosts["h2"].do(order{Op: "count"})
		octets := float64(after.Octets - before.Octets)
		m.Value = octets * 8 / (after.At - before.At).Seconds() / 1e9
		s.usage().since(u, octets/segment, &m)
		return m, err
	}()
	return m, errors.Join(err, <-sent)
}

// Of the search for the highest rate.
const (
	maxLoss    = 0.01
	searchTime = 5 // a step takes so many times less than a measurement
	searchSpan = 0.03
	maxVerify  = 8
)

// packetRate finds the highest rate at which less than 1% of the packets is
// lost: halving an interval by short trials, then verifying what was found by a
// whole measurement, at a little less if that fails.
func (s *site) packetRate(ctx context.Context, c testCase) (m sample, err error) {
	short := max(s.job.Time/searchTime, 100*time.Millisecond)
	t, err := s.trial(ctx, c, 0, short)
	if err != nil {
		return m, err
	}
	good, bad := 0.0, t.offered
	if t.loss < maxLoss {
		good = t.offered
	} else if t.rate > 0 {
		good = t.rate / 4
	}
	for bad-good > searchSpan*bad {
		rate := (good + bad) / 2
		ok := false
		for range 2 { // what else the machine does is no reason
			if t, err = s.trial(ctx, c, rate, short); err != nil {
				return m, err
			}
			if ok = t.loss < maxLoss; ok {
				break
			}
		}
		switch {
		case !ok:
			bad = rate
		case t.offered < rate*0.95: // it can't send more
			good, bad = t.offered, t.offered
		default:
			good = rate
		}
	}
	for range maxVerify {
		u := s.usage()
		if t, err = s.trial(ctx, c, good, s.job.Time); err != nil {
			return m, err
		}
		m.Value, m.Loss = t.rate/1e3, t.loss
		if c.target == 0 { // the packets of several flows may overtake each other
			m.Late = t.late
		}
		s.usage().since(u, t.packets, &m)
		if t.loss < maxLoss {
			return m, nil
		}
		good *= 0.95
	}
	m.Value = 0 // never without loss
	return m, nil
}

// trialResult is what came of sending at a rate.
type trialResult struct {
	offered, rate float64 // packets per second, both ways together
	packets       float64 // that arrived
	loss          float64
	late          int64
}

// settle is how long packets may be on the way after the last was sent.
const settle = 20 * time.Millisecond

// trial sends for a time at a rate for each way, 0 for as fast as it goes.
func (s *site) trial(ctx context.Context, c testCase, rate float64, d time.Duration) (t trialResult, err error) {
	type way struct {
		from, to string
		src, dst netip.Addr
		sent     outcome
		err      error
	}
	ways := []*way{{from: "h1", to: "h2", src: leftHost, dst: rightHost}}
	if c.both {
		ways = append(ways, &way{from: "h2", to: "h1", src: rightHost, dst: leftHost})
		rate /= 2
	}
	received := func() (packets, late int64, err error) {
		for _, w := range ways {
			r, err := s.hosts[w.to].do(order{Op: "count"})
			if err != nil {
				return 0, 0, err
			}
			packets += r.Packets
			late += r.Late
		}
		return packets, late, nil
	}
	before, late, err := received()
	if err != nil {
		return t, err
	}
	done := make(chan *way)
	for _, w := range ways {
		go func() {
			w.sent, w.err = s.hosts[w.from].do(order{Op: "udp", Src: w.src, Dst: netip.AddrPortFrom(w.dst, sinkPort), Time: d,
				Size: c.size - headers, Rate: rate, Targets: min(c.target, s.targets()), Random: c.random})
			done <- w
		}()
	}
	var sent int64
	var took time.Duration
	for range ways {
		w := <-done
		err = errors.Join(err, w.err)
		sent, took = sent+w.sent.Sent, max(took, w.sent.Took)
	}
	if err != nil {
		return t, err
	}
	after := before
	for { // until nothing comes any more
		if err := sleep(ctx, settle); err != nil {
			return t, err
		}
		n, l, err := received()
		if err != nil {
			return t, err
		}
		if n == after {
			t.late = l - late
			break
		}
		after = n
	}
	if sent == 0 {
		return t, errors.New("nothing could be sent")
	}
	t.packets = float64(after - before)
	t.offered, t.rate = float64(sent)/took.Seconds(), t.packets/took.Seconds()
	t.loss = max(0, 1-t.packets/float64(sent))
	return t, nil
}

// targets is how many EID-prefixes can be sent to: all sites of a run get the
// same, whatever table they have.
func (s *site) targets() int { return s.job.Mappings }

// usage is the processor time that was used so far.
type usage struct {
	machine                   time.Duration
	left, right, sender, sink time.Duration

	octets, frames uint64 // received by the right router from the core
}

func (s *site) usage() (u usage) {
	u.machine = machineTime()
	u.octets, u.frames = s.w.received()
	if p := s.procs["x1"]; p != nil {
		u.left = processTime(p.Process.Pid)
	}
	if p := s.procs["x2"]; p != nil {
		u.right = processTime(p.Process.Pid)
	}
	u.sender, u.sink = processTime(s.hosts["h1"].cmd.Process.Pid), processTime(s.hosts["h2"].cmd.Process.Pid)
	return u
}

// since puts what was used since before into m, for each of the packets.
func (u usage) since(before usage, packets float64, m *sample) {
	if packets <= 0 {
		return
	}
	if n := u.frames - before.frames; n > 0 {
		m.Frame = float64(u.octets-before.octets) / float64(n)
	}
	each := func(now, then time.Duration) float64 { return (now - then).Seconds() * 1e6 / packets }
	m.Machine, m.Left, m.Right = each(u.machine, before.machine), each(u.left, before.left), each(u.right, before.right)
	m.Sender, m.Sink = each(u.sender, before.sender), each(u.sink, before.sink)
}

// loadAverage is that of the last minute.
func loadAverage() (load float64) {
	if b, err := os.ReadFile("/proc/loadavg"); err == nil {
		fmt.Sscan(string(b), &load)
	}
	return load
}

const tick = 10 * time.Millisecond // USER_HZ is 100 on all machines

// machineTime is how long the CPUs of the machine were busy.
func machineTime() time.Duration {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	line, _, _ := strings.Cut(string(b), "\n")
	sum := 0
	for i, f := range strings.Fields(line) {
		// cpu, then user, nice, system, idle, iowait, irq, softirq
		if n, err := strconv.Atoi(f); err == nil && i <= 7 && i != 4 && i != 5 {
			sum += n
		}
	}
	return time.Duration(sum) * tick
}

// processTime is how long a process was on a CPU.
func processTime(pid int) time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// Behind the name, which may hold anything, the 12th and 13th.
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * tick
}
