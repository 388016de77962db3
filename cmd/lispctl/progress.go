package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// How often progress is shown: on a terminal as a bar that moves, elsewhere as
// a line now and then.
const (
	barInterval  = 200 * time.Millisecond
	lineInterval = 5 * time.Second
	barWidth     = 30
)

// startProgress shows how far done is on the way to total, until stop is
// called; stop leaves the cursor at the beginning of a line.
func startProgress(w io.Writer, total uint64, done *atomic.Uint64) (stop func()) {
	every, terminal := lineInterval, isTerminal(w)
	if terminal {
		every = barInterval
	}
	started := time.Now()
	show := func() {
		line := progressLine(done.Load(), total, time.Since(started))
		if terminal {
			fmt.Fprintf(w, "\r%s %s\x1b[K", bar(done.Load(), total), line)
		} else {
			fmt.Fprintln(w, line)
		}
	}
	ended, finished := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(finished)
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				show()
			case <-ended:
				if terminal {
					show()
					fmt.Fprintln(w)
				}
				return
			}
		}
	}()
	return func() { close(ended); <-finished }
}

// isTerminal reports whether w is a terminal.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

func bar(done, total uint64) string {
	n := int(barWidth * min(done, total) / max(total, 1))
	return "[" + strings.Repeat("=", n) + strings.Repeat(" ", barWidth-n) + "]"
}

// progressLine says how much is done, how fast, and how long the rest takes at
// that speed.
func progressLine(done, total uint64, took time.Duration) string {
	line := fmt.Sprintf("%d of %d (%d %%)", done, total, 100*done/max(total, 1))
	rate := float64(done) / max(took.Seconds(), 1e-9)
	if done == 0 || done > total {
		return line
	}
	rest := time.Duration(float64(total-done) / rate * float64(time.Second))
	return fmt.Sprintf("%s, %.0f/s, %s to go", line, rate, short(rest))
}
