//go:build !race

package bpf

// manyPrefixes is how many an Internet has, about.
const manyPrefixes = 900000
