package main

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// columns of runs.csv and te.csv. An outage is the longest run of lost
// datagrams, a pause the longest time without an arrival, which on a busy
// machine may be longer; "inf" has not ended within the run.
var columns = []string{
	"time", "commit", "delay", "parallel", "load", "warmup_s", "arm", "failure", "rtt_ms", "run",
	"out_outage_ms", "in_outage_ms", "out_lost", "in_lost", "out_pause_ms", "in_pause_ms",
	"bystander_out_lost", "bystander_in_lost", "bystander_out_outage_ms", "bystander_in_outage_ms",
	"tcp_survived", "tcp_stall_ms", "tcp_error", "idle_survived", "window_s",
	"bgp_msgs", "bgp_octets", "lisp_msgs", "lisp_octets", "detector_msgs", "detector_octets", "hop_octets", "messages",
	"setup_msgs", "core_fib_before", "core_fib_after", "core_site_fib_before", "core_site_fib_after", "core_rib_before", "core_rib_after",
	"te_share_before", "te_share_after", "te_ms", "te_prefixes",
}

// row is a line of a table, by column.
type row map[string]string

// table is a CSV file that grows by a line for each run.
type table struct {
	mu   sync.Mutex
	f    *os.File
	rows []row
}

// openTable reads the runs that are done. A last line that is cut is dropped.
func openTable(path string) (*table, error) {
	t := &table{}
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	whole := b[:strings.LastIndexByte(string(b), '\n')+1]
	if len(whole) > 0 {
		lines, err := csv.NewReader(strings.NewReader(string(whole))).ReadAll()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if !slices.Equal(lines[0], columns) {
			return nil, fmt.Errorf("%s was written by another version: its columns differ; move it away", path)
		}
		for _, l := range lines[1:] {
			r := row{}
			for i, c := range columns {
				r[c] = l[i]
			}
			t.rows = append(t.rows, r)
		}
	}
	if t.f, err = os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644); err != nil {
		return nil, err
	}
	if err := t.f.Truncate(int64(len(whole))); err != nil {
		return nil, err
	}
	if _, err := t.f.Seek(0, 2); err != nil {
		return nil, err
	}
	if len(whole) == 0 {
		err = t.write(columns)
	}
	return t, err
}

func (t *table) write(fields []string) error {
	w := csv.NewWriter(t.f)
	if err := w.Write(fields); err != nil {
		return err
	}
	w.Flush()
	return errors.Join(w.Error(), t.f.Sync())
}

func (t *table) add(r row) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	fields := make([]string, len(columns))
	for i, c := range columns {
		fields[i] = r[c]
	}
	t.rows = append(t.rows, r)
	return t.write(fields)
}

func (t *table) has(c cell, run int) bool {
	return slices.ContainsFunc(t.rows, func(r row) bool {
		return r.cell() == c && r["run"] == strconv.Itoa(run+1)
	})
}

func (t *table) close() error { return t.f.Close() }

func (r row) cell() cell {
	rtt, _ := strconv.Atoi(r["rtt_ms"])
	return cell{r["arm"], r["failure"], rtt}
}

// number reads a column; ok is false where the run has none.
func (r row) number(column string) (v float64, ok bool) {
	v, err := strconv.ParseFloat(r[column], 64)
	return v, err == nil
}

func (d *direction) outage() string {
	if d == nil {
		return ""
	}
	if !d.Recovered {
		return "inf"
	}
	return fmt.Sprintf("%.1f", d.Outage)
}

func (d *direction) pause() string {
	if d == nil {
		return ""
	}
	if !d.Recovered {
		return "inf"
	}
	return fmt.Sprintf("%.1f", d.Pause)
}

func (d *direction) lost() string {
	if d == nil {
		return ""
	}
	return strconv.Itoa(d.Lost)
}

func rowOf(j plannedRun, res *result) row {
	yes := map[bool]string{true: "yes", false: "no"}
	i := strconv.Itoa
	r := row{
		"time": time.Now().UTC().Format(time.RFC3339), "commit": commit(), "delay": res.Delay,
		"parallel": i(j.parallel), "load": loadAverage(), "warmup_s": strconv.FormatFloat(j.WarmUp.Seconds(), 'f', -1, 64),
		"arm": j.Arm, "failure": j.Failure, "rtt_ms": i(j.RTT), "run": i(j.run + 1),
	}
	if te := res.TE; te != nil {
		te.fill(r)
		return r
	}
	stall := &direction{Pause: max(res.TCPOut.Pause, res.TCPIn.Pause), Recovered: res.TCPOut.Recovered && res.TCPIn.Recovered}
	idle := res.Idle
	if idle != "yes" {
		idle = "no"
	}
	for k, v := range map[string]string{
		"out_outage_ms": res.Out.outage(), "in_outage_ms": res.In.outage(), "out_lost": res.Out.lost(), "in_lost": res.In.lost(),
		"out_pause_ms": res.Out.pause(), "in_pause_ms": res.In.pause(),
		"bystander_out_lost": res.BystanderOut.lost(), "bystander_in_lost": res.BystanderIn.lost(),
		"bystander_out_outage_ms": res.BystanderOut.outage(), "bystander_in_outage_ms": res.BystanderIn.outage(),
		"tcp_survived": yes[res.TCPSurvived], "tcp_stall_ms": stall.pause(), "tcp_error": res.TCPError, "idle_survived": idle,
		"window_s":        fmt.Sprintf("%.1f", res.Window.Seconds()),
		"core_fib_before": i(res.CoreFIB[0]), "core_fib_after": i(res.CoreFIB[1]),
		"core_site_fib_before": i(res.CoreSite[0]), "core_site_fib_after": i(res.CoreSite[1]),
		"core_rib_before": i(res.CoreRIB[0]), "core_rib_after": i(res.CoreRIB[1]),
		"setup_msgs": i(res.Before.sum("").Msgs),
	} {
		r[k] = v
	}
	r.counts(res.Control)
	return r
}

// loadAverage is how many processes wanted to run in the last minute.
func loadAverage() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return ""
	}
	one, _, _ := strings.Cut(string(b), " ")
	return one
}

// counts fills in what was sent.
func (r row) counts(c counts) {
	for _, p := range []string{"bgp", "lisp", "detector"} {
		s := c.sum(p)
		r[p+"_msgs"], r[p+"_octets"] = strconv.Itoa(s.Msgs), strconv.Itoa(s.Octets)
	}
	r["hop_octets"] = strconv.Itoa(c.sum("").Hops)
	r["messages"] = c.String()
}

// summary is what the progress shows of a run.
func (res *result) summary() string {
	if res.TE != nil {
		return res.TE.summary()
	}
	s := ""
	if res.Out != nil {
		s += fmt.Sprintf("outage %s out, %s in; ", res.Out.outage(), res.In.outage())
	}
	if res.BystanderOut != nil {
		s += fmt.Sprintf("others lost %d, %d; ", res.BystanderOut.Lost, res.BystanderIn.Lost)
	}
	s += fmt.Sprintf("TCP %v (%s, %s); %s", res.TCPSurvived, res.TCPOut.pause(), res.TCPIn.pause(), res.Control)
	if res.TCPError != "" {
		s += "; TCP: " + res.TCPError
	}
	if res.Idle != "yes" {
		s += "; idle: " + res.Idle
	}
	return s
}

var commit = sync.OnceValue(func() string {
	out, err := exec.Command("git", "describe", "--always", "--dirty", "--abbrev=10").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
})
