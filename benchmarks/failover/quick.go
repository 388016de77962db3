package main

import "slices"

// quickCells are those of a quick run: each arm and each failure, with and
// without delay, and what would go on for minutes left out.
var quickCells = []cell{
	{"eidolon", "flap", 0},
	{"bgp-fast", "carrier", 0},
	{"eidolon", "carrier", 0},
	{"eidolon", "hole-in", 80},
	{"eidolon", "hole-out", 0},
	{"eidolon", "upstream", 0},
	{"eidolon", "address", 0},
	{"eidolon-pubsub", "carrier", 80},
	{"eidolon-pubsub", "hole-in", 0},
	{"bgp", "carrier", 0},
	{"bgp-fast", "hole-out", 0},
	{"mptcp", "hole-out", 80},
	{"single", "carrier", 0},
	{"eidolon", teName, 0},
	{"bgp", teName, 0},
}

// quickJobs keeps the runs of quickCells.
func quickJobs(jobs []plannedRun) []plannedRun {
	return slices.DeleteFunc(jobs, func(j plannedRun) bool {
		return !slices.Contains(quickCells, cell{j.Arm, j.Failure, j.RTT})
	})
}
