package runner

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"
)

func dialNode(dir, node string) (*net.UnixConn, error) {
	c, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: nodePath(dir, node, "socket"), Net: "unixpacket"})
	if err != nil {
		return nil, fmt.Errorf("reach node %s: %w", node, err)
	}
	return c, nil
}

// ask sends a request without files and reads the only reply.
func ask(dir, node string, req request) (reply, error) {
	var r reply
	c, err := dialNode(dir, node)
	if err != nil {
		return r, err
	}
	defer c.Close()
	if err := send(c, req); err != nil {
		return r, fmt.Errorf("ask node %s: %w", node, err)
	}
	if _, err := receive(c, &r); err != nil {
		return r, fmt.Errorf("hear from node %s: %w", node, err)
	}
	if r.Error != "" {
		return r, fmt.Errorf("node %s: %s", node, r.Error)
	}
	return r, nil
}

// runLines runs command lines in a node and returns a reply for each.
func runLines(dir, node string, lines [][]string) ([]reply, error) {
	c, err := dialNode(dir, node)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if err := send(c, request{Op: opLines, Lines: lines}); err != nil {
		return nil, err
	}
	replies := make([]reply, len(lines))
	for i := range replies {
		if _, err := receive(c, &replies[i]); err != nil {
			return nil, err
		}
	}
	return replies, nil
}

// Status tells how the command of a node is.
func (l *Lab) Status(node string) (Status, error) {
	if err := l.check(node); err != nil {
		return Status{}, err
	}
	r, err := ask(l.Dir, node, request{Op: opStatus})
	if err != nil {
		return Status{}, err
	}
	return *r.Status, nil
}

// StopCommand ends the command of a node with SIGTERM, and with SIGKILL if it
// has not ended after grace. The node stays.
func (l *Lab) StopCommand(node string, grace time.Duration) (Status, error) {
	if err := l.check(node); err != nil {
		return Status{}, err
	}
	r, err := ask(l.Dir, node, request{Op: opStop, Grace: grace})
	if err != nil {
		return Status{}, err
	}
	return *r.Status, nil
}

// StartCommand starts the command of a node again, if it has ended.
func (l *Lab) StartCommand(node string) (Status, error) {
	if err := l.check(node); err != nil {
		return Status{}, err
	}
	r, err := ask(l.Dir, node, request{Op: opBegin})
	if err != nil {
		return Status{}, err
	}
	return *r.Status, nil
}

// Process is a command being executed in a node.
type Process struct {
	conn *net.UnixConn
}

// Start executes a command in a node with the given standard streams; a nil
// stream is /dev/null. If tty is set the streams are one terminal, which
// becomes the command's controlling terminal. The command does not outlive
// the connection: Wait or Close must be called.
func (l *Lab) Start(node string, argv, env []string, streams [3]*os.File, tty bool) (*Process, error) {
	if err := l.check(node); err != nil {
		return nil, err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	for i, f := range streams {
		if f == nil {
			streams[i] = null
		}
	}
	c, err := dialNode(l.Dir, node)
	if err != nil {
		return nil, err
	}
	if err := send(c, request{Op: opExec, Argv: argv, Env: env, TTY: tty}, streams[:]...); err != nil {
		c.Close()
		return nil, fmt.Errorf("execute in node %s: %w", node, err)
	}
	return &Process{conn: c}, nil
}

// Signal sends a signal to the command and its children.
func (p *Process) Signal(sig syscall.Signal) error {
	return send(p.conn, request{Op: opSignal, Signal: int(sig)})
}

// Wait waits for the command's end and returns its status (128 + the signal
// if one killed it). A command that could not be started is an error and
// status 127.
func (p *Process) Wait() (int, error) {
	defer p.conn.Close()
	var r reply
	if _, err := receive(p.conn, &r); err != nil {
		return 1, fmt.Errorf("the node ended: %w", err)
	}
	if r.Error != "" {
		return r.Exit, errors.New(r.Error)
	}
	return r.Exit, nil
}

// Close leaves the command, which is then hung up.
func (p *Process) Close() { p.conn.Close() }

// Result is what a command in a node has said.
type Result struct {
	Exit           int
	Stdout, Stderr []byte
}

// Run executes a command in a node to its end, or to the end of ctx, which
// is an error.
func (l *Lab) Run(ctx context.Context, node string, argv ...string) (Result, error) {
	var res Result
	var streams [3]*os.File
	var bufs [3]bytes.Buffer
	copied := make(chan error, 2)
	var readers []*os.File
	for i := 1; i <= 2; i++ {
		r, w, err := os.Pipe()
		if err != nil {
			return res, err
		}
		defer r.Close()
		defer w.Close()
		streams[i] = w
		readers = append(readers, r)
		go func() {
			_, err := io.Copy(&bufs[i], r)
			copied <- err
		}()
	}
	p, err := l.Start(node, argv, nil, streams, false)
	closeAll(streams[1:])
	if err == nil {
		stop := context.AfterFunc(ctx, p.Close)
		res.Exit, err = p.Wait()
		stop()
	}
	if err != nil || ctx.Err() != nil {
		closeAll(readers) // something in the node may still hold the pipes
	}
	<-copied
	<-copied
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	res.Stdout, res.Stderr = bufs[1].Bytes(), bufs[2].Bytes()
	if err != nil {
		return res, fmt.Errorf("%s in node %s: %w", argv[0], node, err)
	}
	return res, nil
}
