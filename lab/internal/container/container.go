// Package container plays topologies with containerlab and Docker, which must be
// there. Nodes are containers of the image that deploy/Dockerfile makes for the
// lab; everything in them is done by docker exec.
package container

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/eidolon-lisp/eidolon/lab/internal/clab"
	"github.com/eidolon-lisp/eidolon/lab/internal/runner"
)

// What the first process of a node (lab/init.sh) writes of the node's command.
const (
	pidFile    = "/run/command.pid"
	statusFile = "/run/command.status"
)

// patience is how long containerlab may take to deploy or to destroy a topology,
// and Docker to answer.
const (
	deployPatience = 5 * time.Minute
	dockerPatience = 30 * time.Second
)

// Lab is a topology that is deployed.
type Lab struct {
	Topology *clab.Topology

	execs atomic.Int64 // names what Start starts
}

// Deploy has containerlab deploy a topology. Down must be called, also after an
// error.
func Deploy(ctx context.Context, top *clab.Topology) (*Lab, error) {
	l := &Lab{Topology: top}
	for _, program := range []string{"containerlab", "docker"} {
		if _, err := exec.LookPath(program); err != nil {
			return l, err
		}
	}
	return l, containerlab(ctx, "deploy", "--topo", top.File)
}

// Down has containerlab destroy the topology.
func (l *Lab) Down() error {
	return containerlab(context.Background(), "destroy", "--cleanup", "--topo", l.Topology.File)
}

func containerlab(ctx context.Context, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, deployPatience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "containerlab", args...)
	cmd.Env = append(os.Environ(), "CLAB_VERSION_CHECK=disable")
	cmd.Dir = filepath.Dir(args[len(args)-1])
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("containerlab %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// name is that of a node's container, with containerlab's own prefix.
func (l *Lab) name(node string) string { return "clab-" + l.Topology.Name + "-" + node }

// docker runs a command of Docker to its end.
func docker(ctx context.Context, args ...string) (runner.Result, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, "docker", args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	res := runner.Result{Stdout: stdout.Bytes(), Stderr: stderr.Bytes()}
	if _, ended := errors.AsType[*exec.ExitError](err); ended && ctx.Err() == nil {
		res.Exit, err = cmd.ProcessState.ExitCode(), nil
	}
	if err != nil {
		return res, fmt.Errorf("docker %s: %w", strings.Join(args, " "), err)
	}
	return res, nil
}

// Run executes a command in a node to its end, or to the end of ctx, which is an
// error.
func (l *Lab) Run(ctx context.Context, node string, argv ...string) (runner.Result, error) {
	return docker(ctx, append([]string{"exec", l.name(node)}, argv...)...)
}

// sh has the shell of a node do something that must work, and returns what it
// said.
func (l *Lab) sh(node, script string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), dockerPatience)
	defer cancel()
	res, err := l.Run(ctx, node, append([]string{"sh", "-c", script, "sh"}, args...)...)
	if err == nil && res.Exit != 0 {
		err = fmt.Errorf("node %s: %q ended with status %d: %s%s", node, script, res.Exit, res.Stdout, res.Stderr)
	}
	return string(res.Stdout), err
}

// Process is a command being executed in a node.
type Process struct {
	lab  *Lab
	node string
	pid  string // the file in the node that has its number
	cmd  *exec.Cmd
}

// Start executes a command in a node, which says what it says to the given files,
// or to nobody. Wait or Close must be called.
func (l *Lab) Start(node string, argv []string, stdout, stderr *os.File) (*Process, error) {
	p := &Process{lab: l, node: node, pid: fmt.Sprintf("/run/exec.%d", l.execs.Add(1))}
	args := append([]string{"exec", l.name(node), "sh", "-c", `echo $$ >"$0"; exec "$@"`, p.pid}, argv...)
	p.cmd = exec.Command("docker", args...)
	if stdout != nil {
		p.cmd.Stdout = stdout
	}
	if stderr != nil {
		p.cmd.Stderr = stderr
	}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("execute in node %s: %w", node, err)
	}
	return p, nil
}

// Signal sends a signal to the command. Docker does not pass on those that its
// client gets.
func (p *Process) Signal(sig syscall.Signal) error {
	_, err := p.lab.sh(p.node, `kill "-$1" "$(cat "$2")"`, strconv.Itoa(int(sig)), p.pid)
	return err
}

// Wait waits for the command's end and returns its status.
func (p *Process) Wait() (int, error) {
	err := p.cmd.Wait()
	if _, ended := errors.AsType[*exec.ExitError](err); ended {
		err = nil
	}
	return p.cmd.ProcessState.ExitCode(), err
}

// Close kills the command.
func (p *Process) Close() {
	p.Signal(syscall.SIGKILL)
	p.cmd.Process.Kill()
	p.cmd.Wait()
}

// Status tells how the command of a node is.
func (l *Lab) Status(node string) (runner.Status, error) {
	st := runner.Status{Command: l.Topology.Node(node).Command}
	said, err := l.sh(node, `cat "$1"; cat "$2" 2>/dev/null || true`, pidFile, statusFile)
	if err != nil {
		return st, err
	}
	if err := parseStatus(said, &st); err != nil {
		return st, fmt.Errorf("node %s says of its command %q: %w", node, said, err)
	}
	return st, nil
}

// parseStatus reads the number of a process and, if it has ended, its status.
func parseStatus(said string, st *runner.Status) (err error) {
	numbers := strings.Fields(said)
	if len(numbers) == 0 || len(numbers) > 2 {
		return errors.New("expected one number or two")
	}
	if st.PID, err = strconv.Atoi(numbers[0]); err != nil {
		return err
	}
	if st.Running = len(numbers) == 1; !st.Running {
		st.Exit, err = strconv.Atoi(numbers[1])
	}
	return err
}

// StartCommand starts the command of a node again, if it has ended.
func (l *Lab) StartCommand(node string) (runner.Status, error) {
	st, err := l.Status(node)
	if err != nil || st.Running {
		return st, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), dockerPatience)
	defer cancel()
	args := append([]string{"exec", "--detach", l.name(node), "/.lab/init", "again"}, st.Command...)
	if _, err := docker(ctx, args...); err != nil {
		return st, err
	}
	for {
		if again, err := l.Status(node); err != nil || again.PID != st.PID {
			return again, err
		}
		select {
		case <-ctx.Done():
			return st, context.Cause(ctx)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Log returns what the command of a node has said.
func (l *Lab) Log(node string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), dockerPatience)
	defer cancel()
	res, err := docker(ctx, "logs", l.name(node))
	return append(res.Stdout, res.Stderr...), err
}
