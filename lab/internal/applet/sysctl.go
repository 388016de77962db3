package applet

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// runSysctl implements sysctl [-n] [-q] [-w] KEY... | KEY=VALUE...
func runSysctl(_ context.Context, args []string, s Streams) error {
	quiet, bare := false, false
	for len(args) > 0 && strings.HasPrefix(args[0], "-") {
		switch args[0] {
		case "-w":
		case "-q":
			quiet = true
		case "-n":
			bare = true
		default:
			return usagef("option %s is not known here; usage: sysctl [-n] [-q] [-w] KEY | KEY=VALUE ...", args[0])
		}
		args = args[1:]
	}
	if len(args) == 0 {
		return usagef("usage: sysctl [-n] [-q] [-w] KEY | KEY=VALUE ...")
	}
	for _, arg := range args {
		key, value, set := strings.Cut(arg, "=")
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		var err error
		if set {
			err = SetSysctl(key, value)
		} else {
			value, err = sysctl(key)
		}
		if err != nil {
			return err
		}
		switch {
		case set && quiet:
		case bare:
			fmt.Fprintln(s.Out, value)
		default:
			fmt.Fprintf(s.Out, "%s = %s\n", key, value)
		}
	}
	return nil
}

// SetSysctl writes the kernel setting key. A dot separates the parts of the
// key; if the first separator is a slash, slashes separate and dots belong to
// names, as in net/ipv4/conf/eth0.5/forwarding.
func SetSysctl(key, value string) error {
	path, err := sysctlPath(key)
	if err != nil {
		return err
	}
	if err := os.WriteFile(path, []byte(value), 0o644); err != nil {
		return fmt.Errorf("set %s to %s: %w", key, value, err)
	}
	return nil
}

func sysctl(key string) (string, error) {
	path, err := sysctlPath(key)
	if err != nil {
		return "", err
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read %s: %w", key, err)
	}
	return strings.TrimSuffix(string(b), "\n"), nil
}

func sysctlPath(key string) (string, error) {
	rel := key
	if i := strings.IndexAny(key, "./"); i >= 0 && key[i] == '.' {
		rel = strings.NewReplacer(".", "/", "/", ".").Replace(key)
	}
	if !filepath.IsLocal(rel) {
		return "", usagef("%q is no name of a kernel setting", key)
	}
	return filepath.Join("/proc/sys", rel), nil
}
