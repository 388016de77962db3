//go:build race

package bpf

// manyPrefixes is less where each access of memory is watched.
const manyPrefixes = 50000
