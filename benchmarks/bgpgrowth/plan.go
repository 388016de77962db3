package main

import (
	"time"

	"github.com/eidolon-lisp/eidolon/benchmarks/bgpgrowth/measure"
)

// quickPlan is one small world of each kind. It measures as fullPlan does, in less
// than two minutes.
func quickPlan(seed uint64) []job {
	base := job{Speakers: 10, Sites: 60, Seed: seed, Live: 4, MRAIs: []time.Duration{0}, Failures: 3}
	var jobs []job
	add := func(arm, variant string, change func(*job)) {
		j := base
		j.Arm, j.Variant = arm, variant
		if change != nil {
			change(&j)
		}
		jobs = append(jobs, j)
	}
	add(measure.ArmEidolon, measure.VariantAll, func(j *job) {
		j.Live = 8
		j.Mapping = &mappingJob{Victims: 2, Rest: 5 * time.Second, Zipf: []float64{1}, Caches: []float64{1, 0.5}, Rate: 100, Load: 2 * time.Second, Flows: 40}
	})
	add(measure.ArmPI, "", func(j *job) { j.Restarts = 1 })
	add(measure.ArmHoles, "", nil)
	add(measure.ArmBest, "", nil)
	for _, v := range []string{measure.VariantBlocks, measure.VariantOldPI} {
		add(measure.ArmMixed, v, func(j *job) { j.Adoption, j.Failures = 0.5, 1 })
	}
	return jobs
}

// fullPlan is everything. The largest numbers of sites are held out: the model does
// not see them before it has said what they will be.
func fullPlan(seed uint64) []job {
	var jobs []job
	add := func(j job) {
		j.Seed = seed
		jobs = append(jobs, j)
	}
	arms := []string{measure.ArmPI, measure.ArmHoles, measure.ArmBest}
	none := []time.Duration{0}
	for _, n := range []int{500, 1000, 2000, 4000, 8000} {
		for _, d := range []int{10, 20, 40} {
			if d > 10 && n > 4000 || d > 20 && n > 2000 {
				continue // a quarter of an hour each
			}
			for _, arm := range arms {
				j := job{Arm: arm, Speakers: d, Sites: n, Live: 24, MRAIs: none, Failures: 20, Restarts: 2}
				if n == 1000 {
					j.MRAIs = []time.Duration{0, 5 * time.Second, 30 * time.Second}
				}
				add(j)
			}
		}
	}
	return append(jobs, fullMapping(seed)...)
}

// fullMapping is the part of fullPlan with Eidolon.
func fullMapping(seed uint64) []job {
	var jobs []job
	for _, n := range []int{500, 1000, 2000, 4000, 8000} {
		for _, v := range []string{measure.VariantAll, measure.VariantSMR, measure.VariantPubSub, measure.VariantProbes} {
			m := &mappingJob{Victims: 6, Rest: 70 * time.Second}
			j := job{Arm: measure.ArmEidolon, Variant: v, Speakers: 10, Sites: n, Seed: seed, Live: 30, Mapping: m, NoZone: v != measure.VariantAll}
			if v == measure.VariantAll {
				m.Zipf, m.Caches = []float64{0.6, 0.8, 1, 1.2}, []float64{1, 0.25}
				m.Rate, m.Load, m.Flows = 200, 20*time.Second, 400
			} else if n > 2000 {
				continue // what a change costs does not hang on how many there are: seen up to here
			}
			jobs = append(jobs, j)
		}
	}
	for _, v := range []string{measure.VariantBlocks, measure.VariantOldPI} {
		for _, x := range []float64{0, 0.1, 0.25, 0.5, 0.75, 0.9, 1} {
			jobs = append(jobs, job{Arm: measure.ArmMixed, Variant: v, Adoption: x, Speakers: 20, Sites: 1000, Seed: seed, Live: 24, MRAIs: []time.Duration{0}, Failures: 10})
		}
	}
	return jobs
}
