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

// fullPlan is everything, in less than two hours on two cores: the largest worlds, for
// which the others must say beforehand what they will be, are of 8,000 sites. A million
// paths take about a minute and a half, and a zone of 20 speakers has more than twice as
// many as one of 10, one of 40 five times as many: the largest of those is only of arm A.
func fullPlan(seed uint64) []job {
	var jobs []job
	add := func(j job) {
		j.Seed = seed
		jobs = append(jobs, j)
	}
	sizes := []int{500, 1000, 2000, 4000, 8000}
	for _, d := range []int{10, 20, 40} {
		for _, n := range sizes {
			for _, arm := range []string{measure.ArmPI, measure.ArmHoles, measure.ArmBest} {
				if arm != measure.ArmPI && d == 40 && n == 8000 {
					continue
				}
				j := job{Arm: arm, Speakers: d, Sites: n, Live: 24, MRAIs: []time.Duration{0}, Failures: 20, Restarts: 2}
				if n == 1000 && (arm == measure.ArmPI || arm == measure.ArmHoles && d == 20) {
					j.MRAIs = []time.Duration{0, 5 * time.Second, 30 * time.Second}
				}
				add(j)
			}
		}
	}
	for _, n := range sizes {
		m := &mappingJob{Victims: 6, Rest: 30 * time.Second, Zipf: []float64{0.6, 0.8, 1, 1.2}, Caches: []float64{1, 0.25}, Rate: 200, Load: 10 * time.Second, Flows: 400}
		if n == 1000 {
			m.Rest = 70 * time.Second // more than an interval of registrations
		}
		add(job{Arm: measure.ArmEidolon, Variant: measure.VariantAll, Speakers: 10, Sites: n, Live: 30, Mapping: m})
	}
	// Whatever the zone, it hears nothing of all that.
	for _, d := range []int{20, 40} {
		m := &mappingJob{Victims: 6, Rest: 10 * time.Second}
		add(job{Arm: measure.ArmEidolon, Variant: measure.VariantAll, Speakers: d, Sites: 1000, Live: 30, Mapping: m})
	}
	// What a change costs each way alone does not hang on how many sites there are;
	// two sizes show it.
	for _, n := range []int{500, 2000} {
		for _, v := range []string{measure.VariantSMR, measure.VariantPubSub, measure.VariantProbes} {
			add(job{Arm: measure.ArmEidolon, Variant: v, Speakers: 10, Sites: n, Live: 30, NoZone: true, Mapping: &mappingJob{Victims: 6, Rest: 30 * time.Second}})
		}
	}
	// That nobody has moved is arm A.
	for _, v := range []string{measure.VariantBlocks, measure.VariantOldPI} {
		for _, x := range []float64{0.1, 0.25, 0.5, 0.75, 0.9, 1} {
			add(job{Arm: measure.ArmMixed, Variant: v, Adoption: x, Speakers: 20, Sites: 1000, Live: 24, MRAIs: []time.Duration{0}, Failures: 6})
		}
	}
	return jobs
}
