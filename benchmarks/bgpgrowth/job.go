package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/eidolon-lisp/eidolon/benchmarks/bgpgrowth/dfz"
	"github.com/eidolon-lisp/eidolon/benchmarks/bgpgrowth/internet"
	"github.com/eidolon-lisp/eidolon/benchmarks/bgpgrowth/measure"
)

// job is a world to measure: one zone of speakers, with the sites of one arm. Each
// runs in a process of its own, as GoBGP never gives back what it has, and so that
// one heap is one world's.
type job struct {
	Arm, Variant    string
	Speakers, Sites int
	Adoption        float64 // ArmMixed
	Seed            uint64
	Live            int             // sites with sessions or an xTR of their own
	MRAIs           []time.Duration // the failures are measured with each
	Failures        int             // how many sites lose a provider
	Restarts        int             // of sessions among speakers
	Mapping         *mappingJob     // ArmEidolon: what is measured of the mapping system
	PrefixToAS      string          // files to draw the sites from; "": published numbers
	Relations       string          //
	NoZone          bool            // without BGP, which is the same in all variants of an arm
	Replay          *replayJob      // instead of all that: what a collector recorded
}

func (j job) String() string {
	if j.Replay != nil {
		return j.Replay.String()
	}
	s := "arm " + j.Arm
	if j.Variant != "" {
		s += " " + j.Variant
	}
	if j.Arm == measure.ArmMixed {
		s += fmt.Sprintf(" %.0f %%", 100*j.Adoption)
	}
	return fmt.Sprintf("%s, %d speakers, %d sites", s, j.Speakers, j.Sites)
}

// done is the row that is the last of the job's, without what is measured.
func (j job) done() measure.Run {
	if j.Replay != nil {
		return j.Replay.row(j)
	}
	w := world{job: j}
	if j.Mapping != nil {
		return w.row(measure.KindMapping)
	}
	return w.row(measure.KindTable)
}

const roleVariable = "EIDOLON_BGPGROWTH"

// child is the program of a job: it reads the job, writes rows, and says on standard
// error how far it is.
func child() int {
	in := bufio.NewReader(os.Stdin)
	line, err := in.ReadBytes('\n')
	var j job
	if err == nil {
		err = json.Unmarshal(line, &j)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		in.ReadByte() // only ever ends, with the parent
		cancel(errors.New("the parent has ended"))
	}()
	var rows []measure.Run
	if err == nil {
		rows, err = j.run(ctx, func(format string, args ...any) { fmt.Fprintf(os.Stderr, progress+format+"\n", args...) })
	}
	if err == nil {
		err = measure.Write(os.Stdout, rows)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// progress begins a line that is shown and replaced by the next.
const progress = "progress: "

// run measures a world.
func (j job) run(ctx context.Context, say func(string, ...any)) ([]measure.Run, error) {
	rng := rand.New(rand.NewPCG(j.Seed, 0))
	topo, err := dfz.Hierarchy(j.Speakers, rng)
	if err != nil {
		return nil, err
	}
	if j.Replay != nil {
		return j.replay(ctx, topo, say)
	}
	w := &world{job: j, say: say, topo: topo}
	from, err := source(j.PrefixToAS, j.Relations)
	if err != nil {
		return nil, err
	}
	w.from = from.String()
	if w.sites, err = sites(j.Sites, j.Live, from, topo, rng); err != nil {
		return nil, err
	}
	if !j.NoZone {
		if err := w.bgp(ctx, rng); err != nil {
			return nil, fmt.Errorf("BGP: %w", err)
		}
	}
	if j.Mapping != nil {
		if err := w.mapping(ctx); err != nil {
			return nil, fmt.Errorf("mapping system: %w", err)
		}
	}
	return w.rows, nil
}

// source returns what sites are drawn from: files, or, without names, what is
// published.
func source(prefixToAS, relations string) (internet.Source, error) {
	if prefixToAS == "" {
		return internet.Published{}, nil
	}
	return internet.Read(prefixToAS, relations)
}

// measureJob runs a job in a process of its own and returns its rows, the one of
// done last.
func measureJob(ctx context.Context, j job, say func(string)) ([]measure.Run, error) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), roleVariable+"=child")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { in.Close() })
	defer stop()
	b, err := json.Marshal(j)
	if err == nil {
		_, err = in.Write(append(b, '\n'))
	}
	var trouble []string
	for s := bufio.NewScanner(stderr); s.Scan(); {
		if line, ok := strings.CutPrefix(s.Text(), progress); ok {
			say(line)
		} else if len(trouble) < 50 {
			trouble = append(trouble, s.Text())
		}
	}
	err = errors.Join(err, cmd.Wait())
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("%v: %w\n%s", j, err, strings.Join(trouble, "\n"))
	}
	rows, err := measure.Read(&out)
	if err != nil {
		return nil, fmt.Errorf("%v: %w", j, err)
	}
	return rows, nil
}
