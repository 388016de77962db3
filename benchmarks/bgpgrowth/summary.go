package main

import (
	"fmt"
	"io"
	"math"
	"text/tabwriter"

	"github.com/eidolon-lisp/eidolon/benchmarks/bgpgrowth/measure"
)

// summary prints what was measured, in short.
func summary(out io.Writer, runs []measure.Run) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "arm\tadoption\tD\tN\tRIB paths\tFIB entries\tMB of heap\tUPDATEs of a failure\tseconds to converge\t")
	for _, r := range runs {
		if r.Kind != measure.KindTable {
			continue
		}
		var updates, seconds, n float64
		for _, f := range runs {
			if f.Kind == measure.KindFailure && f.Arm == r.Arm && f.Variant == r.Variant && f.Speakers == r.Speakers && f.Sites == r.Sites && f.MRAI == 0 && same(f.Adoption, r.Adoption) {
				updates += f.Updates
				seconds += f.ConvergenceMs / 1000
				n++
			}
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%.0f\t%.0f\t%.1f\t%s\t%s\t\n", r.Arm+" "+r.Variant, text("%.2f", r.Adoption), r.Speakers, r.Sites,
			r.RIBPaths, r.FIBEntries, r.HeapBytes/1e6, text("%.1f", updates/n), text("%.2f", seconds/n))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(w, "\tN\tusers of a mapping\tmessages of a failure\tSMRs\tpublications\tprobes\tBGP UPDATEs\tseconds to converge\t")
	for _, r := range runs {
		if r.Kind == measure.KindFailure && !math.IsNaN(r.Messages) {
			fmt.Fprintf(w, "%s\t%d\t%.0f\t%.0f\t%.0f\t%.0f\t%.0f\t%s\t%.3f\t\n", r.Arm+" "+r.Variant, r.Sites, r.Users, r.Messages, r.SMRs, r.Publications, r.Probes, text("%.0f", r.Updates), r.ConvergenceMs/1000)
		}
	}
	return w.Flush()
}

func same(a, b float64) bool { return a == b || math.IsNaN(a) && math.IsNaN(b) }

func text(format string, x float64) string {
	if math.IsNaN(x) {
		return "-"
	}
	return fmt.Sprintf(format, x)
}
