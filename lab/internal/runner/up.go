package runner

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/eidolon-lisp/eidolon/lab/internal/applet"
	"github.com/eidolon-lisp/eidolon/lab/internal/clab"
)

// The names under which the program is the keeper, a node, or a test of what
// the machine allows.
const (
	keeperName = "lab-keeper"
	nodeName   = "lab-node"
	probeName  = "lab-probe"
)

// Internal runs the program in one of its other roles, if args (os.Args) name
// one: keeper, node, probe, or an applet. The caller ends with the status.
func Internal(args []string) (status int, internal bool) {
	name := filepath.Base(args[0])
	switch {
	case name == keeperName && len(args) == 2:
		return runKeeper(args[1]), true
	case name == nodeName:
		return runNode(), true
	case name == probeName && len(args) == 3:
		return runProbe(args[1], args[2] == "tun"), true
	case applet.Known(name):
		return applet.Main(name, args[1:]), true
	}
	return 0, false
}

// Options say how a topology is to be played.
type Options struct {
	Name     string                           // of the lab; "" for that of the topology
	Say      func(format string, args ...any) // hears what is being done; nil: nobody
	Binaries string                           // directory of programs to have in the nodes; "" for none
	Lifeline bool                             // the lab ends with this process, whatever ends it
}

// Up plays a topology and returns when its links are there and its exec lines
// have run. A failure leaves nothing behind.
func Up(ctx context.Context, top *clab.Topology, o Options) (*Lab, error) {
	say := o.Say
	if say == nil {
		say = func(string, ...any) {}
	}
	name := o.Name
	if name == "" {
		name = top.Name
	}
	if err := Preflight(top); err != nil {
		return nil, err
	}
	root, err := StateRoot()
	if err != nil {
		return nil, err
	}
	dir, lock, err := createDir(root, name, top)
	if err != nil {
		return nil, err
	}
	defer lock.Close() // the keeper has it too
	lab, err := start(ctx, top, dir, lock, name, o, say)
	if err != nil {
		log, _ := os.ReadFile(filepath.Join(dir, "keeper.log"))
		if rerr := os.RemoveAll(dir); rerr != nil {
			err = errors.Join(err, rerr)
		}
		if len(log) > 0 {
			err = fmt.Errorf("%w\nlog of the keeper:\n%s", err, log)
		}
		return nil, err
	}
	return lab, nil
}

func start(ctx context.Context, top *clab.Topology, dir string, lock *os.File, name string, o Options, say func(string, ...any)) (*Lab, error) {
	if err := installPrograms(dir, o.Binaries); err != nil {
		return nil, err
	}
	s := spec{Name: name, Topology: top, Lifeline: o.Lifeline, Started: time.Now()}
	if err := writeSpec(dir, s); err != nil {
		return nil, err
	}
	cmd := exec.Command(filepath.Join(dir, "bin", "lab"))
	cmd.Args = []string{keeperName, dir}
	cmd.SysProcAttr = namespaces()
	cmd.SysProcAttr.Setsid = true
	logFile, err := os.Create(filepath.Join(dir, "keeper.log"))
	if err != nil {
		return nil, fmt.Errorf("open the keeper's log: %w", err)
	}
	defer logFile.Close()
	cmd.Stdout, cmd.Stderr = logFile, logFile
	progressR, progressW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer progressR.Close()
	lifeR, lifeW, err := os.Pipe()
	if err != nil {
		progressW.Close()
		return nil, err
	}
	cmd.ExtraFiles = []*os.File{progressW, lock, lifeR}
	err = cmd.Start()
	progressW.Close()
	lifeR.Close()
	if err != nil {
		lifeW.Close()
		return nil, fmt.Errorf("start the keeper of the lab: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { progressR.Close() })
	err = follow(progressR, say)
	if !stop() {
		err = context.Cause(ctx)
	}
	s.Keeper = cmd.Process.Pid
	if err == nil {
		err = writeSpec(dir, s)
	}
	if err != nil {
		lifeW.Close()
		cmd.Process.Signal(syscall.SIGTERM)
		kill := time.AfterFunc(quitGrace+5*time.Second, func() { cmd.Process.Kill() })
		cmd.Wait()
		kill.Stop()
		return nil, err
	}
	if !o.Lifeline {
		lifeW.Close()
		lifeW = nil
	}
	go cmd.Wait() // if it ends before we do, it is collected
	return &Lab{Name: name, Dir: dir, Topology: top, Started: s.Started, keeper: s.Keeper, lifeline: lifeW}, nil
}

// follow passes the keeper's progress on until the lab is up.
func follow(r io.Reader, say func(string, ...any)) error {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		var p progress
		if err := json.Unmarshal(lines.Bytes(), &p); err != nil {
			return fmt.Errorf("follow the keeper: %w", err)
		}
		switch {
		case p.Error != "":
			return errors.New(p.Error)
		case p.Ready:
			return nil
		default:
			say("%s", p.Say)
		}
	}
	return errors.New("the keeper of the lab ended before the lab was up")
}

// installPrograms puts the programs that nodes are to have into the state
// directory: this one, those of binaries, and the applets as links to this.
func installPrograms(dir, binaries string) error {
	if err := copyProgram("/proc/self/exe", filepath.Join(dir, "bin", "lab")); err != nil {
		return fmt.Errorf("copy this program: %w", err)
	}
	for _, name := range applet.Names() {
		if err := os.Symlink("../bin/lab", filepath.Join(dir, "applets", name)); err != nil {
			return fmt.Errorf("link the applet %s: %w", name, err)
		}
	}
	if binaries == "" {
		return nil
	}
	entries, err := os.ReadDir(binaries)
	if err != nil {
		return fmt.Errorf("copy the programs: %w", err)
	}
	for _, e := range entries {
		if !e.Type().IsRegular() || e.Name() == "lab" {
			continue
		}
		from, to := filepath.Join(binaries, e.Name()), filepath.Join(dir, "bin", e.Name())
		if os.Link(from, to) == nil {
			continue
		}
		if err := copyProgram(from, to); err != nil {
			return fmt.Errorf("copy the programs: %w", err)
		}
	}
	return nil
}

func copyProgram(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if cerr := out.Close(); err == nil {
		err = cerr
	}
	return err
}

// Down ends a lab and removes its state. It waits until all is gone.
func (l *Lab) Down() error {
	if c, err := net.Dial("unix", filepath.Join(l.Dir, "keeper.sock")); err == nil {
		c.Close()
	} else if l.keeper > 0 && alive(l.Dir) {
		// While the keeper holds the lock its number is its own.
		syscall.Kill(l.keeper, syscall.SIGKILL)
	}
	if l.lifeline != nil {
		l.lifeline.Close()
	}
	for deadline := time.Now().Add(quitGrace + 5*time.Second); alive(l.Dir); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			if l.keeper <= 0 {
				return fmt.Errorf("lab %s does not end, and its keeper's process number is not known", l.Name)
			}
			syscall.Kill(l.keeper, syscall.SIGKILL)
			deadline = time.Now().Add(5 * time.Second)
			l.keeper = 0
		}
	}
	return removeState(filepath.Dir(l.Dir), l.Name)
}

// RemoveStale removes what a lab whose keeper is dead has left.
func RemoveStale(name string) error {
	root, err := StateRoot()
	if err != nil {
		return err
	}
	return removeState(root, name)
}

func removeState(root, name string) error {
	unlock, err := lockRoot(root)
	if err != nil {
		return err
	}
	defer unlock()
	dir := filepath.Join(root, name)
	if alive(dir) {
		return fmt.Errorf("lab %s is up", name)
	}
	if err := os.RemoveAll(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the state of lab %s: %w", name, err)
	}
	return nil
}
