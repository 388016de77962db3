package rig

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// MapServer is a mapserver process under test, built from this module.
type MapServer struct {
	// Socket is that of its API, Addr where it listens for control messages.
	Socket string
	Addr   netip.AddrPort
	// CPU is the core that it is bound to, with one thread of Go on it; less
	// than 0: any.
	CPU int

	dir string
	Process
}

// NewMapServer builds mapserver and lispctl into dir and writes a configuration
// with the lines of extra, which must not repeat listen, state_dir, api and log.
func NewMapServer(ctx context.Context, dir, extra string) (*MapServer, error) {
	s := &MapServer{dir: dir, CPU: -1, Socket: filepath.Join(dir, "mapserver.sock")}
	build := exec.CommandContext(ctx, "go", "build", "-o", s.binary("")+"/", "github.com/eidolon-lisp/eidolon/cmd/mapserver", "github.com/eidolon-lisp/eidolon/cmd/lispctl")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return nil, fmt.Errorf("go build: %w", err)
	}
	var err error
	if s.Addr, err = FreePort(); err != nil {
		return nil, err
	}
	config := fmt.Sprintf("listen: [%q]\nstate_dir: %s\napi: {socket: %s}\nlog: {level: warn}\n%s",
		s.Addr, filepath.Join(dir, "state"), s.Socket, extra)
	return s, os.WriteFile(s.config(), []byte(config), 0o600)
}

// FreePort returns an address of 127.0.0.1 with a free UDP port; nobody else on
// this machine is likely to take it before it is used.
func FreePort() (netip.AddrPort, error) {
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return netip.AddrPort{}, err
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).AddrPort(), nil
}

func (s *MapServer) binary(name string) string { return filepath.Join(s.dir, "bin", name) }
func (s *MapServer) config() string            { return filepath.Join(s.dir, "mapserver.yml") }

// Start runs the server and returns when its API answers.
func (s *MapServer) Start(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, s.binary("mapserver"), "run", "--config", s.config())
	if err := s.Process.Start(cmd, s.CPU); err != nil {
		return err
	}
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if err := s.Running(); err != nil {
			return err
		}
		if c, err := net.Dial("unix", s.Socket); err == nil {
			return c.Close()
		}
	}
	return errors.New("mapserver did not open its API socket within 30 s")
}

// Lispctl runs a command of lispctl and shows what it prints.
func (s *MapServer) Lispctl(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, s.binary("lispctl"), args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("lispctl %s: %w", args[0], err)
	}
	return nil
}

// Process is a server under test.
type Process struct {
	cmd    *exec.Cmd
	exited chan struct{}
}

// Start runs cmd, bound to one core unless cpu is less than 0. What it prints
// goes to the standard error.
func (p *Process) Start(cmd *exec.Cmd, cpu int) error {
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	if err := startOn(cmd, cpu); err != nil {
		return err
	}
	p.cmd, p.exited = cmd, make(chan struct{})
	go func() {
		cmd.Wait()
		close(p.exited)
	}()
	return nil
}

// startOn starts cmd from a thread that is bound to cpu, which it inherits.
func startOn(cmd *exec.Cmd, cpu int) error {
	if cpu < 0 {
		return cmd.Start()
	}
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before, only unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return err
	}
	only.Set(cpu)
	if err := unix.SchedSetaffinity(0, &only); err != nil {
		return fmt.Errorf("bind to core %d: %w", cpu, err)
	}
	return errors.Join(cmd.Start(), unix.SchedSetaffinity(0, &before))
}

// BindSelf binds all threads of this process to a core.
func BindSelf(cpu int) error {
	var only unix.CPUSet
	only.Set(cpu)
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	for _, t := range tasks {
		var tid int
		if _, err := fmt.Sscan(t.Name(), &tid); err != nil {
			return err
		}
		if err := unix.SchedSetaffinity(tid, &only); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("bind to core %d: %w", cpu, err)
		}
	}
	return nil
}

// Running explains why the process does not run, or returns nil.
func (p *Process) Running() error {
	select {
	case <-p.exited:
		return fmt.Errorf("%s ended: %v", filepath.Base(p.cmd.Path), p.cmd.ProcessState)
	default:
		return nil
	}
}

// Kill ends the process and those that it started, with SIGKILL, and waits until
// it is gone.
func (p *Process) Kill() {
	if p.cmd != nil && p.cmd.Process != nil {
		unix.Kill(-p.cmd.Process.Pid, unix.SIGKILL)
		<-p.exited
	}
}

// CPUTime returns how long the process and those that it started, and that run
// still, have kept a core busy.
func (p *Process) CPUTime() time.Duration {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	ticks := 0
	for _, path := range stats {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		// Behind the name, which may hold anything: state, parent, group ...
		fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
		if len(fields) > 12 && fields[2] == strconv.Itoa(p.cmd.Process.Pid) {
			user, _ := strconv.Atoi(fields[11])
			system, _ := strconv.Atoi(fields[12])
			ticks += user + system
		}
	}
	const hertz = 100 // USER_HZ, the same on all machines
	return time.Duration(ticks) * time.Second / hertz
}

// Memory returns the resident memory of the process in KiB: what it allocated,
// and the pages of files that the kernel may drop at any time.
func (p *Process) Memory() (anon, file int, err error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	for in := bufio.NewScanner(f); in.Scan(); {
		fields := strings.Fields(in.Text())
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "RssAnon:":
			fmt.Sscan(fields[1], &anon)
		case "RssFile:":
			fmt.Sscan(fields[1], &file)
		}
	}
	if anon == 0 {
		return 0, 0, errors.New("the kernel does not tell RssAnon")
	}
	return anon, file, nil
}

// Kernel names the kernel.
func Kernel() string {
	b, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return "unknown kernel"
	}
	return "Linux " + strings.TrimSpace(string(b))
}
