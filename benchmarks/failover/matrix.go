package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/eidolon-lisp/eidolon/benchmarks/rig"
)

// cell is a failure of an arm at a round-trip time.
type cell struct {
	Arm     string
	Failure string
	RTT     int // milliseconds
}

// measure does all runs that are asked for and not done yet, and writes the
// report.
func measure(ctx context.Context, o options) error {
	dir, err := os.MkdirTemp("", "eidolon-failover-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if o.out == "" {
		o.out = filepath.Join(dir, "results")
	}
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return err
	}
	t, err := openTable(filepath.Join(o.out, "runs.csv"))
	if err != nil {
		return err
	}
	defer t.close()
	e, err := openTable(filepath.Join(o.out, "te.csv"))
	if err != nil {
		return err
	}
	defer e.close()
	if o.report {
		return report(o, t, e)
	}
	programs := o.programs
	if programs == "" {
		programs = filepath.Join(dir, "bin")
		if err := buildPrograms(ctx, programs); err != nil {
			return err
		}
	}
	m := &matrix{o: o, dir: dir, programs: programs, table: t, te: e, begin: time.Now()}
	m.plan()
	if err := m.runAll(ctx); err != nil {
		return errors.Join(err, report(o, t, e))
	}
	if err := report(o, t, e); err != nil {
		return err
	}
	if len(m.failed) > 0 {
		return fmt.Errorf("%d runs failed, the first: %w", len(m.failed), m.failed[0])
	}
	if o.quick {
		return checkQuick(t, e)
	}
	return nil
}

func buildPrograms(ctx context.Context, dir string) error {
	fmt.Fprintln(os.Stderr, "building xtr and mapserver")
	build := exec.CommandContext(ctx, "go", "build", "-o", dir+"/", "github.com/eidolon-lisp/eidolon/cmd/xtr", "github.com/eidolon-lisp/eidolon/cmd/mapserver")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // what nodes run depends on nothing else
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return fmt.Errorf("go build: %w", err)
	}
	return nil
}

type matrix struct {
	o        options
	dir      string
	programs string
	exe      string // this program; "" for the running one
	table    *table
	te       *table
	begin    time.Time
	jobs     []plannedRun
	failed   []error

	mu   sync.Mutex
	done int
}

type plannedRun struct {
	job
	run      int
	parallel int // runs at the same time, at most
}

// plan lists the runs that are missing, the first of each cell first, so that a
// run that is stopped has something of everything.
func (m *matrix) plan() {
	few := max(1, m.o.runs/4)
	for run := range m.o.runs {
		for _, rtt := range m.o.rtts {
			for _, name := range m.o.arms {
				a, err := armByName(name)
				if err != nil {
					continue
				}
				if why := mptcpAvailable(); a.mptcp && why != "" {
					if run == 0 {
						fmt.Fprintf(os.Stderr, "%s: skipped: %s\n", name, why)
					}
					continue
				}
				if m.o.te && a.movesTraffic() && run < few && !m.te.has(cell{name, teName, rtt}, run) {
					m.jobs = append(m.jobs, plannedRun{job{TE: true, Arm: name, Failure: teName, RTT: rtt}, run, m.o.parallel})
				}
				for _, f := range m.o.failures {
					// A flap has sixty failures in one.
					if m.table.has(cell{name, f, rtt}, run) || f == "flap" && run >= few {
						continue
					}
					m.jobs = append(m.jobs, plannedRun{job{Arm: name, Failure: f, RTT: rtt, WarmUp: m.o.warmUp}, run, m.o.parallel})
				}
			}
		}
	}
	if m.o.quick {
		m.jobs = quickJobs(m.jobs)
	}
	for i := range m.jobs {
		j := &m.jobs[i]
		j.Quick, j.Verbose, j.Programs = m.o.quick, m.o.verbose, m.programs
	}
}

// runAll does the runs, as many at the same time as is wanted.
func (m *matrix) runAll(ctx context.Context) error {
	slots := make(chan struct{}, m.o.parallel)
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, j := range m.jobs {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		wg.Go(func() {
			defer func() { <-slots }()
			m.one(ctx, j)
		})
	}
	return nil
}

func (m *matrix) one(ctx context.Context, j plannedRun) {
	began := time.Now()
	var res *result
	var err error
	// What has to do with the machine and not with what is measured gets
	// another chance.
	for range 3 {
		if res, err = m.child(ctx, j.job); err == nil || ctx.Err() != nil {
			break
		}
		fmt.Fprintf(os.Stderr, "%s, %s, %d ms, run %d: %v\n", j.Arm, j.Failure, j.RTT, j.run+1, err)
	}
	if ctx.Err() != nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.done++
	if err != nil {
		m.failed = append(m.failed, fmt.Errorf("%s, %s: %w", j.Arm, j.Failure, err))
		return
	}
	t := m.table
	if j.TE {
		t = m.te
	}
	if err := t.add(rowOf(j, res)); err != nil {
		m.failed = append(m.failed, err)
		return
	}
	left := time.Duration(len(m.jobs)-m.done) * time.Since(m.begin) / time.Duration(m.done)
	fmt.Fprintf(os.Stderr, "%4d/%d  %-14s %-8s %2d ms  run %2d  %s  (%.0f s; %s to go)\n", m.done, len(m.jobs), j.Arm, j.Failure, j.RTT, j.run+1,
		res.summary(), time.Since(began).Seconds(), left.Round(time.Minute))
}

// child does a job in namespaces of its own.
func (m *matrix) child(ctx context.Context, j job) (*result, error) {
	dir, err := os.MkdirTemp(m.dir, "run-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	j.Dir = dir
	ctx, cancel := context.WithTimeout(ctx, runLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, cmp.Or(m.exe, "/proc/self/exe"))
	cmd.Args = []string{runName}
	cmd.SysProcAttr = rig.Namespaces()
	cmd.WaitDelay = 5 * time.Second
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start a run in namespaces of its own (root, or an ordinary user who may create them): %w", err)
	}
	// The pipe stays open: its end tells the child that we are gone.
	if err := json.NewEncoder(in).Encode(j); err != nil {
		cmd.Process.Kill()
	}
	if err := cmd.Wait(); err != nil {
		return nil, fmt.Errorf("%w%s", err, logs(dir))
	}
	var res result
	if err := json.Unmarshal(out.Bytes(), &res); err != nil {
		return nil, err
	}
	if res.Error != "" {
		return nil, fmt.Errorf("%s%s", res.Error, logs(dir))
	}
	return &res, nil
}

// runLimit ends a run that hangs.
const runLimit = 5 * time.Minute
