package main

// mappingJob is what is measured of the mapping system.
type mappingJob struct{}
