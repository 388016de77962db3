// Bgpgrowth measures what multihomed sites cost the global routing system, with BGP
// and with Eidolon, on real speakers and a real mapping system.
//
//	go run ./benchmarks/bgpgrowth [--quick] [--report] [-match REGEXP] [-seed N] [-out DIR]
//	    [-pfx2as FILE -asrel FILE [-table]]
//	go run ./benchmarks/bgpgrowth -mrt FILE [-speed X]
//
// starts, in this machine, default-free zones of GoBGP speakers and sites that buy
// from them, and counts routes, memory and the messages on the wire. The rows that it
// measures are added to runs.csv in DIR; what is there already is not measured again,
// so that a run that was ended goes on when it is started again. With -table it says
// what the table is made of and measures nothing. With -mrt it replays what a
// collector recorded, and writes replay.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/eidolon-lisp/eidolon/benchmarks/bgpgrowth/measure"
	"github.com/eidolon-lisp/eidolon/benchmarks/bgpgrowth/model"
	"github.com/eidolon-lisp/eidolon/benchmarks/rig"
)

type options struct {
	quick  bool
	report bool
	seed   uint64
	out    string
	match  *regexp.Regexp // of the jobs, by what String says
	// prefixToAS and relations are the files that sites are drawn from, if any.
	prefixToAS, relations string
	table                 bool
	mrt                   []string // recorded updates to replay
	speed                 float64
}

func parse(args []string, errOut io.Writer) (options, error) {
	var o options
	f := flag.NewFlagSet("bgpgrowth", flag.ContinueOnError)
	f.SetOutput(errOut)
	f.BoolVar(&o.quick, "quick", false, "small worlds only, in less than two minutes")
	f.BoolVar(&o.report, "report", false, "measure nothing, write the report of the runs that are there")
	f.Uint64Var(&o.seed, "seed", 1, "seed of the zones, the sites and what happens to them")
	f.StringVar(&o.prefixToAS, "pfx2as", "", "CAIDA pfx2as table to draw the sites from, with -asrel (default: published distributions)")
	f.StringVar(&o.relations, "asrel", "", "CAIDA AS relationships (serial-1) of about the same time")
	f.BoolVar(&o.table, "table", false, "measure nothing, print what the table of -pfx2as is made of and what is left without parts of it")
	f.Func("mrt", "replay a `FILE` of BGP updates (MRT, plain or by gzip) instead; may be given several times", func(s string) error {
		o.mrt = append(o.mrt, s)
		return nil
	})
	f.Float64Var(&o.speed, "speed", 1, "with -mrt, how many times faster than it was recorded")
	f.StringVar(&o.out, "out", "", "directory of the results (default: benchmarks/results/bgpgrowth, or with -quick a temporary one)")
	match := f.String("match", "", "measure only worlds that this regular expression matches, as \"arm A, 20 speakers\"")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	if (o.prefixToAS == "") != (o.relations == "") {
		return o, errors.New("-pfx2as and -asrel go together")
	}
	if o.table && o.prefixToAS == "" {
		return o, errors.New("-table needs -pfx2as and -asrel")
	}
	if o.speed <= 0 || math.IsNaN(o.speed) {
		return o, fmt.Errorf("-speed %v: expected more than 0", o.speed)
	}
	var err error
	if o.match, err = regexp.Compile(*match); err != nil {
		return o, fmt.Errorf("-match: %w", err)
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

// results is where they are committed.
var results = filepath.Join("benchmarks", "results", "bgpgrowth")

func run(ctx context.Context, o options) error {
	if o.table {
		return printTable(os.Stdout, o)
	}
	if len(o.mrt) > 0 {
		if o.out == "" {
			o.out = results
		}
		return replay(ctx, o)
	}
	jobs, n := fullPlan(o.seed), 1
	if o.quick {
		jobs, n = quickPlan(o.seed), atOnce
	}
	jobs = slices.DeleteFunc(jobs, func(j job) bool { return !o.match.MatchString(j.String()) })
	if len(jobs) == 0 {
		return fmt.Errorf("no world matches %q", o.match)
	}
	from, err := source(o.prefixToAS, o.relations)
	if err != nil {
		return err
	}
	for i := range jobs {
		jobs[i].PrefixToAS, jobs[i].Relations = o.prefixToAS, o.relations
	}
	if o.out == "" {
		o.out = results
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
	for _, r := range file.Runs() {
		if !o.report && (r.Seed != o.seed || r.Source != from.String()) {
			return fmt.Errorf("%s has runs with seed %d and sites %s: give another -out", o.out, r.Seed, r.Source)
		}
	}
	if !o.report {
		if err := measureAll(ctx, jobs, n, file); err != nil {
			return err
		}
	}
	return errors.Join(summary(os.Stdout, file.Runs()), report(o, file.Runs()))
}

// report writes report.md and the plots beside the runs.
func report(o options, runs []measure.Run) error {
	path := filepath.Join(o.out, "report.md")
	in := model.Inputs{Command: strings.TrimSpace("go run ./benchmarks/bgpgrowth " + strings.Join(os.Args[1:], " ")), Commit: rig.Commit(), Machine: rig.Machine(), Sites: "none"}
	if o.report {
		// Who only writes has measured nothing.
		before, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		in.Command, in.Machine, in.Commit = model.Provenance(before)
	}
	if len(runs) > 0 {
		in.Sites = fmt.Sprintf("%s, with seed %d", runs[0].Source, runs[0].Seed)
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	err = model.Report(f, in, runs)
	return errors.Join(err, f.Close(), model.Plots(o.out, runs))
}

// atOnce is how many worlds of a quick run are measured at the same time: they wait
// more than they work. In a full run there is only one, so that times are its own.
const atOnce = 3

// tries is how often a world is built before it counts as failed, as when the machine
// was too busy for it to come to rest in time.
const tries = 3

// measureAll runs the jobs that are not in file yet, n at the same time. One that
// fails has no rows in file, and those after it are run all the same: they may have
// cost an hour.
func measureAll(ctx context.Context, jobs []job, n int, file *measure.File) error {
	p := newProgress(os.Stderr, len(jobs))
	defer p.end()
	var wg sync.WaitGroup
	var mu sync.Mutex // guards file and failed
	var failed []error
	todo := make(chan job)
	for range n {
		wg.Go(func() {
			for j := range todo {
				p.begin(j.String())
				var rows []measure.Run
				var err error
				for try := range tries {
					if rows, err = measureJob(ctx, j, func(now string) { p.say(j.String(), now) }); err == nil || ctx.Err() != nil {
						break
					}
					p.fail(fmt.Errorf("try %d of %d: %w", try+1, tries, err))
				}
				if err == nil {
					mu.Lock()
					err = file.Add(rows...)
					mu.Unlock()
				}
				if err != nil && ctx.Err() != nil {
					continue
				}
				if err != nil {
					mu.Lock()
					failed = append(failed, err)
					mu.Unlock()
					continue
				}
				p.done()
			}
		})
	}
	for _, j := range jobs {
		mu.Lock()
		there := file.Has(j.done())
		mu.Unlock()
		if there {
			p.skip()
			continue
		}
		select {
		case todo <- j:
		case <-ctx.Done():
		}
	}
	close(todo)
	wg.Wait()
	return errors.Join(append(failed, context.Cause(ctx))...)
}

// progressLine is a line on a terminal that tells how far the program is; elsewhere
// it is a line for each job.
type progressLine struct {
	out      io.Writer
	terminal bool
	jobs     int
	start    time.Time

	mu       sync.Mutex
	finished int
	measured int
}

func newProgress(out *os.File, jobs int) *progressLine {
	st, err := out.Stat()
	return &progressLine{out: out, terminal: err == nil && st.Mode()&os.ModeCharDevice != 0, jobs: jobs, start: time.Now()}
}

func (p *progressLine) begin(what string) {
	if !p.terminal {
		p.mu.Lock()
		defer p.mu.Unlock()
		fmt.Fprintf(p.out, "%v: %s\n", time.Since(p.start).Round(time.Second), what)
	}
}

// barWidth is that of the bar in characters.
const barWidth = 20

func (p *progressLine) say(what, now string) {
	if !p.terminal {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	full := barWidth * p.finished / p.jobs
	fmt.Fprintf(p.out, "\r\x1b[K[%s%s] %d/%d %v %s: %s", strings.Repeat("=", full), strings.Repeat(" ", barWidth-full),
		p.finished, p.jobs, time.Since(p.start).Round(time.Second), what, now)
}

func (p *progressLine) skip() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.finished++
}

// fail says at once what went wrong, in a run that goes on.
func (p *progressLine) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.terminal {
		fmt.Fprint(p.out, "\r\x1b[K")
	}
	fmt.Fprintf(p.out, "%v: %v\n", time.Since(p.start).Round(time.Second), err)
}

func (p *progressLine) done() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.finished++
	p.measured++
}

func (p *progressLine) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.terminal {
		fmt.Fprint(p.out, "\r\x1b[K")
	}
	fmt.Fprintf(p.out, "%d of %d worlds, %d of them measured now, in %v\n", p.finished, p.jobs, p.measured, time.Since(p.start).Round(time.Second))
}
