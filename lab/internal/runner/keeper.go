package runner

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/eidolon-lisp/eidolon/lab/internal/clab"
)

// Files that the keeper inherits.
const (
	progressFD = 3 // takes progress messages until the lab is up
	lockFD     = 4 // holds the lock of the state directory
	lifelineFD = 5 // ends when the starter does
)

// progress is one line from the keeper to its starter.
type progress struct {
	Say   string `json:"say,omitempty"`
	Error string `json:"error,omitempty"`
	Ready bool   `json:"ready,omitempty"`
}

// keeper holds a lab up.
type keeper struct {
	dir  string
	spec spec
	log  *log.Logger

	mu    sync.Mutex
	nodes map[string]*exec.Cmd // running node processes
	gone  map[string]chan struct{}

	stopping chan struct{} // closed when the nodes are being ended
}

// runKeeper is the program of the keeper.
func runKeeper(dir string) int {
	for _, fd := range []int{progressFD, lockFD, lifelineFD} {
		syscall.CloseOnExec(fd)
	}
	k := &keeper{dir: dir, log: log.New(os.Stderr, "keeper: ", log.LstdFlags|log.Lmicroseconds|log.Lmsgprefix),
		nodes: map[string]*exec.Cmd{}, gone: map[string]chan struct{}{}, stopping: make(chan struct{})}
	out := os.NewFile(progressFD, "progress")
	tell := json.NewEncoder(out)
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	passOver(syscall.SIGHUP, syscall.SIGINT, syscall.SIGPIPE)
	stop := make(chan struct{}, 1)

	ctl, err := k.up(func(format string, args ...any) { tell.Encode(progress{Say: fmt.Sprintf(format, args...)}) }, stop)
	if err != nil {
		k.shutDown()
		tell.Encode(progress{Error: err.Error()})
		return 1
	}
	defer ctl.Close()
	tell.Encode(progress{Ready: true})
	out.Close()
	var starterGone <-chan struct{}
	if k.spec.Lifeline {
		ch := make(chan struct{})
		starterGone = ch
		go func() {
			io.Copy(io.Discard, os.NewFile(lifelineFD, "lifeline"))
			close(ch)
		}()
	}
	select {
	case <-term:
	case <-stop:
	case <-starterGone:
	}
	k.shutDown()
	if k.spec.Lifeline {
		if err := os.RemoveAll(dir); err != nil {
			k.log.Print(err)
		}
	}
	return 0
}

// up starts the nodes, then joins them, then runs their exec lines, in the
// order of containerlab: a node's command starts before its links are there.
func (k *keeper) up(say func(string, ...any), stop chan<- struct{}) (net.Listener, error) {
	var err error
	if k.spec, err = readSpec(k.dir); err != nil {
		return nil, err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return nil, fmt.Errorf("separate the mounts from the host's: %w", err)
	}
	ctl, err := net.Listen("unix", filepath.Join(k.dir, "keeper.sock"))
	if err != nil {
		return nil, fmt.Errorf("open the keeper's socket: %w", err)
	}
	go k.control(ctl, stop)
	top := k.spec.Topology
	hosts := hostsFile(top)
	pids := map[string]int{}
	for _, n := range top.Nodes {
		pid, err := k.startNode(n, hosts)
		if err != nil {
			return ctl, fmt.Errorf("node %s: %w", n.Name, err)
		}
		pids[n.Name] = pid
		if len(n.Command) > 0 {
			say("node %-12s started: %s", n.Name, strings.Join(n.Command, " "))
		} else {
			say("node %-12s started", n.Name)
		}
	}
	for _, l := range top.Links {
		if err := k.join(l, pids); err != nil {
			return ctl, fmt.Errorf("link %s - %s: %w", l.A, l.B, err)
		}
		say("link %s - %s, MTU %d", l.A, l.B, l.MTU)
	}
	for _, n := range top.Nodes {
		if len(n.Exec) == 0 {
			continue
		}
		if err := k.execLines(n); err != nil {
			return ctl, err
		}
		say("node %-12s configured by %d exec lines", n.Name, len(n.Exec))
	}
	return ctl, nil
}

// startNode starts the process of a node and waits until it is set up. The
// process number is that of the keeper's namespace.
func (k *keeper) startNode(n *clab.Node, hosts string) (int, error) {
	cmd := exec.Command(filepath.Join(k.dir, "bin", "lab"))
	cmd.Args = []string{nodeName}
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid:     true,
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		return 0, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("start its process: %w", err)
	}
	err = json.NewEncoder(in).Encode(nodeSpec{Node: n, StateDir: k.dir, Hosts: hosts})
	in.Close()
	var ready nodeReady
	if err == nil {
		err = json.NewDecoder(out).Decode(&ready)
	}
	if err == nil && ready.Error != "" {
		err = errors.New(ready.Error)
	}
	if err != nil {
		cmd.Process.Kill()
		cmd.Wait()
		return 0, fmt.Errorf("set up: %w", err)
	}
	gone := make(chan struct{})
	k.mu.Lock()
	k.nodes[n.Name], k.gone[n.Name] = cmd, gone
	k.mu.Unlock()
	go func() {
		err := cmd.Wait()
		select {
		case <-k.stopping:
		default:
			k.log.Printf("node %s ended by itself: %v", n.Name, err)
		}
		close(gone)
	}()
	return cmd.Process.Pid, nil
}

// join makes a veth pair whose ends are in the two nodes, and brings it up.
func (k *keeper) join(l clab.Link, pids map[string]int) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = l.A.Interface, l.MTU
	attrs.Namespace = netlink.NsPid(pids[l.A.Node])
	veth := netlink.NewVeth(attrs)
	veth.PeerName, veth.PeerMTU = l.B.Interface, uint32(l.MTU)
	veth.PeerNamespace = netlink.NsPid(pids[l.B.Node])
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("make a veth pair: %w", err)
	}
	for _, e := range []clab.Endpoint{l.A, l.B} {
		replies, err := runLines(k.dir, e.Node, [][]string{{"ip", "link", "set", e.Interface, "up"}})
		if err != nil {
			return err
		}
		if replies[0].Exit != 0 {
			return fmt.Errorf("bring %s up: %s", e, replies[0].Output)
		}
	}
	return nil
}

// execLines runs the exec lines of a node; all that fail are reported.
func (k *keeper) execLines(n *clab.Node) error {
	var lines [][]string
	for _, l := range n.Exec {
		lines = append(lines, l.Words)
	}
	replies, err := runLines(k.dir, n.Name, lines)
	if err != nil {
		return fmt.Errorf("node %s: run its exec lines: %w", n.Name, err)
	}
	var errs []error
	for i, r := range replies {
		l := n.Exec[i]
		if r.Exit != 0 {
			errs = append(errs, fmt.Errorf("%s: node %s: exec %q ended with status %d: %s", l.At, n.Name, l.Text, r.Exit, strings.TrimSpace(r.Output)))
		} else if r.Output != "" {
			k.log.Printf("node %s: exec %q: %s", n.Name, l.Text, strings.TrimSpace(r.Output))
		}
	}
	return errors.Join(errs...)
}

// control takes the request to stop: any connection is one.
func (k *keeper) control(ln net.Listener, stop chan<- struct{}) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		c.Close()
		select {
		case stop <- struct{}{}:
		default:
		}
	}
}

// shutDown ends all nodes: their commands in an orderly way, and whatever is
// left with force.
func (k *keeper) shutDown() {
	close(k.stopping)
	k.mu.Lock()
	defer k.mu.Unlock()
	var wg sync.WaitGroup
	for name, cmd := range k.nodes {
		gone := k.gone[name]
		wg.Go(func() {
			cmd.Process.Signal(syscall.SIGTERM)
			select {
			case <-gone:
			case <-time.After(quitGrace + 2*time.Second):
				k.log.Printf("node %s does not end; it is killed", name)
				cmd.Process.Kill()
				<-gone
			}
		})
	}
	wg.Wait()
}

// passOver makes the process live on through signals. They are not ignored,
// because what is ignored stays so in the programs that it starts.
func passOver(signals ...os.Signal) { signal.Notify(make(chan os.Signal, 1), signals...) }
