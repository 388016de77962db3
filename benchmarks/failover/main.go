// Failover measures how the connections of a site with two providers survive
// failures, and what that costs the rest of the network:
//
//	go run ./benchmarks/failover            all, hours; it goes on where it was stopped
//	go run ./benchmarks/failover --quick    a few minutes, checked
//
// One topology is built in network namespaces for each run, with the real
// daemons and speakers in it; nothing but Go and Linux is needed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// The names under which the program is one run in namespaces of its own, or a
// BGP speaker in one of them.
const (
	runName     = "failover-run"
	speakerName = "failover-speaker"
)

func main() {
	switch filepath.Base(os.Args[0]) {
	case runName:
		os.Exit(runChild())
	case speakerName:
		os.Exit(runSpeaker())
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
		fmt.Fprintln(os.Stderr, "failover:", err)
		os.Exit(1)
	}
}

// options are those of the command line.
type options struct {
	quick    bool
	report   bool // only write the report of what there is
	out      string
	runs     int
	arms     []string
	failures []string
	rtts     []int // milliseconds
	parallel int
	te       bool
	bars     bool
	verbose  bool
	programs string
	warmUp   time.Duration
}

func parse(args []string, usage io.Writer) (options, error) {
	var o options
	fs := flag.NewFlagSet("failover", flag.ContinueOnError)
	fs.SetOutput(usage)
	fs.BoolVar(&o.quick, "quick", false, "each arm and each failure, three runs at the same time; what was measured is checked, not judged")
	fs.BoolVar(&o.report, "report", false, "measure nothing, write the report of the runs that are there")
	fs.StringVar(&o.out, "out", "", "`directory` of the results (default benchmarks/results/failover; with -quick: none is kept)")
	fs.IntVar(&o.runs, "runs", 20, "runs of each cell")
	arms := fs.String("arms", strings.Join(armNames(), ","), "ways to survive that are tried")
	failures := fs.String("failures", strings.Join(failureNames(), ","), "what happens; none: only traffic engineering")
	rtts := fs.String("rtt", "0,80", "round-trip times of the core in `ms`")
	fs.DurationVar(&o.warmUp, "warmup", 3*time.Second, "how long the streams run before the failure")
	fs.IntVar(&o.parallel, "parallel", 1, "runs at the same time; the streams of one take a sixth of a core")
	fs.BoolVar(&o.te, "te", true, "traffic engineering: move inbound traffic from 50/50 to 70/30")
	fs.BoolVar(&o.bars, "bars", false, "fail when a bar is missed")
	fs.StringVar(&o.programs, "programs", "", "`directory` with xtr and mapserver, instead of building them")
	fs.BoolVar(&o.verbose, "v", false, "show what daemons and speakers say")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	if fs.NArg() > 0 {
		return o, fmt.Errorf("%q: no arguments are expected", fs.Arg(0))
	}
	var err error
	if o.arms, err = pick("arm", *arms, armNames()); err != nil {
		return o, err
	}
	if *failures != "none" {
		if o.failures, err = pick("failure", *failures, failureNames()); err != nil {
			return o, err
		}
	}
	for f := range strings.SplitSeq(*rtts, ",") {
		var n int
		if _, err := fmt.Sscanf(f+"\n", "%d\n", &n); err != nil || n < 0 || n > 1000 {
			return o, fmt.Errorf("-rtt: %q is no number of milliseconds from 0 to 1000", f)
		}
		o.rtts = append(o.rtts, n)
	}
	if o.warmUp < time.Second || o.warmUp > time.Minute {
		return o, errors.New("-warmup wants 1s to 1m")
	}
	if o.runs < 1 || o.parallel < 1 || o.parallel > 16 {
		return o, errors.New("-runs wants at least 1, -parallel 1 to 16")
	}
	if o.quick {
		set := map[string]bool{}
		fs.Visit(func(f *flag.Flag) { set[f.Name] = true })
		if !set["runs"] {
			o.runs = 1
		}
		if !set["parallel"] {
			o.parallel = 3
		}
	} else if o.out == "" {
		o.out = filepath.Join("benchmarks", "results", "failover")
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
