package main

import (
	"bytes"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/spf13/cobra"
)

// Bounds of --watch, and what it is when nothing is said.
const (
	usualWatch    = 2 * time.Second
	shortestWatch = 100 * time.Millisecond
	longestWatch  = 24 * time.Hour
)

// interval is how often a command repeats itself; 0 is once and no more. It
// implements pflag.Value.
type interval time.Duration

// watchFlag adds --watch to a command.
func watchFlag(cmd *cobra.Command) *interval {
	i := new(interval)
	cmd.Flags().VarP(i, "watch", "w", fmt.Sprintf("repeat each so many seconds until interrupted; %.0f if none are given", usualWatch.Seconds()))
	return i
}

// watchArguments gives a --watch or -w that no time follows the usual one: pflag
// takes either what stands behind a space or nothing, and both are wanted.
func watchArguments(root *cobra.Command, args []string) []string {
	cmd, _, err := root.Find(args)
	if err != nil {
		return args
	}
	f := cmd.Flags().Lookup("watch")
	if f == nil {
		return args
	}
	var out []string
	for i, a := range args {
		if a == "--" {
			return append(out, args[i:]...)
		}
		if a == "--"+f.Name || a == "-"+f.Shorthand {
			if i == len(args)-1 || !isTime(args[i+1]) {
				a = fmt.Sprintf("--%s=%v", f.Name, usualWatch)
			}
		}
		out = append(out, a)
	}
	return out
}

// isTime reports whether s is meant to be a time, also one that is refused.
func isTime(s string) bool {
	_, err := time.ParseDuration(s)
	_, nerr := strconv.ParseFloat(s, 64)
	return err == nil || nerr == nil
}

func (i *interval) Type() string { return "seconds" }

func (i *interval) String() string {
	if i == nil || *i == 0 {
		return ""
	}
	return time.Duration(*i).String()
}

func (i *interval) Set(s string) error {
	d, err := time.ParseDuration(s)
	if n, nerr := strconv.ParseFloat(s, 64); nerr == nil && math.Abs(n) < 1e6 {
		d, err = time.Duration(n*float64(time.Second)), nil
	}
	if err != nil || d < shortestWatch || d > longestWatch {
		return fmt.Errorf("found %q, expected seconds from 0.1 to 86400, or a duration such as 1m", s)
	}
	*i = interval(d)
	return nil
}

// repeat calls show once, or until the command ends. On a terminal each round
// replaces the one before; elsewhere they follow one another, apart from each
// other by an empty line between tables and by --- in YAML. A first round that
// fails ends it. Later ones are told and tried again, since daemons are
// restarted.
func (i *interval) repeat(cmd *cobra.Command, o output, show func(output) error) error {
	if *i == 0 {
		return show(o)
	}
	ctx, terminal := cmd.Context(), isTerminal(o.w)
	tick := time.NewTicker(time.Duration(*i))
	defer tick.Stop()
	for n := 0; ; n++ {
		// What is shown must be there whole before the old is wiped off.
		var round bytes.Buffer
		to := o
		to.w = &round
		switch {
		case terminal && !o.structured():
			fmt.Fprintf(&round, "%severy %v: %s    %s\n\n", clearScreen, time.Duration(*i), cmd.CommandPath(), time.Now().Format(time.TimeOnly))
		case terminal:
			round.WriteString(clearScreen)
		case n > 0 && o.format == formatYAML:
			fmt.Fprintln(&round, "---")
		case n > 0 && !o.structured():
			fmt.Fprintln(&round)
		}
		err := show(to)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && n == 0:
			return err
		case err != nil && terminal:
			fmt.Fprintln(&round, "lispctl:", err)
		case err != nil:
			round.Reset()
			fmt.Fprintln(cmd.ErrOrStderr(), "lispctl:", err)
		}
		if _, err := o.w.Write(round.Bytes()); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}
