package dataplane_test

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/dataplane/dptest"
	"github.com/eidolon-lisp/eidolon/mapping"
)

// events returns what a trace has told, a line each.
func events(t *dataplane.Tracer) (lines []string) {
	for len(t.Events()) > 0 {
		ev := <-t.Events()
		way := "out"
		if ev.In {
			way = "in"
		}
		var names []string
		for _, c := range ev.Counts {
			names = append(names, c.String())
		}
		line := fmt.Sprintf("%s %v>%v %d", way, ev.Flow.Src, ev.Flow.Dst, ev.Flow.Length)
		if ev.Dst.IsValid() {
			line += fmt.Sprintf(" (%v>%v)", ev.Src, ev.Dst)
		}
		line += " " + strings.Join(names, ",")
		if ev.Drop != dataplane.NotDropped {
			line += " drop_" + ev.Drop.String()
		}
		lines = append(lines, line)
	}
	return lines
}

// What becomes of each packet is told, and becomes of it all the same.
func TestTrace(t *testing.T) {
	s := newSite(t, dataplane.MissPolicy{Hold: true})
	tr, err := s.fib.Trace(dataplane.TraceFilter{There: netip.MustParsePrefix("10.2.0.0/15")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.fib.Trace(dataplane.TraceFilter{}); !errors.Is(err, dataplane.ErrTracing) {
		t.Errorf("a second trace: %v", err)
	}
	want := func(lines ...string) {
		t.Helper()
		if got := events(tr); !slices.Equal(got, lines) {
			t.Errorf("told\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(lines, "\n"))
		}
	}
	s.send(0, flow4(100).Bytes())
	want("out 10.1.0.1>10.2.0.1 128 held_packets,miss_queued")
	s.learn(positive("10.2.0.0/16", theirs4), mapping.NegativeRecord(eid("10.3.0.0/16"), mapping.Drop, 15))
	s.fwd.Release(s.now, s.releasers())
	want("out 10.1.0.1>10.2.0.1 128 (192.0.2.1>198.51.100.1) encap_packets")
	// In one batch: packets of others, before, between and after.
	other := dptest.Flow("10.1.0.1:1000", "10.9.0.1:80", dptest.UDP, 10)
	refused := dptest.Flow("10.1.0.1:1000", "10.3.0.1:80", dptest.UDP, 10)
	s.learn(positive("10.9.0.0/16", theirs4))
	big := flow4(2000)
	s.send(0, other.Bytes(), flow4(1).Bytes(), other.Bytes(), refused.Bytes(), flow4(2).Bytes(), big.Bytes(), flow6(1).Bytes(), other.Bytes())
	want("out 10.1.0.1>10.2.0.1 29 (192.0.2.1>198.51.100.1) encap_packets",
		"out 10.1.0.1>10.3.0.1 38 icmp_unreachable drop_negative",
		"out 10.1.0.1>10.2.0.1 30 (192.0.2.1>198.51.100.1) encap_packets",
		"out 10.1.0.1>10.2.0.1 2028 (192.0.2.1>198.51.100.1) encap_packets,fragmented")
	// What is not encapsulated has no outer addresses; what the first check
	// refuses is told, too.
	whole, old := flow4(2000), flow4(1)
	whole.DF, old.NoTTL = true, true
	s.send(0, whole.Bytes(), old.Bytes())
	want("out 10.1.0.1>10.2.0.1 2028 icmp_too_big drop_too_big",
		"out 10.1.0.1>10.2.0.1 29  drop_ttl_expired")
	var order []string
	for _, p := range s.under.Sent() {
		order = append(order, fmt.Sprint(p.Len()-8))
	}
	if got := strings.Join(order, " "); got != "128 38 29 38 30 1028 1020 38" {
		t.Errorf("sent %s", got)
	}
	s.in.Batch([]dataplane.Packet{back4(1).Lisp(0, theirs4.String(), ours4.String()), back6(1).Lisp(0, theirs4.String(), ours4.String()),
		dptest.Flow("10.2.0.1:1", "10.77.0.1:2", dptest.UDP, 3).Lisp(0, theirs4.String(), ours4.String()), back4(2).Lisp(0, theirs4.String(), ours4.String())})
	want("in 10.2.0.1>10.1.0.1 29 (198.51.100.1>192.0.2.1) decap_packets",
		"in 10.2.0.1>10.77.0.1 31 (198.51.100.1>192.0.2.1)  drop_destination_not_local",
		"in 10.2.0.1>10.1.0.1 30 (198.51.100.1>192.0.2.1) decap_packets")
	if n := len(s.host.Written()); n < 3 {
		t.Errorf("%d packets delivered", n)
	}
	if tr.Lost() != 0 {
		t.Errorf("%d lost", tr.Lost())
	}
	tr.Close()
	s.send(0, flow4(100).Bytes())
	want()
	if again, err := s.fib.Trace(dataplane.TraceFilter{}); err != nil {
		t.Error(err)
	} else {
		tr.Close() // does not end the other
		s.send(0, flow4(100).Bytes())
		if n := len(again.Events()); n != 1 {
			t.Errorf("%d events of the second trace", n)
		}
	}
}

// A trace never takes more than its share, and says what it left out.
func TestTraceLimit(t *testing.T) {
	s := newSite(t, dataplane.MissPolicy{})
	s.learn(positive("10.2.0.0/16", theirs4))
	tr, err := s.fib.Trace(dataplane.TraceFilter{})
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	for range 300 {
		s.send(0, flow4(1).Bytes())
	}
	if n, lost := len(tr.Events()), tr.Lost(); n != 100 || lost != 200 {
		t.Errorf("%d traced at once, %d lost", n, lost)
	}
	s.now = s.now.Add(time.Second / 2)
	for range 300 {
		s.send(0, flow4(1).Bytes())
	}
	if n := len(tr.Events()); n != 200 {
		t.Errorf("%d traced half a second later", n)
	}
	for range 100 { // until the queue is full
		s.now = s.now.Add(time.Second)
		for range 100 {
			s.send(0, flow4(1).Bytes())
		}
	}
	if n, lost := len(tr.Events()), tr.Lost(); n != 1024 || uint64(n)+lost != 600+100*100 {
		t.Errorf("%d wait, %d lost", n, lost)
	}
	s.wantCount(dataplane.EncapPackets, 600+100*100)
}

func TestTraceFilter(t *testing.T) {
	pre := netip.MustParsePrefix
	for _, c := range []struct {
		name    string
		f       dataplane.TraceFilter
		out, in int
	}{
		{"all", dataplane.TraceFilter{}, 1, 1},
		{"instance", dataplane.TraceFilter{IID: 7}, 0, 0},
		{"ends", dataplane.TraceFilter{Here: pre("10.1.0.1/32"), There: pre("10.2.0.1/32")}, 1, 1},
		{"ends the other way round", dataplane.TraceFilter{Here: pre("10.2.0.1/32"), There: pre("10.1.0.1/32")}, 1, 1},
		{"one end", dataplane.TraceFilter{There: pre("10.2.0.2/32")}, 0, 0},
		{"protocol", dataplane.TraceFilter{Protocol: 6}, 0, 0},
		{"ports", dataplane.TraceFilter{Here: pre("10.1.0.0/16"), Protocol: 17, HerePort: 1000, TherePort: 80}, 1, 1},
		{"ports of the wrong ends", dataplane.TraceFilter{Here: pre("10.1.0.0/16"), Protocol: 17, HerePort: 80, TherePort: 1000}, 0, 0},
	} {
		s := newSite(t, dataplane.MissPolicy{})
		s.learn(positive("10.2.0.0/16", theirs4))
		tr, err := s.fib.Trace(c.f)
		if err != nil {
			t.Fatal(err)
		}
		s.send(0, flow4(1).Bytes())
		if n := len(events(tr)); n != c.out {
			t.Errorf("%s: %d events out", c.name, n)
		}
		s.in.Batch([]dataplane.Packet{back4(1).Lisp(0, theirs4.String(), ours4.String())})
		if n := len(events(tr)); n != c.in {
			t.Errorf("%s: %d events in", c.name, n)
		}
	}
}
