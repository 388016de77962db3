package main

import (
	"bytes"
	"encoding/binary"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/internal/netns"
)

// The program starts itself under other names.
func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case runName:
		os.Exit(runChild())
	case hostName:
		os.Exit(runHost())
	}
	m.Run()
}

func TestParse(t *testing.T) {
	for _, x := range []struct {
		args string
		want string // of the error; empty: none
	}{
		{"", ""},
		{"--quick -arms plain,tun -groups ipv4 -cases tcp1,small -rounds 2 -time 300ms", ""},
		{"-arms ipsec", "ipsec"},
		{"-groups ipv5", "ipv5"},
		{"-cases icmp", "icmp"},
		{"-rounds 0", "-rounds"},
		{"-time 1ms", "-time"},
		{"-mappings 2000000", "-mappings"},
		{"-quick -report", "-report"},
		{"-quick -keep", "-keep"},
		{"rest", "rest"},
	} {
		_, err := parse(strings.Fields(x.args), io.Discard)
		if (err == nil) != (x.want == "") || err != nil && !strings.Contains(err.Error(), x.want) {
			t.Errorf("%q: %v, expected an error with %q", x.args, err, x.want)
		}
	}
}

// Each group names cases and arms that there are.
func TestGroups(t *testing.T) {
	for _, g := range groups {
		for _, name := range g.cases {
			if c, ok := caseByName(name); !ok || c.unit == "" {
				t.Errorf("group %s: case %q", g.name, name)
			}
		}
		for _, name := range g.arms {
			if _, ok := armByName(name); !ok || plotColours[name] == "" {
				t.Errorf("group %s: arm %q", g.name, name)
			}
		}
	}
}

func TestMappings(t *testing.T) {
	const n = 50_000
	list := mappings(n)
	block := pfx(rightBlock)
	seen := map[uint32]bool{}
	lengths := map[int]int{}
	for _, p := range list {
		a := p.Addr().As4()
		slot := binary.BigEndian.Uint32(a[:]) >> 3 // that of one can't hold a part of another
		if !block.Contains(p.Addr()) || p != p.Masked() || p.Bits() < 29 || p.Bits() > 32 || seen[slot] {
			t.Fatalf("%v", p)
		}
		seen[slot] = true
		lengths[p.Bits()]++
	}
	if len(list) != n || len(lengths) != 4 {
		t.Fatalf("%d mappings, lengths %v", len(list), lengths)
	}
	for i, p := range mappings(n) {
		if p != list[i] {
			t.Fatal("not the same again")
		}
	}
}

// Ratios are to plain routing in the same round, and what is written is read
// again as it was.
func TestResults(t *testing.T) {
	r := &results{begin: time.Now().Truncate(time.Second).UTC(), commit: "abc", command: "go run ./benchmarks/dataplane -rounds 3"}
	at := r.begin.Format(time.RFC3339)
	for i, x := range []struct{ plain, tun float64 }{{10, 5}, {20, 8}, {10, 6}} {
		r.add(sample{Time: at, Group: "ipv4", Case: "tcp1", Arm: "plain", Outside: 4, Mappings: 1, Round: i, Value: x.plain, Machine: 1.5, Frame: 1514})
		r.add(sample{Time: at, Group: "ipv4", Case: "tcp1", Arm: "tun", Outside: 4, Mappings: 1, Round: i, Value: x.tun, Left: 0.25})
	}
	r.add(sample{Time: at, Group: "table", Case: "uniform", Arm: "tun", Outside: 4, Mappings: 900_000, Value: 100, Loss: 0.005, Late: 7})
	r.add(sample{Time: at, Group: "ipv6", Case: "rtt", Arm: "bpf", Outside: 6, Mappings: 1, Value: 50, P99: 80})
	lines := r.lines()
	if len(lines) != 4 {
		t.Fatalf("%d lines", len(lines))
	}
	if got := median(lines[1].ratios); got != 0.5 || median(lines[1].column(value)) != 6 {
		t.Errorf("the ratio is %v, the median %v", got, median(lines[1].column(value)))
	}
	if lines[3].label() != "tun, 900000 mappings" || len(lines[3].ratios) != 0 {
		t.Errorf("%q has ratios %v", lines[3].label(), lines[3].ratios)
	}
	if !math.IsNaN(median(nil)) || median([]float64{4, 1, 2, 3}) != 2.5 {
		t.Error("median")
	}
	dir := t.TempDir()
	var first, second bytes.Buffer
	if err := r.write(dir, &first); err != nil {
		t.Fatal(err)
	}
	again, err := readResults(dir)
	if err != nil {
		t.Fatal(err)
	}
	if again.table(&second); first.String() != second.String() || !strings.Contains(first.String(), "| tun | 6.00 | 5.00 | 8.00 | 0.50 | 0.40 | 0.60 |") {
		t.Errorf("written:\n%s\nread:\n%s", &first, &second)
	}
	svg, err := os.ReadFile(filepath.Join(dir, plotFile))
	if err != nil {
		t.Fatal(err)
	}
	for d := xml.NewDecoder(bytes.NewReader(svg)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("the plot: %v", err)
		}
	}
}

// A run keeps of an earlier one what it does not measure itself.
func TestKeep(t *testing.T) {
	old := &results{command: "a", commit: "1"}
	old.add(sample{Group: "ipv4", Case: "tcp1", Arm: "plain", Value: 1})
	old.add(sample{Group: "ipv6", Case: "tcp1", Arm: "plain", Value: 2})
	r := &results{command: "b", commit: "2"}
	r.add(sample{Group: "ipv4", Case: "tcp1", Arm: "plain", Value: 3})
	r.keep(old)
	if len(r.samples) != 2 || r.samples[0].Value != 2 || r.samples[0].Commit != "1" || r.samples[1].Value != 3 || r.samples[1].Commit != "2" || len(r.runs()) != 2 {
		t.Errorf("%+v", r.samples)
	}
}

// What is missed is named, and what was not measured is not judged.
func TestBars(t *testing.T) {
	for _, b := range bars {
		for _, c := range []*cell{&b.of, b.to} {
			if c == nil {
				continue
			}
			if _, ok := caseByName(c.testCase); !ok || !slices.ContainsFunc(groups, func(g group) bool {
				return g.name == c.group && slices.Contains(g.cases, c.testCase) && slices.Contains(g.arms, c.arm) && (g.large || !c.large)
			}) {
				t.Errorf("%s: nothing measures %+v", b.what, *c)
			}
		}
	}
	r := &results{}
	for i, x := range []struct{ plain, bpf, tun, six float64 }{{10, 9.5, 4, 8}, {20, 17, 10, 17}, {30, 28, 16, 24}} {
		for arm, v := range map[string]float64{plainArm: x.plain, "bpf": x.bpf, "tun": x.tun} {
			r.add(sample{Group: "ipv4", Case: "tcp1", Arm: arm, Round: i, Value: v, Mappings: 1})
		}
		r.add(sample{Group: "ipv6", Case: "tcp1", Arm: plainArm, Round: i, Value: 2 * x.plain, Mappings: 1})
		r.add(sample{Group: "ipv6", Case: "tcp1", Arm: "bpf", Round: i, Value: 2 * x.six, Mappings: 1})
		r.add(sample{Group: "ipv4", Case: "rtt", Arm: plainArm, Round: i, Value: 10, Mappings: 1})
		r.add(sample{Group: "ipv4", Case: "rtt", Arm: "tun", Round: i, Value: 261, Mappings: 1})
	}
	var out bytes.Buffer
	r.judge(&out)
	for _, want := range []string{
		"| eBPF, one TCP flow, hosts on one CPU, of plain routing | 0.93 | at least 0.9 | met |",
		"| TUN, one TCP flow, hosts on one CPU, of plain routing | 0.50 | at least 0.5 | met |",
		"| eBPF, IPv6 outside, one TCP flow, of IPv4 outside | 0.86 | at least 0.85 | met |",
		"| TUN, round trip, us more than plain routing | 251 | less than 250 | **missed** |",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, &out)
		}
	}
	if n := strings.Count(out.String(), "\n| "); n != 5 {
		t.Errorf("%d bars are judged:\n%s", n-1, &out)
	}
	if err := r.missed(true); err == nil || !strings.Contains(err.Error(), "round trip") || strings.Contains(err.Error(), "IPv6") {
		t.Errorf("missed: %v", err)
	}
	if err := r.missed(false); err != nil {
		t.Errorf("not asked for: %v", err)
	}
}

// A sink tells what overtook what.
func TestSinkCounts(t *testing.T) {
	s, err := newSink(0)
	if err != nil {
		t.Fatal(err)
	}
	go s.run()
	sa, err := unixName(s.fd)
	if err != nil {
		t.Fatal(err)
	}
	out, err := udpSocket(netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []uint64{0, 1, 3, 2, 4, 0} {
		var b [udpMinimum]byte
		binary.BigEndian.PutUint64(b[:], 1)
		binary.BigEndian.PutUint64(b[8:], n)
		if err := sendTo(out, b[:], sa); err != nil {
			t.Fatal(err)
		}
	}
	for deadline := time.Now().Add(5 * time.Second); s.packets.Load() < 6 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	if s.packets.Load() != 6 || s.late.Load() != 2 {
		t.Errorf("%d packets, %d late", s.packets.Load(), s.late.Load())
	}
}

// One tiny run of each kind of case, with the real daemons: everything arrives
// in order, and a large table gets into the map-cache.
func TestRun(t *testing.T) {
	netns.NeedTUN(t)
	bin := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-o", bin+"/", "github.com/eidolon-lisp/eidolon/cmd/xtr", "github.com/eidolon-lisp/eidolon/cmd/mapserver")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, g := range []struct {
		group string
		cases []string
		lines int
	}{
		{"ipv6", []string{"tcp4", "small", "both", "rtt"}, 16},
		{"ipv4", []string{"wire"}, 4},
		{"table", []string{"flows", "uniform"}, 10},
		{"mixed", []string{"tcp1-free"}, 3},
	} {
		var got []sample
		j := job{Group: g.group, Arms: []string{"plain", "vxlan", "tun", "bpf", "tun-bpf", "bpf-tun"}, Asked: true, Cases: g.cases, Rounds: 1, Time: 100 * time.Millisecond,
			Mappings: 5000, Programs: bin, Dir: t.TempDir()}
		err := spawn(t.Context(), j, func(m message) {
			t.Log(m.Text)
			if m.Sample != nil {
				got = append(got, *m.Sample)
			}
		})
		if err != nil {
			t.Fatalf("%s: %v", g.group, err)
		}
		if len(got) != g.lines {
			t.Errorf("%s: %d samples, expected %d", g.group, len(got), g.lines)
		}
		for _, m := range got {
			c, _ := caseByName(m.Case)
			switch {
			case c.unit != kpps && m.Value <= 0, m.Loss > 0.5: // a busy machine may lose some at any rate
				t.Errorf("%+v", m)
			case m.Late > 0:
				t.Errorf("packets of a flow overtook others: %+v", m)
			case c.link.segmented && m.Frame > mtu+14:
				t.Errorf("not segmented: %+v", m)
			}
		}
	}
}
