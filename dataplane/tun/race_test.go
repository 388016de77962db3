//go:build race

package tun

func init() { raceDetector = true }
