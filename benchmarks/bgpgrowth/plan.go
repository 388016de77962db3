package main

import (
	"time"

	"github.com/eidolon-lisp/eidolon/benchmarks/bgpgrowth/measure"
)

// quickPlan is one small world of each kind. It measures as fullPlan does, in less
// than two minutes.
func quickPlan(seed uint64) []job {
	base := job{Speakers: 10, Sites: 60, Seed: seed, Live: 4, MRAIs: []time.Duration{0}, Failures: 3, Restarts: 1}
	var jobs []job
	for _, arm := range []string{measure.ArmPI, measure.ArmBest} {
		j := base
		j.Arm = arm
		jobs = append(jobs, j)
	}
	return jobs
}
