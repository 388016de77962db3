// Bgpgrowth measures what multihomed sites cost the global routing system, with BGP
// and with Eidolon, on real speakers and a real mapping system.
//
//	go run ./benchmarks/bgpgrowth [--quick] [-seed N] [-out DIR]
//
// starts, in this machine, default-free zones of GoBGP speakers and sites that buy
// from them, and counts routes, memory and the messages on the wire. The rows that it
// measures are added to runs.csv in DIR; what is there already is not measured again,
// so that a run that was ended goes on when it is started again.
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
	"syscall"
	"time"

	"github.com/eidolon-lisp/eidolon/benchmarks/bgpgrowth/measure"
)

type options struct {
	quick bool
	seed  uint64
	out   string
}

func parse(args []string, errOut io.Writer) (options, error) {
	var o options
	f := flag.NewFlagSet("bgpgrowth", flag.ContinueOnError)
	f.SetOutput(errOut)
	f.BoolVar(&o.quick, "quick", false, "small worlds only, in less than two minutes")
	f.Uint64Var(&o.seed, "seed", 1, "seed of the zones, the sites and what happens to them")
	f.StringVar(&o.out, "out", "", "directory of the results (default: benchmarks/results/bgpgrowth, or with -quick a temporary one)")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	return o, nil
}

func main() {
	if os.Getenv(roleVariable) != "" {
		os.Exit(child())
	}
	o, err := parse(os.Args[1:], os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err == nil {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		err = run(ctx, o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bgpgrowth:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	jobs := quickPlan(o.seed)
	if o.out == "" {
		o.out = filepath.Join("benchmarks", "results", "bgpgrowth")
		if o.quick {
			dir, err := os.MkdirTemp("", "bgpgrowth-")
			if err != nil {
				return err
			}
			defer os.RemoveAll(dir)
			o.out = dir
		}
	}
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return err
	}
	file, err := measure.Open(filepath.Join(o.out, "runs.csv"))
	if err != nil {
		return err
	}
	defer file.Close()
	if err := measureAll(ctx, jobs, file); err != nil {
		return err
	}
	return summary(os.Stdout, file.Runs())
}

// measureAll runs the jobs that are not in file yet.
func measureAll(ctx context.Context, jobs []job, file *measure.File) error {
	p := newProgress(os.Stderr, len(jobs))
	defer p.end()
	for _, j := range jobs {
		if file.Has(j.done()) {
			p.skip()
			continue
		}
		p.begin(j.String())
		rows, err := measureJob(ctx, j, p.say)
		if err != nil {
			return err
		}
		if err := file.Add(rows...); err != nil {
			return err
		}
		p.done()
	}
	return nil
}

// progressLine is a line on a terminal that tells how far the program is; elsewhere
// it is a line for each job.
type progressLine struct {
	out      io.Writer
	terminal bool
	jobs     int
	finished int
	measured int
	start    time.Time
	what     string
}

func newProgress(out *os.File, jobs int) *progressLine {
	st, err := out.Stat()
	return &progressLine{out: out, terminal: err == nil && st.Mode()&os.ModeCharDevice != 0, jobs: jobs, start: time.Now()}
}

func (p *progressLine) begin(what string) {
	p.what = what
	if !p.terminal {
		fmt.Fprintf(p.out, "[%d/%d] %s\n", p.finished+1, p.jobs, what)
	}
	p.say("")
}

func (p *progressLine) say(now string) {
	if p.terminal {
		fmt.Fprintf(p.out, "\r\x1b[K[%d/%d] %v %s: %s", p.finished+1, p.jobs, time.Since(p.start).Round(time.Second), p.what, now)
	}
}

func (p *progressLine) skip() { p.finished++ }
func (p *progressLine) done() { p.finished++; p.measured++ }

func (p *progressLine) end() {
	if p.terminal {
		fmt.Fprint(p.out, "\r\x1b[K")
	}
	fmt.Fprintf(p.out, "%d of %d worlds, %d of them measured now, in %v\n", p.finished, p.jobs, p.measured, time.Since(p.start).Round(time.Second))
}
