// Lab plays containerlab topologies in network namespaces, with nothing but
// Go and Linux, and shows Eidolon at work:
//
//	go run ./lab demo                  two sites talk, step by step, checked
//	go run ./lab scenario NAME         uplinks fail, a laptop roams; checked
//	go run ./lab up FILE.clab.yml      bring a topology up, to work by hand
//	go run ./lab exec NODE COMMAND...  execute a command in a node
//	go run ./lab logs NODE             what the command of a node has said
//	go run ./lab ps                    the labs that are up, and their nodes
//	go run ./lab graph FILE.clab.yml   draw a topology
//	go run ./lab down                  take a lab down
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/eidolon-lisp/eidolon/lab/internal/runner"
)

// statusError is the exit status of a command executed in a node.
type statusError int

func (s statusError) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

func main() {
	if status, internal := runner.Internal(os.Args); internal {
		os.Exit(status)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	err := newCommand().ExecuteContext(ctx)
	var status statusError
	switch {
	case errors.As(err, &status):
		os.Exit(int(status))
	case err != nil:
		fmt.Fprintln(os.Stderr, "lab:", err)
		os.Exit(1)
	}
}
