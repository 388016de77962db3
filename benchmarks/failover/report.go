package main

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/eidolon-lisp/eidolon/benchmarks/rig"
)

// The bars, for Eidolon's arms, in milliseconds plus two round-trip times.
const (
	carrierBar = 200
	silentBar  = 1000
)

// values reads a column of some rows; "inf" counts as more than all else.
func values(rows []row, column string) (list []float64) {
	for _, r := range rows {
		if v, ok := r.number(column); ok {
			list = append(list, v)
		}
	}
	return list
}

func count(rows []row, column, value string) (n int) {
	for _, r := range rows {
		if r[column] == value {
			n++
		}
	}
	return n
}

// byCell groups the runs, in the order of the arms.
func byCell(rows []row) map[cell][]row {
	out := map[cell][]row{}
	for _, r := range rows {
		out[r.cell()] = append(out[r.cell()], r)
	}
	return out
}

func rttsOf(rows []row) (list []int) {
	for _, r := range rows {
		if n := r.cell().RTT; !slices.Contains(list, n) {
			list = append(list, n)
		}
	}
	slices.Sort(list)
	return list
}

// ms writes milliseconds, or seconds where they are many.
func ms(v float64) string {
	switch {
	case math.IsNaN(v):
		return "–"
	case math.IsInf(v, 1):
		return "never"
	case v >= 10_000:
		return fmt.Sprintf("%.1f s", v/1000)
	}
	return fmt.Sprintf("%.0f ms", v)
}

func spread(rows []row, column string) string {
	v := values(rows, column)
	if len(v) == 0 {
		return "–"
	}
	return fmt.Sprintf("%s / %s / %s", ms(quantile(v, 0.5)), ms(quantile(v, 0.95)), ms(quantile(v, 1)))
}

// extent is the least and the most of a column.
func extent(rows []row, column string) string {
	v := values(rows, column)
	if len(v) == 0 {
		return "–"
	}
	return fmt.Sprintf("%g to %g", slices.Min(v), slices.Max(v))
}

func medianOf(rows []row, column string) string {
	v := values(rows, column)
	if len(v) == 0 {
		return "–"
	}
	return strconv.FormatFloat(quantile(v, 0.5), 'f', -1, 64)
}

// missedBars compares Eidolon's cells with what is asked of them.
func missedBars(rows []row) (missed []string) {
	cells := byCell(rows)
	for _, c := range sortedCells(cells) {
		a, err := armByName(c.Arm)
		if err != nil || !a.eidolon {
			continue
		}
		list := cells[c]
		miss := func(format string, args ...any) {
			missed = append(missed, fmt.Sprintf("%s, %s, %d ms: ", c.Arm, c.Failure, c.RTT)+fmt.Sprintf(format, args...))
		}
		if n := count(list, "tcp_survived", "yes"); n < len(list) {
			miss("TCP survived %d of %d", n, len(list))
		}
		bar := math.Inf(1)
		switch c.Failure {
		case "carrier":
			bar = carrierBar
		case "hole-in", "hole-out", "upstream":
			bar = silentBar
		case "flap":
			for _, col := range []string{"bystander_out_lost", "bystander_in_lost"} {
				if v := values(list, col); len(v) == 0 || quantile(v, 1) > 0 {
					miss("%s: %s", col, medianOf(list, col))
				}
			}
		}
		bar += 2 * float64(c.RTT)
		for _, col := range []string{"out_outage_ms", "in_outage_ms"} {
			if v := quantile(values(list, col), 0.95); v > bar {
				miss("%s at p95 is %s, the bar is %s", col, ms(v), ms(bar))
			}
		}
	}
	return missed
}

// sortedCells lists cells by failure, round-trip time and arm.
func sortedCells(m map[cell][]row) []cell {
	rank := func(c cell) [3]int {
		return [3]int{slices.Index(failureNames(), c.Failure), c.RTT, slices.Index(armNames(), c.Arm)}
	}
	var list []cell
	for c := range m {
		list = append(list, c)
	}
	slices.SortFunc(list, func(a, b cell) int {
		x, y := rank(a), rank(b)
		return slices.Compare(x[:], y[:])
	})
	return list
}

// report writes results.md and outage.svg from the tables.
func report(o options, t, e *table) error {
	var b bytes.Buffer
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	cells := byCell(t.rows)
	p("# Failover of a site with two providers")
	p("")
	p("Made by `go run ./benchmarks/failover%s`; do not edit. Each run is a line of [runs.csv](runs.csv) and [te.csv](te.csv).", map[bool]string{true: " --quick"}[o.quick])
	p("")
	p("- machine: %s, %d cores, %s; %s", rig.CPU(), runtime.NumCPU(), rig.Kernel(), runtime.Version())
	p("- commits: %s", strings.Join(distinct(append(slices.Clone(t.rows), e.rows...), "commit"), ", "))
	p("- delay by: %s", strings.Join(distinct(append(slices.Clone(t.rows), e.rows...), "delay"), ", "))
	p("- runs at the same time, at most: %s; load average meanwhile: %s", strings.Join(distinct(slices.Concat(t.rows, e.rows), "parallel"), ", "), extent(slices.Concat(t.rows, e.rows), "load"))
	if why := mptcpAvailable(); why != "" {
		p("- Multipath TCP was skipped: %s", why)
	}
	p("")
	p("The arms:")
	p("")
	for _, a := range arms {
		p("- `%s`: %s", a.name, a.what)
	}
	p("")
	p("%s", notes)
	for _, f := range failures {
		for _, rtt := range rttsOf(t.rows) {
			var lines []string
			for _, a := range arms {
				rows := cells[cell{a.name, f.name, rtt}]
				if len(rows) == 0 {
					continue
				}
				lines = append(lines, fmt.Sprintf("| %s | %d | %s | %s | %s | %d/%d | %s | %d/%d | %s | %s | %s → %s |",
					a.name, len(rows), spread(rows, "out_outage_ms"), spread(rows, "in_outage_ms"), lostBeside(rows),
					count(rows, "tcp_survived", "yes"), len(rows), spread(rows, "tcp_stall_ms"),
					count(rows, "idle_survived", "yes"), len(rows), control(rows), medianOf(rows, "window_s"),
					state(rows, "before"), state(rows, "after")))
			}
			if len(lines) == 0 {
				continue
			}
			p("## %s, %d ms", f.what, rtt)
			p("")
			p("| arm | runs | outage out, p50 / p95 / max | outage in, p50 / p95 / max | lost on the other uplink, max out, in | TCP survived | TCP stall, p50 / p95 / max | idle session survived | control messages (octets), median | in s | state in the core for the site: routes (BGP paths) |")
			p("|---|---|---|---|---|---|---|---|---|---|---|")
			p("%s", strings.Join(lines, "\n"))
			p("")
		}
	}
	if len(t.rows) > 0 {
		p("![Outages of all runs](outage.svg)")
		p("")
		p("## Bars for Eidolon")
		p("")
		if missed := missedBars(t.rows); len(missed) == 0 {
			p("None is missed.")
		} else {
			for _, m := range missed {
				p("- missed: %s", m)
			}
		}
		p("")
	}
	teReport(p, e)
	if err := os.WriteFile(filepath.Join(o.out, "results.md"), b.Bytes(), 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(o.out, "outage.svg"), plot(t.rows), 0o644); err != nil {
		return err
	}
	if o.quick {
		os.Stdout.Write(b.Bytes())
	}
	if missed := missedBars(t.rows); o.bars && len(missed) > 0 {
		return errors.New("bars missed: " + strings.Join(missed, "; "))
	}
	return nil
}

const notes = `Outages are those of a UDP stream of one datagram a millisecond: the time from the last datagram before the longest run of lost
ones to the first after it, by the sender's clock; "never" is not within the run. The flows that are measured used the first
uplink both ways, for 3 s before the failure unless warmup_s says otherwise; a second pair of streams, where an arm shares
load, used the other uplink. A TCP stall is the longest time without an arrival on a connection that sends a record every
5 ms each way; arrivals are late also when the machine is busy. The idle session carries nothing during the failure, and echoes a key after it.

Control messages are counted on the wire, in all nodes, as they leave the node that made them, from the failure until 2 s
after the streams were back; octets are those of IP packets, TCP's own included. What a node loses into a black hole at its
own end of the link is not on the wire.

The hosts with Multipath TCP have receive buffers of 4 MiB. With the kernel's 128 KiB, connections with 80 ms stood still for
ever: what the second subflow brings out of order while the first is lost, in records of 64 octets that count as about a
kilobyte each, fills the buffer; the record that is missed is sent again every 200 ms, as seen on the wire, and not taken.

A session that is not back when the run ends counts as not surviving. TCP doubles the time between its tries, so that after
an outage of BGP's hold timer (90 s after the last keepalive) its next one is 204 s after the failure.

GoBGP v3 has neither MRAI nor BFD: its updates leave at once, which is faster than routers with a minimum route
advertisement interval. All BGP arms close the session when carrier or the own address is lost, as routers do and GoBGP does
not by itself. Routers prefer what customers say, and tell peers and providers nothing else (Gao and Rexford): the other
provider's path is in all routers before the failure, so nothing has to be explored. The core has three routers; the Internet
has tens of thousands that hear of each update.`

func lostBeside(rows []row) string {
	out, in := values(rows, "bystander_out_lost"), values(rows, "bystander_in_lost")
	if len(out) == 0 {
		return "–"
	}
	return fmt.Sprintf("%.0f, %.0f", quantile(out, 1), quantile(in, 1))
}

func control(rows []row) string {
	var out []string
	for _, k := range []string{"bgp", "lisp", "detector"} {
		if n := medianOf(rows, k+"_msgs"); n != "0" && n != "–" {
			out = append(out, fmt.Sprintf("%s %s (%s)", k, n, medianOf(rows, k+"_octets")))
		}
	}
	if len(out) == 0 {
		return "0"
	}
	return strings.Join(out, ", ")
}

func state(rows []row, when string) string {
	return fmt.Sprintf("%s (%s)", medianOf(rows, "core_site_fib_"+when), medianOf(rows, "core_rib_"+when))
}

func teReport(p func(string, ...any), e *table) {
	cells := byCell(e.rows)
	if len(cells) == 0 {
		return
	}
	p("## Traffic engineering: inbound traffic from 50/50 to 70/30")
	p("")
	p("Eidolon changes the weights of two locators. BGP announces parts of the second provider's half by the first one too; as")
	p("nothing longer than a /24 gets far, a /20 can be divided in sixteenths. The share is that of the first provider, of random")
	p("addresses and ports, %d packets a second; the time is until it is steadily within %.0f points of its end.", teRate, 100*teMargin)
	p("")
	p("| arm | RTT | runs | share before | share after, median | off 70 %%, points, worst | time, p50 / max | lost, max | routes (BGP paths) in three core routers | messages (octets), median |")
	p("|---|---|---|---|---|---|---|---|---|---|")
	for _, c := range sortedCells(cells) {
		rows := cells[c]
		off := 0.0
		for _, v := range values(rows, "te_share_after") {
			off = max(off, math.Abs(v-teTarget))
		}
		p("| %s | %d ms | %d | %.1f %% | %.1f %% | %.1f | %s / %s | %s | %s → %s | %s |", c.Arm, c.RTT, len(rows),
			100*quantile(values(rows, "te_share_before"), 0.5), 100*quantile(values(rows, "te_share_after"), 0.5), 100*off,
			teTime(quantile(values(rows, "te_ms"), 0.5)), teTime(quantile(values(rows, "te_ms"), 1)),
			strconv.FormatFloat(quantile(values(rows, "in_lost"), 1), 'f', -1, 64),
			state(rows, "before"), state(rows, "after"), control(rows))
	}
	p("")
}

// teTime writes the time that a move took, which is found out in bins.
func teTime(v float64) string {
	if bin := milliseconds(teBin); v < bin {
		return "under " + ms(bin)
	}
	return ms(v)
}

func distinct(rows []row, column string) (list []string) {
	for _, r := range rows {
		if v := r[column]; v != "" && !slices.Contains(list, v) {
			list = append(list, v)
		}
	}
	return list
}

// checkQuick says what a quick run has not shown. It does not judge times:
// machines of CI are slow.
func checkQuick(t, e *table) error {
	var errs []error
	bad := func(r row, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s, %s, run %s: %s", r["arm"], r["failure"], r["run"], fmt.Sprintf(format, args...)))
	}
	for _, r := range t.rows {
		a, err := armByName(r["arm"])
		if err != nil {
			return err
		}
		positive := func(column string) {
			if v, ok := r.number(column); !ok || v <= 0 {
				bad(r, "%s is %q", column, r[column])
			}
		}
		if a.bgp || a.eidolon {
			positive("setup_msgs")
			if r["tcp_survived"] != "yes" || r["idle_survived"] != "yes" {
				bad(r, "the TCP sessions did not survive")
			}
			if r["out_outage_ms"] == "inf" || r["in_outage_ms"] == "inf" {
				bad(r, "the datagrams did not come back")
			}
		}
		switch {
		case a.bgp:
			positive("bgp_msgs")
			positive("core_site_fib_before")
			positive("core_rib_before")
		case a.eidolon:
			positive("lisp_msgs")
			if r["core_site_fib_before"] != "0" || r["core_site_fib_after"] != "0" {
				bad(r, "the core has a route to the site")
			}
		case a.mptcp:
			if r["tcp_survived"] != "yes" {
				bad(r, "the TCP session did not survive")
			}
		default:
			if r["tcp_survived"] == "yes" || r["in_outage_ms"] != "inf" && r["out_outage_ms"] != "inf" {
				bad(r, "the failure does not hurt a site with one provider")
			}
		}
	}
	for _, r := range e.rows {
		before, _ := r.number("te_share_before")
		after, _ := r.number("te_share_after")
		if math.Abs(before-0.5) > 0.05 || math.Abs(after-teTarget) > 0.05 {
			bad(r, "the share went from %.3f to %.3f", before, after)
		}
		bgp, _ := r.number("bgp_msgs")
		lisp, _ := r.number("lisp_msgs")
		if bgp+lisp == 0 {
			bad(r, "no control message was counted")
		}
	}
	if len(t.rows)+len(e.rows) == 0 {
		errs = append(errs, errors.New("nothing was measured"))
	}
	return errors.Join(errs...)
}
