package rig

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
)

// Commit names the state of the module in the working directory. Results that were
// written are no change of what is measured.
func Commit() string {
	out, err := exec.Command("git", "rev-parse", "--short=12", "HEAD").Output()
	if err != nil {
		return "unknown"
	}
	name := strings.TrimSpace(string(out))
	if err := exec.Command("git", "diff", "--quiet", "HEAD", "--", ":/", ":(exclude,top)benchmarks/results").Run(); err != nil {
		name += "-dirty"
	}
	return name
}

// Machine describes what was measured on.
func Machine() string {
	return fmt.Sprintf("%d cores of %s, %s, %s", runtime.NumCPU(), CPU(), Kernel(), runtime.Version())
}

// CPU is the name of the processor's model, or where the kernel tells none of its
// architecture.
func CPU() string {
	b, _ := os.ReadFile("/proc/cpuinfo")
	for l := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(l, ":"); ok && strings.TrimSpace(k) == "model name" {
			return strings.TrimSpace(v)
		}
	}
	return runtime.GOARCH
}
