package main

import (
	"fmt"
	"io"
	"math"
	"strings"
)

// cell is what was measured of an arm in a case.
type cell struct {
	group, testCase, arm string
	large                bool // with the large table
}

// bar is something that is expected of a run: a figure, or how it compares with
// another one.
type bar struct {
	what  string
	of    cell
	to    *cell // nil: the value itself counts
	want  float64
	below bool // the figure is to be less than that, not at least
	minus bool // the difference counts, not the ratio
}

func vs(group, testCase, arm string) *cell { return &cell{group: group, testCase: testCase, arm: arm} }

var bars = []bar{
	{what: "eBPF, one TCP flow, hosts on one CPU, of plain routing", of: *vs("ipv4", "tcp1", "bpf"), to: vs("ipv4", "tcp1", plainArm), want: 0.9},
	{what: "eBPF, one TCP flow, hosts on any CPU, of plain routing", of: *vs("ipv4", "tcp1-free", "bpf"), to: vs("ipv4", "tcp1-free", plainArm), want: 0.9},
	{what: "eBPF, four TCP flows, of plain routing", of: *vs("ipv4", "tcp4", "bpf"), to: vs("ipv4", "tcp4", plainArm), want: 0.9},
	{what: "eBPF, small packets, of plain routing", of: *vs("ipv4", "small", "bpf"), to: vs("ipv4", "small", plainArm), want: 0.9},
	{what: "eBPF, small packets, of VXLAN", of: *vs("ipv4", "small", "bpf"), to: vs("ipv4", "small", "vxlan"), want: 1.1},
	{what: "eBPF, 10,000 flows, large table, of the same with one mapping", of: cell{"table", "flows", "bpf", true}, to: vs("table", "flows", "bpf"), want: 0.85},
	{what: "eBPF, 10,000 flows, large table, of one flow with one mapping", of: cell{"table", "flows", "bpf", true}, to: vs("table", "small", "bpf"), want: 0.85},
	{what: "eBPF, segmented in the core, no GRO, of VXLAN", of: *vs("ipv4", "wire", "bpf"), to: vs("ipv4", "wire", "vxlan"), want: 0.8},
	{what: "eBPF, IPv6 outside, one TCP flow, of IPv4 outside", of: *vs("ipv6", "tcp1", "bpf"), to: vs("ipv4", "tcp1", "bpf"), want: 0.85},
	{what: "TUN, one TCP flow, hosts on one CPU, of plain routing", of: *vs("ipv4", "tcp1", "tun"), to: vs("ipv4", "tcp1", plainArm), want: 0.5},
	{what: "TUN, one TCP flow, hosts on any CPU, of plain routing", of: *vs("ipv4", "tcp1-free", "tun"), to: vs("ipv4", "tcp1-free", plainArm), want: 0.5},
	{what: "TUN, one TCP flow, hosts on one CPU, of wireguard-go", of: *vs("ipv4", "tcp1", "tun"), to: vs("ipv4", "tcp1", "wireguard"), want: 2.8},
	{what: "TUN, one TCP flow, hosts on any CPU, of wireguard-go", of: *vs("ipv4", "tcp1-free", "tun"), to: vs("ipv4", "tcp1-free", "wireguard"), want: 2.8},
	{what: "TUN, small packets one way, kpps", of: *vs("ipv4", "small", "tun"), want: 180},
	{what: "TUN, small packets both ways, sum, kpps", of: *vs("ipv4", "both", "tun"), want: 120},
	{what: "TUN, round trip, us more than plain routing", of: *vs("ipv4", "rtt", "tun"), to: vs("ipv4", "rtt", plainArm), want: 250, below: true, minus: true},
	{what: "TUN to eBPF, one TCP flow, Gbit/s", of: *vs("mixed", "tcp1-free", "tun-bpf"), want: 1},
	{what: "eBPF to TUN, one TCP flow, Gbit/s", of: *vs("mixed", "tcp1-free", "bpf-tun"), want: 1},
}

// cell returns the line of a cell.
func (r *results) cell(c cell) (line, bool) {
	for _, l := range r.lines() {
		if l.group == c.group && l.testCase.name == c.testCase && l.arm == c.arm && (l.mappings > 1) == c.large {
			return l, true
		}
	}
	return line{}, false
}

// figure is what a run has for a bar: of two cells of a group, the median of
// what the rounds have; of two groups, which are not measured in turns, how
// their ratios to plain routing compare, which takes the same way in both. It is
// NaN if something was not measured.
func (r *results) figure(b bar) float64 {
	of, ok := r.cell(b.of)
	if !ok {
		return math.NaN()
	}
	if b.to == nil {
		return median(of.column(value))
	}
	to, ok := r.cell(*b.to)
	if !ok {
		return math.NaN()
	}
	compare := func(x, y float64) float64 {
		if b.minus {
			return x - y
		}
		return x / y
	}
	if b.of.group != b.to.group {
		return compare(median(of.ratios), median(to.ratios))
	}
	var list []float64
	for _, x := range of.samples {
		for _, y := range to.samples {
			if x.Round == y.Round {
				list = append(list, compare(x.Value, y.Value))
			}
		}
	}
	return median(list)
}

func (b bar) met(figure float64) bool {
	if b.below {
		return figure < b.want
	}
	return figure >= b.want
}

// judge writes what became of the bars for which there is a figure.
func (r *results) judge(w io.Writer) {
	begun := false
	for _, b := range bars {
		f := r.figure(b)
		if math.IsNaN(f) {
			continue
		}
		if !begun {
			begun = true
			fmt.Fprintf(w, "\n## Bars\n\n| | | bar | |\n|---|---|---|---|\n")
		}
		verdict, sign := "met", "at least"
		if !b.met(f) {
			verdict = "**missed**"
		}
		if b.below {
			sign = "less than"
		}
		fmt.Fprintf(w, "| %s | %s | %s %v | %s |\n", b.what, number(f), sign, b.want, verdict)
	}
}

// missed is an error that names the bars that are missed, if that is asked for.
func (r *results) missed(asked bool) error {
	var list []string
	for _, b := range bars {
		if f := r.figure(b); asked && !math.IsNaN(f) && !b.met(f) {
			list = append(list, fmt.Sprintf("%s: %s", b.what, number(f)))
		}
	}
	if len(list) == 0 {
		return nil
	}
	return fmt.Errorf("bars are missed: %s", strings.Join(list, "; "))
}
