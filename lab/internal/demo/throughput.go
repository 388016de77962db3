package demo

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/eidolon-lisp/eidolon/lab/internal/applet"
)

const (
	rounds      = 5
	roundLength = "1.5" // seconds of each run
	bar         = 0.25  // of plain routing
	enough      = 3e9   // bits per second, where plain routing copies faster than four times that
	freeRounds  = 2     // that are shown and not judged
)

func (d *demo) throughputSteps() []step {
	return []step{{fmt.Sprintf("throughput of one TCP flow: at least %.2f of plain routing, or %.0f Gbit/s", bar, enough/1e9), d.throughput}}
}

// throughput compares one TCP flow over LISP with one between the hosts'
// provider-assigned addresses, which passes the same links and routers
// unencapsulated, in turns.
//
// Sender and receiver share one CPU, whichever way the packets go. Where they
// may use two, the speed of plain routing between namespaces depends on where
// the scheduler puts them, and varies two- to threefold from run to run; such
// runs are shown too.
func (d *demo) throughput(ctx context.Context) (string, error) {
	lisp, plain, err := d.compare(ctx, "Throughput, one TCP flow, in turns; both hosts on one CPU", rounds, "-A", "0")
	if err != nil {
		return "", err
	}
	freeLISP, freePlain, err := d.compare(ctx, "The same with the hosts on any CPU, not judged", freeRounds)
	if err != nil {
		return "", err
	}
	ratio := median(lisp) / median(plain)
	value := fmt.Sprintf("ratio %.2f: LISP %s, plain %s, medians of %d runs, hosts on one CPU; on any: ratio %.2f, LISP %s, plain %s",
		ratio, spread(lisp), spread(plain), rounds, median(freeLISP)/median(freePlain), spread(freeLISP), spread(freePlain))
	if slow(lisp, plain) {
		return value, errors.New("below the bar")
	}
	return value, nil
}

// slow judges the rates of one TCP flow over LISP and plain.
func slow(lisp, plain []float64) bool {
	m := median(lisp)
	return m < enough && m < bar*median(plain)
}

// compare measures n rounds, each once over LISP and once plain, in bits per
// second. args go to sender and receiver.
func (d *demo) compare(ctx context.Context, title string, n int, args ...string) (lisp, plain []float64, err error) {
	d.title(title)
	stop, err := d.serve(args...)
	if err != nil {
		return nil, nil, err
	}
	defer stop()
	for i := range n {
		for _, run := range []struct {
			name, source, destination string
			into                      *[]float64
		}{
			{"LISP", siteA.host4.String(), siteB.host4.String(), &lisp},
			{"plain", siteA.pa4.String(), siteB.pa4.String(), &plain},
		} {
			r, err := d.send(ctx, append(args, "-t", roundLength, "-B", run.source, run.destination)...)
			if err != nil {
				return nil, nil, err
			}
			*run.into = append(*run.into, r.BitsPerSecond)
			d.say("round %d, %-6s %s (MSS %d, %d segments retransmitted)", i+1, run.name, applet.Rate(r.BitsPerSecond), r.MSS, r.Retransmits)
		}
	}
	return lisp, plain, nil
}

// spread writes the median of rates in bits per second, and the range.
func spread(rates []float64) string {
	return fmt.Sprintf("%s (%.2f to %.2f)", applet.Rate(median(rates)), slices.Min(rates)/1e9, slices.Max(rates)/1e9)
}

// median of a list that is not empty.
func median(list []float64) float64 {
	s := slices.Sorted(slices.Values(list))
	n := len(s)
	return (s[(n-1)/2] + s[n/2]) / 2
}
