// Dataplane measures how fast packets cross two xTRs, beside plain routing and
// other tunnels on the same machine at the same time:
//
//	go run ./benchmarks/dataplane            all, an hour or so
//	go run ./benchmarks/dataplane --quick    less than two minutes
//
// For each way to cross (an arm) it builds the same path of five nodes in
// network namespaces, with the real daemons on it:
//
//	h1 --- x1 --- core --- x2 --- h2
//
// The arms take turns in each case (A B A B), so that what else the machine
// does hits all of them, and an arm is compared with plain routing in the same
// turn. Nothing but Go and Linux is needed; wireguard-go takes part where it is
// installed.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/eidolon-lisp/eidolon/benchmarks/rig"
)

// The names under which the program measures in namespaces of its own, or is
// the hosts' traffic in one of them.
const (
	runName  = "dataplane-run"
	hostName = "dataplane-host"
)

func main() {
	switch filepath.Base(os.Args[0]) {
	case runName:
		os.Exit(runChild())
	case hostName:
		os.Exit(runHost())
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	o, err := parse(os.Args[1:], os.Stderr)
	if err == nil {
		err = measure(ctx, o)
	}
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "dataplane:", err)
		os.Exit(1)
	}
}

// options are those of the command line.
type options struct {
	quick     bool
	report    bool // only write the report of what there is
	keep      bool // of what there is, what is not measured anew
	bars      bool
	out       string
	arms      []string
	asked     bool // the arms were named: one that can't run is an error
	groups    []string
	cases     []string
	rounds    int
	time      time.Duration
	mappings  int
	programs  string
	other     string
	wireguard string
	verbose   bool
}

func parse(args []string, usage io.Writer) (options, error) {
	var o options
	fs := flag.NewFlagSet("dataplane", flag.ContinueOnError)
	fs.SetOutput(usage)
	fs.BoolVar(&o.quick, "quick", false, "one short round of fewer cases")
	fs.BoolVar(&o.report, "report", false, "measure nothing, write the report of the last run")
	fs.BoolVar(&o.keep, "keep", false, "keep the cases of earlier runs that are not measured again")
	fs.BoolVar(&o.bars, "bars", false, "fail when a bar is missed")
	fs.StringVar(&o.out, "out", "", "`directory` of the results (default benchmarks/results/dataplane; with -quick: none is kept)")
	fs.IntVar(&o.rounds, "rounds", 5, "how often each arm has its turn in a case")
	fs.DurationVar(&o.time, "time", 2*time.Second, "how long one measurement takes")
	fs.IntVar(&o.mappings, "mappings", 900_000, "size of the large table")
	arms := fs.String("arms", "", "ways to cross that are measured, of "+strings.Join(armNames(), ",")+" (default: those that can run here)")
	groups := fs.String("groups", strings.Join(groupNames(), ","), "groups of cases")
	cases := fs.String("cases", strings.Join(caseNames(), ","), "cases that are measured")
	fs.StringVar(&o.programs, "programs", "", "`directory` with xtr and mapserver, instead of building them")
	fs.StringVar(&o.other, "other", "", "`directory` with xtr of another build, to compare with")
	fs.StringVar(&o.wireguard, "wireguard", "", "`file` of wireguard-go (default: wireguard-go or wireguard in the path)")
	fs.BoolVar(&o.verbose, "v", false, "show what the daemons say")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	if fs.NArg() > 0 {
		return o, fmt.Errorf("%q: no arguments are expected", fs.Arg(0))
	}
	set := map[string]bool{}
	fs.Visit(func(f *flag.Flag) { set[f.Name] = true })
	var err error
	o.arms = armNames()
	if o.asked = set["arms"]; o.asked {
		if o.arms, err = pick("arm", *arms, armNames()); err != nil {
			return o, err
		}
	}
	if o.groups, err = pick("group", *groups, groupNames()); err != nil {
		return o, err
	}
	if o.cases, err = pick("case", *cases, caseNames()); err != nil {
		return o, err
	}
	if o.quick {
		if !set["rounds"] {
			o.rounds = 1
		}
		if !set["time"] {
			o.time = 500 * time.Millisecond
		}
		if !set["mappings"] {
			o.mappings = 20_000
		}
		if !set["cases"] {
			o.cases = []string{"tcp1", "tcp4", "small", "both", "rtt", "flows"}
		}
	} else if o.out == "" {
		o.out = filepath.Join("benchmarks", "results", "dataplane")
	}
	switch {
	case o.rounds < 1 || o.rounds > 1000:
		return o, errors.New("-rounds wants 1 to 1000")
	case o.time < 100*time.Millisecond || o.time > time.Minute:
		return o, errors.New("-time wants 100ms to 1m")
	case o.mappings < 1000 || o.mappings > maxMappings:
		return o, fmt.Errorf("-mappings wants 1000 to %d", maxMappings)
	case (o.report || o.keep) && o.out == "":
		return o, errors.New("-report and -keep want the results of a run that is not -quick, or -out")
	}
	return o, nil
}

// pick reads a list of known words, in the order of known.
func pick(what, list string, known []string) ([]string, error) {
	var out []string
	asked := strings.Split(list, ",")
	for _, a := range asked {
		if !slices.Contains(known, a) {
			return nil, fmt.Errorf("there is no %s %q; there are %s", what, a, strings.Join(known, ", "))
		}
	}
	for _, k := range known {
		if slices.Contains(asked, k) {
			out = append(out, k)
		}
	}
	return out, nil
}

// measure runs the groups and writes what came out, also of a run that was
// broken off.
func measure(ctx context.Context, o options) error {
	if o.report {
		res, err := readResults(o.out)
		if err != nil {
			return err
		}
		return errors.Join(res.write(o.out, os.Stdout), res.missed(o.bars))
	}
	dir, err := os.MkdirTemp("", "eidolon-dataplane-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	programs, err := build(ctx, o.programs, dir)
	if err != nil {
		return err
	}
	if o.wireguard == "" {
		for _, name := range []string{"wireguard-go", "wireguard"} {
			if p, err := exec.LookPath(name); err == nil {
				o.wireguard = p
				break
			}
		}
	}
	res := newResults(o)
	var failed error
	for _, g := range groups {
		if !slices.Contains(o.groups, g.name) || ctx.Err() != nil {
			continue
		}
		j := job{Group: g.name, Arms: o.arms, Asked: o.asked, Cases: o.cases, Rounds: o.rounds, Time: o.time, Mappings: o.mappings,
			Programs: programs, Other: o.other, Wireguard: o.wireguard, Dir: dir, Verbose: o.verbose}
		if err := spawn(ctx, j, func(m message) {
			if m.Sample != nil {
				res.add(*m.Sample)
			}
			fmt.Fprintf(os.Stderr, "%s  %s\n", time.Since(res.begin).Round(time.Second), m.Text)
		}); err != nil {
			failed = errors.Join(failed, fmt.Errorf("group %s: %w", g.name, err))
		}
	}
	if len(res.samples) > 0 {
		if o.keep {
			switch old, err := readResults(o.out); {
			case err == nil:
				res.keep(old)
			case !errors.Is(err, os.ErrNotExist):
				return errors.Join(failed, err)
			}
		}
		failed = errors.Join(failed, res.write(o.out, os.Stdout), res.missed(o.bars))
	}
	return errors.Join(failed, ctx.Err())
}

// build makes the daemons, unless they are there.
func build(ctx context.Context, programs, dir string) (string, error) {
	if programs != "" {
		return filepath.Abs(programs)
	}
	dir = filepath.Join(dir, "bin")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", dir+"/", "github.com/eidolon-lisp/eidolon/cmd/xtr", "github.com/eidolon-lisp/eidolon/cmd/mapserver")
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("go build: %w", err)
	}
	return dir, nil
}

// message is a line from the child that measures.
type message struct {
	Text   string  `json:"text,omitempty"`
	Sample *sample `json:"sample,omitempty"`
	Error  string  `json:"error,omitempty"`
}

// spawn runs a job in a child in namespaces of its own, which ends with all
// that it started when this process does, and hands over what it says.
func spawn(ctx context.Context, j job, say func(message)) error {
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Args = []string{runName}
	cmd.SysProcAttr = rig.Namespaces()
	cmd.WaitDelay = 5 * time.Second
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start a run in namespaces of its own (root, or an ordinary user who may create them): %w", err)
	}
	// The pipe stays open: its end tells the child that we are gone.
	if err := json.NewEncoder(in).Encode(j); err != nil {
		cmd.Process.Kill()
	}
	var failed error
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var m message
		if err := json.Unmarshal(lines.Bytes(), &m); err != nil {
			failed = fmt.Errorf("what the run says: %w", err)
			continue
		}
		if m.Error != "" {
			failed = errors.New(m.Error)
			continue
		}
		say(m)
	}
	return errors.Join(failed, cmd.Wait())
}
