package runner

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/eidolon-lisp/eidolon/lab/internal/clab"
)

// spec is the content of lab.json: what the keeper is told.
type spec struct {
	Name     string
	Topology *clab.Topology
	Lifeline bool // end when the starter ends, and remove the state directory
	Keeper   int  // process number of the keeper, outside its namespace
	Started  time.Time
}

// Lab is a lab that is up, or was when it was opened.
type Lab struct {
	Name     string
	Dir      string // its state directory
	Topology *clab.Topology
	Started  time.Time

	keeper   int      // process number; 0 until it is known
	lifeline *os.File // of a lab that must not outlive this process
}

// ErrNotUp says that there is no lab of a name.
var ErrNotUp = errors.New("the lab is not up")

// StateRoot returns the directory that holds the states of this user's labs
// and creates it: $XDG_RUNTIME_DIR/eidolon-lab, or eidolon-lab-UID in the
// directory for temporary files, whichever first allows programs to be run.
func StateRoot() (string, error) {
	uid := os.Geteuid()
	var candidates []string
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" && ownedBy(dir, uid) {
		candidates = append(candidates, filepath.Join(dir, "eidolon-lab"))
	}
	candidates = append(candidates, filepath.Join(os.TempDir(), fmt.Sprintf("eidolon-lab-%d", uid)))
	for _, dir := range candidates {
		var st unix.Statfs_t
		if unix.Statfs(filepath.Dir(dir), &st) == nil && st.Flags&unix.ST_NOEXEC != 0 {
			continue
		}
		if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return "", fmt.Errorf("create the directory for the states of labs: %w", err)
		}
		info, err := os.Lstat(dir)
		if err != nil {
			return "", fmt.Errorf("look at the directory for the states of labs: %w", err)
		}
		if !info.IsDir() || info.Mode().Perm()&0o077 != 0 || !ownedBy(dir, uid) {
			return "", fmt.Errorf("%s must be a directory of user %d with mode 0700, and is not; remove it", dir, uid)
		}
		return dir, nil
	}
	return "", fmt.Errorf("no directory for the state of the lab allows programs to be run (mounted noexec): tried %v; set TMPDIR to one that does", candidates)
}

func ownedBy(path string, uid int) bool {
	info, err := os.Lstat(path)
	if err != nil {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == uid
}

// lockRoot serializes what creates and removes state directories.
func lockRoot(root string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(root, ".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", root, err)
	}
	if err := flock(f, unix.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", root, err)
	}
	return func() { f.Close() }, nil
}

func flock(f *os.File, how int) error {
	for {
		if err := unix.Flock(int(f.Fd()), how); err != unix.EINTR {
			return err
		}
	}
}

// alive tells whether the keeper of a state directory lives: it holds the lock.
func alive(dir string) bool {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	// A shared lock, so that two who ask do not take each other for a keeper.
	return flock(f, unix.LOCK_SH|unix.LOCK_NB) != nil
}

// List returns the labs that are up, by name. stale are the names of labs
// whose keeper died and left its state behind.
func List() (up []*Lab, stale []string, err error) {
	root, err := StateRoot()
	if err != nil {
		return nil, nil, err
	}
	entries, err := os.ReadDir(root)
	if err != nil {
		return nil, nil, fmt.Errorf("list labs: %w", err)
	}
	for _, e := range entries {
		if !e.IsDir() || e.Name()[0] == '.' {
			continue
		}
		lab, err := Open(e.Name())
		if err != nil {
			stale = append(stale, e.Name())
			continue
		}
		up = append(up, lab)
	}
	return up, stale, nil
}

// Open returns the lab called name, or ErrNotUp.
func Open(name string) (*Lab, error) {
	root, err := StateRoot()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(root, name)
	if !alive(dir) {
		return nil, fmt.Errorf("lab %s: %w", name, ErrNotUp)
	}
	return open(dir)
}

func open(dir string) (*Lab, error) {
	s, err := readSpec(dir)
	if err != nil {
		return nil, err
	}
	return &Lab{Name: s.Name, Dir: dir, Topology: s.Topology, Started: s.Started, keeper: s.Keeper}, nil
}

func readSpec(dir string) (spec, error) {
	var s spec
	b, err := os.ReadFile(filepath.Join(dir, "lab.json"))
	if err == nil {
		err = json.Unmarshal(b, &s)
	}
	if err != nil {
		return s, fmt.Errorf("read the state of the lab: %w", err)
	}
	return s, nil
}

func writeSpec(dir string, s spec) error {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("write the state of the lab: %w", err)
	}
	tmp := filepath.Join(dir, "lab.json.new")
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return fmt.Errorf("write the state of the lab: %w", err)
	}
	if err := os.Rename(tmp, filepath.Join(dir, "lab.json")); err != nil {
		return fmt.Errorf("write the state of the lab: %w", err)
	}
	return nil
}

// LogPath is the file with the output of a node's command.
func (l *Lab) LogPath(node string) string { return nodePath(l.Dir, node, "log") }

// KeeperLog is the file that says what went wrong in the keeper and the nodes.
func (l *Lab) KeeperLog() string { return filepath.Join(l.Dir, "keeper.log") }

// check says that a node is unknown, with the names that are known.
func (l *Lab) check(node string) error {
	if l.Topology.Node(node) == nil {
		names := l.Topology.NodeNames()
		slices.Sort(names)
		return fmt.Errorf("lab %s has no node %q; nodes are %v", l.Name, node, names)
	}
	return nil
}

func nodePath(dir, node, file string) string { return filepath.Join(dir, "nodes", node, file) }

// maxSocketPath is what fits into a socket address.
const maxSocketPath = 107

// createDir makes the state directory of a new lab and returns its lock, held.
// The state of one whose keeper is dead gives way; that of one that is up does
// not.
func createDir(root, name string, top *clab.Topology) (dir string, lock *os.File, err error) {
	unlock, err := lockRoot(root)
	if err != nil {
		return "", nil, err
	}
	defer unlock()
	dir = filepath.Join(root, name)
	if alive(dir) {
		return "", nil, fmt.Errorf("lab %s is up already; take it down first: lab down %s", name, name)
	}
	if err := os.RemoveAll(dir); err != nil {
		return "", nil, fmt.Errorf("remove the state of a lab that died: %w", err)
	}
	for _, d := range []string{dir, filepath.Join(dir, "bin"), filepath.Join(dir, "applets"), filepath.Join(dir, "nodes")} {
		if err := os.Mkdir(d, 0o700); err != nil {
			return "", nil, fmt.Errorf("create the state of the lab: %w", err)
		}
	}
	for _, n := range top.Nodes {
		if p := nodePath(dir, n.Name, "socket"); len(p) > maxSocketPath {
			return "", nil, fmt.Errorf("%s is longer than a socket's name may be (%d); choose shorter names or a shorter TMPDIR", p, maxSocketPath)
		}
		if err := os.MkdirAll(nodePath(dir, n.Name, "root"), 0o700); err != nil {
			return "", nil, fmt.Errorf("create the state of the lab: %w", err)
		}
	}
	lock, err = os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err == nil {
		err = flock(lock, unix.LOCK_EX) // at most, somebody is just asking for it
	}
	if err != nil {
		return "", nil, fmt.Errorf("lock the state of the lab: %w", err)
	}
	return dir, lock, nil
}
