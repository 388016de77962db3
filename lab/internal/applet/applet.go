// Package applet holds the small network tools that a lab needs on a machine
// that has none: ip, sysctl, ping, ttcp, capture and bgprouter. The lab's program acts
// as one of them when it is called by that name; nodes have them at the end
// of their PATH, so that the tools of the system win where they exist.
//
// ip and sysctl understand a part of what iproute2 and procps do, in the same
// words, and refuse the rest with a message that says what they know.
package applet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"syscall"
)

// Streams are the standard streams of an applet.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
}

type applet func(ctx context.Context, args []string, s Streams) error

var applets = map[string]applet{
	"ip":      runIP,
	"sysctl":  runSysctl,
	"ping":    func(ctx context.Context, args []string, s Streams) error { return runPing(ctx, 0, args, s) },
	"ping6":   func(ctx context.Context, args []string, s Streams) error { return runPing(ctx, 6, args, s) },
	"ttcp":    runTTCP,
	"capture": runCapture,

	"bgprouter": runBGPRouter,
}

// Names lists the applets.
func Names() []string {
	var names []string
	for n := range applets {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// exitError ends an applet with a status other than 1; its message has been
// printed already.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// usageError is a wrong command line: status 2.
type usageError string

func (e usageError) Error() string { return string(e) }

func usagef(format string, args ...any) error { return usageError(fmt.Sprintf(format, args...)) }

// Known tells whether there is an applet called name.
func Known(name string) bool { return applets[name] != nil }

// Run runs the applet called name until it is done or ctx ends, and returns
// its exit status. It works in the network namespace of the calling thread.
func Run(ctx context.Context, name string, args []string, s Streams) int {
	f := applets[name]
	if f == nil {
		fmt.Fprintf(s.Err, "there is no applet %q; applets are %v\n", name, Names())
		return 127
	}
	err := f(ctx, args, s)
	var code exitError
	var usage usageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &code):
		return int(code)
	case errors.As(err, &usage):
		fmt.Fprintf(s.Err, "%s: %v\n", name, err)
		return 2
	}
	fmt.Fprintf(s.Err, "%s: %v\n", name, err)
	return 1
}

// Main runs the applet called name as the program itself; SIGINT, SIGTERM and
// SIGHUP end its context.
func Main(name string, args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	return Run(ctx, name, args, Streams{os.Stdin, os.Stdout, os.Stderr})
}
