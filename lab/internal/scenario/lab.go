package scenario

import (
	"context"
	"fmt"
	"os"
	"syscall"

	"github.com/eidolon-lisp/eidolon/lab/internal/clab"
	"github.com/eidolon-lisp/eidolon/lab/internal/container"
	"github.com/eidolon-lisp/eidolon/lab/internal/runner"
)

// lab is where a script is played. Its methods are those of runner.Lab.
type lab interface {
	Run(ctx context.Context, node string, argv ...string) (runner.Result, error)
	Start(node string, argv []string, stdout, stderr *os.File) (process, error)
	Status(node string) (runner.Status, error)
	StartCommand(node string) (runner.Status, error)
	Down() error

	// Log returns what the command of a node has said, and what is said of the
	// lab as a whole where the name is empty.
	Log(node string) ([]byte, error)
}

// process is a command being executed in a node.
type process interface {
	Signal(syscall.Signal) error
	Wait() (int, error)
	Close()
}

// namespaces is a lab of our own runner.
type namespaces struct{ *runner.Lab }

func inNamespaces(ctx context.Context, top *clab.Topology, say func(string, ...any)) (lab, error) {
	if err := runner.Preflight(top); err != nil { // before time goes into building
		return nil, err
	}
	binaries, err := runner.Build(ctx, top, say)
	if err != nil {
		return nil, err
	}
	removeStale()
	l, err := runner.Up(ctx, top, runner.Options{
		Name: fmt.Sprintf("%s%s-%d", namePrefix, top.Name, os.Getpid()), Binaries: binaries, Lifeline: true,
	})
	if err != nil {
		return nil, err
	}
	return namespaces{l}, nil
}

func (n namespaces) Start(node string, argv []string, stdout, stderr *os.File) (process, error) {
	p, err := n.Lab.Start(node, argv, nil, [3]*os.File{nil, stdout, stderr}, false)
	if err != nil {
		return nil, err
	}
	return p, nil
}

func (n namespaces) Log(node string) ([]byte, error) {
	if node == "" {
		return os.ReadFile(n.KeeperLog())
	}
	return os.ReadFile(n.LogPath(node))
}

// containers is a lab of containerlab.
type containers struct{ *container.Lab }

func inContainers(ctx context.Context, top *clab.Topology, say func(string, ...any)) (lab, error) {
	say("containerlab deploy --topo %s", top.File)
	l, err := container.Deploy(ctx, top)
	if err != nil {
		l.Down() // what came to be of it
		return nil, err
	}
	return containers{l}, nil
}

func (c containers) Start(node string, argv []string, stdout, stderr *os.File) (process, error) {
	p, err := c.Lab.Start(node, argv, stdout, stderr)
	if err != nil {
		return nil, err
	}
	return p, nil
}

func (c containers) Log(node string) ([]byte, error) {
	if node == "" {
		return nil, nil
	}
	return c.Lab.Log(node)
}
