package main

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/eidolon-lisp/eidolon/benchmarks/rig"
)

// results is what a run measured.
type results struct {
	begin   time.Time
	commit  string
	command string
	samples []sample
}

func newResults(o options) *results {
	return &results{begin: time.Now(), commit: rig.Commit(), command: "go run ./benchmarks/dataplane " + strings.Join(os.Args[1:], " ")}
}

// add notes a sample of this run.
func (r *results) add(m sample) {
	m.Command, m.Commit = r.command, r.commit
	r.samples = append(r.samples, m)
}

// keep puts what an earlier run measured before what this one does, but for the
// cells that it measures anew.
func (r *results) keep(old *results) {
	anew := map[[2]string]bool{}
	for _, m := range r.samples {
		anew[[2]string{m.Group, m.Case}] = true
	}
	var kept []sample
	for _, m := range old.samples {
		if !anew[[2]string{m.Group, m.Case}] {
			kept = append(kept, m)
		}
	}
	r.samples = append(kept, r.samples...)
}

// runs are the commands and commits of the samples, each once, with the time of
// the first sample.
func (r *results) runs() (list []string) {
	seen := map[[2]string]bool{}
	for _, m := range r.samples {
		if key := [2]string{m.Command, m.Commit}; !seen[key] {
			seen[key] = true
			list = append(list, fmt.Sprintf("    %s    (%s, commit %s)", strings.TrimSpace(m.Command), m.Time, m.Commit))
		}
	}
	return list
}

// line is a row of the table: an arm in a case.
type line struct {
	group    string
	testCase testCase
	arm      string
	mappings int
	samples  []sample
	ratios   []float64 // to plain routing in the same round
}

// lines are in the order of groups, cases and arms.
func (r *results) lines() (list []line) {
	for _, g := range groups {
		for _, c := range cases {
			plain := map[int]float64{}
			for _, a := range arms {
				var sizes []int
				for _, m := range r.samples {
					if m.Group == g.name && m.Case == c.name && m.Arm == a.name && !slices.Contains(sizes, m.Mappings) {
						sizes = append(sizes, m.Mappings)
					}
				}
				slices.Sort(sizes)
				for _, n := range sizes {
					l := line{group: g.name, testCase: c, arm: a.name, mappings: n}
					for _, m := range r.samples {
						if m.Group != g.name || m.Case != c.name || m.Arm != a.name || m.Mappings != n {
							continue
						}
						l.samples = append(l.samples, m)
						if a.name == plainArm {
							plain[m.Round] = m.Value
						}
						if p := plain[m.Round]; p > 0 {
							l.ratios = append(l.ratios, m.Value/p)
						}
					}
					list = append(list, l)
				}
			}
		}
	}
	return list
}

// column returns one number of each sample.
func (l line) column(f func(sample) float64) []float64 {
	var out []float64
	for _, m := range l.samples {
		out = append(out, f(m))
	}
	return out
}

func value(m sample) float64 { return m.Value }

// median of a list; NaN if it is empty.
func median(list []float64) float64 {
	if len(list) == 0 {
		return math.NaN()
	}
	s := slices.Sorted(slices.Values(list))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

func number(v float64) string {
	switch {
	case math.IsNaN(v):
		return "–"
	case v >= 100:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case v >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return strconv.FormatFloat(v, 'f', 2, 64)
}

// label of an arm in tables and plots.
func (l line) label() string {
	if l.mappings > 1 {
		return fmt.Sprintf("%s, %d mappings", l.arm, l.mappings)
	}
	return l.arm
}

// table writes what was measured in Markdown.
func (r *results) table(w io.Writer) {
	p := func(format string, args ...any) { fmt.Fprintf(w, format+"\n", args...) }
	p("# Data planes side by side\n")
	p("%s\n", strings.Join(r.runs(), "\n"))
	load := line{samples: r.samples}.column(func(m sample) float64 { return m.Load })
	p("%s, load average %s to %s (the benchmark alone makes about 2). Each arm has its turn in each round; the ratio is to plain routing in the same round, and the median of the rounds, as all", rig.Machine(), number(slices.Min(load)), number(slices.Max(load)))
	p("figures. CPU: microseconds of processor time for each packet, or segment of TCP; x1 and x2 are the processes that forward. ")
	p("They are counted in steps of 10 ms, and packets that the kernel forwards in the interrupt belong to nobody: only to the machine.")
	r.judge(w)
	at := ""
	for _, l := range r.lines() {
		if key := l.group + l.testCase.name; key != at {
			at = key
			g := groups[slices.IndexFunc(groups, func(g group) bool { return g.name == l.group })]
			p("\n## %s: %s\n", g.what, l.testCase.what)
			p("| | %s | min | max | ratio to plain | min | max | CPU machine | x1 | x2 | sender | receiver | octets a frame | |", l.testCase.unit)
			p("|---|---|---|---|---|---|---|---|---|---|---|---|---|---|")
		}
		v := l.column(value)
		ratio, low, high := "–", "–", "–"
		if len(l.ratios) > 0 && l.arm != plainArm {
			ratio, low, high = number(median(l.ratios)), number(slices.Min(l.ratios)), number(slices.Max(l.ratios))
		}
		note := ""
		switch {
		case l.testCase.rtt:
			note = fmt.Sprintf("p99 %s us", number(median(l.column(func(m sample) float64 { return m.P99 }))))
		case l.testCase.size > 0:
			note = fmt.Sprintf("%.2f%% lost", 100*median(l.column(func(m sample) float64 { return m.Loss })))
			if late := median(l.column(func(m sample) float64 { return float64(m.Late) })); late > 0 && l.testCase.target == 0 {
				note += fmt.Sprintf(", %s late", number(late))
			}
		}
		cpu := func(f func(sample) float64) string {
			if l.testCase.rtt {
				return "–"
			}
			return number(median(l.column(f)))
		}
		p("| %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s |", l.label(), number(median(v)), number(slices.Min(v)), number(slices.Max(v)), ratio, low, high,
			cpu(func(m sample) float64 { return m.Machine }), cpu(func(m sample) float64 { return m.Left }), cpu(func(m sample) float64 { return m.Right }),
			cpu(func(m sample) float64 { return m.Sender }), cpu(func(m sample) float64 { return m.Sink }), cpu(func(m sample) float64 { return m.Frame }), note)
	}
}

// The files of a run.
const (
	tableFile   = "table.md"
	samplesFile = "samples.csv"
	plotFile    = "plot.svg"
)

// write prints the table, and with a directory keeps table, samples and plot
// there.
func (r *results) write(dir string, w io.Writer) error {
	r.table(w)
	if dir == "" {
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var text strings.Builder
	r.table(&text)
	if err := os.WriteFile(filepath.Join(dir, tableFile), []byte(text.String()), 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, plotFile), r.plot(), 0o644); err != nil {
		return err
	}
	f, err := os.Create(filepath.Join(dir, samplesFile))
	if err != nil {
		return err
	}
	defer f.Close()
	c := csv.NewWriter(f)
	c.Write(columns)
	for _, m := range r.samples {
		c.Write(r.fields(m))
	}
	c.Flush()
	return errors.Join(c.Error(), f.Close())
}

var columns = []string{"command", "commit", "time", "group", "case", "arm", "outside", "mappings", "round", "value", "unit",
	"loss", "late", "p99_us", "cpu_machine_us", "cpu_x1_us", "cpu_x2_us", "cpu_h1_us", "cpu_h2_us", "frame_octets", "load"}

func (r *results) fields(m sample) []string {
	f := func(v float64) string { return strconv.FormatFloat(v, 'g', 6, 64) }
	return []string{m.Command, m.Commit, m.Time, m.Group, m.Case, m.Arm, strconv.Itoa(m.Outside), strconv.Itoa(m.Mappings), strconv.Itoa(m.Round),
		f(m.Value), m.unit(), f(m.Loss), strconv.FormatInt(m.Late, 10), f(m.P99), f(m.Machine), f(m.Left), f(m.Right), f(m.Sender), f(m.Sink), f(m.Frame), f(m.Load)}
}

// readResults reads what write has kept.
func readResults(dir string) (*results, error) {
	f, err := os.Open(filepath.Join(dir, samplesFile))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil {
		return nil, err
	}
	if len(rows) < 2 || !slices.Equal(rows[0], columns) {
		return nil, fmt.Errorf("%s holds no results of this program", f.Name())
	}
	r := &results{}
	for _, row := range rows[1:] {
		m := sample{Command: row[0], Commit: row[1], Time: row[2], Group: row[3], Case: row[4], Arm: row[5]}
		var errs []error
		for _, x := range []struct {
			text string
			into any
		}{
			{row[6], &m.Outside}, {row[7], &m.Mappings}, {row[8], &m.Round}, {row[9], &m.Value}, {row[11], &m.Loss}, {row[12], &m.Late}, {row[13], &m.P99},
			{row[14], &m.Machine}, {row[15], &m.Left}, {row[16], &m.Right}, {row[17], &m.Sender}, {row[18], &m.Sink}, {row[19], &m.Frame}, {row[20], &m.Load},
		} {
			_, err := fmt.Sscan(x.text, x.into)
			errs = append(errs, err)
		}
		t, err := time.Parse(time.RFC3339, m.Time)
		if err := errors.Join(append(errs, err)...); err != nil {
			return nil, fmt.Errorf("%s: %w", f.Name(), err)
		}
		if len(r.samples) == 0 {
			r.begin = t
		}
		r.samples = append(r.samples, m)
	}
	return r, nil
}
