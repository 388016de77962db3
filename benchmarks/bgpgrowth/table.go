package main

import (
	"fmt"
	"io"

	"github.com/eidolon-lisp/eidolon/benchmarks/bgpgrowth/internet"
)

// printTable prints what the table is made of, and what would be left of it.
func printTable(w io.Writer, o options) error {
	t, err := internet.ReadTable(o.prefixToAS, o.relations)
	if err != nil {
		return err
	}
	if t.All == 0 {
		return fmt.Errorf("%s has no IPv4 prefix with one origin", o.prefixToAS)
	}
	for _, x := range []struct {
		what string
		n    int
	}{
		{"prefixes", t.All}, {"of multihomed stubs", t.Multihomed}, {"  inside another prefix", t.Extra},
		{"of single-homed stubs", t.SingleHomed}, {"of transit networks", t.Transit}, {"  inside another of theirs", t.TransitSpecifics},
		{"of origins without known relations", t.Unknown},
	} {
		fmt.Fprintf(w, "%-48s %9d %5.1f %%\n", x.what, x.n, 100*float64(x.n)/float64(t.All))
	}
	stubs := t.Multihomed + t.SingleHomed
	for _, x := range []struct {
		what string
		gone int
	}{
		{"without the extra ones of multihomed stubs", t.Extra}, {"without all of multihomed stubs", t.Multihomed},
		{"without all of stubs", stubs}, {"and without the inner ones of transit", stubs + t.TransitSpecifics},
		{"each origin aggregates what it can", t.All - t.Aggregated},
	} {
		left, factor := t.Without(x.gone)
		if _, err := fmt.Fprintf(w, "%-48s %9d x%.2f\n", x.what, left, factor); err != nil {
			return err
		}
	}
	return nil
}
