package applet

import (
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// pin keeps this process on one CPU: the first, second and so on of those that
// it may use, counted from 0. Threads that it makes later inherit that.
func pin(n int) error {
	var allowed, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &allowed); err != nil {
		return fmt.Errorf("read the CPU affinity: %w", err)
	}
	if n >= allowed.Count() {
		return usagef("-A %d: there are %d CPUs, counted from 0", n, allowed.Count())
	}
	for cpu := 0; ; cpu++ {
		if !allowed.IsSet(cpu) {
			continue
		}
		if n--; n < 0 {
			one.Set(cpu)
			break
		}
	}
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return fmt.Errorf("set the CPU affinity: %w", err)
	}
	for _, t := range threads {
		tid, err := strconv.Atoi(t.Name())
		if err != nil {
			continue
		}
		if err := unix.SchedSetaffinity(tid, &one); err != nil && err != unix.ESRCH {
			return fmt.Errorf("set the CPU affinity: %w", err)
		}
	}
	return nil
}
