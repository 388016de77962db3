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
)

func (d *demo) throughputSteps() []step {
	return []step{{fmt.Sprintf("throughput of one TCP flow: at least %.2f of plain routing", bar), d.throughput}}
}

// throughput compares one TCP flow over LISP with one between the hosts'
// provider-assigned addresses, which passes the same links and routers
// unencapsulated, in turns.
func (d *demo) throughput(ctx context.Context) (string, error) {
	d.title("Throughput, one TCP flow, in turns")
	stop, err := d.serve()
	if err != nil {
		return "", err
	}
	defer stop()
	var lisp, plain []float64
	for i := range rounds {
		for _, run := range []struct {
			name, source, destination string
			into                      *[]float64
		}{
			{"LISP", siteA.host4.String(), siteB.host4.String(), &lisp},
			{"plain", siteA.pa4.String(), siteB.pa4.String(), &plain},
		} {
			r, err := d.send(ctx, "-t", roundLength, "-B", run.source, run.destination)
			if err != nil {
				return "", err
			}
			*run.into = append(*run.into, r.BitsPerSecond)
			d.say("round %d, %-6s %s (MSS %d, %d segments retransmitted)", i+1, run.name, applet.Rate(r.BitsPerSecond), r.MSS, r.Retransmits)
		}
	}
	ratio := median(lisp) / median(plain)
	value := fmt.Sprintf("ratio %.2f: LISP %s, plain %s (medians of %d runs each)", ratio, spread(lisp), spread(plain), rounds)
	if ratio < bar {
		return value, errors.New("below the bar")
	}
	return value, nil
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
