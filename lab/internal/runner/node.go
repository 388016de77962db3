package runner

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/eidolon-lisp/eidolon/lab/internal/applet"
	"github.com/eidolon-lisp/eidolon/lab/internal/clab"
)

// nodeSpec is what the keeper tells a node on its standard input.
type nodeSpec struct {
	Node     *clab.Node
	StateDir string // of the lab
	Hosts    string // content of /etc/hosts
}

// nodeReady is what the node answers on its standard output.
type nodeReady struct {
	Error string `json:"error,omitempty"`
}

// node is the first process of a node.
type node struct {
	spec   nodeSpec
	reaper *reaper
	env    []string
	logf   func(string, ...any)

	log *os.File // what the node's command says

	commandMu  sync.Mutex
	command    *child // nil: none, or it could not be started
	commandErr error

	mu       sync.Mutex
	quitting chan struct{} // closed by opQuit
}

// runNode is the program of a node. It returns when the node is to end.
func runNode() int {
	logger := log.New(os.Stderr, "", log.LstdFlags|log.Lmicroseconds)
	var spec nodeSpec
	err := json.NewDecoder(os.Stdin).Decode(&spec)
	if err != nil {
		logger.Printf("node: read what to be: %v", err)
		return 1
	}
	logger.SetPrefix(spec.Node.Name + ": ")
	n := &node{spec: spec, reaper: newReaper(), logf: logger.Printf, quitting: make(chan struct{})}
	chld := make(chan os.Signal, 1)
	signal.Notify(chld, syscall.SIGCHLD)
	go n.reaper.run(chld)
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	passOver(syscall.SIGHUP, syscall.SIGINT, syscall.SIGPIPE)

	ln, err := n.setUp()
	ready := nodeReady{}
	if err != nil {
		ready.Error = err.Error()
	}
	if werr := json.NewEncoder(os.Stdout).Encode(ready); err == nil {
		err = werr
	}
	if err != nil {
		logger.Print(err)
		return 1
	}
	detachStreams(logger)
	go n.serve(ln)
	select {
	case <-term:
		n.quit(quitGrace)
	case <-n.quitting:
	}
	return 0
}

const quitGrace = 5 * time.Second

// detachStreams closes the streams towards the keeper.
func detachStreams(logger *log.Logger) {
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		logger.Printf("open /dev/null: %v", err)
		return
	}
	defer null.Close()
	unix.Dup2(int(null.Fd()), 0)
	unix.Dup2(int(null.Fd()), 1)
}

// setUp makes the node: its file system, its network settings, its command.
func (n *node) setUp() (*net.UnixListener, error) {
	nd := n.spec.Node
	// Both are opened while the host's file system can still be reached.
	ln, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: nodePath(n.spec.StateDir, nd.Name, "socket"), Net: "unixpacket"})
	if err != nil {
		return nil, fmt.Errorf("open the node's socket: %w", err)
	}
	ln.SetUnlinkOnClose(false)
	if n.log, err = os.OpenFile(nodePath(n.spec.StateDir, nd.Name, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600); err != nil {
		return nil, fmt.Errorf("open the node's log: %w", err)
	}
	if err := unix.Sethostname([]byte(nd.Name)); err != nil {
		return nil, fmt.Errorf("set the host name: %w", err)
	}
	unix.Umask(0o022)
	if err := buildRoot(nd, n.spec.StateDir, nodePath(n.spec.StateDir, nd.Name, "root"), n.spec.Hosts, n.logf); err != nil {
		return nil, err
	}
	if err := n.network(); err != nil {
		return nil, err
	}
	n.env = environment(nd)
	os.Clearenv()
	for _, kv := range n.env {
		k, v, _ := strings.Cut(kv, "=")
		os.Setenv(k, v) // LookPath uses it
	}
	if len(nd.Command) > 0 {
		n.begin()
	}
	return ln, nil
}

// begin starts the node's command, unless it runs.
func (n *node) begin() {
	n.commandMu.Lock()
	defer n.commandMu.Unlock()
	if n.command != nil {
		select {
		case <-n.command.done:
		default:
			return
		}
	}
	n.command, n.commandErr = n.start(n.spec.Node.Command, nil, [3]*os.File{nil, n.log, n.log}, false)
	if n.commandErr != nil {
		fmt.Fprintf(n.log, "%v\n", n.commandErr)
	}
}

// running returns what became of the node's command.
func (n *node) running() (*child, error) {
	n.commandMu.Lock()
	defer n.commandMu.Unlock()
	return n.command, n.commandErr
}

func environment(nd *clab.Node) []string {
	env := map[string]string{"PATH": nodePathEV, "HOME": "/root", "USER": "root", "LANG": "C.UTF-8", "HOSTNAME": nd.Name, "TERM": "dumb"}
	for k, v := range nd.Env {
		env[k] = v
	}
	var list []string
	for k, v := range env {
		list = append(list, k+"="+v)
	}
	slices.Sort(list)
	return list
}

// network turns duplicate address detection off, so that addresses can be
// used at once, brings loopback up, and writes the settings of the topology.
func (n *node) network() error {
	for _, conf := range []string{"all", "default", "lo"} {
		for _, s := range []struct{ name, value string }{{"disable_ipv6", "0"}, {"accept_dad", "0"}} {
			err := applet.SetSysctl("net.ipv6.conf."+conf+"."+s.name, s.value)
			if err != nil && !errors.Is(err, os.ErrNotExist) { // a kernel without IPv6
				return err
			}
		}
	}
	if out, code := n.line([]string{"ip", "link", "set", "lo", "up"}); code != 0 {
		return fmt.Errorf("bring loopback up: %s", out)
	}
	keys := make([]string, 0, len(n.spec.Node.Sysctls))
	for k := range n.spec.Node.Sysctls {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		if err := applet.SetSysctl(k, n.spec.Node.Sysctls[k]); err != nil {
			return err
		}
	}
	return nil
}

// start runs a program with the given streams (nil: /dev/null) as the leader
// of a session of its own.
func (n *node) start(argv, env []string, streams [3]*os.File, tty bool) (*child, error) {
	if len(argv) == 0 || argv[0] == "" {
		return nil, errors.New("no command given")
	}
	path, err := exec.LookPath(argv[0])
	if err != nil {
		return nil, err
	}
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	files := make([]*os.File, 3)
	for i, f := range streams {
		files[i] = f
		if f == nil {
			files[i] = null
		}
	}
	attr := &os.ProcAttr{
		Dir:   "/root",
		Env:   append(slices.Clone(n.env), env...),
		Files: files,
		Sys:   &syscall.SysProcAttr{Setsid: true, Setctty: tty, Ctty: 0},
	}
	c, err := n.reaper.start(path, argv, attr)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", argv[0], err)
	}
	return c, nil
}

// line runs one command line to its end and returns what it printed. ip and
// sysctl are played by the applets, whatever the system has.
func (n *node) line(words []string) (output string, exit int) {
	if len(words) > 0 && (words[0] == "ip" || words[0] == "sysctl") {
		var out bytes.Buffer
		code := applet.Run(context.Background(), words[0], words[1:], applet.Streams{In: strings.NewReader(""), Out: &out, Err: &out})
		return out.String(), code
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err.Error(), 126
	}
	defer r.Close()
	c, err := n.start(words, nil, [3]*os.File{nil, w, w}, false)
	w.Close()
	if err != nil {
		return err.Error() + "\n", 127
	}
	var out bytes.Buffer
	copied := make(chan struct{})
	go func() {
		io.Copy(&out, io.LimitReader(r, 64<<10))
		io.Copy(io.Discard, r)
		close(copied)
	}()
	<-c.done
	// A process that the line left in the background may hold the pipe open.
	r.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	<-copied
	return out.String(), c.exit
}

func (n *node) serve(ln *net.UnixListener) {
	for {
		c, err := ln.AcceptUnix()
		if err != nil {
			n.logf("accept: %v", err)
			return
		}
		go func() {
			defer c.Close()
			if err := n.handle(c); err != nil && !errors.Is(err, io.EOF) {
				n.logf("a request: %v", err)
			}
		}()
	}
}

func (n *node) handle(c *net.UnixConn) error {
	var req request
	files, err := receive(c, &req)
	if err != nil {
		return err
	}
	defer func() { closeAll(files) }()
	switch req.Op {
	case opExec:
		if len(files) != 3 {
			return send(c, reply{Error: fmt.Sprintf("%d files came along, want 3", len(files))})
		}
		p, err := n.start(req.Argv, req.Env, [3]*os.File(files), req.TTY)
		closeAll(files)
		files = nil
		if err != nil {
			return send(c, reply{Error: err.Error(), Exit: 127})
		}
		return n.attend(c, p)
	case opLines:
		for _, words := range req.Lines {
			out, code := n.line(words)
			if err := send(c, reply{Exit: code, Output: out}); err != nil {
				return err
			}
		}
		return nil
	case opStatus:
		st := n.status()
		return send(c, reply{Status: &st})
	case opBegin:
		if len(n.spec.Node.Command) == 0 {
			return send(c, reply{Error: "it has no command"})
		}
		n.begin()
		st := n.status()
		return send(c, reply{Status: &st})
	case opStop:
		if p, _ := n.running(); p != nil {
			p.stop(req.Grace)
		}
		st := n.status()
		return send(c, reply{Status: &st})
	case opQuit:
		n.quit(req.Grace)
		return nil
	}
	return send(c, reply{Error: fmt.Sprintf("request %q is not known", req.Op)})
}

// attend follows an executed command: signals go to it, its status goes back,
// and it does not outlive the connection.
func (n *node) attend(c *net.UnixConn, p *child) error {
	left := make(chan struct{})
	go func() {
		defer close(left)
		for {
			var req request
			files, err := receive(c, &req)
			closeAll(files)
			if err != nil {
				return
			}
			if req.Op == opSignal && req.Signal > 0 {
				p.signal(syscall.Signal(req.Signal))
			}
		}
	}()
	select {
	case <-p.done:
		err := send(c, reply{Exit: p.exit})
		c.Close()
		<-left
		return err
	case <-left:
		p.signal(syscall.SIGHUP)
		p.stop(time.Second)
		return nil
	}
}

func (n *node) status() Status {
	st := Status{Command: n.spec.Node.Command}
	p, err := n.running()
	if err != nil {
		st.Failure = err.Error()
	}
	if p == nil {
		return st
	}
	st.PID = p.pid
	select {
	case <-p.done:
		st.Exit, st.Ran = p.exit, p.ended.Sub(p.started)
	default:
		st.Running, st.Ran = true, time.Since(p.started)
	}
	return st
}

// quit ends the node's command in an orderly way; the kernel ends the rest of
// the node when this process returns.
func (n *node) quit(grace time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	select {
	case <-n.quitting:
		return
	default:
	}
	if p, _ := n.running(); p != nil {
		p.stop(grace)
	}
	close(n.quitting)
}
