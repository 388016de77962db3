package tun

import (
	"os"
	"runtime/pprof"
)

func init() {
	if d := os.Getenv("EIDOLON_PROF"); d != "" && os.Getenv(childEnv) != "" {
		f, _ := os.CreateTemp(d, "cpu*.prof")
		pprof.StartCPUProfile(f)
		profStop = func() { pprof.StopCPUProfile(); f.Close() }
	}
}

var profStop = func() {}
