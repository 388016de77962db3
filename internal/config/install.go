package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// What access(2) is asked.
const (
	wok = 2
	xok = 1
)

// Installable says why Install could not replace a file, nil if it could.
func Installable(path string) error {
	target, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	dir := filepath.Dir(target)
	if err := syscall.Access(dir, wok|xok); err != nil {
		return &fs.PathError{Op: "write", Path: dir, Err: err}
	}
	return nil
}

// Install replaces a file by one that holds text, whole or not at all, also when
// the machine stops meanwhile. The file keeps its mode, and its owner and group as
// far as the process may give them. Where path is a symbolic link, what it leads to
// is replaced.
func Install(path string, text []byte) (err error) {
	target, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	info, err := os.Stat(target)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", target)
	}
	dir := filepath.Dir(target)
	f, err := os.CreateTemp(dir, "."+filepath.Base(target)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close(), os.Remove(f.Name()))
		}
	}()
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		// The group first: it may be given by who may not give the owner.
		for _, chown := range [][2]int{{-1, int(st.Gid)}, {int(st.Uid), -1}} {
			if err := f.Chown(chown[0], chown[1]); err != nil && !errors.Is(err, fs.ErrPermission) {
				return err
			}
		}
	}
	if err := f.Chmod(info.Mode().Perm()); err != nil {
		return err
	}
	if _, err := f.Write(text); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), target); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
