package runner

import (
	"os"
	"sync"
	"syscall"
	"time"
)

// reaper starts the processes of a node and collects all that end in it: its
// own and the orphans that fall to the first process of a PID namespace.
type reaper struct {
	mu       sync.Mutex
	children map[int]*child
}

// child is a process that the reaper has started.
type child struct {
	pid     int
	started time.Time

	done  chan struct{} // closed when it has ended; then what follows is set
	exit  int           // status, or 128 + the signal that killed it
	ended time.Time
}

func newReaper() *reaper { return &reaper{children: map[int]*child{}} }

// start runs argv, whose first word is the program's path, as the leader of a
// session of its own.
func (r *reaper) start(path string, argv []string, attr *os.ProcAttr) (*child, error) {
	r.mu.Lock() // the child must be known before it can be collected
	defer r.mu.Unlock()
	p, err := os.StartProcess(path, argv, attr)
	if err != nil {
		return nil, err
	}
	c := &child{pid: p.Pid, started: time.Now(), done: make(chan struct{})}
	r.children[p.Pid] = c
	p.Release()
	return c, nil
}

// run collects processes until signals is closed; a SIGCHLD in it says that
// there is something to collect.
func (r *reaper) run(signals <-chan os.Signal) {
	for range signals {
		r.collect()
	}
}

func (r *reaper) collect() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		var ws syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &ws, syscall.WNOHANG, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		c := r.children[pid]
		if c == nil {
			continue // an orphan
		}
		delete(r.children, pid)
		c.exit = ws.ExitStatus()
		if ws.Signaled() {
			c.exit = 128 + int(ws.Signal())
		}
		c.ended = time.Now()
		close(c.done)
	}
}

// signal sends sig to all processes of the child's group, unless it has ended.
func (c *child) signal(sig syscall.Signal) {
	select {
	case <-c.done:
	default:
		syscall.Kill(-c.pid, sig)
	}
}

// stop ends the child: SIGTERM for itself, as a service manager does, and if
// it has not ended after grace, SIGKILL for its group.
func (c *child) stop(grace time.Duration) {
	select {
	case <-c.done:
	default:
		syscall.Kill(c.pid, syscall.SIGTERM)
	}
	select {
	case <-c.done:
		return
	case <-time.After(grace):
	}
	c.signal(syscall.SIGKILL)
	<-c.done
}
