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
		{"ipv6", []string{"tcp4", "small", "both", "rtt"}, 12},
		{"ipv4", []string{"wire"}, 3},
		{"table", []string{"flows", "uniform"}, 6},
	} {
		var got []sample
		j := job{Group: g.group, Arms: []string{"plain", "vxlan", "tun"}, Asked: true, Cases: g.cases, Rounds: 1, Time: 100 * time.Millisecond,
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
