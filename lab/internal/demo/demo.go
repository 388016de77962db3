// Package demo shows two sites talking through Eidolon on the quickstart
// topology, step by step, and checks what must hold.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/eidolon-lisp/eidolon/lab/internal/clab"
	"github.com/eidolon-lisp/eidolon/lab/internal/runner"
)

// limit is how long the demo may take after compilation.
const limit = 60 * time.Second

// Options say where the demo shows itself.
type Options struct {
	Out     io.Writer
	Capture string // file to keep the frames captured in the core in; "" for none
}

// demo is one run.
type demo struct {
	opts    Options
	top     *clab.Topology
	lab     *runner.Lab
	start   time.Time // of the clock that is shown: when the lab starts to come up
	logs    *follower
	capture *capture
	results []result
}

// result is a line of the final table.
type result struct {
	what  string
	value string // what was measured
	err   error  // nil: passed
	took  time.Duration
}

// step is something to check. What it returns is what was measured.
type step struct {
	what string
	run  func(context.Context) (string, error)
}

// Run builds, brings the topology up, goes through all steps whatever fails,
// prints the table, and leaves nothing behind. It returns an error if anything
// failed.
func Run(ctx context.Context, top *clab.Topology, o Options) (err error) {
	d := &demo{opts: o, top: top, start: time.Now()}
	d.say("%s: %d nodes, %d links", top.File, len(top.Nodes), len(top.Links))
	if err := runner.Preflight(top); err != nil { // before time goes into building
		return err
	}
	binaries, err := runner.Build(ctx, top, d.say)
	if err != nil {
		return err
	}
	d.start = time.Now()
	removeStale()
	d.title("The network comes up")
	d.lab, err = runner.Up(ctx, top, runner.Options{
		Name: fmt.Sprintf("%s%s-%d", namePrefix, top.Name, os.Getpid()), Say: d.say, Binaries: binaries, Lifeline: true,
	})
	if err != nil {
		return err
	}
	d.logs = follow(d.lab, []string{siteA.xtr, siteB.xtr, mapServer}, d.sayAt)
	defer func() {
		// Also when a step has panicked or the demo was interrupted; a second
		// time it does nothing.
		d.logs.stop()
		if derr := d.lab.Down(); err == nil {
			err = derr
		}
	}()
	timed, cancel := context.WithDeadline(ctx, d.start.Add(limit))
	defer cancel()
	d.steps(timed, d.protocolSteps())
	d.steps(timed, d.throughputSteps())
	d.steps(timed, d.stopSteps())
	if ctx.Err() != nil {
		return errors.New("interrupted; the lab was taken down")
	}
	failed := d.failed()
	logs := ""
	if failed > 0 {
		logs = d.lastWords()
	}
	d.steps(ctx, []step{{"nothing is left of the lab", d.takeDown}})
	d.steps(ctx, []step{{fmt.Sprintf("all in %.0f s after compilation", limit.Seconds()), d.inTime}})
	d.table()
	if n := d.failed(); n > 0 {
		fmt.Fprint(o.Out, logs)
		return fmt.Errorf("%d of %d checks failed", n, len(d.results))
	}
	return nil
}

const namePrefix = "demo-"

// removeStale removes what demos that were killed have left.
func removeStale() {
	_, stale, err := runner.List()
	if err != nil {
		return // Up will say it
	}
	for _, name := range stale {
		if strings.HasPrefix(name, namePrefix) {
			runner.RemoveStale(name)
		}
	}
}

func (d *demo) say(format string, args ...any) { d.sayAt(time.Now(), fmt.Sprintf(format, args...)) }

func (d *demo) sayAt(at time.Time, line string) {
	fmt.Fprintf(d.opts.Out, "[%6.2fs] %s\n", at.Sub(d.start).Seconds(), line)
}

func (d *demo) title(s string) { fmt.Fprintf(d.opts.Out, "\n%s\n", s) }

// steps goes through a list, to its end or until somebody interrupts. A step
// that there is no time for has failed.
func (d *demo) steps(ctx context.Context, list []step) {
	for _, s := range list {
		begin := time.Now()
		r := result{what: s.what}
		if err := ctx.Err(); errors.Is(err, context.Canceled) {
			return // interrupted: there will be no table
		} else if err != nil {
			r.err = fmt.Errorf("not done: %w", err)
		} else {
			r.value, r.err = s.run(ctx)
		}
		if d.logs != nil {
			d.logs.flush()
		}
		r.took = time.Since(begin)
		d.results = append(d.results, r)
		if r.err != nil {
			d.say("FAIL  %s: %s", r.what, joined(r))
		} else {
			d.say("pass  %s: %s", r.what, r.value)
		}
	}
}

// joined is what was measured and what is wrong with it.
func joined(r result) string {
	switch {
	case r.err == nil:
		return r.value
	case r.value == "":
		return r.err.Error()
	}
	return r.value + "; " + r.err.Error()
}

func (d *demo) failed() int {
	n := 0
	for _, r := range d.results {
		if r.err != nil {
			n++
		}
	}
	return n
}

func (d *demo) takeDown(context.Context) (string, error) {
	d.logs.stop()
	begin := time.Now()
	if err := d.lab.Down(); err != nil {
		return "", err
	}
	if _, err := os.Stat(d.lab.Dir); !os.IsNotExist(err) {
		return "", fmt.Errorf("%s is still there", d.lab.Dir)
	}
	return fmt.Sprintf("taken down in %.2f s", time.Since(begin).Seconds()), nil
}

func (d *demo) inTime(context.Context) (string, error) {
	took := time.Since(d.start)
	value := fmt.Sprintf("%.1f s", took.Seconds())
	if took > limit {
		return value, errors.New("too long")
	}
	return value, nil
}

func (d *demo) table() {
	fmt.Fprintln(d.opts.Out)
	t := tabwriter.NewWriter(d.opts.Out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "\tCHECK\tTOOK\tMEASURED")
	for _, r := range d.results {
		verdict := "pass"
		if r.err != nil {
			verdict = "FAIL"
		}
		fmt.Fprintf(t, "%s\t%s\t%5.2f s\t%s\n", verdict, r.what, r.took.Seconds(), strings.ReplaceAll(joined(r), "\n", " "))
	}
	t.Flush()
	fmt.Fprintf(d.opts.Out, "%d of %d checks passed\n", len(d.results)-d.failed(), len(d.results))
}

// lastWords is the end of what the daemons and the keeper have said.
func (d *demo) lastWords() string {
	var b strings.Builder
	files := [][2]string{{"the keeper", d.lab.KeeperLog()}}
	for _, n := range d.top.Nodes {
		if len(n.Command) > 0 {
			files = append(files, [2]string{"node " + n.Name, d.lab.LogPath(n.Name)})
		}
	}
	for _, f := range files {
		content, err := os.ReadFile(f[1])
		if err != nil || len(content) == 0 {
			continue
		}
		lines := strings.Split(strings.TrimRight(string(content), "\n"), "\n")
		fmt.Fprintf(&b, "\nlast lines of %s:\n", f[0])
		for _, l := range lines[max(0, len(lines)-15):] {
			fmt.Fprintf(&b, "  %s\n", l)
		}
	}
	return b.String()
}
