package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/eidolon-lisp/eidolon/benchmarks/rig"
)

// job is what a child in namespaces of its own is to do.
type job struct {
	Group     string
	Arms      []string
	Asked     bool // the arms were named: one that can't run is an error
	Cases     []string
	Rounds    int
	Time      time.Duration
	Mappings  int // of the large table
	Programs  string
	Other     string // directory with another xtr
	Wireguard string
	Dir       string
	Verbose   bool

	out *json.Encoder
}

func (j job) say(format string, args ...any) {
	j.out.Encode(message{Text: fmt.Sprintf(format, args...)})
}

// group is a set of sites that are up at the same time, and the cases that they
// are measured in.
type group struct {
	name    string
	what    string
	outside int
	arms    []string
	large   bool // each of Eidolon's arms with the large table, too
	cases   []string
}

// pureArms have the same at both ends.
var pureArms = []string{plainArm, "vxlan", "wireguard", "tun", "tun-shipped", "bpf", "tun-other", "bpf-other"}

var groups = []group{
	{name: "ipv4", what: "IPv4 outside", outside: 4, arms: pureArms,
		cases: []string{"tcp1", "tcp1-free", "tcp4", "udp1400", "small", "both", "rtt", "wire", "wire-gro"}},
	{name: "ipv6", what: "IPv6 outside", outside: 6, arms: pureArms,
		cases: []string{"tcp1", "tcp1-free", "tcp4", "udp1400", "small", "both", "rtt"}},
	{name: "table", what: "many mappings", outside: 4, arms: []string{plainArm, "tun", "bpf", "tun-other", "bpf-other"}, large: true,
		cases: []string{"small", "flows", "uniform"}},
	{name: "mixed", what: "different planes, as shipped", outside: 4, arms: []string{plainArm, "tun-bpf", "bpf-tun"},
		cases: []string{"tcp1-free", "small"}},
}

func groupNames() (list []string) {
	for _, g := range groups {
		list = append(list, g.name)
	}
	return list
}

// runChild is the program of a run: the first process of a PID namespace, so
// that all it starts ends with it.
func runChild() int {
	in := bufio.NewReader(os.Stdin)
	j := job{out: json.NewEncoder(os.Stdout)}
	line, err := in.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &j)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "dataplane: read the job:", err)
		return 1
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		in.ReadByte() // the parent holds the other end: it only ever ends
		cancel()
	}()
	if err := errors.Join(rig.Private(), unix.Mount("tmpfs", "/run", "tmpfs", 0, "")); err != nil {
		j.out.Encode(message{Error: err.Error()})
		return 1
	}
	if err := j.run(ctx); err != nil {
		j.out.Encode(message{Error: err.Error()})
		return 1
	}
	return 0
}

func (j job) run(ctx context.Context) error {
	i := slices.IndexFunc(groups, func(g group) bool { return g.name == j.Group })
	if i < 0 {
		return fmt.Errorf("there is no group %q", j.Group)
	}
	g := groups[i]
	var sites []*site
	defer func() {
		for _, s := range sites {
			s.stop()
		}
	}()
	for _, a := range arms {
		if !slices.Contains(j.Arms, a.name) || !slices.Contains(g.arms, a.name) {
			continue
		}
		sizes := []int{1}
		if g.large && a.plane != "" {
			sizes = append(sizes, j.Mappings)
		}
		for _, n := range sizes {
			s, err := j.open(ctx, a, g.outside, n)
			switch {
			case errors.Is(err, errUnavailable) && !j.Asked:
				j.say("%s does not take part: %v", a.name, err)
				continue
			case err != nil:
				return fmt.Errorf("%s: %w", a.name, err)
			}
			sites = append(sites, s)
		}
	}
	if len(sites) == 0 {
		return errors.New("no arm can run")
	}
	for _, c := range cases {
		if !slices.Contains(j.Cases, c.name) || !slices.Contains(g.cases, c.name) {
			continue
		}
		if err := j.measure(ctx, g, c, sites); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
	}
	return nil
}

// measure runs one case: in each round, each site once.
func (j job) measure(ctx context.Context, g group, c testCase, sites []*site) error {
	for _, s := range sites {
		if err := s.w.setLink(c.link); err != nil {
			return err
		}
	}
	for round := range j.Rounds {
		for _, s := range sites {
			m, err := s.measure(ctx, c)
			if err != nil {
				return fmt.Errorf("%s: %w", s.name(), err)
			}
			m.Group, m.Case, m.Arm, m.Outside, m.Mappings, m.Round = g.name, c.name, s.arm.name, g.outside, s.mappings, round
			m.Load = loadAverage()
			m.Time = time.Now().UTC().Format(time.RFC3339)
			j.out.Encode(message{Text: fmt.Sprintf("%-5s %-9s round %d  %-14s %s", g.name, c.name, round+1, s.name(), m), Sample: &m})
		}
	}
	return nil
}

// open builds a world and starts an arm in it; packets pass when it returns.
func (j job) open(ctx context.Context, a arm, outside, mappings int) (_ *site, err error) {
	s := &site{arm: a, outside: outside, mappings: mappings, job: j, hosts: map[string]*hostProcess{}, procs: map[string]*exec.Cmd{}}
	defer func() {
		if err != nil {
			s.stop()
		}
	}()
	if s.dir, err = os.MkdirTemp(j.Dir, a.name+"-"); err != nil {
		return nil, err
	}
	if s.w, err = buildWorld(); err != nil {
		return nil, err
	}
	for node, self := range map[string]netip.Addr{"h1": leftHost, "h2": rightHost} {
		if s.hosts[node], err = s.startHost(node, self); err != nil {
			return nil, err
		}
	}
	begin := time.Now()
	if err := a.start(ctx, s); err != nil {
		return nil, err
	}
	if err := s.reach(ctx); err != nil {
		return nil, err
	}
	j.say("%s is up after %v", s.name(), time.Since(begin).Round(time.Millisecond))
	return s, nil
}

// name of a site in what is printed.
func (s *site) name() string {
	if s.mappings > 1 {
		return fmt.Sprintf("%s/%d", s.arm.name, s.mappings)
	}
	return s.arm.name
}

// reach waits until an echo comes back.
func (s *site) reach(ctx context.Context) error {
	for deadline := time.Now().Add(30 * time.Second); ; {
		_, err := s.hosts["h1"].do(order{Op: "rtt", Src: leftHost, Dst: netip.AddrPortFrom(rightHost, echoPort), Count: 1})
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("nothing gets through: %w%s", err, s.logs())
		}
		if err := sleep(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

// launch starts a program in a node, its output in a log. What has a role
// forwards packets, and its time is measured.
func (s *site) launch(node, role string, cmd *exec.Cmd) error {
	log, err := os.Create(filepath.Join(s.dir, filepath.Base(cmd.Path)+"-"+node+".log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.Stderr = log
	if s.job.Verbose {
		cmd.Stderr = os.Stderr
	}
	// A new process has the network namespace of the thread that made it.
	if err := s.w.ns[node].Do(cmd.Start); err != nil {
		return fmt.Errorf("%s: %w", node, err)
	}
	if role != "" {
		s.procs[role] = cmd
	} else {
		s.other = append(s.other, cmd)
	}
	return nil
}

// logs returns what the programs said, for an error.
func (s *site) logs() (text string) {
	files, _ := filepath.Glob(filepath.Join(s.dir, "*.log"))
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil && len(b) > 0 {
			text += fmt.Sprintf("\n%s:\n%s", filepath.Base(f), b[max(0, len(b)-2000):])
		}
	}
	return text
}

// stop ends all processes and gives the world back.
func (s *site) stop() {
	for _, h := range s.hosts {
		if h != nil {
			h.in.Close()
			h.cmd.Process.Kill()
			h.cmd.Wait()
		}
	}
	list := s.other
	for _, p := range s.procs {
		list = append(list, p)
	}
	for _, p := range list {
		p.Process.Kill()
		p.Wait()
	}
	if s.w != nil {
		s.w.close()
	}
}

// hostProcess is the traffic of a host.
type hostProcess struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func (s *site) startHost(node string, self netip.Addr) (*hostProcess, error) {
	h := &hostProcess{cmd: exec.Command("/proc/self/exe", self.String())}
	h.cmd.Args[0] = hostName
	var err error
	if h.in, err = h.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := h.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	h.out = bufio.NewReader(out)
	h.cmd.Stderr = os.Stderr
	if err := s.w.ns[node].Do(h.cmd.Start); err != nil {
		return nil, err
	}
	return h, nil
}

// do has the host carry an order out, and waits for it.
func (h *hostProcess) do(o order) (res outcome, err error) {
	if err := json.NewEncoder(h.in).Encode(o); err != nil {
		return res, err
	}
	line, err := h.out.ReadBytes('\n')
	if err != nil {
		return res, fmt.Errorf("the answer of a host: %w", err)
	}
	if err := json.Unmarshal(line, &res); err != nil {
		return res, err
	}
	if res.Error != "" {
		return res, errors.New(res.Error)
	}
	return res, nil
}
